//! Snapshots of which an executed plan has deleted a part.

use super::{
    catalogue::{Catalogue, Committed},
    layout,
    log::committed,
    prunes::{SignedPrune, deleted_by},
};
use crate::core::{
    inventory::Inventory,
    log::{LogFile, LogRange, LogRecordId},
    prune::{CondemnedSet, Stage},
};
use std::collections::BTreeSet;

impl Catalogue {
    /// Takes out what cannot be whole any more because an executed plan has deleted a part of it: nobody acknowledged that,
    /// for whoever takes a snapshot heeds the plans on every store that counts. But a store that was set back to before a
    /// plan shows none, and what was taken with it alone stays.
    pub(super) fn set_spoilt_aside(&mut self) {
        if self.tombstones.is_empty() {
            return;
        }
        let (mut unheeding, mut spoilt) = (BTreeSet::new(), Vec::new());
        for (id, committed) in &self.snapshots {
            let inventory = &committed.inventory;
            let part = self.tombstones.used_by(inventory).or_else(|| self.deleted_log_of(inventory));
            // What leads on from it may be gone, though its own part of the log is not.
            let is_concerned = part.is_some() || reached(inventory, &self.tombstones).is_some();
            if is_concerned && self.was_taken_without_the_plan(committed) {
                unheeding.insert(*id);
            } else if let Some(part) = part {
                spoilt.push((*id, part));
            }
        }
        self.unheeding = unheeding;
        for (id, part) in spoilt {
            let committed = self.snapshots.remove(&id).expect("it was just looked at");
            self.spoilt.insert(id, (committed, part));
        }
    }

    /// What of a snapshot's own part of the log an executed plan has deleted, if anything: the first file of it of which no
    /// store shows a copy that was not pruned. A store that does not answer may have what others lack: then nothing is
    /// said to be gone.
    fn deleted_log_of(&self, inventory: &Inventory) -> Option<String> {
        let range = reached(inventory, &self.tombstones)?;
        if self.ready().count() < self.listings.len() {
            return None;
        }
        let folder = layout::log_folder(range.history);
        let names = self.listings.iter().flat_map(|listing| listing.objects.keys().map(String::as_str));
        let shown = committed(names.filter(|name| name.starts_with(&folder)));
        let gone = &self.tombstones.logs;
        let is_safe = |(file, id): &(LogFile, LogRecordId)| !gone.has(id.history, *file, id.run);
        let safe: BTreeSet<LogFile> = shown.into_iter().filter(is_safe).map(|(file, _)| file).collect();
        let file = range.segments().map(LogFile::Segment).find(|file| !safe.contains(file))?;
        Some(format!("{file} of the log"))
    }

    /// Whether a store shows a snapshot and not the plan that has deleted a part of it. Such a store may have been brought
    /// the record of the execution since, never the plan.
    fn was_taken_without_the_plan(&self, committed: &Committed) -> bool {
        let inventory = &committed.inventory;
        let plans_that = |delete: &dyn Fn(&CondemnedSet) -> bool| -> Vec<String> {
            let deletes = |records: &[SignedPrune]| delete(&deleted_by(records));
            let plans = self.prunes.executed.iter().filter(|(_, records)| deletes(records));
            plans.map(|(plan, _)| layout::prune_object(*plan, Stage::Planned)).collect()
        };
        let listings = self.ready().map(|at| &self.listings[at]);
        let mut showing = listings.filter(|listing| listing.has_inventory(inventory.id()));
        if self.tombstones.used_by(inventory).is_some() {
            let plans = plans_that(&|deletes| deletes.used_by(inventory).is_some());
            return showing.any(|listing| !plans.iter().any(|plan| listing.objects.contains_key(plan)));
        }
        // Of those that reach its log an earlier one may have left it what it needs.
        let plans = plans_that(&|deletes| reached(inventory, deletes).is_some());
        showing.any(|listing| !plans.iter().all(|plan| listing.objects.contains_key(plan)))
    }
}

/// The log that a snapshot needs, where something is condemned of it or of what leads on from it.
fn reached<'i>(inventory: &'i Inventory, condemned: &CondemnedSet) -> Option<&'i LogRange> {
    inventory.log.as_ref().filter(|range| condemned.logs.reach(range).is_some())
}
