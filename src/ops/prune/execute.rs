//! Publishing plans, the second look, and deleting.

use super::{
    PruneRequest,
    gather::{self, EVERY_STORE, Gathered},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, SnapshotId},
        prune::{Because, Condemned, CondemnedLog, CondemnedSet, PruneRecord, Stage},
        result::PrunedStore,
    },
    format::{
        self, prune as prune_format,
        signature::{self, MAX_SIGNATURE_BYTES},
    },
    ops::{
        host::{Host, Protected},
        progress::{Progress, Unit},
        state::SourceState,
    },
    repository::{
        catalogue::Catalogue,
        head, layout,
        prunes::{Prunes, SignedPrune, complete, deleted_by, holders},
    },
    stores::{Problem, StoreError},
};
use bytes::Bytes;
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
    /// Signs a record.
    pub(super) fn sign(&self, record: PruneRecord) -> Result<SignedPrune, Failure> {
        if let Some(why) = record.contradiction() {
            return Err(Failure::internal(format!("the prune record cannot be right: {why}")));
        }
        let bytes = Bytes::from(prune_format::to_bytes(&record));
        let signature = self.host.key.sign(signature::PRUNE, &bytes);
        let (sha256, stores) = (format::sha256(&bytes), BTreeSet::new());
        Ok(SignedPrune { sha256, signature: signature.into_bytes().into(), bytes, record, stores })
    }

    /// Writes a record on every store. What is not published everywhere is not acted upon.
    pub(super) async fn publish(&self, signed: &SignedPrune) -> Result<(), Failure> {
        let stores = &self.host.repository.stores;
        let publishing = stores.iter().enumerate().map(|(at, store)| async move {
            self.publish_on(at, signed).await.err().map(|why| format!("store {}: {why}", store.name()))
        });
        let reasons: Vec<String> = join_all(publishing).await.into_iter().flatten().collect();
        if reasons.is_empty() {
            return Ok(());
        }
        let message = format!("prune plan {} of {} is not on every store", signed.record.plan, self.protected.name);
        Err(Failure::new(Code::Store, message)
            .cause(reasons.join("; "))
            .safe("nothing of it was deleted")
            .next_step(format!("{EVERY_STORE}; it goes on where this one stopped")))
    }

    async fn publish_on(&self, at: usize, signed: &SignedPrune) -> Result<(), String> {
        let (repository, store) = (&self.host.repository, &self.host.repository.stores[at]);
        let status = head::status(store, repository.id).await;
        if let Some(problem) = status.problem() {
            return Err(problem);
        }
        let (plan, stage) = (signed.record.plan, signed.record.stage);
        let key = format!("{}{}", layout::source_folder(&self.protected.name), layout::prune_object(plan, stage));
        let told = |error: StoreError| head::reason(&error);
        let is_taken = |error: &StoreError| error.problem == Problem::Exists;
        let name = &self.protected.name;
        let (sig_key, sig_sha256) = (format!("{key}.sig"), format::sha256(&signed.signature));
        let mut other = None;
        match store.create(&sig_key, signed.signature.clone(), &sig_sha256).await {
            Ok(_) => {}
            // Another host has executed the same plan, and its record stands on this store.
            Err(error) if is_taken(&error) && repository.read_prune(at, name, plan, stage).await.is_ok() => {
                return Ok(());
            }
            // It died before it had, or what lies there is damaged.
            Err(error) if is_taken(&error) => {
                other = store.get(&sig_key, MAX_SIGNATURE_BYTES as u64).await.ok();
                store.replace(&sig_key, signed.signature.clone(), &sig_sha256).await.map_err(told)?;
            }
            Err(error) => return Err(told(error)),
        }
        match store.create(&key, signed.bytes.clone(), &signed.sha256).await {
            Ok(_) => return Ok(()),
            Err(error) if is_taken(&error) => {}
            Err(error) => return Err(told(error)),
        }
        // It was only slow: its record is there now, and stays.
        if let Some(other) = other
            && let Ok(bytes) = store.get(&key, prune_format::MAX_BYTES).await
            && repository.accept_prune(name, plan, stage, bytes, other.clone()).is_ok()
        {
            let sha256 = format::sha256(&other);
            return store.replace(&sig_key, other, &sha256).await.map(drop).map_err(told);
        }
        store.replace(&key, signed.bytes.clone(), &signed.sha256).await.map(drop).map_err(told)
    }

    /// Executes a plan: publishes it where it lacks, looks again at what is committed, drops what is in use or kept,
    /// records what goes, and only then deletes it.
    pub(super) async fn execute(&mut self, plan: &SignedPrune) -> Result<(), Failure> {
        self.publish(plan).await?;
        let look = gather::gather(self.host, self.protected, self.state, self.request).await?;
        let (mut condemned, mut dropped) = self.judge(plan, &look);
        look.look_into_records(self.host, &mut condemned, &mut dropped).await;
        self.record_and_delete(plan, &look.catalogue, condemned, dropped).await
    }

    /// What still goes, and what is dropped.
    fn judge(&self, plan: &SignedPrune, look: &Gathered) -> (Condemned, Condemned) {
        let mut keep = look.kept();
        // What the operator gave up does not come back by the rule; protections hold all the same.
        for snapshot in plan.record.condemned.snapshots.iter().filter(|one| one.because != Because::Retention) {
            if !look.protected.contains_key(&snapshot.id) {
                keep.remove(&snapshot.id);
            }
        }
        look.second_look(&plan.record.condemned, &keep)
    }

    async fn record_and_delete(
        &mut self,
        plan: &SignedPrune,
        catalogue: &Catalogue,
        condemned: Condemned,
        dropped: Condemned,
    ) -> Result<(), Failure> {
        self.dropped.extend(dropped.snapshots.iter().map(|snapshot| snapshot.id));
        let mut judged = CondemnedSet::default();
        judged.add(&condemned);
        // Which runs of the log these are, the plan says, which stays.
        let (condemned, dropped) = (condemned.unlisted(), dropped.unlisted());
        self.pruned_log.extend(condemned.log.iter().cloned());
        self.dropped_log.extend(dropped.log.iter().cloned());
        let record = PruneRecord {
            stage: Stage::Executed,
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            plan_sha256: plan.record.names_log().then_some(plan.sha256),
            condemned,
            dropped,
            ..plan.record.clone()
        };
        let signed = self.sign(record)?;
        self.publish(&signed).await?;
        self.executed.push(plan.record.plan);
        // Another host may have executed the same plan at this moment. Every store has one of the two records now, for
        // good, and what either of them drops stays.
        let (name, stores) = (&self.protected.name, (0..self.host.repository.stores.len()).collect());
        let Some(mut records) = self.host.repository.executed_records(name, plan.record.plan, &stores).await else {
            self.warnings.insert(format!("plan {} is executed, and the next prune deletes", plan.record.plan));
            return Ok(());
        };
        records.iter_mut().for_each(|signed| complete(&mut signed.record, plan));
        let mut prunes = Prunes::default();
        prunes.executed.insert(plan.record.plan, records);
        let mut tombstones = prunes.tombstones();
        // Of the log nothing goes by the word of another host's record alone: it gets a look of its own first.
        tombstones.logs = tombstones.logs.intersection(&judged.logs);
        self.pruned.extend(tombstones.snapshots());
        self.delete(catalogue, &tombstones).await;
        Ok(())
    }

    /// Drops all of a pending plan: it is executed, and deletes nothing.
    pub(super) async fn cancel(&mut self, plan: &SignedPrune, catalogue: &Catalogue) -> Result<(), Failure> {
        let dropped = plan.record.condemned.clone();
        // What was confirmed with it is asked about again.
        let plan = SignedPrune { record: PruneRecord { confirmed: Vec::new(), ..plan.record.clone() }, ..plan.clone() };
        self.record_and_delete(&plan, catalogue, Condemned::default(), dropped).await
    }

    /// Finishes executed plans on stores that lagged: their records first, then what they still hold. What is protected
    /// now stays, whatever was executed.
    pub(super) async fn finish_lagging(&mut self, gathered: &Gathered) {
        let catalogue = &gathered.catalogue;
        let mut finished: Vec<&Vec<SignedPrune>> = Vec::new();
        // A run that was cut short while it said that a plan is executed: that plan is executed by this one.
        let unconfirmed =
            catalogue.prunes.unconfirmed.iter().filter(|(plan, _)| !catalogue.prunes.pending.contains_key(plan));
        for (plan, records) in catalogue.prunes.executed.iter().chain(unconfirmed) {
            let kept = gathered.spoiled_by(&deleted_by(records));
            let is_confirmed = catalogue.prunes.executed.contains_key(plan)
                || holders(records).len() == self.host.repository.stores.len();
            match kept {
                Some((id, why)) => drop(self.warnings.insert(format!(
                    "plan {plan} is executed, and deletes snapshot {id} of {}, or what it uses, which stays: {why}; recoup \
                     verify",
                    self.protected.name
                ))),
                None if !is_confirmed => drop(self.warnings.insert(format!(
                    "one store alone says that plan {plan} of {} is executed: it is not believed; recoup verify",
                    self.protected.name
                ))),
                None => finished.push(records),
            }
        }
        let is_known = |plan: RunId, stage: Stage| {
            let name = layout::prune_object(plan, stage);
            catalogue.ready().all(|at| catalogue.listings[at].objects.contains_key(&name))
        };
        let mut records: Vec<SignedPrune> = Vec::new();
        for signed in finished.iter().filter_map(|records| records.first()) {
            let plan = signed.record.plan;
            // The lists come first: where it is known what was deleted, it is known which runs these are.
            if let Some(sha256) = signed.record.plan_sha256.filter(|_| !is_known(plan, Stage::Planned)) {
                records.extend(self.host.repository.executed_plan(catalogue, (plan, sha256)).await.0);
            }
            if !is_known(plan, Stage::Executed) {
                records.push((*signed).clone());
            }
        }
        for signed in records {
            for at in catalogue.ready().collect::<Vec<_>>() {
                let name = layout::prune_object(signed.record.plan, signed.record.stage);
                if !catalogue.listings[at].objects.contains_key(&name)
                    && let Err(why) = self.publish_on(at, &signed).await
                {
                    let store = catalogue.listings[at].store.clone();
                    self.lags(&store, &why);
                }
            }
        }
        let mut tombstones = CondemnedSet::default();
        let executed = finished.iter().flat_map(|records| records.iter());
        let parts = executed.flat_map(|of| of.record.condemned.log.iter().map(|part| (of.record.plan, part)));
        let (plans, parts): (Vec<RunId>, Vec<&CondemnedLog>) = parts.unzip();
        let stays = gathered.log_that_stays(self.host, &parts).await;
        finished.iter().for_each(|records| tombstones.extend(deleted_by(records)));
        for (at, why) in stays {
            tombstones.logs.spare(parts[at]);
            if let Some(why) = why {
                self.warnings.insert(format!(
                    "plan {} is executed, and deletes files of log {} of {}, which stay where they still lie: {why}",
                    plans[at], parts[at].history, self.protected.name
                ));
            }
        }
        self.delete(catalogue, &tombstones).await;
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

    fn lags(&mut self, store: &str, why: &str) {
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
