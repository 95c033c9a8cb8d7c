//! Where the server is, who we are to it, and how long to wait for it.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use coord_core::{Error, ErrorKind, Namespace, Result};
use url::Url;

/// Where the server is, who we are to it, and how long to wait for it.
///
/// Made of a URL:
///
/// | URL | what it reaches |
/// | --- | --- |
/// | `redis://[user[:password]@]host[:port][/db]` | a server by TCP |
/// | `rediss://…` | the same with TLS; needs the feature `tls` |
/// | `unix:///path/to/socket` | a server on this host; user, password and db are parameters |
///
/// | parameter | meaning |
/// | --- | --- |
/// | `namespace=NAME` | the namespace of the coordinator that [`connect`](crate::connect) makes |
/// | `layout=interop` | [`Layout::Interop`] |
/// | `strict=true` | [`Config::with_strict`] |
/// | `timeout=SECONDS` | [`Config::with_timeout`] |
/// | `ca=PATH` | [`Config::with_ca`] |
/// | `user=`, `password=`, `db=` | as in the URL's own places |
///
/// A `%` and what has a meaning in URLs is written as `%` and two hexadecimal digits. The password is never printed.
///
/// ```
/// let config = coord_redis::Config::parse("redis://worker:s%40cret@cache.example:6380/2?strict=true")?;
/// assert!(config.strict());
/// assert_eq!(config.to_string(), "redis://worker@cache.example:6380/2");
/// assert!(!format!("{config:?}").contains("s@cret"));
/// # Ok::<(), coord_redis::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    pub(crate) address: Address,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) db: i64,
    namespace: Namespace,
    layout: Layout,
    strict: bool,
    timeout: Duration,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, ca: Option<PathBuf> },
    Unix(PathBuf),
}

/// Where claims are kept in the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Layout {
    /// Under keys of this library's own.
    #[default]
    Own,
    /// A lock that is held also stands at exactly its name, as `SET name value NX PX` puts it there. Clients that lock that
    /// way (redis-py, redsync, rslock, node redlock) respect it and are respected. In a namespace that is not the default,
    /// it stands at the namespace, the byte 0x1f and the name.
    ///
    /// Among clients of this library nothing changes: tokens, order, hand-overs. Another client waits in no line and tells
    /// nobody when it leaves, so while one holds, who is first in line looks twenty times a second. Whoever deletes the key
    /// takes the lock away, which its holder learns at its next renewal. Shared holders stand at the name together.
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

const FORMS: &str = "write redis://[user:password@]host[:port][/db], rediss://… or unix:///path/to/socket";

fn invalid(why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{why}; {FORMS}"))
}

impl Config {
    /// How long one request may take where nothing else is said.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// The greatest timeout: every operation answers within about ten seconds.
    pub const MAX_TIMEOUT: Duration = Duration::from_secs(8);
    /// The port where none is said.
    pub const DEFAULT_PORT: u16 = 6379;

    /// A server at this host and port, by TCP.
    #[must_use]
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self::at(Address::Tcp { host: host.into(), port })
    }

    /// A server of this host, by its socket.
    #[must_use]
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::at(Address::Unix(path.into()))
    }

    fn at(address: Address) -> Self {
        Self {
            address,
            user: None,
            password: None,
            db: 0,
            namespace: Namespace::default(),
            layout: Layout::default(),
            strict: false,
            timeout: Self::DEFAULT_TIMEOUT,
        }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for text that is no such URL, [`ErrorKind::Unsupported`] for another kind of store and
    /// for `rediss://` in a build without the feature `tls`. No error repeats the URL: it may hold a password.
    pub fn parse(text: &str) -> Result<Self> {
        let url = Url::parse(text).map_err(|error| invalid(format_args!("not a URL ({error})")))?;
        let tls = match url.scheme() {
            "redis" | "unix" => false,
            "rediss" if cfg!(feature = "tls") => true,
            "rediss" => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this build cannot speak TLS; enable the feature `tls` of coord-redis",
                ));
            }
            other => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("this build has no store for the URL scheme '{other}'; it has redis"),
                ));
            }
        };
        let mut config = Self::at(if url.scheme() == "unix" {
            Self::socket(&url)?
        } else {
            let host = url.host_str().filter(|host| !host.is_empty());
            let host = decode(host.ok_or_else(|| invalid("the host is missing"))?)?;
            // The brackets of an IPv6 address belong to the URL.
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let port = url.port().unwrap_or(Self::DEFAULT_PORT);
            if tls { Address::Tls { host, port, ca: None } } else { Address::Tcp { host, port } }
        });
        if !url.username().is_empty() {
            config.user = Some(decode(url.username())?);
        }
        config.password = url.password().map(decode).transpose()?.map(Secret);
        if url.scheme() != "unix" && !matches!(url.path(), "" | "/") {
            config.db = number("the path, the number of the database,", &url.path()[1..])?;
        }
        if url.fragment().is_some() {
            return Err(invalid("a '#' has no meaning here; write %23"));
        }
        for (key, value) in url.query_pairs() {
            config.set(&key, &value)?;
        }
        Ok(config)
    }

    fn socket(url: &Url) -> Result<Address> {
        if url.host_str().is_some_and(|host| !host.is_empty()) || url.path().len() < 2 {
            return Err(invalid("the path of the socket is missing"));
        }
        Ok(Address::Unix(decode(url.path())?.into()))
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
            "strict" => {
                self.strict = match value {
                    "true" => true,
                    "false" => false,
                    _ => return Err(invalid("strict is true or false")),
                }
            }
            "timeout" => {
                let seconds: f64 = number("the timeout in seconds", value)?;
                let timeout = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                if timeout.is_zero() {
                    return Err(invalid("the timeout is a positive number of seconds"));
                }
                self.timeout = timeout.min(Self::MAX_TIMEOUT);
            }
            "ca" => {
                if !matches!(self.address, Address::Tls { .. }) {
                    return Err(invalid("ca is for rediss:// only"));
                }
                *self = self.clone().with_ca(value);
            }
            "user" => self.user = Some(value.to_owned()),
            "password" => self.password = Some(Secret(value.to_owned())),
            "db" => self.db = number("db", value)?,
            // The value may be a secret.
            _ => return Err(invalid(format_args!("there is no parameter {key:?}"))),
        }
        Ok(())
    }

    /// With these credentials. Without a user, the password is that of the user `default`.
    #[must_use]
    pub fn with_credentials(mut self, user: Option<&str>, password: &str) -> Self {
        self.user = user.map(Into::into);
        self.password = Some(Secret(password.into()));
        self
    }

    /// With this numbered database of the server.
    #[must_use]
    pub fn with_db(mut self, db: u16) -> Self {
        self.db = db.into();
        self
    }

    /// Trusting the certificates in this PEM file instead of the system's, with TLS. It has no meaning without TLS.
    #[must_use]
    pub fn with_ca(mut self, path: impl Into<PathBuf>) -> Self {
        if let Address::Tls { ca, .. } = &mut self.address {
            *ca = Some(path.into());
        }
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

    /// Where claims are kept in the server.
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

    /// Whether a server whose settings weaken what is promised is refused.
    #[must_use]
    pub fn strict(&self) -> bool {
        self.strict
    }

    /// Refuses a server, with [`ErrorKind::Unsupported`], whose settings do not make an answered grant survive a crash and a
    /// loss of power: one that evicts keys, that does not write every change to its disk before it answers, that has
    /// replicas to fail over to, or that does not tell. [`Store::weaknesses`](crate::Store::weaknesses) has the list.
    #[must_use]
    pub fn with_strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// How long connecting may take, and how long an answer; at most [`Config::MAX_TIMEOUT`]. An operation that has to
    /// connect first answers within the same time plus two seconds.
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
}

/// The URL without password and parameters.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
        match &self.address {
            Address::Tcp { host, port } => write!(f, "redis://{user}{}:{port}/{}", Host(host), self.db),
            Address::Tls { host, port, .. } => {
                write!(f, "rediss://{user}{}:{port}/{}", Host(host), self.db)
            }
            Address::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

struct Host<'a>(&'a str);

impl fmt::Display for Host<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

fn number<T: std::str::FromStr>(what: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| invalid(format_args!("{what} is a number")))
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

/// What names a server: a URL as text, or a [`Config`].
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

/// The file of trusted certificates, if one was named.
#[cfg_attr(not(feature = "tls"), allow(dead_code))]
pub(crate) fn ca(address: &Address) -> Option<&Path> {
    match address {
        Address::Tls { ca, .. } => ca.as_deref(),
        Address::Tcp { .. } | Address::Unix(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let config = Config::parse("redis://cache").unwrap();
        assert_eq!(config, Config::new("cache", 6379));
        let config =
            Config::parse("redis://u:p%40%25@[::1]:7000/3?namespace=team&layout=interop&timeout=0.5");
        let config = config.unwrap();
        assert_eq!(config.address, Address::Tcp { host: "::1".into(), port: 7000 });
        assert_eq!((config.user.as_deref(), config.db), (Some("u"), 3));
        assert_eq!(config.password, Some(Secret("p@%".into())));
        assert_eq!((config.namespace().as_str(), config.layout()), ("team", Layout::Interop));
        assert_eq!(config.timeout(), Duration::from_millis(500));
        assert_eq!(config.to_string(), "redis://u@[::1]:7000/3");
        let config = Config::parse("unix:///run/redis.sock?db=2&user=u&password=p").unwrap();
        assert_eq!(config.address, Address::Unix("/run/redis.sock".into()));
        assert_eq!((config.user.as_deref(), config.db), (Some("u"), 2));
        assert_eq!(Config::parse("redis://h?timeout=99").unwrap().timeout(), Config::MAX_TIMEOUT);
    }

    #[test]
    fn wrong_urls_are_refused_and_not_repeated() {
        for wrong in [
            "",
            "cache",
            "redis://",
            "redis:///1",
            "redis://:hunter2@h/x",
            "redis://:hunter2@h:99999",
            "redis://:hunter2@h?password",
            "redis://h/1?db=hunter2",
            "redis://h?hunter=hunter2",
            "redis://h?strict=yes",
            "redis://h?layout=x",
            "redis://h?timeout=0",
            "redis://h?timeout=-1",
            "redis://h?timeout=NaN",
            "redis://h?ca=/x",
            "redis://h/1#2",
            "unix://",
            "unix:///",
            "unix://host/path",
            "redis://%zz@h",
        ] {
            match Config::parse(wrong) {
                Ok(config) => assert_eq!(wrong, "redis://:hunter2@h?password", "{config}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{wrong}");
                    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
                }
            }
        }
        assert_eq!(Config::parse("http://h").unwrap_err().kind(), ErrorKind::Unsupported);
        #[cfg(not(feature = "tls"))]
        assert_eq!(Config::parse("rediss://h").unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn the_password_is_never_printed() {
        let config = Config::parse("redis://me:hunter2@h").unwrap();
        assert!(!format!("{config} {config:?}").contains("hunter2"));
        let config = Config::new("h", 1).with_credentials(None, "hunter2");
        assert!(!format!("{config} {config:?}").contains("hunter2"));
    }
}
