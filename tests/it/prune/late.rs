//! Holds and backups that come while a prune executes a plan: one of the two sees the other.

use super::*;
use async_trait::async_trait;
use futures_util::{future::join, stream::BoxStream};
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, path::Path,
};
use std::{fmt, sync::Arc};
use tokio::sync::{Mutex, oneshot};

/// Says that a gate is reached, and waits until the other side is done.
type Passage = (oneshot::Sender<()>, oneshot::Receiver<()>);

/// A backend that lets somebody go first before an object of such a name is written.
#[derive(Debug)]
struct Gate {
    inner: Arc<dyn ObjectStore>,
    name: &'static str,
    go: Arc<Mutex<Option<Passage>>>,
}

/// The other side of a gate.
struct Turn {
    begun: oneshot::Receiver<()>,
    done: oneshot::Sender<()>,
}

impl Turn {
    /// Does something while the other one waits.
    async fn take<T>(self, act: impl Future<Output = T>) -> T {
        self.begun.await.expect("the gate is reached");
        let acted = act.await;
        self.done.send(()).expect("the gate waits");
        acted
    }
}

/// Puts a gate before stores of a process.
fn gate(process: &mut Process, stores: &[usize], name: &'static str) -> Turn {
    let (begin, begun) = oneshot::channel();
    let (done, finish) = oneshot::channel();
    let go = Arc::new(Mutex::new(Some((begin, finish))));
    for at in stores {
        let store = &mut process.host.repository.stores[*at];
        *store = store.clone().wrapped(|inner| Arc::new(Gate { inner, name, go: go.clone() }));
    }
    Turn { begun, done }
}

impl fmt::Display for Gate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Gate({})", self.inner)
    }
}

impl Gate {
    async fn pass(&self, location: &Path) {
        if !location.as_ref().contains(self.name) {
            return;
        }
        // Whoever comes next waits, too.
        let mut go = self.go.lock().await;
        if let Some((begin, finish)) = go.take() {
            begin.send(()).unwrap();
            finish.await.unwrap();
        }
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.pass(location).await;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, to: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
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
