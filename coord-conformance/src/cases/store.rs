//! The contract of [`coord_core::spi`], asked of the store itself: what no client of a sound engine would notice in time.

use std::{sync::Arc, time::Duration};

use coord_core::spi::{ALL, Claim, ClaimId, Claims, Grant, HandOver, Kind, LineId, Renewal, Standing};
use tokio::time::sleep;

use super::{cases, demand};
use crate::{Ctx, Failure, Verdict, history::line};

cases! { "store":
    a_claim_is_found_again,
    a_waiting_claim_is_found_again,
    a_refused_claim_leaves_no_trace,
    the_line_shows_what_was_granted,
    an_expired_claim_is_absent,
    a_renewal_revives_nothing,
    a_renewal_never_shortens,
    a_renewal_prolongs,
    renewals_are_answered_one_by_one,
    a_lost_claim_takes_no_value,
    a_withdrawal_takes_out_its_own_claim_only,
    an_expired_waiter_joins_again_at_the_end,
    a_higher_priority_goes_first [Priority],
    a_claim_is_adopted_once [Resume],
    a_hand_over_to_nobody_changes_nothing [HandOver],
}

/// The name under which failures of this file are reported.
const NAME: &str = "store";

/// A store, a line of it, and claims to make.
struct Bench {
    claims: Arc<dyn Claims>,
    line: LineId,
    ttl: Duration,
}

impl Bench {
    async fn new(ctx: &Ctx, kind: Kind) -> Verdict<Self> {
        let (claims, line) = (ctx.claims().await?, line(kind, &ctx.fresh_name()));
        Ok(Self { claims, line, ttl: ctx.long_ttl() })
    }

    fn exclusive(&self, ttl: Duration, wait: bool) -> Claim {
        let (line, id) = (self.line.clone(), ClaimId::random());
        let (weight, limit) = if line.kind == Kind::Election { (1, 1) } else { (ALL, ALL) };
        Claim { line, id, weight, limit, ttl, priority: 0, wait, owner: "owner".into(), value: vec![7] }
    }

    async fn granted(&self, claim: &Claim) -> Verdict<Grant> {
        match self.claims.claim(claim).await? {
            Standing::Granted(grant) => Ok(grant),
            other => Err(Failure::by(NAME, format!("it should be granted: {other:?}"))),
        }
    }

    async fn waiting(&self, claim: &Claim) -> Verdict<u32> {
        match self.claims.claim(claim).await? {
            Standing::Waiting { ahead, .. } => Ok(ahead),
            other => Err(Failure::by(NAME, format!("it should wait: {other:?}"))),
        }
    }

    async fn ids(&self) -> Verdict<Vec<ClaimId>> {
        Ok(self.claims.line(&self.line).await?.entries.into_iter().map(|entry| entry.id).collect())
    }
}

async fn a_claim_is_found_again(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let claim = bench.exclusive(bench.ttl, true);
    let (first, second) = (bench.granted(&claim).await?, bench.granted(&claim).await?);
    demand!(first == second, "the same claim was granted as {first:?} and as {second:?}");
    demand!(bench.ids().await? == [claim.id], "the line has other claims than the one");
    Ok(())
}

async fn a_waiting_claim_is_found_again(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let claims = [0; 3].map(|_| bench.exclusive(bench.ttl, true));
    bench.granted(&claims[0]).await?;
    for _ in 0..2 {
        demand!(bench.waiting(&claims[1]).await? == 1, "the second does not stand second");
        demand!(bench.waiting(&claims[2]).await? == 2, "the third does not stand third");
    }
    demand!(bench.ids().await? == claims.each_ref().map(|claim| claim.id), "the line has another order");
    bench.claims.withdraw(&bench.line, claims[0].id).await?;
    demand!(bench.waiting(&claims[2]).await? == 1, "the third was not let forward");
    bench.granted(&claims[1]).await?;
    Ok(())
}

async fn a_refused_claim_leaves_no_trace(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let (holder, refused) = (bench.exclusive(bench.ttl, true), bench.exclusive(bench.ttl, false));
    let grant = bench.granted(&holder).await?;
    match bench.claims.claim(&refused).await? {
        Standing::Refused(Some(by)) => {
            demand!(by.token == grant.token, "refused by {by:?}, held as {grant:?}")
        }
        Standing::Refused(None) => {}
        other => return Err(Failure::by(NAME, format!("it should be refused: {other:?}"))),
    }
    demand!(bench.ids().await? == [holder.id], "a claim that was refused is in the line");
    Ok(())
}

async fn the_line_shows_what_was_granted(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let (holder, waiter) = (bench.exclusive(bench.ttl, true), bench.exclusive(bench.ttl, true));
    let before = bench.claims.line(&bench.line).await?;
    let grant = bench.granted(&holder).await?;
    bench.waiting(&waiter).await?;
    let line = bench.claims.line(&bench.line).await?;
    demand!(line.revision > before.revision, "the revision stays {}", before.revision);
    let [first, second] = &line.entries[..] else {
        return Err(Failure::by(NAME, format!("there should be two: {line:?}")));
    };
    demand!(first.id == grant.id && first.token == grant.token, "{first:?} was granted as {grant:?}");
    demand!(first.granted.is_some() && second.granted.is_none(), "one holds and one waits: {line:?}");
    demand!(second.token > first.token, "the line is not in the order of its tokens: {line:?}");
    demand!(first.value == [7] && first.owner == "owner", "it is shown with other data: {first:?}");
    demand!(first.expires_in <= bench.ttl, "it is shown for longer than its TTL: {first:?}");
    Ok(())
}

async fn an_expired_claim_is_absent(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let (short, next) = (bench.exclusive(ctx.short_ttl(), true), bench.exclusive(bench.ttl, false));
    let old = bench.granted(&short).await?;
    sleep(ctx.short_ttl() * 3 / 2).await;
    demand!(bench.ids().await?.is_empty(), "an expired claim is shown");
    let new = bench.granted(&next).await?;
    demand!(new.token > old.token, "token {} came after {}", new.token, old.token);
    Ok(())
}

async fn a_renewal_revives_nothing(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let grant = bench.granted(&bench.exclusive(ctx.short_ttl(), true)).await?;
    sleep(ctx.short_ttl() * 3 / 2).await;
    let answer = bench.claims.renew(std::slice::from_ref(&grant)).await?;
    demand!(answer == [Renewal::Lost], "a claim that had expired was renewed: {answer:?}");
    demand!(bench.ids().await?.is_empty(), "a renewal brought an expired claim back");
    let withdrawn = bench.exclusive(bench.ttl, true);
    let grant = bench.granted(&withdrawn).await?;
    bench.claims.withdraw(&bench.line, withdrawn.id).await?;
    let answer = bench.claims.renew(&[grant]).await?;
    demand!(answer == [Renewal::Lost], "a claim that had been withdrawn was renewed: {answer:?}");
    demand!(bench.ids().await?.is_empty(), "a renewal brought a withdrawn claim back");
    Ok(())
}

async fn a_renewal_never_shortens(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let grant = bench.granted(&bench.exclusive(bench.ttl, true)).await?;
    // One that was under way for long and comes in after a longer one.
    let late = Grant { ttl: ctx.short_ttl(), ..grant };
    let answer = bench.claims.renew(&[late]).await?;
    demand!(answer != [Renewal::Lost], "a live claim could not be renewed");
    sleep(ctx.short_ttl() * 3 / 2).await;
    demand!(bench.ids().await?.len() == 1, "a renewal shortened a lease");
    Ok(())
}

async fn a_renewal_prolongs(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let grant = bench.granted(&bench.exclusive(ctx.short_ttl(), true)).await?;
    // For longer than before, so that a busy machine has time to look.
    let longer = Grant { ttl: bench.ttl, ..grant };
    let answer = bench.claims.renew(&[longer]).await?;
    demand!(answer == [Renewal::Renewed], "a live claim was not renewed: {answer:?}");
    sleep(ctx.short_ttl() * 3 / 2).await;
    demand!(bench.ids().await?.len() == 1, "a renewal did not prolong the lease");
    Ok(())
}

async fn renewals_are_answered_one_by_one(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let other = Bench { line: line(Kind::Lock, &ctx.fresh_name()), ..Bench::new(&ctx, Kind::Lock).await? };
    let one = bench.granted(&bench.exclusive(bench.ttl, true)).await?;
    let two = other.granted(&other.exclusive(other.ttl, true)).await?;
    let unknown = Grant { id: ClaimId::random(), ..one.clone() };
    let answers = bench.claims.renew(&[unknown, one, two.clone()]).await?;
    demand!(answers.len() == 3 && answers[0] == Renewal::Lost, "an unknown claim was renewed: {answers:?}");
    demand!(!answers[1..].contains(&Renewal::Lost), "live claims were not renewed: {answers:?}");
    // A claim of this id, but an earlier or a later grant of it.
    let stale = Grant { token: two.token.successor()?, ..two };
    let answers = bench.claims.renew(&[stale]).await?;
    demand!(answers == [Renewal::Lost], "a grant of another token was renewed: {answers:?}");
    demand!(bench.claims.renew(&[]).await?.is_empty(), "no renewals were answered by some");
    Ok(())
}

async fn a_lost_claim_takes_no_value(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Election).await?;
    let grant = bench.granted(&bench.exclusive(bench.ttl, true)).await?;
    let kept = bench.claims.set_value(&grant, b"first").await?;
    demand!(kept != Renewal::Lost, "a live claim takes no value");
    let value = bench.claims.line(&bench.line).await?.entries.pop().map(|entry| entry.value);
    demand!(value.as_deref() == Some(b"first"), "the value is {value:?}");
    bench.claims.withdraw(&bench.line, grant.id).await?;
    let answer = bench.claims.set_value(&grant, b"second").await?;
    demand!(answer == Renewal::Lost, "a claim that is gone took a value: {answer:?}");
    demand!(bench.ids().await?.is_empty(), "a value brought a claim back");
    Ok(())
}

async fn a_withdrawal_takes_out_its_own_claim_only(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let (holder, waiter) = (bench.exclusive(bench.ttl, true), bench.exclusive(bench.ttl, true));
    bench.granted(&holder).await?;
    bench.waiting(&waiter).await?;
    bench.claims.withdraw(&bench.line, ClaimId::random()).await?;
    demand!(bench.ids().await? == [holder.id, waiter.id], "the withdrawal of nobody changed the line");
    for _ in 0..2 {
        bench.claims.withdraw(&bench.line, waiter.id).await?;
        demand!(bench.ids().await? == [holder.id], "the withdrawal of a waiter took out somebody else");
    }
    // Not even its own one of the same id in another line.
    let other = line(Kind::Lock, &ctx.fresh_name());
    bench.claims.withdraw(&other, holder.id).await?;
    demand!(bench.ids().await? == [holder.id], "a withdrawal in another line took it out");
    Ok(())
}

async fn an_expired_waiter_joins_again_at_the_end(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let (holder, next) = (bench.exclusive(bench.ttl, true), bench.exclusive(bench.ttl, true));
    let late = bench.exclusive(ctx.short_ttl(), true);
    bench.granted(&holder).await?;
    demand!(bench.waiting(&late).await? == 1, "it does not stand second");
    demand!(bench.waiting(&next).await? == 2, "it does not stand third");
    sleep(ctx.short_ttl() * 3 / 2).await;
    demand!(bench.waiting(&late).await? == 2, "one whose lease ended kept its place");
    demand!(bench.ids().await? == [holder.id, next.id, late.id], "the line has another order");
    Ok(())
}

async fn a_higher_priority_goes_first(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Election).await?;
    let (holder, low) = (bench.exclusive(bench.ttl, true), bench.exclusive(bench.ttl, true));
    let high = Claim { priority: 1, ..bench.exclusive(bench.ttl, true) };
    bench.granted(&holder).await?;
    bench.waiting(&low).await?;
    demand!(bench.waiting(&high).await? == 1, "the higher priority does not stand right behind the holder");
    let line = bench.claims.line(&bench.line).await?;
    let ids: Vec<_> = line.entries.iter().map(|entry| entry.id).collect();
    demand!(ids == [holder.id, high.id, low.id], "the line has another order: {line:?}");
    demand!(line.entries.is_sorted_by_key(|entry| entry.token), "the overtaken kept its token: {line:?}");
    bench.claims.withdraw(&bench.line, holder.id).await?;
    demand!(bench.waiting(&low).await? == 1, "the lower priority was let in first");
    bench.granted(&high).await?;
    Ok(())
}

async fn a_claim_is_adopted_once(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Lock).await?;
    let grant = bench.granted(&bench.exclusive(bench.ttl, true)).await?;
    let (to, other) = (ClaimId::random(), ClaimId::random());
    for _ in 0..2 {
        let answer = bench.claims.adopt(&grant, to).await?;
        demand!(answer == Renewal::Renewed, "it was not adopted: {answer:?}");
    }
    let answer = bench.claims.adopt(&grant, other).await?;
    demand!(answer == Renewal::Lost, "it was adopted twice: {answer:?}");
    let entries = bench.claims.line(&bench.line).await?.entries;
    let shown: Vec<_> = entries.iter().map(|entry| (entry.id, entry.token)).collect();
    demand!(shown == [(to, grant.token)], "after the adoption the line is {entries:?}");
    let old = bench.claims.renew(std::slice::from_ref(&grant)).await?;
    demand!(old == [Renewal::Lost], "the old id was renewed: {old:?}");
    let new = bench.claims.renew(&[Grant { id: to, ..grant }]).await?;
    demand!(new == [Renewal::Renewed], "the new id was not renewed: {new:?}");
    Ok(())
}

async fn a_hand_over_to_nobody_changes_nothing(ctx: Ctx) -> Verdict {
    let bench = Bench::new(&ctx, Kind::Election).await?;
    let (leader, waiter) = (bench.exclusive(bench.ttl, true), bench.exclusive(bench.ttl, true));
    let grant = bench.granted(&leader).await?;
    bench.waiting(&waiter).await?;
    let answer = bench.claims.hand_over(&grant, ClaimId::random()).await?;
    demand!(answer == HandOver::NotFound, "handed over to nobody: {answer:?}");
    demand!(bench.ids().await? == [leader.id, waiter.id], "a hand-over to nobody changed the line");
    let done = bench.claims.hand_over(&grant, waiter.id).await?;
    demand!(done == HandOver::Done, "not handed over: {done:?}");
    let next = bench.granted(&waiter).await?;
    demand!(next.token > grant.token, "token {} came after {}", next.token, grant.token);
    let again = bench.claims.hand_over(&grant, waiter.id).await?;
    demand!(again == HandOver::Lost, "one that is gone handed over: {again:?}");
    Ok(())
}
