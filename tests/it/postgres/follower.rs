//! A process that follows the ledger's log, in the background.

use super::cluster::Cluster;
use recoup::world::Stopwatch;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::Child,
    thread,
    time::Duration,
};

/// A cluster that archives nothing by itself, and keeps a bounded log for slots.
pub(super) fn quiet(program: &str) -> Cluster {
    quiet_with(program, &[])
}

/// The same, made with options of initdb.
pub(super) fn quiet_with(program: &str, options: &[&str]) -> Cluster {
    let mut cluster = super::ledger_with(program, options);
    cluster.stop("data");
    cluster.configure("data", "archive_mode = off\nmax_slot_wal_keep_size = '1GB'\n");
    cluster.start("data");
    cluster.name_programs();
    cluster.sql("data", "ledger", &["CREATE TABLE numbered (n int PRIMARY KEY)"]);
    cluster
}

/// Somebody who follows the ledger.
pub(super) struct Follower {
    child: Child,
    said: PathBuf,
}

impl Follower {
    pub(super) fn start(cluster: &Cluster, options: &[&str]) -> Self {
        Follower::start_with(cluster, "R/recoup.toml", options)
    }

    /// The same, with another configuration.
    pub(super) fn start_with(cluster: &Cluster, config: &str, options: &[&str]) -> Self {
        let said = cluster.path(&format!("{}.said", config.replace('/', ".")));
        let mut follow = cluster.as_owner(cluster.path("recoup"));
        follow.args(["--config", config, "archive", "follow", "ledger", "--every", "1s"]);
        let child = follow.args(options).stderr(File::create(&said).unwrap()).spawn().unwrap();
        Follower { child, said }
    }

    pub(super) fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap()
    }

    /// Asks it to end, and gives its exit code.
    pub(super) fn end(mut self) -> i32 {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        status.code().unwrap_or_else(|| panic!("{status}: {}", self.said()))
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(super) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let time = Stopwatch::start();
    while !holds() {
        assert!(time.elapsed() < Duration::from_secs(120), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}
