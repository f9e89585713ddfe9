//! A policy that asks for more stores than it once did: what was durable before is not missed.

use super::*;
use recoup::core::{evidence::Action, failure::Failure};

/// A process whose stores at these positions are down, under a policy that asks for so many.
pub(super) fn process(history: &History, min_stores: u32, down: &[usize]) -> Process {
    let (mut process, of_store) = Process::apart(&history.site, &history.machine, &history.database);
    down.iter().for_each(|store| of_store[*store].stop_after(0));
    process.protected.policy.copies.min_stores = Some(min_stores);
    process
}

/// Leaves evidence, and with it how many stores the policy asks for.
pub(super) fn note(process: &Process) {
    process.record(Action::Backup, None);
}

fn pruned(history: &History, min_stores: u32, down: &[usize]) -> Result<PrunedSource, Failure> {
    live(process(history, min_stores, down).keeping(1).prune(now()))
}

#[test]
fn what_was_durable_on_fewer_stores_is_not_missed() {
    let mut history = History::new(3);
    // Durable, by the policy of then, on the first store alone, and built on what all of them have.
    note(&process(&history, 1, &[]));
    let everywhere = live(process(&history, 1, &[]).backup(false)).unwrap();
    history.taken.insert(everywhere.head.id, history.database.files.clone());
    history.database.rewrite("ledger.db", 0..4, &mut Rng::new(1));
    let alone = live(process(&history, 1, &[1, 2]).backup(false)).unwrap();
    assert!(alone.durable);
    history.taken.insert(alone.head.id, history.database.files.clone());
    history.machine.clock.advance_seconds(3600);
    note(&process(&history, 2, &[]));
    let before: Vec<_> = (0..3).map(|store| history.site.objects(store)).collect();
    let refused = pruned(&history, 2, &[0]).unwrap_err();
    assert_eq!(refused.code, Code::Store, "{refused}");
    let cause = refused.cause.as_ref().unwrap();
    assert!(cause.contains("3 are needed") && cause.contains("1 made a snapshot durable"), "{refused}");
    assert_eq!((0..3).map(|store| history.site.objects(store)).collect::<Vec<_>>(), before);
    history.restore_all(&history.ids());

    // With all of them there, and not yet level, nothing changes; then a store may be down again.
    pruned(&history, 2, &[]).unwrap();
    assert_eq!(pruned(&history, 2, &[0]).unwrap_err().code, Code::Store);
    live(history.process().copy()).unwrap();
    pruned(&history, 2, &[]).unwrap();
    assert_eq!(pruned(&history, 2, &[0]).unwrap().exit_code, Code::Warning);
    // Another configuration asks for less again.
    note(&process(&history, 1, &[]));
    assert_eq!(pruned(&history, 2, &[0]).unwrap_err().code, Code::Store);
    history.restore_all(&history.listed());
}

#[test]
fn a_policy_that_never_asked_for_less_needs_no_more_stores() {
    let history = History::new(4);
    note(&process(&history, 2, &[]));
    assert_eq!(pruned(&history, 2, &[0]).unwrap().exit_code, Code::Warning);
}
