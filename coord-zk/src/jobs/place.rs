//! The names of nodes in a queue, which say all that decides what is next, so that one listing tells it.
//!
//! ```text
//! line/<i or d><order>.<item>[.u<urgency>][.t<attempts>][.r<ready>][.g<group>][.n<returned>]    an item; d once it was delivered
//! line/l<order>.<token>.<receive>                                                      the lease of an item, with its session
//! dead/<item>[.u<urgency>][.t<attempts>][.g<group>][.n<token>]~<number>                an item that was given up
//! ```
//!
//! Numbers are hexadecimal but for the server's, and ids are in the alphabet of URLs of base 64. The lower the urgency, the
//! higher the priority; it is left out for priority 0. Items have the order of their pushes. `ready` is the store's time in
//! milliseconds since 1970 from which on the item may be delivered; `group` a hash of the group's name; `returned` the token of
//! the delivery that was given back last, and `token` that of the one by whose word the item died. What is 0 or nothing is left
//! out. Names are short because every receive is told all of them. This is stable.

use coord_core::{FencingToken, spi::jobs::ItemId};

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

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What the characters of [`ALPHABET`] stand for; 64 for others.
const SIX: [u8; 128] = {
    let (mut table, mut at) = ([64; 128], 0);
    while at < 64 {
        table[ALPHABET[at] as usize] = at as u8;
        at += 1;
    }
    table
};

/// An id in 22 characters.
pub(super) fn short(id: ItemId) -> String {
    let mut bits = u128::from_be_bytes(*id.as_bytes());
    let mut text = [0; 22];
    for place in text.iter_mut().rev() {
        *place = ALPHABET[(bits & 63) as usize];
        bits >>= 6;
    }
    text.iter().map(|byte| char::from(*byte)).collect()
}

impl Place {
    pub(super) fn name(&self) -> String {
        let mut name = if self.delivered { 'd' } else { 'i' }.to_string();
        name.push_str(&format!("{:x}.{}", self.order, short(self.id)));
        let returned = self.returned.map(FencingToken::get);
        rest(&mut name, self.urgency, self.attempts, self.ready, self.group, returned);
        name
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let (delivered, mut fields) = match name.as_bytes() {
            [b'i', rest @ ..] => (false, Fields(rest)),
            [b'd', rest @ ..] => (true, Fields(rest)),
            _ => return None,
        };
        let (order, id, rest) = (fields.number()?, fields.id()?, fields.rest()?);
        let returned = optional_token(rest.token)?;
        let Rest { urgency, attempts, ready, group, .. } = rest;
        Some(Self { urgency, order, id, attempts, ready, group, returned, delivered })
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
        format!("l{:x}.{:x}.{}", self.order, self.token.get(), short(self.receive))
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let [b'l', rest @ ..] = name.as_bytes() else { return None };
        let mut fields = Fields(rest);
        let marker = Self {
            order: fields.number()?,
            token: optional_token(Some(fields.number()?))??,
            receive: fields.id()?,
        };
        fields.0.is_empty().then_some(marker)
    }
}

impl Grave {
    /// The name without the server's number.
    pub(super) fn stem(&self) -> String {
        let mut name = short(self.id);
        rest(&mut name, self.urgency, self.attempts, 0, self.group, self.token.map(FencingToken::get));
        name.push('~');
        name
    }

    /// It, and the server's number.
    pub(super) fn parse(name: &str) -> Option<(Self, i32)> {
        let (stem, number) = name.split_once('~')?;
        let mut fields = Fields(stem.as_bytes());
        let (id, rest) = (fields.id()?, fields.rest()?);
        let Rest { urgency, attempts, group, .. } = rest;
        let grave = Self { urgency, id, attempts, group, token: optional_token(rest.token)? };
        // Newer servers count on where older ones overflow.
        Some((grave, number.parse::<i64>().ok()? as i32))
    }
}

fn optional_token(number: Option<u64>) -> Option<Option<FencingToken>> {
    match number {
        None => Some(None),
        Some(number) => FencingToken::new(number).ok().map(Some),
    }
}

/// The urgency of most items.
const USUAL: u32 = i32::MAX as u32;

/// Adds what is not as usual.
fn rest(name: &mut String, urgency: u32, attempts: u32, ready: u64, group: Option<u64>, token: Option<u64>) {
    let fields = [
        ('u', (urgency != USUAL).then_some(u64::from(urgency))),
        ('t', (attempts > 0).then_some(u64::from(attempts))),
        ('r', (ready > 0).then_some(ready)),
        ('g', group),
        ('n', token),
    ];
    for (tag, number) in fields {
        if let Some(number) = number {
            name.push_str(&format!(".{tag}{number:x}"));
        }
    }
}

struct Rest {
    urgency: u32,
    attempts: u32,
    ready: u64,
    group: Option<u64>,
    token: Option<u64>,
}

/// What is not read yet of a name. Written out, because every receive reads all names of a queue.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    /// A number and the point after it, if there is one.
    fn number(&mut self) -> Option<u64> {
        let (mut number, mut digits) = (0_u64, 0);
        while let [byte, rest @ ..] = self.0 {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'.' => {
                    self.0 = rest;
                    break;
                }
                _ => return None,
            };
            number = number << 4 | u64::from(digit);
            digits += 1;
            self.0 = rest;
        }
        (1..=16).contains(&digits).then_some(number)
    }

    /// An id and the point after it, if there is one.
    fn id(&mut self) -> Option<ItemId> {
        let (text, rest) = self.0.split_at_checked(22)?;
        let mut bits = 0_u128;
        for byte in text {
            let six = *SIX.get(usize::from(*byte))?;
            if six > 63 {
                return None;
            }
            bits = bits << 6 | u128::from(six);
        }
        self.0 = match rest {
            [b'.', rest @ ..] => rest,
            [] => rest,
            _ => return None,
        };
        Some(ItemId::from_bytes(bits.to_be_bytes()))
    }

    /// What is not as usual, to the end.
    fn rest(&mut self) -> Option<Rest> {
        let mut all = Rest { urgency: USUAL, attempts: 0, ready: 0, group: None, token: None };
        while let [tag, rest @ ..] = self.0 {
            self.0 = rest;
            let number = self.number()?;
            match tag {
                b'u' => all.urgency = u32::try_from(number).ok()?,
                b't' => all.attempts = u32::try_from(number).ok()?,
                b'r' => all.ready = number,
                b'g' => all.group = Some(number),
                b'n' => all.token = Some(number),
                _ => return None,
            }
        }
        Some(all)
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
                let (urgency, attempts, ready) = if delivered { (7, 2, 1 << 40) } else { (USUAL, 0, 0) };
                let place = Place { urgency, order, id, attempts, ready, group, returned, delivered };
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
        for strange in
            ["", "i", "l", "lock-1", "i1.2.3", "l1.0.AAAAAAAAAAAAAAAAAAAAAA", "i1.AAAAAAAAAAAAAAAAAAAAAA.x1"]
        {
            assert_eq!((Place::parse(strange), Marker::parse(strange)), (None, None), "{strange}");
        }
    }

    #[test]
    fn a_usual_name_is_short() {
        let id = ItemId::from_bytes([0xff; 16]);
        assert_eq!(short(id), "D_____________________");
        let (order, group) = (26, Some(0xab));
        let (attempts, ready, returned) = (0, 0, None);
        let place =
            Place { urgency: urgency(0), order, id, attempts, ready, group, returned, delivered: false };
        assert_eq!(place.name(), "i1a.D_____________________.gab");
        let place = Place { group: None, attempts: 1, ..place };
        assert_eq!(place.name(), "i1a.D_____________________.t1");
        assert_eq!(place.grave(None).stem(), "D_____________________.t1~");
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
