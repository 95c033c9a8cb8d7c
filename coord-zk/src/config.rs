//! Where the ensemble is, who we are to it, and how long to wait for it.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use coord_core::{Error, ErrorKind, Namespace, Result};

/// Where the ensemble is, who we are to it, and how long to wait for it.
///
/// Made of a URL: `zk://[user:password@]host[:port][,host[:port]…][/chroot]`. Several hosts are servers of one ensemble. All
/// that this library stores stands below the chroot, which is made if it is not there. User and password are a digest
/// identity; with one, the nodes that are made are for this identity alone.
///
/// | parameter | meaning |
/// | --- | --- |
/// | `namespace=NAME` | the namespace of the coordinator that [`connect`](crate::connect) makes |
/// | `layout=curator`, `kazoo`, `interop` | [`Layout`] |
/// | `timeout=SECONDS` | [`Config::with_timeout`] |
/// | `packet=BYTES` | [`Config::with_max_packet`] |
/// | `acl=open` | [`Config::with_open_acl`] |
/// | `tls=true` | TLS with every server; needs the feature `tls`, and `ca` |
/// | `ca=PATH` | trusts the certificates in this PEM file, with TLS |
/// | `user=`, `password=` | as in the URL's own places |
///
/// A `%` and what has a meaning in URLs is written as `%` and two hexadecimal digits. The password is never printed.
///
/// ```
/// let config = coord_zk::Config::parse("zk://worker:s%40cret@one,two:2182,three/apps/shop?namespace=team")?;
/// assert_eq!(config.to_string(), "zk://worker@one:2181,two:2182,three:2181/apps/shop");
/// assert!(!format!("{config:?}").contains("s@cret"));
/// # Ok::<(), coord_zk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    pub(crate) hosts: Vec<Host>,
    /// Empty, or `/a/b`.
    pub(crate) chroot: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) tls: bool,
    pub(crate) ca: Option<PathBuf>,
    namespace: Namespace,
    layout: Layout,
    timeout: Duration,
    max_packet: usize,
    open_acl: bool,
}

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

/// Where claims stand in the tree of nodes.
///
/// In the layouts that are shared with others a name of a lock is a path of a node: a slash in front of it means nothing, a
/// namespace other than the default is a folder in front of it, and what would stand in `/coord` or `/zookeeper` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Under `/coord` below the chroot, in a layout of this library's own.
    #[default]
    Own,
    /// A lock stands at exactly its name below the chroot, in the layout of Apache Curator's `InterProcessMutex`, which the
    /// client of Go shares. Locks of Curator, of Go, of kazoo and of this library are respected, and Curator and Go respect
    /// ours. A service is shared with Curator's service discovery; see [the crate's text](crate#services-shared-with-curator).
    /// Everything else stands where it does in our own layout.
    Curator,
    /// A lock stands at exactly its name below the chroot, in the layout of `kazoo.recipe.lock.Lock`. Locks of others are
    /// respected, and kazoo and Go respect ours. Its folder stays when it is empty: kazoo's lock, once used, fails without it.
    Kazoo,
    /// A lock stands at exactly its name below the chroot, by two nodes that are made in one step, so that all of Curator, Go
    /// and kazoo respect it. Locks of others are respected. Folders of locks stay, as above. Services are shared as in the
    /// layout of Curator.
    Interop,
}

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

const FORM: &str = "write zk://[user:password@]host[:port][,host[:port]…][/chroot]";

fn invalid(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{why}; {FORM}"))
}

impl Config {
    /// How long one operation may take where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// The greatest timeout: every operation answers within about ten seconds.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(8);
    /// The port where none is said.
    pub const DEFAULT_PORT: u16 = 2181;
    /// The size of the largest request that a server takes where nothing else is said: its `jute.maxbuffer`.
    pub const DEFAULT_MAX_PACKET: usize = 1024 * 1024 - 1;

    /// How many tries to connect make a round of the driver.
    const ROUND: usize = 20;

    /// A server at this host and port.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            hosts: vec![Host { name: host.into(), port }],
            chroot: String::new(),
            user: None,
            password: None,
            tls: false,
            ca: None,
            namespace: Namespace::default(),
            layout: Layout::default(),
            timeout: Self::DEFAULT_TIMEOUT,
            max_packet: Self::DEFAULT_MAX_PACKET,
            open_acl: false,
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for text that is no such URL, [`ErrorKind::Unsupported`] for another kind of store and
    /// for TLS in a build without the feature `tls`. No error repeats the URL: it may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("not a URL"))?;
        if scheme != "zk" {
            let scheme: String = scheme.chars().filter(char::is_ascii_alphanumeric).take(20).collect();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("this build has no store for the URL scheme '{scheme}'; it has zk"),
            ));
        }
        if rest.contains('#') {
            return Err(invalid("a '#' has no meaning here; write %23"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, chroot) = place.find('/').map_or((place, ""), |at| place.split_at(at));
        let mut config = Self::new("", 0);
        let hosts = match authority.rsplit_once('@') {
            Some((who, hosts)) => {
                let (user, password) = who.split_once(':').unwrap_or((who, ""));
                config.user = Some(decode(user)?);
                config.password = Some(Secret(decode(password)?));
                hosts
            }
            None => authority,
        };
        config.hosts = hosts.split(',').map(host).collect::<Result<_>>()?;
        config.chroot = root(&decode(chroot)?)?;
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            config.set(&key, &value)?;
        }
        if config.user.is_some() != config.password.is_some() {
            return Err(invalid("a user needs a password, and a password a user"));
        }
        if config.ca.is_some() && !config.tls {
            return Err(invalid("ca is for tls=true only"));
        }
        if config.tls && config.ca.is_none() {
            return Err(invalid("tls=true needs ca, the file of the certificates to trust"));
        }
        Ok(config)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "namespace" => self.namespace = Namespace::new(value)?,
            "layout" => {
                self.layout = match value {
                    "own" => Layout::Own,
                    "curator" => Layout::Curator,
                    "kazoo" => Layout::Kazoo,
                    "interop" => Layout::Interop,
                    _ => return Err(invalid("the layout is own, curator, kazoo or interop")),
                }
            }
            "acl" => {
                self.open_acl = match value {
                    "open" => true,
                    "own" => false,
                    _ => return Err(invalid("acl is open or own")),
                }
            }
            "tls" => {
                self.tls = match value {
                    "true" if cfg!(feature = "tls") => true,
                    "true" => return Err(no_tls()),
                    "false" => false,
                    _ => return Err(invalid("tls is true or false")),
                }
            }
            "timeout" => {
                let seconds: f64 =
                    value.parse().map_err(|_| invalid("the timeout is a number of seconds"))?;
                let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                if timeout.is_zero() {
                    return Err(invalid("the timeout is a positive number of seconds"));
                }
                self.timeout = timeout.min(Self::MAX_TIMEOUT);
            }
            "packet" => {
                let bytes = value.parse().ok().filter(|bytes| *bytes > 0);
                self.max_packet = bytes.ok_or_else(|| invalid("packet is a positive number of bytes"))?;
            }
            "ca" => self.ca = Some(value.into()),
            "user" => self.user = Some(value.to_owned()),
            "password" => self.password = Some(Secret(value.to_owned())),
            // The value may be a secret, and so may what looks like a key behind a '?' of a password.
            _ => return Err(invalid("there is no such parameter")),
        }
        Ok(())
    }

    /// With one more server of the same ensemble.
    #[must_use]
    pub fn with_server(mut self, host: impl Into<String>, port: u16) -> Self {
        self.hosts.push(Host { name: host.into(), port });
        self
    }

    /// With this digest identity.
    #[must_use]
    pub fn with_credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self.password = Some(Secret(password.into()));
        self
    }

    /// Everything below this node, such as `/apps/shop`. It is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for text that is no path of a node.
    pub fn with_chroot(mut self, path: &str) -> Result<Self> {
        self.chroot = root(path)?;
        Ok(self)
    }

    /// Trusting the certificates in this PEM file, with TLS. It turns TLS on, which needs the feature `tls`.
    #[must_use]
    pub fn with_tls(mut self, ca: impl Into<PathBuf>) -> Self {
        self.tls = true;
        self.ca = Some(ca.into());
        self
    }

    /// The namespace of the coordinator that [`connect`](crate::connect) makes.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// With this namespace.
    #[must_use]
    pub fn with_namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = namespace;
        self
    }

    /// Where claims stand in the tree of nodes.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// With this layout. All clients of a name use layouts that respect each other.
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// How long one operation may take; at most [`Config::MAX_TIMEOUT`]. One that has to open a session first answers within
    /// the same time plus two seconds.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// With this timeout, cut at [`Config::MAX_TIMEOUT`].
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(Self::MAX_TIMEOUT);
        self
    }

    /// The size of the largest request that is sent. A server drops the connection of who sends a larger one than its
    /// `jute.maxbuffer`, and with it every other request under way; so larger ones are refused here.
    #[must_use]
    pub fn max_packet(&self) -> usize {
        self.max_packet
    }

    /// For servers that were started with another `jute.maxbuffer`.
    #[must_use]
    pub fn with_max_packet(mut self, bytes: usize) -> Self {
        self.max_packet = bytes;
        self
    }

    /// Makes nodes that anyone may read and change, also with credentials.
    #[must_use]
    pub fn with_open_acl(mut self, open: bool) -> Self {
        self.open_acl = open;
        self
    }

    /// Refuses what cannot work, before anything is sent.
    pub(crate) fn check(&self) -> Result<()> {
        if self.timeout.is_zero() {
            return Err(invalid("the timeout is a positive number of seconds"));
        }
        if self.max_packet == 0 {
            return Err(invalid("packet is a positive number of bytes"));
        }
        #[cfg(feature = "tls")]
        if let Some(ca) = self.ca().filter(|_| self.tls) {
            crate::tls::options(ca)?;
        }
        #[cfg(not(feature = "tls"))]
        if self.tls {
            return Err(no_tls());
        }
        Ok(())
    }

    /// Whether the nodes that are made are for our identity alone.
    pub(crate) fn own_acl(&self) -> bool {
        self.user.is_some() && !self.open_acl
    }

    /// The servers as the driver wants them.
    ///
    /// It doubles its pause with each round over all servers, without a limit, so that it would come back long after they do.
    /// Within a round the pauses are at most a second. So each server is named often enough to make a round a long one.
    pub(crate) fn cluster(&self) -> String {
        let address = |host: &Host| if self.tls { format!("tcp+tls://{host}") } else { host.to_string() };
        let rounds = Self::ROUND.div_ceil(self.hosts.len().max(1));
        let hosts = std::iter::repeat_n(&self.hosts, rounds).flatten();
        hosts.map(address).collect::<Vec<_>>().join(",")
    }

    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

/// The URL without password and parameters.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "zk://{user}{}{}", hosts.join(","), self.chroot)
    }
}

fn no_tls() -> Error {
    let text = "this build cannot speak TLS; enable the feature `tls` of coord-zk";
    Error::new(ErrorKind::Unsupported, text)
}

fn host(text: &str) -> Result<Host> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, port) = rest.split_once(']').ok_or_else(|| invalid("a ']' is missing"))?;
            (name, port.strip_prefix(':'))
        }
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid("a host is missing"));
    }
    let port = match port {
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or_else(|| invalid("a port is a number"))?
        }
        None => Config::DEFAULT_PORT,
    };
    Ok(Host { name: decode(name)?, port })
}

fn root(path: &str) -> Result<String> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Ok(String::new());
    }
    match path.strip_prefix('/') {
        Some(rest) if rest.split('/').all(crate::keys::is_component) => Ok(path.to_owned()),
        _ => Err(invalid("the chroot is no path of a node")),
    }
}

/// Undoes the `%` of URLs.
fn decode(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(code.ok_or_else(|| invalid("a '%' must be followed by two hexadecimal digits"))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid("the URL is not UTF-8"))
}

/// What names an ensemble: a URL as text, or a [`Config`].
pub trait IntoConfig {
    /// The configuration that it stands for.
    ///
    /// # Errors
    /// As [`Config::parse`].
    fn into_config(self) -> Result<Config>;
}

impl IntoConfig for Config {
    fn into_config(self) -> Result<Config> {
        Ok(self)
    }
}

impl IntoConfig for &Config {
    fn into_config(self) -> Result<Config> {
        Ok(self.clone())
    }
}

impl IntoConfig for &str {
    fn into_config(self) -> Result<Config> {
        Config::parse(self)
    }
}

impl IntoConfig for &String {
    fn into_config(self) -> Result<Config> {
        Config::parse(self)
    }
}

impl IntoConfig for String {
    fn into_config(self) -> Result<Config> {
        Config::parse(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        assert_eq!(Config::parse("zk://one").unwrap(), Config::new("one", 2181));
        assert_eq!(Config::parse("zk://one/").unwrap(), Config::new("one", 2181));
        let config =
            Config::parse("zk://u:p%40%25@[::1]:7000,b/a/b?namespace=team&layout=interop&timeout=0.5");
        let config = config.unwrap();
        assert_eq!(config.hosts[0], Host { name: "::1".into(), port: 7000 });
        assert_eq!(config.cluster(), ["[::1]:7000,b:2181"; 10].join(","));
        assert_eq!((config.user.as_deref(), config.chroot.as_str()), (Some("u"), "/a/b"));
        assert_eq!(config.password, Some(Secret("p@%".into())));
        assert_eq!((config.namespace().as_str(), config.layout()), ("team", Layout::Interop));
        assert_eq!(config.timeout(), Duration::from_millis(500));
        assert_eq!(config.to_string(), "zk://u@[::1]:7000,b:2181/a/b");
        assert!(config.own_acl() && !config.with_open_acl(true).own_acl());
        assert_eq!(Config::parse("zk://h?timeout=99").unwrap().timeout(), Config::MAX_TIMEOUT);
        assert_eq!(Config::parse("zk://h?packet=4000000").unwrap().max_packet(), 4_000_000);
    }

    #[test]
    fn wrong_urls_are_refused_and_not_repeated() {
        for wrong in [
            "",
            "one",
            "zk://",
            "zk:///1",
            "zk://a,,b",
            "zk://u:hunter2@",
            "zk://u:hunter2@h:99999",
            "zk://u:hunter2@h:0",
            "zk://u:hunter2@h:x",
            "zk://h?hunter=hunter2",
            "zk://h?layout=x",
            "zk://h?timeout=0",
            "zk://h?timeout=-1",
            "zk://h?timeout=NaN",
            "zk://h?packet=x",
            "zk://h?packet=0",
            "zk://u:2181?hunter2@h",
            "zk://h?ca=/x",
            "zk://h?user=hunter2",
            "zk://h?tls=x",
            "zk://h//a",
            "zk://h/../a",
            "zk://h/a#2",
            "zk://%zz@h",
            "zk://[::1",
        ] {
            let error = Config::parse(wrong).expect_err(wrong);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert_eq!(Config::parse("http://h").unwrap_err().kind(), ErrorKind::Unsupported);
        #[cfg(not(feature = "tls"))]
        assert_eq!(Config::parse("zk://h?tls=true").unwrap_err().kind(), ErrorKind::Unsupported);
        #[cfg(feature = "tls")]
        assert_eq!(Config::parse("zk://h?tls=true").unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn what_cannot_work_is_refused_before_it_is_tried() {
        let config = Config::new("h", 1);
        assert!(config.check().is_ok());
        for wrong in [config.clone().with_timeout(Duration::ZERO), config.clone().with_max_packet(0)] {
            assert_eq!(wrong.check().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        let kind = if cfg!(feature = "tls") { ErrorKind::InvalidInput } else { ErrorKind::Unsupported };
        assert_eq!(config.with_tls("/there/is/none").check().unwrap_err().kind(), kind);
    }

    #[test]
    fn the_password_is_never_printed() {
        let config = Config::parse("zk://me:hunter2@h").unwrap();
        assert!(!format!("{config} {config:?}").contains("hunter2"));
        let config = Config::new("h", 1).with_credentials("me", "hunter2");
        assert!(!format!("{config} {config:?}").contains("hunter2"));
    }
}
