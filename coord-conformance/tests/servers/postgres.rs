//! Postgres servers.

use std::{
    io::Read,
    process::{Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use coord_conformance::{
    Servers,
    servers::{Postgres, PostgresOptions, Unavailable},
};

use crate::ending::is_alive;

pub(crate) fn several_at_once_are_apart() -> Result<(), Unavailable> {
    let start = || std::thread::spawn(|| Postgres::start(&PostgresOptions::default().with_own()));
    let starting: Vec<_> = (0..3).map(|_| start()).collect();
    let servers: Result<Vec<_>, _> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
    for (number, postgres) in servers?.iter().enumerate() {
        // It would exist in the second one if that were the first.
        postgres.query(&format!("CREATE TABLE one (number int); INSERT INTO one VALUES ({number})")).unwrap();
        assert_eq!(postgres.query("SELECT number FROM one").unwrap(), number.to_string());
    }
    Ok(())
}

pub(crate) fn a_restart_keeps_what_was_committed() -> Result<(), Unavailable> {
    let mut postgres = Postgres::start(&PostgresOptions::default().with_own())?;
    let (pid, url) = (postgres.pid(), postgres.url());
    postgres.query("CREATE TABLE t (a int)").unwrap();
    for round in 1..=3 {
        postgres.query(&format!("INSERT INTO t VALUES ({round})")).unwrap();
        if round == 2 {
            postgres.kill().unwrap();
            postgres.query("SELECT 1").unwrap_err();
        }
        postgres.restart().unwrap();
        assert_eq!(postgres.query("SELECT max(a), count(*) FROM t").unwrap(), format!("{round}|{round}"));
    }
    assert_ne!(postgres.pid(), pid);
    assert_eq!(postgres.url(), url);
    Ok(())
}

pub(crate) fn a_killed_server_has_no_processes_left() -> Result<(), Unavailable> {
    let postgres = Postgres::start(&PostgresOptions::default().with_own())?;
    let pid = postgres.query("SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'").unwrap();
    assert!(is_alive(&pid));
    postgres.kill().unwrap();
    // Its first process was killed; the others end by themselves, and the call has waited for them.
    assert!(!is_alive(&pid));
    Ok(())
}

pub(crate) fn a_stopped_server_answers_when_it_goes_on() -> Result<(), Unavailable> {
    let mut postgres = Postgres::start(&PostgresOptions::default().with_own())?;
    // A session that is there already is stopped too, not only the process that takes new ones.
    let mut session = Command::new("psql");
    session.args(["-X", "-q", "-A", "-t", &format!("{}?sslmode=disable", postgres.url())]);
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut input, mut output) = (session.stdin.take().unwrap(), session.stdout.take().unwrap());
    let mut ask = |statement: &str| std::io::Write::write_all(&mut input, statement.as_bytes()).unwrap();
    let mut answer = [0; 2];
    ask("SELECT 1;\n");
    output.read_exact(&mut answer).unwrap();
    postgres.stop().unwrap();
    ask("SELECT 2;\n");
    let (sender, answered) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        output.read_exact(&mut answer).unwrap();
        sender.send(answer).unwrap();
    });
    answered.recv_timeout(Duration::from_millis(200)).unwrap_err();
    postgres.resume().unwrap();
    assert_eq!(&answered.recv().unwrap(), b"2\n");
    reader.join().unwrap();
    postgres.stop().unwrap();
    postgres.restart().unwrap();
    assert_eq!(postgres.query("SELECT 3").unwrap(), "3");
    drop(input);
    session.wait().unwrap();
    Ok(())
}

pub(crate) fn users_have_their_passwords_and_rights() -> Result<(), Unavailable> {
    let options = PostgresOptions::default()
        .with_role("maker", "m'1")
        .with_role("guest", "g%1")
        .with_statement("GRANT CREATE ON DATABASE postgres TO maker");
    let postgres = Postgres::start(&options)?;
    let ask =
        |user: &str, password: &str| psql(&postgres.url_as(user, password), &format!("CREATE SCHEMA {user}"));
    assert_eq!(ask("maker", "m'1"), "");
    assert!(ask("guest", "g%1").contains("permission denied for database"));
    assert!(ask("guest", "wrong").contains("password authentication failed"));
    Ok(())
}

pub(crate) fn settings_arrive() -> Result<(), Unavailable> {
    let options = PostgresOptions::default()
        .with_fsync()
        .with_setting("shared_preload_libraries", "pg_stat_statements")
        .with_setting("max_connections", "7");
    let postgres = Postgres::start(&options)?;
    let value = |name: &str| postgres.query(&format!("SHOW {name}")).unwrap();
    assert_eq!([value("fsync"), value("max_connections"), value("synchronous_commit")], ["on", "7", "on"]);
    // What the server did can be counted there.
    postgres.query("CREATE EXTENSION pg_stat_statements").unwrap();
    postgres.query("SELECT 1 AS counted").unwrap();
    let calls = "SELECT calls FROM pg_stat_statements WHERE query LIKE '%AS counted'";
    assert_eq!(postgres.query(calls).unwrap(), "1");
    let quick = Postgres::start(&PostgresOptions::default().with_own())?;
    assert_eq!(quick.query("SHOW fsync").unwrap(), "off");
    Ok(())
}

pub(crate) fn a_bad_statement_is_told() -> Result<(), Unavailable> {
    Postgres::start(&PostgresOptions::default().with_own())?;
    let missing = Postgres::start(&PostgresOptions::default().with_statement("NONSENSE")).unwrap_err();
    assert!(missing.fails() && missing.reason().contains("NONSENSE"), "{missing}");
    Ok(())
}

pub(crate) fn tls_is_spoken_and_nothing_else() -> Result<(), Unavailable> {
    let postgres = Postgres::start(&PostgresOptions::default().with_tls())?;
    let other = Postgres::start(&PostgresOptions::default().with_tls())?;
    let ask = |mode: &str, authority: &Postgres| {
        let authority = authority.authority().unwrap();
        psql(&format!("{}?sslmode={mode}&sslrootcert={}", postgres.url(), authority.display()), "SELECT 1")
    };
    assert_eq!(ask("verify-full", &postgres), "1");
    assert!(ask("verify-full", &other).contains("certificate verify failed"));
    assert!(ask("disable", &postgres).contains("no pg_hba.conf entry"));
    assert_eq!(postgres.query("SELECT 1").unwrap(), "1");
    Ok(())
}

fn psql(url: &str, statement: &str) -> String {
    let output = Command::new("psql").args(["-X", "-q", "-A", "-t", "-c", statement, url]).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().to_owned()
}

pub(crate) fn what_is_kept_is_told() -> Result<(), Unavailable> {
    let kept = Mutex::new(Postgres::start(&PostgresOptions::default().with_own())?).kept();
    let names: Vec<_> = kept.keys().map(String::as_str).collect();
    assert_eq!(names, ["connections"]);
    Ok(())
}
