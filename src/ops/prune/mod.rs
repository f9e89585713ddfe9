//! Deletes what the policy's retention keeps no longer: gather, plan, show, publish, look again, delete.
//!
//! A plan is signed and published on every store, so that each backup sees it, or is seen by the look that comes after.
//! Deleting is for a later run, so that a wrong plan can be stopped; `now` does both at once. Whatever a run that died
//! has left, the next one finishes: first pending plans, then executed ones on stores that lagged, then a new plan.

mod durable;
mod execute;
mod gather;
mod held;
mod log;
mod orphans;
mod records;
mod sources;
mod steps;
mod vetoes;

use super::{
    host::{Host, Protected},
    progress::Progress,
    state::{Known, SourceState},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SnapshotId},
        plan::prune::{Orphans, condemn},
        prune::{Because, Condemned, CondemnedLog, FORMAT, PruneRecord, Stage},
        result::{PrunedLog, PrunedSource},
        retention::Rule,
    },
    repository::{
        catalogue::{Catalogue, Refusal},
        layout,
        prunes::SignedPrune,
    },
    world::files::Lock,
};
use durable::Whereabouts;
use execute::Pruning;
use gather::Gathered;
use std::collections::{BTreeMap, BTreeSet};

pub use sources::{PreparedSources, PruneSources, execute_sources, prepare_sources};
pub use vetoes::Vetoes;

/// What to prune, and how far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneRequest {
    /// Delete what is condemned in this run already.
    pub now: bool,
    /// Go on where the clock, the age of the newest snapshot or the amount raise doubts.
    pub confirmed: bool,
    /// Give up this snapshot, which no store has whole.
    pub forget: Option<SnapshotId>,
    /// Drop this pending plan.
    pub cancel: Option<RunId>,
}

/// A plan for one source, ready to be shown and executed.
pub struct Prepared {
    request: PruneRequest,
    state: SourceState,
    gathered: Gathered,
    /// The new plan, if there is anything to publish.
    plan: Option<PruneRecord>,
    /// What would be done, in order, a line each.
    pub steps: Vec<String>,
    /// What the operator should know.
    pub notes: Vec<String>,
    _lock: Option<Lock>,
}

/// Finds out what there is to prune of a source. Changes nothing; with `locked`, no other prune does either until the
/// plan is executed.
pub async fn prepare(
    host: &Host,
    protected: &Protected,
    request: PruneRequest,
    locked: bool,
) -> Result<Prepared, Failure> {
    let directory = host.source_state_dir(&protected.name);
    let (state, lock) = if locked {
        let state = SourceState::open(directory, host.repository.id)?;
        let lock = state.lock_prunes(&protected.name)?;
        (state, Some(lock))
    } else {
        (SourceState::read_only(directory, host.repository.id), None)
    };
    let mut gathered = gather::gather(host, protected, &state, &request).await?;
    if let Some(id) = request.forget {
        check_forgotten(host, &mut gathered, &state, id).await?;
    }
    if let Some(plan) = request.cancel
        && !gathered.catalogue.prunes.pending.contains_key(&plan)
    {
        return Err(no_such_plan(&gathered, protected, plan));
    }
    let (plan, of_log) = match request.cancel {
        Some(_) => (None, Vec::new()),
        None => plan(host, protected, &gathered, &request).await,
    };
    let steps = steps::steps(protected, &gathered, &request, plan.as_ref());
    let mut notes = steps::notes(protected, &gathered);
    notes.extend(of_log);
    Ok(Prepared { request, state, gathered, plan, steps, notes, _lock: lock })
}

/// The new plan; `None` where there is nothing to say. And what keeps a part of the log that should go.
async fn plan(
    host: &Host,
    protected: &Protected,
    gathered: &Gathered,
    request: &PruneRequest,
) -> (Option<PruneRecord>, Vec<String>) {
    let prunes = &gathered.catalogue.prunes;
    let before = prunes.condemned();
    let snapshots = gathered.snapshots();
    let mut going: BTreeMap<SnapshotId, Because> = gathered.going.clone();
    if let Some(id) = request.forget {
        going = [(id, Because::Forgotten)].into();
    }
    going.retain(|id, _| !before.has_snapshot(*id));
    let mut condemned = condemn(&snapshots, &going, &before);
    let on_each = |id: SnapshotId| gathered.catalogue.listings.iter().all(|listing| listing.has_inventory(id));
    condemned.snapshots.iter_mut().for_each(|one| one.on_every_store = on_each(one.id));
    let (runs, folders) = gathered.shown();
    let mut out_of_the_way = before.clone();
    out_of_the_way.extend(gathered.catalogue.tombstones.clone());
    let orphans = Orphans::among(&runs, &folders, &snapshots, &out_of_the_way);
    let records: Vec<&PruneRecord> = prunes.records().collect();
    if request.forget.is_none() {
        let abandoned = orphans::abandoned(host, gathered, &orphans, &records).await;
        abandoned.but(&gathered.remains).condemn(&mut condemned);
    }
    let recorded: BTreeSet<RunId> = records.iter().flat_map(|record| record.orphans_seen.iter().copied()).collect();
    let rule = Rule::of(&protected.policy);
    let (mut orphans_seen, mut notes) = (orphans.all_runs(), Vec::new());
    if request.forget.is_none() && !rule.keeps_all() {
        let found = log::find(host, protected, gathered, (&condemned, &before), &recorded).await;
        condemned.log = found.condemned;
        orphans_seen.extend(found.orphans);
        notes = found.notes;
    }
    let says_nothing_new = orphans_seen.is_subset(&recorded) || request.forget.is_some();
    if condemned.is_empty() && gathered.confirmed.is_empty() && (says_nothing_new || rule.keeps_all()) {
        return (None, notes);
    }
    let record = PruneRecord {
        format: FORMAT.to_owned(),
        stage: Stage::Planned,
        repository: host.repository.id,
        source: protected.name.clone(),
        plan: host.world.new_id(),
        writer: host.key.fingerprint().to_string(),
        created_at: gathered.now,
        policy_sha256: protected.policy.sha256,
        keep_within_seconds: rule.keep_within.map(|within| within.as_secs()),
        keep_last: rule.keep_last,
        condemned,
        dropped: Condemned::default(),
        log_sha256: None,
        orphans_seen: orphans_seen.into_iter().take(crate::core::prune::MAX_RUNS).collect(),
        writers_seen: gathered.writers.clone(),
        confirmed: gathered.confirmed.clone(),
    };
    (Some(record), notes)
}

/// Only what no store has whole can be given up.
async fn check_forgotten(
    host: &Host,
    gathered: &mut Gathered,
    state: &SourceState,
    id: SnapshotId,
) -> Result<(), Failure> {
    let source = gathered.catalogue.source.clone();
    let refuse = |code, cause: String, next_step: &str| {
        Failure::new(code, format!("snapshot {id} of {source} is not given up"))
            .cause(cause)
            .safe("nothing was planned or deleted")
            .next_step(next_step)
    };
    if let Some(pruned) = gathered.catalogue.pruned(id) {
        let cause = format!("it was pruned at {} by plan {}: nobody misses it", pruned.at, pruned.plan);
        return Err(refuse(Code::Refused, cause, "recoup verify"));
    }
    if let Some(why) = gathered.held(id) {
        return Err(refuse(
            Code::Refused,
            why,
            "lift the hold first, if you may: recoup hold list, recoup hold release",
        ));
    }
    let known = state.known();
    let Some(committed) = gathered.catalogue.snapshots.get(&id).cloned() else {
        // One that is there, and that this host cannot read, may be whole.
        let mut refused = gathered.catalogue.refused.iter().filter(|refused| refused.id == id);
        if let Some(refused) =
            refused.find(|refused| !matches!(refused.why, Refusal::Damaged(_) | Refusal::Misplaced(_)))
        {
            let (code, next_step) = match refused.why {
                Refusal::Unreadable(_) => (Code::Store, "recoup doctor, then run the same command again"),
                Refusal::Newer(_) => (Code::Refused, "give it up with the newer recoup that wrote it"),
                _ => {
                    (Code::Refused, "find out who wrote it: a key that this host does not trust may be another host's")
                }
            };
            let cause = format!("store {} has it, and it cannot be read here: {}", refused.store, refused.why);
            return Err(refuse(code, cause, next_step));
        }
        if !is_heard_of(&gathered.catalogue, &known, id) {
            let cause = "neither this host nor any store has ever heard of it".to_owned();
            return Err(refuse(Code::Refused, cause, "recoup verify names what is missing; copy the id from there"));
        }
        gathered.protected.remove(&id);
        return Ok(());
    };
    let whereabouts = Whereabouts::of(host, &known, &mut gathered.catalogue, &committed).await;
    let whole: Vec<String> = whereabouts.whole().into_iter().collect();
    if !whole.is_empty() {
        let stores = whole.join(", ");
        let cause = format!("it is whole on {stores}, as far as is known");
        return Err(refuse(
            Code::Refused,
            cause,
            "recoup verify --all finds out what is damaged; recoup copy heals it",
        ));
    }
    // The stores together may have what none has alone.
    if whereabouts.is_anywhere(&gathered.catalogue, &known) {
        let cause = "the stores together have all of it, as far as is known".to_owned();
        return Err(refuse(
            Code::Refused,
            cause,
            "recoup copy makes it whole; recoup verify --all finds out what is damaged",
        ));
    }
    gathered.protected.remove(&id);
    Ok(())
}

/// Whether there is a trace of a snapshot that no store shows whole: a slip in its id must not pass for a loss.
fn is_heard_of(catalogue: &Catalogue, known: &Known, id: SnapshotId) -> bool {
    let mut parents = catalogue.snapshots.values().flat_map(|committed| &committed.inventory.parents);
    let mut names = catalogue.listings.iter().flat_map(|listing| listing.objects.keys());
    known.head.is_some_and(|head| head.id == id)
        || known.completed.values().any(|ids| ids.contains(&id))
        || parents.any(|parent| parent.id == id)
        || names.any(|name| layout::snapshot_of(name) == Some(id))
}

fn no_such_plan(gathered: &Gathered, protected: &Protected, plan: RunId) -> Failure {
    let pending: Vec<String> = gathered.catalogue.prunes.pending.keys().map(ToString::to_string).collect();
    let executed = gathered.catalogue.prunes.executed.contains_key(&plan);
    Failure::new(Code::Refused, format!("prune plan {plan} of {} is not pending", protected.name))
        .cause(match (executed, pending.is_empty()) {
            (true, _) => "it is executed already".to_owned(),
            (false, true) => "no plan is".to_owned(),
            (false, false) => format!("these are: {}", pending.join(", ")),
        })
        .safe("nothing was changed")
        .next_step(format!("recoup prune {} --dry-run", protected.name))
}

/// Does what was prepared.
pub async fn execute(
    host: &Host,
    protected: &Protected,
    prepared: Prepared,
    progress: &dyn Progress,
) -> Result<PrunedSource, Failure> {
    let Prepared { request, state, gathered, plan, .. } = &prepared;
    let mut pruning = Pruning {
        host,
        protected,
        state,
        request,
        progress,
        stores: BTreeMap::new(),
        executed: Vec::new(),
        pruned: BTreeSet::new(),
        dropped: BTreeSet::new(),
        pruned_log: Vec::new(),
        dropped_log: Vec::new(),
        warnings: BTreeSet::new(),
    };
    let prunes = &gathered.catalogue.prunes;
    if let Some(plan) = request.cancel.and_then(|plan| prunes.pending.get(&plan)) {
        pruning.cancel(plan).await?;
        return Ok(finish(pruning, gathered, None));
    }
    // What else cannot be read may use anything: only the plan is published that gives this one up.
    if request.forget.is_none() {
        let again = pruning.spare_what_stays(gathered).await?;
        let mut pending: Vec<&SignedPrune> = prunes.pending.values().collect();
        pending.sort_by_key(|signed| (signed.record.created_at, signed.record.plan));
        for signed in pending {
            pruning.execute(signed).await?;
        }
        pruning.finish_lagging(again.as_ref().unwrap_or(gathered)).await;
    }
    let Some(plan) = plan else { return Ok(finish(pruning, gathered, None)) };
    let signed = pruning.sign(plan.clone())?;
    match pruning.publish(&signed).await {
        Ok(()) if request.now => pruning.execute(&signed).await?,
        Ok(()) => {}
        // What was deleted before is told; the next run plans the rest again.
        Err(failure) if !pruning.executed.is_empty() => {
            pruning.warnings.insert(failure.to_string());
            return Ok(finish(pruning, gathered, None));
        }
        Err(failure) => return Err(failure),
    }
    Ok(finish(pruning, gathered, Some(plan)))
}

/// Notes locally what is gone, and says what was done.
fn finish(mut pruning: Pruning<'_>, gathered: &Gathered, plan: Option<&PruneRecord>) -> PrunedSource {
    if let Err(failure) = forget_locally(&pruning, gathered) {
        pruning.warnings.insert(format!("this host could not note what is gone: {failure}"));
    }
    let condemned = plan.map(|plan| plan.condemned.snapshots.iter().map(|one| one.id).collect()).unwrap_or_default();
    let lagging = pruning.stores.values().any(|store| store.cause.is_some()) || !pruning.warnings.is_empty();
    let mut result = PrunedSource {
        source: pruning.protected.name.clone(),
        exit_code: if lagging { Code::Warning } else { Code::Done },
        message: String::new(),
        plan: plan.map(|plan| plan.plan),
        condemned,
        executed: pruning.executed,
        pruned: pruning.pruned.into_iter().collect(),
        dropped: pruning.dropped.into_iter().collect(),
        condemned_log: plan.map(|plan| prune_log(&plan.condemned.log)).unwrap_or_default(),
        pruned_log: prune_log(&pruning.pruned_log),
        dropped_log: prune_log(&pruning.dropped_log),
        stores: pruning.stores.into_values().collect(),
        warnings: pruning.warnings.into_iter().collect(),
        notes: Vec::new(),
        failure: None,
    };
    result.message = steps::summary(&result, plan);
    result
}

fn prune_log(parts: &[CondemnedLog]) -> Vec<PrunedLog> {
    parts.iter().map(PrunedLog::of).collect()
}

/// What this host knows of pruned snapshots would make them look lost.
fn forget_locally(pruning: &Pruning<'_>, gathered: &Gathered) -> Result<(), Failure> {
    let catalogue = &gathered.catalogue;
    let gone = |id: &SnapshotId| pruning.pruned.contains(id) || catalogue.is_settled(*id);
    let known = pruning.state.known();
    let knows_of_any = known.head.is_some_and(|head| gone(&head.id))
        || known.completed.values().flatten().any(gone)
        || known.damaged.values().flatten().any(|name| catalogue.tombstones.has_object(name));
    if !knows_of_any {
        return Ok(());
    }
    let newest = gathered.newest_durable.and_then(|id| {
        let sha256 = catalogue.snapshots.get(&id)?.sha256;
        Some(crate::core::inventory::Parent { id, sha256 })
    });
    pruning.state.update_known(|known| {
        if known.head.is_some_and(|head| gone(&head.id)) {
            known.head = newest;
        }
        known.completed.values_mut().for_each(|ids| ids.retain(|id| !gone(id)));
        known.damaged.values_mut().for_each(|names| names.retain(|name| !catalogue.tombstones.has_object(name)));
    })
}
