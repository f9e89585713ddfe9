//! What can be wrong with a database, as messages.

use super::files::DatabaseFiles;
use crate::core::{
    failure::{Code, Failure},
    time::format_duration,
};
use rusqlite::{ErrorCode, ffi};
use std::{fmt, io, path::Path, time::Duration};

const NOTHING_TOUCHED: &str = "the database was not changed; earlier snapshots are not affected";

pub(super) fn failure(message: impl Into<String>) -> Failure {
    Failure::new(Code::Source, message).safe(NOTHING_TOUCHED)
}

fn database(path: &Path) -> String {
    format!("database {}", path.display())
}

/// `stat` or path resolution failed.
pub(super) fn not_found(path: &Path, error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => failure(format!("{} does not exist", database(path)))
            .cause(error)
            .next_step("check the source's path in the configuration, and that its file system is mounted"),
        io::ErrorKind::PermissionDenied => no_permission(path, error),
        _ => failure(format!("{} cannot be looked at", database(path)))
            .cause(error)
            .next_step("check the source's path in the configuration"),
    }
}

pub(super) fn no_permission(path: &Path, cause: impl fmt::Display) -> Failure {
    failure(format!("no permission to read {}", path.display()))
        .cause(cause)
        .next_step("run recoup as a user who may read the database, its -wal and -shm, and search its directory")
}

pub(super) fn not_a_file(path: &Path, is_directory: bool) -> Failure {
    let what = if is_directory { "a directory" } else { "no regular file" };
    failure(format!("{} is {what}", path.display()))
        .cause("a SQLite source is one database file")
        .next_step("name the database file itself as the source's path in the configuration")
}

pub(super) fn not_a_sidecar(path: &Path) -> Failure {
    failure(format!("{} is no regular file", path.display()))
        .cause("SQLite keeps a journal, a write-ahead log or its index in a file of this name")
        .next_step("find out what put it there; once it is gone, run the same command again")
}

pub(super) fn not_a_database(path: &Path) -> Failure {
    failure(format!("{} is not a SQLite database, or it is encrypted", path.display()))
        .cause("the file does not begin with SQLite's header")
        .next_step(
            "check the source's path; an encrypted database (SQLCipher, SEE) cannot be read page by page: \
             have the application export a copy and protect that",
        )
}

/// The read lock was not to be had.
pub(super) fn busy(path: &Path, waited: Duration) -> Failure {
    failure(format!("{} stayed locked for {}", database(path), readable(waited)))
        .cause(
            "another process holds it exclusively: a long write transaction in rollback-journal mode, \
             or PRAGMA locking_mode=EXCLUSIVE",
        )
        .next_step(
            "end that transaction or process, or use WAL mode without exclusive locking, then run the backup again",
        )
}

/// The view blocked writers for as long as it may.
pub(super) fn held_too_long(path: &Path, limit: Duration) -> Failure {
    failure(format!("reading {} was given up after max_read_lock = {}", database(path), readable(limit)))
        .cause("the database is in rollback-journal mode, where a reader keeps writers from committing")
        .next_step("switch the database to WAL mode (PRAGMA journal_mode=WAL), or raise max_read_lock for this source")
}

/// A crashed writer's journal or log must be recovered before anybody can read.
pub(super) fn unrecovered(sidecar: &Path) -> Failure {
    failure(format!(
        "{} was left by a writer that crashed: SQLite recovers it when the application or a backup opens the database",
        sidecar.display()
    ))
    .next_step("open the database once with the application, as its owner")
}

/// A crashed writer's journal or log needs a writer to tidy it up, and we may not write.
pub(super) fn recovery_not_permitted(sidecar: &Path, obstacle: &Path, cause: impl fmt::Display) -> Failure {
    failure(format!("{} was left by a writer that crashed, and recoup may not recover it", sidecar.display()))
        .cause(format!("no permission to write {}: {cause}", obstacle.display()))
        .next_step(
            "open the database once with the application or sqlite3, as its owner, so that SQLite recovers it; \
             or run recoup as a user who may write there",
        )
}

pub(super) fn changed_while_read(path: &Path) -> Failure {
    failure(format!("{} {}", database(path), crate::sources::CHANGED_WHILE_READ))
        .cause("nobody had the database open when the read began, and then somebody did")
        .next_step("run the backup again: it then reads beside the application that has it open now")
}

pub(super) fn locks_ignored(path: &Path) -> Failure {
    failure(format!("{} was written while its read lock was held", database(path)))
        .cause(
            "something changes the file without SQLite's locks: a copy over it, or a network file system without locks",
        )
        .next_step("stop whatever writes the file behind SQLite's back, then run the backup again")
}

pub(super) fn never_stood_still(path: &Path) -> Failure {
    failure(format!("{} and its journal were replaced again and again while being opened", database(path)))
        .cause("each try found other files than the one before")
        .next_step("run the backup again; if it stays so, look for a process that keeps replacing the database")
}

/// An answer of SQLite that has no more precise meaning here.
pub(super) fn from_sqlite(files: &DatabaseFiles, doing: &str, error: &rusqlite::Error) -> Failure {
    let path = &files.database;
    let extended = error.sqlite_error().map_or(0, |error| error.extended_code);
    let base = failure(format!("{} could not be {doing}", database(path))).cause(error);
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => not_a_database(path),
        Some(ErrorCode::PermissionDenied) => no_permission(path, error),
        Some(ErrorCode::CannotOpen) => match rustix::fs::access(path, rustix::fs::Access::READ_OK) {
            Err(cause) => no_permission(path, cause),
            Ok(()) => base.next_step("check permissions on the database, its -wal and -shm, and its directory"),
        },
        Some(ErrorCode::DatabaseCorrupt) => {
            base.next_step("run PRAGMA integrity_check with sqlite3; if it is damaged, restore the last good snapshot")
        }
        Some(ErrorCode::SystemIoFailure) if extended == ffi::SQLITE_IOERR_SHORT_READ => locks_ignored(path),
        Some(ErrorCode::SystemIoFailure) => {
            base.next_step("check the disk and the kernel's log, then run the backup again")
        }
        _ => base.next_step("run the backup again; `recoup doctor` looks at the source"),
    }
}

pub(super) fn scratch(directory: &Path, doing: &str, cause: impl fmt::Display) -> Failure {
    failure(format!("the scratch directory {} cannot be {doing}", directory.display()))
        .cause(cause)
        .next_step("make it writable for this user, or move state_dir to a disk with room")
}

pub(super) fn scratch_full(directory: &Path, needed: u64, available: u64) -> Failure {
    failure(format!("the scratch directory {} is too small for a copy of the database", directory.display()))
        .cause(format!("needed {needed} bytes, available {available} bytes (this build reads through a copy)"))
        .next_step("free some space, or move state_dir to a disk with room")
}

fn readable(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 { format_duration(duration) } else { format!("{duration:?}") }
}
