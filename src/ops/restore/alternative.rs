//! When what was asked for is damaged everywhere: which snapshot can be restored instead.

use super::{RestoreRequest, select};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
    },
    repository::{catalogue::Catalogue, layout},
};
use std::collections::{BTreeMap, BTreeSet};

/// Adds to a failure for damage the newest snapshot that does not need what is damaged, and how to restore it.
pub(super) fn name(catalogue: &Catalogue, request: &RestoreRequest, id: SnapshotId, failure: Failure) -> Failure {
    if failure.code != Code::Damaged {
        return failure;
    }
    let lost = lost_objects(catalogue);
    let is_whole = |other: &&SnapshotId| {
        let needed = catalogue.needed(&catalogue.snapshots[*other]);
        needed.is_some_and(|needed| needed.iter().all(|object| !lost.contains(&object.name)))
    };
    let others = || catalogue.snapshots.keys().rev().filter(|other| **other != id);
    let next_step = match others().find(is_whole) {
        Some(other) => format!(
            "the newest that does not need what is damaged: {}",
            select::command(request, &format!("snapshot:{other}"))
        ),
        None => "bring back a store that holds it, then run the same command again".to_owned(),
    };
    failure.safe("nothing was left behind as if it were whole").next_step(next_step)
}

/// What this restore found damaged or missing on every store that answers; names below the source's folder.
fn lost_objects(catalogue: &Catalogue) -> BTreeSet<String> {
    let folder = layout::source_folder(&catalogue.source);
    let mut stores: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for detour in catalogue.all_detours() {
        if let Some(name) = detour.object.strip_prefix(&folder) {
            stores.entry(name.to_owned()).or_default().insert(detour.store);
        }
    }
    let ready = catalogue.names(&catalogue.ready().collect());
    stores.into_iter().filter(|(_, bad)| ready.is_subset(bad)).map(|(name, _)| name).collect()
}
