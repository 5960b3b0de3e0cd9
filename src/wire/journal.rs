//! Checked records in a file, one after the other: length, CRC-32C and bytes (little-endian) behind a magic.
//!
//! What a crash or a full disk tore off ends the file. The engine's bindings are written so.

pub const MAGIC: &[u8; 8] = b"tipjrn\x00\x01";
pub const PREFIX_LEN: usize = 8;
/// A length beyond this is damage, not a record.
pub const RECORD_BYTES_MAX: u32 = 1 << 20;

/// The records of a whole file, up to the first that is not whole and right; none if it is no journal.
pub fn records(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = file.strip_prefix(MAGIC).unwrap_or_default();
    std::iter::from_fn(move || {
        let (&[a, b, c, d, e, f, g, h], behind) = rest.split_first_chunk::<PREFIX_LEN>()?;
        let len = u32::from_le_bytes([a, b, c, d]);
        let (record, behind) = behind.split_at_checked(usize::try_from(len).ok()?)?;
        if len > RECORD_BYTES_MAX || crc32c::crc32c(record) != u32::from_le_bytes([e, f, g, h]) {
            return None;
        }
        rest = behind;
        Some(record)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(written: &[&[u8]]) -> Vec<u8> {
        let record = |record: &&[u8]| {
            [&(record.len() as u32).to_le_bytes()[..], &crc32c::crc32c(record).to_le_bytes(), record].concat()
        };
        [MAGIC.to_vec(), written.iter().map(record).collect::<Vec<_>>().concat()].concat()
    }

    #[test]
    fn reading_stops_at_damage() {
        let whole = file(&[b"first", b"", b"third"]);
        assert_eq!(records(&whole).collect::<Vec<_>>(), [&b"first"[..], b"", b"third"]);
        for cut in 0..whole.len() {
            let read = records(&whole[..cut]).count();
            assert_eq!(read, usize::from(cut >= 21) + usize::from(cut >= 29), "cut at {cut}");
        }
        for flipped in 0..21 {
            let mut bytes = whole.clone();
            bytes[flipped] ^= 0x80;
            assert_eq!(records(&bytes).count(), 0, "flipped {flipped}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = records(&bytes).count();
            let _ = records(&[MAGIC.to_vec(), bytes].concat()).count();
        }
    }
}
