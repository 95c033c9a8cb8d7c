//! What stands behind the keys of values.
//!
//! ```text
//! coord/v/<namespace>/<key>   a value: a line of JSON about it, and then the value as it is
//! coord/m/<namespace>/<key>   its mark in sixteen digits, so that it compares as text, and a line of JSON
//! coord/g/<namespace>/<key>   there was a value, and it was deleted: a line of JSON
//! coord/f/<namespace>/        the floor: the version of the last deletion that was forgotten
//! coord/w/<id>                the transaction of this id was done, at the revision of this key; it ends by itself
//! ```
//!
//! A value and the mark of its deletion never stand at the same time. Keys are written as they are, so that they are listed in
//! their order.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coord_core::{
    FencingToken, Name, Namespace, Result, clock,
    spi::values::{Stored, WriteId},
};
use etcd_client::KeyValue;
use serde::{Deserialize, Serialize};

use crate::{
    error::misread,
    keys::{ROOT, hex, stem},
};

/// The keys of one namespace.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) values: String,
    pub(super) marks: String,
    pub(super) gone: String,
    pub(super) floor: String,
}

impl Keys {
    pub(super) fn of(namespace: &Namespace) -> Self {
        let stem = |part| stem(part, namespace.as_str());
        Self { values: stem("v"), marks: stem("m"), gone: stem("g"), floor: stem("f") }
    }

    pub(super) fn value(&self, key: &Name) -> String {
        [&self.values, key.as_str()].concat()
    }

    pub(super) fn mark(&self, key: &Name) -> String {
        [&self.marks, key.as_str()].concat()
    }

    pub(super) fn gone(&self, key: &Name) -> String {
        [&self.gone, key.as_str()].concat()
    }
}

/// The key that tells that a transaction was done.
pub(super) fn done(id: &WriteId) -> String {
    format!("{ROOT}w/{}", hex(id.as_bytes()))
}

/// A line about a change.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Note {
    /// When, in milliseconds since 1970, by the clock of who wrote: the server tells no time.
    at: u64,
    /// Who.
    by: String,
    /// The mark that the key had then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<FencingToken>,
}

impl Note {
    /// Of now.
    pub(super) fn new(by: &str, mark: Option<FencingToken>) -> Self {
        let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: u64::try_from(now.as_millis()).unwrap_or(u64::MAX), by: by.to_owned(), mark }
    }

    /// The line, with this behind it.
    pub(super) fn with(&self, value: &[u8]) -> Vec<u8> {
        // A number and two texts have a form in JSON.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line.extend_from_slice(value);
        line
    }

    /// The line, and what is behind it.
    fn read(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| misread("a stored value"))?;
        let note = serde_json::from_slice(&bytes[..end]).map_err(|_| misread("a stored value"))?;
        Ok((note, &bytes[end + 1..]))
    }

    fn stored(self, key: Name, value: Option<Vec<u8>>, version: i64, mark: Option<FencingToken>) -> Stored {
        let at: SystemTime = UNIX_EPOCH + Duration::from_millis(self.at);
        Stored { key, value, version: version.unsigned_abs(), mark, at, by: self.by }
    }
}

/// The name that a key ends with.
pub(super) fn name(stem: &str, kv: &KeyValue) -> Result<Name> {
    let rest = kv.key().strip_prefix(stem.as_bytes()).and_then(|rest| std::str::from_utf8(rest).ok());
    rest.and_then(|rest| Name::new(rest).ok()).ok_or_else(|| misread("the key of a value"))
}

/// The digits of a mark, which compare as numbers do.
pub(super) fn digits(mark: u64) -> String {
    format!("{mark:016}")
}

/// What stands behind the key of a mark.
pub(super) fn marked(token: FencingToken, note: &Note) -> Vec<u8> {
    [digits(token.get()).into_bytes(), note.with(b"")].concat()
}

/// The mark that a key of one holds.
pub(super) fn mark(kv: &KeyValue) -> Result<FencingToken> {
    let digits = kv.value().get(..16).and_then(|digits| std::str::from_utf8(digits).ok());
    let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    number.and_then(|number| FencingToken::new(number).ok()).ok_or_else(|| misread("a mark"))
}

/// A value, with the mark that it was written with or a later one.
pub(super) fn value(key: Name, kv: &KeyValue, mark: Option<FencingToken>) -> Result<Stored> {
    let (note, value) = Note::read(kv.value())?;
    let mark = mark.max(note.mark);
    Ok(note.stored(key, Some(value.to_vec()), kv.mod_revision(), mark))
}

/// A deletion.
pub(super) fn deletion(key: Name, kv: &KeyValue, mark: Option<FencingToken>) -> Result<Stored> {
    let (note, _) = Note::read(kv.value())?;
    let mark = mark.max(note.mark);
    Ok(note.stored(key, None, kv.mod_revision(), mark))
}

/// What there is of a key, as its three keys stand at one moment.
pub(super) fn entry(
    key: &Name,
    found: Option<&KeyValue>,
    marked: Option<&KeyValue>,
    gone: Option<&KeyValue>,
) -> Result<Option<Stored>> {
    let token = marked.map(mark).transpose()?;
    match (found, marked, gone) {
        (Some(found), ..) => value(key.clone(), found, token).map(Some),
        (None, Some(_), Some(gone)) => deletion(key.clone(), gone, token).map(Some),
        (None, Some(marked), None) => {
            let (note, _) = Note::read(marked.value().get(16..).unwrap_or_default())?;
            Ok(Some(note.stored(key.clone(), None, marked.create_revision(), token)))
        }
        (None, None, _) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_compare_as_text() {
        let token = |number| FencingToken::new(number).unwrap();
        let marked = |number| marked(token(number), &Note::new("me", None));
        for (mark, next, higher) in [
            (1, 2, 3),
            (9, 10, 11),
            (FencingToken::MAX.get() - 1, FencingToken::MAX.get(), FencingToken::MAX.get()),
        ] {
            // As a write with the token `mark` asks: is the mark lower than the one behind it?
            assert!(marked(mark) < digits(mark + 1).into_bytes());
            assert!(marked(next) >= digits(mark + 1).into_bytes());
            assert!(marked(higher) >= digits(mark + 1).into_bytes());
        }
        assert!(marked(FencingToken::MAX.get()) < digits(FencingToken::MAX.get() + 1).into_bytes());
    }

    #[test]
    fn a_value_is_behind_its_line() {
        let note = Note::new("a\nb\"", FencingToken::new(7).ok());
        for value in [&b""[..], b"\n\n", b"{}\nx", &[0, 255]] {
            let bytes = note.with(value);
            let (read, rest) = Note::read(&bytes).unwrap();
            assert_eq!((read.by.as_str(), read.at, read.mark, rest), ("a\nb\"", note.at, note.mark, value));
        }
        assert!(Note::read(b"{}").is_err() && Note::read(b"x\ny").is_err());
    }

    #[test]
    fn keys_are_apart_and_in_order() {
        let keys = Keys::of(&Namespace::new("a%b").unwrap());
        let name = |text| Name::new(text).unwrap();
        assert_eq!(keys.value(&name("x/y")), "coord/v/a%25b/x/y");
        assert!(keys.value(&name("a")) < keys.value(&name("a%")));
        assert_eq!(keys.floor, "coord/f/a%25b/");
    }
}
