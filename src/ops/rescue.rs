//! The configuration that a lost host ran with, from the newest snapshot that carries it.

use super::{
    list::sources_on_stores,
    restore::{Manifest, read_manifest},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{SnapshotId, SourceName},
    },
    format::seal::Identities,
    repository::Repository,
    world::files::write_new,
};
use std::{io, path::Path};

/// How many snapshots of a source are looked at when the newest ones are damaged.
const TRIES: usize = 10;

/// What a snapshot kept of the host that took it.
pub struct Rescued {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Configuration and policies.
    pub configuration: String,
    /// The catalogue identity.
    pub catalogue_identity: Option<String>,
}

/// What the newest snapshot of `source`, or of any, kept.
pub async fn rescue(
    repository: &Repository,
    identities: &Identities,
    source: Option<&SourceName>,
) -> Result<Rescued, Failure> {
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
                Ok(Manifest { configuration, catalogue_identity, .. }) => {
                    return Ok(Rescued { snapshot: *id, configuration, catalogue_identity });
                }
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

/// Writes a rescued catalogue identity to a new file that only its owner may read.
pub fn write_catalogue(rescued: &Rescued, to: &Path) -> Result<(), Failure> {
    let refused = |code: Code, why: String| {
        Failure::new(code, format!("the catalogue key was not written to {}", to.display()))
            .cause(why)
            .safe("nothing was overwritten")
            .next_step("name a file that is not there yet; or go without: the next snapshot is then a full")
    };
    let Some(text) = &rescued.catalogue_identity else {
        return Err(refused(Code::Failed, format!("snapshot {} carries none", rescued.snapshot)));
    };
    write_new(to, text.as_bytes(), 0o600).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => refused(Code::Refused, error.to_string()),
        _ => refused(Code::Failed, error.to_string()),
    })
}
