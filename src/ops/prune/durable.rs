//! Which snapshots are whole, on enough stores or on any: what they need of packs, and of the log. Every store has
//! answered: see [`super::gather`].

use crate::{
    core::{
        id::SnapshotId,
        log::{LogFile, LogRange, LogRecordId},
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
        log::{HeldLog, committed},
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
    pub(super) async fn of(host: &Host, known: &Known, catalogue: &mut Catalogue, committed: &Committed) -> Self {
        host.repository.read_runs(catalogue, &committed.inventory.uses).await;
        let needed = catalogue.needed(committed).unwrap_or_default();
        let log = log_holders(&host.repository, known, catalogue, committed.inventory.log.as_ref()).await;
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

pub(super) fn dated(host: &Host, protected: &Protected, catalogue: &Catalogue) -> BTreeMap<SnapshotId, Dated> {
    let places = host.repository.places();
    let of = |(id, committed): (&SnapshotId, &Committed)| {
        let durable = is_durable(&protected.policy.copies, &places, &holders(catalogue, committed));
        let parents = committed.inventory.parents.iter().map(|parent| parent.id).collect();
        (*id, Dated { created_at: committed.inventory.created_at, parents, durable })
    };
    catalogue.snapshots.iter().map(of).collect()
}

/// The newest snapshot that enough stores hold all of.
pub(super) async fn newest_durable(
    host: &Host,
    protected: &Protected,
    known: &Known,
    catalogue: &mut Catalogue,
) -> Option<SnapshotId> {
    let ids: Vec<SnapshotId> = catalogue.snapshots.keys().rev().copied().collect();
    for id in ids {
        let committed = catalogue.snapshots[&id].clone();
        let whereabouts = Whereabouts::of(host, known, catalogue, &committed).await;
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

/// The stores that hold each file of a snapshot's own part of the log, from where its copy began to where it ended: as a
/// record says that is believed, of the right size, and not known to be damaged. Without it no restore begins.
async fn log_holders(
    repository: &Repository,
    known: &Known,
    catalogue: &Catalogue,
    range: Option<&LogRange>,
) -> LogHolders {
    let Some(range) = range else { return LogHolders::new() };
    let mut holders: LogHolders = range.needed().into_iter().map(|file| (file, BTreeSet::new())).collect();
    let folder = layout::log_folder(range.history);
    let mut records: BTreeMap<LogRecordId, BTreeSet<usize>> = BTreeMap::new();
    for at in catalogue.ready() {
        let names = catalogue.listings[at].objects.keys().map(String::as_str);
        let names: Vec<&str> = names.filter(|name| name.starts_with(&folder)).collect();
        for (_, id) in committed(names.into_iter()).into_iter().filter(|(file, _)| holders.contains_key(file)) {
            records.entry(id).or_default().insert(at);
        }
    }
    let survey = repository.read_log_records(&catalogue.source, records).await;
    let refused: BTreeSet<_> = survey.refused.iter().map(|refused| (refused.id, refused.store)).collect();
    for (id, HeldLog { signed, stores }) in &survey.records {
        let record_name = layout::log_record(*id);
        for entry in &signed.record.files {
            let Some(of_file) = holders.get_mut(&entry.file) else { continue };
            let name = layout::log_file(id.history, entry.file, id.run);
            for at in stores.iter().filter(|at| !refused.contains(&(*id, **at))) {
                let listing = &catalogue.listings[*at];
                let is_right = listing.objects.get(&name) == Some(&entry.size)
                    && ![&name, &record_name].iter().any(|name| is_damaged(known, &listing.store, name));
                if is_right {
                    of_file.insert(listing.store.clone());
                }
            }
        }
    }
    holders
}
