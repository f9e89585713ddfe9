//! Pruning: what goes, what stays, and what every other command makes of it.

mod apart;
mod commands;
mod crash;
mod denied;
mod emptied;
mod future;
mod junk;
mod late;
mod logs;
mod noted;
mod scale;
mod schedules;
mod settled;
mod unfinished;
mod unshown;

use crate::simulation::{
    FOLDER, Machine, Process, STORES, Site,
    audit::Audit,
    content::{Database, Files},
    graves::Graves,
    live,
    random::Rng,
    source_name,
};
use recoup::{
    core::{
        failure::Code,
        id::SnapshotId,
        result::{Problem, PrunedSource, Status},
        target::Target,
    },
    format::signature::{self, HostKey},
    ops::{
        list::{self, ListRequest},
        prune::PruneRequest,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Three stores with a history.
pub(super) struct History {
    pub(super) site: Site,
    pub(super) machine: Machine,
    pub(super) database: Database,
    pub(super) taken: BTreeMap<SnapshotId, Files>,
    rng: Rng,
}

impl History {
    /// So many snapshots, one an hour: each uses a part of those before it, and every third changes nothing.
    pub(super) fn new(snapshots: usize) -> Self {
        let mut rng = Rng::new(5);
        let mut database = Database::new(512);
        database.set("ledger.db", rng.bytes(512 * 64));
        let (site, machine) = (Site::new(3), Machine::new(0, "history"));
        let mut history = History { site, machine, database, taken: BTreeMap::new(), rng };
        for number in 0..snapshots {
            history.take(number % 3 != 2);
        }
        history
    }

    pub(super) fn fork(&self, seed: &str) -> Self {
        History {
            site: self.site.fork(),
            machine: self.machine.fork(seed),
            database: self.database.fork(),
            taken: self.taken.clone(),
            rng: Rng::new(6),
        }
    }

    pub(super) fn take(&mut self, changed: bool) -> SnapshotId {
        if changed {
            let from = self.rng.below(40) as usize;
            self.database.rewrite("ledger.db", from..from + 20, &mut self.rng);
        }
        let snapshot = live(self.process().backup(false)).unwrap();
        assert_eq!(snapshot.code(), Code::Done, "{:?} {:?}", snapshot.behind, snapshot.warnings);
        self.taken.insert(snapshot.head.id, self.database.files.clone());
        self.machine.clock.advance_seconds(3600);
        snapshot.head.id
    }

    pub(super) fn process(&self) -> Process {
        Process::new(&self.site, &self.machine, &self.database)
    }

    fn prune(&self, keep_last: u64) -> PrunedSource {
        let pruned = live(self.process().keeping(keep_last).prune(confirmed())).unwrap();
        assert_eq!(pruned.exit_code, Code::Done, "{}", pruned.message);
        pruned
    }

    /// What another host that keeps so many deletes when it executes the plan, and its record of that, as names and bytes.
    fn execution(&self, keep_last: u64) -> (Vec<SnapshotId>, Vec<(String, Vec<u8>)>) {
        let fork = self.fork("executes");
        let machine = Machine::new(1, &format!("other that keeps {keep_last}"));
        let process = Process::new(&fork.site, &machine, &fork.database).keeping(keep_last);
        let pruned = live(process.prune(confirmed())).unwrap().pruned;
        let objects = fork.site.objects(0).into_iter().filter(|(name, _)| name.contains("/executed.json"));
        (pruned, objects.map(|(name, bytes)| (name, bytes.to_vec())).collect())
    }

    fn put(&self, store: usize, objects: &[(String, Vec<u8>)]) {
        objects.iter().for_each(|(name, bytes)| self.site.put(store, name, bytes.clone()));
    }

    /// A new disk in the place of a store, brought level.
    fn replace(&self, store: usize) {
        self.site.empty(store);
        live(self.process().copy()).unwrap();
    }

    fn ids(&self) -> Vec<SnapshotId> {
        self.taken.keys().copied().collect()
    }

    fn listed(&self) -> Vec<SnapshotId> {
        let request = ListRequest { source: Some(source_name()), ..ListRequest::default() };
        let listed = live(list::list(&self.process().host.repository, &request)).unwrap();
        listed.snapshots.iter().map(|entry| entry.id()).collect()
    }

    pub(super) fn restore_all(&self, ids: &[SnapshotId]) {
        for id in ids {
            self.process().expect_restored(*id, &self.taken[id]);
        }
    }

    #[track_caller]
    fn verify_is(&self, status: Status) {
        let verified = live(self.process().verify()).unwrap();
        assert_eq!(verified.status, status, "{:?} {:?}", verified.findings, verified.notes);
    }
}

pub(super) fn confirmed() -> PruneRequest {
    PruneRequest { confirmed: true, ..PruneRequest::default() }
}

fn now() -> PruneRequest {
    PruneRequest { now: true, ..confirmed() }
}

/// What deleted plans name and a store still has.
pub(super) fn leftovers(site: &Site) -> Vec<String> {
    let graves = Graves::of(site);
    let of = |store: usize| {
        let keys = site.objects(store).into_keys();
        keys.filter(|key| key.strip_prefix(FOLDER).is_some_and(|name| graves.name(name))).collect::<Vec<_>>()
    };
    (0..site.backends.len()).flat_map(of).collect()
}

#[test]
fn a_plan_first_and_the_deletion_in_the_next_run() {
    let mut history = History::new(6);
    let (ids, mut audit) = (history.ids(), Audit::default());
    assert!(audit.faults(&history.site).is_empty());
    let before = history.site.objects(0).len();
    let planned = history.prune(2);
    assert_eq!((planned.condemned, planned.pruned), (ids[..4].to_vec(), vec![]));
    // The plan and its signature, and nothing less.
    assert_eq!(history.site.objects(0).len(), before + 2);
    history.restore_all(&ids);
    history.verify_is(Status::Ok);
    assert_eq!(history.listed(), ids);

    let executed = history.prune(2);
    assert_eq!((executed.plan, executed.pruned), (None, ids[..4].to_vec()));
    assert_eq!(audit.faults(&history.site), Vec::<String>::new());
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    assert!(history.site.objects(0).len() < before);
    assert_eq!(history.listed(), ids[4..]);
    history.restore_all(&ids[4..]);
    history.verify_is(Status::Ok);
    let refused = live(history.process().restore(Target::SnapshotId(ids[1]))).unwrap_err();
    assert_eq!(refused.code, Code::NoRecoveryPoint);
    assert!(refused.message.contains("was pruned at "), "{refused}");
    let refused = live(history.process().restore(Target::Snapshot(ids[1].seq))).unwrap_err();
    assert!(refused.message.contains("was pruned at "), "{refused}");

    // Nothing is left to do, nothing comes back, and everything goes on.
    let again = history.prune(2);
    assert_eq!((again.plan, &again.executed[..], &again.message[..]), (None, &[][..], "nothing to prune"));
    let copied = live(history.process().copy()).unwrap();
    assert_eq!(copied.status, Status::Ok);
    assert!(copied.stores.iter().all(|store| store.copied_objects == 0), "{:?}", copied.stores);
    let next = history.take(true);
    assert_eq!(next.seq, ids[5].seq + 1);
    history.verify_is(Status::Ok);
    assert_eq!(audit.faults(&history.site), Vec::<String>::new());
}

#[test]
fn at_once_when_it_is_asked_for() {
    let history = History::new(6);
    let ids = history.ids();
    let pruned = live(history.process().keeping(1).prune(now())).unwrap();
    assert_eq!((pruned.exit_code, pruned.pruned), (Code::Done, ids[..5].to_vec()));
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    history.restore_all(&ids[5..]);
    history.verify_is(Status::Ok);
}

#[test]
fn doubts_are_for_somebody_to_settle() {
    let history = History::new(6);
    let process = history.process().keeping(1);
    let refused = live(process.prune(PruneRequest::default())).unwrap_err();
    assert_eq!(refused.code, Code::Refused);
    assert!(refused.cause.as_ref().unwrap().contains("5 of 6 snapshots would go"), "{refused}");
    assert!(refused.next_step.as_ref().unwrap().contains("--confirm=ledger"), "{refused}");
    // The clock of another host was ahead: the snapshot lies in the future.
    history.machine.clock.advance_seconds(-50_000);
    let refused = live(history.process().keeping(5).prune(PruneRequest::default())).unwrap_err();
    assert!(refused.cause.as_ref().unwrap().contains("lies in the future"), "{refused}");
    // Backups have stopped.
    history.machine.clock.advance_seconds(5_000_000);
    let mut process = history.process().keeping(5);
    process.protected.policy.incremental_interval = Some(std::time::Duration::from_secs(3600));
    let refused = live(process.prune(PruneRequest::default())).unwrap_err();
    assert!(refused.cause.as_ref().unwrap().contains("backups have stopped"), "{refused}");
    // A plan that was confirmed once is executed without being confirmed again.
    let history = History::new(6);
    history.prune(1);
    let pruned = live(history.process().keeping(1).prune(PruneRequest::default())).unwrap();
    assert_eq!(pruned.pruned.len(), 5);
}

#[test]
fn without_a_rule_everything_is_kept() {
    let history = History::new(3);
    let before = history.site.objects(0);
    let pruned = live(history.process().prune(PruneRequest::default())).unwrap();
    assert_eq!((pruned.exit_code, pruned.plan), (Code::Done, None));
    assert_eq!(history.site.objects(0), before);
}

#[test]
fn while_a_store_is_silent_nothing_is_pruned() {
    let history = History::new(5);
    history.prune(2);
    let before: Vec<_> = (0..3).map(|store| history.site.objects(store)).collect();
    let (process, of_store) = Process::apart(&history.site, &history.machine, &history.database);
    of_store[2].stop_after(0);
    let refused = live(process.keeping(2).prune(confirmed())).unwrap_err();
    assert_eq!(refused.code, Code::Store);
    assert!(refused.cause.as_ref().unwrap().starts_with("store c: stopped by the test; it may be"), "{refused}");
    assert_eq!((0..3).map(|store| history.site.objects(store)).collect::<Vec<_>>(), before);
}

#[test]
fn a_store_that_lagged_is_finished_later_and_brings_nothing_back() {
    let history = History::new(6);
    let ids = history.ids();
    history.prune(2);
    // It is there until the plan is on record as executed, and gone before it has deleted anything.
    let gone_after = |last: u64| {
        let fork = history.fork("lags");
        let (process, of_store) = Process::apart(&fork.site, &fork.machine, &fork.database);
        of_store[2].stop_after(last);
        let pruned = live(process.keeping(2).prune(confirmed())).ok()?;
        (fork.site.committed(2).len() == 6 && fork.site.committed(0).len() == 2).then_some((fork, pruned))
    };
    let (history, pruned) = (1..1000).find_map(gone_after).unwrap();
    assert_eq!(pruned.exit_code, Code::Warning, "{}", pruned.message);
    assert_eq!(pruned.stores.iter().filter(|store| store.cause.is_some()).count(), 1);
    assert_eq!(history.site.committed(2).len(), 6);
    assert_eq!(history.site.committed(0).len(), 2);
    // Its disk comes back as it was before.
    let records: Vec<String> =
        history.site.objects(2).into_keys().filter(|name| name.contains("/executed.json")).collect();
    assert_eq!(records.len(), 2);
    records.iter().for_each(|name| history.site.remove(2, name));
    assert_eq!(history.listed(), ids[4..]);

    let verified = live(history.process().verify()).unwrap();
    assert_eq!(verified.status, Status::Warning, "{:?}", verified.findings);
    assert!(verified.findings.iter().all(|found| found.problem == Problem::Behind && found.store == "c"));
    assert!(verified.notes.iter().any(|note| note.contains("of pruned snapshots")), "{:?}", verified.notes);
    // Copying brings the tombstones and the next plan there, and nothing that they name anywhere.
    let copied = live(history.process().copy()).unwrap();
    assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
    assert_eq!(copied.stores.iter().map(|store| store.copied_objects).collect::<Vec<_>>(), [0, 0, 4]);
    assert_eq!(history.site.committed(0).len(), 2);
    history.verify_is(Status::Ok);
    let finished = history.prune(2);
    let deleted: BTreeMap<_, _> =
        finished.stores.iter().map(|store| (store.store.as_str(), store.deleted_objects > 0)).collect();
    assert_eq!(deleted, BTreeMap::from([("c", true)]));
    assert_eq!(leftovers(&history.site), Vec::<String>::new());
    history.restore_all(&ids[4..]);
}

#[test]
fn a_wrong_plan_can_be_stopped() {
    // By correcting the policy before the next run.
    let history = History::new(6);
    let ids = history.ids();
    history.prune(1);
    let executed = history.prune(4);
    assert_eq!((executed.pruned, executed.dropped), (ids[..2].to_vec(), ids[2..5].to_vec()));
    history.restore_all(&ids[2..]);
    history.verify_is(Status::Ok);
    assert_eq!(leftovers(&history.site), Vec::<String>::new());

    // Or by name.
    let history = History::new(6);
    let plan = history.prune(1).plan;
    let cancel = PruneRequest { cancel: plan, ..PruneRequest::default() };
    let cancelled = live(history.process().keeping(1).prune(cancel.clone())).unwrap();
    assert_eq!((cancelled.exit_code, &cancelled.pruned[..]), (Code::Done, &[][..]), "{}", cancelled.message);
    assert_eq!(cancelled.dropped, ids[..5]);
    let refused = live(history.process().keeping(1).prune(cancel)).unwrap_err();
    assert!(refused.cause.as_ref().unwrap().contains("executed already"), "{refused}");
    history.restore_all(&ids);
    history.verify_is(Status::Ok);
    assert_eq!(history.listed(), ids);
}

#[test]
fn nobody_else_may_prune() {
    let history = History::new(4);
    let ids = history.ids();
    let pruned = live(history.process().keeping(1).prune(now())).unwrap();
    let plan = pruned.plan.unwrap();
    // The record of another repository's life: every snapshot gone, signed by a stranger, or in the wrong role.
    let text = String::from_utf8(history.site.get(0, &record(plan, "executed")).unwrap().to_vec()).unwrap();
    let history = History::new(4);
    let keys = [
        HostKey::generate([9; 32], "").sign(signature::PRUNE, text.as_bytes()),
        history.process().host.key.sign(signature::INVENTORY, text.as_bytes()),
    ];
    for signature in keys {
        let history = history.fork("forged");
        for store in 0..3 {
            history.site.put(store, &format!("{}.sig", record(plan, "executed")), signature.clone().into_bytes());
            history.site.put(store, &record(plan, "executed"), text.clone().into_bytes());
        }
        assert_eq!(history.listed(), ids);
        let verified = live(history.process().verify()).unwrap();
        assert_eq!(verified.status, Status::Critical);
        assert!(verified.findings.iter().all(|found| found.problem == Problem::Foreign), "{:?}", verified.findings);
        history.restore_all(&ids);
        history.prune(4);
        history.restore_all(&ids);
    }
    // A plan cannot be passed off as executed.
    let history = history.fork("replayed");
    let plan = history.prune(1).plan.unwrap();
    for (from, to) in [("plan", "executed")] {
        for suffix in ["", ".sig"] {
            let bytes = history.site.get(0, &format!("{}{suffix}", record(plan, from))).unwrap();
            history.site.put(0, &format!("{}{suffix}", record(plan, to)), bytes.to_vec());
        }
    }
    assert_eq!(history.listed(), ids);
    history.verify_is(Status::Critical);
}

fn record(plan: recoup::core::id::RunId, name: &str) -> String {
    format!("{FOLDER}prunes/{plan}/{name}.json")
}

#[test]
fn what_no_store_has_can_be_given_up() {
    let history = History::new(4);
    let ids = history.ids();
    let lost = ids[1];
    let forget = |id| PruneRequest { forget: Some(id), ..now() };
    let refused = live(history.process().prune(forget(lost))).unwrap_err();
    assert!(refused.cause.as_ref().unwrap().contains("it is whole on a, b, c"), "{refused}");
    let unheard_of = "0000000001-aaaaaaaaaaaaaaaa".parse().unwrap();
    let refused = live(history.process().prune(forget(unheard_of))).unwrap_err();
    assert!(refused.cause.as_ref().unwrap().contains("ever heard of it"), "{refused}");
    for store in 0..3 {
        for name in ["inventory.json", "inventory.json.sig"] {
            history.site.remove(store, &format!("{FOLDER}snapshots/{lost}/{name}"));
        }
    }
    history.verify_is(Status::Critical);
    let (process, of_store) = Process::apart(&history.site, &history.machine, &history.database);
    of_store[1].stop_after(0);
    assert_eq!(live(process.prune(forget(lost))).unwrap_err().code, Code::Store);
    let pruned = live(history.process().prune(forget(lost))).unwrap();
    assert_eq!((pruned.exit_code, pruned.pruned), (Code::Done, vec![lost]), "{}", pruned.message);
    history.verify_is(Status::Ok);
    assert_eq!(live(history.process().copy()).unwrap().status, Status::Ok);
    let kept: Vec<SnapshotId> = ids.into_iter().filter(|id| *id != lost).collect();
    history.restore_all(&kept);
    assert_eq!(history.listed(), kept);
}

#[test]
fn what_cannot_be_read_stops_a_prune() {
    let history = History::new(4);
    let damaged = history.ids()[3];
    for store in 0..3 {
        let key = format!("{FOLDER}snapshots/{damaged}/inventory.json");
        let mut bytes = history.site.get(store, &key).unwrap().to_vec();
        bytes[100] ^= 1;
        history.site.put(store, &key, bytes);
    }
    let refused = live(history.process().keeping(1).prune(PruneRequest::default())).unwrap_err();
    assert_eq!(refused.code, Code::Refused);
    assert!(refused.message.contains(&damaged.to_string()), "{refused}");
}

#[test]
fn what_killed_runs_have_left_goes_once_every_writer_has_moved_on() {
    let mut history = History::new(3);
    history.database.rewrite("ledger.db", 0..9, &mut Rng::new(1));
    let before: BTreeSet<String> = history.site.objects(0).into_keys().collect();
    let killed = |last: u64| {
        let fork = history.fork("killed");
        let process = fork.process();
        process.operations.stop_after(last);
        let _ = live(process.backup(true));
        let left: BTreeSet<String> = fork.site.objects(0).into_keys().filter(|key| !before.contains(key)).collect();
        let has_committed = (0..3).any(|store| fork.site.committed(store).len() > 3);
        (left.iter().any(|key| key.contains("/packs/")) && !has_committed).then_some((fork, left))
    };
    let (mut history, left) = (10..100).find_map(killed).unwrap();
    let still_there = |history: &History| left.iter().filter(|key| history.site.get(0, key).is_some()).count();
    // Seen once, it may still be at work.
    assert!(history.prune(9).plan.is_some());
    history.prune(9);
    assert_eq!(history.prune(9).message, "nothing to prune");
    assert_eq!(still_there(&history), left.len());
    history.take(true);
    assert!(history.prune(9).plan.is_some());
    assert_eq!(still_there(&history), left.len());
    history.prune(9);
    assert_eq!(still_there(&history), 0);
    history.restore_all(&history.ids());
    history.verify_is(Status::Ok);
}

/// Too few stores had it to make it durable, and the only one is down.
#[test]
fn a_snapshot_that_only_a_store_that_is_down_has_is_no_unfinished_run() {
    let mut history = History::new(3);
    history.database.rewrite("ledger.db", 0..9, &mut Rng::new(1));
    let on_one_only = |last: u64| {
        let fork = history.fork("one store");
        let (process, of_store) = Process::apart(&fork.site, &fork.machine, &fork.database);
        of_store[1..].iter().for_each(|operations| operations.stop_after(last));
        let taken = live(process.backup(true)).ok()?;
        let left =
            |store: usize| fork.site.objects(store).into_keys().any(|key| key.contains(&taken.head.id.to_string()));
        (taken.stores == ["a"] && left(1) && left(2)).then_some(fork)
    };
    let history = (1..100).find_map(on_one_only).unwrap();
    // The host that prunes is another one: what this one knows of its snapshots is not put right on the way.
    let pruner = Machine::new(1, "pruner");
    let without_a = |machine: &Machine| {
        let (process, of_store) = Process::apart(&history.site, machine, &history.database);
        of_store[0].stop_after(0);
        process.keeping(9)
    };
    // Seen once, it may still be in flight; once its writer has moved on, it would be condemned.
    assert_eq!(live(without_a(&pruner).prune(confirmed())).unwrap_err().code, Code::Store);
    assert!(live(without_a(&history.machine).backup(true)).unwrap().durable);
    assert_eq!(live(without_a(&pruner).prune(confirmed())).unwrap_err().code, Code::Store);
    // The store is back, and shows what it is a part of.
    for _ in 0..4 {
        let pruned = live(Process::new(&history.site, &pruner, &history.database).keeping(9).prune(confirmed()));
        assert!(pruned.unwrap().stores.iter().all(|store| store.deleted_objects == 0));
    }
    assert_eq!(live(history.process().copy()).unwrap().findings, []);
    assert!((0..3).all(|store| history.site.committed(store).len() == 5));
    history.verify_is(Status::Ok);
}

/// A backup whose base another host condemns and deletes while it is under way.
#[test]
fn a_backup_that_met_a_prune_is_taken_again() {
    let mut retaken = 0;
    for seed in 0..40 {
        let mut history = History::new(2);
        // The second host has an old base, and goes on from it while the first prunes all but the newest.
        let second = Machine::new(1, &format!("{seed}"));
        let mut rng = Rng::new(seed);
        history.database.rewrite("ledger.db", 0..4, &mut rng);
        let base = live(Process::new(&history.site, &second, &history.database).backup(false)).unwrap();
        history.taken.insert(base.head.id, history.database.files.clone());
        history.machine.clock.advance_seconds(7200);
        second.clock.advance_seconds(7200);
        live(history.process().backup(true)).unwrap();
        history.database.rewrite("ledger.db", 30..34, &mut rng);
        let backup = Process::new(&history.site, &second, &history.database);
        let prune = history.process().keeping(1);
        for process in [&backup, &prune] {
            let rates = recoup::stores::fault::Rates {
                latency: 1000,
                latency_max: std::time::Duration::from_secs(5),
                ..Default::default()
            };
            process.faults.iter().for_each(|faults| faults.schedule(rng.next(), rates));
        }
        let (taken, pruned) = live(async { tokio::join!(backup.backup(false), prune.prune(now())) });
        let (taken, pruned) = (taken.unwrap(), pruned.unwrap());
        assert!(taken.durable, "seed {seed}: {:?}", taken.behind);
        retaken += u32::from(taken.notes.iter().any(|note| note.contains("it was taken again")));
        Process::new(&history.site, &second, &history.database).expect_restored(taken.head.id, &history.database.files);
        assert!(!Graves::of(&history.site).snapshots().contains(&taken.head.id), "seed {seed}");
        assert!(pruned.executed.len() == 1, "seed {seed}");
        let verified = live(history.process().verify()).unwrap();
        assert!(verified.status <= Status::Warning, "seed {seed}: {:?}", verified.findings);
        // Whatever went wrong with the first attempt goes with the next two runs.
        for _ in 0..2 {
            live(history.process().keeping(1).prune(confirmed())).unwrap();
        }
        assert_eq!(leftovers(&history.site), Vec::<String>::new(), "seed {seed}");
        Process::new(&history.site, &second, &history.database).expect_restored(taken.head.id, &history.database.files);
    }
    assert!(retaken > 0, "no seed made them meet");
    assert_eq!(STORES.len(), 3);
}
