//! The target of a restore: written in a folder beside where it belongs, published only when all of it is right.
//!
//! Somebody else may own the target, and change whatever stands in it at any time. So both directories are held open:
//! everything is made below the folder, which only we may enter, through its descriptor, and moved from the one
//! directory to the other. No path is resolved again, and no link in the target is followed.

mod amend;
mod files;
mod finish;
mod ground;
mod held;
mod moving;
mod outside;
mod over;
#[cfg(test)]
mod tests;

use crate::{
    core::{
        failure::{Code, Failure, shell_word},
        manifest::Entry,
        path::PARTIAL,
    },
    stores::Store,
    world::{
        files::{create_private_directories, parent, sync_directory},
        user_id,
    },
};
use files::Kept;
use finish::{Notes, finish, finish_one, is_finished_later};
use held::Identity;
use outside::refuse_stores;
use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, Stat, fchmod, flock, fremovexattr, fstat, fsync, mkdirat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CString, OsStr},
    fs::{self, DirBuilder},
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

pub(super) use files::OpenFiles;
pub(super) use ground::{Ground, Written};

/// A target directory that may be restored into. What was not published is removed when this is dropped.
pub(super) struct Staging {
    path: PathBuf,
    /// The target, open from the moment that it was found fit.
    target: OnceLock<OwnedFd>,
    /// The staging folder, open and locked: of two restores into one directory, one must not publish what the other
    /// is still writing.
    claimed: OnceLock<Arc<OwnedFd>>,
    target_made: AtomicBool,
    published: AtomicBool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.published.load(Ordering::Relaxed) {
            return;
        }
        if let (Some(target), Some(folder)) = (self.target.get(), self.claimed.get()) {
            let _ = held::empty(folder);
            let _ = remove_folder(target, folder);
        }
        if self.target_made.load(Ordering::Relaxed) && self.is_in_place().is_ok() {
            // Stays if anything is in it.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

/// Refuses a directory that nothing may be restored into. Changes nothing.
pub fn check_target(target: &Path, stores: &[Store]) -> Result<(), Failure> {
    Staging::check(target, stores).map(drop)
}

/// Removes a directory of ours with everything in it, whatever modes its directories have. None is none to remove.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    match held::open(CWD, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(directory) => {
            held::empty(&directory)?;
            fs::remove_dir(path)
        }
    }
}

/// What was moved to where it belongs.
struct Moved {
    name: CString,
    identity: Identity,
}

impl Staging {
    /// Accepts a directory that does not exist, is empty, or holds only what an interrupted restore left. It must lie
    /// in no store.
    pub(super) fn check(target: &Path, stores: &[Store]) -> Result<Self, Failure> {
        let staging = Staging {
            // With a slash at its end a link would be followed.
            path: target.components().collect(),
            target: OnceLock::new(),
            claimed: OnceLock::new(),
            target_made: AtomicBool::new(false),
            published: AtomicBool::new(false),
        };
        let path = &staging.path;
        refuse_stores(path, stores)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => drop(staging.hold()?),
            Ok(found) if found.is_symlink() && path.is_dir() => {
                let real = path.canonicalize().unwrap_or_else(|_| path.clone());
                return Err(refuse(path, "it is a link")
                    .next_step(format!("name the directory that it leads to: --to {}", shell_word(real.display()))));
            }
            Ok(_) => return Err(refuse(path, "it exists and is no directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("look at", path, &error)),
        }
        Ok(staging)
    }

    fn folder_path(&self) -> PathBuf {
        self.path.join(PARTIAL)
    }

    /// Opens the target, which must have nothing in it but what an interrupted restore of ours left.
    fn hold(&self) -> Result<&OwnedFd, Failure> {
        let target = held::open(CWD, &self.path).map_err(|error| failed("open", &self.path, &error))?;
        let names = held::names(&target).map_err(|error| failed("read", &self.path, &error))?;
        // What a restore of ours was moving when it was killed is ours as well.
        let folder = held::open(&target, PARTIAL).ok().filter(|_| self.left(&target).is_ok());
        let moved = folder.as_ref().map(moving::read_note).unwrap_or_default();
        let is_moved = |name: &CString| {
            let mut named = moved.iter().filter(|moved| moved.name == *name);
            named.any(|moved| held::is_there(&target, name, moved.identity).unwrap_or(false))
        };
        for name in &names {
            if name.as_bytes() != PARTIAL.as_bytes() && !is_moved(name) {
                let name = OsStr::from_bytes(name.as_bytes()).to_string_lossy();
                return Err(refuse(&self.path, &format!("it is not empty: it has {name}")));
            }
        }
        self.left(&target)?;
        Ok(self.target.get_or_init(|| target))
    }

    /// What an interrupted restore left, if anything; refused if others may have had their hands in it.
    fn left(&self, target: &OwnedFd) -> Result<Option<Stat>, Failure> {
        let path = self.folder_path();
        let found = held::look(target, PARTIAL).map_err(|error| failed("look at", &path, &error))?;
        if let Some(found) = &found {
            self.require_ours(found, false)?;
        }
        Ok(found)
    }

    /// Refuses a folder that somebody else owns or may enter.
    fn require_ours(&self, found: &Stat, is_new: bool) -> Result<(), Failure> {
        // Where a file system keeps no modes even a new one can be read by others, which is all that it can do.
        let closed = if is_new { 0o022 } else { 0o077 };
        let why = if found.st_uid != user_id() {
            format!("it belongs to user {}", found.st_uid)
        } else if held::is_directory(found) && found.st_mode & closed != 0 {
            format!("others may enter it (mode {:04o})", found.st_mode & 0o7777)
        } else {
            return Ok(());
        };
        let failure = if is_new {
            refuse(&self.path, &format!("a directory that was made in it is not ours alone: {why}"))
                .next_step("name a directory on a file system that keeps owners and modes with --to")
        } else {
            refuse(&self.path, &format!("{PARTIAL} in it is not what a restore of yours left: {why}"))
                .next_step("find out who made it, then remove it; or name a new directory with --to")
        };
        Err(failure)
    }

    /// What an interrupted restore left there, in bytes: it is used, or removed first.
    fn bytes_left(&self) -> u64 {
        self.target.get().map_or(0, held::bytes)
    }

    /// Refuses a target in which a restore had put everything in its place when it was killed: somebody may use it.
    fn refuse_done(&self) -> Result<(), Failure> {
        let folder = self.target.get().and_then(|target| held::open(target, PARTIAL).ok());
        if !folder.as_ref().is_some_and(moving::is_done) {
            return Ok(());
        }
        let left = shell_word(self.folder_path().display());
        Err(refuse(&self.path, "it is not empty: a restore has put everything in its place there, and was killed then")
            .next_step(format!(
                "use what is there, without its leftover: rm -r {left}; or name a new directory with --to"
            )))
    }

    /// Makes the entries with their sizes, all still in the staging folder. What an interrupted restore left there is
    /// used where it is right, and removed where it is not.
    fn create(&self, entries: &[Entry]) -> Result<OpenFiles, Failure> {
        let target = match self.target.get() {
            Some(target) => target,
            None => {
                self.create_target()?;
                self.hold()?
            }
        };
        let folder = self.claim(target)?;
        moving::take_back(target, folder).map_err(|error| failed("take back what was moved to", &self.path, &error))?;
        let kept = Kept { entries: over::tidied(folder, &self.folder_path(), entries)?, held_back: None };
        OpenFiles::create(folder.clone(), self.folder_path(), entries, &kept)
    }

    fn create_target(&self) -> Result<(), Failure> {
        let made = || self.target_made.store(true, Ordering::Relaxed);
        match DirBuilder::new().mode(0o700).create(&self.path).inspect(|()| made()) {
            Ok(()) => sync_directory(parent(&self.path)).map_err(|error| failed("sync", &self.path, &error)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => create_private_directories(&self.path)
                .inspect(|()| made())
                .map_err(|error| failed("create", &self.path, &error)),
            Err(error) => Err(failed("create", &self.path, &error)),
        }
    }

    /// Makes the staging folder, or takes over what an interrupted restore left.
    fn claim(&self, target: &OwnedFd) -> Result<&Arc<OwnedFd>, Failure> {
        let path = self.folder_path();
        let left = self.left(target)?;
        if left.is_some_and(|found| !held::is_directory(&found)) {
            unlinkat(target, PARTIAL, AtFlags::empty()).map_err(|error| failed("remove", &path, &error.into()))?;
        }
        let is_new = match mkdirat(target, PARTIAL, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(failed("create", &path, &error.into())),
        };
        let folder = held::open(target, PARTIAL).map_err(|error| failed("open", &path, &error))?;
        let found = fstat(&folder).map_err(|error| failed("look at", &path, &error.into()))?;
        self.require_ours(&found, is_new).inspect_err(|_| {
            let _ = if is_new { remove_folder(target, &folder) } else { Ok(()) };
        })?;
        self.lock(target, &folder, held::identity(&found))?;
        let holds = held::names(&folder).map_err(|error| failed("read", &path, &error))?;
        if is_new && !holds.is_empty() {
            // Ours was empty; somebody put another one there.
            return Err(replaced(&path));
        }
        // What is made below would otherwise be open to whom the target's default list names. Few have one.
        let _ = fremovexattr(&folder, "system.posix_acl_default");
        Ok(self.claimed.get_or_init(|| Arc::new(folder)))
    }

    fn lock(&self, target: &OwnedFd, folder: &OwnedFd, identity: Identity) -> Result<(), Failure> {
        // Some network file systems lock no directories; there is nothing better to do there than to go on.
        let claimed = flock(folder, FlockOperation::NonBlockingLockExclusive);
        let is_named = held::is_there(target, PARTIAL, identity).unwrap_or(false);
        if claimed == Err(Errno::WOULDBLOCK) || !is_named {
            return Err(locked(&self.path));
        }
        Ok(())
    }

    /// Makes everything durable with its owner and mode, all still in the staging folder.
    fn settle(&self, entries: &[Entry], files: &OpenFiles, notes: &mut Notes) -> Result<(), Failure> {
        let (_, folder) = self.created()?;
        finish(folder, &self.folder_path(), entries, files, notes)?;
        self.is_in_place()
    }

    /// Moves it to where it belongs, or nothing of it.
    fn move_in(&self, entries: &[Entry], notes: &mut Notes) -> Result<Vec<Moved>, Failure> {
        let (target, folder) = self.created()?;
        let mut moved = Vec::new();
        moving::write_note(folder).map_err(|error| failed("write to", &self.folder_path(), &error))?;
        let done = self
            .move_all(target, folder, &mut moved)
            .and_then(|()| self.finish_moved(target, entries, &moved, notes))
            .and_then(|()| fsync(target).map_err(|error| failed("sync", &self.path, &error.into())))
            .and_then(|()| self.check_moved(target, &moved));
        match done {
            Ok(()) => Ok(moved),
            Err(failure) => Err(self.take_back(&moved, failure)),
        }
    }

    /// All is there, and durable; an empty folder that stays is in nobody's way.
    fn complete(&self) {
        self.published.store(true, Ordering::Relaxed);
        if let Ok((target, folder)) = self.created() {
            let removed = moving::remove_note(folder).and_then(|()| remove_folder(target, folder));
            let _ = removed.and_then(|()| Ok(fsync(target)?));
        }
    }

    fn created(&self) -> Result<(&OwnedFd, &Arc<OwnedFd>), Failure> {
        let created = self.target.get().zip(self.claimed.get());
        created.ok_or_else(|| Failure::internal("nothing was created that could be published"))
    }

    /// Lets nobody else enter the target.
    fn close_target(&self) -> Result<(), Failure> {
        let target = self.target.get().ok_or_else(|| Failure::internal("no target is held"))?;
        fchmod(target, Mode::RWXU).map_err(|error| failed("close", &self.path, &error.into()))
    }

    fn move_all(&self, target: &OwnedFd, folder: &OwnedFd, moved: &mut Vec<Moved>) -> Result<(), Failure> {
        let folder_path = self.folder_path();
        let mut names = held::names(folder).map_err(|error| failed("read", &folder_path, &error))?;
        // Without the folder of its control file no server of PostgreSQL starts.
        names.sort_by_key(|name| name.as_c_str() == c"global");
        for name in names.into_iter().filter(|name| name.as_c_str() != moving::NOTE) {
            let to = self.path.join(OsStr::from_bytes(name.as_bytes()));
            let found = held::look(folder, &name).map_err(|error| failed("look at", &to, &error))?;
            let identity = held::identity(&found.ok_or_else(|| replaced(&folder_path))?);
            // Nobody else puts anything there; if somebody did, it is not replaced.
            held::move_to(folder, &name, target, &name)
                .map_err(|error| failed("move the result to", &to, &error.into()))?;
            moved.push(Moved { name, identity });
        }
        Ok(())
    }

    fn finish_moved(
        &self,
        target: &OwnedFd,
        entries: &[Entry],
        moved: &[Moved],
        notes: &mut Notes,
    ) -> Result<(), Failure> {
        for entry in entries.iter().filter(|entry| is_finished_later(entry)) {
            let name = entry.path.to_relative();
            let failed = |error| failed("finish", &self.path.join(&name), &error);
            let directory = held::open(target, &name).map_err(failed)?;
            let identity = held::identity(&fstat(&directory).map_err(|error| failed(error.into()))?);
            if !moved.iter().any(|moved| moved.identity == identity) {
                return Err(replaced(&self.path.join(&name)));
            }
            finish_one(directory, entry, notes).map_err(failed)?;
        }
        Ok(())
    }

    /// What stands in the target must be what was checked, and the target must be where it was named.
    fn check_moved(&self, target: &OwnedFd, moved: &[Moved]) -> Result<(), Failure> {
        for Moved { name, identity } in moved {
            let path = self.path.join(OsStr::from_bytes(name.as_bytes()));
            if !held::is_there(target, name, *identity).map_err(|error| failed("look at", &path, &error))? {
                return Err(replaced(&path));
            }
        }
        self.is_in_place()
    }

    /// Fails unless the path of the target still leads to the directory that is held.
    fn is_in_place(&self) -> Result<(), Failure> {
        let target = self.target.get().ok_or_else(|| Failure::internal("no target is held"))?;
        let looked = fstat(target).map_err(io::Error::from);
        let looked = looked.and_then(|held| held::is_there(CWD, &self.path, held::identity(&held)));
        match looked {
            Ok(true) => Ok(()),
            Ok(false) => Err(replaced(&self.path)),
            Err(error) => Err(failed("look at", &self.path, &error)),
        }
    }

    /// Moves back what was published before something failed; what cannot be moved back is named.
    fn take_back(&self, moved: &[Moved], failure: Failure) -> Failure {
        let Ok((target, folder)) = self.created() else { return failure };
        let mut stays = Vec::new();
        for Moved { name, identity } in moved {
            if !held::is_there(target, name, *identity).unwrap_or(true) {
                continue; // somebody else's; ours is under this name no more
            }
            let mut back = held::move_to(target, name, folder, name);
            if back == Err(Errno::ACCESS) && held::open_closed(target, name).is_ok() {
                back = held::move_to(target, name, folder, name);
            }
            if back.is_err() {
                stays.push(OsStr::from_bytes(name.as_bytes()).to_string_lossy().into_owned());
            } else if !held::is_there(folder, name, *identity).unwrap_or(true) {
                // Exchanged at the last moment; it is not ours to remove.
                let _ = held::move_to(folder, name, target, name);
            }
        }
        if stays.is_empty() {
            return failure;
        }
        let safe = "the stores are unaffected; an incomplete result was left behind and could not be taken back";
        failure
            .safe(format!("{safe}: {}", stays.join(", ")))
            .next_step(format!("remove these from {}, then run the same command again", self.path.display()))
    }
}

/// Removes the staging folder, which is empty, if it still has its name.
fn remove_folder(target: &OwnedFd, folder: &OwnedFd) -> io::Result<()> {
    if held::is_there(target, PARTIAL, held::identity(&fstat(folder)?))? {
        unlinkat(target, PARTIAL, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn locked(target: &Path) -> Failure {
    Failure::new(Code::Locked, format!("another restore into {} is running", target.display()))
        .safe("the other restore goes on undisturbed")
        .next_step("wait until it has finished, or name another directory with --to")
}

fn refuse(target: &Path, why: &str) -> Failure {
    Failure::new(Code::Refused, format!("will not restore into {}", target.display()))
        .cause(why)
        .safe("nothing was written")
        .next_step("name a new or empty directory with --to")
}

/// The failure when somebody else was at work in the target.
fn replaced(path: &Path) -> Failure {
    Failure::new(Code::Failed, format!("{} was moved or replaced while the restore was running", path.display()))
        .cause("somebody else may write to its directory, and did")
        .safe("the stores are unaffected; nothing is left behind as if it were whole")
        .next_step("find out who, then run the same command again, or name a directory of your own with --to")
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
