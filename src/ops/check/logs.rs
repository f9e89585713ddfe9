//! The log of a source on the stores, at a glance: names say which segments there are, and the newest records, which
//! are read, up to when everything that was committed is safe.

use crate::{
    core::{
        coverage::{Anchor, Covered, StoredFile, StoredLog},
        id::SourceName,
        log::{LogFile, LogRange, LogRecordId, SegmentName, forks},
        policy::{Copies, is_durable},
        verdicts::LogState,
    },
    ops::archive::ArchiveState,
    repository::{Repository, head::StoreStatus, log::committed, survey::Survey},
};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};

/// How many records are read at once on the way back to one that tells a time, and how often.
const READ_AT_ONCE: usize = 16;
const ROUNDS_MAX: usize = 64;
/// The most files, of those that were stored several times, that are looked at; the newest are.
const TWICE_STORED_MAX: usize = 64;

/// The snapshots that the log is looked at with.
pub(super) struct Anchors {
    /// The oldest, the newest durable and the newest one.
    pub(super) all: Vec<Anchor>,
    /// What the newest durable one needs.
    pub(super) durable: LogRange,
}

/// The log as the stores show it.
pub(super) struct LogSeen {
    log: StoredLog,
    anchors: Anchors,
    all_asked: bool,
    forked: Vec<LogFile>,
}

/// How far it is safe.
pub(super) struct Safe {
    pub(super) covered: Option<Covered>,
    pub(super) state: LogState,
}

type Records = BTreeMap<LogFile, BTreeMap<LogRecordId, BTreeSet<usize>>>;
/// Of pieces, each with the stores that have it.
type Pieces = BTreeMap<LogRecordId, BTreeSet<usize>>;

impl LogSeen {
    /// Judges it, by the timeline that the server is on where that is known.
    pub(super) fn judge(&self, timeline: Option<u32>) -> Safe {
        let covered = self.log.covered(&self.anchors.durable, timeline);
        let state = LogState {
            covered: covered.as_ref().map(|covered| covered.time),
            last: covered.as_ref().and_then(|covered| covered.segments.last().copied()),
            histories: self.log.histories(&self.anchors.all),
            all_asked: self.all_asked,
            forked: self.forked.clone(),
        };
        Safe { covered, state }
    }

    /// The system whose log it is.
    pub(super) fn system(&self) -> u64 {
        self.log.system
    }
}

/// Looks at the log. What this host has archived itself counts as durable where stores that do not answer may hold it.
pub(super) async fn gather(
    repository: &Repository,
    survey: &Survey<'_>,
    source: &SourceName,
    copies: &Copies,
    anchors: Anchors,
    archived: Option<&ArchiveState>,
    timeline: Option<u32>,
) -> LogSeen {
    let names = names(repository, survey, source).await;
    let system = anchors.durable.history.system;
    let places = repository.places();
    let silent: BTreeSet<String> = std::iter::zip(&repository.stores, &names)
        .filter(|(_, names)| names.is_none())
        .map(|(store, _)| store.name().to_owned())
        .collect();
    let (mut log, records, mut pieces) = collected(repository, &names, system, anchors.durable.segment_bytes);
    for (file, stored) in &mut log.files {
        let was_durable = archived.is_some_and(|state| state.acknowledged.contains_key(file));
        let at_most = || stored.stores.union(&silent).cloned().collect();
        stored.durable =
            is_durable(copies, &places, &stored.stores) || was_durable && is_durable(copies, &places, &at_most());
    }
    pieces.retain(|_, stores| is_durable(copies, &places, &repository.names_of(stores)));
    add_pieces(repository, source, &mut log, pieces).await;
    let forked = forked(repository, source, &records, &anchors.durable).await;
    let mut reader = Reader { repository, source, records, read: BTreeSet::new() };
    // What they hold together was read already.
    reader.read.extend(
        log.files
            .keys()
            .filter(|file| matches!(file, LogFile::Partial(_)))
            .filter(|file| !reader.records.contains_key(file)),
    );
    reader.read_histories(&mut log).await;
    reader.read_end(&mut log, &anchors.durable, timeline).await;
    LogSeen { log, anchors, all_asked: silent.is_empty(), forked }
}

/// The segments from the newest durable snapshot on that were stored with different contents: no restore goes past one.
async fn forked(repository: &Repository, source: &SourceName, records: &Records, durable: &LogRange) -> Vec<LogFile> {
    let first = durable.start.0 / durable.segment_bytes;
    let matters = |file: &LogFile| match file {
        LogFile::Segment(name) => name.number(durable.segment_bytes).is_some_and(|number| number >= first),
        LogFile::History(_) => true,
        _ => false,
    };
    let twice = records.iter().rev().filter(|(file, ids)| ids.len() > 1 && matters(file)).take(TWICE_STORED_MAX);
    let twice: Vec<(&LogFile, &BTreeMap<LogRecordId, BTreeSet<usize>>)> = twice.collect();
    let wanted = twice.iter().flat_map(|(_, ids)| ids.iter()).map(|(id, stores)| (*id, stores.clone())).collect();
    let survey = repository.read_log_records(source, wanted).await;
    let forks = forks(survey.records.values().map(|held| &held.signed.record));
    let forked = forks.into_iter().filter(|fork| fork.certain && matters(&fork.file));
    forked.map(|fork| fork.file).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The names of the log on each store, relative to the source's folder; `None` where it could not be asked.
async fn names(
    repository: &Repository,
    survey: &Survey<'_>,
    source: &SourceName,
) -> Vec<Option<BTreeMap<String, u64>>> {
    let listing = |(at, status): (usize, StoreStatus)| async move {
        match status {
            StoreStatus::Ready => repository.list_log_on(at, source, None).await.ok(),
            _ => None,
        }
    };
    join_all(survey.statuses().into_iter().enumerate().map(listing)).await
}

/// The files of a system by name.
fn collected(
    repository: &Repository,
    names: &[Option<BTreeMap<String, u64>>],
    system: u64,
    segment_bytes: u64,
) -> (StoredLog, Records, Pieces) {
    let mut log = StoredLog { system, segment_bytes, files: BTreeMap::new() };
    let (mut records, mut pieces) = (Records::new(), Pieces::new());
    for (at, names) in names.iter().enumerate() {
        let files = committed(names.iter().flat_map(BTreeMap::keys).map(String::as_str));
        for (file, id) in files.into_iter().filter(|(_, id)| id.history.system == system) {
            if let LogFile::Piece(..) = file {
                pieces.entry(id).or_default().insert(at);
                continue;
            }
            let stored: &mut StoredFile = log.files.entry(file).or_default();
            stored.stores.insert(repository.stores[at].name().to_owned());
            records.entry(file).or_default().entry(id).or_default().insert(at);
        }
    }
    (log, records, pieces)
}

/// Adds what pieces hold together of the last segment of each timeline.
async fn add_pieces(repository: &Repository, source: &SourceName, log: &mut StoredLog, mut pieces: Pieces) {
    let segment = |file: LogFile| if let LogFile::Piece(name, _) = file { Some(name) } else { None };
    let mut last: BTreeMap<u32, SegmentName> = BTreeMap::new();
    for name in pieces.keys().filter_map(|id| segment(id.first)) {
        let newest = last.entry(name.timeline).or_insert(name);
        *newest = (*newest).max(name);
    }
    last.retain(|_, name| !log.files.contains_key(&LogFile::Segment(*name)));
    pieces.retain(|id, _| segment(id.first).is_some_and(|name| last.get(&name.timeline) == Some(&name)));
    let survey = repository.read_log_records(source, pieces).await;
    let stored = survey.records.values().flat_map(|held| {
        let record = &held.signed.record;
        let stores = repository.names_of(&held.stores);
        let stored = move |facts| StoredFile { stores: stores.clone(), durable: true, facts };
        record.files.iter().map(move |entry| (record.object(entry), stored(entry.facts.clone())))
    });
    log.add_pieces(&stored.collect::<Vec<_>>());
}

struct Reader<'a> {
    repository: &'a Repository,
    source: &'a SourceName,
    records: Records,
    read: BTreeSet<LogFile>,
}

impl Reader<'_> {
    /// Reads what files hold; a file whose record nobody accepts is not there. Says whether all were.
    async fn read(&mut self, log: &mut StoredLog, files: &[LogFile]) -> bool {
        let mut wanted: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
        for (id, stores) in files.iter().filter_map(|file| self.records.get(file)).flatten() {
            wanted.entry(*id).or_default().extend(stores);
        }
        let survey = self.repository.read_log_records(self.source, wanted).await;
        let mut all = true;
        for file in files {
            self.read.insert(*file);
            let entries = survey.records.values().flat_map(|held| &held.signed.record.files);
            match (entries.into_iter().find(|entry| entry.file == *file), log.files.get_mut(file)) {
                (Some(entry), Some(stored)) => stored.facts = entry.facts.clone(),
                _ => {
                    log.files.remove(file);
                    all = false;
                }
            }
        }
        all
    }

    async fn read_histories(&mut self, log: &mut StoredLog) {
        let is_history = |file: &&LogFile| matches!(file, LogFile::History(_));
        let files: Vec<LogFile> = log.files.keys().filter(is_history).copied().collect();
        self.read(log, &files).await;
    }

    /// Goes back from the end to the newest segments that tell a time.
    async fn read_end(&mut self, log: &mut StoredLog, range: &LogRange, timeline: Option<u32>) {
        for _ in 0..ROUNDS_MAX {
            let Some(covered) = log.covered(range, timeline) else { return };
            let ahead = covered.segments.last().and_then(|last| last.next(log.segment_bytes));
            let ahead = ahead.map(LogFile::Partial).filter(|file| log.files.contains_key(file));
            let whole = covered.segments.iter().rev().map(|name| LogFile::Segment(*name));
            let tells = |file: &LogFile| log.files.get(file).is_some_and(|stored| stored.facts.last_time.is_some());
            // Everything behind the first that tells a time was read, and is all that matters.
            let mut unread = Vec::new();
            for file in ahead.into_iter().chain(whole) {
                if self.read.contains(&file) {
                    if tells(&file) {
                        break;
                    }
                } else {
                    unread.push(file);
                }
                if unread.len() == READ_AT_ONCE {
                    break;
                }
            }
            if unread.is_empty() {
                return;
            }
            self.read(log, &unread).await;
        }
    }
}
