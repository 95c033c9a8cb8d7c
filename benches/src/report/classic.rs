//! The table that one finds everywhere, with figures and cases instead of adjectives.

use super::{
    Measure, Report,
    table::{amount, length, table, times},
};
use crate::backend::Backend;

/// In the order of the columns.
const COLUMNS: [Backend; 5] =
    [Backend::Redis, Backend::ZooKeeper, Backend::Etcd, Backend::Postgres, Backend::Sqlite];

const CONSENSUS: [&str; 5] = [
    "none: one primary, whose replicas copy it after it has answered",
    "Zab: a majority has each change before it is answered",
    "Raft: a majority has each change before it is answered",
    "none: one primary; standbys copy it",
    "none: one file of one host",
];

const DATA_MODEL: [&str; 5] = [
    "hashes and sorted sets, changed by Lua scripts",
    "a tree of nodes with versions, changed by `multi` with checks",
    "keys with revisions, changed by transactions with conditions",
    "rows, changed by functions in the database",
    "rows in a file",
];

const WATCHES: [&str; 5] = [
    "pub/sub, a channel for each client",
    "one-shot watches of single nodes",
    "watches of prefixes, on one stream for each client",
    "`NOTIFY`, a channel for each client",
    "pipes between processes",
];

const EPHEMERAL: [&str; 5] = [
    "fields with a lease, judged by the server's wall clock",
    "nodes of a session, judged by the leader's clock",
    "keys on a lease, judged by the leader's clock",
    "rows with a lease, judged by the server's wall clock",
    "rows with a lease, judged by a clock that cannot be set",
];

/// What is linearizable in which setting, and the cases that show it. Those of the suite run on one server each, and on etcd and
/// ZooKeeper on clusters of three too.
const CONSISTENCY: [&str; 5] = [
    "linearizable on one server: [`lock::is_exclusive`](../../coord-conformance/src/cases/lock.rs), \
     [`config::random_work_under_faults`](../../coord-conformance/src/cases/config_troubles.rs); a failover to a replica loses \
     what that lacked, and tokens still grow: \
     [`tokens_and_versions_grow_over_a_failover_that_lost_them`](../../coord-redis/tests/failover.rs)",
    "linearizable, as reads follow a `sync`, but for [two moments](../guarantees.md#side-by-side) in an ensemble; of three servers, with the leader cut off: \
     [`who_holds_at_a_leader_that_is_cut_off_is_lost_before_the_majority_grants`](../../coord-zk/tests/cluster/partition.rs), \
     [`a_minority_elects_nobody`](../../coord-zk/tests/cluster.rs)",
    "linearizable; of three members, with the leader cut off: \
     [`who_holds_at_a_leader_that_is_cut_off_is_lost_before_the_majority_grants`](../../coord-etcd/tests/cluster/partition.rs), \
     [`a_minority_elects_nobody`](../../coord-etcd/tests/cluster.rs)",
    "linearizable on the primary: [`lock::is_exclusive`](../../coord-conformance/src/cases/lock.rs); a standby is refused: \
     [`a_standby_is_refused_and_grants_nothing`](../../coord-sql/tests/postgres_standby.rs)",
    "linearizable: [`processes::many_processes_count_without_loss`](../../coord-conformance/src/cases/processes.rs), \
     [`config::random_work_under_faults`](../../coord-conformance/src/cases/config_troubles.rs)",
];

const BEST_FOR: [&str; 5] = [
    "many short locks, where the fence catches a rare double grant",
    "leaders and settings that must survive the loss of a server, shared with Curator or kazoo",
    "leaders and settings that must survive the loss of a server",
    "those who run it anyway, and whose data are in it: the fence joins their transactions",
    "one host, no server",
];

pub(super) fn side_by_side(report: &Report) -> String {
    let header: Vec<_> = std::iter::once("").chain(COLUMNS.map(Backend::title)).collect();
    let fixed = |name: &str, cells: [&str; 5]| {
        std::iter::once(format!("**{name}**")).chain(cells.map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut speed = vec!["**Performance**".to_owned()];
    speed.extend(COLUMNS.map(|backend| performance(report, backend)));
    let rows = [
        fixed("Consensus", CONSENSUS),
        fixed("Data model", DATA_MODEL),
        fixed("Watches", WATCHES),
        fixed("Ephemeral entries", EPHEMERAL),
        speed,
        fixed("Consistency", CONSISTENCY),
        fixed("Best for", BEST_FOR),
    ];
    format!(
        "Performance is that of coord, measured in this run with the durability that is named. Cases are those of \
         [the suite](../../coord-conformance) and of the backends' tests; those with `::` run on every backend.\n\n{}",
        table(&header, &rows).trim_end()
    )
}

/// The figures of coord on one backend.
fn performance(report: &Report, backend: Backend) -> String {
    let of = |result| ("coord", backend.as_str(), result);
    let Some(server) = report.servers.iter().find(|server| server.backend == backend.as_str()) else {
        return "not measured".into();
    };
    let mut words = Vec::new();
    if let Some(pair) = report.median(of("W1.same.pair"), Measure::P50) {
        let floor = (("floor", backend.as_str(), "W1.same.pair"), Measure::P50);
        let ratio = report.ratio((of("W1.same.pair"), Measure::P50), floor);
        let beside = ratio.map(|ratio| format!(" ({} the driver)", times(ratio))).unwrap_or_default();
        words.push(format!("a lock and its release {}{beside}", length(pair)));
    }
    for (result, what) in [("W2p.parked", "handed to who waits in"), ("W6.watch", "a setting is seen after")]
    {
        words.extend(report.median(of(result), Measure::P50).map(|time| format!("{what} {}", length(time))));
    }
    for (result, what) in [("W3.pairs", "64 locks at once"), ("W5.4x4.sat", "a queue 4 to 4")] {
        words.extend(
            report.median(of(result), Measure::Rate).map(|rate| format!("{what} {}/s", amount(rate))),
        );
    }
    format!("{}. *{}*", words.join("; "), server.setup)
}
