//! Coordination between the processes of one host through an SQLite file: the SQL backend of `coord`.
//!
//! There is no server to install. Every process opens the same file; locks, elections, membership, barriers, configuration
//! and queues work between them, each grant and each delivery with a fencing token. [`fence`] checks a token in a
//! transaction of your own.
//!
//! ```
//! use coord_sql::prelude::*;
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), coord_sql::Error> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("coord.db");
//! let coordinator = coord_sql::connect(&path).await?;
//! let guard = coordinator.acquire(&Name::new("nightly-report")?, &LockOptions::default()).await?;
//! println!("I hold token {}", guard.token());
//! guard.release().await?;
//! coordinator.shutdown().await
//! # }
//! ```
//!
//! # The file
//! [`connect`] takes a path, a URL (`sqlite:///var/lib/app/coord.db`, `sqlite:coord.db`) or a [`Config`]. A file that does
//! not exist is made; its folder is not. Beside it SQLite keeps `…-wal` and `…-shm`, and the clients keep the named pipes
//! of their wake-ups in a folder `….wake`. Move or delete them together, and only while no process uses them. All tables
//! begin with `coord_`, so the file may also hold tables of your own. The schema is brought up to date when the file is
//! opened; a file of a newer version is refused with [`ErrorKind::NewerSchema`].
//!
//! # What survives what
//! | event | claims | tokens |
//! | --- | --- | --- |
//! | a process is killed | end with their leases | go on growing |
//! | the host is switched off | are gone: they were held by processes that are gone too | go on growing |
//! | the file is deleted and made anew | are gone; holders find out when they renew | go on growing (below) |
//! | an older copy of the file is put back | as in the copy, until their leases end | of claims that join from then on, go on growing (below); end all processes first |
//! | the disk is full | stay as they are until their leases end | go on growing |
//!
//! A token is on the disk before it is answered (`synchronous = FULL`). A change of leases alone (a renewal, a release, the
//! grant of a claim that waited and so has its token) is not waited for: a loss of power ends the processes that held them
//! too, and the next boot voids them all. A killed process loses nothing either way. A token is the greater of the last one plus
//! one and the wall clock in microseconds since 1970. So tokens do not repeat or fall even when the file is lost, as long
//! as the host's wall clock does not step back below the moment of the last grant, and fewer than a million tokens are
//! taken a second. While the file lives, the wall clock does not matter.
//!
//! Values, and items of queues, are on the disk before a write, a push, a delivery or an acknowledgement is answered. A restart of
//! the host gives every item in flight back, with its attempts. Versions of values go on growing as tokens do. A watch that
//! lives on while another file is put in the place of this one, also an older copy, is told of a gap and reads everything anew.
//!
//! # What is forgotten
//! The file remembers the last 1,000 changes of values, or fewer where their keys, authors and values come to more than
//! 16 MiB: a history ends there, and a watch that was away for longer is told of a gap. A transaction is remembered for two
//! minutes, and an item that was acknowledged or dropped for ten. Later operations of the same kind remove what is forgotten
//! and use its space again, so the file grows only with what is in it. Items that were given up stay until they are put back
//! or dropped.
//!
//! # Names leave nothing behind
//! A claim is one row, and a name has no row of its own. When its last claim leaves, nothing remains of a name; the counter
//! of tokens is one for the whole file. A million names used once each leave a file that is no larger than the greatest
//! number of claims at one time needed. Claims whose process ended without a withdrawal are removed when their lease has
//! ended, a few with every later operation.
//!
//! # Clocks
//! Leases are judged on the host's clock of time since boot (`CLOCK_BOOTTIME` on Linux), which all processes of a host share,
//! which counts while the host sleeps, and which nobody can set. A lease is counted from the moment in which the right to
//! write was given, so a wait for other writers shortens none. The file remembers the boot: after a restart of the host all
//! earlier claims are dead. On other Unix systems a boot has no sound name, and claims of an earlier boot stay until their
//! lease ends on the new clock: late, never early. A process in a time namespace of its own, and a sandbox with a kernel of
//! its own, read another clock; that is noticed and refused with [`ErrorKind::Unsupported`].
//!
//! # One host
//! SQLite's locks and shared memory work between processes of one host only. NFS, SMB, 9P, AFS, Ceph, Lustre and others of
//! their kind are recognised and refused with [`ErrorKind::Unsupported`]. A network file system behind FUSE (such as sshfs)
//! cannot be told from a local one: do not put the file there.
//!
//! A process that is stopped (`SIGSTOP`) in the middle of a transaction keeps SQLite's write lock until it goes on or is
//! killed. Until then everyone else's operations fail with [`ErrorKind::Unavailable`]: nobody is granted anything, and
//! holders turn lost when their leases end. A killed process keeps nothing.
//!
//! # Waiting
//! A process that waits sleeps on its named pipe and uses no processor time. Who changes a line writes a hint to the pipes of
//! those claims that became eligible, and of the clients that watch that line, after the commit; nobody else wakes. A
//! push, and whatever makes room, wakes every client that waits at that queue, consumers and producers. Hints
//! may be lost: every wait also looks again by itself when a lease ahead of it ends. Where the file system has no named
//! pipes, waits look again every 25 to 50 ms instead.
//!
//! # Who may do what
//! Whoever may write the file may do everything with it. The pipes are made with the permissions of the file, so to share it
//! between users give their group the right to write the file and its folder.

#[cfg(not(unix))]
compile_error!(
    "coord-sql needs a clock that the processes of a host share, which this library has on Unix only"
);
#[cfg(not(feature = "sqlite"))]
compile_error!("coord-sql needs at least one dialect; enable the feature `sqlite`");

mod answers;
mod bell;
mod claims;
mod client;
mod config;
mod dialect;
mod error;
mod fence;
mod jobs;
mod keys;
mod news;
mod values;
mod wakeups;

use std::sync::Arc;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Result, prelude};

pub use self::{
    client::Store,
    config::{Config, IntoConfig},
    fence::fence,
};

/// Opens the database that a URL, a path or a [`Config`] names, and makes a client of it.
///
/// For a namespace, an owner's name or a decorated store, use [`Sqlite::open`] and [`Coordinator::builder`].
///
/// # Cancel safety
/// Dropped halfway, it may leave an empty database.
///
/// # Errors
/// As [`Sqlite::open`].
pub async fn connect(config: impl IntoConfig) -> Result<Coordinator> {
    let store = Sqlite::open(config).await?;
    Coordinator::builder(store.clone()).values(store.clone()).jobs(store).build()
}

/// SQLite.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Sqlite;

impl Sqlite {
    /// Opens the database and starts a client of it, which needs a Tokio runtime with time and I/O for as long as it lives.
    ///
    /// It answers within about ten seconds. Several processes may open a new file at once.
    ///
    /// # Cancel safety
    /// Dropped halfway, it may leave an empty database.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a URL or path that cannot be used or whose folder is missing,
    /// [`ErrorKind::NotFound`] if the file is missing and is not to be made, [`ErrorKind::Permission`],
    /// [`ErrorKind::Full`], [`ErrorKind::Corrupt`], [`ErrorKind::NewerSchema`], [`ErrorKind::Unsupported`] on a network
    /// file system, and [`ErrorKind::Unavailable`] if other processes keep the file locked.
    pub async fn open(config: impl IntoConfig) -> Result<Arc<Store>> {
        let file = dialect::sqlite::SqliteFile::open(config.into_config()?).await?;
        let path = file.path().to_owned();
        Store::start(Box::new(file), &path).await
    }
}
