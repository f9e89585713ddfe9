//! What executed prune plans say is deleted, read behind the library's back.

use super::{FOLDER, Site};
use recoup::core::id::SnapshotId;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The executed records of each plan; where several differ, only what all of them name counts.
#[derive(Default)]
pub(crate) struct Graves(BTreeMap<String, Vec<Value>>);

impl Graves {
    /// Reads them from every store.
    pub(crate) fn of(site: &Site) -> Self {
        let mut graves = Graves::default();
        let mut holders: BTreeMap<String, usize> = BTreeMap::new();
        for store in 0..site.backends.len() {
            for key in site.keys(store) {
                let name = key.strip_prefix(FOLDER).and_then(|name| name.strip_prefix("prunes/"));
                let Some(plan) = name.and_then(|name| name.strip_suffix("/executed.json")) else { continue };
                let record: Value = serde_json::from_slice(&site.get(store, &key).unwrap()).unwrap();
                *holders.entry(plan.to_owned()).or_default() += 1;
                let records = graves.0.entry(plan.to_owned()).or_default();
                if !records.contains(&record) {
                    records.push(record);
                }
            }
        }
        // A prune that was cut short on its first store has executed nothing yet.
        let wanted = 2.min(site.backends.len());
        graves.0.retain(|plan, _| holders[plan] >= wanted);
        graves
    }

    /// The deleted snapshots.
    pub(crate) fn snapshots(&self) -> BTreeSet<SnapshotId> {
        let of = |record: &Value| -> BTreeSet<SnapshotId> {
            let snapshots = record["condemned"]["snapshots"].as_array().unwrap();
            snapshots.iter().map(|snapshot| snapshot["id"].as_str().unwrap().parse().unwrap()).collect()
        };
        let plans = self.0.values().map(|records| records.iter().map(of).reduce(|a, b| &a & &b).unwrap());
        plans.flatten().collect()
    }

    /// Whether an object is deleted; its name is relative to the source's folder.
    pub(crate) fn name(&self, name: &str) -> bool {
        self.0.values().any(|records| records.iter().all(|record| names(&record["condemned"], name)))
    }
}

fn names(condemned: &Value, name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let [folder, owner, object] = parts[..] else { return false };
    let lists = |list: &str| condemned[list].as_array().unwrap().iter().any(|id| id.as_str() == Some(owner));
    if folder == "packs" {
        let pack = object.strip_suffix(".age").and_then(|stem| stem.parse::<u32>().ok());
        return condemned["runs"].as_array().unwrap().iter().filter(|run| run["run"].as_str() == Some(owner)).any(
            |run| {
                let packs = super::audit::pack_numbers(run["packs"].as_str().unwrap());
                run["whole"].as_bool().unwrap() || pack.is_some_and(|pack| packs.contains(&pack))
            },
        );
    }
    let is_condemned = || {
        let snapshots = condemned["snapshots"].as_array().unwrap();
        snapshots.iter().any(|snapshot| snapshot["id"].as_str() == Some(owner))
    };
    folder == "snapshots"
        && (lists("folders") || if object == "manifest.age" { lists("roots") } else { is_condemned() })
}
