//! A snapshot made by hand: right in every part, until something in it is changed; then signed with the host's key.

use super::Forger;
use recoup::{
    core::{
        id::{RunId, Sha256, SnapshotId},
        inventory::{Inventory, Kind, ObjectRef, PackSet, Use},
        manifest::{Entry, EntryKind, Extent, Item, Key, PackId, PartId, PartRef},
        path::StoredPath,
    },
    format::{
        self, digests, index,
        manifest::{PartWriter, Root},
        objects::{self, RunObject, RunObjects},
        pack::{PackBuilder, PackIndex, block_digest, new_compressor},
        seal::{Recipients, seal_small},
    },
    world::{Random, SeededRandom},
};
use std::io::Write;

pub(super) const BLOCK: usize = 4096;
/// Blocks in the pack, of which the file uses three: few enough to be read by ranges.
const PACK_BLOCKS: usize = 100;
const USED: [usize; 3] = [0, 1, 70];
const SIZE: usize = 3 * BLOCK - 100;
const KEY: [u8; 32] = [7; 32];

/// Everything that a snapshot consists of, before it is sealed and listed.
pub(super) struct Draft {
    pub(super) id: SnapshotId,
    pub(super) root: Vec<u8>,
    pub(super) parts: Vec<Vec<u8>>,
    pub(super) index: PackIndex,
    pub(super) digests: Vec<u8>,
    pub(super) pack: Vec<u8>,
    /// Objects that are stored as these bytes instead, by their names.
    pub(super) instead: Vec<(&'static str, Vec<u8>)>,
    /// What is replaced in `objects.json`, and by what.
    pub(super) objects_edits: Vec<(String, String)>,
    /// What is replaced in the inventory, and by what.
    pub(super) inventory_edits: Vec<(String, String)>,
    pub(super) recipients: Recipients,
    pub(super) content: Vec<u8>,
    base: Inventory,
}

impl Draft {
    /// One that is right.
    pub(super) fn new(forger: &Forger, name: &str) -> Self {
        let base = forger.newest();
        let random = SeededRandom::new(name);
        let mut run = [0; 16];
        random.fill(&mut run);
        let id = SnapshotId { seq: base.seq + 1, run: RunId::from_random(run) };
        let mut raw = vec![0; PACK_BLOCKS * BLOCK];
        random.fill(&mut raw);
        let (pack, digests) = pack_of(id.run, &raw, &forger.recipients);
        let mut content: Vec<u8> = USED.iter().flat_map(|block| raw[block * BLOCK..][..BLOCK].to_vec()).collect();
        content.truncate(SIZE);
        let path = StoredPath::parse("ledger.db").unwrap();
        let root = Root {
            repository: base.repository,
            source: base.source.clone(),
            source_kind: base.source_kind.clone(),
            configuration: String::new(),
            catalogue_identity: None,
            parts: vec![PartRef { from: Key { path: path.clone(), block: 0 }, id: PartId { run: id.run, part: 0 } }],
        };
        Draft {
            id,
            root: root.to_lines(),
            parts: vec![part_of(id.run, path)],
            index: pack.index,
            digests,
            pack: pack.object.bytes.to_vec(),
            instead: Vec::new(),
            objects_edits: Vec::new(),
            inventory_edits: Vec::new(),
            recipients: forger.recipients.clone(),
            content,
            base,
        }
    }

    /// Replaces text in the first manifest part.
    #[track_caller]
    pub(super) fn edit_part(&mut self, from: &str, to: &str) {
        let text = String::from_utf8(self.parts[0].clone()).unwrap();
        assert!(text.contains(from), "{from}: {text}");
        self.parts[0] = text.replace(from, to).into_bytes();
    }

    /// Seals, lists, signs, and puts it on every store.
    pub(super) fn plant(&self, forger: &Forger) {
        let folder = format!("sources/ledger/packs/{}", self.id.run);
        let sealed = |raw: &[u8]| seal_small(&self.recipients, raw).bytes.to_vec();
        let mut stored = vec![
            ("0.age".to_owned(), self.pack.clone()),
            ("index.age".to_owned(), sealed(&index::to_lines(self.id.run, [&self.index]))),
            ("digests.age".to_owned(), sealed(&self.digests)),
        ];
        stored.extend(self.parts.iter().enumerate().map(|(at, raw)| (format!("m{at}.age"), sealed(raw))));
        let mut root = sealed(&self.root);
        for (name, bytes) in &self.instead {
            match stored.iter_mut().find(|(known, _)| known == name) {
                Some((_, object)) => object.clone_from(bytes),
                None => root.clone_from(bytes),
            }
        }
        stored.sort();
        let objects = stored.iter().map(|(name, bytes)| RunObject {
            name: name.clone(),
            size: bytes.len() as u64,
            sha256: format::sha256(bytes),
        });
        let list = RunObjects {
            format: objects::FORMAT.to_owned(),
            repository: self.base.repository,
            source: self.base.source.clone(),
            run: self.id.run,
            recipients: self.recipients.names().to_vec(),
            objects: objects.collect(),
        };
        let list = edited(list.to_bytes(), &self.objects_edits);
        for (name, bytes) in &stored {
            forger.put(&format!("{folder}/{name}"), bytes);
        }
        forger.put(&format!("{folder}/objects.json"), &list);
        let name = format!("snapshots/{}/manifest.age", self.id);
        forger.put(&format!("sources/ledger/{name}"), &root);
        let inventory = Inventory {
            seq: self.id.seq,
            run: self.id.run,
            kind: Kind::Full,
            parents: Vec::new(),
            manifest: ObjectRef { name, size: root.len() as u64, sha256: format::sha256(&root) },
            uses: vec![Use {
                run: self.id.run,
                objects_sha256: format::sha256(&list),
                packs: PackSet::from_packs([0]),
            }],
            ..self.base.clone()
        };
        let inventory = edited(format::inventory::to_bytes(&inventory), &self.inventory_edits);
        forger.put_signed(self.id, &inventory);
    }

    pub(super) fn remove(&self, forger: &Forger) {
        forger.remove(&format!("sources/ledger/packs/{}", self.id.run));
        forger.remove(&format!("sources/ledger/snapshots/{}", self.id));
    }
}

#[track_caller]
fn edited(bytes: Vec<u8>, edits: &[(String, String)]) -> Vec<u8> {
    let mut text = String::from_utf8(bytes).unwrap();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}: {text}");
        text = text.replacen(from, to, 1);
    }
    text.into_bytes()
}

/// The pack with this content, and the raw form of its digests.
pub(super) fn pack_of(run: RunId, raw: &[u8], recipients: &Recipients) -> (format::pack::SealedPack, Vec<u8>) {
    let mut compressor = new_compressor(1);
    let mut builder = PackBuilder::new(0, BLOCK as u32, recipients).unwrap();
    for block in raw.chunks(BLOCK) {
        builder.append(&mut compressor, block, block_digest(&KEY, block)).unwrap();
    }
    let pack = builder.finish(&mut compressor).unwrap();
    let mut digests = digests::start_part(run, &KEY);
    digests::push_pack(&mut digests, 0, &pack.digests);
    (pack, digests)
}

fn part_of(run: RunId, path: StoredPath) -> Vec<u8> {
    let mut part = PartWriter::default();
    let kind = EntryKind::File { size: SIZE as u64, block_size: BLOCK as u32 };
    part.push(&Item::Entry(Entry { path: path.clone(), kind, mode: 0o600, uid: 0, gid: 0 }));
    for (first, raw_block) in USED.iter().enumerate() {
        let extent =
            Extent { first: first as u64, count: 1, pack: PackId { run, pack: 0 }, raw_block: *raw_block as u64 };
        part.push(&Item::Extent(path.clone(), extent));
    }
    part.finish()
}

/// Seals bytes as they are, compressed or not.
pub(super) fn seal_as_is(recipients: &Recipients, bytes: &[u8]) -> Vec<u8> {
    let key: age::x25519::Recipient = recipients.names()[0].parse().unwrap();
    let encryptor = age::Encryptor::with_recipients([&key as &dyn age::Recipient].into_iter()).unwrap();
    let mut sealed = Vec::new();
    let mut writer = encryptor.wrap_output(&mut sealed).unwrap();
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap();
    sealed
}

/// A few kilobytes of zstd that open to gigabytes.
pub(super) fn bomb(recipients: &Recipients) -> Vec<u8> {
    let frame = zstd::bulk::compress(&vec![b' '; 64 << 20], 3).unwrap();
    seal_as_is(recipients, &frame.repeat(64))
}

/// A SHA-256 of nothing here.
pub(super) fn no_digest() -> Sha256 {
    Sha256([9; 32])
}
