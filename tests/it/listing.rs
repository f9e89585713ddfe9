//! What `list` says, what a clock that is wrong changes, and what `config check` lets pass.

use crate::{
    house::{House, STORES, assert_refused},
    support::{Run, run},
};
use recoup::{
    core::{inventory::Inventory, time::Timestamp},
    format::{
        inventory,
        signature::{self, HostKey},
    },
    world::World,
};
use std::fs;

/// Dates the only snapshot anew on every store, signed by the host as if its clock had been so.
fn date_anew(house: &House, moment: Timestamp) {
    let key = HostKey::from_openssh(&fs::read_to_string(house.path("R/host_ed25519")).unwrap()).unwrap();
    for store in STORES {
        let folder = house.path(store).join("sources/ledger/snapshots");
        let snapshot = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let mut inventory: Inventory =
            serde_json::from_slice(&fs::read(snapshot.join("inventory.json")).unwrap()).unwrap();
        (inventory.created_at, inventory.read_started_at) = (moment, moment);
        let bytes = inventory::to_bytes(&inventory);
        fs::write(snapshot.join("inventory.json"), &bytes).unwrap();
        fs::write(snapshot.join("inventory.json.sig"), key.sign(signature::INVENTORY, &bytes)).unwrap();
    }
}

fn snapshot(run: &Run, at: usize) -> serde_json::Value {
    run.json()["snapshots"][at].clone()
}

#[test]
fn the_time_that_is_shown_means_the_snapshot() {
    let (house, first) = House::new();
    let second = house.change_and_backup();
    let listed = run(&mut house.recoup(["list"])).expect_code(0);
    let shown: Vec<String> = listed
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().find(|word| word.contains('T') && word.ends_with('Z')).unwrap().to_owned())
        .collect();
    house.assert_restores(&shown[0], &first);
    house.assert_restores(&shown[1], &second);
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0);
    assert_eq!(snapshot(&listed, 1)["read_started_at"], shown[1].as_str());
}

#[test]
fn durability_that_cannot_be_known_is_not_guessed() {
    let (house, _) = House::new();
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0);
    assert_eq!(
        (&snapshot(&listed, 0)["durability"], &snapshot(&listed, 0)["durable"]),
        (&"durable".into(), &true.into())
    );
    let url = format!("file://{}", house.path("a").display());
    let bare = ["list", "--store", &url, "--signers", "R/allowed_signers", "--json"];
    let listed = run(crate::support::recoup(&house.path("")).args(bare)).expect_code(0);
    assert_eq!(
        (&snapshot(&listed, 0)["durability"], &snapshot(&listed, 0)["durable"]),
        (&"unknown".into(), &false.into())
    );
    let listed = run(crate::support::recoup(&house.path("")).args(&bare[..5])).expect_code(0);
    assert!(listed.stdout.lines().nth(1).unwrap().ends_with('?'), "{listed:?}");
    // Two of three are enough, whatever the third has.
    fs::rename(house.path("c"), house.path("c-away")).unwrap();
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(1);
    assert_eq!(snapshot(&listed, 0)["durability"], "durable");
    // One is not, and one that does not answer may be the second.
    fs::remove_dir_all(house.path("b/sources")).unwrap();
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(1);
    assert_eq!(
        (&snapshot(&listed, 0)["durability"], &snapshot(&listed, 0)["durable"]),
        (&"unknown".into(), &false.into())
    );
    fs::rename(house.path("c-away"), house.path("c")).unwrap();
    fs::remove_dir_all(house.path("c/sources")).unwrap();
    let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0);
    assert_eq!(snapshot(&listed, 0)["durability"], "not-durable");
}

#[test]
fn where_nobody_is_trusted_that_is_what_is_said() {
    let (house, _) = House::new();
    let (other, _) = House::new();
    house.change_and_backup();
    fs::copy(other.path("R/allowed_signers"), house.path("R/allowed_signers")).unwrap();
    let listed = run(&mut house.recoup(["list"])).expect_code(1);
    assert!(
        listed.stderr.contains("none of the snapshots that the stores show (2) has a trusted signer"),
        "{listed:?}"
    );
    assert!(listed.stderr.contains("next: ") && listed.stderr.contains("R/allowed_signers"), "{listed:?}");
    assert!(!listed.stderr.contains("refused") && !listed.stderr.contains("no snapshot yet"), "{listed:?}");
}

#[test]
fn a_clock_that_was_set_back_is_noticed() {
    let now = World::real().now().as_datetime();
    for (minutes, what) in [(60, "another host's is ahead"), (60 * 24 * 400, "far ahead dated that snapshot")] {
        let (house, _) = House::new();
        date_anew(&house, Timestamp::new(now + chrono::Duration::minutes(minutes)));
        let doctor = run(&mut house.recoup(["doctor", "--json"])).expect_code(1);
        assert!(doctor.stdout.contains("clock-suspect") && doctor.stdout.contains(what), "{doctor:?}");
        let listed = run(&mut house.recoup(["list"]));
        assert!(listed.stdout.contains("in the future") && !listed.stdout.contains(" -"), "{listed:?}");
        let backup = run(&mut house.recoup(["backup"]));
        assert!(backup.stderr.contains("note: ledger: the clock says") && backup.stderr.contains(what), "{backup:?}");
        assert_eq!(backup.code, 0, "{backup:?}");
    }
    let (house, _) = House::new();
    let doctor = run(&mut house.recoup(["doctor", "--json"])).expect_code(0);
    assert!(!doctor.stdout.contains("clock-suspect"), "{doctor:?}");
}

#[test]
fn a_store_that_is_behind_has_a_next_step() {
    let (house, _) = House::new();
    fs::remove_dir_all(house.path("c")).unwrap();
    let backup = run(&mut house.recoup(["backup"])).expect_code(1);
    assert!(backup.stderr.ends_with("next: recoup --config R/recoup.toml copy\n"), "{backup:?}");
    assert_eq!(backup.stderr.matches("store c").count(), 1, "{backup:?}");
}

#[test]
fn a_configuration_that_every_backup_refuses_is_not_ok() {
    let (house, _) = House::new();
    run(&mut house.recoup(["config", "check"])).expect_code(0);
    let path = house.path("R/recoup.toml");
    let good = fs::read_to_string(&path).unwrap();
    let store = format!("file://{}", house.path("b").display());
    std::os::unix::fs::symlink("a", house.path("alias")).unwrap();
    let alias = format!("file://{}", house.path("alias").display());
    for (from, to, part) in [
        ("\"age1", "\"age1qq", "recipient is not valid"),
        ("id = \"", "# id = \"", "id is missing"),
        ("kind = \"sqlite\"", "kind = \"oracle\"", "oracle"),
        (&store, &alias, "one place"),
    ] {
        house.edit_configuration(from, to);
        assert_refused(run(&mut house.recoup(["backup"])), 78, &[part]);
        assert_refused(run(&mut house.recoup(["config", "check"])), 78, &[part]);
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(STORES.len(), 3);
}

#[test]
fn init_remarks_that_nothing_is_promised() {
    let house = House::unfounded();
    let founded = run(house.init().arg("--json")).expect_code(0);
    let remarks = founded.json()["remarks"].to_string();
    for part in ["one custodian", "on this host", "on one device", "no policy promises anything"] {
        assert!(remarks.contains(part), "{remarks}");
    }
}
