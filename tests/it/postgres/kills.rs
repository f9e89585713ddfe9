//! recoup and PostgreSQL are killed at random moments while transfers run: everything that was acknowledged comes back,
//! and the next snapshot, push and restore work.

use super::{
    cluster::{BALANCED, Cluster, Traffic, kill, processes},
    follower::{Follower, eventually},
    writer::{Writer, numbers},
};
use crate::{
    needs::needs,
    simulation::random::Rng,
    support::{count_from, run},
};
use recoup::world::Stopwatch;
use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Incremental,
    Full,
    Restore,
    Copy,
    Prune,
    Push,
    Fetch,
    Follow,
    Postmaster,
    Backend,
}

/// The first five are short programs that are started to be killed.
const SHORT: [Victim; 5] = [Victim::Incremental, Victim::Full, Victim::Restore, Victim::Copy, Victim::Prune];
const VICTIMS: [Victim; 10] = [
    Victim::Incremental,
    Victim::Postmaster,
    Victim::Push,
    Victim::Restore,
    Victim::Backend,
    Victim::Full,
    Victim::Follow,
    Victim::Copy,
    Victim::Fetch,
    Victim::Prune,
];
/// As many snapshots are kept.
const KEPT: usize = 4;

struct Siege {
    cluster: Cluster,
    rng: Rng,
    writer: Writer,
    traffic: Traffic,
    follower: Option<Follower>,
    /// Snapshots that were acknowledged, each with the first and the last number that it may end with.
    acknowledged: Vec<(u64, u64, u64)>,
    /// How long each command takes when it is left alone.
    usual: BTreeMap<Victim, Duration>,
}

impl Siege {
    fn begin(program: &str, seed: u64) -> Self {
        let mut cluster = super::ledger(program);
        cluster.stop("data");
        cluster.configure("data", "max_slot_wal_keep_size = '1GB'\n");
        cluster.start("data");
        cluster.name_programs();
        fs::write(cluster.path("R/policies/default.toml"), format!("[retention]\nkeep_last = {KEPT}\n")).unwrap();
        let follower = Some(Follower::start(&cluster, &["--create-slot"]));
        cluster.wait_for("data", "SELECT count(*) FROM pg_stat_replication", "1");
        let (writer, traffic) = (Writer::start(&cluster), cluster.traffic());
        let (acknowledged, usual) = (Vec::new(), BTreeMap::new());
        let mut siege = Siege { cluster, rng: Rng::new(seed), writer, traffic, follower, acknowledged, usual };
        for victim in SHORT {
            let (first, time) = (siege.writer.acknowledged(), Stopwatch::start());
            let ended = run(&mut siege.command(victim));
            siege.usual.insert(victim, time.elapsed());
            assert!(ended.code < 2, "{victim:?}: {ended:?}");
            siege.note(victim, &ended.stdout, first);
        }
        siege.forget_restored();
        siege
    }

    fn command(&mut self, victim: Victim) -> Command {
        match victim {
            Victim::Full => self.cluster.recoup(["backup", "ledger", "--full", "--json"]),
            Victim::Restore => {
                let fixed = ["restore", "ledger", "--identity", "R/custodian.age", "--to", "restored", "--fetch-log"];
                self.cluster.recoup(fixed)
            }
            Victim::Copy => {
                // So that there is something to bring.
                drop(fs::remove_dir_all(self.cluster.path("c/sources/ledger/packs")));
                self.cluster.recoup(["copy", "--json"])
            }
            Victim::Prune => self.cluster.recoup(["prune", "ledger", "--now", "--yes", "--confirm=ledger"]),
            _ => self.cluster.recoup(["backup", "ledger", "--json"]),
        }
    }

    /// Keeps what a snapshot promises.
    fn note(&mut self, victim: Victim, stdout: &str, first: u64) {
        if matches!(victim, Victim::Full | Victim::Incremental) {
            let taken: serde_json::Value = serde_json::from_str(stdout).unwrap();
            let seq = taken["snapshots"][0]["seq"].as_u64().unwrap();
            // The number after the last acknowledged one may be committed as well.
            self.acknowledged.push((seq, first, self.writer.acknowledged() + 1));
        }
    }

    fn forget_restored(&self) {
        for name in ["restored", "restored.socket"] {
            drop(fs::remove_dir_all(self.cluster.path(name)));
        }
    }

    fn delay(&mut self, usual: Duration) -> Duration {
        usual.mul_f64(self.rng.below(1100) as f64 / 1000.0)
    }

    /// Kills a program of recoup's as soon as it appears, and a little later.
    fn kill_when_seen(&mut self, words: &str) {
        let home = self.cluster.path("").display().to_string();
        let is_it = |command: &str| command.starts_with(&home) && command.contains(words);
        let time = Stopwatch::start();
        let delay = Duration::from_micros(self.rng.below(30_000));
        let seen = loop {
            if let Some(found) = processes().into_iter().find(|process| is_it(&process.command)) {
                break found.number;
            }
            assert!(time.elapsed() < Duration::from_secs(60), "nobody does {words}");
        };
        thread::sleep(delay);
        kill(seen);
    }

    #[track_caller]
    fn strike(&mut self, victim: Victim) {
        match victim {
            Victim::Push => {
                self.cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
                self.kill_when_seen("archive push");
            }
            Victim::Fetch => self.strike_fetch(),
            Victim::Follow => {
                self.follower.take().into_iter().for_each(Follower::kill);
                self.follower = Some(Follower::start(&self.cluster, &[]));
            }
            Victim::Postmaster => {
                self.cluster.kill("data");
                self.cluster.start("data");
                self.traffic = self.cluster.traffic();
            }
            Victim::Backend => {
                let backend = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' LIMIT 1";
                kill(self.cluster.sql("data", "postgres", &[backend]).parse().unwrap());
                eventually("the server comes back", || !self.traffic.is_running());
                eventually("the server comes back", || self.cluster.try_sql("data", "ledger", &["SELECT 1"]).is_some());
                self.traffic = self.cluster.traffic();
            }
            short => {
                let delay = self.delay(self.usual[&short]);
                let (first, mut command) = (self.writer.acknowledged(), self.command(short));
                let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
                thread::sleep(delay);
                child.kill().unwrap();
                let ended = child.wait_with_output().unwrap();
                if ended.status.code().is_some() {
                    assert!(ended.status.code().unwrap() < 2, "{victim:?}: {ended:?}");
                    self.note(short, &String::from_utf8(ended.stdout).unwrap(), first);
                }
            }
        }
    }

    /// A restored server whose log cannot be fetched stops, and goes on when it is started again.
    fn strike_fetch(&mut self) {
        let first = self.writer.acknowledged();
        self.cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
        self.cluster.drained("data");
        let restored = self.cluster.restore_to("restored", "latest", &[]);
        assert!(restored.code < 2, "{restored:?}");
        self.cluster.configure("restored", "");
        let mut start = self.cluster.program("pg_ctl");
        start.args(["-D", "restored", "-l", "restored.log", "-W", "start"]);
        assert!(start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
        self.kill_when_seen("archive fetch");
        let data = self.cluster.path("restored");
        let has_ended = || !data.join("postmaster.pid").exists();
        let is_up = || self.cluster.try_sql("restored", "postgres", &["SELECT 1"]).is_some();
        eventually("it stops or goes on", || has_ended() || is_up());
        if has_ended() {
            self.cluster.start("restored");
        }
        self.cluster.wait_for("restored", "SELECT pg_is_in_recovery()", "f");
        assert!(numbers(&self.cluster, "restored") >= first);
        let mut stop = self.cluster.program("pg_ctl");
        run(stop.args(["-D", "restored", "-m", "immediate", "-w", "stop"])).expect_code(0);
    }

    /// The next of everything works.
    fn recover(&mut self, context: &str) {
        self.forget_restored();
        let follower = self.follower.as_mut().unwrap();
        assert!(follower.is_running(), "{context}: {}", follower.said());
        let first = self.writer.acknowledged();
        let taken = self.cluster.backup(&[]);
        assert!(taken.code < 2, "{context}: {taken:?}");
        self.note(Victim::Incremental, &taken.stdout, first);
        self.cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
        self.cluster.drained("data");
        eventually("it goes on", || self.writer.acknowledged() > first);
    }

    /// Every snapshot that is kept, or the newest of them, and everything until now.
    fn end(mut self, most: usize) {
        drop(self.traffic);
        let last = self.writer.end();
        self.cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
        self.cluster.drained("data");
        assert_eq!(self.follower.take().unwrap().end(), 0);
        run(&mut self.cluster.recoup(["copy"])).expect_code(0);
        run(&mut self.cluster.recoup(["verify", "--all"])).expect_code(0);
        let kept = self.acknowledged.split_off(self.acknowledged.len().saturating_sub(KEPT.min(most)));
        let kept = kept.into_iter().map(|(seq, first, last)| (format!("snapshot:{seq}"), first, last));
        for (target, first, last) in kept.chain([("latest".to_owned(), last, last + 1)]) {
            self.cluster.restore_to("restored", &target, &["--fetch-log"]).expect_code(0);
            self.cluster.start_restored("restored");
            let found = numbers(&self.cluster, "restored");
            assert!((first..=last).contains(&found), "{target} has {found}, not {first} to {last}");
            assert_eq!(self.cluster.sql("restored", "ledger", &[BALANCED]), "t", "{target}");
            self.cluster.stop("restored");
            run(self.cluster.program("pg_checksums").args(["--check", "-D", "restored"])).expect_code(0);
            fs::remove_dir_all(self.cluster.path("restored")).unwrap();
        }
    }
}

/// Every second kill is this version's; both together have every kind of victim.
fn besiege(program: &str, first: u64) {
    let kills = count_from("RECOUP_TEST_KILLS", 10);
    let mut siege = Siege::begin(program, first);
    for round in (first..kills).step_by(2) {
        // In a long run each version has every victim.
        let victim = VICTIMS[(round + round / VICTIMS.len() as u64) as usize % VICTIMS.len()];
        let context = format!("round {round}: {victim:?}");
        let time = Stopwatch::start();
        siege.strike(victim);
        siege.recover(&context);
        say(&format!("{context}: {:.1} s", time.seconds()));
    }
    siege.end(if kills > 20 { KEPT } else { 1 });
}

/// Shown only when the test fails.
#[expect(clippy::print_stderr, reason = "a failing test says which round it was")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[test]
fn killed_beside_15() {
    if needs("postgres15") && needs("setpriv") {
        besiege("postgres15", 0);
    }
}

#[test]
fn killed_beside_18() {
    if needs("postgres18") && needs("setpriv") {
        besiege("postgres18", 1);
    }
}
