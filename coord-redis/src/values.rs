//! The map of values: what `coord_core::spi::values::Values` says, a script for each operation.
//!
//! Revisions are the greater of the last one plus one and the server's time in microseconds, so that they grow even after all
//! data were lost, as long as nobody sets the server's clock back by more than the loss took.

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, Name, Namespace, Result,
    spi::{
        Wakeups,
        values::{
            Change, Changes, Committed, Condition, KeyId, Page, Prefix, Stored, Transaction, Values, Write,
        },
    },
};
use redis::Value;
use uuid::Uuid;

use crate::{
    client::Store,
    error::misread,
    keys::Stem,
    packed::Fields,
    reply::Reply,
    script::{Call, Script},
};

/// How many changes are remembered, and how many bytes of them.
const LOG: u32 = 1_000;
const LOG_BYTES: u32 = 16 * 1024 * 1024;

/// How long transactions are remembered.
const MEMORY_MS: u32 = 120_000;

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(
            include_str!("scripts/values/values.lua"),
            include_str!(concat!("scripts/values/", $file))
        ))
    };
}

static GET: Script = script!("get.lua");
static LIST: Script = script!("list.lua");
static CHANGES: Script = script!("changes.lua");
static HISTORY: Script = script!("history.lua");
static COMMIT: Script = script!("commit.lua");

/// The keys that every script takes, in this order.
const PARTS: [&str; 5] = ["entries", "keys", "log", "states", "meta"];

fn keys(stem: &Stem) -> Vec<String> {
    PARTS.iter().map(|part| stem.key(part)).collect()
}

/// A step that reads the values of a namespace.
fn look(script: &'static Script, namespace: &Namespace) -> Call {
    Call::new(script, &keys(&Stem::of_values(namespace)))
}

fn decode(key: Name, bytes: &[u8]) -> Result<Stored> {
    let mut fields = Fields::of(bytes);
    let (version, mark, at) = (fields.long()?, fields.token()?, fields.wall()?);
    let has_value = fields.byte()? != 0;
    let length = usize::from(fields.byte()?);
    let by = fields.text(length)?;
    let value = has_value.then(|| fields.rest().to_vec());
    Ok(Stored { key, value, version, mark, at, by })
}

/// Keys and entries, to the end of a reply.
fn entries(mut reply: Reply) -> Result<Vec<Stored>> {
    let mut entries = Vec::new();
    while !reply.is_empty() {
        let key = Name::new(reply.text()?).map_err(|_| misread("a key"))?;
        entries.push(decode(key, &reply.bytes()?)?);
    }
    Ok(entries)
}

/// A range of keys as `ZRANGE … BYLEX` takes it.
fn range(prefix: &str, after: Option<&Name>) -> (Vec<u8>, Vec<u8>) {
    let from = match after {
        Some(after) if after.as_str() >= prefix => [b"(", after.as_str().as_bytes()].concat(),
        _ if prefix.is_empty() => b"-".to_vec(),
        _ => [b"[", prefix.as_bytes()].concat(),
    };
    // No byte of a text is the greatest one.
    let to = match prefix.as_bytes().split_last() {
        Some((last, rest)) => [b"(", rest, &[last + 1]].concat(),
        None => b"+".to_vec(),
    };
    (from, to)
}

/// The step with one more write: key, condition, its number, change, value.
fn with_write(step: Call, write: &Write) -> Result<Call> {
    let (condition, number) = match write.condition {
        Condition::Any => ("any", 0),
        Condition::Absent => ("absent", 0),
        Condition::Version(version) => ("version", version),
        Condition::Token(token) => ("token", token.get()),
        _ => return Err(Error::new(ErrorKind::Unsupported, "this store does not know this condition")),
    };
    let (change, value) = match &write.change {
        Change::Put(value) => ("put", &value[..]),
        Change::Delete => ("delete", &[][..]),
        Change::Fence if condition == "token" => ("fence", &[][..]),
        Change::Fence => {
            return Err(Error::new(ErrorKind::InvalidOptions, "a fence needs the condition of a token"));
        }
        _ => return Err(Error::new(ErrorKind::Unsupported, "this store does not know this change")),
    };
    Ok(step.arg(write.key.as_str()).arg(condition).arg(number).arg(change).arg(value))
}

#[async_trait]
impl Values for Store {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        let step = look(&GET, &key.namespace).arg(key.key.as_str());
        let mut reply = Reply::of(self.shared.eval(step).await?)?;
        let revision = reply.number()?;
        let entry = reply.optional_bytes()?.map(|entry| decode(key.key.clone(), &entry)).transpose()?;
        Ok((entry, revision))
    }

    /// A page also ends when it has some megabytes, so that the server is not busy with it for long.
    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        let (from, to) = range(&prefix.text, after);
        let step = look(&LIST, &prefix.namespace).arg(from).arg(to).arg(limit);
        let mut reply = Reply::of(self.shared.eval(step).await?)?;
        let (revision, more) = (reply.number()?, reply.number::<u8>()? != 0);
        Ok(Page { entries: entries(reply)?, more, revision })
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        let stem = Stem::of_values(&transaction.namespace);
        let mut keys = keys(&stem);
        keys.push(stem.key(&format!("done:{}", Uuid::from_bytes(*transaction.id.as_bytes()).simple())));
        let mut step = Call::new(&COMMIT, &keys)
            .arg(stem.news().as_str())
            .arg(&transaction.by)
            .arg(MEMORY_MS)
            .arg(LOG)
            .arg(LOG_BYTES);
        for write in &transaction.writes {
            step = with_write(step, write)?;
        }
        let reply = self.shared.eval(step).await?;
        committed(transaction, reply).map_err(Error::with_unknown_effect)
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        // No revision is so great.
        let step = look(&CHANGES, &prefix.namespace).arg(since.min(1 << 53)).arg(&prefix.text);
        match self.shared.eval(step).await? {
            Value::Nil => Ok(Changes::Gap),
            reply => {
                let mut reply = Reply::of(reply)?;
                let revision = reply.number()?;
                Ok(Changes::All { entries: entries(reply)?, revision })
            }
        }
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        let step = look(&HISTORY, &key.namespace).arg(key.key.as_str()).arg(limit);
        let mut reply = Reply::of(self.shared.eval(step).await?)?;
        let mut states = Vec::new();
        while !reply.is_empty() {
            states.push(decode(key.key.clone(), &reply.bytes()?)?);
        }
        Ok(states)
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        self.shared.hub.keys(Stem::of_values(&prefix.namespace).news(), prefix.text.clone())
    }
}

fn committed(transaction: &Transaction, reply: Value) -> Result<Committed> {
    let mut reply = Reply::of(reply)?;
    if reply.number::<u8>()? != 0 {
        return Ok(Committed::Done { revision: reply.number()? });
    }
    let at: usize = reply.number()?;
    let write = transaction.writes.get(at).ok_or_else(|| misread("a number in its range"))?;
    let found = reply.optional_bytes()?.map(|entry| decode(write.key.clone(), &entry)).transpose()?;
    Ok(Committed::Refused { at, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_the_order_of_bytes() {
        let bounds = |prefix: &str, after: Option<&str>| {
            range(prefix, after.map(|after| Name::new(after).unwrap()).as_ref())
        };
        assert_eq!(bounds("", None), (b"-".to_vec(), b"+".to_vec()));
        assert_eq!(bounds("a", None), (b"[a".to_vec(), b"(b".to_vec()));
        assert_eq!(bounds("a", Some("ab")), (b"(ab".to_vec(), b"(b".to_vec()));
        assert_eq!(bounds("b", Some("a")), (b"[b".to_vec(), b"(c".to_vec()));
        assert_eq!(bounds("", Some("x")), (b"(x".to_vec(), b"+".to_vec()));
        assert_eq!(bounds("\u{10ffff}", None).1, b"(\xf4\x8f\xbf\xc0".to_vec());
    }
}
