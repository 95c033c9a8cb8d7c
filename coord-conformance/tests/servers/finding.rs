//! Where a server comes from, and what is said where there is none.

use coord_conformance::servers::{Redis, RedisOptions, Unavailable};

use crate::child::{self, NOTHING};

pub(crate) fn the_server_of_the_url_is_used() -> Result<(), Unavailable> {
    let redis = Redis::start(&RedisOptions::default().with_password("s/e%63ret"))?;
    let url = redis.url();
    let (success, output, errors) = child::run("tell", &[("COORD_TEST_REDIS_URL", &url)]);
    assert!(success, "{errors}");
    // It has no process id, and is not the child's to kill.
    assert_eq!(output, format!("url {url} PONG\nNone Err(Unsupported)\n"));
    redis.command(&["PING"]).unwrap();
    Ok(())
}

pub(crate) fn a_server_of_the_url_is_not_killed() -> Result<(), Unavailable> {
    let redis = Redis::start(&RedisOptions::default().with_own())?;
    let url = redis.url();
    // A test that wants to kill one gets one of its own.
    let (success, output, errors) = child::run("own", &[("COORD_TEST_REDIS_URL", &url)]);
    assert!(success && output.starts_with("url redis://127.0.0.1:"), "{output}{errors}");
    assert!(!output.contains(&url), "{output}");
    Ok(())
}

pub(crate) fn a_bad_url_is_not_repeated() -> Result<(), Unavailable> {
    let (_, output, _) = child::run("tell", &[("COORD_TEST_REDIS_URL", "secret")]);
    assert_eq!(output, "fails=true COORD_TEST_REDIS_URL is not a URL\n");
    Ok(())
}

pub(crate) fn a_missing_program_gives_the_reason() -> Result<(), Unavailable> {
    let (success, output, _) = child::run("tell", &NOTHING);
    assert!(success);
    assert!(output.starts_with("fails=false COORD_TEST_PROGRAMS=none hides redis-server; "), "{output}");
    assert!(output.contains("container"), "{output}");
    Ok(())
}

pub(crate) fn a_missing_server_is_ignored_and_fails_in_ci() -> Result<(), Unavailable> {
    let (_, ours, _) = child::run("tell", &NOTHING);
    let (_, in_ci, _) = child::run("tell", &[NOTHING[0], NOTHING[1], ("CI", "true")]);
    assert!(ours.starts_with("fails=false "), "{ours}");
    assert!(in_ci.starts_with("fails=true "), "{in_ci}");
    Ok(())
}

pub(crate) fn a_broken_server_fails_everywhere() -> Result<(), Unavailable> {
    Redis::start(&RedisOptions::default().with_own())?;
    let (_, output, _) = child::run("broken", &[]);
    // With the server's own words.
    assert!(output.starts_with("fails=true ") && output.contains("no-such-setting"), "{output}");
    Ok(())
}

pub(crate) fn a_suite_without_a_server_is_ignored_and_fails_in_ci() -> Result<(), Unavailable> {
    let (success, output, errors) = child::run("suite", &NOTHING);
    assert!(success, "{output}{errors}");
    assert!(output.contains("lock::is_exclusive"), "{output}");
    assert!(output.contains(" 0 passed; 0 failed; ") && !output.contains("; 0 ignored;"), "{output}");
    assert!(output.contains("COORD_TEST_PROGRAMS=none hides redis-server"), "{output}");
    let (success, output, _) = child::run("suite", &[NOTHING[0], NOTHING[1], ("CI", "true")]);
    assert!(!success && output.contains("; 0 ignored;") && output.contains(" 0 passed;"), "{output}");
    Ok(())
}
