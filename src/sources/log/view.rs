//! One state of the directory: every file up to the size it had.

use super::{
    BLOCK_BYTES,
    content::{self, Head},
    failures,
    matching::Matched,
    past::{Fingerprint, PastFile, PastOther, milliseconds},
    scan::{self, Found, Kind, Scan, Stamp},
};
use crate::{
    core::{
        alteration::Alteration,
        failure::Failure,
        manifest::{Entry, EntryKind},
        time::Timestamp,
    },
    sources::{Continued, READ_BYTES, Sink, View, ViewFacts},
};
use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// A view of a directory of logs.
pub(super) struct LogView {
    root: PathBuf,
    facts: ViewFacts,
    found: Vec<Found>,
    continued: Vec<Option<Continued>>,
    alterations: Vec<Alteration>,
    /// Files that stay open, so that renaming them is no trouble.
    held: HashMap<usize, File>,
    /// What files began with before anything of them was compared or read.
    heads: HashMap<usize, Head>,
    /// Files of which something was read.
    was_read: Vec<bool>,
}

impl LogView {
    pub(super) fn new(
        root: &Path,
        scan: Scan,
        matched: Matched,
        past: Option<&Fingerprint>,
        (held, heads): (HashMap<usize, File>, HashMap<usize, Head>),
        started_at: Timestamp,
    ) -> Self {
        let Scan { found, notes } = scan;
        let files = found.iter().filter(|found| found.kind == Kind::File);
        let (count, bytes) = files.fold((0_u64, 0_u64), |(count, bytes), file| (count + 1, bytes + file.stamp.size));
        let continued = found.iter().enumerate().map(|(at, file)| {
            let past = &past?.files[matched.continued[at]?];
            Some(Continued { path: past.path.clone(), blocks: matched.certain_blocks(at, file) })
        });
        let facts = ViewFacts {
            identity: super::KIND.to_owned(),
            position: format!("bytes={bytes} files={count}"),
            read_started_at: started_at,
            entries: found.iter().map(entry_of).collect(),
            fingerprint: Some(fingerprint(&found, &matched, past, started_at)),
            notes,
            warnings: Vec::new(),
            history: None,
            log: None,
        };
        LogView {
            root: root.to_owned(),
            facts,
            continued: continued.collect(),
            alterations: matched.alterations,
            held,
            heads,
            was_read: vec![false; found.len()],
            found,
        }
    }

    /// Adds what the operator should know.
    pub(super) fn note(&mut self, note: String) {
        self.facts.notes.push(note);
    }

    fn path(&self, entry: usize) -> PathBuf {
        self.root.join(self.found[entry].path.to_relative())
    }

    fn moved(&self, entry: usize) -> Failure {
        failures::changed_while_read(&self.path(entry), "it was cut, replaced or removed")
    }

    /// Opens a file that was not kept open, under its name or under the one that it was given since.
    fn open(&self, entry: usize) -> Result<File, Failure> {
        let wanted = self.found[entry].stamp.identity();
        let try_path = |path: &Path| match content::open_file(path) {
            Ok(file) => match file.metadata() {
                Ok(metadata) if Stamp::of(&metadata).identity() == wanted => Ok(Some(file)),
                _ => Ok(None),
            },
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(failures::unreadable(path, &error)),
            Err(_) => Ok(None),
        };
        if let Some(file) = try_path(&self.path(entry))? {
            return Ok(file);
        }
        let now = scan::once(&self.root).map_err(|_| self.moved(entry))?;
        let renamed = now.found.iter().find(|found| found.kind == Kind::File && found.stamp.identity() == wanted);
        let renamed = renamed.ok_or_else(|| self.moved(entry))?;
        try_path(&self.root.join(renamed.path.to_relative()))?.ok_or_else(|| self.moved(entry))
    }

    fn read_run(
        &self,
        file: &File,
        entry: usize,
        (first, count): (u64, u64),
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let block_bytes = u64::from(BLOCK_BYTES);
        let blocks = self.facts.entries[entry].blocks();
        let end = first.checked_add(count).filter(|end| *end <= blocks);
        let end =
            end.ok_or_else(|| Failure::internal(format!("no blocks {first}+{count} in {:?}", self.path(entry))))?;
        let size = self.found[entry].stamp.size;
        let piece_blocks = READ_BYTES as u64 / block_bytes;
        let mut buffer = vec![0; READ_BYTES];
        let mut at = first;
        while at < end {
            let to = end.min(at + piece_blocks);
            let piece = &mut buffer[..usize::try_from((to - at) * block_bytes).expect("a piece")];
            let filled = usize::try_from(size.min(to * block_bytes) - at * block_bytes).expect("a piece");
            file.read_exact_at(&mut piece[..filled], at * block_bytes).map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => self.moved(entry),
                _ => failures::unreadable(&self.path(entry), &error),
            })?;
            piece[filled..].fill(0);
            sink(at, piece)?;
            at = to;
        }
        Ok(())
    }

    /// Whether a file that was read was written to without growing, or was cut and has grown again: then what was read
    /// may be of two states.
    fn is_torn(&self, entry: usize) -> bool {
        let then = self.found[entry].stamp;
        let opened;
        let file = match self.held.get(&entry) {
            Some(file) => file,
            None => match content::open_file(&self.path(entry)) {
                Ok(file) => {
                    opened = file;
                    &opened
                }
                // It was read while it was there.
                Err(_) => return false,
            },
        };
        let Ok(now) = file.metadata().map(|metadata| Stamp::of(&metadata)) else { return true };
        if now.identity() != then.identity() || now.modified_ns == then.modified_ns {
            return false;
        }
        let is_head_same = || {
            let head = self.heads.get(&entry);
            head.is_none_or(|head| content::head_of(file, then.size).is_ok_and(|now| now == *head))
        };
        now.size == then.size || (now.size > then.size && !is_head_same())
    }
}

impl View for LogView {
    fn facts(&self) -> &ViewFacts {
        &self.facts
    }

    fn read(
        &mut self,
        entry: usize,
        runs: &mut dyn Iterator<Item = (u64, u64)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        // Most files have nothing to be read: they are not even opened.
        let mut runs = runs.peekable();
        if runs.peek().is_none() {
            return Ok(());
        }
        if self.found.get(entry).is_none_or(|found| found.kind != Kind::File) {
            return Err(Failure::internal(format!("entry {entry} is no file")));
        }
        self.was_read[entry] = true;
        let opened;
        let size = self.found[entry].stamp.size;
        let file = match self.held.get(&entry) {
            Some(file) => file,
            None => {
                opened = self.open(entry)?;
                if !self.heads.contains_key(&entry) {
                    let head = content::head_of(&opened, size).map_err(|_| self.moved(entry))?;
                    self.heads.insert(entry, head);
                }
                &opened
            }
        };
        for run in runs {
            self.read_run(file, entry, run, sink)?;
        }
        Ok(())
    }

    fn continued(&self, entry: usize) -> Option<&Continued> {
        self.continued.get(entry)?.as_ref()
    }

    fn alterations(&self) -> &[Alteration] {
        &self.alterations
    }

    fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        match (0..self.found.len()).find(|entry| self.was_read[*entry] && self.is_torn(*entry)) {
            Some(entry) => {
                let cause = "it was written to, and did not grow";
                Err(failures::changed_while_read(&self.path(entry), cause))
            }
            None => Ok(()),
        }
    }
}

fn entry_of(found: &Found) -> Entry {
    let kind = match &found.kind {
        Kind::File => EntryKind::File { size: found.stamp.size, block_size: BLOCK_BYTES },
        Kind::Directory => EntryKind::Directory,
        Kind::Link(target) => EntryKind::Link { target: target.clone() },
    };
    Entry { path: found.path.clone(), kind, mode: found.mode, uid: found.uid, gid: found.gid }
}

fn fingerprint(
    found: &[Found],
    matched: &Matched,
    past: Option<&Fingerprint>,
    started_at: Timestamp,
) -> serde_json::Value {
    let file = |(at, found): (usize, &Found)| {
        let before = past.and_then(|past| Some(&past.files[matched.continued[at]?]));
        let newest_ns = before.map_or(found.stamp.modified_ns, |before| before.newest_ns.max(found.stamp.modified_ns));
        let unread = before.filter(|_| matched.is_untouched[at]);
        PastFile {
            path: found.path.clone(),
            stamp: found.stamp,
            settled: found.stamp.is_settled(started_at),
            newest_ns,
            read_at_ms: unread.map_or(milliseconds(started_at), |before| before.read_at_ms),
        }
    };
    let files = found.iter().enumerate().filter(|(_, found)| found.kind == Kind::File).map(file).collect();
    let others = found.iter().filter_map(PastOther::of).collect();
    serde_json::to_value(Fingerprint::new(files, others)).expect("a fingerprint is plain values")
}
