//! `plan.json` and `executed.json` as bytes. The signature is over the exact bytes and is checked before they are parsed.

use super::{FormatError, parse_document, signature};
use crate::core::{
    id::RepositoryId,
    prune::{FORMAT, PruneRecord},
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        id::{RunId, Sha256, SnapshotId},
        inventory::Parent,
        prune::{Because, Condemned, CondemnedRun, CondemnedSnapshot, MAX_RUNS, MAX_SNAPSHOTS, Stage},
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
            orphans_seen: vec![run(9)],
            writers_seen: Vec::new(),
            confirmed: Vec::new(),
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
    fn records_that_cannot_be_right_are_refused() {
        let good = record(2);
        assert!(parse(&to_bytes(&good)).is_ok());
        let spoilt: [fn(&mut PruneRecord); 6] = [
            |record| record.format = "recoup-prune/0".into(),
            |record| record.dropped.roots = record.condemned.roots.clone(),
            |record| record.writer = "\u{1b}[31m".into(),
            |record| record.orphans_seen = vec![record.plan; MAX_RUNS + 1],
            |record| {
                let id = record.condemned.snapshots[0].id;
                record.confirmed = vec![Parent { id, sha256: Sha256([0; 32]) }; MAX_SNAPSHOTS + 1];
            },
            |record| record.condemned.snapshots = vec![record.condemned.snapshots[0].clone(); MAX_SNAPSHOTS + 1],
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
}
