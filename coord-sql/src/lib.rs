//! Coordination through an SQL database: an SQLite file, for the processes of one host, or a Postgres server, for
//! processes anywhere.
//!
//! With SQLite there is no server to install: every process opens the same file. Locks, elections, membership, barriers,
//! configuration and queues work between them, each grant and each delivery with a fencing token. [`fence`] checks a token
//! in a transaction of your own. For a server see [Postgres](#postgres); what comes before that is about the file.
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
//!
//! # Postgres
//! With the feature `postgres`, [`connect`] also takes `postgres://user:password@host:5432/database` (or `postgresql://…`; the
//! parameters `sslmode`, `sslrootcert`, `application_name` and others as `sqlx` reads them) or a `PostgresConfig`. The server
//! has to be of version 13 or later; the tests run on 15. Everything is in a schema of its own, `coord`, which the first client makes and later
//! versions bring up to date; several may start at once. A schema of a newer version is refused with
//! [`ErrorKind::NewerSchema`], a standby with [`ErrorKind::Unsupported`]. To remove it all: `DROP SCHEMA coord CASCADE`, when
//! nobody uses it.
//!
//! An uncontended acquire is one statement, one round trip and one commit, a release another one, and the renewal of all
//! that a client holds is one. A connection prepares each statement when it first runs it, which is one more round trip.
//! Every call answers within about ten seconds, also when the server stops to answer. After a call that failed with an
//! unknown effect the step may have been done; to send it again is safe.
//!
//! | event | claims | tokens | values and items |
//! | --- | --- | --- | --- |
//! | a client is killed | end with their leases | go on growing | its items in flight come back when their leases end |
//! | the server is killed or restarts, or the power fails | stay, and their leases run on; renewals go on when it is back | go on growing | nothing that was answered is lost |
//! | a replica that had everything is promoted | stay | go on growing | nothing is lost |
//! | a replica that missed the last commits is promoted, or a backup is restored | as in that copy: what was granted after it may be granted again while the earlier holder believes in its lease | go on growing (below), so a fence refuses the earlier holder | as in that copy; watches are told of a gap |
//! | the schema is dropped and made anew | are gone; holders find out when they renew | go on growing (below) | are gone |
//!
//! **Tokens** come from one sequence, which the server never turns back while its data live. The schema remembers the identity of
//! these data and the timeline of their log. Where either is another one, the sequence is first raised to the wall clock in
//! microseconds since 1970, also under clients that stay connected. So tokens do not fall as long as the server's wall clock does
//! not step back below the moment of the last grant, and fewer than a million tokens are taken a second. One case
//! remains: a restored file-level copy that keeps both identity and timeline, such as a snapshot of the disk, looks like the same
//! data. After such a restore run `SELECT setval('coord.tokens', coord.microseconds())` before clients connect.
//!
//! **Clocks.** Leases are judged by the server's wall clock, because Postgres has no other: it **must not step**. A step forward
//! ends leases early, while holders still believe in them; a step back makes them last longer. Let the server's clock be
//! slewed (chrony and ntpd do so by default), and fence what must not be written twice. A promoted server has its own clock:
//! keep the clocks of all replicas together. The clocks of clients do not matter.
//!
//! **Durability.** Whatever gives out a token, a version or an item sets `synchronous_commit` to `on` for its own transaction where
//! it is `off` or `local`. `remote_write`, `on` and `remote_apply` stay as they are; with `synchronous_standby_names` a grant
//! is then on a replica too before it is answered, and a promotion loses none. A withdrawal is not waited for. `fsync = off` cannot
//! be made good for. A primary that lost the network but not its clients goes on granting: promote only what has fenced the old
//! primary off.
//!
//! **Waiting.** A client has one more connection, on which it listens to a channel of its own. A step notifies those clients
//! whose claims became eligible, and those that watch; the server sends it with the commit. When the connection is lost, it is
//! made anew, and everything that waits looks again. A lost notification costs time only.
//!
//! **Connections.** At most eight for statements, and that one: set `PostgresConfig::with_connections`. A pooler in transaction or
//! statement mode (pgbouncer) passes no notifications on and loses prepared statements; a client that starts behind one is refused with
//! [`ErrorKind::Unsupported`]. Session mode works if the pooler lets the start-up parameter `options` through.
//!
//! **Roles.** Who makes or updates the schema needs `CREATE` on the database, and owns it from then on. Others need no more than this, to be
//! granted anew when an update of the library adds tables:
//! ```sql
//! GRANT USAGE ON SCHEMA coord TO app;
//! GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA coord TO app;
//! GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA coord TO app;
//! ```
//! A role with these rights may do everything with every claim, value and item. Roles cannot be kept apart by namespace; give each
//! group a database. No error, log line or `Debug` shows a password.
//!
//! **What is forgotten** is as in the file. The rows of claims and items change often: the tables ask for autovacuum early, which must
//! be on.

#[cfg(not(unix))]
compile_error!(
    "coord-sql needs a clock that the processes of a host share, which this library has on Unix only"
);
#[cfg(not(feature = "sqlite"))]
compile_error!("coord-sql needs its feature `sqlite`, also beside `postgres`");

mod answers;
mod bell;
mod claims;
mod client;
mod config;
mod database;
mod dialect;
mod error;
mod fence;
mod jobs;
mod keys;
mod migrations;
mod news;
#[cfg(feature = "postgres")]
mod postgres;
mod values;
mod wakeups;

use std::sync::Arc;

pub use coord_core::{Coordinator, Effect, Error, ErrorKind, Report, Result, Weakness, prelude};

#[cfg(feature = "postgres")]
pub use self::postgres::{Postgres, PostgresConfig, PostgresStore};
pub use self::{
    client::Store,
    config::{Config, IntoConfig},
    database::{Database, IntoDatabase},
    fence::{Fence, fence},
};

/// Opens the database that a URL, a path, a [`Config`] or a `PostgresConfig` names, and makes a client of it.
///
/// For a namespace, an owner's name or a decorated store, use [`Sqlite::open`] or `Postgres::open`, and
/// [`Coordinator::builder`].
///
/// # Cancel safety
/// Dropped halfway, it may leave an empty SQLite file. On a server, the schema is made whole or not at all.
///
/// # Errors
/// As [`Sqlite::open`] and `Postgres::open`; [`ErrorKind::Unsupported`] for a URL whose scheme needs a feature that this build
/// does not have.
pub async fn connect(database: impl IntoDatabase) -> Result<Coordinator> {
    match database.into_database()? {
        Database::Sqlite(config) => {
            let store = Sqlite::open(config).await?;
            Coordinator::builder(store.clone()).values(store.clone()).jobs(store).build()
        }
        #[cfg(feature = "postgres")]
        Database::Postgres(config) => {
            let store = Postgres::open(&config).await?;
            Coordinator::builder(store.clone()).values(store.clone()).jobs(store).build()
        }
    }
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
