//! One connection.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coord_core::clock::{Clock, Moment};
use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
};

use super::{
    Shared, Way,
    framing::{Framer, Next, Part},
    rules::Half,
    settings::{Flow, Settings},
};

/// How many pieces may be under way.
const PIECES: usize = 1024;
/// How much is read at once.
const READ: usize = 16 * 1024;

/// What is under way.
enum Piece {
    Bytes {
        bytes: Vec<u8>,
        part: Part,
    },
    /// The sender has said that it says no more.
    End,
    /// The sender has gone.
    Reset,
}

/// How a direction, or the connection, came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Orderly,
    Reset,
}

/// Passes everything on between the client and the server until both have ended or something cuts them.
pub(super) async fn link(mut client: TcpStream, number: u64, shared: Arc<Shared>) {
    shared.rules.count(|counts| counts.connections += 1);
    let mut random = Rng::with_seed(shared.options.seed.wrapping_add(number));
    let mut side = Side::new(&shared, Way::ToServer, random.fork());
    let back = Side::new(&shared, Way::ToClient, random.fork());
    let cut = until_cut(shared.settings.subscribe(), random.f64());
    let passing = async {
        // Where nothing passes to the server, it does not hear of the connection either.
        side.until_open().await;
        let server = TcpStream::connect(&shared.server).await?;
        server.set_nodelay(true)?;
        client.set_nodelay(true)?;
        Ok::<_, io::Error>(server)
    };
    tokio::pin!(cut);
    // Nothing passes on a connection that is to end at once.
    let server = tokio::select! {
        biased;
        () = &mut cut => None,
        server = passing => server.ok(),
    };
    let Some(mut server) = server else {
        reset(&[&client], &shared);
        return;
    };
    let ended = {
        let framer = shared.options.protocol.as_ref().map(|protocol| Mutex::new(protocol.framer()));
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let doomed = Mutex::default();
        let both = async {
            let up = side.pass(from_client, to_server, framer.as_ref(), &doomed);
            let down = back.pass(from_server, to_client, framer.as_ref(), &doomed);
            tokio::pin!(up, down);
            tokio::select! {
                Ended::Reset = &mut up => Ended::Reset,
                Ended::Reset = &mut down => Ended::Reset,
                else => Ended::Orderly,
            }
        };
        tokio::select! {
            biased;
            () = cut => Ended::Reset,
            ended = both => ended,
        }
    };
    if ended == Ended::Reset {
        reset(&[&client, &server], &shared);
    }
}

/// Has these reset when they are dropped.
fn reset(streams: &[&TcpStream], shared: &Shared) {
    shared.rules.count(|counts| counts.resets += 1);
    for stream in streams {
        // One that is gone needs none.
        let _ = stream.set_zero_linger();
    }
}

/// Until the connection is to be reset: with all others, or after this part of the longest time that one lasts.
async fn until_cut(mut settings: watch::Receiver<Settings>, part: f64) {
    let born = settings.borrow_and_update().cuts;
    let mut end: Option<(Duration, Moment)> = None;
    loop {
        let (cuts, longest) = {
            let settings = settings.borrow_and_update();
            (settings.cuts, settings.longest)
        };
        if cuts != born {
            return;
        }
        if end.map(|(longest, _)| longest) != longest {
            end = longest.map(|longest| (longest, now().after(longest.mul_f64(part))));
        }
        let left = end.map(|(_, end)| end.since(now()));
        // A timer takes up to a millisecond even for no time.
        if left == Some(Duration::ZERO) {
            return;
        }
        let over = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = over => return,
            () = changed(&mut settings) => {}
        }
    }
}

fn now() -> Moment {
    Clock::System.now()
}

async fn changed(settings: &mut watch::Receiver<Settings>) {
    if settings.changed().await.is_err() {
        // The proxy is about to end, and this with it.
        std::future::pending::<()>().await;
    }
}

/// One direction.
struct Side<'a> {
    shared: &'a Shared,
    way: Way,
    settings: watch::Receiver<Settings>,
    random: Rng,
    /// Something was lost, so that nothing that follows would make sense.
    black: bool,
    /// When the last piece was sent, and how long it was.
    last: (Moment, usize),
}

type Parts<'a> = Option<&'a Mutex<Box<dyn Framer>>>;
/// The numbers of requests whose replies are to be lost, and whether in silence.
type Doomed = Mutex<HashMap<u64, bool>>;

impl<'a> Side<'a> {
    fn new(shared: &'a Shared, way: Way, random: Rng) -> Self {
        Self { shared, way, settings: shared.settings.subscribe(), random, black: false, last: (now(), 0) }
    }

    fn flow(&mut self) -> Flow {
        let settings = self.settings.borrow_and_update();
        if self.way == Way::ToServer { settings.to_server } else { settings.to_client }
    }

    async fn until_open(&mut self) {
        loop {
            let flow = self.flow();
            if !flow.frozen && !flow.black {
                return;
            }
            changed(&mut self.settings).await;
        }
    }

    async fn pass(
        mut self,
        from: ReadHalf<'_>,
        to: WriteHalf<'_>,
        parts: Parts<'_>,
        doomed: &Doomed,
    ) -> Ended {
        let (way, (sender, receiver)) = (self.way, mpsc::channel(PIECES));
        let writing = self.write(to, receiver, doomed);
        let reading = read(from, way, parts, sender);
        let reading = async {
            reading.await;
            // Writing tells how it ended, when it comes to the last piece.
            std::future::pending().await
        };
        tokio::select! {
            ended = writing => ended,
            ended = reading => ended,
        }
    }

    async fn write(
        &mut self,
        mut to: WriteHalf<'_>,
        mut pieces: mpsc::Receiver<(Moment, Piece)>,
        doomed: &Doomed,
    ) -> Ended {
        loop {
            let Some((arrived, piece)) = pieces.recv().await else { return Ended::Reset };
            let part = self.random.f64();
            let passes = self
                .turn(|flow| (flow.delay + flow.jitter.mul_f64(part)).saturating_sub(now().since(arrived)));
            let passes = passes.await;
            match piece {
                Piece::Bytes { .. } if !passes => {}
                Piece::Bytes { bytes, part } => {
                    if self.lose(&part, doomed) {
                        if !self.black {
                            return Ended::Reset;
                        }
                    } else {
                        self.send(&mut to, &bytes).await;
                    }
                }
                Piece::End | Piece::Reset if !passes => {
                    // The other end learns nothing as long as nothing passes.
                    self.until_open().await;
                    return Ended::Reset;
                }
                Piece::End => {
                    let _ = to.shutdown().await;
                    return Ended::Orderly;
                }
                Piece::Reset => return Ended::Reset,
            }
        }
    }

    /// Waits as long as the settings say; whether it passes then, or is gone.
    async fn turn(&mut self, wait: impl Fn(&Flow) -> Duration) -> bool {
        loop {
            let flow = self.flow();
            if self.black || flow.black {
                self.black = true;
                return false;
            }
            let left = wait(&flow);
            if flow.frozen {
                changed(&mut self.settings).await;
            } else if left.is_zero() {
                return true;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = changed(&mut self.settings) => {}
                }
            }
        }
    }

    /// Whether this part is to be lost. A silent loss makes the rest of this direction black.
    fn lose(&mut self, part: &Part, doomed: &Doomed) -> bool {
        let doomed = || doomed.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = &self.shared.rules;
        let silent = match part {
            Part::Other => return false,
            Part::Event => {
                rules.count(|counts| counts.events += 1);
                return false;
            }
            Part::Request { kind, id } => match rules.request(kind) {
                Some(loss) if loss.half == Half::Request => loss.silent,
                Some(loss) => {
                    doomed().insert(*id, loss.silent);
                    return false;
                }
                None => return false,
            },
            Part::Reply(id) => match doomed().remove(id) {
                Some(silent) => silent,
                None => return false,
            },
        };
        rules.count(|counts| counts.lost += 1);
        self.black |= silent;
        true
    }

    async fn send(&mut self, to: &mut WriteHalf<'_>, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (sent, last) = self.last;
            if !self.turn(|flow| flow.time_of(last).saturating_sub(now().since(sent))).await {
                return;
            }
            let flow = self.flow();
            let (piece, tail) = rest.split_at(rest.len().min(flow.at_once()));
            if to.write_all(piece).await.is_err() {
                // The other direction says so.
                self.black = true;
                return;
            }
            let bytes = piece.len() as u64;
            self.shared.rules.count(|counts| match self.way {
                Way::ToServer => counts.to_server += bytes,
                _ => counts.to_client += bytes,
            });
            self.last = (now(), piece.len());
            rest = tail;
            // So that pieces do not go out together.
            tokio::task::yield_now().await;
        }
    }
}

/// Reads what comes, part by part where the protocol is known, until the sender ends.
async fn read(mut from: ReadHalf<'_>, way: Way, mut parts: Parts<'_>, to: mpsc::Sender<(Moment, Piece)>) {
    let (mut buffer, mut waiting) = (vec![0; READ], Vec::new());
    loop {
        let end = match from.read(&mut buffer).await {
            Ok(0) => Some(Piece::End),
            Ok(count) => {
                waiting.extend_from_slice(&buffer[..count]);
                None
            }
            Err(_) => Some(Piece::Reset),
        };
        while let Some(framer) = parts
            && !waiting.is_empty()
        {
            match next(framer, way, &waiting) {
                Next::More => break,
                Next::Unknown => parts = None,
                Next::Frame(length, part) => {
                    let rest = waiting.split_off(length.clamp(1, waiting.len()));
                    let bytes = std::mem::replace(&mut waiting, rest);
                    if to.send((now(), Piece::Bytes { bytes, part })).await.is_err() {
                        return;
                    }
                }
            }
        }
        if !waiting.is_empty() && (parts.is_none() || end.is_some()) {
            let piece = Piece::Bytes { bytes: std::mem::take(&mut waiting), part: Part::Other };
            if to.send((now(), piece)).await.is_err() {
                return;
            }
        }
        if let Some(end) = end {
            let _ = to.send((now(), end)).await;
            return;
        }
    }
}

fn next(framer: &Mutex<Box<dyn Framer>>, way: Way, bytes: &[u8]) -> Next {
    let mut framer = framer.lock().unwrap_or_else(PoisonError::into_inner);
    if way == Way::ToServer { framer.request(bytes) } else { framer.reply(bytes) }
}
