//! Notifications: the connection that hears them, and the watches that the server knows of.

use std::{collections::HashSet, sync::Arc, time::Duration};

use coord_core::{Error, ErrorKind, Result};
use sqlx::postgres::{PgListener, PgNotification};
use tokio::{
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{client::Shared, error::on_connecting};
use crate::{keys::LineKey, news::hex, wakeups::Note};

/// How long the server keeps a watch that nobody renews.
const WATCHED: Duration = Duration::from_secs(180);
const RENEWED: Duration = Duration::from_secs(60);
/// How long a notification of a server that answers is on its way at most.
const SOON: Duration = Duration::from_secs(3);
/// A connection that was silent for so long is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(10);

fn channel(shared: &Shared) -> String {
    format!("coord_{}", hex(&shared.client))
}

/// Begins to listen, and shows that notifications come through.
pub(super) async fn start(shared: &Arc<Shared>) -> Result<[AbortHandle; 2]> {
    let listener = connect(shared).await?;
    let listening = tokio::spawn(listen(Arc::clone(shared), listener)).abort_handle();
    let registering = tokio::spawn(register(Arc::clone(shared))).abort_handle();
    Ok([listening, registering])
}

/// A connection that hears what is sent to it.
async fn connect(shared: &Arc<Shared>) -> Result<PgListener> {
    // Poolers end one that listens, always; a server that goes away ends it too.
    for _ in 0..3 {
        if let Some(listener) = hear(shared).await? {
            return Ok(listener);
        }
        sleep(Duration::from_millis(fastrand::u64(20..60))).await;
    }
    Err(pooled(shared))
}

/// The same, or none if it ended before it heard anything.
async fn hear(shared: &Arc<Shared>) -> Result<Option<PgListener>> {
    let failed = |error| on_connecting(&shared.place, error);
    let mut listener = PgListener::connect_with(&shared.listening).await.map_err(failed)?;
    listener.eager_reconnect(false);
    listener.listen(&channel(shared)).await.map_err(failed)?;
    let (name, client) = (channel(shared), shared.client);
    shared.ask(|| sqlx::query("SELECT coord.wake($1, 'p')").bind(client.to_vec())).await?;
    // Once more when the server has answered: it may have been away.
    for _ in 0..2 {
        let heard = timeout(SOON, async {
            loop {
                match listener.try_recv().await {
                    Ok(Some(note)) if note.channel() == name && note.payload() == "p" => return Ok(true),
                    Ok(Some(_)) => {}
                    Ok(None) => return Ok(false),
                    Err(error) => return Err(failed(error)),
                }
            }
        });
        if let Ok(heard) = heard.await {
            return heard.map(|heard| heard.then_some(listener));
        }
        match timeout(shared.timeout, sqlx::query("SELECT 1").execute(&mut listener)).await {
            Ok(answered) => answered.map(drop).map_err(failed)?,
            Err(_) => return Err(silent(shared)),
        }
    }
    Err(pooled(shared))
}

fn pooled(shared: &Shared) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the database {}: its notifications do not reach this client; a pooler in transaction mode passes none on, so \
             connect to the server itself or to a pooler in session mode",
            shared.place
        ),
    )
}

fn silent(shared: &Shared) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the database {} does not answer; is it running?", shared.place),
    )
}

/// Passes hints on for as long as the client lives.
async fn listen(shared: Arc<Shared>, mut listener: PgListener) {
    loop {
        let broken = loop {
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(note))) => hint(&shared, &note),
                Ok(Ok(None)) => break "the connection was lost".to_owned(),
                Ok(Err(error)) => break error.to_string(),
                Err(_) => match timeout(shared.timeout, sqlx::query("SELECT 1").execute(&mut listener)).await
                {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => break error.to_string(),
                    Err(_) => break "the server does not answer".to_owned(),
                },
            }
        };
        tracing::debug!(broken, "notifications do not come; connecting again");
        drop(listener);
        listener = loop {
            sleep(Duration::from_millis(fastrand::u64(200..400))).await;
            match timeout(shared.timeout, connect(&shared)).await {
                Ok(Ok(listener)) => break listener,
                Ok(Err(error)) => tracing::debug!(%error, "notifications do not come; trying again"),
                Err(_) => tracing::debug!("notifications do not come; trying again"),
            }
        };
        // What happened meanwhile was not hinted at, and the server may know nothing of our watches.
        shared.hub.hint_all();
        shared.hub.watches_changed.notify_one();
    }
}

fn hint(shared: &Shared, note: &PgNotification) {
    let payload = note.payload();
    let note = match payload.split_at_checked(1) {
        Some(("c", id)) => id_of(id).map(Note::Claim),
        Some(("l", line)) => Some(Note::Line(LineKey::stored(line).mark())),
        _ => None,
    };
    if let Some(note) = note {
        shared.hub.hint(note);
    }
}

fn id_of(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

/// Keeps the watches at the server as the subscriptions here want them.
async fn register(shared: Arc<Shared>) {
    let mut registered = HashSet::new();
    loop {
        let renewing = timeout(RENEWED, shared.hub.watches_changed.notified()).await.is_err();
        loop {
            match watch(&shared, &mut registered, renewing).await {
                Ok(new) => {
                    // What changed before the watch was known was not hinted at.
                    new.iter().for_each(|line| shared.hub.hint(Note::Line(line.mark())));
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "watches could not be registered; trying again");
                    registered.clear();
                    shared.hub.hint_lines();
                    sleep(Duration::from_millis(fastrand::u64(200..400))).await;
                }
            }
        }
    }
}

/// Registers what is watched and not known yet, or all of it anew.
async fn watch(shared: &Shared, registered: &mut HashSet<LineKey>, anew: bool) -> Result<Vec<LineKey>> {
    let wanted: HashSet<_> = shared.hub.lines().into_iter().collect();
    let new: Vec<_> = wanted.difference(registered).cloned().collect();
    let old: Vec<_> = registered.difference(&wanted).map(|line| line.as_str().to_owned()).collect();
    let lines: Vec<_> = if anew { wanted.iter().collect() } else { new.iter().collect() };
    let lines: Vec<_> = lines.into_iter().map(|line| line.as_str().to_owned()).collect();
    if !lines.is_empty() || !old.is_empty() {
        let ttl = i64::try_from(WATCHED.as_millis()).unwrap_or(i64::MAX);
        let client = shared.client.to_vec();
        shared
            .ask(|| {
                sqlx::query("SELECT coord.watch($1, $2, $3, $4)")
                    .bind(client.clone())
                    .bind(lines.clone())
                    .bind(old.clone())
                    .bind(ttl)
            })
            .await?;
    }
    *registered = wanted;
    Ok(new)
}

/// Removes all watches of this client.
pub(super) async fn forget(shared: &Shared) -> Result<()> {
    let client = shared.client.to_vec();
    shared.ask(|| sqlx::query("DELETE FROM coord.watches WHERE client = $1").bind(client.clone())).await?;
    Ok(())
}
