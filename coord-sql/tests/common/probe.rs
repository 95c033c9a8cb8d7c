//! Looks into the file from outside.

use std::path::Path;

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::Place;

/// A connection of no client.
pub(crate) struct Probe(pub(crate) SqliteConnection);

impl Probe {
    pub(crate) async fn of(path: &Path) -> Self {
        Self(SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap())
    }

    pub(crate) async fn number(&mut self, statement: &'static str) -> i64 {
        sqlx::query_scalar(statement).fetch_one(&mut self.0).await.unwrap()
    }

    pub(crate) async fn change(&mut self, statement: &'static str) {
        sqlx::query(statement).execute(&mut self.0).await.unwrap();
    }

    /// Empties the write-ahead log.
    pub(crate) async fn empty_log(&mut self) {
        assert_eq!(self.number("PRAGMA wal_checkpoint(TRUNCATE)").await, 0, "busy");
    }
}

/// How many transactions wrote to the log since it was emptied: a frame that ends one holds the size of the database.
/// The format is part of SQLite's file format (https://www.sqlite.org/walformat.html).
pub(crate) fn transactions(place: &Place) -> usize {
    let log = std::fs::read(place.0.path().join("coord.db-wal")).unwrap();
    if log.is_empty() {
        return 0;
    }
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let (page, salts) = (number(8) as usize, &log[16..24]);
    let frames = (32..log.len()).step_by(24 + page).take_while(|at| &log[at + 8..at + 16] == salts);
    frames.filter(|at| number(at + 4) != 0).count()
}
