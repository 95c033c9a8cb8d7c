//! TLS, and its absence on either side.

use coord_conformance::servers::RedisOptions;
use coord_core::{Effect, Error, ErrorKind, spi::Claims};
use coord_redis::Store;

use crate::common::{claim, granted, line, server, server_with};

async fn refused(url: &str) -> Error {
    let error = Store::open(url).await.unwrap_err();
    assert_eq!(error.effect(), Effect::None);
    error
}

#[tokio::test]
async fn the_authority_that_is_named_is_trusted_and_no_other() {
    let options = RedisOptions::default().with_tls();
    let (Some(server), Some(other)) = (server_with(&options), server_with(&options)) else { return };
    let (Some(authority), Some(stranger)) = (server.authority(), other.authority()) else { return };
    let url = format!("{}?ca={}", server.url(), authority.display());
    let (one, two) = (Store::open(&url).await.unwrap(), Store::open(&url).await.unwrap());
    let first = claim(&line("secret"));
    let token = granted(one.claim(&first).await.unwrap()).token;
    let mut hints = two.wakeups(&line("secret"), Some(first.id));
    let second = claim(&line("secret"));
    let mut next = two.wakeups(&line("secret"), Some(second.id));
    crate::common::waiting(two.claim(&second).await.unwrap());
    one.withdraw(&line("secret"), first.id).await.unwrap();
    crate::common::hint(&mut next).await;
    assert!(granted(two.claim(&second).await.unwrap()).token > token);
    assert!(futures_util::FutureExt::now_or_never(hints.next()).is_none());

    for wrong in [server.url(), format!("{}?ca={}", server.url(), stranger.display())] {
        let error = refused(&wrong).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
    for missing in ["/nowhere/ca.pem", "/dev/null"] {
        let error = refused(&format!("{}?ca={missing}", server.url())).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{missing} {error}");
    }
}

#[tokio::test]
async fn a_plain_port_and_a_port_with_tls_are_told_apart() {
    let (Some(plain), Some(tls)) = (server(), server_with(&RedisOptions::default().with_tls())) else {
        return;
    };
    // Such a port says nothing at all.
    let url = format!("{}?timeout=1", plain.url().replace("redis://", "rediss://"));
    let error = refused(&url).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("does the port speak TLS"), "{error}");
    let error = refused(&tls.url().replace("rediss://", "redis://")).await;
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unsupported), "{error}");
    assert!(error.to_string().contains("rediss://"), "{error}");
}
