//! Opens the store: the only place that knows which backends there are.

use std::{fs::DirBuilder, os::unix::fs::DirBuilderExt as _, path::PathBuf};

use coord_core::Coordinator;
use directories::ProjectDirs;

use crate::{
    cli::Globals,
    status::{Failure, NOTHING, UNREACHABLE, USAGE},
};

const KNOWN: &str = "known are sqlite:///absolute/path.db and sqlite:relative.db";

/// Opens the store that the options name.
pub(crate) async fn open(globals: &Globals) -> Result<Coordinator, Failure> {
    let namespace = globals.namespace()?;
    let config = match &globals.store {
        Some(url) => coord_sql::Config::parse(&check(url)?)?,
        None => coord_sql::Config::new(default_path()?),
    };
    let coordinator = coord_sql::connect(config).await.map_err(|error| {
        let failure = Failure::from(error);
        match failure.status {
            // The URL is right, but what it names is not there or not fit for use.
            USAGE | NOTHING => Failure { status: UNREACHABLE, ..failure },
            _ => failure,
        }
    })?;
    Ok(coordinator.with_namespace(namespace))
}

/// The URL if its scheme is known. A URL may hold a password: of a refused one nothing but the scheme is printed.
fn check(url: &str) -> Result<String, Failure> {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme);
    let scheme = scheme.filter(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        Some("sqlite") => Ok(format!("sqlite{}", &url["sqlite".len()..])),
        Some("memory") => Err(Failure::usage(
            "a store in memory ends with this command and cannot be shared with another one; use an sqlite: URL",
        )),
        Some(scheme) => {
            Err(Failure::usage(format!("there is no store for URLs of the scheme {scheme:?}; {KNOWN}")))
        }
        None => Err(Failure::usage(format!("the store is not a URL; {KNOWN}"))),
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
        assert_eq!(check("sqlite:a.db").unwrap(), "sqlite:a.db");
        assert_eq!(check("SQLite:///a.db").unwrap(), "sqlite:///a.db");
        for refused in
            ["memory:", "redis://me:secret@host", "etcd:me:secret@host", "a.db", "", ":secret@host"]
        {
            let failure = check(refused).unwrap_err();
            assert_eq!(failure.status, crate::status::USAGE);
            assert!(!failure.message.contains("secret"), "{}", failure.message);
            assert!(failure.message.contains("sqlite:"), "{}", failure.message);
        }
    }
}
