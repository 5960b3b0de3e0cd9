//! RFC 4475 §3.2 and §3.3: transaction layer and application layer semantics, backward compatibility.

use super::Answer;
use super::Case;
use super::Verdict;

pub(crate) const APPLICATION: &[Case] = &[
    Case {
        name: "badbranch",
        rfc: 4475,
        section: "3.2.1",
        title: "Missing transaction identifier",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(200),
        with_credentials: Answer::Status(200),
        because: "A branch that is the cookie alone is treated as RFC 2543 has it.",
        sha256: Some("cb049c727f16b5ec49e822f9e8b7d0ee20ca2d20ffb50baecd0b411a5e64fa7d"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.org;tag=33242\r\n\
Max-Forwards: 3\r\n\
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK\r\n\
Accept: application/sdp\r\n\
Call-ID: badbranch.sadonfo23i420jv0as0derf3j3n\r\n\
CSeq: 8 OPTIONS\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "insuf",
        rfc: 4475,
        section: "3.3.1",
        title: "Missing required header fields",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "Ideally answered with 400 although Call-ID, From and To are missing.",
        sha256: Some("1e3efd9f3b238c6351ba12bc7eb46d843f2761b5d4a6b82b63bffdf07f2c5aee"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
CSeq: 193942 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.95;branch=z9hG4bKkdj.insuf\r\n\
Content-Type: application/sdp\r\n\
l: 152\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.95\r\n\
s=-\r\n\
c=IN IP4 192.0.2.95\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "unkscm",
        rfc: 4475,
        section: "3.3.2",
        title: "Request-URI with unknown scheme",
        verdict: Verdict::Answer(416),
        without_credentials: Answer::Status(416),
        with_credentials: Answer::Status(416),
        because: "Unknown URI scheme.",
        sha256: Some("81be1a6a566c7ab52fe1c58c4a75440dfd697ad04c5e09fa71340de7da7b8bbb"),
        bytes: || {
            b"OPTIONS nobodyKnowsThisScheme:totallyopaquecontent SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=384\r\n\
Max-Forwards: 3\r\n\
Call-ID: unkscm.nasdfasser0q239nwsdfasdkl34\r\n\
CSeq: 3923423 OPTIONS\r\n\
Via: SIP/2.0/TCP host9.example.com;branch=z9hG4bKkdjuw39234\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "novelsc",
        rfc: 4475,
        section: "3.3.3",
        title: "Request-URI with known but atypical scheme",
        verdict: Verdict::Answer(416),
        without_credentials: Answer::Status(416),
        with_credentials: Answer::Status(416),
        because: "The scheme is registered, but not supported here.",
        sha256: Some("9a50a7343fcf685e77c4d0f477138a28f32a41c75aa566d200f3df210b01e648"),
        bytes: || {
            b"OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=384\r\n\
Max-Forwards: 3\r\n\
Call-ID: novelsc.asdfasser0q239nwsdfasdkl34\r\n\
CSeq: 3923423 OPTIONS\r\n\
Via: SIP/2.0/TCP host9.example.com;branch=z9hG4bKkdjuw39234\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "unksm2",
        rfc: 4475,
        section: "3.3.4",
        title: "Unknown URI schemes in header fields",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "A registrar wants a SIP or SIPS URI in To.",
        sha256: Some("f6914409ced613ef5eb56e264d2f096dac26ab9e397d6a638934d2027f1f6acb"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
To: isbn:2983792873\r\n\
From: <http://www.example.com>;tag=3234233\r\n\
Call-ID: unksm2.daksdj@hyphenated-host.example.com\r\n\
CSeq: 234902 REGISTER\r\n\
Max-Forwards: 70\r\n\
Via: SIP/2.0/UDP 192.0.2.21:5060;branch=z9hG4bKkdjuw\r\n\
Contact: <name:John_Smith>\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "bext01",
        rfc: 4475,
        section: "3.3.5",
        title: "Proxy-Require and Require",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(420),
        with_credentials: Answer::Status(420),
        because: "Required extensions are not supported; a UAS ignores Proxy-Require.",
        sha256: Some("57181987c02c4f5752b7aa8c2847311f6184216ce7621e40303015949e70761c"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
To: sip:j_user@example.com\r\n\
From: sip:caller@example.net;tag=242etr\r\n\
Max-Forwards: 6\r\n\
Call-ID: bext01.0ha0isndaksdj\r\n\
Require: nothingSupportsThis, nothingSupportsThisEither\r\n\
Proxy-Require: noProxiesSupportThis, norDoAnyProxiesSupportThis\r\n\
CSeq: 8 OPTIONS\r\n\
Via: SIP/2.0/TLS fold-and-staple.example.com;branch=z9hG4bKkdjuw\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "invut",
        rfc: 4475,
        section: "3.3.6",
        title: "Unknown Content-Type",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Status(415),
        because: "The body has an unknown type, which is looked at after authentication.",
        sha256: Some("9b39e824947df46f90f824cd308fb3c118f548d94637f581101e355b381a0d92"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
Contact: <sip:caller@host5.example.net>\r\n\
To: sip:j.user@example.com\r\n\
From: sip:caller@example.net;tag=8392034\r\n\
Max-Forwards: 70\r\n\
Call-ID: invut.0ha0isndaksdjadsfij34n23d\r\n\
CSeq: 235448 INVITE\r\n\
Via: SIP/2.0/UDP somehost.example.com;branch=z9hG4bKkdjuw\r\n\
Content-Type: application/unknownformat\r\n\
Content-Length: 40\r\n\
\r\n\
<audio>\r\n\
\x20<pcmu port=\"443\"/>\r\n\
</audio>\r\n"
                .to_vec()
        },
    },
    Case {
        name: "regaut01",
        rfc: 4475,
        section: "3.3.7",
        title: "Unknown authorization scheme",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "Credentials of an unknown scheme are as good as none.",
        sha256: Some("885ba0488872cfc04a3c7622854b8381955a5ee890745d6010834e3731a73faa"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
To: sip:j.user@example.com\r\n\
From: sip:j.user@example.com;tag=87321hj23128\r\n\
Max-Forwards: 8\r\n\
Call-ID: regaut01.0ha0isndaksdj\r\n\
CSeq: 9338 REGISTER\r\n\
Via: SIP/2.0/TCP 192.0.2.253;branch=z9hG4bKkdjuw\r\n\
Authorization: NoOneKnowsThisScheme opaque-data=here\r\n\
Content-Length:0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "multi01",
        rfc: 4475,
        section: "3.3.8",
        title: "Multiple values in single value required fields",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "Call-ID, CSeq, From, To and Max-Forwards stand twice.",
        sha256: Some("d156ab12105b4bfd8a6498de6f7195087058162b8cda1606169855b722411791"),
        bytes: || {
            b"INVITE sip:user@company.com SIP/2.0\r\n\
Contact: <sip:caller@host25.example.net>\r\n\
Via: SIP/2.0/UDP 192.0.2.25;branch=z9hG4bKkdjuw\r\n\
Max-Forwards: 70\r\n\
CSeq: 5 INVITE\r\n\
Call-ID: multi01.98asdh@192.0.2.1\r\n\
CSeq: 59 INVITE\r\n\
Call-ID: multi01.98asdh@192.0.2.2\r\n\
From: sip:caller@example.com;tag=3413415\r\n\
To: sip:user@example.com\r\n\
To: sip:other@example.net\r\n\
From: sip:caller@example.net;tag=2923420123\r\n\
Content-Type: application/sdp\r\n\
l: 154\r\n\
Contact: <sip:caller@host36.example.net>\r\n\
Max-Forwards: 5\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.25\r\n\
s=-\r\n\
c=IN IP4 192.0.2.25\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "mcl01",
        rfc: 4475,
        section: "3.3.9",
        title: "Multiple Content-Length values",
        verdict: Verdict::Answer(400),
        without_credentials: Answer::Status(400),
        with_credentials: Answer::Status(400),
        because: "Two lengths that differ.",
        sha256: Some("887191619bf003b7e87399200b5cf4c3b5397344dbf70288ad5e23bd157b7fe4"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP host5.example.net;branch=z9hG4bK293423\r\n\
To: sip:user@example.com\r\n\
From: sip:other@example.net;tag=3923942\r\n\
Call-ID: mcl01.fhn2323orihawfdoa3o4r52o3irsdf\r\n\
CSeq: 15932 OPTIONS\r\n\
Content-Length: 13\r\n\
Max-Forwards: 60\r\n\
Content-Length: 5\r\n\
Content-Type: text/plain\r\n\
\r\n\
There's no way to know how many octets are supposed to be here.\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "bcast",
        rfc: 4475,
        section: "3.3.10",
        title: "200 OK response with broadcast Via header field value",
        verdict: Verdict::Ok,
        without_credentials: Answer::Silence,
        with_credentials: Answer::Silence,
        because: "A response is never answered, and never sent to the broadcast address.",
        sha256: Some("073637c63597199179cf5fc91b980b2d530c066a0048ea3b908772def57b4c36"),
        bytes: || {
            b"SIP/2.0 200 OK\r\n\
Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\r\n\
Via: SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23\r\n\
Call-ID: bcast.0384840201234ksdfak3j2erwedfsASdf\r\n\
CSeq: 35 INVITE\r\n\
From: sip:user@example.com;tag=11141343\r\n\
To: sip:user@example.edu;tag=2229\r\n\
Content-Length: 154\r\n\
Content-Type: application/sdp\r\n\
Contact: <sip:user@host28.example.com>\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.198\r\n\
s=-\r\n\
c=IN IP4 192.0.2.198\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "zeromf",
        rfc: 4475,
        section: "3.3.11",
        title: "Max-Forwards of zero",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(200),
        with_credentials: Answer::Status(200),
        because: "An endpoint answers it; only what forwards says 483.",
        sha256: Some("50954ef47acca4f9f5263ded06246d06dee4e2ee508a8d284191795d7fddf365"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:caller@example.net;tag=3ghsd41\r\n\
Call-ID: zeromf.jfasdlfnm2o2l43r5u0asdfas\r\n\
CSeq: 39234321 OPTIONS\r\n\
Via: SIP/2.0/UDP host1.example.com;branch=z9hG4bKkdjuw2349i\r\n\
Max-Forwards: 0\r\n\
Content-Length: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "cparam01",
        rfc: 4475,
        section: "3.3.12",
        title: "REGISTER with a Contact header parameter",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "The parameter belongs to the header.",
        sha256: Some("dfa6b5cdb289adc694b9b7e103ebfa7a2167335c46e5dc9de67055021910ae1c"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP saturn.example.com:5060;branch=z9hG4bKkdjuw\r\n\
Max-Forwards: 70\r\n\
From: sip:watson@example.com;tag=DkfVgjkrtMwaerKKpe\r\n\
To: sip:watson@example.com\r\n\
Call-ID: cparam01.70710@saturn.example.com\r\n\
CSeq: 2 REGISTER\r\n\
Contact: sip:+19725552222@gw1.example.net;unknownparam\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "cparam02",
        rfc: 4475,
        section: "3.3.13",
        title: "REGISTER with a url-parameter",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "The parameter belongs to the URI.",
        sha256: Some("e93574215bd1d804bb46cc15ca6176b567def7ea1b15f72ab2c2dcf598af465a"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP saturn.example.com:5060;branch=z9hG4bKkdjuw\r\n\
Max-Forwards: 70\r\n\
From: sip:watson@example.com;tag=838293\r\n\
To: sip:watson@example.com\r\n\
Call-ID: cparam02.70710@saturn.example.com\r\n\
CSeq: 3 REGISTER\r\n\
Contact: <sip:+19725552222@gw1.example.net;unknownparam>\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "regescrt",
        rfc: 4475,
        section: "3.3.14",
        title: "REGISTER with a URL escaped header",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "Well formed; the registrar stores the URI with its header.",
        sha256: Some("dab4087c133348b06fd7b3c4c7ef15094f8754e265e4e8c2137bb3ecda2ef477"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: sip:user@example.com;tag=8\r\n\
Max-Forwards: 70\r\n\
Call-ID: regescrt.k345asrl3fdbv@192.0.2.1\r\n\
CSeq: 14398234 REGISTER\r\n\
Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bKkdjuw\r\n\
M: <sip:user@example.com?Route=%3Csip:sip.example.com%3E>\r\n\
L:0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "sdp01",
        rfc: 4475,
        section: "3.3.15",
        title: "Unacceptable Accept offering",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Status(406),
        because: "Nothing that the sender accepts can be answered with.",
        sha256: Some("497c5f1ced6c7b579b48075e2dca919ce9b819a735964128a6e744a3a0b9e57f"),
        bytes: || {
            b"INVITE sip:user@example.com SIP/2.0\r\n\
To: sip:j_user@example.com\r\n\
Contact: <sip:caller@host15.example.net>\r\n\
From: sip:caller@example.net;tag=234\r\n\
Max-Forwards: 5\r\n\
Call-ID: sdp01.ndaksdj9342dasdd\r\n\
Accept: text/nobodyKnowsThis\r\n\
CSeq: 8 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKkdjuw\r\n\
Content-Length: 150\r\n\
Content-Type: application/sdp\r\n\
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
        name: "inv2543",
        rfc: 4475,
        section: "3.3.16",
        title: "INVITE with RFC 2543 syntax",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "Legal before RFC 3261: no branch, no From tag, no Max-Forwards, no Content-Length.",
        sha256: Some("76fac8afe22dee49ea696b511621946694897ac7030fc5d07f57c8b487ce0521"),
        bytes: || {
            b"INVITE sip:UserB@example.com SIP/2.0\r\n\
Via: SIP/2.0/UDP iftgw.example.com\r\n\
From: <sip:+13035551111@ift.client.example.net;user=phone>\r\n\
Record-Route: <sip:UserB@example.com;maddr=ss1.example.com>\r\n\
To: sip:+16505552222@ss1.example.net;user=phone\r\n\
Call-ID: inv2543.1717@ift.client.example.com\r\n\
CSeq: 56 INVITE\r\n\
Content-Type: application/sdp\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.5\r\n\
s=-\r\n\
c=IN IP4 192.0.2.5\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0\r\n"
                .to_vec()
        },
    },
];
