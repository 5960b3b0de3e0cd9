//! Properties of `wire::rtp`, `wire::rtcp` and of what a capture server is told of them, over any bytes.

use tipring::wire::hep;
use tipring::wire::rtcp;
use tipring::wire::rtp::Header;

/// Lengths lie inside the packet; the packets of a compound lie one behind the other; a report is JSON or nothing.
pub(crate) fn packet(bytes: &[u8]) {
    if let Ok(header) = Header::parse(bytes) {
        assert!(header.header_len <= bytes.len());
        if let Ok(payload) = header.payload(bytes) {
            assert!(payload.start == header.header_len && payload.end <= bytes.len());
        }
    }
    let bodies: usize = rtcp::walk(bytes).map(|packet| packet.body.len() + 4).sum();
    assert!(bodies <= bytes.len());
    for packet in rtcp::walk(bytes) {
        assert!(packet.reports().count() <= usize::from(packet.count));
        let _ = packet.sender_info();
    }
    if let Ok(first) = rtcp::first(bytes) {
        assert!(rtcp::is_rtcp(bytes));
        assert_eq!(rtcp::walk(bytes).next().map(|packet| packet.packet_type), Some(first.packet_type));
    }
    let mut out = Vec::new();
    if hep::emit_rtcp(bytes, &mut out) {
        let report: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
        assert_eq!(
            report["report_count"].as_u64(),
            report["report_blocks"].as_array().map(|blocks| blocks.len() as u64)
        );
    } else {
        assert!(out.is_empty());
    }
}
