//! Which snapshot a restore takes, what it says of the choice, and what it checks of the result.

use crate::{
    house::{House, STORES, assert_refused, copy_tree},
    support::{Run, program, run},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// A restore on a host that has nothing but the custodian's files.
fn bare(house: &House, to: &str, more: &[&str]) -> Command {
    let mut command = house.recoup(["restore", "ledger", "--identity", "R/custodian.age", "--to", to]);
    command.args(more);
    for store in STORES {
        command.arg("--store").arg(format!("{store}=file://{}", house.path(store).display()));
    }
    // Without the flag that the house gives to every command.
    let words: Vec<_> = command.get_args().skip(2).map(ToOwned::to_owned).collect();
    let mut plain = program(command.get_program().to_str().unwrap(), &house.path(""));
    plain.args(words);
    plain
}

fn snapshots(house: &House, store: &str) -> Vec<String> {
    let dir = house.path(store).join("sources/ledger/snapshots");
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn remove_snapshot(house: &House, store: &str, id: &str) {
    fs::remove_dir_all(house.path(store).join("sources/ledger/snapshots").join(id)).unwrap();
}

/// Runs the command after `: ` in the next step of a message, just as it stands.
#[track_caller]
fn follow(house: &House, refused: &Run) -> Run {
    let line = refused.stderr.lines().find(|line| line.contains(": recoup ")).unwrap_or_else(|| panic!("{refused:?}"));
    let (_, command) = line.split_once(": recoup ").unwrap();
    let binary = house.recoup([""; 0]);
    run(program("sh", &house.path("")).arg("-c").arg(format!("{} {command}", binary.get_program().display())))
}

fn digest_of(path: &Path) -> String {
    recoup::format::sha256(&fs::read(path).unwrap()).to_string()
}

#[test]
fn a_head_that_somebody_kept_is_enforced() {
    let (house, first) = House::new();
    let second = house.change_and_backup();
    let head = snapshots(&house, "a")[1].clone();
    let inventory = house.path("a/sources/ledger/snapshots").join(&head).join("inventory.json");
    let sha256 = digest_of(&inventory);
    // On too few stores to be durable, and still it is what the witness has seen.
    ["a", "b"].iter().for_each(|store| remove_snapshot(&house, store, &head));
    run(&mut bare(&house, "without", &[])).expect_code(0);
    assert_eq!(fs::read(house.path("without/ledger.db")).unwrap(), first);
    for (to, named) in [("one", head.clone()), ("two", format!("{head}:{sha256}"))] {
        // The stores that lack it are named.
        run(&mut bare(&house, to, &["--head", &named])).expect_code(1);
        assert_eq!(fs::read(house.path(to).join("ledger.db")).unwrap(), second);
    }
    let other = format!("{head}:{}", "0".repeat(64));
    let refused = assert_refused(run(&mut bare(&house, "out", &["--head", &other])), 17, &[&head, &sha256, "--head"]);
    run(&mut bare(&house, "out", &["--head", &head, "--target", "snapshot:1"])).expect_code(0);
    fs::remove_dir_all(house.path("out")).unwrap();
    follow(&house, &refused).expect_code(1);
    // Gone everywhere, and nothing names it as its parent.
    remove_snapshot(&house, "c", &head);
    assert_refused(run(&mut bare(&house, "none", &["--head", &head])), 17, &[&head]);
    assert!(!house.path("none").exists());
    // The host that has committed it says so, whatever it restores.
    let told = run(&mut house.restore("snapshot:1").0).expect_code(0);
    assert!(told.stderr.contains(&head), "{told:?}");
}

#[test]
fn a_fork_is_said_and_the_other_history_can_be_had() {
    let (house, _) = House::new();
    copy_tree(&house.path("R"), &house.path("R2"));
    STORES.iter().for_each(|store| copy_tree(&house.path(store), &house.path(&format!("{store}-early"))));
    let one = house.change_and_backup();
    for store in STORES {
        fs::rename(house.path(store), house.path(&format!("{store}-one"))).unwrap();
        fs::rename(house.path(&format!("{store}-early")), house.path(store)).unwrap();
    }
    house.write_rows(5);
    // A state directory of the same age as the stores, as on a host that was restored from an image.
    fs::remove_dir_all(house.path("R/state")).unwrap();
    copy_tree(&house.path("R2/state"), &house.path("R/state"));
    let two = house.backup();
    STORES.iter().for_each(|store| copy_tree(&house.path(&format!("{store}-one")), &house.path(store)));
    let forked = run(&mut bare(&house, "latest", &["--json"])).expect_code(1);
    assert!(forked.json()["warnings"][0].as_str().unwrap().contains("forked"), "{forked:?}");
    assert_eq!(fs::read(house.path("latest/ledger.db")).unwrap(), two);
    let (mut restore, out) = house.restore("latest");
    let forked = run(&mut restore).expect_code(1);
    assert_eq!(fs::read(&out).unwrap(), two);
    fs::remove_dir_all(out.parent().unwrap()).unwrap();
    follow(&house, &forked).expect_code(0);
    assert_eq!(fs::read(out).unwrap(), one);
    // The next snapshot knows of both, and there is one history again.
    let merged = house.change_and_backup();
    house.assert_restores("latest", &merged);
}

#[test]
fn what_is_damaged_everywhere_is_not_offered_again() {
    let (house, first) = House::new();
    let before: Vec<PathBuf> = runs(&house);
    house.change_and_backup();
    let second = runs(&house).into_iter().find(|run| !before.contains(run)).unwrap();
    // Nothing changed: these need what the second one brought.
    run(&mut house.recoup(["backup"])).expect_code(0);
    run(&mut house.recoup(["backup"])).expect_code(0);
    for store in STORES {
        let pack = house.path(store).join("sources/ledger/packs").join(&second).join("0.age");
        let mut bytes = fs::read(&pack).unwrap();
        bytes[300] ^= 1;
        fs::write(pack, bytes).unwrap();
    }
    for target in ["latest", "snapshot:2"] {
        let refused = assert_refused(run(&mut house.restore(target).0), 15, &["snapshot:0000000001-"]);
        run_and_compare(&house, &refused, &first);
    }
    // The first one damaged as well: a newer one may still be whole.
    let third = house.change_and_backup();
    for store in STORES {
        let pack = house.path(store).join("sources/ledger/packs").join(&before[0]).join("0.age");
        fs::remove_file(pack).unwrap();
    }
    house.write_rows(1);
    run(&mut house.recoup(["backup", "--full"])).expect_code(0);
    let whole = house.ledger();
    assert_ne!(whole, third);
    let refused = assert_refused(run(&mut house.restore("snapshot:1").0), 15, &["snapshot:0000000006-"]);
    run_and_compare(&house, &refused, &whole);
}

#[track_caller]
fn run_and_compare(house: &House, refused: &Run, expected: &[u8]) {
    let next = refused.stderr.lines().find(|line| line.starts_with("next: ")).unwrap();
    let words: Vec<&str> = next.split(' ').collect();
    let to = words[words.iter().position(|word| *word == "--to").unwrap() + 1];
    follow(house, refused).expect_code(0);
    assert_eq!(fs::read(Path::new(to).join("ledger.db")).unwrap(), expected);
    fs::remove_dir_all(to).unwrap();
}

/// The runs of the source, by the names of their folders.
fn runs(house: &House) -> Vec<PathBuf> {
    let entries = fs::read_dir(house.path("a/sources/ledger/packs")).unwrap();
    entries.map(|entry| PathBuf::from(entry.unwrap().file_name())).collect()
}

#[test]
fn assertions_are_run_with_the_check() {
    let house = House::founded();
    let policy = house.path("R/policies/default.toml");
    let assertion = |query: &str, expect: &str| {
        format!("[[drill.assert]]\nname = \"as it must be\"\nquery = \"{query}\"\nexpect = \"{expect}\"\n")
    };
    fs::write(&policy, assertion("select count(*) from posting", "300")).unwrap();
    house.backup();
    let restore = |to: &str| {
        let mut command = house.recoup(["restore", "ledger", "--identity", "R/custodian.age", "--check", "--json"]);
        run(command.args(["--to", to]))
    };
    let held = restore("held").expect_code(0).json();
    assert_eq!(held["checks"][2]["name"], "as it must be", "{held}");
    assert_eq!(held["checks"][2]["status"], "passed", "{held}");
    for (to, query, expect, found) in [
        ("other", "select count(*) from posting", "299", "another value"),
        ("rows", "select 'Ada Lovelace, Baker Street' from posting limit 2", "no rows", "2 rows"),
        ("wrong", "select nothing from nowhere", "rows", "could not be run: "),
        ("writes", "delete from posting returning id", "rows", "could not be run: "),
    ] {
        fs::write(&policy, assertion(query, expect)).unwrap();
        let failed = restore(to).expect_code(2);
        // What is found may be about a person, and output ends up in logs.
        assert!(!failed.stdout.contains("Lovelace") && !failed.stderr.contains("Lovelace"), "{failed:?}");
        let failed = failed.json();
        assert_eq!(failed["checks"][2]["status"], "failed", "{failed}");
        assert!(failed["checks"][2]["actual"].as_str().unwrap().starts_with(found), "{failed}");
    }
    // On a bare host those count that were kept with the snapshot.
    let kept = run(&mut bare(&house, "bare", &["--check", "--json"])).expect_code(0).json();
    assert_eq!(kept["checks"][2]["status"], "passed", "{kept}");
}

#[test]
fn a_damaged_record_of_the_newest_snapshot_does_not_pass_for_none() {
    let (house, bytes) = House::new();
    fs::write(house.path("R/state/sources/ledger/known.json"), "junk").unwrap();
    assert_refused(run(&mut house.restore("latest").0), 17, &["record of the newest snapshot", "--head"]);
    house.assert_restores("snapshot:1", &bytes);
}

#[test]
fn keys_and_sources_do_not_lie_in_stores() {
    for (identity, config, source) in [
        ("a/custodian.age", "R/recoup.toml", "data/ledger.db"),
        ("R/custodian.age", "a/R/recoup.toml", "data/ledger.db"),
        ("R/custodian.age", "R/recoup.toml", "a/ledger.db"),
    ] {
        let house = House::unfounded();
        let mut init = program(house.init().get_program().to_str().unwrap(), &house.path(""));
        init.args(["init", "--config", config, "--new-identity", identity]);
        init.arg("--store").arg(format!("a=file://{}", house.path("a").display()));
        init.arg("--source").arg(format!("ledger=sqlite:{}", house.path(source).display()));
        assert_refused(run(&mut init), 17, &["inside of store a"]);
        assert!(!house.path("a").exists() && !house.path("R").exists());
    }
}

#[test]
fn signals_are_heard_while_the_identity_command_runs() {
    let (house, bytes) = House::new();
    let start = |to: &str, command: &str| {
        let mut restore = house.recoup(["restore", "ledger", "--to", to]);
        restore.env("RECOUP_IDENTITY_COMMAND", command).stderr(Stdio::piped()).stdout(Stdio::null());
        let child = restore.spawn().unwrap();
        // Until the command has begun: it makes this file.
        while !house.path("begun").exists() {
            thread::sleep(Duration::from_millis(5));
        }
        fs::remove_file(house.path("begun")).unwrap();
        child
    };
    let child = start("asked", "touch begun; sleep 0.3; cat R/custodian.age");
    kill_process(Pid::from_child(&child), Signal::USR1).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert_eq!(fs::read(house.path("asked/ledger.db")).unwrap(), bytes);
    let child = start("stopped", "touch begun; exec sleep 600");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let stopped = child.wait_with_output().unwrap();
    assert_eq!(stopped.status.code(), Some(143), "{stopped:?}");
    assert!(String::from_utf8_lossy(&stopped.stderr).contains("\nnext: "), "{stopped:?}");
    assert!(!house.path("stopped").exists());
}
