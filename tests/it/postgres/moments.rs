//! Restores to moments, places, transactions and names: each must show exactly what had been committed by then.

use super::cluster::{BALANCED, Cluster};
use crate::{
    needs::needs,
    support::{count_from, run},
};
use std::fs;

/// What a restored server must show: how many numbered rows.
struct Moment {
    target: String,
    rows: u64,
}

/// A server with numbered commits, snapshots among them, and a target after each commit.
fn history(cluster: &Cluster, commits: u64) -> Vec<Moment> {
    let sql = |statement: &str| cluster.sql("data", "ledger", &[statement]);
    sql("CREATE TABLE numbered (n int PRIMARY KEY)");
    cluster.backup(&[]).expect_code(0);
    let mut moments = Vec::new();
    for n in 1..=commits {
        // The number of the transaction, then the moment and the place after its commit.
        let number = sql(&format!(
            "INSERT INTO numbered VALUES ({n}) RETURNING pg_current_xact_id()::text::bigint % 4294967296"
        ));
        let told =
            sql("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || \
             pg_current_wal_insert_lsn()");
        let (moment, place) = told.split_once(' ').unwrap();
        let target = match n % 4 {
            1 => format!("lsn:{place}"),
            2 => format!("xid:{number}"),
            3 => {
                sql(&format!("SELECT pg_create_restore_point('after {n}')"));
                format!("name:after {n}")
            }
            _ => moment.to_owned(),
        };
        moments.push(Moment { target, rows: n });
        if n % 5 == 4 {
            cluster.backup(&[]).expect_code(0);
        }
    }
    // A commit after all of them, in a segment that is archived.
    sql("INSERT INTO numbered VALUES (1000000)");
    let last = sql("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    sql("SELECT pg_switch_wal()");
    let is_archived = format!("SELECT left(last_archived_wal, 24) >= '{last}' FROM pg_stat_archiver");
    cluster.wait_for("data", &is_archived, "t");
    moments
}

fn shows(cluster: &mut Cluster, name: &str, moment: &Moment) {
    let shown = cluster.sql(name, "ledger", &["SELECT count(*) FROM numbered WHERE n < 1000000"]);
    assert_eq!(shown, moment.rows.to_string(), "{}", moment.target);
    assert_eq!(cluster.sql(name, "ledger", &[BALANCED]), "t", "{}", moment.target);
    assert_eq!(cluster.sql(name, "ledger", &["SHOW archive_mode"]), "off");
    cluster.stop(name);
    fs::remove_dir_all(cluster.path(name)).unwrap();
}

fn every_moment_is_restored(program: &str) {
    let mut cluster = super::ledger(program);
    let traffic = cluster.traffic();
    let moments = history(&cluster, count_from("RECOUP_TEST_MOMENTS", 6));
    drop(traffic);
    // Nobody has waited for the slowest store.
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    for (at, moment) in moments.iter().enumerate() {
        // By turns the server fetches its log itself, or finds it in the directory.
        let extra: &[&str] = if at % 2 == 0 { &[] } else { &["--fetch-log"] };
        cluster.restore_to("restored", &moment.target, extra).expect_code(0);
        cluster.start_restored("restored");
        shows(&mut cluster, "restored", moment);
    }
    let cases = [("2020-01-01T00:00:00Z", 16), ("2999-01-01T00:00:00Z", 16), ("name:nowhere", 16), ("lsn:FF/0", 16)];
    for (target, code) in cases {
        let refused = cluster.restore_to("restored", target, &[]);
        refused.expect_code(code);
        assert!(!cluster.path("restored").exists(), "{target}");
    }
}

#[test]
fn moments_of_15() {
    if needs("postgres15") {
        every_moment_is_restored("postgres15");
    }
}

#[test]
fn moments_of_18() {
    if needs("postgres18") {
        every_moment_is_restored("postgres18");
    }
}

/// A segment of the log that lies on too few stores, or on none.
#[test]
fn a_gap_in_the_log_is_named_before_anything_is_written() {
    if !needs("postgres15") {
        return;
    }
    let mut cluster = super::ledger("postgres15");
    let moments = history(&cluster, 3);
    let spoil = |store: &str, how: &dyn Fn(&std::path::Path)| {
        let folder = cluster.path(store).join("sources/ledger/log");
        let histories = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        for history in histories {
            let mut names: Vec<_> = fs::read_dir(history).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
                .iter()
                .filter(|name| name.extension().is_some_and(|ending| ending == "age"))
                .for_each(|name| how(name));
        }
    };
    spoil("a", &|payload| fs::write(payload, b"damaged").unwrap());
    spoil("b", &|payload| fs::remove_file(payload).unwrap());
    let restored = cluster.restore_to("restored", &moments[2].target, &["--fetch-log"]).expect_code(1);
    assert!(restored.stderr.contains("is damaged; taken from another store"), "{restored:?}");
    cluster.start_restored("restored");
    shows(&mut cluster, "restored", &moments[2]);
    // The records are gone as well: of the segments nothing is known any more.
    for store in ["a", "b", "c"] {
        fs::remove_dir_all(cluster.path(store).join("sources/ledger/log")).unwrap();
    }
    let refused = cluster.restore_to("restored", "latest", &[]).expect_code(16);
    assert!(refused.stderr.contains("is on no store"), "{}", refused.stderr);
    assert!(!cluster.path("restored").exists());
}
