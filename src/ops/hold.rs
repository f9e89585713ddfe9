//! Holds: vetoes on deletion. A hold is a record of the control log; it is in force once enough stores have it.

use super::{
    evidence::{ControlView, Lost, Recorder, read_control, show::open_body},
    state::Altered,
};
use crate::{
    core::{
        control::Hold,
        evidence::{Action, Control, Draft, HoldCause, HoldId, Subject, Verdict, WriterId},
        failure::{Code, Failure},
        id::{SnapshotId, SourceName},
        prune::{CondemnedSet, Stage},
        result::{HoldEntry, HoldsResult, HoldsSchema},
        target::SnapshotName,
    },
    format::seal::Identities,
    repository::{
        Repository,
        catalogue::{Catalogue, StoreListing},
        head::StoreStatus,
        layout,
        prunes::deleted_by,
    },
    world::World,
};
use std::{collections::BTreeSet, path::Path};

/// What a hold is to keep.
#[derive(Clone, Debug)]
pub struct HoldRequest {
    /// Whose snapshots.
    pub source: SourceName,
    /// Which; all that the source has, now and later, where none is named.
    pub snapshots: Vec<SnapshotName>,
    /// Why it exists.
    pub cause: HoldCause,
}

/// Adds a hold.
pub async fn add(
    repository: &Repository,
    recorder: &Recorder,
    world: &World,
    request: &HoldRequest,
) -> Result<HoldsResult, Failure> {
    let Resolved { ids, meant, notes } = resolve(repository, request).await?;
    let hold = world.new_id();
    let control = Control::HoldAdded {
        hold,
        source: request.source.clone(),
        snapshots: ids.iter().copied().collect(),
        cause: request.cause,
    };
    let (writer, record) = record(recorder, world, Action::Hold, &request.source, control).await?;
    in_time(repository, &request.source, hold, &meant).await?;
    let entry = HoldEntry {
        hold,
        source: request.source.clone(),
        snapshots: ids.into_iter().collect(),
        cause: request.cause,
        added_at: world.now(),
        released_at: None,
        reason: world.invocation().reason,
        writer,
        record,
    };
    let notes = recorder.take_notes().into_iter().chain(notes).collect();
    Ok(HoldsResult { schema: HoldsSchema, holds: vec![entry], notes })
}

/// Releases a hold.
pub async fn release(
    repository: &Repository,
    recorder: &Recorder,
    world: &World,
    state_dir: &Path,
    hold: HoldId,
) -> Result<HoldsResult, Failure> {
    let view = complete_control(repository, state_dir).await?;
    let unknown = |cause: &str| {
        Failure::new(Code::Usage, format!("hold {hold} cannot be released"))
            .cause(cause)
            .safe("nothing was changed")
            .next_step("recoup hold list")
    };
    let found = match view.state.hold(hold) {
        None => return Err(unknown("no record of the control log adds it")),
        Some((_, Some(at))) => return Err(unknown(&format!("it was released at {at}"))),
        Some((found, None)) => found.clone(),
    };
    let control = Control::HoldReleased { hold };
    record(recorder, world, Action::Release, &found.source, control).await?;
    let entry = HoldEntry { released_at: Some(world.now()), ..entry_of(hold, &found) };
    Ok(HoldsResult { schema: HoldsSchema, holds: vec![entry], notes: recorder.take_notes() })
}

/// The holds in force, with their reasons where `identities` open the records.
pub async fn list(
    repository: &Repository,
    state_dir: Option<&Path>,
    source: Option<&SourceName>,
    identities: &[&Identities],
) -> Result<HoldsResult, Failure> {
    let view = read_control(repository, state_dir).await;
    if view.answered.is_empty() {
        return Err(repository.none_usable().await);
    }
    let mut result = HoldsResult { schema: HoldsSchema, holds: Vec::new(), notes: Vec::new() };
    let silent = view.silent(repository);
    if !silent.is_empty() {
        result.notes.push(format!(
            "no answer from {}: a hold that no other store shows is missing here, and prune refuses to delete until every \
             store answers",
            silent.join(", ")
        ));
    }
    if let Some(refused) = view.refused.first() {
        result.notes.push(format!(
            "{} evidence records are not accepted, and may hide holds or releases, such as {}/{} on store {}: recoup \
             evidence verify",
            view.refused.len(),
            refused.writer,
            refused.number,
            refused.store
        ));
    }
    if silent.is_empty() {
        result.notes.extend(hidden(&view, repository, state_dir));
    }
    for (id, hold) in view.state.holds().filter(|(_, hold)| source.is_none_or(|source| hold.source == *source)) {
        let reason = reason_of(repository, hold, identities).await;
        result.holds.push(HoldEntry { reason, ..entry_of(id, hold) });
    }
    Ok(result)
}

/// Records that were there, and may hide holds or releases now that no store shows them: prune refuses then.
fn hidden(view: &ControlView, repository: &Repository, state_dir: Option<&Path>) -> Vec<String> {
    let said = |lost: Lost| {
        format!(
            "evidence {lost} was on more than half of the stores, by what others recorded of it, and no store shows it any \
             more: it may hide holds or releases, and prune refuses to delete; {}",
            lost.way_on(repository, state_dir)
        )
    };
    view.unshown().into_iter().map(said).collect()
}

/// The control log, or why it cannot be relied on.
pub async fn complete_control(repository: &Repository, state_dir: &Path) -> Result<ControlView, Failure> {
    let view = read_control(repository, Some(state_dir)).await;
    if view.complete {
        return Ok(view);
    }
    let (answered, stores) = (view.answered.len(), repository.stores.len());
    Err(Failure::new(Code::Store, "the control log cannot be read from enough stores")
        .cause(format!("{answered} of {stores} stores answered, {} must", repository.control_read_quorum()))
        .safe("nothing was changed")
        .next_step("bring the stores back, then run the same command again"))
}

fn entry_of(id: HoldId, hold: &Hold) -> HoldEntry {
    HoldEntry {
        hold: id,
        source: hold.source.clone(),
        snapshots: hold.snapshots.iter().copied().collect(),
        cause: hold.cause,
        added_at: hold.added_at,
        released_at: None,
        reason: None,
        writer: hold.record.0,
        record: hold.record.1,
    }
}

async fn reason_of(repository: &Repository, hold: &Hold, identities: &[&Identities]) -> Option<String> {
    let (writer, number) = hold.record;
    for at in 0..repository.stores.len() {
        if let Ok(Some(signed)) = repository.read_record(at, writer, number).await {
            let body = open_body(repository, &signed, identities).await.ok()?;
            let who = body.login_user.unwrap_or(body.os_user);
            return Some(format!(
                "{} ({who} on {})",
                body.reason.unwrap_or_else(|| "no reason given".to_owned()),
                body.host
            ));
        }
    }
    None
}

/// Records a change, and insists that it is in force: a hold that no other host can see keeps nothing.
async fn record(
    recorder: &Recorder,
    world: &World,
    action: Action,
    source: &SourceName,
    control: Control,
) -> Result<(WriterId, u64), Failure> {
    let draft = Draft {
        subjects: vec![Subject::new(source.clone(), Verdict::Passed)],
        control: Some(control),
        ..Draft::new(action, Verdict::Passed, world.now())
    };
    let recorded = recorder.record(draft)?;
    let shipped = recorder.ship().await;
    if shipped.holds(recorded.head.number) < recorder.quorum() {
        return Err(Failure::new(Code::Failed, format!("the {action} is on this host, and not yet on enough stores"))
            .cause(shipped.reasons())
            .safe("every command of this host honors it; it is shipped by the next one")
            .next_step(
                "bring the stores back, then run `recoup copy`: until then a prune on another host may not see it",
            ));
    }
    Ok((recorded.writer, recorded.head.number))
}

/// Holds what an append-only log was before it was altered. On record here when this returns, and shipped with whatever
/// is shipped next: nothing may stand in the way of the alarm.
pub fn keep_what_was(
    recorder: &Recorder,
    world: &World,
    source: &SourceName,
    altered: &Altered,
) -> Result<HoldId, Failure> {
    let hold = world.new_id();
    let snapshots = vec![altered.since, altered.found_in];
    let control = Control::HoldAdded { hold, source: source.clone(), snapshots, cause: HoldCause::LogAltered };
    recorder.record(Draft {
        subjects: vec![Subject { snapshot: Some(altered.found_in), ..Subject::new(source.clone(), Verdict::Failed) }],
        control: Some(control),
        result: serde_json::json!({ "alterations": altered.files }),
        ..Draft::new(Action::Hold, Verdict::Passed, world.now())
    })?;
    Ok(hold)
}

/// Fails if a prune deletes what a new hold is to keep. A prune records what it deletes on every store, and looks for
/// holds after that: if a store that was listed when the hold stood had no such record, the prune finds the hold. A record
/// that cannot be read is one all the same.
async fn in_time(
    repository: &Repository,
    source: &SourceName,
    hold: HoldId,
    meant: &BTreeSet<SnapshotId>,
) -> Result<(), Failure> {
    let (listings, prunes) = repository.prunes(source).await;
    let ready: Vec<&StoreListing> = listings.iter().filter(|listing| listing.status == StoreStatus::Ready).collect();
    let too_late = |id: &SnapshotId, cause: String| {
        Failure::new(Code::Refused, format!("hold {hold} came too late for snapshot {id} of {source}"))
            .cause(cause)
            .safe("the hold is on record, and what is still there of it stays: the next prune takes it out of the plan")
            .next_step(format!("recoup prune {source}, then recoup verify {source}"))
    };
    let on_first = ready.iter().take(1).flat_map(|listing| listing.objects.keys());
    let executed =
        on_first.filter_map(|name| layout::prune_record(name)).filter(|(_, stage)| *stage == Stage::Executed);
    for (plan, stage) in executed {
        if !ready.iter().all(|listing| listing.objects.contains_key(&layout::prune_object(plan, stage))) {
            continue;
        }
        let records = prunes.executed.get(&plan).or_else(|| prunes.unconfirmed.get(&plan));
        // Of one that no store shows as it should be, all that is known is what was planned.
        let planned = || prunes.pending.get(&plan).map(|signed| CondemnedSet::of(&signed.record.condemned));
        let deletes = records.map(|records| deleted_by(records)).or_else(planned).unwrap_or_default();
        if let Some(id) = meant.iter().find(|id| deletes.leaves_nothing_of(**id)) {
            return Err(too_late(id, format!("prune plan {plan} was executed meanwhile, and deletes it")));
        }
    }
    let is_shown = |id: &SnapshotId| ready.iter().any(|listing| listing.has_inventory(*id));
    match meant.iter().find(|id| !is_shown(id)) {
        Some(id) => Err(too_late(id, "no store that answers shows it any more".to_owned())),
        None => Ok(()),
    }
}

/// What a hold is about.
struct Resolved {
    /// The snapshots that it names; none where it is about everything.
    ids: BTreeSet<SnapshotId>,
    /// The snapshots that are there and are to be kept.
    meant: BTreeSet<SnapshotId>,
    /// What the operator has to know of them.
    notes: Vec<String>,
}

/// The snapshots that are meant; every one that is named must exist.
async fn resolve(repository: &Repository, request: &HoldRequest) -> Result<Resolved, Failure> {
    let catalogue = repository.inventories(&request.source, &BTreeSet::new()).await;
    let listings = || catalogue.ready().map(|at| &catalogue.listings[at]);
    if listings().next().is_none() {
        return Err(repository.none_usable().await);
    }
    if request.snapshots.is_empty() {
        let meant = catalogue.snapshots.keys().copied().collect();
        return Ok(Resolved { ids: BTreeSet::new(), meant, notes: Vec::new() });
    }
    let names = listings().flat_map(|listing| listing.objects.keys());
    let known: BTreeSet<SnapshotId> = names.filter_map(|name| layout::snapshot_of(name)).collect();
    let mut ids = BTreeSet::new();
    for name in &request.snapshots {
        let found: Vec<SnapshotId> = known.iter().copied().filter(|id| name.means(*id)).collect();
        match found.as_slice() {
            [id] => drop(ids.insert(*id)),
            [] => {
                return Err(Failure::new(Code::NoRecoveryPoint, format!("{} has no snapshot {name}", request.source))
                    .cause("no store that answers shows it")
                    .safe("nothing was changed")
                    .next_step(format!("recoup list {}", request.source)));
            }
            several => {
                let several: Vec<String> = several.iter().map(ToString::to_string).collect();
                return Err(Failure::new(Code::Refused, format!("snapshot {name} of {} is forked", request.source))
                    .cause(several.join(" and "))
                    .safe("nothing was changed")
                    .next_step("name one of them in full"));
            }
        }
    }
    let notes = ids.iter().map(|id| note_on(repository, &catalogue, *id)).collect::<Result<Vec<_>, _>>()?;
    Ok(Resolved { meant: ids.clone(), ids, notes: notes.into_iter().flatten().collect() })
}

/// What keeps a hold from keeping much: the snapshot is on few stores, or on none that answers.
fn note_on(repository: &Repository, catalogue: &Catalogue, id: SnapshotId) -> Result<Option<String>, Failure> {
    let (source, stores) = (&catalogue.source, catalogue.listings.len());
    if let Some(pruned) = catalogue.pruned(id) {
        return Err(Failure::new(
            Code::NoRecoveryPoint,
            format!("snapshot {id} of {source} was pruned at {}", pruned.at),
        )
        .cause(format!("plan {} has deleted it: no hold brings it back", pruned.plan))
        .safe("nothing was changed")
        .next_step(format!("recoup list {source}")));
    }
    let showing: BTreeSet<usize> = catalogue.ready().filter(|at| catalogue.listings[*at].has_inventory(id)).collect();
    if showing.is_empty() {
        return Ok(Some(format!(
            "no store that answers shows snapshot {id} of {source} as committed: what lies of it stays, and that may be no \
             snapshot"
        )));
    }
    let few = showing.len() < repository.control_write_quorum();
    Ok(few.then(|| {
        let on = catalogue.names(&showing).into_iter().collect::<Vec<_>>().join(", ");
        format!(
            "snapshot {id} of {source} is committed on {} of {stores} stores ({on}): what happens to them happens to it; \
             recoup copy brings it to every store that answers",
            showing.len()
        )
    }))
}
