//! What goes wrong with files, in object_store's words.

use super::error::FileError;
use object_store::{Error, Result, path::Path};
use std::{io, path::Path as FilePath};

pub(super) fn generic(source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Generic { store: "directory", source: Box::new(source) }
}

impl FileError {
    pub(super) fn new(path: &FilePath, source: impl Into<io::Error>) -> Self {
        FileError { path: path.display().to_string(), source: source.into() }
    }

    /// Whether there is nothing of that name, or something other than a folder on the way to it.
    pub(super) fn is_absence(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }

    /// The same of an object that is read: it is missing if it is not there.
    pub(super) fn missing(self, key: &Path) -> Error {
        if self.is_absence() { Error::NotFound { path: key.to_string(), source: self.into() } } else { generic(self) }
    }

    /// The same of an object that is created: it exists if another is there.
    pub(super) fn taken(self, key: &Path) -> Error {
        match self.source.kind() {
            io::ErrorKind::AlreadyExists => Error::AlreadyExists { path: key.to_string(), source: self.into() },
            _ => generic(self),
        }
    }
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        generic(error)
    }
}

pub(super) fn failed(path: &FilePath, source: io::Error) -> Error {
    generic(FileError::new(path, source))
}

pub(super) fn too_short(path: &FilePath) -> Error {
    failed(path, io::Error::new(io::ErrorKind::UnexpectedEof, "the file is too short"))
}

/// The outcome of something done with a file.
pub(super) type Done<T> = Result<T, FileError>;
