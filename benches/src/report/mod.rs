//! The comparison: everything that there is, measured in rounds, and written as a page.
//!
//! Each round measures every system once, those of one backend and workload directly after each other. A ratio is one of the same
//! round, and what is shown is the median over the rounds; so what a machine does at some moment weighs little.

mod bounds;
mod causes;
mod changes;
mod classic;
mod machine;
mod measure;
mod page;
mod plots;
mod table;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    bounds::{BOUNDS, Bound, Verdict},
    changes::changes,
    machine::{Machine, Server},
    measure::{Plan, measure},
    page::write,
};
use crate::row::Row;

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// The servers that were measured.
    pub servers: Vec<Server>,
    /// Backends that were not there, and why.
    pub missing: BTreeMap<String, String>,
    /// The rows of each round.
    pub rounds: Vec<Vec<Row>>,
    /// What holding locks cost in each round.
    pub kept: Vec<Vec<Kept>>,
}

/// What it costs a client to hold locks, and its server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// On which backend.
    pub backend: String,
    /// How many locks.
    pub locks: usize,
    /// Requests that the server counted, each second.
    pub requests_per_s: Option<f64>,
    /// Milliseconds of the client's processor time, each second.
    pub cpu_ms_per_s: f64,
}

/// What of a row is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// Half of the samples are at most as long, in microseconds.
    P50,
    /// All but a hundredth.
    P99,
    /// How many a second.
    Rate,
    /// Seconds of processor time per thousand.
    Processor,
    /// The most acquisitions of a client for each of the fewest.
    Fairness,
}

impl Measure {
    fn of(self, row: &Row) -> Option<f64> {
        if row.error.is_some() {
            return None;
        }
        match self {
            Self::P50 => Some(row.summary.p50_us),
            Self::P99 => Some(row.summary.p99_us),
            Self::Rate => Some(row.ops_per_s),
            Self::Processor => row.extra.cpu_s_per_1k,
            Self::Fairness => {
                let (most, least) = row.extra.fair_max.zip(row.extra.fair_min)?;
                Some(most as f64 / least as f64)
            }
        }
    }
}

/// The middle one; of an even number the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Which row: the system, the backend and the result.
pub type Of<'a> = (&'a str, &'a str, &'a str);

impl Report {
    /// What each round says.
    #[must_use]
    pub fn each(&self, of: Of<'_>, measure: Measure) -> Vec<Option<f64>> {
        let is = |row: &&Row| (row.system.as_str(), row.backend.as_str(), row.workload.as_str()) == of;
        self.rounds.iter().map(|rows| rows.iter().find(is).and_then(|row| measure.of(row))).collect()
    }

    /// The median over the rounds.
    #[must_use]
    pub fn median(&self, of: Of<'_>, measure: Measure) -> Option<f64> {
        median(self.each(of, measure).into_iter().flatten().collect())
    }

    /// The median of the ratios within the rounds.
    #[must_use]
    pub fn ratio(&self, one: (Of<'_>, Measure), other: (Of<'_>, Measure)) -> Option<f64> {
        let pairs = self.each(one.0, one.1).into_iter().zip(self.each(other.0, other.1));
        median(pairs.filter_map(|(one, other)| Some(one? / other?)).collect())
    }

    /// The median over the rounds of what so many locks cost on this backend: requests and milliseconds of processor time, each
    /// second.
    #[must_use]
    pub fn keeping(&self, backend: &str, locks: usize) -> Option<(Option<f64>, f64)> {
        let is = |kept: &&Kept| kept.backend == backend && kept.locks == locks;
        let found: Vec<_> = self.kept.iter().flatten().filter(is).collect();
        let requests = median(found.iter().filter_map(|kept| kept.requests_per_s).collect());
        Some((requests, median(found.iter().map(|kept| kept.cpu_ms_per_s).collect())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Summary;

    fn row(system: &str, p50_us: f64) -> Row {
        Row {
            system: system.into(),
            backend: "redis".into(),
            workload: "W1.same.pair".into(),
            summary: Summary { n: 1, p50_us, ..Summary::default() },
            ..Row::default()
        }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let rounds = [(2.0, 1.0), (40.0, 10.0), (3.0, 1.0)];
        let rounds = rounds.map(|(one, other)| vec![row("coord", one), row("floor", other)]).into();
        let report = Report { rounds, ..Report::default() };
        let of = |system| (system, "redis", "W1.same.pair");
        let ratio = report.ratio((of("coord"), Measure::P50), (of("floor"), Measure::P50));
        assert_eq!(ratio, Some(3.0));
        assert_eq!(report.median(of("coord"), Measure::P50), Some(3.0));
        assert_eq!(report.median(of("rslock"), Measure::P50), None);
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }
}
