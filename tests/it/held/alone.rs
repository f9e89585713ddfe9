//! A held snapshot that one store alone has committed.

use super::{house_of, names_in, numbers, prune};
use crate::{house::House, support::run};
use std::fs;

const FOLDERS: &str = "sources/ledger/snapshots";

/// The backup of the second snapshot died once it was committed on the first store; the others have its objects. Says
/// which it is.
fn house_with_one_alone() -> (House, String) {
    let house = house_of(1);
    crate::house::copy_tree(&house.path("R/state/sources"), &house.path("then"));
    house.change_and_backup();
    fs::remove_dir_all(house.path("R/state/sources")).unwrap();
    fs::rename(house.path("then"), house.path("R/state/sources")).unwrap();
    let second = names_in(&house, &format!("a/{FOLDERS}")).pop().unwrap();
    uncommit(&house, &second, &["b", "c"]);
    (house, second)
}

fn uncommit(house: &House, id: &str, stores: &[&str]) {
    for store in stores {
        fs::remove_file(house.path(&format!("{store}/{FOLDERS}/{id}/inventory.json"))).unwrap();
    }
}

fn hold(house: &House) -> String {
    let held = run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "2", "--reason", "court", "--json"]));
    let held = held.expect_code(0);
    assert!(
        held.stderr.contains("committed on 1 of 3 stores (a)") && held.stderr.contains("copy brings it"),
        "{held:?}"
    );
    held.json()["holds"][0]["hold"].as_str().unwrap().to_owned()
}

/// Whether a store has anything of a snapshot; its folder may outlast it.
fn has_any(house: &House, store: &str, id: &str) -> bool {
    fs::read_dir(house.path(&format!("{store}/{FOLDERS}/{id}"))).is_ok_and(|mut folder| folder.next().is_some())
}

/// Takes the store away, or brings it back.
fn switch(house: &House, [from, to]: [&str; 2]) {
    fs::rename(house.path(from), house.path(to)).unwrap();
}

fn backup(house: &House) {
    house.write_rows(3);
    let code = run(&mut house.recoup(["backup"])).code;
    assert!(code < 2, "{code}");
}

/// As a host does that backs up and prunes while a store is away.
fn go_on(house: &House) -> Vec<i32> {
    let once = |_| {
        backup(house);
        run(&mut house.recoup(["prune", "--yes", "--confirm=ledger"])).code
    };
    (0..3).map(once).collect()
}

#[test]
fn what_is_held_on_a_silent_store_is_not_taken_for_an_unfinished_run() {
    let (house, _) = house_with_one_alone();
    hold(&house);
    switch(&house, ["a", "away"]);
    assert_eq!(go_on(&house), [14; 3]);
    let refused = prune(&house).expect_code(14);
    for part in ["store a: ", "may be the only one that shows", "take it out of recoup.toml"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    switch(&house, ["away", "a"]);
    assert!(numbers(&house).contains(&2));
    // Behind, until it is brought to the others.
    assert_eq!(run(&mut house.recoup(["verify"])).code, 1);
    run(&mut house.recoup(["copy"]));
    assert_eq!(run(&mut house.recoup(["verify"])).code, 0);
    switch(&house, ["a", "away"]);
    backup(&house);
    let at_once = || run(&mut house.recoup(["prune", "--now", "--yes", "--confirm=ledger"]));
    at_once().expect_code(14);
    switch(&house, ["away", "a"]);
    assert!(at_once().code < 2);
    let left = numbers(&house);
    assert!(left.len() == 2 && left.contains(&2), "{left:?}");
    let (mut restore, _) = house.restore("snapshot:2");
    assert!(run(&mut restore).code < 2);
}

#[test]
fn what_is_left_of_a_held_snapshot_stays_and_is_named() {
    let (house, second) = house_with_one_alone();
    let hold = hold(&house);
    uncommit(&house, &second, &["a"]);
    assert!(go_on(&house).iter().all(|code| *code < 2));
    assert!(has_any(&house, "b", &second));
    let verified = run(&mut house.recoup(["verify"])).expect_code(2);
    assert!(verified.stderr.contains(&format!("hold release {hold}")), "{verified:?}");
    let checked = run(&mut house.recoup(["check", "--json"])).expect_code(2).json();
    assert!(checked["findings"].to_string().contains("held-missing"), "{checked}");
    run(&mut house.recoup(["hold", "release", &hold, "--reason", "lost"])).expect_code(0);
    assert!(go_on(&house).iter().all(|code| *code < 2));
    assert!(!has_any(&house, "b", &second));
    assert!(run(&mut house.recoup(["verify"])).code < 2);
}
