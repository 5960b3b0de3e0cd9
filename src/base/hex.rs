//! Bytes in hexadecimal on the hot path: no formatting machinery, no allocation.

use arrayvec::ArrayString;

const DIGITS: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'];

/// Two lower-case digits a byte, up to `DIGITS_MAX`.
pub fn hex<const DIGITS_MAX: usize>(bytes: &[u8]) -> ArrayString<DIGITS_MAX> {
    let mut text = ArrayString::new();
    for nibble in bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).take(DIGITS_MAX) {
        text.push(DIGITS[usize::from(nibble)]);
    }
    text
}

/// The sixteen digits of a hash or a random number.
pub fn hex64(value: u64) -> ArrayString<16> {
    hex(&value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_formatter_writes_it() {
        for value in [0, 1, 0x0123_4567_89AB_CDEF, 0xFEDC_BA98_7654_3210, u64::MAX] {
            assert_eq!(hex64(value).as_str(), format!("{value:016x}"));
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        assert_eq!(hex::<3>(&[0xAB, 0xCD]).as_str(), "abc");
    }
}
