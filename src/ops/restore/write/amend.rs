//! Files at the top of what is restored that must not stay as they were: settings of the server that will use it.

use super::files::OpenFiles;
use crate::core::failure::Failure;
use rustix::{
    fs::{Mode, OFlags, fsync, mkdirat, openat},
    io::Errno,
};
use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

/// The most bytes of a file that is amended.
const AMENDED_BYTES_MAX: u64 = 16 * 1024 * 1024;

impl OpenFiles {
    /// Makes a directory that only we may enter.
    pub(in crate::ops::restore) fn make_top(&self, name: &str) -> Result<(), Failure> {
        let made = mkdirat(self.folder(), name, Mode::RWXU);
        made.map_err(|error| self.failed("create", Path::new(name), error))
    }

    /// Makes what was written into such a directory durable.
    pub(in crate::ops::restore) fn sync_top(&self, name: &str) -> Result<(), Failure> {
        let path = Path::new(name);
        fsync(self.directory(path)?).map_err(|error| self.failed("sync", path, error))
    }

    /// The content of a file, if it was restored. One that is larger than any setting is treated as empty.
    pub(in crate::ops::restore) fn read_top(&self, name: &str) -> Result<Option<Vec<u8>>, Failure> {
        let path = Path::new(name);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(self.folder(), path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failed("open", path, error)),
        };
        let mut bytes = Vec::new();
        file.take(AMENDED_BYTES_MAX).read_to_end(&mut bytes).map_err(|error| self.failed("read", path, error))?;
        Ok(Some(bytes))
    }

    /// Writes a file, over one that was restored if there is one; that keeps its owner and mode.
    pub(in crate::ops::restore) fn put_top(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let mut file = self.create_top(name)?;
        file.write_all(bytes).map_err(|error| self.failed("write", Path::new(name), error))?;
        self.finish_top(name, &file)
    }

    /// An empty file, for as much as there is to be written.
    pub(in crate::ops::restore) fn create_top(&self, name: &str) -> Result<File, Failure> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(self.folder(), name, flags, Mode::RUSR | Mode::WUSR);
        opened.map(File::from).map_err(|error| self.failed("create", Path::new(name), error))
    }

    /// Makes it durable.
    pub(in crate::ops::restore) fn finish_top(&self, name: &str, file: &File) -> Result<(), Failure> {
        fsync(file).map_err(|error| self.failed("write", Path::new(name), error))
    }
}
