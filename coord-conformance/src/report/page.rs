//! The page that people read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Write},
};

use super::{
    figures::Verdict,
    spread::Spread,
    takeovers::Measured,
    totals::{Line, Totals, kinds_of, millis},
};

/// The page about these backends, in this order, and these histories.
pub(super) struct Page<'a> {
    pub(super) backends: &'a [(String, Totals)],
    pub(super) lines: &'a [Line],
    /// Whether there is a page about a soak beside it.
    pub(super) soak: bool,
    /// Whether there is one that explains the violations.
    pub(super) explained: bool,
}

const HEAD: &str = "# What runs with faults have shown

This page and its drawings are made by one command from stored histories: `cargo run -p coord-conformance --release -- report
DIR --out docs/proof`. What a history is, what the faults are and what the checkers refuse is told in
[faults.md](../faults.md). Nothing here is written by hand; the same histories give the same page.

[figures.json](figures.json) has all figures for machines. [histories.jsonl](histories.jsonl) has a line for each history: its backend,
seed, settings, faults, operations and verdict, and the size and the XXH3 of its file (`xxhsum -H3`).
";

impl Display for Page<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        if self.soak {
            writeln!(f, "\n[soak.md](soak.md) tells of a run of hours.")?;
        }
        self.histories(f)?;
        self.violations(f)?;
        self.faults(f)?;
        self.controls(f)?;
        self.takeovers(f)?;
        self.margins(f)?;
        self.redeliveries(f)?;
        self.sightings(f)?;
        self.settings(f)
    }
}

impl Page<'_> {
    fn histories(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Histories\n")?;
        writeln!(
            f,
            "Operations are counted as *ok*, *failed* (without effect) or *unknown* (they may have had one). An item is one whose push was"
        )?;
        writeln!(
            f,
            "acknowledged; it is lost if its queue is empty at the end and nobody acknowledged it. Controls are counted apart, below.\n"
        )?;
        let rows = self.backends.iter().map(|(name, totals)| {
            let figures = &totals.figures;
            let [ok, failed, unknown] = figures.outcomes;
            let faults: usize = figures.faults.values().sum();
            vec![
                name.clone(),
                count(totals.histories),
                count(totals.operations()),
                count(ok),
                count(failed),
                count(unknown),
                count(faults),
                count(figures.items),
                count(figures.lost_items),
                count(totals.violated),
                count(totals.declared),
            ]
        });
        let head = [
            "backend",
            "histories",
            "operations",
            "ok",
            "failed",
            "unknown",
            "faults",
            "items",
            "lost items",
            "with violations",
            "declared",
        ];
        table(f, &head, rows)
    }

    fn violations(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Violations\n")?;
        let bad: Vec<_> =
            self.lines.iter().filter(|line| matches!(line.verdict, Verdict::Violations(_))).collect();
        if bad.is_empty() {
            writeln!(f, "None.")?;
        }
        for line in bad {
            self.found(f, line)?;
        }
        if self.explained {
            writeln!(
                f,
                "\n[explained.md](explained.md) tells what each of them was, and what became of it."
            )?;
        }
        // The kind of a finding stands before its text.
        let mut declared = BTreeMap::<_, BTreeMap<_, usize>>::new();
        for line in self.lines {
            let Verdict::Declared(found) = &line.verdict else { continue };
            for found in found {
                let checker = found.split(' ').next().unwrap_or_default().trim_matches(['[', ']']);
                *declared.entry(&line.backend).or_default().entry(checker).or_default() += 1;
            }
        }
        if !declared.is_empty() {
            writeln!(
                f,
                "\nDeclared are those that a backend does not exclude under the faults of the run, by its guarantees. \
                 In how many histories:\n"
            )?;
        }
        for (backend, checkers) in declared {
            let counts: Vec<_> =
                checkers.iter().map(|(checker, times)| format!("{checker} {times}")).collect();
            writeln!(f, "* {backend}: {}", counts.join(", "))?;
        }
        Ok(())
    }

    fn found(&self, f: &mut fmt::Formatter<'_>, line: &Line) -> fmt::Result {
        let Verdict::Violations(found) = &line.verdict else { return Ok(()) };
        found.iter().try_for_each(|found| {
            writeln!(f, "* {}, seed {} ({}): {found}", line.backend, line.seed, line.file)
        })
    }

    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Faults\n")?;
        let kinds: BTreeSet<_> =
            self.backends.iter().flat_map(|(_, totals)| totals.figures.faults.keys()).collect();
        let head: Vec<_> =
            ["fault"].into_iter().chain(self.backends.iter().map(|(name, _)| name.as_str())).collect();
        let rows = kinds.into_iter().map(|kind| {
            let struck = |totals: &Totals| {
                totals.figures.faults.get(kind).map_or("–".to_owned(), |times| count(*times))
            };
            [format!("`{kind}`")]
                .into_iter()
                .chain(self.backends.iter().map(|(_, totals)| struck(totals)))
                .collect()
        });
        table(f, &head, rows)
    }

    fn controls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Controls\n")?;
        writeln!(
            f,
            "In a control nothing looks at tokens. It has to lose updates; if it loses none, it shows nothing.\n"
        )?;
        let rows = self.backends.iter().filter(|(_, totals)| totals.controls > 0).map(|(name, totals)| {
            let lost = &totals.lost_updates;
            vec![
                name.clone(),
                count(totals.controls),
                count(totals.controls - totals.silent),
                count(lost.iter().sum()),
                count(lost.iter().copied().max().unwrap_or(0)),
            ]
        });
        table(f, &["backend", "controls", "that lost updates", "lost updates", "most in one"], rows)
    }

    fn takeovers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Takeovers\n")?;
        writeln!(
            f,
            "From the last moment at which the guard of a holder said *held*, who then was killed or stopped, to the next grant of the same lock or"
        )?;
        writeln!(
            f,
            "election. *Alone* are those in which nothing else struck a server or anybody in the line; the others include holders whose"
        )?;
        writeln!(f, "followers were struck too, each of which may take one more lease.\n")?;
        let of = |totals: &Totals| (totals.figures.takeovers.clone(), totals.takeovers.clone());
        self.timed(f, "after", of)?;
        writeln!(f, "\n![Takeovers](takeovers.svg)")
    }

    fn redeliveries(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Redeliveries\n")?;
        writeln!(
            f,
            "From the fault that killed or stopped a consumer to the next delivery of each item that it had in hand. The visibility timeout is the TTL.\n"
        )?;
        self.timed(f, "after", |totals| (totals.figures.redeliveries.clone(), totals.redeliveries.clone()))
    }

    fn timed(
        &self,
        f: &mut fmt::Formatter<'_>,
        what: &str,
        of: impl Fn(&Totals) -> (Vec<Measured>, Vec<f64>),
    ) -> fmt::Result {
        let mut rows = Vec::new();
        for (name, totals) in self.backends {
            let (measured, times) = of(totals);
            for (kind, alone) in kinds_of(&measured).into_iter().rev() {
                let (Some(millis), Some(ttls)) =
                    (millis(&measured, &kind, alone), Totals::multiples(&measured, &times, &kind, alone))
                else {
                    continue;
                };
                let kind =
                    if alone { format!("`{kind}` alone") } else { format!("`{kind}` with other faults") };
                let mut row = vec![name.clone(), kind, count(millis.count)];
                row.extend([millis.p50, millis.p99, millis.max].map(|value| format!("{value:.0} ms")));
                row.extend([ttls.p50, ttls.p99, ttls.max].map(|value| format!("{value:.2}")));
                rows.push(row);
            }
        }
        let head =
            ["backend", what, "measured", "p50", "p99", "max", "p50 in TTLs", "p99 in TTLs", "max in TTLs"];
        table(f, &head, rows)
    }

    fn margins(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Margins\n")?;
        writeln!(
            f,
            "How long before the next grant the guard of one who was lost, and was not killed or stopped, had said *held* for the last time, and"
        )?;
        writeln!(
            f,
            "how long before it said that it is lost. Guards are asked every few milliseconds. Less than nothing from the last yes would be two"
        )?;
        writeln!(
            f,
            "holders at once. The first no can come later than the next grant where a process had no processor: nobody asked in between.\n"
        )?;
        let rows = self.backends.iter().filter_map(|(name, totals)| {
            let margins = &totals.figures.margins;
            let held = Spread::of(margins.iter().map(|margin| margin.held))?;
            let noticed = Spread::of(margins.iter().filter_map(|margin| margin.noticed));
            let ms = |value: f64| format!("{value:.1} ms");
            let of_noticed = |of: fn(Spread) -> f64| noticed.map_or("–".into(), |noticed| ms(of(noticed)));
            Some(vec![
                name.clone(),
                count(held.count),
                ms(held.min),
                ms(held.p50),
                of_noticed(|spread| spread.min),
                of_noticed(|spread| spread.p50),
            ])
        });
        let head =
            ["backend", "measured", "least from the last yes", "p50", "least from the first no", "p50"];
        table(f, &head, rows)?;
        writeln!(f, "\n![Margins](margins.svg)")
    }

    fn sightings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Watches\n")?;
        writeln!(
            f,
            "From the return of a write to the moment in which a watcher had seen it or something later: zero if it had by then. *Alone* are those in"
        )?;
        writeln!(
            f,
            "which nothing struck a server, the writer or the watcher. The last column is from the end of all faults to the moment in"
        )?;
        writeln!(f, "which a watcher had seen all that was written before.\n")?;
        let mut rows = Vec::new();
        for (name, totals) in self.backends {
            let (sightings, healed) =
                (&totals.figures.sightings, Spread::of(totals.figures.after_heal.iter().copied()));
            for (kind, alone) in kinds_of(sightings).into_iter().rev() {
                let Some(spread) = millis(sightings, &kind, alone) else { continue };
                let kind = if alone { format!("{kind}, alone") } else { format!("{kind}, with faults") };
                let mut row = vec![name.clone(), kind, count(spread.count)];
                row.extend([spread.p50, spread.p99, spread.max].map(|value| format!("{value:.1} ms")));
                row.push(String::new());
                rows.push(row);
            }
            if let (Some(healed), Some(row)) = (healed, rows.last_mut().filter(|row| row[0] == *name)) {
                row[6] = format!("p99 {:.0} ms, max {:.0} ms", healed.p99, healed.max);
            }
        }
        table(f, &["backend", "of", "seen", "p50", "p99", "max", "after all faults"], rows)
    }

    fn settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## Settings, seeds and versions\n")?;
        for (name, totals) in self.backends {
            let versions = totals.versions.iter().map(|(name, versions)| {
                let versions: Vec<_> = versions.iter().map(String::as_str).collect();
                format!("{name} {}", versions.join(" and "))
            });
            writeln!(f, "* **{name}**: {}", versions.collect::<Vec<_>>().join("; "))?;
            for (settings, seeds) in &totals.settings {
                writeln!(f, "  * {settings}: seeds {}", ranges(seeds))?;
            }
        }
        Ok(())
    }
}

fn table(f: &mut impl Write, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> fmt::Result {
    let mut rows = rows.into_iter().peekable();
    if rows.peek().is_none() {
        return writeln!(f, "There were none.");
    }
    writeln!(f, "| {} |", head.join(" | "))?;
    writeln!(f, "|{}", " --- |".repeat(head.len()))?;
    rows.try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
}

/// With a comma before every three digits.
fn count(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1–3, 7`.
fn ranges(seeds: &BTreeSet<u64>) -> String {
    let mut ranges: BTreeMap<u64, u64> = BTreeMap::new();
    for seed in seeds {
        match ranges.last_entry() {
            Some(mut last) if last.get() + 1 == *seed => _ = last.insert(*seed),
            _ => _ = ranges.insert(*seed, *seed),
        }
    }
    let one = |(first, last): (&u64, &u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}–{last}"),
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_seeds_are_short_and_readable() {
        assert_eq!([0, 12, 123, 1234, 1_234_567].map(count), ["0", "12", "123", "1,234", "1,234,567"]);
        assert_eq!(ranges(&[1, 2, 3, 7, 9, 10].into()), "1–3, 7, 9–10");
    }
}
