//! Long lists of extents in few bytes: a large cluster has millions, and each differs little from the one before.

use super::{
    id::RunId,
    manifest::{Extent, PackId},
};

/// Extents between two places where reading may begin.
const STRIDE: usize = 1024;

/// Which fields of an extent differ from what would follow the one before.
const OTHER_ENTRY: u8 = 1;
const SEVERAL_BLOCKS: u8 = 2;
const OTHER_PACK: u8 = 4;
const OTHER_PLACE: u8 = 8;

/// Extents of entries (positions in some list), in any order; a few bytes each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtentList {
    runs: Vec<RunId>,
    bytes: Vec<u8>,
    /// Every [`STRIDE`]th extent: its first block, and where it begins in the bytes.
    marks: Vec<(u64, usize)>,
    written: usize,
    /// What the next extent in the bytes is told from.
    before: Before,
    /// The last extent, which may still grow.
    last: Option<(usize, Extent)>,
}

/// What an extent is told from: the end of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Before {
    entry: usize,
    block: u64,
    run: usize,
    pack: u32,
    raw_block: u64,
}

impl ExtentList {
    /// Appends an extent, joining it to the last one where it just goes on.
    pub fn push(&mut self, entry: usize, extent: Extent) {
        match &mut self.last {
            Some((of, last)) if *of == entry && last.continues_with(&extent) => last.count += extent.count,
            _ => {
                if let Some((entry, complete)) = self.last.replace((entry, extent)) {
                    self.write(entry, &complete);
                }
            }
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// The block after the last one of the last extent; 0 where there is none.
    pub fn end(&self) -> u64 {
        self.last.map_or(0, |(_, last)| last.end())
    }

    /// All of them, each with its entry.
    pub fn iter(&self) -> impl Iterator<Item = (usize, Extent)> + '_ {
        self.read_from(0)
    }

    /// Those that end behind block `first`, of a list whose extents are of one entry and in order.
    pub fn from(&self, first: u64) -> impl Iterator<Item = Extent> + '_ {
        let at = self.marks.partition_point(|(begins, _)| *begins <= first).checked_sub(1);
        let begin = at.map_or(0, |at| self.marks[at].1);
        self.read_from(begin).map(|(_, extent)| extent).skip_while(move |extent| extent.end() <= first)
    }

    /// Reads from a mark on.
    fn read_from(&self, at: usize) -> impl Iterator<Item = (usize, Extent)> + '_ {
        let (mut at, mut before, mut next_mark) =
            (at, Before::default(), self.marks.iter().map(|(_, at)| *at).peekable());
        let written = std::iter::from_fn(move || {
            if at == self.bytes.len() {
                return None;
            }
            while next_mark.next_if(|mark| *mark <= at).is_some_and(|mark| mark == at) {
                before = Before::default();
            }
            Some(self.read(&mut at, &mut before))
        });
        written.chain(self.last)
    }

    /// Puts them in the order of the blocks in their packs.
    pub fn sort_by_raw_block(&mut self) {
        let mut all: Vec<(usize, Extent)> = self.iter().collect();
        all.sort_by_key(|(_, extent)| extent.raw_block);
        *self = all.into_iter().collect();
        self.bytes.shrink_to_fit();
    }

    fn write(&mut self, entry: usize, extent: &Extent) {
        if self.written.is_multiple_of(STRIDE) {
            self.before = Before::default();
            if self.written > 0 {
                self.marks.push((extent.first, self.bytes.len()));
            }
        }
        self.written += 1;
        let known = self.runs.iter().rposition(|run| *run == extent.pack.run);
        let run = known.unwrap_or_else(|| {
            self.runs.push(extent.pack.run);
            self.runs.len() - 1
        });
        let before = if entry == self.before.entry { self.before } else { Before { block: 0, ..self.before } };
        let same_pack = run == before.run && extent.pack.pack == before.pack;
        let flag = |bit: u8, differs: bool| if differs { bit } else { 0 };
        self.bytes.push(
            flag(OTHER_ENTRY, entry != before.entry)
                | flag(SEVERAL_BLOCKS, extent.count != 1)
                | flag(OTHER_PACK, !same_pack)
                | flag(OTHER_PLACE, extent.raw_block != before.raw_block),
        );
        if entry != before.entry {
            put_difference(&mut self.bytes, entry as u64, before.entry as u64);
        }
        put_difference(&mut self.bytes, extent.first, before.block);
        if extent.count != 1 {
            put(&mut self.bytes, extent.count);
        }
        if !same_pack {
            put(&mut self.bytes, run as u64);
            put_difference(&mut self.bytes, u64::from(extent.pack.pack), u64::from(before.pack));
        }
        if extent.raw_block != before.raw_block {
            put_difference(&mut self.bytes, extent.raw_block, before.raw_block);
        }
        self.before = Before::after(entry, run, extent);
    }

    fn read(&self, at: &mut usize, before: &mut Before) -> (usize, Extent) {
        let flags = self.bytes[*at];
        *at += 1;
        let mut entry = before.entry;
        if flags & OTHER_ENTRY != 0 {
            entry = get_difference(&self.bytes, at, entry as u64) as usize;
            before.block = 0;
        }
        let first = get_difference(&self.bytes, at, before.block);
        let count = if flags & SEVERAL_BLOCKS != 0 { get(&self.bytes, at) } else { 1 };
        let (mut run, mut pack, mut raw_block) = (before.run, before.pack, before.raw_block);
        if flags & OTHER_PACK != 0 {
            run = get(&self.bytes, at) as usize;
            pack = get_difference(&self.bytes, at, u64::from(pack)) as u32;
        }
        if flags & OTHER_PLACE != 0 {
            raw_block = get_difference(&self.bytes, at, raw_block);
        }
        let extent = Extent { first, count, pack: PackId { run: self.runs[run], pack }, raw_block };
        *before = Before::after(entry, run, &extent);
        (entry, extent)
    }
}

impl Before {
    fn after(entry: usize, run: usize, extent: &Extent) -> Self {
        let raw_block = extent.raw_block.wrapping_add(extent.count);
        Before { entry, block: extent.first.wrapping_add(extent.count), run, pack: extent.pack.pack, raw_block }
    }
}

impl FromIterator<(usize, Extent)> for ExtentList {
    fn from_iter<I: IntoIterator<Item = (usize, Extent)>>(extents: I) -> Self {
        let mut list = ExtentList::default();
        extents.into_iter().for_each(|(entry, extent)| list.push(entry, extent));
        list
    }
}

/// Seven bits a byte, the least first.
fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn get(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return number;
        }
        shift += 7;
    }
}

/// What a number is more, or less, than another: small either way.
fn put_difference(bytes: &mut Vec<u8>, number: u64, before: u64) {
    let difference = number.wrapping_sub(before) as i64;
    put(bytes, (difference << 1 ^ difference >> 63) as u64);
}

fn get_difference(bytes: &[u8], at: &mut usize, before: u64) -> u64 {
    let folded = get(bytes, at);
    before.wrapping_add(folded >> 1 ^ (folded & 1).wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::manifest::{NUMBER_MAX, push_extent};

    fn extent(first: u64, count: u64, run: u8, pack: u32, raw_block: u64) -> Extent {
        Extent { first, count, pack: PackId { run: RunId::from_random([run; 16]), pack }, raw_block }
    }

    fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |limit| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        }
    }

    #[test]
    fn whatever_is_put_in_comes_out() {
        let mut next = numbers(3);
        let mut all = vec![(0, extent(0, 1, 0, 0, 0)), (7, extent(NUMBER_MAX, NUMBER_MAX, 31, u32::MAX, NUMBER_MAX))];
        for _ in 0..5 * STRIDE {
            // Never one that goes on where the last one ended: those are joined.
            let odd = 2 * next(1 << 40) + 1;
            all.push((
                next(3) as usize,
                extent(odd, 1 + 2 * next(2), next(3) as u8, next(9) as u32, 2 * next(1 << 20)),
            ));
        }
        let mut list: ExtentList = all.iter().copied().collect();
        assert_eq!(list.iter().collect::<Vec<_>>(), all);
        list.sort_by_raw_block();
        all.sort_by_key(|(_, extent)| extent.raw_block);
        assert!(list.iter().map(|(_, extent)| extent.raw_block).is_sorted());
        let order = |(entry, extent): &(usize, Extent)| (extent.raw_block, *entry, extent.first, extent.pack);
        let mut sorted: Vec<_> = list.iter().collect();
        sorted.sort_by_key(order);
        all.sort_by_key(order);
        assert_eq!(sorted, all);
    }

    #[test]
    fn extents_that_go_on_are_joined() {
        let list: ExtentList = (0..9).map(|block| (block / 6, extent(block as u64, 1, 1, 1, block as u64))).collect();
        assert_eq!(list.iter().collect::<Vec<_>>(), [(0, extent(0, 6, 1, 1, 0)), (1, extent(6, 3, 1, 1, 6))]);
        assert_eq!((list.end(), list.is_empty()), (9, false));
        assert_eq!((ExtentList::default().end(), ExtentList::default().iter().count()), (0, 0));
    }

    #[test]
    fn reading_begins_anywhere() {
        let mut next = numbers(5);
        let (mut all, mut block) = (Vec::new(), 0);
        for at in 0..3 * STRIDE as u64 + 7 {
            block += next(300);
            push_extent(&mut all, extent(block, 1 + next(2), 1, at as u32 / 500, 3 * at));
            block += 2;
        }
        let list: ExtentList = all.iter().map(|extent| (0, *extent)).collect();
        for first in (0..block + 9).step_by(97).chain(all.iter().map(|extent| extent.first)) {
            let expected = all.partition_point(|extent| extent.end() <= first);
            assert!(list.from(first).eq(all[expected..].iter().copied()), "from {first}");
        }
    }

    /// What a large cluster's incremental has: single blocks here and there, one after the other in its packs.
    #[test]
    fn a_scattered_block_takes_few_bytes() {
        let mut next = numbers(7);
        let (mut list, mut block) = (ExtentList::default(), 0);
        for at in 0..100_000 {
            block += 2 + next(200);
            list.push(0, extent(block, 1, 1, (at / 16_384) as u32, at % 16_384));
        }
        assert!(list.bytes.len() + 16 * list.marks.len() < 400_000, "{} bytes", list.bytes.len());
    }
}
