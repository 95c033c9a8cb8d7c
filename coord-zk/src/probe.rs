//! What a server tells who asks it without a session, or by one that ends at once.

use std::time::Duration;

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

impl Limits {
    /// The server's tick, as far as it can be seen from outside: it takes no shorter sessions than two of them where nobody set
    /// it otherwise.
    pub(crate) fn tick(self) -> Duration {
        self.min / 2
    }
}

/// Asks the servers in turn until one tells; `None` if none does.
pub(crate) async fn limits(config: &Config) -> Option<Limits> {
    for host in &config.hosts {
        let asking = async { tokio::try_join!(negotiate(host, 1), negotiate(host, i32::MAX)) };
        if let Ok(Ok((min, max))) = tokio::time::timeout(PATIENCE, asking).await {
            return Some(Limits { min, max });
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

/// What a server answers to a word of four letters, such as `srvr`; `None` if it is not there or does not tell.
pub(crate) async fn word(host: &Host, word: &str) -> Option<String> {
    let asking = async {
        let mut stream = TcpStream::connect((host.name.as_str(), host.port)).await?;
        stream.write_all(word.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await.ok()?.ok()?;
    (!answer.is_empty() && !answer.contains("not in the whitelist")).then_some(answer)
}
