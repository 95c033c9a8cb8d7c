//! The contender on real servers: every workload, every line.

use std::{
    io::{BufRead, BufReader, Lines, Write},
    process::{Child, ChildStdout, Command, Stdio},
};

use coord_benches::{
    backend::Backend,
    row::Row,
    systems::{has, systems},
    workloads,
};
use coord_conformance::servers::{
    Etcd, EtcdOptions, Postgres, PostgresOptions, Redis, RedisOptions, Test, Unavailable, ZooKeeper,
};

pub(crate) const ALL: &[Test] = &[
    ("sqlite", sqlite),
    ("redis", redis),
    ("postgres", postgres),
    ("etcd", etcd),
    ("zookeeper", zookeeper),
    ("what_cannot_be_measured_says_why", what_cannot_be_measured_says_why),
];

/// The program with small sizes.
fn contender(system: &str, backend: &str, endpoint: &str, workload: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_contender"));
    command.args(["--system", system, "--backend", backend, "--endpoint", endpoint, "--workload", workload]);
    let sizes = [
        ("W1_N", "12"),
        ("W1_WARM", "2"),
        ("CAP_S", "30"),
        ("W2_K", "4"),
        ("W2_N", "40"),
        ("W2_CAP_S", "30"),
        ("W2P_N", "3"),
        ("W3_T", "8"),
        ("W3_SECS", "0.2"),
        ("W5_N", "40"),
        ("W5_CAP_S", "30"),
        ("W6_N", "10"),
        ("W7_N", "12"),
    ];
    command.envs(sizes.map(|(name, value)| (format!("PEERS_{name}"), value)));
    command
}

/// The lines that it printed.
fn rows(command: &mut Command) -> Vec<Row> {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

/// Every workload by coord, and by the others that have it.
fn measures_everything(backend: Backend, endpoint: &str) {
    // With a suffix, which is repeated.
    let shown = format!("{backend}-test");
    for system in systems(backend) {
        let mut measured = 0;
        for (workload, results) in workloads::WORKLOADS {
            let rows = rows(&mut contender(system, &shown, endpoint, workload));
            let names: Vec<_> = rows.iter().map(|row| row.workload.as_str()).collect();
            assert_eq!(names, results, "{system} on {backend}");
            for row in rows {
                assert_eq!((row.system.as_str(), row.backend.as_str()), (*system, shown.as_str()));
                match &row.error {
                    None => sound(&row),
                    Some(error) => {
                        assert_eq!(row.summary.n, 0);
                        let known = has(system, backend, workload) && row.workload != "W7.propagate";
                        assert!(!known, "{row:?}");
                        assert!(error.contains("has no"), "{row:?}");
                        continue;
                    }
                }
                measured += 1;
            }
        }
        assert!(measured > 0, "{system} on {backend}");
    }
    candidates(backend, endpoint);
}

/// What no run may break.
fn sound(row: &Row) {
    let (summary, extra) = (row.summary, &row.extra);
    assert!(summary.n > 0 && summary.p50_us > 0.0 && summary.p50_us <= summary.p99_us, "{row:?}");
    assert!(row.ops_per_s > 0.0, "{row:?}");
    if row.system == "coord" {
        assert_eq!(extra.violations.unwrap_or(0), 0, "{row:?}");
    }
    match row.workload.as_str() {
        "W1.same.pair" => assert_eq!(summary.n, 12),
        "W2.handoff" => {
            assert_eq!(extra.acquisitions, Some(40), "{row:?}");
            assert_eq!(extra.switches, Some(summary.n as u64), "{row:?}");
            assert!(extra.fair_min <= extra.fair_max && extra.fair_max <= Some(40), "{row:?}");
        }
        "W3.pairs" => assert!(extra.cpu_s_per_1k > Some(0.0), "{row:?}"),
        "W5.4x4.sat" => assert_eq!(summary.n, 40, "{row:?}"),
        "W7.register" => assert_eq!(summary.n, 12, "{row:?}"),
        _ => {}
    }
}

/// A candidate that runs.
struct Candidate {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Candidate {
    fn start(backend: Backend, endpoint: &str, ttl: &str) -> Self {
        let mut command = contender("coord", backend.as_str(), endpoint, "candidate");
        command.args(["--name", "contender-test", "--ttl", ttl]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut candidate = Self { child, lines };
        candidate.says("WAITING");
        candidate
    }

    /// When it said this, on `CLOCK_MONOTONIC`.
    fn says(&mut self, what: &str) -> i128 {
        let line = self.lines.next().expect("it has ended").unwrap();
        let (said, moment) = line.split_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert_eq!(said, what);
        moment.parse().unwrap()
    }
}

/// The first one is killed, the second one resigns, the third one leads.
fn candidates(backend: Backend, endpoint: &str) {
    let start = || Candidate::start(backend, endpoint, "2");
    let mut first = start();
    let elected = first.says("LEADER");
    let mut second = start();
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    let took_over = second.says("LEADER");
    assert!(took_over > elected);
    let mut third = start();
    writeln!(second.child.stdin.as_mut().unwrap(), "resign").unwrap();
    let resigns = second.says("RESIGN");
    let resigned = second.says("RESIGNED");
    assert!(took_over < resigns && resigns < resigned);
    assert!(second.child.wait().unwrap().success());
    assert!(third.says("LEADER") > resigns);
    third.child.kill().unwrap();
    third.child.wait().unwrap();
}

fn sqlite() -> Result<(), Unavailable> {
    let folder = tempfile::tempdir().unwrap();
    measures_everything(Backend::Sqlite, folder.path().join("coord.db").to_str().unwrap());
    Ok(())
}

fn redis() -> Result<(), Unavailable> {
    let server = Redis::start(&RedisOptions::default().with_own())?;
    measures_everything(Backend::Redis, &format!("127.0.0.1:{}", server.port()));
    Ok(())
}

fn postgres() -> Result<(), Unavailable> {
    let server = Postgres::start(&PostgresOptions::default().with_own())?;
    measures_everything(Backend::Postgres, &server.url());
    Ok(())
}

fn etcd() -> Result<(), Unavailable> {
    let server = Etcd::start(&EtcdOptions::default().with_own())?;
    measures_everything(Backend::Etcd, &format!("127.0.0.1:{}", server.port()));
    Ok(())
}

fn zookeeper() -> Result<(), Unavailable> {
    let server = ZooKeeper::shared()?;
    measures_everything(Backend::ZooKeeper, &server.fresh());
    Ok(())
}

/// One line for each result, without a measurement and with the reason.
fn what_cannot_be_measured_says_why() -> Result<(), Unavailable> {
    // Nobody listens on port 1.
    for (system, backend, endpoint) in [
        ("coord", "redis", "127.0.0.1:1"),
        ("coord", "consul", "127.0.0.1:1"),
        ("zk-recipe", "redis", "127.0.0.1:1"),
        ("coord", "redis", ""),
    ] {
        let rows = rows(&mut contender(system, backend, endpoint, "W1"));
        assert_eq!(rows.len(), 6, "{system} {backend}");
        for row in rows {
            assert_eq!((row.summary.n, row.backend.as_str()), (0, backend));
            assert!(row.error.is_some_and(|error| !error.is_empty()));
        }
    }
    let unknown = rows(&mut contender("coord", "memory", "", "W9"));
    assert!(unknown[0].error.as_ref().unwrap().contains("W9"));
    let mut command = contender("coord", "memory", "", "W1");
    let wrong = rows(command.env("PEERS_W1_N", "many"));
    assert!(wrong[0].error.as_ref().unwrap().contains("PEERS_W1_N"));
    Ok(())
}
