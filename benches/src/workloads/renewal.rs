//! What it costs to go on holding.

use std::time::Duration;

use super::fresh;
use crate::{
    Result,
    servers::Servers,
    systems::System,
    time::{now, processor, since},
};

/// What holding locks costs, each second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Keeping {
    /// How many are held.
    pub locks: usize,
    /// Requests that the server counted, each second; `None` where nobody counts.
    pub requests_per_s: Option<f64>,
    /// Milliseconds of this process's processor time each second.
    pub cpu_ms_per_s: f64,
}

/// Holds so many locks of one client with this TTL, and counts over `length`.
///
/// # Errors
/// What the system says; a lock that is lost meanwhile.
pub async fn keeping(
    system: &System,
    servers: &Servers,
    locks: usize,
    ttl: Duration,
    length: Duration,
) -> Result<Keeping> {
    let client = system.client_of(ttl).await?;
    let (run, mut held) = (fresh("kept"), Vec::new());
    for at in 0..locks {
        held.push(client.acquire(&format!("{run}-{at}")).await?);
    }
    // The first renewals are over.
    tokio::time::sleep(ttl / 3).await;
    let count = || servers.requests(system.backend());
    // To count is a request too, or several.
    let counting = count()?.zip(count()?).map(|(first, second)| second - first);
    let (start, before, asked) = (now(), processor(), count()?);
    let lost = async {
        let (_, which, _) = futures_util::future::select_all(held.iter().map(|held| held.lost())).await;
        which
    };
    if let Ok(which) = tokio::time::timeout(length, lost).await {
        return Err(format!("lock {which} of {locks} was lost").into());
    }
    let (used, seconds) = (processor() - before, since(start).as_secs_f64());
    let requests = count()?.zip(asked).zip(counting);
    let requests = requests.map(|((after, before), counting)| (after - before).saturating_sub(counting));
    for held in held {
        held.release().await?;
    }
    client.close().await?;
    Ok(Keeping {
        locks,
        requests_per_s: requests.map(|requests| requests as f64 / seconds),
        cpu_ms_per_s: used * 1e3 / seconds,
    })
}
