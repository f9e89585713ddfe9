//! What the stores really hold, read behind the library's back: raw objects and plain JSON.

use super::{FOLDER, STORES, Site, graves::Graves};
use bytes::Bytes;
use futures_util::{FutureExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use recoup::{
    core::{evidence::WriterId, id::SnapshotId, log::Lsn},
    repository::layout,
};
use serde_json::Value;
use sha2::Digest;
use std::collections::{BTreeMap, BTreeSet};

impl Site {
    /// All keys and bytes of a store.
    pub(crate) fn objects(&self, store: usize) -> BTreeMap<String, Bytes> {
        let keys = self.keys(store).into_iter();
        keys.map(|key| (key.clone(), self.get(store, &key).unwrap())).collect()
    }

    pub(super) fn keys(&self, store: usize) -> Vec<String> {
        let listed: Vec<_> = self.backends[store].list(None).try_collect().now_or_never().unwrap().unwrap();
        listed.into_iter().map(|object| object.location.to_string()).collect()
    }

    /// An object's bytes.
    pub(crate) fn get(&self, store: usize, key: &str) -> Option<Bytes> {
        let found = self.backends[store].get(&Path::from(key)).now_or_never().unwrap().ok()?;
        Some(found.bytes().now_or_never().unwrap().unwrap())
    }

    /// Puts an object, whatever was there.
    pub(crate) fn put(&self, store: usize, key: &str, bytes: Vec<u8>) {
        self.backends[store].put(&Path::from(key), bytes.into()).now_or_never().unwrap().unwrap();
    }

    /// Removes an object.
    pub(crate) fn remove(&self, store: usize, key: &str) {
        self.backends[store].delete(&Path::from(key)).now_or_never().unwrap().unwrap();
    }

    /// Removes everything, as a new disk does.
    pub(crate) fn empty(&self, store: usize) {
        self.keys(store).iter().for_each(|key| self.remove(store, key));
    }

    /// Removes a record of evidence.
    pub(crate) fn remove_record(&self, store: usize, writer: WriterId, number: u64) {
        let names = ["json", "sig", "age"].map(|ending| format!("evidence/{writer}/{number:010}.{ending}"));
        names.iter().for_each(|name| self.remove(store, name));
    }

    /// The snapshots whose inventory a store holds.
    pub(crate) fn committed(&self, store: usize) -> BTreeSet<SnapshotId> {
        let keys = self.keys(store).into_iter();
        keys.filter_map(|key| key.strip_prefix(FOLDER).and_then(layout_snapshot)).collect()
    }

    /// The segments, of 1 MiB, that the snapshots of a store that are not deleted begin to replay in.
    pub(crate) fn log_begins(&self, store: usize) -> Vec<u64> {
        let buried = Graves::of(self).snapshots();
        let live = self.committed(store).into_iter().filter(|id| !buried.contains(id));
        live.map(|id| {
            let inventory = self.get(store, &format!("{FOLDER}snapshots/{id}/inventory.json")).unwrap();
            let inventory: Value = serde_json::from_slice(&inventory).unwrap();
            inventory["log"]["start"].as_str().unwrap().parse::<Lsn>().unwrap().0 >> 20
        })
        .collect()
    }

    /// The largest number that any snapshot on any store has, committed or begun.
    pub(crate) fn largest_seq(&self) -> u64 {
        let keys = (0..3).flat_map(|store| self.keys(store));
        let ids = keys.filter_map(|key| layout::snapshot_of(key.strip_prefix(FOLDER)?));
        ids.map(|id| id.seq).max().unwrap_or(0)
    }
}

fn layout_snapshot(name: &str) -> Option<SnapshotId> {
    name.strip_prefix("snapshots/")?.strip_suffix("/inventory.json")?.parse().ok()
}

fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Watches the stores of a site: objects never change, and no inventory is without its objects. What an executed prune
/// plan names may go.
#[derive(Default)]
pub(crate) struct Audit {
    seen: Vec<BTreeMap<String, Bytes>>,
    digests: BTreeMap<(usize, String), String>,
}

impl Audit {
    /// Looks at every store; says what must not be.
    pub(crate) fn faults(&mut self, site: &Site) -> Vec<String> {
        let mut faults = Vec::new();
        let graves = Graves::of(site);
        let is_deleted = |key: &str| key.strip_prefix(FOLDER).is_some_and(|name| graves.name(name));
        self.seen.resize(site.backends.len(), BTreeMap::new());
        for (store, name) in STORES.iter().enumerate().take(site.backends.len()) {
            let objects = site.objects(store);
            for (key, before) in &self.seen[store] {
                match objects.get(key) {
                    None if is_deleted(key) => {}
                    None => faults.push(format!("{name}: {key} is gone")),
                    // The signature of a record that was never finished.
                    Some(_)
                        if key.contains("/prunes/")
                            && key.strip_suffix(".sig").is_some_and(|json| !self.seen[store].contains_key(json)) => {}
                    Some(now) if now != before => faults.push(format!("{name}: {key} was overwritten")),
                    Some(_) => {}
                }
            }
            for key in objects.keys() {
                if key.strip_prefix(FOLDER).and_then(layout_snapshot).is_some() && !is_deleted(key) {
                    let lacking = self.inventory_faults(store, key, &objects);
                    let of_store = |fault: &String| {
                        fault.strip_prefix(name).and_then(|fault| fault.strip_prefix(": ")).map(str::to_owned)
                    };
                    faults.extend(
                        lacking.into_iter().filter(|fault| !of_store(fault).is_some_and(|key| is_deleted(&key))),
                    );
                }
            }
            self.seen[store] = objects;
        }
        faults
    }

    /// The needed objects that a store lacks although it holds the inventory.
    fn inventory_faults(&mut self, store: usize, key: &str, objects: &BTreeMap<String, Bytes>) -> Vec<String> {
        let Some(needed) = needed(&objects[key], objects) else {
            return vec![format!("{}: {key}", STORES[store])];
        };
        let mut faults: Vec<String> = needed
            .into_iter()
            .filter(|(name, expected)| !self.is_right(store, name, expected, objects))
            .map(|(name, _)| format!("{}: {FOLDER}{name}", STORES[store]))
            .collect();
        if !objects.contains_key(&format!("{key}.sig")) {
            faults.push(format!("{}: {key}.sig", STORES[store]));
        }
        faults
    }

    fn is_right(&mut self, store: usize, name: &str, expected: &str, objects: &BTreeMap<String, Bytes>) -> bool {
        let key = format!("{FOLDER}{name}");
        let Some(bytes) = objects.get(&key) else { return false };
        // Digests are kept, for objects never change; where one did, the comparison with what was seen says so.
        let known = self.digests.entry((store, key)).or_default();
        if known != expected {
            *known = sha256(bytes);
        }
        known == expected
    }
}

/// Names below the source's folder, with digests, of all that an inventory needs but itself and its signature.
pub(crate) fn needed(inventory: &[u8], objects: &BTreeMap<String, Bytes>) -> Option<Vec<(String, String)>> {
    let inventory: Value = serde_json::from_slice(inventory).ok()?;
    let mut needed = vec![(text(&inventory["manifest"]["name"]), text(&inventory["manifest"]["sha256"]))];
    for used in inventory["uses"].as_array()? {
        let run = text(&used["run"]);
        let list = format!("packs/{run}/objects.json");
        needed.push((list.clone(), text(&used["objects_sha256"])));
        let Some(list) = objects.get(&format!("{FOLDER}{list}")) else { continue };
        let Ok(list) = serde_json::from_slice::<Value>(list) else { continue };
        let mut packs = pack_numbers(&text(&used["packs"]));
        for object in list["objects"].as_array()? {
            let name = text(&object["name"]);
            let pack = name.strip_suffix(".age").and_then(|stem| stem.parse::<u32>().ok());
            if pack.is_none_or(|pack| packs.remove(&pack)) {
                needed.push((format!("packs/{run}/{name}"), text(&object["sha256"])));
            }
        }
        needed.extend(packs.iter().map(|pack| (format!("packs/{run}/{pack}.age (not listed)"), String::new())));
    }
    Some(needed)
}

/// Snapshots that need something that a prune has deleted, and are not deleted themselves.
pub(crate) fn spoilt(site: &Site, graves: &Graves) -> BTreeSet<SnapshotId> {
    let mut spoilt = BTreeSet::new();
    for store in 0..site.backends.len() {
        let objects = site.objects(store);
        for id in site.committed(store).difference(&graves.snapshots()) {
            let needed = needed(&objects[&format!("{FOLDER}snapshots/{id}/inventory.json")], &objects);
            if needed.unwrap().iter().any(|(name, _)| graves.name(name.trim_end_matches(" (not listed)"))) {
                spoilt.insert(*id);
            }
        }
    }
    spoilt
}

/// The heads: snapshots on any store that no other names as its parent.
pub(crate) fn heads(site: &Site) -> BTreeSet<SnapshotId> {
    let mut all = BTreeSet::new();
    let mut named = BTreeSet::new();
    for store in 0..site.backends.len() {
        for id in site.committed(store) {
            let key = format!("{FOLDER}snapshots/{id}/inventory.json");
            let inventory: Value = serde_json::from_slice(&site.get(store, &key).unwrap()).unwrap();
            let parents = inventory["parents"].as_array().unwrap();
            named.extend(parents.iter().map(|parent| text(&parent["id"]).parse::<SnapshotId>().unwrap()));
            all.insert(id);
        }
    }
    &all - &named
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub(super) fn pack_numbers(ranges: &str) -> BTreeSet<u32> {
    let numbers = ranges.split(',').filter(|range| !range.is_empty()).map(|range| match range.split_once('-') {
        Some((first, last)) => first.parse().unwrap()..=last.parse().unwrap(),
        None => range.parse().unwrap()..=range.parse().unwrap(),
    });
    numbers.flatten().collect()
}
