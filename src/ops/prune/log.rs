//! The log in a prune: which runs lie wholly before what snapshots that stay need.
//!
//! Names say which segments there may be, and what a believed record says of them decides: whoever can write to a store
//! can put any name there. A name that no record vouches for keeps nothing, and takes nothing with it.
//!
//! Pieces of a segment go like everything else, and not sooner: whether the whole segment that is there begins with
//! them nobody can tell who cannot open both, and another server's may hold what no other has.

use super::gather::{Gathered, all_committed};
use crate::{
    core::{
        id::{RunId, SnapshotId},
        inventory::Inventory,
        log::{HistoryId, LogFile, LogRecord, LogRecordId, Lsn, SEGMENT_BYTES},
        plan::prune::{
            Snapshots,
            log::{CondemnedRuns, LogNeeds, RunsOfSystem, StoredRun},
        },
        prune::{Condemned, CondemnedLog, CondemnedLogs, CondemnedSet, LogBound, MAX_LOG_RUNS, end_of, start_of},
    },
    ops::{
        archive,
        host::{Host, Protected},
    },
    repository::{
        catalogue::Refusal,
        layout,
        log::{LogSurvey, RefusedLog},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// How many records are in memory at once.
const CHUNK: usize = 1_000;
/// With segments of this size a name stands for the first place that it may stand for with any.
const SMALLEST: u64 = *SEGMENT_BYTES.start();

/// What a prune has to do with the log.
#[derive(Debug, Default)]
pub(super) struct LogFound {
    /// What goes.
    pub(super) condemned: Vec<CondemnedLog>,
    /// Runs that have stored files that lie before what is needed, and no record; a later plan may condemn them.
    pub(super) orphans: BTreeSet<RunId>,
    /// What keeps the rest of the log, or is passed over, for people.
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
    let mut finding = Finding {
        host,
        gathered,
        bounds,
        gone,
        seen,
        systems: BTreeMap::new(),
        orphans: BTreeSet::new(),
        unread: BTreeMap::new(),
        unsigned: BTreeMap::new(),
    };
    finding.find_old().await;
    let mut condemned = CondemnedRuns::default();
    for (system, runs) in finding.systems {
        finding.bounds.bound(system).into_iter().for_each(|bound| runs.clone().condemn(bound, &mut condemned));
    }
    let name = &protected.name;
    let unread = finding.unread.into_iter().map(|(history, (from, run))| {
        format!(
            "{name}: the log of {history} is kept from {from} on, because a record of run {run} cannot be read; recoup \
             verify"
        )
    });
    let unsigned = finding.unsigned.into_iter().map(|(history, run)| {
        format!(
            "{name}: nobody who is trusted signed what run {run} has stored of the log of {history}: it keeps nothing, \
             and stays; recoup verify names all of its kind, and what nobody of yours wrote is removed by hand"
        )
    });
    let notes = unread.chain(unsigned).collect();
    LogFound { condemned: condemned.into_parts(), orphans: finding.orphans, notes }
}

/// Up to where the log of each system goes.
struct Bounds {
    needs: LogNeeds,
    gone: BTreeSet<u64>,
    /// The size of a system's segments, as its snapshots tell, and earlier plans where none is left; none where they
    /// differ.
    sizes: BTreeMap<u64, Option<u64>>,
}

impl Bounds {
    fn of(host: &Host, protected: &Protected, gathered: &Gathered, goes: &dyn Fn(SnapshotId) -> bool) -> Self {
        let mut gone = BTreeSet::new();
        let mut sizes: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        let mut of_parts: BTreeMap<u64, Option<u64>> = BTreeMap::new();
        let note = |sizes: &mut BTreeMap<u64, Option<u64>>, system, bytes| {
            let size = sizes.entry(system).or_insert(Some(bytes));
            *size = size.filter(|size| *size == bytes);
        };
        for (id, committed) in all_committed(&gathered.catalogue) {
            let Some(range) = &committed.inventory.log else { continue };
            note(&mut sizes, range.history.system, range.segment_bytes);
            if goes(id) {
                gone.insert(range.history.system);
            }
        }
        // What of it was more than one plan takes, or came later.
        for part in gathered.catalogue.prunes.records().flat_map(|record| &record.condemned.log) {
            note(&mut of_parts, part.history.system, part.segment_bytes);
            if matches!(part.bound, LogBound::Everything(_)) {
                gone.insert(part.history.system);
            }
        }
        for (system, size) in of_parts {
            sizes.entry(system).or_insert(size);
        }
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

    /// Whether a file may go, whatever the size of its segments is: its name alone does not tell where it lies.
    fn may_go(&self, history: HistoryId, file: LogFile) -> bool {
        self.bound(history.system).is_some_and(|bound| bound.covers(file, SMALLEST))
    }
}

/// What the stores show of a run.
#[derive(Debug, Default)]
struct Shown {
    /// Its files with their sizes; several times where several stores show one.
    files: Vec<(LogFile, u64)>,
    /// Its records, by the file that they are named after, each with a store that shows it.
    records: Vec<(LogFile, usize)>,
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
    /// Runs without a record.
    orphans: BTreeSet<RunId>,
    /// By history: the first place from which a run stays whose record cannot be read.
    unread: BTreeMap<HistoryId, (Lsn, RunId)>,
    /// By history: a run whose records nobody trusted has signed.
    unsigned: BTreeMap<HistoryId, RunId>,
}

impl Finding<'_> {
    /// Finds out what lies before what is needed, and what of it stays.
    async fn find_old(&mut self) {
        let shown = self.shown();
        let shown: Vec<_> = shown.iter().collect();
        for chunk in shown.chunks(CHUNK) {
            let survey = read_records(self.host, self.gathered, chunk.iter().copied()).await;
            for ((history, run), shown) in chunk {
                self.judge(*history, *run, shown, &survey);
            }
        }
    }

    /// What the stores show of the runs that may go.
    fn shown(&mut self) -> ShownRuns {
        // In the order of the log, so that what is not looked at lies behind all that is.
        let mut lowest: BTreeSet<(u64, HistoryId, LogFile, RunId)> = BTreeSet::new();
        for (_, named) in self.gathered.log_names() {
            let (history, file, run) = named.parts();
            if self.bounds.may_go(history, file) && !self.gone.logs.has(history, file, run) {
                let begins = start_of(file, SMALLEST).unwrap_or_default();
                lowest.insert((begins.0, history, file, run));
            }
            // More than one plan takes are not looked at.
            if lowest.len() > MAX_LOG_RUNS
                && let Some((begins, history, ..)) = lowest.pop_last()
            {
                self.systems.entry(history.system).or_default().stays_from(Lsn(begins));
            }
        }
        let mut shown: ShownRuns =
            lowest.into_iter().map(|(_, history, _, run)| ((history, run), Shown::default())).collect();
        for (at, named) in self.gathered.log_names() {
            let (history, file, run) = named.parts();
            if let Some(of_run) = shown.get_mut(&(history, run))
                && !self.gone.logs.has(history, file, run)
            {
                of_run.add(at, named);
            }
        }
        shown
    }

    /// Decides by its records what of a run may go, and what it keeps.
    fn judge(&mut self, history: HistoryId, run: RunId, shown: &Shown, survey: &LogSurvey) {
        let ids: BTreeSet<LogRecordId> =
            shown.records.iter().map(|(first, _)| LogRecordId { history, first: *first, run }).collect();
        let believed: Vec<&LogRecord> =
            ids.iter().filter_map(|id| Some(&survey.records.get(id)?.signed.record)).collect();
        let sizes: BTreeSet<u64> = believed.iter().map(|record| record.segment_bytes).collect();
        let is_unread = |of: &&RefusedLog| ids.contains(&of.id) && !survey.records.contains_key(&of.id);
        let refused = || survey.refused.iter().filter(is_unread);
        if sizes.len() > 1 || refused().any(|refused| may_say_anything(&refused.why)) {
            let from = shown.names().into_keys().filter_map(|file| start_of(file, SMALLEST)).min().unwrap_or_default();
            self.systems.entry(history.system).or_default().stays_from(from);
            let first = self.unread.entry(history).or_insert((from, run));
            *first = (from, run).min(*first);
            return;
        }
        let stored = |segment_bytes, files: BTreeMap<LogFile, u64>| {
            let bytes = files.values().fold(0u64, |sum, size| sum.saturating_add(*size));
            StoredRun { history, segment_bytes, run, files: files.into_keys().collect(), bytes }
        };
        let of_system = self.systems.entry(history.system).or_default();
        if let Some(segment_bytes) = sizes.first().copied() {
            if believed.iter().all(|record| is_piece(&record.files[0].file)) {
                // Each has a record of its own: those of one segment go together.
                for files in shown.by_segment().into_values() {
                    of_system.add(&stored(segment_bytes, files));
                }
            } else {
                let entries = believed.iter().flat_map(|record| &record.files);
                of_system.add(&stored(segment_bytes, entries.map(|entry| (entry.file, entry.size)).collect()));
            }
            return;
        }
        if refused().any(|refused| matches!(refused.why, Refusal::Untrusted(_))) {
            self.unsigned.entry(history).or_insert(run);
            return;
        }
        // Records that are damaged wherever they are, or never came, commit nothing.
        if ids.is_empty() && !self.seen.contains(&run) {
            self.orphans.insert(run);
            return;
        }
        let Some(segment_bytes) = self.bounds.size(history.system) else { return };
        for (file, size) in shown.names() {
            of_system.add_loose(&stored(segment_bytes, [(file, size)].into()));
        }
    }
}

/// Whether a record may say anything, and nobody here can read it.
fn may_say_anything(why: &Refusal) -> bool {
    matches!(why, Refusal::Newer(_) | Refusal::Unreadable(_))
}

fn is_piece(file: &LogFile) -> bool {
    matches!(file, LogFile::Piece(..))
}

/// Reads the records of some runs. Of pieces, each of which has one of its own, the first that is believed is enough: all
/// of a run are of one size of segments.
async fn read_records<'s>(
    host: &Host,
    gathered: &Gathered,
    runs: impl Iterator<Item = (&'s (HistoryId, RunId), &'s Shown)>,
) -> LogSurvey {
    let mut holders: [BTreeMap<LogRecordId, BTreeSet<usize>>; 2] = Default::default();
    for ((history, run), shown) in runs {
        let all_pieces = shown.records.iter().all(|(first, _)| is_piece(first));
        let lowest = shown.records.iter().map(|(first, _)| *first).min();
        for (first, at) in shown.records.iter().copied() {
            let is_first = !all_pieces || Some(first) == lowest;
            let id = LogRecordId { history: *history, first, run: *run };
            holders[usize::from(!is_first)].entry(id).or_default().insert(at);
        }
    }
    let [first, mut rest] = holders;
    let source = &gathered.catalogue.source;
    let mut survey = host.repository.read_log_records(source, first).await;
    let believed: BTreeSet<_> = survey.records.keys().map(|id| (id.history, id.run)).collect();
    rest.retain(|id, _| !believed.contains(&(id.history, id.run)));
    let rest = host.repository.read_log_records(source, rest).await;
    survey.records.extend(rest.records);
    survey.refused.extend(rest.refused);
    survey
}

impl Shown {
    fn add(&mut self, at: usize, named: LogName) {
        match named {
            LogName::File(_, file, _, size) => self.files.push((file, size)),
            LogName::Record(id) => self.records.push((id.first, at)),
        }
    }

    /// Its files, and those that records are named after, which may be no more.
    fn names(&self) -> BTreeMap<LogFile, u64> {
        let named = self.records.iter().map(|(first, _)| (*first, 0));
        named.chain(self.files.iter().copied()).collect()
    }

    fn by_segment(&self) -> BTreeMap<Option<Lsn>, BTreeMap<LogFile, u64>> {
        let mut by_segment: BTreeMap<Option<Lsn>, BTreeMap<LogFile, u64>> = BTreeMap::new();
        for (file, size) in self.names() {
            by_segment.entry(start_of(file, SMALLEST)).or_default().insert(file, size);
        }
        by_segment
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

    /// Which parts cannot be right, as records say: one of their runs has stored more than they condemn, or with segments
    /// of another size, or nobody can read what it has. A record that is damaged, or that nobody trusted has signed,
    /// commits nothing.
    async fn reach_beyond(&self, host: &Host, parts: &[&CondemnedLog]) -> BTreeSet<usize> {
        let mut by_run: BTreeMap<(HistoryId, RunId), Vec<usize>> = BTreeMap::new();
        for (at, part) in parts.iter().enumerate() {
            for run in &part.runs {
                by_run.entry((part.history, *run)).or_default().push(at);
            }
        }
        let shown = self.shown_of(|history, _, run| by_run.contains_key(&(history, run)));
        let shown: Vec<_> = shown.iter().collect();
        let mut beyond = BTreeSet::new();
        for chunk in shown.chunks(CHUNK) {
            let survey = read_records(host, self, chunk.iter().copied()).await;
            let mut note = |id: LogRecordId, is_beyond: &dyn Fn(&CondemnedLog) -> bool| {
                let of_run = by_run.get(&(id.history, id.run)).into_iter().flatten().copied();
                beyond.extend(of_run.filter(|at| is_beyond(parts[*at])));
            };
            for (id, held) in &survey.records {
                let record = &held.signed.record;
                note(*id, &|part| {
                    let covers = |file| part.bound.covers(file, part.segment_bytes);
                    // A piece that lies behind the bound has a record of its own, which stays.
                    record.segment_bytes != part.segment_bytes
                        || !record.files.iter().all(|entry| covers(entry.file) || is_piece(&entry.file))
                });
            }
            let unread =
                |refused: &&RefusedLog| !survey.records.contains_key(&refused.id) && may_say_anything(&refused.why);
            survey.refused.iter().filter(unread).for_each(|refused| note(refused.id, &|_| true));
        }
        beyond
    }

    /// Where the first segment ends of each system that a believed record names, that no plan condemns and that lies before
    /// a place: whoever archived it since a plan was made may be taking a snapshot there.
    async fn uncondemned_before(&self, host: &Host, places: &BTreeMap<u64, Lsn>) -> BTreeMap<u64, Lsn> {
        let condemned = self.catalogue.prunes.avoided().logs;
        let shown = self.shown_of(|history, file, run| {
            let place = places.get(&history.system);
            !is_piece(&file)
                && place.is_some_and(|place| end_of(file, SMALLEST).is_some_and(|end| end <= *place))
                && !condemned.has(history, file, run)
        });
        let shown: Vec<_> = shown.iter().collect();
        let mut first: BTreeMap<u64, Lsn> = BTreeMap::new();
        for chunk in shown.chunks(CHUNK) {
            let survey = read_records(host, self, chunk.iter().copied()).await;
            let mut note = |system: u64, at: Lsn| {
                let first = first.entry(system).or_insert(at);
                *first = at.min(*first);
            };
            for held in survey.records.values() {
                let record = &held.signed.record;
                let segments = record.files.iter().filter(|entry| matches!(entry.file, LogFile::Segment(_)));
                let stay = segments.filter(|entry| !condemned.has(record.history, entry.file, record.run));
                let ends = stay.filter_map(|entry| end_of(entry.file, record.segment_bytes));
                ends.for_each(|at| note(record.history.system, at));
            }
            for RefusedLog { id, why, .. } in &survey.refused {
                if !survey.records.contains_key(id) && may_say_anything(why) {
                    note(id.history.system, end_of(id.first, SMALLEST).unwrap_or_default());
                }
            }
        }
        first
    }

    /// What the stores show of the runs of which one name is meant.
    fn shown_of(&self, is_meant: impl Fn(HistoryId, LogFile, RunId) -> bool) -> ShownRuns {
        let mut shown = ShownRuns::new();
        for (_, named) in self.log_names() {
            let (history, file, run) = named.parts();
            if is_meant(history, file, run) {
                shown.entry((history, run)).or_default();
            }
        }
        for (at, named) in self.log_names() {
            let (history, _, run) = named.parts();
            if let Some(of_run) = shown.get_mut(&(history, run)) {
                of_run.add(at, named);
            }
        }
        shown
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
        plan.iter().cloned().partition(|part| self.remains.is_nothing() && needs.spare(part))
    }

    /// What of an executed plan's log goes all the same, once it is known which of its snapshots do: nothing that one of
    /// the others may need, nor anything while something is held that nobody shows.
    pub(super) fn log_but_what_stays(
        &self,
        parts: Vec<CondemnedLog>,
        snapshots: &Snapshots<'_>,
        going: &Condemned,
    ) -> Vec<CondemnedLog> {
        let going: BTreeSet<SnapshotId> = going.snapshots.iter().map(|snapshot| snapshot.id).collect();
        let stay = snapshots.iter().filter(|(id, _)| !going.contains(id));
        let needs = LogNeeds::of(stay.map(|(_, known)| known.inventory), None);
        parts.into_iter().filter(|part| self.remains.is_nothing() && !needs.need(part)).collect()
    }

    /// Whether a store still shows something that is condemned and that a replay from a snapshot may need.
    pub(super) fn shows_log_of(&self, inventory: &Inventory, condemned: &CondemnedLogs) -> bool {
        let Some(behind) = inventory.log.as_ref().map(|range| condemned.behind(range)) else { return false };
        behind != CondemnedLogs::default()
            && self.log_names().any(|(_, named)| {
                let (history, file, run) = named.parts();
                behind.has(history, file, run)
            })
    }

    /// Moves what cannot go by what records say from what goes to what is dropped.
    pub(super) async fn look_into_records(&self, host: &Host, goes: &mut Condemned, dropped: &mut Condemned) {
        let parts = std::mem::take(&mut goes.log);
        let beyond = self.reach_beyond(host, &parts.iter().collect::<Vec<_>>()).await;
        let mut places: BTreeMap<u64, Lsn> = BTreeMap::new();
        for part in &parts {
            let place = places.entry(part.history.system).or_default();
            *place = part.bound.place().max(*place);
        }
        let first = self.uncondemned_before(host, &places).await;
        for (at, part) in parts.into_iter().enumerate() {
            // What is condemned behind it would be missing there.
            let is_passed = first.get(&part.history.system).is_some_and(|first| *first < part.bound.place());
            let stays = beyond.contains(&at) || is_passed;
            if stays { &mut *dropped } else { &mut *goes }.log.push(part);
        }
    }

    /// Which parts of executed plans must not be deleted any further, by their positions, and why if it is for somebody
    /// to know: they get a look like those of a pending plan, whatever the records of their execution say.
    pub(super) async fn log_that_stays(
        &self,
        host: &Host,
        parts: &[&CondemnedLog],
    ) -> BTreeMap<usize, Option<&'static str>> {
        let needs = self.log_needs(&|_| false);
        let beyond = self.reach_beyond(host, parts).await;
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
