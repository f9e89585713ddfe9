//! A new manifest from an old one: what was captured replaces what changed, the rest is named again.

use crate::core::{
    blocks::BlockSet,
    extents::ExtentList,
    manifest::{Entry, Extent, Item, Key, PartId, PartRef},
    path::StoredPath,
};
use std::collections::BTreeMap;

/// What a run has captured of one entry.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// Blocks that no longer are what the base says: changed, or captured again.
    pub replaced: BlockSet,
    /// Where captured blocks stand now: lists that are each in order of the first block, and share none. Replaced blocks
    /// without an extent are zero.
    pub extents: Vec<ExtentList>,
}

/// The parts of a new manifest, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewPart {
    /// A part of the base that did not change.
    Again(PartRef, Vec<Item>),
    /// Items to be written as one or more new parts; those of one range may come in several pieces.
    Write(Vec<Item>),
}

/// How many items are handed out for writing at a time.
const WRITE_ITEMS: usize = 50_000;
/// How many blocks are merged at a time.
const WINDOW_BLOCKS: u64 = 1 << 16;

/// Merges the base's parts with what was captured.
///
/// `base` names the base's parts in order, `open` reads one; `entries` are the new entries, sorted by path;
/// `must_rewrite` says which parts may not be named again. Every block keeps its extent of the base unless it was
/// replaced or lies beyond the entry's end. One part of the base is in memory at a time, and not much more.
pub fn merge<E>(
    base: &[PartRef],
    mut open: impl FnMut(&PartRef) -> Result<Vec<Item>, E>,
    entries: &[Entry],
    captured: &BTreeMap<StoredPath, Captured>,
    must_rewrite: impl Fn(PartId) -> bool,
    mut emit: impl FnMut(NewPart) -> Result<(), E>,
) -> Result<(), E> {
    // Without a base there is one range, of everything; otherwise the first one also covers all that comes before it.
    for at in 0..base.len().max(1) {
        let part = base.get(at);
        let old = part.map(&mut open).transpose()?.unwrap_or_default();
        let from = part.filter(|_| at > 0).map(|part| &part.from);
        let until = base.get(at + 1).map(|next| &next.from);
        let range = MergedRange { old: &old, entries, captured, from, until };
        match part {
            Some(part) if !must_rewrite(part.id) && range.is_unchanged() => emit(NewPart::Again(part.clone(), old))?,
            _ => range.write(&mut emit)?,
        }
    }
    Ok(())
}

/// What comes to stand in the range of one part of the base.
struct MergedRange<'a> {
    old: &'a [Item],
    entries: &'a [Entry],
    captured: &'a BTreeMap<StoredPath, Captured>,
    from: Option<&'a Key>,
    until: Option<&'a Key>,
}

impl MergedRange<'_> {
    fn is_unchanged(&self) -> bool {
        let mut old = self.old.iter();
        let same = self.items(|item| if old.next() == Some(&item) { Ok(()) } else { Err(()) });
        same.is_ok() && old.next().is_none()
    }

    fn write<E>(&self, emit: &mut impl FnMut(NewPart) -> Result<(), E>) -> Result<(), E> {
        let mut items = Vec::new();
        self.items(|item| {
            items.push(item);
            if items.len() == WRITE_ITEMS { emit(NewPart::Write(std::mem::take(&mut items))) } else { Ok(()) }
        })?;
        if items.is_empty() { Ok(()) } else { emit(NewPart::Write(items)) }
    }

    /// Hands out the items in order.
    fn items<E>(&self, mut emit: impl FnMut(Item) -> Result<(), E>) -> Result<(), E> {
        let nothing = Captured::default();
        let mut old = self.old;
        for entry in self.entries {
            let start = match self.from {
                Some(key) if entry.path < key.path => continue,
                Some(key) if entry.path == key.path => key.block,
                _ => 0,
            };
            let end = match self.until {
                Some(key) if entry.path > key.path => break,
                Some(key) if entry.path == key.path => key.block.min(entry.blocks()),
                _ => entry.blocks(),
            };
            // An entry belongs to the range that covers its block 0.
            let ends_before_entry = self.until.is_some_and(|key| entry.path == key.path && key.block == 0);
            if start == 0 && !ends_before_entry {
                emit(Item::Entry(entry.clone()))?;
            }
            let kept;
            (kept, old) = extents_of(old, &entry.path);
            let new = self.captured.get(&entry.path).unwrap_or(&nothing);
            merge_extents(kept, new, start, end, |extent| emit(Item::Extent(entry.path.clone(), extent)))?;
        }
        Ok(())
    }
}

/// The extents of a file among items in order, and the items after them.
fn extents_of<'a>(items: &'a [Item], path: &StoredPath) -> (&'a [Item], &'a [Item]) {
    fn path_of(item: &Item) -> &StoredPath {
        match item {
            Item::Entry(entry) => &entry.path,
            Item::Extent(path, _) => path,
        }
    }
    let (_, items) = items.split_at(items.partition_point(|item| path_of(item) < path));
    let (own, after) = items.split_at(items.partition_point(|item| path_of(item) == path));
    match own {
        [Item::Entry(_), extents @ ..] => (extents, after),
        extents => (extents, after),
    }
}

/// Hands out the extents of blocks `start..end` of one file.
fn merge_extents<E>(
    kept: &[Item],
    new: &Captured,
    start: u64,
    end: u64,
    mut emit: impl FnMut(Extent) -> Result<(), E>,
) -> Result<(), E> {
    let mut last: Option<Extent> = None;
    let mut from = start;
    while from < end {
        let to = end.min(from.saturating_add(WINDOW_BLOCKS));
        for extent in merge_window(kept, new, from, to) {
            match &mut last {
                Some(last) if last.continues_with(&extent) => last.count += extent.count,
                last => {
                    if let Some(complete) = last.replace(extent) {
                        emit(complete)?;
                    }
                }
            }
        }
        from = to;
    }
    last.map_or(Ok(()), emit)
}

/// The pieces of extents in blocks `start..end`, in order.
fn merge_window(kept: &[Item], new: &Captured, start: u64, end: u64) -> Vec<Extent> {
    let mut pieces: Vec<Extent> = Vec::new();
    let within = |extent: &Extent| Some((extent.first.max(start), extent.end().min(end))).filter(|(a, b)| a < b);
    let from = kept.partition_point(|item| matches!(item, Item::Extent(_, extent) if extent.end() <= start));
    let kept = kept[from..].iter().map_while(|item| match item {
        Item::Extent(_, extent) => Some((extent, within(extent)?)),
        Item::Entry(_) => None,
    });
    for (extent, (first, last)) in kept {
        // Blocks beyond the replaced set's length were not looked at, which is the same as not replaced.
        let known = new.replaced.length().clamp(first, last);
        for (run, count) in new.replaced.runs_within(first, known, false) {
            pieces.push(extent.slice(run, count));
        }
        if known < last {
            pieces.push(extent.slice(known, last - known));
        }
    }
    for list in &new.extents {
        let new = list.from(start).map_while(|extent| Some((extent, within(&extent)?)));
        pieces.extend(new.map(|(extent, (first, last))| extent.slice(first, last - first)));
    }
    pieces.sort_by_key(|extent| extent.first);
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::RunId,
        manifest::{EntryKind, PackId, push_extent},
    };
    use std::convert::Infallible;

    const SIZE: u32 = 4096;

    fn path(text: &str) -> StoredPath {
        StoredPath::parse(text).unwrap()
    }

    fn entry(name: &str, blocks: u64) -> Entry {
        let kind = EntryKind::File { size: blocks * u64::from(SIZE), block_size: SIZE };
        Entry { path: path(name), kind, mode: 0o600, uid: 0, gid: 0 }
    }

    fn extent(first: u64, count: u64, run: u8, raw_block: u64) -> Extent {
        Extent { first, count, pack: PackId { run: RunId::from_random([run; 16]), pack: 0 }, raw_block }
    }

    fn part(number: u32, items: Vec<Item>) -> (PartRef, Vec<Item>) {
        let from = match &items[0] {
            Item::Entry(entry) => Key { path: entry.path.clone(), block: 0 },
            Item::Extent(path, extent) => Key { path: path.clone(), block: extent.first },
        };
        (PartRef { from, id: PartId { run: RunId::from_random([0; 16]), part: number } }, items)
    }

    /// The parts' names in order, and what each holds.
    fn shelf(parts: Vec<(PartRef, Vec<Item>)>) -> (Vec<PartRef>, BTreeMap<PartId, Vec<Item>>) {
        let refs = parts.iter().map(|(part, _)| part.clone()).collect();
        (refs, parts.into_iter().map(|(part, items)| (part.id, items)).collect())
    }

    fn at(name: &str, extent: Extent) -> Item {
        Item::Extent(path(name), extent)
    }

    /// As two builders have them: each every other one.
    fn lists(extents: &[Extent]) -> Vec<ExtentList> {
        let of = |odd: usize| extents.iter().skip(odd).step_by(2).map(|extent| (0, *extent)).collect();
        [of(0), of(1)].into()
    }

    /// Path, replaced runs, new extents, blocks of the file.
    type Edit<'a> = (&'a str, &'a [(u64, u64)], Vec<Extent>, u64);

    fn run(base: Vec<(PartRef, Vec<Item>)>, entries: &[Entry], captured: &[Edit<'_>]) -> Vec<NewPart> {
        let captured = captured
            .iter()
            .map(|(name, replaced, extents, length)| {
                let mut set = BlockSet::none(*length);
                replaced.iter().for_each(|(first, count)| set.insert_run(*first, *count));
                (path(name), Captured { replaced: set, extents: lists(extents) })
            })
            .collect();
        let mut parts = Vec::new();
        let (refs, opened) = shelf(base);
        merge(
            &refs,
            |part| Ok::<_, Infallible>(opened[&part.id].clone()),
            entries,
            &captured,
            |_| false,
            |part| {
                parts.push(part);
                Ok(())
            },
        )
        .unwrap();
        parts
    }

    #[test]
    fn a_full_is_written_whole() {
        let parts = run(vec![], &[entry("a", 4)], &[("a", &[(0, 4)], vec![extent(0, 2, 1, 0), extent(3, 1, 1, 2)], 4)]);
        let items = vec![Item::Entry(entry("a", 4)), at("a", extent(0, 2, 1, 0)), at("a", extent(3, 1, 1, 2))];
        assert_eq!(parts, [NewPart::Write(items)]);
    }

    #[test]
    fn unchanged_parts_are_named_again() {
        let one = part(0, vec![Item::Entry(entry("a", 200)), at("a", extent(0, 100, 1, 0))]);
        let two = part(1, vec![at("a", extent(100, 100, 1, 100)), Item::Entry(entry("b", 0))]);
        let parts = run(
            vec![one.clone(), two.clone()],
            &[entry("a", 200), entry("b", 0)],
            &[("a", &[(150, 2), (160, 1)], vec![extent(150, 2, 2, 0)], 200)],
        );
        let changed = vec![
            at("a", extent(100, 50, 1, 100)),
            at("a", extent(150, 2, 2, 0)),
            at("a", extent(152, 8, 1, 152)),
            at("a", extent(161, 39, 1, 161)),
            Item::Entry(entry("b", 0)),
        ];
        assert_eq!(parts, [NewPart::Again(one.0, one.1), NewPart::Write(changed)]);
    }

    #[test]
    fn a_renamed_file_brings_its_extents_along() {
        let one = part(0, vec![Item::Entry(entry("a", 10)), at("a", extent(0, 10, 1, 0)), Item::Entry(entry("b", 2))]);
        // `a` is called `a.1` and has grown; there is a new `a`, of which nothing is left that the base has under its name.
        let moved = vec![extent(0, 10, 1, 0), extent(10, 1, 2, 0)];
        let parts = run(
            vec![one],
            &[entry("a", 1), entry("a.1", 11), entry("b", 2)],
            &[("a", &[(0, 1)], vec![extent(0, 1, 2, 1)], 1), ("a.1", &[(0, 11)], moved.clone(), 11)],
        );
        let items = vec![
            Item::Entry(entry("a", 1)),
            at("a", extent(0, 1, 2, 1)),
            Item::Entry(entry("a.1", 11)),
            at("a.1", moved[0]),
            at("a.1", moved[1]),
            Item::Entry(entry("b", 2)),
        ];
        assert_eq!(parts, [NewPart::Write(items)]);
    }

    #[test]
    fn growing_shrinking_and_vanishing() {
        let one = part(0, vec![Item::Entry(entry("a", 10)), at("a", extent(0, 10, 1, 0)), Item::Entry(entry("z", 0))]);
        let grown = run(vec![one.clone()], &[entry("a", 12)], &[("a", &[(10, 2)], vec![extent(10, 2, 2, 0)], 12)]);
        let items = vec![Item::Entry(entry("a", 12)), at("a", extent(0, 10, 1, 0)), at("a", extent(10, 2, 2, 0))];
        assert_eq!(grown, [NewPart::Write(items)]);
        let shrunk = run(vec![one.clone()], &[entry("a", 3)], &[]);
        assert_eq!(shrunk, [NewPart::Write(vec![Item::Entry(entry("a", 3)), at("a", extent(0, 3, 1, 0))])]);
        assert_eq!(run(vec![one.clone()], &[], &[]), []);
        // Something new that sorts before everything in the base goes into the first range.
        let before = run(vec![one], &[entry("A", 1), entry("a", 10), entry("z", 0)], &[("A", &[(0, 1)], vec![], 1)]);
        assert!(
            matches!(&before[..], [NewPart::Write(items)] if items[0] == Item::Entry(entry("A", 1)) && items.len() == 4)
        );
    }

    #[test]
    fn large_files_are_merged_piece_by_piece() {
        let blocks = 3 * WINDOW_BLOCKS + 7;
        let long = extent(1, blocks - 1, 1, 0);
        let base = vec![part(0, vec![Item::Entry(entry("a", blocks)), at("a", long)])];
        let unchanged = run(base.clone(), &[entry("a", blocks)], &[("a", &[], vec![], blocks)]);
        assert!(matches!(&unchanged[..], [NewPart::Again(_, items)] if items[1] == at("a", long)));
        // Every other block is another one now.
        let replaced: Vec<(u64, u64)> = (1..blocks).step_by(2).map(|block| (block, 1)).collect();
        let new: Vec<Extent> = replaced.iter().map(|(block, _)| extent(*block, 1, 2, *block)).collect();
        let pieces = run(base, &[entry("a", blocks)], &[("a", &replaced, new, blocks)]);
        let lengths: Vec<usize> = pieces
            .iter()
            .map(|piece| if let NewPart::Write(items) = piece { items.len() } else { panic!("named again") })
            .collect();
        assert!(lengths.iter().all(|length| (1..=WRITE_ITEMS).contains(length)), "{lengths:?}");
        assert_eq!(lengths.iter().sum::<usize>() as u64, 1 + (blocks - 1));
    }

    #[test]
    fn random_edits_give_what_was_captured() {
        let mut state = 7_u64;
        let mut next = move |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        // The model: for every block, which run wrote it (0: zero block).
        let mut model: Vec<u8> = Vec::new();
        let mut parts: Vec<(PartRef, Vec<Item>)> = Vec::new();
        let mut number = 0;
        for generation in 1..60_u8 {
            let length = 1 + next(400) as usize;
            let mut replaced = BlockSet::none(length as u64);
            let mut extents = Vec::new();
            let old_length = model.len();
            model.resize(length, 255);
            for (block, writer) in model.iter_mut().enumerate() {
                if block >= old_length || next(10) == 0 {
                    replaced.insert(block as u64);
                    *writer = if next(4) == 0 { 0 } else { generation };
                    if *writer != 0 {
                        push_extent(&mut extents, extent(block as u64, 1, generation % 32, next(1 << 20)));
                    }
                }
            }
            let captured = [(path("f"), Captured { replaced, extents: lists(&extents) })].into();
            let entries = [entry("f", length as u64)];
            let mut new_parts = Vec::new();
            let (refs, opened) = shelf(std::mem::take(&mut parts));
            merge(
                &refs,
                |part| Ok::<_, Infallible>(opened[&part.id].clone()),
                &entries,
                &captured,
                |_| false,
                |new| {
                    match new {
                        NewPart::Again(part, items) => new_parts.push((part, items)),
                        NewPart::Write(items) => {
                            // Cut anywhere, as a writer does by size.
                            for chunk in items.chunks(1 + next(40) as usize) {
                                number += 1;
                                new_parts.push(part(number, chunk.to_vec()));
                            }
                        }
                    }
                    Ok(())
                },
            )
            .unwrap();
            parts = new_parts;
            let mut seen = vec![0; length];
            for item in parts.iter().flat_map(|(_, items)| items) {
                if let Item::Extent(_, extent) = item {
                    for block in extent.first..extent.end() {
                        assert_eq!(seen[block as usize], 0);
                        seen[block as usize] = u8::from(extent.pack.run != RunId::from_random([0; 16])) + 1;
                    }
                }
            }
            for (block, writer) in model.iter().enumerate() {
                assert_eq!(seen[block] > 0, *writer != 0, "generation {generation}, block {block}");
            }
        }
    }
}
