//! The proof that a restored server is whole, by PostgreSQL's own programs.

use super::cluster::{BALANCED, Cluster};
use crate::support::run;
use std::fs;

/// Of a running server: its tables and indexes hang together, a copy of all of its files with their digests can be made
/// and verified, and after a clean end every page has the right checksum. The server is stopped then.
#[track_caller]
pub(super) fn assert_sound(cluster: &mut Cluster, name: &str) {
    assert_eq!(cluster.sql(name, "ledger", &[BALANCED]), "t", "{name}");
    let socket = cluster.path(&format!("{name}.socket"));
    let mut amcheck = cluster.program("pg_amcheck");
    amcheck.arg("-h").arg(&socket).args(["-U", "postgres", "--all", "--install-missing", "--heapallindexed"]);
    run(&mut amcheck).expect_code(0);
    let copy = format!("{name}.copy");
    let mut basebackup = cluster.program("pg_basebackup");
    basebackup.arg("-h").arg(&socket).args(["-U", "postgres", "-D", &copy, "-c", "fast", "-X", "fetch"]);
    run(basebackup.args(["--manifest-checksums=SHA256"])).expect_code(0);
    run(cluster.program("pg_verifybackup").args(["--exit-on-error", &copy])).expect_code(0);
    fs::remove_dir_all(cluster.path(&copy)).unwrap();
    cluster.stop(name);
    run(cluster.program("pg_checksums").args(["--check", "-D", name])).expect_code(0);
}
