//! What the example programs share: which store to use, and where to keep what they protect.
//!
//! The programs are in `src/bin`. Each runs without set-up on an SQLite file of its own, and on the store whose URL, such as
//! `redis://127.0.0.1`, is its first argument or in `COORD_STORE`. Each checks what it claims and fails if that is not so.

mod cut;
mod guide;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use coord_core::{Coordinator, Namespace, spi::Claims};
use coord_sql::{Database, IntoDatabase};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use tempfile::TempDir;

pub use self::cut::Link;

/// What the examples return.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

const STORE: &str = "COORD_STORE";
const ROLE: &str = "COORD_EXAMPLE_ROLE";
const FOLDER: &str = "COORD_EXAMPLE_FOLDER";

/// A client of the store that a URL names: a program that is to run on any store picks the crate by the scheme.
///
/// # Errors
/// A URL that names no store; a store that cannot be reached.
pub async fn connect(url: &str) -> Result<Coordinator> {
    match url.split_once(':') {
        Some(("redis" | "rediss" | "unix", _)) => Ok(coord_redis::connect(url).await?),
        Some(("zk", _)) => Ok(coord_zk::connect(url).await?),
        #[cfg(feature = "etcd")]
        Some(("etcd" | "etcds", _)) => Ok(coord_etcd::connect(url).await?),
        _ => Ok(coord_sql::connect(url).await?),
    }
}

/// As [`connect`], with the store of claims decorated: wrapped into another one that does something on the way.
///
/// # Errors
/// As of [`connect`].
pub async fn connect_around<S: Claims>(
    url: &str,
    decorate: impl FnOnce(Arc<dyn Claims>) -> Arc<S>,
) -> Result<Coordinator> {
    let builder = match url.split_once(':') {
        Some(("redis" | "rediss" | "unix", _)) => {
            let store = coord_redis::Store::open(url).await?;
            Coordinator::builder(decorate(store.clone())).values(store.clone()).jobs(store)
        }
        Some(("zk", _)) => {
            let store = coord_zk::Store::open(url).await?;
            Coordinator::builder(decorate(store.clone())).values(store.clone()).jobs(store)
        }
        #[cfg(feature = "etcd")]
        Some(("etcd" | "etcds", _)) => {
            let store = coord_etcd::Store::open(url).await?;
            Coordinator::builder(decorate(store.clone())).values(store.clone()).jobs(store)
        }
        _ => match url.into_database()? {
            Database::Sqlite(config) => {
                let store = coord_sql::Sqlite::open(config).await?;
                Coordinator::builder(decorate(store.clone())).values(store.clone()).jobs(store)
            }
            Database::Postgres(config) => {
                let store = coord_sql::Postgres::open(&config).await?;
                Coordinator::builder(decorate(store.clone())).values(store.clone()).jobs(store)
            }
            other => return Err(format!("no example knows {other:?}").into()),
        },
    };
    Ok(builder.build()?)
}

/// One run of an example, in one process or several.
#[derive(Debug)]
pub struct Stage {
    url: String,
    folder: PathBuf,
    flags: Vec<String>,
    /// Removed with its content at the end of the process that made it.
    _temporary: Option<TempDir>,
}

impl Stage {
    /// Reads the command line: the store's URL, and flags of which `known` are allowed.
    ///
    /// # Errors
    /// An unknown flag; a temporary folder that cannot be made.
    pub fn from_args(known: &[&str]) -> Result<Self> {
        let (flags, words): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|word| word.starts_with("--"));
        if let Some(unknown) = flags.iter().find(|flag| !known.contains(&flag.as_str())) {
            return Err(format!("unknown option {unknown}; known: {known:?}").into());
        }
        let (folder, temporary) = match env::var_os(FOLDER) {
            Some(folder) => (PathBuf::from(folder), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("coord-example-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let url = words.into_iter().next().or_else(|| env::var(STORE).ok());
        let url = url.unwrap_or_else(|| format!("sqlite://{}", folder.join("coord.db").display()));
        Ok(Self { url, folder, flags, _temporary: temporary })
    }

    /// Whether a flag was given.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|given| given == flag)
    }

    /// A new client of the store, in a namespace of this run.
    ///
    /// # Errors
    /// A store that cannot be reached.
    pub async fn client(&self) -> Result<Coordinator> {
        Ok(connect(&self.url).await?.with_namespace(self.namespace()?))
    }

    /// As [`Stage::client`], with its store of claims decorated.
    ///
    /// # Errors
    /// A store that cannot be reached.
    pub async fn client_around<S: Claims>(
        &self,
        decorate: impl FnOnce(Arc<dyn Claims>) -> Arc<S>,
    ) -> Result<Coordinator> {
        Ok(connect_around(&self.url, decorate).await?.with_namespace(self.namespace()?))
    }

    fn namespace(&self) -> Result<Namespace> {
        let run = self.folder.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Namespace::new(run.unwrap_or_default())?)
    }

    /// The example's own database: the resource that it protects. It has nothing to do with the store.
    ///
    /// # Errors
    /// A database that cannot be opened.
    pub async fn resource(&self) -> Result<SqlitePool> {
        let options = SqliteConnectOptions::new().filename(self.path("resource.db")).create_if_missing(true);
        Ok(SqlitePoolOptions::new().max_connections(1).connect_with(options).await?)
    }

    /// A file of this run.
    #[must_use]
    pub fn path(&self, file: impl AsRef<Path>) -> PathBuf {
        self.folder.join(file)
    }

    /// This program once more, as a process of its own that finds the same store and the same resource.
    ///
    /// # Errors
    /// A program that has been moved away.
    pub fn another(&self, role: &str) -> Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        // Not as an argument: everybody can read those, and the URL may hold a password.
        command
            .env(STORE, &self.url)
            .args(&self.flags)
            .env(ROLE, role)
            .env(FOLDER, fs::canonicalize(&self.folder)?);
        Ok(command)
    }

    /// What this process was started as by [`Stage::another`]; `None` for the first.
    #[must_use]
    pub fn role(&self) -> Option<String> {
        env::var(ROLE).ok()
    }
}
