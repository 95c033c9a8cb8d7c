//! etcd servers, and clusters of them.

mod cluster;
mod http;
mod options;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;
use url::Url;

use self::options::Addresses;
pub use self::{cluster::EtcdCluster, options::EtcdOptions};
#[cfg(feature = "containers")]
use super::container::{self, Container};
use super::{
    Unavailable, folder,
    namespaces::Network,
    network::Port,
    node::{self, Node},
    process::{Guard, Plan, Process},
    program, tls,
};

/// The URL of a server to use instead of starting one.
const GIVEN: &str = "COORD_TEST_ETCD_URL";
/// The password of the user who may do everything, where there are users.
const PASSWORD: &str = "secret";
/// Where it listens in a container.
#[cfg(feature = "containers")]
const CONTAINER_PORT: u16 = 2379;

/// How members of one cluster are started.
#[derive(Clone, Copy)]
struct Start<'a> {
    options: &'a EtcdOptions,
    program: &'a Path,
    members: &'a [Addresses],
    /// Where each is on a host of its own.
    network: Option<&'a Network>,
}

/// An etcd server, a cluster of one or a member of one. One that was started ends, and its folder is removed, when this is
/// dropped or when this process ends, however it ends.
#[derive(Debug)]
pub struct Etcd {
    node: Node,
    /// With the password of the user who may do everything.
    url: Url,
    host: Ipv4Addr,
    /// Where it tells how it is.
    metrics: u16,
    /// Held, so that nobody else gets them.
    _ports: Vec<Port>,
}

impl Etcd {
    /// A server as [the module](super) says.
    ///
    /// # Errors
    /// If there is none, or it does not start.
    pub fn start(options: &EtcdOptions) -> Result<Self, Unavailable> {
        if let Some(url) = node::given(GIVEN)?.filter(|_| *options == EtcdOptions::default()) {
            let metrics = url.port().unwrap_or(2379);
            let host = Ipv4Addr::LOCALHOST;
            return Ok(Self { node: Node::Given, url, host, metrics, _ports: Vec::new() });
        }
        match program() {
            Ok(program) => {
                Self::run(options, &program).map_err(|error| Unavailable::broken(format!("etcd: {error}")))
            }
            Err(no_program) => Self::contain(options, &no_program),
        }
    }

    #[cfg(not(feature = "containers"))]
    fn contain(_: &EtcdOptions, no_program: &Unavailable) -> Result<Self, Unavailable> {
        Err(node::no_containers(no_program))
    }

    #[cfg(feature = "containers")]
    fn contain(options: &EtcdOptions, no_program: &Unavailable) -> Result<Self, Unavailable> {
        if options.tls {
            return Err(Unavailable::new(format!("{no_program}; TLS in a container is not offered")));
        }
        let mut command = vec![
            "etcd".to_owned(),
            format!("--listen-client-urls=http://0.0.0.0:{CONTAINER_PORT}"),
            format!("--advertise-client-urls=http://localhost:{CONTAINER_PORT}"),
        ];
        command.extend(EtcdOptions::common());
        command.extend(options.arguments.iter().cloned());
        let container = Container::start(container::Plan {
            kind: "etcd",
            variable: "COORD_TEST_ETCD_IMAGE",
            image: "quay.io/coreos/etcd:v3.5.17",
            port: CONTAINER_PORT,
            environment: Vec::new(),
            files: Vec::new(),
            command,
        });
        let container = container.map_err(|error| Unavailable::new(format!("{no_program}; {error}")))?;
        let start = || {
            let port = container.port();
            let (host, url) = (Ipv4Addr::LOCALHOST, url(options, Ipv4Addr::LOCALHOST, port)?);
            let node = Node::Container(container);
            let server = Self { node, url, host, metrics: port, _ports: Vec::new() };
            server.until_ready()?;
            server.add_users(options)?;
            Ok(server)
        };
        start().map_err(|error: io::Error| Unavailable::broken(format!("etcd in a container: {error}")))
    }

    fn run(options: &EtcdOptions, program: &Path) -> io::Result<Self> {
        node::on_a_free_port(|port| {
            let others = [Port::reserve()?, Port::reserve()?];
            let addresses = Addresses {
                host: Ipv4Addr::LOCALHOST,
                client: port.number(),
                peer: others[0].number(),
                metrics: others[1].number(),
            };
            let start = Start { options, program, members: &[addresses], network: None };
            let server = Self::spawn(&start, 0, port, others)?;
            server.until_ready()?;
            server.add_users(options)?;
            Ok(server)
        })
    }

    /// Starts the program and does not wait for it.
    fn spawn(start: &Start<'_>, at: usize, port: Port, others: impl Into<Vec<Port>>) -> io::Result<Self> {
        let Start { options, program, members, network } = *start;
        let folder = folder::create("etcd", None)?;
        // From here on the folder is looked after, until the server's own supervisor does.
        let guard = Guard::new(&folder, None)?;
        if options.tls {
            tls::write(&folder, None)?;
        }
        let arguments = options.arguments(at, members).into_iter().map(Into::into);
        let mut command = network.map(|network| network.enter(at)).unwrap_or_default();
        command.push(program.into());
        command.extend(arguments);
        let process = Process::start(Plan { folder, command, owner: None, end: Signal::SIGKILL })?;
        guard.leave()?;
        let Addresses { host, metrics, .. } = members[at];
        let url = url(options, host, port.number())?;
        Ok(Self { node: Node::Program(process, port), url, host, metrics, _ports: others.into() })
    }

    /// The URL for the user who may do everything: `etcd://127.0.0.1:<port>`, or `etcds://` if it speaks TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.to_string()
    }

    /// The URL for this user.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        node::with_user(&self.url, user, password)
    }

    /// Where it listens to clients: an address of this machine, unless it is in a network of hosts of its own.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (self.host, self.port()).into()
    }

    /// The port on which it listens to clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url.port().unwrap_or(2379)
    }

    /// The certificate of the authority that signed the server's, if the server was started with TLS.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        self.node.folder().map(|folder| folder.join(tls::AUTHORITY)).filter(|path| path.exists())
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

    /// Kills it, and waits for its end. Its folder and its port stay reserved for [`Etcd::restart`].
    ///
    /// # Errors
    /// If it was given by a URL.
    pub fn kill(&self) -> io::Result<()> {
        self.node.kill()
    }

    /// Kills it if it runs, and starts it again in the same folder and on the same ports.
    ///
    /// # Errors
    /// If it does not start, or was given by a URL.
    pub fn restart(&mut self) -> io::Result<()> {
        self.node.restart()?;
        self.until_ready()
    }

    /// The numbers that it tells of itself, by their names with labels, such as
    /// `etcd_server_is_leader` and `grpc_server_handled_total{grpc_code="OK",grpc_method="Txn",…}`.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub fn metrics(&self) -> io::Result<BTreeMap<String, f64>> {
        let text = http::get((self.host, self.metrics).into(), "/metrics")?;
        let line = |line: &str| {
            let (name, number) = line.rsplit_once(' ')?;
            Some((name.to_owned(), number.parse().ok()?))
        };
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect())
    }

    /// How many requests of each method, such as `Txn`, it has answered since it started, whatever the answer was.
    ///
    /// # Errors
    /// As of [`Etcd::metrics`].
    pub fn calls(&self) -> io::Result<BTreeMap<String, u64>> {
        self.sum_by_method("grpc_server_handled_total{")
    }

    /// How many messages of each method clients have sent to it: for methods that are streams, such as `LeaseKeepAlive`.
    ///
    /// # Errors
    /// As of [`Etcd::metrics`].
    pub fn messages(&self) -> io::Result<BTreeMap<String, u64>> {
        self.sum_by_method("grpc_server_msg_received_total{")
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "they are counts")]
    fn sum_by_method(&self, prefix: &str) -> io::Result<BTreeMap<String, u64>> {
        let mut calls = BTreeMap::new();
        for (name, number) in self.metrics()? {
            let method = name.strip_prefix(prefix).and_then(|labels| labels.split("grpc_method=\"").nth(1));
            if let Some((method, _)) = method.and_then(|rest| rest.split_once('"')) {
                *calls.entry(method.to_owned()).or_default() += number as u64;
            }
        }
        Ok(calls)
    }

    /// Whether it leads its cluster, as far as it knows.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.metrics().is_ok_and(|metrics| metrics.get("etcd_server_is_leader") == Some(&1.0))
    }

    /// Whether it can serve: it has a leader and a majority of the members.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        http::get((self.host, self.metrics).into(), "/health").is_ok_and(|health| health.contains("true"))
    }

    /// Waits until it can serve.
    fn until_ready(&self) -> io::Result<()> {
        self.node.until_ready(|| self.is_healthy())
    }

    fn add_users(&self, options: &EtcdOptions) -> io::Result<()> {
        if options.users.is_empty() {
            return Ok(());
        }
        if options.tls {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the suite does not speak TLS itself"));
        }
        let address = (self.host, self.port()).into();
        let ask = |path: &str, json: String| http::post(address, path, &json).map(drop);
        ask("/v3/auth/user/add", format!(r#"{{"name":"root","password":"{PASSWORD}"}}"#))?;
        ask("/v3/auth/user/grant", r#"{"user":"root","role":"root"}"#.into())?;
        for (name, password, prefixes) in &options.users {
            ask("/v3/auth/user/add", format!(r#"{{"name":{name:?},"password":{password:?}}}"#))?;
            ask("/v3/auth/role/add", format!(r#"{{"name":{name:?}}}"#))?;
            for prefix in prefixes {
                let mut end = prefix.clone().into_bytes();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                let (key, end) = (http::base64(prefix.as_bytes()), http::base64(&end));
                let rights = format!(r#"{{"permType":"READWRITE","key":"{key}","range_end":"{end}"}}"#);
                ask("/v3/auth/role/grant", format!(r#"{{"name":{name:?},"perm":{rights}}}"#))?;
            }
            ask("/v3/auth/user/grant", format!(r#"{{"user":{name:?},"role":{name:?}}}"#))?;
        }
        ask("/v3/auth/enable", "{}".into())
    }
}

fn program() -> Result<PathBuf, Unavailable> {
    program::find("etcd", &[], "etcd-server")
}

fn url(options: &EtcdOptions, host: Ipv4Addr, port: u16) -> io::Result<Url> {
    let scheme = if options.tls { "etcds" } else { "etcd" };
    let url = Url::parse(&format!("{scheme}://{host}:{port}")).map_err(io::Error::other)?;
    if options.users.is_empty() {
        return Ok(url);
    }
    Url::parse(&node::with_user(&url, "root", PASSWORD)).map_err(io::Error::other)
}
