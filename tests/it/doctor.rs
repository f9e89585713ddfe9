//! `doctor` on hosts with something wrong: it says so, says everything, and changes nothing.

use crate::{
    house::{House, is_root, set_mode},
    needs::needs,
    support::{Run, program, run},
};
use rusqlite::Connection;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The findings of `doctor --json` with an id.
fn findings(run: &Run, id: &str) -> Vec<Value> {
    let json = run.json();
    json["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == id).cloned().collect()
}

#[track_caller]
fn finds(run: &Run, id: &str, severity: &str, parts: &[&str]) {
    let found = findings(run, id);
    let right = |finding: &Value| {
        let message = finding["message"].as_str().unwrap();
        finding["severity"] == severity && parts.iter().all(|part| message.contains(part))
    };
    assert!(found.iter().any(right), "no {severity} {id} with {parts:?} in {run:?}");
}

/// Everything below a directory: bytes, modes, owners, times.
fn picture(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, u32, u32, i64, i64)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let bytes = if metadata.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
            let facts = (bytes, metadata.mode(), metadata.uid(), metadata.mtime(), metadata.mtime_nsec());
            if metadata.is_dir() {
                open.push(path.clone());
            }
            found.insert(path, facts);
        }
    }
    found
}

/// The ledger and a sidecar as a writer that was killed in the middle leaves them.
fn crash_writer(house: &House, mode: &str) {
    let database = house.path("data/ledger.db");
    let names = ["ledger.db", "ledger.db-journal", "ledger.db-wal"];
    let copy = house.path("crashed");
    fs::create_dir(&copy).unwrap();
    let writer = Connection::open(&database).unwrap();
    writer.pragma_update(None, "journal_mode", mode).unwrap();
    writer.execute_batch("PRAGMA cache_size=5; PRAGMA cache_spill=1; BEGIN IMMEDIATE").unwrap();
    writer.execute_batch("UPDATE posting SET note = randomblob(400)").unwrap();
    if mode == "wal" {
        writer.execute_batch("COMMIT").unwrap();
    }
    for name in names {
        let _ = fs::copy(house.path("data").join(name), copy.join(name));
    }
    drop(writer);
    for name in names {
        let _ = fs::remove_file(house.path("data").join(name));
        let _ = fs::copy(copy.join(name), house.path("data").join(name));
    }
}

#[test]
fn what_a_crashed_writer_left_is_reported_and_stays() {
    for (mode, sidecar) in [("delete", "ledger.db-journal"), ("wal", "ledger.db-wal")] {
        let (house, _) = House::new();
        crash_writer(&house, mode);
        assert!(house.path("data").join(sidecar).exists(), "{sidecar}");
        let before = picture(&house.path(""));
        let doctor = run(&mut house.recoup(["doctor", "--json"])).expect_code(1);
        assert!(picture(&house.path("")) == before, "{mode}: doctor changed something");
        finds(&doctor, "crashed-writer", "warning", &["source ledger", sidecar]);
        // A backup does what any next reader does, and then all is well.
        run(&mut house.recoup(["backup"])).expect_code(0);
        if mode == "delete" {
            assert!(
                findings(&run(&mut house.recoup(["doctor", "--json"])).expect_code(0), "crashed-writer").is_empty()
            );
        }
    }
}

#[test]
fn a_bad_host_hides_neither_stores_nor_sources() {
    for (from, to, part) in [
        ("signing_key = \"host_ed25519\"", "signing_key = \"none\"", "none"),
        ("allowed_signers = \"allowed_signers\"", "allowed_signers = \"none\"", "none"),
        ("state_dir = \"state\"", "state_dir = \"none\"", "state directory"),
        ("id = \"", "# id = \"", "id is missing"),
        ("\"age1", "\"age1age1", "recipient"),
    ] {
        let (house, _) = House::new();
        house.edit_configuration(from, to);
        fs::remove_dir_all(house.path("b")).unwrap();
        fs::write(house.path("data/ledger.db"), "id,amount\n".repeat(1000)).unwrap();
        let doctor = run(&mut house.recoup(["doctor", "--json"])).expect_code(2);
        finds(&doctor, "host", "critical", &[part]);
        finds(&doctor, "store-down", "critical", &["/b cannot be opened"]);
        finds(&doctor, "source-unfit", "critical", &["source ledger", "not a SQLite database"]);
    }
}

#[test]
fn an_identity_beside_the_configuration_is_remarked_on() {
    let (house, _) = House::new();
    let before = picture(&house.path("R"));
    let doctor = run(&mut house.recoup(["doctor", "--json"])).expect_code(0);
    finds(&doctor, "identity-on-host", "note", &["R/custodian.age"]);
    assert_eq!(findings(&doctor, "identity-on-host").len(), 1, "the catalogue key opens no snapshot");
    assert!(!doctor.stdout.contains("AGE-SECRET-KEY"));
    assert!(picture(&house.path("R")) == before, "nothing is left behind in the state directory");
    fs::create_dir(house.path("safe")).unwrap();
    fs::rename(house.path("R/custodian.age"), house.path("safe/custodian.age")).unwrap();
    let doctor = run(&mut house.recoup(["doctor", "--json"])).expect_code(0);
    assert!(findings(&doctor, "identity-on-host").is_empty(), "{doctor:?}");
}

#[test]
fn state_that_another_user_has_touched_is_found() {
    if !is_root() || !needs("setpriv") {
        return;
    }
    let (house, _) = House::new();
    run(&mut house.unprivileged(["doctor"])).expect_code(0);
    // As a `sudo recoup` of an older installation leaves it.
    run(program("chown", &house.path("")).args(["-R", "0:0", "R/state/sources"])).expect_code(0);
    let doctor = run(&mut house.unprivileged(["doctor", "--json"]));
    run(program("chown", &house.path("")).args(["-R", "65534:65534", "R/state/sources"])).expect_code(0);
    drop(doctor);
    run(program("chown", &house.path("")).args(["0:0", "R/state/sources/ledger"])).expect_code(0);
    let mut command = program("setpriv", &house.path(""));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"]);
    command.arg(house.path("recoup")).args(["--config", "R/recoup.toml", "doctor", "--json"]);
    finds(&run(&mut command).expect_code(2), "state-dir", "critical", &["sources/ledger", "root"]);
    run(program("chown", &house.path("")).args(["65534:65534", "R/state/sources/ledger"])).expect_code(0);
    set_mode(&house.path("R/state/sources"), 0o500);
    finds(&run(&mut command).expect_code(2), "state-dir", "critical", &["state/sources", "cannot be written"]);
}

#[test]
fn monitors_take_only_damage_for_damage() {
    let (house, _) = House::new();
    let into_a_full_disk = |command: &str| {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let status = house.recoup([command]).stdout(full).stderr(std::process::Stdio::null()).status().unwrap();
        status.code().unwrap()
    };
    assert_eq!((into_a_full_disk("verify"), into_a_full_disk("doctor")), (3, 3));
    fs::remove_file(house.path("a/recover.sh")).unwrap();
    assert_eq!((into_a_full_disk("verify"), into_a_full_disk("doctor")), (2, 2));
}
