//! The log between snapshots: places in it, the files it comes in, and the signed records that say what stores hold.
//!
//! Words of PostgreSQL are used where it has them. A log belongs to a history: a system identifier and a timeline.

use super::{
    id::{RepositoryId, RunId, Sha256, SourceName},
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

/// The value of `format` in every log record that this version reads and writes.
pub const FORMAT: &str = "recoup-log/1";

/// The most files that one record names.
pub const FILES_MAX: usize = 64;

/// The sizes that segments may have, in bytes; all powers of two between.
pub const SEGMENT_BYTES: RangeInclusive<u64> = 1 << 20..=1 << 30;

/// The timeline that initdb begins. It grew out of nothing: a server that leaves it asks for its history file all the
/// same, and there never is one.
pub const FIRST_TIMELINE: u32 = 1;

/// The most bytes of a timeline history file.
pub const HISTORY_BYTES_MAX: u64 = 1 << 20;

/// The most named restore points of one file that are noted.
pub const POINTS_MAX: usize = 32;

/// Whether segments may have this size.
pub fn segment_bytes_are_valid(bytes: u64) -> bool {
    SEGMENT_BYTES.contains(&bytes) && bytes.is_power_of_two()
}

const NO_SEGMENT_SIZE: &str = "its segments are of no size that segments have";

/// What a snapshot needs of the log to be consistent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRange {
    /// The history that it was taken in.
    pub history: HistoryId,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Where replay begins.
    pub start: Lsn,
    /// Before this the restored files are of no one moment.
    pub stop: Lsn,
    /// When that was: a moment before it cannot be reached from this snapshot.
    pub stopped_at: ServerTime,
    /// The first transaction that had no number yet then: what it and later ones commit can be reached.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_transaction: Option<u32>,
}

impl LogRange {
    /// The numbers of the segments that are needed, and of those after them that end at a place or before it.
    pub fn numbers_until(&self, place: Lsn) -> RangeInclusive<u64> {
        let bytes = self.segment_bytes;
        // What ends exactly where a segment ends needs nothing of the next.
        let (first, last) = (self.start.0 / bytes, self.stop.0.saturating_sub(1) / bytes);
        first..=last.max(first).max((place.0 / bytes).saturating_sub(1))
    }

    /// A segment of its timeline by its number.
    pub fn segment(&self, number: u64) -> SegmentName {
        SegmentName::of_number(self.history.timeline, number, self.segment_bytes)
    }

    /// The segments from the first that is needed to the last.
    pub fn segments(&self) -> impl Iterator<Item = SegmentName> + use<'_> {
        self.numbers_until(Lsn(0)).map(move |number| self.segment(number))
    }

    /// Where the first of them ends.
    pub fn first_ends(&self) -> Lsn {
        Lsn((self.start.0 / self.segment_bytes + 1).saturating_mul(self.segment_bytes))
    }

    /// What its timeline grew out of, where it is not the first one.
    pub fn timeline_history(&self) -> Option<LogFile> {
        (self.history.timeline > FIRST_TIMELINE).then_some(LogFile::History(self.history.timeline))
    }

    /// The files of it, with what its timeline grew out of: without them no replay begins.
    pub fn needed(&self) -> Vec<LogFile> {
        self.timeline_history().into_iter().chain(self.segments().map(LogFile::Segment)).collect()
    }

    /// Why the range cannot be right, if so.
    pub fn contradiction(&self) -> Option<&'static str> {
        if !segment_bytes_are_valid(self.segment_bytes) {
            Some(NO_SEGMENT_SIZE)
        } else if self.start > self.stop {
            Some("its log ends before it begins")
        } else {
            None
        }
    }
}

/// A named restore point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPoint {
    /// Its name.
    pub name: String,
    /// Where replay stops.
    pub at: Lsn,
    /// When it was made.
    pub time: ServerTime,
}

/// A timeline's ancestor, and the place up to which its log belongs to the timeline's past.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// The ancestor.
    pub timeline: u32,
    /// Where the next one begins.
    pub until: Lsn,
}

/// What a file of the log holds, as found in it before it was sealed. All of it stands in clear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFacts {
    /// Where the last whole record in it begins: a server that replays to a place stops at a record that begins there or
    /// later.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_begins: Option<Lsn>,
    /// Where the last whole record in it ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ends: Option<Lsn>,
    /// The earliest time that a record in it tells: of a commit, an abort, a checkpoint or a restore point.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_time: Option<ServerTime>,
    /// The latest.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_time: Option<ServerTime>,
    /// The latest time of a commit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_commit: Option<ServerTime>,
    /// How many transactions were committed.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub commits: u64,
    /// Restore points, in order; the first [`POINTS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub points: Vec<NamedPoint>,
    /// How many tablespaces were created. Where, only the file itself says.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub tablespaces: u64,
    /// Of the history of a timeline: what it grew out of directly.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grew_from: Option<Ancestor>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One stored file of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The file.
    pub file: LogFile,
    /// Bytes of it before it was compressed.
    pub bytes_raw: u64,
    /// Bytes of the sealed object.
    pub size: u64,
    /// SHA-256 of the sealed object.
    pub sha256: Sha256,
    /// 32 digits that only hosts with the same catalogue key can compute of the content: equal for equal content.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content_tag: Option<String>,
    /// What is in it.
    #[serde(flatten)]
    pub facts: LogFacts,
}

/// The signed record that commits files of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    /// [`FORMAT`].
    pub format: String,
    /// The repository it belongs to.
    pub repository: RepositoryId,
    /// The source.
    pub source: SourceName,
    /// The history that the files belong to.
    pub history: HistoryId,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The run that wrote it; part of every object's name.
    pub run: RunId,
    /// Who signed it, as the SHA-256 fingerprint of the key.
    pub writer: String,
    /// When it was written.
    pub created_at: Timestamp,
    /// Whom the objects are sealed to.
    pub recipients: Vec<String>,
    /// The files, in order of their names.
    pub files: Vec<LogEntry>,
}

/// Which record: what its name is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogRecordId {
    /// The history that its files belong to.
    pub history: HistoryId,
    /// The first of its files.
    pub first: LogFile,
    /// The run that wrote it.
    pub run: RunId,
}

/// One stored copy of a file of a log: where it lies, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogObject {
    /// The history that it belongs to.
    pub history: HistoryId,
    /// The file.
    pub file: LogFile,
    /// The run that stored it.
    pub run: RunId,
    /// Bytes of it before it was compressed.
    pub bytes_raw: u64,
    /// Bytes of the sealed object.
    pub size: u64,
    /// SHA-256 of the sealed object.
    pub sha256: Sha256,
}

/// A file that was stored several times, and not provably with the same content each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFork {
    /// The history that it belongs to.
    pub history: HistoryId,
    /// The file.
    pub file: LogFile,
    /// The runs that stored it.
    pub runs: Vec<RunId>,
    /// Whether the contents certainly differ; else nothing here can tell.
    pub certain: bool,
}

/// The files that were stored several times without their contents being known to be equal.
pub fn forks<'r>(records: impl IntoIterator<Item = &'r LogRecord>) -> Vec<LogFork> {
    type Stored<'r> = Vec<(RunId, Option<&'r str>)>;
    let mut stored: BTreeMap<(HistoryId, LogFile), Stored<'r>> = BTreeMap::new();
    for record in records {
        for entry in &record.files {
            let of_file = stored.entry((record.history, entry.file)).or_default();
            of_file.push((record.run, entry.content_tag.as_deref()));
        }
    }
    let fork = |((history, file), copies): ((HistoryId, LogFile), Stored<'r>)| {
        let tags: BTreeSet<Option<&str>> = copies.iter().map(|(_, tag)| *tag).collect();
        let runs: BTreeSet<RunId> = copies.iter().map(|(run, _)| *run).collect();
        let certain = tags.iter().flatten().count() > 1;
        let equal = tags.len() == 1 && !tags.contains(&None);
        // Whoever begins again stores the same pieces again: only what certainly differs is no such thing.
        let is_fork = if matches!(file, LogFile::Piece(..)) { certain } else { !equal };
        (runs.len() > 1 && is_fork).then(|| LogFork { history, file, runs: runs.into_iter().collect(), certain })
    };
    stored.into_iter().filter_map(fork).collect()
}

impl LogRecord {
    /// Which record it is; `None` for one that names no file.
    pub fn id(&self) -> Option<LogRecordId> {
        Some(LogRecordId { history: self.history, first: self.files.first()?.file, run: self.run })
    }

    /// Where a file of it lies.
    pub fn object(&self, entry: &LogEntry) -> LogObject {
        LogObject {
            history: self.history,
            file: entry.file,
            run: self.run,
            bytes_raw: entry.bytes_raw,
            size: entry.size,
            sha256: entry.sha256,
        }
    }

    /// Why the record cannot be what it claims to be, if so. Its signature and its place are other matters.
    pub fn contradiction(&self) -> Option<&'static str> {
        let is_fingerprint = self.writer.len() <= 100 && self.writer.bytes().all(|byte| byte.is_ascii_graphic());
        if self.format != FORMAT {
            Some("its format is not the one this version reads")
        } else if !segment_bytes_are_valid(self.segment_bytes) {
            Some(NO_SEGMENT_SIZE)
        } else if self.files.is_empty() || self.files.len() > FILES_MAX {
            Some("it names no file, or more than a record may")
        } else if self.files.windows(2).any(|pair| pair[0].file >= pair[1].file) {
            Some("its files are not in order")
        } else if self.files.iter().any(|entry| entry.file.timeline() != self.history.timeline) {
            Some("one of its files belongs to another timeline")
        } else if self.files.iter().any(|entry| !self.fits(entry)) {
            Some("one of its files cannot be so large, or has too many restore points")
        } else if !is_fingerprint {
            Some("its writer is no fingerprint")
        } else {
            None
        }
    }

    fn fits(&self, entry: &LogEntry) -> bool {
        let size_fits = match entry.file {
            LogFile::Segment(name) => {
                entry.bytes_raw == self.segment_bytes && name.number(self.segment_bytes).is_some()
            }
            LogFile::Partial(name) => {
                entry.bytes_raw <= self.segment_bytes && name.number(self.segment_bytes).is_some()
            }
            LogFile::Piece(name, span) => {
                entry.bytes_raw == span.bytes()
                    && u64::from(span.to) <= self.segment_bytes
                    && name.number(self.segment_bytes).is_some()
            }
            LogFile::History(FIRST_TIMELINE) => false,
            LogFile::History(_) | LogFile::BackupNote(..) => entry.bytes_raw <= HISTORY_BYTES_MAX,
        };
        // Sealing adds little to what cannot be compressed.
        size_fits
            && entry.size <= entry.bytes_raw + entry.bytes_raw / 64 + 64 * 1024
            && entry.facts.points.len() <= POINTS_MAX
    }
}

mod names;
mod pieces;
#[cfg(test)]
mod tests;

pub use names::{HistoryId, InvalidLogName, LogFile, Lsn, SegmentName, ServerTime};
pub use pieces::{Chain, Span};
