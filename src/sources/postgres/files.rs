//! The files of a copy, read from several threads at once, and their pages checked.

use super::{
    control::Control,
    failures,
    names::{Fork, RelationFile},
    pages::{self, Page},
    walk::{Found, Kind, Stamp},
};
use crate::{
    core::{
        failure::Failure,
        log::Lsn,
        manifest::{Entry, EntryKind},
    },
    sources::Reader,
    world::{self, Stopwatch},
};
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How long after a bad page it is looked at again, and how often: the server may be writing it.
const REREAD_AFTER: Duration = Duration::from_millis(2);
const REREADS: u32 = 3;
/// Files without which nothing starts; all others may vanish.
const NEEDED: &[&str] = &["PG_VERSION", "global/pg_filenode.map"];

/// What an entry is read from.
pub(super) enum Content {
    Nothing,
    File(Place),
    Held(Vec<u8>),
}

/// A file in the data directory or a tablespace.
pub(super) struct Place {
    path: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) relation: Option<RelationFile>,
    is_needed: bool,
}

/// The files by the positions of their entries.
pub(super) struct Files {
    contents: Vec<Content>,
    block_bytes: u64,
    segment_blocks: u32,
    has_checksums: bool,
    start: Lsn,
    /// Pages whose checksum was wrong when the snapshot before was taken: entry, block.
    doubtful: OnceLock<BTreeSet<(usize, u64)>>,
    /// Pages whose checksum is wrong now, and whether that is damage.
    wrong: Mutex<Vec<(usize, u64, bool)>>,
    pace: Option<Pace>,
}

/// Makes all threads together keep to a limit.
struct Pace {
    bytes_per_second: u64,
    read: AtomicU64,
    stopwatch: Stopwatch,
}

/// What was found, as an entry and what it is read from.
pub(super) fn item(found: Found, block_size: u32) -> (Entry, Content) {
    let Found { path, place, kind, stamp, mode, uid, gid } = found;
    let is_needed = NEEDED.contains(&path.as_str());
    let file = |size| EntryKind::File { size, block_size };
    let lies = |relation| Content::File(Place { path: place, stamp, relation, is_needed });
    let (kind, content) = match kind {
        Kind::Directory => (EntryKind::Directory, Content::Nothing),
        Kind::Relation(relation) => (file(stamp.size), lies(Some(relation))),
        Kind::File => (file(stamp.size), lies(None)),
        Kind::Held(bytes) => (file(bytes.len() as u64), Content::Held(bytes)),
    };
    (Entry { path, kind, mode, uid, gid }, content)
}

impl Files {
    pub(super) fn new(contents: Vec<Content>, control: &Control, start: Lsn, limit: Option<u64>) -> Self {
        let pace = |bytes_per_second| Pace { bytes_per_second, read: AtomicU64::new(0), stopwatch: Stopwatch::start() };
        Files {
            contents,
            block_bytes: u64::from(control.block_size),
            segment_blocks: control.segment_blocks,
            has_checksums: control.has_checksums,
            start,
            doubtful: OnceLock::new(),
            wrong: Mutex::default(),
            pace: limit.map(pace),
        }
    }

    /// Says, once, which pages are examined even where they are what they were.
    pub(super) fn set_doubtful(&self, doubtful: BTreeSet<(usize, u64)>) {
        let _ = self.doubtful.set(doubtful);
    }

    /// Those of an entry.
    pub(super) fn doubtful(&self, entry: usize) -> impl Iterator<Item = u64> + '_ {
        let doubtful = self.doubtful.get().into_iter();
        doubtful.flat_map(move |all| all.range((entry, 0)..=(entry, u64::MAX)).map(|(_, block)| *block))
    }

    pub(super) fn content(&self, entry: usize) -> Option<&Content> {
        self.contents.get(entry)
    }

    pub(super) fn contents(&self) -> &[Content] {
        &self.contents
    }

    /// Pages whose checksum is wrong, by entry and block, and whether that is damage.
    pub(super) fn wrong(&self) -> Vec<(usize, u64, bool)> {
        let mut wrong = self.lock().clone();
        wrong.sort_unstable();
        // A page may have been captured twice.
        wrong.dedup_by_key(|(entry, block, _)| (*entry, *block));
        wrong
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(usize, u64, bool)>> {
        self.wrong.lock().expect("no panic while held")
    }

    /// Notes a page whose checksum is wrong; its bytes are captured as they are.
    fn note(&self, entry: usize, block: u64, is_damage: bool) {
        self.lock().push((entry, block, is_damage));
    }

    fn keep_pace(&self, bytes: usize) {
        let Some(pace) = &self.pace else { return };
        let read = pace.read.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        let due = Duration::from_secs_f64(read as f64 / pace.bytes_per_second as f64);
        thread::sleep(due.saturating_sub(pace.stopwatch.elapsed()));
    }

    /// The file of an entry whose pages have checksums, and the number of a block in its relation.
    fn paged(&self, entry: usize, block: u64) -> Option<(&Place, u32)> {
        let Some(Content::File(place)) = self.contents.get(entry) else { return None };
        // A free space map is not in the log, and mended by the server where a crash has torn it.
        let relation = place.relation.filter(|relation| self.has_checksums && relation.fork != Fork::FreeSpace)?;
        let before = u64::from(relation.segment) * u64::from(self.segment_blocks);
        // Numbers of blocks wrap nowhere below 32 bits.
        Some((place, u32::try_from(before + block).unwrap_or(u32::MAX)))
    }
}

impl Reader for Files {
    fn open(&self, entry: usize) -> Result<Option<File>, Failure> {
        let Some(Content::File(place)) = self.contents.get(entry) else { return Ok(None) };
        match world::files::open_regular(&place.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !place.is_needed => Ok(None),
            Err(error) => Err(failures::unreadable(&place.path, &error)),
        }
    }

    fn read(&self, entry: usize, file: Option<&File>, first: u64, bytes: &mut [u8]) -> Result<(), Failure> {
        let from = first * self.block_bytes;
        let filled = match (self.contents.get(entry), file) {
            (Some(Content::Held(held)), _) => copy_up_to(held, from, bytes),
            (Some(Content::File(place)), Some(file)) => {
                // What grows is in the log: no more is read than was planned.
                let planned = place.stamp.size.saturating_sub(from).min(bytes.len() as u64) as usize;
                read_up_to(file, &mut bytes[..planned], from)
                    .map_err(|error| failures::unreadable(&place.path, &error))?
            }
            // Dropped or cut since: replay does the same, and never reads what is not there.
            _ => 0,
        };
        bytes[filled..].fill(0);
        self.keep_pace(bytes.len());
        Ok(())
    }

    fn examine(&self, entry: usize, block: u64, bytes: &mut [u8]) -> Result<bool, Failure> {
        let Some((place, number)) = self.paged(entry, block) else { return Ok(false) };
        // The last block of a file that was being extended is no page yet: the log has it.
        if (block + 1) * self.block_bytes > place.stamp.size {
            return Ok(false);
        }
        match pages::judge(bytes, number, self.start) {
            Page::Good => return Ok(false),
            Page::Newer => {
                self.note(entry, block, false);
                return Ok(false);
            }
            Page::Bad => {}
        }
        let before = bytes.to_vec();
        let found = match self.open(entry)? {
            Some(file) => again(&file, bytes, block * self.block_bytes, number, self.start),
            None => Again::Changing,
        };
        match found {
            Again::Good => {}
            Again::Changing => self.note(entry, block, false),
            Again::Damaged => self.note(entry, block, true),
        }
        Ok(*bytes != before)
    }

    fn is_doubtful(&self, entry: usize, block: u64) -> bool {
        self.doubtful.get().is_some_and(|doubtful| doubtful.contains(&(entry, block)))
    }
}

/// Reads as much as there is.
fn read_up_to(file: &File, bytes: &mut [u8], from: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The same of what is held in memory.
pub(super) fn copy_up_to(held: &[u8], from: u64, bytes: &mut [u8]) -> usize {
    let rest = usize::try_from(from).ok().and_then(|from| held.get(from..)).unwrap_or_default();
    let filled = rest.len().min(bytes.len());
    bytes[..filled].copy_from_slice(&rest[..filled]);
    filled
}

/// What a bad page is when it is read again.
enum Again {
    /// It was being written, and is right now.
    Good,
    /// The server is writing it, or has cut it off: the log has it.
    Changing,
    /// It stays as it is.
    Damaged,
}

/// Looks at a bad page again. The newest reading of it stays in `page`.
fn again(file: &File, page: &mut [u8], from: u64, number: u32, start: Lsn) -> Again {
    for _ in 0..REREADS {
        thread::sleep(REREAD_AFTER);
        let mut newer = vec![0; page.len()];
        match read_up_to(file, &mut newer, from) {
            Ok(count) if count == page.len() && newer != page => {
                page.copy_from_slice(&newer);
                match pages::judge(page, number, start) {
                    Page::Good => return Again::Good,
                    Page::Newer => return Again::Changing,
                    Page::Bad => {}
                }
            }
            Ok(count) if count == page.len() => return Again::Damaged,
            _ => return Again::Changing,
        }
    }
    Again::Changing
}
