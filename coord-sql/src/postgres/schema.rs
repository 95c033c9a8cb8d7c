//! Making the schema, and bringing it up to date.

use std::sync::LazyLock;

use coord_core::{Error, ErrorKind, Result};
use sqlx::{Connection, PgConnection, Row, migrate::Migrator};

use super::{
    config::PostgresConfig,
    error::{NEWER, on_connecting},
};
use crate::migrations::migrator;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    migrator(&[
        ("claims", include_str!("../../migrations/postgres/0001_claims.sql")),
        ("values", include_str!("../../migrations/postgres/0002_values.sql")),
        ("jobs", include_str!("../../migrations/postgres/0003_jobs.sql")),
        ("overtaken", include_str!("../../migrations/postgres/0004_overtaken.sql")),
    ])
});

/// Serialises clients that start at once. Any number; it is of this library alone.
const LOCK: i64 = 0x636f_6f72_645f_7371;

/// Makes the schema if it is missing, and adds what is new in it.
pub(super) async fn prepare(config: &PostgresConfig) -> Result<()> {
    let place = config.place();
    let failed = |error| on_connecting(&place, error);
    let mut connection = PgConnection::connect_with(&config.options).await.map_err(failed)?;
    let standby: bool =
        sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await.map_err(failed)?;
    if standby {
        let message = format!("the database {place}: it is a standby; connect to the primary");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if !is_complete(&mut connection, &place).await? {
        // All of it is one transaction, and so is what it sets: behind a pooler, a session's lock or search path would stay
        // with a connection that goes to the next client.
        let mut transaction = connection.begin().await.map_err(failed)?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)")
            .bind(LOCK)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        // The tables of the library and its record of migrations lie in its schema.
        for statement in ["CREATE SCHEMA IF NOT EXISTS coord", "SET LOCAL search_path TO coord"] {
            sqlx::query(statement).execute(&mut *transaction).await.map_err(failed)?;
        }
        MIGRATIONS
            .run_direct(None, &mut *transaction, false)
            .await
            .map_err(|error| failed(sqlx::Error::Migrate(Box::new(error))))?;
        transaction.commit().await.map_err(failed)?;
    }
    sqlx::query("SELECT coord.revive()").execute(&mut connection).await.map_err(failed)?;
    let _ = connection.close().await;
    Ok(())
}

/// Whether all migrations were made, found out by reading alone: a role that only uses the schema may not change it.
async fn is_complete(connection: &mut PgConnection, place: &str) -> Result<bool> {
    let failed = |error| on_connecting(place, error);
    let there: bool = sqlx::query_scalar("SELECT to_regclass('coord._sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if !there {
        return Ok(false);
    }
    let rows =
        sqlx::query("SELECT version, checksum FROM coord._sqlx_migrations WHERE success ORDER BY version")
            .fetch_all(connection)
            .await
            .map_err(failed)?;
    let mut done = 0;
    for row in rows {
        let version: i64 = row.try_get(0).map_err(failed)?;
        let checksum: Vec<u8> = row.try_get(1).map_err(failed)?;
        match MIGRATIONS.iter().find(|migration| migration.version == version) {
            None => return Err(Error::new(ErrorKind::NewerSchema, format!("the database {place}: {NEWER}"))),
            Some(migration) if *migration.checksum != *checksum => return Ok(false),
            Some(_) => done += 1,
        }
    }
    Ok(done == MIGRATIONS.iter().count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrations::tests::are_those_of;

    #[test]
    fn every_version_is_known() {
        are_those_of("postgres", &MIGRATIONS);
    }
}
