//! What the project wants of itself, as ratios within one run, and whether it is so.

use super::{Measure, Report};

/// What is compared with what.
#[derive(Debug, Clone, Copy)]
pub enum Figure {
    /// A measure of one row for that of another.
    Ratio((&'static str, &'static str, Measure), (&'static str, &'static str, Measure)),
    /// A measure of one row.
    Value(&'static str, &'static str, Measure),
}

/// A bound.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// What it is about.
    pub what: &'static str,
    /// On which backend.
    pub backend: &'static str,
    /// What is bounded; systems and results.
    pub figure: Figure,
    /// The bound.
    pub limit: f64,
    /// Whether less is better.
    pub at_most: bool,
}

/// What became of a bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// The figure, within the bound.
    Met(f64),
    /// The figure, beyond it.
    Missed(f64),
    /// There is no figure.
    Unknown,
}

impl Bound {
    /// Whether it is met.
    #[must_use]
    pub fn judge(&self, report: &Report) -> Verdict {
        let row = |(system, result, measure): (&'static str, &'static str, Measure)| {
            ((system, self.backend, result), measure)
        };
        let figure = match self.figure {
            Figure::Ratio(one, other) => report.ratio(row(one), row(other)),
            Figure::Value(system, result, measure) => report.median((system, self.backend, result), measure),
        };
        match figure {
            Some(figure) if (figure <= self.limit) == self.at_most || figure == self.limit => {
                Verdict::Met(figure)
            }
            Some(figure) => Verdict::Missed(figure),
            None => Verdict::Unknown,
        }
    }
}

use Figure::{Ratio, Value};
use Measure::{Fairness, P50, P99, Processor, Rate};

const fn most(what: &'static str, backend: &'static str, limit: f64, figure: Figure) -> Bound {
    Bound { what, backend, figure, limit, at_most: true }
}

const fn least(what: &'static str, backend: &'static str, limit: f64, figure: Figure) -> Bound {
    Bound { what, backend, figure, limit, at_most: false }
}

const SAME: Figure = Ratio(("coord", "W1.same.pair", P50), ("floor", "W1.same.pair", P50));
const FRESH: Figure = Ratio(("coord", "W1.fresh.pair", P50), ("floor", "W1.fresh.pair", P50));
const PARKED: Figure = Ratio(("coord", "W2p.parked", P50), ("floor", "W2p.parked", P50));
const FAIR: Figure = Value("coord", "W2.handoff", Fairness);
const OWN: Figure = Ratio(("coord", "W3.pairs", Rate), ("floor", "W3.pairs", Rate));
const OWN_CPU: Figure = Ratio(("coord", "W3.pairs", Processor), ("floor", "W3.pairs", Processor));

/// All of them.
pub const BOUNDS: [Bound; 29] = [
    most("uncontended pair, one name, × the floor", "redis", 1.15, SAME),
    most("uncontended pair, one name, × the floor", "etcd", 1.15, SAME),
    most("uncontended pair, one name, × the floor", "zk", 1.15, SAME),
    most("uncontended pair, a fresh name each, × the floor", "redis", 1.15, FRESH),
    most("uncontended pair, a fresh name each, × the floor", "etcd", 1.15, FRESH),
    most("uncontended pair, a fresh name each, × the floor", "zk", 1.6, FRESH),
    most("parked hand-off, × the floor", "redis", 4.0, PARKED),
    most("parked hand-off, × the floor", "etcd", 3.0, PARKED),
    most(
        "parked hand-off, its p99, × the floor's p50",
        "etcd",
        10.0,
        Ratio(("coord", "W2p.parked", P99), ("floor", "W2p.parked", P50)),
    ),
    most("parked hand-off, × the floor", "zk", 2.5, PARKED),
    most("8 clients on one lock, most for each of least", "sqlite", 1.1, FAIR),
    most("8 clients on one lock, most for each of least", "redis", 1.1, FAIR),
    most("8 clients on one lock, most for each of least", "pg", 1.1, FAIR),
    most("8 clients on one lock, most for each of least", "etcd", 1.1, FAIR),
    most("8 clients on one lock, most for each of least", "zk", 1.1, FAIR),
    least(
        "8 clients on one lock, acquisitions a second",
        "redis",
        5_000.0,
        Value("coord", "W2.handoff", Rate),
    ),
    least(
        "8 clients on one lock, acquisitions, × the lock RPC",
        "etcd",
        5.0,
        Ratio(("coord", "W2.handoff", Rate), ("etcd-lock-rpc", "W2.handoff", Rate)),
    ),
    least(
        "8 clients on one lock, acquisitions, × the driver's recipe",
        "zk",
        1.0,
        Ratio(("coord", "W2.handoff", Rate), ("zk-recipe", "W2.handoff", Rate)),
    ),
    least(
        // On one connection the driver sends together what is asked for at once; the bound is on requests one by one.
        "64 independent locks, × 64 connections of the driver",
        "redis",
        0.8,
        Ratio(("coord", "W3.pairs", Rate), ("floor", "W3.own", Rate)),
    ),
    least("64 independent locks, × the floor", "pg", 0.8, OWN),
    least("64 independent locks, × the floor", "etcd", 0.8, OWN),
    least("64 independent locks, × the floor", "zk", 0.8, OWN),
    most(
        "64 independent locks, processor time of the client, × 64 connections of the driver",
        "redis",
        1.5,
        Ratio(("coord", "W3.pairs", Processor), ("floor", "W3.own", Processor)),
    ),
    most("64 independent locks, processor time of the client, × the floor", "pg", 1.5, OWN_CPU),
    most("64 independent locks, processor time of the client, × the floor", "etcd", 1.5, OWN_CPU),
    most("64 independent locks, processor time of the client, × the floor", "zk", 1.5, OWN_CPU),
    most(
        "discovery of 1,000 instances, × a listing and one MultiRead",
        "zk",
        2.0,
        Ratio(("coord", "W7.discover", P50), ("floor", "W7.discover", P50)),
    ),
    least(
        "queue flat out, 1 to 1, × BLMOVE",
        "redis",
        1.0,
        Ratio(("coord", "W5.1x1.sat", Rate), ("redis-blmove", "W5.1x1.sat", Rate)),
    ),
    most(
        "queue at 200 items a second, end to end, × one event of a watch",
        "etcd",
        5.0,
        Ratio(("coord", "W5.1x1.paced", P50), ("floor", "W6.watch", P50)),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Row;

    #[test]
    fn a_bound_is_met_up_to_its_limit() {
        let report = |rate| {
            let row = Row {
                system: "coord".into(),
                backend: "redis".into(),
                workload: "W2.handoff".into(),
                ops_per_s: rate,
                ..Row::default()
            };
            Report { rounds: vec![vec![row]], ..Report::default() }
        };
        let bound = BOUNDS.iter().find(|bound| bound.limit == 5_000.0).unwrap();
        assert_eq!(bound.judge(&report(6_000.0)), Verdict::Met(6_000.0));
        assert_eq!(bound.judge(&report(5_000.0)), Verdict::Met(5_000.0));
        assert_eq!(bound.judge(&report(4_000.0)), Verdict::Missed(4_000.0));
        assert_eq!(bound.judge(&Report::default()), Verdict::Unknown);
    }

    /// Each bound is on a system that is measured there.
    #[test]
    fn bounds_are_about_what_is_measured() {
        use crate::{backend::Backend, systems::has};
        for bound in BOUNDS {
            let backend: Backend = bound.backend.parse().unwrap();
            let named = match bound.figure {
                Ratio(one, other) => vec![one, other],
                Value(system, result, measure) => vec![(system, result, measure)],
            };
            for (system, result, _) in named {
                let workload = result.split('.').next().unwrap();
                assert!(has(system, backend, workload), "{}: {system} on {backend}", bound.what);
            }
        }
    }
}
