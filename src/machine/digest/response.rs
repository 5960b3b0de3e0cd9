//! The digest itself: RFC 7616 §3.4.1 with `qop=auth`, and RFC 2069 without `qop`; MD5, SHA-256, SHA-512/256.
//!
//! Computed from HA1, never from a password. `-sess` and `auth-int` are not offered and not here.

use arrayvec::ArrayString;
use md5::Md5;
use sha2::Digest;
use sha2::Sha256;
use sha2::Sha512_256;
use subtle::ConstantTimeEq;

use crate::base::hex::hex;
use crate::machine::settings::Algorithm;
use crate::wire::link::Ha1;
use crate::wire::sip::Credentials;

/// Hexadecimal digits of the longest digest.
const HEX_MAX: usize = 64;
type Hex = ArrayString<HEX_MAX>;

/// Stands in for the secret of a user that does not exist, so that both cost the same.
const NOBODY: [u8; 32] = [0; 32];

impl Algorithm {
    /// RFC 7616 §6.1: the registered name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// In any case; the `-sess` forms are none of ours.
    pub fn parse(name: &[u8]) -> Option<Self> {
        [Self::Md5, Self::Sha256, Self::Sha512_256]
            .into_iter()
            .find(|known| known.name().as_bytes().eq_ignore_ascii_case(name))
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha256 | Self::Sha512_256 => 32,
        }
    }
}

/// HA1 of a phone for this algorithm.
pub(super) fn secret_of(ha1: &Ha1, algorithm: Algorithm) -> Option<&[u8]> {
    match algorithm {
        Algorithm::Md5 => ha1.md5.as_ref().map(<[u8; 16]>::as_slice),
        Algorithm::Sha256 => ha1.sha256.as_ref().map(<[u8; 32]>::as_slice),
        Algorithm::Sha512_256 => ha1.sha512_256.as_ref().map(<[u8; 32]>::as_slice),
    }
}

/// The response is that of whoever knows the secret. Without one the same is computed and the answer is no.
pub(super) fn is_right(
    credentials: &Credentials<'_>,
    algorithm: Algorithm,
    method: &[u8],
    secret: Option<&[u8]>,
) -> bool {
    let nobody = NOBODY.get(..algorithm.bytes()).unwrap_or(&NOBODY);
    let expected = expected(credentials, algorithm, method, secret.unwrap_or(nobody));
    let given = credentials.response.to_ascii_lowercase();
    bool::from(expected.as_bytes().ct_eq(&given)) & secret.is_some()
}

/// `LHEX(KD(H(A1), …))`.
fn expected(credentials: &Credentials<'_>, algorithm: Algorithm, method: &[u8], ha1: &[u8]) -> Hex {
    let (ha1, ha2) = (hex::<HEX_MAX>(ha1), hash(algorithm, &[method, b":", credentials.uri]));
    let (ha1, ha2) = (ha1.as_bytes(), ha2.as_bytes());
    match credentials.qop {
        Some(qop) => {
            let (nc, cnonce) = (credentials.nc_text.unwrap_or_default(), credentials.cnonce.unwrap_or_default());
            hash(algorithm, &[ha1, b":", credentials.nonce, b":", nc, b":", cnonce, b":", qop, b":", ha2])
        }
        // RFC 7616 §3.4.1 and RFC 2069 §2.1.2: a client that knows no qop.
        None => hash(algorithm, &[ha1, b":", credentials.nonce, b":", ha2]),
    }
}

fn hash(algorithm: Algorithm, parts: &[&[u8]]) -> Hex {
    #[cfg(test)]
    tests::HASHES.with(|hashes| hashes.set(hashes.get() + 1));
    match algorithm {
        Algorithm::Md5 => hex_of::<Md5>(parts),
        Algorithm::Sha256 => hex_of::<Sha256>(parts),
        Algorithm::Sha512_256 => hex_of::<Sha512_256>(parts),
    }
}

fn hex_of<D: Digest>(parts: &[&[u8]]) -> Hex {
    let mut digest = D::new();
    for part in parts {
        digest.update(part);
    }
    hex(&digest.finalize())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// Hashes computed by this thread: what an answer costs.
        pub(crate) static HASHES: Cell<u32> = const { Cell::new(0) };
    }

    /// HA1 as the side process computes it.
    pub(crate) fn ha1(user: &str, realm: &str, password: &str) -> Ha1 {
        let text = format!("{user}:{realm}:{password}");
        Ha1 {
            md5: Some(Md5::digest(&text).into()),
            sha256: Some(Sha256::digest(&text).into()),
            sha512_256: Some(Sha512_256::digest(&text).into()),
        }
    }

    /// What a phone with this HA1 answers.
    pub(crate) fn respond(credentials: &Credentials<'_>, algorithm: Algorithm, method: &[u8], ha1: &Ha1) -> String {
        let expected = expected(credentials, algorithm, method, secret_of(ha1, algorithm).unwrap());
        expected.to_string()
    }

    /// RFC 7616 §3.9.1.
    const EXAMPLE: Credentials<'_> = Credentials {
        username: b"Mufasa",
        username_extended: None,
        realm: b"http-auth@example.org",
        nonce: b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        uri: b"/dir/index.html",
        response: b"",
        algorithm: None,
        cnonce: Some(b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"),
        opaque: None,
        qop: Some(b"auth"),
        nc: Some(1),
        nc_text: Some(b"00000001"),
        userhash: false,
    };

    #[test]
    fn rfc_7616_examples() {
        let ha1 = ha1("Mufasa", "http-auth@example.org", "Circle of Life");
        for (algorithm, response) in [
            (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
            (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
        ] {
            let secret = secret_of(&ha1, algorithm);
            for response in [response.to_owned(), response.to_ascii_uppercase()] {
                let credentials = Credentials { response: response.as_bytes(), ..EXAMPLE };
                assert!(is_right(&credentials, algorithm, b"GET", secret));
                assert!(!is_right(&credentials, algorithm, b"POST", secret));
                assert!(!is_right(&credentials, algorithm, b"GET", None));
                assert!(!is_right(&Credentials { nc_text: Some(b"1"), ..credentials }, algorithm, b"GET", secret));
                assert!(!is_right(&Credentials { uri: b"/", ..credentials }, algorithm, b"GET", secret));
            }
            for length in 0..response.len() {
                let credentials = Credentials { response: &response.as_bytes()[..length], ..EXAMPLE };
                assert!(!is_right(&credentials, algorithm, b"GET", secret), "{length}");
            }
        }
    }

    #[test]
    fn rfc_2617_example_and_the_form_without_qop() {
        let ha1 = ha1("Mufasa", "testrealm@host.com", "Circle Of Life");
        let credentials = Credentials {
            realm: b"testrealm@host.com",
            nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
            cnonce: Some(b"0a4f113b"),
            response: b"6629fae49393a05397450978507c4ef1",
            ..EXAMPLE
        };
        assert!(is_right(&credentials, Algorithm::Md5, b"GET", secret_of(&ha1, Algorithm::Md5)));
        let bare = Credentials {
            qop: None,
            nc: None,
            nc_text: None,
            cnonce: None,
            response: b"670fd8c2df070c60b045671b8b24ff02",
            ..credentials
        };
        assert!(is_right(&bare, Algorithm::Md5, b"GET", secret_of(&ha1, Algorithm::Md5)));
    }

    /// RFC 7616 §3.9.2 as corrected by erratum 4897: its digests were truncated SHA-512.
    #[test]
    fn rfc_7616_example_with_sha_512_256() {
        let ha1 = ha1("J\u{e4}s\u{f8}n Doe", "api@example.org", "Secret, or not?");
        let credentials = Credentials {
            nonce: b"5TsQWLVdgBdmrQ0XsxbDODV+57QdFR34I9HAbC/RVvkK",
            uri: b"/doe.json",
            cnonce: Some(b"NTg6RKcb9boFIAS3KrFK9BGeh+iDa/sm6jUMp2wds69v"),
            response: b"3798d4131c277846293534c3edc11bd8a5e4cdcbff78b05db9d95eeb1cec68a5",
            ..EXAMPLE
        };
        assert!(is_right(&credentials, Algorithm::Sha512_256, b"GET", secret_of(&ha1, Algorithm::Sha512_256)));
    }

    #[test]
    fn names() {
        for (name, algorithm) in [
            ("MD5", Some(Algorithm::Md5)),
            ("md5", Some(Algorithm::Md5)),
            ("SHA-256", Some(Algorithm::Sha256)),
            ("sha-512-256", Some(Algorithm::Sha512_256)),
            ("MD5-sess", None),
            ("SHA-256-sess", None),
            ("SHA256", None),
            ("", None),
        ] {
            assert_eq!(Algorithm::parse(name.as_bytes()), algorithm, "{name}");
        }
    }
}
