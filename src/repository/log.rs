//! The log on the stores: sealed files, and the signed records that commit them.
//!
//! A record is believed where a trusted signer signed it for this source, and where it lies in the place that its
//! content names. Where two stores show one record, either will do: both were signed.

use super::{
    Repository,
    catalogue::{Catalogue, Needed, Refusal},
    fetch::{Detours, NowhereIntact, problem_of},
    head, layout,
};
use crate::{
    core::{
        id::{RunId, Sha256, SourceName},
        log::{
            HistoryId, LogEntry, LogFile, LogFork, LogObject, LogRange, LogRecord, LogRecordId, Lsn, SegmentName, forks,
        },
        prune::CondemnedLogs,
        result::Problem,
    },
    format::{self, log as log_format, signature, signers},
    stores::{LARGE_BYTES, Store, StoreError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// How many records are asked for at once.
const CONCURRENT_READS: usize = 16;
/// How long one store may take before the next one is asked for the same object, too. What is only looked at, and fills
/// no memory, is given as long for every part of it.
const PATIENCE: Duration = Duration::from_secs(2);

/// A record that a trusted signer signed.
#[derive(Clone, Debug)]
pub struct SignedLog {
    /// What it says.
    pub record: LogRecord,
    /// The exact bytes of its object.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256,
}

impl SignedLog {
    /// Everything that the record needs on a store, and itself last: its existence is the commit.
    pub fn needed(&self) -> Vec<Needed> {
        let record = &self.record;
        let file = |entry: &LogEntry| Needed {
            name: layout::log_file(record.history, entry.file, record.run),
            size: Some(entry.size),
            sha256: entry.sha256,
        };
        let own = record.id().map(|id| Needed {
            name: layout::log_record(id),
            size: Some(self.bytes.len() as u64),
            sha256: self.sha256,
        });
        record.files.iter().map(file).chain(own).collect()
    }
}

/// A record, and the positions of the stores that show it.
#[derive(Clone, Debug)]
pub struct HeldLog {
    /// The record.
    pub signed: SignedLog,
    /// Stores that show an object of its name.
    pub stores: BTreeSet<usize>,
}

/// What was not accepted as a record.
#[derive(Clone, Debug)]
pub struct RefusedLog {
    /// The position of the store that it lies on.
    pub store: usize,
    /// What it claims to be.
    pub id: LogRecordId,
    /// Why it is not accepted.
    pub why: Refusal,
}

/// What the stores hold of the log of a source.
#[derive(Clone, Debug, Default)]
pub struct LogSurvey {
    /// Records that are believed.
    pub records: BTreeMap<LogRecordId, HeldLog>,
    /// What was not accepted.
    pub refused: Vec<RefusedLog>,
}

impl LogSurvey {
    /// Files that were stored several times without their contents being known to be equal.
    pub fn forks(&self) -> Vec<LogFork> {
        forks(self.records.values().map(|held| &held.signed.record))
    }

    /// The stores, by position, that gave the records of these files: of each the first that has it right.
    pub fn given_by(&self, files: &[LogObject]) -> BTreeSet<usize> {
        let wanted: BTreeSet<_> = files.iter().map(|object| (object.history, object.run)).collect();
        let refused: BTreeSet<_> = self.refused.iter().map(|refused| (refused.id, refused.store)).collect();
        let used = self.records.iter().filter(|(id, _)| wanted.contains(&(id.history, id.run)));
        used.filter_map(|(id, held)| held.stores.iter().copied().find(|at| !refused.contains(&(*id, *at)))).collect()
    }
}

/// The names of a log on the stores, with their sizes; relative to the source's folder.
#[derive(Clone, Debug)]
pub struct LogNames {
    /// By position of the store; `Err` says why it could not be asked.
    pub stores: Vec<Result<BTreeMap<String, u64>, String>>,
}

impl LogNames {
    /// How many stores answered.
    pub fn answered(&self) -> usize {
        self.stores.iter().filter(|names| names.is_ok()).count()
    }

    /// The records that some store shows, with the stores that show them.
    pub fn records(&self) -> BTreeMap<LogRecordId, BTreeSet<usize>> {
        let mut records: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
        for (at, names) in self.stores.iter().enumerate() {
            for id in names.iter().flat_map(BTreeMap::keys).filter_map(|name| layout::log_record_of(name)) {
                records.entry(id).or_default().insert(at);
            }
        }
        records
    }

    /// The sealed files that some store shows: of which history, and by which run.
    pub fn files(&self) -> BTreeSet<(HistoryId, LogFile, RunId)> {
        let names = self.stores.iter().flatten().flat_map(BTreeMap::keys);
        names.filter_map(|name| layout::log_file_of(name)).collect()
    }

    /// The stores that show a record and a file of it, whole by its size.
    pub fn holding(&self, held: &HeldLog, entry: &LogEntry) -> BTreeSet<usize> {
        let record = &held.signed.record;
        let name = layout::log_file(record.history, entry.file, record.run);
        let shows = |at: &usize| {
            let names = self.stores.get(*at).and_then(|names| names.as_ref().ok());
            names.is_some_and(|names| names.get(&name) == Some(&entry.size))
        };
        held.stores.iter().copied().filter(shows).collect()
    }
}

/// The files that are committed by the names that one store shows, each with its record: a sealed file counts once its
/// record is there.
pub fn committed<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<(LogFile, LogRecordId)> {
    let records: BTreeSet<LogRecordId> = names.clone().filter_map(layout::log_record_of).collect();
    let of_runs: BTreeMap<(HistoryId, RunId), LogRecordId> =
        records.iter().map(|id| ((id.history, id.run), *id)).collect();
    let record_of = |(history, file, run): (HistoryId, LogFile, RunId)| match file {
        // Each has a record of its own, though many are of one run.
        LogFile::Piece(..) => records.get(&LogRecordId { history, first: file, run }).copied(),
        _ => of_runs.get(&(history, run)).copied(),
    };
    names.filter_map(layout::log_file_of).filter_map(|named| Some((named.1, record_of(named)?))).collect()
}

/// Which files of its log a snapshot needs on a store, or on all of them together: its own part, without which no restore
/// begins, and, where a prune has taken or takes something that lies behind where it begins, what leads on up to there.
#[derive(Clone, Copy, Debug)]
pub struct NeededLog<'r> {
    range: &'r LogRange,
    until: Lsn,
}

impl<'r> NeededLog<'r> {
    /// The snapshot's own part.
    pub fn own(range: &'r LogRange) -> Self {
        NeededLog { range, until: Lsn(0) }
    }

    /// The same, with what leads on from it up to where something is condemned.
    ///
    /// A plan leaves no hole behind a snapshot that it has seen. Whoever begins before its bound has not been seen: what
    /// leads on may be gone, though a server has archived again what lies where the snapshot begins.
    pub fn beside(range: &'r LogRange, condemned: &CondemnedLogs) -> Self {
        NeededLog { range, until: condemned.reach(range).unwrap_or_default() }
    }

    /// The history that they are of.
    pub fn history(&self) -> HistoryId {
        self.range.history
    }

    /// Whether it needs a file.
    pub fn has(&self, file: LogFile) -> bool {
        let (range, is_of_range) = (self.range, |name: SegmentName| name.timeline == self.range.history.timeline);
        match file {
            LogFile::Segment(name) if is_of_range(name) => {
                name.number(range.segment_bytes).is_some_and(|number| range.numbers_until(self.until).contains(&number))
            }
            LogFile::History(_) => range.timeline_history() == Some(file),
            _ => false,
        }
    }

    /// Its files, in order. There may be very many where somebody says so: whoever finds one missing looks no further.
    pub fn files(&self) -> impl Iterator<Item = LogFile> + use<'r> {
        let (range, numbers) = (self.range, self.range.numbers_until(self.until));
        range.timeline_history().into_iter().chain(numbers.map(move |number| LogFile::Segment(range.segment(number))))
    }
}

/// The stores, by position, that hold each file that a snapshot needs of the log: as one of the read records says, of
/// the right size, as far as is known not damaged, and not pruned where only that store lags. Behind the snapshot's own
/// part, what comes after the first file that no store holds is not looked at.
pub fn holders_of(
    catalogue: &Catalogue,
    needed: NeededLog<'_>,
    survey: &LogSurvey,
    is_damaged: impl Fn(usize, &str) -> bool,
) -> BTreeMap<LogFile, BTreeSet<usize>> {
    let mut held: BTreeMap<LogFile, BTreeSet<usize>> = BTreeMap::new();
    let refused: BTreeSet<_> = survey.refused.iter().map(|refused| (refused.id, refused.store)).collect();
    let gone = &catalogue.tombstones.logs;
    let of_history = survey.records.iter().filter(|(id, _)| id.history == needed.range.history);
    for (id, HeldLog { signed, stores }) in of_history {
        let record_name = layout::log_record(*id);
        let is_wanted = |entry: &&LogEntry| needed.has(entry.file) && !gone.has(id.history, entry.file, id.run);
        for entry in signed.record.files.iter().filter(is_wanted) {
            let name = layout::log_file(id.history, entry.file, id.run);
            let is_right = |at: &&usize| {
                catalogue.listings[**at].objects.get(&name) == Some(&entry.size)
                    && !refused.contains(&(*id, **at))
                    && ![&name, &record_name].iter().any(|name| is_damaged(**at, name))
            };
            held.entry(entry.file).or_default().extend(stores.iter().filter(is_right));
        }
    }
    let own = NeededLog::own(needed.range);
    let mut holders = BTreeMap::new();
    for file in needed.files() {
        let stores = held.remove(&file).unwrap_or_default();
        let is_last = stores.is_empty() && !own.has(file);
        holders.insert(file, stores);
        if is_last {
            break;
        }
    }
    holders
}

impl Repository {
    /// Lists the log of a source, or one history of it, on one store that must hold this repository.
    pub async fn log_names_on(
        &self,
        store: usize,
        source: &SourceName,
        history: Option<HistoryId>,
    ) -> Result<BTreeMap<String, u64>, String> {
        if let Some(problem) = head::status(&self.stores[store], self.id).await.problem() {
            return Err(problem);
        }
        self.list_log_on(store, source, history).await.map_err(|error| head::reason(&error))
    }

    /// The same, of a store that was asked what it holds already.
    pub async fn list_log_on(
        &self,
        store: usize,
        source: &SourceName,
        history: Option<HistoryId>,
    ) -> Result<BTreeMap<String, u64>, StoreError> {
        let folder = layout::source_folder(source);
        let below = history.map_or_else(|| layout::LOG.to_owned(), layout::log_folder);
        let found = self.stores[store].list(&format!("{folder}{}", below.trim_end_matches('/'))).await?;
        let relative = |(key, size): (String, u64)| Some((key.strip_prefix(&folder)?.to_owned(), size));
        Ok(found.into_iter().filter_map(relative).collect())
    }

    /// The first file that a snapshot needs of the log of which a store shows no copy that a believed record names and that
    /// is not condemned.
    pub async fn lacking_of_log(
        &self,
        store: usize,
        source: &SourceName,
        needed: NeededLog<'_>,
        condemned: &CondemnedLogs,
    ) -> Result<Option<LogFile>, String> {
        let history = needed.range.history;
        let names = self.list_log_on(store, source, Some(history)).await.map_err(|error| head::reason(&error))?;
        let is_safe = |file: LogFile, run: RunId| needed.has(file) && !condemned.has(history, file, run);
        let of_use =
            committed(names.keys().map(String::as_str)).into_iter().filter(|(file, id)| is_safe(*file, id.run));
        let records = of_use.map(|(_, id)| (id, BTreeSet::from([store]))).collect();
        let survey = self.read_log_records(source, records).await;
        let mut held: BTreeSet<LogFile> = BTreeSet::new();
        for record in survey.records.values().map(|held| &held.signed.record) {
            let is_there = |entry: &&LogEntry| {
                is_safe(entry.file, record.run)
                    && names.get(&layout::log_file(history, entry.file, record.run)) == Some(&entry.size)
            };
            held.extend(record.files.iter().filter(is_there).map(|entry| entry.file));
        }
        Ok(needed.files().find(|file| !held.contains(file)))
    }

    /// Reads every record that the listings show. What executed plans have deleted all files of is not there, wherever
    /// it still lies.
    pub async fn survey_log(&self, catalogue: &Catalogue) -> LogSurvey {
        let mut survey = self.survey_all_log(catalogue).await;
        let gone = &catalogue.tombstones.logs;
        let is_read: BTreeSet<LogRecordId> = survey.records.keys().copied().collect();
        survey.records.retain(|_, held| !gone.has_record(&held.signed.record));
        // Of what cannot be read only the name tells; with a good one elsewhere it shares that one's lot.
        survey.refused.retain(|RefusedLog { id, .. }| match is_read.contains(id) {
            true => survey.records.contains_key(id),
            false => !gone.has(id.history, id.first, id.run),
        });
        survey
    }

    /// The same with what still lies there of what was deleted.
    pub async fn survey_all_log(&self, catalogue: &Catalogue) -> LogSurvey {
        let mut holders: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
        for at in catalogue.ready() {
            for id in catalogue.listings[at].objects.keys().filter_map(|name| layout::log_record_of(name)) {
                holders.entry(id).or_default().insert(at);
            }
        }
        self.read_log_records(&catalogue.source, holders).await
    }

    /// Reads records, each from the first of its stores that has it right.
    pub async fn read_log_records(
        &self,
        source: &SourceName,
        holders: BTreeMap<LogRecordId, BTreeSet<usize>>,
    ) -> LogSurvey {
        let reads = stream::iter(holders).map(|(id, stores)| async move {
            let mut refused = Vec::new();
            for at in stores.iter().copied() {
                match self.read_log_record(at, source, id).await {
                    Ok(signed) => return (id, Some(HeldLog { signed, stores }), refused),
                    Err(why) => refused.push(RefusedLog { store: at, id, why }),
                }
            }
            (id, None, refused)
        });
        let mut survey = LogSurvey::default();
        let mut reads = std::pin::pin!(reads.buffer_unordered(CONCURRENT_READS));
        while let Some((id, held, refused)) = reads.next().await {
            survey.refused.extend(refused);
            held.into_iter().for_each(|held| drop(survey.records.insert(id, held)));
        }
        survey.refused.sort_by_key(|refused| (refused.id, refused.store));
        survey
    }

    /// Reads one record from one store.
    pub async fn read_log_record(
        &self,
        store: usize,
        source: &SourceName,
        id: LogRecordId,
    ) -> Result<SignedLog, Refusal> {
        let key = format!("{}{}", layout::source_folder(source), layout::log_record(id));
        let bytes = self.stores[store].get(&key, log_format::MAX_BYTES).await.map_err(Refusal::of_store)?;
        self.accept_log_record(source, id, bytes).await
    }

    /// Checks a record: its signature first, then its content, then whether it is where it belongs.
    pub async fn accept_log_record(
        &self,
        source: &SourceName,
        id: LogRecordId,
        bytes: Bytes,
    ) -> Result<SignedLog, Refusal> {
        let name = format!("{}{}", layout::source_folder(source), layout::log_record(id));
        let principal = signature::principal(source, &self.id);
        let stored = log_format::SignedRecord::parse(&bytes)?;
        let (text, signature) = (stored.record.as_bytes(), stored.signature.as_str());
        let signer = match self.signers.verify(text, signature, signature::LOG, &principal) {
            Err(error) if error.is_of_trust() => {
                // What is vouched for is the whole object: `sha256sum` tells its digest.
                self.vouched().await;
                match self.vouches_for(&name, &bytes) {
                    true => signers::signed_by(text, signature, signature::LOG),
                    false => Err(error),
                }
            }
            other => other,
        };
        let signer = signer.map_err(Refusal::untrusted)?;
        let record = stored.open()?;
        if record.repository != self.id || record.source != *source || record.id() != Some(id) {
            return Err(Refusal::Damaged(format!(
                "it is a record of {} of {} in repository {}, not of what its path says",
                record.history, record.source, record.repository
            )));
        }
        if record.writer != signer.as_str() {
            let cause = format!("it names {} as its writer, and {signer} signed it", record.writer);
            return Err(Refusal::Damaged(cause));
        }
        Ok(SignedLog { sha256: format::sha256(&bytes), record, bytes })
    }

    /// Fetches a sealed file of a log from whichever store has it intact. A store that is slow to answer is not waited
    /// for while another one may have it.
    pub async fn fetch_log(
        &self,
        source: &SourceName,
        object: &LogObject,
        detours: &Detours,
    ) -> Result<Bytes, NowhereIntact> {
        let get = |store: Store, key: String| async move {
            let bytes = store.get(&key, object.size).await?;
            Ok((format::sha256(&bytes) == object.sha256).then_some(bytes))
        };
        self.first_right(&log_key(source, object), PATIENCE, detours, get).await
    }

    /// Reads a sealed file of a log to its end, as [`Repository::fetch_log`] does it, without holding it in memory.
    pub async fn prove_log(
        &self,
        source: &SourceName,
        object: &LogObject,
        detours: &Detours,
    ) -> Result<(), NowhereIntact> {
        let read = |store: Store, key: String| async move {
            let found = store.digest(&key, object.size).await?;
            Ok((found == (object.sha256, object.size)).then_some(()))
        };
        let patience = PATIENCE * (1 + object.size / LARGE_BYTES) as u32;
        self.first_right(&log_key(source, object), patience, detours, read).await
    }

    /// What the first store gives that has an object right.
    async fn first_right<T, Asked: Future<Output = Result<Option<T>, StoreError>>>(
        &self,
        key: &str,
        patience: Duration,
        detours: &Detours,
        ask: impl Fn(Store, String) -> Asked,
    ) -> Result<T, NowhereIntact> {
        let mut waiting = detours.in_order(&self.stores).into_iter();
        let mut asked = FuturesUnordered::new();
        // Those that were asked and have not answered.
        let mut silent: BTreeSet<&str> = BTreeSet::new();
        let mut failed = NowhereIntact::of(key);
        let ask = |store: &Store| {
            let (store, asking) = (store.clone(), ask(store.clone(), key.to_owned()));
            async move { (store, asking.await) }
        };
        loop {
            // Nobody is asked yet, or nobody answers: the next one is.
            let Ok(Some((store, got))) = tokio::time::timeout(patience, asked.next()).await else {
                match waiting.next() {
                    Some(store) => {
                        silent.iter().for_each(|store| detours.note_lagging(store));
                        silent.insert(store.name());
                        asked.push(ask(store));
                    }
                    None if asked.is_empty() => return Err(failed),
                    None => {}
                }
                continue;
            };
            silent.remove(store.name());
            let problem = match got {
                Ok(Some(right)) => {
                    detours.note_given(store.name());
                    return Ok(right);
                }
                Ok(None) => Problem::Damaged,
                Err(error) => problem_of(&error),
            };
            failed.note(&store, problem, detours);
        }
    }
}

/// The full name of a sealed file of a log.
pub fn log_key(source: &SourceName, object: &LogObject) -> String {
    let name = layout::log_file(object.history, object.file, object.run);
    format!("{}{name}", layout::source_folder(source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_they_are_recorded() {
        let names = [
            "000000010000000000000001-aaaaaaaaaaaaaaaa.age",
            "00000001000000000000000b-aaaaaaaaaaaaaaaa.age",
            "0000000a.history-aaaaaaaaaaaaaaaa.age",
            "000000010000000000000001-aaaaaaaaaaaaaaaa.json",
            "000000010000000000000003-bbbbbbbbbbbbbbbb.age",
            "0000000100000000000000zz-aaaaaaaaaaaaaaaa.age",
            "something",
        ]
        .map(|name| format!("log/1-00000001/{name}"));
        let found: Vec<String> =
            committed(names.iter().map(String::as_str)).iter().map(|(file, _)| file.to_string()).collect();
        assert_eq!(found, ["000000010000000000000001", "00000001000000000000000B", "0000000A.history"]);
    }
}
