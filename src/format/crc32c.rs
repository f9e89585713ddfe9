//! CRC-32C (Castagnoli), as PostgreSQL uses it for its control file, WAL records and summaries: eight bytes a step,
//! from tables.

const POLYNOMIAL: u32 = 0x82F6_3B78;

static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut level = 1;
    while level < 8 {
        let mut byte = 0;
        while byte < 256 {
            let below = tables[level - 1][byte];
            tables[level][byte] = (below >> 8) ^ tables[0][(below & 0xFF) as usize];
            byte += 1;
        }
        level += 1;
    }
    tables
}

/// The checksum of several pieces, one after the other.
pub fn crc32c<'p>(pieces: impl IntoIterator<Item = &'p [u8]>) -> u32 {
    let mut crc = Crc32c::default();
    pieces.into_iter().for_each(|piece| crc.add(piece));
    crc.value()
}

/// The checksum of what comes piece by piece.
#[derive(Clone, Copy, Debug)]
pub struct Crc32c(u32);

impl Default for Crc32c {
    fn default() -> Self {
        Crc32c(u32::MAX)
    }
}

impl Crc32c {
    /// Adds a piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.0 = advance(self.0, piece);
    }

    /// The checksum of everything so far.
    pub fn value(self) -> u32 {
        !self.0
    }
}

fn advance(mut crc: u32, bytes: &[u8]) -> u32 {
    let table = |level: usize, value: u32, shift: u32| TABLES[level][((value >> shift) & 0xFF) as usize];
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let [a, b, c, d, e, f, g, h] = *chunk;
        let low = crc ^ u32::from_le_bytes([a, b, c, d]);
        let high = u32::from_le_bytes([e, f, g, h]);
        crc = table(7, low, 0) ^ table(6, low, 8) ^ table(5, low, 16) ^ table(4, low, 24);
        crc ^= table(3, high, 0) ^ table(2, high, 8) ^ table(1, high, 16) ^ table(0, high, 24);
    }
    rest.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLES[0][((crc ^ u32::from(*byte)) & 0xFF) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_checksums() {
        for (bytes, crc) in
            [(&b""[..], 0), (b"123456789", 0xE306_9283), (&[0; 32], 0x8A91_36AA), (&[0xFF; 32], 0x62A8_AB43)]
        {
            assert_eq!(crc32c([bytes]), crc, "{bytes:?}");
        }
        assert_eq!(crc32c([b"1234".as_slice(), b"", b"56789"]), 0xE306_9283);
    }
}
