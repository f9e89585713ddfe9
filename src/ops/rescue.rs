//! The configuration that a lost host ran with, from the newest snapshot that carries it.

use super::{list::sources_on_stores, restore::read_manifest};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{SnapshotId, SourceName},
    },
    format::seal::Identities,
    repository::Repository,
};

/// How many snapshots of a source are looked at when the newest ones are damaged.
const TRIES: usize = 10;

/// The newest snapshot of `source`, or of any, and the configuration in it.
pub async fn rescue(
    repository: &Repository,
    identities: &Identities,
    source: Option<&SourceName>,
) -> Result<(SnapshotId, String), Failure> {
    let mut sources = Vec::new();
    for name in
        sources_on_stores(repository).await?.into_iter().filter(|name| source.is_none_or(|wanted| wanted == name))
    {
        let catalogue = repository.catalogue(&name).await;
        if let Some(last) = catalogue.snapshots.values().next_back() {
            sources.push((last.inventory.created_at, catalogue));
        }
    }
    sources.sort_by_key(|(created_at, _)| std::cmp::Reverse(*created_at));
    let mut failed = None;
    for (_, catalogue) in &sources {
        // By number: a clock that once ran ahead must not keep an old configuration the newest for ever.
        for id in catalogue.snapshots.keys().rev().take(TRIES) {
            match read_manifest(repository, catalogue, *id, identities).await {
                Ok(manifest) => return Ok((*id, manifest.configuration)),
                Err(failure) if failure.code == Code::Damaged => drop(failed.get_or_insert(failure)),
                Err(failure) => return Err(failure),
            }
        }
    }
    Err(failed.unwrap_or_else(|| {
        Failure::new(Code::NoRecoveryPoint, "no snapshot carries a configuration")
            .cause("the stores show no snapshot that a trusted signer signed")
            .safe("nothing was changed")
            .next_step("recoup list")
    }))
}
