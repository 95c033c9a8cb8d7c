//! The line of claims: what `coord_core::spi::Claims` says. How a claim joins and is granted is here; how it is kept is in
//! `renewals.rs`, and how it ends in `endings.rs`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use coord_core::{
    Effect, Error, ErrorKind, FencingToken, Guarantees, Result,
    clock::{Clock, Moment},
    spi::{
        Claim, ClaimId, Claims, Grant, HandOver, Holder, Kind, Line, LineId, Renewal, Standing, Wakeup,
        Wakeups,
    },
};
use etcd_client::{KeyValue, Txn, TxnOpResponse};
use futures_util::stream;

use crate::{
    client::{Answer, Shared, Store, seconds},
    error::{is_lease_gone, misread},
    leases::Lease,
    lines::{self, ClaimKeys, LineKeys},
    record::Record,
    registry::Held,
    waiting::{Place, Waiter},
    wakeups::Of,
};

/// How often a claim joins whose lease ends at once.
const JOINS: usize = 4;

/// How often a claim that does not wait tries to get in between others.
const TRIES: usize = 64;

#[async_trait]
impl Claims for Store {
    fn guarantees(&self) -> Guarantees {
        self.shared.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let claimed = self.shared.in_time(self.shared.claim(claim)).await;
        self.shared.suspect_of(&claimed, &claim.line, claim.id);
        claimed
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        self.shared.in_time(self.shared.renew(grants)).await
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.shared.in_time(self.shared.set_value(grant, value)).await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.shared.in_time(self.shared.withdraw(line, id)).await
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.shared.in_time(self.shared.hand_over(from, to)).await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let adopted = self.shared.in_time(self.shared.adopt(from, to)).await;
        self.shared.suspect_of(&adopted, &from.line, to);
        adopted
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        self.shared.in_time(self.shared.line(line)).await
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        let hub = &self.shared.hub;
        let keys = match id {
            Some(id) => return hub.claim(id),
            None => self.shared.line_keys(line),
        };
        let places = hub.prefix(keys.prefix, Of::All);
        if !keys.shared {
            return places;
        }
        // That somebody was granted stands in its record alone.
        let records = hub.prefix(keys.records, Of::All);
        Wakeups::new(stream::unfold((places, records), |(mut places, mut records)| async move {
            tokio::select! {
                _ = places.next() => {}
                _ = records.next() => {}
            }
            Some((Wakeup::LookAgain, (places, records)))
        }))
    }

    async fn close(&self) -> Result<()> {
        self.shut().await;
        Ok(())
    }
}

/// A claim on its way.
pub(crate) struct Joining<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) line: LineKeys,
    pub(crate) held: Held,
    /// The record if it is granted now.
    granted: Record,
    /// The moment until which its lease has to run.
    until: Moment,
}

/// A claim that is in the line.
#[derive(Debug, Clone)]
pub(crate) struct Standpoint {
    pub(crate) keys: ClaimKeys,
    pub(crate) token: i64,
    /// The last revision of its record.
    pub(crate) version: i64,
    pub(crate) record: Record,
}

/// What a look at the line found.
pub(crate) enum Seen {
    Granted(Standpoint),
    /// In the line, at this revision.
    Waiting {
        at: Standpoint,
        places: Vec<Place>,
        revision: i64,
    },
    /// Not in the line, and these are.
    Outside {
        places: Vec<Place>,
        first: Option<Holder>,
        revision: i64,
    },
    /// It was in the line and is not any more.
    Gone,
    /// In the line since an earlier request, on a lease that ended as far as we know.
    Stale(Standpoint),
}

impl Shared {
    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        self.line_keys(&claim.line).check()?;
        for tried in 0..JOINS {
            // What an earlier round sent may be in the line.
            let unknown = |error: Error| if tried > 0 { error.with_unknown_effect() } else { error };
            if let Some(standing) = self.claim_once(claim).await.map_err(unknown)? {
                return Ok(standing);
            }
        }
        let message = format!("the etcd cluster {}: the lease ends as soon as it is made", self.config);
        Err(Error::new(ErrorKind::Unavailable, message).with_unknown_effect())
    }

    /// After an error that says that a claim may be in the line: a copy of its request may come yet.
    fn suspect_of<T>(&self, outcome: &Result<T>, line: &LineId, id: ClaimId) {
        if outcome.as_ref().is_err_and(|error| error.effect() == Effect::Unknown)
            && let Some(held) = self.registry.get(line, id)
        {
            held.lease.suspect();
            // Whoever sweeps looks for it.
            self.registry.changed.notify_one();
        }
    }

    /// `None`: its lease ended meanwhile, so that it has to join again.
    async fn claim_once(&self, claim: &Claim) -> Result<Option<Standing>> {
        let sent = Clock::System.now();
        let line = self.line_keys(&claim.line);
        let known = self.registry.get(&claim.line, claim.id);
        if let Some(held) = &known
            && held.ended
        {
            self.hub.settled(claim.id);
            self.bury(claim.id, held).await?;
        }
        let known = known.filter(|held| !held.ended);
        // An earlier request for it has an unknown outcome: whatever this one brings, its key may be there.
        let doubtful = known.as_ref().is_some_and(|held| held.token.is_none());
        let (held, looked) = match known {
            // It is in the line, as far as we know.
            Some(held) if held.token.is_some() => (held, true),
            known => {
                let lease = match known {
                    // It was asked for before, and what became of that is not known.
                    Some(held) if !held.lease.is_gone() => held.lease,
                    _ => self.lease_for(&line, seconds(claim.ttl)).await?,
                };
                let mut held = Held {
                    serial: 0,
                    line: claim.line.clone(),
                    keys: line.of_claim(claim.id, claim.weight, lease.id),
                    alone: line.shared,
                    token: None,
                    version: 0,
                    record: Record::new(claim, &self.id),
                    deadline: sent.after(claim.ttl.min(lease.granted)),
                    ended: false,
                    leaving: false,
                    moving: None,
                    turn: Arc::default(),
                    lease,
                };
                held.serial = self.registry.enter(claim.id, held.clone());
                (held, false)
            }
        };
        let ttl = claim.ttl.min(held.lease.granted);
        let until = sent.after(ttl);
        let joining = Joining { claim, line, granted: held.record.granted(), held, until };
        // A lease that is kept alive at the same time surely runs for the whole TTL after this was sent.
        let lease = joining.held.lease.clone();
        let look = async { if looked { self.look(&joining).await } else { self.join(&joining).await } };
        let (seen, armed) = futures_util::future::join(look, lease.arm(self, until)).await;
        let (seen, term) = match seen {
            Ok(seen) => seen,
            Err(error) if is_lease_gone(&error) => {
                self.lease_ended(&lease);
                self.registry.remove(claim.id, joining.held.serial);
                return Ok(None);
            }
            Err(error) => {
                if error.effect() == Effect::Unknown {
                    lease.suspect();
                } else if !looked && !doubtful && !joining.held.alone {
                    // One with a lease of its own takes it again at the next try.
                    self.registry.remove(claim.id, joining.held.serial);
                }
                return Err(error);
            }
        };
        let armed = armed.map_err(Error::with_unknown_effect)?;
        let alive = match armed {
            Some(armed) => lease.prove(self, armed, term).await.map_err(Error::with_unknown_effect)?,
            None => false,
        };
        if !alive {
            self.lease_ended(&lease);
            self.registry.remove(claim.id, joining.held.serial);
            return Ok(None);
        }
        self.note(&joining, seen, ttl).await
    }

    /// Writes down what was seen, and answers it; `None` if the claim ended meanwhile.
    async fn note(&self, joining: &Joining<'_>, seen: Seen, ttl: Duration) -> Result<Option<Standing>> {
        let (id, serial) = (joining.claim.id, joining.held.serial);
        let noted = |at: Standpoint| {
            self.registry.update(id, serial, |held| {
                (held.keys, held.token) = (at.keys, Some(at.token));
                (held.version, held.record) = (at.version, at.record);
                held.deadline = held.deadline.max(joining.until);
            })
        };
        Ok(match seen {
            Seen::Granted(at) => {
                let token = token_of(at.token)?;
                self.hub.settled(id);
                if noted(at).is_none() {
                    return Ok(None);
                }
                self.hub.hear_notices();
                Some(Standing::Granted(Grant { line: joining.claim.line.clone(), id, token, ttl }))
            }
            Seen::Waiting { at, places, revision } => {
                let token = at.token;
                if noted(at).is_none() {
                    return Ok(None);
                }
                let ahead = places.iter().filter(|place| place.token < token).count();
                let waiter = Waiter { id, token, weight: joining.claim.weight, limit: joining.claim.limit };
                self.hub.wait(&joining.line.prefix, waiter, revision, places);
                Some(Standing::Waiting {
                    ahead: u32::try_from(ahead).unwrap_or(u32::MAX),
                    // Whatever ends in the line is told; the engine looks often enough to keep the lease.
                    look_again_in: ttl / 3,
                })
            }
            Seen::Outside { first, .. } => {
                self.abandon(&joining.held);
                self.registry.remove(id, serial);
                Some(Standing::Refused(first))
            }
            Seen::Gone => {
                self.hub.settled(id);
                self.abandon(&joining.held);
                self.registry.remove(id, serial);
                None
            }
            Seen::Stale(at) => {
                // A leader that does not know all leases yet said so. Nobody keeps that one alive any more, so the claim must not
                // stand on it.
                let when = [
                    lines::is_created_at(&at.keys.place, at.token),
                    lines::is_unchanged(&at.keys.record, at.version),
                ];
                self.send(joining, Txn::new().when(when).and_then(lines::delete(&at.keys))).await?;
                self.registry.remove(id, serial);
                None
            }
        })
    }

    /// Joins the line.
    async fn join(&self, joining: &Joining<'_>) -> Result<(Seen, u64)> {
        let Joining { claim, line, held, .. } = joining;
        let exclusive = meets_others(claim);
        let txn = lines::join(
            line,
            &held.keys,
            (&held.record, &joining.granted),
            held.lease.id,
            exclusive,
            claim.wait,
        );
        let answer = self.send(joining, txn).await?;
        let seen = self.read_join(joining, &answer)?;
        let inside = matches!(seen, Seen::Waiting { .. });
        let rest = self.go_on(joining, seen, answer.term).await;
        // It is in the line by now, whatever is wrong with what follows.
        if inside { rest.map_err(Error::with_unknown_effect) } else { rest }
    }

    /// What the answer to [`lines::join`] says.
    fn read_join(&self, joining: &Joining<'_>, answer: &Answer) -> Result<Seen> {
        if answer.succeeded {
            return Ok(Seen::Granted(joining.joined(answer.revision, &joining.granted)));
        }
        let Some(TxnOpResponse::Txn(inner)) = answer.parts.first() else { return Err(unread()) };
        let parts = inner.op_responses();
        let exclusive = meets_others(joining.claim);
        match (inner.succeeded() && exclusive, joining.claim.wait, &parts[..]) {
            (true, true, [.., TxnOpResponse::Get(places)]) => Ok(Seen::Waiting {
                at: joining.joined(answer.revision, &joining.held.record),
                places: joining.line.in_order(places.kvs()),
                revision: answer.revision,
            }),
            (true, false, [TxnOpResponse::Get(places), TxnOpResponse::Get(first)]) => Ok(Seen::Outside {
                places: joining.line.in_order(places.kvs()),
                first: holder(places.kvs(), first.kvs()),
                revision: answer.revision,
            }),
            (false, _, [TxnOpResponse::Get(own), TxnOpResponse::Get(places)]) => {
                found(joining, own.kvs(), places.kvs(), answer.revision)
            }
            _ => Err(unread()),
        }
    }

    /// Looks again at the line that the claim is in.
    async fn look(&self, joining: &Joining<'_>) -> Result<(Seen, u64)> {
        let Joining { claim, line, held, .. } = joining;
        let (keys, token) = (&held.keys, held.token.unwrap_or_default());
        let read = [line.own(keys), line.places()];
        let first_in_line = claim.weight >= claim.limit && claim.weight > 0;
        let txn = if held.record.head.is_granted() || !first_in_line {
            Txn::new().and_then(read)
        } else {
            // Who is first is granted in the same step.
            Txn::new()
                .when([
                    lines::is_created_at(&keys.place, token),
                    lines::is_unchanged(&keys.record, held.version),
                    line.nobody_joined_before(token),
                ])
                .and_then([lines::grant(keys, &joining.granted)])
                .or_else(read)
        };
        let answer = self.send(joining, txn).await?;
        let seen = match &answer.parts[..] {
            [TxnOpResponse::Put(_)] => Seen::Granted(Standpoint {
                keys: keys.clone(),
                token,
                version: answer.revision,
                record: joining.granted.clone(),
            }),
            [TxnOpResponse::Get(own), TxnOpResponse::Get(places)] => {
                found(joining, own.kvs(), places.kvs(), answer.revision)?
            }
            _ => return Err(unread()),
        };
        self.go_on(joining, seen, answer.term).await
    }

    /// Does what follows from what was seen: a claim that is eligible is granted.
    async fn go_on(&self, joining: &Joining<'_>, seen: Seen, term: u64) -> Result<(Seen, u64)> {
        match seen {
            Seen::Waiting { ref at, ref places, .. } if is_eligible(joining.claim, places, at.token) => {
                self.grant_seen(joining, at).await
            }
            Seen::Outside { .. } => self.slip_in(joining, seen, term).await,
            seen => Ok((seen, term)),
        }
    }

    /// Grants a claim that was seen to be eligible, which it stays as long as its key is there: nobody gets ahead of that.
    async fn grant_seen(&self, joining: &Joining<'_>, at: &Standpoint) -> Result<(Seen, u64)> {
        let keys = &at.keys;
        let txn = Txn::new()
            .when([
                lines::is_created_at(&keys.place, at.token),
                lines::is_unchanged(&keys.record, at.version),
            ])
            .and_then([lines::grant(keys, &joining.granted)])
            .or_else([joining.line.own(keys), joining.line.places()]);
        let answer = self.send(joining, txn).await?;
        let seen = match &answer.parts[..] {
            [TxnOpResponse::Put(_)] => Seen::Granted(Standpoint {
                version: answer.revision,
                record: joining.granted.clone(),
                ..at.clone()
            }),
            // Granted by an earlier copy of this; or put behind, and then it looks again.
            [TxnOpResponse::Get(own), TxnOpResponse::Get(places)] => {
                found(joining, own.kvs(), places.kvs(), answer.revision)?
            }
            _ => return Err(unread()),
        };
        Ok((seen, answer.term))
    }

    /// Gets into a line in which there is room, if it stays so: for a claim that does not wait, and must not be in the line when
    /// it is not granted.
    async fn slip_in(&self, joining: &Joining<'_>, mut seen: Seen, mut term: u64) -> Result<(Seen, u64)> {
        let Joining { claim, line, held, .. } = joining;
        for _ in 0..TRIES {
            let Seen::Outside { places, revision, .. } = &seen else { break };
            if !has_room(claim, places.iter()) {
                break;
            }
            let again = [line.own(&held.keys), line.places(), line.first()];
            // Whoever left since then only makes more room.
            let txn = Txn::new()
                .when([line.is_outside(&held.keys), line.nobody_joined_after(*revision)])
                .and_then(lines::put(&held.keys, &joining.granted, Some(held.lease.id)))
                .or_else(again);
            let answer = self.send(joining, txn).await?;
            term = answer.term;
            seen = match &answer.parts[..] {
                [TxnOpResponse::Put(_), ..] => {
                    Seen::Granted(joining.joined(answer.revision, &joining.granted))
                }
                [TxnOpResponse::Get(own), TxnOpResponse::Get(places), _] if !own.kvs().is_empty() => {
                    found(joining, own.kvs(), places.kvs(), answer.revision)?
                }
                [_, TxnOpResponse::Get(places), TxnOpResponse::Get(first)] => Seen::Outside {
                    places: line.in_order(places.kvs()),
                    first: holder(places.kvs(), first.kvs()),
                    revision: answer.revision,
                },
                _ => return Err(unread()),
            };
        }
        Ok((seen, term))
    }

    pub(crate) fn line_keys(&self, line: &LineId) -> LineKeys {
        LineKeys::of(line, self.config.layout())
    }

    /// The lease for claims of a line.
    pub(crate) async fn lease_for(&self, line: &LineKeys, seconds: i64) -> Result<Arc<Lease>> {
        if line.shared { self.lone_lease(seconds).await.map(Arc::new) } else { self.lease(seconds).await }
    }

    /// Ends the lease of a claim that has one of its own and did not get in.
    fn abandon(&self, held: &Held) {
        if held.alone {
            self.give_up(held.lease.id);
        }
    }

    /// Sends a transaction about a claim; a copy that may still arrive is remembered.
    pub(crate) async fn send(&self, joining: &Joining<'_>, txn: Txn) -> Result<Answer> {
        let answer = self.txn(txn).await?;
        if answer.repeated {
            joining.held.lease.suspect();
        }
        Ok(answer)
    }
}

impl Joining<'_> {
    /// Where the claim stands that joined at this revision.
    fn joined(&self, revision: i64, record: &Record) -> Standpoint {
        let (keys, record) = (self.held.keys.clone(), record.clone());
        Standpoint { keys, token: revision, version: revision, record }
    }
}

/// What was found at a claim's own key.
fn found(joining: &Joining<'_>, own: &[KeyValue], places: &[KeyValue], revision: i64) -> Result<Seen> {
    let Some(kv) = own.first() else { return Ok(Seen::Gone) };
    let record = Record::decode(kv.value()).ok_or_else(unread)?;
    if record.head.id != joining.claim.id || record.head.client != joining.held.record.head.client {
        // Somebody adopted it.
        return Ok(Seen::Gone);
    }
    let (token, version) = (kv.create_revision(), kv.mod_revision());
    let at = Standpoint { keys: joining.line.by_record(kv.key()), token, version, record };
    if !places.iter().any(|place| place.create_revision() == token) {
        // Another client took its place away.
        return Ok(Seen::Gone);
    }
    if joining.held.token.is_none() && kv.lease() != joining.held.lease.id {
        return Ok(Seen::Stale(at));
    }
    if at.record.head.is_granted() {
        return Ok(Seen::Granted(at));
    }
    Ok(Seen::Waiting { at, places: joining.line.in_order(places), revision })
}

/// Whether others may stand in its way: not in lines of which the list is what matters, where nobody weighs anything.
fn meets_others(claim: &Claim) -> bool {
    claim.weight > 0 || !matches!(claim.line.kind, Kind::Registry | Kind::Barrier)
}

fn is_eligible(claim: &Claim, places: &[Place], token: i64) -> bool {
    places.iter().any(|place| place.token == token)
        && has_room(claim, places.iter().filter(|place| place.token < token))
}

fn has_room<'a>(claim: &Claim, ahead: impl Iterator<Item = &'a Place>) -> bool {
    let ahead: u64 = ahead.map(|place| u64::from(place.weight)).sum();
    ahead + u64::from(claim.weight) <= u64::from(claim.limit)
}

/// Who stands first, of these places, if this is the first record.
fn holder(places: &[KeyValue], first: &[KeyValue]) -> Option<Holder> {
    let place = places.iter().min_by_key(|place| place.create_revision())?;
    let record = first.first().filter(|kv| kv.create_revision() == place.create_revision());
    let record = record.and_then(|kv| Record::decode(kv.value()));
    let owner = record.map_or_else(|| foreign(place.lease()), |record| record.head.owner);
    Some(Holder { owner, token: token_of(place.create_revision()).ok()? })
}

/// What whoever is no client of this library is called.
pub(crate) fn foreign(lease: i64) -> String {
    format!("etcd lease {lease:x}")
}

pub(crate) fn token_of(revision: i64) -> Result<FencingToken> {
    FencingToken::new(u64::try_from(revision).unwrap_or_default())
}

/// An answer came and could not be read: the operation may have taken effect.
pub(crate) fn unread() -> Error {
    misread("a claim").with_unknown_effect()
}
