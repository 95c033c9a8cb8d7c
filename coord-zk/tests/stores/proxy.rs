//! A link between a client and its server that counts requests, and breaks when it is told to.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use coord_conformance::servers::ZooKeeper;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

/// Codes of requests.
pub(crate) mod op {
    pub(crate) const SYNC: i32 = 9;
    pub(crate) const MULTI: i32 = 14;
    pub(crate) const CREATE: i32 = 15;
    pub(crate) const SET: i32 = 5;
    pub(crate) const READ: i32 = 22;
    pub(crate) const WATCH: i32 = 106;
    pub(crate) const PING: i32 = 11;
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lose {
    Reply,
    Request,
}

#[derive(Debug, Default)]
struct State {
    counts: HashMap<i32, usize>,
    /// After so many requests of this code, this half of it is lost, and the connection with it.
    lose: Option<(Lose, i32, usize)>,
    losses: usize,
}

/// The link.
#[derive(Debug)]
pub(crate) struct Proxy {
    state: Arc<Mutex<State>>,
    port: u16,
}

impl Proxy {
    pub(crate) async fn before(server: &ZooKeeper) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, state, to) =
            (listener.local_addr().unwrap().port(), Arc::<Mutex<State>>::default(), server.port());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                tokio::spawn(link(client, server, shared.clone()));
            }
        });
        Self { state, port }
    }

    /// The URL of a place of the server, over this link.
    pub(crate) fn url(&self, place: &str) -> String {
        let (_, path) = place.trim_start_matches("zk://").split_once('/').unwrap();
        format!("zk://127.0.0.1:{}/{path}", self.port)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was counted.
    pub(crate) fn reset(&self) {
        self.state().counts.clear();
    }

    /// How many requests of this code were sent.
    pub(crate) fn count(&self, code: i32) -> usize {
        self.state().counts.get(&code).copied().unwrap_or(0)
    }

    /// How many requests were sent, but for signs of life.
    pub(crate) fn total(&self) -> usize {
        self.state().counts.iter().filter(|(code, _)| **code != op::PING).map(|(_, count)| count).sum()
    }

    /// Loses the reply to the `nth` request of this code from now on, counted from one, and the connection.
    pub(crate) fn lose_reply(&self, code: i32, nth: usize) {
        self.state().lose = Some((Lose::Reply, code, nth));
    }

    /// Loses the request instead.
    pub(crate) fn lose_request(&self, code: i32, nth: usize) {
        self.state().lose = Some((Lose::Request, code, nth));
    }

    /// How often something was lost.
    pub(crate) fn losses(&self) -> usize {
        self.state().losses
    }
}

async fn link(client: TcpStream, server: TcpStream, state: Arc<Mutex<State>>) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let (doomed, cut) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
    tokio::select! {
        _ = requests(from_client, to_server, &state, &doomed) => {}
        _ = replies(from_server, to_client, &state, &doomed) => {}
        () = cut.notified() => {}
    }
}

/// No request and no reply is so large; words of four letters look as if they were.
const MOST: u32 = 100 << 20;

async fn frame(from: &mut OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    if length > MOST {
        return Err(std::io::Error::other("not the protocol"));
    }
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

fn number(frame: &[u8], at: usize) -> i32 {
    i32::from_be_bytes(frame[at..at + 4].try_into().unwrap())
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: &Mutex<State>,
    doomed: &Mutex<Option<i32>>,
) -> std::io::Result<()> {
    // The first one opens the session and has no code.
    let opening = frame(&mut from).await?;
    to.write_all(&opening).await?;
    loop {
        let frame = frame(&mut from).await?;
        let (id, code) = (number(&frame, 4), number(&frame, 8));
        let lost = {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            *state.counts.entry(code).or_default() += 1;
            match &mut state.lose {
                Some((half, wanted, left)) if *wanted == code => {
                    *left -= 1;
                    let (half, left) = (*half, *left);
                    if left == 0 {
                        state.lose = None;
                        state.losses += 1;
                        Some(half)
                    } else {
                        None
                    }
                }
                _ => None,
            }
        };
        match lost {
            Some(Lose::Request) => return Ok(()),
            Some(Lose::Reply) => *doomed.lock().unwrap_or_else(PoisonError::into_inner) = Some(id),
            None => {}
        }
        to.write_all(&frame).await?;
    }
}

async fn replies(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    _state: &Mutex<State>,
    doomed: &Mutex<Option<i32>>,
) -> std::io::Result<()> {
    let opened = frame(&mut from).await?;
    to.write_all(&opened).await?;
    loop {
        let frame = frame(&mut from).await?;
        if Some(number(&frame, 4)) == *doomed.lock().unwrap_or_else(PoisonError::into_inner) {
            // The server has done it, and nobody hears of it.
            return Ok(());
        }
        to.write_all(&frame).await?;
    }
}
