//! Words about deliveries: done, not done, given back.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use coord_core::{
    FencingToken, Result,
    clock::Clock,
    spi::jobs::{ItemId, Settled, Settlement, Word},
};
use tracing::debug;

use super::{
    Held,
    place::{Marker, Place},
    proof,
    receive::bury,
    room::{Line, Room, graves, number},
};
use crate::{
    batch::{Batch, Conflict, Pause, STEP},
    client::Shared,
    error::{Failure, misread, partly},
    forget,
    session::{Look, Mode, Seen, Session, Stat},
};

/// How long items that are gone are remembered, by the store's clock: longer than is promised, as clocks of servers differ.
const MEMORY: Duration = Duration::from_secs(660);
/// Every so many items somebody forgets what is old.
const EVERY: u64 = 32;
/// How many words go into one request.
const PART: usize = 100;

/// What is known of the items that words are about.
#[derive(Default)]
struct View {
    held: HashMap<ItemId, (Place, Option<Marker>)>,
    /// Of those that were acknowledged or dropped, the token.
    gone: HashMap<ItemId, u64>,
    dead: HashMap<ItemId, Option<FencingToken>>,
}

impl View {
    /// What this client knows by itself, if that is all of it.
    fn remembered(shared: &Shared, room: &Room, said: &[Settlement]) -> Option<Self> {
        let mut view = Self::default();
        for said in said {
            let held = shared.jobs.held(room, said.id).filter(|held| held.marker.token == said.token)?;
            view.held.insert(said.id, (held.place, Some(held.marker)));
        }
        Some(view)
    }

    async fn read(session: &Session, room: &Room, said: &[Settlement]) -> Result<Self> {
        let (line, dead) = (room.line(), room.dead());
        let gone: Vec<_> = said.iter().map(|said| room.gone(said.id)).collect();
        let mut looks = vec![Look::Children(&line), Look::Children(&dead)];
        looks.extend(gone.iter().map(|path| Look::Data(path)));
        let seen = session.read_fresh(room.root(), &looks).await?;
        let [Seen::Children(line), Seen::Children(dead), gone @ ..] = &seen[..] else {
            return Ok(Self::default());
        };
        let mut view = Self::default();
        let line = Line::parse(line);
        for place in line.places() {
            view.held.insert(place.id, (place.clone(), line.lease(place).cloned()));
        }
        view.dead = graves(dead).into_iter().map(|(grave, _)| (grave.id, grave.token)).collect();
        for (said, seen) in said.iter().zip(gone) {
            if let Seen::Data(token, _) = seen {
                view.gone.insert(said.id, number(token)?);
            }
        }
        Ok(view)
    }

    /// What a word comes to without anything being done; or the delivery that it is about.
    fn judge(&self, said: &Settlement) -> Result<(&Place, &Marker), Settled> {
        let again = match self.held.get(&said.id) {
            Some((place, Some(marker))) if marker.token == said.token => return Ok((place, marker)),
            Some((place, _)) => {
                matches!(said.word, Word::Nack { .. } | Word::Return) && place.returned == Some(said.token)
            }
            None => match said.word {
                Word::Ack => self.gone.get(&said.id) == Some(&said.token.get()),
                Word::Nack { .. } => self.dead.get(&said.id) == Some(&Some(said.token)),
                _ => false,
            },
        };
        Err(if again { Settled::Done } else { Settled::Stale })
    }
}

/// Settles deliveries; not extensions.
pub(super) async fn settle(
    shared: &Arc<Shared>,
    session: &Session,
    room: &Room,
    said: &[Settlement],
) -> Result<Vec<Settled>> {
    let mut answers = Vec::with_capacity(said.len());
    let mut rest = said;
    while !rest.is_empty() {
        // No item twice in one request.
        let mut ids = HashSet::new();
        let step = 4 * (STEP + room.root().len() + 128);
        let most = PART.min((shared.config.max_packet() / step).max(1));
        let count = rest.iter().take(most).take_while(|said| ids.insert(said.id)).count();
        let (some, later) = rest.split_at(count);
        rest = later;
        answers.extend(some_of(shared, session, room, some).await.map_err(partly(!answers.is_empty()))?);
    }
    Ok(answers)
}

async fn some_of(
    shared: &Arc<Shared>,
    session: &Session,
    room: &Room,
    said: &[Settlement],
) -> Result<Vec<Settled>> {
    let mut remembered = View::remembered(shared, room, said);
    let mut pause = Pause::default();
    loop {
        let view = match remembered.take() {
            Some(view) => view,
            None => View::read(session, room, said).await?,
        };
        let waits = |said: &Settlement| matches!(said.word, Word::Nack { delay, .. } if !delay.is_zero());
        let now = if said.iter().any(waits) {
            shared.jobs.time.now(session, &room.clock()).await?.latest
        } else {
            0
        };
        let (mut batch, mut answers, mut settled) = (Batch::default(), Vec::new(), Vec::new());
        for said in said {
            answers.push(match view.judge(said) {
                Ok((place, marker)) => {
                    act(&mut batch, room, said, place, marker, now);
                    settled.push((place, marker));
                    Settled::Done
                }
                Err(answer) => answer,
            });
        }
        if batch.is_empty() {
            return Ok(answers);
        }
        match batch.send(session).await? {
            Ok(_) => {
                for (place, marker) in settled {
                    shared.leases.forget(&room.marker(marker));
                    shared.jobs.drop(room, place.id, marker.token);
                }
                tidy(session, room, said, &view).await;
                return Ok(answers);
            }
            Err(Conflict::NoFolder(folder)) => room.make_bucket(session, &folder).await?,
            Err(Conflict::Changed) => {}
        }
        pause.rest().await;
    }
}

/// What a word does.
fn act(batch: &mut Batch, room: &Room, said: &Settlement, place: &Place, marker: &Marker, now: u64) {
    // Whoever removes the lease has the word: it is there as long as this is the item's present delivery.
    batch.delete(room.marker(marker), None);
    let mut back = Place { returned: Some(said.token), delivered: false, ..place.clone() };
    match said.word {
        Word::Ack => {
            batch.create(room.gone(said.id), said.token.get().to_be_bytes().to_vec(), Mode::Persistent);
            batch.delete(room.place(place), None);
            batch.delete(room.item(said.id), None);
            return;
        }
        Word::Nack { max_attempts, .. } if place.is_spent(max_attempts) => {
            bury(batch, room, place, Some(said.token));
            return;
        }
        Word::Nack { delay, .. } => back.ready = super::after(now, delay),
        Word::Return => back.attempts = back.attempts.saturating_sub(1),
        Word::Extend(_) => return,
    }
    batch.delete(room.place(place), None);
    batch.create(room.place(&back), Vec::new(), Mode::Persistent);
}

/// In which folder it is time to forget items that are long gone, after these words: whoever acknowledges one of so many does
/// it, and, where few are acknowledged, those who have done so for a while.
fn overdue(session: &Session, room: &Room, said: &[Settlement], view: &View) -> Option<String> {
    let mut acks = said.iter().filter(|said| said.word == Word::Ack).peekable();
    acks.peek()?;
    if let Some(digit) = session.looked().turn(room.root(), Room::BUCKETS, MEMORY, Clock::System.now()) {
        return Some(room.bucket_of(digit));
    }
    let order = |said: &Settlement| view.held.get(&said.id).map(|(place, _)| place.order);
    let said = acks.find(|said| order(said).is_some_and(|order| order % EVERY == EVERY - 1))?;
    Some(room.bucket(said.id))
}

/// Forgets items that are long gone, where it is time. That may fail: the words are said.
async fn tidy(session: &Session, room: &Room, said: &[Settlement], view: &View) {
    let Some(bucket) = overdue(session, room, said, view) else { return };
    if !session.looked().is_time(&bucket, MEMORY, Clock::System.now()) {
        return;
    }
    let forgetting = async {
        let now = u128::from(session.set(&room.clock(), b"", None).await?.mtime.cast_unsigned());
        let old = |stat: &Stat| u128::from(stat.mtime.cast_unsigned()) + MEMORY.as_millis() < now;
        forget::old(session, &bucket, old).await
    };
    if let Err(error) = forgetting.await {
        debug!(%error, "items that are gone are left for the next one to forget");
    }
}

/// Prolongs deliveries: those of a session by one request.
pub(super) async fn extend(shared: &Arc<Shared>, room: &Room, said: &[Settlement]) -> Result<Vec<Settled>> {
    let mut answers = vec![Settled::Stale; said.len()];
    let (mut asked, mut moved) = (HashMap::<i64, (Arc<Session>, Vec<Asked>)>::new(), Vec::new());
    for (at, said) in said.iter().enumerate() {
        let Word::Extend(visibility) = said.word else { continue };
        let held = shared.jobs.held(room, said.id).filter(|held| held.marker.token == said.token);
        let Some(Held { marker, .. }) = held else {
            moved.push((at, visibility));
            continue;
        };
        let (stem, now) = (room.marker(&marker), Clock::System.now());
        // Before the request is sent, so that the sweep does not take meanwhile what is about to be found.
        let Some(lease) = shared.leases.get(&stem, now) else { continue };
        if !shared.leases.prolong(&stem, now.after(visibility), now) {
            continue;
        }
        if lease.moving.is_some() || shared.lease(&lease.session) < visibility {
            moved.push((at, visibility));
        } else {
            let of_session = asked.entry(lease.session.id()).or_insert((lease.session, Vec::new()));
            of_session.1.push(Asked { at, stem, visibility });
        }
    }
    let mut done = false;
    for (session, asked) in asked.into_values() {
        for (asked, kept) in asked.iter().zip(prove(shared, &session, &asked).await.map_err(partly(done))?) {
            if kept {
                answers[asked.at] = Settled::Done;
            }
        }
        done = true;
    }
    for (at, visibility) in moved {
        answers[at] = relocate(shared, room, &said[at], visibility).await.map_err(partly(done))?;
        done = true;
    }
    Ok(answers)
}

/// A delivery that is to be prolonged by its session.
struct Asked {
    at: usize,
    stem: String,
    visibility: Duration,
}

/// Whether the leases are there by the word of the leader, and kept from now on. Their names hold their tokens, so one that is
/// there is the present delivery's.
async fn prove(shared: &Shared, session: &Session, asked: &[Asked]) -> Result<Vec<bool>> {
    let paths: Vec<_> = asked.iter().map(|asked| asked.stem.as_str()).collect();
    session.steady().await;
    let sent = Clock::System.now();
    let there = match proof::there(session, &paths, shared.config.max_packet()).await {
        Ok(there) => there,
        Err(Failure::Ended(_)) => vec![false; paths.len()],
        Err(failure) => return Err(failure.into()),
    };
    let kept = asked.iter().zip(there).map(|(Asked { stem, visibility, .. }, there)| {
        if !there {
            shared.leases.forget(stem);
        }
        there && shared.leases.prolong(stem, sent.after(*visibility), Clock::System.now())
    });
    Ok(kept.collect())
}

/// The length of sessions for extensions of any length: the next power of two in seconds, so that there are few.
fn coarse(shared: &Shared, visibility: Duration) -> Duration {
    let rounded = Duration::from_secs(visibility.as_secs().saturating_add(1).next_power_of_two());
    let (_, longest) = shared.ttls();
    rounded.min(longest).max(visibility)
}

/// Gives a delivery a lease by another session, which is kept for long enough.
async fn relocate(
    shared: &Arc<Shared>,
    room: &Room,
    said: &Settlement,
    visibility: Duration,
) -> Result<Settled> {
    let session = shared.session_for(coarse(shared, visibility)).await?;
    let known = shared.jobs.held(room, said.id).filter(|held| held.marker.token == said.token);
    let held = match known {
        Some(held) => held,
        None => {
            let view = View::read(&session, room, std::slice::from_ref(said)).await?;
            match view.judge(said) {
                Ok((place, marker)) => Held { place: place.clone(), marker: marker.clone() },
                Err(answer) => return Ok(answer),
            }
        }
    };
    let stem = room.marker(&held.marker);
    let now = Clock::System.now();
    let until = now.after(visibility);
    let lease = shared.leases.get(&stem, now);
    match &lease {
        // The sweep removes what it has found to be over, whoever has it then.
        Some(_) if !shared.leases.prolong(&stem, until, now) => return Ok(Settled::Stale),
        // Whichever of the two has it at last: either one's lease, and the sweep's to find.
        Some(_) => shared.leases.moving(&stem, &session),
        None => shared.leases.begin(&stem, &session, until),
    }
    let mut batch = Batch::default();
    batch.delete(stem.clone(), None);
    batch.create(stem.clone(), Vec::new(), Mode::Ephemeral);
    // Unknown or not, the lease stays, to be moved again or to be swept in its time.
    match batch.send(&session).await? {
        Ok(_) => {
            shared.leases.moved(&stem, &session);
            shared.leases.made(&stem, &stem, 0);
            shared.jobs.keep(room, held, &shared.leases);
            // It ended meanwhile if its earlier session did.
            let kept = shared.leases.prolong(&stem, until, Clock::System.now());
            Ok(if kept { Settled::Done } else { Settled::Stale })
        }
        Err(Conflict::Changed) => {
            shared.leases.forget(&stem);
            Ok(Settled::Stale)
        }
        Err(Conflict::NoFolder(_)) => Err(misread("the folder of a queue")),
    }
}
