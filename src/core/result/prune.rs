//! What `prune` did.

use super::{PlanSchema, PruneSchema, code_number};
use crate::core::{
    failure::{Code, Failure, combine},
    id::{RunId, SnapshotId, SourceName},
    log::{HistoryId, Lsn},
    prune::{CondemnedLog, LogBound},
};
use serde::Serialize;

/// `recoup prune`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Default)]
pub struct PruneResult {
    /// `recoup.prune/1`.
    pub schema: PruneSchema,
    /// What was done for each source.
    pub sources: Vec<PrunedSource>,
    /// What the operator should know.
    #[serde(skip)]
    pub notes: Vec<String>,
}

impl PruneResult {
    /// The exit code over all sources.
    pub fn code(&self) -> Code {
        combine(&self.sources.iter().map(|source| source.exit_code).collect::<Vec<_>>())
    }
}

/// What `recoup prune --dry-run` shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrunePlanResult {
    /// `recoup.plan/1`.
    pub schema: PlanSchema,
    /// `prune`.
    pub command: String,
    /// What it would do, in order, one step per line.
    pub steps: Vec<String>,
    /// The sources for which nothing can be planned, and why.
    pub failures: Vec<PlanFailure>,
    /// What the operator should know.
    pub notes: Vec<String>,
}

/// Why nothing can be planned for a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanFailure {
    /// The source.
    pub source: SourceName,
    /// Its own exit code.
    #[serde(serialize_with = "code_number")]
    pub exit_code: Code,
    /// What failed.
    pub message: String,
    /// Why.
    pub cause: Option<String>,
    /// The next command.
    pub next_step: Option<String>,
}

impl PlanFailure {
    /// The failure of a source.
    pub fn new(source: SourceName, failure: &Failure) -> Self {
        PlanFailure {
            source,
            exit_code: failure.code,
            message: failure.message.clone(),
            cause: failure.cause.clone(),
            next_step: failure.next_step.clone(),
        }
    }
}

/// What was done for one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrunedSource {
    /// The source.
    pub source: SourceName,
    /// Its own exit code.
    #[serde(serialize_with = "code_number")]
    pub exit_code: Code,
    /// What happened, in a line.
    pub message: String,
    /// The plan that was published, if any.
    pub plan: Option<RunId>,
    /// The snapshots that it condemns.
    pub condemned: Vec<SnapshotId>,
    /// The plans that were executed.
    pub executed: Vec<RunId>,
    /// The snapshots that they deleted.
    pub pruned: Vec<SnapshotId>,
    /// The snapshots that they had condemned and that are kept after all.
    pub dropped: Vec<SnapshotId>,
    /// What the published plan condemns of the log.
    pub condemned_log: Vec<PrunedLog>,
    /// What the executed ones deleted of it.
    pub pruned_log: Vec<PrunedLog>,
    /// What they had condemned of it and is kept after all.
    pub dropped_log: Vec<PrunedLog>,
    /// What was done on each store.
    pub stores: Vec<PrunedStore>,
    /// What has its part in the exit code.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// What is so every time, such as that nothing is ever pruned.
    pub notes: Vec<String>,
    /// What failed, in full.
    #[serde(skip)]
    pub failure: Option<Failure>,
}

impl PrunedSource {
    /// Whether anything was done, or went wrong.
    pub fn is_news(&self) -> bool {
        self.exit_code != Code::Done || self.plan.is_some() || !self.executed.is_empty()
    }

    /// The outcome of a source that failed.
    pub fn failed(source: SourceName, failure: Failure) -> Self {
        PrunedSource {
            source,
            exit_code: failure.code,
            message: failure.to_string(),
            plan: None,
            condemned: Vec::new(),
            executed: Vec::new(),
            pruned: Vec::new(),
            dropped: Vec::new(),
            condemned_log: Vec::new(),
            pruned_log: Vec::new(),
            dropped_log: Vec::new(),
            stores: Vec::new(),
            warnings: Vec::new(),
            notes: Vec::new(),
            failure: Some(failure),
        }
    }
}

/// Files of one history of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrunedLog {
    /// The history.
    pub history: HistoryId,
    /// `before`: what lies before a position; `all`: the whole history.
    pub what: &'static str,
    /// The position that they lie before; none where all goes.
    pub before: Option<Lsn>,
    /// How many files.
    pub files: u64,
    /// Their sealed bytes, on one store.
    pub bytes: u64,
}

impl PrunedLog {
    /// What a part of a plan condemns.
    pub fn of(part: &CondemnedLog) -> Self {
        let (what, before) = match part.bound {
            LogBound::Before(at) => ("before", Some(at)),
            LogBound::Everything(_) => ("all", None),
        };
        PrunedLog { history: part.history, what, before, files: part.files, bytes: part.bytes }
    }
}

/// What was done on one store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PrunedStore {
    /// The store, by name.
    pub store: String,
    /// Objects that were deleted.
    pub deleted_objects: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Objects that the store did not delete; the next prune tries again.
    pub kept_objects: u64,
    /// Why, or why the store lags.
    pub cause: Option<String>,
}

impl PrunedStore {
    /// Nothing yet.
    pub fn new(store: &str) -> Self {
        PrunedStore { store: store.to_owned(), deleted_objects: 0, deleted_bytes: 0, kept_objects: 0, cause: None }
    }
}
