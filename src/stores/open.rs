//! Opening configured stores, and making directories for new ones.

use super::{Facts, Patience, Store, directory::Directory};
use crate::core::{
    failure::{Code, Failure},
    policy::Place,
};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

/// A store as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StoreSpec {
    /// Its name.
    pub name: String,
    /// `file:///absolute/path`.
    pub url: String,
    /// Its region and provider.
    pub place: Place,
    /// Whether the directory must be on a device of its own: an unmounted disk is not to be filled.
    pub mounted: bool,
}

/// What stands where the directory of a store should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirectoryState {
    /// Nothing; the directory above it is there.
    Missing,
    /// An empty directory.
    Empty,
    /// A directory with something in it.
    Occupied,
}

impl Store {
    /// Opens a configured store. Never makes a directory, and does not look for a repository.
    pub fn open(spec: &StoreSpec) -> Result<Store, Failure> {
        let path = spec.path()?;
        let directory = Directory::open(&path).map_err(|error| spec.unreachable(&path, &error))?;
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
        })
    }
}

impl StoreSpec {
    /// The directory that the URL names.
    pub fn path(&self) -> Result<PathBuf, Failure> {
        let wrong = |why: &str| {
            Failure::new(Code::Configuration, format!("store {}: {:?} is not usable", self.name, self.url))
                .cause(why)
                .safe("nothing was read or written")
                .next_step("write the URL of a directory as file:///absolute/path")
        };
        let Some(rest) = self.url.strip_prefix("file://") else {
            let scheme = self.url.split_once("://").map_or("", |(scheme, _)| scheme);
            return Err(match scheme {
                "s3" | "gs" | "az" => wrong("this version of recoup only has file:// stores"),
                _ => wrong("it is not a URL of a store"),
            });
        };
        if !rest.starts_with('/') {
            return Err(wrong("the path must be absolute: three slashes after file:"));
        }
        let path = PathBuf::from(percent_decoded(rest).ok_or_else(|| wrong("it has a % that stands for nothing"))?);
        if path.components().any(|part| matches!(part, Component::ParentDir)) {
            return Err(wrong("the path must not contain .."));
        }
        if path.parent().is_none() {
            return Err(wrong("the root directory is no place for a store"));
        }
        Ok(path)
    }

    fn unreachable(&self, path: &Path, error: &io::Error) -> Failure {
        let next_step = match error.kind() {
            io::ErrorKind::NotFound => "mount the disk or bring the directory back; recoup makes one only at init",
            io::ErrorKind::PermissionDenied => "give the user that runs recoup access to the directory",
            _ => "see why the directory cannot be read",
        };
        Failure::new(Code::Store, format!("store {}: the directory {} cannot be opened", self.name, path.display()))
            .cause(error)
            .safe("the other stores are used; nothing was written here")
            .next_step(next_step)
    }
}

/// Decodes `%20` and the like. What is not ASCII may stand as it is.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Refuses a directory that lies on the same device as the one above it: its disk is not mounted.
fn require_own_device(spec: &StoreSpec, path: &Path) -> Result<(), Failure> {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    let here = device(path).map_err(|error| spec.unreachable(path, &error))?;
    let Some(parent) = path.parent() else { return Ok(()) };
    let above = device(parent).map_err(|error| spec.unreachable(parent, &error))?;
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
pub fn examine_directory(spec: &StoreSpec) -> Result<DirectoryState, Failure> {
    let path = spec.path()?;
    let state = match fs::read_dir(&path) {
        Ok(entries) => {
            if spec.mounted {
                require_own_device(spec, &fs::canonicalize(&path).map_err(|error| spec.unreachable(&path, &error))?)?;
            }
            writable(&path).map_err(|error| spec.unreachable(&path, &error))?;
            state_of(entries).map_err(|error| spec.unreachable(&path, &error))?
        }
        // A link to nowhere is not missing: making a directory there would fail.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {
            if spec.mounted {
                return Err(spec.unreachable(&path, &error));
            }
            let above = path.parent().unwrap_or(&path);
            if !fs::metadata(above).map_err(|error| spec.unreachable(above, &error))?.is_dir() {
                return Err(spec.unreachable(above, &io::ErrorKind::NotADirectory.into()));
            }
            writable(above).map_err(|error| spec.unreachable(above, &error))?;
            DirectoryState::Missing
        }
        Err(error) => return Err(spec.unreachable(&path, &error)),
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
pub fn create_directory(spec: &StoreSpec) -> Result<Store, Failure> {
    let path = spec.path()?;
    if examine_directory(spec)? == DirectoryState::Missing {
        match fs::DirBuilder::new().mode(0o755).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(spec.unreachable(&path, &error)),
            _ => {}
        }
    }
    // Also when it was there: a killed init may have made it and not synced it.
    let above = path.parent().unwrap_or(&path);
    let synced = fs::File::open(above).and_then(|dir| dir.sync_all());
    match synced {
        // A directory that may be passed through but not read was not changed by us either.
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(spec.unreachable(above, &error)),
        _ => Store::open(spec),
    }
}
