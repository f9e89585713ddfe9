//! What is held: it stays, with all that it uses, and so does what lies of it where no store shows it as committed.

use super::{gather::all_committed, vetoes::Vetoes};
use crate::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        plan::prune::Remains,
    },
    repository::{catalogue::Catalogue, head::StoreStatus},
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

/// What is held, and no store that answers shows as committed.
pub(super) fn remains(catalogue: &Catalogue, vetoes: &Vetoes, noted: &BTreeSet<SnapshotId>) -> Remains {
    let is_seen = |id: &SnapshotId| catalogue.snapshots.contains_key(id) || catalogue.spoilt.contains_key(id);
    let named = vetoes.holds.keys().chain(noted).copied();
    Remains {
        snapshots: named.filter(|id| !is_seen(id) && catalogue.pruned(*id).is_none()).collect(),
        of_any: !vetoes.everything.is_empty() && silent(catalogue).next().is_some(),
    }
}

/// Stores that may have what none shows.
fn silent(catalogue: &Catalogue) -> impl Iterator<Item = &str> {
    let is_silent = |status: &StoreStatus| !matches!(status, StoreStatus::Ready | StoreStatus::Foreign(_));
    catalogue.listings.iter().filter(move |listing| is_silent(&listing.status)).map(|listing| listing.store.as_str())
}

/// A held snapshot that a silent store alone has committed may use anything: nobody here can say what.
pub(super) fn none_may_be_silent(catalogue: &Catalogue, vetoes: &Vetoes, remains: &Remains) -> Result<(), Failure> {
    let silent: Vec<&str> = silent(catalogue).collect();
    let (Some(id), false) = (remains.snapshots.first(), silent.is_empty()) else { return Ok(()) };
    let (source, holds) = (&catalogue.source, vetoes.holds.get(id));
    let by = holds.map(|holds| format!(" by {}", holds.join(", "))).unwrap_or_default();
    let release = match holds.and_then(|holds| holds.first()) {
        Some(hold) => format!("recoup hold release {hold} --reason TEXT"),
        None => "recoup backup, which puts the hold on record, then recoup hold release".to_owned(),
    };
    Err(Failure::new(Code::Store, format!("held snapshot {id} of {source} is on no store that answers"))
        .cause(format!(
            "it is held{by}, and no answer from {}, which may have it: what it uses would be deleted",
            silent.join(", ")
        ))
        .safe("nothing more was deleted")
        .next_step(format!(
            "bring the stores back, then recoup copy, then run the same command again; a store that is gone for good is \
             taken out of recoup.toml; a snapshot that need not be kept: {release}"
        )))
}
