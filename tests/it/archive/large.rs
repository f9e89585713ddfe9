//! Segments that are larger than what is held in memory.

use super::server::{SYSTEM, Server};
use crate::support::{files_below, recoup};
use ::recoup::{
    core::{
        log::SegmentName,
        result::{Problem, Status},
    },
    ops::copy::CopyRequest,
    sources::postgres::wal::synthetic::Synthetic,
};
use std::{
    cell::RefCell,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Bytes of a segment where one is looked at alone, and where there are several.
const BYTES: u64 = 128 << 20;
const BYTES_OF_SEVERAL: u64 = 64 << 20;
/// What a command may take, however large a segment is.
pub(crate) const PEAK_KIB: u64 = 128 * 1024;

/// Runs a command that must succeed and gives the most memory that it was seen to use, in KiB.
fn peak_of(command: &mut Command) -> u64 {
    let (code, peak) = measured(command);
    assert_eq!(code, 0, "{command:?}");
    peak
}

/// Runs a command; gives its code and the most memory that it was seen to use, in KiB.
pub(crate) fn measured(command: &mut Command) -> (i32, u64) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0).max(peak);
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code().unwrap(), peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A segment whose content cannot be compressed, with one record.
fn written(number: u64, segment_bytes: u64) -> (String, Vec<u8>) {
    let name = SegmentName::of_number(1, number, segment_bytes);
    let mut bytes = Synthetic::new(SYSTEM, name, segment_bytes).record(10, 0, b"first").bytes().to_vec();
    let mut state = number;
    for word in bytes[8192..].chunks_exact_mut(8) {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&(state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    (name.to_string(), bytes)
}

#[test]
fn a_large_segment_is_never_held_in_memory() {
    let server = super::commands::server();
    let (name, bytes) = written(3, BYTES);
    server.write(&name, &bytes);
    let config = server.repository.config();
    let archive = |arguments: &[&str]| {
        let mut command = recoup(&server.data());
        command.arg("--config").arg(&config).arg("archive").args(arguments);
        peak_of(&mut command)
    };
    let path = format!("pg_wal/{name}");
    let pushed = archive(&["push", "ledger", &path]);
    for store in ["a", "b", "c"] {
        let stored = fs::metadata(server.object(store, ".age")).unwrap().len();
        assert!(stored > BYTES, "it cannot be compressed: {stored}");
    }
    let again = archive(&["push", "ledger", &path]);
    let identity = server.repository.identity();
    let fetch = ["fetch", "ledger", &name, "pg_wal/RECOVERYXLOG", "--identity", identity.to_str().unwrap()];
    let fetched = archive(&fetch);
    server.assert_target(&name);
    // One store has lost a byte of it, another one its end: the third gives it.
    let spoil = |store: &str, spoil: &dyn Fn(&mut Vec<u8>)| {
        let object = server.object(store, ".age");
        let mut bytes = fs::read(&object).unwrap();
        spoil(&mut bytes);
        fs::write(object, bytes).unwrap();
    };
    spoil("a", &|bytes| bytes[60_000_000] ^= 1);
    spoil("b", &|bytes| bytes.truncate(60_000_000));
    fs::remove_file(server.target()).unwrap();
    let mended = archive(&fetch);
    server.assert_target(&name);
    for peak in [pushed, again, fetched, mended] {
        assert!((10_000..PEAK_KIB).contains(&peak), "{peak} KiB of {PEAK_KIB}");
    }
    let left = fs::read_dir(server.wal()).unwrap().count();
    assert_eq!(left, 3, "the segment, the target, and what the server notes");
}

/// Turns one byte of an object in the middle of its third part.
fn spoil(object: &Path) {
    let mut bytes = fs::read(object).unwrap();
    bytes[60_000_000] ^= 1;
    fs::write(object, bytes).unwrap();
}

#[test]
fn large_segments_are_verified_and_copied_piece_by_piece() {
    let server = super::commands::server();
    let config = server.repository.config();
    let away = |store: &str| server.repository.path(&format!("away-{store}"));
    let (at, peaks) = (|store: &str| server.repository.store(store), RefCell::new(Vec::new()));
    let command = |arguments: &[&str], code: i32| {
        let mut command = recoup(&server.data());
        command.arg("--config").arg(&config).args(arguments);
        let (found, peak) = measured(&mut command);
        assert_eq!(found, code, "{arguments:?}");
        peaks.borrow_mut().push((arguments.join(" "), peak));
    };
    // Two segments reach two stores, and then the third one comes back.
    fs::rename(at("c"), away("c")).unwrap();
    let names: Vec<String> = (3..5)
        .map(|number| {
            let (name, bytes) = written(number, BYTES_OF_SEVERAL);
            server.write(&name, &bytes);
            command(&["archive", "push", "ledger", &format!("pg_wal/{name}")], 0);
            name
        })
        .collect();
    fs::rename(away("c"), at("c")).unwrap();
    command(&["verify", "--all"], 1);
    command(&["copy"], 0);
    command(&["verify", "--all"], 0);
    // Each store has lost something of the first one, and nobody all of it.
    let object = |store: &str| server.sealed(store, &names[0]);
    spoil(&object("a"));
    fs::remove_file(object("b")).unwrap();
    command(&["verify", "--all"], 2);
    let found = server.repository.verify().findings.into_iter().map(|found| (found.store, found.problem));
    let wanted = [("a".to_owned(), Problem::Damaged), ("b".to_owned(), Problem::Missing)];
    assert_eq!(found.collect::<Vec<_>>(), wanted);
    command(&["copy"], 0);
    command(&["verify", "--all"], 0);
    let quarantined =
        |store: &str| files_below(&at(store)).into_iter().filter(|path| path.starts_with("quarantine")).count();
    assert_eq!(["a", "b", "c"].map(quarantined), [1, 0, 0]);
    // The others are gone, and each store gives both by itself.
    let identity = server.repository.identity();
    for store in ["b", "c", "a"] {
        let others: Vec<&str> = ["a", "b", "c"].into_iter().filter(|other| *other != store).collect();
        others.iter().for_each(|other| fs::rename(at(other), away(other)).unwrap());
        for name in &names {
            let fetch = ["archive", "fetch", "ledger", name, "pg_wal/RECOVERYXLOG", "--identity"];
            command(&[&fetch[..], &[identity.to_str().unwrap()]].concat(), 0);
            server.assert_target(name);
            fs::remove_file(server.target()).unwrap();
        }
        others.iter().for_each(|other| fs::rename(away(other), at(other)).unwrap());
    }
    // What every store has lost is said, and nothing is taken for it.
    ["a", "b", "c"].into_iter().for_each(|store| spoil(&object(store)));
    command(&["copy"], 2);
    let peaks = peaks.into_inner();
    assert!(peaks.iter().all(|(_, peak)| (10_000..PEAK_KIB).contains(peak)), "of {PEAK_KIB} KiB: {peaks:#?}");
    let left = files_below(&server.repository.path("host"))
        .into_iter()
        .filter(|path| server.repository.path("host").join(path).metadata().is_ok_and(|found| found.len() > 1 << 20));
    assert_eq!(left.count(), 0, "nothing waits in the state of the host");
}

#[test]
fn no_room_for_large_segments_is_said() {
    let server = Server::new(SYSTEM);
    let (name, bytes) = written(3, BYTES);
    server.write(&name, &bytes);
    server.push(&name).unwrap();
    fs::remove_file(server.sealed("b", &name)).unwrap();
    let copied =
        server.repository.copy_with(&CopyRequest { spool: server.repository.path("none"), ..Default::default() });
    assert_eq!(copied.status, Status::Warning);
    let found: Vec<_> = copied.findings.iter().map(|found| (found.store.as_str(), found.problem)).collect();
    assert_eq!(found, [("b", Problem::Missing)], "{copied:?}");
    let notes = copied.notes.join("\n");
    assert!(notes.contains("store b: files of the log of more than 16 MiB were not brought"), "{notes}");
}

#[test]
fn other_content_of_a_large_segment_is_refused() {
    let server = Server::new(SYSTEM);
    let (name, mut bytes) = written(3, BYTES);
    server.write(&name, &bytes);
    server.push(&name).unwrap();
    bytes[60_000_000] ^= 1;
    server.write(&name, &bytes);
    assert_eq!(server.push(&name).unwrap_err().code, ::recoup::core::failure::Code::Refused);
    server.lose_state();
    assert_eq!(server.push(&name).unwrap_err().code, ::recoup::core::failure::Code::Refused);
    bytes[60_000_000] ^= 1;
    server.write(&name, &bytes);
    assert!(server.push(&name).unwrap().files.is_empty(), "it is there already");
}
