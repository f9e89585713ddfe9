//! Two simulated hosts over three stores, which back up, prune, copy and race, while stores go down and clocks jump.
//!
//! What was acknowledged restores byte for byte until an executed plan says otherwise; no plan takes more than the rule
//! lets go; nothing comes back; nothing wedges. Seeded: a failing seed prints the line that replays it.

use super::{confirmed, leftovers};
use crate::simulation::{
    Machine, Process, STORES, Site, Trace,
    audit::{Audit, spoilt},
    content::{Database, Files},
    graves::Graves,
    links::Links,
    live,
    random::Rng,
    replay_named, replayable, seeds_in_parts,
};
use recoup::{
    core::{
        evidence::HoldId,
        failure::{Code, Failure},
        id::SnapshotId,
        result::{Problem, PrunedSource, Status, StoreFinding},
        target::Target,
    },
    ops::{backup::Snapshot, prune::PruneRequest},
    stores::fault::{Rates, Switch},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

struct Simulation {
    rng: Rng,
    site: Site,
    machines: [Machine; 2],
    databases: [Database; 2],
    links: Links,
    keep_last: u64,
    /// How many stores each host's policy asks for now.
    min_stores: [Option<u32>; 2],
    acknowledged: BTreeMap<SnapshotId, Files>,
    buried: BTreeSet<SnapshotId>,
    /// Holds that are in force, and those that somebody tried to add or release and may be in force.
    held: BTreeMap<HoldId, SnapshotId>,
    audit: Audit,
    trace: Trace,
}

impl Simulation {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed ^ 0x9e37);
        let mut database = Database::new(512);
        database.set("ledger", rng.bytes(512 * 40));
        Simulation {
            site: Site::with_some_buckets(3, &mut rng),
            machines: [0, 1].map(|number| Machine::new(number, &format!("prune {seed}"))),
            databases: [database.fork(), database],
            links: Links::UP,
            keep_last: 1 + rng.below(3),
            min_stores: [None; 2],
            acknowledged: BTreeMap::new(),
            buried: BTreeSet::new(),
            held: BTreeMap::new(),
            audit: Audit::default(),
            rng,
            trace,
        }
    }

    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    fn process(&mut self, host: usize) -> Process {
        let process = Process::new(&self.site, &self.machines[host], &self.databases[host]);
        let mut process = process.keeping(self.keep_last);
        process.protected.policy.copies.min_stores = self.min_stores[host];
        self.links.apply(host, &process.faults);
        process
    }

    /// Whether a host reaches every store.
    fn is_quiet(&self, host: usize) -> bool {
        self.links.are_up(host)
    }

    fn step(&mut self) {
        let host = self.rng.below(2) as usize;
        if self.rng.percent(70) {
            let from = self.rng.below(36) as usize;
            self.databases[host].rewrite("ledger", from..from + 4, &mut self.rng);
        }
        for machine in &self.machines {
            machine.clock.advance_seconds(600);
        }
        match self.rng.below(100) {
            0..28 => {
                let process = self.process(host);
                if self.rng.percent(25) {
                    process.operations.stop_after(self.rng.below(90));
                }
                let result = live(process.back_up_and_record());
                let disturbed = !self.is_quiet(host) || process.operations.stopped();
                self.judge(host, &result, disturbed, "backs up");
            }
            28..46 => {
                let (process, request) = (self.process(host), self.request());
                if self.rng.percent(25) {
                    process.operations.stop_after(self.rng.below(120));
                }
                let result = live(process.prune(request));
                let disturbed = !self.is_quiet(host) || process.operations.stopped();
                self.judge_prune(host, &result, disturbed, "prunes");
            }
            46..54 => {
                let process = self.process(host);
                let copied = live(process.copy());
                self.note(format!("host {host} copies: {:?}", copied.map(|copied| copied.status)));
            }
            54..72 => self.race(host),
            72..75 => self.race_of_prunes(),
            75..78 => {
                self.min_stores[host] = *self.rng.pick(&[Some(1), Some(1), Some(2), Some(3), None]);
                self.note(format!("the policy of host {host} asks for {:?}", self.min_stores[host]));
            }
            78..88 => self.disturb(),
            88..91 => {
                self.note(format!("host {host} loses its state"));
                self.machines[host].lose_state();
            }
            91..93 => self.verify(host),
            93..95 => self.release(host),
            95..98 => self.hold(host),
            _ => {
                let seconds = self.rng.below(400_000) as i64 - 200_000;
                self.note(format!("the clock of host {host} jumps by {seconds} s"));
                self.machines[host].clock.advance_seconds(seconds);
            }
        }
        self.check();
    }

    fn request(&mut self) -> PruneRequest {
        PruneRequest { now: self.rng.percent(50), ..confirmed() }
    }

    fn judge(&mut self, host: usize, result: &Result<Snapshot, Failure>, disturbed: bool, what: &str) {
        match result {
            Ok(snapshot) => {
                self.note(format!(
                    "host {host} {what}: {} {} on {:?}, behind {:?} {:?}",
                    snapshot.inventory.kind, snapshot.head.id, snapshot.stores, snapshot.behind, snapshot.notes
                ));
                assert!(disturbed || snapshot.durable, "all stores are up: {:?}", snapshot.behind);
                if snapshot.durable {
                    self.acknowledged.insert(snapshot.head.id, self.databases[host].files.clone());
                }
            }
            Err(failure) => {
                self.note(format!("host {host} {what}: {failure}"));
                assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        }
    }

    fn judge_prune(&mut self, host: usize, result: &Result<PrunedSource, Failure>, disturbed: bool, what: &str) {
        match result {
            Ok(pruned) => {
                self.note(format!("host {host} {what}: {}", pruned.message));
                let told = (&pruned.message, &pruned.warnings, &pruned.stores);
                assert!(disturbed || pruned.exit_code == Code::Done, "{told:?}");
            }
            Err(failure) => {
                self.note(format!("host {host} {what}: {failure}"));
                assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        }
    }

    fn hold(&mut self, host: usize) {
        let live_ones: Vec<SnapshotId> =
            self.acknowledged.keys().filter(|id| !self.buried.contains(id)).copied().collect();
        if live_ones.is_empty() {
            return;
        }
        let id = *self.rng.pick(&live_ones);
        let held = live(self.process(host).hold(id));
        self.note(format!("host {host} holds {id}: {held:?}"));
        match held {
            Ok(hold) => drop(self.held.insert(hold, id)),
            Err(failure) => assert!(!self.is_quiet(host) && failure.code != Code::Internal, "{failure}"),
        }
    }

    fn release(&mut self, host: usize) {
        let Some(hold) = self.held.keys().next().copied() else { return };
        // Whatever comes of it, it may count from now on.
        self.held.remove(&hold);
        let released = live(self.process(host).release(hold));
        self.note(format!("host {host} releases {hold}: {:?}", released.as_ref().err()));
        if let Err(failure) = released {
            assert!(!self.is_quiet(host) && failure.code != Code::Internal, "{failure}");
        }
    }

    /// One host backs up or copies while the other prunes.
    fn race(&mut self, host: usize) {
        let processes = [self.process(host), self.process(1 - host)];
        self.interleave(&processes);
        if self.rng.percent(20) {
            let (which, last) = (self.rng.below(2) as usize, self.rng.below(100));
            processes[which].operations.stop_after(last);
        }
        let request = PruneRequest { now: self.rng.percent(80), ..confirmed() };
        if self.rng.percent(25) {
            let (copied, pruned) = live(async { tokio::join!(processes[0].copy(), processes[1].prune(request)) });
            let disturbed = !self.is_quiet(1 - host) || processes[1].operations.stopped();
            self.note(format!("host {host} copies: {:?}", copied.map(|copied| copied.status)));
            self.judge_prune(1 - host, &pruned, disturbed, "prunes meanwhile");
            return;
        }
        let (backup, pruned) =
            live(async { tokio::join!(processes[0].back_up_and_record(), processes[1].prune(request)) });
        // A second prune may come between the two attempts of a backup only if there is a third host.
        let disturbed = !self.is_quiet(host) || processes[0].operations.stopped();
        self.judge(host, &backup, disturbed, "backs up in a race");
        let disturbed = !self.is_quiet(1 - host) || processes[1].operations.stopped();
        self.judge_prune(1 - host, &pruned, disturbed, "prunes meanwhile");
    }

    fn race_of_prunes(&mut self) {
        let processes = [self.process(0), self.process(1)];
        self.interleave(&processes);
        let requests = [self.request(), self.request()];
        let [first, second] = requests;
        let (first, second) = live(async { tokio::join!(processes[0].prune(first), processes[1].prune(second)) });
        self.judge_prune(0, &first, !self.is_quiet(0) || leaves_it(&first), "prunes against host 1");
        self.judge_prune(1, &second, !self.is_quiet(1) || leaves_it(&second), "prunes against host 0");
    }

    fn interleave(&mut self, processes: &[Process]) {
        for process in processes {
            let seed = self.rng.next();
            let rates = Rates { latency: 1000, latency_max: Duration::from_secs(5), ..Rates::default() };
            process.faults.iter().for_each(|faults| faults.schedule(seed, rates));
        }
    }

    fn disturb(&mut self) {
        self.links.disturb(&mut self.rng, &[Switch::Down]);
        self.note(format!("stores are {:?}", self.links));
    }

    fn verify(&mut self, host: usize) {
        let Ok(verified) = live(self.process(host).verify()) else { return };
        self.note(format!("host {host} verifies: {:?}", verified.status));
        for finding in verified.findings {
            let is_true = match finding.problem {
                Problem::Behind => true,
                Problem::Unreachable => {
                    let store = STORES.iter().position(|name| *name == finding.store).unwrap();
                    self.links.of(host)[store] == Switch::Down
                }
                Problem::Missing => !self.is_quiet(host),
                _ => false,
            };
            assert!(is_true, "{finding:?}");
        }
    }

    fn check(&mut self) {
        let faults = self.audit.faults(&self.site);
        assert!(faults.is_empty(), "{faults:?}");
        let graves = Graves::of(&self.site);
        let buried = graves.snapshots();
        assert!(self.buried.is_subset(&buried), "a tombstone is gone");
        // Only what was never acknowledged uses what is gone.
        let spoilt = spoilt(&self.site, &graves);
        let lost: Vec<&SnapshotId> = spoilt.iter().filter(|id| self.acknowledged.contains_key(id)).collect();
        assert!(lost.is_empty(), "{lost:?} use what was pruned");
        let committed: BTreeSet<SnapshotId> = (0..3).flat_map(|store| self.site.committed(store)).collect();
        for id in buried.difference(&self.buried).filter(|id| self.acknowledged.contains_key(id)) {
            assert!(!self.held.values().any(|held| held == id), "{id} went, and is held");
            let newer = committed.difference(&buried).filter(|other| *other > id).count() as u64;
            assert!(newer >= self.keep_last, "{id} went, and only {newer} newer ones are left");
        }
        self.buried = buried;
    }

    fn end(&mut self) {
        self.links = Links::UP;
        self.note(format!("the end {:?}", self.site.mishaps()));
        for (turn, host) in [0, 1, 0].into_iter().enumerate() {
            let result = live(self.process(host).back_up_and_record());
            self.judge(host, &result, false, "backs up");
            let copied = live(self.process(host).copy()).unwrap();
            // A prune that was cut short just before is for the next prune to finish.
            let is_cut_short = |finding: &StoreFinding| {
                let object = finding.object.as_deref().unwrap_or_default();
                turn == 0 && finding.problem == Problem::Behind && object.ends_with("/executed.json")
            };
            let is_level = copied.findings.iter().all(is_cut_short);
            assert!(is_level, "{:?} {:?}", copied.findings, copied.notes);
            assert!(copied.status == Status::Ok || !copied.findings.is_empty(), "{:?}", copied.notes);
            let pruned = live(self.process(host).prune(confirmed()));
            self.judge_prune(host, &pruned, false, "prunes");
            self.check();
        }
        let pruned = live(self.process(1).prune(confirmed()));
        self.judge_prune(1, &pruned, false, "prunes");
        self.check();
        assert_eq!(leftovers(&self.site), Vec::<String>::new());
        for host in [0, 1] {
            let copied = live(self.process(host).copy()).unwrap();
            assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
            let verified = live(self.process(host).verify()).unwrap();
            assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]));
        }
        self.check();
        assert_eq!(leftovers(&self.site), Vec::<String>::new());
        for host in [0, 1] {
            let evidence = live(self.process(host).evidence());
            assert_eq!((evidence.status, &evidence.findings[..]), (Status::Ok, &[][..]), "host {host}");
        }
        let process = self.process(0);
        for (id, files) in self.acknowledged.iter().filter(|(id, _)| !self.buried.contains(id)) {
            process.expect_restored(*id, files);
        }
        let (latest, _) = live(process.restore(Target::Latest)).unwrap();
        assert!(self.acknowledged.contains_key(&latest.snapshot));
    }
}

/// One that finds the other at work on the same record leaves the deletion to the next, and says so.
fn leaves_it(pruned: &Result<PrunedSource, Failure>) -> bool {
    let is_left = |warning: &String| warning.ends_with("is executed, and the next prune deletes");
    pruned.as_ref().is_ok_and(|pruned| pruned.stores.is_empty() && pruned.warnings.iter().all(is_left))
}

fn simulate(seed: u64) {
    replayable(seed, "prune::schedules::replay", |trace| {
        let mut simulation = Simulation::new(seed, trace);
        for _ in 0..10 + simulation.rng.below(10) {
            simulation.step();
        }
        simulation.end();
    });
}

seeds_in_parts! { simulate of 3: seeds_0 0 seeds_1 1 seeds_2 2 }

/// The one seed that `RECOUP_TEST_SEED` names.
#[test]
fn replay() {
    replay_named(simulate);
}
