//! Stores whose `recoup.json` is lost or wrong: what is signed for the repository shows whose they are.

use super::{
    Repository,
    head::{FORMAT_VERSION, Head, StoreStatus},
    layout,
};
use crate::core::{id::SourceName, time::Timestamp};

impl Repository {
    /// The head of a repository of which no store has one any more, if any of the stores is shown to be its own.
    pub async fn head_from_snapshots(&self, survey: &[Result<Head, StoreStatus>]) -> Option<Head> {
        let mut earliest = None;
        for (at, found) in survey.iter().enumerate() {
            if matches!(found, Err(StoreStatus::Empty | StoreStatus::Damaged(_))) {
                let proof = self.signed_since(at).await;
                earliest = earliest.into_iter().chain(proof).min();
            }
        }
        earliest.map(|created_at| Head { format_version: FORMAT_VERSION, repository: self.id, created_at })
    }

    /// Whether a store is the repository's, whatever its `recoup.json` says; since when, if so: the time of the oldest
    /// snapshot of a source that a trusted signer signed for this repository. One for each source is looked for.
    pub async fn signed_since(&self, at: usize) -> Option<Timestamp> {
        let store = &self.stores[at];
        let mut earliest = None;
        for name in store.list_directories("sources").await.unwrap_or_default() {
            let Ok(source) = name.parse::<SourceName>() else { continue };
            let folder = format!("{}snapshots", layout::source_folder(&source));
            for id in store.list_directories(&folder).await.unwrap_or_default() {
                let Ok(id) = id.parse() else { continue };
                if let Ok(committed) = self.read_snapshot(at, &source, id).await {
                    earliest = earliest.into_iter().chain([committed.inventory.created_at]).min();
                    break;
                }
            }
        }
        earliest
    }
}
