//! How a ZooKeeper server is to be.

use std::{fmt::Write, net::Ipv4Addr};

/// How a ZooKeeper server is to be. The default has a tick of 100 ms, keeps sessions between 200 ms and a day, takes requests
/// of up to [`ZooKeeperOptions::MAX_PACKET`] bytes, and lets everyone in.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ZooKeeperOptions {
    /// Whether it has to be a server that the test may stop, kill and change. Every other option implies it.
    pub own: bool,
    /// Whether it has a second port, on which it speaks TLS.
    pub tls: bool,
    /// Whether its clock can be stepped.
    pub clock: bool,
    /// Lines of `zoo.cfg`: a name and its value. They come after the harness's own, and the last of a name counts.
    pub settings: Vec<(String, String)>,
    /// Properties of the Java machine, such as `jute.maxbuffer`.
    pub properties: Vec<(String, String)>,
}

impl Default for ZooKeeperOptions {
    fn default() -> Self {
        let property = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Self {
            own: false,
            tls: false,
            clock: false,
            settings: Vec::new(),
            properties: vec![
                // Folders that are empty go within a second, not within minutes.
                property("znode.container.checkIntervalMs", "300"),
                // Files of the log grow by so many kilobytes.
                property("zookeeper.preAllocSize", "256"),
                // The greatest batches of all backends fit in, with what is stored of them twice.
                property("jute.maxbuffer", &Self::MAX_PACKET.to_string()),
            ],
        }
    }
}

impl ZooKeeperOptions {
    /// The largest request, in bytes. Servers as they come take less: 1,048,575.
    pub const MAX_PACKET: usize = 8 * 1024 * 1024;

    /// With a server that the test may stop, kill and change; never the one of `COORD_TEST_ZOOKEEPER_URL`.
    #[must_use]
    pub fn with_own(mut self) -> Self {
        self.own = true;
        self
    }

    /// With a [clock](crate::servers::ServerClock) that the test may step.
    #[must_use]
    pub fn with_clock(mut self) -> Self {
        self.clock = true;
        self
    }

    /// With a second port, on which it speaks TLS.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With a line of `zoo.cfg`, such as `tickTime` and `2000`.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// With a property of the Java machine, such as `jute.maxbuffer` and `4194304`.
    #[must_use]
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    pub(super) fn configuration(&self, host: Ipv4Addr, port: u16) -> String {
        let mut settings: Vec<(String, String)> = [
            ("tickTime", "100"),
            ("initLimit", "100"),
            ("syncLimit", "20"),
            ("maxSessionTimeout", "86400000"),
            ("maxClientCnxns", "0"),
            ("admin.enableServer", "false"),
            ("4lw.commands.whitelist", "*"),
            // Nothing here has to survive a loss of power; a killed server loses nothing by it.
            ("forceSync", "no"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in &self.settings {
            settings.retain(|(known, _)| known != name);
            settings.push((name.clone(), value.clone()));
        }
        let mut text = format!("clientPort={port}\nclientPortAddress={host}\n");
        for (name, value) in settings {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name}={value}");
        }
        text
    }
}
