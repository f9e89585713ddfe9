//! An archive that did not work for long, and then does: everything that waits is shipped, each file once.

use super::cluster::{BALANCED, Cluster, LEDGER};
use crate::{
    needs::needs,
    support::{count_from, files_below, run},
};
use std::{collections::BTreeMap, fs};

/// The files of the log on a store, with the runs that stored them; and how many records commit them.
fn stored(cluster: &Cluster, store: &str) -> (BTreeMap<String, Vec<String>>, usize) {
    let (mut files, mut records): (BTreeMap<String, Vec<String>>, usize) = (BTreeMap::new(), 0);
    for object in files_below(&cluster.path(store).join("sources/ledger/log")) {
        let name = object.file_name().unwrap().to_str().unwrap().to_owned();
        match name.rsplit_once('-').unwrap() {
            (_, run) if run.ends_with(".json") => records += 1,
            (file, run) => files.entry(file.to_owned()).or_default().push(run.to_owned()),
        }
    }
    (files, records)
}

#[test]
fn a_backlog_is_drained_while_a_store_is_dead() {
    if !(needs("postgres18") && needs("setpriv")) {
        return;
    }
    let segments = count_from("RECOUP_TEST_SEGMENTS", 60) as usize;
    let mut cluster = Cluster::with("postgres18", &["--wal-segsize=1"]);
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET autovacuum = off", "CREATE DATABASE ledger"]);
    cluster.sql("data", "ledger", LEDGER);
    cluster.sql("data", "ledger", &["CREATE TABLE numbered (n int PRIMARY KEY)"]);
    cluster.backup(&[]).expect_code(0);
    // Files come and go while any is on its way.
    cluster.drained("data");
    let (before, _) = stored(&cluster, "a");
    fs::write(cluster.path("broken"), "").unwrap();
    let waiting = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    // Half of them full, the others with a commit and nothing else.
    let mut rows = 0;
    loop {
        rows += 1;
        let row = format!("INSERT INTO numbered VALUES ({rows})");
        let more = "INSERT INTO filler SELECT g, md5(g::text) || md5((g + 1)::text) FROM generate_series(1, 9000) g";
        cluster.sql("data", "ledger", &[&row, "SELECT pg_switch_wal()", more]);
        if cluster.sql("data", "postgres", &[waiting]).parse::<usize>().unwrap() >= segments {
            break;
        }
    }
    let waits = fs::read_dir(cluster.path("data/pg_wal/archive_status")).unwrap().map(|entry| entry.unwrap());
    let waits = waits.filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".ready")?.to_lowercase()));
    let waits: Vec<String> = waits.filter(|name| name.len() == 24).collect();
    assert!(waits.len() >= segments, "{}", waits.len());
    // One store is dead when the others may take it; the host has forgotten what it knew halfway.
    fs::rename(cluster.path("c"), cluster.path("aside")).unwrap();
    fs::remove_file(cluster.path("R/state/sources/ledger/archive.json")).unwrap();
    fs::remove_file(cluster.path("broken")).unwrap();
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    let time = recoup::world::Stopwatch::start();
    cluster.drained("data");
    let seconds = time.seconds();
    assert_eq!(cluster.sql("data", "postgres", &["SELECT failed_count > 0 FROM pg_stat_archiver"]), "t");
    for store in ["a", "b"] {
        let (files, records) = stored(&cluster, store);
        for name in &waits {
            assert_eq!(files.get(name).map(Vec::len), Some(1), "{name} on {store}: {files:?}");
        }
        assert!(files.values().all(|runs| runs.len() == 1), "{files:?}");
        // Each push ships what waits behind its own file: there are far fewer records than files.
        let new = files.len() - before.len();
        assert!(records < before.len() + new.div_ceil(64) + 6, "{records} records of {new} files in {seconds} s");
    }
    // The server's own order is the order in which they are given back, and a second push of any changes nothing.
    let (known, records) = stored(&cluster, "a");
    for name in [&waits[0], &waits[waits.len() / 2]] {
        let path = cluster.path("data/pg_wal").join(name.to_uppercase());
        if path.exists() {
            run(cluster.recoup(["archive", "push", "ledger"]).arg(path)).expect_code(0);
        }
    }
    assert_eq!(stored(&cluster, "a"), (known.clone(), records));
    // The dead store comes back as it was, and is level then; it alone restores all of it.
    fs::rename(cluster.path("aside"), cluster.path("c")).unwrap();
    run(&mut cluster.recoup(["verify"])).expect_code(1);
    run(&mut cluster.recoup(["copy"])).expect_code(0);
    run(&mut cluster.recoup(["verify"])).expect_code(0);
    assert_eq!(stored(&cluster, "c"), (known, records));
    for store in ["a", "b"] {
        fs::rename(cluster.path(store), cluster.path(&format!("gone-{store}"))).unwrap();
    }
    let restored = cluster.restore_to("restored", "latest", &["--fetch-log"]);
    assert!(restored.code < 2, "{restored:?}");
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM numbered"]), rows.to_string());
    assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
}
