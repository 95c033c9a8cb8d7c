//! Whom a change concerns, and telling them once it is committed.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use coord_core::Result;

use crate::{
    answers::rows,
    bell::ClientId,
    client::Shared,
    dialect::{Cell, Row},
    keys::LineKey,
    wakeups::Note,
};

/// What is to be told after the commit, and to whom.
pub(crate) struct News<'a> {
    shared: &'a Arc<Shared>,
    pub(crate) line: &'a LineKey,
    /// Whether a claim left our line.
    pub(crate) left: bool,
    /// Whether anything changed in our line.
    pub(crate) changed: bool,
    /// Other lines that claims left.
    pub(crate) others: BTreeSet<LineKey>,
    pub(crate) notes: HashSet<(ClientId, Note)>,
}

impl<'a> News<'a> {
    pub(crate) fn of(shared: &'a Arc<Shared>, line: &'a LineKey) -> Self {
        Self { shared, line, left: false, changed: false, others: BTreeSet::new(), notes: HashSet::new() }
    }

    /// Expired claims were removed.
    pub(crate) fn purged(&mut self, rows: &[Row]) -> Result<()> {
        for row in rows {
            self.notes.insert((row.id(2)?, Note::Claim(row.id(1)?)));
            if row.text(0)? == self.line.as_str() {
                (self.left, self.changed) = (true, true);
            } else {
                self.others.insert(LineKey::stored(row.text(0)?));
            }
        }
        Ok(())
    }

    /// A claim of our line was removed, if there is a row with its client.
    pub(crate) fn left(&mut self, id: &[u8; 16], row: Option<&Row>) -> Result<()> {
        if let Some(row) = row {
            self.notes.insert((row.id(0)?, Note::Claim(*id)));
            (self.left, self.changed) = (true, true);
        }
        Ok(())
    }

    fn add(&mut self, line: &LineKey, rows: &[Row]) {
        for row in rows {
            // They are hints: what cannot be read is not worth an error after the commit.
            let Ok(client) = row.id(0) else { continue };
            let note = match row.0.get(1) {
                Some(Cell::Null) => Note::Line(line.mark()),
                _ => match row.id(1) {
                    Ok(id) => Note::Claim(id),
                    Err(_) => continue,
                },
            };
            self.notes.insert((client, note));
        }
    }

    /// Tells it, with the notes of our line.
    pub(crate) fn tell(mut self, rows: &[Row]) {
        if self.changed {
            self.add(self.line, rows);
        }
        self.shared.announce(self.notes);
        if !self.others.is_empty() {
            // Nobody waits for this here.
            tokio::spawn(tell_others(Arc::clone(self.shared), self.others));
        }
    }
}

/// Bytes as they go into a list of arguments.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |number: u8| char::from(DIGITS[usize::from(number)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Tells those whom the purge of expired claims in other lines concerns.
async fn tell_others(shared: Arc<Shared>, lines: BTreeSet<LineKey>) {
    for line in lines {
        let asked = async {
            let mut session = shared.dialect.read().await?;
            session.run(shared.dialect.statements().notes, &[line.value()]).await
        };
        match asked.await {
            Ok(answers) => {
                let mut news = News::of(&shared, &line);
                news.changed = true;
                news.tell(rows(&answers, 0));
            }
            Err(error) => tracing::debug!(%error, "hints for a purged line were lost"),
        }
    }
}
