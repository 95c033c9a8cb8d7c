//! What the scripts answer, read into the words of `coord_core::spi`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coord_core::{
    Error, ErrorKind, FencingToken, Result,
    spi::{ClaimId, Entry, Holder, Line},
};

use crate::dialect::Row;

pub(crate) fn rows(answers: &[Vec<Row>], statement: usize) -> &[Row] {
    answers.get(statement).map_or(&[], Vec::as_slice)
}

pub(crate) fn row(answers: &[Vec<Row>], statement: usize) -> Option<&Row> {
    rows(answers, statement).first()
}

/// Where a claim stands, or would stand if it joined now.
pub(crate) struct Look {
    pub(crate) own: Option<i64>,
    pub(crate) granted: bool,
    pub(crate) ahead: u32,
    pub(crate) weight: i64,
    expiry: Option<i64>,
    pub(crate) overtaken: i64,
    pub(crate) first: Option<Holder>,
}

impl Look {
    pub(crate) fn read(row: &Row) -> Result<Self> {
        let first = match row.optional(6)? {
            None => None,
            Some(token) => Some(Holder { token: stored(token)?, owner: row.text(7)?.to_owned() }),
        };
        Ok(Self {
            own: row.optional(0)?,
            granted: row.optional(1)?.is_some(),
            ahead: row.number(2)?,
            weight: row.integer(3)?,
            expiry: row.optional(4)?,
            overtaken: row.integer(5)?,
            first,
        })
    }

    /// When the first lease ahead of it ends.
    pub(crate) fn look_again_in(&self, now: i64, ttl: Duration) -> Duration {
        match self.expiry {
            Some(expiry) => Duration::from_millis(expiry.saturating_sub(now).max(1).unsigned_abs()),
            // Nobody is ahead of it: it does not fit at all, and no expiry will change that.
            None => ttl,
        }
    }
}

pub(crate) fn stored(token: i64) -> Result<FencingToken> {
    let token = u64::try_from(token).ok().and_then(|token| FencingToken::new(token).ok());
    token.ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, "the stored claims are damaged: a token is out of range")
    })
}

pub(crate) fn no_counters() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the stored claims are damaged: the counters are missing; restore a backup",
    )
}

/// The line of these rows, and whether any claim in them has expired.
pub(crate) fn read_line(rows: &[Row], now: i64) -> Result<(Line, bool)> {
    let mut line = Line { revision: rows.first().ok_or_else(no_counters)?.number(0)?, entries: Vec::new() };
    let mut expired = false;
    for row in rows {
        let Some(token) = row.optional(1)? else { continue };
        let left = row.integer(8)?.saturating_sub(now);
        if left <= 0 {
            expired = true;
            continue;
        }
        line.entries.push(Entry {
            id: ClaimId::from_bytes(row.id(2)?),
            token: stored(token)?,
            weight: row.number(3)?,
            limit: row.number(4)?,
            priority: row.number(5)?,
            granted: row.optional(6)?.map(wall),
            joined: wall(row.integer(7)?),
            expires_in: Duration::from_millis(left.min(row.integer(9)?).unsigned_abs()),
            owner: row.text(10)?.to_owned(),
            value: row.bytes(11)?.to_vec(),
        });
    }
    Ok((line, expired))
}

pub(crate) fn wall(milliseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(milliseconds.max(0).unsigned_abs())
}
