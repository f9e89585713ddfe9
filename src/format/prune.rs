//! `plan.json` and `executed.json` as bytes. The signature is over the exact bytes and is checked before they are parsed.
//! And `log.json`, whose SHA-256 the second of them names.

use super::{FormatError, parse_document, signature};
use crate::core::{
    id::RepositoryId,
    prune::{FORMAT, LIST_FORMAT, LogList, PruneRecord},
};

/// The most bytes that a reader accepts: 20,000 snapshots with all that goes with them take a third of it.
pub const MAX_BYTES: u64 = 32 * 1024 * 1024;

/// Who signs prune records, as `allowed_signers` names it: `prune@<repository id>`.
pub fn principal(repository: &RepositoryId) -> String {
    signature::role_principal("prune", repository)
}

/// The bytes of a record, in one line: plans may be large.
pub fn to_bytes(record: &PruneRecord) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(record).expect("a record has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads and checks a record whose signature has been checked.
pub fn parse(bytes: &[u8]) -> Result<PruneRecord, FormatError> {
    parse_document(bytes, FORMAT, |record: &PruneRecord| &record.format, PruneRecord::contradiction)
}

/// The bytes of a list: the same for the same plan, whoever executes it.
pub fn list_to_bytes(list: &LogList) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(list).expect("a list has no map with odd keys");
    bytes.push(b'\n');
    bytes
}

/// Reads and checks a list whose SHA-256 is the one that a record names.
pub fn parse_list(bytes: &[u8]) -> Result<LogList, FormatError> {
    parse_document(bytes, LIST_FORMAT, |list: &LogList| &list.format, LogList::contradiction)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::{RunId, Sha256, SnapshotId},
        inventory::Parent,
        log::{HistoryId, Lsn},
        prune::{
            Because, Condemned, CondemnedLog, CondemnedRun, CondemnedSnapshot, LogBound, MAX_LOG_PARTS, MAX_LOG_RUNS,
            MAX_RUNS, MAX_SNAPSHOTS, Stage,
        },
    };

    fn record(snapshots: usize) -> PruneRecord {
        let run = |number: usize| {
            let mut random = [0; 16];
            random[..8].copy_from_slice(&number.to_le_bytes().map(|byte| byte & 31));
            RunId::from_random(random)
        };
        let id = |number: usize| SnapshotId { seq: number as u64 + 1, run: run(number) };
        let condemned = Condemned {
            snapshots: (0..snapshots)
                .map(|number| CondemnedSnapshot {
                    id: id(number),
                    inventory_sha256: Some(Sha256([number as u8; 32])),
                    because: Because::Retention,
                    on_every_store: number != 2,
                })
                .collect(),
            roots: (0..snapshots).map(id).collect(),
            runs: (0..snapshots)
                .map(|number| CondemnedRun {
                    run: run(number),
                    packs: "0-41,44".parse().unwrap(),
                    whole: number % 2 == 0,
                })
                .collect(),
            folders: Vec::new(),
            log: Vec::new(),
        };
        PruneRecord {
            format: FORMAT.into(),
            stage: Stage::Planned,
            repository: run(7),
            source: "ledger".parse().unwrap(),
            plan: run(8),
            writer: "SHA256:x".into(),
            created_at: "2026-11-22T10:00:00Z".parse().unwrap(),
            policy_sha256: None,
            keep_within_seconds: Some(3600),
            keep_last: None,
            condemned,
            dropped: Condemned::default(),
            log_sha256: None,
            orphans_seen: vec![run(9)],
            writers_seen: Vec::new(),
            confirmed: Vec::new(),
        }
    }

    fn log(runs: usize) -> CondemnedLog {
        CondemnedLog {
            history: "7301234567890123456-00000001".parse().unwrap(),
            segment_bytes: 16 << 20,
            bound: LogBound::Everything(Lsn(1 << 30)),
            files: 1,
            bytes: 1,
            runs: vec![RunId::from_random([9; 16]); runs],
        }
    }

    #[test]
    fn the_largest_plan_fits() {
        let plan = record(MAX_SNAPSHOTS);
        let bytes = to_bytes(&plan);
        assert!((bytes.len() as u64) < MAX_BYTES / 2, "{}", bytes.len());
        assert_eq!(parse(&bytes).unwrap(), plan);
    }

    #[test]
    fn the_largest_plan_of_a_log_fits_and_its_execution_only_names_the_list() {
        let part = CondemnedLog {
            bound: LogBound::Before(Lsn(u64::MAX)),
            files: u64::from(u32::MAX),
            bytes: 1 << 53,
            ..log(MAX_LOG_RUNS)
        };
        let mut plan = record(0);
        plan.condemned.log = vec![part.clone()];
        let bytes = to_bytes(&plan);
        assert!(bytes.len() < 4 * 1024 * 1024, "{}", bytes.len());
        assert_eq!(parse(&bytes).unwrap(), plan);
        let list = LogList::of(plan.plan, &plan.condemned.log);
        let listed = list_to_bytes(&list);
        assert!(listed.len() < 4 * 1024 * 1024, "{}", listed.len());
        assert_eq!(parse_list(&listed).unwrap(), list);
        let log_sha256 = Some(crate::format::sha256(&listed));
        let executed = PruneRecord { stage: Stage::Executed, log_sha256, ..plan };
        let unbound = PruneRecord { log_sha256: None, ..executed.clone() };
        assert!(parse(&to_bytes(&unbound)).is_err(), "nothing tells which runs it deletes");
        let bytes = to_bytes(&executed.unlisted());
        assert!(bytes.len() < 1024, "{}", bytes.len());
        assert_eq!(parse(&bytes).unwrap().condemned.log, [part.unlisted()]);
    }

    #[test]
    fn records_that_cannot_be_right_are_refused() {
        let good = record(2);
        assert!(parse(&to_bytes(&good)).is_ok());
        let spoilt: [fn(&mut PruneRecord); 10] = [
            |record| record.format = "recoup-prune/0".into(),
            |record| record.dropped.roots = record.condemned.roots.clone(),
            |record| record.writer = "\u{1b}[31m".into(),
            |record| record.orphans_seen = vec![record.plan; MAX_RUNS + 1],
            |record| {
                let id = record.condemned.snapshots[0].id;
                record.confirmed = vec![Parent { id, sha256: Sha256([0; 32]) }; MAX_SNAPSHOTS + 1];
            },
            |record| record.condemned.snapshots = vec![record.condemned.snapshots[0].clone(); MAX_SNAPSHOTS + 1],
            |record| record.condemned.log = vec![log(MAX_LOG_RUNS + 1)],
            |record| {
                let of = |timeline| CondemnedLog { history: HistoryId { system: 7, timeline }, ..log(1) };
                record.condemned.log = (1..=MAX_LOG_PARTS as u32 + 1).map(of).collect();
            },
            |record| record.condemned.log = vec![CondemnedLog { segment_bytes: 3 << 20, ..log(1) }],
            |record| record.condemned.log = vec![log(1), CondemnedLog { files: 2, ..log(2) }],
        ];
        for spoil in spoilt {
            let mut bad = good.clone();
            spoil(&mut bad);
            assert!(matches!(parse(&to_bytes(&bad)), Err(FormatError::Damaged(_))));
        }
        let newer = PruneRecord { format: "recoup-prune/2".into(), ..good };
        assert!(matches!(parse(&to_bytes(&newer)), Err(FormatError::Newer { .. })));
        for rubbish in [&b""[..], b"{}", b"[]", b"{\"format\":\"recoup-prune/1\"}"] {
            assert!(parse(rubbish).is_err());
        }
    }

    #[test]
    fn lists_that_cannot_be_right_are_refused() {
        let good = LogList::of(RunId::from_random([8; 16]), &[log(1)]);
        assert_eq!(parse_list(&list_to_bytes(&good)).unwrap(), good);
        for log in [vec![log(MAX_LOG_RUNS + 1)], vec![log(1), CondemnedLog { files: 2, ..log(2) }]] {
            let bad = LogList { log, ..good.clone() };
            assert!(matches!(parse_list(&list_to_bytes(&bad)), Err(FormatError::Damaged(_))));
        }
        let newer = LogList { format: "recoup-prune-log/2".into(), ..good };
        assert!(matches!(parse_list(&list_to_bytes(&newer)), Err(FormatError::Newer { .. })));
        assert!(parse_list(b"{\"format\":\"recoup-prune-log/1\"}").is_err());
    }
}
