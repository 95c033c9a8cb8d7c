//! The order of a line, as the names of its nodes tell it.
//!
//! ```text
//! _c_<claim id>-<weight>.<limit>-<number>     a claim in our own layout; weight and limit are hexadecimal
//! _c_<claim id>-lock-<number>                 a lock in the layout of Curator and of Go
//! <claim id>__lock__<number>                  a lock in the layout of kazoo; the id without dashes
//! ```
//!
//! The claim id makes a claim whose creation was not answered findable. The number is the server's, ten digits or more. It starts
//! again with the folder and runs over after 2^31 claims, so numbers are compared as those of a circle are, and are never
//! tokens.

use coord_core::spi::{ALL, Claim, ClaimId, LineId};

use crate::{
    config::{Config, Layout},
    keys::{self, Folder},
    session::Mode,
};

/// What other libraries put in front of the numbers of locks. Whoever has one of these waits or holds.
const MARKS: [&str; 5] = ["lock-", "__lock__", "__READ__", "__WRIT__", "__rlock__"];

/// Where a line stands, and in which layout.
#[derive(Debug, Clone)]
pub(crate) struct Spot {
    pub(crate) folder: Folder,
    pub(crate) layout: Layout,
    /// Where Curator looks for the instances of this service; `None` where they are not shown to it.
    pub(crate) faces: Option<Folder>,
}

impl Spot {
    pub(crate) fn of(config: &Config, line: &LineId) -> coord_core::Result<Self> {
        let own = !keys::at_its_name(config.layout(), line.kind);
        let layout = if own { Layout::Own } else { config.layout() };
        Ok(Self { folder: keys::of_line(config, line)?, layout, faces: keys::of_faces(config, line)? })
    }

    /// What the paths of a claim's nodes begin with, and no others.
    pub(crate) fn stem(&self, id: ClaimId) -> String {
        match self.layout {
            Layout::Kazoo => self.folder.node(&format!("{}__lock__", simple(id))),
            Layout::Own | Layout::Curator | Layout::Interop => self.folder.node(&format!("_c_{id}-")),
        }
    }

    /// The paths of the nodes to make for a claim, without their numbers.
    pub(crate) fn paths(&self, claim: &Claim) -> Vec<String> {
        let stem = self.stem(claim.id);
        match self.layout {
            Layout::Own => vec![format!("{stem}{:x}.{:x}-", claim.weight, claim.limit)],
            Layout::Curator => vec![format!("{stem}lock-")],
            Layout::Kazoo => vec![stem],
            Layout::Interop => {
                vec![format!("{stem}lock-"), self.folder.node(&format!("{}__lock__", simple(claim.id)))]
            }
        }
    }

    /// How long the folder lives. Kazoo looks once whether a lock's folder is there, and every later claim of that lock fails without
    /// it: the folder stays, as one that kazoo makes.
    pub(crate) fn folder_mode(&self) -> Mode {
        match self.layout {
            Layout::Own | Layout::Curator => Mode::Container,
            Layout::Kazoo | Layout::Interop => Mode::Persistent,
        }
    }

    /// The line that these nodes make; others are ignored.
    pub(crate) fn queue(&self, names: Vec<String>) -> Queue {
        let parse = if self.layout == Layout::Own { own } else { of_others };
        let mut places: Vec<_> = names.into_iter().filter_map(parse).collect();
        sort(&mut places);
        Queue(places)
    }
}

fn simple(id: ClaimId) -> uuid::fmt::Simple {
    uuid::Uuid::from_bytes(*id.as_bytes()).simple()
}

/// One claim of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) name: String,
    number: i64,
    pub(crate) weight: u32,
    pub(crate) limit: u32,
    /// `None` for one of another library that has none.
    pub(crate) id: Option<ClaimId>,
}

/// The claims of a line, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queue(pub(crate) Vec<Place>);

/// What a claim that is not eligible has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocker {
    /// This claim to leave, or to be granted.
    Place(usize),
    /// Any of those ahead to leave.
    Any,
}

impl Queue {
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|place| place.name == name)
    }

    fn ahead(&self, at: usize) -> u64 {
        self.0[..at].iter().map(|place| u64::from(place.weight)).sum()
    }

    pub(crate) fn is_eligible(&self, at: usize) -> bool {
        self.ahead(at) + u64::from(self.0[at].weight) <= u64::from(self.0[at].limit)
    }

    /// Which are eligible, all at once.
    pub(crate) fn eligible(&self) -> Vec<bool> {
        let mut ahead = 0;
        let eligible = |place: &Place| {
            let sum = ahead + u64::from(place.weight);
            ahead = sum;
            sum <= u64::from(place.limit)
        };
        self.0.iter().map(eligible).collect()
    }

    /// What the claim at this place has to wait for: nearest first, so that few wake when one leaves.
    pub(crate) fn blocker(&self, at: usize) -> Blocker {
        let own = &self.0[at];
        let alone = |place: &Place| u64::from(place.weight) + u64::from(own.weight) > u64::from(own.limit);
        if let Some(nearest) = self.0[..at].iter().rposition(alone) {
            return Blocker::Place(nearest);
        }
        // No single one is in the way. Who waits directly ahead tells when it is granted; the first who waits looks itself. One with a
        // lower limit may have to wait for longer.
        let eligible = self.eligible();
        let waits = (0..at).rev().find(|place| !eligible[*place] && self.0[*place].limit >= own.limit);
        waits.map_or(Blocker::Any, Blocker::Place)
    }

    /// Whether the blocker keeps the claim waiting whatever the others do.
    pub(crate) fn is_alone(&self, at: usize, blocker: Blocker) -> bool {
        let own = &self.0[at];
        let Blocker::Place(place) = blocker else { return false };
        u64::from(self.0[place].weight) + u64::from(own.weight) > u64::from(own.limit)
    }

    /// Whether claims can be in each other's way without one of them being so alone: then who is granted after a wait tells
    /// those behind.
    pub(crate) fn is_shared(&self) -> bool {
        let shares =
            |place: &Place| place.limit > 0 && (place.weight == 0 || place.limit > 1) && place.limit != ALL;
        self.0.iter().any(shares)
    }
}

/// A claim in our own layout.
fn own(name: String) -> Option<Place> {
    let rest = name.strip_prefix("_c_")?;
    let id = uuid::Uuid::try_parse(rest.get(..36)?).ok()?;
    let (measures, number) = rest.get(36..)?.strip_prefix('-')?.split_once('-')?;
    let (weight, limit) = measures.split_once('.')?;
    Some(Place {
        number: number.parse().ok()?,
        weight: u32::from_str_radix(weight, 16).ok()?,
        limit: u32::from_str_radix(limit, 16).ok()?,
        id: Some(ClaimId::from_bytes(id.into_bytes())),
        name,
    })
}

/// A lock of any of the libraries.
fn of_others(name: String) -> Option<Place> {
    let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
    if digits < 10 {
        return None;
    }
    let (front, number) = name.split_at(name.len() - digits);
    let marked = |front: &str| MARKS.iter().any(|mark| front.ends_with(mark));
    // After the overflow numbers are negative; `lock-` itself ends with a dash.
    let number = match front.strip_suffix('-') {
        Some(shorter) if marked(shorter) => -number.parse::<i64>().ok()?,
        _ if marked(front) => number.parse().ok()?,
        _ => return None,
    };
    let id = front.strip_prefix("_c_").unwrap_or(front);
    let id = [36, 32].iter().find_map(|length| uuid::Uuid::try_parse(id.get(..*length)?).ok());
    Some(Place {
        number,
        weight: ALL,
        limit: ALL,
        id: id.map(|id| ClaimId::from_bytes(id.into_bytes())),
        name,
    })
}

/// In the order of the server's numbers, which run over after 2^31 of them: they stand on a circle, and the line begins behind the
/// widest gap in it. Whoever sees the same numbers sees the same order, whatever they are.
fn sort(places: &mut [Place]) {
    places.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
    let around = |number: i64| i32::try_from(number).ok().map(|number| i64::from(number.cast_unsigned()));
    // Newer servers count in more digits.
    let Some(mut numbers) = places.iter().map(|place| around(place.number)).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    numbers.sort_unstable();
    let Some((first, last)) = numbers.first().zip(numbers.last()) else { return };
    let between = numbers.windows(2).map(|pair| (pair[1] - pair[0], pair[1]));
    let over_the_end = (first + (1 << 32) - last, *first);
    let (_, start) = between.fold(over_the_end, |widest, gap| if gap.0 > widest.0 { gap } else { widest });
    places.sort_by_key(|place| (place.number - start).rem_euclid(1 << 32));
}

#[cfg(test)]
mod tests {
    use coord_core::{Name, Namespace, spi::Kind};
    use std::time::Duration;

    use super::*;

    fn queue(claims: &[(u32, u32)]) -> Queue {
        let place = |(number, (weight, limit)): (usize, &(u32, u32))| Place {
            name: number.to_string(),
            number: i64::try_from(number).unwrap(),
            weight: *weight,
            limit: *limit,
            id: None,
        };
        Queue(claims.iter().enumerate().map(place).collect())
    }

    fn spot(layout: Layout) -> (Spot, Claim) {
        let line =
            LineId { namespace: Namespace::default(), kind: Kind::Lock, name: Name::new("a").unwrap() };
        let config = Config::new("h", 1).with_layout(layout);
        let claim = Claim {
            line: line.clone(),
            id: ClaimId::from_bytes([7; 16]),
            weight: ALL,
            limit: 3,
            ttl: Duration::from_secs(1),
            priority: 0,
            wait: true,
            owner: String::new(),
            value: Vec::new(),
        };
        (Spot::of(&config, &line).unwrap(), claim)
    }

    #[test]
    fn names_are_read_as_they_are_made() {
        for layout in [Layout::Own, Layout::Curator, Layout::Kazoo, Layout::Interop] {
            let (spot, claim) = spot(layout);
            let paths = spot.paths(&claim);
            assert_eq!(paths.len(), if layout == Layout::Interop { 2 } else { 1 });
            for path in paths {
                let name = format!("{}0000000012", path.rsplit('/').next().unwrap());
                let queue = spot.queue(vec![name.clone(), "something".into()]);
                assert_eq!(queue.0.len(), 1, "{name}");
                let place = &queue.0[0];
                assert_eq!((place.id, place.number, place.weight), (Some(claim.id), 12, ALL), "{name}");
                assert!(layout != Layout::Own || place.limit == 3);
            }
        }
    }

    #[test]
    fn locks_of_others_count_and_nothing_else() {
        for (name, number) in [
            ("_c_07070707-0707-0707-0707-070707070707-lock-0000000003", Some(3)),
            ("_c_07070707070707070707070707070707-lock-0000000004", Some(4)),
            ("07070707070707070707070707070707__lock__0000000005", Some(5)),
            ("07070707070707070707070707070707__rlock__0000000006", Some(6)),
            ("_c_07070707-0707-0707-0707-070707070707-__WRIT__0000000007", Some(7)),
            ("lock-0000000008", Some(8)),
            ("lock--2147483648", Some(-2_147_483_648)),
            ("x__lock__-2147483648", Some(-2_147_483_648)),
            ("lock-123", None),
            ("lease-0000000001", None),
            ("lock-", None),
            ("0000000001", None),
            ("", None),
        ] {
            assert_eq!(of_others(name.into()).map(|place| place.number), number, "{name}");
        }
        let place = of_others("_c_07070707070707070707070707070707-lock-0000000004".into()).unwrap();
        assert_eq!(place.id, Some(ClaimId::from_bytes([7; 16])));
    }

    fn sorted(numbers: &[i64]) -> Vec<i64> {
        let place = |number: &i64| Place { number: *number, ..queue(&[(1, 1)]).0.remove(0) };
        let mut places: Vec<_> = numbers.iter().map(place).collect();
        sort(&mut places);
        places.iter().map(|place| place.number).collect()
    }

    #[test]
    fn numbers_run_over() {
        let mut numbers = vec![-2_147_483_648, 2_147_483_647, -2_147_483_647, 2_147_483_646];
        assert_eq!(sorted(&numbers), [2_147_483_646, 2_147_483_647, -2_147_483_648, -2_147_483_647]);
        assert_eq!(sorted(&[2_147_483_648, 5, -1]), [-1, 5, 2_147_483_648]);
        assert_eq!(sorted(&[7]), [7]);
        assert_eq!(sorted(&[]), [0; 0]);
        // Numbers that no line has: all see the same order at least, in whatever order they are told of them.
        let mut random = fastrand::Rng::with_seed(16);
        numbers =
            (0..100).map(|_| i64::from(random.i32(..))).chain([0, 2_147_483_647, -2_147_483_648]).collect();
        let order = sorted(&numbers);
        for _ in 0..20 {
            random.shuffle(&mut numbers);
            assert_eq!(sorted(&numbers), order);
        }
    }

    #[test]
    fn who_is_eligible_and_who_waits_for_whom() {
        // A mutex.
        let line = queue(&[(ALL, ALL), (ALL, ALL), (ALL, ALL)]);
        assert_eq!(line.eligible(), [true, false, false]);
        assert_eq!((line.blocker(1), line.blocker(2)), (Blocker::Place(0), Blocker::Place(1)));
        assert!(!line.is_shared());
        // Readers behind a writer wait for it, a writer for who is directly ahead.
        let line = queue(&[(1, ALL), (ALL, ALL), (1, ALL), (1, ALL), (ALL, ALL)]);
        assert_eq!(line.eligible(), [true, false, false, false, false]);
        assert_eq!(line.blocker(1), Blocker::Place(0));
        assert_eq!((line.blocker(2), line.blocker(3)), (Blocker::Place(1), Blocker::Place(1)));
        assert_eq!(line.blocker(4), Blocker::Place(3));
        // Permits: the first who waits looks at all, the others at who waits ahead.
        let line = queue(&[(1, 3), (2, 3), (1, 3), (1, 3), (3, 3)]);
        assert_eq!(line.eligible(), [true, true, false, false, false]);
        assert_eq!((line.blocker(2), line.blocker(3)), (Blocker::Any, Blocker::Place(2)));
        assert_eq!(line.blocker(4), Blocker::Place(3));
        assert!(line.is_shared());
        // Who counts with fewer permits than others may wait for longer than those behind.
        let line = queue(&[(1, 3), (1, 1), (1, 2), (1, 3)]);
        assert_eq!(line.eligible(), [true, false, false, false]);
        assert_eq!(
            (line.blocker(1), line.blocker(2), line.blocker(3)),
            (Blocker::Place(0), Blocker::Any, Blocker::Any)
        );
        // Who takes nothing, but only where there is room, is told by who waits ahead.
        let line = queue(&[(1, 1), (1, 1), (0, 1)]);
        assert_eq!((line.blocker(2), line.is_shared()), (Blocker::Place(1), true));
        // Members are in nobody's way.
        let line = queue(&[(0, 0), (0, 0)]);
        assert_eq!(line.eligible(), [true, true]);
        for at in 0..2 {
            assert!(line.is_eligible(at));
        }
        assert!(!line.is_shared());
    }
}
