//! One record of the log: the few kinds that tell a time, or a place outside of the data directory.

use super::{number, u16_at, u32_at, u64_at};
use crate::core::{log::Lsn, log::NamedPoint, log::ServerTime};
use chrono::{DateTime, Datelike};

/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 24;

const XLOG: u8 = 0;
const XACT: u8 = 1;
const TABLESPACES: u8 = 5;
/// Bytes of a restore point's name, its zero included.
const NAME_BYTES: usize = 64;

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing that matters here.
    Nothing,
    /// The rest of the segment is empty.
    Switch,
    /// A transaction was committed.
    Commit(ServerTime),
    /// A moment.
    Time(ServerTime),
    /// A named restore point.
    Point(NamedPoint),
    /// A tablespace was created in this directory.
    Tablespace(Vec<u8>),
}

/// Whether a record of which this is the beginning may tell something.
pub(super) fn tells(start: &[u8]) -> bool {
    start.len() >= HEADER_BYTES && matches!(start[17], XLOG | XACT | TABLESPACES)
}

/// What a whole record tells, which ends at `end`; of one that tells nothing its header is enough.
pub(super) fn told(record: &[u8], end: Lsn) -> Told {
    let (Some(info), Some(manager)) = (record.get(16), record.get(17)) else { return Told::Nothing };
    let data = || main_data(record);
    let moment = |data: &[u8]| number(data, 0).map(i64::from_le_bytes).and_then(ServerTime::from_log);
    let told = match (*manager, info & 0xF0) {
        (XACT, info) => match info & 0x70 {
            0x00 | 0x30 => data().and_then(moment).map(Told::Commit),
            0x20 | 0x40 => data().and_then(moment).map(Told::Time),
            _ => None,
        },
        (XLOG, 0x00 | 0x10) => {
            let seconds = data().and_then(|data| number(data, 64)).map(i64::from_le_bytes);
            seconds.and_then(|seconds| sensible(DateTime::from_timestamp(seconds, 0)?)).map(Told::Time)
        }
        (XLOG, 0x40) => Some(Told::Switch),
        (XLOG, 0x70) => data().and_then(|data| point(data, end)).map(Told::Point),
        (XLOG, 0x90) => data().and_then(moment).map(Told::Time),
        (TABLESPACES, 0x00) => data().and_then(directory).map(Told::Tablespace),
        _ => None,
    };
    told.unwrap_or(Told::Nothing)
}

/// Only what can be written down as RFC 3339.
fn sensible(moment: DateTime<chrono::Utc>) -> Option<ServerTime> {
    (1970..=9999).contains(&moment.year()).then(|| ServerTime::new(moment))
}

/// Where a tablespace lies, behind its number; empty for one in the data directory.
fn directory(data: &[u8]) -> Option<Vec<u8>> {
    let text = data.get(4..)?;
    Some(text.split(|byte| *byte == 0).next().unwrap_or_default().to_owned())
}

/// Whether the beginning of a record is that of one that creates a tablespace.
pub(super) fn begins_tablespace(record: &[u8]) -> bool {
    matches!((record.get(16), record.get(17)), (Some(info), Some(&TABLESPACES)) if info & 0xF0 == 0)
}

fn point(data: &[u8], at: Lsn) -> Option<NamedPoint> {
    let time = ServerTime::from_log(number(data, 0).map(i64::from_le_bytes)?)?;
    let name = data.get(8..8 + NAME_BYTES)?;
    let name = name.split(|byte| *byte == 0).next()?;
    Some(NamedPoint { name: String::from_utf8_lossy(name).into_owned(), at, time })
}

/// The data of a record that belongs to no block: it comes last, after headers that tell how much there is of it.
fn main_data(record: &[u8]) -> Option<&[u8]> {
    let mut at = HEADER_BYTES;
    loop {
        match record.get(at)? {
            255 => {
                let bytes = usize::from(*record.get(at + 1)?);
                return record.get(record.len().checked_sub(bytes)?.max(at + 2)..);
            }
            254 => {
                let bytes = usize::try_from(u32_at(record, at + 1)?).ok()?;
                return record.get(record.len().checked_sub(bytes)?.max(at + 5)..);
            }
            // The origin of a replicated change, and the transaction above a subtransaction.
            253 => at += 3,
            252 => at += 5,
            0..=32 => at = after_block_header(record, at)?,
            _ => return None,
        }
    }
}

fn after_block_header(record: &[u8], at: usize) -> Option<usize> {
    const HAS_IMAGE: u8 = 0x10;
    const SAME_RELATION: u8 = 0x80;
    let flags = *record.get(at + 1)?;
    let mut next = at + 4;
    if flags & HAS_IMAGE != 0 {
        u16_at(record, next)?;
        let image = *record.get(next + 4)?;
        next += 5;
        // The length of a hole stands there only where the image is compressed.
        if image & 0x01 != 0 && image & 0x1C != 0 {
            next += 2;
        }
    }
    if flags & SAME_RELATION == 0 {
        next += 12;
    }
    Some(next + 4)
}

/// The place of the record before, as a record's header tells it.
pub(super) fn previous(record: &[u8]) -> Option<Lsn> {
    u64_at(record, 8).map(Lsn)
}
