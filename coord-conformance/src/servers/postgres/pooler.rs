//! PgBouncer, which stands between clients and a Postgres server.

use std::{io, path::Path};

use nix::sys::signal::Signal;
use url::Url;

use super::{
    super::{
        Unavailable,
        folder::{self, Owner},
        node::{self, Node},
        process::{Guard, Plan, Process},
        program,
    },
    PASSWORD, POSTGRES, Postgres,
};

/// A pooler in front of a server. It ends, and its folder is removed, as a server's.
#[derive(Debug)]
pub struct PgBouncer {
    _node: Node,
    url: Url,
}

impl PgBouncer {
    /// A pooler in front of this server, for the user who may do everything. The settings are lines of its section
    /// `[pgbouncer]`, such as `pool_mode` and `transaction`.
    ///
    /// # Errors
    /// If there is no program `pgbouncer`, or it does not start.
    pub fn start(server: &Postgres, settings: &[(&str, &str)]) -> Result<Self, Unavailable> {
        let program = program::find("pgbouncer", &[], "pgbouncer")?;
        // It refuses to run as root.
        let owner = Owner::not_root(&[POSTGRES, "nobody"])?;
        Self::run(server, settings, &program, owner)
            .map_err(|error| Unavailable::broken(format!("pgbouncer: {error}")))
    }

    fn run(
        server: &Postgres,
        settings: &[(&str, &str)],
        program: &Path,
        owner: Option<Owner>,
    ) -> io::Result<Self> {
        node::on_a_free_port(|port| {
            let folder = folder::create("pgbouncer", owner)?;
            let guard = Guard::new(&folder, owner)?;
            let mut text = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = users\n",
                server.port(),
                port.number()
            );
            settings.iter().for_each(|(name, value)| text.push_str(&format!("{name} = {value}\n")));
            folder::write(&folder.join("pgbouncer.ini"), &text, owner)?;
            folder::write(&folder.join("users"), &format!("\"{POSTGRES}\" \"{PASSWORD}\"\n"), owner)?;
            let command = vec![program.into(), "pgbouncer.ini".into()];
            let process = Process::start(Plan { folder, command, owner, end: Signal::SIGKILL })?;
            guard.leave()?;
            let url = super::url(port.number())?;
            let node = Node::Program(process, port);
            let number = url.port().unwrap_or_default();
            node.until_ready(|| super::speaks_postgres(number).unwrap_or(false))?;
            Ok(Self { _node: node, url })
        })
    }

    /// The URL for the user who may do everything.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.to_string()
    }
}
