//! What the simulated source holds, and how it changes.

use super::random::Rng;
use recoup::{
    sources::memory::MemorySource,
    world::{ManualClock, SeededRandom, World},
};
use std::{collections::BTreeMap, fs, path::Path};

/// Files by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A database in memory and what is in it. Clones start alike and diverge.
pub(crate) struct Database {
    pub(crate) source: MemorySource,
    pub(crate) files: Files,
    pub(crate) block_size: usize,
    world: World,
    history: Vec<Files>,
}

impl Database {
    /// An empty one.
    pub(crate) fn new(block_size: usize) -> Self {
        let clock = ManualClock::new("2026-11-22T10:00:00Z".parse().unwrap());
        let world = World::new(clock, SeededRandom::new("database"));
        let source = MemorySource::new(block_size as u32, world.clone());
        Database { source, files: Files::new(), block_size, world, history: Vec::new() }
    }

    /// The same content, from now on apart: as a replica that was promoted.
    pub(crate) fn fork(&self) -> Self {
        let mut fork = Database::new(self.block_size);
        self.files.iter().for_each(|(path, bytes)| fork.set(path, bytes.clone()));
        fork.history = self.history.clone();
        fork.reach_version(self.source.version());
        fork
    }

    /// Sets a file.
    pub(crate) fn set(&mut self, path: &str, bytes: Vec<u8>) {
        self.source.set(path, bytes.clone());
        self.files.insert(path.to_owned(), bytes);
    }

    /// Overwrites blocks of a file with new bytes.
    pub(crate) fn rewrite(&mut self, path: &str, blocks: std::ops::Range<usize>, rng: &mut Rng) {
        let mut bytes = self.files[path].clone();
        let range = blocks.start * self.block_size..(blocks.end * self.block_size).min(bytes.len());
        let fresh = rng.bytes(range.len());
        bytes[range].copy_from_slice(&fresh);
        self.set(path, bytes);
    }

    fn remove(&mut self, path: &str) {
        self.source.remove(path);
        self.files.remove(path);
    }

    /// Everything becomes what it was then.
    fn revert(&mut self, to: &Files) {
        for path in self.files.keys().cloned().collect::<Vec<_>>() {
            self.remove(&path);
        }
        to.iter().for_each(|(path, bytes)| self.set(path, bytes.clone()));
    }

    /// The same content in blocks of another size. The position keeps growing.
    fn change_block_size(&mut self, block_size: usize) {
        let version = self.source.version();
        self.block_size = block_size;
        self.source = MemorySource::new(block_size as u32, self.world.clone());
        for (path, bytes) in &self.files {
            self.source.set(path, bytes.clone());
        }
        self.reach_version(version + 1);
    }

    fn reach_version(&self, version: u64) {
        while self.source.version() < version {
            self.source.remove("no such file");
        }
    }

    /// One random change; says what it was.
    pub(crate) fn mutate(&mut self, rng: &mut Rng) -> String {
        if rng.percent(30) {
            self.history.push(self.files.clone());
        }
        let paths: Vec<String> = self.files.keys().cloned().collect();
        if paths.is_empty() || rng.percent(6) {
            let path = format!("{}/{}", rng.pick(&["base", "wal", "z"]), rng.below(6));
            let length = rng.below(40 * self.block_size as u64) as usize;
            self.set(&path, rng.bytes(length));
            return format!("new file {path} of {length} bytes");
        }
        let path = rng.pick(&paths).clone();
        let mut bytes = self.files[&path].clone();
        let done = match rng.below(100) {
            0..55 => {
                let blocks = bytes.len().div_ceil(self.block_size) as u64;
                let count = 1 + rng.below(blocks.min(8));
                for _ in 0..count {
                    let block = rng.below(blocks) as usize;
                    self.rewrite(&path, block..block + 1, rng);
                }
                return format!("{count} blocks of {path}");
            }
            55..67 => {
                let more = rng.below(12 * self.block_size as u64) as usize;
                bytes.extend(rng.bytes(more));
                format!("{path} grows by {more}")
            }
            67..77 => {
                let length = rng.below(bytes.len() as u64 + 1) as usize;
                bytes.truncate(length);
                format!("{path} shrinks to {length}")
            }
            77..82 => {
                let from = rng.below(bytes.len() as u64 + 1) as usize;
                let length = (rng.below(5) as usize * self.block_size).min(bytes.len() - from);
                bytes[from..from + length].fill(0);
                format!("{length} zeros in {path}")
            }
            82..88 if !self.history.is_empty() => {
                let to = rng.pick(&self.history).clone();
                self.revert(&to);
                return "everything is reverted".to_owned();
            }
            88..92 => {
                let block_size = *rng.pick(&[512, 1024, 4096]);
                self.change_block_size(block_size);
                return format!("block size {block_size}");
            }
            92..95 => {
                self.remove(&path);
                return format!("{path} is removed");
            }
            _ => {
                bytes = rng.bytes(bytes.len());
                format!("{path} is rewritten")
            }
        };
        self.set(&path, bytes);
        done
    }
}

/// The files of a directory, by path below it. Empty directories do not count.
pub(crate) fn read_tree(root: &Path) -> Files {
    fn walk(directory: &Path, prefix: &str, files: &mut Files) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{path}/"), files);
            } else {
                files.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
    let mut files = Files::new();
    walk(root, "", &mut files);
    files
}

/// What is not as it should be, in a few words.
pub(crate) fn differences(found: &Files, expected: &Files) -> String {
    let mut all = Vec::new();
    for path in found.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        match (found.get(path), expected.get(path)) {
            (Some(found), Some(expected)) if found != expected => {
                let at = found.iter().zip(expected).position(|(a, b)| a != b);
                all.push(format!("{path} ({} of {} bytes, differs at {at:?})", found.len(), expected.len()));
            }
            (None, _) => all.push(format!("{path} missing")),
            (_, None) => all.push(format!("{path} too much")),
            _ => {}
        }
    }
    all.join(", ")
}
