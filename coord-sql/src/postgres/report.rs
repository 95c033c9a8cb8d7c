//! What the store is connected to, and what about its settings weakens what it promises.

use coord_core::{Report, Result, Weakness};
use sqlx::query;

use super::client::PostgresStore;

/// Everything in one row, all as text. A role without rights is told all of it.
const ASKED: &str = "SELECT current_setting('server_version'), current_user::text, \
     current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'), \
     current_setting('synchronous_standby_names'), to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || ' UTC'";

const NAMES: [&str; 7] = [
    "server_version",
    "role",
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "synchronous_standby_names",
    "clock",
];

impl PostgresStore {
    /// What this client is connected to, asked now.
    ///
    /// # Cancel safety
    /// Cancel safe.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) if the server does not answer in time.
    pub async fn report(&self) -> Result<Report> {
        let row = self.shared.ask_one(|| query(ASKED)).await?;
        let mut report = Report::new(self.shared.place.clone());
        for (column, name) in NAMES.into_iter().enumerate() {
            report = report.with_fact(name, Some(self.shared.cell(&row, column)?));
        }
        let mut weaknesses = Vec::new();
        if report.fact("fsync") == Some("off") {
            weaknesses.push(Weakness::new(
                "fsync",
                Some("off".into()),
                "a loss of power may damage the database and undo what was answered",
                "set fsync = on in postgresql.conf",
            ));
        }
        if report.fact("full_page_writes") == Some("off") {
            weaknesses.push(Weakness::new(
                "full_page_writes",
                Some("off".into()),
                "a loss of power in the middle of a write may damage the database",
                "set full_page_writes = on in postgresql.conf",
            ));
        }
        if report.fact("synchronous_standby_names") == Some("") {
            weaknesses.push(Weakness::new(
                "synchronous_standby_names",
                Some("empty".into()),
                "a standby that takes over may lack the last grants, values and items; tokens grow all the same",
                "name standbys there if there are any; a server without standbys needs none",
            ));
        }
        Ok(report.with_weaknesses(weaknesses))
    }
}
