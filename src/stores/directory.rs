//! A directory as an object store.
//!
//! object_store's own `LocalFileSystem` would make a directory that has vanished again and fill whatever lies
//! beneath an unmounted disk; it gives up a listing over one strange name; it leaves a directory entry unsynced when
//! another writer, or one that was killed, made the directory. Hence this one. Every write is: a file beside its
//! target, fsync, rename onto the target unless there is one, fsync of the directory and of every directory above it
//! that this process has not yet seen on stable storage.

use super::{
    error::RootGone,
    files::{
        above, absent_or_failed, exists, failed, generic, make_directory, open_regular, publish, stage, sync_directory,
        too_short,
    },
    key,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    RenameOptions, RenameTargetMode, Result, path::Path,
};
use rustix::io::Errno;
use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, Metadata},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex},
};
use tokio::sync::mpsc;

/// No key of ours has more parts.
const MAX_DEPTH: usize = 16;

/// A listing is handed over in batches, so that its reader can tell slow from hung.
const LIST_BATCH: usize = 512;

/// An object store in a directory.
#[derive(Clone, Debug)]
pub(super) struct Directory(Arc<Root>);

#[derive(Debug)]
struct Root {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Directories whose entries, from the root down, are known to be on stable storage.
    durable: Mutex<BTreeSet<PathBuf>>,
}

impl Directory {
    /// The store in an existing directory. From now on, another directory in its place counts as gone.
    pub(super) fn open(path: &FilePath) -> io::Result<Self> {
        let path = fs::canonicalize(path)?;
        let metadata = fs::metadata(&path)?;
        if !metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        fs::read_dir(&path)?;
        let (device, inode) = (metadata.dev(), metadata.ino());
        Ok(Directory(Arc::new(Root { path, device, inode, durable: Mutex::default() })))
    }

    pub(super) fn path(&self) -> &FilePath {
        &self.0.path
    }

    /// Makes sure that a file that is there stays there: syncs it and the directories above it.
    pub(super) async fn settle(&self, key: &Path) -> Result<()> {
        let key = key.clone();
        self.run(move |root| root.settle(&key)).await
    }

    /// Runs blocking work on a thread that may block.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Root) -> Result<T> + Send + 'static) -> Result<T> {
        let root = self.0.clone();
        tokio::task::spawn_blocking(move || {
            root.check()?;
            work(&root)
        })
        .await?
    }
}

impl Root {
    /// Refuses to work in anything but the directory that was opened.
    fn check(&self) -> Result<()> {
        let gone = |what| {
            let path = self.path.display().to_string();
            generic(RootGone { path, what })
        };
        match fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) == (self.device, self.inode) => Ok(()),
            Ok(_) => Err(gone("is no longer the one that was opened (unmounted, or replaced)")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(gone("is gone")),
            Err(error) => Err(failed(&self.path, error)),
        }
    }

    fn file(&self, key: &Path) -> PathBuf {
        if key.is_root() { self.path.clone() } else { self.path.join(key.as_ref()) }
    }

    /// Makes the directories above a key, and makes sure that their entries are on stable storage.
    ///
    /// A directory that is there already may have been made a moment ago by a thread or a process that has not
    /// synced it, and perhaps never will.
    fn make_directories(&self, key: &Path) -> Result<()> {
        let mut parent = self.path.clone();
        let Some((above, _)) = key.as_ref().rsplit_once('/') else { return Ok(()) };
        for part in above.split('/') {
            let dir = parent.join(part);
            if !self.durable().contains(&dir) {
                make_directory(&dir).map_err(|error| failed(&dir, error))?;
                sync_directory(&parent)?;
                self.durable().insert(dir.clone());
            }
            parent = dir;
        }
        Ok(())
    }

    fn durable(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.durable.lock().expect("nothing panics while holding it")
    }

    fn settle(&self, key: &Path) -> Result<()> {
        let path = self.file(key);
        let (file, _) = open_regular(key, &path)?;
        file.sync_all().map_err(|error| failed(&path, error))?;
        self.make_directories(key)?;
        sync_directory(above(&path))
    }

    fn put(&self, key: &Path, payload: &PutPayload, create: bool) -> Result<()> {
        let target = self.file(key);
        if create && fs::symlink_metadata(&target).is_ok() {
            return Err(exists(key, Errno::EXIST.into()));
        }
        self.make_directories(key)?;
        let (mut file, staged) = match stage(&target) {
            // Somebody removed the directory since it was made.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.durable().clear();
                self.make_directories(key)?;
                stage(&target)
            }
            other => other,
        }
        .map_err(|error| failed(&target, error))?;
        let written = payload.iter().try_for_each(|piece| file.write_all(piece)).and_then(|()| file.sync_all());
        written.map_err(|error| failed(&target, error))?;
        drop(file);
        staged.publish(key, &target, create)?;
        sync_directory(above(&target))
    }

    fn rename(&self, from: &Path, to: &Path, create: bool) -> Result<()> {
        let (source, target) = (self.file(from), self.file(to));
        if let Err(error) = fs::symlink_metadata(&source) {
            return Err(absent_or_failed(from, &source, error));
        }
        self.make_directories(to)?;
        publish(&source, &target, create).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => exists(to, error),
            _ => failed(&target, error),
        })?;
        sync_directory(above(&target))?;
        sync_directory(above(&source))
    }

    fn delete(&self, key: &Path) -> Result<()> {
        let path = self.file(key);
        fs::remove_file(&path).map_err(|error| absent_or_failed(key, &path, error))?;
        sync_directory(above(&path))
    }

    fn get(&self, key: &Path, options: &GetOptions) -> Result<GetResult> {
        let path = self.file(key);
        let (file, metadata) = open_regular(key, &path)?;
        let meta = describe(key.clone(), &metadata);
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => within(range, meta.size).ok_or_else(|| too_short(&path))?,
            None => 0..meta.size,
        };
        let payload = GetResultPayload::File(file, path);
        Ok(GetResult { payload, meta, range, attributes: Attributes::default(), extensions: Default::default() })
    }

    fn get_ranges(&self, key: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let path = self.file(key);
        let (file, metadata) = open_regular(key, &path)?;
        let read = |range: &Range<u64>| {
            if range.end > metadata.len() || range.is_empty() {
                return Err(too_short(&path));
            }
            let length = usize::try_from(range.end - range.start).map_err(|_| too_short(&path))?;
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, range.start).map_err(|error| failed(&path, error))?;
            Ok(Bytes::from(piece))
        };
        ranges.iter().map(read).collect()
    }

    /// Sends every object below a prefix, and at last one empty batch: a listing that ends without it is incomplete.
    fn walk(&self, prefix: &Path, batches: &mpsc::Sender<Result<Vec<ObjectMeta>>>) -> Result<()> {
        let mut batch = Vec::new();
        let mut pending = vec![(prefix.clone(), prefix.parts_count())];
        while let Some((dir, depth)) = pending.pop() {
            for entry in self.entries(&dir)? {
                match entry {
                    Entry::Directory(key) if depth < MAX_DEPTH => pending.push((key, depth + 1)),
                    Entry::Directory(key) => batch.push(foreign(&key)),
                    Entry::Object(meta) => batch.push(meta),
                }
                if batch.len() >= LIST_BATCH && batches.blocking_send(Ok(std::mem::take(&mut batch))).is_err() {
                    return Ok(());
                }
            }
        }
        if !batch.is_empty() {
            let _ = batches.blocking_send(Ok(batch));
        }
        let _ = batches.blocking_send(Ok(Vec::new()));
        Ok(())
    }

    /// What lies directly in a directory. One that is not there is empty.
    fn entries(&self, dir: &Path) -> Result<Vec<Entry>> {
        let path = self.file(dir);
        let absent = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
        let read = match fs::read_dir(&path) {
            Ok(read) => read,
            Err(error) if absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(failed(&path, error)),
        };
        let mut entries = Vec::new();
        for entry in read {
            let entry = entry.map_err(|error| failed(&path, error))?;
            match self.entry(dir, &entry) {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => {}
                // Removed while we looked.
                Err(error) if absent(&error) => {}
                Err(error) => return Err(failed(&path, error)),
            }
        }
        Ok(entries)
    }

    fn entry(&self, dir: &Path, entry: &fs::DirEntry) -> io::Result<Option<Entry>> {
        let kind = entry.file_type()?;
        let name = entry.file_name();
        if dir.is_root() && kind.is_dir() && name == "lost+found" {
            return Ok(None);
        }
        let below = |name: &str| if dir.is_root() { name.to_owned() } else { format!("{dir}/{name}") };
        let plain = name.to_str().filter(|name| Path::parse(name).is_ok());
        let Some(key) = plain.and_then(|name| Path::parse(below(name)).ok()) else {
            return Ok(Some(Entry::Object(foreign(&Path::from(below(&name.to_string_lossy()))))));
        };
        if kind.is_dir() && name.to_str().is_some_and(key::is_part) {
            return Ok(Some(Entry::Directory(key)));
        }
        // Neither other people's folders nor links, pipes and devices are looked into.
        if !kind.is_file() {
            return Ok(Some(Entry::Object(foreign(&key))));
        }
        Ok(Some(Entry::Object(describe(key, &entry.metadata()?))))
    }
}

enum Entry {
    Directory(Path),
    Object(ObjectMeta),
}

/// A name that no object of ours has, given so that it can be counted: with `%` in it, it is no key.
fn foreign(key: &Path) -> ObjectMeta {
    let location = Path::from(format!("{key}%"));
    ObjectMeta { location, last_modified: chrono::DateTime::UNIX_EPOCH, size: 0, e_tag: None, version: None }
}

fn describe(location: Path, metadata: &Metadata) -> ObjectMeta {
    let last_modified = metadata.modified().map(Into::into).unwrap_or(chrono::DateTime::UNIX_EPOCH);
    let e_tag =
        format!("\"{:x}-{:x}.{:x}-{:x}\"", metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.len());
    ObjectMeta { location, last_modified, size: metadata.len(), e_tag: Some(e_tag), version: None }
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

impl fmt::Display for Directory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Directory({})", self.0.path.display())
    }
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(unsupported("conditional update")),
        };
        let key = location.clone();
        self.run(move |root| root.put(&key, &payload, create)).await?;
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(unsupported("upload in parts; objects are small enough to be written whole"))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.clone();
        self.run(move |root| root.get(&key, &options)).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (key, ranges) = (location.clone(), ranges.to_vec());
        self.run(move |root| root.get_ranges(&key, &ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let directory = self.clone();
        let delete = move |location: Result<Path>| {
            let directory = directory.clone();
            async move {
                let key = location?;
                let deleted = key.clone();
                directory.run(move |root| root.delete(&key)).await?;
                Ok(deleted)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (sender, receiver) = mpsc::channel(4);
        let (directory, prefix) = (self.clone(), prefix.cloned().unwrap_or_default());
        let start = async move {
            tokio::task::spawn_blocking(move || {
                let walked = directory.0.check().and_then(|()| directory.0.walk(&prefix, &sender));
                if let Err(error) = walked {
                    let _ = sender.blocking_send(Err(error));
                }
            });
            batches(receiver)
        };
        futures_util::stream::once(start).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let prefix = prefix.cloned().unwrap_or_default();
        self.run(move |root| {
            let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
            for entry in root.entries(&prefix)? {
                match entry {
                    Entry::Directory(key) => common_prefixes.push(key),
                    Entry::Object(meta) => objects.push(meta),
                }
            }
            common_prefixes.sort_unstable();
            objects.sort_unstable_by(|one, other| one.location.cmp(&other.location));
            Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
        })
        .await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let create = matches!(options.mode, CopyMode::Create);
        let (from, to) = (from.clone(), to.clone());
        self.run(move |root| {
            let path = root.file(&from);
            open_regular(&from, &path)?;
            let content = fs::read(&path).map_err(|error| failed(&path, error))?;
            root.put(&to, &PutPayload::from(content), create)
        })
        .await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let create = matches!(options.target_mode, RenameTargetMode::Create);
        let (from, to) = (from.clone(), to.clone());
        self.run(move |root| root.rename(&from, &to, create)).await
    }
}

fn unsupported(what: &str) -> Error {
    Error::NotImplemented { operation: what.to_owned(), implementer: "a directory".to_owned() }
}

/// The objects of the batches, in order; an error where they end without the empty one.
fn batches(receiver: mpsc::Receiver<Result<Vec<ObjectMeta>>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let next = |state: Option<mpsc::Receiver<Result<Vec<ObjectMeta>>>>| async move {
        let mut receiver = state?;
        match receiver.recv().await {
            Some(Ok(batch)) if batch.is_empty() => None,
            Some(Ok(batch)) => Some((batch.into_iter().map(Ok).collect::<Vec<_>>(), Some(receiver))),
            Some(Err(error)) => Some((vec![Err(error)], None)),
            None => {
                let cut = io::Error::other("the listing broke off");
                Some((vec![Err(generic(cut))], None))
            }
        }
    };
    futures_util::stream::unfold(Some(receiver), next).flat_map(futures_util::stream::iter).boxed()
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
