//! Who may connect to a Postgres server, to what, and what is said to those who may not.

use coord_conformance::servers::{self, PostgresOptions};
use coord_core::{
    Error, ErrorKind, Lock, LockOptions, Name,
    spi::{Claims, jobs::Jobs, values::Values},
};
use coord_sql::Postgres;

use crate::common::{
    claim, granted, line,
    server::{open, server, shown},
};

const PASSWORD: &str = "hunter2-of-the-role";

fn with_role() -> Option<servers::Postgres> {
    server(PostgresOptions::default().with_role("app", PASSWORD))
}

async fn refused(url: &str) -> Error {
    let error = coord_sql::connect(url).await.expect_err("it is refused");
    let all = shown(&error);
    for secret in [PASSWORD, "secret"] {
        assert!(!all.contains(secret), "a password is shown: {all}");
    }
    error
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let Some(server) = with_role() else { return };
    let error = refused(&server.url_as("app", "hunter2-wrong")).await;
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("password") && !shown(&error).contains("hunter2"), "{error}");

    let error = refused(&server.url_as("nobody", PASSWORD)).await;
    assert_eq!(error.kind(), ErrorKind::Permission);

    let url = server.url();
    let (front, _) = url.rsplit_once('/').unwrap();
    let error = refused(&format!("{front}/missing")).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("missing") && error.to_string().contains("create it"), "{error}");

    let error = refused(&server.url_as("app", PASSWORD)).await;
    assert_eq!(error.kind(), ErrorKind::Permission, "no schema, and no right to make one");
    assert!(error.to_string().contains("CREATE on the database"), "{error}");

    let error = refused("postgres://app:hunter2-of-the-role@127.0.0.1:1/postgres").await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let error = refused(&format!("{url}?sslmode=require")).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("TLS"), "{error}");
}

#[tokio::test]
async fn a_role_that_uses_the_schema_needs_no_right_to_make_it() {
    let Some(server) = with_role() else { return };
    // Made by another role, which may.
    open(&server).await;
    let url = server.url_as("app", PASSWORD);
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Permission, "the schema is there, and closed to it");
    assert!(error.to_string().contains("USAGE"), "{error}");
    // What the message and the documentation ask for.
    server
        .query(
            "GRANT USAGE ON SCHEMA coord TO app; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA coord TO app; \
             GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA coord TO app",
        )
        .unwrap();
    let client = coord_sql::connect(&url).await.unwrap();
    let guard = client.acquire(&Name::new("shared").unwrap(), &LockOptions::default()).await.unwrap();
    let store = Postgres::open(&url).await.unwrap();
    store.commit(&crate::common::words::put("key", b"value")).await.unwrap();
    assert!(Values::get(&*store, &crate::common::words::key("key")).await.unwrap().0.is_some());
    let queue = crate::common::words::queue("work");
    store.push(&crate::common::words::push(&queue, vec![crate::common::words::item(b"x")])).await.unwrap();
    let received = store.receive(&crate::common::words::receive(&queue, 1)).await.unwrap();
    assert_eq!(received.deliveries.len(), 1);
    guard.release().await.unwrap();
    client.shutdown().await.unwrap();
    // Also where it has to begin a new life.
    server.query("UPDATE coord.life SET timeline = '000000FF'").unwrap();
    granted(store.claim(&claim(&line("life"))).await.unwrap());
}

#[tokio::test]
async fn a_schema_of_a_newer_version_is_refused() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    open(&server).await;
    let statement = "INSERT INTO coord._sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (99, 'later', true, '\\x00', 1)";
    server.query(statement).unwrap();
    let error = refused(&server.url()).await;
    assert_eq!(error.kind(), ErrorKind::NewerSchema);
    assert!(error.to_string().contains("upgrade this program"), "{error}");
}

#[tokio::test]
async fn two_clients_may_make_the_schema_at_once() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let url = server.url();
    let opened = futures_util::future::join_all((0..6).map(|_| Postgres::open(url.as_str()))).await;
    for (number, store) in opened.into_iter().enumerate() {
        granted(store.unwrap().claim(&claim(&line(&format!("at once {number}")))).await.unwrap());
    }
    assert_eq!(server.query("SELECT count(*) FROM coord.life").unwrap(), "1");
}

#[tokio::test]
async fn nothing_shows_the_password() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let store = open(&server).await;
    let config = coord_sql::PostgresConfig::parse(&server.url()).unwrap();
    let database = coord_sql::Database::parse(&server.url()).unwrap();
    let coordinator = coord_sql::connect(&config).await.unwrap();
    let all = format!("{store:?} {config:?} {database:?} {coordinator:?}");
    assert!(all.contains("postgres at 127.0.0.1") && !all.contains("secret"), "{all}");
}
