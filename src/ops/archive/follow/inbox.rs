//! The directory that the log is received into.

use crate::core::log::{LogFile, SegmentName};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The most names that are looked at.
const NAMES_MAX: usize = 100_000;

/// What was received and is still there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Inbox {
    /// Histories of timelines.
    pub(super) histories: BTreeSet<LogFile>,
    /// Whole segments.
    pub(super) segments: BTreeSet<LogFile>,
    /// Segments that are being received, and those whose timeline ended within them.
    pub(super) growing: BTreeSet<SegmentName>,
    /// Bytes of whole segments.
    pub(super) bytes: u64,
}

impl Inbox {
    /// Looks into the directory. What the program has not finished, or what is none of its files, is left out.
    pub(super) fn list(directory: &Path) -> io::Result<Self> {
        let mut inbox = Inbox::default();
        for entry in fs::read_dir(directory)?.take(NAMES_MAX) {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_str().and_then(|name| name.parse::<LogFile>().ok()) {
                Some(file @ LogFile::Segment(_)) => {
                    inbox.bytes = inbox.bytes.saturating_add(entry.metadata().map_or(0, |found| found.len()));
                    inbox.segments.insert(file);
                }
                Some(file @ LogFile::History(_)) => drop(inbox.histories.insert(file)),
                Some(LogFile::Partial(name)) => drop(inbox.growing.insert(name)),
                _ => {}
            }
        }
        Ok(inbox)
    }

    /// The whole files, in the order in which they are shipped: a server that recovers asks for histories first.
    pub(super) fn whole(&self) -> impl Iterator<Item = LogFile> + '_ {
        self.histories.iter().chain(&self.segments).copied()
    }

    /// Where a segment lies that is being received.
    pub(super) fn growing_path(directory: &Path, name: SegmentName) -> PathBuf {
        directory.join(LogFile::Partial(name).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "000000010000000000000002",
            "000000010000000000000003.partial",
            "000000010000000000000004.partial.tmp",
            "00000002.history",
            "00000003.history.tmp",
            "lost+found",
        ] {
            fs::write(dir.path().join(name), "four").unwrap();
        }
        let inbox = Inbox::list(dir.path()).unwrap();
        let whole: Vec<String> = inbox.whole().map(|file| file.to_string()).collect();
        assert_eq!(whole, ["00000002.history", "000000010000000000000002"]);
        assert_eq!(inbox.growing.iter().map(ToString::to_string).collect::<Vec<_>>(), ["000000010000000000000003"]);
        assert_eq!(inbox.bytes, 4);
        assert!(Inbox::list(&dir.path().join("none")).is_err());
    }
}
