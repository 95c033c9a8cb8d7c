//! Barriers: wait for one another.
//!
//! # How it works
//! Every party is a claim of weight zero in one line, granted at once. The first party that sees `parties` claims which
//! belong to no earlier round writes into its own claim's value through which token its round reaches: from then on
//! everyone up to that token may go, even if some of them vanish. A party stays in the line until all others of its
//! round have gone too, so that one who looks late still finds the mark.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::{sync::Notify, time::sleep};

use crate::{
    Coordinator, Error, ErrorKind, FencingToken, Name, Result,
    coordinator::Request,
    engine::{
        Engine, attempt,
        hold::Hold,
        trace::{Tokened, traced, traced_holding},
        watch::follow,
    },
    limits,
    spi::{Entry, Kind, Line, LineId},
};

/// Barriers for a fixed number of parties, reusable round after round. All parties of a name must name the same number.
///
/// A party that crashes, or gives up, before a round is complete does not count. Once a round is complete, all of its
/// parties pass.
#[async_trait]
pub trait Barrier: Send + Sync {
    /// Waits until `parties` parties wait here.
    ///
    /// # Cancel safety
    /// Dropped halfway, the party leaves. Others may have counted it already; then they pass without it.
    ///
    /// # Errors
    /// [`ErrorKind::NotGranted`] when [`BarrierOptions::wait`] is over; [`ErrorKind::Lost`] if its lease ended while it
    /// waited; [`ErrorKind::InvalidOptions`] unless `1 <= parties <= `[`limits::MAX_PARTIES`]; what the store says.
    async fn wait(&self, name: &Name, parties: u32, options: &BarrierOptions) -> Result<BarrierPass>;

    /// The first half of a double barrier: waits until `parties` parties want to enter. [`Inside::leave`] is the other.
    /// A double barrier and a single one of the same name are one line: use two names for two purposes.
    ///
    /// # Cancel safety
    /// As [`Barrier::wait`].
    ///
    /// # Errors
    /// As [`Barrier::wait`].
    async fn enter(&self, name: &Name, parties: u32, options: &BarrierOptions) -> Result<Inside>;
}

/// How to wait at a barrier. The default waits for ever with a TTL of [`limits::DEFAULT_TTL`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct BarrierOptions {
    /// How long a crashed party counts.
    pub ttl: Duration,
    /// How long to wait; `None` for ever.
    pub wait: Option<Duration>,
    /// Who waits, for people; `None` for the coordinator's owner text.
    pub owner: Option<String>,
}

impl Default for BarrierOptions {
    fn default() -> Self {
        Self { ttl: limits::DEFAULT_TTL, wait: None, owner: None }
    }
}

impl BarrierOptions {
    /// With this TTL.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Waiting for at most this long.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.wait = Some(wait);
        self
    }

    /// With this owner text.
    #[must_use]
    pub fn with_owner(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }
}

/// A barrier that was passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BarrierPass {
    /// The fencing token of this party in this round; unique, and greater than all of the rounds before.
    pub token: FencingToken,
    /// In which order the party came, from zero, among those whom it saw. Usually exactly one has zero.
    pub index: u32,
}

impl Tokened for BarrierPass {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.token)
    }
}

/// What a party writes into its claim's value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    /// Its round begins after this token; zero if it is the first.
    after: u64,
    /// Its round is complete and reaches to this token; zero while it is not.
    through: u64,
    /// It wants to leave.
    leaving: bool,
}

impl Mark {
    fn of(entry: &Entry) -> Self {
        serde_json::from_slice(&entry.value).unwrap_or_default()
    }

    fn encode(self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self)
            .map_err(|error| Error::new(ErrorKind::Internal, "a barrier's mark").with_source(error))
    }
}

/// The round of the party with this token, once it is complete; else how many have come.
fn round(line: &Line, own: FencingToken, parties: u32) -> Result<Mark, u32> {
    let marks = || line.entries.iter().map(Mark::of).filter(|mark| mark.through > 0);
    let mine = marks().filter(|mark| mark.after < own.get() && own.get() <= mark.through);
    if let Some(mark) = mine.min_by_key(|mark| mark.through) {
        return Ok(Mark { leaving: false, ..mark });
    }
    let after = marks().map(|mark| mark.through).max().unwrap_or(0);
    if own.get() <= after {
        // Its round is complete, but everyone who left a mark of it has gone. The next round began where it ended.
        let end = marks().map(|mark| mark.after).filter(|end| own.get() <= *end).min();
        return Ok(Mark { after: 0, through: end.unwrap_or(after), leaving: false });
    }
    let mut tokens = line.entries.iter().map(|entry| entry.token.get()).filter(|token| *token > after);
    match tokens.nth(parties as usize - 1) {
        Some(last) if own.get() <= last => Ok(Mark { after, through: last, leaving: false }),
        Some(_) => Err(0),
        None => {
            let come = line.entries.iter().filter(|entry| entry.token.get() > after).count();
            Err(u32::try_from(come).unwrap_or(u32::MAX))
        }
    }
}

/// Whether all of this round have gone or want to.
fn all_leaving(line: &Line, mark: Mark) -> bool {
    let mut round =
        line.entries.iter().filter(|entry| (mark.after + 1..=mark.through).contains(&entry.token.get()));
    round.all(|entry| Mark::of(entry).leaving)
}

#[async_trait]
impl Barrier for Coordinator {
    async fn wait(&self, name: &Name, parties: u32, options: &BarrierOptions) -> Result<BarrierPass> {
        let line = self.line_id(Kind::Barrier, name);
        traced("barrier.wait", &line, async {
            let inside = enter(self, name, parties, options).await?;
            let pass = BarrierPass { token: inside.token(), index: inside.index };
            // It stays for those who have not looked yet.
            self.engine.spawn(inside.linger());
            Ok(pass)
        })
        .await
    }

    async fn enter(&self, name: &Name, parties: u32, options: &BarrierOptions) -> Result<Inside> {
        traced("barrier.enter", &self.line_id(Kind::Barrier, name), enter(self, name, parties, options)).await
    }
}

async fn enter(
    coordinator: &Coordinator,
    name: &Name,
    parties: u32,
    options: &BarrierOptions,
) -> Result<Inside> {
    if parties == 0 || parties > limits::MAX_PARTIES {
        return Err(Error::new(
            ErrorKind::InvalidOptions,
            format!("a barrier has 1 to {} parties, not {parties}", limits::MAX_PARTIES),
        ));
    }
    let engine = &coordinator.engine;
    let line = coordinator.line_id(Kind::Barrier, name);
    let request = Request {
        weight: 0,
        limit: 0,
        ttl: options.ttl,
        wait: Some(Duration::ZERO),
        priority: 0,
        owner: options.owner.clone(),
        value: Vec::new(),
    };
    let start = engine.clock.now();
    let hold = attempt::acquire(engine, coordinator.claim(line.clone(), request)?, None, true).await?;
    let token = hold.token();
    let mut come = 1;
    let looked = Notify::new();
    let complete = async {
        let found = until(engine, &line, &hold, |line| match round(line, token, parties) {
            Ok(mark) => {
                let ahead =
                    line.entries.iter().filter(|entry| entry.token < token && entry.token.get() > mark.after);
                Some((mark, u32::try_from(ahead.count()).unwrap_or(u32::MAX)))
            }
            Err(so_far) => {
                come = so_far.max(1);
                looked.notify_one();
                None
            }
        })
        .await?;
        // Before anyone passes, the mark is in the store.
        hold.set_value(found.0.encode()?).await?;
        Ok::<_, Error>(found)
    };
    let left = options.wait.map(|wait| wait.saturating_sub(engine.clock.now().since(start)));
    let outcome = match left {
        None => Some(complete.await),
        // However short the wait, a party looks once before it gives up: it may be the one that completes the round.
        Some(left) => tokio::select! {
            biased;
            outcome = complete => Some(outcome),
            () = async {
                sleep(left).await;
                looked.notified().await;
            } => None,
        },
    };
    match outcome {
        Some(found) => {
            let (mark, index) = found?;
            Ok(Inside { engine: engine.clone(), line, hold, mark, index })
        }
        None => Err(Error::new(
            ErrorKind::NotGranted,
            format!("{come} of {parties} parties came to barrier {:?} in {:?}", name.as_str(), options.wait),
        )),
    }
}

/// Looks at the line until `look` finds what it looks for, or the party's own claim is lost.
async fn until<T>(
    engine: &Arc<Engine>,
    line: &LineId,
    hold: &Hold,
    mut look: impl FnMut(&Line) -> Option<T>,
) -> Result<T> {
    // Others may leave without a word when their process ends: look again before their leases do.
    let rest = hold.grant().ttl / 3;
    let mut states = Box::pin(follow(engine.clone(), line.clone(), Some(rest)));
    hold.run(async {
        loop {
            match states.next().await {
                Some(Ok(line)) => {
                    if let Some(found) = look(&line) {
                        return Ok(found);
                    }
                }
                Some(Err(error)) => return Err(error),
                None => return Err(Error::new(ErrorKind::Closed, "the watch of the barrier ended")),
            }
        }
    })
    .await?
}

/// A party inside a double barrier. Dropping it leaves without waiting for the others.
#[must_use = "dropping this leaves the barrier without waiting for the others"]
#[derive(Debug)]
pub struct Inside {
    engine: Arc<Engine>,
    line: LineId,
    hold: Hold,
    mark: Mark,
    index: u32,
}

impl Tokened for Inside {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.token())
    }
}

impl Inside {
    /// The fencing token of this party in this round.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.hold.token()
    }

    /// In which order the party came, from zero, among those whom it saw.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether the others still count this party as inside.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.hold.is_held()
    }

    /// Completes when the party's lease is lost: the others count it as gone.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn lost(&self) {
        self.hold.lost().await;
    }

    /// Waits until all parties of the round want to leave, or are gone.
    ///
    /// # Cancel safety
    /// Dropped halfway, the party leaves.
    ///
    /// # Errors
    /// [`ErrorKind::NotGranted`] when `wait` is over, [`ErrorKind::Lost`], what the store says: the party has left then.
    pub async fn leave(self, wait: Option<Duration>) -> Result<()> {
        let (line, token) = (self.line.clone(), self.token());
        traced_holding("barrier.leave", &line, token, async {
            match wait {
                None => self.gone().await?,
                Some(wait) => tokio::time::timeout(wait, self.gone()).await.map_err(|_| {
                    Error::new(ErrorKind::NotGranted, format!("not all parties wanted to leave in {wait:?}"))
                })??,
            }
            self.hold.release().await
        })
        .await
    }

    async fn gone(&self) -> Result<()> {
        self.hold.set_value(Mark { leaving: true, ..self.mark }.encode()?).await?;
        until(&self.engine, &self.line, &self.hold, |line| all_leaving(line, self.mark).then_some(())).await
    }

    /// Stays in the line until all others of the round have passed.
    async fn linger(self) {
        let closed = self.engine.closed();
        tokio::select! {
            biased;
            // The process is about to end: the lease keeps the mark a while for those who look late.
            () = closed.cancelled() => self.hold.forsake(),
            _ = self.gone() => {}
            () = sleep(limits::MAX_TTL) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, spi::ClaimId};

    fn line(entries: &[(u64, Option<Mark>)]) -> Line {
        let entry = |(token, mark): &(u64, Option<Mark>)| Entry {
            id: ClaimId::random(),
            token: FencingToken::new(*token).unwrap(),
            weight: 0,
            limit: 0,
            priority: 0,
            granted: Some(clock::wall()),
            joined: clock::wall(),
            expires_in: Duration::from_secs(1),
            owner: "x".into(),
            value: mark.map_or_else(Vec::new, |mark| mark.encode().unwrap()),
        };
        Line { revision: 1, entries: entries.iter().map(entry).collect() }
    }

    fn mark(after: u64, through: u64) -> Mark {
        Mark { after, through, leaving: false }
    }

    fn token(number: u64) -> FencingToken {
        FencingToken::new(number).unwrap()
    }

    #[test]
    fn rounds() {
        assert_eq!(round(&line(&[(5, None), (7, None)]), token(5), 3), Err(2));
        let full = line(&[(5, None), (7, None), (9, None), (11, None)]);
        assert_eq!(round(&full, token(7), 3), Ok(mark(0, 9)));
        assert_eq!(round(&full, token(11), 3), Err(0), "the fourth is in the next round");
        // Five passed and marked; nine vanished before seven looked; eleven came.
        let late = line(&[(5, Some(mark(0, 9))), (7, None), (11, None)]);
        assert_eq!(round(&late, token(7), 3), Ok(mark(0, 9)));
        assert_eq!(round(&late, token(11), 3), Err(1), "it must not ride on the round before");
        // A second round forms while stragglers of the first are still there.
        let second = line(&[(5, Some(mark(0, 9))), (11, None), (12, None), (13, None)]);
        assert_eq!(round(&second, token(12), 3), Ok(mark(9, 13)));
        // Seven slept through its round and the marks of it; the next round has formed.
        let asleep = line(&[(7, None), (11, Some(mark(9, 13))), (12, None), (13, None)]);
        assert_eq!(round(&asleep, token(7), 3), Ok(mark(0, 9)));
    }

    #[test]
    fn leaving() {
        let gone = Mark { leaving: true, ..mark(9, 13) };
        let line = line(&[(5, Some(mark(0, 9))), (11, Some(gone)), (12, Some(mark(9, 13)))]);
        assert!(!all_leaving(&line, mark(9, 13)));
        assert!(all_leaving(&line, mark(9, 11)));
    }
}
