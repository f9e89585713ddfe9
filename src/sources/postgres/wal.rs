//! Segments of the write-ahead log, read as bytes: whose they are, and what moments they hold.
//!
//! Every byte is hostile. What is no page or no whole record ends the walk, as it ends the replay of a server.

pub mod commits;
mod record;
pub mod synthetic;
mod tablespaces;
#[cfg(test)]
mod tests;
mod text;
mod walk;

pub use text::{FileText, Joined, Text, Until};

use crate::core::{
    log::{Ancestor, HISTORY_BYTES_MAX, LogFacts, Lsn, SEGMENT_BYTES, SegmentName},
    plan::log::TimelineHistory,
};

pub use tablespaces::{MadeTablespace, ReplayEnd, tablespaces_made};

/// Bytes of the header of a segment's first page.
pub(super) const LONG_HEADER_BYTES: usize = 40;
/// Bytes of the header of every other page.
pub(super) const SHORT_HEADER_BYTES: usize = 24;
/// The first of these in a page's flags: the page begins with the rest of a record.
const CONTINUES: u16 = 1;
const LONG_HEADER: u16 = 2;
/// The page begins with a record in place of the rest of one that a server which was killed never finished.
const OVERWRITES: u16 = 8;
const FLAGS: u16 = 15;

/// Which major version writes which magic number.
const MAGICS: [(u16, u32); 4] = [(0xD110, 15), (0xD113, 16), (0xD116, 17), (0xD118, 18)];

/// The most ancestors that a history file may name.
const ANCESTORS_MAX: usize = 10_000;

/// Why bytes are no segment, or not the one that they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// Too short for a header.
    #[error("it has only {0} bytes")]
    Short(usize),
    /// Not written by a server that is known here.
    #[error("its first page has the magic number {0:04X}, which no PostgreSQL from 15 to 18 writes")]
    Magic(u16),
    /// A header that no server writes.
    #[error("its first page cannot be right: {0}")]
    Header(&'static str),
    /// Another size than its header tells.
    #[error("it has {found} bytes, its header says {expected}")]
    Size {
        /// Its bytes.
        found: u64,
        /// What the header says.
        expected: u64,
    },
    /// Another place than its name tells.
    #[error("its first page is at {found}, and its name says {expected}")]
    Place {
        /// What the header says.
        found: Lsn,
        /// What the name says.
        expected: String,
    },
    /// Another timeline than its name tells.
    #[error("its first page is of timeline {found}, and its name says {expected}")]
    Timeline {
        /// What the header says.
        found: u32,
        /// What the name says.
        expected: u32,
    },
    /// No history of a timeline.
    #[error("it is no history of a timeline: {0}")]
    History(&'static str),
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    magic: u16,
    /// The server's major version.
    pub major: u32,
    /// The system identifier.
    pub system: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of a page.
    pub page_bytes: u32,
    /// The timeline that the first page was written on.
    pub timeline: u32,
    /// Where the segment begins.
    pub start: Lsn,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    number(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    number(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    number(bytes, at).map(u64::from_le_bytes)
}

impl SegmentHeader {
    /// Reads the first page's header.
    pub fn read(bytes: &[u8]) -> Result<Self, WalError> {
        let short = || WalError::Short(bytes.len());
        let magic = u16_at(bytes, 0).ok_or_else(short)?;
        let (_, major) = *MAGICS.iter().find(|(known, _)| *known == magic).ok_or(WalError::Magic(magic))?;
        let flags = u16_at(bytes, 2).ok_or_else(short)?;
        let header = SegmentHeader {
            magic,
            major,
            timeline: u32_at(bytes, 4).ok_or_else(short)?,
            start: Lsn(u64_at(bytes, 8).ok_or_else(short)?),
            system: u64_at(bytes, 24).ok_or_else(short)?,
            segment_bytes: u64::from(u32_at(bytes, 32).ok_or_else(short)?),
            page_bytes: u32_at(bytes, 36).ok_or_else(short)?,
        };
        let size_fits = SEGMENT_BYTES.contains(&header.segment_bytes) && header.segment_bytes.is_power_of_two();
        if flags & LONG_HEADER == 0 || flags & !FLAGS != 0 {
            Err(WalError::Header("its flags are not those of a first page"))
        } else if !size_fits {
            Err(WalError::Header("no segment has the size that it tells"))
        } else if !header.page_bytes.is_power_of_two() || !(1 << 10..=1 << 16).contains(&header.page_bytes) {
            Err(WalError::Header("no page has the size that it tells"))
        } else if header.system == 0 || header.timeline == 0 {
            Err(WalError::Header("it names no system and no timeline"))
        } else {
            Ok(header)
        }
    }

    /// Whether it is of the segment of that name.
    pub fn check_name(&self, name: SegmentName) -> Result<(), WalError> {
        if name.start(self.segment_bytes) != Some(self.start) {
            return Err(WalError::Place { found: self.start, expected: name.to_string() });
        }
        // The first segment of a timeline begins with a copy of what its ancestor wrote.
        if self.timeline > name.timeline {
            return Err(WalError::Timeline { found: self.timeline, expected: name.timeline });
        }
        Ok(())
    }
}

impl SegmentHeader {
    /// The header of a segment of that name.
    pub(super) fn of_text(text: &dyn Text, name: SegmentName) -> Result<Self, WalError> {
        let start = text.get(0, text.length().min(LONG_HEADER_BYTES)).unwrap_or_default();
        let header = SegmentHeader::read(&start)?;
        header.check_name(name).map(|()| header)
    }
}

/// Reads a whole segment: whose it is, and what is in it.
pub fn read_segment(bytes: &[u8], name: SegmentName) -> Result<(SegmentHeader, LogFacts), WalError> {
    read_segment_text(&bytes, name)
}

/// The same of a segment that may be in a file.
pub fn read_segment_text(text: &dyn Text, name: SegmentName) -> Result<(SegmentHeader, LogFacts), WalError> {
    let (header, facts, _) = read_text(text, name, 0)?;
    match text.length() as u64 == header.segment_bytes {
        true => Ok((header, facts)),
        false => Err(WalError::Size { found: text.length() as u64, expected: header.segment_bytes }),
    }
}

/// Reads the beginning of a segment.
pub fn read_partial(bytes: &[u8], name: SegmentName) -> Result<(SegmentHeader, LogFacts), WalError> {
    read_growing(bytes, name, 0).map(|(header, facts, _)| (header, facts))
}

/// Reads a segment that is being written, as far as there are whole records: to where they go, and what those tell that
/// end behind `from`. What stands behind them may be anything.
pub fn read_growing(bytes: &[u8], name: SegmentName, from: u64) -> Result<(SegmentHeader, LogFacts, u64), WalError> {
    read_text(&bytes, name, from)
}

/// The same of a segment that may be in a file.
pub fn read_text(text: &dyn Text, name: SegmentName, from: u64) -> Result<(SegmentHeader, LogFacts, u64), WalError> {
    let header = SegmentHeader::of_text(text, name)?;
    if text.length() as u64 > header.segment_bytes {
        return Err(WalError::Size { found: text.length() as u64, expected: header.segment_bytes });
    }
    let from = usize::try_from(from).unwrap_or(usize::MAX);
    let (facts, written) = walk::facts_behind(text, &header, name.timeline, from);
    Ok((header, facts, written as u64))
}

/// Reads what a timeline grew out of.
pub fn read_history(bytes: &[u8], timeline: u32) -> Result<TimelineHistory, WalError> {
    if bytes.len() as u64 > HISTORY_BYTES_MAX {
        return Err(WalError::History("it is larger than any"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| WalError::History("it is no text"))?;
    let mut ancestors: Vec<Ancestor> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let ancestor = words.next().and_then(|word| word.parse::<u32>().ok());
        let until = words.next().and_then(|word| word.parse::<Lsn>().ok());
        let (Some(ancestor), Some(until)) = (ancestor, until) else {
            return Err(WalError::History("a line does not begin with a timeline and a place"));
        };
        let follows = |last: &Ancestor| last.timeline < ancestor && last.until <= until;
        if ancestor == 0 || ancestor >= timeline || ancestors.last().is_some_and(|last| !follows(last)) {
            return Err(WalError::History("its timelines are not in order"));
        }
        ancestors.push(Ancestor { timeline: ancestor, until });
        if ancestors.len() > ANCESTORS_MAX {
            return Err(WalError::History("it names more timelines than any"));
        }
    }
    if ancestors.is_empty() {
        Err(WalError::History("it names no timeline"))
    } else {
        Ok(TimelineHistory { ancestors })
    }
}
