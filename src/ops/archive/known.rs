//! What the stores hold already, where this host has no note of it.

use super::{
    ship::{Shipped, Way, not_durable},
    state::{ArchiveState, Kept},
};
use crate::{
    core::{
        failure::Failure,
        id::RunId,
        log::{HistoryId, LogFile, LogRecordId, SegmentName},
        prune::{CondemnedLogs, CondemnedSet, PruneRecord, Stage},
    },
    ops::state::SourceState,
    repository::log::LogNames,
    sources::postgres,
    world::Stopwatch,
};
use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How long stores may take to list once enough others have.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many records are read at once where one that is believed is enough.
const AT_ONCE: usize = 8;

/// What the stores hold of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// The same content, and enough stores hold it, and no prune takes it away.
    Durable,
    /// The same content, on too few stores or condemned: it is stored anew.
    Same,
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

    /// Finds out what the stores hold of a file. What a plan condemns or has deleted counts as held nowhere, wherever it
    /// still lies; its content counts.
    pub(super) async fn stored(
        &self,
        history: HistoryId,
        file: LogFile,
        tag: impl Fn() -> Result<String, Failure>,
        names: &LogNames,
        condemned: &CondemnedLogs,
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
            let is_held = || !condemned.has(history, file, record.run) && is_enough(&names.holding(held, entry));
            match &entry.content_tag {
                Some(other) if Some(other) != tag.as_ref() => return Ok(Stored::Other(record.run.to_string())),
                Some(_) if stored == Stored::Durable || is_held() => stored = Stored::Durable,
                Some(_) => stored = Stored::Same,
                // Whether it is the same, nobody can tell: it is stored again, and both are kept.
                None => {}
            }
        }
        Ok(stored)
    }

    /// Notes up to where plans of prunes reach. Only those are read that this host has not seen: every one is on all
    /// stores before anything is deleted.
    pub(super) async fn note_plans(
        &self,
        kept: &mut Kept,
        file: LogFile,
        asked: &BTreeSet<String>,
    ) -> Result<(), Failure> {
        let records = self.plans(file, asked, Some(&kept.state.condemned.plans)).await?;
        for record in records {
            kept.state.condemned.note(record.plan, &record.condemned.log);
            kept.state.condemned.note(record.plan, &record.dropped.log);
        }
        Ok(())
    }

    /// What plans condemn of the log, and what of it executed ones have deleted, with the lists of both. They are read
    /// only where it matters.
    pub(super) async fn condemned(
        &self,
        file: LogFile,
        asked: &BTreeSet<String>,
    ) -> Result<(CondemnedLogs, CondemnedLogs), Failure> {
        let (mut all, mut deleted) = (CondemnedSet::default(), CondemnedSet::default());
        for record in self.plans(file, asked, None).await? {
            all.add(&record.condemned);
            // Whoever counts a snapshot does not trust it any more, either: it may have been deleted before it was dropped.
            all.add(&record.dropped);
            if record.stage == Stage::Executed {
                deleted.add(&record.condemned);
            }
        }
        Ok((all.logs, deleted.logs))
    }

    /// The plans that some stores show, but those that are known; all of them with their lists, where none is. Fails
    /// unless enough stores can be read.
    async fn plans(
        &self,
        file: LogFile,
        asked: &BTreeSet<String>,
        known: Option<&BTreeSet<RunId>>,
    ) -> Result<Vec<PruneRecord>, Failure> {
        let (mut shipped, mut found) = (Shipped::default(), Vec::new());
        let repository = &self.host.repository;
        let stores = repository.stores.iter().enumerate().filter(|(_, store)| asked.contains(store.name()));
        let answers = stores.map(|(at, store)| async move {
            let read = match known {
                Some(known) => repository.new_prunes(at, self.source, known).await,
                None => repository.unknown_prunes(at, self.source, &BTreeSet::new()).await,
            };
            (store.name().to_owned(), read)
        });
        for (store, answer) in join_all(answers).await {
            match answer {
                Ok(records) => {
                    shipped.stores.insert(store);
                    found.extend(records);
                }
                Err(why) => drop(shipped.behind.insert(store, format!("its prune plans cannot be read: {why}"))),
            }
        }
        if self.is_enough(&shipped.stores) { Ok(found) } else { Err(not_durable(self.source, file, &shipped)) }
    }

    /// A later segment of the same history that the stores hold, as a believed record says.
    pub(super) async fn later(&self, history: HistoryId, name: SegmentName, names: &LogNames) -> Option<LogFile> {
        let is_later = |of: HistoryId, file: LogFile| {
            of == history && matches!(file, LogFile::Segment(other) if other.timeline == name.timeline && other > name)
        };
        let runs: BTreeSet<RunId> =
            names.files().into_iter().filter(|(of, file, _)| is_later(*of, *file)).map(|(_, _, run)| run).collect();
        let mut records: Vec<_> = names.records().into_iter().collect();
        records.retain(|(id, _)| id.history == history && runs.contains(&id.run));
        // The first that is believed is enough.
        for chunk in records.chunks(AT_ONCE) {
            let survey = self.host.repository.read_log_records(self.source, chunk.iter().cloned().collect()).await;
            let files = survey.records.values().flat_map(|held| &held.signed.record.files).map(|entry| entry.file);
            if let Some(later) = files.filter(|file| is_later(history, *file)).min() {
                return Some(later);
            }
        }
        None
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
