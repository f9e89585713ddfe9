//! How many transactions a stretch of the log commits.

use super::{
    SegmentHeader,
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

/// What the records of a segment commit that begin in it at `from` or behind it. `bytes` are the whole segment and the
/// beginning of the next one, as far as there is one. `None` where the bytes are no segment of that name, or `from` is no
/// place at which a record could begin.
pub fn commits(bytes: &[u8], name: SegmentName, from: Lsn, until: ServerTime) -> Option<Commits> {
    let header = SegmentHeader::read(bytes).ok()?;
    header.check_name(name).ok()?;
    let walk = Walk { text: &bytes, header: &header, timeline: name.timeline, page_bytes: header.page_bytes as usize };
    let (mut at, mut previous) = (walk.first_record()?, None::<Lsn>);
    let mut found = Commits { count: 0, is_past: false, ends: header.start };
    let is_ours = |at: usize| (at as u64) < header.segment_bytes;
    while let Some((start, record, next)) = walk.record(at).or_else(|| walk.record(walk.overwritten(at)?)) {
        let follows = previous.is_none_or(|previous| record::previous(&record) == Some(previous));
        if !is_ours(start) || !follows {
            break;
        }
        previous = Some(walk.place(start));
        (at, found.ends) = (next, walk.place(next));
        let told = record::told(&record, found.ends);
        if told == Told::Switch {
            found.ends = Lsn(header.start.0 + header.segment_bytes);
            break;
        }
        match told {
            Told::Commit(time) if walk.place(start) >= from && time <= until => found.count += 1,
            Told::Commit(_) if walk.place(start) >= from => found.is_past = true,
            _ => {}
        }
    }
    Some(found)
}
