//! What can go wrong with a log, in words.

use crate::{
    core::failure::{Code, Failure},
    sources::CHANGED_WHILE_READ,
};
use std::{fmt::Display, io, path::Path};

const SAFE: &str = "the logs were not changed; earlier snapshots are not affected";

fn unfit(message: String) -> Failure {
    Failure::new(Code::Source, message).safe(SAFE)
}

/// A file or directory that cannot be read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let next_step = match error.kind() {
        io::ErrorKind::NotFound => "correct `path` of the source, or bring the directory back (is it mounted?)",
        io::ErrorKind::PermissionDenied => {
            "let the user who runs recoup read it, such as with setfacl -m u:USER:rX, or with the group that logrotate \
             gives new files"
        }
        _ => "find out what is wrong with the disk, then run the same command again",
    };
    unfit(format!("{} cannot be read", path.display())).cause(error).next_step(next_step)
}

/// The path of the source is something else.
pub(super) fn not_a_directory(path: &Path) -> Failure {
    unfit(format!("{} is no directory", path.display()))
        .cause("a source of kind log is a directory of log files")
        .next_step("name the directory that holds the file")
}

/// A file that no snapshot can hold.
pub(super) fn cannot_be_stored(path: &Path, cause: impl Display) -> Failure {
    unfit(format!("{} cannot be stored", path.display())).cause(cause).next_step("rename or remove it")
}

/// The view was not one state.
pub(super) fn changed_while_read(path: &Path, cause: impl Display) -> Failure {
    unfit(format!("{} {CHANGED_WHILE_READ}", path.display()))
        .cause(cause)
        .next_step("run the same command again, not in the minute in which logs are rotated")
}
