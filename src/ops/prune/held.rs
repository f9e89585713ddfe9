//! What is held: it stays, with all that it uses, and so does what lies of it where no store shows it as committed.

use super::{gather::all_committed, vetoes::Vetoes};
use crate::{
    core::{id::SnapshotId, plan::prune::Remains},
    repository::catalogue::Catalogue,
};
use std::collections::BTreeSet;

/// Why both versions of an altered log stay before the hold on them is on record: the run that found it comes to that
/// only after its snapshot is committed, and makes up for it in the next one if it died before.
const NOTED: &str = "it is held: a log was altered, and the next backup puts the hold on record";

/// Both versions of every log that was altered, by what the snapshots say, as long as no hold has ever said so. After
/// that the hold counts, until it is released.
pub(super) fn unanswered(catalogue: &Catalogue, vetoes: &Vetoes) -> BTreeSet<SnapshotId> {
    let found = all_committed(catalogue).filter_map(|(id, of)| Some((of.inventory.altered_since?, id)));
    let unanswered = found.filter(|(_, id)| !vetoes.control.was_held(&catalogue.source, *id));
    unanswered.flat_map(|(since, id)| [since, id]).collect()
}

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
