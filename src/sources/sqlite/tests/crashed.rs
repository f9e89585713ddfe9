//! What crashed writers leave behind, each made by killing a real process.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// A ledger whose writer was killed in the middle of a transaction that had already reached the file.
fn with_hot_journal(mode: &str) -> Place {
    let place = Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 2_000);
    let mut shell = Shell::open(&place.database());
    shell.run(&format!("PRAGMA journal_mode={mode}; PRAGMA cache_size=5; PRAGMA cache_spill=1; BEGIN IMMEDIATE"));
    shell.run("UPDATE posting SET amount = amount + 1, note = hex(randomblob(60))");
    shell.kill();
    let journal = fs::read(place.beside("-journal")).unwrap();
    assert!(journal.len() > 4_096 && journal[0] != 0, "the journal is hot");
    place
}

#[test]
fn a_hot_journal_is_rolled_back_and_reported() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        for copy in [false, true] {
            let place = with_hot_journal(mode);
            let source = if copy { place.source().through_scratch_copy() } else { place.source() };
            let (postings, notes) = place.take(&source).unwrap();
            assert_eq!(postings, 4_000, "{mode}");
            assert!(notes.len() == 1 && notes[0].contains("ledger.db-journal"), "{notes:?}");
            let (postings, notes) = place.take(&source).unwrap();
            assert!(postings == 4_000 && notes.is_empty(), "{mode}: it is over now, {notes:?}");
            let mut shell = Shell::open(&place.database());
            shell.run(&post(1));
        }
    }
}

#[test]
fn a_journal_whose_writer_lives_is_left_alone() {
    let place = Place::with_ledger("PRAGMA journal_mode=DELETE", 2_000);
    let mut shell = Shell::open(&place.database());
    shell.run(&format!("BEGIN IMMEDIATE; {}", post(5)));
    let before = contract::picture(&place.data());
    let (postings, notes) = place.take(&place.source()).unwrap();
    assert!(postings == 4_000 && notes.is_empty());
    assert!(contract::picture(&place.data()) == before);
    // Beyond that point the lock is exclusive, and `busy_timeout` ends the wait.
    let source = place.source_with(|limits| limits.busy_timeout = Duration::from_millis(100));
    shell.run("COMMIT; PRAGMA cache_size=5; BEGIN IMMEDIATE; UPDATE posting SET note = hex(randomblob(60))");
    let failure = source.open().err().unwrap();
    assert!(failure.message.contains("stayed locked for 100ms"), "{failure:?}");
}

#[test]
fn a_log_that_nobody_has_open_is_read_as_it_is() {
    for copy in [false, true] {
        let place = Place::with_ledger("PRAGMA journal_mode=WAL", 1_000);
        let mut shell = Shell::open(&place.database());
        shell.run(&post(500));
        shell.run(&format!("BEGIN IMMEDIATE; PRAGMA cache_size=5; {}", post(3_000)));
        shell.kill();
        let before = contract::picture(&place.data());
        let source = if copy { place.source().through_scratch_copy() } else { place.source() };
        let (postings, notes) = place.take(&source).unwrap();
        assert_eq!(postings, 3_000, "committed transactions are in, the open one is not");
        assert!(notes.len() == 1 && notes[0].contains("ledger.db-wal"), "{notes:?}");
        assert!(contract::picture(&place.data()) == before, "nothing was changed");
    }
}

#[test]
fn a_log_without_its_index_gets_one_and_is_left_as_it_is() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 1_000);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(500));
    shell.kill();
    fs::remove_file(place.beside("-shm")).unwrap();
    let files = || (fs::read(place.database()).unwrap(), fs::read(place.beside("-wal")).unwrap());
    let before = files();
    let (postings, notes) = place.take(&place.source()).unwrap();
    assert_eq!(postings, 3_000);
    assert!(notes.len() == 1 && notes[0].contains("ledger.db-wal") && notes[0].contains("ledger.db-shm"), "{notes:?}");
    assert!(files() == before, "the log is not checked in");
    let mut shell = Shell::open(&place.database());
    shell.run(&post(1));
    shell.quit();
    assert_eq!(place.take(&place.source()).unwrap(), (3_002, vec![]));
}

#[test]
fn an_empty_log_without_index_is_nobodys() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    fs::write(place.beside("-wal"), b"").unwrap();
    let before = contract::picture(&place.data());
    assert_eq!(place.take(&place.source()).unwrap(), (200, vec![]));
    assert!(contract::picture(&place.data()) == before);
}

#[test]
fn an_application_that_just_left_does_not_make_us_create_its_sidecars() {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    // What `open` saw a moment ago: a log that is gone by the time SQLite looks for it.
    fs::write(place.beside("-wal"), b"").unwrap();
    fs::write(place.beside("-shm"), b"").unwrap();
    let source = place.source();
    let files = crate::sources::sqlite::files::DatabaseFiles::find(&place.database()).unwrap();
    let before = crate::sources::sqlite::files::Stamps::take(&files).unwrap();
    fs::remove_file(place.beside("-wal")).unwrap();
    fs::remove_file(place.beside("-shm")).unwrap();
    let mut notes = Vec::new();
    let tried = source.open_beside(&files, &before, World::real().now(), &mut notes).unwrap();
    assert!(matches!(tried, crate::sources::sqlite::open::Try::Again));
    assert_eq!(fs::read_dir(place.data()).unwrap().count(), 1, "no sidecar stays");
    assert_eq!(place.take(&source).unwrap(), (200, vec![]));
}

#[test]
fn a_journal_of_a_change_of_mode_leaves_no_log_behind() {
    // WAL mode, at rest, with a hot journal: a switch to rollback mode that crashed.
    let place = with_hot_journal("DELETE");
    let journal = fs::read(place.beside("-journal")).unwrap();
    let mut file = fs::read(place.database()).unwrap();
    file[18..20].copy_from_slice(&[2, 2]);
    fs::write(place.database(), &file).unwrap();
    fs::write(place.beside("-journal"), journal).unwrap();
    let (postings, notes) = place.take(&place.source()).unwrap();
    assert!(postings == 4_000 && notes.len() == 1, "{notes:?}");
    assert_eq!(fs::read_dir(place.data()).unwrap().count(), 1);
}

/// Runs the source as a user who may only read, in a process of its own.
#[test]
fn without_permission_the_journal_is_named() {
    if crate::world::user_id() != 0 {
        return; // needs two users; run as root it makes the second one itself
    }
    let cases: [(Place, &str); 2] = [(with_hot_journal("DELETE"), "-journal"), (wal_without_index(), "-wal")];
    for (place, suffix) in cases {
        open_up(place.root.path());
        let before = contract::picture(&place.data());
        let failure = as_nobody(&place);
        assert!(failure.contains(&format!("ledger.db{suffix} was left by a writer that crashed")), "{failure}");
        assert!(failure.contains("Source") && failure.contains("as its owner"), "{failure}");
        assert!(contract::picture(&place.data()) == before);
    }
}

/// A reader who may not write needs no permission that a reader does not need.
#[test]
fn read_only_users_read_what_needs_no_recovery() {
    if crate::world::user_id() != 0 {
        return;
    }
    for mode in ["WAL", "DELETE", "PERSIST"] {
        let place = Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 100);
        open_up(place.root.path());
        assert_eq!(as_nobody(&place), "200 []", "{mode}");
        let mut shell = Shell::open(&place.database());
        shell.run(&post(1));
        open_up(place.root.path());
        assert_eq!(as_nobody(&place), "202 []", "{mode}");
        shell.kill();
        assert!(as_nobody(&place).starts_with("202 ["), "{mode}");
    }
}

fn wal_without_index() -> Place {
    let place = Place::with_ledger("PRAGMA journal_mode=WAL", 100);
    let mut shell = Shell::open(&place.database());
    shell.run(&post(50));
    shell.kill();
    fs::remove_file(place.beside("-shm")).unwrap();
    place
}

/// Lets everybody read, and nobody but the owner write.
fn open_up(path: &Path) {
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| open_up(&entry.unwrap().path()));
    }
}

const NOBODY: u32 = 65_534;
const VARIABLE: &str = "RECOUP_TEST_READ_AS_NOBODY";

/// What a run of the source as another user comes to.
fn as_nobody(place: &Place) -> String {
    use std::os::unix::process::CommandExt;
    let executable = place.root.path().join("test-binary");
    if !executable.exists() {
        fs::copy(std::env::current_exe().unwrap(), &executable).unwrap();
    }
    fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = std::process::Command::new(executable)
        .args(["--exact", "sources::sqlite::tests::crashed::read_as_nobody", "--nocapture"])
        .env(VARIABLE, place.database())
        .env("TMPDIR", scratch.path())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    let (_, rest) = text.split_once("came to: ").unwrap_or_else(|| panic!("{text}"));
    rest.lines().next().unwrap().to_owned()
}

/// The body of that run; does nothing in the ordinary run of the tests.
#[test]
fn read_as_nobody() {
    use std::io::Write;
    let Some(database) = crate::world::environment(VARIABLE) else { return };
    let place = Place::new();
    let source = Sqlite::new(database, place.limits(), World::real());
    let result = match place.take(&source) {
        Ok((postings, notes)) => format!("{postings} {notes:?}"),
        Err(failure) => format!("{failure:?}"),
    };
    writeln!(std::io::stdout(), "came to: {result}").unwrap();
}
