//! Tablespaces that the log creates: replay makes them where the original server had them, which on its own host is
//! where it works.

use super::cluster::Cluster;
use crate::{needs::needs, support::run};
use std::{fs, path::Path};

const MOMENT: &str = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";

fn archived(cluster: &Cluster) {
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    cluster.drained("data");
}

/// Everything below a directory, with its content.
fn content(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found: Vec<_> = crate::site::files_below(dir);
    found.sort();
    found.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[track_caller]
fn restored(cluster: &mut Cluster, target: &str, extra: &[&str], code: i32, rows: &str) -> String {
    let restored = cluster.restore_to("restored", target, extra).expect_code(code);
    cluster.start_restored("restored");
    let there = "SELECT count(*) FROM pg_class WHERE relname = 'late'";
    assert_eq!(cluster.sql("restored", "ledger", &[there]), if rows.is_empty() { "0" } else { "1" });
    if !rows.is_empty() {
        assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM late"]), rows);
    }
    cluster.stop("restored");
    fs::remove_dir_all(cluster.path("restored")).unwrap();
    restored.stderr
}

fn nothing_is_written_over(program: &str, options: &[&str]) {
    let mut cluster = super::ledger_with(program, options);
    // Nothing of what is compared below is written by the server itself later.
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"]);
    cluster.backup(&[]).expect_code(0);
    cluster.sql("data", "ledger", &["CREATE TABLE before AS SELECT 1 AS n"]);
    let before = cluster.sql("data", "postgres", &[MOMENT]);
    let before_place = cluster.sql("data", "postgres", &["SELECT pg_current_wal_insert_lsn()"]);
    cluster.sql("data", "ledger", &["CREATE TABLE between AS SELECT 1 AS n"]);
    super::restores::tablespace(&cluster, "late");
    let space = cluster.path("late.space");
    cluster.sql("data", "ledger", &["CREATE TABLE afterwards AS SELECT 1 AS n"]);
    archived(&cluster);
    // A drill counts what was shipped by then.
    let lost = cluster.sql("data", "postgres", &[MOMENT]);
    cluster.sql("data", "postgres", &["CHECKPOINT"]);
    let untouched = content(&space);
    assert!(!untouched.is_empty());

    // The server that has it runs here.
    let place = space.display().to_string();
    for extra in [&[][..], &["--fetch-log"], &["--dry-run"], &["--standby"]] {
        let refused = cluster.restore_to("refused", "latest", extra).expect_code(17);
        for word in [place.as_str(), "it is not empty", "would write over", "--confirm=ledger", "nothing was written"] {
            assert!(refused.stderr.contains(word), "{word}: {refused:?}");
        }
        assert!(!cluster.path("refused").exists());
    }
    let drill = ["drill", "ledger", "--identity", "R/custodian.age", "--json", "--disaster-at", &lost];
    let drilled = run(&mut cluster.recoup(drill));
    assert!(drilled.code == 3 && drilled.stdout.contains(&place), "{drilled:?}");
    // A moment or a place before it does not lead there, though its segment is the same.
    restored(&mut cluster, &before, &[], 0, "");
    restored(&mut cluster, &format!("lsn:{before_place}"), &[], 0, "");
    restored(&mut cluster, "snapshot:1", &[], 0, "");
    assert!(content(&space) == untouched, "the restored server has written there");
    // A snapshot has it inside of what is restored.
    let after = cluster.sql("data", "postgres", &[MOMENT]);
    cluster.sql("data", "ledger", &["CREATE TABLE last AS SELECT 1 AS n"]);
    cluster.backup(&[]).expect_code(0);
    restored(&mut cluster, "latest", &[], 0, "30000");
    assert!(content(&space) == untouched, "the restored server has written there");

    // As on another host: without such a directory, and with one that is empty.
    cluster.stop("data");
    fs::rename(&space, cluster.path("aside")).unwrap();
    let said = cluster.restore_to("restored", &after, &[]).expect_code(1).stderr;
    assert!(said.contains(&place) && said.contains("make it, empty, before it is started"), "{said}");
    fs::remove_dir_all(cluster.path("restored")).unwrap();
    run(cluster.as_owner("mkdir").arg(&space)).expect_code(0);
    let said = restored(&mut cluster, &after, &["--fetch-log"], 1, "30000");
    assert!(said.contains(&place) && said.contains("outside of what is restored"), "{said}");
    // Now something is there, and whoever says so has it written over.
    cluster.restore_to("refused", &after, &[]).expect_code(17);
    let said = restored(&mut cluster, &after, &["--confirm=ledger"], 1, "30000");
    assert!(said.contains("the server writes over it"), "{said}");
}

#[test]
fn nothing_of_15_is_written_over() {
    if needs("postgres15") && needs("setpriv") {
        nothing_is_written_over("postgres15", &[]);
    }
}

#[test]
fn nothing_of_18_is_written_over() {
    if needs("postgres18") && needs("setpriv") {
        nothing_is_written_over("postgres18", &[]);
    }
}

#[test]
fn nothing_is_written_over_by_large_segments() {
    if needs("postgres15") && needs("setpriv") {
        nothing_is_written_over("postgres15", super::LARGE_SEGMENTS);
    }
}
