//! From a password to H(auth_user ":" realm ":" password), RFC 7616 §3.4.2 and RFC 8760.

use md5::Md5;
use sha2::Digest;
use sha2::Sha256;
use sha2::Sha512_256;

use serde::Deserialize;
use serde::Serialize;

use crate::wire::link::Ha1;

/// What a phone proves itself by. Has no `Debug`: it is never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Secret {
    Password(String),
    /// The digests alone, made by somebody else for the realm of that time.
    Digests(Ha1),
}

impl Secret {
    pub(crate) fn ha1(&self, auth_user: &str, realm: &str) -> Ha1 {
        match self {
            Self::Digests(digests) => digests.clone(),
            Self::Password(password) => {
                let text = format!("{auth_user}:{realm}:{password}");
                Ha1 {
                    md5: Some(Md5::digest(&text).into()),
                    sha256: Some(Sha256::digest(&text).into()),
                    sha512_256: Some(Sha512_256::digest(&text).into()),
                }
            }
        }
    }
}

pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0u8; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 §3.9.1: its user, realm and password; §3.9.2 for SHA-512/256.
    #[test]
    fn digests_are_those_of_the_rfc() {
        let ha1 = Secret::Password("Circle of Life".to_owned()).ha1("Mufasa", "http-auth@example.org");
        assert_eq!(to_hex(&ha1.md5.unwrap()), "3d78807defe7de2157e2b0b6573a855f");
        assert_eq!(to_hex(&ha1.sha256.unwrap()), "7987c64c30e25f1b74be53f966b49b90f2808aa92faf9a00262392d7b4794232");
        assert!(ha1.sha512_256.is_some());
    }

    #[test]
    fn hex_is_read_whole_or_not() {
        assert_eq!(from_hex::<2>("0aFf"), Some([10, 255]));
        for bad in ["", "0a", "0aFg", "0aff0", "+aff"] {
            assert_eq!(from_hex::<2>(bad), None, "{bad}");
        }
    }
}
