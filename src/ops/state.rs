//! A source's local state: what the last committed snapshot looked like, and what this host knows it has done.
//!
//! All of it may be lost: the next snapshot is then a full. None of it is trusted further than the digest of the
//! inventory that it names.

use super::host::state_failure;
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RepositoryId, RunId, Sha256, SnapshotId, SourceName},
        inventory::Parent,
        manifest::Entry,
        path::StoredPath,
    },
    format::pack::BlockDigest,
    world::files::{self, Lock},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

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
    /// The newest snapshot that this host has made durable: stores that do not show it were rolled back.
    pub head: Option<Parent>,
    /// The largest sequence number that this host has used, durable or not.
    #[serde(default)]
    pub last_seq: u64,
    /// Snapshots that this host has seen complete, by store.
    #[serde(default)]
    pub completed: BTreeMap<String, BTreeSet<SnapshotId>>,
    /// Objects that were found damaged or missing, by store; names relative to the source's folder.
    #[serde(default)]
    pub damaged: BTreeMap<String, BTreeSet<String>>,
}

/// The local state of one source.
pub struct SourceState {
    directory: PathBuf,
}

impl SourceState {
    /// The state in `directory`, which is made if it does not exist.
    pub fn open(directory: PathBuf) -> Result<Self, Failure> {
        files::create_private_directories(&directory).map_err(|error| state_failure("create", &directory, &error))?;
        Ok(SourceState { directory })
    }

    /// What this host knows, without making anything.
    pub fn peek(directory: &Path) -> Known {
        SourceState { directory: directory.to_owned() }.known()
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

    /// The record of the last committed snapshot; says why there is none that can be used.
    pub fn base(&self, repository: RepositoryId) -> Result<BaseRecord, String> {
        let record: BaseRecord = match read_json(&self.directory.join("base.json")) {
            Ok(Some(record)) => record,
            Ok(None) => return Err("this host has no record of an earlier snapshot".to_owned()),
            Err(why) => return Err(format!("this host's record of the last snapshot cannot be read ({why})")),
        };
        if record.format != BASE_FORMAT {
            return Err("this host's record of the last snapshot is of another version".to_owned());
        }
        if record.repository != repository {
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

    /// What this host knows; says why it cannot be read where there is something to read.
    pub fn peek_strictly(directory: &Path) -> Result<Known, String> {
        read_json(&directory.join("known.json")).map(Option::unwrap_or_default)
    }

    /// What this host knows; nothing if that was lost.
    pub fn known(&self) -> Known {
        read_json(&self.directory.join("known.json")).ok().flatten().unwrap_or_default()
    }

    /// Changes what this host knows; several commands may do so at once.
    pub fn update_known(&self, change: impl FnOnce(&mut Known)) -> Result<(), Failure> {
        let path = self.directory.join("known.lock");
        let _lock = files::lock(&path).map_err(|error| state_failure("lock", &path, &error))?;
        let file = self.directory.join("known.json");
        let mut known: Known = match read_json(&file) {
            Ok(known) => known.unwrap_or_default(),
            Err(_) => {
                // Damaged: kept for whoever wants to know what it said.
                let aside = self.directory.join("known.json.damaged");
                fs::rename(&file, &aside).map_err(|error| state_failure("move aside", &file, &error))?;
                Known::default()
            }
        };
        change(&mut known);
        write_json(&self.directory.join("known.json"), &known)
    }

    /// Opens the digest file of a record.
    pub fn open_digests(&self, record: &BaseRecord) -> Result<DigestFile, String> {
        let path = self.directory.join(digest_name(record.digest_run));
        let file = File::open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let digests = DigestFile { file, files: record.files.clone(), path };
        let expected = digests.files.iter().map(|file| file.blocks).sum::<u64>() * 16;
        match digests.file.metadata() {
            Ok(metadata) if metadata.len() == expected => Ok(digests),
            _ => Err(format!("{} is not as long as it should be", digests.path.display())),
        }
    }

    /// Makes the digest file of a new run.
    pub fn create_digests(&self, run: RunId, entries: &[Entry]) -> Result<DigestFile, Failure> {
        let path = self.directory.join(digest_name(run));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|error| state_failure("create", &path, &error))?;
        let files = entries
            .iter()
            .filter_map(|entry| {
                let block_size = entry.block_size()?;
                Some(DigestedFile { path: entry.path.clone(), block_size, blocks: entry.blocks() })
            })
            .collect();
        Ok(DigestFile { file, files, path })
    }
}

fn digest_name(run: RunId) -> String {
    format!("digests-{run}")
}

/// The digests of every block of a snapshot, in a file of 16 bytes a block. All-zero blocks have digest zero.
pub struct DigestFile {
    file: File,
    files: Vec<DigestedFile>,
    path: PathBuf,
}

impl DigestFile {
    /// The files it covers.
    pub fn files(&self) -> &[DigestedFile] {
        &self.files
    }

    /// Where a file's digests begin, with its entry.
    pub fn find(&self, path: &StoredPath) -> Option<(u64, &DigestedFile)> {
        let at = self.files.iter().position(|file| file.path == *path)?;
        Some((self.files[..at].iter().map(|file| file.blocks * 16).sum(), &self.files[at]))
    }

    /// Reads the digests of `count` blocks of the file whose digests begin at `offset`.
    pub fn read(&self, offset: u64, first: u64, count: usize) -> io::Result<Vec<BlockDigest>> {
        let mut digests = vec![[0; 16]; count];
        self.file.read_exact_at(digests.as_flattened_mut(), offset + first * 16)?;
        Ok(digests)
    }

    /// Writes digests of consecutive blocks.
    pub fn write(&self, offset: u64, first: u64, digests: &[BlockDigest]) -> Result<(), Failure> {
        self.file
            .write_all_at(digests.as_flattened(), offset + first * 16)
            .map_err(|error| state_failure("write", &self.path, &error))
    }

    /// Makes the file durable.
    pub fn sync(&self) -> Result<(), Failure> {
        self.file
            .sync_all()
            .and_then(|()| files::sync_directory(files::parent(&self.path)))
            .map_err(|error| state_failure("sync", &self.path, &error))
    }

    /// Removes the file: its run was not committed.
    pub fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, String> {
    match fs::read(path) {
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
    /// The `format` of a record.
    pub fn format() -> String {
        BASE_FORMAT.to_owned()
    }
}
