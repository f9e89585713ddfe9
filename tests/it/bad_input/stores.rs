//! Stores that are down, empty, foreign, newer, damaged or read-only; and founding a repository on such.

use crate::{
    house::{House, STORES, assert_refused, copy_tree, is_root, set_mode},
    needs::needs,
    support::{Run, run},
};
use std::fs;

/// What happens to the directory of a store.
fn befall(house: &House, store: &str, mishap: &str) {
    let path = house.path(store);
    let head = path.join("recoup.json");
    match mishap {
        "gone" => fs::rename(&path, house.path(&format!("{store}.away"))).unwrap(),
        "empty" => {
            befall(house, store, "gone");
            fs::create_dir(&path).unwrap();
        }
        "file" => {
            befall(house, store, "gone");
            fs::write(&path, "").unwrap();
        }
        "foreign" => fs::write(
            &head,
            r#"{"format_version":1,"repository":"aaaaaaaaaaaaaaaa","created_at":"2026-01-01T00:00:00.000Z"}"#,
        )
        .unwrap(),
        "newer" => fs::write(&head, r#"{"format_version":7,"something":"else"}"#).unwrap(),
        "garbage" => fs::write(&head, "\x1b[31m{{{").unwrap(),
        "nested" => fs::write(&head, "[".repeat(60_000)).unwrap(),
        "huge" => fs::File::create(&head).unwrap().set_len(1 << 30).unwrap(),
        "folder" => {
            fs::remove_file(&head).unwrap();
            fs::create_dir(&head).unwrap();
        }
        other => panic!("{other}"),
    }
}

fn recover(house: &House, store: &str, head: &[u8]) {
    let (path, away) = (house.path(store), house.path(&format!("{store}.away")));
    if away.exists() {
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        fs::rename(away, &path).unwrap();
    }
    let _ = fs::remove_dir_all(path.join("recoup.json"));
    fs::write(path.join("recoup.json"), head).unwrap();
}

#[track_caller]
fn says(run: Run, code: i32, parts: &[&str]) {
    let run = run.expect_code(code);
    for part in parts {
        assert!(run.stderr.contains(part), "{part:?} is missing in {run:?}");
    }
    assert!(!run.stderr.contains('\x1b') && !run.stderr.contains("panicked"), "{run:?}");
}

#[test]
fn stores_that_cannot_be_used() {
    let (house, bytes) = House::new();
    let head = fs::read(house.path("a/recoup.json")).unwrap();
    // The mishap, what is said of the store, and the code when all stores are like that.
    for (mishap, part, all) in [
        ("gone", "store", 14),
        ("empty", "recoup.json", 10),
        ("file", "store", 14),
        ("foreign", "another repository", 17),
        ("newer", "version 7", 2),
        ("garbage", "damaged", 15),
        ("nested", "damaged", 15),
        ("huge", "damaged", 15),
        ("folder", "recoup.json", 10),
    ] {
        befall(&house, "b", mishap);
        says(run(&mut house.recoup(["backup"])), 1, &["is durable", "store b", part]);
        says(run(&mut house.recoup(["list"])), 1, &["store b", part]);
        let verified = run(&mut house.recoup(["verify"]));
        assert!(matches!(verified.code, 1 | 2), "{mishap}: {verified:?}");
        assert!(verified.stdout.contains('b'), "{mishap}: {verified:?}");
        house.assert_restores("snapshot:1", &bytes);
        befall(&house, "c", mishap);
        says(run(&mut house.recoup(["backup"])), 2, &["not durable", "only a", "store b", "store c"]);
        house.assert_restores("snapshot:1", &bytes);
        befall(&house, "a", mishap);
        for arguments in [&["backup"][..], &["list"]] {
            let refused = assert_refused(run(&mut house.recoup(arguments.iter().copied())), all, &["store a"]);
            assert!(refused.stderr.contains(part), "{mishap}: {refused:?}");
        }
        run(&mut house.recoup(["verify"])).expect_code(3);
        let (mut restore, file) = house.restore("latest");
        assert_refused(run(&mut restore), all, &["store a"]);
        assert!(!file.exists());
        STORES.into_iter().for_each(|store| recover(&house, store, &head));
        run(&mut house.recoup(["copy"]));
        run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    }
    let changed = house.change_and_backup();
    house.assert_restores("latest", &changed);
    house.assert_restores("snapshot:1", &bytes);
}

#[test]
fn damaged_heads_are_healed() {
    let (house, bytes) = House::new();
    let head = fs::read(house.path("a/recoup.json")).unwrap();
    for mishap in ["garbage", "huge", "folder", "nested", "empty"] {
        befall(&house, "b", mishap);
        let copied = run(&mut house.recoup(["copy"]));
        assert!(matches!(copied.code, 0 | 1), "{mishap}: {copied:?}");
        assert_eq!(fs::read(house.path("b/recoup.json")).unwrap(), head, "{mishap}");
        run(&mut house.recoup(["verify", "--all"])).expect_code(0);
        let _ = fs::remove_dir_all(house.path("b.away"));
    }
    house.assert_restores("latest", &bytes);
}

#[test]
fn heads_that_are_lost_or_wrong_everywhere_are_made_again() {
    let (house, bytes) = House::new();
    let head: serde_json::Value = serde_json::from_slice(&fs::read(house.path("a/recoup.json")).unwrap()).unwrap();
    STORES.iter().for_each(|store| fs::remove_file(house.path(store).join("recoup.json")).unwrap());
    let refused = run(&mut house.restore("latest").0);
    assert!(matches!(refused.code, 10 | 15) && refused.stderr.contains(" copy"), "{refused:?}");
    run(&mut house.recoup(["copy"])).expect_code(0);
    let again: serde_json::Value = serde_json::from_slice(&fs::read(house.path("b/recoup.json")).unwrap()).unwrap();
    assert_eq!(again["repository"], head["repository"]);
    run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    house.assert_restores("latest", &bytes);
    // An id that was damaged on one store, beside snapshots that are signed for the right one.
    let text = fs::read_to_string(house.path("c/recoup.json")).unwrap();
    let id = head["repository"].as_str().unwrap();
    let other = id.chars().rev().collect::<String>();
    fs::write(house.path("c/recoup.json"), text.replace(id, &other)).unwrap();
    run(&mut house.recoup(["verify"])).expect_code(2);
    run(&mut house.recoup(["copy"])).expect_code(0);
    assert_eq!(fs::read_to_string(house.path("c/recoup.json")).unwrap(), text);
    // Nothing there is signed for this repository: it is somebody else's, or nobody's.
    let stranger = House::new().0;
    fs::remove_dir_all(house.path("c")).unwrap();
    copy_tree(&stranger.path("a"), &house.path("c"));
    let theirs = house.inventory_of("c");
    assert!(run(&mut house.recoup(["copy"])).code > 0);
    assert_eq!(house.inventory_of("c"), theirs);
}

#[test]
fn stores_that_refuse() {
    if is_root() && !needs("setpriv") {
        return;
    }
    let (house, bytes) = House::new();
    run(&mut house.unprivileged(["verify"])).expect_code(0);
    let lock = |store: &str, mode| {
        let sealed = ["", "/sources", "/sources/ledger", "/sources/ledger/packs", "/sources/ledger/snapshots"];
        sealed.iter().for_each(|name| set_mode(&house.path(&format!("{store}{name}")), mode));
    };
    lock("b", 0o555);
    house.write_rows(3);
    says(run(&mut house.unprivileged(["backup"])), 1, &["is durable", "store b", "ermission"]);
    lock("c", 0o555);
    says(run(&mut house.unprivileged(["backup"])), 2, &["not durable", "only a", "store b", "store c"]);
    lock("a", 0o555);
    let refused = run(&mut house.unprivileged(["backup"]));
    assert!(matches!(refused.code, 2 | 14), "{refused:?}");
    says(refused, 2, &["a", "ermission"]);
    // Reading is enough for a restore.
    let restore = ["restore", "ledger", "--identity", "R/custodian.age", "--target", "snapshot:1", "--to", "out"];
    run(&mut house.unprivileged(restore)).expect_code(0);
    assert_eq!(fs::read(house.path("out/ledger.db")).unwrap(), bytes);
    STORES.into_iter().for_each(|store| lock(store, 0o755));
    let copied = run(&mut house.unprivileged(["copy"]));
    assert_eq!(copied.code, 0, "{copied:?}");
    run(&mut house.unprivileged(["verify", "--all"])).expect_code(0);
    // A store that may not even be read is down.
    set_mode(&house.path("b"), 0o000);
    says(run(&mut house.unprivileged(["list"])), 1, &["store b", "ermission"]);
    set_mode(&house.path("b"), 0o755);
}

#[test]
fn founding_on_what_is_there() {
    let house = House::unfounded();
    let before = house.inventory_of("");
    let untouched = |house: &House| assert_eq!(house.inventory_of(""), before);
    // A store directory that is somebody's.
    fs::create_dir(house.path("b")).unwrap();
    fs::write(house.path("b/holiday.jpg"), "precious").unwrap();
    assert_refused(run(&mut house.init()), 17, &["store b", "not empty"]);
    fs::remove_dir_all(house.path("b")).unwrap();
    untouched(&house);
    // A store whose parent is not there, and one that is a file.
    let mut missing = house.init();
    missing.arg("--store").arg(format!("d=file://{}", house.path("no/such").display()));
    assert_refused(run(&mut missing), 14, &["no"]);
    untouched(&house);
    fs::write(house.path("c"), "").unwrap();
    let refused = run(&mut house.init());
    assert!(matches!(refused.code, 14 | 17), "{refused:?}");
    fs::remove_file(house.path("c")).unwrap();
    untouched(&house);
    // A store of another repository.
    let (other, _) = House::new();
    copy_tree(&other.path("a"), &house.path("a"));
    assert_refused(run(&mut house.init()), 17, &["store a", "another repository"]);
    fs::remove_dir_all(house.path("a")).unwrap();
    untouched(&house);
    // The same place twice, by its name and by a link.
    let mut twice = house.init();
    twice.arg("--store").arg(format!("again=file://{}", house.path("a").display()));
    let refused = run(&mut twice);
    assert!(matches!(refused.code, 64 | 78), "{refused:?}");
    fs::create_dir(house.path("a")).unwrap();
    std::os::unix::fs::symlink("a", house.path("alias")).unwrap();
    let mut twice = house.init();
    twice.arg("--store").arg(format!("again=file://{}", house.path("alias").display()));
    assert_refused(run(&mut twice), 17, &["again", "same directory"]);
    fs::remove_file(house.path("alias")).unwrap();
    fs::remove_dir(house.path("a")).unwrap();
    untouched(&house);
    // Keys and configurations are never overwritten.
    for name in ["custodian.age", "custodian.age.signers", "host_ed25519", "catalogue.age", "recoup.toml"] {
        fs::create_dir_all(house.path("R")).unwrap();
        fs::write(house.path("R").join(name), "precious").unwrap();
        assert_refused(run(&mut house.init()), 17, &[name]);
        assert_eq!(fs::read(house.path("R").join(name)).unwrap(), b"precious");
        fs::remove_dir_all(house.path("R")).unwrap();
        untouched(&house);
    }
    run(&mut house.init()).expect_code(0);
    let keys = fs::read(house.path("R/custodian.age")).unwrap();
    assert_refused(run(&mut house.init()), 17, &["recoup.toml", "doctor"]);
    assert_eq!(fs::read(house.path("R/custodian.age")).unwrap(), keys);
    let bytes = house.backup();
    house.assert_restores("latest", &bytes);
}

#[test]
fn founding_where_nothing_may_be_written() {
    if is_root() && !needs("setpriv") {
        return;
    }
    for unwritable in ["b", "R", "."] {
        let house = House::unfounded();
        let init: Vec<String> = house.init().get_args().skip(2).map(|word| word.to_str().unwrap().to_owned()).collect();
        fs::create_dir(house.path("R")).unwrap();
        fs::create_dir(house.path("b")).unwrap();
        let command = || house.unprivileged([["init"].as_slice(), &words(&init[1..])].concat());
        drop(command());
        set_mode(&house.path(unwritable), 0o555);
        let before = house.inventory_of("");
        let refused = run(&mut command());
        let code = if unwritable == "R" { refused.code } else { 14 };
        assert!(matches!(code, 2 | 14 | 17 | 78), "{refused:?}");
        assert_refused(refused, code, &["ermission"]);
        assert_eq!(house.inventory_of(""), before, "{unwritable}");
        set_mode(&house.path(unwritable), 0o755);
        run(&mut command()).expect_code(0);
        run(&mut house.unprivileged(["backup"])).expect_code(0);
    }
}

fn words(owned: &[String]) -> Vec<&str> {
    owned.iter().map(String::as_str).collect()
}

#[test]
fn a_founding_that_broke_off_is_finished_by_the_same_command() {
    if !needs("strace") {
        return;
    }
    // Killed as it enters each of its renames and links: every file that it makes gets its name by one.
    let mut at = 1;
    loop {
        let house = House::unfounded();
        let founding = house.init();
        let mut killed = crate::support::program("strace", &house.path(""));
        killed.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=rename,renameat,renameat2,linkat,mkdir,mkdirat"]);
        killed.arg("-e").arg(format!("inject=rename,renameat,renameat2,linkat,mkdir,mkdirat:signal=KILL:when={at}"));
        killed.arg(founding.get_program()).args(founding.get_args());
        let code = run(&mut killed).code;
        if code == 0 {
            break;
        }
        assert_eq!(code, 137, "at {at}");
        let identity = fs::read(house.path("R/custodian.age")).ok();
        run(&mut house.init()).expect_code(0);
        if let Some(identity) = identity.filter(|found| !found.is_empty()) {
            assert_eq!(fs::read(house.path("R/custodian.age")).unwrap(), identity, "killed at {at}: another identity");
        }
        let bytes = house.backup();
        house.assert_restores("latest", &bytes);
        run(&mut house.recoup(["verify", "--all"])).expect_code(0);
        at += 1;
    }
    assert!(at > 5, "killed {} times only", at - 1);
}

#[test]
fn a_founding_that_broke_off_between_the_files_of_a_store_is_finished() {
    let founded = House::unfounded();
    run(&mut founded.init()).expect_code(0);
    let head: serde_json::Value = serde_json::from_slice(&fs::read(founded.path("a/recoup.json")).unwrap()).unwrap();
    // What lies in the last store when the founding broke off, and whether the same command may go on there.
    let states: [(&[(&str, &str)], bool); 6] = [
        (&[], true),
        (&[("RECOVERY.md", "")], true),
        (&[("RECOVERY.md", ""), ("recover.sh", "")], true),
        (&[("RECOVERY.md", ""), ("recover.sh", ""), ("recoup.json#1", "{")], true),
        (&[("RECOVERY.md", ""), ("recover.sh", "echo somebody else's")], false),
        (&[("RECOVERY.md", ""), ("holiday.jpg", "somebody else's")], false),
    ];
    for (files, resumable) in states {
        let house = House::unfounded();
        fs::create_dir_all(house.path("R/state")).unwrap();
        fs::create_dir(house.path("c")).unwrap();
        let identity = house.path("R/custodian.age");
        let marker = serde_json::json!({
            "repository": head["repository"], "created_at": head["created_at"], "identity": identity,
        });
        fs::write(house.path("R/state/init.json"), marker.to_string()).unwrap();
        for (name, content) in files {
            let path = house.path("c").join(name);
            match *content {
                "" => fs::copy(founded.path("a").join(name), path).map(|_| ()).unwrap(),
                other => fs::write(path, other).unwrap(),
            }
        }
        if !resumable {
            let before = house.inventory_of("c");
            assert_refused(run(&mut house.init()), 17, &["c"]);
            assert_eq!(house.inventory_of("c"), before, "{files:?}");
            continue;
        }
        run(&mut house.init()).expect_code(0);
        let bytes = house.backup();
        house.assert_restores("latest", &bytes);
        run(&mut house.recoup(["verify", "--all"])).expect_code(0);
    }
}
