//! What stands in the directory: names, kinds and stamps, as one moment saw them.

use super::{Trouble, failures};
use crate::core::{
    manifest::FILE_BYTES_MAX,
    path::{StoredPath, encode},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashSet,
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
    /// Whether `later` shows the same files in the same places, none of them shorter, and others only if they are new:
    /// nothing that was there was renamed, cut or removed between the two looks.
    fn led_to(&self, later: &Scan) -> bool {
        let mut known = self.found.iter().peekable();
        let mut new = Vec::new();
        for after in &later.found {
            match known.next_if(|before| before.path == after.path) {
                Some(before) if before.grew_into(after) => {}
                Some(_) => return false,
                None => new.push(after),
            }
        }
        if known.peek().is_some() {
            return false;
        }
        // A file that is in two places may have been renamed while the second look went past it.
        let mut identities: HashSet<_> = HashSet::new();
        if !new.is_empty() {
            identities.extend(self.found.iter().map(|before| before.stamp.identity()));
        }
        new.iter().all(|new| new.kind != Kind::File || identities.insert(new.stamp.identity()))
    }
}

impl Found {
    fn grew_into(&self, after: &Found) -> bool {
        let is_same_file = self.stamp.identity() == after.stamp.identity() && self.stamp.size <= after.stamp.size;
        self.kind == after.kind && (self.kind != Kind::File || is_same_file)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(files: &[(&str, u64, u64)]) -> Scan {
        let found = |(path, inode, size): &(&str, u64, u64)| Found {
            path: StoredPath::parse(path).unwrap(),
            kind: Kind::File,
            stamp: Stamp { device: 1, inode: *inode, size: *size, changed_ns: 0, modified_ns: 0 },
            mode: 0,
            uid: 0,
            gid: 0,
        };
        Scan { found: files.iter().map(found).collect(), notes: Vec::new() }
    }

    #[test]
    fn looks_that_agree() {
        let before = [("a", 1, 10), ("b", 2, 20)];
        for (after, agrees) in [
            (&[("a", 1, 10), ("b", 2, 20)][..], true),
            (&[("a", 1, 11), ("b", 2, 20), ("c", 3, 0)], true),
            (&[("0", 4, 1), ("a", 1, 10), ("a.1", 3, 0), ("b", 2, 20)], true),
            (&[("a", 1, 9), ("b", 2, 20)], false),
            (&[("a", 3, 10), ("b", 2, 20)], false),
            (&[("a", 1, 10)], false),
            (&[("b", 2, 20)], false),
            // Renamed between the looks, or while the second went past.
            (&[("a", 3, 0), ("a.1", 1, 10), ("b", 2, 20)], false),
            (&[("a", 1, 10), ("b", 2, 20), ("c", 2, 20)], false),
            (&[("a", 1, 10), ("b", 2, 20), ("c", 3, 20), ("d", 3, 20)], false),
        ] {
            assert_eq!(scan(&before).led_to(&scan(after)), agrees, "{after:?}");
        }
    }

    #[test]
    fn stamps_settle() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let ns = super::super::past::milliseconds(at("2026-11-24T00:00:00.500Z")) * 1_000_000;
        let stamp = |changed_ns, modified_ns| Stamp { device: 1, inode: 1, size: 1, changed_ns, modified_ns };
        assert!(!stamp(ns, ns).is_settled(at("2026-11-24T00:00:00.550Z")));
        assert!(stamp(ns, ns).is_settled(at("2026-11-24T00:00:00.551Z")));
        assert!(!stamp(ns, ns + 1_000_000).is_settled(at("2026-11-24T00:00:00.551Z")));
        let whole = ns - 500_000_000;
        assert!(!stamp(whole, whole).is_settled(at("2026-11-24T00:00:02Z")));
        assert!(stamp(whole, whole).is_settled(at("2026-11-24T00:00:02.001Z")));
    }
}
