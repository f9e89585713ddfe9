//! A cluster of which only what changed is ever read; or of which nothing changed but the names of all files.

use super::laid::{BLOCK_BYTES, FILE_BLOCKS, entries, scattered};
use recoup::{
    core::{blocks::BlockSet, failure::Failure, path::StoredPath},
    sources::{Continued, READ_BYTES, Sink, Source, Suspects, View, ViewFacts},
    world::World,
};

/// Blocks of each file that have changed.
const CHANGED_IN_FILE: u64 = 30;

/// A cluster of files of 1 GiB.
pub(super) struct Cluster {
    pub(super) files: u64,
    /// Whether every file has another name than it was captured under.
    pub(super) renamed: bool,
    pub(super) world: World,
}

impl Source for Cluster {
    fn kind(&self) -> &'static str {
        "sqlite"
    }

    fn is_unchanged(&self, _: &serde_json::Value) -> bool {
        false
    }

    fn open(&self) -> Result<Box<dyn View>, Failure> {
        let mut entries = entries(self.files);
        let was = |path: &StoredPath| Continued { path: path.clone(), blocks: FILE_BLOCKS };
        let continued = entries.iter().map(|entry| self.renamed.then(|| was(&entry.path))).collect();
        for entry in entries.iter_mut().filter(|_| self.renamed) {
            entry.path = StoredPath::parse(&format!("{}.1", entry.path)).unwrap();
        }
        let facts = ViewFacts {
            identity: "large".to_owned(),
            position: "now".to_owned(),
            read_started_at: self.world.now(),
            entries,
            fingerprint: None,
            notes: Vec::new(),
            warnings: Vec::new(),
            history: None,
            log: None,
        };
        Ok(Box::new(ClusterView { facts, continued }))
    }

    fn probe(&self) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
}

struct ClusterView {
    facts: ViewFacts,
    continued: Vec<Option<Continued>>,
}

impl View for ClusterView {
    fn facts(&self) -> &ViewFacts {
        &self.facts
    }

    fn read(
        &mut self,
        entry: usize,
        runs: &mut dyn Iterator<Item = (u64, u64)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let mut piece = Vec::with_capacity(READ_BYTES);
        for (first, count) in runs {
            for at in (first..first + count).step_by(READ_BYTES / BLOCK_BYTES as usize) {
                piece.clear();
                for block in at..(first + count).min(at + (READ_BYTES / BLOCK_BYTES as usize) as u64) {
                    let row = (entry as u64 * FILE_BLOCKS + block + 1).to_le_bytes();
                    piece.extend(row.repeat(BLOCK_BYTES as usize / row.len()));
                }
                sink(at, &piece)?;
            }
        }
        Ok(())
    }

    fn continued(&self, entry: usize) -> Option<&Continued> {
        self.continued[entry].as_ref()
    }

    fn is_fuzzy(&self) -> bool {
        self.continued.iter().all(Option::is_none)
    }

    fn suspects(&self, entry: usize) -> Suspects {
        let (mut set, mut next) = (BlockSet::none(FILE_BLOCKS), scattered(entry as u64));
        (0..CHANGED_IN_FILE).for_each(|_| set.insert(next(FILE_BLOCKS)));
        Suspects::Blocks(set)
    }

    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}
