//! A standby, which can grant nothing.

use coord_conformance::servers::PostgresOptions;
use coord_core::{Effect, ErrorKind, spi::Claims};
use coord_sql::Postgres;

use crate::common::{
    claim, granted, line,
    server::{open, server},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_refused_and_grants_nothing() {
    let Some(mut server) = server(PostgresOptions::default()) else { return };
    let store = open(&server).await;
    let first = granted(store.claim(&claim(&line("before"))).await.unwrap());
    // The checkpoint is where a standby begins to read.
    server.query("CHECKPOINT").unwrap();
    let data = server.socket_folder().unwrap().join("data");
    std::fs::write(data.join("standby.signal"), "").unwrap();
    let server =
        tokio::task::spawn_blocking(move || server.restart().map(|()| server)).await.unwrap().unwrap();
    assert_eq!(server.query("SELECT pg_is_in_recovery()").unwrap(), "t");

    let error = Postgres::open(server.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("connect to the primary"), "{error}");
    // A client that was there before, and comes back to it: its connection first, then the refusal.
    let error = loop {
        let error = store.claim(&claim(&line("after"))).await.unwrap_err();
        if error.kind() != ErrorKind::Unavailable {
            break error;
        }
    };
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unsupported, Effect::None), "{error}");
    assert!(store.renew(std::slice::from_ref(&first)).await.is_err(), "a standby prolongs no lease");

    // Promoted, it serves again, and tokens grow.
    server.query("SELECT pg_promote()").unwrap();
    let next = granted(store.claim(&claim(&line("promoted"))).await.unwrap());
    assert!(next.token > first.token, "{} came after {}", next.token, first.token);
    server.kill().unwrap();
}
