//! Which snapshots are whole, on enough stores or on any: what they need of packs, and of the log. Every store has
//! answered: see [`super::gather`].

use crate::{
    core::{
        id::SnapshotId,
        log::{LogFile, LogRecordId},
        policy::is_durable,
        retention::Dated,
    },
    ops::{
        host::{Host, Protected},
        state::Known,
    },
    repository::{
        Repository,
        catalogue::{Catalogue, Committed, Needed, StoreListing},
        layout,
        log::{NeededLog, committed, holders_of},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The stores that hold each file of a log.
type LogHolders = BTreeMap<LogFile, BTreeSet<String>>;

/// What a snapshot needs, and who has what of it, as far as is known.
pub(super) struct Whereabouts {
    /// What it needs, but for the log; nothing where no store says what that is.
    needed: Vec<Needed>,
    log: LogHolders,
    /// The stores that have all of it, but for the log.
    complete: BTreeSet<String>,
}

impl Whereabouts {
    /// With as much of the log as no restore begins without.
    pub(super) async fn of(host: &Host, known: &Known, catalogue: &mut Catalogue, committed: &Committed) -> Self {
        let log = committed.inventory.log.as_ref().map(NeededLog::own);
        Self::with_log(host, known, catalogue, committed, log).await
    }

    async fn with_log(
        host: &Host,
        known: &Known,
        catalogue: &mut Catalogue,
        committed: &Committed,
        log: Option<NeededLog<'_>>,
    ) -> Self {
        host.repository.read_runs(catalogue, &committed.inventory.uses).await;
        let needed = catalogue.needed(committed).unwrap_or_default();
        let log = log_holders(&host.repository, known, catalogue, log).await;
        let mut complete = catalogue.names(&catalogue.complete_on(committed));
        // What was found damaged is of the right size all the same.
        complete.retain(|store| !needed.iter().any(|object| is_damaged(known, store, &object.name)));
        Whereabouts { needed, log, complete }
    }

    /// The stores that have each part.
    fn holders(&self) -> impl Iterator<Item = &BTreeSet<String>> {
        self.log.values().chain([&self.complete])
    }

    /// Whether enough stores have each part.
    fn are_durable(&self, host: &Host, protected: &Protected) -> bool {
        let places = host.repository.places();
        self.holders().all(|holders| is_durable(&protected.policy.copies, &places, holders))
    }

    /// The stores that have all of it.
    pub(super) fn whole(&self) -> BTreeSet<String> {
        let has_all = |store: &&String| self.holders().all(|holders| holders.contains(*store));
        self.complete.iter().filter(has_all).cloned().collect()
    }

    /// Whether the stores together have all of it; that too which none has alone.
    pub(super) fn is_anywhere(&self, catalogue: &Catalogue, known: &Known) -> bool {
        let has = |listing: &StoreListing, object: &Needed| {
            let held = listing.objects.get(&object.name);
            held.is_some_and(|held| object.size.is_none_or(|size| size == *held))
                && !is_damaged(known, &listing.store, &object.name)
        };
        !self.needed.is_empty()
            && self.needed.iter().all(|object| catalogue.listings.iter().any(|listing| has(listing, object)))
            && self.log.values().all(|holders| !holders.is_empty())
    }
}

/// The stores that have committed a snapshot, as far as names and sizes tell.
fn holders(catalogue: &Catalogue, committed: &Committed) -> BTreeSet<String> {
    let name = layout::snapshot_object(committed.inventory.id(), layout::INVENTORY);
    let (size, signature) = (committed.bytes.len() as u64, format!("{name}.sig"));
    let holds =
        |listing: &&StoreListing| listing.objects.get(&name) == Some(&size) && listing.objects.contains_key(&signature);
    catalogue.listings.iter().filter(holds).map(|listing| listing.store.clone()).collect()
}

pub(super) async fn dated(
    host: &Host,
    protected: &Protected,
    known: &Known,
    catalogue: &Catalogue,
) -> BTreeMap<SnapshotId, Dated> {
    let places = host.repository.places();
    // Also what was taken out of a plan again: it may have been deleted by then.
    let taken = catalogue.prunes.avoided().logs;
    let mut dated = BTreeMap::new();
    for (id, committed) in &catalogue.snapshots {
        let mut durable = is_durable(&protected.policy.copies, &places, &holders(catalogue, committed));
        // It began before what a plan has taken of its log, and was acknowledged only if that is there all the same.
        let range = committed.inventory.log.as_ref();
        if let Some(range) = range.filter(|range| taken.reach(range).is_some()) {
            let needed = NeededLog::beside(range, &taken);
            let log = log_holders(&host.repository, known, catalogue, Some(needed)).await;
            durable &= log.values().all(|holders| is_durable(&protected.policy.copies, &places, holders));
        }
        let parents = committed.inventory.parents.iter().map(|parent| parent.id).collect();
        dated.insert(*id, Dated { created_at: committed.inventory.created_at, parents, durable });
    }
    dated
}

/// The newest snapshot that enough stores hold all of.
pub(super) async fn newest_durable(
    host: &Host,
    protected: &Protected,
    known: &Known,
    catalogue: &mut Catalogue,
) -> Option<SnapshotId> {
    let ids: Vec<SnapshotId> = catalogue.snapshots.keys().rev().copied().collect();
    let taken = catalogue.prunes.avoided().logs;
    for id in ids {
        let committed = catalogue.snapshots[&id].clone();
        let range = committed.inventory.log.as_ref();
        let log = range.map(|range| NeededLog::beside(range, &taken));
        let whereabouts = Whereabouts::with_log(host, known, catalogue, &committed, log).await;
        if whereabouts.are_durable(host, protected) {
            return Some(id);
        }
    }
    None
}

/// Makes what enough stores only seem to hold count for nothing, so that it does not push out what they do hold: an
/// inventory alone, or something in its place, is no snapshot. Looks no further back than the rule counts.
pub(super) async fn discount_incomplete(
    host: &Host,
    protected: &Protected,
    known: &Known,
    catalogue: &mut Catalogue,
    dated: &mut BTreeMap<SnapshotId, Dated>,
    newest_durable: Option<SnapshotId>,
    keep_last: Option<u64>,
) {
    let mut wanted = keep_last.unwrap_or(0);
    for (id, dated) in dated.iter_mut().rev().filter(|(_, dated)| dated.durable) {
        // What is newer was looked at.
        if newest_durable.is_none_or(|newest| *id > newest) {
            dated.durable = false;
            continue;
        }
        if wanted == 0 {
            return;
        }
        let committed = catalogue.snapshots[id].clone();
        let whereabouts = Whereabouts::of(host, known, catalogue, &committed).await;
        dated.durable = whereabouts.are_durable(host, protected);
        wanted -= u64::from(dated.durable);
    }
}

fn is_damaged(known: &Known, store: &str, name: &str) -> bool {
    known.damaged.get(store).is_some_and(|damaged| damaged.contains(name))
}

/// The stores that hold each file that a snapshot needs of the log, as far as is known.
async fn log_holders(
    repository: &Repository,
    known: &Known,
    catalogue: &Catalogue,
    needed: Option<NeededLog<'_>>,
) -> LogHolders {
    let Some(needed) = needed else { return LogHolders::new() };
    let folder = layout::log_folder(needed.history());
    let mut records: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
    for at in catalogue.ready() {
        let names = catalogue.listings[at].objects.keys().map(String::as_str);
        let names: Vec<&str> = names.filter(|name| name.starts_with(&folder)).collect();
        for (_, id) in committed(names.into_iter()).into_iter().filter(|(file, _)| needed.has(*file)) {
            records.entry(id).or_default().insert(at);
        }
    }
    let survey = repository.read_log_records(&catalogue.source, records).await;
    let is_damaged = |at: usize, name: &str| is_damaged(known, &catalogue.listings[at].store, name);
    let holders = holders_of(catalogue, needed, &survey, is_damaged);
    holders.into_iter().map(|(file, stores)| (file, catalogue.names(&stores))).collect()
}
