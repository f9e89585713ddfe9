//! Tests of the log source, over real directories.

mod changes;
mod views;

use super::*;
use crate::{
    core::{alteration::LogProblem, path::StoredPath},
    format::pack::BlockDigest,
    sources::contract,
};
use std::{collections::HashMap, fs, path::PathBuf};

/// A directory of logs.
struct Logs {
    dir: tempfile::TempDir,
    rules: Rules,
}

impl Logs {
    fn new() -> Self {
        let rules = Rules { expire_after: None, reread_every: Duration::from_secs(7 * 86_400) };
        Logs { dir: tempfile::tempdir().unwrap(), rules }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), bytes).unwrap();
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        use std::io::Write;
        let file = fs::OpenOptions::new().append(true).create(true).open(self.path(name));
        file.unwrap().write_all(bytes).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::create_dir_all(self.path(to).parent().unwrap()).unwrap();
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// What `gzip` does.
    fn gzip(&self, name: &str) {
        use std::io::Write;
        let bytes = fs::read(self.path(name)).unwrap();
        let file = fs::File::create(self.path(&format!("{name}.gz"))).unwrap();
        let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::default());
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap();
        self.remove(name);
    }

    /// What `zstd --rm` does.
    fn zstd(&self, name: &str) {
        let bytes = fs::read(self.path(name)).unwrap();
        fs::write(self.path(&format!("{name}.zst")), zstd::encode_all(&bytes[..], 3).unwrap()).unwrap();
        self.remove(name);
    }

    fn source(&self) -> Log {
        Log::new(self.dir.path(), self.rules, World::real())
    }

    /// Captures everything.
    fn capture(&self) -> Captured {
        Captured::of(self.source().open().unwrap())
    }

    /// Captures everything, compared with `last`.
    fn compare(&self, last: &Captured) -> Captured {
        Captured::of(self.source().open_since(last, false).unwrap())
    }

    /// What was altered since, as text; nothing a second time.
    #[track_caller]
    fn altered(&self, last: &Captured) -> String {
        let now = self.compare(last);
        assert_eq!(self.compare(&now).altered, "", "told twice");
        now.altered
    }
}

/// What a snapshot leaves in local state, and what it was.
struct Captured {
    fingerprint: serde_json::Value,
    digests: HashMap<StoredPath, Vec<BlockDigest>>,
    content: Vec<Vec<u8>>,
    altered: String,
    /// Blocks that each file continues, with the file that they were captured of.
    continued: Vec<(String, Option<(String, u64)>)>,
}

fn digest(block: &[u8]) -> BlockDigest {
    *blake3::hash(block).as_bytes().first_chunk().unwrap()
}

impl Captured {
    fn of(mut view: Box<dyn View>) -> Self {
        let content = contract::read_all(&mut *view);
        let facts = view.facts().clone();
        let digests = facts
            .entries
            .iter()
            .zip(&content)
            .map(|(entry, bytes)| (entry.path.clone(), bytes.chunks(BLOCK_BYTES as usize).map(digest).collect()));
        let continued = (0..facts.entries.len()).map(|at| {
            let from = view.continued(at).map(|from| (from.path.to_string(), from.blocks));
            (facts.entries[at].path.to_string(), from)
        });
        let altered: Vec<String> = view.alterations().iter().map(ToString::to_string).collect();
        let captured = Captured {
            fingerprint: facts.fingerprint.clone().unwrap(),
            digests: digests.collect(),
            continued: continued.collect(),
            altered: altered.join("; "),
            content,
        };
        view.close().unwrap();
        captured
    }

    fn continues(&self, name: &str) -> Option<(&str, u64)> {
        let (_, from) = self.continued.iter().find(|(path, _)| path == name).unwrap();
        from.as_ref().map(|(path, blocks)| (path.as_str(), *blocks))
    }
}

impl LastCapture for Captured {
    fn fingerprint(&self) -> &serde_json::Value {
        &self.fingerprint
    }

    fn digest(&self, block: &[u8]) -> BlockDigest {
        digest(block)
    }

    fn digests(&self, path: &StoredPath, first: u64, count: u64) -> Result<Option<Vec<BlockDigest>>, Failure> {
        let known = self.digests.get(path);
        Ok(known.and_then(|known| Some(known.get(first as usize..(first + count) as usize)?.to_vec())))
    }
}

/// `bytes` bytes of numbered lines.
fn lines(seed: &str, bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for number in 0.. {
        if text.len() >= bytes {
            break;
        }
        text.extend(format!("{seed} {number:09} something was done by somebody\n").bytes());
    }
    text.truncate(bytes);
    text
}
