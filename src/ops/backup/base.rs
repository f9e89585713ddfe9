//! The base of an incremental, as read from the stores: root, parts and indexes.

use crate::{
    core::{
        failure::{Code, Failure},
        id::{RunId, Sha256, SnapshotId},
        inventory::{Inventory, MAX_USES},
        manifest::{Item, PackId, PartRef},
        plan::backup::PackLife,
    },
    format::{
        index,
        manifest::{self, Root},
        objects::{ObjectKind, RunObjects},
        pack::PackIndex,
        seal::open_small,
    },
    ops::host::{CatalogueKey, Host},
    repository::{
        catalogue::{Catalogue, Committed},
        fetch::{Detours, Wanted},
        layout,
    },
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The manifest of a base and what is known of the packs it uses.
pub(super) struct BaseManifest {
    pub(super) inventory: Inventory,
    pub(super) root: Root,
    parts: Vec<(PartRef, Bytes)>,
    runs: BTreeMap<RunId, RunInUse>,
    key: Arc<CatalogueKey>,
    /// Packs that no store holds intact.
    pub(super) lost: BTreeSet<PackId>,
}

struct RunInUse {
    objects: RunObjects,
    index: BTreeMap<u32, PackIndex>,
}

/// Why a base could not be read.
pub(super) type Unusable = String;

/// Reads the manifest of a committed snapshot from the stores, with the host's catalogue key.
pub(super) async fn read(
    host: &Host,
    catalogue: &Catalogue,
    committed: &Committed,
    lost: BTreeSet<PackId>,
) -> Result<BaseManifest, Unusable> {
    let key = host.catalogue_key.clone().ok_or("this host has no catalogue key")?;
    let reader = Reader { host, folder: layout::source_folder(&catalogue.source), key: &key };
    let inventory = &committed.inventory;
    let manifest = &inventory.manifest;
    let sealed = reader.fetch(&manifest.name, manifest.size, manifest.sha256).await?;
    let root = open_small(&key.identities, &sealed, manifest::MAX_ROOT_RAW_BYTES).map_err(|error| error.to_string())?;
    let root = Root::parse(&root).map_err(|error| error.to_string())?;
    let mut runs = BTreeMap::new();
    for used in &inventory.uses {
        let objects =
            catalogue.run(used).ok_or_else(|| format!("the object list of run {} is lost", used.run))?.clone();
        let index = match objects.find(&ObjectKind::Index.name()) {
            Some(object) => {
                let sealed =
                    reader.fetch(&layout::run_object(used.run, &object.name), object.size, object.sha256).await?;
                index::open(&key.identities, &sealed, used.run, objects.packs(), &used.packs)
                    .map_err(|error| error.to_string())?
            }
            None => BTreeMap::new(),
        };
        runs.insert(used.run, RunInUse { objects, index });
    }
    let mut parts = Vec::new();
    for part in &root.parts {
        let name = ObjectKind::ManifestPart(part.id.part).name();
        let object = runs.get(&part.id.run).and_then(|run| run.objects.find(&name));
        let object = object.ok_or_else(|| format!("manifest part {name} of run {} is not listed", part.id.run))?;
        let sealed = reader.fetch(&layout::part(part.id), object.size, object.sha256).await?;
        parts.push((part.clone(), sealed));
    }
    Ok(BaseManifest { inventory: inventory.clone(), root, parts, runs, key, lost })
}

struct Reader<'a> {
    host: &'a Host,
    folder: String,
    key: &'a CatalogueKey,
}

impl Reader<'_> {
    async fn fetch(&self, name: &str, size: u64, sha256: Sha256) -> Result<Bytes, Unusable> {
        debug_assert!(!self.key.recipients.names().is_empty());
        let key = format!("{}{name}", self.folder);
        let wanted = Wanted { key: &key, size: Some(size), sha256, max_bytes: size };
        self.host.repository.fetch(wanted, &Detours::default()).await.map_err(|error| error.to_string())
    }
}

impl BaseManifest {
    /// The snapshot.
    pub(super) fn id(&self) -> SnapshotId {
        self.inventory.id()
    }

    /// The parts in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = &PartRef> {
        self.parts.iter().map(|(part, _)| part)
    }

    /// What a part lists.
    pub(super) fn open(&self, part: &PartRef) -> Result<Vec<Item>, Failure> {
        let sealed = self.parts.iter().find(|(known, _)| known.id == part.id).map(|(_, sealed)| sealed);
        let sealed = sealed.ok_or_else(|| Failure::internal("a part that the base has not"))?;
        open_small(&self.key.identities, sealed, manifest::MAX_RAW_BYTES)
            .and_then(|raw| manifest::parse_part(&raw))
            .map_err(|error| {
                Failure::new(Code::Damaged, format!("{} of the base {} is damaged", layout::part(part.id), self.id()))
                    .cause(error)
                    .safe("earlier snapshots are unaffected")
                    .next_step("take a full snapshot: recoup backup --full")
            })
    }

    /// The packs that the base uses, with no live byte counted yet.
    pub(super) fn packs(&self) -> Result<BTreeMap<PackId, PackLife>, Failure> {
        let mut packs = BTreeMap::new();
        for used in &self.inventory.uses {
            let run = &self.runs[&used.run];
            let besides = run.objects.objects.iter().filter(|object| {
                matches!(
                    ObjectKind::of(&object.name),
                    Some(ObjectKind::Index | ObjectKind::Digests(_) | ObjectKind::Facts)
                )
            });
            let overhead_bytes = besides.map(|object| object.size).sum::<u64>() / used.packs.count().max(1);
            for (number, pack) in run.index.iter().filter(|(number, _)| used.packs.contains(**number)) {
                let sealed_bytes = run.objects.pack(*number).map_or(0, |object| object.size);
                let life = PackLife { sealed_bytes, overhead_bytes, raw_bytes: pack.raw_bytes, live_bytes: 0 };
                packs.insert(PackId { run: used.run, pack: *number }, life);
            }
        }
        Ok(packs)
    }

    /// Runs whose manifest parts are written again, so that an inventory never has to name too many runs.
    pub(super) fn retired_part_runs(&self) -> BTreeSet<RunId> {
        if self.inventory.uses.len() < MAX_USES - 1 {
            return BTreeSet::new();
        }
        // Runs that hold packs are retired by capturing their blocks again; here it is enough to give up the rest.
        self.inventory.uses.iter().map(|used| used.run).collect()
    }
}
