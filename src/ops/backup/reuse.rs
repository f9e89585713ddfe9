//! What of the base a snapshot uses again, and where: blocks stay with their file also when it has another name.

use super::base::BaseManifest;
use crate::{
    core::{
        blocks::BlockSet,
        failure::{Code, Failure},
        manifest::{Entry, Extent, Item, PackId},
        path::StoredPath,
        plan::{
            backup::{PackLife, packs_to_capture_again},
            merge::Captured,
        },
    },
    sources::Continued,
};
use std::collections::BTreeMap;

/// By path, the blocks that no longer are what the base says.
pub(super) type Replaced = BTreeMap<StoredPath, BlockSet>;

/// For each file of the base, the files that hold blocks of it now.
pub(super) struct Users<'a>(BTreeMap<&'a StoredPath, Vec<&'a Entry>>);

impl<'a> Users<'a> {
    /// `continued` says of which file the blocks of each entry were captured; of the same name where it does not.
    pub(super) fn new(entries: &'a [Entry], continued: &'a [Option<Continued>]) -> Self {
        let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (entry, continued) in entries.iter().zip(continued).filter(|(entry, _)| entry.block_size().is_some()) {
            users.entry(continued.as_ref().map_or(&entry.path, |continued| &continued.path)).or_default().push(entry);
        }
        Users(users)
    }

    fn of(&self, path: &StoredPath) -> impl Iterator<Item = &'a Entry> + '_ {
        self.0.get(path).into_iter().flatten().copied()
    }

    fn has_moved(&self) -> bool {
        self.0.iter().any(|(path, users)| users.iter().any(|user| user.path != **path))
    }
}

/// Adds the blocks that are captured again although they did not change.
pub(super) fn capture_again(base: &BaseManifest, users: &Users<'_>, replaced: &mut Replaced) -> Result<(), Failure> {
    let lives = live_bytes(base, users, replaced)?;
    let entries = users.0.values().flatten();
    let changed_bytes =
        entries.filter_map(|entry| Some(replaced.get(&entry.path)?.count() * u64::from(entry.block_size()?))).sum();
    let again = packs_to_capture_again(&lives, &base.lost, changed_bytes);
    if again.is_empty() {
        return Ok(());
    }
    for part in base.parts() {
        for item in base.open(part)? {
            let Item::Extent(path, extent) = item else { continue };
            if !again.contains(&extent.pack) {
                continue;
            }
            for user in users.of(&path) {
                let Some(set) = replaced.get_mut(&user.path) else { continue };
                let end = extent.end().min(set.length());
                if extent.first < end {
                    set.insert_run(extent.first, end - extent.first);
                }
            }
        }
    }
    Ok(())
}

/// How much of each pack the unchanged blocks still use.
fn live_bytes(
    base: &BaseManifest,
    users: &Users<'_>,
    replaced: &Replaced,
) -> Result<BTreeMap<PackId, PackLife>, Failure> {
    let mut lives = base.packs()?;
    for part in base.parts() {
        for item in base.open(part)? {
            let Item::Extent(path, extent) = item else { continue };
            for user in users.of(&path) {
                let (Some(block_size), Some(set)) = (user.block_size(), replaced.get(&user.path)) else { continue };
                let life = lives.get_mut(&extent.pack).ok_or_else(|| unknown_pack(extent.pack))?;
                let live: u64 = set.runs_within(extent.first, extent.end(), false).map(|(_, count)| count).sum();
                // A file and its copy may both use a block.
                life.live_bytes = life.raw_bytes.min(life.live_bytes + live * u64::from(block_size));
            }
        }
    }
    Ok(lives)
}

fn unknown_pack(pack: PackId) -> Failure {
    let message = format!("the base names pack {} of run {}, which does not exist", pack.pack, pack.run);
    Failure::new(Code::Damaged, message)
}

/// Extents of the base that files of other names use, by those; without the blocks that are captured again.
pub(super) fn moved_extents(
    base: &BaseManifest,
    users: &Users<'_>,
    replaced: &Replaced,
) -> Result<BTreeMap<StoredPath, Vec<Extent>>, Failure> {
    let mut moved = BTreeMap::new();
    if !users.has_moved() {
        return Ok(moved);
    }
    for part in base.parts() {
        for item in base.open(part)? {
            let Item::Extent(path, extent) = item else { continue };
            for user in users.of(&path).filter(|user| user.path != path) {
                let Some(set) = replaced.get(&user.path) else { continue };
                let kept = set.runs_within(extent.first, extent.end(), false);
                let kept = kept.map(|(first, count)| extent.slice(first, count));
                moved.entry(user.path.clone()).or_insert_with(Vec::new).extend(kept);
            }
        }
    }
    Ok(moved)
}

/// A file of `length` blocks that was captured under another name: nothing stays that the base has under its name.
pub(super) fn with_moved(length: u64, new: Vec<Extent>, moved: Vec<Extent>) -> Captured {
    let mut extents = [new, moved].concat();
    extents.sort_by_key(|extent| extent.first);
    Captured { replaced: BlockSet::all(length), extents }
}
