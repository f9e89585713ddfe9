//! When what was asked for is damaged everywhere: which snapshot can be restored instead; or that a prune deletes it.

use super::{RestoreRequest, Target, select};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
    },
    repository::{Repository, catalogue::Catalogue, layout},
};
use std::collections::{BTreeMap, BTreeSet};

/// Says of a failure for damage that a prune on another host has deleted the snapshot meanwhile, where that is so; or what
/// can be restored instead.
pub(super) async fn explain(
    repository: &Repository,
    catalogue: &Catalogue,
    request: &RestoreRequest,
    id: SnapshotId,
    failure: Failure,
) -> Failure {
    match unless_pruned(repository, catalogue, id, failure).await {
        failure if failure.code == Code::Damaged => name(catalogue, request, id, failure),
        failure => failure,
    }
}

/// The same of a failure that says itself what to do otherwise.
pub(super) async fn unless_pruned(
    repository: &Repository,
    catalogue: &Catalogue,
    id: SnapshotId,
    failure: Failure,
) -> Failure {
    if failure.code != Code::Damaged {
        return failure;
    }
    let now = repository.inventories(&catalogue.source, &BTreeSet::new()).await;
    match select::what_became_of(&now, &Target::SnapshotId(id)) {
        Some(why) => Failure::new(Code::NoRecoveryPoint, format!("snapshot {id} is no longer there"))
            .cause(format!("it {why}, while it was being restored"))
            .safe("nothing was left behind as if it were whole")
            .next_step(format!("recoup list {} shows what is there", catalogue.source)),
        None => failure,
    }
}

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
