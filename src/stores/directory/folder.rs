//! Folders of a store, held open, and the names in them.
//!
//! Only single names reach the kernel, each together with the open folder that it is looked up in, and no name is
//! followed if it is a link. So nothing here leaves the store, whoever swaps what for a link meanwhile: an open folder
//! stays the one that was opened. A path is kept for people to read, and is never used.

use super::super::{
    error::FileError,
    files::{Done, failed},
};
use object_store::{Error, Result, path::Path};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

/// For everybody to read, and for nobody but the owner to change, however generous the umask is.
const FILE_MODE: Mode = Mode::from_raw_mode(0o644);
/// The same for folders.
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o755);

/// Which folder it is, under whatever path: its device and its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn new(device: u64, inode: u64) -> Self {
        Identity { device, inode }
    }
}

/// An open folder. Clones share the descriptor.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    descriptor: Arc<OwnedFd>,
    path: PathBuf,
}

impl Folder {
    /// Opens the top of a store, which must be readable. The only lookup of a whole path.
    pub(super) fn top(path: PathBuf) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor = Arc::new(rustix::fs::open(&path, flags, Mode::empty())?);
        Ok(Folder { descriptor, path })
    }

    pub(super) fn path(&self) -> &FilePath {
        &self.path
    }

    pub(super) fn identity(&self) -> Done<Identity> {
        let stat = rustix::fs::fstat(&self.descriptor).map_err(|errno| FileError::new(&self.path, errno))?;
        Ok(Identity::new(stat.st_dev, stat.st_ino))
    }

    /// Opens a folder in this one. `PATH`: to pass through a folder takes no right to read it.
    pub(super) fn folder(&self, name: &str) -> Done<Folder> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = self.path.join(name);
        match rustix::fs::openat(&self.descriptor, name, flags, Mode::empty()) {
            Ok(descriptor) => Ok(Folder { descriptor: Arc::new(descriptor), path }),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let why = "what stands there is no folder, and is not followed if it is a link";
                Err(FileError::new(&path, io::Error::new(io::ErrorKind::NotADirectory, why)))
            }
            Err(errno) => Err(FileError::new(&path, errno)),
        }
    }

    /// Makes a folder in this one, unless something of that name is there.
    pub(super) fn make(&self, name: &str) -> Done<()> {
        match rustix::fs::mkdirat(&self.descriptor, name, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(FileError::new(&self.path.join(name), errno)),
        }
    }

    /// Makes sure that the names in it are on stable storage.
    pub(super) fn sync(&self) -> Done<()> {
        self.readable().and_then(rustix::fs::fsync).map_err(|errno| FileError::new(&self.path, errno))
    }

    /// What lies in it, as it is read.
    pub(super) fn entries(&self) -> Done<Dir> {
        self.readable().and_then(Dir::new).map_err(|errno| FileError::new(&self.path, errno))
    }

    /// With a descriptor to pass through, nothing can be read or synced; `.` is the same folder, wherever it lies now.
    fn readable(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.descriptor, ".", flags, Mode::empty())
    }

    pub(super) fn slot<'name>(&self, name: &'name str) -> Slot<'name> {
        Slot { folder: self.clone(), name }
    }
}

/// A name in a folder, whether something stands there or not.
#[derive(Debug)]
pub(super) struct Slot<'name> {
    pub(super) folder: Folder,
    name: &'name str,
}

impl Slot<'_> {
    pub(super) fn path(&self) -> PathBuf {
        self.folder.path.join(self.name)
    }

    fn error(&self, source: impl Into<io::Error>) -> FileError {
        FileError::new(&self.path(), source)
    }

    /// What stands there itself, not what it leads to if it is a link.
    pub(super) fn stat(&self) -> Done<Stat> {
        rustix::fs::statat(&self.folder.descriptor, self.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.error(errno))
    }

    /// Opens an object for reading. A link, a pipe or a device in its place is no object, and must not block.
    pub(super) fn open(&self, key: &Path) -> Result<(File, Stat)> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&self.folder.descriptor, self.name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::LOOP | Errno::NXIO) => return Err(no_object(key)),
            Err(errno) => return Err(self.error(errno).missing(key)),
        };
        let stat = rustix::fs::fstat(&file).map_err(|errno| failed(&self.path(), errno.into()))?;
        if is(&stat, FileType::RegularFile) { Ok((file, stat)) } else { Err(no_object(key)) }
    }

    /// Opens a new file beside this one: its name, `#` and a number.
    pub(super) fn stage(&self) -> Done<(File, Staged<'_>)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for number in 1u32.. {
            let name = format!("{}#{number}", self.name);
            match rustix::fs::openat(&self.folder.descriptor, &name, flags, FILE_MODE) {
                Ok(file) => return Ok((File::from(file), Staged { target: self, name, published: false })),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(self.error(errno)),
            }
        }
        Err(self.error(Errno::EXIST))
    }

    pub(super) fn remove(&self) -> Done<()> {
        rustix::fs::unlinkat(&self.folder.descriptor, self.name, AtFlags::empty()).map_err(|errno| self.error(errno))
    }

    /// Renames what stands there; with `create`, only onto a name that is free. Errors are about the target.
    pub(super) fn rename(&self, target: &Slot<'_>, create: bool) -> Done<()> {
        self.rename_errno(target, create).map_err(|errno| target.error(errno))
    }

    /// By the best means that the file system has.
    fn rename_errno(&self, target: &Slot<'_>, create: bool) -> rustix::io::Result<()> {
        let (from, to) = (&self.folder.descriptor, &target.folder.descriptor);
        if !create {
            return rustix::fs::renameat(from, self.name, to, target.name);
        }
        match rustix::fs::renameat_with(from, self.name, to, target.name, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            other => return other,
        }
        match rustix::fs::linkat(from, self.name, to, target.name, AtFlags::empty()) {
            Ok(()) => rustix::fs::unlinkat(from, self.name, AtFlags::empty()),
            Err(Errno::EXIST) => Err(Errno::EXIST),
            // No links either (FAT, some network file systems): look, then rename. Names of runs are random.
            Err(_) if target.stat().is_ok() => Err(Errno::EXIST),
            Err(_) => rustix::fs::renameat(from, self.name, to, target.name),
        }
    }
}

/// A file that is being written, removed again unless it is published.
pub(super) struct Staged<'target> {
    target: &'target Slot<'target>,
    name: String,
    published: bool,
}

impl Staged<'_> {
    pub(super) fn publish(mut self, create: bool) -> Done<()> {
        self.target.folder.slot(&self.name).rename(self.target, create)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if !self.published {
            let _ = self.target.folder.slot(&self.name).remove();
        }
    }
}

pub(super) fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

fn no_object(key: &Path) -> Error {
    Error::NotFound { path: key.to_string(), source: "what stands there is no regular file".into() }
}
