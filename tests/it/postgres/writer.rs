//! Somebody who commits numbers one after the other, whatever is killed: the test's own record of what was acknowledged.

use super::cluster::{Cluster, as_owner};
use crate::support::run;
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Writes to the first server until it is ended.
pub(super) struct Writer {
    acknowledged: Arc<AtomicU64>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(cluster: &Cluster) -> Self {
        cluster.sql("data", "ledger", &["CREATE TABLE numbered (n int PRIMARY KEY)"]);
        let (acknowledged, end) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let psql = cluster.program("psql");
        let (program, dir) = (psql.get_args().last().unwrap_or(psql.get_program()).to_owned(), cluster.path(""));
        let (counted, ends, socket) = (acknowledged.clone(), end.clone(), cluster.path("data.socket"));
        let thread = thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                // A number that nobody acknowledged is tried again: it may be there.
                let next = counted.load(Ordering::SeqCst) + 1;
                let mut psql: Command = as_owner(&dir, &program);
                psql.arg("-h").arg(&socket).args(["-U", "postgres", "-d", "ledger", "-X", "-q"]);
                psql.args(["-c", &format!("INSERT INTO numbered VALUES ({next}) ON CONFLICT DO NOTHING")]);
                if run(&mut psql).code == 0 {
                    counted.store(next, Ordering::SeqCst);
                } else {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        });
        Writer { acknowledged, end, thread: Some(thread) }
    }

    /// All numbers up to this one are committed. The next one may be.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Ends it; gives the last number.
    pub(super) fn end(mut self) -> u64 {
        self.stop();
        self.acknowledged()
    }

    fn stop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The numbers that a server has: all from 1 to this one.
#[track_caller]
pub(super) fn numbers(cluster: &Cluster, server: &str) -> u64 {
    let told = cluster.sql(server, "ledger", &["SELECT count(*) || ' ' || coalesce(max(n), 0) FROM numbered"]);
    let (count, last) = told.split_once(' ').unwrap();
    assert_eq!(count, last, "numbers are missing");
    count.parse().unwrap()
}
