//! Prune plans and tombstones on the stores: `sources/<source>/prunes/<plan>/`.

use super::{
    Repository,
    catalogue::{Refusal, StoreListing, text_of},
    head::StoreStatus,
    layout,
};
use crate::{
    core::{
        id::{RunId, Sha256, SnapshotId, SourceName},
        prune::{CondemnedSet, PruneRecord, Stage},
    },
    format::{
        self, prune as prune_format,
        signature::{self, MAX_SIGNATURE_BYTES},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::Semaphore;

mod lists;

pub use lists::PruneList;

/// How many plans are read at once.
const CONCURRENT_READS: usize = 16;
/// How many records may be in memory while they are checked: each may be large.
const LARGE_READS: usize = 2;

/// A record that a trusted signer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPrune {
    /// What it says; of an executed plan together with what its list says, where that is of use.
    pub record: PruneRecord,
    /// The exact bytes.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256,
    /// The exact bytes of the signature.
    pub signature: Bytes,
    /// The stores, by position, that show this signature.
    pub stores: BTreeSet<usize>,
}

/// A record that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPrune {
    /// The store it lies on.
    pub store: String,
    /// The plan.
    pub plan: RunId,
    /// Which of its two records.
    pub stage: Stage,
    /// Why it is not accepted.
    pub why: Refusal,
}

/// When a snapshot was pruned, and by which plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// The plan.
    pub plan: RunId,
    /// When it was executed.
    pub at: crate::core::time::Timestamp,
}

/// The plans and tombstones of a source.
#[derive(Clone, Debug, Default)]
pub struct Prunes {
    /// Plans that no record says are executed.
    pub pending: BTreeMap<RunId, SignedPrune>,
    /// Records of executed plans. Two hosts may have executed one plan at once: then both records hold.
    pub executed: BTreeMap<RunId, Vec<SignedPrune>>,
    /// Records of plans whose execution was cut short, as far as can be told: see [`was_begun`]. They hide nothing, copy
    /// carries them nowhere, and the plan counts as pending: it is looked at again, and can be cancelled.
    pub unconfirmed: BTreeMap<RunId, Vec<SignedPrune>>,
    /// What was not accepted.
    pub refused: Vec<RefusedPrune>,
}

impl Prunes {
    /// The plans that are known, pending or executed.
    pub fn known(&self) -> BTreeSet<RunId> {
        self.pending.keys().chain(self.executed.keys()).chain(self.unconfirmed.keys()).copied().collect()
    }

    /// All records that are believed.
    pub fn records(&self) -> impl Iterator<Item = &PruneRecord> {
        let executed = self.executed.values().chain(self.unconfirmed.values()).flatten();
        self.pending.values().chain(executed).map(|signed| &signed.record)
    }

    /// What executed plans have deleted.
    ///
    /// Where two hosts executed one plan at once, and one of them dropped what the other deleted, only what both
    /// deleted counts: the rest may be kept for good reason.
    pub fn tombstones(&self) -> CondemnedSet {
        let mut all = CondemnedSet::default();
        self.executed.values().for_each(|records| all.extend(deleted_by(records)));
        all
    }

    /// What pending plans condemn.
    pub fn condemned(&self) -> CondemnedSet {
        let mut set = CondemnedSet::default();
        self.pending.values().for_each(|signed| set.add(&signed.record.condemned));
        set
    }

    /// What no new snapshot may use: whatever any plan has ever condemned. What one host has dropped from a plan,
    /// another that executes the same plan may not have.
    pub fn avoided(&self) -> CondemnedSet {
        let mut set = CondemnedSet::default();
        self.records().for_each(|record| {
            set.add(&record.condemned);
            set.add(&record.dropped);
        });
        set
    }

    /// Snapshots that any executed plan says are deleted: when, and by which.
    pub fn deleted(&self) -> BTreeMap<SnapshotId, Pruned> {
        let mut deleted = BTreeMap::new();
        for record in self.executed.values().flatten().map(|signed| &signed.record) {
            let pruned = Pruned { plan: record.plan, at: record.created_at };
            deleted.extend(record.condemned.snapshots.iter().map(|snapshot| (snapshot.id, pruned)));
        }
        deleted
    }

    /// The records that a store should hold. Where two hosts executed one plan at once, and were cut short, each store
    /// keeps the one that it has, and one that has none gets the one that deletes least.
    pub fn kept_on(&self, store: usize) -> impl Iterator<Item = (Stage, &SignedPrune)> {
        let pending = self.pending.values().map(|signed| (Stage::Planned, signed));
        let own = move |records: &&Vec<SignedPrune>| -> usize {
            let own = records.iter().position(|signed| signed.stores.contains(&store));
            let least = || {
                let least = deleted_by(records);
                records.iter().position(|signed| CondemnedSet::of(&signed.record.condemned) == least)
            };
            own.or_else(least).unwrap_or(0)
        };
        let executed = self.executed.values().filter_map(move |records| records.get(own(&records)));
        pending.chain(executed.map(|signed| (Stage::Executed, signed)))
    }

    /// The executed plans that name files of a log, each with the SHA-256 of what lists their runs: every store should
    /// hold that.
    pub fn lists(&self) -> impl Iterator<Item = (RunId, Sha256)> + '_ {
        let named = |records: &Vec<SignedPrune>| records.iter().find_map(|signed| signed.record.log_sha256);
        self.executed.iter().filter_map(move |(plan, records)| Some((*plan, named(records)?)))
    }

    /// Whether a record of the plan at this stage, or at a later one, is believed.
    pub fn knows(&self, plan: RunId, stage: Stage) -> bool {
        self.executed.contains_key(&plan) || stage == Stage::Planned && self.pending.contains_key(&plan)
    }
}

/// What the records of one executed plan have deleted.
pub fn deleted_by(records: &[SignedPrune]) -> CondemnedSet {
    let sets = records.iter().map(|signed| CondemnedSet::of(&signed.record.condemned));
    sets.reduce(|a, b| a.intersection(&b)).unwrap_or_default()
}

/// The stores that show records of a plan's execution, by position.
pub fn holders(records: &[SignedPrune]) -> BTreeSet<usize> {
    records.iter().flat_map(|signed| signed.stores.iter().copied()).collect()
}

/// What a store shows of a plan of whose execution some store has a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShownPlan {
    /// Whether it has the plan itself.
    pub(super) planned: bool,
    /// Whether it has a record of the execution that is believed.
    pub(super) executed: bool,
    /// Whether it shows any of what the plan deletes.
    pub(super) shows_any: bool,
    /// Whether it shows no more what every store had when the plan was made.
    pub(super) has_lost: bool,
}

impl ShownPlan {
    /// By the records of a plan's execution and what they all delete, the snapshots that a store shows, and whether it shows
    /// anything else of it.
    pub(super) fn new(
        planned: bool,
        executed: bool,
        (records, deleted): (&[SignedPrune], &CondemnedSet),
        shows: impl Fn(SnapshotId) -> bool,
        shows_else: impl FnOnce() -> bool,
    ) -> Self {
        if deleted.snapshots().is_empty() {
            let shows_any = shows_else();
            // A store may never have had any of the log: that it shows nothing of it proves nothing.
            let has_lost = !shows_any && !deleted.is_of_log();
            return ShownPlan { planned, executed, shows_any, has_lost };
        }
        let named = records.iter().take(1).flat_map(|first| &first.record.condemned.snapshots);
        let mut of_all = named.filter(|one| one.on_every_store && deleted.has_snapshot(one.id));
        let has_lost = of_all.any(|one| !shows(one.id));
        ShownPlan { planned, executed, shows_any: deleted.snapshots().iter().any(|id| shows(*id)), has_lost }
    }
}

/// Whether what a plan deletes is being deleted, or was, by what the stores show of it; `None` is a store that does not
/// answer.
///
/// Nothing is deleted before every store has the plan, and after it the record of its execution. So nothing was while a
/// store has the plan alone, or may have, unless one that has both shows that something is gone: what every store had, or
/// all of it, where no other shows any. A store in the place of one that was lost is brought the plan of no execution: that
/// it shows nothing proves nothing. Where the plan is nowhere any more, the word of one store alone is not believed against
/// all others.
pub(super) fn was_begun(stores: &[Option<ShownPlan>]) -> bool {
    let known = || stores.iter().flatten();
    if known().any(|shown| shown.planned) {
        let may_lack = |shown: &Option<ShownPlan>| shown.is_none_or(|shown| shown.planned && !shown.executed);
        let has_both = || known().filter(|shown| shown.planned && shown.executed);
        return !stores.iter().any(may_lack)
            || has_both().any(|shown| shown.has_lost)
            || has_both().next().is_some() && known().filter(|shown| shown.planned).all(|shown| !shown.shows_any);
    }
    let executed = known().filter(|shown| shown.executed).count();
    let is_whole = |shown: &Option<ShownPlan>| shown.is_none_or(|shown| shown.executed || !shown.has_lost);
    executed > 1 || executed == stores.len() || !stores.iter().all(is_whole)
}

/// Whether every store answers, and none shows anything of what a plan deletes: then it makes no difference who believes
/// that it was executed, and a record that one store alone has needs nobody's eyes.
fn is_nowhere(stores: &[Option<ShownPlan>]) -> bool {
    stores.iter().all(|shown| shown.is_some_and(|shown| !shown.shows_any))
}

/// The stores that show a record, by position.
type Holders = BTreeMap<RunId, Vec<usize>>;

impl Repository {
    /// Reads the plans and tombstones that the listings show.
    pub(super) async fn read_prunes(&self, source: &SourceName, listings: &[StoreListing]) -> Prunes {
        let mut holders: [Holders; 2] = Default::default();
        for (at, listing) in listings.iter().enumerate() {
            for (plan, stage) in listing.objects.keys().filter_map(|name| layout::prune_record(name)) {
                holders[stage as usize].entry(plan).or_default().push(at);
            }
        }
        let [mut planned, executed] = holders;
        let mut prunes = Prunes::default();
        let mut first_shown = None;
        for (plan, mut found) in self.read_stage(source, Stage::Executed, executed, &mut prunes.refused).await {
            let mut is_unknown = false;
            if found.iter().any(|signed| lists::is_unlisted(&signed.record)) {
                let first = first_shown.get_or_insert_with(|| lists::Shown::of(listings));
                is_unknown = self.complete_records(source, &mut found, first, listings).await;
            }
            let (known_to, deleted) = (self::holders(&found), deleted_by(&found));
            let is_unlisted = found.iter().any(|signed| lists::is_unlisted(&signed.record));
            // Of a list that nobody read, no store shows anything; of one that is nowhere, any of them may.
            let is_clear = deleted.is_of_log() && is_unlisted && !is_unknown;
            let shows_else = |listing: &StoreListing| {
                is_unknown || !is_clear && listing.objects.keys().any(|name| deleted.has_object(name))
            };
            let shown = |(at, listing): (usize, &StoreListing)| {
                (listing.status == StoreStatus::Ready).then(|| {
                    ShownPlan::new(
                        listing.objects.contains_key(&layout::prune_object(plan, Stage::Planned)),
                        known_to.contains(&at),
                        (&found, &deleted),
                        |id| listing.has_inventory(id),
                        || shows_else(listing),
                    )
                })
            };
            let shown: Vec<_> = listings.iter().enumerate().map(shown).collect();
            let begun = was_begun(&shown) || deleted.is_of_log() && is_nowhere(&shown);
            if begun { &mut prunes.executed } else { &mut prunes.unconfirmed }.insert(plan, found);
        }
        // A record that nobody trusted signed executes nothing, and nor does one of an execution that was cut short.
        planned.retain(|plan, _| !prunes.executed.contains_key(plan));
        for (plan, found) in self.read_stage(source, Stage::Planned, planned, &mut prunes.refused).await {
            prunes.pending.extend(found.into_iter().next().map(|signed| (plan, signed)));
        }
        prunes.refused.sort_by(|a, b| (a.plan, a.stage, &a.store).cmp(&(b.plan, b.stage, &b.store)));
        prunes
    }

    async fn read_stage(
        &self,
        source: &SourceName,
        stage: Stage,
        holders: Holders,
        refused: &mut Vec<RefusedPrune>,
    ) -> Vec<(RunId, Vec<SignedPrune>)> {
        let large = &Semaphore::new(LARGE_READS);
        let read = stream::iter(holders).map(|(plan, stores)| async move {
            let (found, refused) = self.read_prune_record(source, plan, stage, stores, large).await;
            (plan, found, refused)
        });
        let read: Vec<_> = read.buffer_unordered(CONCURRENT_READS).collect().await;
        let mut records = Vec::new();
        for (plan, found, not_accepted) in read {
            refused.extend(not_accepted);
            if !found.is_empty() {
                records.push((plan, found));
            }
        }
        records
    }

    /// Reads a record from stores that show it: every signature, which differs where the record does, and each record
    /// once.
    async fn read_prune_record(
        &self,
        source: &SourceName,
        plan: RunId,
        stage: Stage,
        stores: Vec<usize>,
        large: &Semaphore,
    ) -> (Vec<SignedPrune>, Vec<RefusedPrune>) {
        let (mut by_signature, mut refused) = (BTreeMap::<Bytes, Vec<usize>>::new(), Vec::new());
        let refuse = |at: usize, why| RefusedPrune { store: self.stores[at].name().to_owned(), plan, stage, why };
        for at in stores {
            match self.prune_signature(at, source, plan, stage).await {
                Ok(signature) => by_signature.entry(signature).or_default().push(at),
                Err(why) => refused.push(refuse(at, why)),
            }
        }
        let mut found = Vec::new();
        for (signature, stores) in by_signature {
            let _one_of_few = large.acquire().await.expect("it is never closed");
            for at in &stores {
                match self.signed_prune(*at, source, plan, stage, signature.clone()).await {
                    Ok(signed) => {
                        found.push(SignedPrune { stores: stores.iter().copied().collect(), ..signed });
                        break;
                    }
                    Err(why) => refused.push(refuse(*at, why)),
                }
            }
        }
        (found, refused)
    }

    /// The executed records of one plan that the stores at these positions show; `None` if any of them cannot be read.
    pub async fn executed_records(
        &self,
        source: &SourceName,
        plan: RunId,
        stores: &BTreeSet<usize>,
    ) -> Option<Vec<SignedPrune>> {
        let large = Semaphore::new(LARGE_READS);
        let stores = stores.iter().copied().collect();
        let (found, refused) = self.read_prune_record(source, plan, Stage::Executed, stores, &large).await;
        refused.is_empty().then_some(found)
    }

    /// The same, each read from every store that shows it.
    ///
    /// Whoever deletes by them must know what stands where: a store on which two hosts write at this moment may show the
    /// signature of one and the record of the other.
    pub async fn executed_records_on_each(
        &self,
        source: &SourceName,
        plan: RunId,
        stores: &BTreeSet<usize>,
    ) -> Option<Vec<SignedPrune>> {
        let mut records: Vec<SignedPrune> = Vec::new();
        for at in stores {
            let signed = self.read_prune(*at, source, plan, Stage::Executed).await.ok()?;
            match records.iter_mut().find(|known| known.bytes == signed.bytes && known.signature == signed.signature) {
                Some(known) => drop(known.stores.insert(*at)),
                None => records.push(signed),
            }
        }
        Some(records)
    }

    /// Reads one record from one store: signature first, then content, then whether it is where it belongs.
    pub(crate) async fn read_prune(
        &self,
        store: usize,
        source: &SourceName,
        plan: RunId,
        stage: Stage,
    ) -> Result<SignedPrune, Refusal> {
        let signature = self.prune_signature(store, source, plan, stage).await?;
        self.signed_prune(store, source, plan, stage, signature).await
    }

    async fn prune_signature(
        &self,
        store: usize,
        source: &SourceName,
        plan: RunId,
        stage: Stage,
    ) -> Result<Bytes, Refusal> {
        let name = format!("{}{}", layout::source_folder(source), layout::prune_object(plan, stage));
        match self.stores[store].get(&format!("{name}.sig"), MAX_SIGNATURE_BYTES as u64).await {
            Ok(signature) => {
                let principal = prune_format::principal(&self.id);
                let known = self.may_be_trusted(&name, text_of(&signature)?, signature::PRUNE, &principal).await;
                known.map_err(Refusal::untrusted)?;
                Ok(signature)
            }
            Err(error) if error.is_missing() => Err(Refusal::Untrusted("it has no signature".to_owned())),
            Err(error) => Err(Refusal::of_store(error)),
        }
    }

    async fn signed_prune(
        &self,
        store: usize,
        source: &SourceName,
        plan: RunId,
        stage: Stage,
        signature: Bytes,
    ) -> Result<SignedPrune, Refusal> {
        let key = format!("{}{}", layout::source_folder(source), layout::prune_object(plan, stage));
        let bytes = self.stores[store].get(&key, prune_format::MAX_BYTES).await.map_err(Refusal::of_store)?;
        let signed = self.accept_prune(source, plan, stage, bytes, signature)?;
        Ok(SignedPrune { stores: [store].into(), ..signed })
    }

    /// Checks a record: signed as the repository's pruner by a trusted signer, and in its own place.
    pub(crate) fn accept_prune(
        &self,
        source: &SourceName,
        plan: RunId,
        stage: Stage,
        bytes: Bytes,
        signature: Bytes,
    ) -> Result<SignedPrune, Refusal> {
        let principal = prune_format::principal(&self.id);
        let name = format!("{}{}", layout::source_folder(source), layout::prune_object(plan, stage));
        let signer = self
            .verify_signed(&name, &bytes, text_of(&signature)?, signature::PRUNE, &principal)
            .map_err(Refusal::untrusted)?;
        let record = prune_format::parse(&bytes)?;
        let is_in_place =
            record.repository == self.id && record.source == *source && record.plan == plan && record.stage == stage;
        if !is_in_place || record.writer != signer.as_str() {
            return Err(Refusal::Damaged("it is signed, and is not what its path says, or another's".to_owned()));
        }
        Ok(SignedPrune { sha256: format::sha256(&bytes), record, bytes, signature, stores: BTreeSet::new() })
    }

    /// The plans that a store shows and that are not `known`: what a backup looks at once it has committed there. Executed
    /// ones together with what they list of a log.
    ///
    /// What nobody trusted signed is passed over. What cannot be read is an error: it may condemn anything.
    pub async fn unknown_prunes(
        &self,
        store: usize,
        source: &SourceName,
        known: &BTreeSet<RunId>,
    ) -> Result<Vec<PruneRecord>, String> {
        let mut found = self.new_prunes(store, source, known).await?;
        for record in found.iter_mut().filter(|record| lists::is_unlisted(record)) {
            if !self.complete_record(source, record).await {
                let plan = record.plan;
                return Err(format!(
                    "prune plan {plan} is executed there, and no store lists what of the log it deletes"
                ));
            }
        }
        Ok(found)
    }

    /// The same without the lists.
    pub async fn new_prunes(
        &self,
        store: usize,
        source: &SourceName,
        known: &BTreeSet<RunId>,
    ) -> Result<Vec<PruneRecord>, String> {
        let folder = format!("{}{}", layout::source_folder(source), layout::PRUNES);
        let names = self.stores[store].list_directories(&folder).await.map_err(|error| error.to_string())?;
        let mut found = Vec::new();
        for plan in names.iter().filter_map(|name| name.parse::<RunId>().ok()).filter(|plan| !known.contains(plan)) {
            for stage in [Stage::Executed, Stage::Planned] {
                let key = format!("{}{}", layout::source_folder(source), layout::prune_object(plan, stage));
                match self.stores[store].size(&key).await {
                    Ok(_) => {}
                    // Not published here yet: then the second look comes later, and sees what was committed.
                    Err(error) if error.is_missing() => continue,
                    Err(error) => return Err(error.to_string()),
                }
                match self.read_prune(store, source, plan, stage).await {
                    Ok(signed) => {
                        found.push(signed.record);
                        break;
                    }
                    Err(Refusal::Untrusted(_) | Refusal::Damaged(_)) => {}
                    Err(why) => return Err(format!("prune plan {plan} there cannot be read: {why}")),
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_plan_counts_as_executed() {
        // p: has the plan; x: has the record; d: shows what it deletes; n: never had that.
        let store = |text: &&str| {
            let (planned, executed, shows_any) = (text.contains('p'), text.contains('x'), text.contains('d'));
            let has_lost = !shows_any && !text.contains('n');
            (*text != "silent").then_some(ShownPlan { planned, executed, shows_any, has_lost })
        };
        for (stores, expected) in [
            // Everywhere, and nothing is deleted yet; or all of it; or on some.
            (&["pxd", "pxd", "pxd"][..], true),
            (&["px", "px", "px"], true),
            (&["px", "pxd", "pd"], true),
            (&["px", "silent", "pxd"], true),
            (&["pxn", "silent", "pxn"], true),
            // The record of the third is damaged.
            (&["px", "px", "p"], true),
            (&["pxn", "pxn", "pn"], true),
            // Cut short while it was written.
            (&["pxd", "pd", "pd"], false),
            (&["pxd", "pxd", "pd"], false),
            (&["pxd", "silent", "pxd"], false),
            // It never had what the others still have.
            (&["pxn", "pd", "pd"], false),
            (&["pxn", "pxn", "pd"], false),
            (&["pxn", "pn", "pd"], false),
            // The third has a new disk: that it shows nothing says nothing.
            (&["pxd", "pd", ""], false),
            (&["pxd", "pxd", ""], true),
            (&["pxd", "pd", "x"], false),
            // Set back to before there was a plan; or everybody else has a new disk.
            (&["px", "d"], true),
            (&["x", "x", "d"], true),
            (&["x", "pd"], false),
            // One alone says so.
            (&["x", "d"], false),
            (&["xd", "d", "d"], false),
            (&["x", "silent"], false),
            (&["x", "", "d"], true),
            (&["x"], true),
        ] {
            let shown: Vec<Option<ShownPlan>> = stores.iter().map(store).collect();
            assert_eq!(was_begun(&shown), expected, "{stores:?}");
        }
    }
}
