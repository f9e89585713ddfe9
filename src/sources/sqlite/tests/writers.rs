//! Views beside threads and processes that write, and the limits of a lock.

use super::*;
use crate::world::Stopwatch;
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
fn an_application_that_ends_while_it_is_read_loses_nothing() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(50));
    let source = place.source();
    let mut view = source.open().unwrap();
    shell.run(&post(50));
    shell.quit();
    let content = contract::read_entry(&mut *view, 0);
    view.close().unwrap();
    assert_eq!(place.check(&content), 300);
    assert!(place.beside("-wal").exists(), "what the application could not check in stays in the log");
    let (postings, notes) = place.take(&source).unwrap();
    assert_eq!(postings, 400);
    assert!(
        notes.len() == 1 && notes[0].contains("ledger.db-wal") && notes[0].contains("nothing was changed"),
        "{notes:?}"
    );
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
fn an_application_that_starts_while_a_database_at_rest_is_read_is_noticed() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    let source = place.source();
    let mut view = source.open().unwrap();
    let mut shell = Shell::open(&place.database());
    shell.run(&post(50));
    let content = contract::read_entry(&mut *view, 0); // still in the log only: the file is what it was
    assert_eq!(place.check(&content), 200);
    view.check().unwrap();
    shell.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let failure = view.check().unwrap_err();
    assert_eq!(failure.code, Code::Source);
    assert!(view.close().is_err());
    assert_eq!(place.take(&source).unwrap().0, 300);
}

#[test]
fn a_reader_in_rollback_mode_gives_up_in_time_whatever_it_is_doing() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 3_000);
    let source = place.source_with(|limits| limits.max_read_lock = Duration::from_millis(300));
    let mut shell = Shell::open(&place.database());
    let mut view = source.open().unwrap();
    let must_end_within = view.must_end_within().unwrap();
    assert!(must_end_within <= Duration::from_millis(300) && must_end_within > Duration::ZERO);
    let waiting = Stopwatch::start();
    let mut calls = 0;
    let failure = view
        .read(0, &mut [(0, 200), (0, 200)].into_iter(), &mut |_, _| {
            calls += 1;
            if calls == 1 {
                shell.run(&post(1)); // a writer gets through while this reader is stuck here
            }
            Ok(())
        })
        .unwrap_err();
    let waited = waiting.elapsed();
    assert!(waited >= Duration::from_millis(150) && waited < Duration::from_secs(5), "{waited:?} {failure:?}");
    assert_eq!(failure.code, Code::Source);
    assert!(failure.message.contains("max_read_lock = 300ms"), "{failure:?}");
    assert!(failure.next_step.unwrap().contains("WAL mode"));
    assert!(view.check().is_err() && view.close().is_err());
}

#[test]
fn a_dropped_view_lets_writers_go_on_at_once() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 100);
    let mut shell = Shell::open(&place.database());
    let view = place.source().open().unwrap();
    shell.run("PRAGMA busy_timeout=0");
    assert_eq!(shell.try_run(&post(1)), "database is locked");
    drop(view);
    shell.run(&post(1));
    let view = place.source().open().unwrap();
    view.close().unwrap();
    shell.run(&post(1));
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
fn a_file_written_behind_its_lock_is_noticed() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 100);
    let source = place.source();
    let view = source.open().unwrap();
    thread::sleep(Duration::from_millis(20));
    let path = place.database();
    let copied = std::process::Command::new("dd")
        .args(["if=/dev/zero", "bs=1", "count=1", "seek=60", "conv=notrunc", "status=none"])
        .arg(format!("of={}", path.display()))
        .status();
    assert!(copied.unwrap().success());
    assert!(view.close().unwrap_err().message.contains("was written while its read lock was held"));
}
