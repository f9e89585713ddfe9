//! Publishing plans, the second look, and deleting.

use super::{
    PruneRequest,
    durable::Whereabouts,
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
        prunes::{PruneList, SignedPrune, deleted_by, holders},
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
        // Which runs of a log it deletes, the list says that it names.
        let bytes = Bytes::from(match record.stage {
            Stage::Planned => prune_format::to_bytes(&record),
            Stage::Executed => prune_format::to_bytes(&record.clone().unlisted()),
        });
        let signature = self.host.key.sign(signature::PRUNE, &bytes);
        let (sha256, stores) = (format::sha256(&bytes), BTreeSet::new());
        Ok(SignedPrune { sha256, signature: signature.into_bytes().into(), bytes, record, stores })
    }

    /// Writes a plan on every store. What is not published everywhere is not acted upon.
    pub(super) async fn publish(&self, signed: &SignedPrune) -> Result<(), Failure> {
        self.publish_with(signed, None).await
    }

    /// The same of a record, and before it what it names.
    async fn publish_with(&self, signed: &SignedPrune, list: Option<&PruneList>) -> Result<(), Failure> {
        let stores = &self.host.repository.stores;
        let publishing = stores.iter().enumerate().map(|(at, store)| async move {
            self.publish_on(at, signed, list).await.err().map(|why| format!("store {}: {why}", store.name()))
        });
        let reasons: Vec<String> = join_all(publishing).await.into_iter().flatten().collect();
        if reasons.is_empty() {
            return Ok(());
        }
        let message = format!("prune plan {} of {} is not on every store", signed.record.plan, self.protected.name);
        Err(Failure::new(Code::Store, message)
            .cause(reasons.join("; "))
            .safe("nothing of it was deleted")
            .next_step(format!(
                "{EVERY_STORE}; it goes on where this one stopped, and recoup prune {} --cancel {} still drops the plan",
                self.protected.name, signed.record.plan
            )))
    }

    /// The key of a record.
    fn key(&self, signed: &SignedPrune) -> String {
        let name = layout::prune_object(signed.record.plan, signed.record.stage);
        format!("{}{name}", layout::source_folder(&self.protected.name))
    }

    async fn publish_on(&self, at: usize, signed: &SignedPrune, list: Option<&PruneList>) -> Result<(), String> {
        let (repository, store) = (&self.host.repository, &self.host.repository.stores[at]);
        let status = head::status(store, repository.id).await;
        if let Some(problem) = status.problem() {
            return Err(problem);
        }
        let (plan, stage) = (signed.record.plan, signed.record.stage);
        let key = self.key(signed);
        let told = |error: StoreError| head::reason(&error);
        let is_taken = |error: &StoreError| error.problem == Problem::Exists;
        let name = &self.protected.name;
        // Where it is known that something was deleted, it is known what.
        if let Some(list) = list {
            let key = format!("{}{}", layout::source_folder(name), layout::prune_list(plan));
            store.replace(&key, list.bytes.clone(), &list.sha256).await.map_err(told)?;
        }
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
    /// records what goes, looks once more at what is held, and only then deletes.
    pub(super) async fn execute(&mut self, plan: &SignedPrune) -> Result<(), Failure> {
        self.publish(plan).await?;
        let mut look = gather::gather(self.host, self.protected, self.state, self.request).await?;
        let (mut condemned, mut dropped) = self.judge(plan, &mut look).await;
        look.look_into_records(self.host, &mut condemned, &mut dropped).await;
        let deletes = self.record(plan, &look, condemned, dropped).await?;
        let (goes, dropped) = plan.record.condemned.split(&deletes);
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
                "plan {} is executed, and nothing of it is deleted now: snapshot {id} of {} stays, as {why}; the next \
                 prune takes it out of the plan",
                plan.record.plan, self.protected.name
            ));
            return Ok(());
        }
        self.pruned.extend(deletes.snapshots());
        self.pruned_log.extend(goes.log);
        self.delete(&look.catalogue, &deletes).await;
        Ok(())
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
    /// does not come back. What is held does, as far as it is there. Of the log nothing is deleted by the word of another
    /// host's record alone: what this one would drop, it leaves to the next prune, which looks at it once more.
    async fn record(
        &self,
        plan: &SignedPrune,
        look: &Gathered,
        condemned: Condemned,
        dropped: Condemned,
    ) -> Result<CondemnedSet, Failure> {
        let judged = CondemnedSet::of(&condemned).logs;
        let (record, records) = self.vote(plan, condemned, dropped).await?;
        let mut deletes = deleted_by(&records);
        if look.spoiled_by(&deletes).is_some()
            && let Ok(fewer) = look.but_what_stays(self.host, &plan.record.condemned, &deletes).await
        {
            deletes = fewer;
        }
        let (condemned, dropped) = plan.record.condemned.split(&deletes);
        let settled = self.sign(PruneRecord { condemned, dropped, ..record })?;
        self.settle(&records, &settled, &deletes).await?;
        deletes.logs = deletes.logs.intersection(&judged);
        Ok(deletes)
    }

    /// Puts a record of a plan's execution on every store that has none yet, and gives it with those that stand there.
    async fn vote(
        &self,
        plan: &SignedPrune,
        condemned: Condemned,
        dropped: Condemned,
    ) -> Result<(PruneRecord, Vec<SignedPrune>), Failure> {
        let list = PruneList::of(&plan.record);
        let record = PruneRecord {
            stage: Stage::Executed,
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            log_sha256: list.as_ref().map(|list| list.sha256),
            condemned,
            dropped,
            ..plan.record.clone()
        };
        self.publish_with(&self.sign(record.clone())?, list.as_ref()).await?;
        let mut records = self.records_of(plan.record.plan).await?;
        for signed in &mut records {
            list.iter().for_each(|list| list.complete(&mut signed.record));
        }
        Ok((record, records))
    }

    /// The records of a plan's execution: one on every store, for good.
    async fn records_of(&self, plan: RunId) -> Result<Vec<SignedPrune>, Failure> {
        let stores = (0..self.host.repository.stores.len()).collect();
        let records = self.host.repository.executed_records(&self.protected.name, plan, &stores).await;
        records.filter(|records| holders(records) == stores).ok_or_else(|| {
            Failure::new(Code::Store, format!("what prune plan {plan} of {} deletes is not known", self.protected.name))
                .cause("its record cannot be read back from every store")
                .safe("nothing of it was deleted")
                .next_step("recoup verify, then run the same command again")
        })
    }

    /// Puts a record in the place of those that delete more.
    async fn settle(
        &self,
        records: &[SignedPrune],
        settled: &SignedPrune,
        deletes: &CondemnedSet,
    ) -> Result<(), Failure> {
        let deletes_more = |signed: &&SignedPrune| CondemnedSet::of(&signed.record.condemned) != *deletes;
        for at in records.iter().filter(deletes_more).flat_map(|signed| signed.stores.iter().copied()) {
            let store = &self.host.repository.stores[at];
            let key = self.key(settled);
            let signature = (format!("{key}.sig"), settled.signature.clone(), format::sha256(&settled.signature));
            for (key, bytes, sha256) in [signature, (key, settled.bytes.clone(), settled.sha256)] {
                if let Err(error) = store.replace(&key, bytes, &sha256).await {
                    let (plan, name) = (settled.record.plan, &self.protected.name);
                    let message = format!("what prune plan {plan} of {name} deletes is not settled on every store");
                    return Err(Failure::new(Code::Store, message)
                        .cause(format!("store {}: {}", store.name(), head::reason(&error)))
                        .safe("nothing of it was deleted")
                        .next_step(format!("{EVERY_STORE}; it goes on where this one stopped")));
                }
            }
        }
        Ok(())
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
        self.settle(&records, &self.sign(record)?, &CondemnedSet::default()).await?;
        self.dropped.extend(plan.record.condemned.snapshots.iter().map(|snapshot| snapshot.id));
        self.dropped_log.extend(plan.record.condemned.log);
        self.executed.push(plan.record.plan);
        Ok(())
    }

    /// Finishes executed plans on stores that lagged: their records first, then what they still hold. What must stay now
    /// is taken out of its plan, and comes back with the next look.
    pub(super) async fn finish_lagging(&mut self, gathered: &Gathered) {
        let catalogue = &gathered.catalogue;
        for plan in catalogue.prunes.unconfirmed.keys().filter(|plan| !catalogue.prunes.pending.contains_key(plan)) {
            self.warnings.insert(format!(
                "too few stores say that plan {plan} of {} is executed, and none has the plan: nothing is deleted by it; \
                 recoup verify",
                self.protected.name
            ));
        }
        let mut finished: Vec<&Vec<SignedPrune>> = Vec::new();
        for (plan, records) in &catalogue.prunes.executed {
            let deletes = deleted_by(records);
            let Some((id, why)) = gathered.spoiled_by(&deletes) else {
                finished.push(records);
                continue;
            };
            let what = format!(
                "plan {plan} is executed, and deletes snapshot {id} of {}, or what it uses",
                self.protected.name
            );
            self.warnings.insert(match self.spare(gathered, records, &deletes).await {
                Ok(()) => format!("{what}; it stays, as {why}, and is no longer in the plan"),
                Err(reason) => format!("{what}; it stays, as {why}; {reason}; recoup verify"),
            });
        }
        for signed in finished.iter().filter_map(|records| records.first()) {
            self.finish_record(catalogue, signed).await;
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

    /// Brings the record of an executed plan, and what lists its runs of a log, to the stores that lack it.
    async fn finish_record(&mut self, catalogue: &Catalogue, signed: &SignedPrune) {
        let (plan, sha256) = (signed.record.plan, signed.record.log_sha256);
        let (name, list_name) = (layout::prune_object(plan, Stage::Executed), layout::prune_list(plan));
        let has = |at: usize, name: &str| catalogue.listings[at].objects.contains_key(name);
        let lacks = |at: &usize| !has(*at, &name) || sha256.is_some() && !has(*at, &list_name);
        let lagging: Vec<usize> = catalogue.ready().filter(lacks).collect();
        if lagging.is_empty() {
            return;
        }
        let repository = &self.host.repository;
        let list = match sha256 {
            Some(sha256) => repository.find_list(&catalogue.source, (plan, sha256), &catalogue.listings).await,
            None => None,
        };
        for at in lagging {
            if let Err(why) = self.publish_on(at, signed, list.as_ref()).await {
                let store = catalogue.listings[at].store.clone();
                self.lags(&store, &why);
            }
        }
    }

    /// Takes out of an executed plan what must stay and is still there.
    async fn spare(&self, gathered: &Gathered, records: &[SignedPrune], deletes: &CondemnedSet) -> Result<(), String> {
        let first = records.first().ok_or("it has no record")?;
        let rest = gathered.but_what_stays(self.host, &first.record.condemned, deletes).await?;
        let (condemned, mut dropped) = first.record.condemned.split(&rest);
        dropped.extend(first.record.dropped.clone());
        let settled = PruneRecord {
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            condemned,
            dropped,
            ..first.record.clone()
        };
        let settled = self.sign(settled).map_err(|failure| failure.to_string())?;
        self.settle(records, &settled, &rest).await.map_err(|failure| failure.to_string())
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
