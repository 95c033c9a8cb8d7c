//! Observers of elections and watchers of services that record what they report.

use coord_core::{Election, ElectionEvent, Leader, Member, Name, Registry, RegistryEvent, Watch, spi::Kind};

use crate::{
    Client, Failure, Verdict,
    history::{Change, Op, Recorder, Seen, object},
};

/// A watch that records what it reports.
pub(crate) struct Watching<T> {
    watch: Watch<T>,
    recorder: Recorder,
    object: String,
    watcher: u64,
    op: fn(u64, &T) -> Op,
}

impl<T> Watching<T> {
    pub(crate) fn new(client: &Client, object: String, watch: Watch<T>, op: fn(u64, &T) -> Op) -> Self {
        let recorder = client.recorder().clone();
        let watcher = recorder.number();
        Self { watch, recorder, object, watcher, op }
    }

    /// The next report.
    pub(crate) async fn next(&mut self) -> Verdict<T> {
        let Some(report) = self.watch.next().await else {
            return Err(Failure::new("a watch ended"));
        };
        let report = report?;
        self.recorder.note(&self.object, (self.op)(self.watcher, &report));
        Ok(report)
    }

    /// Reads on until a report is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&T) -> bool) -> Verdict<T> {
        loop {
            let report = self.next().await?;
            if wanted(&report) {
                return Ok(report);
            }
        }
    }
}

/// Observes an election, recorded.
pub(crate) fn observe(client: &Client, name: &Name) -> Watching<ElectionEvent> {
    let op = |watcher, event: &ElectionEvent| {
        let seen = match event {
            ElectionEvent::Elected(leader) => Seen::Elected(leader.id.clone(), leader.term.get()),
            ElectionEvent::Proclaimed(leader) => Seen::Proclaimed(leader.id.clone(), leader.term.get()),
            _ => Seen::Vacant,
        };
        Op::Observed { watcher, seen }
    };
    Watching::new(client, object(Kind::Election, name), client.observe(name), op)
}

/// Reads the leader, recorded. `settled`: whoever observes has seen this one.
pub(crate) async fn leader(client: &Client, name: &Name, settled: bool) -> Verdict<Option<Leader>> {
    let op = |leader: Option<&Option<Leader>>| {
        let leader = leader.into_iter().flatten().next();
        Op::Leader { leader: leader.map(|leader| (leader.id.clone(), leader.term.get())), settled }
    };
    let read = client.leader(name);
    Ok(client.recorder().call(&object(Kind::Election, name), read, op).await?)
}

pub(crate) fn listed(members: &[Member]) -> Vec<(String, u64)> {
    members.iter().map(|member| (member.instance.id.clone(), member.token.get())).collect()
}

/// Watches a service, recorded.
pub(crate) fn watch(client: &Client, service: &Name) -> Watching<RegistryEvent> {
    let op = |watcher, event: &RegistryEvent| {
        let one = |member: &Member| (member.instance.id.clone(), member.token.get());
        let change = match event {
            RegistryEvent::Snapshot(members) => Change::Snapshot(listed(members)),
            RegistryEvent::Joined(member) => Change::Joined(one(member).0, one(member).1),
            RegistryEvent::Updated(member) => Change::Updated(one(member).0, one(member).1),
            RegistryEvent::Left(member) => Change::Left(one(member).0, one(member).1),
            other => unreachable!("a report that the suite does not know: {other:?}"),
        };
        Op::Watched { watcher, change }
    };
    Watching::new(client, object(Kind::Registry, service), client.watch_instances(service), op)
}

/// Reads the instances, recorded. `settled`: whoever watches has seen these.
pub(crate) async fn instances(client: &Client, service: &Name, settled: bool) -> Verdict<Vec<Member>> {
    let op = |members: Option<&Vec<Member>>| Op::Members {
        members: members.map(|members| listed(members)).unwrap_or_default(),
        settled,
    };
    let read = client.instances(service);
    Ok(client.recorder().call(&object(Kind::Registry, service), read, op).await?)
}
