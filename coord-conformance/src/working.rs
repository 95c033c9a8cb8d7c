//! Producers and consumers of queues whose work is recorded.

use std::{sync::Arc, time::Duration};

use coord_core::{Delivery, ErrorKind, Item, ItemId, Name, PushOptions, Queue, ReceiveOptions, Result};
use fastrand::Rng;
use tokio::time::sleep;

use crate::{Client, faults::Faults, history::Op};

/// What an item carries.
pub(crate) fn text(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.payload()).into_owned()
}

/// How recorded work receives: no item is given up.
pub(crate) fn options(visibility: Duration) -> ReceiveOptions {
    ReceiveOptions::default().with_visibility(visibility).with_max_attempts(None)
}

/// Pushes an item.
pub(crate) async fn push(client: &Client, queue: &Name, new: Item) -> Result<()> {
    let item = String::from_utf8_lossy(&new.payload).into_owned();
    let (priority, group, options) = (new.priority, new.group.clone(), PushOptions::default());
    let pushing = client.push(queue, vec![new], &options);
    let op = |_: Option<&Vec<ItemId>>| Op::Push { item: item.clone(), priority, group: group.clone() };
    client.recorder().call(queue.as_str(), pushing, op).await.map(drop)
}

/// Receives items. There are none if their leases ended on the way.
pub(crate) async fn receive(
    client: &Client,
    queue: &Name,
    options: &ReceiveOptions,
) -> Result<Vec<Delivery>> {
    let one = |delivery: &Delivery| (text(delivery), delivery.token().get(), delivery.attempt());
    let op = |deliveries: Option<&Vec<Delivery>>| Op::Receive {
        items: deliveries.into_iter().flatten().map(one).collect(),
    };
    client.recorder().call(queue.as_str(), client.receive(queue, options), op).await
}

/// Asks a delivery whether the item is still in these hands.
pub(crate) fn is_in_hand(client: &Client, queue: &Name, delivery: &Delivery) -> bool {
    let asked = client.recorder().history().stamp();
    let held = delivery.is_held();
    if held {
        client.recorder().in_hand(queue.as_str(), &text(delivery), delivery.token().get(), asked);
    }
    held
}

/// Acknowledges an item.
pub(crate) async fn ack(client: &Client, queue: &Name, delivery: Delivery) -> Result<()> {
    let (item, token) = (text(&delivery), delivery.token().get());
    let op = |_: Option<&()>| Op::Ack { item: item.clone(), token };
    client.recorder().call(queue.as_str(), delivery.ack(), op).await
}

/// Gives an item back.
pub(crate) async fn nack(client: &Client, queue: &Name, delivery: Delivery, delay: Duration) -> Result<()> {
    let (item, token) = (text(&delivery), delivery.token().get());
    let op = |_: Option<&()>| Op::Nack { item: item.clone(), token };
    client.recorder().call(queue.as_str(), delivery.nack(delay), op).await
}

/// What may have failed leaves its trace in the history, and the work goes on.
fn shrug(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if error.is_retryable() || error.kind() == ErrorKind::Lost => Ok(()),
        outcome => outcome,
    }
}

fn at_most(rng: &mut Rng, most: Duration) -> Duration {
    most.mul_f64(rng.f64())
}

/// Pushes items of random priorities and groups. Behind faults, some are lost on the way.
pub(crate) async fn produce(
    client: &Client,
    mut rng: Rng,
    queue: &Name,
    items: u64,
    pause: Duration,
    faults: Option<&Arc<Faults>>,
) -> Result<()> {
    for _ in 0..items {
        sleep(at_most(&mut rng, pause)).await;
        let item = format!("{} {}", client.owner(), client.recorder().number());
        let mut new = Item::new(item).with_priority(rng.i32(..3));
        new.group = (rng.u32(..3) == 0).then(|| format!("group {}", rng.u32(..2)));
        trouble(&mut rng, faults);
        shrug(push(client, queue, new).await)?;
        heal(faults);
    }
    Ok(())
}

/// Receives until nothing came for a while. Most items are acknowledged, some given back, some dropped.
pub(crate) async fn consume(
    client: &Client,
    mut rng: Rng,
    queue: &Name,
    options: &ReceiveOptions,
    faults: Option<&Arc<Faults>>,
) -> Result<()> {
    loop {
        trouble(&mut rng, faults);
        let received = receive(client, queue, &options.clone().with_batch(rng.u32(1..3))).await;
        heal(faults);
        match received {
            Ok(deliveries) => {
                for delivery in deliveries {
                    settle(client, &mut rng, queue, delivery).await?;
                }
            }
            Err(error) if error.is_not_granted() => return Ok(()),
            Err(error) => shrug(Err(error))?,
        }
    }
}

/// Works on one item, looking whether it is still in these hands, and settles it.
pub(crate) async fn settle(client: &Client, rng: &mut Rng, queue: &Name, delivery: Delivery) -> Result<()> {
    for _ in 0..rng.u32(..3) {
        sleep(at_most(rng, Duration::from_millis(20))).await;
        is_in_hand(client, queue, &delivery);
    }
    match rng.u32(..8) {
        0 => {
            drop(delivery);
            Ok(())
        }
        1 => {
            let delay = at_most(rng, Duration::from_millis(10));
            shrug(nack(client, queue, delivery, delay).await)
        }
        _ => shrug(ack(client, queue, delivery).await),
    }
}

fn trouble(rng: &mut Rng, faults: Option<&Arc<Faults>>) {
    let Some(faults) = faults else { return };
    match rng.u32(..4) {
        0 => faults.lose_reply(rng.u64(1..3), None),
        1 => faults.lose_request(rng.u64(1..3), None),
        2 => faults.delay_replies(Duration::from_millis(rng.u64(..4))),
        _ => {}
    }
}

fn heal(faults: Option<&Arc<Faults>>) {
    if let Some(faults) = faults {
        faults.heal();
    }
}
