//! A server and a standby that lags behind it, whose hosts archive, back up, prune, copy and race over three stores,
//! while stores go down.
//!
//! What was acknowledged of the log is there, on as many stores as it needs, from the start of every acknowledged
//! snapshot on until an executed plan deletes that snapshot; nothing comes back; nothing wedges. Seeded: a failing seed
//! prints the line that replays it.

use super::{
    confirmed,
    server::{Server, segments_on},
};
use crate::{
    prune::leftovers,
    simulation::{
        Machine, Process, Site, Trace, audit::Audit, content::Database, graves::Graves, live, random::Rng,
        replay_named, replayable, seeds_in_parts,
    },
};
use recoup::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        result::{Problem, PrunedSource, Status},
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
    server: Server,
    /// Where a restore of the standby would begin to replay: it never goes back.
    standby_at: u64,
    switches: [Switch; 3],
    keep_last: u64,
    /// The segment that each acknowledged snapshot begins in.
    acknowledged: BTreeMap<SnapshotId, u64>,
    audit: Audit,
    trace: Trace,
}

impl Simulation {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed ^ 0x51a6);
        let mut database = Database::new(512);
        database.set("ledger", rng.bytes(512 * 4));
        Simulation {
            site: Site::new(3),
            machines: [0, 1].map(|number| Machine::new(number, &format!("log {seed}"))),
            databases: [database.fork(), database],
            server: Server::new(7),
            standby_at: 1,
            switches: [Switch::Up; 3],
            keep_last: 1 + rng.below(2),
            acknowledged: BTreeMap::new(),
            audit: Audit::default(),
            rng,
            trace,
        }
    }

    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    fn process(&self, host: usize) -> Process {
        let process = Process::new(&self.site, &self.machines[host], &self.databases[host]).keeping(self.keep_last);
        for (faults, switch) in process.faults.iter().zip(self.switches) {
            faults.switch(switch);
        }
        process
    }

    fn is_quiet(&self) -> bool {
        self.switches.iter().all(|switch| *switch == Switch::Up)
    }

    fn step(&mut self) {
        self.machines.iter().for_each(|machine| machine.clock.advance_seconds(600));
        let host = self.rng.below(2) as usize;
        match self.rng.below(100) {
            0..34 => self.archive(),
            34..40 => self.archive_again(),
            40..58 => self.back_up(host),
            58..72 => {
                let (process, request) = (self.process(host), self.request());
                if self.rng.percent(30) {
                    process.operations.stop_after(self.rng.below(100));
                }
                let result = live(process.prune(request));
                self.judge_prune(&result, !self.is_quiet() || process.operations.stopped());
            }
            72..88 => self.race(host),
            88..92 => {
                let copied = live(self.process(host).copy());
                self.note(format!("host {host} copies: {:?}", copied.map(|copied| copied.status)));
            }
            92..94 => self.verify(host),
            _ => {
                let store = self.rng.below(3) as usize;
                self.switches = [Switch::Up; 3];
                if self.rng.percent(50) {
                    self.switches[store] = Switch::Down;
                }
                self.note(format!("stores are {:?}", self.switches));
            }
        }
        self.check();
    }

    fn request(&mut self) -> PruneRequest {
        PruneRequest { now: self.rng.percent(60), ..confirmed() }
    }

    fn archive(&mut self) {
        let count = 1 + self.rng.below(3);
        let first = self.server.next;
        for _ in 0..count {
            let process = self.process(0);
            self.server.push_next(&process).unwrap();
        }
        self.standby_at = (self.standby_at + self.rng.below(count + 1)).min(self.server.next - 1).max(1);
        self.note(format!(
            "segments {first} to {} are archived, the standby is at {}",
            self.server.next - 1,
            self.standby_at
        ));
    }

    /// A server asks once more for what it was told is archived, as it does when it was cut short before it had noted that.
    fn archive_again(&mut self) {
        if self.server.next == 1 {
            return;
        }
        let number = 1 + self.rng.below(self.server.next - 1);
        let pushed = self.server.push_again(&self.process(0), number);
        self.note(format!("segment {number} is archived again: {pushed:?}"));
        assert!(pushed.is_ok() || !self.is_quiet());
    }

    /// The segment that a snapshot of a host begins in.
    fn begins(&mut self, host: usize) -> Option<u64> {
        let begins = if host == 0 { self.server.next - 1 } else { self.standby_at };
        if begins == 0 {
            return None;
        }
        self.databases[host].source.set_log(self.server.range(begins));
        Some(begins)
    }

    fn back_up(&mut self, host: usize) {
        let Some(begins) = self.begins(host) else { return };
        let process = self.process(host);
        if self.rng.percent(20) {
            process.operations.stop_after(self.rng.below(90));
        }
        let result = live(process.backup(false));
        self.judge(host, begins, &result);
    }

    fn judge(&mut self, host: usize, begins: u64, result: &Result<Snapshot, Failure>) {
        match result {
            Ok(snapshot) => {
                let (id, durable) = (snapshot.head.id, snapshot.durable);
                self.note(format!("host {host} backs up from {begins}: {id} {durable} {:?}", snapshot.behind));
                if durable {
                    self.acknowledged.insert(id, begins);
                }
            }
            Err(failure) => {
                self.note(format!("host {host} backs up from {begins}: {failure}"));
                assert!(failure.code != Code::Internal, "{failure}");
            }
        }
    }

    fn judge_prune(&mut self, result: &Result<PrunedSource, Failure>, disturbed: bool) {
        match result {
            Ok(pruned) => {
                self.note(format!("a host prunes: {}", pruned.message));
                let told = (&pruned.message, &pruned.warnings, &pruned.stores);
                assert!(disturbed || pruned.exit_code == Code::Done, "{told:?}");
            }
            Err(failure) => {
                self.note(format!("a host prunes: {failure}"));
                assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        }
    }

    /// One host backs up while the other prunes.
    fn race(&mut self, host: usize) {
        let Some(begins) = self.begins(host) else { return };
        let processes = [self.process(host), self.process(1 - host)];
        for process in &processes {
            let seed = self.rng.next();
            let rates = Rates { latency: 1000, latency_max: Duration::from_secs(5), ..Rates::default() };
            process.faults.iter().for_each(|faults| faults.schedule(seed, rates));
        }
        if self.rng.percent(20) {
            let (which, last) = (self.rng.below(2) as usize, self.rng.below(100));
            processes[which].operations.stop_after(last);
        }
        let request = PruneRequest { now: self.rng.percent(80), ..confirmed() };
        let (backup, pruned) = live(async { tokio::join!(processes[0].backup(false), processes[1].prune(request)) });
        let disturbed = !self.is_quiet() || processes[1].operations.stopped();
        self.judge(host, begins, &backup);
        self.judge_prune(&pruned, disturbed);
    }

    fn verify(&mut self, host: usize) {
        let Ok(verified) = live(self.process(host).verify()) else { return };
        self.note(format!("host {host} verifies: {:?}", verified.status));
        for finding in verified.findings {
            let is_true = match finding.problem {
                Problem::Behind => true,
                Problem::Unreachable | Problem::Missing => !self.is_quiet(),
                _ => false,
            };
            assert!(is_true, "{finding:?}");
        }
    }

    fn check(&mut self) {
        let faults = self.audit.faults(&self.site);
        assert!(faults.is_empty(), "{faults:?}");
        let buried = Graves::of(&self.site).snapshots();
        let held = [0, 1, 2].map(|store| segments_on(&self.site, store, &self.server));
        for (id, begins) in self.acknowledged.iter().filter(|(id, _)| !buried.contains(id)) {
            for number in *begins..self.server.next {
                let copies = held.iter().filter(|of_store| of_store.contains(&number)).count();
                assert!(copies >= 2, "segment {number} is on {copies} stores, and {id} begins in {begins}");
            }
        }
    }

    fn end(&mut self) {
        self.switches = [Switch::Up; 3];
        self.note("the end".to_owned());
        self.archive();
        // A host keeps what its next snapshot builds on: the standby catches up, so that its next one counts.
        self.standby_at = self.server.next - 1;
        for host in [0, 1, 0] {
            // A store that failed a moment ago is left alone no more.
            self.machines.iter().for_each(|machine| machine.clock.advance_seconds(600));
            // One that dies leaves the host with a base that another host condemns, and it keeps, in turns.
            let begins = self.begins(host).unwrap();
            let result = live(self.process(host).backup(false));
            self.judge(host, begins, &result);
            live(self.process(host).copy()).unwrap();
            let pruned = live(self.process(host).prune(confirmed()));
            self.judge_prune(&pruned, false);
            self.check();
        }
        // What came too late for a plan goes with the next, and what that leaves with the one after it.
        for host in [1, 0, 1, 0] {
            let pruned = live(self.process(host).prune(confirmed()));
            self.judge_prune(&pruned, false);
        }
        self.check();
        assert_eq!(leftovers(&self.site), Vec::<String>::new());
        for host in [0, 1] {
            let copied = live(self.process(host).copy()).unwrap();
            assert_eq!(copied.status, Status::Ok, "{:?}", copied.findings);
            let verified = live(self.process(host).verify()).unwrap();
            assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]));
        }
        // What nothing leads on from is gone from everywhere.
        let all: Vec<BTreeSet<u64>> = (0..3).map(|store| segments_on(&self.site, store, &self.server)).collect();
        assert!(all.iter().all(|of_store| *of_store == all[0]), "{all:?}");
        let begins = [0, 1, 2].iter().flat_map(|store| self.site.log_begins(*store)).min().unwrap();
        assert_eq!(all[0].first(), Some(&begins));
    }
}

fn simulate(seed: u64) {
    replayable(seed, "prune::logs::schedules::replay", |trace| {
        let mut simulation = Simulation::new(seed, trace);
        for _ in 0..12 + simulation.rng.below(10) {
            simulation.step();
        }
        simulation.end();
    });
}

seeds_in_parts! { simulate of 2: seeds_0 0 seeds_1 1 }

/// The one seed that `RECOUP_TEST_SEED` names.
#[test]
fn replay() {
    replay_named(simulate);
}
