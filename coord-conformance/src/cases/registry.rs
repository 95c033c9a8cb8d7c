//! Membership: registrations, lists, watches.

use std::{collections::BTreeMap, time::Duration};

use coord_core::{
    Inspect, Instance, Member, Registration, Registry, RegistryEvent, Result, limits, spi::Kind,
};

use super::cases;
use crate::{
    Client, Ctx, Failure, Verdict, ensure,
    history::{Op, object},
    refused,
    watching::{instances, watch},
};

cases! { "registry":
    an_unknown_service_has_no_instances,
    instances_are_listed_with_their_data,
    a_deregistered_instance_is_gone,
    a_dropped_registration_is_gone,
    a_registration_outlives_its_ttl,
    an_update_keeps_the_token,
    an_update_that_is_wrong_changes_nothing,
    the_later_of_two_with_one_id_counts,
    registers_again_after_a_loss,
    an_update_while_away_is_carried_by_the_next,
    a_watch_starts_with_everyone,
    a_watch_reports_every_change_that_lasts,
    a_watch_reports_an_instance_that_vanished,
    many_watchers_agree,
}

/// Registers, recorded.
async fn register(
    client: &Client,
    service: &coord_core::Name,
    instance: Instance,
    ctx: &Ctx,
) -> Result<Recorded> {
    let recorder = client.recorder();
    let (attempt, id) = (recorder.number(), instance.id.clone());
    let (service, options) = (service.clone(), ctx.register_options());
    let object = object(Kind::Registry, &service);
    let op = |registration: Option<&Registration>| Op::Register {
        attempt,
        id: id.clone(),
        token: registration.map(|registration| registration.token().get()),
    };
    let registration = recorder.call(&object, client.register(&service, instance, &options), op).await?;
    Ok(Recorded { client: client.clone(), object, attempt, registration })
}

/// A registration whose end is recorded.
struct Recorded {
    client: Client,
    object: String,
    attempt: u64,
    registration: Registration,
}

impl Recorded {
    async fn deregister(self) -> Result<()> {
        let (attempt, token) = (self.attempt, self.registration.token().get());
        let op = |_: Option<&()>| Op::Deregister { attempt, token };
        self.client.recorder().call(&self.object, self.registration.deregister(), op).await
    }
}

/// Nobody ever registered.
async fn an_unknown_service_has_no_instances(ctx: Ctx) -> Verdict {
    let (client, service) = (ctx.client().await?, ctx.fresh_name());
    let listed = client.instances(&service).await?;
    ensure!(listed.is_empty(), "{listed:?}");
    let first = ctx.soon("the first report", watch(&client, &service).next()).await??;
    ensure!(first == RegistryEvent::Snapshot(vec![]), "it starts with {first:?}");
    Ok(())
}

/// Everyone is listed, in the order of ids, with address, metadata, weight and token; other services are not.
async fn instances_are_listed_with_their_data(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let full = Instance::new("b/🦀 ..", "[::1]:80")
        .with_metadata("", "")
        .with_metadata("ключ\0", "\"quoted\"\n")
        .with_weight(7);
    let second = register(&one, &service, full.clone(), &ctx).await?;
    let first = register(&two, &service, Instance::new("a", ""), &ctx).await?;
    let other = register(&two, &ctx.fresh_name(), Instance::new("c", "elsewhere"), &ctx).await?;
    let listed = instances(&two, &service, false).await?;
    let ids: Vec<_> = listed.iter().map(|member| member.instance.id.as_str()).collect();
    ensure!(ids == ["a", "b/🦀 .."], "a and b are listed as {ids:?}");
    ensure!(listed[1].instance == full, "{full:?} is listed as {:?}", listed[1].instance);
    ensure!(listed[0].instance.weight == 1, "the weight of {:?} is not one", listed[0].instance);
    let (a, b) = (first.registration.token(), second.registration.token());
    ensure!(
        listed[0].token == a && listed[1].token == b && a > b,
        "tokens {b} and {a} are listed: {listed:?}"
    );
    ensure!(second.registration.is_listed() && second.registration.id() == full.id, "it is not listed");
    for registered in [first, second, other] {
        registered.deregister().await?;
    }
    Ok(())
}

/// Deregistered is gone for everybody when the call returns.
async fn a_deregistered_instance_is_gone(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let mut last = None;
    for _ in 0..3 {
        let registered = register(&one, &service, Instance::new("a", "x"), &ctx).await?;
        ensure!(Some(registered.registration.token()) > last, "the token of the next one does not grow");
        last = Some(registered.registration.token());
        ensure!(instances(&two, &service, false).await?.len() == 1, "it is not listed");
        registered.deregister().await?;
        ensure!(instances(&two, &service, false).await?.is_empty(), "it is still listed");
    }
    Ok(())
}

/// Dropped is gone soon, not after the TTL.
async fn a_dropped_registration_is_gone(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let registration = one.register(&service, Instance::new("a", "x"), &ctx.register_options()).await?;
    drop(registration);
    let gone = ctx.until_line(Kind::Registry, &service, |listed, _| listed == 0);
    ctx.soon("the end of the listing", gone).await??;
    ensure!(two.instances(&service).await?.is_empty(), "it is still listed");
    Ok(())
}

/// It is kept alive without a change of its token.
async fn a_registration_outlives_its_ttl(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let ttl = ctx.short_ttl() * 2;
    let options = ctx.register_options().with_ttl(ttl);
    let registration = one.register(&service, Instance::new("a", "x"), &options).await?;
    let end = ctx.now().after(ttl * 3);
    while ctx.now() < end {
        let listed = two.instances(&service).await?;
        ensure!(listed.len() == 1 && listed[0].token == registration.token(), "it is listed as {listed:?}");
        tokio::time::sleep(ttl / 8).await;
    }
    registration.deregister().await?;
    Ok(())
}

/// An update replaces the data in place.
async fn an_update_keeps_the_token(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let first = Instance::new("a", "x:1").with_metadata("version", "1");
    let registered = register(&one, &service, first, &ctx).await?;
    for number in 2..5 {
        let update = Instance::new("a", format!("x:{number}")).with_weight(number);
        registered.registration.update(update.clone()).await?;
        let listed = instances(&two, &service, false).await?;
        ensure!(listed.len() == 1 && listed[0].instance == update, "{update:?} is listed as {listed:?}");
        ensure!(
            listed[0].token == registered.registration.token(),
            "an update changed the token: {listed:?}"
        );
    }
    registered.deregister().await?;
    Ok(())
}

/// Another id and too much data are refused.
async fn an_update_that_is_wrong_changes_nothing(ctx: Ctx) -> Verdict {
    let (client, service) = (ctx.client().await?, ctx.fresh_name());
    let instance = Instance::new("a", "x");
    let registered = register(&client, &service, instance.clone(), &ctx).await?;
    refused!(registered.registration.update(Instance::new("b", "x")).await, InvalidOptions);
    let large = instance.clone().with_metadata("large", "x".repeat(limits::MAX_VALUE));
    refused!(registered.registration.update(large).await, TooLarge);
    let listed = instances(&client, &service, false).await?;
    ensure!(listed.len() == 1 && listed[0].instance == instance, "it is listed as {listed:?}");
    registered.deregister().await?;
    Ok(())
}

/// Of two registrations with one id the one with the greater token is listed, and the end of the other one does not
/// harm it.
async fn the_later_of_two_with_one_id_counts(ctx: Ctx) -> Verdict {
    let ([one, two], service, options) = (ctx.clients().await?, ctx.fresh_name(), ctx.register_options());
    for later_ends_first in [false, true] {
        let early = one.register(&service, Instance::new("a", "early"), &options).await?;
        let later = two.register(&service, Instance::new("a", "later"), &options).await?;
        ensure!(later.token() > early.token(), "token {} came after {}", later.token(), early.token());
        early.update(Instance::new("a", "early again")).await?;
        let shown = only(one.instances(&service).await?)?;
        ensure!(shown.token == later.token() && shown.instance.address == "later", "{shown:?} is listed");
        let (first, second, left) =
            if later_ends_first { (later, early, "early again") } else { (early, later, "later") };
        first.deregister().await?;
        let shown = only(one.instances(&service).await?)?;
        ensure!(shown.token == second.token() && shown.instance.address == left, "{shown:?} is listed");
        second.deregister().await?;
        ensure!(one.instances(&service).await?.is_empty(), "it is still listed");
    }
    Ok(())
}

fn only(mut listed: Vec<Member>) -> Verdict<Member> {
    match (listed.pop(), listed.is_empty()) {
        (Some(member), true) => Ok(member),
        (last, _) => Err(Failure::new(format!("one instance was expected, not {listed:?} and {last:?}"))),
    }
}

/// Taken off the list by force, an instance is back by itself, with a greater token, and a watcher sees both.
async fn registers_again_after_a_loss(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let mut registration = one.register(&service, Instance::new("a", "x"), &ctx.register_options()).await?;
    let mut watcher = two.watch_instances(&service);
    // Not recorded: when it registers again is known to itself only.
    ctx.soon("the snapshot", watcher.next()).await?;
    for _ in 0..2 {
        let before = registration.token();
        two.force_release(Kind::Registry, &service, None).await?;
        while registration.token() == before || !registration.is_listed() {
            let changed = ctx.soon("the next registration", registration.changed()).await?;
            ensure!(changed, "the registration is over");
        }
        ensure!(registration.token() > before, "token {} came after {before}", registration.token());
        let back = registration.token();
        let mut reported = None;
        while reported != Some(back) {
            if let Some(RegistryEvent::Joined(member)) =
                ctx.soon("a report", watcher.next()).await?.transpose()?
            {
                reported = Some(member.token);
            }
        }
        let listed = only(two.instances(&service).await?)?;
        ensure!(listed.token == back && listed.instance.address == "x", "it is listed as {listed:?}");
    }
    registration.deregister().await?;
    Ok(())
}

/// Data that change while the store is away are those of the next registration.
async fn an_update_while_away_is_carried_by_the_next(ctx: Ctx) -> Verdict {
    let (two, service) = (ctx.client().await?, ctx.fresh_name());
    let (one, faults) = super::faulty::faulty_client(&ctx).await?;
    let options = ctx.register_options().with_ttl(ctx.short_ttl());
    let mut registration = one.register(&service, Instance::new("a", "before"), &options).await?;
    faults.partition(true);
    while registration.is_listed() {
        ctx.soon("the loss", registration.changed()).await?;
    }
    registration.update(Instance::new("a", "after")).await?;
    faults.partition(false);
    while !registration.is_listed() {
        ctx.soon("the next registration", registration.changed()).await?;
    }
    let listed = only(two.instances(&service).await?)?;
    ensure!(listed.instance.address == "after", "it is listed as {listed:?}");
    registration.deregister().await?;
    Ok(())
}

/// The first report is the whole list.
async fn a_watch_starts_with_everyone(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let mut registered = Vec::new();
    for id in ["c", "a", "b"] {
        registered.push(register(&one, &service, Instance::new(id, id), &ctx).await?);
    }
    let first = ctx.soon("the snapshot", watch(&two, &service).next()).await??;
    let RegistryEvent::Snapshot(members) = first else {
        return Err(Failure::new(format!("a watch starts with {first:?}")));
    };
    let listed = instances(&two, &service, true).await?;
    ensure!(
        members == listed && members.len() == 3,
        "{listed:?} are listed, and the snapshot is {members:?}"
    );
    for registered in registered {
        registered.deregister().await?;
    }
    Ok(())
}

/// Joined, updated, left: each once, with its data.
async fn a_watch_reports_every_change_that_lasts(ctx: Ctx) -> Verdict {
    let ([one, two], service) = (ctx.clients().await?, ctx.fresh_name());
    let mut watcher = watch(&two, &service);
    ctx.soon("the snapshot", watcher.next()).await??;
    for _ in 0..2 {
        let registered = register(&one, &service, Instance::new("a", "1"), &ctx).await?;
        let joined = ctx.soon("the join", watcher.next()).await??;
        let token = registered.registration.token();
        ensure!(
            matches!(&joined, RegistryEvent::Joined(m) if m.token == token && m.instance.address == "1"),
            "a registration is reported as {joined:?}"
        );
        registered.registration.update(Instance::new("a", "2")).await?;
        let updated = ctx.soon("the update", watcher.next()).await??;
        ensure!(
            matches!(&updated, RegistryEvent::Updated(m) if m.token == token && m.instance.address == "2"),
            "an update is reported as {updated:?}"
        );
        registered.deregister().await?;
        let left = ctx.soon("the leave", watcher.next()).await??;
        ensure!(
            matches!(&left, RegistryEvent::Left(m) if m.token == token),
            "a deregistration is reported as {left:?}"
        );
    }
    instances(&two, &service, true).await?;
    Ok(())
}

/// An instance whose lease ended without a word leaves the list and is reported.
async fn a_watch_reports_an_instance_that_vanished(ctx: Ctx) -> Verdict {
    let (two, service) = (ctx.client().await?, ctx.fresh_name());
    let (one, faults) = super::faulty::faulty_client(&ctx).await?;
    let options = ctx.register_options().with_ttl(ctx.short_ttl());
    let registration = one.register(&service, Instance::new("a", "x"), &options).await?;
    let mut watcher = two.watch_instances(&service);
    // Not recorded: nobody can say when a registration that was cut off was over.
    ctx.soon("the snapshot", watcher.next()).await?;
    faults.partition(true);
    let left = ctx.soon("the end of the lease", watcher.next()).await?;
    ensure!(matches!(left, Some(Ok(RegistryEvent::Left(_)))), "the end of a lease is reported as {left:?}");
    ensure!(two.instances(&service).await?.is_empty(), "it was reported as gone and is listed");
    faults.heal();
    drop(registration);
    Ok(())
}

/// Instances come and go on several clients while watchers start; no change falls between snapshot and changes, and in
/// the end all of them see the same.
async fn many_watchers_agree(ctx: Ctx) -> Verdict {
    let service = ctx.fresh_name();
    let (members, watchers) = (ctx.clients::<3>().await?, ctx.clients::<3>().await?);
    let mut work = Vec::new();
    for (number, client) in members.into_iter().enumerate() {
        let (service, case) = (service.clone(), ctx.clone());
        work.push(tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(number as u64);
            for round in 0..6 {
                let instance = Instance::new(format!("{number}-{}", round % 2), "x");
                let registered = register(&client, &service, instance.clone(), &case).await?;
                tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
                registered.registration.update(instance.with_weight(2)).await?;
                tokio::time::sleep(Duration::from_millis(random.u64(0..8))).await;
                registered.deregister().await?;
            }
            register(&client, &service, Instance::new(format!("last {number}"), "x"), &case).await
        }));
    }
    let mut watching = Vec::new();
    for (number, client) in watchers.into_iter().enumerate() {
        let service = service.clone();
        watching.push(tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10 * number as u64)).await;
            let (mut watcher, mut seen) = (watch(&client, &service), BTreeMap::new());
            while !(seen.len() == 3 && seen.keys().all(|id: &String| id.starts_with("last"))) {
                match watcher.next().await? {
                    RegistryEvent::Snapshot(members) => {
                        seen = members.into_iter().map(|m| (m.instance.id.clone(), m)).collect();
                    }
                    RegistryEvent::Joined(member) | RegistryEvent::Updated(member) => {
                        seen.insert(member.instance.id.clone(), member);
                    }
                    RegistryEvent::Left(member) => {
                        seen.remove(&member.instance.id);
                    }
                    other => return Err(Failure::new(format!("an unknown report: {other:?}"))),
                }
            }
            Ok::<_, Failure>(seen)
        }));
    }
    let mut registered = Vec::new();
    for member in work {
        registered.push(member.await??);
    }
    let listed = instances(&ctx.client().await?, &service, false).await?;
    for watcher in watching {
        let seen = ctx.soon("the last report", watcher).await???;
        ensure!(seen.values().eq(&listed), "{listed:?} are listed, and a watcher sees {seen:?}");
    }
    instances(&ctx.client().await?, &service, true).await?;
    for registered in registered {
        registered.deregister().await?;
    }
    Ok(())
}
