//! Everywhere that a restore writes to: the target, and the directories of tablespaces that lie elsewhere.

use super::{Moved, Staging, failed, files::OpenFiles, finish::Notes, over::Over, refuse};
use crate::{
    core::{
        extents::ExtentList,
        failure::{Code, Failure},
        manifest::Extent,
    },
    format::{digests::DigestPart, pack::block_digest},
    ops::restore::{Manifest, RestoreRequest, fetch::Blocks, places::Layout},
    sources::postgres::server::refuse_running,
    stores::Store,
    world::files::free_bytes,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How much of a file is compared at once.
const COMPARED_BYTES: u64 = 128 * 1024;

enum Root {
    New(Staging),
    Over(Over),
}

/// All directories; the target is the first. What was not published is removed when this is dropped, but for what is
/// written over.
pub(in crate::ops::restore) struct Ground {
    roots: Vec<Root>,
}

impl Root {
    fn path(&self) -> &Path {
        match self {
            Root::New(staging) => &staging.path,
            Root::Over(over) => over.path(),
        }
    }

    /// Bytes there that give way to what is restored.
    fn bytes_there(&self) -> u64 {
        match self {
            Root::New(staging) => staging.bytes_left(),
            Root::Over(over) => over.bytes(),
        }
    }
}

impl Ground {
    /// Looks at everything that will be written to, and changes nothing.
    pub(in crate::ops::restore) fn check(request: &RestoreRequest, stores: &[Store]) -> Result<Self, Failure> {
        let (target, is_delta) = (request.to.as_path(), request.server.delta);
        refuse_running(target)?;
        let mut roots = vec![match is_delta {
            true => Root::Over(Over::cluster(target, stores)?),
            false => {
                let staging = Staging::check(target, stores)?;
                staging.refuse_done()?;
                Root::New(staging)
            }
        }];
        for place in &request.server.tablespaces {
            let directory = place.directory.as_path();
            if let Some(other) = roots.iter().find(|root| overlap(root.path(), directory)) {
                let why = format!("it must not share anything with {}", other.path().display());
                return Err(taken(directory, &why));
            }
            roots.push(match is_delta && is_tablespace_of(target, directory) {
                true => Root::Over(Over::tablespace(directory, stores)?),
                false => Root::New(Staging::check(directory, stores).map_err(|failure| match failure.code {
                    Code::Refused => failure.next_step("name a new or empty directory with --tablespace"),
                    _ => failure,
                })?),
            });
        }
        Ok(Ground { roots })
    }

    /// Refuses to write over a cluster of another system.
    pub(in crate::ops::restore) fn check_system(&self, system: &str) -> Result<(), Failure> {
        match &self.roots[0] {
            Root::Over(over) => over.check_system(system),
            Root::New(_) => Ok(()),
        }
    }

    /// Refuses when a file system has no room for what goes there, and `more` bytes in the target.
    pub(in crate::ops::restore) fn check_room(&self, manifest: &Manifest, more: u64) -> Result<(), Failure> {
        let mut needed = vec![0_u64; self.roots.len()];
        needed[0] = more;
        for pack in manifest.packs.values() {
            for (entry, extent) in pack.extents.iter() {
                let part = manifest.layout.place(entry).0;
                needed[part] += extent.count * u64::from(pack.index.block_size);
            }
        }
        let mut systems: BTreeMap<u64, (&Path, u64, u64)> = BTreeMap::new();
        for (root, needed) in self.roots.iter().zip(needed) {
            let existing = existing(root.path());
            let device = fs::metadata(&existing).map_err(|error| failed("look at", &existing, &error))?.dev();
            let available = free_bytes(&existing).map_err(|error| failed("look at", &existing, &error))?;
            let (_, all, there) = systems.entry(device).or_insert((root.path(), 0, available));
            *all += needed;
            *there = there.saturating_add(root.bytes_there());
        }
        match systems.into_values().find(|(_, needed, available)| needed > available) {
            None => Ok(()),
            Some((path, needed, available)) => {
                Err(Failure::new(Code::Refused, format!("there is no room to restore into {}", path.display()))
                    .cause(format!("{needed} bytes are needed, {available} are available"))
                    .safe("nothing was written")
                    .next_step("free space there, or restore to another file system with --to"))
            }
        }
    }

    /// Makes all directories and files, without content.
    pub(in crate::ops::restore) fn create(&self, manifest: &Manifest) -> Result<Written, Failure> {
        let mut parts = Vec::new();
        for (at, root) in self.roots.iter().enumerate() {
            let entries = manifest.layout.part(at, &manifest.entries);
            parts.push(match root {
                Root::New(staging) => staging.create(entries)?,
                Root::Over(over) => over.create(entries)?,
            });
        }
        Ok(Written {
            parts,
            layout: manifest.layout.clone(),
            blocks_compared: AtomicU64::new(0),
            blocks_there: AtomicU64::new(0),
        })
    }

    /// Lets nobody else enter.
    pub(in crate::ops::restore) fn close(&self) -> Result<(), Failure> {
        self.roots.iter().try_for_each(|root| match root {
            Root::New(staging) => staging.close_target(),
            // It is closed from the first change on.
            Root::Over(_) => Ok(()),
        })
    }

    /// Makes everything durable, and moves it to where it belongs.
    pub(in crate::ops::restore) fn publish(
        &self,
        manifest: &Manifest,
        written: &Written,
    ) -> Result<Vec<String>, Failure> {
        let mut notes = Notes::default();
        let part = |at| manifest.layout.part(at, &manifest.entries);
        for (at, (root, files)) in self.roots.iter().zip(&written.parts).enumerate() {
            match root {
                Root::New(staging) => staging.settle(part(at), files, &mut notes)?,
                Root::Over(over) => over.settle(part(at), files, &mut notes)?,
            }
        }
        // The target last: without it nobody uses the others.
        let mut moved: Vec<(&Staging, Vec<Moved>)> = Vec::new();
        for (at, root) in self.roots.iter().enumerate().rev() {
            let Root::New(staging) = root else { continue };
            match staging.move_in(part(at), &mut notes) {
                Ok(own) => moved.push((staging, own)),
                Err(failure) => {
                    let back = |failure, (staging, own): &(&Staging, Vec<Moved>)| staging.take_back(own, failure);
                    return Err(moved.iter().fold(failure, back));
                }
            }
        }
        // The target first: from here on it is in use, and nothing of the others is taken back.
        for root in &self.roots {
            match root {
                Root::New(staging) => staging.complete(),
                Root::Over(over) => over.complete()?,
            }
        }
        Ok(notes.into_lines())
    }
}

/// The files that a restore writes, wherever they are.
pub(in crate::ops::restore) struct Written {
    parts: Vec<OpenFiles>,
    layout: Arc<Layout>,
    blocks_compared: AtomicU64,
    blocks_there: AtomicU64,
}

impl Written {
    /// Those of the target.
    pub(in crate::ops::restore) fn target(&self) -> &OpenFiles {
        &self.parts[0]
    }

    /// How many blocks were compared with what was there, and how many of them were right.
    pub(in crate::ops::restore) fn compared(&self) -> (u64, u64) {
        (self.blocks_compared.load(Ordering::Relaxed), self.blocks_there.load(Ordering::Relaxed))
    }

    fn place(&self, entry: usize) -> Result<(&OpenFiles, usize), Failure> {
        let (part, at) = self.layout.place(entry);
        let files = self.parts.get(part).ok_or_else(|| Failure::internal("an entry that goes nowhere"))?;
        Ok((files, at))
    }

    /// Blocks that no extent covers are zero: in files that were there before they may be something else.
    pub(in crate::ops::restore) fn clear_gaps(&self, manifest: &Manifest) -> Result<(), Failure> {
        let is_found = |at: usize| self.place(at).map(|(files, place)| files.is_found(place));
        let mut covered: BTreeMap<usize, ExtentList> = BTreeMap::new();
        for (entry, extent) in manifest.packs.values().flat_map(|pack| pack.extents.iter()) {
            if is_found(entry)? {
                covered.entry(entry).or_default().push(0, extent);
            }
        }
        let mut buffer = vec![0; COMPARED_BYTES as usize];
        for (at, entry) in manifest.entries.iter().enumerate() {
            let Some(block_size) = entry.block_size().map(u64::from) else { continue };
            if !is_found(at)? {
                continue;
            }
            let (files, place) = self.place(at)?;
            let covered = covered.remove(&at).unwrap_or_default();
            let mut runs: Vec<(u64, u64)> = covered.iter().map(|(_, extent)| (extent.first, extent.end())).collect();
            runs.sort_unstable();
            runs.push((entry.blocks(), entry.blocks()));
            let mut next = 0;
            for (first, end) in runs {
                while next < first {
                    let count = (first - next).min(COMPARED_BYTES / block_size);
                    let piece = &mut buffer[..(count * block_size) as usize];
                    files.read(place, next, block_size, piece)?;
                    if piece.iter().any(|byte| *byte != 0) {
                        piece.fill(0);
                        files.write(place, next, block_size, piece)?;
                    }
                    next += count;
                }
                next = next.max(end);
            }
        }
        Ok(())
    }
}

impl Blocks for Written {
    fn write(&self, entry: usize, first: u64, block_size: u64, bytes: &[u8]) -> Result<(), Failure> {
        let (files, at) = self.place(entry)?;
        files.write(at, first, block_size, bytes)
    }

    fn missing(
        &self,
        extents: &[(usize, Extent)],
        block_size: u64,
        digests: &DigestPart,
        pack: u32,
    ) -> Result<Option<Vec<(usize, Extent)>>, Failure> {
        let is_found = |entry: &usize| self.place(*entry).is_ok_and(|(files, at)| files.is_found(at));
        let Some(digests_of_pack) = digests.pack(pack) else { return Ok(None) };
        if !extents.iter().any(|(entry, _)| is_found(entry)) {
            return Ok(None);
        }
        let mut missing: Vec<(usize, Extent)> = Vec::new();
        let mut buffer = vec![0; COMPARED_BYTES as usize];
        for (entry, extent) in extents {
            let (files, at) = self.place(*entry)?;
            let mut done = 0;
            while done < extent.count {
                let count = (extent.count - done).min(COMPARED_BYTES / block_size);
                let piece = &mut buffer[..(count * block_size) as usize];
                let is_found = files.read(at, extent.first + done, block_size, piece)?;
                for (number, block) in (done..done + count).zip(piece.chunks_exact(block_size as usize)) {
                    let expected = digests_of_pack.get((extent.raw_block + number) as usize);
                    if is_found && expected == Some(&block_digest(&digests.key, block)) {
                        self.blocks_there.fetch_add(1, Ordering::Relaxed);
                    } else {
                        push(&mut missing, *entry, extent.slice(extent.first + number, 1));
                    }
                }
                done += count;
            }
            self.blocks_compared.fetch_add(extent.count, Ordering::Relaxed);
        }
        Ok(Some(missing))
    }
}

/// Appends a block, joining it to the last run where it goes on.
fn push(missing: &mut Vec<(usize, Extent)>, entry: usize, block: Extent) {
    match missing.last_mut() {
        Some((last_entry, last)) if *last_entry == entry && last.continues_with(&block) => last.count += block.count,
        _ => missing.push((entry, block)),
    }
}

/// The nearest directory above a path that exists, or the path itself.
fn existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
    if existing.as_os_str().is_empty() { PathBuf::from(".") } else { existing.to_owned() }
}

/// A path without links, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let existing = existing(path);
    let rest = path.strip_prefix(&existing).unwrap_or(Path::new(""));
    existing.canonicalize().unwrap_or(existing).join(rest)
}

fn overlap(one: &Path, other: &Path) -> bool {
    let (one, other) = (resolved(one), resolved(other));
    one.starts_with(&other) || other.starts_with(&one)
}

/// Whether the cluster in `target` has a tablespace in this directory now.
fn is_tablespace_of(target: &Path, directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else { return false };
    let links = fs::read_dir(target.join("pg_tblspc")).into_iter().flatten().flatten();
    links
        .filter(|link| link.file_type().is_ok_and(|kind| kind.is_symlink()))
        .any(|link| link.path().canonicalize().is_ok_and(|place| place == directory))
}

fn taken(directory: &Path, why: &str) -> Failure {
    refuse(directory, why).next_step("name a directory of its own, outside of the target, with --tablespace")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            id::RunId,
            manifest::{Entry, EntryKind, PackId},
            path::StoredPath,
        },
        format::digests,
    };
    use std::os::unix::fs::PermissionsExt;

    const BLOCK: u64 = 512;

    fn file(path: &str, blocks: u64) -> Entry {
        let kind = EntryKind::File { size: blocks * BLOCK, block_size: 512 };
        let gid = rustix::process::getegid().as_raw();
        Entry { path: StoredPath::parse(path).unwrap(), kind, mode: 0o600, uid: crate::world::user_id(), gid }
    }

    /// A folder that an interrupted restore has left, with files of two bytes by turns.
    fn left(dir: &Path) -> (Staging, Manifest) {
        let folder = dir.join("target/.recoup-partial");
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
        for name in ["a", "stray"] {
            fs::write(folder.join(name), [[7; BLOCK as usize], [8; BLOCK as usize]].as_flattened().repeat(300))
                .unwrap();
        }
        let entries = vec![file("a", 600), file("b", 600)];
        let manifest = Manifest {
            configuration: String::new(),
            catalogue_identity: None,
            entries,
            packs: BTreeMap::new(),
            replay: None,
            layout: Arc::default(),
            digests: BTreeMap::new(),
        };
        (Staging::check(&dir.join("target"), &[]).unwrap(), manifest)
    }

    #[test]
    fn only_blocks_that_differ_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, manifest) = left(dir.path());
        let ground = Ground { roots: vec![Root::New(staging)] };
        let written = ground.create(&manifest).unwrap();
        let run = RunId::from_random([1; 16]);
        let mut raw = digests::start_part(run, &[9; 32]);
        // Of both files: blocks that are all seven.
        let right = block_digest(&[9; 32], &[7; BLOCK as usize]);
        digests::push_pack(&mut raw, 0, &vec![right; 600]);
        let part = DigestPart::parse(raw, run).unwrap();
        let pack = PackId { run, pack: 0 };
        let extent = |first, count, raw_block| Extent { first, count, pack, raw_block };
        let extents = [(0, extent(0, 300, 0)), (1, extent(10, 5, 300))];
        let missing = written.missing(&extents, BLOCK, &part, 0).unwrap().unwrap();
        assert_eq!(missing.len(), 151);
        assert_eq!((missing[0], missing[149]), ((0, extent(1, 1, 1)), (0, extent(299, 1, 299))));
        assert_eq!(missing[150], (1, extent(10, 5, 300)));
        assert_eq!(written.compared(), (305, 150));
        // Where nothing was before, nothing is compared.
        assert!(written.missing(&extents[1..], BLOCK, &part, 0).unwrap().is_none());
        assert!(written.missing(&extents, BLOCK, &part, 1).unwrap().is_none());
    }

    #[test]
    fn what_no_extent_covers_is_zero() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, manifest) = left(dir.path());
        let ground = Ground { roots: vec![Root::New(staging)] };
        let written = ground.create(&manifest).unwrap();
        written.clear_gaps(&manifest).unwrap();
        ground.publish(&manifest, &written).unwrap();
        for name in ["a", "b"] {
            assert_eq!(
                fs::read(dir.path().join("target").join(name)).unwrap(),
                vec![0; 600 * BLOCK as usize],
                "{name}"
            );
        }
        assert!(!dir.path().join("target/stray").exists());
    }

    #[test]
    fn what_was_killed_between_two_publications_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let space = dir.path().join("space");
        fs::create_dir(&space).unwrap();
        let entries = [file("inner", 600)];
        // Puts everything in its place, and is killed before it has said so; whether there was anything to go on with.
        let killed = || {
            let staging = Staging::check(&space, &[]).unwrap();
            assert!(staging.bytes_left() < 1 << 20);
            let files = staging.create(&entries).unwrap();
            let is_found = files.is_found(0);
            staging.settle(&entries, &files, &mut Notes::default()).unwrap();
            staging.move_in(&entries, &mut Notes::default()).map_err(|failure| failure.to_string()).unwrap();
            staging.published.store(true, Ordering::Relaxed);
            is_found
        };
        assert!(!killed() && space.join("inner").exists());
        assert!(killed() && space.join("inner").exists(), "what was moved is taken back, and used");
        // Half of it was moved.
        fs::rename(space.join("inner"), space.join(".recoup-partial/inner")).unwrap();
        assert!(killed() && space.join("inner").exists());
        // As a target it is in use by now; what somebody else has put there is nobody's to take.
        let refused = Staging::check(&space, &[]).unwrap().refuse_done().unwrap_err();
        assert!(refused.code == Code::Refused && refused.next_step.unwrap().contains("rm -r"));
        fs::rename(space.join("inner"), dir.path().join("kept")).unwrap();
        fs::write(space.join("inner"), "theirs").unwrap();
        assert_eq!(Staging::check(&space, &[]).err().unwrap().code, Code::Refused);
        assert_eq!(fs::read(space.join("inner")).unwrap(), b"theirs");
    }

    #[test]
    fn directories_that_share_anything_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let path = |name: &str| dir.path().join(name);
        for (one, other, shares) in [
            ("a", "b", false),
            ("a", "ab", false),
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("real/a", "link", true),
            ("link/a", "real/b", false),
        ] {
            assert_eq!(overlap(&path(one), &path(other)), shares, "{one} {other}");
            assert_eq!(overlap(&path(other), &path(one)), shares, "{other} {one}");
        }
    }
}
