//! The line of claims: what `coord_core::spi::Claims` says, one script a step.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use coord_core::{
    FencingToken, Guarantees, Namespace, Result,
    spi::{
        Claim, ClaimId, Claims, Entry, Grant, HandOver, Holder, Kind, Line, LineId, Renewal, Standing,
        Wakeups,
    },
};

use redis::Value;

use crate::{
    client::{Store, unread},
    config::Layout,
    error::misread,
    keys::Stem,
    reply::{Reply, number, token},
    script::{Call, Script},
    server::Server,
};

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        static $name: Script = Script::new(concat!(
            include_str!("scripts/begin.lua"),
            $(include_str!(concat!("scripts/", $file)),)+
        ));
    };
}

script!(CLAIM, "claim_alone.lua", "line.lua", "claim.lua");
script!(RENEW, "line.lua", "renew.lua");
script!(SET_VALUE, "line.lua", "set_value.lua");
script!(WITHDRAW, "withdraw_alone.lua", "line.lua", "withdraw.lua");
script!(HAND_OVER, "line.lua", "hand_over.lua");
script!(ADOPT, "line.lua", "adopt.lua");
script!(READ, "line.lua", "read.lua");

#[async_trait]
impl Claims for Store {
    fn guarantees(&self) -> Guarantees {
        self.shared.server().as_ref().map_or_else(|| Server::default().guarantees(), Server::guarantees)
    }

    async fn claim(&self, claim: &Claim) -> Result<Standing> {
        let ttl = ttl_ms(claim.ttl);
        let call = self
            .on_line(&CLAIM, &claim.line)
            .arg(claim.id.as_bytes())
            .arg(claim.weight)
            .arg(claim.limit)
            .arg(ttl)
            .arg(claim.priority)
            .arg(u8::from(claim.wait))
            .arg(&claim.owner)
            .arg(&claim.value);
        let mut reply = self.step(call).await?;
        let ttl = Duration::from_millis(ttl);
        let mut standing = || {
            Ok(match reply.bytes()?.as_slice() {
                b"granted" => {
                    let (line, token) = (claim.line.clone(), reply.token()?);
                    Standing::Granted(Grant { line, id: claim.id, token, ttl })
                }
                b"waiting" => Standing::Waiting {
                    ahead: reply.number()?,
                    look_again_in: Duration::from_millis(reply.number()?),
                },
                _ if reply.is_empty() => Standing::Refused(None),
                _ => Standing::Refused(Some(Holder { token: reply.token()?, owner: reply.text()? })),
            })
        };
        standing().map_err(unread)
    }

    async fn renew(&self, grants: &[Grant]) -> Result<Vec<Renewal>> {
        // One script a line, all in one round trip.
        let mut lines: HashMap<&LineId, Vec<usize>> = HashMap::new();
        for (at, grant) in grants.iter().enumerate() {
            lines.entry(&grant.line).or_default().push(at);
        }
        let lines: Vec<_> = lines.into_iter().collect();
        let calls: Vec<_> = lines.iter().map(|(line, places)| self.renewal(line, places, grants)).collect();
        // Not lost: where a script fails, the lease goes on as it was.
        let mut renewals = vec![Renewal::StillHeld; grants.len()];
        let (mut failure, mut answered) = (None, grants.is_empty());
        for ((_, places), answer) in lines.iter().zip(self.shared.eval_all(&calls).await?) {
            match answer.and_then(|answer| self.hear(answer)) {
                Ok(mut reply) => {
                    answered = true;
                    for at in places {
                        let renewed = reply.number::<u8>().map_err(unread)? == 1;
                        renewals[*at] = if renewed { Renewal::Renewed } else { Renewal::Lost };
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if !answered => Err(error),
            Some(error) => {
                tracing::warn!(%error, "some leases were not prolonged");
                Ok(renewals)
            }
            None => Ok(renewals),
        }
    }

    async fn set_value(&self, grant: &Grant, value: &[u8]) -> Result<Renewal> {
        let call = self.on_grant(&SET_VALUE, grant).arg(value);
        let mut reply = self.step(call).await?;
        let held = reply.number::<u8>().map_err(unread)? == 1;
        Ok(if held { Renewal::StillHeld } else { Renewal::Lost })
    }

    async fn withdraw(&self, line: &LineId, id: ClaimId) -> Result<()> {
        self.step(self.on_line(&WITHDRAW, line).arg(id.as_bytes())).await.map(|_| ())
    }

    async fn hand_over(&self, from: &Grant, to: ClaimId) -> Result<HandOver> {
        let call = self.on_grant(&HAND_OVER, from).arg(to.as_bytes());
        let mut reply = self.step(call).await?;
        match reply.bytes().map_err(unread)?.as_slice() {
            b"done" => Ok(HandOver::Done),
            b"lost" => Ok(HandOver::Lost),
            b"not found" => Ok(HandOver::NotFound),
            _ => Err(unread(misread("what became of a hand-over"))),
        }
    }

    async fn adopt(&self, from: &Grant, to: ClaimId) -> Result<Renewal> {
        let call = self.on_grant(&ADOPT, from).arg(to.as_bytes()).arg(ttl_ms(from.ttl));
        let mut reply = self.step(call).await?;
        let done = reply.number::<u8>().map_err(unread)? == 1;
        Ok(if done { Renewal::Renewed } else { Renewal::Lost })
    }

    async fn line(&self, line: &LineId) -> Result<Line> {
        let reply = self.step(self.on_line(&READ, line)).await?;
        read_line(reply)
    }

    fn wakeups(&self, line: &LineId, id: Option<ClaimId>) -> Wakeups {
        match id {
            Some(id) => self.shared.hub.claim(id),
            None => self.shared.hub.channel(Stem::of_line(line).news()),
        }
    }

    async fn close(&self) -> Result<()> {
        self.end();
        Ok(())
    }
}

impl Store {
    /// A call of a script about a line.
    fn on_line(&self, script: &'static Script, line: &LineId) -> Call {
        let stem = Stem::of_line(line);
        let mut keys = vec![stem.key("line"), stem.key("claims")];
        if self.shared.config.layout() == Layout::Interop && line.kind == Kind::Lock {
            keys.push(place(line));
        }
        Call::new(script, &keys).arg(&self.shared.id).arg(stem.news().as_str())
    }

    fn on_grant(&self, script: &'static Script, grant: &Grant) -> Call {
        self.on_line(script, &grant.line).arg(grant.id.as_bytes()).arg(grant.token.get())
    }

    fn renewal(&self, line: &LineId, places: &[usize], grants: &[Grant]) -> Call {
        places.iter().map(|at| &grants[*at]).fold(self.on_line(&RENEW, line), |call, grant| {
            call.arg(grant.id.as_bytes()).arg(grant.token.get()).arg(ttl_ms(grant.ttl))
        })
    }

    /// Runs a script about a line.
    async fn step(&self, call: Call) -> Result<Reply> {
        let answer = self.shared.eval(call).await?;
        self.hear(answer)
    }

    /// Passes on the hints with which each answer begins.
    fn hear(&self, answer: Value) -> Result<Reply> {
        let mut reply = Reply::of(answer).map_err(unread)?;
        self.shared.hub.hint_claims(&reply.bytes().map_err(unread)?);
        Ok(reply)
    }
}

/// The key at which other clients look for a lock: its name. A namespace that is not the default stands in front, behind
/// which comes what no name holds.
fn place(line: &LineId) -> String {
    if line.namespace == Namespace::default() {
        line.name.to_string()
    } else {
        format!("{}\u{1f}{}", line.namespace, line.name)
    }
}

fn ttl_ms(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// The line that `read.lua` answers.
fn read_line(mut reply: Reply) -> Result<Line> {
    let revision = reply.number()?;
    let now: i64 = reply.number()?;
    let (mut order, mut fields) = (reply.list()?, reply.list()?);
    let mut field_of = HashMap::new();
    while !fields.is_empty() {
        field_of.insert(fields.bytes()?, fields.value()?);
    }
    let mut entries = Vec::new();
    while !order.is_empty() {
        let id = order.id()?;
        let end = number(field_of.get(&[b"e", &id[..]].concat()).ok_or_else(|| misread("a lease"))?)?;
        // The lease began within the millisecond before which its TTL counts.
        let left = u64::try_from(end.saturating_sub(now + 1)).unwrap_or_default();
        let Some(Value::BulkString(record)) = field_of.get(&id[..]) else { return Err(misread("a claim")) };
        entries.push(
            entry(id, Duration::from_millis(left), record).ok_or_else(|| misread("a part of a claim"))?,
        );
    }
    Ok(Line { revision, entries })
}

/// A record as `begin.lua` describes it.
fn entry(id: [u8; 16], expires_in: Duration, record: &[u8]) -> Option<Entry> {
    let (token, rest) = record.split_first_chunk::<8>()?;
    let (weight, rest) = rest.split_first_chunk::<4>()?;
    let (limit, rest) = rest.split_first_chunk::<4>()?;
    let (priority, rest) = rest.split_first_chunk::<4>()?;
    let (granted, rest) = rest.split_first_chunk::<8>()?;
    let (joined, rest) = rest.split_first_chunk::<8>()?;
    let (_client, rest) = rest.split_first_chunk::<32>()?;
    let (length, rest) = rest.split_first()?;
    let (owner, value) = rest.split_at_checked(usize::from(*length))?;
    let granted = f64::from_be_bytes(*granted);
    Some(Entry {
        id: ClaimId::from_bytes(id),
        token: token_of(f64::from_be_bytes(*token)).ok()?,
        weight: u32::from_be_bytes(*weight),
        limit: u32::from_be_bytes(*limit),
        priority: i32::from_be_bytes(*priority),
        granted: (granted > 0.0).then(|| wall(granted)),
        joined: wall(f64::from_be_bytes(*joined)),
        expires_in,
        owner: std::str::from_utf8(owner).ok()?.to_owned(),
        value: value.to_vec(),
    })
}

/// Tokens are whole numbers below 2^53, which doubles hold exactly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn token_of(number: f64) -> Result<FencingToken> {
    token(number as u64)
}

/// Milliseconds since 1970.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn wall(milliseconds: f64) -> SystemTime {
    // Whole ones, and none are negative.
    UNIX_EPOCH + Duration::from_millis(milliseconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_record_is_recognised() {
        let mut record = 7_f64.to_be_bytes().to_vec();
        record.extend([&1_u32.to_be_bytes()[..], &2_u32.to_be_bytes(), &(-3_i32).to_be_bytes()].concat());
        record.extend(0_f64.to_be_bytes());
        record.extend(1_795_000_000_123_f64.to_be_bytes());
        record.extend([b'a'; 32]);
        record.extend(b"\x02mevalue");
        let entry = |record: &[u8]| super::entry([0; 16], Duration::ZERO, record);
        let whole = entry(&record).unwrap();
        assert_eq!((whole.token.get(), whole.weight, whole.limit, whole.priority), (7, 1, 2, -3));
        assert_eq!((whole.owner.as_str(), whole.value.as_slice()), ("me", &b"value"[..]));
        assert_eq!(
            (whole.granted, whole.joined),
            (None, UNIX_EPOCH + Duration::from_millis(1_795_000_000_123))
        );
        for length in 0..71 {
            assert_eq!(entry(&record[..length]), None, "{length}");
        }
        record[..8].copy_from_slice(&0_f64.to_be_bytes());
        assert_eq!(entry(&record), None, "no token");
    }

    #[test]
    fn a_lease_is_never_shorter_than_asked() {
        assert_eq!(ttl_ms(Duration::from_micros(100_001)), 101);
        assert_eq!(ttl_ms(Duration::from_millis(100)), 100);
    }
}
