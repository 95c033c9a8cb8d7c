//! A server that repeats what it hears.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// How a connection ended at the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Orderly,
    Reset,
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) heard: String,
    /// How many readings it took.
    pub(crate) reads: usize,
    pub(crate) connections: usize,
    pub(crate) ends: Vec<End>,
}

/// It ends with the process.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
}

impl Echo {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let seen = Arc::clone(&shared);
                seen.lock().unwrap().connections += 1;
                std::thread::spawn(move || serve(stream.unwrap(), &seen));
            }
        });
        Self { address, seen }
    }

    pub(crate) fn target(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    pub(crate) fn heard(&self) -> String {
        self.seen(|seen| seen.heard.clone())
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Seen>) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break End::Orderly,
            Ok(count) => {
                {
                    let mut seen = seen.lock().unwrap();
                    seen.heard += std::str::from_utf8(&buffer[..count]).unwrap();
                    seen.reads += 1;
                }
                if stream.write_all(&buffer[..count]).is_err() {
                    break End::Reset;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break End::Reset,
        }
    };
    seen.lock().unwrap().ends.push(end);
}
