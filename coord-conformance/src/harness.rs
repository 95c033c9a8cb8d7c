//! Runs cases: requirements, a runtime and a deadline for each, and the `main` of a backend's test target.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use coord_core::Error;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{
    Backend, Ctx, Failure, Unavailable, Verdict,
    cases::{self, Case, Need},
    expectation,
    runs::command,
    worker,
};

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend does what the case asks for.
    Passed,
    /// The backend does not promise what the case is about.
    Ignored(String),
    /// There is no server to run the case on, and on a person's machine there need not be.
    Unavailable(String),
    /// The backend does something else.
    Failed(Failure),
}

/// How long a case may take, on the case's own clock and on the wall.
const DEADLINE: Duration = Duration::from_secs(60);
/// How much longer the wall may take: a paused clock stands still while the case is busy.
const GRACE: Duration = Duration::from_secs(15);
/// How long a case may take on a paused clock.
const VIRTUAL_DEADLINE: Duration = Duration::from_secs(100 * 24 * 3600);
/// How many cases run side by side where none is asked for: most of them wait most of the time.
const THREADS: usize = 8;

/// The `main` of a backend's test target: libtest's options and output. A process that a case started becomes a
/// worker instead, and with `run --faults …` it [runs with faults](crate::runs).
pub fn main(backend: impl Backend) -> ExitCode {
    suite(&[Arc::new(backend)], false)
}

/// As [`main`], for a crate with several backends, or with several kinds of servers behind one. Each runs all cases, as
/// `<name of the backend>::<case>`, and has an expectation of its own, `tests/<test target>.<name of the backend>.expected`.
pub fn main_of_all(backends: &[Arc<dyn Backend>]) -> ExitCode {
    suite(backends, true)
}

type Outcomes = BTreeMap<&'static str, Outcome>;

fn suite(backends: &[Arc<dyn Backend>], several: bool) -> ExitCode {
    if let Ok(url) = std::env::var(worker::WORKER) {
        let name = std::env::var(worker::BACKEND).unwrap_or_default();
        let backend = backends.iter().find(|backend| backend.name() == name).or(backends.first());
        return backend.map_or(ExitCode::FAILURE, |backend| worker::main(backend, &url));
    }
    if let Some(arguments) = command::arguments(std::env::args()) {
        return command::main(backends, &arguments);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let runs: Vec<_> = backends.iter().map(|backend| (backend, Arc::<Mutex<Outcomes>>::default())).collect();
    let trials = runs.iter().flat_map(|(backend, outcomes)| {
        let all = cases::all().into_iter();
        all.map(move |case| (needs_turn(&case), trial(case, backend, several, outcomes.clone())))
    });
    let (in_turn, beside) = trials.partition::<Vec<_>, _>(|(in_turn, _)| *in_turn);
    let trials = spread(in_turn, beside).into_iter().map(|(_, trial)| trial);
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    let everything = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.ignored;
    if !everything || arguments.list {
        return conclusion.exit_code();
    }
    let mut differs = false;
    for (backend, outcomes) in runs {
        let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if outcomes.values().any(|outcome| matches!(outcome, Outcome::Unavailable(_))) {
            // The cases have said why.
            eprintln!("{} is not compared with an expectation: there was no server", backend.name());
        } else if let Err(difference) = expectation::compare(several.then(|| backend.name()), &outcomes) {
            eprintln!("{difference}");
            differs = true;
        }
    }
    if differs { ExitCode::FAILURE } else { conclusion.exit_code() }
}

fn needs_turn(case: &Case) -> bool {
    case.needs.contains(&Need::Turn)
}

/// Held by a case that works with several processes for seconds: one at a time, so that it has enough of a machine.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The few among the many, evenly: those that take turns neither stand in each other's way nor are left for the end, when
/// nothing is beside them.
fn spread<T>(few: Vec<T>, many: Vec<T>) -> Vec<T> {
    let between = many.len() / few.len().max(1);
    let (mut many, mut all) = (many.into_iter(), Vec::new());
    for one in few {
        all.push(one);
        all.extend(many.by_ref().take(between));
    }
    all.extend(many);
    all
}

fn trial(case: Case, backend: &Arc<dyn Backend>, several: bool, outcomes: Arc<Mutex<Outcomes>>) -> Trial {
    let name = if several { format!("{}::{}", backend.name(), case.name) } else { case.name.into() };
    let backend = backend.clone();
    Trial::ignorable_test(name, move || {
        let outcome = run(&backend, &case);
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).insert(case.name, outcome.clone());
        match outcome {
            Outcome::Passed => Ok(Completion::Completed),
            Outcome::Ignored(reason) | Outcome::Unavailable(reason) => Ok(Completion::ignored_with(reason)),
            Outcome::Failed(failure) => Err(Failed::from(failure)),
        }
    })
}

/// Runs the case of this name, for tests of the suite itself.
///
/// # Panics
/// If no case has this name.
#[must_use]
pub fn run_named(backend: &Arc<dyn Backend>, name: &str) -> Outcome {
    let case = cases::all().into_iter().find(|case| case.name == name);
    run(backend, &case.unwrap_or_else(|| panic!("there is no case {name:?}")))
}

/// Runs one case in a thread and a runtime of its own, with a fresh store.
#[must_use]
pub fn run(backend: &Arc<dyn Backend>, case: &Case) -> Outcome {
    let _turn = needs_turn(case).then(turn);
    let (report, reported) = mpsc::channel();
    let (owned, copy) = (backend.clone(), *case);
    let thread = std::thread::Builder::new().name(case.name.into()).spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| within_runtime(owned, copy)));
        let _ = report.send(outcome.unwrap_or_else(|panic| Outcome::Failed(Failure::panicked(&*panic))));
    });
    if let Err(error) = thread {
        return Outcome::Failed(Failure::new(format!("no thread for the case: {error}")));
    }
    // A case that never gives way cannot be ended; its thread is left behind.
    reported.recv_timeout(DEADLINE + GRACE).unwrap_or_else(|_| Outcome::Failed(late("the wall clock")))
}

fn within_runtime(backend: Arc<dyn Backend>, case: Case) -> Outcome {
    let paused = backend.virtual_time();
    let mut builder = if paused {
        tokio::runtime::Builder::new_current_thread()
    } else {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2);
        builder
    };
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Failed(Failure::new(format!("no runtime for the case: {error}"))),
    };
    let outcome = runtime.block_on(async {
        if paused {
            tokio::time::pause();
        }
        let store = match backend.open().await {
            Ok(store) => store,
            Err(error) => return not_opened(error),
        };
        let ctx = match Ctx::new(backend, store, case.name).await {
            Ok(ctx) => ctx,
            Err(failure) => return Outcome::Failed(failure),
        };
        for need in case.needs {
            match missing(*need, &ctx).await {
                Ok(None) => {}
                Ok(Some(reason)) => return Outcome::Ignored(reason.into()),
                Err(failure) => return Outcome::Failed(failure),
            }
        }
        let deadline = if paused { VIRTUAL_DEADLINE } else { DEADLINE };
        let verdict = tokio::time::timeout(deadline, to_its_end(&case, &ctx)).await;
        if let Some(reason) = verdict.as_ref().ok().and_then(|verdict| verdict.as_ref().err()?.ignores()) {
            return Outcome::Ignored(reason.into());
        }
        match ctx.judge(verdict.unwrap_or_else(|_| Err(late("its own clock")))) {
            Ok(()) => Outcome::Passed,
            Err(failure) => Outcome::Failed(failure),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    outcome
}

/// What becomes of a case without a store.
fn not_opened(error: Error) -> Outcome {
    match Unavailable::within(&error) {
        Some(unavailable) if unavailable.fails() => Outcome::Failed(Failure::new(unavailable.reason())),
        Some(unavailable) => Outcome::Unavailable(unavailable.reason().into()),
        None => Outcome::Failed(error.into()),
    }
}

async fn to_its_end(case: &Case, ctx: &Ctx) -> Verdict {
    // In a task, so that it runs on the runtime's own threads as programs do.
    tokio::spawn((case.work)(ctx.clone())).await??;
    ctx.finish().await
}

fn late(clock: &str) -> Failure {
    Failure::new(format!("the case did not end in time, by {clock}: something waits for ever"))
}

/// Why a case is ignored.
async fn missing(need: Need, ctx: &Ctx) -> Verdict<Option<&'static str>> {
    let features = ctx.guarantees().features;
    let (there, reason) = match need {
        Need::Priority => (features.priority, "the backend has no priorities"),
        Need::HandOver => (features.hand_over, "the backend has no hand-over"),
        Need::Resume => (features.resume, "the backend cannot resume"),
        Need::Shared => (features.shared, "the backend has no shared claims"),
        Need::Processes => (cfg!(unix) && ctx.url().is_some(), "the store lives in one process"),
        Need::Values => (ctx.has_values(), "the backend has no store of values"),
        Need::Jobs => (ctx.has_jobs(), "the backend has no store of jobs"),
        Need::BoundedLog => (ctx.remembered_changes().is_some(), "the store forgets no changes of values"),
        Need::VirtualTime => (ctx.backend().virtual_time(), "the case needs a paused clock"),
        Need::Turn => (true, ""),
        Need::Size => (ctx.size().await?.is_some(), "the store cannot tell its size"),
    };
    Ok((!there).then_some(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_are_spread_among_the_many() {
        assert_eq!(spread(vec![1, 2], vec![10, 11, 12, 13, 14]), [1, 10, 11, 2, 12, 13, 14]);
        assert_eq!(spread(vec![], vec![10, 11]), [10, 11]);
        assert_eq!(spread(vec![1, 2], vec![10]), [1, 2, 10]);
    }
}
