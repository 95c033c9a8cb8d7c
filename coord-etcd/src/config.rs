//! Where the cluster is, who we are to it, and how long to wait for it.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use coord_core::{Error, ErrorKind, Namespace, Result};

/// Where the cluster is, who we are to it, and how long to wait for it.
///
/// Made of a URL:
///
/// | URL | what it reaches |
/// | --- | --- |
/// | `etcd://[user:password@]host[:port][,host[:port]…]` | the members of a cluster at these addresses, by TCP |
/// | `etcds://…` | the same with TLS; needs the feature `tls` |
///
/// | parameter | meaning |
/// | --- | --- |
/// | `namespace=NAME` | the namespace of the coordinator that [`connect`](crate::connect) makes |
/// | `layout=interop` | [`Layout::Interop`] |
/// | `strict=true` | [`Config::with_strict`] |
/// | `accept=WEAKNESS` | [`Config::with_accepted`]; may be there several times |
/// | `timeout=SECONDS` | [`Config::with_timeout`] |
/// | `ca=PATH` | [`Config::with_ca`] |
/// | `user=`, `password=` | as in the URL's own places |
///
/// Name all members: the client stays with one of them and goes to the next when that one fails. A `%` and what has a meaning
/// in URLs is written as `%` and two hexadecimal digits. The password is never printed.
///
/// ```
/// let config = coord_etcd::Config::parse("etcd://worker:s%40cret@one.example:2379,two.example?namespace=team")?;
/// assert_eq!(config.to_string(), "etcd://worker@one.example:2379,two.example:2379");
/// assert!(!format!("{config:?}").contains("s@cret"));
/// # Ok::<(), coord_etcd::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) tls: bool,
    ca: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    namespace: Namespace,
    layout: Layout,
    strict: bool,
    accepted: Vec<&'static str>,
    timeout: Duration,
}

/// What a weakness may be called.
const WEAKNESSES: [&str; 5] = ["members", "endpoints", "reachable", "version", "alarm"];

/// The address of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Where locks and elections are kept in the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Under keys of this library's own.
    #[default]
    Own,
    /// Locks and elections stand at exactly their names, as `etcdctl lock`, `etcdctl elect` and Go's package `concurrency` put
    /// them there: a key `<name>/<lease in hexadecimal digits>` for each contender, in the order of creation. All of them
    /// exclude each other. In a namespace that is not the default, the name is the namespace, `/` and the name; so `x` in the
    /// namespace `team` and `team/x` in the default one are the same lock. Names that begin with `coord/`, and `coord` itself, are
    /// refused: the keys of this library are there.
    ///
    /// Every key behind `<name>/` contends, as it does for those clients: so `a` is not free while somebody holds `a/b`. Readers
    /// of a lock share it among themselves and exclude the others. The token of any contender is the revision that created
    /// its key; `ETCD_LOCK_REV`, which `etcdctl lock` gives to its program, is a later one, and not to be compared with it.
    ///
    /// Each claim has a lease of its own: it costs one request more to make, and one keep-alive and one reading to renew.
    /// Semaphores, members and all else stay under keys of this library's own.
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

const FORMS: &str = "write etcd://[user:password@]host[:port][,host[:port]…] or etcds://…";

fn invalid(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{why}; {FORMS}"))
}

impl Config {
    /// How long one operation may take where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// The greatest timeout: every operation answers within about ten seconds.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(8);
    /// The port where none is said.
    pub const DEFAULT_PORT: u16 = 2379;

    /// A cluster with a member at this host and port, by TCP.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            endpoints: vec![Endpoint { host: host.into(), port }],
            tls: false,
            ca: None,
            user: None,
            password: None,
            namespace: Namespace::default(),
            layout: Layout::default(),
            strict: false,
            accepted: Vec::new(),
            timeout: Self::DEFAULT_TIMEOUT,
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for text that is no such URL, [`ErrorKind::Unsupported`] for another kind of store and
    /// for `etcds://` in a build without the feature `tls`. No error repeats the URL: it may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) = text.split_once("://").ok_or_else(|| invalid("not a URL"))?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "etcd" => false,
            "etcds" if cfg!(feature = "tls") => true,
            "etcds" => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this build cannot speak TLS; enable the feature `tls` of coord-etcd",
                ));
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this build has no store for that URL scheme; it has etcd",
                ));
            }
        };
        if rest.contains('#') {
            return Err(invalid("a '#' has no meaning here; write %23"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (login, hosts) = match place.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, place),
        };
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>>>()?;
        let mut config = Self { endpoints, tls, ..Self::new("", 0) };
        if let Some(login) = login {
            let (user, password) = match login.split_once(':') {
                Some((user, password)) => (user, Some(password)),
                None => (login, None),
            };
            config.user = Some(decode(user)?).filter(|user| !user.is_empty());
            config.password = password.map(decode).transpose()?.map(Secret);
        }
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            config.set(&key, &value)?;
        }
        match (&config.user, &config.password) {
            (Some(_), None) => Err(invalid("the password is missing")),
            (None, Some(_)) => Err(invalid("the user is missing")),
            _ => Ok(config),
        }
    }

    /// Refuses what contradicts itself.
    fn check(self) -> Result<Self> {
        if self.ca.is_some() && !self.tls {
            return Err(invalid("trusted certificates were named, and TLS was not asked for"));
        }
        if self.timeout.is_zero() {
            return Err(invalid("the timeout is zero"));
        }
        Ok(self)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "namespace" => self.namespace = Namespace::new(value)?,
            "layout" => {
                self.layout = match value {
                    "own" => Layout::Own,
                    "interop" => Layout::Interop,
                    _ => return Err(invalid("the layout is own or interop")),
                }
            }
            "accept" => {
                let known = WEAKNESSES.into_iter().find(|known| *known == value);
                let known = known
                    .ok_or_else(|| invalid(format_args!("accept is one of {}", WEAKNESSES.join(", "))))?;
                self.accepted.push(known);
            }
            "strict" => {
                self.strict = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(invalid("strict is true or false")),
                }
            }
            "timeout" => {
                let seconds: f64 =
                    value.parse().map_err(|_| invalid("the timeout in seconds is a number"))?;
                let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                if timeout.is_zero() {
                    return Err(invalid("the timeout is a positive number of seconds"));
                }
                self.timeout = timeout.min(Self::MAX_TIMEOUT);
            }
            "ca" if !self.tls => return Err(invalid("ca is for etcds:// only")),
            "ca" => self.ca = Some(value.into()),
            "user" => self.user = Some(value.to_owned()),
            "password" => self.password = Some(Secret(value.to_owned())),
            // It may be a part of a password in which a `?` was not written as %3F.
            _ => {
                return Err(invalid(
                    "a parameter is unknown; there are namespace, layout, strict, accept, timeout, ca, user and password",
                ));
            }
        }
        Ok(())
    }

    /// With one more member of the cluster.
    #[must_use]
    pub fn with_endpoint(mut self, host: impl Into<String>, port: u16) -> Self {
        self.endpoints.push(Endpoint { host: host.into(), port });
        self
    }

    /// With these credentials.
    #[must_use]
    pub fn with_credentials(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.into());
        self.password = Some(Secret(password.into()));
        self
    }

    /// With TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Trusting the certificates in this PEM file. Without TLS it is refused when the client is opened.
    #[must_use]
    pub fn with_ca(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(path.into());
        self
    }

    /// The file of trusted certificates, if one was named.
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
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

    /// Where locks and elections are kept in the server.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// With this layout. All clients of a name use the same.
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Whether a cluster that weakens what is promised is refused.
    #[must_use]
    pub fn strict(&self) -> bool {
        self.strict
    }

    /// Refuses a cluster, with [`ErrorKind::Unsupported`], that does not survive the loss of one member, of which members cannot
    /// be reached, or whose version is known to be defective, but for what is [accepted](Config::with_accepted). [`Store::weaknesses`](crate::Store::weaknesses) has the list.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Whether a strict client takes this weakness all the same.
    pub(crate) fn accepts(&self, weakness: &str) -> bool {
        self.accepted.contains(&weakness)
    }

    /// Takes a cluster that has this [weakness](crate::Store::weaknesses) in spite of [`Config::with_strict`], by the name of its
    /// setting: `version` for one that cannot be upgraded yet. It is told of as before. A name that there is not accepts nothing.
    #[must_use]
    pub fn with_accepted(mut self, weakness: &str) -> Self {
        self.accepted.extend(WEAKNESSES.into_iter().find(|known| *known == weakness));
        self
    }

    /// How long an operation may take, with all that is sent again to other members; at most [`Config::MAX_TIMEOUT`].
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// With this timeout, cut at [`Config::MAX_TIMEOUT`]. None at all is refused when the client is opened.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(Self::MAX_TIMEOUT);
        self
    }
}

/// The URL without password and parameters.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "etcds://" } else { "etcd://" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        for (at, endpoint) in self.endpoints.iter().enumerate() {
            write!(f, "{}{endpoint}", if at > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn endpoint(text: &str) -> Result<Endpoint> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => {
            (host, Some(rest.strip_prefix(':').ok_or_else(|| invalid("a host cannot be read"))?))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err(invalid("a host is missing"));
    }
    let host = decode(host)?;
    if host.contains(['/', ' ', '\\', '?', '#', '@']) || host.contains(char::is_control) {
        return Err(invalid("a host cannot be read"));
    }
    let port = match port {
        Some(port) => port.parse().map_err(|_| invalid("a port is a number below 65536"))?,
        None => Config::DEFAULT_PORT,
    };
    Ok(Endpoint { host, port })
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

/// What names a cluster: a URL as text, or a [`Config`].
pub trait IntoConfig {
    /// The configuration that it stands for.
    ///
    /// # Errors
    /// As [`Config::parse`]; and [`ErrorKind::InvalidInput`] for a [`Config`] that contradicts itself.
    fn into_config(self) -> Result<Config>;
}

impl IntoConfig for Config {
    fn into_config(self) -> Result<Config> {
        self.check()
    }
}

impl IntoConfig for &Config {
    fn into_config(self) -> Result<Config> {
        self.clone().check()
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
        assert_eq!(Config::parse("etcd://one").unwrap(), Config::new("one", 2379));
        assert_eq!(Config::parse("etcd://one:1/").unwrap(), Config::new("one", 1));
        let config = Config::parse(
            "etcd://u:p%40%25@[::1]:7000,two,three:3?namespace=team&layout=interop&timeout=0.5",
        );
        let config = config.unwrap();
        let expected = Config::new("::1", 7000).with_endpoint("two", 2379).with_endpoint("three", 3);
        assert_eq!(config.endpoints, expected.endpoints);
        assert_eq!((config.user.as_deref(), &config.password), (Some("u"), &Some(Secret("p@%".into()))));
        assert_eq!((config.namespace().as_str(), config.layout()), ("team", Layout::Interop));
        assert_eq!(config.timeout(), Duration::from_millis(500));
        assert_eq!(config.to_string(), "etcd://u@[::1]:7000,two:2379,three:3");
        assert_eq!(Config::parse("etcd://h?timeout=99").unwrap().timeout(), Config::MAX_TIMEOUT);
        let config = Config::parse("etcd://h?user=a&password=b").unwrap();
        assert_eq!(config, Config::new("h", 2379).with_credentials("a", "b"));
    }

    #[test]
    fn wrong_urls_are_refused_and_not_repeated() {
        for wrong in [
            "",
            "one",
            "etcd://",
            "etcd://,",
            "etcd://a,,b",
            "etcd:///hunter2",
            "etcd://me:hunter2@h/x",
            "etcd://me:hunter2@h:99999",
            "etcd://:hunter2@h",
            "etcd://me@h",
            "etcd://h?hunter=hunter2",
            "etcd://me:123?hunter2@h",
            "etcd://h?accept=hunter2",
            "etcd://h?layout=x",
            "etcd://h?strict=yes",
            "etcd://h?timeout=0",
            "etcd://h?timeout=-1",
            "etcd://h?timeout=NaN",
            "etcd://h?ca=/x",
            "etcd://h#2",
            "etcd://%zz@h",
            "etcd://[::1",
            "etcd://[::1]x",
        ] {
            let error = Config::parse(wrong).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
        assert_eq!(Config::parse("http://h").unwrap_err().kind(), ErrorKind::Unsupported);
        #[cfg(not(feature = "tls"))]
        assert_eq!(Config::parse("etcds://h").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for config in [Config::new("h", 1).with_ca("/x"), Config::new("h", 1).with_timeout(Duration::ZERO)] {
            assert_eq!((&config).into_config().unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(config.into_config().unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_weakness_is_accepted_by_its_name() {
        let config = Config::parse("etcd://h?strict=true&accept=version&accept=members").unwrap();
        assert!(config.accepts("version") && config.accepts("members") && !config.accepts("alarm"));
        let built =
            Config::new("h", 2379).with_strict(true).with_accepted("version").with_accepted("members");
        assert_eq!(config, built.with_accepted("hunter2"));
    }

    #[test]
    fn the_password_is_never_printed() {
        let config = Config::parse("etcd://me:hunter2@h").unwrap();
        assert!(!format!("{config} {config:?}").contains("hunter2"));
    }
}
