//! A source's local state: what the last committed snapshot looked like, and what this host knows it has done.
//!
//! All of it may be lost: the next snapshot is then a full. None of it is trusted further than the digest of the
//! inventory that it names.

use super::host::state_failure;
use crate::{
    core::{
        evidence::HoldId,
        failure::{Code, Failure},
        id::{RepositoryId, RunId, Sha256, SnapshotId, SourceName, unhex},
        inventory::Parent,
        manifest::Entry,
        path::StoredPath,
    },
    world::files::{self, Lock},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

mod digests;

pub use digests::DigestFile;

const BASE_FORMAT: &str = "recoup-base/1";

/// What the last committed snapshot looked like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// `recoup-base/1`.
    pub format: String,
    /// The repository the snapshot is in.
    pub repository: RepositoryId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// SHA-256 of its inventory: the one inventory that this state describes.
    pub inventory_sha256: Sha256,
    /// SHA-256 of the configuration that its manifest carries.
    pub configuration_sha256: Sha256,
    /// Key of the block digests, in hexadecimal.
    pub digest_key: String,
    /// The run whose digest file belongs to it.
    pub digest_run: RunId,
    /// BLAKE3 of that file, in hexadecimal: what a lost cache left of it must not pass for it.
    #[serde(default)]
    pub digests_blake3: String,
    /// The files that the digest file covers, in order.
    pub files: Vec<DigestedFile>,
    /// What the source wants to see again to say that nothing changed.
    pub fingerprint: Option<serde_json::Value>,
}

/// One file in the digest file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestedFile {
    /// Its path.
    pub path: StoredPath,
    /// Bytes in a block.
    pub block_size: u32,
    /// Number of blocks.
    pub blocks: u64,
}

/// What this host knows of the stores.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The repository whose stores they are.
    #[serde(default)]
    pub repository: Option<RepositoryId>,
    /// The newest snapshot that this host has made durable: stores that do not show it were rolled back.
    pub head: Option<Parent>,
    /// The largest sequence number that this host has used, durable or not.
    #[serde(default)]
    pub last_seq: u64,
    /// Snapshots that this host has seen complete, by store.
    #[serde(default)]
    pub completed: BTreeMap<String, BTreeSet<SnapshotId>>,
    /// Alterations of the log that are not on record yet: the next run records them if this one dies.
    #[serde(default)]
    pub altered: Vec<Altered>,
    /// Objects that were found damaged or missing, by store; names relative to the source's folder.
    #[serde(default)]
    pub damaged: BTreeMap<String, BTreeSet<String>>,
}

/// How many altered files a note names.
pub const ALTERED_FILES_MAX: usize = 100;

/// An append-only log that was found altered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Altered {
    /// The snapshot that holds it as it was.
    pub since: SnapshotId,
    /// The one that holds it as it was found.
    pub found_in: SnapshotId,
    /// What happened to which file, for people; the first hundred.
    pub files: Vec<String>,
    /// The hold on both, once it is on record; the alarm is still to be given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<HoldId>,
}

impl Known {
    fn is_of_another(&self, repository: RepositoryId) -> bool {
        self.repository.is_some_and(|of| of != repository)
    }
}

/// The local state of one source in one repository.
pub struct SourceState {
    directory: PathBuf,
    repository: RepositoryId,
}

impl SourceState {
    /// The state in `directory`, of which only what is there can be read.
    pub fn read_only(directory: PathBuf, repository: RepositoryId) -> Self {
        SourceState { directory, repository }
    }

    /// The state in `directory`, which is made if it does not exist; the state directory itself must be there.
    pub fn open(directory: PathBuf, repository: RepositoryId) -> Result<Self, Failure> {
        let state_dir = files::parent(files::parent(&directory));
        fs::metadata(state_dir).map_err(|error| state_failure("use", state_dir, &error))?;
        files::create_private_directories(&directory).map_err(|error| state_failure("create", &directory, &error))?;
        Ok(SourceState { directory, repository })
    }

    /// What this host knows, without making anything.
    pub fn peek(directory: &Path, repository: RepositoryId) -> Known {
        SourceState::read_only(directory.to_owned(), repository).known()
    }

    /// The same; says why it cannot be read where there is something to read.
    pub fn peek_strictly(directory: &Path, repository: RepositoryId) -> Result<Known, String> {
        let known: Option<Known> = read_json(&directory.join("known.json"))?;
        // What is known of another repository says nothing about this one.
        Ok(known.filter(|known| !known.is_of_another(repository)).unwrap_or_default())
    }

    /// Takes the source's lock for backups.
    pub fn lock(&self, source: &SourceName) -> Result<Lock, Failure> {
        let path = self.directory.join("lock");
        match files::try_lock(&path) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(Failure::new(Code::Locked, format!("another backup of {source} is running"))
                .cause(format!("{} is locked", path.display()))
                .safe("the other run goes on undisturbed")
                .next_step("wait until it has finished, then run the same command again")),
            Err(error) => Err(state_failure("lock", &path, &error)),
        }
    }

    /// Takes the source's lock for prunes; backups and copies are not kept waiting by it.
    pub fn lock_prunes(&self, source: &SourceName) -> Result<Lock, Failure> {
        let path = self.directory.join("prune.lock");
        match files::try_lock(&path) {
            Ok(Some(lock)) => Ok(lock),
            Ok(None) => Err(Failure::new(Code::Locked, format!("another prune of {source} is running"))
                .cause(format!("{} is locked", path.display()))
                .safe("the other run goes on undisturbed")
                .next_step("wait until it has finished, then run the same command again")),
            Err(error) => Err(state_failure("lock", &path, &error)),
        }
    }

    /// The record of the last committed snapshot; says why there is none that can be used.
    pub fn base(&self) -> Result<BaseRecord, String> {
        let record: BaseRecord = match read_json(&self.directory.join("base.json")) {
            Ok(Some(record)) => record,
            Ok(None) => return Err("this host has no record of an earlier snapshot".to_owned()),
            Err(why) => return Err(format!("this host's record of the last snapshot cannot be read ({why})")),
        };
        if record.format != BASE_FORMAT {
            return Err("this host's record of the last snapshot is of another version".to_owned());
        }
        if record.repository != self.repository {
            return Err("this host's record of the last snapshot is of another repository".to_owned());
        }
        Ok(record)
    }

    /// Replaces the record. The digest file it names is durable by then; older ones are removed afterwards.
    pub fn set_base(&self, record: &BaseRecord) -> Result<(), Failure> {
        let path = self.directory.join("base.json");
        write_json(&path, record)?;
        self.remove_digests_except(Some(&digest_name(record.digest_run)));
        Ok(())
    }

    /// Removes what runs that were killed have left; the caller has the lock.
    pub fn remove_leftovers(&self) {
        for folder in ["spool", "scratch"] {
            let _ = fs::remove_dir_all(self.directory.join(folder));
        }
        let keep = match read_json::<BaseRecord>(&self.directory.join("base.json")) {
            Ok(record) => record.map(|record| digest_name(record.digest_run)),
            // What cannot be read now may be read again: then its digests are still of use.
            Err(_) => return,
        };
        self.remove_digests_except(keep.as_deref());
    }

    /// A leftover costs space and nothing else.
    fn remove_digests_except(&self, keep: Option<&str>) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("digests-") && keep.is_none_or(|keep| name != *keep) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// What this host knows; nothing if that was lost.
    pub fn known(&self) -> Known {
        SourceState::peek_strictly(&self.directory, self.repository).unwrap_or_default()
    }

    /// Changes what this host knows; several commands may do so at once.
    pub fn update_known(&self, change: impl FnOnce(&mut Known)) -> Result<(), Failure> {
        let path = self.directory.join("known.lock");
        let _lock = files::lock(&path).map_err(|error| state_failure("lock", &path, &error))?;
        let file = self.directory.join("known.json");
        // Damaged or of another repository: kept for whoever wants to know what it said.
        let set_aside = |suffix: &str| {
            let aside = self.directory.join(format!("known.json.{suffix}"));
            fs::rename(&file, &aside).map_err(|error| state_failure("move aside", &file, &error))
        };
        let mut known = match read_json::<Known>(&file) {
            Ok(Some(known)) => match known.repository {
                Some(other) if other != self.repository => {
                    set_aside(&format!("of-{other}"))?;
                    Known::default()
                }
                _ => known,
            },
            Ok(None) => Known::default(),
            Err(_) => {
                set_aside("damaged")?;
                Known::default()
            }
        };
        change(&mut known);
        known.repository = Some(self.repository);
        write_json(&file, &known)
    }

    /// Opens the digest file of a record; its content is another matter.
    pub fn open_digests(&self, record: &BaseRecord) -> Result<DigestFile, String> {
        DigestFile::open(self.directory.join(digest_name(record.digest_run)), record.files.clone())
    }

    /// Makes the digest file of a new run.
    pub fn create_digests(&self, run: RunId, entries: &[Entry]) -> DigestFile {
        let digested = |entry: &Entry| {
            let block_size = entry.block_size()?;
            Some(DigestedFile { path: entry.path.clone(), block_size, blocks: entry.blocks() })
        };
        DigestFile::create(self.directory.join(digest_name(run)), entries.iter().filter_map(digested).collect())
    }
}

fn digest_name(run: RunId) -> String {
    format!("digests-{run}")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match files::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    let mut bytes = serde_json::to_vec(value).expect("state has no map with odd keys");
    bytes.push(b'\n');
    files::write_atomic(path, &bytes, 0o600).map_err(|error| state_failure("write", path, &error))
}

impl BaseRecord {
    /// The key of the block digests; `None` if it is damaged.
    pub fn key(&self) -> Option<[u8; 32]> {
        unhex(&self.digest_key)?.try_into().ok()
    }

    /// The `format` of a record.
    pub fn format() -> String {
        BASE_FORMAT.to_owned()
    }
}
