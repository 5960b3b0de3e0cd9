//! Numbers in hexadecimal, for tags and keys on the hot path: no formatting machinery, no allocation.

use arrayvec::ArrayString;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Sixteen lower-case digits.
pub fn hex64(value: u64) -> ArrayString<16> {
    let mut text = ArrayString::new();
    for shift in (0..16).rev() {
        let digit = DIGITS.get((value >> (4 * shift) & 15) as usize).copied().unwrap_or(b'0');
        text.push(char::from(digit));
    }
    text
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
}
