//! What stands behind the keys of a queue.
//!
//! All begin with `coord/q/<namespace>/<name>/`. An id is 32 hexadecimal digits.
//!
//! ```text
//! i/<id>               an item: `g` (it has a group) or `u`, and what is known of it
//! b/<id>               what it carries
//! r/<urgency><place>   it is ready, and the first of its group: the same as i/<id>
//! g/<group>/<place>    an item of a group, the first of which alone can be delivered: its id
//! h/w/f/<id>           it was delivered, or
//! h/w/d/<id>           it is delayed, until somebody notices that the lease is over, under which there is
//! h/l/f/<id>, h/l/d/…  the lease of a delivery (how long it was granted for) or of a delay
//! c/<receive>          which items a receive tried to take, under the lease of its deliveries
//! x/<id>               it is dead
//! a/<id>               it was acknowledged (the token) or dropped; it ends by itself
//! t                    changes with every push, so that pushes come one after the other; it ends by itself
//! m                    somebody waits for room; it goes when there may be some, or by itself
//! ```
//!
//! Where an item stands is said by which of these there are, and every step that moves one writes `i/<id>`, so that two steps about
//! one item exclude each other by its revision. The token of a delivery is the revision of the step that made it, with its place
//! among those of that step in the last ten bits: so the step that settles it compares the revision of `i/<id>` and needs no look
//! at it. A place is made the same way of the revision at which `t` was seen, which is behind all pushes before.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coord_core::{
    FencingToken, Result, clock,
    spi::jobs::{DeadItem, Delivered, ItemId, NewItem, QueueId},
};
use etcd_client::KeyValue;

use crate::{
    error::misread,
    keys::{claim_id, escape, hex, stem},
};

/// How many bits of a token and of a place count within one step.
const BITS: u32 = 10;

/// The keys of one queue.
#[derive(Debug, Clone)]
pub(super) struct Keys(String);

impl Keys {
    pub(super) fn of(queue: &QueueId) -> Self {
        let mut prefix = stem("q", queue.namespace.as_str());
        escape(&mut prefix, queue.name.as_str());
        prefix.push('/');
        Self(prefix)
    }

    /// What some keys begin with.
    pub(super) fn all(&self, part: &str) -> String {
        [&self.0, part].concat()
    }

    fn of_id(&self, part: &str, id: ItemId) -> String {
        [&self.0, part, &hex(id.as_bytes())].concat()
    }

    pub(super) fn item(&self, id: ItemId) -> String {
        self.of_id("i/", id)
    }

    pub(super) fn payload(&self, id: ItemId) -> String {
        self.of_id("b/", id)
    }

    pub(super) fn ready(&self, record: &Record) -> String {
        format!("{}r/{:08x}{:016x}", self.0, urgency(record.priority), record.place)
    }

    /// What the keys of a group begin with.
    pub(super) fn group(&self, group: &str) -> String {
        let mut prefix = self.all("g/");
        escape(&mut prefix, group);
        prefix.push('/');
        prefix
    }

    pub(super) fn in_group(&self, group: &str, place: u64) -> String {
        format!("{}{place:016x}", self.group(group))
    }

    pub(super) fn waits(&self, wait: Wait, id: ItemId) -> String {
        self.of_id(wait.parts().0, id)
    }

    pub(super) fn lease(&self, wait: Wait, id: ItemId) -> String {
        self.of_id(wait.parts().1, id)
    }

    pub(super) fn receive(&self, id: ItemId) -> String {
        self.of_id("c/", id)
    }

    pub(super) fn dead(&self, id: ItemId) -> String {
        self.of_id("x/", id)
    }

    pub(super) fn gone(&self, id: ItemId) -> String {
        self.of_id("a/", id)
    }

    pub(super) fn tail(&self) -> String {
        self.all("t")
    }

    pub(super) fn room(&self) -> String {
        self.all("m")
    }
}

/// What an item waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Wait {
    /// The end of a delay.
    Delay,
    /// The end of a delivery.
    Delivery,
}

impl Wait {
    /// What the keys of those that wait, and of their leases, begin with.
    pub(super) const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Delay => ("h/w/d/", "h/l/d/"),
            Self::Delivery => ("h/w/f/", "h/l/f/"),
        }
    }
}

/// The more urgent, the lower.
fn urgency(priority: i32) -> u32 {
    i32::MAX.abs_diff(priority)
}

/// The number of one among those of a step at this revision.
pub(super) fn numbered(revision: i64, number: usize) -> u64 {
    (revision.unsigned_abs() << BITS) | (number as u64 & ((1 << BITS) - 1))
}

/// The token of a delivery that was made at this revision.
pub(super) fn token(revision: i64, number: u16) -> Result<FencingToken> {
    FencingToken::new(numbered(revision, usize::from(number)))
}

/// The revision at which the delivery of this token was made.
pub(super) fn made_at(token: FencingToken) -> i64 {
    (token.get() >> BITS).cast_signed()
}

/// Where an item stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Ready, or behind another one of its group.
    Ready,
    /// Waiting for the end of its delay.
    Delayed,
    /// Taken by this receive, as that many of its deliveries after the first.
    Taken(ItemId, u16),
    /// Given up at this time, in milliseconds since 1970.
    Dead(u64),
}

/// What is known of an item.
///
/// It stands twice where it is ready, and a push may have a thousand: so it is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) id: ItemId,
    pub(super) state: State,
    pub(super) priority: i32,
    /// Its place among those of its priority, and of its group.
    pub(super) place: u64,
    /// How many bytes it carries.
    pub(super) size: u32,
    /// When it was pushed, in milliseconds since 1970, by the clock of who pushed: the server tells no time.
    pub(super) pushed: u64,
    pub(super) attempts: u32,
    pub(super) group: Option<String>,
    /// The token of the delivery that was given back last, or that it died of.
    pub(super) returned: Option<FencingToken>,
}

/// What the keys begin with of those that wait, of those and their leases, and of the leases.
pub(super) const WAITING: &str = "h/w/";
pub(super) const LEASED: &str = "h/";
pub(super) const LEASES: &str = "h/l/";

/// What the value of an item without a group is greater than.
pub(super) const WITHOUT_GROUP: &str = "u";

impl Record {
    pub(super) fn new(item: &NewItem, place: u64) -> Self {
        Self {
            id: item.id,
            state: if item.delay.is_zero() { State::Ready } else { State::Delayed },
            priority: item.priority,
            place,
            size: u32::try_from(item.payload.len()).unwrap_or(u32::MAX),
            pushed: now(),
            attempts: 0,
            group: item.group.clone(),
            returned: None,
        }
    }

    pub(super) fn read(kv: &KeyValue) -> Result<Self> {
        Self::unpack(kv.value()).ok_or_else(|| misread("an item of a queue"))
    }

    /// Whether it has a group, the state in a letter, its fields in the order of their declaration, and the group to the end.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let group = self.group.as_deref();
        let mut bytes = Vec::with_capacity(64 + group.map_or(0, str::len));
        bytes.extend(if group.is_some() { b"g" } else { WITHOUT_GROUP.as_bytes() });
        match &self.state {
            State::Ready => bytes.push(b'r'),
            State::Delayed => bytes.push(b'd'),
            State::Taken(receive, number) => {
                bytes.push(b't');
                bytes.extend(receive.as_bytes());
                bytes.extend(number.to_be_bytes());
            }
            State::Dead(died) => {
                bytes.push(b'x');
                bytes.extend(died.to_be_bytes());
            }
        }
        bytes.extend(self.id.as_bytes());
        bytes.extend(self.priority.to_be_bytes());
        bytes.extend(self.place.to_be_bytes());
        bytes.extend(self.size.to_be_bytes());
        bytes.extend(self.pushed.to_be_bytes());
        bytes.extend(self.attempts.to_be_bytes());
        bytes.extend(self.returned.map_or(0, FencingToken::get).to_be_bytes());
        bytes.extend(group.unwrap_or_default().as_bytes());
        bytes
    }

    fn unpack(mut bytes: &[u8]) -> Option<Self> {
        fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
            let (first, rest) = bytes.split_first_chunk()?;
            *bytes = rest;
            Some(*first)
        }
        let [grouped, letter] = take(&mut bytes)?;
        let state = match letter {
            b'r' => State::Ready,
            b'd' => State::Delayed,
            b't' => {
                State::Taken(ItemId::from_bytes(take(&mut bytes)?), u16::from_be_bytes(take(&mut bytes)?))
            }
            b'x' => State::Dead(u64::from_be_bytes(take(&mut bytes)?)),
            _ => return None,
        };
        Some(Self {
            id: ItemId::from_bytes(take(&mut bytes)?),
            state,
            priority: i32::from_be_bytes(take(&mut bytes)?),
            place: u64::from_be_bytes(take(&mut bytes)?),
            size: u32::from_be_bytes(take(&mut bytes)?),
            pushed: u64::from_be_bytes(take(&mut bytes)?),
            attempts: u32::from_be_bytes(take(&mut bytes)?),
            returned: FencingToken::new(u64::from_be_bytes(take(&mut bytes)?)).ok(),
            group: match grouped {
                b'g' => Some(std::str::from_utf8(bytes).ok()?.to_owned()),
                _ if bytes.is_empty() => None,
                _ => return None,
            },
        })
    }

    pub(super) fn in_state(&self, state: State) -> Self {
        Self { state, ..self.clone() }
    }

    pub(super) fn is_spent(&self, max_attempts: Option<u32>) -> bool {
        max_attempts.is_some_and(|max| self.attempts >= max)
    }

    pub(super) fn delivered(self, token: FencingToken, payload: Vec<u8>) -> Delivered {
        let pushed = time(self.pushed);
        let Self { id, priority, attempts: attempt, group, .. } = self;
        Delivered { id, token, attempt, payload, priority, group, pushed }
    }

    pub(super) fn dead(self, died: u64, payload: Vec<u8>) -> DeadItem {
        let Self { id, priority, attempts, group, .. } = self;
        DeadItem { id, attempts, payload, priority, group, died: time(died) }
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let now = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(millis)
}

/// The digits of how long a lease was granted for, which compare as numbers do.
pub(super) fn digits(ttl: Duration) -> String {
    format!("{:016}", ttl.as_millis())
}

/// The id that a key ends with.
pub(super) fn id_at_end(key: &[u8]) -> Result<ItemId> {
    let digits = key.len().checked_sub(32).map(|at| &key[at..]).unwrap_or_default();
    id(digits)
}

/// The id of these 32 digits.
pub(super) fn id(digits: &[u8]) -> Result<ItemId> {
    let id = claim_id(digits).ok_or_else(|| misread("the id of an item"))?;
    Ok(ItemId::from_bytes(*id.as_bytes()))
}

#[cfg(test)]
mod tests {
    use coord_core::{Name, Namespace};

    use super::*;

    fn keys(name: &str) -> Keys {
        Keys::of(&QueueId { namespace: Namespace::default(), name: Name::new(name).unwrap() })
    }

    fn record(priority: i32, place: u64, group: Option<&str>) -> Record {
        let item = NewItem {
            id: ItemId::random(),
            payload: vec![1, 2],
            priority,
            delay: Duration::ZERO,
            group: group.map(Into::into),
        };
        Record::new(&item, place)
    }

    #[test]
    fn the_more_urgent_and_the_earlier_go_first() {
        let keys = keys("q");
        let order = [(i32::MAX, 9), (1, 8), (0, 5), (0, 6), (0, u64::MAX), (-1, 2), (i32::MIN, 1)];
        assert!(order.map(|(priority, place)| keys.ready(&record(priority, place, None))).is_sorted());
    }

    #[test]
    fn a_record_is_read_back() {
        for state in
            [State::Ready, State::Delayed, State::Taken(ItemId::random(), 999), State::Dead(u64::MAX)]
        {
            for group in [None, Some(""), Some("a group of \u{1f980}")] {
                let returned = token(7, 3).ok().filter(|_| group.is_some());
                let record = Record { state, attempts: 7, returned, ..record(i32::MIN, u64::MAX, group) };
                let bytes = record.bytes();
                assert_eq!(Record::unpack(&bytes), Some(record));
                assert_eq!(Record::unpack(&bytes[..bytes.len() - group.map_or(1, str::len) - 1]), None);
            }
        }
        assert_eq!(Record::unpack(b""), None);
        assert_eq!(Record::unpack(&[record(1, 2, None).bytes(), b"x".to_vec()].concat()), None);
    }

    #[test]
    fn a_token_says_when_it_was_made() {
        let (one, two) = (token(77, 999).unwrap(), token(78, 0).unwrap());
        assert!(one < two && made_at(one) == 77 && made_at(two) == 78);
        assert!(token(77, 3).unwrap() < one);
    }

    #[test]
    fn items_with_a_group_compare_lower() {
        for (group, without) in [(None, true), (Some(""), false), (Some("zzz"), false)] {
            let record = record(3, 7, group);
            assert_eq!(record.bytes() > WITHOUT_GROUP.as_bytes().to_vec(), without);
        }
    }

    #[test]
    fn no_two_groups_and_no_two_queues_share_keys() {
        let all = [
            keys("q").group("a"),
            keys("q").group("a/b"),
            keys("q").group(""),
            keys("q/g").all(""),
            keys("q").all("i/"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(
                all[at + 1..]
                    .iter()
                    .all(|other| !one.starts_with(other.as_str()) && !other.starts_with(one.as_str()))
            );
        }
    }
}
