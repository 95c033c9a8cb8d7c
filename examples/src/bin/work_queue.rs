//! Two processes do the orders of a queue. One is killed after it did an order and before it said so, and the order comes
//! again; the orders of one customer are done in their order; one that cannot be done is given up.
//!
//! A queue delivers at least once, so what an order does has to bear a second time. Here the ledger has each order's id as
//! its key.

use std::{convert::Infallible, sync::Arc, time::Duration};

use coord_core::{Delivery, ItemId, prelude::*};
use coord_examples::{Result, Stage};
use sqlx::SqlitePool;
use tokio::time::sleep;

/// Short, because an order of a worker that was killed comes again when this has passed.
const VISIBILITY: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let ledger = stage.resource().await?;
    let client = stage.client().await?;
    let orders = Name::new("orders")?;
    if let Some(worker) = stage.role() {
        work(&client, &orders, &ledger, worker).await?;
        return Ok(client.shutdown().await?);
    }
    let table = "CREATE TABLE ledger (number INTEGER PRIMARY KEY, id BLOB UNIQUE, what TEXT, worker TEXT, \
        deliveries INTEGER)";
    sqlx::query(table).execute(&ledger).await?;

    let customer = |what: &str| Item::new(what).with_group("customer 4");
    let spoon = Item::new("a spoon").with_id(ItemId::random());
    let items = vec![customer("a kettle"), customer("its lid"), Item::new("nonsense"), spoon.clone()];
    client.push(&orders, items, &PushOptions::default()).await?;
    client.push(&orders, vec![spoon], &PushOptions::default()).await?;
    let ready = client.queue_stats(&orders).await?.ready;
    assert_eq!(ready, 4);
    println!("{ready} orders; the spoon was pushed twice with the same id");

    let mut ada = stage.another("ada")?.spawn()?;
    while done(&ledger).await?.is_empty() {
        assert!(ada.try_wait()?.is_none(), "ada has ended");
        sleep(Duration::from_millis(10)).await;
    }
    ada.kill()?;
    ada.wait()?;
    println!("ada was killed after she did the kettle and before she said so");
    assert!(stage.another("bob")?.status()?.success(), "bob failed");

    let mut done = done(&ledger).await?;
    let place = |wanted: &str| done.iter().position(|(what, ..)| what == wanted);
    assert!(place("a kettle") < place("its lid"), "within a group the order is kept: {done:?}");
    done.sort();
    for (what, worker, deliveries) in &done {
        println!("{what}: done once, by {worker}; deliveries: {deliveries}");
    }
    assert_eq!(done.len(), 3, "an order is missing, or was done twice");
    assert_eq!((done[0].1.as_str(), done[0].2), ("ada", 2), "bob had the kettle too");
    let dead = client.dead_letters(&orders, None, 10).await?;
    assert_eq!(dead.len(), 1);
    println!("{}: given up after {} attempts", String::from_utf8_lossy(&dead[0].payload), dead[0].attempts);
    client.shutdown().await?;
    Ok(())
}

/// Does orders until none is left.
async fn work(client: &Coordinator, orders: &Name, ledger: &SqlitePool, worker: String) -> Result<()> {
    let receive = ReceiveOptions::default().with_visibility(VISIBILITY).with_max_attempts(Some(3));
    let retry = Duration::from_millis(10);
    let options = ConsumerOptions::default().with_receive(receive).with_retry_delay(retry);
    let consumer = Consumer::new(client.clone(), orders.clone(), options);
    let nothing_left = async {
        while !client
            .queue_stats(orders)
            .await
            .is_ok_and(|stats| stats.ready + stats.delayed + stats.in_flight == 0)
        {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let ledger = ledger.clone();
    let handler = move |order: Arc<Delivery>| {
        let (ledger, worker) = (ledger.clone(), worker.clone());
        async move {
            let outcome = fulfil(&ledger, &order, &worker).await;
            if worker == "ada" {
                let _: Infallible = std::future::pending().await;
            }
            outcome
        }
    };
    Ok(consumer.run(nothing_left, handler).await?)
}

/// Does an order, or finds that it is done already.
async fn fulfil(ledger: &SqlitePool, order: &Delivery, worker: &str) -> Result<()> {
    let what = std::str::from_utf8(order.payload())?;
    if what == "nonsense" {
        return Err("nobody sells that".into());
    }
    let write = "INSERT INTO ledger (id, what, worker, deliveries) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (id) DO UPDATE SET deliveries = excluded.deliveries";
    let query = sqlx::query(write).bind(order.id().as_bytes().to_vec()).bind(what).bind(worker);
    query.bind(order.attempt()).execute(ledger).await?;
    Ok(())
}

/// What was done, by whom, and how often it was delivered; in the order in which it was done.
async fn done(ledger: &SqlitePool) -> Result<Vec<(String, String, u32)>> {
    let rows = sqlx::query_as("SELECT what, worker, deliveries FROM ledger ORDER BY number");
    Ok(rows.fetch_all(ledger).await?)
}
