//! The log in a prune: which runs lie wholly before what snapshots that stay need, and which pieces the whole segment
//! has taken the place of.
//!
//! Names say which segments there are. Only the records of what may go are read: what else a run has stored is known
//! from there alone, wherever the names of it were lost.

mod pieces;

use super::gather::{Gathered, all_committed};
use crate::{
    core::{
        id::{RunId, SnapshotId},
        log::{HistoryId, LogFile, LogRecordId},
        plan::prune::log::{CondemnedRuns, LogNeeds, StoredRun},
        prune::{Condemned, CondemnedLog, CondemnedSet, LogBound, MAX_LOG_RUNS},
    },
    ops::{
        archive,
        host::{Host, Protected},
    },
    repository::{catalogue::Refusal, layout, log::LogSurvey},
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) use pieces::are_superseded;

/// How many records are in memory at once.
const CHUNK: usize = 1_000;

/// What a prune has to do with the log.
#[derive(Debug, Default)]
pub(super) struct LogFound {
    /// What goes.
    pub(super) condemned: Vec<CondemnedLog>,
    /// Runs that have stored files that lie before what is needed, and no record; a later plan may condemn them.
    pub(super) orphans: BTreeSet<RunId>,
}

/// Finds what goes of the log together with the snapshots of a plan.
pub(super) async fn find(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    (plan, before): (&Condemned, &CondemnedSet),
    seen: &BTreeSet<RunId>,
) -> LogFound {
    // What is held, and nobody shows, may need any of it.
    if !gathered.remains.is_nothing() || !gathered.shows_log() {
        return LogFound::default();
    }
    let goes: BTreeSet<SnapshotId> = plan.snapshots.iter().map(|snapshot| snapshot.id).collect();
    let goes = |id: SnapshotId| goes.contains(&id) || before.has_snapshot(id);
    let mut gone = before.clone();
    gone.extend(gathered.catalogue.tombstones.clone());
    let bounds = Bounds::of(host, protected, gathered, &goes);
    let mut finding = Finding { host, gathered, bounds, gone, seen, condemned: CondemnedRuns::default() };
    let orphans = finding.find_old().await;
    let mut condemned = std::mem::take(&mut finding.condemned).into_parts();
    let runs: usize = condemned.iter().map(|part| part.runs.len()).sum();
    let room = MAX_LOG_RUNS.saturating_sub(runs);
    condemned.extend(pieces::find(host, protected, gathered, (&finding.gone, &finding.bounds), room).await);
    LogFound { condemned, orphans }
}

/// Up to where the log of each system goes.
struct Bounds {
    needs: LogNeeds,
    gone: BTreeSet<u64>,
    /// The size of a system's segments, as its snapshots tell; none where they differ.
    sizes: BTreeMap<u64, Option<u64>>,
}

impl Bounds {
    fn of(host: &Host, protected: &Protected, gathered: &Gathered, goes: &dyn Fn(SnapshotId) -> bool) -> Self {
        let mut gone = BTreeSet::new();
        let mut sizes: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        for (id, committed) in all_committed(&gathered.catalogue) {
            let Some(range) = &committed.inventory.log else { continue };
            let size = sizes.entry(range.history.system).or_insert(Some(range.segment_bytes));
            *size = size.filter(|size| *size == range.segment_bytes);
            if goes(id) {
                gone.insert(range.history.system);
            }
        }
        // What of it was more than one plan takes, or came later.
        let parts = gathered.catalogue.prunes.records().flat_map(|record| &record.condemned.log);
        gone.extend(parts.filter(|part| part.bound == LogBound::Everything).map(|part| part.history.system));
        let archived = archive::peek(&host.source_state_dir(&protected.name), host.repository.id);
        let current = archived.and_then(|state| state.system);
        gone.retain(|system| Some(*system) != current);
        Bounds { needs: gathered.log_needs(goes), gone, sizes }
    }

    fn bound(&self, system: u64) -> Option<LogBound> {
        self.needs.bound(system, &self.gone)
    }

    fn size(&self, system: u64) -> Option<u64> {
        self.sizes.get(&system).copied().flatten()
    }

    /// Whether a file goes, as far as its name tells.
    fn may_go(&self, history: HistoryId, file: LogFile) -> bool {
        match self.bound(history.system) {
            Some(LogBound::Everything) => true,
            Some(bound) => self.size(history.system).is_some_and(|size| bound.covers(file, size)),
            None => false,
        }
    }
}

/// What the stores show of a run.
#[derive(Debug, Default)]
struct Shown {
    /// Its files with their sizes; several times where several stores show one.
    files: Vec<(LogFile, u64)>,
    /// Its records, by the file that they are named after, each with a store that shows it.
    records: Vec<(LogFile, usize)>,
    /// Whether something of it stays.
    stays: bool,
}

type ShownRuns = BTreeMap<(HistoryId, RunId), Shown>;

struct Finding<'a> {
    host: &'a Host,
    gathered: &'a Gathered,
    bounds: Bounds,
    /// What earlier plans condemn or have deleted.
    gone: CondemnedSet,
    /// Runs that earlier plans have seen without a record.
    seen: &'a BTreeSet<RunId>,
    condemned: CondemnedRuns,
}

impl Finding<'_> {
    /// Condemns what lies before what is needed; gives the runs that have no record.
    async fn find_old(&mut self) -> BTreeSet<RunId> {
        let shown = self.shown();
        let shown: Vec<(&(HistoryId, RunId), &Shown)> = shown.iter().filter(|(_, shown)| !shown.stays).collect();
        let mut orphans = BTreeSet::new();
        for chunk in shown.chunks(CHUNK) {
            let mut holders: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
            for ((history, run), shown) in chunk {
                for (first, at) in shown.to_read() {
                    let id = LogRecordId { history: *history, first, run: *run };
                    holders.entry(id).or_default().insert(at);
                }
            }
            let survey = self.host.repository.read_log_records(&self.gathered.catalogue.source, holders).await;
            for ((history, run), shown) in chunk {
                let bound = self.bounds.bound(history.system);
                match self.stored(*history, *run, shown, &survey).zip(bound) {
                    Some((stored, bound)) => drop(self.condemned.take(&stored, bound)),
                    None if shown.records.is_empty() => drop(orphans.insert(*run)),
                    None => {}
                }
            }
        }
        orphans
    }

    /// What the stores show of the runs that may go.
    fn shown(&self) -> ShownRuns {
        let mut lowest: BTreeSet<(HistoryId, LogFile, RunId)> = BTreeSet::new();
        for (_, named) in self.gathered.log_names() {
            let (history, file, run) = named.parts();
            if self.bounds.may_go(history, file) && !self.gone.logs.has(history, file, run) {
                lowest.insert((history, file, run));
            }
            // More than one plan takes are not looked at.
            if lowest.len() > MAX_LOG_RUNS {
                lowest.pop_last();
            }
        }
        let mut shown: ShownRuns =
            lowest.into_iter().map(|(history, _, run)| ((history, run), Shown::default())).collect();
        for (at, named) in self.gathered.log_names() {
            let (history, file, run) = named.parts();
            let Some(of_run) = shown.get_mut(&(history, run)) else { continue };
            of_run.stays |= !self.bounds.may_go(history, file);
            match named {
                LogName::File(_, _, _, size) => of_run.files.push((file, size)),
                LogName::Record(_) => of_run.records.push((file, at)),
            }
        }
        shown
    }

    /// All that a run has stored, where that is known.
    fn stored(&self, history: HistoryId, run: RunId, shown: &Shown, survey: &LogSurvey) -> Option<StoredRun> {
        let mut files: BTreeMap<LogFile, u64> = shown.files.iter().copied().collect();
        let mut segment_bytes = None;
        for (first, _) in shown.to_read() {
            let id = LogRecordId { history, first, run };
            let Some(held) = survey.records.get(&id) else {
                if self.is_lost(id, survey) {
                    continue;
                }
                return None;
            };
            let record = &held.signed.record;
            if *segment_bytes.get_or_insert(record.segment_bytes) != record.segment_bytes {
                return None;
            }
            files.extend(record.files.iter().map(|entry| (entry.file, entry.size)));
        }
        if shown.records.is_empty() && !self.seen.contains(&run) {
            return None;
        }
        // Records that are lost, or never came, tell nothing; and nobody can read what they would have committed.
        let segment_bytes = segment_bytes.or_else(|| self.bounds.size(history.system))?;
        // A record may be named after a file that is no more.
        let named = shown.records.iter().map(|(first, _)| *first).filter(|first| !files.contains_key(first));
        let named: Vec<LogFile> = named.collect();
        files.extend(named.into_iter().map(|first| (first, 0)));
        let bytes = files.values().fold(0u64, |sum, size| sum.saturating_add(*size));
        Some(StoredRun { history, segment_bytes, run, files: files.into_keys().collect(), bytes })
    }

    /// Whether a record is damaged wherever it is, and every store was asked.
    fn is_lost(&self, id: LogRecordId, survey: &LogSurvey) -> bool {
        let catalogue = &self.gathered.catalogue;
        let mut refused = survey.refused.iter().filter(|refused| refused.id == id).peekable();
        catalogue.ready().count() == catalogue.listings.len()
            && refused.peek().is_some()
            && refused.all(|refused| matches!(refused.why, Refusal::Damaged(_)))
    }
}

impl Shown {
    /// The records that have to be read. Each piece has one of its own, and all of a run are of one size of segments.
    fn to_read(&self) -> impl Iterator<Item = (LogFile, usize)> + '_ {
        let is_piece = |(first, _): &&(LogFile, usize)| matches!(first, LogFile::Piece(..));
        let all_pieces = self.records.iter().all(|record| is_piece(&record))
            && self.files.iter().all(|(file, _)| matches!(file, LogFile::Piece(..)));
        let lowest = self.records.iter().map(|(first, _)| *first).min();
        self.records.iter().copied().filter(move |(first, _)| !all_pieces || Some(*first) == lowest)
    }
}

/// The name of an object of a log.
#[derive(Clone, Copy, Debug)]
pub(super) enum LogName {
    /// A sealed file, with its size.
    File(HistoryId, LogFile, RunId, u64),
    /// A record.
    Record(LogRecordId),
}

impl LogName {
    fn read(name: &str, size: u64) -> Option<Self> {
        let file = layout::log_file_of(name).map(|(history, file, run)| LogName::File(history, file, run, size));
        file.or_else(|| layout::log_record_of(name).map(LogName::Record))
    }

    fn parts(&self) -> (HistoryId, LogFile, RunId) {
        match self {
            LogName::File(history, file, run, _) => (*history, *file, *run),
            LogName::Record(id) => (id.history, id.first, id.run),
        }
    }
}

impl Gathered {
    /// The objects of the log that the stores show, each with the position of its store.
    fn log_names(&self) -> impl Iterator<Item = (usize, LogName)> + '_ {
        self.catalogue.ready().flat_map(move |at| {
            let names = self.catalogue.listings[at].objects.iter();
            names.filter_map(move |(name, size)| Some((at, LogName::read(name, *size)?)))
        })
    }

    fn shows_log(&self) -> bool {
        let mut names = self.catalogue.ready().flat_map(|at| self.catalogue.listings[at].objects.keys());
        names.any(|name| name.starts_with(layout::LOG))
    }

    /// What the snapshots need of the log that stay when these go.
    pub(super) fn log_needs(&self, goes: &dyn Fn(SnapshotId) -> bool) -> LogNeeds {
        let kept = all_committed(&self.catalogue).filter(|(id, _)| !goes(*id));
        let newest = self.newest_durable.and_then(|id| self.catalogue.snapshots.get(&id));
        LogNeeds::of(kept.map(|(_, committed)| &committed.inventory), newest.map(|committed| &committed.inventory))
    }

    /// Whether a run of a part has stored something that is not within its bound. No plan is made so; and the record of
    /// such a run must stay.
    fn reaches_beyond(&self, part: &CondemnedLog) -> bool {
        let runs: BTreeSet<RunId> = part.runs.iter().copied().collect();
        self.log_names().any(|(_, named)| {
            let (history, file, run) = named.parts();
            history == part.history && !part.bound.covers(file, part.segment_bytes) && runs.contains(&run)
        })
    }

    /// The second look at the log, once it is known which snapshots of a plan go: what still goes with them, and what
    /// is dropped.
    pub(super) fn look_at_log(
        &self,
        plan: &[CondemnedLog],
        going: &Condemned,
        protected: &Protected,
        host: &Host,
    ) -> (Vec<CondemnedLog>, Vec<CondemnedLog>) {
        let going: BTreeSet<SnapshotId> = going.snapshots.iter().map(|snapshot| snapshot.id).collect();
        let needs = self.log_needs(&|id| going.contains(&id));
        let goes = |part: &CondemnedLog| {
            self.remains.is_nothing()
                && needs.spare(part)
                && !self.reaches_beyond(part)
                && (!matches!(part.bound, LogBound::PiecesBefore(_)) || are_superseded(host, protected, self, part))
        };
        plan.iter().cloned().partition(goes)
    }
}
