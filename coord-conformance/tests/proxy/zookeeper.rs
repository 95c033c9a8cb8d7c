//! Before a real ZooKeeper.

use std::io::{ErrorKind, Read};

use coord_conformance::{
    proxy::{Loss, Options, Proxy, framing},
    servers::{ZooKeeper, ZooKeeperOptions, found},
};

use crate::{Client, session::Session, until};

fn server() -> Option<(ZooKeeper, Proxy)> {
    let server = found(ZooKeeper::start(&ZooKeeperOptions::default().with_own()))?;
    let options = Options::default().with_protocol(framing::ZooKeeper);
    let proxy = Proxy::start_with(server.url(), options).unwrap();
    Some((server, proxy))
}

#[test]
fn a_node_whose_reply_is_lost_is_made_and_one_that_is_lost_is_not() {
    let Some((_server, proxy)) = server() else { return };
    let mut session = Session::open(proxy.addr());
    // The control: nothing is lost.
    session.create("/made");
    session.receive().unwrap();
    proxy.lose(Loss::reply(1).of("create"));
    session.create("/unknown");
    assert_eq!(session.receive().unwrap_err().kind(), ErrorKind::ConnectionReset);
    proxy.lose(Loss::request(1).of("create"));
    let mut session = Session::open(proxy.addr());
    session.create("/lost");
    assert_eq!(session.receive().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut session = Session::open(proxy.addr());
    let exist = ["/made", "/unknown", "/lost"].map(|path| session.made(path).is_some());
    assert_eq!(exist, [true, true, false]);
    let counts = proxy.counts();
    assert_eq!((counts.of("create"), counts.of("exists"), counts.lost), (3, 3, 2));
    assert_eq!((counts.total(), counts.connections), (6, 3));
}

#[test]
fn watches_are_events_and_signs_of_life_are_nothing() {
    let Some((_server, proxy)) = server() else { return };
    let (mut session, mut other) = (Session::open(proxy.addr()), Session::open(proxy.addr()));
    assert_eq!(session.made("/awaited"), None);
    session.ping();
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
