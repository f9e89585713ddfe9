//! What stands in the directory: names, kinds and stamps, as one moment saw them.

use super::{Trouble, failures};
use crate::core::{
    manifest::FILE_BYTES_MAX,
    path::{StoredPath, encode},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, FileType, Metadata},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// How often the directory is looked at again while it changes.
const LOOKS: u32 = 25;
const BETWEEN_LOOKS: Duration = Duration::from_millis(8);

/// How a file looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) changed_ns: i64,
    pub(super) modified_ns: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let ns = |seconds: i64, nanoseconds: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// The same file, whatever it is called and holds.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether any change after `now` is sure to give another stamp.
    pub(super) fn is_settled(&self, now: Timestamp) -> bool {
        // File systems that keep whole seconds, and the kernel's own tick elsewhere.
        let whole_seconds = self.changed_ns % 1_000_000_000 == 0;
        let settling_ms = if whole_seconds { 2_000 } else { 50 };
        let now = super::past::milliseconds(now);
        [self.changed_ns, self.modified_ns].iter().all(|ns| (ns / 1_000_000).saturating_add(settling_ms) < now)
    }
}

/// What kind of thing stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    /// Where it points, in stored form.
    Link(String),
}

/// One thing in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: StoredPath,
    pub(super) kind: Kind,
    pub(super) stamp: Stamp,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Everything in the directory.
pub(super) struct Scan {
    /// In the order of their paths.
    pub(super) found: Vec<Found>,
    /// What is left out.
    pub(super) notes: Vec<String>,
}

impl Scan {
    /// Whether `later` shows the same files, none of them shorter: nothing was renamed or cut between the two looks.
    fn led_to(&self, later: &Scan) -> bool {
        self.found.len() == later.found.len()
            && self.found.iter().zip(&later.found).all(|(before, after)| {
                before.path == after.path
                    && before.kind == after.kind
                    && (before.kind != Kind::File || before.stamp.identity() == after.stamp.identity())
                    && (before.kind != Kind::File || before.stamp.size <= after.stamp.size)
            })
    }
}

/// Looks until two looks agree: while files are renamed one look may miss some and see others twice.
pub(super) fn steady(root: &Path) -> Result<Scan, Trouble> {
    let mut before: Option<Scan> = None;
    for _ in 0..LOOKS {
        match once(root) {
            Ok(now) if before.as_ref().is_some_and(|before| before.led_to(&now)) => return Ok(now),
            // The second look follows at once; only where they differ there is something to wait for.
            Ok(now) => {
                if before.replace(now).is_some() {
                    thread::sleep(BETWEEN_LOOKS);
                }
            }
            Err(Trouble::Moved) => {
                before = None;
                thread::sleep(BETWEEN_LOOKS);
            }
            Err(failed) => return Err(failed),
        }
    }
    Err(Trouble::Moved)
}

/// Looks once.
pub(super) fn once(root: &Path) -> Result<Scan, Trouble> {
    let metadata = fs::metadata(root).map_err(|error| failures::unreadable(root, &error))?;
    if !metadata.is_dir() {
        return Err(failures::not_a_directory(root).into());
    }
    let mut scan = Scan { found: Vec::new(), notes: Vec::new() };
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        let full = root.join(&directory);
        let trouble = |path: &Path, error: &io::Error| match error.kind() {
            // Below the top something that was there a moment ago has moved; the top itself is another matter.
            io::ErrorKind::NotFound if path != root => Trouble::Moved,
            _ => failures::unreadable(path, error).into(),
        };
        for entry in fs::read_dir(&full).map_err(|error| trouble(&full, &error))? {
            let entry = entry.map_err(|error| trouble(&full, &error))?;
            let path = entry.path();
            let metadata = entry.metadata().map_err(|error| trouble(&path, &error))?;
            let relative = directory.join(entry.file_name());
            let kind = match metadata.file_type() {
                kind if kind.is_file() => Kind::File,
                kind if kind.is_dir() => {
                    waiting.push(relative.clone());
                    Kind::Directory
                }
                kind if kind.is_symlink() => {
                    let target = fs::read_link(&path).map_err(|error| trouble(&path, &error))?;
                    Kind::Link(encode(target.as_os_str().as_bytes()))
                }
                kind => {
                    scan.notes.push(format!("{} is left out: it is {}", path.display(), name_of(kind)));
                    continue;
                }
            };
            scan.found.push(found(&path, &relative, kind, &metadata)?);
        }
    }
    scan.found.sort_by(|a, b| a.path.cmp(&b.path));
    scan.notes.sort();
    Ok(scan)
}

fn found(path: &Path, relative: &Path, kind: Kind, metadata: &Metadata) -> Result<Found, Trouble> {
    let stored = StoredPath::from_bytes(relative.as_os_str().as_bytes());
    let stored = stored.map_err(|error| failures::cannot_be_stored(path, error))?;
    if kind == Kind::File && metadata.size() > FILE_BYTES_MAX {
        return Err(failures::cannot_be_stored(path, format!("it is larger than {FILE_BYTES_MAX} bytes")).into());
    }
    Ok(Found {
        path: stored,
        kind,
        stamp: Stamp::of(metadata),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn name_of(kind: FileType) -> &'static str {
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
