//! Files fetched before the server asks for them: a few, in a directory that nobody else can read.

use crate::{
    core::{
        id::{RepositoryId, RunId, SourceName},
        log::{HistoryId, LogFile},
    },
    world::files::{create_private_directories, parent, sync_directory},
};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The directory, beside the one that the server's files go to.
const DIRECTORY: &str = "recoup-prefetch";

/// What was fetched ahead.
pub(super) struct Prefetched {
    directory: PathBuf,
    /// Part of every name: another source's files are none of these.
    mark: String,
}

impl Prefetched {
    /// The directory beside the target's. `None` where it is not ours alone, and cannot be had.
    pub(super) fn beside(target: &Path, repository: RepositoryId, source: &SourceName) -> Option<Self> {
        let directory = parent(&fs::canonicalize(parent(target)).ok()?).join(DIRECTORY);
        create_private_directories(&directory).ok()?;
        let metadata = fs::symlink_metadata(&directory).ok()?;
        let is_ours = metadata.is_dir()
            && metadata.uid() == crate::world::user_id()
            && metadata.permissions().mode() & 0o077 == 0;
        is_ours.then(|| Prefetched { directory, mark: format!("{repository}-{source}") })
    }

    /// Where a file is kept.
    pub(super) fn path(&self, history: HistoryId, file: LogFile, run: RunId) -> PathBuf {
        self.directory.join(format!("{}-{history}-{file}-{run}", self.mark))
    }

    /// Whether a file was fetched ahead.
    pub(super) fn has(&self, history: HistoryId, file: LogFile, run: RunId) -> bool {
        self.path(history, file, run).exists()
    }

    /// Moves a file that was fetched ahead to where the server wants it; says whether there was one of this size. With
    /// no run named, any will do.
    pub(super) fn take(&self, history: HistoryId, file: LogFile, run: Option<RunId>, target: &Path) -> Option<u64> {
        let start = format!("{}-{history}-{file}-", self.mark);
        let found = match run {
            Some(run) => Some(self.path(history, file, run)),
            None => self
                .names()
                .find(|(name, _)| name.strip_prefix(&start).is_some_and(|run| run.parse::<RunId>().is_ok()))
                .map(|(_, path)| path),
        }?;
        let bytes = fs::symlink_metadata(&found).ok().filter(fs::Metadata::is_file)?.len();
        fs::rename(&found, target).and_then(|()| sync_directory(parent(target))).ok()?;
        Some(bytes)
    }

    /// Removes what is not among the files that may be asked for next: a timeline that was left, an earlier replay.
    pub(super) fn keep_only(&self, wanted: &[(HistoryId, LogFile, RunId)]) {
        let wanted: Vec<PathBuf> = wanted.iter().map(|(history, file, run)| self.path(*history, *file, *run)).collect();
        for (_, path) in self.names().filter(|(_, path)| !wanted.contains(path)) {
            drop(fs::remove_file(path));
        }
    }

    fn names(&self) -> impl Iterator<Item = (String, PathBuf)> + use<> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        entries.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())))
    }
}

/// Writes a file so that it is there whole or not at all, and stays.
pub(super) fn put(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut pending = Pending::create(target)?;
    pending.file.write_all(bytes)?;
    pending.publish()
}

/// A file that is being written beside its target, and is removed unless it is published.
pub(super) struct Pending {
    pub(super) file: File,
    temporary: PathBuf,
    target: PathBuf,
    is_published: bool,
}

impl Pending {
    pub(super) fn create(target: &Path) -> io::Result<Self> {
        let mut temporary = target.as_os_str().to_owned();
        temporary.push(".recoup");
        let temporary = PathBuf::from(temporary);
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary)?;
        Ok(Pending { file, temporary, target: target.to_owned(), is_published: false })
    }

    /// Gives it its name, on stable storage.
    pub(super) fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        self.is_published = true;
        sync_directory(parent(&self.target))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_published {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}
