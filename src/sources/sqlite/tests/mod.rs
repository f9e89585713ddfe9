//! The SQLite source against real databases, with other processes that write, crash and come and go.

mod bad;
mod crashed;
mod page_table;
mod pending;
mod shell;
mod states;
mod writers;

use super::{Sqlite, check_restored};
use crate::{
    core::{
        failure::{Code, Failure},
        manifest::{Entry, EntryKind},
        path::StoredPath,
    },
    sources::{Limits, Source, contract},
    world::World,
};
use rusqlite::{Connection, OpenFlags};
use shell::{Shell, create_ledger, post};
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A directory with a ledger, and scratch beside it.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        Place { root }
    }

    /// A place with a ledger that nobody has open.
    fn with_ledger(pragmas: &str, transfers: u32) -> Self {
        let place = Place::new();
        create_ledger(&place.database(), pragmas, transfers);
        place
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn database(&self) -> PathBuf {
        self.data().join("ledger.db")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.data().join(format!("ledger.db{suffix}"))
    }

    fn limits(&self) -> Limits {
        Limits {
            busy_timeout: Duration::from_secs(20),
            max_read_lock: Duration::from_secs(10),
            scratch_dir: self.root.path().join("scratch"),
        }
    }

    fn source(&self) -> Sqlite {
        Sqlite::new(self.database(), self.limits(), World::real())
    }

    fn source_with(&self, change: impl FnOnce(&mut Limits)) -> Sqlite {
        let mut limits = self.limits();
        change(&mut limits);
        Sqlite::new(self.database(), limits, World::real())
    }

    /// Writes what a view gave as a restored file, runs SQLite's checks and counts the postings.
    fn check(&self, content: &[u8]) -> i64 {
        let restored = tempfile::tempdir_in(self.root.path()).unwrap();
        let path = restored.path().join("ledger.db");
        fs::write(&path, content).unwrap();
        let checks = check_restored(restored.path(), &[ledger_entry(content.len() as u64)]).unwrap();
        assert!(checks.iter().all(|check| check.ok), "{checks:?}");
        assert_eq!(fs::read_dir(restored.path()).unwrap().count(), 1, "checking left no sidecars");
        query(&path, "SELECT count(*) FROM posting WHERE (SELECT sum(amount) FROM posting) = 0")
    }

    /// Opens a view, reads all, closes, checks; gives the number of postings and the notes.
    fn take(&self, source: &Sqlite) -> Result<(i64, Vec<String>), Failure> {
        let mut view = source.open()?;
        let content = contract::read_entry(&mut *view, 0);
        let notes = view.facts().notes.clone();
        view.close()?;
        Ok((self.check(&content), notes))
    }
}

/// The entry of a restored ledger.
fn ledger_entry(size: u64) -> Entry {
    let path = StoredPath::parse("ledger.db").unwrap();
    Entry { path, kind: EntryKind::File { size, block_size: 4096 }, mode: 0o600, uid: 0, gid: 0 }
}

/// A number from a database that nobody has open, without leaving sidecars.
fn query(path: &Path, sql: &str) -> i64 {
    let uri = format!("file:{}?immutable=1", path.display());
    let connection = Connection::open_with_flags(uri, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI);
    connection.unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}
