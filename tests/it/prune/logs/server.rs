//! A server that is simulated in so far as its log is archived.

use crate::simulation::{FOLDER, Process, Site, source_name};
use bytes::Bytes;
use chrono::{DateTime, Duration, Utc};
use recoup::{
    core::{
        failure::Failure,
        id::RunId,
        log::{
            FORMAT, HistoryId, LogEntry, LogFacts, LogFile, LogRange, LogRecord, Lsn, SegmentName, ServerTime, Span,
        },
        plan::log::{Goal, LogFiles, LogPlan, Wanted, plan},
        time::Timestamp,
    },
    format::{log::SignedRecord, log::to_text, sha256, signature},
    ops::archive::{self, FetchRequest, Fetched, PushRequest, Pushed},
    repository::{layout, log::committed},
    sources::postgres::wal::synthetic::Synthetic,
};
use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

pub(super) const BYTES: u64 = 1 << 20;

/// So many seconds after the commit in a segment.
pub(super) fn moment(number: u64, seconds: i64) -> Timestamp {
    let start: DateTime<Utc> = "2026-11-22T10:00:00Z".parse().unwrap();
    Timestamp::new(start + Duration::minutes(number as i64) + Duration::seconds(seconds))
}

fn server_time(number: u64, seconds: i64) -> ServerTime {
    ServerTime::new(moment(number, seconds).as_datetime())
}

/// The numbers of the segments of a server that a store holds, committed.
pub(super) fn segments_on(site: &Site, store: usize, server: &Server) -> BTreeSet<u64> {
    let keys: Vec<String> = site.objects(store).into_keys().collect();
    let names = keys.iter().filter_map(|key| key.strip_prefix(FOLDER));
    let number = |(file, id): (LogFile, recoup::core::log::LogRecordId)| match file {
        LogFile::Segment(name) if id.history.system == server.system => name.number(BYTES),
        _ => None,
    };
    committed(names).into_iter().filter_map(number).collect()
}

/// A server.
pub(super) struct Server {
    pub(super) system: u64,
    pub(super) timeline: u32,
    /// The segment that it writes next.
    pub(super) next: u64,
    /// Part of what it writes.
    seed: u64,
    directory: tempfile::TempDir,
}

impl Server {
    pub(super) fn new(system: u64) -> Self {
        let server = Server { system, timeline: 1, next: 1, seed: 0, directory: tempfile::tempdir().unwrap() };
        fs::create_dir_all(server.wal().join("archive_status")).unwrap();
        server
    }

    /// The same, from now on apart.
    pub(super) fn fork(&self) -> Self {
        Server { timeline: self.timeline, next: self.next, seed: self.seed, ..Server::new(self.system) }
    }

    /// The server that takes its place after initdb; the change is on record.
    pub(super) fn made_anew(&self, process: &Process) -> Self {
        let server = Server::new(self.system + 1);
        server.is_opened(process);
        server
    }

    /// From now on the log is that of this server.
    pub(super) fn is_opened(&self, process: &Process) {
        let request = archive::OpenRequest { source: source_name(), system: Some(self.system) };
        run(archive::open(&process.host, &process.recorder(), &request)).unwrap();
    }

    /// Archives a segment that it has archived before.
    pub(super) fn push_again(&self, process: &Process, number: u64) -> Result<Pushed, Failure> {
        let name = self.write(number);
        let pushed = self.push(process, &name);
        fs::remove_file(self.wal().join(&name)).unwrap();
        pushed
    }

    /// It goes on from an earlier place and writes something else.
    pub(super) fn set_back(&mut self, number: u64) -> u64 {
        (self.next, self.seed) = (number, self.seed + 1);
        number
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.directory.path().join("pg_wal")
    }

    pub(super) fn history_id(&self) -> HistoryId {
        HistoryId { system: self.system, timeline: self.timeline }
    }

    pub(super) fn name(&self, number: u64) -> SegmentName {
        SegmentName::of_number(self.timeline, number, BYTES)
    }

    /// What a snapshot needs that begins and ends within a segment.
    pub(super) fn range(&self, number: u64) -> LogRange {
        LogRange {
            history: self.history_id(),
            segment_bytes: BYTES,
            start: Lsn(number * BYTES + 40),
            stop: Lsn(number * BYTES + 200),
            stopped_at: server_time(number, -30),
            next_transaction: None,
        }
    }

    fn write(&self, number: u64) -> String {
        let name = self.name(number);
        let content = [number.to_le_bytes(), self.seed.to_le_bytes()].concat();
        let segment = Synthetic::new(self.system, name, BYTES).commit(server_time(number, 0));
        fs::write(self.wal().join(name.to_string()), segment.record(10, 0, &content).switch().bytes()).unwrap();
        name.to_string()
    }

    /// Writes the history of a timeline that grew out of this one; gives its name.
    pub(super) fn history(&self, timeline: u32) -> String {
        let name = format!("{timeline:08X}.history");
        // It left this one before any snapshot, so that no replay follows it.
        let text = format!("{}\t0/{:X}\tno recovery target specified\n", self.timeline, BYTES / 2);
        fs::write(self.wal().join(&name), text).unwrap();
        // Whose it is, a segment beside it tells.
        self.write(self.next.max(1));
        name
    }

    pub(super) fn push(&self, process: &Process, name: &str) -> Result<Pushed, Failure> {
        let copies = process.protected.policy.copies.clone();
        let request = PushRequest { source: source_name(), path: self.wal().join(name), copies };
        run(archive::push(&process.host, &request))
    }

    /// Writes the next segment and archives it.
    pub(super) fn push_next(&mut self, process: &Process) -> Result<Pushed, Failure> {
        let name = self.write(self.next);
        let pushed = self.push(process, &name);
        fs::remove_file(self.wal().join(&name)).unwrap();
        self.next += u64::from(pushed.is_ok());
        pushed
    }

    /// Writes several segments and archives them under one record.
    pub(super) fn push_together(&mut self, process: &Process, count: u64) -> Vec<LogFile> {
        let names: Vec<String> = (0..count).map(|at| self.write(self.next + at)).collect();
        for name in &names {
            fs::write(self.wal().join("archive_status").join(format!("{name}.ready")), "").unwrap();
        }
        self.next += count;
        let pushed = self.push(process, &names[0]).unwrap();
        fs::remove_dir_all(self.wal().join("archive_status")).unwrap();
        pushed.files
    }

    /// Lays pieces of a segment on every store, as a follower would.
    pub(super) fn lay_pieces(&self, process: &Process, number: u64, count: u64) {
        let run_id = RunId::from_random([number as u8; 16]);
        for piece in 0..count {
            self.lay_piece(process, number, run_id, Span::new(piece * 100, (piece + 1) * 100).unwrap());
        }
    }

    fn lay_piece(&self, process: &Process, number: u64, run_id: RunId, span: Span) {
        self.lay(process, LogFile::Piece(self.name(number), span), BYTES, run_id);
    }

    /// Lays a file on every store with a record of its own.
    pub(super) fn lay(&self, process: &Process, file: LogFile, segment_bytes: u64, run_id: RunId) {
        let host = &process.host;
        let sealed = b"sealed".to_vec();
        let bytes_raw = if let LogFile::Piece(_, span) = file { span.bytes() } else { segment_bytes };
        let entry = LogEntry {
            file,
            bytes_raw,
            size: sealed.len() as u64,
            sha256: sha256(&sealed),
            content_tag: None,
            facts: LogFacts::default(),
        };
        let record = LogRecord {
            format: FORMAT.to_owned(),
            repository: host.repository.id,
            source: source_name(),
            history: self.history_id(),
            segment_bytes,
            run: run_id,
            writer: host.key.fingerprint().to_string(),
            created_at: host.world.now(),
            recipients: host.recipients.names().to_vec(),
            files: vec![entry],
        };
        let text = to_text(&record);
        let signed = SignedRecord { signature: host.key.sign(signature::LOG, text.as_bytes()), record: text };
        let names = [
            (layout::log_file(record.history, file, run_id), sealed),
            (layout::log_record(record.id().unwrap()), signed.to_bytes()),
        ];
        run(async {
            for store in &host.repository.stores {
                for (name, bytes) in &names {
                    let bytes = Bytes::from(bytes.clone());
                    store.create(&format!("{FOLDER}{name}"), bytes.clone(), &sha256(&bytes)).await.unwrap();
                }
            }
        });
    }

    /// How many objects of pieces of a segment a store has.
    pub(super) fn pieces_on(&self, site: &Site, store: usize, number: u64) -> usize {
        let mark = format!("{}.", self.name(number).to_string().to_lowercase());
        site.objects(store).keys().filter(|key| key.contains(&mark) && key.contains(".piece-")).count()
    }

    /// The runs of the log that a store shows.
    pub(super) fn runs_on(&self, site: &Site, store: usize) -> BTreeSet<RunId> {
        let keys = site.objects(store).into_keys();
        keys.filter_map(|key| Some(layout::log_file_of(key.strip_prefix(FOLDER)?)?.2)).collect()
    }

    /// The plan of a replay of all that there is from a segment on.
    pub(super) fn plan(&self, process: &Process, number: u64) -> LogPlan {
        let (repository, range) = (&process.host.repository, self.range(number));
        let survey = run(async { repository.survey_log(&repository.catalogue(&source_name()).await).await });
        let files = LogFiles::of(self.system, survey.records.values().map(|held| &held.signed.record));
        let wanted = Wanted {
            from: range.history,
            start: range.start,
            consistent_at: range.stop,
            timeline: self.timeline,
            goal: Goal::Latest,
            segment_bytes: BYTES,
        };
        plan(repository.id, &source_name(), &wanted, None, &files).unwrap()
    }

    /// Fetches a segment as the server would.
    pub(super) fn fetch(
        &self,
        process: &Process,
        name: SegmentName,
        plan: Option<LogPlan>,
    ) -> Result<Fetched, Failure> {
        let target = self.wal().join("RECOVERYXLOG");
        drop(fs::remove_file(&target));
        let copies = process.protected.policy.copies.clone();
        let request = FetchRequest { source: source_name(), file: LogFile::Segment(name), target, copies, plan };
        let identities: Arc<_> = crate::simulation::keys().identities();
        let fetched = run(archive::fetch(&process.host.repository, identities, &request));
        // What was fetched ahead is nobody's answer to what the stores have.
        drop(fs::remove_dir_all(self.wal().join("recoup-prefetch")));
        drop(fs::remove_dir_all(self.directory.path().join("recoup-prefetch")));
        fetched
    }
}

/// In real time: what waits for a thread must not find that hours have passed.
pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(work)
}
