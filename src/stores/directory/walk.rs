//! What lies below a prefix of a directory store. A link is a name like any other, and is not looked into.

use super::{
    super::{
        error::{FileError, RootGone},
        files::{Done, generic},
        key,
    },
    folder::{Folder, is},
    root::Root,
};
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{ListResult, ObjectMeta, Result, path::Path};
use rustix::fs::{DirEntry, FileType, Stat};
use std::io;
use tokio::sync::mpsc;

/// No key of ours has more parts. So many folders are open at most while a store is listed.
const MAX_DEPTH: usize = 16;

/// A listing is handed over in batches, so that its reader can tell slow from hung.
const LIST_BATCH: usize = 512;

/// Objects on their way to whoever lists them. An empty one is the last: a listing that ends without it is incomplete.
pub(super) type Batch = Result<Vec<ObjectMeta>>;

enum Entry {
    /// Its name and its key.
    Folder(String, Path),
    Object(ObjectMeta),
}

/// Where a walk brings what it finds.
struct Sink<'a> {
    batch: Vec<ObjectMeta>,
    batches: &'a mpsc::Sender<Batch>,
}

impl Sink<'_> {
    fn take(&mut self, meta: ObjectMeta) -> Result<()> {
        self.batch.push(meta);
        if self.batch.len() < LIST_BATCH { Ok(()) } else { self.send() }
    }

    fn send(&mut self) -> Result<()> {
        let sent = self.batches.blocking_send(Ok(std::mem::take(&mut self.batch)));
        sent.map_err(|_| generic(io::Error::other("nobody waits for the listing any more")))
    }
}

/// Sends every object below a prefix, and at last one empty batch.
pub(super) fn walk(root: &Root, prefix: &Path, batches: &mpsc::Sender<Batch>) -> Result<()> {
    let mut sink = Sink { batch: Vec::new(), batches };
    if let Some(folder) = present(root.folder(prefix.as_ref()))? {
        descend(&folder, prefix, prefix.parts_count(), &mut sink)?;
    }
    if !sink.batch.is_empty() {
        sink.send()?;
    }
    sink.send()
}

/// Keeps nothing of what it has passed, however many names there are: who listens bounds what is kept.
fn descend(folder: &Folder, key: &Path, depth: usize, sink: &mut Sink<'_>) -> Result<()> {
    for found in entries(folder, key)? {
        match found? {
            Entry::Folder(name, key) if depth < MAX_DEPTH => {
                // Removed while we looked, or something else now.
                if let Some(below) = present(folder.folder(&name))? {
                    descend(&below, &key, depth + 1, sink)?;
                }
            }
            Entry::Folder(_, key) => sink.take(foreign(&key))?,
            Entry::Object(meta) => sink.take(meta)?,
        }
    }
    Ok(())
}

/// What lies directly below a prefix, unless that is more than `most` names.
pub(super) fn level(root: &Root, prefix: &Path, most: u64) -> Result<ListResult> {
    let (mut common_prefixes, mut objects) = (Vec::new(), Vec::new());
    if let Some(folder) = present(root.folder(prefix.as_ref()))? {
        for entry in entries(&folder, prefix)? {
            match entry? {
                Entry::Folder(_, key) => common_prefixes.push(key),
                Entry::Object(meta) => objects.push(meta),
            }
            if (common_prefixes.len() + objects.len()) as u64 > most {
                let path = folder.path().display().to_string();
                return Err(generic(RootGone { path, what: "holds more names than any repository has" }));
            }
        }
    }
    common_prefixes.sort_unstable();
    objects.sort_unstable_by(|one, other| one.location.cmp(&other.location));
    Ok(ListResult { common_prefixes, objects, extensions: Default::default() })
}

/// What is not there is empty, and so is what is no folder: a link leads to other people's objects.
fn present<T>(found: Done<T>) -> Done<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_absence() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What lies directly in a folder, read as it is asked for.
fn entries<'a>(folder: &'a Folder, key: &'a Path) -> Done<impl Iterator<Item = Done<Entry>> + 'a> {
    let read = present(folder.entries())?;
    Ok(read.into_iter().flatten().filter_map(move |found| match found {
        // Removed while we looked.
        Ok(found) => present(entry(folder, key, &found)).map(Option::flatten).transpose(),
        Err(errno) => Some(Err(FileError::new(folder.path(), errno))),
    }))
}

/// `None` for what belongs there and is no object.
fn entry(folder: &Folder, key: &Path, found: &DirEntry) -> Done<Option<Entry>> {
    let bytes = found.file_name().to_bytes();
    if matches!(bytes, b"." | b"..") {
        return Ok(None);
    }
    let below = |name: &str| if key.is_root() { name.to_owned() } else { format!("{key}/{name}") };
    let named = str::from_utf8(bytes).ok().filter(|name| Path::parse(name).is_ok());
    let Some((name, below)) = named.and_then(|name| Some((name, Path::parse(below(name)).ok()?))) else {
        return Ok(Some(Entry::Object(foreign(&Path::from(below(&String::from_utf8_lossy(bytes)))))));
    };
    // Some file systems only tell what it is when asked for it.
    let mut kind = found.file_type();
    if kind == FileType::Unknown {
        kind = FileType::from_raw_mode(folder.slot(name).stat()?.st_mode);
    }
    Ok(match kind {
        FileType::Directory if key.is_root() && name == "lost+found" => None,
        FileType::Directory if key::is_part(name) => Some(Entry::Folder(name.to_owned(), below)),
        FileType::RegularFile => {
            let stat = folder.slot(name).stat()?;
            // It may be something else by now.
            let object = if is(&stat, FileType::RegularFile) { describe(below, &stat) } else { foreign(&below) };
            Some(Entry::Object(object))
        }
        // Neither other people's folders nor links, pipes and devices are looked into.
        _ => Some(Entry::Object(foreign(&below))),
    })
}

/// A name that no object of ours has, given so that it can be counted: with `%` in it, it is no key.
fn foreign(key: &Path) -> ObjectMeta {
    let location = Path::from(format!("{key}%"));
    ObjectMeta { location, last_modified: chrono::DateTime::UNIX_EPOCH, size: 0, e_tag: None, version: None }
}

pub(super) fn describe(location: Path, stat: &Stat) -> ObjectMeta {
    // The types of these differ from one processor to another.
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    let last_modified = chrono::DateTime::from_timestamp(stat.st_mtime, nanoseconds).unwrap_or_default();
    let e_tag = format!("\"{:x}-{:x}.{nanoseconds:x}-{size:x}\"", stat.st_ino, stat.st_mtime);
    ObjectMeta { location, last_modified, size, e_tag: Some(e_tag), version: None }
}

/// The objects of the batches, in order; an error where they end without the empty one.
pub(super) fn objects(receiver: mpsc::Receiver<Batch>) -> BoxStream<'static, Result<ObjectMeta>> {
    let next = |state: Option<mpsc::Receiver<Batch>>| async move {
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
