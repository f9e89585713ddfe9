//! What a snapshot consists of: entries (files, directories, links) and the extents of the files.
//!
//! Blocks that no extent covers are zero.

use super::{id::RunId, path::StoredPath};
use serde::{Deserialize, Serialize};

/// The largest number that may stand in stored JSON: beyond it `jq` rounds.
pub const NUMBER_MAX: u64 = 1 << 53;

/// The largest file in bytes: no SQLite database is larger, and no source of another kind may be.
pub const FILE_BYTES_MAX: u64 = 1 << 48;

/// The largest number of a user or a group: the next one means "leave it as it is" to Linux.
pub const OWNER_MAX: u32 = u32::MAX - 1;

/// The smallest and largest block size in bytes; all powers of two between are allowed and divide a frame.
pub const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 512..=65_536;

/// Whether a block size may be stored.
pub fn block_size_is_valid(block_size: u32) -> bool {
    BLOCK_SIZES.contains(&block_size) && block_size.is_power_of_two()
}

/// What kind of thing stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Bytes in a block.
        block_size: u32,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Link {
        /// Where it points, percent-coded; never followed.
        target: String,
    },
}

/// One file, directory or link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Where it stands, relative to the restore directory.
    pub path: StoredPath,
    /// What it is.
    #[serde(flatten)]
    pub kind: EntryKind,
    /// Permission bits, in octal.
    #[serde(with = "octal")]
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
}

impl Entry {
    /// How many blocks the entry has; 0 for anything that is no file.
    pub fn blocks(&self) -> u64 {
        match self.kind {
            EntryKind::File { size, block_size } => size.div_ceil(u64::from(block_size)),
            _ => 0,
        }
    }

    /// Size in bytes; 0 for anything that is no file.
    pub fn size(&self) -> u64 {
        if let EntryKind::File { size, .. } = self.kind { size } else { 0 }
    }

    /// Block size in bytes, for a file.
    pub fn block_size(&self) -> Option<u32> {
        if let EntryKind::File { block_size, .. } = self.kind { Some(block_size) } else { None }
    }
}

mod octal {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(mode: &u32, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{mode:04o}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
        let text = String::deserialize(deserializer)?;
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o7777 && !text.starts_with('+') => Ok(mode),
            _ => Err(serde::de::Error::custom(format_args!("mode {text:?} is not octal permission bits"))),
        }
    }
}

/// Where blocks of a pack stand: a pack of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId {
    /// The run that wrote it.
    pub run: RunId,
    /// Its number in the run.
    pub pack: u32,
}

/// A run of blocks of a file and where they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block in the file.
    pub first: u64,
    /// Number of blocks, at least 1.
    pub count: u64,
    /// The pack that holds them.
    pub pack: PackId,
    /// First block in the pack's raw content.
    pub raw_block: u64,
}

impl Extent {
    /// The block after the last.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    /// The part of the extent that lies in `first..first + count` of the file.
    #[must_use]
    pub fn slice(&self, first: u64, count: u64) -> Extent {
        assert!(first >= self.first && first + count <= self.end() && count > 0);
        Extent { first, count, pack: self.pack, raw_block: self.raw_block + (first - self.first) }
    }

    /// Whether `next` simply goes on where this extent ends, in the file and in the pack.
    pub fn continues_with(&self, next: &Extent) -> bool {
        self.pack == next.pack && self.end() == next.first && self.raw_block + self.count == next.raw_block
    }
}

/// Appends an extent, joining it to the last one where it just goes on.
pub fn push_extent(extents: &mut Vec<Extent>, extent: Extent) {
    match extents.last_mut() {
        Some(last) if last.continues_with(&extent) => last.count += extent.count,
        _ => extents.push(extent),
    }
}

/// A place in the order of a manifest: by path, then by block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// Path of the entry.
    pub path: StoredPath,
    /// Block in it.
    pub block: u64,
}

/// What a manifest part lists, in order: an entry at its path, then the extents of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// An entry; it stands before all of its extents.
    Entry(Entry),
    /// An extent of the file at this path.
    Extent(StoredPath, Extent),
}

/// Names a manifest part: the run that wrote it and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId {
    /// The run that wrote it.
    pub run: RunId,
    /// Its number in the run.
    pub part: u32,
}

/// One line of the root: a part and where its range begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartRef {
    /// First place it covers; it covers everything up to the next part's first place.
    pub from: Key,
    /// The part.
    pub id: PartId,
}
