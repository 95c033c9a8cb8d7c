//! Services in the layouts that Curator shares, as we keep them: two nodes for each registration.

use coord_core::{
    ErrorKind, Instance, RegisterOptions, Registry,
    spi::{Claim, ClaimId, Claims, Grant, Kind, LineId, Renewal},
};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use super::with;
use crate::common::{LONG, claim, granted, hint, line, name, open, place, proxy, raw, root, settled, until};

const SERVICE: &str = "services/shop";

fn service() -> LineId {
    LineId { kind: Kind::Registry, ..line(SERVICE) }
}

/// A claim of a registration.
fn registration(id: &str, address: &str) -> Claim {
    let value = format!(r#"{{"address":"{address}","weight":1}}"#).into_bytes();
    Claim { weight: 0, limit: 0, wait: false, owner: id.into(), value, ..claim(&service()) }
}

/// What Curator sees of an instance.
async fn face(raw: &Client, url: &str, id: &str) -> Option<String> {
    match raw.get_data(&format!("{}/{SERVICE}/{id}", root(url))).await {
        Ok((data, _)) => Some(String::from_utf8(data).unwrap()),
        Err(Error::NoNode) => None,
        Err(error) => panic!("{error}"),
    }
}

async fn shows(raw: &Client, url: &str, id: &str, address: &str) -> bool {
    face(raw, url, id).await.is_some_and(|face| face.contains(&format!(r#""address":"{address}""#)))
}

async fn renewed(store: &coord_zk::Store, grant: &Grant) -> Renewal {
    store.renew(std::slice::from_ref(grant)).await.unwrap()[0]
}

/// The earlier of two registrations of one id stays behind the later one, takes nothing of it along, and is to register anew when
/// nobody is seen any more.
#[tokio::test]
async fn of_two_registrations_the_later_one_is_seen() {
    for layout in ["curator", "interop"] {
        let Some(url) = place() else { return };
        let (raw, url) = (raw(&url).await, with(&url, layout));
        let [one, two] = [open(&url).await, open(&url).await];
        let (early, late) = (registration("x", "early"), registration("x", "late"));
        let first = granted(one.claim(&early).await.unwrap());
        assert!(shows(&raw, &url, "x", "early").await);
        let path = format!("{}/{SERVICE}/x", root(&url));
        let version = async || raw.check_stat(&path).await.unwrap().unwrap().version;
        assert_eq!(version().await, 1);
        let second = granted(two.claim(&late).await.unwrap());
        assert!(second.token > first.token && shows(&raw, &url, "x", "late").await);
        assert_eq!(version().await, 2, "who still takes it for its own could remove it");
        let entries = two.line(&service()).await.unwrap().entries;
        let ids: Vec<_> = entries.iter().map(|entry| (entry.id, entry.token)).collect();
        assert_eq!(ids, [(first.id, first.token), (second.id, second.token)]);
        // What the earlier one does is seen by nobody else than those who see its claim.
        let value = br#"{"address":"changed","weight":1}"#;
        assert_eq!(one.set_value(&first, value).await.unwrap(), Renewal::StillHeld);
        assert_eq!(two.line(&service()).await.unwrap().entries[0].value, value);
        assert!(shows(&raw, &url, "x", "late").await);
        assert_eq!(renewed(&one, &first).await, Renewal::Renewed);
        // A third one, and the first leaves.
        let third = granted(one.claim(&registration("x", "third")).await.unwrap());
        assert_eq!(version().await, 1);
        one.withdraw(&service(), first.id).await.unwrap();
        assert!(shows(&raw, &url, "x", "third").await);
        assert_eq!(renewed(&two, &second).await, Renewal::Renewed);
        two.withdraw(&service(), third.id).await.unwrap();
        assert_eq!(face(&raw, &url, "x").await, None, "another client's was not removed as a whole");
        // Nobody sees the second one any more.
        let mut hints = two.wakeups(&service(), Some(second.id));
        assert_eq!(renewed(&two, &second).await, Renewal::Lost);
        hint(&mut hints).await;
        assert!(one.line(&service()).await.unwrap().entries.is_empty());
    }
}

/// Whatever Curator removes or replaces comes back when nobody else is there.
#[tokio::test]
async fn an_instance_that_is_removed_by_others_registers_anew() {
    let Some(url) = place() else { return };
    let (raw, url) = (raw(&url).await, with(&url, "curator"));
    let client = coord_zk::connect(&url).await.unwrap();
    let options = RegisterOptions::default().with_ttl(std::time::Duration::from_secs(4));
    let registration = client.register(&name(SERVICE), Instance::new("x", "h:1"), &options).await.unwrap();
    let token = registration.token();
    let path = format!("{}/{SERVICE}/x", root(&url));
    raw.delete(&path, None).await.unwrap();
    until("it is there again", async || face(&raw, &url, "x").await.is_some()).await;
    until("it is listed again", async || registration.is_listed() && registration.token() > token).await;
    let members = client.instances(&name(SERVICE)).await.unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].token, registration.token());
    registration.deregister().await.unwrap();
    assert_eq!(face(&raw, &url, "x").await, None);
}

/// Both nodes go over to a longer session together.
#[tokio::test]
async fn a_longer_lease_takes_both_nodes_along() {
    let Some(url) = place() else { return };
    let (raw, url) = (raw(&url).await, with(&url, "interop"));
    let [store, other] = [open(&url).await, open(&url).await];
    let short = Claim { ttl: LONG / 3, ..registration("x", "h") };
    let masked = granted(other.claim(&short).await.unwrap());
    let grant = granted(store.claim(&Claim { id: ClaimId::random(), ..short }).await.unwrap());
    let path = format!("{}/{SERVICE}/x", root(&url));
    let owner = raw.check_stat(&path).await.unwrap().unwrap().ephemeral_owner;
    let longer = |grant: &Grant| Grant { ttl: LONG, ..grant.clone() };
    assert_eq!(renewed(&other, &longer(&masked)).await, Renewal::Renewed);
    assert_eq!(raw.check_stat(&path).await.unwrap().unwrap().ephemeral_owner, owner);
    assert_eq!(renewed(&store, &longer(&grant)).await, Renewal::Renewed);
    assert_ne!(raw.check_stat(&path).await.unwrap().unwrap().ephemeral_owner, owner);
    assert!(shows(&raw, &url, "x", "h").await);
    let entries = other.line(&service()).await.unwrap().entries;
    let tokens: Vec<_> = entries.iter().map(|entry| entry.token).collect();
    assert_eq!(tokens, [masked.token, grant.token], "one of them was taken for Curator's");
    assert_eq!(renewed(&store, &longer(&grant)).await, Renewal::Renewed);
    store.withdraw(&service(), grant.id).await.unwrap();
    assert_eq!(face(&raw, &url, "x").await, None);
}

/// What Curator could not find is refused before anything is sent.
#[tokio::test]
async fn what_is_no_name_of_a_node_is_refused() {
    let Some(url) = place() else { return };
    let proxy = proxy(&url);
    let store = open(&with(&proxy.url(), "curator")).await;
    settled(&proxy).await;
    for id in ["a/b", ".", "..", "🦀", "\u{e000}"] {
        let error = store.claim(&registration(id, "h")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidName, "{id}: {error}");
    }
    let error = store.claim(&Claim { value: b"text".to_vec(), ..registration("a", "h") }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidValue, "{error}");
    let error = store.claim(&Claim { weight: 1, limit: 1, ..registration("a", "h") }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let elsewhere = LineId { kind: Kind::Registry, ..line("shop//a") };
    let error = store.claim(&Claim { line: elsewhere, ..registration("a", "h") }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
    assert_eq!(settled(&proxy).await.total(), 0);
    // A place that is taken by what is no instance.
    let everyone = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let taken = format!("{}/{SERVICE}/a/b", root(&url));
    raw(&url).await.mkdir(&taken, &everyone).await.unwrap();
    let error = store.claim(&registration("a", "h")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidName, "{error}");
    assert!(store.line(&service()).await.unwrap().entries.is_empty());
}

/// Many are read by few requests, and what is no instance is in nobody's way.
#[tokio::test]
async fn a_thousand_instances_are_read_by_few_requests() {
    const MANY: usize = 1000;
    let Some(url) = place() else { return };
    let raw = raw(&url).await;
    let folder = format!("{}/{SERVICE}", root(&url));
    let everyone = CreateMode::Persistent.with_acls(Acls::anyone_all());
    raw.mkdir(&folder, &everyone).await.unwrap();
    let theirs = (0..MANY)
        .map(|at| (format!("{folder}/{at}"), format!(r#"{{"id":"{at}","address":"h","port":{at}}}"#)));
    let others = [("empty", ""), ("text", "10.0.0.1"), ("other", r#"{"name":"other"}"#)];
    let others = others.map(|(name, data)| (format!("{folder}/{name}"), data.to_owned()));
    let nodes: Vec<_> = theirs.chain(others).collect();
    let made = nodes.iter().map(|(path, data)| raw.create(path, data.as_bytes(), &everyone));
    futures_util::future::try_join_all(made).await.unwrap();
    let proxy = proxy(&url);
    let client = coord_zk::connect(with(&proxy.url(), "curator")).await.unwrap();
    let own = Instance::new("own", "h:1");
    let registration = client.register(&name(SERVICE), own, &RegisterOptions::default()).await.unwrap();
    settled(&proxy).await;
    let members = client.instances(&name(SERVICE)).await.unwrap();
    let counts = settled(&proxy).await;
    assert_eq!(members.len(), MANY + 1);
    assert_eq!(members.iter().find(|member| member.instance.id == "77").unwrap().instance.address, "h:77");
    assert!(members.iter().any(|member| member.token == registration.token()));
    assert!(counts.total() < 12, "{counts:?}");
}
