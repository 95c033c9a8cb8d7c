//! Random operations on one line, side by side with the memory backend, which is the executable specification; and a
//! hint for every claim that became eligible.

mod common;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use common::{LONG, line, open, server};
use coord_core::{
    memory::Store as Memory,
    spi::{ALL, Claim, ClaimId, Claims, Grant, Line, LineId, Standing, Wakeups},
};
use coord_etcd::Store;
use fastrand::Rng;

/// Long enough for a loaded machine.
const SOON: Duration = Duration::from_secs(10);

/// What can be compared: tokens differ, their order must not.
fn shape(line: &Line) -> Vec<(ClaimId, bool, Vec<u8>)> {
    line.entries.iter().map(|entry| (entry.id, entry.granted.is_some(), entry.value.clone())).collect()
}

fn standing(standing: &Standing) -> String {
    match standing {
        Standing::Granted(_) => "granted".into(),
        Standing::Waiting { ahead, .. } => format!("waiting behind {ahead}"),
        Standing::Refused(by) => format!("refused by {:?}", by.as_ref().map(|by| &by.owner)),
    }
}

/// The claims that could be granted and are not, by the definition in `coord_core::spi`.
fn eligible(line: &Line) -> HashSet<ClaimId> {
    let mut ahead = 0;
    let mut found = HashSet::new();
    for entry in &line.entries {
        ahead += u64::from(entry.weight);
        if entry.granted.is_none() && ahead <= u64::from(entry.limit) {
            found.insert(entry.id);
        }
    }
    found
}

/// A grant of this claim as either store knows it.
fn grant(line: &LineId, found: &Line, id: ClaimId) -> Option<Grant> {
    let entry = found.entries.iter().find(|entry| entry.id == id)?;
    Some(Grant { line: line.clone(), id, token: entry.token, ttl: LONG })
}

async fn run(store: &Store, seed: u64) {
    let model = Memory::new().connect();
    let line = line(&format!("model {seed}"));
    let mut random = Rng::with_seed(seed);
    let mut claims: HashMap<ClaimId, Claim> = HashMap::new();
    let mut wakeups: HashMap<ClaimId, Wakeups> = HashMap::new();
    let mut eligible_before = HashSet::new();
    for step in 0..120 {
        let (ours, theirs) = (store.line(&line).await.unwrap(), model.line(&line).await.unwrap());
        let mut known: Vec<_> = claims.keys().copied().collect();
        known.sort();
        let any = |random: &mut Rng| random.choice(&known).copied().unwrap_or_else(ClaimId::random);
        let what = random.u8(0..12);
        let mut joined = None;
        let (one, other, done) = match what {
            0..=4 => {
                let limit = *random.choice(&[0, 1, 2, 3, 5, ALL]).unwrap();
                let id = ClaimId::random();
                let claim = Claim {
                    line: line.clone(),
                    id,
                    weight: if limit == ALL {
                        *random.choice(&[1, ALL]).unwrap()
                    } else {
                        random.u32(0..=limit)
                    },
                    limit,
                    ttl: LONG,
                    // The others are not offered.
                    priority: 0,
                    wait: random.u8(0..5) > 0,
                    owner: format!("owner {step}"),
                    value: vec![step],
                };
                wakeups.insert(id, store.wakeups(&line, Some(id)));
                let (one, other) = (store.claim(&claim).await.unwrap(), model.claim(&claim).await.unwrap());
                joined = Some(id);
                if claim.wait {
                    claims.insert(id, claim);
                }
                (standing(&one), standing(&other), "claim")
            }
            5..=7 => {
                let Some(claim) = claims.get(&any(&mut random)) else { continue };
                joined = Some(claim.id);
                let (one, other) = (store.claim(claim).await.unwrap(), model.claim(claim).await.unwrap());
                (standing(&one), standing(&other), "look again")
            }
            8 | 9 => {
                let id = any(&mut random);
                claims.remove(&id);
                store.withdraw(&line, id).await.unwrap();
                model.withdraw(&line, id).await.unwrap();
                (String::new(), String::new(), "withdraw")
            }
            10 => {
                let (from, to) = (any(&mut random), any(&mut random));
                let (Some(one), Some(other)) = (grant(&line, &ours, from), grant(&line, &theirs, from))
                else {
                    continue;
                };
                let one = store.hand_over(&one, to).await.unwrap();
                let other = model.hand_over(&other, to).await.unwrap();
                (format!("{one:?}"), format!("{other:?}"), "hand over")
            }
            _ => {
                let (from, to) = (any(&mut random), ClaimId::random());
                let (Some(one), Some(other)) = (grant(&line, &ours, from), grant(&line, &theirs, from))
                else {
                    continue;
                };
                wakeups.insert(to, store.wakeups(&line, Some(to)));
                let values = (
                    store.set_value(&one, b"v").await.unwrap(),
                    model.set_value(&other, b"v").await.unwrap(),
                );
                assert_eq!(values.0, values.1, "seed {seed} step {step}");
                let one = store.adopt(&one, to).await.unwrap();
                let other = model.adopt(&other, to).await.unwrap();
                if let Some(claim) = claims.remove(&from) {
                    claims.insert(if format!("{one:?}") == "Renewed" { to } else { from }, claim);
                }
                for (id, claim) in &mut claims {
                    claim.id = *id;
                }
                (format!("{one:?}"), format!("{other:?}"), "adopt")
            }
        };
        assert_eq!(one, other, "seed {seed} step {step}: {done}");
        let (ours, theirs) = (store.line(&line).await.unwrap(), model.line(&line).await.unwrap());
        assert_eq!(shape(&ours), shape(&theirs), "seed {seed} step {step}: {done}");
        assert!(ours.entries.is_sorted_by(|one, next| one.token < next.token));
        let eligible = eligible(&ours);
        // Who joins looks itself; whoever became eligible by what others did must be told.
        for id in eligible.difference(&eligible_before) {
            if joined != Some(*id) {
                let told = tokio::time::timeout(SOON, wakeups.get_mut(id).unwrap().next()).await;
                assert!(told.is_ok(), "seed {seed} step {step}: {done} woke nobody for {id}");
            }
        }
        eligible_before = eligible;
    }
}

#[tokio::test]
async fn the_store_does_what_the_specification_does() {
    let seeds = std::env::var("COORD_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(12);
    let Some(server) = server() else { return };
    let store = open(&server).await;
    for seed in 0..seeds {
        run(&store, seed).await;
    }
}
