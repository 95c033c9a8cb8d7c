//! The figures of many histories of one backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{
    figures::{Figures, Verdict},
    spread::Spread,
    takeovers::Measured,
};
use crate::history::Header;

/// What is known of one history, on one line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    pub(super) backend: String,
    pub(super) seed: u64,
    pub(super) file: String,
    pub(super) bytes: usize,
    /// XXH3 of the file, 64 bits, in hexadecimal digits.
    pub(super) xxh3: String,
    pub(super) faults: BTreeMap<String, usize>,
    pub(super) operations: [usize; 3],
    pub(super) verdict: Verdict,
    pub(super) settings: BTreeMap<String, String>,
}

/// The figures of one backend.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) histories: usize,
    pub(super) declared: usize,
    pub(super) violated: usize,
    /// Of the histories that are no controls.
    pub(super) figures: Figures,
    pub(super) controls: usize,
    pub(super) silent: usize,
    /// By each control.
    pub(super) lost_updates: Vec<usize>,
    /// Takeovers and redeliveries in multiples of the TTL, in the order of the figures.
    pub(super) takeovers: Vec<f64>,
    pub(super) redeliveries: Vec<f64>,
    pub(super) margins: Vec<f64>,
    /// Settings, and the seeds with which they were run.
    pub(super) settings: BTreeMap<String, BTreeSet<u64>>,
    pub(super) versions: BTreeMap<String, BTreeSet<String>>,
}

impl Totals {
    pub(super) fn add(&mut self, header: &Header, verdict: &Verdict, figures: Figures) {
        let settings = header.settings.iter().map(|(name, value)| format!("{name} {value}"));
        self.settings.entry(settings.collect::<Vec<_>>().join("; ")).or_default().insert(header.seed);
        for (name, version) in &header.versions {
            self.versions.entry(name.clone()).or_default().insert(version.clone());
        }
        match verdict {
            Verdict::Control => {
                self.controls += 1;
                self.lost_updates.push(figures.lost_updates);
                return;
            }
            Verdict::Silent => {
                self.controls += 1;
                self.silent += 1;
                return;
            }
            Verdict::Declared(_) => self.declared += 1,
            Verdict::Violations(_) => self.violated += 1,
            Verdict::Good => {}
        }
        self.histories += 1;
        let ttl = ttl(header).as_secs_f64() * 1e3;
        self.takeovers.extend(figures.takeovers.iter().map(|measured| measured.millis / ttl));
        self.redeliveries.extend(figures.redeliveries.iter().map(|measured| measured.millis / ttl));
        self.margins.extend(figures.margins.iter().map(|margin| margin.held / ttl));
        self.figures.add(figures);
    }

    pub(super) fn operations(&self) -> usize {
        self.figures.outcomes.iter().sum()
    }

    /// As multiples of the TTL, those of a kind, alone or not.
    pub(super) fn multiples(measured: &[Measured], times: &[f64], kind: &str, alone: bool) -> Option<Spread> {
        let of = measured
            .iter()
            .zip(times)
            .filter(|(measured, _)| measured.kind == kind && measured.alone == alone);
        Spread::of(of.map(|(_, times)| *times))
    }

    /// For machines.
    pub(super) fn json(&self) -> Value {
        let figures = &self.figures;
        let timed = |measured: &[Measured], times: Option<&[f64]>| -> Value {
            let mut kinds = serde_json::Map::new();
            for (kind, alone) in kinds_of(measured) {
                let mut spread = json!({ "milliseconds": millis(measured, &kind, alone) });
                if let Some(times) = times {
                    spread["ttls"] = json!(Self::multiples(measured, times, &kind, alone));
                }
                let alone = if alone { "alone" } else { "with other faults" };
                kinds.insert(format!("{kind}, {alone}"), spread);
            }
            Value::Object(kinds)
        };
        json!({
            "histories": self.histories,
            "operations": { "ok": figures.outcomes[0], "failed": figures.outcomes[1], "unknown": figures.outcomes[2] },
            "faults": figures.faults,
            "violated": self.violated,
            "declared": self.declared,
            "controls": { "runs": self.controls, "silent": self.silent, "lost_updates": self.lost_updates },
            "items": { "pushed": figures.items, "lost": figures.lost_items },
            "takeovers": timed(&figures.takeovers, Some(&self.takeovers)),
            "redeliveries": timed(&figures.redeliveries, Some(&self.redeliveries)),
            "margins": {
                "from_the_last_yes": Spread::of(figures.margins.iter().map(|margin| margin.held)),
                "from_the_first_no": Spread::of(figures.margins.iter().filter_map(|margin| margin.noticed)),
            },
            "sightings": timed(&figures.sightings, None),
            "after_heal": Spread::of(figures.after_heal.iter().copied()),
            "settings": self.settings,
            "versions": self.versions,
        })
    }
}

/// The kinds of what was measured, each alone and with other faults, as far as there are any.
pub(super) fn kinds_of(measured: &[Measured]) -> BTreeSet<(String, bool)> {
    measured.iter().map(|measured| (measured.kind.clone(), measured.alone)).collect()
}

pub(super) fn millis(measured: &[Measured], kind: &str, alone: bool) -> Option<Spread> {
    let of = measured.iter().filter(|measured| measured.kind == kind && measured.alone == alone);
    Spread::of(of.map(|measured| measured.millis))
}

/// The TTL of all leases of a run, by its settings.
fn ttl(header: &Header) -> Duration {
    let ttl = header.settings.get("ttl").and_then(|ttl| humantime::parse_duration(ttl).ok());
    ttl.filter(|ttl| !ttl.is_zero()).unwrap_or(Duration::from_secs(1))
}
