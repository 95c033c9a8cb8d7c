//! The store of values: what [`coord_core::spi::values::Values`] says, one function of the server a step.

use std::time::Duration;

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, Name, Result,
    spi::{
        Wakeups,
        values::{
            Change, Changes, Committed, Condition, KeyId, Page, Prefix, Stored, Transaction, Values, Write,
        },
    },
};
use sqlx::{postgres::PgRow, query};

use super::client::{PostgresStore, Shared};
use crate::{
    answers::{stored, wall},
    claims::ttl_ms,
    keys::LineKey,
};

/// How long transactions are remembered.
const MEMORY: Duration = Duration::from_secs(120);

/// What the namespace row says, or in a namespace that nothing was ever written in.
macro_rules! namespace {
    ($columns:literal, $entries:literal) => {
        concat!(
            "SELECT coalesce(n.revision, life.base), coalesce(n.forgotten, life.base), ",
            $columns,
            " FROM coord.life LEFT JOIN coord.namespaces AS n ON n.namespace = $1 LEFT JOIN ",
            $entries
        )
    };
}

const GET: &str = namespace!(
    "v.key, v.version, v.mark, v.at, v.author, v.value",
    "coord.values AS v ON v.namespace = $1 AND v.key = $2"
);
const LIST: &str = namespace!(
    "v.key, v.version, v.mark, v.at, v.author, v.value",
    "(SELECT * FROM coord.values WHERE namespace = $1 AND key >= $2 AND starts_with(key, $2) AND key > $3 \
              AND value IS NOT NULL ORDER BY key LIMIT $4) AS v ON true ORDER BY v.key"
);
const CHANGES: &str = namespace!(
    "v.key, v.version, v.mark, v.at, v.author, v.value",
    "(SELECT DISTINCT ON (key) * FROM coord.value_log \
      WHERE namespace = $1 AND starts_with(key, $2) AND version > $3 ORDER BY key, place DESC) AS v ON true \
     ORDER BY v.version, v.key"
);
const HISTORY: &str = "SELECT 0::bigint, 0::bigint, key, version, mark, at, author, value FROM coord.value_log \
                       WHERE namespace = $1 AND key = $2 ORDER BY place DESC LIMIT $3";

impl Shared {
    /// An entry whose columns begin at this one; `None` if there is none.
    fn entry(&self, row: &PgRow, first: usize) -> Result<Option<Stored>> {
        let Some(key) = self.cell::<Option<String>>(row, first)? else { return Ok(None) };
        Ok(Some(Stored {
            key: Name::new(&key).map_err(|_| self.misread("a key is not as it was written"))?,
            version: self.number(row, first + 1)?,
            mark: self.cell::<Option<i64>>(row, first + 2)?.map(stored).transpose()?,
            at: wall(self.cell(row, first + 3)?),
            by: self.cell(row, first + 4)?,
            value: self.cell(row, first + 5)?,
        }))
    }

    fn entries(&self, rows: &[PgRow]) -> Result<Vec<Stored>> {
        rows.iter().filter_map(|row| self.entry(row, 2).transpose()).collect()
    }

    fn revisions(&self, rows: &[PgRow]) -> Result<(u64, u64)> {
        let row = rows.first().ok_or_else(|| self.misread("a namespace has no revision"))?;
        Ok((self.number(row, 0)?, self.number(row, 1)?))
    }
}

/// The writes as the function takes them.
#[derive(Default, Clone)]
struct Writes {
    keys: Vec<String>,
    conditions: Vec<i32>,
    arguments: Vec<i64>,
    changes: Vec<i32>,
    values: Vec<Option<Vec<u8>>>,
}

impl Writes {
    fn add(&mut self, write: &Write) -> Result<()> {
        let (condition, argument) = match write.condition {
            Condition::Any => (0, 0),
            Condition::Absent => (1, 0),
            // A version that no store gives out is nobody's.
            Condition::Version(version) => (2, i64::try_from(version).unwrap_or(-1)),
            Condition::Token(token) => (3, token.as_i64()),
            _ => return Err(Error::new(ErrorKind::Unsupported, "this store does not know this condition")),
        };
        let (change, value) = match &write.change {
            Change::Put(value) => (0, Some(value.clone())),
            Change::Delete => (1, None),
            Change::Fence if condition == 3 => (2, None),
            Change::Fence => {
                return Err(Error::new(ErrorKind::InvalidOptions, "a fence needs the condition of a token"));
            }
            _ => return Err(Error::new(ErrorKind::Unsupported, "this store does not know this change")),
        };
        self.keys.push(write.key.as_str().to_owned());
        self.conditions.push(condition);
        self.arguments.push(argument);
        self.changes.push(change);
        self.values.push(value);
        Ok(())
    }
}

#[async_trait]
impl Values for PostgresStore {
    async fn get(&self, key: &KeyId) -> Result<(Option<Stored>, u64)> {
        let step = || query(GET).bind(key.namespace.as_str().to_owned()).bind(key.key.as_str().to_owned());
        let row = self.shared.ask_one(step).await?;
        Ok((self.shared.entry(&row, 2)?, self.shared.number(&row, 0)?))
    }

    async fn list(&self, prefix: &Prefix, after: Option<&Name>, limit: u32) -> Result<Page> {
        let step = || {
            query(LIST)
                .bind(prefix.namespace.as_str().to_owned())
                .bind(prefix.text.clone())
                .bind(after.map_or("", Name::as_str).to_owned())
                // One more tells whether there are more.
                .bind(i64::from(limit) + 1)
        };
        let rows = self.shared.ask(step).await?;
        let (revision, _) = self.shared.revisions(&rows)?;
        let mut entries = self.shared.entries(&rows)?;
        let more = entries.len() > limit as usize;
        entries.truncate(limit as usize);
        Ok(Page { entries, more, revision })
    }

    async fn commit(&self, transaction: &Transaction) -> Result<Committed> {
        let mut writes = Writes::default();
        transaction.writes.iter().try_for_each(|write| writes.add(write))?;
        let step = || {
            let writes = writes.clone();
            query("SELECT * FROM coord.commit($1, $2, $3, $4, $5, $6, $7, $8, $9)")
                .bind(transaction.namespace.as_str().to_owned())
                .bind(transaction.id.as_bytes().to_vec())
                .bind(transaction.by.clone())
                .bind(ttl_ms(MEMORY))
                .bind(writes.keys)
                .bind(writes.conditions)
                .bind(writes.arguments)
                .bind(writes.changes)
                .bind(writes.values)
        };
        let row = self.shared.ask_one(step).await?;
        let read = || match self.shared.cell::<Option<i32>>(&row, 1)? {
            None => Ok(Committed::Done { revision: self.shared.number(&row, 0)? }),
            Some(at) => Ok(Committed::Refused {
                at: usize::try_from(at).map_err(|_| self.shared.misread("a place is negative"))?,
                found: self.shared.entry(&row, 2)?,
            }),
        };
        read().map_err(Error::with_unknown_effect)
    }

    async fn changes(&self, prefix: &Prefix, since: u64) -> Result<Changes> {
        let after = i64::try_from(since).unwrap_or(i64::MAX);
        let step = || {
            query(CHANGES).bind(prefix.namespace.as_str().to_owned()).bind(prefix.text.clone()).bind(after)
        };
        let rows = self.shared.ask(step).await?;
        let (revision, forgotten) = self.shared.revisions(&rows)?;
        // A revision of the future was of a database that was here before.
        if since < forgotten || since > revision {
            return Ok(Changes::Gap);
        }
        Ok(Changes::All { entries: self.shared.entries(&rows)?, revision })
    }

    async fn history(&self, key: &KeyId, limit: u32) -> Result<Vec<Stored>> {
        let step = || {
            query(HISTORY)
                .bind(key.namespace.as_str().to_owned())
                .bind(key.key.as_str().to_owned())
                .bind(i64::from(limit))
        };
        self.shared.entries(&self.shared.ask(step).await?)
    }

    fn wakeups(&self, prefix: &Prefix) -> Wakeups {
        self.shared.hub.line(LineKey::of_prefix(&prefix.namespace, &prefix.text))
    }
}
