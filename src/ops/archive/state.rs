//! What this host knows of what it archived. All of it may be lost: the stores tell what matters again.

use crate::{
    core::{
        failure::{Code, Failure},
        id::{RepositoryId, RunId},
        log::{HistoryId, LogFile, Lsn, SegmentName},
        prune::{CondemnedLog, end_of},
        time::Timestamp,
    },
    ops::host::state_failure,
    world::files::{self, Lock},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

const FORMAT: &str = "recoup-archive/1";
/// How many files are remembered by themselves. A server asks for a file again soon, or never.
const NOTES_MAX: usize = 512;
/// A file that was changed so shortly before it was read may be changed again without looking different.
const SETTLED_SECONDS: i64 = 2;
/// How long a push waits for another one of the same source to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(50);
/// How long a store that failed is left alone while enough others work.
pub(super) const DOWN_SECONDS: i64 = 60;

/// A file that is durable on the stores.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The tag of its content.
    pub tag: String,
    /// Counts up: the smallest is the oldest.
    pub order: u64,
}

/// How a file looked when it was read. One that looks the same is the same, and need not be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Its ctime: nobody can set it.
    changed_seconds: i64,
    changed_nanoseconds: i64,
}

impl Seen {
    /// How it looks.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Seen {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed_seconds: metadata.ctime(),
            changed_nanoseconds: metadata.ctime_nsec(),
        }
    }

    /// Whether it was last changed well before a moment, and before it was read then.
    pub(super) fn is_settled(&self, at: Timestamp) -> bool {
        self.changed_seconds + SETTLED_SECONDS < at.as_datetime().timestamp()
    }
}

/// A file that was shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) file: LogFile,
    /// The tag of its content.
    pub(super) tag: String,
    /// How it looked.
    pub(super) seen: Option<Seen>,
}

/// A file of another system than the one whose log this is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foreign {
    /// The system identifier that it has.
    pub system: u64,
    /// The file.
    pub file: LogFile,
    /// When it was refused.
    pub at: Timestamp,
}

/// A store that failed a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Down {
    /// When.
    pub since: Timestamp,
    /// Why.
    pub why: String,
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveState {
    format: String,
    /// The repository whose stores hold the log.
    pub repository: Option<RepositoryId>,
    /// The system identifier of the server whose log this is.
    pub system: Option<u64>,
    /// By timeline: the last segment that was seen, here or on the stores.
    pub highest: BTreeMap<u32, SegmentName>,
    /// Files that were acknowledged lately.
    pub acknowledged: BTreeMap<LogFile, Acknowledged>,
    /// The files of the last run, and how they looked, where it led on from all that was archived before. The server asks for
    /// each of them once, and at once: nothing can have taken them away meanwhile, for a prune deletes no log but what
    /// lies before a later snapshot, and that needs log from behind them.
    #[serde(default)]
    pub last_run: BTreeMap<LogFile, Option<Seen>>,
    /// What was refused last, until a file of the right system comes.
    pub foreign: Option<Foreign>,
    /// Stores that failed lately, by name.
    pub down: BTreeMap<String, Down>,
    /// What prunes may have taken since a file was acknowledged.
    #[serde(default)]
    pub condemned: CondemnedBefore,
}

/// How far plans of prunes reach into the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CondemnedBefore {
    /// The plans that were read, executed or not.
    pub plans: BTreeSet<RunId>,
    /// By history: the place before which any of them condemns something.
    pub places: BTreeMap<HistoryId, Lsn>,
}

impl CondemnedBefore {
    /// Whether a file lies before such a place.
    pub fn covers(&self, history: HistoryId, file: LogFile, segment_bytes: u64) -> bool {
        let place = self.places.get(&history);
        place.is_some_and(|place| end_of(file, segment_bytes).is_some_and(|end| end <= *place))
    }

    /// Notes what a plan condemns.
    pub(super) fn note(&mut self, plan: RunId, parts: &[CondemnedLog]) {
        self.plans.insert(plan);
        for part in parts {
            let place = self.places.entry(part.history).or_default();
            *place = part.bound.place().max(*place);
        }
    }
}

impl ArchiveState {
    /// Remembers that a file is durable.
    pub fn acknowledge(&mut self, file: LogFile, tag: String) {
        let order = self.acknowledged.values().map(|note| note.order).max().unwrap_or(0) + 1;
        self.acknowledged.insert(file, Acknowledged { tag, order });
        if let LogFile::Segment(name) = file {
            let highest = self.highest.entry(name.timeline).or_insert(name);
            *highest = (*highest).max(name);
        }
        while self.acknowledged.len() > NOTES_MAX {
            let oldest = self.acknowledged.iter().min_by_key(|(_, note)| note.order).map(|(file, _)| *file);
            oldest.into_iter().for_each(|file| drop(self.acknowledged.remove(&file)));
        }
    }

    /// Remembers what one run has made durable, by files that were read after a moment. One that leads on is of nothing that
    /// the stores held before.
    pub(super) fn acknowledge_run(&mut self, notes: Vec<Note>, read_after: Timestamp, leads_on: bool) {
        self.last_run.clear();
        for Note { file, tag, seen } in notes {
            if leads_on {
                self.last_run.insert(file, seen.filter(|seen| seen.is_settled(read_after)));
            }
            self.acknowledge(file, tag);
        }
    }

    /// Whether a file was in the last run, and looks as it did then.
    pub(super) fn was_just_shipped(&self, file: LogFile, metadata: Option<&Metadata>) -> bool {
        let seen = self.last_run.get(&file).copied().flatten();
        seen.is_some() && seen == metadata.map(Seen::of)
    }

    /// Whether the stores may hold a file of which nothing is noted here. A segment beyond all that were seen is new.
    pub fn may_be_stored(&self, file: LogFile) -> bool {
        match file {
            LogFile::Segment(name) => self.highest.get(&name.timeline).is_some_and(|highest| name <= *highest),
            _ => true,
        }
    }

    /// Whether a store failed so lately that it is left alone where others are enough.
    pub fn is_down(&self, store: &str, now: Timestamp) -> bool {
        self.down.get(store).is_some_and(|down| {
            let age = now.seconds_since(down.since);
            (0.0..DOWN_SECONDS as f64).contains(&age)
        })
    }
}

/// The state in a source's directory, with the lock of whoever changes it.
pub(super) struct Kept {
    path: PathBuf,
    /// What is known.
    pub(super) state: ArchiveState,
    /// Whether there was nothing to read.
    pub(super) is_new: bool,
    #[expect(dead_code, reason = "holding it is the lock")]
    lock: Lock,
}

fn file_in(directory: &Path) -> PathBuf {
    directory.join("archive.json")
}

/// What a source's directory says, for whoever only looks.
pub fn peek(directory: &Path, repository: RepositoryId) -> Option<ArchiveState> {
    let bytes = files::read(file_in(directory)).ok()?;
    let state: ArchiveState = serde_json::from_slice(&bytes).ok()?;
    (state.format == FORMAT && state.repository == Some(repository)).then_some(state)
}

impl Kept {
    /// Takes the lock of the source's archive and reads what is known.
    pub(super) async fn lock(directory: &Path, repository: RepositoryId) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| state_failure("use", directory, &error);
        files::create_private_directories(directory).map_err(failed)?;
        let path = directory.join("archive.lock");
        let mut waited = Duration::ZERO;
        let lock = loop {
            if let Some(lock) = files::try_lock(&path).map_err(failed)? {
                break lock;
            }
            if waited >= LOCK_PATIENCE {
                return Err(Failure::new(Code::Locked, "another push of the same source is running")
                    .cause(format!("it holds {}", path.display()))
                    .safe("the server keeps the segment and asks again")
                    .next_step("wait for it to end; a server archives one file at a time"));
            }
            tokio::time::sleep(LOCK_INTERVAL).await;
            waited += LOCK_INTERVAL;
        };
        let found = peek(directory, repository);
        let is_new = found.is_none();
        let state = found.unwrap_or_else(|| ArchiveState {
            format: FORMAT.to_owned(),
            repository: Some(repository),
            ..ArchiveState::default()
        });
        Ok(Kept { path: file_in(directory), state, is_new, lock })
    }

    /// Writes what is known.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(&self.state).map_err(|error| Failure::internal(error.to_string()))?;
        files::write_atomic(&self.path, &bytes, 0o600).map_err(|error| state_failure("write", &self.path, &error))
    }
}
