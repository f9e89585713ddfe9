//! Sets of blocks of one file: a bitmap that hands out runs.

/// A set of block numbers below a fixed length. One bit a block: 32 MiB for a TiB of 4 KiB blocks.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BlockSet {
    words: Vec<u64>,
    length: u64,
}

impl BlockSet {
    /// No block of `length`.
    pub fn none(length: u64) -> Self {
        BlockSet { words: vec![0; usize::try_from(length.div_ceil(64)).expect("fits memory")], length }
    }

    /// Every block of `length`.
    pub fn all(length: u64) -> Self {
        let mut set = BlockSet::none(length);
        set.insert_run(0, length);
        set
    }

    /// How many blocks the file has.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Adds one block; blocks beyond the length are a bug.
    pub fn insert(&mut self, block: u64) {
        assert!(block < self.length, "block {block} of {}", self.length);
        self.words[(block / 64) as usize] |= 1 << (block % 64);
    }

    /// Adds `count` blocks from `first`.
    pub fn insert_run(&mut self, first: u64, count: u64) {
        let end = first + count;
        assert!(end <= self.length, "blocks {first}..{end} of {}", self.length);
        let mut block = first;
        while block < end {
            if block.is_multiple_of(64) && end - block >= 64 {
                self.words[(block / 64) as usize] = u64::MAX;
                block += 64;
            } else {
                self.insert(block);
                block += 1;
            }
        }
    }

    /// Whether a block is in the set.
    pub fn contains(&self, block: u64) -> bool {
        block < self.length && self.words[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    /// How many blocks are in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The first block in `from..to` that is (`wanted`) or is not in the set; `to` if there is none. It looks no
    /// further than that: a file may be asked about in as many pieces as it has words.
    fn next(&self, from: u64, to: u64, wanted: bool) -> u64 {
        let mut block = from;
        while block < to {
            let word = self.words[(block / 64) as usize];
            let word = (if wanted { word } else { !word }) >> (block % 64);
            if word != 0 {
                return (block + u64::from(word.trailing_zeros())).min(to);
            }
            block = (block / 64 + 1) * 64;
        }
        to
    }

    /// The runs of the set as (first block, count), in order.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs_within(0, self.length, true)
    }

    /// The runs of blocks in `from..to` that are (`wanted`) or are not in the set, in order.
    pub fn runs_within(&self, from: u64, to: u64, wanted: bool) -> impl Iterator<Item = (u64, u64)> + '_ {
        let to = to.min(self.length);
        let mut at = from;
        std::iter::from_fn(move || {
            let first = self.next(at, to, wanted);
            if first >= to {
                return None;
            }
            let end = self.next(first, to, !wanted);
            at = end;
            Some((first, end - first))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_sets() {
        let mut set = BlockSet::none(200);
        set.insert_run(3, 130);
        set.insert(150);
        set.insert(199);
        assert_eq!(set.runs().collect::<Vec<_>>(), [(3, 130), (150, 1), (199, 1)]);
        assert_eq!(set.runs_within(100, 160, false).collect::<Vec<_>>(), [(133, 17), (151, 9)]);
        assert_eq!(set.runs_within(190, 300, false).collect::<Vec<_>>(), [(190, 9)]);
        assert_eq!(set.runs_within(10, 20, true).collect::<Vec<_>>(), [(10, 10)]);
        assert_eq!(set.runs_within(133, 140, true).count(), 0);
        assert_eq!(set.runs_within(140, 130, false).count(), 0);
        assert_eq!(set.count(), 132);
        assert!(set.contains(132) && !set.contains(133) && !set.contains(200));
    }

    #[test]
    fn extremes() {
        assert_eq!(BlockSet::all(0).runs().count(), 0);
        assert_eq!(BlockSet::all(64).runs().collect::<Vec<_>>(), [(0, 64)]);
        assert_eq!(BlockSet::all(65).runs().collect::<Vec<_>>(), [(0, 65)]);
        assert_eq!(BlockSet::none(65).runs_within(0, 65, false).collect::<Vec<_>>(), [(0, 65)]);
        assert!(BlockSet::none(65).is_empty());
    }
}
