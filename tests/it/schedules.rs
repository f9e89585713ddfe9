//! Two simulated hosts over three stores: they race, crash, lag, lose and roll back their state, while stores go
//! down, hang, slow down and lose replies. Seeded: a failing seed prints the line that replays it.
//!
//! After every step no store holds an inventory without its objects, nothing that was written has changed, and every
//! acknowledged snapshot is where it was acknowledged to be. At the end everything levels, verifies and restores.

mod keys;
mod logs;

use crate::simulation::{
    Machine, Process, STORES, Site, Trace,
    audit::{Audit, heads},
    content::{Database, Files},
    links::Links,
    live,
    random::Rng,
    replay_named, replayable, seeds_in_parts, source_name,
};
use recoup::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        result::{Problem, Status},
        target::Target,
    },
    ops::{
        backup::Snapshot,
        list::{self, ListRequest},
    },
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
    databases: Vec<Database>,
    /// Which database each host protects.
    protects: [usize; 2],
    links: Links,
    rates: Option<(u64, Rates)>,
    /// Content of durable snapshots, and the stores that were said to hold them.
    acknowledged: BTreeMap<SnapshotId, (Files, Vec<String>)>,
    /// What a snapshot that was committed and not acknowledged may hold.
    unacknowledged: BTreeMap<SnapshotId, Vec<Files>>,
    saved: [Option<tempfile::TempDir>; 2],
    audit: Audit,
    trace: Trace,
}

impl Simulation {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let mut database = Database::new(*rng.pick(&[512, 1024, 4096]));
        let blocks = 4 + rng.below(40) as usize;
        database.set("base/ledger", rng.bytes(blocks * database.block_size - 7));
        let mut databases = vec![database];
        if rng.percent(40) {
            // The second host has a replica that went its own way.
            databases.push(databases[0].fork());
        }
        Simulation {
            protects: [0, databases.len() - 1],
            site: Site::with_some_buckets(3, &mut rng),
            machines: [0, 1].map(|number| Machine::new(number, &format!("{seed}"))),
            databases,
            links: Links::UP,
            rates: None,
            acknowledged: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            saved: [None, None],
            audit: Audit::default(),
            rng,
            trace,
        }
    }

    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    /// A new process of a host over the stores as they are now.
    fn process(&mut self, host: usize) -> Process {
        let process = Process::new(&self.site, &self.machines[host], &self.databases[self.protects[host]]);
        self.links.apply(host, &process.faults);
        if let Some((seed, rates)) = self.rates {
            process.faults.iter().for_each(|faults| faults.schedule(seed, rates));
        }
        process
    }

    fn files(&self, host: usize) -> Files {
        self.databases[self.protects[host]].files.clone()
    }

    /// Nothing is wrong with any store, as a host sees them.
    fn is_quiet(&self, host: usize) -> bool {
        self.rates.is_none() && self.links.are_up(host)
    }

    fn committed(&self) -> BTreeSet<SnapshotId> {
        (0..3).flat_map(|store| self.site.committed(store)).collect()
    }

    fn step(&mut self) {
        for database in 0..self.databases.len() {
            if self.rng.percent(60) {
                let done = self.databases[database].mutate(&mut self.rng);
                self.note(format!("database {database}: {done}"));
            }
        }
        let host = self.rng.below(2) as usize;
        let before = self.committed();
        match self.rng.below(100) {
            0..30 => self.back_up(host, false, None),
            30..36 => self.back_up(host, true, None),
            36..45 => self.copy(host, None),
            45..50 => self.verify(host),
            50..56 => self.restore(host),
            56..66 => self.race(),
            66..70 => self.race_with_copy(host),
            70..77 => {
                let last = self.rng.below(70);
                self.back_up(host, false, Some(last));
            }
            77..80 => {
                let last = self.rng.below(100);
                self.copy(host, Some(last));
            }
            80..90 => self.disturb(),
            90..93 => {
                self.note(format!("host {host} loses its state"));
                self.machines[host].lose_state();
            }
            93..96 => self.save_or_roll_back(host),
            _ => {
                let seconds = self.rng.below(200_000) as i64 - 100_000;
                self.note(format!("the clock of host {host} jumps by {seconds} s"));
                self.machines[host].clock.advance_seconds(seconds);
            }
        }
        let candidates = vec![self.files(0), self.files(1)];
        for id in self.committed().difference(&before).filter(|id| !self.acknowledged.contains_key(id)) {
            self.unacknowledged.insert(*id, candidates.clone());
        }
        self.check();
    }

    fn check(&mut self) {
        let faults = self.audit.faults(&self.site);
        assert!(faults.is_empty(), "{faults:?}");
        let held = [0, 1, 2].map(|store| self.site.committed(store));
        for (id, (_, stores)) in &self.acknowledged {
            for (held, name) in held.iter().zip(STORES) {
                assert!(held.contains(id) || !stores.iter().any(|store| store == name), "{id} is not on {name}");
            }
        }
    }

    fn back_up(&mut self, host: usize, full: bool, last: Option<u64>) {
        let process = self.process(host);
        if let Some(last) = last {
            if last % 2 == 0 { process.operations.stop_after(last) } else { process.operations.stop_within(last) }
        }
        let parents = heads(&self.site);
        // What a killed run has begun keeps its number.
        let newest = self.site.largest_seq();
        let result = live(process.backup(full));
        let disturbed = !self.is_quiet(host) || process.operations.stopped();
        self.judge(host, &result, disturbed, &format!("backs up, full {full}, dies after {last:?}"));
        if !disturbed {
            let inventory = result.unwrap().inventory;
            let named: BTreeSet<SnapshotId> = inventory.parents.iter().map(|parent| parent.id).collect();
            assert_eq!(named, parents, "the parents are the heads");
            assert_eq!(inventory.seq, newest + 1);
        }
    }

    fn judge(&mut self, host: usize, result: &Result<Snapshot, Failure>, disturbed: bool, what: &str) {
        match result {
            Ok(snapshot) => {
                self.note(format!(
                    "host {host} {what}: {} {} on {:?}, behind {:?}",
                    snapshot.inventory.kind, snapshot.head.id, snapshot.stores, snapshot.behind
                ));
                assert!(disturbed || snapshot.durable, "all stores are up: {:?}", snapshot.behind);
                if snapshot.durable {
                    assert!(snapshot.stores.len() >= 2);
                    let content = (self.files(host), snapshot.stores.clone());
                    assert!(self.acknowledged.insert(snapshot.head.id, content).is_none());
                }
            }
            Err(failure) => {
                self.note(format!("host {host} {what}: {failure}"));
                assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        }
    }

    /// Both hosts back up at once; one may die meanwhile.
    fn race(&mut self) {
        let processes = [self.process(0), self.process(1)];
        self.interleave(&processes);
        let dies = self.rng.percent(30).then(|| self.rng.below(2) as usize);
        if let Some(host) = dies {
            let last = self.rng.below(70);
            processes[host].operations.stop_after(last);
        }
        let full = [self.rng.percent(10), self.rng.percent(10)];
        let (first, second) = live(async { tokio::join!(processes[0].backup(full[0]), processes[1].backup(full[1])) });
        for (host, result) in [first, second].iter().enumerate() {
            let disturbed = !self.is_quiet(host) || processes[host].operations.stopped();
            self.judge(host, result, disturbed, &format!("races, {dies:?} dies"));
        }
    }

    fn race_with_copy(&mut self, host: usize) {
        let processes = [self.process(host), self.process(1 - host)];
        self.interleave(&processes);
        let (backup, copied) = live(async { tokio::join!(processes[0].backup(false), processes[1].copy()) });
        self.judge(host, &backup, !self.is_quiet(host), "races with a copy");
        assert!(!self.is_quiet(1 - host) || copied.is_ok_and(|copied| copied.status == Status::Ok));
    }

    /// Operations take random times, so that those of two hosts mix.
    fn interleave(&mut self, processes: &[Process]) {
        let rates = self.rates.map_or_else(Rates::default, |(_, rates)| rates);
        for process in processes {
            let seed = self.rng.next();
            for faults in &process.faults {
                faults.schedule(seed, Rates { latency: 1000, latency_max: Duration::from_secs(5), ..rates });
            }
        }
    }

    fn copy(&mut self, host: usize, last: Option<u64>) {
        let process = self.process(host);
        if let Some(last) = last {
            process.operations.stop_after(last);
        }
        let result = live(process.copy());
        let disturbed = !self.is_quiet(host) || process.operations.stopped();
        match result {
            Ok(copied) => {
                self.note(format!(
                    "host {host} copies, dies after {last:?}: {:?} {:?}",
                    copied.status, copied.findings
                ));
                assert!(disturbed || copied.status == Status::Ok, "{:?}", copied.findings);
            }
            Err(failure) => {
                self.note(format!("host {host} copies, dies after {last:?}: {failure}"));
                assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        }
        if !disturbed {
            let committed = self.committed();
            assert!((0..3).all(|store| self.site.committed(store) == committed), "the stores are not level");
        }
    }

    fn verify(&mut self, host: usize) {
        let process = self.process(host);
        let result = live(process.verify());
        if self.rates.is_some() {
            return;
        }
        let Ok(verified) = result else {
            assert!(!self.is_quiet(host));
            return;
        };
        self.note(format!("host {host} verifies: {:?}", verified.status));
        let committed = self.committed();
        for finding in verified.findings {
            let store = STORES.iter().position(|name| *name == finding.store).unwrap();
            let is_true = match finding.problem {
                Problem::Behind => finding.snapshots.iter().all(|id| committed.contains(id)),
                Problem::Unreachable => matches!(self.links.of(host)[store], Switch::Down | Switch::Hung),
                // A store that holds what nobody else does may be the one that is away.
                Problem::Missing => !self.is_quiet(host) && finding.snapshots.iter().all(|id| committed.contains(id)),
                _ => false,
            };
            assert!(is_true, "{finding:?}");
        }
    }

    fn restore(&mut self, host: usize) {
        let ids: Vec<SnapshotId> = self.acknowledged.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = *self.rng.pick(&ids);
        let process = self.process(host);
        let away = self.links.of(host).iter().filter(|switch| matches!(switch, Switch::Down | Switch::Hung)).count();
        match live(process.restore(Target::SnapshotId(id))) {
            Ok((_, files)) => {
                self.note(format!("host {host} restores {id}"));
                assert!(files == self.acknowledged[&id].0, "{id} came back as something else");
            }
            Err(failure) => {
                self.note(format!("host {host} restores {id}: {failure}"));
                assert!(self.rates.is_some() || away > 1, "{id} is on two stores: {failure}");
            }
        }
    }

    fn disturb(&mut self) {
        let slow = Switch::Slow(Duration::from_secs(1 + self.rng.below(45)));
        self.links.disturb(&mut self.rng, &[Switch::Down, Switch::Down, Switch::Hung, slow]);
        self.rates = self.rng.percent(35).then(|| {
            let rates = Rates {
                error_before: self.rng.below(150) as u16,
                error_after: self.rng.below(150) as u16,
                latency: self.rng.below(300) as u16,
                latency_max: Duration::from_secs(70),
                torn_body: self.rng.below(60) as u16,
                bit_flip: self.rng.below(30) as u16,
                no_space: self.rng.below(40) as u16,
                ..Rates::default()
            };
            (self.rng.next(), rates)
        });
        self.note(format!("stores are {:?}, {:?}", self.links, self.rates));
    }

    fn save_or_roll_back(&mut self, host: usize) {
        match self.saved[host].take() {
            Some(saved) => {
                self.note(format!("the state of host {host} is rolled back"));
                self.machines[host].roll_back_state(&saved);
            }
            None => self.saved[host] = Some(self.machines[host].save_state()),
        }
    }

    /// All stores are up again: everything levels, verifies, restores, and goes on.
    fn end(&mut self) {
        self.links = Links::UP;
        self.rates = None;
        self.note(format!("the end {:?}", self.site.mishaps()));
        self.copy(0, None);
        for host in [0, 1] {
            let verified = live(self.process(host).verify()).unwrap();
            assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]));
            self.back_up(host, false, None);
        }
        self.check();
        let process = self.process(0);
        let request = ListRequest { source: Some(source_name()), ..ListRequest::default() };
        let listed = live(list::list(&process.host.repository, &request)).unwrap();
        let listed: Vec<SnapshotId> = listed.snapshots.iter().map(|entry| entry.id()).collect();
        assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), self.committed());
        let mut by_number: BTreeMap<u64, u64> = BTreeMap::new();
        listed.iter().for_each(|id| *by_number.entry(id.seq).or_default() += 1);
        for (seq, _) in by_number.into_iter().filter(|(_, count)| *count > 1) {
            let refused = live(process.restore(Target::Snapshot(seq))).unwrap_err();
            assert_eq!(refused.code, Code::Refused, "{refused}");
            let ids = listed.iter().filter(|id| id.seq == seq);
            let next_step = refused.next_step.unwrap();
            ids.for_each(|id| assert!(next_step.contains(&id.to_string()), "{id} is not in: {next_step}"));
        }
        for id in listed {
            match (self.acknowledged.get(&id), self.unacknowledged.get(&id)) {
                (Some((files, _)), _) => drop(process.expect_restored(id, files)),
                (None, Some(candidates)) => {
                    let (_, files) = live(process.restore(Target::SnapshotId(id))).unwrap();
                    assert!(candidates.contains(&files), "{id} holds what the source never did");
                }
                (None, None) => panic!("{id} came out of nowhere"),
            }
        }
    }
}

fn simulate(seed: u64) {
    replayable(seed, "schedules::replay", |trace| {
        let mut simulation = Simulation::new(seed, trace);
        for _ in 0..8 + simulation.rng.below(8) {
            simulation.step();
        }
        simulation.end();
    });
}

seeds_in_parts! { simulate of 6: seeds_0 0 seeds_1 1 seeds_2 2 seeds_3 3 seeds_4 4 seeds_5 5 }

/// The one seed that `RECOUP_TEST_SEED` names.
#[test]
fn replay() {
    replay_named(simulate);
}
