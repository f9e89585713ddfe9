//! A restore step by step, for whoever times each of them: prepare, locate, read the manifest, fetch, publish.

use super::{
    Manifest, RestoreRequest, alternative, catalogue_of, fetch, fitness,
    later::Later,
    manifest, read_manifest, refused_copies,
    replay::{self, Replay},
    select::{self, Selected},
    wishes, write,
};
use crate::{
    core::{
        failure::Failure, fingerprint::Fingerprints, id::SnapshotId, inventory::Parent, log::LogObject, policy::Copies,
        result::WentRound, time::Timestamp,
    },
    format::seal::Identities,
    ops::{archive, progress::Progress},
    repository::{
        Repository,
        catalogue::{Catalogue, Committed},
    },
};
use std::{collections::BTreeSet, path::Path, sync::Arc};

/// A restore under way. What was not published is removed when this is dropped.
pub struct Restore<'a> {
    repository: &'a Repository,
    request: &'a RestoreRequest,
    ground: write::Ground,
}

/// The snapshot that the request means, and what the stores hold.
pub struct Located {
    pub(super) catalogue: Catalogue,
    id: SnapshotId,
    /// What the operator should know about the choice.
    pub notes: Vec<String>,
    /// What has its part in the exit code.
    pub warnings: Vec<String>,
}

/// Everything that a snapshot holds, written and compared, and not yet under its own names.
pub struct Fetched(Arc<write::Written>);

impl<'a> Restore<'a> {
    /// Looks at the target, which must be fit. Reads no store.
    pub fn prepare(repository: &'a Repository, request: &'a RestoreRequest) -> Result<Self, Failure> {
        wishes::check(request)?;
        let ground = write::Ground::check(request, &repository.stores)?;
        Ok(Restore { repository, request, ground })
    }

    /// Reads the catalogue and chooses the snapshot.
    pub async fn locate(&self) -> Result<Located, Failure> {
        let catalogue = catalogue_of(self.repository, self.request).await?;
        let Selected { id, notes, warnings } = select::select(self.repository, &catalogue, self.request).await?;
        Ok(Located { catalogue, id, notes, warnings })
    }

    /// The snapshot that a request means, going by a catalogue that was read already.
    pub async fn choose(
        repository: &Repository,
        catalogue: &Catalogue,
        request: &RestoreRequest,
    ) -> Result<Parent, Failure> {
        let Selected { id, .. } = select::select(repository, catalogue, request).await?;
        Ok(Parent { id, sha256: catalogue.snapshots[&id].sha256 })
    }

    /// Reads the manifest, and makes sure that there is room for what it names, and that all of the log is there.
    pub async fn read_manifest(
        &self,
        located: &mut Located,
        identities: &Arc<Identities>,
    ) -> Result<Manifest, Failure> {
        let (repository, catalogue) = (self.repository, &located.catalogue);
        wishes::check_kind(self.request, located.committed().inventory.log.is_some())?;
        self.ground.check_system(&located.committed().inventory.source_identity)?;
        let read = read_manifest(repository, catalogue, located.id, identities).await;
        let mut manifest = self.explained(located, read).await?;
        let inventory = &located.committed().inventory;
        let prepared = replay::prepare(repository, catalogue, self.request, inventory, identities).await;
        manifest.replay = match prepared {
            Err(failure) if failure.next_step.is_some() => {
                return Err(alternative::unless_pruned(repository, catalogue, located.id, failure).await);
            }
            prepared => self.explained(located, prepared).await?,
        };
        let warnings = manifest.replay.iter().flat_map(|replay| replay.warnings().iter().cloned());
        located.warnings.extend(warnings);
        // What goes elsewhere is known only when the names of tablespaces are.
        if self.request.server.tablespaces.is_empty() {
            self.check_room(&manifest)?;
        }
        Ok(manifest)
    }

    /// The fingerprints that were taken with the snapshot; `None` where there are none.
    pub async fn read_fingerprints(
        &self,
        located: &Located,
        identities: &Identities,
    ) -> Result<Option<Fingerprints>, Failure> {
        manifest::read_fingerprints(self.repository, &located.catalogue, located.id, identities).await
    }

    /// Looks, for a server, whether it would start here, and decides where its tablespaces go.
    pub async fn examine(
        &self,
        located: &mut Located,
        manifest: &mut Manifest,
        identities: &Arc<Identities>,
    ) -> Result<(), Failure> {
        if located.committed().inventory.log.is_none() {
            return Ok(());
        }
        let (repository, catalogue) = (self.repository, &located.catalogue);
        let examined = fitness::examine(repository, catalogue, self.request, manifest, identities).await;
        let fitness::Fitness { notes, warnings } = self.explained(located, examined).await?;
        located.notes.extend(notes);
        located.warnings.extend(warnings);
        if self.request.server.tablespaces.is_empty() { Ok(()) } else { self.check_room(manifest) }
    }

    fn check_room(&self, manifest: &Manifest) -> Result<(), Failure> {
        self.ground.check_room(manifest, manifest.replay.as_ref().map_or(0, Replay::bytes))
    }

    /// Fetches every pack, from whichever store has it right, compares every block with its digest, and writes it.
    pub async fn fetch(
        &self,
        located: &Located,
        manifest: &Manifest,
        identities: Arc<Identities>,
        progress: &dyn Progress,
    ) -> Result<Fetched, Failure> {
        wishes::check_confirmed(self.request)?;
        let written = self.ground.create(manifest).and_then(|written| {
            written.clear_gaps(manifest)?;
            Ok(Arc::new(written))
        });
        let files = written?;
        let fetching = fetch::fetch_packs(
            self.repository,
            &located.catalogue,
            manifest,
            identities.clone(),
            files.clone(),
            progress,
        );
        self.explained(located, fetching.await).await?;
        if let Some(replay) = &manifest.replay {
            let (repository, catalogue) = (self.repository, &located.catalogue);
            let fetched = replay.fetch(repository, &identities, files.target(), &catalogue.detours).await;
            if let Err(failure) = fetched {
                return Err(alternative::unless_pruned(repository, catalogue, located.id, failure).await);
            }
        }
        Ok(Fetched(files))
    }

    /// Makes it durable and moves it to where it belongs. Returns what the operator should know.
    pub fn publish(self, manifest: &Manifest, fetched: Fetched) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        if let Some(replay) = &manifest.replay {
            notes.extend(replay.notes().iter().cloned());
            notes.extend(replay.amend(fetched.0.target(), manifest)?);
            // A server refuses a data directory that others may enter.
            self.ground.close()?;
        }
        if let (compared @ 1.., there) = fetched.0.compared() {
            notes.push(format!("of {compared} blocks {there} were there already, {} were fetched", compared - there));
        }
        let published = self.ground.publish(manifest, &fetched.0);
        notes.extend(published?);
        Ok(notes)
    }

    async fn explained<T>(&self, located: &Located, outcome: Result<T, Failure>) -> Result<T, Failure> {
        match outcome {
            Ok(value) => Ok(value),
            Err(failure) => {
                Err(alternative::explain(self.repository, &located.catalogue, self.request, located.id, failure).await)
            }
        }
    }
}

impl Located {
    /// What was committed behind what was restored, until a moment, going by what the stores have now. `None` of a source
    /// without a log. Large files of the log are opened in the directory `spool`.
    pub async fn committed_later(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        identities: &Arc<Identities>,
        until: Timestamp,
        spool: &Path,
    ) -> Option<Later> {
        let replay = manifest.replay.as_ref()?;
        let Catalogue { source, detours, .. } = &self.catalogue;
        let look = async |object: &LogObject| {
            archive::look_at(repository, identities, source, object, detours, spool).await.ok()
        };
        Some(replay.committed_later(look, until).await)
    }

    /// The snapshot.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// What is committed under it.
    pub fn committed(&self) -> &Committed {
        &self.catalogue.snapshots[&self.id]
    }

    /// Whether enough of the stores that answer hold all of it.
    pub fn is_durable(&self, repository: &Repository, copies: &Copies) -> bool {
        self.catalogue.is_durable(repository, copies, self.committed())
    }

    /// The damage that was gone round so far.
    pub fn went_round(&self) -> Vec<WentRound> {
        let detours = self.catalogue.detours_of(self.committed()).into_iter().map(|detour| WentRound {
            store: detour.store,
            object: detour.object,
            problem: detour.problem,
        });
        let went_round: BTreeSet<WentRound> = detours.chain(refused_copies(&self.catalogue, self.id)).collect();
        went_round.into_iter().collect()
    }
}
