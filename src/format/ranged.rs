//! Reading a few frames of a pack without fetching all of it.
//!
//! A ranged reader fetches the header, the encrypted chunks that hold the wanted frames, and the last chunk (which
//! authenticates the length). [`ranges`] says which bytes those are; [`SparseObject`] plays them to the age reader.

use super::pack::{CHUNK_BYTES, PackIndex, TAG_BYTES};
use bytes::Bytes;
use std::{
    collections::BTreeMap,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
};

/// The byte ranges of a pack of `size` bytes that are needed to read these blocks: merged, ascending.
pub fn ranges(index: &PackIndex, size: u64, blocks: impl IntoIterator<Item = (u64, u64)>) -> Vec<Range<u64>> {
    let sealed_chunk = CHUNK_BYTES + TAG_BYTES;
    let mut offsets = Vec::with_capacity(index.frames.len() + 1);
    let mut payload_bytes = 0;
    for frame in &index.frames {
        offsets.push(payload_bytes);
        payload_bytes += u64::from(*frame);
    }
    offsets.push(payload_bytes);
    let chunk_range = |first: u64, last: u64| {
        let start = index.payload_offset + first * sealed_chunk;
        let end = index.payload_offset + (last + 1) * sealed_chunk;
        start.min(size)..end.min(size)
    };
    let blocks_per_frame = super::pack::FRAME_BYTES as u64 / u64::from(index.block_size);
    let header = 0..index.payload_offset.min(size);
    let mut wanted: Vec<Range<u64>> = std::iter::once(header).collect();
    for (first, count) in blocks {
        let frame = |block: u64| ((block / blocks_per_frame) as usize).min(index.frames.len().saturating_sub(1));
        let (start, end) = (offsets[frame(first)], offsets[frame(first + count - 1) + 1]);
        wanted.push(chunk_range(start / CHUNK_BYTES, end.saturating_sub(1) / CHUNK_BYTES));
    }
    let last_chunk = (payload_bytes.div_ceil(CHUNK_BYTES)).max(1) - 1;
    wanted.push(chunk_range(last_chunk, last_chunk));
    merge(wanted)
}

fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// An object of which only some ranges are present; reading anything else is an error.
pub struct SparseObject {
    pieces: BTreeMap<u64, Bytes>,
    size: u64,
    position: u64,
}

impl SparseObject {
    /// The object of `size` bytes with these pieces of it.
    pub fn new(size: u64, pieces: impl IntoIterator<Item = (u64, Bytes)>) -> Self {
        SparseObject { pieces: pieces.into_iter().collect(), size, position: 0 }
    }

    /// The first piece, where the header is.
    pub fn start(&self) -> &[u8] {
        self.pieces.get(&0).map_or(&[], |piece| piece)
    }
}

impl Read for SparseObject {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.position >= self.size || buffer.is_empty() {
            return Ok(0);
        }
        let piece = self.pieces.range(..=self.position).next_back();
        let found = piece.and_then(|(start, piece)| piece.get((self.position - start) as usize..));
        match found {
            Some(bytes) if !bytes.is_empty() => {
                let length = bytes.len().min(buffer.len());
                buffer[..length].copy_from_slice(&bytes[..length]);
                self.position += length as u64;
                Ok(length)
            }
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a part of the object that was not fetched")),
        }
    }
}

impl Seek for SparseObject {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
