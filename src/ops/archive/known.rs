//! What the stores hold already, where this host has no note of it.

use super::{
    ship::Way,
    state::{ArchiveState, Kept},
};
use crate::{
    core::{
        failure::Failure,
        id::RunId,
        log::{HistoryId, LogFile, LogRecordId, SegmentName},
    },
    ops::state::SourceState,
    repository::log::LogNames,
    sources::postgres,
    world::Stopwatch,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long stores may take to list once enough others have.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the stores hold of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The same content, and enough stores hold it.
    Durable,
    /// Nothing that settles it: it is stored anew.
    No,
    /// Another content, stored by a run.
    Other(String),
}

impl Way<'_> {
    /// Lists the log. A store that hangs is not waited for once enough others have answered.
    pub(super) async fn names(&self, history: Option<HistoryId>, asked: &BTreeSet<String>) -> LogNames {
        let stores = &self.host.repository.stores;
        let unasked = "it was not asked, or did not answer in time".to_owned();
        let mut names = LogNames { stores: vec![Err(unasked); stores.len()] };
        let asking = stores.iter().enumerate().filter(|(_, store)| asked.contains(store.name()));
        let listings = asking
            .map(|(at, _)| async move { (at, self.host.repository.log_names_on(at, self.source, history).await) });
        let mut listings: FuturesUnordered<_> = listings.collect();
        let watch = Stopwatch::start();
        loop {
            let held: BTreeSet<String> = std::iter::zip(stores, &names.stores)
                .filter(|(_, names)| names.is_ok())
                .map(|(store, _)| store.name().to_owned())
                .collect();
            let next = if self.is_enough(&held) {
                let left = PATIENCE.saturating_sub(watch.elapsed());
                tokio::time::timeout(left, listings.next()).await.unwrap_or(None)
            } else {
                listings.next().await
            };
            let Some((at, listed)) = next else { return names };
            names.stores[at] = listed;
        }
    }

    /// Finds out what the stores hold of a file that nothing is noted of.
    pub(super) async fn stored(
        &self,
        history: HistoryId,
        file: LogFile,
        tag: impl Fn() -> Result<String, Failure>,
        names: &LogNames,
    ) -> Result<Stored, Failure> {
        let files = names.files();
        let mut records = names.records();
        records.retain(|id, _| id.history == history && files.contains(&(history, file, id.run)));
        let survey = self.host.repository.read_log_records(self.source, records).await;
        let is_enough = |stores: &BTreeSet<usize>| self.is_enough(&self.host.repository.names_of(stores));
        let tag = if survey.records.is_empty() { None } else { Some(tag()?) };
        let mut stored = Stored::No;
        for held in survey.records.values() {
            let record = &held.signed.record;
            let Some(entry) = record.files.iter().find(|entry| entry.file == file) else { continue };
            match &entry.content_tag {
                Some(other) if Some(other) != tag.as_ref() => return Ok(Stored::Other(record.run.to_string())),
                Some(_) if is_enough(&names.holding(held, entry)) => stored = Stored::Durable,
                // Whether it is the same, nobody can tell: it is stored again, and both are kept.
                _ => {}
            }
        }
        Ok(stored)
    }

    /// Whether every store answers and none shows a file that was durable once: then a prune has taken it away.
    pub(super) async fn is_pruned(&self, history: HistoryId, file: LogFile) -> bool {
        let stores = &self.host.repository.stores;
        let all = stores.iter().map(|store| store.name().to_owned()).collect();
        let names = self.names(Some(history), &all).await;
        names.answered() == stores.len() && names.files().iter().all(|(_, shown, _)| *shown != file)
    }

    /// The system whose snapshots this host has taken, where no log says whose it is.
    pub(super) fn system_of_snapshots(&self) -> Option<u64> {
        let directory = self.host.source_state_dir(self.source);
        let base = SourceState::read_only(directory, self.host.repository.id).base().ok()?;
        postgres::system_of_snapshot(&base.fingerprint?)
    }

    /// Learns from the stores what lost state knew: the system, and how far its log goes.
    pub(super) async fn relearn(&self, kept: &mut Kept, asked: &BTreeSet<String>) {
        let names = self.names(None, asked).await;
        let mut newest: BTreeMap<HistoryId, (LogRecordId, BTreeSet<usize>)> = BTreeMap::new();
        for (id, stores) in names.records() {
            let of_history = newest.entry(id.history).or_insert_with(|| (id, stores.clone()));
            if id.first > of_history.0.first {
                *of_history = (id, stores);
            }
        }
        let survey = self.host.repository.read_log_records(self.source, newest.into_values().collect()).await;
        let records = survey.records.values().map(|held| &held.signed.record);
        // After a new history was opened, the older one goes on nowhere.
        kept.state.system = records.max_by_key(|record| record.created_at).map(|record| record.history.system);
        let system = kept.state.system;
        let of_system =
            |(history, file, _): (HistoryId, LogFile, RunId)| (Some(history.system) == system).then_some(file);
        note_highest(&mut kept.state, names.files().into_iter().filter_map(of_system));
    }
}

fn note_highest(state: &mut ArchiveState, files: impl Iterator<Item = LogFile>) {
    for file in files {
        if let LogFile::Segment(name) = file {
            let highest: &mut SegmentName = state.highest.entry(name.timeline).or_insert(name);
            *highest = (*highest).max(name);
        }
    }
}
