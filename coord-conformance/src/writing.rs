//! Writers of values whose work is recorded.
//!
//! The text of a value that is written under a lock tells its number, the number that its writer had read, and the token:
//! the store's own history of the key is then the log of what was accepted.

use coord_core::{Condition, ConfigStore, Entry, Error, ErrorKind, FencedStore, FencingToken, Name, Result};
use serde::{Deserialize, Serialize};

use crate::{
    Client, Failure, Verdict,
    history::{Event, Given, Op, Outcome},
};

/// What a key holds that is counted in under a lock.
#[derive(Debug, Serialize, Deserialize)]
struct Count {
    number: u64,
    read: u64,
    token: u64,
}

fn parse(text: &[u8]) -> Result<Count> {
    serde_json::from_slice(text)
        .map_err(|error| Error::new(ErrorKind::Internal, "this is no count").with_source(error))
}

/// Fences older tokens out, if the key is to check them, and reads the number.
pub(crate) async fn fenced_read(
    client: &Client,
    key: &Name,
    token: FencingToken,
    fenced: bool,
) -> Result<u64> {
    if fenced {
        client.fence(key, token).await?;
    }
    match client.fenced_read(key).await?.value {
        Some(text) => Ok(parse(&text)?.number),
        None => Ok(0),
    }
}

/// Adds one to the number that was read.
pub(crate) async fn fenced_write(
    client: &Client,
    key: &Name,
    token: FencingToken,
    read: u64,
    fenced: bool,
) -> Result<()> {
    let count = Count { number: read + 1, read, token: token.get() };
    let text = serde_json::to_vec(&count)
        .map_err(|error| Error::new(ErrorKind::Internal, "a count").with_source(error))?;
    let write = async {
        match fenced {
            true => client.fenced_write(key, text, token).await,
            false => client.put(key, text, Condition::Any).await,
        }
    };
    let op = |_: Option<&u64>| Op::Write { token: token.get(), read, wrote: read + 1 };
    client.recorder().call(key.as_str(), write, op).await.map(drop)
}

/// What the store accepted for a key that was counted in, as events for the checker; and the number.
pub(crate) async fn accepted(client: &Client, key: &Name, limit: u32) -> Verdict<(Vec<Event>, u64)> {
    let states = client.history(key, limit).await?;
    let now = client.recorder().history().stamp();
    let (mut events, mut number) = (Vec::new(), 0);
    for state in states.iter().rev() {
        let text = state.value.as_deref().ok_or_else(|| Failure::new("a count was deleted"))?;
        let count = parse(text)?;
        number = count.number;
        let (sequence, write) = (state.version, Some((count.read, count.number)));
        events.push(Event {
            from: now,
            to: now,
            client: "the store".into(),
            object: key.as_str().into(),
            op: Op::Accepted { sequence, token: count.token, write },
            outcome: Outcome::Ok,
        });
    }
    Ok((events, number))
}

fn text(entry: &Entry) -> String {
    String::from_utf8_lossy(&entry.value).into_owned()
}

/// Reads a key.
pub(crate) async fn read(client: &Client, key: &Name) -> Result<Option<Entry>> {
    let op = |found: Option<&Option<Entry>>| {
        let found = found.and_then(Option::as_ref);
        Op::Read { found: found.map(|entry| (text(entry), entry.version)) }
    };
    client.recorder().call(key.as_str(), client.get(key), op).await
}

fn condition(given: Given) -> Condition {
    match given {
        Given::Anything => Condition::Any,
        Given::Absent => Condition::Absent,
        Given::Version(version) => Condition::Version(version),
    }
}

/// Writes a key; its new version.
pub(crate) async fn put(client: &Client, key: &Name, value: String, given: Given) -> Result<u64> {
    let op = |version: Option<&u64>| Op::Put { given, value: Some(value.clone()), version: version.copied() };
    let put = client.put(key, value.clone().into_bytes(), condition(given));
    client.recorder().call(key.as_str(), put, op).await
}

/// Removes the value of a key.
pub(crate) async fn delete(client: &Client, key: &Name, given: Given) -> Result<()> {
    let op = |_: Option<&()>| Op::Put { given, value: None, version: None };
    client.recorder().call(key.as_str(), client.delete(key, condition(given)), op).await
}

/// The number that the text of a key begins with.
pub(crate) fn number(entry: Option<&Entry>) -> u64 {
    let text = entry.map(text).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// Adds one so many times, by writes on condition of the version that was read. What did not hold is done again, and so
/// is what nobody knows of.
pub(crate) async fn increment(client: &Client, key: &Name, times: u64) -> Result<()> {
    let mut done = 0;
    while done < times {
        let round = async {
            let found = read(client, key).await?;
            let given = found.as_ref().map_or(Given::Absent, |entry| Given::Version(entry.version));
            let next = number(found.as_ref()) + 1;
            let value = format!("{next} {} {}", client.owner(), client.recorder().number());
            put(client, key, value, given).await
        };
        match round.await {
            Ok(_) => done += 1,
            Err(error) if error.kind() == ErrorKind::ConditionFailed || error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
