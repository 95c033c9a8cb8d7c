//! On SQLite: the bare driver.

use std::{str::FromStr, sync::Arc};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions, Row, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};
use tokio::sync::Mutex;

use super::{Client, Held};
use crate::Result;

/// What gives out is on the disk before it is answered, what takes back is not, as with coord.
pub(super) struct Floor {
    durable: Mutex<SqliteConnection>,
    quick: Arc<Mutex<SqliteConnection>>,
}

impl Floor {
    pub(super) async fn connect(url: &str) -> Result<Self> {
        // A file beside coord's.
        let path = url.trim_start_matches("sqlite:").split('?').next().unwrap_or_default();
        let options = SqliteConnectOptions::from_str(&format!("sqlite:{path}.floor"))?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let mut durable = options.clone().synchronous(SqliteSynchronous::Full).connect().await?;
        let quick = options.synchronous(SqliteSynchronous::Normal).connect().await?;
        sqlx::raw_sql(
            "CREATE TABLE IF NOT EXISTS floor (service TEXT, name TEXT, value TEXT, PRIMARY KEY (service, name))",
        )
        .execute(&mut durable)
        .await?;
        Ok(Self { durable: Mutex::new(durable), quick: Arc::new(Mutex::new(quick)) })
    }

    async fn add(&self, service: &str, name: &str, value: &str) -> Result<Box<dyn Held>> {
        sqlx::query("INSERT INTO floor (service, name, value) VALUES ($1, $2, $3)")
            .bind(service)
            .bind(name)
            .bind(value)
            .execute(&mut *self.durable.lock().await)
            .await?;
        Ok(Box::new(Line { connection: self.quick.clone(), service: service.into(), name: name.into() }))
    }
}

#[async_trait]
impl Client for Floor {
    async fn acquire(&self, name: &str) -> Result<Box<dyn Held>> {
        self.add("lock", name, "").await
    }

    async fn register(&self, service: &str, id: &str, address: &str) -> Result<Box<dyn Held>> {
        self.add(service, id, address).await
    }

    async fn discover(&self, service: &str) -> Result<usize> {
        let mut connection = self.quick.lock().await;
        let list = sqlx::query("SELECT name, value FROM floor WHERE service = $1").bind(service);
        let rows = list.fetch_all(&mut *connection).await?;
        for row in &rows {
            let _: (String, String) = (row.try_get(0)?, row.try_get(1)?);
        }
        Ok(rows.len())
    }
}

struct Line {
    connection: Arc<Mutex<SqliteConnection>>,
    service: String,
    name: String,
}

#[async_trait]
impl Held for Line {
    async fn release(self: Box<Self>) -> Result<()> {
        sqlx::query("DELETE FROM floor WHERE service = $1 AND name = $2")
            .bind(self.service)
            .bind(self.name)
            .execute(&mut *self.connection.lock().await)
            .await?;
        Ok(())
    }
}
