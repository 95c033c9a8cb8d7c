//! Servers that cases use one after the other: to start some takes longer than most cases do.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use coord_core::Result;
use etcd_client::{Client, DeleteOptions, GetOptions};

use super::common::failed;

/// Servers that nobody uses now. They end with the process.
pub(super) struct Pool<T>(Mutex<Vec<Arc<Mutex<T>>>>);

impl<T> Pool<T> {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// Servers without any key, for as long as this lives: some that were used before, or new ones.
    pub(super) async fn take(
        &'static self,
        start: impl FnOnce() -> Result<T>,
        url: impl Fn(&T) -> String,
    ) -> Result<Taken<T>> {
        let used = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let is_used = used.is_some();
        let servers = used.map_or_else(|| start().map(|new| Arc::new(Mutex::new(new))), Ok)?;
        let url = url(&servers.lock().unwrap_or_else(PoisonError::into_inner));
        if is_used {
            empty(&url).await.map_err(|error| failed(std::io::Error::other(error)))?;
        }
        Ok(Taken { servers, url, pool: self })
    }
}

/// Servers of a pool, for one case.
pub(super) struct Taken<T: 'static> {
    servers: Arc<Mutex<T>>,
    pub(super) url: String,
    pool: &'static Pool<T>,
}

impl<T> fmt::Debug for Taken<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("url", &self.url).finish_non_exhaustive()
    }
}

impl<T> Deref for Taken<T> {
    type Target = Mutex<T>;

    fn deref(&self) -> &Mutex<T> {
        &self.servers
    }
}

impl<T> Drop for Taken<T> {
    fn drop(&mut self) {
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.servers));
    }
}

/// Ends all leases and removes all keys, until nothing comes any more of those who used the servers before: they have ended, and
/// what they sent last may still be on its way.
async fn empty(url: &str) -> std::result::Result<(), etcd_client::Error> {
    let hosts: Vec<_> = url.trim_start_matches("etcd://").split(',').collect();
    let mut client = Client::connect(hosts, None).await?;
    let mut quiet = 0;
    while quiet < 3 {
        quiet += 1;
        for lease in client.leases().await?.leases() {
            quiet = 0;
            // It may have ended by itself.
            let _ = client.lease_revoke(lease.id()).await;
        }
        let all = GetOptions::new().with_all_keys().with_count_only();
        if client.get("", Some(all)).await?.count() > 0 {
            quiet = 0;
            client.delete("", Some(DeleteOptions::new().with_all_keys())).await?;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
