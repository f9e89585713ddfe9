//! Repositories of every released format, written once and never again: each must restore for ever.
//!
//! With RECOUP_WRITE=1 the newest one is written if it is not there; one that is there is never touched.

use crate::{
    house::{House, copy_tree, set_mode},
    needs::needs,
    support::{program, recoup, run},
};
use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const NEWEST: &str = "v1";
/// What a custodian keeps, beside the store `a`.
const CUSTODIAN: [&str; 3] = ["custodian.age", "custodian.age.signers", "recover.sh"];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A full, two incrementals (the last of a smaller database), and one in which nothing changed.
fn write(to: &Path) {
    let house = House::founded();
    let mut sums = String::new();
    let mut keep = |seq: u32, bytes: &[u8]| writeln!(sums, "{}  {seq}", recoup::format::sha256(bytes)).unwrap();
    keep(1, &house.backup());
    keep(2, &house.change_and_backup());
    rusqlite::Connection::open(house.path("data/ledger.db"))
        .unwrap()
        .execute_batch("delete from posting where rowid > 10; vacuum")
        .unwrap();
    keep(3, &house.backup());
    keep(4, &house.backup());
    copy_tree(&house.path("a"), &to.join("a"));
    for name in CUSTODIAN {
        fs::copy(house.path("R").join(name), to.join(name)).unwrap();
    }
    fs::write(to.join("SHA256SUMS"), sums).unwrap();
}

/// A copy of each repository.
fn copies() -> Vec<tempfile::TempDir> {
    let newest = golden().join(NEWEST);
    if recoup::world::environment("RECOUP_WRITE").is_some() && !newest.exists() {
        // Several tests may do this at once; one of them wins.
        let unfinished = tempfile::tempdir_in(golden().parent().unwrap()).unwrap();
        write(&unfinished.path().join(NEWEST));
        fs::create_dir_all(golden()).unwrap();
        let _ = fs::rename(unfinished.path().join(NEWEST), &newest);
    }
    let versions: Vec<PathBuf> = fs::read_dir(golden()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(versions.contains(&newest), "{versions:?}");
    let copy = |version: &PathBuf| {
        let dir = tempfile::tempdir().unwrap();
        copy_tree(version, dir.path());
        // Git keeps no modes; an identity that others may read is refused.
        set_mode(&dir.path().join(CUSTODIAN[0]), 0o600);
        dir
    };
    versions.iter().map(copy).collect()
}

/// Sequence numbers of snapshots, and what the restored ledger must be.
fn sums(dir: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    let sums = text.lines().map(|line| line.split_once("  ").unwrap());
    sums.map(|(sum, seq)| (seq.to_owned(), sum.to_owned())).collect()
}

#[track_caller]
fn assert_restored(out: &Path, sum: &str) {
    assert_eq!(recoup::format::sha256(&fs::read(out.join("ledger.db")).unwrap()).to_string(), sum, "{}", out.display());
}

#[test]
fn repositories_of_every_released_format_restore() {
    for dir in copies() {
        let store = format!("a=file://{}", dir.path().join("a").display());
        let bare = ["--store", &store, "--signers", CUSTODIAN[1]];
        run(recoup(dir.path()).args(["verify", "--all"]).args(bare)).expect_code(0);
        let listed = run(recoup(dir.path()).args(["list", "--json"]).args(bare)).expect_code(0).json();
        assert_eq!(listed["snapshots"].as_array().unwrap().len(), sums(dir.path()).len());
        for (seq, sum) in sums(dir.path()) {
            let out = dir.path().join(&seq);
            let mut restore = recoup(dir.path());
            restore.args(["restore", "ledger", "--store", &store, "--identity", CUSTODIAN[0]]);
            run(restore.args(["--target", &format!("snapshot:{seq}"), "--to"]).arg(&out)).expect_code(0);
            assert_restored(&out, &sum);
        }
    }
}

#[test]
fn repositories_of_every_released_format_restore_with_their_own_script() {
    if !needs("age") || !needs("zstd") || !needs("jq") || !needs("ssh-keygen") {
        return;
    }
    for dir in copies() {
        for (seq, sum) in sums(dir.path()) {
            let out = dir.path().join(&seq);
            let mut script = program("sh", &dir.path().join("a"));
            script.args(["recover.sh", "ledger", &seq]).arg(dir.path().join(CUSTODIAN[0])).arg(&out);
            run(&mut script).expect_code(0);
            assert_restored(&out, &sum);
        }
    }
}
