//! The store of claims: what [`coord_core::spi::Claims`] says, one function of the server a step.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use coord_core::{
    ClockAssumption, Durability, Error, Features, Guarantees, Result, Scope,
    spi::{Claim, ClaimId, Claims, Entry, Grant, HandOver, Holder, Line, LineId, Renewal, Standing, Wakeups},
};
use sqlx::{postgres::PgRow, query};

use super::client::{PostgresStore, Shared};
use crate::{
    answers::{stored, wall},
    claims::ttl_ms,
    keys::LineKey,
};

/// The present time, the revision, and beside it every claim of the line, or alone.
const LINE: &str = "SELECT coord.milliseconds(), coord.revision(), c.token, c.id, c.weight, c.capacity, c.priority, \
     c.granted_at, c.joined_at, c.expires_at, c.ttl_ms, c.owner, c.value \
     FROM (SELECT) AS once LEFT JOIN coord.claims AS c ON c.line = $1 ORDER BY c.token";

fn milliseconds(number: i64) -> Duration {
    Duration::from_millis(number.max(0).unsigned_abs())
}

impl Shared {
    /// The line of these rows, and whether any claim in them has expired.
    fn line(&self, rows: &[PgRow]) -> Result<(Line, bool)> {
        let first = rows.first().ok_or_else(|| self.misread("a line has no revision"))?;
        let mut line = Line { revision: self.number(first, 1)?, entries: Vec::new() };
        let (now, mut expired): (i64, _) = (self.cell(first, 0)?, false);
        for row in rows {
            let Some(token) = self.cell::<Option<i64>>(row, 2)? else { continue };
            let left = self.cell::<i64>(row, 9)? - now;
            if left <= 0 {
                expired = true;
                continue;
            }
            line.entries.push(Entry {
                id: ClaimId::from_bytes(self.id(row, 3)?),
                token: stored(token)?,
                weight: self.number(row, 4)?,
                limit: self.number(row, 5)?,
                priority: self.cell(row, 6)?,
                granted: self.cell::<Option<i64>>(row, 7)?.map(wall),
                joined: wall(self.cell(row, 8)?),
                expires_in: milliseconds(left.min(self.cell(row, 10)?)),
                owner: self.cell(row, 11)?,
                value: self.cell(row, 12)?,
            });
        }
        Ok((line, expired))
    }

    /// An id of sixteen bytes.
    pub(super) fn id(&self, row: &PgRow, column: usize) -> Result<[u8; 16]> {
        let bytes: &[u8] = self.cell(row, column)?;
        bytes.try_into().map_err(|_| self.misread("an id is not of sixteen bytes"))
    }
}

#[async_trait]
impl Claims for PostgresStore {
    fn guarantees(&self) -> Guarantees {
        Guarantees::new("postgres")
            .with_scope(Scope::Network)
            .with_durability(Durability::Power)
            .with_clock(ClockAssumption::NoSteps)
            .with_features(Features::ALL)
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let (shared, key, ttl) = (&self.shared, LineKey::of(&claim.line), ttl_ms(claim.ttl));
        let step = || {
            query(
                "SELECT standing, token, ahead, look_again, first_token, first_owner \
                   FROM coord.claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(key.as_str().to_owned())
            .bind(claim.id.as_bytes().to_vec())
            .bind(shared.client.to_vec())
            .bind(i64::from(claim.weight))
            .bind(i64::from(claim.limit))
            .bind(claim.priority)
            .bind(ttl)
            .bind(claim.wait)
            .bind(claim.owner.clone())
            .bind(claim.value.clone())
        };
        let row = shared.ask_one(step).await?;
        let read = || match shared.cell::<i32>(&row, 0)? {
            2 => Ok(Standing::Granted(Grant {
                line: claim.line.clone(),
                id: claim.id,
                token: stored(shared.cell(&row, 1)?)?,
                ttl: milliseconds(ttl),
            })),
            1 => Ok(Standing::Waiting {
                ahead: shared.number(&row, 2)?,
                look_again_in: milliseconds(shared.cell(&row, 3)?),
            }),
            _ => Ok(Standing::Refused(match shared.cell::<Option<i64>>(&row, 4)? {
                None => None,
                Some(token) => Some(Holder { token: stored(token)?, owner: shared.cell(&row, 5)? }),
            })),
        };
        read().map_err(Error::with_unknown_effect)
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        if grants.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<_> = grants.iter().map(|grant| grant.id.as_bytes().to_vec()).collect();
        let tokens: Vec<_> = grants.iter().map(|grant| grant.token.as_i64()).collect();
        let ttls: Vec<_> = grants.iter().map(|grant| ttl_ms(grant.ttl)).collect();
        let step = || {
            query("SELECT * FROM coord.renew($1, $2, $3)")
                .bind(ids.clone())
                .bind(tokens.clone())
                .bind(ttls.clone())
        };
        let rows = self.shared.ask(step).await?;
        let renewed = rows.iter().map(|row| self.shared.id(row, 0)).collect::<Result<HashSet<_>>>();
        let renewed = renewed.map_err(Error::with_unknown_effect)?;
        let renewal = |grant: &Grant| match renewed.contains(grant.id.as_bytes()) {
            true => Renewal::Renewed,
            false => Renewal::Lost,
        };
        Ok(grants.iter().map(renewal).collect())
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        let key = LineKey::of(&grant.line);
        let step = || {
            query("SELECT coord.set_value($1, $2, $3, $4)")
                .bind(key.as_str().to_owned())
                .bind(grant.id.as_bytes().to_vec())
                .bind(grant.token.as_i64())
                .bind(value.to_vec())
        };
        let row = self.shared.ask_one(step).await?;
        let held: bool = self.shared.cell(&row, 0).map_err(Error::with_unknown_effect)?;
        Ok(if held { Renewal::StillHeld } else { Renewal::Lost })
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        let key = LineKey::of(line);
        let step = || {
            query("SELECT coord.withdraw($1, $2)").bind(key.as_str().to_owned()).bind(id.as_bytes().to_vec())
        };
        self.shared.ask(step).await.map(drop)
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        let key = LineKey::of(&from.line);
        let step = || {
            query("SELECT coord.hand_over($1, $2, $3, $4)")
                .bind(key.as_str().to_owned())
                .bind(from.id.as_bytes().to_vec())
                .bind(from.token.as_i64())
                .bind(to.as_bytes().to_vec())
        };
        let row = self.shared.ask_one(step).await?;
        Ok(match self.shared.cell::<i32>(&row, 0).map_err(Error::with_unknown_effect)? {
            0 => HandOver::Done,
            1 => HandOver::Lost,
            _ => HandOver::NotFound,
        })
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let (key, client) = (LineKey::of(&from.line), self.shared.client);
        let step = || {
            query("SELECT coord.adopt($1, $2, $3, $4, $5, $6)")
                .bind(key.as_str().to_owned())
                .bind(from.id.as_bytes().to_vec())
                .bind(from.token.as_i64())
                .bind(to.as_bytes().to_vec())
                .bind(client.to_vec())
                .bind(ttl_ms(from.ttl))
        };
        let row = self.shared.ask_one(step).await?;
        let held: bool = self.shared.cell(&row, 0).map_err(Error::with_unknown_effect)?;
        Ok(if held { Renewal::Renewed } else { Renewal::Lost })
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        let (shared, key) = (&self.shared, LineKey::of(line));
        let step = || query(LINE).bind(key.as_str().to_owned());
        let (found, expired) = shared.line(&shared.ask(step).await?)?;
        if !expired {
            return Ok(found);
        }
        // A claim that is left out without a change of the revision would make two different answers look the same.
        shared.ask(|| query("SELECT coord.sweep($1)").bind(key.as_str().to_owned())).await?;
        shared.line(&shared.ask(step).await?).map(|(line, _)| line)
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
