//! The digests of a run's packs on their way into parts: no more of them is kept than one part takes.

use crate::{
    core::id::RunId,
    format::{digests, pack::BlockDigest},
};
use std::collections::BTreeMap;

/// Collects the digests of packs that close in any order; hands out parts that list them in order.
pub(super) struct DigestParts {
    run: RunId,
    key: [u8; 32],
    /// Packs that closed before the next one in order.
    early: BTreeMap<u32, Vec<BlockDigest>>,
    next_pack: u32,
    /// The part that is being written; empty before its first pack.
    raw: Vec<u8>,
    next_part: u32,
}

/// A part's number and its raw form.
pub(super) type Part = (u32, Vec<u8>);

impl DigestParts {
    /// None yet. Packs are numbered from 0, without gaps.
    pub(super) fn new(run: RunId, key: [u8; 32]) -> Self {
        DigestParts { run, key, early: BTreeMap::new(), next_pack: 0, raw: Vec::new(), next_part: 0 }
    }

    /// Adds a pack that has closed; gives the parts that are complete now.
    pub(super) fn add(&mut self, pack: u32, digests: Vec<BlockDigest>) -> Vec<Part> {
        self.early.insert(pack, digests);
        let mut complete = Vec::new();
        while let Some(digests) = self.early.remove(&self.next_pack) {
            if self.raw.len() + size_of_val(&digests[..]) > digests::PART_BYTES {
                complete.extend(self.end_part());
            }
            if self.raw.is_empty() {
                self.raw = digests::start_part(self.run, &self.key);
            }
            digests::push_pack(&mut self.raw, self.next_pack, &digests);
            self.next_pack += 1;
        }
        complete
    }

    /// Ends the part that is being written, if there is one.
    pub(super) fn end_part(&mut self) -> Option<Part> {
        if self.raw.is_empty() {
            return None;
        }
        let part = (self.next_part, std::mem::take(&mut self.raw));
        self.next_part += 1;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digests::DigestPart;

    #[test]
    fn parts_are_bounded_and_in_order() {
        let run = RunId::from_random([5; 16]);
        let mut parts = DigestParts::new(run, [7; 32]);
        let blocks = digests::PART_BYTES / 16 / 3;
        let of_pack = |pack: u32| vec![[pack as u8; 16]; blocks];
        let mut complete = Vec::new();
        for pack in [2, 1, 0, 3, 5, 6, 4] {
            complete.extend(parts.add(pack, of_pack(pack)));
        }
        assert!(parts.early.is_empty());
        complete.extend(parts.end_part());
        assert_eq!(parts.end_part(), None);
        let mut packs = Vec::new();
        for (at, (number, raw)) in complete.into_iter().enumerate() {
            assert!(number as usize == at && raw.len() <= digests::PART_BYTES + 1024, "part {number}: {}", raw.len());
            let part = DigestPart::parse(raw, run).unwrap();
            assert_eq!(part.key, [7; 32]);
            assert!(part.packs().all(|pack| part.pack(pack).unwrap() == of_pack(pack)));
            packs.push(part.packs().collect::<Vec<_>>());
        }
        assert_eq!(packs, [vec![0, 1], vec![2, 3], vec![4, 5], vec![6]]);
    }

    #[test]
    fn a_pack_larger_than_a_part_has_one_to_itself() {
        let mut parts = DigestParts::new(RunId::from_random([5; 16]), [7; 32]);
        assert_eq!(parts.add(0, vec![[1; 16]; digests::PART_BYTES / 8]), []);
        assert_eq!(parts.add(1, vec![[2; 16]; 3]).len(), 1);
        assert!(parts.end_part().is_some());
        assert_eq!(DigestParts::new(RunId::from_random([5; 16]), [7; 32]).end_part(), None);
    }
}
