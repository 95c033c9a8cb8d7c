//! Free ports.

use std::{
    fs::{File, TryLockError},
    io,
    net::{Ipv4Addr, TcpListener},
};

/// Ports below those that systems give to outgoing connections, so that a port stays free while its server is down.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port of 127.0.0.1 that no other test gets while this lives, also while nothing listens on it.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// Locked; the system unlocks it when this process ends, however it ends.
    _file: File,
}

impl Port {
    /// A port on which nothing listens now.
    pub(crate) fn reserve() -> io::Result<Self> {
        let user = nix::unistd::geteuid();
        let folder = std::env::temp_dir().join(format!("coord-test-ports-{user}"));
        std::fs::create_dir_all(&folder)?;
        let start = fastrand::u16(0..COUNT);
        for offset in 0..COUNT {
            let number = FIRST + (start + offset) % COUNT;
            let file = File::options().create(true).append(true).open(folder.join(number.to_string()))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _file: file });
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no port is free"))
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
