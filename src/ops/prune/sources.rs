//! Pruning several sources: each has its own outcome, and none stops the others.

use super::{Prepared, PruneRequest, execute, prepare};
use crate::{
    config::Settings,
    core::{
        failure::Failure,
        id::{RunId, SnapshotId, SourceName},
        result::{PruneResult, PruneSchema, PrunedSource},
        retention::Rule,
        time::Timestamp,
    },
    ops::{
        evidence::{Recorder, deeds},
        host::{Host, Protected},
        open,
        progress::Progress,
    },
    world::World,
};

/// What a command asks for.
#[derive(Clone, Debug, Default)]
pub struct PruneSources {
    /// The sources.
    pub sources: Vec<SourceName>,
    /// Delete in this run already.
    pub now: bool,
    /// Sources for which doubts are settled.
    pub confirmed: Vec<SourceName>,
    /// Give up this snapshot of the one source.
    pub forget: Option<SnapshotId>,
    /// Drop this plan of the one source.
    pub cancel: Option<RunId>,
}

/// A source, and the plan for it.
type Planned = Result<(Protected, Prepared), Failure>;

/// The plans of several sources.
pub struct PreparedSources {
    host: Host,
    recorder: Recorder,
    started_at: Timestamp,
    sources: Vec<(SourceName, Planned)>,
}

impl PreparedSources {
    /// What would be done, a line each.
    pub fn steps(&self) -> Vec<String> {
        self.prepared().flat_map(|(_, prepared)| prepared.steps.iter().cloned()).collect()
    }

    /// What the operator should know.
    pub fn notes(&self) -> Vec<String> {
        self.prepared().flat_map(|(_, prepared)| prepared.notes.iter().cloned()).collect()
    }

    /// The failure, if nothing could be planned for any source.
    pub fn failures(&self) -> Vec<(&SourceName, &Failure)> {
        self.sources.iter().filter_map(|(name, result)| Some((name, result.as_ref().err()?))).collect()
    }

    fn prepared(&self) -> impl Iterator<Item = &(Protected, Prepared)> {
        self.sources.iter().filter_map(|(_, result)| result.as_ref().ok())
    }
}

/// Plans for each source. Changes nothing on any store.
pub async fn prepare_sources(
    settings: &Settings,
    world: &World,
    wanted: &PruneSources,
    locked: bool,
) -> Result<PreparedSources, Failure> {
    let host = open::open_host(settings, world)?;
    if locked {
        open::provide_state_dir(settings)?;
    }
    let mut sources = Vec::new();
    for name in &wanted.sources {
        let request = PruneRequest {
            now: wanted.now,
            confirmed: wanted.confirmed.contains(name),
            forget: wanted.forget,
            cancel: wanted.cancel,
        };
        let prepared = match open::open_source(settings, &host, name) {
            Ok(protected) => {
                let prepared = prepare(&host, &protected, request, locked).await;
                prepared.map(|prepared| (protected, prepared))
            }
            Err(failure) => Err(failure),
        };
        sources.push((name.clone(), prepared));
    }
    let (recorder, started_at) = (Recorder::new(&host, settings), world.now());
    Ok(PreparedSources { host, recorder, started_at, sources })
}

/// Does what was planned, and leaves evidence of it.
pub async fn execute_sources(prepared: PreparedSources, progress: &dyn Progress) -> PruneResult {
    let mut result = PruneResult { schema: PruneSchema, sources: Vec::new(), notes: Vec::new() };
    for (name, source) in prepared.sources {
        let outcome = match source {
            Ok((protected, plan)) => {
                // Under cron a run that does what it always does says nothing.
                let keeps_all = Rule::of(&protected.policy).keeps_all();
                let notes = if keeps_all { plan.notes.clone() } else { Vec::new() };
                let done = execute(&prepared.host, &protected, plan, progress).await;
                done.map(|done| PrunedSource { notes, ..done })
            }
            Err(failure) => Err(failure),
        };
        result.sources.push(outcome.unwrap_or_else(|failure| PrunedSource::failed(name, failure)));
    }
    // A run that found nothing to do under cron, every hour, is no news.
    if result.sources.iter().any(PrunedSource::is_news) {
        let draft = deeds::prune(&result, prepared.started_at);
        result.notes = deeds::leave(&prepared.recorder, draft).await;
    }
    result
}
