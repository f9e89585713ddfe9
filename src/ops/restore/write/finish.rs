//! Owners, modes, and everything durable: the last steps before a result is published.

use super::{
    failed,
    files::{OpenFiles, parents_not_of},
};
use crate::core::{
    failure::Failure,
    manifest::{Entry, EntryKind},
};
use rustix::fs::{AtFlags, Gid, Mode, Uid, chownat, fchmod, fchown, fstat, fsync};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

/// As many notes of one kind name what they are about; the rest are counted.
const NOTES_MAX: usize = 20;

/// What the operator should know, by what it is about.
#[derive(Default)]
pub(super) struct Notes {
    kinds: [(Vec<String>, usize); 2],
}

#[derive(Clone, Copy)]
enum Note {
    Owner,
    Special,
}

impl Notes {
    fn add(&mut self, kind: Note, text: String) {
        let (named, more) = &mut self.kinds[kind as usize];
        if named.len() < NOTES_MAX {
            named.push(text);
        } else {
            *more += 1;
        }
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        let [owners, special] = self.kinds;
        let [owners_more, special_more] = [
            (owners.1, "more belonged to others; they belong to you now"),
            (special.1, "more had set-user-id, set-group-id or sticky bits, which a restore never sets on files"),
        ]
        .map(|(more, what)| (more > 0).then(|| format!("{more} {what}")));
        [owners.0, owners_more.into_iter().collect(), special.0, special_more.into_iter().collect()].concat()
    }
}

/// Whether a directory can be moved out of the folder only before it has its mode: that takes permission to write to it.
pub(super) fn is_finished_later(entry: &Entry) -> bool {
    entry.kind == EntryKind::Directory && entry.mode & 0o200 == 0 && !entry.path.as_str().contains('/')
}

/// Makes everything in the folder durable with its owner and mode, but for what is finished later.
pub(super) fn finish(
    folder: &OwnedFd,
    shown: &Path,
    entries: &[Entry],
    files: &OpenFiles,
    notes: &mut Notes,
) -> Result<(), Failure> {
    let failed = |what: &str, path: &Path, error: io::Error| failed(what, &shown.join(path), &error);
    for (at, entry) in entries.iter().enumerate() {
        let path = entry.path.to_relative();
        match entry.kind {
            EntryKind::File { .. } => {
                finish_one(&files.finished(at)?, entry, notes).map_err(|error| failed("finish", &path, error))?;
            }
            EntryKind::Link { .. } if !give_link(folder, &path, entry) => note_owner(entry, notes),
            EntryKind::Link { .. } | EntryKind::Directory => {}
        }
    }
    // The innermost first: a mode may close a directory.
    let mut after = PathBuf::new();
    for entry in entries.iter().rev() {
        let path = entry.path.to_relative();
        if entry.kind == EntryKind::Directory && !is_finished_later(entry) {
            finish_one(files.directory(&path)?, entry, notes).map_err(|error| failed("finish", &path, error))?;
        }
        for parent in parents_not_of(&path, &after) {
            fsync(files.directory(parent)?).map_err(|error| failed("sync", parent, error.into()))?;
        }
        after = path;
    }
    fsync(folder).map_err(|error| failed("sync", Path::new(""), error.into()))
}

/// Gives an open file or directory its owner and mode, and makes it durable.
pub(super) fn finish_one(held: impl AsFd, entry: &Entry, notes: &mut Notes) -> io::Result<()> {
    let found = fstat(&held)?;
    let is_owners =
        (found.st_uid, found.st_gid) == (entry.uid, entry.gid) || fchown(&held, user(entry), group(entry)).is_ok();
    if !is_owners {
        note_owner(entry, notes);
    }
    let is_file = entry.kind != EntryKind::Directory;
    // Programs that run as their owner are nothing that a stolen key may plant. Those bits of a directory are for
    // who owns it.
    let mode = if is_file || !is_owners { entry.mode & 0o777 } else { entry.mode };
    if is_file && mode != entry.mode {
        let path = &entry.path;
        notes.add(
            Note::Special,
            format!(
                "{path} had mode {:04o}; a restore never sets set-user-id, set-group-id and sticky bits on files",
                entry.mode
            ),
        );
    }
    fchmod(&held, Mode::from_raw_mode(mode))?;
    Ok(fsync(held)?)
}

fn give_link(folder: &OwnedFd, path: &Path, entry: &Entry) -> bool {
    let found = rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| (found.st_uid, found.st_gid) == (entry.uid, entry.gid))
        || chownat(folder, path, user(entry), group(entry), AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// What was read from a manifest is at most [`crate::core::manifest::OWNER_MAX`].
fn user(entry: &Entry) -> Option<Uid> {
    Some(Uid::from_raw(entry.uid))
}

fn group(entry: &Entry) -> Option<Gid> {
    Some(Gid::from_raw(entry.gid))
}

fn note_owner(entry: &Entry, notes: &mut Notes) {
    let text = format!("{} belonged to user {} and group {}; it belongs to you now", entry.path, entry.uid, entry.gid);
    notes.add(Note::Owner, text);
}
