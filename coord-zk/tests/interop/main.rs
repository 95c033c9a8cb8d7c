//! The layouts for other clients of ZooKeeper, with two of them: kazoo, which a virtual environment gets from PyPI, and
//! Apache Curator, where Debian's archives of classes and a compiler of Java are installed.

mod discovery;
mod services;

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use coord_core::{
    ErrorKind, Lock, LockOptions, RwLock,
    spi::{Claim, Claims, Renewal},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::OnceCell,
};

use crate::common::{
    LONG, claim, granted, hint, hosts, ids, line, name, open, place, raw, root, until, waiting,
};

/// Another library's lock, as a program that takes arguments.
#[derive(Debug, Clone)]
struct Library {
    command: Vec<String>,
}

/// Says why a test is ignored, which it must not be in CI.
fn missing(what: &str, why: &str) -> Option<Library> {
    assert!(std::env::var("CI").is_err(), "{what} cannot be had: {why}");
    eprintln!("ignored: {what} cannot be had: {why}");
    None
}

async fn succeeds(command: &mut Command) -> Result<(), String> {
    match command.stdin(Stdio::null()).output().await {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop")
}

async fn kazoo() -> Option<Library> {
    static MADE: OnceCell<Option<Library>> = OnceCell::const_new();
    let make = async || {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kazoo");
        let python = folder.join("bin/python");
        let has = async || succeeds(Command::new(&python).args(["-c", "import kazoo"])).await;
        if has().await.is_err() {
            let made = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&folder)).await;
            let install = ["-m", "pip", "install", "--quiet", "kazoo>=2.9"];
            let installed = match made {
                Ok(()) => succeeds(Command::new(&python).args(install)).await,
                error => error,
            };
            if let Err(why) = installed {
                return missing("kazoo", &why);
            }
        }
        let script = sources().join("lock.py");
        Some(Library { command: vec![python.display().to_string(), script.display().to_string()] })
    };
    MADE.get_or_init(make).await.clone()
}

async fn curator() -> Option<Library> {
    static MADE: OnceCell<Option<Library>> = OnceCell::const_new();
    MADE.get_or_init(async || java("Lock", &["recipes"]).await).await.clone()
}

/// A program that uses these parts of Curator.
async fn java(program: &str, parts: &[&str]) -> Option<Library> {
    let jar = |part: &str| format!("/usr/share/java/curator-{part}.jar");
    if let Some(part) = parts.iter().find(|part| !Path::new(&jar(part)).exists()) {
        return missing("Curator", &format!("install libcurator-{}-java", part.trim_start_matches("x-")));
    }
    let others = ["slf4j-nop", "jackson-annotations", "jackson-core", "jackson-databind"];
    let others = others.map(|name| format!("/usr/share/java/{name}.jar"));
    let jars: Vec<_> = parts.iter().map(|part| jar(part)).chain(others).collect();
    let jars = jars.join(":");
    let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join("curator").join(program);
    std::fs::create_dir_all(&made).unwrap();
    let mut compile = Command::new("javac");
    compile.args(["-cp", &jars, "-d"]).arg(&made).arg(sources().join(format!("{program}.java")));
    if let Err(why) = succeeds(&mut compile).await {
        return missing("Curator", &format!("javac: {why}"));
    }
    let classes = format!("{jars}:{}", made.display());
    let command = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &classes, program];
    Some(Library { command: command.map(str::to_owned).into() })
}

impl Library {
    /// Runs a command on the lock, or the service, at this name; `patterns` is whatever else the program has to know.
    fn start(&self, url: &str, name: &str, patterns: &str, words: &[&str]) -> Running {
        let mut command = Command::new(&self.command[0]);
        let path = format!("{}/{name}", root(url));
        command.args(&self.command[1..]).args([hosts(url), &path, patterns]).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { input: child.stdin.take(), output, child }
    }

    async fn try_lock(&self, url: &str, name: &str, patterns: &str) -> bool {
        match self.start(url, name, patterns, &["try"]).says().await.as_str() {
            "True" => true,
            "False" => false,
            other => panic!("{other}"),
        }
    }
}

struct Running {
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Running {
    /// The next line that it prints.
    async fn says(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(60), self.output.next_line()).await;
        match line.expect("a line in time").unwrap() {
            Some(line) => line,
            None => {
                let mut errors = String::new();
                let mut stderr = self.child.stderr.take().unwrap();
                tokio::io::AsyncReadExt::read_to_string(&mut stderr, &mut errors).await.unwrap();
                panic!("it ended: {errors}")
            }
        }
    }

    /// Reads on until it prints this line.
    async fn until(&mut self, line: &str) {
        while self.says().await != line {}
    }

    async fn go_on(&mut self) {
        self.input.as_mut().unwrap().write_all(b"\n").await.unwrap();
    }
}

fn with(url: &str, layout: &str) -> String {
    format!("{url}?layout={layout}")
}

/// Both roles: the other library waits for us, and we for it.
async fn both_respect_each_other(library: &Library, layout: &str, patterns: &str) {
    let Some(url) = place() else { return };
    let client = coord_zk::connect(with(&url, layout)).await.unwrap();
    let options = LockOptions::default().with_ttl(LONG);
    let guard = client.acquire(&name("deep/stock"), &options).await.unwrap();
    assert!(!library.try_lock(&url, "deep/stock", patterns).await, "{layout}: it entered while we hold");
    // It waits its turn, and comes to it.
    let mut waiter = library.start(&url, "deep/stock", patterns, &["hold"]);
    tokio::time::timeout(Duration::from_secs(2), waiter.says()).await.expect_err("it entered while we hold");
    assert!(guard.is_held());
    let token = guard.token();
    guard.release().await.unwrap();
    assert_eq!(waiter.says().await, "held");
    let error = client.try_acquire(&name("deep/stock"), &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotGranted, "{error}");
    let ours = {
        let (client, options) = (client.clone(), options.clone());
        tokio::spawn(async move { client.acquire(&name("deep/stock"), &options).await.unwrap() })
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!ours.is_finished(), "we entered while it holds");
    waiter.go_on().await;
    assert_eq!(waiter.says().await, "released");
    let guard = tokio::time::timeout(Duration::from_secs(20), ours).await.expect("a hint").unwrap();
    assert!(guard.token() > token);
    guard.release().await.unwrap();
    let left = raw(&url).await.list_children(&format!("{}/deep/stock", root(&url))).await;
    assert!(left.is_err() || left.unwrap().is_empty(), "something was left behind");
}

/// Each increments a number that nothing else guards, in turn with the other.
async fn nobody_loses_an_update(library: &Library, layout: &str, patterns: &str) {
    const ROUNDS: u32 = 60;
    let Some(url) = place() else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("number");
    std::fs::write(&file, "0").unwrap();
    let rounds = ROUNDS.to_string();
    let mut other = library.start(&url, "stock", patterns, &["count", file.to_str().unwrap(), &rounds]);
    let options = LockOptions::default().with_ttl(LONG);
    let ours = (0..2).map(|_| {
        let (url, options, file) = (with(&url, layout), options.clone(), file.clone());
        async move {
            let client = coord_zk::connect(url).await.unwrap();
            for _ in 0..ROUNDS {
                let guard = client.acquire(&name("stock"), &options).await.unwrap();
                let number: u32 = std::fs::read_to_string(&file).unwrap().parse().unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                std::fs::write(&file, (number + 1).to_string()).unwrap();
                guard.release().await.unwrap();
            }
        }
    });
    futures_util::future::join_all(ours).await;
    assert_eq!(other.says().await, "done");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), (3 * ROUNDS).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kazoo_and_we_respect_each_other() {
    let Some(kazoo) = kazoo().await else { return };
    for (layout, patterns) in [("kazoo", ""), ("interop", ""), ("curator", "lock-")] {
        both_respect_each_other(&kazoo, layout, patterns).await;
    }
}

/// A lock of kazoo that was used once can be used again, however long the folder that we made was empty meanwhile.
#[tokio::test]
async fn kazoo_finds_our_folder_again() {
    let Some(kazoo) = kazoo().await else { return };
    for layout in ["kazoo", "interop"] {
        let Some(url) = place() else { return };
        let stores = [open(&with(&url, layout)).await, open(&url).await];
        let (line, raw) = (line("stock"), raw(&url).await);
        let folders = ["/stock", "/coord/default/lock/stock"].map(|path| format!("{}{path}", root(&url)));
        let is_there = async |at: usize| raw.check_stat(&folders[at]).await.unwrap().is_some();
        // It waits in the folder that we made.
        let held = claim(&line);
        granted(stores[0].claim(&held).await.unwrap());
        let ours = raw.list_children(&folders[0]).await.unwrap().len();
        let mut other = kazoo.start(&url, "stock", "", &["again"]);
        until("kazoo", async || raw.list_children(&folders[0]).await.unwrap().len() > ours).await;
        stores[0].withdraw(&line, held.id).await.unwrap();
        other.until("released").await;
        let held = claim(&line);
        granted(stores[1].claim(&held).await.unwrap());
        stores[1].withdraw(&line, held.id).await.unwrap();
        // Ours alone is removed. It was the last that became empty.
        until("no folder of our own", async || !is_there(1).await).await;
        assert!(is_there(0).await, "{layout}");
        other.go_on().await;
        other.until("held").await;
        other.until("released").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curator_and_we_respect_each_other() {
    let Some(curator) = curator().await else { return };
    for layout in ["curator", "interop"] {
        both_respect_each_other(&curator, layout, "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_beside_kazoo() {
    let Some(kazoo) = kazoo().await else { return };
    for layout in ["kazoo", "interop"] {
        nobody_loses_an_update(&kazoo, layout, "").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_beside_curator() {
    let Some(curator) = curator().await else { return };
    for layout in ["curator", "interop"] {
        nobody_loses_an_update(&curator, layout, "").await;
    }
}

/// Among our own clients the order, the tokens and the hand-over are as in our own layout, whichever of the others each uses.
#[tokio::test]
async fn among_ourselves_nothing_changes() {
    let Some(url) = place() else { return };
    let line = line("own");
    for layouts in [["curator"; 2], ["kazoo"; 2], ["interop"; 2], ["curator", "kazoo"], ["interop", "kazoo"]]
    {
        let [one, two] = [open(&with(&url, layouts[0])).await, open(&with(&url, layouts[1])).await];
        let stores = [&one, &two];
        let claims: Vec<_> = (0..6).map(|_| claim(&line)).collect();
        let mut last = granted(one.claim(&claims[0]).await.unwrap()).token;
        for (at, claim) in claims.iter().enumerate().skip(1) {
            waiting(stores[at % 2].claim(claim).await.unwrap());
        }
        let expected: Vec<_> = claims.iter().map(|claim| claim.id).collect();
        assert_eq!(ids(&one, &line).await, expected, "{layouts:?}");
        for at in 1..6 {
            let (before, now) = (stores[(at - 1) % 2], stores[at % 2]);
            let mut hints = now.wakeups(&line, Some(claims[at].id));
            before.withdraw(&line, claims[at - 1].id).await.unwrap();
            hint(&mut hints).await;
            let grant = granted(now.claim(&claims[at]).await.unwrap());
            assert!(grant.token > last);
            last = grant.token;
            assert_eq!(now.renew(&[grant]).await.unwrap(), [Renewal::Renewed]);
        }
        // A longer lease than the session's, and an heir.
        let grant = granted(two.claim(&claims[5]).await.unwrap());
        let longer = coord_core::spi::Grant { ttl: LONG * 2, ..grant.clone() };
        assert_eq!(two.renew(std::slice::from_ref(&longer)).await.unwrap(), [Renewal::Renewed]);
        let heir = coord_core::spi::ClaimId::random();
        assert_eq!(one.adopt(&longer, heir).await.unwrap(), Renewal::Renewed, "{layouts:?}");
        assert_eq!(two.renew(&[longer]).await.unwrap(), [Renewal::Lost]);
        let entries = one.line(&line).await.unwrap().entries;
        assert_eq!(
            entries.iter().map(|entry| (entry.id, entry.token)).collect::<Vec<_>>(),
            [(heir, grant.token)]
        );
        one.withdraw(&line, heir).await.unwrap();
        let left = raw(&url).await.list_children(&format!("{}/own", root(&url))).await;
        assert!(left.is_err() || left.unwrap().is_empty(), "{layouts:?}");
    }
}

/// Members of a service are in nobody's way, and candidates in each other's, in every layout.
#[tokio::test]
async fn what_is_no_lock_is_as_in_our_own_layout() {
    use coord_core::{CampaignOptions, Election, Instance, RegisterOptions, Registry};
    let Some(url) = place() else { return };
    let own = coord_zk::connect(&url).await.unwrap();
    let mut registrations = Vec::new();
    for layout in ["own", "curator", "kazoo", "interop"] {
        let client = coord_zk::connect(with(&url, layout)).await.unwrap();
        let instance = Instance::new(layout, "10.0.0.1:80");
        let registered = client.register(&name("service"), instance, &RegisterOptions::default()).await;
        registrations.push((client, registered.unwrap()));
    }
    assert_eq!(own.instances(&name("service")).await.unwrap().len(), 4);
    let options = CampaignOptions::default().with_wait(Duration::from_secs(1));
    let office = registrations[1].0.campaign(&name("office"), &options).await.unwrap();
    let refused = registrations[3].0.campaign(&name("office"), &options).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotGranted, "{refused}");
    office.resign().await.unwrap();
}

/// What other libraries could not respect is refused, before anything is sent.
#[tokio::test]
async fn what_others_could_not_respect_is_refused() {
    let Some(url) = place() else { return };
    let client = coord_zk::connect(with(&url, "interop")).await.unwrap();
    let options = LockOptions::default();
    assert_eq!(client.read(&name("a"), &options).await.unwrap_err().kind(), ErrorKind::Unsupported);
    for bad in ["a//b", "../a", "a/", "🦀"] {
        let error = client.acquire(&name(bad), &options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{bad}: {error}");
    }
    // Whatever else stands in the folder is in nobody's way.
    let raw = raw(&url).await;
    let everyone = zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    raw.mkdir(&format!("{}/a/something-0000000000", root(&url)), &everyone).await.unwrap();
    let store = open(&with(&url, "interop")).await;
    let attempt = Claim { wait: false, ..claim(&line("a")) };
    granted(store.claim(&attempt).await.unwrap());
}
