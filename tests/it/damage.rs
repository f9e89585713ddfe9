//! Every object of a small repository damaged, one at a time: in one store, then in all of them.
//!
//! In one store `verify` names it, restores go round it, `copy` heals it. In all stores the snapshots that need it are
//! refused, nothing is left in the target, and the others still restore.

use crate::{
    simulation::{
        FOLDER, Machine, Process, STORES, Site,
        audit::{Audit, needed},
        content::{Database, Files},
        keys, live,
        random::Rng,
    },
    support::count_from,
};
use recoup::{
    core::{
        failure::Code,
        id::SnapshotId,
        result::{Problem, RestoreResult, Status},
        target::Target,
    },
    format::pack::{PackBuilder, SealedPack, block_digest, new_compressor},
};
use std::collections::{BTreeMap, BTreeSet};

const BLOCK: usize = 4096;

/// A full and two incrementals on three stores.
struct Small {
    site: Site,
    machine: Machine,
    database: Database,
    snapshots: BTreeMap<SnapshotId, Files>,
}

impl Small {
    fn new() -> Self {
        let mut rng = Rng::new(1);
        let mut database = Database::new(BLOCK);
        database.set("ledger.db", rng.bytes(200 * BLOCK - 1000));
        let machine = Machine::new(0, "small");
        let mut small = Small { site: Site::new(3), machine, database, snapshots: BTreeMap::new() };
        // The last one reads the first pack by ranges: less than half of it is in use.
        for changed in [0..0, 0..60, 60..128] {
            small.database.rewrite("ledger.db", changed, &mut rng);
            let snapshot = live(small.process().backup(false)).unwrap();
            assert_eq!(snapshot.code(), Code::Done);
            small.snapshots.insert(snapshot.head.id, small.database.files.clone());
        }
        small
    }

    fn fork(&self) -> Self {
        Small {
            site: self.site.fork(),
            machine: self.machine.fork("fork"),
            database: self.database.fork(),
            snapshots: self.snapshots.clone(),
        }
    }

    fn process(&self) -> Process {
        Process::new(&self.site, &self.machine, &self.database)
    }

    fn keys(&self) -> Vec<String> {
        // The note of who writes a run is of use until the run has ended, and no part of any snapshot.
        self.site.objects(0).into_keys().filter(|key| !key.ends_with("/writer.json")).collect()
    }

    /// The snapshots that need an object.
    fn needing(&self, key: &str) -> BTreeSet<SnapshotId> {
        let objects = self.site.objects(0);
        let needs = |id: &SnapshotId| {
            let inventory = format!("{FOLDER}snapshots/{id}/inventory.json");
            let mut names = needed(&objects[&inventory], &objects).unwrap().into_iter().map(|(name, _)| name);
            key.starts_with(&inventory) || names.any(|name| key == format!("{FOLDER}{name}"))
        };
        self.snapshots.keys().copied().filter(needs).collect()
    }

    fn first(&self) -> SnapshotId {
        *self.snapshots.keys().next().unwrap()
    }

    fn pack_of(&self, id: SnapshotId) -> String {
        format!("{FOLDER}packs/{}/0.age", id.run)
    }
}

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flipped,
    Truncated,
    Emptied,
    /// Exchanged with another of its kind.
    Swapped,
    Removed,
}

/// What an object is, for swapping: its name without numbers.
fn kind(key: &str) -> String {
    let name = key.rsplit('/').next().unwrap_or_default();
    let top = if key.starts_with(FOLDER) { "" } else { key };
    format!("{top}{}", name.trim_matches(|letter: char| letter.is_ascii_digit()))
}

/// Damages an object of a store; says which objects are wrong now.
fn damage(site: &Site, store: usize, key: &str, damage: Damage) -> BTreeSet<String> {
    let objects = site.objects(store);
    let mut bytes = objects[key].to_vec();
    let mut wrong = BTreeSet::from([key.to_owned()]);
    match damage {
        Damage::Flipped => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
        }
        Damage::Truncated => bytes.truncate(bytes.len() / 2),
        Damage::Emptied => bytes.clear(),
        Damage::Removed => {
            site.remove(store, key);
            return wrong;
        }
        Damage::Swapped => {
            let other = objects.keys().find(|other| kind(other) == kind(key) && *other != key);
            let Some(other) = other else { return BTreeSet::new() };
            bytes = objects[other].to_vec();
            site.put(store, other, objects[key].to_vec());
            wrong.insert(other.clone());
        }
    }
    site.put(store, key, bytes);
    wrong
}

/// Whether a restore need not notice: it reads only parts of the pack, or never asks for the object.
fn may_pass_unnoticed(key: &str, done: Damage, id: SnapshotId) -> bool {
    let is_older = !key.contains(id.run.as_str());
    let is_gone_inventory = key.ends_with("inventory.json") && done == Damage::Removed;
    // Every run writes the one manifest part of this small source again.
    (is_older && key.ends_with("/0.age") && done == Damage::Flipped)
        || (is_older && key.ends_with("/m0.age"))
        || is_gone_inventory
}

fn in_one_store(done: Damage) {
    let whole = Small::new();
    for (at, key) in whole.keys().iter().enumerate() {
        // Mostly the store that restores ask first.
        let store = if at % 4 == 3 { 2 } else { 0 };
        let small = whole.fork();
        let wrong = damage(&small.site, store, key, done);
        if wrong.is_empty() {
            continue;
        }
        let context = format!("{key} on {} {done:?}", STORES[store]);
        verify_names(&small, store, &wrong, done, &context);
        for (id, files) in &small.snapshots {
            let restored = small.process().expect_restored(*id, files);
            names_what_it_went_round(&restored, &small, store, &wrong, done, &context);
        }
        let copied = live(small.process().copy()).unwrap();
        assert_eq!(copied.status, Status::Ok, "{context}: {:?} {:?}", copied.findings, copied.notes);
        let verified = live(small.process().verify()).unwrap();
        assert_eq!((verified.status, &verified.findings[..]), (Status::Ok, &[][..]), "{context}");
        assert_eq!(small.site.objects(store), whole.site.objects(store), "{context}");
    }
}

fn verify_names(small: &Small, store: usize, wrong: &BTreeSet<String>, done: Damage, context: &str) {
    let verified = live(small.process().verify()).unwrap();
    let found: BTreeSet<(String, Option<String>, Problem)> = verified
        .findings
        .iter()
        .map(|finding| (finding.store.clone(), finding.object.clone(), finding.problem))
        .collect();
    let name = STORES[store].to_owned();
    let is_gone = done == Damage::Removed;
    let expected: BTreeSet<_> = wrong
        .iter()
        .map(|key| match (key.as_str(), is_gone) {
            // Without it the store is no store of this repository.
            ("recoup.json", true) => (name.clone(), None, Problem::Unreachable),
            // A bit of the id makes it another repository's store.
            ("recoup.json", false) if done == Damage::Flipped => (name.clone(), Some(key.clone()), Problem::Foreign),
            (_, true) => (name.clone(), Some(key.clone()), Problem::Missing),
            (_, false) => (name.clone(), Some(key.clone()), Problem::Damaged),
        })
        .collect();
    assert_eq!(found, expected, "{context}");
    let expected = if wrong.contains("recoup.json") && is_gone { Status::Warning } else { Status::Critical };
    assert_eq!(verified.status, expected, "{context}");
    for finding in verified.findings.iter().filter(|finding| finding.object.is_some()) {
        let key = finding.object.as_ref().unwrap();
        let whole = Small { site: Site::over(vec![small.site.backends[1].clone()]), ..small.fork() };
        let named: BTreeSet<SnapshotId> = finding.snapshots.iter().copied().collect();
        if key.starts_with(FOLDER) {
            assert_eq!(named, whole.needing(key), "{context}");
        }
    }
}

fn names_what_it_went_round(
    restored: &RestoreResult,
    small: &Small,
    store: usize,
    wrong: &BTreeSet<String>,
    done: Damage,
    context: &str,
) {
    let named: BTreeSet<(&str, &str)> =
        restored.went_round.iter().map(|detour| (detour.store.as_str(), detour.object.as_str())).collect();
    let whole = Small { site: Site::over(vec![small.site.backends[1].clone()]), ..small.fork() };
    for key in wrong.iter().filter(|key| key.starts_with(FOLDER)) {
        let is_needed = whole.needing(key).contains(&restored.snapshot);
        // Stores are asked in order: damage on a later one is nobody's way.
        if is_needed && store == 0 && !may_pass_unnoticed(key, done, restored.snapshot) {
            // An inventory and its signature stand or fall together.
            let object = key.strip_suffix(".sig").unwrap_or(key);
            assert!(named.contains(&(STORES[store], object)), "{context}: {} went round {named:?}", restored.snapshot);
            assert_eq!(restored.code(), Code::Warning, "{context}");
        }
    }
    for (of, object) in named {
        let is_wrong =
            wrong.contains(object) || wrong.contains(&format!("{object}.sig")) || wrong.contains("recoup.json");
        assert!(of == STORES[store] && is_wrong, "{context}: {object} on {of} is right");
    }
}

fn in_all_stores(done: Damage) {
    let whole = Small::new();
    for key in whole.keys().iter().filter(|key| key.starts_with(FOLDER)) {
        let small = whole.fork();
        let [wrong, ..] = [0, 1, 2].map(|store| damage(&small.site, store, key, done));
        let needing: BTreeSet<SnapshotId> = wrong.iter().flat_map(|key| whole.needing(key)).collect();
        for (id, files) in &small.snapshots {
            let context = format!("{key} everywhere {done:?}, {id}");
            match live(small.process().restore(Target::SnapshotId(*id))) {
                Ok((_, found)) => {
                    let mut read = wrong.iter().filter(|key| whole.needing(key).contains(id));
                    assert!(read.all(|key| may_pass_unnoticed(key, done, *id)), "{context}: not noticed");
                    assert!(found == *files, "{context}");
                }
                Err(failure) => {
                    assert!(needing.contains(id), "{context}: {failure}");
                    let is_commit = wrong.iter().any(|key| key.contains("inventory.json"));
                    let expected: &[Code] = match (is_commit, done) {
                        // With no inventory left anywhere there is no such snapshot.
                        (true, Damage::Removed) => &[Code::NoRecoveryPoint, Code::Refused],
                        (true, _) => &[Code::Damaged, Code::Refused],
                        (false, _) => &[Code::Damaged],
                    };
                    assert!(expected.contains(&failure.code), "{context}: {:?} {failure}", failure.code);
                    assert!(failure.safe.is_some() && failure.next_step.is_some(), "{context}: {failure:?}");
                }
            }
        }
        if !wrong.is_empty() {
            let verified = live(small.process().verify()).unwrap();
            assert_eq!(verified.status, Status::Critical, "{key} everywhere {done:?}");
        }
    }
}

macro_rules! damaged {
    ($($damage:ident $one:ident $all:ident;)*) => {
        $(#[test]
        fn $one() {
            in_one_store(Damage::$damage);
        }

        #[test]
        fn $all() {
            in_all_stores(Damage::$damage);
        })*
    };
}

damaged! {
    Flipped one_flipped all_flipped;
    Truncated one_truncated all_truncated;
    Emptied one_emptied all_emptied;
    Swapped one_swapped all_swapped;
    Removed one_removed all_removed;
}

/// Seals blocks as a stranger can: with nothing but the public recipients.
fn seal_as_stranger(bytes: &[u8]) -> SealedPack {
    let mut builder = PackBuilder::new(0, BLOCK as u32, &keys().recipients).unwrap();
    let mut compressor = new_compressor(1);
    for block in bytes.chunks(BLOCK) {
        let mut padded = block.to_vec();
        padded.resize(BLOCK, 0);
        builder.append(&mut compressor, &padded, block_digest(&[0; 32], &padded)).unwrap();
    }
    builder.finish(&mut compressor).unwrap()
}

/// Where the payload of an age file begins: after the line of the header's MAC, and the nonce.
fn payload(sealed: &[u8]) -> usize {
    let mac = sealed.windows(5).position(|bytes| bytes == b"\n--- ").unwrap() + 1;
    let line = sealed[mac..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    mac + line + 16
}

#[test]
fn packs_sealed_again_by_a_stranger_are_refused() {
    let whole = Small::new();
    let first = whole.first();
    let key = whole.pack_of(first);
    let right = whole.site.get(0, &key).unwrap();
    let same = seal_as_stranger(&whole.snapshots[&first]["ledger.db"]);
    let mut other = whole.snapshots[&first]["ledger.db"].clone();
    other.iter_mut().for_each(|byte| *byte ^= 0x55);
    let other = seal_as_stranger(&other);
    let forged = |header_of: &[u8], chunks_of: &[u8]| {
        [&header_of[..payload(header_of)], &chunks_of[payload(chunks_of)..]].concat()
    };
    let forgeries = [
        ("the same content under another header", same.object.bytes.to_vec()),
        ("other content under another header", other.object.bytes.to_vec()),
        ("the right header over other chunks", forged(&right, &other.object.bytes)),
        ("another header over the right chunks", forged(&other.object.bytes, &right)),
    ];
    for (what, forgery) in forgeries {
        assert_ne!(forgery, right, "{what}");
        for stores in [0..1, 0..3] {
            let small = whole.fork();
            stores.clone().for_each(|store| small.site.put(store, &key, forgery.clone()));
            let verified = live(small.process().verify()).unwrap();
            let named: BTreeSet<_> = verified.findings.iter().map(|finding| finding.object.clone()).collect();
            assert_eq!(named, BTreeSet::from([Some(key.clone())]), "{what}");
            for (id, files) in &small.snapshots {
                // The first reads the pack whole, the last by ranges.
                if stores.len() == 1 {
                    let restored = small.process().expect_restored(*id, files);
                    assert!(restored.went_round.iter().any(|detour| detour.object == key), "{what}, {id}");
                } else {
                    let failure = live(small.process().restore(Target::SnapshotId(*id))).unwrap_err();
                    assert_eq!(failure.code, Code::Damaged, "{what}, {id}: {failure}");
                }
            }
            if stores.len() == 1 {
                assert_eq!(live(small.process().copy()).unwrap().status, Status::Ok);
                assert_eq!(small.site.get(0, &key).unwrap(), right);
            }
        }
    }
}

#[test]
fn the_last_snapshot_reads_the_first_pack_by_ranges() {
    let small = Small::new();
    let process = small.process();
    process.expect_restored(*small.snapshots.keys().next_back().unwrap(), &small.database.files);
    let by_ranges: BTreeSet<String> =
        process.operations.log().into_iter().filter(|done| done.verb == "ranges").map(|done| done.key).collect();
    assert_eq!(by_ranges, BTreeSet::from([small.pack_of(small.first())]));
}

/// An object that is right nowhere keeps every snapshot that needs it from being committed on one more store.
#[test]
fn copy_commits_nothing_that_lacks_an_object() {
    let mut small = Small::new();
    let key = small.pack_of(small.first());
    // The third store is new; two snapshots share what cannot be brought.
    small.site.backends[2] = Site::new(1).backends.remove(0);
    small.machine.lose_state();
    let mut bytes = small.site.get(0, &key).unwrap().to_vec();
    bytes[500] ^= 1;
    (0..2).for_each(|store| small.site.put(store, &key, bytes.clone()));
    for _ in 0..2 {
        let copied = live(small.process().copy()).unwrap();
        assert_eq!(copied.status, Status::Critical);
        let holds: BTreeSet<_> = small.site.committed(2);
        let lacking: Vec<String> =
            Audit::default().faults(&small.site).into_iter().filter(|fault| fault.starts_with("c:")).collect();
        assert!(lacking.is_empty(), "{holds:?} were committed without {lacking:?}");
    }
}

/// What a restore fetches, in sealed bytes, as a multiple of what a fresh full of the same content takes.
fn amplification(site: &Site, machine: &Machine, database: &Database, id: SnapshotId) -> f64 {
    let process = Process::new(site, machine, database);
    process.expect_restored(id, &database.files);
    let asked: BTreeSet<String> = process.operations.log().into_iter().map(|done| done.key).collect();
    let sealed = asked.iter().filter(|key| key.ends_with(".age"));
    // A pack that is read by ranges counts whole: more than is fetched.
    let fetched: usize = sealed.map(|key| site.get(0, key).unwrap().len()).sum();
    let (fork, machine) = (site.fork(), machine.fork("fresh"));
    let fresh = live(Process::new(&fork, &machine, database).backup(true)).unwrap().inventory;
    fetched as f64 / fresh.bytes_stored as f64
}

/// Only what the next run needs stays listed, so that a long series stays quick.
fn forget_older(site: &Site, newest: SnapshotId) {
    let folder = format!("{FOLDER}snapshots/");
    let inventory: serde_json::Value =
        serde_json::from_slice(&site.get(0, &format!("{folder}{newest}/inventory.json")).unwrap()).unwrap();
    let root = format!("{FOLDER}{}", inventory["manifest"]["name"].as_str().unwrap());
    for key in site.objects(0).into_keys() {
        if key.starts_with(&folder) && !key.starts_with(&format!("{folder}{newest}/")) && key != root {
            site.remove(0, &key);
        }
    }
}

#[test]
fn a_restore_never_fetches_more_than_twice_a_full() {
    let mut rng = Rng::new(200);
    let mut database = Database::new(512);
    database.set("ledger.db", rng.bytes(512 * 800));
    let (site, machine) = (Site::new(1), Machine::new(0, "long"));
    let mut worst: f64 = 0.0;
    // A longer run has 200 of them.
    for number in 0..count_from("RECOUP_TEST_INCREMENTALS", 80) {
        let snapshot = live(Process::new(&site, &machine, &database).backup(false)).unwrap();
        assert!(snapshot.durable);
        if number % 10 == 9 {
            let found = amplification(&site, &machine, &database, snapshot.head.id);
            worst = worst.max(found);
        }
        forget_older(&site, snapshot.head.id);
        for _ in 0..1 + rng.below(12) {
            let block = rng.below(800) as usize;
            database.rewrite("ledger.db", block..block + 1, &mut rng);
        }
    }
    assert!(worst <= 2.0, "a restore fetches {worst:.2} times a full");
    assert!(worst > 1.2, "{worst:.2}: the series does not show anything");
}

#[test]
fn an_inventory_never_uses_more_than_256_runs() {
    let mut rng = Rng::new(300);
    // Blocks that outweigh the frame table and the digests that come with each run: otherwise runs are given up early.
    let mut database = Database::new(4096);
    database.set("ledger.db", rng.bytes(4096 * 620));
    let (site, machine) = (Site::new(1), Machine::new(0, "runs"));
    let mut most = 0;
    for number in 0..262_usize {
        let snapshot = live(Process::new(&site, &machine, &database).backup(false)).unwrap();
        assert!(snapshot.durable);
        most = most.max(snapshot.inventory.uses.len());
        assert!(most <= 256, "{most} runs after {number} incrementals");
        if number % 50 == 49 {
            Process::new(&site, &machine, &database).expect_restored(snapshot.head.id, &database.files);
        }
        forget_older(&site, snapshot.head.id);
        // One block that no run before has touched: all runs stay in use.
        database.rewrite("ledger.db", number..number + 1, &mut rng);
    }
    assert!(most > 250, "{most} runs at most: the series does not come near the limit");
}
