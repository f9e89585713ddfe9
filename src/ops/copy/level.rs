//! Bringing one store level with the snapshots of one source, oldest first.

use super::Copying;
use crate::{
    core::{id::SnapshotId, result::Problem},
    ops::progress::{Progress, Unit},
    repository::{
        catalogue::{Catalogue, Committed, Needed},
        fetch::{Detours, NowhereIntact},
        heal::BringError,
        layout,
    },
    stores::Replaced,
};
use std::collections::{BTreeMap, BTreeSet};

/// One store and one source.
struct Task<'a> {
    catalogue: &'a Catalogue,
    store: usize,
    /// What the examination found missing or damaged, on every store.
    damaged: &'a BTreeSet<(usize, Needed)>,
    /// What the examination has looked at on this store.
    read: BTreeSet<String>,
    /// Objects that were dealt with, and whether the store has them now.
    settled: BTreeMap<String, bool>,
}

impl Copying<'_> {
    pub(super) async fn level(
        &mut self,
        catalogue: &Catalogue,
        store: usize,
        damaged: &BTreeSet<(usize, Needed)>,
        progress: &dyn Progress,
    ) {
        let name = catalogue.listings[store].store.clone();
        progress.begin(
            &format!("levelling {} on {name}", catalogue.source),
            Some(catalogue.snapshots.len() as u64),
            Unit::Items,
        );
        let read = read_already(catalogue, store);
        let mut task = Task { catalogue, store, damaged, read, settled: BTreeMap::new() };
        for (id, committed) in &catalogue.snapshots {
            // What a plan condemns is a snapshot like every other until the plan is executed.
            if self.level_snapshot(&mut task, committed).await {
                self.findings.caught_up(&name, *id);
                let of_source = self.completed.entry(catalogue.source.clone()).or_default();
                of_source.entry(name.clone()).or_default().insert(*id);
            } else if let Some(stopped) = self.stopped.get_mut(&store) {
                stopped.lacks.insert(*id);
            }
            progress.advance(1);
        }
    }

    /// Whether the store holds all of the snapshot in the end.
    async fn level_snapshot(&mut self, task: &mut Task<'_>, committed: &Committed) -> bool {
        let Task { catalogue, store, .. } = *task;
        let id = committed.inventory.id();
        let Some(needed) = catalogue.needed(committed) else {
            // The examination has named the list, unless this store never had the snapshot.
            let lost = committed.inventory.uses.iter().find(|used| catalogue.run(used).is_none());
            let object = lost.map(|used| layout::run_object(used.run, layout::OBJECTS));
            self.lacks(task, id, object.map(|name| format!("{name} cannot be had from any store")));
            return false;
        };
        // What lies there though nothing committed needs it: nobody has read it yet, and it is compared with the right
        // bytes before anything is committed over it.
        let reads_leftovers = !self.request.dry_run && !is_committed(catalogue, store, committed);
        let lacking: BTreeSet<&str> =
            catalogue.lacking(store, &needed).into_iter().map(|object| object.name.as_str()).collect();
        let to_bring: Vec<&Needed> = needed
            .iter()
            .filter(|object| !task.settled.contains_key(&object.name))
            .filter(|object| {
                reads_leftovers && !task.read.contains(&object.name)
                    || lacking.contains(object.name.as_str())
                    || task.damaged.contains(&(store, (*object).clone()))
            })
            .collect();
        // The signature and the inventory are the last two, in this order: the commit.
        // What could not be brought for an earlier snapshot is lacking for this one too.
        let mut complete = needed.iter().all(|object| task.settled.get(&object.name) != Some(&false));
        let commit_from = needed.len() - 2;
        for object in to_bring {
            let is_commit = needed[commit_from..].contains(object);
            if self.stopped.contains_key(&store) || is_commit && !complete {
                complete = false;
                continue;
            }
            let brought = self.bring(task, committed, object).await;
            complete &= brought;
            task.settled.insert(object.name.clone(), brought);
        }
        complete
    }

    async fn bring(&mut self, task: &Task<'_>, committed: &Committed, object: &Needed) -> bool {
        let Task { catalogue, store, .. } = *task;
        if self.request.dry_run {
            return self.plan_to_bring(task, committed, object);
        }
        let key = format!("{}{}", layout::source_folder(&catalogue.source), object.name);
        let own = [(&committed.bytes, layout::INVENTORY), (&committed.signature, layout::SIGNATURE)];
        let id = committed.inventory.id();
        let at_hand = own.into_iter().find(|(_, name)| object.name == layout::snapshot_object(id, name));
        let detours = Detours::default();
        let brought = match at_hand {
            Some((bytes, _)) => {
                let replaced = self.repository.stores[store].replace(&key, bytes.clone(), &object.sha256).await;
                replaced.map(|replaced| (replaced, bytes.len() as u64)).map_err(BringError::Store)
            }
            None => self.repository.bring_one(&catalogue.source, store, object, &detours).await,
        };
        match brought {
            Ok((replaced, size)) => {
                self.count(store, &replaced, size);
                self.findings.settle(&self.stores[store].store, &key);
                true
            }
            Err(BringError::Nowhere(error)) => {
                self.nowhere(task, id, &error, &detours);
                false
            }
            Err(BringError::Store(error)) => {
                self.not_taken(store, &error, Some(id));
                false
            }
        }
    }

    /// No store has it whole: says what each has instead.
    fn nowhere(&mut self, task: &Task<'_>, id: SnapshotId, error: &NowhereIntact, detours: &Detours) {
        let own = &task.catalogue.listings[task.store].store;
        let committed_here = task.catalogue.listings[task.store].has_inventory(id);
        for detour in detours.list() {
            let is_here = detour.store == *own && committed_here && detour.problem != Problem::Unreachable;
            if detour.problem == Problem::Damaged || is_here {
                self.findings.add_object(&detour.store, &error.object, detour.problem, id);
            }
            if detour.problem == Problem::Unreachable {
                self.losses.unasked.insert(detour.store);
            }
        }
        if !error.unreachable {
            self.losses.objects.insert(error.object.clone());
        }
        self.lacks(task, id, Some(error.to_string()));
    }

    /// A store that never had the snapshot stays behind.
    fn lacks(&mut self, task: &Task<'_>, id: SnapshotId, cause: Option<String>) {
        if !task.catalogue.listings[task.store].has_inventory(id) {
            self.findings.add(&task.catalogue.listings[task.store].store, None, Problem::Behind, [id], cause);
        }
    }

    /// Counts what would be brought, if some store has it.
    fn plan_to_bring(&mut self, task: &Task<'_>, committed: &Committed, object: &Needed) -> bool {
        let Task { catalogue, store, damaged, .. } = *task;
        let own = layout::commit_names(&committed.inventory);
        let has_it = |other: usize| {
            !damaged.contains(&(other, object.clone()))
                && catalogue.lacking(other, std::slice::from_ref(object)).is_empty()
        };
        let is_at_hand = own[1..].contains(&object.name);
        if !is_at_hand && !catalogue.ready().any(has_it) {
            self.lacks(task, committed.inventory.id(), Some(format!("{} cannot be had from any store", object.name)));
            return false;
        }
        let is_there = catalogue.listings[store].objects.contains_key(&object.name);
        let replaced = if is_there { Replaced::Healed { quarantined: None } } else { Replaced::Filled };
        self.count(store, &replaced, object.size.unwrap_or(0));
        let key = format!("{}{}", layout::source_folder(&catalogue.source), object.name);
        self.findings.settle(&self.stores[store].store, &key);
        true
    }
}

fn is_committed(catalogue: &Catalogue, store: usize, committed: &Committed) -> bool {
    catalogue.listings[store].has_inventory(committed.inventory.id())
}

/// What snapshots committed on a store need: the examination has looked at it.
fn read_already(catalogue: &Catalogue, store: usize) -> BTreeSet<String> {
    let committed = catalogue.snapshots.values().filter(|committed| is_committed(catalogue, store, committed));
    committed.flat_map(|committed| catalogue.needed(committed).unwrap_or_default()).map(|object| object.name).collect()
}
