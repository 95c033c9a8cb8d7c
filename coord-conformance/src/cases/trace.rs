//! Every operation says in one `tracing` event what it was, on which name, with which token, and how it ended.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use coord_core::{
    Barrier, Election, FencingToken, Inspect, Instance, Lock, Name, Registry, RwLock, Semaphore, spi::Kind,
};
use tracing::{
    Dispatch, Event, Subscriber,
    field::{Field, Visit},
    instrument::WithSubscriber,
    span::{Attributes, Id},
};
use tracing_subscriber::{
    Layer, Registry as Spans,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
};

use super::cases;
use crate::{Ctx, Verdict, ensure, refused};

cases! { "trace":
    operations_tell_name_token_and_outcome,
    shared_operations_tell_too [Shared],
    refusals_are_told,
    values_are_not_told,
}

/// The fields of an event and of the spans around it.
#[derive(Clone, Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }
}

impl fmt::Display for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| write!(f, "{name}={value} "))
    }
}

/// Keeps all events.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Fields>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Told {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.0.extend(of_span.0.clone());
            }
        }
        event.record(&mut fields);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fields);
    }
}

impl Told {
    /// Where the events of an operation go.
    fn dispatch(&self) -> Dispatch {
        // With a single subscriber, `tracing` asks only the present thread's whether an event is wanted when it meets
        // the event for the first time, and cases on other threads have none. Two more that want everything end that.
        static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
        OTHERS.get_or_init(|| [Dispatch::new(Spans::default()), Dispatch::new(Spans::default())]);
        Dispatch::new(Spans::default().with(self.clone()))
    }

    /// Fails unless the operation told of itself since the last question, once.
    fn expect(&self, operation: &str, name: &Name, token: Option<FencingToken>, outcome: &str) -> Verdict {
        let told = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let is =
            |fields: &&Fields, key: &str, value: &str| fields.0.get(key).is_some_and(|found| found == value);
        let all = told.iter().map(Fields::to_string).collect::<Vec<_>>().join("\n");
        let mut of_it = told.iter().filter(|fields| is(fields, "message", operation));
        let Some(event) = of_it.next() else {
            return Err(crate::Failure::new(format!("{operation} told nothing of itself, only:\n{all}")));
        };
        ensure!(of_it.next().is_none(), "{operation} told more than once:\n{all}");
        ensure!(is(&event, "name", name.as_str()), "{operation} does not tell its name: {event}");
        ensure!(is(&event, "outcome", outcome), "{operation} does not tell its outcome {outcome}: {event}");
        if let Some(token) = token {
            ensure!(
                is(&event, "token", &token.to_string()),
                "{operation} does not tell its token {token}: {event}"
            );
        }
        Ok(())
    }
}

/// Acquire, hold, release; campaign, lead, resign; register, update, deregister; wait, enter, leave; look and evict.
async fn operations_tell_name_token_and_outcome(ctx: Ctx) -> Verdict {
    let (told, client, name) = (Told::default(), ctx.client().await?, ctx.fresh_name());
    let (to, lock) = (|| told.dispatch(), ctx.lock_options());
    let ok = |operation, token| told.expect(operation, &name, token, "ok");

    let guard = client.acquire(&name, &lock).with_subscriber(to()).await?;
    let token = guard.token();
    ok("lock.acquire", Some(token))?;
    guard.extend(ctx.long_ttl()).with_subscriber(to()).await?;
    ok("lock.extend", Some(token))?;
    client.inspect(Kind::Lock, &name).with_subscriber(to()).await?;
    ok("inspect", None)?;
    let detached = guard.detach().with_subscriber(to()).await?;
    ok("lock.detach", Some(token))?;
    if ctx.guarantees().features.resume {
        let guard = client.resume(&detached).with_subscriber(to()).await?;
        ok("lock.resume", Some(token))?;
        guard.release().with_subscriber(to()).await?;
        ok("lock.release", Some(token))?;
    } else {
        client.force_release(Kind::Lock, &name, None).await?;
    }
    let guard = client.try_acquire(&name, &lock).with_subscriber(to()).await?;
    ok("lock.try_acquire", Some(guard.token()))?;
    let evicted = client.force_release(Kind::Lock, &name, None).with_subscriber(to()).await?;
    ok("force_release", evicted.map(|evicted| evicted.fence))?;
    let writer = client.write(&name, &lock).with_subscriber(to()).await?;
    ok("rwlock.write", Some(writer.token()))?;
    writer.release().await?;

    let office = client.campaign(&name, &ctx.campaign_options()).with_subscriber(to()).await?;
    let term = office.term();
    ok("election.campaign", Some(term))?;
    client.leader(&name).with_subscriber(to()).await?;
    ok("election.leader", Some(term))?;
    office.proclaim(*b"x").with_subscriber(to()).await?;
    ok("election.proclaim", Some(term))?;
    office.resign().with_subscriber(to()).await?;
    ok("election.resign", Some(term))?;

    let instance = Instance::new("i", "x");
    let register = ctx.register_options();
    let registration = client.register(&name, instance.clone(), &register).with_subscriber(to()).await?;
    let token = registration.token();
    ok("registry.register", Some(token))?;
    registration.update(instance.with_weight(2)).with_subscriber(to()).await?;
    ok("registry.update", Some(token))?;
    client.instances(&name).with_subscriber(to()).await?;
    ok("registry.instances", None)?;
    registration.deregister().with_subscriber(to()).await?;
    ok("registry.deregister", Some(token))?;

    let pass = client.wait(&name, 1, &ctx.barrier_options()).with_subscriber(to()).await?;
    ok("barrier.wait", Some(pass.token))?;
    let inside = client.enter(&name, 1, &ctx.barrier_options()).with_subscriber(to()).await?;
    let token = inside.token();
    ok("barrier.enter", Some(token))?;
    inside.leave(None).with_subscriber(to()).await?;
    ok("barrier.leave", Some(token))
}

/// Readers and permits.
async fn shared_operations_tell_too(ctx: Ctx) -> Verdict {
    let (told, client, name) = (Told::default(), ctx.client().await?, ctx.fresh_name());
    let reader = client.read(&name, &ctx.lock_options()).with_subscriber(told.dispatch()).await?;
    told.expect("rwlock.read", &name, Some(reader.token()), "ok")?;
    let permits =
        client.acquire_permits(&name, 1, 2, &ctx.lock_options()).with_subscriber(told.dispatch()).await?;
    told.expect("semaphore.acquire", &name, Some(permits.token()), "ok")?;
    reader.release().await?;
    permits.release().await?;
    Ok(())
}

/// An error is told by its kind.
async fn refusals_are_told(ctx: Ctx) -> Verdict {
    let (told, [one, two], name) = (Told::default(), ctx.clients().await?, ctx.fresh_name());
    let guard = one.acquire(&name, &ctx.lock_options()).await?;
    refused!(two.try_acquire(&name, &ctx.lock_options()).with_subscriber(told.dispatch()).await, NotGranted);
    told.expect("lock.try_acquire", &name, None, "NotGranted")?;
    let wrong = ctx.lock_options().with_ttl(Duration::ZERO);
    refused!(two.acquire(&name, &wrong).with_subscriber(told.dispatch()).await, InvalidTtl);
    told.expect("lock.acquire", &name, None, "InvalidTtl")?;
    two.force_release(Kind::Lock, &name, None).await?;
    ctx.soon("the loss", guard.lost()).await?;
    let token = guard.token();
    refused!(guard.release().with_subscriber(told.dispatch()).await, Lost);
    told.expect("lock.release", &name, Some(token), "Lost")
}

/// What users put into values is theirs: it is in no event.
async fn values_are_not_told(ctx: Ctx) -> Verdict {
    let (told, client, name) = (Told::default(), ctx.client().await?, ctx.fresh_name());
    let options = ctx.lock_options().with_value(*b"hush-hush");
    let guard = client.acquire(&name, &options).with_subscriber(told.dispatch()).await?;
    let campaign = ctx.campaign_options().with_value(*b"hush-hush");
    let office = client.campaign(&name, &campaign).with_subscriber(told.dispatch()).await?;
    office.proclaim(*b"hush-hush").with_subscriber(told.dispatch()).await?;
    let line = client.inspect(Kind::Lock, &name).with_subscriber(told.dispatch()).await?;
    ensure!(line.holders.len() == 1, "{line:?}");
    office.resign().await?;
    guard.release().with_subscriber(told.dispatch()).await?;
    let told = told.0.lock().unwrap_or_else(PoisonError::into_inner);
    let loud = told.iter().find(|fields| fields.to_string().contains("hush-hush"));
    ensure!(!told.is_empty(), "nothing was told at all");
    ensure!(loud.is_none(), "a value is told: {}", loud.map(Fields::to_string).unwrap_or_default());
    Ok(())
}
