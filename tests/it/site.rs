//! A protected ledger with its stores, its configuration and its custodian, for tests of the real program.

use crate::support::{Run, recoup, run};
use recoup::{
    core::time::Timestamp,
    ops::demo::{audit, ledger},
};
use rusqlite::{Connection, OpenFlags};
use sha2::Digest;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// When the ledgers of these tests were written.
pub(crate) fn ends_at() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().unwrap()
}

/// A directory with everything in it: `data/ledger.db`, stores `a`, `b` ..., the configuration in `host`.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    stores: Vec<&'static str>,
}

impl Site {
    /// An initialised site with a ledger of `postings` postings, in WAL mode.
    pub(crate) fn new(postings: u64, stores: &[&'static str]) -> Self {
        let site = Site::prepare(postings, stores);
        run(&mut site.init()).expect_code(0);
        site
    }

    /// The same without `init`.
    pub(crate) fn prepare(postings: u64, stores: &[&'static str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let site = Site { dir, stores: stores.to_vec() };
        ledger::create(&site.ledger(), postings, 7, ends_at()).unwrap();
        site
    }

    /// The command that initialises it.
    pub(crate) fn init(&self) -> Command {
        let mut command = recoup(self.path());
        command.arg("init").arg("--config").arg(self.config());
        for store in &self.stores {
            command.arg("--store").arg(format!("{store}=file://{}", self.store(store).display()));
        }
        command.arg("--source").arg(format!("ledger=sqlite:{}", self.ledger().display()));
        command.arg("--new-identity").arg(self.identity());
        command
    }

    /// The directory that holds all of it.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The database.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.path().join("data/ledger.db")
    }

    /// A store's directory.
    pub(crate) fn store(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.path().join("host/recoup.toml")
    }

    /// The custodian's identity.
    pub(crate) fn identity(&self) -> PathBuf {
        self.path().join("host/custodian.age")
    }

    /// The local state of the source.
    pub(crate) fn state(&self) -> PathBuf {
        self.path().join("host/state/sources/ledger")
    }

    /// Sets a key of the source, which `init` leaves at its default.
    pub(crate) fn set_source(&self, key: &str, value: &str) {
        let text = fs::read_to_string(self.config()).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.trim_start_matches("# ").starts_with(key)).collect();
        let line = format!("{key} = \"{value}\"");
        fs::write(self.config(), format!("{}\n{line}\n", kept.join("\n"))).unwrap();
    }

    /// A command on the configured host.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = recoup(self.path());
        command.arg("--config").arg(self.config()).args(arguments);
        command
    }

    /// The same, run to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        run(&mut self.command(arguments))
    }

    /// A restore of `target` into `to`.
    pub(crate) fn restore_command(&self, target: &str, to: &Path) -> Command {
        let mut command = self.command(&["restore", "ledger", "--json", "--target", target, "--to"]);
        command.arg(to).arg("--identity").arg(self.identity());
        command
    }

    /// Restores a snapshot into a new directory and checks that it is a whole ledger.
    #[track_caller]
    pub(crate) fn restored(&self, seq: u64) -> Restored {
        let to = tempfile::tempdir_in(self.path()).unwrap();
        let out = to.path().join("out");
        run(&mut self.restore_command(&format!("snapshot:{seq}"), &out)).expect_code(0);
        let database = out.join("ledger.db");
        let sha256 = database_sha256_of(&database);
        assert_eq!(names_in(&out), ["ledger.db"], "a restore left more than the database");
        assert_whole(&database);
        let last_transfer = audit::totals(&database).unwrap().last_transfer.unwrap_or(0);
        Restored { sha256, last_transfer }
    }
}

/// What a restore gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    /// The digest of the database file.
    pub(crate) sha256: String,
    /// The newest transfer in it.
    pub(crate) last_transfer: i64,
}

/// SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256_of(path: &Path) -> String {
    digest(&bytes_of(path))
}

/// The same of a database, without what a build whose SQLite has no page table cannot capture: the header's change
/// counter, what it was valid for, and the version of the library.
pub(crate) fn database_sha256_of(path: &Path) -> String {
    let mut bytes = bytes_of(path);
    if Connection::open_in_memory().unwrap().prepare("select 1 from sqlite_dbpage").is_err() && bytes.len() >= 100 {
        bytes[24..28].fill(0);
        bytes[92..100].fill(0);
    }
    digest(&bytes)
}

fn digest(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Another process reads it: closing a database's file here would release the locks that connections of this process
/// have on it.
fn bytes_of(path: &Path) -> Vec<u8> {
    let read = Command::new("cat").arg(path).output().unwrap();
    assert!(read.status.success(), "{}", path.display());
    read.stdout
}

/// The names in a directory, sorted; none if there is no directory.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file below a directory.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}

/// Asserts that SQLite finds nothing wrong with a ledger, and that double entry holds in it. It may be in use.
#[track_caller]
pub(crate) fn assert_whole(database: &Path) {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.busy_timeout(Duration::from_secs(60)).unwrap();
    let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(text("pragma integrity_check"), "ok", "{}", database.display());
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let unbalanced = "select count(*) from (select t.id from transfer t left join posting p on p.transfer = t.id
        group by t.id having coalesce(sum(p.amount_minor), 1) <> 0)";
    assert_eq!(number(unbalanced), 0, "{}: transfers do not balance", database.display());
    let sums = "select (select sum(amount_minor) from posting) + (select sum(balance_minor) from account)";
    assert_eq!(number(sums), 0, "{}", database.display());
}

/// The number of the one snapshot that a `backup --json` took.
#[track_caller]
pub(crate) fn seq_of(backup: &Run) -> u64 {
    let json = backup.json();
    json["snapshots"][0]["seq"].as_u64().unwrap_or_else(|| panic!("no snapshot in {json}"))
}
