//! Hosts and stores that do not know the same of a plan: two hosts that execute it at once, records of which one cannot be
//! read, a store that never had what the others have, or that was set back.

use super::*;
use crate::simulation::asking::Verb;
use futures_util::future::join;
use recoup::core::id::RunId;

/// Six snapshots and a plan that condemns four of them. One host has recorded on these stores that it deletes all of
/// that, another one on the others that it keeps the last of the four.
fn two_executions(first: &[usize]) -> (History, Vec<(String, Vec<u8>)>) {
    let history = History::new(6);
    history.prune(2);
    let [more, less] = [2, 3].map(|keep_last| history.execution(keep_last).1);
    (0..3).for_each(|store| history.put(store, if first.contains(&store) { &more } else { &less }));
    (history, less)
}

/// What the records of the execution say that is deleted.
fn records(history: &History) -> BTreeSet<String> {
    let of = |store| history.site.objects(store).into_iter().find(|(name, _)| name.ends_with("/executed.json"));
    let condemned = |store| {
        let record: serde_json::Value = serde_json::from_slice(&of(store).unwrap().1).unwrap();
        record["condemned"].to_string()
    };
    (0..3).map(condemned).collect()
}

/// A store may show the signature of one host and the record of another one for a moment.
#[test]
fn by_a_record_that_is_being_written_nothing_is_deleted() {
    let (history, less) = two_executions(&[0, 1, 2]);
    let ids = history.ids();
    let name = |ending| move |(name, _): &&(String, Vec<u8>)| name.ends_with(ending);
    history.put(1, &[less.iter().find(name("/executed.json")).unwrap().clone()]);
    let pruned = live(history.process().keeping(2).prune(confirmed())).unwrap();
    assert_eq!(pruned.exit_code, Code::Warning, "{pruned:?}");
    assert!(pruned.warnings[0].contains("cannot be read back from every store"), "{pruned:?}");
    (0..3).for_each(|store| assert!(history.site.committed(store).is_superset(&ids.iter().copied().collect())));
    // It comes to its end.
    history.put(1, &less);
    let pruned = live(history.process().keeping(2).prune(confirmed())).unwrap();
    assert!((0..3).all(|store| history.site.committed(store).contains(&ids[3])), "{pruned:?}");
    assert_eq!(records(&history).len(), 1);
}

#[test]
fn records_that_differ_are_settled_by_the_next_prune() {
    for first in [&[0][..], &[1, 2]] {
        let (history, _) = two_executions(first);
        let ids = history.ids();
        assert_eq!(history.listed(), ids[3..]);
        let notes = live(history.process().verify()).unwrap().notes;
        assert!(notes.iter().any(|note| note.contains("is not the same on every store")), "{notes:?}");
        live(history.process().keeping(3).prune(confirmed())).unwrap();
        assert_eq!(records(&history).len(), 1);
        assert_eq!(leftovers(&history.site), Vec::<String>::new());
        // Whatever store a new one is made from.
        for from in 0..3 {
            let fork = history.fork("replaced");
            (0..3).filter(|store| *store != from).for_each(|store| fork.site.empty(store));
            live(fork.process().copy()).unwrap();
            live(fork.process().keeping(3).prune(confirmed())).unwrap();
            assert_eq!(fork.listed(), ids[3..], "from {from}");
            fork.restore_all(&ids[3..]);
        }
    }
}

/// A copy that has read the records before a prune took something out of them.
#[test]
fn a_copy_carries_no_record_over_a_later_one() {
    let history = History::new(6);
    let ids = history.ids();
    history.prune(2);
    let (_, execution) = history.execution(2);
    live(history.process().hold(ids[1])).unwrap();
    (0..3).for_each(|store| history.put(store, &execution));
    let lacks = format!("{FOLDER}snapshots/{}/manifest.age", ids[4]);
    history.site.remove(0, &lacks);
    let mut copier = history.process();
    let turn = late::gate(&mut copier, &[0], Verb::Put, "manifest.age");
    let pruner = history.process().keeping(2);
    let (copied, pruned) = live(join(copier.copy(), turn.take(pruner.prune(confirmed()))));
    assert_eq!(copied.unwrap().status, Status::Ok);
    let pruned = pruned.unwrap();
    assert!(pruned.warnings.iter().any(|one| one.contains("is no longer in the plan")), "{pruned:?}");
    assert_eq!(records(&history).len(), 1);
    for store in 0..3 {
        history.replace(store);
    }
    history.prune(2);
    history.restore_all(&[ids[1], ids[4], ids[5]]);
}

/// A hold that comes between the two looks of a prune that goes on with other plans.
#[test]
fn what_is_held_while_one_plan_is_executed_is_not_spoiled_by_the_next() {
    let mut history = History::new(3);
    let ids = history.ids();
    history.prune(2);
    // Nothing of the first three is used any more.
    let database = &mut history.database;
    database.set("ledger.db", history.rng.bytes(512 * 64));
    let newer: Vec<SnapshotId> = (0..3).map(|_| history.take(true)).collect();
    let mut pruner = history.process().keeping(2);
    let turn = late::gate(&mut pruner, &[2], Verb::Put, "executed.json");
    let (pruned, held) = live(join(pruner.prune(now()), turn.take(history.process().hold(ids[0]))));
    held.unwrap();
    let pruned = pruned.unwrap();
    assert!(pruned.warnings.iter().any(|one| one.contains("stays, as it is held")), "{pruned:?}");
    assert!(pruned.pruned.contains(&ids[1]) && !pruned.pruned.contains(&ids[0]), "{pruned:?}");
    assert!(history.listed().contains(&ids[0]));
    history.restore_all(&[ids[0], newer[1], newer[2]]);
    history.verify_is(Status::Ok);
    for _ in 0..2 {
        history.prune(2);
    }
    history.restore_all(&[ids[0], newer[1], newer[2]]);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    history.verify_is(Status::Ok);
}

/// The store whose record of the execution is the only one never had the snapshot.
#[test]
fn that_a_store_never_had_a_snapshot_does_not_say_that_it_is_deleted() {
    let history = History::new(6);
    let ids = history.ids();
    let folder = format!("{FOLDER}snapshots/{}/", ids[0]);
    let names: Vec<String> = history.site.objects(2).into_keys().filter(|name| name.starts_with(&folder)).collect();
    names.iter().for_each(|name| history.site.remove(2, name));
    let plan: RunId = history.prune(5).plan.unwrap();
    history.put(2, &history.execution(5).1);
    assert_eq!(history.listed(), ids);
    history.restore_all(&ids);
    let fork = history.fork("held");
    live(fork.process().hold(ids[0])).unwrap();
    let fork_pruned = live(fork.process().keeping(5).prune(confirmed())).unwrap();
    assert_eq!(fork_pruned.pruned, [], "{fork_pruned:?}");
    fork.restore_all(&ids);
    let cancel = PruneRequest { cancel: Some(plan), ..PruneRequest::default() };
    live(history.process().keeping(6).prune(cancel)).unwrap();
    live(history.process().keeping(6).prune(confirmed())).unwrap();
    live(history.process().copy()).unwrap();
    history.restore_all(&ids);
    history.verify_is(Status::Ok);
}

/// A store that was set back shows no plan to heed, and by the policy it is enough alone.
#[test]
fn what_was_taken_on_a_store_that_was_set_back_stays() {
    let mut history = History::new(2);
    let machine = Machine::new(1, "other");
    let base = live(Process::new(&history.site, &machine, &history.database).backup(true)).unwrap().head.id;
    machine.clock.advance_seconds(10 * 3600);
    for number in 0..3 {
        history.take(number == 0);
    }
    let old = history.site.objects(1);
    let pruned = live(history.process().keeping(2).prune(now())).unwrap().pruned;
    assert!(pruned.contains(&base));
    history.site.empty(1);
    old.into_iter().for_each(|(name, bytes)| history.site.put(1, &name, bytes.to_vec()));
    let mut other = Process::new(&history.site, &machine, &history.database);
    other.protected.policy.copies.min_stores = Some(1);
    for away in [0, 2] {
        other.faults[away].switch(recoup::stores::fault::Switch::Down);
    }
    let taken = live(other.backup(false)).unwrap();
    assert!(taken.durable && taken.inventory.uses.iter().any(|used| used.run == base.run), "{taken:?}");
    history.taken.insert(taken.head.id, history.database.files.clone());
    assert!(history.listed().contains(&taken.head.id));
    for _ in 0..3 {
        live(history.process().keeping(2).prune(confirmed())).unwrap();
        live(history.process().copy()).unwrap();
    }
    assert!((0..3).all(|store| history.site.committed(store).contains(&taken.head.id)));
    history.restore_all(&[taken.head.id]);
    history.verify_is(Status::Ok);
}

/// Whoever can write to a store alone makes no snapshot durable that is not.
#[test]
fn junk_in_the_place_of_inventories_pushes_nothing_out() {
    let history = History::new(6);
    let ids = history.ids();
    for store in [1, 2] {
        for id in &ids[4..] {
            let folder = format!("{FOLDER}snapshots/{id}/");
            let names: Vec<String> = history.site.objects(store).into_keys().collect();
            names.iter().filter(|name| name.starts_with(&folder)).for_each(|name| history.site.remove(store, name));
        }
    }
    let condemned = |history: &History| live(history.process().keeping(2).prune(confirmed())).unwrap().condemned;
    assert_eq!(condemned(&history.fork("without")), ids[..2]);
    for id in &ids[4..] {
        let name = format!("{FOLDER}snapshots/{id}/inventory.json");
        let signature = history.site.get(0, &format!("{name}.sig")).unwrap().to_vec();
        let inventory = history.site.get(0, &name).unwrap().to_vec();
        for (bytes, what) in [(b"12345".to_vec(), "short"), (inventory, "right")] {
            history.site.put(1, &name, bytes);
            history.site.put(1, &format!("{name}.sig"), signature.clone());
            let fork = history.fork(what);
            assert_eq!(condemned(&fork), ids[..2], "{id} {what}");
        }
    }
}

/// Copies of good inventories under other names, on one store.
#[test]
fn copied_inventories_stop_no_prune_for_good() {
    let history = History::new(6);
    let ids = history.ids();
    for (number, id) in ids[..2].iter().enumerate() {
        for ending in ["", ".sig"] {
            let name = |id: &str| format!("{FOLDER}snapshots/{id}/inventory.json{ending}");
            let bytes = history.site.get(0, &name(&id.to_string())).unwrap().to_vec();
            history.site.put(
                0,
                &name(&format!("000000000{}-jjjjjjjjjjjjjjj{}", number + 1, ["a", "b"][number])),
                bytes,
            );
        }
    }
    let process = || history.process().keeping(2);
    let refused = live(process().prune(PruneRequest::default())).unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    assert!(refused.next_step.unwrap().contains("--confirm=ledger"));
    let pruned = live(process().prune(now())).unwrap();
    assert_eq!(pruned.pruned, ids[..4], "{pruned:?}");
    history.restore_all(&ids[4..]);
}
