//! The directories of a server, its segments, and a repository that keeps them.

use crate::support::{LEDGER, TestRepository, files_below};
use recoup::{
    core::{
        failure::Failure,
        log::ServerTime,
        log::{HistoryId, LogRecord, SegmentName},
        plan::log::LogPlan,
        policy::Copies,
    },
    ops::{
        archive::{self, ArchiveState, FetchRequest, Fetched, PushRequest, Pushed},
        host::Host,
    },
    sources::postgres::wal::synthetic::Synthetic,
    stores::fault::Faults,
};
use std::{fs, path::PathBuf, sync::Arc, time::Duration};

pub(super) const SYSTEM: u64 = 7_301_234_567_890_123_456;
pub(super) const BYTES: u64 = 1 << 20;

/// A server whose log is archived.
pub(super) struct Server {
    pub(super) repository: TestRepository,
    pub(super) system: u64,
    host: Host,
    runtime: tokio::runtime::Runtime,
}

/// How many objects of a log there are on all stores.
pub(super) fn objects(repository: &TestRepository) -> usize {
    ["a", "b", "c"].iter().map(|store| log_files(repository, store).len()).sum()
}

fn log_files(repository: &TestRepository, store: &str) -> Vec<PathBuf> {
    let folder = repository.store(store).join("sources").join(LEDGER).join("log");
    if !folder.exists() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for history in fs::read_dir(folder).unwrap() {
        found.extend(fs::read_dir(history.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.retain(|path| !path.to_string_lossy().contains('#'));
    found.sort();
    found
}

impl Server {
    pub(super) fn new(system: u64) -> Self {
        let repository = TestRepository::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let host = repository.host();
        let server = Server { repository, system, host, runtime };
        fs::create_dir_all(server.wal().join("archive_status")).unwrap();
        server
    }

    pub(super) fn data(&self) -> PathBuf {
        self.repository.path("cluster")
    }

    pub(super) fn wal(&self) -> PathBuf {
        self.data().join("pg_wal")
    }

    pub(super) fn target(&self) -> PathBuf {
        self.wal().join("RECOVERYXLOG")
    }

    pub(super) fn history_id(&self) -> HistoryId {
        HistoryId { system: self.system, timeline: 1 }
    }

    pub(super) fn name(&self, number: u64) -> String {
        SegmentName::of_number(1, number, BYTES).to_string()
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.wal().join(name), bytes).unwrap();
    }

    /// A segment with one commit.
    pub(super) fn written(&self, number: u64, time: &str) -> Synthetic {
        let time: ServerTime = format!("2026-11-22T{time}Z").parse().unwrap();
        let name = SegmentName::of_number(1, number, BYTES);
        Synthetic::new(self.system, name, BYTES).commit(time).record(10, 0, &number.to_le_bytes()).switch()
    }

    /// Writes a segment, and gives its name.
    pub(super) fn segment(&self, number: u64) -> String {
        let name = self.name(number);
        self.write(&name, self.written(number, "10:00:00").bytes());
        name
    }

    pub(super) fn partial(&self, number: u64) -> String {
        let name = format!("{}.partial", self.name(number));
        self.write(&name, self.written(number, "10:00:00").bytes());
        name
    }

    pub(super) fn history(&self, timeline: u32, number: u64) -> String {
        let name = format!("{timeline:08X}.history");
        self.write(&name, format!("1\t0/{:X}\tno recovery target specified\n", number * BYTES).as_bytes());
        name
    }

    pub(super) fn backup_note(&self, number: u64) -> String {
        let name = format!("{}.00000028.backup", self.name(number));
        self.write(&name, b"START WAL LOCATION: 0/100028\n");
        name
    }

    pub(super) fn control_file(&self) {
        fs::create_dir_all(self.data().join("global")).unwrap();
        fs::write(self.data().join("global/pg_control"), self.system.to_le_bytes()).unwrap();
    }

    pub(super) fn ready(&self, name: &str) {
        fs::write(self.wal().join("archive_status").join(format!("{name}.ready")), "").unwrap();
    }

    pub(super) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub(super) fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(limit, work).await };
        self.runtime.block_on(limited).expect("nobody is waited for so long")
    }

    /// Puts faults around a store.
    pub(super) fn wrap(&mut self, store: &str, faults: &Faults) {
        for found in self.host.repository.stores.iter_mut().filter(|found| found.name() == store) {
            *found = found.clone().wrapped(|inner| faults.wrap(inner));
        }
    }

    pub(super) async fn push_on(&self, name: &str) -> Result<Pushed, Failure> {
        let request =
            PushRequest { source: LEDGER.parse().unwrap(), path: self.wal().join(name), copies: Copies::default() };
        archive::push(&self.host, &request).await
    }

    pub(super) fn push(&self, name: &str) -> Result<Pushed, Failure> {
        self.block_on(self.push_on(name))
    }

    fn state_dir(&self) -> PathBuf {
        self.host.state_dir.join("sources").join(LEDGER)
    }

    pub(super) fn state(&self) -> Option<ArchiveState> {
        archive::peek(&self.state_dir(), self.host.repository.id)
    }

    pub(super) fn lose_state(&self) {
        drop(fs::remove_file(self.state_dir().join("archive.json")));
        assert_eq!(self.state(), None);
    }

    /// State that knows of nothing, as another host's.
    pub(super) fn pretend_new(&self) {
        let text = format!(
            r#"{{"format":"recoup-archive/1","repository":"{}","system":{},"highest":{{}},"acknowledged":{{}},"foreign":null,"down":{{}}}}"#,
            self.host.repository.id, self.system
        );
        fs::write(self.state_dir().join("archive.json"), text).unwrap();
        assert!(self.state().is_some());
    }

    /// The records on the stores.
    pub(super) fn records(&self) -> Vec<LogRecord> {
        let repository = self.repository.host().repository;
        let source = LEDGER.parse().unwrap();
        self.block_on(async {
            let catalogue = repository.catalogue(&source).await;
            let survey = repository.survey_log(&catalogue).await;
            survey.records.into_values().map(|held| held.signed.record).collect()
        })
    }

    /// The only object of the log on a store whose name ends so.
    pub(super) fn object(&self, store: &str, ending: &str) -> PathBuf {
        let found = log_files(&self.repository, store);
        let mut found: Vec<_> = found.into_iter().filter(|path| path.to_string_lossy().ends_with(ending)).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    /// The sealed object of a file on a store.
    pub(super) fn sealed(&self, store: &str, name: &str) -> PathBuf {
        let start = format!("{}-", name.to_lowercase());
        let is_it = |path: &PathBuf| {
            let file = path.file_name().unwrap().to_string_lossy();
            file.starts_with(&start) && file.ends_with(".age")
        };
        let mut found: Vec<_> = log_files(&self.repository, store).into_iter().filter(is_it).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }

    pub(super) fn fetch(&self, name: &str, plan: Option<LogPlan>) -> Result<Fetched, Failure> {
        drop(fs::remove_file(self.target()));
        let request = FetchRequest {
            source: LEDGER.parse().unwrap(),
            file: name.parse().unwrap(),
            target: self.target(),
            copies: Copies::default(),
            plan,
        };
        let repository = self.repository.host().repository;
        let fetched = self.block_on(archive::fetch(&repository, Arc::new(self.repository.identities()), &request));
        assert_eq!(matches!(fetched, Ok(Fetched::Here)), self.target().exists(), "{name}: {fetched:?}");
        fetched
    }

    /// What was fetched is what the server has.
    #[track_caller]
    pub(super) fn assert_target(&self, name: &str) {
        assert!(fs::read(self.target()).unwrap() == fs::read(self.wal().join(name)).unwrap(), "{name}");
    }

    #[track_caller]
    pub(super) fn assert_fetched(&self, name: &str) {
        assert_eq!(self.fetch(name, None).unwrap(), Fetched::Here, "{name}");
        self.assert_target(name);
        let left: Vec<_> =
            files_below(&self.wal()).into_iter().filter(|path| format!("{path:?}").contains(".recoup")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}
