//! What differs between databases: how a transaction begins, whose clock judges leases, and the text of the statements.
//!
//! The recipe logic in `claims.rs` is written once, over the two traits here. Parameters are written `$1`, which SQLite
//! and Postgres both read.

pub(crate) mod sqlite;

use std::fmt;

use async_trait::async_trait;
use coord_core::{Error, ErrorKind, Guarantees, Report, Result};

/// One kind of database.
#[async_trait]
pub(crate) trait Dialect: fmt::Debug + Send + Sync + 'static {
    /// What it promises.
    fn guarantees(&self) -> Guarantees;

    /// What the database is and how it is set up.
    async fn report(&self) -> Result<Report>;

    /// The text of its statements.
    fn statements(&self) -> &'static Statements;

    /// A transaction that holds the right to write, and that nothing can make start over.
    async fn write(&self, purpose: Purpose) -> Result<Box<dyn Session>>;

    /// A session for one reading statement. It never waits for a writer.
    async fn read(&self) -> Result<Box<dyn Session>>;

    /// Grows when a connection was made anew, perhaps to another database that knows nothing of this client's watches.
    fn generation(&self) -> u64;

    /// Ends all connections.
    async fn close(&self);
}

/// What a transaction is for, and so what it must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// It may give out tokens. They must survive a loss of power, or they might be given out again.
    Tokens,
    /// It changes leases only. Whoever holds one ends with the host, so a loss of power may undo it.
    Leases,
}

/// A transaction under way. Dropped without an end, it changes nothing.
///
/// A script is a list of statements with common arguments. The answer has the rows of each.
#[async_trait]
pub(crate) trait Session: Send {
    /// Milliseconds on the clock that judges leases. In a transaction that writes it was read once, after the right to
    /// write was given; otherwise it is the present moment.
    fn now(&self) -> i64;

    /// Runs a script.
    async fn run(&mut self, script: &'static str, arguments: &[Value<'_>]) -> Result<Vec<Vec<Row>>>;

    /// Runs a script whose last statement commits. If it fails before that, nothing is changed.
    async fn finish(self: Box<Self>, script: &'static str, arguments: &[Value<'_>]) -> Result<Vec<Vec<Row>>>;

    /// Ends it and undoes its changes.
    async fn abandon(self: Box<Self>);
}

/// The scripts of the recipe logic: arguments → rows of the statements that have any.
///
/// Those that begin with `line, now, bound` first remove the expired claims of that line and at most `bound` of other
/// lines (→ line, id, client) and count that as a change. *Notes* are whom to wake: → client, id of a claim that is
/// eligible and not granted, or null for a client that watches the line.
#[derive(Debug)]
pub(crate) struct Statements {
    /// `line, now, bound, id, priority` → purged, –, standing: own token, own grant time, claims ahead, their weight,
    /// their earliest expiry, how many it would overtake, first token, first owner.
    pub(crate) look: &'static str,
    /// `line, left, changed, overtaken, floor`, then the claim's columns `id … value` → –, –, token, notes. Joins.
    pub(crate) join: &'static str,
    /// `line, left, changed, granting, id, client, ttl, expiry, granted at` → –, –, notes. Prolongs a claim.
    pub(crate) rearm: &'static str,
    /// `line, left, changed` → notes. Keeps what was purged.
    pub(crate) settle: &'static str,
    /// `line, now, bound, id` → purged, –, client, –, notes. Takes a claim out.
    pub(crate) leave: &'static str,
    /// A JSON list of `[id, token, ttl]`, `now`, `start` → ids. Prolongs live grants.
    pub(crate) renew: &'static str,
    /// `line, now, bound, id, token, value` → purged, –, id, –, notes. Replaces the value of a grant.
    pub(crate) set_value: &'static str,
    /// `line, now, bound, from, token, to, client, ttl, expiry` → purged, –, id and client before, –, –, notes.
    pub(crate) adopt: &'static str,
    /// `line, now, bound, from, token, to` → purged, –, client of `from`; `to`'s token, grant time, waiting ahead.
    pub(crate) candidate: &'static str,
    /// `line, from, place, ahead, floor` → client of `from`, –, –, notes. `from` leaves; the `ahead` claims that wait
    /// before the token `place` join again.
    pub(crate) hand_over: &'static str,
    /// `line, now, bound` → purged, –, the line as below, notes.
    pub(crate) purge: &'static str,
    /// `line` → the revision beside every claim, or alone: revision, then a claim's columns or nulls. Reads only.
    pub(crate) line: &'static str,
    /// `line` → notes. Reads only.
    pub(crate) notes: &'static str,
    /// `line, client`. Watches.
    pub(crate) watch: &'static str,
    /// `line, client`. Watches no more.
    pub(crate) unwatch: &'static str,
    /// `client`. Watches nothing any more.
    pub(crate) forget: &'static str,
    /// → every client that watches. Reads only.
    pub(crate) clients: &'static str,
    /// Keeps what was done.
    pub(crate) commit: &'static str,
    pub(crate) values: ValueStatements,
    pub(crate) jobs: JobStatements,
}

/// The scripts of the jobs. *Watchers* are the clients to wake. Lists of ids, and other lists, are JSON; bytes in them are
/// hexadecimal.
#[derive(Debug)]
pub(crate) struct JobStatements {
    /// `queue, ids, now` → those ids that are known, null; null, how many items there are.
    pub(crate) known: &'static str,
    /// `queue, now`, a list of `[id, priority, group, ready, due, payload]`, `wall` → –, –, watchers.
    pub(crate) push: &'static str,
    /// `queue, now, receive, attempts, limit, expiry, owner, floor, wall` → six statements without rows, the deliveries,
    /// when the next delay and the next lease end.
    pub(crate) receive: &'static str,
    /// `queue, now, ids` → –; id, 0, token, attempts, returned, expiry of items in the queue, or id, 1, token of items
    /// that are gone, or id, 2, token of dead ones.
    pub(crate) standing: &'static str,
    /// `queue, now`, lists of `[id, expiry]`, of `[id, attempts, token, ready, due]` to be given back, of `[id, token]`
    /// to be removed, `until`, ids to be given up, `wall` → seven statements without rows, watchers.
    pub(crate) settle: &'static str,
    /// `queue, after, limit` → dead items. Reads only.
    pub(crate) dead: &'static str,
    /// `queue, now, wall, ids` → –, a row for each, watchers.
    pub(crate) requeue: &'static str,
    /// `queue, now, until, ids` → –, a row for each.
    pub(crate) drop_dead: &'static str,
    /// `queue, now` → items, delayed, in flight, dead. Reads only.
    pub(crate) stats: &'static str,
    /// `queue, now` → –, how many, –, –, watchers.
    pub(crate) purge: &'static str,
}

/// The scripts of the values. An *entry* is: key, version, mark, at, author, value.
#[derive(Debug)]
pub(crate) struct ValueStatements {
    /// `id`, a JSON list of keys → the revision at which this transaction was done; key, version, mark, whether there is
    /// a value, of every key that is there.
    pub(crate) look: &'static str,
    /// A JSON list of `[key, only fenced, value in hexadecimal, token]`, `floor, at, author, log, now, id, until`, a JSON
    /// list of watches, `log in bytes` → ten statements, the last with the revision; client and watch of whom to wake. Writes.
    pub(crate) commit: &'static str,
    /// `key` → the revision beside the entry, or alone. Reads only.
    pub(crate) get: &'static str,
    /// `from, to, after, limit` → the revision beside every entry, or alone. Reads only.
    pub(crate) list: &'static str,
    /// `from, to, since` → the revision and the version that was last forgotten, beside every entry that changed, or
    /// alone. Reads only.
    pub(crate) changes: &'static str,
    /// `key, limit` → its states, the newest first. Reads only.
    pub(crate) history: &'static str,
}

/// An argument of a statement.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// A cell of a row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// A row.
#[derive(Debug, Clone)]
pub(crate) struct Row(pub(crate) Vec<Cell>);

impl Row {
    pub(crate) fn integer(&self, column: usize) -> Result<i64> {
        match self.0.get(column) {
            Some(Cell::Integer(number)) => Ok(*number),
            other => Err(misread("a number", column, other)),
        }
    }

    pub(crate) fn optional(&self, column: usize) -> Result<Option<i64>> {
        match self.0.get(column) {
            Some(Cell::Null) => Ok(None),
            _ => self.integer(column).map(Some),
        }
    }

    pub(crate) fn is_null(&self, column: usize) -> bool {
        matches!(self.0.get(column), Some(Cell::Null))
    }

    pub(crate) fn text(&self, column: usize) -> Result<&str> {
        match self.0.get(column) {
            Some(Cell::Text(text)) => Ok(text),
            other => Err(misread("a text", column, other)),
        }
    }

    pub(crate) fn bytes(&self, column: usize) -> Result<&[u8]> {
        match self.0.get(column) {
            Some(Cell::Bytes(bytes)) => Ok(bytes),
            other => Err(misread("bytes", column, other)),
        }
    }

    /// An id of sixteen bytes.
    pub(crate) fn id(&self, column: usize) -> Result<[u8; 16]> {
        let bytes = self.bytes(column)?;
        bytes.try_into().map_err(|_| misread("sixteen bytes", column, self.0.get(column)))
    }

    /// A number of a smaller type.
    pub(crate) fn number<T: TryFrom<i64>>(&self, column: usize) -> Result<T> {
        let number = self.integer(column)?;
        T::try_from(number).map_err(|_| misread("a smaller number", column, self.0.get(column)))
    }
}

fn misread(wanted: &str, column: usize, found: Option<&Cell>) -> Error {
    let found = match found {
        None => "nothing",
        Some(Cell::Null) => "null",
        Some(Cell::Integer(_)) => "a number",
        Some(Cell::Text(_)) => "a text",
        Some(Cell::Bytes(_)) => "bytes",
    };
    Error::new(
        ErrorKind::Corrupt,
        format!("the stored claims are damaged: column {column} holds {found} instead of {wanted}"),
    )
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<u32> for Value<'_> {
    fn from(number: u32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<i32> for Value<'_> {
    fn from(number: i32) -> Self {
        Self::Integer(number.into())
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        number.map_or(Self::Null, Self::Integer)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Bytes(bytes)
    }
}
