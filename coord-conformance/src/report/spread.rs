//! How measured times are spread.

use serde::Serialize;

/// How many there are, and what they come to: in milliseconds, or in multiples of something.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) count: usize,
    pub(super) min: f64,
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Of these; `None` of none. A percentile is the least value that so many are not above.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let rank = |part: usize| values[(values.len() * part).div_ceil(100).max(1) - 1];
        Some(Self { count: values.len(), min, p50: rank(50), p99: rank(99), max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        assert_eq!(Spread::of([]), None);
        let one = Spread::of([7.0]).unwrap();
        assert_eq!((one.count, one.min, one.p50, one.p99, one.max), (1, 7.0, 7.0, 7.0, 7.0));
        let many = Spread::of((1..=200).rev().map(f64::from)).unwrap();
        assert_eq!((many.min, many.p50, many.p99, many.max), (1.0, 100.0, 198.0, 200.0));
        assert_eq!(Spread::of([3.0, -2.0]).unwrap().min, -2.0);
    }
}
