//! `index.age`: the frame tables of a run's packs, as sealed JSON Lines.

use super::{FormatError, check_format, pack::PackIndex};
use crate::core::id::RunId;
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

/// Reads the lines of a run's index.
pub fn parse(lines: &[u8], run: RunId) -> Result<BTreeMap<u32, PackIndex>, FormatError> {
    let mut lines = super::manifest::lines(lines);
    let head: Head = super::manifest::parse_line(lines.next().unwrap_or_default())?;
    check_format(&head.format, FORMAT)?;
    if head.run != run {
        return Err(FormatError::damaged("it is the index of another run"));
    }
    let mut packs = BTreeMap::new();
    for line in lines {
        let pack: PackIndex = super::manifest::parse_line(line)?;
        if let Some(why) = pack.contradiction() {
            return Err(FormatError::damaged(format_args!("it describes pack {} with {why}", pack.pack)));
        }
        let number = pack.pack;
        if packs.insert(number, pack).is_some() {
            return Err(FormatError::damaged(format_args!("it describes pack {number} twice")));
        }
    }
    Ok(packs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::id::Sha256;

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
        let lines = to_lines(run, [&pack]);
        assert_eq!(parse(&lines, run).unwrap(), BTreeMap::from([(0, pack.clone())]));
        assert!(parse(&lines, RunId::from_random([4; 16])).is_err());
        let largest = PackIndex {
            pack: u32::MAX,
            block_size: 65_536,
            payload_offset: 64 * 1024,
            raw_bytes: crate::format::pack::PACK_RAW_BYTES_MAX,
            frames: vec![crate::format::pack::FRAME_COMPRESSED_BYTES_MAX; 2560],
            ..pack.clone()
        };
        assert_eq!(largest.contradiction(), None);
        assert!(to_lines(run, [&largest]).len() as u64 <= max_raw_bytes(1));
        assert!(parse(&to_lines(run, [&pack, &pack]), run).is_err());
        assert!(parse(b"", run).is_err());
        assert!(parse(&to_lines(run, [&PackIndex { frames: vec![1, 2], ..pack }]), run).is_err());
    }
}
