//! What a measurement says, and how it is written.

use serde::{Deserialize, Serialize};

use crate::time::{Samples, Summary};

/// One result: a JSON object on a line of its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Whose: `coord`, `floor` or another library.
    pub system: String,
    /// On which backend, as it was asked for.
    pub backend: String,
    /// Which result of which workload, such as `W1.same.pair`.
    pub workload: String,
    /// The samples.
    #[serde(flatten)]
    pub summary: Summary,
    /// How many a second.
    pub ops_per_s: f64,
    /// What some workloads say beside it.
    #[serde(flatten)]
    pub extra: Extra,
    /// Why there is no result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What some workloads say beside lengths of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Extra {
    /// The most acquisitions that a client had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair_max: Option<u64>,
    /// The fewest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair_min: Option<u64>,
    /// How often two held at once, or an item came twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub violations: Option<u64>,
    /// How often the lock went to another client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switches: Option<u64>,
    /// How often it was acquired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acquisitions: Option<u64>,
    /// Seconds of this process's processor time per thousand operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_s_per_1k: Option<f64>,
}

/// A result that does not yet say whose it is.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// Which result.
    pub workload: &'static str,
    /// Lengths of time.
    pub samples: Samples,
    /// How many a second; `None` for one after the other.
    pub ops_per_s: Option<f64>,
    /// What else.
    pub extra: Extra,
}

impl Measured {
    /// Operations that were done one after the other.
    #[must_use]
    pub fn each(workload: &'static str, samples: Samples) -> Self {
        Self { workload, samples, ..Self::default() }
    }

    /// The row of this system on this backend.
    #[must_use]
    pub fn row(&self, system: &str, backend: &str) -> Row {
        let summary = self.samples.summary();
        let alone = if summary.mean_us > 0.0 { 1e6 / summary.mean_us } else { 0.0 };
        Row {
            system: system.into(),
            backend: backend.into(),
            workload: self.workload.into(),
            summary,
            ops_per_s: self.ops_per_s.unwrap_or(alone),
            extra: self.extra.clone(),
            error: None,
        }
    }
}

impl Row {
    /// That there is no result, and why.
    #[must_use]
    pub fn failed(system: &str, backend: &str, workload: &str, error: &dyn std::fmt::Display) -> Self {
        Self {
            system: system.into(),
            backend: backend.into(),
            workload: workload.into(),
            error: Some(error.to_string()),
            ..Self::default()
        }
    }
}
