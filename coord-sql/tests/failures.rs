//! Files that cannot be used, disks that are full, other processes that are in the way: each ends in a clear error, at
//! once or within the busy timeout, and nothing is lost.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use coord_core::{
    Effect, Error, ErrorKind, FencingToken,
    clock::{self, Clock},
    spi::{Claim, ClaimId, Claims, Renewal},
};
use coord_sql::{Config, Sqlite, connect, prelude::*};
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::common::{LONG, Place, claim, granted, helper::test_in, ids, line, waiting};

async fn raw(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn execute(path: &Path, statement: &'static str) {
    let mut connection = raw(path).await;
    sqlx::query(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn refused(config: Config) -> Error {
    Sqlite::open(config).await.expect_err("it must be refused")
}

/// A store with one claim, closed again.
async fn used(place: &Place) -> FencingToken {
    let store = place.open().await;
    let grant = granted(store.claim(&claim(&line("kept"))).await.unwrap());
    store.close().await.unwrap();
    grant.token
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_alone() {
    let place = Place::new();
    used(&place).await;
    execute(
        &place.file(),
        "INSERT INTO coord_migrations (version, description, success, checksum, execution_time) \
         VALUES (999, 'of the future', true, x'00', 0)",
    )
    .await;
    let before = std::fs::read(place.file()).unwrap();
    let error = refused(place.config()).await;
    assert_eq!((error.kind(), error.effect()), (ErrorKind::NewerSchema, Effect::None));
    assert!(error.to_string().contains("upgrade"), "{error}");
    assert_eq!(std::fs::read(place.file()).unwrap(), before);
}

#[tokio::test]
async fn a_users_own_migrations_and_tables_may_live_in_the_same_file() {
    let place = Place::new();
    execute(
        &place.file(),
        "CREATE TABLE _sqlx_migrations (version BIGINT PRIMARY KEY); CREATE TABLE claims (a);",
    )
    .await;
    used(&place).await;
    assert_eq!(ids(&*place.open().await, &line("kept")).await.len(), 1);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_alone() {
    let place = Place::new();
    let garbage = vec![b'x'; 10_000];
    std::fs::write(place.file(), &garbage).unwrap();
    let error = refused(place.config()).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("restore a backup"), "{error}");
    assert_eq!(std::fs::read(place.file()).unwrap(), garbage);
}

#[tokio::test]
async fn a_damaged_database_is_told() {
    let place = Place::new();
    used(&place).await;
    // The header stays, everything behind it goes.
    let mut bytes = std::fs::read(place.file()).unwrap();
    bytes[4096..].fill(0xa5);
    std::fs::write(place.file(), &bytes).unwrap();
    let error = match Sqlite::open(place.config()).await {
        Err(error) => error,
        Ok(store) => store.claim(&claim(&line("kept"))).await.expect_err("it must not work"),
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");

    // Cut off.
    let place = Place::new();
    used(&place).await;
    let bytes = std::fs::read(place.file()).unwrap();
    std::fs::write(place.file(), &bytes[..5_000]).unwrap();
    let error = match Sqlite::open(place.config()).await {
        Err(error) => error,
        Ok(store) => store.claim(&claim(&line("kept"))).await.expect_err("it must not work"),
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let place = Place::new();
    let folder = place.0.path();
    let missing = refused(Config::new(folder.join("no/such/folder.db"))).await;
    assert_eq!(missing.kind(), ErrorKind::InvalidInput, "{missing}");
    let directory = refused(Config::new(folder)).await;
    assert_eq!(directory.kind(), ErrorKind::InvalidInput, "{directory}");
    let absent = refused(place.config().with_create_if_missing(false)).await;
    assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
    assert!(!place.file().exists());
}

/// Runs one of the helpers below in a process of its own, as a user who is not root if we are, with `before` run by a
/// shell first. Returns what it printed. The harness's own exit status says whether its assertions held.
fn helper(name: &str, place: &Place, program: &[&str]) -> String {
    // Another user must be able to reach the program. Another process writes it: were it open for writing here, a child that
    // some other test starts meanwhile would hold it open too, and it could not be started.
    let copy = place.0.path().join("program");
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let mut words = program.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    words.push(copy.display().to_string());
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args([&test_in(module_path!(), name), "--exact", "--ignored", "--nocapture"])
        .env("COORD_TEST_FOLDER", place.0.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    text
}

fn am_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_folder_or_file_that_cannot_be_written() {
    let place = Place::new();
    std::fs::set_permissions(place.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(used(&place));
    let others = place.0.path().join("locked");
    std::fs::create_dir(&others).unwrap();
    std::fs::copy(place.file(), others.join("coord.db")).unwrap();
    std::fs::set_permissions(&others, PermissionsExt::from_mode(0o555)).unwrap();
    std::fs::set_permissions(place.file(), PermissionsExt::from_mode(0o444)).unwrap();
    // Permissions do not bind root, so root does it as somebody else.
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    helper("helper_read_only", &place, if am_root() { &as_nobody } else { &["env"] });
    std::fs::set_permissions(&others, PermissionsExt::from_mode(0o755)).unwrap();
}

#[tokio::test]
#[ignore = "the helper process of another test"]
async fn helper_read_only() {
    let Ok(folder) = std::env::var("COORD_TEST_FOLDER") else { return };
    let folder = Path::new(&folder);
    for path in ["coord.db", "locked/coord.db", "locked/new.db"] {
        let error = refused(Config::new(folder.join(path))).await;
        assert_eq!(error.kind(), ErrorKind::Permission, "{path}: {error:?}");
        assert!(error.to_string().contains("the right to write"), "{error}");
    }
}

#[tokio::test]
async fn a_file_at_its_limit_is_full_and_loses_nothing() {
    let place = Place::new();
    let store = Sqlite::open(place.config().with_max_pages(40)).await.unwrap();
    fill(&*store).await;
}

/// Claims names with large values until there is no more room; then everything that was granted is still there, can be
/// renewed and released, and afterwards there is room again.
async fn fill(store: &dyn Claims) {
    let large = |number: usize| Claim { value: vec![7; 20_000], ..claim(&line(&format!("large {number}"))) };
    let mut grants = Vec::new();
    let error = loop {
        assert!(grants.len() < 1_000, "it never was full");
        match store.claim(&large(grants.len())).await {
            Ok(standing) => grants.push(granted(standing)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert!(!grants.is_empty());
    // A renewal needs no more room than there was.
    assert!(store.renew(&grants).await.unwrap().iter().all(|renewal| *renewal == Renewal::Renewed));
    for (number, grant) in grants.iter().enumerate() {
        let entries = store.line(&grant.line).await.unwrap().entries;
        assert_eq!((entries.len(), entries[0].token), (1, grant.token), "{number}");
        store.withdraw(&grant.line, grant.id).await.unwrap();
    }
    let next = granted(store.claim(&large(0)).await.unwrap());
    assert!(grants.iter().all(|grant| grant.token < next.token));
}

/// A real file system without room: root mounts a small one for a process of its own; others cannot, and rely on the
/// test above.
#[test]
fn a_full_disk() {
    let place = Place::new();
    let mount = place.0.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let may_mount = Command::new("unshare")
        .args(["--mount", "mount", "-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(&mount)
        .output()
        .is_ok_and(|output| output.status.success());
    if !may_mount {
        println!("no right to mount a small file system");
        return;
    }
    let script = format!("mount -t tmpfs -o size=1m none '{}' && exec \"$@\"", mount.display());
    helper("helper_full_disk", &place, &["unshare", "--mount", "sh", "-c", &script, "sh"]);
}

#[tokio::test]
#[ignore = "the helper process of another test"]
async fn helper_full_disk() {
    let Ok(folder) = std::env::var("COORD_TEST_FOLDER") else { return };
    let folder = Path::new(&folder).join("small");
    let store = Sqlite::open(folder.join("coord.db")).await.unwrap();
    let large = |number: usize| Claim { value: vec![7; 20_000], ..claim(&line(&format!("large {number}"))) };
    let mut grants = Vec::new();
    let error = loop {
        assert!(grants.len() < 1_000, "it never was full");
        match store.claim(&large(grants.len())).await {
            Ok(standing) => grants.push(granted(standing)),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    // Another client finds everything that was granted, and tokens go on growing once there is room.
    for grant in &grants {
        let entries = store.line(&grant.line).await.unwrap().entries;
        assert_eq!((entries.len(), entries[0].token), (1, grant.token));
    }
    let refused = Sqlite::open(folder.join("another.db")).await;
    if let Err(error) = refused {
        assert_eq!(error.kind(), ErrorKind::Full, "{error:?}");
    }
    rustix::fs::chmod(&folder, rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let grown = Command::new("mount").args(["-o", "remount,size=8m"]).arg(&folder).status().unwrap();
    assert!(grown.success());
    let next = granted(store.claim(&large(grants.len())).await.unwrap());
    assert!(grants.iter().all(|grant| grant.token < next.token));
}

#[tokio::test]
async fn a_locked_file_is_told_in_time_and_can_be_read() {
    let place = Place::new();
    let store = Sqlite::open(place.config().with_busy_timeout(Duration::from_millis(300))).await.unwrap();
    let holder = claim(&line("locked"));
    let grant = granted(store.claim(&holder).await.unwrap());
    let mut other = raw(&place.file()).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let error = store.claim(&claim(&line("locked"))).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None));
    assert!(error.is_retryable());
    let error = store.renew(std::slice::from_ref(&grant)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(ids(&store, &line("locked")).await, [holder.id], "reading does not wait");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
    assert_eq!(ids(&store, &line("locked")).await, [holder.id], "what failed left no trace");
}

#[tokio::test]
async fn a_wait_for_the_right_to_write_shortens_no_lease() {
    let place = Place::new();
    let store = place.open().await;
    let mut other = raw(&place.file()).await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let ttl = Duration::from_millis(600);
    let asked = Claim { ttl, ..claim(&line("late")) };
    let claiming = tokio::spawn({
        let (store, asked) = (store.clone(), asked.clone());
        async move { store.claim(&asked).await.unwrap() }
    });
    tokio::time::sleep(ttl * 2).await;
    let released = Clock::System.now();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    granted(claiming.await.unwrap());
    let entries = store.line(&asked.line).await.unwrap().entries;
    // However slow the machine: what has run of the lease is no more than the time since the lock was free.
    let run = entries.first().map_or(ttl, |entry| ttl - entry.expires_in);
    assert!(run <= Clock::System.now().since(released) + Duration::from_millis(2), "{run:?}");
}

#[tokio::test]
async fn tokens_grow_over_the_loss_of_the_file() {
    let place = Place::new();
    let first = used(&place).await;
    for file in std::fs::read_dir(place.0.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let second = used(&place).await;
    assert!(second > first);
    // And under the eyes of a client that has the file open.
    let store = place.open().await;
    std::fs::remove_file(place.file()).unwrap();
    let asked = claim(&line("kept"));
    let third = granted(store.claim(&asked).await.unwrap());
    assert!(third.token > second);
    assert_eq!(ids(&*place.open().await, &line("kept")).await, [asked.id], "both see the new file");
}

#[tokio::test]
async fn a_wall_clock_that_steps_back_does_not_matter() {
    let place = Place::new();
    used(&place).await;
    // As if the last token had been given out in the year 2100.
    execute(&place.file(), "UPDATE coord_counters SET token = 4102444800000000").await;
    let store = place.open().await;
    let one = granted(store.claim(&claim(&line("one"))).await.unwrap());
    let two = granted(store.claim(&claim(&line("two"))).await.unwrap());
    assert_eq!((one.token.get(), two.token.get()), (4_102_444_800_000_001, 4_102_444_800_000_002));
    let now = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    assert!(u128::from(one.token.get()) > now);
}

#[tokio::test]
async fn used_up_tokens_are_told() {
    let place = Place::new();
    used(&place).await;
    execute(&place.file(), "UPDATE coord_counters SET token = 9007199254740990").await;
    let store = place.open().await;
    let last = granted(store.claim(&claim(&line("last"))).await.unwrap());
    assert_eq!(last.token, FencingToken::MAX);
    let error = store.claim(&claim(&line("none"))).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Exhausted, Effect::None));
    // What needs no token still works.
    assert_eq!(store.renew(std::slice::from_ref(&last)).await.unwrap(), [Renewal::Renewed]);
    store.withdraw(&last.line, last.id).await.unwrap();
    assert!(ids(&store, &last.line).await.is_empty());
    assert!(ids(&store, &line("none")).await.is_empty());
}

#[tokio::test]
async fn claims_of_an_earlier_boot_are_dead() {
    let place = Place::new();
    let token = used(&place).await;
    execute(&place.file(), "UPDATE coord_counters SET host = 'an earlier boot'").await;
    let store = place.open().await;
    assert!(ids(&store, &line("kept")).await.is_empty());
    assert!(granted(store.claim(&claim(&line("kept"))).await.unwrap()).token > token);

    // A process does not live through a boot: this is another host on the same file.
    execute(&place.file(), "UPDATE coord_counters SET host = 'another host'").await;
    let error = store.claim(&claim(&line("kept"))).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unsupported, Effect::None), "{error}");
}

#[tokio::test]
async fn foreign_tables_are_told() {
    let place = Place::new();
    used(&place).await;
    execute(&place.file(), "DROP TABLE coord_claims").await;
    let store = place.open().await;
    let error = store.claim(&claim(&line("kept"))).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Corrupt, Effect::None), "{error}");
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let place = Place::new();
    let store = place.open().await;
    let grant = granted(store.claim(&claim(&line("closed"))).await.unwrap());
    store.close().await.unwrap();
    let errors = [
        store.claim(&claim(&line("closed"))).await.unwrap_err(),
        store.renew(std::slice::from_ref(&grant)).await.unwrap_err(),
        store.withdraw(&grant.line, grant.id).await.unwrap_err(),
        store.line(&grant.line).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Closed), "{errors:?}");
}

#[tokio::test]
async fn operations_dropped_halfway_disturb_nobody() {
    use std::{future::poll_fn, pin::pin, task::Poll};

    let place = Place::new();
    let store = place.open().await;
    let line = line("dropped");
    let (mut steps, mut finished) = (0, false);
    while !finished {
        steps += 1;
        let asked = claim(&line);
        {
            let mut operation = pin!(store.claim(&asked));
            let mut left = steps;
            finished = poll_fn(|context| {
                left -= 1;
                match operation.as_mut().poll(context) {
                    Poll::Ready(standing) => {
                        standing.unwrap();
                        Poll::Ready(true)
                    }
                    Poll::Pending if left == 0 => Poll::Ready(false),
                    Poll::Pending => Poll::Pending,
                }
            })
            .await;
        }
        // Whatever became of it, the next operations work, and a withdrawal takes it out.
        store.withdraw(&line, asked.id).await.unwrap();
        assert!(ids(&store, &line).await.is_empty(), "after {steps} steps");
        let next = claim(&line);
        granted(store.claim(&next).await.unwrap());
        store.withdraw(&line, next.id).await.unwrap();
    }
    assert!(steps > 2, "{steps}");
}

#[tokio::test]
async fn a_restored_backup_does_not_hide_from_clients() {
    let place = Place::new();
    used(&place).await;
    let backup = std::fs::read(place.file()).unwrap();
    let store = place.open().await;
    let later = granted(store.claim(&Claim { ttl: LONG, ..claim(&line("later")) }).await.unwrap());
    // Put back by a rename, as a careful person does, while a client has the file open.
    std::fs::write(place.0.path().join("restored"), backup).unwrap();
    for log in ["coord.db-wal", "coord.db-shm"] {
        let _ = std::fs::remove_file(place.0.path().join(log));
    }
    std::fs::rename(place.0.path().join("restored"), place.file()).unwrap();
    assert_eq!(store.renew(std::slice::from_ref(&later)).await.unwrap(), [Renewal::Lost]);
    let next = granted(store.claim(&claim(&line("later"))).await.unwrap());
    assert!(next.token > later.token);
    assert_eq!(store.adopt(&later, ClaimId::random()).await.unwrap(), Renewal::Lost);
    waiting(store.claim(&claim(&line("kept"))).await.unwrap());
}

#[tokio::test]
async fn a_watcher_follows_into_another_file() {
    let place = Place::new();
    let options = CampaignOptions::default().with_ttl(LONG).with_id("old");
    let before = connect(place.config()).await.unwrap();
    // As if much had happened in it.
    execute(&place.file(), "UPDATE coord_counters SET revision = 1000").await;
    let _old = before.campaign(&Name::new("e").unwrap(), &options).await.unwrap();
    let watcher = connect(place.config()).await.unwrap();
    let mut events = watcher.observe(&Name::new("e").unwrap());
    assert!(matches!(events.next().await, Some(Ok(ElectionEvent::Elected(leader))) if leader.id == "old"));
    for file in std::fs::read_dir(place.0.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    let after = connect(place.config()).await.unwrap();
    let _new = after.campaign(&Name::new("e").unwrap(), &options.with_id("new")).await.unwrap();
    let next = async {
        loop {
            match events.next().await.unwrap().unwrap() {
                ElectionEvent::Elected(leader) => return leader.id,
                _ => continue,
            }
        }
    };
    let leader = tokio::time::timeout(Duration::from_secs(30), next).await;
    assert_eq!(leader.expect("the watcher sees the file that is there now"), "new");
}
