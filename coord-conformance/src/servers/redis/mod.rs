//! Redis servers.

mod options;
mod wire;

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use url::Url;

use self::wire::Connection;
pub use self::{options::RedisOptions, wire::Reply};
#[cfg(feature = "containers")]
use super::container::{self, Container};
use super::{
    Unavailable,
    clock::ServerClock,
    folder,
    node::{self, Node},
    process::{Guard, Plan, Process},
    program, tls,
};

/// The URL of a server to use instead of starting one.
const GIVEN: &str = "COORD_TEST_REDIS_URL";

/// Where it listens in a container.
#[cfg(feature = "containers")]
const CONTAINER_PORT: u16 = 6379;
/// Its configuration in a container.
#[cfg(feature = "containers")]
const CONTAINER_FILE: &str = "/tmp/redis.conf";

/// A Redis server. One that was started ends, and its folder is removed, when this is dropped or when this process ends,
/// however it ends.
#[derive(Debug)]
pub struct Redis {
    node: Node,
    /// With the default user's password.
    url: Url,
    clock: Option<ServerClock>,
}

impl Redis {
    /// A server as [the module](super) says.
    ///
    /// # Errors
    /// If there is none, or it does not start.
    pub fn start(options: &RedisOptions) -> Result<Self, Unavailable> {
        if let Some(url) = node::given(GIVEN)?.filter(|_| *options == RedisOptions::default()) {
            return Ok(Self { node: Node::Given, url, clock: None });
        }
        if options.clock {
            ServerClock::available()?;
        }
        match program::find("redis-server", &[], "redis-server") {
            Ok(program) => Self::run(options, &program)
                .map_err(|error| Unavailable::broken(format!("redis-server: {error}"))),
            Err(no_program) => Self::contain(options, &no_program),
        }
    }

    #[cfg(not(feature = "containers"))]
    fn contain(_: &RedisOptions, no_program: &Unavailable) -> Result<Self, Unavailable> {
        Err(node::no_containers(no_program))
    }

    #[cfg(feature = "containers")]
    fn contain(options: &RedisOptions, no_program: &Unavailable) -> Result<Self, Unavailable> {
        if options.tls {
            return Err(Unavailable::new(format!("{no_program}; TLS in a container is not offered")));
        }
        if options.clock {
            return Err(Unavailable::new(format!("{no_program}; a clock in a container is not offered")));
        }
        let mut configuration = options.configuration(CONTAINER_PORT);
        configuration.push_str("protected-mode no\n");
        let container = Container::start(container::Plan {
            kind: "redis",
            variable: "COORD_TEST_REDIS_IMAGE",
            image: "redis:7",
            port: CONTAINER_PORT,
            environment: Vec::new(),
            files: vec![(CONTAINER_FILE, configuration)],
            command: vec!["redis-server".into(), CONTAINER_FILE.into()],
        });
        let container = container.map_err(|error| Unavailable::new(format!("{no_program}; {error}")))?;
        let broken = |error: io::Error| Unavailable::broken(format!("redis in a container: {error}"));
        let url = options.url(container.port()).map_err(broken)?;
        let server = Self { node: Node::Container(container), url, clock: None };
        server.until_ready().map_err(broken)?;
        Ok(server)
    }

    fn run(options: &RedisOptions, program: &Path) -> io::Result<Self> {
        node::on_a_free_port(|port| {
            let folder = folder::create("redis", None)?;
            // From here on the folder is looked after, until the server's own supervisor does.
            let guard = Guard::new(&folder, None)?;
            let mut configuration = options.configuration(port.number());
            let _ = writeln!(configuration, "bind 127.0.0.1\nunixsocket {}", socket(&folder).display());
            folder::write(&folder.join("redis.conf"), &configuration, None)?;
            if options.tls {
                tls::write(&folder, None)?;
            }
            let url = options.url(port.number())?;
            let clock = options.clock.then(|| ServerClock::install(&folder, None)).transpose()?;
            let mut command = if clock.is_some() { ServerClock::before(&folder).into() } else { Vec::new() };
            command.extend([program.into(), "redis.conf".into()]);
            let process = Process::start(Plan { folder, command, owner: None, end: Signal::SIGKILL })?;
            guard.leave()?;
            let server = Self { node: Node::Program(process, port), url, clock };
            server.until_ready()?;
            Ok(server)
        })
    }

    /// The URL for the default user, with the password if there is one: `redis://127.0.0.1:<port>`, or `rediss://` if it
    /// speaks TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// The URL for this user.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        node::with_user(&self.url, user, password)
    }

    /// The port on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(6379)
    }

    /// The socket on which it listens too, if it is a program of this host.
    #[must_use]
    pub fn socket(&self) -> Option<PathBuf> {
        self.node.folder().map(socket)
    }

    /// The certificate of the authority that signed the server's, if the server was started with TLS.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        self.node.folder().map(|folder| folder.join(tls::AUTHORITY)).filter(|path| path.exists())
    }

    /// Its clock, if it was started with one that can be stepped.
    #[must_use]
    pub fn clock(&self) -> Option<&ServerClock> {
        self.clock.as_ref()
    }

    /// The server's process id, if it is a program of this host.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.node.pid()
    }

    /// Stops it in its tracks: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// If it has ended, or was given by a URL.
    pub fn stop(&self) -> io::Result<()> {
        self.node.stop()
    }

    /// Lets a stopped server go on.
    ///
    /// # Errors
    /// If it has ended, or was given by a URL.
    pub fn resume(&self) -> io::Result<()> {
        self.node.resume()
    }

    /// Kills it, and waits for its end. Its folder and its port stay reserved for [`Redis::restart`].
    ///
    /// # Errors
    /// If it was given by a URL.
    pub fn kill(&self) -> io::Result<()> {
        self.node.kill()
    }

    /// Kills it if it runs, and starts it again in the same folder and on the same port.
    ///
    /// # Errors
    /// If it does not start, or was given by a URL.
    pub fn restart(&mut self) -> io::Result<()> {
        self.node.restart()?;
        self.until_ready()
    }

    /// Sends one command as the default user, on a connection of its own.
    ///
    /// # Errors
    /// If it cannot be reached or answers an error; the server's own errors are of kind `Other`.
    pub fn command(&self, command: &[&str]) -> io::Result<Reply> {
        let mut connection = self.connect()?;
        if let Some(password) = self.url.password() {
            let user = if self.url.username().is_empty() { "default" } else { self.url.username() };
            connection.ask(&["AUTH", &node::decode(user), &node::decode(password)])?;
        }
        connection.ask(command)
    }

    /// How often each command was called since the server started or `CONFIG RESETSTAT`, by its name in small letters.
    /// Commands that a script calls are counted too.
    ///
    /// # Errors
    /// As of [`Redis::command`].
    pub fn calls(&self) -> io::Result<BTreeMap<String, u64>> {
        let info = self.command(&["INFO", "commandstats"])?;
        let line = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Ok(info.text().lines().filter_map(line).collect())
    }

    fn connect(&self) -> io::Result<Connection> {
        match self.socket() {
            Some(socket) => Connection::unix(&socket),
            None if self.url.scheme() == "redis" => {
                Connection::tcp(self.url.host_str().unwrap_or_default(), self.port())
            }
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "the suite does not speak TLS itself")),
        }
    }

    /// Waits until it answers. A program answers on a socket in its own folder, so that it is no other server.
    fn until_ready(&self) -> io::Result<()> {
        let ready = || match self.connect().and_then(|mut connection| connection.ask(&["PING"])) {
            Ok(_) => true,
            Err(error) => error.to_string().starts_with("NOAUTH"),
        };
        self.node.until_ready(ready)
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("redis.sock")
}
