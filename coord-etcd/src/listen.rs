//! The stream of watches: the task that opens them, passes on what they tell, and opens them again when the stream ends.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use coord_core::clock::{Clock, Moment};
use etcd_client::{EventType, WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse};
use futures_util::StreamExt;

use crate::{
    client::Shared,
    link::Link,
    wakeups::{Of, Topic},
};

/// How long the server may tell nothing before it is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(1);

/// How long it may then take.
const SILENCE: Duration = Duration::from_millis(1500);

/// How long opening a stream may take.
const TO_OPEN: Duration = Duration::from_secs(3);

/// How often watches that nobody waits for are looked for.
const TIDY: Duration = Duration::from_secs(2);

/// The longest pause before the stream is opened again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How many topics are remembered that the server refused.
const REMEMBERED: usize = 1_000;

/// Listens until the client is closed.
pub(crate) async fn listen(shared: Arc<Shared>) {
    let (mut failures, mut refused) = (0_u32, HashSet::new());
    while !shared.is_closed() {
        if !shared.hub.is_wanted() {
            shared.hub.topics_changed.notified().await;
            continue;
        }
        match shared.links.link(&shared.config).await {
            Err(error) => {
                failures += 1;
                tracing::debug!(%error, "no watch can be opened");
            }
            Ok(link) => {
                let topics = shared.hub.to_open();
                if topics.is_empty() {
                    // What is wanted was refused, and is not yet to be asked for again.
                    tokio::select! {
                        () = shared.hub.topics_changed.notified() => {}
                        () = tokio::time::sleep(TIDY) => {}
                    }
                    continue;
                }
                let mut heard = false;
                match follow(&shared, &link, topics, &mut refused, &mut heard).await {
                    Ok(()) => failures = 0,
                    Err(why) => {
                        failures = if heard { 0 } else { failures + 1 };
                        tracing::debug!(%why, "the stream of watches ended; it is opened again");
                        shared.links.failed(&link);
                    }
                }
                shared.hub.disconnected();
            }
        }
        if failures > 0 {
            let pause = Duration::from_millis(100) * 2_u32.pow(failures.min(5) - 1);
            tokio::time::sleep(pause.min(LONGEST_PAUSE).mul_f64(0.75 + fastrand::f64() / 2.0)).await;
        }
    }
}

/// The watches of one stream.
struct Stream<'a> {
    sender: WatchRequestSender,
    topics: HashMap<i64, Topic>,
    next: i64,
    /// Those that were asked for, in their order, and not answered yet. A refusal does not say what it refuses.
    asked: VecDeque<i64>,
    /// Watches up to this one were asked for when the stream was opened.
    first: i64,
    /// The topics that were refused on a stream that had just been opened.
    refused: &'a mut HashSet<Topic>,
}

/// Follows one stream to its end. `Ok`: nobody waits for anything any more.
async fn follow(
    shared: &Shared,
    link: &Link,
    topics: Vec<Topic>,
    refused: &mut HashSet<Topic>,
    heard: &mut bool,
) -> Result<(), String> {
    let mut first = topics.into_iter();
    let Some(topic) = first.next() else { return Ok(()) };
    let opening = link.watch.clone();
    let opened = async move {
        let mut opening = opening;
        opening.watch(topic.prefix.clone(), Some(options(&topic, 1))).await.map(|stream| (topic, stream))
    };
    let opened = tokio::time::timeout(TO_OPEN, opened).await.map_err(|_| "it did not open in time")?;
    let (topic, stream) = opened.map_err(|error| error.to_string())?;
    let (sender, mut responses) = stream.split();
    let topics = HashMap::from([(1, topic)]);
    let mut stream = Stream { sender, topics, next: 1, asked: VecDeque::from([1]), first: 1, refused };
    for topic in first {
        stream.open(topic).await?;
    }
    stream.first = stream.next;
    let (mut asked, mut patience) = (false, from_now(QUIET));
    let mut tidy = tokio::time::interval(TIDY);
    loop {
        tokio::select! {
            response = tokio::time::timeout(patience.since(Clock::System.now()), responses.next()) => match response {
                Err(_) if asked => return Err("the server is silent".into()),
                Err(_) => {
                    (asked, patience) = (true, from_now(SILENCE));
                    within(stream.sender.request_progress()).await?;
                }
                Ok(None) => return Err("the server ended it".into()),
                Ok(Some(Err(error))) => return Err(error.to_string()),
                Ok(Some(Ok(response))) => {
                    (asked, patience) = (false, from_now(QUIET));
                    *heard = true;
                    stream.hear(shared, &response)?;
                }
            },
            () = shared.hub.topics_changed.notified() => {}
            // The member that this stream comes from may be the one that failed.
            () = shared.links.changed.notified(), if shared.links.count() > 1 => {
                if !shared.links.uses(link.at) {
                    return Err("another member is used".into());
                }
            }
            _ = tidy.tick() => {
                for topic in shared.hub.to_close() {
                    stream.close(&topic).await?;
                }
                if stream.topics.is_empty() && !shared.hub.is_wanted() {
                    return Ok(());
                }
            }
        }
        for topic in shared.hub.to_open() {
            stream.open(topic).await?;
        }
    }
}

impl Stream<'_> {
    async fn open(&mut self, topic: Topic) -> Result<(), String> {
        self.next += 1;
        let id = self.next;
        within(self.sender.watch(topic.prefix.clone(), Some(options(&topic, id)))).await?;
        self.topics.insert(id, topic);
        self.asked.push_back(id);
        Ok(())
    }

    async fn close(&mut self, topic: &Topic) -> Result<(), String> {
        let found = self.topics.iter().find(|(_, open)| *open == topic).map(|(id, _)| *id);
        let Some(id) = found else { return Ok(()) };
        self.topics.remove(&id);
        within(self.sender.cancel(id)).await
    }

    fn hear(&mut self, shared: &Shared, response: &WatchResponse) -> Result<(), String> {
        // Watches are answered in the order in which they were asked for.
        let asked = if response.created() { self.asked.pop_front() } else { None };
        if response.canceled() && response.created() {
            return self.refuse(shared, asked.unwrap_or_default(), response.cancel_reason());
        }
        let id = response.watch_id();
        let Some(topic) = self.topics.get(&id) else { return Ok(()) };
        if response.canceled() {
            tracing::warn!(reason = response.cancel_reason(), "the server ended a watch");
            shared.hub.ended(topic, false);
            self.topics.remove(&id);
            return Ok(());
        }
        if response.created() {
            let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
            shared.hub.opened(topic, revision);
            self.refused.remove(topic);
            return Ok(());
        }
        let (mut written, mut deleted) = (Vec::new(), Vec::new());
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            match event.event_type() {
                EventType::Put => written.push(kv.key()),
                EventType::Delete => deleted.push((kv.key(), kv.mod_revision())),
            }
        }
        if !response.events().is_empty() {
            shared.hub.tell(topic, &written, &deleted);
        }
        Ok(())
    }

    /// A watch was refused: because this user may not have it, or because the login of the stream is too old, which not all versions
    /// tell apart. So it is asked for once more on a new stream, which logs in anew.
    fn refuse(&mut self, shared: &Shared, id: i64, reason: &str) -> Result<(), String> {
        let Some(topic) = self.topics.remove(&id) else { return Ok(()) };
        if id > self.first && !self.refused.contains(&topic) {
            return Err(format!("a watch was refused: {reason}"));
        }
        shared.hub.ended(&topic, true);
        if self.refused.len() >= REMEMBERED {
            self.refused.clear();
        }
        if self.refused.insert(topic) {
            tracing::warn!(reason, "the server refuses a watch; who waits for it looks by itself");
        }
        Ok(())
    }
}

fn from_now(length: Duration) -> Moment {
    Clock::System.now().after(length)
}

fn options(topic: &Topic, id: i64) -> WatchOptions {
    let options = WatchOptions::new().with_prefix().with_watch_id(id).with_fragment();
    match topic.of {
        Of::All => options,
        Of::Puts => options.with_filters([WatchFilterType::NoDelete]),
        Of::Deletes | Of::Lapses => options.with_filters([WatchFilterType::NoPut]),
    }
}

/// Sends something on the stream, which a server that reads nothing may block.
async fn within(sending: impl Future<Output = Result<(), etcd_client::Error>>) -> Result<(), String> {
    match tokio::time::timeout(SILENCE, sending).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err("the server takes nothing".into()),
    }
}
