//! Full disks under stores, state and restore targets: named, survived, and forgotten once there is room again.

use crate::{
    site::{Site, ends_at, names_in, seq_of},
    support::{Run, program, run},
};
use recoup::ops::demo::ledger::Writer;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A small file system in memory; unmounted at the end.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// `None` where this user may not mount. The same code is then shown by limits on the size of files, below.
    pub(crate) fn mount(at: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Disk(at.to_owned())),
            _ => {
                say("LEFT OUT: a test of a full disk, which this user may not mount; limits of file sizes stand in");
                None
            }
        }
    }

    pub(crate) fn change(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }

    /// Fills it until only `left_bytes` are free.
    fn fill(&self, left_bytes: u64) {
        let free = recoup::world::files::free_bytes(&self.0).unwrap();
        fs::write(self.filler(), vec![1; free.saturating_sub(left_bytes) as usize]).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Straight to stderr, which a passing test does not show otherwise.
fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The same command with a limit on the size of files, in units of 512 bytes.
fn limited(command: &Command, blocks: u64, dir: &Path) -> Command {
    let mut shell = program("sh", dir);
    shell.args(["-c", "ulimit -f \"$0\" && exec \"$@\"", &blocks.to_string()]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

fn grow(site: &Site) {
    Writer::open(&site.ledger(), 5).unwrap().append(400, ends_at()).unwrap();
}

/// An error that names what it is about, says what is safe and what to do next.
#[track_caller]
fn assert_explained(run: &Run, named: &[&str]) {
    for part in named.iter().chain(&["safe: ", "next: "]) {
        assert!(run.stderr.contains(part), "{part:?} is not in\n{}", run.stderr);
    }
}

#[test]
fn a_full_store_is_left_behind_and_levelled_once_there_is_room() {
    let site = Site::prepare(20_000, &["a", "b", "c"]);
    let Some(disk) = Disk::mount(&site.store("c"), "size=256k") else { return };
    run(&mut site.init()).expect_code(0);
    let backup = site.run(&["backup", "--json"]).expect_code(1);
    assert!(backup.stderr.contains("store c: no room for"), "{}", backup.stderr);
    assert!(backup.stderr.contains("No space left"), "{}", backup.stderr);
    let snapshot = &backup.json()["snapshots"][0];
    assert_eq!((&snapshot["durable"], &snapshot["stores"]), (&true.into(), &serde_json::json!(["a", "b"])));
    let first = site.restored(1);
    let copy = site.run(&["copy"]);
    assert!((1..=2).contains(&copy.code) && copy.stderr.contains("store c"), "{copy:?}");
    site.run(&["verify", "--all"]).expect_code(1);
    disk.change("size=64m");
    site.run(&["copy"]).expect_code(0);
    site.run(&["verify", "--all"]).expect_code(0);
    grow(&site);
    site.run(&["backup"]).expect_code(0);
    site.restored(2);
    assert_eq!(site.restored(1), first);
}

#[test]
fn stores_that_are_all_full_lose_nothing() {
    let site = Site::prepare(20_000, &["a", "b"]);
    let Some(one) = Disk::mount(&site.store("a"), "size=64m") else { return };
    let Some(other) = Disk::mount(&site.store("b"), "size=64m") else { return };
    run(&mut site.init()).expect_code(0);
    site.run(&["backup"]).expect_code(0);
    let first = site.restored(1);
    for left_kib in [0, 16, 256] {
        grow(&site);
        for disk in [&one, &other] {
            disk.fill(left_kib * 1024);
        }
        let backup = site.run(&["backup", "--full", "--json"]).expect_code(2);
        assert_explained(&backup, &["store a", "store b", "no room for", "No space left"]);
        assert_eq!(site.restored(1), first, "with {left_kib} KiB left");
        one.make_room();
        other.make_room();
        let verified = site.run(&["verify", "--all"]);
        assert!(verified.code <= 1, "{verified:?}");
        let again = site.run(&["backup", "--full", "--json"]).expect_code(0);
        site.restored(seq_of(&again));
        site.run(&["copy"]).expect_code(0);
        site.run(&["verify", "--all"]).expect_code(0);
    }
}

#[test]
fn a_full_state_directory_costs_time_and_no_snapshot() {
    let site = Site::new(8_000, &["a", "b"]);
    site.run(&["backup"]).expect_code(0);
    let first = site.restored(1);
    let state = site.path().join("host/state");
    let Some(disk) = Disk::mount(&state, "size=4m,mode=0700") else { return };
    site.run(&["backup"]).expect_code(0);
    let mut codes = std::collections::BTreeMap::new();
    for pages in 0..9 {
        grow(&site);
        disk.fill(pages * 4096);
        let backup = site.run(&["backup", "--json"]);
        *codes.entry(backup.code).or_insert(0) += 1;
        let taken = &backup.json()["snapshots"][0];
        match backup.code {
            0 => {}
            // Taken, and this host could not note it.
            1 => {
                for part in ["could not note it", "host/state", "No space left", "make room"] {
                    assert!(backup.stderr.contains(part), "{}", backup.stderr);
                }
            }
            _ => panic!("{backup:?}"),
        }
        assert_eq!(taken["durable"], true, "{backup:?}");
        site.restored(seq_of(&backup));
        assert_eq!(site.restored(1), first, "with {pages} pages left");
        disk.make_room();
        let again = site.run(&["backup", "--json"]).expect_code(0);
        site.restored(seq_of(&again));
        assert_eq!(names_in(&site.state()).iter().filter(|name| name.starts_with("digests-")).count(), 1);
    }
    say(&format!("exit codes: {codes:?}"));
    for code in [0, 1] {
        assert!(codes.contains_key(&code), "no run ended with {code}: {codes:?}");
    }
    site.run(&["verify", "--all"]).expect_code(0);
}

#[test]
fn a_restore_target_without_room_stays_as_it_was() {
    let site = Site::new(8_000, &["a", "b"]);
    site.run(&["backup"]).expect_code(0);
    let out = site.path().join("small");
    let Some(disk) = Disk::mount(&out, "size=512k") else { return };
    let refused = run(&mut site.restore_command("latest", &out)).expect_code(17);
    assert_explained(&refused, &["small", "bytes are needed", "are available", "nothing was written"]);
    assert_eq!(names_in(&out), [""; 0]);
    // Room for the bytes, and none for the files.
    disk.change("size=64m,nr_inodes=2");
    let failed = run(&mut site.restore_command("latest", &out)).expect_code(2);
    assert_explained(&failed, &["small", "No space left"]);
    assert!(names_in(&out).iter().all(|name| name == ".recoup-partial"), "{:?}", names_in(&out));
    disk.change("nr_inodes=100");
    run(&mut site.restore_command("latest", &out)).expect_code(0);
    assert_eq!(names_in(&out), ["ledger.db"]);
}

#[test]
fn files_that_may_not_grow_are_a_full_disk() {
    let site = Site::prepare(8_000, &["a", "b", "c"]);
    let here = site.path().to_owned();
    // Nothing may be written at all: the same init finishes later.
    let init = run(&mut limited(&site.init(), 0, &here)).expect_code(2);
    assert_explained(&init, &["host", "File too large"]);
    run(&mut site.init()).expect_code(0);
    site.run(&["backup"]).expect_code(0);
    let first = site.restored(1);
    grow(&site);
    // From "nothing" over "the state and no pack" to "everything but a pack".
    for blocks in [0, 1, 8, 64, 256] {
        let backup = run(&mut limited(&site.command(&["backup", "--full", "--json"]), blocks, &here)).expect_code(2);
        assert_explained(&backup, &["File too large"]);
        assert_eq!(site.restored(1), first, "with {blocks} blocks");
        let verified = site.run(&["verify", "--all"]);
        assert!(verified.code <= 1, "{verified:?}");
    }
    let again = site.run(&["backup", "--full", "--json"]).expect_code(0);
    site.restored(seq_of(&again));

    let out = here.join("out");
    let restore = site.restore_command("latest", &out);
    let failed = run(&mut limited(&restore, 64, &here)).expect_code(2);
    assert_explained(&failed, &["out", "File too large"]);
    assert!(names_in(&out).iter().all(|name| name == ".recoup-partial"), "{:?}", names_in(&out));
    run(&mut site.restore_command("latest", &out)).expect_code(0);
    assert_eq!(names_in(&out), ["ledger.db"]);

    fs::remove_dir_all(site.store("c").join("sources")).unwrap();
    let copy = run(&mut limited(&site.command(&["copy"]), 64, &here));
    assert!((1..=2).contains(&copy.code), "{copy:?}");
    assert!(copy.stderr.contains("store c") && copy.stderr.contains("File too large"), "{copy:?}");
    site.run(&["copy"]).expect_code(0);
    site.run(&["verify", "--all"]).expect_code(0);
    assert_eq!(site.restored(1), first);
}
