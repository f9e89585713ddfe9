//! What there is in a data directory and its tablespaces, and what of it belongs into a snapshot.

use super::{
    failures,
    names::{self, Fork, RelationFile},
};
use crate::{
    core::{failure::Failure, path::StoredPath},
    world,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs::{self, DirEntry, Metadata},
    io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// No data directory is as deep.
const DEPTH_MAX: usize = 16;
/// The largest file that is kept in memory from the beginning: configuration, which is replaced as a whole.
const HELD_BYTES_MAX: u64 = 1 << 20;

/// What tells a file that has not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified_ns: i64,
    pub(super) changed_ns: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether a later change is certain to give other times: none of them is too near to the moment it was read.
    pub(super) fn is_settled(&self, now_ms: i64) -> bool {
        // File systems that keep whole seconds, and the kernel's own tick elsewhere.
        let settling_ms = if self.changed_ns % 1_000_000_000 == 0 { 2_000 } else { 50 };
        [self.changed_ns, self.modified_ns].iter().all(|ns| (ns / 1_000_000).saturating_add(settling_ms) < now_ms)
    }
}

/// What something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    /// A file of a relation: pages.
    Relation(RelationFile),
    /// Any other file.
    File,
    /// A file that was read as a whole when it was found.
    Held(Vec<u8>),
}

/// Something that belongs into the snapshot.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) path: StoredPath,
    /// Where it is.
    pub(super) place: PathBuf,
    pub(super) kind: Kind,
    pub(super) stamp: Stamp,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Everything that was found, in the order of the paths.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) found: Vec<Found>,
    pub(super) notes: Vec<String>,
    pub(super) has_tablespaces: bool,
}

/// Walks a data directory. What vanishes meanwhile was dropped: replay does the same.
pub(super) fn walk(data_dir: &Path) -> Result<Walk, Failure> {
    let mut walk = Walk::default();
    walk.directory(data_dir, "", 0)?;
    walk.found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk)
}

impl Walk {
    fn directory(&mut self, place: &Path, path: &str, depth: usize) -> Result<(), Failure> {
        if depth > DEPTH_MAX {
            return Err(failures::unfit(format!("{} is nested too deeply", place.display())));
        }
        let Some(children) = vanished(place, read_sorted(place))? else { return Ok(()) };
        let unlogged = if names::holds_relations(path) { unlogged(&children) } else { BTreeSet::new() };
        for child in children {
            let name = child.file_name();
            let Some(name) = name.to_str() else {
                self.notes.push(format!("{} is left out: its name is not one of PostgreSQL's", child.path().display()));
                continue;
            };
            if names::is_left_out(name, path.is_empty()) || is_unlogged(name, &unlogged) {
                continue;
            }
            let below = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            if below == super::control::PATH {
                continue;
            }
            if let Some(metadata) = vanished(&child.path(), fs::symlink_metadata(child.path()))? {
                self.child(&child.path(), &below, &metadata, depth)?;
            }
        }
        Ok(())
    }

    fn child(&mut self, place: &Path, path: &str, metadata: &Metadata, depth: usize) -> Result<(), Failure> {
        if metadata.is_symlink() {
            return self.link(place, path, depth);
        }
        if metadata.is_dir() {
            self.push(place, path, Kind::Directory, metadata)?;
            return match path {
                "pg_wal" => self.empty_log(place),
                _ if names::is_emptied(path) => Ok(()),
                _ => self.directory(place, path, depth + 1),
            };
        }
        if !metadata.is_file() {
            self.notes.push(format!("{} is left out: it is neither file nor directory", place.display()));
            return Ok(());
        }
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let relation = names::holds_relations(directory).then(|| RelationFile::parse(name)).flatten();
        let kind = match relation {
            Some(relation) => Kind::Relation(relation),
            None if directory.is_empty() && name.ends_with(".conf") && metadata.len() <= HELD_BYTES_MAX => {
                let Some(bytes) = vanished(place, read_held(place))? else { return Ok(()) };
                Kind::Held(bytes)
            }
            None => Kind::File,
        };
        self.push(place, path, kind, metadata)
    }

    /// Tablespaces and the log may be elsewhere; they become directories of the snapshot.
    fn link(&mut self, place: &Path, path: &str, depth: usize) -> Result<(), Failure> {
        let is_tablespace =
            path.strip_prefix("pg_tblspc/").is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()));
        if !is_tablespace && path != "pg_wal" {
            self.notes.push(format!("{} is left out: it is a link", place.display()));
            return Ok(());
        }
        let Some(target) = vanished(place, fs::canonicalize(place))? else { return Ok(()) };
        let Some(metadata) = vanished(&target, fs::metadata(&target))? else { return Ok(()) };
        self.push(&target, path, Kind::Directory, &metadata)?;
        if path == "pg_wal" {
            return self.empty_log(&target);
        }
        self.has_tablespaces = true;
        // Others may keep files beside it, such as another version's.
        let Some(children) = vanished(&target, read_sorted(&target))? else { return Ok(()) };
        for child in children.iter().filter(|child| child.file_name().as_bytes().starts_with(b"PG_")) {
            let Some(metadata) = vanished(&child.path(), fs::symlink_metadata(child.path()))? else { continue };
            if metadata.is_dir() {
                let below = format!("{path}/{}", child.file_name().to_string_lossy());
                self.push(&child.path(), &below, Kind::Directory, &metadata)?;
                self.directory(&child.path(), &below, depth + 2)?;
            }
        }
        Ok(())
    }

    /// The log comes from the archive; the server wants the directories to be there.
    fn empty_log(&mut self, place: &Path) -> Result<(), Failure> {
        for name in ["archive_status", "summaries"] {
            let folder = place.join(name);
            if let Ok(metadata) = fs::symlink_metadata(&folder)
                && metadata.is_dir()
            {
                self.push(&folder, &format!("pg_wal/{name}"), Kind::Directory, &metadata)?;
            }
        }
        Ok(())
    }

    /// Adds a configuration file that lies elsewhere, under the name that it has at the top of a data directory.
    pub(super) fn configuration(&mut self, place: &Path, path: &str) -> Result<(), Failure> {
        let metadata = fs::metadata(place).map_err(|error| failures::unreadable(place, &error))?;
        let bytes = read_held(place).map_err(|error| failures::unreadable(place, &error))?;
        // A file of that name in the data directory is not the one that the server reads.
        self.found.retain(|found| found.path.as_str() != path);
        self.push(place, path, Kind::Held(bytes), &metadata)
    }

    /// Adds a file that lies nowhere, owned as the data directory is.
    pub(super) fn held(&mut self, data_dir: &Path, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let metadata = fs::metadata(data_dir).map_err(|error| failures::unreadable(data_dir, &error))?;
        self.push(data_dir, path, Kind::Held(bytes), &metadata)?;
        self.found.last_mut().expect("just pushed").mode = 0o600;
        Ok(())
    }

    /// Adds a directory that lies elsewhere.
    pub(super) fn outer_directory(&mut self, place: &Path, path: &str) -> Result<(), Failure> {
        let metadata = fs::metadata(place).map_err(|error| failures::unreadable(place, &error))?;
        self.found.retain(|found| found.path.as_str() != path);
        self.push(place, path, Kind::Directory, &metadata)
    }

    fn push(&mut self, place: &Path, path: &str, kind: Kind, metadata: &Metadata) -> Result<(), Failure> {
        let stored = StoredPath::from_bytes(path.as_bytes());
        let path =
            stored.map_err(|error| failures::unfit(format!("{} has a bad name", place.display())).cause(error))?;
        self.found.push(Found {
            path,
            place: place.to_owned(),
            kind,
            stamp: Stamp::of(metadata),
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
        });
        Ok(())
    }
}

/// Relations of a database that have a file to begin anew from: after a restore they do.
fn unlogged(children: &[DirEntry]) -> BTreeSet<u32> {
    let files = children.iter().filter_map(|child| RelationFile::parse(child.file_name().to_str()?));
    files.filter(|file| file.fork == Fork::Initial).map(|file| file.number).collect()
}

fn is_unlogged(name: &str, unlogged: &BTreeSet<u32>) -> bool {
    RelationFile::parse(name)
        .is_some_and(|file| file.is_temporary || (file.fork != Fork::Initial && unlogged.contains(&file.number)))
}

fn read_sorted(place: &Path) -> io::Result<Vec<DirEntry>> {
    let mut children: Vec<DirEntry> = fs::read_dir(place)?.collect::<io::Result<_>>()?;
    children.sort_by_key(DirEntry::file_name);
    Ok(children)
}

fn read_held(place: &Path) -> io::Result<Vec<u8>> {
    let bytes = world::files::read(place)?;
    if bytes.len() as u64 > HELD_BYTES_MAX {
        return Err(io::Error::other("it is larger than any configuration"));
    }
    Ok(bytes)
}

fn vanished<T>(place: &Path, result: io::Result<T>) -> Result<Option<T>, Failure> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failures::unreadable(place, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn paths(walk: &Walk) -> Vec<&str> {
        walk.found.iter().map(|found| found.path.as_str()).collect()
    }

    #[test]
    fn what_belongs_into_a_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let (data, elsewhere) = (dir.path().join("data"), dir.path().join("elsewhere"));
        for folder in
            ["base/5", "base/pgsql_tmp", "global", "pg_wal/archive_status", "pg_tblspc/17/PG_15_1/5", "pg_notify"]
        {
            fs::create_dir_all(data.join(folder)).unwrap();
        }
        fs::create_dir_all(elsewhere.join("PG_15_1/5")).unwrap();
        symlink(&elsewhere, data.join("pg_tblspc/16")).unwrap();
        symlink("/etc", data.join("odd")).unwrap();
        let files = "PG_VERSION postmaster.pid backup_label base/5/1 base/5/1.1 base/5/2 base/5/2_init base/5/2_vm base/5/t1_9 \
            base/5/pg_internal.init base/pgsql_tmp/x global/pg_control global/1262 pg_wal/000000010000000000000001 \
            pg_notify/0 pg_tblspc/17/PG_15_1/5/3 postgresql.conf";
        for file in files.split_whitespace() {
            fs::write(data.join(file), "x").unwrap();
        }
        fs::write(elsewhere.join("PG_15_1/5/4"), "x").unwrap();
        fs::write(elsewhere.join("other"), "x").unwrap();
        let walk = walk(&data).unwrap();
        let expected = "PG_VERSION base base/5 base/5/1 base/5/1.1 base/5/2_init global global/1262 pg_notify pg_tblspc \
            pg_tblspc/16 pg_tblspc/16/PG_15_1 pg_tblspc/16/PG_15_1/5 pg_tblspc/16/PG_15_1/5/4 pg_tblspc/17 \
            pg_tblspc/17/PG_15_1 pg_tblspc/17/PG_15_1/5 pg_tblspc/17/PG_15_1/5/3 pg_wal pg_wal/archive_status postgresql.conf";
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        expected.sort_unstable();
        let mut found = paths(&walk);
        found.sort_unstable();
        assert_eq!(found, expected);
        assert!(walk.has_tablespaces && walk.notes.len() == 1, "{:?}", walk.notes);
    }
}
