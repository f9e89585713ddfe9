//! Files of our own: written so that a crash leaves the old or the new one, never a mixture.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

/// Opens a regular file for reading. Anything else in its place is refused, and nothing is waited for: opening a pipe
/// would never end while nobody writes to it.
pub fn open_regular(path: impl AsRef<Path>) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(nonblocking()).open(path);
    regular(opened, |_| false)
}

/// The same, and never through a link.
pub fn open_unlinked(path: impl AsRef<Path>) -> io::Result<File> {
    let flags = nonblocking() | rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path), |_| false)
}

/// The same as [`open_regular`], or what the caller's shell has opened for it (process substitution): a pipe that lies
/// in no directory, and that a program writes to which may have to ask for a password first.
pub fn open_given(path: impl AsRef<Path>) -> io::Result<File> {
    let opened = OpenOptions::new().read(true).custom_flags(nonblocking()).open(path);
    let file = regular(opened, is_nameless_pipe)?;
    let flags = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, flags - rustix::fs::OFlags::NONBLOCK)?;
    Ok(file)
}

/// All of a regular file.
pub fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    read_start(path, u64::MAX)
}

/// The beginning of a regular file, so many bytes at most.
pub fn read_start(path: impl AsRef<Path>, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of a regular file of text.
pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    let mut text = String::new();
    open_regular(path)?.read_to_string(&mut text)?;
    Ok(text)
}

fn nonblocking() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

/// What was opened without waiting, if it is a regular file, or what else is allowed.
fn regular(opened: io::Result<File>, allows: impl FnOnce(&File) -> bool) -> io::Result<File> {
    let other = || io::Error::other("it is not a regular file");
    // So ends opening a socket, a device without a driver, and a pipe for writing that nobody reads.
    let nobody = rustix::io::Errno::NXIO.raw_os_error();
    let file = opened.map_err(|error| if error.raw_os_error() == Some(nobody) { other() } else { error })?;
    if file.metadata()?.is_file() || allows(&file) { Ok(file) } else { Err(other()) }
}

fn is_nameless_pipe(file: &File) -> bool {
    const PIPEFS_MAGIC: i64 = 0x5049_5045;
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == PIPEFS_MAGIC)
}

/// Replaces a file atomically: a temporary file beside it is written, synced and renamed over it.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (temporary, mut file) = create_beside(path, mode)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_directory(parent(path))
}

/// A new file beside another, to be renamed over it.
fn create_beside(path: &Path, mode: u32) -> io::Result<(PathBuf, File)> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // A leftover of a crash may have any mode; the new file must have this one from the beginning.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    Ok((temporary, file))
}

/// Replaces a file atomically by one with the same mode and owner. Refuses where that cannot be had.
pub fn replace_keeping(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let old = fs::symlink_metadata(path)?;
    let (temporary, mut file) = create_beside(path, 0o600)?;
    let written = (|| {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(old.permissions())?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(parent(path))
}

/// Creates a file that must not exist yet, synced together with its directory.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_directory(parent(path))
}

/// Makes a file in a directory that only we can read, and that is gone when it is closed: it has no name any more.
pub fn create_unnamed(directory: &Path) -> io::Result<File> {
    let path = directory.join("unnamed");
    // Of a process that died at the wrong moment.
    let _ = fs::remove_file(&path);
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    Ok(file)
}

/// Makes a directory and its parents, 0700, and syncs what was made.
pub fn create_private_directories(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().try_for_each(|made| sync_directory(parent(made)))
}

/// Makes changes of a directory's entries durable.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a path lies in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An exclusive lock on a file, held until it is dropped or the process ends.
pub struct Lock(#[expect(dead_code, reason = "holding it open is the lock")] File);

/// Takes the lock, or `None` when another process has it. The file stays; only the lock goes.
pub fn try_lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = open_lock(path)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock(file))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(nonblocking());
    regular(options.open(path), |_| false)
}

/// Whether a process has the lock on a file that is there. Nothing is made, and the lock is not taken from anybody.
pub fn is_locked(path: &Path) -> bool {
    let Ok(file) = open_regular(path) else { return false };
    let shared = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared);
    shared == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Takes the lock, waiting for it. For locks that are held for a moment only.
pub fn lock(path: &Path) -> io::Result<Lock> {
    let file = open_lock(path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(Lock(file))
}

/// Bytes that an unprivileged process may still write to the file system of `path`.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let statistics = rustix::fs::statvfs(path)?;
    Ok(statistics.f_bavail.saturating_mul(statistics.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn files_are_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/state.json");
        create_private_directories(path.parent().unwrap()).unwrap();
        write_atomic(&path, b"one", 0o600).unwrap();
        fs::write(path.with_extension("json.new"), b"left by a crash").unwrap();
        write_atomic(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write_new(&path, b"three", 0o600).is_err());
        assert!(free_bytes(directory.path()).unwrap() > 0);
    }

    #[test]
    fn replaced_files_keep_their_mode() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("recoup.toml");
        for mode in [0o664, 0o600, 0o644] {
            fs::write(&path, "one").unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            replace_keeping(&path, b"two").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"two");
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        }
        assert!(replace_keeping(&directory.path().join("other"), b"two").is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_but_regular_files_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it");
        let refused = |what: &str| {
            for opened in [open_regular(&path), open_given(&path), open_lock(&path)] {
                let error = opened.unwrap_err();
                assert!(error.to_string().contains(what), "{error}");
            }
            assert!(read(&path).is_err() && read_to_string(&path).is_err() && !is_locked(&path));
            assert!(try_lock(&path).is_err() && lock(&path).is_err());
        };
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        refused("not a regular file");
        // Nor where somebody has it open, and never writes.
        let kept = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        refused("not a regular file");
        drop(kept);
        fs::remove_file(&path).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        refused("not a regular file");
        drop(socket);
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused("not a regular file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "text").unwrap();
        assert_eq!(read_to_string(&path).unwrap(), "text");
        assert_eq!(read(&path).unwrap(), b"text");
    }

    #[test]
    fn what_a_shell_opens_is_waited_for() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", reader.as_raw_fd()));
        assert!(open_regular(&path).is_err());
        let mut given = open_given(&path).unwrap();
        let writing = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            writer.write_all(b"secret").unwrap();
        });
        let mut text = String::new();
        given.read_to_string(&mut text).unwrap();
        assert_eq!(text, "secret");
        writing.join().unwrap();
    }

    #[test]
    fn locks_exclude() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = try_lock(&path).unwrap();
        assert!(held.is_some());
        assert!(try_lock(&path).unwrap().is_none());
        assert!(is_locked(&path));
        drop(held);
        assert!(!is_locked(&path) && !is_locked(&directory.path().join("none")));
        assert!(try_lock(&path).unwrap().is_some());
    }
}
