//! Numbers and tables in a page.

use std::fmt::Write as _;

/// A length of time that was measured in microseconds, with two digits that count or more.
pub(super) fn length(micros: f64) -> String {
    match micros {
        micros if micros < 1_000.0 => format!("{} µs", digits(micros)),
        micros if micros < 1_000_000.0 => format!("{} ms", digits(micros / 1e3)),
        micros => format!("{} s", digits(micros / 1e6)),
    }
}

/// A number of which only the first digits count.
pub(super) fn amount(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{}k", digits(value / 1e3)),
        value => digits(value),
    }
}

/// A ratio.
pub(super) fn times(ratio: f64) -> String {
    format!("{} ×", digits(ratio))
}

fn digits(value: f64) -> String {
    let places = match value {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        value if value >= 0.1 => 3,
        _ => 4,
    };
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A table.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!([length(52.34), length(1_250.0), length(3.2e6)], ["52.3 µs", "1.25 ms", "3.2 s"]);
        assert_eq!([amount(81_612.0), amount(640.4), amount(0.05)], ["81.6k", "640", "0.05"]);
        assert_eq!([times(1.1), times(100.0)], ["1.1 ×", "100 ×"]);
        let header = "| a | b |\n| --- | --- |\n";
        assert_eq!(table(&["a", "b"], &[vec!["1".into(), "2".into()]]), format!("{header}| 1 | 2 |\n"));
    }
}
