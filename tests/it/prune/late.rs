//! Holds and backups that come while a prune executes a plan: one of the two sees the other.

use super::*;
use crate::simulation::asking::make_ask;
use futures_util::{FutureExt, future::join};
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

/// Lets somebody go first before a process writes the first object of such a name to some stores.
pub(super) fn gate(process: &mut Process, stores: &[usize], name: &'static str) -> Turn {
    let (begin, begun) = oneshot::channel();
    let (done, finish) = oneshot::channel();
    let passage = Arc::new(Mutex::new(Some((begin, finish))));
    for at in stores {
        let passage = passage.clone();
        let pass = move |_, location: object_store::path::Path| {
            let passage = passage.clone();
            async move {
                if location.as_ref().contains(name) {
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
    let turn = gate(&mut pruner, &[2], "executed.json");
    let holder = history.process();
    let (pruned, held) = live(join(pruner.prune(confirmed()), turn.take(holder.hold(ids[1]))));
    held.unwrap();
    let pruned = pruned.unwrap();
    assert!(pruned.exit_code == Code::Warning && pruned.pruned.is_empty(), "{pruned:?}");
    assert!(pruned.warnings.iter().any(|one| one.contains("stays, as it is held")), "{pruned:?}");
    assert!((0..3).all(|store| history.site.committed(store).contains(&ids[1])));
    // The next one takes it out of the plan, and the one after that deletes the rest.
    let next = live(history.process().keeping(2).prune(confirmed())).unwrap();
    assert!(next.warnings.iter().any(|one| one.contains("is no longer in the plan")), "{next:?}");
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
    for everything in [false, true] {
        let history = History::new(6);
        let ids = history.ids();
        history.prune(2);
        let other = Machine::new(1, "other");
        let pruner = Process::new(&history.site, &other, &history.database).keeping(2);
        let mut holder = history.process();
        // What it holds is there when it looks, and gone when the hold is on record.
        let turn = gate(&mut holder, &[0, 1, 2], "evidence/");
        let hold = async { if everything { holder.hold_everything().await } else { holder.hold(ids[1]).await } };
        let (pruned, held) = live(join(turn.take(pruner.prune(confirmed())), hold));
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
    let turn = gate(&mut taker, &[0, 1, 2], "inventory.json");
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
