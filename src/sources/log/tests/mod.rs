//! Tests of the log source, over real directories.

mod changes;
mod views;

use super::*;
use crate::{
    core::alteration::LogProblem,
    sources::contract::{self, Taken},
};
use std::{fs, path::PathBuf};

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
    fn capture(&self) -> Taken {
        Taken::of(self.source().open().unwrap())
    }

    /// Captures everything, compared with `last`.
    fn compare(&self, last: &Taken) -> Taken {
        Taken::of(self.source().open_since(last, false).unwrap())
    }

    /// What was altered since, as text; nothing a second time.
    #[track_caller]
    fn altered(&self, last: &Taken) -> String {
        let now = self.compare(last);
        assert_eq!(told(&self.compare(&now)), "", "told twice");
        told(&now)
    }
}

/// What was altered, as text.
fn told(taken: &Taken) -> String {
    taken.alterations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Which captured file a file continues, and how many blocks of it.
fn continues<'t>(taken: &'t Taken, name: &str) -> Option<(&'t str, u64)> {
    let at = taken.facts.entries.iter().position(|entry| entry.path.as_str() == name).unwrap();
    taken.continued[at].as_ref().map(|continued| (continued.path.as_str(), continued.blocks))
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
