//! Checked records in a file, one after the other: length, CRC-32C and bytes (little-endian) behind a magic.
//!
//! What a crash or a full disk tore off ends the file; damage in the middle costs the records that it hit. The engine's bindings
//! are written so.

pub const MAGIC: &[u8; 8] = b"tipjrn\x00\x01";
pub const PREFIX_LEN: usize = 8;
/// A length beyond this is damage, not a record.
pub const RECORD_BYTES_MAX: u32 = 1 << 20;
/// Bytes that the search for the next record may put through the checksum, for each byte of the file: a file made to be slow ends
/// the search, not the engine.
const SEARCH_PER_BYTE: usize = 64;
const SEARCH_BYTES_MIN: usize = 64 << 20;

/// The records of a whole file that are whole and right, in order.
#[derive(Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    damage: Damage,
    search_left: usize,
}

/// What lies in a file beside its records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Stretches of it with records behind them.
    pub places: u64,
    pub bytes: u64,
    /// Bytes behind the last record: of a record that was being written, unless somebody damaged it.
    pub torn: u64,
}

/// None, and the whole file is damage, if it is no journal.
pub fn records(file: &[u8]) -> Records<'_> {
    let search_left = SEARCH_BYTES_MIN.max(file.len().saturating_mul(SEARCH_PER_BYTE));
    match file.strip_prefix(MAGIC) {
        Some(rest) => Records { rest, damage: Damage::default(), search_left },
        // The magic may be what is damaged.
        None => Records { rest: file, damage: Damage::default(), search_left },
    }
}

impl<'a> Records<'a> {
    /// Whole once the last record was read.
    pub fn damage(&self) -> Damage {
        self.damage
    }

    /// The next place that begins with a record. Empty records are not looked for: zeros would be nothing else.
    fn search(&mut self) -> Option<(&'a [u8], &'a [u8])> {
        let file = self.rest;
        for skipped in 1..file.len().saturating_sub(PREFIX_LEN) {
            let rest = file.get(skipped..)?;
            let len = len_of(rest).filter(|len| (1..=RECORD_BYTES_MAX as usize).contains(len));
            let Some(len) = len.filter(|len| PREFIX_LEN + len <= rest.len()) else { continue };
            self.search_left = self.search_left.checked_sub(len)?;
            if let Some(found) = first(rest) {
                self.damage.places += 1;
                self.damage.bytes += skipped as u64;
                return Some(found);
            }
        }
        None
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let found = first(self.rest).or_else(|| self.search());
        let Some((record, behind)) = found else {
            self.damage.torn += self.rest.len() as u64;
            self.rest = &[];
            return None;
        };
        self.rest = behind;
        Some(record)
    }
}

fn len_of(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().and_then(|len| usize::try_from(u32::from_le_bytes(*len)).ok())
}

/// The record that the bytes begin with, and what is behind it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[a, b, c, d, e, f, g, h], behind) = bytes.split_first_chunk::<PREFIX_LEN>()?;
    let len = u32::from_le_bytes([a, b, c, d]);
    if len > RECORD_BYTES_MAX {
        return None;
    }
    let (record, behind) = behind.split_at_checked(usize::try_from(len).ok()?)?;
    (crc32c::crc32c(record) == u32::from_le_bytes([e, f, g, h])).then_some((record, behind))
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

    fn read(file: &[u8]) -> (Vec<&[u8]>, Damage) {
        let mut records = records(file);
        let read = records.by_ref().collect();
        (read, records.damage())
    }

    #[test]
    fn what_is_torn_off_ends_the_file() {
        let whole = file(&[b"first", b"", b"third"]);
        assert_eq!(read(&whole), (vec![&b"first"[..], b"", b"third"], Damage::default()));
        for cut in MAGIC.len()..whole.len() {
            let (read, damage) = read(&whole[..cut]);
            assert_eq!(read.len(), usize::from(cut >= 21) + usize::from(cut >= 29), "cut at {cut}");
            let kept = [8, 21, 29].into_iter().rfind(|end| *end <= cut).unwrap();
            assert_eq!(damage, Damage { torn: (cut - kept) as u64, ..Damage::default() }, "cut at {cut}");
        }
    }

    /// Wherever 16 bytes are damaged, and with whatever: the records that they touch are gone, the others are there.
    #[test]
    fn damage_costs_the_records_that_it_hit() {
        let texts: Vec<String> = (0..40).map(|index| format!("record {index} {}", "x".repeat(index))).collect();
        let whole = file(&texts.iter().map(|text| text.as_bytes()).collect::<Vec<_>>());
        for with in [0u8, 0x5a, 0xff] {
            for at in 0..whole.len() - 16 {
                let mut damaged = whole.clone();
                damaged[at..at + 16].fill(with);
                let (read, damage) = read(&damaged);
                let read: Vec<_> = read.into_iter().filter(|record| !record.is_empty()).collect();
                let (mut place, mut expected) = (MAGIC.len(), Vec::new());
                for text in &texts {
                    let end = place + PREFIX_LEN + text.len();
                    if place >= at + 16 || end <= at {
                        expected.push(text.as_bytes());
                    }
                    place = end;
                }
                assert_eq!(read, expected, "{with:#x} at {at}");
                assert!(damage.places + damage.torn > 0, "{with:#x} at {at}");
            }
        }
    }

    #[test]
    fn a_file_that_is_made_to_be_slow_ends_the_search() {
        // Every place looks like the beginning of a record of half a megabyte.
        let hostile: Vec<u8> = [0u8, 0, 8, 0].repeat(1 << 20);
        let mut records = records(&hostile);
        assert_eq!(records.by_ref().count(), 0);
        assert_eq!(records.damage().torn, hostile.len() as u64);
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = records(&bytes).count();
            let _ = records(&[MAGIC.to_vec(), bytes].concat()).count();
        }
    }
}
