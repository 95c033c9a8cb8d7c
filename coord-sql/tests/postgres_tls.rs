//! TLS to a Postgres server, and its absence on either side.

use coord_conformance::servers::PostgresOptions;
use coord_core::{Effect, Error, ErrorKind, spi::Claims};
use coord_sql::Postgres;

use crate::common::{
    claim, granted, hint, line,
    server::{server, shown},
    waiting,
};

async fn refused(url: &str) -> Error {
    let error = Postgres::open(url).await.expect_err(url);
    assert_eq!(error.effect(), Effect::None, "{error}");
    assert!(!shown(&error).contains("secret"), "the password is shown: {error:?}");
    error
}

#[tokio::test]
async fn the_authority_that_is_named_is_trusted_and_no_other() {
    let options = PostgresOptions::default().with_tls();
    let (Some(server), Some(other)) = (server(options.clone()), server(options)) else { return };
    let (authority, stranger) = (server.authority().unwrap(), other.authority().unwrap());
    let url = format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), authority.display());
    let (a, b) = (Postgres::open(&url).await.unwrap(), Postgres::open(&url).await.unwrap());
    let (held, waits) = (claim(&line("secret")), claim(&line("secret")));
    let token = granted(a.claim(&held).await.unwrap()).token;
    // Notifications come by TLS too.
    let mut wakeups = b.wakeups(&line("secret"), Some(waits.id));
    waiting(b.claim(&waits).await.unwrap());
    a.withdraw(&line("secret"), held.id).await.unwrap();
    hint(&mut wakeups).await;
    assert!(granted(b.claim(&waits).await.unwrap()).token > token);
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE client_addr IS NOT NULL";
    assert_eq!(server.query(encrypted).unwrap(), "t");

    let wrong = format!("{}?sslmode=verify-full&sslrootcert={}", server.url(), stranger.display());
    let unknown = format!("{}?sslmode=verify-full", server.url());
    for url in [wrong, unknown] {
        let error = refused(&url).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("sslrootcert"), "{error}");
    }
}

#[tokio::test]
async fn a_plain_port_and_a_port_with_tls_are_told_apart() {
    let Some(plain) = server(PostgresOptions::default()) else { return };
    let error = refused(&format!("{}?sslmode=require", plain.url())).await;
    assert!(error.to_string().contains("TLS"), "{error}");
    let Some(tls) = server(PostgresOptions::default().with_tls()) else { return };
    let error = refused(&format!("{}?sslmode=disable", tls.url())).await;
    assert!(error.to_string().contains("sslmode"), "{error}");
    // Where the URL says nothing, TLS is taken if it is offered.
    granted(Postgres::open(tls.url()).await.unwrap().claim(&claim(&line("either"))).await.unwrap());
    granted(Postgres::open(plain.url()).await.unwrap().claim(&claim(&line("either"))).await.unwrap());
}
