//! Dialogs against RFC 3261 §12: route sets, numbers, flows.

use super::*;
use crate::wire::sip::Scan;
use crate::wire::sip::Transport;
use crate::wire::sip::scan;

const OK: &str = "SIP/2.0 200 OK\r\n\
    Via: SIP/2.0/UDP us;branch=z9hG4bKa\r\n\
    Record-Route: <sip:p1.test;lr>, <sip:p2.test;lr>\r\n\
    From: <sip:us@us.test>;tag=ours\r\n\
    To: <sip:them@them.test>;tag=theirs\r\n\
    Call-ID: c1\r\n\
    CSeq: 7 INVITE\r\n\
    Contact: <sip:them@192.0.2.9;x=y>\r\n\
    Content-Length: 0\r\n\r\n";

fn message(text: &str) -> Message<'_> {
    match scan(text.as_bytes(), Transport::Udp) {
        Scan::Ok(message) => message,
        other => panic!("{other:?}"),
    }
}

fn flow(port: u16) -> Flow {
    Flow::udp(0, ([192, 0, 2, 1], port).into())
}

fn settings() -> Settings {
    crate::machine::call::tests::settings()
}

fn request(dialog: &mut Dialog, method: Method) -> String {
    let mut out = Vec::new();
    dialog.request(&mut out, method, "b", MAX_FORWARDS, &settings()).finish();
    String::from_utf8(out).unwrap()
}

#[test]
fn a_client_dialog_reverses_the_route_set_and_counts_on() {
    let mut dialog = Dialog::of_client(&message(OK), 7, b"sip:x", flow(5060));
    let text = request(&mut dialog, Method::Bye);
    assert!(text.starts_with("BYE sip:them@192.0.2.9;x=y SIP/2.0\r\n"), "{text}");
    let routes: Vec<_> = text.lines().filter(|line| line.starts_with("Route")).collect();
    assert_eq!(routes, ["Route: <sip:p2.test;lr>", "Route: <sip:p1.test;lr>"]);
    assert!(text.contains("CSeq: 8 BYE"));
    assert!(text.contains("To: <sip:them@them.test>;tag=theirs\r\n"));
    assert!(request(&mut dialog, Method::Bye).contains("CSeq: 9 BYE"));
}

#[test]
fn a_strict_router_gets_the_request_uri() {
    let text = OK.replace("<sip:p2.test;lr>", "<sip:p2.test>");
    let text = request(&mut Dialog::of_client(&message(&text), 7, b"sip:x", flow(5060)), Method::Bye);
    assert!(text.starts_with("BYE sip:p2.test SIP/2.0\r\n"), "{text}");
    let routes: Vec<_> = text.lines().filter(|line| line.starts_with("Route")).collect();
    assert_eq!(routes, ["Route: <sip:p1.test;lr>", "Route: <sip:them@192.0.2.9;x=y>"]);
}

#[test]
fn requests_in_order_move_the_flow_and_others_do_not() {
    let mut dialog = Dialog::of_client(&message(OK), 7, b"sip:x", flow(5060));
    let info = |cseq: u32| {
        format!(
            "INFO sip:us SIP/2.0\r\nVia: SIP/2.0/UDP t;branch=z9hG4bKb\r\nFrom: <sip:them@them.test>;tag=theirs\r\n\
             To: <sip:us@us.test>;tag=ours\r\nCall-ID: c1\r\nCSeq: {cseq} INFO\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let first = info(100);
    assert!(dialog.owns_request(&message(&first)));
    assert_eq!(dialog.accept(&message(&first), flow(7000)), Order::Next);
    assert_eq!(dialog.flow(), flow(7000));
    assert_eq!(dialog.accept(&message(&info(99)), flow(8000)), Order::OutOfOrder);
    assert_eq!(dialog.flow(), flow(7000));
    let other = first.replace("tag=theirs", "tag=another");
    assert!(!dialog.owns_request(&message(&other)));
}
