//! The conformance suite on one etcd server and on clusters of three: `cargo test -p coord-etcd --test conformance [FILTER]`,
//! where a filter may be `etcd::` or `etcd-of-three::`.

#[path = "../common/mod.rs"]
mod common;
mod one;
mod pool;
mod three;

use std::{process::ExitCode, sync::Arc};

use coord_conformance::Backend;

fn main() -> ExitCode {
    let backends: [Arc<dyn Backend>; 2] = [Arc::new(one::OnEtcd), Arc::new(three::OnCluster)];
    coord_conformance::main_of_all(&backends)
}
