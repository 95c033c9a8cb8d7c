//! SQLite: each case has a file of its own.

use std::sync::Arc;

use async_trait::async_trait;
use coord_conformance::{Backend, Stores, TestStore};
use coord_core::{Error, ErrorKind, Result, spi::Claims};
use coord_sql::Sqlite;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct OnSqlite;

#[async_trait]
impl Backend for OnSqlite {
    fn name(&self) -> &str {
        "sqlite"
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        let folder = tempfile::tempdir()
            .map_err(|error| Error::new(ErrorKind::Internal, "no temporary folder").with_source(error))?;
        Ok(Box::new(Fresh(folder)))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Sqlite::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        let store = Sqlite::open(url).await?;
        Ok(Stores::new(store.clone()).with_values(store.clone()).with_jobs(store))
    }
}

/// A database in a folder of its own, which is removed at the end.
#[derive(Debug)]
struct Fresh(TempDir);

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Sqlite::open(self.0.path().join("coord.db").as_path()).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        let store = Sqlite::open(self.0.path().join("coord.db").as_path()).await?;
        Ok(Stores::new(store.clone()).with_values(store.clone()).with_jobs(store))
    }

    fn url(&self) -> Option<String> {
        Some(self.0.path().join("coord.db").to_str()?.to_owned())
    }

    fn remembered_changes(&self) -> Option<u64> {
        Some(1000)
    }

    /// The pages in use.
    async fn size(&self) -> Result<Option<u64>> {
        let options = SqliteConnectOptions::new().filename(self.0.path().join("coord.db"));
        let count = async {
            let mut probe = SqliteConnection::connect_with(&options).await?;
            let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&mut probe).await?;
            let free: i64 = sqlx::query_scalar("PRAGMA freelist_count").fetch_one(&mut probe).await?;
            probe.close().await?;
            Ok::<_, sqlx::Error>(pages.abs_diff(free))
        };
        let pages = count.await;
        pages.map(Some).map_err(|error| Error::new(ErrorKind::Internal, "no size").with_source(error))
    }
}
