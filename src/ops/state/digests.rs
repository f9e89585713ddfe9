//! The digests of every block of a snapshot, in a file of 16 bytes a block. All-zero blocks have digest zero.

use super::{DigestedFile, state_failure};
use crate::{
    core::{failure::Failure, path::StoredPath},
    format::pack::BlockDigest,
    world::files,
};
use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::OnceLock,
};

/// How much of the file is looked at in one go.
const CHUNK_BYTES: usize = 256 * 1024;

/// The digests of a snapshot.
///
/// A new one may be lost, to a full disk for example: that costs the next run time, and never this run its snapshot.
pub struct DigestFile {
    file: Option<File>,
    files: Vec<DigestedFile>,
    /// Where each file stands in the list, and where its digests begin.
    places: HashMap<StoredPath, (usize, u64)>,
    path: PathBuf,
    /// Why it is lost.
    lost: OnceLock<Failure>,
}

impl DigestFile {
    /// Opens what an earlier run has left.
    pub(super) fn open(path: PathBuf, files: Vec<DigestedFile>) -> Result<Self, String> {
        let file = files::open_regular(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let expected = files.iter().map(|file| file.blocks).sum::<u64>() * 16;
        match file.metadata() {
            Ok(metadata) if metadata.len() == expected => {}
            _ => return Err(format!("{} is not as long as it should be", path.display())),
        }
        Ok(DigestFile { file: Some(file), places: places(&files), files, path, lost: OnceLock::new() })
    }

    /// Makes the file of a new run.
    pub(super) fn create(path: PathBuf, files: Vec<DigestedFile>) -> Self {
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        // A file may turn out shorter than planned: what is not written counts as zero.
        let bytes = files.iter().map(|file| file.blocks).sum::<u64>() * 16;
        let created = created.and_then(|file| file.set_len(bytes).map(|()| file));
        let digests = DigestFile { file: None, places: places(&files), files, path, lost: OnceLock::new() };
        match created {
            Ok(file) => DigestFile { file: Some(file), ..digests },
            Err(error) => {
                digests.lose("create", &error);
                digests
            }
        }
    }

    /// The files it covers.
    pub fn files(&self) -> &[DigestedFile] {
        &self.files
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a file's digests begin, with its entry.
    pub fn find(&self, path: &StoredPath) -> Option<(u64, &DigestedFile)> {
        let (at, offset) = self.places.get(path)?;
        Some((*offset, &self.files[*at]))
    }

    /// Reads the digests of `count` blocks of the file whose digests begin at `offset`.
    pub fn read(&self, offset: u64, first: u64, count: usize) -> io::Result<Vec<BlockDigest>> {
        let mut digests = vec![[0; 16]; count];
        self.opened()?.read_exact_at(digests.as_flattened_mut(), offset + first * 16)?;
        Ok(digests)
    }

    /// Takes the digests of the first `count` blocks of a file over from another file's record.
    pub fn take_over(&self, offset: u64, old: &DigestFile, old_offset: u64, count: u64) -> io::Result<()> {
        let piece = (CHUNK_BYTES / 16) as u64;
        for first in (0..count).step_by(CHUNK_BYTES / 16) {
            let digests = old.read(old_offset, first, usize::try_from((count - first).min(piece)).expect("a piece"))?;
            self.write(offset, first, &digests);
        }
        Ok(())
    }

    /// Writes digests of consecutive blocks, unless the file is lost anyway.
    pub fn write(&self, offset: u64, first: u64, digests: &[BlockDigest]) {
        if self.lost.get().is_some() {
            return;
        }
        let at = offset + first * 16;
        if let Err(error) = self.opened().and_then(|file| file.write_all_at(digests.as_flattened(), at)) {
            self.lose("write", &error);
        }
    }

    /// Whether these are the digests that were written; a lost file contradicts nobody.
    pub fn agrees(&self, offset: u64, first: u64, digests: &[BlockDigest]) -> bool {
        let known = self.read(offset, first, digests.len());
        self.lost.get().is_some() || known.is_ok_and(|known| known == digests)
    }

    /// Makes the file durable and gives its BLAKE3.
    pub fn seal(&self) -> Result<String, Failure> {
        let synced = || self.opened()?.sync_all().and_then(|()| files::sync_directory(files::parent(&self.path)));
        if self.lost.get().is_none()
            && let Err(error) = synced()
        {
            self.lose("sync", &error);
        }
        match self.lost.get() {
            Some(failure) => Err(failure.clone()),
            None => self.blake3().map_err(|error| state_failure("read", &self.path, &error)),
        }
    }

    /// Makes sure that the content is what [`DigestFile::seal`] gave this BLAKE3 for.
    ///
    /// Zeros mean that a block is zero, so a file that lost its content would hide what has become zero since.
    pub fn check(&self, blake3: &str) -> Result<(), String> {
        match self.blake3() {
            Ok(found) if found == blake3 => Ok(()),
            Ok(_) => Err(format!("{} is not what was written there", self.path.display())),
            Err(error) => Err(format!("{}: {error}", self.path.display())),
        }
    }

    /// Removes the file: its run was not committed, or it is lost.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }

    fn opened(&self) -> io::Result<&File> {
        self.file.as_ref().ok_or_else(|| io::Error::other("it could not be created"))
    }

    fn lose(&self, what: &str, error: &io::Error) {
        // Two threads may find out at once; the first reason is as good as the other.
        let _ = self.lost.set(state_failure(what, &self.path, error));
    }

    fn blake3(&self) -> io::Result<String> {
        let file = self.opened()?;
        let mut hasher = blake3::Hasher::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut at = 0;
        loop {
            match file.read_at(&mut chunk, at)? {
                0 => return Ok(hasher.finalize().to_hex().to_string()),
                count => {
                    hasher.update(&chunk[..count]);
                    at += count as u64;
                }
            }
        }
    }
}

fn places(files: &[DigestedFile]) -> HashMap<StoredPath, (usize, u64)> {
    let mut offset = 0;
    let place = |(at, file): (usize, &DigestedFile)| {
        let place = (file.path.clone(), (at, offset));
        offset += file.blocks * 16;
        place
    };
    files.iter().enumerate().map(place).collect()
}
