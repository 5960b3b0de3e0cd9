//! SIP messages as the test phones read them: lines of text, nothing typed. Not the server's scanner on purpose.

#[derive(Clone, Debug)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

const COMPACT: [(&str, &str); 8] = [
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("l", "Content-Length"),
    ("c", "Content-Type"),
    ("k", "Supported"),
];

impl Message {
    /// The first whole message of `bytes` and its length.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let head_end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
        let mut lines = head.split("\r\n").skip_while(|line| line.is_empty());
        let start = lines.next()?.to_owned();
        let mut headers: Vec<(String, String)> = Vec::new();
        for line in lines {
            if line.starts_with([' ', '\t']) {
                let last = headers.last_mut()?;
                last.1.push(' ');
                last.1.push_str(line.trim());
                continue;
            }
            let (name, value) = line.split_once(':')?;
            let name = name.trim();
            let full =
                COMPACT.iter().find(|(short, _)| short.eq_ignore_ascii_case(name)).map_or(name, |(_, full)| full);
            headers.push((full.to_owned(), value.trim().to_owned()));
        }
        let mut message = Self { start, headers, body: String::new() };
        let len = message.header("Content-Length").and_then(|len| len.parse().ok()).unwrap_or(0);
        let body = bytes.get(head_end + 4..head_end + 4 + len)?;
        message.body = String::from_utf8_lossy(body).into_owned();
        Some((message, head_end + 4 + len))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.0.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        let same = move |header: &&'a (String, String)| header.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str())
    }

    /// The value of a header that has to be there.
    pub fn must(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// 0 for a request.
    pub fn status(&self) -> u16 {
        let rest = self.start.strip_prefix("SIP/2.0 ").unwrap_or("0");
        rest.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Of a request; of a response, the one it answers.
    pub fn method(&self) -> &str {
        if self.status() == 0 {
            return self.start.split(' ').next().unwrap_or_default();
        }
        self.header("CSeq").and_then(|value| value.split_whitespace().nth(1)).unwrap_or_default()
    }

    pub fn request_uri(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    pub fn cseq(&self) -> u32 {
        self.header("CSeq").and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    pub fn call_id(&self) -> &str {
        self.header("Call-ID").unwrap_or_default()
    }

    /// Where its SDP wants a stream sent: the connection address and the port of the first m-line.
    pub fn media(&self) -> Option<std::net::SocketAddr> {
        self.media_of(0)
    }

    pub fn media_of(&self, index: usize) -> Option<std::net::SocketAddr> {
        let connection = |line: &&str| line.starts_with("c=IN IP");
        let sections: Vec<&str> = self.body.split("\r\nm=").collect();
        let section = sections.get(index + 1)?;
        let line = section.lines().find(connection).or_else(|| sections[0].lines().find(connection))?;
        let address = line.split(' ').nth(2)?.trim().parse().ok()?;
        let port = section.split(' ').nth(1)?.parse().ok()?;
        Some(std::net::SocketAddr::new(address, port))
    }
}

/// A `name=value` of a header, without its quotes.
pub fn parameter(value: &str, name: &str) -> Option<String> {
    let mut rest = value;
    loop {
        let at = rest.to_ascii_lowercase().find(&format!("{}=", name.to_ascii_lowercase()))?;
        let before = rest[..at].chars().next_back();
        let after = &rest[at + name.len() + 1..];
        if before.is_none_or(|before| " ,;\t".contains(before)) {
            let found = match after.strip_prefix('"') {
                Some(quoted) => quoted.split('"').next()?,
                None => after.split([',', ';', ' ', '>']).next()?,
            };
            return Some(found.to_owned());
        }
        rest = after;
    }
}

/// The URI of a name-addr or addr-spec.
pub fn uri_of(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
        None => value.split(';').next().unwrap_or_default().trim(),
    }
}

#[test]
fn a_folded_compact_message() {
    let bytes = b"\r\nBYE sip:a SIP/2.0\r\ni: 7\r\nTo: <sip:b>\r\n ;tag=x\r\nl: 2\r\n\r\nabc";
    let (message, len) = Message::parse(bytes).unwrap();
    assert_eq!((message.method(), message.call_id(), message.body.as_str()), ("BYE", "7", "ab"));
    assert_eq!(parameter(message.must("To"), "tag").as_deref(), Some("x"));
    assert_eq!(uri_of(message.must("To")), "sip:b");
    assert_eq!(len, bytes.len() - 1);
}
