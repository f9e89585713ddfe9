//! The note of what is being moved to where it belongs: a restore that is killed meanwhile is known by it, and the same
//! command takes back what it had moved.

use super::{Moved, held};
use crate::core::id::{hex, unhex};
use rustix::{
    fs::{AtFlags, Mode, OFlags, fsync, openat, unlinkat},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

/// Where it is, in the staging folder. Nothing that is restored has this name.
pub(super) const NOTE: &CStr = c".recoup-moving";
/// More than a note of millions of names has.
const NOTE_BYTES_MAX: u64 = 1 << 30;

/// Writes down everything in the folder, by name and identity. Durable when it returns.
pub(super) fn write_note(folder: &OwnedFd) -> io::Result<()> {
    let mut text = String::new();
    for name in held::names(folder)? {
        if let Some(found) = held::look(folder, &name)? {
            let (device, inode) = held::identity(&found);
            text.push_str(&format!("{device} {inode} {}\n", hex(name.to_bytes())));
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut note = File::from(openat(folder, NOTE, flags, Mode::RUSR | Mode::WUSR)?);
    note.write_all(text.as_bytes())?;
    fsync(&note)?;
    Ok(fsync(folder)?)
}

/// What a note says; nothing where there is none, or none that can be read.
pub(super) fn read_note(folder: &OwnedFd) -> Vec<Moved> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(note) = openat(folder, NOTE, flags, Mode::empty()) else { return Vec::new() };
    let mut text = String::new();
    if File::from(note).take(NOTE_BYTES_MAX).read_to_string(&mut text).is_err() {
        return Vec::new();
    }
    let line = |line: &str| {
        let mut words = line.split(' ');
        let identity = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Moved { name: CString::new(unhex(words.next()?)?).ok()?, identity })
    };
    text.lines().filter_map(line).collect()
}

/// Removes it, once everything is where it belongs.
pub(super) fn remove_note(folder: &OwnedFd) -> io::Result<()> {
    match unlinkat(folder, NOTE, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Moves back into the folder what a note says was moved out of it. The note stays: it is right until nothing of it is in
/// the target any more.
pub(super) fn take_back(target: &OwnedFd, folder: &OwnedFd) -> io::Result<()> {
    for Moved { name, identity } in read_note(folder) {
        if !held::is_there(target, &name, identity)? {
            continue;
        }
        let mut back = held::move_to(target, &name, folder, &name);
        if back == Err(Errno::ACCESS) && held::open_closed(target, &name).is_ok() {
            back = held::move_to(target, &name, folder, &name);
        }
        back?;
    }
    fsync(folder)?;
    Ok(fsync(target)?)
}

/// Whether a note says that everything was moved: then nothing was left to do but to remove the folder.
pub(super) fn is_done(folder: &OwnedFd) -> bool {
    held::names(folder).is_ok_and(|names| names == [NOTE.to_owned()])
}
