//! Evidence: what commands leave, and that nothing done to it goes unnoticed.

mod accused;
mod forks;
mod left;
mod lost;
mod order;

use crate::{
    house::{House, STORES, assert_refused, copy_tree},
    needs::needs,
    support::{Run, program, run},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The envelopes on a store, by name, in order.
fn envelopes(house: &House, store: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for writer in fs::read_dir(house.path(store).join("evidence")).into_iter().flatten() {
        found.extend(fs::read_dir(writer.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()));
    }
    found.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
    found.sort();
    found
}

/// The same record on another store.
fn twin(house: &House, store: &str, envelope: &Path) -> PathBuf {
    let below: PathBuf = envelope.components().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect();
    house.path(store).join(below)
}

fn remove_record(envelope: &Path) {
    for ending in ["json", "sig", "age"] {
        fs::remove_file(envelope.with_extension(ending)).unwrap();
    }
}

fn records(house: &House) -> Vec<Value> {
    let listed = run(&mut house.recoup(["evidence", "list", "--json"])).expect_code(0).json();
    listed["records"].as_array().unwrap().iter().map(|entry| entry["record"].clone()).collect()
}

fn place(record: &Value) -> String {
    format!("{}/{}", record["writer"].as_str().unwrap(), record["number"])
}

fn verify(house: &House) -> Run {
    run(&mut house.recoup(["evidence", "verify", "--json"]))
}

/// A house with four records on every store: configuration, init, and two backups.
fn recorded() -> House {
    let (house, _) = House::new();
    house.change_and_backup();
    verify(&house).expect_code(0);
    assert_eq!(envelopes(&house, "a").len(), 4);
    house
}

#[test]
fn every_command_that_changes_something_leaves_a_record() {
    let (house, _) = House::new();
    let mut copy = house.recoup(["copy", "--reason", "weekly levelling"]);
    run(copy.env("SUDO_USER", "alice")).expect_code(0);
    let records = records(&house);
    let said: Vec<_> = records.iter().map(|record| (record["action"].as_str().unwrap(), &record["verdict"])).collect();
    let passed = &Value::from("passed");
    assert_eq!(said, [("configuration", passed), ("init", passed), ("backup", passed), ("copy", passed)]);
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record["number"], at as u64 + 1);
        assert_eq!(record["previous"].is_null(), at == 0);
    }
    let backup = &records[2]["subjects"][0];
    let list = run(&mut house.recoup(["list", "--json"])).expect_code(0).json();
    let snapshot = &list["snapshots"][0];
    assert_eq!(
        backup["snapshot"],
        format!("{:010}-{}", snapshot["seq"].as_u64().unwrap(), snapshot["run"].as_str().unwrap())
    );
    // Who did it and why is sealed: this host's own key opens it, and the custodian's.
    for identity in [&[][..], &["--identity", "R/custodian.age"]] {
        let mut show = house.recoup(["evidence", "show", &place(&records[3]), "--json"]);
        let shown = run(show.args(identity)).expect_code(0).json();
        let body = &shown["records"][0]["body"];
        assert_eq!((&body["reason"], &body["login_user"]), (&"weekly levelling".into(), &"alice".into()), "{body}");
        assert_eq!(body["result"]["schema"], "recoup.copy/1");
        assert!(body["command_line"].as_array().unwrap().contains(&"copy".into()));
    }
}

#[test]
fn a_backup_that_fails_is_recorded_too() {
    let house = House::founded();
    fs::write(house.path("data/ledger.db"), "no database").unwrap();
    run(&mut house.recoup(["backup"])).expect_code(13);
    let last = records(&house).pop().unwrap();
    assert_eq!((&last["action"], &last["verdict"]), (&"backup".into(), &"failed".into()));
    assert_eq!(last["subjects"][0]["verdict"], "failed");
}

#[test]
fn a_changed_configuration_is_recorded() {
    let house = recorded();
    house.edit_configuration("level = 1", "level = 5");
    house.backup();
    let actions: Vec<Value> = records(&house).iter().map(|record| record["action"].clone()).collect();
    assert_eq!(actions[4..], ["configuration", "backup"]);
}

/// Only by its name it is known what a store had: an auditor who calls it something else is told so.
#[test]
fn an_auditor_is_told_what_the_records_call_the_stores() {
    let house = recorded();
    // The newest is named by no later one.
    envelopes(&house, "b")[2..].iter().for_each(|envelope| remove_record(envelope));
    let verify = |names: [&str; 3]| {
        let mut command = crate::support::recoup(&house.path(""));
        command.args(["evidence", "verify", "--json", "--signers", "R/custodian.age.signers"]);
        for (name, store) in names.iter().zip(["a", "b", "c"]) {
            command.arg(format!("--store={name}=file://{}", house.path(store).display()));
        }
        run(&mut command)
    };
    let named = verify(["a", "b", "c"]).expect_code(2).json();
    let problems: Vec<&Value> = named["findings"].as_array().unwrap().iter().map(|found| &found["problem"]).collect();
    assert_eq!(problems, ["behind", "removed"], "{named}");
    let strange = verify(["x", "y", "z"]).expect_code(1).json();
    let found: Vec<&Value> = strange["findings"].as_array().unwrap().iter().collect();
    assert!(found.len() == 1 && found[0]["store"] == "y" && found[0]["problem"] == "behind", "{strange}");
    let message = found[0]["message"].as_str().unwrap();
    assert!(message.contains("the records call the stores a, b, c; with --store NAME=URL"), "{message}");
}

/// What may be done to the evidence, and the word for what is then found.
type Tampering = (&'static str, fn(&House), &'static str);

const TAMPERINGS: &[Tampering] = &[
    ("a record is edited", |house| replace_in(&envelopes(house, "b")[2], "\"passed\"", "\"warning\""), "altered"),
    ("a record is edited everywhere", |house| edit_everywhere(house), "untrusted"),
    ("one is removed from the middle", |house| remove_record(&envelopes(house, "c")[1]), "removed"),
    ("one is removed from the middle everywhere", |house| remove_everywhere(house, 1), "removed"),
    ("the newest is removed on one store", |house| remove_record(&envelopes(house, "a")[3]), "removed"),
    ("the newest is removed everywhere", |house| remove_everywhere(house, 3), "removed"),
    ("all are removed on one store", |house| fs::remove_dir_all(house.path("b/evidence")).unwrap(), "removed"),
    ("all are removed everywhere", |house| remove_all(house), "removed"),
    (
        "a signature is removed",
        |house| fs::remove_file(envelopes(house, "a")[0].with_extension("sig")).unwrap(),
        "altered",
    ),
    ("a body is removed", |house| fs::remove_file(envelopes(house, "a")[0].with_extension("age")).unwrap(), "altered"),
    ("a body is changed", |house| append(&envelopes(house, "c")[3].with_extension("age")), "altered"),
    ("a record takes the place of another", |house| replay_within(house), "altered"),
    ("a record is cut short", |house| fs::write(&envelopes(house, "b")[3], "{").unwrap(), "altered"),
];

fn replace_in(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn append(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.push(0);
    fs::write(path, bytes).unwrap();
}

fn edit_everywhere(house: &House) {
    STORES.iter().for_each(|store| replace_in(&envelopes(house, store)[2], "\"passed\"", "\"warning\""));
}

fn remove_everywhere(house: &House, at: usize) {
    STORES.iter().for_each(|store| remove_record(&envelopes(house, store)[at]));
}

fn remove_all(house: &House) {
    STORES.iter().for_each(|store| fs::remove_dir_all(house.path(store).join("evidence")).unwrap());
}

fn replay_within(house: &House) {
    let envelopes = envelopes(house, "a");
    for ending in ["json", "sig", "age"] {
        fs::copy(envelopes[1].with_extension(ending), envelopes[2].with_extension(ending)).unwrap();
    }
}

#[test]
fn tampering_is_found() {
    let whole = recorded();
    for (what, tamper, problem) in TAMPERINGS {
        for store in STORES {
            let _ = fs::remove_dir_all(whole.path("kept").join(store));
            copy_tree(&whole.path(store), &whole.path("kept").join(store));
        }
        tamper(&whole);
        let found = verify(&whole).expect_code(2).json();
        let problems: Vec<&Value> = found["findings"].as_array().unwrap().iter().map(|of| &of["problem"]).collect();
        assert!(problems.contains(&&Value::from(*problem)), "{what}: {found:#}");
        assert_eq!(found["status"], "critical", "{what}");
        for store in STORES {
            fs::remove_dir_all(whole.path(store)).unwrap();
            copy_tree(&whole.path("kept").join(store), &whole.path(store));
        }
        verify(&whole).expect_code(0);
    }
}

#[test]
fn an_auditor_without_the_host_finds_it_too() {
    let house = recorded();
    let auditor = || {
        let mut command = crate::support::recoup(&house.path("R"));
        command.args(["evidence", "verify", "--signers", "allowed_signers"]);
        for store in STORES {
            command.arg("--store").arg(format!("{store}=file://{}", house.path(store).display()));
        }
        run(&mut command)
    };
    auditor().expect_code(0);
    remove_record(&envelopes(&house, "a")[2]);
    remove_record(&twin(&house, "a", &envelopes(&house, "b")[3]));
    assert!(auditor().expect_code(2).stdout.contains("store a: record"));
}

#[test]
fn a_record_of_another_repository_is_found() {
    let (house, other) = (recorded(), recorded());
    // The same key signs for both, as where somebody copied it.
    for store in STORES {
        fs::remove_dir_all(house.path(store).join("evidence")).unwrap();
        copy_tree(&other.path(store).join("evidence"), &house.path(store).join("evidence"));
    }
    assert!(verify(&house).expect_code(2).stdout.contains("\"untrusted\""));
    let signers = fs::read_to_string(other.path("R/allowed_signers")).unwrap();
    let own = fs::read_to_string(house.path("R/allowed_signers")).unwrap();
    let repository = own.split_once(' ').unwrap().0;
    let replayable = format!("{repository} {}", signers.split_once(' ').unwrap().1);
    fs::write(house.path("R/allowed_signers"), format!("{own}{replayable}")).unwrap();
    assert!(verify(&house).expect_code(2).stdout.contains("\"altered\""));
}

#[test]
fn a_strangers_signature_is_found() {
    if !needs("ssh-keygen") {
        return;
    }
    let house = recorded();
    run(program("ssh-keygen", &house.path("R")).args(["-q", "-t", "ed25519", "-N", "", "-f", "stranger"]))
        .expect_code(0);
    for store in STORES {
        let envelope = envelopes(&house, store)[2].clone();
        let signature = envelope.with_extension("sig");
        fs::remove_file(&signature).unwrap();
        let mut sign = program("ssh-keygen", &house.path("R"));
        run(sign.args(["-q", "-Y", "sign", "-f", "stranger", "-n", "recoup-evidence"]).arg(&envelope)).expect_code(0);
        fs::rename(envelope.with_extension("json.sig"), signature).unwrap();
    }
    assert!(verify(&house).expect_code(2).stdout.contains("\"untrusted\""));
}

#[test]
fn stock_tools_check_and_open_a_record() {
    if !needs("ssh-keygen") || !needs("age") || !needs("zstd") || !needs("sha256sum") {
        return;
    }
    let house = recorded();
    let envelope = envelopes(&house, "a")[3].clone();
    let repository =
        run(&mut house.recoup(["evidence", "list", "--json"])).json()["records"][0]["record"]["repository"].clone();
    let script = format!(
        "ssh-keygen -Y verify -f R/allowed_signers -I evidence@{} -n recoup-evidence -s {} < {} && age -d -i R/custodian.age {} | zstd -d -c",
        repository.as_str().unwrap(),
        envelope.with_extension("sig").display(),
        envelope.display(),
        envelope.with_extension("age").display(),
    );
    let shown = run(program("sh", &house.path("")).args(["-c", &script])).expect_code(0).stdout;
    assert!(shown.contains("Good \"recoup-evidence\" signature") && shown.contains("\"os_user\""), "{shown}");
}

#[test]
fn a_store_that_was_down_lags_until_the_next_command() {
    let house = recorded();
    fs::rename(house.path("b"), house.path("away")).unwrap();
    house.write_rows(1);
    run(&mut house.recoup(["backup"])).expect_code(1);
    assert_eq!(envelopes(&house, "a").len(), 5);
    fs::rename(house.path("away"), house.path("b")).unwrap();
    let found = verify(&house).expect_code(1).json();
    assert_eq!((&found["findings"][0]["problem"], &found["findings"][0]["store"]), (&"behind".into(), &"b".into()));
    house.write_rows(1);
    // The store still lacks objects of the base; its evidence is level.
    run(&mut house.recoup(["backup"])).expect_code(1);
    verify(&house).expect_code(0);
    assert_eq!(envelopes(&house, "b").len(), 6);
}

#[test]
fn what_is_on_stores_that_are_down_is_not_called_removed() {
    let house = recorded();
    let swap = |from: &str, to: &str, names: &[&str]| {
        names.iter().for_each(|name| {
            fs::rename(house.path(&format!("{from}{name}")), house.path(&format!("{to}{name}"))).unwrap()
        });
    };
    swap("", "away-", &["c"]);
    house.write_rows(1);
    run(&mut house.recoup(["backup"])).expect_code(1);
    swap("away-", "", &["c"]);
    for (down, code) in [(&["a", "b"][..], 1), (&STORES[..], 3)] {
        swap("", "away-", down);
        let found = verify(&house).expect_code(code).json();
        let problems: Vec<&Value> =
            found["findings"].as_array().unwrap().iter().map(|finding| &finding["problem"]).collect();
        assert!(problems.iter().all(|problem| *problem == "unreachable"), "{down:?}: {found:#}");
        swap("away-", "", down);
    }
    swap("", "away-", &STORES);
    let told = run(&mut house.recoup(["evidence", "verify"])).expect_code(3);
    assert!(
        told.stdout.contains("cannot be told")
            && told.stderr.starts_with("next: ")
            && told.stderr.ends_with(" doctor\n"),
        "{told:?}"
    );
}

#[test]
fn copy_brings_what_lags_and_mends_what_was_altered() {
    let house = recorded();
    remove_record(&envelopes(&house, "a")[2]);
    append(&envelopes(&house, "b")[1]);
    fs::remove_dir_all(house.path("c/evidence")).unwrap();
    let copied = run(&mut house.recoup(["copy", "--json"])).expect_code(1);
    assert!(copied.stderr.contains("store a had lost 1 evidence records"), "{copied:?}");
    verify(&house).expect_code(0);
    assert!(house.path("b/quarantine/evidence").is_dir(), "the altered bytes are gone");
    run(&mut house.recoup(["copy"])).expect_code(0);
}

#[test]
fn a_lost_state_directory_begins_a_new_chain() {
    let house = recorded();
    let writer = records(&house)[0]["writer"].clone();
    fs::remove_dir_all(house.path("R/state")).unwrap();
    house.backup();
    let records = records(&house);
    let new: Vec<&Value> = records.iter().filter(|record| record["writer"] != writer).collect();
    assert_eq!(new.len(), 2, "{records:#?}");
    verify(&house).expect_code(0);
    // It names what it has seen of the old one, once it has read it.
    run(&mut house.recoup(["hold", "list"])).expect_code(0);
    house.backup();
    let last = self::records(&house).pop().unwrap();
    assert_eq!((&last["seen"][0]["writer"], &last["seen"][0]["number"]), (&writer, &4.into()));
}

#[test]
fn a_state_directory_that_was_set_back_is_found() {
    let house = recorded();
    copy_tree(&house.path("R/state"), &house.path("older"));
    house.change_and_backup();
    fs::remove_dir_all(house.path("R/state")).unwrap();
    fs::rename(house.path("older"), house.path("R/state")).unwrap();
    assert!(verify(&house).expect_code(2).stdout.contains("\"forked\""));
    let noted = run(&mut house.recoup(["backup"]));
    assert!(noted.stderr.contains("set back"), "{noted:?}");
    // What was on the stores is untouched, and the host goes on in a chain of its own.
    house.change_and_backup();
    assert_eq!(records(&house).iter().filter(|record| record["number"] == 1).count(), 2);
    verify(&house).expect_code(0);
}

#[test]
fn a_number_far_ahead_keeps_nobody_from_verifying() {
    if !needs("ssh-keygen") {
        return;
    }
    let house = recorded();
    let last = envelopes(&house, "a").pop().unwrap();
    let mut record: Value = serde_json::from_slice(&fs::read(&last).unwrap()).unwrap();
    (record["number"], record["acknowledged"]["a"]) = (9_999_999_999_u64.into(), u64::MAX.into());
    let far = last.with_file_name("9999999999.json");
    fs::write(&far, record.to_string()).unwrap();
    fs::copy(last.with_extension("age"), far.with_extension("age")).unwrap();
    let mut sign = program("ssh-keygen", &house.path("R"));
    sign.args(["-q", "-Y", "sign", "-n", "recoup-evidence", "-f"]).arg(house.path("R/host_ed25519"));
    run(sign.arg(&far)).expect_code(0);
    fs::rename(far.with_extension("json.sig"), far.with_extension("sig")).unwrap();
    let found = verify(&house).expect_code(2).json();
    let findings = found["findings"].as_array().unwrap();
    assert!(findings.iter().any(|finding| finding["message"].as_str().unwrap().contains("up to 9999999998")));
    assert!(findings.len() < 2_000, "{}", findings.len());
}

#[test]
fn evidence_that_cannot_be_written_undoes_nothing() {
    let (house, _) = House::new();
    fs::remove_dir_all(house.path("R/state/evidence")).unwrap();
    fs::write(house.path("R/state/evidence"), "in the way").unwrap();
    house.write_rows(1);
    let backup = run(&mut house.recoup(["backup"]));
    assert!(backup.code <= 1 && backup.stderr.contains("left no evidence record"), "{backup:?}");
    house.assert_restores("latest", &house.ledger());
}

#[test]
fn holds_are_added_listed_and_released() {
    let house = recorded();
    let hold = |arguments: &[&str]| run(&mut house.recoup([&["hold"], arguments].concat()));
    assert_refused(hold(&["add", "ledger"]), 64, &["needs a reason"]);
    assert_refused(hold(&["add", "ledger", "--snapshot", "9", "--reason", "x"]), 16, &["no snapshot 9"]);
    let one = hold(&["add", "ledger", "--snapshot", "1", "--reason", "case 7", "--json"]).expect_code(0).json();
    hold(&["add", "ledger", "--reason", "all of it"]).expect_code(0);
    let listed = hold(&["list", "--json"]).expect_code(0).json();
    let holds = listed["holds"].as_array().unwrap();
    assert_eq!(holds.len(), 2);
    let reasons: Vec<&str> = holds.iter().map(|hold| hold["reason"].as_str().unwrap()).collect();
    assert!(reasons.iter().any(|reason| reason.starts_with("case 7 (")), "{reasons:?}");
    let id = one["holds"][0]["hold"].as_str().unwrap();
    assert_refused(hold(&["release", id]), 64, &["releasing a hold needs a reason"]);
    let listed = run(&mut house.recoup(["list"])).expect_code(0).stdout;
    let last: Vec<Option<&str>> = listed.lines().map(|line| line.split_whitespace().last()).collect();
    assert_eq!(last, [Some("HOLDS"), Some("2"), Some("1")], "{listed}");
    hold(&["release", id, "--reason", "closed"]).expect_code(0);
    assert_refused(hold(&["release", id, "--reason", "again"]), 64, &["was released"]);
    assert_refused(hold(&["release", "aaaaaaaaaaaaaaaa", "--reason", "x"]), 64, &["no record"]);
    let left = hold(&["list", "--json"]).expect_code(0).json();
    assert_eq!(left["holds"].as_array().unwrap().len(), 1);
    assert_eq!(left["holds"][0]["snapshots"], Value::Array(Vec::new()));
    verify(&house).expect_code(0);
}

#[test]
fn no_branch_of_a_fork_hides_a_hold() {
    let house = recorded();
    copy_tree(&house.path("R/state"), &house.path("copied"));
    let away = |stores: &[&str], back: bool| {
        for store in stores {
            let (here, there) = (house.path(store), house.path(&format!("{store}-away")));
            if back { fs::rename(there, here).unwrap() } else { fs::rename(here, there).unwrap() }
        }
    };
    let add = |reason: &str| run(&mut house.recoup(["hold", "add", "ledger", "--reason", reason]));
    away(&["a"], false);
    add("one host").expect_code(0);
    away(&["a"], true);
    fs::remove_dir_all(house.path("R/state")).unwrap();
    fs::rename(house.path("copied"), house.path("R/state")).unwrap();
    away(&["b", "c"], false);
    add("the other").expect_code(2);
    away(&["b", "c"], true);
    fs::remove_dir_all(house.path("R/state")).unwrap();
    for _ in 0..2 {
        let listed = run(&mut house.recoup(["hold", "list", "--json"])).expect_code(1).json();
        assert_eq!(listed["holds"].as_array().unwrap().len(), 2, "{listed}");
    }
    let checked = run(&mut house.recoup(["check"])).expect_code(2);
    assert!(checked.stdout.contains("another store has another record of this number"), "{checked:?}");
}

#[test]
fn a_hold_of_a_chain_that_is_given_up_goes_on_in_the_next() {
    let house = recorded();
    copy_tree(&house.path("R/state"), &house.path("older"));
    house.change_and_backup();
    fs::remove_dir_all(house.path("R/state")).unwrap();
    fs::rename(house.path("older"), house.path("R/state")).unwrap();
    let added = run(&mut house.recoup(["hold", "add", "ledger", "--reason", "case 7"]));
    assert_refused(added, 2, &["not yet on enough stores"]);
    run(&mut house.recoup(["copy"]));
    fs::remove_dir_all(house.path("R/state/evidence")).unwrap();
    let listed = run(&mut house.recoup(["hold", "list", "--json"])).expect_code(0).json();
    assert_eq!(listed["holds"].as_array().unwrap().len(), 1);
}

#[test]
fn a_hold_that_too_few_stores_have_is_no_success() {
    let house = recorded();
    for store in ["b", "c"] {
        fs::rename(house.path(store), house.path(&format!("{store}-away"))).unwrap();
    }
    let added = run(&mut house.recoup(["hold", "add", "ledger", "--reason", "case 7"]));
    assert_refused(added, 2, &["not yet on enough stores", "store b", "store c"]);
    for store in ["b", "c"] {
        fs::rename(house.path(&format!("{store}-away")), house.path(store)).unwrap();
    }
    house.change_and_backup();
    let mut elsewhere = crate::support::recoup(&house.path("R"));
    elsewhere.args(["hold", "list", "--json", "--signers", "allowed_signers", "--store"]);
    let listed = run(elsewhere.arg(format!("file://{}", house.path("c").display()))).expect_code(0).json();
    assert_eq!(listed["holds"].as_array().unwrap().len(), 1);
}
