//! Reading from a store: bounded, so that a lying store cannot fill memory, and repeated while a failure may pass.

use super::{Store, StoreError, error::Problem, error::Trouble, files::failed, key};
use crate::core::id::Sha256;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream::BoxStream};
use object_store::{GetOptions, GetResult, GetResultPayload, ObjectMeta, path::Path};
use sha2::Digest;
use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::PathBuf,
};

/// The most names that one listing may have. A repository of so many objects would hold dozens of terabytes; the names
/// and sizes of so many take some 500 MiB of memory. A store that shows more is not believed, and fills no memory.
pub(super) const MAX_LISTED: u64 = 4_000_000;
/// Bytes of a file that are looked at at once.
const LOOK_BYTES: u64 = 1 << 20;
/// A longer name counts as several.
const BYTES_OF_A_NAME: usize = 128;

/// What a store lists below a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Listing {
    /// Keys and sizes, sorted by key.
    pub objects: Vec<(String, u64)>,
    /// How many names were passed over because this program gives no object such a name.
    pub foreign: u64,
    /// How many parts of objects were passed over that interrupted writes left behind.
    pub leftovers: u64,
}

type Body = BoxStream<'static, object_store::Result<Bytes>>;

impl Store {
    /// The whole object, unless it is larger than `max_bytes`.
    pub async fn get(&self, key: &str, max_bytes: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let outcome = self.read_whole(|| self.get_once(&path, max_bytes)).await;
        outcome.map_err(|trouble| self.failed(key, trouble.into()))
    }

    async fn begin(&self, path: &Path, max_bytes: u64) -> Result<GetResult, Trouble> {
        let result = self.once(0, self.objects.get_opts(path, GetOptions::default())).await?;
        let size = result.meta.size;
        if size > max_bytes {
            return Err(Trouble::Damaged(format!("it has {size} bytes, at most {max_bytes} are right")));
        }
        Ok(result)
    }

    async fn get_once(&self, path: &Path, max_bytes: u64) -> Result<Bytes, Trouble> {
        let result = self.begin(path, max_bytes).await?;
        let size = result.meta.size;
        match result.payload {
            GetResultPayload::File(file, path) => self.once(size, read_file(file, path, size)).await,
            GetResultPayload::Stream(stream) => self.collect(stream, size).await,
        }
    }

    /// Reads a body to its end, waiting for each piece no longer than the idle time.
    async fn collect(&self, mut stream: Body, size: u64) -> Result<Bytes, Trouble> {
        let size = usize::try_from(size).map_err(|_| Trouble::Damaged("it is too large".to_owned()))?;
        let mut body = Bytes::new();
        let mut joined: Option<BytesMut> = None;
        while let Some(piece) = self.next(&mut stream).await? {
            if let Some(joined) = &mut joined {
                joined.extend_from_slice(&piece);
            } else if body.is_empty() {
                body = piece;
            } else {
                let mut both = BytesMut::with_capacity(size);
                both.extend_from_slice(&body);
                both.extend_from_slice(&piece);
                joined = Some(both);
            }
            if joined.as_ref().map_or(body.len(), BytesMut::len) > size {
                return Err(longer());
            }
        }
        let body = joined.map_or(body, BytesMut::freeze);
        if body.len() == size { Ok(body) } else { Err(broke_off(body.len() as u64, size as u64)) }
    }

    /// SHA-256 and size of an object, unless it is larger than `max_bytes`. It is never held in memory as a whole.
    pub async fn digest(&self, key: &str, max_bytes: u64) -> Result<(Sha256, u64), StoreError> {
        let path = self.path(key)?;
        let outcome = self.read_whole(|| self.digest_once(&path, max_bytes)).await;
        outcome.map_err(|trouble| self.failed(key, trouble.into()))
    }

    async fn digest_once(&self, path: &Path, max_bytes: u64) -> Result<(Sha256, u64), Trouble> {
        let result = self.begin(path, max_bytes).await?;
        let (size, mut hasher, mut at) = (result.meta.size, sha2::Sha256::new(), 0);
        match result.payload {
            GetResultPayload::File(file, path) => {
                let mut reading = (file, hasher, Vec::new());
                while at < size {
                    let length = (size - at).min(LOOK_BYTES);
                    let (from, path) = (at, path.clone());
                    let work = tokio::task::spawn_blocking(move || {
                        let (file, hasher, piece) = &mut reading;
                        piece.resize(length as usize, 0);
                        file.read_exact_at(piece, from).map_err(|error| failed(&path, error))?;
                        hasher.update(&*piece);
                        Ok(reading)
                    });
                    reading = self.once(length, async { work.await? }).await?;
                    at += length;
                }
                hasher = reading.1;
            }
            GetResultPayload::Stream(mut stream) => {
                while let Some(piece) = self.next(&mut stream).await? {
                    hasher.update(&piece);
                    at += piece.len() as u64;
                    if at > size {
                        return Err(longer());
                    }
                }
            }
        }
        if at == size { Ok((Sha256(hasher.finalize().into()), size)) } else { Err(broke_off(at, size)) }
    }

    /// The next item of a stream, waited for no longer than the idle time.
    async fn next<T>(&self, stream: &mut BoxStream<'static, object_store::Result<T>>) -> Result<Option<T>, Trouble> {
        self.once(0, async { stream.next().await.transpose() }).await
    }

    /// Pieces of an object, in the order asked for. A range that is empty or ends
    /// beyond the object is damage: only damaged tables of contents ask for one.
    pub async fn get_ranges(&self, key: &str, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let path = self.path(key)?;
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        if ranges.iter().any(Range::is_empty) {
            return Err(self.failed(key, Problem::Damaged("an empty range of it was asked for".to_owned())));
        }
        let end = ranges.iter().map(|range| range.end).max().unwrap_or(0);
        let bytes = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.end - range.start));
        let read = || async {
            let pieces = self.once(bytes, self.objects.get_ranges(&path, ranges)).await?;
            let lengths = pieces.iter().map(|piece| piece.len() as u64);
            if lengths.eq(ranges.iter().map(|range| range.end - range.start)) {
                Ok(pieces)
            } else {
                Err(Trouble::Passing("it gave other ranges than asked for".to_owned()))
            }
        };
        match self.read_whole(read).await {
            Ok(pieces) => Ok(pieces),
            // Backends tell of a range beyond the end in many ways; the size decides.
            Err(Trouble::Passing(cause)) => match self.size(key).await {
                Ok(size) if size < end => {
                    let why = format!("it has {size} bytes, byte {} was asked for", end - 1);
                    Err(self.failed(key, Problem::Damaged(why)))
                }
                Ok(_) => Err(self.failed(key, Problem::Unreachable(cause))),
                Err(error) => Err(error),
            },
            Err(trouble) => Err(self.failed(key, trouble.into())),
        }
    }

    /// Repeats a read; an input/output error that stays is the object's if the store otherwise answers.
    async fn read_whole<T, Run: Future<Output = Result<T, Trouble>>>(
        &self,
        operation: impl Fn() -> Run,
    ) -> Result<T, Trouble> {
        match self.repeat(operation).await {
            Err(Trouble::Unreadable(cause)) if self.answers().await => Err(Trouble::Damaged(cause)),
            other => other,
        }
    }

    /// Whether the store answers at all.
    pub async fn answers(&self) -> bool {
        self.list_directories("").await.is_ok()
    }

    /// The object's size.
    pub async fn size(&self, key: &str) -> Result<u64, StoreError> {
        let path = self.path(key)?;
        let options = || GetOptions { head: true, ..GetOptions::default() };
        self.repeated(key, || async { Ok(self.once(0, self.objects.get_opts(&path, options())).await?.meta.size) })
            .await
    }

    /// All objects below a prefix (whole parts of keys, without a slash at its end; empty for all), sorted by key.
    /// What lies in quarantine is not listed with the rest.
    pub async fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>, StoreError> {
        Ok(self.listing(prefix).await?.objects)
    }

    /// The same, with how many names were passed over.
    pub async fn listing(&self, prefix: &str) -> Result<Listing, StoreError> {
        let path = self.prefix(prefix)?;
        self.repeated(prefix, || self.list_once(path.as_ref(), key::is_quarantined(prefix), MAX_LISTED)).await
    }

    async fn list_once(&self, prefix: Option<&Path>, quarantined: bool, most: u64) -> Result<Listing, Trouble> {
        let (mut listing, mut names) = (Listing::default(), 0);
        let mut stream = self.objects.list(prefix);
        while let Some(ObjectMeta { location, size, .. }) = self.next(&mut stream).await? {
            let name = location.as_ref();
            names += 1 + (name.len() / BYTES_OF_A_NAME) as u64;
            if names > most {
                return Err(too_many(most));
            }
            if key::is_quarantined(name) && !quarantined {
                continue;
            }
            if key::parse(name).is_some() {
                listing.objects.push((location.into(), size));
            } else if key::is_leftover(name) {
                listing.leftovers += 1;
            } else {
                listing.foreign += 1;
            }
        }
        listing.objects.sort_unstable();
        Ok(listing)
    }

    /// The names (last parts) of what looks like folders directly below a prefix, sorted.
    pub async fn list_directories(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = self.prefix(prefix)?;
        self.repeated(prefix, || async {
            let found = self.once(0, self.objects.list_with_delimiter(path.as_ref())).await?;
            if (found.common_prefixes.len() + found.objects.len()) as u64 > MAX_LISTED {
                return Err(too_many(MAX_LISTED));
            }
            let names = found.common_prefixes.iter().filter_map(Path::filename);
            let ours = names.filter(|name| key::is_part(name) && (path.is_some() || *name != key::QUARANTINE));
            let mut names: Vec<String> = ours.map(str::to_owned).collect();
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    fn prefix(&self, prefix: &str) -> Result<Option<Path>, StoreError> {
        // A folder may be named with its slash.
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if prefix.is_empty() { Ok(None) } else { self.path(prefix).map(Some) }
    }
}

fn longer() -> Trouble {
    Trouble::Damaged("its body is longer than the store says".to_owned())
}

fn broke_off(after: u64, size: u64) -> Trouble {
    Trouble::Passing(format!("its body broke off after {after} of {size} bytes"))
}

/// No use to try again: it would take as long, and fill as much.
fn too_many(most: u64) -> Trouble {
    Trouble::Gone(format!("it lists more than {most} names; no repository has so many"))
}

/// Reads a file whole in one go: one allocation, and no byte touched twice.
async fn read_file(file: File, path: PathBuf, size: u64) -> object_store::Result<Bytes> {
    let read = move || {
        let mut body = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let read = file.take(size).read_to_end(&mut body);
        match read {
            Ok(_) if body.len() as u64 == size => Ok(Bytes::from(body)),
            // Cut short since it was opened.
            Ok(_) => Err(failed(&path, io::ErrorKind::UnexpectedEof.into())),
            Err(error) => Err(failed(&path, error)),
        }
    };
    tokio::task::spawn_blocking(read).await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::{ObjectStoreExt, PutPayload};

    #[tokio::test]
    async fn a_listing_that_never_ends_is_given_up() {
        let store = Store::memory("a");
        let long = "x".repeat(2 * BYTES_OF_A_NAME);
        // One that is ours, one in quarantine, one that is not ours, one that counts thrice.
        for key in ["a/b", "quarantine/a", "FOREIGN", &long] {
            store.objects.put(&Path::from(key), PutPayload::from_static(b"x")).await.unwrap();
        }
        assert_eq!(store.list_once(None, false, 6).await.unwrap().objects, [("a/b".to_owned(), 1)]);
        let refused = store.list_once(None, false, 5).await.unwrap_err();
        assert!(!refused.may_pass(), "{refused:?}");
        assert_eq!(
            Problem::from(refused),
            Problem::Unreachable("it lists more than 5 names; no repository has so many".into())
        );
    }
}
