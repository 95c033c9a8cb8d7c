//! Postgres servers and clients of them.

use std::{error::Error, sync::Arc};

use coord_conformance::servers::{PgBouncer, Postgres, PostgresOptions, found};
use coord_sql::PostgresStore;

/// A server of this test alone; `None`, with the reason told, if this host has none and need not have one.
pub(crate) fn server(options: PostgresOptions) -> Option<Postgres> {
    found(Postgres::start(&options.with_own()))
}

/// A pooler in front of it, with these settings.
pub(crate) fn pooler(server: &Postgres, settings: &[(&str, &str)]) -> Option<PgBouncer> {
    found(PgBouncer::start(server, settings))
}

pub(crate) async fn open(server: &Postgres) -> Arc<PostgresStore> {
    coord_sql::Postgres::open(server.url()).await.unwrap()
}

/// All that an error shows, also in its sources.
pub(crate) fn shown(error: &coord_sql::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(" {inner} {inner:?}"));
        source = inner.source();
    }
    text
}
