//! The nodes of a queue.
//!
//! ```text
//! …/queue                   the greatest token that is reserved, 8 bytes, or nothing; see `floor`
//! …/queue/<name>/head       the last token, 8 bytes; every receive sets it, if it is as it was read
//! …/queue/<name>/tail       the next order, 8 bytes; every push sets it, if it is as it was read
//! …/queue/<name>/clock      set to be told the store's time
//! …/queue/<name>/line       items and their leases, by names; see `place`
//! …/queue/<name>/items/<item>     what an item carries; its ctime is when it was pushed
//! …/queue/<name>/dead       items that were given up, by names; see `place`
//! …/queue/<name>/gone/<digit>/<item>     an item that was acknowledged, with the token in 8 bytes, or dropped
//! ```
//!
//! All but the folders in `gone`, which are container nodes, are made with the first push and stay.
//!
//! An item's data are `1, 0, payload` or `1, 1, length of the group's name: 2, the group's name, payload`.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use coord_core::{
    Error, ErrorKind, FencingToken, Result,
    spi::jobs::{ItemId, QueueId},
};

use super::{
    floor,
    place::{Grave, Marker, Place, short},
};
use crate::{
    batch::make,
    config::Config,
    error::{Failure, misread},
    keys,
    session::{Mode, Session, Stat},
    values::record::wall,
};

const FORMAT: u8 = 1;

/// The nodes of a queue.
#[derive(Debug, Clone)]
pub(super) struct Room {
    root: String,
}

impl Room {
    /// How many folders there are of items that are gone.
    pub(super) const BUCKETS: usize = 16;

    pub(super) fn new(config: &Config, queue: &QueueId) -> Self {
        Self { root: keys::of_queue(config, queue).as_str().to_owned() }
    }

    pub(super) fn root(&self) -> &str {
        &self.root
    }

    /// The folder of all queues of the namespace.
    pub(super) fn folder(&self) -> &str {
        keys::parent(&self.root).unwrap_or(&self.root)
    }

    fn node(&self, name: &str) -> String {
        format!("{}/{name}", self.root)
    }

    pub(super) fn head(&self) -> String {
        self.node("head")
    }

    pub(super) fn tail(&self) -> String {
        self.node("tail")
    }

    pub(super) fn clock(&self) -> String {
        self.node("clock")
    }

    pub(super) fn line(&self) -> String {
        self.node("line")
    }

    pub(super) fn place(&self, place: &Place) -> String {
        format!("{}/line/{}", self.root, place.name())
    }

    pub(super) fn marker(&self, marker: &Marker) -> String {
        marker_in(&self.root, marker)
    }

    pub(super) fn item(&self, id: ItemId) -> String {
        format!("{}/items/{}", self.root, short(id))
    }

    pub(super) fn dead(&self) -> String {
        self.node("dead")
    }

    /// One of the folders of items that are gone.
    pub(super) fn bucket_of(&self, digit: usize) -> String {
        format!("{}/gone/{digit:x}", self.root)
    }

    /// The one with ids like this one.
    pub(super) fn bucket(&self, id: ItemId) -> String {
        self.bucket_of(usize::from(id.as_bytes()[0] >> 4))
    }

    pub(super) fn gone(&self, id: ItemId) -> String {
        format!("{}/{}", self.bucket(id), short(id))
    }

    /// Makes a folder of items that are gone.
    pub(super) async fn make_bucket(&self, session: &Session, bucket: &str) -> Result<()> {
        match session.create(bucket, b"", Mode::Container).await {
            Ok(_) | Err(Failure::NodeExists) => Ok(()),
            Err(Failure::NoNode) => self.make(session).await,
            Err(failure) => Err(failure.into()),
        }
    }

    /// Makes what has to be there before the first push.
    pub(super) async fn make(&self, session: &Session) -> Result<()> {
        session.make(&self.root, Mode::Persistent).await?;
        let names = ["head", "clock", "line", "items", "dead", "gone", "tail"];
        let first = floor::first(session, self).await?;
        let data = |name: &str| if name == "head" { first.clone() } else { Vec::new() };
        let folders = names.map(|name| (self.node(name), data(name), Mode::Persistent));
        make(session, &folders).await
    }
}

/// The path of a lease in a queue.
pub(super) fn marker_in(root: &str, marker: &Marker) -> String {
    format!("{root}/line/{}", marker.name())
}

/// A number of eight bytes; zero where there is none yet.
pub(super) fn number(data: &[u8]) -> Result<u64> {
    if data.is_empty() {
        return Ok(0);
    }
    data.try_into().map(u64::from_be_bytes).map_err(|_| misread("a number of a queue"))
}

/// The head of a queue as it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) version: i32,
    /// Of its last change.
    pub(super) zxid: u64,
    last: u64,
}

impl Head {
    pub(super) fn new(last: &[u8], stat: &Stat) -> Result<Self> {
        let zxid = stat.mzxid.cast_unsigned();
        Ok(Self { version: stat.version, zxid, last: number(last)?.max(zxid) })
    }

    /// The token of a delivery, the first of a receive being number zero. It is greater than all before, and than the zxid of
    /// the last change of the head.
    pub(super) fn token(&self, number: usize) -> Result<FencingToken> {
        let token = self.last.saturating_add(1).saturating_add(number as u64);
        FencingToken::new(token)
            .map_err(|_| Error::new(ErrorKind::Exhausted, "the tokens of this queue are used up"))
    }
}

/// The items of a queue and their leases at one moment.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// None if the queue was never used.
    pub(super) head: Option<Head>,
    /// By their order.
    places: BTreeMap<u64, Place>,
    leases: HashMap<u64, Marker>,
}

impl Line {
    /// What others put into the folder is ignored.
    pub(super) fn parse(names: &[String]) -> Self {
        let mut line = Self::default();
        names.iter().for_each(|name| line.add(name));
        line
    }

    pub(super) fn add(&mut self, name: &str) {
        if let Some(place) = Place::parse(name) {
            self.places.insert(place.order, place);
        } else if let Some(marker) = Marker::parse(name) {
            self.leases.insert(marker.order, marker);
        }
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(place) = Place::parse(name) {
            if self.places.get(&place.order) == Some(&place) {
                self.places.remove(&place.order);
            }
        } else if let Some(marker) = Marker::parse(name)
            && self.leases.get(&marker.order) == Some(&marker)
        {
            self.leases.remove(&marker.order);
        }
    }

    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The items in their order.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.values()
    }

    pub(super) fn lease(&self, place: &Place) -> Option<&Marker> {
        self.leases.get(&place.order)
    }

    /// The items that somebody has in hand, with their leases.
    pub(super) fn leased(&self) -> impl Iterator<Item = (&Place, &Marker)> {
        self.leases.iter().filter_map(|(order, marker)| Some((self.places.get(order)?, marker)))
    }

    /// The items that nobody has in hand.
    pub(super) fn free(&self) -> impl Iterator<Item = &Place> {
        self.places().filter(|place| self.lease(place).is_none())
    }
}

/// Dead items in the order of their deaths, with their names.
pub(super) fn graves(names: &[String]) -> Vec<(Grave, String)> {
    let mut graves: Vec<_> = names
        .iter()
        .filter_map(|name| Grave::parse(name).map(|(grave, number)| (number, (grave, name.clone()))))
        .collect();
    let some = graves.first().map_or(0, |(number, _)| *number);
    graves.sort_by_key(|(number, _)| number.wrapping_sub(some));
    graves.into_iter().map(|(_, grave)| grave).collect()
}

/// What an item's node holds.
pub(super) fn pack(group: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let mut data = vec![FORMAT, u8::from(group.is_some())];
    if let Some(group) = group {
        // A group's name is much shorter; see `coord_core::limits`.
        let group = &group.as_bytes()[..group.len().min(usize::from(u16::MAX))];
        data.extend((group.len() as u16).to_be_bytes());
        data.extend(group);
    }
    data.extend(payload);
    data
}

/// What an item carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Carried {
    pub(super) payload: Vec<u8>,
    pub(super) group: Option<String>,
    pub(super) pushed: SystemTime,
}

pub(super) fn unpack(mut data: Vec<u8>, stat: &Stat) -> Result<Carried> {
    let pushed = wall(stat.ctime.cast_unsigned());
    let [format, has_group, rest @ ..] = &data[..] else { return Err(misread("an item")) };
    if *format != FORMAT {
        return Err(Error::new(
            ErrorKind::NewerSchema,
            "an item was pushed by a newer version of this library",
        ));
    }
    let (group, start) = match (has_group, rest) {
        (0, _) => (None, 2),
        (_, [high, low, rest @ ..]) => {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let group = rest.get(..length).and_then(|group| std::str::from_utf8(group).ok());
            (Some(group.ok_or_else(|| misread("the group of an item"))?.to_owned()), 4 + length)
        }
        _ => return Err(misread("an item")),
    };
    Ok(Carried { payload: data.split_off(start), group, pushed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dead_are_in_the_order_of_their_deaths() {
        let place = Place {
            urgency: 1,
            order: 1,
            id: ItemId::random(),
            attempts: 1,
            ready: 0,
            group: None,
            returned: None,
            delivered: true,
        };
        let stem = place.grave(None).stem();
        let names = ["2147483647", "0000000003", "-2147483648"].map(|number| format!("{stem}{number}"));
        let order = |names: &[String]| graves(names).into_iter().map(|(_, name)| name).collect::<Vec<_>>();
        assert_eq!(order(&names[1..2]), names[1..2]);
        assert_eq!(order(&[names[2].clone(), names[0].clone()]), [names[0].clone(), names[2].clone()]);
    }
}
