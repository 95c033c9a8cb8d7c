//! Work that takes longer than the TTL: the guard renews itself, and a plain lease does not.

use std::time::Duration;

use coord_core::prelude::*;
use coord_examples::{Result, Stage};
use tokio::time::sleep;

const TTL: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let (worker, other) = (stage.client().await?, stage.client().await?);
    let name = Name::new("nightly-report")?;
    let options = LockOptions::default().with_ttl(TTL);

    let guard = worker.acquire(&name, &options).await?;
    println!("held for {TTL:?} at a time, token {}", guard.token());
    let work = async {
        for part in 1..=3 {
            sleep(TTL).await;
            let refused = other.try_acquire(&name, &options).await.expect_err("it is held");
            assert!(refused.is_not_granted(), "{refused}");
            println!("part {part} of the work is done, {:?} after the start; others are refused", TTL * part);
        }
    };
    // Drops the work if the lock is lost.
    guard.run(work).await?;
    let token = guard.token();
    guard.release().await?;
    println!("released");

    let lease = worker.acquire(&name, &options.clone().without_renewal()).await?;
    assert!(lease.token() > token);
    println!("a plain lease, token {}", lease.token());
    lease.lost().await;
    assert!(!lease.is_held());
    let next = other.acquire(&name, &options).await?;
    assert!(next.token() > lease.token());
    println!("it ended by itself; the next holder has token {}", next.token());
    next.release().await?;

    worker.shutdown().await?;
    other.shutdown().await?;
    Ok(())
}
