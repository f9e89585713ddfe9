//! A server whose log is followed: what was committed is in the stores within seconds, whatever is killed.

use super::{
    cluster::{BALANCED, Cluster},
    follower::{Follower, eventually, quiet},
};
use crate::{needs::needs, support::run};
use recoup::core::log::Lsn;
use std::{fs, thread, time::Duration};

/// Commits a number; gives the place in the log behind it, and the moment.
fn commit(cluster: &Cluster, server: &str, n: u32) -> (Lsn, String) {
    let sql = format!("INSERT INTO numbered VALUES ({n})");
    let told = "SELECT pg_current_wal_insert_lsn() || ' ' || \
        to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let told = cluster.sql(server, "ledger", &[&sql, told]);
    let (place, moment) = told.split_once(' ').unwrap();
    (place.parse().unwrap(), moment.to_owned())
}

/// The names of all objects of a log on a store, and up to where they go.
fn stored(cluster: &Cluster, store: &str, timeline: u32) -> (Vec<String>, Lsn) {
    let (mut names, mut to) = (Vec::new(), Lsn(0));
    let histories = fs::read_dir(cluster.path(store).join("sources/ledger/log")).into_iter().flatten();
    for history in histories.map(|entry| entry.unwrap().path()) {
        if !history.to_string_lossy().ends_with(&format!("{timeline:08x}")) {
            continue;
        }
        for object in fs::read_dir(history).unwrap().map(|entry| entry.unwrap().path()) {
            let name = object.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".json") {
                let record: serde_json::Value = serde_json::from_slice(&fs::read(&object).unwrap()).unwrap();
                let record: serde_json::Value = serde_json::from_str(record["record"].as_str().unwrap()).unwrap();
                for file in record["files"].as_array().unwrap() {
                    to = to.max(file["ends"].as_str().map_or(Lsn(0), |ends| ends.parse().unwrap()));
                }
            }
            names.push(name);
        }
    }
    (names, to)
}

/// Waits until enough stores have the log up to a place.
#[track_caller]
fn durable(cluster: &Cluster, timeline: u32, place: Lsn) {
    eventually("it is on two stores", || {
        ["a", "b", "c"].iter().filter(|store| stored(cluster, store, timeline).1 >= place).count() >= 2
    });
}

/// Restores, and says how many numbers the server has then.
#[track_caller]
fn numbers(cluster: &mut Cluster, target: &str, extra: &[&str]) -> String {
    let restored = cluster.restore_to("restored", target, extra);
    assert!(restored.code == 0 || restored.code == 1, "{restored:?}");
    cluster.start_restored("restored");
    let numbers = cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]);
    cluster.stop("restored");
    fs::remove_dir_all(cluster.path("restored")).unwrap();
    numbers
}

/// Recovers with a restore_command of one's own, and says how many numbers the server has then.
fn by_hand(cluster: &mut Cluster) -> String {
    cluster.restore_to("restored", "snapshot:1", &[]).expect_code(0);
    let recoup = format!("{} --config {}", cluster.path("recoup").display(), cluster.path("R/recoup.toml").display());
    let identity = cluster.path("R/custodian.age");
    let command = format!("{recoup} archive fetch ledger %f %p --identity {}", identity.display());
    let settings = format!("archive_mode = off\nrestore_command = '{command}'\n");
    fs::write(cluster.path("restored/postgresql.auto.conf"), settings).unwrap();
    cluster.start_restored("restored");
    let numbers = cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]);
    cluster.stop("restored");
    fs::remove_dir_all(cluster.path("restored")).unwrap();
    numbers
}

fn quiet_servers_are_followed(program: &str) {
    let mut cluster = quiet(program);
    let refused = cluster.backup(&[]).expect_code(13);
    assert!(refused.stderr.contains("nobody follows its log"), "{refused:?}");
    let follower = Follower::start(&cluster, &["--create-slot"]);
    cluster.wait_for("data", "SELECT count(*) FROM pg_stat_replication", "1");
    // Its log is shipped by whoever follows.
    let taken = cluster.backup(&[]);
    assert!(taken.code < 2, "{taken:?}");
    let (_, first) = commit(&cluster, "data", 1);
    let (place, _) = commit(&cluster, "data", 2);
    durable(&cluster, 1, place);
    // Who watches knows that nothing would be lost, and no setting is wrong.
    let exposure = || {
        let checked = run(&mut cluster.recoup(["check", "--json"])).json();
        let findings = checked["findings"].to_string();
        assert!(!findings.contains("archive-off"), "{findings}");
        checked["sources"][0]["exposure_seconds"].as_f64()
    };
    eventually("nothing would be lost", || exposure() == Some(0.0));
    let points = run(&mut cluster.recoup(["points", "--json"])).json();
    let window = &points["sources"][0]["log"][0]["windows"][0];
    let shown: Lsn = window["to_position"].as_str().unwrap_or_else(|| panic!("{points}")).parse().unwrap();
    assert!(shown >= place, "{points}");
    // And nobody had to finish a segment for that.
    let current = cluster.sql("data", "ledger", &["SELECT pg_walfile_name(pg_current_wal_insert_lsn())"]);
    let (names, _) = stored(&cluster, "a", 1);
    let of_current: Vec<&String> = names.iter().filter(|name| name.starts_with(&current.to_lowercase())).collect();
    assert!(!of_current.is_empty() && of_current.iter().all(|name| name.contains(".piece-")), "{names:?}");
    assert_eq!(numbers(&mut cluster, "latest", &[]), "2");
    assert_eq!(numbers(&mut cluster, &first, &["--fetch-log"]), "1");
    // A standby is told that there is no such segment yet. A server that recovers without a plan ends with what there is.
    run(cluster.as_owner("mkdir").args(["-p", "other/global", "other/pg_wal"])).expect_code(0);
    run(cluster.as_owner("cp").args(["data/global/pg_control", "other/global"])).expect_code(0);
    let fetch = ["archive", "fetch", "ledger", &current, "other/pg_wal/RECOVERYXLOG", "--identity", "R/custodian.age"];
    for (signals, code) in [(&["standby"][..], 1), (&["recovery", "standby"], 1), (&["recovery"], 0)] {
        for name in ["recovery", "standby"] {
            let file = cluster.path(&format!("other/{name}.signal"));
            drop(fs::remove_file(&file));
            signals.iter().filter(|signal| **signal == name).for_each(|_| fs::write(&file, "").unwrap());
        }
        run(&mut cluster.recoup(fetch)).expect_code(code);
    }
    let given = fs::metadata(cluster.path("other/pg_wal/RECOVERYXLOG")).unwrap().len();
    assert_eq!(given, 16 << 20);
    assert_eq!(by_hand(&mut cluster), "2");

    // Another one is not let in.
    run(&mut cluster.recoup(["archive", "follow", "ledger"])).expect_code(11);
    follower.kill();
    commit(&cluster, "data", 3);
    let follower = Follower::start(&cluster, &[]);
    let (place, _) = commit(&cluster, "data", 4);
    durable(&cluster, 1, place);
    // The server goes, and comes back.
    cluster.stop("data");
    eventually("it notices", || follower.said().contains("tried again and again"));
    // From now on the archiver ships the same segments.
    cluster.configure("data", "archive_mode = on\n");
    cluster.start("data");
    let (place, _) = commit(&cluster, "data", 5);
    durable(&cluster, 1, place);
    eventually("it says so", || follower.said().contains("PostgreSQL gives its log again"));
    assert_eq!(follower.said().lines().filter(|line| line.contains("not received")).count(), 1, "{}", follower.said());
    // Whole segments leave this host once they are durable.
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    let (place, _) = commit(&cluster, "data", 6);
    durable(&cluster, 1, place);
    // Stores that are gone are waited for; what was received meanwhile is shipped when they are back.
    for store in ["a", "b"] {
        fs::rename(cluster.path(store), cluster.path(&format!("gone-{store}"))).unwrap();
    }
    let (last, _) = commit(&cluster, "data", 7);
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    eventually("it says so", || follower.said().contains("is not on enough stores"));
    for store in ["a", "b"] {
        fs::rename(cluster.path(&format!("gone-{store}")), cluster.path(store)).unwrap();
    }
    let inbox = cluster.path("R/state/sources/ledger/follow");
    durable(&cluster, 1, last);
    assert_eq!(follower.end(), 0);
    let left: Vec<String> =
        fs::read_dir(&inbox).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.ends_with(".partial")), "{left:?}");
    assert_eq!(numbers(&mut cluster, "latest", &["--fetch-log"]), "7");
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    run(&mut cluster.recoup(["verify"])).expect_code(0);
}

#[test]
fn quiet_servers_of_15_are_followed() {
    if needs("postgres15") {
        quiet_servers_are_followed("postgres15");
    }
}

#[test]
fn quiet_servers_of_18_are_followed() {
    if needs("postgres18") {
        quiet_servers_are_followed("postgres18");
    }
}

#[test]
fn a_lost_slot_is_a_gap_and_never_silence() {
    if !needs("postgres15") {
        return;
    }
    let mut cluster = quiet("postgres15");
    let set = |cluster: &Cluster, setting: &str| {
        cluster.sql("data", "postgres", &[&format!("ALTER SYSTEM SET {setting}"), "SELECT pg_reload_conf()"]);
    };
    let refused = |cluster: &Cluster, options: &[&str], code: i32, words: &str| {
        let refused = run(cluster.recoup(["archive", "follow", "ledger"]).args(options)).expect_code(code);
        assert!(refused.stderr.contains(words), "{words}: {refused:?}");
    };
    refused(&cluster, &[], 13, "archive follow ledger --create-slot");
    refused(&cluster, &["--slot", "Slot"], 64, "small letters");
    refused(&cluster, &["--every", "0s"], 64, "the least is 1s");
    set(&cluster, "max_slot_wal_keep_size = -1");
    refused(&cluster, &["--create-slot"], 17, "max_slot_wal_keep_size");
    let right = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    cluster.sql("data", "postgres", &["CREATE ROLE weak LOGIN; GRANT pg_monitor TO weak"]);
    fs::write(cluster.path("R/recoup.toml"), right.replace("user=postgres", "user=weak")).unwrap();
    refused(&cluster, &["--create-slot", "--unbounded"], 13, "ALTER ROLE weak REPLICATION");
    fs::write(cluster.path("R/recoup.toml"), &right).unwrap();

    let follower = Follower::start(&cluster, &["--create-slot", "--unbounded"]);
    let (place, _) = commit(&cluster, "data", 1);
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    durable(&cluster, 1, place);
    let has_whole = |cluster: &Cluster| stored(cluster, "a", 1).0.iter().any(|name| !name.contains("piece"));
    eventually("a whole segment is there", || has_whole(&cluster));
    assert_eq!(follower.end(), 0);
    set(&cluster, "max_slot_wal_keep_size = '1MB'");
    for n in 2..8 {
        commit(&cluster, "data", n);
        cluster.sql("data", "ledger", &["SELECT pg_switch_wal()", "CHECKPOINT"]);
    }
    cluster.wait_for("data", "SELECT wal_status FROM pg_replication_slots", "lost");
    refused(&cluster, &["--create-slot"], 17, "pg_drop_replication_slot('recoup_ledger')");
    cluster.sql("data", "postgres", &["SELECT pg_drop_replication_slot('recoup_ledger')"]);
    set(&cluster, "max_slot_wal_keep_size = '1GB'");
    let follower = Follower::start(&cluster, &["--create-slot"]);
    eventually("the gap is named", || follower.said().contains("gap: the log in the archive ends with"));
    let taken = cluster.backup(&["--full"]);
    assert!(taken.code < 2, "{taken:?}");
    let (place, _) = commit(&cluster, "data", 8);
    durable(&cluster, 1, place);
    assert_eq!(follower.end(), 0);
    assert_eq!(numbers(&mut cluster, "latest", &[]), "8");
}

/// Servers that are killed while they write, and whoever follows them too.
#[test]
fn what_a_killed_server_committed_is_there() {
    if !needs("postgres18") {
        return;
    }
    let mut cluster = quiet("postgres18");
    let mut follower = Follower::start(&cluster, &["--create-slot"]);
    cluster.wait_for("data", "SELECT count(*) FROM pg_stat_replication", "1");
    let taken = cluster.backup(&[]);
    assert!(taken.code < 2, "{taken:?}");
    for round in 0..3 {
        let traffic = cluster.traffic();
        let before: u64 = cluster.sql("data", "ledger", &["SELECT count(*) FROM posting"]).parse().unwrap();
        let more = || cluster.sql("data", "ledger", &["SELECT count(*) FROM posting"]).parse::<u64>().unwrap();
        eventually("it goes on", || more() > before + 200);
        if round == 1 {
            follower.kill();
            follower = Follower::start(&cluster, &[]);
            // One that begins while the server is down ends at once, for a service manager to start it again.
            let (place, _) = commit(&cluster, "data", 100);
            durable(&cluster, 1, place);
        }
        cluster.crash("data");
        drop(traffic);
        cluster.start("data");
        let (place, _) = commit(&cluster, "data", round);
        assert!(follower.is_running(), "{}", follower.said());
        durable(&cluster, 1, place);
    }
    let postings = cluster.sql("data", "ledger", &["SELECT count(*) FROM posting"]);
    assert_eq!(follower.end(), 0);
    let restored = cluster.restore_to("restored", "latest", &["--fetch-log"]);
    assert!(restored.code < 2, "{restored:?}");
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM posting"]), postings);
    assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
}

#[test]
fn a_promotion_is_followed() {
    if !needs("postgres15") {
        return;
    }
    let mut cluster = quiet("postgres15");
    let mut basebackup = cluster.program("pg_basebackup");
    basebackup.arg("-h").arg(cluster.path("data.socket")).args(["-U", "postgres", "-D", "standby", "-R", "-c", "fast"]);
    run(&mut basebackup).expect_code(0);
    cluster.configure("standby", "");
    cluster.start("standby");
    let config = fs::read_to_string(cluster.path("R/recoup.toml")).unwrap();
    let (data, standby) = (cluster.path("data"), cluster.path("standby"));
    fs::write(cluster.path("R/recoup.toml"), config.replace(data.to_str().unwrap(), standby.to_str().unwrap()))
        .unwrap();
    let follower = Follower::start(&cluster, &["--create-slot"]);
    cluster.wait_for("standby", "SELECT count(*) FROM pg_stat_replication", "1");
    // The primary finishes the segment for which the snapshot of its standby waits.
    let stop = thread::scope(|scope| {
        let taken = scope.spawn(|| cluster.backup(&[]));
        while !taken.is_finished() {
            cluster.sql(
                "data",
                "ledger",
                &["SELECT pg_logical_emit_message(false, 'x', 'x')", "SELECT pg_switch_wal()"],
            );
            thread::sleep(Duration::from_millis(200));
        }
        taken.join().unwrap()
    });
    assert!(stop.code < 2, "{stop:?}");
    let (place, _) = commit(&cluster, "data", 1);
    durable(&cluster, 1, place);
    cluster.stop("data");
    run(cluster.program("pg_ctl").args(["-D", "standby", "-w", "promote"])).expect_code(0);
    let (place, _) = commit(&cluster, "standby", 2);
    durable(&cluster, 2, place);
    assert_eq!(follower.end(), 0);
    // What is left of the old timeline's last segment is durable, and no more on this host.
    let inbox = fs::read_dir(cluster.path("R/state/sources/ledger/follow")).unwrap();
    let left: Vec<String> = inbox.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| name.starts_with("00000002")), "{left:?}");
    assert_eq!(numbers(&mut cluster, "latest", &[]), "2");
}
