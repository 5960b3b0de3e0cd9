//! RFC 4475 §3.1.2: invalid messages.

use super::Answer;
use super::Case;
use super::Verdict;

pub(crate) const INVALID: &[Case] = &[
    Case {
        name: "badinv01",
        rfc: 4475,
        section: "3.1.2.1",
        title: "Extraneous header field separators",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "Empty parameters and values in Via and Contact are malformed.",
        sha256: Some("9ee2b88f2e0b5a9eeb9bf729b6177f0a0c7d0b5e6c84be593e0480d7962f3ab8"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
To: sip:j.user@example.com\r\n\
From: sip:caller@example.net;tag=134161461246\r\n\
Max-Forwards: 7\r\n\
Call-ID: badinv01.0ha0isndaksdjasdf3234nas\r\n\
CSeq: 8 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.15;;,;,,\r\n\
Contact: \"Joe\" <sip:joe@example.org>;;;;\r\n\
Content-Length: 152\r\n\
Content-Type: application/sdp\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.15\r\n\
s=-\r\n\
c=IN IP4 192.0.2.15\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "clerr",
        rfc: 4475,
        section: "3.1.2.2",
        title: "Content-Length larger than message",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "Over UDP the body ends too soon: an error.",
        sha256: Some("d9da629086a38df433438fb0fb19a8730f34516f049a5520dd0cac3285485290"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
Max-Forwards: 80\r\n\
To: sip:j.user@example.com\r\n\
From: sip:caller@example.net;tag=93942939o2\r\n\
Contact: <sip:caller@hungry.example.net>\r\n\
Call-ID: clerr.0ha0isndaksdjweiafasdk3\r\n\
CSeq: 8 INVITE\r\n\
Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bK-39234-23523\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 9999\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.155\r\n\
s=-\r\n\
c=IN IP4 192.0.2.155\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "ncl",
        rfc: 4475,
        section: "3.1.2.3",
        title: "Negative Content-Length",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "No number is negative in the grammar.",
        sha256: Some("7ea6538edc1f054fdb6cd1c821040460cffca3cb682fa2e8e2a502d92170b4c2"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
Max-Forwards: 254\r\n\
To: sip:j.user@example.com\r\n\
From: sip:caller@example.net;tag=32394234\r\n\
Call-ID: ncl.0ha0isndaksdj2193423r542w35\r\n\
CSeq: 0 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.53;branch=z9hG4bKkdjuw\r\n\
Contact: <sip:caller@example53.example.net>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: -999\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.53\r\n\
s=-\r\n\
c=IN IP4 192.0.2.53\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "scalar02",
        rfc: 4475,
        section: "3.1.2.4",
        title: "Request scalar fields with overlarge values",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "CSeq is beyond 2^31.",
        sha256: Some("53158177326568e9964bce5dcfac27a2bf8a90953bbc03f6c5e2775864a97e4b"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
Via: SIP/2.0/TCP host129.example.com;branch=z9hG4bK342sdfoi3\r\n\
To: <sip:user@example.com>\r\n\
From: <sip:user@example.com>;tag=239232jh3\r\n\
CSeq: 36893488147419103232 REGISTER\r\n\
Call-ID: scalar02.23o0pd9vanlq3wnrlnewofjas9ui32\r\n\
Max-Forwards: 300\r\n\
Expires: 10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\r\n\
Contact: <sip:user@host129.example.com>\r\n\
\x20 ;expires=280297596632815\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "scalarlg",
        rfc: 4475,
        section: "3.1.2.5",
        title: "Response scalar fields with overlarge values",
        verdict: Verdict::Drop,
        without_credentials: Answer::Silence,
        with_credentials: Answer::Silence,
        because: "A faulty response is discarded.",
        sha256: Some("0957eca31737e3592eb1418bb41e9f5219278a78ff420111620d7fb60175b551"),
        bytes: || {
            b"SIP/2.0 503 Service Unavailable\r\n\
Via: SIP/2.0/TCP host129.example.com;branch=z9hG4bKzzxdiwo34sw;received=192.0.2.129\r\n\
To: <sip:user@example.com>\r\n\
From: <sip:other@example.net>;tag=2easdjfejw\r\n\
CSeq: 9292394834772304023312 OPTIONS\r\n\
Call-ID: scalarlg.noase0of0234hn2qofoaf0232aewf2394r\r\n\
Retry-After: 949302838503028349304023988\r\n\
Warning: 1812 overture \"In Progress\"\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "quotbal",
        rfc: 4475,
        section: "3.1.2.6",
        title: "Unterminated quoted string in display name",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "The quote is never closed.",
        sha256: Some("e61978a2ea359fc666f0336fe4dbc623447532280e3273ea98119b3d3f788c84"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
To: \"Mr. J. User <sip:j.user@example.com>\r\n\
From: sip:caller@example.net;tag=93334\r\n\
Max-Forwards: 10\r\n\
Call-ID: quotbal.aksdj\r\n\
Contact: <sip:caller@host59.example.net>\r\n\
CSeq: 8 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.59:5050;branch=z9hG4bKkdjuw39234\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 152\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.15\r\n\
s=-\r\n\
c=IN IP4 192.0.2.15\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "ltgtruri",
        rfc: 4475,
        section: "3.1.2.7",
        title: "<> enclosing Request-URI",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A Request-URI has no brackets.",
        sha256: Some("bcacb2dc17610e8cc8f9b8b0e3d6ee65ab473f93787a03bbd33579e1cea473df"),
        bytes: || {
            b"INVITE <sip:user@example.com> SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=39291\r\n\
Max-Forwards: 23\r\n\
Call-ID: ltgtruri.1@192.0.2.5\r\n\
CSeq: 1 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.5\r\n\
Contact: <sip:caller@host5.example.net>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 159\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.5\r\n\
s=-\r\n\
c=IN IP4 192.0.2.5\r\n\
t=3149328700 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "lwsruri",
        rfc: 4475,
        section: "3.1.2.8",
        title: "Malformed SIP Request-URI (embedded LWS)",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A Request-URI has no white space.",
        sha256: Some("3e22ceeca585ad23cc180208e2dad94e0a5aa4bb877a61cac443aa927f758b9e"),
        bytes: || {
            b"INVITE sip:user@example.com; lr SIP/2.0\r\n\
To: sip:user@example.com;tag=3xfe-9921883-z9f\r\n\
From: sip:caller@example.net;tag=231413434\r\n\
Max-Forwards: 5\r\n\
Call-ID: lwsruri.asdfasdoeoi2323-asdfwrn23-asd834rk423\r\n\
CSeq: 2130706432 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKkdjuw2395\r\n\
Contact: <sip:caller@host1.example.net>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 159\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.1\r\n\
s=-\r\n\
c=IN IP4 192.0.2.1\r\n\
t=3149328700 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "lwsstart",
        rfc: 4475,
        section: "3.1.2.9",
        title: "Multiple SP separating request-line elements",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "The grammar has exactly one SP there.",
        sha256: Some("f884e5626c6c5b1210cfc4a3540b8a28bd52939cff092f3f0c5c971e032adb0e"),
        bytes: || {
            b"INVITE  sip:user@example.com  SIP/2.0\r\n\
Max-Forwards: 8\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=8814\r\n\
Call-ID: lwsstart.dfknq234oi243099adsdfnawe3@example.com\r\n\
CSeq: 1893884 INVITE\r\n\
Via: SIP/2.0/UDP host1.example.com;branch=z9hG4bKkdjuw3923\r\n\
Contact: <sip:caller@host1.example.net>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 150\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.1\r\n\
s=-\r\n\
c=IN IP4 192.0.2.1\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "trws",
        rfc: 4475,
        section: "3.1.2.10",
        title: "SP characters at end of request-line",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "The grammar has CR LF right behind the version.",
        sha256: Some("64ae20694026e28c10746b57386b7fd1276de02b6f8d42d418070e87d6f4499f"),
        bytes: || {
            b"OPTIONS sip:remote-target@example.com SIP/2.0  \r\n\
Via: SIP/2.0/TCP host1.examle.com;branch=z9hG4bK299342093\r\n\
To: <sip:remote-target@example.com>\r\n\
From: <sip:local-resource@example.com>;tag=329429089\r\n\
Call-ID: trws.oicu34958239neffasdhr2345r\r\n\
Accept: application/sdp\r\n\
CSeq: 238923 OPTIONS\r\n\
Max-Forwards: 70\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "escruri",
        rfc: 4475,
        section: "3.1.2.11",
        title: "Escaped headers in SIP Request-URI",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A Request-URI has no headers (RFC 3261 §19.1.1).",
        sha256: Some("c3cf30af13a9d107829cc105effd79355f1139c6ecc683a048b4c27951f8f416"),
        bytes: || {
            b"INVITE sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=341518\r\n\
Max-Forwards: 7\r\n\
Contact: <sip:caller@host39923.example.net>\r\n\
Call-ID: escruri.23940-asdfhj-aje3br-234q098w-fawerh2q-h4n5\r\n\
CSeq: 149209342 INVITE\r\n\
Via: SIP/2.0/UDP host-of-the-hour.example.com;branch=z9hG4bKkdjuw\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 150\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.1\r\n\
s=-\r\n\
c=IN IP4 192.0.2.1\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "baddate",
        rfc: 4475,
        section: "3.1.2.12",
        title: "Invalid time zone in Date header field",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "GMT is the only time zone of a SIP date.",
        sha256: Some("1208a6e3e0c8a8c33a06a1f3733d158413cb72e58c379d094c4ecea11e9d4c28"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=2234923\r\n\
Max-Forwards: 70\r\n\
Call-ID: baddate.239423mnsadf3j23lj42--sedfnm234\r\n\
CSeq: 1392934 INVITE\r\n\
Via: SIP/2.0/UDP host.example.com;branch=z9hG4bKkdjuw\r\n\
Date: Fri, 01 Jan 2010 16:00:00 EST\r\n\
Contact: <sip:caller@host5.example.net>\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 150\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.5\r\n\
s=-\r\n\
c=IN IP4 192.0.2.5\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "regbadct",
        rfc: 4475,
        section: "3.1.2.13",
        title: "Failure to enclose name-addr URI in <>",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A URI with a question mark needs brackets in Contact.",
        sha256: Some("575d27530275814c1c98be164808fac89a0e2b4fc899dadcd97e6ba499437bda"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:user@example.com;tag=998332\r\n\
Max-Forwards: 70\r\n\
Call-ID: regbadct.k345asrl3fdbv@10.0.0.1\r\n\
CSeq: 1 REGISTER\r\n\
Via: SIP/2.0/UDP 135.180.130.133:5060;branch=z9hG4bKkdjuw\r\n\
Contact: sip:user@example.com?Route=%3Csip:sip.example.com%3E\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "badaspec",
        rfc: 4475,
        section: "3.1.2.14",
        title: "Spaces within addr-spec",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A URI has no white space.",
        sha256: Some("f8f6e2f4247287b0be6adb5ac222a6db4759395e44d27d2ddb9b39393e94867e"),
        bytes: || {
            b"OPTIONS sip:user@example.org SIP/2.0\r\n\
Via: SIP/2.0/UDP host4.example.com:5060;branch=z9hG4bKkdju43234\r\n\
Max-Forwards: 70\r\n\
From: \"Bell, Alexander\" <sip:a.g.bell@example.com>;tag=433423\r\n\
To: \"Watson, Thomas\" < sip:t.watson@example.org >\r\n\
Call-ID: badaspec.sdf0234n2nds0a099u23h3hnnw009cdkne3\r\n\
Accept: application/sdp\r\n\
CSeq: 3923239 OPTIONS\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "baddn",
        rfc: 4475,
        section: "3.1.2.15",
        title: "Non-token characters in display name",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A comma in a display name needs quotes.",
        sha256: Some("4768517cb1c40f60f215ac45f4fc5653ee53b0bf2df37e06c6543e874be4a7f9"),
        bytes: || {
            b"OPTIONS sip:t.watson@example.org SIP/2.0\r\n\
Via:     SIP/2.0/UDP c.example.com:5060;branch=z9hG4bKkdjuw\r\n\
Max-Forwards:      70\r\n\
From:    Bell, Alexander <sip:a.g.bell@example.com>;tag=43\r\n\
To:      Watson, Thomas <sip:t.watson@example.org>\r\n\
Call-ID: baddn.31415@c.example.com\r\n\
Accept: application/sdp\r\n\
CSeq:    3923239 OPTIONS\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "badvers",
        rfc: 4475,
        section: "3.1.2.16",
        title: "Unknown protocol version",
        verdict: Verdict::Answer(505),
        without_credentials: Answer::Status(505),
        with_credentials: Answer::Status(505),
        because: "Version 7.0 is answered with 505.",
        sha256: Some("037d702d19e934bfeebbd2609050d7d54928d590cf90c78f3914522771dd8e03"),
        bytes: || {
            b"OPTIONS sip:t.watson@example.org SIP/7.0\r\n\
Via:     SIP/7.0/UDP c.example.com;branch=z9hG4bKkdjuw\r\n\
Max-Forwards:     70\r\n\
From:    A. Bell <sip:a.g.bell@example.com>;tag=qweoiqpe\r\n\
To:      T. Watson <sip:t.watson@example.org>\r\n\
Call-ID: badvers.31417@c.example.com\r\n\
CSeq:    1 OPTIONS\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "mismatch01",
        rfc: 4475,
        section: "3.1.2.17",
        title: "Start line and CSeq method mismatch",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "CSeq must name the method of the request line.",
        sha256: Some("a2c285636e451e75420da0cc62ee55ca3e398827008418befbfb078726bf0793"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
To: sip:j.user@example.com\r\n\
From: sip:caller@example.net;tag=34525\r\n\
Max-Forwards: 6\r\n\
Call-ID: mismatch01.dj0234sxdfl3\r\n\
CSeq: 8 INVITE\r\n\
Via: SIP/2.0/UDP host.example.com;branch=z9hG4bKkdjuw\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "mismatch02",
        rfc: 4475,
        section: "3.1.2.18",
        title: "Unknown method with CSeq method mismatch",
        verdict: Verdict::Answer(501),
        without_credentials: Answer::Status(501),
        with_credentials: Answer::Status(501),
        because: "400 is allowed, 501 is preferred as the method is unknown.",
        sha256: Some("01b287f9a9c492f7f57405c36c8a2af0e2393896ed2d25fb92b502f2a6722bc4"),
        bytes: || {
            b"NEWMETHOD sip:user@example.com SIP/2.0\r\n\
To: sip:j.user@example.com\r\n\
From: sip:caller@example.net;tag=34525\r\n\
Max-Forwards: 6\r\n\
Call-ID: mismatch02.dj0234sxdfl3\r\n\
CSeq: 8 INVITE\r\n\
Contact: <sip:caller@host.example.net>\r\n\
Via: SIP/2.0/UDP host.example.net;branch=z9hG4bKkdjuw\r\n\
Content-Type: application/sdp\r\n\
l: 138\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.1\r\n\
c=IN IP4 192.0.2.1\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "bigcode",
        rfc: 4475,
        section: "3.1.2.19",
        title: "Overlarge response code",
        verdict: Verdict::Drop,
        without_credentials: Answer::Silence,
        with_credentials: Answer::Silence,
        because: "A response code beyond 699 is discarded.",
        sha256: Some("f79450070975da54c3525c9a5cbe75bae3c9d8cb92eba609772c26f66f225c2e"),
        bytes: || {
            b"SIP/2.0 4294967301 better not break the receiver\r\n\
Via: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe\r\n\
Call-ID: bigcode.asdof3uj203asdnf3429uasdhfas3ehjasdfas9i\r\n\
CSeq: 353494 INVITE\r\n\
From: <sip:user@example.com>;tag=39ansfi3\r\n\
To: <sip:user@example.edu>;tag=902jndnke3\r\n\
Content-Length: 0\r\n\
Contact: <sip:user@host105.example.com>\r\n\
\r\n"
                .to_vec()
        },
    },
];
