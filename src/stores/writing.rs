//! Writing to a store: creating without ever overwriting, and healing.

use super::{
    Store, StoreError,
    error::{Problem, Trouble},
    key,
    large::LargeObject,
};
use crate::core::id::Sha256;
use bytes::Bytes;
use object_store::{GetOptions, PutMode, PutOptions, PutPayload, RenameOptions, RenameTargetMode, path::Path};
use sha2::Digest;

/// How an object came to be where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// It was written now.
    Created,
    /// The same bytes were there already.
    AlreadyThere,
}

/// How an object came to be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replaced {
    /// It was right already, and was left alone.
    AlreadyRight,
    /// It was missing.
    Filled,
    /// Other bytes stood there; they were overwritten, or moved to this key where the store has a quarantine.
    Healed {
        /// Where the damaged bytes are now.
        quarantined: Option<String>,
    },
}

/// What stands under a key, compared with what should.
pub(super) enum Found {
    Same,
    Other,
    Missing,
}

impl Found {
    /// What a failed read says of it. A store that does not answer is an error.
    pub(super) fn of(error: StoreError) -> Result<Self, StoreError> {
        match error.problem {
            Problem::Missing => Ok(Found::Missing),
            Problem::Damaged(_) => Ok(Found::Other),
            _ => Err(error),
        }
    }
}

/// What should stand under a key.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    Whole(&'a Bytes, &'a Sha256),
    Large(&'a LargeObject),
}

impl Store {
    /// Creates an object, and never overwrites one. `sha256` is the digest of `bytes` (not computed again here).
    ///
    /// When this returns, the object is on stable storage. A doubtful answer (no answer in time, a lost reply) is
    /// settled by reading back. Other bytes under the same key are [`Problem::Exists`].
    pub async fn create(&self, key: &str, bytes: Bytes, sha256: &Sha256) -> Result<Created, StoreError> {
        debug_assert!(
            bytes.len() > 64 * 1024 || <[u8; 32]>::from(sha2::Sha256::digest(&bytes)) == sha256.0,
            "the digest of {key} is of other bytes"
        );
        let path = self.path(key)?;
        let mut conditional = self.facts.conditional_create;
        let mut created = Created::AlreadyThere;
        // What stands there and cannot be read as an object (a folder, a link) is other content.
        let mut problem = Problem::Exists;
        let mut attempt = 0;
        // More of them again, once it has answered.
        while attempt < self.attempts() {
            if attempt > 0 {
                tokio::time::sleep(self.patience.pause_before(attempt)).await;
            }
            attempt += 1;
            let mut outcome = self.put_new(key, &path, (&bytes, sha256), conditional).await;
            if conditional && matches!(outcome, Err(Trouble::Unsupported(_))) {
                conditional = false;
                outcome = self.put_new(key, &path, (&bytes, sha256), conditional).await;
            }
            match outcome {
                Ok(()) => return Ok(Created::Created),
                Err(Trouble::Exists) => problem = Problem::Exists,
                // It may have been done all the same.
                Err(Trouble::Passing(why) | Trouble::Unreadable(why) | Trouble::Hung(why) | Trouble::Silent(why)) => {
                    (created, problem) = (Created::Created, Problem::Unreachable(why));
                }
                Err(trouble) => return Err(self.failed(key, trouble.into())),
            }
            match self.found(key, Right::Whole(&bytes, sha256)).await? {
                Found::Same => return self.settle(key, &path).await.map(|()| created),
                Found::Other => return Err(self.failed(key, Problem::Exists)),
                Found::Missing => {}
            }
        }
        Err(self.failed(key, problem))
    }

    /// Whether the store keeps an object that is there, and right, from being overwritten. It is tried with the same
    /// bytes, so that nothing is lost if it does not.
    pub async fn keeps_what_is_there(&self, key: &str, bytes: Bytes, sha256: &Sha256) -> Result<bool, StoreError> {
        Ok(self.create(key, bytes, sha256).await? == Created::AlreadyThere)
    }

    /// One attempt to create: conditional, or else looked for, put, and read back.
    async fn put_new(
        &self,
        key: &str,
        path: &Path,
        (bytes, sha256): (&Bytes, &Sha256),
        conditional: bool,
    ) -> Result<(), Trouble> {
        if conditional {
            return self.put(path, bytes, PutMode::Create).await;
        }
        match self.once(0, self.objects.get_opts(path, head())).await {
            Ok(_) => return Err(Trouble::Exists),
            Err(Trouble::Missing) => {}
            Err(other) => return Err(other),
        }
        self.put(path, bytes, PutMode::Overwrite).await?;
        match self.found(key, Right::Whole(bytes, sha256)).await {
            Ok(Found::Same) => Ok(()),
            // Somebody else's bytes won: the caller looks again, and says so.
            Ok(Found::Other | Found::Missing) => Err(Trouble::Exists),
            Err(error) => Err(Trouble::Gone(error.to_string())),
        }
    }

    async fn put(&self, path: &Path, bytes: &Bytes, mode: PutMode) -> Result<(), Trouble> {
        let payload = PutPayload::from_bytes(bytes.clone());
        let put = self.objects.put_opts(path, payload, PutOptions::from(mode));
        self.once(bytes.len() as u64, put).await.map(|_| ())
    }

    /// What stands under the key. A store that does not answer is an error.
    async fn found(&self, key: &str, right: Right<'_>) -> Result<Found, StoreError> {
        match self.found_once(key, right).await? {
            // So much hangs on it that it is read twice: the error may have been on the way.
            Found::Other => self.found_once(key, right).await,
            found => Ok(found),
        }
    }

    async fn found_once(&self, key: &str, right: Right<'_>) -> Result<Found, StoreError> {
        match right {
            Right::Large(object) => self.found_large(key, object).await,
            Right::Whole(bytes, _) => match self.get(key, bytes.len() as u64).await {
                Ok(found) if found == *bytes => Ok(Found::Same),
                Ok(_) => Ok(Found::Other),
                Err(error) => Found::of(error),
            },
        }
    }

    /// Makes sure that what was found, and not written by a call that returned, is on stable storage.
    pub(super) async fn settle(&self, key: &str, path: &Path) -> Result<(), StoreError> {
        let Some(directory) = &self.directory else { return Ok(()) };
        self.repeated(key, || self.once(0, directory.settle(path))).await
    }

    /// Puts the right bytes where damaged ones are, or none: the only overwrite there is.
    ///
    /// A `file://` store moves what stands there to its quarantine first. Right bytes are left alone. What was
    /// written is read back.
    pub async fn replace(&self, key: &str, bytes: Bytes, sha256: &Sha256) -> Result<Replaced, StoreError> {
        self.set_right(key, Right::Whole(&bytes, sha256)).await
    }

    pub(super) async fn set_right(&self, key: &str, right: Right<'_>) -> Result<Replaced, StoreError> {
        let path = self.path(key)?;
        let replaced = match self.found(key, right).await? {
            Found::Same => {
                self.settle(key, &path).await?;
                return Ok(Replaced::AlreadyRight);
            }
            // What is missing is just created. A backup may have put it there meanwhile: then it is right already.
            Found::Missing if self.directory.is_some() && self.create_right(key, right).await.is_ok() => {
                Replaced::Filled
            }
            // A folder or a link in an object's place, or a link in its folder's, reads as missing, and is moved aside
            // like damage.
            found if self.directory.is_some() => match (self.quarantine(key, &path).await?, found) {
                (None, Found::Missing) => Replaced::Filled,
                (Some(aside), _) if self.takes_back(key, &path, &aside, right).await? => {
                    return Ok(Replaced::AlreadyRight);
                }
                (quarantined, _) => Replaced::Healed { quarantined },
            },
            Found::Missing => Replaced::Filled,
            Found::Other => Replaced::Healed { quarantined: None },
        };
        // Only what is damaged is overwritten: what was missing, somebody else may be creating at this moment.
        if self.directory.is_some() || replaced == Replaced::Filled {
            self.create_right(key, right).await?;
        } else {
            self.repeated(key, || self.overwrite(&path, right)).await?;
        }
        match self.found(key, right).await? {
            Found::Same => Ok(replaced),
            _ => Err(self.failed(key, Problem::Damaged("what was written is not what is read back".to_owned()))),
        }
    }

    async fn create_right(&self, key: &str, right: Right<'_>) -> Result<Created, StoreError> {
        match right {
            Right::Whole(bytes, sha256) => self.create(key, bytes.clone(), sha256).await,
            Right::Large(object) => self.create_from(key, object).await,
        }
    }

    async fn overwrite(&self, path: &Path, right: Right<'_>) -> Result<(), Trouble> {
        match right {
            Right::Whole(bytes, _) => self.put(path, bytes, PutMode::Overwrite).await,
            Right::Large(object) => self.upload(path, object).await,
        }
    }

    /// Whether what was moved aside is right, and back in its place: another run may have healed it between our look
    /// and our move.
    async fn takes_back(&self, key: &str, path: &Path, aside: &str, right: Right<'_>) -> Result<bool, StoreError> {
        if !matches!(self.found_once(aside, right).await, Ok(Found::Same)) {
            return Ok(false);
        }
        let from = Path::parse(aside).map_err(|_| self.failed(key, Problem::InvalidKey))?;
        let options = || RenameOptions::new().with_target_mode(RenameTargetMode::Create);
        let renamed = self.repeated(key, || self.once(0, self.objects.rename_opts(&from, path, options()))).await;
        match renamed {
            Ok(()) => Ok(true),
            // Somebody has put it there again; whether that is right is looked at next.
            Err(error) if error.problem == Problem::Exists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Moves an object to `quarantine/<key>`, with a number where that is taken. `None`: it was gone already.
    ///
    /// Where a link or a file stands in the place of a folder above the object, that is what is moved: what a link
    /// leads to is not ours, and may be another store.
    async fn quarantine(&self, key: &str, path: &Path) -> Result<Option<String>, StoreError> {
        for number in 0..key::MAX_QUARANTINED {
            let aside = key::quarantined(key, number);
            let to = Path::parse(&aside).map_err(|_| self.failed(key, Problem::InvalidKey))?;
            let options = || RenameOptions::new().with_target_mode(RenameTargetMode::Create);
            let renamed = self.repeated(key, || self.once(0, self.objects.rename_opts(path, &to, options()))).await;
            match renamed {
                Ok(()) => return Ok(Some(aside)),
                Err(error) => match error.problem {
                    Problem::Exists => {}
                    Problem::Missing => return self.clear_way(key, path).await,
                    _ => return Err(error),
                },
            }
        }
        Err(self.failed(key, Problem::Denied(key::quarantine_is_full())))
    }

    async fn clear_way(&self, key: &str, path: &Path) -> Result<Option<String>, StoreError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        self.repeated(key, || self.once(0, directory.clear_way(path))).await
    }
}

fn head() -> GetOptions {
    GetOptions { head: true, ..Default::default() }
}
