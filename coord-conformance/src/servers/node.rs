//! A server of any kind, and what a test does to it.

use std::{io, path::Path};

use url::Url;

#[cfg(feature = "containers")]
use super::container::Container;
use super::{Unavailable, network::Port, process::Process};

/// Where a server came from.
#[derive(Debug)]
pub(super) enum Node {
    /// Somebody else's, at a URL.
    Given,
    /// A program of this host.
    Program(Process, #[allow(dead_code, reason = "held, so that nobody else gets the port")] Port),
    /// A container.
    #[cfg(feature = "containers")]
    Container(Container),
}

impl Node {
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Program(process, _) => Some(process.id()),
            _ => None,
        }
    }

    /// The folder of a program of this host.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Program(process, _) => Some(process.folder()),
            _ => None,
        }
    }

    /// Waits until it answers.
    pub(super) fn until_ready(&self, ready: impl FnMut() -> bool) -> io::Result<()> {
        match self {
            Self::Given => Ok(()),
            Self::Program(process, _) => process.until_ready(ready),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.until_ready(ready),
        }
    }

    pub(super) fn stop(&self) -> io::Result<()> {
        match self {
            Self::Given => Err(not_ours()),
            Self::Program(process, _) => process.stop(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.stop(),
        }
    }

    pub(super) fn resume(&self) -> io::Result<()> {
        match self {
            Self::Given => Err(not_ours()),
            Self::Program(process, _) => process.resume(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.resume(),
        }
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        match self {
            Self::Given => Err(not_ours()),
            Self::Program(process, _) => process.kill(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.kill(),
        }
    }

    pub(super) fn restart(&mut self) -> io::Result<()> {
        match self {
            Self::Given => Err(not_ours()),
            Self::Program(process, _) => process.restart(),
            #[cfg(feature = "containers")]
            Self::Container(container) => container.restart(),
        }
    }
}

fn not_ours() -> io::Error {
    let text =
        "this server was given by its URL; a test that stops or kills one asks for its own in the options";
    io::Error::new(io::ErrorKind::Unsupported, text)
}

/// The URL in this environment variable, if it is set.
pub(super) fn given(variable: &str) -> Result<Option<Url>, Unavailable> {
    let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
    // The value may hold a password; the error does not repeat it.
    let url = value.to_str().and_then(|text| Url::parse(text).ok());
    url.map(Some).ok_or_else(|| Unavailable::broken(format!("{variable} is not a URL")))
}

/// Why there is neither a program nor a container.
#[cfg(not(feature = "containers"))]
pub(super) fn no_containers(no_program: &Unavailable) -> Unavailable {
    Unavailable::new(format!("{no_program}; containers need the feature `containers` of coord-conformance"))
}

/// The URL with this user and password.
pub(super) fn with_user(url: &Url, user: &str, password: &str) -> String {
    let mut url = url.clone();
    // Both fail for URLs without a host only. `%` is the one character that they leave as it is.
    let _ = url.set_username(&user.replace('%', "%25"));
    let _ = url.set_password(Some(&password.replace('%', "%25")));
    url.into()
}

/// Starts with a fresh port, again with another one if somebody was faster.
pub(super) fn on_a_free_port<T>(mut start: impl FnMut(Port) -> io::Result<T>) -> io::Result<T> {
    let mut tries = 0;
    loop {
        tries += 1;
        match start(Port::reserve()?) {
            // Redis and Postgres say so, each in its log.
            Err(error) if tries < 5 && error.to_string().contains("in use") => {}
            result => return result,
        }
    }
}

/// Undoes the encoding of a part of a URL.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
