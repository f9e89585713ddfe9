//! What is held: it stays, with all that it uses, and so does what lies of it where no store shows it as committed.

use super::{gather::all_committed, vetoes::Vetoes};
use crate::{
    core::{id::SnapshotId, plan::prune::Remains},
    repository::catalogue::Catalogue,
};
use std::collections::BTreeSet;

/// Why both versions of a log stay whose alteration this host has noted: the run that found it died before its hold was
/// on record, and the next backup makes up for it. Other hosts know of it only then.
const NOTED: &str = "it is held: a log was altered, and the next backup puts the hold on record";

/// What holds a snapshot, if anything does.
pub(super) fn why(vetoes: &Vetoes, noted: &BTreeSet<SnapshotId>, id: SnapshotId) -> Option<String> {
    let held = vetoes.holds.get(&id).map(|holds| format!("it is held: {}", holds.join(", ")));
    let noted = noted.contains(&id).then(|| NOTED.to_owned());
    let all = &vetoes.everything;
    let everything = (!all.is_empty()).then(|| format!("all of the source is held: {}", all.join(", ")));
    held.or(noted).or(everything)
}

/// Everything that is held, and why; those too that were never acknowledged.
pub(super) fn all(
    catalogue: &Catalogue,
    vetoes: &Vetoes,
    noted: &BTreeSet<SnapshotId>,
) -> impl Iterator<Item = (SnapshotId, String)> {
    let named = vetoes.holds.keys().chain(noted).copied();
    let ids: BTreeSet<SnapshotId> = named.chain(all_committed(catalogue).map(|(id, _)| id)).collect();
    ids.into_iter().filter_map(|id| Some((id, why(vetoes, noted, id)?)))
}

/// What is held, and no store shows as committed.
pub(super) fn remains(catalogue: &Catalogue, vetoes: &Vetoes, noted: &BTreeSet<SnapshotId>) -> Remains {
    let is_seen = |id: &SnapshotId| catalogue.snapshots.contains_key(id) || catalogue.spoilt.contains_key(id);
    let named = vetoes.holds.keys().chain(noted).copied();
    Remains { snapshots: named.filter(|id| !is_seen(id) && catalogue.pruned(*id).is_none()).collect() }
}
