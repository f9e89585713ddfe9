//! `index.age`: the frame tables of a run's packs, as sealed JSON Lines.

use super::{
    FormatError, check_format,
    pack::PackIndex,
    seal::{Identities, Recipients, SealedObject, open_lines, seal_written},
};
use crate::core::{id::RunId, inventory::PackSet};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The value of `format` in the first line.
pub const FORMAT: &str = "recoup-index/1";
/// The most raw bytes that a reader accepts.
pub const MAX_RAW_BYTES: u64 = 1024 * 1024 * 1024;
/// The most raw bytes that the line of one pack takes: 2,560 frames of six digits, and the rest.
const LINE_BYTES_MAX: u64 = 24 * 1024;

/// The most raw bytes that a reader accepts in the index of a run with this many packs.
pub fn max_raw_bytes(packs: u64) -> u64 {
    packs.saturating_mul(LINE_BYTES_MAX).saturating_add(4096).min(MAX_RAW_BYTES)
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    run: RunId,
}

/// The raw lines.
pub fn to_lines<'a>(run: RunId, packs: impl IntoIterator<Item = &'a PackIndex>) -> Vec<u8> {
    let mut lines = Vec::new();
    super::manifest::push_line(&mut lines, &Head { format: FORMAT.to_owned(), run });
    for pack in packs {
        super::manifest::push_line(&mut lines, pack);
    }
    lines
}

/// Writes and seals the index of a run, of which no more than one line is in memory as text.
pub fn seal(recipients: &Recipients, run: RunId, packs: impl IntoIterator<Item = PackIndex>) -> SealedObject {
    seal_written(recipients, |output| {
        output.write_all(&to_lines(run, []))?;
        let mut line = Vec::new();
        for pack in packs {
            line.clear();
            super::manifest::push_line(&mut line, &pack);
            output.write_all(&line)?;
        }
        Ok(())
    })
}

/// Opens the index of a run with so many packs, and keeps what it says of those that `wanted` names.
///
/// It is read line by line: whatever it holds, no more is in memory than what `keep` makes of each.
pub fn open<T>(
    identities: &Identities,
    sealed: &[u8],
    run: RunId,
    packs: u64,
    wanted: &PackSet,
    keep: impl Fn(PackIndex) -> T,
) -> Result<BTreeMap<u32, T>, FormatError> {
    let mut reading = Reading { run, wanted, keep, begun: false, packs: BTreeMap::new() };
    open_lines(identities, sealed, max_raw_bytes(packs), LINE_BYTES_MAX, |line| reading.line(line))?;
    if reading.begun { Ok(reading.packs) } else { Err(FormatError::damaged("it is empty")) }
}

struct Reading<'a, K, T> {
    run: RunId,
    wanted: &'a PackSet,
    keep: K,
    begun: bool,
    packs: BTreeMap<u32, T>,
}

impl<T, K: Fn(PackIndex) -> T> Reading<'_, K, T> {
    fn line(&mut self, line: &[u8]) -> Result<(), FormatError> {
        if !std::mem::replace(&mut self.begun, true) {
            let head: Head = super::manifest::parse_line(line)?;
            check_format(&head.format, FORMAT)?;
            return if head.run == self.run {
                Ok(())
            } else {
                Err(FormatError::damaged("it is the index of another run"))
            };
        }
        let pack: PackIndex = super::manifest::parse_line(line)?;
        if let Some(why) = pack.contradiction() {
            return Err(FormatError::damaged(format_args!("it describes pack {} with {why}", pack.pack)));
        }
        let number = pack.pack;
        if self.wanted.contains(number) && self.packs.insert(number, (self.keep)(pack)).is_some() {
            return Err(FormatError::damaged(format_args!("it describes pack {number} twice")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{core::id::Sha256, format::seal::seal_small};

    #[test]
    fn indexes_round_trip() {
        let run = RunId::from_random([3; 16]);
        let pack = PackIndex {
            pack: 0,
            block_size: 4096,
            header_sha256: Sha256([2; 32]),
            payload_offset: 200,
            raw_bytes: 8192,
            frames: vec![77],
        };
        let (recipients, identities) = crate::format::seal::tests::pair();
        let read = |lines: &[u8], run: RunId, wanted: &str| {
            let sealed = seal_small(&recipients, lines);
            open(&identities, &sealed.bytes, run, 1, &wanted.parse().unwrap(), |pack| pack)
        };
        let lines = to_lines(run, [&pack]);
        assert_eq!(read(&lines, run, "0").unwrap(), BTreeMap::from([(0, pack.clone())]));
        let written = seal(&recipients, run, [pack.clone()]);
        assert_eq!(crate::format::seal::open_small(&identities, &written.bytes, 4096).unwrap(), lines);
        assert_eq!(read(&lines, run, "1-7").unwrap(), BTreeMap::new());
        assert!(read(&lines, RunId::from_random([4; 16]), "0").is_err());
        let largest = PackIndex {
            pack: u32::MAX,
            block_size: 65_536,
            payload_offset: 64 * 1024,
            raw_bytes: crate::format::pack::PACK_RAW_BYTES_MAX,
            frames: vec![crate::format::pack::FRAME_COMPRESSED_BYTES_MAX; 2560],
            ..pack.clone()
        };
        assert_eq!(largest.contradiction(), None);
        assert_eq!(read(&to_lines(run, [&largest]), run, "4294967295").unwrap().len(), 1);
        assert!(read(&to_lines(run, [&pack, &pack]), run, "0").is_err());
        assert!(read(b"", run, "0").is_err());
        assert!(read(&to_lines(run, [&PackIndex { frames: vec![1, 2], ..pack.clone() }]), run, "0").is_err());
        // A line longer than any, of a pack that nobody asked for.
        let bomb = PackIndex { frames: vec![1; 1_000_000], ..pack };
        let refused = read(&to_lines(run, [&bomb]), run, "1").unwrap_err();
        assert!(refused.to_string().contains("line"), "{refused}");
    }
}
