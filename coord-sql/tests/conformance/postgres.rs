//! Postgres: one server, where each case has a database of its own.

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, Servers, Stores, TestStore, Unavailable,
    servers::{self, PostgresOptions, ServerClock},
};
use coord_core::{Coordinator, Error, ErrorKind, Result, spi::Claims};
use coord_sql::{Postgres, PostgresStore};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::OnceCell;
use url::Url;

#[derive(Debug)]
pub(crate) struct OnPostgres;

/// One server for all cases; each case has a database of its own.
fn server() -> std::result::Result<&'static servers::Postgres, Unavailable> {
    static SERVER: OnceLock<std::result::Result<servers::Postgres, Unavailable>> = OnceLock::new();
    SERVER
        .get_or_init(|| servers::Postgres::start(&PostgresOptions::default()))
        .as_ref()
        .map_err(Clone::clone)
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unavailable, "no database for a test").with_source(error.into())
}

fn url(server: &servers::Postgres, database: &str) -> Result<Url> {
    let mut url = Url::parse(&server.url()).map_err(failed)?;
    url.set_path(database);
    Ok(url)
}

async fn change(server: &servers::Postgres, statement: String) -> Result<()> {
    let done = async {
        let mut connection = PgConnection::connect(&server.url()).await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await
    };
    done.await.map_err(failed)
}

/// A database with the schema in it, which others are copied from: that takes a third of the time of the migrations.
async fn template(server: &servers::Postgres) -> Result<&'static String> {
    static TEMPLATE: OnceCell<String> = OnceCell::const_new();
    let make = async || {
        let name = format!("template_{}", std::process::id());
        change(server, format!("CREATE DATABASE {name}")).await?;
        let store = Postgres::open(url(server, &name)?.as_str()).await?;
        Coordinator::builder(store).build()?.shutdown().await?;
        Ok(name)
    };
    TEMPLATE.get_or_try_init(make).await
}

#[async_trait]
impl Backend for OnPostgres {
    fn name(&self) -> &str {
        "postgres"
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server = server().map_err(failed)?;
        let template = template(server).await?;
        let name = format!("case_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        change(server, format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        let url = url(server, &name)?;
        Ok(Box::new(Fresh { server, name, url }))
    }

    async fn open_for_faults(&self) -> Result<Box<dyn TestStore>> {
        let options = PostgresOptions::default().with_own();
        // Where a clock cannot be made, none is stepped.
        let options = if ServerClock::available().is_ok() { options.with_clock() } else { options };
        let server = servers::Postgres::start(&options).map_err(failed)?;
        let url = server.url();
        Ok(Box::new(Own { server: Arc::new(Mutex::new(server)), url }))
    }

    async fn connect(&self, url: &str) -> Result<Arc<dyn Claims>> {
        Ok(Postgres::open(url).await?)
    }

    async fn connect_all(&self, url: &str) -> Result<Stores> {
        Ok(stores(Postgres::open(url).await?))
    }
}

fn stores(store: Arc<PostgresStore>) -> Stores {
    Stores::new(store.clone()).with_values(store.clone()).with_jobs(store)
}

/// A server of its own, which ends with the run.
#[derive(Debug)]
struct Own {
    server: Arc<Mutex<servers::Postgres>>,
    url: String,
}

#[async_trait]
impl TestStore for Own {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Postgres::open(&self.url).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Postgres::open(&self.url).await?))
    }

    fn url(&self) -> Option<String> {
        Some(self.url.clone())
    }

    fn servers(&self) -> Option<Arc<dyn Servers>> {
        Some(self.server.clone())
    }
}

/// A database of its own, which is dropped at the end.
#[derive(Debug)]
struct Fresh {
    server: &'static servers::Postgres,
    name: String,
    url: Url,
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // The server's folder is removed in any case.
        let _ = self.server.query(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

#[async_trait]
impl TestStore for Fresh {
    async fn connect(&self) -> Result<Arc<dyn Claims>> {
        Ok(Postgres::open(self.url.as_str()).await?)
    }

    async fn connect_all(&self) -> Result<Stores> {
        Ok(stores(Postgres::open(self.url.as_str()).await?))
    }

    fn url(&self) -> Option<String> {
        Some(self.url.to_string())
    }

    fn remembered_changes(&self) -> Option<u64> {
        Some(1000)
    }

    /// The rows of all tables of the schema.
    async fn size(&self) -> Result<Option<u64>> {
        let count = async {
            let mut probe = PgConnection::connect(self.url.as_str()).await?;
            let counts = "SELECT 'SELECT sum(n)::bigint FROM (' \
                          || string_agg(format('SELECT count(*) AS n FROM coord.%I', tablename), ' UNION ALL ') \
                          || ') AS counted' FROM pg_tables WHERE schemaname = 'coord'";
            let counts: String = sqlx::query_scalar(counts).fetch_one(&mut probe).await?;
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(counts)).fetch_one(&mut probe).await?;
            probe.close().await?;
            Ok::<_, sqlx::Error>(rows.unsigned_abs())
        };
        count.await.map(Some).map_err(failed)
    }
}
