//! Short runs with faults on SQLite, from end to end.

#[path = "conformance/sqlite.rs"]
mod sqlite;

use std::{process::ExitCode, sync::Arc, time::Duration};

use coord_conformance::{
    Backend,
    history::{Op, Recording},
    runs::{self, Fault, Judged, RunError, Settings, Wanted},
    servers::{self, Unavailable},
    worker,
};

fn main() -> ExitCode {
    if std::env::var_os(worker::WORKER).is_some() {
        return coord_conformance::main(sqlite::OnSqlite);
    }
    servers::tests(&[
        ("workers_that_are_struck_break_nothing", workers_that_are_struck_break_nothing),
        ("without_tokens_updates_are_lost", without_tokens_updates_are_lost),
        ("servers_that_are_not_there_are_not_struck", servers_that_are_not_there_are_not_struck),
    ])
}

fn history(settings: &Settings) -> Result<Recording, RunError> {
    let backend: Arc<dyn Backend> = Arc::new(sqlite::OnSqlite);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(runs::history(&backend, settings))
}

fn workers_that_are_struck_break_nothing() -> Result<(), Unavailable> {
    let mut settings = Settings::new(vec![Wanted::All], 7);
    settings.duration = Duration::from_secs(6);
    let judged = Judged::new(history(&settings).unwrap());
    assert!(judged.passes(), "{judged}");
    let recording = &judged.recording;
    assert!(recording.faults().contains_key("kill") && recording.faults().contains_key("stop"), "{judged}");
    let [ok, _, unknown] = recording.outcomes();
    assert!(ok > 200 && unknown > 0, "{judged}");
    // Each part of the work was done.
    let done = |wanted: fn(&Op) -> bool| recording.events.iter().any(|event| wanted(&event.op));
    assert!(done(|op| matches!(op, Op::Accepted { write: Some(_), .. })), "nothing was counted");
    assert!(done(|op| matches!(op, Op::Drained)), "no queue was emptied");
    assert!(done(|op| matches!(op, Op::Members { settled: true, .. })), "no registry came to rest");
    assert!(done(|op| matches!(op, Op::Leader { settled: true, .. })), "no election came to rest");
    assert!(done(|op| matches!(op, Op::Entries { .. })), "no values came to rest");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("history.jsonl");
    recording.write(&file).unwrap();
    assert_eq!(Recording::read(&file).unwrap(), *recording);
    Ok(())
}

/// The control.
fn without_tokens_updates_are_lost() -> Result<(), Unavailable> {
    let mut settings = Settings::new(vec![Wanted::One(Fault::Stop)], 7);
    (settings.duration, settings.unfenced) = (Duration::from_secs(10), true);
    let judged = Judged::new(history(&settings).unwrap());
    assert!(judged.passes(), "{judged}");
    assert_eq!(judged.violations[0].checker, "fenced");
    Ok(())
}

fn servers_that_are_not_there_are_not_struck() -> Result<(), Unavailable> {
    let refused = history(&Settings::new(vec![Wanted::One(Fault::ServerKill)], 7)).unwrap_err();
    let RunError::NoSuchFault { fault, has, .. } = refused else { panic!("{refused}") };
    assert!(fault == Fault::ServerKill && has.contains(&Fault::Kill) && !has.contains(&Fault::ServerStop));
    Ok(())
}
