//! What is done with blocks on their way from the view to the packs: compare, compress, seal.

use super::{
    digest_parts::{DigestParts, Part},
    segments::{Input, Segment, run_workers},
    shipment::{Outbox, Parcel},
};
use crate::{
    core::{
        blocks::BlockSet,
        extents::ExtentList,
        failure::{Code, Failure},
        id::RunId,
        manifest::{Entry, Extent, PackId, push_extent},
        path::StoredPath,
    },
    format::{
        objects::{ObjectKind, RunObject},
        pack::{BlockDigest, Compressor, PackBuilder, PackIndex, block_digest, new_compressor},
        seal::{Recipients, SealedObject, seal_small},
    },
    ops::state::DigestFile,
    repository::layout,
    sources::{CHANGED_WHILE_READ, Continued, Reader, View},
};
use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
};

/// Compares every block with the digests of the base; writes the new digests. Returns the blocks that differ.
///
/// Blocks that the view knows are not read: their digests are taken over, and they count as unchanged from where they
/// were captured. Other blocks of such a file are not compared, and count as changed.
pub(super) fn find_changes(
    view: &mut dyn View,
    entries: &[Entry],
    key: &[u8; 32],
    old: Option<&DigestFile>,
    new: &DigestFile,
    continued: &[Option<Continued>],
) -> Result<BTreeMap<StoredPath, BlockSet>, Failure> {
    let mut all = BTreeMap::new();
    for (entry, known) in entries.iter().zip(continued) {
        let known_blocks = known.as_ref().map_or(0, |known| known.blocks);
        if let (Some(known), Some(old)) = (known, old) {
            let (from, _) = old.find(&known.path).ok_or_else(|| Failure::internal("a file that was never captured"))?;
            new.take_over(digest_offset(new, entry), old, from, known.blocks).map_err(unreadable_record)?;
        }
        let mut set = BlockSet::none(entry.blocks());
        set.insert_run(known_blocks, entry.blocks() - known_blocks);
        all.insert(entry.path.clone(), set);
    }
    let changed: Vec<Mutex<BlockSet>> =
        entries.iter().map(|entry| Mutex::new(BlockSet::none(entry.blocks()))).collect();
    run_workers(Input::View(view), entries, &all, |segments, give_back| {
        for segment in segments {
            let entry = &entries[segment.entry];
            let compared = Compared { entry, old: old.filter(|_| continued[segment.entry].is_none()), new };
            let runs = compared.segment(key, &segment)?;
            let mut changed = changed[segment.entry].lock().expect("no panic while held");
            runs.into_iter().for_each(|block| changed.insert(block));
            drop(changed);
            give_back(segment);
        }
        Ok(())
    })?;
    let sets = changed.into_iter().map(|set| set.into_inner().expect("no panic while held"));
    Ok(entries.iter().map(|entry| entry.path.clone()).zip(sets).collect())
}

impl Comparing<'_> {
    /// Notes blocks of an entry that differ from the base.
    fn note(&self, entry: usize, blocks: &[u64]) {
        let mut changed = self.changed[entry].lock().expect("no panic while held");
        blocks.iter().for_each(|block| changed.insert(*block));
    }
}

/// The blocks of runs of a file whose digests are not those of the base.
fn differing(
    old: Option<&DigestFile>,
    entry: &Entry,
    runs: &[(u64, u64)],
    digests: &[BlockDigest],
) -> Result<Vec<u64>, Failure> {
    // A file whose block size changed is another file.
    let old = old
        .and_then(|old| Some((old, old.find(&entry.path)?)))
        .filter(|(_, (_, file))| Some(file.block_size) == entry.block_size());
    let mut changed = Vec::new();
    let mut rest = digests;
    for (first, count) in runs {
        let (digests, after) = rest.split_at(*count as usize);
        rest = after;
        let known = old.map_or(0, |(_, (_, file))| file.blocks.saturating_sub(*first).min(*count));
        let before = match old {
            Some((file, (offset, _))) if known > 0 => {
                file.read(offset, *first, known as usize).map_err(unreadable_record)?
            }
            _ => Vec::new(),
        };
        let differs = digests.iter().enumerate().filter(|(at, digest)| before.get(*at) != Some(digest));
        changed.extend(differs.map(|(at, _)| first + at as u64));
    }
    Ok(changed)
}

struct Compared<'a> {
    entry: &'a Entry,
    old: Option<&'a DigestFile>,
    new: &'a DigestFile,
}

impl Compared<'_> {
    /// The blocks of a segment that differ from the base.
    fn segment(&self, key: &[u8; 32], segment: &Segment) -> Result<Vec<u64>, Failure> {
        let offset = digest_offset(self.new, self.entry);
        let digests: Vec<BlockDigest> = segment.blocks().map(|(_, block)| digest_or_zero(key, block)).collect();
        let mut rest = &digests[..];
        for (first, count) in &segment.runs {
            let (of_run, after) = rest.split_at(*count as usize);
            self.new.write(offset, *first, of_run);
            rest = after;
        }
        differing(self.old, self.entry, &segment.runs, &digests)
    }
}

pub(super) fn unreadable_record(error: std::io::Error) -> Failure {
    Failure::new(Code::Failed, "the local record of the last snapshot cannot be read")
        .cause(error)
        .safe("snapshots on the stores are unaffected")
        .next_step("take a full snapshot: recoup backup --full")
}

fn digest_offset(file: &DigestFile, entry: &Entry) -> u64 {
    file.find(&entry.path).expect("the digest file was made for these entries").0
}

/// The digest of a block in local state; all-zero blocks have no extent and digest zero.
pub(super) fn digest_or_zero(key: &[u8; 32], block: &[u8]) -> BlockDigest {
    if is_zero(block) { [0; 16] } else { block_digest(key, block) }
}

fn is_zero(block: &[u8]) -> bool {
    // Two steps: nearly every block differs in its first bytes.
    let (start, rest) = block.split_at(block.len().min(64));
    start.iter().all(|byte| *byte == 0) && rest.iter().fold(0, |any, byte| any | byte) == 0
}

/// What packing needs besides the blocks.
pub(super) struct PackJob<'a> {
    pub(super) run: RunId,
    pub(super) recipients: &'a Recipients,
    pub(super) compression_level: i32,
    pub(super) digest_key: &'a [u8; 32],
    pub(super) digests: &'a DigestFile,
    pub(super) write_digests: bool,
    pub(super) outbox: &'a Outbox,
    next_pack: AtomicU32,
    digest_parts: Mutex<DigestParts>,
}

/// Blocks are compared with the base on their way: only those that differ are packed.
pub(super) struct Comparing<'a> {
    /// The digests of the base.
    pub(super) old: Option<&'a DigestFile>,
    /// For each entry, the blocks that differed.
    pub(super) changed: Vec<Mutex<BlockSet>>,
}

impl<'a> PackJob<'a> {
    /// A job that has packed nothing yet.
    pub(super) fn new(
        run: RunId,
        recipients: &'a Recipients,
        compression_level: i32,
        digest_key: &'a [u8; 32],
        digests: &'a DigestFile,
        write_digests: bool,
        outbox: &'a Outbox,
    ) -> Self {
        let digest_parts = Mutex::new(DigestParts::new(run, *digest_key));
        let next_pack = AtomicU32::new(0);
        PackJob {
            run,
            recipients,
            compression_level,
            digest_key,
            digests,
            write_digests,
            outbox,
            next_pack,
            digest_parts,
        }
    }

    /// Seals something and hands it over; says what it is.
    fn ship(&self, kind: ObjectKind, object: SealedObject) -> Result<RunObject, Failure> {
        let listed = RunObject { name: kind.name(), size: object.size(), sha256: object.sha256 };
        self.outbox.send(Parcel { name: layout::run_object(self.run, &listed.name), object })?;
        Ok(listed)
    }

    fn ship_digests(&self, (number, raw): Part) -> Result<RunObject, Failure> {
        self.ship(ObjectKind::Digests(number), seal_small(self.recipients, &raw))
    }
}

/// What packing produced.
#[derive(Default)]
pub(super) struct Packed {
    pub(super) indexes: BTreeMap<u32, PackIndex>,
    /// Packs and their digests.
    pub(super) objects: Vec<RunObject>,
    /// By path, lists that are each in order of the first block.
    pub(super) extents: BTreeMap<StoredPath, Vec<ExtentList>>,
}

/// Reads the wanted blocks, packs them and hands the packs to the outbox. May be called more than once for a job;
/// [`end_job`] ends it.
pub(super) fn pack(
    input: Input<'_>,
    entries: &[Entry],
    wanted: &BTreeMap<StoredPath, BlockSet>,
    job: &PackJob<'_>,
    comparing: Option<&Comparing<'_>>,
    packed: &mut Packed,
) -> Result<(), Failure> {
    let examiner = input.examiner();
    let all = run_workers(input, entries, wanted, |segments, give_back| {
        let mut worker = Packer {
            job,
            entries,
            comparing,
            examiner: examiner.as_deref(),
            builder: None,
            compressor: new_compressor(job.compression_level),
            packed: Packed::default(),
        };
        for mut segment in segments {
            worker.segment(&mut segment)?;
            give_back(segment);
        }
        worker.close_pack()?;
        Ok(worker.packed)
    })?;
    for mut of_worker in all {
        packed.indexes.append(&mut of_worker.indexes);
        packed.objects.append(&mut of_worker.objects);
        for (path, lists) in of_worker.extents {
            packed.extents.entry(path).or_default().extend(lists);
        }
    }
    Ok(())
}

/// Hands out what is left of the digests.
pub(super) fn end_job(job: PackJob<'_>, packed: &mut Packed) -> Result<(), Failure> {
    let last = job.digest_parts.lock().expect("no panic while held").end_part();
    if let Some(part) = last {
        packed.objects.push(job.ship_digests(part)?);
    }
    Ok(())
}

struct Packer<'a> {
    job: &'a PackJob<'a>,
    entries: &'a [Entry],
    comparing: Option<&'a Comparing<'a>>,
    examiner: Option<&'a dyn Reader>,
    builder: Option<(u32, PackBuilder)>,
    compressor: Compressor,
    packed: Packed,
}

impl Packer<'_> {
    fn segment(&mut self, segment: &mut Segment) -> Result<(), Failure> {
        let (at, entry, key) = (segment.entry, &self.entries[segment.entry], self.job.digest_key);
        let digest = |block: &[u8]| digest_or_zero(key, block);
        let (mut digests, differing) = match self.comparing {
            Some(comparing) => {
                let digests: Vec<BlockDigest> = segment.blocks().map(|(_, block)| digest(block)).collect();
                let differing = differing(comparing.old, entry, &segment.runs, &digests)?;
                (digests, Some(differing))
            }
            None => (vec![[0; 16]; segment.count()], None),
        };
        let mut differing = differing.map(|numbers| numbers.into_iter().peekable());
        let (mut extents, mut kept) = (Vec::new(), Vec::new());
        for ((number, block), known) in segment.blocks_mut().zip(&mut digests) {
            let differs = differing.as_mut().is_none_or(|differing| differing.next_if_eq(&number).is_some());
            let is_replaced = match self.examiner {
                Some(examiner) if differs || examiner.is_doubtful(at, number) => examiner.examine(at, number, block)?,
                _ => false,
            };
            if !differs && !is_replaced {
                continue;
            }
            if is_replaced || self.comparing.is_none() {
                *known = digest(block);
            }
            kept.push(number);
            // A digest of zero bytes could also be chance, at 2^-128; the block itself decides.
            if *known != [0; 16] || !is_zero(block) {
                self.append(number, block, *known, &mut extents)?;
            }
        }
        if let Some(comparing) = self.comparing {
            comparing.note(at, &kept);
        }
        let lists = self.packed.extents.entry(entry.path.clone()).or_default();
        extents.into_iter().for_each(|extent| push_in_order(lists, extent));
        self.record_digests(entry, segment, &digests)
    }

    fn append(
        &mut self,
        number: u64,
        block: &[u8],
        digest: BlockDigest,
        extents: &mut Vec<Extent>,
    ) -> Result<(), Failure> {
        let block_size = block.len() as u32;
        if self.builder.as_ref().is_some_and(|(_, pack)| pack.is_full() || pack.block_size() != block_size) {
            self.close_pack()?;
        }
        if self.builder.is_none() {
            let pack = self.job.next_pack.fetch_add(1, Ordering::Relaxed);
            let builder = PackBuilder::new(pack, block_size, self.job.recipients).map_err(sealing_failed)?;
            self.builder = Some((pack, builder));
        }
        let (pack, builder) = self.builder.as_mut().expect("made above");
        let id = PackId { run: self.job.run, pack: *pack };
        push_extent(extents, Extent { first: number, count: 1, pack: id, raw_block: builder.next_block() });
        builder.append(&mut self.compressor, block, digest).map_err(sealing_failed)
    }

    /// In a full, records the digests; otherwise makes sure that the view gave the same bytes twice.
    fn record_digests(&self, entry: &Entry, segment: &Segment, digests: &[BlockDigest]) -> Result<(), Failure> {
        let offset = digest_offset(self.job.digests, entry);
        let mut rest = digests;
        for (first, count) in &segment.runs {
            let (of_run, after) = rest.split_at(*count as usize);
            rest = after;
            if self.job.write_digests {
                self.job.digests.write(offset, *first, of_run);
            } else if !self.job.digests.agrees(offset, *first, of_run) {
                return Err(changed_while_read(entry));
            }
        }
        Ok(())
    }

    fn close_pack(&mut self) -> Result<(), Failure> {
        let Some((number, builder)) = self.builder.take() else {
            return Ok(());
        };
        let sealed = builder.finish(&mut self.compressor).map_err(sealing_failed)?;
        self.packed.indexes.insert(number, sealed.index);
        self.packed.objects.push(self.job.ship(ObjectKind::Pack(number), sealed.object)?);
        let parts = self.job.digest_parts.lock().expect("no panic while held").add(number, sealed.digests);
        for part in parts {
            self.packed.objects.push(self.job.ship_digests(part)?);
        }
        Ok(())
    }
}

/// Appends to the last list, or to a new one where that would not be in order.
fn push_in_order(lists: &mut Vec<ExtentList>, extent: Extent) {
    if lists.last().is_none_or(|last| last.end() > extent.first) {
        lists.push(ExtentList::default());
    }
    lists.last_mut().expect("made above").push(0, extent);
}

fn changed_while_read(entry: &Entry) -> Failure {
    Failure::new(Code::Source, format!("{} {CHANGED_WHILE_READ}", entry.path))
        .cause("it gave other bytes when it was read again")
        .safe("nothing of this snapshot is committed; earlier snapshots are unaffected")
        .next_step("run the same command again")
}

fn sealing_failed(error: std::io::Error) -> Failure {
    Failure::internal(format!("sealing failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_is_in_order_whatever_comes() {
        let extent = |first| {
            let pack = PackId { run: RunId::from_random([1; 16]), pack: 0 };
            Extent { first, count: 2, pack, raw_block: 9 * first }
        };
        let mut lists = Vec::new();
        [4, 6, 20, 5, 7, 0].into_iter().for_each(|first| push_in_order(&mut lists, extent(first)));
        let firsts = |list: &ExtentList| list.iter().map(|(_, extent)| extent.first).collect::<Vec<_>>();
        assert_eq!(lists.iter().map(firsts).collect::<Vec<_>>(), [vec![4, 6, 20], vec![5, 7], vec![0]]);
    }
}
