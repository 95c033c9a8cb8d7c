//! A session with ZooKeeper, of a few lines: the suite has no driver.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const CREATE: i32 = 1;
const EXISTS: i32 = 3;
const PING: i32 = 11;

pub(crate) struct Session {
    stream: TcpStream,
    number: i32,
}

fn text(text: &str) -> Vec<u8> {
    [&i32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

impl Session {
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut session = Self { stream, number: 0 };
        // The version, what was seen last, the timeout, no session yet, and its password.
        session.send(&[&[0; 12][..], &10_000_i32.to_be_bytes(), &[0; 8], &16_i32.to_be_bytes(), &[0; 16]]);
        session.receive().unwrap();
        session
    }

    fn send(&mut self, parts: &[&[u8]]) {
        let body = parts.concat();
        let packet = [&i32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat();
        self.stream.write_all(&packet).unwrap();
    }

    /// The next packet: an answer, or an event.
    pub(crate) fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut packet = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.stream.read_exact(&mut packet)?;
        Ok(packet)
    }

    fn ask(&mut self, code: i32, body: &[u8]) {
        self.number += 1;
        let number = if code == PING { -2 } else { self.number };
        self.send(&[&number.to_be_bytes(), &code.to_be_bytes(), body]);
    }

    /// A sign of life, and its answer.
    pub(crate) fn ping(&mut self) {
        self.ask(PING, &[]);
        self.receive().unwrap();
    }

    /// Asks for a node, whose answer is not read.
    pub(crate) fn create(&mut self, path: &str) {
        let rights = [&1_i32.to_be_bytes()[..], &31_i32.to_be_bytes(), &text("world"), &text("anyone")];
        self.ask(CREATE, &[&text(path)[..], &text(""), &rights.concat(), &0_i32.to_be_bytes()].concat());
    }

    /// When the node of this path was made, in milliseconds since 1970; `None` if there is none. A watch is left.
    pub(crate) fn made(&mut self, path: &str) -> Option<i64> {
        self.ask(EXISTS, &[&text(path)[..], &[1]].concat());
        let answer = self.receive().unwrap();
        // The number, the last change, and the error; then the revisions of its creation and change, and the time.
        (answer[12..16] == [0; 4]).then(|| i64::from_be_bytes(answer[32..40].try_into().unwrap()))
    }
}
