//! Stores: the places that hold a copy, behind one set of operations.
//!
//! A store knows keys and bytes, and nothing about what they mean. Two rules hold for every operation here:
//!
//! - Nothing is overwritten, except by [`Store::replace`], which heals what is damaged. Nothing is deleted, except by
//!   [`Store::delete`], which an executed prune plan asks for.
//! - What an operation reports as written is on stable storage and was not written by luck: a doubtful answer is
//!   settled by reading back.
//!
//! A store that hangs is told apart from one that is slow by [`Patience`], and costs the caller no more than that.

mod absent;
mod deleting;
mod directory;
mod error;
pub mod fault;
mod files;
mod key;
mod large;
mod mount;
mod open;
mod operations;
mod reading;
mod s3;
mod surroundings;
mod writing;

#[cfg(test)]
mod contract;

use crate::{core::policy::Place, world::Stopwatch};
use object_store::{ObjectStore, memory::InMemory};
use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use error::{Problem, StoreError};
pub use key::QUARANTINE;
pub use large::{LARGE_BYTES, LargeObject};
pub use open::{StoreSpec, examine, found};
pub use reading::Listing;
pub use surroundings::{Fate, Shared, Surroundings, holds, is_below, lies_in, refuse_aliases, shared, surroundings};
pub use writing::{Created, Replaced};

use directory::Directory;
use error::Trouble;

/// How long a store may take before it counts as unreachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long nothing at all may happen.
    pub idle: Duration,
    /// What the slowest store still moves: an operation on many bytes may take that much longer than `idle`.
    pub slowest_bytes_per_second: u64,
    /// How often an operation is tried when its failure may pass.
    pub attempts: u32,
    /// The pause before the second attempt; each later one is four times as long.
    pub pause: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            idle: Duration::from_secs(60),
            slowest_bytes_per_second: 256 * 1024,
            attempts: 3,
            pause: Duration::from_millis(100),
        }
    }
}

impl Patience {
    /// How long an operation that moves so many bytes may take.
    fn allowance(&self, bytes: u64) -> Duration {
        self.idle + Duration::from_secs(bytes / self.slowest_bytes_per_second.max(1))
    }

    /// The pause before attempt `attempt` (the first is 0).
    fn pause_before(&self, attempt: u32) -> Duration {
        self.pause * 4u32.saturating_pow(attempt.saturating_sub(1).min(8))
    }
}

/// Since when nobody answers for a store, all attempts at an operation long.
#[derive(Clone, Debug, Default)]
struct Silence(Arc<Mutex<Option<Stopwatch>>>);

impl Silence {
    /// How long it is remembered: whatever it was may have passed after that.
    const REMEMBERED: Duration = Duration::from_secs(60);

    fn lasts(&self) -> bool {
        self.state().as_ref().is_some_and(|since| since.elapsed() < Silence::REMEMBERED)
    }

    /// Notes how an operation ended.
    fn note(&self, trouble: Option<&Trouble>) {
        let is_silent = matches!(trouble, Some(Trouble::Silent(_)));
        if !is_silent || !self.lasts() {
            *self.state() = is_silent.then(Stopwatch::start);
        }
    }

    fn state(&self) -> MutexGuard<'_, Option<Stopwatch>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known about how a store behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The directory of a `file://` store, with links resolved.
    pub directory: Option<PathBuf>,
    /// Whether it can create an object only if there is none; without it a race may overwrite.
    pub conditional_create: bool,
}

/// One object-store location that holds a copy.
#[derive(Clone)]
pub struct Store {
    name: String,
    url: String,
    place: Place,
    objects: Arc<dyn ObjectStore>,
    /// The backend of a `file://` store, below whatever wraps it.
    directory: Option<Arc<Directory>>,
    facts: Facts,
    patience: Patience,
    silence: Silence,
}

impl Store {
    /// A store over any backend that can create conditionally. `open` is the way for configured ones.
    pub fn over(name: impl Into<String>, url: impl Into<String>, objects: Arc<dyn ObjectStore>) -> Self {
        Store {
            name: name.into(),
            url: url.into(),
            place: Place::default(),
            objects,
            directory: None,
            facts: Facts { directory: None, conditional_create: true },
            patience: Patience::default(),
            silence: Silence::default(),
        }
    }

    /// A new store in memory, for tests and simulations. Clones share what it holds.
    pub fn memory(name: &str) -> Self {
        Store::over(name, format!("memory:{name}"), Arc::new(InMemory::new()))
    }

    /// The same store, with its place.
    #[must_use]
    pub fn with_place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The same store, with other patience.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// The same store, with its backend wrapped: for faults, slowness and counting.
    #[must_use]
    pub fn wrapped(mut self, wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>) -> Self {
        self.objects = wrap(self.objects);
        self
    }

    /// The same store, treated as one whose conditional create cannot be relied on.
    #[must_use]
    pub fn without_conditional_create(mut self) -> Self {
        self.facts.conditional_create = false;
        self
    }

    /// The name that the configuration gives it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its region and provider.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// What is known about it.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    fn failed(&self, key: &str, problem: Problem) -> StoreError {
        StoreError { store: self.name.clone(), key: key.to_owned(), problem }
    }

    fn path(&self, key: &str) -> Result<object_store::path::Path, StoreError> {
        key::parse(key).ok_or_else(|| self.failed(key, Problem::InvalidKey))
    }

    /// Runs one operation that moves `bytes` bytes, no longer than patience allows.
    async fn once<T>(
        &self,
        bytes: u64,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Trouble> {
        let allowance = self.patience.allowance(bytes);
        match tokio::time::timeout(allowance, operation).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Trouble::of(&error)),
            Err(_) => Err(Trouble::Hung(format!("no answer within {} s", allowance.as_secs_f64()))),
        }
    }

    /// How often the next operation is tried. A store that nobody answers for has cost its patience once already.
    fn attempts(&self) -> u32 {
        if self.silence.lasts() { 1 } else { self.patience.attempts.max(1) }
    }

    /// Runs an operation that may as well run twice, again while its failure may pass.
    async fn repeat<T, Run: Future<Output = Result<T, Trouble>>>(
        &self,
        operation: impl Fn() -> Run,
    ) -> Result<T, Trouble> {
        let attempts = self.attempts();
        let mut attempt = 0;
        loop {
            let outcome = operation().await;
            attempt += 1;
            match outcome {
                Err(trouble) if trouble.may_pass() && attempt < attempts => {}
                settled => {
                    self.silence.note(settled.as_ref().err());
                    return settled;
                }
            }
            tokio::time::sleep(self.patience.pause_before(attempt)).await;
        }
    }

    /// The same, with the error the caller sees.
    async fn repeated<T, Run: Future<Output = Result<T, Trouble>>>(
        &self,
        key: &str,
        operation: impl Fn() -> Run,
    ) -> Result<T, StoreError> {
        self.repeat(operation).await.map_err(|trouble| self.failed(key, trouble.into()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Store({}, {})", self.name, self.url)
    }
}
