//! WAL summaries (PostgreSQL 17 and newer): which blocks of relations the log has touched, in `pg_wal/summaries`.

use super::names::{Fork, RelationFile};
use crate::{
    core::{blocks::BlockSet, log::Lsn},
    world::files,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
    thread,
    time::Duration,
};

const MAGIC: u32 = 0x652b_137b;
/// The largest summary that is read; what is larger says that nearly everything changed.
const FILE_BYTES_MAX: u64 = 64 << 20;
const CHUNK_BLOCKS: u64 = 1 << 16;
/// With so many words a chunk is a bitmap; with fewer, a list.
const CHUNK_WORDS: usize = 4096;
const NO_LIMIT: u32 = u32::MAX;

/// The summariser follows the log within moments: how long it is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(10);

/// A relation's fork by its numbers: tablespace, database, relation, fork.
type Key = (u32, u32, u32, u32);

/// What the log has touched between two places.
#[derive(Debug, Default)]
pub(super) struct Touched {
    forks: HashMap<Key, Blocks>,
    /// Databases that were made by copying files: tablespace, database.
    databases: BTreeSet<(u32, u32)>,
}

#[derive(Debug)]
struct Blocks {
    /// From here on everything is new.
    limit: u32,
    chunks: BTreeMap<u32, Vec<u64>>,
}

/// The numbers of the tablespaces that every server has.
const DEFAULT_TABLESPACE: u32 = 1663;
const GLOBAL_TABLESPACE: u32 = 1664;

impl Touched {
    /// Reads the summaries from one place in the log to another; says why there are none, if so.
    pub(super) fn read(data_dir: &Path, timeline: u32, from: Lsn, to: Lsn) -> Result<Self, String> {
        let folder = data_dir.join("pg_wal/summaries");
        let mut waited = Duration::ZERO;
        let names = loop {
            let names = listed(&folder, timeline);
            if names.is_empty() {
                return Err("there are none (summarize_wal is off)".to_owned());
            }
            match covering(&names, from, to) {
                Ok(names) => break names,
                Err(reached) if reached <= from || waited >= PATIENCE => {
                    return Err(format!("they reach from {from} to {reached} only, and {to} is needed"));
                }
                Err(_) => {}
            }
            thread::sleep(PAUSE);
            waited += PAUSE;
        };
        let mut touched = Touched::default();
        for (_, _, name) in names {
            let read = files::read_start(folder.join(&name), FILE_BYTES_MAX + 1);
            let bytes = read.map_err(|error| format!("{name}: {error}"))?;
            touched.add(&bytes).ok_or_else(|| format!("{name} is damaged, or too large"))?;
        }
        Ok(touched)
    }

    /// Adds what one summary says.
    fn add(&mut self, bytes: &[u8]) -> Option<()> {
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return None;
        }
        let (body, crc) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        if crc32c::crc32c(body) != word(crc)? {
            return None;
        }
        let mut rest = body;
        let mut take = |count: usize| {
            let (taken, after) = rest.split_at_checked(count)?;
            rest = after;
            Some(taken)
        };
        if word(take(4)?)? != MAGIC {
            return None;
        }
        loop {
            let entry = take(24)?;
            if entry.iter().all(|byte| *byte == 0) {
                return Some(());
            }
            let field = |at: usize| word(&entry[at * 4..at * 4 + 4]);
            let key: Key = (field(0)?, field(1)?, field(2)?, field(3)?);
            let (limit, chunk_count) = (field(4)?, field(5)?);
            let usage = take(usize::try_from(chunk_count).ok()?.checked_mul(2)?)?;
            if key.2 == 0 {
                self.databases.insert((key.0, key.1));
            }
            let blocks = self.forks.entry(key).or_insert(Blocks { limit: NO_LIMIT, chunks: BTreeMap::new() });
            blocks.limit = blocks.limit.min(limit);
            for (chunk, used) in usage.chunks_exact(2).enumerate() {
                let used = usize::from(half(used));
                if used == 0 {
                    continue;
                }
                let words = take(used.checked_mul(2).filter(|_| used <= CHUNK_WORDS)?)?;
                blocks.add_chunk(u32::try_from(chunk).ok()?, words, used == CHUNK_WORDS);
            }
        }
    }

    /// The blocks of a file that may have changed; `None` where the log does not tell.
    pub(super) fn of(&self, path: &str, file: RelationFile, blocks: u64, segment_blocks: u32) -> Option<BlockSet> {
        let fork = match file.fork {
            Fork::Main => 0,
            // Not all of its changes are in the log.
            Fork::FreeSpace => return None,
            Fork::Visibility => 2,
            Fork::Initial => 3,
        };
        let parts: Vec<&str> = path.split('/').collect();
        let (tablespace, database) = match parts.as_slice() {
            ["global", _] => (GLOBAL_TABLESPACE, 0),
            ["base", database, _] => (DEFAULT_TABLESPACE, database.parse().ok()?),
            ["pg_tblspc", tablespace, _, database, _] => (tablespace.parse().ok()?, database.parse().ok()?),
            _ => return None,
        };
        if self.databases.contains(&(tablespace, database)) {
            return None;
        }
        let mut set = BlockSet::none(blocks);
        let Some(touched) = self.forks.get(&(tablespace, database, file.number, fork)) else { return Some(set) };
        let before = u64::from(file.segment) * u64::from(segment_blocks);
        if touched.limit != NO_LIMIT {
            let from = u64::from(touched.limit).saturating_sub(before).min(blocks);
            set.insert_run(from, blocks - from);
        }
        for (chunk, words) in &touched.chunks {
            let first = u64::from(*chunk) * CHUNK_BLOCKS;
            for (at, word) in words.iter().enumerate().filter(|(_, word)| **word != 0) {
                for bit in (0..64).filter(|bit| word >> bit & 1 == 1) {
                    let block = first + at as u64 * 64 + bit;
                    if let Some(block) = block.checked_sub(before).filter(|block| *block < blocks) {
                        set.insert(block);
                    }
                }
            }
        }
        Some(set)
    }
}

impl Blocks {
    fn add_chunk(&mut self, chunk: u32, words: &[u8], is_bitmap: bool) {
        let bits = self.chunks.entry(chunk).or_insert_with(|| vec![0; (CHUNK_BLOCKS / 64) as usize]);
        for (at, word) in words.chunks_exact(2).map(half).enumerate() {
            if is_bitmap {
                bits[at / 4] |= u64::from(word) << (at % 4 * 16);
            } else {
                bits[usize::from(word) / 64] |= 1 << (word % 64);
            }
        }
    }
}

/// Beginning, end and name of each summary of a timeline, in order.
fn listed(folder: &Path, timeline: u32) -> Vec<(Lsn, Lsn, String)> {
    let names =
        fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|file| file.file_name().into_string().ok());
    let parsed = names.filter_map(|name| {
        let digits = name.strip_suffix(".summary").filter(|digits| digits.len() == 40 && digits.is_ascii())?;
        let number = |from: usize, to: usize| u64::from_str_radix(&digits[from..to], 16).ok();
        let is_ours = number(0, 8)? == u64::from(timeline);
        is_ours.then_some((Lsn(number(8, 24)?), Lsn(number(24, 40)?), name))
    });
    let mut names: Vec<_> = parsed.collect();
    names.sort();
    names
}

/// Those that cover a range without a hole; else where the hole begins.
fn covering(names: &[(Lsn, Lsn, String)], from: Lsn, to: Lsn) -> Result<Vec<(Lsn, Lsn, String)>, Lsn> {
    let mut reached = from;
    let mut chosen = Vec::new();
    for (begin, end, name) in names.iter().filter(|(begin, end, _)| *end > from && *begin < to) {
        if *begin > reached {
            break;
        }
        reached = reached.max(*end);
        chosen.push((*begin, *end, name.clone()));
    }
    if reached >= to { Ok(chosen) } else { Err(reached) }
}

fn word(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

fn half(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: Key, limit: u32, usage: &[u16], words: &[u16]) -> Vec<u8> {
        let fields = [key.0, key.1, key.2, key.3, limit, usage.len() as u32];
        let halves = usage.iter().chain(words).flat_map(|half| half.to_le_bytes());
        fields.into_iter().flat_map(u32::to_le_bytes).chain(halves).collect()
    }

    fn summary(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = [MAGIC.to_le_bytes().to_vec(), entries.concat(), vec![0; 24]].concat();
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    fn file(name: &str) -> RelationFile {
        RelationFile::parse(name).unwrap()
    }

    fn runs(set: Option<BlockSet>) -> Option<Vec<(u64, u64)>> {
        set.map(|set| set.runs().collect())
    }

    #[test]
    fn touched_blocks() {
        let mut bitmap = vec![0_u16; CHUNK_WORDS];
        bitmap[1] = 0b110;
        let bytes = summary(&[
            entry((1663, 5, 10, 0), NO_LIMIT, &[2, 1], &[3, 7, 1]),
            entry((1663, 5, 11, 0), 4, &[], &[]),
            entry((1663, 5, 12, 0), NO_LIMIT, &[CHUNK_WORDS as u16], &bitmap),
            entry((1663, 6, 0, 0), 0, &[], &[]),
        ]);
        let mut touched = Touched::default();
        touched.add(&bytes).unwrap();
        let of = |path: &str, name: &str, blocks| runs(touched.of(path, file(name), blocks, 65_536));
        assert_eq!(of("base/5/10", "10", 100), Some(vec![(3, 1), (7, 1)]));
        assert_eq!(of("base/5/10.1", "10.1", 100), Some(vec![(1, 1)]));
        assert_eq!(of("base/5/11", "11", 9), Some(vec![(4, 5)]));
        assert_eq!(of("base/5/12", "12", 100), Some(vec![(17, 2)]));
        assert_eq!(of("base/5/13", "13", 9), Some(vec![]));
        assert_eq!(of("base/5/10_fsm", "10_fsm", 9), None);
        assert_eq!(of("base/6/10", "10", 9), None, "the database was copied");
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Touched::default().add(&damaged), None, "byte {at}");
            assert_eq!(Touched::default().add(&bytes[..at]), None);
        }
    }

    #[test]
    fn ranges_without_holes() {
        let names = |ranges: &[(u64, u64)]| -> Vec<(Lsn, Lsn, String)> {
            ranges.iter().map(|(a, b)| (Lsn(*a), Lsn(*b), format!("{a}"))).collect()
        };
        let cover = |ranges: &[(u64, u64)]| covering(&names(ranges), Lsn(10), Lsn(30)).map(|chosen| chosen.len());
        assert_eq!(cover(&[(0, 10), (10, 20), (20, 30), (30, 40)]), Ok(2));
        assert_eq!(cover(&[(5, 35)]), Ok(1));
        assert_eq!(cover(&[(5, 15), (20, 30)]), Err(Lsn(15)));
        assert_eq!(cover(&[(15, 30)]), Err(Lsn(10)));
    }
}
