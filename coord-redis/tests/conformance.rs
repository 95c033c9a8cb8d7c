//! The conformance suite on Redis, in the layout of this library and in the one shared with other clients:
//! `cargo test -p coord-redis --test conformance [FILTER]`, where a filter may be `redis::` or `redis-interop::`.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Servers, Stores, TestStore,
    servers::{Redis, RedisOptions, ServerClock, redis::Reply},
};
use coord_core::{Error, ErrorKind, Result, spi::Claims};
use coord_redis::Store;

/// A name, and what stands behind the URL of a server.
#[derive(Debug)]
struct OnRedis(&'static str, &'static str);

impl OnRedis {
    fn start(&self, options: &RedisOptions) -> Result<Box<dyn TestStore>> {
        let server = Redis::start(options)
            .map_err(|error| Error::new(ErrorKind::Unavailable, "no server").with_source(error))?;
        let url = format!("{}{}", server.url(), self.1);
        Ok(Box::new(Fresh(Arc::new(Mutex::new(server)), url)))
    }
}

#[async_trait]
impl Backend for OnRedis {
    fn name(&self) -> &str {
        self.0
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        self.start(&RedisOptions::default().with_own())
    }

    /// A restart has to keep everything.
    async fn open_for_faults(&self) -> Result<Box<dyn TestStore>> {
        let options = RedisOptions::default().with_own().with_append_only();
        // Where a clock cannot be made, none is stepped.
        self.start(&if ServerClock::available().is_ok() { options.with_clock() } else { options })
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(stores(Store::open(url).await?))
    }
}

fn stores(store: Arc<Store>) -> Stores {
    Stores::new(store.clone()).with_values(store.clone()).with_jobs(store)
}

/// A server of its own, which ends with the case.
#[derive(Debug)]
struct Fresh(Arc<Mutex<Redis>>, String);

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Store::open(&self.1).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Store::open(&self.1).await?))
    }

    fn remembered_changes(&self) -> Option<u64> {
        Some(1000)
    }

    fn url(&self) -> Option<String> {
        Some(self.1.clone())
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        Some(self.0.clone())
    }

    /// The keys that do not go by themselves. Of a line that was left, the last token stays for some days.
    async fn size(&self) -> Result<Option<u64>> {
        let failed = |error| Error::new(ErrorKind::Internal, "no size").with_source(error);
        let script = "local n = 0 for _, key in ipairs(redis.call('KEYS', '*')) do \
                      if string.sub(key, -7) ~= ':claims' or redis.call('HLEN', key) > 1 then n = n + 1 end end return n";
        let server = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match server.command(&["EVAL", script, "0"]).map_err(failed)? {
            Reply::Integer(keys) => Ok(Some(keys.unsigned_abs())),
            _ => Ok(None),
        }
    }
}

fn main() -> ExitCode {
    let own: Arc<dyn Backend> = Arc::new(OnRedis("redis", ""));
    let interop: Arc<dyn Backend> = Arc::new(OnRedis("redis-interop", "?layout=interop"));
    coord_conformance::main_of_all(&[own, interop])
}
