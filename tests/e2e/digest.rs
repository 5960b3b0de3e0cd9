//! HTTP digest (RFC 7616, RFC 8760) from the phone's side. Written apart from the server's: a shared mistake would hide.

use md5::Md5;
use sha2::Digest;
use sha2::Sha256;
use sha2::Sha512_256;

use crate::message::parameter;

/// The credentials that answer `challenge`.
pub struct Answer<'a> {
    pub challenge: &'a str,
    pub user: &'a str,
    pub password: &'a str,
    pub method: &'a str,
    pub uri: &'a str,
    pub nonce_count: u32,
}

impl Answer<'_> {
    /// The value of an Authorization header.
    pub fn value(&self) -> String {
        let realm = parameter(self.challenge, "realm").unwrap_or_default();
        let nonce = parameter(self.challenge, "nonce").unwrap_or_default();
        let algorithm = parameter(self.challenge, "algorithm").unwrap_or_else(|| "MD5".into());
        let ha1 = hash(&algorithm, &format!("{}:{realm}:{}", self.user, self.password));
        let ha2 = hash(&algorithm, &format!("{}:{}", self.method, self.uri));
        let count = format!("{:08x}", self.nonce_count);
        let cnonce = "0a4f113b";
        let has_qop = parameter(self.challenge, "qop").is_some();
        let response = if has_qop {
            hash(&algorithm, &format!("{ha1}:{nonce}:{count}:{cnonce}:auth:{ha2}"))
        } else {
            hash(&algorithm, &format!("{ha1}:{nonce}:{ha2}"))
        };
        let mut value = format!(
            "Digest username=\"{}\",realm=\"{realm}\",nonce=\"{nonce}\",uri=\"{}\",response=\"{response}\",algorithm={algorithm}",
            self.user, self.uri
        );
        if has_qop {
            value.push_str(&format!(",qop=auth,nc={count},cnonce=\"{cnonce}\""));
        }
        if let Some(opaque) = parameter(self.challenge, "opaque") {
            value.push_str(&format!(",opaque=\"{opaque}\""));
        }
        value
    }
}

fn hash(algorithm: &str, text: &str) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    match algorithm.to_ascii_uppercase().as_str() {
        "MD5" => hex(&Md5::digest(text)),
        "SHA-256" => hex(&Sha256::digest(text)),
        "SHA-512-256" => hex(&Sha512_256::digest(text)),
        other => panic!("the server offered {other}"),
    }
}

// RFC 7616 §3.9.1
#[test]
fn the_example_of_the_rfc() {
    let challenge = "Digest realm=\"http-auth@example.org\", qop=\"auth\", algorithm=SHA-256, nonce=\"7ypf\"";
    let answer =
        Answer { challenge, user: "Mufasa", password: "Circle of Life", method: "GET", uri: "/", nonce_count: 1 };
    assert!(answer.value().contains("username=\"Mufasa\",realm=\"http-auth@example.org\""));
    assert_eq!(hash("MD5", "Mufasa:http-auth@example.org:Circle of Life"), "3d78807defe7de2157e2b0b6573a855f");
}
