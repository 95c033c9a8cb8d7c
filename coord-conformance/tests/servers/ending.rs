//! Servers end with the process that started them.

use std::{path::Path, process::Command, time::Duration};

use coord_conformance::servers::{Postgres, PostgresOptions, Redis, RedisOptions, Unavailable};

use crate::child::{self, Held};

/// Waits until the processes and the folders are gone.
fn until_gone(pids: &[String], folders: &[String]) {
    for _ in 0..300 {
        let alive = pids.iter().any(|pid| is_alive(pid));
        if !alive && folders.iter().all(|folder| !Path::new(folder).exists()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("left behind, of the processes {pids:?} and the folders {folders:?}");
}

pub(crate) fn is_alive(pid: &str) -> bool {
    // One that has ended, and whom its parent has not yet asked about, is listed all the same: as `Z`.
    let output = Command::new("ps").args(["-o", "stat=", "-p", pid]).output().unwrap();
    let state = String::from_utf8(output.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

pub(crate) fn a_dropped_server_leaves_nothing() -> Result<(), Unavailable> {
    let redis = Redis::start(&RedisOptions::default().with_own())?;
    let postgres = Postgres::start(&PostgresOptions::default().with_own())?;
    let pids = [redis.pid().unwrap().to_string(), postgres.pid().unwrap().to_string()];
    let folders = [redis.socket().unwrap().parent().unwrap().to_owned(), postgres.socket_folder().unwrap()];
    assert!(pids.iter().all(|pid| is_alive(pid)) && folders.iter().all(|folder| folder.exists()));
    drop((redis, postgres));
    // At once: dropping waits.
    assert!(!pids.iter().any(|pid| is_alive(pid)) && !folders.iter().any(|folder| folder.exists()));
    Ok(())
}

pub(crate) fn a_panic_leaves_no_server() -> Result<(), Unavailable> {
    child::needed()?;
    let (success, output, errors) = child::run("panic", &[]);
    assert!(!success && errors.contains("on purpose"), "{errors}");
    until_gone(&[output.trim().to_owned()], &[]);
    Ok(())
}

pub(crate) fn a_killed_process_leaves_no_server() -> Result<(), Unavailable> {
    killed("hold")
}

pub(crate) fn a_killed_process_leaves_no_stopped_server() -> Result<(), Unavailable> {
    killed("hold stopped")
}

fn killed(task: &str) -> Result<(), Unavailable> {
    child::needed()?;
    let mut child = Held::start(task, &[]);
    let (pids, folders) = (child.words(), child.words());
    assert_eq!((pids.len(), folders.len()), (2, 2));
    assert!(pids.iter().all(|pid| is_alive(pid)));
    child.kill();
    until_gone(&pids, &folders);
    Ok(())
}

pub(crate) fn a_killed_process_leaves_no_folder_of_a_killed_server() -> Result<(), Unavailable> {
    child::needed()?;
    let mut child = Held::start("killed server", &[]);
    let folders = child.words();
    assert!(folders.len() == 1 && Path::new(&folders[0]).exists(), "{folders:?}");
    child.kill();
    until_gone(&[], &folders);
    Ok(())
}
