//! Packs: one age file around concatenated zstd frames of at most 128 KiB raw each.
//!
//! The raw content of a pack is a sequence of blocks of one size. Frame tables live in `index.age`.

use super::{
    FormatError,
    seal::{Hashed, Identities, Recipients, SealedObject},
};
use crate::core::id::Sha256;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Raw bytes in every frame of a pack but the last.
pub const FRAME_BYTES: usize = 128 * 1024;
/// A pack closes when it has reached this many sealed bytes ...
pub const PACK_SEALED_BYTES: usize = 32 * 1024 * 1024;
/// ... or this many raw bytes.
pub const PACK_RAW_BYTES: u64 = 256 * 1024 * 1024;
/// The most raw bytes that a reader accepts in a pack.
pub const PACK_RAW_BYTES_MAX: u64 = PACK_RAW_BYTES + 64 * 1024 * 1024;
/// The most bytes one compressed frame may have.
pub const FRAME_COMPRESSED_BYTES_MAX: u32 = FRAME_BYTES as u32 + 1024;

/// The digest of a block: the first 16 bytes of its keyed BLAKE3.
pub type BlockDigest = [u8; 16];

/// The digest of a block's bytes.
pub fn block_digest(key: &[u8; 32], block: &[u8]) -> BlockDigest {
    let digest = blake3::keyed_hash(key, block);
    *digest.as_bytes().first_chunk().expect("a BLAKE3 digest has 32 bytes")
}

/// What a ranged reader needs to know of a pack; one line of `index.age`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PackIndex {
    /// Number in its run.
    pub pack: u32,
    /// Bytes in a block.
    pub block_size: u32,
    /// SHA-256 of the age header and nonce: the first `payload_offset` bytes.
    pub header_sha256: Sha256,
    /// Where the encrypted payload begins.
    pub payload_offset: u64,
    /// Raw bytes in the pack; every frame but the last holds 128 KiB of them.
    pub raw_bytes: u64,
    /// Compressed bytes of each frame.
    pub frames: Vec<u32>,
}

impl PackIndex {
    /// Number of blocks in the pack.
    pub fn blocks(&self) -> u64 {
        self.raw_bytes / u64::from(self.block_size)
    }

    /// Why the line cannot describe a pack, if so.
    pub fn contradiction(&self) -> Option<&'static str> {
        if !crate::core::manifest::block_size_is_valid(self.block_size) {
            Some("a block size that no pack has")
        } else if self.raw_bytes > PACK_RAW_BYTES_MAX || !self.raw_bytes.is_multiple_of(u64::from(self.block_size)) {
            Some("a raw size that no pack has")
        } else if self.frames.len() as u64 != self.raw_bytes.div_ceil(FRAME_BYTES as u64) {
            Some("frames that do not add up to its raw size")
        } else if self.frames.iter().any(|bytes| *bytes == 0 || *bytes > FRAME_COMPRESSED_BYTES_MAX) {
            Some("a frame of a size that no frame has")
        } else if self.payload_offset > 64 * 1024 {
            Some("a header longer than any")
        } else {
            None
        }
    }

    /// Raw bytes of frame `frame`.
    pub fn frame_raw_bytes(&self, frame: usize) -> usize {
        let before = frame as u64 * FRAME_BYTES as u64;
        (self.raw_bytes - before).min(FRAME_BYTES as u64) as usize
    }
}

/// A pack as it left the builder.
pub struct SealedPack {
    /// The object.
    pub object: SealedObject,
    /// Its line in `index.age`.
    pub index: PackIndex,
    /// Digests of its blocks, in order.
    pub digests: Vec<BlockDigest>,
}

/// Compresses frames; reused over many packs by one thread.
pub type Compressor = zstd::bulk::Compressor<'static>;

/// A compressor of the given zstd level.
pub fn new_compressor(level: i32) -> Compressor {
    Compressor::new(level).expect("a compressor can be made for every level that the configuration accepts")
}

/// Builds one pack: takes blocks, compresses and seals them as it goes.
pub struct PackBuilder {
    number: u32,
    block_size: u32,
    output: age::stream::StreamWriter<Hashed>,
    raw: Vec<u8>,
    compressed: Vec<u8>,
    payload_bytes: u64,
    raw_bytes: u64,
    frames: Vec<u32>,
    digests: Vec<BlockDigest>,
}

impl PackBuilder {
    /// An empty pack.
    pub fn new(number: u32, block_size: u32, recipients: &Recipients) -> io::Result<Self> {
        assert!(crate::core::manifest::block_size_is_valid(block_size), "block size {block_size}");
        Ok(PackBuilder {
            number,
            block_size,
            output: recipients.seal(Hashed::with_capacity(PACK_SEALED_BYTES + 2 * FRAME_BYTES))?,
            raw: Vec::with_capacity(FRAME_BYTES),
            compressed: vec![0; zstd::zstd_safe::compress_bound(FRAME_BYTES)],
            payload_bytes: 0,
            raw_bytes: 0,
            frames: Vec::new(),
            digests: Vec::new(),
        })
    }

    /// The block size of the pack.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether it is time to close the pack.
    pub fn is_full(&self) -> bool {
        self.payload_bytes >= PACK_SEALED_BYTES as u64 || self.raw_bytes >= PACK_RAW_BYTES
    }

    /// The number that the next block will have in the pack.
    pub fn next_block(&self) -> u64 {
        self.raw_bytes / u64::from(self.block_size)
    }

    /// Appends one block and its digest.
    pub fn append(&mut self, compressor: &mut Compressor, block: &[u8], digest: BlockDigest) -> io::Result<()> {
        assert_eq!(block.len(), self.block_size as usize, "a pack holds blocks of one size");
        self.raw.extend_from_slice(block);
        self.raw_bytes += block.len() as u64;
        self.digests.push(digest);
        if self.raw.len() == FRAME_BYTES { self.close_frame(compressor) } else { Ok(()) }
    }

    fn close_frame(&mut self, compressor: &mut Compressor) -> io::Result<()> {
        let length = compressor.compress_to_buffer(&self.raw, &mut self.compressed)?;
        self.output.write_all(&self.compressed[..length])?;
        self.frames.push(u32::try_from(length).expect("a frame is small"));
        self.payload_bytes += length as u64;
        self.raw.clear();
        Ok(())
    }

    /// Closes the pack.
    pub fn finish(mut self, compressor: &mut Compressor) -> io::Result<SealedPack> {
        if !self.raw.is_empty() {
            self.close_frame(compressor)?;
        }
        let object = self.output.finish()?.finish();
        let chunks = self.payload_bytes.div_ceil(CHUNK_BYTES).max(1);
        let payload_offset = object.size() - self.payload_bytes - chunks * TAG_BYTES;
        let index = PackIndex {
            pack: self.number,
            block_size: self.block_size,
            header_sha256: super::sha256(&object.bytes[..payload_offset as usize]),
            payload_offset,
            raw_bytes: self.raw_bytes,
            frames: self.frames,
        };
        assert_eq!(index.contradiction(), None, "pack {}", self.number);
        Ok(SealedPack { object, index, digests: self.digests })
    }
}

/// Plain bytes in every chunk of an age payload but the last.
pub(crate) const CHUNK_BYTES: u64 = 64 * 1024;
/// Bytes of authentication in every chunk.
pub(crate) const TAG_BYTES: u64 = 16;

/// Reads the frames of a pack and hands out the raw blocks that are wanted.
pub struct PackReader<'a, R> {
    index: &'a PackIndex,
    payload: age::stream::StreamReader<R>,
    decompressor: zstd::bulk::Decompressor<'static>,
    next_frame: usize,
    compressed: Vec<u8>,
    raw: Vec<u8>,
    raw_frame: Option<usize>,
}

impl<'a, R: Read + Seek> PackReader<'a, R> {
    /// Opens a pack whose header was compared with the index already (see [`check_header`]).
    pub fn new(sealed: R, index: &'a PackIndex, identities: &Identities) -> Result<Self, FormatError> {
        Ok(PackReader {
            index,
            payload: identities.open(sealed)?,
            decompressor: zstd::bulk::Decompressor::new().map_err(FormatError::damaged)?,
            next_frame: 0,
            compressed: Vec::new(),
            raw: Vec::with_capacity(FRAME_BYTES),
            raw_frame: None,
        })
    }

    /// The bytes of as many of the `count` blocks from `block` as lie in one frame, at least one.
    ///
    /// Ascending order is cheapest: frames between are skipped, and going back means opening a frame again.
    pub fn blocks(&mut self, block: u64, count: u64) -> Result<&[u8], FormatError> {
        let block_size = self.index.block_size as usize;
        if count == 0 || block.checked_add(count).is_none_or(|end| end > self.index.blocks()) {
            return Err(FormatError::damaged(format_args!("it has no block {block}, or not {count} from there")));
        }
        let blocks_per_frame = (FRAME_BYTES / block_size) as u64;
        let frame = (block / blocks_per_frame) as usize;
        if self.raw_frame != Some(frame) {
            self.load(frame)?;
        }
        let at = (block % blocks_per_frame) as usize * block_size;
        let end = (at + usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(block_size)).min(self.raw.len());
        Ok(&self.raw[at..end])
    }

    fn load(&mut self, frame: usize) -> Result<(), FormatError> {
        if frame != self.next_frame {
            let offset = self.index.frames[..frame].iter().map(|bytes| u64::from(*bytes)).sum();
            self.payload.seek(SeekFrom::Start(offset)).map_err(FormatError::damaged)?;
        }
        self.compressed.resize(self.index.frames[frame] as usize, 0);
        self.payload.read_exact(&mut self.compressed).map_err(FormatError::damaged)?;
        self.next_frame = frame + 1;
        let expected = self.index.frame_raw_bytes(frame);
        self.raw.clear();
        self.raw.reserve(expected);
        let length =
            self.decompressor.decompress_to_buffer(&self.compressed, &mut self.raw).map_err(FormatError::damaged)?;
        if length != expected {
            return Err(FormatError::damaged(format_args!("frame {frame} holds {length} bytes, not {expected}")));
        }
        self.raw_frame = Some(frame);
        Ok(())
    }
}

/// Compares the age header of a pack with the one recorded when it was sealed.
///
/// Anyone can seal to public recipients; only bytes under the recorded header are the host's.
pub fn check_header(start: &[u8], index: &PackIndex) -> Result<(), FormatError> {
    let header = start.get(..index.payload_offset as usize).ok_or_else(|| FormatError::damaged("it ends early"))?;
    if super::sha256(header) == index.header_sha256 {
        super::seal::check_header_ends(header)
    } else {
        Err(FormatError::damaged("its header is not the one that was recorded when it was sealed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{ranged, seal::new_identity};
    use std::io::Cursor;

    fn sample(block_size: u32, blocks: u64) -> (SealedPack, Identities, Vec<Vec<u8>>) {
        let (text, recipient) = new_identity("now");
        let recipients = Recipients::parse(&[recipient]).unwrap();
        let mut compressor = new_compressor(1);
        let mut builder = PackBuilder::new(3, block_size, &recipients).unwrap();
        let content: Vec<Vec<u8>> =
            (0..blocks).map(|block| (0..block_size).map(|byte| ((byte as u64 * block) >> 5) as u8).collect()).collect();
        for block in &content {
            builder.append(&mut compressor, block, block_digest(&[7; 32], block)).unwrap();
        }
        (builder.finish(&mut compressor).unwrap(), Identities::parse(&text).unwrap(), content)
    }

    #[test]
    fn blocks_round_trip() {
        for (block_size, blocks) in [(512, 1), (4096, 100), (65_536, 5), (4096, 32), (4096, 33)] {
            let (pack, identities, content) = sample(block_size, blocks);
            check_header(&pack.object.bytes, &pack.index).unwrap();
            let mut reader = PackReader::new(Cursor::new(&pack.object.bytes[..]), &pack.index, &identities).unwrap();
            for (number, block) in content.iter().enumerate().rev().chain(content.iter().enumerate()) {
                assert_eq!(reader.blocks(number as u64, 1).unwrap(), block);
                assert_eq!(pack.digests[number], block_digest(&[7; 32], block));
            }
            assert!(reader.blocks(blocks, 1).is_err());
        }
    }

    #[test]
    fn frames_are_skipped() {
        let (pack, identities, content) = sample(4096, 200);
        let mut reader = PackReader::new(Cursor::new(&pack.object.bytes[..]), &pack.index, &identities).unwrap();
        for number in [5, 6, 150, 199] {
            assert_eq!(reader.blocks(number, 1).unwrap(), content[number as usize]);
        }
    }

    #[test]
    fn single_blocks_are_read_by_range() {
        let (pack, identities, content) = sample(4096, 2000);
        let object = &pack.object.bytes;
        for wanted in [vec![(0, 1)], vec![(700, 3)], vec![(1999, 1)], vec![(31, 2), (1000, 1), (1040, 64)], vec![]] {
            let ranges = ranged::ranges(&pack.index, object.len() as u64, wanted.iter().copied());
            let fetched: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert!(fetched <= object.len() as u64);
            let pieces =
                ranges.iter().map(|range| (range.start, object.slice(range.start as usize..range.end as usize)));
            let sparse = ranged::SparseObject::new(object.len() as u64, pieces);
            check_header(sparse.start(), &pack.index).unwrap();
            let mut reader = PackReader::new(sparse, &pack.index, &identities).unwrap();
            for block in wanted.iter().flat_map(|(first, count)| *first..first + count) {
                assert_eq!(reader.blocks(block, 1).unwrap(), content[block as usize]);
            }
        }
    }

    #[test]
    fn stock_zstd_reads_the_payload() {
        let (pack, identities, content) = sample(4096, 200);
        let payload = identities.open(&pack.object.bytes[..]).unwrap();
        let raw = zstd::stream::decode_all(payload).unwrap();
        assert_eq!(raw, content.concat());
    }

    #[test]
    fn a_pack_sealed_again_is_noticed() {
        let (pack, _, _) = sample(4096, 10);
        let (forged, _, _) = sample(4096, 10);
        assert!(check_header(&forged.object.bytes, &pack.index).is_err());
        assert!(check_header(&pack.object.bytes[..50], &pack.index).is_err());
    }

    #[test]
    fn lying_indexes_are_refused() {
        let (pack, identities, _) = sample(4096, 100);
        let lies: [fn(&mut PackIndex); 6] = [
            |index| index.block_size = 1000,
            |index| index.raw_bytes += 1,
            |index| index.raw_bytes = u64::MAX / 4096 * 4096,
            |index| index.frames[0] = u32::MAX,
            |index| index.frames.push(1),
            |index| index.payload_offset = u64::MAX,
        ];
        for lie in lies {
            let mut index = pack.index.clone();
            lie(&mut index);
            assert!(index.contradiction().is_some(), "{index:?}");
        }
        // A frame that decompresses to more than it may, or to less, is damage and not a bomb.
        let mut index = pack.index.clone();
        index.raw_bytes -= 4096;
        assert_eq!(index.contradiction(), None);
        let mut reader = PackReader::new(Cursor::new(&pack.object.bytes[..]), &index, &identities).unwrap();
        assert!(reader.blocks(98, 1).is_err());
    }
}
