//! Restores along a timeline: the newest, the snapshot's own, or one by its number.

use super::cluster::Cluster;
use crate::{needs::needs, support::run};

fn promoted(cluster: &mut Cluster) {
    cluster.stop("data");
    run(cluster.as_owner("touch").arg(cluster.path("data/standby.signal"))).expect_code(0);
    cluster.start("data");
    run(cluster.program("pg_ctl").args(["-D", "data", "-w", "promote"])).expect_code(0);
    cluster.wait_for("data", "SELECT pg_is_in_recovery()", "f");
}

fn ship(cluster: &Cluster) {
    let last = cluster.sql("data", "ledger", &["SELECT pg_walfile_name(pg_current_wal_insert_lsn())"]);
    cluster.sql("data", "ledger", &["INSERT INTO filler VALUES (0, 'shipped')", "SELECT pg_switch_wal()"]);
    let is_archived = format!("SELECT left(last_archived_wal, 24) >= '{last}' FROM pg_stat_archiver");
    cluster.wait_for("data", &is_archived, "t");
}

#[track_caller]
fn shows(cluster: &mut Cluster, target: &str, timeline: &[&str], expected: &str) {
    let extra = [timeline, &["--fetch-log"]].concat();
    cluster.restore_to("restored", target, &extra).expect_code(0);
    cluster.start_restored("restored");
    let shown = cluster.sql("restored", "ledger", &["SELECT string_agg(name, ' ' ORDER BY name) FROM event"]);
    assert_eq!(shown, expected, "{target} {timeline:?}");
    cluster.stop("restored");
    std::fs::remove_dir_all(cluster.path("restored")).unwrap();
}

fn timelines_are_followed(program: &str) {
    let mut cluster = super::ledger(program);
    cluster.sql("data", "ledger", &["CREATE TABLE event (name text)"]);
    cluster.backup(&[]).expect_code(0);
    cluster.sql("data", "ledger", &["INSERT INTO event VALUES ('before')"]);
    ship(&cluster);
    promoted(&mut cluster);
    cluster.sql("data", "ledger", &["INSERT INTO event VALUES ('promoted')"]);
    ship(&cluster);
    shows(&mut cluster, "latest", &[], "before promoted");
    shows(&mut cluster, "latest", &["--timeline", "latest"], "before promoted");
    shows(&mut cluster, "latest", &["--timeline", "2"], "before promoted");
    shows(&mut cluster, "latest", &["--timeline", "current"], "before");
    shows(&mut cluster, "latest", &["--timeline", "1"], "before");
    // The newest snapshot is of the second; the first is reached from the one before.
    cluster.backup(&[]).expect_code(0);
    shows(&mut cluster, "latest", &["--timeline", "1"], "before");
    shows(&mut cluster, "latest", &["--timeline", "current"], "before promoted");
    for (timeline, words) in [
        (["--timeline", "7"], ["no snapshot of ledger leads to timeline 7", "these timelines after the first: 2"]),
        (["--timeline", "3"], ["leads to timeline 3", "points ledger"]),
    ] {
        let refused = cluster.restore_to("restored", "latest", &timeline).expect_code(16);
        assert!(words.iter().all(|word| refused.stderr.contains(word)), "{refused:?}");
        assert!(!cluster.path("restored").exists());
    }
    // A snapshot that was taken after the first timeline was left does not lead to it.
    let refused = cluster.restore_to("restored", "snapshot:2", &["--timeline", "1"]).expect_code(16);
    assert!(refused.stderr.contains("snapshot:2 of ledger does not lead to timeline 1"), "{refused:?}");
    cluster.restore_to("restored", "latest", &["--timeline", "0"]).expect_code(64);
    cluster.restore_to("restored", "latest", &["--timeline", "1", "--standby"]).expect_code(64);
}

#[test]
fn timelines_of_15_are_followed() {
    if needs("postgres15") && needs("setpriv") {
        timelines_are_followed("postgres15");
    }
}

#[test]
fn timelines_of_18_are_followed() {
    if needs("postgres18") && needs("setpriv") {
        timelines_are_followed("postgres18");
    }
}
