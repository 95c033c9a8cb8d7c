//! What is told of a cluster.

use coord_conformance::servers::{EtcdCluster, EtcdOptions, found};
use coord_core::{ErrorKind, Report};
use coord_etcd::Store;

use crate::common::{open, server, server_with};

/// The weaknesses but for a defect of the version at hand, which is not what these tests are about.
fn weak(report: &Report) -> Vec<&'static str> {
    let settings = report.weaknesses.iter().map(|weakness| weakness.setting);
    settings.filter(|setting| *setting != "version").collect()
}

#[tokio::test]
async fn a_single_member_is_named_as_a_weakness() {
    let Some(server) = server() else { return };
    let store = open(&server).await;
    let report = store.report().await.unwrap();
    assert_eq!(report.fact("server"), Some("etcd"));
    assert_eq!((report.fact("members"), report.fact("reachable")), (Some("1"), Some("1 of 1")));
    assert_eq!((report.fact("alarms"), report.fact("leader")), (Some("none"), Some("n0")));
    assert!(report.fact("version").is_some_and(|version| version.starts_with('3')), "{report:?}");
    assert_eq!(weak(&report), ["members"]);
    assert_eq!(store.weaknesses(), report.weaknesses);
    let refused = Store::open(format!("{}?strict=true", server.url())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
    assert!(refused.to_string().contains("members is 1"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_are_away_are_told() {
    let Some(cluster) = found(EtcdCluster::start(&EtcdOptions::default())) else { return };
    let store = Store::open(format!("{}?strict=true&accept=version", cluster.url())).await.unwrap();
    assert_eq!(weak(&store.report().await.unwrap()), [""; 0]);
    // The version of the servers at hand may have a defect; then it takes that word to be let in.
    let defective = store.weaknesses().iter().any(|weakness| weakness.setting == "version");
    match Store::open(format!("{}?strict=true", cluster.url())).await {
        Ok(_) => assert!(!defective),
        Err(refused) => assert!(defective && refused.to_string().contains("version is"), "{refused}"),
    }
    let lone = Store::open(cluster.members()[0].url()).await.unwrap();
    assert_eq!(weak(&lone.report().await.unwrap()), ["endpoints"]);
    let away = (cluster.leader().unwrap() + 1) % 3;
    cluster.kill(away).unwrap();
    let report = store.report().await.unwrap();
    assert_eq!((report.fact("members"), report.fact("reachable")), (Some("3"), Some("2 of 3")));
    assert_eq!(weak(&report), ["reachable"]);
}

/// A user with rights on our keys alone can see what is needed.
#[tokio::test]
async fn an_ordinary_user_may_ask() {
    let Some(server) = server_with(&EtcdOptions::default().with_user("app", "hunter2", &["coord/"])) else {
        return;
    };
    let store = Store::open(server.url_as("app", "hunter2")).await.unwrap();
    let report = store.report().await.unwrap();
    assert!(!format!("{report:?}").contains("hunter2"), "{report:?}");
    assert_eq!(report.fact("members"), Some("1"));
}
