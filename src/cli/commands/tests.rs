//! What people read.

use super::*;
use crate::core::{
    inventory::Kind,
    result::{
        CopiedStore, CopyResult, CopySchema, DoctorFinding, DoctorResult, Durability, Problem, Severity, SnapshotEntry,
        Status, VerifyResult, VerifySchema,
    },
};

fn snapshot(seq: u64, run: &str) -> SnapshotEntry {
    SnapshotEntry {
        source: "ledger".parse().unwrap(),
        seq,
        run: run.parse().unwrap(),
        kind: if seq == 1 { Kind::Full } else { Kind::Incremental },
        created_at: "2026-11-22T09:15:00.5Z".parse().unwrap(),
        position: "p".to_owned(),
        durable: seq != 2,
        bytes_raw: 1 << 30,
        bytes_stored: 5_000,
        stores: if seq == 2 { Vec::new() } else { vec!["a".to_owned(), "b".to_owned()] },
        holds: Vec::new(),
        read_started_at: "2026-11-22T09:15:00.25Z".parse().unwrap(),
        durability: match seq {
            1 => Durability::Durable,
            2 => Durability::NotDurable,
            _ => Durability::Unknown,
        },
        log: None,
    }
}

#[test]
fn the_list_is_a_table_that_shows_forks() {
    let [a, b] = ["aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb"];
    let snapshots = [snapshot(1, a), snapshot(2, a), snapshot(10, a), snapshot(10, b)];
    let now = "2026-11-22T10:20:00Z".parse().unwrap();
    insta::assert_snapshot!(list::table(&snapshots, now), @r"
    SOURCE                          SEQ  KIND         READ                         AGE     SIZE   STORED  STORES  DURABLE
    ledger                            1  full         2026-11-22T09:15:00.250Z  65 min  1.0 GiB  4.9 KiB  a,b     yes
    ledger                            2  incremental  2026-11-22T09:15:00.250Z  65 min  1.0 GiB  4.9 KiB  -       NO
    ledger  0000000010-aaaaaaaaaaaaaaaa  incremental  2026-11-22T09:15:00.250Z  65 min  1.0 GiB  4.9 KiB  a,b     ?
    ledger  0000000010-bbbbbbbbbbbbbbbb  incremental  2026-11-22T09:15:00.250Z  65 min  1.0 GiB  4.9 KiB  a,b     ?
    ");
    let held = SnapshotEntry { holds: vec!["holdholdholdhold".to_owned(); 2], ..snapshot(1, a) };
    let table = list::table(&[held, snapshot(2, a)], now);
    let last: Vec<_> = table.lines().map(|line| line.split_whitespace().last().unwrap()).collect();
    assert_eq!(last, ["HOLDS", "2", "-"]);
    assert_eq!(list::table(&[], now), "");
}

fn finding(store: &str, object: Option<&str>, problem: Problem, snapshots: usize) -> StoreFinding {
    let id = |seq| snapshot(seq as u64 + 1, "aaaaaaaaaaaaaaaa").id();
    StoreFinding {
        store: store.to_owned(),
        object: object.map(str::to_owned),
        problem,
        snapshots: (0..snapshots).map(id).collect(),
        cause: None,
    }
}

#[test]
fn findings_are_grouped_by_store() {
    let findings = vec![
        finding("c", None, Problem::Unreachable, 0),
        finding("b", Some("sources/ledger/packs/x/0.age"), Problem::Damaged, 1),
        finding("b", Some("sources/ledger/packs/x/1.age"), Problem::Missing, 9),
    ];
    let status = Status::Critical;
    let result = VerifyResult {
        schema: VerifySchema,
        status,
        objects: 12,
        bytes: 4096,
        findings: findings.clone(),
        notes: vec![],
        next_steps: vec![],
    };
    insta::assert_snapshot!(verify::text(&result), @r"
    store b
      damaged     sources/ledger/packs/x/0.age  (snapshot 0000000001-aaaaaaaaaaaaaaaa)
      missing     sources/ledger/packs/x/1.age  (9 snapshots)
    store c
      unreachable the store as a whole
    critical: 12 objects checked, 4.0 KiB read, 3 findings
    ");
    let stores =
        vec![CopiedStore { store: "a".to_owned(), copied_objects: 1, copied_bytes: 2048, healed: 2, seeded: false }];
    let findings_left = findings[..1].to_vec();
    let result = CopyResult {
        schema: CopySchema,
        status: Status::Warning,
        stores,
        findings: findings_left,
        notes: vec![],
        next_steps: vec![],
    };
    insta::assert_snapshot!(copy::text(&result), @r"
    store a: 1 object copied (2.0 KiB), 2 objects healed
    store c
      unreachable the store as a whole
    warning
    ");
}

#[test]
fn the_doctor_names_the_worst_first() {
    let finding = |id: &str, severity, store: Option<&str>| DoctorFinding {
        id: id.to_owned(),
        severity,
        store: store.map(str::to_owned),
        message: format!("about {id}"),
        next_step: Some("do something".to_owned()),
    };
    let findings = vec![
        finding("few-custodians", Severity::Note, None),
        finding("store-down", Severity::Warning, Some("b")),
        finding("key-too-open", Severity::Critical, None),
    ];
    insta::assert_snapshot!(doctor::text(&DoctorResult::of(findings)), @r"
    critical  about key-too-open [key-too-open]
              next: do something
    warning   store b: about store-down [store-down]
              next: do something
    note      about few-custodians [few-custodians]
    critical
    ");
}

fn add_names(command: &clap::Command, path: &str, names: &mut Vec<String>) {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        let name = format!("{path}{}", inner.get_name());
        names.push(name.clone());
        add_names(inner, &format!("{name} "), names);
    }
}

#[test]
fn every_command_has_help_beyond_its_flags() {
    let mut root = crate::cli::command();
    root.build();
    let mut names: Vec<String> = vec![String::new()];
    add_names(&root, "", &mut names);
    let explained: Vec<String> = HELP.iter().map(|help| help.command.to_owned()).collect();
    assert_eq!(names, explained);
    for help in HELP {
        assert!(!help.examples.is_empty() && !help.exit_codes.is_empty(), "{}", help.command);
        // Of archive they stand in a server's configuration.
        let is_shown = |line: &str| line.starts_with("recoup ") || line.contains(&format!("recoup {}", help.command));
        assert!(help.examples.iter().all(|(_, line)| is_shown(line) || help.command == "archive"), "{}", help.command);
    }
}
