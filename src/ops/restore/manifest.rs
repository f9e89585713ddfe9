//! A snapshot's manifest, read from the stores and checked all the way from the signed inventory.

use super::{places::Layout, replay::Replay};
use crate::{
    core::{
        extents::ExtentList,
        failure::{Code, Failure},
        fingerprint::Fingerprints,
        id::{RunId, Sha256, SnapshotId},
        inventory::Use,
        manifest::{Entry, EntryKind, Item, PackId},
    },
    format::{
        FormatError,
        facts::{self, Facts},
        index,
        manifest::{self as manifest_format, Order, Root},
        objects::{ObjectKind, RunObject, RunObjects},
        pack::PackIndex,
        seal::{Identities, open_small},
    },
    repository::{
        Repository,
        catalogue::Catalogue,
        fetch::{NowhereIntact, Wanted},
        layout,
    },
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map},
    sync::Arc,
};

/// Everything a restore needs to know but the digests.
pub struct Manifest {
    /// Effective configuration and policies when the snapshot was taken.
    pub configuration: String,
    /// The catalogue identity of the host that took it.
    pub catalogue_identity: Option<String>,
    /// Files, directories and links, by path.
    pub entries: Vec<Entry>,
    /// What to take from each pack.
    pub packs: BTreeMap<PackId, PackContent>,
    /// What is to be replayed over the files, where their source has a log and a restore is under way.
    pub(super) replay: Option<Replay>,
    /// What of it goes where, while a restore is under way.
    pub(super) layout: Arc<Layout>,
    /// The digest objects of each run.
    pub(super) digests: BTreeMap<RunId, Vec<RunObject>>,
}

/// What a snapshot takes from one pack.
pub struct PackContent {
    /// The object.
    pub object: RunObject,
    /// Its frame table.
    pub index: PackIndex,
    /// Position of the entry, and the extent, in order of the raw block.
    pub extents: ExtentList,
}

impl Manifest {
    /// Raw bytes of all blocks that are stored.
    pub fn bytes_stored_raw(&self) -> u64 {
        self.packs.values().map(PackContent::bytes_used).sum()
    }
}

impl PackContent {
    /// Raw bytes that are taken from it.
    pub(super) fn bytes_used(&self) -> u64 {
        self.extents.iter().map(|(_, extent)| extent.count).sum::<u64>() * u64::from(self.index.block_size)
    }
}

/// The failure of something that no store has intact.
pub(super) fn nowhere(error: &NowhereIntact) -> Failure {
    let code = if error.unreachable { Code::Store } else { Code::Damaged };
    Failure::new(code, error.to_string())
}

fn damaged(name: &str, error: &FormatError) -> Failure {
    match error {
        FormatError::NoMatchingKey => Failure::new(Code::NoKey, format!("the identity does not open {name}"))
            .cause("it belongs to none of the recipients that the snapshot is sealed to")
            .safe("nothing was written")
            .next_step(
                "use the identity of a custodian: their public keys stand in recoup.toml, [encryption] recipients",
            ),
        FormatError::Newer { .. } => Failure::new(Code::Failed, format!("{name} is of a newer format")).cause(error),
        FormatError::Damaged(_) => Failure::new(Code::Damaged, format!("{name} is damaged")).cause(error),
    }
}

/// Reads the manifest of a committed snapshot.
pub async fn read_manifest(
    repository: &Repository,
    catalogue: &Catalogue,
    id: SnapshotId,
    identities: &Identities,
) -> Result<Manifest, Failure> {
    let reader = Reader { repository, catalogue, folder: layout::source_folder(&catalogue.source), identities };
    let inventory = &catalogue.snapshots[&id].inventory;
    let named = &inventory.manifest;
    let raw = reader.open(&named.name, named.size, named.sha256, manifest_format::MAX_ROOT_RAW_BYTES).await?;
    let root = Root::parse(&raw).map_err(|error| damaged(&named.name, &error))?;
    if root.repository != repository.id || root.source != catalogue.source {
        return Err(Failure::new(Code::Damaged, format!("{} is the manifest of another source", named.name)));
    }
    let mut runs = BTreeMap::new();
    for used in &inventory.uses {
        runs.insert(used.run, reader.run(used).await?);
    }
    let assembly = reader.parts(&root, &mut runs).await?;
    assembly.finish(root)
}

/// The fingerprints that were taken with a committed snapshot; `None` where there are none.
pub(super) async fn read_fingerprints(
    repository: &Repository,
    catalogue: &Catalogue,
    id: SnapshotId,
    identities: &Identities,
) -> Result<Option<Fingerprints>, Failure> {
    let reader = Reader { repository, catalogue, folder: layout::source_folder(&catalogue.source), identities };
    let uses = &catalogue.snapshots[&id].inventory.uses;
    let own = uses.iter().find(|used| used.run == id.run).and_then(|used| catalogue.run(used));
    let Some(object) = own.and_then(|objects| objects.find(&ObjectKind::Facts.name())) else { return Ok(None) };
    let name = layout::run_object(id.run, &object.name);
    let raw = reader.open(&name, object.size, object.sha256, facts::MAX_RAW_BYTES).await?;
    let facts = Facts::parse(&raw, id.run).map_err(|error| damaged(&name, &error))?;
    Ok(Some(facts.fingerprints))
}

struct RunInUse<'a> {
    used: &'a Use,
    objects: &'a RunObjects,
    index: BTreeMap<u32, PackIndex>,
}

struct Reader<'a> {
    repository: &'a Repository,
    catalogue: &'a Catalogue,
    folder: String,
    identities: &'a Identities,
}

impl<'a> Reader<'a> {
    async fn fetch(&self, name: &str, size: u64, sha256: Sha256) -> Result<Bytes, Failure> {
        let key = format!("{}{name}", self.folder);
        let wanted = Wanted { key: &key, size: Some(size), sha256, max_bytes: size };
        self.repository.fetch(wanted, &self.catalogue.detours).await.map_err(|error| nowhere(&error))
    }

    async fn open(&self, name: &str, size: u64, sha256: Sha256, max_raw: u64) -> Result<Vec<u8>, Failure> {
        let sealed = self.fetch(name, size, sha256).await?;
        open_small(self.identities, &sealed, max_raw)
            .map_err(|error| damaged(&format!("{}{name}", self.folder), &error))
    }

    async fn run(&self, used: &'a Use) -> Result<RunInUse<'a>, Failure> {
        let name = layout::run_object(used.run, layout::OBJECTS);
        let objects = match self.catalogue.run(used) {
            Some(objects) => objects,
            None => {
                // The catalogue could not read it; asking again says what each store answers.
                let key = format!("{}{name}", self.folder);
                let wanted = Wanted {
                    key: &key,
                    size: None,
                    sha256: used.objects_sha256,
                    max_bytes: crate::format::objects::MAX_BYTES,
                };
                let error = self.repository.fetch(wanted, &self.catalogue.detours).await.err();
                return Err(
                    error.map_or_else(|| Failure::new(Code::Damaged, format!("{key} is damaged")), |e| nowhere(&e))
                );
            }
        };
        let index = match objects.find(&ObjectKind::Index.name()) {
            Some(object) => {
                let name = layout::run_object(used.run, &object.name);
                let sealed = self.fetch(&name, object.size, object.sha256).await?;
                index::open(self.identities, &sealed, used.run, objects.packs(), &used.packs, |pack| pack)
                    .map_err(|error| damaged(&format!("{}{name}", self.folder), &error))?
            }
            None => BTreeMap::new(),
        };
        Ok(RunInUse { used, objects, index })
    }

    /// Reads one part after the other. Each is checked against what came before it, so that no more is held than
    /// what is in order.
    async fn parts<'r>(
        &self,
        root: &Root,
        runs: &'r mut BTreeMap<RunId, RunInUse<'a>>,
    ) -> Result<Assembly<'r, 'a>, Failure> {
        let mut assembly = Assembly::new(runs);
        for part in &root.parts {
            let name = layout::part(part.id);
            let object = assembly
                .runs
                .get(&part.id.run)
                .and_then(|run| run.objects.find(&ObjectKind::ManifestPart(part.id.part).name()))
                .ok_or_else(|| {
                    Failure::new(Code::Damaged, format!("the manifest names {name}, which the inventory does not"))
                })?;
            let raw = self.open(&name, object.size, object.sha256, manifest_format::MAX_RAW_BYTES).await?;
            for item in manifest_format::parse_part(&raw).map_err(|error| damaged(&name, &error))? {
                assembly.push(item)?;
            }
        }
        Ok(assembly)
    }
}

/// Puts entries and extents together, and refuses contradictions between parts.
struct Assembly<'r, 'a> {
    runs: &'r mut BTreeMap<RunId, RunInUse<'a>>,
    order: Order,
    entries: Vec<Entry>,
    packs: BTreeMap<PackId, PackContent>,
}

impl<'r, 'a> Assembly<'r, 'a> {
    fn new(runs: &'r mut BTreeMap<RunId, RunInUse<'a>>) -> Self {
        Assembly { runs, order: Order::default(), entries: Vec::new(), packs: BTreeMap::new() }
    }

    fn push(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Entry(entry) => {
                self.order.entry(&entry).map_err(|error| contradiction(error.to_string()))?;
                self.entries.push(entry);
            }
            Item::Extent(path, extent) => {
                self.order.extent(&path, &extent).map_err(|error| contradiction(error.to_string()))?;
                let at = self.entries.len().wrapping_sub(1);
                let entry = self.entries.last().filter(|entry| entry.path == path && extent.end() <= entry.blocks());
                let entry = entry.ok_or_else(|| contradiction(format!("{path} has blocks beyond its end")))?;
                let content = content_of(&mut self.packs, extent.pack, self.runs)?;
                let fits = Some(content.index.block_size) == entry.block_size()
                    && extent.raw_block + extent.count <= content.index.blocks();
                if !fits {
                    let pack = extent.pack.pack;
                    return Err(contradiction(format!("{path} uses blocks that pack {pack} does not have")));
                }
                content.extents.push(at, extent);
            }
        }
        Ok(())
    }

    fn finish(self, root: Root) -> Result<Manifest, Failure> {
        let Assembly { runs, entries, mut packs, .. } = self;
        packs.values_mut().for_each(|pack| pack.extents.sort_by_raw_block());
        check_tree(&entries).map_err(contradiction)?;
        let used: BTreeSet<RunId> = packs.keys().map(|pack| pack.run).collect();
        let digests = used.into_iter().map(|run| (run, digest_objects(runs[&run].objects))).collect();
        let Root { configuration, catalogue_identity, .. } = root;
        Ok(Manifest {
            configuration,
            catalogue_identity,
            entries,
            packs,
            replay: None,
            layout: Arc::default(),
            digests,
        })
    }
}

fn contradiction(what: String) -> Failure {
    Failure::new(Code::Damaged, format!("the manifest contradicts itself: {what}"))
}

fn content_of<'a>(
    packs: &'a mut BTreeMap<PackId, PackContent>,
    id: PackId,
    runs: &mut BTreeMap<RunId, RunInUse<'_>>,
) -> Result<&'a mut PackContent, Failure> {
    match packs.entry(id) {
        btree_map::Entry::Occupied(known) => Ok(known.into_mut()),
        btree_map::Entry::Vacant(place) => {
            let known = runs.get_mut(&id.run).filter(|run| run.used.packs.contains(id.pack));
            // Taken out, for a large cluster's frame tables are large; each is asked for once.
            let found = known.and_then(|run| Some((run.objects.pack(id.pack)?, run.index.remove(&id.pack)?)));
            let (object, index) = found.ok_or_else(|| {
                let what = format!("the manifest uses pack {} of run {}", id.pack, id.run);
                Failure::new(Code::Damaged, what).cause("the inventory does not name it")
            })?;
            Ok(place.insert(PackContent { object: object.clone(), index, extents: ExtentList::default() }))
        }
    }
}

/// Entries must form a tree: nothing may stand below something that is no directory.
fn check_tree(entries: &[Entry]) -> Result<(), String> {
    let kinds: BTreeMap<&str, &EntryKind> = entries.iter().map(|entry| (entry.path.as_str(), &entry.kind)).collect();
    for entry in entries {
        let mut parent = entry.path.as_str();
        while let Some((above, _)) = parent.rsplit_once('/') {
            parent = above;
            if kinds.get(parent).is_some_and(|kind| !matches!(kind, EntryKind::Directory)) {
                return Err(format!("{} stands below {parent}, which is no directory", entry.path));
            }
        }
    }
    Ok(())
}

fn digest_objects(objects: &RunObjects) -> Vec<RunObject> {
    let mut found: Vec<(u32, RunObject)> = objects
        .objects
        .iter()
        .filter_map(|object| match ObjectKind::of(&object.name) {
            Some(ObjectKind::Digests(number)) => Some((number, object.clone())),
            _ => None,
        })
        .collect();
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(_, object)| object).collect()
}
