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

/// The text with every token replaced by its rank among the tokens of the text: tokens differ from run to run, but who
/// has the same one, and whose is greater, does not.
pub(crate) fn ranked(text: &str) -> String {
    let is_token = |word: &str| word.len() >= 15 && word.bytes().all(|byte| byte.is_ascii_digit());
    let words = || text.split_inclusive(|c: char| !c.is_ascii_digit());
    let number = |word: &str| word.trim_end_matches(|c: char| !c.is_ascii_digit()).to_owned();
    let tokens: BTreeSet<u64> =
        words().map(number).filter(|word| is_token(word)).map(|word| word.parse().unwrap()).collect();
    let mut ranked = String::new();
    for word in words() {
        let digits = number(word);
        if is_token(&digits) {
            let token: u64 = digits.parse().unwrap();
            let rank = tokens.iter().position(|known| *known == token).unwrap();
            ranked.push_str(&format!("<token {rank}>{}", &word[digits.len()..]));
        } else {
            ranked.push_str(word);
        }
    }
    ranked
}

#[test]
fn ranks() {
    let shown = "a 1795353813914784, b 1795353813920728: 1795353813914784 of 15\n";
    assert_eq!(ranked(shown), "a <token 0>, b <token 1>: <token 0> of 15\n");
    assert_ne!(ranked(shown), ranked("a 1795353813920728, b 1795353813914784: 1795353813920728 of 15\n"));
}
