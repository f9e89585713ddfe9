//! How many transactions a stretch of the log commits.

use super::{
    SegmentHeader, Text,
    record::{self, Told},
    walk::Walk,
};
use crate::core::log::{Lsn, SegmentName, ServerTime};

/// How much of the next segment is looked at: the commit that goes over the end of one is not larger.
pub const TAIL_BYTES: usize = 256 * 1024;

/// What a segment commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commits {
    /// How many transactions, until the moment that was asked for.
    pub count: u64,
    /// Whether one was committed after it.
    pub is_past: bool,
    /// Where the records end that were read.
    pub ends: Lsn,
}

/// What the records of a segment commit that begin in it at `from` or behind it. `text` is the whole segment and the
/// beginning of the next one, as far as there is one. `None` where the bytes are no segment of that name, or `from` is no
/// place at which a record could begin.
pub fn commits(text: &dyn Text, name: SegmentName, from: Lsn, until: ServerTime) -> Option<Commits> {
    let header = SegmentHeader::of_text(text, name).ok()?;
    let walk = Walk { text, header: &header, timeline: name.timeline, page_bytes: header.page_bytes as usize };
    walk.first_record()?;
    let mut found = Commits { count: 0, is_past: false, ends: header.start };
    walk.each(|start, record, next| {
        let begins = walk.place(start);
        if start as u64 >= header.segment_bytes {
            return false;
        }
        found.ends = walk.place(next);
        match record::told(record, found.ends) {
            Told::Switch => {
                found.ends = Lsn(header.start.0 + header.segment_bytes);
                return false;
            }
            Told::Commit(time) if begins >= from && time <= until => found.count += 1,
            Told::Commit(_) if begins >= from => found.is_past = true,
            _ => {}
        }
        true
    });
    Some(found)
}
