//! What several test targets use.
#![allow(dead_code, reason = "not every target uses everything")]

use std::{io, sync::Arc};

use coord_conformance::{
    Stores,
    servers::{Etcd, Unavailable},
};
use coord_core::{Error, ErrorKind};
use coord_etcd::Store;

/// All stores of one client.
pub(crate) fn stores(store: Arc<Store>) -> Stores {
    Stores::new(store.clone()).with_values(store.clone()).with_jobs(store)
}

pub(crate) fn no_server(error: Unavailable) -> Error {
    Error::new(ErrorKind::Unavailable, "no server").with_source(error)
}

pub(crate) fn failed(error: io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the server does not tell").with_source(error)
}

/// How many keys the server has.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a count")]
pub(crate) fn keys(etcd: &Etcd) -> io::Result<u64> {
    let metrics = etcd.metrics()?;
    let keys = metrics.get("etcd_debugging_mvcc_keys_total");
    keys.map(|keys| *keys as u64).ok_or_else(|| io::Error::other("the server does not count its keys"))
}
