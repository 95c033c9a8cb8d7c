//! TLS with the servers, by the driver.

use std::{path::Path, time::Duration};

use coord_core::{Error, ErrorKind, Result};
use zookeeper_client as zk;

use crate::{config::Config, probe::Limits};

/// The shortest session that is asked for to learn what a server allows. Where it allows shorter ones, nobody learns it.
const SHORT: Duration = Duration::from_secs(1);
/// The longest session that can be asked for, in the protocol's milliseconds; no server allows as much, but those that are told to.
const LONG: Duration = Duration::from_millis(0x7fff_ffff);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Trusts the certificates in this PEM file, and no others.
pub(crate) fn options(ca: &Path) -> Result<zk::TlsOptions> {
    let refused = |source: Box<dyn std::error::Error + Send + Sync>| {
        let text = format!("the file of trusted certificates {} cannot be used", ca.display());
        Error::new(ErrorKind::InvalidInput, text).with_source(source)
    };
    // The driver asks for the process's cryptography, of which there is none unless somebody chose it: programs that use the TLS of several
    // backends have more than one at hand. Whoever came first has chosen.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let pem = std::fs::read_to_string(ca).map_err(|error| refused(error.into()))?;
    zk::TlsOptions::new().with_pem_ca(&pem).map_err(|error| refused(error.into()))
}

/// Between which lengths the ensemble keeps sessions, as far as sessions by TLS tell; `None` if no server does.
pub(crate) async fn limits(config: &Config) -> Option<Limits> {
    let (min, max) = tokio::join!(negotiate(config, SHORT), negotiate(config, LONG));
    Some(Limits { min: min?, max: max? })
}

async fn negotiate(config: &Config, length: Duration) -> Option<Duration> {
    let tls = options(config.ca()?).ok()?;
    let connector = zk::Client::connector()
        .with_session_timeout(length)
        .with_connection_timeout(PATIENCE.min(length * 3 / 5))
        .with_fail_eagerly()
        .with_tls(tls);
    let cluster = config.cluster();
    let client = tokio::time::timeout(PATIENCE, connector.connect(&cluster)).await.ok()?;
    client
        .inspect_err(|error| tracing::debug!(%error, "no session by TLS"))
        .ok()
        .map(|client| client.session_timeout())
}
