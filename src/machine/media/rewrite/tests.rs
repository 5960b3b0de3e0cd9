//! Each rule of the rewriting as a line in and a line out, and the whole as a property over made-up offers.

use proptest::prelude::*;

use super::*;
use crate::wire::sdp;

const OURS: &str = "198.51.100.1";

fn ports(index: u16) -> Option<LocalPorts> {
    let rtp = 20_000 + 2 * index;
    Some(LocalPorts { rtp, rtcp: rtp + 1, mux: true })
}

fn sent(text: &str, ports: &[Option<LocalPorts>], local: &mut LocalDescription) -> String {
    let session = sdp::parse(text.as_bytes()).unwrap();
    String::from_utf8(rewrite(&session, OURS.parse().unwrap(), ports, local)).unwrap()
}

/// What becomes of `media` (lines below the first m-line) and of `head` (session lines).
fn check(head: &str, media: &str, expected_head: &str, expected_media: &str) {
    let text = format!(
        "v=0\r\no=alice 1 2 IN IP4 192.0.2.10\r\ns=x\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n{head}m=audio 4000 RTP/AVP 0\r\n{media}"
    );
    let out = sent(&text, &[ports(0)], &mut LocalDescription::new(10));
    let expected = format!(
        "v=0\r\no=- 5 1 IN IP4 {OURS}\r\ns=-\r\nc=IN IP4 {OURS}\r\nt=0 0\r\n{expected_head}m=audio 20000 RTP/AVP 0\r\n{expected_media}"
    );
    assert_eq!(out, expected);
}

#[test]
fn what_the_parties_negotiate_passes() {
    for line in [
        "a=rtpmap:0 PCMU/8000\r\n",
        "a=fmtp:101 0-16\r\n",
        "a=ptime:20\r\n",
        "a=maxptime:40\r\n",
        "a=sendonly\r\n",
        "a=inactive\r\n",
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj\r\n",
        "a=rtcp-fb:* nack\r\n",
        "a=rtcp-mux\r\n",
        "a=mid:audio\r\n",
        "a=label:1\r\n",
        "a=x-unknown:whatever 7\r\n",
        "b=AS:80\r\n",
        "i=a title\r\n",
    ] {
        check("", line, "", line);
    }
    check(
        "a=sendonly\r\na=tool:phone 1\r\na=group:LS 1 2\r\n",
        "",
        "a=sendonly\r\na=tool:phone 1\r\na=group:LS 1 2\r\n",
        "",
    );
}

#[test]
fn what_leads_past_us_is_left_out() {
    for line in [
        "c=IN IP4 192.0.2.10\r\n",
        "a=rtcp:4001 IN IP4 192.0.2.10\r\n",
        "a=candidate:1 1 UDP 2130706431 10.0.1.1 8998 typ host\r\n",
        "a=remote-candidates:1 192.0.2.3 45664\r\n",
        "a=end-of-candidates\r\n",
        "a=ice-ufrag:8hhY\r\n",
        "a=ice-pwd:asd88fgpdd777uzjYhagZg\r\n",
        "a=ice-options:trickle\r\n",
        "a=ice-lite\r\n",
        "a=ice-mismatch\r\n",
        "a=bundle-only\r\n",
        "a=fingerprint:sha-256 00:11\r\n",
        "a=setup:actpass\r\n",
        "a=source-filter: incl IN IP4 * 192.0.2.99\r\n",
        "a=x-map:via 192.0.2.10\r\n",
    ] {
        check("", line, "", "");
    }
    for line in [
        "a=group:BUNDLE 0 1\r\n",
        "a=msid-semantic: WMS *\r\n",
        "a=ice-lite\r\n",
        "u=http://192.0.2.10/\r\n",
        "e=alice@example.org\r\n",
        "p=+1 555\r\n",
        "y=unknown letter\r\n",
    ] {
        check(line, "", "", "");
    }
}

/// A name of a host is a word like any other: only what is an address is looked for.
#[test]
fn a_host_name_takes_no_line_with_it() {
    let lines = "a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=tool:phone 1\r\na=sendonly\r\na=x:192.0.2.100\r\n";
    for name in ["phone", "PCMU", "send", "telephone-event", "8000", "a", "PCMU/8000", "192.0.2.10.example"] {
        let text = format!(
            "v=0\r\no=PCMU 1 2 IN IP4 {name}\r\ns=x\r\nc=IN IP4 {name}\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 101\r\n\
             a=rtcp:4001 IN IP4 {name}\r\n{lines}"
        );
        let out = sent(&text, &[ports(0)], &mut LocalDescription::new(10));
        assert!(out.ends_with(&format!("m=audio 20000 RTP/AVP 0 101\r\n{lines}")), "{name}: {out}");
    }
    // A user of o= that is an address is no address of the party's, and does not pass anyway.
    let text = "v=0\r\no=192.0.2.100 1 2 IN IP4 192.0.2.10\r\nc=IN IP4 192.0.2.10\r\nm=audio 4 RTP/AVP 0\r\na=x:192.0.2.100\r\n";
    let out = sent(text, &[ports(0)], &mut LocalDescription::new(10));
    assert!(out.contains("o=- 5 1 IN") && out.ends_with("a=x:192.0.2.100\r\n"), "{out}");
}

#[test]
fn an_address_of_the_party_is_found_in_any_notation() {
    let check = |address: &str, media: &str, hidden: &[&str], shown: &[&str]| {
        let family = if address.contains(':') { "IP6" } else { "IP4" };
        let lines = |lines: &[&str]| lines.iter().map(|line| format!("{line}\r\n")).collect::<String>();
        let text = format!(
            "v=0\r\no=- 1 1 IN {family} {address}\r\nc=IN {family} {address}\r\nm=audio 4 RTP/AVP 0\r\n{media}{}{}",
            lines(hidden),
            lines(shown)
        );
        let out = sent(&text, &[ports(0)], &mut LocalDescription::new(10));
        assert!(out.ends_with(&format!("m=audio 20000 RTP/AVP 0\r\n{}", lines(shown))), "{out}");
    };
    check(
        "2001:db8:0:0:0:0:0:1",
        "",
        &[
            "a=x:2001:DB8::1",
            "a=x via [2001:db8::1]:5004",
            "a=x:2001:db8::0.0.0.1",
            "i=at 2001:db8::1%eth0.",
            "a=2001:db8::1",
        ],
        &["a=x:2001:db8::10", "a=y:8000 db8", "a=z:00:11:22"],
    );
    check(
        "192.0.2.1/127",
        "",
        &[
            "a=x:192.0.2.1:5004",
            "a=x:udp 192.0.2.1.",
            "a=x ::ffff:192.0.2.1",
            "a=x:(192.0.2.1)",
            "a=via192.0.2.1",
            "a=192.0.2.1a",
            "a=v:1.192.0.2.1",
            "i=192.0.2.1",
        ],
        &["a=x:192.0.2.11", "a=x:1192.0.2.1", "a=v:192.0.2", "a=v:192.0..2.1"],
    );
    // Addresses of candidates and of RTCP are the party's too, though their own lines do not pass.
    check(
        "203.0.113.7",
        "a=candidate:1 1 UDP 2130706431 10.0.1.1 8998 typ host\r\na=rtcp:9 IN IP4 10.0.1.2\r\na=remote-candidates:1 10.0.1.3 9\r\n",
        &["a=x:10.0.1.1", "a=x:10.0.1.2", "a=x:10.0.1.3"],
        &["a=x:10.0.1.4"],
    );
    // The older way to hold says nothing about where the party is.
    let text = "v=0\r\nc=IN IP4 0.0.0.0\r\nm=audio 4 RTP/AVP 0\r\na=x:0.0.0.0\r\n";
    assert!(sent(text, &[ports(0)], &mut LocalDescription::new(10)).contains("a=x:0.0.0.0\r\n"));
}

#[test]
fn a_source_named_after_a_person_and_a_place_does_not_pass() {
    for cname in ["alice@192.168.1.5", "alice@laptop.lan", "@x", "192.168.1.5", "fe80::1"] {
        let lines = format!("a=ssrc:5 cname:{cname}\r\na=ssrc:5 msid:a b\r\na=ssrc-group:FID 6 5\r\n");
        check(
            "",
            &format!("{lines}a=ssrc:6 cname:x7Kq/w\r\na=ptime:20\r\n"),
            "",
            "a=ssrc:6 cname:x7Kq/w\r\na=ptime:20\r\n",
        );
    }
    let fine = "a=ssrc:5 cname:Zr2+x\r\na=ssrc:5 label:alice@home\r\na=ssrc-group:FID 5 6\r\n";
    check("", fine, "", fine);
}

/// The m-lines of an answer, written for its reader who offered `offer`.
fn answered(offer: &str, answer: &str) -> Vec<String> {
    let head = "v=0\r\nc=IN IP4 192.0.2.1\r\n";
    let texts = [format!("{head}{offer}"), format!("{head}{answer}")];
    let (offer, answer) = (sdp::parse(texts[0].as_bytes()).unwrap(), sdp::parse(texts[1].as_bytes()).unwrap());
    let described = Described::of(&offer);
    let session = conformed(&answer, &described);
    let all: Vec<_> = (0..8).map(ports).collect();
    let out = rewrite(&session, OURS.parse().unwrap(), &all, &mut LocalDescription::new(1));
    let read = sdp::parse(&out).unwrap();
    assert!(Described::of(&read).answers(&described), "{read:?}");
    let out = String::from_utf8(out).unwrap();
    out.lines().filter(|line| line.starts_with("m=")).map(|line| line["m=".len()..].to_owned()).collect()
}

/// RFC 3264 §6.
#[test]
fn an_answer_has_the_m_lines_of_its_offer_whatever_is_answered() {
    let (audio, video, off) = ("m=audio 4 RTP/AVP 0 8\r\n", "m=video 6 RTP/AVP 96\r\n", "m=video 0 RTP/AVP 96\r\n");
    let both = format!("{audio}{video}");
    let check =
        |offer: &str, answer: &str, expected: &[&str]| assert_eq!(answered(offer, answer), expected, "{offer}{answer}");
    check(&both, audio, &["audio 20000 RTP/AVP 0 8", "video 0 RTP/AVP 96"]);
    check(&both, video, &["audio 0 RTP/AVP 0 8", "video 20002 RTP/AVP 96"]);
    check(&both, "", &["audio 0 RTP/AVP 0 8", "video 0 RTP/AVP 96"]);
    check(audio, &both, &["audio 20000 RTP/AVP 0 8"]);
    check(&both, &format!("{video}{audio}"), &["audio 20000 RTP/AVP 0 8", "video 20002 RTP/AVP 96"]);
    check(&format!("{audio}{off}"), &both, &["audio 20000 RTP/AVP 0 8", "video 0 RTP/AVP 96"]);
    check(&format!("{audio}{audio}"), "m=audio 9 RTP/AVP 8\r\n", &["audio 20000 RTP/AVP 8", "audio 0 RTP/AVP 0 8"]);
    // Transports: feedback is no other one, keys are.
    check("m=audio 4 RTP/AVPF 0\r\n", "m=audio 9 RTP/AVP 0\r\n", &["audio 20000 RTP/AVPF 0"]);
    check("m=audio 4 RTP/SAVPF 0\r\n", "m=audio 9 RTP/SAVP 0\r\n", &["audio 20000 RTP/SAVPF 0"]);
    check(audio, "m=audio 9 RTP/SAVP 0\r\n", &["audio 0 RTP/AVP 0 8"]);
    check("m=audio 4 RTP/SAVP 0\r\n", "m=audio 9 RTP/AVP 0\r\n", &["audio 0 RTP/SAVP 0"]);
    check(audio, "m=image 9 udptl t38\r\n", &["audio 0 RTP/AVP 0 8"]);
    check(
        &format!("m=image 9 udptl t38\r\nm=x-y 7 Z w\r\n{audio}"),
        &format!("m=image 9 UDPTL t38\r\n{audio}"),
        &["image 0 udptl t38", "x-y 0 Z w", "audio 20004 RTP/AVP 0 8"],
    );
}

#[test]
fn lines_stand_in_the_order_of_the_grammar() {
    let out = sent(
        "v=0\r\nb=CT:9\r\na=x\r\no=a 1 1 IN IP4 h\r\ni=info\r\nm=audio 4000 RTP/AVP 0\r\n",
        &[ports(0)],
        &mut LocalDescription::new(10),
    );
    let names: Vec<_> = out.lines().map(|line| &line[..1]).collect();
    assert_eq!(names.concat(), "vosicbtam");
}

#[test]
fn the_older_hold_becomes_the_newer() {
    let hold = |media: &str, expected: &str| {
        let text = format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nc=IN IP4 0.0.0.0\r\nm=audio 4000 RTP/AVP 0\r\n{media}");
        let out = sent(&text, &[ports(0)], &mut LocalDescription::new(10));
        assert!(out.contains(&format!("c=IN IP4 {OURS}\r\n")) && out.ends_with(expected), "{out}");
    };
    hold("", "m=audio 20000 RTP/AVP 0\r\na=sendonly\r\n");
    hold("a=sendrecv\r\na=ptime:20\r\n", "a=ptime:20\r\na=sendonly\r\n");
    hold("a=recvonly\r\n", "m=audio 20000 RTP/AVP 0\r\na=inactive\r\n");
}

#[test]
fn rtcp_port_and_mux_are_ours() {
    let text = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\na=rtcp-mux\r\n";
    let odd = LocalPorts { rtp: 20_000, rtcp: 30_001, mux: false };
    let out = sent(text, &[Some(odd)], &mut LocalDescription::new(10));
    assert!(out.ends_with("m=audio 20000 RTP/AVP 0\r\na=rtcp:30001\r\n"), "{out}");
}

#[test]
fn other_media_stay_with_port_0_and_nothing_of_theirs() {
    let text = "v=0\r\nc=IN IP4 192.0.2.1\r\nm=image 5000 udptl t38\r\na=T38FaxVersion:0\r\n\
        m=audio 4000/2 RTP/SAVP 0\r\nm=message 7394 TCP/MSRP *\r\na=path:msrp://192.0.2.1:7394/x;tcp\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 0\r\nm=video 0 RTP/AVP 96\r\n";
    let all: Vec<_> = (0..5).map(ports).collect();
    let out = sent(text, &all, &mut LocalDescription::new(10));
    assert!(
        out.ends_with(
            "m=image 0 udptl t38\r\nm=audio 20002 RTP/SAVP 0\r\nm=message 0 TCP/MSRP *\r\n\
             m=audio 0 UDP/TLS/RTP/SAVPF 0\r\nm=video 0 RTP/AVP 96\r\n"
        ),
        "{out}"
    );
    let none = sent(text, &[], &mut LocalDescription::new(10));
    assert!(none.contains("m=audio 0 RTP/SAVP 0\r\n"));
}

#[test]
fn more_streams_than_we_relay_are_refused() {
    let text = format!("v=0\r\nc=IN IP4 192.0.2.1\r\n{}", "m=audio 4000 RTP/AVP 0\r\n".repeat(5));
    let all: Vec<_> = (0..5).map(ports).collect();
    let out = sent(&text, &all, &mut LocalDescription::new(10));
    assert_eq!(out.matches("m=audio 0 ").count(), 1);
    assert!(out.ends_with("m=audio 0 RTP/AVP 0\r\n"));
}

#[test]
fn ipv6_side() {
    let session = sdp::parse(b"v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n").unwrap();
    let out = rewrite(&session, "2001:db8::5".parse().unwrap(), &[ports(0)], &mut LocalDescription::new(2));
    let expected =
        "v=0\r\no=- 1 1 IN IP6 2001:db8::5\r\ns=-\r\nc=IN IP6 2001:db8::5\r\nt=0 0\r\nm=audio 20000 RTP/AVP 0\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn the_version_rises_only_on_change() {
    let mut local = LocalDescription::new(10);
    let text = |extra: &str| {
        format!("v=0\r\no=a 1 7 IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\n{extra}")
    };
    let first = sent(&text(""), &[ports(0)], &mut local);
    assert_eq!(sent(&text(""), &[ports(0)], &mut local), first);
    // Another version, address and port of theirs are no change of ours.
    let moved = text("").replace("1 7", "1 8").replace("192.0.2.1", "192.0.2.77").replace("4000", "4444");
    assert_eq!(sent(&moved, &[ports(0)], &mut local), first);
    let held = sent(&text("a=sendonly\r\n"), &[ports(0)], &mut local);
    assert!(held.contains("o=- 5 2 "), "{held}");
    let resumed = sent(&text(""), &[ports(0)], &mut local);
    assert!(resumed.contains("o=- 5 3 "), "{resumed}");
    let restored: LocalDescription = postcard::from_bytes(&postcard::to_allocvec(&local).unwrap()).unwrap();
    assert_eq!(restored, local);
}

fn offer() -> impl Strategy<Value = String> {
    let address = "(203\\.0\\.113\\.[1-9][0-9]|2001:db8:f::[1-9]{2})";
    let family = |address: &str| if address.contains(':') { "IP6" } else { "IP4" };
    let line = prop_oneof![
        "a=(rtpmap|fmtp|x-a):[0-9]{1,3} [a-zA-Z0-9/ ]{1,12}",
        "a=(sendrecv|sendonly|inactive|rtcp-mux|ice-lite|end-of-candidates|bundle-only)",
        "a=ice-(ufrag|pwd|options):[a-z]{4}",
        address.prop_map(|ip| format!("a=candidate:1 1 UDP 1 {ip} 4000 typ host")),
        address.prop_map(move |ip| format!("c=IN {} {ip}", family(&ip))),
        address.prop_map(move |ip| format!("a=rtcp:4001 IN {} {ip}", family(&ip))),
        "b=AS:[0-9]{2}",
        "m=(audio|video|image|message) [0-9]{4} (RTP/S?AVPF?|udptl|TCP/MSRP) [0-9]{1,3}",
    ];
    (address, proptest::collection::vec(line, 0..30)).prop_map(move |(ip, lines)| {
        let family = family(&ip);
        format!("v=0\r\no=- 1 1 IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n{}\r\n", lines.join("\r\n"))
    })
}

proptest! {
    #[test]
    fn whatever_is_offered_ours_is_readable_and_hides_theirs(text in offer(), given in 0usize..6) {
        let Ok(session) = sdp::parse(text.as_bytes()) else { return Ok(()) };
        let mut local = LocalDescription::new(10);
        let all: Vec<_> = (0..given as u16).map(ports).collect();
        let out = rewrite(&session, OURS.parse().unwrap(), &all, &mut local);
        let read = sdp::parse(&out).unwrap();
        prop_assert_eq!(read.media.len(), session.media.len());
        let out_text = String::from_utf8(out.clone()).unwrap();
        for hidden in ["203.0.113.", "2001:db8:f:", "candidate", "ice-", "bundle-only"] {
            prop_assert!(!out_text.contains(hidden), "{}", out_text);
        }
        let (theirs, facts) = (Described::of(&session), Described::of(&read));
        for (index, (ours, theirs)) in facts.media.iter().zip(&theirs.media).enumerate() {
            prop_assert_eq!(ours.relayable, theirs.relayable && index < given);
            if ours.relayable {
                prop_assert_eq!(ours.direction, theirs.effective_direction());
                prop_assert_eq!(&ours.formats, &theirs.formats);
                prop_assert_eq!(ours.rtp.map(|rtp| rtp.ip()), Some(OURS.parse().unwrap()));
            }
        }
        prop_assert_eq!(rewrite(&session, OURS.parse().unwrap(), &all, &mut local), out);
    }
}
