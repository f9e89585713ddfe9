//! Others that look at the stores, or decide about the same plan, while a prune deletes of the log.

use super::super::late::gate_where;
use super::{Logged, confirmed, moment};
use crate::simulation::{FOLDER, Machine, Process, asking::Verb, live, source_name};
use futures_util::future::join;
use recoup::{
    core::{
        failure::Code,
        id::RunId,
        log::LogFile,
        prune::Stage,
        result::{Problem, Status, StoreFinding},
        target::Target,
    },
    ops::prune::PruneRequest,
    repository::{layout, prunes::SignedPrune},
    stores::fault::Switch,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::oneshot;

/// Another host.
fn other() -> Machine {
    Machine::new(1, "other")
}

fn pruner_on(machine: &Machine, logged: &Logged) -> Process {
    Process::new(&logged.history.site, machine, &logged.history.database).keeping(1)
}

fn on_all(expected: std::ops::Range<u64>) -> [BTreeSet<u64>; 3] {
    [(); 3].map(|()| expected.clone().collect())
}

/// What the records of a plan's execution say of the log: how many parts each deletes and how many it drops, with the
/// number of stores that say so.
fn told_of(logged: &Logged, plan: RunId) -> BTreeMap<(usize, usize), usize> {
    let (_, prunes) = live(logged.process().host.repository.prunes(&source_name()));
    let mut told = BTreeMap::new();
    for SignedPrune { record, stores, .. } in &prunes.executed[&plan] {
        *told.entry((record.condemned.log.len(), record.dropped.log.len())).or_default() += stores.len();
    }
    told
}

/// Looks at the stores.
#[derive(Clone, Copy, Debug)]
enum Look {
    Verify,
    /// Where every store has everything.
    Copy,
    /// Where one has nothing of the log.
    Fill,
}

impl Look {
    async fn run(self, process: &Process) -> (Status, Vec<StoreFinding>) {
        match self {
            Look::Verify => {
                let verified = process.verify().await.unwrap();
                (verified.status, verified.findings)
            }
            Look::Copy | Look::Fill => {
                let copied = process.copy().await.unwrap();
                (copied.status, copied.findings)
            }
        }
    }

    fn prepare(self, logged: &Logged) {
        if let Look::Fill = self {
            let site = &logged.history.site;
            let of_log = site.objects(1).into_keys().filter(|key| key.contains("/log/"));
            of_log.for_each(|key| site.remove(1, &key));
        }
    }
}

/// A prune for which a store is gone after so many requests.
fn stopped(machine: &Machine, logged: &Logged, last: u64) -> Process {
    let (process, of_store) = Process::apart(&logged.history.site, machine, &logged.history.database);
    of_store[2].stop_after(last);
    process.keeping(1)
}

/// After how many requests that store is to go, so that nothing is deleted there, and all that goes is on the others.
fn last_before_deleting(planned: &Logged) -> u64 {
    let (first, next) = (planned.begins.last().unwrap().1, planned.server.next);
    let expected = [first..next, first..next, 1..next].map(|on| on.collect());
    let is_it = |last: &u64| {
        let logged = planned.fork("stopped");
        let pruned = live(stopped(&other(), &logged, *last).prune(confirmed()));
        pruned.is_ok() && logged.on_stores() == expected
    };
    (1..1000).find(is_it).unwrap()
}

/// A look at the stores, before one request of which a prune executes the plan.
fn look_beside(planned: &Logged, look: Look, number: usize, last: Option<u64>, context: &str) {
    let logged = planned.fork("meanwhile");
    look.prepare(&logged);
    let (mut looker, other) = (logged.process(), other());
    let asked = AtomicUsize::new(0);
    let turn = gate_where(&mut looker, &[0, 1, 2], move |_, _| asked.fetch_add(1, Ordering::Relaxed) == number);
    let pruner = last.map_or_else(|| pruner_on(&other, &logged), |last| stopped(&other, &logged, last));
    let (pruned, (status, findings)) = live(join(turn.take(pruner.prune(confirmed())), look.run(&looker)));
    assert!(!pruned.unwrap().pruned_log.is_empty(), "{context}");
    // One that was listed before the plan was executed knows nothing of that.
    let is_lag = |found: &StoreFinding| {
        found.problem == Problem::Behind && found.object.as_ref().is_some_and(|of| of.contains("/prunes/"))
    };
    let told: Vec<_> = findings.iter().filter(|found| !is_lag(found)).collect();
    assert_eq!(told, Vec::<&StoreFinding>::new(), "{context}");
    assert!(status != Status::Critical, "{context}");
    // What was brought after it was deleted goes with the next.
    live(pruner_on(&other, &logged).prune(confirmed())).unwrap();
    live(logged.process().copy()).unwrap();
    assert_eq!(logged.on_stores(), on_all(logged.begins.last().unwrap().1..logged.server.next), "{context}");
    logged.expect_level();
}

/// Whatever of its requests the prune comes before, which may die before it has deleted anything on one of the stores. With
/// one snapshot the plan is of log alone.
fn look_at_every_moment(snapshots: usize, dies: bool, step: usize) {
    let mut planned = Logged::new(0, 1);
    planned.go_on(2);
    for _ in 0..snapshots {
        planned.take();
    }
    planned.go_on(1);
    assert_eq!(planned.prune(1).condemned.len(), snapshots - 1);
    let last = dies.then(|| last_before_deleting(&planned));
    for look in [Look::Verify, Look::Copy, Look::Fill] {
        let counting = planned.fork("counting");
        look.prepare(&counting);
        let (mut looker, asked) = (counting.process(), Arc::new(AtomicUsize::new(0)));
        let counted = asked.clone();
        let nobody = gate_where(&mut looker, &[0, 1, 2], move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            false
        });
        live(look.run(&looker));
        drop(nobody);
        let all = asked.load(Ordering::Relaxed);
        assert!(all > 60, "{all}");
        for number in (0..all).step_by(step) {
            look_beside(&planned, look, number, last, &format!("{look:?} of {snapshots} before request {number}"));
        }
    }
}

#[test]
fn what_a_prune_deletes_of_the_log_while_somebody_looks_is_not_missed() {
    look_at_every_moment(3, false, 5);
    look_at_every_moment(1, false, 3);
}

#[test]
fn what_a_prune_deletes_that_dies_while_somebody_looks_is_not_missed() {
    look_at_every_moment(3, true, 5);
    look_at_every_moment(1, true, 1);
}

/// Nobody finds damage where a prune has deleted the snapshot that is being restored, with the log that leads on from it.
#[test]
fn a_restore_of_what_a_prune_deletes_meanwhile_is_told_so() {
    let planned = Logged::new(3, 2);
    planned.prune(1);
    // Its log is read for the plan of the replay, and fetched when all else is there.
    for files in [0, 1] {
        let logged = planned.fork("meanwhile");
        let name = LogFile::Segment(logged.server.name(2)).key();
        let (mut restorer, other, seen) = (logged.process(), other(), AtomicUsize::new(0));
        let turn = gate_where(&mut restorer, &[0, 1, 2], move |does, key| {
            let is_meant = does == Verb::Get && key.contains(&name) && key.ends_with(".age");
            is_meant && seen.fetch_add(1, Ordering::Relaxed) == files
        });
        let pruner = pruner_on(&other, &logged);
        let restore = restorer.restore(Target::Time(moment(1, 1)));
        let (pruned, restored) = live(join(turn.take(pruner.prune(confirmed())), restore));
        assert!(pruned.unwrap().pruned.contains(&logged.ids()[0]));
        let failure = restored.unwrap_err();
        assert_eq!(failure.code, Code::NoRecoveryPoint, "{failure}");
        let cause = failure.cause.unwrap();
        assert!(cause.contains("was pruned at") && cause.contains("while it was being restored"), "{cause}");
    }
}

type Objects = Vec<(String, Vec<u8>)>;

/// What another host puts on the stores that keeps so many and executes the plan, before it deletes anything.
fn execution(logged: &Logged, plan: RunId, keep_last: u64) -> Objects {
    let fork = logged.fork("executes");
    let machine = Machine::new(1, &format!("keeps {keep_last}"));
    let process = Process::new(&fork.history.site, &machine, &fork.history.database).keeping(keep_last);
    live(process.prune(confirmed())).unwrap();
    let record = layout::prune_object(plan, Stage::Executed);
    let names = [layout::prune_list(plan), format!("{record}.sig"), record];
    let keys = names.map(|name| format!("{FOLDER}{name}"));
    keys.into_iter().map(|key| (key.clone(), fork.history.site.get(0, &key).unwrap().to_vec())).collect()
}

fn put_on(logged: &Logged, objects: &Objects, stores: &[usize]) {
    for store in stores {
        objects.iter().for_each(|(key, bytes)| logged.history.site.put(*store, key, bytes.clone()));
    }
}

/// Four snapshots, a plan that condemns all but the last, and the record of its execution by another host that keeps so
/// many, on these stores.
fn recorded(records: &[(u64, &[usize])]) -> (Logged, RunId) {
    let logged = Logged::new(4, 2);
    let plan = logged.prune(1).plan.unwrap();
    // Each has seen no other.
    let executions: Vec<Objects> = records.iter().map(|(keep_last, _)| execution(&logged, plan, *keep_last)).collect();
    executions.iter().zip(records).for_each(|(objects, (_, stores))| put_on(&logged, objects, stores));
    (logged, plan)
}

/// One host deletes the log that the other keeps: it stays, and so says every store in the end.
#[test]
fn where_two_records_differ_the_log_that_one_keeps_stays() {
    for (all, less) in [(&[0, 1][..], &[2][..]), (&[2], &[0, 1])] {
        // The other one keeps everything.
        let (logged, plan) = recorded(&[(1, all), (10, less)]);
        assert_eq!(told_of(&logged, plan), [((0, 1), less.len()), ((1, 0), all.len())].into());
        for snapshot in 0..4 {
            logged.expect_moments(snapshot);
        }
        live(logged.process().keeping(10).prune(confirmed())).unwrap();
        assert_eq!(told_of(&logged, plan), [((0, 1), 3)].into());
        for store in 0..3 {
            logged.history.site.empty(store);
            live(logged.process().copy()).unwrap();
        }
        assert_eq!(logged.on_stores(), on_all(1..9));
        for snapshot in 0..4 {
            logged.expect_moments(snapshot);
        }
        logged.expect_level();
    }
}

/// The same while each of them is at it: a prune that has read that all goes, and finds that less does when it looks again.
#[test]
fn what_is_taken_out_of_a_plan_while_a_prune_finishes_it_stays() {
    let (logged, plan) = recorded(&[]);
    let held = logged.ids()[1];
    let execution = execution(&logged, plan, 1);
    let (mut holder, mut finisher, other) = (logged.process(), logged.process().keeping(1), other());
    // It looks for the snapshot before the execution is on record, and is on record itself when that has been read.
    let turn_of_holder =
        gate_where(&mut holder, &[0, 1, 2], |does, key| does == Verb::Put && key.contains("evidence/"));
    // The signature is read once to know what there is, and once more before anything is deleted.
    let seen = AtomicUsize::new(0);
    let turn_of_finisher = gate_where(&mut finisher, &[0], move |does, key| {
        does == Verb::Get && key.ends_with("/executed.json.sig") && seen.fetch_add(1, Ordering::Relaxed) == 1
    });
    let ((recorded, is_recorded), (read, is_read), (noted, is_noted)) =
        (oneshot::channel(), oneshot::channel(), oneshot::channel());
    let hold = async {
        let hold = async {
            let too_late = holder.hold(held).await.unwrap_err();
            assert!(too_late.message.contains("came too late"), "{too_late}");
            noted.send(()).unwrap();
        };
        let record = async {
            put_on(&logged, &execution, &[0, 1, 2]);
            recorded.send(()).unwrap();
            is_read.await.unwrap();
        };
        join(turn_of_holder.take(record), hold).await
    };
    let finish = async {
        is_recorded.await.unwrap();
        let spare = async {
            read.send(()).unwrap();
            is_noted.await.unwrap();
            pruner_on(&other, &logged).prune(confirmed()).await.unwrap()
        };
        join(finisher.prune(confirmed()), turn_of_finisher.take(spare)).await
    };
    let ((finished, spared), _) = live(join(finish, hold));
    assert!(spared.warnings.iter().any(|one| one.contains("is no longer in the plan")), "{spared:?}");
    finished.unwrap();
    assert_eq!(told_of(&logged, plan), [((0, 1), 3)].into());
    assert_eq!(logged.on_stores(), on_all(1..9));
    logged.expect_moments(1);
    let restored = live(logged.process().restore(Target::SnapshotId(held))).unwrap();
    assert_eq!(restored.0.snapshot, held);
}

/// A prune executes a plan while somebody cancels it: either all of it goes, or nothing does.
#[test]
fn a_plan_is_cancelled_while_it_is_executed() {
    let mut outcomes = BTreeSet::new();
    for number in (0..400).step_by(3) {
        let logged = Logged::new(3, 2);
        let plan = logged.prune(1).plan.unwrap();
        let other = other();
        let mut pruner = pruner_on(&other, &logged);
        let asked = AtomicUsize::new(0);
        let all = Arc::new(AtomicUsize::new(0));
        let counted = all.clone();
        let turn = gate_where(&mut pruner, &[0, 1, 2], move |_, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            asked.fetch_add(1, Ordering::Relaxed) == number
        });
        let cancel = PruneRequest { cancel: Some(plan), ..PruneRequest::default() };
        let canceller = logged.process().keeping(10);
        let prune = pruner.prune(confirmed());
        let both = async {
            tokio::select! {
                biased;
                both = join_both(turn.take(canceller.prune(cancel)), prune) => Some(both),
                () = tokio::time::sleep(std::time::Duration::from_secs(100_000)) => None,
            }
        };
        let Some(is_cancelled) = live(both) else {
            assert!(all.load(Ordering::Relaxed) <= number);
            break;
        };
        let expected = if is_cancelled { 1..7 } else { 5..7 };
        live(pruner_on(&other, &logged).keeping(10).prune(confirmed())).unwrap();
        assert_eq!(logged.on_stores(), on_all(expected), "cancelled before request {number}: {is_cancelled}");
        logged.expect_moments(2);
        logged.expect_level();
        outcomes.insert(is_cancelled);
    }
    assert_eq!(outcomes, [false, true].into());
}

/// Whether the plan was cancelled.
async fn join_both<T, E, U, F>(
    cancel: impl Future<Output = Result<T, E>>,
    prune: impl Future<Output = Result<U, F>>,
) -> bool {
    join(cancel, prune).await.0.is_ok()
}

/// While a store is away nothing goes, and afterwards everything.
#[test]
fn nothing_of_the_log_goes_while_a_store_is_away() {
    let logged = Logged::new(3, 2);
    logged.prune(1);
    for away in 0..3 {
        let process = logged.process().keeping(1);
        process.faults[away].switch(Switch::Down);
        live(process.prune(confirmed())).unwrap_err();
        assert_eq!(logged.on_stores(), on_all(1..7));
    }
    logged.prune(1);
    assert_eq!(logged.on_stores(), on_all(5..7));
}

/// Every store says that the plan is executed, and nothing is deleted yet.
#[test]
fn without_its_list_an_executed_plan_deletes_no_log() {
    for (good, forged) in [(None, false), (None, true), (Some(2), true)] {
        let (logged, plan) = recorded(&[(1, &[0, 1, 2])]);
        let site = &logged.history.site;
        let list = format!("{FOLDER}{}", layout::prune_list(plan));
        let right = String::from_utf8(site.get(0, &list).unwrap().to_vec()).unwrap();
        for store in (0..3).filter(|store| good != Some(*store)) {
            site.remove(store, &list);
            if forged {
                // All that there is.
                let runs: Vec<String> = logged.server.runs_on(site, 0).iter().map(|run| format!("\"{run}\"")).collect();
                let at = right.find("\"runs\":[").unwrap() + "\"runs\":[".len();
                let end = at + right[at..].find(']').unwrap();
                let other = [&right[..at], &runs.join(","), &right[end..]].concat();
                assert_ne!(other, right);
                site.put(store, &list, other.into_bytes());
            }
        }
        live(logged.process().keeping(1).prune(confirmed())).unwrap();
        let expected = if good.is_some() { 7..9 } else { 1..9 };
        assert_eq!(logged.on_stores(), on_all(expected), "{good:?} {forged}");
        // What nothing tells is deleted is condemned again, and goes by a plan of its own.
        for _ in 0..3 {
            live(logged.process().keeping(1).prune(confirmed())).unwrap();
        }
        assert_eq!(logged.on_stores(), on_all(7..9), "{good:?} {forged}");
        logged.expect_moments(3);
    }
}
