//! Views beside threads and processes that write, and the limits of a lock.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

/// Takes views while two processes and two threads post; every one must balance.
fn take_beside_writers(place: &Place, source: &Sqlite, views: usize) {
    let database = place.database();
    // Connections of this process first: see the trap in the module's documentation.
    let connections = [(); 2].map(|()| {
        let connection = Connection::open(&database).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        connection.query_row("SELECT count(*) FROM posting", [], |_| Ok(())).unwrap();
        connection
    });
    let mut shells = [Shell::open(&database), Shell::open(&database)];
    for shell in &mut shells {
        shell.tell(".keep posting");
    }
    let stop = AtomicBool::new(false);
    let counts = thread::scope(|scope| {
        for connection in connections {
            scope.spawn(|| {
                let connection = connection;
                while !stop.load(Ordering::Relaxed) {
                    connection.execute_batch(&post(1)).unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
            });
        }
        let counts: Vec<i64> = (0..views)
            .map(|_| {
                thread::sleep(Duration::from_millis(30));
                let mut view = source.open().unwrap();
                let first = contract::read_entry(&mut *view, 0);
                thread::sleep(Duration::from_millis(30));
                let second = contract::read_entry(&mut *view, 0);
                view.close().unwrap();
                assert!(first == second, "the view changed");
                place.check(&first)
            })
            .collect();
        stop.store(true, Ordering::Relaxed);
        counts
    });
    assert!(counts.iter().all(|count| *count > 0), "every view balances: {counts:?}");
    assert!(counts.windows(2).any(|pair| pair[0] != pair[1]), "the writers did write: {counts:?}");
}

#[test]
fn views_balance_beside_writers_in_wal_mode() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 2_000);
    take_beside_writers(&place, &place.source(), 6);
}

#[test]
fn views_balance_beside_writers_in_rollback_mode() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 2_000);
    take_beside_writers(&place, &place.source(), 6);
}

#[test]
fn scratch_copies_balance_beside_writers() {
    for mode in ["WAL", "TRUNCATE"] {
        let place = Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 2_000);
        take_beside_writers(&place, &place.source().through_scratch_copy(), 4);
    }
}

#[test]
fn views_balance_beside_processes_that_only_come_and_go() {
    for mode in ["WAL", "DELETE"] {
        let place = Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 2_000);
        let stop = AtomicBool::new(false);
        let (mut good, mut disturbed) = (0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut shell = Shell::open(&place.database());
                    shell.run(&post(2));
                    shell.quit();
                }
            });
            let source = place.source();
            while good < 5 {
                match place.take(&source) {
                    Ok((postings, _)) => {
                        assert!(postings >= 4_000);
                        good += 1;
                    }
                    Err(failure) => {
                        assert!(failure.message.contains("was changed while it was read"), "{failure:?}");
                        disturbed += 1;
                    }
                }
                assert!(disturbed <= 2 * good + 3, "waiting for the application helps: {good} good, {disturbed} not");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn an_application_that_starts_while_an_abandoned_log_is_read_is_not_in_the_way() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(50));
    shell.kill();
    let source = place.source();
    let mut view = source.open().unwrap();
    let before = contract::read_entry(&mut *view, 0);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(2_000));
    shell.run("PRAGMA wal_checkpoint(PASSIVE)");
    shell.run(&post(10));
    assert!(contract::read_entry(&mut *view, 0) == before);
    shell.quit();
    assert!(contract::read_entry(&mut *view, 0) == before);
    view.close().unwrap();
    assert_eq!(place.check(&before), 300);
    assert_eq!(place.take(&source).unwrap().0, 4_320);
}

#[test]
fn wal_mode_has_no_time_limit() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(1));
    let source = place.source_with(|limits| limits.max_read_lock = Duration::from_millis(1));
    let view = source.open().unwrap();
    thread::sleep(Duration::from_millis(30));
    assert_eq!(view.must_end_within(), None);
    shell.run(&post(1));
    view.check().unwrap();
    view.close().unwrap();
}

#[test]
fn the_lock_is_waited_for_and_the_read_begins_when_it_is_there() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 100);
    let mut shell = Shell::open(&place.database());
    shell.run(&format!("BEGIN EXCLUSIVE; {}", post(5)));
    let source = place.source();
    thread::scope(|scope| {
        let opened = scope.spawn(|| source.open().unwrap());
        thread::sleep(Duration::from_millis(200));
        let committed = World::real().now();
        shell.run("COMMIT");
        let view = opened.join().unwrap();
        assert!(view.facts().read_started_at.seconds_since(committed) > -0.06);
        view.close().unwrap();
    });
    assert_eq!(place.take(&source).unwrap().0, 210);
}

#[test]
fn a_scratch_copy_in_rollback_mode_gives_up_in_time_and_leaves_nothing() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 3_000);
    let source = place.source_with(|limits| limits.max_read_lock = Duration::ZERO).through_scratch_copy();
    let failure = source.open().err().unwrap();
    assert_eq!(failure.code, Code::Source);
    assert!(failure.message.contains("max_read_lock = 0s"), "{failure:?}");
    assert_eq!(fs::read_dir(place.limits().scratch_dir).unwrap().count(), 0);
    Shell::open(&place.database()).run(&post(1));
}
