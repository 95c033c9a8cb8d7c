//! A way between a client and its server that a test can spoil.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use std::time::Duration;
//!
//! use coord_conformance::proxy::{Loss, Options, Proxy, Way, framing};
//!
//! let options = Options::default().with_protocol(framing::Redis).with_seed(7);
//! let proxy = Proxy::start_with("redis://127.0.0.1:6379", options)?;
//! // … connect to `proxy.url()`, and then:
//! proxy.delay(Way::Both, Duration::from_millis(50), Duration::from_millis(20));
//! proxy.lose(Loss::reply(3).of("EVALSHA"));
//! proxy.blackhole(Way::ToClient);
//! proxy.heal();
//! println!("{:?}", proxy.counts());
//! # Ok(())
//! # }
//! ```
//!
//! | fault | what becomes of connections |
//! | --- | --- |
//! | [`delay`](Proxy::delay) | each piece arrives later by a delay and a part of the jitter; the order stays |
//! | [`limit`](Proxy::limit), [`slice`](Proxy::slice) | so many bytes a second; pieces of so many bytes |
//! | [`freeze`](Proxy::freeze) | nothing passes, and arrives when it is healed: a network that comes back before TCP gives up |
//! | [`blackhole`](Proxy::blackhole) | what is sent is gone, and so is the end of a connection; both ends believe in it |
//! | [`cut`](Proxy::cut), [`shorten`](Proxy::shorten) | reset now, or each after a random part of a time |
//! | [`refuse`](Proxy::refuse) | those that are there go on, and nobody listens for others |
//! | [`lose`](Proxy::lose) | the request arrives and its reply does not, or not even the request |
//!
//! Faults hold for all present and future connections until [`heal`](Proxy::heal), and together. What is sent after a
//! call has returned meets the fault. All but the last know nothing of the protocol; that one needs to be told where
//! requests and replies begin and end, by one of [`framing`] or by the test's own [`framing::Protocol`].
//!
//! A proxy has a thread of its own: a busy or paused runtime of the test does not slow it down. Its random numbers
//! come from the seed and the number of the connection, so that one run is like another as far as the pieces
//! are that its ends send.

mod door;
pub mod framing;
mod link;
mod options;
mod rules;
mod settings;

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{mpsc as queue, watch};

use self::{
    door::{Door, Order},
    rules::Rules,
    settings::Settings,
};
pub use self::{
    options::Options,
    rules::{Counts, Loss},
    settings::Way,
};
use crate::servers::network::Port;

/// A proxy before one server, on a port of 127.0.0.1. It ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// The target as it was given.
    target: String,
    port: Port,
    shared: Arc<Shared>,
    orders: queue::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What the connections and the proxy's owner have in common.
struct Shared {
    /// `host:port` of the server.
    server: String,
    options: Options,
    settings: watch::Sender<Settings>,
    rules: Rules,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("settings", &*self.settings.borrow()).finish_non_exhaustive()
    }
}

impl Proxy {
    /// A proxy before the server of this URL, or at this `host:port`, that passes everything on.
    ///
    /// # Errors
    /// If the target names no server with its port, or several, or there is no port to listen on.
    pub fn start(target: impl Into<String>) -> io::Result<Self> {
        Self::start_with(target, Options::default())
    }

    /// The same with a seed, or with a protocol, which makes it count requests and lose those that it is told to.
    ///
    /// # Errors
    /// As of [`Proxy::start`].
    pub fn start_with(target: impl Into<String>, options: Options) -> io::Result<Self> {
        let target = target.into();
        let server = authority(&target).to_owned();
        let one = server.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && !server.contains(',') && port.parse::<u16>().is_ok()
        });
        if !one {
            // The target may hold a password; the error does not repeat it.
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a proxy stands before one host:port"));
        }
        let port = Port::reserve()?;
        let shared = Arc::new(Shared {
            server,
            options,
            settings: watch::Sender::new(Settings::default()),
            rules: Rules::default(),
        });
        let (orders, taken) = queue::unbounded_channel();
        let door = Door::open(port.number(), taken, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new().name("proxy".into()).spawn(move || door.run())?;
        Ok(Self { target, port, shared, orders, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.number()).into()
    }

    /// The port of 127.0.0.1 on which it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The target, with the proxy's address in place of the server's.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of(&self.target)
    }

    /// This URL, with the proxy's address in place of its host and port: for another user or another place of the same
    /// server.
    #[must_use]
    pub fn url_of(&self, url: &str) -> String {
        url.replacen(authority(url), &self.addr().to_string(), 1)
    }

    /// What arrives does so later by the delay and a random part of the jitter.
    pub fn delay(&self, way: Way, delay: Duration, jitter: Duration) {
        self.set(way, |flow| (flow.delay, flow.jitter) = (delay, jitter));
    }

    /// So many bytes a second pass on each connection.
    ///
    /// # Panics
    /// If that is none: see [`Proxy::freeze`].
    pub fn limit(&self, way: Way, bytes_per_second: u32) {
        assert!(bytes_per_second > 0, "no bytes at all: that is a freeze");
        self.set(way, |flow| flow.limit = Some(bytes_per_second));
    }

    /// No piece that arrives is longer than so many bytes.
    ///
    /// # Panics
    /// If that is none.
    pub fn slice(&self, way: Way, bytes: usize) {
        assert!(bytes > 0, "pieces of nothing");
        self.set(way, |flow| flow.slice = Some(bytes));
    }

    /// Nothing passes until it is healed; then it arrives.
    pub fn freeze(&self, way: Way) {
        self.set(way, |flow| flow.frozen = true);
    }

    /// What is sent is gone. Connections stay, and so do new ones, which the server does not hear of. The end of a
    /// connection is not told either.
    ///
    /// After [`Proxy::heal`] new connections work. One that has lost something stays as it is, since what followed would
    /// make no sense: its ends have to find that out by themselves, unless one of them has ended it meanwhile; then
    /// the other is told.
    pub fn blackhole(&self, way: Way) {
        self.set(way, |flow| flow.black = true);
    }

    /// Resets all connections that are there. New ones are taken.
    pub fn cut(&self) {
        self.shared.settings.send_modify(|settings| settings.cuts += 1);
    }

    /// Resets each connection, present or future, after a random part of this time. If that is zero, a new one is taken and reset
    /// before anything passes.
    pub fn shorten(&self, longest: Duration) {
        self.shared.settings.send_modify(|settings| settings.longest = Some(longest));
    }

    /// Listens no more, so that new connections are refused. Those that are there go on.
    pub fn refuse(&self) {
        self.order(Order::Close);
    }

    /// Loses a request or a reply, and the connection with it.
    ///
    /// # Panics
    /// If it was started without a protocol and does not know what a request is.
    pub fn lose(&self, loss: Loss) {
        assert!(self.shared.options.protocol.is_some(), "the proxy was started without a protocol");
        self.shared.rules.lose(loss);
    }

    /// Takes back every fault, also those that were to come.
    ///
    /// # Panics
    /// If it cannot listen on its port again because another program does.
    pub fn heal(&self) {
        self.shared.rules.forget_losses();
        self.shared.settings.send_modify(|settings| {
            *settings = Settings { cuts: settings.cuts, ..Settings::default() };
        });
        self.order(Order::Open);
    }

    /// What passed since it was started or [reset](Proxy::reset_counts).
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.rules.counts()
    }

    /// Forgets what was counted.
    ///
    /// Returns it, so that nothing is lost in between.
    pub fn reset_counts(&self) -> Counts {
        self.shared.rules.reset()
    }

    fn set(&self, way: Way, change: impl Fn(&mut settings::Flow)) {
        self.shared.settings.send_modify(|settings| settings.flows(way).for_each(&change));
    }

    /// Waits until it is done, so that a connection that is made afterwards meets it.
    fn order(&self, order: fn(mpsc::Sender<io::Result<()>>) -> Order) {
        let (done, told) = mpsc::channel();
        let sent = self.orders.send(order(done)).is_ok();
        match told.recv() {
            Ok(result) if sent => result.expect("the port is reserved"),
            _ => panic!("the proxy has ended"),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread may have panicked; nobody is left to hear of it.
        let _ = self.orders.send(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The hosts of a URL, or the text itself if it is none.
pub(crate) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
    rest.rsplit_once('@').map_or(rest, |(_, hosts)| hosts)
}

#[cfg(test)]
mod tests {
    use super::authority;

    #[test]
    fn the_authority_of_a_url_has_no_user_and_no_path() {
        for (url, hosts) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("zk://127.0.0.1:1", "127.0.0.1:1"),
            ("zk://127.0.0.1:1/a/b?timeout=1", "127.0.0.1:1"),
            ("redis://user:p%40ss@127.0.0.1:1?db=2", "127.0.0.1:1"),
            ("etcd://127.0.0.1:1,127.0.0.1:2/a", "127.0.0.1:1,127.0.0.1:2"),
        ] {
            assert_eq!(authority(url), hosts, "{url}");
        }
    }
}
