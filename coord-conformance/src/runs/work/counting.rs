//! Counting under a lock, by holders who do not look at their guards before they write.

use std::time::Duration;

use coord_core::{
    Condition, ConfigStore, Error, ErrorKind, FencedStore, FencingToken, LockOptions, Name, Result,
};
use fastrand::Rng;

use super::{Hands, Work, named, shrug};
use crate::{
    Client, Verdict,
    history::{Event, Op, Outcome},
    worker::{blocking, resource::Resource},
};

/// How long one counter is counted in. A key's value is the list of all its writers, which must not grow for ever.
const STRETCH: Duration = Duration::from_secs(10);

/// What the keys begin with that are counted in.
pub(in crate::runs) const KEYS: &str = "till/";

/// What is counted in.
pub(in crate::runs) enum Counter {
    /// A key. Its value is the list of the tokens of all who wrote it, so that the last value tells of all that were
    /// accepted, however few changes the store remembers.
    Key(Name),
    /// A file, which is its own log; with what it is called in a history.
    File(Resource, String),
}

impl Counter {
    /// The counter of a stretch.
    pub(in crate::runs) fn new(key: bool, work: &Work, stretch: u64) -> Self {
        if key {
            // A key that was fenced cannot be removed, so that all work in a store has the same.
            return Self::Key(named(&format!("{KEYS}{stretch}")));
        }
        let object = format!("{}ledger/{stretch}", work.prefix);
        let path = work.folder.join(object.replace('/', "-"));
        Self::File(Resource::new(path, work.fenced), object)
    }

    /// Fences older tokens out, if it checks them, and reads the number and what belongs to it.
    async fn read(&self, client: &Client, token: FencingToken, fenced: bool) -> Result<(u64, Vec<u64>)> {
        match self {
            Self::Key(key) => {
                if fenced {
                    client.fence(key, token).await?;
                }
                let writers = writers(client, key).await?;
                Ok((writers.len() as u64, writers))
            }
            Self::File(resource, _) => {
                let resource = resource.clone();
                Ok((blocking(move || resource.read(token)).await?, Vec::new()))
            }
        }
    }

    /// Adds one to what was read.
    async fn write(
        &self,
        client: &Client,
        token: FencingToken,
        (read, mut writers): (u64, Vec<u64>),
        fenced: bool,
    ) -> Result<()> {
        let wrote = read + 1;
        let op = |_: Option<&()>| Op::Write { token: token.get(), read, wrote };
        match self {
            Self::Key(key) => {
                writers.push(token.get());
                let text = serde_json::to_vec(&writers).map_err(wrong)?;
                let writing = async {
                    match fenced {
                        true => client.fenced_write(key, text, token).await.map(drop),
                        false => client.put(key, text, Condition::Any).await.map(drop),
                    }
                };
                client.recorder().call(key.as_str(), writing, op).await
            }
            Self::File(resource, object) => {
                let resource = resource.clone();
                let writing = blocking(move || resource.write(token, read, wrote));
                client.recorder().call(object, writing, op).await
            }
        }
    }
}

fn wrong(error: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, "this is no list of writers").with_source(error)
}

async fn writers(client: &Client, key: &Name) -> Result<Vec<u64>> {
    match client.fenced_read(key).await?.value {
        Some(text) => serde_json::from_slice(&text).map_err(wrong),
        None => Ok(Vec::new()),
    }
}

/// What was accepted, as events for the checker.
pub(in crate::runs) async fn accepted(client: &Client, counter: &Counter) -> Verdict<Vec<Event>> {
    let history = client.recorder().history();
    match counter {
        Counter::File(resource, object) => {
            let renamed = |event| Event { object: object.clone(), ..event };
            Ok(resource.log(history)?.into_iter().map(renamed).collect())
        }
        Counter::Key(key) => {
            let (writers, now) = (writers(client, key).await?, history.stamp());
            let event = |(read, token)| Event {
                from: now,
                to: now,
                client: "the store".into(),
                object: key.as_str().into(),
                op: Op::Accepted { sequence: read + 1, token, write: Some((read, read + 1)) },
                outcome: Outcome::Ok,
            };
            Ok((0..).zip(writers).map(event).collect())
        }
    }
}

impl Hands {
    /// Counts, each time under a lock of its own. Between its read and its write a holder sleeps, as one that works; it
    /// trusts its lock, and does not look at it.
    pub(super) async fn count(self, mut rng: Rng, key: bool) -> Result<()> {
        let (client, work) = (&self.client, &self.work);
        let name = work.name(if key { "till" } else { "ledger" });
        let options = LockOptions::default().with_ttl(work.ttl).with_wait(work.ttl * 2);
        while self.goes_on() {
            self.pause(&mut rng, 0..50).await;
            let Some(held) = shrug(client.lock(&name, &options).await).await? else { continue };
            let counter = Counter::new(key, work, self.stretch(STRETCH));
            let round = async {
                let read = counter.read(client, held.token(), work.fenced).await?;
                // In a control something has to happen in between.
                let millis = if work.fenced { 5..60 } else { 100..400 };
                self.work_under(&held, &mut rng, millis).await;
                counter.write(client, held.token(), read, work.fenced).await
            };
            shrug(round.await).await?;
            self.let_go(held, &mut rng).await?;
        }
        Ok(())
    }
}
