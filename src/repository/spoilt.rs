//! Snapshots of which an executed plan has deleted a part.

use super::{
    catalogue::{Catalogue, Committed},
    layout,
    log::committed,
    prunes::{SignedPrune, deleted_by},
};
use crate::core::{
    id::SnapshotId,
    inventory::Inventory,
    log::{LogFile, LogRecordId},
    prune::Stage,
};
use std::collections::{BTreeMap, BTreeSet};

impl Catalogue {
    /// Takes out what cannot be whole any more because an executed plan has deleted a part of it: nobody acknowledged that,
    /// for whoever takes a snapshot heeds the plans on every store that counts. But a store that was set back to before a
    /// plan shows none, and what was taken with it alone stays.
    pub(super) fn set_spoilt_aside(&mut self) {
        if self.tombstones.is_empty() {
            return;
        }
        let tombstones = &self.tombstones;
        let part = |committed: &Committed| {
            tombstones.used_by(&committed.inventory).or_else(|| self.deleted_log_of(&committed.inventory))
        };
        let mut spoilt: BTreeMap<SnapshotId, String> =
            self.snapshots.iter().filter_map(|(id, committed)| Some((*id, part(committed)?))).collect();
        spoilt.retain(|id, _| !self.was_taken_without_the_plan(&self.snapshots[id]));
        for (id, part) in spoilt {
            let committed = self.snapshots.remove(&id).expect("it was just looked at");
            self.spoilt.insert(id, (committed, part));
        }
    }

    /// What of a snapshot's own part of the log an executed plan has deleted, if anything: the first file of it of which no
    /// store shows a copy that was not pruned. A store that does not answer may have what others lack: then nothing is
    /// said to be gone.
    pub fn deleted_log_of(&self, inventory: &Inventory) -> Option<String> {
        let range = inventory.log.as_ref().filter(|range| self.tombstones.logs.reach(range).is_some())?;
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
        let inventory = layout::snapshot_object(committed.inventory.id(), layout::INVENTORY);
        let range = committed.inventory.log.as_ref().filter(|_| self.deleted_log_of(&committed.inventory).is_some());
        let deletes_of_it = |records: &[SignedPrune]| {
            let deleted = deleted_by(records);
            deleted.used_by(&committed.inventory).is_some()
                || range.is_some_and(|range| deleted.logs.reach(range).is_some())
        };
        let plans = self.prunes.executed.iter().filter(|(_, records)| deletes_of_it(records));
        let plans: Vec<String> = plans.map(|(plan, _)| layout::prune_object(*plan, Stage::Planned)).collect();
        let shows = |at: &usize, name: &String| self.listings[*at].objects.contains_key(name);
        self.ready().any(|at| shows(&at, &inventory) && !plans.iter().any(|plan| shows(&at, plan)))
    }
}
