//! The names of a log's files, and places and moments in it, as they are written.

use super::Span;
use crate::core::text::{text_debug, text_serde};
use chrono::{DateTime, Datelike, SecondsFormat, SubsecRound, Utc};
use std::{fmt, str::FromStr};

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

text_serde!(Lsn SegmentName LogFile HistoryId ServerTime);
text_debug!(Lsn ServerTime);

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
