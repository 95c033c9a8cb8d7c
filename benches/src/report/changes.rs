//! What differs between two reports by more than their rounds do among themselves.

use super::{Measure, Of, Report};

/// How much a median has to change, at least.
const LEAST: f64 = 0.10;

/// A figure that changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The system, the backend and the result.
    pub of: (String, String, String),
    /// Whether it is a rate; otherwise a length of time in microseconds.
    pub rate: bool,
    /// The median then.
    pub before: f64,
    /// The median now.
    pub after: f64,
}

impl Change {
    /// Whether it is better now.
    #[must_use]
    pub fn is_better(&self) -> bool {
        (self.after > self.before) == self.rate
    }
}

/// The least and the greatest of the rounds.
fn spread(report: &Report, of: Of<'_>, measure: Measure) -> Option<(f64, f64)> {
    let values: Vec<f64> = report.each(of, measure).into_iter().flatten().collect();
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    Some((least, most))
}

/// The figures of which all rounds of one report lie on one side of all rounds of the other, and whose medians differ by a tenth
/// or more.
///
/// Floors are figures too: where they changed alike, the machine did.
#[must_use]
pub fn changes(before: &Report, after: &Report) -> Vec<Change> {
    let mut found = Vec::new();
    for row in after.rounds.first().into_iter().flatten() {
        let of = (row.system.as_str(), row.backend.as_str(), row.workload.as_str());
        let rate = matches!(
            row.workload.as_str(),
            "W2.handoff" | "W3.pairs" | "W3.own" | "W5.1x1.sat" | "W5.4x4.sat"
        );
        let measure = if rate { Measure::Rate } else { Measure::P50 };
        let Some(((low, high), (new_low, new_high))) =
            spread(before, of, measure).zip(spread(after, of, measure))
        else {
            continue;
        };
        let Some((old, new)) = before.median(of, measure).zip(after.median(of, measure)) else { continue };
        let apart = new_low > high || new_high < low;
        if apart && (new / old - 1.0).abs() >= LEAST {
            let of = (row.system.clone(), row.backend.clone(), row.workload.clone());
            found.push(Change { of, rate, before: old, after: new });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row::Row, time::Summary};

    fn report(rounds: &[f64]) -> Report {
        let row = |p50_us: &f64| Row {
            system: "coord".into(),
            backend: "redis".into(),
            workload: "W1.same.pair".into(),
            summary: Summary { n: 1, p50_us: *p50_us, ..Summary::default() },
            ..Row::default()
        };
        Report { rounds: rounds.iter().map(|p50| vec![row(p50)]).collect(), ..Report::default() }
    }

    #[test]
    fn noise_is_no_change() {
        let before = report(&[100.0, 110.0, 140.0]);
        assert!(changes(&before, &before).is_empty());
        assert!(changes(&before, &report(&[130.0, 150.0, 160.0])).is_empty(), "the rounds overlap");
        assert!(changes(&report(&[100.0]), &report(&[105.0])).is_empty(), "it is little");
        let slower = changes(&before, &report(&[150.0, 160.0, 170.0]));
        assert_eq!((slower.len(), slower[0].before, slower[0].after), (1, 110.0, 160.0));
        assert!(!slower[0].is_better());
        assert!(changes(&before, &report(&[50.0, 60.0, 70.0]))[0].is_better());
    }
}
