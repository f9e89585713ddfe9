//! Commits that are in the files and not yet in a view: while they wait for the disk, or between two looks.

use super::{states::ways, *};
use crate::sources::sqlite::{files, open::Try};

/// Longer than a change takes to settle.
const SETTLED: Duration = Duration::from_millis(80);

/// A ledger whose application keeps it open, with something in the log.
fn in_use() -> (Place, Shell) {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 40);
    let mut shell = Shell::open(&place.database());
    shell.run(&format!("PRAGMA wal_autocheckpoint=0; {}", post(10)));
    (place, shell)
}

/// A view's postings and its fingerprint, once the files have stood still: SQLite touches them when root reads.
fn look(place: &Place, source: &Sqlite) -> (i64, Option<serde_json::Value>) {
    thread::sleep(SETTLED);
    let mut view = source.open().unwrap();
    let content = contract::read_entry(&mut *view, 0);
    let fingerprint = view.facts().fingerprint.clone();
    view.close().unwrap();
    (place.check(&content), fingerprint)
}

#[test]
fn a_commit_that_waits_for_the_disk_is_not_promised() {
    let (place, mut resident) = in_use();
    let index = place.beside("-shm");
    let before = fs::read(&index).unwrap();
    resident.run(&post(1));
    let published = fs::read(&index).unwrap();
    // What a commit looks like until its log is on the disk: the frames are there, the index does not know of them.
    fs::write(&index, &before).unwrap();
    for (way, source) in ways(&place) {
        assert_eq!(look(&place, &source), (100, None), "{way}");
    }
    fs::write(&index, &published).unwrap();
    for (way, source) in ways(&place) {
        let (postings, fingerprint) = look(&place, &source);
        assert_eq!(postings, 102, "{way}");
        assert!(source.is_unchanged(&fingerprint.unwrap()), "{way}");
    }
}

#[test]
fn a_commit_that_waits_in_a_log_begun_anew_is_not_promised() {
    let (place, mut resident) = in_use();
    resident.run("PRAGMA wal_checkpoint(RESTART)");
    let index = place.beside("-shm");
    let before = fs::read(&index).unwrap();
    resident.run("UPDATE posting SET note = 'short' WHERE id = 1");
    fs::write(&index, &before).unwrap();
    for (way, source) in ways(&place) {
        assert_eq!(look(&place, &source), (100, None), "{way}");
    }
}

#[test]
fn logs_of_an_idle_application_are_promised() {
    let (place, mut resident) = in_use();
    let steps = ["", "PRAGMA wal_checkpoint(PASSIVE)", &post(1), "PRAGMA wal_checkpoint(RESTART)", "VACUUM", &post(2)];
    for sql in steps {
        resident.run(sql);
        for (way, source) in ways(&place) {
            let (_, fingerprint) = look(&place, &source);
            let fingerprint = fingerprint.unwrap_or_else(|| panic!("{way}: none after {sql:?}"));
            assert!(source.is_unchanged(&fingerprint), "{way}: after {sql:?}");
        }
    }
}

#[test]
fn an_application_that_commits_between_two_looks_is_read_beside() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 40);
    thread::sleep(SETTLED);
    let files = files::DatabaseFiles::find(&place.database()).unwrap();
    let before = files::Stamps::take(&files).unwrap();
    let mut shell = Shell::open(&place.database());
    shell.run(&post(1));
    assert_eq!(files::Stamps::take(&files).unwrap().database, before.database, "it is in the log only");
    let source = place.source();
    assert!(matches!(source.open_at_rest(&files, before, &[]).unwrap(), Try::Again));
    assert_eq!(place.take(&source).unwrap(), (82, vec![]));
}
