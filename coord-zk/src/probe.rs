//! What a server tells who asks it without a session, or by one that ends at once.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::config::{Config, Host};

/// How long one server is asked.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Between which lengths the ensemble keeps sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// Asks all servers at once and takes the first answer; `None` if none tells.
pub(crate) async fn limits(config: &Config) -> Option<Limits> {
    first(config, |host: Host| async move {
        let asking = async { tokio::try_join!(negotiate(&host, 1), negotiate(&host, i32::MAX)) };
        let (min, max) = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()?;
        Some(Limits { min, max })
    })
    .await
}

/// What the first server says that says anything: one that is away keeps nobody from asking the others.
async fn first<T, F: Future<Output = Option<T>>>(config: &Config, ask: impl Fn(Host) -> F) -> Option<T> {
    let mut answers: FuturesUnordered<_> = config.hosts.iter().cloned().map(ask).collect();
    while let Some(answer) = answers.next().await {
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// Opens a session of this many milliseconds, ends it, and says how long it would have been.
async fn negotiate(host: &Host, milliseconds: i32) -> std::io::Result<Duration> {
    let mut stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
    stream.set_nodelay(true)?;
    // ConnectRequest: protocol, last zxid seen, timeout, session id, password, read only.
    let mut request = vec![0; 4 + 45];
    request[..4].copy_from_slice(&45_i32.to_be_bytes());
    request[16..20].copy_from_slice(&milliseconds.to_be_bytes());
    request[28..32].copy_from_slice(&16_i32.to_be_bytes());
    stream.write_all(&request).await?;
    // ConnectResponse: protocol, timeout, and what is not needed here.
    let length = usize::try_from(stream.read_i32().await?).unwrap_or(0);
    if !(8..=1024).contains(&length) {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut response = vec![0; length];
    stream.read_exact(&mut response).await?;
    let timeout = i32::from_be_bytes([response[4], response[5], response[6], response[7]]);
    let timeout = u64::try_from(timeout).ok().filter(|timeout| *timeout > 0);
    let timeout = timeout.ok_or(std::io::ErrorKind::InvalidData)?;
    // closeSession: the length, a number of our own, the operation. The server ends the connection after it.
    let mut close = Vec::from(8_i32.to_be_bytes());
    close.extend(1_i32.to_be_bytes());
    close.extend((-11_i32).to_be_bytes());
    stream.write_all(&close).await?;
    tokio::spawn(tokio::time::timeout(PATIENCE, async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }));
    Ok(Duration::from_millis(timeout))
}

/// What the first server answers that answers a word of four letters, such as `srvr`; `None` if none is there that tells.
pub(crate) async fn word(config: &Config, word: &str) -> Option<String> {
    first(config, |host: Host| async move {
        let asking = async {
            let mut stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
            stream.write_all(word.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()?;
        (!answer.is_empty() && !answer.contains("not in the whitelist")).then_some(answer)
    })
    .await
}
