//! What the scanner costs for an INVITE of about a kilobyte, and for what a node sees most. `cargo bench --bench sip_scan`.

use std::hint::black_box;

use criterion::Criterion;
use criterion::Throughput;
use criterion::criterion_group;
use criterion::criterion_main;
use tipring::wire::sip::HeaderId;
use tipring::wire::sip::Scan;
use tipring::wire::sip::Status;
use tipring::wire::sip::Transport;
use tipring::wire::sip::scan;
use tipring::wire::sip::write;

const INVITE: &[u8] = b"INVITE sip:1002@acme.test SIP/2.0\r\n\
Via: SIP/2.0/UDP 192.0.2.17:5060;branch=z9hG4bK-524287-1---8f3c1b6d2a7e9f40;rport\r\n\
Max-Forwards: 70\r\n\
Contact: <sip:1001@192.0.2.17:5060;transport=udp>;+sip.instance=\"<urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6>\"\r\n\
To: <sip:1002@acme.test>\r\n\
From: \"Alice Example\" <sip:1001@acme.test>;tag=5e3a9c42\r\n\
Call-ID: 84392ZjQ4M2E2MTQ0ZTg4ZWM5YzU3ZmE0OGJkZTI5ZjQ\r\n\
CSeq: 2 INVITE\r\n\
Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, NOTIFY, INFO, MESSAGE, UPDATE, PRACK\r\n\
Content-Type: application/sdp\r\n\
Supported: replaces, 100rel, timer, outbound, gruu\r\n\
User-Agent: Example Phone 5.4.2 build 10043\r\n\
Authorization: Digest username=\"1001\",realm=\"acme.test\",nonce=\"4bd1f20c9a7e44d0a3c0d6b7f1e2\",uri=\"sip:1002@acme.test\",\
response=\"8c1f0a9e2b3d4c5f6a7b8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b\",cnonce=\"0a4f113b\",nc=00000001,qop=auth,algorithm=SHA-256\r\n\
Content-Length: 243\r\n\
\r\n\
v=0\r\n\
o=- 13374 1 IN IP4 192.0.2.17\r\n\
s=-\r\n\
c=IN IP4 192.0.2.17\r\n\
t=0 0\r\n\
m=audio 40000 RTP/AVP 9 8 0 101\r\n\
a=rtpmap:9 G722/8000\r\n\
a=rtpmap:8 PCMA/8000\r\n\
a=rtpmap:0 PCMU/8000\r\n\
a=rtpmap:101 telephone-event/8000\r\n\
a=fmtp:101 0-15\r\n\
a=sendrecv\r\n\
a=rtcp:40001\r\n";

const REGISTER: &[u8] = b"REGISTER sip:acme.test SIP/2.0\r\n\
Via: SIP/2.0/UDP 192.0.2.17:5060;branch=z9hG4bK-1d8f3c1b6d;rport\r\n\
Max-Forwards: 70\r\n\
From: <sip:1001@acme.test>;tag=5e3a9c42\r\n\
To: <sip:1001@acme.test>\r\n\
Call-ID: 84392ZjQ4M2E2MTQ0ZTg4ZWM5YzU3\r\n\
CSeq: 2 REGISTER\r\n\
Contact: <sip:1001@192.0.2.17:5060>;expires=3600\r\n\
Content-Length: 0\r\n\
\r\n";

fn sip_scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sip");
    for (name, message) in [("scan INVITE", INVITE), ("scan REGISTER", REGISTER)] {
        assert!(matches!(scan(message, Transport::Udp), Scan::Ok(_)), "{:?}", scan(message, Transport::Udp));
        group.throughput(Throughput::Bytes(message.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| match scan(black_box(message), Transport::Udp) {
                Scan::Ok(message) => black_box(message.has(HeaderId::Authorization)),
                _ => false,
            });
        });
    }
    let Scan::Ok(invite) = scan(INVITE, Transport::Udp) else { return };
    let source = std::net::SocketAddr::from(([198, 51, 100, 7], 5060));
    let mut out = Vec::with_capacity(2048);
    group.bench_function("write 100 Trying", |bencher| {
        bencher.iter(|| {
            out.clear();
            write::response(&mut out, black_box(&invite), Status::TRYING, "", None, source).finish();
            out.len()
        });
    });
    group.finish();
}

criterion_group!(benches, sip_scan);
criterion_main!(benches);
