//! What is read of files that change while they are copied, and in which order.

use super::{pipeline::unreadable_record, reuse::Replaced};
use crate::{
    core::{blocks::BlockSet, failure::Failure, manifest::Entry},
    ops::state::DigestFile,
    sources::{Suspects, View},
};
use std::sync::Mutex;

/// The blocks that have to be read and compared. The digests of all others are taken over.
pub(super) fn suspects(
    view: &dyn View,
    entries: &[Entry],
    old: &DigestFile,
    new: &DigestFile,
) -> Result<Replaced, Failure> {
    let mut wanted = Replaced::new();
    for (at, entry) in entries.iter().enumerate() {
        let blocks = entry.blocks();
        let known = old.find(&entry.path).filter(|(_, file)| Some(file.block_size) == entry.block_size());
        let set = match (view.suspects(at), known) {
            (Suspects::Blocks(suspects), Some((from, file))) => {
                let common = file.blocks.min(blocks);
                let (to, _) = new.find(&entry.path).expect("the digest file was made for these entries");
                new.take_over(to, old, from, common).map_err(unreadable_record)?;
                let mut set = BlockSet::none(blocks);
                suspects.runs_within(0, common, true).for_each(|(first, count)| set.insert_run(first, count));
                set.insert_run(common, blocks - common);
                set
            }
            _ => BlockSet::all(blocks),
        };
        wanted.insert(entry.path.clone(), set);
    }
    Ok(wanted)
}

/// Takes out the files that are read last.
pub(super) fn take_late(late: &[usize], entries: &[Entry], wanted: &mut Replaced) -> Replaced {
    late.iter()
        .map(|at| {
            let entry = &entries[*at];
            wanted.remove(&entry.path);
            (entry.path.clone(), BlockSet::all(entry.blocks()))
        })
        .collect()
}

/// Sets in the order of the entries, by their paths.
pub(super) fn by_path(entries: &[Entry], sets: Vec<Mutex<BlockSet>>) -> Replaced {
    let sets = sets.into_iter().map(|set| set.into_inner().expect("no panic while held"));
    entries.iter().map(|entry| entry.path.clone()).zip(sets).collect()
}
