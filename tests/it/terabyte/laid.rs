//! A repository as it is after fulls and incrementals of a large cluster: everything that describes it is real, and the
//! packs are holes of their size.

use crate::support::{LEDGER, TestRepository};
use recoup::{
    core::{
        id::{RunId, Sha256, SnapshotId},
        inventory::{FORMAT, Inventory, Kind, ObjectRef, PackSet, Parent, Use},
        manifest::{Entry, EntryKind, Extent, Item, PackId, PartId, PartRef, push_extent},
        path::StoredPath,
        time::Timestamp,
    },
    format::{
        index, inventory as inventory_format,
        manifest::{self, PartWriter, Root},
        objects::{self, ObjectKind, RunObject, RunObjects},
        pack::{FRAME_BYTES, PackIndex},
        seal::seal_small,
        sha256, signature,
    },
    ops::{
        host::Host,
        state::{BaseRecord, SourceState},
    },
    repository::layout,
};
use std::{
    fs::{self, File},
    path::PathBuf,
};

/// As PostgreSQL has them.
pub(super) const BLOCK_BYTES: u32 = 8192;
/// Blocks in a relation file of 1 GiB.
pub(super) const FILE_BLOCKS: u64 = 131_072;
/// Incrementals after each full.
const INCREMENTALS: u64 = 6;
/// Blocks that each of them finds changed in a file, here and there.
const CHANGED_IN_FILE: u64 = 250;
/// Blocks in a pack: what is compressed to a quarter fills one with 128 MiB.
const PACK_BLOCKS: u64 = 16_384;
const PACK_SEALED_BYTES: u64 = 32 << 20;
const DIGEST_PART_BYTES: u64 = 4 << 20;
/// Blocks that one builder takes of a file before the other one has its turn.
const SEGMENT_BLOCKS: u64 = 512;

/// The files of the cluster.
pub(super) fn entries(files: u64) -> Vec<Entry> {
    let entry = |number: u64| Entry {
        path: StoredPath::parse(&format!("base/16384/{:06}", 20_000 + number)).unwrap(),
        kind: EntryKind::File { size: FILE_BLOCKS * u64::from(BLOCK_BYTES), block_size: BLOCK_BYTES },
        mode: 0o600,
        uid: 26,
        gid: 26,
    };
    (0..files).map(entry).collect()
}

/// Numbers that look random and are the same in every process.
pub(super) fn scattered(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |limit| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// The run of a snapshot.
fn run(seq: u64) -> RunId {
    let mut random = [7; 16];
    random[0] = seq as u8 & 31;
    RunId::from_random(random)
}

fn id(seq: u64) -> SnapshotId {
    SnapshotId { seq, run: run(seq) }
}

/// Two fulls, each with its incrementals: the newest snapshot uses nothing of the first full.
pub(super) const SNAPSHOTS: u64 = 2 * (INCREMENTALS + 1);

/// What is laid on the stores.
pub(super) struct Laid<'a> {
    repository: &'a TestRepository,
    host: Host,
    files: u64,
    lists: Vec<Sha256>,
    /// Extents in the newest manifest.
    pub(super) extents: u64,
}

impl<'a> Laid<'a> {
    /// Lays all of it, and what the host knows of the newest snapshot.
    pub(super) fn lay(repository: &'a TestRepository, files: u64) -> Self {
        let host = repository.host();
        let mut laid = Laid { repository, host, files, lists: Vec::new(), extents: 0 };
        let mut parent = None;
        for seq in 1..=SNAPSHOTS {
            parent = Some(laid.snapshot(seq, parent));
        }
        laid.state(parent.unwrap());
        laid
    }

    fn blocks_of(&self, seq: u64) -> u64 {
        if is_full(seq) { self.files * FILE_BLOCKS } else { self.files * CHANGED_IN_FILE }
    }

    /// The packs of a run.
    fn packs_of(&self, seq: u64) -> u64 {
        self.blocks_of(seq).div_ceil(PACK_BLOCKS)
    }

    /// The packs that the newest snapshot uses, at most.
    pub(super) fn packs(&self) -> u64 {
        (SNAPSHOTS - INCREMENTALS..=SNAPSHOTS).map(|seq| self.packs_of(seq)).sum()
    }

    /// A pack of the newest snapshot, by its name below the source's folder.
    pub(super) fn a_pack() -> String {
        layout::pack(run(SNAPSHOTS), 0)
    }

    /// Where an object lies on each store.
    fn places(&self, name: &str) -> Vec<PathBuf> {
        let places: Vec<PathBuf> = ["a", "b", "c"].map(|store| self.repository.object(store, name)).into();
        places.iter().for_each(|place| fs::create_dir_all(place.parent().unwrap()).unwrap());
        places
    }

    fn put(&self, name: &str, bytes: &[u8]) -> RunObject {
        self.places(name).iter().for_each(|place| fs::write(place, bytes).unwrap());
        let name = name.rsplit('/').next().unwrap().to_owned();
        RunObject { name, size: bytes.len() as u64, sha256: sha256(bytes) }
    }

    /// An object that nothing reads.
    fn put_hole(&self, name: &str, bytes: u64) -> RunObject {
        self.places(name).iter().for_each(|place| File::create(place).unwrap().set_len(bytes).unwrap());
        RunObject { name: name.rsplit('/').next().unwrap().to_owned(), size: bytes, sha256: Sha256([7; 32]) }
    }

    fn seal(&self, raw: &[u8]) -> bytes::Bytes {
        let catalogue = &self.host.catalogue_key.as_ref().unwrap().recipients;
        seal_small(&self.host.recipients.with(catalogue), raw).bytes
    }

    /// Lays a run with its snapshot; gives the digest of the inventory.
    fn snapshot(&mut self, seq: u64, parent: Option<Sha256>) -> Sha256 {
        let newest = seq == SNAPSHOTS;
        let in_run = |kind: ObjectKind| layout::run_object(run(seq), &kind.name());
        let mut objects: Vec<RunObject> = (0..self.packs_of(seq))
            .map(|pack| self.put_hole(&layout::pack(run(seq), pack as u32), PACK_SEALED_BYTES))
            .collect();
        let digests = (self.blocks_of(seq) * 16).div_ceil(DIGEST_PART_BYTES);
        objects.extend((0..digests).map(|n| self.put_hole(&in_run(ObjectKind::Digests(n as u32)), DIGEST_PART_BYTES)));
        // Of the older history nothing is ever opened.
        objects.push(if seq + INCREMENTALS >= SNAPSHOTS {
            self.put(&in_run(ObjectKind::Index), &self.seal(&self.index(seq)))
        } else {
            self.put_hole(&in_run(ObjectKind::Index), self.packs_of(seq) * 3072)
        });
        let root = if newest {
            let (parts, refs) = self.manifest();
            objects.extend(parts);
            self.seal(&self.root(refs))
        } else {
            objects.push(self.put_hole(&in_run(ObjectKind::ManifestPart(0)), 1 << 20));
            "a root that is never opened".into()
        };
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        let list = self.list(seq, objects);
        self.lists.push(self.put(&layout::run_object(run(seq), layout::OBJECTS), &list).sha256);
        let root = ObjectRef {
            name: layout::manifest_root(id(seq)),
            ..reference(&self.put(&layout::manifest_root(id(seq)), &root))
        };
        let bytes = inventory_format::to_bytes(&self.inventory(seq, root, parent));
        let signed = self.host.key.sign(signature::INVENTORY, &bytes);
        self.put(&layout::snapshot_object(id(seq), layout::SIGNATURE), signed.as_bytes());
        self.put(&layout::snapshot_object(id(seq), layout::INVENTORY), &bytes).sha256
    }

    fn list(&self, seq: u64, objects: Vec<RunObject>) -> Vec<u8> {
        RunObjects {
            format: objects::FORMAT.to_owned(),
            repository: self.host.repository.id,
            source: LEDGER.parse().unwrap(),
            run: run(seq),
            recipients: self.host.recipients.names().to_vec(),
            objects,
        }
        .to_bytes()
    }

    fn inventory(&self, seq: u64, manifest: ObjectRef, parent: Option<Sha256>) -> Inventory {
        let now = self.host.world.now().as_datetime();
        let created_at = Timestamp::new(now - chrono::Duration::hours((SNAPSHOTS + 1 - seq) as i64));
        let used = |seq: u64| Use {
            run: run(seq),
            objects_sha256: self.lists[seq as usize - 1],
            packs: PackSet::from_packs(0..self.packs_of(seq) as u32),
        };
        Inventory {
            format: FORMAT.to_owned(),
            repository: self.host.repository.id,
            source: LEDGER.parse().unwrap(),
            source_kind: "sqlite".to_owned(),
            source_identity: "large".to_owned(),
            seq,
            run: run(seq),
            writer: self.host.key.fingerprint().to_string(),
            kind: if is_full(seq) { Kind::Full } else { Kind::Incremental },
            parents: parent.map(|sha256| Parent { id: id(seq - 1), sha256 }).into_iter().collect(),
            created_at,
            read_started_at: created_at,
            history: "h".to_owned(),
            position: format!("version {seq}"),
            bytes_raw: self.files << 30,
            bytes_stored: self.packs_of(seq) * PACK_SEALED_BYTES,
            recipients: self.host.recipients.names().to_vec(),
            manifest,
            uses: ((seq - 1) / (INCREMENTALS + 1) * (INCREMENTALS + 1) + 1..=seq).map(used).collect(),
            log: None,
            altered_since: None,
        }
    }

    fn index(&self, seq: u64) -> Vec<u8> {
        let mut next = scattered(seq);
        let pack = |pack: u64| {
            let blocks = (self.blocks_of(seq) - pack * PACK_BLOCKS).min(PACK_BLOCKS);
            let raw_bytes = blocks * u64::from(BLOCK_BYTES);
            let frames = raw_bytes.div_ceil(FRAME_BYTES as u64);
            PackIndex {
                pack: pack as u32,
                block_size: BLOCK_BYTES,
                header_sha256: Sha256([1; 32]),
                payload_offset: 400,
                raw_bytes,
                frames: (0..frames).map(|_| 29_000 + next(6000) as u32).collect(),
            }
        };
        let packs: Vec<PackIndex> = (0..self.packs_of(seq)).map(pack).collect();
        index::to_lines(run(seq), &packs)
    }

    /// Writes the parts of the newest manifest.
    fn manifest(&mut self) -> (Vec<RunObject>, Vec<PartRef>) {
        let full = SNAPSHOTS - INCREMENTALS;
        // The next block in the packs of each run.
        let mut stored = [0; INCREMENTALS as usize + 1];
        let mut parts = Parts { laid: self, writer: PartWriter::default(), objects: Vec::new(), refs: Vec::new() };
        let mut extents_written = 0;
        let mut next = scattered(1);
        for entry in entries(self.files) {
            let mut owners: Vec<(u8, u64)> = (0..FILE_BLOCKS).map(|block| (0, stored[0] + in_turn(block))).collect();
            stored[0] += FILE_BLOCKS;
            for (age, stored) in stored.iter_mut().enumerate().skip(1) {
                for _ in 0..CHANGED_IN_FILE {
                    owners[next(FILE_BLOCKS) as usize] = (age as u8, *stored);
                    *stored += 1;
                }
            }
            let mut extents = Vec::new();
            for (first, (age, at)) in owners.into_iter().enumerate() {
                let pack = PackId { run: run(full + u64::from(age)), pack: (at / PACK_BLOCKS) as u32 };
                push_extent(&mut extents, Extent { first: first as u64, count: 1, pack, raw_block: at % PACK_BLOCKS });
            }
            extents_written += extents.len() as u64;
            let path = entry.path.clone();
            parts.push(&Item::Entry(entry));
            extents.into_iter().for_each(|extent| parts.push(&Item::Extent(path.clone(), extent)));
        }
        parts.end();
        let (objects, refs) = (parts.objects, parts.refs);
        self.extents = extents_written;
        (objects, refs)
    }

    fn root(&self, parts: Vec<PartRef>) -> Vec<u8> {
        let root = Root {
            repository: self.host.repository.id,
            source: LEDGER.parse().unwrap(),
            source_kind: "sqlite".to_owned(),
            configuration: self.host.configuration.clone(),
            catalogue_identity: None,
            parts,
        };
        root.to_lines()
    }

    /// What the host knows of the newest snapshot, and that one of its packs is lost.
    fn state(&self, inventory_sha256: Sha256) {
        let state = self.host.source_state_dir(&LEDGER.parse().unwrap());
        let state = SourceState::open(state, self.host.repository.id).unwrap();
        let newest = id(SNAPSHOTS);
        let digests = state.create_digests(newest.run, &entries(self.files));
        let record = BaseRecord {
            format: BaseRecord::format(),
            repository: self.host.repository.id,
            snapshot: newest,
            inventory_sha256,
            configuration_sha256: sha256(self.host.configuration.as_bytes()),
            digest_key: "07".repeat(32),
            digest_run: newest.run,
            digests_blake3: digests.seal().unwrap(),
            files: digests.files().to_vec(),
            fingerprint: None,
        };
        state.set_base(&record).unwrap();
        let lost = |store: &str| (store.to_owned(), [Laid::a_pack()].into());
        state.update_known(|known| known.damaged = ["a", "b", "c"].map(lost).into()).unwrap();
    }
}

fn is_full(seq: u64) -> bool {
    (seq - 1).is_multiple_of(INCREMENTALS + 1)
}

fn reference(object: &RunObject) -> ObjectRef {
    ObjectRef { name: String::new(), size: object.size, sha256: object.sha256 }
}

/// Where a block of a file stands among those of the file that two builders store: one segment here, the next one there.
fn in_turn(block: u64) -> u64 {
    let (segment, rest) = (block / SEGMENT_BLOCKS, block % SEGMENT_BLOCKS);
    let segments = PACK_BLOCKS / SEGMENT_BLOCKS;
    let (pair, within) = (segment / (2 * segments), segment % (2 * segments));
    (pair * 2 * segments + within % 2 * segments + within / 2) * SEGMENT_BLOCKS + rest
}

/// Cuts items into parts as a backup does.
struct Parts<'a> {
    laid: &'a Laid<'a>,
    writer: PartWriter,
    objects: Vec<RunObject>,
    refs: Vec<PartRef>,
}

impl Parts<'_> {
    fn push(&mut self, item: &Item) {
        if self.writer.raw_bytes() + 32 * 1024 > manifest::MAX_RAW_BYTES {
            self.end();
        }
        self.writer.push(item);
    }

    fn end(&mut self) {
        let writer = std::mem::take(&mut self.writer);
        let from = writer.from().unwrap().clone();
        let id = PartId { run: run(SNAPSHOTS), part: self.refs.len() as u32 };
        self.objects.push(self.laid.put(&layout::part(id), &self.laid.seal(&writer.finish())));
        self.refs.push(PartRef { from, id });
    }
}
