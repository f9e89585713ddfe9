//! Opening and reading log files, and what compressed ones unpack to. Few descriptors are open at a time.

use super::{
    BLOCK_BYTES, Trouble, failures,
    matching::Matched,
    past::PastFile,
    scan::{Found, Kind, Stamp},
};
use crate::{core::failure::Failure, sources::LastCapture};
use flate2::read::MultiGzDecoder;
use rustix::fs::OFlags;
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    rc::Rc,
};

/// How many files stay open until the view ends: those that were written last, which rotation moves.
pub(super) const HELD_MAX: usize = 200;
/// How much is compared at a time.
const CHUNK_BLOCKS: u64 = 64;
/// The largest window that a zstd file may ask for: what `zstd` itself takes without being told.
const WINDOW_LOG_MAX: u32 = 27;

/// The files of a scan.
pub(super) struct Files<'a> {
    root: &'a Path,
    found: &'a [Found],
    held: HashMap<usize, Rc<File>>,
    /// What each file that was opened began with when it was.
    heads: HashMap<usize, Head>,
}

/// The digest of a file's first bytes: a file that was cut and has grown again begins with others.
pub(super) type Head = blake3::Hash;

/// How a file of `size` bytes begins now.
pub(super) fn head_of(file: &File, size: u64) -> io::Result<Head> {
    let mut bytes = vec![0; usize::try_from(size.min(u64::from(BLOCK_BYTES))).expect("a block at most")];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(blake3::hash(&bytes))
}

/// How a file compares with a captured prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreement {
    /// Whole blocks that agree, from the first.
    pub(super) blocks: u64,
    /// Whether the whole prefix does.
    pub(super) is_complete: bool,
    /// Whether a block was seen that differs; otherwise the file just ended.
    pub(super) differs: bool,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
}

impl Compression {
    fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ => None,
        }
    }
}

/// Opens a file without following a link or waiting for a pipe.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

impl<'a> Files<'a> {
    pub(super) fn new(root: &'a Path, found: &'a [Found]) -> Self {
        Files { root, found, held: HashMap::new(), heads: HashMap::new() }
    }

    fn path(&self, at: usize) -> PathBuf {
        self.root.join(self.found[at].path.to_relative())
    }

    /// Opens a file and makes sure that it is the one that was found.
    fn open(&self, at: usize) -> Result<File, Trouble> {
        let path = self.path(at);
        let file = open_file(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Trouble::Moved,
            _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => Trouble::Moved,
            _ => failures::unreadable(&path, &error).into(),
        })?;
        let metadata = file.metadata().map_err(|error| failures::unreadable(&path, &error))?;
        let (now, then) = (Stamp::of(&metadata), self.found[at].stamp);
        if now.identity() != then.identity() || now.size < then.size {
            return Err(Trouble::Moved);
        }
        Ok(file)
    }

    fn get(&mut self, at: usize) -> Result<Rc<File>, Trouble> {
        if let Some(file) = self.held.get(&at) {
            return Ok(file.clone());
        }
        let file = Rc::new(self.open(at)?);
        if !self.heads.contains_key(&at) {
            let head = head_of(&file, self.found[at].stamp.size);
            self.heads.insert(at, head.map_err(|error| self.cut_or_unreadable(at, &error))?);
        }
        if self.held.len() < HELD_MAX {
            self.held.insert(at, file.clone());
        }
        Ok(file)
    }

    /// Opens every file once.
    pub(super) fn try_all(&self) -> Result<(), Trouble> {
        let mut files = (0..self.found.len()).filter(|at| self.found[*at].kind == Kind::File);
        files.try_for_each(|at| self.open(at).map(drop))
    }

    /// Keeps those open of which the view will read something, the last written first, and no others.
    pub(super) fn hold_what_will_be_read(&mut self, matched: &Matched) -> Result<(), Trouble> {
        let mut wanted: Vec<usize> = (0..self.found.len())
            .filter(|at| self.found[*at].kind == Kind::File && matched.is_read(*at, &self.found[*at]))
            .collect();
        wanted.sort_by_key(|at| std::cmp::Reverse(self.found[*at].stamp.modified_ns));
        wanted.truncate(HELD_MAX);
        self.held.retain(|at, _| wanted.contains(at));
        wanted.into_iter().try_for_each(|at| self.get(at).map(drop))
    }

    /// The files that stay open, and what those that were opened began with.
    pub(super) fn into_held(self) -> (HashMap<usize, File>, HashMap<usize, Head>) {
        let own = |(at, file): (usize, Rc<File>)| Some((at, Rc::into_inner(file)?));
        (self.held.into_iter().filter_map(own).collect(), self.heads)
    }

    /// The first bytes of a file, at most `count`.
    pub(super) fn head(&mut self, at: usize, count: usize) -> Result<Vec<u8>, Trouble> {
        let file = self.get(at)?;
        let count = count.min(usize::try_from(self.found[at].stamp.size).unwrap_or(usize::MAX));
        let mut head = vec![0; count];
        match file.read_exact_at(&mut head, 0) {
            Ok(()) => Ok(head),
            Err(error) => Err(self.cut_or_unreadable(at, &error)),
        }
    }

    /// How a file is compressed, if it is.
    pub(super) fn compression(&mut self, at: usize) -> Result<Option<Compression>, Trouble> {
        Ok(Compression::of(&self.head(at, 4)?))
    }

    fn cut_or_unreadable(&self, at: usize, error: &io::Error) -> Trouble {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Trouble::Moved,
            _ => failures::unreadable(&self.path(at), error).into(),
        }
    }

    /// Compares what a file holds with a captured prefix.
    pub(super) fn compare(&mut self, at: usize, past: &PastFile, last: &dyn LastCapture) -> Result<Agreement, Trouble> {
        let file = self.get(at)?;
        let mut from = 0;
        let size = self.found[at].stamp.size;
        let fill = |buffer: &mut [u8]| {
            let count = buffer.len().min(usize::try_from(size - from).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..count], from)?;
            from += count as u64;
            Ok(count)
        };
        match compare(fill, past, last)? {
            Ok(agreement) => Ok(agreement),
            Err(error) => Err(self.cut_or_unreadable(at, &error)),
        }
    }

    /// Compares what a compressed file unpacks to with a captured prefix; no more is unpacked than that takes.
    pub(super) fn compare_unpacked(
        &mut self,
        at: usize,
        compression: Compression,
        past: &PastFile,
        last: &dyn LastCapture,
    ) -> Result<Agreement, Trouble> {
        let mut unpacked = self.unpacked(at, compression)?;
        let fill = |buffer: &mut [u8]| {
            let mut filled = 0;
            while filled < buffer.len() {
                // What cannot be unpacked further ends there.
                match unpacked.read(&mut buffer[filled..]) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => filled += count,
                }
            }
            Ok(filled)
        };
        let compared = compare(fill, past, last)?;
        compared.map_err(|error| failures::unreadable(&self.path(at), &error).into())
    }

    /// The first bytes that a compressed file unpacks to, at most a block.
    pub(super) fn unpacked_head(&mut self, at: usize, compression: Compression) -> Result<Vec<u8>, Trouble> {
        let mut head = Vec::new();
        // What was unpacked before it failed is there all the same.
        let _ = self.unpacked(at, compression)?.take(u64::from(BLOCK_BYTES)).read_to_end(&mut head);
        Ok(head)
    }

    fn unpacked(&mut self, at: usize, compression: Compression) -> Result<Box<dyn Read>, Trouble> {
        let reader = FileReader { file: self.get(at)?, from: 0 };
        Ok(match compression {
            Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, reader))),
            Compression::Zstd => {
                let failed = |error: io::Error| Failure::internal(format!("zstd does not start: {error}"));
                let mut decoder = zstd::stream::read::Decoder::new(reader).map_err(failed)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
                Box::new(decoder)
            }
        })
    }
}

/// Reads a file from its start without moving the place of its descriptor.
struct FileReader {
    file: Rc<File>,
    from: u64,
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.from)?;
        self.from += count as u64;
        Ok(count)
    }
}

/// Compares content with a captured prefix; `fill` gives less than it was asked for only at the end.
fn compare(
    mut fill: impl FnMut(&mut [u8]) -> io::Result<usize>,
    past: &PastFile,
    last: &dyn LastCapture,
) -> Result<io::Result<Agreement>, Failure> {
    let block_bytes = u64::from(BLOCK_BYTES);
    let mut buffer = vec![0; usize::try_from(CHUNK_BLOCKS * block_bytes).expect("small")];
    let mut blocks = 0;
    while blocks < past.blocks() {
        // The first block decides nearly every time.
        let count = if blocks == 0 { 1 } else { CHUNK_BLOCKS };
        let from = blocks * block_bytes;
        let wanted = usize::try_from((past.stamp.size - from).min(count * block_bytes)).expect("a chunk at most");
        let buffer = &mut buffer[..wanted.next_multiple_of(BLOCK_BYTES as usize)];
        let filled = match fill(&mut buffer[..wanted]) {
            Ok(filled) => filled,
            Err(error) => return Ok(Err(error)),
        };
        buffer[wanted..].fill(0);
        // Of a file that ends early only whole blocks can be compared.
        let comparable = if filled == wanted { buffer.len() } else { filled - filled % BLOCK_BYTES as usize };
        let chunks = buffer[..comparable].chunks_exact(BLOCK_BYTES as usize);
        let known = last.digests(&past.path, blocks, chunks.len() as u64)?;
        let known = known.ok_or_else(|| Failure::internal(format!("no digests of {} are known", past.path)))?;
        let agreeing = chunks.zip(&known).take_while(|(block, digest)| last.digest(block) == **digest).count();
        blocks += agreeing as u64;
        if agreeing < known.len() {
            return Ok(Ok(Agreement { blocks, is_complete: false, differs: true }));
        }
        if filled < wanted {
            return Ok(Ok(Agreement { blocks, is_complete: false, differs: false }));
        }
    }
    Ok(Ok(Agreement { blocks, is_complete: true, differs: false }))
}
