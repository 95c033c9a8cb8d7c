//! ZooKeeper servers.

mod ensemble;
mod java;
mod options;

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use nix::sys::signal::Signal;

pub use self::{ensemble::ZooKeeperEnsemble, options::ZooKeeperOptions};
use super::{
    Unavailable,
    clock::ServerClock,
    folder,
    namespaces::Network,
    network::Port,
    node::{self, Node},
    process::{Guard, Plan, Process},
    tls,
};

/// The URL of a server or an ensemble to use instead of starting one.
const GIVEN: &str = "COORD_TEST_ZOOKEEPER_URL";

/// How long one answer of a server to the harness may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// That of one that starts: it may take a connection before it can answer, and never does then.
const SOON: Duration = Duration::from_millis(500);

/// A ZooKeeper server. One that was started ends, and its folder is removed, when this is dropped or when this process ends,
/// however it ends.
#[derive(Debug)]
pub struct ZooKeeper {
    node: Node,
    /// Without a path: `zk://host:port`.
    url: String,
    host: Ipv4Addr,
    port: u16,
    /// On which it speaks TLS.
    secure: Option<Port>,
    clock: Option<ServerClock>,
}

/// Which one of several it is.
#[derive(Clone, Copy)]
struct Member<'a> {
    /// From one.
    id: usize,
    /// Where each is on a host of its own.
    network: Option<&'a Network>,
}

impl ZooKeeper {
    /// A server as [the module](super) says.
    ///
    /// # Errors
    /// If there is none, or it does not start.
    pub fn start(options: &ZooKeeperOptions) -> Result<Self, Unavailable> {
        if *options == ZooKeeperOptions::default()
            && let Some(url) = given()?
        {
            let host = Ipv4Addr::LOCALHOST;
            return Ok(Self { node: Node::Given, url, host, port: 0, secure: None, clock: None });
        }
        let java = java(options)?;
        let run = |port: Port| {
            let number = port.number();
            Self::run(&java, options, port, &options.configuration(Ipv4Addr::LOCALHOST, number))
        };
        node::on_a_free_port(run).map_err(|error| Unavailable::broken(format!("zookeeper: {error}")))
    }

    /// One server for all tests of this process, which start in seconds each and need no server of their own: each uses a
    /// [fresh place](ZooKeeper::fresh) in it. Nobody stops or kills it.
    ///
    /// # Errors
    /// As of [`ZooKeeper::start`].
    pub fn shared() -> Result<&'static Self, Unavailable> {
        static SHARED: OnceLock<Result<ZooKeeper, Unavailable>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(&ZooKeeperOptions::default())).as_ref().map_err(Clone::clone)
    }

    fn run(
        java: &java::Java,
        options: &ZooKeeperOptions,
        port: Port,
        configuration: &str,
    ) -> io::Result<Self> {
        let server = Self::launch(java, options, port, configuration, None)?;
        server.until_ready()?;
        Ok(server)
    }

    /// Starts the process; it may take a while until it answers.
    fn launch(
        java: &java::Java,
        options: &ZooKeeperOptions,
        port: Port,
        configuration: &str,
        member: Option<Member<'_>>,
    ) -> io::Result<Self> {
        let folder = folder::create("zk", None)?;
        // From here on the folder is looked after, until the server's own supervisor does.
        let guard = Guard::new(&folder, None)?;
        let mut configuration = format!("{configuration}dataDir={}\n", folder.display());
        let secure = if options.tls { Some(secure(&folder, &mut configuration)?) } else { None };
        folder::write(&folder.join("zoo.cfg"), &configuration, None)?;
        let (mut host, mut command) = (Ipv4Addr::LOCALHOST, Vec::new());
        if let Some(Member { id, network }) = member {
            folder::write(&folder.join("myid"), &id.to_string(), None)?;
            if let Some(network) = network {
                (host, command) = (network.address(id - 1), network.enter(id - 1));
            }
        }
        let clock = options.clock.then(|| ServerClock::install(&folder, None)).transpose()?;
        if clock.is_some() {
            command.extend(ServerClock::before(&folder));
        }
        command.extend(java.command(&options.properties));
        let number = port.number();
        let process = Process::start(Plan { folder, command, owner: None, end: Signal::SIGKILL })?;
        guard.leave()?;
        let url = format!("zk://{host}:{number}");
        Ok(Self { node: Node::Program(process, port), url, host, port: number, secure, clock })
    }

    /// The URL of the server: `zk://127.0.0.1:<port>`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The URL of a place in the server that nobody else uses. The node is not made.
    #[must_use]
    pub fn fresh(&self) -> String {
        format!("{}/{}", self.url, fresh_place())
    }

    /// The port on which it speaks TLS, if it was started with one.
    #[must_use]
    pub fn secure_port(&self) -> Option<u16> {
        self.secure.as_ref().map(Port::number)
    }

    /// The certificate of the authority that signed the server's, if it was started with TLS.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        self.node.folder().map(|folder| folder.join(tls::AUTHORITY)).filter(|path| path.exists())
    }

    /// Where it listens: an address of this machine, unless it is in a network of hosts of its own. The port is 0 if it was
    /// given by a URL.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.host, self.port).into()
    }

    /// The port on which it listens; 0 if it was given by a URL.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
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

    /// Kills it, and waits for its end. Its folder and its port stay reserved for [`ZooKeeper::restart`].
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

    /// What the server answers to a word of four letters, such as `mntr` or `wchs`.
    ///
    /// # Errors
    /// If it cannot be reached, or was given by a URL.
    pub fn word(&self, word: &str) -> io::Result<String> {
        self.ask(word, TIMEOUT)
    }

    fn ask(&self, word: &str, patience: Duration) -> io::Result<String> {
        if self.port == 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this server was given by its URL"));
        }
        let mut stream = TcpStream::connect_timeout(&self.address(), patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(word.as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The numbers that `mntr` tells, by their names without `zk_`.
    ///
    /// # Errors
    /// As of [`ZooKeeper::word`].
    pub fn numbers(&self) -> io::Result<BTreeMap<String, f64>> {
        let line = |line: &str| {
            let (name, value) = line.strip_prefix("zk_")?.split_once('\t')?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Ok(self.word("mntr")?.lines().filter_map(line).collect())
    }

    /// What it is: `standalone`, `leader`, `follower`; `None` while it is none of them or does not answer.
    #[must_use]
    pub fn mode(&self) -> Option<String> {
        mode(&self.word("srvr").ok()?)
    }

    /// Waits until it serves. It is asked for its folder, so that it is no other server.
    fn until_ready(&self) -> io::Result<()> {
        let folder = self.node.folder().map(Path::to_owned).unwrap_or_default();
        self.node.until_ready(|| {
            // It takes seconds, and needs the processor for that.
            std::thread::sleep(Duration::from_millis(20));
            let here = self.ask("conf", SOON).is_ok_and(|conf| conf.contains(&*folder.to_string_lossy()));
            here && self.ask("srvr", SOON).is_ok_and(|answer| mode(&answer).is_some())
        })
    }
}

fn mode(answer: &str) -> Option<String> {
    answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
}

/// The URL of [`GIVEN`], without a path.
fn given() -> Result<Option<String>, Unavailable> {
    let Some(value) = std::env::var_os(GIVEN).filter(|value| !value.is_empty()) else { return Ok(None) };
    // The value may hold a password; the error does not repeat it.
    let url = value.into_string().ok().filter(|url| url.starts_with("zk://") && !url.contains(['?', '#']));
    let url = url.map(|url| url.trim_end_matches('/').to_owned()).filter(|url| !url[5..].contains('/'));
    url.map(Some)
        .ok_or_else(|| Unavailable::broken(format!("{GIVEN} is not of the form zk://host:port,host:port")))
}

/// How to run a server that is to be like this.
fn java(options: &ZooKeeperOptions) -> Result<java::Java, Unavailable> {
    if options.clock {
        ServerClock::available()?;
    }
    java::find()
}

fn fresh_place() -> String {
    format!("test-{:016x}", fastrand::u64(..))
}

/// Certificates in the folder, and a port for TLS in the configuration.
fn secure(folder: &Path, configuration: &mut String) -> io::Result<Port> {
    tls::write(folder, None)?;
    // Java takes the key and the certificate from one file.
    let read = |name: &str| std::fs::read_to_string(folder.join(name));
    folder::write(&folder.join("keystore.pem"), &(read(tls::KEY)? + &read(tls::CERTIFICATE)?), None)?;
    let port = Port::reserve()?;
    *configuration += &format!(
        "secureClientPort={}\nsecureClientPortAddress=127.0.0.1\nssl.clientAuth=none\n\
         serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
         ssl.keyStore.location={folder}/keystore.pem\nssl.keyStore.type=PEM\n\
         ssl.trustStore.location={folder}/{}\nssl.trustStore.type=PEM\n",
        port.number(),
        tls::AUTHORITY,
        folder = folder.display()
    );
    Ok(port)
}
