//! What this host says by itself: its files, its sources, the room on its disks. It is never waited for long.

use super::{LOCAL_PATIENCE, SERVER_PATIENCE, seen};
use crate::{
    config::{Settings, SourceSettings},
    core::{
        coverage::Covered,
        evidence::WriterId,
        id::{RepositoryId, SourceName},
        log::HistoryId,
        server::{LogDirectory, Rate, Watched},
        time::Timestamp,
        verdicts::{HostFacts, Seen, ServerState},
    },
    format::seal::Recipients,
    ops::{doctor, open, runs, state::SourceState},
    sources::Source,
    stores::{self, StoreSpec},
    world::{World, files},
};
use std::{fs, path::Path, sync::Arc};

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
    let (path, is_server) = (source.path.clone(), source.postgres.is_some());
    let look = tokio::task::spawn_blocking(move || {
        if is_server && is_elsewhere(&directory, &path) {
            return Look { unreachable: None, unchanged: false };
        }
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

/// Whether a server runs on another host: its data directory is not here, and never was, as far as is known.
fn is_elsewhere(state: &Path, data_dir: &Path) -> bool {
    let was_here = || ["base.json", "archive.json", "server-seen.json"].iter().any(|name| state.join(name).exists());
    !data_dir.exists() && !was_here()
}

/// A server that was looked at.
pub(super) struct SeenServer {
    pub(super) watched: Watched,
    source: Arc<dyn Source>,
}

/// Looks at the server of a source, where it has one on this host.
pub(super) async fn watch(settings: &Settings, world: &World, source: &SourceSettings) -> Option<SeenServer> {
    let scratch = runs::source_state_dir(settings, &source.name).join("scratch");
    source.postgres.as_ref()?;
    let opened = open::open_database(source, world, scratch).ok()?;
    let (asked, path) = (opened.clone(), source.path.clone());
    let look = tokio::task::spawn_blocking(move || path.exists().then(|| asked.watch(SERVER_PATIENCE)).flatten());
    let watched = match tokio::time::timeout(LOCAL_PATIENCE * 2, look).await {
        Ok(Ok(watched)) => watched?,
        _ => {
            let why = format!("it did not answer within {} s", LOCAL_PATIENCE.as_secs() * 2);
            Watched { directory: LogDirectory::default(), server: Err(why) }
        }
    };
    Some(SeenServer { watched, source: opened })
}

impl SeenServer {
    /// Whether its own log shows that it has committed nothing behind what is durable.
    pub(super) async fn has_committed_nothing_since(&self, system: u64, covered: &Covered) -> bool {
        let (Ok(server), Some(history)) = (&self.watched.server, self.watched.directory.history) else { return false };
        // What a standby has not received yet, its primary may have committed.
        let is_it = !server.in_recovery && history == HistoryId { system, timeline: covered.timeline };
        if !is_it || !covered.is_whole {
            return false;
        }
        let (source, from, to) = (self.source.clone(), covered.at, server.insert);
        let read = tokio::task::spawn_blocking(move || source.commits_between(history, from, to));
        matches!(tokio::time::timeout(LOCAL_PATIENCE, read).await, Ok(Ok(Some(0))))
    }

    /// What is judged of it; notes where its log is.
    pub(super) fn state(self, settings: &Settings, source: &SourceName, now: Timestamp) -> ServerState {
        let directory = &self.watched.directory;
        let server = self.watched.server.as_ref().ok().filter(|server| !server.in_recovery);
        let insert = server.map(|server| server.insert);
        let before = insert.zip(directory.history).and_then(|(insert, history)| {
            seen::replaced(&runs::source_state_dir(settings, source), history.system, insert, now)
        });
        ServerState { rate: Rate::of(before, insert, directory), watched: self.watched }
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
