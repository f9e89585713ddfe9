//! What this host says by itself: its files, its sources, the room on its disks. It is never waited for long.

use super::LOCAL_PATIENCE;
use crate::{
    config::{Settings, SourceSettings},
    core::{
        evidence::WriterId,
        id::RepositoryId,
        verdicts::{HostFacts, Seen},
    },
    format::seal::Recipients,
    ops::{doctor, open, runs, state::SourceState},
    stores::{self, StoreSpec},
    world::{World, files},
};
use std::{fs, path::Path};

pub(super) fn gather(settings: &Settings) -> HostFacts {
    let state_lost = fs::metadata(&settings.host.state_dir).err();
    let identities = doctor::identities_on_host(settings);
    let recipients = match Recipients::parse(&settings.recipients) {
        Ok(recipients) => recipients.names().to_vec(),
        Err(_) => settings.recipients.clone(),
    };
    HostFacts {
        recipients,
        identities: identities.iter().map(|path| path.display().to_string()).collect(),
        state_lost: state_lost.map(|error| format!("{}: {error}", settings.host.state_dir.display())),
        unfit: open::host_failures(settings).into_iter().map(|one| (one.to_string(), one.next_step)).collect(),
    }
}

/// How a source looks from outside.
pub(super) struct Look {
    pub(super) unreachable: Option<String>,
    pub(super) unchanged: bool,
}

/// Looks at the files of a source; opens nothing.
pub(super) async fn look_at(
    settings: &Settings,
    world: &World,
    source: &SourceSettings,
    durable: Option<&Seen>,
    repository: RepositoryId,
) -> Look {
    let directory = runs::source_state_dir(settings, &source.name);
    let opened = match open::open_database(source, world, directory.join("scratch")) {
        Ok(opened) => opened,
        Err(failure) => return Look { unreachable: Some(failure.to_string()), unchanged: false },
    };
    let durable = durable.map(|seen| (seen.id, seen.sha256));
    let path = source.path.clone();
    let look = tokio::task::spawn_blocking(move || {
        if let Err(error) = fs::metadata(&path) {
            return Look { unreachable: Some(format!("{}: {error}", path.display())), unchanged: false };
        }
        // Only the record of the one snapshot that counts can say that nothing changed since.
        let base = SourceState::read_only(directory, repository).base().ok();
        let base = base.filter(|base| Some((base.snapshot, base.inventory_sha256)) == durable);
        let fingerprint = base.and_then(|base| base.fingerprint);
        Look { unreachable: None, unchanged: fingerprint.is_some_and(|fingerprint| opened.is_unchanged(&fingerprint)) }
    });
    match tokio::time::timeout(LOCAL_PATIENCE, look).await {
        Ok(Ok(look)) => look,
        Ok(Err(error)) => Look { unreachable: Some(error.to_string()), unchanged: false },
        Err(_) => {
            let why = format!("{} does not answer within {} s", source.path.display(), LOCAL_PATIENCE.as_secs());
            Look { unreachable: Some(why), unchanged: false }
        }
    }
}

/// Room that is left at the place of a store, if it says so in time.
pub(super) async fn free_bytes(spec: StoreSpec) -> Option<u64> {
    let look = tokio::task::spawn_blocking(move || stores::surroundings(&spec).free_bytes);
    tokio::time::timeout(LOCAL_PATIENCE, look).await.ok()?.ok()?
}

/// Whether what a record says has begun runs on this host now.
pub(super) fn is_running(state_dir: &Path, writer: WriterId, number: u64) -> bool {
    files::is_locked(&state_dir.join("evidence/running").join(format!("{writer}-{number:010}.json")))
}
