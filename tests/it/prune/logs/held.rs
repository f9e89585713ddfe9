//! What is taken out of a plan at the last moment keeps the log that leads on from it, whatever store is replaced.

use super::super::late::gate;
use super::{Logged, confirmed};
use crate::simulation::{FOLDER, Machine, Process, asking::Verb, live, source_name};
use futures_util::future::join;
use recoup::{
    core::{
        failure::Code,
        id::{RunId, SnapshotId},
        log::LogFile,
        prune::Stage,
        result::Problem,
        target::Target,
    },
    ops::prune::PruneRequest,
    repository::{layout, prunes::SignedPrune},
};
use std::collections::BTreeSet;

/// What is left once the first snapshot that stays is the second of four.
const FROM_SECOND: std::ops::Range<u64> = 3..9;
const ALL: std::ops::Range<u64> = 1..9;

/// Four snapshots, and a plan that keeps the last.
fn planned() -> (Logged, RunId) {
    let logged = Logged::new(4, 2);
    let plan = logged.prune(1);
    assert_eq!(plan.condemned_log[0].files, 6);
    let id = plan.plan.unwrap();
    (logged, id)
}

/// Puts what another host would record that executes the plan on these stores, before it has deleted anything.
fn record_execution(logged: &Logged, plan: RunId, stores: &[usize]) {
    live(record_execution_of(&logged.fork("executes"), logged, plan, stores));
}

/// The same where that host has seen no more than this.
async fn record_execution_of(seen: &Logged, logged: &Logged, plan: RunId, stores: &[usize]) {
    let (site, database) = (&seen.history.site, &seen.history.database);
    let other = Machine::new(1, "other");
    let pruned = Process::new(site, &other, database).keeping(1).prune(confirmed()).await.unwrap();
    assert_eq!((pruned.pruned.len(), pruned.pruned_log[0].files), (3, 6));
    let record = layout::prune_object(plan, Stage::Executed);
    for name in [layout::prune_list(plan), format!("{record}.sig"), record] {
        let key = format!("{FOLDER}{name}");
        let bytes = site.get(0, &key).unwrap();
        stores.iter().for_each(|store| logged.history.site.put(*store, &key, bytes.to_vec()));
    }
}

/// How many parts of the log each record of a plan's execution deletes, and how many it drops.
fn parts_of(logged: &Logged, plan: RunId) -> Vec<(usize, usize)> {
    let (_, prunes) = live(logged.process().host.repository.prunes(&source_name()));
    let parts = |signed: &SignedPrune| (signed.record.condemned.log.len(), signed.record.dropped.log.len());
    prunes.executed[&plan].iter().map(parts).collect()
}

/// A new disk in the place of a store, brought level.
fn replace(logged: &Logged, store: usize) {
    logged.history.site.empty(store);
    live(logged.process().copy()).unwrap();
}

fn expect_on_stores(logged: &Logged, expected: std::ops::Range<u64>) {
    assert_eq!(logged.on_stores(), [(); 3].map(|()| expected.clone().collect::<BTreeSet<u64>>()));
}

/// Every moment from the snapshot on that begins in segment 3 comes back.
#[track_caller]
fn expect_held(logged: &Logged, id: SnapshotId) {
    for number in 3..7 {
        let target = Target::Time(super::moment(number, 1));
        let (result, _) = live(logged.process().restore(target)).unwrap();
        assert_eq!(result.snapshot, id, "{number}");
    }
    logged.expect_moments(3);
}

#[test]
fn the_log_of_a_snapshot_that_is_held_before_the_execution_is_on_every_store() {
    let (logged, plan) = planned();
    let held = logged.ids()[1];
    let other = Machine::new(1, "other");
    let mut pruner = Process::new(&logged.history.site, &other, &logged.history.database).keeping(1);
    let turn = gate(&mut pruner, &[2], Verb::Put, "executed.json");
    let holder = logged.process();
    let (pruned, is_held) = live(join(pruner.prune(confirmed()), turn.take(holder.hold(held))));
    is_held.unwrap();
    let pruned = pruned.unwrap();
    assert!(pruned.exit_code == Code::Warning && pruned.pruned.is_empty(), "{pruned:?}");
    assert_eq!(pruned.pruned_log, []);
    expect_on_stores(&logged, ALL);
    // It is out of the plan at once, with all of the log that the plan condemns.
    assert_eq!(parts_of(&logged, plan), [(0, 1)], "condemned and dropped by the one record of all stores");
    live(logged.process().keeping(1).prune(confirmed())).unwrap();
    expect_on_stores(&logged, ALL);
    for store in 0..3 {
        replace(&logged, store);
    }
    expect_held(&logged, held);
    // The rest goes by plans of its own.
    for _ in 0..3 {
        live(logged.process().keeping(1).prune(confirmed())).unwrap();
    }
    expect_on_stores(&logged, FROM_SECOND);
    expect_held(&logged, held);
    logged.expect_level();
}

#[test]
fn an_execution_that_was_cut_short_takes_no_log_until_it_is_looked_at_again() {
    for stores in [&[0][..], &[2], &[0, 1]] {
        let (logged, plan) = planned();
        record_execution(&logged, plan, stores);
        for snapshot in 0..4 {
            logged.expect_moments(snapshot);
        }
        let verified = live(logged.process().verify()).unwrap();
        assert!(verified.findings.iter().all(|found| found.problem == Problem::Behind), "{:?}", verified.findings);
        // It is dropped, and stays so.
        let dropped = logged.fork("dropped");
        let cancel = PruneRequest { cancel: Some(plan), ..PruneRequest::default() };
        let cancelled = live(dropped.process().prune(cancel)).unwrap();
        assert_eq!((cancelled.dropped.len(), cancelled.dropped_log[0].files), (3, 6), "{}", cancelled.message);
        for store in 0..3 {
            replace(&dropped, store);
            live(dropped.process().keeping(10).prune(confirmed())).unwrap();
        }
        expect_on_stores(&dropped, ALL);
        (0..4).for_each(|snapshot| dropped.expect_moments(snapshot));
        dropped.expect_level();
        // Something of it is held.
        let held = logged.fork("held");
        live(held.process().hold(held.ids()[1])).unwrap();
        for store in 0..3 {
            live(held.process().keeping(1).prune(confirmed())).unwrap();
            replace(&held, store);
            expect_held(&held, held.ids()[1]);
        }
        for _ in 0..2 {
            live(held.process().keeping(1).prune(confirmed())).unwrap();
        }
        expect_on_stores(&held, FROM_SECOND);
        held.expect_level();
        // Or it goes on.
        let pruned = logged.prune(1);
        assert_eq!((pruned.pruned.len(), pruned.pruned_log[0].files), (3, 6), "{stores:?}");
        expect_on_stores(&logged, 7..9);
        logged.expect_moments(3);
        logged.expect_level();
    }
}

/// What of the log it deletes nothing tells, and so not whether anything of that is deleted.
#[test]
fn an_execution_whose_list_never_came_is_looked_at_again() {
    let mut logged = Logged::new(0, 1);
    logged.go_on(4);
    logged.take();
    let plan = logged.prune(1);
    assert_eq!((plan.condemned.len(), plan.condemned_log[0].files), (0, 4));
    let fork = logged.fork("executes");
    fork.prune(1);
    let record = layout::prune_object(plan.plan.unwrap(), Stage::Executed);
    for key in [format!("{FOLDER}{record}.sig"), format!("{FOLDER}{record}")] {
        logged.history.site.put(0, &key, fork.history.site.get(0, &key).unwrap().to_vec());
    }
    let pruned = logged.prune(1);
    assert_eq!(
        (&pruned.executed[..], pruned.pruned_log[0].files),
        (&[plan.plan.unwrap()][..], 4),
        "{}",
        pruned.message
    );
    expect_on_stores(&logged, 5..6);
    logged.expect_level();
}

/// That a new store has the record, the list and no plan proves nothing: one that was cut short elsewhere still counts as
/// pending.
#[test]
fn a_new_store_proves_no_deletion() {
    let (logged, plan) = planned();
    record_execution(&logged, plan, &[0]);
    replace(&logged, 1);
    replace(&logged, 2);
    let record = layout::prune_object(plan, Stage::Executed);
    for name in [layout::prune_list(plan), record] {
        let key = format!("{FOLDER}{name}");
        assert_eq!([1, 2].map(|store| logged.history.site.get(store, &key)), [None, None], "{name}");
    }
    (0..4).for_each(|snapshot| logged.expect_moments(snapshot));
    live(logged.process().hold(logged.ids()[1])).unwrap();
    for _ in 0..2 {
        live(logged.process().keeping(1).prune(confirmed())).unwrap();
    }
    expect_held(&logged, logged.ids()[1]);
}

/// Where every store says that it is executed it is, and is finished with as much of the log as it may take.
#[test]
fn what_every_store_says_is_deleted_takes_its_log() {
    let (logged, plan) = planned();
    record_execution(&logged, plan, &[0, 1, 2]);
    let refused = live(logged.process().restore(Target::Time(super::moment(5, 1)))).unwrap_err();
    assert_eq!(refused.code, Code::NoRecoveryPoint);
    let pruned = logged.prune(1);
    assert_eq!(pruned.plan, None, "{}", pruned.message);
    expect_on_stores(&logged, 7..9);
    logged.expect_level();
}

/// It may yet be dropped from the plan: a store that is made new until then gets its log, too, and one that lacks it is
/// behind.
#[test]
fn what_a_plan_condemns_of_the_log_is_brought_to_a_new_store_until_it_is_executed() {
    let (logged, _) = planned();
    let name = LogFile::Segment(logged.server.name(2)).key();
    let of_segment = logged.history.site.objects(1).into_keys().filter(|key| key.contains(&name));
    of_segment.for_each(|key| logged.history.site.remove(1, &key));
    let verified = live(logged.process().verify()).unwrap();
    let told: Vec<_> =
        verified.findings.iter().map(|of| (of.store.as_str(), of.problem, of.cause.as_deref())).collect();
    assert_eq!(told, [("b", Problem::Behind, Some("it lacks 1 file of the log of ledger"))]);
    replace(&logged, 1);
    expect_on_stores(&logged, ALL);
    logged.expect_level();
    logged.prune(1);
    expect_on_stores(&logged, 7..9);
    replace(&logged, 1);
    expect_on_stores(&logged, 7..9);
    logged.expect_level();
}

/// A standby has begun before all that is kept, and commits before the last look; another host had looked before that.
#[test]
fn by_the_record_of_another_host_alone_no_log_goes() {
    let (logged, plan) = planned();
    let looked_before = logged.fork("looked before");
    logged.history.database.source.set_log(logged.server.range(3));
    let taken = live(logged.process().backup(true)).unwrap();
    assert!(!taken.durable, "what it needs is condemned");
    let mut pruner = logged.process().keeping(1);
    let turn = gate(&mut pruner, &[0, 1, 2], Verb::Put, "executed.json");
    let executes = async { record_execution_of(&looked_before, &logged, plan, &[0, 1, 2]).await };
    let (pruned, ()) = live(join(pruner.prune(confirmed()), turn.take(executes)));
    let pruned = pruned.unwrap();
    assert_eq!((pruned.pruned_log.len(), pruned.dropped_log[0].files), (0, 6), "{}", pruned.message);
    expect_on_stores(&logged, ALL);
    // Nor does any that comes after it, as long as the snapshot is there.
    live(logged.process().keeping(1).prune(confirmed())).unwrap();
    expect_on_stores(&logged, ALL);
}

/// The same, once it is on record everywhere what goes: what is held then is brought back with its log.
#[test]
fn what_came_too_late_and_is_held_gets_back_the_log_that_is_still_there() {
    let (logged, plan) = planned();
    let looked_before = logged.fork("looked before");
    logged.history.database.source.set_log(logged.server.range(3));
    let taken = live(logged.process().backup(true)).unwrap();
    assert!(!taken.durable);
    live(logged.process().hold(taken.head.id)).unwrap();
    live(record_execution_of(&looked_before, &logged, plan, &[0, 1, 2]));
    let target = || Target::SnapshotId(taken.head.id);
    assert!(live(logged.process().restore(target())).is_err(), "its log is said to be deleted");
    let pruned = live(logged.process().keeping(1).prune(confirmed())).unwrap();
    assert!(pruned.warnings.iter().any(|one| one.contains("is no longer in the plan")), "{pruned:?}");
    expect_on_stores(&logged, ALL);
    assert_eq!(live(logged.process().restore(target())).unwrap().0.snapshot, taken.head.id);
}
