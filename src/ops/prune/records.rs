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
        prunes::{PruneList, SignedPrune, deleted_by, holders},
    },
    stores::{Problem, StoreError},
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::{collections::BTreeSet, time::Duration};

/// How often a record is looked at or written again that two hosts write at once.
const TRIES: u32 = 6;

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

    async fn publish_on(&self, at: usize, signed: &SignedPrune, list: Option<&PruneList>) -> Result<(), Unpublished> {
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

    /// Puts a record of a plan's execution on every store that has none yet, and gives it with those that stand there.
    pub(super) async fn vote(
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
        let vote = self.sign(record.clone())?;
        self.publish_with(&vote, list.as_ref()).await?;
        // One on every store, for good.
        let stores = (0..self.host.repository.stores.len()).collect();
        Ok((record, self.records_on(plan.record.plan, &stores, Some(&vote)).await?))
    }

    /// The records of a plan's execution that stand on these stores now, together with what lists their runs of a log, as
    /// far as a store has that. Where two hosts have written at once, and one has the signature and the other the record,
    /// `own` takes their place.
    async fn records_on(
        &self,
        plan: RunId,
        stores: &BTreeSet<usize>,
        own: Option<&SignedPrune>,
    ) -> Result<Vec<SignedPrune>, Failure> {
        let (repository, name) = (&self.host.repository, &self.protected.name);
        for attempt in 0..TRIES {
            if let Some(mut records) = repository.executed_records_on_each(name, plan, stores).await {
                repository.list_runs_of(name, &mut records).await;
                return Ok(records);
            }
            self.pause(attempt).await;
            for at in stores {
                if let Some(own) = own
                    && repository.read_prune(*at, name, plan, Stage::Executed).await.is_err()
                {
                    // If it is not taken, the next look says so.
                    let _ = self.publish_on(*at, own, None).await;
                }
            }
        }
        Err(Failure::new(Code::Store, format!("what prune plan {plan} of {name} deletes is not known"))
            .cause("its record cannot be read back from every store")
            .safe("nothing more of it was deleted")
            .next_step("recoup verify, then run the same command again"))
    }

    /// Gives another host, which writes the same at this moment, its turn.
    async fn pause(&self, attempt: u32) {
        let [chance] = self.host.world.random::<1>();
        tokio::time::sleep(Duration::from_millis((50 << attempt) + 4 * u64::from(chance))).await;
    }

    /// Makes every store that has a record of a plan's execution say that so much is deleted, or less, where another host
    /// drops more meanwhile; gives what that is. `base` says what is condemned and dropped in all.
    pub(super) async fn settle(
        &self,
        base: &PruneRecord,
        mut records: Vec<SignedPrune>,
        mut deletes: CondemnedSet,
    ) -> Result<CondemnedSet, Failure> {
        let (plan, name) = (base.plan, &self.protected.name);
        let unsettled = |cause: String| {
            let message = format!("what prune plan {plan} of {name} deletes is not settled on every store");
            Failure::new(Code::Store, message)
                .cause(cause)
                .safe("nothing more of it was deleted")
                .next_step(format!("{EVERY_STORE}; it goes on where this one stopped"))
        };
        let stores = holders(&records);
        for attempt in 0..TRIES {
            deletes = deleted_by(&records).intersection(&deletes);
            let differs = |signed: &&SignedPrune| CondemnedSet::of(&signed.record.condemned) != deletes;
            let differing: BTreeSet<usize> =
                records.iter().filter(differs).flat_map(|signed| signed.stores.iter().copied()).collect();
            if differing.is_empty() {
                return Ok(deletes);
            }
            if attempt > 0 {
                self.pause(attempt).await;
            }
            let settled = self.settled(base, &deletes)?;
            for at in differing {
                match self.replace_on(at, &settled).await {
                    Ok(()) => {}
                    // Another host writes there at this moment.
                    Err(error) if matches!(error.problem, Problem::Damaged(_)) => {}
                    Err(error) => {
                        let store = self.host.repository.stores[at].name();
                        return Err(unsettled(format!("store {store}: {}", head::reason(&error))));
                    }
                }
            }
            records = self.records_on(plan, &stores, Some(&settled)).await?;
        }
        Err(unsettled("another host writes its record again and again".to_owned()))
    }

    /// Puts a record in the place of another one; the signature first, as always.
    async fn replace_on(&self, at: usize, signed: &SignedPrune) -> Result<(), StoreError> {
        let (store, key) = (&self.host.repository.stores[at], self.key(signed));
        store.replace(&format!("{key}.sig"), signed.signature.clone(), &format::sha256(&signed.signature)).await?;
        store.replace(&key, signed.bytes.clone(), &signed.sha256).await.map(drop)
    }

    /// A record that deletes so much, of what a record condemns.
    fn settled(&self, base: &PruneRecord, deletes: &CondemnedSet) -> Result<SignedPrune, Failure> {
        let (condemned, mut dropped) = base.condemned.split(deletes);
        dropped.extend(base.dropped.clone());
        self.sign(PruneRecord {
            writer: self.host.key.fingerprint().to_string(),
            created_at: self.host.world.now(),
            condemned,
            dropped,
            ..base.clone()
        })
    }

    /// Puts the record of an executed plan, and what lists its runs of a log, on the stores that have none, and the same
    /// record on all of them; gives what it deletes, as the stores say it now.
    pub(super) async fn finish_record(
        &mut self,
        catalogue: &Catalogue,
        plan: RunId,
        records: &[SignedPrune],
    ) -> Result<Condemned, Failure> {
        let least = deleted_by(records);
        let deletes_least = |signed: &&SignedPrune| CondemnedSet::of(&signed.record.condemned) == least;
        let mut stores = holders(records);
        if let Some(signed) = records.iter().find(deletes_least).or(records.first()) {
            let (repository, source) = (&self.host.repository, &catalogue.source);
            let list = match signed.record.log_sha256 {
                Some(sha256) => repository.find_list(source, (plan, sha256), &catalogue.listings).await,
                None => None,
            };
            let name = layout::prune_list(plan);
            let is_unlisted = |at: usize| list.is_some() && !catalogue.listings[at].objects.contains_key(&name);
            let lacks = |at: &usize| !stores.contains(at) || is_unlisted(*at);
            for at in catalogue.ready().filter(lacks).collect::<Vec<_>>() {
                match self.publish_on(at, signed, list.as_ref()).await {
                    Ok(()) => drop(stores.insert(at)),
                    Err(Unpublished { why, .. }) => {
                        let store = catalogue.listings[at].store.clone();
                        self.lags(&store, &why);
                    }
                }
            }
        }
        let records = self.records_on(plan, &stores, None).await?;
        let (base, deletes) = (base_of(&records)?, deleted_by(&records));
        let deletes = self.settle(&base, records, deletes).await?;
        Ok(base.condemned.split(&deletes).0)
    }

    /// Takes out of an executed plan what must stay and is still there.
    pub(super) async fn spare(&self, gathered: &Gathered, plan: RunId, deletes: &CondemnedSet) -> Result<(), Failure> {
        let stores = match gathered.catalogue.prunes.executed.get(&plan) {
            Some(records) => holders(records),
            None => (0..self.host.repository.stores.len()).collect(),
        };
        let records = self.records_on(plan, &stores, None).await?;
        let base = base_of(&records)?;
        // What another host has taken out meanwhile stays out.
        let deletes = deleted_by(&records).intersection(deletes);
        let rest = gathered.but_what_stays(self.host, &base.condemned, &deletes).await.map_err(|cause| {
            let name = &self.protected.name;
            Failure::new(Code::Store, format!("what must stay of {name} is not taken out of prune plan {plan}"))
                .cause(cause)
                .safe("nothing of the plan is deleted")
                .next_step(format!(
                    "recoup verify {name}, recoup copy; what is lost for good need not be held any longer"
                ))
        })?;
        self.settle(&base, records, rest).await.map(drop)
    }
}

fn base_of(records: &[SignedPrune]) -> Result<PruneRecord, Failure> {
    let first = records.first().ok_or_else(|| Failure::internal("an executed plan has no record"))?;
    Ok(first.record.clone())
}
