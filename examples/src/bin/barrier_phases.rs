//! Three parties work in phases: nobody starts a phase before everyone has finished the one before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use coord_core::{Coordinator, prelude::*};
use coord_examples::{Result, Stage};
use tokio::{task::JoinSet, time::sleep};

const PARTIES: u32 = 3;
const PHASES: [&str; 3] = ["load", "sort", "merge"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let finished = Arc::<[AtomicU32; PHASES.len()]>::default();
    let mut parties = JoinSet::new();
    for party in 0..PARTIES {
        parties.spawn(run(stage.client().await?, party, finished.clone()));
    }
    while let Some(outcome) = parties.join_next().await {
        outcome??;
    }
    println!("{PARTIES} parties, {} phases, nobody was ahead of the others", PHASES.len());
    Ok(())
}

async fn run(client: Coordinator, party: u32, finished: Arc<[AtomicU32; PHASES.len()]>) -> Result<()> {
    let options =
        BarrierOptions::default().with_ttl(Duration::from_secs(5)).with_wait(Duration::from_secs(30));

    // Enter together, leave together: everyone is connected before the first phase, nobody goes before the last.
    let inside = client.enter(&Name::new("sorting")?, PARTIES, &options).await?;
    for (phase, name) in PHASES.iter().enumerate() {
        // The parties are not equally fast.
        sleep(Duration::from_millis(u64::from(party) * 30)).await;
        let last = finished[phase].fetch_add(1, Ordering::SeqCst) + 1 == PARTIES;
        if last {
            println!("{name}: the last of {PARTIES} has finished");
        }
        // One barrier for all phases: it serves round after round.
        client.wait(&Name::new("sorting/phase")?, PARTIES, &options).await?;
        assert_eq!(finished[phase].load(Ordering::SeqCst), PARTIES, "someone was let through too early");
    }
    inside.leave(None).await?;
    client.shutdown().await?;
    Ok(())
}
