//! What is read and refused, the facts of a description, and that what is read is written and read again.

use proptest::prelude::*;

use super::facts::Described;
use super::facts::Direction;
use super::facts::Kind;
use super::facts::Profile;
use super::*;

const OFFER: &[u8] =
    b"v=0\r\no=alice 2890844526 2890844526 IN IP4 192.0.2.10\r\ns=call\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n\
    m=audio 49170 RTP/AVP 0 8 97 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:97 opus/48000/2\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=rtcp-mux\r\na=sendonly\r\n\
    m=video 51372/2 RTP/SAVPF 96\r\nc=IN IP6 2001:db8::7\r\na=rtpmap:96 H264/90000\r\na=rtcp:51380\r\n\
    m=image 5000 udptl t38\r\n";

fn described(text: &str) -> Described {
    Described::of(&parse(text.as_bytes()).unwrap())
}

#[test]
fn lines_are_kept_in_their_order() {
    let session = parse(OFFER).unwrap();
    let mut out = Vec::new();
    session.emit(&mut out);
    assert_eq!(out.escape_ascii().to_string(), OFFER.escape_ascii().to_string());
}

#[test]
fn facts_of_an_offer() {
    let facts = Described::of(&parse(OFFER).unwrap());
    let [audio, video, image] = facts.media.as_slice() else { panic!("{facts:?}") };
    assert_eq!((audio.kind, audio.profile, audio.relayable), (Kind::Audio, Profile::Avp, true));
    assert_eq!(audio.rtp, Some("192.0.2.10:49170".parse().unwrap()));
    assert_eq!(audio.rtcp, Some("192.0.2.10:49171".parse().unwrap()));
    assert_eq!((audio.direction, audio.rtcp_mux), (Direction::SendOnly, true));
    assert!(audio.formats.iter().any(|format| format.name == "telephone-event" && format.payload_type == 101));
    assert_eq!(
        audio.formats.iter().map(|f| (f.payload_type, f.clock)).collect::<Vec<_>>(),
        [(0, 8_000), (8, 8_000), (97, 48_000), (101, 8_000)]
    );
    assert_eq!(video.rtp, Some("[2001:db8::7]:51372".parse().unwrap()));
    assert_eq!(video.rtcp, Some("[2001:db8::7]:51380".parse().unwrap()));
    assert!(video.profile.is_secure() && !video.rtcp_mux && video.receives());
    assert!(!image.relayable && image.rtp.is_none());
    assert_eq!(facts.relayable().map(|(index, _)| index).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn what_is_refused() {
    let check = |text: &str, error| assert_eq!(parse(text.as_bytes()), Err(error), "{text}");
    check("", BadSdp::Version);
    check("o=x\r\nv=0\r\n", BadSdp::Version);
    check("v=1\r\n", BadSdp::Version);
    check("v=0\r\nhello\r\n", BadSdp::Line);
    check("v=0\r\n =x\r\n", BadSdp::Line);
    check("v=0\r\na=x\ry\r\n", BadSdp::Line);
    check("v=0\r\na=x\0y\r\n", BadSdp::Line);
    for line in
        ["audio", "audio 1", "audio 1 RTP/AVP", "audio 70000 RTP/AVP 0", "audio -1 RTP/AVP 0", "audio 1/x RTP/AVP 0"]
    {
        check(&format!("v=0\r\nm={line}\r\n"), BadSdp::Media);
    }
    check(&format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(SDP_MEDIA_MAX + 1)), BadSdp::TooLarge);
    check(&format!("v=0\r\n{}", "a=x\r\n".repeat(SDP_LINES_MAX)), BadSdp::TooLarge);
    check(&format!("v=0\r\na={}\r\n", "x".repeat(SDP_BYTES_MAX)), BadSdp::TooLarge);
}

#[test]
fn sloppy_but_readable() {
    let session = parse(b"v=0\nc=IN IP4 192.0.2.1\n\nm=audio  4000   RTP/AVP  0  8 \na=sendrecv").unwrap();
    assert_eq!(session.media[0].formats().collect::<Vec<_>>(), [b"0", b"8"]);
    assert_eq!(session.media[0].lines.len(), 1);
}

#[test]
fn holding() {
    let check = |head: &str, media: &str, holds: bool, direction: Direction| {
        let facts = described(&format!("v=0\r\n{head}m=audio 4000 RTP/AVP 0\r\n{media}"));
        assert_eq!(facts.holds(), holds, "{head}{media}");
        assert_eq!(facts.media[0].effective_direction(), direction, "{head}{media}");
    };
    let c = "c=IN IP4 192.0.2.1\r\n";
    check(c, "", false, Direction::SendRecv);
    check(c, "a=sendonly\r\n", true, Direction::SendOnly);
    check(c, "a=inactive\r\n", true, Direction::Inactive);
    check(c, "a=recvonly\r\n", false, Direction::RecvOnly);
    check("c=IN IP4 192.0.2.1\r\na=inactive\r\n", "", true, Direction::Inactive);
    check("c=IN IP4 192.0.2.1\r\na=inactive\r\n", "a=sendrecv\r\n", false, Direction::SendRecv);
    check("c=IN IP4 0.0.0.0\r\n", "", true, Direction::SendOnly);
    check(c, "c=IN IP4 0.0.0.0\r\na=recvonly\r\n", true, Direction::Inactive);
    check("c=IN IP6 ::\r\n", "", true, Direction::SendOnly);
    assert!(!described("v=0\r\n").holds());
}

#[test]
fn ends_of_lines_and_of_all_are_read_as_meant() {
    let lines =
        ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s= ", "c=IN IP4 192.0.2.1", "m=audio 4000 RTP/AVP 0 ", "a=sendonly"];
    let expected = described(&(lines.join("\r\n") + "\r\n"));
    assert_eq!(expected.media[0].direction, Direction::SendOnly);
    for end in ["\r\n", "\n", "\r", " \r\n", "\t\n", "\r\n\r\n", "\r\r\n"] {
        for last in ["", "\r\n", "\n", "\r", "\0", "\r\n\0", "\r\n \0\0 ", "\r\n\r\n  \r\n", " ", "\r\n\t\t"] {
            assert_eq!(described(&(lines.join(end) + last)), expected, "{end:?} {last:?}");
        }
    }
    for bad in ["v=0\r\na=x\0y\r\n", "v=0\r\n\0\r\na=x\r\n", "\0", " ", ""] {
        assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

#[test]
fn rtcp_addresses() {
    let check = |media: &str, rtcp: Option<&str>| {
        let facts = described(&format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n{media}"));
        assert_eq!(facts.media[0].rtcp, rtcp.map(|text| text.parse().unwrap()), "{media}");
    };
    check("", Some("192.0.2.1:4001"));
    check("a=rtcp:53020\r\n", Some("192.0.2.1:53020"));
    check("a=rtcp:53020 IN IP4 126.16.64.4\r\n", Some("126.16.64.4:53020"));
    check("a=rtcp:53020 IN IP6 2001:db8::1\r\n", Some("[2001:db8::1]:53020"));
    check("a=rtcp:0\r\n", None);
    check("a=rtcp:x\r\n", None);
    check("a=rtcp:5 IN IP4 pc33.example\r\n", None);
}

#[test]
fn only_so_many_streams_are_relayed() {
    let five = "m=audio 4000 RTP/AVP 0\r\n".repeat(5);
    let facts =
        described(&format!("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 0 RTP/AVP 0\r\nm=message 9 TCP/MSRP *\r\n{five}"));
    assert_eq!(facts.relayable().map(|(index, _)| index).collect::<Vec<_>>(), [2, 3, 4, 5]);
}

#[test]
fn answers_fit_their_offers() {
    let check = |offer: &str, answer: &str, fits: bool| {
        let read = |lines: &str| described(&format!("v=0\r\n{lines}"));
        assert_eq!(read(answer).answers(&read(offer)), fits, "{offer} / {answer}");
    };
    let (audio, video, off) = ("m=audio 4 RTP/AVP 0\r\n", "m=video 4 RTP/AVP 0\r\n", "m=audio 0 RTP/AVP 0\r\n");
    check(audio, audio, true);
    check(audio, off, true);
    check(off, audio, false);
    check(audio, video, false);
    check(audio, "", false);
    check(&format!("{audio}{video}"), audio, false);
}

/// Bytes that look enough like SDP to get past the first line.
fn sdp_like() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        "[a-z]=[ -~]{0,40}",
        "m=(audio|video|image) [0-9/]{1,6} (RTP/S?AVPF?|udptl) [0-9 ]{1,12}",
        "c=IN IP[46] [0-9a-f.:]{1,16}",
        "a=(rtpmap|rtcp|fmtp|candidate|group|ice-ufrag):[ -~]{0,30}",
    ];
    proptest::collection::vec(line, 0..24).prop_map(|lines| format!("v=0\r\n{}", lines.join("\r\n")).into_bytes())
}

proptest! {
    #[test]
    fn what_is_read_is_written_and_read_again(bytes in prop_oneof![sdp_like(), proptest::collection::vec(any::<u8>(), 0..300)]) {
        if let Ok(session) = parse(&bytes) {
            let mut out = Vec::new();
            session.emit(&mut out);
            let again = parse(&out).unwrap();
            prop_assert_eq!(again.head, session.head.clone());
            prop_assert_eq!(again.media.len(), session.media.len());
            let facts = Described::of(&session);
            prop_assert_eq!(&facts, &Described::of(&parse(&out).unwrap()));
            prop_assert!(facts.relayable().count() <= STREAMS_MAX);
        }
    }
}

const STREAMS_MAX: usize = crate::base::limit::STREAMS_PER_CALL_MAX;
