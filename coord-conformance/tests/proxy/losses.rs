//! Requests and replies that are lost, in a protocol of the test's own: a request is a line.

use coord_conformance::proxy::{
    Loss, Options, Proxy,
    framing::{Framer, Next, Part},
};

use crate::{Client, echo::Echo, until};

#[derive(Default)]
struct Lines {
    asked: u64,
    answered: u64,
}

impl Lines {
    fn framer() -> Box<dyn Framer> {
        Box::new(Self::default())
    }
}

fn line(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|end| end + 1)
}

impl Framer for Lines {
    fn request(&mut self, bytes: &[u8]) -> Next {
        let Some(length) = line(bytes) else { return Next::More };
        let kind = String::from_utf8_lossy(&bytes[..1]).into_owned().into();
        self.asked += 1;
        Next::Frame(length, Part::Request { kind, id: self.asked })
    }

    fn reply(&mut self, bytes: &[u8]) -> Next {
        let Some(length) = line(bytes) else { return Next::More };
        self.answered += 1;
        Next::Frame(length, Part::Reply(self.answered))
    }
}

fn before(echo: &Echo) -> Proxy {
    Proxy::start_with(echo.target(), Options::default().with_protocol(Lines::framer)).unwrap()
}

#[test]
fn the_request_arrives_and_its_reply_does_not() {
    let echo = Echo::start();
    let proxy = before(&echo);
    let mut client = Client::to(proxy.addr());
    client.echoes("a1\n");
    proxy.lose(Loss::reply(3));
    // All are sent before the first is answered.
    client.send("a2\nb3\na4\na5\n");
    assert_eq!(client.read(6).unwrap(), "a2\nb3\n");
    client.is_reset();
    until("the request", || echo.heard().contains("a4\n"));
    let counts = proxy.counts();
    assert_eq!((counts.lost, counts.resets, counts.of("b")), (1, 1, 1));
    // The next connection is sound.
    Client::to(proxy.addr()).echoes("a6\n");
    assert_eq!(proxy.counts().lost, 1);
}

#[test]
fn the_request_does_not_arrive() {
    let echo = Echo::start();
    let proxy = before(&echo);
    proxy.lose(Loss::request(2).of("b"));
    let mut client = Client::to(proxy.addr());
    client.echoes("b1\na2\na3\n");
    client.send("b4\n");
    client.is_reset();
    until("the end", || echo.seen(|seen| seen.ends.len() == 1));
    assert_eq!((echo.heard(), proxy.counts().lost), ("b1\na2\na3\n".into(), 1));
}

#[test]
fn a_silent_loss_leaves_the_connection() {
    let echo = Echo::start();
    let proxy = before(&echo);
    let mut silent = Vec::new();
    for (loss, arrives) in [(Loss::reply(1), true), (Loss::request(1), false)] {
        let mut client = Client::to(proxy.addr());
        client.echoes("a1\n");
        let before = echo.heard();
        proxy.lose(loss.silent());
        client.send("a2\n");
        client.hears_nothing();
        assert_eq!(echo.heard() != before, arrives);
        client.send("a3\n");
        client.hears_nothing();
        // Another one does not notice.
        Client::to(proxy.addr()).echoes("a4\n");
        silent.push(client);
    }
    assert_eq!((proxy.counts().lost, proxy.counts().resets), (2, 0));
}

#[test]
fn what_was_to_be_lost_is_not_when_it_is_healed() {
    let echo = Echo::start();
    let proxy = before(&echo);
    proxy.lose(Loss::reply(2));
    let mut client = Client::to(proxy.addr());
    client.echoes("a1\n");
    proxy.heal();
    client.echoes("a2\na3\n");
    assert_eq!(proxy.counts().lost, 0);
}

#[test]
#[should_panic(expected = "without a protocol")]
fn without_a_protocol_there_are_no_requests_to_lose() {
    Proxy::start(Echo::start().target()).unwrap().lose(Loss::reply(1));
}
