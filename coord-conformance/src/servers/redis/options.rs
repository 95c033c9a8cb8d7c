//! How a Redis server is to be.

use std::{fmt::Write, io};

use url::Url;

use super::super::{node, tls};

/// How a Redis server is to be. The default keeps nothing on disk and lets everyone in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Whether it has to be a server that the test may stop, kill and change. Every other option implies it.
    pub own: bool,
    /// Whether it speaks TLS, and nothing else.
    pub tls: bool,
    /// Whether its clock can be stepped.
    pub clock: bool,
    /// The password of the default user.
    pub password: Option<String>,
    /// Further users: a name and its rules, as in `ACL SETUSER`.
    pub users: Vec<(String, String)>,
    /// Lines of `redis.conf`: a name and its value.
    pub settings: Vec<(String, String)>,
}

impl RedisOptions {
    /// With a server that the test may stop, kill and change; never the one of `COORD_TEST_REDIS_URL`.
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

    /// With TLS, and no port without it.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With a password of the default user.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// With one more user; the rules are those of `ACL SETUSER`, such as `on >secret ~* &* +@read`.
    #[must_use]
    pub fn with_user(mut self, name: impl Into<String>, rules: impl Into<String>) -> Self {
        self.users.push((name.into(), rules.into()));
        self
    }

    /// With a line of `redis.conf`, such as `maxmemory-policy` and `allkeys-lru`.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// With an append-only file that is written to disk before each reply, so that a restart keeps everything.
    #[must_use]
    pub fn with_append_only(self) -> Self {
        self.with_setting("appendonly", "yes").with_setting("appendfsync", "always")
    }
}

impl RedisOptions {
    pub(super) fn configuration(&self, port: u16) -> String {
        let mut text = if self.tls {
            let [authority, certificate, key] = [tls::AUTHORITY, tls::CERTIFICATE, tls::KEY];
            format!(
                "port 0\ntls-port {port}\ntls-auth-clients no\n\
                 tls-ca-cert-file {authority}\ntls-cert-file {certificate}\ntls-key-file {key}\n"
            )
        } else {
            format!("port {port}\n")
        };
        text.push_str("save \"\"\n");
        if let Some(password) = &self.password {
            let _ = writeln!(text, "requirepass {password:?}");
        }
        for (name, rules) in &self.users {
            let _ = writeln!(text, "user {name} {rules}");
        }
        for (name, value) in &self.settings {
            let _ = writeln!(text, "{name} {value}");
        }
        text
    }

    pub(super) fn url(&self, port: u16) -> io::Result<Url> {
        let scheme = if self.tls { "rediss" } else { "redis" };
        let url = Url::parse(&format!("{scheme}://127.0.0.1:{port}")).map_err(io::Error::other)?;
        match &self.password {
            Some(password) => {
                Url::parse(&node::with_user(&url, "default", password)).map_err(io::Error::other)
            }
            None => Ok(url),
        }
    }
}
