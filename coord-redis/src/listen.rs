//! The connection on which hints come: a second one, because a server ends the connection of a slow listener, and because
//! large answers would keep hints waiting.

use std::{collections::HashSet, sync::Arc, time::Duration};

use coord_core::{Error, ErrorKind, Result};
use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::sync::Notify;

use crate::{
    client::Shared,
    error::{During, from_redis},
    keys::Channel,
    link,
    wakeups::{Hub, Note},
};

/// How long to wait before connecting again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// The connection, subscribed to this client's own channel.
pub(crate) struct Ears {
    connection: MultiplexedConnection,
    lost: Arc<Notify>,
    subscribed: HashSet<Channel>,
}

impl Ears {
    pub(crate) async fn open(shared: &Shared) -> Result<Self> {
        let lost = Arc::new(Notify::new());
        let (hub, own, notify) =
            (Arc::clone(&shared.hub), shared.channel.as_str().to_owned(), Arc::clone(&lost));
        // Called where the answer is read, so that a hint costs no step between tasks.
        let heard = move |push: PushInfo| hear(&hub, &own, &notify, push);
        let mut connection = link::connect(&shared.client, &shared.config, Some(heard)).await?;
        let subscribed = connection.subscribe(shared.channel.as_str()).await;
        subscribed.map_err(|error| from_redis(&shared.config, During::Connecting, error))?;
        Ok(Self { connection, lost, subscribed: HashSet::new() })
    }

    /// Keeps the server's subscriptions as those here want them, until the connection is lost.
    async fn attend(&mut self, shared: &Shared) {
        loop {
            if let Err(error) = self.adapt(&shared.hub).await {
                let error = from_redis(&shared.config, During::Connecting, error);
                tracing::debug!(%error, "the subscriptions could not be changed");
                if error.kind() != ErrorKind::Permission {
                    return;
                }
            }
            tokio::select! {
                () = self.lost.notified() => return,
                () = shared.hub.channels_changed.notified() => {}
            }
        }
    }

    async fn adapt(&mut self, hub: &Hub) -> redis::RedisResult<()> {
        let wanted: HashSet<_> = hub.channels().into_iter().collect();
        let new: Vec<_> = wanted.difference(&self.subscribed).map(Channel::as_str).collect();
        let old: Vec<_> = self.subscribed.difference(&wanted).map(Channel::as_str).collect();
        if !old.is_empty() {
            self.connection.unsubscribe(old).await?;
        }
        if !new.is_empty() {
            self.connection.subscribe(new).await?;
        }
        // What changed before the server knew of the subscription was not told.
        let new: Vec<_> = wanted.difference(&self.subscribed).cloned().collect();
        self.subscribed = wanted;
        new.into_iter().for_each(|channel| hub.hint(&Note::Channel(channel)));
        Ok(())
    }
}

/// Passes on what the server said.
fn hear(hub: &Hub, own: &str, lost: &Notify, push: PushInfo) {
    match push.kind {
        PushKind::Message => {
            let mut data = push.data.into_iter();
            let (Some(Value::BulkString(channel)), Some(Value::BulkString(text))) =
                (data.next(), data.next())
            else {
                return;
            };
            if channel == own.as_bytes() {
                hub.hint_claims(&text);
            } else if let Ok(channel) = String::from_utf8(channel) {
                hub.tell(&Channel::from(channel), &text);
            }
        }
        PushKind::Disconnection => lost.notify_one(),
        _ => {}
    }
}

/// Listens for as long as the store lives.
pub(crate) async fn listen(shared: Arc<Shared>, first: Ears) {
    let (mut ears, mut pause) = (first, PAUSES.0);
    loop {
        ears.attend(&shared).await;
        ears = loop {
            match Ears::open(&shared).await {
                Ok(ears) => break ears,
                Err(error) => wait(&error, &mut pause).await,
            }
        };
        pause = PAUSES.0;
        // Whatever happened meanwhile was not heard: those who wait look, and those who hold find out whether they still do.
        shared.hub.hint_all();
    }
}

async fn wait(error: &Error, pause: &mut Duration) {
    tracing::debug!(%error, "no connection for hints");
    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    *pause = (*pause * 2).min(PAUSES.1);
}
