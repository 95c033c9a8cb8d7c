//! Keeping claims alive: one transaction a session that checks that its nodes are there.
//!
//! A session is kept alive by the driver, whether or not somebody renews; what a renewal adds is the proof that the leader still
//! has the session and the nodes. A read could be answered by a server that was cut off from the leader, and a guard would go on
//! believing.

use std::{collections::HashMap, sync::Arc};

use coord_core::spi::{ClaimId, Grant, LineId, Renewal};

use crate::{
    claims::{now, token, token_of},
    client::Store,
    error::Failure,
    leases::Lease,
    line::Spot,
    session::{Look, Seen, Session, Step},
};

/// How many bytes of paths one request of a renewal holds at most.
const CHUNK: usize = 400 * 1024;

/// One grant of a renewal whose node is this client's.
struct Due<'a> {
    /// Its place in the request.
    at: usize,
    stem: String,
    grant: &'a Grant,
    path: String,
    lease: Lease,
}

impl Store {
    pub(crate) async fn renew_all(&self, grants: &[Grant]) -> Result<Vec<Renewal>, Failure> {
        let shared = &self.shared;
        let mut renewals = vec![Renewal::Lost; grants.len()];
        let mut sessions: HashMap<i64, Vec<Due<'_>>> = HashMap::new();
        let (mut movers, mut others) = (Vec::new(), Vec::new());
        for (at, grant) in grants.iter().enumerate() {
            let Ok(spot) = Spot::of(&shared.config, &grant.line) else { continue };
            let stem = spot.stem(grant.id);
            let Some(lease) = shared.leases.get(&stem, now()) else {
                others.push((at, grant));
                continue;
            };
            let Some((path, number)) = lease.node.clone().filter(|_| !lease.over) else { continue };
            if token(number).ok() != Some(grant.token) {
                continue;
            }
            let moves = lease.moving.is_some() || grant.ttl > shared.lease(&lease.session);
            let due = Due { at, stem, grant, path, lease };
            if moves {
                movers.push(due);
            } else {
                sessions.entry(due.lease.session.id()).or_default().push(due);
            }
        }
        let (renewed, moved, seen) = tokio::join!(
            futures_util::future::join_all(sessions.values().map(|due| self.renew_session(due))),
            futures_util::future::join_all(movers.iter().map(|due| self.prolong_by_move(due))),
            self.look_for(&others),
        );
        let renewed = sessions.into_values().zip(renewed).map(|(due, outcome)| (places(&due), outcome));
        let moved =
            movers.iter().zip(moved).map(|(due, outcome)| (vec![due.at], outcome.map(|one| vec![one])));
        let seen = (others.iter().map(|(at, _)| *at).collect(), seen);
        let outcomes: Vec<_> = renewed.chain(moved).chain(std::iter::once(seen)).collect();
        let answered = outcomes.iter().any(|(places, outcome)| !places.is_empty() && outcome.is_ok());
        for (places, outcome) in outcomes {
            match outcome {
                Ok(outcome) => places.iter().zip(outcome).for_each(|(at, renewal)| renewals[*at] = renewal),
                Err(failure) if !answered => return Err(failure),
                // Not lost: the lease goes on as it was.
                Err(failure) => {
                    tracing::warn!(?failure, "some leases were not prolonged");
                    places.iter().for_each(|at| renewals[*at] = Renewal::StillHeld);
                }
            }
        }
        Ok(renewals)
    }

    /// Renews claims of one session, by as many requests as it takes, all sent at once.
    async fn renew_session(&self, due: &[Due<'_>]) -> Result<Vec<Renewal>, Failure> {
        let mut chunks = Vec::new();
        let mut rest = due;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|due| {
                bytes += paths(due).map(|path| path.len() + 128).sum::<usize>();
                bytes <= CHUNK.min(self.shared.config.max_packet())
            });
            let (chunk, after) = rest.split_at(fits.count().max(1));
            chunks.push(self.renew_chunk(chunk));
            rest = after;
        }
        let renewed = futures_util::future::try_join_all(chunks).await?;
        Ok(renewed.into_iter().flatten().collect())
    }

    async fn renew_chunk(&self, due: &[Due<'_>]) -> Result<Vec<Renewal>, Failure> {
        let leases = &self.shared.leases;
        let Some(session) = due.first().map(|due| &due.lease.session) else { return Ok(Vec::new()) };
        let mut there = vec![true; due.len()];
        while there.contains(&true) {
            let (mut steps, mut about) = (Vec::new(), Vec::new());
            for (at, due) in due.iter().enumerate().filter(|(at, _)| there[*at]) {
                for path in paths(due) {
                    steps.push(Step::Check { path, version: None });
                    about.push((at, due.lease.face.as_ref() == Some(path)));
                }
            }
            session.steady().await;
            let sent = now();
            let Err(refusal) = session.multi(&steps).await else {
                for (there, due) in there.iter_mut().zip(due).filter(|(there, _)| **there) {
                    *there = leases.prolong(&due.stem, sent.after(due.grant.ttl), now());
                }
                break;
            };
            match (refusal.at.and_then(|step| about.get(step)), refusal.failure) {
                (Some((at, true)), Failure::NoNode) => {
                    // Nobody sees it any more: it is to register anew.
                    leases.give_up(&due[*at].stem);
                    there[*at] = false;
                }
                (Some((at, false)), Failure::NoNode) => {
                    leases.forget(&due[*at].stem);
                    there[*at] = false;
                    // Probably others are missing too.
                    let looks: Vec<_> = due.iter().map(|due| Look::Data(&due.path)).collect();
                    for (at, seen) in session.read(&looks).await?.iter().enumerate() {
                        if matches!(seen, Seen::Missing) {
                            leases.forget(&due[at].stem);
                            there[at] = false;
                        }
                    }
                }
                (_, Failure::Ended(_)) => {
                    due.iter().for_each(|due| leases.forget(&due.stem));
                    there.fill(false);
                }
                (_, failure) => return Err(failure),
            }
        }
        Ok(there.iter().map(|there| if *there { Renewal::Renewed } else { Renewal::Lost }).collect())
    }

    /// A grant that no lease of this client stands for, such as one that another client made: it cannot be prolonged, and is
    /// held as long as its node is there.
    async fn look_for(&self, grants: &[(usize, &Grant)]) -> Result<Vec<Renewal>, Failure> {
        if grants.is_empty() {
            return Ok(Vec::new());
        }
        let session = self.shared.main().await?;
        let looks = grants.iter().map(|(_, grant)| async {
            let found = self.find_claim(&session, &grant.line, grant.id).await?;
            Ok(match found {
                Some(found) if token_of(&found.data, found.czxid).ok() == Some(grant.token) => {
                    Renewal::StillHeld
                }
                _ => Renewal::Lost,
            })
        });
        futures_util::future::try_join_all(looks).await
    }

    /// The node of a claim, whoever owns it.
    pub(crate) async fn find_claim(
        &self,
        session: &Arc<Session>,
        line: &LineId,
        id: ClaimId,
    ) -> Result<Option<Found>, Failure> {
        let spot = Spot::of(&self.shared.config, line)?;
        let folder = spot.folder.as_str();
        let (synced, listed) = (session.sync(folder), session.list(folder));
        synced.await?;
        let names = match listed.await {
            Ok((names, _)) => names,
            Err(Failure::NoNode) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let queue = spot.queue(names);
        let Some(at) = queue.0.iter().position(|place| place.id == Some(id)) else { return Ok(None) };
        let eligible = queue.is_eligible(at);
        let own =
            queue.0.iter().filter(|place| place.id == Some(id)).map(|place| spot.folder.node(&place.name));
        let paths: Vec<_> = own.collect();
        match session.get(&paths[0]).await {
            Ok((data, stat)) => Ok(Some(Found {
                paths,
                data,
                czxid: stat.czxid,
                version: stat.version,
                owner: stat.ephemeral_owner,
                eligible,
            })),
            Err(Failure::NoNode) => Ok(None),
            Err(failure) => Err(failure),
        }
    }
}

/// A claim as its node tells it.
pub(crate) struct Found {
    /// Of its node, or its two.
    pub(crate) paths: Vec<String>,
    pub(crate) data: Vec<u8>,
    pub(crate) czxid: i64,
    pub(crate) version: i32,
    /// The session that owns it.
    pub(crate) owner: i64,
    pub(crate) eligible: bool,
}

/// The nodes that must be there.
fn paths<'a>(due: &'a Due<'_>) -> impl Iterator<Item = &'a String> {
    std::iter::once(&due.path).chain(&due.lease.pair).chain(&due.lease.face)
}

fn places(due: &[Due<'_>]) -> Vec<usize> {
    due.iter().map(|due| due.at).collect()
}

impl Store {
    /// A renewal for longer than the session's grants may count on: the node goes over to a longer session.
    async fn prolong_by_move(&self, due: &Due<'_>) -> Result<Renewal, Failure> {
        let to = match &due.lease.moving {
            Some(to) if !to.is_over() && self.shared.lease(to) >= due.grant.ttl => Arc::clone(to),
            _ => self.shared.session_for(due.grant.ttl).await?,
        };
        to.steady().await;
        let sent = now();
        if !self.move_to(due.grant, &due.stem, &due.lease, &due.path, &to).await? {
            self.shared.leases.forget(&due.stem);
            return Ok(Renewal::Lost);
        }
        let kept = self.shared.leases.prolong(&due.stem, sent.after(due.grant.ttl), now());
        Ok(if kept { Renewal::Renewed } else { Renewal::Lost })
    }
}
