//! What is no database, or not one that can be read: each says so, with code 13 and a next step.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

fn failure_of(source: &Sqlite) -> Failure {
    let failure = source.open().err().expect("this cannot be opened");
    assert_eq!(failure.code, Code::Source, "{failure:?}");
    assert!(failure.cause.is_some() && failure.safe.is_some() && failure.next_step.is_some(), "{failure:?}");
    failure
}

#[test]
fn unfit_files() {
    let place = Place::new();
    let expect = |text: &str| {
        let failure = failure_of(&place.source());
        assert!(failure.message.contains(text) && failure.message.contains("ledger.db"), "{failure:?}");
    };
    expect("does not exist");
    fs::create_dir(place.database()).unwrap();
    expect("is a directory");
    fs::remove_dir(place.database()).unwrap();
    for noise in [b"x".repeat(10), b"no database at all ".repeat(1_000), encrypted()] {
        fs::write(place.database(), noise).unwrap();
        expect("is not a SQLite database, or it is encrypted");
        assert_eq!(fs::read_dir(place.data()).unwrap().count(), 1);
    }
    fs::remove_file(place.database()).unwrap();
    std::os::unix::net::UnixListener::bind(place.database()).unwrap();
    expect("no regular file");
}

/// What SQLCipher writes looks like random bytes from the first one on.
fn encrypted() -> Vec<u8> {
    use crate::world::{Random, SeededRandom};
    let mut bytes = vec![0; 3 * 4096];
    SeededRandom::new("a salt").fill(&mut bytes);
    bytes
}

#[test]
fn a_dangling_link_and_a_missing_directory_are_missing() {
    let place = Place::new();
    std::os::unix::fs::symlink("nowhere", place.database()).unwrap();
    assert!(failure_of(&place.source()).message.contains("does not exist"));
    let source = Sqlite::new(place.data().join("none/ledger.db"), place.limits(), World::real());
    assert!(failure_of(&source).message.contains("does not exist"));
}

#[test]
fn damaged_databases_are_named() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 1_000);
    let whole = fs::read(place.database()).unwrap();
    fs::write(place.database(), &whole[..whole.len() / 2]).unwrap();
    let failure = failure_of(&place.source());
    assert!(failure.next_step.unwrap().contains("integrity_check"));
}

#[test]
fn an_exclusive_holder_is_waited_for_and_then_named() {
    for mode in ["DELETE", "WAL"] {
        let place = Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 100);
        let mut shell = Shell::open(&place.database());
        shell.run(&format!("PRAGMA locking_mode=EXCLUSIVE; {}", post(1)));
        let source = place.source_with(|limits| limits.busy_timeout = Duration::from_millis(150));
        let failure = failure_of(&source);
        assert!(failure.message.contains("stayed locked for 150ms"), "{mode}: {failure:?}");
        shell.quit();
        assert_eq!(place.take(&source).unwrap(), (202, vec![]), "{mode}");
    }
}

#[test]
fn sidecars_keep_their_owners_when_root_reads() {
    if crate::world::user_id() != 0 {
        return;
    }
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(1));
    for suffix in ["-wal", "-shm"] {
        chown(place.beside(suffix), Some(12_345), Some(54_321)).unwrap();
    }
    assert_eq!(place.take(&place.source()).unwrap().0, 202);
    for suffix in ["-wal", "-shm"] {
        let data = fs::metadata(place.beside(suffix)).unwrap();
        assert_eq!((data.uid(), data.gid()), (12_345, 54_321), "{suffix}");
    }
}

#[test]
fn a_scratch_directory_that_cannot_be_used_is_named() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    fs::write(place.root.path().join("scratch"), b"a file").unwrap();
    let source = place.source().through_scratch_copy();
    assert!(failure_of(&source).message.contains("scratch"));
    fs::remove_file(place.root.path().join("scratch")).unwrap();
    assert_eq!(place.take(&source).unwrap().0, 200);
    let mode = fs::metadata(place.limits().scratch_dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn checks_of_restored_files_find_damage() {
    let place = Place::new();
    let mut shell = Shell::open(&place.database());
    shell.run("PRAGMA foreign_keys=OFF; CREATE TABLE a(id INTEGER PRIMARY KEY); CREATE TABLE b(a REFERENCES a)");
    shell.run("INSERT INTO b VALUES (7), (8); CREATE INDEX by_a ON b(a)");
    shell.quit();
    let entry = || [ledger_entry(0)];
    let found = |at: usize| check_restored(&place.data(), &entry()).unwrap().remove(at);
    assert!(found(0).ok && found(0).name == "integrity_check");
    assert_eq!(found(1).actual, "2 rows: b 1 refers to a missing a; b 2 refers to a missing a");
    let mut bytes = fs::read(place.database()).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 0x55;
    fs::write(place.database(), bytes).unwrap();
    assert!(!found(0).ok, "{:?}", found(0));
    fs::remove_file(place.database()).unwrap();
    assert!(!found(0).ok && found(0).actual.contains("could not be opened"), "{:?}", found(0));
}

#[test]
fn a_name_that_no_restore_could_write_is_refused() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 10);
    let path = place.data().join(".recoup-partial");
    fs::rename(place.database(), &path).unwrap();
    let failure = failure_of(&Sqlite::new(path, place.limits(), World::real()));
    assert_eq!(failure.code, Code::Source);
    assert!(failure.message.contains("no usable file name") && failure.next_step.is_some(), "{failure:?}");
    assert!(failure.cause.unwrap().contains("what is not complete"));
}
