//! A copy in progress, between `pg_backup_start` and `pg_backup_stop`.
//!
//! The files change while they are read. That is no matter: whatever was read in between is good, because replay of the
//! log from the start makes one state of it.

use super::{
    Server,
    control::{self, Control},
    failures,
    fingerprint::Taking,
    names::{Fork, RelationFile},
    pages::{self, Page},
    past::Past,
    session::Session,
    summaries::Touched,
    walk::{Found, Kind, Stamp},
};
use crate::{
    core::{
        blocks::BlockSet,
        failure::Failure,
        fingerprint::Fingerprints,
        log::{HistoryId, LogRange, Lsn},
        manifest::{Entry, EntryKind},
        path::StoredPath,
        policy::FingerprintRule,
    },
    sources::{FingerprintJob, LogBeginning, READ_BYTES, Sink, Suspects, View, ViewFacts},
    world::Stopwatch,
};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

const LABEL: &str = "backup_label";
/// The server would make links out of it, to places that a restored server must not touch: this name it passes over.
const TABLESPACE_MAP: &str = "tablespace_map.old";
const LABEL_BYTES_MAX: u64 = 64 * 1024;
const TABLESPACE_MAP_BYTES_MAX: u64 = 1 << 20;

/// How long after a bad page it is looked at again, and how often: the server may be writing it.
const REREAD_AFTER: Duration = Duration::from_millis(2);
const REREADS: u32 = 3;
/// How often a long copy makes sure that its session is there.
const SESSION_CHECK: Duration = Duration::from_secs(30);
/// How many damaged pages are named one by one.
const DAMAGED_NAMED: usize = 20;
/// Files without which nothing starts; all others may vanish.
const NEEDED: &[&str] = &["PG_VERSION", "global/pg_filenode.map"];

/// What an entry is read from.
enum Content {
    Nothing,
    File { place: PathBuf, stamp: Stamp, relation: Option<RelationFile> },
    Held(Vec<u8>),
}

/// What a view begins with.
pub(super) struct Beginning {
    pub(super) data_dir: PathBuf,
    pub(super) server: Server,
    pub(super) session: Session,
    pub(super) control: Control,
    pub(super) in_recovery: bool,
    pub(super) start: Lsn,
    pub(super) facts: ViewFacts,
    pub(super) found: Vec<Found>,
    pub(super) has_tablespaces: bool,
    /// Before the files were looked at.
    pub(super) looked_at_ms: i64,
    pub(super) past: Option<Past>,
    /// What the log has touched since, where the server tells.
    pub(super) touched: Option<Touched>,
    pub(super) read_limit_bytes: Option<u64>,
}

/// The copy.
pub(super) struct PostgresView {
    data_dir: PathBuf,
    server: Server,
    session: Option<Session>,
    control: Control,
    in_recovery: bool,
    start: Lsn,
    facts: ViewFacts,
    contents: Vec<Content>,
    late: Vec<usize>,
    past: Option<Past>,
    touched: Option<Touched>,
    looked_at_ms: i64,
    damaged: Vec<(StoredPath, u64)>,
    read_limit_bytes: Option<u64>,
    read_bytes: u64,
    stopwatch: Stopwatch,
    asked: Duration,
}

impl PostgresView {
    pub(super) fn new(beginning: Beginning) -> Result<Self, Failure> {
        let Beginning { data_dir, server, session, control, in_recovery, start, mut facts, found, .. } = beginning;
        let mut items: Vec<(Entry, Content)> = found.into_iter().map(|found| item(found, control.block_size)).collect();
        let mut late = vec![(control::PATH, control::BYTES as u64), (LABEL, LABEL_BYTES_MAX)];
        if beginning.has_tablespaces {
            late.push((TABLESPACE_MAP, TABLESPACE_MAP_BYTES_MAX));
        }
        let owner = fs::metadata(&data_dir).map_err(|error| failures::unreadable(&data_dir, &error))?;
        for (path, size) in &late {
            let path = StoredPath::parse(path).expect("a plain name");
            let kind = EntryKind::File { size: *size, block_size: control.block_size };
            let entry = Entry { path, kind, mode: 0o600, uid: owner.uid(), gid: owner.gid() };
            items.push((entry, Content::Held(Vec::new())));
        }
        items.sort_by(|a, b| a.0.path.cmp(&b.0.path));
        let (entries, contents): (Vec<Entry>, Vec<Content>) = items.into_iter().unzip();
        let place = |path: &str| entries.iter().position(|entry| entry.path.as_str() == path);
        let late = late.iter().filter_map(|(path, _)| place(path)).collect();
        facts.entries = entries;
        Ok(PostgresView {
            data_dir,
            server,
            session: Some(session),
            control,
            in_recovery,
            start,
            facts,
            contents,
            late,
            past: beginning.past,
            touched: beginning.touched,
            looked_at_ms: beginning.looked_at_ms,
            damaged: Vec::new(),
            read_limit_bytes: beginning.read_limit_bytes,
            read_bytes: 0,
            stopwatch: Stopwatch::start(),
            asked: Duration::ZERO,
        })
    }

    fn path(&self, entry: usize) -> &StoredPath {
        &self.facts.entries[entry].path
    }

    /// Makes a long copy keep to its limit, and notices soon when it was in vain.
    fn pace(&mut self, bytes: usize) -> Result<(), Failure> {
        self.read_bytes += bytes as u64;
        if let Some(limit) = self.read_limit_bytes {
            let due = Duration::from_secs_f64(self.read_bytes as f64 / limit as f64);
            thread::sleep(due.saturating_sub(self.stopwatch.elapsed()));
        }
        if self.stopwatch.elapsed() > self.asked + SESSION_CHECK {
            self.asked = self.stopwatch.elapsed();
            self.session.as_ref().map_or(Ok(()), Session::check)?;
        }
        Ok(())
    }

    fn read_run(
        &mut self,
        entry: usize,
        file: Option<&File>,
        (first, count): (u64, u64),
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        let block_bytes = u64::from(self.control.block_size);
        let blocks = self.facts.entries[entry].blocks();
        let end = first.checked_add(count).filter(|end| *end <= blocks);
        let end = end.ok_or_else(|| Failure::internal(format!("no blocks {first}+{count} in {}", self.path(entry))))?;
        // What grows is in the log: no more is read than was planned.
        let size = self.facts.entries[entry].size();
        let mut buffer = vec![0; READ_BYTES];
        let mut at = first;
        while at < end {
            let to = end.min(at + READ_BYTES as u64 / block_bytes);
            let from = at * block_bytes;
            let piece = &mut buffer[..usize::try_from((to - at) * block_bytes).expect("a piece")];
            let wanted = usize::try_from(size.min(to * block_bytes) - from).expect("a piece");
            let filled = match (&self.contents[entry], file) {
                (Content::Held(bytes), _) => {
                    let held = bytes.get(from as usize..).unwrap_or_default();
                    let held = &held[..held.len().min(wanted)];
                    piece[..held.len()].copy_from_slice(held);
                    held.len()
                }
                (Content::File { place, .. }, Some(file)) => {
                    read_up_to(file, &mut piece[..wanted], from).map_err(|error| failures::unreadable(place, &error))?
                }
                // Dropped or cut since: replay does the same, and never reads what is not there.
                _ => 0,
            };
            piece[filled..].fill(0);
            // A free space map is not in the log, and mended by the server where a crash has torn it.
            if let (Content::File { relation: Some(relation), .. }, Some(file)) = (&self.contents[entry], file)
                && self.control.has_checksums
                && relation.fork != Fork::FreeSpace
            {
                let relation = *relation;
                self.check_pages(entry, file, relation, at, &mut piece[..filled])?;
            }
            sink(at, piece)?;
            self.pace(piece.len())?;
            at = to;
        }
        Ok(())
    }

    /// Checks the checksums of pages; what was written while it was read is read again.
    fn check_pages(
        &mut self,
        entry: usize,
        file: &File,
        relation: RelationFile,
        first: u64,
        bytes: &mut [u8],
    ) -> Result<(), Failure> {
        let size = self.control.block_size as usize;
        let before = u64::from(relation.segment) * u64::from(self.control.segment_blocks);
        for (at, page) in bytes.chunks_exact_mut(size).enumerate() {
            let block = first + at as u64;
            // Numbers of blocks wrap nowhere below 32 bits.
            let number = u32::try_from(before + block).unwrap_or(u32::MAX);
            if pages::judge(page, number, self.start) != Page::Bad {
                continue;
            }
            if is_damaged(file, page, block * size as u64, number, self.start) {
                self.damaged.push((self.path(entry).clone(), block));
            }
        }
        Ok(())
    }

    fn file(&self, entry: usize) -> Result<Option<File>, Failure> {
        let Content::File { place, .. } = &self.contents[entry] else { return Ok(None) };
        match File::open(place) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !NEEDED.contains(&self.path(entry).as_str()) => {
                Ok(None)
            }
            Err(error) => Err(failures::unreadable(place, &error)),
        }
    }

    /// Gives a late file its content.
    fn set_late(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let Some(at) = self.late.iter().copied().find(|at| self.path(*at).as_str() == path) else { return Ok(()) };
        let EntryKind::File { size, .. } = &mut self.facts.entries[at].kind else { return Ok(()) };
        if bytes.len() as u64 > *size {
            return Err(failures::unfit(format!("PostgreSQL's {path} has {} bytes, too many", bytes.len())));
        }
        *size = bytes.len() as u64;
        self.contents[at] = Content::Held(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        let session = self.session.as_ref().ok_or_else(|| Failure::internal("a copy that was ended twice"))?;
        session.check()?;
        let (control, bytes) = Control::read(&self.data_dir)?;
        if control.system != self.control.system || control.timeline != self.control.timeline {
            return Err(failures::unfit(format!("{} {}", self.data_dir.display(), crate::sources::CHANGED_WHILE_READ))
                .cause(format!(
                    "its system and timeline were {}-{} and are {}-{}: it was promoted, or replaced",
                    self.control.system, self.control.timeline, control.system, control.timeline
                ))
                .next_step("run the same command again"));
        }
        let stopped = session.stop()?;
        let timeline = label_timeline(&stopped.label).unwrap_or(control.timeline);
        let history = HistoryId { system: control.system, timeline };
        let range = LogRange {
            history,
            segment_bytes: control.wal_segment_bytes,
            start: self.start,
            stop: stopped.stop,
            stopped_at: stopped.stopped_at,
            next_transaction: Some(stopped.next_transaction),
        };
        if let Some(why) = range.contradiction() {
            return Err(failures::unfit("PostgreSQL gave an impossible range of its log").cause(why));
        }
        self.session = None;
        self.set_late(control::PATH, bytes)?;
        self.set_late(LABEL, stopped.label.into_bytes())?;
        self.set_late(TABLESPACE_MAP, stopped.tablespace_map.into_bytes())?;
        self.facts.position = format!("{}..{}", range.start, range.stop);
        self.facts.history = Some(history.to_string());
        self.facts.fingerprint = Some(self.fingerprint(history, stopped.stop));
        self.facts.log = Some(range);
        if self.in_recovery {
            self.facts.notes.push("taken from a standby".to_owned());
        }
        self.warn_of_damage();
        Ok(())
    }

    fn fingerprint(&self, history: HistoryId, stop: Lsn) -> serde_json::Value {
        let mut past = Past::new(history, self.start, stop);
        for (entry, content) in self.facts.entries.iter().zip(&self.contents) {
            if let Content::File { stamp, .. } = content {
                past.files.insert(entry.path.clone(), (*stamp, stamp.is_settled(self.looked_at_ms)));
            }
        }
        past.damaged.clone_from(&self.damaged);
        serde_json::to_value(past).expect("a record is plain values")
    }

    fn warn_of_damage(&mut self) {
        let more = self.damaged.len().saturating_sub(DAMAGED_NAMED);
        for (path, block) in self.damaged.iter().take(DAMAGED_NAMED) {
            self.facts.warnings.push(format!(
                "{path}, block {block}: the page's checksum is wrong in the source, and was before the copy began; find \
                 out what it belongs to (pg_amcheck, pg_filenode_relation) and what damaged it"
            ));
        }
        if more > 0 {
            self.facts.warnings.push(format!("{more} more pages of the source are damaged"));
        }
    }
}

impl View for PostgresView {
    fn facts(&self) -> &ViewFacts {
        &self.facts
    }

    fn is_fuzzy(&self) -> bool {
        true
    }

    fn suspects(&self, entry: usize) -> Suspects {
        let (Some(past), Content::File { stamp, relation, .. }) = (&self.past, &self.contents[entry]) else {
            return Suspects::All;
        };
        let path = self.path(entry);
        let Some((before, is_settled)) = past.files.get(path) else { return Suspects::All };
        let blocks = self.facts.entries[entry].blocks();
        let mut again = if *is_settled && before == stamp {
            BlockSet::none(blocks)
        } else {
            let is_same_file = (before.device, before.inode) == (stamp.device, stamp.inode);
            let touched = self.touched.as_ref().zip(*relation).filter(|_| is_same_file);
            let segment_blocks = self.control.segment_blocks;
            match touched.and_then(|(touched, file)| touched.of(path.as_str(), file, blocks, segment_blocks)) {
                Some(set) => set,
                None => return Suspects::All,
            }
        };
        let damaged = past.damaged.iter().filter(|(damaged, block)| damaged == path && *block < again.length());
        damaged.map(|(_, block)| *block).collect::<Vec<_>>().into_iter().for_each(|block| again.insert(block));
        Suspects::Blocks(again)
    }

    fn log_begins(&self) -> Option<LogBeginning> {
        let history = HistoryId { system: self.control.system, timeline: self.control.timeline };
        let beginning = LogBeginning { history, segment_bytes: self.control.wal_segment_bytes, start: self.start };
        // A standby finishes no segments itself.
        (!self.in_recovery).then_some(beginning)
    }

    fn late(&self) -> &[usize] {
        &self.late
    }

    fn read(
        &mut self,
        entry: usize,
        runs: &mut dyn Iterator<Item = (u64, u64)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure> {
        if matches!(self.contents.get(entry), None | Some(Content::Nothing)) {
            return Err(Failure::internal(format!("entry {entry} is no file")));
        }
        let file = self.file(entry)?;
        for (first, count) in runs {
            // A late file turned out to be shorter than the most that it could have.
            let blocks = self.facts.entries[entry].blocks();
            let within = if self.late.contains(&entry) { count.min(blocks.saturating_sub(first)) } else { count };
            if within > 0 {
                self.read_run(entry, file.as_ref(), (first, within), sink)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.end()
    }

    fn fingerprints(&self, rule: &FingerprintRule) -> Option<FingerprintJob> {
        if self.in_recovery {
            let database = self.server.dbname.clone().unwrap_or_default();
            let why = "the snapshot was taken from a standby, which cannot lock tables";
            return Some(Box::new(move || Fingerprints::not_taken(&database, why)));
        }
        let history = self.facts.log.as_ref().map(|range| range.history)?;
        let (data_dir, server, rule) = (self.data_dir.clone(), self.server.clone(), rule.clone());
        Some(Box::new(move || Taking { data_dir, server, history, rule }.take()))
    }

    fn check(&self) -> Result<(), Failure> {
        self.session.as_ref().map_or(Ok(()), Session::check)
    }

    fn close(self: Box<Self>) -> Result<(), Failure> {
        if self.session.is_some() {
            return Err(Failure::internal("a copy that was closed before its end"));
        }
        Ok(())
    }
}

fn item(found: Found, block_size: u32) -> (Entry, Content) {
    let Found { path, place, kind, stamp, mode, uid, gid } = found;
    let file = |size| EntryKind::File { size, block_size };
    let (kind, content) = match kind {
        Kind::Directory => (EntryKind::Directory, Content::Nothing),
        Kind::Relation(relation) => (file(stamp.size), Content::File { place, stamp, relation: Some(relation) }),
        Kind::File => (file(stamp.size), Content::File { place, stamp, relation: None }),
        Kind::Held(bytes) => (file(bytes.len() as u64), Content::Held(bytes)),
    };
    (Entry { path, kind, mode, uid, gid }, content)
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

/// Whether a bad page stays as it is. The newest reading of it stays in `page`.
fn is_damaged(file: &File, page: &mut [u8], from: u64, number: u32, start: Lsn) -> bool {
    for _ in 0..REREADS {
        thread::sleep(REREAD_AFTER);
        let mut again = vec![0; page.len()];
        match read_up_to(file, &mut again, from) {
            Ok(count) if count == page.len() && again != page => {
                page.copy_from_slice(&again);
                if pages::judge(page, number, start) != Page::Bad {
                    return false;
                }
            }
            Ok(count) if count == page.len() => return true,
            // Cut since.
            _ => return false,
        }
    }
    // It changes all the time: the server is writing it, and the log has it.
    false
}

/// The timeline that the label says the copy was begun on.
fn label_timeline(label: &str) -> Option<u32> {
    label.lines().find_map(|line| line.strip_prefix("START TIMELINE: ")?.trim().parse().ok())
}

/// Refuses a label that another way of backing up has left: a server that crashes now would begin from it.
pub(super) fn refuse_stale_label(data_dir: &Path) -> Result<(), Failure> {
    let label = data_dir.join(LABEL);
    if !label.exists() {
        return Ok(());
    }
    Err(failures::unfit(format!("{} is there", label.display()))
        .cause("a running PostgreSQL has none: a copy of a file system or a broken restore has left it")
        .next_step(
            "find out where it came from; if this server is the one that you want, and runs, move the file out of the \
             data directory",
        ))
}
