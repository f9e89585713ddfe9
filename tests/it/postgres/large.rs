//! Segments of 64 MiB that cannot be compressed: no command needs more memory for them.

use super::cluster::{BALANCED, Cluster};
use crate::{
    archive::large::{PEAK_KIB, measured},
    needs::needs,
};
use std::fs;

/// More than a segment of it stands in the log.
const NOISE_BYTES: usize = 100 << 20;

/// What `check` may take.
const CHECK_KIB: u64 = PEAK_KIB / 2;

/// Bytes without any order.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 7u64;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (state ^ (state >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes()
    });
    words.take(bytes / 8).flatten().collect()
}

struct Measured {
    cluster: Cluster,
    peaks: Vec<(String, u64)>,
}

impl Measured {
    #[track_caller]
    fn run(&mut self, arguments: &[&str], code: i32) {
        let (found, peak) = measured(&mut self.cluster.recoup(arguments.iter().copied()));
        assert_eq!(found, code, "{arguments:?}");
        self.peaks.push((arguments.join(" "), peak));
    }

    #[track_caller]
    fn restore(&mut self, to: &str, extra: &[&str], code: i32) {
        let fixed = ["restore", "ledger", "--identity", "R/custodian.age", "--target", "latest", "--to", to];
        self.run(&[&fixed, extra].concat(), code);
    }
}

#[test]
fn no_command_holds_a_large_segment() {
    if !(needs("postgres15") && needs("setpriv")) {
        return;
    }
    let cluster = super::ledger_with("postgres15", &["--wal-segsize=64"]);
    cluster.sql("data", "postgres", &["ALTER SYSTEM SET autovacuum = off", "SELECT pg_reload_conf()"]);
    cluster.backup(&[]).expect_code(0);
    let place = cluster.path("noise");
    fs::write(&place, noise(NOISE_BYTES)).unwrap();
    let message = format!("SELECT pg_logical_emit_message(true, 'noise', pg_read_binary_file('{}'))", place.display());
    cluster.sql("data", "ledger", &[&message]);
    // In a segment of its own, most of which is written.
    let half = message.replace("'))", "', 0, 50000000))");
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()", &half]);
    let spaced = super::restores::tablespace(&cluster, "late");
    assert!(!spaced.is_empty());
    cluster.sql("data", "ledger", &["SELECT pg_switch_wal()"]);
    cluster.drained("data");
    // What is committed here is in the server's own log alone.
    fs::write(cluster.path("broken"), "").unwrap();
    cluster.sql("data", "ledger", &[&half, "INSERT INTO filler VALUES (0, 'not shipped')"]);
    fs::remove_dir_all(cluster.path("c/sources/ledger/log")).unwrap();

    let mut at = Measured { cluster, peaks: Vec::new() };
    at.run(&["copy"], 0);
    at.run(&["verify", "--all"], 0);
    at.run(&["check"], 1);
    at.restore("refused", &["--dry-run"], 17);
    at.restore("restored", &["--fetch-log", "--confirm=ledger"], 1);
    let (peaks, cluster) = (at.peaks, &mut at.cluster);
    // It reads less than a segment of the server's own log.
    assert!(peaks[2].1 < CHECK_KIB, "of {CHECK_KIB} KiB: {peaks:#?}");
    assert!(peaks.iter().all(|(_, peak)| (10_000..PEAK_KIB).contains(peak)), "of {PEAK_KIB} KiB: {peaks:#?}");
    // The server writes where its original has a tablespace, which must not run meanwhile.
    cluster.crash("data");
    cluster.start_restored("restored");
    assert_eq!(cluster.sql("restored", "ledger", &[BALANCED]), "t");
    assert_eq!(cluster.sql("restored", "ledger", &["SELECT count(*) FROM late"]), "30000");
}
