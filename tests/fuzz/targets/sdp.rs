//! Properties of `wire::sdp` and of the description that we send instead, over any bytes.

use std::net::IpAddr;

use tipring::base::limit::SDP_BYTES_MAX;
use tipring::machine::media::rewrite::LocalDescription;
use tipring::machine::media::rewrite::LocalPorts;
use tipring::machine::media::rewrite::rewrite;
use tipring::wire::sdp;
use tipring::wire::sdp::Session;
use tipring::wire::sdp::facts::Described;

const OURS: &str = "198.51.100.1";
const PORT: u16 = 20_000;

/// What is read and written is read again as the same; what we send instead can be read, is the same when nothing changed,
/// and leads to us alone.
pub(crate) fn description(bytes: &[u8]) {
    let Ok(session) = sdp::parse(bytes) else { return };
    let mut once = Vec::new();
    session.emit(&mut once);
    if once.len() <= SDP_BYTES_MAX {
        let again = sdp::parse(&once).expect("what we write is a description");
        let mut twice = Vec::new();
        again.emit(&mut twice);
        assert!(once == twice, "{} | {}", once.escape_ascii(), twice.escape_ascii());
        assert_eq!(Described::of(&session).media, Described::of(&again).media);
    }
    leads_to_us(&session);
}

fn leads_to_us(session: &Session<'_>) {
    let ports = vec![Some(LocalPorts { rtp: PORT, rtcp: PORT + 1, mux: true }); session.media.len()];
    let mut local = LocalDescription::new(7);
    let ours: IpAddr = OURS.parse().expect("an address");
    let sent = rewrite(session, ours, &ports, &mut local);
    assert_eq!(rewrite(session, ours, &ports, &mut local), sent, "nothing changed: RFC 3264 §8");
    if sent.len() > SDP_BYTES_MAX {
        return;
    }
    let told = sdp::parse(&sent).expect("what we send is a description");
    assert_eq!(told.media.len(), session.media.len(), "RFC 3264 §6: an answer has as many m-lines");
    assert!(told.media.iter().all(|media| media.port == PORT || media.port == 0));
    let lines = || told.head.iter().chain(told.media.iter().flat_map(|media| &media.lines));
    let connections: Vec<_> = lines().filter(|line| line.name == b'c').collect();
    assert!(matches!(connections[..], [line] if line.value == b"IN IP4 198.51.100.1"));
    assert_eq!(told.head.iter().filter(|line| line.name == b'o').count(), 1);
    for address in addresses(session) {
        let found = lines().find(|line| !b"oc".contains(&line.name) && contains(line.value, address));
        assert!(found.is_none(), "{found:?} shows {}", address.escape_ascii());
    }
}

/// The party's connection addresses that say where it is.
fn addresses<'a>(session: &Session<'a>) -> Vec<&'a [u8]> {
    let lines = session.head.iter().chain(session.media.iter().flat_map(|media| &media.lines));
    let third = |value: &'a [u8]| value.split(u8::is_ascii_whitespace).filter(|token| !token.is_empty()).nth(2);
    let found = lines.filter(|line| line.name == b'c').filter_map(|line| third(line.value));
    let address = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<IpAddr>().ok();
    found.filter(|text| address(text).is_some_and(|address| !address.is_unspecified())).collect()
}

/// The address stands there, and not as a part of a longer number.
fn contains(text: &[u8], part: &[u8]) -> bool {
    let continues = |byte: Option<&u8>| match part.contains(&b':') {
        true => byte.is_some_and(u8::is_ascii_hexdigit),
        false => byte.is_some_and(u8::is_ascii_digit),
    };
    text.windows(part.len()).enumerate().any(|(at, window)| {
        window == part
            && !continues(text.get(at + part.len()))
            && !continues(at.checked_sub(1).and_then(|at| text.get(at)))
    })
}
