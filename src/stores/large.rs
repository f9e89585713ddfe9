//! Objects that are too large to be held in memory: from a file to a store, and piece by piece back.

use super::{
    Store, StoreError,
    error::{Problem, Trouble},
    writing::{Created, Found, Replaced, Right},
};
use crate::core::id::Sha256;
use bytes::Bytes;
use object_store::{GetOptions, MultipartUpload, PutMultipartOptions, PutPayload, path::Path};
use sha2::Digest;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, OnceLock},
};

/// What has more bytes is held in memory as a whole by nobody.
pub const LARGE_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that are sent at once: a bucket takes at most 10,000 parts, and none but the last below 5 MiB.
const PART_BYTES: u64 = 16 * 1024 * 1024;
/// Bytes that are read at once.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// A sealed object in a file that nobody else has the name of.
#[derive(Clone, Debug)]
pub struct LargeObject {
    /// The file; the object is all of it.
    pub file: Arc<File>,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of it.
    pub sha256: Sha256,
}

impl LargeObject {
    /// A part of it, as it is on the disk now.
    async fn part(&self, from: u64) -> Result<Bytes, Trouble> {
        let length = (self.size - from).min(PART_BYTES) as usize;
        let file = self.file.clone();
        let read = move || {
            let mut part = vec![0; length];
            file.read_exact_at(&mut part, from).map(|()| Bytes::from(part))
        };
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| Trouble::Gone(error.to_string()))?;
        read.map_err(|error| Trouble::Gone(format!("the spool cannot be read: {error}")))
    }
}

impl Store {
    /// Creates an object from a file, as [`Store::create`] does it from memory. What is written is compared with the
    /// object's digest on the way: the disk of the spool may have lost something.
    ///
    /// A bucket takes no condition with an upload in parts: there it is looked first whether the key is free, which for
    /// the random names of runs is as good, and what was written is read back.
    pub async fn create_from(&self, key: &str, object: &LargeObject) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let mut created = Created::AlreadyThere;
        let mut problem = Problem::Exists;
        let mut attempt = 0;
        // More of them again, once it has answered.
        while attempt < self.attempts() {
            if attempt > 0 {
                tokio::time::sleep(self.patience.pause_before(attempt)).await;
            }
            attempt += 1;
            match self.put_large(key, &path, object).await {
                Ok(()) => return Ok(Created::Created),
                Err(Trouble::Exists) => problem = Problem::Exists,
                // It may have been done all the same.
                Err(Trouble::Passing(why) | Trouble::Unreadable(why) | Trouble::Hung(why) | Trouble::Silent(why)) => {
                    (created, problem) = (Created::Created, Problem::Unreachable(why));
                }
                Err(trouble) => return Err(self.failed(key, trouble.into())),
            }
            match self.found_large(key, object).await? {
                Found::Same => return self.settle(key, &path).await.map(|()| created),
                Found::Other => return Err(self.failed(key, Problem::Exists)),
                Found::Missing => {}
            }
        }
        Err(self.failed(key, problem))
    }

    /// Heals an object from a file, as [`Store::replace`] does it from memory.
    pub async fn replace_from(&self, key: &str, object: &LargeObject) -> Result<Replaced, StoreError> {
        self.set_right(key, Right::Large(object)).await
    }

    async fn put_large(&self, key: &str, path: &Path, object: &LargeObject) -> Result<(), Trouble> {
        if let Some(directory) = &self.directory {
            return self.once(object.size, directory.create_from(path, object)).await;
        }
        let head = GetOptions { head: true, ..GetOptions::default() };
        match self.once(0, self.objects.get_opts(path, head)).await {
            Ok(_) => return Err(Trouble::Exists),
            Err(Trouble::Missing) => {}
            Err(other) => return Err(other),
        }
        self.upload(path, object).await?;
        match self.found_large(key, object).await {
            Ok(Found::Same) => Ok(()),
            Ok(_) => Err(Trouble::Exists),
            Err(error) => Err(Trouble::Gone(error.to_string())),
        }
    }

    /// Sends it to a bucket, over whatever is there: nothing of it shows before all of it is there.
    pub(super) async fn upload(&self, path: &Path, object: &LargeObject) -> Result<(), Trouble> {
        let mut upload = self.once(0, self.objects.put_multipart_opts(path, PutMultipartOptions::default())).await?;
        let sent = self.put_parts(&mut *upload, object).await;
        if sent.is_err() {
            // What is left of it is the bucket's to clear away, as its life cycle rules say.
            let _ = self.once(0, upload.abort()).await;
        }
        sent
    }

    async fn put_parts(&self, upload: &mut dyn MultipartUpload, object: &LargeObject) -> Result<(), Trouble> {
        let mut hasher = sha2::Sha256::new();
        for from in (0..object.size).step_by(PART_BYTES as usize) {
            let part = object.part(from).await?;
            hasher.update(&part);
            self.once(part.len() as u64, upload.put_part(PutPayload::from_bytes(part))).await?;
        }
        if <[u8; 32]>::from(hasher.finalize()) != object.sha256.0 {
            return Err(Trouble::Gone("the spool is not what was written there: check its disk".to_owned()));
        }
        self.once(0, upload.complete()).await.map(drop)
    }

    /// What stands under a key, compared with the object.
    pub(super) async fn found_large(&self, key: &str, object: &LargeObject) -> Result<Found, StoreError> {
        match self.digest(key, object.size).await {
            Ok(found) if found == (object.sha256, object.size) => Ok(Found::Same),
            Ok(_) => Ok(Found::Other),
            Err(error) => Found::of(error),
        }
    }

    /// Brings an object of exactly `size` bytes into a file, from its beginning on, and says what it is. The inner error
    /// is the file's.
    pub async fn get_into(&self, key: &str, size: u64, file: &Arc<File>) -> Result<io::Result<Sha256>, StoreError> {
        let (mut hasher, mut at, unwritten) = (sha2::Sha256::new(), 0, OnceLock::new());
        let noted = &unwritten;
        let take = |piece: Bytes| {
            hasher.update(&piece);
            let (file, from) = (file.clone(), at);
            at += piece.len() as u64;
            let write = tokio::task::spawn_blocking(move || file.write_all_at(&piece, from));
            async move {
                let written = write.await.map_err(io::Error::from).and_then(|written| written);
                written.map_err(|error| noted.set(error)).is_ok()
            }
        };
        self.get_in_pieces(key, size, take).await?;
        let sha256 = Sha256(hasher.finalize().into());
        Ok(unwritten.into_inner().map_or(Ok(sha256), Err))
    }

    /// Hands out an object of exactly `size` bytes piece by piece, until `take` wants no more.
    pub async fn get_in_pieces<Taken: Future<Output = bool>>(
        &self,
        key: &str,
        size: u64,
        mut take: impl FnMut(Bytes) -> Taken,
    ) -> Result<(), StoreError> {
        let found = self.size(key).await?;
        if found != size {
            return Err(self.failed(key, Problem::Damaged(format!("it has {found} bytes, {size} are right"))));
        }
        for number in 0..size.div_ceil(PIECE_BYTES) {
            if !take(self.get_piece(key, size, number).await?).await {
                break;
            }
        }
        Ok(())
    }

    async fn get_piece(&self, key: &str, size: u64, number: u64) -> Result<Bytes, StoreError> {
        let from = number * PIECE_BYTES;
        let range = from..size.min(from + PIECE_BYTES);
        let pieces = self.get_ranges(key, &[range]).await?;
        Ok(pieces.into_iter().next().unwrap_or_default())
    }
}
