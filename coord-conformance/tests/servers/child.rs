//! This program once more, in an environment of its own: what a test must not do to itself, such as being killed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdout, Command, ExitCode, Stdio},
};

use async_trait::async_trait;
use coord_conformance::{
    Backend, TestStore,
    servers::{Postgres, PostgresOptions, Redis, RedisOptions, Unavailable},
};
use coord_core::Result;

/// Says what a child does.
const CHILD: &str = "COORD_TEST_CHILD";

/// What a child does instead of running tests; `None` in the parent.
pub(crate) fn main() -> Option<ExitCode> {
    let task = std::env::var(CHILD).ok()?;
    match task.as_str() {
        "tell" => tell(),
        "own" => println!("{}", told(&Redis::start(&RedisOptions::default().with_own()))),
        "broken" => {
            let options = RedisOptions::default().with_setting("no-such-setting", "1");
            println!("{}", told(&Redis::start(&options)));
        }
        "hold" => hold(false),
        "hold stopped" => hold(true),
        "panic" => {
            let redis = Redis::start(&RedisOptions::default().with_own()).unwrap();
            println!("{}", redis.pid().unwrap());
            panic!("on purpose");
        }
        "killed server" => killed_server(),
        "suite" => return Some(coord_conformance::main(Missing)),
        "hold redis" => {
            let redis = Redis::start(&RedisOptions::default());
            println!("{}", told(&redis));
            wait();
        }
        other => panic!("no child does {other:?}"),
    }
    Some(ExitCode::SUCCESS)
}

/// How a start went, in one line.
fn told(start: &std::result::Result<Redis, Unavailable>) -> String {
    match start {
        Ok(redis) => format!("url {} {}", redis.url(), redis.command(&["PING"]).unwrap().text()),
        Err(missing) => format!("fails={} {}", missing.fails(), missing.reason().replace('\n', " ")),
    }
}

fn tell() {
    let redis = Redis::start(&RedisOptions::default());
    println!("{}", told(&redis));
    let Ok(redis) = redis else { return };
    println!("{:?} {:?}", redis.pid(), redis.kill().map_err(|error| error.kind()));
}

/// Starts both servers, tells their process ids, and waits for ever.
fn hold(stopped: bool) {
    let redis = Redis::start(&RedisOptions::default().with_own()).unwrap();
    let postgres = Postgres::start(&PostgresOptions::default().with_own()).unwrap();
    let folders = [redis.socket().unwrap().parent().unwrap().to_owned(), postgres.socket_folder().unwrap()];
    if stopped {
        redis.stop().unwrap();
        postgres.stop().unwrap();
    }
    println!("{} {}", redis.pid().unwrap(), postgres.pid().unwrap());
    println!("{} {}", folders[0].display(), folders[1].display());
    wait();
}

fn killed_server() {
    let redis = Redis::start(&RedisOptions::default().with_own()).unwrap();
    let folder = redis.socket().unwrap().parent().unwrap().to_owned();
    redis.kill().unwrap();
    println!("{}", folder.display());
    wait();
}

fn wait() {
    let _ = std::io::stdout().flush();
    let _ = std::io::stdin().read(&mut [0]);
}

/// A backend whose server is not there.
#[derive(Debug)]
struct Missing;

#[async_trait]
impl Backend for Missing {
    fn name(&self) -> &str {
        "missing"
    }

    async fn open(&self) -> Result<Box<dyn TestStore>> {
        Redis::start(&RedisOptions::default())?;
        unreachable!("all servers are hidden")
    }
}

/// A child that is killed when this is dropped.
pub(crate) struct Held {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Held {
    pub(crate) fn start(task: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = command(task, environment);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// The next line, as words.
    pub(crate) fn words(&mut self) -> Vec<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a child to its end: whether it succeeded, its output and its errors.
pub(crate) fn run(task: &str, environment: &[(&str, &str)]) -> (bool, String, String) {
    let output = command(task, environment).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn command(task: &str, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    for name in ["COORD_TEST_REDIS_URL", "COORD_TEST_POSTGRES_URL", "COORD_TEST_PROGRAMS", "CI"] {
        command.env_remove(name);
    }
    command.env(CHILD, task).envs(environment.iter().copied());
    command
}

/// Servers and containers alike are hidden.
pub(crate) const NOTHING: [(&str, &str); 2] =
    [("COORD_TEST_PROGRAMS", "none"), ("DOCKER_HOST", "unix:///nonexistent/docker.sock")];

/// Both are there; otherwise the test has to be ignored.
pub(crate) fn needed() -> std::result::Result<(), Unavailable> {
    Redis::start(&RedisOptions::default().with_own())?;
    Postgres::start(&PostgresOptions::default().with_own())?;
    Ok(())
}
