//! Servers in containers. The images are those that `COORD_TEST_REDIS_IMAGE` and `COORD_TEST_POSTGRES_IMAGE` name, or the
//! official ones. They run under `COORD_TEST_PROGRAMS=none`, because a program of the host is preferred.

use std::process::Command;

use coord_conformance::servers::{
    Postgres, PostgresOptions, Redis, RedisOptions, Test, Unavailable, redis::Reply,
};

use crate::{child::Held, containers, tests};

/// These tests, where the programs of this host are hidden: they are about nothing else.
pub(crate) fn all() -> Vec<Test> {
    let all: [Test; 6] = tests![
        containers::redis_runs_in_one,
        containers::redis_keeps_its_data_over_a_restart,
        containers::postgres_runs_in_one,
        containers::postgres_keeps_its_data_over_a_restart,
        containers::a_killed_process_leaves_no_container,
        containers::an_image_that_is_not_there_is_told,
    ];
    match std::env::var("COORD_TEST_PROGRAMS").as_deref() {
        Ok("none") => all.to_vec(),
        _ => Vec::new(),
    }
}

fn redis(options: &RedisOptions) -> Result<Redis, Unavailable> {
    let redis = Redis::start(options)?;
    assert_eq!((redis.pid(), redis.socket()), (None, None), "it is not in a container");
    Ok(redis)
}

fn postgres(options: &PostgresOptions) -> Result<Postgres, Unavailable> {
    let postgres = Postgres::start(options)?;
    assert_eq!((postgres.pid(), postgres.socket_folder()), (None, None), "it is not in a container");
    Ok(postgres)
}

pub(crate) fn redis_runs_in_one() -> Result<(), Unavailable> {
    let options =
        RedisOptions::default().with_password("p@ss w%rd").with_setting("maxmemory-policy", "allkeys-lru");
    let redis = redis(&options)?;
    let policy = redis.command(&["CONFIG", "GET", "maxmemory-policy"]).unwrap();
    assert_eq!(
        policy,
        Reply::Array(["maxmemory-policy", "allkeys-lru"].map(|text| Reply::Text(text.into())).into())
    );
    assert_eq!(redis.calls().unwrap().get("config|get"), Some(&1));
    redis.stop().unwrap();
    redis.resume().unwrap();
    redis.command(&["PING"]).unwrap();
    Ok(())
}

pub(crate) fn redis_keeps_its_data_over_a_restart() -> Result<(), Unavailable> {
    let mut redis = redis(&RedisOptions::default().with_append_only())?;
    let url = redis.url();
    redis.command(&["SET", "a", "1"]).unwrap();
    redis.kill().unwrap();
    redis.command(&["GET", "a"]).unwrap_err();
    redis.restart().unwrap();
    assert_eq!((redis.url(), redis.command(&["GET", "a"]).unwrap()), (url, Reply::Text("1".into())));
    Ok(())
}

pub(crate) fn postgres_runs_in_one() -> Result<(), Unavailable> {
    let options = PostgresOptions::default()
        .with_role("guest", "g'1")
        .with_statement("GRANT CREATE ON DATABASE postgres TO guest")
        .with_setting("max_connections", "7");
    let postgres = postgres(&options)?;
    assert_eq!(postgres.query("SHOW max_connections").unwrap(), "7");
    let may = "SELECT has_database_privilege('guest', 'postgres', 'create')";
    assert_eq!(postgres.query(may).unwrap(), "t");
    // From outside too.
    let output = Command::new("psql").args(["-XAtc", "SELECT 1", &postgres.url_as("guest", "g'1")]).output();
    assert_eq!(output.unwrap().stdout, b"1\n");
    Ok(())
}

pub(crate) fn postgres_keeps_its_data_over_a_restart() -> Result<(), Unavailable> {
    let mut postgres = postgres(&PostgresOptions::default().with_own())?;
    postgres.query("CREATE TABLE t AS SELECT 1 AS a").unwrap();
    postgres.kill().unwrap();
    postgres.query("SELECT 1").unwrap_err();
    postgres.restart().unwrap();
    assert_eq!(postgres.query("SELECT a FROM t").unwrap(), "1");
    Ok(())
}

pub(crate) fn a_killed_process_leaves_no_container() -> Result<(), Unavailable> {
    drop(redis(&RedisOptions::default())?);
    let mut child = Held::start("hold redis", &[("COORD_TEST_PROGRAMS", "none")]);
    let port = child.words()[1].rsplit_once(':').unwrap().1.to_owned();
    let published = || {
        let filter = format!("publish={port}");
        let output =
            Command::new("docker").args(["ps", "--all", "--quiet", "--filter", &filter]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert_eq!(published(), 1);
    child.kill();
    for _ in 0..300 {
        if published() == 0 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the container of port {port} is left");
}

pub(crate) fn an_image_that_is_not_there_is_told() -> Result<(), Unavailable> {
    drop(redis(&RedisOptions::default())?);
    let image = "127.0.0.1:9/nobody/has-this:tag";
    let environment = [("COORD_TEST_PROGRAMS", "none"), ("COORD_TEST_REDIS_IMAGE", image)];
    let (success, output, _) = crate::child::run("tell", &environment);
    assert!(success && output.starts_with("fails=false "), "{output}");
    assert!(output.contains(image) && output.contains("COORD_TEST_REDIS_IMAGE"), "{output}");
    Ok(())
}
