//! The list of what a backend passes and ignores, kept in its repository.

use std::{collections::BTreeMap, fmt::Write, path::PathBuf};

use crate::{Failure, Outcome, Verdict};

/// Set, it makes a run write the list anew.
const BLESS: &str = "COORD_BLESS";

/// Compares the outcomes of a whole run with the list; with that of this backend, where the test has several.
///
/// # Errors
/// Every difference, and what to do about it.
pub(crate) fn compare(backend: Option<&str>, outcomes: &BTreeMap<&'static str, Outcome>) -> Verdict {
    let Some(file) = file(backend) else {
        eprintln!("not compared with an expectation: the test was not started by cargo");
        return Ok(());
    };
    let actual = list(outcomes);
    let failed = outcomes.values().any(|outcome| matches!(outcome, Outcome::Failed(_)));
    if !failed && std::env::var_os(BLESS).is_some() {
        return std::fs::write(&file, actual)
            .map_err(|error| Failure::new(format!("{} cannot be written: {error}", file.display())));
    }
    let expected = std::fs::read_to_string(&file).map_err(|error| {
        Failure::new(format!("{} cannot be read: {error}; {BLESS}=1 writes it", file.display()))
    })?;
    let difference = difference(&expected, &actual);
    if difference.is_empty() {
        return Ok(());
    }
    let file = file.display();
    Err(Failure::new(format!(
        "the outcomes differ from {file} (- expected, + now):\n{difference}\
         If that is right, run again with {BLESS}=1 and commit the file."
    )))
}

/// `tests/<test target>[.<backend>].expected` in the folder of the crate whose test runs.
fn file(backend: Option<&str>) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let program = std::env::current_exe().ok()?;
    let stem = program.file_stem()?.to_str()?;
    // Cargo appends a hash: `conformance-0123456789abcdef`.
    let target = stem.rsplit_once('-').map_or(stem, |(target, _)| target);
    let backend = backend.map(|name| format!(".{name}")).unwrap_or_default();
    Some(folder.join("tests").join(format!("{target}{backend}.expected")))
}

fn list(outcomes: &BTreeMap<&'static str, Outcome>) -> String {
    let mut list = String::new();
    for (name, outcome) in outcomes {
        let _ = match outcome {
            Outcome::Passed => writeln!(list, "pass {name}"),
            Outcome::Ignored(reason) | Outcome::Unavailable(reason) => {
                writeln!(list, "ignore {name}: {reason}")
            }
            Outcome::Failed(_) => writeln!(list, "fail {name}"),
        };
    }
    list
}

fn difference(expected: &str, actual: &str) -> String {
    let mut text = String::new();
    for line in expected.lines().filter(|line| !actual.lines().any(|other| other == *line)) {
        let _ = writeln!(text, "- {line}");
    }
    for line in actual.lines().filter(|line| !expected.lines().any(|other| other == *line)) {
        let _ = writeln!(text, "+ {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_difference_is_named() {
        let outcomes = BTreeMap::from([
            ("a::one", Outcome::Passed),
            ("b::two", Outcome::Ignored("not here".into())),
            ("c::three", Outcome::Failed(Failure::new("broken"))),
        ]);
        let actual = list(&outcomes);
        assert_eq!(actual, "pass a::one\nignore b::two: not here\nfail c::three\n");
        assert_eq!(difference(&actual, &actual), "");
        let expected = "pass a::one\npass b::two\npass gone\n";
        assert_eq!(
            difference(expected, &actual),
            "- pass b::two\n- pass gone\n+ ignore b::two: not here\n+ fail c::three\n"
        );
    }
}
