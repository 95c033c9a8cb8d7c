//! Postgres servers.

mod options;
mod pooler;
mod template;

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use url::Url;

use self::template::{Template, template};
pub use self::{options::PostgresOptions, pooler::PgBouncer};
#[cfg(feature = "containers")]
use super::container::{self, Container};
use super::{
    Unavailable,
    clock::ServerClock,
    folder,
    node::{self, Node},
    process::{Guard, Plan, Process},
    tls,
};

/// The URL of a server to use instead of starting one.
const GIVEN: &str = "COORD_TEST_POSTGRES_URL";
/// The name of the database and of the user who may do everything.
const POSTGRES: &str = "postgres";
/// That user's password.
const PASSWORD: &str = "secret";

/// A Postgres server. One that was started ends, and its folder is removed, when this is dropped or when this process
/// ends, however it ends.
#[derive(Debug)]
pub struct Postgres {
    node: Node,
    url: Url,
    programs: PathBuf,
    clock: Option<ServerClock>,
}

impl Postgres {
    /// A server as [the module](super) says.
    ///
    /// # Errors
    /// If there is none, or it does not start.
    pub fn start(options: &PostgresOptions) -> Result<Self, Unavailable> {
        if let Some(url) = node::given(GIVEN)?.filter(|_| *options == PostgresOptions::default()) {
            return Ok(Self { node: Node::Given, url, programs: PathBuf::new(), clock: None });
        }
        if options.clock {
            ServerClock::available()?;
        }
        match template() {
            Ok(template) => Self::run(options, template)
                .map_err(|error| Unavailable::broken(format!("postgres: {error}"))),
            Err(broken) if broken.is_broken() => Err(broken),
            Err(no_program) => Self::contain(options, &no_program),
        }
    }

    fn run(options: &PostgresOptions, template: &Template) -> io::Result<Self> {
        node::on_a_free_port(|port| {
            let folder = folder::create(POSTGRES, template.owner)?;
            // From here on the folder is looked after, until the server's own supervisor does.
            let guard = Guard::new(&folder, template.owner)?;
            template.copy(&folder)?;
            options.configure(&folder, port.number(), template.owner)?;
            template.prepare(&folder, &options.preparation())?;
            let url = url(port.number())?;
            let clock = options.clock.then(|| ServerClock::install(&folder, template.owner)).transpose()?;
            let mut command = if clock.is_some() { ServerClock::before(&folder).into() } else { Vec::new() };
            command.extend([template.programs.join("postgres").into(), "-D".into(), "data".into()]);
            // Quitting ends all its processes at once and removes its shared memory; killing does not.
            let plan = Plan { folder, command, owner: template.owner, end: Signal::SIGQUIT };
            let process = Process::start(plan)?;
            guard.leave()?;
            let programs = template.programs.clone();
            let server = Self { node: Node::Program(process, port), url, programs, clock };
            server.until_ready()?;
            Ok(server)
        })
    }

    #[cfg(not(feature = "containers"))]
    fn contain(_: &PostgresOptions, no_program: &Unavailable) -> Result<Self, Unavailable> {
        Err(node::no_containers(no_program))
    }

    #[cfg(feature = "containers")]
    fn contain(options: &PostgresOptions, no_program: &Unavailable) -> Result<Self, Unavailable> {
        if options.tls {
            return Err(Unavailable::new(format!("{no_program}; TLS in a container is not offered")));
        }
        if options.clock {
            return Err(Unavailable::new(format!("{no_program}; a clock in a container is not offered")));
        }
        let settings = options.settings().into_iter();
        let settings = settings.flat_map(|(name, value)| ["-c".into(), format!("{name}={value}")]);
        let container = Container::start(container::Plan {
            kind: POSTGRES,
            variable: "COORD_TEST_POSTGRES_IMAGE",
            image: "postgres:17",
            port: 5432,
            environment: vec![("POSTGRES_PASSWORD", PASSWORD.into())],
            files: Vec::new(),
            command: std::iter::once(POSTGRES.to_owned()).chain(settings).collect(),
        });
        let container = container.map_err(|error| Unavailable::new(format!("{no_program}; {error}")))?;
        let start = || {
            let url = url(container.port())?;
            let node = Node::Container(container);
            let server = Self { node, url, programs: PathBuf::new(), clock: None };
            server.until_ready()?;
            for statement in options.preparation() {
                server.query(&statement)?;
            }
            Ok(server)
        };
        start().map_err(|error: io::Error| Unavailable::broken(format!("postgres in a container: {error}")))
    }

    /// The URL for the user who may do everything.
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
        self.url.port().unwrap_or(5432)
    }

    /// The folder with its socket, if it is a program of this host.
    #[must_use]
    pub fn socket_folder(&self) -> Option<PathBuf> {
        self.node.folder().map(Path::to_owned)
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

    /// The process id of the server's first process, if it is a program of this host.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.node.pid()
    }

    /// Stops all its processes in their tracks: they keep their connections and answer nothing.
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

    /// Kills it, and waits for the end of all its processes. Its folder and its port stay reserved for
    /// [`Postgres::restart`].
    ///
    /// # Errors
    /// If it was given by a URL.
    pub fn kill(&self) -> io::Result<()> {
        self.node.kill()?;
        if let Some(folder) = self.node.folder() {
            remove_shared_memory(folder);
        }
        Ok(())
    }

    /// Kills it if it runs, and starts it again in the same folder and on the same port.
    ///
    /// # Errors
    /// If it does not start, or was given by a URL.
    pub fn restart(&mut self) -> io::Result<()> {
        self.node.restart()?;
        self.until_ready()
    }

    /// Runs statements as the user who may do everything, by the program `psql`, and returns the rows as lines whose
    /// values are parted by `|`.
    ///
    /// # Errors
    /// If there is no `psql`, the server cannot be reached, or a statement fails.
    pub fn query(&self, statements: &str) -> io::Result<String> {
        let mut url = self.url.clone();
        if let Some(folder) = self.node.folder() {
            // Not by TCP, which may want TLS.
            url.query_pairs_mut().append_pair("host", &folder.to_string_lossy());
        }
        let arguments = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", statements];
        #[cfg(feature = "containers")]
        if let Node::Container(container) = &self.node {
            let user = ["psql", "-U", POSTGRES];
            return container.run(user.iter().chain(&arguments).map(|word| (*word).to_owned()).collect());
        }
        let mut command = Command::new(program_in(&self.programs, "psql"));
        // The password does not belong among the arguments, which everybody on the host can read.
        command.env("PGPASSWORD", self.url.password().map(node::decode).unwrap_or_default());
        let _ = url.set_password(None);
        let output = command.args(arguments).arg(url.as_str()).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// Waits until it takes connections. A program says so in its own folder, so that it is no other server.
    fn until_ready(&self) -> io::Result<()> {
        match (&self.node, self.node.folder()) {
            (Node::Program(process, _), Some(folder)) => {
                let state = folder.join("data/postmaster.pid");
                self.node.until_ready(|| {
                    let state = std::fs::read_to_string(&state).unwrap_or_default();
                    let lines: Vec<_> = state.lines().map(str::trim).collect();
                    // A killed server leaves the file of its own.
                    let own = lines.first().is_some_and(|id| *id == process.id().to_string());
                    own && lines.get(7) == Some(&"ready")
                })
            }
            // While an image prepares its data, its server answers within the container only; and the server to stay answers
            // before it takes connections.
            _ => self.node.until_ready(|| {
                speaks_postgres(self.port()).unwrap_or(false) && self.query("SELECT 1").is_ok()
            }),
        }
    }
}

fn url(port: u16) -> io::Result<Url> {
    let url = format!("postgres://{POSTGRES}:{PASSWORD}@127.0.0.1:{port}/{POSTGRES}");
    Url::parse(&url).map_err(io::Error::other)
}

/// Whether a Postgres server answers here, by its protocol's question whether it speaks TLS.
fn speaks_postgres(port: u16) -> io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(matches!(&answer, b"S" | b"N"))
}

fn program_in(folder: &Path, name: &str) -> PathBuf {
    let there = folder.join(name);
    if there.exists() { there } else { name.into() }
}

/// A killed server leaves a segment of System V's shared memory, which is named in the file that it leaves too.
fn remove_shared_memory(folder: &Path) {
    let state = std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
    if let Some(id) = state.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
        // The next start does without it.
        let _ = Command::new("ipcrm").args(["-m", id]).output();
    }
}
