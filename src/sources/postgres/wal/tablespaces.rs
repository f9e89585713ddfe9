//! Where the replay of a segment would create tablespaces: outside of the data directory, at the path that the original
//! server had.

use super::{SegmentHeader, Text, WalError, record::Told, walk};
use crate::core::log::{Lsn, SegmentName, ServerTime};

/// Up to where a server replays: the last record is the first that begins there or later, or the one before the first
/// commit after a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayEnd {
    /// The place.
    pub at: Option<Lsn>,
    /// The time.
    pub after: Option<ServerTime>,
}

/// A tablespace that a replay would create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeTablespace {
    /// Where the record of it begins.
    pub at: Lsn,
    /// Its directory; `None` where that stands in the next segment.
    pub directory: Option<Vec<u8>>,
}

/// The tablespaces that a replay from `start` to `end` would create outside of the data directory.
pub fn tablespaces_made(
    text: &dyn Text,
    name: SegmentName,
    start: Lsn,
    end: ReplayEnd,
) -> Result<Vec<MadeTablespace>, WalError> {
    let header = SegmentHeader::of_text(text, name)?;
    let mut made = Vec::new();
    let mut is_over = false;
    let unfinished = walk::records(text, &header, name.timeline, &mut |at, told| {
        let ends = |time: &ServerTime| end.after.is_some_and(|end| *time > end);
        match told {
            Told::Commit(time) => is_over |= ends(&time),
            Told::Tablespace(directory) if !is_over && at >= start && !directory.is_empty() => {
                made.push(MadeTablespace { at, directory: Some(directory) });
            }
            _ => {}
        }
        is_over |= end.at.is_some_and(|end| at >= end);
    });
    let of_unfinished = unfinished.filter(|at| !is_over && *at >= start);
    made.extend(of_unfinished.map(|at| MadeTablespace { at, directory: None }));
    Ok(made)
}
