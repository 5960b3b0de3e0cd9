//! Answers to digest challenges: MD5, SHA-256, SHA-512-256, each also `-sess`, with and without `qop` (RFC 2617, 7616, 8760).

use std::fmt::Write as _;

use sha2::Digest;

use crate::process::phlem::sip::value::split_list;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Md5,
    Sha256,
    Sha512Half,
}

impl Algorithm {
    fn parse(text: &str) -> Option<(Self, bool)> {
        let lower = text.to_ascii_lowercase();
        let (name, session) = lower.strip_suffix("-sess").map_or((lower.as_str(), false), |name| (name, true));
        let algorithm = match name {
            "md5" => Self::Md5,
            "sha-256" => Self::Sha256,
            "sha-512-256" => Self::Sha512Half,
            _ => return None,
        };
        Some((algorithm, session))
    }

    fn name(self, session: bool) -> &'static str {
        match (self, session) {
            (Self::Md5, false) => "MD5",
            (Self::Md5, true) => "MD5-sess",
            (Self::Sha256, false) => "SHA-256",
            (Self::Sha256, true) => "SHA-256-sess",
            (Self::Sha512Half, false) => "SHA-512-256",
            (Self::Sha512Half, true) => "SHA-512-256-sess",
        }
    }

    /// Of the parts with colons between them.
    fn hex(self, parts: &[&str]) -> Hex {
        match self {
            Self::Md5 => hex::<md5::Md5>(parts),
            Self::Sha256 => hex::<sha2::Sha256>(parts),
            Self::Sha512Half => hex::<sha2::Sha512_256>(parts),
        }
    }
}

/// Up to 32 bytes.
type Hex = arrayvec::ArrayString<64>;

fn hex<D: Digest>(parts: &[&str]) -> Hex {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digest = D::new();
    for (index, part) in parts.iter().enumerate() {
        digest.update(if index == 0 { "" } else { ":" });
        digest.update(part);
    }
    let mut hex = Hex::new();
    for byte in digest.finalize() {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    hex
}

/// A challenge that can be answered, kept for the next requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    algorithm: Algorithm,
    session: bool,
    realm: Box<str>,
    nonce: Box<str>,
    opaque: Option<Box<str>>,
    auth: bool,
    pub stale: bool,
    /// Asked by a proxy: the answer goes into Proxy-Authorization.
    pub by_proxy: bool,
    /// How often the nonce was used.
    count: u32,
    /// The digest of user, realm and password: the same for every request.
    secret: Option<Hex>,
}

/// What the answer is made from.
pub struct Request<'a> {
    pub user: &'a str,
    pub password: &'a str,
    pub method: &'a str,
    pub uri: &'a str,
    pub cnonce: &'a str,
}

impl Challenge {
    /// None for other schemes, unknown algorithms, and protection of bodies alone (auth-int).
    pub fn parse(value: &str, by_proxy: bool) -> Option<Self> {
        let (scheme, rest) = value.trim().split_once([' ', '\t'])?;
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let mut challenge = Self {
            algorithm: Algorithm::Md5,
            session: false,
            realm: "".into(),
            nonce: "".into(),
            opaque: None,
            auth: false,
            stale: false,
            by_proxy,
            count: 0,
            secret: None,
        };
        let (mut has_nonce, mut qop_wanted) = (false, false);
        for item in split_list(rest) {
            let Some((name, value)) = item.split_once('=') else { continue };
            let value = value.trim();
            let plain = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            match name.trim().to_ascii_lowercase().as_str() {
                "realm" => challenge.realm = plain.into(),
                "nonce" => (challenge.nonce, has_nonce) = (plain.into(), true),
                "opaque" => challenge.opaque = Some(plain.into()),
                "stale" => challenge.stale = plain.eq_ignore_ascii_case("true"),
                "algorithm" => (challenge.algorithm, challenge.session) = Algorithm::parse(plain)?,
                "qop" => {
                    qop_wanted = true;
                    challenge.auth = plain.split(',').any(|qop| qop.trim().eq_ignore_ascii_case("auth"));
                }
                _ => {}
            }
        }
        (has_nonce && (challenge.auth || !qop_wanted)).then_some(challenge)
    }

    /// RFC 8760 §2.4: "the UAC SHOULD use the topmost header field that it supports".
    pub fn choose<'a>(values: impl Iterator<Item = &'a str>, by_proxy: bool) -> Option<Self> {
        values.into_iter().find_map(|value| Self::parse(value, by_proxy))
    }

    /// Its secrets are known: no password is needed again.
    pub fn is_answered(&self) -> bool {
        self.secret.is_some()
    }

    pub fn is_same_nonce(&self, other: &Self) -> bool {
        self.nonce == other.nonce
    }

    /// The value of the next Authorization or Proxy-Authorization.
    pub fn answer(&mut self, request: &Request<'_>) -> String {
        self.count += 1;
        let Request { user, password, method, uri, cnonce } = *request;
        let algorithm = self.algorithm;
        let secret = *self.secret.get_or_insert_with(|| algorithm.hex(&[user, &self.realm, password]));
        let first = if self.session { algorithm.hex(&[&secret, &self.nonce, cnonce]) } else { secret };
        let second = algorithm.hex(&[method, uri]);
        // RFC 7616 §3.4: "The nc value is the hexadecimal count of the number of requests (including the current request) that
        // the client has sent with the nonce value in this request." Eight digits.
        let count = format!("{:08x}", self.count);
        let response = if self.auth {
            algorithm.hex(&[&first, &self.nonce, &count, cnonce, "auth", &second])
        } else {
            algorithm.hex(&[&first, &self.nonce, &second])
        };
        let mut out = String::with_capacity(256);
        let (realm, nonce, name) = (&self.realm, &self.nonce, algorithm.name(self.session));
        let _ = write!(
            out,
            "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm={name}"
        );
        if self.auth || self.session {
            let _ = write!(out, ", cnonce=\"{cnonce}\"");
        }
        if self.auth {
            let _ = write!(out, ", qop=auth, nc={count}");
        }
        if let Some(opaque) = &self.opaque {
            let _ = write!(out, ", opaque=\"{opaque}\"");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7616 §3.9.1 has these for MD5 and SHA-256, RFC 8760 keeps them.
    #[test]
    fn examples_of_the_rfc() {
        let check = |algorithm: &str, response: &str| {
            let value = format!(
                "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            );
            let mut challenge = Challenge::parse(&value, false).unwrap();
            let request = Request {
                user: "Mufasa",
                password: "Circle of Life",
                method: "GET",
                uri: "/dir/index.html",
                cnonce: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
            };
            let answer = challenge.answer(&request);
            assert!(answer.contains(&format!("response=\"{response}\"")), "{answer}");
            assert!(answer.contains("nc=00000001") && answer.contains("qop=auth,"), "{answer}");
            assert!(challenge.answer(&request).contains("nc=00000002"));
        };
        check("MD5", "8ca523f5e9506fed4657c9700eebdbec");
        check("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1");
    }

    /// RFC 2069's form has no qop; the value is that of RFC 2617 §3.5's secrets without it.
    #[test]
    fn without_qop_and_with_sessions() {
        let mut challenge = Challenge::parse("Digest realm=\"r\",nonce=\"n\"", true).unwrap();
        let request = Request { user: "u", password: "p", method: "INVITE", uri: "sip:x", cnonce: "c" };
        let answer = challenge.answer(&request);
        let md5 = |text: &str| -> String {
            md5::Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let wanted = md5(&format!("{}:n:{}", md5("u:r:p"), md5("INVITE:sip:x")));
        assert!(answer.contains(&wanted) && !answer.contains("qop") && !answer.contains("cnonce"), "{answer}");
        let mut challenge =
            Challenge::parse("digest realm=\"r\",nonce=\"n\",algorithm=MD5-sess,qop=\"auth\"", true).unwrap();
        let first = md5(&format!("{}:n:c", md5("u:r:p")));
        let wanted = md5(&format!("{first}:n:00000001:c:auth:{}", md5("INVITE:sip:x")));
        let answer = challenge.answer(&request);
        assert!(answer.contains(&wanted) && answer.contains("algorithm=MD5-sess"), "{answer}");
    }

    #[test]
    fn the_topmost_that_is_known_is_taken() {
        let choose = |values: &[&str]| Challenge::choose(values.iter().copied(), false).map(|found| found.algorithm);
        let own = |name: &str| format!("Digest realm=\"a, b\", nonce=\"n\", algorithm={name}");
        let (new, sha, md5) = (own("SHA3-9"), own("SHA-512-256"), own("md5"));
        assert_eq!(choose(&[&new, &sha, &md5]), Some(Algorithm::Sha512Half));
        assert_eq!(choose(&[&md5, &sha]), Some(Algorithm::Md5));
        assert_eq!(choose(&["Basic realm=\"x\"", "Digest", "Digest realm=\"x\""]), None);
        assert_eq!(choose(&["Digest realm=\"x\", nonce=\"n\", qop=\"auth-int\""]), None);
        assert_eq!(&*Challenge::parse(&md5, false).unwrap().realm, "a, b");
    }
}
