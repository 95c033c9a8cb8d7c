//! The page, its plots, and the raw figures.

use std::{fs, path::Path};

use super::{
    BOUNDS, Bound, Measure, Report, Verdict,
    bounds::Figure,
    plots::{self, Curve, Dot, Unit},
    table::{amount, length, table, times},
};
use crate::{Result, backend::Backend, systems::systems};

/// In which order the backends stand.
const ORDER: [Backend; 6] =
    [Backend::Redis, Backend::ZooKeeper, Backend::Etcd, Backend::Postgres, Backend::Sqlite, Backend::Memory];

/// A section of the page: one result of all systems.
struct Section {
    title: &'static str,
    text: &'static str,
    /// What stands in the first column beside the system, and which result it is.
    results: &'static [(&'static str, &'static str)],
    measure: Measure,
}

const SECTIONS: [Section; 8] = [
    Section {
        title: "A lock that nobody else wants",
        text: "Acquire and release by one client, one after the other: with one name, and with a new one each time.",
        results: &[("one name", "W1.same.pair"), ("new names", "W1.fresh.pair")],
        measure: Measure::P50,
    },
    Section {
        title: "Handing a lock over",
        text: "From the call of release to the grant of another client. *Parked*: that one waits already, and nobody else wants it; \
               the floor is one write that wakes one who waits. *Tight*: 8 clients in a loop on one lock.",
        results: &[("parked", "W2p.parked"), ("tight", "W2.handoff")],
        measure: Measure::P50,
    },
    Section {
        title: "64 independent locks",
        text: "64 tasks of one client, each with a lock of its own. On Redis the floor is there once with one connection, which \
               sends what is asked for at once together, and once with a connection for each task.",
        results: &[("one client", "W3.pairs"), ("64 connections", "W3.own")],
        measure: Measure::Rate,
    },
    Section {
        title: "Queues, flat out",
        text: "Items of 100 bytes, each pushed and acknowledged by itself; a consumer receives up to 16 at once where the system \
               can (coord and streams).",
        results: &[("1 to 1", "W5.1x1.sat"), ("4 to 4", "W5.4x4.sat")],
        measure: Measure::Rate,
    },
    Section {
        title: "Queues, at 200 items a second",
        text: "From the call of push to the item in the consumer's hands.",
        results: &[("1 to 1", "W5.1x1.paced")],
        measure: Measure::P50,
    },
    Section {
        title: "Configuration",
        text: "From the call that writes a value to another client's sight of it.",
        results: &[("watch", "W6.watch")],
        measure: Measure::P50,
    },
    Section {
        title: "A service of 1,000 instances",
        text: "Listing an instance, reading all of them, and hearing of a new one.",
        results: &[("register", "W7.register"), ("discover", "W7.discover"), ("propagate", "W7.propagate")],
        measure: Measure::P50,
    },
    Section {
        title: "A leader goes",
        text: "From the kill, or the call of resign, to the next leader, between processes. The TTL is 3 s; a killed leader's \
               lease has up to a third of it behind itself.",
        results: &[("killed", "E.kill"), ("resigned", "E.resign")],
        measure: Measure::P50,
    },
];

/// Writes the page, the plots and the figures into a folder.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let plots = [
        ("latency.svg", latency(report)),
        ("hand-off.svg", hand_off(report)),
        ("throughput.svg", throughput(report)),
        ("failover.svg", failover(report)),
        ("held-locks.svg", held(report)),
    ];
    for (name, plot) in plots {
        fs::write(folder.join(name), plot)?;
    }
    fs::write(folder.join("report.json"), serde_json::to_string(report)? + "\n")?;
    fs::write(folder.join("README.md"), page(report))?;
    Ok(())
}

/// The backends that were measured.
fn measured(report: &Report) -> impl Iterator<Item = Backend> {
    let is_there = |backend: &Backend| report.servers.iter().any(|server| server.backend == backend.as_str());
    ORDER.into_iter().filter(is_there)
}

fn page(report: &Report) -> String {
    let mut parts = vec![
        "# The backends compared".to_owned(),
        "What coordination costs on each backend, beside the **floor**, which is the cheapest that the same driver can do on the \
         same server, and beside other libraries in Rust. [ARCHITECTURE.md](../../ARCHITECTURE.md) says why it is so, and \
         [guarantees.md](../guarantees.md) what is promised. This page is written by\n\n```sh\ncargo run --release -p \
         coord-benches --bin report\n```"
            .to_owned(),
        "Times are of one machine and mean little elsewhere; compare them within the page. Each figure is the median of its \
         rounds, and each ratio the median of ratios within a round. Of fewer than a hundred samples p99 is the longest. All are in \
         [report.json](report.json)."
            .to_owned(),
        "## Side by side".to_owned(),
        super::classic::side_by_side(report),
    ];
    for section in &SECTIONS {
        parts.push(format!("## {}", section.title));
        parts.push(section.text.to_owned());
        if let Some(plot) = plot_of(section.title) {
            parts.push(plot.to_owned());
        }
        parts.push(figures(report, section));
    }
    parts.push("## What holding costs".to_owned());
    parts.push(
        "A client that holds locks with a TTL of 6 s: what its server is asked, and its own processor time.\n\n\
         ![Processor time by the number of locks](held-locks.svg)"
            .to_owned(),
    );
    parts.push(holding(report));
    parts.push("## Bounds".to_owned());
    parts.push(bounds(report));
    parts.push("## How it was measured".to_owned());
    parts.push(conditions(report));
    parts.join("\n\n") + "\n"
}

fn plot_of(title: &str) -> Option<&'static str> {
    match title {
        "A lock that nobody else wants" => Some("![Latency of a lock that nobody else wants](latency.svg)"),
        "Handing a lock over" => Some("![Latency of a hand-off](hand-off.svg)"),
        "64 independent locks" => Some("![Throughput](throughput.svg)"),
        "A leader goes" => Some("![Time without a leader](failover.svg)"),
        _ => None,
    }
}

/// A row for each system and result that there is.
fn figures(report: &Report, section: &Section) -> String {
    let rate = section.measure == Measure::Rate;
    let mut rows = Vec::new();
    for backend in measured(report) {
        for system in systems(backend) {
            for (label, result) in section.results {
                let of = (*system, backend.as_str(), *result);
                let Some(value) = report.median(of, section.measure) else { continue };
                let floor = ("floor", backend.as_str(), *result);
                let ratio = report.ratio((of, section.measure), (floor, section.measure));
                let ratio = ratio.filter(|_| *system != "floor").map(times).unwrap_or_default();
                let p99 = report.median(of, Measure::P99).map(length).unwrap_or_default();
                let shown = if rate { format!("{}/s", amount(value)) } else { length(value) };
                let mut row = vec![backend.title().to_owned(), (*system).to_owned(), (*label).to_owned()];
                row.extend([shown, p99, ratio, beside(report, of)]);
                rows.push(row);
            }
        }
    }
    let value = if rate { "a second" } else { "p50" };
    table(&["backend", "system", "what", value, "p99", "× the floor", "beside"], &rows)
}

/// What else a result says.
fn beside(report: &Report, of: (&str, &str, &str)) -> String {
    let row = report.rounds.iter().flatten().rev().find(|row| {
        (row.system.as_str(), row.backend.as_str(), row.workload.as_str()) == of && row.error.is_none()
    });
    let Some(extra) = row.map(|row| &row.extra) else { return String::new() };
    let mut words = Vec::new();
    if let Some((most, least)) = extra.fair_max.zip(extra.fair_min) {
        let rate = report.median(of, Measure::Rate).map(amount).unwrap_or_default();
        words.push(format!(
            "{rate} acquisitions/s; in the last round one of 8 clients had {most}, another one {least}"
        ));
    }
    if let Some(seconds) = report.median(of, Measure::Processor).filter(|_| of.2.starts_with("W3")) {
        words.push(format!("{} of the client's processor for 1,000", length(seconds * 1e6)));
    }
    if let Some(violations) = extra.violations.filter(|violations| *violations > 0) {
        words.push(format!("**{violations} violations**"));
    }
    words.join("; ")
}

fn holding(report: &Report) -> String {
    let counts = [1, 10, 100, 1_000];
    let row = |backend: Backend| {
        let mut row = vec![backend.title().to_owned()];
        row.extend(counts.map(|locks| match report.keeping(backend.as_str(), locks) {
            Some((Some(requests), cpu)) => format!("{} requests, {} ms", amount(requests), amount(cpu)),
            Some((None, cpu)) => format!("{} ms", amount(cpu)),
            None => String::new(),
        }));
        row
    };
    let rows: Vec<_> = measured(report).map(row).collect();
    table(&["each second, for", "1 lock", "10 locks", "100 locks", "1,000 locks"], &rows)
        + "\nOn Redis a request is a script, and all of a period are one round trip."
}

fn bounds(report: &Report) -> String {
    let row = |bound: &Bound| {
        let backend: Option<Backend> = bound.backend.parse().ok();
        let sign = if bound.at_most { "≤" } else { "≥" };
        let (figure, verdict) = match bound.judge(report) {
            Verdict::Met(figure) => (amount(figure), "met".to_owned()),
            Verdict::Missed(figure) => {
                let by = (figure / bound.limit - 1.0).abs() * 100.0;
                (amount(figure), format!("**missed** by {by:.0} %{}", super::causes::of(bound)))
            }
            Verdict::Unknown => (String::new(), "not measured".to_owned()),
        };
        let limit = format!("{sign} {}", amount(bound.limit));
        let name = backend.map_or(bound.backend, Backend::title).to_owned();
        vec![bound.what.to_owned(), name, limit, figure, p99(report, bound), verdict]
    };
    let rows: Vec<_> = BOUNDS.iter().map(row).collect();
    format!(
        "What this project wants of itself.\n\n{}",
        table(&["what", "backend", "bound", "figure", "p99 of coord, of the other", ""], &rows).trim_end()
    )
}

/// The p99 beside a ratio of medians.
fn p99(report: &Report, bound: &Bound) -> String {
    let Figure::Ratio((one, first, Measure::P50), (other, second, _)) = bound.figure else {
        return String::new();
    };
    let of = |system, result| report.median((system, bound.backend, result), Measure::P99).map(length);
    of(one, first).zip(of(other, second)).map(|(one, other)| format!("{one}, {other}")).unwrap_or_default()
}

fn conditions(report: &Report) -> String {
    let machine = &report.machine;
    let rows: Vec<_> = ORDER
        .into_iter()
        .filter_map(|backend| {
            let server = report.servers.iter().find(|server| server.backend == backend.as_str())?;
            let facts: Vec<_> = server.facts.iter().map(|(name, value)| format!("{name} {value}")).collect();
            Some(vec![backend.title().into(), server.version.clone(), server.setup.clone(), facts.join("; ")])
        })
        .collect();
    let missing: Vec<_> = report
        .missing
        .iter()
        .map(|(backend, reason)| format!("\n\n{backend} was not measured: {reason}."))
        .collect();
    format!(
        "{} rounds on {} × {}, {} GiB of memory, {}; servers and clients on this one machine, over the loopback interface, data on \
         its disk. Locks have a TTL of 30 s. coord {}.\n\n{}\n[The workloads](../../benches/src/workloads/mod.rs) and \
         [the systems](../../benches/src/systems/mod.rs) are described beside their code.{}",
        report.rounds.len(),
        machine.processors,
        machine.processor,
        machine.memory_gib,
        machine.system,
        machine.version,
        table(&["backend", "version", "set up", "what it tells"], &rows),
        missing.concat()
    )
}

/// A dot for each system that has this result.
fn dots_of(report: &Report, label: &str, result: &str, rate: bool) -> Vec<Dot> {
    let mut dots = Vec::new();
    for backend in measured(report) {
        for system in systems(backend) {
            let of = (*system, backend.as_str(), result);
            let measure = if rate { Measure::Rate } else { Measure::P50 };
            let Some(value) = report.median(of, measure) else { continue };
            let tail = report.median(of, Measure::P99).filter(|_| !rate);
            let name = if label.is_empty() { (*system).to_owned() } else { format!("{system}, {label}") };
            dots.push(Dot { group: backend.title().into(), name, value, tail });
        }
    }
    dots
}

/// Two results, the rows of each backend together.
fn both(report: &Report, results: [(&str, &str); 2], rate: bool) -> Vec<Dot> {
    let all: Vec<_> =
        results.iter().flat_map(|(label, result)| dots_of(report, label, result, rate)).collect();
    let of = |backend: Backend| all.iter().filter(move |dot| dot.group == backend.title()).cloned();
    ORDER.into_iter().flat_map(of).collect()
}

fn latency(report: &Report) -> String {
    let rows = dots_of(report, "", "W1.same.pair", false);
    let title = "A lock that nobody else wants: acquire and release";
    plots::dots(title, "p50 filled, p99 hollow; less is better", Unit::Micros, &rows)
}

fn hand_off(report: &Report) -> String {
    let rows = both(report, [("parked", "W2p.parked"), ("tight", "W2.handoff")], false);
    let subtitle = "from the call of release to the next grant; p50 filled, p99 hollow; less is better";
    plots::dots("Handing a lock over", subtitle, Unit::Micros, &rows)
}

fn throughput(report: &Report) -> String {
    let rows = both(report, [("64 locks", "W3.pairs"), ("queue 4 to 4", "W5.4x4.sat")], true);
    plots::dots("Throughput", "pairs or items a second; more is better", Unit::Rate, &rows)
}

fn failover(report: &Report) -> String {
    let mut rows = both(report, [("killed", "E.kill"), ("resigned", "E.resign")], false);
    // A few elections have no p99.
    rows.iter_mut().for_each(|row| row.tail = None);
    plots::dots("Time without a leader", "TTL 3 s, between processes; less is better", Unit::Micros, &rows)
}

fn held(report: &Report) -> String {
    let curve = |backend: Backend| {
        let point = |locks: usize| {
            let (_, cpu) = report.keeping(backend.as_str(), locks)?;
            (cpu > 0.0).then_some((locks as f64, cpu))
        };
        let mut counts: Vec<_> = report
            .kept
            .iter()
            .flatten()
            .filter(|kept| kept.backend == backend.as_str())
            .map(|kept| kept.locks)
            .collect();
        counts.sort_unstable();
        counts.dedup();
        Curve { name: backend.title().into(), points: counts.into_iter().filter_map(point).collect() }
    };
    let all: Vec<_> = measured(report).map(curve).collect();
    let axes = ("locks held", "ms of the client's processor each second");
    plots::curves("What it costs to hold locks", "TTL 6 s", axes, &all)
}
