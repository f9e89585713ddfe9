//! What a snapshot noted of the files it captured, so that the next one can tell what became of them.

use super::{
    BLOCK_BYTES,
    scan::{Found, Kind, Stamp},
};
use crate::core::{path::StoredPath, time::Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const VERSION: u32 = 1;

/// Everything that was noted.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fingerprint {
    version: u32,
    /// Files, in the order of their paths.
    pub(super) files: Vec<PastFile>,
    /// Directories and links, in the order of their paths.
    pub(super) others: Vec<PastOther>,
}

/// One captured file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PastFile {
    pub(super) path: StoredPath,
    /// How it looked; its size is the size of the captured prefix.
    pub(super) stamp: Stamp,
    /// Whether any later change is sure to show in the stamp.
    pub(super) settled: bool,
    /// The newest modification time that any snapshot has seen, in nanoseconds: nobody makes a file look older.
    pub(super) newest_ns: i64,
    /// When all of it was last read, in milliseconds.
    pub(super) read_at_ms: i64,
}

/// A directory or a link.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PastOther {
    path: StoredPath,
    /// Where a link points; `None` for a directory.
    target: Option<String>,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl PastOther {
    pub(super) fn of(found: &Found) -> Option<Self> {
        let target = match &found.kind {
            Kind::File => return None,
            Kind::Directory => None,
            Kind::Link(target) => Some(target.clone()),
        };
        Some(PastOther { path: found.path.clone(), target, mode: found.mode, uid: found.uid, gid: found.gid })
    }
}

impl PastFile {
    /// Blocks of the captured prefix.
    pub(super) fn blocks(&self) -> u64 {
        self.stamp.size.div_ceil(u64::from(BLOCK_BYTES))
    }

    /// Whether what was found is certainly the same file with the same content.
    pub(super) fn is_surely(&self, found: &Found) -> bool {
        self.settled && self.stamp == found.stamp
    }

    /// Whether its prefix has not been read for so long that it must be.
    pub(super) fn is_due(&self, now: Timestamp, every: Duration) -> bool {
        let age = milliseconds(now).saturating_sub(self.read_at_ms);
        self.stamp.size > 0 && u128::try_from(age).is_ok_and(|age| age >= every.as_millis())
    }

    /// Whether it may be removed by now.
    pub(super) fn is_expired(&self, now: Timestamp, after: Option<Duration>) -> bool {
        let age = milliseconds(now).saturating_sub(self.newest_ns / 1_000_000);
        after.is_some_and(|after| u128::try_from(age).is_ok_and(|age| age >= after.as_millis()))
    }
}

/// A moment as local state has it.
pub(super) fn milliseconds(moment: Timestamp) -> i64 {
    moment.as_datetime().timestamp_millis()
}

impl Fingerprint {
    pub(super) fn new(files: Vec<PastFile>, others: Vec<PastOther>) -> Self {
        Fingerprint { version: VERSION, files, others }
    }

    /// Reads one; `None` if it is none of ours.
    pub(super) fn read(value: &serde_json::Value) -> Option<Self> {
        Fingerprint::deserialize(value).ok().filter(|past| past.version == VERSION)
    }

    /// Whether everything is provably as it was.
    pub(super) fn holds(&self, found: &[Found]) -> bool {
        let files: Vec<&Found> = found.iter().filter(|found| found.kind == Kind::File).collect();
        let others: Vec<PastOther> = found.iter().filter_map(PastOther::of).collect();
        let is_as_it_was = |(past, now): (&PastFile, &&Found)| past.is_surely(now) && past.path == now.path;
        files.len() == self.files.len() && self.files.iter().zip(&files).all(is_as_it_was) && others == self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let stamp = Stamp { device: 1, inode: 2, size: 5000, changed_ns: 0, modified_ns: 0 };
        let read_at_ms = milliseconds(at("2026-11-01T00:00:00Z"));
        let newest_ns = read_at_ms * 1_000_000;
        let path = StoredPath::parse("a").unwrap();
        let file = PastFile { path, stamp, settled: true, newest_ns, read_at_ms };
        let day = Duration::from_secs(86_400);
        assert_eq!(file.blocks(), 2);
        assert!(!file.is_due(at("2026-11-01T23:59:59Z"), day) && file.is_due(at("2026-11-02T00:00:00Z"), day));
        assert!(!file.is_due(at("2026-10-01T00:00:00Z"), day), "a clock that went back makes nothing due");
        assert!(file.is_expired(at("2026-11-02T00:00:00Z"), Some(day)));
        assert!(!file.is_expired(at("2026-11-01T23:59:59Z"), Some(day)));
        assert!(!file.is_expired(at("2036-11-02T00:00:00Z"), None));
    }
}
