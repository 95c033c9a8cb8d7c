//! What scripts answer, read piece by piece.

use coord_core::{Error, FencingToken, Result};
use redis::Value;

use crate::error::misread;

/// The rest of a list that a script answered.
#[derive(Debug)]
pub(crate) struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    /// The list.
    pub(crate) fn of(value: Value) -> Result<Self> {
        match value {
            Value::Array(values) | Value::Set(values) => Ok(Self(values.into_iter())),
            Value::Map(pairs) => Ok(Self(
                pairs.into_iter().flat_map(|(key, value)| [key, value]).collect::<Vec<_>>().into_iter(),
            )),
            _ => Err(misread("a list")),
        }
    }

    /// Whether all was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    /// The next piece as it is.
    pub(crate) fn value(&mut self) -> Result<Value> {
        self.0.next().ok_or_else(|| misread("a piece of a list"))
    }

    /// The next piece, a list.
    pub(crate) fn list(&mut self) -> Result<Self> {
        Self::of(self.value()?)
    }

    /// The next piece, a whole number.
    pub(crate) fn number<T: TryFrom<i64>>(&mut self) -> Result<T> {
        let number = number(&self.value()?)?;
        T::try_from(number).map_err(|_| misread("a number in its range"))
    }

    /// The next piece, bytes.
    pub(crate) fn bytes(&mut self) -> Result<Vec<u8>> {
        match self.value()? {
            Value::BulkString(bytes) => Ok(bytes),
            Value::SimpleString(text) => Ok(text.into_bytes()),
            Value::Okay => Ok(b"OK".to_vec()),
            _ => Err(misread("a text")),
        }
    }

    /// The next piece, bytes or nothing.
    pub(crate) fn optional_bytes(&mut self) -> Result<Option<Vec<u8>>> {
        match self.0.as_slice().first() {
            Some(Value::Nil) => self.value().map(|_| None),
            _ => self.bytes().map(Some),
        }
    }

    /// The next piece, text.
    pub(crate) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?).map_err(|_| misread("a text in UTF-8"))
    }

    /// The next piece, an id of sixteen bytes.
    pub(crate) fn id(&mut self) -> Result<[u8; 16]> {
        self.bytes()?.try_into().map_err(|_| misread("an id of sixteen bytes"))
    }

    /// The next piece, a token.
    pub(crate) fn token(&mut self) -> Result<FencingToken> {
        token(self.number()?)
    }
}

/// A number, which Redis writes in several ways: scores of sorted sets are texts or floating.
#[allow(clippy::cast_possible_truncation)]
pub(crate) fn number(value: &Value) -> Result<i64> {
    let whole =
        |number: f64| (number.fract() == 0.0 && number.abs() <= 2_f64.powi(53)).then_some(number as i64);
    let number = match value {
        Value::Int(number) => Some(*number),
        Value::Double(number) => whole(*number),
        Value::BulkString(bytes) => std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| text.parse().ok().or_else(|| whole(text.parse().ok()?))),
        _ => None,
    };
    number.ok_or_else(|| misread("a number"))
}

pub(crate) fn token(number: u64) -> Result<FencingToken> {
    FencingToken::new(number).map_err(|_: Error| misread("a token in its range"))
}

#[cfg(test)]
mod tests {
    use coord_core::ErrorKind;

    use super::*;

    #[test]
    fn numbers() {
        let text = |text: &str| Value::BulkString(text.into());
        for (value, expected) in [
            (Value::Int(-7), Some(-7)),
            (text("1795000000000001"), Some(1_795_000_000_000_001)),
            (text("9007199254740991"), Some(9_007_199_254_740_991)),
            (text("1.7950000000000000e+15"), Some(1_795_000_000_000_000)),
            (Value::Double(3.0), Some(3)),
            (Value::Double(0.5), None),
            (text("x"), None),
            (text("1.5"), None),
            (Value::Nil, None),
        ] {
            assert_eq!(number(&value).ok(), expected, "{value:?}");
        }
    }

    #[test]
    fn what_is_missing_is_damage() {
        let mut reply = Reply::of(Value::Array(vec![Value::Int(1), Value::Nil])).unwrap();
        assert_eq!(reply.number::<u8>().unwrap(), 1);
        assert_eq!(reply.optional_bytes().unwrap(), None);
        assert!(reply.is_empty());
        assert_eq!(reply.bytes().unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(Reply::of(Value::Nil).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
