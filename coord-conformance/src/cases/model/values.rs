use std::sync::Arc;

use coord_core::{
    Change, FencingToken, Name, Namespace,
    memory::Store as Memory,
    spi::values::{
        Changes, Committed, Condition, KeyId, Prefix, Stored, Transaction, Values, Write, WriteId,
    },
};
use fastrand::Rng;

use super::{NAME, name, namespace, one_of, same};
use crate::{Ctx, Failure, Verdict, cases::demand};

const STEPS: u32 = 150;

/// Among them those that look like parts of keys, of patterns and of formats, and those at the ends of ranges.
const KEYS: [&str; 9] =
    ["a", "a/b", "a\u{10ffff}c", "a\u{d7ff}", "b", "\"'\\", "\u{10ffff}", "{a}%s$1", "%2F"];
const PREFIXES: [&str; 8] = ["", "a", "a/", "a\u{10ffff}", "\u{10ffff}", "\"", "{", "%"];

type Shape = (Name, Option<Vec<u8>>, Option<FencingToken>, String);

/// What can be compared: versions differ. Of a key that has no value but a mark, one store names who deleted it last and another one
/// who fenced it first.
fn shape(stored: &Stored) -> Shape {
    let by = if stored.value.is_some() { stored.by.clone() } else { String::new() };
    (stored.key.clone(), stored.value.clone(), stored.mark, by)
}

fn shapes(stored: &[Stored]) -> Vec<Shape> {
    stored.iter().map(shape).collect()
}

/// Changes of one transaction have no order.
fn sorted(stored: &[Stored]) -> Vec<Shape> {
    let mut shapes = shapes(stored);
    shapes.sort();
    shapes
}

fn outcome(committed: &Committed) -> String {
    match committed {
        Committed::Done { .. } => "done".into(),
        Committed::Refused { at, found } => format!("refused {at} {:?}", found.as_ref().map(shape)),
    }
}

/// The same work on one namespace of each.
struct Twins {
    store: Arc<dyn Values>,
    model: Arc<dyn Values>,
    namespace: Namespace,
    random: Rng,
    /// Revisions of the same moment in either store.
    moments: Vec<(u64, u64)>,
    last: Option<(Transaction, Transaction)>,
    /// How many changes the store remembers, if it forgets any, and how many there may have been.
    remembers: Option<u64>,
    changes: u64,
}

pub(super) async fn run(ctx: &Ctx, seed: u64) -> Verdict {
    let stores = ctx.stores().await?;
    let store = stores.values.ok_or_else(|| Failure::by(NAME, "there is no store of values"))?;
    let mut twins = Twins {
        store,
        model: Arc::new(Memory::new().connect()),
        namespace: namespace(seed)?,
        random: Rng::with_seed(seed),
        moments: Vec::new(),
        last: None,
        remembers: ctx.remembered_changes(),
        changes: 0,
    };
    let start = twins.key("a")?;
    twins.moments.push((twins.store.get(&start).await?.1, twins.model.get(&start).await?.1));
    for step in 0..STEPS {
        let here = format!("seed {seed} step {step}");
        twins.commit(step, &here).await?;
        twins.compare(&here).await?;
    }
    stores.claims.close().await?;
    Ok(())
}

impl Twins {
    fn key(&self, key: &str) -> Verdict<KeyId> {
        Ok(KeyId { namespace: self.namespace.clone(), key: name(key)? })
    }

    /// One random write for each: they differ in the versions alone.
    async fn writes(&mut self, key: &str) -> Verdict<(Write, Write)> {
        let id = self.key(key)?;
        let (one, other) = (self.store.get(&id).await?.0, self.model.get(&id).await?.0);
        let random = &mut self.random;
        let off = u64::from(random.u8(0..4) == 0);
        // Nobody has version 0 of what is not there.
        let version = |stored: Option<Stored>| stored.map_or(off * 9, |stored| stored.version + off);
        let token = FencingToken::new(random.u64(1..9)).map_or(Condition::Any, Condition::Token);
        let change = match random.u8(0..8) {
            0..=4 => Change::Put([0, 0xff, b'\r', b'\n'].into_iter().take(random.usize(0..5)).collect()),
            5 | 6 => Change::Delete,
            _ => Change::Fence,
        };
        let (one, other) = match random.u8(0..9) {
            _ if change == Change::Fence => (token, token),
            0..=2 => (Condition::Any, Condition::Any),
            3 => (Condition::Absent, Condition::Absent),
            4..=6 => (Condition::Version(version(one)), Condition::Version(version(other))),
            _ => (token, token),
        };
        let key = id.key;
        let write = |condition| Write { key: key.clone(), condition, change: change.clone() };
        Ok((write(one), write(other)))
    }

    async fn transactions(&mut self, step: u32) -> Verdict<(Transaction, Transaction)> {
        let (mut keys, mut both) = (KEYS, Vec::new());
        self.random.shuffle(&mut keys);
        for key in keys.into_iter().take(self.random.usize(1..4)) {
            both.push(self.writes(key).await?);
        }
        let (ours, theirs) = both.into_iter().unzip();
        let (id, namespace) = (WriteId::random(), &self.namespace);
        let whole = |writes| Transaction { id, by: format!("{step}"), namespace: namespace.clone(), writes };
        Ok((whole(ours), whole(theirs)))
    }

    /// A new transaction, or the last one once more.
    async fn commit(&mut self, step: u32, here: &str) -> Verdict {
        let (mut ours, mut theirs) = match self.last.take() {
            Some(both) if self.random.u8(0..12) == 0 => both,
            _ => self.transactions(step).await?,
        };
        self.changes += ours.writes.len() as u64;
        let (one, other) = (self.store.commit(&ours).await?, self.model.commit(&theirs).await?);
        same!(outcome(&one), outcome(&other), here);
        if let (Committed::Done { revision: one }, Committed::Done { revision: other }) = (one, other) {
            self.moments.push((one, other));
        }
        (ours.by, theirs.by) = ("again".into(), "again".into());
        self.last = Some((ours, theirs));
        Ok(())
    }

    async fn compare(&mut self, here: &str) -> Verdict {
        let key = one_of(&mut self.random, &KEYS)?;
        let id = self.key(key)?;
        let (store, model) = (&self.store, &self.model);
        let (one, other) = (store.get(&id).await?.0, model.get(&id).await?.0);
        same!(one.as_ref().map(shape), other.as_ref().map(shape), here);
        let (one, other) = (store.history(&id, 5).await?, model.history(&id, 5).await?);
        same!(shapes(&one), shapes(&other), here);
        let random = &mut self.random;
        let prefix = Prefix { namespace: self.namespace.clone(), text: one_of(random, &PREFIXES)?.into() };
        let after = if random.bool() { Some(name(one_of(random, &KEYS)?)?) } else { None };
        let limit = random.u32(1..5);
        let one = store.list(&prefix, after.as_ref(), limit).await?;
        let other = model.list(&prefix, after.as_ref(), limit).await?;
        same!((shapes(&one.entries), one.more), (shapes(&other.entries), other.more), here);
        let since = one_of(random, &self.moments)?;
        let one = store.changes(&prefix, since.0).await?;
        let other = model.changes(&prefix, since.1).await?;
        match (one, other) {
            (Changes::All { entries: one, .. }, Changes::All { entries: other, .. }) => {
                demand!(
                    one.is_sorted_by_key(|stored| stored.version),
                    "{here}: changes are in another order"
                );
                same!(sorted(&one), sorted(&other), here);
            }
            (Changes::All { .. }, Changes::Gap) => {
                demand!(false, "{here}: no gap, and by the specification there is one")
            }
            (Changes::Gap, _) => demand!(
                self.remembers.is_some_and(|remembers| self.changes > remembers),
                "{here}: a gap, and no more than {} changes were made",
                self.changes
            ),
        }
        Ok(())
    }
}
