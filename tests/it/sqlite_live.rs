//! The real program against live databases: processes that write, files that change their shape between snapshots.

use crate::{
    needs::needs,
    site::{Site, assert_whole, database_sha256_of, ends_at, names_in, seq_of, sha256_of},
    support::{program, run},
    writing::{Writing, set_journal_mode, transfer},
};
use recoup::{
    ops::demo::{audit, ledger},
    world::{self, Stopwatch},
};
use rusqlite::Connection;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::Duration,
};

/// How long rollback-journal writers may be kept waiting in these tests ...
const MAX_READ_LOCK: Duration = Duration::from_secs(2);
/// ... beyond what other writers and a busy machine cost them.
const SLACK: Duration = Duration::from_secs(15);

/// A site whose database has the journal mode, and a short patience with locks.
fn site(journal_mode: &str) -> Site {
    let site = Site::new(8_000, &["a", "b"]);
    site.set_source("max_read_lock", "2s");
    set_journal_mode(&Connection::open(site.ledger()).unwrap(), journal_mode);
    site
}

/// Takes snapshots beside writers; gives their numbers.
fn back_up_repeatedly(site: &Site) -> Vec<u64> {
    let take = |full: bool| {
        let mut arguments = vec!["backup", "--json"];
        arguments.extend(full.then_some("--full"));
        seq_of(&site.run(&arguments).expect_code(0))
    };
    (0..6).map(|at| take(at == 3)).collect()
}

#[test]
fn a_writer_with_a_write_ahead_log_is_never_kept_waiting() {
    let site = site("wal");
    // The only writer, and it does not wait: whatever stood in its way would be counted.
    let writing = Writing::start(&site, "writer", "wal", Duration::ZERO);
    let taken = back_up_repeatedly(&site);
    let report = writing.end();
    assert_eq!(report.busy, 0, "{report:?}");
    let mut last = 0;
    for seq in taken {
        let restored = site.restored(seq);
        assert!(restored.last_transfer >= last, "snapshot {seq} is older than the one before");
        last = restored.last_transfer;
    }
}

#[test]
fn snapshots_beside_several_writing_processes_are_consistent() {
    for journal_mode in ["wal", "delete", "truncate", "persist"] {
        let site = site(journal_mode);
        let patience = MAX_READ_LOCK + SLACK;
        let writers = ["one", "two", "three"].map(|name| Writing::start(&site, name, journal_mode, patience));
        let taken = back_up_repeatedly(&site);
        for report in writers.map(Writing::end) {
            assert_eq!(report.busy, 0, "{journal_mode}: {report:?}");
            assert!(u128::from(report.longest_ms) < patience.as_millis(), "{journal_mode}: {report:?}");
        }
        for seq in taken {
            site.restored(seq);
        }
        assert_whole(&site.ledger());
    }
}

/// What must not change about the files of a database: names, owners, modes, which files they are.
fn identities(dir: &Path) -> Vec<(String, u64, u32, u32, u32)> {
    let describe = |name: String| {
        let metadata = fs::symlink_metadata(dir.join(&name)).unwrap();
        (name, metadata.ino(), metadata.uid(), metadata.gid(), metadata.mode())
    };
    names_in(dir).into_iter().map(describe).collect()
}

#[test]
fn a_backup_leaves_the_database_and_its_sidecars_as_they_are() {
    for journal_mode in ["wal", "delete", "truncate", "persist"] {
        for in_use in [true, false] {
            let site = site(journal_mode);
            let dir = site.path().join("data");
            if world::user_id() == 0 {
                std::os::unix::fs::chown(site.ledger(), Some(23_456), Some(34_567)).unwrap();
            }
            let connection = Connection::open(site.ledger()).unwrap();
            set_journal_mode(&connection, journal_mode);
            transfer(&connection, "stake").unwrap();
            let connection = Some(connection).filter(|_| in_use);
            let before = identities(&dir);
            let content = |dir: &Path| -> Vec<String> {
                let names = names_in(dir).into_iter().filter(|name| !name.ends_with("-shm"));
                names.map(|name| sha256_of(&dir.join(name))).collect()
            };
            let bytes = content(&dir);
            for arguments in [&["backup", "--full"][..], &["backup"]] {
                site.run(arguments).expect_code(0);
                assert_eq!(identities(&dir), before, "{journal_mode}, in use: {in_use}");
                assert_eq!(content(&dir), bytes, "{journal_mode}, in use: {in_use}");
            }
            drop(connection);
        }
    }
}

/// A change between two snapshots.
type Change = fn(&Site, &str);

fn sql(site: &Site, journal_mode: &str, text: &str) {
    let connection = Connection::open(site.ledger()).unwrap();
    set_journal_mode(&connection, journal_mode);
    connection.execute_batch(text).unwrap();
}

/// Two copies that were changed differently since: one size, one change counter, other content.
fn diverge(site: &Site) -> PathBuf {
    let other = site.path().join("diverged.db");
    fs::copy(site.ledger(), &other).unwrap();
    for path in [site.ledger(), other.clone()] {
        let connection = Connection::open(path).unwrap();
        let change = "update account set owner = hex(randomblob(4)) where id = (select max(id) from account)";
        connection.execute_batch(change).unwrap();
    }
    let counter = |path: &Path| fs::read(path).unwrap()[24..28].to_vec();
    assert_eq!(fs::metadata(&other).unwrap().len(), fs::metadata(site.ledger()).unwrap().len());
    assert_eq!(counter(&other), counter(&site.ledger()));
    site.run(&["backup"]).expect_code(0);
    other
}

const CHANGES: &[(&str, Change)] = &[
    ("nothing", |_, _| {}),
    ("growth", |site, mode| {
        sql(site, mode, "create table filler as select randomblob(900) as bytes from posting limit 4000");
    }),
    ("rows removed", |site, mode| sql(site, mode, "delete from filler where rowid % 2 = 0")),
    ("vacuum", |site, mode| sql(site, mode, "vacuum")),
    ("shrinking", |site, mode| sql(site, mode, "drop table filler; vacuum")),
    ("larger pages", |site, mode| {
        // SQLite changes the page size only outside of WAL mode.
        sql(site, "delete", "pragma page_size = 16384; vacuum");
        sql(site, mode, "");
    }),
    ("smaller pages", |site, mode| {
        sql(site, "delete", "pragma page_size = 1024; vacuum");
        sql(site, mode, "");
    }),
    ("another database", |site, mode| {
        fs::remove_file(site.ledger()).unwrap();
        ledger::create(&site.ledger(), 3_000, 99, ends_at()).unwrap();
        sql(site, mode, "");
    }),
    ("a diverged copy under its name", |site, _| {
        let other = diverge(site);
        fs::rename(other, site.ledger()).unwrap();
    }),
    ("a diverged copy in its place, as old as it was", |site, _| {
        let other = diverge(site);
        let modified = fs::metadata(site.ledger()).unwrap().modified().unwrap();
        fs::write(site.ledger(), fs::read(other).unwrap()).unwrap();
        fs::File::options().write(true).open(site.ledger()).unwrap().set_modified(modified).unwrap();
    }),
];

#[test]
fn a_database_that_changes_its_shape_is_restored_as_it_is() {
    for journal_mode in ["delete", "wal"] {
        let site = site(journal_mode);
        site.run(&["backup"]).expect_code(0);
        let mut taken = Vec::new();
        for (name, change) in CHANGES {
            change(&site, journal_mode);
            let backup = site.run(&["backup", "--json"]).expect_code(0);
            assert_eq!(backup.json()["snapshots"][0]["kind"], "incremental", "{journal_mode}: {name}: {backup:?}");
            // Nobody has it open, so the file is all of it.
            assert_eq!(names_in(&site.path().join("data")), ["ledger.db"], "{journal_mode}: {name}");
            taken.push((name, seq_of(&backup), database_sha256_of(&site.ledger())));
        }
        for (name, seq, sha256) in taken {
            assert_eq!(site.restored(seq).sha256, sha256, "{journal_mode}: {name}");
        }
    }
}

#[test]
fn what_lies_in_the_log_alone_is_in_the_snapshot() {
    let site = site("wal");
    let application = Connection::open(site.ledger()).unwrap();
    application.execute_batch("pragma wal_autocheckpoint = 0").unwrap();
    for round in 0..3 {
        for _ in 0..20 {
            transfer(&application, "stake").unwrap();
        }
        let seq = seq_of(&site.run(&["backup", "--json"]).expect_code(0));
        let restored = site.restored(seq);
        assert_eq!(Some(restored.last_transfer), audit::totals(&site.ledger()).unwrap().last_transfer, "round {round}");
        if round == 1 {
            // Moving the log into the file changes nothing: the file is now what the snapshot was.
            application.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(())).unwrap();
            assert_eq!(restored.sha256, database_sha256_of(&site.ledger()));
        }
    }
}

#[test]
fn a_database_that_its_application_keeps_locked_is_given_up_in_time() {
    for journal_mode in ["wal", "delete"] {
        let site = site(journal_mode);
        site.set_source("busy_timeout", "1s");
        site.run(&["backup"]).expect_code(0);
        let first = site.restored(1);
        let application = Connection::open(site.ledger()).unwrap();
        application.execute_batch("pragma locking_mode = exclusive").unwrap();
        transfer(&application, "stake").unwrap();
        let stopwatch = Stopwatch::start();
        let backup = run(&mut site.command(&["backup"])).expect_code(13);
        let waited = stopwatch.elapsed();
        assert!(waited >= Duration::from_secs(1) && waited < SLACK, "{journal_mode}: {waited:?}");
        for part in ["ledger.db", "safe: ", "next: "] {
            assert!(backup.stderr.contains(part), "{journal_mode}: {part:?} is not in\n{}", backup.stderr);
        }
        transfer(&application, "stake").unwrap();
        drop(application);
        assert_eq!(site.restored(1), first);
        let seq = seq_of(&site.run(&["backup", "--json"]).expect_code(0));
        assert!(site.restored(seq).last_transfer > first.last_transfer);
    }
}

#[test]
fn a_commit_that_waits_for_a_busy_disk_is_in_the_next_snapshot() {
    if !needs("strace") || !needs("sqlite3") {
        return;
    }
    let site = site("wal");
    let mut strace = program("strace", site.path());
    strace.args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"]);
    strace.args(["-e", "inject=fsync,fdatasync:delay_enter=1500000", "--", "sqlite3"]).arg(site.ledger());
    let mut application = strace.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut orders = application.stdin.take().unwrap();
    let mut answers = BufReader::new(application.stdout.take().unwrap()).lines();
    let mut tell = |sql: &str| writeln!(orders, "{sql};\n.print done").unwrap();
    tell("update account set owner = 'first' where id = 1");
    assert_eq!(answers.next().unwrap().unwrap(), "done");
    let log = || fs::metadata(site.path().join("data/ledger.db-wal")).unwrap().modified().unwrap();
    let before = log();
    tell("update account set owner = 'second' where id = 1");
    while log() == before {
        thread::sleep(Duration::from_millis(5));
    }
    thread::sleep(Duration::from_millis(100)); // the frames are written, and the log is on its way to the disk
    site.run(&["backup"]).expect_code(0);
    assert_eq!(answers.next().unwrap().unwrap(), "done");
    // Acknowledged; nothing but the wal-index has changed since that snapshot was taken.
    let after = seq_of(&site.run(&["backup", "--json"]).expect_code(0));
    let to = site.path().join("out");
    run(&mut site.restore_command(&format!("snapshot:{after}"), &to)).expect_code(0);
    let restored = Connection::open(to.join("ledger.db")).unwrap();
    let owner: String = restored.query_row("select owner from account where id = 1", [], |row| row.get(0)).unwrap();
    assert_eq!(owner, "second");
    drop(orders);
    assert!(application.wait().unwrap().success());
}
