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
        seal::open_small,
    },
    ops::host::{CatalogueKey, Host},
    repository::{
        catalogue::{Catalogue, Committed},
        fetch::{Detours, Wanted},
        layout,
    },
    world::files,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
};

/// The manifest of a base and what is known of the packs it uses.
pub(super) struct BaseManifest {
    pub(super) inventory: Inventory,
    pub(super) root: Root,
    parts: Parts,
    runs: BTreeMap<RunId, RunInUse>,
    key: Arc<CatalogueKey>,
    /// Packs that no store holds intact.
    pub(super) lost: BTreeSet<PackId>,
}

struct RunInUse {
    objects: RunObjects,
    /// Raw bytes of the packs in use.
    raw_bytes: BTreeMap<u32, u64>,
}

/// Bytes of sealed parts that are kept in memory; a large cluster has more.
const PART_MEMORY_BYTES: usize = 16 * 1024 * 1024;

/// The sealed parts: the first of them in memory, the others in a file without a name.
struct Parts {
    directory: PathBuf,
    in_memory: usize,
    file: Option<(File, u64)>,
    kept: Vec<(PartRef, Kept)>,
}

enum Kept {
    Memory(Bytes),
    File { at: u64, bytes: usize, sha256: Sha256 },
}

impl Parts {
    /// None yet; the file, if there will be one, lies in `directory`.
    fn new(directory: PathBuf) -> Self {
        Parts { directory, in_memory: 0, file: None, kept: Vec::new() }
    }

    /// Keeps a part whose digest was checked. On a disk that is full or read-only it stays in memory.
    fn keep(&mut self, part: PartRef, sealed: Bytes, sha256: Sha256) {
        let bytes = sealed.len();
        let written = if self.in_memory + bytes > PART_MEMORY_BYTES { self.write(&sealed).ok() } else { None };
        let kept = match written {
            Some(at) => Kept::File { at, bytes, sha256 },
            None => {
                self.in_memory += bytes;
                Kept::Memory(sealed)
            }
        };
        self.kept.push((part, kept));
    }

    fn write(&mut self, sealed: &[u8]) -> io::Result<u64> {
        let (file, end) = match &mut self.file {
            Some(file) => file,
            None => self.file.insert((files::create_unnamed(&self.directory)?, 0)),
        };
        let at = *end;
        file.write_all_at(sealed, at)?;
        *end += sealed.len() as u64;
        Ok(at)
    }

    fn get(&self, part: &PartRef) -> Result<Bytes, String> {
        let kept = self.kept.iter().find(|(known, _)| known.id == part.id).map(|(_, kept)| kept);
        match kept.ok_or("the base has no such part")? {
            Kept::Memory(sealed) => Ok(sealed.clone()),
            Kept::File { at, bytes, sha256 } => {
                let (file, _) = self.file.as_ref().ok_or("there is no file of parts")?;
                let mut sealed = vec![0; *bytes];
                file.read_exact_at(&mut sealed, *at).map_err(|error| error.to_string())?;
                match crate::format::sha256(&sealed) == *sha256 {
                    true => Ok(sealed.into()),
                    false => Err(format!("{} did not give what was written there", self.directory.display())),
                }
            }
        }
    }
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
        let raw_bytes = match objects.find(&ObjectKind::Index.name()) {
            Some(object) => {
                let sealed =
                    reader.fetch(&layout::run_object(used.run, &object.name), object.size, object.sha256).await?;
                index::open(&key.identities, &sealed, used.run, objects.packs(), &used.packs, |pack| pack.raw_bytes)
                    .map_err(|error| error.to_string())?
            }
            None => BTreeMap::new(),
        };
        runs.insert(used.run, RunInUse { objects, raw_bytes });
    }
    let mut parts = Parts::new(host.source_state_dir(&catalogue.source));
    for part in &root.parts {
        let name = ObjectKind::ManifestPart(part.id.part).name();
        let object = runs.get(&part.id.run).and_then(|run| run.objects.find(&name));
        let object = object.ok_or_else(|| format!("manifest part {name} of run {} is not listed", part.id.run))?;
        let sealed = reader.fetch(&layout::part(part.id), object.size, object.sha256).await?;
        parts.keep(part.clone(), sealed, object.sha256);
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
        self.parts.kept.iter().map(|(part, _)| part)
    }

    /// What a part lists.
    pub(super) fn open(&self, part: &PartRef) -> Result<Vec<Item>, Failure> {
        let damaged = |cause: String| {
            Failure::new(Code::Damaged, format!("{} of the base {} is damaged", layout::part(part.id), self.id()))
                .cause(cause)
                .safe("earlier snapshots are unaffected")
                .next_step("take a full snapshot: recoup backup --full")
        };
        let sealed = self.parts.get(part).map_err(damaged)?;
        open_small(&self.key.identities, &sealed, manifest::MAX_RAW_BYTES)
            .and_then(|raw| manifest::parse_part(&raw))
            .map_err(|error| damaged(error.to_string()))
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
            for (number, raw_bytes) in &run.raw_bytes {
                let sealed_bytes = run.objects.pack(*number).map_or(0, |object| object.size);
                let life = PackLife { sealed_bytes, overhead_bytes, raw_bytes: *raw_bytes, live_bytes: 0 };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        manifest::{Key, PartId},
        path::StoredPath,
    };

    fn part(number: u32) -> PartRef {
        let from = Key { path: StoredPath::parse("a").unwrap(), block: u64::from(number) };
        PartRef { from, id: PartId { run: RunId::from_random([0; 16]), part: number } }
    }

    fn keep(directory: PathBuf) -> (Parts, Vec<Bytes>) {
        let mut parts = Parts::new(directory);
        let sealed: Vec<Bytes> = (0..10).map(|number| vec![number; PART_MEMORY_BYTES / 4 - 1].into()).collect();
        for (number, sealed) in sealed.iter().enumerate() {
            parts.keep(part(number as u32), sealed.clone(), crate::format::sha256(sealed));
        }
        (parts, sealed)
    }

    #[test]
    fn parts_beyond_a_few_wait_in_a_file_that_nobody_finds() {
        let directory = tempfile::tempdir().unwrap();
        let (parts, sealed) = keep(directory.path().to_owned());
        assert_eq!(parts.in_memory, 4 * sealed[0].len());
        assert_eq!(parts.file.as_ref().unwrap().0.metadata().unwrap().len(), 6 * sealed[0].len() as u64);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        for (number, sealed) in sealed.iter().enumerate() {
            assert!(parts.get(&part(number as u32)).unwrap() == *sealed, "part {number}");
        }
        assert!(parts.get(&part(10)).is_err());
        // A disk that gives something else.
        parts.file.as_ref().unwrap().0.write_all_at(b"else", 0).unwrap();
        assert!(parts.get(&part(4)).unwrap_err().contains("did not give what was written"));
    }

    #[test]
    fn without_room_for_a_file_all_stay_in_memory() {
        let (parts, sealed) = keep("/dev/null/none".into());
        assert!(parts.file.is_none());
        assert!((0..10).all(|number| parts.get(&part(number)).unwrap() == sealed[number as usize]));
    }
}
