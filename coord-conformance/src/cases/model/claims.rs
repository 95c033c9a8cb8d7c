use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use coord_core::{
    Features,
    clock::Clock,
    memory::Store as Memory,
    spi::{ALL, Claim, ClaimId, Claims, Grant, HandOver, Kind, Line, LineId, Renewal, Standing, Wakeups},
};
use fastrand::Rng;

use super::{NAME, name, namespace, one_of, same};
use crate::{Ctx, Verdict, cases::demand};

/// Until a hint must have come. Long enough for a loaded machine.
const SOON: Duration = Duration::from_secs(10);

const STEPS: u8 = 120;

fn shape(line: &Line) -> Vec<(ClaimId, Vec<u8>)> {
    line.entries.iter().map(|entry| (entry.id, entry.value.clone())).collect()
}

fn granted(line: &Line) -> HashSet<ClaimId> {
    line.entries.iter().filter(|entry| entry.granted.is_some()).map(|entry| entry.id).collect()
}

/// Those that could be granted and are not, in their order.
fn eligible(line: &Line) -> Vec<ClaimId> {
    let mut ahead = 0;
    let mut found = Vec::new();
    for entry in &line.entries {
        ahead += u64::from(entry.weight);
        if entry.granted.is_none() && ahead <= u64::from(entry.limit) {
            found.push(entry.id);
        }
    }
    found
}

fn standing(standing: &Standing) -> String {
    match standing {
        Standing::Granted(_) => "granted".into(),
        Standing::Waiting { ahead, .. } => format!("waiting behind {ahead}"),
        Standing::Refused(by) => format!("refused by {:?}", by.as_ref().map(|by| &by.owner)),
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Join,
    LookAgain,
    Withdraw,
    HandOver,
    Adopt,
}

impl Step {
    /// As often as they come.
    const ALL: [Self; 12] = [
        Self::Join,
        Self::Join,
        Self::Join,
        Self::Join,
        Self::Join,
        Self::LookAgain,
        Self::LookAgain,
        Self::LookAgain,
        Self::Withdraw,
        Self::Withdraw,
        Self::HandOver,
        Self::Adopt,
    ];
}

/// The same work on one line of each.
struct Twins {
    store: Arc<dyn Claims>,
    model: Arc<dyn Claims>,
    features: Features,
    line: LineId,
    ttl: Duration,
    lag: Duration,
    random: Rng,
    /// Those that wait or hold.
    claims: HashMap<ClaimId, Claim>,
    hints: HashMap<ClaimId, Wakeups>,
    /// Those that could be granted, and have been told or have looked since then.
    told: HashSet<ClaimId>,
}

pub(super) async fn run(ctx: &Ctx, seed: u64) -> Verdict {
    let line = LineId { namespace: namespace(seed)?, kind: Kind::Lock, name: name("line")? };
    let mut twins = Twins {
        store: ctx.claims().await?,
        model: Arc::new(Memory::new().connect()),
        features: ctx.guarantees().features,
        line,
        // Nothing ends by itself.
        ttl: ctx.long_ttl() * 3,
        lag: ctx.lag(),
        random: Rng::with_seed(seed),
        claims: HashMap::new(),
        hints: HashMap::new(),
        told: HashSet::new(),
    };
    for step in 0..STEPS {
        let what = twins.random.choice(Step::ALL).unwrap_or(Step::Join);
        let here = format!("seed {seed} step {step} {what:?}");
        let joined = twins.step(what, step, &here).await?;
        twins.compare(joined, &here).await?;
    }
    twins.store.close().await?;
    Ok(())
}

impl Twins {
    /// One step; the claim that looked for itself.
    async fn step(&mut self, what: Step, step: u8, here: &str) -> Verdict<Option<ClaimId>> {
        match what {
            Step::Join => self.join(step, here).await,
            Step::LookAgain => self.look_again(here).await,
            Step::Withdraw => self.withdraw().await,
            Step::HandOver => self.hand_over(here).await,
            Step::Adopt => self.adopt(here).await,
        }
    }

    /// An id, always the same for a seed.
    fn fresh(&mut self) -> ClaimId {
        ClaimId::from_bytes(self.random.u128(..).to_be_bytes())
    }

    /// Any of the claims, or one that is not there.
    fn any(&mut self) -> ClaimId {
        let mut known: Vec<_> = self.claims.keys().copied().collect();
        known.sort();
        self.random.choice(known).unwrap_or_else(|| self.fresh())
    }

    async fn claim(&mut self, claim: &Claim, here: &str) -> Verdict {
        let (one, other) = (self.store.claim(claim).await?, self.model.claim(claim).await?);
        same!(standing(&one), standing(&other), here);
        Ok(())
    }

    async fn join(&mut self, step: u8, here: &str) -> Verdict<Option<ClaimId>> {
        let id = self.fresh();
        let random = &mut self.random;
        let limits: &[u32] = if self.features.shared { &[0, 1, 2, 3, 5, ALL] } else { &[ALL] };
        let limit = one_of(random, limits)?;
        let weight = match limit {
            ALL if self.features.shared => one_of(random, &[1, ALL])?,
            ALL => ALL,
            limit => random.u32(0..=limit),
        };
        let claim = Claim {
            line: self.line.clone(),
            id,
            weight,
            limit,
            ttl: self.ttl,
            priority: if self.features.priority { random.i32(0..3) } else { 0 },
            wait: random.u8(0..5) > 0,
            owner: format!("owner {step}"),
            value: vec![step],
        };
        self.hints.insert(claim.id, self.store.wakeups(&self.line, Some(claim.id)));
        self.claim(&claim, here).await?;
        if claim.wait {
            self.claims.insert(id, claim);
        }
        Ok(Some(id))
    }

    async fn look_again(&mut self, here: &str) -> Verdict<Option<ClaimId>> {
        let id = self.any();
        let Some(claim) = self.claims.get(&id).cloned() else { return Ok(None) };
        self.claim(&claim, here).await?;
        Ok(Some(id))
    }

    async fn withdraw(&mut self) -> Verdict<Option<ClaimId>> {
        let id = self.any();
        self.claims.remove(&id);
        self.store.withdraw(&self.line, id).await?;
        self.model.withdraw(&self.line, id).await?;
        Ok(None)
    }

    /// A claim that holds, as each of them would renew it.
    async fn grants(&mut self) -> Verdict<Option<(Grant, Grant)>> {
        let id = self.any();
        let of = |line: Line| {
            let entry = line.entries.into_iter().find(|entry| entry.id == id && entry.granted.is_some())?;
            Some(Grant { line: self.line.clone(), id, token: entry.token, ttl: self.ttl })
        };
        let (ours, theirs) = (self.store.line(&self.line).await?, self.model.line(&self.line).await?);
        Ok(of(ours).zip(of(theirs)))
    }

    async fn hand_over(&mut self, here: &str) -> Verdict<Option<ClaimId>> {
        let to = self.any();
        let Some((one, other)) = self.grants().await?.filter(|_| self.features.hand_over) else {
            return Ok(None);
        };
        let (one, other): (HandOver, _) =
            (self.store.hand_over(&one, to).await?, self.model.hand_over(&other, to).await?);
        same!(one, other, here);
        Ok(None)
    }

    async fn adopt(&mut self, here: &str) -> Verdict<Option<ClaimId>> {
        let Some((one, other)) = self.grants().await? else { return Ok(None) };
        let (ours, theirs) =
            (self.store.set_value(&one, b"v").await?, self.model.set_value(&other, b"v").await?);
        same!(ours, theirs, here);
        if !self.features.resume {
            return Ok(None);
        }
        let (from, to) = (one.id, self.fresh());
        self.hints.insert(to, self.store.wakeups(&self.line, Some(to)));
        let (ours, theirs) = (self.store.adopt(&one, to).await?, self.model.adopt(&other, to).await?);
        same!(ours, theirs, here);
        if let (Renewal::Renewed, Some(claim)) = (ours, self.claims.remove(&from)) {
            self.claims.insert(to, Claim { id: to, ..claim });
        }
        Ok(None)
    }

    /// Both have the same line, and the first that became eligible by what others did was told.
    async fn compare(&mut self, joined: Option<ClaimId>, here: &str) -> Verdict {
        let theirs = self.model.line(&self.line).await?;
        let start = Clock::System.now();
        let ours = loop {
            let ours = self.store.line(&self.line).await?;
            if shape(&ours) == shape(&theirs) || Clock::System.now().since(start) >= self.lag {
                break ours;
            }
        };
        same!(shape(&ours), shape(&theirs), here);
        demand!(
            ours.entries.is_sorted_by(|one, next| one.token < next.token),
            "{here}: the line is not in the order of its tokens"
        );
        let (granted, specified, eligible) = (granted(&ours), granted(&theirs), eligible(&theirs));
        demand!(specified.is_subset(&granted), "{here}: not all who hold are shown as such");
        demand!(
            granted.difference(&specified).all(|id| eligible.contains(id)),
            "{here}: somebody is shown as holding who must wait"
        );
        self.told.retain(|id| eligible.contains(id));
        // Who looks itself needs no hint.
        self.told.extend(joined.filter(|id| eligible.contains(id)));
        for (place, id) in eligible.iter().enumerate() {
            if self.told.contains(id) {
                continue;
            }
            let Some(hints) = self.hints.get_mut(id) else { continue };
            // A store may tell one after the other, each when the one before has looked.
            let patience = if place == 0 { SOON } else { Duration::ZERO };
            match tokio::time::timeout(patience, hints.next()).await {
                Ok(_) => _ = self.told.insert(*id),
                Err(_) => demand!(place > 0, "{here}: nobody woke {id}"),
            }
        }
        Ok(())
    }
}
