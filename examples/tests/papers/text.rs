//! Reading the papers: their fenced blocks, and the tokens in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

/// The workspace.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The fenced blocks of a language in a paper, without the fences.
pub(crate) fn blocks(paper: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(paper)).unwrap();
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(found) = line.strip_prefix("```") {
            let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            if found == language {
                blocks.push(block.join("\n"));
            }
        }
    }
    blocks
}

/// The commands in the `console` blocks of a paper, each with the output shown after it.
pub(crate) fn sessions(paper: &str) -> BTreeMap<String, String> {
    let mut sessions = BTreeMap::new();
    for block in blocks(paper, "console") {
        for session in format!("\n{block}").split("\n$ ").skip(1) {
            let (command, output) = session.split_once('\n').unwrap_or((session, ""));
            sessions.insert(command.to_owned(), format!("{}\n", output.trim_end()));
        }
    }
    sessions
}

/// What stands before a token. Those of SQLite are told by their length too; those of ZooKeeper and etcd may be short.
const BEFORE: [&str; 4] = ["token ", "term ", "has seen ", "holder of "];

/// The text with every token replaced by its rank among the tokens of the text: tokens differ from run to run, but who
/// has the same one, and whose is greater, does not.
pub(crate) fn ranked(text: &str) -> String {
    // Words and numbers in turn: each number with where it begins.
    let mut numbers = Vec::new();
    let mut rest = 0;
    while let Some(start) = text[rest..].find(|c: char| c.is_ascii_digit()).map(|at| rest + at) {
        let length = text[start..].find(|c: char| !c.is_ascii_digit());
        rest = length.map_or(text.len(), |length| start + length);
        let named = BEFORE.iter().any(|word| text[..start].ends_with(word));
        if named || rest - start >= 15 {
            numbers.push((start, rest, text[start..rest].parse::<u64>().unwrap()));
        }
    }
    let ranks: BTreeSet<u64> = numbers.iter().map(|(.., token)| *token).collect();
    let (mut ranked, mut done) = (String::new(), 0);
    for (start, end, token) in numbers {
        let rank = ranks.iter().position(|known| *known == token).unwrap();
        ranked.push_str(&format!("{}<token {rank}>", &text[done..start]));
        done = end;
    }
    ranked + &text[done..]
}

#[test]
fn ranks() {
    let shown = "a 1795353813914784, b 1795353813920728: 1795353813914784 of 15\n";
    assert_eq!(ranked(shown), "a <token 0>, b <token 1>: <token 0> of 15\n");
    assert_ne!(ranked(shown), ranked("a 1795353813920728, b 1795353813914784: 1795353813920728 of 15\n"));
    assert_eq!(
        ranked("token 7 refuses token 5, 12 times"),
        "token <token 1> refuses token <token 0>, 12 times"
    );
}
