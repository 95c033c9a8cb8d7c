//! TLS to the server.

use coord_conformance::servers::EtcdOptions;
use coord_core::{ErrorKind, spi::Claims};
use coord_etcd::{Config, Store};

use crate::common::{claim, granted, line, server_with};

#[tokio::test]
async fn a_server_is_reached_by_tls_and_known_by_its_authority() {
    let options = EtcdOptions::default().with_tls();
    let (Some(server), Some(other)) = (server_with(&options), server_with(&options)) else { return };
    let (own, foreign) = (server.authority().unwrap(), other.authority().unwrap());
    let url = |ca: &std::path::Path| format!("{}?ca={}&timeout=3", server.url(), ca.display());
    let store = Store::open(url(&own)).await.unwrap();
    granted(store.claim(&claim(&line("secret"))).await.unwrap());
    for (wrong, kind) in [
        (url(&foreign), ErrorKind::InvalidInput),
        // The authorities of the system know nothing of it.
        (format!("{}?timeout=3", server.url()), ErrorKind::InvalidInput),
        (format!("{}?ca=/nowhere", server.url()), ErrorKind::InvalidInput),
        (format!("{}?ca=/proc/self/status", server.url()), ErrorKind::InvalidInput),
    ] {
        let error = Store::open(&wrong).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{wrong}: {error} {error:?}");
    }
    let config = Config::new("localhost", server.port()).with_tls().with_ca(&own);
    Store::open(config).await.unwrap();
}

#[tokio::test]
async fn a_port_without_tls_is_told() {
    let Some(server) = server_with(&EtcdOptions::default().with_own()) else { return };
    let error = Store::open(format!("etcds://127.0.0.1:{}?timeout=3", server.port())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error} {error:?}");
    assert!(error.to_string().contains("use etcd://"), "{error}");
}
