//! The process dies after operation N on its stores, for every N; and one store fails alone at every N.
//!
//! Whatever was acknowledged before restores byte for byte, `verify` tells the truth, `copy` converges, and the next
//! backup works: a new process has nothing but the stores and the state directory as they were left.

use crate::simulation::{
    Machine, Process, Site,
    audit::Audit,
    content::{Database, Files, read_tree},
    live,
    random::Rng,
};
use recoup::{
    core::{
        failure::Code,
        id::SnapshotId,
        result::{Problem, Status},
        target::Target,
    },
    ops::backup::Snapshot,
    stores::fault::Operations,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a scenario does when the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Full,
    /// Re-uses one pack of the base and captures the rest of another again.
    Incremental,
    /// Nothing changed.
    Idle,
    /// One store is behind, objects of others are missing or damaged.
    Copy,
}

/// How the process dies.
#[derive(Clone, Copy, Debug)]
enum Death {
    /// Operation N is the last.
    After,
    /// Operation N is done, and nobody hears of it.
    Within,
}

/// A site with some history, ready for the act.
struct Prepared {
    site: Site,
    machine: Machine,
    database: Database,
    acknowledged: BTreeMap<SnapshotId, Files>,
    /// What was damaged on purpose.
    wrong: BTreeSet<String>,
}

impl Prepared {
    fn new(stores: usize, act: Act) -> Self {
        let mut rng = Rng::new(stores as u64);
        let mut database = Database::new(512);
        database.set("ledger.db", rng.bytes(512 * 64 - 100));
        let mut prepared = Prepared {
            site: Site::new(stores),
            machine: Machine::new(0, "prepared"),
            database,
            acknowledged: BTreeMap::new(),
            wrong: BTreeSet::new(),
        };
        prepared.acknowledge(None);
        prepared.database.rewrite("ledger.db", 0..20, &mut rng);
        prepared.acknowledge((act == Act::Copy && stores > 1).then_some(2));
        match act {
            Act::Full | Act::Incremental => prepared.database.rewrite("ledger.db", 20..44, &mut rng),
            Act::Idle => {}
            Act::Copy => prepared.spoil(),
        }
        prepared
    }

    /// Takes a snapshot that must be durable, with one store down perhaps.
    fn acknowledge(&mut self, down: Option<usize>) {
        let (process, of_store) = Process::apart(&self.site, &self.machine, &self.database);
        if let Some(store) = down {
            of_store[store].stop_after(0);
        }
        let snapshot = live(process.backup(false)).unwrap();
        assert!(snapshot.durable, "{:?}", snapshot.behind);
        self.acknowledged.insert(snapshot.head.id, self.database.files.clone());
    }

    /// Damages one object, removes another, and a clear file.
    fn spoil(&mut self) {
        self.site.remove(0, "RECOVERY.md");
        if self.site.backends.len() == 1 {
            return;
        }
        let objects = self.site.objects(0);
        let packs: Vec<&String> = objects.keys().filter(|key| key.ends_with("/0.age")).collect();
        let mut bytes = objects[packs[0]].to_vec();
        bytes[300] ^= 1;
        self.site.put(0, packs[0], bytes);
        self.site.remove(1, packs[1]);
        self.wrong.extend([format!("a: {}", packs[0]), format!("b: {}", packs[1])]);
    }

    fn fork(&self, seed: &str) -> Self {
        Prepared {
            site: self.site.fork(),
            machine: self.machine.fork(seed),
            database: self.database.fork(),
            acknowledged: self.acknowledged.clone(),
            wrong: self.wrong.clone(),
        }
    }

    /// Does the act in a process that may die meanwhile. The snapshot is the one that was acknowledged, if any.
    fn perform(&self, act: Act, process: &Process) -> Option<Snapshot> {
        match act {
            Act::Copy => {
                // What it says of a process that is gone does not matter.
                let _ = live(process.copy());
                None
            }
            _ => live(process.backup(act == Act::Full)).ok(),
        }
    }

    fn acknowledge_if_durable(&mut self, snapshot: Option<&Snapshot>) {
        if let Some(snapshot) = snapshot.filter(|snapshot| snapshot.durable) {
            self.acknowledged.insert(snapshot.head.id, self.database.files.clone());
        }
    }

    /// Everything that must hold for the next process.
    fn recover(&mut self, context: &str) {
        let mut audit = Audit::default();
        let faults: BTreeSet<String> = audit.faults(&self.site).into_iter().collect();
        assert!(faults.is_subset(&self.wrong), "{context}: {faults:?}");
        self.verify_is_true(context);
        self.every_snapshot_restores(context);
        let process = Process::new(&self.site, &self.machine, &self.database);
        let copied = live(process.copy()).unwrap();
        assert_eq!(copied.status, Status::Ok, "{context}: {:?} {:?}", copied.findings, copied.notes);
        let verified = live(process.verify()).unwrap();
        assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]), "{context}");
        // From here on nothing is wrong any more, and nothing that is there may change.
        let mut audit = Audit::default();
        assert_eq!(audit.faults(&self.site), Vec::<String>::new(), "{context}");
        let newest = self.committed().into_iter().map(|id| id.seq).max();
        let process = Process::new(&self.site, &self.machine, &self.database);
        let next = live(process.backup(false)).unwrap();
        assert_eq!(next.code(), Code::Done, "{context}: {:?} {:?}", next.behind, next.warnings);
        assert!(Some(next.head.id.seq) > newest, "{context}");
        let (latest, files) = live(process.restore(Target::Latest)).unwrap();
        assert_eq!((latest.snapshot, latest.code()), (next.head.id, Code::Done), "{context}");
        assert!(files == self.database.files, "{context}");
        assert_eq!(audit.faults(&self.site), Vec::<String>::new(), "{context}");
    }

    /// All that the next process has. A death that leaves the same as the one before needs no second look.
    fn left_behind(&self) -> (Vec<BTreeMap<String, usize>>, Files) {
        let stores = 0..self.site.backends.len();
        let sizes = |store| self.site.objects(store).into_iter().map(|(key, bytes)| (key, bytes.len())).collect();
        (stores.map(sizes).collect(), read_tree(&self.machine.state_dir()))
    }

    fn committed(&self) -> BTreeSet<SnapshotId> {
        (0..self.site.backends.len()).flat_map(|store| self.site.committed(store)).collect()
    }

    /// Findings name what was damaged, and stores that lack a snapshot; leftovers are none.
    fn verify_is_true(&self, context: &str) {
        let process = Process::new(&self.site, &self.machine, &self.database);
        let verified = live(process.verify()).unwrap();
        let committed = self.committed();
        for finding in &verified.findings {
            let store = ["a", "b", "c"].iter().position(|name| *name == finding.store).unwrap();
            let is_true = match (&finding.object, finding.problem) {
                (None, Problem::Behind) => {
                    let held = self.site.committed(store);
                    finding.snapshots.iter().all(|id| committed.contains(id) && !held.contains(id))
                }
                (Some(object), Problem::Damaged | Problem::Missing) => {
                    object == "RECOVERY.md" || self.wrong.contains(&format!("{}: {object}", finding.store))
                }
                _ => false,
            };
            assert!(is_true, "{context}: {finding:?}");
        }
        // A snapshot that never became durable is a note, not something that a store is behind with.
        let stores = self.site.backends.len();
        let held: Vec<BTreeSet<SnapshotId>> = (0..stores).map(|store| self.site.committed(store)).collect();
        let holders = |id: &SnapshotId| held.iter().filter(|held| held.contains(id)).count();
        let lacking = committed.iter().map(holders).any(|holders| holders > stores / 2 && holders < stores);
        let behind = verified.findings.iter().any(|finding| finding.problem == Problem::Behind);
        assert_eq!(lacking, behind, "{context}: {:?}", verified.findings);
        let still_wrong = Audit::default().faults(&self.site);
        for fault in still_wrong {
            let named = verified.findings.iter().any(|finding| {
                finding.object.as_ref().is_some_and(|object| fault == format!("{}: {object}", finding.store))
            });
            assert!(named, "{context}: {fault} is not named by {:?}", verified.findings);
        }
    }

    /// Acknowledged ones byte for byte; also one that was committed and never acknowledged is whole.
    fn every_snapshot_restores(&self, context: &str) {
        let process = Process::new(&self.site, &self.machine, &self.database);
        let committed = self.committed();
        for id in self.acknowledged.keys() {
            assert!(committed.contains(id), "{context}: {id} is on no store");
        }
        for id in committed {
            let expected = self.acknowledged.get(&id).unwrap_or(&self.database.files);
            process.expect_restored(id, expected);
        }
    }
}

/// Dies after, or within, every operation of the act.
fn die_everywhere(stores: usize, act: Act, death: Death) {
    let prepared = Prepared::new(stores, act);
    check_the_act(&prepared, stores, act);
    let mut seen = None;
    for last in 0..5000 {
        // The same random numbers every time: the same names.
        let mut crashed = prepared.fork("crashed");
        let process = Process::new(&crashed.site, &crashed.machine, &crashed.database);
        match death {
            Death::After => process.operations.stop_after(last),
            Death::Within => process.operations.stop_within(last + 1),
        }
        let snapshot = crashed.perform(act, &process);
        let stopped = process.operations.stopped();
        crashed.acknowledge_if_durable(snapshot.as_ref());
        let left_behind = crashed.left_behind();
        if stopped && seen.as_ref() == Some(&left_behind) {
            continue;
        }
        seen = Some(left_behind);
        crashed
            .recover(&format!("{act:?} on {stores}, dead {death:?} {last}: {}", last_operation(&process.operations)));
        if !stopped {
            assert!(last > 4, "the act takes more operations than that");
            return;
        }
    }
    panic!("the act never ends");
}

fn last_operation(operations: &Operations) -> String {
    operations.log().last().map_or_else(String::new, |last| format!("{} {} {}", last.store, last.verb, last.key))
}

/// Undisturbed, the act does what its name says.
fn check_the_act(prepared: &Prepared, stores: usize, act: Act) {
    let mut whole = prepared.fork("undisturbed");
    let process = Process::new(&whole.site, &whole.machine, &whole.database);
    let snapshot = whole.perform(act, &process);
    let base = whole.acknowledged.keys().next_back().unwrap();
    if let Some(snapshot) = &snapshot {
        assert!(snapshot.durable);
        let runs: BTreeSet<_> = snapshot.inventory.uses.iter().map(|used| used.run).collect();
        let own = snapshot.head.id.run;
        let first = whole.acknowledged.keys().next().unwrap();
        match act {
            Act::Full => assert_eq!(runs, [own].into()),
            Act::Incremental => assert_eq!(runs, [base.run, own].into(), "re-used, captured again"),
            Act::Idle => assert_eq!(runs, [first.run, base.run].into()),
            Act::Copy => {}
        }
    }
    if act == Act::Copy && stores == 3 {
        assert_eq!(whole.wrong.len(), 2);
        assert!(prepared.site.committed(2).len() < whole.site.committed(2).len());
    }
    whole.acknowledge_if_durable(snapshot.as_ref());
    whole.recover(&format!("{act:?} undisturbed"));
}

/// One store fails for good at its own operation N; the others live.
fn fail_alone(act: Act, failing: &[usize]) {
    let prepared = Prepared::new(3, act);
    for last in 0..1000 {
        let mut crashed = prepared.fork(&format!("alone {last}"));
        let (process, of_store) = Process::apart(&crashed.site, &crashed.machine, &crashed.database);
        failing.iter().for_each(|store| of_store[*store].stop_after(last));
        let snapshot = crashed.perform(act, &process).expect("stores that live take the snapshot");
        let stopped = failing.iter().filter(|store| of_store[**store].stopped()).count();
        let context = format!("{act:?}, {failing:?} fail after {last}");
        let expected = match stopped {
            0 => Code::Done,
            1 => Code::Warning,
            _ => Code::Failed,
        };
        assert_eq!(snapshot.code(), expected, "{context}: {:?}", snapshot.behind);
        assert_eq!(snapshot.durable, expected != Code::Failed, "{context}");
        for (at, name) in ["a", "b", "c"].into_iter().enumerate() {
            let named = snapshot.behind.iter().any(|(store, _)| store == name);
            let holds = crashed.site.committed(at).contains(&snapshot.head.id);
            assert_eq!(named, of_store[at].stopped(), "{context}: {:?}", snapshot.behind);
            assert!(holds || named, "{context}: {name} neither holds it nor is behind");
        }
        crashed.acknowledge_if_durable(Some(&snapshot));
        crashed.recover(&context);
        if stopped == 0 {
            assert!(last > 2);
            return;
        }
    }
    panic!("the act never ends");
}

/// One store fails for good at its own operation N while all are levelled.
#[test]
fn one_store_of_three_fails_during_a_copy() {
    let prepared = Prepared::new(3, Act::Copy);
    for failing in [0, 2] {
        let mut seen = None;
        for last in 0..1000 {
            let mut crashed = prepared.fork("crashed");
            let (process, of_store) = Process::apart(&crashed.site, &crashed.machine, &crashed.database);
            of_store[failing].stop_after(last);
            let copied = live(process.copy());
            let stopped = of_store[failing].stopped();
            let context = format!("store {failing} fails after {last} of a copy");
            let copied = copied.unwrap_or_else(|failure| panic!("{context}: {failure}"));
            // Well is said only of what is well: a store that failed once it was level may be.
            assert!(stopped || copied.status == Status::Ok, "{context}: {:?}", copied.findings);
            if copied.status == Status::Ok {
                assert_eq!(Audit::default().faults(&crashed.site), Vec::<String>::new(), "{context}");
                let committed = crashed.committed();
                assert!((0..3).all(|store| crashed.site.committed(store) == committed), "{context}");
                assert!(crashed.site.get(0, "RECOVERY.md").is_some(), "{context}");
            }
            let left_behind = crashed.left_behind();
            if !stopped || seen.as_ref() != Some(&left_behind) {
                crashed.recover(&context);
            }
            seen = Some(left_behind);
            if !stopped {
                break;
            }
        }
    }
}

macro_rules! dies {
    ($($name:ident: $stores:literal $act:ident $death:ident;)*) => {
        $(#[test]
        fn $name() {
            die_everywhere($stores, Act::$act, Death::$death);
        })*
    };
}

dies! {
    one_store_full_after: 1 Full After;
    one_store_full_within: 1 Full Within;
    one_store_incremental_after: 1 Incremental After;
    one_store_incremental_within: 1 Incremental Within;
    one_store_idle_after: 1 Idle After;
    one_store_idle_within: 1 Idle Within;
    one_store_copy_after: 1 Copy After;
    one_store_copy_within: 1 Copy Within;
    three_stores_full_after: 3 Full After;
    three_stores_full_within: 3 Full Within;
    three_stores_incremental_after: 3 Incremental After;
    three_stores_incremental_within: 3 Incremental Within;
    three_stores_idle_after: 3 Idle After;
    three_stores_idle_within: 3 Idle Within;
    three_stores_copy_after: 3 Copy After;
    three_stores_copy_within: 3 Copy Within;
}

#[test]
fn one_store_of_three_fails_alone() {
    for act in [Act::Full, Act::Incremental, Act::Idle] {
        fail_alone(act, &[0]);
        fail_alone(act, &[2]);
    }
}

#[test]
fn two_stores_of_three_fail() {
    for act in [Act::Full, Act::Incremental, Act::Idle] {
        fail_alone(act, &[0, 1]);
    }
}
