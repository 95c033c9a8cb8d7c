//! The line of claims: what `coord_core::spi::Claims` says, in transactions. Nothing here knows which database it is.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use coord_core::{
    Error, ErrorKind, Guarantees, Result,
    spi::{Claim, ClaimId, Claims, Grant, HandOver, Line, LineId, Renewal, Standing, Wakeups},
};

use crate::{
    answers::{Look, no_counters, read_line, row, rows, stored},
    client::{Store, wall_micros},
    dialect::{Purpose, Session, Statements, Value},
    keys::LineKey,
    news::News,
    wakeups::Note,
};

/// How many expired claims of other lines one transaction removes, so that what crashed clients left does not pile up.
const BOUND: Value<'_> = Value::Integer(64);

#[async_trait]
impl Claims for Store {
    fn guarantees(&self) -> Guarantees {
        self.shared.dialect.guarantees()
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let line = LineKey::of(&claim.line);
        // A claim that waits has its token; to look again it needs no wait for the disk.
        let mut purpose = match self.shared.note_waiting(claim.id, false) {
            true => Purpose::Leases,
            false => Purpose::Tokens,
        };
        loop {
            let mut news = News::of(&self.shared, &line);
            let mut session = self.write(purpose).await?;
            let now = session.now();
            let arguments =
                [line.value(), now.into(), BOUND, claim.id.as_bytes().into(), claim.priority.into()];
            let answers = session.run(self.statements().look, &arguments).await?;
            news.purged(rows(&answers, 0))?;
            let look = Look::read(row(&answers, 2).ok_or_else(no_counters)?)?;

            let granted = look.granted || fits(look.weight, claim.weight, claim.limit);
            if !granted && !claim.wait {
                return self.refuse(session, news, &look, claim.id).await;
            }
            if look.own.is_none() && purpose == Purpose::Leases {
                // Its lease has ended: it joins again and gets another token.
                session.abandon().await;
                purpose = Purpose::Tokens;
                continue;
            }
            let ttl = ttl_ms(claim.ttl);
            let wall = wall_micros() / 1_000;
            let place = Place { now, wall, ttl, granted_at: granted.then_some(wall) };
            let token = match look.own {
                Some(token) => {
                    self.rearm(session, news, claim.id, &place, granted && !look.granted).await?;
                    token
                }
                None => self.join(session, news, claim, &place, look.overtaken).await?,
            };
            if granted {
                let (line, token) = (claim.line.clone(), stored(token)?);
                let ttl = Duration::from_millis(ttl.unsigned_abs());
                return Ok(Standing::Granted(Grant { line, id: claim.id, token, ttl }));
            }
            self.shared.note_waiting(claim.id, true);
            let look_again_in = look.look_again_in(now, claim.ttl).min(self.shared.patience());
            return Ok(Standing::Waiting { ahead: look.ahead, look_again_in });
        }
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        if grants.is_empty() {
            return Ok(Vec::new());
        }
        let asked = json(grants)?;
        let session = self.write(Purpose::Leases).await?;
        let now = session.now();
        let arguments = [asked.as_str().into(), now.into(), start(now).into()];
        let answers = session.finish(self.statements().renew, &arguments).await?;
        let renewed = rows(&answers, 0).iter().map(|row| row.id(0)).collect::<Result<HashSet<_>>>();
        let renewed = renewed.map_err(Error::with_unknown_effect)?;
        let renewal = |grant: &Grant| match renewed.contains(grant.id.as_bytes()) {
            true => Renewal::Renewed,
            false => Renewal::Lost,
        };
        Ok(grants.iter().map(renewal).collect())
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        let line = LineKey::of(&grant.line);
        let mut news = News::of(&self.shared, &line);
        let session = self.write(Purpose::Leases).await?;
        let (id, token) = (grant.id.as_bytes(), grant.token.as_i64());
        let arguments = [line.value(), session.now().into(), BOUND, id.into(), token.into(), value.into()];
        let answers = session.finish(self.statements().set_value, &arguments).await?;
        let held = row(&answers, 2).is_some();
        news.changed |= held;
        news.purged(rows(&answers, 0)).map_err(Error::with_unknown_effect)?;
        news.tell(rows(&answers, 4));
        Ok(if held { Renewal::StillHeld } else { Renewal::Lost })
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        let line = LineKey::of(line);
        self.shared.note_waiting(id, false);
        let session = self.write(Purpose::Leases).await?;
        self.leave(session, News::of(&self.shared, &line), id).await
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        let line = LineKey::of(&from.line);
        let mut news = News::of(&self.shared, &line);
        let mut session = self.write(Purpose::Tokens).await?;
        let (id, token) = (from.id.as_bytes(), from.token.as_i64());
        let arguments =
            [line.value(), session.now().into(), BOUND, id.into(), token.into(), to.as_bytes().into()];
        let answers = session.run(self.statements().candidate, &arguments).await?;
        news.purged(rows(&answers, 0))?;
        if row(&answers, 2).is_none() {
            self.settle(session, news).await?;
            return Ok(HandOver::Lost);
        }
        let candidate = match row(&answers, 3) {
            Some(row) if row.optional(1)?.is_none() => row,
            _ => {
                self.settle(session, news).await?;
                return Ok(HandOver::NotFound);
            }
        };
        let (place, ahead) = (candidate.integer(0)?, candidate.integer(2)?);
        let arguments = [line.value(), id.into(), place.into(), ahead.into(), floor().into()];
        let answers = session.finish(self.statements().hand_over, &arguments).await?;
        news.left(id, row(&answers, 0)).map_err(Error::with_unknown_effect)?;
        news.tell(rows(&answers, 3));
        Ok(HandOver::Done)
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let line = LineKey::of(&from.line);
        let mut news = News::of(&self.shared, &line);
        let session = self.write(Purpose::Leases).await?;
        let (now, ttl) = (session.now(), ttl_ms(from.ttl));
        let arguments = [
            line.value(),
            now.into(),
            BOUND,
            from.id.as_bytes().into(),
            from.token.as_i64().into(),
            to.as_bytes().into(),
            (&self.shared.client).into(),
            ttl.into(),
            (start(now) + ttl).into(),
        ];
        let answers = session.finish(self.statements().adopt, &arguments).await?;
        news.purged(rows(&answers, 0)).map_err(Error::with_unknown_effect)?;
        let before = row(&answers, 2);
        if let Some(row) = before {
            news.changed = true;
            // Sent again after a lost reply, it found its own new id; nobody else needs to know.
            let (id, client) = (row.id(0), row.id(1));
            if let (Ok(id), Ok(client)) = (id, client)
                && id != *to.as_bytes()
            {
                news.notes.insert((client, Note::Claim(id)));
            }
        }
        news.tell(rows(&answers, 5));
        Ok(if before.is_some() { Renewal::Renewed } else { Renewal::Lost })
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        let line = LineKey::of(line);
        self.shared.follow();
        let mut session = self.shared.dialect.read().await?;
        let answers = session.run(self.statements().line, &[line.value()]).await?;
        let (found, expired) = read_line(rows(&answers, 0), session.now())?;
        drop(session);
        if !expired {
            return Ok(found);
        }
        // A claim that is left out without a change of the revision would make two different answers look the same.
        let mut news = News::of(&self.shared, &line);
        let session = self.write(Purpose::Leases).await?;
        let now = session.now();
        let answers = session.finish(self.statements().purge, &[line.value(), now.into(), BOUND]).await?;
        news.purged(rows(&answers, 0)).map_err(Error::with_unknown_effect)?;
        news.tell(rows(&answers, 3));
        read_line(rows(&answers, 2), now).map(|(line, _)| line)
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        match id {
            Some(id) => self.shared.hub.claim(id),
            None => self.shared.hub.line(LineKey::of(line)),
        }
    }

    async fn close(&self) -> Result<()> {
        self.end().await;
        Ok(())
    }
}

/// How a claim stands in its line from now on.
struct Place {
    now: i64,
    /// For people: read once, so that nothing is granted before it joined.
    wall: i64,
    ttl: i64,
    granted_at: Option<i64>,
}

impl Store {
    pub(crate) fn statements(&self) -> &'static Statements {
        self.shared.dialect.statements()
    }

    pub(crate) async fn write(&self, purpose: Purpose) -> Result<Box<dyn Session>> {
        self.shared.follow();
        self.shared.dialect.write(purpose).await
    }

    /// Joins behind all claims but those that it overtakes, which join again behind it.
    async fn join(
        &self,
        session: Box<dyn Session>,
        mut news: News<'_>,
        claim: &Claim,
        place: &Place,
        overtaken: i64,
    ) -> Result<i64> {
        // Who stood behind one that is overtaken, and is not overtaken itself, may be eligible now.
        let left = i64::from(news.left || overtaken > 0);
        news.changed = true;
        let arguments = [
            news.line.value(),
            left.into(),
            1_i64.into(),
            overtaken.into(),
            floor().into(),
            claim.id.as_bytes().into(),
            (&self.shared.client).into(),
            claim.weight.into(),
            claim.limit.into(),
            claim.priority.into(),
            place.ttl.into(),
            (start(place.now) + place.ttl).into(),
            place.granted_at.into(),
            place.wall.into(),
            claim.owner.as_str().into(),
            claim.value.as_slice().into(),
        ];
        let answers = session.finish(self.statements().join, &arguments).await?;
        news.tell(rows(&answers, 3));
        let token = row(&answers, 2).ok_or_else(no_counters).and_then(|row| row.integer(0));
        token.map_err(Error::with_unknown_effect)
    }

    /// Prolongs a claim that is in its line.
    async fn rearm(
        &self,
        session: Box<dyn Session>,
        mut news: News<'_>,
        id: ClaimId,
        place: &Place,
        granting: bool,
    ) -> Result<()> {
        news.changed |= granting;
        let arguments = [
            news.line.value(),
            i64::from(news.left).into(),
            i64::from(news.changed).into(),
            i64::from(granting).into(),
            id.as_bytes().into(),
            (&self.shared.client).into(),
            place.ttl.into(),
            (start(place.now) + place.ttl).into(),
            place.granted_at.into(),
        ];
        let answers = session.finish(self.statements().rearm, &arguments).await?;
        news.tell(rows(&answers, 2));
        Ok(())
    }

    /// Leaves no trace of a claim that is not granted and does not wait.
    async fn refuse(
        &self,
        session: Box<dyn Session>,
        news: News<'_>,
        look: &Look,
        id: ClaimId,
    ) -> Result<Standing> {
        if look.own.is_some() {
            self.leave(session, news, id).await?;
        } else {
            self.settle(session, news).await?;
        }
        Ok(Standing::Refused(look.first.clone()))
    }

    /// Takes a claim out of its line.
    async fn leave(&self, session: Box<dyn Session>, mut news: News<'_>, id: ClaimId) -> Result<()> {
        let arguments = [news.line.value(), session.now().into(), BOUND, id.as_bytes().into()];
        let answers = session.finish(self.statements().leave, &arguments).await?;
        let told = news.purged(rows(&answers, 0)).and_then(|()| news.left(id.as_bytes(), row(&answers, 2)));
        told.map_err(Error::with_unknown_effect)?;
        news.tell(rows(&answers, 4));
        Ok(())
    }

    /// Keeps what was purged, if anything was.
    async fn settle(&self, session: Box<dyn Session>, news: News<'_>) -> Result<()> {
        if !news.changed && news.others.is_empty() {
            session.abandon().await;
            return Ok(());
        }
        let flag = i64::from(news.changed);
        let answers =
            session.finish(self.statements().settle, &[news.line.value(), flag.into(), flag.into()]).await?;
        news.tell(rows(&answers, 0));
        Ok(())
    }
}

/// The least token that may be given out now, so that tokens go on growing in a new file.
pub(crate) fn floor() -> i64 {
    let wall = wall_micros();
    // A wall clock that reads a date beyond 2112 is wrong, and would use up the tokens.
    if wall < 1 << 52 { wall } else { 0 }
}

/// Whether a claim fits beside the weight ahead of it.
fn fits(ahead: i64, weight: u32, limit: u32) -> bool {
    ahead.unsigned_abs() + u64::from(weight) <= u64::from(limit)
}

/// From when a lease that is armed now counts: the whole millisecond after now, so that it is never short.
pub(crate) fn start(now: i64) -> i64 {
    now + 1
}

pub(crate) fn ttl_ms(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX / 2)
}

/// `[[id, token, ttl], …]`, for one statement that renews them all.
fn json(grants: &[Grant]) -> Result<String> {
    use std::fmt::Write;

    let mut text = String::with_capacity(grants.len() * 72);
    for grant in grants {
        let separator = if text.is_empty() { '[' } else { ',' };
        let id = uuid::Uuid::from_bytes(*grant.id.as_bytes()).simple();
        write!(text, "{separator}[\"{id}\",{},{}]", grant.token, ttl_ms(grant.ttl)).map_err(|error| {
            Error::new(ErrorKind::Internal, "a grant could not be written").with_source(error)
        })?;
    }
    text.push(']');
    Ok(text)
}
