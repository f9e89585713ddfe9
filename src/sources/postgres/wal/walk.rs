//! The walk over the records of a segment, page by page.

use super::{
    CONTINUES, FLAGS, LONG_HEADER, LONG_HEADER_BYTES, OVERWRITES, SHORT_HEADER_BYTES, SegmentHeader,
    record::{self, HEADER_BYTES, Told},
    text::Text,
    u16_at, u32_at, u64_at,
};
use crate::core::log::{LogFacts, Lsn, POINTS_MAX};
use crc32c::crc32c_append;

/// The longest record that is looked into: what a transaction with millions of parts leaves when it is committed.
const TELLING_BYTES_MAX: usize = 64 << 20;

pub(super) struct Walk<'b> {
    pub(super) text: &'b dyn Text,
    pub(super) header: &'b SegmentHeader,
    pub(super) timeline: u32,
    pub(super) page_bytes: usize,
}

/// What the header of a page says.
struct Page {
    header_bytes: usize,
    /// Bytes of the record that began before it; `None` where it begins with a record.
    remaining: Option<usize>,
    /// Whether it begins with a record in place of the rest of one that was never finished.
    overwrites: bool,
}

/// What the whole records of a segment tell that end behind an offset, and the offset up to which there are such records:
/// 0 where there is none.
pub(super) fn facts_behind(text: &dyn Text, header: &SegmentHeader, timeline: u32, from: usize) -> (LogFacts, usize) {
    let walk = Walk { text, header, timeline, page_bytes: header.page_bytes as usize };
    let mut facts = LogFacts::default();
    let mut written = 0;
    let unfinished = walk.each(|start, record, next| {
        written = next.min(text.length());
        if next <= from {
            return true;
        }
        let end = walk.place(next);
        facts.last_begins = Some(walk.place(start));
        facts.ends = Some(end);
        match record::told(record, end) {
            Told::Nothing => {}
            Told::Switch => {
                // Replay goes on where the next segment begins.
                facts.ends = Some(walk.place(header.segment_bytes as usize));
                return false;
            }
            Told::Tablespace(_) => facts.tablespaces += 1,
            Told::Commit(time) => {
                facts.commits += 1;
                facts.last_commit = facts.last_commit.max(Some(time));
                note(&mut facts, time);
            }
            Told::Time(time) => note(&mut facts, time),
            Told::Point(point) => {
                note(&mut facts, point.time);
                if facts.points.len() < POINTS_MAX {
                    facts.points.push(point);
                }
            }
        }
        true
    });
    facts.tablespaces += u64::from(unfinished.is_some());
    (facts, written)
}

/// Shows what every whole record tells, and where it begins. Gives where a record begins that creates a tablespace and
/// goes on in the next segment.
pub(super) fn records(
    text: &dyn Text,
    header: &SegmentHeader,
    timeline: u32,
    show: &mut dyn FnMut(Lsn, Told),
) -> Option<Lsn> {
    let walk = Walk { text, header, timeline, page_bytes: header.page_bytes as usize };
    walk.each(|start, record, next| {
        let told = record::told(record, walk.place(next));
        let goes_on = told != Told::Switch;
        show(walk.place(start), told);
        goes_on
    })
}

fn note(facts: &mut LogFacts, time: crate::core::log::ServerTime) {
    facts.first_time = Some(facts.first_time.map_or(time, |first| first.min(time)));
    facts.last_time = facts.last_time.max(Some(time));
}

fn aligned(at: usize) -> usize {
    at.next_multiple_of(8)
}

impl Walk<'_> {
    pub(super) fn place(&self, at: usize) -> Lsn {
        Lsn(self.header.start.0.saturating_add(at as u64))
    }

    /// Visits the whole records, with where each begins and where the next one may, until the visitor has seen enough.
    /// Gives where a record begins that creates a tablespace, and of which the segment has only the beginning.
    pub(super) fn each(&self, mut visit: impl FnMut(usize, &[u8], usize) -> bool) -> Option<Lsn> {
        let mut at = self.first_record()?;
        let mut previous: Option<Lsn> = None;
        while let Some((start, record, next)) = self.record(at).or_else(|| self.record(self.overwritten(at)?)) {
            if previous.is_some_and(|previous| record::previous(&record) != Some(previous)) {
                return None; // what a recycled file held before
            }
            previous = Some(self.place(start));
            at = next;
            if !visit(start, &record, next) {
                return None;
            }
        }
        let start = self.start_of(at)?;
        let beginning = self.text.get(start, HEADER_BYTES)?;
        let goes_on = u32_at(&beginning, 0)? as usize > self.text.length() - start;
        let follows = previous.is_none_or(|previous| record::previous(&beginning) == Some(previous));
        (goes_on && follows && record::begins_tablespace(&beginning)).then(|| self.place(start))
    }

    /// Where a record begins for which there is room from an offset on.
    fn start_of(&self, at: usize) -> Option<usize> {
        if at.is_multiple_of(self.page_bytes) { Some(at + self.page(at)?.header_bytes) } else { Some(at) }
    }

    /// The page that begins at an offset, if it is one of this segment.
    fn page(&self, at: usize) -> Option<Page> {
        if at.checked_add(self.page_bytes)? > self.text.length() {
            return None;
        }
        let page = self.text.get(at, SHORT_HEADER_BYTES)?;
        let page = &*page;
        let flags = u16_at(page, 2)?;
        let timeline = u32_at(page, 4)?;
        let is_first = (at as u64).is_multiple_of(self.header.segment_bytes);
        let fits = u16_at(page, 0)? == self.header.magic
            && flags & !FLAGS == 0
            && (flags & LONG_HEADER != 0) == is_first
            && (1..=self.timeline).contains(&timeline)
            && u64_at(page, 8)? == self.place(at).0;
        let remaining = usize::try_from(u32_at(page, 16)?).ok()?;
        let header_bytes = if is_first { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
        let remaining = (flags & CONTINUES != 0).then_some(remaining);
        fits.then_some(Page { header_bytes, remaining, overwrites: flags & OVERWRITES != 0 })
    }

    /// Where the first record begins: behind the rest of one that began in the segment before.
    pub(super) fn first_record(&self) -> Option<usize> {
        let mut page_at = 0;
        let mut page = self.page(0)?;
        let Some(mut remaining) = page.remaining else { return Some(page.header_bytes) };
        loop {
            let room = self.page_bytes - page.header_bytes;
            if remaining <= room {
                return Some(aligned(page_at + page.header_bytes + remaining));
            }
            remaining -= room;
            page_at += self.page_bytes;
            page = self.page(page_at)?;
            if page.overwrites {
                return Some(page_at + page.header_bytes);
            }
            if page.remaining != Some(remaining) {
                return None;
            }
        }
    }

    /// Where the log goes on after a record at an offset of which a server that was killed wrote only some pages.
    fn overwritten(&self, at: usize) -> Option<usize> {
        let mut page_at = (at / self.page_bytes + 1) * self.page_bytes;
        loop {
            let page = self.page(page_at)?;
            if page.overwrites {
                return Some(page_at + page.header_bytes);
            }
            page.remaining?;
            page_at += self.page_bytes;
        }
    }

    /// The whole record at an offset: where it begins, what is looked into of it, and where the next one may begin.
    fn record(&self, at: usize) -> Option<(usize, Vec<u8>, usize)> {
        let start = self.start_of(at)?;
        let total = usize::try_from(u32_at(&self.text.get(start, 4)?, 0)?).ok()?;
        if total < HEADER_BYTES || total > self.text.length() {
            return None;
        }
        let mut gathered = Gathered::default();
        let mut page_at = start / self.page_bytes * self.page_bytes;
        let mut from = start;
        let end = loop {
            let take = (page_at + self.page_bytes - from).min(total - gathered.bytes);
            gathered.add(&self.text.get(from, take)?, total);
            if gathered.bytes == total {
                break from + take;
            }
            page_at += self.page_bytes;
            let page = self.page(page_at)?;
            if page.remaining != Some(total - gathered.bytes) {
                return None;
            }
            from = page_at + page.header_bytes;
        };
        gathered.is_right().then(|| (start, gathered.kept, aligned(end)))
    }
}

/// A record as it is gathered from its pages.
#[derive(Default)]
struct Gathered {
    bytes: usize,
    crc: u32,
    /// Its header, and what else of it is looked into.
    kept: Vec<u8>,
}

impl Gathered {
    fn add(&mut self, piece: &[u8], total: usize) {
        let in_header = HEADER_BYTES.saturating_sub(self.bytes).min(piece.len());
        let (header, data) = piece.split_at(in_header);
        self.kept.extend_from_slice(header);
        self.crc = crc32c_append(self.crc, data);
        if record::tells(&self.kept) && total <= TELLING_BYTES_MAX {
            self.kept.extend_from_slice(data);
        }
        self.bytes += piece.len();
    }

    fn is_right(&self) -> bool {
        let Some(header) = self.kept.get(..HEADER_BYTES) else { return false };
        u32_at(header, 20) == Some(crc32c_append(self.crc, &header[..20]))
    }
}
