//! A copy in progress, between `pg_backup_start` and `pg_backup_stop`.
//!
//! The files change while they are read. That is no matter: whatever was read in between is good, because replay of the
//! log from the start makes one state of it.

use super::{
    Rules, Server,
    control::{self, Control},
    failures,
    files::{Content, Files, copy_up_to, item},
    fingerprint::Taking,
    past::Past,
    session::{self, Places, Session},
    summaries::Touched,
    walk::Found,
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
    sources::{CHANGED_WHILE_READ, FingerprintJob, LogBeginning, READ_BYTES, Reader, Sink, Suspects, View, ViewFacts},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

const LABEL: &str = "backup_label";
/// The server would make links out of it, to places that a restored server must not touch: this name it passes over.
const TABLESPACE_MAP: &str = "tablespace_map.old";
const LABEL_BYTES_MAX: u64 = 64 * 1024;
const TABLESPACE_MAP_BYTES_MAX: u64 = 1 << 20;

/// How many damaged pages are named one by one.
const DAMAGED_NAMED: usize = 20;

/// What a view begins with.
pub(super) struct Beginning {
    pub(super) data_dir: PathBuf,
    pub(super) server: Server,
    pub(super) session: Session,
    /// Where the databases lay before the copy began.
    pub(super) places: Places,
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
    pub(super) rules: Rules,
}

/// The copy.
pub(super) struct PostgresView {
    data_dir: PathBuf,
    server: Server,
    session: Option<Session>,
    places: Places,
    control: Control,
    in_recovery: bool,
    start: Lsn,
    facts: ViewFacts,
    files: Arc<Files>,
    late: Vec<usize>,
    /// What is late, once it is known.
    late_contents: BTreeMap<usize, Vec<u8>>,
    past: Option<Past>,
    touched: Option<Touched>,
    looked_at_ms: i64,
    rules: Rules,
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
        let files = Files::new(contents, &control, start, beginning.rules.read_limit_bytes);
        if let Some(past) = beginning.past.as_ref().filter(|past| !past.damaged.is_empty()) {
            let at = |path: &StoredPath| entries.binary_search_by(|entry| entry.path.cmp(path)).ok();
            let damaged = past.damaged.iter().filter_map(|(path, block)| Some((at(path)?, *block)));
            files.set_doubtful(damaged.collect());
        }
        facts.entries = entries;
        Ok(PostgresView {
            data_dir,
            server,
            session: Some(session),
            places: beginning.places,
            control,
            in_recovery,
            start,
            facts,
            files: Arc::new(files),
            late,
            late_contents: BTreeMap::new(),
            past: beginning.past,
            touched: beginning.touched,
            looked_at_ms: beginning.looked_at_ms,
            rules: beginning.rules,
        })
    }

    fn path(&self, entry: usize) -> &StoredPath {
        &self.facts.entries[entry].path
    }

    /// Reads a run of a file in pieces, as the bytes are to be kept.
    fn read_run(&self, entry: usize, (first, count): (u64, u64), sink: &mut Sink<'_>) -> Result<(), Failure> {
        let block_bytes = u64::from(self.control.block_size);
        let end = first.checked_add(count).filter(|end| *end <= self.facts.entries[entry].blocks());
        let end = end.ok_or_else(|| Failure::internal(format!("no blocks {first}+{count} in {}", self.path(entry))))?;
        let late = self.late_contents.get(&entry).map(Vec::as_slice);
        let file = if late.is_some() { None } else { self.files.open(entry)? };
        let mut buffer = vec![0; READ_BYTES];
        for at in (first..end).step_by(READ_BYTES / block_bytes as usize) {
            let to = end.min(at + READ_BYTES as u64 / block_bytes);
            let piece = &mut buffer[..((to - at) * block_bytes) as usize];
            match late {
                Some(bytes) => {
                    let filled = copy_up_to(bytes, at * block_bytes, piece);
                    piece[filled..].fill(0);
                }
                None => {
                    self.files.read(entry, file.as_ref(), at, piece)?;
                    for (block, bytes) in (at..to).zip(piece.chunks_exact_mut(block_bytes as usize)) {
                        self.files.examine(entry, block, bytes)?;
                    }
                }
            }
            sink(at, piece)?;
        }
        Ok(())
    }

    /// Gives a late file its content.
    fn set_late(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Failure> {
        let Some(at) = self.late.iter().copied().find(|at| self.path(*at).as_str() == path) else { return Ok(()) };
        let EntryKind::File { size, .. } = &mut self.facts.entries[at].kind else { return Ok(()) };
        if bytes.len() as u64 > *size {
            return Err(failures::unfit(format!("PostgreSQL's {path} has {} bytes, too many", bytes.len())));
        }
        *size = bytes.len() as u64;
        self.late_contents.insert(at, bytes);
        Ok(())
    }

    /// What was read is not one state, and is read again.
    fn changed(&self, cause: String) -> Failure {
        failures::unfit(format!("{} {CHANGED_WHILE_READ}", self.data_dir.display())).cause(cause)
    }

    fn end(&mut self) -> Result<(), Failure> {
        let session = self.session.as_ref().ok_or_else(|| Failure::internal("a copy that was ended twice"))?;
        session.check()?;
        let (control, bytes) = Control::read(&self.data_dir)?;
        if control.system != self.control.system || control.timeline != self.control.timeline {
            return Err(self
                .changed(format!(
                    "its system and timeline were {}-{} and are {}-{}: it was promoted, or replaced",
                    self.control.system, self.control.timeline, control.system, control.timeline
                ))
                .next_step("run the same command again"));
        }
        if let Some(database) = session::moved(&self.places, &session.places()?) {
            return Err(failures::unfit(format!("{} {}", self.data_dir.display(), crate::sources::CHANGED_WHILE_READ))
                .cause(format!(
                    "the database {database} was moved, or removed after another was made, during the backup"
                ))
                .next_step("run the same command again when no database is moved or made"));
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
        for (entry, content) in self.facts.entries.iter().zip(self.files.contents()) {
            if let Content::File(place) = content {
                past.files.insert(entry.path.clone(), (place.stamp, place.stamp.is_settled(self.looked_at_ms)));
            }
        }
        let wrong = self.files.wrong().into_iter();
        past.damaged = wrong.map(|(entry, block, _)| (self.path(entry).clone(), block)).collect();
        serde_json::to_value(past).expect("a record is plain values")
    }

    fn warn_of_damage(&mut self) {
        let damaged: Vec<(usize, u64, bool)> = self.files.wrong().into_iter().filter(|(.., damage)| *damage).collect();
        for (entry, block, _) in damaged.iter().take(DAMAGED_NAMED) {
            let path = self.path(*entry);
            self.facts.warnings.push(format!(
                "{path}, block {block}: the page's checksum is wrong in the source, and was before the copy began; find \
                 out what it belongs to (pg_amcheck, pg_filenode_relation) and what damaged it"
            ));
        }
        let more = damaged.len().saturating_sub(DAMAGED_NAMED);
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

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        Some(self.files.clone())
    }

    fn suspects(&self, entry: usize) -> Suspects {
        let (Some(past), Some(Content::File(place))) = (&self.past, self.files.content(entry)) else {
            return Suspects::All;
        };
        let path = self.path(entry);
        let Some((before, is_settled)) = past.files.get(path) else { return Suspects::All };
        let blocks = self.facts.entries[entry].blocks();
        let mut again = if *is_settled && *before == place.stamp {
            BlockSet::none(blocks)
        } else {
            let is_same_file = (before.device, before.inode) == (place.stamp.device, place.stamp.inode);
            let touched = self.touched.as_ref().zip(place.relation).filter(|_| is_same_file);
            let segment_blocks = self.control.segment_blocks;
            match touched.and_then(|(touched, file)| touched.of(path.as_str(), file, blocks, segment_blocks)) {
                Some(set) => set,
                None => return Suspects::All,
            }
        };
        self.files.doubtful(entry).filter(|block| *block < blocks).for_each(|block| again.insert(block));
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
        if matches!(self.files.content(entry), None | Some(Content::Nothing)) {
            return Err(Failure::internal(format!("entry {entry} is no file")));
        }
        for (first, count) in runs {
            // A late file turned out to be shorter than the most that it could have.
            let blocks = self.facts.entries[entry].blocks();
            let within = if self.late.contains(&entry) { count.min(blocks.saturating_sub(first)) } else { count };
            if within > 0 {
                self.read_run(entry, (first, within), sink)?;
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
        let taking = Taking {
            data_dir: self.data_dir.clone(),
            server: self.server.clone(),
            history,
            rule: rule.clone(),
            bin_dir: self.rules.bin_dir.clone(),
            scratch_dir: self.rules.scratch_dir.clone(),
        };
        Some(Box::new(move || taking.take()))
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
