//! Fetching objects whose digest is known, from whichever store has them right.

use super::Repository;
use crate::{
    core::{id::Sha256, result::Problem},
    format,
    stores::{LargeObject, Store, StoreError},
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    sync::{Arc, Mutex},
};

/// Something that a reader had to go round.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Detour {
    /// The store.
    pub store: String,
    /// The object's full name.
    pub object: String,
    /// Missing, damaged or unreachable.
    pub problem: Problem,
}

/// Collects from concurrent readers what they had to go round, and which stores gave what they read.
#[derive(Default)]
pub struct Detours {
    around: Mutex<BTreeSet<Detour>>,
    given_by: Mutex<BTreeSet<String>>,
    /// How often in a row each store kept its readers waiting.
    waited_for: Arc<Mutex<BTreeMap<String, u32>>>,
}

/// Kept waiting so often in a row, readers ask a store after all others: a dead one must not delay every single object,
/// and one that stumbled once goes on being read.
const WAITS_MAX: u32 = 3;

impl Detours {
    /// A collection of its own that knows which stores keep readers waiting.
    #[must_use]
    pub fn apart(&self) -> Self {
        Detours { waited_for: self.waited_for.clone(), ..Detours::default() }
    }

    /// Records one.
    pub fn add(&self, store: &str, object: &str, problem: Problem) {
        if problem == Problem::Unreachable {
            self.note_lagging(store);
        }
        let detour = Detour { store: store.to_owned(), object: object.to_owned(), problem };
        self.around.lock().expect("no panic while held").insert(detour);
    }

    /// Records that a store gave something as it should be.
    pub fn note_given(&self, store: &str) {
        self.waited_for.lock().expect("no panic while held").retain(|of, waits| of != store || *waits >= WAITS_MAX);
        let mut given_by = self.given_by.lock().expect("no panic while held");
        if !given_by.contains(store) {
            given_by.insert(store.to_owned());
        }
    }

    /// Records that a store kept a reader waiting.
    pub fn note_lagging(&self, store: &str) {
        let mut waited_for = self.waited_for.lock().expect("no panic while held");
        *waited_for.entry(store.to_owned()).or_default() += 1;
    }

    /// Stores in the order in which they are asked.
    pub fn in_order<'s>(&self, stores: &'s [Store]) -> Vec<&'s Store> {
        let waited_for = self.waited_for.lock().expect("no panic while held");
        let lags = |store: &&Store| waited_for.get(store.name()).is_some_and(|waits| *waits >= WAITS_MAX);
        let (last, first): (Vec<&Store>, Vec<&Store>) = stores.iter().partition(lags);
        [first, last].concat()
    }

    /// The stores that gave something, by name.
    pub fn given_by(&self) -> BTreeSet<String> {
        self.given_by.lock().expect("no panic while held").clone()
    }

    /// All detours that were recorded, in order.
    pub fn list(&self) -> Vec<Detour> {
        self.around.lock().expect("no panic while held").iter().cloned().collect()
    }
}

/// The word for a store's error in findings.
pub fn problem_of(error: &StoreError) -> Problem {
    use crate::stores::Problem as StoreProblem;
    match error.problem {
        StoreProblem::Missing => Problem::Missing,
        StoreProblem::Damaged(_) | StoreProblem::Exists | StoreProblem::InvalidKey => Problem::Damaged,
        StoreProblem::Full(_) => Problem::Full,
        StoreProblem::Denied(_) | StoreProblem::Unreachable(_) => Problem::Unreachable,
    }
}

/// No store gave an object with the right digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object} cannot be had from any store: {}", reasons.join("; "))]
pub struct NowhereIntact {
    /// The object's full name.
    pub object: String,
    /// What each store said.
    pub reasons: Vec<String>,
    /// Whether some store could not be asked, so that the object may well exist.
    pub unreachable: bool,
}

/// An object and what is known about it from signed data.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Full name.
    pub key: &'a str,
    /// Bytes, where known.
    pub size: Option<u64>,
    /// SHA-256.
    pub sha256: Sha256,
    /// The most bytes to accept where the size is not known.
    pub max_bytes: u64,
}

impl Repository {
    /// Fetches an object whole, from the first store that has it with the right digest. One that keeps not
    /// answering is asked last.
    pub async fn fetch(&self, wanted: Wanted<'_>, detours: &Detours) -> Result<Bytes, NowhereIntact> {
        let mut nowhere = NowhereIntact::of(wanted.key);
        for store in detours.in_order(&self.stores) {
            let problem = match store.get(wanted.key, wanted.size.unwrap_or(wanted.max_bytes)).await {
                Ok(bytes) if format::sha256(&bytes) == wanted.sha256 => {
                    detours.note_given(store.name());
                    return Ok(bytes);
                }
                Ok(_) => Problem::Damaged,
                Err(error) => problem_of(&error),
            };
            nowhere.note(store, problem, detours);
        }
        Err(nowhere)
    }

    /// The same of an object of `size` bytes that is too large for memory: it comes into a file without a name in the
    /// directory `spool`. The inner error is that file's.
    pub async fn fetch_large(
        &self,
        (key, size, sha256): (&str, u64, Sha256),
        spool: &Path,
        detours: &Detours,
    ) -> Result<io::Result<LargeObject>, NowhereIntact> {
        let mut nowhere = NowhereIntact::of(key);
        let file = match tempfile::tempfile_in(spool) {
            Ok(file) => Arc::new(file),
            Err(error) => return Ok(Err(error)),
        };
        for store in detours.in_order(&self.stores) {
            let problem = match store.get_into(key, size, &file).await {
                Ok(Err(error)) => return Ok(Err(error)),
                Ok(Ok(found)) if found == sha256 => {
                    detours.note_given(store.name());
                    return Ok(Ok(LargeObject { file, size, sha256 }));
                }
                Ok(Ok(_)) => Problem::Damaged,
                Err(error) => problem_of(&error),
            };
            nowhere.note(store, problem, detours);
        }
        Err(nowhere)
    }
}

impl NowhereIntact {
    /// Nobody was asked yet.
    pub(super) fn of(key: &str) -> Self {
        NowhereIntact { object: key.to_owned(), reasons: Vec::new(), unreachable: false }
    }

    /// Notes what a store has in place of it.
    pub(super) fn note(&mut self, store: &Store, problem: Problem, detours: &Detours) {
        detours.add(store.name(), &self.object, problem);
        self.unreachable |= problem == Problem::Unreachable;
        self.reasons.push(format!("on {} it is {problem}", store.name()));
    }
}
