//! Faults that need no protocol.

use std::{
    io::{ErrorKind, Read},
    net::Shutdown,
    sync::mpsc,
    time::Duration,
};

use coord_conformance::proxy::{Options, Proxy, Way};

use crate::{
    Client,
    echo::{Echo, End},
    is_reset_at, until,
};

fn before(echo: &Echo) -> Proxy {
    Proxy::start(echo.target()).unwrap()
}

#[test]
fn everything_passes_and_is_counted() {
    let echo = Echo::start();
    let proxy = before(&echo);
    let mut client = Client::to(proxy.addr());
    let long = "0123456789".repeat(100_000);
    let mut writer = Client(client.0.try_clone().unwrap());
    let sent = long.clone();
    let sending = std::thread::spawn(move || writer.send(&sent));
    assert!(client.read(long.len()).unwrap() == long, "something else came back");
    sending.join().unwrap();
    client.0.shutdown(Shutdown::Write).unwrap();
    // The end of one direction leaves the other one open until it ends too.
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0);
    until("the end", || echo.seen(|seen| seen.ends == [End::Orderly]));
    let counts = proxy.reset_counts();
    assert_eq!((counts.connections, counts.resets, counts.total()), (1, 0, 0));
    assert_eq!((counts.to_server, counts.to_client), (1_000_000, 1_000_000));
    assert_eq!(proxy.counts().connections, 0);
}

#[test]
fn urls_name_the_proxy_instead_of_the_server() {
    let echo = Echo::start();
    let proxy = Proxy::start(format!("redis://user:pass@{}/2?a=b", echo.address)).unwrap();
    assert_eq!(proxy.url(), format!("redis://user:pass@127.0.0.1:{}/2?a=b", proxy.port()));
    assert_eq!(proxy.url_of("zk://127.0.0.1:9/a"), format!("zk://127.0.0.1:{}/a", proxy.port()));
    Client::to(proxy.addr()).echoes("a");
    for target in ["redis://host", "etcd://a:1,b:2", "", "redis://user:secret@host"] {
        let error = Proxy::start(target).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidInput && !error.to_string().contains("secret"), "{error}");
    }
}

#[test]
fn a_dropped_proxy_ends_its_connections_and_leaves_its_port() {
    let echo = Echo::start();
    let proxy = before(&echo);
    let (address, mut client) = (proxy.addr(), Client::to(proxy.addr()));
    client.echoes("a");
    drop(proxy);
    assert!(matches!(client.0.read(&mut [0]), Ok(0) | Err(_)));
    until("the end", || echo.seen(|seen| seen.ends.len() == 1));
    assert_eq!(Client::try_to(address).err().unwrap().kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn without_a_server_a_connection_is_reset() {
    let echo = Echo::start();
    let nobody = before(&echo);
    nobody.refuse();
    let proxy = Proxy::start(nobody.url()).unwrap();
    is_reset_at(proxy.addr());
    nobody.heal();
    Client::to(proxy.addr()).echoes("a");
}

/// Sends first by one proxy, then by the other; whose answer comes first.
fn first(one: &Proxy, other: &Proxy, text: &'static str) -> u16 {
    let (sender, receiver) = mpsc::channel();
    let mut clients = [one, other].map(|proxy| (Client::to(proxy.addr()), proxy.port()));
    for (client, _) in &mut clients {
        client.send(text);
    }
    for (mut client, port) in clients {
        let sender = sender.clone();
        std::thread::spawn(move || {
            client.read(text.len()).unwrap();
            let _ = sender.send(port);
        });
    }
    let winner = receiver.recv().unwrap();
    receiver.recv().unwrap();
    winner
}

#[test]
fn what_is_delayed_or_limited_comes_later() {
    let echo = Echo::start();
    let (slow, fast) = (before(&echo), before(&echo));
    let text = "a text of fifty bytes, or of a few bytes more or so";
    for way in [Way::ToServer, Way::ToClient] {
        slow.delay(way, Duration::from_secs(1), Duration::ZERO);
        assert_eq!(first(&slow, &fast, text), fast.port(), "{way:?}");
        slow.heal();
        slow.limit(way, 50);
        assert_eq!(first(&slow, &fast, text), fast.port(), "{way:?}");
        slow.heal();
        // The control: the other one is the slow one.
        fast.delay(way, Duration::from_secs(1), Duration::ZERO);
        assert_eq!(first(&slow, &fast, text), slow.port(), "{way:?}");
        fast.heal();
    }
}

#[test]
fn what_is_delayed_keeps_its_order_and_comes_at_once_when_healed() {
    let echo = Echo::start();
    let proxy = before(&echo);
    proxy.delay(Way::Both, Duration::from_millis(2), Duration::from_millis(20));
    let mut client = Client::to(proxy.addr());
    let text: String = ('a'..='z').collect();
    for letter in text.chars() {
        client.send(&letter.to_string());
    }
    assert_eq!(client.read(text.len()).unwrap(), text);
    proxy.delay(Way::ToServer, Duration::from_secs(3600), Duration::ZERO);
    client.send("late");
    client.hears_nothing();
    proxy.heal();
    assert_eq!(client.read(4).unwrap(), "late");
}

/// In which order four connections are answered that sent in their order.
fn order(seed: u64) -> Vec<usize> {
    let echo = Echo::start();
    let proxy = Proxy::start_with(echo.target(), Options::default().with_seed(seed)).unwrap();
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::to(proxy.addr());
        client.echoes("a");
        clients.push(client);
    }
    proxy.delay(Way::ToServer, Duration::ZERO, Duration::from_secs(2));
    let (sender, receiver) = mpsc::channel();
    for (at, mut client) in clients.into_iter().enumerate() {
        let sender = sender.clone();
        client.send("b");
        std::thread::spawn(move || {
            client.read(1).unwrap();
            sender.send(at).unwrap();
        });
    }
    (0..4).map(|_| receiver.recv().unwrap()).collect()
}

#[test]
fn jitter_comes_from_the_seed() {
    let [once, again] = [order(3), order(3)];
    assert_eq!(once, again);
    assert!((4..8).any(|seed| order(seed) != once), "other seeds give other delays");
}

#[test]
fn slices_arrive_one_by_one() {
    let echo = Echo::start();
    let proxy = before(&echo);
    // Twenty pieces a second of twenty bytes each.
    proxy.limit(Way::ToServer, 400);
    let (text, mut client) = ("x".repeat(200), Client::to(proxy.addr()));
    client.echoes(&text);
    let whole = echo.seen(|seen| seen.reads);
    assert!(whole <= 10, "{whole} pieces");
    proxy.slice(Way::ToServer, 1);
    client.echoes(&text);
    let sliced = echo.seen(|seen| seen.reads) - whole;
    assert!(sliced > 10, "{sliced} pieces");
}

#[test]
fn what_is_frozen_arrives_later() {
    let echo = Echo::start();
    let (proxy, other) = (before(&echo), before(&echo));
    let (mut client, mut control) = (Client::to(proxy.addr()), Client::to(other.addr()));
    for (way, heard) in [(Way::ToServer, false), (Way::ToClient, true), (Way::Both, false)] {
        client.echoes("a");
        proxy.freeze(way);
        let before = echo.heard();
        client.send("frozen");
        client.hears_nothing();
        assert_eq!(echo.heard() != before, heard, "{way:?}");
        control.echoes("b");
        // One that comes meanwhile waits, too.
        let mut late = Client::to(proxy.addr());
        late.send("late");
        late.hears_nothing();
        proxy.heal();
        assert_eq!(client.read(6).unwrap(), "frozen");
        assert_eq!(late.read(4).unwrap(), "late");
    }
    assert!(echo.seen(|seen| !seen.ends.contains(&End::Reset)));
}

#[test]
fn what_falls_into_a_black_hole_is_gone_and_nobody_is_told() {
    for (way, heard) in [(Way::ToServer, false), (Way::ToClient, true), (Way::Both, false)] {
        let echo = Echo::start();
        let proxy = before(&echo);
        let [mut client, mut closing, mut idle] = [(); 3].map(|()| Client::to(proxy.addr()));
        for client in [&mut client, &mut closing, &mut idle] {
            client.echoes("a");
        }
        let before = echo.heard();
        proxy.blackhole(way);
        client.send("gone");
        client.hears_nothing();
        assert_eq!(echo.heard() != before, heard, "{way:?}");
        // The server does not hear that a client has gone.
        closing.send("x");
        closing.hears_nothing();
        drop(closing);
        if way != Way::ToClient {
            client.hears_nothing();
            assert_eq!(echo.seen(|seen| seen.ends.clone()), [], "{way:?}");
        }
        proxy.heal();
        // One that has lost nothing goes on; one that has does not, and still nobody is told.
        idle.echoes("b");
        client.send("c");
        client.hears_nothing();
        until("the end of the one that was closed", || echo.seen(|seen| seen.ends.len() == 1));
        Client::to(proxy.addr()).echoes("d");
        drop(client);
    }
}

#[test]
fn who_comes_to_a_black_hole_waits() {
    let echo = Echo::start();
    let proxy = before(&echo);
    proxy.blackhole(Way::Both);
    let mut client = Client::to(proxy.addr());
    client.send("a");
    client.hears_nothing();
    assert_eq!(echo.seen(|seen| seen.connections), 0);
    proxy.heal();
    assert_eq!(client.read(1).unwrap(), "a");
}

#[test]
fn a_cut_resets_what_is_there_at_both_ends() {
    let echo = Echo::start();
    let (proxy, other) = (before(&echo), before(&echo));
    let mut clients = [(); 2].map(|()| Client::to(proxy.addr()));
    let mut control = Client::to(other.addr());
    for client in &mut clients {
        client.echoes("a");
    }
    control.echoes("a");
    proxy.cut();
    for client in &mut clients {
        client.is_reset();
    }
    until("the end", || echo.seen(|seen| seen.ends == [End::Reset; 2]));
    control.echoes("b");
    Client::to(proxy.addr()).echoes("c");
    assert_eq!((proxy.counts().resets, other.counts().resets), (2, 0));
}

#[test]
fn shortened_connections_end_one_after_the_other() {
    let echo = Echo::start();
    let (proxy, other) = (before(&echo), before(&echo));
    let (mut old, mut control) = (Client::to(proxy.addr()), Client::to(other.addr()));
    old.echoes("a");
    proxy.shorten(Duration::from_millis(50));
    old.is_reset();
    for _ in 0..10 {
        is_reset_at(proxy.addr());
    }
    assert_eq!(proxy.counts().resets, 11);
    proxy.heal();
    let mut client = Client::to(proxy.addr());
    client.echoes("b");
    client.hears_nothing();
    control.echoes("a");
    assert_eq!(other.counts().resets, 0);
}

/// However fast the server is: it never hears of them.
#[test]
fn nothing_passes_on_connections_that_end_at_once() {
    let echo = Echo::start();
    let proxy = before(&echo);
    let mut old = Client::to(proxy.addr());
    old.echoes("a");
    proxy.shorten(Duration::ZERO);
    old.is_reset();
    let passed = proxy.counts();
    for _ in 0..200 {
        // One that is reset this early may not even learn that it was there.
        if let Ok(mut client) = Client::try_to(proxy.addr()) {
            let _ = std::io::Write::write_all(&mut client.0, b"b");
            let read = client.read(1);
            assert!(read.is_err(), "{read:?} came back");
        }
    }
    let counts = proxy.counts();
    assert_eq!(
        (counts.to_server, counts.to_client),
        (passed.to_server, passed.to_client),
        "something passed"
    );
    assert_eq!(counts.resets, 201);
    proxy.heal();
    Client::to(proxy.addr()).echoes("c");
}

#[test]
fn nobody_new_is_let_in_where_connections_are_refused() {
    let echo = Echo::start();
    let proxy = before(&echo);
    let mut client = Client::to(proxy.addr());
    client.echoes("a");
    for _ in 0..3 {
        proxy.refuse();
        let refused = Client::try_to(proxy.addr()).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        client.echoes("b");
        proxy.heal();
        Client::to(proxy.addr()).echoes("c");
    }
}

#[test]
fn faults_hold_together() {
    let echo = Echo::start();
    let proxy = before(&echo);
    proxy.slice(Way::Both, 1);
    proxy.delay(Way::Both, Duration::from_millis(10), Duration::from_millis(10));
    proxy.limit(Way::ToClient, 1000);
    let mut client = Client::to(proxy.addr());
    client.echoes("all of it");
    proxy.refuse();
    client.echoes("again");
    assert!(Client::try_to(proxy.addr()).is_err());
}
