//! Drills and restores that are killed at any moment: their starts stay, and the next command closes them.

use super::{
    ENDLESS, POLICY, body_of, drill, drill_command, newest_pair, records_on, scratch_left, set_policy, site_with,
    until_restored,
};
use crate::{
    site::{Site, names_in},
    support::{Run, count_from, run},
};
use recoup::world::Stopwatch;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    thread,
};

/// The numbers of starts without an end.
fn open_starts(records: &[Value]) -> BTreeSet<u64> {
    let numbers = |field: &str, phase: &str| -> BTreeSet<u64> {
        records.iter().filter(|record| record["phase"] == phase).filter_map(|record| record[field].as_u64()).collect()
    };
    &numbers("number", "start") - &numbers("closes", "end")
}

fn restore_command(site: &Site, round: u64) -> Command {
    site.restore_command("latest", &site.path().join(format!("out-{round}")))
}

/// The next command, whatever it is.
fn next(site: &Site, round: u64) -> Run {
    match round % 3 {
        0 => drill(site, &[]),
        1 => site.run(&["backup"]),
        _ => run(&mut restore_command(site, round + 1_000)),
    }
}

fn strike(mut command: Command, usual: std::time::Duration, round: u64) {
    // Spread evenly over the usual time and a little more, in an order that has no rhythm.
    let share = (round as f64 * 0.618_033_988_75).fract() * 1.1;
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(usual.mul_f64(share));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_drill_stays_on_record_and_leaves_no_plaintext() {
    let site = Site::new(30_000, &["a", "b", "c"]);
    set_policy(&site, POLICY);
    site.run(&["backup"]).expect_code(0);
    let stopwatch = Stopwatch::start();
    drill(&site, &[]).expect_code(0);
    let usual = stopwatch.elapsed();
    let mut aborted = 0;
    for round in 0..count_from("RECOUP_TEST_KILLS", 10) * 2 / 5 + 2 {
        strike(drill_command(&site, &[]), usual, round);
        let left = scratch_left(&site);
        let shown = |store: &str| open_starts(&records_on(&site, store, "drill"));
        if !left.is_empty() {
            let holders = ["a", "b", "c"].iter().filter(|store| !shown(store).is_empty()).count();
            assert!(holders >= 2, "round {round}: plaintext without a start on enough stores");
        }
        let running = names_in(&site.path().join("host/state/evidence/running")).len();
        let after = next(&site, round).expect_code(0);
        assert_eq!(scratch_left(&site), [] as [&str; 0], "round {round}");
        for name in &left {
            assert!(after.stderr.contains(name), "round {round}: {name} is not named in {}", after.stderr);
        }
        assert_eq!(names_in(&site.path().join("host/state/evidence/running")), [] as [&str; 0], "round {round}");
        for store in ["a", "b", "c"] {
            assert_eq!(shown(store), BTreeSet::new(), "round {round}, store {store}");
        }
        aborted += running;
    }
    let records = records_on(&site, "b", "drill");
    let closed = records.iter().filter(|record| record["verdict"] == "aborted").count();
    assert!(aborted > 0 && closed <= aborted, "{closed} of {aborted} killed drills are closed as aborted");
}

#[test]
fn a_killed_restore_is_closed_by_the_next_command() {
    let site = Site::new(30_000, &["a", "b", "c"]);
    site.run(&["backup"]).expect_code(0);
    let stopwatch = Stopwatch::start();
    run(&mut restore_command(&site, 999)).expect_code(0);
    let usual = stopwatch.elapsed();
    for round in 0..count_from("RECOUP_TEST_KILLS", 10) / 5 + 2 {
        strike(restore_command(&site, round), usual, round);
        next(&site, round).expect_code(0);
        assert_eq!(names_in(&site.path().join("host/state/evidence/running")), [] as [&str; 0], "round {round}");
        assert_eq!(open_starts(&records_on(&site, "a", "restore")), BTreeSet::new(), "round {round}");
        // What an interrupted restore left is its own business, and the operator's.
        let _ = fs::remove_dir_all(site.path().join(format!("out-{round}")));
    }
}

#[test]
fn plaintext_of_a_killed_drill_is_removed_and_named() {
    let site = site_with(ENDLESS);
    for round in 0..3 {
        set_policy(&site, ENDLESS);
        let mut child = drill_command(&site, &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let directory = until_restored(&site, &mut child);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(directory.join("ledger.db").exists());
        let records = records_on(&site, "a", "drill");
        let start = records.last().expect("the start is on record");
        assert_eq!(start["phase"], "start");
        assert_eq!(body_of(&site, "a", start).result["restored_into"], directory.to_str().unwrap());
        set_policy(&site, POLICY);
        let after = next(&site, round).expect_code(0);
        assert!(after.stderr.contains(directory.to_str().unwrap()), "{after:?}");
        assert!(!directory.exists());
        let records = records_on(&site, "c", "drill");
        let end = records.iter().find(|record| record["closes"] == start["number"]).expect("it is closed");
        assert_eq!((&end["verdict"], &end["measured"]), (&"aborted".into(), &start["measured"]));
    }
    drill(&site, &[]).expect_code(0);
    assert_eq!(newest_pair(&site, "a", "drill").1["verdict"], "passed");
}
