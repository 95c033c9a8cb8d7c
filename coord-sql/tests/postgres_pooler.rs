//! Behind PgBouncer: a pool of sessions serves, a pool of transactions is refused with a word on what to do.

use coord_conformance::servers::PostgresOptions;
use coord_core::{ErrorKind, spi::Claims};
use coord_sql::Postgres;

use crate::common::{
    claim, granted, hint, line,
    server::{open, pooler, server},
    waiting,
};

/// What the driver and this crate say in the first message, which PgBouncer would refuse.
const IGNORED: (&str, &str) = ("ignore_startup_parameters", "options, extra_float_digits");

#[tokio::test]
async fn a_pool_of_sessions_serves() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let Some(pooler) = pooler(&server, &[("pool_mode", "session"), IGNORED]) else { return };
    let (a, b) = (Postgres::open(pooler.url()).await.unwrap(), Postgres::open(pooler.url()).await.unwrap());
    let (held, waits) = (claim(&line("pooled")), claim(&line("pooled")));
    let token = granted(a.claim(&held).await.unwrap()).token;
    let mut wakeups = b.wakeups(&line("pooled"), Some(waits.id));
    waiting(b.claim(&waits).await.unwrap());
    a.withdraw(&line("pooled"), held.id).await.unwrap();
    hint(&mut wakeups).await;
    assert!(granted(b.claim(&waits).await.unwrap()).token > token);
}

/// And it leaves nothing behind that would stand in the way of others, such as a lock in a session of the pool.
#[tokio::test]
async fn a_pool_of_transactions_is_refused() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let Some(pooler) = pooler(&server, &[("pool_mode", "transaction"), IGNORED]) else { return };
    for _ in 0..3 {
        let error = Postgres::open(pooler.url()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("pooler"), "{error}");
        assert!(error.to_string().contains("session mode"), "{error}");
    }
    granted(open(&server).await.claim(&claim(&line("direct"))).await.unwrap());
}

/// As it comes from the package.
#[tokio::test]
async fn a_pooler_that_refuses_options_is_told_of() {
    let Some(server) = server(PostgresOptions::default()) else { return };
    let Some(pooler) = pooler(&server, &[("pool_mode", "session")]) else { return };
    let error = Postgres::open(pooler.url()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains(IGNORED.1), "{error}");
}
