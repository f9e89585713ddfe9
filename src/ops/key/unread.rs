//! What a store shows and nobody could read just now: a revocation that left it out would make it worthless for good.

use crate::{
    core::{
        failure::{Code, Failure},
        id::SnapshotId,
        result::EvidenceProblem,
    },
    ops::evidence::verify::Examined,
    repository::{
        Repository,
        catalogue::{Catalogue, Refusal},
        layout,
        prunes::RefusedPrune,
        vouch::{VouchSurvey, Vouched},
    },
};
use std::collections::BTreeSet;

/// How often what was given wrong is read again.
const READS_AGAIN: usize = 2;

/// Fails unless so many stores answered that nothing durable is missed.
pub(super) fn enough(repository: &Repository, answered: usize) -> Result<(), Failure> {
    let needed = repository.control_read_quorum();
    if answered >= needed {
        return Ok(());
    }
    Err(Failure::new(Code::Store, "too few stores answer to know everything that the signer has signed")
        .cause(format!("{answered} of {} answered, {needed} must", repository.stores.len()))
        .safe("nothing was changed: the signer is still trusted")
        .next_step("bring the stores back, then run the same command again"))
}

fn nothing_of(unread: Vec<String>) -> Result<(), Failure> {
    nothing_but(&BTreeSet::new(), unread)
}

/// The same, where `snapshots` are what could be left out.
fn nothing_but(snapshots: &BTreeSet<SnapshotId>, unread: Vec<String>) -> Result<(), Failure> {
    if unread.is_empty() {
        return Ok(());
    }
    let leave_out: String = snapshots.iter().map(|id| format!(" --except {id}")).collect();
    let or_leave_out = match leave_out.is_empty() {
        true => String::new(),
        false => format!("; what no store ever gives is given up for good with{leave_out}"),
    };
    Err(Failure::new(Code::Store, "not everything that the signer may have signed could be read")
        .cause(unread.join("; "))
        .safe("nothing was changed: the signer is still trusted")
        .next_step(format!(
            "run the same command again; if a store never gives it, recoup copy heals it{or_leave_out}"
        )))
}

fn is_unread(why: &Refusal) -> bool {
    matches!(why, Refusal::Unreadable(_) | Refusal::Newer(_))
}

/// Reads again what a store gave wrong and no other store right: it may have been damaged on its way only.
pub(super) async fn read_again(repository: &Repository, catalogue: &mut Catalogue) {
    let wrong = catalogue.refused.iter().filter(|refused| !is_unread(&refused.why));
    let wrong: Vec<(String, SnapshotId)> = wrong.map(|refused| (refused.store.clone(), refused.id)).collect();
    for (name, id) in [&wrong[..]; READS_AGAIN].concat() {
        let at = repository.stores.iter().position(|store| store.name() == name);
        if let Some(at) = at.filter(|_| !catalogue.snapshots.contains_key(&id))
            && let Ok(committed) = repository.read_snapshot(at, &catalogue.source, id).await
        {
            catalogue.snapshots.insert(id, committed);
        }
    }
}

/// Snapshots and tombstones of a source. Those in `except` do not matter.
pub(super) fn of_source(catalogue: &Catalogue, except: &BTreeSet<SnapshotId>) -> Result<(), Failure> {
    let snapshots = catalogue.refused.iter().filter(|refused| {
        is_unread(&refused.why) && !catalogue.snapshots.contains_key(&refused.id) && !except.contains(&refused.id)
    });
    let (ids, snapshots): (BTreeSet<SnapshotId>, Vec<String>) = snapshots
        .map(|refused| (refused.id, format!("snapshot {} on store {}: {}", refused.id, refused.store, refused.why)))
        .unzip();
    let known = catalogue.prunes.known();
    let plans =
        catalogue.prunes.refused.iter().filter(|refused| is_unread(&refused.why) && !known.contains(&refused.plan));
    let plans = plans.map(|refused| format!("prune plan {} on store {}: {}", refused.plan, refused.store, refused.why));
    nothing_but(&ids, snapshots.into_iter().chain(plans).collect())
}

/// The list of what an executed plan has deleted, which no store gave.
pub(super) fn of_plan(refused: &[RefusedPrune]) -> Result<(), Failure> {
    let unread = refused.iter().filter(|refused| is_unread(&refused.why));
    nothing_of(unread.map(|of| format!("prune plan {} on store {}: {}", of.plan, of.store, of.why)).collect())
}

/// Records of the control log.
pub(super) fn of_evidence(examined: &Examined) -> Result<(), Failure> {
    let unread = examined.findings.iter().filter(|finding| finding.problem == EvidenceProblem::Unreachable);
    let unread = unread.filter_map(|finding| {
        let place = (finding.writer?, finding.number?);
        let name = layout::evidence(place.0, place.1, "json");
        (!examined.records.contains_key(&place)).then(|| format!("{name}: {}", finding.message))
    });
    nothing_of(unread.collect())
}

/// Vouches: what they name is good by them alone, and `vouched` must have all of it.
pub(super) fn of_vouches(repository: &Repository, survey: &VouchSurvey, vouched: &Vouched) -> Result<(), Failure> {
    enough(repository, survey.shown.len())?;
    let shown = survey.shown.values().flatten();
    let unread = shown.filter(|(id, why)| why.as_ref().is_some_and(is_unread) && !survey.good.contains_key(id));
    let unread = unread.map(|(id, _)| *id);
    // One of a signer that was revoked itself counts no more: what is still good of it, a later one names.
    let trusted = repository.signers.fingerprints();
    let missed = survey.good.iter().filter(|(_, signed)| {
        let counts = trusted.iter().any(|signer| signer.as_str() == signed.vouch.signer);
        let mut objects = signed.vouch.objects.iter();
        counts && objects.any(|(name, sha256)| !vouched.holds(name, *sha256))
    });
    let ids: BTreeSet<_> = unread.chain(missed.map(|(id, _)| *id)).collect();
    nothing_of(ids.into_iter().map(|id| layout::vouch(id, "json")).collect())
}
