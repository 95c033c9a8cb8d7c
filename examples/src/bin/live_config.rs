//! Settings that change while a program runs: it sees every last change, keeps the last good value when a bad one
//! arrives, and two who change it at once do not undo each other's work.

use std::time::Duration;

use coord_core::{Config, ErrorKind, prelude::*};
use coord_examples::{Result, Stage};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Limits {
    requests: u32,
    burst: u32,
}

/// What decodes but makes no sense. Every program that reads the key can have a check of its own.
fn check(limits: &Limits) -> Result<(), String> {
    if limits.burst > limits.requests {
        return Err(format!("a burst of {} is more than {} requests", limits.burst, limits.requests));
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let stage = Stage::from_args(&[])?;
    let (operator, server) = (stage.client().await?, stage.client().await?);
    let key = Name::new("web/limits")?;
    let editor = Config::open_with(operator.clone(), key.clone(), check).await?;
    let mut live = Config::open_with(server.clone(), key.clone(), check).await?;
    assert_eq!(live.get(), None);

    let first = editor.put(&Limits { requests: 100, burst: 10 }, Condition::Absent).await?;
    println!("server: {}", next(&mut live).await?);
    let second = editor.put(&Limits { requests: 200, burst: 20 }, Condition::Version(first)).await?;
    println!("server: {}", next(&mut live).await?);
    assert!(first < second);

    let late = editor.put(&Limits { requests: 999, burst: 10 }, Condition::Version(first)).await;
    assert_eq!(late.err().map(|error| error.kind()), Some(ErrorKind::ConditionFailed));
    println!("editor: a change of what was there before is refused");
    let senseless = editor.put(&Limits { requests: 1, burst: 20 }, Condition::Any).await;
    println!("editor: {}", senseless.err().ok_or("the check has to refuse it")?);

    // Somebody else writes without a check.
    operator.put(&key, b"{ \"requests\": \"many\" }".to_vec(), Condition::Any).await?;
    let error = loop {
        match live.error() {
            Some(error) => break error,
            // A value that is not good is no change, so there is nothing to wait for.
            None => sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!(error.kind(), ErrorKind::InvalidValue);
    println!("server: {error}; {} stay", shown(&live)?);

    operator.delete(&key, Condition::Any).await?;
    assert!(live.changed().await);
    assert_eq!((live.get(), live.error().is_none()), (None, true));
    println!("server: nothing is set");
    let history = operator.history(&key, 10).await?;
    let values = history.iter().filter(|state| state.value.is_some()).count();
    assert_eq!((history.len(), values), (4, 3));
    println!("the history has {values} values and a deletion");

    drop((editor, live));
    operator.shutdown().await?;
    server.shutdown().await?;
    Ok(())
}

/// The next good value.
async fn next(live: &mut Config<Limits>) -> Result<String> {
    assert!(live.changed().await, "the watch goes on");
    shown(live)
}

fn shown(live: &Config<Limits>) -> Result<String> {
    let limits = live.get().ok_or("there is a value")?;
    Ok(format!("{} requests, bursts of {}", limits.requests, limits.burst))
}
