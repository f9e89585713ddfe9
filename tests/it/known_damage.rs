//! What this host knows of its stores is neither forgotten nor passed over: known damage, known heads, leftovers.

use crate::{
    house::{House, STORES, copy_tree},
    support::run,
};
use rusqlite::Connection;
use std::{fs, path::PathBuf};

/// The first pack on a store; there is one run only.
fn pack_on(house: &House, store: &str) -> PathBuf {
    let packs = house.path(store).join("sources/ledger/packs");
    fs::read_dir(packs).unwrap().next().unwrap().unwrap().path().join("0.age")
}

/// Flips one bit and leaves the size as it is.
fn rot(path: &PathBuf) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn known_damage_outlives_whatever_reads_less() {
    for between in [&["verify"][..], &["copy"], &["copy", "--presence-only"], &["verify", "--json"]] {
        let (house, _) = House::new();
        STORES.iter().for_each(|store| rot(&pack_on(&house, store)));
        run(&mut house.recoup(["verify", "--all"])).expect_code(2);
        run(&mut house.recoup(between.iter().copied()));
        // The next snapshot must not be built on a pack that is lost everywhere.
        let bytes = house.change_and_backup();
        house.assert_restores("latest", &bytes);
    }
}

#[test]
fn copy_reads_leftovers_before_it_commits_over_them() {
    let (house, _) = House::new();
    for name in ["inventory.json", "inventory.json.sig"] {
        let snapshots = house.path("b").join("sources/ledger/snapshots");
        let snapshot = fs::read_dir(snapshots).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(snapshot.join(name)).unwrap();
    }
    rot(&pack_on(&house, "b"));
    fs::write(pack_on(&house, "b").with_file_name("objects.json"), "junk").unwrap();
    run(&mut house.recoup(["copy"])).expect_code(0);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
}

#[test]
fn the_latest_is_never_older_than_what_this_host_made_durable() {
    let (house, _) = House::new();
    fs::rename(house.path("c"), house.path("c-away")).unwrap();
    house.write_rows(20);
    run(&mut house.recoup(["backup"])).expect_code(1);
    let bytes = house.ledger();
    // The third store comes back without the newest snapshot, and another one is an empty directory now.
    fs::rename(house.path("c-away"), house.path("c")).unwrap();
    fs::remove_dir_all(house.path("a")).unwrap();
    fs::create_dir(house.path("a")).unwrap();
    let (mut restore, out) = house.restore("latest");
    run(&mut restore).expect_code(1);
    assert_eq!(fs::read(out).unwrap(), bytes);
}

#[test]
fn a_time_beyond_what_is_shown_does_not_pass_over_a_known_head() {
    let (house, old) = House::new();
    STORES.iter().for_each(|store| copy_tree(&house.path(store), &house.path(&format!("{store}-old"))));
    house.change_and_backup();
    for store in STORES {
        fs::remove_dir_all(house.path(store)).unwrap();
        fs::rename(house.path(&format!("{store}-old")), house.path(store)).unwrap();
    }
    for target in ["latest", "2100-01-01T00:00:00Z"] {
        run(&mut house.restore(target).0).expect_code(17);
    }
    // The operator may still say which one.
    house.assert_restores("snapshot:1", &old);
}

#[test]
fn a_store_that_refuses_one_folder_gets_the_next_full() {
    let (house, _) = House::new();
    for store in ["b", "c"] {
        // Nothing can be written there any more, by root either.
        let folder = pack_on(&house, store).parent().unwrap().to_owned();
        fs::remove_dir_all(&folder).unwrap();
        fs::write(folder, "").unwrap();
    }
    for kind in ["full", "incremental"] {
        house.write_rows(3);
        let backup = run(&mut house.recoup(["backup", "--json"])).expect_code(0);
        assert_eq!(backup.json()["snapshots"][0]["kind"], kind, "{backup:?}");
        house.assert_restores("latest", &house.ledger());
    }
}

#[test]
fn digests_that_lost_their_content_hide_nothing() {
    let house = House::founded();
    house.write_rows(2_000);
    house.backup();
    let entries = fs::read_dir(house.path("R/state/sources/ledger")).unwrap();
    let mut names = entries.map(|entry| entry.unwrap().path());
    let digests = names.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("digests-")).unwrap();
    fs::write(&digests, vec![0; fs::metadata(&digests).unwrap().len() as usize]).unwrap();
    // Pages that held rows are zeros now, as the lost digests say they were all along.
    let ledger = Connection::open(house.path("data/ledger.db")).unwrap();
    ledger.execute_batch("PRAGMA secure_delete = on; DELETE FROM posting WHERE id > 20").unwrap();
    drop(ledger);
    let backup = run(&mut house.recoup(["backup", "--json"])).expect_code(0);
    assert_eq!(backup.json()["snapshots"][0]["kind"], "full", "{backup:?}");
    house.assert_restores("latest", &house.ledger());
}

#[test]
fn the_record_of_another_repository_is_none_of_ours() {
    let (house, bytes) = House::new();
    let (other, _) = House::new();
    other.change_and_backup();
    other.change_and_backup();
    let known = |house: &House| house.path("R/state/sources/ledger/known.json");
    fs::copy(known(&other), known(&house)).unwrap();
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    let (mut restore, file) = house.restore("latest");
    run(&mut restore).expect_code(0);
    assert_eq!(fs::read(file).unwrap(), bytes);
    let bytes = house.change_and_backup();
    house.assert_restores("snapshot:2", &bytes);
    run(&mut house.recoup(["copy"])).expect_code(0);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    let aside = fs::read_dir(known(&house).parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(aside.filter(|name| name.to_str().unwrap().starts_with("known.json.of-")).count(), 1);
}
