//! Restores a snapshot: choose, read its manifest, fetch from whichever stores still answer, check every block.

mod alternative;
mod checks;
mod fetch;
mod manifest;
mod select;
mod write;

use super::progress::{Progress, Unit};
use crate::{
    core::{
        failure::Failure,
        id::{SnapshotId, SourceName},
        inventory::Parent,
        manifest::EntryKind,
        policy::{Assertion, Copies},
        result::{Problem, RestoreResult, RestoreSchema, WentRound},
        target::{KnownHead, Target},
    },
    format::seal::Identities,
    repository::{
        Repository,
        catalogue::{Catalogue, Refusal},
        layout,
    },
};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

pub use manifest::{Manifest, PackContent, read_manifest};
use select::Selected;

/// What to restore, and where to.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The source.
    pub source: SourceName,
    /// Which point.
    pub target: Target,
    /// A new or empty directory.
    pub to: PathBuf,
    /// A snapshot that the stores must know of: proof that they were not rolled back behind it.
    pub head: Option<KnownHead>,
    /// The newest snapshot that this host knows of, if it knows of any.
    pub known_head: Option<Parent>,
    /// When a snapshot is durable.
    pub copies: Copies,
    /// Whether to run the database's own checks and the assertions over the result.
    pub check: bool,
    /// The policy's assertions; `None` takes those that were kept with the snapshot.
    pub assertions: Option<Vec<Assertion>>,
    /// What the operator should know whatever comes of it.
    pub notes: Vec<String>,
}

impl RestoreRequest {
    /// A restore where nothing is known but what the stores say.
    pub fn new(source: SourceName, target: Target, to: PathBuf) -> Self {
        RestoreRequest {
            source,
            target,
            to,
            head: None,
            known_head: None,
            copies: Copies::default(),
            check: false,
            assertions: None,
            notes: Vec::new(),
        }
    }
}

/// What a restore would do.
#[derive(Clone, Debug)]
pub struct RestorePlan {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Files to be written.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Packs to be fetched.
    pub packs: u64,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Says what a restore would do; writes nothing.
pub async fn plan(
    repository: &Repository,
    identities: &Identities,
    request: &RestoreRequest,
) -> Result<RestorePlan, Failure> {
    let staging = write::Staging::check(&request.to, &repository.stores)?;
    let catalogue = catalogue_of(repository, request).await?;
    let Selected { id, mut notes, warnings } = select::select(repository, &catalogue, request).await?;
    notes.extend(warnings);
    let manifest = read_manifest(repository, &catalogue, id, identities).await?;
    staging.check_room(manifest.bytes_stored_raw())?;
    Ok(RestorePlan {
        snapshot: id,
        files: manifest.files(),
        bytes: manifest.bytes(),
        packs: manifest.packs.len() as u64,
        notes,
    })
}

/// Restores into `request.to`.
pub async fn restore(
    repository: &Repository,
    identities: Arc<Identities>,
    request: &RestoreRequest,
    progress: &dyn Progress,
) -> Result<RestoreResult, Failure> {
    let staging = write::Staging::check(&request.to, &repository.stores)?;
    progress.begin("reading the catalogue", None, Unit::Objects);
    let catalogue = catalogue_of(repository, request).await?;
    let Selected { id, mut notes, warnings } = select::select(repository, &catalogue, request).await?;
    let restored = restore_snapshot(repository, identities, &catalogue, id, staging, progress).await;
    let restored = restored.map_err(|failure| alternative::name(&catalogue, request, id, failure))?;
    notes.extend(restored.notes);
    let inventory = &catalogue.snapshots[&id].inventory;
    let mut checks = Vec::new();
    if request.check {
        progress.begin("checking the database", None, Unit::Items);
        checks = checks::run(&inventory.source_kind, request, &restored.manifest)?;
    }
    let went_round = catalogue.detours.list().into_iter().map(|detour| WentRound {
        store: detour.store,
        object: detour.object,
        problem: detour.problem,
    });
    let went_round: BTreeSet<WentRound> = went_round.chain(refused_copies(&catalogue, id)).collect();
    Ok(RestoreResult {
        schema: RestoreSchema,
        snapshot: id,
        files: restored.manifest.files(),
        bytes: restored.manifest.bytes(),
        went_round: went_round.into_iter().collect(),
        checks,
        source: request.source.clone(),
        created_at: inventory.created_at,
        position: inventory.position.clone(),
        directory: request.to.display().to_string(),
        notes,
        warnings,
    })
}

/// What the stores hold of the source; a name that is neither configured nor on any store was mistyped.
async fn catalogue_of(repository: &Repository, request: &RestoreRequest) -> Result<Catalogue, Failure> {
    let catalogue = repository.catalogue(&request.source).await;
    if catalogue.snapshots.is_empty() && request.assertions.is_none() && catalogue.ready().next().is_some() {
        let sources = super::list::sources_on_stores(repository).await?;
        super::list::check_known(&request.source, &sources, &Default::default())?;
    }
    Ok(catalogue)
}

/// The stores whose own copy of the snapshot's inventory, or of its signature, was passed over for another's.
fn refused_copies(catalogue: &Catalogue, id: SnapshotId) -> impl Iterator<Item = WentRound> {
    let object =
        format!("{}{}", layout::source_folder(&catalogue.source), layout::snapshot_object(id, layout::INVENTORY));
    catalogue.refused.iter().filter(move |refused| refused.id == id).map(move |refused| WentRound {
        store: refused.store.clone(),
        object: object.clone(),
        problem: match refused.why {
            Refusal::Unreadable(_) => Problem::Unreachable,
            _ => Problem::Damaged,
        },
    })
}

struct Restored {
    manifest: Manifest,
    notes: Vec<String>,
}

async fn restore_snapshot(
    repository: &Repository,
    identities: Arc<Identities>,
    catalogue: &Catalogue,
    id: SnapshotId,
    staging: write::Staging,
    progress: &dyn Progress,
) -> Result<Restored, Failure> {
    let manifest = read_manifest(repository, catalogue, id, &identities).await?;
    staging.check_room(manifest.bytes_stored_raw())?;
    let files = Arc::new(staging.create(&manifest)?);
    progress.begin("restoring", Some(manifest.bytes_stored_raw()), Unit::Bytes);
    fetch::fetch_packs(repository, catalogue, &manifest, identities, files.clone(), progress).await?;
    progress.begin("making it durable", None, Unit::Items);
    let notes = staging.publish(&manifest, &files)?;
    Ok(Restored { manifest, notes })
}

impl Manifest {
    /// Number of regular files.
    pub fn files(&self) -> u64 {
        self.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })).count() as u64
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.size()))
    }
}
