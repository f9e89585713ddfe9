//! Keys on the real binary: the life of a recipient, and who is trusted when.

mod again;
mod interrupted;
mod revoked;

use crate::{
    house::{House, assert_refused, set_mode},
    support::{Run, run},
};
use recoup::format::{
    seal::new_identity,
    signature::{HostKey, SignerFingerprint},
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

fn key(house: &House, arguments: &[&str]) -> Run {
    run(&mut house.recoup([&["key"], arguments].concat()))
}

/// The same with a reason, as every change needs one.
fn change(house: &House, arguments: &[&str]) -> Run {
    key(house, &[arguments, &["--reason", "a test"]].concat())
}

/// A new custodian: the identity's file, and the recipient.
fn custodian(house: &House, name: &str) -> (String, String) {
    let (text, recipient) = new_identity("2026-11-22T09:15:00Z");
    let file = format!("R/{name}.age");
    fs::write(house.path(&file), text).unwrap();
    set_mode(&house.path(&file), 0o600);
    (file, recipient)
}

/// A new signing key: its file, and its fingerprint. The `.pub` file lies beside it.
fn host_key(house: &House, name: &str, seed: u8) -> (String, SignerFingerprint) {
    let key = HostKey::generate([seed; 32], &format!("recoup@{name}"));
    let file = format!("R/{name}_ed25519");
    fs::write(house.path(&file), key.to_openssh()).unwrap();
    set_mode(&house.path(&file), 0o600);
    fs::write(house.path(&format!("{file}.pub")), format!("{}\n", key.public_line())).unwrap();
    (file, key.fingerprint())
}

fn listed(house: &House) -> Value {
    key(house, &["list", "--json"]).expect_code(0).json()
}

fn recipients(house: &House) -> Vec<Value> {
    listed(house)["recipients"].as_array().unwrap().clone()
}

/// The kinds of change that records of the control log say, in order.
fn changes(house: &House) -> Vec<String> {
    let listed = run(&mut house.recoup(["evidence", "list", "--json"])).json();
    let records = listed["records"].as_array().unwrap();
    let change = |entry: &Value| entry["record"]["control"]["change"].as_str().map(str::to_owned);
    records.iter().filter_map(change).filter(|change| change != "configuration").collect()
}

fn restores_with(house: &House, identity: &str, target: &str) -> Run {
    let (command, file) = house.restore(target);
    let to = file.parent().unwrap().to_str().unwrap().to_owned();
    drop(command);
    run(&mut house.recoup(["restore", "ledger", "--to", &to, "--target", target, "--identity", identity]))
}

#[test]
fn a_recipient_comes_works_and_goes() {
    let (house, _) = House::new();
    let (file, carol) = custodian(&house, "carol");
    let bob = recipients(&house)[0]["recipient"].as_str().unwrap().to_owned();
    key(&house, &["prove", "--identity", "R/custodian.age"]).expect_code(0);
    // Nobody knows of Carol yet.
    assert_refused(key(&house, &["prove", "--identity", &file]), 12, &["of a configured recipient"]);
    let added = change(&house, &["add", &carol, "--json"]).expect_code(0);
    assert_eq!((added.stderr.as_str(), added.json()["notes"].as_array().unwrap().len()), ("", 3), "{added:?}");
    // The newest snapshot is not sealed to her yet.
    assert_refused(key(&house, &["prove", "--identity", &file]), 12, &["did not open", "recoup --config"]);
    assert_eq!(restores_with(&house, &file, "latest").code, 12);
    let plan = run(&mut house.recoup(["backup", "--dry-run"])).expect_code(0);
    assert!(plan.stdout.contains("take full snapshot 2") && plan.stdout.contains(&carol), "{plan:?}");
    house.change_and_backup();
    assert!(matches!(restores_with(&house, &file, "latest").code, 0 | 1));
    // Both at once, from one file.
    let both = [fs::read(house.path("R/custodian.age")).unwrap(), fs::read(house.path(&file)).unwrap()].concat();
    fs::write(house.path("R/both.age"), both).unwrap();
    set_mode(&house.path("R/both.age"), 0o600);
    let proven = key(&house, &["prove", "--identity", "R/both.age", "--json"]).expect_code(0).json();
    assert_eq!(proven["recipients"].as_array().unwrap().len(), 2, "{proven}");
    for entry in recipients(&house) {
        assert!(entry["proven_at"].is_string() && entry["proven_by"].as_str().unwrap().contains(" on "), "{entry}");
        assert_eq!((&entry["configured"], &entry["kind"]), (&true.into(), &"age".into()));
        assert_eq!(entry["sources"], serde_json::json!(["ledger"]));
    }
    assert_refused(change(&house, &["remove", &bob]), 17, &["--confirm="]);
    assert_refused(change(&house, &["remove", &bob, "--confirm", &carol]), 17, &["--confirm="]);
    let removed = change(&house, &["remove", &bob, &format!("--confirm={bob}"), "--json"]).expect_code(0);
    assert!(removed.json()["notes"].to_string().contains("stay readable by the removed identity"), "{removed:?}");
    let only = change(&house, &["remove", &carol, "--confirm", &carol]);
    assert_refused(only, 17, &["the only recipient", "key add RECIPIENT --reason TEXT"]);
    run(&mut house.recoup(["backup", "--full"])).expect_code(0);
    assert_refused(key(&house, &["prove", "--identity", "R/custodian.age"]), 12, &["of a configured recipient"]);
    assert_eq!(restores_with(&house, "R/custodian.age", "latest").code, 12);
    assert!(matches!(restores_with(&house, "R/custodian.age", "snapshot:2").code, 0 | 1));
    assert!(matches!(restores_with(&house, &file, "latest").code, 0 | 1));
    let proofs = ["recipient-proven", "recipient-added", "recipient-proven", "recipient-proven", "recipient-removed"];
    assert_eq!(changes(&house), proofs);
    run(&mut house.recoup(["evidence", "verify"])).expect_code(0);
}

#[test]
fn a_source_that_is_no_longer_configured_keeps_nobody_from_a_proof() {
    let (house, _) = House::new();
    let wallet = house.path("data/wallet.db");
    rusqlite::Connection::open(&wallet).unwrap().execute_batch("create table balance (amount_minor)").unwrap();
    let before = fs::read_to_string(house.path("R/recoup.toml")).unwrap();
    let source = format!("\n[[source]]\nname = \"wallet\"\nkind = \"sqlite\"\npath = \"{}\"\n", wallet.display());
    fs::write(house.path("R/recoup.toml"), format!("{before}{source}policy = \"default\"\n")).unwrap();
    house.backup();
    let (file, carol) = custodian(&house, "carol");
    change(&house, &["add", &carol]).expect_code(0);
    run(&mut house.recoup(["backup", "ledger"])).expect_code(0);
    assert_refused(key(&house, &["prove", "--identity", &file]), 12, &["of wallet"]);
    let after = fs::read_to_string(house.path("R/recoup.toml")).unwrap();
    fs::write(house.path("R/recoup.toml"), after.split("\n[[source]]\nname = \"wallet\"").next().unwrap()).unwrap();
    let proven = key(&house, &["prove", "--identity", &file, "--json"]).expect_code(0);
    assert_eq!(proven.json()["recipients"][0]["sources"], serde_json::json!(["ledger"]));
    assert!(proven.stderr.contains("wallet is not configured"), "{proven:?}");
}

#[test]
fn an_ssh_key_can_be_a_recipient() {
    let (house, _) = House::new();
    let (file, _) = host_key(&house, "dave", 5);
    let public = fs::read_to_string(house.path(&format!("{file}.pub"))).unwrap();
    change(&house, &["add", public.trim()]).expect_code(0);
    assert!(fs::read_to_string(house.path("R/recoup.toml")).unwrap().contains("recoup@dave\""), "the comment is gone");
    assert_refused(change(&house, &["add", public.trim()]), 64, &["is a recipient already"]);
    house.change_and_backup();
    let mut by_command = house.recoup(["key", "prove"]);
    run(by_command.env("RECOUP_IDENTITY_COMMAND", format!("cat {file}"))).expect_code(0);
    let name = public.split(' ').take(2).collect::<Vec<_>>().join(" ");
    let of_dave = recipients(&house).into_iter().find(|entry| entry["recipient"] == *name).unwrap();
    assert_eq!(of_dave["kind"], "ssh-ed25519");
    assert!(of_dave["proven_at"].is_string(), "{of_dave}");
    // The comment is no part of the key.
    change(&house, &["remove", &name, "--confirm", public.trim()]).expect_code(1);
    assert!(!fs::read_to_string(house.path("R/recoup.toml")).unwrap().contains("ssh-ed25519"));
}

#[test]
fn removing_all_who_were_ever_proven_is_a_warning() {
    let (house, _) = House::new();
    let bob = recipients(&house)[0]["recipient"].as_str().unwrap().to_owned();
    let (_, carol) = custodian(&house, "carol");
    change(&house, &["add", &carol]).expect_code(0);
    let removed = change(&house, &["remove", &bob, "--confirm", &bob]).expect_code(1);
    assert!(removed.stderr.contains("warning: none of the remaining"), "{removed:?}");
}

#[test]
fn a_proof_needs_a_snapshot_and_bytes_that_are_right() {
    let house = House::founded();
    let prove = ["prove", "--identity", "R/custodian.age"];
    assert_refused(key(&house, &prove), 16, &["no durable snapshot yet"]);
    house.backup();
    key(&house, &prove).expect_code(0);
    // The host's own key opens structure, and is no recipient.
    assert_refused(key(&house, &["prove", "--identity", "R/catalogue.age"]), 12, &["of a configured recipient"]);
    let run_folder = |store: &str| {
        let packs = house.path(store).join("sources/ledger/packs");
        fs::read_dir(packs).unwrap().next().unwrap().unwrap().path()
    };
    for object in ["digests.age", "0.age"] {
        let flip = |store: &str| {
            let path = run_folder(store).join(object);
            let mut bytes = fs::read(&path).unwrap();
            bytes[20] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        flip("a");
        key(&house, &prove).expect_code(0);
        ["b", "c"].iter().for_each(|store| flip(store));
        assert_refused(key(&house, &prove), 15, &["recoup --config R/recoup.toml verify --all"]);
        ["a", "b", "c"].iter().for_each(|store| flip(store));
    }
    assert_eq!(changes(&house), ["recipient-proven"; 3]);
}

#[test]
fn the_configuration_keeps_its_comments_mode_and_meaning() {
    let house = House::founded();
    let bob = recipients(&house)[0]["recipient"].as_str().unwrap().to_owned();
    let with = format!("# bob\n  \"{bob}\"  # the safe in Bonn\n  # end\n");
    house.edit_configuration(&format!("    \"{bob}\",\n"), &with);
    let path = house.path("R/recoup.toml");
    set_mode(&path, 0o640);
    let before = fs::read_to_string(&path).unwrap();
    let (_, carol) = custodian(&house, "carol");
    change(&house, &["add", &carol]).expect_code(0);
    let after = fs::read_to_string(&path).unwrap();
    let expected =
        before.replace("  # the safe", ",  # the safe").replace("  # end\n", &format!("  \"{carol}\"\n  # end\n"));
    assert_eq!(after, expected);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_refused(change(&house, &["add", &carol]), 64, &["is a recipient already"]);
    for bad in ["age1", "hello", "AGE-SECRET-KEY-1QQ"] {
        assert_refused(change(&house, &["add", bad]), 64, &["not a recipient"]);
    }
    assert_refused(key(&house, &["add", &carol]), 64, &["needs a reason"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn what_cannot_be_edited_safely_is_left_to_the_operator() {
    let house = House::founded();
    let (_, carol) = custodian(&house, "carol");
    let path = house.path("R/recoup.toml");
    fs::rename(&path, house.path("R/real.toml")).unwrap();
    symlink("real.toml", &path).unwrap();
    let refused = change(&house, &["add", &carol]);
    assert_refused(
        refused,
        17,
        &["cannot be edited safely", "it is a link", &format!("add \"{carol}\" to `recipients`")],
    );
    fs::remove_file(&path).unwrap();
    fs::hard_link(house.path("R/real.toml"), &path).unwrap();
    assert_refused(change(&house, &["add", &carol]), 17, &["several names"]);
    fs::remove_file(house.path("R/real.toml")).unwrap();
    change(&house, &["add", &carol]).expect_code(0);
    // What was begun is on record, too, with how it ended.
    let records = run(&mut house.recoup(["evidence", "list", "--action", "key", "--json"])).json();
    let verdicts: Vec<&str> = records["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["record"]["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["pending", "refused", "pending", "refused", "pending", "passed"]);
}

#[test]
fn nothing_is_changed_while_too_few_stores_could_know_of_it() {
    let house = House::founded();
    let (_, carol) = custodian(&house, "carol");
    let before = fs::read(house.path("R/recoup.toml")).unwrap();
    for store in ["b", "c"] {
        fs::rename(house.path(store), house.path(&format!("{store}-away"))).unwrap();
    }
    assert_refused(change(&house, &["add", &carol]), 14, &["not on enough stores"]);
    assert!(fs::read(house.path("R/recoup.toml")).unwrap() == before);
    for store in ["b", "c"] {
        fs::rename(house.path(&format!("{store}-away")), house.path(store)).unwrap();
    }
    change(&house, &["add", &carol]).expect_code(0);
    run(&mut house.recoup(["evidence", "verify"])).expect_code(0);
}

#[test]
fn a_second_host_signs_once_it_is_trusted() {
    let (house, _) = House::new();
    let (file, fingerprint) = host_key(&house, "second", 9);
    let public = format!("{file}.pub");
    let added = change(&house, &["signer", "add", &public]).expect_code(0);
    let signers = fs::read_to_string(house.path("R/allowed_signers")).unwrap();
    assert!(signers.ends_with(&added.stdout) && added.stdout.starts_with("*@"), "{signers}\n{added:?}");
    let shown = listed(&house)["signers"].as_array().unwrap().clone();
    let own: Vec<bool> = shown.iter().map(|entry| entry["this_host"].as_bool().unwrap()).collect();
    assert_eq!(own, [true, false]);
    assert_eq!(shown[1]["fingerprint"], fingerprint.as_str());
    assert_refused(change(&house, &["signer", "add", &public]), 64, &["a trusted signer already"]);
    house.edit_configuration("\"host_ed25519\"", "\"second_ed25519\"");
    let bytes = house.change_and_backup();
    house.assert_restores("latest", &bytes);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    run(&mut house.recoup(["evidence", "verify"])).expect_code(0);
    assert_eq!(changes(&house), ["signer-added"]);
}

#[test]
fn a_signer_may_do_what_it_is_told_and_no_more() {
    let (house, bytes) = House::new();
    let (file, _) = host_key(&house, "reports", 9);
    let public = format!("{file}.pub");
    let roles = ["--role", "evidence", "--role", "report", "--source", "ledger"];
    let added = change(&house, &[&["signer", "add", &public][..], &roles].concat()).expect_code(0);
    assert!(added.stdout.starts_with("evidence@") && added.stdout.lines().count() == 1, "{added:?}");
    house.edit_configuration("\"host_ed25519\"", "\"reports_ed25519\"");
    // Nobody would take what it signed for a snapshot; its evidence counts.
    let refused = run(&mut house.recoup(["backup"]));
    assert!(refused.code == 78 && refused.stderr.contains("is not trusted for source ledger"), "{refused:?}");
    run(&mut house.recoup(["evidence", "verify"])).expect_code(0);
    house.assert_restores("latest", &bytes);
}

#[test]
fn keys_that_are_none_are_refused() {
    let (house, _) = House::new();
    let (file, _) = host_key(&house, "second", 9);
    let line = fs::read_to_string(house.path(&format!("{file}.pub"))).unwrap();
    let before = fs::read(house.path("R/allowed_signers")).unwrap();
    for (text, why) in [
        (String::new(), "exactly one public key"),
        (format!("{line}{line}"), "exactly one public key"),
        ("ssh-rsa AAAA x".to_owned(), "only ssh-ed25519"),
        ("sk-ssh-ed25519@openssh.com AAAA x".to_owned(), "only ssh-ed25519"),
        ("rubbish".to_owned(), "no OpenSSH public key"),
        ("ssh-ed25519 AAAA x".to_owned(), "damaged"),
        (line.replace("recoup@", "\u{1b}[31m"), "printable ASCII"),
        (fs::read_to_string(house.path(&file)).unwrap(), "exactly one public key"),
        ("x".repeat(20_000), "larger"),
    ] {
        fs::write(house.path("R/bad.pub"), &text).unwrap();
        assert_refused(change(&house, &["signer", "add", "R/bad.pub"]), 64, &[why]);
    }
    assert_refused(change(&house, &["signer", "add", "R/none.pub"]), 64, &["cannot be used"]);
    assert!(fs::read(house.path("R/allowed_signers")).unwrap() == before);
}

#[test]
fn keys_are_listed_on_a_bare_host_too() {
    let (house, _) = House::new();
    let store = format!("file://{}", house.path("b").display());
    let mut command = crate::support::recoup(&house.path(""));
    command.args(["key", "list", "--json", "--store", &store, "--signers", "R/custodian.age.signers"]);
    let listed = run(&mut command).expect_code(0).json();
    assert_eq!(listed["schema"], "recoup.keys/1");
    assert_eq!(listed["recipients"][0]["configured"], Value::Null);
    assert_eq!(listed["recipients"][0]["sources"][0], "ledger");
    let text = key(&house, &["list"]).expect_code(0).stdout;
    assert!(text.contains("(this host)") && text.contains("never"), "{text}");
}
