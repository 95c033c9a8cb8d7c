//! What many histories show together: figures for people and for machines, and drawings.
//!
//! A history becomes figures by functions of its events alone. Files are read one after the other, so that it does not matter
//! how many there are. `cargo run -p coord-conformance --release -- report DIR... --out docs/proof` calls [`publish`].

mod figures;
mod page;
mod plot;
mod sightings;
mod spread;
mod strikes;
mod takeovers;
mod totals;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use self::{
    figures::{Figures, Verdict},
    page::Page,
    plot::Plot,
    totals::{Line, Totals},
};
use crate::{
    history::Recording,
    runs::{DECLARED, Judged},
};

/// In which order backends are told of; others come after them.
const ORDER: [&str; 7] =
    ["sqlite", "postgres", "redis", "etcd", "etcd-of-three", "zookeeper", "zookeeper-of-three"];

/// What was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// How many histories, controls among them.
    pub histories: usize,
    /// How many are not as they must be, and not declared to be so.
    pub bad: usize,
}

/// Reads all histories of these files and folders, and of folders in them, and writes a page, drawings, figures and a list of
/// the histories into a folder.
///
/// # Errors
/// What the file system says; `InvalidData` with the file that is no history; `NotFound` if there is none.
pub fn publish(from: &[PathBuf], out: &Path) -> io::Result<Published> {
    let (mut lines, mut backends) = (Vec::new(), BTreeMap::<(usize, String), Totals>::new());
    for file in files(from)? {
        let about = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
        let text = fs::read(&file).map_err(about)?;
        let judged = Judged::new(Recording::read(&file).map_err(about)?);
        let (verdict, figures) = (Verdict::of(&judged), Figures::of_judged(&judged));
        let header = judged.recording.header;
        lines.push(Line {
            backend: header.backend.clone(),
            seed: header.seed,
            file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: text.len(),
            xxh3: format!("{:016x}", xxh3_64(&text)),
            faults: figures.faults.clone(),
            operations: figures.outcomes,
            verdict: verdict.clone(),
            settings: header.settings.clone(),
        });
        let place = ORDER.iter().position(|name| *name == header.backend).unwrap_or(ORDER.len());
        // Where leases may end early, margins and takeovers are others.
        let name = match header.settings.get(DECLARED) {
            Some(declared) => format!("{}: {declared}", header.backend),
            None => header.backend.clone(),
        };
        backends.entry((place, name)).or_default().add(&header, &verdict, figures);
    }
    if lines.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "there is no history"));
    }
    let backends: Vec<_> = backends.into_iter().map(|((_, name), totals)| (name, totals)).collect();
    write(&backends, &lines, out)?;
    let bad = |line: &&Line| matches!(line.verdict, Verdict::Silent | Verdict::Violations(_));
    Ok(Published { histories: lines.len(), bad: lines.iter().filter(bad).count() })
}

fn write(backends: &[(String, Totals)], lines: &[Line], out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    let [soak, explained] = ["soak.md", "explained.md"].map(|page| out.join(page).exists());
    fs::write(out.join("README.md"), Page { backends, lines, soak, explained }.to_string())?;
    let rows = |of: fn(&Totals) -> &Vec<f64>| {
        let rows = backends.iter().map(|(name, totals)| (name.clone(), of(totals).clone()));
        rows.filter(|(_, values)| !values.is_empty()).collect()
    };
    let takeovers = Plot {
        title: "Takeovers: from the last sign of life of a holder to the next grant",
        unit: "TTLs",
        sign: (1.0, "one TTL"),
        rows: rows(|totals| &totals.takeovers),
    };
    fs::write(out.join("takeovers.svg"), takeovers.to_string())?;
    let margins = Plot {
        title: "Margins: from the last moment a guard said held to the next grant",
        unit: "TTLs",
        sign: (0.0, "two at once"),
        rows: rows(|totals| &totals.margins),
    };
    fs::write(out.join("margins.svg"), margins.to_string())?;
    let all: BTreeMap<_, _> = backends.iter().map(|(name, totals)| (name, totals.json())).collect();
    let figures = serde_json::to_string_pretty(&json!({ "backends": all }))?;
    fs::write(out.join("figures.json"), figures + "\n")?;
    let lines = lines.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    fs::write(out.join("histories.jsonl"), lines.join("\n") + "\n")
}

/// The files of histories, in the order of their paths.
fn files(from: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = from.to_vec();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let inside = fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.path()));
            let wanted = |path: &PathBuf| path.is_dir() || path.extension().is_some_and(|end| end == "jsonl");
            open.extend(inside.collect::<io::Result<Vec<_>>>()?.into_iter().filter(wanted));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files.dedup();
    Ok(files)
}
