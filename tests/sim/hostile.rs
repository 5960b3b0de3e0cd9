//! Somebody on the Internet who means harm: forges the addresses and ports of the phones, floods, and guesses passwords.
//!
//! It hears nothing of what it forges. Where it has an address of its own, also one behind a phone's NAT, it answers challenges.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::SocketAddr;

use tipring::base::random::Random;

use crate::text;
use crate::text::Text;

/// In the Call-ID of everything that it says and that can be read.
const MARK: &[u8] = b"@hostile";
/// Of a guesser behind a phone's address.
const PORT_BEHIND: u16 = 40_404;
/// Addresses of its own; they are strangers'.
const ADDRESSES: u8 = 40;

pub fn is_hostile(bytes: &[u8]) -> bool {
    bytes.windows(MARK.len()).any(|window| window == MARK)
}

/// What it knows, and what it got for what.
#[derive(Debug, Default)]
pub struct Hostile {
    victims: Vec<(SocketAddr, String)>,
    guessers: Vec<Guesser>,
    /// Bytes of each request, by its branch.
    asked: BTreeMap<String, usize>,
    pub bytes_out: usize,
    pub bytes_back: usize,
}

#[derive(Debug)]
struct Guesser {
    at: SocketAddr,
    user: String,
    challenge: Option<Text>,
    count: u32,
}

impl Hostile {
    /// `victims`: the addresses and users of the phones. It guesses at the first.
    pub fn new(victims: Vec<(SocketAddr, String)>) -> Self {
        let own = (0..ADDRESSES).map(|n| SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 100 + n)), 5060));
        let behind = victims.iter().map(|(sip, _)| SocketAddr::new(sip.ip(), PORT_BEHIND));
        let user = victims.first().map(|(_, user)| user.clone()).unwrap_or_default();
        let guesser = |at| Guesser { at, user: user.clone(), challenge: None, count: 0 };
        let guessers = own.chain(behind).map(guesser).collect();
        Self { victims, guessers, ..Self::default() }
    }

    /// One datagram, and where it says that it comes from.
    pub fn next(&mut self, random: &mut Random) -> (SocketAddr, Vec<u8>) {
        let (from, bytes) = if random.chance(1, 3) { self.guess(random) } else { self.forge(random) };
        self.bytes_out += bytes.len();
        if let Some(text) = Text::parse(&bytes) {
            self.asked.insert(text.branch(), bytes.len());
        }
        (from, bytes)
    }

    /// The node answered `to`: never with three times what it was asked.
    pub fn got(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.bytes_back += bytes.len();
        let text = Text::parse(bytes).unwrap();
        let asked = self.asked.get(&text.branch()).copied().unwrap_or(0);
        assert!(bytes.len() <= 3 * asked, "{} bytes for {asked} to {to}", bytes.len());
        if let Some(guesser) = self.guessers.iter_mut().find(|guesser| guesser.at == to)
            && text.status() == 401
        {
            guesser.challenge = Some(text);
        }
    }

    fn guess(&mut self, random: &mut Random) -> (SocketAddr, Vec<u8>) {
        let at = random.below(self.guessers.len() as u64) as usize;
        let guesser = &mut self.guessers[at];
        guesser.count += 1;
        let uri = "sip:acme.test";
        let wrong = format!("guess-{}", guesser.count);
        let answer = guesser
            .challenge
            .take()
            .and_then(|challenge| text::authorization(&challenge, &guesser.user, &wrong, "REGISTER", uri, 1));
        let authorization = answer.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
        (guesser.at, request("REGISTER", uri, guesser.at, &guesser.user, &authorization, random))
    }

    fn forge(&self, random: &mut Random) -> (SocketAddr, Vec<u8>) {
        let (sip, user) = &self.victims[random.below(self.victims.len() as u64) as usize];
        let from = match random.below(3) {
            0 => *sip,
            1 => SocketAddr::new(sip.ip(), 9),
            _ => SocketAddr::new(sip.ip(), random.below(65_535) as u16 + 1),
        };
        let somebody = format!("{}", 1000 + random.below(20));
        let user = if random.chance(1, 2) { user } else { &somebody };
        let bytes = match random.below(7) {
            0 => (0..random.below(300)).map(|_| random.below(256) as u8).collect(),
            1 => b"garbage\r\n\r\n".to_vec(),
            2 => {
                let text = request("INVITE", "sip:1001@acme.test", from, user, "", random);
                String::from_utf8_lossy(&text).replace("CSeq: 1", "CSeq: x").into_bytes()
            }
            3 => request("OPTIONS", "sip:acme.test", from, user, "", random),
            4 => request("REGISTER", "sip:acme.test", from, user, "", random),
            5 => request("INVITE", "sip:1001@acme.test", from, user, "", random),
            _ => {
                let methods = ["CANCEL", "BYE", "MESSAGE", "SUBSCRIBE", "FOO"];
                request(methods[random.below(5) as usize], "sip:1001@acme.test", from, user, "", random)
            }
        };
        (from, bytes)
    }
}

fn request(method: &str, uri: &str, from: SocketAddr, user: &str, more: &str, random: &mut Random) -> Vec<u8> {
    let number = random.next_u64();
    // Sometimes a dialog of ours is guessed at: the place of a call that may be there, and not its secret.
    let tag = match random.below(4) {
        0 if method != "REGISTER" => format!(";tag=tr1.{:0>16}{:0>12}", random.below(4), 0),
        _ => String::new(),
    };
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {from};branch=z9hG4bKhostile{number:x};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:{user}@acme.test>;tag={number:x}\r\nTo: <sip:{user}@acme.test>{tag}\r\nCall-ID: {number:x}{}\r\n\
         CSeq: 1 {method}\r\nContact: <sip:{user}@{from}>\r\n{more}Content-Length: 0\r\n\r\n",
        String::from_utf8_lossy(MARK)
    )
    .into_bytes()
}
