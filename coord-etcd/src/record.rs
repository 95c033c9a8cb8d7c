//! What stands in the value of a claim's key: one line of JSON, and behind it the claim's own value as it is.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coord_core::{
    clock,
    spi::{Claim, ClaimId},
};
use serde::{Deserialize, Serialize};

/// A claim, as it is stored. The order in the line, and with it the token, is the key's own create revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) head: Head,
    pub(crate) value: Vec<u8>,
}

/// Everything but the value. What a later version adds is ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The claim's present id. That in the key is the one with which it joined, before it was adopted.
    pub(crate) id: ClaimId,
    pub(crate) owner: String,
    /// The client that keeps it, 32 hexadecimal digits.
    pub(crate) client: String,
    pub(crate) weight: u32,
    pub(crate) limit: u32,
    pub(crate) priority: i32,
    /// Milliseconds since 1970, by the clock of the client, for people.
    pub(crate) joined: u64,
    /// The same; 0 if it is not granted.
    pub(crate) granted: u64,
    pub(crate) ttl_ms: u64,
}

impl Record {
    /// A claim that joins now.
    pub(crate) fn new(claim: &Claim, client: &str) -> Self {
        let head = Head {
            id: claim.id,
            owner: claim.owner.clone(),
            client: client.to_owned(),
            weight: claim.weight,
            limit: claim.limit,
            priority: claim.priority,
            joined: now(),
            granted: 0,
            ttl_ms: millis(claim.ttl),
        };
        Self { head, value: claim.value.clone() }
    }

    /// The same claim, granted now.
    pub(crate) fn granted(&self) -> Self {
        let mut record = self.clone();
        record.head.granted = now().max(1);
        record
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        // Neither a number nor a text fails.
        let mut bytes = serde_json::to_vec(&self.head).unwrap_or_default();
        bytes.push(b'\n');
        bytes.extend_from_slice(&self.value);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let head = serde_json::from_slice(&bytes[..end]).ok()?;
        Some(Self { head, value: bytes[end + 1..].to_vec() })
    }
}

impl Head {
    pub(crate) fn is_granted(&self) -> bool {
        self.granted > 0
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl_ms)
    }

    pub(crate) fn joined_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.joined)
    }

    pub(crate) fn granted_at(&self) -> Option<SystemTime> {
        self.is_granted().then(|| UNIX_EPOCH + Duration::from_millis(self.granted))
    }
}

pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use coord_core::{
        Name, Namespace,
        spi::{Kind, LineId},
    };

    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_damaged_one_recognised() {
        let line =
            LineId { namespace: Namespace::default(), kind: Kind::Lock, name: Name::new("x").unwrap() };
        let claim = Claim {
            line,
            id: ClaimId::random(),
            weight: 3,
            limit: 7,
            ttl: Duration::from_micros(1_500_001),
            priority: -2,
            wait: true,
            owner: "me\n".into(),
            value: b"a\nb\0".to_vec(),
        };
        let record = Record::new(&claim, "client");
        assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
        assert_eq!((record.head.ttl_ms, record.head.granted_at()), (1501, None));
        assert!(record.granted().head.is_granted());
        let bytes = record.encode();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        assert_eq!(Record::decode(&bytes[..end]), None);
        assert_eq!(Record::decode(&bytes[1..]), None);
        assert_eq!(Record::decode(b""), None);
    }
}
