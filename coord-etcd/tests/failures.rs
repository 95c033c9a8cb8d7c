//! What goes wrong with servers and with users, and what is said about it.

use std::time::Duration;

use coord_conformance::servers::{Etcd, EtcdOptions};
use coord_core::{
    Effect, Error, ErrorKind, Lock, LockOptions,
    clock::Clock,
    spi::{Claim, ClaimId, Claims, Grant, LineId, Renewal, Wakeups},
};
use coord_etcd::{Config, Store};
use etcd_client::{Client, ConnectOptions, GetOptions, Permission, PutOptions, RoleRevokePermissionOptions};

use crate::common::{
    LONG, claim, coordinator, granted, hint, ids, line, name, open, server_with, until, until_waiting,
    waiting,
};

/// Long enough for a loaded machine, and far shorter than [`LONG`].
const SOON: Duration = Duration::from_secs(10);

fn own() -> EtcdOptions {
    EtcdOptions::default().with_own()
}

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, work).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// A client of the server's own interface.
async fn raw(server: &Etcd) -> Client {
    Client::connect([format!("127.0.0.1:{}", server.port())], None).await.unwrap()
}

/// The same, of a server that has users, as the one that may do everything.
async fn root(server: &Etcd) -> Client {
    let url = server.url();
    let (_, login) = url.split_once("://").unwrap();
    let (user, password) = login.split_once('@').unwrap().0.split_once(':').unwrap();
    let options = ConnectOptions::new().with_user(user, password);
    Client::connect([format!("127.0.0.1:{}", server.port())], Some(options)).await.unwrap()
}

/// The lease of the one key that begins with this.
async fn lease_of(raw: &mut Client, prefix: &str) -> i64 {
    let found = raw.get(prefix, Some(GetOptions::new().with_prefix())).await.unwrap();
    let [key] = found.kvs() else { panic!("one key at {prefix}") };
    key.lease()
}

/// The server comes back with all that it had: who held still holds, who waited is next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_changes_nothing() {
    let Some(mut server) = server_with(&own()) else { return };
    let (one, two) = (coordinator(&server).await, coordinator(&server).await);
    let (name, options) = (name("kept"), LockOptions::default().with_ttl(LONG));
    let guard = one.acquire(&name, &options).await.unwrap();
    let waiter = {
        let (name, options) = (name.clone(), options.clone());
        tokio::spawn(async move { two.acquire(&name, &options).await })
    };
    until_waiting(&one, &name, 1).await;
    server.kill().unwrap();
    server.restart().unwrap();
    guard.extend(LONG).await.unwrap();
    assert!(guard.is_held());
    assert!(!waiter.is_finished());
    let token = guard.token();
    guard.release().await.unwrap();
    let next = soon("the hand-over", waiter).await.unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
}

/// A stopped server keeps its connections and says nothing. Every call fails by its deadline, and says that it may have been
/// done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_makes_every_call_fail_by_its_deadline() {
    let Some(server) = server_with(&own()) else { return };
    let timeout = Duration::from_millis(500);
    let config = Config::parse(&server.url()).unwrap().with_timeout(timeout);
    let (store, line) = (Store::open(&config).await.unwrap(), line("stopped"));
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    server.stop().unwrap();
    // Twice: on the connection that was there, and then on a new one, if that is made in time.
    for connected in [true, false] {
        let start = Clock::System.now();
        let (other, to) = (claim(&line), ClaimId::random());
        let grants = [grant.clone()];
        let outcomes = tokio::join!(
            store.claim(&other),
            store.renew(&grants),
            store.set_value(&grant, b"v"),
            store.withdraw(&line, other.id),
            store.adopt(&grant, to),
            store.line(&line),
        );
        // What is made of two requests takes two deadlines, and as much again for a loaded machine.
        let took = Clock::System.now().since(start);
        assert!(took < timeout * 4 + Duration::from_secs(2), "{took:?}");
        let errors = [
            outcomes.0.unwrap_err(),
            outcomes.1.unwrap_err(),
            outcomes.2.unwrap_err(),
            outcomes.3.unwrap_err(),
            outcomes.4.unwrap_err(),
            outcomes.5.unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(!connected || error.effect() == Effect::Unknown, "{error}");
        }
    }
    let opening = Store::open(&config).await.unwrap_err();
    assert_eq!(opening.kind(), ErrorKind::Unavailable);
    server.resume().unwrap();
    until("an answer", async || store.line(&line).await.is_ok()).await;
    assert_eq!(store.line(&line).await.unwrap().entries[0].token, grant.token);
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let Some(mut server) = server_with(&own()) else { return };
    let (store, line) = (open(&server).await, line("away"));
    server.kill().unwrap();
    let error = soon("the refusal", Store::open(server.url())).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::None), "{error}");
    until("an error that says so", async || {
        let error = store.claim(&claim(&line)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        error.effect() == Effect::None
    })
    .await;
    server.restart().unwrap();
    granted(store.claim(&claim(&line)).await.unwrap());
}

/// Somebody ends the lease of a client: what was on it is lost, which its holder learns at its next renewal; then there is a new
/// lease, and tokens go on growing.
#[tokio::test]
async fn a_lease_that_was_revoked_is_lost() {
    let Some(server) = server_with(&own()) else { return };
    let (store, line) = (open(&server).await, line("revoked"));
    let (held, waits) = (claim(&line), claim(&line));
    let grant = granted(store.claim(&held).await.unwrap());
    waiting(store.claim(&waits).await.unwrap());
    let mut raw = raw(&server).await;
    for lease in raw.leases().await.unwrap().leases() {
        raw.lease_client().revoke(lease.id()).await.unwrap();
    }
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Lost]);
    let next = granted(store.claim(&waits).await.unwrap());
    assert!(next.token > grant.token, "{} after {}", next.token, grant.token);
    assert_eq!(ids(&store, &line).await, [waits.id]);
    assert_eq!(store.renew(&[next]).await.unwrap(), [Renewal::Renewed]);
}

/// Somebody ended the lease to which a renewal moves a claim. The claim is moved to another one, and is renewed for as long as it
/// says.
#[tokio::test]
async fn who_is_renewed_for_longer_is_on_a_lease_that_is_as_long() {
    let Some(server) = server_with(&own()) else { return };
    let (store, line, mut raw) = (open(&server).await, line("short"), raw(&server).await);
    let grant = granted(store.claim(&Claim { ttl: LONG / 6, ..claim(&line) }).await.unwrap());
    granted(store.claim(&claim(&crate::common::line("long"))).await.unwrap());
    let ended = lease_of(&mut raw, "coord/c/default/lock/long/").await;
    raw.lease_client().revoke(ended).await.unwrap();
    let longer = Grant { ttl: LONG, ..grant };
    assert_eq!(store.renew(&[longer]).await.unwrap(), [Renewal::Renewed]);
    let lease = lease_of(&mut raw, "coord/c/default/lock/short/").await;
    let state = raw.lease_client().time_to_live(lease, None).await.unwrap();
    assert_eq!(state.granted_ttl(), 30, "it says that it is renewed for half a minute");
}

/// A claim has ended and cannot be deleted any more, because the rights on its name were taken away. Others are renewed all the
/// same.
#[tokio::test]
async fn what_cannot_be_deleted_keeps_nobody_from_being_renewed() {
    let options = EtcdOptions::default().with_user("worker", "right", &["coord/", "kept/", "taken/"]);
    let Some(server) = server_with(&options) else { return };
    let url = format!("{}?layout=interop", server.url_as("worker", "right"));
    let store = Store::open(url).await.unwrap();
    // The lease runs for a second longer than the claim, and so long nobody but the client ends it.
    let ttl = Duration::from_millis(2_010);
    granted(store.claim(&Claim { ttl, ..claim(&line("taken")) }).await.unwrap());
    let kept = granted(store.claim(&claim(&line("kept"))).await.unwrap());
    let mut root = root(&server).await;
    let rights = RoleRevokePermissionOptions::new().with_range_end("taken0");
    root.role_revoke_permission("worker", "taken/", Some(rights)).await.unwrap();
    until("the end of the lease", async || {
        let renewed = store.renew(std::slice::from_ref(&kept)).await;
        assert_eq!(renewed.unwrap(), [Renewal::Renewed]);
        let taken = root.get("taken/", Some(GetOptions::new().with_prefix())).await.unwrap();
        taken.kvs().is_empty()
    })
    .await;
}

/// A key that somebody deletes is a claim that is lost.
#[tokio::test]
async fn a_key_that_was_deleted_is_lost() {
    let Some(server) = server_with(&own()) else { return };
    let (store, line) = (open(&server).await, line("deleted"));
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    let other = granted(store.claim(&claim(&crate::common::line("other"))).await.unwrap());
    let options = etcd_client::DeleteOptions::new().with_prefix();
    raw(&server).await.delete("coord/c/default/lock/deleted/", Some(options)).await.unwrap();
    let renewals = store.renew(&[grant.clone(), other]).await.unwrap();
    assert_eq!(renewals, [Renewal::Lost, Renewal::Renewed]);
    assert_eq!(store.set_value(&grant, b"x").await.unwrap(), Renewal::Lost);
    assert!(ids(&store, &line).await.is_empty());
}

/// Requests that were given up may still be done when the server goes on. What they leave is found and removed, although the lease
/// that it is on lives on with others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_nobody_knows_of_are_removed() {
    let Some(server) = server_with(&own()) else { return };
    let config = Config::parse(&server.url()).unwrap().with_timeout(Duration::from_millis(300));
    let store = Store::open(&config).await.unwrap();
    let (ttl, line) = (Duration::from_secs(6), line("orphan"));
    let kept = Claim { ttl, ..claim(&crate::common::line("kept")) };
    let grant = granted(store.claim(&kept).await.unwrap());
    let mut raw = raw(&server).await;
    let lease = raw.get("coord/c/default/lock/kept/", Some(etcd_client::GetOptions::new().with_prefix()));
    let lease = lease.await.unwrap().kvs()[0].lease();

    server.stop().unwrap();
    let orphan = Claim { ttl, ..claim(&line) };
    let error = store.claim(&orphan).await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown);
    store.withdraw(&line, orphan.id).await.unwrap_err();
    server.resume().unwrap();
    // And one that comes very late.
    let late = format!("coord/c/default/lock/orphan/{:032x}:1", 7);
    let record = r#"{"id":"00000000-0000-0000-0000-000000000007","owner":"o","client":"c","weight":1,"limit":1,"priority":0,"joined":1,"granted":1,"ttl_ms":1}"#;
    until("the late one", async || {
        raw.put(late.as_str(), format!("{record}\n"), Some(PutOptions::new().with_lease(lease))).await.is_ok()
    })
    .await;
    assert!(!ids(&store, &line).await.is_empty());
    until("an empty line", async || {
        // The lease lives on.
        let renewed = store.renew(std::slice::from_ref(&grant)).await;
        assert!(renewed.is_err() || renewed.as_ref().unwrap() == &[Renewal::Renewed], "{renewed:?}");
        ids(&store, &line).await.is_empty()
    })
    .await;
    assert_eq!(store.renew(&[grant]).await.unwrap(), [Renewal::Renewed]);
}

/// A claim that is not renewed ends with its own TTL, although others on its lease go on.
#[tokio::test]
async fn a_claim_that_is_not_renewed_ends_alone() {
    let Some(server) = server_with(&own()) else { return };
    let (store, other, ttl) = (open(&server).await, open(&server).await, Duration::from_secs(2));
    let (one, two) = (line("renewed"), line("left"));
    let renewed = granted(store.claim(&Claim { ttl, ..claim(&one) }).await.unwrap());
    let left = granted(store.claim(&Claim { ttl, ..claim(&two) }).await.unwrap());
    let start = Clock::System.now();
    until("the end of the one", async || {
        assert_eq!(store.renew(std::slice::from_ref(&renewed)).await.unwrap(), [Renewal::Renewed]);
        ids(&other, &two).await.is_empty()
    })
    .await;
    assert!(Clock::System.now().since(start) >= ttl * 9 / 10);
    assert_eq!(store.renew(&[left, renewed]).await.unwrap(), [Renewal::Lost, Renewal::Renewed]);
}

/// Reads the line after each hint, and at no other time, until so many are in it.
async fn follow(changes: &mut Wakeups, store: &Store, line: &LineId, count: usize) {
    loop {
        hint(changes).await;
        if ids(store, line).await.len() == count {
            return;
        }
    }
}

/// Whoever watches a line hears of every change, also after the server was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_its_connection() {
    let Some(mut server) = server_with(&own()) else { return };
    let (one, two, line) = (open(&server).await, open(&server).await, line("watched"));
    let mut changes = two.wakeups(&line, None);
    hint(&mut changes).await;
    for _ in 0..2 {
        let claim = claim(&line);
        until("a claim", async || one.claim(&claim).await.is_ok()).await;
        follow(&mut changes, &two, &line, 1).await;
        server.restart().unwrap();
        until("a withdrawal", async || one.withdraw(&line, claim.id).await.is_ok()).await;
        follow(&mut changes, &two, &line, 0).await;
    }
}

/// A server that is stopped while somebody waits, and the holder leaves in that time through another client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_server_that_goes_on_grants_to_who_waits() {
    let Some(server) = server_with(&own()) else { return };
    let (one, two) = (open(&server).await, coordinator(&server).await);
    let line = line("paused");
    let holder = claim(&line);
    granted(one.claim(&holder).await.unwrap());
    let waiter = {
        let options = LockOptions::default().with_ttl(LONG * 10);
        tokio::spawn(async move { two.acquire(&name("paused"), &options).await })
    };
    until("the waiter", async || ids(&one, &line).await.len() == 2).await;
    server.stop().unwrap();
    // Longer than the stream of watches waits for a sign of life.
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.resume().unwrap();
    until("the withdrawal", async || one.withdraw(&line, holder.id).await.is_ok()).await;
    let guard = soon("the grant", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
}

async fn refused(config: &str) -> Error {
    let error = soon("the refusal", Store::open(config)).await.unwrap_err();
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
    error
}

#[tokio::test]
async fn wrong_passwords() {
    let (Some(server), Some(open)) =
        (server_with(&EtcdOptions::default().with_user("worker", "right", &["coord/"])), server_with(&own()))
    else {
        return;
    };
    let place = format!("127.0.0.1:{}", server.port());
    for login in ["", "worker:hunter2@", "nobody:hunter2@"] {
        let error = refused(&format!("etcd://{login}{place}")).await;
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Permission, Effect::None), "{login} {error}");
        assert!(error.to_string().contains("password"), "{error}");
    }
    let error = refused(&format!("etcd://me:hunter2@127.0.0.1:{}", open.port())).await;
    assert_eq!(error.kind(), ErrorKind::Permission, "{error}");
    for url in [server.url(), server.url_as("worker", "right")] {
        let (store, line) = (Store::open(&url).await.unwrap(), line(&url.len().to_string()));
        granted(store.claim(&claim(&line)).await.unwrap());
    }
}

#[tokio::test]
async fn users_without_rights() {
    let options =
        EtcdOptions::default().with_user("other", "p", &["elsewhere/"]).with_user("half", "p", &["coord/c/"]);
    let Some(server) = server_with(&options) else { return };
    let error = refused(&server.url_as("other", "p")).await;
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Permission, Effect::None), "{error}");
    assert!(error.to_string().contains("coord/"), "{error}");
}

/// Logins end with the server, which is not the business of users.
#[tokio::test]
async fn a_login_that_ended_is_renewed() {
    let options = EtcdOptions::default().with_user("worker", "right", &["coord/"]);
    let Some(mut server) = server_with(&options) else { return };
    let store = Store::open(server.url_as("worker", "right")).await.unwrap();
    let (line, mut changes) = (line("login"), store.wakeups(&line("login"), None));
    hint(&mut changes).await;
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    server.restart().unwrap();
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
    waiting(store.claim(&claim(&line)).await.unwrap());
    follow(&mut changes, &store, &line, 2).await;
    store.withdraw(&line, grant.id).await.unwrap();
    follow(&mut changes, &store, &line, 1).await;
}

/// A watch that the user may not have is told as one, and asked for again: it begins when the rights are there.
#[tokio::test]
async fn a_watch_that_was_refused_begins_when_the_rights_are_there() {
    let options = EtcdOptions::default().with_user("worker", "right", &["coord/"]);
    let Some(server) = server_with(&options) else { return };
    let url = format!("{}?layout=interop", server.url_as("worker", "right"));
    let store = Store::open(url).await.unwrap();
    let mut changes = store.wakeups(&line("later"), None);
    let mut others = store.wakeups(&crate::common::line("later/too"), None);
    // Who waits learns of the refusal, and looks by itself.
    hint(&mut changes).await;
    hint(&mut others).await;
    let mut root = root(&server).await;
    let rights = Permission::read_write("later/").with_range_end("later0");
    root.role_grant_permission("worker", rights).await.unwrap();
    hint(&mut changes).await;
    hint(&mut changes).await;
    root.put("later/x", "", None).await.unwrap();
    hint(&mut changes).await;
}

/// The login with which a stream was opened ends, and the next watch on it is refused: it is opened on another one.
#[tokio::test]
async fn a_watch_outlives_the_login_of_its_stream() {
    let options = EtcdOptions::default().with_user("worker", "right", &["coord/"]);
    let Some(server) = server_with(&options) else { return };
    let store = Store::open(server.url_as("worker", "right")).await.unwrap();
    let (one, two) = (line("one"), line("two"));
    let mut first = store.wakeups(&one, None);
    hint(&mut first).await;
    // That ends all logins of the user.
    root(&server).await.user_change_password("worker", "right").await.unwrap();
    let mut second = store.wakeups(&two, None);
    hint(&mut second).await;
    for (line, changes) in [(&one, &mut first), (&two, &mut second)] {
        granted(store.claim(&claim(line)).await.unwrap());
        follow(changes, &store, line, 1).await;
    }
}

#[tokio::test]
async fn what_is_too_large_for_the_server_is_told() {
    let Some(server) = server_with(&EtcdOptions::default().with_argument("--max-request-bytes=20000")) else {
        return;
    };
    let (store, line) = (open(&server).await, line("large"));
    let large = Claim { value: vec![7; 60_000], ..claim(&line) };
    let error = store.claim(&large).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    assert!(error.to_string().contains("--max-request-bytes"), "{error}");
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    let error = store.set_value(&grant, &[7; 60_000]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error}");
    assert_eq!(store.renew(&[grant]).await.unwrap(), [Renewal::Renewed]);
}

/// A server whose database is full takes no new claims; those that are there are prolonged and leave.
#[tokio::test]
async fn a_full_server_takes_no_lock_away() {
    let Some(server) = server_with(&EtcdOptions::default().with_argument("--quota-backend-bytes=1000000"))
    else {
        return;
    };
    let (store, line) = (open(&server).await, line("full"));
    let first = claim(&line);
    let grant = granted(store.claim(&first).await.unwrap());
    let mut raw = raw(&server).await;
    while raw.put("filler", vec![7; 50_000], None).await.is_ok() {}
    let error = store.claim(&claim(&line)).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Full, Effect::None), "{error}");
    assert_eq!(store.renew(std::slice::from_ref(&grant)).await.unwrap(), [Renewal::Renewed]);
    store.withdraw(&line, first.id).await.unwrap();
    assert!(ids(&store, &line).await.is_empty());
}

#[tokio::test]
async fn keys_of_somebody_else_are_left_alone() {
    let Some(server) = server_with(&own()) else { return };
    let (store, line) = (open(&server).await, line("taken"));
    let mut raw = raw(&server).await;
    raw.put("coord/c/default/lock/taken/mine", "text", None).await.unwrap();
    // It stands in everybody's way, for it may be that of a later version.
    let claimed = claim(&line);
    assert_eq!(waiting(store.claim(&claimed).await.unwrap()), 1);
    let error = store.line(&line).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    raw.delete("coord/c/default/lock/taken/mine", None).await.unwrap();
    granted(store.claim(&claimed).await.unwrap());
}

/// A plain client at a port that wants TLS.
#[tokio::test]
async fn a_port_that_wants_tls_is_told() {
    let Some(server) = server_with(&EtcdOptions::default().with_tls()) else { return };
    let error = refused(&format!("etcd://127.0.0.1:{}?timeout=2", server.port())).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
}
