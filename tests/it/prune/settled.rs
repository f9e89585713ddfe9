//! Plans whose execution was cut short, or that two hosts decide about: what one of them keeps stays.

use super::*;
use recoup::{core::id::RunId, ops::prune};

/// Six snapshots and a plan that condemns four of them, with the record of its execution on these stores and nothing
/// deleted.
fn cut_short(stores: &[usize]) -> (History, RunId) {
    let history = History::new(6);
    let plan = history.prune(2).plan.unwrap();
    record_execution(&history, stores);
    (history, plan)
}

/// What another host records that executes the plan.
fn record_execution(history: &History, stores: &[usize]) {
    let (pruned, record) = history.execution(2);
    assert_eq!(pruned.len(), 4);
    stores.iter().for_each(|store| history.put(*store, &record));
}

fn cancel(plan: RunId) -> PruneRequest {
    PruneRequest { cancel: Some(plan), ..PruneRequest::default() }
}

#[test]
fn an_execution_that_was_cut_short_hides_nothing_and_goes_on() {
    for stores in [&[0][..], &[2], &[0, 1]] {
        let (history, _) = cut_short(stores);
        let ids = history.ids();
        assert_eq!(history.listed(), ids);
        history.restore_all(&ids);
        let pruned = history.prune(2);
        assert_eq!(pruned.pruned, ids[..4]);
        assert_eq!(leftovers(&history.site), Vec::<String>::new());
        assert_eq!(history.listed(), ids[4..]);
        history.verify_is(Status::Ok);
    }
}

#[test]
fn a_plan_that_was_dropped_deletes_nothing_whatever_store_is_replaced() {
    for stores in [&[0][..], &[2], &[0, 1]] {
        let (history, plan) = cut_short(stores);
        let ids = history.ids();
        let dropped = live(history.process().keeping(10).prune(cancel(plan))).unwrap();
        assert_eq!((dropped.exit_code, &dropped.dropped[..]), (Code::Done, &ids[..4]), "{}", dropped.message);
        for replaced in 0..3 {
            let fork = history.fork("replaced");
            fork.replace(replaced);
            fork.verify_is(Status::Ok);
            assert_eq!(fork.listed(), ids);
            let pruned = live(fork.process().keeping(10).prune(confirmed())).unwrap();
            assert_eq!((pruned.exit_code, &pruned.pruned[..]), (Code::Done, &[][..]), "{}", pruned.message);
            fork.restore_all(&ids);
        }
    }
}

#[test]
fn what_is_held_while_an_execution_is_cut_short_stays_whatever_store_is_replaced() {
    for stores in [&[0][..], &[2], &[0, 1]] {
        let (history, _) = cut_short(stores);
        let ids = history.ids();
        live(history.process().hold(ids[1])).unwrap();
        let stay = [ids[1], ids[4], ids[5]];
        for replaced in [None, Some(0), Some(1), Some(2)] {
            let fork = history.fork("replaced");
            replaced.into_iter().for_each(|store| fork.replace(store));
            // Where every store that is left says that it is deleted, the next prune brings it back.
            if !(stores == [0, 1] && replaced == Some(2)) {
                fork.restore_all(&stay);
            }
            let pruned = live(fork.process().keeping(2).prune(confirmed())).unwrap();
            assert!(!pruned.pruned.contains(&ids[1]), "{stores:?} {replaced:?}: {pruned:?}");
            fork.restore_all(&stay);
            for again in 0..3 {
                fork.replace(again);
                live(fork.process().keeping(2).prune(confirmed())).unwrap();
            }
            fork.restore_all(&stay);
            assert!((0..3).all(|store| fork.site.committed(store).contains(&ids[1])), "{stores:?} {replaced:?}");
        }
    }
}

#[test]
fn a_drop_that_comes_too_late_says_so_and_deletes_nothing() {
    let history = History::new(6);
    let plan = history.prune(2).plan.unwrap();
    let process = history.process().keeping(10);
    let prepared = live(prune::prepare(&process.host, &process.protected, cancel(plan), true)).unwrap();
    record_execution(&history, &[0, 1, 2]);
    let before: Vec<_> = (0..3).map(|store| history.site.objects(store)).collect();
    let refused = live(prune::execute(&process.host, &process.protected, prepared, &recoup::ops::progress::NoProgress));
    let refused = refused.unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    assert!(refused.to_string().contains("cannot be dropped any more"), "{refused}");
    assert_eq!((0..3).map(|store| history.site.objects(store)).collect::<Vec<_>>(), before);
}

#[test]
fn a_store_that_is_set_back_brings_nothing_back_though_the_others_are_new() {
    let history = History::new(6);
    let ids = history.ids();
    let old = history.site.objects(0);
    live(history.process().keeping(2).prune(now())).unwrap();
    history.replace(1);
    history.replace(2);
    history.site.empty(0);
    old.into_iter().for_each(|(name, bytes)| history.site.put(0, &name, bytes.to_vec()));
    assert_eq!(history.listed(), ids[4..]);
    live(history.process().copy()).unwrap();
    history.prune(2);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    assert_eq!(history.listed(), ids[4..]);
    history.verify_is(Status::Ok);
    history.restore_all(&ids[4..]);
}

#[test]
fn what_a_plan_condemns_is_brought_to_new_stores_until_it_is_executed() {
    let history = History::new(6);
    let (ids, plan) = (history.ids(), history.prune(2).plan.unwrap());
    for store in 0..3 {
        history.replace(store);
        history.verify_is(Status::Ok);
    }
    live(history.process().keeping(10).prune(cancel(plan))).unwrap();
    history.restore_all(&ids);
    assert_eq!(history.listed(), ids);
}

#[test]
fn what_was_given_up_and_is_whole_again_stays() {
    let history = History::new(4);
    let ids = history.ids();
    let run = ids[1].run.to_string();
    let is_part = |name: &String| name.contains(&format!("packs/{run}/")) && name.ends_with(".age");
    let mut parts = Vec::new();
    for store in 0..3 {
        for (name, bytes) in history.site.objects(store).into_iter().filter(|(name, _)| is_part(name)) {
            history.site.remove(store, &name);
            parts.push((store, name, bytes));
        }
    }
    let forget = PruneRequest { forget: Some(ids[1]), ..confirmed() };
    let planned = live(history.process().keeping(4).prune(forget)).unwrap();
    assert_eq!(planned.condemned, [ids[1]]);
    parts.into_iter().for_each(|(store, name, bytes)| history.site.put(store, &name, bytes.to_vec()));
    let pruned = live(history.process().keeping(4).prune(PruneRequest::default())).unwrap();
    assert_eq!((&pruned.pruned[..], &pruned.dropped[..]), (&[][..], &[ids[1]][..]), "{}", pruned.message);
    history.restore_all(&ids);
    history.verify_is(Status::Ok);
}

#[test]
fn what_this_host_merely_cannot_read_is_not_given_up() {
    let history = History::new(4);
    let id = history.ids()[3];
    let process = history.process().keeping(4);
    for faults in &process.faults {
        faults.refuse_reading([format!("{FOLDER}snapshots/{id}/inventory.json")]);
    }
    let refused = live(process.prune(PruneRequest { forget: Some(id), now: true, ..confirmed() })).unwrap_err();
    assert_eq!(refused.code, Code::Store, "{refused}");
    assert!(refused.next_step.as_ref().unwrap().contains("recoup doctor"), "{refused}");
    history.restore_all(&[id]);
}

#[test]
fn what_every_store_says_is_deleted_is() {
    let (history, plan) = cut_short(&[0, 1, 2]);
    let ids = history.ids();
    assert_eq!(history.listed(), ids[4..]);
    let refused = live(history.process().keeping(10).prune(cancel(plan))).unwrap_err();
    assert_eq!(refused.code, Code::Refused, "{refused}");
    assert_eq!(live(history.process().hold(ids[1])).unwrap_err().code, Code::NoRecoveryPoint);
    history.prune(10);
    assert_eq!(history.listed(), ids[4..]);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    history.verify_is(Status::Ok);
}
