//! Checksums of pages, as PostgreSQL computes them (`storage/checksum_impl.h`).

use crate::core::log::Lsn;

const LANES: usize = 32;
const PRIME: u32 = 16_777_619;
const BASES: [u32; LANES] = [
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C, 0xF8D4474F,
    0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB, 0xE58F764B, 0x187636BC,
    0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4, 0x783125BB, 0x6CA8EAA2, 0xE407EAC6,
    0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
];

/// What a page looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// Its checksum is right, or it is empty.
    Good,
    /// It was written after the copy began: replay replaces it.
    Newer,
    /// Its checksum is wrong, or it is new and yet not empty.
    Bad,
}

/// Judges one page of a relation. `block` is its number in the whole relation; `start` is where replay begins.
pub(super) fn judge(page: &[u8], block: u32, start: Lsn) -> Page {
    let half = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    let word = |at: usize| u64::from(u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]));
    // pd_upper is zero only in pages that nobody has initialised.
    if half(14) == 0 {
        return if page.iter().all(|byte| *byte == 0) { Page::Good } else { Page::Bad };
    }
    if checksum(page, block) == half(8) {
        return Page::Good;
    }
    if Lsn((word(0) << 32) | word(4)) >= start { Page::Newer } else { Page::Bad }
}

/// The checksum that a page should have.
pub(super) fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = BASES;
    for (row, bytes) in page.chunks_exact(4 * LANES).enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let at = lane * 4;
            let mut word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            // The checksum itself counts as zero.
            if row == 0 && lane == 2 {
                word &= 0xFFFF_0000;
            }
            mix(sum, word);
        }
    }
    for _ in 0..2 {
        sums.iter_mut().for_each(|sum| mix(sum, 0));
    }
    let folded = sums.iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    (folded % 65_535 + 1) as u16
}

fn mix(sum: &mut u32, word: u32) {
    let mixed = *sum ^ word;
    *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lsn: u64) -> Vec<u8> {
        let mut page: Vec<u8> = (0..8192_u32).map(|at| (at * 7 / 3) as u8).collect();
        page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        let sum = checksum(&page, 9);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn pages_are_judged() {
        let good = page(100);
        assert_eq!(judge(&good, 9, Lsn(101)), Page::Good);
        assert_eq!(judge(&good, 10, Lsn(101)), Page::Bad, "the block number is part of it");
        let mut torn = good.clone();
        torn[5000] ^= 1;
        assert_eq!(judge(&torn, 9, Lsn(101)), Page::Bad);
        assert_eq!(judge(&torn, 9, Lsn(100)), Page::Newer);
        assert_eq!(judge(&[0; 8192], 0, Lsn(1)), Page::Good);
        let mut odd = vec![0; 8192];
        odd[8000] = 1;
        assert_eq!(judge(&odd, 0, Lsn(1)), Page::Bad);
    }
}
