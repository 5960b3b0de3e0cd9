//! RFC 4475 §3.1.1: valid messages.

use super::Answer;
use super::Case;
use super::Verdict;

pub(crate) const VALID: &[Case] = &[
    Case {
        name: "wsinv",
        rfc: 4475,
        section: "3.1.1.1",
        title: "A short tortuous INVITE",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(481),
        with_credentials: Answer::Status(481),
        because: "Well formed; its To tag names a dialog that does not exist (RFC 3261 §12.2.2).",
        sha256: Some("d6f6cdee99cd0a1f8e3d9a0fdd67c877700e19ab86d8186dada06f61260e3e61"),
        bytes: || {
            b"INVITE sip:vivekg@chair-dnrc.example.com;unknownparam SIP/2.0\r\n\
TO :\r\n\
\x20sip:vivekg@chair-dnrc.example.com ;   tag    = 1918181833n\r\n\
from   : \"J Rosenberg \\\\\\\"\"       <sip:jdrosen@example.com>\r\n\
\x20 ;\r\n\
\x20 tag = 98asjd8\r\n\
MaX-fOrWaRdS: 0068\r\n\
Call-ID: wsinv.ndaksdj@192.0.2.1\r\n\
Content-Length   : 150\r\n\
cseq: 0009\r\n\
\x20 INVITE\r\n\
Via  : SIP  /   2.0\r\n\
\x20/UDP\r\n\
\x20   192.0.2.2;branch=390skdjuw\r\n\
s :\r\n\
NewFangledHeader:   newfangled value\r\n\
\x20continued newfangled value\r\n\
UnknownHeaderWithUnusualValue: ;;,,;;,;\r\n\
Content-Type: application/sdp\r\n\
Route:\r\n\
\x20<sip:services.example.com;lr;unknownwith=value;unknown-no-value>\r\n\
v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n\
\x20 branch  =   z9hG4bK9ikj8  ,\r\n\
\x20SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n\
\x20z9hG4bK30239\r\n\
m:\"Quoted string \\\"\\\"\" <sip:jdrosen@example.com> ; newparam =\r\n\
\x20     newvalue ;\r\n\
\x20 secondparam ; q = 0.33\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.3\r\n\
s=-\r\n\
c=IN IP4 192.0.2.4\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m=video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n"
                .to_vec()
        },
    },
    Case {
        name: "intmeth",
        rfc: 4475,
        section: "3.1.1.2",
        title: "Wide range of valid characters",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(501),
        with_credentials: Answer::Status(501),
        because: "Endpoints answer an unknown method with 501 and list their methods in Allow.",
        sha256: Some("b957a8292c1c0a9851fe94705b90f94320738f43aacde64998e401f742ef688d"),
        bytes: || {
            b"!interesting-Method0123456789_*+`.%indeed'~ sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,weird!*pas$wo~d_too.(doesn't-it)@example.com SIP/2.0\r\n\
Via: SIP/2.0/TCP host1.example.com;branch=z9hG4bK-.!%66*_+`'~\r\n\
To: \"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f\" <sip:1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*@example.com>\r\n\
From: token1~` token2'+_ token3*%!.- <sip:mundane@example.com>;fromParam''~+*_!.-%=\"\xd1\x80\xd0\xb0\xd0\xb1\xd0\xbe\xd1\x82\xd0\xb0\xd1\x8e\xd1\x89\xd0\xb8\xd0\xb9\";ta\
g=_token~1'+`*%!-.\r\n\
Call-ID: intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{\r\n\
CSeq: 139122385 !interesting-Method0123456789_*+`.%indeed'~\r\n\
Max-Forwards: 255\r\n\
extensionHeader-!.%*+_`'~:\xef\xbb\xbf\xe5\xa4\xa7\xe5\x81\x9c\xe9\x9b\xbb\r\n\
Content-Length: 0\r\n\
\r\n"
            .to_vec()
        },
    },
    Case {
        name: "esc01",
        rfc: 4475,
        section: "3.1.1.3",
        title: "Valid use of the % escaping mechanism",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "Well formed; escapes stand for what they encode, once.",
        sha256: Some("be3a316d4ce5f69cad474646191e390dd4b50fc8371e44b5197fe1237781973e"),
        bytes: || {
            b"INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0\r\n\
To: sip:%75se%72@example.com\r\n\
From: <sip:I%20have%20spaces@example.net>;tag=938\r\n\
Max-Forwards: 87\r\n\
i: esc01.239409asdfakjkn23onasd0-3234\r\n\
CSeq: 234234 INVITE\r\n\
Via: SIP/2.0/UDP host5.example.net;branch=z9hG4bKkdjuw\r\n\
C: application/sdp\r\n\
Contact:\r\n\
\x20 <sip:cal%6Cer@host5.example.net;%6C%72;n%61me=v%61lue%25%34%31>\r\n\
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
        name: "escnull",
        rfc: 4475,
        section: "3.1.1.4",
        title: "Escaped nulls in URIs",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "Well formed; the user must not end at the escaped null.",
        sha256: Some("263fe2ecd12a5ccbb6c67b3174e9211d11da9b600e7d69666a86d2ee42873e90"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
To: sip:null-%00-null@example.com\r\n\
From: sip:null-%00-null@example.com;tag=839923423\r\n\
Max-Forwards: 70\r\n\
Call-ID: escnull.39203ndfvkjdasfkq3w4otrq0adsfdfnavd\r\n\
CSeq: 14398234 REGISTER\r\n\
Via: SIP/2.0/UDP host5.example.com;branch=z9hG4bKkdjuw\r\n\
Contact: <sip:%00@host5.example.com>\r\n\
Contact: <sip:%00%00@host5.example.com>\r\n\
L:0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "esc02",
        rfc: 4475,
        section: "3.1.1.5",
        title: "Use of % when it is not an escape",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(501),
        with_credentials: Answer::Status(501),
        because: "The method is unknown: % is no escape in it.",
        sha256: Some("9a9c59449f00327b02071feafc8e5c2a261c98c818044167894cc17809a12199"),
        bytes: || {
            b"RE%47IST%45R sip:registrar.example.com SIP/2.0\r\n\
To: \"%Z%45\" <sip:resource@example.com>\r\n\
From: \"%Z%45\" <sip:resource@example.com>;tag=f232jadfj23\r\n\
Call-ID: esc02.asdfnqwo34rq23i34jrjasdcnl23nrlknsdf\r\n\
Via: SIP/2.0/TCP host.example.com;branch=z9hG4bK209%fzsnel234\r\n\
CSeq: 29344 RE%47IST%45R\r\n\
Max-Forwards: 70\r\n\
Contact: <sip:alias1@host1.example.com>\r\n\
C%6Fntact: <sip:alias2@host2.example.com>\r\n\
Contact: <sip:alias3@host3.example.com>\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "lwsdisp",
        rfc: 4475,
        section: "3.1.1.6",
        title: "Message with no LWS between display name and <",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(200),
        with_credentials: Answer::Status(200),
        because: "The missing white space is a bug of the grammar; elements should accept it.",
        sha256: Some("d1b36b6316c12824f6f04bf6b1fd1f021cade9b74871693b9c3474cd9fa7f4e6"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: caller<sip:caller@example.com>;tag=323\r\n\
Max-Forwards: 70\r\n\
Call-ID: lwsdisp.1234abcd@funky.example.com\r\n\
CSeq: 60 OPTIONS\r\n\
Via: SIP/2.0/UDP funky.example.com;branch=z9hG4bKkdjuw\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "longreq",
        rfc: 4475,
        section: "3.1.1.7",
        title: "Long values in header fields",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "Well formed, only long.",
        sha256: Some("185739292bc676760e5b1cca77c87705aa570240171c506ad76f8c35af0ecdaa"),
        bytes: longreq,
    },
    Case {
        name: "dblreq",
        rfc: 4475,
        section: "3.1.1.8",
        title: "Extra trailing octets in a UDP datagram",
        verdict: Verdict::Ok,
        without_credentials: Answer::Challenge,
        with_credentials: Answer::Served,
        because: "What follows the body of a datagram is ignored.",
        sha256: Some("a6be48426565c2a705389c4ce2ea17e57b891cb13f80490a2cb9392c797b46ef"),
        bytes: || {
            b"REGISTER sip:example.com SIP/2.0\r\n\
To: sip:j.user@example.com\r\n\
From: sip:j.user@example.com;tag=43251j3j324\r\n\
Max-Forwards: 8\r\n\
I: dblreq.0ha0isndaksdj99sdfafnl3lk233412\r\n\
Contact: sip:j.user@host.example.com\r\n\
CSeq: 8 REGISTER\r\n\
Via: SIP/2.0/UDP 192.0.2.125;branch=z9hG4bKkdjuw23492\r\n\
Content-Length: 0\r\n\
\r\n\
\r\n\
INVITE sip:joe@example.com SIP/2.0\r\n\
t: sip:joe@example.com\r\n\
From: sip:caller@example.net;tag=141334\r\n\
Max-Forwards: 8\r\n\
Call-ID: dblreq.0ha0isnda977644900765@192.0.2.15\r\n\
CSeq: 8 INVITE\r\n\
Via: SIP/2.0/UDP 192.0.2.15;branch=z9hG4bKkdjuw380234\r\n\
Content-Type: application/sdp\r\n\
Content-Length: 150\r\n\
\r\n\
v=0\r\n\
o=mhandley 29739 7272939 IN IP4 192.0.2.15\r\n\
s=-\r\n\
c=IN IP4 192.0.2.15\r\n\
t=0 0\r\n\
m=audio 49217 RTP/AVP 0 12\r\n\
m =video 3227 RTP/AVP 31\r\n\
a=rtpmap:31 LPC\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "semiuri",
        rfc: 4475,
        section: "3.1.1.9",
        title: "Semicolon-separated parameters in URI user part",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(200),
        with_credentials: Answer::Status(200),
        because: "The semicolon belongs to the user.",
        sha256: Some("87bbaed6b4b354dbd3c5c7a20e66686303c63e43a0aa19b89de1ac75231611a2"),
        bytes: || {
            b"OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0\r\n\
To: sip:j_user@example.com\r\n\
From: sip:caller@example.org;tag=33242\r\n\
Max-Forwards: 3\r\n\
Call-ID: semiuri.0ha0isndaksdj\r\n\
CSeq: 8 OPTIONS\r\n\
Accept: application/sdp, application/pkcs7-mime,\r\n\
\x20       multipart/mixed, multipart/signed,\r\n\
\x20       message/sip, message/sipfrag\r\n\
Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKkdjuw\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "transports",
        rfc: 4475,
        section: "3.1.1.10",
        title: "Varied and unknown transport types",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(200),
        with_credentials: Answer::Status(200),
        because: "Unknown transports in Via are legal.",
        sha256: Some("33b4553a3b9418121b099ff07882535151edd6a1e81898c63a916aad2cbf90bc"),
        bytes: || {
            b"OPTIONS sip:user@example.com SIP/2.0\r\n\
To: sip:user@example.com\r\n\
From: <sip:caller@example.com>;tag=323\r\n\
Max-Forwards: 70\r\n\
Call-ID:  transports.kijh4akdnaqjkwendsasfdj\r\n\
Accept: application/sdp\r\n\
CSeq: 60 OPTIONS\r\n\
Via: SIP/2.0/UDP t1.example.com;branch=z9hG4bKkdjuw\r\n\
Via: SIP/2.0/SCTP t2.example.com;branch=z9hG4bKklasjdhf\r\n\
Via: SIP/2.0/TLS t3.example.com;branch=z9hG4bK2980unddj\r\n\
Via: SIP/2.0/UNKNOWN t4.example.com;branch=z9hG4bKasd0f3en\r\n\
Via: SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee\r\n\
l: 0\r\n\
\r\n"
                .to_vec()
        },
    },
    Case {
        name: "mpart01",
        rfc: 4475,
        section: "3.1.1.11",
        title: "Multipart MIME message",
        verdict: Verdict::Ok,
        without_credentials: Answer::Status(405),
        with_credentials: Answer::Status(405),
        because: "Well formed with a binary body; MESSAGE is known and not built.",
        sha256: Some("92147c8e24997bac59629e1b163767697d0d6d499af87f89e325d69968bec3ba"),
        bytes: || {
            b"MESSAGE sip:kumiko@example.org SIP/2.0\r\n\
Via: SIP/2.0/UDP 127.0.0.1:5070;branch=z9hG4bK-d87543-4dade06d0bdb11ee-1--d87543-;rport\r\n\
Max-Forwards: 70\r\n\
Route: <sip:127.0.0.1:5080>\r\n\
Identity: r5mwreLuyDRYBi/0TiPwEsY3rEVsk/G2WxhgTV1PF7hHuLIK0YWVKZhKv9Mj8UeXqkMVbnVq37CD+813gvYjcBUaZngQmXc9WNZSDNGCzA+fWl9MEUHWIZo1CeJebdY/XlgKeTa0Olvq0rt70Q5jiSfbqMJmQFte\
eivUhkMWYUA=\r\n\
Contact: <sip:fluffy@127.0.0.1:5070>\r\n\
To: <sip:kumiko@example.org>\r\n\
From: <sip:fluffy@example.com>;tag=2fb0dcc9\r\n\
Call-ID: 3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..\r\n\
CSeq: 1 MESSAGE\r\n\
Content-Transfer-Encoding: binary\r\n\
Content-Type: multipart/mixed;boundary=7a9cbec02ceef655\r\n\
Date: Sat, 15 Oct 2005 04:44:56 GMT\r\n\
User-Agent: SIPimp.org/0.2.5 (curses)\r\n\
Content-Length: 553\r\n\
\r\n\
--7a9cbec02ceef655\r\n\
Content-Type: text/plain\r\n\
Content-Transfer-Encoding: binary\r\n\
\r\n\
Hello\r\n\
--7a9cbec02ceef655\r\n\
Content-Type: application/octet-stream\r\n\
Content-Transfer-Encoding: binary\r\n\
\r\n\
0\x82\x01R\x06\t*\x86H\x86\xf7\r\x01\x07\x02\xa0\x82\x01C0\x82\x01?\x02\x01\x011\t0\x07\x06\x05+\x0e\x03\x02\x1a0\x0b\x06\t*\x86H\x86\xf7\r\x01\x07\x011\x82\x01 0\x82\x01\
\x1c\x02\x01\x010|0p1\x0b0\t\x06\x03U\x04\x06\x13\x02US1\x130\x11\x06\x03U\x04\x08\x13\n\
California1\x110\x0f\x06\x03U\x04\x07\x13\x08San Jose1\x0e0\x0c\x06\x03U\x04\n\
\x13\x05sipit1)0'\x06\x03U\x04\x0b\x13 Sipit Test Certificate Authority\x02\x08\x01\x95\x00q\x023\x01\x130\x07\x06\x05+\x0e\x03\x02\x1a0\r\x06\t*\x86H\x86\xf7\r\x01\x01\
\x01\x05\x00\x04\x81\x80\x8e\xf4f\xf9H\xf0R-\xd2\xe5\x97\x8e\x9d\x95\xaa\xe9\xf2\xfe\x15\xa0fYqb\x92\xe8\xda*\xa8\xd85\n\
h\xce\xff\xae<\xbd+\xff\x16u\xdd\xd5d\x8eY=\xd6G(\xf2b \xf7\xe9At\x9e3\r\x9a\x15\xed\xab\xdb\x93\xd1\x0cB\x10.{r\x89\xd2\x9c\xc0\xc9\xae.\xfb\xc7\xc0\xcf\xf9\x17/;\x02~O\
\xc0'\xe1Tm\xe4\xb6\xaa:\xbb>f\xcc\xcb]\xd6\xc6K\x83\x83\x14\x9c\xb8\xe6\xff\x18-\x94O\xe5{e\xbc\x99\xd0\x05\r\n\
--7a9cbec02ceef655--\r\n"
            .to_vec()
        },
    },
    Case {
        name: "unreason",
        rfc: 4475,
        section: "3.1.1.12",
        title: "Unusual reason phrase",
        verdict: Verdict::Ok,
        without_credentials: Answer::Silence,
        with_credentials: Answer::Silence,
        because: "A response is never answered; its phrase is UTF-8.",
        sha256: Some("4f939d6ebf4817eea70f011d3209e83732872ffc20ffd304b244084dc392f4d7"),
        bytes: || {
            b"SIP/2.0 200 = 2**3 * 5**2 \xd0\xbd\xd0\xbe \xd1\x81\xd1\x82\xd0\xbe \xd0\xb4\xd0\xb5\xd0\xb2\xd1\x8f\xd0\xbd\xd0\xbe\xd1\x81\xd1\x82\xd0\xbe \xd0\xb4\xd0\xb5\xd0\xb2\xd1\
\x8f\xd1\x82\xd1\x8c - \xd0\xbf\xd1\x80\xd0\xbe\xd1\x81\xd1\x82\xd0\xbe\xd0\xb5\r\n\
Via: SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923\r\n\
Call-ID: unreason.1234ksdfak3j2erwedfsASdf\r\n\
CSeq: 35 INVITE\r\n\
From: sip:user@example.com;tag=11141343\r\n\
To: sip:user@example.edu;tag=2229\r\n\
Content-Length: 154\r\n\
Content-Type: application/sdp\r\n\
Contact: <sip:user@host198.example.com>\r\n\
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
        name: "noreason",
        rfc: 4475,
        section: "3.1.1.13",
        title: "Empty reason phrase",
        verdict: Verdict::Ok,
        without_credentials: Answer::Silence,
        with_credentials: Answer::Silence,
        because: "A response is never answered; its phrase may be empty.",
        sha256: Some("07e11e470a69fffa3674de805e5165d1351a9439a91045ee70c9570ea24ab4fe"),
        bytes: || {
            b"SIP/2.0 100 \r\n\
Via: SIP/2.0/UDP 192.0.2.105;branch=z9hG4bK2398ndaoe\r\n\
Call-ID: noreason.asndj203insdf99223ndf\r\n\
CSeq: 35 INVITE\r\n\
From: <sip:user@example.com>;tag=39ansfi3\r\n\
To: <sip:user@example.edu>;tag=902jndnke3\r\n\
Content-Length: 0\r\n\
Contact: <sip:user@host105.example.com>\r\n\
\r\n"
                .to_vec()
        },
    },
];

/// RFC 4475 §2.3 writes long repeated strings as a count; so does this.
fn longreq() -> Vec<u8> {
    let user = "amazinglylongcallername".repeat(5);
    let to_uri = format!(
        "sip:user@example.com:6000;unknownparam1=very{}value;longparam{}=shortvalue;very{}ParameterNameWithNoValue",
        "long".repeat(20),
        "name".repeat(25),
        "long".repeat(25),
    );
    let from_params = format!(
        "tag=12{}424;unknownheaderparam{}=unknowheaderparam{}",
        "982".repeat(50),
        "name".repeat(20),
        "value".repeat(15),
    );
    let mut text = String::new();
    text.push_str("INVITE sip:user@example.com SIP/2.0\r\n");
    text.push_str(&format!("To: \"I have a user name of {} proportion\"<{to_uri}>\r\n", "extreme".repeat(10)));
    text.push_str(&format!("F: sip:{user}@example.net;{from_params};unknownValueless{}\r\n", "paramname".repeat(10)));
    text.push_str(&format!("Call-ID: longreq.one{}longcallid\r\nCSeq: 3882340 INVITE\r\n", "really".repeat(20)));
    text.push_str(&format!("Unknown-{}-Name: unknown-{}-value;", "Long".repeat(20), "long".repeat(20)));
    text.push_str(&format!(
        " unknown-{}-parameter-name = unknown-{}-parameter-value\r\n",
        "long".repeat(20),
        "long".repeat(20)
    ));
    let forms = [
        "Via:", "v:", "V:", "Via:", "ViA:", "VIa:", "VIA:", "via:", "viA:", "vIa:", "vIA:", "V : ", "v : ", "V  :",
        "v  :", "Via :", "Via  :",
    ];
    for (form, hop) in forms.into_iter().chain(std::iter::repeat("Via:")).zip((1..=33).rev()) {
        text.push_str(&format!("{form} SIP/2.0/TCP sip{hop}.example.com\r\n"));
    }
    text.push_str(&format!(
        "Via: SIP/2.0/TCP host.example.com;received=192.0.2.5;branch=very{}branchvalue\r\n",
        "long".repeat(50)
    ));
    text.push_str(&format!("Max-Forwards: 70\r\nContact: <sip:{user}@host5.example.net>\r\n"));
    text.push_str("Content-Type: application/sdp\r\nl: 150\r\n\r\n");
    text.push_str("v=0\r\no=mhandley 29739 7272939 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n");
    text.push_str("m=audio 49217 RTP/AVP 0 12\r\nm=video 3227 RTP/AVP 31\r\na=rtpmap:31 LPC\r\n");
    text.into_bytes()
}
