//! What a prune deletes of a log: what lies wholly before the first place that a snapshot which stays begins to replay
//! at.
//!
//! A replay only ever goes on: from a snapshot it needs its own timeline from there on, and every one that grew out of
//! that. So one place for all timelines of a system is enough, and no history file has to be believed for it.
//!
//! Nothing goes that lies behind something that stays. A backup may have begun there, and commit when the plan has been
//! looked at for the last time: it finds its own part of the log, and must find all that follows.

use crate::core::{
    id::RunId,
    inventory::Inventory,
    log::{HistoryId, LogFile, Lsn},
    prune::{CondemnedLog, LogBound, MAX_LOG_PARTS, MAX_LOG_RUNS, end_of, start_of},
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
            None => (gone.contains(&system) && self.is_replaced(system)).then_some(LogBound::Everything(NOWHERE)),
        }
    }

    fn is_replaced(&self, system: u64) -> bool {
        self.newest.is_some_and(|newest| newest != system)
    }

    /// Whether a snapshot that stays may need something of what a part condemns.
    pub fn need(&self, part: &CondemnedLog) -> bool {
        self.first.get(&part.history.system).is_some_and(|first| part.bound.place() > *first)
    }

    /// Whether no snapshot that stays needs anything of what a part condemns. Of a system without any that is known only
    /// once another has the newest durable one.
    pub fn spare(&self, part: &CondemnedLog) -> bool {
        let system = part.history.system;
        !self.need(part) && (self.first.contains_key(&system) || self.is_replaced(system))
    }
}

/// What a run has stored of a log: all that its record names, or its pieces of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// The history.
    pub history: HistoryId,
    /// Bytes of its segments.
    pub segment_bytes: u64,
    /// The run.
    pub run: RunId,
    /// The files.
    pub files: BTreeSet<LogFile>,
    /// Their sealed bytes, as far as they are known.
    pub bytes: u64,
}

/// As much of a stored run as has to be known to decide whether it goes: there may be very many.
#[derive(Clone, Debug)]
struct Extent {
    history: HistoryId,
    segment_bytes: u64,
    run: RunId,
    files: u64,
    bytes: u64,
    /// Where its first segment begins, where that ends, and where its last one does; the end of all where something of
    /// it lies nowhere.
    begins: Lsn,
    first_ends: Lsn,
    ends: Lsn,
}

/// Behind every place.
const NOWHERE: Lsn = Lsn(u64::MAX);

impl Extent {
    fn of(stored: &StoredRun) -> Self {
        let place = |of: fn(LogFile, u64) -> Option<Lsn>| {
            stored.files.iter().map(move |file| of(*file, stored.segment_bytes).unwrap_or(NOWHERE))
        };
        Extent {
            history: stored.history,
            segment_bytes: stored.segment_bytes,
            run: stored.run,
            files: stored.files.len() as u64,
            bytes: stored.bytes,
            begins: place(start_of).min().unwrap_or(NOWHERE),
            first_ends: place(end_of).min().unwrap_or(NOWHERE),
            ends: place(end_of).max().unwrap_or(NOWHERE),
        }
    }
}

/// The runs of one system that may go, on all of its timelines.
#[derive(Clone, Debug)]
pub struct RunsOfSystem {
    runs: Vec<Extent>,
    /// What no record vouches for: it goes with what lies there, and keeps nothing.
    loose: Vec<Extent>,
    /// Where the first of what stays begins.
    stays: Lsn,
}

impl Default for RunsOfSystem {
    fn default() -> Self {
        RunsOfSystem { runs: Vec::new(), loose: Vec::new(), stays: NOWHERE }
    }
}

impl RunsOfSystem {
    /// Adds what a believed record says that a run has stored.
    pub fn add(&mut self, stored: &StoredRun) {
        self.runs.push(Extent::of(stored));
    }

    /// Adds files that nothing is known of but their names.
    pub fn add_loose(&mut self, stored: &StoredRun) {
        self.loose.push(Extent::of(stored));
    }

    /// Notes that something stays from this place on.
    pub fn stays_from(&mut self, at: Lsn) {
        self.stays = self.stays.min(at);
    }

    /// Condemns the runs that lie within a bound as a whole, and before everything that stays. What the plan has no
    /// room for stays until the next.
    pub fn condemn(self, bound: LogBound, condemned: &mut CondemnedRuns) {
        let mut limit = bound.place().min(self.stays);
        let mut runs = self.runs;
        runs.sort_by_key(|run| (run.ends, run.begins, run.history, run.run));
        // Whatever of them reaches beyond it stays, and moves the limit to where it begins. What lies nowhere stays, too.
        while let Some(run) = runs.pop_if(|run| run.ends > limit || run.ends == NOWHERE) {
            limit = limit.min(run.begins);
        }
        let mut room = condemned.room();
        let fit = runs.iter().take_while(|run| room.take((run.history, run.segment_bytes))).count();
        let rest = runs.split_off(fit);
        // Of one segment that was stored several times some may stay.
        limit = rest.iter().map(|run| run.first_ends).fold(limit, Lsn::min);
        runs.retain(|run| run.ends <= limit);
        let within = self.loose.into_iter().filter(|run| run.ends <= limit && run.ends < NOWHERE);
        runs.extend(within.filter(|run| room.take((run.history, run.segment_bytes))));
        let bound = match bound {
            LogBound::Before(_) => LogBound::Before(limit),
            LogBound::Everything(_) => LogBound::Everything(runs.iter().map(|run| run.ends).max().unwrap_or_default()),
        };
        runs.iter().for_each(|run| condemned.add(run, bound));
    }
}

/// A plan's parts, as they are put together run by run.
#[derive(Clone, Debug, Default)]
pub struct CondemnedRuns {
    parts: BTreeMap<(HistoryId, u64, LogBound), CondemnedLog>,
    runs: usize,
}

/// How much more a plan takes.
struct Room {
    runs: usize,
    parts: usize,
    of: BTreeSet<(HistoryId, u64)>,
}

impl Room {
    /// Whether a run of a history with segments of this size finds room.
    fn take(&mut self, of: (HistoryId, u64)) -> bool {
        let is_new = !self.of.contains(&of);
        let fits = self.runs > 0 && (!is_new || self.parts > 0);
        if fits {
            self.runs -= 1;
            self.parts -= usize::from(is_new);
            self.of.insert(of);
        }
        fits
    }
}

impl CondemnedRuns {
    fn room(&self) -> Room {
        Room { runs: MAX_LOG_RUNS - self.runs, parts: MAX_LOG_PARTS - self.parts.len(), of: BTreeSet::new() }
    }

    fn add(&mut self, run: &Extent, bound: LogBound) {
        let part = self.parts.entry((run.history, run.segment_bytes, bound)).or_insert_with(|| CondemnedLog {
            history: run.history,
            segment_bytes: run.segment_bytes,
            bound,
            files: 0,
            bytes: 0,
            runs: Vec::new(),
        });
        part.runs.push(run.run);
        part.files += run.files;
        part.bytes = part.bytes.saturating_add(run.bytes);
        self.runs += 1;
    }

    /// The parts.
    pub fn into_parts(self) -> Vec<CondemnedLog> {
        let mut parts: Vec<CondemnedLog> = self.parts.into_values().collect();
        for part in &mut parts {
            // A run with pieces of several segments is one.
            part.runs.sort_unstable();
            part.runs.dedup();
        }
        parts
    }
}

#[cfg(test)]
mod tests;
