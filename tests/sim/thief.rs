//! A phone with an account of its own, whose owner has read what the others said: it speaks in their dialogs, from its own
//! address and from a stranger's, and aims media at somebody who has no part in them. With its credentials it takes what it can get.

use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use tipring::base::random::Random;

use crate::text;
use crate::text::Text;

/// Who shall get the media.
pub const VICTIM: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 200));
const METHODS: [&str; 8] = ["BYE", "INVITE", "UPDATE", "INFO", "PRACK", "ACK", "CANCEL", "REFER"];
/// Of the program that has the stolen account; its owner's phone is at another.
const PORT: u16 = 40_405;

/// Somebody else has the name and the password of a phone.
#[derive(Debug)]
pub struct Account {
    pub at: SocketAddr,
    user: String,
    password: String,
    challenge: Option<(Text, u32)>,
    /// How often it was let in.
    pub accepted: u32,
    pub refused: u32,
}

impl Account {
    pub fn new(phone: SocketAddr, user: &str, password: &str) -> Self {
        let (user, password) = (user.to_owned(), password.to_owned());
        Self { at: SocketAddr::new(phone.ip(), PORT), user, password, challenge: None, accepted: 0, refused: 0 }
    }

    pub fn hears(&mut self, text: Text) {
        match text.status() {
            401 => self.challenge = Some((text, 0)),
            200..=299 => self.accepted += 1,
            400.. => self.refused += 1,
            _ => {}
        }
    }

    /// Many calls, long headers, many Vias, many registrations; `rings`: who never answers.
    pub fn next(&mut self, rings: &str, random: &mut Random) -> Vec<u8> {
        let (user, at, number) = (&self.user, self.at, random.next_u64());
        let (method, uri) = match random.below(6) {
            0 | 1 => ("INVITE", format!("sip:{rings}@acme.test")),
            2 => ("INVITE", "sip:1999@acme.test".to_owned()),
            3 | 4 => ("REGISTER", "sip:acme.test".to_owned()),
            _ => ("OPTIONS", format!("sip:{rings}@acme.test")),
        };
        let answer = self.challenge.as_mut().and_then(|(challenge, count)| {
            *count += 1;
            text::authorization(challenge, user, &self.password, method, &uri, *count)
        });
        let answer = answer.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        let vias =
            format!("Via: SIP/2.0/UDP 10.0.0.9;branch=z9hG4bK{number:x}\r\n").repeat(random.below(3) as usize * 12);
        let long = "x".repeat(random.below(3) as usize * 5_000);
        let to = if method == "REGISTER" { user.as_str() } else { rings };
        let body = if method == "INVITE" { description(number) } else { String::new() };
        let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bKhostile{number:x};rport\r\n{vias}Max-Forwards: 70\r\n\
             From: <sip:{user}@acme.test>;tag={number:x}\r\nTo: <sip:{to}@acme.test>\r\nCall-ID: {number:x}\r\n\
             CSeq: 1 {method}\r\nContact: <sip:{user}@{at};line={}>\r\nSubject: a{long}\r\n{answer}{kind}\
             Content-Length: {}\r\n\r\n{body}",
            number % 50,
            body.len(),
        )
        .into_bytes()
    }
}

/// A request in the dialog of `seen`, which a phone said or heard. `None`: it is in none.
pub fn steal(seen: &[u8], is_from_phone: bool, own: SocketAddr, random: &mut Random) -> Option<(SocketAddr, Vec<u8>)> {
    let seen = Text::parse(seen)?;
    // Who said a request, and who heard an answer, is called From.
    let is_of_caller = is_from_phone == (seen.status() == 0);
    let (from, to) = if is_of_caller { ("from", "to") } else { ("to", "from") };
    let (from, to) = (seen.get(from), seen.get(to));
    if !(from.contains(";tag=") && to.contains(";tag=")) || seen.method() == "REGISTER" {
        return None;
    }
    let number = random.next_u64();
    let at = if random.chance(1, 2) { own } else { SocketAddr::new(STRANGER, 5060 + (number % 5) as u16) };
    let method = METHODS[random.below(METHODS.len() as u64) as usize];
    let cseq = u64::from(seen.cseq().0) + random.below(3);
    let body = match method {
        "INVITE" | "UPDATE" | "PRACK" | "ACK" => description(number),
        _ => String::new(),
    };
    let kind = if body.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
    let more = if method == "PRACK" { format!("RAck: 1 {} INVITE\r\n", seen.cseq().0) } else { String::new() };
    let request = format!(
        "{method} sip:acme.test SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bKhostile{number:x};rport\r\nMax-Forwards: 70\r\n\
         From: {from}\r\nTo: {to}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:thief@{at}>\r\n{more}{kind}\
         Content-Length: {}\r\n\r\n{body}",
        seen.get("call-id"),
        body.len(),
    );
    Some((at, request.into_bytes()))
}

fn description(number: u64) -> String {
    format!(
        "v=0\r\no=- 1 {} IN IP4 {VICTIM}\r\ns=-\r\nc=IN IP4 {VICTIM}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
         a=rtcp:4001 IN IP4 {VICTIM}\r\n",
        number % 1_000_000 + 2
    )
}
