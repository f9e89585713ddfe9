//! Snapshots that lie, as a thief of the host's signing key could make them.

use crate::support::{LEDGER, TestRepository};
use recoup::{
    core::{
        id::{RunId, SnapshotId},
        inventory::Inventory,
    },
    format::{
        inventory, manifest,
        objects::RunObjects,
        seal::{SealedObject, open_small, seal_small},
        sha256,
        signature::{HostKey, INVENTORY},
    },
    repository::layout,
};
use std::fs;

/// Rewrites a snapshot of [`LEDGER`] on store `a` and signs it with the host's own key.
pub(super) struct Forge<'a> {
    repository: &'a TestRepository,
    id: SnapshotId,
}

impl<'a> Forge<'a> {
    pub(super) fn new(repository: &'a TestRepository, id: SnapshotId) -> Self {
        Forge { repository, id }
    }

    /// Writes an object below the source's folder.
    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.repository.object("a", name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.repository.object("a", name)).unwrap()
    }

    pub(super) fn inventory_bytes(&self) -> Vec<u8> {
        self.read(&layout::snapshot_object(self.id, layout::INVENTORY))
    }

    fn inventory(&self) -> Inventory {
        inventory::parse(&self.inventory_bytes()).unwrap()
    }

    fn commit(&self, inventory: &Inventory, key: &HostKey) {
        assert_eq!(inventory.source.as_str(), LEDGER);
        let bytes = inventory::to_bytes(inventory);
        self.write(&layout::snapshot_object(inventory.id(), layout::SIGNATURE), key.sign(INVENTORY, &bytes).as_bytes());
        self.write(&layout::snapshot_object(inventory.id(), layout::INVENTORY), &bytes);
    }

    /// The same snapshot under the same number, as another run's; signed, or signed by a stranger.
    pub(super) fn fork(&self, run: RunId, signed: bool) -> SnapshotId {
        let stranger = HostKey::generate([3; 32], "stranger");
        let inventory = Inventory { run, parents: Vec::new(), ..self.inventory() };
        let own = self.repository.host().key;
        self.commit(&inventory, if signed { &own } else { &stranger });
        inventory.id()
    }

    /// The raw lines of a small sealed object.
    pub(super) fn open(&self, name: &str) -> String {
        String::from_utf8(self.open_bytes(name)).unwrap()
    }

    /// The raw bytes of a small sealed object.
    pub(super) fn open_bytes(&self, name: &str) -> Vec<u8> {
        open_small(&self.repository.identities(), &self.read(name), manifest::MAX_RAW_BYTES).unwrap()
    }

    /// The raw lines of the snapshot's only manifest part.
    pub(super) fn part(&self) -> String {
        self.open(&layout::run_object(self.id.run, "m0.age"))
    }

    /// Seals `raw` in the place of an object of the snapshot's own run, and signs for all that follows from it.
    pub(super) fn replace(&self, name: &str, raw: &[u8]) {
        let object = seal_small(&self.repository.host().recipients, raw);
        let mut inventory = self.inventory();
        if name == "manifest.age" {
            inventory.manifest.size = object.size();
            inventory.manifest.sha256 = object.sha256;
            self.write(&inventory.manifest.name, &object.bytes);
        } else {
            let sha256 = self.list(name, &object);
            inventory.uses.iter_mut().find(|used| used.run == self.id.run).unwrap().objects_sha256 = sha256;
            self.write(&layout::run_object(self.id.run, name), &object.bytes);
        }
        self.commit(&inventory, &self.repository.host().key);
    }

    /// Enters an object in the run's list; returns the digest of the list.
    fn list(&self, name: &str, object: &SealedObject) -> recoup::core::id::Sha256 {
        let list_name = layout::run_object(self.id.run, layout::OBJECTS);
        let mut list = RunObjects::parse(&self.read(&list_name)).unwrap();
        let entry = list.objects.iter_mut().find(|entry| entry.name == name).unwrap();
        entry.size = object.size();
        entry.sha256 = object.sha256;
        let bytes = list.to_bytes();
        self.write(&list_name, &bytes);
        sha256(&bytes)
    }
}
