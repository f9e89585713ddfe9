//! Segments that are larger than what is held in memory.

use super::server::{SYSTEM, Server};
use crate::support::{peak_of, recoup};
use ::recoup::{core::log::SegmentName, sources::postgres::wal::synthetic::Synthetic};
use std::fs;

const BYTES: u64 = 128 << 20;
/// What a command may take, however large a segment is.
const PEAK_KIB: u64 = 96 * 1024;

/// A segment whose content cannot be compressed, with one record.
fn written(number: u64) -> (String, Vec<u8>) {
    let name = SegmentName::of_number(1, number, BYTES);
    let mut bytes = Synthetic::new(SYSTEM, name, BYTES).record(10, 0, b"first").bytes().to_vec();
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
    let (name, bytes) = written(3);
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
    spoil("a", &|bytes| bytes[100_000_000] ^= 1);
    spoil("b", &|bytes| bytes.truncate(100_000_000));
    fs::remove_file(server.target()).unwrap();
    let mended = archive(&fetch);
    server.assert_target(&name);
    for peak in [pushed, again, fetched, mended] {
        assert!((10_000..PEAK_KIB).contains(&peak), "{peak} KiB of {PEAK_KIB}");
    }
    let left = fs::read_dir(server.wal()).unwrap().count();
    assert_eq!(left, 3, "the segment, the target, and what the server notes");
}

#[test]
fn other_content_of_a_large_segment_is_refused() {
    let server = Server::new(SYSTEM);
    let (name, mut bytes) = written(3);
    server.write(&name, &bytes);
    server.push(&name).unwrap();
    bytes[100_000_000] ^= 1;
    server.write(&name, &bytes);
    assert_eq!(server.push(&name).unwrap_err().code, ::recoup::core::failure::Code::Refused);
    server.lose_state();
    assert_eq!(server.push(&name).unwrap_err().code, ::recoup::core::failure::Code::Refused);
    bytes[100_000_000] ^= 1;
    server.write(&name, &bytes);
    assert!(server.push(&name).unwrap().files.is_empty(), "it is there already");
}
