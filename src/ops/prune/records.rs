//! The records of a prune on the stores: published on every one, the same on all of them.

use super::{
    execute::Pruning,
    gather::{EVERY_STORE, Gathered},
};
use crate::{
    core::{
        failure::{Code, Failure},
        id::RunId,
        prune::{Condemned, CondemnedSet, PruneRecord, Stage},
    },
    format::{
        self, prune as prune_format,
        signature::{self, MAX_SIGNATURE_BYTES},
    },
    repository::{
        catalogue::Catalogue,
        head, layout,
        prunes::{SignedPrune, deleted_by, holders},
    },
    stores::{Problem, StoreError},
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::collections::BTreeSet;

/// Why a record is not on a store.
struct Unpublished {
    why: String,
    is_full: bool,
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
        let publishing = (0..stores.len()).map(|at| self.publish_on(at, signed));
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

    async fn publish_on(&self, at: usize, signed: &SignedPrune) -> Result<(), Unpublished> {
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

    /// Puts a record of a plan's execution on every store that has none yet, and gives it with those that stand there.
    pub(super) async fn vote(
        &self,
        plan: &SignedPrune,
        condemned: Condemned,
        dropped: Condemned,
    ) -> Result<(PruneRecord, Vec<SignedPrune>), Failure> {
        let record = PruneRecord {
            stage: Stage::Executed,
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            condemned,
            dropped,
            ..plan.record.clone()
        };
        self.publish(&self.sign(record.clone())?).await?;
        // One on every store, for good.
        let stores = (0..self.host.repository.stores.len()).collect();
        Ok((record, self.records_on(plan.record.plan, &stores).await?))
    }

    /// The records of a plan's execution that stand on these stores now.
    async fn records_on(&self, plan: RunId, stores: &BTreeSet<usize>) -> Result<Vec<SignedPrune>, Failure> {
        let records = self.host.repository.executed_records_on_each(&self.protected.name, plan, stores).await;
        records.ok_or_else(|| {
            Failure::new(Code::Store, format!("what prune plan {plan} of {} deletes is not known", self.protected.name))
                .cause("its record cannot be read back from every store")
                .safe("nothing more of it was deleted")
                .next_step("recoup verify, then run the same command again")
        })
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
            let now = self.host.repository.executed_records_on_each(name, plan, &stores).await;
            if now.is_none_or(|now| now.iter().any(differs)) {
                return Err(unsettled("another host has written its record meanwhile".to_owned()));
            }
        }
        Ok(())
    }

    /// Puts the record of an executed plan on the stores that have none, and the same on all of them; gives what it
    /// deletes.
    pub(super) async fn finish_record(
        &mut self,
        catalogue: &Catalogue,
        plan: RunId,
        records: &[SignedPrune],
    ) -> Result<CondemnedSet, Failure> {
        let least = deleted_by(records);
        let deletes_least = |signed: &&SignedPrune| CondemnedSet::of(&signed.record.condemned) == least;
        let mut stores = holders(records);
        if let Some(signed) = records.iter().find(deletes_least).or(records.first()) {
            for at in catalogue.ready().filter(|at| !stores.contains(at)).collect::<Vec<_>>() {
                match self.publish_on(at, signed).await {
                    Ok(()) => drop(stores.insert(at)),
                    Err(Unpublished { why, .. }) => {
                        let store = catalogue.listings[at].store.clone();
                        self.lags(&store, &why);
                    }
                }
            }
        }
        let records = self.records_on(plan, &stores).await?;
        let deletes = deleted_by(&records);
        let settled = self.settled(&records, &deletes)?;
        self.settle(&records, &settled, &deletes).await?;
        Ok(deletes)
    }

    /// A record of a plan's execution that deletes what these all delete, or less.
    fn settled(&self, records: &[SignedPrune], deletes: &CondemnedSet) -> Result<SignedPrune, Failure> {
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
    pub(super) async fn spare(&self, gathered: &Gathered, plan: RunId, deletes: &CondemnedSet) -> Result<(), Failure> {
        let stores = match gathered.catalogue.prunes.executed.get(&plan) {
            Some(records) => holders(records),
            None => (0..self.host.repository.stores.len()).collect(),
        };
        let records = self.records_on(plan, &stores).await?;
        let condemned = records.first().map(|first| first.record.condemned.clone()).unwrap_or_default();
        // What another host has taken out meanwhile stays out.
        let deletes = deleted_by(&records).intersection(deletes);
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
}
