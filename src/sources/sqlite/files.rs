//! The files of a database, looked at with `stat` only.
//!
//! Opening the database file or its `-shm` outside of SQLite would be dangerous: closing any descriptor of
//! a file drops every POSIX lock that this process holds on it, those of SQLite included.

use super::failures;
use crate::{
    core::{failure::Failure, time::Timestamp},
    world::files,
};
use serde::{Deserialize, Serialize};
use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// How old a change must be so that the next one is sure to get another time stamp.
const SETTLED_MILLISECONDS: i128 = 50;
/// The same on file systems that keep whole seconds (some of them only even ones).
const SETTLED_COARSE_MILLISECONDS: i128 = 2_000;

/// Where a database and its sidecars stand, symbolic links resolved as SQLite resolves them.
#[derive(Clone, Debug)]
pub(super) struct DatabaseFiles {
    pub(super) database: PathBuf,
    pub(super) wal: PathBuf,
    pub(super) shm: PathBuf,
    pub(super) journal: PathBuf,
}

impl DatabaseFiles {
    /// Finds the files of the database that was configured as `path`.
    pub(super) fn find(path: &Path) -> Result<Self, Failure> {
        let database = fs::canonicalize(path).map_err(|error| failures::not_found(path, &error))?;
        let beside = |suffix: &str| {
            let mut name = OsString::from(&database);
            name.push(suffix);
            PathBuf::from(name)
        };
        Ok(DatabaseFiles { wal: beside("-wal"), shm: beside("-shm"), journal: beside("-journal"), database })
    }

    /// The directory they stand in.
    pub(super) fn directory(&self) -> &Path {
        self.database.parent().unwrap_or(Path::new("/"))
    }
}

/// What `stat` tells about a file that changes whenever its content may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileStamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    changed_seconds: i64,
    changed_nanoseconds: i64,
    modified_seconds: i64,
    modified_nanoseconds: i64,
}

impl FileStamp {
    fn new(metadata: &fs::Metadata) -> Self {
        FileStamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed_seconds: metadata.ctime(),
            changed_nanoseconds: metadata.ctime_nsec(),
            modified_seconds: metadata.mtime(),
            modified_nanoseconds: metadata.mtime_nsec(),
        }
    }

    /// Whether both are stamps of one file.
    pub(super) fn same_file(&self, other: &FileStamp) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether nothing was written between the two, though the owner may have been set.
    pub(super) fn same_content(&self, other: &FileStamp) -> bool {
        let content = |stamp: &FileStamp| (stamp.size, stamp.modified_seconds, stamp.modified_nanoseconds);
        self.same_file(other) && content(self) == content(other)
    }

    /// How long a stamp of this granularity must stand still.
    fn settling_milliseconds(&self) -> i128 {
        if self.changed_nanoseconds == 0 { SETTLED_COARSE_MILLISECONDS } else { SETTLED_MILLISECONDS }
    }

    /// Whether any change after `now` is sure to give another stamp.
    fn is_settled(&self, now: Timestamp) -> bool {
        let now = i128::from(now.as_datetime().timestamp_millis());
        let milliseconds = |seconds: i64, nanoseconds: i64| {
            i128::from(seconds) * 1_000 + i128::from(nanoseconds) / 1_000_000 + self.settling_milliseconds()
        };
        milliseconds(self.changed_seconds, self.changed_nanoseconds) < now
            && milliseconds(self.modified_seconds, self.modified_nanoseconds) < now
    }
}

/// Stamps of a database and its sidecars at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamps {
    pub(super) database: FileStamp,
    pub(super) wal: Option<FileStamp>,
    pub(super) shm: Option<FileStamp>,
    pub(super) journal: Option<FileStamp>,
}

impl Stamps {
    /// Whether there is a write-ahead log with something in it.
    pub(super) fn has_log(&self) -> bool {
        self.wal.is_some_and(|wal| wal.size > 0)
    }

    /// Looks at the files now.
    pub(super) fn take(files: &DatabaseFiles) -> Result<Self, Failure> {
        let metadata = fs::metadata(&files.database).map_err(|error| failures::not_found(&files.database, &error))?;
        if !metadata.is_file() {
            return Err(failures::not_a_file(&files.database, metadata.is_dir()));
        }
        let sidecar = |path: &Path| match fs::symlink_metadata(path) {
            // SQLite would open it as well, and wait for a pipe for ever. Links it refuses itself.
            Ok(metadata) if !metadata.is_file() && !metadata.is_symlink() => Err(failures::not_a_sidecar(path)),
            Ok(metadata) => Ok(Some(FileStamp::new(&metadata))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failures::not_found(path, &error)),
        };
        Ok(Stamps {
            database: FileStamp::new(&metadata),
            wal: sidecar(&files.wal)?,
            shm: sidecar(&files.shm)?,
            journal: sidecar(&files.journal)?,
        })
    }

    /// Whether nothing was written between the two.
    pub(super) fn same_content(&self, other: &Stamps) -> bool {
        self.database.same_content(&other.database)
            && same_content(self.wal, other.wal)
            && same_content(self.shm, other.shm)
            && same_content(self.journal, other.journal)
    }

    /// How long the database file must stand still before its stamp can be trusted.
    pub(super) fn settling_milliseconds(&self) -> u64 {
        u64::try_from(self.database.settling_milliseconds()).unwrap_or(0)
    }

    /// Whether any change of the database file after `now` is sure to give another stamp.
    pub(super) fn database_is_settled(&self, now: Timestamp) -> bool {
        self.database.is_settled(now)
    }
}

/// The same of a file that need not be there.
pub(super) fn same_content(one: Option<FileStamp>, other: Option<FileStamp>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.same_content(&other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// What is kept to find a database provably unchanged later.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    version: u32,
    database: FileStamp,
    wal: Option<FileStamp>,
    journal: Option<FileStamp>,
    /// The header's change counter in the view, for people: [`Fingerprint::holds`] must not open the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) change_counter: Option<u32>,
    /// The salts of the write-ahead log beside the view, for people too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wal_salts: Option<String>,
}

/// Those of version 1 could hold although a transaction in the log was not in the view.
const FINGERPRINT_VERSION: u32 = 2;

impl Fingerprint {
    /// A fingerprint of files that were looked at `before` the read began, at `now`, and again once it had begun.
    ///
    /// `None` unless every later change is sure to show. A log that is not empty must also be known to be in the view
    /// (see `log`), and the second look must be later than that was found out. The second look is there because SQLite sets the owner
    /// of sidecars when root reads, which gives them a new change time though nothing was written.
    pub(super) fn promise(before: &Stamps, now: Timestamp, after: &Stamps) -> Option<Self> {
        let sidecar = |before: Option<FileStamp>, after: Option<FileStamp>| match (before, after) {
            (None, None) => Some(None),
            (Some(before), Some(after)) if before.is_settled(now) && before.same_content(&after) => Some(Some(after)),
            _ => None,
        };
        if before.database != after.database || !before.database.is_settled(now) {
            return None;
        }
        Some(Fingerprint {
            version: FINGERPRINT_VERSION,
            database: before.database,
            wal: sidecar(before.wal, after.wal)?,
            journal: sidecar(before.journal, after.journal)?,
            change_counter: None,
            wal_salts: None,
        })
    }

    /// Whether the files still are what they were.
    pub(super) fn holds(&self, now: &Stamps) -> bool {
        self.version == FINGERPRINT_VERSION
            && (self.database, self.wal, self.journal) == (now.database, now.wal, now.journal)
    }
}

/// The salts in the header of a write-ahead log, in hex. (No locks stand on this file.)
pub(super) fn wal_salts(path: &Path) -> Option<String> {
    let mut header = [0; 32];
    files::open_unlinked(path).ok()?.read_exact(&mut header).ok()?;
    Some(header[16..24].iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a journal's header was zeroed: its transaction is over. (No locks stand on this file.)
pub(super) fn journal_is_over(path: &Path) -> bool {
    let mut first = [0xff];
    match files::open_unlinked(path).and_then(|mut file| file.read(&mut first)) {
        Ok(0) => true,
        Ok(_) => first[0] == 0,
        Err(_) => false,
    }
}

/// Owners of the sidecars, to be put back: SQLite gives them to the database's owner when root opens them.
pub(super) struct Owners(Vec<(PathBuf, u64, u32, u32)>);

impl Owners {
    /// Looks at the owners now; only needed for root.
    pub(super) fn take(files: &DatabaseFiles) -> Self {
        if crate::world::user_id() != 0 {
            return Owners(Vec::new());
        }
        let owner = |path: &PathBuf| {
            let metadata = fs::symlink_metadata(path).ok()?;
            Some((path.clone(), metadata.ino(), metadata.uid(), metadata.gid()))
        };
        Owners([&files.wal, &files.shm, &files.journal].into_iter().filter_map(owner).collect())
    }

    /// Puts back what differs now.
    pub(super) fn put_back(&self) {
        use rustix::fs::{AtFlags, CWD, Gid, Uid, chownat};
        for (path, inode, uid, gid) in &self.0 {
            let Ok(now) = fs::symlink_metadata(path) else { continue };
            if now.ino() == *inode && (now.uid(), now.gid()) != (*uid, *gid) {
                // Failing leaves what any root process that opens the database leaves.
                let (uid, gid) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
                let _ = chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            }
        }
    }
}
