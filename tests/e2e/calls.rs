//! One call at a time between hand-driven phones: every answer a callee may give, in both directions and to the end.

use std::time::Duration;

use serde_json::Value;

use crate::message::Message;
use crate::message::parameter;
use crate::phone::Dialog;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::rtp::Stream;
use crate::rtp::check_both;
use crate::server::Server;
use crate::server::eventually;

/// A call that is up, with a stream on each side.
pub struct Call {
    pub caller: Dialog,
    pub callee: Dialog,
    pub caller_stream: Stream,
    pub callee_stream: Stream,
    /// What the server sent to each: the answer to the caller, the offer to the callee.
    pub answer: Message,
    pub offer: Message,
}

impl Call {
    pub fn set_up(left: &mut Phone, right: &mut Phone, to: &str, number: u32) -> Self {
        Self::set_up_with(left, right, to, number, &|sdp| sdp)
    }

    /// `change` is done to both descriptions.
    pub fn set_up_with(
        left: &mut Phone,
        right: &mut Phone,
        to: &str,
        number: u32,
        change: &dyn Fn(String) -> String,
    ) -> Self {
        let caller_stream = Stream::open(left.local.ip(), number);
        let callee_stream = Stream::open(right.local.ip(), number + 1000);
        let mut caller = left.invite(to, "", &change(caller_stream.sdp("sendrecv")));
        let offer = right.find(PATIENCE, |message| message.start.starts_with("INVITE"));
        let offer = offer.unwrap_or_else(|| panic!("{} is not called; the caller:\n{}", right.user, left.report()));
        right.reply(&offer, 180, "", "");
        left.await_status(&mut caller, 180);
        right.reply(&offer, 200, "", &change(callee_stream.sdp("sendrecv")));
        let answer = left.await_status(&mut caller, 200);
        left.ack(&caller, "");
        right.incoming("ACK");
        let callee = right.dialog_of(&offer);
        Self { caller, callee, caller_stream, callee_stream, answer, offer }
    }

    /// Where each side was told to send: (caller, callee).
    pub fn relay(&self) -> (std::net::SocketAddr, std::net::SocketAddr) {
        (self.answer.media().expect("an answer"), self.offer.media().expect("an offer"))
    }

    pub fn check_media(&mut self) {
        let (left, right) = self.relay();
        check_both(&mut self.caller_stream, left, &mut self.callee_stream, right);
    }

    pub fn end_by_caller(&mut self, left: &mut Phone, right: &mut Phone) {
        left.send_in(&mut self.caller, "BYE", "", "");
        let bye = right.incoming("BYE");
        right.reply(&bye, 200, "", "");
        left.await_status(&mut self.caller, 200);
    }
}

fn cause(record: &Value) -> (u64, &str) {
    (record["cause"]["sip"].as_u64().unwrap_or(0), record["cause"]["by"].as_str().unwrap_or(""))
}

fn pair(server: &mut Server) -> (Phone, Phone) {
    (server.registered("1001"), server.registered("1002"))
}

#[test]
fn a_call_from_dialling_to_its_record() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 1);
    // Topology hidden: nothing of one side is seen on the other.
    for (text, foreign) in [(&call.offer, left.local), (&call.answer, right.local)] {
        let whole = format!("{:?}{}", text.headers, text.body);
        assert!(!whole.contains(&foreign.to_string()) && !text.body.contains(&foreign.ip().to_string()), "{whole}");
    }
    assert_ne!(call.offer.call_id(), call.caller.call_id);
    call.check_media();
    server.live_call();
    call.end_by_caller(&mut left, &mut right);
    let record = server.cdr(&call.caller.call_id);
    assert_eq!(record["tenant"], "acme");
    assert_eq!(
        (record["from"].as_str(), record["to"].as_str(), record["dialled"].as_str()),
        (Some("1001"), Some("1002"), Some("1002"))
    );
    assert_eq!(cause(&record), (200, "caller"), "{record:#?}");
    for time in ["started_at", "ringing_at", "answered_at", "ended_at"] {
        assert!(record[time].is_string(), "{time}: {record:#?}");
    }
    assert!((300..30_000).contains(&record["talk_ms"].as_u64().unwrap()), "{record:#?}");
    let empty = eventually(PATIENCE, || server.json("/v1/calls")["items"].as_array()?.is_empty().then_some(()));
    assert!(empty.is_some());
}

#[test]
fn the_callee_hangs_up() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "1002", 2);
    right.send_in(&mut call.callee, "BYE", "Reason: Q.850;cause=16;text=\"Normal\"\r\n", "");
    let bye = left.incoming("BYE");
    assert!(bye.must("Reason").contains("cause=16"));
    left.reply(&bye, 200, "", "");
    right.await_status(&mut call.callee, 200);
    assert_eq!(cause(&server.cdr(&call.caller.call_id)).1, "callee");
}

/// The callee answers with `code`; the caller hears it and the record has it.
fn refused(code: u16) {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let stream = Stream::open(left.local.ip(), 1);
    let mut caller = left.invite("1002", "", &stream.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 180, "", "");
    right.reply(&invite, code, "", "");
    right.incoming("ACK");
    left.await_status(&mut caller, code);
    let record = server.cdr(&caller.call_id);
    assert_eq!(cause(&record).0, u64::from(code), "{record:#?}");
    assert!(record["answered_at"].is_null() && record["talk_ms"] == 0, "{record:#?}");
}

#[test]
fn busy() {
    refused(486);
}

#[test]
fn declined() {
    refused(603);
}

#[test]
fn not_acceptable_here() {
    refused(488);
}

#[test]
fn cancelled_while_it_rings() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let stream = Stream::open(left.local.ip(), 1);
    let mut caller = left.invite("1002", "", &stream.sdp("sendrecv"));
    let invite = right.incoming("INVITE");
    right.reply(&invite, 180, "", "");
    left.await_status(&mut caller, 180);
    left.cancel(&mut caller);
    let cancel = right.incoming("CANCEL");
    right.reply(&cancel, 200, "", "");
    right.reply(&invite, 487, "", "");
    right.incoming("ACK");
    left.await_status(&mut caller, 487);
    assert_eq!(cause(&server.cdr(&caller.call_id)), (487, "caller"));
}

#[test]
fn nobody_there_and_nobody_known() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    for (to, code) in [("1003", 480), ("7777", 404)] {
        let mut caller = left.invite(to, "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
        left.await_status(&mut caller, code);
        assert_eq!(cause(&server.cdr(&caller.call_id)).0, u64::from(code));
    }
}

#[test]
fn tenants_do_not_reach_each_other() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let mut other = server.registered("2001");
    let sdp = Stream::open(left.local.ip(), 1).sdp("sendrecv");
    let mut caller = left.invite("sip:2001@globex.test", "", &sdp);
    left.await_status(&mut caller, 404);
    // The same number in the own domain is an extension that does not exist.
    let mut caller = left.invite("2001", "", &sdp);
    left.await_status(&mut caller, 404);
    // An address of ours means the caller's own tenant.
    let uri = format!("sip:2001@{}", server.ip());
    let mut caller = left.invite(&uri, "", &sdp);
    left.await_status(&mut caller, 404);
    assert!(other.hears_nothing(Duration::from_millis(200)), "globex was rung");
    // Credentials of one tenant with a From of another.
    left.domain = "globex.test".into();
    let mut caller = left.invite("sip:2001@globex.test", "", &sdp);
    let answer = left.find(PATIENCE, |message| message.call_id() == caller.call_id && message.status() >= 400);
    let code = answer.expect("an answer").status();
    assert!([401, 403, 407].contains(&code), "{code}");
    caller.call_id.clear();
    assert!(other.hears_nothing(Duration::from_millis(200)), "globex was rung");
}

#[test]
fn an_alias_of_the_domain_is_the_domain() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let mut call = Call::set_up(&mut left, &mut right, "sip:1002@ACME-alias.test.:5060", 1);
    call.end_by_caller(&mut left, &mut right);
}

#[test]
fn the_first_phone_to_answer_wins() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let (mut first, mut second) = (server.registered("1010a"), server.registered("1010b"));
    let mut caller_stream = Stream::open(left.local.ip(), 1);
    let mut callee_stream = Stream::open(second.local.ip(), 2);
    let mut caller = left.invite("1010", "", &caller_stream.sdp("sendrecv"));
    let (to_first, to_second) = (first.incoming("INVITE"), second.incoming("INVITE"));
    assert_ne!(to_first.media(), to_second.media(), "each branch has ports of its own");
    first.reply(&to_first, 180, "", "");
    second.reply(&to_second, 180, "", "");
    second.reply(&to_second, 200, "", &callee_stream.sdp("sendrecv"));
    let cancel = first.incoming("CANCEL");
    first.reply(&cancel, 200, "", "");
    first.reply(&to_first, 487, "", "");
    first.incoming("ACK");
    let answer = left.await_status(&mut caller, 200);
    left.ack(&caller, "");
    second.incoming("ACK");
    check_both(&mut caller_stream, answer.media().unwrap(), &mut callee_stream, to_second.media().unwrap());
    left.send_in(&mut caller, "BYE", "", "");
    let bye = second.incoming("BYE");
    second.reply(&bye, 200, "", "");
    left.await_status(&mut caller, 200);
    assert!(first.hears_nothing(Duration::from_millis(100)));
}

#[test]
fn two_answers_cross_and_the_second_is_hung_up() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let (mut first, mut second) = (server.registered("1010a"), server.registered("1010b"));
    let stream = Stream::open(left.local.ip(), 1);
    let mut caller = left.invite("1010", "", &stream.sdp("sendrecv"));
    let (to_first, to_second) = (first.incoming("INVITE"), second.incoming("INVITE"));
    let answer = Stream::open(first.local.ip(), 2);
    first.reply(&to_first, 200, "", &answer.sdp("sendrecv"));
    second.reply(&to_second, 200, "", &Stream::open(second.local.ip(), 3).sdp("sendrecv"));
    left.await_status(&mut caller, 200);
    left.ack(&caller, "");
    first.incoming("ACK");
    second.incoming("ACK");
    let bye = second.incoming("BYE");
    second.reply(&bye, 200, "", "");
    left.send_in(&mut caller, "BYE", "", "");
    let bye = first.incoming("BYE");
    first.reply(&bye, 200, "", "");
    left.await_status(&mut caller, 200);
}

#[test]
fn when_all_fail_the_best_code_wins() {
    let mut server = Server::start(|_| {});
    let mut left = server.registered("1001");
    let (mut first, mut second) = (server.registered("1010a"), server.registered("1010b"));
    let mut caller = left.invite("1010", "", &Stream::open(left.local.ip(), 1).sdp("sendrecv"));
    let (to_first, to_second) = (first.incoming("INVITE"), second.incoming("INVITE"));
    first.reply(&to_first, 503, "", "");
    second.reply(&to_second, 486, "", "");
    // RFC 3261 §16.7: the lowest class that was heard, 503 never as it stands.
    left.await_status(&mut caller, 486);
}

#[test]
fn several_calls_keep_their_packets_apart() {
    let mut server = Server::start(|setup| setup.shards = 2);
    let users = [("1001", "1002"), ("1003", "1004"), ("1005", "1006")];
    let mut phones: Vec<_> = users.map(|(left, right)| (server.registered(left), server.registered(right))).into();
    let mut calls: Vec<Call> = Vec::new();
    for (number, ((left, right), (_, to))) in (1..).zip(phones.iter_mut().zip(users)) {
        calls.push(Call::set_up(left, right, to, number));
    }
    for _ in 0..2 {
        for call in &mut calls {
            call.check_media();
        }
    }
    for ((left, right), mut call) in phones.iter_mut().zip(calls) {
        call.end_by_caller(left, right);
        let record = server.cdr(&call.caller.call_id);
        assert_eq!(cause(&record), (200, "caller"));
    }
}

#[test]
fn a_call_is_ended_through_the_api() {
    let mut server = Server::start(|_| {});
    let (mut left, mut right) = pair(&mut server);
    let call = Call::set_up(&mut left, &mut right, "1002", 1);
    let id = server.live_call();
    let trace = server.json(&format!("/v1/calls/{id}/trace")).to_string();
    assert!(trace.len() > 100, "{trace}");
    assert!(server.delete(&format!("/v1/calls/{id}")).unwrap().status < 300);
    for phone in [&mut left, &mut right] {
        let bye = phone.incoming("BYE");
        phone.reply(&bye, 200, "", "");
    }
    let record = server.cdr(&call.caller.call_id);
    assert_eq!(record["call"].as_str(), Some(id.as_str()));
}

#[test]
fn methods_that_are_not_built_are_refused() {
    let mut server = Server::start(|_| {});
    let mut phone = server.registered("1001");
    for (method, code) in [("SUBSCRIBE", 489), ("PUBLISH", 405), ("MESSAGE", 405), ("FROB", 501)] {
        let headers = if method == "SUBSCRIBE" { "Event: x-frob\r\nContact: <sip:a@127.0.0.1>\r\n" } else { "" };
        let request = phone.request(method, "sip:1002@acme.test", "<sip:1002@acme.test>", headers, "");
        let answer = phone.ask(&request);
        assert_eq!(answer.status(), code, "{method}: {answer:#?}");
        if code == 405 {
            assert!(answer.must("Allow").contains("INVITE"));
        }
    }
    let request = phone.request("BYE", "sip:1002@acme.test", "<sip:1002@acme.test>;tag=no", "", "");
    phone.send(&request);
    assert_eq!(phone.final_of(&request).status(), 481);
    assert!(parameter("a;tag=x", "tag").is_some());
}
