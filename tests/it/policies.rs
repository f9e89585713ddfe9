//! The policies that come with recoup: each is read, and each assertion finds what it is there to find.

use crate::{house::House, site::ends_at, support::run};
use recoup::{
    config,
    core::{
        manifest::{Entry, EntryKind},
        path::StoredPath,
        policy::{Assertion, Policy},
    },
    ops::demo::ledger,
    sources,
};
use rusqlite::Connection;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn files() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let named =
        |path: PathBuf| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(path).unwrap());
    entries.map(named).collect()
}

/// Two stores that meet every policy, and one source.
fn configuration(policy: &str) -> String {
    let store = |name: &str| {
        format!("[[store]]\nname = \"{name}\"\nurl = \"file:///{name}\"\nregion = \"{name}\"\nprovider = \"{name}\"\n")
    };
    let source = format!("[[source]]\nname = \"l\"\nkind = \"sqlite\"\npath = \"/l.db\"\npolicy = \"{policy}\"\n");
    format!("[encryption]\nrecipients = [\"age1\"]\n{}{}{source}", store("a"), store("b"))
}

fn policy(name: &str) -> Policy {
    let files = files();
    let read = |wanted: &str| {
        let found = files.iter().find(|(name, _)| name == wanted);
        Ok(found.map(|(name, text)| (PathBuf::from(format!("policies/{name}.toml")), text.clone())))
    };
    let settings = config::parse(&configuration(name), Path::new("/etc/recoup/recoup.toml"), &read).unwrap();
    settings.policy(&settings.sources[0]).clone()
}

#[test]
fn every_policy_that_comes_along_is_read() {
    let names: BTreeSet<String> = files().into_iter().map(|(name, _)| name).collect();
    let expected = ["bronze", "compliance-log", "default", "gold", "ledger", "silver"];
    assert_eq!(names, expected.map(str::to_owned).into());
    for (name, promises) in expected.map(|name| (name, name != "default")) {
        let policy = policy(name);
        let promised = [policy.rpo, policy.rto, policy.full_interval, policy.keep_within, policy.drill_interval];
        assert_eq!(promised.iter().all(Option::is_some), promises, "{name}: {policy:?}");
        // What is taken less often than it may be lost could never hold.
        assert!(policy.incremental_interval <= policy.rpo, "{name}");
    }
}

#[test]
fn the_tiers_are_built_in_and_a_file_stands_in_their_place() {
    let house = House::founded();
    let path = house.path("R/recoup.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("policy = \"default\"", "policy = \"silver\"")).unwrap();
    let shown = run(&mut house.recoup(["config", "show"])).expect_code(0).stdout;
    assert!(shown.contains("policy.silver.rpo = \"1h\"") && shown.contains("# built in"), "{shown}");
    house.backup();
    // Gold asks for what these stores do not say of themselves.
    fs::write(&path, text.replace("policy = \"default\"", "policy = \"gold\"")).unwrap();
    let refused = run(&mut house.recoup(["backup"])).expect_code(78);
    assert!(refused.stderr.contains("min_regions"), "{refused:?}");
    fs::write(house.path("R/policies/gold.toml"), "rpo = \"2h\"\n").unwrap();
    let shown = run(&mut house.recoup(["config", "show"])).expect_code(0).stdout;
    assert!(shown.contains("policy.gold.rpo = \"2h\"") && shown.contains("policies/gold.toml:1"), "{shown}");
}

/// What breaks the rule, and must be found by the assertion of this name.
const FAULTS: &[(&str, &str)] = &[
    ("every transfer balances, per currency", "update posting set amount_minor = amount_minor + 1 where id = 7"),
    ("every transfer has two postings at least", "delete from posting where transfer = 5"),
    ("every balance is the sum of its postings", "update account set balance_minor = balance_minor + 1 where id = 2"),
    ("every posting belongs to a transfer and an account", "delete from transfer where id = 9"),
    (
        "every bet that was won was paid once, and no other",
        "update bet set state = 'lost' where id = (select min(id) from bet where state = 'won')",
    ),
    (
        "nothing was booked twice",
        "drop index transfer_by_reference;
         update transfer set reference = (select reference from transfer where id = 3) where id = 4",
    ),
    (
        "no player is below zero",
        "update account set balance_minor = -1 where id = (select min(id) from account where kind = 'player')",
    ),
    ("money is neither made nor lost", "update account set balance_minor = balance_minor + 5 where id = 3"),
];

#[test]
fn the_assertions_of_the_ledger_find_what_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.db");
    ledger::create(&whole, 3_000, 5, ends_at()).unwrap();
    Connection::open(&whole)
        .unwrap()
        .execute_batch("pragma wal_checkpoint(truncate); pragma journal_mode = delete")
        .unwrap();
    let assertions = policy("ledger").assertions;
    let failing = |path: &Path| -> BTreeSet<String> {
        let name = StoredPath::parse(path.file_name().unwrap().to_str().unwrap()).unwrap();
        let kind = EntryKind::File { size: fs::metadata(path).unwrap().len(), block_size: 4096 };
        let entry = Entry { path: name, kind, mode: 0o600, uid: 0, gid: 0 };
        let checks = sources::check_assertions("sqlite", path.parent().unwrap(), &[entry], &assertions);
        assert!(checks.iter().all(|check| !check.actual.contains("could not")), "{checks:?}");
        checks.into_iter().filter(|check| !check.ok).map(|check| check.name).collect()
    };
    assert_eq!(failing(&whole), BTreeSet::new());
    for (name, fault) in FAULTS {
        let broken = dir.path().join("broken.db");
        fs::copy(&whole, &broken).unwrap();
        Connection::open(&broken).unwrap().execute_batch(&format!("pragma foreign_keys = off; {fault}")).unwrap();
        assert!(failing(&broken).contains(*name), "{name}");
    }
    let named: Vec<&str> = assertions.iter().map(|Assertion { name, .. }| name.as_str()).collect();
    assert_eq!(named, FAULTS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), "an assertion that nothing tries");
}
