//! The map of values: what `coord_core::spi::values::Values` says, in transactions.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, FencingToken, Name, Result,
    spi::{
        Wakeups,
        values::{
            Change, Changes, Committed, Condition, KeyId, Page, Prefix, Stored, Transaction, Values, Write,
        },
    },
};
use serde_json::json;

use crate::{
    answers::{no_counters, row, rows, stored, wall},
    claims::{floor, start, ttl_ms},
    client::{Store, wall_micros},
    dialect::{Purpose, Row, Value},
    keys::{LineKey, ValueKey},
    news::hex,
    wakeups::Note,
};

/// How many changes are remembered.
const LOG: i64 = 1_000;

/// How many bytes of keys, authors and values these may have together.
const LOG_BYTES: i64 = 16 << 20;

/// How long transactions are remembered.
const MEMORY: Duration = Duration::from_secs(120);

/// What a condition is judged on.
struct Found {
    version: u64,
    mark: Option<FencingToken>,
    has_value: bool,
}

impl Found {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            version: row.number(1)?,
            mark: row.optional(2)?.map(stored).transpose()?,
            has_value: row.integer(3)? != 0,
        })
    }
}

fn holds(condition: Condition, found: Option<&Found>) -> Result<bool> {
    let mark = found.and_then(|found| found.mark);
    let value = found.filter(|found| found.has_value);
    Ok(match condition {
        Condition::Token(token) => mark.is_none_or(|mark| mark <= token),
        _ if mark.is_some() => false,
        Condition::Any => true,
        Condition::Absent => value.is_none(),
        Condition::Version(version) => value.is_some_and(|found| found.version == version),
        _ => {
            return Err(Error::new(ErrorKind::Unsupported, "this store does not know this condition"));
        }
    })
}

/// An entry whose columns begin at this one; `None` if there is none.
fn entry(namespace: &str, row: &Row, first: usize) -> Result<Option<Stored>> {
    if row.is_null(first) {
        return Ok(None);
    }
    Ok(Some(Stored {
        key: ValueKey::name(namespace, row.text(first)?)?,
        version: row.number(first + 1)?,
        mark: row.optional(first + 2)?.map(stored).transpose()?,
        at: wall(row.integer(first + 3)?),
        by: row.text(first + 4)?.to_owned(),
        value: if row.is_null(first + 5) { None } else { Some(row.bytes(first + 5)?.to_vec()) },
    }))
}

fn entries(namespace: &str, rows: &[Row], first: usize) -> Result<Vec<Stored>> {
    rows.iter().filter_map(|row| entry(namespace, row, first).transpose()).collect()
}

/// `[key, whether it is only fenced, value or null, token or null]`. What is not there is not deleted.
fn written(namespace: &str, write: &Write, found: Option<&Found>) -> Result<serde_json::Value> {
    let mark = match write.condition {
        Condition::Token(token) => Some(token.get()),
        _ => None,
    };
    let (fence, value) = match &write.change {
        Change::Put(value) => (false, Some(hex(value))),
        Change::Delete => (found.is_none_or(|found| !found.has_value), None),
        Change::Fence if mark.is_some() => (true, None),
        Change::Fence => {
            return Err(Error::new(ErrorKind::InvalidOptions, "a fence needs the condition of a token"));
        }
        _ => return Err(Error::new(ErrorKind::Unsupported, "this store does not know this change")),
    };
    Ok(json!([ValueKey::of(namespace, &write.key).as_str(), fence, value, mark]))
}

/// The watches that any of these writes concerns: all prefixes of their keys.
fn prefixes(transaction: &Transaction) -> String {
    let mut found = HashSet::new();
    for write in &transaction.writes {
        let key = write.key.as_str();
        let ends = key.char_indices().map(|(at, _)| at).chain([key.len()]);
        found.extend(ends.map(|end| &key[..end]));
    }
    let keys = found.into_iter().map(|text| LineKey::of_prefix(&transaction.namespace, text));
    json!(keys.map(|key| key.as_str().to_owned()).collect::<Vec<_>>()).to_string()
}

#[async_trait]
impl Values for Store {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        let namespace = key.namespace.as_str();
        let stored = ValueKey::of(namespace, &key.key);
        let answers = self.look(self.statements().values.get, &[stored.as_str().into()]).await?;
        let row = row(&answers, 0).ok_or_else(no_counters)?;
        Ok((entry(namespace, row, 1)?, row.number(0)?))
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        let namespace = prefix.namespace.as_str();
        let (from, to) = ValueKey::range(prefix);
        let after = after.map(|after| ValueKey::of(namespace, after));
        // One more tells whether there are more.
        let arguments = [
            from.as_str().into(),
            to.as_str().into(),
            after.as_ref().map_or("", ValueKey::as_str).into(),
            (i64::from(limit) + 1).into(),
        ];
        let answers = self.look(self.statements().values.list, &arguments).await?;
        let rows = rows(&answers, 0);
        let revision = rows.first().ok_or_else(no_counters)?.number(0)?;
        let mut entries = entries(namespace, rows, 1)?;
        let more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        Ok(Page { entries, more, revision })
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        let namespace = transaction.namespace.as_str();
        let keys = transaction.writes.iter().map(|write| ValueKey::of(namespace, &write.key));
        let keys = json!(keys.map(|key| key.as_str().to_owned()).collect::<Vec<_>>()).to_string();
        let prefixes = prefixes(transaction);
        let statements = &self.statements().values;
        let id = transaction.id.as_bytes();

        let mut session = self.write(Purpose::Tokens).await?;
        let answers = session.run(statements.look, &[id.into(), keys.as_str().into()]).await?;
        if let Some(done) = row(&answers, 0) {
            let revision = done.number(0)?;
            session.abandon().await;
            return Ok(Committed::Done { revision });
        }
        let mut found = HashMap::new();
        for row in rows(&answers, 1) {
            found.insert(ValueKey::name(namespace, row.text(0)?)?, Found::read(row)?);
        }
        for (at, write) in transaction.writes.iter().enumerate() {
            if !holds(write.condition, found.get(&write.key))? {
                let key = ValueKey::of(namespace, &write.key);
                let answers = session.run(statements.get, &[key.as_str().into()]).await?;
                session.abandon().await;
                let found = entry(namespace, row(&answers, 0).ok_or_else(no_counters)?, 1)?;
                return Ok(Committed::Refused { at, found });
            }
        }
        let writes = transaction.writes.iter().map(|write| written(namespace, write, found.get(&write.key)));
        let writes = json!(writes.collect::<Result<Vec<_>>>()?).to_string();
        let now = session.now();
        let arguments = [
            writes.as_str().into(),
            floor().into(),
            (wall_micros() / 1_000).into(),
            transaction.by.as_str().into(),
            LOG.into(),
            now.into(),
            id.into(),
            (start(now) + ttl_ms(MEMORY)).into(),
            prefixes.as_str().into(),
            LOG_BYTES.into(),
        ];
        let answers = session.finish(statements.commit, &arguments).await?;
        let revision = row(&answers, 9).ok_or_else(no_counters).and_then(|row| row.number(0));
        // They are hints: what cannot be read is not worth an error after the commit.
        let note = |row: &Row| Some((row.id(0).ok()?, Note::Line(LineKey::stored(row.text(1).ok()?).mark())));
        self.shared.announce(rows(&answers, 10).iter().filter_map(note).collect());
        Ok(Committed::Done { revision: revision.map_err(Error::with_unknown_effect)? })
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        let namespace = prefix.namespace.as_str();
        let (from, to) = ValueKey::range(prefix);
        let after = i64::try_from(since).unwrap_or(i64::MAX);
        let arguments = [from.as_str().into(), to.as_str().into(), after.into()];
        let answers = self.look(self.statements().values.changes, &arguments).await?;
        let rows = rows(&answers, 0);
        let first = rows.first().ok_or_else(no_counters)?;
        let (revision, forgotten): (u64, u64) = (first.number(0)?, first.number(1)?);
        // A revision of the future was of a file that was here before.
        if since < forgotten || since > revision {
            return Ok(Changes::Gap);
        }
        Ok(Changes::All { entries: entries(namespace, rows, 2)?, revision })
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        let namespace = key.namespace.as_str();
        let stored = ValueKey::of(namespace, &key.key);
        let arguments = [stored.as_str().into(), limit.into()];
        let answers = self.look(self.statements().values.history, &arguments).await?;
        entries(namespace, rows(&answers, 0), 0)
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        self.shared.hub.line(LineKey::of_prefix(&prefix.namespace, &prefix.text))
    }
}

impl Store {
    /// One reading statement.
    pub(crate) async fn look(
        &self,
        statement: &'static str,
        arguments: &[Value<'_>],
    ) -> Result<Vec<Vec<Row>>> {
        self.shared.follow();
        let mut session = self.shared.dialect.read().await?;
        session.run(statement, arguments).await
    }
}
