//! Instances of a service come, change and go; a client watches them and spreads keys over them.

use std::time::Duration;

use coord_core::{HashRing, Member, Watch, prelude::*};
use coord_examples::{Result, Stage};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let (server, client) = (stage.client().await?, stage.client().await?);
    let shop = Name::new("shop")?;
    let options = RegisterOptions::default().with_ttl(Duration::from_secs(5));

    let one = server.register(&shop, Instance::new("one", "10.0.0.1:80"), &options).await?;
    let two = server.register(&shop, Instance::new("two", "10.0.0.2:80"), &options).await?;
    assert!(one.token() < two.token());

    let mut watch = client.watch_instances(&shop);
    let Some(RegistryEvent::Snapshot(members)) = watch.next().await.transpose()? else {
        return Err("a watch begins with a snapshot".into());
    };
    println!("at the start: {}", list(&members));
    assert_eq!(list(&members), "one at 10.0.0.1:80, two at 10.0.0.2:80");

    let heavy = Instance::new("three", "10.0.0.3:80").with_weight(2).with_metadata("zone", "west");
    let three = server.register(&shop, heavy.clone(), &options).await?;
    report(&mut watch).await?;
    three.update(heavy.with_metadata("zone", "east")).await?;
    report(&mut watch).await?;

    let before = spread(&client.instances(&shop).await?);
    one.deregister().await?;
    report(&mut watch).await?;
    let after = spread(&client.instances(&shop).await?);
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    let orphans = before.iter().filter(|owner| *owner == "one").count();
    assert_eq!(moved, orphans, "only the keys of the instance that left may move");
    println!("of {} keys, the {moved} of instance one moved", before.len());

    two.deregister().await?;
    three.deregister().await?;
    server.shutdown().await?;
    client.shutdown().await?;
    Ok(())
}

async fn report(watch: &mut Watch<RegistryEvent>) -> Result<()> {
    match watch.next().await.transpose()? {
        Some(RegistryEvent::Joined(member)) => {
            println!("joined: {} at {}", member.instance.id, member.instance.address);
        }
        Some(RegistryEvent::Updated(member)) => {
            println!("updated: {} is in zone {}", member.instance.id, member.instance.metadata["zone"]);
        }
        Some(RegistryEvent::Left(member)) => println!("left: {}", member.instance.id),
        other => return Err(format!("not expected: {other:?}").into()),
    }
    Ok(())
}

fn list(members: &[Member]) -> String {
    let words = members.iter().map(|member| format!("{} at {}", member.instance.id, member.instance.address));
    words.collect::<Vec<_>>().join(", ")
}

/// Which instance serves each of a thousand customers. Every process with the same members chooses the same.
fn spread(members: &[Member]) -> Vec<String> {
    let ring = HashRing::default();
    let customers = (0..1000).map(|number| format!("customer-{number}"));
    let owner = |customer: String| Some(ring.pick(members, customer.as_bytes())?.instance.id.clone());
    customers.filter_map(owner).collect()
}
