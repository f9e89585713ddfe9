//! `global/pg_control`: what a data directory is, as its server last wrote it.

use super::failures;
use crate::{
    core::{
        failure::Failure,
        log::{Lsn, SEGMENT_BYTES},
        manifest::block_size_is_valid,
    },
    world::files,
};
use std::{path::Path, thread, time::Duration};

/// Where it is in a data directory.
pub const PATH: &str = "global/pg_control";
/// Its size.
pub(super) const BYTES: usize = 8192;
/// The server writes it in one piece, but nothing promises that it is read in one.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Versions of the format, where each one's checksum stands, and the server's version.
const LAYOUTS: &[(u32, usize)] = &[(1300, 288), (1800, 292)];
const OLDEST_CATALOG: u32 = 202_209_061;

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) system: u64,
    pub(super) catalog_version: u32,
    pub(super) state: u32,
    pub(super) checkpoint: Lsn,
    pub(super) redo: Lsn,
    pub(super) timeline: u32,
    /// Blocks in a file of a relation.
    pub(super) segment_blocks: u32,
    pub(super) block_size: u32,
    pub(super) wal_segment_bytes: u64,
    /// Whether pages have checksums.
    pub(super) has_checksums: bool,
}

/// What the server says it is doing, in words.
const STATES: [&str; 7] = [
    "starting up",
    "shut down",
    "shut down in recovery",
    "shutting down",
    "in crash recovery",
    "in archive recovery",
    "in production",
];

impl Control {
    /// What the server was doing.
    pub(super) fn state_text(&self) -> &'static str {
        STATES.get(self.state as usize).copied().unwrap_or("in an unknown state")
    }

    /// Reads the bytes of the file; says why they cannot be right, if so.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let u32_at = |at: usize| {
            bytes.get(at..at + 4).map(|field| u32::from_le_bytes(field.try_into().expect("four bytes"))).unwrap_or(0)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | (u64::from(u32_at(at + 4)) << 32);
        let version = u32_at(8);
        let layout = LAYOUTS.iter().find(|(known, _)| *known == version);
        let (_, crc_at) = layout.ok_or_else(|| match version.swap_bytes() {
            swapped if LAYOUTS.iter().any(|(known, _)| *known == swapped) => "it is of another architecture".to_owned(),
            _ => format!("its version is {version}; this build reads those of PostgreSQL 15 to 18"),
        })?;
        let covered = bytes.get(..*crc_at).filter(|_| bytes.len() >= crc_at + 4).ok_or("it is cut short")?;
        if crc32c::crc32c(covered) != u32_at(*crc_at) {
            return Err("its checksum is wrong".to_owned());
        }
        let control = Control {
            system: u64_at(0),
            catalog_version: u32_at(12),
            state: u32_at(16),
            checkpoint: Lsn(u64_at(32)),
            redo: Lsn(u64_at(40)),
            timeline: u32_at(48),
            block_size: u32_at(216),
            segment_blocks: u32_at(220),
            wal_segment_bytes: u64::from(u32_at(228)),
            has_checksums: u32_at(252) != 0,
        };
        if control.catalog_version < OLDEST_CATALOG {
            return Err("the server is older than PostgreSQL 15".to_owned());
        }
        let is_segment =
            SEGMENT_BYTES.contains(&control.wal_segment_bytes) && control.wal_segment_bytes.is_power_of_two();
        if !block_size_is_valid(control.block_size) || control.segment_blocks == 0 || !is_segment {
            return Err("its sizes of blocks and segments are impossible".to_owned());
        }
        Ok(control)
    }

    /// Reads it from a data directory, with its bytes.
    pub(super) fn read(data_dir: &Path) -> Result<(Self, Vec<u8>), Failure> {
        let path = data_dir.join(PATH);
        let mut last = String::new();
        for attempt in 0..TRIES {
            if attempt > 0 {
                thread::sleep(PAUSE);
            }
            let read = files::read_start(&path, BYTES as u64 + 1);
            let bytes = read.map_err(|error| failures::unreadable(&path, &error))?;
            if bytes.len() != BYTES {
                last = format!("it has {} bytes", bytes.len());
                continue;
            }
            match Control::parse(&bytes) {
                Ok(control) => return Ok((control, bytes)),
                Err(why) => last = why,
            }
        }
        Err(failures::unfit(format!("{} cannot be used", path.display()))
            .cause(last)
            .next_step("check data_dir of the source: it must be the data directory of a PostgreSQL 15 to 18"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(version: u32, crc_at: usize) -> Vec<u8> {
        let mut bytes = vec![0; BYTES];
        let mut put = |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        for (at, value) in [(0, 7), (4, 1), (8, version), (12, 202_307_071), (16, 6), (32, 0x30), (36, 1), (40, 0x28)] {
            put(at, value);
        }
        for (at, value) in [(44, 1), (48, 3), (216, 8192), (220, 131_072), (228, 16 << 20), (252, 1)] {
            put(at, value);
        }
        let crc = crc32c::crc32c(&bytes[..crc_at]);
        bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn control_files() {
        for (version, crc_at) in [(1300, 288), (1800, 292)] {
            let control = Control::parse(&bytes(version, crc_at)).unwrap();
            assert_eq!((control.system, control.timeline), ((1 << 32) + 7, 3));
            assert_eq!((control.checkpoint, control.redo), (Lsn((1 << 32) + 0x30), Lsn((1 << 32) + 0x28)));
            assert!(control.has_checksums && control.state_text() == "in production");
            for at in 0..crc_at + 4 {
                let mut damaged = bytes(version, crc_at);
                damaged[at] ^= 1;
                assert!(Control::parse(&damaged).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn bad_control_files() {
        assert!(Control::parse(&[]).is_err());
        assert!(Control::parse(&bytes(1300, 288)[..200]).is_err());
        assert!(Control::parse(&bytes(1201, 288)).unwrap_err().contains("1201"));
        assert!(Control::parse(&bytes(1300_u32.swap_bytes(), 288)).unwrap_err().contains("architecture"));
    }
}
