//! What the node of a key holds.
//!
//! ```text
//! 1, flags, [mark: 8], [version: 8, at in milliseconds: 8], length of by: 2, by, value
//! ```
//!
//! Numbers are big-endian. The flags say what is there: 1 a value, 2 a mark, 4 a version and a time. Where there are none, the
//! entry was changed last when the node was, whose `mzxid` and `mtime` they are then. This is stable: what was written stays
//! readable.

use std::time::{Duration, SystemTime};

use coord_core::{Error, ErrorKind, FencingToken, Name, Result, spi::values::Stored};

use crate::{error::misread, session::Stat};

const FORMAT: u8 = 1;

/// The state of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) value: Option<Vec<u8>>,
    pub(super) mark: Option<FencingToken>,
    /// When it was changed last, if that was not when its node was: the version, and the store's time.
    pub(super) changed: Option<(u64, SystemTime)>,
    pub(super) by: String,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let flags = u8::from(self.value.is_some())
            | u8::from(self.mark.is_some()) << 1
            | u8::from(self.changed.is_some()) << 2;
        let mut bytes = vec![FORMAT, flags];
        if let Some(mark) = self.mark {
            bytes.extend(mark.get().to_be_bytes());
        }
        if let Some((version, at)) = self.changed {
            bytes.extend(version.to_be_bytes());
            bytes.extend(millis(at).to_be_bytes());
        }
        // An owner is much shorter; see `coord_core::limits`.
        let by = &self.by.as_bytes()[..self.by.len().min(usize::from(u16::MAX))];
        bytes.extend((by.len() as u16).to_be_bytes());
        bytes.extend(by);
        bytes.extend(self.value.as_deref().unwrap_or_default());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = Rest(bytes);
        if rest.byte()? != FORMAT {
            return Err(Error::new(
                ErrorKind::NewerSchema,
                "the value of a key was written by a newer version of this library",
            ));
        }
        let flags = rest.byte()?;
        let mark = if flags & 2 == 0 { None } else { Some(token(rest.long()?)?) };
        let changed = if flags & 4 == 0 { None } else { Some((rest.long()?, wall(rest.long()?))) };
        let length = rest.short()?;
        let by = String::from_utf8(rest.take(usize::from(length))?.to_vec())
            .map_err(|_| misread("who wrote a value"))?;
        let value = (flags & 1 != 0).then(|| rest.0.to_vec());
        Ok(Self { value, mark, changed, by })
    }

    /// The entry, as of a change with this version and at this time, if the record names no other.
    pub(super) fn stored(self, key: Name, version: u64, at: SystemTime) -> Stored {
        let (version, at) = self.changed.unwrap_or((version, at));
        Stored { key, value: self.value, version, mark: self.mark, at, by: self.by }
    }
}

/// The entry in a node.
pub(super) fn entry(key: Name, data: &[u8], stat: &Stat) -> Result<Stored> {
    let (version, at) = (stat.mzxid.cast_unsigned(), wall(stat.mtime.cast_unsigned()));
    Ok(Record::decode(data)?.stored(key, version, at))
}

pub(crate) fn wall(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn token(number: u64) -> Result<FencingToken> {
    FencingToken::new(number).map_err(|_| misread("a mark"))
}

/// What is not read yet.
pub(super) struct Rest<'a>(pub(super) &'a [u8]);

impl<'a> Rest<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(|| misread("a value"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| misread("a value"))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_be_bytes(self.number()?))
    }

    pub(super) fn short(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.number()?))
    }

    pub(super) fn word(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.number()?))
    }

    pub(super) fn long(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.number()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let mark = FencingToken::new(7).unwrap();
        for value in [None, Some(Vec::new()), Some(vec![0, 1, 255])] {
            for mark in [None, Some(mark)] {
                for changed in [None, Some((1 << 40, wall(1_700_000_000_123)))] {
                    let record = Record { value: value.clone(), mark, changed, by: "wér".into() };
                    assert_eq!(Record::decode(&record.encode()).unwrap(), record);
                }
            }
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for (bytes, kind) in [
            (&[][..], ErrorKind::Corrupt),
            (&[2, 0], ErrorKind::NewerSchema),
            (&[1, 2, 0], ErrorKind::Corrupt),
            (&[1, 0, 0, 5, b'a'], ErrorKind::Corrupt),
            (&[1, 0, 0, 1, 0xff], ErrorKind::Corrupt),
        ] {
            assert_eq!(Record::decode(bytes).unwrap_err().kind(), kind, "{bytes:?}");
        }
    }
}
