//! The moments that can be brought back, and the holes between them.
//!
//! Of a source whose changes are not shipped between snapshots, every snapshot is a point and nothing between two is. Of
//! one with a log, all moments of its windows are.

use crate::{
    config::Settings,
    core::{
        coverage::{Anchor, LogHistory, StoredFile, StoredLog},
        failure::Failure,
        id::SourceName,
        log::{LogFile, LogObject},
        policy::{Copies, is_durable},
        result::{Gap, ListResult, Point, PointsResult, PointsSchema, SnapshotEntry, SourcePoints, Window},
        time::Timestamp,
        verdicts::overdue_after,
    },
    ops::runs,
    repository::{
        Repository,
        log::{LogNames, LogSurvey, RefusedLog},
    },
};
use futures_util::future::join_all;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Finds the points on the stores; `settings` say what counts as a gap.
pub async fn points(
    repository: &Repository,
    settings: Option<&Settings>,
    source: Option<&SourceName>,
    now: Timestamp,
) -> Result<PointsResult, Failure> {
    let list = runs::list_snapshots(repository, settings, source).await?;
    let intervals = settings.map(intervals_of).unwrap_or_default();
    let mut logs: BTreeMap<SourceName, Vec<Anchor>> = BTreeMap::new();
    for snapshot in &list.snapshots {
        if let Some(range) = &snapshot.log {
            let anchor = Anchor { snapshot: snapshot.id(), range: range.clone() };
            logs.entry(snapshot.source.clone()).or_default().push(anchor);
        }
    }
    let mut result = from_list(list, &intervals, now);
    let copies = settings.map(runs::copies_of).unwrap_or_default();
    for (source, anchors) in logs {
        let log = LogListing::read(repository, &source).await;
        result.warnings.extend(log.warnings(repository, &source));
        let histories = log.histories(repository, copies.get(&source), &anchors);
        result.sources.iter_mut().filter(|of| of.source == source).for_each(|of| of.log.clone_from(&histories));
    }
    Ok(result)
}

/// The log of a source. Every record is read: what nobody signed is not there.
struct LogListing {
    /// A store that does not answer is told of where its snapshots were looked for.
    names: LogNames,
    survey: LogSurvey,
}

impl LogListing {
    async fn read(repository: &Repository, source: &SourceName) -> Self {
        let listed = join_all((0..repository.stores.len()).map(|at| repository.log_names_on(at, source, None))).await;
        let names = LogNames { stores: listed };
        LogListing { survey: repository.read_log_records(source, names.records()).await, names }
    }

    fn warnings(&self, repository: &Repository, source: &SourceName) -> Vec<String> {
        let warning = |refused: &RefusedLog| {
            let (store, file) = (repository.stores[refused.store].name(), refused.id.first);
            format!("{source}: the record of {file} on store {store} is not accepted: {}", refused.why)
        };
        self.survey.refused.iter().map(warning).collect()
    }

    fn histories(&self, repository: &Repository, copies: Option<&Copies>, anchors: &[Anchor]) -> Vec<LogHistory> {
        let mut logs: BTreeMap<u64, StoredLog> = BTreeMap::new();
        let sizes = anchors.iter().map(|anchor| (anchor.range.history.system, anchor.range.segment_bytes));
        let records = || self.survey.records.values().map(|held| &held.signed.record);
        for (system, segment_bytes) in
            sizes.chain(records().map(|record| (record.history.system, record.segment_bytes)))
        {
            logs.entry(system).or_insert_with(|| StoredLog { system, segment_bytes, files: BTreeMap::new() });
        }
        let mut pieces: BTreeMap<u64, Vec<(LogObject, StoredFile)>> = BTreeMap::new();
        for held in self.survey.records.values() {
            let record = &held.signed.record;
            let Some(log) = logs.get_mut(&record.history.system) else { continue };
            for entry in &record.files {
                let stores = repository.names_of(&self.names.holding(held, entry));
                if let (LogFile::Piece(..), false) = (entry.file, stores.is_empty()) {
                    let stored = StoredFile { stores, durable: false, facts: entry.facts.clone() };
                    pieces.entry(log.system).or_default().push((record.object(entry), stored));
                } else if !stores.is_empty() {
                    let stored = log.files.entry(entry.file).or_default();
                    stored.facts = entry.facts.clone();
                    stored.stores.extend(stores);
                }
            }
        }
        let silent = std::iter::zip(&repository.stores, &self.names.stores).filter(|(_, names)| names.is_err());
        let silent: BTreeSet<String> = silent.map(|(store, _)| store.name().to_owned()).collect();
        let places = repository.places();
        // What does not answer may hold it.
        let is_durable = |stored: &StoredFile| {
            let at_most = stored.stores.union(&silent).cloned().collect();
            copies.is_none_or(|copies| is_durable(copies, &places, &at_most))
        };
        for stored in logs.values_mut().flat_map(|log| log.files.values_mut()) {
            stored.durable = is_durable(stored);
        }
        for (system, mut pieces) in pieces {
            pieces.iter_mut().for_each(|(_, stored)| stored.durable = is_durable(stored));
            logs.entry(system).and_modify(|log| log.add_pieces(&pieces));
        }
        logs.values().flat_map(|log| log.histories(anchors)).collect()
    }
}

/// The most time that may lie between two points of each source: the schedule's interval with its play, or what may be
/// lost.
fn intervals_of(settings: &Settings) -> BTreeMap<SourceName, Duration> {
    let interval = |source: &crate::config::SourceSettings| {
        let policy = settings.policy(source);
        let interval = policy.incremental_interval.map(overdue_after).or(policy.rpo)?;
        Some((source.name.clone(), interval))
    };
    settings.sources.iter().filter_map(interval).collect()
}

fn from_list(list: ListResult, intervals: &BTreeMap<SourceName, Duration>, now: Timestamp) -> PointsResult {
    let ListResult { snapshots, warnings, nobody_trusted, known_missing, .. } = list;
    let mut by_source: BTreeMap<SourceName, Vec<SnapshotEntry>> = BTreeMap::new();
    for snapshot in snapshots {
        by_source.entry(snapshot.source.clone()).or_default().push(snapshot);
    }
    let sources = by_source.into_iter().map(|(source, mut snapshots)| {
        snapshots.sort_by_key(|snapshot| (snapshot.read_started_at, snapshot.id()));
        let interval = intervals.get(&source).copied();
        points_of(source, &snapshots, interval, now)
    });
    let sources = sources.collect();
    PointsResult { schema: PointsSchema, checked_at: now, sources, warnings, nobody_trusted, known_missing }
}

fn points_of(
    source: SourceName,
    snapshots: &[SnapshotEntry],
    interval: Option<Duration>,
    now: Timestamp,
) -> SourcePoints {
    let is_gap = |seconds: f64| interval.is_some_and(|interval| seconds > interval.as_secs_f64());
    let mut found = SourcePoints {
        source,
        interval_seconds: interval.map(|interval| interval.as_secs()),
        points: Vec::new(),
        windows: Vec::new(),
        gaps: Vec::new(),
        log: Vec::new(),
    };
    for (index, snapshot) in snapshots.iter().enumerate() {
        let at = snapshot.read_started_at;
        let previous = index.checked_sub(1).map(|before| snapshots[before].read_started_at);
        let since = previous.map(|previous| at.seconds_since(previous));
        let after_gap = since.is_some_and(is_gap);
        if let (Some(from), Some(seconds), true) = (previous, since, after_gap) {
            found.gaps.push(Gap { from, to: Some(at), seconds: seconds as u64 });
        }
        match found.windows.last_mut() {
            Some(window) if !after_gap => (window.to, window.points) = (at, window.points + 1),
            _ => found.windows.push(Window { from: at, to: at, points: 1 }),
        }
        found.points.push(Point {
            snapshot: snapshot.id(),
            at,
            selected_until: snapshots.get(index + 1).map(|next| next.read_started_at),
            since_previous_seconds: since.map(|seconds| seconds as u64),
            after_gap,
            durability: snapshot.durability,
            stores: snapshot.stores.clone(),
            holds: snapshot.holds.clone(),
        });
    }
    let since_last = snapshots.last().map(|last| (last.read_started_at, now.seconds_since(last.read_started_at)));
    if let Some((from, seconds)) = since_last.filter(|(_, seconds)| is_gap(*seconds)) {
        found.gaps.push(Gap { from, to: None, seconds: seconds as u64 });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{inventory::Kind, result::Durability};

    fn snapshot(seq: u64, minute: u32) -> SnapshotEntry {
        let at: Timestamp = format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap();
        SnapshotEntry {
            source: "ledger".parse().unwrap(),
            seq,
            run: "aaaaaaaaaaaaaaaa".parse().unwrap(),
            kind: Kind::Full,
            created_at: at,
            position: String::new(),
            durable: true,
            bytes_raw: 0,
            bytes_stored: 0,
            stores: Vec::new(),
            holds: Vec::new(),
            read_started_at: at,
            durability: Durability::Durable,
            log: None,
        }
    }

    fn points(minutes: &[u32], interval_minutes: Option<u64>, now: u32) -> SourcePoints {
        let snapshots: Vec<_> = (1..).zip(minutes).map(|(seq, minute)| snapshot(seq, *minute)).collect();
        let now = snapshot(99, now).read_started_at;
        let interval = interval_minutes.map(|minutes| Duration::from_secs(60 * minutes));
        points_of("ledger".parse().unwrap(), &snapshots, interval, now)
    }

    #[test]
    fn windows_and_gaps() {
        for (minutes, interval, now, windows, gaps) in [
            (&[0, 5, 10][..], Some(5), 12, &[3][..], &[][..]),
            (&[0, 5, 20, 25], Some(5), 30, &[2, 2], &[900]),
            (&[0, 5], Some(5), 40, &[2], &[2100]),
            (&[0, 30], None, 59, &[2], &[]),
            (&[0], Some(5), 0, &[1], &[]),
            (&[], Some(5), 0, &[], &[]),
        ] {
            let found = points(minutes, interval, now);
            let sizes: Vec<u64> = found.windows.iter().map(|window| window.points).collect();
            let holes: Vec<u64> = found.gaps.iter().map(|gap| gap.seconds).collect();
            assert_eq!((&sizes[..], &holes[..]), (windows, gaps), "{minutes:?}");
        }
    }

    #[test]
    fn a_target_means_the_point_before_it() {
        let found = points(&[0, 5], Some(5), 6);
        assert_eq!(found.points[0].selected_until, Some(found.points[1].at));
        assert_eq!(found.points[1].selected_until, None);
        assert_eq!(found.points[1].since_previous_seconds, Some(300));
    }
}
