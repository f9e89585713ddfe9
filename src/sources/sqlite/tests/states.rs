//! The contract in every journal mode, and the states in which nothing may be altered.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

pub(super) const MODES: [&str; 4] = ["WAL", "DELETE", "TRUNCATE", "PERSIST"];

pub(super) fn ledger_in(mode: &str) -> Place {
    Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 3_000)
}

/// Both ways to read a database.
pub(super) fn ways(place: &Place) -> [(&'static str, Sqlite); 2] {
    [("page table", place.source()), ("scratch copy", place.source().through_scratch_copy())]
}

#[test]
fn reads_agree_in_every_mode() {
    for mode in MODES {
        for (_, source) in ways(&ledger_in(mode)) {
            contract::reads_agree(&source);
        }
    }
}

#[test]
fn reads_agree_in_every_page_size() {
    for page_size in [512, 1024, 8192, 65_536] {
        let place = Place::with_ledger(&format!("PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL"), 500);
        for (way, source) in ways(&place) {
            let view = source.open().unwrap();
            assert_eq!(view.facts().entries[0].block_size(), Some(page_size), "{way}");
            drop(view);
            contract::reads_agree(&source);
            assert_eq!(place.take(&source).unwrap().0, 1_000, "{way}");
        }
    }
}

#[test]
fn view_is_constant_beside_a_writer() {
    for (mode, way) in [("WAL", 0), ("WAL", 1), ("DELETE", 1)] {
        let place = ledger_in(mode);
        let mut shell = Shell::open(&place.database());
        shell.run(&post(1));
        contract::view_is_constant(&ways(&place)[way].1, &mut || {
            shell.run(&post(500));
            shell.run("DELETE FROM posting WHERE id % 7 < 3; PRAGMA wal_checkpoint(PASSIVE);");
        });
    }
}

#[test]
fn unchanged_is_never_wrong() {
    for mode in ["WAL", "DELETE"] {
        let place = Place::with_ledger(&format!("PRAGMA journal_mode={mode}"), 40);
        let mut resident = (mode == "WAL").then(|| Shell::open(&place.database()));
        contract::unchanged_is_never_wrong(&place.source(), 24, &mut |round| mutate(&place, &mut resident, round));
    }
}

/// One of many small changes, by a process that comes and goes or by one that stays.
fn mutate(place: &Place, resident: &mut Option<Shell>, round: u64) {
    let sql = match round % 8 {
        0 | 4 => post(1),
        1 => "UPDATE posting SET amount = amount + 0, note = hex(randomblob(60)) WHERE id = 5;".to_owned(),
        2 => "PRAGMA wal_checkpoint(TRUNCATE);".to_owned(),
        3 => "VACUUM;".to_owned(),
        5 => "DELETE FROM posting WHERE id IN (SELECT id FROM posting ORDER BY id DESC LIMIT 20); VACUUM;".to_owned(),
        6 => post(60),
        _ => String::new(),
    };
    match (round % 8, resident.as_mut()) {
        (7, None) => replace_by_copy(place, round),
        (7, Some(_)) => {
            resident.take().unwrap().quit();
            replace_by_copy(place, round);
            *resident = Some(Shell::open(&place.database()));
        }
        (_, Some(shell)) if !round.is_multiple_of(3) => shell.run(&sql),
        _ => {
            let mut shell = Shell::open(&place.database());
            shell.run(&sql);
            shell.quit();
        }
    }
}

/// Puts a copy in the database's place that has the same size, counters and times, but another amount.
fn replace_by_copy(place: &Place, round: u64) {
    for sidecar in ["-wal", "-shm"] {
        let _ = fs::remove_file(place.beside(sidecar));
    }
    let times = fs::metadata(place.database()).unwrap().modified().unwrap();
    let mut bytes = fs::read(place.database()).unwrap();
    bytes[68..72].copy_from_slice(&(round as u32).to_be_bytes()); // application_id
    let path = if round % 16 == 7 { place.beside(".copy") } else { place.database() };
    fs::write(&path, bytes).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(times).unwrap();
    fs::rename(path, place.database()).unwrap();
}

#[test]
fn nothing_is_altered_when_nobody_writes() {
    for mode in MODES {
        let place = ledger_in(mode);
        assert_untouched(&place, mode);
        let mut shell = Shell::open(&place.database());
        shell.run(&post(10));
        assert_untouched(&place, &format!("{mode}, open in another process"));
        shell.kill();
        assert_untouched(&place, &format!("{mode}, after that process was killed"));
    }
}

fn assert_untouched(place: &Place, state: &str) {
    thread::sleep(Duration::from_millis(60));
    let before = contract::picture(&place.data());
    for (way, source) in ways(place) {
        assert!(place.take(&source).unwrap().0 >= 6_000, "{state}");
        let now = contract::picture(&place.data());
        let names = |picture: &[(PathBuf, _, _)]| picture.iter().map(|file| file.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&now), names(&before), "{state}, {way}");
        assert!(now == before, "{state}, {way}");
    }
}

#[test]
fn a_quiet_database_is_unchanged_also_with_a_log_that_is_open() {
    for mode in MODES {
        let place = ledger_in(mode);
        let mut shell = Shell::open(&place.database());
        shell.run(&post(10));
        thread::sleep(Duration::from_millis(80));
        let source = place.source();
        let view = source.open().unwrap();
        let fingerprint = view.facts().fingerprint.clone().unwrap();
        view.close().unwrap();
        assert!(source.is_unchanged(&fingerprint), "{mode}");
        place.take(&source).unwrap();
        // SQLite sets the owner of a sidecar when root reads: its change time shows that, and doubt means changed.
        if crate::world::user_id() != 0 {
            assert!(source.is_unchanged(&fingerprint), "{mode}: another view changes nothing");
        }
        shell.run(&post(1));
        assert!(!source.is_unchanged(&fingerprint), "{mode}");
    }
}

#[test]
fn empty_database() {
    let place = Place::new();
    fs::write(place.database(), b"").unwrap();
    for (_, source) in ways(&place) {
        contract::reads_agree(&source);
        let view = source.open().unwrap();
        assert_eq!((view.facts().entries[0].size(), view.facts().position.as_str()), (0, "pages=0"));
    }
    fs::write(place.beside("-restored"), b"").unwrap();
    let checks = check_restored(&place.data(), &[ledger_entry(0)]).unwrap();
    assert!(checks.iter().all(|check| check.ok), "{checks:?}");
}

#[test]
fn facts_of_a_view() {
    let place = Place::with_ledger("PRAGMA application_id=0x1badcafe; PRAGMA journal_mode=WAL", 10);
    fs::set_permissions(place.database(), fs::Permissions::from_mode(0o640)).unwrap();
    let before = World::real().now();
    let view = place.source().open().unwrap();
    let facts = view.facts();
    assert_eq!(facts.identity, "sqlite:application_id=0x1badcafe");
    assert!(facts.read_started_at >= before && facts.read_started_at <= World::real().now());
    assert_eq!(facts.entries[0].path.as_str(), "ledger.db");
    assert_eq!(facts.entries[0].mode, 0o640);
    assert!(facts.notes.is_empty());
}

#[test]
fn a_linked_and_oddly_named_database_is_read_with_its_own_log() {
    let place = Place::new();
    let real = place.data().join("Bücher & ?#%41.db");
    create_ledger(&real, "PRAGMA journal_mode=WAL", 10);
    symlink(&real, place.database()).unwrap();
    let mut shell = Shell::open(&real);
    shell.run(&post(7));
    let (postings, _) = place.take(&place.source()).unwrap();
    assert_eq!(postings, 34);
    let direct = Sqlite::new(&real, place.limits(), World::real());
    assert_eq!(direct.open().unwrap().facts().entries[0].path.as_str(), "B%c3%bccher & ?#%2541.db");
}

#[test]
fn memory_stays_small_and_the_lock_byte_page_is_zero() {
    // A database beyond 1 GiB, mostly holes: the page at 1 GiB is one that SQLite never uses.
    let place = Place::with_ledger("PRAGMA page_size=65536; PRAGMA journal_mode=WAL", 10);
    let pages = (1_u64 << 30) / 65_536 + 3;
    let file = fs::File::options().write(true).open(place.database()).unwrap();
    file.set_len(pages * 65_536).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &(pages as u32).to_be_bytes(), 28).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"never seen", 1 << 30).unwrap();
    drop(file);
    let source = place.source();
    let mut view = source.open().unwrap();
    let before = resident_kib();
    let mut bytes = 0;
    view.read(0, &mut [(0, pages)].into_iter(), &mut |_, data| {
        bytes += data.len() as u64;
        Ok(())
    })
    .unwrap();
    assert_eq!(bytes, pages * 65_536);
    assert!(resident_kib() < before + 8 * 1024, "{} KiB grew to {} KiB", before, resident_kib());
    let mut lock_page = Vec::new();
    view.read(0, &mut [(pages - 3, 1)].into_iter(), &mut |_, data| {
        lock_page.extend_from_slice(data);
        Ok(())
    })
    .unwrap();
    assert!(lock_page.len() == 65_536 && lock_page.iter().all(|byte| *byte == 0));
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}
