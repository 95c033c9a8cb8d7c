//! A holder that is cut off from the store, and still reaches what the lock protects.
//!
//! Ada holds the lock of a till when her link to the store is cut. Her guard turns lost by itself, before the store lets Bob in,
//! and the work that it drives is dropped. What she had sent already arrives late, and the till refuses it, because Bob has
//! raised its mark. When the link is back she waits in line like anybody.

use std::{
    future::pending,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use coord_core::{ErrorKind, prelude::*};
use coord_examples::{Link, Result, Stage};
use tokio::spawn;

/// Short, because Bob waits for as long as Ada's lease lasts.
const TTL: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let mut cut = None;
    let ada = stage.client_around(|store| {
        let (link, switch) = Link::to(store);
        cut = Some(switch);
        link
    });
    let (ada, cut) = (ada.await?, cut.ok_or("there is no link")?);
    let bob = stage.client().await?;
    // The till is a resource of its own: whoever cannot reach the lock may well reach it.
    let till = stage.client().await?;
    let name = Name::new("till")?;

    let guard = Arc::new(ada.acquire(&name, &options("ada")).await?);
    till.fence(&name, guard.token()).await?;
    println!("ada: holds the lock with token {}, and her link is cut", guard.token());
    cut.store(true, Ordering::SeqCst);

    let hers = guard.clone();
    let waiting = spawn({
        let (bob, name) = (bob.clone(), name.clone());
        async move {
            let his = bob.acquire(&name, &options("bob")).await?;
            assert!(!hers.is_held(), "two believed at once that they hold the lock");
            Ok::<_, coord_core::Error>(his)
        }
    });
    let work = guard.run(pending::<()>()).await;
    assert_eq!(work.unwrap_err().kind(), ErrorKind::Lost);
    println!("ada: her guard is lost without a word from the store, and her work is dropped");

    let his = waiting.await??;
    assert!(guard.token() < his.token());
    till.fenced_write(&name, b"bob was here".to_vec(), his.token()).await?;
    println!("bob: holds the lock with token {}, and writes", his.token());

    let late = till.fenced_write(&name, b"ada was here".to_vec(), guard.token()).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Fenced);
    println!("ada: what she had sent arrives late: {late}");

    his.release().await?;
    cut.store(false, Ordering::SeqCst);
    let again = ada.acquire(&name, &options("ada")).await?;
    till.fenced_write(&name, b"ada was here".to_vec(), again.token()).await?;
    println!("ada: her link is back; she holds the lock with token {}, and writes", again.token());
    again.release().await?;
    drop(guard);
    for client in [ada, bob, till] {
        client.shutdown().await?;
    }
    Ok(())
}

fn options(who: &str) -> LockOptions {
    LockOptions::default().with_ttl(TTL).with_owner(who)
}
