//! Opens the store: the only place that knows which backends there are.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc};

use coord_core::{Coordinator, Namespace, Report};
use directories::ProjectDirs;

use crate::{
    cli::Globals,
    status::{Failure, NOTHING, UNREACHABLE, USAGE},
};

/// The URLs of a file, in every build.
const SQLITE: &str = "sqlite:///absolute/path.db, sqlite:relative.db";
/// The URLs of a Redis server, and the feature with which a build has them.
const REDIS: Option<&str> = if cfg!(feature = "redis") {
    Some("redis://[[user]:password@]host[:port][/db], rediss://… with TLS, unix:///path/to/redis.sock")
} else {
    None
};
/// The URLs of a Postgres server, and the feature with which a build has them.
const POSTGRES: Option<&str> = if cfg!(feature = "postgres") {
    Some("postgres://[user[:password]@]host[:port]/database[?sslmode=require]")
} else {
    None
};

/// The URLs that this build knows.
fn known() -> String {
    [Some(SQLITE), POSTGRES, REDIS].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The help of the option that names the store.
pub(crate) fn help() -> String {
    format!("The store: {} [default: coord.db in the user's state folder]", known())
}

/// What a URL names. Another backend is one more variant here, one more scheme in [`Target::parse`], and one more arm of
/// each `match`.
#[derive(Debug)]
enum Target {
    Sqlite(coord_sql::Config),
    #[cfg(feature = "postgres")]
    Postgres(Box<coord_sql::PostgresConfig>),
    #[cfg(feature = "redis")]
    Redis(coord_redis::Config),
}

/// An open store.
#[derive(Debug)]
pub(crate) enum Backend {
    Sql(Arc<coord_sql::Store>),
    #[cfg(feature = "postgres")]
    Postgres(Arc<coord_sql::PostgresStore>),
    #[cfg(feature = "redis")]
    Redis(Arc<coord_redis::Store>),
}

impl Backend {
    /// What it is connected to.
    pub(crate) async fn report(&self) -> coord_core::Result<Report> {
        match self {
            Self::Sql(store) => store.report().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.report().await,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.report().await,
        }
    }
}

/// Opens the store that the options name. Their namespace goes before the one that the URL may name.
pub(crate) async fn open(globals: &Globals) -> Result<(Backend, Coordinator), Failure> {
    let namespace = globals.namespace()?;
    let target = match &globals.store {
        Some(url) => Target::parse(url)?,
        None => Target::Sqlite(coord_sql::Config::new(default_path()?)),
    };
    let namespace = namespace.unwrap_or_else(|| target.namespace());
    let (backend, coordinator) = target.connect().await.map_err(|error| {
        let failure = Failure::from(error);
        match failure.status {
            // The URL is right, but what it names is not there or not fit for use.
            USAGE | NOTHING => Failure { status: UNREACHABLE, ..failure },
            _ => failure,
        }
    })?;
    Ok((backend, coordinator.with_namespace(namespace)))
}

impl Target {
    /// Reads a URL, which may hold a password: of a refused one nothing but the scheme is printed.
    fn parse(url: &str) -> Result<Self, Failure> {
        let scheme = url.split_once(':').map(|(scheme, _)| scheme);
        let scheme = scheme.filter(|scheme| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        });
        match scheme.map(str::to_ascii_lowercase).as_deref() {
            Some("sqlite") => {
                let url = format!("sqlite{}", &url["sqlite".len()..]);
                Ok(Self::Sqlite(coord_sql::Config::parse(&url)?))
            }
            #[cfg(feature = "postgres")]
            Some(scheme @ ("postgres" | "postgresql")) => {
                let url = format!("{scheme}{}", &url[scheme.len()..]);
                Ok(Self::Postgres(Box::new(coord_sql::PostgresConfig::parse(&url)?)))
            }
            #[cfg(not(feature = "postgres"))]
            Some(scheme @ ("postgres" | "postgresql")) => Err(Failure::usage(format!(
                "this build of coord has no store for {scheme}: URLs; build it with the feature postgres. Known are {}",
                known()
            ))),
            #[cfg(feature = "redis")]
            Some("redis" | "rediss" | "unix") => Ok(Self::Redis(coord_redis::Config::parse(url)?)),
            #[cfg(not(feature = "redis"))]
            Some(scheme @ ("redis" | "rediss" | "unix")) => Err(Failure::usage(format!(
                "this build of coord has no store for {scheme}: URLs; build it with the feature redis. Known are {}",
                known()
            ))),
            Some("memory") => Err(Failure::usage(format!(
                "a store in memory ends with this command and cannot be shared with another one; known are {}",
                known()
            ))),
            Some(scheme) => Err(Failure::usage(format!(
                "there is no store for URLs of the scheme {scheme:?}; known are {}",
                known()
            ))),
            None => Err(Failure::usage(format!("the store is not a URL; known are {}", known()))),
        }
    }

    /// The namespace that the URL names, or the usual one.
    fn namespace(&self) -> Namespace {
        match self {
            Self::Sqlite(_) => Namespace::default(),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Namespace::default(),
            #[cfg(feature = "redis")]
            Self::Redis(config) => config.namespace().clone(),
        }
    }

    async fn connect(self) -> coord_core::Result<(Backend, Coordinator)> {
        Ok(match self {
            Self::Sqlite(config) => {
                let store = coord_sql::Sqlite::open(config).await?;
                let builder = Coordinator::builder(store.clone()).values(store.clone()).jobs(store.clone());
                (Backend::Sql(store), builder.build()?)
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => {
                let store = coord_sql::Postgres::open(*config).await?;
                let builder = Coordinator::builder(store.clone()).values(store.clone()).jobs(store.clone());
                (Backend::Postgres(store), builder.build()?)
            }
            #[cfg(feature = "redis")]
            Self::Redis(config) => {
                let store = coord_redis::Store::open(config).await?;
                let builder = Coordinator::builder(store.clone()).values(store.clone()).jobs(store.clone());
                (Backend::Redis(store), builder.build()?)
            }
        })
    }
}

/// The user's own store; its folder is made if it is not there.
fn default_path() -> Result<PathBuf, Failure> {
    let Some(folders) = ProjectDirs::from("", "", "coord") else {
        return Err(Failure::usage("this user has no home folder; name a store with --store or COORD_STORE"));
    };
    let folder = folders.state_dir().unwrap_or_else(|| folders.data_local_dir());
    // Who may write the file may take every lock in it.
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Failure::new(
            UNREACHABLE,
            format!("cannot make the folder {} of the store: {error}", folder.display()),
        )
    })?;
    Ok(folder.join("coord.db"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for url in ["sqlite:a.db", "SQLite:///a.db"] {
            assert!(matches!(Target::parse(url), Ok(Target::Sqlite(_))), "{url}");
        }
        #[cfg(feature = "redis")]
        for url in ["redis://h", "REDIS://h", "rediss://:secret@h", "unix:///run/redis.sock?password=secret"]
        {
            let target = Target::parse(url).unwrap();
            assert!(matches!(target, Target::Redis(_)), "{url}");
            assert!(!format!("{target:?}").contains("secret"));
        }
    }

    #[test]
    fn refused_urls_name_what_is_known_and_no_secret() {
        for refused in ["memory:", "zk:me:secret@host", "etcd:me:secret@host", "a.db", "", ":secret@h"] {
            let failure = Target::parse(refused).unwrap_err();
            assert_eq!(failure.status, USAGE);
            assert!(!failure.message.contains("secret"), "{}", failure.message);
            assert!(failure.message.contains("sqlite:"), "{}", failure.message);
            assert_eq!(failure.message.contains("redis:"), cfg!(feature = "redis"), "{}", failure.message);
        }
        for refused in ["redis://:secret@h/x", "rediss://:secret@h:99999", "unix://secret@", "redis:secret"] {
            let failure = Target::parse(refused).unwrap_err();
            assert_eq!(failure.status, USAGE, "{refused}");
            assert!(!failure.message.contains("secret"), "{}", failure.message);
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn urls_of_postgres() {
        for url in
            ["postgres://me:secret@h/app", "postgresql://h:5433/app?sslmode=require", "POSTGRES://h/app"]
        {
            let target = Target::parse(url).unwrap();
            assert!(matches!(target, Target::Postgres(_)), "{url}");
            assert!(!format!("{target:?}").contains("secret"));
        }
        let failure = Target::parse("postgres://me:secret@h:port/app").unwrap_err();
        assert!(failure.status == USAGE && !failure.message.contains("secret"), "{}", failure.message);
    }

    /// A build without a backend says which feature has it.
    #[cfg(not(feature = "redis"))]
    #[test]
    fn a_missing_feature_is_named() {
        for url in ["redis://me:secret@h", "rediss://h", "unix:///run/redis.sock"] {
            let failure = Target::parse(url).unwrap_err();
            assert_eq!(failure.status, USAGE);
            assert!(failure.message.contains("feature redis") && !failure.message.contains("secret"));
        }
    }
}
