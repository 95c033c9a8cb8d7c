//! Membership: listing instances, reading all of them, hearing of a new one.

use coord_core::clock::Moment;
use tokio::sync::mpsc;

use super::{Sizes, fresh, goes_on, within};
use crate::{
    Result,
    row::Measured,
    systems::{Client, Held, System},
    time::{Samples, now, since},
};

/// One client lists the instances; another one reads them and follows.
///
/// # Errors
/// What the system says; a discovery that misses one.
pub async fn service(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let (one, two) = (system.client().await?, system.client().await?);
    let service = fresh("service");
    let (start, mut registers, mut kept) = (now(), Samples::default(), Vec::new());
    for at in 0..sizes.instances {
        if !goes_on(start, sizes.cap) {
            break;
        }
        let began = now();
        kept.push(one.register(&service, &format!("instance-{at}"), &address(at)).await?);
        registers.add(since(began));
    }
    let (start, mut reads) = (now(), Samples::default());
    for at in 0..sizes.reads + 3 {
        if !goes_on(start, sizes.cap) {
            break;
        }
        let began = now();
        let found = two.discover(&service).await?;
        if at >= 3 {
            reads.add(since(began));
        }
        if found != kept.len() {
            return Err(format!("{found} of {} instances were found", kept.len()).into());
        }
    }
    let mut measured = vec![Measured::each("W7.register", registers), Measured::each("W7.discover", reads)];
    // Of the others only some can be followed.
    if system.name() == "coord" {
        let news = propagate(&*one, &*two, &service, &mut kept, sizes).await?;
        measured.push(Measured::each("W7.propagate", news));
    }
    drop(kept);
    one.close().await?;
    two.close().await?;
    Ok(measured)
}

fn address(at: usize) -> String {
    format!("10.0.{}.{}:8080", at / 256, at % 256)
}

async fn propagate(
    one: &dyn Client,
    two: &dyn Client,
    service: &str,
    kept: &mut Vec<Box<dyn Held>>,
    sizes: &Sizes,
) -> Result<Samples> {
    let mut feed = two.follow(service).await?;
    let (heard, mut moments) = mpsc::unbounded_channel::<(Vec<u8>, Moment)>();
    let following = tokio::spawn(async move {
        while let Ok(id) = feed.next().await {
            if heard.send((id, now())).is_err() {
                break;
            }
        }
    });
    let (start, mut samples) = (now(), Samples::default());
    for at in 0..sizes.news {
        if !goes_on(start, sizes.cap) {
            break;
        }
        let id = format!("new-{at}");
        let began = now();
        kept.push(one.register(service, &id, &address(at)).await?);
        let news = within(sizes.cap, "the news of an instance", async {
            loop {
                let (found, moment) = moments.recv().await.ok_or("the watch has ended")?;
                if found == id.as_bytes() {
                    return Ok(moment);
                }
            }
        });
        samples.add(news.await?.since(began));
    }
    following.abort();
    Ok(samples)
}
