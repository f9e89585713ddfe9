//! Protected databases and logs, one folder each. A source never sees a store.
//!
//! A source yields, for a snapshot, a consistent [`View`]: its entries, and the blocks of its files
//! as they were at one position. All calls block; they run on threads made for that.

use crate::{
    core::{
        alteration::Alteration,
        blocks::BlockSet,
        failure::Failure,
        fingerprint::{Fingerprints, Place},
        log::{HistoryId, LogRange, Lsn, SegmentName, ServerTime},
        manifest::Entry,
        path::StoredPath,
        policy::{Assertion, FingerprintRule},
        server::Watched,
        time::Timestamp,
    },
    format::pack::BlockDigest,
    world::programs::Halt,
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

mod answers;
#[cfg(test)]
pub(crate) mod contract;
pub mod log;
pub mod memory;
pub mod postgres;
mod reader;
pub mod sqlite;

pub use reader::Reader;

/// A protected database or log directory.
pub trait Source: Send + Sync {
    /// The word used in configuration and inventories, such as `sqlite`.
    fn kind(&self) -> &'static str;

    /// Whether nothing can have changed since `fingerprint` was recorded. `false` whenever in doubt.
    ///
    /// Must not open the database: it looks at the file system only.
    fn is_unchanged(&self, fingerprint: &serde_json::Value) -> bool;

    /// Opens a consistent view, waiting for locks at most as long as the source's settings allow.
    fn open(&self) -> Result<Box<dyn View>, Failure>;

    /// The same, where local state knows what the last snapshot captured: an append-only source finds out what became
    /// of it. `all` wants every captured byte compared, whatever the file system says.
    fn open_since(&self, last: &dyn LastCapture, all: bool) -> Result<Box<dyn View>, Failure> {
        let _ = (last, all);
        self.open()
    }

    /// Whether what was captured must never change.
    fn is_append_only(&self) -> bool {
        false
    }

    /// Whether something must be read again although nothing shows that it changed.
    fn is_reread_due(&self, fingerprint: &serde_json::Value) -> bool {
        let _ = fingerprint;
        false
    }

    /// Why nothing of what the last snapshot captured can be used again, if so. It looks at the file system only.
    fn unusable_base(&self, fingerprint: Option<&serde_json::Value>) -> Option<String> {
        let _ = fingerprint;
        None
    }

    /// How the log that a snapshot needs gets to the stores, for sources that have one.
    fn log_shipping(&self) -> Option<LogShipping> {
        None
    }

    /// How the server of the source is, for whoever watches over it; `None` for sources without one. Waits for the server
    /// at most a few times `patience`.
    fn watch(&self, patience: Duration) -> Option<Watched> {
        let _ = patience;
        None
    }

    /// How many transactions the source's own log commits between two places; `None` where that is not certain.
    fn commits_between(&self, history: HistoryId, from: Lsn, to: Lsn) -> Option<u64> {
        let _ = (history, from, to);
        None
    }

    /// How many transactions the source's own log commits until a moment, of those whose record begins at or behind the
    /// first place; the next record will be at the second. `None` where that is not certain.
    fn commits_until(&self, history: HistoryId, range: (Lsn, Lsn), until: ServerTime) -> Option<u64> {
        let _ = (history, range, until);
        None
    }

    /// How often a snapshot is tried while views turn out not to be one state.
    fn attempts(&self) -> u32 {
        2
    }

    /// Whether a view could be opened, found out without changing anything: what a crashed writer left stays, and is
    /// among the remarks that this returns.
    fn probe(&self) -> Result<Vec<String>, Failure>;
}

/// How the log of a source gets to the stores: by the server's own doing.
pub struct LogShipping {
    /// How long to wait while nothing of it arrives.
    pub patience: Duration,
    /// Where the server keeps its log.
    pub log_dir: PathBuf,
    /// What the server says of its last failure to ship, if that is newer than its last success.
    pub trouble: Box<dyn Fn() -> Option<String> + Send>,
    /// Whether a segment waits for the server to ship it.
    pub is_waiting: Box<dyn Fn(SegmentName) -> bool + Send>,
    /// Makes the server finish the segment that it writes, so that it ships it.
    pub finish_segment: Box<dyn Fn() + Send>,
}

/// Where the log that a view needs begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBeginning {
    /// The history.
    pub history: HistoryId,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// The place: the segment before it is complete.
    pub start: Lsn,
}

/// What the last snapshot captured, as far as local state knows it.
pub trait LastCapture: Send + Sync {
    /// The fingerprint that its view gave.
    fn fingerprint(&self) -> &serde_json::Value;

    /// The digest that a block has in local state.
    fn digest(&self, block: &[u8]) -> BlockDigest;

    /// The digests of `count` blocks of a file from `first` on; `None` where so many are not known.
    fn digests(&self, path: &StoredPath, first: u64, count: u64) -> Result<Option<Vec<BlockDigest>>, Failure>;
}

/// Which captured blocks a file is certain to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continued {
    /// The file that they were captured of.
    pub path: StoredPath,
    /// How many blocks of it, from the first.
    pub blocks: u64,
}

/// What of a file may differ from what was captured of it last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspects {
    /// Everything: all of it is read and compared.
    All,
    /// These blocks, and those that the file did not have.
    Blocks(BlockSet),
}

/// Takes (first block, bytes) of what a view reads.
pub type Sink<'a> = dyn FnMut(u64, &[u8]) -> Result<(), Failure> + 'a;

/// A consistent view of a source at one position; it stays the same until it is closed.
pub trait View: Send {
    /// What the view is of.
    fn facts(&self) -> &ViewFacts;

    /// Hands the blocks of file `entry` (an index into the entries) in the given runs of
    /// (first block, count) to `sink`, in order, as (first block, bytes).
    ///
    /// Bytes are whole blocks; the tail of the last one is padded with zeros. A call of `sink` gets at most
    /// [`READ_BYTES`] bytes, never from more than one run. Reading the same block twice gives the same bytes.
    fn read(
        &mut self,
        entry: usize,
        runs: &mut dyn Iterator<Item = (u64, u64)>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Failure>;

    /// The captured blocks that file `entry` begins with, where the view knows: they need not be read again.
    fn continued(&self, entry: usize) -> Option<&Continued> {
        let _ = entry;
        None
    }

    /// Whether the files change while they are copied, so that the same block may give other bytes when it is read
    /// again. All of them are good: the log makes one state of whatever was read between beginning and end.
    fn is_fuzzy(&self) -> bool {
        false
    }

    /// What reads a fuzzy view from several threads at once.
    fn reader(&self) -> Option<Arc<dyn Reader>> {
        None
    }

    /// Where the log begins that the view needs, if the server ships it by itself from then on.
    fn log_begins(&self) -> Option<LogBeginning> {
        None
    }

    /// Which blocks of file `entry` may differ from what was captured of it last; of fuzzy views only.
    fn suspects(&self, entry: usize) -> Suspects {
        let _ = entry;
        Suspects::All
    }

    /// Files that can be read only after [`View::finish`], in order. Until then their sizes are the most that they
    /// may have.
    fn late(&self) -> &[usize] {
        &[]
    }

    /// Ends the copy of a fuzzy view: afterwards late files can be read and [`View::facts`] is complete.
    fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// What takes fingerprints of the source, to be called once the copy has ended, and run beside whatever comes then;
    /// `None` where there is no such thing.
    fn fingerprints(&self, rule: &FingerprintRule) -> Option<FingerprintJob> {
        let _ = rule;
        None
    }

    /// What the view found altered that never should be.
    fn alterations(&self) -> &[Alteration] {
        &[]
    }

    /// Fails when the view can no longer be kept open (its read lock was held too long).
    fn check(&self) -> Result<(), Failure>;

    /// How long the view may still be kept open because it keeps writers waiting; `None` when it keeps nobody waiting.
    fn must_end_within(&self) -> Option<Duration> {
        None
    }

    /// Ends the view and says whether everything it handed out really was one consistent state.
    ///
    /// Nothing read through a view may be committed before this has returned `Ok`.
    fn close(self: Box<Self>) -> Result<(), Failure>;
}

/// Takes fingerprints; waits for the source as long as it may take.
pub type FingerprintJob = Box<dyn FnOnce() -> Fingerprints + Send>;

/// What the message of a failure says when a view turned out not to be one state: trying once more helps.
pub const CHANGED_WHILE_READ: &str = "was changed while it was read";

/// The most bytes that a view hands over in one piece.
pub const READ_BYTES: usize = 128 * 1024;

/// What a view is of.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewFacts {
    /// The source's own identity, as far as the database has one. Stands in clear in the inventory.
    pub identity: String,
    /// Where in the history the view is. Stands in clear in the inventory.
    pub position: String,
    /// When the read began: everything acknowledged by the database before this moment is in the view.
    pub read_started_at: Timestamp,
    /// Files, directories and links in the order of their paths.
    pub entries: Vec<Entry>,
    /// What [`Source::is_unchanged`] will want to see again; kept in local state only.
    /// `None` when the view cannot promise anything (then the next run compares every block).
    pub fingerprint: Option<serde_json::Value>,
    /// What the operator should know, such as a rolled-back hot journal.
    pub notes: Vec<String>,
    /// What the operator should look into, such as a damaged page.
    pub warnings: Vec<String>,
    /// The history that the position belongs to, where the database has such a thing.
    pub history: Option<String>,
    /// What is needed of the log besides.
    pub log: Option<LogRange>,
}

/// Settings that every kind of source may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long to wait for a read lock.
    pub busy_timeout: Duration,
    /// How long a lock that blocks writers may be held.
    pub max_read_lock: Duration,
    /// Where plaintext may be kept while a snapshot runs: made 0700 if it does not exist, emptied afterwards.
    pub scratch_dir: std::path::PathBuf,
}

/// One check of a restored source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredCheck {
    /// Its name, such as `integrity_check`.
    pub name: String,
    /// Whether it held.
    pub ok: bool,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub actual: String,
}

/// Runs the database's own checks over restored files, read-only.
pub fn check_restored(kind: &str, dir: &Path, entries: &[Entry]) -> Result<Vec<RestoredCheck>, Failure> {
    match kind {
        sqlite::KIND => sqlite::check_restored(dir, entries),
        _ => Ok(Vec::new()),
    }
}

/// Whether sources of a kind have checks of their own.
pub fn has_checks(kind: &str) -> bool {
    matches!(kind, sqlite::KIND | postgres::KIND)
}

/// What checks need to know of a source beside its restored files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// Where the database's own programs lie; `None` looks in the usual places.
    pub bin_dir: Option<PathBuf>,
    /// The database that assertions are put to, where there are several.
    pub database: Option<String>,
    /// The role to ask as, where there are several.
    pub user: Option<String>,
    /// Whether nobody will use the restored files: then checks may add to them what they need.
    pub is_scratch: bool,
}

/// The checks of one restored source. Whatever they start runs until this is finished or dropped.
pub enum Checker {
    /// Checks that need nothing but the files, and do not change them.
    Files {
        /// The source's kind.
        kind: String,
        /// Where the files are.
        dir: PathBuf,
    },
    /// Checks on a server that is started on the files.
    Server(Box<postgres::checks::Checks>),
}

impl Checker {
    /// The checks of what was restored into `dir`. Nothing runs yet; `halt` ends what will, and can wait for its end.
    pub fn new(kind: &str, dir: &Path, options: CheckOptions, halt: &Halt) -> Self {
        match kind {
            postgres::KIND => Checker::Server(Box::new(postgres::checks::Checks::new(dir, options, halt.clone()))),
            _ => Checker::Files { kind: kind.to_owned(), dir: dir.to_owned() },
        }
    }

    /// Compares fingerprints that were taken with the snapshot; to be called before the own checks. Only what passes their
    /// place can show them.
    pub fn compare(&mut self, fingerprints: &Fingerprints, place: &Place) -> Result<Vec<RestoredCheck>, Failure> {
        match self {
            Checker::Files { .. } => Ok(Vec::new()),
            Checker::Server(checks) => checks.compare(fingerprints, place),
        }
    }

    /// Runs the database's own checks.
    pub fn check_restored(&mut self, entries: &[Entry]) -> Result<Vec<RestoredCheck>, Failure> {
        match self {
            Checker::Files { kind, dir } => check_restored(kind, dir, entries),
            Checker::Server(checks) => checks.check_restored(),
        }
    }

    /// Runs assertions, read-only, each for at most [`ASSERTION_LIMIT`]. To be called after the own checks.
    pub fn check_assertions(&self, entries: &[Entry], assertions: &[Assertion]) -> Vec<RestoredCheck> {
        match self {
            Checker::Files { kind, dir } => check_assertions(kind, dir, entries, assertions),
            Checker::Server(checks) => checks.check_assertions(assertions, ASSERTION_LIMIT),
        }
    }

    /// Whether there is more to do than to let go of the files.
    pub fn has_more(&self) -> bool {
        matches!(self, Checker::Server(_))
    }

    /// Ends what runs, and runs the own checks that need that. Also returns what was not checked, and why.
    pub fn finish(self) -> Result<(Vec<RestoredCheck>, Vec<String>), Failure> {
        match self {
            Checker::Files { .. } => Ok((Vec::new(), Vec::new())),
            Checker::Server(checks) => checks.finish(),
        }
    }
}

/// How long the query of an assertion may run.
pub const ASSERTION_LIMIT: Duration = Duration::from_secs(600);

/// Runs assertions over restored files, read-only, each for at most [`ASSERTION_LIMIT`].
pub fn check_assertions(kind: &str, dir: &Path, entries: &[Entry], assertions: &[Assertion]) -> Vec<RestoredCheck> {
    match kind {
        sqlite::KIND => sqlite::check_assertions(dir, entries, assertions, ASSERTION_LIMIT),
        // What nobody can ask must not count as answered.
        _ => assertions
            .iter()
            .map(|assertion| unanswered(assertion, format!("sources of kind {kind} take none")))
            .collect(),
    }
}

/// An assertion that could not be put.
fn unanswered(assertion: &Assertion, why: String) -> RestoredCheck {
    let expected = assertion.expect.to_string();
    RestoredCheck { name: assertion.name.clone(), ok: false, expected, actual: format!("could not be run: {why}") }
}
