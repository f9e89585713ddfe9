//! Where no restore may write: in the stores.

use super::{held::Identity, refuse};
use crate::{core::failure::Failure, stores::Store};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path},
};

/// Refuses a target in a store: what is offsite or looked after by others must not get plaintext.
pub(super) fn refuse_stores(target: &Path, stores: &[Store]) -> Result<(), Failure> {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let existing = target.ancestors().find_map(|above| {
        let shown = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        Some((above, shown.canonicalize().ok()?))
    });
    let Some((named, existing)) = existing else { return Ok(()) };
    if target.strip_prefix(named).is_ok_and(|missing| missing.components().any(|part| part == Component::ParentDir)) {
        return Err(refuse(target, "it goes up, with .., from a directory that does not exist"));
    }
    let above: Vec<Identity> = existing.ancestors().filter_map(identity).collect();
    for store in stores {
        if let Some(directory) = &store.facts().directory
            && identity(directory).is_some_and(|store| above.contains(&store))
        {
            let why =
                format!("it lies in store {} ({}), which must not hold plaintext", store.name(), directory.display());
            return Err(refuse(target, &why).next_step("name a directory outside of every store with --to"));
        }
    }
    Ok(())
}
