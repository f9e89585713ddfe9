//! The files that a restore writes. However many there are, only some of them are open at a time.

use super::{failed, held};
use crate::core::{
    failure::Failure,
    manifest::{Entry, EntryKind},
    path::decode,
};
use rustix::{
    fs::{Mode, OFlags, ftruncate, mkdirat, openat, symlinkat},
    io::Errno,
};
use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

/// The most files that are open at a time; a process may often have no more than 1,024 descriptors.
const OPEN_MAX: usize = 200;

/// Files by the position of their entry, all below a directory that is held open and that only we may enter.
pub(in crate::ops::restore) struct OpenFiles {
    folder: Arc<OwnedFd>,
    /// Where the folder is, for messages.
    shown: PathBuf,
    files: Vec<Option<Planned>>,
    /// Those that are open, the one that was used last at the end.
    open: Mutex<VecDeque<(usize, Arc<Opened>)>>,
}

struct Planned {
    path: PathBuf,
    size: u64,
    /// Whether it was there before: then it may hold what is to be written already.
    found: bool,
}

/// What stood in the folder before, and may stay.
#[derive(Default)]
pub(super) struct Kept {
    /// Files and links by the position of their entry.
    pub(super) entries: BTreeSet<usize>,
    /// A file that is written under another name, which it loses last.
    pub(super) held_back: Option<(usize, PathBuf)>,
}

struct Opened {
    file: File,
    /// Whether anything was written through this descriptor: its errors are reported to this descriptor.
    written: AtomicBool,
}

impl OpenFiles {
    /// Makes directories, files with their sizes, and then links, in a folder that has nothing but what is kept.
    pub(super) fn create(
        folder: Arc<OwnedFd>,
        shown: PathBuf,
        entries: &[Entry],
        kept: &Kept,
    ) -> Result<Self, Failure> {
        let mut made = OpenFiles { folder, shown, files: Vec::new(), open: Mutex::default() };
        let mut before = PathBuf::new();
        for (at, entry) in entries.iter().enumerate() {
            let path = entry.path.to_relative();
            for parent in parents_not_of(&path, &before).into_iter().rev() {
                made.make_directory(parent)?;
            }
            let planned = match &entry.kind {
                EntryKind::Directory => {
                    made.make_directory(&path)?;
                    None
                }
                EntryKind::File { size, .. } => {
                    let held_back = kept.held_back.as_ref().filter(|(held_back, _)| *held_back == at);
                    let path = held_back.map_or(&path, |(_, name)| name);
                    let found = kept.entries.contains(&at);
                    made.make_file(at, path, *size, found)?;
                    Some(Planned { path: path.clone(), size: *size, found })
                }
                EntryKind::Link { .. } => None,
            };
            made.files.push(planned);
            before = path;
        }
        // Last, so that nothing could be made through one.
        for (at, entry) in entries.iter().enumerate() {
            if let EntryKind::Link { target } = &entry.kind
                && !kept.entries.contains(&at)
            {
                made.make_link(target, &entry.path.to_relative())?;
            }
        }
        Ok(made)
    }

    /// The folder that all of them are below.
    pub(super) fn folder(&self) -> &OwnedFd {
        &self.folder
    }

    pub(super) fn failed(&self, what: &str, path: &Path, error: impl Into<io::Error>) -> Failure {
        failed(what, &self.shown.join(path), &error.into())
    }

    fn make_directory(&self, path: &Path) -> Result<(), Failure> {
        match mkdirat(&self.folder, path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(self.failed("create", path, error)),
        }
    }

    fn make_file(&self, at: usize, path: &Path, size: u64, found: bool) -> Result<(), Failure> {
        let new = if found { OFlags::RDWR } else { OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL };
        let file = openat(&self.folder, path, new | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
            .and_then(|file| ftruncate(&file, size).map(|()| file))
            .map_err(|error| self.failed("create", path, error))?;
        self.keep(at, File::from(file))?;
        Ok(())
    }

    fn make_link(&self, target: &str, path: &Path) -> Result<(), Failure> {
        // A link's target may be anything; it is never followed by a restore.
        let target = decode(target).ok_or_else(|| Failure::internal("a link's target was not checked"))?;
        symlinkat(target, &self.folder, path).map_err(|error| self.failed("create", path, error))
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(usize, Arc<Opened>)>> {
        self.open.lock().expect("no panic while held")
    }

    /// Keeps a file open, and closes the one that was not used for longest if there are too many.
    fn keep(&self, at: usize, file: File) -> Result<Arc<Opened>, Failure> {
        let opened = Arc::new(Opened { file, written: AtomicBool::new(false) });
        let closed = {
            let mut open = self.lock();
            open.push_back((at, opened.clone()));
            // One that is just being written to stays.
            let unused = open.iter().position(|(_, opened)| Arc::strong_count(opened) == 1);
            unused.filter(|_| open.len() > OPEN_MAX).and_then(|unused| open.remove(unused))
        };
        if let Some((at, closed)) = closed
            && closed.written.load(Ordering::Relaxed)
        {
            // A write that fails later is only reported to those who have the file open.
            let path = self.files.get(at).and_then(Option::as_ref).map_or(Path::new(""), |planned| &planned.path);
            closed.file.sync_data().map_err(|error| self.failed("sync", path, error))?;
        }
        Ok(opened)
    }

    fn planned(&self, at: usize) -> Result<&Planned, Failure> {
        let planned = self.files.get(at).and_then(Option::as_ref);
        planned.ok_or_else(|| Failure::internal("blocks of something that is no file"))
    }

    fn open_again(&self, planned: &Planned) -> Result<File, Failure> {
        let access = if planned.found { OFlags::RDWR } else { OFlags::WRONLY };
        let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.folder, &planned.path, flags, Mode::empty());
        file.map(File::from).map_err(|error| self.failed("open", &planned.path, error))
    }

    /// The file, open for as long as this is held.
    fn opened(&self, at: usize, planned: &Planned) -> Result<Arc<Opened>, Failure> {
        let known = {
            let mut open = self.lock();
            let place = open.iter().rposition(|(known, _)| *known == at);
            place.and_then(|place| open.remove(place)).map(|found| {
                open.push_back(found.clone());
                found.1
            })
        };
        match known {
            Some(opened) => Ok(opened),
            None => self.keep(at, self.open_again(planned)?),
        }
    }

    /// Writes blocks from block `first`; what lies beyond the file's end is cut.
    pub(super) fn write(&self, at: usize, first: u64, block_size: u64, bytes: &[u8]) -> Result<(), Failure> {
        let planned = self.planned(at)?;
        let opened = self.opened(at, planned)?;
        opened.written.store(true, Ordering::Relaxed);
        let offset = first * block_size;
        let length = (planned.size.saturating_sub(offset)).min(bytes.len() as u64) as usize;
        let written = opened.file.write_all_at(&bytes[..length], offset);
        written.map_err(|error| self.failed("write", &planned.path, error))
    }

    /// Reads blocks from block `first` of a file that was there before, with zeros after its end. `false` where it is new.
    pub(super) fn read(&self, at: usize, first: u64, block_size: u64, bytes: &mut [u8]) -> Result<bool, Failure> {
        let planned = self.planned(at)?;
        if !planned.found {
            return Ok(false);
        }
        let opened = self.opened(at, planned)?;
        let offset = first * block_size;
        let length = (planned.size.saturating_sub(offset)).min(bytes.len() as u64) as usize;
        bytes[length..].fill(0);
        let read = opened.file.read_exact_at(&mut bytes[..length], offset);
        read.map_err(|error| self.failed("read", &planned.path, error)).map(|()| true)
    }

    /// Whether the file was there before.
    pub(super) fn is_found(&self, at: usize) -> bool {
        self.planned(at).is_ok_and(|planned| planned.found)
    }

    /// A file that nothing more is written to, open.
    pub(super) fn finished(&self, at: usize) -> Result<File, Failure> {
        let planned = self.planned(at)?;
        let mut open = self.lock();
        let place = open.iter().position(|(known, _)| *known == at);
        match place.and_then(|place| open.remove(place)).and_then(|(_, opened)| Arc::into_inner(opened)) {
            Some(opened) => Ok(opened.file),
            None => self.open_again(planned),
        }
    }

    /// A directory in the folder, or the folder itself, open.
    pub(super) fn directory(&self, path: &Path) -> Result<OwnedFd, Failure> {
        held::open(&self.folder, path).map_err(|error| self.failed("open", path, error))
    }
}

/// The directories above a path that are not above `other` too, nor `other` itself: the innermost first.
pub(super) fn parents_not_of<'a>(path: &'a Path, other: &Path) -> Vec<&'a Path> {
    let parents = path.ancestors().skip(1).take_while(|parent| !parent.as_os_str().is_empty());
    parents.take_while(|parent| !other.starts_with(parent)).collect()
}
