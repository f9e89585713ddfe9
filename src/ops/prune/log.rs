//! The log in a prune: which runs lie wholly before what snapshots that stay need.
//!
//! Names say which segments there are. Only the records of what may go are read: what else a run has stored is known
//! from there alone, wherever the names of it were lost.
//!
//! Pieces of a segment go like everything else, and not sooner: whether the whole segment that is there begins with
//! them nobody can tell who cannot open both, and another server's may hold what no other has.

use super::gather::{Gathered, all_committed};
use crate::{
    core::{
        id::{RunId, SnapshotId},
        log::{HistoryId, LogEntry, LogFile, LogRecordId, Lsn},
        plan::prune::log::{CondemnedRuns, LogNeeds, RunsOfSystem, StoredRun},
        prune::{Condemned, CondemnedLog, CondemnedSet, LogBound, MAX_LOG_RUNS, end_of, start_of},
    },
    ops::{
        archive,
        host::{Host, Protected},
    },
    repository::{
        catalogue::Refusal,
        layout,
        log::{HeldLog, LogSurvey, RefusedLog, SignedLog},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// How many records are in memory at once.
const CHUNK: usize = 1_000;

/// What a prune has to do with the log.
#[derive(Debug, Default)]
pub(super) struct LogFound {
    /// What goes.
    pub(super) condemned: Vec<CondemnedLog>,
    /// Runs that have stored files that lie before what is needed, and no record; a later plan may condemn them.
    pub(super) orphans: BTreeSet<RunId>,
    /// What keeps the rest of the log, and should not, for people.
    pub(super) notes: Vec<String>,
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
    let mut finding = Finding { host, gathered, bounds, gone, seen, systems: BTreeMap::new(), unread: BTreeMap::new() };
    let orphans = finding.find_old().await;
    let mut condemned = CondemnedRuns::default();
    for (system, runs) in finding.systems {
        finding.bounds.bound(system).into_iter().for_each(|bound| runs.clone().condemn(bound, &mut condemned));
    }
    let note = |(history, (begins, run)): (HistoryId, (Lsn, RunId))| {
        format!(
            "{}: the log of {history} is kept from {begins} on, because a record of run {run} cannot be read, or is \
             none; recoup verify",
            protected.name
        )
    };
    LogFound { condemned: condemned.into_parts(), orphans, notes: finding.unread.into_iter().map(note).collect() }
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
    /// What was found of each.
    systems: BTreeMap<u64, RunsOfSystem>,
    /// By history: the first place from which a run stays whose record cannot be read.
    unread: BTreeMap<HistoryId, (Lsn, RunId)>,
}

impl Finding<'_> {
    /// Finds out what lies before what is needed, and what of it stays; gives the runs that have no record.
    async fn find_old(&mut self) -> BTreeSet<RunId> {
        let shown = self.shown();
        let (stay, may_go): (Vec<_>, Vec<_>) = shown.iter().partition(|(_, shown)| shown.stays);
        for ((history, _), shown) in stay {
            self.stays(*history, shown);
        }
        let mut orphans = BTreeSet::new();
        for chunk in may_go.chunks(CHUNK) {
            let survey = read_records(self.host, self.gathered, chunk.iter().copied()).await;
            for ((history, run), shown) in chunk {
                if let Some(stored) = self.stored(*history, *run, shown, &survey) {
                    self.systems.entry(history.system).or_default().add(&stored);
                    continue;
                }
                let begins = self.stays(*history, shown);
                if shown.records.is_empty() {
                    orphans.insert(*run);
                } else if let Some(begins) = begins {
                    let first = self.unread.entry(*history).or_insert((begins, *run));
                    *first = (begins, *run).min(*first);
                }
            }
        }
        orphans
    }

    /// Notes from where on a run stays.
    fn stays(&mut self, history: HistoryId, shown: &Shown) -> Option<Lsn> {
        let files = || shown.files.iter().map(|(file, _)| file).chain(shown.records.iter().map(|(file, _)| file));
        let begins = match self.bounds.size(history.system) {
            Some(size) => files().filter_map(|file| start_of(*file, size)).min()?,
            // Where it lies nobody can say.
            None => Lsn(0),
        };
        self.systems.entry(history.system).or_default().stays_from(begins);
        Some(begins)
    }

    /// What the stores show of the runs that may go.
    fn shown(&mut self) -> ShownRuns {
        // In the order of the log, so that what is not looked at lies behind all that is.
        let mut lowest: BTreeSet<(u64, HistoryId, LogFile, RunId)> = BTreeSet::new();
        for (_, named) in self.gathered.log_names() {
            let (history, file, run) = named.parts();
            if self.bounds.may_go(history, file) && !self.gone.logs.has(history, file, run) {
                let size = self.bounds.size(history.system);
                let ends = size.and_then(|size| end_of(file, size)).map_or(u64::MAX, |end| end.0);
                lowest.insert((ends, history, file, run));
            }
            // More than one plan takes are not looked at.
            if lowest.len() > MAX_LOG_RUNS
                && let Some((ends, history, ..)) = lowest.pop_last()
            {
                self.systems.entry(history.system).or_default().stays_from(Lsn(ends));
            }
        }
        let mut shown: ShownRuns =
            lowest.into_iter().map(|(_, history, _, run)| ((history, run), Shown::default())).collect();
        for (at, named) in self.gathered.log_names() {
            let (history, file, run) = named.parts();
            let Some(of_run) = shown.get_mut(&(history, run)) else { continue };
            of_run.stays |= !self.bounds.may_go(history, file);
            of_run.add(at, named);
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
                if is_lost(self.gathered, id, survey) {
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
}

/// Reads the records of some runs.
async fn read_records<'s>(
    host: &Host,
    gathered: &Gathered,
    runs: impl Iterator<Item = (&'s (HistoryId, RunId), &'s Shown)>,
) -> LogSurvey {
    let mut holders: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
    for ((history, run), shown) in runs {
        for (first, at) in shown.to_read() {
            let id = LogRecordId { history: *history, first, run: *run };
            holders.entry(id).or_default().insert(at);
        }
    }
    host.repository.read_log_records(&gathered.catalogue.source, holders).await
}

/// Whether a record is damaged wherever it is, and every store was asked.
fn is_lost(gathered: &Gathered, id: LogRecordId, survey: &LogSurvey) -> bool {
    let catalogue = &gathered.catalogue;
    let mut refused = survey.refused.iter().filter(|refused| refused.id == id).peekable();
    catalogue.ready().count() == catalogue.listings.len()
        && refused.peek().is_some()
        && refused.all(|refused| matches!(refused.why, Refusal::Damaged(_)))
}

impl Shown {
    fn add(&mut self, at: usize, named: LogName) {
        match named {
            LogName::File(_, file, _, size) => self.files.push((file, size)),
            LogName::Record(id) => self.records.push((id.first, at)),
        }
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

    /// Which parts name a run that has stored something that is not within their bound. No plan is made so; and the
    /// record of such a run must stay.
    fn names_reach_beyond(&self, parts: &[&CondemnedLog]) -> BTreeSet<usize> {
        let by_run = by_run(parts);
        let mut beyond = BTreeSet::new();
        for (_, named) in self.log_names() {
            let (history, file, run) = named.parts();
            let of_run = by_run.get(&(history, run)).into_iter().flatten();
            beyond.extend(of_run.filter(|at| !parts[**at].bound.covers(file, parts[**at].segment_bytes)));
        }
        beyond
    }

    /// Which parts have a record that says so, or that cannot be read. Of what was executed long ago one may be left on
    /// a store that lagged whose signer nobody trusts any more, and nobody vouched for: it commits nothing.
    async fn records_reach_beyond(&self, host: &Host, parts: &[&CondemnedLog], is_executed: bool) -> BTreeSet<usize> {
        let by_run = by_run(parts);
        let mut shown = ShownRuns::new();
        for (at, named) in self.log_names() {
            let (history, _, run) = named.parts();
            if by_run.contains_key(&(history, run)) {
                shown.entry((history, run)).or_default().add(at, named);
            }
        }
        let shown: Vec<_> = shown.iter().collect();
        let mut beyond = BTreeSet::new();
        for chunk in shown.chunks(CHUNK) {
            let survey = read_records(host, self, chunk.iter().copied()).await;
            let mut note = |(history, run): (HistoryId, RunId), is_beyond: &dyn Fn(&CondemnedLog) -> bool| {
                let of_run = by_run.get(&(history, run)).into_iter().flatten().copied();
                // Where everything goes it does not matter what there is.
                let is_bounded = |part: &CondemnedLog| part.bound != LogBound::Everything;
                beyond.extend(of_run.filter(|at| is_bounded(parts[*at]) && is_beyond(parts[*at])));
            };
            for (id, HeldLog { signed: SignedLog { record, .. }, .. }) in &survey.records {
                let covers = |part: &CondemnedLog, entry: &LogEntry| part.bound.covers(entry.file, part.segment_bytes);
                note((id.history, id.run), &|part| {
                    record.segment_bytes != part.segment_bytes || !record.files.iter().all(|entry| covers(part, entry))
                });
            }
            let commits_nothing = |why: &Refusal| is_executed && matches!(why, Refusal::Untrusted(_));
            let is_unread = |RefusedLog { id, why, .. }: &&RefusedLog| {
                !survey.records.contains_key(id) && !commits_nothing(why) && !is_lost(self, *id, &survey)
            };
            for RefusedLog { id, .. } in survey.refused.iter().filter(is_unread) {
                note((id.history, id.run), &|_| true);
            }
        }
        beyond
    }

    /// The second look at the log, once it is known which snapshots of a plan go: what still goes with them, and what
    /// is dropped.
    pub(super) fn look_at_log(
        &self,
        plan: &[CondemnedLog],
        going: &Condemned,
    ) -> (Vec<CondemnedLog>, Vec<CondemnedLog>) {
        let going: BTreeSet<SnapshotId> = going.snapshots.iter().map(|snapshot| snapshot.id).collect();
        let needs = self.log_needs(&|id| going.contains(&id));
        let beyond = self.names_reach_beyond(&plan.iter().collect::<Vec<_>>());
        let goes = |at: usize| self.remains.is_nothing() && needs.spare(&plan[at]) && !beyond.contains(&at);
        let (goes, stays): (Vec<usize>, Vec<usize>) = (0..plan.len()).partition(|at| goes(*at));
        let parts = |of: Vec<usize>| of.into_iter().map(|at| plan[at].clone()).collect();
        (parts(goes), parts(stays))
    }

    /// Moves what cannot go by its records from what goes to what is dropped.
    pub(super) async fn look_into_records(&self, host: &Host, goes: &mut Condemned, dropped: &mut Condemned) {
        let parts = std::mem::take(&mut goes.log);
        let beyond = self.records_reach_beyond(host, &parts.iter().collect::<Vec<_>>(), false).await;
        for (at, part) in parts.into_iter().enumerate() {
            if beyond.contains(&at) { &mut *dropped } else { &mut *goes }.log.push(part);
        }
    }

    /// Which parts of executed plans must not be deleted any further, by their positions, and why if it is for somebody
    /// to know: they get the looks that those of a pending plan get, whatever the records of their execution say.
    pub(super) async fn log_that_stays(
        &self,
        host: &Host,
        parts: &[&CondemnedLog],
    ) -> BTreeMap<usize, Option<&'static str>> {
        let needs = self.log_needs(&|_| false);
        let mut beyond = self.names_reach_beyond(parts);
        beyond.extend(self.records_reach_beyond(host, parts, true).await);
        let why = |(at, part): (usize, &&CondemnedLog)| {
            if !needs.spare(part) {
                // A standby may have committed since then what begins before all that there was.
                Some((at, None))
            } else if !self.remains.is_nothing() {
                Some((at, Some("what is held, and nobody shows, may need them")))
            } else if beyond.contains(&at) {
                Some((at, Some("its runs have stored more than it may delete")))
            } else {
                None
            }
        };
        let listed = parts.iter().enumerate().filter(|(_, part)| !part.runs.is_empty());
        listed.filter_map(why).collect()
    }
}

/// The positions of the parts that name a run.
fn by_run(parts: &[&CondemnedLog]) -> BTreeMap<(HistoryId, RunId), Vec<usize>> {
    let mut by_run: BTreeMap<(HistoryId, RunId), Vec<usize>> = BTreeMap::new();
    for (at, part) in parts.iter().enumerate() {
        for run in &part.runs {
            by_run.entry((part.history, *run)).or_default().push(at);
        }
    }
    by_run
}
