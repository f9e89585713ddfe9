//! Where each captured prefix is now: the cheapest explanation first, and every one but the first by reading.
//!
//! A file explains one captured prefix. Only files of one rotated log may share: a snapshot may have seen a log and its
//! copy, or a log and what it was compressed to, and the original goes afterwards.

use super::{
    BLOCK_BYTES, Moment, Trouble,
    content::{Agreement, Compression, Files},
    judge, names,
    past::{Fingerprint, PastFile},
    scan::{Found, Kind},
};
use crate::{
    core::{alteration::Alteration, path::StoredPath},
    format::pack::BlockDigest,
    sources::LastCapture,
};
use std::collections::{HashMap, hash_map::Entry};

/// How many heads of unpacked files are kept.
const HEADS_MAX: usize = 4096;

/// What came of it.
pub(super) struct Matched {
    /// For each file found, the captured file that it continues.
    pub(super) continued: Vec<Option<usize>>,
    /// For each file found, whether nothing at all shows that it changed, and it was not read.
    pub(super) is_untouched: Vec<bool>,
    pub(super) alterations: Vec<Alteration>,
    /// For each file found, the size of what it continues.
    sizes: Vec<u64>,
}

impl Matched {
    /// Nothing is known of any file.
    pub(super) fn nothing(files: usize) -> Self {
        Matched {
            continued: vec![None; files],
            is_untouched: vec![false; files],
            alterations: Vec::new(),
            sizes: vec![0; files],
        }
    }

    /// How many blocks of a file are certain to be those that were captured.
    pub(super) fn certain_blocks(&self, at: usize, found: &Found) -> u64 {
        match self.continued[at] {
            Some(_) if self.sizes[at] == found.stamp.size => found.stamp.size.div_ceil(u64::from(BLOCK_BYTES)),
            Some(_) => self.sizes[at] / u64::from(BLOCK_BYTES),
            None => 0,
        }
    }

    /// Whether a view of the files reads something of one.
    pub(super) fn is_read(&self, at: usize, found: &Found) -> bool {
        self.continued[at].is_none() || self.sizes[at] < found.stamp.size
    }
}

/// Finds out what became of every captured file.
pub(super) fn find(
    past: &Fingerprint,
    found: &[Found],
    files: &mut Files<'_>,
    last: &dyn LastCapture,
    moment: Moment,
) -> Result<Matched, Trouble> {
    let mut search = Search::new(past, found, files, last);
    search.untouched(moment);
    search.same_files()?;
    search.same_heads()?;
    search.copies()?;
    search.compressed()?;
    let alterations = judge::alterations(&search, moment);
    let size = |at: Option<usize>| at.map_or(0, |at| past.files[at].stamp.size);
    Ok(Matched {
        sizes: search.continued.iter().map(|at| size(*at)).collect(),
        continued: search.continued,
        is_untouched: search.is_untouched,
        alterations,
    })
}

/// A file that was compared with a captured prefix in vain.
#[derive(Clone, Copy)]
pub(super) struct Tried {
    pub(super) found: usize,
    pub(super) agreement: Agreement,
    pub(super) is_unpacked: bool,
}

/// The search so far.
pub(super) struct Search<'a, 'f> {
    pub(super) past: &'a [PastFile],
    pub(super) found: &'a [Found],
    files: &'a mut Files<'f>,
    last: &'a dyn LastCapture,
    /// For each file found, the captured file whose bytes it holds.
    pub(super) continued: Vec<Option<usize>>,
    is_untouched: Vec<bool>,
    /// For each captured file, whether its bytes were found.
    pub(super) is_explained: Vec<bool>,
    /// For each captured file, what was compared in vain.
    pub(super) tried: Vec<Vec<Tried>>,
    by_path: HashMap<&'a StoredPath, usize>,
    by_identity: HashMap<(u64, u64), Vec<usize>>,
    by_root: HashMap<String, Vec<usize>>,
    /// Compressed files that already explain one.
    unpacked: Vec<bool>,
    heads: HashMap<usize, Vec<u8>>,
}

impl<'a, 'f> Search<'a, 'f> {
    fn new(past: &'a Fingerprint, found: &'a [Found], files: &'a mut Files<'f>, last: &'a dyn LastCapture) -> Self {
        let mut search = Search {
            // Of an empty file nothing was captured that could be lost.
            is_explained: past.files.iter().map(|file| file.stamp.size == 0).collect(),
            tried: vec![Vec::new(); past.files.len()],
            past: &past.files,
            continued: vec![None; found.len()],
            is_untouched: vec![false; found.len()],
            unpacked: vec![false; found.len()],
            by_path: HashMap::new(),
            by_identity: HashMap::new(),
            by_root: HashMap::new(),
            heads: HashMap::new(),
            found,
            files,
            last,
        };
        for (at, file) in found.iter().enumerate().filter(|(_, found)| found.kind == Kind::File) {
            search.by_path.insert(&file.path, at);
            search.by_identity.entry(file.stamp.identity()).or_default().push(at);
            search.by_root.entry(names::root(&file.path)).or_default().push(at);
        }
        search
    }

    pub(super) fn at_path(&self, past: usize) -> Option<usize> {
        self.by_path.get(&self.past[past].path).copied()
    }

    /// Files with the same device and inode, that of the same name first.
    pub(super) fn same_identity(&self, past: usize) -> Vec<usize> {
        let same = self.by_identity.get(&self.past[past].stamp.identity());
        let mut same = same.cloned().unwrap_or_default();
        same.sort_by_key(|at| self.found[*at].path != self.past[past].path);
        same
    }

    fn related(&self, past: usize) -> Vec<usize> {
        self.by_root.get(&names::root(&self.past[past].path)).cloned().unwrap_or_default()
    }

    fn unexplained(&self) -> Vec<usize> {
        (0..self.past.len()).filter(|past| !self.is_explained[*past]).collect()
    }

    /// Those that may be somewhere else. A file that still has some of its captured bytes and not the others was
    /// altered in its place, and a copy elsewhere does not make that good.
    fn gone(&self) -> Vec<usize> {
        let is_altered = |past: &usize| {
            let identity = self.past[*past].stamp.identity();
            self.tried[*past].iter().any(|tried| {
                tried.agreement.blocks > 0
                    && self.found[tried.found].stamp.identity() == identity
                    && self.continued[tried.found].is_none()
            })
        };
        self.unexplained().into_iter().filter(|past| !is_altered(past)).collect()
    }

    /// Files of which nothing shows that they changed, and which were read lately.
    fn untouched(&mut self, moment: Moment) {
        for past in 0..self.past.len() {
            let file = &self.past[past];
            let Some(at) = self.at_path(past).filter(|at| file.is_surely(&self.found[*at])) else { continue };
            if file.stamp.size > 0 && (moment.all || file.is_due(moment.now, moment.rules.reread_every)) {
                continue;
            }
            self.continued[at] = Some(past);
            self.is_untouched[at] = true;
            self.is_explained[past] = true;
        }
    }

    /// Compares a file; whether it begins with the captured bytes.
    fn begins_with(&mut self, at: usize, past: usize) -> Result<bool, Trouble> {
        if let Some(tried) = self.tried[past].iter().find(|tried| tried.found == at && !tried.is_unpacked) {
            return Ok(tried.agreement.is_complete);
        }
        let agreement = self.files.compare(at, &self.past[past], self.last)?;
        if !agreement.is_complete {
            self.tried[past].push(Tried { found: at, agreement, is_unpacked: false });
        }
        Ok(agreement.is_complete)
    }

    /// Lets a file that no other captured bytes are in continue the captured one, if it begins with its bytes.
    fn claim(&mut self, at: usize, past: usize) -> Result<bool, Trouble> {
        if self.continued[at].is_some() || !self.begins_with(at, past)? {
            return Ok(false);
        }
        self.continued[at] = Some(past);
        self.is_explained[past] = true;
        Ok(true)
    }

    /// The same inode, whatever it is called; then the same name.
    fn same_files(&mut self) -> Result<(), Trouble> {
        for past in self.unexplained() {
            for at in self.same_identity(past) {
                if self.claim(at, past)? {
                    break;
                }
            }
        }
        for past in self.unexplained() {
            if let Some(at) = self.at_path(past) {
                self.claim(at, past)?;
            }
        }
        Ok(())
    }

    /// Any file that begins with the bytes: copies, those of the same log first.
    fn same_heads(&mut self) -> Result<(), Trouble> {
        for past in self.gone() {
            for at in self.related(past) {
                if self.claim(at, past)? {
                    break;
                }
            }
        }
        let unexplained = self.gone();
        if unexplained.is_empty() {
            return Ok(());
        }
        let mut by_head: HashMap<u64, HashMap<BlockDigest, Vec<usize>>> = HashMap::new();
        for past in unexplained {
            let length = self.past[past].stamp.size.min(u64::from(BLOCK_BYTES));
            let heads = match by_head.entry(length) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.heads_of(length)?),
            };
            let Some(first) = self.first_digest(past)? else { continue };
            for at in heads.get(&first).cloned().unwrap_or_default() {
                if self.claim(at, past)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The digest of the first block of a captured file.
    fn first_digest(&self, past: usize) -> Result<Option<BlockDigest>, Trouble> {
        let digests = self.last.digests(&self.past[past].path, 0, 1)?;
        Ok(digests.and_then(|digests| digests.first().copied()))
    }

    /// Files that continue nothing yet, by the digest of their first bytes.
    fn heads_of(&mut self, length: u64) -> Result<HashMap<BlockDigest, Vec<usize>>, Trouble> {
        let mut heads: HashMap<BlockDigest, Vec<usize>> = HashMap::new();
        for at in 0..self.found.len() {
            let is_candidate = self.found[at].kind == Kind::File && self.continued[at].is_none();
            if !is_candidate || self.found[at].stamp.size < length {
                continue;
            }
            let mut head = self.files.head(at, usize::try_from(length).expect("a block at most"))?;
            head.resize(BLOCK_BYTES as usize, 0);
            heads.entry(self.last.digest(&head)).or_default().push(at);
        }
        Ok(heads)
    }

    /// Files of the same log that hold other captured bytes as well.
    fn copies(&mut self) -> Result<(), Trouble> {
        for past in self.gone() {
            let Some(first) = self.first_digest(past)? else { continue };
            for at in self.related(past) {
                let Some(holds) = self.continued[at] else { continue };
                // Most are told apart by what was captured of them, without reading.
                let whole = u64::from(BLOCK_BYTES);
                let is_comparable = self.past[past].stamp.size >= whole && self.past[holds].stamp.size >= whole;
                if is_comparable && self.first_digest(holds)? != Some(first) {
                    continue;
                }
                if self.begins_with(at, past)? {
                    self.is_explained[past] = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Files that unpack to the bytes, those of the same log first.
    fn compressed(&mut self) -> Result<(), Trouble> {
        let gone = self.gone();
        if gone.is_empty() {
            return Ok(());
        }
        let mut packed: Vec<(usize, Compression)> = Vec::new();
        for at in (0..self.found.len()).filter(|at| self.found[*at].kind == Kind::File) {
            packed.extend(self.files.compression(at)?.map(|compression| (at, compression)));
        }
        let mut by_head: HashMap<u64, PackedHeads> = HashMap::new();
        for past in gone {
            let length = self.past[past].stamp.size.min(u64::from(BLOCK_BYTES));
            let heads = match by_head.entry(length) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(self.packed_heads(&packed, length)?),
            };
            let Some(first) = self.first_digest(past)? else { continue };
            let mut candidates = heads.get(&first).cloned().unwrap_or_default();
            let root = names::root(&self.past[past].path);
            candidates.sort_by_key(|(at, _)| names::root(&self.found[*at].path) != root);
            for (at, compression) in candidates {
                let is_free = !self.unpacked[at] && self.continued[at].is_none();
                let is_related = names::root(&self.found[at].path) == root;
                if (is_free || is_related) && self.unpacks_to(at, compression, past)? {
                    self.unpacked[at] = true;
                    self.is_explained[past] = true;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Compressed files by the digest of the first bytes that they unpack to.
    fn packed_heads(&mut self, packed: &[(usize, Compression)], length: u64) -> Result<PackedHeads, Trouble> {
        let mut heads = PackedHeads::new();
        let length = usize::try_from(length).expect("a block at most");
        for (at, compression) in packed.iter().copied() {
            let mut head = match self.heads.get(&at) {
                Some(head) => head.clone(),
                None => self.files.unpacked_head(at, compression)?,
            };
            if self.heads.len() < HEADS_MAX {
                self.heads.entry(at).or_insert_with(|| head.clone());
            }
            if head.len() >= length {
                head.truncate(length);
                head.resize(BLOCK_BYTES as usize, 0);
                heads.entry(self.last.digest(&head)).or_default().push((at, compression));
            }
        }
        Ok(heads)
    }

    fn unpacks_to(&mut self, at: usize, compression: Compression, past: usize) -> Result<bool, Trouble> {
        let agreement = self.files.compare_unpacked(at, compression, &self.past[past], self.last)?;
        if !agreement.is_complete {
            self.tried[past].push(Tried { found: at, agreement, is_unpacked: true });
        }
        Ok(agreement.is_complete)
    }
}

type PackedHeads = HashMap<BlockDigest, Vec<(usize, Compression)>>;
