//! PostgreSQL as a source, on real servers: snapshots while transfers run, restored and started.

mod backlog;
mod care;
mod churn;
mod clones;
pub(crate) mod cluster;
mod delta;
mod drills;
mod follow;
mod follower;
mod gaps;
mod kills;
mod large;
mod moments;
mod moved;
mod outside;
mod pruned;
mod restores;
mod room;
mod server;
mod sound;
mod switches;
mod timelines;
mod together;
mod writer;

use crate::{needs::needs, support::run};
use cluster::{BALANCED, Cluster, LEDGER};
use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
};

/// As large as segments have to be to be held in no memory.
const LARGE_SEGMENTS: &[&str] = &["--wal-segsize=32"];

fn ledger(program: &str) -> Cluster {
    ledger_with(program, &[])
}

/// The same, made with options of initdb.
fn ledger_with(program: &str, options: &[&str]) -> Cluster {
    let cluster = Cluster::with(program, options);
    cluster.sql("data", "postgres", &["CREATE DATABASE ledger"]);
    cluster.sql("data", "ledger", LEDGER);
    cluster
}

/// What changes between snapshots, one of them before each.
const CHANGES: &[&[&str]] = &[
    &["CREATE TABLE more AS SELECT * FROM filler", "CREATE INDEX ON more (text)"],
    &["TRUNCATE more", "VACUUM FULL filler", "SELECT lo_from_bytea(0, 'a large object')"],
    &[
        "CREATE DATABASE copied STRATEGY file_copy TEMPLATE template0",
        "UPDATE filler SET id = id + 1 WHERE id % 100 = 0",
    ],
    &["DROP DATABASE copied", "CREATE DATABASE logged STRATEGY wal_log", "DROP TABLE more"],
];

fn snapshots_while_transfers_run(program: &str) {
    let mut cluster = ledger(program);
    if program == "postgres18" {
        cluster.sql("data", "postgres", &["ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()"]);
    }
    let (outer, table) = (cluster.path("space"), "CREATE TABLE spaced TABLESPACE outer_space AS SELECT * FROM filler");
    run(cluster.as_owner("mkdir").arg(&outer)).expect_code(0);
    let space = format!("CREATE TABLESPACE outer_space LOCATION '{}'", outer.display());
    cluster.sql("data", "postgres", &[&space]);
    cluster.sql("data", "ledger", &[table]);
    let mut traffic = cluster.traffic();
    let full = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(full["snapshots"][0]["kind"], "full", "{full}");
    for change in CHANGES {
        cluster.sql("data", "ledger", change);
        let taken = cluster.backup(&[]).expect_code(0).json();
        let snapshot = &taken["snapshots"][0];
        assert_eq!(snapshot["kind"], "incremental", "{taken}");
        assert!(snapshot["position"].as_str().unwrap().contains(".."), "{taken}");
    }
    assert!(traffic.is_running());
    drop(traffic);
    let postings = cluster.sql("data", "ledger", &["SELECT count(*) FROM posting"]);
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    let archived = "SELECT count(*) = 0 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    cluster.wait_for("data", archived, "t");

    cluster.restore_and_start("restored");
    cluster.wait_for("restored", "SELECT pg_is_in_recovery()", "f");
    assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM posting"]), postings);
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM spaced"]), "30000");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM scratch"]), "0");
    assert_eq!(cluster.sql("restored", "logged", &["SELECT 1"]), "1");
    // Nothing of the restored server lies where the first one's tablespace is.
    assert!(fs::symlink_metadata(cluster.path("restored/pg_tblspc")).unwrap().is_dir());
    let links = fs::read_dir(cluster.path("restored/pg_tblspc")).unwrap().flatten();
    assert!(links.into_iter().all(|space| space.file_type().unwrap().is_dir()));
    let mut amcheck = cluster.program("pg_amcheck");
    amcheck.arg("-h").arg(cluster.path("restored.socket")).args([
        "-U",
        "postgres",
        "--install-missing",
        "-d",
        "ledger",
    ]);
    run(&mut amcheck).expect_code(0);
    cluster.stop("restored");
    run(cluster.program("pg_checksums").arg("--check").arg("-D").arg(cluster.path("restored"))).expect_code(0);
}

#[test]
fn snapshots_of_15_while_transfers_run() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    snapshots_while_transfers_run("postgres15");
}

#[test]
fn snapshots_of_18_while_transfers_run() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    snapshots_while_transfers_run("postgres18");
}

/// Flips a bit in block 3 of a table while the server is down; gives the file.
fn damage(cluster: &mut Cluster, table: &str) -> String {
    let path = cluster.sql("data", "ledger", &[&format!("SELECT pg_relation_filepath('{table}')")]);
    cluster.stop("data");
    let file = OpenOptions::new().read(true).write(true).open(cluster.path("data").join(&path)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 3 * 8192 + 5000).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 3 * 8192 + 5000).unwrap();
    cluster.start("data");
    path
}

#[test]
fn summaries_say_what_to_read() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    let mut cluster = ledger("postgres18");
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()"]);
    cluster.sql("data", "ledger", &["VACUUM (FREEZE) filler"]);
    cluster.backup(&[]).expect_code(0);
    // The file has other times now; the log has touched one block of it, and another is damaged.
    damage(&mut cluster, "filler");
    cluster.sql("data", "ledger", &["INSERT INTO filler VALUES (0, 'new')"]);
    let taken = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(taken["snapshots"][0]["kind"], "incremental", "{taken}");
    let stored = taken["snapshots"][0]["bytes_stored"].as_u64().unwrap();
    assert!(stored < 500_000, "{taken}");
    // A full reads everything.
    assert_eq!(cluster.backup(&["--full"]).code, 1);
}

#[test]
fn a_standby_is_a_source_until_it_is_promoted() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = ledger("postgres15");
    cluster.backup(&[]).expect_code(0);
    let socket = cluster.path("data.socket");
    let mut basebackup = cluster.program("pg_basebackup");
    basebackup.arg("-h").arg(&socket).args(["-U", "postgres", "-D", "standby", "-R", "-c", "fast"]);
    run(&mut basebackup).expect_code(0);
    cluster.configure("standby", "");
    cluster.start("standby");
    cluster.sql("data", "ledger", &["UPDATE filler SET id = -id WHERE id < 100", "CHECKPOINT"]);
    let there = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_flush_lsn()";
    cluster.wait_for("data", there, "1");
    // The source is the standby now. Its primary fills the last segment by and by.
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    let (data, standby) = (cluster.path("data"), cluster.path("standby"));
    let config = config.replace(data.to_str().unwrap(), standby.to_str().unwrap());
    fs::write(cluster.path("R/recoup.toml"), config).unwrap();
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET archive_timeout = 1", "SELECT pg_reload_conf()"]);
    let mut traffic = cluster.traffic();
    let taken = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(taken["snapshots"][0]["kind"], "incremental", "{taken}");
    assert!(traffic.is_running());
    drop(traffic);
    cluster.sql("data", "postgres", &["SELECT pg_switch_wal()"]);
    let archived = "SELECT count(*) = 0 FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    cluster.wait_for("data", archived, "t");
    cluster.restore_and_start("restored");
    cluster.wait_for("restored", "SELECT pg_is_in_recovery()", "f");
    assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
    cluster.stop("restored");
    run(cluster.program("pg_checksums").arg("--check").arg("-D").arg(cluster.path("restored"))).expect_code(0);
    // Promoted, it goes on from what it was: its new timeline grew out of the old one.
    cluster.stop("data");
    run(cluster.program("pg_ctl").args(["-D", "standby", "-w", "promote"])).expect_code(0);
    cluster.sql("standby", "ledger", &["UPDATE filler SET id = -id WHERE id < 50", "CHECKPOINT"]);
    let taken = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(taken["snapshots"][0]["kind"], "incremental", "{taken}");
}

#[test]
fn a_damaged_page_is_named_each_time() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = ledger("postgres15");
    cluster.backup(&[]).expect_code(0);
    let path = damage(&mut cluster, "filler");
    for arguments in [&[][..], &[], &["--full"]] {
        let taken = cluster.backup(arguments);
        assert_eq!(taken.code, 1, "{taken:?}");
        assert!(taken.stderr.contains(&format!("{path}, block 3: the page's checksum is wrong")), "{taken:?}");
        assert!(taken.stderr.contains("hold add"), "{taken:?}");
    }
}

#[test]
fn another_server_is_no_base() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = ledger("postgres15");
    cluster.backup(&[]).expect_code(0);
    cluster.stop("data");
    run(cluster.as_owner("mv").args(["data", "old"])).expect_code(0);
    cluster.make("data", &[]);
    // Its log is refused until somebody decides: nothing is committed meanwhile.
    cluster.be_impatient(true);
    cluster.start("data");
    let planned = run(&mut cluster.recoup(["backup", "ledger", "--dry-run"])).expect_code(0);
    assert!(planned.stdout.contains("another server begins a new history"), "{planned:?}");
    let taken = cluster.backup(&[]);
    assert_eq!(taken.code, 17, "{taken:?}");
    assert!(taken.stderr.contains("another one than that whose log is archived"), "{taken:?}");
    let foreign = || -> Vec<String> {
        let checked = run(&mut cluster.recoup(["check", "--json"])).json();
        let findings = checked["findings"].as_array().unwrap().iter();
        let foreign = findings.filter(|finding| finding["id"] == "archive-foreign");
        foreign.map(|finding| format!("{}: {}", finding["severity"], finding["next_step"])).collect()
    };
    let found = foreign();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("\"critical\": "), "{found:?}");
    assert!(found[0].contains("archive open ledger --reason TEXT"), "{found:?}");
    // The decision, and what it permits.
    run(&mut cluster.recoup(["archive", "open", "ledger", "--reason", "made anew"])).expect_code(0);
    assert_eq!(foreign(), Vec::<String>::new());
    cluster.be_impatient(false);
    let taken = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(taken["snapshots"][0]["kind"], "full", "{taken}");
}

#[test]
fn what_is_unfit_is_refused() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let mut cluster = ledger("postgres15");
    let refused = |cluster: &Cluster, words: &[&str]| {
        let taken = cluster.backup(&[]);
        assert_eq!(taken.code, 13, "{words:?}: {taken:?}");
        for word in words {
            assert!(taken.stderr.contains(word), "{word}: {taken:?}");
        }
    };
    // Files that a crash or a copy has left.
    fs::write(cluster.path("data/backup_label"), "START WAL LOCATION: 0/1\n").unwrap();
    refused(&cluster, &["backup_label is there"]);
    fs::remove_file(cluster.path("data/backup_label")).unwrap();
    // A role that may do nothing, and one that there is not.
    let right = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    cluster.sql("data", "postgres", &["CREATE ROLE weak LOGIN"]);
    for (role, words) in
        [("weak", ["may not take backups", "GRANT"]), ("nobody_there", ["does not exist", "create the role"])]
    {
        fs::write(cluster.path("R/recoup.toml"), right.replace("user=postgres", &format!("user={role}"))).unwrap();
        refused(&cluster, &words);
    }
    // Another server's directory.
    cluster.make("other", &[]);
    let (data, other) = (cluster.path("data"), cluster.path("other"));
    let foreign = right.replace(&format!("\"{}\"", data.display()), &format!("\"{}\"", other.display()));
    fs::write(cluster.path("R/recoup.toml"), foreign).unwrap();
    refused(&cluster, &["is not the data directory of the server that answers"]);
    fs::write(cluster.path("R/recoup.toml"), &right).unwrap();
    // Another backup of it is running: its lock is held.
    let lock = cluster.path("R/state/sources/ledger/lock");
    let held = OpenOptions::new().write(true).create(true).truncate(false).open(&lock).unwrap();
    cluster.own("R/state/sources/ledger/lock");
    held.lock().unwrap();
    let taken = cluster.backup(&[]);
    assert!(taken.code == 11 && taken.stderr.contains("another backup of ledger is running"), "{taken:?}");
    drop(held);
    // The archive does not work.
    cluster.be_impatient(true);
    fs::write(cluster.path("broken"), "").unwrap();
    refused(&cluster, &["is not durable", "archiver failed"]);
    fs::remove_file(cluster.path("broken")).unwrap();
    for (setting, words) in [
        ("archive_command = ''", ["neither archive_command"].as_slice()),
        ("archive_mode = off", &["archive_mode is off"]),
        ("wal_level = minimal\nmax_wal_senders = 0", &["wal_level is minimal"]),
    ] {
        cluster.stop("data");
        cluster.configure("data", &format!("{setting}\n"));
        cluster.start("data");
        refused(&cluster, words);
    }
    cluster.stop("data");
    refused(&cluster, &["does not answer", "shut down"]);
    let listed = run(&mut cluster.recoup(["list", "--json"])).expect_code(0).json();
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 0, "{listed}");
}
