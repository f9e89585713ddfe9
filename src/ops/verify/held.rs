//! What is held has to be somewhere.

use super::{Examination, Judged, full_name};
use crate::{
    core::{
        control::ControlState,
        evidence::HoldId,
        id::{SnapshotId, SourceName},
        result::Problem,
    },
    repository::layout,
};
use std::collections::{BTreeMap, BTreeSet};

/// The held snapshots of a source, each with its holds.
pub(super) fn of(control: &ControlState, source: &SourceName) -> BTreeMap<SnapshotId, BTreeSet<HoldId>> {
    let mut held: BTreeMap<SnapshotId, BTreeSet<HoldId>> = BTreeMap::new();
    for (hold, kept) in control.holds_of(source) {
        for id in &kept.snapshots {
            held.entry(*id).or_default().insert(hold);
        }
    }
    held
}

/// Held snapshots that no store shows, or that use what a prune has deleted.
pub(super) fn examine(judged: &Judged<'_>, examination: &mut Examination) {
    let Judged { catalogue, held, .. } = judged;
    let is_refused = |id: &SnapshotId| catalogue.refused.iter().any(|refused| refused.id == *id);
    for (id, holds) in held.iter().filter(|(id, _)| !catalogue.snapshots.contains_key(id) && !is_refused(id)) {
        let by = holds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let what = match (catalogue.pruned(*id), catalogue.spoilt.contains_key(id)) {
            (Some(pruned), _) => format!("plan {} has deleted it", pruned.plan),
            (None, true) => "a prune has deleted a part of it".to_owned(),
            (None, false) => "no store that answers shows it".to_owned(),
        };
        let is_unclear = catalogue.ready().count() < catalogue.listings.len();
        let lacks = |at: &usize| !catalogue.listings[*at].has_inventory(*id);
        let lacking: Vec<usize> = catalogue.ready().filter(lacks).collect();
        examination.note(format!("snapshot {id} of {} is held by {by}, and {what}", catalogue.source));
        // One that is silent may have it.
        if is_unclear || lacking.len() < catalogue.listings.len() {
            continue;
        }
        examination.held_missing.extend(holds);
        let name = full_name(catalogue, &layout::snapshot_object(*id, layout::INVENTORY));
        for at in lacking {
            let cause = Some(format!("it is held by {by}, and {what}"));
            examination.findings.add(&catalogue.listings[at].store, Some(name.clone()), Problem::Missing, [*id], cause);
        }
        examination.losses.objects.insert(name);
    }
}

/// How to give up what is held and nowhere.
pub(super) fn next_step(examination: &Examination) -> Option<String> {
    let hold = examination.held_missing.first()?;
    Some(format!("what was held and is lost for good is held no longer after recoup hold release {hold} --reason TEXT"))
}
