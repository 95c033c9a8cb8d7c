//! The conformance suite on SQLite and on Postgres: `cargo test -p coord-sql --test conformance [FILTER]`, where a filter may be
//! `sqlite::` or `postgres::`.

mod postgres;
mod sqlite;

use std::{process::ExitCode, sync::Arc};

use coord_conformance::Backend;

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(sqlite::OnSqlite), Arc::new(postgres::OnPostgres)];
    coord_conformance::main_of_all(&backends)
}
