//! TLS with a ZooKeeper server, and its absence on either side.

use coord_conformance::servers::ZooKeeperOptions;
use coord_core::{ErrorKind, spi::Claims};
use coord_zk::Store;

use crate::common::{claim, granted, line, server_with};

#[tokio::test]
async fn the_authority_that_is_named_is_trusted_and_no_other() {
    let options = ZooKeeperOptions::default().with_own().with_tls();
    let (Some(server), Some(other)) = (server_with(&options), server_with(&options)) else { return };
    let (authority, stranger) = (server.authority().unwrap(), other.authority().unwrap());
    let port = server.secure_port().unwrap();
    let url = |ca: &std::path::Path| format!("zk://localhost:{port}?tls=true&timeout=2&ca={}", ca.display());
    let (one, two) =
        (Store::open(&url(&authority)).await.unwrap(), Store::open(&url(&authority)).await.unwrap());
    let (held, waits) = (claim(&line("secret")), claim(&line("secret")));
    let token = granted(one.claim(&held).await.unwrap()).token;
    let mut wakeups = two.wakeups(&line("secret"), Some(waits.id));
    crate::common::waiting(two.claim(&waits).await.unwrap());
    one.withdraw(&line("secret"), held.id).await.unwrap();
    crate::common::hint(&mut wakeups).await;
    assert!(granted(two.claim(&waits).await.unwrap()).token > token);

    let error = Store::open(&url(&stranger)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for missing in ["/nowhere/ca.pem", "/dev/null"] {
        let error = Store::open(&url(std::path::Path::new(missing))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{missing} {error}");
    }
}

#[tokio::test]
async fn a_plain_port_and_a_port_with_tls_fail_by_their_deadline() {
    let Some(server) = server_with(&ZooKeeperOptions::default().with_own().with_tls()) else { return };
    let (plain, secure) = (server.port(), server.secure_port().unwrap());
    let ca = server.authority().unwrap();
    let to_plain = format!("zk://localhost:{plain}?tls=true&timeout=2&ca={}", ca.display());
    for url in [to_plain, format!("zk://localhost:{secure}?timeout=2")] {
        let error = Store::open(&url).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{url}: {error}");
    }
}
