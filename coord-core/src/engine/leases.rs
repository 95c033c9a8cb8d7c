//! Deliveries of queues, kept like claims: the keeper renews them, a dropped one is given back.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::{join, join_all};

use crate::{
    Error, FencingToken, Guarantees, Result,
    spi::{
        Claim, ClaimId, Claims, Grant, HandOver, Line, LineId, Renewal, Standing, Wakeups,
        jobs::{ItemId, Jobs, QueueId, Settled, Settlement, Word},
    },
};

/// The store of claims, with the deliveries of the store of jobs among them. Every delivery has an id of its own here.
#[derive(Debug)]
pub(crate) struct Leases {
    claims: Arc<dyn Claims>,
    jobs: Option<Arc<dyn Jobs>>,
    deliveries: Mutex<HashMap<ClaimId, Delivery>>,
}

/// What has to be said to the store about a delivery.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) queue: QueueId,
    pub(crate) item: ItemId,
    pub(crate) token: FencingToken,
    pub(crate) max_attempts: Option<u32>,
}

impl Delivery {
    pub(crate) fn say(&self, word: Word) -> Settlement {
        Settlement { id: self.item, token: self.token, word }
    }
}

impl Leases {
    pub(crate) fn new(claims: Arc<dyn Claims>, jobs: Option<Arc<dyn Jobs>>) -> Self {
        Self { claims, jobs, deliveries: Mutex::default() }
    }

    /// Takes a delivery into care; its id.
    pub(crate) fn take(&self, delivery: Delivery) -> ClaimId {
        let id = ClaimId::random();
        self.lock().insert(id, delivery);
        id
    }

    /// The delivery was settled. False if it had been before, as one is that lapsed and was given back.
    pub(crate) fn settled(&self, id: ClaimId) -> bool {
        self.lock().remove(&id).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ClaimId, Delivery>> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Extends deliveries, a request for each queue, all at the same time. The answers, each with its place, of the queues that
    /// answered, and the errors of the others.
    async fn extend(&self, grants: Vec<(usize, Delivery, Duration)>) -> (Vec<(usize, Renewal)>, Vec<Error>) {
        let Some(jobs) = &self.jobs else { return Default::default() };
        let mut queues = BTreeMap::<_, Vec<_>>::new();
        for (place, delivery, ttl) in grants {
            queues.entry(delivery.queue.clone()).or_default().push((place, delivery.say(Word::Extend(ttl))));
        }
        let settling = queues.into_iter().map(|(queue, said)| async move {
            let (places, said): (Vec<_>, Vec<_>) = said.into_iter().unzip();
            Ok(places.into_iter().zip(jobs.settle(&queue, &said).await?))
        });
        let (mut answers, mut failed) = (Vec::new(), Vec::new());
        for settled in join_all(settling).await {
            match settled {
                Ok(settled) => answers.extend(settled.map(|(place, settled)| match settled {
                    Settled::Done => (place, Renewal::Renewed),
                    Settled::Stale => (place, Renewal::Lost),
                })),
                Err(error) => failed.push(error),
            }
        }
        (answers, failed)
    }
}

#[async_trait]
impl Claims for Leases {
    fn guarantees(&self) -> Guarantees {
        self.claims.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        self.claims.claim(claim).await
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        let deliveries: Vec<_> = {
            let known = self.lock();
            let delivery =
                |(place, grant): (usize, &Grant)| Some((place, known.get(&grant.id)?.clone(), grant.ttl));
            grants.iter().enumerate().filter_map(delivery).collect()
        };
        if deliveries.is_empty() {
            return self.claims.renew(grants).await;
        }
        let mut answers = vec![Renewal::StillHeld; grants.len()];
        let places: Vec<_> =
            (0..grants.len()).filter(|at| deliveries.iter().all(|(place, ..)| place != at)).collect();
        let claims: Vec<_> = places.iter().map(|at| grants[*at].clone()).collect();
        let renewing =
            async { if claims.is_empty() { Ok(Vec::new()) } else { self.claims.renew(&claims).await } };
        // Neither store waits for the other, and trouble with one of them, or with one queue, loses nothing that was renewed.
        let ((mut known, mut failed), renewed) = join(self.extend(deliveries), renewing).await;
        match renewed {
            Ok(renewed) => known.extend(places.into_iter().zip(renewed)),
            Err(error) => failed.push(error),
        }
        match failed.pop() {
            Some(error) if known.is_empty() => return Err(error),
            Some(error) => tracing::debug!(%error, "some of what is held was not renewed"),
            None => {}
        }
        for (at, renewal) in known {
            answers[at] = renewal;
        }
        Ok(answers)
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        self.claims.set_value(grant, value).await
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        let delivery = self.lock().get(&id).cloned();
        let (Some(delivery), Some(jobs)) = (delivery, &self.jobs) else {
            return self.claims.withdraw(line, id).await;
        };
        let word = Word::Nack { delay: Duration::ZERO, max_attempts: delivery.max_attempts };
        jobs.settle(&delivery.queue, &[delivery.say(word)]).await?;
        self.settled(id);
        Ok(())
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        self.claims.hand_over(from, to).await
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        self.claims.adopt(from, to).await
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        self.claims.line(line).await
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        self.claims.wakeups(line, id)
    }

    async fn close(&self) -> Result<()> {
        self.claims.close().await
    }
}
