//! Pieces whose whole segment is durable: nobody asks for them any more.
//!
//! Where a segment was stored by several runs, nobody here says which of them the pieces are the beginning of: they stay
//! until the segment goes.

use super::{Bounds, CHUNK, Gathered, LogName};
use crate::{
    core::{
        id::RunId,
        log::{HistoryId, LogFile, LogRecordId, SegmentName},
        policy::is_durable,
        prune::{Condemned, CondemnedLog, CondemnedSet, LogBound, end_of},
    },
    ops::host::{Host, Protected},
    repository::{layout, log::LogSurvey},
};
use std::collections::{BTreeMap, BTreeSet};

/// A segment of a history.
type Of = (HistoryId, SegmentName);
/// By run: the stores that show a file whole, each with its size.
type Copies = BTreeMap<RunId, BTreeMap<usize, u64>>;

/// Pieces of a run.
#[derive(Debug, Default)]
struct PieceRun {
    segments: BTreeSet<SegmentName>,
    files: BTreeMap<LogFile, u64>,
}

/// Finds the pieces that go.
pub(super) async fn find(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    (gone, bounds): (&CondemnedSet, &Bounds),
    room: usize,
) -> Vec<CondemnedLog> {
    let mut runs: BTreeMap<(HistoryId, RunId), PieceRun> = BTreeMap::new();
    for (_, named) in gathered.log_names() {
        let LogName::File(history, file @ LogFile::Piece(name, _), run, size) = named else { continue };
        // What lies before all that is needed goes with the rest of it.
        if !gone.logs.has(history, file, run) && !bounds.may_go(history, file) {
            let of_run = runs.entry((history, run)).or_default();
            of_run.segments.insert(name);
            of_run.files.insert(file, size);
        }
    }
    let wanted: BTreeSet<Of> =
        runs.iter().flat_map(|((history, _), of)| of.segments.iter().map(|name| (*history, *name))).collect();
    let whole = durable_segments(host, protected, gathered, &wanted).await;
    let mut parts: BTreeMap<(HistoryId, u64), CondemnedLog> = BTreeMap::new();
    for ((history, run), of_run) in runs {
        if parts.values().map(|part| part.runs.len()).sum::<usize>() >= room {
            break;
        }
        let sizes = of_run.segments.iter().map(|name| whole.get(&(history, *name)).copied());
        let Some(sizes) = sizes.collect::<Option<BTreeSet<u64>>>() else { continue };
        let (Some(bytes), 1) = (sizes.first(), sizes.len()) else { continue };
        let ends = of_run.files.keys().map(|file| end_of(*file, *bytes));
        let Some(end) = ends.collect::<Option<BTreeSet<_>>>().and_then(|ends| ends.last().copied()) else { continue };
        let part = parts.entry((history, *bytes)).or_insert_with(|| CondemnedLog {
            history,
            segment_bytes: *bytes,
            bound: LogBound::PiecesBefore(end),
            files: 0,
            bytes: 0,
            runs: Vec::new(),
        });
        part.bound = part.bound.max(LogBound::PiecesBefore(end));
        part.runs.push(run);
        part.files += of_run.files.len() as u64;
        part.bytes += of_run.files.values().sum::<u64>();
    }
    parts.into_values().collect()
}

/// Those of some segments that one run alone has stored, and enough stores hold; with their size.
async fn durable_segments(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    wanted: &BTreeSet<Of>,
) -> BTreeMap<Of, u64> {
    let copies = copies_of(gathered, wanted);
    let runs: BTreeMap<(HistoryId, RunId), Vec<SegmentName>> = runs_of(&copies);
    let mut records: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
    for (at, named) in gathered.log_names() {
        let LogName::Record(id) = named else { continue };
        if runs.contains_key(&(id.history, id.run)) && !matches!(id.first, LogFile::Piece(..)) {
            records.entry(id).or_default().insert(at);
        }
    }
    let mut durable = BTreeMap::new();
    let records: Vec<_> = records.into_iter().collect();
    for chunk in records.chunks(CHUNK) {
        let survey =
            host.repository.read_log_records(&gathered.catalogue.source, chunk.iter().cloned().collect()).await;
        add_durable(host, protected, gathered, (&copies, &survey), &mut durable);
    }
    durable
}

fn add_durable(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    (copies, survey): (&BTreeMap<Of, Copies>, &LogSurvey),
    durable: &mut BTreeMap<Of, u64>,
) {
    let places = host.repository.places();
    for held in survey.records.values() {
        let record = &held.signed.record;
        for entry in &record.files {
            let LogFile::Segment(name) = entry.file else { continue };
            let of = (record.history, name);
            let Some((run, shown)) = only(copies.get(&of)) else { continue };
            let object = layout::log_file(record.history, entry.file, run);
            let is_whole = |at: &&usize| {
                let store = host.repository.stores[**at].name();
                shown.get(at) == Some(&entry.size) && !gathered.is_damaged(store, &object)
            };
            let stores: BTreeSet<usize> = held.stores.iter().filter(is_whole).copied().collect();
            if run == record.run && is_durable(&protected.policy.copies, &places, &host.repository.names_of(&stores)) {
                durable.insert(of, record.segment_bytes);
            }
        }
    }
}

fn copies_of(gathered: &Gathered, wanted: &BTreeSet<Of>) -> BTreeMap<Of, Copies> {
    let mut copies: BTreeMap<Of, Copies> = BTreeMap::new();
    for (at, named) in gathered.log_names() {
        if let LogName::File(history, LogFile::Segment(name), run, size) = named
            && wanted.contains(&(history, name))
        {
            copies.entry((history, name)).or_default().entry(run).or_default().insert(at, size);
        }
    }
    copies
}

fn runs_of(copies: &BTreeMap<Of, Copies>) -> BTreeMap<(HistoryId, RunId), Vec<SegmentName>> {
    let mut runs: BTreeMap<(HistoryId, RunId), Vec<SegmentName>> = BTreeMap::new();
    for ((history, name), copies) in copies {
        if let Some((run, _)) = only(Some(copies)) {
            runs.entry((*history, run)).or_default().push(*name);
        }
    }
    runs
}

fn only(copies: Option<&Copies>) -> Option<(RunId, &BTreeMap<usize, u64>)> {
    let mut copies = copies?.iter();
    match (copies.next(), copies.next()) {
        (Some((run, shown)), None) => Some((*run, shown)),
        _ => None,
    }
}

/// Whether enough stores still show the segments that the pieces of a part are of, by their names.
pub(in crate::ops::prune) fn are_superseded(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    part: &CondemnedLog,
) -> bool {
    let mut set = CondemnedSet::default();
    set.add(&Condemned { log: vec![part.clone()], ..Condemned::default() });
    let piece_of = |named: LogName| match named {
        LogName::File(history, file @ LogFile::Piece(name, _), run, _) if set.logs.has(history, file, run) => {
            Some((history, name))
        }
        _ => None,
    };
    let wanted: BTreeSet<Of> = gathered.log_names().filter_map(|(_, named)| piece_of(named)).collect();
    let copies = copies_of(gathered, &wanted);
    let runs = runs_of(&copies);
    let records: BTreeSet<(HistoryId, RunId, usize)> = gathered
        .log_names()
        .filter_map(|(at, named)| match named {
            LogName::Record(id) if runs.contains_key(&(id.history, id.run)) => Some((id.history, id.run, at)),
            _ => None,
        })
        .collect();
    let places = host.repository.places();
    wanted.iter().all(|of| {
        let Some((run, shown)) = only(copies.get(of)) else { return false };
        let object = layout::log_file(of.0, LogFile::Segment(of.1), run);
        let is_whole = |at: &&usize| {
            records.contains(&(of.0, run, **at)) && !gathered.is_damaged(host.repository.stores[**at].name(), &object)
        };
        let stores = shown.keys().filter(is_whole).copied().collect();
        is_durable(&protected.policy.copies, &places, &host.repository.names_of(&stores))
    })
}
