//! A client of the server: the store, its two connections, and how it is opened.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use coord_core::{Error, ErrorKind, Report, Result, Weakness};
use redis::{Client, Cmd, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use tokio::task::AbortHandle;

use crate::{
    config::{Config, IntoConfig},
    error::{During, closed, from_redis, from_server, misread, replica, too_slow},
    keys::Channel,
    link,
    listen::{Ears, listen},
    script::Call,
    server::Server,
    wakeups::Hub,
};

/// How much longer an operation may take that has to connect first.
const TO_CONNECT: Duration = Duration::from_secs(2);

/// A store of claims, values and jobs in a Redis server; one client of it.
///
/// Users need it only to wrap it; [`connect`](crate::connect) gives the [`Coordinator`](coord_core::Coordinator).
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    listener: AbortHandle,
}

/// What the store and its background task use together.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) client: Client,
    pub(crate) hub: Arc<Hub>,
    /// This client's name in claims: 32 hexadecimal digits, fresh for every client.
    pub(crate) id: String,
    pub(crate) channel: Channel,
    link: Mutex<Option<Link>>,
    /// Whose turn it is to connect.
    connecting: tokio::sync::Mutex<()>,
    server: Mutex<Option<Server>>,
    closed: AtomicBool,
}

/// The connection for commands.
#[derive(Clone)]
struct Link {
    connection: MultiplexedConnection,
    dead: Arc<AtomicBool>,
}

impl Store {
    /// Connects to the server and starts a client of it, which needs a Tokio runtime with time and I/O for as long as it
    /// lives. It answers within about ten seconds.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a URL that cannot be used, and a server whose certificate is not trusted; [`ErrorKind::Permission`] for a wrong password and missing rights;
    /// [`ErrorKind::Unsupported`] for a replica, a server that is too old or no Redis server at all, and, if strict was
    /// asked for, one whose settings weaken what is promised; [`ErrorKind::Unavailable`] if it cannot be reached.
    pub async fn open(config: impl IntoConfig) -> Result<Arc<Self>> {
        let config = config.into_config()?;
        let id = uuid::Uuid::new_v4().simple().to_string();
        let shared = Arc::new(Shared {
            client: link::client(&config)?,
            config,
            hub: Arc::default(),
            channel: Channel::of_client(&id),
            id,
            link: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            server: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let opening = async {
            shared.link().await?;
            Ears::open(&shared).await
        };
        let ears = tokio::time::timeout(shared.config.timeout() + TO_CONNECT, opening).await;
        let ears = ears.map_err(|_| too_slow(&shared.config, false))??;
        let listener = tokio::spawn(listen(Arc::clone(&shared), ears)).abort_handle();
        Ok(Arc::new(Self { shared, listener }))
    }

    /// What about the server's settings weakens what this store promises, as the last connection found it; empty if
    /// nothing does. [`Claims::guarantees`](coord_core::spi::Claims::guarantees) takes it into account.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<Weakness> {
        self.shared.server().as_ref().map(Server::weaknesses).unwrap_or_default()
    }

    /// The server's version as the last connection found it; `None` if it does not tell.
    #[must_use]
    pub fn server_version(&self) -> Option<String> {
        self.shared.server().as_ref().and_then(|server| server.version.clone())
    }

    /// Asks the server what it is and how it is set up. A setting that this user may not ask for is unknown, and taken for
    /// the worst.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is changed.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] if the server cannot be reached or does not answer in time.
    pub async fn report(&self) -> Result<Report> {
        let server = self.shared.ask_server().await?;
        Ok(server.report(&self.shared.config))
    }

    /// Ends the background work and the connections.
    pub(crate) fn end(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.listener.abort();
        *self.shared.slot() = None;
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("server", &self.shared.config.to_string()).finish_non_exhaustive()
    }
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One script: one command, one round trip.
    pub(crate) async fn eval(&self, call: Call) -> Result<Value> {
        let mut answers = self.eval_all(&[call]).await?;
        answers.pop().unwrap_or_else(|| Err(misread("an answer")))
    }

    /// Several scripts in one round trip. Each is an atomic step of its own, and each has an answer of its own; the outer
    /// error is one that concerns them all.
    ///
    /// It answers within the timeout, or two seconds later if it has to connect.
    pub(crate) async fn eval_all(&self, calls: &[Call]) -> Result<Vec<Result<Value>>> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let mut under_way = None;
        let exchange = self.exchange(calls, &mut under_way);
        match tokio::time::timeout(self.config.timeout() + TO_CONNECT, exchange).await {
            Ok(answers) => answers,
            Err(_) => {
                if let Some(link) = &under_way {
                    self.drop_link(link);
                }
                Err(too_slow(&self.config, under_way.is_some()))
            }
        }
    }

    async fn exchange(&self, calls: &[Call], under_way: &mut Option<Link>) -> Result<Vec<Result<Value>>> {
        let link = under_way.insert(self.link().await?).clone();
        let commands: Vec<_> = calls.iter().map(|call| &call.command).collect();
        let mut answers = self.send(&link, &commands).await?;
        let unknown: Vec<_> = (0..answers.len()).filter(|at| is_unknown(&answers[*at])).collect();
        if !unknown.is_empty() {
            // It was started again, or forgot its scripts. Nothing was done by those that it did not know.
            let loads: Vec<_> = unknown.iter().map(|at| calls[*at].script.load()).collect();
            let again: Vec<_> = loads.iter().chain(unknown.iter().map(|at| commands[*at])).collect();
            let mut second = self.send(&link, &again).await?;
            let done = second.split_off(unknown.len().min(second.len()));
            for ((at, loaded), answer) in unknown.into_iter().zip(second).zip(done) {
                // Who may not load scripts is told that, and not that they are unknown.
                answers[at] = if matches!(loaded, Value::ServerError(_)) { loaded } else { answer };
            }
        }
        Ok(answers.into_iter().map(|answer| self.judge(answer)).collect())
    }

    /// An answer, or the error that it says.
    fn judge(&self, answer: Value) -> Result<Value> {
        match answer {
            Value::ServerError(error) => Err(from_server(&self.config, error)),
            answer => Ok(answer),
        }
    }

    async fn send(&self, link: &Link, commands: &[&Cmd]) -> Result<Vec<Value>> {
        let mut connection = link.connection.clone();
        let answers = link::send(&mut connection, commands).await;
        answers.map_err(|error| {
            // Also after a timeout: what comes late would be taken for lost again and again.
            self.drop_link(link);
            from_redis(&self.config, During::Operation, error)
        })
    }

    /// The connection for commands, made if there is none.
    async fn link(&self) -> Result<Link> {
        if let Some(link) = self.live()? {
            return Ok(link);
        }
        let _turn = self.connecting.lock().await;
        if let Some(link) = self.live()? {
            return Ok(link);
        }
        let dead = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&dead);
        let heard = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                flag.store(true, Ordering::Release);
            }
        };
        let mut connection = link::connect(&self.client, &self.config, Some(heard)).await?;
        self.examine(&mut connection).await?;
        let link = Link { connection, dead };
        *self.slot() = Some(link.clone());
        Ok(link)
    }

    fn live(&self) -> Result<Option<Link>> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        Ok(self.slot().clone().filter(|link| !link.dead.load(Ordering::Acquire)))
    }

    fn drop_link(&self, link: &Link) {
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|held| Arc::ptr_eq(&held.dead, &link.dead)) {
            *slot = None;
        }
    }

    /// What the server says of itself now.
    async fn ask_server(&self) -> Result<Server> {
        let asking = async {
            let link = self.link().await?;
            let questions = Server::questions();
            self.send(&link, &questions.iter().collect::<Vec<_>>()).await
        };
        let answers = tokio::time::timeout(self.config.timeout() + TO_CONNECT, asking).await;
        Ok(Server::read(&answers.map_err(|_| too_slow(&self.config, false))??))
    }

    /// Looks at the server on the other end of a new connection.
    async fn examine(&self, connection: &mut MultiplexedConnection) -> Result<()> {
        let mut questions = Server::questions();
        // Who may not publish could not wake anybody, which no later answer would show.
        let mut probe = redis::cmd("PUBLISH");
        probe.arg(self.channel.as_str()).arg("");
        questions.push(probe);
        let answers = link::send(connection, &questions.iter().collect::<Vec<_>>()).await;
        let mut answers = answers.map_err(|error| from_redis(&self.config, During::Connecting, error))?;
        if let Some(Value::ServerError(error)) = answers.pop() {
            let error = from_server(&self.config, error);
            if error.kind() == ErrorKind::Permission {
                return Err(error);
            }
        }
        let server = Server::read(&answers);
        server.check(&self.config)?;
        let before = self.server().clone();
        if server.replica == Some(true) {
            // Later it may be made the master again, or another server gets its address.
            let kind = if before.is_none() { ErrorKind::Unsupported } else { ErrorKind::Unavailable };
            return Err(replica(&self.config, kind));
        }
        if self.config.strict() {
            server.insist(&self.config)?;
        }
        let another = before.is_some_and(|before| server.is_another(&before));
        *self.server() = Some(server);
        if another {
            tracing::warn!(server = %self.config, "the server was started again, or is another one");
            self.hub.hint_all();
        }
        Ok(())
    }
}

fn is_unknown(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}

/// The same error, saying that the operation may have taken effect: its answer came and could not be read.
pub(crate) fn unread(error: Error) -> Error {
    error.with_unknown_effect()
}
