//! Where plaintext must not be brought back to: into what is protected, into a store, among recoup's own files.

use crate::{
    config::Settings,
    core::{
        failure::{Code, Failure},
        id::SourceName,
    },
    ops::open::store_specs,
    sources::sqlite,
    stores::{is_below, lies_in},
};
use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// Refuses a directory that something is to be restored into with `flag`, where it lies in a directory that matters to
/// this configuration, or such a directory in it. `own` may go back to where it was. Changes nothing.
pub fn refuse(target: &Path, settings: &Settings, own: Option<&SourceName>, flag: &str) -> Result<(), Failure> {
    refuse_sources(target, settings, own, flag)?;
    let state = &settings.host.state_dir;
    if is_inside(target, state) {
        let why = format!("it lies in the state directory ({})", state.display());
        return Err(refused(target, why, "outside of recoup's own files", flag));
    }
    if is_inside(state, target) {
        let why = format!("the state directory ({}) lies in it", state.display());
        return Err(refused(target, why, "outside of recoup's own files", flag));
    }
    // Whatever lies in a store is refused wherever its stores are known; a store's disk may not be mounted now.
    let specs = store_specs(&settings.stores);
    match specs.iter().find(|spec| lies_in(spec, target)) {
        Some(store) => {
            Err(refused(target, format!("store {} lies in it", store.name), "that has no store in it", flag))
        }
        None => Ok(()),
    }
}

/// The same for sources only: what comes back in the directory of one would be in its next snapshot, in clear for those
/// who may read that source.
pub fn refuse_sources(target: &Path, settings: &Settings, own: Option<&SourceName>, flag: &str) -> Result<(), Failure> {
    for source in &settings.sources {
        let (name, path) = (&source.name, source.path.display());
        if own == Some(name) && is_inside(target, &source.path) && is_inside(&source.path, target) {
            continue;
        }
        if is_inside(target, &source.path) {
            let why = format!("it lies in source {name} ({path})");
            return Err(refused(target, why, "outside of every source", flag));
        }
        // A database is one file, and what lies beside it is in no snapshot.
        if source.kind != sqlite::KIND && is_inside(&source.path, target) {
            let why = format!("source {name} ({path}) lies in it");
            return Err(refused(target, why, "that has no source in it", flag));
        }
    }
    Ok(())
}

/// Whether a path is a directory or lies in it, by whatever names the two are known.
fn is_inside(path: &Path, directory: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let existing = path.ancestors().find_map(|above| above.canonicalize().ok()).unwrap_or_default();
    let known = identity(directory);
    is_below(path, directory) || known.is_some() && existing.ancestors().any(|above| identity(above) == known)
}

fn refused(target: &Path, why: String, place: &str, flag: &str) -> Failure {
    Failure::new(Code::Refused, format!("will not restore into {}", target.display()))
        .cause(why)
        .safe("nothing was written")
        .next_step(format!("name a directory {place} with {flag}"))
}
