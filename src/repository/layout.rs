//! Where everything lies on a store.

use crate::core::{
    evidence::WriterId,
    id::{RunId, SnapshotId, SourceName},
    inventory::Inventory,
    log::{HistoryId, LogFile, LogRecordId},
    manifest::PartId,
    prune::Stage,
    vouch::VouchId,
};
use crate::format::objects::ObjectKind;

/// The clear file that says which repository a store holds.
pub const REPOSITORY: &str = "recoup.json";
/// How to restore without recoup, for people.
pub const RECOVERY_NOTE: &str = "RECOVERY.md";
/// How to restore without recoup, for a shell.
pub const RECOVERY_SCRIPT: &str = "recover.sh";

/// Name of an inventory in its snapshot's folder.
pub const INVENTORY: &str = "inventory.json";
/// Name of an inventory's signature in its snapshot's folder.
pub const SIGNATURE: &str = "inventory.json.sig";
/// Name of a run's object list in its folder.
pub const OBJECTS: &str = "objects.json";
/// Name of the note in a run's folder that says who writes it; the run's first object.
pub const WRITER: &str = "writer.json";

/// The folder of a source's prune plans.
pub const PRUNES: &str = "prunes";
const PLAN: &str = "plan.json";
const EXECUTED: &str = "executed.json";

/// The folder of all sources, with its slash.
pub const SOURCES: &str = "sources/";

/// The folder of the control log, with its slash.
pub const EVIDENCE: &str = "evidence/";

/// The folder of vouches for what revoked signers signed, with its slash.
pub const KEYS: &str = "keys/";

/// An object of a vouch: the list itself, or its signature.
pub fn vouch(id: VouchId, ending: &str) -> String {
    format!("{KEYS}{id}.{ending}")
}

/// The vouch that a full name is the list of, if it is one.
pub fn vouch_of(name: &str) -> Option<VouchId> {
    name.strip_prefix(KEYS)?.strip_suffix(".json")?.parse().ok()
}

/// An object of an evidence record: its envelope, its signature or its body.
pub fn evidence(writer: WriterId, number: u64, ending: &str) -> String {
    format!("{EVIDENCE}{writer}/{number:010}.{ending}")
}

/// The writer and number of the evidence record that a full name is the envelope of, if it is one.
pub fn evidence_record(name: &str) -> Option<(WriterId, u64)> {
    let (writer, number) = name.strip_prefix(EVIDENCE)?.strip_suffix(".json")?.split_once('/')?;
    let number =
        Some(number).filter(|digits| digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// The folder of a source, with its slash. All other names here are relative to it.
pub fn source_folder(source: &SourceName) -> String {
    format!("{SOURCES}{source}/")
}

/// The folder of all packs, below that of a source.
pub const PACKS: &str = "packs/";

/// An object of a run.
pub fn run_object(run: RunId, name: &str) -> String {
    format!("{PACKS}{run}/{name}")
}

/// A pack.
pub fn pack(run: RunId, pack: u32) -> String {
    run_object(run, &ObjectKind::Pack(pack).name())
}

/// A manifest part.
pub fn part(id: PartId) -> String {
    run_object(id.run, &ObjectKind::ManifestPart(id.part).name())
}

/// An object in a snapshot's folder.
pub fn snapshot_object(id: SnapshotId, name: &str) -> String {
    format!("snapshots/{id}/{name}")
}

/// The root of the manifest that a run writes for its snapshot.
pub fn manifest_root(id: SnapshotId) -> String {
    snapshot_object(id, "manifest.age")
}

/// The snapshot whose committed inventory a name is, if it is one.
pub fn committed_snapshot(name: &str) -> Option<SnapshotId> {
    name.strip_prefix("snapshots/")?.strip_suffix(INVENTORY)?.strip_suffix('/')?.parse().ok()
}

/// The snapshot whose folder an object lies in, whatever it is, if it is one.
pub fn snapshot_of(name: &str) -> Option<SnapshotId> {
    name.strip_prefix("snapshots/")?.split_once('/')?.0.parse().ok()
}

/// The run whose folder an object lies in, if it is one.
pub fn run_of(name: &str) -> Option<RunId> {
    name.strip_prefix(PACKS)?.split_once('/')?.0.parse().ok()
}

/// A record of a prune plan; its signature has `.sig` after it.
pub fn prune_object(plan: RunId, stage: Stage) -> String {
    let name = match stage {
        Stage::Planned => PLAN,
        Stage::Executed => EXECUTED,
    };
    format!("{PRUNES}/{plan}/{name}")
}

/// What lists the runs of a log that an executed plan names.
pub fn prune_list(plan: RunId) -> String {
    format!("{PRUNES}/{plan}/log.json")
}

/// The plan and the record whose JSON a name is, if it is one.
pub fn prune_record(name: &str) -> Option<(RunId, Stage)> {
    let (plan, record) = name.strip_prefix(PRUNES)?.strip_prefix('/')?.split_once('/')?;
    let stage = match record {
        PLAN => Stage::Planned,
        EXECUTED => Stage::Executed,
        _ => return None,
    };
    Some((plan.parse().ok()?, stage))
}

/// The folder of a source's log, with its slash.
pub const LOG: &str = "log/";

/// The folder of a history of a log, with its slash.
pub fn log_folder(history: HistoryId) -> String {
    format!("{LOG}{}/", history.key())
}

/// A sealed file of a log.
pub fn log_file(history: HistoryId, file: LogFile, run: RunId) -> String {
    format!("{}{}-{run}.age", log_folder(history), file.key())
}

/// A signed record of files of a log.
pub fn log_record(id: LogRecordId) -> String {
    format!("{}{}-{}.json", log_folder(id.history), id.first.key(), id.run)
}

/// The record whose name this is, if it is one.
pub fn log_record_of(name: &str) -> Option<LogRecordId> {
    let (history, first, run) = log_name(name.strip_suffix(".json")?)?;
    Some(LogRecordId { history, first, run })
}

/// The sealed file of a log whose name this is, if it is one.
pub fn log_file_of(name: &str) -> Option<(HistoryId, LogFile, RunId)> {
    log_name(name.strip_suffix(".age")?)
}

fn log_name(name: &str) -> Option<(HistoryId, LogFile, RunId)> {
    let (history, object) = name.strip_prefix(LOG)?.split_once('/')?;
    let (file, run) = object.rsplit_once('-')?;
    Some((HistoryId::from_key(history)?, LogFile::from_key(file)?, run.parse().ok()?))
}

/// Names of the clear and sealed objects in a snapshot's own folder that its inventory needs.
pub fn commit_names(inventory: &Inventory) -> [String; 3] {
    let id = inventory.id();
    [inventory.manifest.name.clone(), snapshot_object(id, SIGNATURE), snapshot_object(id, INVENTORY)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_snapshots() {
        let id: SnapshotId = "0000000007-aaaaaaaaaaaaaaaa".parse().unwrap();
        assert_eq!(committed_snapshot(&snapshot_object(id, INVENTORY)), Some(id));
        assert_eq!(snapshot_of(&manifest_root(id)), Some(id));
        assert_eq!(snapshot_of("snapshots/0000000007-aaaaaaaaaaaaaaaa"), None);
        for other in [snapshot_object(id, SIGNATURE), manifest_root(id), "snapshots/inventory.json".into(), "x".into()]
        {
            assert_eq!(committed_snapshot(&other), None, "{other}");
        }
    }

    #[test]
    fn names_of_logs() {
        let history: HistoryId = "7301234567890123456-0000000A".parse().unwrap();
        let run: RunId = "aaaaaaaaaaaaaaaa".parse().unwrap();
        for file in ["0000000A00000000000000FE", "0000000A.history", "0000000A00000000000000FE.0000002C.backup"] {
            let first: LogFile = file.parse().unwrap();
            let id = LogRecordId { history, first, run };
            assert_eq!(log_record_of(&log_record(id)), Some(id));
            assert_eq!(log_file_of(&log_file(history, first, run)), Some((history, first, run)));
            assert_eq!(log_record(id), log_record(id).to_lowercase());
            assert_eq!((log_file_of(&log_record(id)), log_record_of(&log_file(history, first, run))), (None, None));
        }
        for other in ["log/x/y-aaaaaaaaaaaaaaaa.json", "log/7-0000000a/0000000a.history.json", "log/7-0000000a.json"] {
            assert_eq!(log_record_of(other), None, "{other}");
        }
    }

    #[test]
    fn prune_records() {
        let plan: RunId = "aaaaaaaaaaaaaaaa".parse().unwrap();
        for stage in [Stage::Planned, Stage::Executed] {
            assert_eq!(prune_record(&prune_object(plan, stage)), Some((plan, stage)));
        }
        assert_eq!(prune_record(&prune_list(plan)), None);
        for other in ["prunes/aaaaaaaaaaaaaaaa/plan.json.sig", "prunes/x/plan.json", "prunes/plan.json", "plan.json"] {
            assert_eq!(prune_record(other), None, "{other}");
        }
        assert_eq!(run_of("packs/aaaaaaaaaaaaaaaa/0.age"), Some(plan));
        assert_eq!(run_of("packs/aaaaaaaaaaaaaaaa"), None);
    }
}
