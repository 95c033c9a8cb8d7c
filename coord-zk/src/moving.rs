//! Moving the node of a claim from one session to another, in one transaction, without leaving its place in the line.
//!
//! The new node has the number of the old one, so it stands where that stood, and the token of the old one in its record. This is
//! how a lease is prolonged beyond what its session allows, and how another client takes a grant over.

use std::sync::Arc;

use coord_core::spi::{ClaimId, Grant, Renewal};

use crate::{
    claims::{now, prove, token_of},
    client::Store,
    discovery::{self, Shown},
    error::{Failure, misread},
    leases::Lease,
    line::Spot,
    record::Record,
    renewal::Found,
    session::{Mode, Session, Step},
};

/// How often a node that changes meanwhile is looked at again.
const ROUNDS: u32 = 4;

impl Store {
    /// Moves a claim of this client to another of its sessions. False if it is not there any more.
    pub(crate) async fn move_to(
        &self,
        grant: &Grant,
        stem: &str,
        lease: &Lease,
        path: &str,
        to: &Arc<Session>,
    ) -> Result<bool, Failure> {
        let leases = &self.shared.leases;
        for _ in 0..ROUNDS {
            // An earlier attempt, whose answer was lost, may have done it.
            let shown = discovery::look(to, path, lease.face.as_deref()).await?;
            let Some(Shown { data, stat, face }) = shown else { return Ok(false) };
            if stat.ephemeral_owner == to.id() {
                return match prove(to, path).await {
                    Ok(()) => {
                        leases.moved(stem, to);
                        Ok(true)
                    }
                    Err(Failure::NoNode) => Ok(false),
                    Err(failure) => Err(failure),
                };
            }
            if stat.ephemeral_owner != lease.session.id() {
                return Ok(false);
            }
            let number = lease.node.as_ref().map_or(stat.czxid, |(_, number)| *number);
            let record = Record::decode(&data).ok_or_else(|| misread("a claim"))?;
            let data = Record { token: Some(number), ttl: grant.ttl, ..record }.encode();
            let mut steps = moved(path, path, Some(stat.version), &data).to_vec();
            if let Some(path) = &lease.pair {
                steps.extend(moved(path, path, None, &data));
            }
            if let (Some(path), Some((data, version))) = (&lease.face, &face) {
                steps.extend(discovery::put(path, data, Some(*version)));
            }
            leases.moving(stem, to);
            match to.multi(&steps).await {
                Ok(_) => {
                    leases.moved(stem, to);
                    return Ok(true);
                }
                Err(refusal) => match refusal.failure {
                    Failure::NoNode | Failure::BadVersion | Failure::NodeExists => {
                        leases.moved(stem, &lease.session);
                    }
                    failure => return Err(failure),
                },
            }
        }
        Err(changes_too_fast())
    }

    /// Takes a grant over under a new id, from whatever client has it.
    pub(crate) async fn take_over(&self, spot: &Spot, from: &Grant, to: ClaimId) -> Result<Renewal, Failure> {
        let shared = &self.shared;
        let session = shared.session_for(from.ttl).await?;
        let stem = spot.stem(to);
        for _ in 0..ROUNDS {
            let sent = now();
            if let Some(found) = self.find_claim(&session, &from.line, to).await? {
                // An earlier attempt did it.
                let same = token_of(&found.data, found.czxid).ok() == Some(from.token);
                if !same || found.owner != session.id() {
                    return Ok(Renewal::Lost);
                }
                return match prove(&session, &found.paths[0]).await {
                    Ok(()) => Ok(self.keep(&stem, &session, &found, from, sent)),
                    Err(Failure::NoNode) => Ok(Renewal::Lost),
                    Err(failure) => Err(failure),
                };
            }
            let Some(old) = self.find_claim(&session, &from.line, from.id).await? else {
                return Ok(Renewal::Lost);
            };
            if !old.eligible || token_of(&old.data, old.czxid).ok() != Some(from.token) {
                return Ok(Renewal::Lost);
            }
            let record = Record::decode(&old.data).ok_or_else(|| misread("a claim"))?;
            let number = i64::try_from(from.token.get()).unwrap_or_default();
            let data = Record { token: Some(number), ttl: from.ttl, ..record }.encode();
            let new: Vec<_> = old.paths.iter().map(|path| renamed(path, from.id, to)).collect();
            let mut steps = Vec::new();
            for (place, (path, new)) in old.paths.iter().zip(&new).enumerate() {
                let version = (place == 0).then_some(old.version);
                steps.extend(moved(path, new, version, &data));
            }
            let sent = now();
            shared.leases.begin(&stem, &session, sent.after(from.ttl));
            match session.multi(&steps).await {
                Ok(_) => {
                    let found = Found { paths: new, ..old };
                    return Ok(self.keep(&stem, &session, &found, from, sent));
                }
                Err(refusal) => match refusal.failure {
                    // Somebody else was faster, or it changed its value.
                    Failure::NoNode | Failure::BadVersion | Failure::NodeExists => {
                        shared.leases.forget(&stem)
                    }
                    // The lease stays, so that a node that was made is found again, or removed.
                    failure => return Err(failure),
                },
            }
        }
        Err(changes_too_fast())
    }

    /// The lease of a claim that was taken over.
    fn keep(
        &self,
        stem: &str,
        session: &Arc<Session>,
        found: &Found,
        from: &Grant,
        sent: coord_core::clock::Moment,
    ) -> Renewal {
        let leases = &self.shared.leases;
        let until = sent.after(from.ttl);
        let number = i64::try_from(from.token.get()).unwrap_or_default();
        if leases.get(stem, now()).is_none() {
            leases.begin(stem, session, until);
        }
        leases.made(stem, &found.paths[0], number);
        if let Some(pair) = found.paths.get(1) {
            leases.paired(stem, pair);
        }
        if leases.prolong(stem, until, now()) { Renewal::Renewed } else { Renewal::Lost }
    }
}

/// Makes one node of another. It is set once more, so that its version tells it from one that nobody has changed since its claim joined:
/// what is in it now, its client does not have.
fn moved<'a>(old: &'a str, new: &'a str, version: Option<i32>, data: &'a [u8]) -> [Step<'a>; 3] {
    [
        Step::Delete { path: old, version },
        Step::Create { path: new, data, mode: Mode::Ephemeral },
        Step::Set { path: new, data, version: None },
    ]
}

fn changes_too_fast() -> Failure {
    let text = "the claim changes faster than it can be moved";
    Failure::Other(coord_core::Error::new(coord_core::ErrorKind::Unavailable, text))
}

/// The path of a node under another claim's id.
fn renamed(path: &str, from: ClaimId, to: ClaimId) -> String {
    let simple = |id: ClaimId| uuid::Uuid::from_bytes(*id.as_bytes()).simple().to_string();
    path.replace(&from.to_string(), &to.to_string()).replace(&simple(from), &simple(to))
}
