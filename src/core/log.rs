//! The log between snapshots: places in it, the files it comes in, and the signed records that say what stores hold.
//!
//! Words of PostgreSQL are used where it has them. A log belongs to a history: a system identifier and a timeline.

use super::{
    id::{RepositoryId, RunId, Sha256, SourceName},
    time::Timestamp,
};
use chrono::{DateTime, Datelike, SecondsFormat, SubsecRound, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

/// The value of `format` in every log record that this version reads and writes.
pub const FORMAT: &str = "recoup-log/1";

/// The most files that one record names.
pub const FILES_MAX: usize = 64;

/// The sizes that segments may have, in bytes; all powers of two between.
pub const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 30;

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

/// Why a text is no place in a log, or no name of its files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not {1}")]
pub struct InvalidLogName(String, &'static str);

fn invalid(text: &str, what: &'static str) -> InvalidLogName {
    InvalidLogName(text.chars().take(80).collect(), what)
}

/// A place in a log, in bytes from its beginning; written as PostgreSQL does: `16/B374D848`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl FromStr for Lsn {
    type Err = InvalidLogName;
    fn from_str(text: &str) -> Result<Self, InvalidLogName> {
        let part = |digits: &str| Some(digits).filter(|digits| digits.len() <= 8).and_then(hexadecimal);
        let parts = text.split_once('/').and_then(|(high, low)| Some((part(high)?, part(low)?)));
        let (high, low) = parts.ok_or_else(|| invalid(text, "a position such as 16/B374D848"))?;
        Ok(Lsn((high << 32) | low))
    }
}

/// A number in hexadecimal digits and nothing else: no sign, no prefix.
fn hexadecimal(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    all_digits.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

macro_rules! text_serde {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
text_serde!(Lsn);
text_serde!(SegmentName);
text_serde!(LogFile);
text_serde!(HistoryId);
text_serde!(ServerTime);

/// The name of a segment: a timeline and, in two numbers, which segment of the log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// The timeline.
    pub timeline: u32,
    high: u32,
    low: u32,
}

impl SegmentName {
    /// The segment that holds a place.
    pub fn holding(timeline: u32, at: Lsn, segment_bytes: u64) -> Self {
        Self::of_number(timeline, at.0 / segment_bytes, segment_bytes)
    }

    /// A segment by its number, counted from the beginning of the log.
    pub fn of_number(timeline: u32, number: u64, segment_bytes: u64) -> Self {
        let per_high = (1 << 32) / segment_bytes;
        SegmentName { timeline, high: (number / per_high) as u32, low: (number % per_high) as u32 }
    }

    /// Its number; `None` where no segment of this size has such a name.
    pub fn number(&self, segment_bytes: u64) -> Option<u64> {
        let per_high = (1 << 32) / segment_bytes;
        (u64::from(self.low) < per_high).then(|| u64::from(self.high) * per_high + u64::from(self.low))
    }

    /// Where it begins; `None` where no segment of this size has such a name.
    pub fn start(&self, segment_bytes: u64) -> Option<Lsn> {
        Some(Lsn(self.number(segment_bytes)?.checked_mul(segment_bytes)?))
    }

    /// The segment after it on the same timeline.
    #[must_use]
    pub fn next(&self, segment_bytes: u64) -> Option<Self> {
        Some(Self::of_number(self.timeline, self.number(segment_bytes)?.checked_add(1)?, segment_bytes))
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:08X}{:08X}{:08X}", self.timeline, self.high, self.low)
    }
}

impl FromStr for SegmentName {
    type Err = InvalidLogName;
    fn from_str(text: &str) -> Result<Self, InvalidLogName> {
        let wrong = || invalid(text, "the name of a WAL segment");
        let is_name =
            text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
        let part = |at: usize| text.get(at..at + 8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        match (is_name, part(0), part(8), part(16)) {
            (true, Some(timeline), Some(high), Some(low)) if timeline > 0 => Ok(SegmentName { timeline, high, low }),
            _ => Err(wrong()),
        }
    }
}

/// A moment by the clock of the server that wrote the log, to the microsecond: that is how exactly it compares commits
/// with a time that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerTime(DateTime<Utc>);

impl ServerTime {
    /// The moment, cut to the microsecond.
    pub fn new(moment: DateTime<Utc>) -> Self {
        ServerTime(moment.trunc_subsecs(6))
    }

    /// Microseconds since the year 2000 in UTC, which is how the log counts; `None` beyond what can be written as a date.
    pub fn from_log(microseconds: i64) -> Option<Self> {
        const YEAR_2000: i64 = 946_684_800_000_000;
        let moment = DateTime::from_timestamp_micros(microseconds.checked_add(YEAR_2000)?)?;
        (0..10_000).contains(&moment.year()).then_some(ServerTime(moment))
    }

    /// The moment as chrono's type.
    pub fn as_datetime(&self) -> DateTime<Utc> {
        self.0
    }
}

impl fmt::Display for ServerTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl fmt::Debug for ServerTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl FromStr for ServerTime {
    type Err = InvalidLogName;
    fn from_str(text: &str) -> Result<Self, InvalidLogName> {
        let moment = DateTime::parse_from_rfc3339(text).map_err(|_| invalid(text, "a moment with an offset"))?;
        Ok(ServerTime::new(moment.with_timezone(&Utc)))
    }
}

/// A file of the log, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogFile {
    /// A whole segment.
    Segment(SegmentName),
    /// The beginning of a segment: what was written of it when its timeline ended, or so far.
    Partial(SegmentName),
    /// What a timeline grew out of.
    History(u32),
    /// The note of a backup that was taken: the segment and the place in it where it began.
    BackupNote(SegmentName, u32),
    /// What was received of a segment that is still being written, from one place in it to another.
    Piece(SegmentName, Span),
}

impl LogFile {
    /// The timeline that it belongs to.
    pub fn timeline(&self) -> u32 {
        match self {
            LogFile::Segment(name) | LogFile::Partial(name) => name.timeline,
            LogFile::BackupNote(name, _) | LogFile::Piece(name, _) => name.timeline,
            LogFile::History(timeline) => *timeline,
        }
    }
}

impl fmt::Display for LogFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogFile::Segment(name) => write!(formatter, "{name}"),
            LogFile::Partial(name) => write!(formatter, "{name}.partial"),
            LogFile::History(timeline) => write!(formatter, "{timeline:08X}.history"),
            LogFile::BackupNote(name, offset) => write!(formatter, "{name}.{offset:08X}.backup"),
            LogFile::Piece(name, span) => write!(formatter, "{name}.{span}.piece"),
        }
    }
}

impl FromStr for LogFile {
    type Err = InvalidLogName;
    fn from_str(text: &str) -> Result<Self, InvalidLogName> {
        let wrong = || invalid(text, "the name of a file of the write-ahead log");
        let number = |digits: &str| {
            let is_number =
                digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
            is_number.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let Some((name, ending)) = text.split_once('.') else { return Ok(LogFile::Segment(text.parse()?)) };
        match ending.split_once('.') {
            None if ending == "partial" => Ok(LogFile::Partial(name.parse()?)),
            None if ending == "history" => {
                number(name).filter(|timeline| *timeline > 0).map(LogFile::History).ok_or_else(wrong)
            }
            Some((offset, "backup")) => Ok(LogFile::BackupNote(name.parse()?, number(offset).ok_or_else(wrong)?)),
            Some((span, "piece")) => Ok(LogFile::Piece(name.parse()?, Span::read(span).ok_or_else(wrong)?)),
            _ => Err(wrong()),
        }
    }
}

impl LogFile {
    /// The name as it stands in the names of objects, which know no capital letters.
    pub fn key(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }

    /// The file of such a name.
    pub fn from_key(key: &str) -> Option<Self> {
        let upper = key.to_ascii_uppercase();
        let name = ["partial", "history", "backup", "piece"].iter().fold(upper, |name, ending| {
            match name.strip_suffix(&ending.to_ascii_uppercase()) {
                Some(stem) => format!("{stem}{ending}"),
                None => name,
            }
        });
        name.parse().ok().filter(|file: &LogFile| file.key() == key)
    }
}

/// A history: the system that writes the log, and its timeline. Written as `7301234567890123456-00000001`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId {
    /// The system identifier, made by initdb.
    pub system: u64,
    /// The timeline.
    pub timeline: u32,
}

impl fmt::Display for HistoryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{:08X}", self.system, self.timeline)
    }
}

impl HistoryId {
    /// The history as it stands in the names of objects, which know no capital letters.
    pub fn key(&self) -> String {
        self.to_string().to_ascii_lowercase()
    }

    /// The history of such a name.
    pub fn from_key(key: &str) -> Option<Self> {
        key.to_ascii_uppercase().parse().ok().filter(|history: &HistoryId| history.key() == key)
    }
}

impl FromStr for HistoryId {
    type Err = InvalidLogName;
    fn from_str(text: &str) -> Result<Self, InvalidLogName> {
        let parts = text.split_once('-').and_then(|(system, timeline)| {
            Some(HistoryId { system: system.parse().ok()?, timeline: u32::from_str_radix(timeline, 16).ok()? })
        });
        // Only the one way of writing it names a folder.
        parts.filter(|history| history.to_string() == text).ok_or_else(|| invalid(text, "a history"))
    }
}

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
    /// The segments from the first that is needed to the last.
    pub fn segments(&self) -> impl Iterator<Item = SegmentName> + use<> {
        let (timeline, bytes) = (self.history.timeline, self.segment_bytes);
        // What ends exactly where a segment ends needs nothing of the next.
        let (first, last) = (self.start.0 / bytes, self.stop.0.saturating_sub(1) / bytes);
        (first..=last).map(move |number| SegmentName::of_number(timeline, number, bytes))
    }

    /// The files of it, with what its timeline grew out of: without them no replay begins.
    pub fn needed(&self) -> Vec<LogFile> {
        let timeline = self.history.timeline;
        let history = (timeline > FIRST_TIMELINE).then_some(LogFile::History(timeline));
        history.into_iter().chain(self.segments().map(LogFile::Segment)).collect()
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

mod pieces;
#[cfg(test)]
mod tests;

pub use pieces::{Chain, Span, superseded};
