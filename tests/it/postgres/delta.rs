//! Restores over the files of a cluster: only what differs is fetched, and no half of one ever starts.

use super::{
    cluster::{BALANCED, Cluster},
    restores::tablespace,
};
use crate::{
    needs::needs,
    support::{Run, run},
};
use std::{fs, os::unix::fs::symlink, path::Path, process::Stdio, thread, time::Duration};

const DELTA: &[&str] = &["--delta", "--confirm=ledger"];

/// How many blocks were compared, and how many were fetched.
fn blocks(restored: &Run) -> (u64, u64) {
    let line = restored.stderr.lines().find(|line| line.contains(" blocks ") && line.contains("were fetched"));
    let line = line.unwrap_or_else(|| panic!("{restored:?}"));
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[2])
}

/// Whether a server could start on it: never while the mark of an unfinished restore is there.
fn is_whole(data: &Path) -> bool {
    let (has_mark, has_control) = (data.join(".recoup-delta").exists(), data.join("global/pg_control").exists());
    assert!(has_mark || has_control, "{}", data.display());
    has_control
}

fn assert_restored(cluster: &mut Cluster, rows: &str) {
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT sum(id) FROM filler"]), rows);
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM fast"]), "30000");
    cluster.stop("restored");
    run(cluster.program("pg_checksums").args(["--check", "-D", "restored"])).expect_code(0);
}

/// The newest record of a restore says what kind of one it was.
fn assert_delta_on_record(cluster: &Cluster) {
    let listed = run(&mut cluster.recoup(["evidence", "list", "--action", "restore", "--json"])).expect_code(0).json();
    let newest = &listed["records"].as_array().unwrap().last().unwrap()["record"];
    let place = format!("{}/{}", newest["writer"].as_str().unwrap(), newest["number"]);
    let show = ["evidence", "show", &place, "--identity", "R/custodian.age", "--json"];
    let shown = run(&mut cluster.recoup(show)).expect_code(0).json();
    assert_eq!(shown["records"][0]["body"]["result"]["delta"], true, "{shown}");
}

fn only_what_differs_is_fetched(program: &str) {
    let mut cluster = super::ledger(program);
    let number = tablespace(&cluster, "fast");
    cluster.backup(&[]).expect_code(0);
    let elsewhere = format!("{number}=moved");
    let space: &[&str] = &["--tablespace", &elsewhere];
    cluster.restore_to("restored", "latest", space).expect_code(0);
    // A server has used it since, and left what does not belong there.
    cluster.start_restored("restored");
    cluster.sql("restored", "ledger", &["UPDATE filler SET id = 0 WHERE id % 100 = 0", "CREATE TABLE theirs (n int)"]);
    cluster.stop("restored");
    let (data, precious) = (cluster.path("restored"), cluster.path("precious"));
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("file"), "precious").unwrap();
    symlink(&precious, data.join("base/led")).unwrap();
    fs::create_dir_all(data.join("stray/deep")).unwrap();
    cluster.own("restored/stray");

    cluster.sql("data", "ledger", &["UPDATE filler SET id = id + 1 WHERE id < 300"]);
    cluster.backup(&[]).expect_code(0);
    let rows = cluster.sql("data", "ledger", &["SELECT sum(id) FROM filler"]);
    // Unasked, nothing is done; looking costs nothing.
    let unasked = cluster.restore_to("restored", "latest", &["--delta"]).expect_code(17);
    assert!(unasked.stderr.contains("--confirm=ledger"), "{unasked:?}");
    cluster.restore_to("restored", "latest", &["--delta", "--dry-run"]).expect_code(0);
    assert!(is_whole(&data) && data.join("stray/deep").exists());

    let delta = [DELTA, space].concat();
    let restored = cluster.restore_to("restored", "latest", &delta).expect_code(0);
    assert_delta_on_record(&cluster);
    let (compared, fetched) = blocks(&restored);
    assert!(compared > 4_000 && fetched > 0 && fetched < compared / 4, "{compared} {fetched}");
    assert!(is_whole(&data) && !data.join("stray").exists() && !data.join("base/led").exists());
    assert_eq!(fs::read(precious.join("file")).unwrap(), b"precious");
    // Again, there is almost nothing to do.
    let (_, again) = blocks(&cluster.restore_to("restored", "latest", &delta).expect_code(0));
    assert!(again < 10, "{again}");
    assert_restored(&mut cluster, &rows);
    assert_eq!(fs::read_link(data.join("pg_tblspc").join(&number)).unwrap(), cluster.path("moved"));

    // Without a place for it, the tablespace comes into the directory, and what is elsewhere stays as it is.
    let moved = cluster.path("moved");
    cluster.restore_to("restored", "latest", DELTA).expect_code(0);
    assert!(fs::symlink_metadata(data.join("pg_tblspc").join(&number)).unwrap().is_dir());
    assert_eq!(fs::read_dir(&moved).unwrap().count(), 1);
    assert_restored(&mut cluster, &rows);
    // Then that directory is no tablespace of this cluster any more.
    let taken = cluster.restore_to("restored", "latest", &delta).expect_code(17);
    assert!(taken.stderr.contains("not empty"), "{taken:?}");
    assert!(is_whole(&data));
}

#[test]
fn only_what_differs_of_15_is_fetched() {
    if needs("postgres15") && needs("setpriv") {
        only_what_differs_is_fetched("postgres15");
    }
}

#[test]
fn only_what_differs_of_18_is_fetched() {
    if needs("postgres18") && needs("setpriv") {
        only_what_differs_is_fetched("postgres18");
    }
}

#[test]
fn what_was_interrupted_never_starts_and_goes_on() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = super::ledger("postgres15");
    tablespace(&cluster, "fast");
    cluster.backup(&[]).expect_code(0);
    cluster.restore_to("restored", "latest", &["--fetch-log"]).expect_code(0);
    cluster.sql("data", "ledger", &["UPDATE filler SET id = -id"]);
    cluster.backup(&[]).expect_code(0);
    let rows = cluster.sql("data", "ledger", &["SELECT sum(id) FROM filler"]);
    let data = cluster.path("restored");
    for delay in [20, 60, 120, 200, 300] {
        let mut restoring = cluster.recoup(["restore", "ledger", "--identity", "R/custodian.age", "--to", "restored"]);
        let mut restoring = restoring.args(DELTA).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(delay));
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        if !is_whole(&data) {
            let mut start = cluster.program("pg_ctl");
            start.args(["-D", "restored", "-w", "-l", "restored.log", "start"]).stdout(Stdio::null());
            assert!(!start.stderr(Stdio::null()).status().unwrap().success());
        }
    }
    cluster.restore_to("restored", "latest", DELTA).expect_code(0);
    assert!(is_whole(&data) && !data.join(".recoup-delta").exists());
    assert_restored(&mut cluster, &rows);

    // Another system's directory, and one that is none.
    cluster.make("other", &[]);
    let refused = cluster.restore_to("other", "latest", DELTA).expect_code(17);
    assert!(refused.stderr.contains("its system identifier is"), "{refused:?}");
    assert!(is_whole(&cluster.path("other")));
    run(cluster.as_owner("mkdir").args(["-m", "700", "nothing"])).expect_code(0);
    let refused = cluster.restore_to("nothing", "latest", DELTA).expect_code(17);
    assert!(refused.stderr.contains("nothing proves"), "{refused:?}");
    let refused = cluster.restore_to("nowhere", "latest", DELTA).expect_code(17);
    assert!(refused.stderr.contains("does not exist"), "{refused:?}");
}
