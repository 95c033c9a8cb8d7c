//! How a Postgres server is to be.

use std::{fmt::Write, io, path::Path};

use super::super::{
    folder::{self, Owner},
    tls,
};

/// How a Postgres server is to be. The default writes to files, and does not wait for the disk: it survives being killed,
/// and not a loss of power.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresOptions {
    /// Whether it has to be a server that the test may stop, kill and change. Every other option implies it.
    pub own: bool,
    /// Whether it speaks TLS, and nothing else, with clients that come by TCP.
    pub tls: bool,
    /// Whether its clock can be stepped.
    pub clock: bool,
    /// Whether a commit waits for the disk.
    pub fsync: bool,
    /// Further users, who may log in and have no rights but those of everyone: a name and a password.
    pub roles: Vec<(String, String)>,
    /// Statements that run before the server starts, such as `GRANT CREATE ON DATABASE postgres TO user`.
    pub statements: Vec<String>,
    /// Lines of `postgresql.conf`: a name and its value.
    pub settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// With a server that the test may stop, kill and change; never the one of `COORD_TEST_POSTGRES_URL`.
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

    /// With TLS, and no connections by TCP without it.
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// With commits that wait for the disk.
    #[must_use]
    pub fn with_fsync(mut self) -> Self {
        self.fsync = true;
        self
    }

    /// With one more user, who may log in and has no rights but those of everyone.
    #[must_use]
    pub fn with_role(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.roles.push((name.into(), password.into()));
        self
    }

    /// With a statement that runs before the server starts, after the users are made.
    #[must_use]
    pub fn with_statement(mut self, statement: impl Into<String>) -> Self {
        self.statements.push(statement.into());
        self
    }

    /// With a line of `postgresql.conf`, such as `shared_preload_libraries` and `pg_stat_statements`.
    #[must_use]
    pub fn with_setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

impl PostgresOptions {
    pub(super) fn configure(&self, folder: &Path, port: u16, owner: Option<Owner>) -> io::Result<()> {
        let data = folder.join("data");
        let mut settings = self.settings();
        settings.push(("listen_addresses".into(), "127.0.0.1".into()));
        settings.push(("port".into(), port.to_string()));
        settings.push(("unix_socket_directories".into(), folder.display().to_string()));
        if self.tls {
            settings.push(("ssl".into(), "on".into()));
            settings.push(("ssl_cert_file".into(), folder.join(tls::CERTIFICATE).display().to_string()));
            settings.push(("ssl_key_file".into(), folder.join(tls::KEY).display().to_string()));
            tls::write(folder, owner)?;
        }
        let mut text = String::new();
        for (name, value) in settings {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        folder::write(&data.join("postgresql.conf"), &text, owner)?;
        let host = if self.tls { "hostssl" } else { "host" };
        let access = format!("local all all scram-sha-256\n{host} all all 127.0.0.1/32 scram-sha-256\n");
        folder::write(&data.join("pg_hba.conf"), &access, owner)
    }

    /// What does not depend on the place; what the test asks for comes last, and counts.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let own = [
            // Connections are cheap in a test.
            ("max_connections", "300"),
            ("shared_buffers", "32MB"),
            // Shared memory outside of the folder could be left behind.
            ("dynamic_shared_memory_type", "mmap"),
            ("fsync", if self.fsync { "on" } else { "off" }),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        own.into_iter().chain(self.settings.iter().cloned()).collect()
    }

    /// Statements that make the users, and those of the test.
    pub(super) fn preparation(&self) -> Vec<String> {
        let roles = self.roles.iter().map(|(name, password)| {
            let [name, password] = [name.replace('"', "\"\""), password.replace('\'', "''")];
            format!("CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'")
        });
        roles.chain(self.statements.iter().cloned()).collect()
    }
}
