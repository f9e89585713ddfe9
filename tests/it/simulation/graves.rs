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
                let mut record: Value = serde_json::from_slice(&site.get(store, &key).unwrap()).unwrap();
                list_runs(site, plan, &mut record["condemned"]);
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

/// Puts the runs of a log, which are listed apart, into the record of an execution.
fn list_runs(site: &Site, plan: &str, condemned: &mut Value) {
    let Some(parts) = condemned.get_mut("log").and_then(Value::as_array_mut) else { return };
    let key = format!("{FOLDER}prunes/{plan}/log.json");
    let list = (0..site.backends.len()).find_map(|store| site.get(store, &key)).unwrap();
    let list: Value = serde_json::from_slice(&list).unwrap();
    for part in parts {
        let listed = list["log"].as_array().unwrap().iter();
        let same = |other: &&Value| other["history"] == part["history"] && other["bound"] == part["bound"];
        let runs = listed.filter(same).map(|other| other["runs"].clone()).next().unwrap();
        part["runs"] = runs;
    }
}

/// Whether an object is of a run of a log that is deleted. How far the bound reaches is no matter here: the runs that a
/// plan names are deleted as a whole, or wrongly.
fn names_log(condemned: &Value, history: &str, object: &str) -> bool {
    let runs = |part: &Value| part["runs"].as_array().unwrap().clone();
    let run = object.rsplit_once('.').and_then(|(stem, _)| stem.rsplit_once('-')).map(|(_, run)| run.to_owned());
    let of_history = |part: &&Value| part["history"].as_str().unwrap().to_lowercase() == history;
    let parts = condemned.get("log").and_then(Value::as_array).into_iter().flatten();
    run.is_some_and(|run| parts.filter(of_history).flat_map(runs).any(|named| named.as_str() == Some(&run)))
}

fn names(condemned: &Value, name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let [folder, owner, object] = parts[..] else { return false };
    if folder == "log" {
        return names_log(condemned, owner, object);
    }
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
