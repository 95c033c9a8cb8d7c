//! Bytes as scripts pack them. The layouts are in the headers of the scripts.

use std::time::{Duration, SystemTime};

use coord_core::{FencingToken, Result};

use crate::{error::misread, reply};

/// Packed bytes, read from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) const fn of(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or_else(|| misread("a part of a packed value"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.take(N)?.try_into().map_err(|_| misread("a part of a packed value"))
    }

    pub(crate) fn byte(&mut self) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    pub(crate) fn short(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn long(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A token; `None` for 0.
    pub(crate) fn token(&mut self) -> Result<Option<FencingToken>> {
        match self.long()? {
            0 => Ok(None),
            number => reply::token(number).map(Some),
        }
    }

    /// Microseconds since 1970.
    pub(crate) fn wall(&mut self) -> Result<SystemTime> {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_micros(self.long()?))
            .ok_or_else(|| misread("a moment"))
    }

    pub(crate) fn text(&mut self, length: usize) -> Result<String> {
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| misread("a text in UTF-8"))
    }

    /// What is left.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Whole microseconds, rounded up, within what scripts reckon exactly.
pub(crate) fn micros(duration: Duration) -> u64 {
    let micros = duration.as_nanos().div_ceil(1_000);
    // A hundred years: nothing that is asked for is longer.
    u64::try_from(micros).unwrap_or(u64::MAX).min(100 * 366 * 86_400_000_000)
}

#[cfg(test)]
mod tests {
    use coord_core::{Error, ErrorKind};

    use super::*;

    #[test]
    fn what_is_missing_is_damage() {
        let kind = |error: Error| error.kind();
        let mut fields = Fields::of(&[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(fields.token().unwrap(), None);
        assert_eq!(fields.short().map_err(kind).unwrap_err(), ErrorKind::Corrupt);
        assert_eq!(fields.text(2).map_err(kind).unwrap_err(), ErrorKind::Corrupt);
        assert_eq!(Fields::of(&[0xff; 8]).token().map_err(kind).unwrap_err(), ErrorKind::Corrupt);
    }

    #[test]
    fn durations_are_never_cut_short() {
        assert_eq!(micros(Duration::from_nanos(1)), 1);
        assert_eq!(micros(Duration::from_nanos(2_001)), 3);
        assert!(micros(Duration::MAX) < 1 << 53);
    }
}
