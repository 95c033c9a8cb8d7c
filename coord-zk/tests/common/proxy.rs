//! A way to a server on which requests are counted and which can be cut.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What the protocol calls a watch that fired.
const EVENT: i32 = -1;
const PING: i32 = 11;

/// A way to a server on this host.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    counts: Arc<Mutex<Counts>>,
    connections: Arc<AtomicU64>,
    state: watch::Sender<State>,
}

/// What went through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests by their operation, without pings and what opens and closes sessions.
    pub(crate) requests: BTreeMap<&'static str, u64>,
    /// Watches that fired.
    pub(crate) events: u64,
}

impl Counts {
    pub(crate) fn total(&self) -> u64 {
        self.requests.values().sum()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing goes through, and nobody is told.
    Silent,
    /// Nothing goes from the server to the client.
    Deaf,
    /// All connections end, and no new ones are taken.
    Cut,
}

impl Proxy {
    /// A way to the server of this URL.
    pub(crate) async fn to(url: &str) -> Self {
        let server = super::hosts(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let counts = Arc::<Mutex<Counts>>::default();
        let (state, states) = watch::channel(State::Open);
        let counting = Arc::clone(&counts);
        let connections = Arc::<AtomicU64>::default();
        let taken = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                taken.fetch_add(1, Ordering::Relaxed);
                if *states.borrow() == State::Cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (requests, events) = (Arc::clone(&counting), Arc::clone(&counting));
                let up = pass(from_client, to_server, states.clone(), State::Open, move |head| {
                    if let Some(name) = operation(head) {
                        *requests.lock().unwrap().requests.entry(name).or_default() += 1;
                    }
                });
                let down = pass(from_server, to_client, states.clone(), State::Deaf, move |head| {
                    if number(&head[..4]) == EVENT {
                        events.lock().unwrap().events += 1;
                    }
                });
                tokio::spawn(async move {
                    tokio::select! {
                        () = up => {}
                        () = down => {}
                    }
                });
            }
        });
        Self { port, counts, connections, state }
    }

    /// The URL of the same place on this way.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(super::hosts(url), &format!("127.0.0.1:{}", self.port))
    }

    /// What went through since it was asked last.
    pub(crate) fn counts(&self) -> Counts {
        std::mem::take(&mut self.counts.lock().unwrap())
    }

    /// What went through, when nothing has for a while.
    pub(crate) async fn settled(&self) -> Counts {
        let mut last = Counts::default();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.counts.lock().unwrap().clone();
            if now == last {
                return self.counts();
            }
            last = now;
        }
    }

    /// How many connections were ever taken.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// From now on nothing goes through; connections stay.
    pub(crate) fn silence(&self) {
        self.state.send_replace(State::Silent);
    }

    /// From now on requests arrive, and nothing comes back.
    pub(crate) fn deafen(&self) {
        self.state.send_replace(State::Deaf);
    }

    /// Ends all connections, and takes no new ones.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

/// Passes packets on, and shows the first eight bytes of all but the first, which opens the session.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut states: watch::Receiver<State>,
    also_stopped_by: State,
    mut count: impl FnMut(&[u8]),
) {
    let mut first = true;
    loop {
        let packet = tokio::select! {
            packet = read(&mut from) => packet,
            _ = states.wait_for(|state| *state == State::Cut) => return,
        };
        let Some(packet) = packet else { return };
        // Waits as long as it is silent.
        let passes = |state: &State| {
            *state == State::Cut
                || *state == State::Open
                || (*state == State::Deaf && also_stopped_by != State::Deaf)
        };
        match states.wait_for(passes).await {
            Ok(state) if *state != State::Cut => {}
            _ => return,
        }
        if !std::mem::replace(&mut first, false) && packet.len() >= 12 {
            count(&packet[4..12]);
        }
        if to.write_all(&packet).await.is_err() {
            return;
        }
    }
}

async fn read(from: &mut OwnedReadHalf) -> Option<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet).await.ok()?;
    let length = usize::try_from(number(&packet)).ok()?;
    packet.resize(4 + length, 0);
    from.read_exact(&mut packet[4..]).await.ok()?;
    Some(packet)
}

fn number(bytes: &[u8]) -> i32 {
    i32::from_be_bytes(bytes[..4].try_into().unwrap())
}

/// The names of the operations that are counted; see `ZooDefs.OpCode`.
fn operation(head: &[u8]) -> Option<&'static str> {
    Some(match number(&head[4..]) {
        2 => "delete",
        3 => "exists",
        4 => "getData",
        5 => "setData",
        8 | 12 => "getChildren",
        9 => "sync",
        14 => "multi",
        1 | 15 | 19 => "create",
        18 => "removeWatches",
        22 => "multiRead",
        106 => "addWatch",
        PING | 100 | 101 | 105 | -11 => return None,
        _ => "other",
    })
}
