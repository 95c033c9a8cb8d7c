//! What stands in the node of a claim.
//!
//! ```text
//! coord1 <weight> <limit> <priority> <TTL in ms> <token> <length of the owner>\n<owner><value>
//! ```
//!
//! The numbers are decimal. The token is 0 for the node's own `czxid`; it is said once the node took the place of another, or was
//! changed. Weight and limit are in the node's name too, where those who wait read them.

use std::time::Duration;

const MAGIC: &str = "coord1";

/// What a claim says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) weight: u32,
    pub(crate) limit: u32,
    pub(crate) priority: i32,
    /// How long it is kept without a sign of its client.
    pub(crate) ttl: Duration,
    /// The token, if the node took the place of another one; otherwise it is the node's `czxid`.
    pub(crate) token: Option<i64>,
    pub(crate) owner: String,
    pub(crate) value: Vec<u8>,
}

impl Record {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let Self { weight, limit, priority, ttl, token, owner, value } = self;
        let token = token.unwrap_or(0);
        let head = format!(
            "{MAGIC} {weight} {limit} {priority} {} {token} {}\n{owner}",
            ttl.as_millis(),
            owner.len()
        );
        [head.as_bytes(), value].concat()
    }

    /// `None` for what this library does not write.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let end = data.iter().position(|byte| *byte == b'\n')?;
        let (head, rest) = (std::str::from_utf8(&data[..end]).ok()?, &data[end + 1..]);
        let words: Vec<_> = head.split(' ').collect();
        let [MAGIC, weight, limit, priority, ttl, token, length] = words.as_slice() else { return None };
        let (owner, value) = rest.split_at_checked(length.parse().ok()?)?;
        Some(Self {
            weight: weight.parse().ok()?,
            limit: limit.parse().ok()?,
            priority: priority.parse().ok()?,
            ttl: Duration::from_millis(ttl.parse().ok()?),
            token: Some(token.parse().ok()?).filter(|token| *token != 0),
            owner: std::str::from_utf8(owner).ok()?.to_owned(),
            value: value.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let record = Record {
            weight: 1,
            limit: u32::MAX,
            priority: -3,
            ttl: Duration::from_millis(1500),
            token: Some(77),
            owner: "me\nand \u{e9}".into(),
            value: b"\0value\n".to_vec(),
        };
        let data = record.encode();
        assert_eq!(Record::decode(&data), Some(record));
        let length = data.len() - b"\0value\n".len();
        for wrong in [
            &b""[..],
            b"10.0.0.1",
            b"coord1 1 2 3 4 0 9\nshort",
            b"coord2 1 2 3 4 0 0\n",
            &data[..length - 1],
        ] {
            assert_eq!(Record::decode(wrong), None, "{wrong:?}");
        }
    }
}
