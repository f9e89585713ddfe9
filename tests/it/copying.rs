//! What `copy` and `verify` say: what is lost, what can be mended, what would be done, and what to do next.

use crate::{
    full_disk::Disk,
    house::{House, STORES, assert_refused},
    support::{Run, run},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The folder of the newest snapshot on a store.
fn newest(house: &House, store: &str) -> PathBuf {
    let folder = house.path(store).join("sources/ledger/snapshots");
    let mut found: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found.pop().unwrap()
}

fn id_of(folder: &Path) -> String {
    folder.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A pack of the newest snapshot's own run.
fn newest_pack(house: &House, store: &str) -> PathBuf {
    let id = id_of(&newest(house, store));
    let run = id.split_once('-').unwrap().1;
    house.path(store).join("sources/ledger/packs").join(run).join("0.age")
}

fn rot(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn says(run: &Run, parts: &[&str]) {
    for part in parts {
        assert!(run.stderr.contains(part), "{part:?} is missing in {run:?}");
    }
}

/// Everything on the stores.
fn stores(house: &House) -> Vec<Vec<String>> {
    STORES.map(|store| house.inventory_of(store)).into()
}

#[test]
fn a_snapshot_that_is_gone_everywhere_is_missed_by_all_who_look() {
    let (house, first) = House::new();
    house.change_and_backup();
    let (first_id, second) = {
        let all = fs::read_dir(house.path("a/sources/ledger/snapshots")).unwrap();
        let mut ids: Vec<String> = all.map(|entry| id_of(&entry.unwrap().path())).collect();
        ids.sort();
        (ids[0].clone(), ids[1].clone())
    };
    for store in STORES {
        fs::remove_dir_all(newest(&house, store)).unwrap();
    }
    let verified = run(&mut house.recoup(["verify"])).expect_code(2);
    let next = format!("recoup --config R/recoup.toml restore ledger --target snapshot:{first_id}");
    says(&verified, &["next: find out", &next]);
    assert!(!verified.stderr.contains(" copy\n"), "no store has it: {verified:?}");
    let copied = run(&mut house.recoup(["copy"])).expect_code(2);
    says(&copied, &["is missing", &second, "next: find out", &next]);
    let json = run(&mut house.recoup(["copy", "--json"])).expect_code(2).json();
    assert_eq!((&json["status"], &json["findings"][0]["problem"]), (&"critical".into(), &"missing".into()));
    assert_eq!(json["findings"][0]["snapshots"][0], second.as_str());
    let listed = run(&mut house.recoup(["list"])).expect_code(1);
    says(&listed, &["warning: snapshot", &second, "is on no store"]);
    house.assert_restores("snapshot:1", &first);
    // Also where not even the folder of the source is left.
    for store in STORES {
        fs::remove_dir_all(house.path(store).join("sources")).unwrap();
    }
    says(&run(&mut house.recoup(["list"])).expect_code(1), &[&second, "is on no store"]);
    says(&run(&mut house.recoup(["copy"])).expect_code(2), &[&second, "next: "]);
    // While a store is away, it may be there.
    fs::rename(house.path("c"), house.path("c-away")).unwrap();
    says(&run(&mut house.recoup(["copy"])).expect_code(1), &["store c", "next: bring back c"]);
    let listed = run(&mut house.recoup(["list"])).expect_code(1);
    assert!(!listed.stderr.contains("is on no store"), "{listed:?}");
}

#[test]
fn inventories_that_no_store_has_right_are_named() {
    let (house, _) = House::new();
    house.change_and_backup();
    for store in STORES {
        let folder = newest(&house, store);
        let id = id_of(&folder);
        let moved = folder.with_file_name(id.replace("0000000002", "0000000007"));
        fs::rename(folder, moved).unwrap();
    }
    let copied = run(&mut house.recoup(["copy"])).expect_code(2);
    says(&copied, &["0000000007-", "is damaged", "not of what its path says", "next: "]);
}

#[test]
fn what_is_damaged_everywhere_is_called_damaged() {
    let (house, _) = House::new();
    house.change_and_backup();
    let id = id_of(&newest(&house, "a"));
    STORES.iter().for_each(|store| rot(&newest_pack(&house, store)));
    let verified = run(&mut house.recoup(["verify", "--all", "--json"])).expect_code(2);
    let copied = run(&mut house.recoup(["copy", "--json"])).expect_code(2);
    let (found, left) = (verified.json()["findings"].clone(), copied.json()["findings"].clone());
    assert_eq!(found, left);
    assert_eq!(left.as_array().unwrap().len(), 3);
    assert_eq!((&left[0]["problem"], &left[0]["snapshots"][0]), (&"damaged".into(), &id.as_str().into()));
    says(&copied, &["is damaged", &id, "next: find out", "--target snapshot:0000000001-"]);
    // A store that lacks it, and the others have it damaged: found even by a look at presence only.
    fs::remove_file(newest_pack(&house, "c")).unwrap();
    let copied = run(&mut house.recoup(["copy", "--presence-only", "--json"])).expect_code(2).json();
    let problems: Vec<_> = copied["findings"].as_array().unwrap().iter().map(|found| &found["problem"]).collect();
    assert_eq!(problems, ["damaged", "damaged", "missing"], "{copied}");
}

#[test]
fn a_source_that_nobody_knows_is_a_mistake_and_a_known_one_is_not() {
    let (house, _) = House::new();
    for arguments in [&["copy", "nosuch"][..], &["copy", "nosuch", "--dry-run"], &["copy", "ledger", "nosuch"]] {
        assert_refused(run(&mut house.recoup(arguments.iter().copied())), 64, &["no source nosuch", "ledger"]);
    }
    run(&mut house.recoup(["copy", "ledger"])).expect_code(0);
    // Configured and not backed up yet, and a store is down: the name is right all the same.
    let founded = House::founded();
    fs::remove_dir_all(founded.path("c")).unwrap();
    run(&mut founded.recoup(["copy", "ledger"])).expect_code(1);
    assert_refused(run(&mut founded.recoup(["copy", "legder"])), 64, &["no source legder", "ledger"]);
}

#[test]
fn a_dry_run_says_what_a_run_then_does() {
    let (house, _) = House::new();
    house.change_and_backup();
    let packs = newest_pack(&house, "a");
    rot(&packs);
    fs::remove_dir_all(house.path("b")).unwrap();
    fs::rename(house.path("c"), house.path("c-away")).unwrap();
    fs::create_dir(house.path("c")).unwrap();
    // Damaged in a and gone with b; c will have it: nothing has it now.
    fs::copy(
        house
            .path("c-away/sources/ledger/packs")
            .join(packs.strip_prefix(house.path("a/sources/ledger/packs")).unwrap()),
        &packs,
    )
    .unwrap();
    fs::remove_file(house.path("a/recover.sh")).unwrap();
    let before = stores(&house);
    let planned = run(&mut house.recoup(["copy", "--dry-run"])).expect_code(0);
    assert_eq!(stores(&house), before, "a dry run changes nothing");
    let steps: Vec<&str> = planned.stdout.lines().collect();
    assert!(steps[0].starts_with("store a: bring 1 object ("), "{steps:?}");
    assert!(steps[1].starts_with("leave out store b: the directory"), "{steps:?}");
    assert_eq!(steps[2], "seed store c again: it has no usable recoup.json");
    assert!(steps[3].starts_with("store c: bring "), "{steps:?}");
    assert_eq!(steps.len(), 4, "{steps:?}");
    let copied = run(&mut house.recoup(["copy", "--json"])).expect_code(1).json();
    assert_eq!((&copied["stores"][2]["seeded"], &copied["stores"][0]["copied_objects"]), (&true.into(), &1.into()));
    let brought = copied["stores"][2]["copied_objects"].as_u64().unwrap();
    assert!(steps[3].contains(&format!("bring {brought} objects")), "{steps:?}: {copied}");
    run(&mut house.recoup(["copy", "--dry-run"])).expect_code(0);
}

#[test]
fn a_full_store_is_one_finding_with_its_cause() {
    let (house, _) = House::new();
    house.write_rows(5_000);
    for _ in 0..4 {
        house.change_and_backup();
    }
    fs::remove_dir_all(house.path("c")).unwrap();
    let Some(disk) = Disk::mount(&house.path("c"), "size=64k") else { return };
    let copied = run(&mut house.recoup(["copy", "--json"])).expect_code(1);
    let json = copied.json();
    assert_eq!(json["findings"].as_array().map(Vec::len), Some(1), "{copied:?}");
    let found = &json["findings"][0];
    assert_eq!((&found["store"], &found["object"], &found["problem"]), (&"c".into(), &().into(), &"full".into()));
    assert!(found["cause"].as_str().unwrap().contains("No space left"), "{found}");
    says(
        &copied,
        &[
            "store c: the store as a whole is full",
            "next: make room on store c, then recoup --config R/recoup.toml copy again",
        ],
    );
    assert!(copied.stderr.lines().count() <= 4, "{copied:?}");
    disk.change("size=64m");
    run(&mut house.recoup(["copy"])).expect_code(0);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn a_head_is_written_as_most_stores_have_it_and_without_what_nobody_wrote() {
    let (house, _) = House::new();
    let right = fs::read(house.path("b/recoup.json")).unwrap();
    let mut head: serde_json::Value = serde_json::from_slice(&right).unwrap();
    head["note"] = "planted".into();
    fs::write(house.path("a/recoup.json"), head.to_string()).unwrap();
    fs::remove_file(house.path("c/recoup.json")).unwrap();
    run(&mut house.recoup(["copy"])).expect_code(0);
    assert_eq!(fs::read(house.path("c/recoup.json")).unwrap(), right);
    // One that says something else than the others is found, and put right.
    head["created_at"] = "2001-01-01T00:00:00.000Z".into();
    fs::write(house.path("a/recoup.json"), head.to_string()).unwrap();
    let verified = run(&mut house.recoup(["verify", "--json"])).expect_code(2);
    let found = &verified.json()["findings"][0];
    assert_eq!(
        (&found["store"], &found["object"], &found["problem"]),
        (&"a".into(), &"recoup.json".into(), &"damaged".into())
    );
    says(&verified, &["next: recoup --config R/recoup.toml copy"]);
    run(&mut house.recoup(["copy"])).expect_code(0);
    assert_eq!(fs::read(house.path("a/recoup.json")).unwrap(), right);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn a_head_that_contradicts_the_founding_is_wrong_however_many_stores_have_it() {
    let (house, _) = House::new();
    let right = fs::read(house.path("b/recoup.json")).unwrap();
    let mut head: serde_json::Value = serde_json::from_slice(&right).unwrap();
    for (planted, lost, at) in [
        // As many stores say the one as the other, and the planted one is the earlier.
        (&["a"][..], Some("c"), "2001-01-01T00:00:00.000Z"),
        (&["a"], Some("c"), "2099-01-01T00:00:00.000Z"),
        (&["a", "c"], None, "2001-01-01T00:00:00.000Z"),
    ] {
        head["created_at"] = at.into();
        for store in planted {
            fs::write(house.path(&format!("{store}/recoup.json")), head.to_string()).unwrap();
        }
        if let Some(store) = lost {
            fs::remove_file(house.path(&format!("{store}/recoup.json"))).unwrap();
        }
        let verified = run(&mut house.recoup(["verify", "--json"])).expect_code(2).json();
        let findings = verified["findings"].as_array().unwrap();
        let accused: Vec<_> =
            findings.iter().filter(|found| found["problem"] == "damaged").map(|of| &of["store"]).collect();
        assert_eq!(accused, planted, "{verified}");
        run(&mut house.recoup(["copy"])).expect_code(0);
        for store in STORES {
            assert_eq!(
                fs::read(house.path(&format!("{store}/recoup.json"))).unwrap(),
                right,
                "{planted:?} {at}: {store}"
            );
        }
        run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    }
}

#[test]
fn a_store_that_is_down_is_said_once_and_all_of_them_when_none_is_up() {
    let (house, _) = House::new();
    fs::write(
        house.path("R/recoup.toml"),
        fs::read_to_string(house.path("R/recoup.toml")).unwrap()
            + &format!(
                "\n[[source]]\nname = \"wallet\"\nkind = \"sqlite\"\npath = \"{}\"\n",
                house.path("data/ledger.db").display()
            ),
    )
    .unwrap();
    run(&mut house.recoup(["backup"])).expect_code(0);
    fs::remove_dir_all(house.path("c")).unwrap();
    for command in ["verify", "copy", "list"] {
        let done = run(&mut house.recoup([command])).expect_code(1);
        assert_eq!(done.stderr.matches("cannot be opened").count(), 1, "{done:?}");
        assert_eq!(done.stderr.matches("store c").count(), 1, "{done:?}");
    }
    ["a", "b"].iter().for_each(|store| fs::remove_dir_all(house.path(store)).unwrap());
    for command in ["copy", "list"] {
        let done = run(&mut house.recoup([command]));
        let done = assert_refused(done, 14, &["none of the 3 stores", "store a: ", "store b: ", "store c: "]);
        assert!(!done.stderr.contains("other stores"), "{done:?}");
    }
}
