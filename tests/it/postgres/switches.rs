//! A standby takes over: moments on either side of the switch come back, and what the old primary wrote alone is kept.

use super::{
    cluster::{BALANCED, Cluster},
    sound::assert_sound,
};
use crate::{
    needs::needs,
    simulation::random::Rng,
    support::{count_from, run},
};
use std::fs;

const TOLD: &str = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || \
    pg_current_wal_insert_lsn()";

/// What was committed, in order: the moment and the place after each.
struct CommitLog {
    commits: Vec<(String, String)>,
    rng: Rng,
}

impl CommitLog {
    /// Commits the next number on a server, sometimes with much else.
    fn commit(&mut self, cluster: &Cluster, server: &str) {
        let n = self.commits.len() + 1;
        let row = format!("INSERT INTO numbered VALUES ({n})");
        let bulk = if self.rng.percent(20) { "UPDATE filler SET id = -id" } else { "SELECT 1" };
        let told = cluster.sql(server, "ledger", &[&row, TOLD]);
        cluster.sql(server, "ledger", &[bulk]);
        let (moment, place) = told.split_once(' ').unwrap();
        self.commits.push((moment.to_owned(), place.to_owned()));
    }

    /// Restores to a random moment or place between two commits: the server shows the commits until then.
    fn restores(&mut self, cluster: &mut Cluster, from: usize, until: usize) {
        let at = from + self.rng.below((until - from) as u64) as usize;
        let (moment, place) = self.commits[at].clone();
        let target = if self.rng.percent(70) { moment } else { format!("lsn:{place}") };
        let extra: &[&str] = if self.rng.percent(50) { &["--fetch-log"] } else { &[] };
        cluster.restore_to("restored", &target, extra).expect_code(0);
        cluster.start_restored("restored");
        let shown = cluster.sql("restored", "ledger", &["SELECT count(*) || ' ' || max(n) FROM numbered"]);
        assert_eq!(shown, format!("{0} {0}", at + 1), "{target}");
        assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t", "{target}");
        cluster.stop("restored");
        fs::remove_dir_all(cluster.path("restored")).unwrap();
    }
}

fn archived(cluster: &Cluster, server: &str) {
    cluster.sql(server, "ledger", &["SELECT pg_switch_wal()"]);
    cluster.drained(server);
}

fn either_side_of_a_switch_comes_back(program: &str) {
    let mut cluster = super::ledger(program);
    cluster.sql("data", "ledger", &["CREATE TABLE numbered (n int PRIMARY KEY)"]);
    let mut log = CommitLog { commits: Vec::new(), rng: Rng::new(program.len() as u64) };
    cluster.backup(&[]).expect_code(0);
    cluster.standby("standby");
    let traffic = cluster.traffic();
    (0..6).for_each(|_| log.commit(&cluster, "data"));
    cluster.backup(&[]).expect_code(0);
    (0..6).for_each(|_| log.commit(&cluster, "data"));
    drop(traffic);
    let there = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_flush_lsn()";
    cluster.wait_for("data", there, "1");
    let before = log.commits.len();
    // Cut off from its standby, the old primary commits and ships what nobody follows.
    run(cluster.program("pg_ctl").args(["-D", "standby", "-w", "promote"])).expect_code(0);
    cluster.sql("data", "ledger", &["INSERT INTO numbered VALUES (1000)"]);
    archived(&cluster, "data");
    cluster.stop("data");
    cluster.move_source("data", "standby");
    // In the new timeline there is no snapshot at first: the old one leads there.
    (0..4).for_each(|_| log.commit(&cluster, "standby"));
    archived(&cluster, "standby");
    let between = log.commits.len();
    let taken = cluster.backup(&[]).expect_code(0).json();
    assert_eq!(taken["snapshots"][0]["kind"], "incremental", "{taken}");
    (0..4).for_each(|_| log.commit(&cluster, "standby"));
    // A last commit, so that every moment has one behind it.
    let last = log.commits.len();
    log.commit(&cluster, "standby");
    archived(&cluster, "standby");
    run(&mut cluster.recoup(["copy"])).expect_code(0);

    let each = count_from("RECOUP_TEST_MOMENTS", 6).div_ceil(6);
    for (from, until) in [(0, before), (before, between), (between, last)] {
        (0..each).for_each(|_| log.restores(&mut cluster, from, until));
    }
    cluster.restore_to("restored", "latest", &[]).expect_code(0);
    cluster.start_restored("restored");
    let shown = cluster.sql("restored", "ledger", &["SELECT count(*) || ' ' || max(n) FROM numbered"]);
    assert_eq!(shown, format!("{0} {0}", last + 1));
    assert_sound(&mut cluster, "restored");
    // What the old primary wrote alone is still there for whoever looks.
    let points = run(&mut cluster.recoup(["points", "ledger", "--json"])).json();
    let logs = points["sources"][0]["log"].as_array().unwrap();
    let has = |timeline: &str| logs.iter().any(|log| log["history"].as_str().unwrap().ends_with(timeline));
    assert!(has("-00000001") && has("-00000002"), "{points}");
    run(&mut cluster.recoup(["verify"])).expect_code(0);
}

#[test]
fn either_side_of_a_switch_of_15_comes_back() {
    if needs("postgres15") && needs("setpriv") {
        either_side_of_a_switch_comes_back("postgres15");
    }
}

#[test]
fn either_side_of_a_switch_of_18_comes_back() {
    if needs("postgres18") && needs("setpriv") {
        either_side_of_a_switch_comes_back("postgres18");
    }
}
