//! Every fault of the proxy, with a control, before a server that echoes, and before real ones.
#![cfg(unix)]

mod echo;
mod losses;
mod passing;
mod redis;
#[path = "../session/mod.rs"]
mod session;
mod zookeeper;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it waits to see that nothing comes.
const QUIET: Duration = Duration::from_millis(300);

/// A client that waits for ever for nothing.
struct Client(TcpStream);

impl Client {
    fn to(address: SocketAddr) -> Self {
        Self::try_to(address).unwrap()
    }

    fn try_to(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).unwrap();
    }

    /// Exactly as much as this.
    fn read(&mut self, length: usize) -> io::Result<String> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    /// The answer to this, which an echo repeats.
    #[track_caller]
    fn echoes(&mut self, text: &str) {
        self.send(text);
        assert_eq!(self.read(text.len()).unwrap(), text);
    }

    /// Nothing comes, and the connection stays.
    #[track_caller]
    fn hears_nothing(&mut self) {
        self.0.set_read_timeout(Some(QUIET)).unwrap();
        let error = self.0.read(&mut [0]).expect_err("something came, or the end");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    /// The connection is reset.
    #[track_caller]
    fn is_reset(&mut self) {
        let error = self.0.read(&mut [0]).expect_err("something came, or the end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    }
}

/// Who connects is reset, perhaps before it is known that there is a connection.
#[track_caller]
fn is_reset_at(address: SocketAddr) {
    match Client::try_to(address) {
        Ok(mut client) => client.is_reset(),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Asks until it is so.
#[track_caller]
fn until(what: &str, mut ask: impl FnMut() -> bool) {
    let steps = PATIENCE.as_millis() / 5;
    let so = (0..steps).any(|_| {
        ask() || {
            std::thread::sleep(Duration::from_millis(5));
            false
        }
    });
    assert!(so, "{what}");
}
