//! The write-ahead log as a file: whether a view shows everything that is committed in it.
//!
//! A commit writes its frames, brings them to the disk, and only then publishes them in the wal-index and is
//! acknowledged. In between, which on a busy disk takes seconds, the file already is what it will be, while every
//! reader sees the state before. A fingerprint taken then would hold for ever without the transaction.
//!
//! The wal-index would tell where a view ends, but closing the `-shm` drops SQLite's own locks on it. So the content
//! decides: the newest committed frame of every page must be what the view has there. At most one transaction can be
//! written and not published while nothing else writes, so a view that equals the state after it lacks nothing.

use super::view::{Pages, SqliteView};
use crate::{core::failure::Failure, sources::View};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read},
    ops::Range,
    os::unix::fs::FileExt,
};

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// The last bit says whether checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;
/// With more frames than this the log is not walked through: the next run compares block by block.
const WALK_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// What a copy has otherwise in its first page: the change counter, what it was valid for, and the library's version.
const OWN_TO_A_COPY: [Range<usize>; 2] = [24..28, 92..100];

/// Whether a view is, page for page, what a reader would see once everything in the log is published.
///
/// `false` whenever in doubt. Says nothing if the log was written meanwhile: look at its stamp again afterwards.
pub(super) fn is_all_in_view(view: &mut SqliteView) -> bool {
    let Ok(file) = crate::world::files::open_unlinked(&view.files.wal) else { return false };
    let Ok(Some(committed)) = Committed::read(&file, view.page_size) else { return false };
    if view.facts.entries.first().map(|entry| entry.blocks()) != Some(committed.page_count) {
        return false;
    }
    let is_copy = matches!(view.pages, Pages::Copy(_));
    let mut expected = vec![0; view.page_size];
    let mut runs = committed.pages.keys().map(|page| (*page, 1));
    let compared = view.read(0, &mut runs, &mut |page, bytes| {
        let differs = || Failure::internal(format!("page {page} is another one in the log"));
        let at = committed.pages.get(&page).ok_or_else(differs)?;
        file.read_exact_at(&mut expected, *at).map_err(|error| Failure::internal(error.to_string()))?;
        let ignored = OWN_TO_A_COPY.iter().filter(|_| is_copy && page == 0);
        ignored.for_each(|range| expected[range.clone()].copy_from_slice(&bytes[range.clone()]));
        if expected == bytes { Ok(()) } else { Err(differs()) }
    });
    compared.is_ok()
}

/// What the committed frames of a log amount to, published or not.
#[derive(Debug, PartialEq, Eq)]
struct Committed {
    /// Pages in the database after the last commit.
    page_count: u64,
    /// Where the newest content of each page stands, by the page's number counted from 0.
    pages: BTreeMap<u64, u64>,
}

impl Committed {
    /// Reads a log as SQLite's recovery does: up to the first frame that does not continue the ones before.
    ///
    /// `None` when it has no commit, or more than is walked through.
    fn read(file: &File, page_size: usize) -> io::Result<Option<Self>> {
        let mut reader = BufReader::with_capacity(256 * 1024, file);
        let mut header = [0; HEADER_BYTES];
        reader.read_exact(&mut header)?;
        let magic = word(&header, 0);
        let mut checksum = Checksum { big_endian: magic & 1 == 1, sums: [0; 2] };
        checksum.add(&header[..24]);
        let sound = magic & !1 == MAGIC && word(&header, 4) == VERSION && checksum.is_at(&header, 24);
        if !sound || word(&header, 8) as usize != page_size {
            return Ok(None);
        }
        let mut frame = vec![0; FRAME_HEADER_BYTES + page_size];
        let mut at = HEADER_BYTES as u64;
        let mut page_count = None;
        let (mut pages, mut open) = (BTreeMap::new(), BTreeMap::new());
        while read_whole(&mut reader, &mut frame)? {
            let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
            checksum.add(&head[..8]);
            checksum.add(page);
            let (number, size_after_commit) = (word(head, 0), word(head, 4));
            if number == 0 || head[8..16] != header[16..24] || !checksum.is_at(head, 16) {
                break;
            }
            open.insert(u64::from(number) - 1, at + FRAME_HEADER_BYTES as u64);
            at += frame.len() as u64;
            if size_after_commit > 0 {
                pages.append(&mut open);
                page_count = Some(u64::from(size_after_commit));
            }
            if at > WALK_BYTES_MAX {
                return Ok(None);
            }
        }
        Ok(page_count.map(|page_count| {
            pages.retain(|page, _| *page < page_count); // the others were cut off later
            Committed { page_count, pages }
        }))
    }
}

/// The checksum that runs through a log.
struct Checksum {
    big_endian: bool,
    sums: [u32; 2],
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        let [mut one, mut other] = self.sums;
        for pair in bytes.as_chunks::<8>().0 {
            let [a, b, c, d, e, f, g, h] = *pair;
            let (first, second) = ([a, b, c, d], [e, f, g, h]);
            let (first, second) = if self.big_endian {
                (u32::from_be_bytes(first), u32::from_be_bytes(second))
            } else {
                (u32::from_le_bytes(first), u32::from_le_bytes(second))
            };
            one = one.wrapping_add(first).wrapping_add(other);
            other = other.wrapping_add(second).wrapping_add(one);
        }
        self.sums = [one, other];
    }

    /// Whether it is the one that stands in a header.
    fn is_at(&self, header: &[u8], at: usize) -> bool {
        self.sums == [word(header, at), word(header, at + 4)]
    }
}

/// A number in a header of the log: these are big-endian on every machine.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Fills a buffer; `false` when the file ends before.
fn read_whole(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const PAGE: usize = 512;

    /// A log of frames, each of a page, its number and the size that a commit gives the database.
    fn log(magic: u32, frames: &[(u32, u32, u8)]) -> Vec<u8> {
        let mut checksum = Checksum { big_endian: magic & 1 == 1, sums: [0; 2] };
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let mut bytes = words(&[magic, VERSION, PAGE as u32, 0, 77, 88]);
        checksum.add(&bytes);
        bytes.extend(words(&checksum.sums));
        for (number, size, fill) in frames {
            let page = [*fill; PAGE];
            checksum.add(&words(&[*number, *size]));
            checksum.add(&page);
            bytes.extend(words(&[*number, *size, 77, 88, checksum.sums[0], checksum.sums[1]]));
            bytes.extend(page);
        }
        bytes
    }

    fn read(bytes: &[u8]) -> Option<(u64, Vec<(u64, u64)>)> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let committed = Committed::read(&file, PAGE).ok()??;
        Some((committed.page_count, committed.pages.into_iter().collect()))
    }

    #[test]
    fn committed_frames_are_those_that_recovery_would_find() {
        let at = |frame: u64| 32 + 24 + frame * (24 + 512);
        for magic in [MAGIC, MAGIC | 1] {
            let frames = [(1, 0, 1), (3, 3, 2), (1, 2, 3), (2, 0, 4)];
            let whole = log(magic, &frames);
            assert_eq!(read(&whole), Some((2, vec![(0, at(2))])), "page 3 was cut off, page 2 is not committed");
            let end = |frames: usize| 32 + frames * (24 + 512);
            assert_eq!(read(&whole[..end(3) - 1]), Some((3, vec![(0, at(0)), (2, at(1))])));
            assert_eq!(read(&whole[..end(1)]), None);
            let mut torn = whole.clone();
            torn[end(2) + 100] ^= 1;
            assert_eq!(read(&torn), Some((3, vec![(0, at(0)), (2, at(1))])), "a frame that is not what it was");
            for wrong in [0, 5, 10, 20, 30, 32 + 9] {
                let mut other = whole.clone();
                other[wrong] ^= 1;
                assert_eq!(read(&other), None, "byte {wrong}");
            }
        }
        assert_eq!(read(b""), None);
        assert_eq!(read(&log(MAGIC, &[(0, 1, 1)])), None);
    }
}
