//! What is left of a real server's log after a prune: every moment from the oldest kept snapshot on, and none before it.

use super::cluster::{BALANCED, Cluster};
use crate::{needs::needs, support::run};
use std::fs;

const NOW: &str = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

/// Commits a row, and gives the moment after it; then a segment more is archived.
fn commit(cluster: &Cluster, row: u64) -> String {
    cluster.sql("data", "ledger", &[&format!("INSERT INTO numbered VALUES ({row})")]);
    let moment = cluster.sql("data", "ledger", &[NOW]);
    cluster.sql("data", "ledger", &["SELECT txid_current()"]);
    let last = cluster.sql("data", "ledger", &["SELECT pg_walfile_name(pg_current_wal_insert_lsn())"]);
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    let is_archived = format!("SELECT left(last_archived_wal, 24) >= '{last}' FROM pg_stat_archiver");
    cluster.wait_for("data", &is_archived, "t");
    moment
}

/// The segments that the stores have of the log, by name.
fn segments(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    for store in ["a", "b"] {
        let histories = fs::read_dir(cluster.path(store).join("sources/ledger/log")).unwrap();
        for name in histories.flat_map(|history| fs::read_dir(history.unwrap().path()).unwrap()) {
            let name = name.unwrap().file_name().into_string().unwrap().to_uppercase();
            found.extend(name.split_once('-').map(|(file, _)| file.to_owned()).filter(|file| file.len() == 24));
        }
    }
    found.sort();
    found.dedup();
    found
}

#[test]
fn moments_after_a_prune() {
    if !needs("postgres15") {
        return;
    }
    let mut cluster = super::ledger("postgres15");
    cluster.sql("data", "ledger", &["CREATE TABLE numbered (n int PRIMARY KEY)"]);
    let mut moments = Vec::new();
    for row in 1..=4 {
        cluster.backup(&[]).expect_code(0);
        moments.push(commit(&cluster, row));
    }
    // Nobody has waited for the slowest store.
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    let all = segments(&cluster);
    fs::write(cluster.path("R/policies/default.toml"), "[retention]\nkeep_last = 2\n").unwrap();
    cluster.own("R/policies/default.toml");
    let shown = run(&mut cluster.recoup(["prune", "--dry-run"])).expect_code(0);
    assert!(shown.stdout.contains(" files of log ") && shown.stdout.contains("-00000001 before 0/"), "{shown:?}");
    let planned = run(&mut cluster.recoup(["prune", "--yes", "--json"])).expect_code(0).json();
    let condemned = &planned["sources"][0]["condemned_log"][0];
    let count = condemned["files"].as_u64().unwrap();
    assert!(count >= 4 && condemned["bytes"].as_u64().unwrap() > 0, "{planned}");
    assert_eq!(segments(&cluster), all);
    let executed = run(&mut cluster.recoup(["prune", "--yes", "--json"])).expect_code(0).json();
    assert_eq!(executed["sources"][0]["pruned_log"][0], *condemned, "{executed}");
    let left = segments(&cluster);
    assert!(left.len() < all.len() && all.ends_with(&left), "{all:?} {left:?}");

    for command in [&["verify", "--all"][..], &["copy"], &["points", "ledger"]] {
        run(&mut cluster.recoup(command.iter().copied())).expect_code(0);
    }
    let checked = run(&mut cluster.recoup(["check", "--json"])).json();
    let of_log = |finding: &&serde_json::Value| finding["id"].as_str().unwrap().starts_with("log-");
    assert_eq!(checked["findings"].as_array().unwrap().iter().filter(of_log).count(), 0, "{checked}");

    // Just after the oldest snapshot that is kept, and at the end.
    for (moment, rows) in [(&moments[2], "3"), (&moments[3], "4")] {
        cluster.restore_to("restored", moment, &[]).expect_code(0);
        cluster.start_restored("restored");
        assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]), rows);
        assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
        cluster.stop("restored");
        fs::remove_dir_all(cluster.path("restored")).unwrap();
    }
    for moment in &moments[..2] {
        let refused = cluster.restore_to("refused", moment, &[]).expect_code(16);
        assert!(refused.stderr.contains("what came before it was pruned"), "{refused:?}");
        assert!(refused.stderr.contains("--target snapshot:3"), "{refused:?}");
        assert!(!cluster.path("refused").exists());
    }
    // What is archived and what is taken from now on is as good as ever.
    cluster.backup(&[]).expect_code(0);
    let moment = commit(&cluster, 5);
    cluster.restore_to("restored", &moment, &["--fetch-log"]).expect_code(0);
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]), "5");
}
