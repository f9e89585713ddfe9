//! What holds only where SQLite was built with its page table, and the transaction lasts as long as the view.
//!
//! A build without the flags of `.cargo/config.toml` is tried without these: see `tests/run --long`.

use super::{
    states::{MODES, ledger_in, ways},
    *,
};
use crate::world::Stopwatch;
use std::os::unix::fs::PermissionsExt;

#[test]
fn this_build_has_the_page_table_and_both_ways_give_the_same_bytes() {
    for mode in MODES {
        let place = ledger_in(mode);
        let [(_, table), (_, copy)] = ways(&place);
        let view = table.open().unwrap();
        assert!(view.facts().position.starts_with("change_counter="), "{}", view.facts().position);
        drop(view);
        let (mut table, mut copy) = (contract::snapshot(&table).remove(0), contract::snapshot(&copy).remove(0));
        assert!(table == fs::read(place.database()).unwrap(), "{mode}: a database at rest is its file");
        for bytes in [&mut table, &mut copy] {
            bytes[24..28].fill(0); // change counter
            bytes[92..100].fill(0); // what it was valid for, and the library's version
        }
        assert!(table == copy, "{mode}");
        assert_eq!(fs::read_dir(place.limits().scratch_dir).unwrap().count(), 0, "the scratch directory is left empty");
        assert_eq!(fs::metadata(place.limits().scratch_dir).unwrap().permissions().mode() & 0o777, 0o700);
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
