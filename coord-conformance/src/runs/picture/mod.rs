//! A history as a picture: one HTML file with a drawing in it, which needs nothing else.
//!
//! Time goes to the right. A row is what one client held of one object, what struck one process or server, or the writes
//! that one fenced resource was sent.

mod svg;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use self::svg::{Drawing, Mark, Row, escape};
use super::Judged;
use crate::{
    checkers::{Hold, holds},
    history::{Event, Op, Outcome, Stamp},
};

/// How much of a violation's time is shown before it and after it.
const MARGIN: f64 = 0.15;
/// The width of a second in the drawing of the whole history, and of the drawing of a violation.
const SECOND: f64 = 110.0;
const PAGE: f64 = 1300.0;

/// The picture of a history, and of each violation that was found in it.
#[must_use]
pub fn picture(judged: &Judged) -> String {
    let (header, events) = (&judged.recording.header, &judged.recording.events);
    let title = format!("{}, seed {}", header.backend, header.seed);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{}</title>\n{}</head>\n<body>\n\
         <h1>{}</h1>\n<p>{}</p>\n",
        escape(&title),
        svg::STYLE,
        escape(&title),
        escape(&judged.summary())
    );
    let facts = header.settings.iter().chain(&header.versions);
    let facts: Vec<_> = facts.map(|(name, value)| format!("{name} {value}")).collect();
    // Writing to a string does not fail.
    let _ = writeln!(page, "<p>{}</p>\n{}", escape(&facts.join(" · ")), svg::LEGEND);
    for violation in &judged.violations {
        let evidence = &violation.evidence;
        let objects: BTreeSet<_> = evidence.iter().map(|event| event.object.as_str()).collect();
        let _ = writeln!(page, "<h2>{}</h2>", escape(&violation.to_string()));
        if let Some((from, to)) = span(evidence) {
            let margin = ((to - from) as f64 * MARGIN).max(20e6) as u64;
            let (from, to) = (from.saturating_sub(margin), to + margin);
            let rows = rows(events, evidence, |object| objects.contains(object));
            page.push_str(&Drawing { from, to, width: PAGE, rows: &rows }.to_string());
        }
        let told: Vec<_> = evidence.iter().map(|event| escape(&event.to_string())).collect();
        let _ = writeln!(page, "<pre>{}</pre>", told.join("\n"));
    }
    let all: Vec<_> = judged.violations.iter().flat_map(|violation| violation.evidence.clone()).collect();
    if let Some((from, to)) = span(events) {
        let rows = rows(events, &all, |_| true);
        let width = SECOND * (to - from) as f64 / 1e9;
        page.push_str("<h2>The whole history</h2>\n");
        page.push_str(&Drawing { from, to, width, rows: &rows }.to_string());
    }
    page.push_str("</body></html>\n");
    page
}

fn span(events: &[Event]) -> Option<(u64, u64)> {
    // What was read from a log afterwards has no time.
    let timed = || events.iter().filter(|event| !matches!(event.op, Op::Accepted { .. }));
    Some((timed().map(|event| event.from.at).min()?, timed().map(|event| event.to.at).max()?))
}

fn rows(events: &[Event], evidence: &[Event], shown: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows = faults(events);
    for (object, holds) in holds(events) {
        if shown(object) {
            rows.push(Row::title(object));
            rows.extend(held(events, evidence, &holds));
        }
    }
    rows.extend(resources(events, evidence, &shown));
    rows.extend(others(events, evidence, &shown));
    rows
}

/// What struck whom.
fn faults(events: &[Event]) -> Vec<Row> {
    let mut marks: BTreeMap<&str, Vec<Mark>> = BTreeMap::new();
    for event in events {
        let (struck, class, label) = match &event.op {
            // Its death tells of it.
            Op::Fault { kind } if kind == "kill" => continue,
            Op::Fault { kind } => (&event.object, "fault", kind.as_str()),
            Op::Died => (&event.client, "died", "✕"),
            Op::Healed => (&event.object, "healed", "healed"),
            _ => continue,
        };
        let mark = Mark::new(event, class, label);
        marks.entry(struck).or_default().push(mark);
    }
    let title = Row::title("faults");
    [title].into_iter().chain(marks.into_iter().map(|(struck, marks)| Row::new(struck, marks))).collect()
}

/// One row for each client that held something.
fn held(events: &[Event], evidence: &[Event], holds: &[Hold<'_>]) -> Vec<Row> {
    let died: BTreeMap<_, _> = events
        .iter()
        .filter(|event| event.op == Op::Died)
        .map(|event| (event.client.as_str(), event.to))
        .collect();
    let mut let_go = BTreeMap::new();
    for event in events {
        if let Op::Release { attempt } = event.op {
            let_go.entry((event.client.as_str(), attempt)).or_insert(event.from);
        }
    }
    let mut rows: BTreeMap<&str, Vec<Mark>> = BTreeMap::new();
    for hold in holds {
        let marks = rows.entry(hold.client).or_default();
        let granted = hold.acquire.to;
        let waited = Mark { to: granted, ..Mark::new(hold.acquire, "wait", "") };
        let certain = hold.certainly_to().unwrap_or(granted);
        let end = let_go.get(&(hold.client, hold.attempt)).copied().or(hold.lost);
        let end = end.or(died.get(hold.client).copied());
        let end = end.unwrap_or(certain).max(certain);
        let shown = evidence.contains(hold.acquire);
        let class = if shown { "held shown" } else { "held" };
        let about = format!("{hold}\n{}", hold.acquire);
        marks.push(waited);
        marks.push(Mark {
            from: granted,
            to: certain,
            title: about.clone(),
            ..Mark::new(hold.acquire, class, &hold.token.to_string())
        });
        // From the last yes to the word that it is over: nobody asked.
        marks.push(Mark {
            from: certain,
            to: end,
            title: about.clone(),
            ..Mark::new(hold.acquire, "after", "")
        });
        if let Some(lost) = hold.lost {
            let title = format!("lost\n{about}");
            marks.push(Mark { from: lost, to: lost, title, ..Mark::new(hold.acquire, "lost", "") });
        }
    }
    rows.into_iter().map(|(client, marks)| Row::new(client, marks)).collect()
}

/// One row for each resource: the writes that it was sent, by how they ended.
fn resources(events: &[Event], evidence: &[Event], shown: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows: BTreeMap<&str, Vec<Mark>> = BTreeMap::new();
    for event in events.iter().filter(|event| shown(&event.object)) {
        let Op::Write { token, .. } = event.op else { continue };
        rows.entry(&event.object).or_default().push(moment(event, evidence, &token.to_string()));
    }
    group("fenced resources", rows)
}

/// What has only moments: a row for each kind of operation on each other object.
fn others(events: &[Event], evidence: &[Event], shown: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows: BTreeMap<String, Vec<Mark>> = BTreeMap::new();
    for event in events.iter().filter(|event| shown(&event.object)) {
        let what = match &event.op {
            Op::Push { .. } => "pushed",
            Op::Receive { items } if !items.is_empty() => "received",
            Op::Ack { .. } => "acknowledged",
            Op::Read { .. } => "read",
            Op::Put { .. } => "put",
            Op::Register { .. } => "registered",
            Op::Deregister { .. } => "deregistered",
            Op::Probe { .. } => "tried at the end",
            Op::Members { settled: true, .. } | Op::Leader { settled: true, .. } | Op::Entries { .. } => {
                "settled"
            }
            Op::Watched { .. } | Op::Observed { .. } | Op::Followed { .. } if evidence.contains(event) => {
                "told"
            }
            _ => continue,
        };
        // There are many keys; they share rows unless it is about one.
        let object = event.object.split('-').next().unwrap_or_default();
        rows.entry(format!("{object} {what}")).or_default().push(moment(event, evidence, ""));
    }
    group("other operations", rows)
}

fn moment(event: &Event, evidence: &[Event], label: &str) -> Mark {
    let class = match (&event.outcome, evidence.contains(event)) {
        (_, true) => "moment shown",
        (Outcome::Ok, _) => "moment ok",
        (Outcome::Fail(_), _) => "moment failed",
        (Outcome::Unknown(_), _) => "moment unknown",
    };
    Mark::new(event, class, label)
}

fn group<T: AsRef<str>>(title: &str, rows: BTreeMap<T, Vec<Mark>>) -> Vec<Row> {
    if rows.is_empty() {
        return Vec::new();
    }
    let rows = rows.into_iter().map(|(name, marks)| Row::new(name.as_ref(), marks));
    [Row::title(title)].into_iter().chain(rows).collect()
}

impl Mark {
    fn new(event: &Event, class: &'static str, label: &str) -> Self {
        let (from, to): (Stamp, Stamp) = (event.from, event.to);
        Self { from, to, class, label: label.into(), title: event.to_string() }
    }
}
