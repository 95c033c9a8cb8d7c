//! On Postgres: the bare driver.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, PgConnection, Row,
    postgres::{PgConnectOptions, PgListener},
};
use tokio::sync::{Mutex, Semaphore};

use super::{Client, Feed, Held};
use crate::Result;

/// As many connections as coord uses for statements.
const CONNECTIONS: usize = 8;

pub(super) struct Floor {
    pool: Arc<Pool>,
    ttl: Duration,
}

/// Connections that are used as they are: the driver's own pool asks the server for a word after each use.
struct Pool {
    options: PgConnectOptions,
    permits: Semaphore,
    idle: Mutex<Vec<PgConnection>>,
}

impl Pool {
    async fn run(
        &self,
        statement: &'static str,
        name: &str,
        value: &[u8],
    ) -> Result<Vec<sqlx::postgres::PgRow>> {
        let _permit = self.permits.acquire().await?;
        let idle = self.idle.lock().await.pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        let rows = sqlx::query(statement).bind(name).bind(value).fetch_all(&mut connection).await?;
        self.idle.lock().await.push(connection);
        Ok(rows)
    }
}

impl Floor {
    pub(super) async fn connect(url: &str, ttl: Duration) -> Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let mut connection = options.connect().await?;
        // Two clients that make a table at once get in each other's way.
        sqlx::raw_sql(
            "BEGIN; SELECT pg_advisory_xact_lock(7262026);
             CREATE TABLE IF NOT EXISTS floor (name text PRIMARY KEY, value bytea, until timestamptz);
             CREATE TABLE IF NOT EXISTS floor_instance (service text, id text, address bytea, PRIMARY KEY (service, id));
             COMMIT",
        )
        .execute(&mut connection)
        .await?;
        let (permits, idle) = (Semaphore::new(CONNECTIONS), Mutex::new(vec![connection]));
        Ok(Self { pool: Arc::new(Pool { options, permits, idle }), ttl })
    }

    async fn listen(&self, name: &str) -> Result<Box<dyn Feed>> {
        let url = self.pool.options.to_url_lossy();
        let mut listener = PgListener::connect(url.as_str()).await?;
        listener.listen(&channel(name)).await?;
        Ok(Box::new(Notifications(listener)))
    }
}

fn channel(name: &str) -> String {
    format!("floor_{name}")
}

#[async_trait]
impl Client for Floor {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        const TAKE: &str = "INSERT INTO floor (name, value, until)
            VALUES ($1, '', clock_timestamp() + convert_from($2, 'UTF8')::interval)";
        let ttl = format!("{} ms", self.ttl.as_millis());
        self.pool.run(TAKE, name, ttl.as_bytes()).await?;
        const GIVE: &str = "DELETE FROM floor WHERE name = $1 AND value = $2";
        Ok(Box::new(Line { pool: self.pool.clone(), statement: GIVE, name: name.into(), value: Vec::new() }))
    }

    async fn park(&self, name: &str) -> Result<Box<dyn Feed>> {
        self.listen(name).await
    }

    async fn wake(&self, name: &str) -> Result<()> {
        self.pool.run("SELECT pg_notify($1, convert_from($2, 'UTF8'))", &channel(name), b"go").await?;
        Ok(())
    }

    /// A value that is stored, and a notification with it.
    async fn put(&self, key: &str, value: Vec<u8>) -> Result<()> {
        const PUT: &str = "WITH put AS (INSERT INTO floor (name, value) VALUES ($1, $2)
            ON CONFLICT (name) DO UPDATE SET value = $2)
            SELECT pg_notify('floor_' || $1, encode($2, 'escape'))";
        self.pool.run(PUT, key, &value).await?;
        Ok(())
    }

    async fn watch(&self, key: &str) -> Result<Box<dyn Feed>> {
        self.listen(key).await
    }

    async fn register(&self, service: &str, id: &str, address: &str) -> Result<Box<dyn Held>> {
        const ADD: &str = "INSERT INTO floor_instance (service, id, address)
            VALUES (split_part($1, '/', 1), split_part($1, '/', 2), $2)";
        self.pool.run(ADD, &format!("{service}/{id}"), address.as_bytes()).await?;
        const REMOVE: &str =
            "DELETE FROM floor_instance WHERE service = $1 AND id = convert_from($2, 'UTF8')";
        let (name, value) = (service.into(), id.as_bytes().to_vec());
        Ok(Box::new(Line { pool: self.pool.clone(), statement: REMOVE, name, value }))
    }

    async fn discover(&self, service: &str) -> Result<usize> {
        const LIST: &str = "SELECT id, address FROM floor_instance WHERE service = $1 AND $2 = ''::bytea";
        let rows = self.pool.run(LIST, service, b"").await?;
        for row in &rows {
            let _: (String, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        }
        Ok(rows.len())
    }
}

struct Line {
    pool: Arc<Pool>,
    statement: &'static str,
    name: String,
    value: Vec<u8>,
}

#[async_trait]
impl Held for Line {
    async fn release(self: Box<Self>) -> Result<()> {
        self.pool.run(self.statement, &self.name, &self.value).await?;
        Ok(())
    }
}

struct Notifications(PgListener);

#[async_trait]
impl Feed for Notifications {
    async fn next(&mut self) -> Result<Vec<u8>> {
        Ok(self.0.recv().await?.payload().as_bytes().to_vec())
    }
}
