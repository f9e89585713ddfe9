//! `digests.age`: the keyed digests of every block in a run's packs, sealed to the custodians only.
//!
//! Raw form: a JSON line with format, run and key; then for every pack a JSON line with its number and how many
//! blocks it has, followed by 16 bytes for each. Long lists go on in `digests-1.age` and so on.

use super::{FormatError, check_format, pack::BlockDigest};
use crate::core::id::{RunId, hex, unhex};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The value of `format` in the first line.
pub const FORMAT: &str = "recoup-digests/1";
/// A part closes before it has more raw bytes than this, unless one pack has as many: those 250,000 blocks are all that
/// a backup keeps digests of at a time.
pub const PART_BYTES: usize = 4 * 1024 * 1024;
/// The most raw bytes that a reader accepts in a part.
pub const MAX_RAW_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    run: RunId,
    key: String,
}

#[derive(Serialize, Deserialize)]
struct PackHead {
    pack: u32,
    blocks: u64,
}

/// The beginning of a part.
pub fn start_part(run: RunId, key: &[u8; 32]) -> Vec<u8> {
    let mut raw = Vec::new();
    super::manifest::push_line(&mut raw, &Head { format: FORMAT.to_owned(), run, key: hex(key) });
    raw
}

/// Appends the digests of a pack.
pub fn push_pack(raw: &mut Vec<u8>, pack: u32, digests: &[BlockDigest]) {
    super::manifest::push_line(raw, &PackHead { pack, blocks: digests.len() as u64 });
    raw.extend_from_slice(digests.as_flattened());
}

/// The digests of one part.
pub struct DigestPart {
    /// The key of the digests.
    pub key: [u8; 32],
    raw: Vec<u8>,
    packs: BTreeMap<u32, std::ops::Range<usize>>,
}

impl DigestPart {
    /// Reads the raw form of a part.
    pub fn parse(raw: Vec<u8>, run: RunId) -> Result<Self, FormatError> {
        let mut at = 0;
        let head: Head = super::manifest::parse_line(next_line(&raw, &mut at)?)?;
        check_format(&head.format, FORMAT)?;
        if head.run != run {
            return Err(FormatError::damaged("it has the digests of another run"));
        }
        let key = unhex(&head.key).and_then(|key| key.try_into().ok());
        let key = key.ok_or_else(|| FormatError::damaged("its key is not 32 bytes"))?;
        let mut packs = BTreeMap::new();
        while at < raw.len() {
            let head: PackHead = super::manifest::parse_line(next_line(&raw, &mut at)?)?;
            let bytes = head.blocks.checked_mul(16).and_then(|bytes| usize::try_from(bytes).ok());
            let end = bytes.and_then(|bytes| at.checked_add(bytes)).filter(|end| *end <= raw.len());
            let end = end.ok_or_else(|| FormatError::damaged("it ends early"))?;
            if packs.insert(head.pack, at..end).is_some() {
                return Err(FormatError::damaged(format_args!("it has pack {} twice", head.pack)));
            }
            at = end;
        }
        Ok(DigestPart { key, raw, packs })
    }

    /// The packs it covers.
    pub fn packs(&self) -> impl Iterator<Item = u32> + '_ {
        self.packs.keys().copied()
    }

    /// The digests of a pack's blocks, in order.
    pub fn pack(&self, pack: u32) -> Option<&[BlockDigest]> {
        let (digests, _) = self.raw[self.packs.get(&pack)?.clone()].as_chunks();
        Some(digests)
    }
}

fn next_line<'a>(raw: &'a [u8], at: &mut usize) -> Result<&'a [u8], FormatError> {
    let rest = &raw[*at..];
    // No line of this object is long; a missing line end is not searched for in megabytes of digests.
    let end = rest.iter().take(1024).position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| FormatError::damaged("it ends early"))?;
    *at += end + 1;
    Ok(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_round_trip() {
        let run = RunId::from_random([3; 16]);
        let mut raw = start_part(run, &[9; 32]);
        push_pack(&mut raw, 0, &[[b'\n'; 16], [2; 16]]);
        push_pack(&mut raw, 4, &[]);
        push_pack(&mut raw, 5, &[[3; 16]]);
        let part = DigestPart::parse(raw.clone(), run).unwrap();
        assert_eq!(part.key, [9; 32]);
        assert_eq!(part.packs().collect::<Vec<_>>(), [0, 4, 5]);
        assert_eq!(part.pack(0).unwrap(), [[b'\n'; 16], [2; 16]]);
        assert_eq!(part.pack(5).unwrap(), [[3; 16]]);
        assert!(part.pack(1).is_none());
        assert!(DigestPart::parse(raw[..raw.len() - 1].to_vec(), run).is_err());
        assert!(DigestPart::parse(raw.clone(), RunId::from_random([1; 16])).is_err());
        push_pack(&mut raw, 5, &[]);
        assert!(DigestPart::parse(raw, run).is_err());
        let mut lying = start_part(run, &[9; 32]);
        lying.extend_from_slice(b"{\"pack\":0,\"blocks\":18446744073709551615}\n");
        assert!(DigestPart::parse(lying, run).is_err());
    }
}
