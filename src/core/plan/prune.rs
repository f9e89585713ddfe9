//! What a prune deletes: everything that only condemned snapshots use, and what nothing has used for long.

use crate::core::{
    id::{RunId, Sha256, SnapshotId},
    inventory::{Inventory, PackSet},
    prune::{
        Because, Condemned, CondemnedRun, CondemnedSet, CondemnedSnapshot, MAX_RUNS, MAX_SNAPSHOTS, PruneRecord,
        WriterSeen,
    },
};
use std::collections::{BTreeMap, BTreeSet};

pub mod log;

/// A snapshot that some store has committed.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its inventory.
    pub inventory: &'a Inventory,
    /// SHA-256 of it.
    pub sha256: Sha256,
}

/// Every committed snapshot, by id.
pub type Snapshots<'a> = BTreeMap<SnapshotId, Known<'a>>;

/// What snapshots use, taken together.
#[derive(Clone, Debug, Default)]
struct InUse {
    runs: BTreeMap<RunId, PackSet>,
    roots: BTreeSet<SnapshotId>,
    folders: BTreeSet<SnapshotId>,
}

impl InUse {
    fn of<'a>(inventories: impl IntoIterator<Item = &'a Inventory>) -> Self {
        let mut in_use = InUse::default();
        for inventory in inventories {
            for used in &inventory.uses {
                let packs = in_use.runs.entry(used.run).or_default();
                if *packs != used.packs {
                    *packs = packs.union(&used.packs);
                }
            }
            in_use.roots.extend(root_of(inventory));
            in_use.folders.insert(inventory.id());
        }
        in_use
    }
}

/// The snapshot in whose folder an inventory's manifest root lies.
pub fn root_of(inventory: &Inventory) -> Option<SnapshotId> {
    inventory.manifest.name.strip_prefix("snapshots/")?.strip_suffix("/manifest.age")?.parse().ok()
}

/// What goes when these snapshots go: nothing that any other snapshot uses. `before` is what earlier plans condemn; it
/// counts as gone, and is not condemned again.
///
/// The oldest go first where there are more than one plan takes.
pub fn condemn(
    snapshots: &Snapshots<'_>,
    condemned: &BTreeMap<SnapshotId, Because>,
    before: &CondemnedSet,
) -> Condemned {
    let going: BTreeMap<SnapshotId, Because> =
        condemned.iter().take(MAX_SNAPSHOTS).map(|(id, because)| (*id, *because)).collect();
    let (gone, kept): (Vec<_>, Vec<_>) =
        snapshots.iter().partition(|(id, _)| going.contains_key(id) || before.has_snapshot(**id));
    let kept = InUse::of(kept.into_iter().map(|(_, known)| known.inventory));
    let gone = InUse::of(gone.into_iter().map(|(_, known)| known.inventory));
    let run = |(run, packs): (&RunId, &PackSet)| match kept.runs.get(run) {
        None => (!before.has_run(*run)).then(|| CondemnedRun { run: *run, packs: packs.clone(), whole: true }),
        Some(still) => {
            let packs = packs.without(still).without(&before.packs_of(*run));
            (!packs.is_empty()).then_some(CondemnedRun { run: *run, packs, whole: false })
        }
    };
    let is_new = |root: &&SnapshotId| !before.has_object(&format!("snapshots/{root}/manifest.age"));
    Condemned {
        snapshots: going
            .into_iter()
            .map(|(id, because)| {
                let inventory_sha256 = snapshots.get(&id).map(|known| known.sha256);
                CondemnedSnapshot { id, inventory_sha256, because, on_every_store: true }
            })
            .collect(),
        roots: gone.roots.difference(&kept.roots).filter(is_new).copied().take(MAX_RUNS).collect(),
        runs: gone.runs.iter().filter_map(run).take(MAX_RUNS).collect(),
        folders: Vec::new(),
        log: Vec::new(),
    }
}

/// The second look: what remains of a plan once everything that is committed now is known, and what is dropped from it.
///
/// `snapshots` is everything committed now, `keep` what must not go for other reasons.
pub fn second_look(plan: &Condemned, snapshots: &Snapshots<'_>, keep: &BTreeSet<SnapshotId>) -> (Condemned, Condemned) {
    let (mut rest, mut dropped) = (Condemned::default(), Condemned::default());
    for snapshot in &plan.snapshots {
        // What is there under that name is what was condemned, or it stays.
        let is_same = match (snapshots.get(&snapshot.id), snapshot.inventory_sha256) {
            (Some(known), Some(sha256)) => known.sha256 == sha256,
            // Acknowledged as lost, and there it is.
            (Some(_), None) => false,
            (None, _) => true,
        };
        let goes = is_same && !keep.contains(&snapshot.id);
        if goes { &mut rest } else { &mut dropped }.snapshots.push(snapshot.clone());
    }
    let going: BTreeSet<SnapshotId> = rest.snapshots.iter().map(|snapshot| snapshot.id).collect();
    let kept = snapshots.iter().filter(|(id, _)| !going.contains(id)).map(|(_, known)| known.inventory);
    let kept = InUse::of(kept);
    for root in &plan.roots {
        if kept.roots.contains(root) { &mut dropped } else { &mut rest }.roots.push(*root);
    }
    for folder in &plan.folders {
        let in_use = kept.roots.contains(folder) || kept.folders.contains(folder);
        if in_use { &mut dropped } else { &mut rest }.folders.push(*folder);
    }
    for run in &plan.runs {
        let Some(still) = kept.runs.get(&run.run) else {
            rest.runs.push(run.clone());
            continue;
        };
        let packs = run.packs.without(still);
        if run.whole || packs != run.packs {
            dropped.runs.push(run.clone());
        }
        if !packs.is_empty() {
            rest.runs.push(CondemnedRun { run: run.run, packs, whole: false });
        }
    }
    (rest, dropped)
}

/// What is held, and no store shows as committed: what lies of it is what it would be made whole from.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Remains {
    /// Held snapshots.
    pub snapshots: BTreeSet<SnapshotId>,
}

impl Remains {
    /// Whether nothing is held that is not seen.
    pub fn is_nothing(&self) -> bool {
        self.snapshots.is_empty()
    }

    fn has_run(&self, run: RunId) -> bool {
        self.snapshots.iter().any(|id| id.run == run)
    }

    fn has_folder(&self, id: SnapshotId) -> bool {
        self.snapshots.contains(&id)
    }

    /// Moves them from what goes to what is dropped.
    #[must_use]
    pub fn spared(&self, (mut goes, mut dropped): (Condemned, Condemned)) -> (Condemned, Condemned) {
        dropped.snapshots.extend(goes.snapshots.extract_if(.., |snapshot| self.has_folder(snapshot.id)));
        dropped.roots.extend(goes.roots.extract_if(.., |root| self.has_folder(*root)));
        dropped.folders.extend(goes.folders.extract_if(.., |folder| self.has_folder(*folder)));
        dropped.runs.extend(goes.runs.extract_if(.., |run| self.has_run(run.run)));
        (goes, dropped)
    }
}

/// What nothing committed uses.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Orphans {
    /// Runs that have objects.
    pub runs: BTreeSet<RunId>,
    /// Snapshot folders without an inventory whose root nobody names.
    pub folders: BTreeSet<SnapshotId>,
}

impl Orphans {
    /// The orphans among the runs and snapshot folders that the stores show.
    pub fn among(
        runs: &BTreeSet<RunId>,
        folders: &BTreeSet<SnapshotId>,
        snapshots: &Snapshots<'_>,
        condemned: &CondemnedSet,
    ) -> Self {
        let in_use = InUse::of(snapshots.values().map(|known| known.inventory));
        let is_orphan_folder = |id: &&SnapshotId| {
            let goes = condemned.has_object(&format!("snapshots/{id}/manifest.age"));
            !in_use.roots.contains(id) && !in_use.folders.contains(id) && !goes
        };
        Orphans {
            runs: runs
                .iter()
                .filter(|run| !in_use.runs.contains_key(run) && !condemned.has_run(**run))
                .copied()
                .collect(),
            folders: folders.iter().filter(is_orphan_folder).copied().collect(),
        }
    }

    /// All runs that they are of.
    pub fn all_runs(&self) -> BTreeSet<RunId> {
        self.runs.iter().copied().chain(self.folders.iter().map(|folder| folder.run)).collect()
    }

    /// Those that no run can still be working on: an earlier record saw them, and since then every writer has
    /// committed something newer, those included that the runs themselves name. A host takes one snapshot of a source at
    /// a time.
    ///
    /// `named` are the writers that the runs name; a host that has committed nothing yet is known from there alone.
    #[must_use]
    pub fn abandoned(&self, records: &[&PruneRecord], writers: &[WriterSeen], named: &NamedWriters) -> Orphans {
        let settled = records.iter().filter(|record| has_moved_on(&record.writers_seen, writers));
        let is_abandoned = |run: &RunId, then: &[WriterSeen]| {
            named.get(run).into_iter().flatten().all(|writer| seq_in(writers, writer) > seq_in(then, writer))
        };
        let seen: BTreeSet<RunId> = settled
            .flat_map(|record| record.orphans_seen.iter().filter(|run| is_abandoned(run, &record.writers_seen)))
            .copied()
            .collect();
        Orphans {
            runs: self.runs.intersection(&seen).copied().take(MAX_RUNS / 2).collect(),
            folders: self
                .folders
                .iter()
                .filter(|folder| seen.contains(&folder.run))
                .copied()
                .take(MAX_RUNS / 2)
                .collect(),
        }
    }

    /// Those of which nothing is held.
    #[must_use]
    pub fn but(mut self, held: &Remains) -> Orphans {
        self.runs.retain(|run| !held.has_run(*run));
        self.folders.retain(|folder| !held.has_folder(*folder));
        self
    }

    /// Adds them to what a plan condemns.
    pub fn condemn(&self, condemned: &mut Condemned) {
        let room = MAX_RUNS.saturating_sub(condemned.runs.len());
        let whole = |run: &RunId| CondemnedRun { run: *run, packs: PackSet::default(), whole: true };
        condemned.runs.extend(self.runs.iter().take(room).map(whole));
        condemned.folders.extend(&self.folders);
    }
}

/// The writers that unfinished runs name, by run. More than one where stores show different notes.
pub type NamedWriters = BTreeMap<RunId, BTreeSet<String>>;

/// The newest durable number of a writer; 0 for one that has none, or is not known.
fn seq_in(seen: &[WriterSeen], writer: &str) -> u64 {
    seen.iter().find(|seen| seen.writer == writer).map_or(0, |seen| seen.seq)
}

/// Whether every writer, known then or now, has committed something newer than it had then.
fn has_moved_on(then: &[WriterSeen], now: &[WriterSeen]) -> bool {
    !now.is_empty() && then.iter().chain(now).all(|seen| seq_in(now, &seen.writer) > seq_in(then, &seen.writer))
}

/// The newest durable number of every writer; 0 for one that has none.
pub fn writers<'a>(snapshots: impl IntoIterator<Item = (&'a Inventory, bool)>) -> Vec<WriterSeen> {
    let mut newest: BTreeMap<&str, u64> = BTreeMap::new();
    for (inventory, durable) in snapshots {
        let seq = newest.entry(&inventory.writer).or_default();
        if durable {
            *seq = (*seq).max(inventory.seq);
        }
    }
    newest.into_iter().map(|(writer, seq)| WriterSeen { writer: writer.to_owned(), seq }).collect()
}

#[cfg(test)]
#[path = "prune_tests.rs"]
mod tests;
