//! Real servers for tests and benchmarks: never a mock of one.
//!
//! `start` takes the first of these that there is:
//!
//! 1. the server at `COORD_TEST_<BACKEND>_URL`, if the options ask for nothing that an unknown server may lack;
//! 2. a server program of this host, on `PATH` or where Debian puts it. It gets a free port of 127.0.0.1 and a folder of
//!    its own, and ends with this process, however that ends;
//! 3. a container, if this crate's feature `containers` is on and a Docker daemon answers. It is removed when this
//!    process ends; after a `SIGKILL` by the `docker` command, if there is one;
//! 4. otherwise it is [`Unavailable`], with the reason.
//!
//! | variable | effect |
//! | --- | --- |
//! | `COORD_TEST_REDIS_URL`, `COORD_TEST_POSTGRES_URL`, `COORD_TEST_ETCD_URL`, `COORD_TEST_ZOOKEEPER_URL` | the server to use |
//! | `COORD_TEST_REDIS_IMAGE`, `COORD_TEST_POSTGRES_IMAGE`, `COORD_TEST_ETCD_IMAGE` | the image to run, as `name:tag` |
//! | `COORD_TEST_PROGRAMS=none` | the programs of the host are not used |
//! | `CI=true` | a test whose server is not there fails, instead of being ignored |
//!
//! A conformance test hands on what `start` says from [`Backend::open`](crate::Backend::open), by `?`. Other tests can run
//! under [`tests`].

mod clock;
#[cfg(feature = "containers")]
mod container;
mod etcd;
mod folder;
mod namespaces;
pub(crate) mod network;
mod node;
mod postgres;
mod process;
mod program;
pub mod redis;
mod striking;
mod tls;
mod zookeeper;

use std::{io, num::NonZeroUsize, process::ExitCode, time::Duration};

use coord_core::clock::Clock;
use libtest_mimic::{Arguments, Completion, Trial};

pub use self::{
    clock::ServerClock,
    etcd::{Etcd, EtcdCluster, EtcdOptions},
    namespaces::Network,
    postgres::{PgBouncer, Postgres, PostgresOptions},
    redis::{Redis, RedisOptions},
    striking::OnNetwork,
    zookeeper::{ZooKeeper, ZooKeeperEnsemble, ZooKeeperOptions},
};
pub use crate::unavailable::Unavailable;

/// A test of [`tests`]: its name, and what it does.
pub type Test = (&'static str, fn() -> Result<(), Unavailable>);

/// The `main` of a test target without the standard harness: libtest's options and output, but a test whose server is
/// not there is *ignored* with the reason, which libtest cannot do. As many run side by side as `RUST_TEST_THREADS` says, as in libtest.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use coord_conformance::servers::{self, Redis, RedisOptions, Unavailable};
///
/// fn answers() -> Result<(), Unavailable> {
///     let redis = Redis::start(&RedisOptions::default())?;
///     redis.command(&["PING"]).unwrap();
///     Ok(())
/// }
///
/// fn main() -> ExitCode {
///     servers::tests(&[("answers", answers)])
/// }
/// ```
///
/// # Panics
/// If `RUST_TEST_THREADS` is set and no number of one or more.
pub fn tests(tests: &[Test]) -> ExitCode {
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::ignorable_test(*name, move || match test() {
            Ok(()) => Ok(Completion::Completed),
            Err(unavailable) if unavailable.fails() => Err(unavailable.into()),
            Err(unavailable) => Ok(Completion::ignored_with(unavailable.reason())),
        })
    };
    let mut arguments = Arguments::from_args();
    if let (None, Ok(threads)) = (arguments.test_threads, std::env::var("RUST_TEST_THREADS")) {
        let threads = threads.parse::<NonZeroUsize>();
        arguments.test_threads = Some(threads.expect("RUST_TEST_THREADS is a number of one or more").get());
    }
    libtest_mimic::run(&arguments, tests.iter().map(trial).collect()).exit_code()
}

/// The server, for tests of the standard harness, which can ignore nothing by itself: without one, `None` with the reason
/// told.
///
/// # Panics
/// Without a server under `CI=true`, and with one that does not start.
#[track_caller]
pub fn found<T>(server: Result<T, Unavailable>) -> Option<T> {
    match server {
        Ok(server) => Some(server),
        Err(unavailable) if unavailable.fails() => panic!("{}", unavailable.reason()),
        Err(unavailable) => {
            eprintln!("ignored: {}", unavailable.reason());
            None
        }
    }
}

/// How long a server may take to start or to end: far longer than any does on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again until there is an answer.
fn poll<T>(mut ask: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let start = Clock::System.now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Clock::System.now().since(start) > PATIENCE {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
