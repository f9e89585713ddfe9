//! What `check`, `points` and `backup` say of a real server and its log: how it archives, what would be lost, what comes
//! back, and where there is a hole.

use super::cluster::{Cluster, LEDGER};
use crate::{needs::needs, support::run};
use recoup::world::Stopwatch;
use serde_json::Value;
use std::{collections::BTreeSet, fs, time::Duration};

/// A ledger on a server with small segments that commits nothing by itself.
fn quiet_ledger(program: &str) -> Cluster {
    let cluster = Cluster::with(program, &["--wal-segsize=1"]);
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"]);
    cluster.sql("data", "postgres", &["CREATE DATABASE ledger"]);
    cluster.sql("data", "ledger", LEDGER);
    cluster
}

/// What `check` says, and its findings of the source as `severity id`.
pub(super) fn check(cluster: &Cluster) -> (Value, BTreeSet<String>) {
    let checked = run(&mut cluster.recoup(["check", "--json"])).json();
    let findings = checked["findings"].as_array().unwrap().iter().filter(|finding| finding["source"] == "ledger");
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let found = findings.map(|finding| format!("{} {}", word(&finding["severity"]), word(&finding["id"])));
    // How full the disk of a test is, nobody knows.
    let found = found.filter(|found| !found.ends_with("log-disk-filling")).collect();
    (checked.clone(), found)
}

#[track_caller]
fn expect(cluster: &Cluster, expected: &[&str]) -> Value {
    let (checked, found) = check(cluster);
    let expected: BTreeSet<String> = expected.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(found, expected, "{checked}");
    checked
}

/// Waits until nothing would be lost: what a server writes by itself is not in its files at once.
#[track_caller]
fn expect_nothing_exposed(cluster: &Cluster) -> Value {
    for _ in 0..100 {
        let (checked, _) = check(cluster);
        if checked["sources"][0]["exposure_seconds"] == 0 {
            assert_eq!(checked["sources"][0]["unchanged"], true, "{checked}");
            return checked;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{}", check(cluster).0);
}

fn commit(cluster: &Cluster) {
    cluster.sql("data", "ledger", &["INSERT INTO filler VALUES (0, 'one more')"]);
}

/// Commits something, and waits until the server has shipped it.
fn ship(cluster: &Cluster) {
    commit(cluster);
    cluster.sql("data", "postgres", &["SELECT pg_switch_wal()"]);
    drained(cluster);
}

fn drained(cluster: &Cluster) {
    let archived = "SELECT count(*) = 0 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    cluster.wait_for("data", archived, "t");
}

fn setting(cluster: &Cluster, setting: &str) {
    let before = cluster.sql("data", "postgres", &["SELECT pg_conf_load_time()"]);
    cluster.sql("data", "postgres", &[&format!("ALTER SYSTEM SET {setting}"), "SELECT pg_reload_conf()"]);
    // Sessions that begin from now on have it.
    cluster.wait_for("data", &format!("SELECT pg_conf_load_time() > '{before}'"), "t");
}

fn points(cluster: &Cluster) -> Value {
    run(&mut cluster.recoup(["points", "ledger", "--json"])).expect_code(0).json()["sources"][0]["log"].clone()
}

fn what_is_exposed_and_how_it_is_archived(program: &str) {
    let mut cluster = quiet_ledger(program);
    cluster.backup(&[]).expect_code(0);
    expect(&cluster, &[]);
    let first = expect_nothing_exposed(&cluster);
    // A commit that is nowhere but on the server, and then in the stores.
    commit(&cluster);
    let exposed = expect(&cluster, &[]);
    assert_eq!(exposed["sources"][0]["unchanged"], false, "{exposed}");
    assert!(exposed["sources"][0]["exposure_seconds"].as_u64().unwrap() > 0, "{exposed}");
    ship(&cluster);
    let shipped = expect_nothing_exposed(&cluster);
    let until = |checked: &Value| checked["sources"][0]["durable_until"].as_str().unwrap().to_owned();
    assert!(until(&shipped) > until(&first), "{first} {shipped}");

    // The archive does not work: the server says so, and a backup finds out before it is done.
    fs::write(cluster.path("broken"), "").unwrap();
    commit(&cluster);
    cluster.sql("data", "postgres", &["SELECT pg_switch_wal()"]);
    cluster.wait_for("data", "SELECT failed_count > 0 FROM pg_stat_archiver", "t");
    let failing = expect(&cluster, &["critical archive-failing"]);
    let message = failing["findings"][0]["message"].as_str().unwrap();
    assert!(message.contains("file waits to be archived"), "{failing}");
    cluster.be_impatient(true);
    // All of it would take half a minute.
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    fs::write(cluster.path("R/recoup.toml"), format!("{config}read_limit = \"1MiB\"\n")).unwrap();
    let watch = Stopwatch::start();
    let taken = cluster.backup(&["--full"]);
    assert!(watch.elapsed() < Duration::from_secs(60), "{taken:?}");
    assert_eq!(taken.code, 13, "{taken:?}");
    fs::write(cluster.path("R/recoup.toml"), config).unwrap();
    for words in ["does not reach the stores", "was complete when the snapshot began", "the archiver failed"] {
        assert!(taken.stderr.contains(words), "{words}: {taken:?}");
    }
    cluster.be_impatient(false);
    let ready = "SELECT name FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready' ORDER BY 1 LIMIT 1";
    let oldest = cluster.path("data/pg_wal/archive_status").join(cluster.sql("data", "postgres", &[ready]));
    run(cluster.as_owner("touch").args(["-d", "2 hours ago"]).arg(oldest)).expect_code(0);
    expect(&cluster, &["critical archive-failing", "critical archive-backlog"]);
    fs::remove_file(cluster.path("broken")).unwrap();
    // A new segment wakes the archiver, which else sleeps for a minute.
    ship(&cluster);
    expect(&cluster, &[]);
    cluster.backup(&[]).expect_code(0);

    // A slot that nobody reads from.
    cluster.sql("data", "postgres", &["SELECT pg_create_physical_replication_slot('replica', true)"]);
    for _ in 0..5 {
        ship(&cluster);
    }
    expect(&cluster, &["warning slot-inactive"]);
    setting(&cluster, "max_slot_wal_keep_size = '1MB'");
    expect(&cluster, &["warning slot-inactive", "warning slot-lag"]);
    cluster.sql("data", "postgres", &["CHECKPOINT"]);
    cluster.wait_for("data", "SELECT wal_status FROM pg_replication_slots", "lost");
    expect(&cluster, &["critical slot-lost"]);
    cluster.sql("data", "postgres", &["SELECT pg_drop_replication_slot('replica')"]);

    // Archived elsewhere, which leaves a hole. Then the server is away.
    let right = cluster.sql("data", "postgres", &["SHOW archive_command"]);
    setting(&cluster, "archive_command = '/bin/true'");
    expect(&cluster, &["critical archive-off"]);
    // The archiver itself may hear of it a moment later.
    ship(&cluster);
    ship(&cluster);
    expect(&cluster, &["critical archive-off"]);
    setting(&cluster, &format!("archive_command = '{right}'"));
    ship(&cluster);
    ship(&cluster);
    expect(&cluster, &["critical log-gap"]);
    cluster.backup(&[]).expect_code(0);
    expect(&cluster, &["warning log-gap"]);
    assert_eq!(points(&cluster)[0]["gaps"].as_array().unwrap().len(), 1);
    cluster.stop("data");
    let down = expect(&cluster, &["warning log-gap", "critical source-unreachable"]);
    assert!(down["sources"][0]["exposure_seconds"].is_u64(), "{down}");
    // As it is on a host that has nothing but the stores.
    run(cluster.as_owner("mv").args(["data", "elsewhere"])).expect_code(0);
    expect(&cluster, &["warning log-gap", "critical source-unreachable"]);
    for name in ["base.json", "archive.json", "server-seen.json"] {
        fs::remove_file(cluster.path("R/state/sources/ledger").join(name)).unwrap();
    }
    expect(&cluster, &["warning log-gap"]);
}

#[test]
fn what_is_exposed_of_15() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    what_is_exposed_and_how_it_is_archived("postgres15");
}

#[test]
fn what_is_exposed_of_18() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    what_is_exposed_and_how_it_is_archived("postgres18");
}

/// Removes what the run that stored a segment of the first timeline has stored, from all stores.
fn lose(cluster: &Cluster, segment: &str) {
    let folder = |store: &&str| {
        let histories = fs::read_dir(cluster.path(store).join("sources/ledger/log")).unwrap();
        histories.map(|entry| entry.unwrap().path()).min().unwrap()
    };
    let folders: Vec<_> = ["a", "b", "c"].iter().map(folder).collect();
    let names = |folder: &std::path::Path| -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let stored = names(&folders[0]);
    let stored = stored.iter().find(|name| name.starts_with(&segment.to_ascii_lowercase())).unwrap();
    let run = stored.split('.').next().unwrap().rsplit('-').next().unwrap();
    for folder in &folders {
        for name in names(folder).iter().filter(|name| name.contains(run)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
}

#[test]
fn windows_gaps_and_timelines() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = quiet_ledger("postgres15");
    let clock = |cluster: &Cluster| {
        let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
        cluster.sql("data", "postgres", &[now])
    };
    cluster.backup(&[]).expect_code(0);
    let between = clock(&cluster);
    commit(&cluster);
    let shipped = cluster.sql("data", "postgres", &["SELECT pg_walfile_name(pg_current_wal_insert_lsn())"]);
    ship(&cluster);
    ship(&cluster);
    let log = points(&cluster);
    assert_eq!(log[0]["windows"].as_array().unwrap().len(), 1, "{log}");
    let window = log[0]["windows"][0].clone();
    let moment = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{value}")).to_owned();
    assert!(moment(&window["from"]) < between && between < moment(&window["to"]), "{between} {log}");
    assert!((moment(&window["to"])) < clock(&cluster) && log[0]["gaps"] == Value::Array(Vec::new()), "{log}");

    // A promotion: the new timeline goes on from the snapshot of the old one.
    let before = clock(&cluster);
    cluster.stop("data");
    run(cluster.as_owner("touch").arg(cluster.path("data/standby.signal"))).expect_code(0);
    cluster.start("data");
    run(cluster.program("pg_ctl").args(["-D", "data", "-w", "promote"])).expect_code(0);
    ship(&cluster);
    let log = points(&cluster);
    assert_eq!(log[1]["grew_from"]["timeline"], 1, "{log}");
    assert_eq!(log[1]["windows"].as_array().unwrap().len(), 1, "{log}");
    assert!(moment(&log[1]["windows"][0]["to"]) > before, "{log}");
    assert_eq!(log[1]["windows"][0]["from"], window["from"], "{log}");
    expect_nothing_exposed(&cluster);
    let shown = run(&mut cluster.recoup(["points", "ledger"])).expect_code(0).stdout;
    for words in ["every moment from", "grown out of timeline 1 at", "over 1 snapshot"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }

    // A segment from after the newest snapshot is lost.
    lose(&cluster, &shipped);
    let gap = points(&cluster)[0]["gaps"][0].clone();
    assert!(moment(&gap["first"]) <= shipped && shipped <= moment(&gap["last"]), "{shipped} {gap}");
    assert_eq!(gap["since_newest_snapshot"], true, "{gap}");
    let checked = expect(&cluster, &["critical log-gap"]);
    assert!(checked["findings"][0]["message"].as_str().unwrap().contains("on no store"), "{checked}");
    cluster.backup(&[]).expect_code(0);
    expect(&cluster, &["warning log-gap"]);
    let log = points(&cluster);
    assert_eq!(log[1]["windows"].as_array().unwrap().len(), 1, "{log}");
    let shown = run(&mut cluster.recoup(["points", "ledger"])).expect_code(0).stdout;
    assert!(shown.contains(&format!("GAP {}", moment(&gap["first"]))), "{shown}");
    // Too few stores have what was shipped last.
    for store in ["b", "c"] {
        let folder = fs::read_dir(cluster.path(store).join("sources/ledger/log")).unwrap().map(|entry| entry.unwrap());
        let newest = folder.map(|entry| entry.path()).max().unwrap();
        fs::remove_dir_all(newest).unwrap();
    }
    expect(&cluster, &["warning log-gap", "critical log-not-durable"]);
    let thin = points(&cluster)[1]["thin"][0].clone();
    assert_eq!(thin["stores"][0], "a", "{thin}");
    run(&mut cluster.recoup(["copy"]));
    expect(&cluster, &["warning log-gap"]);
}

#[test]
fn a_server_that_hangs_keeps_no_check_waiting() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = quiet_ledger("postgres15");
    cluster.backup(&[]).expect_code(0);
    let postmaster = fs::read_to_string(cluster.path("data/postmaster.pid")).unwrap();
    let postmaster = postmaster.lines().next().unwrap().to_owned();
    run(cluster.as_owner("kill").args(["-STOP", &postmaster])).expect_code(0);
    let watch = Stopwatch::start();
    let (checked, found) = check(&cluster);
    let waited = watch.elapsed();
    run(cluster.as_owner("kill").args(["-CONT", &postmaster])).expect_code(0);
    assert_eq!(found, BTreeSet::from(["critical source-unreachable".to_owned()]), "{checked}");
    // Its patience is some seconds; without one this would never end.
    assert!(waited < Duration::from_secs(60), "{waited:?}");

    // Another server in its place is refused at once, though no record says whose log it is.
    cluster.stop("data");
    run(cluster.as_owner("mv").args(["data", "old"])).expect_code(0);
    cluster.make("data", &["--wal-segsize=1"]);
    for store in ["a", "b", "c"] {
        fs::remove_dir_all(cluster.path(store).join("sources/ledger/log")).unwrap();
    }
    fs::remove_file(cluster.path("R/state/sources/ledger/archive.json")).unwrap();
    let files = fs::read_dir(cluster.path("data/pg_wal")).unwrap().map(|entry| entry.unwrap().file_name());
    let segment = files.map(|name| name.into_string().unwrap()).filter(|name| name.len() == 24).min().unwrap();
    let segment = format!("data/pg_wal/{segment}");
    let pushed = run(&mut cluster.recoup(["archive", "push", "ledger", &segment]));
    assert_eq!(pushed.code, 17, "{pushed:?}");
    assert!(pushed.stderr.contains("of another system"), "{pushed:?}");
    assert!(check(&cluster).1.contains("critical archive-foreign"));
}
