//! Looking ahead: what else waits beside the file that the server gives.

use crate::{
    core::log::{FILES_MAX, LogFile},
    world::files::parent,
};
use std::{collections::BTreeSet, fs, path::Path};

/// The most names of `archive_status` that are looked at.
const NAMES_MAX: usize = 1_000_000;

/// The files that wait in the same directory and are of the same timeline: the given one and those after it by name, at
/// most as many as one record names.
pub(super) fn waiting(path: &Path, file: LogFile, is_known: impl Fn(LogFile) -> bool) -> BTreeSet<LogFile> {
    let LogFile::Segment(_) = file else { return [file].into() };
    let Ok(entries) = fs::read_dir(parent(path).join("archive_status")) else { return [file].into() };
    let ready = entries.take(NAMES_MAX).filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_suffix(".ready")?.parse::<LogFile>().ok()
    });
    batch(file, ready, is_known)
}

/// The same of files that are known to wait.
pub(super) fn batch(
    file: LogFile,
    waiting: impl Iterator<Item = LogFile>,
    is_known: impl Fn(LogFile) -> bool,
) -> BTreeSet<LogFile> {
    let mut files: BTreeSet<LogFile> = [file].into();
    let LogFile::Segment(_) = file else { return files };
    let fits = |other: &LogFile| {
        matches!(other, LogFile::Segment(_))
            && other.timeline() == file.timeline()
            && *other > file
            && !is_known(*other)
    };
    files.extend(waiting.filter(fits).collect::<BTreeSet<_>>().into_iter().take(FILES_MAX - 1));
    files
}
