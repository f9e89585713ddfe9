//! Holds and proofs against pruning, from one command to the next.

mod alone;

use crate::{
    house::{House, STORES},
    support::{Run, run},
};
use recoup::{
    config,
    core::evidence::HoldCause,
    ops::{
        evidence::Recorder,
        hold::{self, HoldRequest},
        open,
    },
    world::World,
};
use serde_json::Value;
use std::fs;

/// A house whose policy keeps nothing but the newest snapshot, with `snapshots` of them.
fn house_of(snapshots: u32) -> House {
    let house = House::founded();
    fs::write(house.path("R/policies/default.toml"), "[retention]\nkeep_last = 1\n").unwrap();
    for _ in 0..snapshots {
        house.change_and_backup();
    }
    house
}

fn prune(house: &House) -> Run {
    run(&mut house.recoup(["prune", "--now", "--yes", "--confirm=ledger", "--json"]))
}

fn numbers(house: &House) -> Vec<u64> {
    let listed = run(&mut house.recoup(["list", "--json"])).json();
    listed["snapshots"].as_array().unwrap().iter().map(|snapshot| snapshot["seq"].as_u64().unwrap()).collect()
}

#[test]
fn what_is_held_stays_until_it_is_released() {
    let house = house_of(5);
    let held = run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "2", "--reason", "case 7", "--json"]));
    let hold = held.expect_code(0).json()["holds"][0]["hold"].as_str().unwrap().to_owned();
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), [2, 5]);
    // What was pruned between the two makes no other history of the older one.
    let latest = ["restore", "ledger", "--to", "latest", "--target", "latest", "--identity", "R/custodian.age"];
    let restored = run(&mut house.recoup(latest)).expect_code(0);
    assert!(!restored.stderr.contains("forked"), "{restored:?}");
    house.assert_restores("snapshot:5", &house.ledger());
    run(&mut house.recoup([
        "restore",
        "ledger",
        "--to",
        "held",
        "--target",
        "snapshot:2",
        "--identity",
        "R/custodian.age",
    ]))
    .expect_code(0);
    run(&mut house.recoup(["hold", "release", &hold, "--reason", "closed"])).expect_code(0);
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), [5]);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    run(&mut house.recoup(["evidence", "verify"])).expect_code(0);
}

#[test]
fn a_reason_that_another_version_recorded_makes_no_line_of_its_own() {
    let house = house_of(1);
    let settings = config::load(&house.path("R/recoup.toml")).unwrap();
    let world = World::real().with_reason(Some("case 7\n9999999999999999  ledger  \u{1b}[2J\t\u{202e}all"));
    let host = open::open_host(&settings, &world).unwrap();
    let recorder = Recorder::new(&host, &settings);
    let request = HoldRequest { source: "ledger".parse().unwrap(), snapshots: Vec::new(), cause: HoldCause::Operator };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(hold::add(&host.repository, &recorder, &world, &request)).unwrap();
    let listed = run(&mut house.recoup(["hold", "list"])).expect_code(0);
    assert_eq!(listed.stdout.lines().count(), 2, "{listed:?}");
    assert!(listed.stdout.contains("case 7 9999999999999999  ledger  \u{fffd}[2J \u{fffd}all"), "{listed:?}");
    // Whoever reads JSON gets what was recorded.
    let json = run(&mut house.recoup(["hold", "list", "--json"])).expect_code(0).json();
    assert!(json["holds"][0]["reason"].as_str().unwrap().starts_with("case 7\n9999999999999999"), "{json}");
    for command in [&["check"][..], &["status"], &["evidence", "verify"], &["evidence", "list"], &["points"]] {
        let shown = run(&mut house.recoup(command.iter().copied()));
        assert!(shown.stdout.lines().all(|line| !line.starts_with("9999999999999999")), "{shown:?}");
        assert!(!shown.stdout.contains(['\u{1b}', '\u{202e}']), "{shown:?}");
    }
}

#[test]
fn a_hold_on_everything_keeps_everything() {
    let house = house_of(3);
    run(&mut house.recoup(["hold", "add", "ledger", "--reason", "litigation"])).expect_code(0);
    prune(&house).expect_code(0);
    house.change_and_backup();
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), [1, 2, 3, 4]);
}

#[test]
fn a_hold_that_comes_after_the_plan_is_in_time() {
    let house = house_of(4);
    let planned = run(&mut house.recoup(["prune", "--yes", "--confirm=ledger", "--json"])).expect_code(0).json();
    assert_eq!(planned["sources"][0]["condemned"].as_array().unwrap().len(), 3);
    run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "1", "--reason", "wait"])).expect_code(0);
    let done = run(&mut house.recoup(["prune", "--yes", "--confirm=ledger", "--json"])).expect_code(0).json();
    assert_eq!(done["sources"][0]["dropped"].as_array().map(Vec::len), Some(1), "{done}");
    assert_eq!(numbers(&house), [1, 4]);
}

#[test]
fn what_a_drill_has_proven_stays() {
    let house = house_of(2);
    run(&mut house.recoup(["drill", "ledger", "--identity", "R/custodian.age", "--json"])).expect_code(0);
    let drilled = numbers(&house);
    house.change_and_backup();
    house.change_and_backup();
    prune(&house).expect_code(0);
    let left = numbers(&house);
    assert_eq!(left.len(), 2, "{drilled:?} became {left:?}");
    assert!(left[0] <= 2 && left[1] == 4, "{left:?}");
}

#[test]
fn holds_that_nobody_can_read_keep_everything() {
    let house = house_of(3);
    for store in ["b", "c"] {
        fs::rename(house.path(store), house.path(&format!("{store}-away"))).unwrap();
    }
    assert_ne!(prune(&house).code, 0);
    for store in ["b", "c"] {
        fs::rename(house.path(&format!("{store}-away")), house.path(store)).unwrap();
    }
    assert_eq!(numbers(&house), [1, 2, 3]);
    // Somebody hides the record of a hold behind one that does not verify, on every store.
    run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "1", "--reason", "case"])).expect_code(0);
    fs::remove_file(house.path("R/state/evidence/control.json")).ok();
    let chain = fs::read_dir(house.path("a/evidence")).unwrap().next().unwrap().unwrap().file_name();
    for store in crate::house::STORES {
        let envelope = house.path(store).join("evidence").join(&chain).join("0000000003.json");
        let text = fs::read_to_string(&envelope).unwrap();
        fs::write(envelope, text.replacen("passed", "failed", 1)).unwrap();
    }
    let refused = prune(&house);
    assert!(refused.code == 17 && refused.stderr.contains("evidence"), "{refused:?}");
    assert_eq!(numbers(&house), [1, 2, 3]);
}

#[test]
fn an_altered_log_is_held_until_somebody_says_why_not() {
    let house = House::founded();
    fs::create_dir(house.path("audit")).unwrap();
    let lines: String = (0..2_000).map(|line| format!("entry {line}\n")).collect();
    fs::write(house.path("audit/app.log"), &lines).unwrap();
    let audit = format!("[[source]]\nname = \"audit\"\nkind = \"log\"\npath = \"{}\"\n", house.path("audit").display());
    let config = house.path("R/recoup.toml");
    fs::write(&config, format!("{}\n{audit}", fs::read_to_string(&config).unwrap())).unwrap();
    fs::write(house.path("R/policies/default.toml"), "[retention]\nkeep_last = 1\n").unwrap();
    let backup = || run(&mut house.recoup(["backup", "audit", "--json"]));
    backup().expect_code(0);
    fs::write(house.path("audit/app.log"), lines.replacen("entry 100\n", "entry 999\n", 1)).unwrap();
    let found = backup().expect_code(18);
    assert!(found.stderr.contains("snapshots 1 and 2 are held"), "{found:?}");
    backup().expect_code(0);
    backup().expect_code(0);
    let check = || run(&mut house.recoup(["check", "audit", "--json"])).json();
    let is_alarming =
        |checked: &Value| checked["findings"].as_array().unwrap().iter().any(|finding| finding["id"] == "log-altered");
    let checked = check();
    assert!(checked["status"] == "critical" && is_alarming(&checked), "{checked}");
    let prune = || run(&mut house.recoup(["prune", "audit", "--now", "--yes", "--confirm=audit"])).expect_code(0);
    let numbers = || {
        let listed = run(&mut house.recoup(["list", "audit", "--json"])).json();
        let snapshots = listed["snapshots"].as_array().unwrap().clone();
        snapshots.iter().map(|snapshot| snapshot["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    prune();
    assert_eq!(numbers(), [1, 2, 4]);
    let holds = run(&mut house.recoup(["hold", "list", "--json"])).expect_code(0).json();
    let hold = holds["holds"][0]["hold"].as_str().unwrap();
    run(&mut house.recoup(["hold", "release", hold, "--reason", "a known defect"])).expect_code(0);
    assert!(!is_alarming(&check()));
    prune();
    assert_eq!(numbers(), [4]);
}

#[test]
fn an_alarm_that_a_killed_run_could_not_give_is_given_by_the_next() {
    let house = House::founded();
    fs::create_dir(house.path("audit")).unwrap();
    fs::write(house.path("audit/app.log"), "entry 1\nentry 2\n").unwrap();
    let audit = format!("[[source]]\nname = \"audit\"\nkind = \"log\"\npath = \"{}\"\n", house.path("audit").display());
    let config = house.path("R/recoup.toml");
    fs::write(&config, format!("{}\n{audit}", fs::read_to_string(&config).unwrap())).unwrap();
    run(&mut house.recoup(["backup", "audit"])).expect_code(0);
    fs::write(house.path("audit/app.log"), "entry 1\nentry 7\n").unwrap();
    // What is noted before the state is replaced, as a run leaves it that dies right after.
    fs::rename(house.path("R/state/evidence"), house.path("kept")).unwrap();
    fs::write(house.path("R/state/evidence"), "in the way").unwrap();
    let found = run(&mut house.recoup(["backup", "audit"])).expect_code(18);
    assert!(found.stderr.contains("could not be held"), "{found:?}");
    fs::remove_file(house.path("R/state/evidence")).unwrap();
    fs::rename(house.path("kept"), house.path("R/state/evidence")).unwrap();
    let again = run(&mut house.recoup(["backup", "audit"])).expect_code(18);
    assert!(again.stderr.contains("snapshots 1 and 2 are held"), "{again:?}");
    run(&mut house.recoup(["backup", "audit"])).expect_code(0);
    let holds = run(&mut house.recoup(["hold", "list", "--json"])).expect_code(0).json();
    assert_eq!(holds["holds"].as_array().unwrap().len(), 1);
}

#[test]
fn what_a_revoked_key_has_pruned_stays_deleted() {
    if !crate::needs::needs("ssh-keygen") {
        return;
    }
    let house = house_of(4);
    // One store lags: it still shows what is deleted.
    crate::house::copy_tree(&house.path("c/sources"), &house.path("older"));
    prune(&house).expect_code(0);
    fs::remove_dir_all(house.path("c/sources")).unwrap();
    fs::rename(house.path("older"), house.path("c/sources")).unwrap();
    let fingerprint = {
        let keys = run(&mut house.recoup(["key", "list", "--json"])).expect_code(0).json();
        keys["signers"][0]["fingerprint"].as_str().unwrap().to_owned()
    };
    let keygen = ["-q", "-t", "ed25519", "-N", "", "-f", "R/new_ed25519"];
    run(crate::support::program("ssh-keygen", &house.path("")).args(keygen)).expect_code(0);
    run(&mut house.recoup(["key", "signer", "add", "R/new_ed25519.pub", "--reason", "new host key"])).expect_code(0);
    house.edit_configuration("host_ed25519", "new_ed25519");
    let confirm = format!("--confirm={fingerprint}");
    run(&mut house.recoup(["key", "signer", "revoke", &fingerprint, &confirm, "--reason", "stolen"])).expect_code(0);
    assert_eq!(numbers(&house), [4], "what was deleted is back");
    run(&mut house.recoup(["copy"])).expect_code(0);
    assert_eq!(numbers(&house), [4]);
    house.change_and_backup();
    house.assert_restores("latest", &house.ledger());
    let verified = run(&mut house.recoup(["verify", "--all", "--json"])).expect_code(0).json();
    assert_eq!(verified["status"], "ok");
}

/// The folders below one of a house's directories.
fn names_in(house: &House, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(house.path(folder)).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_newest_that_is_not_known_to_be_damaged_stays() {
    let house = house_of(2);
    run(&mut house.recoup(["backup", "--full"])).expect_code(0);
    let newest = names_in(&house, "a/sources/ledger/snapshots").pop().unwrap();
    let run_of_newest = newest.split_once('-').unwrap().1.to_owned();
    for store in STORES {
        let pack = house.path(&format!("{store}/sources/ledger/packs/{run_of_newest}/0.age"));
        let mut bytes = fs::read(&pack).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    run(&mut house.recoup(["verify", "--all"])).expect_code(2);
    let before = numbers(&house);
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), before[before.len() - 2..]);
}

#[test]
fn what_is_damaged_everywhere_takes_no_place_among_the_last() {
    let house = House::founded();
    fs::write(house.path("R/policies/default.toml"), "[retention]\nkeep_last = 2\n").unwrap();
    for _ in 0..4 {
        house.change_and_backup();
    }
    run(&mut house.recoup(["backup", "--full"])).expect_code(0);
    let newest = names_in(&house, "a/sources/ledger/snapshots").pop().unwrap();
    let run_of_newest = newest.split_once('-').unwrap().1.to_owned();
    for store in STORES {
        fs::remove_file(house.path(&format!("{store}/sources/ledger/packs/{run_of_newest}/0.age"))).unwrap();
    }
    let before = numbers(&house);
    let (newest, older) = before.split_last().unwrap();
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), [&older[older.len() - 2..], &[*newest]].concat(), "two that are whole, of {before:?}");
}

#[test]
fn a_gap_in_a_chain_may_hide_a_hold() {
    let house = house_of(3);
    run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "2", "--reason", "case 7"])).expect_code(0);
    let writer = names_in(&house, "a/evidence").pop().unwrap();
    for store in STORES {
        fs::remove_file(house.path(&format!("{store}/evidence/{writer}/0000000002.json"))).unwrap();
    }
    // What this host has read before it knows; another has not.
    fs::remove_dir_all(house.path("R/state/evidence")).unwrap();
    let before = numbers(&house);
    prune(&house).expect_code(17);
    assert_eq!(numbers(&house), before);
}

/// Moves records of a writer away from every store, to where they can be brought back from.
fn lose(house: &House, writer: &str, numbers: std::ops::RangeInclusive<u64>) {
    for (store, number) in STORES.iter().flat_map(|store| numbers.clone().map(move |number| (store, number))) {
        fs::create_dir_all(house.path(&format!("lost/{store}"))).unwrap();
        for ending in ["json", "sig", "age"] {
            let file = format!("{number:010}.{ending}");
            let from = house.path(&format!("{store}/evidence/{writer}/{file}"));
            fs::rename(from, house.path(&format!("lost/{store}/{file}"))).unwrap();
        }
    }
}

/// What this host has read before it knows; another has not.
fn forget(house: &House) {
    fs::remove_dir_all(house.path("R/state/evidence")).unwrap();
}

fn bring_back(house: &House, writer: &str, store: &str, number: u64) {
    for ending in ["json", "sig", "age"] {
        let file = format!("{number:010}.{ending}");
        let to = house.path(&format!("{store}/evidence/{writer}/{file}"));
        fs::rename(house.path(&format!("lost/{store}/{file}")), to).unwrap();
    }
}

/// A house of three snapshots with a hold on the second, whose writer it names, with the number of the hold's record.
fn held_house() -> (House, String, u64) {
    let house = house_of(3);
    run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "2", "--reason", "case 7"])).expect_code(0);
    let writer = names_in(&house, "a/evidence").pop().unwrap();
    let last = names_in(&house, &format!("a/evidence/{writer}")).pop().unwrap();
    let number = last.split_once('.').unwrap().0.parse().unwrap();
    (house, writer, number)
}

#[test]
fn a_loss_that_is_acknowledged_stops_no_prune_and_is_named_for_ever() {
    let (house, writer, hold) = held_house();
    lose(&house, &writer, 2..=3);
    forget(&house);
    let refused = prune(&house).expect_code(17);
    let command = format!("evidence acknowledge {writer}/2-3 --reason");
    assert!(refused.stderr.contains(&command), "{refused:?}");
    let acknowledge = |lost: &str, reason: &[&str]| {
        let lost = format!("{writer}/{lost}");
        let arguments = ["evidence", "acknowledge", &lost].into_iter().chain(reason.iter().copied());
        run(&mut house.recoup(arguments.collect::<Vec<_>>()))
    };
    let reason = ["--reason", "disk of b lost"];
    acknowledge("2-3", &[]).expect_code(64);
    acknowledge("2-4", &reason).expect_code(17);
    acknowledge("9000", &reason).expect_code(64);
    fs::rename(house.path("c"), house.path("away")).unwrap();
    acknowledge("2-3", &reason).expect_code(14);
    fs::rename(house.path("away"), house.path("c")).unwrap();
    // Half of the gap is not all of it.
    acknowledge("2", &reason).expect_code(0);
    let refused = prune(&house).expect_code(17);
    assert!(refused.stderr.contains(&format!("evidence acknowledge {writer}/3 ")), "{refused:?}");
    let verified = run(&mut house.recoup(["evidence", "verify", "--json"])).expect_code(2).json();
    assert_eq!(verified["findings"].as_array().unwrap().len(), 1, "{verified}");
    acknowledge("3", &reason).expect_code(0);
    let verified = run(&mut house.recoup(["evidence", "verify", "--json"])).expect_code(0).json();
    assert!(verified["notes"].to_string().contains(&format!("{writer}/3 is lost, as record ")), "{verified}");
    // While a store is silent, it may have what was lost.
    fs::rename(house.path("c"), house.path("away")).unwrap();
    prune(&house).expect_code(14);
    fs::rename(house.path("away"), house.path("c")).unwrap();
    assert_eq!(numbers(&house), [1, 2, 3]);
    assert!(hold > 3, "the hold lies behind the gap");
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), [2, 3], "what is held behind the gap stays");
}

#[test]
fn a_loss_may_be_acknowledged_behind_itself() {
    let (house, writer, _) = held_house();
    lose(&house, &writer, 2..=2);
    let lost = format!("{writer}/2");
    run(&mut house.recoup(["evidence", "acknowledge", &lost, "--reason", "gone"])).expect_code(0);
    assert_eq!(names_in(&house, "a/evidence"), [writer], "one chain, which goes on");
    forget(&house);
    prune(&house).expect_code(0);
    assert_eq!(numbers(&house), [2, 3]);
}

#[test]
fn what_was_acknowledged_as_lost_counts_when_it_turns_up() {
    let (house, writer, hold) = held_house();
    run(&mut house.recoup(["backup"])).expect_code(0);
    house.change_and_backup();
    lose(&house, &writer, hold..=hold);
    forget(&house);
    let lost = format!("{writer}/{hold}");
    run(&mut house.recoup(["evidence", "acknowledge", &lost, "--reason", "gone"])).expect_code(0);
    assert!(!run(&mut house.recoup(["hold", "list"])).expect_code(0).stdout.contains("ledger"));
    bring_back(&house, &writer, "b", hold);
    prune(&house).expect_code(0);
    let kept = numbers(&house);
    assert!(kept.contains(&2) && !kept.contains(&1), "{kept:?}");
}

#[test]
fn a_gap_of_any_length_may_hide_a_hold() {
    let (house, writer, hold) = held_house();
    for at in 0..12 {
        let reason = format!("case {at}");
        run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "3", "--reason", &reason])).expect_code(0);
    }
    lose(&house, &writer, hold..=hold + 10);
    forget(&house);
    let before = numbers(&house);
    let refused = prune(&house).expect_code(17);
    assert!(refused.stderr.contains(&format!("{writer}/{hold}-{}", hold + 10)), "{refused:?}");
    assert_eq!(numbers(&house), before);
}

#[test]
fn a_store_that_is_renamed_goes_on_getting_evidence() {
    let house = house_of(3);
    let file = house.path("R/recoup.toml");
    let text = fs::read_to_string(&file).unwrap();
    let renamed = STORES
        .iter()
        .fold(text.clone(), |text, name| text.replace(&format!("name = \"{name}\""), &format!("name = \"new{name}\"")));
    assert_ne!(renamed, text);
    fs::write(&file, renamed).unwrap();
    run(&mut house.recoup(["hold", "add", "ledger", "--reason", "case 8"])).expect_code(0);
}

/// Signs a record that says that these snapshots are deleted, and puts it on one store.
fn forge_tombstone(house: &House, store: &str, id: &str) {
    let pruned = house.path(store).join("sources/ledger/prunes");
    let honest = fs::read_dir(&pruned).unwrap().next().unwrap().unwrap().path();
    let mut record: Value = serde_json::from_slice(&fs::read(honest.join("executed.json")).unwrap()).unwrap();
    record["plan"] = "cccccccccccccccc".into();
    let sha256 = record["condemned"]["snapshots"][0]["inventory_sha256"].clone();
    record["condemned"] = serde_json::json!({
        "snapshots": [{ "id": id, "inventory_sha256": sha256, "because": "retention" }],
        "roots": [], "runs": [], "folders": [],
    });
    record["dropped"] = serde_json::json!({ "snapshots": [], "roots": [], "runs": [], "folders": [] });
    let folder = pruned.join("cccccccccccccccc");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("executed.json");
    fs::write(&file, serde_json::to_vec(&record).unwrap()).unwrap();
    let mut sign = crate::support::program("ssh-keygen", &house.path(""));
    sign.args(["-q", "-Y", "sign", "-f", "R/host_ed25519", "-n", "recoup-prune"]).arg(&file);
    run(&mut sign).expect_code(0);
}

#[test]
fn a_tombstone_that_one_store_alone_shows_deletes_and_hides_nothing() {
    if !crate::needs::needs("ssh-keygen") {
        return;
    }
    let house = house_of(4);
    prune(&house).expect_code(0);
    house.change_and_backup();
    let bytes = house.ledger();
    let listed = run(&mut house.recoup(["list", "--json"])).json();
    let newest = listed["snapshots"].as_array().unwrap().last().unwrap().clone();
    let id = format!("{:010}-{}", newest["seq"].as_u64().unwrap(), newest["run"].as_str().unwrap());
    forge_tombstone(&house, "a", &id);
    assert_eq!(numbers(&house), [4, 5]);
    house.assert_restores("latest", &bytes);
    let verified = run(&mut house.recoup(["verify"])).expect_code(2);
    assert!(verified.stdout.contains("cccccccccccccccc"), "{verified:?}");
    run(&mut house.recoup(["copy"]));
    assert!(!house.path("b/sources/ledger/prunes/cccccccccccccccc").exists(), "copy carried it");
    let pruned = prune(&house);
    assert!(pruned.stderr.contains("plan cccccccccccccccc"), "{pruned:?}");
    assert_eq!(numbers(&house).last(), Some(&5));
    house.assert_restores("latest", &bytes);
}

#[test]
fn a_tombstone_on_every_store_takes_nothing_that_is_held() {
    if !crate::needs::needs("ssh-keygen") {
        return;
    }
    let house = house_of(4);
    run(&mut house.recoup(["hold", "add", "ledger", "--snapshot", "2", "--reason", "case"])).expect_code(0);
    prune(&house).expect_code(0);
    let folders = fs::read_dir(house.path("a/sources/ledger/snapshots")).unwrap().map(Result::unwrap);
    let left = folders.filter(|folder| folder.path().join("inventory.json").exists());
    let held = left.map(|folder| folder.file_name().into_string().unwrap()).min().unwrap();
    for store in crate::house::STORES {
        forge_tombstone(&house, store, &held);
    }
    let pruned = prune(&house).expect_code(1);
    assert!(pruned.stderr.contains("it stays, as it is held"), "{pruned:?}");
    assert!(numbers(&house).contains(&2), "it is hidden");
    for store in crate::house::STORES {
        assert!(house.path(store).join("sources/ledger/snapshots").join(&held).join("inventory.json").exists());
    }
}
