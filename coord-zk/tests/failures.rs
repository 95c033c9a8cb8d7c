//! What happens when the way to the server fails, the server does, or somebody else removes what is ours.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coord_conformance::proxy::{Loss, Proxy, Way};
use coord_core::{
    Effect, ErrorKind, Lock, LockOptions,
    clock::Clock,
    spi::{Claim, Claims, Line, Renewal},
};
use coord_zk::Store;

use crate::common::{
    LONG, claim, granted, ids, line, name, open, place, proxy, raw, root, server, settled, until, waiting,
};

fn now() -> coord_core::clock::Moment {
    Clock::System.now()
}

/// The names of the nodes in a line.
async fn nodes(url: &str, name: &str) -> Vec<String> {
    let path = format!("{}/coord/default/lock/{name}", root(url));
    match raw(url).await.list_children(&path).await {
        Ok(children) => children,
        Err(zookeeper_client::Error::NoNode) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

/// Every operation answers within its deadline when the server is stopped, and says what it may have done.
#[tokio::test]
async fn nothing_outlasts_its_deadline_when_the_server_is_stopped() {
    let Some(server) = server() else { return };
    let url = format!("{}?timeout=2", server.fresh());
    let store = open(&url).await;
    let line = line("a");
    let held = claim(&line);
    let grant = granted(store.claim(&held).await.unwrap());
    server.stop().unwrap();
    let deadline = Duration::from_secs(5);
    let other = claim(&line);
    type Failing<'a> = std::pin::Pin<Box<dyn Future<Output = coord_core::Error> + 'a>>;
    let calls: Vec<(&str, Failing<'_>)> = vec![
        ("claim", Box::pin(async { store.claim(&other).await.unwrap_err() })),
        ("renew", Box::pin(async { store.renew(std::slice::from_ref(&grant)).await.unwrap_err() })),
        ("set_value", Box::pin(async { store.set_value(&grant, b"x").await.unwrap_err() })),
        ("withdraw", Box::pin(async { store.withdraw(&line, held.id).await.unwrap_err() })),
        ("line", Box::pin(async { store.line(&line).await.unwrap_err() })),
        ("report", Box::pin(async { store.report().await.unwrap_err() })),
        ("open", Box::pin(async { Store::open(format!("{url}&timeout=0.5")).await.unwrap_err() })),
    ];
    for (what, call) in calls {
        let start = now();
        let error = tokio::time::timeout(Duration::from_secs(20), call).await.expect(what);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error}");
        assert!(now().since(start) < deadline, "{what} took {:?}", now().since(start));
        let reads = ["line", "report", "open"].contains(&what);
        assert_eq!(error.effect() == Effect::None, reads, "{what}: {error}");
    }
    server.resume().unwrap();
    // What was withdrawn while nobody answered is gone, and so is what was claimed and given up.
    store.withdraw(&line, other.id).await.unwrap();
    until("an empty line", async || ids(&store, &line).await.is_empty()).await;
}

/// A server that takes connections and never answers keeps nobody from the others.
#[tokio::test]
async fn one_server_that_is_silent_delays_nobody() {
    let Some(url) = place() else { return };
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let mut taken = Vec::new();
    let _taking = tokio::spawn(async move {
        while let Ok((client, _)) = silent.accept().await {
            taken.push(client);
        }
    });
    // The sound one is named twice: the driver asks them in an order of its own.
    let sound = crate::common::hosts(&url).to_owned();
    let url = url.replace(&sound, &format!("127.0.0.1:{port},{sound},{sound}"));
    let store = open(&url).await;
    granted(store.claim(&claim(&line("a"))).await.unwrap());
    assert!(store.server_version().is_some());
}

/// A server that is killed and started again keeps sessions, and with them all that is held.
#[tokio::test]
async fn a_restart_loses_nothing_that_is_held() {
    let Some(mut server) = server() else { return };
    let url = server.fresh();
    let coordinator = coord_zk::connect(&url).await.unwrap();
    let guard = coordinator.acquire(&name("a"), &LockOptions::default().with_ttl(LONG)).await.unwrap();
    let waiting = {
        let coordinator = coordinator.clone();
        tokio::spawn(
            async move { coordinator.acquire(&name("a"), &LockOptions::default().with_ttl(LONG)).await },
        )
    };
    let store = open(&url).await;
    until("a waiter", async || ids(&store, &line("a")).await.len() == 2).await;
    server.kill().unwrap();
    let error = store.line(&line("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    server.restart().unwrap();
    until("an answer", async || store.line(&line("a")).await.is_ok()).await;
    assert!(guard.is_held());
    guard.extend(LONG).await.unwrap();
    let token = guard.token();
    guard.release().await.unwrap();
    // The watch on who stands ahead outlives the connection.
    let next = tokio::time::timeout(Duration::from_secs(8), waiting).await.expect("a hint").unwrap().unwrap();
    assert!(next.token() > token);
    next.release().await.unwrap();
    coordinator.shutdown().await.unwrap();
}

/// A holder that is cut off turns lost before somebody else holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_is_lost_before_the_next_one_holds() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let ttl = Duration::from_secs(2);
    let options = LockOptions::default().with_ttl(ttl);
    let cut_off = coord_zk::connect(proxy.url()).await.unwrap();
    let other = coord_zk::connect(&url).await.unwrap();
    for how in [
        |proxy: &Proxy| proxy.freeze(Way::Both),
        |proxy: &Proxy| proxy.freeze(Way::ToClient),
        |proxy: &Proxy| proxy.blackhole(Way::Both),
        |proxy: &Proxy| proxy.blackhole(Way::ToServer),
        |proxy: &Proxy| proxy.shorten(Duration::ZERO),
    ] {
        let guard = cut_off.acquire(&name("a"), &options).await.unwrap();
        let next = {
            let (other, options) = (other.clone(), options.clone());
            tokio::spawn(async move { (other.acquire(&name("a"), &options).await.unwrap(), now()) })
        };
        tokio::time::sleep(ttl).await;
        assert!(guard.is_held(), "it is renewed");
        let before = now();
        how(&proxy);
        guard.lost().await;
        let lost = now();
        assert!(!guard.is_held());
        let (next, held) =
            tokio::time::timeout(Duration::from_secs(20), next).await.expect("the next").unwrap();
        assert!(lost < held, "it was lost {:?} after the other held", lost.since(held));
        assert!(next.token() > guard.token());
        // The session's length, a tick of the server, and what a busy machine takes.
        assert!(held.since(before) < ttl * 3, "the next one held {:?} later", held.since(before));
        proxy.heal();
        next.release().await.unwrap();
        drop(guard);
        until("a session", async || cut_off.try_acquire(&name("b"), &options).await.is_ok()).await;
    }
}

/// Whose session ended by its own word is not in its own lists any more, though the server, which was started again meanwhile,
/// keeps that session for another while, and shows it to others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_over_does_not_come_back_in_its_own_list() {
    let Some(mut server) = server() else { return };
    let url = server.fresh();
    let (store, line, ttl) = (open(&url).await, line("a"), Duration::from_secs(10));
    let member = granted(store.claim(&Claim { ttl, ..claim(&line) }).await.unwrap());
    assert_eq!(ids(&store, &line).await, [member.id]);
    server.kill().unwrap();
    // Long enough for the driver to give the session up.
    tokio::time::sleep(ttl + Duration::from_secs(4)).await;
    server.restart().unwrap();
    let other = open(&url).await;
    let (mut shown, mut gone) = (0, false);
    while !gone {
        // The own list first: what the other one shows after it was there in that moment.
        let own = store.line(&line).await.map(|line| line.entries);
        let others = ids(&other, &line).await;
        gone = others.is_empty();
        if let (Ok(own), false) = (own, gone) {
            shown += 1;
            assert!(own.is_empty(), "it is over, and is in its own list the {shown}. time: {own:?}");
        }
    }
    assert!(shown > 0, "the server did not keep the session");
}

/// A claim whose answer was lost is found again, and not made twice.
#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_found_again() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&format!("{}?timeout=1", proxy.url())).await;
    let (line, other) = (line("a"), open(&url).await);
    // So that the folder is there.
    let first = granted(other.claim(&claim(&line)).await.unwrap());
    let lost = claim(&line);
    granted(store.claim(&claim(&crate::common::line("b"))).await.unwrap());
    proxy.freeze(Way::ToClient);
    let error = store.claim(&lost).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
    assert_eq!(ids(&other, &line).await, [first.id, lost.id], "it did arrive");
    proxy.heal();
    let mut standing = store.claim(&lost).await;
    while standing.is_err() {
        standing = store.claim(&lost).await;
    }
    assert_eq!(waiting(standing.unwrap()), 1);
    assert_eq!(nodes(&url, "a").await.len(), 2);
    other.withdraw(&line, first.id).await.unwrap();
    let grant = granted(store.claim(&lost).await.unwrap());
    assert!(grant.token > first.token);
    store.withdraw(&line, grant.id).await.unwrap();
    assert_eq!(nodes(&url, "a").await, Vec::<String>::new());
}

/// A call that nobody polls while it opens a session keeps no other from that session.
#[tokio::test]
async fn who_is_not_polled_is_in_nobodys_way() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&proxy.url()).await;
    let (parked, other) = (claim(&line("a")), claim(&line("b")));
    proxy.shorten(Duration::ZERO);
    let mut parked = store.claim(&parked);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut parked).await.is_err());
    proxy.heal();
    granted(store.claim(&other).await.unwrap());
    drop(parked);
}

/// A look that fails behind the creation of a claim leaves it in the line, and is said to.
#[tokio::test]
async fn a_claim_that_was_made_and_not_looked_at_may_be_there() {
    let Some(server) = crate::stores::shared() else { return };
    let (place, proxy) = (server.fresh(), crate::stores::proxy(server));
    let (store, other) = (open(&proxy.url_of(&place)).await, open(&place).await);
    let line = line("a");
    let first = granted(other.claim(&claim(&line)).await.unwrap());
    granted(store.claim(&claim(&crate::common::line("b"))).await.unwrap());
    // The listing, or the watch on who stands ahead.
    for kind in ["getChildren2", "exists"] {
        let lost = claim(&line);
        proxy.lose(Loss::reply(1).of(kind));
        let error = store.claim(&lost).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, Effect::Unknown), "{error}");
        assert_eq!(ids(&other, &line).await, [first.id, lost.id]);
        // It keeps its place.
        assert_eq!(waiting(store.claim(&lost).await.unwrap()), 1);
        store.withdraw(&line, lost.id).await.unwrap();
        assert_eq!(ids(&other, &line).await, [first.id]);
    }
}

/// A node says its token wherever it is changed, as another one may take its place meanwhile.
#[tokio::test]
async fn a_value_keeps_the_token() {
    let Some(url) = place() else { return };
    let (store, raw, line) = (open(&url).await, raw(&url).await, line("a"));
    let grant = granted(store.claim(&claim(&line)).await.unwrap());
    assert_eq!(store.set_value(&grant, b"other").await.unwrap(), Renewal::StillHeld);
    let node = format!("{}/coord/default/lock/a/{}", root(&url), nodes(&url, "a").await[0]);
    let data = String::from_utf8(raw.get_data(&node).await.unwrap().0).unwrap();
    assert_eq!(data.split(' ').nth(5), Some(grant.token.to_string().as_str()), "{data}");
}

/// A withdrawal takes out a claim that arrives after it was given up.
#[tokio::test]
async fn a_withdrawal_finds_a_claim_that_was_still_under_way() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&format!("{}?timeout=1", proxy.url())).await;
    let (line, other) = (line("a"), open(&url).await);
    let first = granted(other.claim(&claim(&line)).await.unwrap());
    granted(store.claim(&claim(&crate::common::line("b"))).await.unwrap());
    // Neither the claim nor its withdrawal arrives now.
    proxy.freeze(Way::Both);
    let late = claim(&line);
    store.claim(&late).await.unwrap_err();
    store.withdraw(&line, late.id).await.unwrap_err();
    proxy.heal();
    // Nobody asks again: it is taken out by what was sent, or by the sweep.
    tokio::time::sleep(Duration::from_millis(200)).await;
    until("the first alone", async || ids(&other, &line).await == [first.id]).await;
    store.withdraw(&line, late.id).await.unwrap();
    assert_eq!(nodes(&url, "a").await.len(), 1);
}

/// A lease that nobody renews ends although its session lives.
#[tokio::test]
async fn what_is_not_renewed_ends_although_the_session_lives() {
    let Some(url) = place() else { return };
    let (store, other) = (open(&url).await, open(&url).await);
    let line = line("a");
    let short = Claim { ttl: Duration::from_secs(1), ..claim(&line) };
    let start = now();
    let grant = granted(store.claim(&short).await.unwrap());
    // It keeps the session.
    let kept = Claim { ttl: Duration::from_secs(1), ..claim(&crate::common::line("b")) };
    granted(store.claim(&kept).await.unwrap());
    until("the end of the lease", async || nodes(&url, "a").await.is_empty()).await;
    assert!(now().since(start) >= short.ttl, "it ended after {:?}", now().since(start));
    assert_eq!(store.renew(&[grant]).await.unwrap(), [Renewal::Lost]);
    let next = granted(other.claim(&claim(&line)).await.unwrap());
    assert_eq!(ids(&store, &line).await, [next.id]);
}

/// Somebody removes the folder with all that is in it.
#[tokio::test]
async fn what_is_removed_under_us_is_lost_and_made_again() {
    let Some(url) = place() else { return };
    let (store, raw) = (open(&url).await, raw(&url).await);
    let line = line("a");
    let (held, waits) = (claim(&line), claim(&line));
    let first = granted(store.claim(&held).await.unwrap());
    waiting(store.claim(&waits).await.unwrap());
    let folder = format!("{}/coord/default/lock/a", root(&url));
    for child in raw.list_children(&folder).await.unwrap() {
        raw.delete(&format!("{folder}/{child}"), None).await.unwrap();
    }
    for part in [folder.as_str(), &folder[..folder.len() - 2]] {
        // The server may remove it first: it is empty.
        let _ = raw.delete(part, None).await;
    }
    assert_eq!(store.renew(std::slice::from_ref(&first)).await.unwrap(), [Renewal::Lost]);
    let second = granted(store.claim(&waits).await.unwrap());
    assert!(second.token > first.token, "the numbers begin again, the tokens do not");
    assert_eq!(ids(&store, &line).await, [waits.id]);
}

/// Nodes are for the identity that made them, and everybody else is told so.
#[tokio::test]
async fn another_identity_is_refused() {
    let Some(url) = place() else { return };
    let with = |user: &str| url.replace("zk://", &format!("zk://{user}@"));
    let owner = open(&with("me:secret")).await;
    let held = granted(owner.claim(&claim(&line("a"))).await.unwrap());
    for user in ["me:wrong", "you:secret"] {
        let store = open(&with(user)).await;
        let error = store.claim(&claim(&line("a"))).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Permission, Effect::None), "{user}: {error}");
        assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        assert_eq!(store.line(&line("a")).await.unwrap_err().kind(), ErrorKind::Permission);
        assert_eq!(store.withdraw(&line("a"), held.id).await.unwrap_err().kind(), ErrorKind::Permission);
    }
    let same = open(&with("me:secret")).await;
    assert_eq!(ids(&same, &line("a")).await, [held.id]);
    assert_eq!(owner.renew(&[held]).await.unwrap(), [Renewal::Renewed]);
}

/// What the server would drop the connection for is not sent.
#[tokio::test]
async fn a_request_that_is_too_large_is_not_sent() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&format!("{}?packet=4000", proxy.url())).await;
    let line = line("a");
    let held = granted(store.claim(&claim(&line)).await.unwrap());
    settled(&proxy).await;
    let large = Claim { value: vec![7; 5000], ..claim(&line) };
    let error = store.claim(&large).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    let counts = settled(&proxy).await;
    assert!(!counts.requests.contains_key("create"), "{counts:?}");
    let error = store.set_value(&held, &[7; 5000]).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::TooLarge, Effect::None), "{error}");
    assert_eq!(ids(&store, &line).await, [held.id]);
    // Smaller ones arrive in parts where that is possible.
    let lines: Vec<_> = (0..60).map(|number| crate::common::line(&format!("lock {number}"))).collect();
    let mut grants = Vec::new();
    for line in &lines {
        grants.push(granted(store.claim(&claim(line)).await.unwrap()));
    }
    assert_eq!(store.renew(&grants).await.unwrap(), vec![Renewal::Renewed; 60]);
    let crowd: Vec<_> = (0..60).map(|_| claim(&line)).collect();
    for claim in &crowd {
        waiting(store.claim(claim).await.unwrap());
    }
    assert_eq!(ids(&store, &line).await.len(), 61);
}

/// A client of a server that is away neither spins nor fills logs.
#[tokio::test]
async fn a_server_that_is_away_costs_little() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let loud = Arc::new(AtomicU64::new(0));
    let _listening = tracing::subscriber::set_default(Loud(Arc::clone(&loud)));
    let store = open(&format!("{}?timeout=1", proxy.url())).await;
    let held = granted(store.claim(&claim(&line("a"))).await.unwrap());
    let mut news = store.wakeups(&line("a"), None);
    crate::common::hint(&mut news).await;
    let tried = proxy.counts().connections;
    // Each connection is taken, so that it is counted, and ends at once.
    proxy.shorten(Duration::ZERO);
    let listening = tokio::time::timeout(Duration::from_secs(5), news.next()).await;
    assert!(listening.is_err(), "there is no news of a server that is away");
    let (tries, lines) = (proxy.counts().connections - tried, loud.load(Ordering::Relaxed));
    // Two sessions; each tries again after a tenth of a second and then ever more seldom.
    assert!(tries <= 100, "{tries} tries to connect in five seconds");
    assert!(lines <= 200, "{lines} lines in the log in five seconds");
    proxy.heal();
    until("an answer", async || store.line(&line("a")).await.is_ok()).await;
    assert_eq!(store.renew(std::slice::from_ref(&held)).await.unwrap(), [Renewal::Renewed]);
    store.set_value(&held, b"news").await.unwrap();
    crate::common::hint(&mut news).await;
}

/// Counts what a log shows where nobody asked for more: information, warnings and errors.
struct Loud(Arc<AtomicU64>);

impl tracing::Subscriber for Loud {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Revisions of a line never fall, and equal ones mean the same content, also when the folder is gone.
#[tokio::test]
async fn revisions_grow_with_every_change() {
    let Some(url) = place() else { return };
    let store = open(&url).await;
    let line = line("a");
    let mut last = Line::default();
    let mut seen = async |changed: bool| {
        let now = store.line(&line).await.unwrap();
        assert!(now.revision >= last.revision, "{} came after {}", now.revision, last.revision);
        if changed {
            assert!(now.revision > last.revision, "{now:?} came after {last:?}");
        }
        last = now;
    };
    seen(false).await;
    for _ in 0..3 {
        let grant = granted(store.claim(&claim(&line)).await.unwrap());
        seen(true).await;
        store.set_value(&grant, b"other").await.unwrap();
        seen(true).await;
        let next = claim(&line);
        waiting(store.claim(&next).await.unwrap());
        seen(true).await;
        for id in [grant.id, next.id] {
            store.withdraw(&line, id).await.unwrap();
            seen(true).await;
        }
        let raw = raw(&url).await;
        let folder = format!("{}/coord/default/lock/a", root(&url));
        until("no folder", async || raw.check_stat(&folder).await.unwrap().is_none()).await;
        seen(false).await;
    }
}
