//! A restore over files that are there already: only blocks that differ are written.
//!
//! The directory must be certain to be one of the same system, ours, and used by no server. From the first change on it
//! has a mark instead of its control file: no server starts on it, and the same command goes on with it. The control
//! file comes last.

use super::{
    failed,
    files::{Kept, OpenFiles},
    finish::{Notes, finish, finish_one, is_finished_later},
    held, locked,
    outside::refuse_stores,
};
use crate::{
    core::{
        failure::{Code, Failure, shell_word},
        manifest::{Entry, EntryKind},
        path::decode,
    },
    sources::postgres::{CONTROL, server::refuse_running, system_of},
    stores::Store,
    world::user_id,
};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, fchmod, flock, fstat, fsync, openat, readlinkat,
        renameat, unlinkat,
    },
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{CStr, CString, OsStr},
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What stands at the top from the first change to the last; in it the number of the system.
const MARK: &str = ".recoup-delta";
/// The control file until everything else is there.
const CONTROL_UNTIL_LAST: &str = "global/pg_control.recoup";
/// More than either of the two that tell a system has.
const TELLING_BYTES_MAX: u64 = 64 * 1024;

/// A directory that is written over, held open.
pub(super) struct Over {
    path: PathBuf,
    target: Arc<OwnedFd>,
    /// Of which system it is; `None` for the directory of a tablespace, which its cluster vouches for.
    system: Option<u64>,
}

/// What is to stand somewhere.
enum Wanted<'a> {
    Directory(Level<'a>),
    File(usize),
    Link(usize, &'a str),
}

type Level<'a> = BTreeMap<CString, Wanted<'a>>;

impl Over {
    /// Accepts the data directory of a cluster. Changes nothing.
    pub(super) fn cluster(path: &Path, stores: &[Store]) -> Result<Self, Failure> {
        let mut over = Over::tablespace(path, stores)?;
        over.system = Some(over.told_system()?);
        Ok(over)
    }

    /// Accepts the directory of a tablespace that a cluster has already. Changes nothing.
    pub(super) fn tablespace(path: &Path, stores: &[Store]) -> Result<Self, Failure> {
        // With a slash at its end a link would be followed.
        let path: PathBuf = path.components().collect();
        refuse_stores(&path, stores)?;
        let target = match held::open(CWD, &path) {
            Ok(target) => target,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(refuse(&path, "it does not exist").next_step("leave out --delta to restore into it"));
            }
            Err(error) => return Err(refuse(&path, &format!("it is no directory that can be opened: {error}"))),
        };
        let found = fstat(&target).map_err(|error| failed("look at", &path, &error.into()))?;
        if found.st_uid != user_id() {
            return Err(refuse(&path, &format!("it belongs to user {}", found.st_uid))
                .next_step("run the same command as its owner"));
        }
        if found.st_mode & 0o022 != 0 {
            let why = format!("others may write to it (mode {:04o})", found.st_mode & 0o7777);
            return Err(refuse(&path, &why).next_step(format!("chmod go-w {}", shell_word(path.display()))));
        }
        Ok(Over { path, target: Arc::new(target), system: None })
    }

    /// The number of the system that the directory is of: by its control file, or by our mark.
    fn told_system(&self) -> Result<u64, Failure> {
        let read = |name: &str| -> io::Result<Vec<u8>> {
            let (folder, name) = name.split_once('/').unwrap_or((".", name));
            let folder = held::open(&self.target, folder)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut bytes = Vec::new();
            let file = File::from(openat(folder, name, flags, Mode::empty())?);
            file.take(TELLING_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let unproven = |why: &str| {
            refuse(&self.path, &format!("nothing proves that it is a cluster of this source: {why}"))
                .next_step("restore into a new or empty directory, without --delta")
        };
        if let Ok(mark) = read(MARK) {
            let system = String::from_utf8_lossy(&mark).trim().parse();
            return system.map_err(|_| unproven(&format!("{MARK} names no system")));
        }
        let control = read(CONTROL).map_err(|error| unproven(&format!("{CONTROL}: {error}")))?;
        system_of(&control).map_err(|why| unproven(&format!("{CONTROL}: {why}")))
    }

    /// Refuses the directory of another system.
    pub(super) fn check_system(&self, expected: &str) -> Result<(), Failure> {
        match self.system {
            Some(system) if system.to_string() != expected => {
                let why = format!(
                    "it is a cluster of another system: its system identifier is {system}, that of the snapshot is {expected}"
                );
                Err(refuse(&self.path, &why)
                    .next_step("check --to; another cluster's data is only restored into a new or empty directory"))
            }
            _ => Ok(()),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that it has already.
    pub(super) fn bytes(&self) -> u64 {
        held::bytes(&self.target)
    }

    /// Removes what does not belong there, and makes what is missing. Only whole trees of ours are entered.
    pub(super) fn create(&self, entries: &[Entry]) -> Result<OpenFiles, Failure> {
        let claimed = flock(&self.target, FlockOperation::NonBlockingLockExclusive);
        let found = fstat(&self.target).map_err(|error| failed("look at", &self.path, &error.into()))?;
        let is_named = held::is_there(CWD, &self.path, held::identity(&found)).unwrap_or(false);
        if claimed == Err(Errno::WOULDBLOCK) || !is_named {
            return Err(locked(&self.path));
        }
        self.begin()?;
        let mut kept = Kept::default();
        let wanted = levels(entries);
        // Beside a tablespace others may have theirs, such as another version.
        let stays = |name: &CStr| self.system.is_none() || name.to_bytes() == MARK.as_bytes();
        tidy(&self.target, &self.path, &wanted, &stays, &mut kept.entries)?;
        if self.system.is_some() {
            let control = entries.iter().position(|entry| entry.path.as_str() == CONTROL);
            kept.held_back = control.map(|at| (at, PathBuf::from(CONTROL_UNTIL_LAST)));
            kept.entries.retain(|at| Some(*at) != control);
        }
        OpenFiles::create(self.target.clone(), self.path.clone(), entries, &kept)
    }

    /// Nobody else enters any more, and no server starts from here on.
    fn begin(&self) -> Result<(), Failure> {
        let Some(system) = self.system else {
            return fchmod(&self.target, Mode::RWXU).map_err(|error| failed("close", &self.path, &error.into()));
        };
        refuse_running(&self.path)?;
        let mark = || -> io::Result<()> {
            fchmod(&self.target, Mode::RWXU)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut mark = File::from(openat(&self.target, MARK, flags, Mode::RUSR | Mode::WUSR)?);
            mark.write_all(format!("{system}\n").as_bytes())?;
            fsync(&mark)?;
            fsync(&self.target)?;
            self.rename_control(CONTROL, CONTROL_UNTIL_LAST)
        };
        mark().map_err(|error| failed("prepare", &self.path, &error))?;
        // A server notes that it runs before it reads its control file: either it is seen here, or it finds none.
        refuse_running(&self.path).inspect_err(|_| {
            let _ = self.rename_control(CONTROL_UNTIL_LAST, CONTROL);
            let _ = unlinkat(&self.target, MARK, AtFlags::empty());
        })
    }

    fn rename_control(&self, from: &str, to: &str) -> io::Result<()> {
        match held::look(&self.target, "global")? {
            Some(found) if held::is_directory(&found) => {
                let global = held::open_closed(&self.target, c"global")?;
                match renameat(&self.target, from, &self.target, to) {
                    Ok(()) | Err(Errno::NOENT) => Ok(fsync(&global)?),
                    Err(error) => Err(error.into()),
                }
            }
            // What stands there is replaced.
            _ => Ok(()),
        }
    }

    /// Makes everything durable with its owner and mode.
    pub(super) fn settle(&self, entries: &[Entry], files: &OpenFiles, notes: &mut Notes) -> Result<(), Failure> {
        finish(&self.target, &self.path, entries, files, notes)?;
        for entry in entries.iter().filter(|entry| is_finished_later(entry)) {
            let name = entry.path.to_relative();
            let finished = held::open(&self.target, &name).and_then(|directory| finish_one(directory, entry, notes));
            finished.map_err(|error| failed("finish", &self.path.join(&name), &error))?;
        }
        Ok(())
    }

    /// Gives the control file its name: from here on a server starts.
    pub(super) fn complete(&self) -> Result<(), Failure> {
        if self.system.is_none() {
            return Ok(());
        }
        let done = renameat(&self.target, CONTROL_UNTIL_LAST, &self.target, CONTROL)
            .map_err(io::Error::from)
            .and_then(|()| Ok(fsync(held::open(&self.target, "global")?)?))
            .and_then(|()| Ok(unlinkat(&self.target, MARK, AtFlags::empty())?))
            .and_then(|()| Ok(fsync(&self.target)?));
        done.map_err(|error| failed("complete", &self.path, &error))
    }
}

/// Removes from a folder of ours what is not among the entries; gives those of which something may stay.
pub(super) fn tidied(folder: &OwnedFd, shown: &Path, entries: &[Entry]) -> Result<BTreeSet<usize>, Failure> {
    let mut kept = BTreeSet::new();
    tidy(folder, shown, &levels(entries), &|_| false, &mut kept)?;
    Ok(kept)
}

/// What is to stand where, level by level.
fn levels(entries: &[Entry]) -> Level<'_> {
    let mut top = Level::new();
    for (at, entry) in entries.iter().enumerate() {
        let path = entry.path.to_relative();
        let parts: Vec<CString> = path.iter().filter_map(|part| CString::new(part.as_bytes()).ok()).collect();
        put(
            &mut top,
            &parts,
            match &entry.kind {
                EntryKind::Directory => Wanted::Directory(Level::new()),
                EntryKind::File { .. } => Wanted::File(at),
                EntryKind::Link { target } => Wanted::Link(at, target),
            },
        );
    }
    top
}

fn put<'a>(mut level: &mut Level<'a>, parts: &[CString], wanted: Wanted<'a>) {
    let Some((name, above)) = parts.split_last() else { return };
    for part in above {
        let place = level.entry(part.clone()).or_insert_with(|| Wanted::Directory(Level::new()));
        // The tree was checked: nothing stands below what is no directory.
        let Wanted::Directory(below) = place else { return };
        level = below;
    }
    // A directory may have been implied by what stands below it.
    level.entry(name.clone()).or_insert(wanted);
}

/// Removes from a directory what is not wanted in it, and says of what is whether it may stay. Links are never
/// followed: what a link leads to is nothing of this directory.
fn tidy(
    directory: &OwnedFd,
    shown: &Path,
    wanted: &Level<'_>,
    stays: &dyn Fn(&CStr) -> bool,
    kept: &mut BTreeSet<usize>,
) -> Result<(), Failure> {
    let failed = |what: &str, path: &Path, error: io::Error| failed(what, path, &error);
    for name in held::names(directory).map_err(|error| failed("read", shown, error))? {
        let path = shown.join(OsStr::from_bytes(name.to_bytes()));
        let found = held::look(directory, &name).map_err(|error| failed("look at", &path, error))?;
        let Some(found) = found else { continue };
        let is_right = match wanted.get(&name) {
            None if stays(&name) => true,
            None => false,
            Some(Wanted::Directory(below)) if held::is_directory(&found) => {
                let inner = held::open_closed(directory, &name).map_err(|error| failed("open", &path, error))?;
                tidy(&inner, &path, below, &|_| false, kept)?;
                true
            }
            Some(Wanted::Directory(_)) => false,
            Some(Wanted::File(at)) => is_own_file(&found) && kept.insert(*at),
            Some(Wanted::Link(at, target)) => is_link_to(directory, &name, target) && kept.insert(*at),
        };
        if !is_right {
            held::remove(directory, &name).map_err(|error| failed("remove", &path, error))?;
        }
    }
    Ok(())
}

/// Whether writing to a file changes that file alone, and is permitted.
fn is_own_file(found: &Stat) -> bool {
    let is_file = FileType::from_raw_mode(found.st_mode).is_file();
    // What has another name may have it outside.
    is_file && found.st_nlink == 1 && found.st_uid == user_id() && found.st_mode & 0o600 == 0o600
}

fn is_link_to(directory: &OwnedFd, name: &CStr, target: &str) -> bool {
    readlinkat(directory, name, Vec::new()).is_ok_and(|found| decode(target).is_some_and(|to| found.to_bytes() == to))
}

fn refuse(target: &Path, why: &str) -> Failure {
    Failure::new(Code::Refused, format!("will not restore over {}", target.display()))
        .cause(why)
        .safe("nothing was written")
        .next_step("name the data directory of a stopped server of this source with --to")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::path::StoredPath;
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    fn entry(path: &str, kind: EntryKind) -> Entry {
        let gid = rustix::process::getegid().as_raw();
        let mode = if kind == EntryKind::Directory { 0o700 } else { 0o600 };
        Entry { path: StoredPath::parse(path).unwrap(), kind, mode, uid: user_id(), gid }
    }

    fn file(path: &str, size: u64) -> Entry {
        entry(path, EntryKind::File { size, block_size: 512 })
    }

    #[test]
    fn what_is_right_stays_and_nothing_outside_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (target, outside) = (dir.path().join("target"), dir.path().join("outside"));
        fs::create_dir_all(target.join("base/old")).unwrap();
        fs::create_dir_all(target.join("global")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::set_permissions(&target, PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(outside.join("precious"), "precious").unwrap();
        for name in ["base/1", "base/2", "base/old/3", "global/pg_control", "stray", "global/closed"] {
            fs::write(target.join(name), [7; 1000]).unwrap();
        }
        fs::set_permissions(target.join("global/closed"), PermissionsExt::from_mode(0o400)).unwrap();
        fs::hard_link(outside.join("precious"), target.join("base/linked")).unwrap();
        symlink(&outside, target.join("base/led")).unwrap();
        symlink(outside.join("precious"), target.join("base/led_file")).unwrap();
        symlink("here", target.join("right")).unwrap();
        let inode = |name: &str| fs::symlink_metadata(target.join(name)).unwrap().ino();
        let (kept_file, kept_link) = (inode("base/1"), inode("right"));

        let entries = [
            entry("base", EntryKind::Directory),
            file("base/1", 1500),
            entry("base/2", EntryKind::Directory),
            entry("base/led", EntryKind::Directory),
            file("base/led/inner", 10),
            file("base/led_file", 10),
            file("base/linked", 10),
            entry("global", EntryKind::Directory),
            file("global/closed", 10),
            file("global/pg_control", 512),
            entry("right", EntryKind::Link { target: "here".into() }),
        ];
        assert!(Over::cluster(&target, &[]).is_err(), "that is no control file");
        let over = Over { system: Some(7), ..Over::tablespace(&target, &[]).unwrap() };
        let files = over.create(&entries).unwrap();
        // Interrupted here, it is still known, and no server starts on it.
        assert_eq!(fs::read_to_string(target.join(MARK)).unwrap(), "7\n");
        assert_eq!(Over::cluster(&target, &[]).unwrap().system, Some(7));
        assert!(!target.join(CONTROL).exists() && !target.join("stray").exists() && !target.join("base/old").exists());
        assert_eq!((inode("base/1"), inode("right")), (kept_file, kept_link));
        let mut block = [0; 512];
        assert!(files.read(1, 1, 512, &mut block).unwrap() && block[..488] == [7; 488] && block[488..] == [0; 24]);
        assert!(!files.read(6, 0, 512, &mut block).unwrap() && !files.is_found(9));
        for at in [1, 4, 5, 6, 8, 9] {
            files.write(at, 0, 512, &[at as u8; 512]).unwrap();
        }
        over.settle(&entries, &files, &mut Notes::default()).unwrap();
        assert!(!target.join(CONTROL).exists());
        over.complete().unwrap();
        assert_eq!(fs::read(target.join(CONTROL)).unwrap(), [9; 512]);
        assert!(!target.join(MARK).exists() && !target.join(CONTROL_UNTIL_LAST).exists());
        assert_eq!(fs::read(target.join("base/1")).unwrap()[512..1000], [7; 488]);
        assert_eq!(fs::read(target.join("base/led/inner")).unwrap(), [4; 10]);
        assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o700);
    }

    #[test]
    fn a_server_that_starts_meanwhile_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        fs::create_dir_all(target.join("global")).unwrap();
        fs::set_permissions(target.join("global"), PermissionsExt::from_mode(0o000)).unwrap();
        let over = Over { system: Some(7), ..Over::tablespace(&target, &[]).unwrap() };
        // This very process stands for a server; by its directory it is one of another place.
        let pid = std::process::id();
        let mut child = std::process::Command::new("sleep").arg("60").current_dir(&target).spawn().unwrap();
        fs::write(target.join("postmaster.pid"), format!("{}\n", child.id())).unwrap();
        let failure = over.create(&[]).err().unwrap();
        assert!(failure.code == Code::Refused && failure.message.contains("a server runs on"), "{failure}");
        assert!(!target.join(MARK).exists());
        child.kill().unwrap();
        child.wait().unwrap();
        fs::write(target.join("postmaster.pid"), format!("{pid}\n")).unwrap();
        drop(over.create(&[entry("global", EntryKind::Directory)]).unwrap());
        assert!(target.join(MARK).exists() && !target.join("postmaster.pid").exists());
    }

    #[test]
    fn what_is_not_certainly_ours_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        let why = |path: &Path| {
            let failure = Over::cluster(path, &[]).err().unwrap();
            assert!(failure.code == Code::Refused && failure.next_step.is_some(), "{failure:?}");
            failure.cause.unwrap()
        };
        assert!(why(&target).contains("does not exist"));
        fs::create_dir_all(target.join("global")).unwrap();
        fs::set_permissions(&target, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(why(&target).contains("others may write"));
        fs::set_permissions(&target, PermissionsExt::from_mode(0o700)).unwrap();
        assert!(why(&target).contains("nothing proves"));
        fs::write(target.join(MARK), "x").unwrap();
        assert!(why(&target).contains("names no system"));
        fs::write(target.join(MARK), "12\n").unwrap();
        let over = Over::cluster(&target, &[]).unwrap();
        assert!(over.check_system("12").is_ok());
        assert_eq!(over.check_system("13").unwrap_err().code, Code::Refused);
        symlink(&target, dir.path().join("link")).unwrap();
        assert!(why(&dir.path().join("link")).contains("no directory that can be opened"));
    }
}
