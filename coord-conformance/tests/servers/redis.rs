//! Redis servers.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    process::{Command, Output},
    sync::Mutex,
    time::Duration,
};

use coord_conformance::{
    Servers,
    servers::{Redis, RedisOptions, Unavailable, redis::Reply},
};

pub(crate) fn many_at_once_are_apart() -> Result<(), Unavailable> {
    let start = || std::thread::spawn(|| Redis::start(&RedisOptions::default().with_own()));
    let starting: Vec<_> = (0..8).map(|_| start()).collect();
    let servers: Result<Vec<_>, _> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
    let servers = servers?;
    for (number, redis) in servers.iter().enumerate() {
        redis.command(&["SET", "number", &number.to_string()]).unwrap();
    }
    for (number, redis) in servers.iter().enumerate() {
        assert_eq!(redis.command(&["GET", "number"]).unwrap(), Reply::Text(number.to_string()));
        assert_eq!(redis.command(&["DBSIZE"]).unwrap(), Reply::Integer(1));
        assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
    }
    Ok(())
}

pub(crate) fn a_restart_keeps_the_append_only_file() -> Result<(), Unavailable> {
    let mut redis = Redis::start(&RedisOptions::default().with_append_only())?;
    let before = (redis.pid(), redis.url());
    for round in 1..=3 {
        redis.command(&["INCR", "a"]).unwrap();
        if round == 2 {
            redis.kill().unwrap();
            redis.command(&["GET", "a"]).unwrap_err();
        }
        redis.restart().unwrap();
        assert_eq!(redis.command(&["GET", "a"]).unwrap(), Reply::Text(round.to_string()));
    }
    assert_ne!(redis.pid(), before.0);
    assert_eq!(redis.url(), before.1);
    Ok(())
}

pub(crate) fn a_restart_without_a_file_keeps_nothing() -> Result<(), Unavailable> {
    let mut redis = Redis::start(&RedisOptions::default().with_own())?;
    redis.command(&["SET", "a", "1"]).unwrap();
    redis.restart().unwrap();
    assert_eq!(redis.command(&["GET", "a"]).unwrap(), Reply::Nil);
    Ok(())
}

pub(crate) fn a_stopped_server_answers_when_it_goes_on() -> Result<(), Unavailable> {
    let redis = Redis::start(&RedisOptions::default().with_own())?;
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    stream.read_exact(&mut answer).unwrap();
    redis.stop().unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let silence = stream.read_exact(&mut answer).unwrap_err().kind();
    assert!(matches!(silence, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence:?}");
    redis.resume().unwrap();
    stream.set_read_timeout(None).unwrap();
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    // One that is stopped can be killed too, and started again.
    let mut redis = redis;
    redis.stop().unwrap();
    redis.restart().unwrap();
    redis.command(&["PING"]).unwrap();
    Ok(())
}

pub(crate) fn users_have_their_passwords_and_rights() -> Result<(), Unavailable> {
    let options =
        RedisOptions::default().with_password("p@ss w%rd\"").with_user("reader", "on >r/1 ~* +@read");
    let redis = Redis::start(&options)?;
    // The harness itself comes in by the default user's password.
    redis.command(&["SET", "a", "1"]).unwrap();
    let ask = |url: &str, words: &[&str]| said(&cli(url, &[], words));
    assert_eq!(ask(&redis.url(), &["GET", "a"]), "1");
    assert_eq!(ask(&redis.url_as("reader", "r/1"), &["GET", "a"]), "1");
    assert!(ask(&redis.url_as("reader", "r/1"), &["SET", "a", "2"]).contains("NOPERM"));
    assert!(ask(&redis.url_as("reader", "wrong"), &["GET", "a"]).contains("WRONGPASS"));
    let open = format!("redis://127.0.0.1:{}", redis.port());
    assert!(ask(&open, &["GET", "a"]).contains("NOAUTH"));
    Ok(())
}

pub(crate) fn settings_arrive() -> Result<(), Unavailable> {
    let options = RedisOptions::default().with_setting("maxmemory-policy", "allkeys-lru").with_append_only();
    let redis = Redis::start(&options)?;
    for (name, value) in
        [("maxmemory-policy", "allkeys-lru"), ("appendonly", "yes"), ("appendfsync", "always")]
    {
        let expected = Reply::Array(vec![Reply::Text(name.into()), Reply::Text(value.into())]);
        assert_eq!(redis.command(&["CONFIG", "GET", name]).unwrap(), expected);
    }
    Ok(())
}

pub(crate) fn calls_are_counted_at_the_server() -> Result<(), Unavailable> {
    let redis = Redis::start(&RedisOptions::default().with_own())?;
    let counted = |name: &str| redis.calls().unwrap().get(name).copied().unwrap_or(0);
    assert_eq!((counted("incr"), counted("eval")), (0, 0));
    for _ in 0..3 {
        redis
            .command(&["EVAL", "redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[1])", "1", "a"])
            .unwrap();
    }
    // Those of a script are counted too.
    assert_eq!((counted("incr"), counted("eval")), (6, 3));
    Ok(())
}

pub(crate) fn tls_is_spoken_and_nothing_else() -> Result<(), Unavailable> {
    let redis = Redis::start(&RedisOptions::default().with_tls())?;
    let other = Redis::start(&RedisOptions::default().with_tls())?;
    let url = redis.url();
    assert!(url.starts_with("rediss://127.0.0.1:"), "{url}");
    let ask = |url: &str, authority: &Redis| {
        let authority = authority.authority().unwrap();
        said(&cli(url, &["--tls", "--cacert", authority.to_str().unwrap()], &["PING"]))
    };
    assert_eq!(ask(&url, &redis), "PONG");
    // Each has an authority of its own, and only that one is believed.
    assert_ne!(ask(&url, &other), "PONG");
    assert_ne!(said(&cli(&url.replace("rediss", "redis"), &[], &["PING"])), "PONG");
    redis.command(&["PING"]).unwrap();
    Ok(())
}

fn cli(url: &str, options: &[&str], words: &[&str]) -> Output {
    Command::new("redis-cli")
        .args(options)
        .args(["-u", url, "--no-auth-warning"])
        .args(words)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&said).trim().to_owned()
}

pub(crate) fn what_is_kept_is_told() -> Result<(), Unavailable> {
    let kept = Mutex::new(Redis::start(&RedisOptions::default().with_own())?).kept();
    let names: Vec<_> = kept.keys().map(String::as_str).collect();
    assert_eq!(names, ["blocked_clients", "connected_clients", "pubsub_channels", "pubsub_patterns"]);
    Ok(())
}
