//! Prune plans and tombstones, and what executed plans have left on a store that lagged.

use super::{Examination, full_name};
use crate::{
    core::{
        id::SnapshotId,
        prune::{CondemnedSet, Stage},
        result::Problem,
    },
    format,
    ops::findings::Findings,
    repository::{
        Repository,
        catalogue::{Catalogue, Needed, Refusal},
        layout,
        prunes::{SignedPrune, deleted_by, holders},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// What was not accepted as a record of a prune.
pub(super) fn examine_refused(catalogue: &Catalogue, examination: &mut Examination) {
    for (plan, records) in &catalogue.prunes.unconfirmed {
        if catalogue.prunes.pending.contains_key(plan) {
            examination.note(format!(
                "a prune of {} was cut short before it deleted anything of plan {plan}: the next one goes on",
                catalogue.source
            ));
            continue;
        }
        let name = full_name(catalogue, &layout::prune_object(*plan, Stage::Executed));
        let cause = "no other store knows of it, and what it deletes is still there: it hides nothing";
        for at in holders(records) {
            let store = &catalogue.listings[at].store;
            examination.findings.add(store, Some(name.clone()), Problem::Foreign, [], Some(cause.to_owned()));
        }
    }
    for (plan, records) in catalogue.prunes.executed.iter().filter(|(_, records)| records.len() > 1) {
        let least = deleted_by(records);
        if records.iter().any(|signed| CondemnedSet::of(&signed.record.condemned) != least) {
            examination.note(format!(
                "what plan {plan} of {} deletes is not the same on every store: what all of them say; the next prune \
                 makes it so",
                catalogue.source
            ));
        }
    }
    for refused in &catalogue.prunes.refused {
        let is_known = catalogue.prunes.knows(refused.plan, refused.stage);
        let name = layout::prune_object(refused.plan, refused.stage);
        let problem = match refused.why {
            // With a good one elsewhere, this copy is just damaged.
            Refusal::Untrusted(_) if is_known => Problem::Damaged,
            _ => refused.why.problem(),
        };
        let object = full_name(catalogue, &name);
        if problem == Problem::Damaged && !is_known {
            examination.losses.objects.insert(object.clone());
        }
        let cause = Some(refused.why.to_string());
        examination.findings.add(&refused.store, Some(object), problem, [], cause);
        examination.note(format!("{name} on store {} is ignored: {}", refused.store, refused.why));
    }
}

/// The records that a store holds or should hold: what it has is looked at like any other object.
pub(super) fn wanted_on(
    catalogue: &Catalogue,
    store: usize,
    examination: &mut Examination,
    wanted: &mut BTreeMap<Needed, BTreeSet<SnapshotId>>,
) {
    let listing = &catalogue.listings[store];
    for (plan, sha256) in catalogue.prunes.lists() {
        let name = layout::prune_list(plan);
        if listing.objects.contains_key(&name) {
            wanted.insert(Needed { name, size: None, sha256 }, BTreeSet::new());
        } else if catalogue.listings.iter().any(|other| other.objects.contains_key(&name)) {
            let cause = Some("it does not know which files of the log were pruned".to_owned());
            examination.findings.add(&listing.store, Some(full_name(catalogue, &name)), Problem::Behind, [], cause);
        }
    }
    for (stage, signed) in catalogue.prunes.kept_on(store) {
        let name = layout::prune_object(signed.record.plan, stage);
        let is_refused = |refused: &crate::repository::prunes::RefusedPrune| {
            refused.store == listing.store && refused.plan == signed.record.plan && refused.stage == stage
        };
        if catalogue.prunes.refused.iter().any(is_refused) {
            continue;
        }
        match listing.objects.get(&name) {
            Some(_) => wanted.extend(objects(stage, signed).map(|object| (object, BTreeSet::new()))),
            // A plan is carried while it is pending; a tombstone belongs everywhere.
            None if stage == Stage::Executed => {
                let cause = Some("it does not know what was pruned".to_owned());
                examination.findings.add(&listing.store, Some(full_name(catalogue, &name)), Problem::Behind, [], cause);
            }
            None => {}
        }
    }
}

/// Forgets what is wrong with snapshots and files of the log that a prune on another host has deleted since the stores were
/// looked at; gives what such a prune deletes. `log_lags` says that the log differs in any other way.
pub(in crate::ops) async fn forget_pruned(
    repository: &Repository,
    before: &Catalogue,
    findings: &mut Findings,
    log_lags: bool,
) -> CondemnedSet {
    let (folder, log) = (layout::source_folder(&before.source), full_name(before, layout::LOG));
    let mut concerned = findings.snapshots();
    concerned.retain(|id| before.snapshots.contains_key(id));
    let is_log_concerned = log_lags || findings.name_any(|object| object.starts_with(&log));
    if concerned.is_empty() && !is_log_concerned {
        return CondemnedSet::default();
    }
    let now = if concerned.is_empty() {
        repository.prunes(&before.source).await.1
    } else {
        let now = repository.inventories(&before.source, &BTreeSet::new()).await;
        concerned.retain(|id| now.is_settled(*id));
        findings.forget(&concerned);
        now.prunes
    };
    if !is_log_concerned {
        return CondemnedSet::default();
    }
    let gone = repository.deleted_since(&before.source, &before.prunes, &now).await;
    let is_gone = |object: &str| object.strip_prefix(&folder).is_some_and(|name| gone.has_object(name));
    findings.forget_objects(|object| object.starts_with(&log) && is_gone(object));
    gone
}

/// A record and its signature, as objects; the signature comes first.
pub(in crate::ops) fn objects(stage: Stage, signed: &SignedPrune) -> impl Iterator<Item = Needed> {
    let name = layout::prune_object(signed.record.plan, stage);
    let needed =
        |name: String, bytes: &[u8]| Needed { name, size: Some(bytes.len() as u64), sha256: format::sha256(bytes) };
    [needed(format!("{name}.sig"), &signed.signature), needed(name, &signed.bytes)].into_iter()
}

/// Says what is no fault: leftovers of executed plans, and snapshots that a prune took away from an unlucky backup.
pub(super) fn note_leftovers(catalogue: &Catalogue, examination: &mut Examination) {
    for (plan, _) in catalogue.prunes.lists() {
        let name = layout::prune_list(plan);
        let is_clear = catalogue.ready().count() == catalogue.listings.len();
        if is_clear && !catalogue.listings.iter().any(|listing| listing.objects.contains_key(&name)) {
            // Nobody can bring it, and nothing is lost with it: a prune condemns again what is still there.
            let object = full_name(catalogue, &name);
            examination
                .note(format!("{object} is on no store: nothing tells any more which files plan {plan} has deleted"));
        }
    }
    for store in catalogue.ready() {
        let listing = &catalogue.listings[store];
        let left = listing.objects.keys().filter(|name| catalogue.tombstones.has_object(name)).count();
        if left > 0 {
            examination.note(format!(
                "store {} still has {left} {} of pruned snapshots of {}; the next prune deletes them",
                listing.store,
                if left == 1 { "object" } else { "objects" },
                catalogue.source
            ));
        }
    }
    for (id, (_, part)) in &catalogue.spoilt {
        examination.note(format!(
            "snapshot {id} of {} was never acknowledged: it uses {part}, which a prune has deleted; the next prune \
             deletes the rest of it",
            catalogue.source
        ));
    }
}
