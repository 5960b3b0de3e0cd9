//! What phones do that few expect, in calls between hand-driven phones: `docs/interop.md` names these tests.

use std::time::Instant;

use crate::calls::Call;
use crate::message::Message;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::rtp::check_both;
use crate::server::Server;

const RELIABLE: &str = "Supported: 100rel\r\n";

fn pair(server: &mut Server) -> (Phone, Phone) {
    (server.registered("1001"), server.registered("1002"))
}

fn called(phone: &mut Phone) -> Message {
    phone.incoming("INVITE")
}

/// Media and whether it is in use, of each m-line.
fn streams(message: &Message) -> Vec<(String, bool)> {
    let lines = message.body.lines().filter_map(|line| line.strip_prefix("m="));
    lines.map(|line| (line.split(' ').next().unwrap().to_owned(), line.split(' ').nth(1) != Some("0"))).collect()
}

/// As pjsua does, which acknowledges every 18x and hangs up if that is refused: 180, 183 with the answer and 200 in one moment.
#[test]
fn a_phone_that_is_answered_before_it_could_acknowledge_the_ringing() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (mut ours, mut theirs) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    let mut caller = left.invite("1002", RELIABLE, &ours.sdp("sendrecv"));
    let invite = called(&mut right);
    let answer = theirs.sdp("sendrecv");
    right.reply(&invite, 180, "Require: 100rel\r\nRSeq: 1\r\n", "");
    right.reply(&invite, 183, "Require: 100rel\r\nRSeq: 2\r\n", &answer);
    right.reply(&invite, 200, "", "");
    let ringing = left.find(PATIENCE, |message| message.status() == 180).expect("a 180");
    let rack = format!("RAck: {} {}\r\n", ringing.must("RSeq"), ringing.must("CSeq"));
    let ok = left.await_status(&mut caller, 200);
    assert!(ok.media().is_some(), "the answer: {ok:#?}");
    // The PRACK, as it was on its way, and then the ACK.
    left.send_in(&mut caller, "PRACK", &rack, "");
    left.await_status(&mut caller, 200);
    left.ack(&caller, "");
    right.incoming("ACK");
    for _ in 0..2 {
        let prack = right.incoming("PRACK");
        right.reply(&prack, 200, "", "");
    }
    let relay = (ok.media().unwrap(), invite.media().unwrap());
    check_both(&mut ours, relay.0, &mut theirs, relay.1);
    left.hang_up_with(&mut caller, &mut right);
    let record = server.cdr(&caller.call_id);
    assert_eq!(record["cause"]["by"].as_str(), Some("caller"), "{record:#?}");
}

#[test]
fn a_phone_that_acknowledges_the_ringing_after_it_was_refused() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let stream = Stream::open(left.local.ip(), 1);
    let mut caller = left.invite("1002", RELIABLE, &stream.sdp("sendrecv"));
    let invite = called(&mut right);
    right.reply(&invite, 180, "", "");
    right.reply(&invite, 486, "", "");
    let ringing = left.await_status(&mut caller, 180);
    let rack = format!("RAck: {} {}\r\n", ringing.must("RSeq"), ringing.must("CSeq"));
    let refusal = left.find(PATIENCE, |message| message.status() == 486);
    assert!(refusal.is_some());
    left.send_in(&mut caller, "PRACK", &rack, "");
    left.await_status(&mut caller, 200);
}

#[test]
fn a_phone_that_answers_with_other_m_lines_than_were_offered() {
    const VIDEO: &str = "m=video 5006 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n";
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let (ours, theirs) = (Stream::open(left.local.ip(), 1), Stream::open(right.local.ip(), 2));
    let (mine, audio) = (ours.sdp("sendrecv"), theirs.sdp("sendrecv"));
    let at = audio.find("m=").unwrap();
    let two = [("audio".to_owned(), true), ("video".to_owned(), true)];
    let one = [("audio".to_owned(), true), ("video".to_owned(), false)];
    for (answer, wanted) in [
        (audio.clone(), &one),
        (format!("{}{VIDEO}{}", &audio[..at], &audio[at..]), &two),
        (format!("{audio}{VIDEO}m=audio 5008 RTP/AVP 8\r\n"), &two),
        (format!("{audio}{}", VIDEO.replace("RTP/AVP", "RTP/SAVP")), &one),
    ] {
        let mut caller = left.invite("1002", "", &format!("{mine}{VIDEO}"));
        let invite = called(&mut right);
        right.reply(&invite, 200, "", &answer);
        let ok = left.await_status(&mut caller, 200);
        assert_eq!(streams(&ok), wanted, "{answer}");
        left.ack(&caller, "");
        right.incoming("ACK");
        // All streams out of use, and back.
        let off = |sdp: &str| {
            let line = |line: &str| match line.strip_prefix("m=audio ").and_then(|rest| rest.split_once(' ')) {
                Some((_, rest)) => format!("m=audio 0 {rest}\r\n"),
                None => format!("{line}\r\n"),
            };
            sdp.lines().map(line).collect::<String>()
        };
        for (offer, answer, is_used) in [(off(&mine), off(&audio), false), (mine.clone(), audio.clone(), true)] {
            left.send_in(&mut caller, "INVITE", "", &offer);
            let carried = called(&mut right);
            assert_eq!(streams(&carried), [("audio".to_owned(), is_used), ("video".to_owned(), false)]);
            right.reply(&carried, 200, "", &answer);
            let ok = left.await_status(&mut caller, 200);
            assert_eq!(streams(&ok), [("audio".to_owned(), is_used)]);
            left.ack(&caller, "");
            right.incoming("ACK");
        }
        left.hang_up_with(&mut caller, &mut right);
    }
}

#[test]
fn a_phone_whose_invitation_expires_and_that_measures_the_way() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let stream = Stream::open(left.local.ip(), 1);
    let start = Instant::now();
    let mut caller = left.invite("1002", "Expires: 2\r\nTimestamp: 8.15\r\n", &stream.sdp("sendrecv"));
    let invite = called(&mut right);
    right.reply(&invite, 180, "", "");
    let trying = left.find(PATIENCE, |message| message.status() == 100).expect("a 100");
    assert_eq!(trying.must("Timestamp"), "8.15");
    left.await_status(&mut caller, 487);
    assert!((1_900..10_000).contains(&start.elapsed().as_millis()), "{:?}", start.elapsed());
    let cancel = right.incoming("CANCEL");
    assert!(cancel.must("Reason").contains("cause=19"));
    right.reply(&cancel, 200, "", "");
    right.reply(&invite, 487, "", "");
    let record = server.cdr(&caller.call_id);
    assert_eq!(
        (record["cause"]["sip"].as_u64(), record["cause"]["by"].as_str()),
        (Some(487), Some("timer")),
        "{record:#?}"
    );
}

#[test]
fn a_phone_with_a_part_that_must_be_understood_or_no_contact() {
    let mut server = Server::start(|_| {});
    let (mut left, _right) = pair(&mut server);
    let sdp = Stream::open(left.local.ip(), 1).sdp("sendrecv");
    let body = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{sdp}\r\n--b\r\nContent-Type: application/x\r\n\
         Content-Disposition: signal;handling=required\r\n\r\nx\r\n--b--\r\n"
    );
    let contact = format!("Contact: {}\r\n", left.contact());
    for (headers, body, status) in [
        (format!("{contact}Content-Type: multipart/mixed;boundary=b\r\n"), body.as_str(), 415),
        (format!("{contact}Content-Type: application/sdp\r\nContent-Encoding: gzip\r\n"), sdp.as_str(), 415),
        ("Content-Type: application/sdp\r\n".to_owned(), &sdp, 400),
        ("Contact: *\r\nContent-Type: application/sdp\r\n".to_owned(), &sdp, 400),
        ("Contact: <tel:+15551234>\r\nContent-Type: application/sdp\r\n".to_owned(), &sdp, 400),
    ] {
        let request = left.request("INVITE", "sip:1002@acme.test", "<sip:1002@acme.test>", &headers, body);
        let refusal = left.ask(&request);
        assert_eq!(refusal.status(), status, "{headers}{refusal:#?}");
        if status == 415 {
            assert_eq!((refusal.must("Accept"), refusal.must("Accept-Encoding")), ("application/sdp", "identity"));
        }
    }
}

/// Server twice, and keys by INFO from both sides while the media are the phones' own secret.
#[test]
fn phones_that_double_headers_and_press_keys_by_info() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let secure = |sdp: String| sdp.replace("RTP/AVP", "RTP/SAVP");
    let mut call = Call::set_up_with(&mut left, &mut right, "1002", 1, &secure);
    for body in ["Signal= 5\r\nDuration= 160\r\n", "5"] {
        let kind = if body == "5" { "application/dtmf" } else { "application/dtmf-relay" };
        let head = format!("Content-Type: {kind}\r\n");
        left.send_in(&mut call.caller, "INFO", &head, body);
        let info = right.incoming("INFO");
        assert_eq!((info.must("Content-Type"), info.body.as_str()), (kind, body));
        right.reply(&info, 200, "Server: a\r\nServer: b\r\n", "");
        left.await_status(&mut call.caller, 200);
        right.send_in(&mut call.callee, "INFO", &head, body);
        let info = left.incoming("INFO");
        left.reply(&info, 200, "Server: a\r\nServer: b\r\n", "");
        right.await_status(&mut call.callee, 200);
    }
    call.end_by_caller(&mut left, &mut right);
}
