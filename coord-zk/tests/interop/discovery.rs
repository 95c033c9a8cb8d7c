//! Services that are shared with Curator's service discovery.

use std::{collections::BTreeMap, time::Duration};

use coord_core::{Coordinator, Instance, Member, RegisterOptions, Registry, RegistryEvent, Watch};
use tokio::sync::OnceCell;

use super::{Library, java, with};
use crate::common::{LONG, name, place, until};

const SERVICE: &str = "services/shop";

async fn discovery() -> Option<Library> {
    static MADE: OnceCell<Option<Library>> = OnceCell::const_new();
    MADE.get_or_init(async || java("Discovery", &["recipes", "x-discovery"]).await).await.clone()
}

/// What Curator's `queryForInstances` says.
async fn listed(curator: &Library, url: &str, payload: &str) -> String {
    curator.start(url, SERVICE, payload, &["list"]).says().await
}

fn options() -> RegisterOptions {
    RegisterOptions::default().with_ttl(LONG)
}

async fn instances(client: &Coordinator) -> Vec<Instance> {
    client.instances(&name(SERVICE)).await.unwrap().into_iter().map(|member| member.instance).collect()
}

/// The next event, which must come.
async fn event(watch: &mut Watch<RegistryEvent>) -> RegistryEvent {
    let event = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    event.expect("an event").unwrap().unwrap()
}

/// What Curator finds of ours, by all of its ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curator_discovers_us() {
    let Some(curator) = discovery().await else { return };
    for layout in ["curator", "interop"] {
        let Some(url) = place() else { return };
        let client = coord_zk::connect(with(&url, layout)).await.unwrap();
        let instance = Instance::new("a-1", "10.0.0.7:8080");
        let first = client.register(&name(SERVICE), instance.clone(), &options()).await.unwrap();
        // Without metadata, whatever class of payloads is expected.
        let bare = "[shop a-1 10.0.0.7 8080 null null on]";
        for payload in ["", "java.lang.String", "java.util.Map", "Discovery$Details"] {
            assert_eq!(listed(&curator, &url, payload).await, bare);
        }
        let mut follower = curator.start(&url, SERVICE, "", &["follow"]);
        assert_eq!(follower.says().await, bare);
        // It comes, changes and goes.
        let second = Instance::new("b 2", "[2001:db8::1]:80").with_metadata("sslPort", "443").with_weight(0);
        let second = client.register(&name(SERVICE), second, &options()).await.unwrap();
        let other = "shop b 2 2001:db8::1 80 443 null off";
        follower.until(&format!("[shop a-1 10.0.0.7 8080 null null on, {other}]")).await;
        first.update(instance.clone().with_metadata("zone", "b")).await.unwrap();
        follower.until(&format!("[shop a-1 10.0.0.7 8080 null {{zone=b}} on, {other}]")).await;
        // A provider gives out none that is switched off.
        follower.go_on().await;
        assert_eq!(follower.says().await, "provider [shop a-1 10.0.0.7 8080 null {zone=b} on]");
        assert_eq!(follower.says().await, "one a-1");
        assert!(listed(&curator, &url, "java.util.Map").await.contains("{zone=b}"));
        second.deregister().await.unwrap();
        first.update(Instance::new("a-1", "shop.example").with_metadata("payload", "a text")).await.unwrap();
        let text = listed(&curator, &url, "java.lang.String").await;
        assert_eq!(text, "[shop a-1 shop.example null null a text on]");
        let details = Instance::new("a-1", "h:1")
            .with_metadata("@class", "Discovery$Details")
            .with_metadata("weight", "7");
        first.update(details).await.unwrap();
        assert!(listed(&curator, &url, "Discovery$Details").await.contains("Discovery$Details@"));
        first.deregister().await.unwrap();
        assert_eq!(listed(&curator, &url, "").await, "[]");
        client.shutdown().await.unwrap();
    }
}

/// What we find of Curator's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn we_discover_curator() {
    let Some(curator) = discovery().await else { return };
    for layout in ["curator", "interop"] {
        let Some(url) = place() else { return };
        let client = coord_zk::connect(with(&url, layout)).await.unwrap();
        let mut watch = client.watch_instances(&name(SERVICE));
        assert_eq!(event(&mut watch).await, RegistryEvent::Snapshot(Vec::new()));
        let register = |id, port, payload| {
            curator.start(&url, SERVICE, "", &["register", id, "10.0.0.7", port, payload])
        };
        let mut one = register("one", "8080", "details");
        assert_eq!(one.says().await, "registered");
        let expected = Instance::new("one", "10.0.0.7:8080")
            .with_metadata("@class", "Discovery$Details")
            .with_metadata("zone", "b")
            .with_metadata("weight", "3");
        let RegistryEvent::Joined(joined) = event(&mut watch).await else { panic!("it did not join") };
        assert_eq!(joined.instance, expected);
        let own = client.register(&name(SERVICE), Instance::new("own", "h:1"), &options()).await.unwrap();
        let RegistryEvent::Joined(ours) = event(&mut watch).await else { panic!("ours did not join") };
        assert_eq!((ours.instance.id.as_str(), ours.token), ("own", own.token()));
        assert!(ours.token > joined.token);
        // It changes its address without leaving.
        one.go_on().await;
        assert_eq!(one.says().await, "updated");
        let RegistryEvent::Updated(updated) = event(&mut watch).await else { panic!("it did not change") };
        assert_eq!((updated.instance.address.as_str(), updated.token), ("10.9.9.9:8080", joined.token));
        let mut others =
            [register("map", "80", "map"), register("text", "ssl", "a text"), register("none", "1", "")];
        for other in &mut others {
            assert_eq!(other.says().await, "registered");
        }
        let metadata: BTreeMap<_, _> =
            instances(&client).await.into_iter().map(|instance| (instance.id, instance.metadata)).collect();
        let pairs = |id: &str| -> Vec<_> {
            metadata[id].iter().map(|(key, text)| (key.as_str(), text.as_str())).collect()
        };
        assert_eq!(pairs("map"), [("@class", "java.util.TreeMap"), ("weight", "3"), ("zone", "b")]);
        assert_eq!(pairs("text"), [("payload", "a text"), ("sslPort", "443")]);
        assert_eq!((pairs("none"), pairs("own")), (vec![], vec![]));
        assert_eq!(metadata.len(), 5);
        // It leaves, and one is killed.
        one.go_on().await;
        assert_eq!(one.says().await, "gone");
        loop {
            if let RegistryEvent::Left(member) = event(&mut watch).await {
                assert_eq!(member.instance.id, "one");
                break;
            }
        }
        drop(others);
        until("all of Curator's leave", async || instances(&client).await == [Instance::new("own", "h:1")])
            .await;
        own.deregister().await.unwrap();
    }
}

/// Of two registrations of one id the later one counts, whoever made it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_registration_of_an_id_counts() {
    let Some(curator) = discovery().await else { return };
    let Some(url) = place() else { return };
    let client = coord_zk::connect(with(&url, "curator")).await.unwrap();
    let mut theirs = curator.start(&url, SERVICE, "", &["register", "x", "10.0.0.1", "1", ""]);
    assert_eq!(theirs.says().await, "registered");
    let ours = client.register(&name(SERVICE), Instance::new("x", "10.0.0.2:2"), &options()).await.unwrap();
    assert_eq!(instances(&client).await, [Instance::new("x", "10.0.0.2:2")]);
    assert_eq!(listed(&curator, &url, "").await, "[shop x 10.0.0.2 2 null null on]");
    let mut again = curator.start(&url, SERVICE, "", &["register", "x", "10.0.0.3", "3", ""]);
    assert_eq!(again.says().await, "registered");
    let members: Vec<Member> = client.instances(&name(SERVICE)).await.unwrap();
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].instance, Instance::new("x", "10.0.0.3:3"));
    assert!(members[0].token > ours.token());
    // Ours leaves, and does not take theirs along.
    ours.deregister().await.unwrap();
    assert_eq!(listed(&curator, &url, "").await, "[shop x 10.0.0.3 3 null null on]");
}
