//! What is known about the places of stores without asking them for anything: what they share, and how they are.

use super::{StoreSpec, mount::real_path, open::Target};
use crate::{
    core::{
        failure::{Code, Failure},
        s3,
    },
    world::files,
};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Refuses two stores that are one place under two names (links, mounts, one bucket), or one inside the other: what
/// lies there would count as two copies.
pub fn refuse_aliases(specs: &[StoreSpec], code: Code) -> Result<(), Failure> {
    let sites = specs.iter().map(|spec| Ok((spec, Site::of(spec)?))).collect::<Result<Vec<_>, Failure>>()?;
    for (at, (spec, site)) in sites.iter().enumerate() {
        if let Some((twin, other)) = sites[..at].iter().find(|(_, other)| site.overlaps(other)) {
            return Err(Failure::new(code, format!("stores {} and {} are one place", twin.name, spec.name))
                .cause(format!("{} and {} are {}", other.shown(), site.shown(), site.sameness()))
                .safe("nothing was written")
                .next_step(site.advice()));
        }
    }
    Ok(())
}

/// Where a store really is.
enum Site {
    /// The path without links, and device and inode where it exists.
    Directory(PathBuf, Option<(u64, u64)>),
    Bucket(s3::Address, s3::Options),
}

impl Site {
    fn of(spec: &StoreSpec) -> Result<Self, Failure> {
        Ok(match spec.target()? {
            Target::Directory(path) => {
                let path = real_path(&path);
                let identity = fs::metadata(&path).ok().map(|found| (found.dev(), found.ino()));
                Site::Directory(path, identity)
            }
            Target::S3(address) => Site::Bucket(address, spec.s3.clone()),
        })
    }

    fn overlaps(&self, other: &Site) -> bool {
        match (self, other) {
            (Site::Directory(one, identity), Site::Directory(other, other_identity)) => {
                let inside = one.starts_with(other) || other.starts_with(one);
                inside || identity.is_some() && identity == other_identity
            }
            (Site::Bucket(one, options), Site::Bucket(other, other_options)) => {
                options.is_same_server(other_options) && one.overlaps(other)
            }
            _ => false,
        }
    }

    fn shown(&self) -> String {
        match self {
            Site::Directory(path, _) => path.display().to_string(),
            Site::Bucket(address, _) => address.to_string(),
        }
    }

    fn sameness(&self) -> &'static str {
        match self {
            Site::Directory(..) => "the same directory or one inside the other",
            Site::Bucket(..) => "the same place in one bucket or one inside the other",
        }
    }

    fn advice(&self) -> &'static str {
        match self {
            Site::Directory(..) => "give every store a directory of its own, each on its own disk or machine",
            Site::Bucket(..) => "give every store a bucket of its own, each with its own provider or in its own region",
        }
    }
}

/// Whether the store lies inside of a directory of this host, or is that directory.
pub fn lies_in(spec: &StoreSpec, directory: &Path) -> bool {
    match spec.target() {
        Ok(Target::Directory(store)) => is_below(&store, directory),
        _ => false,
    }
}

/// Whether a path is a directory or lies inside of it, links resolved as far as the path exists.
pub fn is_below(path: &Path, directory: &Path) -> bool {
    real_path(path).starts_with(real_path(directory))
}

/// Whether a path of this host lies inside of the store.
pub fn holds(spec: &StoreSpec, path: &Path) -> bool {
    match spec.target() {
        Ok(Target::Directory(directory)) => is_below(path, &directory),
        _ => false,
    }
}

/// What several stores share, so that losing it loses all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// What it is.
    pub what: Fate,
    /// The stores, two at least.
    pub stores: Vec<String>,
}

/// What takes a store with it when it is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A device of this host.
    Device,
    /// A bucket.
    Bucket,
}

impl Fate {
    /// Where stores are that share it.
    pub fn place(self) -> &'static str {
        match self {
            Fate::Device => "on one device",
            Fate::Bucket => "in one bucket",
        }
    }
}

/// What stores share, each thing once.
pub fn shared(specs: &[StoreSpec]) -> Vec<Shared> {
    let mut groups: Vec<(Thing, Vec<String>)> = Vec::new();
    for spec in specs {
        let Some(thing) = Thing::of(spec) else { continue };
        match groups.iter_mut().find(|(other, _)| other.is(&thing)) {
            Some((_, names)) => names.push(spec.name.clone()),
            None => groups.push((thing, vec![spec.name.clone()])),
        }
    }
    let several = groups.into_iter().filter(|(_, names)| names.len() > 1);
    several.map(|(thing, stores)| Shared { what: thing.fate(), stores }).collect()
}

/// One certain device or bucket.
enum Thing {
    Device(u64),
    Bucket(String, s3::Options),
}

impl Thing {
    fn of(spec: &StoreSpec) -> Option<Self> {
        match spec.target().ok()? {
            Target::Directory(path) => fs::metadata(path).ok().map(|found| Thing::Device(found.dev())),
            Target::S3(address) => Some(Thing::Bucket(address.bucket, spec.s3.clone())),
        }
    }

    fn is(&self, other: &Thing) -> bool {
        match (self, other) {
            (Thing::Device(one), Thing::Device(other)) => one == other,
            (Thing::Bucket(one, options), Thing::Bucket(other, other_options)) => {
                one == other && options.is_same_server(other_options)
            }
            _ => false,
        }
    }

    fn fate(&self) -> Fate {
        match self {
            Thing::Device(_) => Fate::Device,
            Thing::Bucket(..) => Fate::Bucket,
        }
    }
}

/// How the place of a store is, as far as this host can tell by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Where it is.
    pub place: String,
    /// Whether this user may write there; also where only the server knows.
    pub writable: bool,
    /// How much room there is; `None` where nobody says.
    pub free_bytes: Option<u64>,
}

/// Looks at the place of a store without asking it for anything.
pub fn surroundings(spec: &StoreSpec) -> Surroundings {
    let place = spec.shown();
    match spec.target() {
        Ok(Target::Directory(path)) => {
            Surroundings { place, writable: may_write(&path), free_bytes: files::free_bytes(&path).ok() }
        }
        _ => Surroundings { place, writable: true, free_bytes: None },
    }
}

fn may_write(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, url: &str, endpoint: &str) -> StoreSpec {
        let s3 = s3::Options { endpoint: endpoint.parse().ok(), ..s3::Options::default() };
        StoreSpec { name: name.into(), url: url.into(), s3, ..StoreSpec::default() }
    }

    #[test]
    fn one_place_in_a_bucket_is_no_two_stores() {
        let refused = |one: StoreSpec, other: StoreSpec| refuse_aliases(&[one, other], Code::Refused).is_err();
        assert!(refused(spec("a", "s3://acme", ""), spec("b", "s3://acme/b", "")));
        assert!(refused(spec("a", "s3://acme/a", "https://x"), spec("b", "s3://acme/a/", "https://x")));
        assert!(!refused(spec("a", "s3://acme/a", "https://x"), spec("b", "s3://acme/a", "https://y")));
        assert!(!refused(spec("a", "s3://acme/a", ""), spec("b", "s3://acme/b", "")));
        let dir = tempfile::tempdir().unwrap();
        let file = format!("file://{}", dir.path().display());
        assert!(!refused(spec("a", "s3://acme/a", ""), spec("b", &file, "")));
        assert!(holds(&spec("b", &file, ""), &dir.path().join("ledger.db")));
        assert!(!holds(&spec("b", &file, ""), Path::new("/acme/a")) && !holds(&spec("a", "s3://acme", ""), dir.path()));
    }

    #[test]
    fn what_is_lost_together_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| spec(name, &format!("file://{}", dir.path().display()), "");
        let specs = [spec("a", "s3://acme/a", ""), file("b"), spec("c", "s3://acme/c", ""), file("d")];
        let found: Vec<(Fate, Vec<String>)> = shared(&specs).into_iter().map(|one| (one.what, one.stores)).collect();
        let names = |one: &str, other: &str| vec![one.to_owned(), other.to_owned()];
        assert_eq!(found, [(Fate::Bucket, names("a", "c")), (Fate::Device, names("b", "d"))]);
        assert_eq!(shared(&specs[..2]), []);
        let elsewhere = spec("e", "s3://acme/e", "https://x");
        assert_eq!(shared(&[specs[0].clone(), elsewhere]), []);
    }
}
