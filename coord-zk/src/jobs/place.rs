//! The names of nodes in a queue, which say all that decides what is next, so that one listing tells it.
//!
//! ```text
//! line/<i or d><urgency>.<order>.<item>.<attempts>.<ready>.<group>.<returned>     an item; d once it was delivered
//! line/l<order>.<token>.<receive>                                               the lease of an item, with its session
//! dead/<urgency>.<item>.<attempts>.<group>.<token>-<number>                       an item that was given up
//! ```
//!
//! Numbers are hexadecimal but for the server's. The lower the urgency, the higher the priority. Items have the order of their
//! pushes. `ready` is the store's time in milliseconds since 1970 from which on the item may be delivered, or 0; `group` a hash
//! of the group's name or nothing; `returned` the token of the delivery that was given back last, or nothing. This is stable.

use coord_core::{FencingToken, spi::jobs::ItemId};
use uuid::Uuid;

/// An item that is not dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) urgency: u32,
    pub(super) order: u64,
    pub(super) id: ItemId,
    pub(super) attempts: u32,
    pub(super) ready: u64,
    pub(super) group: Option<u64>,
    pub(super) returned: Option<FencingToken>,
    /// It was delivered; without a lease, that one has ended.
    pub(super) delivered: bool,
}

/// The lease of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) order: u64,
    pub(super) token: FencingToken,
    pub(super) receive: ItemId,
}

/// An item that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grave {
    pub(super) urgency: u32,
    pub(super) id: ItemId,
    pub(super) attempts: u32,
    pub(super) group: Option<u64>,
    /// The delivery by whose word it died; none for a lease that ended.
    pub(super) token: Option<FencingToken>,
}

/// The more urgent, the lower.
pub(super) fn urgency(priority: i32) -> u32 {
    i32::MAX.abs_diff(priority)
}

pub(super) fn priority(urgency: u32) -> i32 {
    i32::MAX.wrapping_sub_unsigned(urgency)
}

/// A hash of a group's name (FNV-1a). Two groups that share one are kept in order together, which harms nobody.
pub(super) fn group_hash(group: &str) -> u64 {
    group.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

pub(super) fn simple(id: ItemId) -> uuid::fmt::Simple {
    Uuid::from_bytes(*id.as_bytes()).simple()
}

fn optional(number: Option<u64>) -> String {
    number.map_or_else(String::new, |number| format!("{number:x}"))
}

impl Place {
    pub(super) fn name(&self) -> String {
        format!(
            "{}{:x}.{:x}.{}.{:x}.{:x}.{}.{}",
            if self.delivered { 'd' } else { 'i' },
            self.urgency,
            self.order,
            simple(self.id),
            self.attempts,
            self.ready,
            optional(self.group),
            optional(self.returned.map(FencingToken::get)),
        )
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (delivered, rest) = match name.strip_prefix('i') {
            Some(rest) => (false, rest),
            None => (true, name.strip_prefix('d')?),
        };
        let mut fields = Fields(rest.split('.'));
        let place = Self {
            urgency: fields.short()?,
            order: fields.long()?,
            id: fields.id()?,
            attempts: fields.short()?,
            ready: fields.long()?,
            group: fields.optional()?,
            returned: fields.token()?,
            delivered,
        };
        fields.end().then_some(place)
    }

    pub(super) fn is_spent(&self, max_attempts: Option<u32>) -> bool {
        max_attempts.is_some_and(|max| self.attempts >= max)
    }

    /// It as one that was given up.
    pub(super) fn grave(&self, token: Option<FencingToken>) -> Grave {
        let Self { urgency, id, attempts, group, .. } = *self;
        Grave { urgency, id, attempts, group, token }
    }
}

impl Marker {
    pub(super) fn name(&self) -> String {
        format!("l{:x}.{:x}.{}", self.order, self.token.get(), simple(self.receive))
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut fields = Fields(name.strip_prefix('l')?.split('.'));
        let marker = Self { order: fields.long()?, token: fields.token()??, receive: fields.id()? };
        fields.end().then_some(marker)
    }
}

impl Grave {
    /// The name without the server's number.
    pub(super) fn stem(&self) -> String {
        format!(
            "{:x}.{}.{:x}.{}.{}-",
            self.urgency,
            simple(self.id),
            self.attempts,
            optional(self.group),
            optional(self.token.map(FencingToken::get)),
        )
    }

    /// It, and the server's number.
    pub(super) fn parse(name: &str) -> Option<(Self, i32)> {
        let (stem, number) = name.split_once('-')?;
        let mut fields = Fields(stem.split('.'));
        let grave = Self {
            urgency: fields.short()?,
            id: fields.id()?,
            attempts: fields.short()?,
            group: fields.optional()?,
            token: fields.token()?,
        };
        let number = number.parse::<i64>().ok()?;
        // Newer servers count on where older ones overflow.
        fields.end().then_some((grave, number as i32))
    }
}

/// What is not read yet of a name.
struct Fields<'a>(std::str::Split<'a, char>);

impl Fields<'_> {
    fn long(&mut self) -> Option<u64> {
        u64::from_str_radix(self.0.next()?, 16).ok()
    }

    fn short(&mut self) -> Option<u32> {
        u32::try_from(self.long()?).ok()
    }

    fn id(&mut self) -> Option<ItemId> {
        Some(ItemId::from_bytes(*Uuid::try_parse(self.0.next()?).ok()?.as_bytes()))
    }

    fn optional(&mut self) -> Option<Option<u64>> {
        match self.0.next()? {
            "" => Some(None),
            number => u64::from_str_radix(number, 16).ok().map(Some),
        }
    }

    fn token(&mut self) -> Option<Option<FencingToken>> {
        match self.optional()? {
            None => Some(None),
            Some(number) => FencingToken::new(number).ok().map(Some),
        }
    }

    fn end(&mut self) -> bool {
        self.0.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let token = FencingToken::new(0x1f).unwrap();
        for (group, returned) in
            [(None, None), (Some(0), None), (Some(u64::MAX), Some(token)), (None, Some(token))]
        {
            for delivered in [false, true] {
                let (id, order) = (ItemId::random(), u64::MAX);
                let place =
                    Place { urgency: 7, order, id, attempts: 2, ready: 1 << 40, group, returned, delivered };
                assert_eq!(Place::parse(&place.name()), Some(place.clone()));
                assert_eq!(Marker::parse(&place.name()), None);
                let grave = place.grave(returned);
                let name = format!("{}0000000012", grave.stem());
                assert_eq!(Grave::parse(&name), Some((grave, 12)));
            }
        }
        let marker = Marker { order: 3, token, receive: ItemId::random() };
        assert_eq!(Marker::parse(&marker.name()), Some(marker.clone()));
        assert_eq!(Place::parse(&marker.name()), None);
        for strange in ["", "i", "l", "lock-1", "i1.2.3", "l1.0.00000000000000000000000000000000"] {
            assert_eq!((Place::parse(strange), Marker::parse(strange)), (None, None), "{strange}");
        }
    }

    #[test]
    fn higher_priorities_are_more_urgent() {
        let order = [i32::MAX, 7, 1, 0, -1, i32::MIN];
        assert!(order.map(urgency).is_sorted());
        assert_eq!(order.map(urgency).map(priority), order);
        assert_eq!((urgency(i32::MAX), urgency(i32::MIN)), (0, u32::MAX));
    }

    #[test]
    fn the_hash_of_a_group_is_stable() {
        assert_eq!(group_hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(group_hash("a"), 0xaf63_dc4c_8601_ec8c);
    }
}
