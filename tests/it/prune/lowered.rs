//! A policy that asks for fewer stores than it did: what only they hold is durable once no prune can miss it.

use super::{
    fewer::{note, process},
    *,
};
use recoup::core::failure::Failure;

/// The first host backs up under a policy that asks for one store, as the command does. The stores are down that are
/// named: first while it says so, then while it backs up.
fn backup(history: &mut History, down: [&[usize]; 2]) -> recoup::ops::backup::Snapshot {
    let from = history.rng.below(40) as usize;
    history.database.rewrite("ledger.db", from..from + 9, &mut history.rng);
    let speaker = process(history, 1, down[0]);
    live(speaker.recorder().announce());
    let taken = live(process(history, 1, down[1]).backup(false)).unwrap();
    history.machine.clock.advance_seconds(3600);
    taken
}

/// The other host, whose policy asks for two stores, takes a full and prunes all but that.
fn others_prune(history: &History, other: &Machine, down: &[usize]) -> Result<PrunedSource, Failure> {
    other.clock.advance_seconds(86_400);
    let process = || {
        let (process, of_store) = Process::apart(&history.site, other, &history.database);
        down.iter().for_each(|store| of_store[*store].stop_after(0));
        process
    };
    assert!(live(process().backup(true)).unwrap().durable);
    live(process().keeping(1).prune(now()))
}

#[test]
fn what_a_prune_may_miss_is_not_called_durable() {
    let mut history = History::new(2);
    note(&process(&history, 2, &[]));
    let taken = backup(&mut history, [&[1, 2], &[1, 2]]);
    assert_eq!((taken.durable, taken.code(), &taken.stores[..]), (false, Code::Failed, &["a".to_owned()][..]));
    let because = taken.required_because.unwrap();
    for part in ["asks for 1 of 3 stores", "is on 1 of 3 stores, and 2 must have it", "2 must hold"] {
        assert!(because.contains(part), "{because}");
    }
    // It is as it says: with the first store down the others prune what it builds on, and take it from there later.
    history.taken.insert(taken.head.id, history.database.files.clone());
    history.restore_all(&[taken.head.id]);
    let other = Machine::new(1, "other");
    assert_eq!(others_prune(&history, &other, &[0]).unwrap().exit_code, Code::Warning);
    others_prune(&history, &other, &[]).unwrap();
    assert!(live(history.process().restore(Target::SnapshotId(taken.head.id))).is_err());
}

#[test]
fn what_every_prune_knows_of_is_durable_and_stays() {
    let mut history = History::new(2);
    note(&process(&history, 2, &[]));
    // On record on all stores; but a prune that does not know may have published its plan on two of them before.
    let unlooked = backup(&mut history, [&[], &[1, 2]]);
    assert!(!unlooked.durable);
    assert!(unlooked.required_because.unwrap().contains("1 of 3 stores showed their prune plans"));
    let both = backup(&mut history, [&[], &[2]]);
    assert!(both.durable && both.required_because.is_none());
    // From then on one store is enough, whatever is down.
    let alone = backup(&mut history, [&[1, 2], &[1, 2]]);
    assert!(alone.durable && alone.required_because.is_none(), "{:?}", alone.required_because);
    history.taken.insert(alone.head.id, history.database.files.clone());
    let refused = others_prune(&history, &Machine::new(1, "other"), &[0]).unwrap_err();
    assert_eq!(refused.code, Code::Store, "{refused}");
    history.restore_all(&[alone.head.id]);
    // Raised, and lowered again in the next outage: it begins anew.
    note(&process(&history, 2, &[]));
    assert!(!backup(&mut history, [&[1, 2], &[1, 2]]).durable);
    assert!(backup(&mut history, [&[], &[]]).durable);
    assert!(backup(&mut history, [&[1, 2], &[1, 2]]).durable);
}

#[test]
fn more_than_half_of_the_stores_need_not_be_announced() {
    let mut history = History::new(2);
    note(&process(&history, 3, &[]));
    history.machine.clock.advance_seconds(60);
    let taken = live(process(&history, 2, &[2]).backup(false)).unwrap();
    assert!(taken.durable && taken.required_because.is_none());
    history.taken.insert(taken.head.id, history.database.files.clone());
    // Nor does a prune whose policy asks for all of them do with one of them.
    let refused = live(process(&history, 3, &[0, 1]).keeping(1).prune(now())).unwrap_err();
    assert_eq!(refused.code, Code::Store, "{refused}");
    history.restore_all(&history.ids());
}
