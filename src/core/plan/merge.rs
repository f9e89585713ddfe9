//! A new manifest from an old one: what was captured replaces what changed, the rest is named again.

use crate::core::{
    blocks::BlockSet,
    manifest::{Entry, Extent, Item, Key, PartId, PartRef, push_extent},
    path::StoredPath,
};
use std::collections::BTreeMap;

/// What a run has captured of one entry.
#[derive(Clone, Debug, Default)]
pub struct Captured {
    /// Blocks that no longer are what the base says: changed, or captured again.
    pub replaced: BlockSet,
    /// Where captured blocks stand now, in order of their first block. Replaced blocks without an extent are zero.
    pub extents: Vec<Extent>,
}

/// The parts of a new manifest, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewPart {
    /// A part of the base that did not change.
    Again(PartRef, Vec<Item>),
    /// Items to be written as one or more new parts.
    Write(Vec<Item>),
}

/// Merges the base's parts with what was captured.
///
/// `base` hands out the base's parts in order, one at a time; `entries` are the new entries, sorted by path;
/// `must_rewrite` says which parts may not be named again. Every block keeps its extent of the base unless it was
/// replaced or lies beyond the entry's end.
pub fn merge<E>(
    base: impl Iterator<Item = Result<(PartRef, Vec<Item>), E>>,
    entries: &[Entry],
    captured: &BTreeMap<StoredPath, Captured>,
    must_rewrite: impl Fn(PartId) -> bool,
    mut emit: impl FnMut(NewPart) -> Result<(), E>,
) -> Result<(), E> {
    let mut base = base.peekable();
    let mut from: Option<Key> = None;
    loop {
        let part = base.next().transpose()?;
        // The range of this part ends where the next begins; the first range also covers all that comes before it.
        let until: Option<Key> = match base.peek() {
            Some(Ok((next, _))) => Some(next.from.clone()),
            _ => None,
        };
        let old_items = part.as_ref().map_or(&[][..], |(_, items)| items);
        let items = merge_range(old_items, entries, captured, from.as_ref(), until.as_ref());
        match part {
            Some((part, old)) if items == old && !must_rewrite(part.id) => emit(NewPart::Again(part, old))?,
            _ if items.is_empty() => {}
            _ => emit(NewPart::Write(items))?,
        }
        match until {
            Some(key) => from = Some(key),
            None => break,
        }
        if base.peek().is_none() {
            break;
        }
    }
    // An error that ended the peeking is not swallowed.
    base.next().transpose().map(|_| ())
}

fn merge_range(
    old: &[Item],
    entries: &[Entry],
    captured: &BTreeMap<StoredPath, Captured>,
    from: Option<&Key>,
    until: Option<&Key>,
) -> Vec<Item> {
    let mut items = Vec::new();
    let mut old_extents: BTreeMap<&StoredPath, Vec<Extent>> = BTreeMap::new();
    for item in old {
        if let Item::Extent(path, extent) = item {
            old_extents.entry(path).or_default().push(*extent);
        }
    }
    for entry in entries {
        let start = match from {
            Some(key) if entry.path < key.path => continue,
            Some(key) if entry.path == key.path => key.block,
            _ => 0,
        };
        let end = match until {
            Some(key) if entry.path > key.path => break,
            Some(key) if entry.path == key.path => key.block.min(entry.blocks()),
            _ => entry.blocks(),
        };
        // An entry belongs to the range that covers its block 0.
        let ends_before_entry = until.is_some_and(|key| entry.path == key.path && key.block == 0);
        if start == 0 && !ends_before_entry {
            items.push(Item::Entry(entry.clone()));
        }
        let nothing = Captured::default();
        let new = captured.get(&entry.path).unwrap_or(&nothing);
        let kept = old_extents.get(&entry.path).map_or(&[][..], |extents| extents);
        for extent in merge_extents(kept, new, start, end) {
            items.push(Item::Extent(entry.path.clone(), extent));
        }
    }
    items
}

/// The extents of blocks `start..end` of one file.
fn merge_extents(kept: &[Extent], new: &Captured, start: u64, end: u64) -> Vec<Extent> {
    let mut merged: Vec<Extent> = Vec::new();
    let mut pieces: Vec<Extent> = Vec::new();
    for extent in kept {
        let (first, last) = (extent.first.max(start), extent.end().min(end));
        if first >= last {
            continue;
        }
        // Blocks beyond the replaced set's length were not looked at, which is the same as not replaced.
        let known = new.replaced.length().clamp(first, last);
        for (run, count) in new.replaced.runs_within(first, known, false) {
            pieces.push(extent.slice(run, count));
        }
        if known < last {
            pieces.push(extent.slice(known, last - known));
        }
    }
    let from = new.extents.partition_point(|extent| extent.end() <= start);
    for extent in new.extents[from..].iter().take_while(|extent| extent.first < end) {
        let (first, last) = (extent.first.max(start), extent.end().min(end));
        pieces.push(extent.slice(first, last - first));
    }
    pieces.sort_by_key(|extent| extent.first);
    for piece in pieces {
        push_extent(&mut merged, piece);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::RunId,
        manifest::{EntryKind, PackId},
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

    fn at(name: &str, extent: Extent) -> Item {
        Item::Extent(path(name), extent)
    }

    /// Path, replaced runs, new extents, blocks of the file.
    type Edit<'a> = (&'a str, &'a [(u64, u64)], Vec<Extent>, u64);

    fn run(base: Vec<(PartRef, Vec<Item>)>, entries: &[Entry], captured: &[Edit<'_>]) -> Vec<NewPart> {
        let captured = captured
            .iter()
            .map(|(name, replaced, extents, length)| {
                let mut set = BlockSet::none(*length);
                replaced.iter().for_each(|(first, count)| set.insert_run(*first, *count));
                (path(name), Captured { replaced: set, extents: extents.clone() })
            })
            .collect();
        let mut parts = Vec::new();
        merge(
            base.into_iter().map(Ok::<_, Infallible>),
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
    fn random_edits_give_what_was_captured() {
        let mut state = 7_u64;
        let mut next = move |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        // The model: for every block, which run wrote it (0: zero block).
        let mut model: Vec<u8> = Vec::new();
        let mut parts: Vec<(PartRef, Vec<Item>)> = Vec::new();
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
            let captured = [(path("f"), Captured { replaced, extents })].into();
            let entries = [entry("f", length as u64)];
            let mut new_parts = Vec::new();
            merge(
                parts.drain(..).map(Ok::<_, Infallible>),
                &entries,
                &captured,
                |_| false,
                |new| {
                    match new {
                        NewPart::Again(part, items) => new_parts.push((part, items)),
                        NewPart::Write(items) => {
                            // Cut anywhere, as a writer does by size.
                            for chunk in items.chunks(1 + next(40) as usize) {
                                new_parts.push(part(0, chunk.to_vec()));
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
