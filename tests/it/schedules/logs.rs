//! A simulated host whose source is a directory of logs, and a second one that copies and restores. Between commands a
//! writer appends, rotates, compresses and removes what is old enough; stores fail and processes die meanwhile.
//!
//! What nobody altered raises no alarm, whatever was rotated. What was altered is told exactly once, by the next
//! snapshot, and both versions are held from then on. What was acknowledged restores byte for byte.

use crate::{
    prune::confirmed,
    simulation::{
        Machine, Process, STORES, Site, Trace,
        audit::Audit,
        content::Files,
        graves::Graves,
        links::Links,
        live,
        logs::{Captured, Logs},
        random::Rng,
        replay_named, replayable, seeds_in_parts, source_name,
    },
};
use recoup::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        result::{Problem, Status, StoreFinding},
        target::Target,
    },
    ops::{altered, backup::Snapshot, hold, prune::PruneRequest},
    stores::fault::{Rates, Switch},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What local state knows that the next snapshot is compared with.
type Base = Option<(SnapshotId, Captured)>;

struct Simulation {
    rng: Rng,
    site: Site,
    machines: [Machine; 2],
    logs: Logs,
    links: Links,
    rates: Option<(u64, Rates)>,
    keep_last: u64,
    /// Whether somebody alters something in this seed. If not, state may be rolled back.
    alters: bool,
    base: Base,
    saved: Option<(tempfile::TempDir, Base)>,
    acknowledged: BTreeMap<SnapshotId, Files>,
    /// The file that was altered and not told yet.
    pending: Option<String>,
    /// What snapshots have told, and nobody holds yet: their processes died.
    unanswered: Vec<[SnapshotId; 2]>,
    held: BTreeSet<SnapshotId>,
    alarms: u32,
    audit: Audit,
    trace: Trace,
}

impl Simulation {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed ^ 0x10c5);
        let site = Site::with_some_buckets(3, &mut rng);
        let machines = [0, 1].map(|number| Machine::new(number, &format!("logs {seed}")));
        if rng.percent(50) {
            // Stamps settle only for a clock that is ahead of theirs.
            machines.iter().for_each(|machine| machine.clock.advance_seconds(60 * 365 * 86_400));
        }
        Simulation {
            logs: Logs::new(machines[0].world.clone()),
            site,
            machines,
            links: Links::UP,
            rates: None,
            keep_last: 1 + rng.below(3),
            alters: rng.percent(60),
            base: None,
            saved: None,
            acknowledged: BTreeMap::new(),
            pending: None,
            unanswered: Vec::new(),
            held: BTreeSet::new(),
            alarms: 0,
            audit: Audit::default(),
            rng,
            trace,
        }
    }

    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    fn process(&self, host: usize) -> Process {
        let process = Process::protecting(&self.site, &self.machines[host], self.logs.source()).keeping(self.keep_last);
        self.links.apply(host, &process.faults);
        if let Some((seed, rates)) = self.rates {
            process.faults.iter().for_each(|faults| faults.schedule(seed, rates));
        }
        process
    }

    /// Nothing is wrong with any store, as a host sees them.
    fn is_quiet(&self, host: usize) -> bool {
        self.rates.is_none() && self.links.are_up(host)
    }

    fn step(&mut self) {
        self.machines.iter().for_each(|machine| machine.clock.advance_seconds(600));
        for _ in 0..self.rng.below(4) {
            let captured = self.base.as_ref().filter(|_| self.pending.is_none()).map(|(_, captured)| &captured.files);
            let done = self.logs.go_on(captured, &mut self.rng);
            self.note(done);
        }
        match self.rng.below(100) {
            0..44 => self.back_up(false, None),
            44..50 => self.back_up(true, None),
            50..58 => {
                let last = self.rng.below(80);
                self.back_up(false, Some(last));
            }
            58..68 if self.alters && self.pending.is_none() => self.alter(),
            68..76 => self.disturb(),
            76..80 => {
                let copied = live(self.process(1).copy());
                self.note(format!("host 1 copies: {:?}", copied.map(|copied| copied.status)));
            }
            80..86 => self.prune(),
            86..90 => self.restore(),
            90..93 => self.lose_state(),
            93..95 if !self.alters => self.save_or_roll_back(),
            _ if self.pending.is_none() => {
                let days = 1 + self.rng.below(6) as i64;
                self.note(format!("{days} days pass"));
                self.machines.iter().for_each(|machine| machine.clock.advance_seconds(days * 86_400));
            }
            _ => {}
        }
        self.check();
    }

    fn alter(&mut self) {
        let Some((_, captured)) = &self.base else { return };
        if let Some((file, done)) = self.logs.alter(captured, &mut self.rng) {
            self.note(format!("ALTERED: {file}: {done}"));
            self.pending = Some(file);
        }
    }

    fn back_up(&mut self, full: bool, last: Option<u64>) {
        let process = self.process(0);
        if let Some(last) = last {
            if last % 2 == 0 { process.operations.stop_after(last) } else { process.operations.stop_within(last) }
        }
        let result = live(process.backup(full));
        let disturbed = !self.is_quiet(0) || process.operations.stopped();
        self.judge(&result, disturbed, full, last);
        // The process may die before it has held anything.
        if !self.rng.percent(20) {
            self.answer(&process);
        }
    }

    fn judge(&mut self, result: &Result<Snapshot, Failure>, disturbed: bool, full: bool, last: Option<u64>) {
        let snapshot = match result {
            Ok(snapshot) => snapshot,
            Err(failure) => {
                self.note(format!("backs up, full {full}, dies after {last:?}: {failure}"));
                return assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        };
        self.note(format!(
            "backs up, full {full}, dies after {last:?}: {} {} on {:?}, behind {:?}, altered {:?} {:?}",
            snapshot.inventory.kind,
            snapshot.head.id,
            snapshot.stores,
            snapshot.behind,
            snapshot.alterations,
            snapshot.notes
        ));
        assert!(disturbed || snapshot.durable, "all stores are up: {:?}", snapshot.behind);
        let told: Vec<String> = snapshot.alterations.iter().map(|of| of.path.as_str().to_owned()).collect();
        let expected: Vec<String> = self.pending.iter().cloned().collect();
        assert_eq!(told, expected, "what is told, and what was altered");
        if snapshot.stores.is_empty() {
            return;
        }
        let id = snapshot.head.id;
        if self.pending.take().is_some() {
            let since = self.base.as_ref().map(|(id, _)| *id);
            assert_eq!(snapshot.altered_since, since);
            assert!(!snapshot.durable || snapshot.code() == Code::LogAltered);
            self.unanswered.extend(since.map(|since| [since, id]));
        }
        let captured = self.logs.captured();
        let files = captured.files.clone();
        self.base = Some((id, captured));
        if snapshot.durable {
            self.acknowledged.insert(id, files);
        }
    }

    /// What the command does after the snapshot, and what comes of it.
    fn answer(&mut self, process: &Process) {
        let recorder = process.recorder();
        let answer = altered::answer(&process.host, &recorder, &source_name());
        live(recorder.ship());
        altered::told(&process.host, &source_name());
        assert_eq!(answer.failure.is_none(), self.unanswered.is_empty(), "{:?}", answer.failure);
        for both in std::mem::take(&mut self.unanswered) {
            self.note(format!("the alarm is given, and {both:?} are held"));
            assert!(answer.notes.iter().any(|note| note.contains("are held")), "{:?}", answer.notes);
            self.held.extend(both);
            self.alarms += 1;
        }
    }

    fn prune(&mut self) {
        let process = self.process(0);
        let request = PruneRequest { now: self.rng.percent(50), ..confirmed() };
        let pruned = live(process.prune(request));
        self.note(format!("prunes: {:?}", pruned.as_ref().map(|pruned| &pruned.message)));
        if let Err(failure) = pruned {
            assert!(!self.is_quiet(0) && failure.code != Code::Internal, "{failure}");
        }
    }

    fn lose_state(&mut self) {
        // What nobody knows any more, nobody can tell or hold.
        if self.pending.is_none() && self.unanswered.is_empty() && self.held.is_empty() {
            self.note("the state is lost".to_owned());
            self.machines[0].lose_state();
            self.base = None;
        }
    }

    fn save_or_roll_back(&mut self) {
        match self.saved.take() {
            Some((saved, base)) => {
                self.note("the state is rolled back".to_owned());
                self.machines[0].roll_back_state(&saved);
                self.base = base;
            }
            None => self.saved = Some((self.machines[0].save_state(), self.base.clone())),
        }
    }

    fn disturb(&mut self) {
        self.links.disturb(&mut self.rng, &[Switch::Down, Switch::Hung]);
        self.rates = self.rng.percent(30).then(|| {
            let rates = Rates {
                error_before: self.rng.below(120) as u16,
                error_after: self.rng.below(120) as u16,
                latency: self.rng.below(300) as u16,
                latency_max: Duration::from_secs(70),
                torn_body: self.rng.below(60) as u16,
                bit_flip: self.rng.below(30) as u16,
                ..Rates::default()
            };
            (self.rng.next(), rates)
        });
        self.note(format!("stores are {:?}, {:?}", self.links, self.rates));
    }

    fn restore(&mut self) {
        let buried = Graves::of(&self.site).snapshots();
        let ids: Vec<SnapshotId> = self.acknowledged.keys().filter(|id| !buried.contains(id)).copied().collect();
        if ids.is_empty() || !self.is_quiet(1) {
            return;
        }
        let id = *self.rng.pick(&ids);
        self.note(format!("host 1 restores {id}"));
        self.process(1).expect_restored(id, &self.acknowledged[&id]);
    }

    fn check(&mut self) {
        let faults = self.audit.faults(&self.site);
        assert!(faults.is_empty(), "{faults:?}");
        let buried = Graves::of(&self.site).snapshots();
        let lost: Vec<_> = self.held.iter().chain(self.unanswered.iter().flatten()).collect();
        let lost: Vec<_> = lost.into_iter().filter(|id| buried.contains(id)).collect();
        assert!(lost.is_empty(), "{lost:?} went, and tell what a log was");
    }

    fn end(&mut self) {
        self.links = Links::UP;
        self.rates = None;
        self.note(format!("the end {:?}", self.site.mishaps()));
        for _ in 0..2 {
            let process = self.process(0);
            let result = live(process.backup(false));
            self.judge(&result, false, false, None);
            self.answer(&process);
            self.check();
        }
        let copied = live(self.process(1).copy()).unwrap();
        let is_level = copied.status == Status::Ok || copied.findings.iter().any(is_cut_short);
        assert!(is_level && copied.findings.iter().all(is_cut_short), "{:?} {:?}", copied.findings, copied.notes);
        let process = self.process(0);
        let view = live(hold::complete_control(&process.host.repository, &process.host.state_dir)).unwrap();
        let held: BTreeSet<SnapshotId> =
            view.state.holds_of(&source_name()).flat_map(|(_, hold)| hold.snapshots.iter().copied()).collect();
        assert_eq!(held, self.held);
        for _ in 0..2 {
            self.prune();
            self.check();
        }
        let copied = live(self.process(1).copy()).unwrap();
        assert_eq!((copied.status, &copied.findings[..]), (Status::Ok, &[][..]), "{:?}", copied.notes);
        let verified = live(self.process(1).verify()).unwrap();
        assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]));
        let buried = Graves::of(&self.site).snapshots();
        let bare = self.process(1);
        for (id, files) in self.acknowledged.iter().filter(|(id, _)| !buried.contains(id)) {
            bare.expect_restored(*id, files);
        }
        assert!(live(bare.restore(Target::Latest)).unwrap().1 == self.logs.files());
        assert_eq!(STORES.len(), self.site.backends.len());
    }
}

/// A prune that was cut short while it said that its plan is executed: copy finishes none, the next prune does.
fn is_cut_short(finding: &StoreFinding) -> bool {
    let is_execution = |object: &String| object.contains("/prunes/") && object.ends_with("/executed.json");
    finding.problem == Problem::Behind && finding.object.as_ref().is_some_and(is_execution)
}

fn simulate(seed: u64) {
    replayable(seed, "schedules::logs::replay", |trace| {
        let mut simulation = Simulation::new(seed, trace);
        for _ in 0..8 + simulation.rng.below(10) {
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
