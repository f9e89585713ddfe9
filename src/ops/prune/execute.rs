//! Executing plans: the second look, and deleting.

use super::{
    PruneRequest,
    durable::Whereabouts,
    gather::{self, Gathered},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SnapshotId},
        prune::{Because, Condemned, CondemnedLog, CondemnedSet, PruneRecord},
        result::PrunedStore,
    },
    ops::{
        host::{Host, Protected},
        progress::{Progress, Unit},
        state::SourceState,
    },
    repository::{
        catalogue::Catalogue,
        head, layout,
        prunes::{SignedPrune, deleted_by, holders},
    },
    stores::Problem,
};
use futures_util::{StreamExt, future::join_all, stream};
use std::collections::{BTreeMap, BTreeSet};

/// How many objects are deleted at once on one store.
const CONCURRENT_DELETES: usize = 8;

/// Names and sizes of what goes from a store, in three steps.
type Phases = [Vec<(String, u64)>; 3];

/// One source that is being pruned.
pub(super) struct Pruning<'a> {
    pub(super) host: &'a Host,
    pub(super) protected: &'a Protected,
    pub(super) state: &'a SourceState,
    pub(super) request: &'a PruneRequest,
    pub(super) progress: &'a dyn Progress,
    /// What was done on each store, by name.
    pub(super) stores: BTreeMap<String, PrunedStore>,
    pub(super) executed: Vec<RunId>,
    pub(super) pruned: BTreeSet<SnapshotId>,
    pub(super) dropped: BTreeSet<SnapshotId>,
    /// What they deleted of the log, and what they kept of it after all.
    pub(super) pruned_log: Vec<CondemnedLog>,
    pub(super) dropped_log: Vec<CondemnedLog>,
    pub(super) warnings: BTreeSet<String>,
}

impl Pruning<'_> {
    /// Executes a plan: publishes it where it lacks, looks again at what is committed, drops what is in use or kept,
    /// records what goes, looks once more at what is held, and only then deletes.
    pub(super) async fn execute(&mut self, plan: &SignedPrune) -> Result<(), Failure> {
        self.publish(plan).await?;
        let mut look = self.look().await?;
        if let Some(again) = self.spare_what_stays(&look).await? {
            look = again;
        }
        let (mut condemned, mut dropped) = self.judge(plan, &mut look).await;
        look.look_into_records(self.host, &mut condemned, &mut dropped).await;
        let judged = CondemnedSet::of(&condemned).logs;
        let deletes = self.record(plan, &look, condemned, dropped).await?;
        // Of the log nothing is deleted by the word of another host's record alone: what this one would drop, it leaves to
        // the next prune, which looks at it once more.
        let mut goes_now = deletes.clone();
        goes_now.logs = deletes.logs.intersection(&judged);
        let (goes, dropped) = plan.record.condemned.split(&goes_now);
        self.executed.push(plan.record.plan);
        self.dropped.extend(dropped.snapshots.iter().map(|snapshot| snapshot.id));
        self.dropped_log.extend(dropped.log);
        // A hold is on record before whoever adds it looks for this record: one of the two sees the other.
        if let Err(failure) = look.read_vetoes(self.host, self.protected).await {
            let plan = plan.record.plan;
            self.warnings.insert(format!("plan {plan} is executed, and the next prune deletes: {failure}"));
            return Ok(());
        }
        if let Some((id, why)) = look.spoiled_by(&deletes) {
            self.warnings.insert(format!(
                "plan {} is executed, and nothing of it is deleted now: snapshot {id} of {} stays, as {why}",
                plan.record.plan, self.protected.name
            ));
            // What it uses is in use from now on, also for the next plan.
            return self.spare(&look, plan.record.plan, &deletes).await;
        }
        self.pruned.extend(deletes.snapshots());
        self.pruned_log.extend(goes.log);
        self.delete(&look.catalogue, &goes_now).await;
        Ok(())
    }

    async fn look(&self) -> Result<Gathered, Failure> {
        gather::gather(self.host, self.protected, self.state, self.request).await
    }

    /// Takes what must stay now out of every executed plan, so that it comes back, and what it uses counts as used before
    /// any other plan is looked at. Looks again where there was anything to take out.
    pub(super) async fn spare_what_stays(&mut self, gathered: &Gathered) -> Result<Option<Gathered>, Failure> {
        let mut spared = false;
        for (plan, records) in &gathered.catalogue.prunes.executed {
            let deletes = deleted_by(records);
            let Some((id, why)) = gathered.spoiled_by(&deletes) else { continue };
            // Nothing may be shown of its log, and what was not listed would be taken out, needed or not.
            let mut known = records.clone();
            self.host.repository.list_runs_of(&self.protected.name, &mut known).await;
            self.spare(gathered, *plan, &deleted_by(&known)).await?;
            self.warnings.insert(format!(
                "plan {plan} is executed, and deletes snapshot {id} of {}, or what it uses; it stays, as {why}, and is no \
                 longer in the plan",
                self.protected.name
            ));
            spared = true;
        }
        Ok(if spared { Some(self.look().await?) } else { None })
    }

    /// What still goes, and what is dropped.
    async fn judge(&self, plan: &SignedPrune, look: &mut Gathered) -> (Condemned, Condemned) {
        let mut keep = look.kept();
        // What the operator gave up does not come back by the rule; protections hold all the same.
        for snapshot in plan.record.condemned.snapshots.iter().filter(|one| one.because != Because::Retention) {
            let is_whole_again = snapshot.because == Because::Forgotten && self.is_whole(look, snapshot.id).await;
            if is_whole_again {
                keep.insert(snapshot.id);
            } else if !look.protected.contains_key(&snapshot.id) {
                keep.remove(&snapshot.id);
            }
        }
        look.second_look(&plan.record.condemned, &keep)
    }

    /// Whether some store has all of a snapshot, as far as is known.
    async fn is_whole(&self, look: &mut Gathered, id: SnapshotId) -> bool {
        let Some(committed) = look.catalogue.snapshots.get(&id).cloned() else { return false };
        let known = self.state.known();
        !Whereabouts::of(self.host, &known, &mut look.catalogue, &committed).await.whole().is_empty()
    }

    /// Says on every store that a plan is executed, and gives what it deletes.
    ///
    /// Another host may execute the same plan at this moment, or has begun to: what either drops stays. Whoever reads
    /// these records later may find only one of them, on a store that was lost and is made new from another. So every
    /// store gets the same, before anybody is told what stays, and before anything is deleted.
    ///
    /// Where every store had a record already, another host may be deleting by them: what this one would drop by the rule
    /// does not come back. What is held does, as far as it is there.
    async fn record(
        &self,
        plan: &SignedPrune,
        look: &Gathered,
        condemned: Condemned,
        dropped: Condemned,
    ) -> Result<CondemnedSet, Failure> {
        let (record, records) = self.vote(plan, condemned, dropped).await?;
        let mut deletes = deleted_by(&records);
        if look.spoiled_by(&deletes).is_some()
            && let Ok(fewer) = look.but_what_stays(self.host, &plan.record.condemned, &deletes).await
        {
            deletes = fewer;
        }
        let base = PruneRecord { condemned: plan.record.condemned.clone(), dropped: Condemned::default(), ..record };
        self.settle(&base, records, deletes).await
    }

    /// Drops all of a pending plan: it is executed, and deletes nothing. Fails where another host was faster.
    pub(super) async fn cancel(&mut self, plan: &SignedPrune) -> Result<(), Failure> {
        let dropped = plan.record.condemned.clone();
        // What was confirmed with it is asked about again.
        let plan = SignedPrune { record: PruneRecord { confirmed: Vec::new(), ..plan.record.clone() }, ..plan.clone() };
        let (record, records) = self.vote(&plan, Condemned::default(), dropped).await?;
        // Only what no record keeps may be gone: whoever fills the last place reads them all.
        if !deleted_by(&records).is_empty() {
            let (plan, name) = (plan.record.plan, &self.protected.name);
            return Err(Failure::new(Code::Refused, format!("prune plan {plan} of {name} cannot be dropped any more"))
                .cause("another prune has executed it meanwhile, and deletes what it condemns")
                .safe("this command deleted nothing")
                .next_step(format!("recoup list {name}")));
        }
        self.settle(&record, records, CondemnedSet::default()).await?;
        self.dropped.extend(plan.record.condemned.snapshots.iter().map(|snapshot| snapshot.id));
        self.dropped_log.extend(plan.record.condemned.log);
        self.executed.push(plan.record.plan);
        Ok(())
    }

    /// Finishes executed plans on stores that lagged: their records first, the same on all of them, then what they still
    /// hold. Nothing must stay of them any more: see [`Pruning::spare_what_stays`].
    pub(super) async fn finish_lagging(&mut self, gathered: &Gathered) {
        let catalogue = &gathered.catalogue;
        for plan in catalogue.prunes.unconfirmed.keys().filter(|plan| !catalogue.prunes.pending.contains_key(plan)) {
            self.warnings.insert(format!(
                "too few stores say that plan {plan} of {} is executed, and none has the plan: nothing is deleted by it; \
                 recoup verify",
                self.protected.name
            ));
        }
        let shown = catalogue.ready().flat_map(|at| catalogue.listings[at].objects.keys());
        let left: BTreeSet<&String> = shown.filter(|name| catalogue.tombstones.has_object(name)).collect();
        let mut finished: Vec<(RunId, Condemned)> = Vec::new();
        for (plan, records) in &catalogue.prunes.executed {
            let (known_to, deletes) = (holders(records), deleted_by(records));
            let list = layout::prune_list(*plan);
            let (listed, unlisted): (Vec<usize>, Vec<usize>) =
                catalogue.ready().partition(|at| catalogue.listings[*at].objects.contains_key(&list));
            // A list that no store has nobody can bring.
            let is_listed = listed.is_empty() || unlisted.is_empty();
            let is_known = records.len() == 1 && catalogue.ready().all(|at| known_to.contains(&at));
            if is_known && is_listed && !left.iter().any(|name| deletes.has_object(name)) {
                continue;
            }
            match self.finish_record(catalogue, *plan, records).await {
                Ok(goes) => finished.push((*plan, goes)),
                Err(failure) => {
                    self.warnings.insert(failure.to_string());
                }
            }
        }
        let tombstones = self.but_log_that_stays(gathered, &finished).await;
        self.delete(catalogue, &tombstones).await;
    }

    /// All that these plans delete, but for what must stay of the log, for this run: whoever needs it may be gone with the
    /// next.
    async fn but_log_that_stays(&mut self, gathered: &Gathered, finished: &[(RunId, Condemned)]) -> CondemnedSet {
        let mut tombstones = CondemnedSet::default();
        finished.iter().for_each(|(_, goes)| tombstones.add(goes));
        let parts = finished.iter().flat_map(|(plan, goes)| goes.log.iter().map(|part| (*plan, part)));
        let (plans, parts): (Vec<RunId>, Vec<&CondemnedLog>) = parts.unzip();
        for (at, why) in gathered.log_that_stays(self.host, &parts).await {
            tombstones.logs.spare(parts[at]);
            if let Some(why) = why {
                self.warnings.insert(format!(
                    "plan {} is executed, and deletes files of log {} of {}, which stay where they still lie: {why}",
                    plans[at], parts[at].history, self.protected.name
                ));
            }
        }
        tombstones
    }

    /// Deletes what is condemned from every store that shows it.
    async fn delete(&mut self, catalogue: &Catalogue, condemned: &CondemnedSet) {
        let has_work = |phases: &Phases| phases.iter().any(|phase| !phase.is_empty());
        let work: Vec<(usize, Phases)> = catalogue
            .ready()
            .map(|at| (at, in_order(catalogue, at, condemned)))
            .filter(|(_, phases)| has_work(phases))
            .collect();
        let objects: usize = work.iter().flat_map(|(_, phases)| phases).map(Vec::len).sum();
        if objects == 0 {
            return;
        }
        self.progress.begin(&format!("pruning {}", self.protected.name), Some(objects as u64), Unit::Objects);
        let this = &*self;
        let done = join_all(work.into_iter().map(|(at, phases)| async move {
            let mut outcome = this.stores.get(this.host.repository.stores[at].name()).cloned();
            let outcome_now = outcome.get_or_insert_with(|| PrunedStore::new(this.host.repository.stores[at].name()));
            for phase in phases {
                this.delete_on(at, phase, outcome_now).await;
                // No store ever shows a committed inventory without what it uses.
                if outcome_now.kept_objects > 0 {
                    break;
                }
            }
            outcome
        }))
        .await;
        for outcome in done.into_iter().flatten() {
            self.stores.insert(outcome.store.clone(), outcome);
        }
    }

    async fn delete_on(&self, at: usize, objects: Vec<(String, u64)>, outcome: &mut PrunedStore) {
        let store = &self.host.repository.stores[at];
        let folder = layout::source_folder(&self.protected.name);
        let deleting = stream::iter(objects).map(|(name, size)| {
            let key = format!("{folder}{name}");
            async move {
                let deleted = store.delete(&key).await;
                self.progress.advance(1);
                (size, deleted)
            }
        });
        let mut deleting = deleting.buffer_unordered(CONCURRENT_DELETES);
        while let Some((size, deleted)) = deleting.next().await {
            match deleted {
                Ok(()) => {
                    outcome.deleted_objects += 1;
                    outcome.deleted_bytes += size;
                }
                Err(error) => {
                    outcome.kept_objects += 1;
                    outcome.cause.get_or_insert_with(|| head::reason(&error));
                    // A store that is gone takes no other request either.
                    if matches!(error.problem, Problem::Unreachable(_)) {
                        return;
                    }
                }
            }
        }
    }

    pub(super) fn lags(&mut self, store: &str, why: &str) {
        let outcome = self.stores.entry(store.to_owned()).or_insert_with(|| PrunedStore::new(store));
        outcome.cause.get_or_insert_with(|| why.to_owned());
    }
}

/// What goes from a store: inventories first, then what else lies in their folders and the records of the log, then
/// packs and all that is with them, and the files of the log. No store ever shows a committed inventory without what it
/// uses, nor a record of the log without the files that it commits.
fn in_order(catalogue: &Catalogue, at: usize, condemned: &CondemnedSet) -> Phases {
    let mut phases: Phases = Default::default();
    for (name, size) in catalogue.listings[at].objects.iter().filter(|(name, _)| condemned.has_object(name)) {
        let phase = match (layout::committed_snapshot(name), layout::snapshot_of(name)) {
            (Some(_), _) => 0,
            (None, Some(_)) => 1,
            (None, None) if layout::log_record_of(name).is_some() => 1,
            (None, None) => 2,
        };
        phases[phase].push((name.clone(), *size));
    }
    phases.iter_mut().for_each(|phase| phase.sort_unstable());
    phases
}
