//! How a connection is made.
//!
//! The driver's `MultiplexedConnection` never comes back after it was lost, and its `ConnectionManager` keeps every request
//! waiting through its own pauses, which can be far longer than the server was away. So connections are made here: at once
//! when the next request needs one, within that request's own deadline, and each is looked at before it is used.

use std::time::Duration;

use coord_core::{Error, ErrorKind, Result};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ProtocolVersion, PushInfo, RedisConnectionInfo, Value,
    aio::MultiplexedConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use crate::{
    config::{Address, Config},
    error::{During, from_redis, silent_without_tls, too_slow},
};

/// How long a connection over which nothing comes is believed to live before the network is asked, and how long the
/// network has to answer.
const QUIET: Duration = Duration::from_secs(10);

/// A client of the driver for this server.
pub(crate) fn client(config: &Config) -> Result<Client> {
    let address = match &config.address {
        Address::Tcp { host, port } => ConnectionAddr::Tcp(host.clone(), *port),
        Address::Tls { host, port, .. } => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        Address::Unix(path) => ConnectionAddr::Unix(path.clone()),
    };
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("coord-redis", env!("CARGO_PKG_VERSION"))
        .set_db(config.db);
    if let Some(user) = &config.user {
        login = login.set_username(user);
    }
    if let Some(password) = &config.password {
        login = login.set_password(&password.0);
    }
    let keepalive = TcpKeepalive::new().with_time(QUIET).with_interval(QUIET / 4);
    let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    let info = redis::IntoConnectionInfo::into_connection_info(address)
        .map_err(|error| from_redis(config, During::Connecting, error))?
        .set_redis_settings(login)
        .set_tcp_settings(tcp);
    build(config, info)
}

#[cfg(feature = "tls")]
fn build(config: &Config, info: redis::ConnectionInfo) -> Result<Client> {
    let failed = |error| from_redis(config, During::Connecting, error);
    if !matches!(config.address, Address::Tls { .. }) {
        return Client::open(info).map_err(failed);
    }
    // The program may have chosen another provider of cryptography; then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(path) = crate::config::ca(&config.address) else { return Client::open(info).map_err(failed) };
    let pem = std::fs::read(path).map_err(|error| {
        let message = format!("the file of trusted certificates {} cannot be read", path.display());
        Error::new(ErrorKind::InvalidInput, message).with_source(error)
    })?;
    let certificates = redis::TlsCertificates { client_tls: None, root_cert: Some(pem) };
    Client::build_with_tls(info, certificates).map_err(|error| {
        let message = format!("the file of trusted certificates {} is not PEM", path.display());
        Error::new(ErrorKind::InvalidInput, message).with_source(error)
    })
}

#[cfg(not(feature = "tls"))]
fn build(config: &Config, info: redis::ConnectionInfo) -> Result<Client> {
    if matches!(config.address, Address::Tls { .. }) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "this build cannot speak TLS; enable the feature `tls` of coord-redis",
        ));
    }
    Client::open(info).map_err(|error| from_redis(config, During::Connecting, error))
}

/// Makes a connection. What the server says by itself goes to `heard`.
pub(crate) async fn connect(
    client: &Client,
    config: &Config,
    heard: Option<impl Fn(PushInfo) + Send + Sync + 'static>,
) -> Result<MultiplexedConnection> {
    let timeout = Some(config.timeout());
    let mut options =
        AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
    if let Some(heard) = heard {
        options = options.set_push_sender(move |push| {
            heard(push);
            Ok::<(), std::convert::Infallible>(())
        });
    }
    let connecting = client.get_multiplexed_async_connection_with_config(&options);
    match tokio::time::timeout(config.timeout(), connecting).await {
        // A port without TLS takes our greeting for a command that has not ended, and says nothing.
        Ok(Err(error)) if error.is_timeout() && is_tls(config) => Err(silent_without_tls(config)),
        Err(_) if is_tls(config) => Err(silent_without_tls(config)),
        Ok(connected) => connected.map_err(|error| from_redis(config, During::Connecting, error)),
        Err(_) => Err(too_slow(config, false)),
    }
}

fn is_tls(config: &Config) -> bool {
    matches!(config.address, Address::Tls { .. })
}

/// Sends commands in one write and reads all answers. An error is one of the connection; an answer may be a refusal.
pub(crate) async fn send(
    connection: &mut MultiplexedConnection,
    commands: &[&redis::Cmd],
) -> redis::RedisResult<Vec<Value>> {
    if let [command] = commands {
        return connection.send_packed_command(command).await.map(|answer| vec![answer]);
    }
    let (count, mut pipeline) = (commands.len(), redis::Pipeline::with_capacity(commands.len()));
    for command in commands {
        pipeline.add_command((*command).clone());
    }
    connection.send_packed_commands(&pipeline, 0, count).await
}
