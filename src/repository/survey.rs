//! What the stores show at a glance: which snapshots are committed where. Nothing that lies in them is read, but the
//! records of what was pruned where the stores do not show the same.

use super::{
    Repository,
    head::{self, StoreStatus},
    layout,
    prunes::{ShownPlan, deleted_by, was_begun},
};
use crate::core::{
    id::{RunId, SnapshotId, SourceName},
    prune::Stage,
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

/// A look at the stores. A store that fails once is not asked again: it costs its patience once, not for every source.
pub struct Survey<'a> {
    repository: &'a Repository,
    statuses: Mutex<Vec<StoreStatus>>,
}

impl Repository {
    /// Asks every store what it is.
    pub async fn survey(&self) -> Survey<'_> {
        let statuses = join_all(self.stores.iter().map(|store| head::status(store, self.id))).await;
        Survey { repository: self, statuses: Mutex::new(statuses) }
    }
}

impl Survey<'_> {
    /// How the stores are, in the repository's order.
    pub fn statuses(&self) -> Vec<StoreStatus> {
        self.statuses.lock().expect("no panic while held").clone()
    }

    fn status(&self, at: usize) -> StoreStatus {
        self.statuses.lock().expect("no panic while held")[at].clone()
    }

    /// The snapshots of a source whose inventory each store shows; `None` for a store that cannot be used.
    ///
    /// What an executed plan has deleted is not there, though a store that lagged still shows it.
    pub async fn committed(&self, source: &SourceName) -> Vec<Option<BTreeSet<SnapshotId>>> {
        let mut committed = join_all((0..self.repository.stores.len()).map(|at| self.committed_on(at, source))).await;
        let mut shown = committed.iter().flatten();
        let first = shown.next().cloned();
        // Where all show the same there is nothing that some have deleted.
        if shown.any(|other| Some(other) != first.as_ref()) {
            let deleted = self.deleted(source, &committed).await;
            committed.iter_mut().flatten().for_each(|ids| ids.retain(|id| !deleted.contains(id)));
        }
        committed
    }

    /// What executed plans have deleted, as far as the stores that answer show them.
    async fn deleted(&self, source: &SourceName, committed: &[Option<BTreeSet<SnapshotId>>]) -> BTreeSet<SnapshotId> {
        let folder = layout::source_folder(source);
        let readable = (0..committed.len()).filter(|at| committed[*at].is_some());
        let listings =
            join_all(
                readable.map(|at| {
                    let folder = &folder;
                    async move {
                        (at, self.repository.stores[at].list(&format!("{folder}prunes")).await.unwrap_or_default())
                    }
                }),
            )
            .await;
        let mut executed: BTreeMap<RunId, BTreeSet<usize>> = BTreeMap::new();
        let mut planned: BTreeSet<(RunId, usize)> = BTreeSet::new();
        for (at, names) in listings {
            let names = names.iter().filter_map(|(key, _)| layout::prune_record(key.strip_prefix(&folder)?));
            for (plan, stage) in names {
                match stage {
                    Stage::Planned => drop(planned.insert((plan, at))),
                    Stage::Executed => drop(executed.entry(plan).or_default().insert(at)),
                }
            }
        }
        let mut deleted = BTreeSet::new();
        for (plan, stores) in executed {
            // One that cannot be read deletes nothing here: what it would explain is found as it is.
            let records = self.repository.executed_records(source, plan, &stores).await.unwrap_or_default();
            let tombstones = deleted_by(&records);
            let shown = |(at, ids): (usize, &Option<BTreeSet<SnapshotId>>)| {
                let (ids, planned) = (ids.as_ref()?, planned.contains(&(plan, at)));
                let of_plan = (&records[..], &tombstones);
                Some(ShownPlan::new(planned, stores.contains(&at), of_plan, |id| ids.contains(&id), || false))
            };
            if !was_begun(&committed.iter().enumerate().map(shown).collect::<Vec<_>>()) {
                continue;
            }
            deleted.extend(committed.iter().flatten().flatten().filter(|id| tombstones.leaves_nothing_of(**id)));
        }
        deleted
    }

    async fn committed_on(&self, at: usize, source: &SourceName) -> Option<BTreeSet<SnapshotId>> {
        if self.status(at) != StoreStatus::Ready {
            return None;
        }
        let folder = layout::source_folder(source);
        match self.repository.stores[at].list(&format!("{folder}snapshots")).await {
            Ok(found) => {
                let id = |(key, _): &(String, u64)| layout::committed_snapshot(key.strip_prefix(&folder)?);
                Some(found.iter().filter_map(id).collect())
            }
            Err(error) => {
                let mut statuses = self.statuses.lock().expect("no panic while held");
                statuses[at] = StoreStatus::Down(head::reason(&error));
                None
            }
        }
    }
}
