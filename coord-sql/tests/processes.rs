//! Several processes on one file. The other processes are this test program, run again as a helper.

mod common;

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use common::{LONG, Place, claim, granted, hint, line};
use coord_core::{
    clock::Clock,
    spi::{Claim, Claims, Grant, Standing, Wakeups},
};
use coord_sql::{Sqlite, Store};

/// Begins the lines that are meant for the parent; the test harness prints others.
const MARK: &str = "helper: ";

struct Helper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Helper {
    fn start(role: &str, file: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["helper_process", "--exact", "--ignored", "--nocapture"])
            .env("COORD_TEST_ROLE", role)
            .env("COORD_TEST_FILE", file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    fn tell(&mut self, text: &str) {
        writeln!(self.input, "{text}").unwrap();
    }

    fn hear(&mut self) -> String {
        loop {
            let mut text = String::new();
            assert!(self.output.read_line(&mut text).unwrap() > 0, "the helper ended");
            // The harness may have begun the line.
            if let Some(at) = text.find(MARK) {
                return text[at + MARK.len()..].trim().to_owned();
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(text: impl std::fmt::Display) {
    println!("{MARK}{text}");
}

fn listen() -> String {
    let mut text = String::new();
    std::io::stdin().read_line(&mut text).unwrap();
    text.trim().to_owned()
}

/// The wait of the engine: look, sleep until a hint or until the line can change by itself, look again.
async fn acquire(store: &Store, claim: &Claim) -> Grant {
    let mut wakeups = store.wakeups(&claim.line, Some(claim.id));
    loop {
        match store.claim(claim).await.unwrap() {
            Standing::Granted(grant) => return grant,
            Standing::Waiting { look_again_in, .. } => {
                let _ = tokio::time::timeout(look_again_in.min(claim.ttl / 3), wakeups.next()).await;
            }
            Standing::Refused(by) => panic!("{by:?}"),
        }
    }
}

#[tokio::test]
#[ignore = "the helper process of the other tests"]
async fn helper_process() {
    let Ok(role) = std::env::var("COORD_TEST_ROLE") else { return };
    let file = std::env::var("COORD_TEST_FILE").unwrap();
    let opened = Sqlite::open(file).await;
    match role.as_str() {
        // Opens and says what came of it.
        "open" => say(opened.map_or_else(|error| format!("{:?}", error.kind()), |_| "open".to_owned())),
        // Waits in line, says when it was granted, and leaves; as often as it is told to.
        "wait" => {
            let store = opened.unwrap();
            say("ready");
            while listen() == "join" {
                let claim = claim(&line("lock"));
                acquire(&store, &claim).await;
                say(Clock::System.now().since_start().as_nanos());
                store.withdraw(&claim.line, claim.id).await.unwrap();
            }
        }
        // Takes the lock many times and says its tokens.
        "contend" => {
            let store = opened.unwrap();
            say("ready");
            listen();
            for _ in 0..50 {
                let claim = claim(&line("lock"));
                let grant = acquire(&store, &claim).await;
                say(grant.token);
                store.withdraw(&claim.line, claim.id).await.unwrap();
            }
        }
        // Holds the lock, watches its line, and does nothing more.
        "hold" => {
            let store = opened.unwrap();
            let ttl = Duration::from_millis(1_500);
            let grant = granted(store.claim(&Claim { ttl, ..claim(&line("lock")) }).await.unwrap());
            let mut wakeups = store.wakeups(&grant.line, None);
            hint(&mut wakeups).await;
            say(grant.token);
            listen();
        }
        other => panic!("{other}"),
    }
}

/// Waits until as many claims are in the line.
async fn until_in_line(store: &Store, wakeups: &mut Wakeups, count: usize) {
    let line = line("lock");
    while store.line(&line).await.unwrap().entries.len() != count {
        hint(wakeups).await;
    }
}

#[tokio::test]
async fn a_hand_over_between_processes_takes_at_most_5_ms() {
    let place = Place::new();
    let store = place.open().await;
    let mut helper = Helper::start("wait", &place.file());
    assert_eq!(helper.hear(), "ready");
    let mut changes = store.wakeups(&line("lock"), None);
    let mut nanoseconds = Vec::new();
    for _ in 0..200 {
        let claim = claim(&line("lock"));
        acquire(&store, &claim).await;
        helper.tell("join");
        until_in_line(&store, &mut changes, 2).await;
        let released = Clock::System.now().since_start().as_nanos();
        store.withdraw(&claim.line, claim.id).await.unwrap();
        nanoseconds.push(helper.hear().parse::<u128>().unwrap() - released);
    }
    nanoseconds.sort_unstable();
    let (median, p99) = (nanoseconds[100], nanoseconds[198]);
    println!("hand-over between two processes: median {} us, p99 {} us", median / 1_000, p99 / 1_000);
    // The bound is part of what is promised; it is about ten times what an idle machine needs.
    assert!(median <= 5_000_000, "{median} ns");
}

#[tokio::test]
async fn tokens_grow_across_processes() {
    let place = Place::new();
    let mut helpers: Vec<_> = (0..3).map(|_| Helper::start("contend", &place.file())).collect();
    for helper in &mut helpers {
        assert_eq!(helper.hear(), "ready");
    }
    for helper in &mut helpers {
        helper.tell("go");
    }
    let mut all = BTreeSet::new();
    for helper in &mut helpers {
        let tokens: Vec<u64> = (0..50).map(|_| helper.hear().parse().unwrap()).collect();
        assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
        all.extend(tokens);
    }
    assert_eq!(all.len(), 150, "no token twice");
}

#[tokio::test]
async fn a_new_file_may_be_opened_by_many_at_once() {
    for _ in 0..3 {
        let place = Place::new();
        let mut helpers: Vec<_> = (0..4).map(|_| Helper::start("open", &place.file())).collect();
        for helper in &mut helpers {
            assert_eq!(helper.hear(), "open");
        }
    }
}

#[tokio::test]
async fn a_killed_holder_is_followed_when_its_lease_ends() {
    let place = Place::new();
    let store = place.open().await;
    let mut helper = Helper::start("hold", &place.file());
    let token: u64 = helper.hear().parse().unwrap();
    let waiter = claim(&line("lock"));
    common::waiting(store.claim(&waiter).await.unwrap());
    let pipes = || std::fs::read_dir(place.0.path().join("coord.db.wake")).unwrap().count();
    assert_eq!(pipes(), 2);
    helper.child.kill().unwrap();
    helper.child.wait().unwrap();
    let killed = Clock::System.now();
    let grant = acquire(&store, &waiter).await;
    let waited = Clock::System.now().since(killed);
    assert!(grant.token.get() > token);
    // TTL + 250 ms is what is promised.
    assert!(waited <= Duration::from_millis(1_750), "{waited:?}");
    assert_eq!(pipes(), 1, "its pipe is taken down by who had news for it");
}

/// Clock ticks of processor time that a process used.
#[cfg(target_os = "linux")]
fn ticks(process: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // Behind the name, which may hold anything but ends with the last ')'.
    let fields: Vec<_> = stat[stat.rfind(')').unwrap() + 2..].split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_waiter_uses_no_processor_time() {
    let place = Place::new();
    let store = place.open().await;
    let holder = Claim { ttl: LONG * 10, ..claim(&line("lock")) };
    granted(store.claim(&holder).await.unwrap());
    let mut helper = Helper::start("wait", &place.file());
    assert_eq!(helper.hear(), "ready");
    helper.tell("join");
    let mut changes = store.wakeups(&holder.line, None);
    until_in_line(&store, &mut changes, 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = ticks(helper.child.id());
    tokio::time::sleep(Duration::from_secs(4)).await;
    // A tick is 10 ms: 1 % of a core would be 4.
    let used = ticks(helper.child.id()) - before;
    assert!(used < 4, "{used} ticks in 4 s");
    store.withdraw(&holder.line, holder.id).await.unwrap();
    helper.hear();
}
