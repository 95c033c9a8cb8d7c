//! `coord doctor`: what the store is, what it promises, and what weakens that.

use std::collections::BTreeMap;

use clap::Args;
use coord_core::{
    ClockAssumption, Coordinator, Durability, Features, Guarantees, Inspect as _, Name, Report, Scope,
    Weakness, spi::Kind,
};
use serde::Serialize;

use crate::{
    cli::Globals,
    output,
    session::with_backend,
    status::{self, Failure},
};

/// Shows what the store is, what it promises, and which settings weaken that.
///
/// Exits with 0 if the store answers, also if settings weaken what it promises; with 69 if it does not answer, lets
/// nobody in, or lacks rights. The password of the URL is never printed.
///
/// JSON keys: store, namespace, backend, guarantees (scope, durability, clock, features, min_ttl_ms, max_ttl_ms), facts (an
/// object; null is what the server does not tell this user), weaknesses (a list of objects with setting, found, consequence,
/// remedy).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  coord doctor
  coord doctor --store 'redis://cache.example?strict=true'   fails if anything weakens it
  coord doctor --json | jq -e '.weaknesses == []'")]
pub(crate) struct Doctor {}

#[derive(Serialize)]
struct Shown<'a> {
    store: &'a str,
    namespace: &'a str,
    backend: &'a str,
    guarantees: Promised,
    facts: BTreeMap<&'static str, Option<&'a str>>,
    weaknesses: Vec<Found<'a>>,
}

#[derive(Serialize)]
struct Promised {
    scope: &'static str,
    durability: &'static str,
    clock: &'static str,
    features: Vec<&'static str>,
    min_ttl_ms: u64,
    max_ttl_ms: u64,
}

#[derive(Serialize)]
struct Found<'a> {
    setting: &'static str,
    found: Option<&'a str>,
    consequence: &'static str,
    remedy: &'static str,
}

impl Doctor {
    pub(crate) async fn run(self, globals: &Globals) -> Result<u8, Failure> {
        with_backend(globals, async |backend, coordinator| {
            let report = backend.examine().await?;
            // Who may connect may still lack the right to do anything.
            coordinator.inspect(Kind::Lock, &Name::new("coord-doctor")?).await?;
            globals
                .output()
                .print(&json(&coordinator, &report), || text(&coordinator, &report).trim_end().to_owned())?;
            Ok(status::OK)
        })
        .await
    }
}

fn json<'a>(coordinator: &'a Coordinator, report: &'a Report) -> Shown<'a> {
    let promised = coordinator.guarantees();
    let millis = |ttl: std::time::Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let found = |weakness: &'a Weakness| Found {
        setting: weakness.setting,
        found: weakness.found.as_deref(),
        consequence: weakness.consequence,
        remedy: weakness.remedy,
    };
    Shown {
        store: &report.store,
        namespace: coordinator.namespace().as_str(),
        backend: promised.backend,
        guarantees: Promised {
            scope: scope(promised.scope).0,
            durability: durability(promised.durability).0,
            clock: clock(promised.clock).0,
            features: features(promised.features),
            min_ttl_ms: millis(promised.min_ttl),
            max_ttl_ms: millis(promised.max_ttl),
        },
        facts: report.facts.iter().map(|fact| (fact.name, fact.value.as_deref())).collect(),
        weaknesses: report.weaknesses.iter().map(found).collect(),
    }
}

fn text(coordinator: &Coordinator, report: &Report) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: &str| text += &format!("{name:<22}{value}\n");
    row("store", &report.store);
    row("namespace", coordinator.namespace().as_str());
    for fact in &report.facts {
        row(fact.name, fact.value.as_deref().unwrap_or("unknown: this user may not ask"));
    }
    for (name, value) in promises(coordinator.guarantees()) {
        row(name, &value);
    }
    text += &weakened(&report.weaknesses);
    text
}

fn promises(promised: &Guarantees) -> [(&'static str, String); 5] {
    let said = |(word, meaning): (&str, &str)| format!("{word}: {meaning}");
    let (min, max) = (output::duration(promised.min_ttl), output::duration(promised.max_ttl));
    [
        ("promised scope", said(scope(promised.scope))),
        ("promised durability", said(durability(promised.durability))),
        ("assumed clock", said(clock(promised.clock))),
        ("features", features(promised.features).join(", ")),
        ("TTL", format!("{min} to {max}")),
    ]
}

fn weakened(weaknesses: &[Weakness]) -> String {
    if weaknesses.is_empty() {
        return "nothing weakens what is promised\n".into();
    }
    let one = |weakness: &Weakness| {
        let found = match &weakness.found {
            Some(found) => format!("{} is {found}: {}", weakness.setting, weakness.consequence),
            None => format!("{} is unknown: perhaps {}", weakness.setting, weakness.consequence),
        };
        format!("weakened: {found}\n  to set it right: {}\n", weakness.remedy)
    };
    weaknesses.iter().map(one).collect()
}

fn scope(scope: Scope) -> (&'static str, &'static str) {
    match scope {
        Scope::Process => ("process", "the tasks of one process"),
        Scope::Host => ("host", "the processes of one host"),
        Scope::Network => ("network", "the processes of all hosts that reach the server"),
        _ => ("other", "see the documentation of the backend"),
    }
}

fn durability(durability: Durability) -> (&'static str, &'static str) {
    match durability {
        Durability::Process => ("process", "what was answered ends with the store's process"),
        Durability::Crash => {
            ("crash", "what was answered survives a crash of the store, not always a loss of power")
        }
        Durability::Power => ("power", "what was answered survives a loss of power"),
        Durability::Quorum => ("quorum", "what was answered survives the loss of a minority of the servers"),
        _ => ("other", "see the documentation of the backend"),
    }
}

fn clock(clock: ClockAssumption) -> (&'static str, &'static str) {
    match clock {
        ClockAssumption::Same => ("same", "holder and store read the same clock"),
        ClockAssumption::BoundedRate => ("bounded-rate", "clocks differ in rate by at most one percent"),
        ClockAssumption::NoSteps => {
            ("no-steps", "clocks differ in rate by at most one percent, and nobody steps the store's")
        }
        _ => ("other", "see the documentation of the backend"),
    }
}

fn features(features: Features) -> Vec<&'static str> {
    let all = [
        (features.priority, "priority"),
        (features.hand_over, "hand-over"),
        (features.resume, "resume"),
        (features.shared, "shared"),
    ];
    all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
}
