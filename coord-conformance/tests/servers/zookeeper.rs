//! ZooKeeper servers.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::Mutex,
    time::Duration,
};

use coord_conformance::{
    Servers,
    servers::{Unavailable, ZooKeeper, ZooKeeperEnsemble, ZooKeeperOptions},
};

fn own() -> ZooKeeperOptions {
    ZooKeeperOptions::default().with_own()
}

pub(crate) fn several_at_once_are_apart() -> Result<(), Unavailable> {
    let starting: Vec<_> = (0..2).map(|_| std::thread::spawn(|| ZooKeeper::start(&own()))).collect();
    let servers: Result<Vec<_>, _> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
    let servers = servers?;
    assert_ne!(servers[0].port(), servers[1].port());
    for server in &servers {
        assert_eq!(server.mode().as_deref(), Some("standalone"));
        assert_eq!(server.url(), format!("zk://127.0.0.1:{}", server.port()));
    }
    Ok(())
}

/// Opens a session as a client does; how long the server keeps it, and the open connection.
fn session(server: &ZooKeeper, milliseconds: i32) -> (i32, TcpStream) {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut request = vec![0; 49];
    request[..4].copy_from_slice(&45_i32.to_be_bytes());
    request[16..20].copy_from_slice(&milliseconds.to_be_bytes());
    request[28..32].copy_from_slice(&16_i32.to_be_bytes());
    stream.write_all(&request).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    (i32::from_be_bytes([answer[8], answer[9], answer[10], answer[11]]), stream)
}

/// The number of the last transaction.
fn zxid(server: &ZooKeeper) -> u64 {
    let answer = server.word("srvr").unwrap();
    let zxid = answer.lines().find_map(|line| line.strip_prefix("Zxid: 0x")).unwrap();
    u64::from_str_radix(zxid, 16).unwrap()
}

pub(crate) fn a_restart_keeps_what_was_written() -> Result<(), Unavailable> {
    let mut server = ZooKeeper::start(&own())?;
    let before = (server.pid(), server.url());
    for _ in 0..2 {
        session(&server, 5000);
        let last = zxid(&server);
        assert!(last > 0);
        server.kill().unwrap();
        server.word("srvr").unwrap_err();
        server.restart().unwrap();
        assert!(zxid(&server) >= last, "{last} was forgotten");
    }
    assert_ne!(server.pid(), before.0);
    assert_eq!(server.url(), before.1);
    Ok(())
}

pub(crate) fn a_stopped_server_answers_when_it_goes_on() -> Result<(), Unavailable> {
    let mut server = ZooKeeper::start(&own())?;
    server.stop().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(b"ruok").unwrap();
    let mut answer = [0; 4];
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silence = stream.read_exact(&mut answer).unwrap_err().kind();
    assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence:?}");
    server.resume().unwrap();
    stream.set_read_timeout(None).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"imok");
    // One that is stopped can be killed too, and started again.
    server.stop().unwrap();
    server.restart().unwrap();
    assert_eq!(server.word("ruok").unwrap(), "imok");
    Ok(())
}

pub(crate) fn settings_and_properties_arrive() -> Result<(), Unavailable> {
    let plain = ZooKeeper::start(&own())?;
    assert_eq!((session(&plain, 1).0, session(&plain, i32::MAX).0), (200, 86_400_000));
    let options = own().with_setting("maxSessionTimeout", "5000").with_property("jute.maxbuffer", "7777777");
    let server = ZooKeeper::start(&options)?;
    assert_eq!(session(&server, i32::MAX).0, 5000);
    assert!(server.word("envi").unwrap().contains("zookeeper.version"));
    assert!(server.numbers().unwrap()["num_alive_connections"] >= 1.0, "the one that asks");
    let systems = server.word("conf").unwrap();
    assert!(systems.contains("maxSessionTimeout=5000"), "{systems}");
    Ok(())
}

pub(crate) fn one_server_serves_many_places() -> Result<(), Unavailable> {
    let (one, two) = (ZooKeeper::shared()?, ZooKeeper::shared()?);
    assert_eq!(one.url(), two.url());
    let (one, two) = (one.fresh(), two.fresh());
    assert_ne!(one, two);
    assert!(one.starts_with("zk://") && one.contains("/test-"), "{one}");
    Ok(())
}

pub(crate) fn an_ensemble_finds_another_leader() -> Result<(), Unavailable> {
    let mut ensemble = ZooKeeperEnsemble::start(&own())?;
    assert_eq!(ensemble.url().matches("127.0.0.1").count(), 3);
    let first = ensemble.until_led(&[0, 1, 2]).unwrap();
    ensemble.server(first).kill().unwrap();
    let others: Vec<_> = (0..3).filter(|index| *index != first).collect();
    let second = ensemble.until_led(&others).unwrap();
    assert_ne!(first, second);
    ensemble.restart(first).unwrap();
    assert_eq!(ensemble.server(first).mode().as_deref(), Some("follower"));
    // One that is stopped leads no more, and follows when it goes on.
    ensemble.server(second).stop().unwrap();
    let others: Vec<_> = (0..3).filter(|index| *index != second).collect();
    ensemble.until_led(&others).unwrap();
    ensemble.server(second).resume().unwrap();
    assert!(ensemble.leader().is_some());
    Ok(())
}

pub(crate) fn what_is_kept_is_told() -> Result<(), Unavailable> {
    let kept = Mutex::new(ZooKeeper::start(&own())?).kept();
    let names: Vec<_> = kept.keys().map(String::as_str).collect();
    assert_eq!(names, ["ephemerals_count", "num_alive_connections", "watch_count"]);
    Ok(())
}
