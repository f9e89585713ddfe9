//! The way to read pages when SQLite was built without its page table: a copy by the backup API.
//!
//! The copy is made inside the view's read transaction, so it is the same view. Its bytes are those of the
//! database, except for the header's change counter and library version, which are the copy's own.

use super::{connect, failures, files::DatabaseFiles};
use crate::{core::failure::Failure, sources::Limits};
use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
};
use std::{
    fs::{self, File, OpenOptions, Permissions},
    os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt},
    path::Path,
};

/// Pages copied between two looks at the limits.
const STEP_PAGES: i32 = 256;
/// Where the schema cookie stands in the header; the backup API raises it in the copy.
const SCHEMA_COOKIE_OFFSET: u64 = 40;

/// Copies the pinned database; the file has no name any more when this returns, so nothing is left behind.
pub(super) fn copy(
    source: &Connection,
    files: &DatabaseFiles,
    limits: &Limits,
    bytes: u64,
    check: &dyn Fn() -> Result<(), Failure>,
) -> Result<File, Failure> {
    let directory = limits.scratch_dir.as_path();
    make_directory(directory)?;
    require_space(directory, bytes)?;
    let place = tempfile::Builder::new()
        .prefix("sqlite-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(directory)
        .map_err(|error| failures::scratch(directory, "written", error))?;
    let path = place.path().join("copy.db");
    let sqlite_failed =
        |error: rusqlite::Error| failures::from_sqlite(files, "copied to the scratch directory", &error);
    {
        let mut target = Connection::open(&path).map_err(sqlite_failed)?;
        target
            .execute_batch(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA cache_size=-1024",
            )
            .map_err(sqlite_failed)?;
        let backup = Backup::new(source, &mut target).map_err(sqlite_failed)?;
        loop {
            check()?;
            match backup.step(STEP_PAGES).map_err(sqlite_failed)? {
                StepResult::Done => break,
                StepResult::More => {}
                other => return Err(Failure::internal(format!("a pinned database answered a copy with {other:?}"))),
            }
        }
    }
    let cookie = connect::number(source, "schema_version").map_err(sqlite_failed)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .map_err(|error| failures::scratch(directory, "read", error))?;
    // The pragma gives the 32 bits as a signed number.
    let cookie = (cookie as i32).to_be_bytes();
    file.write_all_at(&cookie, SCHEMA_COOKIE_OFFSET).map_err(|error| failures::scratch(directory, "written", error))?;
    Ok(file)
}

fn make_directory(directory: &Path) -> Result<(), Failure> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| failures::scratch(directory, "made", error))
}

fn require_space(directory: &Path, bytes: u64) -> Result<(), Failure> {
    let space = rustix::fs::statvfs(directory).map_err(|error| failures::scratch(directory, "looked at", error))?;
    let available = space.f_bavail.saturating_mul(space.f_frsize);
    let needed = bytes.saturating_add(bytes / 64).saturating_add(1 << 20);
    if available < needed { Err(failures::scratch_full(directory, needed, available)) } else { Ok(()) }
}
