//! A source in memory, for simulations: a few files whose bytes the simulation sets.
//!
//! Deterministic, always compiled, never read from configuration.

use super::{READ_BYTES, Sink, Source, View, ViewFacts};
use crate::{
    core::{
        failure::Failure,
        log::LogRange,
        manifest::{Entry, EntryKind},
        path::StoredPath,
    },
    world::World,
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

/// A source whose files live in memory. Clones share them.
#[derive(Clone)]
pub struct MemorySource {
    shared: Arc<Mutex<Shared>>,
    world: World,
    block_size: u32,
}

#[derive(Default)]
struct Shared {
    files: BTreeMap<StoredPath, Arc<Vec<u8>>>,
    version: u64,
    log: Option<LogRange>,
}

impl MemorySource {
    /// A source without files.
    pub fn new(block_size: u32, world: World) -> Self {
        MemorySource { shared: Arc::default(), world, block_size }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic while held")
    }

    /// Sets a file's bytes.
    pub fn set(&self, path: &str, bytes: Vec<u8>) {
        let path = StoredPath::parse(path).expect("a simulation names its files well");
        let mut shared = self.lock();
        shared.files.insert(path, Arc::new(bytes));
        shared.version += 1;
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) {
        let mut shared = self.lock();
        shared.files.retain(|stored, _| stored.as_str() != path);
        shared.version += 1;
    }

    /// Sets what the next views need of a log besides.
    pub fn set_log(&self, range: LogRange) {
        let mut shared = self.lock();
        shared.log = Some(range);
        shared.version += 1;
    }

    /// A file's bytes now.
    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        self.lock().files.iter().find(|(stored, _)| stored.as_str() == path).map(|(_, bytes)| bytes.to_vec())
    }

    /// How often anything was set or removed: the position.
    pub fn version(&self) -> u64 {
        self.lock().version
    }
}

impl Source for MemorySource {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn is_unchanged(&self, fingerprint: &serde_json::Value) -> bool {
        *fingerprint == serde_json::json!({ "version": self.version() })
    }

    fn open(&self) -> Result<Box<dyn View>, Failure> {
        let read_started_at = self.world.now();
        let shared = self.lock();
        let entry = |(path, bytes): (&StoredPath, &Arc<Vec<u8>>)| Entry {
            path: path.clone(),
            kind: EntryKind::File { size: bytes.len() as u64, block_size: self.block_size },
            mode: 0o600,
            uid: 0,
            gid: 0,
        };
        let facts = ViewFacts {
            identity: "memory".to_owned(),
            position: format!("version={}", shared.version),
            read_started_at,
            entries: shared.files.iter().map(entry).collect(),
            fingerprint: Some(serde_json::json!({ "version": shared.version })),
            notes: Vec::new(),
            warnings: Vec::new(),
            history: None,
            log: shared.log.clone(),
        };
        let files = shared.files.values().cloned().collect();
        Ok(Box::new(MemoryView { facts, files, block_size: self.block_size as usize }))
    }

    fn probe(&self) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
}

struct MemoryView {
    facts: ViewFacts,
    files: Vec<Arc<Vec<u8>>>,
    block_size: usize,
}

impl View for MemoryView {
    fn facts(&self) -> &ViewFacts {
        &self.facts
    }

    fn read(
        &mut self,
        entry: usize,
        runs: &mut dyn Iterator<Item = (u64, u64)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let bytes = self.files.get(entry).ok_or_else(|| Failure::internal(format!("no entry {entry}")))?;
        let blocks = bytes.len().div_ceil(self.block_size) as u64;
        let piece = (READ_BYTES / self.block_size) as u64;
        for (first, count) in runs {
            let end = first.checked_add(count).filter(|end| *end <= blocks);
            let end = end.ok_or_else(|| Failure::internal(format!("no blocks {first}+{count} in entry {entry}")))?;
            for at in (first..end).step_by(piece as usize) {
                let from = at as usize * self.block_size;
                let length = (end - at).min(piece) as usize * self.block_size;
                let mut padded = bytes[from..(from + length).min(bytes.len())].to_vec();
                padded.resize(length, 0);
                sink(at, &padded)?;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::contract;

    fn source() -> MemorySource {
        let source = MemorySource::new(512, World::real());
        source.set("a", (0..700_000_u32).map(|at| (at * 7 / 3) as u8).collect());
        source.set("b/empty", Vec::new());
        source.set("b/tail", vec![9; 513]);
        source
    }

    #[test]
    fn contract() {
        let source = source();
        contract::reads_agree(&source);
        contract::view_is_constant(&source, &mut || source.set("a", vec![1; 3]));
        let writer = source.clone();
        contract::unchanged_is_never_wrong(&source, 20, &mut |round| writer.set("b/tail", vec![round as u8; 100]));
    }

    #[test]
    fn removed_files_are_gone() {
        let source = source();
        source.remove("a");
        assert_eq!((source.get("a"), source.version()), (None, 4));
        assert_eq!(source.open().unwrap().facts().entries.len(), 2);
    }
}
