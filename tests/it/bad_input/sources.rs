//! Sources that cannot be read: exit 13, nothing written, earlier snapshots untouched.

use crate::{
    house::{House, assert_refused, is_root, make_pipe, set_mode},
    needs::needs,
    support::run,
};
use std::{fs, path::Path};

/// What happens to the database, and what the error names.
type Mishap = (fn(&Path), &'static [&'static str]);

#[test]
fn databases_that_are_none() {
    let (house, bytes) = House::new();
    let path = house.path("data/ledger.db");
    let mishaps: &[Mishap] = &[
        (|path| fs::remove_file(path).unwrap(), &["ledger.db", "does not exist"]),
        (|path| fs::remove_dir_all(path.parent().unwrap()).unwrap(), &["ledger.db", "does not exist"]),
        (
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
            &["ledger.db"],
        ),
        (|path| fs::write(path, "id,amount\n1,100\n".repeat(2000)).unwrap(), &["ledger.db", "not a"]),
        (|path| fs::write(path, noise(fs::metadata(path).unwrap().len())).unwrap(), &["ledger.db", "encrypted"]),
        (
            |path| {
                let bytes = fs::read(path).unwrap();
                fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
            },
            &["ledger.db"],
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("ledger.db", path).unwrap();
            },
            &["ledger.db"],
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                make_pipe(path);
            },
            &["ledger.db"],
        ),
    ];
    for (mishap, parts) in mishaps {
        mishap(&path);
        assert_refused(run(&mut house.recoup(["backup"])), 13, parts);
        let json = run(&mut house.recoup(["backup", "--json"])).expect_code(13).json();
        assert_eq!(json["sources"][0]["exit_code"], 13, "{json}");
        let listed = run(&mut house.recoup(["list", "--json"])).expect_code(0).json();
        assert_eq!(listed["snapshots"].as_array().map(Vec::len), Some(1), "{listed}");
        house.assert_restores("latest", &bytes);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(house.path("data")).unwrap();
        fs::write(&path, &bytes).unwrap();
    }
    let changed = house.change_and_backup();
    house.assert_restores("latest", &changed);
    house.assert_restores("snapshot:1", &bytes);
}

/// What an encrypted database looks like.
fn noise(bytes: u64) -> Vec<u8> {
    let mut noise = vec![0; bytes as usize];
    recoup::world::Random::fill(&*recoup::world::SeededRandom::new("an encrypted database"), &mut noise);
    noise
}

#[test]
fn databases_without_permission() {
    if is_root() && !needs("setpriv") {
        return;
    }
    let (house, bytes) = House::new();
    run(&mut house.unprivileged(["backup"])).expect_code(0);
    for (name, mode, usual) in [("data/ledger.db", 0o000, 0o644), ("data", 0o000, 0o755), ("data", 0o600, 0o755)] {
        set_mode(&house.path(name), mode);
        assert_refused(run(&mut house.unprivileged(["backup"])), 13, &["ledger.db", "ermission"]);
        set_mode(&house.path(name), usual);
    }
    // Reading is enough, where the database is at rest.
    set_mode(&house.path("data/ledger.db"), 0o444);
    set_mode(&house.path("data"), 0o555);
    run(&mut house.unprivileged(["backup"])).expect_code(0);
    set_mode(&house.path("data"), 0o755);
    let restore = ["restore", "ledger", "--identity", "R/custodian.age", "--target", "snapshot:1", "--to", "out"];
    run(&mut house.unprivileged(restore)).expect_code(0);
    assert_eq!(fs::read(house.path("out/ledger.db")).unwrap(), bytes);
}

#[test]
fn one_bad_source_of_two() {
    let (house, bytes) = House::new();
    let path = house.path("R/recoup.toml");
    let text = fs::read_to_string(&path).unwrap();
    let second = format!(
        "{text}\n[[source]]\nname = \"wallet\"\nkind = \"sqlite\"\npath = \"{}\"\n",
        house.path("data/wallet.db").display()
    );
    fs::write(&path, second).unwrap();
    let backup = run(&mut house.recoup(["backup", "--json"]));
    // The one that works is taken all the same; failures of one kind keep their code.
    let json = backup.expect_code(13).json();
    let codes: Vec<_> = json["sources"].as_array().unwrap().iter().map(|source| &source["exit_code"]).collect();
    assert_eq!(codes, [0, 13]);
    assert_eq!(json["snapshots"][0]["source"], "ledger");
    assert_refused(run(&mut house.recoup(["backup", "wallet"])), 13, &["wallet.db"]);
    house.assert_restores("snapshot:2", &bytes);
}

#[test]
fn pipes_and_sockets_beside_a_database() {
    let (house, bytes) = House::new();
    for sidecar in ["ledger.db-journal", "ledger.db-wal", "ledger.db-shm"] {
        let path = house.path("data").join(sidecar);
        make_pipe(&path);
        // Nobody writes to it: whoever opens it waits for ever.
        for command in [&["backup"][..], &["backup", "--full"]] {
            assert_refused(run(&mut house.limited(command)), 13, &[sidecar, "no regular file"]);
        }
        let doctor = run(&mut house.limited(&["doctor"]));
        assert!(doctor.stdout.contains(sidecar) && doctor.code <= 3, "{doctor:?}");
        fs::remove_file(&path).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_refused(run(&mut house.limited(&["backup"])), 13, &[sidecar, "no regular file"]);
        fs::remove_file(&path).unwrap();
    }
    house.assert_restores("latest", &bytes);
    house.change_and_backup();
}
