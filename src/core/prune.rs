//! Prune records: what a plan condemns, and what an executed plan has deleted for good.
//!
//! A plan is published before anything is deleted, so that every backup can see it. Once it is executed, a second
//! record says what went and what was dropped from the plan. That record is kept for the life of the repository: what
//! it names is a tombstone, and never comes back.

use super::{
    id::{RepositoryId, RunId, Sha256, SnapshotId, SourceName},
    inventory::{Inventory, PackSet, Parent, TEXT_BYTES_MAX},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

mod log;

pub use log::{
    CondemnedLog, CondemnedLogs, LIST_FORMAT, LogBound, LogList, MAX_LOG_PARTS, MAX_LOG_RUNS, end_of, list_runs,
    start_of,
};

/// The value of `format` in every record that this version reads and writes.
pub const FORMAT: &str = "recoup-prune/1";
/// The most snapshots that one plan condemns; the next run condemns the rest.
pub const MAX_SNAPSHOTS: usize = 20_000;
/// The most runs and folders that one record names.
pub const MAX_RUNS: usize = 60_000;

/// Which of the two records it is. It is signed, so that a plan cannot be passed off as executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Nothing is deleted yet.
    Planned,
    /// What it condemns is deleted, or will be by the next run.
    Executed,
}

/// Why a snapshot is condemned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// The policy's retention keeps it no longer.
    Retention,
    /// It uses what an executed plan has deleted: it was never acknowledged.
    UsesPruned,
    /// No store has it whole, and the operator has acknowledged the loss.
    Forgotten,
}

/// One condemned snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CondemnedSnapshot {
    /// The snapshot.
    pub id: SnapshotId,
    /// SHA-256 of its inventory, where some store has it.
    pub inventory_sha256: Option<Sha256>,
    /// Why.
    pub because: Because,
    /// Whether every store showed its inventory when it was condemned: one that shows it no more has deleted it.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub on_every_store: bool,
}

fn yes() -> bool {
    true
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_yes(value: &bool) -> bool {
    *value
}

/// What is condemned of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondemnedRun {
    /// The run.
    pub run: RunId,
    /// These packs.
    pub packs: PackSet,
    /// Whether it is everything in the run's folder.
    pub whole: bool,
}

/// What a plan condemns.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condemned {
    /// Snapshots: their inventories and signatures.
    pub snapshots: Vec<CondemnedSnapshot>,
    /// Snapshot folders whose manifest root no kept snapshot names.
    pub roots: Vec<SnapshotId>,
    /// Objects of runs, orphan runs included.
    pub runs: Vec<CondemnedRun>,
    /// Snapshot folders that never got an inventory.
    pub folders: Vec<SnapshotId>,
    /// Files of the source's log, by history.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub log: Vec<CondemnedLog>,
}

impl Condemned {
    /// Whether nothing is condemned.
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
            && self.roots.is_empty()
            && self.runs.is_empty()
            && self.folders.is_empty()
            && self.log.is_empty()
    }

    /// The same without the lists of runs of a log, as the record of an executed plan has it.
    #[must_use]
    pub fn unlisted(self) -> Self {
        Condemned { log: self.log.iter().map(CondemnedLog::unlisted).collect(), ..self }
    }

    /// Adds what another one names.
    pub fn extend(&mut self, other: Condemned) {
        self.snapshots.extend(other.snapshots);
        self.roots.extend(other.roots);
        self.runs.extend(other.runs);
        self.folders.extend(other.folders);
        self.log.extend(other.log);
    }

    /// What of it is in a set, and what is not; a run of which only some is in both. A part of a log is in one of them.
    pub fn split(&self, set: &CondemnedSet) -> (Condemned, Condemned) {
        let (mut within, mut beyond) = (Condemned::default(), Condemned::default());
        for snapshot in &self.snapshots {
            let is_in = set.has_snapshot(snapshot.id);
            if is_in { &mut within } else { &mut beyond }.snapshots.push(snapshot.clone());
        }
        for root in &self.roots {
            if set.roots.contains(root) { &mut within } else { &mut beyond }.roots.push(*root);
        }
        for folder in &self.folders {
            if set.folders.contains(folder) { &mut within } else { &mut beyond }.folders.push(*folder);
        }
        for run in &self.runs {
            let whole = run.whole && set.has_run(run.run);
            let packs = match (run.whole, set.has_run(run.run)) {
                (_, true) => run.packs.clone(),
                (true, false) => set.packs_of(run.run),
                (false, false) => run.packs.without(&run.packs.without(&set.packs_of(run.run))),
            };
            let part = CondemnedRun { run: run.run, packs, whole };
            if part != *run {
                beyond.runs.push(run.clone());
            }
            if whole || !part.packs.is_empty() {
                within.runs.push(part);
            }
        }
        for part in &self.log {
            if set.logs.has_part(part) { &mut within } else { &mut beyond }.log.push(part.clone());
        }
        (within, beyond)
    }

    fn is_too_large(&self) -> bool {
        self.snapshots.len() > MAX_SNAPSHOTS
            || [self.roots.len(), self.runs.len(), self.folders.len()].into_iter().any(|count| count > MAX_RUNS)
    }
}

/// The largest number that a writer had when the plan was made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WriterSeen {
    /// The writer, as the fingerprint of its key.
    pub writer: String,
    /// The sequence number of its newest durable snapshot.
    pub seq: u64,
}

/// A prune record, as `plan.json` and `executed.json` hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneRecord {
    /// [`FORMAT`].
    pub format: String,
    /// Planned or executed.
    pub stage: Stage,
    /// The repository.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The plan's id.
    pub plan: RunId,
    /// The host key that signed the record, as its SHA-256 fingerprint.
    pub writer: String,
    /// When the record was made, by the writer's clock.
    pub created_at: Timestamp,
    /// SHA-256 of the policy that was applied.
    pub policy_sha256: Option<Sha256>,
    /// Its `keep_within`, in seconds.
    pub keep_within_seconds: Option<u64>,
    /// Its `keep_last`.
    pub keep_last: Option<u64>,
    /// What goes.
    pub condemned: Condemned,
    /// What an executed plan had condemned and did not delete, because it is in use, held, or kept again.
    pub dropped: Condemned,
    /// Of an executed plan that names files of a log: SHA-256 of the [`LogList`] that lists their runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub log_sha256: Option<Sha256>,
    /// Runs that nothing committed used when the plan was made; a later plan may condemn them.
    pub orphans_seen: Vec<RunId>,
    /// Every writer of the source, as it stood then.
    pub writers_seen: Vec<WriterSeen>,
    /// Snapshots that lay in the future, which the operator has confirmed: they raise no doubt any more.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub confirmed: Vec<Parent>,
}

impl PruneRecord {
    /// Whether it names files of a log.
    pub fn names_log(&self) -> bool {
        !self.condemned.log.is_empty() || !self.dropped.log.is_empty()
    }

    /// The same without the lists of runs of a log.
    #[must_use]
    pub fn unlisted(self) -> Self {
        PruneRecord { condemned: self.condemned.unlisted(), dropped: self.dropped.unlisted(), ..self }
    }

    /// Why the record cannot be what it claims to be, if so. Its signature is another matter.
    pub fn contradiction(&self) -> Option<&'static str> {
        let is_plain = |text: &str| {
            text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        };
        if self.format != FORMAT {
            Some("its format is not the one this version reads")
        } else if self.condemned.is_too_large() || self.dropped.is_too_large() {
            Some("it condemns more than any plan does")
        } else if self.orphans_seen.len() > MAX_RUNS || self.writers_seen.len() > MAX_RUNS {
            Some("it names more runs or writers than any record does")
        } else if self.confirmed.len() > MAX_SNAPSHOTS {
            Some("it confirms more snapshots than any record does")
        } else if self.stage == Stage::Planned && !self.dropped.is_empty() {
            Some("it is a plan and drops something already")
        } else if self.stage == Stage::Executed && self.names_log() && self.log_sha256.is_none() {
            Some("it deletes files of a log and does not say what lists them")
        } else if let Some(why) = CondemnedLog::contradiction(&self.condemned.log, &self.dropped.log) {
            Some(why)
        } else if !is_plain(&self.writer) || !self.writers_seen.iter().all(|seen| is_plain(&seen.writer)) {
            Some("one of its texts is not of printable characters, or too long")
        } else {
            None
        }
    }
}

/// Everything that some records condemn, ready to be asked about.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct CondemnedSet {
    snapshots: BTreeSet<SnapshotId>,
    roots: BTreeSet<SnapshotId>,
    folders: BTreeSet<SnapshotId>,
    whole: BTreeSet<RunId>,
    packs: BTreeMap<RunId, PackSet>,
    /// Files of logs.
    pub logs: CondemnedLogs,
}

impl CondemnedSet {
    /// What a record condemns.
    pub fn of(condemned: &Condemned) -> Self {
        let mut set = CondemnedSet::default();
        set.add(condemned);
        set
    }

    /// Adds what a record condemns.
    pub fn add(&mut self, condemned: &Condemned) {
        self.snapshots.extend(condemned.snapshots.iter().map(|snapshot| snapshot.id));
        self.roots.extend(&condemned.roots);
        self.folders.extend(&condemned.folders);
        for run in &condemned.runs {
            if run.whole {
                self.whole.insert(run.run);
            }
            self.add_packs(run.run, &run.packs);
        }
        self.logs.add(&condemned.log);
    }

    /// No run is named of which nothing is condemned: sets that condemn the same are equal.
    fn add_packs(&mut self, run: RunId, packs: &PackSet) {
        if !packs.is_empty() {
            let known = self.packs.entry(run).or_default();
            *known = known.union(packs);
        }
    }

    /// What both sets condemn.
    #[must_use]
    pub fn intersection(&self, other: &CondemnedSet) -> CondemnedSet {
        let packs_of = |set: &CondemnedSet, run: &RunId| set.packs.get(run).cloned().unwrap_or_default();
        let both = |run: &RunId| match (self.whole.contains(run), other.whole.contains(run)) {
            (true, true) => packs_of(self, run).union(&packs_of(other, run)),
            (true, false) => packs_of(other, run),
            (false, true) => packs_of(self, run),
            (false, false) => packs_of(self, run).without(&packs_of(self, run).without(&packs_of(other, run))),
        };
        let common = |a: &BTreeSet<SnapshotId>, b: &BTreeSet<SnapshotId>| a.intersection(b).copied().collect();
        CondemnedSet {
            snapshots: common(&self.snapshots, &other.snapshots),
            roots: common(&self.roots, &other.roots),
            folders: common(&self.folders, &other.folders),
            whole: self.whole.intersection(&other.whole).copied().collect(),
            packs: self
                .packs
                .keys()
                .chain(other.packs.keys())
                .map(|run| (*run, both(run)))
                .filter(|(_, packs)| !packs.is_empty())
                .collect(),
            logs: self.logs.intersection(&other.logs),
        }
    }

    /// Adds what another set condemns.
    pub fn extend(&mut self, other: CondemnedSet) {
        self.snapshots.extend(other.snapshots);
        self.roots.extend(other.roots);
        self.folders.extend(other.folders);
        self.whole.extend(other.whole);
        other.packs.iter().for_each(|(run, packs)| self.add_packs(*run, packs));
        self.logs.extend(other.logs);
    }

    /// Whether nothing is condemned.
    pub fn is_empty(&self) -> bool {
        self == &CondemnedSet::default()
    }

    /// Whether it is a part of a log, and nothing else.
    pub fn is_of_log(&self) -> bool {
        let is_nothing_else = self.snapshots.is_empty()
            && self.roots.is_empty()
            && self.folders.is_empty()
            && self.whole.is_empty()
            && self.packs.is_empty();
        is_nothing_else && self.logs != CondemnedLogs::default()
    }

    /// The condemned packs of a run that is not condemned as a whole.
    pub fn packs_of(&self, run: RunId) -> PackSet {
        self.packs.get(&run).cloned().unwrap_or_default()
    }

    /// The condemned snapshots.
    pub fn snapshots(&self) -> &BTreeSet<SnapshotId> {
        &self.snapshots
    }

    /// Whether a snapshot is condemned.
    pub fn has_snapshot(&self, id: SnapshotId) -> bool {
        self.snapshots.contains(&id)
    }

    /// The condemned folders of snapshots that had no inventory.
    pub fn folders(&self) -> &BTreeSet<SnapshotId> {
        &self.folders
    }

    /// Whether nothing is left of a snapshot: it is condemned itself, or its folder is, as one that had no inventory on
    /// the stores that were looked at. One that too few stores had to make it durable goes that way.
    pub fn leaves_nothing_of(&self, id: SnapshotId) -> bool {
        self.snapshots.contains(&id) || self.folders.contains(&id)
    }

    /// Whether a run is condemned as a whole.
    pub fn has_run(&self, run: RunId) -> bool {
        self.whole.contains(&run)
    }

    /// Whether a pack is condemned.
    pub fn has_pack(&self, run: RunId, pack: u32) -> bool {
        self.whole.contains(&run) || self.packs.get(&run).is_some_and(|packs| packs.contains(pack))
    }

    /// Whether an object is condemned; `name` is relative to the source's folder.
    pub fn has_object(&self, name: &str) -> bool {
        let Some((folder, rest)) = name.split_once('/') else { return false };
        let Some((owner, object)) = rest.split_once('/') else { return false };
        match folder {
            "log" => self.logs.has_object(owner, object),
            "packs" => owner.parse().is_ok_and(|run| match pack_number(object) {
                Some(pack) => self.has_pack(run, pack),
                None => self.whole.contains(&run),
            }),
            "snapshots" => owner.parse().is_ok_and(|id: SnapshotId| {
                self.folders.contains(&id)
                    || match object {
                        "manifest.age" => self.roots.contains(&id),
                        _ => self.snapshots.contains(&id),
                    }
            }),
            _ => false,
        }
    }

    /// What an inventory uses that is condemned, if anything: a name for people. That the snapshot itself is condemned
    /// is another matter.
    pub fn used_by(&self, inventory: &Inventory) -> Option<String> {
        let root = &inventory.manifest.name;
        if self.has_object(root) {
            return Some(root.clone());
        }
        if self.folders.contains(&inventory.id()) {
            return Some(format!("snapshots/{}", inventory.id()));
        }
        let used = inventory.uses.iter().find(|used| {
            self.whole.contains(&used.run)
                || self.packs.get(&used.run).is_some_and(|packs| packs.intersects(&used.packs))
        });
        used.map(|used| format!("packs/{}", used.run))
    }
}

/// The number of the pack that an object of a run is, if it is one.
fn pack_number(object: &str) -> Option<u32> {
    let digits = object.strip_suffix(".age")?;
    let canonical = digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if canonical { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(seq: u64) -> SnapshotId {
        SnapshotId { seq, run: run(seq as u8) }
    }

    fn run(number: u8) -> RunId {
        RunId::from_random([number; 16])
    }

    #[test]
    fn what_is_condemned() {
        let mut set = CondemnedSet::default();
        assert!(set.is_empty());
        set.add(&Condemned {
            snapshots: vec![CondemnedSnapshot {
                id: id(1),
                inventory_sha256: None,
                because: Because::Retention,
                on_every_store: true,
            }],
            roots: vec![id(2)],
            runs: vec![
                CondemnedRun { run: run(1), packs: "0-2".parse().unwrap(), whole: true },
                CondemnedRun { run: run(2), packs: "3,5".parse().unwrap(), whole: false },
            ],
            folders: vec![id(4)],
            log: Vec::new(),
        });
        for (name, expected) in [
            (format!("packs/{}/7.age", run(1)), true),
            (format!("packs/{}/objects.json", run(1)), true),
            (format!("packs/{}/3.age", run(2)), true),
            (format!("packs/{}/4.age", run(2)), false),
            (format!("packs/{}/m3.age", run(2)), false),
            (format!("packs/{}/03.age", run(2)), false),
            (format!("packs/{}/objects.json", run(2)), false),
            (format!("packs/{}/3.age", run(3)), false),
            (format!("snapshots/{}/inventory.json", id(1)), true),
            (format!("snapshots/{}/inventory.json.sig", id(1)), true),
            // An idle snapshot may still name the root.
            (format!("snapshots/{}/manifest.age", id(1)), false),
            (format!("snapshots/{}/manifest.age", id(2)), true),
            (format!("snapshots/{}/inventory.json", id(2)), false),
            (format!("snapshots/{}/inventory.json.sig", id(4)), true),
            ("packs".to_owned(), false),
            ("prunes/x/plan.json".to_owned(), false),
            (format!("packs/{}", run(1)), false),
        ] {
            assert_eq!(set.has_object(&name), expected, "{name}");
        }
    }

    #[test]
    fn where_two_records_differ_only_what_both_condemn_counts() {
        let set = |packs: &str, whole: bool, roots: &[u64]| {
            let mut set = CondemnedSet::default();
            set.add(&Condemned {
                roots: roots.iter().map(|seq| id(*seq)).collect(),
                runs: vec![CondemnedRun { run: run(1), packs: packs.parse().unwrap(), whole }],
                ..Condemned::default()
            });
            set
        };
        for (a, b, expected) in [
            (set("0-3", true, &[1]), set("0-3", true, &[1]), set("0-3", true, &[1])),
            (set("0-3", true, &[1, 2]), set("2", false, &[2, 3]), set("2", false, &[2])),
            (set("0-3", false, &[1]), set("2-5", false, &[]), set("2-3", false, &[])),
        ] {
            assert_eq!(a.intersection(&b), expected);
            assert_eq!(b.intersection(&a), expected);
            let mut all = a.clone();
            all.extend(b.clone());
            assert_eq!(all.intersection(&a), a);
        }
    }

    #[test]
    fn what_of_a_plan_is_in_a_set() {
        let snapshot = |seq| CondemnedSnapshot {
            id: id(seq),
            inventory_sha256: None,
            because: Because::Retention,
            on_every_store: true,
        };
        let part = |number, packs: &str, whole| CondemnedRun { run: run(number), packs: packs.parse().unwrap(), whole };
        // One that lists no runs is the record of an execution, of which no store shows anything any more.
        let log = |before, runs: &[u8]| CondemnedLog {
            history: "7-00000001".parse().unwrap(),
            segment_bytes: 1 << 20,
            bound: LogBound::Before(crate::core::log::Lsn(before)),
            files: 1,
            bytes: 1,
            runs: runs.iter().map(|number| run(*number)).collect(),
        };
        let plan = Condemned {
            snapshots: vec![snapshot(1), snapshot(2)],
            roots: vec![id(1), id(2)],
            runs: vec![part(1, "0-3", true), part(2, "0-3", false), part(3, "", true), part(4, "0", true)],
            folders: vec![id(3), id(4)],
            log: vec![log(1, &[1, 2]), log(2, &[]), log(3, &[3])],
        };
        let less = Condemned {
            snapshots: vec![snapshot(1)],
            roots: vec![id(2)],
            runs: vec![part(1, "2", false), part(2, "1-2", false), part(3, "", true)],
            folders: vec![id(4)],
            log: vec![log(1, &[1, 2]), log(2, &[])],
        };
        let (within, beyond) = plan.split(&CondemnedSet::of(&less));
        assert_eq!(within, less);
        assert_eq!((beyond.snapshots, beyond.roots), (vec![snapshot(2)], vec![id(1)]));
        assert_eq!(beyond.runs, [part(1, "0-3", true), part(2, "0-3", false), part(4, "0", true)]);
        assert_eq!((beyond.folders, beyond.log), (vec![id(3)], vec![log(3, &[3])]));
        let some = Condemned { log: vec![log(1, &[1]), log(2, &[9])], ..Condemned::default() };
        let of_log = |of: Condemned| of.log.iter().map(|part| part.bound.place().0).collect::<Vec<_>>();
        let (within, beyond) = plan.split(&CondemnedSet::of(&some));
        assert_eq!((of_log(within.clone()), of_log(beyond.clone())), (vec![2], vec![1, 3]), "a part goes as a whole");
        let mut all = within;
        all.extend(beyond);
        assert_eq!(of_log(all), [2, 1, 3]);
        assert_eq!(plan.split(&CondemnedSet::of(&plan)), (plan.clone(), Condemned::default()));
        assert_eq!(plan.split(&CondemnedSet::default()), (Condemned::default(), plan));
    }
}
