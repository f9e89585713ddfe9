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

/// Why a record is not on a store.
pub(super) struct Unpublished {
    pub(super) why: String,
    is_full: bool,
}

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
        let publishing = (0..stores.len()).map(|at| self.publish_on(at, signed, list));
        let failed: Vec<(&str, Unpublished)> = stores
            .iter()
            .map(|store| store.name())
            .zip(join_all(publishing).await)
            .filter_map(|(store, published)| Some((store, published.err()?)))
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        let (plan, name) = (signed.record.plan, &self.protected.name);
        let full: Vec<&str> = failed.iter().filter(|(_, failed)| failed.is_full).map(|(store, _)| *store).collect();
        let reasons: Vec<String> =
            failed.iter().map(|(store, failed)| format!("store {store}: {}", failed.why)).collect();
        let way_on = if full.is_empty() {
            EVERY_STORE.to_owned()
        } else {
            format!(
                "make room for a few kilobytes on {} (what lies in its folder quarantine may go once nobody needs to look \
                 at it), then run the same command again: it frees what it deletes",
                full.join(" and ")
            )
        };
        Err(Failure::new(Code::Store, format!("prune plan {plan} of {name} is not on every store"))
            .cause(reasons.join("; "))
            .safe("nothing of it was deleted")
            .next_step(format!(
                "{way_on}; it goes on where this one stopped, and recoup prune {name} --cancel {plan} still drops the plan"
            )))
    }

    /// The key of a record.
    fn key(&self, signed: &SignedPrune) -> String {
        let name = layout::prune_object(signed.record.plan, signed.record.stage);
        format!("{}{name}", layout::source_folder(&self.protected.name))
    }

    pub(super) async fn publish_on(
        &self,
        at: usize,
        signed: &SignedPrune,
        list: Option<&PruneList>,
    ) -> Result<(), Unpublished> {
        let (repository, store) = (&self.host.repository, &self.host.repository.stores[at]);
        let status = head::status(store, repository.id).await;
        if let Some(why) = status.problem() {
            return Err(Unpublished { why, is_full: false });
        }
        let (plan, stage) = (signed.record.plan, signed.record.stage);
        let key = self.key(signed);
        let told = |error: StoreError| Unpublished {
            is_full: matches!(error.problem, Problem::Full(_)),
            why: head::reason(&error),
        };
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
                other = Some(store.get(&sig_key, MAX_SIGNATURE_BYTES as u64).await.map_err(told)?);
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
        if self.spare_what_stays(&look).await? {
            look = gather::gather(self.host, self.protected, self.state, self.request).await?;
        }
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
                "plan {} is executed, and nothing of it is deleted now: snapshot {id} of {} stays, as {why}",
                plan.record.plan, self.protected.name
            ));
            // What it uses is in use from now on, also for the next plan.
            return self.spare(&look, plan.record.plan, &deletes).await;
        }
        self.pruned.extend(deletes.snapshots());
        self.pruned_log.extend(goes.log);
        self.delete(&look.catalogue, &deletes).await;
        Ok(())
    }

    /// Takes what must stay now out of every executed plan, so that it comes back, and what it uses counts as used before
    /// any other plan is looked at. Says whether there was anything to take out.
    pub(super) async fn spare_what_stays(&mut self, gathered: &Gathered) -> Result<bool, Failure> {
        let mut spared = false;
        for (plan, records) in &gathered.catalogue.prunes.executed {
            let deletes = deleted_by(records);
            let Some((id, why)) = gathered.spoiled_by(&deletes) else { continue };
            self.spare(gathered, *plan, &deletes).await?;
            self.warnings.insert(format!(
                "plan {plan} is executed, and deletes snapshot {id} of {}, or what it uses; it stays, as {why}, and is no \
                 longer in the plan",
                self.protected.name
            ));
            spared = true;
        }
        Ok(spared)
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
        // One on every store, for good.
        let stores = (0..self.host.repository.stores.len()).collect();
        Ok((record, self.records_on(plan.record.plan, &stores).await?))
    }

    /// The records of a plan's execution that stand on these stores now.
    pub(super) async fn records_on(&self, plan: RunId, stores: &BTreeSet<usize>) -> Result<Vec<SignedPrune>, Failure> {
        self.records_now(plan, stores).await.ok_or_else(|| {
            Failure::new(Code::Store, format!("what prune plan {plan} of {} deletes is not known", self.protected.name))
                .cause("its record cannot be read back from every store")
                .safe("nothing more of it was deleted")
                .next_step("recoup verify, then run the same command again")
        })
    }

    /// The same; `None` where one of them cannot be read. Together with what lists their runs of a log, as far as a store has
    /// that.
    async fn records_now(&self, plan: RunId, stores: &BTreeSet<usize>) -> Option<Vec<SignedPrune>> {
        let (repository, name) = (&self.host.repository, &self.protected.name);
        let mut records = repository.executed_records_on_each(name, plan, stores).await?;
        for signed in &mut records {
            repository.complete_record(name, &mut signed.record).await;
        }
        Some(records)
    }

    /// Puts a record in the place of those that delete more, and makes sure that no other is left.
    pub(super) async fn settle(
        &self,
        records: &[SignedPrune],
        settled: &SignedPrune,
        deletes: &CondemnedSet,
    ) -> Result<(), Failure> {
        let differs = |signed: &SignedPrune| CondemnedSet::of(&signed.record.condemned) != *deletes;
        let (plan, name) = (settled.record.plan, &self.protected.name);
        let unsettled = |cause: String| {
            let message = format!("what prune plan {plan} of {name} deletes is not settled on every store");
            Failure::new(Code::Store, message)
                .cause(cause)
                .safe("nothing more of it was deleted")
                .next_step(format!("{EVERY_STORE}; it goes on where this one stopped"))
        };
        let stores = holders(records);
        let differing = records.iter().filter(|signed| differs(signed));
        let differing: BTreeSet<usize> = differing.flat_map(|signed| signed.stores.iter().copied()).collect();
        for at in &differing {
            let store = &self.host.repository.stores[*at];
            let key = self.key(settled);
            let signature = (format!("{key}.sig"), settled.signature.clone(), format::sha256(&settled.signature));
            for (key, bytes, sha256) in [signature, (key, settled.bytes.clone(), settled.sha256)] {
                if let Err(error) = store.replace(&key, bytes, &sha256).await {
                    return Err(unsettled(format!("store {}: {}", store.name(), head::reason(&error))));
                }
            }
        }
        if !differing.is_empty() {
            // Another host may have written there at the same time.
            let now = self.records_now(plan, &stores).await;
            if now.is_none_or(|now| now.iter().any(differs)) {
                return Err(unsettled("another host has written its record meanwhile".to_owned()));
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

    /// A record of a plan's execution that deletes what these all delete, or less.
    pub(super) fn settled(&self, records: &[SignedPrune], deletes: &CondemnedSet) -> Result<SignedPrune, Failure> {
        let first = &records.first().ok_or_else(|| Failure::internal("an executed plan has no record"))?.record;
        let (condemned, mut dropped) = first.condemned.split(deletes);
        dropped.extend(first.dropped.clone());
        self.sign(PruneRecord {
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            condemned,
            dropped,
            ..first.clone()
        })
    }

    /// Takes out of an executed plan what must stay and is still there.
    async fn spare(&self, gathered: &Gathered, plan: RunId, deletes: &CondemnedSet) -> Result<(), Failure> {
        let stores = match gathered.catalogue.prunes.executed.get(&plan) {
            Some(records) => holders(records),
            None => (0..self.host.repository.stores.len()).collect(),
        };
        let records = self.records_on(plan, &stores).await?;
        let condemned = records.first().map(|first| first.record.condemned.clone()).unwrap_or_default();
        // What another host has taken out meanwhile stays out.
        let now = deleted_by(&records);
        // Which runs of a log it deletes was perhaps not known before.
        let mut deletes = now.intersection(deletes);
        deletes.logs = now.logs;
        let rest = gathered.but_what_stays(self.host, &condemned, &deletes).await.map_err(|cause| {
            let name = &self.protected.name;
            Failure::new(Code::Store, format!("what must stay of {name} is not taken out of prune plan {plan}"))
                .cause(cause)
                .safe("nothing of the plan is deleted")
                .next_step(format!(
                    "recoup verify {name}, recoup copy; what is lost for good need not be held any longer"
                ))
        })?;
        self.settle(&records, &self.settled(&records, &rest)?, &rest).await
    }

    /// Deletes what is condemned from every store that shows it.
    pub(super) async fn delete(&mut self, catalogue: &Catalogue, condemned: &CondemnedSet) {
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
