//! The real process is killed at random moments while writers keep writing: nothing acknowledged is lost, nothing
//! of the application's is touched, nothing is left lying about.

use crate::{
    site::{Restored, Site, assert_whole, database_sha256_of, names_in, seq_of},
    support::{count_from, recoup, run},
    writing::{Writing, set_journal_mode},
};
use recoup::world::Stopwatch;
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// How long anybody waits for a lock on the database: far longer than anybody may hold one.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Full,
    Incremental,
    Copy,
    Restore,
}

const VICTIMS: [Victim; 4] = [Victim::Incremental, Victim::Full, Victim::Restore, Victim::Copy];

/// A site under siege.
struct Siege {
    site: Site,
    writing: Writing,
    /// The first restore of every snapshot that was acknowledged.
    acknowledged: BTreeMap<u64, Restored>,
    /// How long each command takes when it is left alone.
    usual: BTreeMap<Victim, Duration>,
}

impl Siege {
    fn begin(journal_mode: &str) -> Self {
        let site = Site::new(8_000, &["a", "b", "c"]);
        set_journal_mode(&Connection::open(site.ledger()).unwrap(), journal_mode);
        let writing = Writing::start(&site, "writer", journal_mode, PATIENCE);
        let mut siege = Siege { site, writing, acknowledged: BTreeMap::new(), usual: BTreeMap::new() };
        for victim in [Victim::Full, Victim::Incremental, Victim::Restore, Victim::Copy] {
            let mut command = siege.command(victim, 0);
            let stopwatch = Stopwatch::start();
            let ended = run(&mut command).expect_code(0);
            siege.usual.insert(victim, stopwatch.elapsed());
            if matches!(victim, Victim::Full | Victim::Incremental) {
                siege.acknowledge(seq_of(&ended), 0);
            }
        }
        siege
    }

    fn out(&self, round: u64) -> PathBuf {
        self.site.path().join(format!("out-{round}"))
    }

    /// The newest transfer that is committed for certain.
    fn committed(&self) -> i64 {
        let connection = Connection::open(self.site.ledger()).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.query_row("select max(id) from transfer", [], |row| row.get(0)).unwrap()
    }

    fn newest(&self) -> u64 {
        *self.acknowledged.last_key_value().unwrap().0
    }

    fn command(&self, victim: Victim, round: u64) -> Command {
        match victim {
            Victim::Full => self.site.command(&["backup", "--full", "--json"]),
            Victim::Incremental => self.site.command(&["backup", "--json"]),
            Victim::Restore => self.site.restore_command(&format!("snapshot:{}", self.newest()), &self.out(round)),
            Victim::Copy => {
                // So that there is something to bring.
                fs::remove_dir_all(self.site.store("c").join("sources")).unwrap();
                self.site.command(&["copy", "--json"])
            }
        }
    }

    /// Restores what was acknowledged for the first time. It holds at least what was committed before its run.
    #[track_caller]
    fn acknowledge(&mut self, seq: u64, committed_before: i64) {
        let restored = self.site.restored(seq);
        assert!(restored.last_transfer >= committed_before, "snapshot {seq} lacks what was committed before it");
        assert!(restored.last_transfer <= self.committed(), "snapshot {seq} is of the future");
        assert!(self.acknowledged.insert(seq, restored).is_none(), "snapshot {seq} was acknowledged twice");
    }

    fn strike(&mut self, round: u64) {
        let victim = VICTIMS[round as usize % VICTIMS.len()];
        // Spread evenly over the usual time and a little more, in an order that has no rhythm.
        let share = (round as f64 * 0.618_033_988_75).fract() * 1.1;
        let delay = self.usual[&victim].mul_f64(share);
        let committed = self.committed();
        let mut command = self.command(victim, round);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(delay);
        child.kill().unwrap();
        let ended = child.wait_with_output().unwrap();
        let context = format!("round {round}: {victim:?} after {delay:?}, {}", ended.status);
        writeln_stderr(&context);
        if matches!(victim, Victim::Full | Victim::Incremental) && matches!(ended.status.code(), Some(0 | 1)) {
            let json: serde_json::Value = serde_json::from_slice(&ended.stdout).unwrap();
            self.acknowledge(json["snapshots"][0]["seq"].as_u64().unwrap(), committed);
        }
        self.check_application();
        self.check_truth(victim, &context);
        if victim == Victim::Restore {
            self.finish_restore(round);
        }
        self.check_acknowledged(round);
        self.recover(&context);
    }

    /// The database is whole, and nobody holds a lock on it that the writers do not.
    fn check_application(&mut self) {
        self.writing.assert_running();
        assert_whole(&self.site.ledger());
        let connection = Connection::open(self.site.ledger()).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch("begin exclusive; commit").unwrap();
        for name in names_in(&self.site.path().join("data")) {
            let known = ["ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-journal"];
            assert!(known.contains(&name.as_str()), "{name} was left beside the database");
        }
    }

    /// `verify` finds nothing but what a killed run explains, and what it calls whole restores.
    fn check_truth(&self, victim: Victim, context: &str) {
        let verified = self.site.run(&["verify", "--all", "--json"]);
        let json = verified.json();
        let findings = json["findings"].as_array().unwrap().clone();
        for finding in &findings {
            let explained = match victim {
                Victim::Copy => finding["store"] == "c",
                _ => finding["problem"] == "behind",
            };
            assert!(explained, "{context}: {finding}");
        }
        let expected: &[i32] = match (victim, findings.is_empty()) {
            (_, true) => &[0],
            (Victim::Copy, false) => &[1, 2],
            (_, false) => &[1],
        };
        assert!(expected.contains(&verified.code), "{context}: exit {} with {json}", verified.code);
        for store in ["a", "b", "c"] {
            let dir = self.site.store(store).join("sources/ledger/snapshots");
            let committed = names_in(&dir).into_iter().filter(|id| dir.join(id).join("inventory.json").exists());
            let Some(newest) = committed.max() else { continue };
            if findings.iter().any(|finding| finding["store"] == store && finding["problem"] != "behind") {
                continue;
            }
            let out = tempfile::tempdir_in(self.site.path()).unwrap();
            let mut command = recoup(self.site.path());
            command.args(["restore", "ledger", "--target", &format!("snapshot:{newest}")]);
            command.arg("--store").arg(format!("file://{}", self.site.store(store).display()));
            command.arg("--identity").arg(self.site.identity()).arg("--to").arg(out.path());
            run(&mut command).expect_code(0);
            assert_whole(&out.path().join("ledger.db"));
        }
    }

    /// The interrupted restore, run again, leaves nothing of the interrupted one.
    fn finish_restore(&self, round: u64) {
        let out = self.out(round);
        let newest = self.newest();
        if names_in(&out).iter().all(|name| name == ".recoup-partial") {
            run(&mut self.command(Victim::Restore, round)).expect_code(0);
            assert_eq!(names_in(&out), ["ledger.db"]);
        }
        // Under its own name it stands only when it is whole.
        assert_eq!(database_sha256_of(&out.join("ledger.db")), self.acknowledged[&newest].sha256);
        fs::remove_dir_all(out).unwrap();
    }

    /// A few of the acknowledged snapshots restore as they did at first: the newest and two others, in turn.
    fn check_acknowledged(&self, round: u64) {
        let all: Vec<u64> = self.acknowledged.keys().copied().collect();
        let some = [all.len() - 1, round as usize % all.len(), (round as usize * 7 + 3) % all.len()];
        for seq in some.map(|at| all[at]) {
            assert_eq!(self.site.restored(seq), self.acknowledged[&seq], "snapshot {seq} is not what it was");
        }
    }

    /// `copy` and the next `backup` work, and clear away what the killed run left.
    fn recover(&mut self, context: &str) {
        self.site.run(&["copy"]).expect_code(0);
        self.site.run(&["verify", "--all"]).expect_code(0);
        let committed = self.committed();
        let backup = self.site.run(&["backup", "--json"]).expect_code(0);
        self.acknowledge(seq_of(&backup), committed);
        self.check_leftovers(context);
    }

    fn check_leftovers(&self, context: &str) {
        let mut names = names_in(&self.site.state());
        names.retain(|name| !name.starts_with("digests-"));
        assert_eq!(names, ["base.json", "known.json", "known.lock", "lock"], "{context}: left in the state");
        let digests = names_in(&self.site.state()).len() - names.len();
        assert_eq!(digests, 1, "{context}: {digests} digest files");
        assert_eq!(names_in(&self.site.path().join("host/state")), ["evidence", "sources"], "{context}");
    }

    fn end(self) {
        let report = self.writing.end();
        assert_eq!(report.busy, 0, "{report:?}");
        for (seq, first) in &self.acknowledged {
            assert_eq!(self.site.restored(*seq), *first, "snapshot {seq} is not what it was");
        }
        let listed = self.site.run(&["list", "--json"]).expect_code(0).json();
        let listed: Vec<u64> =
            listed["snapshots"].as_array().unwrap().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
        for seq in self.acknowledged.keys() {
            assert!(listed.contains(seq), "snapshot {seq} is not listed");
        }
    }
}

/// Shown only when the test fails.
#[expect(clippy::print_stderr, reason = "a failing test says which round it was")]
fn writeln_stderr(line: &str) {
    eprintln!("{line}");
}

fn besiege(journal_mode: &str, first: u64) {
    let kills = count_from("RECOUP_TEST_KILLS", 10);
    let mut siege = Siege::begin(journal_mode);
    // Every second kill is this mode's; each mode has every kind of command killed.
    for round in (first..kills).step_by(2) {
        siege.strike(round / 2 + first * 97);
    }
    siege.end();
}

#[test]
fn killed_beside_a_writer_with_a_write_ahead_log() {
    besiege("wal", 0);
}

#[test]
fn killed_beside_a_writer_with_a_rollback_journal() {
    besiege("delete", 1);
}
