//! SQLite databases, read page by page in one read transaction.
//!
//! The application's database is never checkpointed, altered or opened behind SQLite's back; no sidecar
//! appears or goes. What a crashed writer left is recovered by SQLite, and only where no reader could do without.
//!
//! One trap: SQLite shares a database's wal-index between all connections of a process. A process that has
//! a view open and no writer yet cannot open the same database for writing until the view has ended.
//!
//! Read `open` first (which way is safe when), then `view`, `lease`, and `files` and `log` (fingerprints).

mod assertions;
mod check;
mod connect;
mod failures;
mod files;
mod lease;
mod log;
mod open;
mod scratch;
mod view;

#[cfg(test)]
mod tests;

pub use assertions::check_assertions;
pub use check::check_restored;

use super::{Limits, Source, View};
use crate::{core::failure::Failure, world::World};
use open::{Opening, Recovery};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

/// The word in configuration and inventories.
pub const KIND: &str = "sqlite";

/// A SQLite database as a source.
pub struct Sqlite {
    path: PathBuf,
    limits: Limits,
    world: World,
    reading: Reading,
    /// An application came while the database was read at rest: the next try waits for it.
    disturbed: Arc<AtomicBool>,
}

/// How pages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// From SQLite's page table where this build has it.
    PageTable,
    /// From a scratch copy, whatever this build has.
    ScratchCopy,
}

impl Sqlite {
    /// The database at `path`; nothing is looked at yet.
    pub fn new(path: impl AsRef<Path>, limits: Limits, world: World) -> Self {
        Sqlite { path: path.as_ref().to_owned(), limits, world, reading: Reading::PageTable, disturbed: Arc::default() }
    }

    /// Reads through a copy in the scratch directory, as a build of SQLite without its page table must.
    #[must_use]
    pub fn through_scratch_copy(mut self) -> Self {
        self.reading = Reading::ScratchCopy;
        self
    }
}

impl Source for Sqlite {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn is_unchanged(&self, fingerprint: &serde_json::Value) -> bool {
        let Ok(fingerprint) = serde_json::from_value::<files::Fingerprint>(fingerprint.clone()) else { return false };
        let Ok(files) = files::DatabaseFiles::find(&self.path) else { return false };
        files::Stamps::take(&files).is_ok_and(|now| fingerprint.holds(&now))
    }

    fn open(&self) -> Result<Box<dyn View>, Failure> {
        match self.open_view(Recovery::Permitted)? {
            Opening::View(view) => Ok(view),
            Opening::Unrecovered(sidecar) => Err(failures::unrecovered(&sidecar)),
        }
    }

    fn probe(&self) -> Result<Vec<String>, Failure> {
        match self.open_view(Recovery::Reported)? {
            Opening::View(view) => {
                let notes = view.facts().notes.clone();
                view.close().map(|()| notes)
            }
            Opening::Unrecovered(sidecar) => Ok(vec![failures::unrecovered(&sidecar).message]),
        }
    }
}
