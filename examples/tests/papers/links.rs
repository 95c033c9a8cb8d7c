//! What the papers point to is there, and what they quote is what stands there.

use std::{collections::BTreeSet, fs, path::PathBuf};

use crate::{
    guide::pages,
    text::{blocks, root},
};

const GUARANTEES: &str = "docs/guarantees.md";

fn papers() -> Vec<PathBuf> {
    let decisions = fs::read_dir(root().join("docs/decisions")).unwrap().map(|entry| entry.unwrap().path());
    let papers = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        GUARANTEES,
        "benches/README.md",
        "docs/comparison/README.md",
        "docs/faults.md",
        "docs/proof/README.md",
        "docs/proof/explained.md",
        "docs/proof/soak.md",
    ];
    decisions.chain(papers.map(|paper| root().join(paper))).chain(pages()).collect()
}

/// The text and the target of every link.
pub(crate) fn links(text: &str) -> Vec<(String, String)> {
    let mut links = Vec::new();
    for (at, _) in text.match_indices("](") {
        let label = text[..at].rsplit('[').next().unwrap_or_default();
        let target = text[at + 2..].split(')').next().unwrap_or_default();
        links.push((label.to_owned(), target.to_owned()));
    }
    links
}

#[test]
fn links_lead_somewhere() {
    let mut checked = 0;
    for paper in papers() {
        let text = fs::read_to_string(&paper).unwrap();
        for (label, target) in links(&text) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, part) = target.split_once('#').unwrap_or((&target, ""));
            let file = paper.parent().unwrap().join(file);
            assert!(file.exists(), "{}: [{label}]({target})", paper.display());
            let found = fs::read_to_string(&file).unwrap_or_default();
            let headings = found.lines().filter_map(|line| line.strip_prefix("## "));
            let slugs: Vec<_> = headings.map(|line| line.to_lowercase().replace(' ', "-")).collect();
            assert!(
                part.is_empty() || slugs.iter().any(|slug| slug == part),
                "{}: {target}",
                paper.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links found");
}

/// The cases that a crate passes, on each of its backends.
pub(crate) fn passed(backend: &str) -> BTreeSet<String> {
    let files = fs::read_dir(root().join(backend).join("tests")).unwrap().map(|entry| entry.unwrap().path());
    let is_list = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "expected");
    let lists = files.filter(is_list).map(|path| {
        let expected = fs::read_to_string(path).unwrap();
        let passed = expected.lines().filter_map(|line| line.strip_prefix("pass "));
        passed.map(Into::into).collect::<BTreeSet<String>>()
    });
    lists.reduce(|one, other| &one & &other).unwrap()
}

/// A link whose text is `` `a_test` `` or `` `a::case` `` claims that a test shows something: the file has to hold that
/// test, and a case has to be among those that SQLite, Postgres and Redis pass.
#[test]
fn tests_that_are_named_exist() {
    let passed = ["coord-sql", "coord-redis"].map(|backend| (backend, passed(backend)));
    let mut checked = 0;
    for paper in papers() {
        let text = fs::read_to_string(&paper).unwrap();
        for (label, target) in links(&text) {
            let name = label.trim_matches('`');
            let is_test = target.contains("/tests/") || target.contains("/cases/");
            if !is_test || name == label || name.contains(['.', '/']) {
                continue;
            }
            let function = name.rsplit("::").next().unwrap();
            let file = fs::read_to_string(paper.parent().unwrap().join(&target)).unwrap();
            assert!(file.contains(&format!("fn {function}(")), "{}: {name} in {target}", paper.display());
            for (backend, passed) in &passed {
                assert!(
                    !target.contains("/cases/") || passed.contains(name),
                    "{}: {backend} does not pass the case {name}",
                    paper.display()
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} tests are named");
}

/// The test file of a backend in CONTRIBUTING.md is the one that the suite's documentation compiles.
#[test]
fn the_backend_test_file_is_the_compiled_one() {
    let source = fs::read_to_string(root().join("coord-conformance/src/lib.rs")).unwrap();
    let docs: Vec<_> = source.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let docs: Vec<_> = docs.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let after = docs.iter().skip_while(|line| **line != "```no_run").skip(1);
    let compiled: Vec<_> = after.take_while(|line| **line != "```").copied().collect();
    assert_eq!(blocks("CONTRIBUTING.md", "rust"), [compiled.join("\n")]);
}

/// What is said to hold on every backend is shown by cases that all of them pass, clusters too.
#[test]
fn what_holds_on_every_backend_is_passed_by_all() {
    let text = fs::read_to_string(root().join(GUARANTEES)).unwrap();
    let (_, rules) = text.split_once("## What holds on every backend").unwrap();
    let (rules, _) = rules.split_once("## Where they differ").unwrap();
    let passed =
        ["coord-sql", "coord-redis", "coord-etcd", "coord-zk"].map(|backend| (backend, passed(backend)));
    let cases: Vec<_> = links(rules).into_iter().filter(|(_, target)| target.contains("/cases/")).collect();
    assert!(cases.len() > 60, "only {} cases are named", cases.len());
    for (label, _) in cases {
        for (backend, passed) in &passed {
            assert!(passed.contains(label.trim_matches('`')), "{backend} does not pass {label}");
        }
    }
}
