//! Restores a snapshot: choose, read its manifest, fetch from whichever stores still answer, check every block.

mod alternative;
mod checks;
pub mod evidence;
mod fetch;
mod fitness;
mod given;
mod later;
mod lineage;
mod manifest;
mod places;
mod proof;
mod replay;
mod select;
mod steps;
mod wishes;
mod write;

use super::progress::{Progress, Unit};
use crate::{
    core::{
        failure::Failure,
        fingerprint::Replayed,
        id::{SnapshotId, SourceName},
        inventory::Parent,
        manifest::EntryKind,
        policy::{Assertion, Copies},
        result::{Problem, RestoreResult, RestoreSchema, WentRound},
        target::{KnownHead, Target},
        time::Timestamp,
    },
    format::seal::Identities,
    repository::{
        Repository,
        catalogue::{Catalogue, Refusal},
        layout,
    },
    sources::CheckOptions,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use checks::{checked, kept_policy};
pub use later::Later;
pub use manifest::{Manifest, PackContent, read_manifest};
pub use replay::{AMENDED, LogAccess, in_command};
pub use steps::{Fetched, Located, Restore};
pub use wishes::{ServerWishes, Standby, TablespacePlace};
pub use write::{check_target, remove_directory};

/// What to restore, and where to.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The source.
    pub source: SourceName,
    /// Which point.
    pub target: Target,
    /// A new or empty directory.
    pub to: PathBuf,
    /// Of sources with a log, what was not on the stores by then does not count, and where the log ends before the target,
    /// its end is the target: so it is when a source is lost at that moment.
    pub as_of: Option<Timestamp>,
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
    /// What the database's own checks need to know.
    pub check_options: CheckOptions,
    /// How a restored server gets at its log.
    pub log_access: LogAccess,
    /// The variables that its command must find in the environment of the server, for stores that need them.
    pub log_variables: Vec<String>,
    /// What is asked of a restored server beside its target.
    pub server: ServerWishes,
    /// Whether the operator has named the source once more, to have done what is refused without that.
    pub confirmed: bool,
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
            as_of: None,
            head: None,
            known_head: None,
            copies: Copies::default(),
            check: false,
            assertions: None,
            check_options: CheckOptions::default(),
            log_access: LogAccess::default(),
            log_variables: Vec::new(),
            server: ServerWishes::default(),
            confirmed: false,
            notes: Vec::new(),
        }
    }

    /// Where large files of a log are opened to be looked at: on the disk that is restored to, without a name.
    fn spool(&self) -> &Path {
        self.to.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("."))
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
    identities: &Arc<Identities>,
    request: &RestoreRequest,
) -> Result<RestorePlan, Failure> {
    let restore = Restore::prepare(repository, request)?;
    let mut located = restore.locate().await?;
    let mut manifest = restore.read_manifest(&mut located, identities).await?;
    restore.examine(&mut located, &mut manifest, identities).await?;
    let mut notes = located.notes.clone();
    notes.extend(located.warnings.iter().chain(manifest.replay.iter().flat_map(|replay| replay.notes())).cloned());
    Ok(RestorePlan {
        snapshot: located.id(),
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
    let restore = Restore::prepare(repository, request)?;
    progress.begin("reading the catalogue", None, Unit::Objects);
    let mut located = restore.locate().await?;
    let mut manifest = restore.read_manifest(&mut located, &identities).await?;
    restore.examine(&mut located, &mut manifest, &identities).await?;
    let manifest = Arc::new(manifest);
    progress.begin("restoring", Some(manifest.bytes_stored_raw()), Unit::Bytes);
    let fetched = restore.fetch(&located, &manifest, identities, progress).await?;
    progress.begin("making it durable", None, Unit::Items);
    let published = restore.publish(&manifest, fetched)?;
    located.notes.extend(published);
    let mut checks = Vec::new();
    if request.check {
        progress.begin("checking the database", None, Unit::Items);
        let (run, unchecked) = checks::run(&located.committed().inventory.source_kind, request, &manifest).await?;
        checks = run;
        located.notes.extend(unchecked);
    }
    let inventory = located.committed().inventory.clone();
    Ok(RestoreResult {
        schema: RestoreSchema,
        snapshot: located.id(),
        files: manifest.files(),
        bytes: manifest.bytes(),
        went_round: located.went_round(),
        checks,
        delta: request.server.delta,
        standby: request.server.standby.is_some(),
        source: request.source.clone(),
        created_at: inventory.created_at,
        position: inventory.position.clone(),
        directory: request.to.display().to_string(),
        notes: located.notes,
        remarks: Vec::new(),
        warnings: located.warnings,
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
    let object = inventory_object(catalogue, id);
    catalogue.refused.iter().filter(move |refused| refused.id == id).map(move |refused| WentRound {
        store: refused.store.clone(),
        object: object.clone(),
        problem: match refused.why {
            Refusal::Unreadable(_) => Problem::Unreachable,
            _ => Problem::Damaged,
        },
    })
}

/// The full name of a snapshot's inventory.
fn inventory_object(catalogue: &Catalogue, id: SnapshotId) -> String {
    format!("{}{}", layout::source_folder(&catalogue.source), layout::snapshot_object(id, layout::INVENTORY))
}

impl Manifest {
    /// Up to when a restore to a moment brings back what was committed, where a log is replayed that tells.
    pub fn recovers_until(&self, moment: Timestamp) -> Option<Timestamp> {
        let replay = self.replay.as_ref()?;
        // Whatever was committed before the files were of one moment is in them.
        let last = replay.end().last_commit.max(Some(replay.range().stopped_at))?;
        Some(if replay.end().passes_target { moment } else { Timestamp::new(last.as_datetime()) })
    }

    /// How far a log is replayed that is to end at a moment.
    pub fn replayed(&self, until: Timestamp) -> Option<Replayed> {
        self.replay.as_ref().map(|replay| replay.replayed(until))
    }

    /// Number of regular files.
    pub fn files(&self) -> u64 {
        self.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::File { .. })).count() as u64
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().fold(0, |sum, entry| sum.saturating_add(entry.size()))
    }
}
