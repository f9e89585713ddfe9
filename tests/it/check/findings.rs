//! Everything that can be found, provoked.

use super::{before_the_first, begin_drill, check, date_anew, drill, found, hold, promise, record, well};
use crate::{
    house::{House, STORES, copy_tree, set_mode},
    support::run,
};
use recoup::core::evidence::{HoldCause, Verdict};
use std::fs;

/// Does something to every committed snapshot of a store.
fn each_snapshot(house: &House, store: &str, change: impl Fn(&std::path::Path)) {
    for entry in fs::read_dir(house.path(store).join("sources/ledger/snapshots")).unwrap() {
        change(&entry.unwrap().path());
    }
}

fn spoil(house: &House, stores: &[&str]) {
    for store in stores {
        each_snapshot(house, store, |folder| fs::write(folder.join("inventory.json"), "{}").unwrap());
    }
}

fn uncommit(house: &House, stores: &[&str]) {
    for store in stores {
        each_snapshot(house, store, |folder| fs::remove_file(folder.join("inventory.json")).unwrap());
    }
}

fn away(house: &House, name: &str) {
    fs::rename(house.path(name), house.path(&format!("{name}-away"))).unwrap();
}

fn edit_head(house: &House, edit: impl Fn(&str) -> String) {
    let path = house.path("b/recoup.json");
    fs::write(&path, edit(&fs::read_to_string(&path).unwrap())).unwrap();
}

/// Snapshot 2 is lost on all stores, not on this host.
fn roll_back(house: &House) {
    STORES.iter().for_each(|store| copy_tree(&house.path(store), &house.path(&format!("{store}-then"))));
    house.change_and_backup();
    for store in STORES {
        fs::remove_dir_all(house.path(store)).unwrap();
        fs::rename(house.path(&format!("{store}-then")), house.path(store)).unwrap();
    }
}

/// What the newest snapshot uses stays.
fn lose_what_is_held(house: &House) {
    house.change_and_backup();
    run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "1", "--reason", "case"])).expect_code(0);
    for store in STORES {
        let folders = fs::read_dir(house.path(store).join("sources/ledger/snapshots")).unwrap();
        let oldest = folders.map(|entry| entry.unwrap().path()).min().unwrap();
        fs::remove_file(oldest.join("inventory.json")).unwrap();
    }
}

/// Two hosts take snapshot 2, each without the other's.
fn fork(house: &House) {
    copy_tree(&house.path("R/state"), &house.path("state-then"));
    STORES.iter().for_each(|store| copy_tree(&house.path(store), &house.path(&format!("{store}-then"))));
    house.change_and_backup();
    fs::remove_dir_all(house.path("R/state")).unwrap();
    fs::rename(house.path("state-then"), house.path("R/state")).unwrap();
    for store in STORES {
        fs::rename(house.path(store), house.path(&format!("{store}-other"))).unwrap();
        fs::rename(house.path(&format!("{store}-then")), house.path(store)).unwrap();
    }
    house.change_and_backup();
    for store in STORES {
        copy_tree(&house.path(&format!("{store}-other/sources")), &house.path(store).join("sources"));
    }
}

type Case = (&'static [&'static str], i32, fn(&House));

const CASES: &[Case] = &[
    (&[], 0, |_| {}),
    (&["warning store-down"], 1, |house| away(house, "c")),
    (&["critical store-empty"], 2, |house| fs::remove_file(house.path("b/recoup.json")).unwrap()),
    (&["critical store-foreign"], 2, |house| {
        let other = House::founded();
        fs::copy(other.path("b/recoup.json"), house.path("b/recoup.json")).unwrap();
    }),
    (&["critical store-newer"], 2, |house| {
        edit_head(house, |text| text.replace("\"format_version\": 1", "\"format_version\": 2"));
    }),
    (&["critical store-damaged"], 2, |house| edit_head(house, |text| text[..20].to_owned())),
    (&["warning store-behind"], 1, |house| fs::remove_dir_all(house.path("c/sources")).unwrap()),
    (
        &["critical too-few-stores", "warning control-log-incomplete", "warning store-down", "warning store-down"],
        2,
        |house| ["b", "c"].iter().for_each(|store| away(house, store)),
    ),
    (
        &[
            "critical too-few-stores",
            "warning control-log-incomplete",
            "warning store-down",
            "warning store-down",
            "warning state-lost",
            "warning exposure-unknown",
        ],
        2,
        |house| {
            fs::remove_dir_all(house.path("R/state/sources")).unwrap();
            ["b", "c"].iter().for_each(|store| away(house, store));
        },
    ),
    (&["critical head-rolled-back", "critical evidence-lost"], 2, roll_back),
    (&["critical held-missing"], 2, lose_what_is_held),
    (&["warning fork"], 1, fork),
    (&["warning snapshot-refused"], 1, |house| spoil(house, &["a"])),
    (&["critical not-durable"], 2, |house| uncommit(house, &["b", "c"])),
    (&["critical no-snapshot", "critical head-rolled-back"], 2, |house| uncommit(house, &STORES)),
    (&["critical nobody-trusted"], 2, |house| {
        let other = House::founded();
        fs::copy(other.path("R/allowed_signers"), house.path("R/allowed_signers")).unwrap();
    }),
    (&["critical source-unreachable"], 2, |house| fs::remove_file(house.path("data/ledger.db")).unwrap()),
    (&["critical host-unfit"], 2, |house| set_mode(&house.path("R/host_ed25519"), 0o644)),
    (&["warning state-lost"], 1, |house| fs::remove_dir_all(house.path("R/state/sources")).unwrap()),
    (&["warning state-lost"], 1, |house| fs::remove_dir_all(house.path("R/state")).unwrap()),
    (&["warning clock-suspect"], 1, |house| date_anew(house, super::ago(-10))),
    (&["critical rpo-exceeded"], 2, |house| {
        date_anew(house, super::ago(61));
        house.write_rows(1);
    }),
    (&["warning incremental-overdue", "warning full-overdue"], 1, |house| {
        promise(house, "[schedule]\nfull = \"1d\"\nincremental = \"1h\"\n");
        date_anew(house, super::ago(60 * 31));
    }),
    (&["critical known-damage"], 2, |house| {
        let packs = fs::read_dir(house.path("a/sources/ledger/packs")).unwrap();
        let run_folder = packs.map(|entry| entry.unwrap().path()).next().unwrap();
        fs::write(run_folder.join("0.age"), "damaged").unwrap();
        run(&mut house.recoup(["verify", "--all"])).expect_code(2);
    }),
    (&["critical evidence-refused"], 2, |house| {
        let folder = house.path("a/evidence/aaaaaaaaaaaaaaaa");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("0000000001.json"), "{}").unwrap();
        fs::write(folder.join("0000000001.sig"), "none").unwrap();
    }),
    (&["critical evidence-lost"], 2, |house| {
        for store in STORES {
            let writer = fs::read_dir(house.path(store).join("evidence")).unwrap().next().unwrap().unwrap();
            let mut names: Vec<_> = fs::read_dir(writer.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            // The newest record: its body, its envelope and its signature.
            names.iter().rev().take(3).for_each(|name| fs::remove_file(name).unwrap());
        }
    }),
    (&["critical log-altered"], 2, |house| record(house, hold(HoldCause::LogAltered, Vec::new()))),
    (&["warning drill-overdue"], 1, |house| promise(house, "rpo = \"1h\"\n[drill]\nevery = \"7d\"\n")),
    (&["critical drill-failed"], 2, |house| record(house, drill(Verdict::Failed, 5))),
    (&["warning drill-aborted"], 1, |house| record(house, drill(Verdict::Aborted, 5))),
    (&[], 0, |house| {
        record(house, drill(Verdict::Aborted, 5));
        record(house, drill(Verdict::Passed, 4));
    }),
    (&["warning drill-without-end"], 1, |house| drop(begin_drill(house, 30))),
];

/// The inventories are all there, and nothing of what they name.
#[test]
fn a_store_without_packs_holds_no_copy() {
    let house = well();
    let lose = |store: &str| fs::remove_dir_all(house.path(store).join("sources/ledger/packs")).unwrap();
    lose(STORES[0]);
    let checked = check(&house).expect_code(1);
    assert_eq!(found(&checked), ["warning store-behind"]);
    assert_eq!(checked.json()["sources"][0]["copies"], 2);
    STORES[1..].iter().for_each(|store| lose(store));
    let checked = check(&house).expect_code(2);
    assert_eq!(checked.json()["sources"][0]["copies"], 0);
    assert!(found(&checked).iter().any(|found| found.starts_with("critical ")), "{:?}", found(&checked));
}

#[test]
fn everything_is_found_and_nothing_else() {
    for (at, (expected, code, provoke)) in CASES.iter().enumerate() {
        let house = well();
        provoke(&house);
        let checked = check(&house);
        let (mut found, mut expected) = (found(&checked), expected.to_vec());
        found.sort();
        expected.sort_unstable();
        assert!(found == expected && checked.code == *code, "case {at}: {expected:?}, not {found:?}: {checked:?}");
        for finding in checked.json()["findings"].as_array().unwrap() {
            assert!(finding["next_step"].is_string(), "case {at}: {finding}");
        }
    }
}

#[test]
fn posture_is_remarked_on() {
    let (house, _) = House::new();
    let checked = check(&house).expect_code(1);
    assert_eq!(found(&checked), ["warning few-custodians"]);
    for note in ["identity-on-host", "recipient-unproven"] {
        assert!(checked.stdout.contains(&format!("\"id\":\"{note}\",\"severity\":\"note\"")), "{checked:?}");
    }
    // A second custodian counts once the newest durable snapshot is sealed to them; each next step works as it stands.
    let (_, second) = recoup::format::seal::new_identity("2026-11-22T09:15:00Z");
    let add = ["key", "add", &second, "--reason", "a test"];
    for (next_step, arguments) in
        [("recoup key add RECIPIENT --reason TEXT", &add[..]), ("recoup backup ledger", &["backup"])]
    {
        let checked = check(&house).expect_code(1);
        assert_eq!(found(&checked), ["warning few-custodians"]);
        let findings = checked.json()["findings"].clone();
        assert!(findings[0]["next_step"].as_str().unwrap().contains(&next_step["recoup ".len()..]), "{findings:#}");
        run(&mut house.recoup(arguments.iter().copied())).expect_code(0);
    }
    assert_eq!(found(&check(&house).expect_code(0)), Vec::<String>::new());
}

#[test]
fn a_drill_that_runs_on_this_host_needs_no_end_yet() {
    let house = well();
    let running = begin_drill(&house, 30);
    assert_eq!(found(&check(&house).expect_code(0)), Vec::<String>::new());
    drop(running);
    assert_eq!(found(&check(&house).expect_code(1)), ["warning drill-without-end"]);
}

#[test]
fn what_is_unchanged_is_not_exposed() {
    let house = before_the_first();
    // What was written a moment ago may be written again without a trace.
    std::thread::sleep(std::time::Duration::from_secs(3));
    house.backup();
    date_anew(&house, super::ago(60 * 24 * 30));
    let source = || check(&house).json()["sources"][0].clone();
    let quiet = source();
    assert_eq!((&quiet["exposure_seconds"], &quiet["unchanged"]), (&0.into(), &true.into()), "{quiet}");
    house.write_rows(1);
    let changed = source();
    let days = 60 * 60 * 24 * 30;
    assert!(changed["exposure_seconds"].as_u64().unwrap() >= days, "{changed}");
    assert_eq!(changed["rpo_seconds"], 3600);
    // The record of a snapshot that is not the newest durable one says nothing.
    house.backup();
    assert!(source()["exposure_seconds"].as_u64().unwrap() < 3600);
    uncommit(&house, &["a", "b", "c"]);
    assert!(source()["exposure_seconds"].is_null());
}

#[test]
fn a_store_that_is_down_takes_nothing_away() {
    let house = well();
    ["b", "c"].iter().for_each(|store| away(&house, store));
    let checked = check(&house).expect_code(2).json();
    let source = &checked["sources"][0];
    assert!(source["copies"] == 3 && source["exposure_seconds"].is_u64(), "{checked}");
    assert_eq!(checked["stores"][1]["state"], "down");
}

#[test]
fn sources_are_chosen_and_bad_usage_is_unknown() {
    let house = well();
    run(&mut house.recoup(["check", "ledger"])).expect_code(0);
    for arguments in [&["check", "other"][..], &["check", "--bad"], &["status", "x"], &["--config", "none", "check"]] {
        let refused = run(crate::support::recoup(&house.path("")).args(["--config", "R/recoup.toml"]).args(arguments));
        assert_eq!(refused.code, 3, "{refused:?}");
        let is_check = arguments.contains(&"check");
        assert_eq!(refused.stdout.starts_with("RECOUP UNKNOWN - "), is_check, "{refused:?}");
        assert_eq!(refused.stdout.lines().count(), usize::from(is_check), "{refused:?}");
    }
    let refused = run(&mut house.recoup(["check", "other", "--json"])).expect_code(3);
    assert_eq!(refused.json()["schema"], "recoup.error/1");
}

#[test]
fn holds_are_listed() {
    let house = well();
    house.change_and_backup();
    let listed = || run(&mut house.recoup(["list", "--json"])).expect_code(0).json();
    let snapshots = listed();
    assert_eq!(snapshots["snapshots"][0]["holds"], serde_json::json!([]));
    let run_id = snapshots["snapshots"][0]["run"].as_str().unwrap();
    let id = format!("0000000001-{run_id}").parse().unwrap();
    record(&house, hold(HoldCause::Operator, vec![id]));
    let url = format!("file://{}", house.path("a").display());
    let bare = ["list", "--store", &url, "--signers", "R/allowed_signers", "--json"];
    let bare = run(crate::support::recoup(&house.path("")).args(bare)).expect_code(0).json();
    for listed in [listed(), bare] {
        assert_eq!(listed["snapshots"][0]["holds"], serde_json::json!(["holdholdholdhold"]));
        assert_eq!(listed["snapshots"][1]["holds"], serde_json::json!([]));
    }
    let points = run(&mut house.recoup(["points", "--json"])).expect_code(0).json();
    assert_eq!(points["sources"][0]["points"][0]["holds"], serde_json::json!(["holdholdholdhold"]));
    assert_eq!(check(&house).json()["sources"][0]["holds"], 1);
}
