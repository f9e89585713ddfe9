//! Holds, backups and looks at the stores that come while a prune executes a plan: one of the two sees the other.

use super::*;
use crate::simulation::asking::{Verb, make_ask};
use futures_util::{FutureExt, future::join};
use recoup::core::target::Target;
use std::sync::Arc;
use tokio::sync::{Mutex, oneshot};

/// The other side of a gate.
pub(super) struct Turn {
    begun: oneshot::Receiver<()>,
    done: oneshot::Sender<()>,
}

impl Turn {
    /// Does something while the other one waits.
    pub(super) async fn take<T>(self, act: impl Future<Output = T>) -> T {
        self.begun.await.expect("the gate is reached");
        let acted = act.await;
        self.done.send(()).expect("the gate waits");
        acted
    }
}

/// Lets somebody go first before a process reads or writes the first object of such a name on some stores.
pub(super) fn gate(process: &mut Process, stores: &[usize], verb: Verb, name: &'static str) -> Turn {
    gate_where(process, stores, move |does, key| does == verb && key.contains(name))
}

/// The same before the first request of which this is true; it is asked about every one.
pub(super) fn gate_where(
    process: &mut Process,
    stores: &[usize],
    is_meant: impl Fn(Verb, &str) -> bool + Send + Sync + 'static,
) -> Turn {
    let (begin, begun) = oneshot::channel();
    let (done, finish) = oneshot::channel();
    let passage = Arc::new(Mutex::new(Some((begin, finish))));
    let is_meant = Arc::new(is_meant);
    for at in stores {
        let (passage, is_meant) = (passage.clone(), is_meant.clone());
        let pass = move |does, location: object_store::path::Path| {
            let passage = passage.clone();
            let is_meant = is_meant(does, location.as_ref());
            async move {
                if is_meant {
                    // Whoever comes next waits, too.
                    let mut passage = passage.lock().await;
                    if let Some((begin, finish)) = passage.take() {
                        begin.send(()).unwrap();
                        finish.await.unwrap();
                    }
                }
                Ok(())
            }
            .boxed()
        };
        make_ask(&mut process.host.repository.stores[*at], Arc::new(pass));
    }
    Turn { begun, done }
}

#[test]
fn a_hold_before_the_execution_is_on_every_store_is_honored() {
    let history = History::new(6);
    let ids = history.ids();
    history.prune(2);
    let other = Machine::new(1, "other");
    let mut pruner = Process::new(&history.site, &other, &history.database).keeping(2);
    let turn = gate(&mut pruner, &[2], Verb::Put, "executed.json");
    let holder = history.process();
    let (pruned, held) = live(join(pruner.prune(confirmed()), turn.take(holder.hold(ids[1]))));
    held.unwrap();
    let pruned = pruned.unwrap();
    assert!(pruned.exit_code == Code::Warning && pruned.pruned.is_empty(), "{pruned:?}");
    assert!(pruned.warnings.iter().any(|one| one.contains("stays, as it is held")), "{pruned:?}");
    assert!((0..3).all(|store| history.site.committed(store).contains(&ids[1])));
    // It is out of the plan already, and the next one deletes the rest.
    assert!(history.listed().contains(&ids[1]));
    history.restore_all(&[ids[1], ids[4], ids[5]]);
    let last = history.prune(2);
    assert_eq!(last.exit_code, Code::Done, "{last:?}");
    history.restore_all(&[ids[1], ids[4], ids[5]]);
    assert_eq!(history.listed(), [ids[1], ids[4], ids[5]]);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    history.verify_is(Status::Ok);
}

#[test]
fn a_hold_after_the_execution_is_on_every_store_is_refused() {
    // Also where somebody makes the record of one store, or of all, unreadable.
    for (everything, unsigned) in [(false, 0), (true, 0), (false, 1), (false, 3)] {
        let history = History::new(6);
        let ids = history.ids();
        history.prune(2);
        let other = Machine::new(1, "other");
        let pruner = Process::new(&history.site, &other, &history.database).keeping(2);
        let mut holder = history.process();
        // What it holds is there when it looks, and gone when the hold is on record.
        let turn = gate(&mut holder, &[0, 1, 2], Verb::Put, "evidence/");
        let hold = async { if everything { holder.hold_everything().await } else { holder.hold(ids[1]).await } };
        let prune = async {
            let pruned = pruner.prune(confirmed()).await;
            for store in 0..unsigned {
                let names = history.site.objects(store).into_keys();
                names
                    .filter(|name| name.ends_with("executed.json.sig"))
                    .for_each(|name| history.site.remove(store, &name));
            }
            pruned
        };
        let (pruned, held) = live(join(turn.take(prune), hold));
        assert_eq!(pruned.unwrap().pruned, ids[..4]);
        let refused = held.unwrap_err();
        assert_eq!(refused.code, Code::Refused, "{refused}");
        assert!(refused.message.contains("came too late for snapshot"), "{refused}");
    }
}

#[test]
fn a_snapshot_that_was_given_up_while_it_was_taken_is_not_acknowledged() {
    let mut history = History::new(3);
    let from = history.rng.below(40) as usize;
    history.database.rewrite("ledger.db", from..from + 20, &mut history.rng);
    let mut taker = history.process();
    let turn = gate(&mut taker, &[0, 1, 2], Verb::Put, "inventory.json");
    let other = Machine::new(1, "other");
    let pruner = Process::new(&history.site, &other, &history.database).keeping(10);
    let unfinished = || {
        let names = history.site.objects(1).into_keys().chain(history.site.objects(0).into_keys());
        let ids =
            names.filter_map(|name| name.strip_prefix(&format!("{FOLDER}snapshots/"))?.split('/').next()?.parse().ok());
        ids.filter(|id: &SnapshotId| !history.taken.contains_key(id)).max().unwrap()
    };
    let give_up = async {
        let id = unfinished();
        (id, pruner.prune(PruneRequest { forget: Some(id), ..now() }).await)
    };
    let (taken, (given_up, pruned)) = live(join(taker.backup(false), turn.take(give_up)));
    let taken = taken.unwrap();
    match pruned {
        Ok(_) => assert_ne!(taken.head.id, given_up),
        // It was committed on another store already, and is whole there.
        Err(refused) => assert_eq!(refused.code, Code::Refused, "{refused}"),
    }
    assert!(history.listed().contains(&taken.head.id));
    history.process().expect_restored(taken.head.id, &history.database.files);
}

#[test]
fn what_a_prune_deletes_while_it_is_verified_or_copied_is_not_missed() {
    for (copies, emptied, verb) in [(false, false, Verb::Get), (true, false, Verb::Get), (true, true, Verb::Put)] {
        let history = History::new(6);
        let ids = history.ids();
        history.prune(2);
        if emptied {
            history.site.empty(1);
        }
        let mut looker = history.process();
        let turn = gate(&mut looker, &[1], verb, "manifest.age");
        let other = Machine::new(1, "other");
        let pruner = Process::new(&history.site, &other, &history.database).keeping(2);
        let look = async {
            if copies {
                let copied = looker.copy().await.unwrap();
                (copied.status, copied.findings)
            } else {
                let verified = looker.verify().await.unwrap();
                (verified.status, verified.findings)
            }
        };
        let (pruned, (status, findings)) = live(join(turn.take(pruner.prune(confirmed())), look));
        assert_eq!(pruned.unwrap().pruned, ids[..4]);
        assert_eq!((status, &findings[..]), (Status::Ok, &[][..]), "copies {copies}, emptied {emptied}");
        history.prune(2);
        assert_eq!(leftovers(&history.site), Vec::<String>::new());
        assert_eq!(history.listed(), ids[4..]);
        history.restore_all(&ids[4..]);
        live(history.process().copy()).unwrap();
        history.verify_is(Status::Ok);
    }
}

#[test]
fn what_a_prune_deletes_while_it_is_restored_is_not_called_damaged() {
    let history = History::new(6);
    let ids = history.ids();
    history.prune(2);
    let mut restorer = history.process();
    let turn = gate(&mut restorer, &[0, 1, 2], Verb::Get, "manifest.age");
    let other = Machine::new(1, "other");
    let pruner = Process::new(&history.site, &other, &history.database).keeping(2);
    let restore = restorer.restore(Target::SnapshotId(ids[1]));
    let (pruned, restored) = live(join(turn.take(pruner.prune(confirmed())), restore));
    assert_eq!(pruned.unwrap().pruned, ids[..4]);
    let failure = restored.unwrap_err();
    assert_eq!(failure.code, Code::NoRecoveryPoint, "{failure}");
    let cause = failure.cause.unwrap();
    assert!(cause.contains("was pruned at") && cause.contains("while it was being restored"), "{cause}");
}

/// Nobody can read what stands there, and nothing is deleted yet.
#[test]
fn a_hold_is_refused_where_no_record_of_the_execution_can_be_read() {
    let history = History::new(6);
    let (ids, plan) = (history.ids(), history.prune(2).plan.unwrap());
    for store in 0..3 {
        for ending in ["", ".sig"] {
            history.site.put(store, &format!("{FOLDER}prunes/{plan}/executed.json{ending}"), b"{}".to_vec());
        }
    }
    let refused = live(history.process().hold(ids[1])).unwrap_err();
    assert!(refused.code == Code::Refused && refused.message.contains("came too late"), "{refused}");
    live(history.process().hold(ids[5])).unwrap();
    // It is on record all the same.
    live(history.process().keeping(2).prune(confirmed())).unwrap();
    history.restore_all(&[ids[1], ids[4], ids[5]]);
}
