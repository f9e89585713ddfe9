//! Segments as a server writes them, made for tests and simulations.

use super::{CONTINUES, LONG_HEADER, LONG_HEADER_BYTES, OVERWRITES, SHORT_HEADER_BYTES, record::HEADER_BYTES};
use crate::core::log::{Lsn, SegmentName, ServerTime};

const PAGE_BYTES: usize = 8192;
const MAGIC: u16 = 0xD110;
/// Seconds from 1970 to 2000.
const EPOCH_SECONDS: i64 = 946_684_800;

/// A segment that is being written.
#[derive(Clone, Debug)]
pub struct Synthetic {
    bytes: Vec<u8>,
    start: u64,
    timeline: u32,
    at: usize,
    previous: u64,
    /// What went over its end.
    spilled: Vec<u8>,
}

impl Synthetic {
    /// An empty segment.
    pub fn new(system: u64, name: SegmentName, segment_bytes: u64) -> Self {
        let start = name.start(segment_bytes).map_or(0, |start| start.0);
        let mut bytes = vec![0; segment_bytes as usize];
        bytes[24..32].copy_from_slice(&system.to_le_bytes());
        bytes[32..36].copy_from_slice(&(segment_bytes as u32).to_le_bytes());
        bytes[36..40].copy_from_slice(&(PAGE_BYTES as u32).to_le_bytes());
        let mut segment = Synthetic { bytes, start, timeline: name.timeline, at: 0, previous: 0, spilled: Vec::new() };
        segment.begin_page(0);
        segment
    }

    /// The segment begins with the rest of a record of the one before.
    #[must_use]
    pub fn continuing(mut self, remaining: usize) -> Self {
        let mut left = remaining;
        self.at = 0;
        loop {
            let header_bytes = if self.at == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
            self.begin_page(left);
            let room = PAGE_BYTES - header_bytes;
            if left <= room {
                self.at = (self.at + left).next_multiple_of(8);
                return self;
            }
            left -= room;
            self.at += room;
        }
    }

    /// The segment after this one, which begins with what went over the end.
    #[must_use]
    pub fn next(&self, system: u64) -> Self {
        let bytes = self.bytes.len() as u64;
        let name = SegmentName::holding(self.timeline, Lsn(self.start + bytes), bytes);
        let mut next = Synthetic::new(system, name, bytes).continuing(self.spilled.len());
        // Less than a page ever goes over.
        next.bytes[LONG_HEADER_BYTES..LONG_HEADER_BYTES + self.spilled.len()].copy_from_slice(&self.spilled);
        next.previous = self.previous;
        next
    }

    fn begin_page(&mut self, remaining: usize) {
        let flags = if self.at == 0 { LONG_HEADER } else { 0 } | if remaining > 0 { CONTINUES } else { 0 };
        let place = self.start + self.at as u64;
        let header = &mut self.bytes[self.at..];
        header[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        header[2..4].copy_from_slice(&flags.to_le_bytes());
        header[4..8].copy_from_slice(&self.timeline.to_le_bytes());
        header[8..16].copy_from_slice(&place.to_le_bytes());
        header[16..20].copy_from_slice(&(remaining as u32).to_le_bytes());
        self.at += if self.at == 0 { LONG_HEADER_BYTES } else { SHORT_HEADER_BYTES };
    }

    /// Where the next record begins.
    pub fn place(&self) -> Lsn {
        Lsn(self.start + self.at as u64)
    }

    /// Bytes that are left.
    pub fn room(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// A record; what of it goes over the end of the segment is left out, as the next segment would hold it.
    #[must_use]
    pub fn record(mut self, manager: u8, info: u8, data: &[u8]) -> Self {
        if self.at.is_multiple_of(PAGE_BYTES) && self.at < self.bytes.len() {
            self.begin_page(0);
        }
        let mut record = vec![0; HEADER_BYTES];
        match u8::try_from(data.len()) {
            Ok(short) => record.extend([255, short]),
            Err(_) => {
                record.push(254);
                record.extend((data.len() as u32).to_le_bytes());
            }
        }
        record.extend(data);
        let total = record.len() as u32;
        record[0..4].copy_from_slice(&total.to_le_bytes());
        record[8..16].copy_from_slice(&self.previous.to_le_bytes());
        record[16] = info;
        record[17] = manager;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&record[HEADER_BYTES..]), &record[..20]);
        record[20..24].copy_from_slice(&crc.to_le_bytes());
        self.previous = self.place().0;
        let mut rest = record.as_slice();
        loop {
            let room = (PAGE_BYTES - self.at % PAGE_BYTES).min(rest.len());
            self.bytes[self.at..self.at + room].copy_from_slice(&rest[..room]);
            self.at += room;
            rest = &rest[room..];
            if rest.is_empty() {
                self.at = self.at.next_multiple_of(8);
                return self;
            }
            if self.at >= self.bytes.len() {
                self.spilled = rest.to_vec();
                return self;
            }
            self.begin_page(rest.len());
        }
    }

    /// A record of which a server that was killed wrote only one page; what comes then begins with the next page.
    #[must_use]
    pub fn torn(self, data: &[u8]) -> Self {
        let (previous, next) = (self.previous, (self.at / PAGE_BYTES + 1) * PAGE_BYTES);
        let mut torn = self.record(10, 0, data);
        torn.bytes[next..].fill(0);
        (torn.at, torn.previous) = (next, previous);
        torn.begin_page(0);
        torn.bytes[next + 2] |= OVERWRITES as u8;
        torn
    }

    /// A transaction was committed at a time.
    #[must_use]
    pub fn commit(self, time: ServerTime) -> Self {
        let data = microseconds(time).to_le_bytes();
        self.record(1, 0x00, &data)
    }

    /// A named restore point.
    #[must_use]
    pub fn point(self, name: &str, time: ServerTime) -> Self {
        let mut data = microseconds(time).to_le_bytes().to_vec();
        data.extend(name.bytes().take(63));
        data.resize(72, 0);
        self.record(0, 0x70, &data)
    }

    /// A tablespace was created in a directory.
    #[must_use]
    pub fn tablespace(self, directory: &str) -> Self {
        let data = [&16_400_u32.to_le_bytes(), directory.as_bytes(), &[0]].concat();
        self.record(5, 0x00, &data)
    }

    /// The rest of the segment stays empty.
    #[must_use]
    pub fn switch(self) -> Self {
        self.record(0, 0x40, &[])
    }

    /// Records of no meaning, up to the end of the segment.
    #[must_use]
    pub fn filled(mut self, seed: u64) -> Self {
        let mut noise = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        let mut data = vec![0; 2000];
        while self.room() > 0 {
            // Half of it can be compressed, as rows can.
            noise.fill(&mut data[..1000]);
            self = self.record(10, 0, &data);
        }
        self
    }

    /// The bytes of its file.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn microseconds(time: ServerTime) -> i64 {
    time.as_datetime().timestamp_micros() - EPOCH_SECONDS * 1_000_000
}
