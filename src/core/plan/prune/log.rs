//! What a prune deletes of a log: what lies wholly before the first place that a snapshot which stays begins to replay
//! at, and pieces of segments that are there as a whole.
//!
//! A replay only ever goes on: from a snapshot it needs its own timeline from there on, and every one that grew out of
//! that. So one place for all timelines of a system is enough, and no history file has to be believed for it.

use crate::core::{
    id::RunId,
    inventory::Inventory,
    log::{HistoryId, LogFile, Lsn},
    prune::{CondemnedLog, LogBound, MAX_LOG_RUNS},
};
use std::collections::{BTreeMap, BTreeSet};

/// What snapshots that stay need of the logs of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogNeeds {
    /// By system: where the replay of the one begins that begins first.
    first: BTreeMap<u64, Lsn>,
    /// The system of the newest durable snapshot.
    newest: Option<u64>,
}

impl LogNeeds {
    /// The needs of these snapshots; `newest` is the newest durable one.
    pub fn of<'a>(kept: impl IntoIterator<Item = &'a Inventory>, newest: Option<&Inventory>) -> Self {
        let mut first: BTreeMap<u64, Lsn> = BTreeMap::new();
        for range in kept.into_iter().filter_map(|inventory| inventory.log.as_ref()) {
            let at = first.entry(range.history.system).or_insert(range.start);
            *at = range.start.min(*at);
        }
        LogNeeds { first, newest: newest.and_then(|newest| Some(newest.log.as_ref()?.history.system)) }
    }

    /// What of a system's log no snapshot needs. Without any snapshot that is nothing, unless all that there were go:
    /// then it is everything, once another system has a durable one.
    pub fn bound(&self, system: u64, gone: &BTreeSet<u64>) -> Option<LogBound> {
        match self.first.get(&system) {
            // Where nothing is durable, nothing is known to be dispensable.
            Some(first) => self.newest.map(|_| LogBound::Before(*first)),
            None => (gone.contains(&system) && self.is_replaced(system)).then_some(LogBound::Everything),
        }
    }

    fn is_replaced(&self, system: u64) -> bool {
        self.newest.is_some_and(|newest| newest != system)
    }

    /// Whether no snapshot that stays needs anything of what a part condemns.
    pub fn spare(&self, part: &CondemnedLog) -> bool {
        let first = self.first.get(&part.history.system);
        match part.bound {
            LogBound::Before(at) => first.is_none_or(|first| at <= *first),
            LogBound::PiecesBefore(_) => true,
            LogBound::Everything => first.is_none() && self.is_replaced(part.history.system),
        }
    }
}

/// What a run has stored of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// The history.
    pub history: HistoryId,
    /// Bytes of its segments.
    pub segment_bytes: u64,
    /// The run.
    pub run: RunId,
    /// All files that its records name or any store shows.
    pub files: BTreeSet<LogFile>,
    /// Their sealed bytes, as far as they are known.
    pub bytes: u64,
}

/// A plan's parts, as they are put together run by run.
#[derive(Clone, Debug, Default)]
pub struct CondemnedRuns {
    parts: BTreeMap<(HistoryId, u64, LogBound), CondemnedLog>,
    runs: usize,
}

impl CondemnedRuns {
    /// Adds a run if it goes as a whole; says whether it does.
    pub fn take(&mut self, stored: &StoredRun, bound: LogBound) -> bool {
        let StoredRun { history, segment_bytes, run, files, bytes } = stored;
        let goes = self.has_room() && files.iter().all(|file| bound.covers(*file, *segment_bytes));
        if goes {
            let part = self.parts.entry((*history, *segment_bytes, bound)).or_insert_with(|| CondemnedLog {
                history: *history,
                segment_bytes: *segment_bytes,
                bound,
                files: 0,
                bytes: 0,
                runs: Vec::new(),
            });
            part.runs.push(*run);
            part.files += files.len() as u64;
            part.bytes = part.bytes.saturating_add(*bytes);
            self.runs += 1;
        }
        goes
    }

    /// Whether a plan takes more.
    pub fn has_room(&self) -> bool {
        self.runs < MAX_LOG_RUNS
    }

    /// The parts.
    pub fn into_parts(self) -> Vec<CondemnedLog> {
        self.parts.into_values().collect()
    }
}

#[cfg(test)]
mod tests;
