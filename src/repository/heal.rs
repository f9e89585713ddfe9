//! Bringing objects to a store that lacks them, from the stores that have them: sealed bytes, no key.

use super::{
    Repository,
    catalogue::Needed,
    fetch::{Detours, NowhereIntact, Wanted},
    layout,
};
use crate::{
    core::id::SourceName,
    format::objects,
    stores::{Replaced, StoreError},
};
use futures_util::{StreamExt, stream};

/// How many objects are brought at once.
const CONCURRENT: usize = 2;

/// Why an object could not be brought.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BringError {
    /// No store has it intact.
    #[error(transparent)]
    Nowhere(#[from] NowhereIntact),
    /// The store did not take it.
    #[error("{0}")]
    Store(StoreError),
}

impl Repository {
    /// Brings objects of a source to the store at position `store`: what is missing is filled in, what is damaged
    /// is replaced. Stops at the first that cannot be brought.
    pub async fn bring(&self, source: &SourceName, store: usize, needed: &[Needed]) -> Result<(), BringError> {
        let detours = &Detours::default();
        let mut results = stream::iter(needed)
            .map(|object| self.bring_one(source, store, object, detours))
            .buffer_unordered(CONCURRENT);
        while let Some(result) = results.next().await {
            result?;
        }
        Ok(())
    }

    /// Brings one object. Says how many bytes were written, and whether something damaged was replaced. What it had to
    /// go round is in `detours`.
    pub async fn bring_one(
        &self,
        source: &SourceName,
        store: usize,
        object: &Needed,
        detours: &Detours,
    ) -> Result<(Replaced, u64), BringError> {
        let key = format!("{}{}", layout::source_folder(source), object.name);
        let wanted = Wanted { key: &key, size: object.size, sha256: object.sha256, max_bytes: objects::MAX_BYTES };
        let bytes = self.fetch(wanted, detours).await?;
        let size = bytes.len() as u64;
        let replaced = self.stores[store].replace(&key, bytes, &object.sha256).await.map_err(BringError::Store)?;
        Ok((replaced, size))
    }
}
