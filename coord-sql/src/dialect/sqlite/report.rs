//! What a file is and how it is set up, for people.

use coord_core::{Report, Result};

use super::SqliteFile;
use crate::dialect::{Cell, Dialect as _};

/// What to ask; the names of its columns are those of the facts, in this order.
const QUESTIONS: &str = "SELECT sqlite_version(), \
         (SELECT journal_mode FROM pragma_journal_mode), \
         (SELECT journal_size_limit FROM pragma_journal_size_limit), \
         (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size), \
         (SELECT coalesce(max(version), 0) FROM coord_migrations)";

pub(super) async fn report(file: &SqliteFile) -> Result<Report> {
    let mut session = file.read().await?;
    let answers = session.run(QUESTIONS, &[]).await?;
    let row = answers.first().and_then(|rows| rows.first());
    let answer = |column: usize| match row?.0.get(column)? {
        Cell::Integer(number) => Some(number.to_string()),
        Cell::Text(text) => Some(text.clone()),
        Cell::Null | Cell::Bytes(_) => None,
    };
    Ok(Report::new(format!("sqlite:{}", file.path().display()))
        .with_fact("server", Some("SQLite, in this process".into()))
        .with_fact("version", answer(0))
        .with_fact("path", Some(file.path().display().to_string()))
        .with_fact("bytes", answer(3))
        .with_fact("schema", answer(4))
        .with_fact("journal_mode", answer(1))
        .with_fact("journal_size_limit", answer(2))
        // Each transaction sets it for itself.
        .with_fact("synchronous", Some("FULL for tokens, values and items; NORMAL for leases alone".into()))
        .with_fact("busy_timeout", Some(format!("{:?}", file.config.busy_timeout())))
        .with_fact("boot", Some(file.host.clone()))
        .with_fact("clock", Some(CLOCK.into())))
}

/// On what leases are judged, as [`Clock::System`](coord_core::clock::Clock::System) reads it.
const CLOCK: &str = if cfg!(target_os = "linux") {
    "CLOCK_BOOTTIME of this host"
} else {
    "the time since the boot of this host"
};
