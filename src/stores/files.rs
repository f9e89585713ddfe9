//! Files as objects: opening what may be hostile, and writing so that it is there whole or not at all.

use super::error::FileError;
use object_store::{Error, Result, path::Path};
use rustix::{
    fs::{CWD, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    fs::{self, File, Metadata, OpenOptions},
    io,
    path::{Path as FilePath, PathBuf},
};

/// Opens an object for reading. A link, a pipe or a device in its place is no object, and must not block.
pub(super) fn open_regular(key: &Path, path: &FilePath) -> Result<(File, Metadata)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::LOOP | Errno::NXIO) => return Err(no_object(key)),
        Err(errno) => return Err(absent_or_failed(key, path, errno.into())),
    };
    let metadata = file.metadata().map_err(|error| failed(path, error))?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err(no_object(key)) }
}

pub(super) fn make_directory(dir: &FilePath) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // A link could lead anywhere; nothing of ours is written through one.
    if fs::symlink_metadata(dir)?.is_dir() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::NotADirectory)) }
}

/// A file that is being written, removed again unless it is published.
pub(super) struct Staged {
    path: PathBuf,
    published: bool,
}

/// Opens a new file beside the target: its name, `#` and a number.
pub(super) fn stage(target: &FilePath) -> io::Result<(File, Staged)> {
    for number in 1u32.. {
        let mut path = target.as_os_str().to_owned();
        path.push(format!("#{number}"));
        let path = PathBuf::from(path);
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, Staged { path, published: false })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}

impl Staged {
    pub(super) fn publish(mut self, key: &Path, target: &FilePath, create: bool) -> Result<()> {
        match publish(&self.path, target, create) {
            Ok(()) => {
                self.published = true;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(exists(key, error)),
            Err(error) => Err(failed(target, error)),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Renames; with `create`, only where nothing stands, by the best means that the file system has.
pub(super) fn publish(from: &FilePath, to: &FilePath, create: bool) -> io::Result<()> {
    if !create {
        return fs::rename(from, to);
    }
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        other => return other.map_err(io::Error::from),
    }
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // No links either (FAT, some network file systems): look, then rename. Names of runs are random.
        Err(_) if fs::symlink_metadata(to).is_ok() => Err(Errno::EXIST.into()),
        Err(_) => fs::rename(from, to),
    }
}

pub(super) fn sync_directory(dir: &FilePath) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| failed(dir, error))
}

pub(super) fn above(path: &FilePath) -> &FilePath {
    path.parent().expect("a file in the store has a directory")
}

pub(super) fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "directory", source: Box::new(source) }
}

pub(super) fn failed(path: &FilePath, source: io::Error) -> Error {
    generic(FileError { path: path.display().to_string(), source })
}

pub(super) fn too_short(path: &FilePath) -> Error {
    failed(path, io::Error::new(io::ErrorKind::UnexpectedEof, "the file is too short"))
}

pub(super) fn exists(key: &Path, source: io::Error) -> Error {
    Error::AlreadyExists { path: key.to_string(), source: source.into() }
}

fn no_object(key: &Path) -> Error {
    Error::NotFound { path: key.to_string(), source: "what stands there is no regular file".into() }
}

pub(super) fn absent_or_failed(key: &Path, path: &FilePath, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::NotFound { path: key.to_string(), source: error.into() }
        }
        _ => failed(path, error),
    }
}
