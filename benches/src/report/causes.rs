//! What is known of why a bound is missed. It is shown where that is so.

use super::Bound;

/// What many have in common.
const GUARD: &str = "a guard is renewed, watched for its loss and released when it is dropped, which costs the client more \
                     processor time than the bare requests; client and server share this machine's processors";

/// What the bound is about, the backend, and the cause.
const CAUSES: [(&str, &str, &str); 19] = [
    ("uncontended pair, one name, × the floor", "redis", SCRIPT),
    ("uncontended pair, a fresh name each, × the floor", "redis", SCRIPT),
    ("uncontended pair, one name, × the floor", "etcd", RECORD),
    ("uncontended pair, a fresh name each, × the floor", "etcd", RECORD),
    (
        "uncontended pair, one name, × the floor",
        "zk",
        "an acquire lists the line behind the node that it makes, and reads it only when that is on disk",
    ),
    (
        "uncontended pair, a fresh name each, × the floor",
        "zk",
        "each name has a folder of its own, which is a second change on the disk; the floor's nodes stand in one folder. It was \
         three changes and two round trips: the folder is made with the first claim now",
    ),
    (
        "parked hand-off, × the floor",
        "zk",
        "the floor is one event; a holder is confirmed by the leader before it believes that it holds, which is a change on the disk",
    ),
    (
        "parked hand-off, × the floor",
        "etcd",
        "after the event the next holder asks the leader for its own key before it believes that it holds",
    ),
    (
        "parked hand-off, its p99, × the floor's p50",
        "etcd",
        "the longest of forty hand-overs in each round, on a disk whose own p99 is several times its p50",
    ),
    (
        "discovery of 1,000 instances, × a listing and one MultiRead",
        "zk",
        "a `sync` comes first, so that nothing is shown that is older than the question, and a thousand records are decoded. A search \
         that grew with the square of their number was taken out, which cannot be told from noise here",
    ),
    (
        "8 clients on one lock, acquisitions a second",
        "redis",
        "the bound was set on a machine on which a bare request took 0.05 ms; compare it with the floor of this one. A hand-over is \
         a script, a message and a script, of three processes one after the other",
    ),
    (
        "8 clients on one lock, acquisitions, × the lock RPC",
        "etcd",
        "two commits to the disk for each acquisition, one after the other, and a reading; eight clients and the server share the \
         processors",
    ),
    (
        "8 clients on one lock, acquisitions, × the driver's recipe",
        "zk",
        "the recipe believes the server that it is connected to. Here the leader is asked whether the claim is still there before \
         it is granted, so that no server that is behind makes two hold at once: a third change on the disk beside the two of the \
         recipe",
    ),
    ("64 independent locks, × 64 connections of the driver", "redis", SCRIPT),
    (
        "64 independent locks, × the floor",
        "pg",
        "a step is a function of some ten statements where the floor's is one: the server's processes and the client use most of both \
         processors",
    ),
    ("64 independent locks, × the floor", "etcd", GUARD),
    (
        "64 independent locks, × the floor",
        "zk",
        "three requests a pair, of which one is a listing, to the floor's two; and the processor time below",
    ),
    (
        "queue flat out, 1 to 1, × BLMOVE",
        "redis",
        "a push, a receive and an acknowledgement are scripts that keep an order, leases, attempts and tokens; a list keeps an order",
    ),
    (
        "queue at 200 items a second, end to end, × one event of a watch",
        "etcd",
        "a push, the lease of a delivery, the delivery and its acknowledgement are four commits to the disk for each item; at 200 \
         items a second this disk is busy all the time, and items wait",
    ),
];

const RECORD: &str =
    "the claim's transaction has conditions and writes a record, and the release has a condition too";

const SCRIPT: &str = "a script keeps the line, a counter that never goes back, the lease and those who watch: some 20 µs of the \
                      server to the floor's 5. It was 31 before a line of one got a short way of its own";

/// The cause, as the rest of a sentence; empty if none is known.
pub(super) fn of(bound: &Bound) -> String {
    let found = CAUSES.iter().find(|(what, backend, _)| (*what, *backend) == (bound.what, bound.backend));
    let cause = found.map(|(.., cause)| *cause);
    let cause = cause.or(bound.what.contains("processor time").then_some(GUARD));
    cause.map(|cause| format!(": {cause}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::BOUNDS;

    #[test]
    fn causes_are_of_bounds() {
        for (what, backend, _) in CAUSES {
            assert!(
                BOUNDS.iter().any(|bound| (bound.what, bound.backend) == (what, backend)),
                "{what} {backend}"
            );
        }
    }
}
