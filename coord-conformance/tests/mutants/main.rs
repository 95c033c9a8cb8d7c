//! The suite has teeth: stores and engines with one planted bug each, the case that must reject each, and the checker
//! that must say so. The same case on the same store without the bug passes: the control.

mod broken;
mod jobs;
mod values;

use std::sync::Arc;

use broken::{Broken, Bug};
use coord_conformance::{
    Backend, Outcome, checkers,
    history::{Event, History, Op},
    run_named,
    worker::resource::Resource,
};
use coord_core::{FencingToken, Mutant, clock::Clock};

/// How many short histories may pass before a bug shows, where chance decides what is done; elsewhere the first one shows it.
const HISTORIES: usize = 50;

/// The case passes on the sound store and engine, and the checker rejects it with the bug.
fn rejects(bug: Bug, mutant: Option<Mutant>, case: &str, checker: &str) {
    let run = |broken: Broken| {
        let backend: Arc<dyn Backend> = Arc::new(broken);
        run_named(&backend, case)
    };
    assert_eq!(run(Broken(Bug::None, None)), Outcome::Passed, "the control of {case}");
    let histories = if case.contains("random_work") { HISTORIES } else { 1 };
    let mut outcome = Outcome::Passed;
    for _ in 0..histories {
        outcome = run(Broken(bug, mutant));
        if outcome != Outcome::Passed {
            break;
        }
        assert_eq!(run(Broken(Bug::None, None)), Outcome::Passed, "the control of {case}");
    }
    match outcome {
        Outcome::Failed(failure) => {
            assert_eq!(failure.checker, Some(checker), "{case} was rejected by another one: {failure}");
        }
        outcome => panic!("{case} does not notice {bug:?} {mutant:?}: {outcome:?}"),
    }
}

macro_rules! stores {
    ($($test:ident: $bug:ident, $case:literal, $checker:literal;)*) => {
        $(#[test]
        fn $test() {
            rejects(Bug::$bug, None, $case, $checker);
        })*
    };
}

macro_rules! engines {
    ($($test:ident: $mutant:ident, $case:literal, $checker:literal;)*) => {
        $(#[test]
        fn $test() {
            rejects(Bug::None, Some(Mutant::$mutant), $case, $checker);
        })*
    };
}

stores! {
    token_stuck: TokenStuck, "lock::tokens_grow_over_release_and_drop", "tokens";
    tokens_restart: TokensRestart, "lock::tokens_grow_over_expiry", "tokens";
    overtaken_keeps_its_token: OvertakenKeepsToken, "election::a_higher_priority_is_elected_first", "tokens";
    line_shows_other_tokens: LineShowsOtherTokens, "observe::starts_with_the_present_state", "terms";
    renewal_revives: RenewalRevives, "store::a_renewal_revives_nothing", "store";
    renewal_revives_the_evicted: RenewalRevives, "faulty::an_evicted_holder_learns_without_hints", "progress";
    renewal_does_nothing: RenewalDoesNothing, "faulty::late_replies_prolong_nothing", "intervals";
    renewal_does_nothing_at_the_store: RenewalDoesNothing, "store::a_renewal_prolongs", "store";
    renewal_shortens: RenewalShortens, "store::a_renewal_never_shortens", "store";
    lease_is_shorter: LeaseIsShorter, "faulty::a_partition_past_the_lease_loses_it_first", "intervals";
    release_of_anothers_claim: WithdrawsTheFirst, "store::a_withdrawal_takes_out_its_own_claim_only", "store";
    release_does_nothing: WithdrawsNothing, "cancel::release", "residue";
    grants_two: GrantsTwo, "lease::the_next_is_let_in_when_a_plain_lease_ends", "intervals";
    last_in_first_out: LastInFirstOut, "lock::first_in_first_out", "fifo";
    waiters_never_expire: WaitersNeverExpire, "faulty::a_vanished_waiter_does_not_block_the_line", "progress";
    readers_pass_writers: ReadersPassWriters, "workload::locks", "fifo";
    ignores_priority: IgnoresPriority, "store::a_higher_priority_goes_first", "store";
    claims_twice: ClaimsTwice, "losses::of_a_lock", "progress";
    refused_claim_stays: RefusedStays, "store::a_refused_claim_leaves_no_trace", "store";
    adopts_twice: AdoptsTwice, "store::a_claim_is_adopted_once", "store";
    hands_over_to_the_first: HandsOverToTheFirst, "election::hand_over_to_a_named_candidate", "progress";
    takes_values_of_the_lost: TakesValuesOfTheLost, "store::a_lost_claim_takes_no_value", "store";
    reads_stale_members: ReadsStale, "registry::a_deregistered_instance_is_gone", "membership";
    reads_stale_leaders: ReadsStale, "election::candidates_are_elected_in_their_order", "terms";
    watch_misses_the_last_change: ReadsStale, "observe::many_observers_agree", "progress";
}

stores! {
    conditional_write_ignores_the_version: IgnoresVersions, "config::random_work", "register";
    version_is_ignored_at_once: IgnoresVersions, "config::conditions", "values";
    fence_the_wrong_way: FencesTheWrongWay, "fenced::lower_tokens_are_refused", "values";
    half_a_transaction: DoesHalf, "config::several_writes_are_one", "values";
    commits_twice: CommitsTwice, "config::random_work_under_faults", "register";
    watch_misses_the_last_write: MissesTheLastWrite, "config::the_last_state_is_not_missed_without_hints", "progress";
    hides_the_gap_from_the_cut_off: HidesTheGap, "config::a_gap_is_announced", "progress";
    fence_raises_no_mark: FenceDoesNothing, "fenced::a_fence_precedes_the_first_write", "values";
    hides_the_gap: HidesTheGap, "config::nothing_is_missed_after_a_long_absence", "progress";
    loses_pushes: LosesPushes, "queue::random_work", "deliveries";
    doubles_pushes: DoublesPushes, "queue::random_work", "deliveries";
    ignores_groups: IgnoresGroups, "queue::random_work", "deliveries";
    ignores_groups_at_once: IgnoresGroups, "queue::a_group_is_strict_across_redelivery", "jobs";
    ignores_capacity: IgnoresCapacity, "queue::a_full_queue_refuses", "jobs";
    ignores_the_priority_of_items: IgnoresItemPriority, "queue::random_work", "deliveries";
    ignores_delays: IgnoresDelays, "queue::a_delayed_item_comes_later", "jobs";
    ignores_visibility: IgnoresVisibility, "queue::random_work", "deliveries";
    never_buries: NeverBuries, "queue::a_dead_item_is_put_back", "jobs";
    receives_twice: ReceivesTwice, "queue::every_lost_message", "jobs";
    last_pushed_first: LastPushedFirst, "queue::random_work", "deliveries";
    acks_without_token: AcksWithoutToken, "queue::late_words_are_refused", "jobs";
    extends_without_token: ExtendsWithoutToken, "queue::a_late_extension_prolongs_nothing", "progress";
    nacks_without_token: NacksWithoutToken, "queue::late_words_are_refused", "jobs";
}

// By the comparison with the specification alone.
stores! {
    specified_priority: IgnoresPriority, "model::a_line_is_as_specified", "model";
    specified_withdrawal: WithdrawsTheFirst, "model::a_line_is_as_specified", "model";
    specified_versions: IgnoresVersions, "model::values_are_as_specified", "model";
    specified_transactions: DoesHalf, "model::values_are_as_specified", "model";
    specified_groups: IgnoresGroups, "model::a_queue_is_as_specified", "model";
    specified_burial: NeverBuries, "model::a_queue_is_as_specified", "model";
}

engines! {
    deadline_from_the_reply: DeadlineFromReply, "faulty::late_replies_prolong_nothing", "intervals";
    held_past_the_deadline: HeldPastDeadline, "faulty::a_partition_past_the_lease_loses_it_first", "intervals";
    trusts_wakeups: TrustsWakeups, "faulty::false_hints_grant_nothing", "intervals";
    never_looks_again: NeverLooksAgain, "faulty::lost_hints_cost_latency_only", "progress";
    leaves_claims: LeavesClaims, "cancel::acquire", "residue";
}

/// A stale holder writes between the read and the write of the one that follows it. With the fence it is refused.
#[test]
fn resource_without_a_fence() {
    let folder = tempfile::tempdir().unwrap();
    let history = History::new(Clock::System);
    let (stale, newer) = (FencingToken::new(3).unwrap(), FencingToken::new(5).unwrap());
    for fenced in [true, false] {
        let resource = Resource::new(folder.path().join(fenced.to_string()), fenced);
        let first = resource.read(stale).unwrap();
        let second = resource.read(newer).unwrap();
        assert_eq!(resource.write(stale, first, first + 1).is_ok(), !fenced);
        resource.write(newer, second, second + 1).unwrap();
        let log = resource.log(&history).unwrap();
        let verdict = checkers::fenced::check(&log);
        assert_eq!(verdict.is_ok(), fenced, "{verdict:?}");
        // Also without the tokens, the checker sees the lost update.
        let blind: Vec<Event> = log.into_iter().map(without_token).collect();
        assert_eq!(checkers::fenced::check(&blind).is_ok(), fenced);
    }
}

fn without_token(event: Event) -> Event {
    match event.op {
        Op::Accepted { sequence, write, .. } => {
            Event { op: Op::Accepted { sequence, token: 1, write }, ..event }
        }
        _ => event,
    }
}
