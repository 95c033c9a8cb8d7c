//! Before a real Redis.

use coord_conformance::{
    proxy::{Loss, Options, Proxy, Way, framing},
    servers::{Redis, RedisOptions, found},
};

use crate::{Client, until};

fn server() -> Option<(Redis, Proxy)> {
    let redis = found(Redis::start(&RedisOptions::default().with_own()))?;
    let options = Options::default().with_protocol(framing::Redis);
    let proxy = Proxy::start_with(redis.url(), options).unwrap();
    Some((redis, proxy))
}

fn value(redis: &Redis) -> String {
    redis.command(&["GET", "n"]).unwrap().text().to_owned()
}

#[test]
fn an_increment_whose_reply_is_lost_is_done_and_one_that_is_lost_is_not() {
    let Some((redis, proxy)) = server() else { return };
    let mut client = Client::to(proxy.addr());
    // The control: nothing is lost.
    client.send("INCR n\r\n");
    assert_eq!(client.read(4).unwrap(), ":1\r\n");
    proxy.lose(Loss::reply(2).of("INCR"));
    client.send("INCR n\r\nPING\r\nincr n\r\nINCR n\r\n");
    assert_eq!(client.read(11).unwrap(), ":2\r\n+PONG\r\n");
    client.is_reset();
    until("the last one", || value(&redis) == "4");
    proxy.lose(Loss::request(1).of("INCR"));
    let mut client = Client::to(proxy.addr());
    client.send("PING\r\n");
    assert_eq!(client.read(7).unwrap(), "+PONG\r\n");
    client.send("*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n");
    client.is_reset();
    assert_eq!(value(&redis), "4");
    let counts = proxy.counts();
    assert_eq!((counts.of("INCR"), counts.of("PING"), counts.lost), (5, 2, 2));
}

#[test]
fn messages_are_events_and_no_replies() {
    let Some((redis, proxy)) = server() else { return };
    let mut client = Client::to(proxy.addr());
    client.send("SUBSCRIBE a b\r\n");
    let answer = "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n";
    assert_eq!(client.read(answer.len()).unwrap(), answer);
    redis.command(&["PUBLISH", "a", "x"]).unwrap();
    let message = "*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nx\r\n";
    assert_eq!(client.read(message.len()).unwrap(), message);
    assert_eq!((proxy.counts().total(), proxy.counts().events), (1, 1));
    // A message is not what is lost instead of a reply.
    proxy.lose(Loss::reply(1));
    redis.command(&["PUBLISH", "a", "x"]).unwrap();
    assert_eq!(client.read(message.len()).unwrap(), message);
    client.send("PING\r\n");
    client.is_reset();
    assert_eq!((proxy.counts().events, proxy.counts().lost), (2, 1));
}

/// With answers frozen, all commands are under way before the first answer is read.
#[test]
fn frozen_answers_leave_requests_to_count() {
    let Some((_redis, proxy)) = server() else { return };
    let mut client = Client::to(proxy.addr());
    proxy.freeze(Way::ToClient);
    client.send(&"INCR n\r\n".repeat(9));
    until("all of them", || proxy.counts().of("INCR") == 9);
    client.hears_nothing();
    proxy.heal();
    assert_eq!(client.read(36).unwrap().lines().last(), Some(":9"));
}
