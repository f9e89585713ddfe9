//! A whole repository to test with: founded by `init`, with three directories as stores, a custodian, and SQLite sources.

use recoup::{
    config::{self, Settings, SourceSettings, StoreSettings},
    core::{
        failure::Failure,
        id::{SnapshotId, SourceName},
        policy::Copies,
        result::{CopyResult, RestoreResult, VerifyResult},
        target::Target,
    },
    format::seal::Identities,
    ops::{
        backup::{self, Snapshot},
        copy::{self, CopyRequest},
        host::Host,
        init::{self, InitRequest},
        open,
        progress::NoProgress,
        restore::{self, RestoreRequest},
        verify::{self, VerifyRequest},
    },
    repository::layout,
    world::World,
};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A repository with the stores `a`, `b`, `c`, all in one temporary directory. Calls run in this process.
///
/// `recoup --config` works with it as well: see [`TestRepository::config`].
pub(crate) struct TestRepository {
    dir: tempfile::TempDir,
    world: World,
    runtime: tokio::runtime::Runtime,
}

/// The source that every test repository has.
pub(crate) const LEDGER: &str = "ledger";

impl TestRepository {
    /// Three stores and the source [`LEDGER`], whose database does not exist yet.
    pub(crate) fn new() -> Self {
        TestRepository::with_stores(&["a", "b", "c"])
    }

    /// The same with other stores.
    pub(crate) fn with_stores(stores: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let repository = TestRepository { dir: tempfile::tempdir().unwrap(), world: World::real(), runtime };
        fs::create_dir(repository.path("data")).unwrap();
        let store = |name: &&str| {
            StoreSettings::new(*name, format!("file://{}", repository.store(name).display()).parse().unwrap())
        };
        let request = InitRequest {
            config: repository.config(),
            stores: stores.iter().map(store).collect(),
            sources: vec![repository.source_settings(LEDGER)],
            recipients: Vec::new(),
            new_identity: Some(repository.identity()),
        };
        repository.runtime.block_on(init::init(&repository.world, &request)).expect("init succeeds");
        repository
    }

    fn source_settings(&self, name: &str) -> SourceSettings {
        config::parse_source_argument(&format!("{name}=sqlite:{}", self.database(name).display())).unwrap()
    }

    /// Anything in the temporary directory; `data`, `host`, `custodian` and the stores' names are taken.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The database of a source.
    pub(crate) fn database(&self, source: &str) -> PathBuf {
        self.path("data").join(format!("{source}.db"))
    }

    /// The directory of a store.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.path(name)
    }

    /// The configuration; everything of the host lies beside it.
    pub(crate) fn config(&self) -> PathBuf {
        self.path("host").join("recoup.toml")
    }

    /// The custodian's identity; signers and recover.sh lie beside it.
    pub(crate) fn identity(&self) -> PathBuf {
        self.path("custodian").join("custodian.age")
    }

    /// What the configuration says now.
    pub(crate) fn settings(&self) -> Settings {
        config::load(&self.config()).expect("the configuration can be read")
    }

    /// What a run works with.
    pub(crate) fn host(&self) -> Host {
        open::open_host(&self.settings(), &self.world).expect("the host can be opened")
    }

    /// The custodian's keys.
    pub(crate) fn identities(&self) -> Identities {
        Identities::parse(&fs::read_to_string(self.identity()).unwrap()).unwrap()
    }

    /// Opens a source's database, and makes it if there is none.
    pub(crate) fn sqlite(&self, source: &str) -> rusqlite::Connection {
        rusqlite::Connection::open(self.database(source)).unwrap()
    }

    /// Takes a snapshot of a source.
    pub(crate) fn try_backup(&self, source: &str, full: bool) -> Result<Snapshot, Failure> {
        let host = self.host();
        let protected = open::open_source(&self.settings(), &host, &source_name(source))?;
        self.runtime.block_on(backup::backup(&host, &protected, full, &NoProgress))
    }

    /// Takes a snapshot of [`LEDGER`] that must succeed on all stores: full if there is none yet.
    #[track_caller]
    pub(crate) fn backup(&self) -> Snapshot {
        let snapshot = self.try_backup(LEDGER, false).expect("the backup succeeds");
        assert!(snapshot.durable && snapshot.behind.is_empty(), "{snapshot:?}");
        snapshot
    }

    /// Restores a target of [`LEDGER`] to a directory.
    pub(crate) fn try_restore(&self, target: Target, to: &Path) -> Result<RestoreResult, Failure> {
        let request = RestoreRequest {
            copies: Copies::default(),
            ..RestoreRequest::new(source_name(LEDGER), target, to.to_owned())
        };
        let repository = self.host().repository;
        self.runtime.block_on(restore::restore(&repository, Arc::new(self.identities()), &request, &NoProgress))
    }

    /// Restores a snapshot of [`LEDGER`] to a new directory, which must succeed.
    #[track_caller]
    pub(crate) fn restore(&self, id: SnapshotId, to: &Path) -> RestoreResult {
        self.try_restore(Target::SnapshotId(id), to).expect("the restore succeeds")
    }

    /// Verifies every byte on all stores.
    pub(crate) fn verify(&self) -> VerifyResult {
        let request = VerifyRequest { all: true, ..VerifyRequest::default() };
        self.runtime.block_on(verify::verify(&self.host().repository, &request, &NoProgress)).unwrap()
    }

    /// Brings all stores level.
    pub(crate) fn copy(&self) -> CopyResult {
        let request = CopyRequest { spool: self.dir.path().to_owned(), ..CopyRequest::default() };
        self.copy_with(&request)
    }

    /// The same, as asked for.
    pub(crate) fn copy_with(&self, request: &CopyRequest) -> CopyResult {
        self.runtime.block_on(copy::copy(&self.host().repository, request, &NoProgress)).unwrap().result
    }

    /// An object of [`LEDGER`] on a store, by its name below the source's folder.
    pub(crate) fn object(&self, store: &str, name: &str) -> PathBuf {
        self.store(store).join(layout::source_folder(&source_name(LEDGER))).join(name)
    }
}

/// A name that is one.
pub(crate) fn source_name(name: &str) -> SourceName {
    name.parse().unwrap()
}

/// All files below a directory, by their paths relative to it, in order.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_test_repository_works() {
    let repository = TestRepository::new();
    repository.sqlite(LEDGER).execute_batch("create table posting (amount); insert into posting values (7)").unwrap();
    let snapshot = repository.backup();
    assert_eq!(snapshot.stores, ["a", "b", "c"]);
    let out = repository.path("out");
    assert_eq!(repository.restore(snapshot.head.id, &out).files, 1);
    assert_eq!(fs::read(out.join("ledger.db")).unwrap(), fs::read(repository.database(LEDGER)).unwrap());
    let inventory = repository.object("b", &layout::snapshot_object(snapshot.head.id, layout::INVENTORY));
    fs::remove_file(inventory).unwrap();
    assert_eq!(repository.verify().findings[0].store, "b");
    repository.copy();
    assert_eq!(repository.verify().findings, []);
    let held = files_below(&repository.store("b"));
    assert!(held.len() > 7 && held == files_below(&repository.store("c")), "{held:?}");
}
