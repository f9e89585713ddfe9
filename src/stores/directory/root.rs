//! The top of a directory store, and what is done with single objects below it.

use super::{
    super::{
        error::{FileError, RootGone},
        files::{Done, failed, generic, too_short},
        key,
        large::LargeObject,
    },
    folder::{Folder, Identity, Slot, is},
    walk::describe,
};
use bytes::Bytes;
use object_store::{
    Attributes, Error, GetOptions, GetRange, GetResult, GetResultPayload, PutPayload, Result, path::Path,
};
use rustix::fs::FileType;
use sha2::Digest;
use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path as FilePath, PathBuf},
    sync::{Mutex, MutexGuard},
};

/// The directory that was opened. It is held open: what is done below it is done there and nowhere else.
#[derive(Debug)]
pub(super) struct Root {
    top: Folder,
    identity: Identity,
    /// Folders whose entries, from the top down, are known to be on stable storage.
    durable: Mutex<BTreeMap<PathBuf, Identity>>,
    /// Held while the way is cleared for an object.
    clearing: Mutex<()>,
}

/// The names of the folders in a key or a prefix. object_store's paths never have `.` or `..` among them.
fn names(folders: &str) -> impl Iterator<Item = &str> {
    folders.split('/').filter(|name| !name.is_empty())
}

/// The folders above an object, and its name in the last of them.
fn split(key: &Path) -> (&str, &str) {
    key.as_ref().rsplit_once('/').unwrap_or(("", key.as_ref()))
}

impl Root {
    pub(super) fn open(path: &FilePath) -> io::Result<Self> {
        let top = Folder::top(fs::canonicalize(path)?)?;
        let identity = top.identity().map_err(|error| error.source)?;
        Ok(Root { top, identity, durable: Mutex::default(), clearing: Mutex::default() })
    }

    pub(super) fn path(&self) -> &FilePath {
        self.top.path()
    }

    /// Refuses to work in anything but the directory that was opened, and in that once it is elsewhere.
    pub(super) fn check(&self) -> Result<()> {
        let gone = |what| {
            let path = self.path().display().to_string();
            generic(RootGone { path, what })
        };
        match fs::metadata(self.path()) {
            Ok(now) if Identity::new(now.dev(), now.ino()) == self.identity => Ok(()),
            Ok(_) => Err(gone("is no longer the one that was opened (unmounted, or replaced)")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone("is gone")),
            Err(error) => Err(failed(self.path(), error)),
        }
    }

    /// The folder of a prefix, by way of folders only.
    pub(super) fn folder(&self, prefix: &str) -> Done<Folder> {
        names(prefix).try_fold(self.top.clone(), |above, name| above.folder(name))
    }

    /// Where an object lies, if the folders above it are there.
    fn slot<'key>(&self, key: &'key Path) -> Done<Slot<'key>> {
        let (above, name) = split(key);
        Ok(self.folder(above)?.slot(name))
    }

    /// The same, for reading: an object whose folder is missing, or is none, is missing.
    fn held<'key>(&self, key: &'key Path) -> Result<Slot<'key>> {
        self.slot(key).map_err(|error| error.missing(key))
    }

    /// The same, for writing: makes the folders, and makes sure that their entries are on stable storage.
    fn made<'key>(&self, key: &'key Path) -> Done<Slot<'key>> {
        let (above, name) = split(key);
        let folder = names(above).try_fold(self.top.clone(), |above, name| self.durable_folder(&above, name))?;
        Ok(folder.slot(name))
    }

    /// A folder that is there already may have been made a moment ago by a thread or a process that has not synced
    /// it, and perhaps never will. One that this process has seen there may have been replaced since.
    fn durable_folder(&self, above: &Folder, name: &str) -> Done<Folder> {
        let folder = match above.folder(name) {
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                above.make(name)?;
                above.folder(name)?
            }
            other => other?,
        };
        let identity = folder.identity()?;
        if self.durable().get(folder.path()) != Some(&identity) {
            above.sync()?;
            self.durable().insert(folder.path().to_owned(), identity);
        }
        Ok(folder)
    }

    fn durable(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Identity>> {
        self.durable.lock().expect("nothing panics while holding it")
    }

    pub(super) fn settle(&self, key: &Path) -> Result<()> {
        let slot = self.held(key)?;
        let (file, _) = slot.open(key)?;
        file.sync_all().map_err(|error| failed(&slot.path(), error))?;
        Ok(self.made(key)?.folder.sync()?)
    }

    pub(super) fn put(&self, key: &Path, payload: &PutPayload, create: bool) -> Result<()> {
        let target = self.made(key)?;
        if create && target.stat().is_ok() {
            return Err(FileError::new(&target.path(), io::ErrorKind::AlreadyExists).taken(key));
        }
        let (mut file, staged) = target.stage()?;
        let written = payload.iter().try_for_each(|piece| file.write_all(piece)).and_then(|()| file.sync_all());
        written.map_err(|error| failed(&target.path(), error))?;
        drop(file);
        staged.publish(create).map_err(|error| error.taken(key))?;
        Ok(target.folder.sync()?)
    }

    /// Creates an object from a file, which must still be what its digest says.
    pub(super) fn create_from(&self, key: &Path, object: &LargeObject) -> Result<()> {
        let target = self.made(key)?;
        if target.stat().is_ok() {
            return Err(FileError::new(&target.path(), io::ErrorKind::AlreadyExists).taken(key));
        }
        let (mut file, staged) = target.stage()?;
        let written = copied(object, &mut file).and_then(|()| file.sync_all());
        written.map_err(|error| failed(&target.path(), error))?;
        drop(file);
        staged.publish(true).map_err(|error| error.taken(key))?;
        Ok(target.folder.sync()?)
    }

    pub(super) fn copy(&self, from: &Path, to: &Path, create: bool) -> Result<()> {
        let source = self.held(from)?;
        let (mut file, _) = source.open(from)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(|error| failed(&source.path(), error))?;
        self.put(to, &PutPayload::from(content), create)
    }

    pub(super) fn rename(&self, from: &Path, to: &Path, create: bool) -> Result<()> {
        let source = self.held(from)?;
        source.stat().map_err(|error| error.missing(from))?;
        let target = match key::is_quarantined(to.as_ref()) {
            true => {
                let _one_at_a_time = self.clearing.lock().expect("nothing panics while holding it");
                self.made_aside(to)?
            }
            false => self.made(to)?,
        };
        source.rename(&target, create).map_err(|error| error.taken(to))?;
        target.folder.sync()?;
        Ok(source.folder.sync()?)
    }

    pub(super) fn delete(&self, key: &Path) -> Result<()> {
        let slot = self.held(key)?;
        slot.remove().map_err(|error| error.missing(key))?;
        Ok(slot.folder.sync()?)
    }

    pub(super) fn get(&self, key: &Path, options: &GetOptions) -> Result<GetResult> {
        let slot = self.held(key)?;
        let (file, stat) = slot.open(key)?;
        let meta = describe(key.clone(), &stat);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => within(range, meta.size).ok_or_else(|| too_short(&slot.path()))?,
            None => 0..meta.size,
        };
        let payload = GetResultPayload::File(file, slot.path());
        Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
    }

    pub(super) fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let slot = self.held(key)?;
        let path = slot.path();
        let (file, stat) = slot.open(key)?;
        let size = describe(key.clone(), &stat).size;
        let read = |range: &Range<u64>| {
            if range.end > size || range.is_empty() {
                return Err(too_short(&path));
            }
            let length = usize::try_from(range.end - range.start).map_err(|_| too_short(&path))?;
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, range.start).map_err(|error| failed(&path, error))?;
            Ok(Bytes::from(piece))
        };
        ranges.iter().map(read).collect()
    }

    /// Moves what stands in the place of a folder above an object, and is none, to quarantine: a link itself, not what
    /// it leads to. Says where it is now; `None` if nothing is in the way.
    pub(super) fn clear_way(&self, key: &Path) -> Result<Option<String>> {
        // Of two that heal below the same link, the second must not move the folder that the first has made.
        let _one_at_a_time = self.clearing.lock().expect("nothing panics while holding it");
        let Some(obstacle) = self.obstacle(key)? else { return Ok(None) };
        let source = self.slot(&obstacle)?;
        for number in 0..key::MAX_QUARANTINED {
            let aside = key::quarantined(obstacle.as_ref(), number);
            let to = Path::parse(&aside)?;
            let target = self.made_aside(&to)?;
            match source.rename(&target, true) {
                Ok(()) if is(&target.stat()?, FileType::Directory) => {
                    // Another process was quicker, and this is the folder that it has made.
                    target.rename(&source, true)?;
                    return Ok(None);
                }
                Ok(()) => {
                    target.folder.sync()?;
                    source.folder.sync()?;
                    return Ok(Some(aside));
                }
                Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.is_absence() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let full = io::Error::new(io::ErrorKind::PermissionDenied, key::quarantine_is_full());
        Err(failed(&source.path(), full))
    }

    /// The same as [`Root::made`], for what goes to quarantine: whoever writes to a store must not keep it from being
    /// healed by putting something in the way there. Whoever calls this holds `clearing`.
    fn made_aside<'key>(&self, key: &'key Path) -> Done<Slot<'key>> {
        for _ in 0..key::MAX_QUARANTINED {
            match self.made(key) {
                Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => self.clear_quarantine(key)?,
                other => return other,
            }
        }
        self.made(key)
    }

    /// Moves what stands in the place of a folder of the quarantine, and is none, aside: a link itself, which is followed
    /// nowhere. What stands in the place of the quarantine itself goes into it.
    fn clear_quarantine(&self, key: &Path) -> Done<()> {
        let Some(obstacle) = self.obstacle(key)? else { return Ok(()) };
        let (above, name) = split(&obstacle);
        let (folder, source) = (self.folder(above)?, self.slot(&obstacle)?);
        let marks = if above.is_empty() { '#' } else { '.' };
        let Some(aside) = moved_to_a_free(&source, &folder, |number| format!("{name}{marks}{number}"))? else {
            return Ok(());
        };
        if above.is_empty() {
            let quarantine = self.durable_folder(&self.top, name)?;
            let inside = |number| if number == 1 { name.to_owned() } else { format!("{name}.{number}") };
            moved_to_a_free(&folder.slot(&aside), &quarantine, inside)?;
            quarantine.sync()?;
        }
        folder.sync()
    }

    /// What stands above an object where a folder should, and is none.
    fn obstacle(&self, key: &Path) -> Done<Option<Path>> {
        let (above, _) = split(key);
        let (mut folder, mut walked) = (self.top.clone(), Path::default());
        for name in names(above) {
            walked = walked.join(name);
            match folder.folder(name) {
                Ok(below) => folder = below,
                Err(error) if error.source.kind() == io::ErrorKind::NotADirectory => return Ok(Some(walked)),
                Err(error) if error.is_absence() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Moves what is no folder to the first name in a folder that is free, and says which. `None`: it is gone, or is the
/// folder by now that another process has made.
fn moved_to_a_free(source: &Slot<'_>, folder: &Folder, name: impl Fn(u32) -> String) -> Done<Option<String>> {
    for number in 1..=key::MAX_QUARANTINED {
        let name = name(number);
        let target = folder.slot(&name);
        match source.rename(&target, true) {
            Ok(()) if is(&target.stat()?, FileType::Directory) => return target.rename(source, true).map(|()| None),
            Ok(()) => return Ok(Some(name)),
            Err(error) if error.source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.is_absence() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    let full = io::Error::new(io::ErrorKind::PermissionDenied, key::quarantine_is_full());
    Err(FileError::new(&source.path(), full))
}

/// Copies an object out of its spool.
fn copied(object: &LargeObject, to: &mut fs::File) -> io::Result<()> {
    let mut hasher = sha2::Sha256::new();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < object.size {
        let count = object.file.read_at(&mut piece, at)?;
        if count == 0 {
            break;
        }
        hasher.update(&piece[..count]);
        to.write_all(&piece[..count])?;
        at += count as u64;
    }
    match at == object.size && <[u8; 32]>::from(hasher.finalize()) == object.sha256.0 {
        true => Ok(()),
        false => Err(io::Error::other("the spool is not what was written there: check its disk")),
    }
}

fn within(range: &GetRange, size: u64) -> Option<Range<u64>> {
    match range {
        GetRange::Bounded(range) if range.start < size && range.start <= range.end => {
            Some(range.start..range.end.min(size))
        }
        GetRange::Offset(from) if *from < size => Some(*from..size),
        GetRange::Suffix(length) => Some(size.saturating_sub(*length)..size),
        _ => None,
    }
}

/// What a directory store cannot do.
pub(super) fn unsupported(what: &str) -> Error {
    Error::NotImplemented { operation: what.to_owned(), implementer: "a directory".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_another_has_replaced_is_synced_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let (key, folder) = (Path::from("a/b"), root.path().join("a"));
        let mut seen = Vec::new();
        for away in ["away", "further"] {
            root.put(&key, &PutPayload::from_static(b"x"), true).unwrap();
            seen.push(root.durable().get(&folder).copied());
            // Moved away, not removed: its inode must not be given to the next.
            fs::rename(&folder, root.path().join(away)).unwrap();
            fs::create_dir(&folder).unwrap();
        }
        assert!(seen[0].is_some() && seen[1].is_some() && seen[0] != seen[1], "{seen:?}");
    }
}
