//! SIP as text, read and written here alone: the phones of the simulator share no code with the engine.

use std::collections::BTreeMap;

use md5::Digest;
use md5::Md5;

/// A message taken apart by lines; header names in lower case.
#[derive(Clone, Debug)]
pub struct Text {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Text {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let headers = lines
            .map(|line| line.split_once(':').map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned())))
            .collect::<Option<Vec<_>>>()?;
        let length: usize = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
        assert_eq!(length, body.len(), "Content-Length of {start}");
        Some(Self { start, headers, body: body.to_owned() })
    }

    /// The first header of this name.
    pub fn get(&self, name: &str) -> &str {
        self.headers.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(own, _)| own == name).map(|(_, value)| value.as_str()).collect()
    }

    /// 0 for a request.
    pub fn status(&self) -> u16 {
        let Some(rest) = self.start.strip_prefix("SIP/2.0 ") else { return 0 };
        rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Of the request, or of CSeq.
    pub fn method(&self) -> &str {
        if self.status() == 0 { self.start.split(' ').next().unwrap_or("") } else { self.cseq().1 }
    }

    pub fn cseq(&self) -> (u32, &str) {
        let (number, method) = self.get("cseq").split_once(' ').unwrap_or(("0", ""));
        (number.parse().unwrap_or(0), method)
    }

    pub fn branch(&self) -> String {
        param(self.get("via"), "branch").unwrap_or_default()
    }

    pub fn to_tag(&self) -> String {
        param(self.get("to"), "tag").unwrap_or_default()
    }

    /// The URI between the brackets of the first Contact.
    pub fn contact(&self) -> String {
        let contact = self.get("contact");
        contact.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(contact, |(uri, _)| uri).to_owned()
    }

    /// What the sender of a description calls itself.
    pub fn token(&self) -> &str {
        self.body.lines().find_map(|line| line.strip_prefix("a=x-sim:")).unwrap_or("")
    }

    pub fn media_lines(&self) -> usize {
        self.body.lines().filter(|line| line.starts_with("m=")).count()
    }

    /// address:port of the first audio stream, and its direction.
    pub fn media(&self) -> Option<(std::net::SocketAddr, &str)> {
        let address = self.body.lines().find_map(|line| line.strip_prefix("c=IN IP4 "))?;
        let audio = self.body.lines().find_map(|line| line.strip_prefix("m=audio "))?;
        let port: u16 = audio.split(' ').next()?.parse().ok()?;
        let direction =
            ["sendonly", "recvonly", "inactive"].into_iter().find(|name| self.body.contains(&format!("a={name}")));
        Some((std::net::SocketAddr::new(address.parse().ok()?, port), direction.unwrap_or("sendrecv")))
    }
}

/// The length of the first message of a stream, once it is whole.
pub fn whole(stream: &[u8]) -> Option<usize> {
    let head = stream.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&stream[..head]).expect("text");
    let length: Option<usize> =
        text.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
    let len = head + length.unwrap_or_else(|| panic!("no Content-Length on a stream: {text}"));
    (stream.len() >= len).then_some(len)
}

/// `name=value` among the parameters of a header value.
pub fn param(value: &str, name: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|part| {
        let (own, value) = part.trim().split_once('=')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
    })
}

/// The parameters of a Digest challenge.
fn challenge(value: &str) -> BTreeMap<String, String> {
    value
        .trim_start_matches("Digest ")
        .split(',')
        .filter_map(|part| part.trim().split_once('='))
        .map(|(name, value)| (name.to_lowercase(), value.trim_matches('"').to_owned()))
        .collect()
}

fn md5(text: &str) -> String {
    Md5::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer to the MD5 challenge of a 401 (RFC 7616 §3.4.1, qop=auth).
pub fn authorization(response: &Text, user: &str, password: &str, method: &str, uri: &str, nc: u32) -> Option<String> {
    let header = response.all("www-authenticate").into_iter().find(|value| {
        let algorithm = challenge(value).get("algorithm").cloned().unwrap_or_else(|| "MD5".to_owned());
        algorithm.eq_ignore_ascii_case("md5")
    })?;
    let asked = challenge(header);
    let (realm, nonce) = (asked.get("realm")?, asked.get("nonce")?);
    let (nc, cnonce) = (format!("{nc:08x}"), "0a4f113b");
    let ha1 = md5(&format!("{user}:{realm}:{password}"));
    let ha2 = md5(&format!("{method}:{uri}"));
    let answer = md5(&format!("{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}"));
    Some(format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{answer}\", \
         algorithm=MD5, cnonce=\"{cnonce}\", qop=auth, nc={nc}"
    ))
}
