//! The directory of a `file://` store: looked at, made, opened.

use super::{Facts, Patience, Store, StoreSpec, directory::Directory};
use crate::core::failure::{Code, Failure, shell_word};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// What stands where the directory of a store should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectoryState {
    /// Nothing; the directory above it is there.
    Missing,
    /// An empty directory.
    Empty,
    /// A directory with something in it.
    Occupied,
}

/// Opens the store in a directory. Never makes one.
pub(super) fn open_directory(spec: &StoreSpec, path: &Path) -> Result<Store, Failure> {
    let directory = Directory::open(path).map_err(|error| unreachable(spec, path, &error))?;
    if spec.mounted {
        require_own_device(spec, directory.path())?;
    }
    let facts = Facts { directory: Some(directory.path().to_owned()), conditional_create: true };
    let directory = Arc::new(directory);
    Ok(Store {
        name: spec.name.clone(),
        url: spec.url.clone(),
        place: spec.place.clone(),
        objects: directory.clone(),
        directory: Some(directory),
        facts,
        patience: Patience::default(),
        silence: super::Silence::default(),
    })
}

fn unreachable(spec: &StoreSpec, path: &Path, error: &io::Error) -> Failure {
    let next_step = match error.kind() {
        io::ErrorKind::NotFound => "mount the disk or bring the directory back; recoup makes one only at init",
        io::ErrorKind::PermissionDenied => "give the user that runs recoup access to the directory",
        _ => "see why the directory cannot be read",
    };
    Failure::new(Code::Store, format!("store {}: the directory {} cannot be opened", spec.name, path.display()))
        .cause(error)
        .safe("the other stores are used; nothing was written here")
        .next_step(next_step)
}

/// What a store's directory is to be made in cannot be opened.
fn nowhere(spec: &StoreSpec, above: &Path, error: &io::Error) -> Failure {
    let failure = unreachable(spec, above, error);
    match error.kind() {
        io::ErrorKind::NotFound => failure.next_step(format!(
            "mount the disk that belongs there, or make it: mkdir -p {}",
            shell_word(above.display())
        )),
        _ => failure,
    }
}

/// Refuses a directory that lies on the same device as the one above it: its disk is not mounted.
fn require_own_device(spec: &StoreSpec, path: &Path) -> Result<(), Failure> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let here = device(path).map_err(|error| unreachable(spec, path, &error))?;
    let Some(parent) = path.parent() else { return Ok(()) };
    let above = device(parent).map_err(|error| unreachable(spec, parent, &error))?;
    if here != above {
        return Ok(());
    }
    let message = format!("store {}: no disk is mounted at {}", spec.name, path.display());
    Err(Failure::new(Code::Store, message)
        .cause("mounted = true, and the directory is on the same device as the one above it")
        .safe("the other stores are used; nothing was written here")
        .next_step(format!("mount the disk at {}, or remove mounted = true from the configuration", path.display())))
}

/// Looks at the directory of a store that is to be made, and changes nothing.
pub(super) fn examine_directory(spec: &StoreSpec, path: &Path) -> Result<DirectoryState, Failure> {
    let state = match fs::read_dir(path) {
        Ok(entries) => {
            if spec.mounted {
                require_own_device(spec, &fs::canonicalize(path).map_err(|error| unreachable(spec, path, &error))?)?;
            }
            writable(path).map_err(|error| unreachable(spec, path, &error))?;
            state_of(entries).map_err(|error| unreachable(spec, path, &error))?
        }
        // A link to nowhere is not missing: making a directory there would fail.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            if spec.mounted {
                return Err(unreachable(spec, path, &error));
            }
            let above = path.parent().unwrap_or(path);
            if !fs::metadata(above).map_err(|error| nowhere(spec, above, &error))?.is_dir() {
                return Err(unreachable(spec, above, &io::ErrorKind::NotADirectory.into()));
            }
            writable(above).map_err(|error| unreachable(spec, above, &error))?;
            DirectoryState::Missing
        }
        Err(error) => return Err(unreachable(spec, path, &error)),
    };
    Ok(state)
}

/// `lost+found` occupies nobody's place.
fn state_of(entries: fs::ReadDir) -> io::Result<DirectoryState> {
    for entry in entries {
        if entry?.file_name() != "lost+found" {
            return Ok(DirectoryState::Occupied);
        }
    }
    Ok(DirectoryState::Empty)
}

fn writable(path: &Path) -> io::Result<()> {
    use rustix::fs::Access;
    Ok(rustix::fs::access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Makes the directory of a new store, at most the last part of its path, and opens it. The only place that makes one.
pub(super) fn create_directory(spec: &StoreSpec, path: &Path) -> Result<Store, Failure> {
    if examine_directory(spec, path)? == DirectoryState::Missing {
        match fs::DirBuilder::new().mode(0o755).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unreachable(spec, path, &error)),
            _ => {}
        }
    }
    // Also when it was there: a killed init may have made it and not synced it.
    let above = path.parent().unwrap_or(path);
    let synced = fs::File::open(above).and_then(|dir| dir.sync_all());
    match synced {
        // A directory that may be passed through but not read was not changed by us either.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(unreachable(spec, above, &error)),
        _ => open_directory(spec, path),
    }
}

/// The path without links, as far as it exists.
pub(super) fn real_path(path: &Path) -> PathBuf {
    let existing = path.ancestors().find_map(|above| Some((above, fs::canonicalize(above).ok()?)));
    match existing {
        Some((above, real)) => path.strip_prefix(above).map_or_else(|_| path.to_owned(), |rest| real.join(rest)),
        None => path.to_owned(),
    }
}
