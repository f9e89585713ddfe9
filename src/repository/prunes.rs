//! Prune plans and tombstones on the stores: `sources/<source>/prunes/<plan>/`.

use super::{
    Repository,
    catalogue::{Refusal, StoreListing, text_of},
    layout,
};
use crate::{
    core::{
        id::{RunId, Sha256, SnapshotId, SourceName},
        prune::{CondemnedSet, PruneRecord, Stage},
    },
    format::{
        self, FormatError, prune as prune_format,
        signature::{self, MAX_SIGNATURE_BYTES},
    },
    stores::{Problem, StoreError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};

/// How many records are read at once; each may be large.
const CONCURRENT_READS: usize = 2;

/// A record that a trusted signer signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedPrune {
    /// What it says.
    pub record: PruneRecord,
    /// The exact bytes.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256,
    /// The exact bytes of the signature.
    pub signature: Bytes,
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
    /// What was not accepted.
    pub refused: Vec<RefusedPrune>,
}

impl Prunes {
    /// The plans that are known, pending or executed.
    pub fn known(&self) -> BTreeSet<RunId> {
        self.pending.keys().chain(self.executed.keys()).copied().collect()
    }

    /// All records that are believed.
    pub fn records(&self) -> impl Iterator<Item = &PruneRecord> {
        self.pending.values().chain(self.executed.values().flatten()).map(|signed| &signed.record)
    }

    /// What executed plans have deleted.
    ///
    /// Where two hosts executed one plan at once, and one of them dropped what the other deleted, only what both
    /// deleted counts: the rest may be kept for good reason.
    pub fn tombstones(&self) -> CondemnedSet {
        let mut all = CondemnedSet::default();
        for records in self.executed.values() {
            let sets = records.iter().map(|signed| {
                let mut set = CondemnedSet::default();
                set.add(&signed.record.condemned);
                set
            });
            all.extend(sets.reduce(|a, b| a.intersection(&b)).unwrap_or_default());
        }
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

    /// The records that every store should hold, with their names.
    pub fn kept(&self) -> impl Iterator<Item = (Stage, &SignedPrune)> {
        let pending = self.pending.values().map(|signed| (Stage::Planned, signed));
        pending.chain(self.executed.values().filter_map(|records| Some((Stage::Executed, records.first()?))))
    }
}

/// The stores that show a record, by its size and their position.
type Holders = BTreeMap<RunId, BTreeMap<u64, Vec<usize>>>;

impl Repository {
    /// Reads the plans and tombstones that the listings show.
    pub(super) async fn read_prunes(&self, source: &SourceName, listings: &[StoreListing]) -> Prunes {
        let mut holders: [Holders; 2] = Default::default();
        for (at, listing) in listings.iter().enumerate() {
            for (name, size) in &listing.objects {
                if let Some((plan, stage)) = layout::prune_record(name) {
                    holders[stage as usize].entry(plan).or_default().entry(*size).or_default().push(at);
                }
            }
        }
        let [mut planned, executed] = holders;
        let mut prunes = Prunes::default();
        for (plan, found) in self.read_stage(source, Stage::Executed, executed, &mut prunes.refused).await {
            prunes.executed.insert(plan, found);
        }
        // A record that nobody trusted signed executes nothing.
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
        let read = stream::iter(holders).map(|(plan, by_size)| async move {
            let (mut found, mut refused) = (Vec::<SignedPrune>::new(), Vec::new());
            // One copy of each size: the same record nearly always, and then one read.
            for stores in by_size.into_values() {
                for at in stores {
                    match self.read_prune(at, source, plan, stage).await {
                        Ok(signed) => {
                            found.push(signed);
                            break;
                        }
                        Err(why) => {
                            let store = self.stores[at].name().to_owned();
                            refused.push(RefusedPrune { store, plan, stage, why });
                        }
                    }
                }
            }
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

    /// Reads one record from one store: signature first, then content, then whether it is where it belongs.
    pub(crate) async fn read_prune(
        &self,
        store: usize,
        source: &SourceName,
        plan: RunId,
        stage: Stage,
    ) -> Result<SignedPrune, Refusal> {
        let store = &self.stores[store];
        let key = format!("{}{}", layout::source_folder(source), layout::prune_object(plan, stage));
        let unreadable = |error: StoreError| match error.problem {
            Problem::Damaged(why) => Refusal::Damaged(why),
            _ => Refusal::Unreadable(error.to_string()),
        };
        let signature = match store.get(&format!("{key}.sig"), MAX_SIGNATURE_BYTES as u64).await {
            Ok(signature) => signature,
            Err(error) if error.is_missing() => return Err(Refusal::Untrusted("it has no signature".to_owned())),
            Err(error) => return Err(unreadable(error)),
        };
        self.signers.know(text_of(&signature)?).map_err(|error| Refusal::Untrusted(error.to_string()))?;
        let bytes = store.get(&key, prune_format::MAX_BYTES).await.map_err(unreadable)?;
        self.accept_prune(source, plan, stage, bytes, signature)
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
        let signer = self
            .signers
            .verify(&bytes, text_of(&signature)?, signature::PRUNE, &principal)
            .map_err(|error| Refusal::Untrusted(error.to_string()))?;
        let record = prune_format::parse(&bytes).map_err(|error| match error {
            FormatError::Newer { .. } => Refusal::Newer(error.to_string()),
            _ => Refusal::Damaged(error.to_string()),
        })?;
        let is_in_place =
            record.repository == self.id && record.source == *source && record.plan == plan && record.stage == stage;
        if !is_in_place || record.writer != signer.as_str() {
            return Err(Refusal::Damaged("it is signed, and is not what its path says, or another's".to_owned()));
        }
        Ok(SignedPrune { sha256: format::sha256(&bytes), record, bytes, signature })
    }

    /// The plans that a store shows and that are not `known`: what a backup looks at once it has committed there.
    ///
    /// What nobody trusted signed is passed over. What cannot be read is an error: it may condemn anything.
    pub async fn unknown_prunes(
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
