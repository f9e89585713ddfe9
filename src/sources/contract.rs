//! What every source must pass, whatever it reads.

use super::{Continued, LastCapture, READ_BYTES, Source, View, ViewFacts};
use crate::{
    core::{alteration::Alteration, failure::Failure, path::StoredPath},
    format::pack::BlockDigest,
    world::SeededRandom,
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// All blocks of an entry.
pub(crate) fn read_entry(view: &mut dyn View, entry: usize) -> Vec<u8> {
    let blocks = view.facts().entries[entry].blocks();
    if view.facts().entries[entry].block_size().is_none() {
        return Vec::new();
    }
    read_runs(view, entry, &[(0, blocks)]).into_iter().flat_map(|(_, bytes)| bytes).collect()
}

/// All blocks of all entries.
pub(crate) fn read_all(view: &mut dyn View) -> Vec<Vec<u8>> {
    (0..view.facts().entries.len()).map(|entry| read_entry(view, entry)).collect()
}

/// Opens, reads everything, closes.
pub(crate) fn snapshot(source: &dyn Source) -> Vec<Vec<u8>> {
    let mut view = source.open().unwrap();
    let content = read_all(&mut *view);
    view.close().unwrap();
    content
}

/// The pieces of some runs, checked for size, order and belonging to one run.
fn read_runs(view: &mut dyn View, entry: usize, runs: &[(u64, u64)]) -> Vec<(u64, Vec<u8>)> {
    let block_size = view.facts().entries[entry].block_size().unwrap() as usize;
    let mut pieces: Vec<(u64, Vec<u8>)> = Vec::new();
    view.read(entry, &mut runs.iter().copied(), &mut |first, bytes| {
        assert!(!bytes.is_empty() && bytes.len() <= READ_BYTES && bytes.len() % block_size == 0);
        pieces.push((first, bytes.to_vec()));
        Ok(())
    })
    .unwrap();
    let mut handed = pieces.iter();
    for (first, count) in runs {
        let mut at = *first;
        while at < first + count {
            let (piece_at, bytes) = handed.next().unwrap();
            assert_eq!(*piece_at, at);
            at += (bytes.len() / block_size) as u64;
        }
        assert_eq!(at, first + count, "a piece reached beyond its run");
    }
    assert!(handed.next().is_none());
    pieces
}

/// Reads of any runs give what the full read gives, twice; tails are padded with zeros; no block beyond the end.
pub(crate) fn reads_agree(source: &dyn Source) {
    let random = SeededRandom::new("runs");
    let mut view = source.open().unwrap();
    for entry in 0..view.facts().entries.len() {
        if view.facts().entries[entry].block_size().is_none() {
            assert!(view.read(entry, &mut [(0, 1)].into_iter(), &mut |_, _| Ok(())).is_err(), "it has no blocks");
            continue;
        }
        let (blocks, size) = (view.facts().entries[entry].blocks(), view.facts().entries[entry].size());
        let block_size = u64::from(view.facts().entries[entry].block_size().unwrap());
        let full = read_entry(&mut *view, entry);
        assert_eq!(full.len() as u64, blocks * block_size);
        assert!(full[size as usize..].iter().all(|byte| *byte == 0), "the tail is padded with zeros");
        for _ in 0..20 {
            let runs = random_runs(&random, blocks);
            for (first, bytes) in read_runs(&mut *view, entry, &runs) {
                let at = (first * block_size) as usize;
                assert_eq!(bytes, full[at..at + bytes.len()], "block {first}");
            }
        }
        assert_eq!(read_entry(&mut *view, entry), full);
        for beyond in [(blocks, 1), (0, blocks + 1), (u64::MAX, 2)] {
            assert!(view.read(entry, &mut [beyond].into_iter(), &mut |_, _| Ok(())).is_err());
        }
    }
    view.check().unwrap();
    view.close().unwrap();
}

fn random_runs(random: &SeededRandom, blocks: u64) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut at = below(random, 40);
    while at < blocks {
        let count = (1 + below(random, 300)).min(blocks - at);
        runs.push((at, count));
        at += count + below(random, 100);
    }
    runs
}

/// A random number below `limit`.
pub(crate) fn below(random: &SeededRandom, limit: u64) -> u64 {
    use crate::world::Random;
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes) % limit.max(1)
}

/// A view does not see what is written after it was opened; the next one does.
pub(crate) fn view_is_constant(source: &dyn Source, write: &mut dyn FnMut()) {
    let mut view = source.open().unwrap();
    let before = read_all(&mut *view);
    write();
    assert!(read_all(&mut *view) == before, "the view changed under its reader");
    view.close().unwrap();
    assert!(snapshot(source) != before, "the next view shows what was written");
}

/// `is_unchanged` never says so after a change, and does say so once things are quiet.
pub(crate) fn unchanged_is_never_wrong(source: &dyn Source, rounds: u64, mutate: &mut dyn FnMut(u64)) {
    let random = SeededRandom::new("unchanged");
    let mut promises = 0;
    for round in 0..rounds {
        mutate(2 * round);
        thread::sleep(Duration::from_millis([0, 1, 5, 60, 75][below(&random, 5) as usize]));
        let mut view = source.open().unwrap();
        let content = read_all(&mut *view);
        let fingerprint = view.facts().fingerprint.clone();
        view.close().unwrap();
        let Some(fingerprint) = fingerprint else { continue };
        promises += 1;
        if below(&random, 4) > 0 {
            mutate(2 * round + 1);
        }
        if source.is_unchanged(&fingerprint) {
            assert!(snapshot(source) == content, "round {round}: said to be unchanged, but is not");
        }
    }
    assert!(promises > 0, "no view promised anything in {rounds} rounds");
    thread::sleep(Duration::from_millis(80));
    let view = source.open().unwrap();
    let fingerprint = view.facts().fingerprint.clone().expect("a quiet source gives a fingerprint");
    view.close().unwrap();
    assert!(source.is_unchanged(&fingerprint), "a quiet source is unchanged");
    assert!(!source.is_unchanged(&serde_json::json!({ "version": 1, "hostile": [] })));
    assert!(!source.is_unchanged(&serde_json::Value::Null));
}

/// What a snapshot leaves in local state, for sources that compare.
pub(crate) struct Taken {
    pub(crate) facts: ViewFacts,
    pub(crate) content: Vec<Vec<u8>>,
    pub(crate) continued: Vec<Option<Continued>>,
    pub(crate) alterations: Vec<Alteration>,
}

fn digest(block: &[u8]) -> BlockDigest {
    *blake3::hash(block).as_bytes().first_chunk().unwrap()
}

impl Taken {
    /// Reads and closes a view.
    pub(crate) fn of(mut view: Box<dyn View>) -> Self {
        let taken = Taken {
            content: read_all(&mut *view),
            facts: view.facts().clone(),
            continued: (0..view.facts().entries.len()).map(|at| view.continued(at).cloned()).collect(),
            alterations: view.alterations().to_vec(),
        };
        view.close().unwrap();
        taken
    }

    /// The blocks of a file.
    fn blocks(&self, path: &StoredPath) -> Option<Vec<&[u8]>> {
        let at = self.facts.entries.iter().position(|entry| entry.path == *path)?;
        Some(self.content[at].chunks(self.facts.entries[at].block_size()? as usize).collect())
    }
}

impl LastCapture for Taken {
    fn fingerprint(&self) -> &serde_json::Value {
        self.facts.fingerprint.as_ref().unwrap()
    }

    fn digest(&self, block: &[u8]) -> BlockDigest {
        digest(block)
    }

    fn digests(&self, path: &StoredPath, first: u64, count: u64) -> Result<Option<Vec<BlockDigest>>, Failure> {
        let blocks = self.blocks(path).unwrap_or_default();
        let wanted = blocks.get(first as usize..(first + count) as usize);
        Ok(wanted.map(|blocks| blocks.iter().map(|block| digest(block)).collect()))
    }
}

/// What a view says that it continues is word for word what was captured; `change` alters nothing that was.
pub(crate) fn continued_blocks_are_the_same(source: &dyn Source, change: &mut dyn FnMut(u64)) {
    assert!(source.is_append_only());
    let mut last = Taken::of(source.open().unwrap());
    let mut continued_blocks = 0;
    for round in 0..12 {
        change(round);
        let now = Taken::of(source.open_since(&last, round % 5 == 0).unwrap());
        assert!(now.alterations.is_empty(), "round {round}: {:?}", now.alterations);
        for (at, continued) in now.continued.iter().enumerate() {
            let Some(continued) = continued else { continue };
            let (then, blocks) = (last.blocks(&continued.path).unwrap(), continued.blocks as usize);
            let path = &now.facts.entries[at].path;
            assert!(then[..blocks] == now.blocks(path).unwrap()[..blocks], "round {round}: {path}");
            continued_blocks += blocks;
        }
        last = now;
    }
    assert!(continued_blocks > 0, "nothing was continued");
}

/// What a directory looks like from outside: names, sizes, inodes, owners, modification times, contents.
///
/// Reads the files, so this process must have no connection to a database there.
pub(crate) fn picture(directory: &Path) -> Vec<(PathBuf, Look, Vec<u8>)> {
    let look = |path: PathBuf| {
        let data = fs::metadata(&path).unwrap();
        let look = (data.size(), data.ino(), data.uid(), data.gid(), data.mode(), (data.mtime(), data.mtime_nsec()));
        let bytes = fs::read(&path).unwrap();
        (path, look, bytes)
    };
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| look(entry.unwrap().path())).collect();
    files.sort();
    files
}

type Look = (u64, u64, u32, u32, u32, (i64, i64));
