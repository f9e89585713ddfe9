//! How a view is opened: which way is safe for the state the files are in.
//!
//! | state of the files | way |
//! |---|---|
//! | empty file | nothing to read |
//! | WAL mode, no log: nobody has it open | without locks, and the file must not change meanwhile |
//! | WAL mode with a log | as a reader beside the application; the wal-index is only read |
//! | the same, but the application is dead | the same: SQLite builds an index of the log in memory |
//! | the same, and the wal-index is missing | SQLite makes one, as any next reader would: noted |
//! | rollback-journal mode | under the shared lock, for at most `max_read_lock` |
//! | a hot journal | SQLite rolls it back, as any next reader would: noted |

use super::{
    Reading, Sqlite,
    connect::{self, Obstacle, Pin, Way},
    failures,
    files::{self, DatabaseFiles, Fingerprint, Owners, Stamps, same_content},
    lease::{Lease, Limit},
    log, scratch,
    view::{self, Guard, Pages, SqliteView},
};
use crate::{
    core::{
        failure::Failure,
        manifest::{Entry, EntryKind},
        path::StoredPath,
        time::Timestamp,
    },
    sources::ViewFacts,
    world::Stopwatch,
};
use rusqlite::Connection;
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

/// How often the files may turn out to be others than a moment before.
const TRIES: usize = 50;
/// How often a wal-index may look half-written before it counts as left behind by a crash.
const INDEX_TRIES: usize = 20;
/// How long to wait for an application that was seen to come and go.
const APPLICATION_WAIT: Duration = Duration::from_secs(10);
/// The block size of an empty database: what SQLite will make its pages.
const DEFAULT_PAGE_SIZE: u32 = 4096;

/// What a try at opening came to.
pub(super) enum Try {
    Opened(Box<SqliteView>),
    /// The files changed; look again.
    Again,
    /// The wal-index could not be read this time.
    IndexUnreadable,
    /// A crashed writer left this file, and SQLite must recover it before anybody can read.
    Unrecovered(PathBuf),
}

/// What the caller wants done about what a crashed writer left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// What any next reader with write permission would do.
    Permitted,
    /// Nothing: say it instead.
    Reported,
}

/// What opening came to.
pub(super) enum Opening {
    View(Box<SqliteView>),
    /// This file must be recovered first; only where recovery is not permitted.
    Unrecovered(PathBuf),
}

impl Sqlite {
    pub(super) fn open_view(&self, recovery: Recovery) -> Result<Opening, Failure> {
        let mut notes = Vec::new();
        let mut index_tries = 0;
        for _ in 0..TRIES {
            let files = DatabaseFiles::find(&self.path)?;
            let looked_at = self.world.now();
            let before = Stamps::take(&files)?;
            let tried = if before.database.size == 0 {
                Try::Opened(Box::new(self.empty_view(files.clone(), &before, looked_at)?))
            } else if is_at_rest(&files, &before) && connect::is_in_wal_mode(&files) {
                self.open_at_rest(&files, before, &notes)?
            } else {
                self.open_beside(&files, &before, looked_at, &mut notes)?
            };
            let unrecovered = match tried {
                Try::Opened(view) => return Ok(Opening::View(view)),
                Try::Again => None,
                Try::Unrecovered(sidecar) => Some(sidecar),
                Try::IndexUnreadable => {
                    index_tries += 1;
                    (index_tries >= INDEX_TRIES).then(|| files.wal.clone())
                }
            };
            if let Some(sidecar) = unrecovered {
                if recovery == Recovery::Reported {
                    return Ok(Opening::Unrecovered(sidecar));
                }
                self.recover(&files, &before, &sidecar, &mut notes)?;
                index_tries = 0;
            }
            thread::sleep(Duration::from_millis(2));
        }
        Err(failures::never_stood_still(&self.path))
    }

    /// Reads as one more reader, beside whoever else has the database open.
    pub(super) fn open_beside(
        &self,
        files: &DatabaseFiles,
        before: &Stamps,
        looked_at: Timestamp,
        notes: &mut Vec<String>,
    ) -> Result<Try, Failure> {
        let owners = Owners::take(files);
        let connected = connect::connect(&files.database, Way::ReadOnly).and_then(|connection| {
            let pin = connect::pin_patiently(&connection, &self.world, self.limits.busy_timeout);
            owners.put_back();
            Ok((pin?, connection))
        });
        let (pin, connection) = match connected {
            Ok(connected) => connected,
            Err(error) => return self.obstacle(files, before, &error, notes),
        };
        let after = Stamps::take(files)?;
        if !after.database.same_file(&before.database) {
            return Ok(Try::Again); // the log may belong to another database than the one we have open
        }
        let in_log = connect::uses_log(&connection).map_err(|error| failures::from_sqlite(files, "read", &error))?;
        if in_log && notes.is_empty() && is_abandoned() {
            notes.push(format!(
                "no process has the write-ahead log {} open (its last user crashed, or ended while it was being read): \
                 its committed transactions are in the snapshot, nothing was changed",
                files.wal.display()
            ));
        }
        let guard = if in_log { Guard::Log } else { Guard::Lock(after.database) };
        let mut view = self.view(files, connection, pin, guard, notes.clone())?;
        promise(&mut view, before, looked_at, after);
        Ok(Try::Opened(view))
    }

    /// Finds out what an answer of SQLite means for these files.
    fn obstacle(
        &self,
        files: &DatabaseFiles,
        before: &Stamps,
        error: &rusqlite::Error,
        notes: &mut Vec<String>,
    ) -> Result<Try, Failure> {
        match Obstacle::of(error) {
            Obstacle::Busy => Err(failures::busy(&files.database, self.limits.busy_timeout)),
            Obstacle::HotJournal => Ok(Try::Unrecovered(files.journal.clone())),
            Obstacle::LogIndex => Ok(Try::IndexUnreadable),
            Obstacle::CannotOpen => {
                let now = Stamps::take(files)?;
                match (now.wal, now.shm) {
                    // What came from our own look goes again, also for somebody who must change nothing.
                    (Some(_), None) if is_ours(before, &now) => {
                        self.recover(files, before, &files.wal, notes).map(|()| Try::Again)
                    }
                    (Some(_), None) => Ok(Try::Unrecovered(files.wal.clone())),
                    _ if !now.same_content(before) => Ok(Try::Again),
                    _ => Err(failures::from_sqlite(files, "opened", error)),
                }
            }
            Obstacle::Other => Err(failures::from_sqlite(files, "opened", error)),
        }
    }

    /// Has SQLite do what any next reader with write permission would do: roll back a hot journal,
    /// make the index of a log that was left without one. The log itself is never touched.
    fn recover(
        &self,
        files: &DatabaseFiles,
        before: &Stamps,
        sidecar: &Path,
        notes: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let now = Stamps::take(files)?;
        let keep_log = now.wal.is_some() && !is_ours(before, &now);
        require_write_permission(files, &now, sidecar)?;
        let owners = Owners::take(files);
        let failed = |error: rusqlite::Error| failures::from_sqlite(files, "recovered", &error);
        let connection = connect::connect(&files.database, Way::Recover { keep_log }).map_err(failed)?;
        if connection.is_readonly("main").map_err(failed)? {
            return Err(failures::recovery_not_permitted(sidecar, &files.database, "it opened read-only"));
        }
        let pinned = connect::pin_patiently(&connection, &self.world, self.limits.busy_timeout);
        owners.put_back();
        match pinned {
            Ok(_) => {}
            Err(error) if Obstacle::of(&error) == Obstacle::Busy => {
                return Err(failures::busy(&files.database, self.limits.busy_timeout));
            }
            Err(error) => return Err(failed(error)),
        }
        drop(connection);
        let after = Stamps::take(files)?;
        note_recovery(files, &now, &after, keep_log, notes);
        Ok(())
    }

    /// Reads a WAL-mode database that nobody has open, without locks; an ordinary reader would create sidecars.
    pub(super) fn open_at_rest(&self, files: &DatabaseFiles, before: Stamps, notes: &[String]) -> Result<Try, Failure> {
        if self.disturbed.swap(false, Ordering::Relaxed) && wait_for_application(files) {
            return Ok(Try::Again);
        }
        if !before.database_is_settled(self.world.now()) {
            thread::sleep(Duration::from_millis(before.settling_milliseconds()));
            if Stamps::take(files)? != before {
                return Ok(Try::Again);
            }
        }
        let failed = |error: rusqlite::Error| failures::from_sqlite(files, "read", &error);
        let looked_at = self.world.now();
        let connection = connect::connect(&files.database, Way::AtRest).map_err(failed)?;
        let pinned = connect::pin_patiently(&connection, &self.world, Duration::ZERO);
        let after = Stamps::take(files)?;
        // What an application has committed since goes into a log that this read does not look at.
        if after.database != before.database || !after.same_content(&before) {
            return Ok(Try::Again);
        }
        let guard = Guard::Unchanged { stamp: before.database, disturbed: Arc::clone(&self.disturbed) };
        match self.view(files, connection, pinned.map_err(failed)?, guard, notes.to_vec()) {
            Ok(mut view) => {
                promise(&mut view, &before, looked_at, after);
                Ok(Try::Opened(view))
            }
            Err(_) if Stamps::take(files)?.database != before.database => Ok(Try::Again),
            Err(failure) => Err(failure),
        }
    }

    /// Makes the view of a pinned read.
    fn view(
        &self,
        files: &DatabaseFiles,
        connection: Connection,
        pin: Pin,
        guard: Guard,
        notes: Vec<String>,
    ) -> Result<Box<SqliteView>, Failure> {
        let header =
            Header::read(&connection, self.reading).map_err(|error| failures::from_sqlite(files, "read", &error))?;
        let facts = ViewFacts {
            identity: identity(header.application_id),
            position: header.position(),
            read_started_at: pin.read_started_at,
            entries: vec![self.entry(files, header.size(), header.page_size)?],
            fingerprint: None,
            notes,
            warnings: Vec::new(),
            history: None,
            log: None,
        };
        let page_size = header.page_size as usize;
        let change_counter = header.change_counter;
        let mut view = SqliteView { files: files.clone(), facts, page_size, change_counter, pages: Pages::None, guard };
        if change_counter.is_some() {
            let limit = Limit { limit: self.limits.max_read_lock, held: pin.held };
            let limit = matches!(view.guard, Guard::Lock(_)).then_some(limit);
            view.pages = Pages::Table(Lease::new(connection, files.database.clone(), limit));
        } else {
            self.read_through_copy(&mut view, &connection, &pin.held, header.size())?;
        }
        Ok(Box::new(view))
    }

    /// Makes the copy that a build without the page table reads from, and ends the transaction at once.
    fn read_through_copy(
        &self,
        view: &mut SqliteView,
        connection: &Connection,
        held: &Stopwatch,
        size: u64,
    ) -> Result<(), Failure> {
        let limit = self.limits.max_read_lock;
        let check = || match view.guard {
            Guard::Lock(_) if held.elapsed() > limit => Err(failures::held_too_long(&view.files.database, limit)),
            _ => Ok(()),
        };
        let copied = scratch::copy(connection, &view.files, &self.limits, size, &check);
        view.verify_guard()?;
        view.pages = Pages::Copy(copied?);
        view.guard = Guard::Nothing;
        Ok(())
    }

    fn empty_view(&self, files: DatabaseFiles, before: &Stamps, now: Timestamp) -> Result<SqliteView, Failure> {
        rustix::fs::access(&files.database, rustix::fs::Access::READ_OK)
            .map_err(|cause| failures::no_permission(&files.database, cause))?;
        let facts = ViewFacts {
            identity: identity(0),
            position: "pages=0".to_owned(),
            read_started_at: now,
            entries: vec![self.entry(&files, 0, DEFAULT_PAGE_SIZE)?],
            fingerprint: Fingerprint::promise(before, now, before).and_then(|value| serde_json::to_value(value).ok()),
            notes: Vec::new(),
            warnings: Vec::new(),
            history: None,
            log: None,
        };
        Ok(SqliteView {
            files,
            facts,
            page_size: DEFAULT_PAGE_SIZE as usize,
            change_counter: None,
            pages: Pages::None,
            guard: Guard::Nothing,
        })
    }

    fn entry(&self, files: &DatabaseFiles, size: u64, block_size: u32) -> Result<Entry, Failure> {
        let metadata = fs::metadata(&files.database).map_err(|error| failures::not_found(&files.database, &error))?;
        let name = self.path.file_name().or(files.database.file_name()).unwrap_or_default();
        let path = StoredPath::from_bytes(name.as_bytes()).map_err(|error| {
            failures::failure(format!("{} has no usable file name", self.path.display()))
                .cause(error)
                .next_step("give the database another name, or protect it through a link that has one")
        })?;
        Ok(Entry {
            path,
            kind: EntryKind::File { size, block_size },
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        })
    }
}

/// Gives a view its fingerprint, if every change that it does not show is sure to show in the files.
fn promise(view: &mut SqliteView, before: &Stamps, looked_at: Timestamp, after: Stamps) {
    let mut promised = Fingerprint::promise(before, looked_at, &after);
    if promised.is_some() && after.has_log() {
        // Nothing must have been written to the log until it was found to be in the view.
        promised = log::is_all_in_view(view)
            .then(|| Fingerprint::promise(before, looked_at, &Stamps::take(&view.files).ok()?))
            .flatten();
    }
    view.facts.fingerprint = promised.and_then(|mut fingerprint| {
        fingerprint.change_counter = view.change_counter;
        fingerprint.wal_salts = after.has_log().then(|| files::wal_salts(&view.files.wal)).flatten();
        serde_json::to_value(fingerprint).ok()
    });
}

/// Whether the log is the empty one that SQLite just made for us, its user being gone: it was not there a moment ago.
fn is_ours(before: &Stamps, now: &Stamps) -> bool {
    // A new file may get the number of the old one, so only the whole stamp tells them apart.
    now.wal.is_some_and(|is| is.size == 0 && before.wal != Some(is))
}

/// Says what a recovery changed.
fn note_recovery(files: &DatabaseFiles, before: &Stamps, after: &Stamps, keep_log: bool, notes: &mut Vec<String>) {
    if before.journal.is_some() && !same_content(before.journal, after.journal) {
        notes.push(format!(
            "the unfinished transaction in {} was rolled back by SQLite, as any next reader would have done",
            files.journal.display()
        ));
    }
    if keep_log && !same_content(before.shm, after.shm) {
        notes.push(format!(
            "the write-ahead log {} was left by a writer that crashed: SQLite made a new index of it, {}, \
             as any next reader would have done",
            files.wal.display(),
            files.shm.display()
        ));
    }
}

fn identity(application_id: i32) -> String {
    format!("sqlite:application_id={application_id:#010x}")
}

/// Whether the sidecars say that nobody is using the database.
fn is_at_rest(files: &DatabaseFiles, stamps: &Stamps) -> bool {
    let no_log = stamps.wal.is_none_or(|wal| wal.size == 0 && stamps.shm.is_none());
    no_log && stamps.journal.is_none_or(|journal| journal.size == 0 || files::journal_is_over(&files.journal))
}

/// What the header says in a pinned read.
struct Header {
    page_size: u32,
    page_count: u64,
    application_id: i32,
    /// `None` when this build has no page table, or is not to use it.
    change_counter: Option<u32>,
}

impl Header {
    fn read(connection: &Connection, reading: Reading) -> rusqlite::Result<Self> {
        let page_size = connect::number(connection, "page_size")?;
        let page_size = u32::try_from(page_size).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, page_size))?;
        Ok(Header {
            page_size,
            page_count: connect::number(connection, "page_count")?.unsigned_abs(),
            application_id: connect::number(connection, "application_id")? as i32,
            change_counter: match reading {
                Reading::PageTable => change_counter(connection, page_size)?,
                Reading::ScratchCopy => None,
            },
        })
    }

    fn size(&self) -> u64 {
        self.page_count * u64::from(self.page_size)
    }

    fn position(&self) -> String {
        match self.change_counter {
            Some(counter) => format!("change_counter={counter} pages={}", self.page_count),
            None => format!("pages={}", self.page_count),
        }
    }
}

/// The header's change counter; `None` when this build has no page table.
fn change_counter(connection: &Connection, page_size: u32) -> rusqlite::Result<Option<u32>> {
    let mut statement = match connection.prepare(view::PAGE_QUERY) {
        Ok(statement) => statement,
        Err(error) if is_missing_table(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut page = Vec::new();
    view::append_page(&mut statement, 0, page_size as usize, &mut page)?;
    Ok(page.get(24..28).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes))
}

fn is_missing_table(error: &rusqlite::Error) -> bool {
    error.to_string().contains("no such table")
}

/// Waits until an application has the database open, so that its log can be read beside it.
fn wait_for_application(files: &DatabaseFiles) -> bool {
    let waiting = Stopwatch::start();
    while waiting.elapsed() < APPLICATION_WAIT {
        if files.wal.exists() && files.shm.exists() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Whether this process reads a log of which nobody keeps the index: then SQLite could not take the lock of
/// the index's users (byte 128 of the `-shm`). `false` when that cannot be told.
fn is_abandoned() -> bool {
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return false };
    let process = std::process::id().to_string();
    let mut ours = locks
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields.get(4) == Some(&process.as_str()))
        .peekable();
    ours.peek().is_some() && !ours.any(|fields| fields.ends_with(&["128", "128"]))
}

/// Refuses to recover with half the permissions it takes: SQLite would then leave files of ours behind.
fn require_write_permission(files: &DatabaseFiles, stamps: &Stamps, sidecar: &Path) -> Result<(), Failure> {
    use rustix::fs::{Access, access};
    let directory = files.directory();
    let mut needed = vec![
        (files.database.as_path(), Access::READ_OK | Access::WRITE_OK),
        (directory, Access::WRITE_OK | Access::EXEC_OK),
    ];
    if stamps.journal.is_some() {
        needed.push((&files.journal, Access::READ_OK | Access::WRITE_OK));
    }
    if stamps.wal.is_some() {
        needed.push((&files.wal, Access::READ_OK | Access::WRITE_OK));
    }
    for (path, wanted) in needed {
        access(path, wanted).map_err(|cause| failures::recovery_not_permitted(sidecar, path, cause))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_page_table_is_recognised() {
        let connection = Connection::open_in_memory().unwrap();
        let error = connection.prepare("SELECT data FROM sqlite_no_such_page_table WHERE pgno = ?1").unwrap_err();
        assert!(is_missing_table(&error), "{error}");
    }
}
