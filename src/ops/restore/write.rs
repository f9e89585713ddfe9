//! The target of a restore: written in a folder beside where it belongs, published only when all of it is right.

use super::manifest::Manifest;
use crate::{
    core::{
        failure::{Code, Failure},
        manifest::{Entry, EntryKind},
        path::decode,
    },
    world::files::{self, free_bytes, sync_directory},
};
use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::ffi::OsStrExt,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// The folder in the target that holds what is not published yet.
const STAGING: &str = ".recoup-partial";

/// A target directory that may be restored into. What was not published is removed when this is dropped.
pub(super) struct Staging {
    target: PathBuf,
    folder: PathBuf,
    /// The staging folder, open and locked: of two restores into one directory, one must not publish what the other
    /// is still writing.
    claimed: OnceLock<File>,
    target_made: AtomicBool,
    published: AtomicBool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.published.load(Ordering::Relaxed) {
            return;
        }
        if self.claimed.get().is_some() {
            let _ = remove_tree(&self.folder);
        }
        if self.target_made.load(Ordering::Relaxed) {
            // Stays if anything is in it.
            let _ = fs::remove_dir(&self.target);
        }
    }
}

impl Staging {
    /// Accepts a directory that does not exist, is empty, or holds only what an interrupted restore left.
    pub(super) fn check(target: &Path) -> Result<Self, Failure> {
        let staging = Staging {
            target: target.to_owned(),
            folder: target.join(STAGING),
            claimed: OnceLock::new(),
            target_made: AtomicBool::new(false),
            published: AtomicBool::new(false),
        };
        match fs::symlink_metadata(target) {
            Ok(metadata) if metadata.is_dir() || target.is_dir() => {}
            Ok(_) => return Err(refuse(target, "it exists and is no directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(staging),
            Err(error) => return Err(failed("look at", target, &error)),
        }
        let entries = fs::read_dir(target).map_err(|error| failed("read", target, &error))?;
        for entry in entries {
            let name = entry.map_err(|error| failed("read", target, &error))?.file_name();
            if name != OsStr::new(STAGING) {
                return Err(refuse(target, &format!("it is not empty: it has {}", name.to_string_lossy())));
            }
        }
        Ok(staging)
    }

    /// Refuses when the file system has no room for `needed_bytes`.
    pub(super) fn check_room(&self, needed_bytes: u64) -> Result<(), Failure> {
        let existing = self.target.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
        let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
        let available = free_bytes(existing).map_err(|error| failed("look at", existing, &error))?;
        // What an interrupted restore left is removed first.
        let reclaimed = directory_bytes(&self.folder);
        if needed_bytes > available.saturating_add(reclaimed) {
            return Err(Failure::new(
                Code::Refused,
                format!("there is no room to restore into {}", self.target.display()),
            )
            .cause(format!("{needed_bytes} bytes are needed, {available} are available"))
            .safe("nothing was written")
            .next_step("free space there, or restore to another file system with --to"));
        }
        Ok(())
    }

    /// Makes the entries with their sizes, all still in the staging folder.
    pub(super) fn create(&self, manifest: &Manifest) -> Result<OpenFiles, Failure> {
        self.create_target()?;
        self.claim()?;
        let mut files = Vec::new();
        for entry in &manifest.entries {
            files.push(self.create_entry(entry)?);
        }
        Ok(OpenFiles { files })
    }

    /// Makes the staging folder, or takes over what an interrupted restore left, and empties it.
    fn claim(&self) -> Result<(), Failure> {
        if fs::symlink_metadata(&self.folder).is_ok_and(|found| !found.is_dir()) {
            fs::remove_file(&self.folder).map_err(|error| failed("remove", &self.folder, &error))?;
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create", &self.folder, &error));
            }
            _ => {}
        }
        let folder = File::open(&self.folder).map_err(|error| failed("open", &self.folder, &error))?;
        // Some network file systems lock no directories; there is nothing better to do there than to go on.
        let locked = rustix::fs::flock(&folder, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        let identity = |found: fs::Metadata| (found.dev(), found.ino());
        let (held, named) = (folder.metadata().map(identity).ok(), fs::symlink_metadata(&self.folder).map(identity));
        if locked == Err(rustix::io::Errno::WOULDBLOCK) || held != named.ok() {
            return Err(Failure::new(
                Code::Locked,
                format!("another restore into {} is running", self.target.display()),
            )
            .safe("the other restore goes on undisturbed")
            .next_step("wait until it has finished, or name another directory with --to"));
        }
        let emptied = fs::read_dir(&self.folder)
            .and_then(|mut entries| entries.try_for_each(|entry| entry.and_then(|entry| remove_tree(&entry.path()))));
        emptied.map_err(|error| failed("empty", &self.folder, &error))?;
        self.claimed.set(folder).map_err(|_| Failure::internal("a restore claims its directory once"))
    }

    fn create_target(&self) -> Result<(), Failure> {
        let made = || self.target_made.store(true, Ordering::Relaxed);
        match DirBuilder::new().mode(0o700).create(&self.target).inspect(|()| made()) {
            Ok(()) => sync_directory(files::parent(&self.target)).map_err(|error| failed("sync", &self.target, &error)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => files::create_private_directories(&self.target)
                .inspect(|()| made())
                .map_err(|error| failed("create", &self.target, &error)),
            Err(error) => Err(failed("create", &self.target, &error)),
        }
    }

    fn create_entry(&self, entry: &Entry) -> Result<Option<OpenFile>, Failure> {
        let path = self.folder.join(entry.path.to_relative());
        let parent = files::parent(&path);
        if parent != self.folder {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(|error| failed("create", parent, &error))?;
        }
        let made = match &entry.kind {
            EntryKind::Directory => DirBuilder::new().recursive(true).mode(0o700).create(&path).map(|()| None),
            EntryKind::Link { target } => make_link(target, &path).map(|()| None),
            EntryKind::File { size, .. } => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).and_then(|file| {
                    file.set_len(*size).map(|()| Some(OpenFile { file, size: *size, path: path.clone() }))
                })
            }
        };
        made.map_err(|error| failed("create", &path, &error))
    }

    /// Makes everything durable with its owner and mode, then moves it to where it belongs.
    pub(super) fn publish(&self, manifest: &Manifest, files: &OpenFiles) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        for (entry, file) in manifest.entries.iter().zip(&files.files) {
            let path = self.folder.join(entry.path.to_relative());
            self.set_owner_and_mode(entry, &path, &mut notes)?;
            if let Some(open) = file {
                open.file.sync_all().map_err(|error| failed("sync", &path, &error))?;
            }
        }
        sync_tree(&self.folder).map_err(|error| failed("sync", &self.folder, &error))?;
        let entries = fs::read_dir(&self.folder).map_err(|error| failed("read", &self.folder, &error))?;
        for entry in entries {
            let name = entry.map_err(|error| failed("read", &self.folder, &error))?.file_name();
            let to = self.target.join(&name);
            // Nobody else puts anything there; if somebody did, it is not replaced.
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                self.folder.join(&name),
                rustix::fs::CWD,
                &to,
                rustix::fs::RenameFlags::NOREPLACE,
            )
            .or_else(|error| match error {
                // Some file systems cannot refuse to replace; the directory was empty when this began.
                rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS if fs::symlink_metadata(&to).is_err() => {
                    Ok(fs::rename(self.folder.join(&name), &to).map_err(|_| error)?)
                }
                other => Err(other),
            })
            .map_err(|error| failed("move the result to", &to, &error.into()))?;
        }
        self.published.store(true, Ordering::Relaxed);
        fs::remove_dir(&self.folder).map_err(|error| failed("remove", &self.folder, &error))?;
        sync_directory(&self.target).map_err(|error| failed("sync", &self.target, &error))?;
        Ok(notes)
    }

    fn set_owner_and_mode(&self, entry: &Entry, path: &Path, notes: &mut Vec<String>) -> Result<(), Failure> {
        let metadata = fs::symlink_metadata(path).map_err(|error| failed("look at", path, &error))?;
        if (metadata.uid(), metadata.gid()) != (entry.uid, entry.gid)
            && std::os::unix::fs::lchown(path, Some(entry.uid), Some(entry.gid)).is_err()
        {
            notes.push(format!(
                "{} belonged to user {} and group {}; it belongs to you now",
                entry.path, entry.uid, entry.gid
            ));
        }
        if matches!(entry.kind, EntryKind::Link { .. }) {
            return Ok(());
        }
        // A file that could not be given to its owner must not gain the owner's set-user-id bit.
        let mode = if notes.is_empty() { entry.mode } else { entry.mode & 0o777 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(|error| failed("set the mode of", path, &error))
    }
}

fn make_link(target: &str, path: &Path) -> io::Result<()> {
    // A link's target may be anything; it is never followed by a restore.
    let target = decode(target).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    symlink(OsStr::from_bytes(&target), path)
}

/// The files that a restore writes, by the position of their entry.
pub(super) struct OpenFiles {
    files: Vec<Option<OpenFile>>,
}

struct OpenFile {
    file: File,
    size: u64,
    path: PathBuf,
}

impl OpenFiles {
    /// Writes blocks from block `first`; what lies beyond the file's end is cut.
    pub(super) fn write(&self, entry: usize, first: u64, block_size: u64, bytes: &[u8]) -> Result<(), Failure> {
        let open = self.files.get(entry).and_then(Option::as_ref);
        let open = open.ok_or_else(|| Failure::internal("blocks of something that is no file"))?;
        let offset = first * block_size;
        let length = (open.size.saturating_sub(offset)).min(bytes.len() as u64) as usize;
        open.file.write_all_at(&bytes[..length], offset).map_err(|error| failed("write", &open.path, &error))
    }
}

fn refuse(target: &Path, why: &str) -> Failure {
    Failure::new(Code::Refused, format!("will not restore into {}", target.display()))
        .cause(why)
        .safe("nothing was written")
        .next_step("name a new or empty directory with --to")
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Failure {
    let next_step = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "free space there, then run the same command again"
        }
        _ => "check the target directory, then run the same command again",
    };
    Failure::new(Code::Failed, format!("cannot {what} {}", path.display()))
        .cause(error)
        .safe("the stores are unaffected; nothing is left behind as if it were whole")
        .next_step(next_step)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        }
    }
    sync_directory(path)
}

fn directory_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
