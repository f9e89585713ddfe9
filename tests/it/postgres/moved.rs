//! Databases that are moved while a snapshot is taken: replay would copy an old directory that the snapshot has no more, or
//! has a part of.

use super::{cluster::BALANCED, ledger};
use crate::{needs::needs, support::run};
use std::{fs, thread, time::Duration};

fn a_database_that_is_moved_comes_back_whole(version: &str) {
    let mut cluster = ledger(version);
    let place = cluster.path("far.space");
    run(cluster.as_owner("mkdir").arg(&place)).expect_code(0);
    let tablespace = format!("CREATE TABLESPACE far LOCATION '{}'", place.display());
    // The last one that is read.
    cluster.sql("data", "postgres", &[&tablespace, "CREATE DATABASE moved"]);
    let rows = "CREATE TABLE kept AS SELECT g AS n FROM generate_series(1, 1000) g";
    cluster.sql("data", "moved", &[rows]);
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    fs::write(cluster.path("R/recoup.toml"), format!("{config}read_limit = \"16MiB\"\n")).unwrap();
    let mut backup = cluster.recoup(["backup", "ledger", "--json"]);
    let taken = thread::scope(|scope| {
        let taken = scope.spawn(|| run(&mut backup).expect_code(0).json());
        thread::sleep(Duration::from_millis(700));
        assert!(!taken.is_finished());
        cluster.sql("data", "postgres", &["ALTER DATABASE moved SET TABLESPACE far"]);
        taken.join().unwrap()
    });
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    cluster.drained("data");
    let target = format!("snapshot:{}", taken["snapshots"][0]["seq"]);
    for target in [target.as_str(), "latest"] {
        cluster.restore_to("restored", target, &[]).expect_code(0);
        cluster.start_restored("restored");
        assert_eq!(cluster.sql("restored", "moved", &["SELECT count(*) FROM kept"]), "1000", "{target}");
        assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
        cluster.stop("restored");
        fs::remove_dir_all(cluster.path("restored")).unwrap();
    }
}

#[test]
fn a_database_of_15_that_is_moved_comes_back_whole() {
    if needs("postgres15") && needs("setpriv") {
        a_database_that_is_moved_comes_back_whole("postgres15");
    }
}

#[test]
fn a_database_of_18_that_is_moved_comes_back_whole() {
    if needs("postgres18") && needs("setpriv") {
        a_database_that_is_moved_comes_back_whole("postgres18");
    }
}
