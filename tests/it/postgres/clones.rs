//! Two copies of one server on one timeline, both followed into one repository: that is said, and nothing of either is
//! lost.

use super::{
    care::check,
    cluster::Cluster,
    follower::{Follower, eventually, quiet_with},
};
use crate::{needs::needs, support::run};
use std::{collections::BTreeMap, fs};

/// A copy of the server and of the host's configuration, as a copied machine has them. Both write on from the same place.
fn twins(program: &str, options: &[&str]) -> Cluster {
    let mut cluster = quiet_with(program, options);
    let follower = Follower::start(&cluster, &["--create-slot"]);
    cluster.wait_for("data", "SELECT count(*) FROM pg_stat_replication", "1");
    assert!(cluster.backup(&[]).code < 2);
    assert_eq!(follower.end(), 0);
    cluster.stop("data");
    run(cluster.as_owner("cp").args(["-a", "data", "twin"])).expect_code(0);
    run(cluster.as_owner("cp").args(["-a", "R", "twin.R"])).expect_code(0);
    cluster.configure("twin", "");
    let config = fs::read_to_string(cluster.path("twin.R/recoup.toml")).unwrap();
    let (data, twin) = (cluster.path("data").display().to_string(), cluster.path("twin").display().to_string());
    let config = config.replace(&format!("{data}\""), &format!("{twin}\""));
    let config = config.replace(&format!("{data}.socket"), &format!("{twin}.socket"));
    fs::write(cluster.path("twin.R/recoup.toml"), config).unwrap();
    cluster.start("data");
    cluster.start("twin");
    cluster
}

/// Names of pieces and whole segments on a store, with what is in them.
fn stored(cluster: &Cluster) -> Vec<String> {
    let mut found: Vec<String> = crate::support::files_below(&cluster.path("a/sources/ledger/log"))
        .into_iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name.ends_with(".age"))
        .collect();
    found.sort();
    found
}

fn clones_are_told_apart(options: &[&str]) {
    let mut cluster = twins("postgres15", options);
    let (first, second) = (Follower::start(&cluster, &[]), Follower::start_with(&cluster, "twin.R/recoup.toml", &[]));
    for server in ["data", "twin"] {
        cluster.wait_for(server, "SELECT count(*) FROM pg_stat_replication", "1");
    }
    // They part: each commits what the other one does not have.
    let before = stored(&cluster).len();
    cluster.sql("data", "ledger", &["INSERT INTO numbered VALUES (1)"]);
    cluster.sql("twin", "ledger", &["INSERT INTO numbered VALUES (2), (3)"]);
    eventually("both ship", || stored(&cluster).len() >= before + 2);
    std::thread::sleep(std::time::Duration::from_secs(2));
    let pieces = stored(&cluster);
    // Nobody picks one of them: what both agree on is offered.
    let refused = cluster.restore_to("restored", "latest", &[]).expect_code(16);
    for word in ["with different contents by the runs", "the nearest before", "snapshot:1"] {
        assert!(refused.stderr.contains(word), "{word}: {refused:?}");
    }
    assert!(!cluster.path("restored").exists());
    // The whole segments of both are kept, and still nobody picks one of them.
    for server in ["data", "twin"] {
        cluster.sql(server, "ledger", &["SELECT pg_switch_wal()", "INSERT INTO numbered VALUES (4)"]);
    }
    let doubled = || {
        let mut files: BTreeMap<String, usize> = BTreeMap::new();
        for name in stored(&cluster).iter().filter(|name| !name.contains(".piece")) {
            *files.entry(name.rsplit_once('-').unwrap().0.to_owned()).or_default() += 1;
        }
        files.into_values().filter(|runs| *runs > 1).count()
    };
    eventually("both are archived", || doubled() > 0);
    assert_eq!((first.end(), second.end()), (0, 0));
    let now = stored(&cluster);
    assert!(pieces.iter().all(|piece| now.contains(piece)), "{pieces:?} {now:?}");
    let refused = cluster.restore_to("restored", "latest", &[]).expect_code(16);
    assert!(refused.stderr.contains("with different contents by the runs"), "{refused:?}");
    let verified = run(&mut cluster.recoup(["verify", "--json"]));
    assert!(verified.stderr.contains("with different contents; all are kept"), "{verified:?}");
    assert!(check(&cluster).1.contains("critical log-forked"));
    // What both agree on comes back.
    let restored = cluster.restore_to("restored", "snapshot:1", &["--fetch-log"]);
    assert!(restored.code < 2, "{restored:?}");
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]), "0");
    // One of them is stopped, and a snapshot of the other needs nothing of what both wrote.
    cluster.stop("restored");
    cluster.stop("twin");
    let first = Follower::start(&cluster, &[]);
    cluster.wait_for("data", "SELECT count(*) FROM pg_stat_replication", "1");
    assert!(cluster.backup(&[]).code < 2);
    assert!(!check(&cluster).1.contains("critical log-forked"));
    cluster.sql("data", "ledger", &["INSERT INTO numbered VALUES (5)", "SELECT pg_switch_wal()"]);
    assert_eq!(first.end(), 0);
    let restored = cluster.restore_to("after", "latest", &["--fetch-log"]);
    assert!(restored.code < 2, "{restored:?}");
    cluster.start_restored("after");
    assert_eq!(cluster.sql("after", "ledger", &["SELECT count(*) FROM numbered"]), "3");
}

#[test]
fn clones_that_are_followed_are_told_apart() {
    if needs("postgres15") && needs("setpriv") {
        clones_are_told_apart(&[]);
    }
}

#[test]
fn clones_with_large_segments_are_told_apart() {
    if needs("postgres15") && needs("setpriv") {
        clones_are_told_apart(super::LARGE_SEGMENTS);
    }
}
