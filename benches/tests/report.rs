//! The report, of the backends that need no server and with sizes that say nothing.

use std::{fs, path::Path, process::Command};

use coord_benches::report::Report;
use coord_conformance::servers::{Test, Unavailable};

pub(crate) const ALL: &[Test] =
    &[("a_page_plots_and_figures_are_written", a_page_plots_and_figures_are_written)];

fn report(arguments: &[&str], out: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_report"));
    let output = command.args(arguments).arg("--out").arg(out).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn a_page_plots_and_figures_are_written() -> Result<(), Unavailable> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("comparison");
    let told = report(&["--quick", "--rounds", "2", "--backends", "memory,sqlite"], &out);
    // A bound of a backend that was left out is not claimed to be met.
    assert!(told.lines().any(|line| line.starts_with('?') && line.contains("redis")), "{told}");
    assert!(told.lines().any(|line| line.contains("sqlite") && !line.starts_with('?')), "{told}");

    let json = out.join("report.json");
    let read: Report = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((read.rounds.len(), read.servers.len()), (2, 2));
    for rows in &read.rounds {
        let failed: Vec<_> = rows.iter().filter(|row| row.system == "coord" && row.error.is_some()).collect();
        assert!(failed.is_empty(), "{failed:?}");
        for result in ["W1.same.pair", "W2.handoff", "W2p.parked", "W5.4x4.sat", "W7.propagate"] {
            let of = |backend| move |row: &&_| is(row, backend, result);
            assert_eq!(rows.iter().filter(of("sqlite")).count(), 1, "{result}");
            assert_eq!(rows.iter().filter(of("memory")).count(), 1, "{result}");
        }
        assert!(rows.iter().any(|row| row.workload == "E.kill" && row.error.is_none()));
    }

    let page = fs::read_to_string(out.join("README.md")).unwrap();
    for row in
        ["Consensus", "Data model", "Watches", "Ephemeral entries", "Performance", "Consistency", "Best for"]
    {
        assert_eq!(page.matches(&format!("| **{row}** |")).count(), 1, "{row}");
    }
    // What was not measured has no figure.
    assert!(page.contains("not measured"));
    for plot in ["latency", "hand-off", "throughput", "failover", "held-locks"] {
        let svg = fs::read_to_string(out.join(format!("{plot}.svg"))).unwrap();
        assert!(svg.contains("prefers-color-scheme: dark") && svg.contains("<circle"), "{plot}");
        assert!(page.contains(&format!("({plot}.svg)")), "{plot}");
    }

    let json = json.to_str().unwrap();
    let again = report(&["--from", json, "--compare", json], &folder.path().join("again"));
    assert!(again.contains("nothing changed beyond noise"), "{again}");
    assert_eq!(fs::read_to_string(folder.path().join("again/README.md")).unwrap(), page);
    Ok(())
}

fn is(row: &coord_benches::row::Row, backend: &str, result: &str) -> bool {
    (row.system.as_str(), row.backend.as_str(), row.workload.as_str()) == ("coord", backend, result)
}
