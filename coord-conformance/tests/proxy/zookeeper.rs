//! Before a real ZooKeeper, by a client of a few lines.

use std::io::{self, Read, Write};

use coord_conformance::{
    proxy::{Loss, Options, Proxy, framing},
    servers::{ZooKeeper, ZooKeeperOptions, found},
};

use crate::{Client, until};

const CREATE: i32 = 1;
const EXISTS: i32 = 3;
const PING: i32 = 11;

/// A session.
struct Session {
    client: Client,
    number: i32,
}

fn text(text: &str) -> Vec<u8> {
    [&i32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

impl Session {
    fn open(proxy: &Proxy) -> Self {
        let mut session = Self { client: Client::to(proxy.addr()), number: 0 };
        // The version, what was seen last, the timeout, no session yet, and its password.
        session.send(&[&[0; 12][..], &10_000_i32.to_be_bytes(), &[0; 8], &16_i32.to_be_bytes(), &[0; 16]]);
        session.receive().unwrap();
        session
    }

    fn send(&mut self, parts: &[&[u8]]) {
        let body = parts.concat();
        let packet = [&i32::try_from(body.len()).unwrap().to_be_bytes(), &body[..]].concat();
        self.client.0.write_all(&packet).unwrap();
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.client.0.read_exact(&mut length)?;
        let mut packet = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.client.0.read_exact(&mut packet)?;
        Ok(packet)
    }

    fn ask(&mut self, code: i32, body: &[u8]) {
        self.number += 1;
        let number = if code == PING { -2 } else { self.number };
        self.send(&[&number.to_be_bytes(), &code.to_be_bytes(), body]);
    }

    fn create(&mut self, path: &str) {
        let rights = [&1_i32.to_be_bytes()[..], &31_i32.to_be_bytes(), &text("world"), &text("anyone")];
        self.ask(CREATE, &[&text(path)[..], &text(""), &rights.concat(), &0_i32.to_be_bytes()].concat());
    }

    /// Whether there is such a node; a watch is left.
    fn exists(&mut self, path: &str) -> bool {
        self.ask(EXISTS, &[&text(path)[..], &[1]].concat());
        let answer = self.receive().unwrap();
        // The number, the last change, and the error.
        answer[12..16] == [0; 4]
    }
}

fn server() -> Option<(ZooKeeper, Proxy)> {
    let server = found(ZooKeeper::start(&ZooKeeperOptions::default().with_own()))?;
    let options = Options::default().with_protocol(framing::ZooKeeper);
    let proxy = Proxy::start_with(server.url(), options).unwrap();
    Some((server, proxy))
}

#[test]
fn a_node_whose_reply_is_lost_is_made_and_one_that_is_lost_is_not() {
    let Some((_server, proxy)) = server() else { return };
    let mut session = Session::open(&proxy);
    // The control: nothing is lost.
    session.create("/made");
    session.receive().unwrap();
    proxy.lose(Loss::reply(1).of("create"));
    session.create("/unknown");
    session.client.is_reset();
    proxy.lose(Loss::request(1).of("create"));
    let mut session = Session::open(&proxy);
    session.create("/lost");
    session.client.is_reset();
    let mut session = Session::open(&proxy);
    let exist = ["/made", "/unknown", "/lost"].map(|path| session.exists(path));
    assert_eq!(exist, [true, true, false]);
    let counts = proxy.counts();
    assert_eq!((counts.of("create"), counts.of("exists"), counts.lost), (3, 3, 2));
    assert_eq!((counts.total(), counts.connections), (6, 3));
}

#[test]
fn watches_are_events_and_signs_of_life_are_nothing() {
    let Some((_server, proxy)) = server() else { return };
    let (mut session, mut other) = (Session::open(&proxy), Session::open(&proxy));
    assert!(!session.exists("/awaited"));
    session.ask(PING, &[]);
    session.receive().unwrap();
    other.create("/awaited");
    other.receive().unwrap();
    let event = session.receive().unwrap();
    assert_eq!(event[..4], (-1_i32).to_be_bytes());
    assert_eq!((proxy.counts().total(), proxy.counts().events), (2, 1));
}

#[test]
fn words_of_four_letters_pass() {
    let Some((server, proxy)) = server() else { return };
    let mut client = Client::to(proxy.addr());
    client.send("ruok");
    let mut answer = String::new();
    client.0.read_to_string(&mut answer).unwrap();
    assert_eq!((answer.as_str(), server.word("ruok").unwrap().as_str()), ("imok", "imok"));
    until("the count", || proxy.counts().to_client == 4);
}
