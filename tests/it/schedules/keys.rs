//! Two simulated hosts whose recipients come and go, and whose signing keys are revoked and replaced, in the midst of
//! backups, prunes and faults.
//!
//! What was acknowledged restores with every identity that it was sealed to, whoever signed it; no other identity opens
//! anything that a snapshot added; what a revoked key signs afterwards nobody believes; and nothing wedges.

use crate::{
    prune::confirmed,
    simulation::{
        FOLDER, STORES, Site, Trace,
        audit::Audit,
        content::{Database, Files},
        graves::Graves,
        keyring::{Custodian, Keyed, custodians, opens_for_host, signing_key},
        links::Links,
        live,
        random::Rng,
        replay_named, replayable, seeds_in_parts,
    },
};
use recoup::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        inventory::Kind,
        result::{KeysResult, Problem, Status, StoreFinding},
    },
    ops::backup::Snapshot,
    stores::fault::{Rates, Switch},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A durable snapshot.
struct Taken {
    files: Files,
    recipients: BTreeSet<String>,
}

/// How far the replacement of a stolen host's key is.
#[derive(Clone, Copy, Debug)]
struct Stolen {
    host: usize,
    revoked: bool,
    new_key: usize,
}

struct Simulation {
    rng: Rng,
    site: Site,
    hosts: [Keyed; 2],
    databases: [Database; 2],
    links: Links,
    rates: Option<(u64, Rates)>,
    acknowledged: BTreeMap<SnapshotId, Taken>,
    /// What each host's last snapshot was sealed to.
    sealed_to: [BTreeSet<String>; 2],
    /// The host that is not used, for its key is to be revoked.
    stolen: Option<Stolen>,
    keys: usize,
    /// What thieves signed with keys that were revoked.
    forged: BTreeSet<SnapshotId>,
    /// Stores that did not answer when a key was revoked.
    silent: BTreeSet<String>,
    audit: Audit,
    trace: Trace,
}

impl Simulation {
    fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed ^ 0x6e75);
        let mut database = Database::new(512);
        database.set("ledger", rng.bytes(512 * 30));
        let name = format!("keys {seed}");
        Simulation {
            site: Site::with_some_buckets(3, &mut rng),
            hosts: [0, 1].map(|number| Keyed::new(number, &name, number, &[0, 1])),
            databases: [database.fork(), database],
            links: Links::UP,
            rates: None,
            acknowledged: BTreeMap::new(),
            sealed_to: [BTreeSet::new(), BTreeSet::new()],
            stolen: None,
            keys: 2,
            forged: BTreeSet::new(),
            silent: BTreeSet::new(),
            audit: Audit::default(),
            rng,
            trace,
        }
    }

    fn note(&self, what: String) {
        self.trace.lock().unwrap().push(what);
    }

    fn process(&self, host: usize) -> crate::simulation::Process {
        let process = self.hosts[host].process(&self.site, &self.databases[host]).keeping(4);
        self.links.apply(host, &process.faults);
        if let Some((seed, rates)) = self.rates {
            process.faults.iter().for_each(|faults| faults.schedule(seed, rates));
        }
        process
    }

    /// The same, and perhaps it dies.
    fn mortal(&mut self, host: usize, percent: u64) -> crate::simulation::Process {
        let process = self.process(host);
        if self.rng.percent(percent) {
            process.operations.stop_after(self.rng.below(80));
        }
        process
    }

    /// Nothing is wrong with any store, as a host sees them.
    fn is_quiet(&self, host: usize) -> bool {
        self.rates.is_none() && self.links.are_up(host)
    }

    /// A host that is used.
    fn host(&mut self) -> usize {
        match self.stolen {
            Some(stolen) => 1 - stolen.host,
            None => self.rng.below(2) as usize,
        }
    }

    fn step(&mut self) {
        let host = self.host();
        if self.rng.percent(45) {
            let from = self.rng.below(26) as usize;
            self.databases[host].rewrite("ledger", from..from + 3, &mut self.rng);
        }
        self.hosts.iter().for_each(|host| host.machine.clock.advance_seconds(600));
        match self.rng.below(100) {
            0..34 => self.back_up(host),
            34..44 => self.add(host),
            44..52 => self.remove(host),
            52..58 => self.prove(host),
            58..80 => self.replace_key(host),
            80..84 => self.steal(),
            84..87 => {
                let copied = live(self.process(host).copy());
                self.note(format!("host {host} copies: {:?}", copied.map(|copied| copied.status)));
            }
            87..90 => self.prune(host),
            90..92 => {
                self.note(format!("host {host} loses its state"));
                self.hosts[host].machine.lose_state();
                self.sealed_to[host].clear();
            }
            _ => self.disturb(),
        }
        let faults = self.audit.faults(&self.site);
        assert!(faults.is_empty(), "{faults:?}");
    }

    fn back_up(&mut self, host: usize) {
        let process = self.mortal(host, 20);
        let result = live(process.backup(false));
        let disturbed = !self.is_quiet(host) || process.operations.stopped();
        self.judge(host, &result, disturbed);
    }

    fn judge(&mut self, host: usize, result: &Result<Snapshot, Failure>, disturbed: bool) {
        let snapshot = match result {
            Ok(snapshot) => snapshot,
            Err(failure) => {
                self.note(format!("host {host} backs up: {failure}"));
                return assert!(disturbed && failure.code != Code::Internal, "{failure}");
            }
        };
        let id = snapshot.head.id;
        self.note(format!(
            "host {host} backs up: {} {id} on {:?}, behind {:?} {:?}",
            snapshot.inventory.kind, snapshot.stores, snapshot.behind, snapshot.notes
        ));
        assert!(disturbed || snapshot.durable, "all stores are up: {:?}", snapshot.behind);
        if snapshot.stores.is_empty() {
            return;
        }
        let recipients = self.hosts[host].recipients();
        let named: BTreeSet<String> = snapshot.inventory.recipients.iter().cloned().collect();
        assert_eq!(named, recipients);
        if !recipients.is_subset(&self.sealed_to[host]) {
            assert_eq!(snapshot.inventory.kind, Kind::Full, "a recipient was added");
        }
        // One that was removed and came back may find everything that is used sealed to it already.
        self.sealed_to[host].extend(recipients.iter().cloned());
        self.assert_sealed_to(host, id, &recipients);
        let root = format!("{FOLDER}{}", snapshot.inventory.manifest.name);
        let root = (0..self.site.backends.len()).find_map(|store| self.site.get(store, &root)).unwrap();
        for custodian in custodians() {
            assert_eq!(custodian.opens(&root), recipients.contains(&custodian.recipient), "{}", custodian.recipient);
        }
        if snapshot.durable {
            self.acknowledged.insert(id, Taken { files: self.databases[host].files.clone(), recipients });
        }
    }

    /// What a snapshot added opens for its recipients, for no other custodian, and its content for no host.
    fn assert_sealed_to(&self, host: usize, id: SnapshotId, recipients: &BTreeSet<String>) {
        let added = [format!("{FOLDER}packs/{}/", id.run), format!("{FOLDER}snapshots/{id}/")];
        for store in 0..self.site.backends.len() {
            let objects = self.site.objects(store);
            let of_snapshot = |key: &str| key.ends_with(".age") && added.iter().any(|folder| key.starts_with(folder));
            for (key, bytes) in objects.iter().filter(|(key, _)| of_snapshot(key)) {
                let name = key.rsplit('/').next().unwrap_or_default();
                let is_content = name.starts_with("digests") || name.starts_with(|first: char| first.is_ascii_digit());
                assert_eq!(opens_for_host(host, bytes), !is_content, "{key} and host {host}");
                for custodian in custodians() {
                    let may = recipients.contains(&custodian.recipient);
                    assert_eq!(custodian.opens(bytes), may, "{key} and {}", custodian.recipient);
                }
            }
        }
    }

    /// What came of a change to keys; whether it was done.
    fn judge_change(&self, what: &str, result: &Result<KeysResult, Failure>, disturbed: bool) -> bool {
        self.note(format!("{what}: {:?}", result.as_ref().map(|result| &result.notes).map_err(ToString::to_string)));
        if let Err(failure) = result {
            assert!(disturbed && failure.code != Code::Internal, "{what}: {failure}");
        }
        result.is_ok()
    }

    fn add(&mut self, host: usize) {
        let configured = self.hosts[host].recipients();
        let others: Vec<&Custodian> = custodians().iter().filter(|of| !configured.contains(&of.recipient)).collect();
        if others.is_empty() {
            return;
        }
        let recipient = &self.rng.pick(&others).recipient;
        let process = self.mortal(host, 20);
        let result = self.hosts[host].add(&process, recipient);
        let disturbed = !self.is_quiet(host) || process.operations.stopped();
        if self.judge_change(&format!("host {host} adds {recipient}"), &result, disturbed) {
            assert!(self.hosts[host].recipients().contains(recipient));
        }
    }

    fn remove(&mut self, host: usize) {
        let configured: Vec<String> = self.hosts[host].recipients().into_iter().collect();
        if configured.len() < 2 {
            return;
        }
        let recipient = self.rng.pick(&configured).clone();
        let process = self.mortal(host, 20);
        let result = self.hosts[host].remove(&process, &recipient);
        let disturbed = !self.is_quiet(host) || process.operations.stopped();
        if self.judge_change(&format!("host {host} removes {recipient}"), &result, disturbed) {
            assert!(!self.hosts[host].recipients().contains(&recipient));
        }
    }

    /// A proof is one: of a configured recipient, to whom the newest snapshot is sealed.
    fn prove(&mut self, host: usize) {
        let custodian = self.rng.pick(custodians());
        let process = self.mortal(host, 10);
        let proven = self.hosts[host].prove(&process, custodian);
        let disturbed = !self.is_quiet(host) || process.operations.stopped();
        self.note(format!("host {host} has {} proven: {:?}", custodian.recipient, proven.as_ref().err()));
        let configured = self.hosts[host].recipients().contains(&custodian.recipient);
        match proven {
            Ok(_) => assert!(configured, "a stranger's identity was proven"),
            Err(failure) => {
                let is_expected = matches!(failure.code, Code::NoKey | Code::NoRecoveryPoint);
                assert!(failure.code != Code::Internal && (disturbed || is_expected), "{failure}");
            }
        }
    }

    /// A host is stolen: from now on it is not used, until it has another key.
    fn steal(&mut self) {
        if self.stolen.is_none() && self.keys < 8 {
            let host = self.rng.below(2) as usize;
            self.note(format!("host {host} is STOLEN"));
            self.stolen = Some(Stolen { host, revoked: false, new_key: self.keys });
            self.keys += 1;
        }
    }

    /// The next step of replacing the key of the stolen host, which the other takes.
    fn replace_key(&mut self, host: usize) {
        let Some(stolen) = self.stolen else { return self.steal() };
        let process = self.mortal(host, 25);
        if !stolen.revoked {
            let key = self.hosts[stolen.host].key;
            let result = self.hosts[host].revoke(&process, key);
            let disturbed = !self.is_quiet(host) || process.operations.stopped();
            // One that lost its state after all was done is told that it was: nothing is left to do then.
            let is_over = result.as_ref().is_err_and(|failure| failure.to_string().contains("it was revoked: "));
            if is_over {
                self.assert_revoked(key);
            }
            let what = format!("host {host} revokes the key of {}", stolen.host);
            if self.judge_change(&what, &result, disturbed || is_over) || is_over {
                assert!(!self.hosts[host].trusts(self.hosts[stolen.host].key));
                let is_silent = |note: &String, name: &str| note.starts_with(&format!("store {name} did not answer"));
                let notes = result.map(|done| done.notes).unwrap_or_default();
                let silent = STORES.iter().filter(|name| notes.iter().any(|note| is_silent(note, name)));
                self.silent.extend(silent.map(|name| (*name).to_owned()));
                self.stolen = Some(Stolen { revoked: true, ..stolen });
                if self.rng.percent(25) {
                    self.forge(stolen.host);
                }
            }
        } else if self.hosts[host].trusts(stolen.new_key) {
            // Added already, and only its record did not arrive.
            let [first, second] = &mut self.hosts;
            let (other, own) = if host == 0 { (first, second) } else { (second, first) };
            own.set_up_again(stolen.new_key, other);
            self.note(format!("host {} is back, with key {}", stolen.host, stolen.new_key));
            self.stolen = None;
        } else {
            let result = self.hosts[host].add_signer(&process, stolen.new_key);
            let disturbed = !self.is_quiet(host) || process.operations.stopped();
            self.judge_change(&format!("host {host} adds signer {}", stolen.new_key), &result, disturbed);
        }
    }

    /// Enough stores have a vouch that says that a key was revoked, and a record of it.
    fn assert_revoked(&self, key: usize) {
        let signer = signing_key(key).fingerprint().to_string();
        let says_so = |name: &str, bytes: &[u8]| {
            let said = || serde_json::from_slice::<serde_json::Value>(bytes).unwrap_or_default();
            match name.split('/').next() {
                Some("keys") => said()["revoked"] == *signer,
                Some("evidence") => {
                    let control = &said()["control"];
                    control["change"] == "signer-revoked" && control["signer"] == *signer
                }
                _ => false,
            }
        };
        for folder in ["keys/", "evidence/"] {
            let mut holders: BTreeMap<String, usize> = BTreeMap::new();
            for store in 0..self.site.backends.len() {
                let objects = self.site.objects(store).into_iter();
                let objects = objects.filter(|(name, _)| name.starts_with(folder) && name.ends_with(".json"));
                let saying = objects.filter(|(name, bytes)| says_so(name, bytes));
                saying.for_each(|(name, _)| *holders.entry(name).or_default() += 1);
            }
            assert!(holders.values().any(|stores| *stores > 1), "{folder} of {signer}: {holders:?}");
        }
    }

    /// The thief goes on with the revoked key.
    fn forge(&mut self, host: usize) {
        if let Ok(snapshot) = live(self.process(host).backup(false)) {
            self.note(format!("the thief of host {host} signs {} on {:?}", snapshot.head.id, snapshot.stores));
            self.forged.insert(snapshot.head.id);
        }
    }

    fn prune(&mut self, host: usize) {
        let process = self.process(host);
        let pruned = live(process.prune(confirmed()));
        self.note(format!("host {host} prunes: {:?}", pruned.as_ref().map(|pruned| &pruned.message)));
        if let Err(failure) = pruned {
            assert!(!self.is_quiet(host) && failure.code != Code::Internal, "{failure}");
        }
    }

    fn disturb(&mut self) {
        self.links.disturb(&mut self.rng, &[Switch::Down, Switch::Hung]);
        self.rates = self.rng.percent(30).then(|| {
            let rates = Rates {
                error_before: self.rng.below(120) as u16,
                error_after: self.rng.below(120) as u16,
                torn_body: self.rng.below(60) as u16,
                bit_flip: self.rng.below(30) as u16,
                latency: self.rng.below(300) as u16,
                latency_max: Duration::from_secs(70),
                ..Rates::default()
            };
            (self.rng.next(), rates)
        });
        self.note(format!("stores are {:?}, {:?}", self.links, self.rates));
    }

    fn end(&mut self) {
        self.links = Links::UP;
        self.rates = None;
        self.note(format!("the end {:?}", self.site.mishaps()));
        let mut steps = 0;
        while let Some(stolen) = self.stolen {
            self.replace_key(1 - stolen.host);
            steps += 1;
            assert!(steps < 20, "the key of host {} is never replaced", stolen.host);
        }
        for host in [0, 1] {
            let result = live(self.process(host).backup(false));
            self.judge(host, &result, false);
            let copied = live(self.process(host).copy()).unwrap();
            let is_level = copied.findings.iter().all(|of| self.is_expected(of)) || !self.forged.is_empty();
            assert!(is_level, "{:?} {:?}", copied.findings, copied.notes);
        }
        let faults = self.audit.faults(&self.site);
        assert!(faults.is_empty(), "{faults:?}");
        for host in [0, 1] {
            if self.forged.is_empty() {
                let verified = live(self.process(host).verify()).unwrap();
                assert!(
                    verified.findings.iter().all(|of| self.is_expected(of)),
                    "host {host}: {:?}",
                    verified.findings
                );
                let is_well = verified.status == Status::Ok || !verified.findings.is_empty();
                assert!(is_well, "host {host}: {:?}", verified.notes);
            }
            self.restore_all(host);
        }
    }

    /// What nobody vouches for: plans, and snapshots that were not durable and that only a silent store had.
    fn is_expected(&self, finding: &StoreFinding) -> bool {
        let is_left_out = finding.problem == Problem::Foreign
            && self.silent.contains(&finding.store)
            && !finding.snapshots.is_empty()
            && finding.snapshots.iter().all(|id| !self.acknowledged.contains_key(id));
        is_dead_plan(finding) || is_left_out
    }

    fn restore_all(&mut self, host: usize) {
        let process = self.process(host);
        let buried = Graves::of(&self.site).snapshots();
        for id in &self.forged {
            let refused = process.restored_by(&custodians()[0], *id);
            assert!(refused.is_err(), "{id} is a thief's");
        }
        for (id, taken) in self.acknowledged.iter().filter(|(id, _)| !buried.contains(id)) {
            let custodian = self.rng.pick(custodians());
            let restored = process.restored_by(custodian, *id);
            if taken.recipients.contains(&custodian.recipient) {
                assert!(restored.is_ok_and(|files| files == taken.files), "{id} and {}", custodian.recipient);
            } else {
                assert_eq!(restored.unwrap_err().code, Code::NoKey, "{id} and {}", custodian.recipient);
            }
        }
    }
}

/// A prune plan that a revoked signer did not execute: nobody vouches for it.
fn is_dead_plan(finding: &StoreFinding) -> bool {
    let is_plan = |object: &String| object.contains("/prunes/") && object.ends_with("/plan.json");
    finding.problem == Problem::Foreign && finding.object.as_ref().is_some_and(is_plan)
}

fn simulate(seed: u64) {
    replayable(seed, "schedules::keys::replay", |trace| {
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
