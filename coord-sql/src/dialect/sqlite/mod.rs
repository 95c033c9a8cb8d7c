//! SQLite: one file, shared by the processes of one host.
//!
//! A client has one connection that writes and one that reads, so that a read never waits for a write of its own
//! process; in write-ahead mode it waits for none of other processes either.

mod host;
mod jobs;
mod open;
mod report;
mod statements;
mod values;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use coord_core::{
    ClockAssumption, Durability, Error, Features, Guarantees, Report, Result, Scope,
    clock::{Clock, Moment},
};
use futures_util::TryStreamExt;
use sqlx::{Connection, Either, Executor, Row as _, TypeInfo, ValueRef, sqlite::SqliteConnection};
use tokio::sync::{Mutex, OwnedMutexGuard};

use self::open::{FileId, Opened, Role};
use super::{Cell, Dialect, Purpose, Row, Session, Statements, Value};
use crate::{
    config::Config,
    error::{closed, from_sqlx, is_busy, too_slow},
};

/// Every operation answers, or says that it does not know, within this time.
const DEADLINE: Duration = Duration::from_secs(9);

/// A file and our connections to it.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    path: PathBuf,
    config: Config,
    host: String,
    writer: Arc<Mutex<Option<Opened>>>,
    reader: Arc<Mutex<Option<Opened>>>,
    generation: AtomicU64,
    /// The file that we wrote last.
    written: std::sync::Mutex<Option<FileId>>,
    closed: AtomicBool,
}

impl SqliteFile {
    /// Opens the file and makes it ready.
    pub(crate) async fn open(config: Config) -> Result<Self> {
        let path = std::path::absolute(config.path()).map_err(|error| {
            Error::new(
                coord_core::ErrorKind::InvalidInput,
                "the path of the database cannot be made absolute",
            )
            .with_source(error)
        })?;
        let file = Self {
            path,
            config,
            host: host::identity()?,
            writer: Arc::default(),
            reader: Arc::default(),
            generation: AtomicU64::new(0),
            written: std::sync::Mutex::default(),
            closed: AtomicBool::new(false),
        };
        let deadline = Clock::System.now().after(DEADLINE);
        let mut writer = file.writer.lock().await;
        file.ready(&mut writer, Role::Writer, deadline).await?;
        drop(writer);
        Ok(file)
    }

    /// The file's absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A connection to the file that is at our path *now*: if it was deleted or replaced, we leave the old one, in
    /// which we would coordinate with nobody.
    async fn ready<'a>(
        &self,
        slot: &'a mut Option<Opened>,
        role: Role,
        deadline: Moment,
    ) -> Result<&'a mut SqliteConnection> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if self.stale(slot) {
            *slot = None;
        }
        let opened = match slot.take() {
            Some(opened) => opened,
            None => self.connect(role, deadline).await?,
        };
        Ok(&mut slot.insert(opened).connection)
    }

    fn stale(&self, slot: &Option<Opened>) -> bool {
        slot.as_ref().is_none_or(|opened| opened.file.is_none() || opened.file != FileId::at(&self.path))
    }

    async fn connect(&self, role: Role, deadline: Moment) -> Result<Opened> {
        open::check(&self.path, &self.config)?;
        // Perhaps to another file than before.
        let anew = role == Role::Writer && self.generation.fetch_add(1, Ordering::AcqRel) > 0;
        let patience = self.patience(deadline);
        let mut pause = Pause::default();
        loop {
            let attempt = async {
                let mut opened = open::connect(&self.path, &self.config, role).await?;
                if role == Role::Reader {
                    return Ok(Ok(opened));
                }
                if let Err(error) = open::prepare(&self.path, &mut opened.connection, &self.host).await? {
                    return Ok(Err(error));
                }
                let written = *self.written.lock().unwrap_or_else(PoisonError::into_inner);
                if anew {
                    let another = opened.file.is_none() || opened.file != written;
                    open::lift_revision(&mut opened.connection, another).await?;
                }
                *self.written.lock().unwrap_or_else(PoisonError::into_inner) = opened.file;
                Ok::<_, sqlx::Error>(Ok(opened))
            };
            let Ok(attempt) = tokio::time::timeout(left(deadline), attempt).await else {
                return Err(too_slow(&self.path, "opening it"));
            };
            match attempt {
                Ok(opened) => return opened,
                Err(error) if is_busy(&error) && left(patience) > Duration::ZERO => pause.take().await,
                Err(error) => return Err(open::failed(&self.path, error)),
            }
        }
    }

    /// Until when to wait for other processes.
    fn patience(&self, deadline: Moment) -> Moment {
        deadline.min(Clock::System.now().after(self.config.busy_timeout()))
    }

    async fn lock(
        &self,
        slot: &Arc<Mutex<Option<Opened>>>,
        deadline: Moment,
    ) -> Result<OwnedMutexGuard<Option<Opened>>> {
        let locked = tokio::time::timeout(left(deadline), Arc::clone(slot).lock_owned()).await;
        locked.map_err(|_| too_slow(&self.path, "waiting for earlier operations of this process"))
    }
}

#[async_trait]
impl Dialect for SqliteFile {
    fn guarantees(&self) -> Guarantees {
        Guarantees::new("sqlite")
            .with_scope(Scope::Host)
            .with_durability(Durability::Power)
            .with_clock(ClockAssumption::Same)
            .with_features(Features::ALL)
    }

    async fn report(&self) -> Result<Report> {
        report::report(self).await
    }

    fn statements(&self) -> &'static Statements {
        &statements::STATEMENTS
    }

    async fn write(&self, purpose: Purpose) -> Result<Box<dyn Session>> {
        let deadline = Clock::System.now().after(DEADLINE);
        let mut slot = self.lock(&self.writer, deadline).await?;
        self.ready(&mut slot, Role::Writer, deadline).await?;
        let mut session = SqliteSession { path: self.path.clone(), slot, deadline, now: None, open: true };
        let patience = self.patience(deadline);
        let mut pause = Pause::default();
        let judge = loop {
            match session.attempt(begin(purpose), &[]).await?.rows {
                Ok(rows) => break rows,
                Err(error) if is_busy(&error) && left(patience) > Duration::ZERO => pause.take().await,
                Err(error) => {
                    session.open = !is_busy(&error);
                    return Err(from_sqlx(&self.path, error));
                }
            }
        };
        // Only now: the wait for the right to write must shorten no lease.
        session.now = Some(milliseconds(Clock::System.now()));
        let judge = judge.last().and_then(|rows| rows.first());
        if judge.map(|row| row.text(0)).transpose()? != Some(self.host.as_str()) {
            session.roll_back().await;
            return Err(open::two_hosts(&self.path));
        }
        Ok(Box::new(session))
    }

    async fn read(&self) -> Result<Box<dyn Session>> {
        let deadline = Clock::System.now().after(DEADLINE);
        let mut slot = self.lock(&self.reader, deadline).await?;
        if self.stale(&slot) {
            // The writer makes the file and its tables.
            let mut writer = self.lock(&self.writer, deadline).await?;
            self.ready(&mut writer, Role::Writer, deadline).await?;
        }
        self.ready(&mut slot, Role::Reader, deadline).await?;
        Ok(Box::new(SqliteSession { path: self.path.clone(), slot, deadline, now: None, open: false }))
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        for slot in [&self.reader, &self.writer] {
            let opened = slot.lock().await.take();
            if let Some(opened) = opened {
                // What the last one to close cannot tidy up, the next one to open does.
                let _ = opened.connection.close().await;
            }
        }
    }
}

/// Begins, and says on whose clock leases are judged.
///
/// In write-ahead mode `NORMAL` waits for the disk only now and then, and loses no more than the last transactions when the
/// power fails; the next `FULL` commit takes the earlier ones to the disk too. What is lost then were leases of processes
/// that the same failure ended, and the boot that follows makes all of them void. So the renewal of a lease and the
/// hand-over to a claim that has its token do not depend on how busy the disk is.
fn begin(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Tokens => {
            "PRAGMA synchronous = FULL; BEGIN IMMEDIATE; SELECT host FROM coord_counters WHERE shard = 0"
        }
        Purpose::Leases => {
            "PRAGMA synchronous = NORMAL; BEGIN IMMEDIATE; SELECT host FROM coord_counters WHERE shard = 0"
        }
    }
}

/// A transaction, or a reader.
struct SqliteSession {
    path: PathBuf,
    slot: OwnedMutexGuard<Option<Opened>>,
    deadline: Moment,
    /// The moment of a transaction that writes.
    now: Option<i64>,
    /// Whether a transaction may be open, from before it begins until it was seen to end.
    open: bool,
}

/// What became of a script.
struct Attempt {
    rows: Result<Vec<Vec<Row>>, sqlx::Error>,
    /// How many of its statements were carried out.
    done: usize,
}

impl SqliteSession {
    /// Runs a script. An error of ours, outside, leaves no connection.
    async fn attempt(&mut self, script: &'static str, arguments: &[Value<'_>]) -> Result<Attempt> {
        let Some(opened) = self.slot.as_mut() else { return Err(closed()) };
        let mut query = sqlx::query(script);
        for argument in arguments {
            query = match *argument {
                Value::Null => query.bind(None::<i64>),
                Value::Integer(number) => query.bind(number),
                Value::Text(text) => query.bind(text.to_owned()),
                Value::Bytes(bytes) => query.bind(bytes.to_vec()),
            };
        }
        let mut done = 0;
        let answers = async {
            let mut answers = opened.connection.fetch_many(query);
            let (mut all, mut rows) = (Vec::new(), Vec::new());
            while let Some(answer) = answers.try_next().await? {
                match answer {
                    Either::Right(row) => rows.push(cells(&row)?),
                    Either::Left(_) => {
                        done += 1;
                        all.push(std::mem::take(&mut rows));
                    }
                }
            }
            Ok(all)
        };
        match tokio::time::timeout(left(self.deadline), answers).await {
            Ok(rows) => Ok(Attempt { rows, done }),
            Err(_) => {
                // The script may still run; nobody must find its connection.
                *self.slot = None;
                Err(too_slow(&self.path, "a statement"))
            }
        }
    }

    async fn roll_back(&mut self) {
        // Some errors have ended the transaction already; if it cannot be told, the connection goes.
        if let Ok(Attempt { rows: Ok(_), .. }) = self.attempt("ROLLBACK", &[]).await {
            self.open = false;
        }
    }
}

#[async_trait]
impl Session for SqliteSession {
    fn now(&self) -> i64 {
        self.now.unwrap_or_else(|| milliseconds(Clock::System.now()))
    }

    async fn run(&mut self, script: &'static str, arguments: &[Value<'_>]) -> Result<Vec<Vec<Row>>> {
        let mut pause = Pause::default();
        loop {
            match self.attempt(script, arguments).await?.rows {
                Ok(rows) => return Ok(rows),
                // A reader may meet another process that repairs the log. A transaction has nobody to wait for.
                Err(error) if !self.open && is_busy(&error) && left(self.deadline) > Duration::ZERO => {
                    pause.take().await;
                }
                Err(error) => return Err(from_sqlx(&self.path, error)),
            }
        }
    }

    async fn finish(
        mut self: Box<Self>,
        script: &'static str,
        arguments: &[Value<'_>],
    ) -> Result<Vec<Vec<Row>>> {
        // Out of time, it may have come to the commit, and may yet.
        let attempt = self.attempt(script, arguments).await.map_err(Error::with_unknown_effect)?;
        match attempt.rows {
            Ok(rows) => {
                self.open = false;
                Ok(rows)
            }
            Err(error) => {
                let committing = attempt.done + 1 >= script.split(';').count();
                let error = from_sqlx(&self.path, error);
                self.roll_back().await;
                Err(if committing { error.with_unknown_effect() } else { error })
            }
        }
    }

    async fn abandon(mut self: Box<Self>) {
        self.roll_back().await;
    }
}

impl Drop for SqliteSession {
    fn drop(&mut self) {
        // A transaction that was not ended: the connection goes, and the transaction with it.
        if self.open {
            *self.slot = None;
        }
    }
}

fn cells(row: &sqlx::sqlite::SqliteRow) -> Result<Row, sqlx::Error> {
    (0..row.len())
        .map(|column| {
            let value = row.try_get_raw(column)?;
            if value.is_null() {
                return Ok(Cell::Null);
            }
            let kind = value.type_info();
            Ok(match kind.name() {
                "INTEGER" => Cell::Integer(row.try_get_unchecked(column)?),
                "TEXT" => Cell::Text(row.try_get(column)?),
                "BLOB" => Cell::Bytes(row.try_get(column)?),
                other => {
                    return Err(sqlx::Error::Decode(format!("a column of type {other}").into()));
                }
            })
        })
        .collect::<Result<_, _>>()
        .map(Row)
}

fn milliseconds(moment: Moment) -> i64 {
    i64::try_from(moment.since_start().as_millis()).unwrap_or(i64::MAX)
}

fn left(deadline: Moment) -> Duration {
    deadline.since(Clock::System.now())
}

/// Short random pauses, growing a little, between attempts to get the right to write.
#[derive(Default)]
struct Pause(u32);

impl Pause {
    async fn take(&mut self) {
        self.0 = (self.0 + 1).min(4);
        tokio::time::sleep(Duration::from_micros(fastrand::u64(200..=2_000 * u64::from(self.0)))).await;
    }
}
