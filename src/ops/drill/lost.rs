//! How many transactions were lost: committed until the declared disaster, and not in what came back.

use super::{DrillRequest, attempt::Attempt, gather::Gathered};
use crate::{
    config::Settings,
    core::{
        log::{HistoryId, Lsn, ServerTime},
        time::Timestamp,
    },
    ops::{host::Host, open, restore::Later},
    sources::Source,
};
use std::{sync::Arc, time::Duration};

/// How long the server of the source is waited for.
const SERVER_PATIENCE: Duration = Duration::from_secs(3);
/// How long its own log may be read.
const READING_MAX: Duration = Duration::from_secs(60);

/// Counts them: in the log that reached the stores later, and behind that in the server's own, where it is on this host.
/// `None` where neither goes as far as the disaster, and of sources without a log.
pub(super) async fn transactions(
    host: &Host,
    settings: &Settings,
    request: &DrillRequest,
    gathered: &Gathered,
    attempt: &Attempt,
) -> Option<u64> {
    let disaster_at = gathered.disaster_at;
    let (located, manifest) = attempt.located.as_ref().zip(attempt.manifest.as_ref())?;
    let (repository, identities) = (&gathered.repository, &gathered.identities);
    let later = located.committed_later(repository, manifest, identities, disaster_at, &host.state_dir).await?;
    if later.is_complete {
        return Some(later.commits);
    }
    let source = settings.source(request.source.as_str()).filter(|source| source.path.exists())?;
    let opened =
        open::open_database(source, &host.world, host.source_state_dir(&request.source).join("scratch")).ok()?;
    let looking = tokio::task::spawn_blocking(move || behind(&opened, &later, disaster_at));
    let more = tokio::time::timeout(READING_MAX, looking).await.ok()?.ok()??;
    Some(later.commits + more)
}

/// What the server on this host has committed behind what the stores show.
fn behind(source: &Arc<dyn Source>, later: &Later, until: Timestamp) -> Option<u64> {
    let watched = source.watch(SERVER_PATIENCE)?;
    let (server, history): (_, HistoryId) = (watched.server.ok()?, watched.directory.history?);
    // What a standby has not received yet, its primary may have committed.
    if server.in_recovery || history != later.history {
        return None;
    }
    let range: (Lsn, Lsn) = (later.known_to, server.insert);
    source.commits_until(history, range, ServerTime::new(until.as_datetime()))
}
