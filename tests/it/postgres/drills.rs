//! Drills of a real server: what the source held is compared with what comes back, and what is lost is counted.

use super::cluster::{BALANCED, Cluster, LEDGER};
use crate::{needs::needs, support::run};
use serde_json::Value;
use std::fs;

/// A ledger that commits nothing by itself, under a policy that asks for fingerprints.
fn watched_ledger(program: &str, tables: &str) -> Cluster {
    watched_ledger_with(program, &["--wal-segsize=1"], tables)
}

/// The same, made with options of initdb.
fn watched_ledger_with(program: &str, options: &[&str], tables: &str) -> Cluster {
    let cluster = Cluster::with(program, options);
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"]);
    cluster.sql("data", "postgres", &["CREATE DATABASE ledger"]);
    cluster.sql("data", "ledger", LEDGER);
    cluster.name_programs();
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    assert!(config.contains("postgres:///?"), "{config}");
    fs::write(cluster.path("R/recoup.toml"), config.replace("postgres:///?", "postgres:///ledger?")).unwrap();
    let balanced = format!("[[drill.assert]]\nname = \"balanced\"\nquery = \"\"\"{BALANCED}\"\"\"\nexpect = \"t\"\n");
    let policy = format!("rpo = \"1d\"\nrto = \"1h\"\n[fingerprints]\ntables = [{tables}]\n{balanced}");
    fs::write(cluster.path("R/policies/default.toml"), policy).unwrap();
    cluster
}

/// Finishes the segment that is being written, and waits until it is in the stores.
fn ship(cluster: &Cluster) {
    let last = cluster.sql("data", "ledger", &["SELECT pg_walfile_name(pg_current_wal_insert_lsn())"]);
    cluster.sql("data", "ledger", &["INSERT INTO filler VALUES (0, 'shipped')", "SELECT pg_switch_wal()"]);
    let is_archived = format!("SELECT left(last_archived_wal, 24) >= '{last}' FROM pg_stat_archiver");
    cluster.wait_for("data", &is_archived, "t");
}

fn now(cluster: &Cluster) -> String {
    let sql = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
    // Whatever was committed before is at or before it, also where milliseconds are cut.
    std::thread::sleep(std::time::Duration::from_millis(5));
    let moment = cluster.sql("data", "postgres", &[sql]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    moment
}

#[track_caller]
fn drill(cluster: &Cluster, disaster_at: &str) -> Value {
    let drilled = run(&mut cluster.recoup([
        "drill",
        "ledger",
        "--json",
        "--identity",
        "R/custodian.age",
        "--disaster-at",
        disaster_at,
    ]));
    let result = drilled.json();
    assert_eq!(result["verdict"], "passed", "{drilled:?}");
    result
}

fn checks(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = result["checks"].as_array().unwrap().iter();
    checks.map(|check| (text(&check["name"]), text(&check["actual"]))).collect()
}

#[track_caller]
fn assert_limit(result: &Value, words: &str) {
    let limits = result["limits"].as_array().unwrap();
    assert!(limits.iter().any(|limit| limit.as_str().unwrap().contains(words)), "{words}: {result}");
}

fn drills_compare_and_count(program: &str, options: &[&str]) {
    let mut cluster = watched_ledger_with(program, options, "\"public.*\", \"public.nosuch\"");
    let mut traffic = cluster.traffic();
    let mut taken = cluster.backup(&[]).expect_code(0);
    for _ in 0..10 {
        // Where the machine is busy, so are the tables.
        if !taken.stderr.contains("the tables were in use") {
            break;
        }
        taken = cluster.backup(&[]).expect_code(0);
    }
    assert!(traffic.is_running());
    assert!(taken.stderr.contains("no fingerprint was taken of public.nosuch: there is no such table"), "{taken:?}");
    // What is committed after the fingerprints were taken must not show in them.
    cluster.sql("data", "ledger", &["UPDATE filler SET text = 'changed' WHERE id < 100"]);
    drop(traffic);
    ship(&cluster);

    // Everything came back.
    let result = drill(&cluster, &now(&cluster));
    assert_eq!((&result["lost_transactions"], &result["rpo_seconds"]), (&0.into(), &0.0.into()), "{result}");
    let found = checks(&result);
    let compared = |table: &str| {
        let name = format!("fingerprint of public.{table}");
        found.iter().find(|(found, _)| *found == name).map(|(_, actual)| actual.clone())
    };
    assert_eq!(compared("account").as_deref(), Some("200 rows, the same"), "{result}");
    assert_eq!(compared("filler").as_deref(), Some("30000 rows, the same"), "{result}");
    assert!(compared("posting").is_some_and(|actual| actual.ends_with("the same")), "{result}");
    // What a crash empties is no part of it.
    assert_eq!(compared("scratch"), None);
    assert!(found.iter().any(|(name, actual)| name == "recovery" && actual.contains("last commit at")), "{result}");
    let phases: Vec<&str> =
        result["phases"].as_array().unwrap().iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(phases, ["locate", "manifest", "restore", "publish", "fingerprints", "check", "assert", "end"]);
    assert_limit(&result, "what the source held was compared at");
    assert_limit(&result, "the fingerprint of public.nosuch was not taken");

    // Three commits that had not reached the stores when it was lost, and one that came after.
    for n in 1..=3 {
        cluster.sql("data", "ledger", &[&format!("INSERT INTO filler VALUES ({n}, 'lost')")]);
    }
    let lost_at = now(&cluster);
    ship(&cluster);
    let result = drill(&cluster, &lost_at);
    assert_eq!(result["lost_transactions"], 3, "{result}");
    assert!(result["rpo_seconds"].as_f64().unwrap() > 0.0, "{result}");
    // The same while they are in the server's own log alone.
    fs::write(cluster.path("broken"), "").unwrap();
    cluster.sql("data", "ledger", &["INSERT INTO filler VALUES (4, 'lost')", "INSERT INTO filler VALUES (5, 'lost')"]);
    let lost_at = now(&cluster);
    cluster.sql("data", "ledger", &["INSERT INTO filler VALUES (6, 'later')"]);
    assert_eq!(drill(&cluster, &lost_at)["lost_transactions"], 2);
    // With the server nobody knows any more.
    cluster.crash("data");
    let result = drill(&cluster, &lost_at);
    assert_eq!(result["lost_transactions"], Value::Null, "{result}");
    assert_limit(&result, "how many transactions were lost is not known");
}

#[test]
fn drills_of_15_compare_and_count() {
    if needs("postgres15") && needs("setpriv") {
        drills_compare_and_count("postgres15", &["--wal-segsize=1"]);
    }
}

#[test]
fn drills_over_large_segments_compare_and_count() {
    if needs("postgres15") && needs("setpriv") {
        drills_compare_and_count("postgres15", super::LARGE_SEGMENTS);
    }
}

#[test]
fn drills_of_18_compare_and_count() {
    if needs("postgres18") && needs("setpriv") {
        drills_compare_and_count("postgres18", &["--wal-segsize=1"]);
    }
}

/// Where a logical slot can be had, writers go on, and tables that somebody has locked for long are compared, too.
fn fingerprints_need_no_lock(program: &str) {
    let mut cluster = watched_ledger(program, "\"public.*\"");
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET wal_level = logical"]);
    cluster.stop("data");
    cluster.start("data");
    let traffic = cluster.traffic();
    let mut psql = cluster.program("psql");
    psql.arg("-h").arg(cluster.path("data.socket")).args(["-U", "postgres", "-d", "ledger", "-X", "-q"]);
    let tables = "account, posting, filler";
    let held = format!("BEGIN; LOCK TABLE {tables} IN SHARE UPDATE EXCLUSIVE MODE; SELECT pg_sleep(600)");
    let mut holder = psql.args(["-c", &held]).stdout(std::process::Stdio::null()).spawn().unwrap();
    let locked = "SELECT count(*) >= 3 FROM pg_locks WHERE mode = 'ShareUpdateExclusiveLock' AND granted";
    cluster.wait_for("data", locked, "t");
    let taken = cluster.backup(&[]).expect_code(0);
    assert!(!taken.stderr.contains("fingerprint"), "{taken:?}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(cluster.sql("data", "ledger", &["SELECT count(*) FROM pg_replication_slots"]), "0");
    // What is committed after the fingerprints were taken must not show in them.
    cluster.sql("data", "ledger", &["UPDATE filler SET text = 'changed' WHERE id < 100"]);
    drop(traffic);
    ship(&cluster);
    let result = drill(&cluster, &now(&cluster));
    let found = checks(&result);
    for table in ["account", "filler", "posting"] {
        let name = format!("fingerprint of public.{table}");
        let compared = found.iter().find(|(found, _)| *found == name);
        assert!(compared.is_some_and(|(_, actual)| actual.ends_with("the same")), "{table}: {result}");
    }
}

#[test]
fn fingerprints_of_15_need_no_lock_where_there_are_logical_slots() {
    if needs("postgres15") && needs("setpriv") {
        fingerprints_need_no_lock("postgres15");
    }
}

#[test]
fn fingerprints_of_18_need_no_lock_where_there_are_logical_slots() {
    if needs("postgres18") && needs("setpriv") {
        fingerprints_need_no_lock("postgres18");
    }
}

/// What keeps fingerprints from being taken is said, and keeps nothing else from being done.
#[test]
fn fingerprints_that_are_not_taken_say_why() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = watched_ledger("postgres15", "\"public.account\", \"public.filler\"");
    // A role that may read, and not lock.
    let grant =
        "GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal() TO saver";
    cluster.sql("data", "postgres", &["CREATE ROLE saver LOGIN", "GRANT pg_monitor, pg_read_all_data TO saver"]);
    // Rights on functions are those of a database.
    cluster.sql("data", "ledger", &[grant]);
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    fs::write(cluster.path("R/recoup.toml"), config.replace("user=postgres", "user=saver")).unwrap();
    let taken = cluster.backup(&[]).expect_code(0);
    assert!(taken.stderr.contains("fingerprints were not taken: the role may not lock"), "{taken:?}");
    ship(&cluster);
    let result = drill(&cluster, &now(&cluster));
    assert_limit(
        &result,
        "no fingerprints of the source were compared: they were not taken with the snapshot: the role",
    );
    assert!(checks(&result).iter().all(|(name, _)| !name.starts_with("fingerprint")), "{result}");

    // A table that somebody writes to all the time: writers do not wait for us.
    fs::write(cluster.path("R/recoup.toml"), &config).unwrap();
    let mut psql = cluster.program("psql");
    psql.arg("-h").arg(cluster.path("data.socket")).args(["-U", "postgres", "-d", "ledger", "-X", "-q"]);
    psql.args(["-c", "BEGIN; UPDATE account SET id = id WHERE id = 1; SELECT pg_sleep(600)"]);
    let mut writer = psql.stdout(std::process::Stdio::null()).spawn().unwrap();
    let locked =
        "SELECT count(*) > 0 FROM pg_locks WHERE mode = 'RowExclusiveLock' AND relation::regclass::text = 'account'";
    for _ in 0..100 {
        if cluster.sql("data", "ledger", &[locked]) == "t" {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let taken = cluster.backup(&[]).expect_code(0);
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert!(taken.stderr.contains("the tables were in use"), "{taken:?}");
}
