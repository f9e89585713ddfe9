//! What of the base a snapshot uses again, and where: blocks stay with their file also when it has another name.

use super::base::BaseManifest;
use crate::{
    core::{
        blocks::BlockSet,
        extents::ExtentList,
        failure::{Code, Failure},
        manifest::{Entry, Item, PackId},
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

/// The blocks that are captured again although they did not change: others than are `replaced` already.
pub(super) fn capture_again(base: &BaseManifest, users: &Users<'_>, replaced: &Replaced) -> Result<Replaced, Failure> {
    let lives = live_bytes(base, users, replaced)?;
    let entries = users.0.values().flatten();
    let changed_bytes =
        entries.filter_map(|entry| Some(replaced.get(&entry.path)?.count() * u64::from(entry.block_size()?))).sum();
    let again = packs_to_capture_again(&lives, &base.lost, changed_bytes);
    let mut added = Replaced::new();
    if again.is_empty() {
        return Ok(added);
    }
    for part in base.parts() {
        for item in base.open(part)? {
            let Item::Extent(path, extent) = item else { continue };
            if !again.contains(&extent.pack) {
                continue;
            }
            for user in users.of(&path) {
                let Some(set) = replaced.get(&user.path) else { continue };
                let added = added.entry(user.path.clone()).or_insert_with(|| BlockSet::none(set.length()));
                let unchanged = set.runs_within(extent.first, extent.end(), false);
                unchanged.for_each(|(first, count)| added.insert_run(first, count));
            }
        }
    }
    Ok(added)
}

/// Adds blocks that are captured again to those that are replaced.
pub(super) fn add(replaced: &mut Replaced, added: &Replaced) {
    for (path, added) in added {
        let set = replaced.get_mut(path).expect("only blocks of these files are captured again");
        added.runs().for_each(|(first, count)| set.insert_run(first, count));
    }
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
) -> Result<BTreeMap<StoredPath, ExtentList>, Failure> {
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
                let list: &mut ExtentList = moved.entry(user.path.clone()).or_default();
                kept.for_each(|(first, count)| list.push(0, extent.slice(first, count)));
            }
        }
    }
    Ok(moved)
}

/// A file of `length` blocks that was captured under another name: nothing stays that the base has under its name.
pub(super) fn with_moved(length: u64, new: Vec<ExtentList>, moved: ExtentList) -> Captured {
    let mut extents = new;
    extents.push(moved);
    Captured { replaced: BlockSet::all(length), extents }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::RunId,
        manifest::{EntryKind, Extent},
    };

    fn path(text: &str) -> StoredPath {
        StoredPath::parse(text).unwrap()
    }

    #[test]
    fn users_of_captured_files() {
        let kind = EntryKind::File { size: 1, block_size: 4096 };
        let entries = ["a", "a.1", "b", "copy"].map(|name| Entry {
            path: path(name),
            kind: kind.clone(),
            mode: 0,
            uid: 0,
            gid: 0,
        });
        let from = |name: &str| Some(Continued { path: path(name), blocks: 1 });
        let named =
            |users: &Users<'_>, name: &str| users.of(&path(name)).map(|user| user.path.to_string()).collect::<Vec<_>>();
        let continued = [None, from("a"), from("b"), from("b")];
        let users = Users::new(&entries, &continued);
        assert_eq!(named(&users, "a"), ["a", "a.1"]);
        assert_eq!(named(&users, "b"), ["b", "copy"]);
        assert_eq!(named(&users, "a.1"), [] as [&str; 0]);
        assert!(users.has_moved());
        assert!(!Users::new(&entries, &[None, None, from("b"), None]).has_moved());
    }

    #[test]
    fn moved_and_new_extents_are_all_there() {
        let pack = |run: u8| PackId { run: RunId::from_random([run; 16]), pack: 0 };
        let extent = |first, count, run| (0, Extent { first, count, pack: pack(run), raw_block: first });
        let new = vec![[extent(2, 1, 2), extent(8, 1, 2)].into_iter().collect()];
        let captured = with_moved(9, new, [extent(0, 2, 1), extent(3, 5, 1)].into_iter().collect());
        let firsts = |list: &ExtentList| list.iter().map(|(_, extent)| extent.first).collect::<Vec<_>>();
        assert_eq!(captured.extents.iter().map(firsts).collect::<Vec<_>>(), [[2, 8], [0, 3]]);
        assert_eq!(captured.replaced, BlockSet::all(9));
    }

    #[test]
    fn what_is_captured_again_is_added() {
        let set = |runs: &[(u64, u64)]| {
            let mut set = BlockSet::none(100);
            runs.iter().for_each(|(first, count)| set.insert_run(*first, *count));
            set
        };
        let mut replaced = Replaced::from([(path("a"), set(&[(10, 20)])), (path("b"), set(&[]))]);
        add(&mut replaced, &[(path("a"), set(&[(5, 5), (30, 15)]))].into());
        assert_eq!(replaced, [(path("a"), set(&[(5, 40)])), (path("b"), set(&[]))].into());
    }
}
