//! Which snapshots are whole, on enough stores or on any: what they need of packs, and of the log.

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
        catalogue::{Catalogue, Needed, StoreListing},
        head::StoreStatus,
        layout,
        log::{NeededLog, committed, holders_of},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// The stores that hold each file of a log.
pub(super) type LogHolders = BTreeMap<LogFile, BTreeSet<String>>;

/// The stores that have committed a snapshot, and those that may have.
pub(super) fn holders(catalogue: &Catalogue, id: SnapshotId) -> BTreeSet<String> {
    let name = layout::snapshot_object(id, layout::INVENTORY);
    let holds = |status: &StoreStatus, shows: bool| match status {
        StoreStatus::Ready => shows,
        StoreStatus::Foreign(_) => false,
        _ => true,
    };
    let listings = catalogue.listings.iter();
    listings
        .filter(|listing| holds(&listing.status, listing.objects.contains_key(&name)))
        .map(|listing| listing.store.clone())
        .collect()
}

pub(super) async fn dated(
    host: &Host,
    protected: &Protected,
    known: &Known,
    catalogue: &Catalogue,
) -> BTreeMap<SnapshotId, Dated> {
    let places = host.repository.places();
    let mut dated = BTreeMap::new();
    for (id, committed) in &catalogue.snapshots {
        let mut durable = is_durable(&protected.policy.copies, &places, &holders(catalogue, *id));
        // It began before what a plan has taken of its log, and was acknowledged only if that is there all the same.
        let range = committed.inventory.log.as_ref();
        if let Some(range) = range.filter(|range| catalogue.tombstones.logs.reach(range).is_some()) {
            let needed = NeededLog::beside(range, &catalogue.tombstones.logs);
            let log = log_holders(&host.repository, known, catalogue, Some(needed)).await;
            durable &= log.values().all(|holders| is_durable(&protected.policy.copies, &places, holders));
        }
        let parents = committed.inventory.parents.iter().map(|parent| parent.id).collect();
        dated.insert(*id, Dated { created_at: committed.inventory.created_at, parents, durable });
    }
    dated
}

/// The newest snapshot that enough stores hold all of, and every newer one that they may hold all of.
pub(super) async fn newest_durable(
    host: &Host,
    protected: &Protected,
    known: &Known,
    catalogue: &mut Catalogue,
) -> (Option<SnapshotId>, BTreeSet<SnapshotId>) {
    let places = host.repository.places();
    let unasked: BTreeSet<String> = catalogue
        .listings
        .iter()
        .filter(|listing| !matches!(listing.status, StoreStatus::Ready | StoreStatus::Foreign(_)))
        .map(|listing| listing.store.clone())
        .collect();
    let mut perhaps = BTreeSet::new();
    let ids: Vec<SnapshotId> = catalogue.snapshots.keys().rev().copied().collect();
    for id in ids {
        let inventory = catalogue.snapshots[&id].inventory.clone();
        host.repository.read_runs(catalogue, &inventory.uses).await;
        let mut complete = catalogue.names(&catalogue.complete_on(&catalogue.snapshots[&id]));
        // What was found damaged is of the right size all the same.
        let needed = catalogue.needed(&catalogue.snapshots[&id]).unwrap_or_default();
        complete.retain(|store| !needed.iter().any(|object| is_damaged(known, store, &object.name)));
        let needed = inventory.log.as_ref().map(|range| NeededLog::beside(range, &catalogue.tombstones.logs));
        let log = log_holders(&host.repository, known, catalogue, needed).await;
        let is_enough = |also: &BTreeSet<String>| {
            let mut parts = log.values().chain([&complete]).map(|holders| holders.union(also).cloned().collect());
            parts.all(|holders| is_durable(&protected.policy.copies, &places, &holders))
        };
        if is_enough(&BTreeSet::new()) {
            return (Some(id), perhaps);
        }
        if perhaps.is_empty() && is_enough(&unasked) {
            perhaps.insert(id);
        }
    }
    (None, perhaps)
}

/// Whether the stores together have all that a snapshot needs, as far as is known; that too which none has alone.
pub(super) fn have_together(catalogue: &Catalogue, known: &Known, needed: &[Needed], log: &LogHolders) -> bool {
    let has = |listing: &StoreListing, object: &Needed| {
        let held = listing.objects.get(&object.name);
        held.is_some_and(|held| object.size.is_none_or(|size| size == *held))
            && !is_damaged(known, &listing.store, &object.name)
    };
    needed.iter().all(|object| catalogue.listings.iter().any(|listing| has(listing, object)))
        && log.values().all(|holders| !holders.is_empty())
}

/// Makes what nobody can restore any more count for nothing, so that it does not push out what somebody can. While a
/// store is silent, it may have what the others lack. Looks no further back than the rule counts.
pub(super) async fn discount_ruined(
    host: &Host,
    known: &Known,
    catalogue: &mut Catalogue,
    dated: &mut BTreeMap<SnapshotId, Dated>,
    keep_last: Option<u64>,
) {
    let mut wanted = keep_last.unwrap_or(0);
    if catalogue.ready().count() < catalogue.listings.len() {
        return;
    }
    for (id, dated) in dated.iter_mut().rev().filter(|(_, dated)| dated.durable) {
        if wanted == 0 {
            return;
        }
        let inventory = catalogue.snapshots[id].inventory.clone();
        host.repository.read_runs(catalogue, &inventory.uses).await;
        let needed = catalogue.needed(&catalogue.snapshots[id]);
        let own = inventory.log.as_ref().map(NeededLog::own);
        let log = log_holders(&host.repository, known, catalogue, own).await;
        dated.durable = needed.is_some_and(|needed| have_together(catalogue, known, &needed, &log));
        wanted -= u64::from(dated.durable);
    }
}

pub(super) fn is_damaged(known: &Known, store: &str, name: &str) -> bool {
    known.damaged.get(store).is_some_and(|damaged| damaged.contains(name))
}

/// The stores that hold each file that a snapshot needs of the log, as far as is known.
pub(super) async fn log_holders(
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
