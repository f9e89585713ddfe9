//! Objects that are too large to be held in memory: from a file to a store, and piece by piece back.

use super::{
    Store, StoreError,
    error::{Problem, Trouble},
    writing::Created,
};
use crate::core::id::Sha256;
use bytes::Bytes;
use object_store::{GetOptions, MultipartUpload, PutMultipartOptions, PutPayload, path::Path};
use sha2::Digest;
use std::{fs::File, os::unix::fs::FileExt, sync::Arc};

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
            match self.holds_large(key, object).await? {
                Some(true) => return self.settle(key, &path).await.map(|()| created),
                Some(false) => return Err(self.failed(key, Problem::Exists)),
                None => {}
            }
        }
        Err(self.failed(key, problem))
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
        let mut upload = self.once(0, self.objects.put_multipart_opts(path, PutMultipartOptions::default())).await?;
        if let Err(trouble) = self.put_parts(&mut *upload, object).await {
            // What is left of it is the bucket's to clear away, as its life cycle rules say.
            let _ = self.once(0, upload.abort()).await;
            return Err(trouble);
        }
        match self.holds_large(key, object).await {
            Ok(Some(true)) => Ok(()),
            Ok(_) => Err(Trouble::Exists),
            Err(error) => Err(Trouble::Gone(error.to_string())),
        }
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

    /// Whether exactly that object stands under a key; `None` where nothing does.
    async fn holds_large(&self, key: &str, object: &LargeObject) -> Result<Option<bool>, StoreError> {
        match self.size(key).await {
            Ok(size) if size != object.size => return Ok(Some(false)),
            Ok(_) => {}
            Err(error) if error.problem == Problem::Missing => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut hasher = sha2::Sha256::new();
        for number in 0..object.size.div_ceil(PIECE_BYTES) {
            match self.get_piece(key, object.size, number).await {
                Ok(piece) => hasher.update(&piece),
                Err(error) if matches!(error.problem, Problem::Damaged(_)) => return Ok(Some(false)),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(<[u8; 32]>::from(hasher.finalize()) == object.sha256.0))
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
