//! Directories that are held open. What is done in them goes through their descriptors and follows no link, so that
//! nobody who renames or replaces a path meanwhile leads it elsewhere.

use rustix::{
    fs::{
        AtFlags, Dir, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, openat, renameat, renameat_with, statat, unlinkat,
    },
    io::Errno,
    path::Arg,
};
use std::{
    ffi::{CStr, CString},
    fs::Permissions,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
};

/// Device and inode: what stays the same under every name.
pub(super) type Identity = (u64, u64);

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Opens a directory that is no link.
pub(super) fn open(dir: impl AsFd, path: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, path, flags, Mode::empty())?)
}

/// What stands under a name itself, a link too; `None` if nothing does.
pub(super) fn look(dir: impl AsFd, name: impl Arg) -> io::Result<Option<Stat>> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether this very thing stands under a name.
pub(super) fn is_there(dir: impl AsFd, name: impl Arg, expected: Identity) -> io::Result<bool> {
    Ok(look(dir, name)?.is_some_and(|found| identity(&found) == expected))
}

/// The names in a directory, in order.
pub(super) fn names(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Gives something its name in another directory; never replaces anything.
pub(super) fn move_to(from: impl AsFd, name: &CStr, to: impl AsFd, new_name: &CStr) -> Result<(), Errno> {
    match renameat_with(&from, name, &to, new_name, RenameFlags::NOREPLACE) {
        // Some file systems cannot refuse to replace: looking first is the best there is.
        Err(error @ (Errno::INVAL | Errno::NOSYS)) => match statat(&to, new_name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(&from, name, &to, new_name).map_err(|_| error),
            _ => Err(Errno::EXIST),
        },
        done => done,
    }
}

/// Removes everything in a directory. However deep it goes, two directories are open at a time: what lies deeper is
/// moved up first.
pub(super) fn empty(root: impl AsFd) -> io::Result<()> {
    let root = root.as_fd();
    let mut moved = 0_u64;
    loop {
        let found = names(root)?;
        if found.is_empty() {
            return Ok(());
        }
        for name in found {
            if is_removed(root, &name)? {
                continue;
            }
            let folder = open_closed(root, &name)?;
            for inner in names(&folder)? {
                if !is_removed(&folder, &inner)? {
                    // Only a directory that may be written to can be moved.
                    open_closed(&folder, &inner)?;
                    while let Err(error) = move_to(&folder, &inner, root, &CString::new(format!("{moved}"))?) {
                        if error != Errno::EXIST {
                            return Err(error.into());
                        }
                        moved += 1;
                    }
                }
            }
            unlinkat(root, &name, AtFlags::REMOVEDIR)?;
        }
    }
}

/// Removes what stands under a name, with everything in it.
pub(super) fn remove(dir: impl AsFd, name: &CStr) -> io::Result<()> {
    let dir = dir.as_fd();
    if !is_removed(dir, name)? {
        empty(open_closed(dir, name)?)?;
        unlinkat(dir, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Removes a name; `false` if it is that of a directory.
fn is_removed(dir: impl AsFd, name: &CStr) -> io::Result<bool> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Opens a directory of ours and makes it 0700, whatever its mode is.
pub(super) fn open_closed(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let dir = dir.as_fd();
    let opened = match open(dir, name) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // Nothing but its path may be held without permission to read it, and changing a mode by name would
            // follow a link.
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let held = openat(dir, name, flags, Mode::empty())?;
            std::fs::set_permissions(format!("/proc/self/fd/{}", held.as_raw_fd()), Permissions::from_mode(0o700))?;
            open(dir, name)?
        }
        opened => opened?,
    };
    if fstat(&opened)?.st_mode & 0o700 != 0o700 {
        fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

/// Bytes that removing everything in a directory would free, as far as it can be read.
pub(super) fn bytes(root: impl AsFd) -> u64 {
    let root = root.as_fd();
    let of = |name: CString| match look(root, &name) {
        Ok(Some(found)) if is_directory(&found) => open(root, &name).map_or(0, bytes),
        Ok(Some(found)) => u64::try_from(found.st_blocks).unwrap_or(0) * 512,
        _ => 0,
    };
    names(root).unwrap_or_default().into_iter().map(of).sum()
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink, path::Path};

    #[test]
    fn any_tree_is_emptied_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("a/0/1/x")).unwrap();
        fs::create_dir_all(root.join("0")).unwrap();
        fs::create_dir_all(outside.join("kept")).unwrap();
        fs::write(root.join("a/0/1/x/file"), vec![1; 10_000]).unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink(&outside, root.join("a/0/link")).unwrap();
        for closed in ["a/0/1", "0"] {
            fs::set_permissions(root.join(closed), Permissions::from_mode(0o000)).unwrap();
        }
        let held = open(rustix::fs::CWD, &root).unwrap();
        // A tree so deep that no path leads to its end.
        let mut deep = open(&held, "a").unwrap();
        for _ in 0..5_000 {
            rustix::fs::mkdirat(&deep, "d", Mode::RWXU).unwrap();
            deep = open(&deep, "d").unwrap();
        }
        drop(deep);
        empty(&held).unwrap();
        assert_eq!(names(&held).unwrap(), [] as [CString; 0]);
        assert!(Path::new(&outside).join("kept").is_dir());
    }

    #[test]
    fn bytes_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        fs::write(dir.path().join("a/b/file"), vec![1; 100_000]).unwrap();
        symlink("/", dir.path().join("a/link")).unwrap();
        let held = open(rustix::fs::CWD, dir.path()).unwrap();
        assert!((100_000..200_000).contains(&bytes(&held)), "{}", bytes(&held));
    }

    #[test]
    fn nothing_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("to")).unwrap();
        fs::write(dir.path().join("x"), "new").unwrap();
        let (from, to) =
            (open(rustix::fs::CWD, dir.path()).unwrap(), open(rustix::fs::CWD, dir.path().join("to")).unwrap());
        symlink("/nowhere", dir.path().join("to/x")).unwrap();
        assert_eq!(move_to(&from, c"x", &to, c"x"), Err(Errno::EXIST));
        fs::remove_file(dir.path().join("to/x")).unwrap();
        move_to(&from, c"x", &to, c"x").unwrap();
        assert_eq!(fs::read(dir.path().join("to/x")).unwrap(), b"new");
        symlink("to", dir.path().join("link")).unwrap();
        assert!(open(&from, "link").is_err());
    }
}
