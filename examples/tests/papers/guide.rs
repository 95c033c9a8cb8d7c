//! The guide is whole: every page is listed and compiled, and what it names is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{
    links::{links, passed},
    readme::{CARGO, SHOWN},
    text::{blocks, root},
};

const INDEX: &str = "docs/guide/README.md";

/// The pages of the guide, its index too.
pub(crate) fn pages() -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(INDEX).parent().unwrap()).unwrap();
    let mut pages: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(
        pages.iter().all(|page| page.extension().is_some_and(|extension| extension == "md")),
        "{pages:?}"
    );
    pages
}

fn name(page: &Path) -> &str {
    page.file_name().unwrap().to_str().unwrap()
}

#[test]
fn every_page_is_listed_and_compiled() {
    let index = fs::read_to_string(root().join(INDEX)).unwrap();
    let listed: BTreeSet<_> = links(&index).into_iter().map(|(_, target)| target).collect();
    let compiled = fs::read_to_string(root().join("examples/src/guide.rs")).unwrap();
    for page in pages() {
        let name = name(&page);
        assert!(name == "README.md" || listed.contains(name), "{name} is not in the index");
        assert!(compiled.contains(&format!(": \"{name}\",")), "the code of {name} is not compiled");
    }
}

/// The code spans of a text that are no part of a block.
fn spans(text: &str) -> Vec<&str> {
    let outside = text.split("\n```").step_by(2);
    outside.flat_map(|part| part.split('`').skip(1).step_by(2)).collect()
}

/// Prefixes of paths in the code, which are no cases.
const CODE: [&str; 5] = ["coord_core", "coord_sql", "coord_etcd", "coord_conformance", "sqlx"];

/// A name such as `lock::is_exclusive` is a case, wherever it stands, and all backends pass it that do not say that they
/// cannot: SQLite, Postgres and Redis in any case.
#[test]
fn cases_that_are_named_are_passed() {
    let all = ["coord-sql", "coord-redis"].map(|backend| (backend, passed(backend)));
    let mut named = BTreeSet::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for span in spans(&text) {
            let Some((module, case)) = span.split_once("::") else { continue };
            let lower = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            if CODE.contains(&module) || !lower(module) || case.is_empty() || !lower(case) {
                continue;
            }
            for (backend, passed) in &all {
                assert!(passed.contains(span), "{}: {backend} does not pass {span}", name(&page));
            }
            named.insert(span.to_owned());
        }
    }
    assert!(named.len() > 100, "only {} cases are named", named.len());
}

/// What looks like a test and is a metric or a field of somebody else.
const NO_TESTS: [&str; 4] = [
    "etcd_disk_wal_fsync_duration_seconds",
    "aof_last_write_status",
    "watch_elected_as_leader",
    "stand_down_group_leader",
];

fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *text += &fs::read_to_string(path).unwrap();
        }
    }
}

/// A name of four words or more is a test, also where no link is around it.
#[test]
fn tests_that_are_named_without_a_link_exist() {
    let mut tests = String::new();
    for member in fs::read_dir(root()).unwrap() {
        let folder = member.unwrap().path().join("tests");
        if folder.is_dir() {
            sources(&folder, &mut tests);
        }
    }
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for span in spans(&text) {
            let word = |text: &str| {
                !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
            };
            let words: Vec<_> = span.split('_').collect();
            if words.len() < 4 || !words.iter().all(|part| word(part)) || NO_TESTS.contains(&span) {
                continue;
            }
            assert!(tests.contains(&format!("fn {span}(")), "{}: there is no test {span}", name(&page));
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} tests are named");
}

/// A page says what shows what it states: all but the index name cases, tests or decisions.
#[test]
fn every_page_names_what_shows_it() {
    for page in pages().into_iter().filter(|page| name(page) != "README.md") {
        let text = fs::read_to_string(&page).unwrap();
        let tests = links(&text).into_iter().filter(|(_, target)| target.contains("/tests/")).count();
        let cases = spans(&text).iter().filter(|span| span.contains("::")).count();
        assert!(tests + cases >= 5, "{} names {tests} tests and {cases} cases", name(&page));
    }
}

/// The commands of examples are those that the README shows with what they print.
#[test]
fn examples_are_run_as_they_stand() {
    let mut found = BTreeSet::new();
    for page in pages() {
        for block in blocks(&format!("docs/guide/{}", name(&page)), "sh") {
            for command in block.lines().filter_map(|line| line.strip_prefix(CARGO)) {
                assert!(SHOWN.contains(&command), "{}: nobody runs {command:?}", name(&page));
                found.insert(command.to_owned());
            }
        }
    }
    let exercises =
        ["leader_failover", "fenced_account", "service_discovery", "work_queue", "lock_under_partition"];
    assert!(exercises.iter().all(|exercise| found.contains(*exercise)), "{found:?}");
}

#[test]
fn spans_are_read() {
    let text = "a `one` b\n```rust\nlet `no` = 1;\n```\nc `two::three`, `four`\n";
    assert_eq!(spans(text), ["one", "two::three", "four"]);
}
