//! etcd servers.

use std::{
    process::{Command, Output},
    sync::Mutex,
};

use coord_conformance::{
    Servers,
    servers::{Etcd, EtcdCluster, EtcdOptions, Unavailable},
};

pub(crate) fn several_at_once_are_apart() -> Result<(), Unavailable> {
    let start = || std::thread::spawn(|| Etcd::start(&EtcdOptions::default().with_own()));
    let starting: Vec<_> = (0..3).map(|_| start()).collect();
    let servers: Result<Vec<_>, _> = starting.into_iter().map(|thread| thread.join().unwrap()).collect();
    let servers = servers?;
    for (number, etcd) in servers.iter().enumerate() {
        said(&ctl(&etcd.url(), &[], &["put", "number", &number.to_string()]));
    }
    for (number, etcd) in servers.iter().enumerate() {
        assert_eq!(value(&etcd.url(), "number"), number.to_string());
        assert_eq!(etcd.url(), format!("etcd://127.0.0.1:{}", etcd.port()));
    }
    Ok(())
}

pub(crate) fn a_restart_keeps_everything() -> Result<(), Unavailable> {
    let mut etcd = Etcd::start(&EtcdOptions::default().with_own())?;
    let before = (etcd.pid(), etcd.url());
    said(&ctl(&etcd.url(), &[], &["put", "a", "1"]));
    etcd.restart().unwrap();
    assert_eq!(value(&etcd.url(), "a"), "1");
    etcd.kill().unwrap();
    assert!(!etcd.is_healthy());
    etcd.restart().unwrap();
    assert_eq!(value(&etcd.url(), "a"), "1");
    assert_ne!(etcd.pid(), before.0);
    assert_eq!(etcd.url(), before.1);
    Ok(())
}

pub(crate) fn a_stopped_server_answers_when_it_goes_on() -> Result<(), Unavailable> {
    let etcd = Etcd::start(&EtcdOptions::default().with_own())?;
    etcd.stop().unwrap();
    let silent = ctl(&etcd.url(), &["--command-timeout=300ms", "--dial-timeout=300ms"], &["get", "a"]);
    assert!(!silent.status.success());
    etcd.resume().unwrap();
    assert_eq!(value(&etcd.url(), "a"), "");
    Ok(())
}

pub(crate) fn users_have_their_passwords_and_rights() -> Result<(), Unavailable> {
    let etcd = Etcd::start(&EtcdOptions::default().with_user("app", "pa:ss", &["coord/", "x"]))?;
    let open = format!("etcd://127.0.0.1:{}", etcd.port());
    let ask = |login: &[&str], words: &[&str]| said(&ctl(&open, login, words));
    assert!(etcd.url().starts_with("etcd://root:secret@"), "{}", etcd.url());
    assert_eq!(ask(&["--user=root", "--password=secret"], &["put", "other", "1"]), "OK");
    let app = ["--user=app", "--password=pa:ss"];
    assert_eq!(ask(&app, &["put", "coord/1", "1"]), "OK");
    assert_eq!(ask(&app, &["put", "xyz", "1"]), "OK");
    assert!(ask(&app, &["put", "other", "1"]).contains("permission denied"));
    assert!(ask(&["--user=app", "--password=wrong"], &["get", "a"]).contains("authentication failed"));
    assert!(ask(&[], &["get", "coord/1"]).contains("user name is empty"));
    Ok(())
}

pub(crate) fn arguments_arrive_and_calls_are_counted() -> Result<(), Unavailable> {
    let etcd = Etcd::start(&EtcdOptions::default().with_argument("--max-request-bytes=1000"))?;
    let counted = |name: &str| etcd.calls().unwrap().get(name).copied().unwrap_or(0);
    assert_eq!(counted("Put"), 0);
    for _ in 0..3 {
        said(&ctl(&etcd.url(), &[], &["put", "a", "1"]));
    }
    assert_eq!(counted("Put"), 3);
    assert!(said(&ctl(&etcd.url(), &[], &["put", "a", &"x".repeat(2000)])).contains("too large"));
    assert_eq!(counted("Put"), 4);
    assert!(etcd.leads());
    Ok(())
}

pub(crate) fn tls_is_spoken_and_nothing_else() -> Result<(), Unavailable> {
    let etcd = Etcd::start(&EtcdOptions::default().with_tls())?;
    let other = Etcd::start(&EtcdOptions::default().with_tls())?;
    let url = etcd.url();
    assert!(url.starts_with("etcds://127.0.0.1:"), "{url}");
    let quick = "--command-timeout=1s";
    let ask = |url: &str, authority: &Etcd| {
        let authority = format!("--cacert={}", authority.authority().unwrap().display());
        said(&ctl(url, &[&authority, quick], &["put", "a", "1"]))
    };
    assert_eq!(ask(&url, &etcd), "OK");
    // Each has an authority of its own, and only that one is believed.
    assert_ne!(ask(&url, &other), "OK");
    assert_ne!(said(&ctl(&url.replace("etcds", "etcd"), &[quick], &["put", "a", "1"])), "OK");
    Ok(())
}

pub(crate) fn a_cluster_finds_another_leader() -> Result<(), Unavailable> {
    let mut cluster = EtcdCluster::start(&EtcdOptions::default())?;
    let first = cluster.leader().unwrap();
    said(&ctl(&cluster.url(), &[], &["put", "a", "1"]));
    cluster.kill(first).unwrap();
    let second = cluster.leader_but(first).unwrap();
    assert_ne!(first, second);
    assert_eq!(value(&cluster.members()[second].url(), "a"), "1");
    cluster.restart(first).unwrap();
    cluster.until_ready(first).unwrap();
    assert_eq!(value(&cluster.members()[first].url(), "a"), "1");
    let leader = cluster.leader().unwrap();
    for at in (0..3).filter(|at| *at != leader) {
        cluster.stop(at).unwrap();
    }
    assert!(!cluster.members()[leader].is_healthy(), "one of three serves nobody");
    for at in (0..3).filter(|at| *at != leader) {
        cluster.resume(at).unwrap();
    }
    cluster.until_ready(leader).unwrap();
    Ok(())
}

fn value(url: &str, key: &str) -> String {
    said(&ctl(url, &["--print-value-only"], &["get", key]))
}

fn ctl(url: &str, options: &[&str], words: &[&str]) -> Output {
    let address = url.rsplit_once(['/', '@']).unwrap().1;
    let scheme = if url.starts_with("etcds") { "https" } else { "http" };
    let endpoints: Vec<_> = address.split(',').map(|place| format!("{scheme}://{place}")).collect();
    // Options of a command stand behind it.
    let (global, own): (Vec<&str>, Vec<&str>) =
        options.iter().partition(|option| **option != "--print-value-only");
    Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", endpoints.join(",")))
        .args(global)
        .args(words)
        .args(own)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&said).trim().to_owned()
}

pub(crate) fn what_is_kept_is_told() -> Result<(), Unavailable> {
    let kept = Mutex::new(Etcd::start(&EtcdOptions::default().with_own())?).kept();
    let names: Vec<_> = kept.keys().map(String::as_str).collect();
    assert_eq!(names, ["etcd_debugging_mvcc_watch_stream_total", "etcd_debugging_mvcc_watcher_total"]);
    Ok(())
}
