//! What the stores hold of one source: listings, committed snapshots with checked signatures, object lists.

use super::{
    Repository,
    fetch::{Detour, Detours, Wanted},
    head::{self, StoreStatus},
    layout,
    prunes::{Pruned, Prunes},
};
use crate::{
    core::{
        id::{RunId, Sha256, SnapshotId, SourceName},
        inventory::{Inventory, Parent, Use},
        policy::{Copies, is_durable},
        prune::CondemnedSet,
    },
    format::{
        self, FormatError, inventory as inventory_format,
        objects::{self, ObjectKind, RunObjects},
        signature::{self, MAX_SIGNATURE_BYTES},
    },
    stores::{Problem, StoreError},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// How many small objects are asked for at once.
const CONCURRENT_READS: usize = 16;
/// How often the stores are looked at where something vanishes meanwhile.
const LOOKS: usize = 3;
/// How many MiB of them may be in memory at once: a store that lies may show any number of large ones.
const READ_BUDGET_MIB: u32 = 64;

/// What one store holds of a source.
#[derive(Clone, Debug)]
pub struct StoreListing {
    /// The store's name.
    pub store: String,
    /// Whether it could be read.
    pub status: StoreStatus,
    /// Sizes by name, relative to the source's folder.
    pub objects: HashMap<String, u64>,
}

impl StoreListing {
    /// Whether it lists an inventory of a snapshot, good or not.
    pub fn has_inventory(&self, id: SnapshotId) -> bool {
        self.objects.contains_key(&layout::snapshot_object(id, layout::INVENTORY))
    }
}

/// A committed snapshot that a trusted signer signed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its inventory.
    pub inventory: Inventory,
    /// The exact bytes of `inventory.json`.
    pub bytes: Bytes,
    /// SHA-256 of them.
    pub sha256: Sha256,
    /// The exact bytes of the signature.
    pub signature: Bytes,
}

/// Something that claims to be a snapshot and was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The store it lies on.
    pub store: String,
    /// The snapshot it claims to be.
    pub id: SnapshotId,
    /// Why it is not accepted.
    pub why: Refusal,
}

/// Why a snapshot was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody trusted signed it.
    Untrusted(String),
    /// It is damaged, or signed but not what its path says.
    Damaged(String),
    /// It is a good record of evidence, or inventory, that was written for another place: a copy, which no fault of a disk
    /// makes.
    Misplaced(String),
    /// It is of a newer format.
    Newer(String),
    /// The store did not give it.
    Unreadable(String),
}

impl Refusal {
    /// A signature does not count.
    pub(super) fn untrusted(error: signature::SignatureError) -> Self {
        Refusal::Untrusted(error.to_string())
    }

    /// A store did not give it; or it answers, and what it gives is larger than any, or cannot be read off its disk.
    pub(super) fn of_store(error: StoreError) -> Self {
        match error.problem {
            Problem::Damaged(why) => Refusal::Damaged(why),
            _ => Refusal::Unreadable(error.to_string()),
        }
    }

    /// The word for it in findings.
    pub fn problem(&self) -> crate::core::result::Problem {
        use crate::core::result::Problem;
        match self {
            Refusal::Untrusted(_) => Problem::Foreign,
            Refusal::Damaged(_) | Refusal::Misplaced(_) => Problem::Damaged,
            Refusal::Newer(_) | Refusal::Unreadable(_) => Problem::Unreachable,
        }
    }
}

impl From<FormatError> for Refusal {
    fn from(error: FormatError) -> Self {
        match error {
            FormatError::Newer { .. } => Refusal::Newer(error.to_string()),
            _ => Refusal::Damaged(error.to_string()),
        }
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Untrusted(why)
            | Refusal::Damaged(why)
            | Refusal::Misplaced(why)
            | Refusal::Newer(why)
            | Refusal::Unreadable(why) => formatter.write_str(why),
        }
    }
}

/// An object that a snapshot needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Needed {
    /// Name relative to the source's folder.
    pub name: String,
    /// Bytes; `None` where only the digest is known.
    pub size: Option<u64>,
    /// SHA-256.
    pub sha256: Sha256,
}

/// Everything known about one source on the stores.
pub struct Catalogue {
    /// The source.
    pub source: SourceName,
    /// One listing a store, in the repository's order.
    pub listings: Vec<StoreListing>,
    /// Committed, signed snapshots. Those that were pruned are none any more, wherever they still lie.
    pub snapshots: BTreeMap<SnapshotId, Committed>,
    /// Snapshots of which an executed plan has deleted a part, and what that is: they were never acknowledged.
    pub spoilt: BTreeMap<SnapshotId, (Committed, String)>,
    /// Snapshots that need what an executed plan deletes, and that stay: see [`Catalogue::set_spoilt_aside`].
    pub unheeding: BTreeSet<SnapshotId>,
    /// Prune plans and tombstones.
    pub prunes: Prunes,
    /// What executed plans have deleted.
    pub tombstones: CondemnedSet,
    deleted: BTreeMap<SnapshotId, Pruned>,
    /// What was not accepted.
    pub refused: Vec<Refused>,
    /// Object lists of used runs, checked against the digests in signed inventories.
    pub runs: BTreeMap<(RunId, Sha256), RunObjects>,
    /// How many bytes each of those lists has.
    list_bytes: BTreeMap<(RunId, Sha256), u64>,
    /// What reading had to go round, but for those lists.
    pub detours: Detours,
    /// The same of each of those lists: what another snapshot uses says nothing of this one.
    list_detours: BTreeMap<(RunId, Sha256), Detours>,
}

impl Repository {
    /// Reads what the stores hold of a source. A store that cannot be read is listed as such, nothing more.
    pub async fn catalogue(&self, source: &SourceName) -> Catalogue {
        self.catalogue_with(source, &BTreeSet::new()).await
    }

    /// The same, as it will be once the stores at the positions `founded` have their `recoup.json` again.
    pub async fn catalogue_with(&self, source: &SourceName, founded: &BTreeSet<usize>) -> Catalogue {
        let mut catalogue = self.inventories(source, founded).await;
        let used = |committed: &Committed| committed.inventory.uses.clone();
        let wanted = catalogue.snapshots.values().flat_map(used).collect::<Vec<_>>();
        self.read_runs(&mut catalogue, &wanted).await;
        catalogue
    }

    /// The same without the object lists of runs: enough to know what uses what.
    ///
    /// The stores are listed one beside the other, and a prune may delete meanwhile: what one still shows, and another has
    /// not said yet that it goes, would look lost. Where something vanishes between two looks there is another one.
    pub async fn inventories(&self, source: &SourceName, founded: &BTreeSet<usize>) -> Catalogue {
        for _ in 1..LOOKS {
            let (catalogue, vanished) = self.look(source, founded).await;
            if !vanished {
                return catalogue;
            }
        }
        self.look(source, founded).await.0
    }

    /// What the stores list of a source, and the plans and tombstones that they show.
    pub async fn prunes(&self, source: &SourceName) -> (Vec<StoreListing>, Prunes) {
        let listings = self.listings(source, &BTreeSet::new()).await;
        let prunes = self.read_prunes(source, &listings).await;
        (listings, prunes)
    }

    async fn listings(&self, source: &SourceName, founded: &BTreeSet<usize>) -> Vec<StoreListing> {
        futures_util::future::join_all(self.stores.iter().enumerate().map(|(at, store)| async move {
            let mut listing =
                StoreListing { store: store.name().to_owned(), status: StoreStatus::Ready, objects: HashMap::new() };
            if !founded.contains(&at) {
                listing.status = head::status(store, self.id).await;
            }
            if listing.status == StoreStatus::Ready {
                let folder = layout::source_folder(source);
                match store.list(&folder).await {
                    Ok(found) => {
                        let relative = |(key, size): (String, u64)| Some((key.strip_prefix(&folder)?.to_owned(), size));
                        listing.objects = found.into_iter().filter_map(relative).collect();
                    }
                    Err(error) => listing.status = StoreStatus::Down(head::reason(&error)),
                }
            }
            listing
        }))
        .await
    }

    /// One look, and whether something was gone before it was read.
    async fn look(&self, source: &SourceName, founded: &BTreeSet<usize>) -> (Catalogue, bool) {
        let listings = self.listings(source, founded).await;
        let prunes = self.read_prunes(source, &listings).await;
        let mut catalogue = Catalogue {
            source: source.clone(),
            listings,
            snapshots: BTreeMap::new(),
            spoilt: BTreeMap::new(),
            unheeding: BTreeSet::new(),
            tombstones: prunes.tombstones(),
            deleted: prunes.deleted(),
            prunes,
            refused: Vec::new(),
            runs: BTreeMap::new(),
            list_bytes: BTreeMap::new(),
            detours: Detours::default(),
            list_detours: BTreeMap::new(),
        };
        let vanished = self.read_snapshots(&mut catalogue).await;
        catalogue.set_spoilt_aside();
        (catalogue, vanished)
    }

    /// Reads what is committed, and says whether something was gone before it was read.
    async fn read_snapshots(&self, catalogue: &mut Catalogue) -> bool {
        let mut holders: BTreeMap<SnapshotId, Vec<usize>> = BTreeMap::new();
        for (at, listing) in catalogue.listings.iter().enumerate() {
            let committed = listing.objects.keys().filter_map(|name| layout::committed_snapshot(name));
            for id in committed.filter(|id| !catalogue.tombstones.has_snapshot(*id)) {
                holders.entry(id).or_default().push(at);
            }
        }
        let (source, listings) = (&catalogue.source, &catalogue.listings);
        let budget = &Budget::new();
        let read = stream::iter(holders).map(|(id, stores)| async move {
            let _held = budget.take(listings, &layout::snapshot_object(id, layout::INVENTORY)).await;
            let (mut refused, mut vanished) = (Vec::new(), false);
            for at in stores {
                match self.read_snapshot(at, source, id).await {
                    Ok(committed) => return (id, Some(committed), refused, vanished),
                    // Deleted since it was listed, as by a prune that runs at the same time.
                    Err(Refusal::Unreadable(_) | Refusal::Untrusted(_)) if self.is_gone(at, source, id).await => {
                        vanished = true;
                    }
                    Err(why) => refused.push(Refused { store: self.stores[at].name().to_owned(), id, why }),
                }
            }
            (id, None, refused, vanished)
        });
        let read: Vec<_> = read.buffer_unordered(CONCURRENT_READS).collect().await;
        let mut any_vanished = false;
        for (id, committed, refused, vanished) in read {
            any_vanished |= vanished;
            catalogue.refused.extend(refused);
            if let Some(committed) = committed {
                catalogue.snapshots.insert(id, committed);
            }
        }
        catalogue.refused.sort_by(|a, b| (a.id, &a.store).cmp(&(b.id, &b.store)));
        any_vanished
    }

    async fn is_gone(&self, store: usize, source: &SourceName, id: SnapshotId) -> bool {
        let key = format!("{}{}", layout::source_folder(source), layout::snapshot_object(id, layout::INVENTORY));
        self.stores[store].size(&key).await.is_err_and(|error| error.is_missing())
    }

    /// Reads one inventory from one store: signature first, then content, then whether it is where it belongs.
    ///
    /// What has no signature of a signer that is known here, and is not vouched for, is not even fetched: anybody who
    /// can write to a store can put any number of large ones there.
    pub(crate) async fn read_snapshot(
        &self,
        store: usize,
        source: &SourceName,
        id: SnapshotId,
    ) -> Result<Committed, Refusal> {
        let folder = layout::source_folder(source);
        let store = &self.stores[store];
        let key = format!("{folder}{}", layout::snapshot_object(id, layout::SIGNATURE));
        let signature = match store.get(&key, MAX_SIGNATURE_BYTES as u64).await {
            Ok(signature) => signature,
            Err(error) if error.is_missing() => {
                return Err(Refusal::Untrusted("it has no signature".to_owned()));
            }
            Err(error) => return Err(Refusal::of_store(error)),
        };
        let key = format!("{folder}{}", layout::snapshot_object(id, layout::INVENTORY));
        let principal = signature::principal(source, &self.id);
        let known = self.may_be_trusted(&key, text_of(&signature)?, signature::INVENTORY, &principal).await;
        known.map_err(Refusal::untrusted)?;
        let bytes = store.get(&key, inventory_format::MAX_BYTES).await.map_err(Refusal::of_store)?;
        self.accept(source, id, bytes, signature)
    }

    /// Checks an inventory: signed for this source of this repository by a trusted signer, and in its own place.
    pub(crate) fn accept(
        &self,
        source: &SourceName,
        id: SnapshotId,
        bytes: Bytes,
        signature: Bytes,
    ) -> Result<Committed, Refusal> {
        let text = text_of(&signature)?;
        let principal = signature::principal(source, &self.id);
        let name = format!("{}{}", layout::source_folder(source), layout::snapshot_object(id, layout::INVENTORY));
        let signer =
            self.verify_signed(&name, &bytes, text, signature::INVENTORY, &principal).map_err(Refusal::untrusted)?;
        let inventory = inventory_format::parse(&bytes)?;
        if inventory.repository != self.id || inventory.source != *source || inventory.id() != id {
            return Err(Refusal::Misplaced(format!(
                "it is the inventory of {} of {} in repository {}, not of what its path says",
                inventory.id(),
                inventory.source,
                inventory.repository
            )));
        }
        if inventory.writer != signer.as_str() {
            return Err(Refusal::Damaged(format!(
                "it names {} as its writer, and {signer} signed it",
                inventory.writer
            )));
        }
        Ok(Committed { sha256: format::sha256(&bytes), inventory, bytes, signature })
    }

    /// Reads the object lists of what is used, as far as they are not known.
    pub async fn read_runs(&self, catalogue: &mut Catalogue, used: &[Use]) {
        let wanted: BTreeSet<(RunId, Sha256)> = used
            .iter()
            .map(|used| (used.run, used.objects_sha256))
            .filter(|run| !catalogue.runs.contains_key(run))
            .collect();
        let (source, listings, detours) = (&catalogue.source, &catalogue.listings, &catalogue.detours);
        let budget = &Budget::new();
        let folder = layout::source_folder(source);
        let read = stream::iter(wanted).map(|(run, sha256)| {
            let name = layout::run_object(run, layout::OBJECTS);
            let key = format!("{folder}{name}");
            let detours = detours.apart();
            async move {
                let _held = budget.take(listings, &name).await;
                let wanted = Wanted { key: &key, size: None, sha256, max_bytes: objects::MAX_BYTES };
                let bytes = self.fetch(wanted, &detours).await.ok();
                let list = bytes.and_then(|bytes| Some((RunObjects::parse(&bytes).ok()?, bytes.len() as u64)));
                let matches =
                    |list: &RunObjects| list.run == run && list.source == *source && list.repository == self.id;
                ((run, sha256), detours, list.filter(|(list, _)| matches(list)))
            }
        });
        let read: Vec<_> = read.buffer_unordered(CONCURRENT_READS).collect().await;
        for (run, detours, list) in read {
            catalogue.list_detours.insert(run, detours);
            if let Some((list, bytes)) = list {
                catalogue.runs.insert(run, list);
                catalogue.list_bytes.insert(run, bytes);
            }
        }
    }
}

pub(super) fn text_of(signature: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(signature)
        .map_err(|_| Refusal::Untrusted("its signature is not one of ssh-keygen's".to_owned()))
}

/// Memory for objects that are being read, in MiB.
struct Budget(Semaphore);

impl Budget {
    fn new() -> Self {
        Budget(Semaphore::new(READ_BUDGET_MIB as usize))
    }

    /// Waits until there is room for the largest object that any store shows under this name.
    async fn take(&self, listings: &[StoreListing], name: &str) -> SemaphorePermit<'_> {
        let largest = listings.iter().filter_map(|listing| listing.objects.get(name)).max();
        let mib = largest.map_or(0, |bytes| bytes >> 20).saturating_add(1).min(u64::from(READ_BUDGET_MIB));
        self.0.acquire_many(mib as u32).await.expect("it is never closed")
    }
}

impl Catalogue {
    /// When a snapshot was pruned, if it was.
    pub fn pruned(&self, id: SnapshotId) -> Option<Pruned> {
        self.deleted.get(&id).filter(|_| !self.snapshots.contains_key(&id)).copied()
    }

    /// The snapshots that were pruned.
    pub fn all_pruned(&self) -> impl Iterator<Item = SnapshotId> + '_ {
        self.deleted.keys().filter(|id| !self.snapshots.contains_key(id)).copied()
    }

    /// Whether it is known what became of a snapshot that the stores do not show as whole.
    pub fn is_settled(&self, id: SnapshotId) -> bool {
        let is_gone = !self.snapshots.contains_key(&id) && self.tombstones.leaves_nothing_of(id);
        is_gone || self.pruned(id).is_some() || self.spoilt.contains_key(&id)
    }

    /// What reading had to go round that matters for a snapshot.
    pub fn detours_of(&self, committed: &Committed) -> Vec<Detour> {
        self.reading_of(committed).flat_map(Detours::list).collect()
    }

    /// What reading had to go round, of anything.
    pub fn all_detours(&self) -> Vec<Detour> {
        iter::once(&self.detours).chain(self.list_detours.values()).flat_map(Detours::list).collect()
    }

    /// The stores that gave something of a snapshot, by name.
    pub fn given_by(&self, committed: &Committed) -> BTreeSet<String> {
        self.reading_of(committed).flat_map(Detours::given_by).collect()
    }

    fn reading_of<'c>(&'c self, committed: &'c Committed) -> impl Iterator<Item = &'c Detours> {
        let lists =
            committed.inventory.uses.iter().filter_map(|used| self.list_detours.get(&(used.run, used.objects_sha256)));
        iter::once(&self.detours).chain(lists)
    }

    /// The object list of a used run; `None` when no store gave it intact.
    pub fn run(&self, used: &Use) -> Option<&RunObjects> {
        self.runs.get(&(used.run, used.objects_sha256))
    }

    /// Everything that a snapshot needs, by name; `None` when an object list is lost.
    pub fn needed(&self, committed: &Committed) -> Option<Vec<Needed>> {
        let inventory = &committed.inventory;
        let mut needed = Vec::new();
        for used in &inventory.uses {
            needed.push(Needed {
                name: layout::run_object(used.run, layout::OBJECTS),
                size: self.list_bytes.get(&(used.run, used.objects_sha256)).copied(),
                sha256: used.objects_sha256,
            });
            let list = self.run(used)?;
            let packs = list.objects.iter().filter(|object| is_pack_in(object, used)).count() as u64;
            if packs != used.packs.count() {
                return None; // the list does not know a pack that the inventory uses
            }
            for object in list.objects.iter().filter(|object| is_needed(object, used)) {
                let name = layout::run_object(used.run, &object.name);
                needed.push(Needed { name, size: Some(object.size), sha256: object.sha256 });
            }
        }
        let manifest = &inventory.manifest;
        needed.push(Needed { name: manifest.name.clone(), size: Some(manifest.size), sha256: manifest.sha256 });
        let [_, signature, inventory_name] = layout::commit_names(inventory);
        for (name, bytes) in [(signature, &committed.signature), (inventory_name, &committed.bytes)] {
            needed.push(Needed { name, size: Some(bytes.len() as u64), sha256: format::sha256(bytes) });
        }
        Some(needed)
    }

    /// The names among `needed` that a store lacks or holds in another size. No byte is read for this.
    pub fn lacking<'a>(&self, store: usize, needed: &'a [Needed]) -> Vec<&'a Needed> {
        let held = &self.listings[store].objects;
        needed
            .iter()
            .filter(|object| match (held.get(&object.name), object.size) {
                (None, _) => true,
                (Some(found), Some(size)) => *found != size,
                (Some(_), None) => false,
            })
            .collect()
    }

    /// The stores, by position, that hold all of a snapshot, as far as listings tell.
    pub fn complete_on(&self, committed: &Committed) -> BTreeSet<usize> {
        let Some(needed) = self.needed(committed) else {
            return BTreeSet::new();
        };
        (0..self.listings.len())
            .filter(|store| {
                self.listings[*store].status == StoreStatus::Ready && self.lacking(*store, &needed).is_empty()
            })
            .collect()
    }

    /// The names of stores.
    pub fn names(&self, stores: &BTreeSet<usize>) -> BTreeSet<String> {
        stores.iter().map(|at| self.listings[*at].store.clone()).collect()
    }

    /// Whether a snapshot is durable under a policy.
    pub fn is_durable(&self, repository: &Repository, copies: &Copies, committed: &Committed) -> bool {
        is_durable(copies, &repository.places(), &self.names(&self.complete_on(committed)))
    }

    /// The snapshots that no other names as its parent.
    pub fn heads(&self) -> Vec<Parent> {
        let named: BTreeSet<SnapshotId> = self
            .snapshots
            .values()
            .flat_map(|committed| committed.inventory.parents.iter().map(|parent| parent.id))
            .collect();
        let unnamed = self.snapshots.iter().filter(|(id, _)| !named.contains(id));
        unnamed.map(|(id, committed)| Parent { id: *id, sha256: committed.sha256 }).collect()
    }

    /// Numbers that several snapshots share.
    pub fn forks(&self) -> BTreeMap<u64, Vec<SnapshotId>> {
        let mut by_seq: BTreeMap<u64, Vec<SnapshotId>> = BTreeMap::new();
        for id in self.snapshots.keys() {
            by_seq.entry(id.seq).or_default().push(*id);
        }
        by_seq.retain(|_, ids| ids.len() > 1);
        by_seq
    }

    /// The stores that could be read.
    pub fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        self.listings.iter().enumerate().filter(|(_, listing)| listing.status == StoreStatus::Ready).map(|(at, _)| at)
    }
}

/// Whether an object is a pack that is in use.
fn is_pack_in(object: &objects::RunObject, used: &Use) -> bool {
    matches!(ObjectKind::of(&object.name), Some(ObjectKind::Pack(pack)) if used.packs.contains(pack))
}

/// Whether a use of a run needs an object: everything that is no pack, and the packs it names.
fn is_needed(object: &objects::RunObject, used: &Use) -> bool {
    !matches!(ObjectKind::of(&object.name), Some(ObjectKind::Pack(_))) || is_pack_in(object, used)
}
