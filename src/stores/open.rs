//! Configured stores: what kind each is, opened, examined and founded by its kind.

use super::{
    Store,
    mount::{DirectoryState, create_directory, examine_directory, open_directory},
    s3 as bucket,
};
use crate::core::{
    failure::{Code, Failure},
    policy::Place,
    s3,
};
use std::path::{Component, PathBuf};

/// A store as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StoreSpec {
    /// Its name.
    pub name: String,
    /// `file:///absolute/path` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Its region and provider.
    pub place: Place,
    /// Whether the directory must be on a device of its own: an unmounted disk is not to be filled.
    pub mounted: bool,
    /// How the bucket of an `s3://` store is reached.
    pub s3: s3::Options,
}

/// What a store is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Directory(PathBuf),
    S3(s3::Address),
}

impl Store {
    /// Opens a configured store. Never makes a directory, and does not look for a repository.
    pub fn open(spec: &StoreSpec) -> Result<Store, Failure> {
        match spec.target()? {
            Target::Directory(path) => open_directory(spec, &path),
            Target::S3(address) => bucket::open(spec, &address),
        }
    }
}

/// Looks at the place of a store that is to be founded, and changes nothing. `None`: nothing stands there; else the
/// store, opened.
pub async fn examine(spec: &StoreSpec) -> Result<Option<Store>, Failure> {
    match spec.target()? {
        Target::Directory(path) => match examine_directory(spec, &path)? {
            DirectoryState::Missing | DirectoryState::Empty => Ok(None),
            DirectoryState::Occupied => open_directory(spec, &path).map(Some),
        },
        Target::S3(address) => {
            let store = bucket::open(spec, &address)?;
            let empty = bucket::is_empty(&store).await.map_err(|error| error.failure().safe("nothing was written"))?;
            Ok(if empty { None } else { Some(store) })
        }
    }
}

/// Opens the place of a store that is to be founded, and makes it where it may be made: of a directory the last part.
pub fn found(spec: &StoreSpec) -> Result<Store, Failure> {
    match spec.target()? {
        Target::Directory(path) => match examine_directory(spec, &path)? {
            DirectoryState::Missing => create_directory(spec, &path),
            DirectoryState::Empty | DirectoryState::Occupied => open_directory(spec, &path),
        },
        Target::S3(address) => bucket::open(spec, &address),
    }
}

impl StoreSpec {
    /// Where it is, as people write it.
    pub fn shown(&self) -> String {
        match self.target() {
            Ok(Target::Directory(path)) => path.display().to_string(),
            Ok(Target::S3(address)) => address.to_string(),
            Err(_) => self.url.clone(),
        }
    }

    /// The variables of this environment without which nobody reads it.
    pub fn credential_variables(&self) -> Vec<String> {
        match self.target() {
            Ok(Target::S3(_)) => bucket::variables(self),
            _ => Vec::new(),
        }
    }

    /// What the URL names.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let wrong = |why: &str| {
            Failure::new(Code::Configuration, format!("store {}: {:?} is not usable", self.name, self.url))
                .cause(why)
                .safe("nothing was read or written")
                .next_step("write file:///absolute/path or s3://BUCKET/PREFIX")
        };
        if self.url.starts_with("s3://") {
            return self.url.parse().map(Target::S3).map_err(|error: s3::Invalid| wrong(&error.to_string()));
        }
        let Some(rest) = self.url.strip_prefix("file://") else {
            let scheme = self.url.split_once("://").map_or("", |(scheme, _)| scheme);
            return Err(match scheme {
                "gs" | "az" => wrong("this version of recoup only has file:// and s3:// stores"),
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
        Ok(Target::Directory(path))
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
