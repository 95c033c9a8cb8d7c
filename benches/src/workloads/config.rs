//! Configuration: from the write to whoever watches.

use coord_core::clock::Moment;
use tokio::sync::mpsc;

use super::{Sizes, fresh, goes_on, within};
use crate::{
    Result,
    row::Measured,
    systems::System,
    time::{Samples, now},
};

/// One client writes a value again and again, and another one sees it.
///
/// # Errors
/// What the system says; a watcher that does not see the last value.
pub async fn watch(system: &System, sizes: &Sizes) -> Result<Vec<Measured>> {
    let (writer, reader) = (system.client().await?, system.client().await?);
    let key = fresh("value");
    let mut feed = reader.watch(&key).await?;
    let (seen, mut moments) = mpsc::unbounded_channel::<(Vec<u8>, Moment)>();
    let watching = tokio::spawn(async move {
        while let Ok(value) = feed.next().await {
            if seen.send((value, now())).is_err() {
                break;
            }
        }
    });
    let (start, mut samples) = (now(), Samples::default());
    for at in 0..sizes.values + 10 {
        if !goes_on(start, sizes.cap) {
            break;
        }
        let value = format!("value {at}");
        let wrote = now();
        writer.put(&key, value.clone().into_bytes()).await?;
        let sight = within(sizes.cap, "the sight of a value", async {
            loop {
                let (found, moment) = moments.recv().await.ok_or("the watch has ended")?;
                if found == value.as_bytes() {
                    return Ok(moment);
                }
            }
        });
        let moment = sight.await?;
        // The first ones make what is missing.
        if at >= 10 {
            samples.add(moment.since(wrote));
        }
    }
    watching.abort();
    writer.close().await?;
    reader.close().await?;
    Ok(vec![Measured::each("W6.watch", samples)])
}
