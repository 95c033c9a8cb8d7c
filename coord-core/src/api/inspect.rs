//! Looking at a line from outside, and breaking the glass.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use crate::{
    Coordinator, Fence, FencingToken, Name, Result,
    engine::trace::{Tokened, traced},
    spi::{Claims, Entry, Kind, Line},
};

/// Who holds, who waits, and taking a name away from its holders.
#[async_trait]
pub trait Inspect: Send + Sync {
    /// Everyone in the line of a name, at one moment.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// What the store says.
    async fn inspect(&self, kind: Kind, name: &Name) -> Result<Inspection>;

    /// Takes a name away from all who hold it, after fencing them out: `fence`, if given, is raised to a mark above
    /// the tokens of the holders and not above the token of anyone who came after them, *before* their claims leave the
    /// line. So no write of theirs is accepted after the next holder was let in. Their guards turn lost as soon as they
    /// hear of it, at the latest at their next renewal; a plain lease that does not hear of it, at its end.
    ///
    /// `None` if nobody holds it; waiting claims stay.
    ///
    /// # Cancel safety
    /// Not cancel safe: the fence may be raised and only some of the holders be gone. Call it again.
    ///
    /// # Errors
    /// What the fence says, and then nobody is evicted; what the store says.
    async fn force_release(
        &self,
        kind: Kind,
        name: &Name,
        fence: Option<&dyn Fence>,
    ) -> Result<Option<Evicted>>;
}

/// Everyone in a line, at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Inspection {
    /// Who holds, in the order of their tokens. Several for shared locks and semaphores.
    pub holders: Vec<Party>,
    /// Who waits, in the order in which they will be granted: the first is number one in line.
    pub waiters: Vec<Party>,
}

/// One who holds or waits.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Party {
    /// The token. That of a waiter may still grow, if somebody of a higher priority overtakes it.
    pub token: FencingToken,
    /// Who it is: the owner text, or the candidate or instance id.
    pub owner: String,
    /// What it shows to others.
    pub value: Vec<u8>,
    /// How many permits it takes; [`crate::spi::ALL`] for an exclusive lock.
    pub weight: u32,
    /// Its priority.
    pub priority: i32,
    /// Since when it holds, or waits, by the store's wall clock.
    pub since: SystemTime,
    /// How long its lease still runs unless it is renewed.
    pub expires_in: Duration,
}

/// Holders that were evicted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Evicted {
    /// Who they were.
    pub holders: Vec<Party>,
    /// The mark that fences them out: above their tokens, not above those of anyone who came after them. With permits, one
    /// who came before the last of them and had not looked yet is fenced out too.
    pub fence: FencingToken,
}

impl Tokened for Inspection {}
impl Tokened for Evicted {
    fn fencing_token(&self) -> Option<FencingToken> {
        Some(self.fence)
    }
}

impl Party {
    pub(crate) fn new(entry: Entry) -> Self {
        Self {
            token: entry.token,
            owner: entry.owner,
            value: entry.value,
            weight: entry.weight,
            priority: entry.priority,
            since: entry.granted.unwrap_or(entry.joined),
            expires_in: entry.expires_in,
        }
    }
}

impl Coordinator {
    pub(crate) async fn read_line(&self, kind: Kind, name: &Name) -> Result<Line> {
        let line = self.line_id(kind, name);
        let read = |claims: Arc<dyn Claims>| {
            let line = line.clone();
            async move { claims.line(&line).await }
        };
        self.engine.insist(self.engine.claims.clone(), read).await
    }
}

#[async_trait]
impl Inspect for Coordinator {
    async fn inspect(&self, kind: Kind, name: &Name) -> Result<Inspection> {
        traced("inspect", &self.line_id(kind, name), async {
            let line = self.read_line(kind, name).await?;
            let (holders, waiters): (Vec<_>, Vec<_>) =
                line.entries.into_iter().partition(|entry| entry.granted.is_some());
            Ok(Inspection {
                holders: holders.into_iter().map(Party::new).collect(),
                waiters: waiters.into_iter().map(Party::new).collect(),
            })
        })
        .await
    }

    async fn force_release(
        &self,
        kind: Kind,
        name: &Name,
        fence: Option<&dyn Fence>,
    ) -> Result<Option<Evicted>> {
        let id = self.line_id(kind, name);
        traced("force_release", &id, async {
            let line = self.read_line(kind, name).await?;
            let holders: Vec<_> = line.holders().cloned().collect();
            let Some(highest) = holders.iter().map(|holder| holder.token).max() else { return Ok(None) };
            let mark = highest.successor()?;
            if let Some(fence) = fence {
                fence.fence(mark).await?;
            }
            for holder in &holders {
                let withdraw = |claims: Arc<dyn Claims>| {
                    let (id, holder) = (id.clone(), holder.id);
                    async move { claims.withdraw(&id, holder).await }
                };
                self.engine.insist(self.engine.claims.clone(), withdraw).await?;
            }
            Ok(Some(Evicted { holders: holders.into_iter().map(Party::new).collect(), fence: mark }))
        })
        .await
    }
}
