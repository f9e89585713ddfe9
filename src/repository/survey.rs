//! What the stores show at a glance: which snapshots are committed where. Nothing that lies in them is read.

use super::{
    Repository,
    head::{self, StoreStatus},
    layout,
};
use crate::core::id::{SnapshotId, SourceName};
use futures_util::future::join_all;
use std::{collections::BTreeSet, sync::Mutex};

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
    pub async fn committed(&self, source: &SourceName) -> Vec<Option<BTreeSet<SnapshotId>>> {
        join_all((0..self.repository.stores.len()).map(|at| self.committed_on(at, source))).await
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
