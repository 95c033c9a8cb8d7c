//! Opens the store: the only place that knows which backends there are.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt as _, path::PathBuf, sync::Arc};

use async_trait::async_trait;
use coord_core::{
    Coordinator, Namespace, Report,
    spi::{Claims, jobs::Jobs, values::Values},
};
use directories::ProjectDirs;

use crate::{
    cli::Globals,
    status::{Failure, NOTHING, UNREACHABLE, USAGE},
};

/// A kind of server: the schemes of its URLs, how they are written, and the feature with which a build has it.
struct Kind {
    schemes: &'static [&'static str],
    form: &'static str,
    feature: &'static str,
    built: bool,
}

/// What a URL may name, beside a file.
const SERVERS: [Kind; 4] = [
    Kind {
        schemes: &["postgres", "postgresql"],
        form: "postgres://[user[:password]@]host[:port]/database[?sslmode=require]",
        feature: "postgres",
        built: cfg!(feature = "postgres"),
    },
    Kind {
        schemes: &["redis", "rediss", "unix"],
        form: "redis://[[user]:password@]host[:port][/db], rediss://… with TLS, unix:///path/to/redis.sock",
        feature: "redis",
        built: cfg!(feature = "redis"),
    },
    Kind {
        schemes: &["etcd", "etcds"],
        form: "etcd://[user:password@]host[:port][,host…], etcds://… with TLS",
        feature: "etcd",
        built: cfg!(feature = "etcd"),
    },
    Kind {
        schemes: &["zk"],
        form: "zk://[user:password@]host[:port][,host…][/chroot]",
        feature: "zk",
        built: cfg!(feature = "zk"),
    },
];

/// The URLs that this build knows.
fn known() -> String {
    let servers = SERVERS.iter().filter(|kind| kind.built).map(|kind| kind.form);
    let files = "sqlite:///absolute/path.db, sqlite:relative.db";
    std::iter::once(files).chain(servers).collect::<Vec<_>>().join(", ")
}

/// The help of the option that names the store.
pub(crate) fn help() -> String {
    format!("The store: {} [default: coord.db in the user's state folder]", known())
}

/// What a URL names. Another backend is one more variant here, one more of [`SERVERS`], and one more arm of each `match`.
#[derive(Debug)]
enum Target {
    Sqlite(coord_sql::Config),
    #[cfg(feature = "postgres")]
    Postgres(Box<coord_sql::PostgresConfig>),
    #[cfg(feature = "redis")]
    Redis(coord_redis::Config),
    #[cfg(feature = "etcd")]
    Etcd(coord_etcd::Config),
    #[cfg(feature = "zk")]
    ZooKeeper(coord_zk::Config),
}

/// An open store, as `coord doctor` sees it.
#[async_trait]
pub(crate) trait Backend: Send + Sync {
    /// What it is connected to.
    async fn examine(&self) -> coord_core::Result<Report>;
}

macro_rules! backends {
    ($($(#[$attribute:meta])* $store:ty),* $(,)?) => {$(
        $(#[$attribute])*
        #[async_trait]
        impl Backend for $store {
            async fn examine(&self) -> coord_core::Result<Report> {
                self.report().await
            }
        }
    )*};
}

backends! {
    coord_sql::Store,
    #[cfg(feature = "postgres")]
    coord_sql::PostgresStore,
    #[cfg(feature = "redis")]
    coord_redis::Store,
    #[cfg(feature = "etcd")]
    coord_etcd::Store,
    #[cfg(feature = "zk")]
    coord_zk::Store,
}

type Opened = (Arc<dyn Backend>, Coordinator);

/// Opens the store that the options name. Their namespace goes before the one that the URL may name.
pub(crate) async fn open(globals: &Globals) -> Result<Opened, Failure> {
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
        let Some(scheme) = scheme.map(str::to_ascii_lowercase) else {
            return Err(Failure::usage(format!("the store is not a URL; known are {}", known())));
        };
        let url = format!("{scheme}{}", &url[scheme.len()..]);
        match scheme.as_str() {
            "sqlite" => Ok(Self::Sqlite(coord_sql::Config::parse(&url)?)),
            #[cfg(feature = "postgres")]
            "postgres" | "postgresql" => {
                Ok(Self::Postgres(Box::new(coord_sql::PostgresConfig::parse(&url)?)))
            }
            #[cfg(feature = "redis")]
            "redis" | "rediss" | "unix" => Ok(Self::Redis(coord_redis::Config::parse(&url)?)),
            #[cfg(feature = "etcd")]
            "etcd" | "etcds" => Ok(Self::Etcd(coord_etcd::Config::parse(&url)?)),
            #[cfg(feature = "zk")]
            "zk" => Ok(Self::ZooKeeper(coord_zk::Config::parse(&url)?)),
            "memory" => Err(Failure::usage(format!(
                "a store in memory ends with this command and cannot be shared with another one; known are {}",
                known()
            ))),
            scheme => Err(Failure::usage(match SERVERS.iter().find(|kind| kind.schemes.contains(&scheme)) {
                Some(kind) => format!(
                    "this build of coord has no store for {scheme}: URLs; build it with the feature {}. Known are {}",
                    kind.feature,
                    known()
                ),
                None => {
                    format!("there is no store for URLs of the scheme {scheme:?}; known are {}", known())
                }
            })),
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
            #[cfg(feature = "etcd")]
            Self::Etcd(config) => config.namespace().clone(),
            #[cfg(feature = "zk")]
            Self::ZooKeeper(config) => config.namespace().clone(),
        }
    }

    async fn connect(self) -> coord_core::Result<Opened> {
        match self {
            Self::Sqlite(config) => opened(coord_sql::Sqlite::open(config).await?),
            #[cfg(feature = "postgres")]
            Self::Postgres(config) => opened(coord_sql::Postgres::open(*config).await?),
            #[cfg(feature = "redis")]
            Self::Redis(config) => opened(coord_redis::Store::open(config).await?),
            #[cfg(feature = "etcd")]
            Self::Etcd(config) => opened(coord_etcd::Store::open(config).await?),
            #[cfg(feature = "zk")]
            Self::ZooKeeper(config) => opened(coord_zk::Store::open(config).await?),
        }
    }
}

fn opened<S: Backend + Claims + Values + Jobs>(store: Arc<S>) -> coord_core::Result<Opened> {
    let builder = Coordinator::builder(store.clone()).values(store.clone()).jobs(store.clone());
    Ok((store, builder.build()?))
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
        for refused in
            ["memory:", "consul:me:secret@host", "zookeeper://me:secret@h", "a.db", "", ":secret@h"]
        {
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

    #[cfg(feature = "etcd")]
    #[test]
    fn urls_of_etcd() {
        for url in ["etcd://me:secret@a,b:2379", "ETCDS://a?namespace=n"] {
            let target = Target::parse(url).unwrap();
            assert!(matches!(target, Target::Etcd(_)), "{url}");
            assert!(!format!("{target:?}").contains("secret"));
        }
        let failure = Target::parse("etcd://me:secret@h:port").unwrap_err();
        assert!(failure.status == USAGE && !failure.message.contains("secret"), "{}", failure.message);
    }

    #[cfg(feature = "zk")]
    #[test]
    fn urls_of_zookeeper() {
        for url in ["zk://me:secret@a,b:2181/root", "ZK://a?namespace=n"] {
            let target = Target::parse(url).unwrap();
            assert!(matches!(target, Target::ZooKeeper(_)), "{url}");
            assert!(!format!("{target:?}").contains("secret"));
        }
        let failure = Target::parse("zk://me:secret@h:port").unwrap_err();
        assert!(failure.status == USAGE && !failure.message.contains("secret"), "{}", failure.message);
    }

    /// A build without a backend says which feature has it.
    #[test]
    fn a_missing_feature_is_named() {
        for kind in SERVERS.iter().filter(|kind| !kind.built) {
            for scheme in kind.schemes {
                let failure = Target::parse(&format!("{scheme}://me:secret@h")).unwrap_err();
                assert_eq!(failure.status, USAGE);
                assert!(
                    failure.message.contains(&format!("feature {}", kind.feature)),
                    "{}",
                    failure.message
                );
                assert!(!failure.message.contains("secret"), "{}", failure.message);
            }
        }
    }
}
