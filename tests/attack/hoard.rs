//! One stolen account that takes what there is: memory, ports, the disk, the records.

use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use crate::digest::Answer;
use crate::message::Message;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

/// How long an attack goes on.
const ATTACK: Duration = Duration::from_secs(3);

/// A phone whose password somebody knows, with a nonce that it counts on.
struct Thief {
    phone: Phone,
    challenge: String,
    count: u32,
}

impl Thief {
    fn new(server: &mut Server, user: &str) -> Self {
        let mut phone = server.registered(user);
        let uri = format!("sip:{}", phone.domain);
        let plain = phone.request("REGISTER", &uri, &format!("<{}>", phone.address_of_record()), "", "");
        phone.send(&plain);
        let challenge = phone.final_of(&plain).must("WWW-Authenticate").to_owned();
        Self { phone, challenge, count: 0 }
    }

    /// A request with credentials; `headers` are whole lines.
    fn request(&mut self, method: &str, uri: &str, headers: &str, body: &str) -> String {
        let to = if method == "REGISTER" { self.phone.address_of_record() } else { uri.to_owned() };
        let plain = self.phone.request(method, uri, &format!("<{to}>"), headers, body);
        self.count += 1;
        let Self { phone, challenge, count } = self;
        let (user, password) = (phone.user.as_str(), phone.password.as_str());
        let answer = Answer { challenge, user, password, method, uri, nonce_count: *count };
        plain.replacen("Max-Forwards:", &format!("Authorization: {}\r\nMax-Forwards:", answer.value()), 1)
    }

    fn register(&mut self, headers: &str) -> String {
        let uri = format!("sip:{}", self.phone.domain);
        self.request("REGISTER", &uri, headers, "")
    }

    fn invite(&mut self, number: &str, headers: &str) -> String {
        let (uri, contact) = (format!("sip:{number}@{}", self.phone.domain), self.phone.contact());
        let sdp = sdp(&self.phone);
        let headers = format!("Contact: {contact}\r\nContent-Type: application/sdp\r\n{headers}");
        self.request("INVITE", &uri, &headers, &sdp)
    }

    /// The status that a request hears at once, 100 passed over; `None`: it hears none.
    fn ask(&mut self, request: &str) -> Option<u16> {
        self.phone.send(request);
        let call_id = Message::parse(request.as_bytes()).unwrap().0.call_id().to_owned();
        let is_its = |message: &Message| message.status() >= 180 && message.call_id() == call_id;
        self.phone.find(Duration::from_millis(30), is_its).map(|message| message.status())
    }
}

fn sdp(phone: &Phone) -> String {
    let ip = phone.local.ip();
    format!("v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 7000 RTP/AVP 0\r\n")
}

/// A call from one registered phone to another, up to its end.
fn call(caller: &mut Phone, callee: &mut Phone, number: &str) {
    let (offer, answer) = (sdp(caller), sdp(callee));
    let mut dialog = caller.invite(number, "", &offer);
    let invite = callee.incoming("INVITE");
    callee.reply(&invite, 200, "", &answer);
    caller.await_status(&mut dialog, 200);
    caller.ack(&dialog, "");
    callee.incoming("ACK");
    caller.hang_up_with(&mut dialog, callee);
}

fn resident(pid: i32) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// What the files of a folder take on the disk.
fn size(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        Some(if found.is_dir() { size(&entry.path()) } else { found.blocks() * 512 })
    });
    sizes.sum()
}

#[test]
fn long_headers_and_many_answers_take_no_memory() {
    let mut server = Server::start(|_| {});
    let mut thief = Thief::new(&mut server, "1001");
    let (mut alice, mut bob) = (server.registered("1002"), server.registered("1003"));
    let engine = server.pid_of("engine").unwrap();
    call(&mut alice, &mut bob, "1003");
    let before = resident(engine);
    let beyond = format!("Via: {}\r\n", vec!["SIP/2.0/UDP h;branch=z9hG4bK1"; 1_900].join(","));
    // As long as they may be, with ten contacts, so that each answer would be the longest there is.
    let via = format!("Via: SIP/2.0/UDP h;branch=z9hG4bK{}\r\n", "v".repeat(1_900));
    let contacts: Vec<_> = (0..10).map(|n| format!("<sip:1001@192.0.2.{n};x={}>", "c".repeat(900))).collect();
    let within = format!("{via}Contact: {}\r\n", contacts.join(","));
    let (end, mut asked, mut heard) = (Instant::now() + ATTACK, 0, Vec::new());
    while Instant::now() < end {
        let long = thief.register(&beyond);
        heard.push(thief.ask(&long));
        let many = thief.register(&within);
        thief.ask(&many);
        asked += 1;
    }
    // All are answered until the garbage limit of its address has heard enough; none is kept.
    assert!(heard.iter().flatten().all(|status| *status == 400), "{heard:?}");
    assert!(heard.iter().flatten().count() >= 20 && asked >= 40, "{heard:?}");
    call(&mut alice, &mut bob, "1003");
    let grown = resident(engine).saturating_sub(before) >> 20;
    assert!(grown < 24, "{asked} long messages and as many full ones, and {grown} MiB more");
    let kept = eventually(PATIENCE, || server.metric("tipring_kept_bytes", "answers").filter(|kept| *kept > 100_000.0));
    assert!(kept.unwrap() < 2e6, "{kept:?}");
}

/// One phone of acme rings as many as it can; a phone of globex calls.
#[test]
fn ringing_calls_of_one_phone_leave_ports_for_others() {
    let none = "[limits]\nphone_calls = 0\nphone_calls_per_second = 0\ntenant_calls = 0\ntenant_calls_per_second = 0\n";
    for (more, most) in [(none, 32), ("[limits]\nphone_calls = 10\n", 10)] {
        let mut server = Server::start(|setup| setup.more = more.into());
        let mut thief = Thief::new(&mut server, "1001");
        let mut victim = server.registered("1002");
        let (mut alice, mut bob) = (server.registered("2001"), server.registered("2002"));
        for _ in 0..80 {
            let invite = thief.invite("1002", "");
            thief.phone.send(&invite);
            while thief.phone.receive(Duration::from_millis(1)).is_some() {}
        }
        let ringing = eventually(PATIENCE, || {
            while victim.receive(Duration::from_millis(1)).is_some() {}
            let calls = server.json("/v1/calls?limit=1000")["items"].as_array().unwrap().len();
            (calls == most).then_some(calls)
        });
        assert_eq!(ringing, Some(most), "{more}");
        assert_eq!(server.get("/readyz").unwrap().status, 200);
        for _ in 0..3 {
            call(&mut alice, &mut bob, "2002");
        }
    }
}

/// The last pairs are taken: who asks whether calls are taken hears the truth, and hears when they are again.
#[test]
fn readiness_knows_the_ports() {
    let mut server = Server::start(|setup| {
        (setup.media_ports, setup.trusted) = ("20000-20015", "[\"127.0.0.0/8\"]");
    });
    let (mut phone, mut victim) = (server.registered("1001"), server.registered("1002"));
    let offer = sdp(&phone);
    let mut dialogs: Vec<_> = (0..4).map(|_| phone.invite("1002", "", &offer)).collect();
    (0..4).for_each(|_| _ = victim.incoming("INVITE"));
    let says = |status: u16| {
        let said = eventually(PATIENCE, || Some(server.get("/readyz").ok()?).filter(|said| said.status == status));
        said.unwrap_or_else(|| panic!("/readyz never says {status}")).body
    };
    assert_eq!(says(503), "no room for calls\n");
    phone.cancel(&mut dialogs[0]);
    assert_eq!(says(200), "ready\n");
}

#[test]
fn long_numbers_and_call_ids_fill_no_disk() {
    let mut server = Server::start(|_| {});
    let mut thief = Thief::new(&mut server, "1001");
    let (mut alice, mut bob) = (server.registered("1002"), server.registered("1003"));
    call(&mut alice, &mut bob, "1003");
    let data = server.path("data");
    let (before, written) = (size(&data), server.metric("tipring_tape_bytes_total", "events").unwrap());
    let (long, end) = ("9".repeat(18_000), Instant::now() + ATTACK);
    let (mut sent, mut heard) = (0_u64, 0);
    while Instant::now() < end {
        let number = thief.invite(&long, "");
        let call_id = thief.invite("1003", "");
        let own = call_id.lines().find(|line| line.starts_with("Call-ID: ")).unwrap().to_owned();
        let call_id = call_id.replacen(&own, &format!("Call-ID: {long}"), 1);
        for text in [number, call_id] {
            sent += text.len() as u64;
            if let Some(status) = thief.ask(&text) {
                assert!([400, 414].contains(&status), "{status}");
                heard += 1;
            }
        }
    }
    assert!(heard >= 20, "{heard} answers");
    call(&mut alice, &mut bob, "1003");
    let written = server.metric("tipring_tape_bytes_total", "events").unwrap() - written;
    let grown = size(&data).saturating_sub(before);
    // The node makes its files larger by some MiB at a time.
    assert!(written < 500_000.0 && grown < 8 << 20, "of {sent} bytes {written} are events, and {grown} on the disk");
    assert_eq!(server.json("/v1/calls")["items"].as_array().unwrap().len(), 0);
}

/// Everything as long as it may be, in one call: it has its record, whole.
#[test]
fn a_call_of_the_longest_words_has_its_record() {
    let mut server = Server::start(|_| {});
    let mut thief = Thief::new(&mut server, "1001");
    let mut bob = server.registered("1003");
    let call_id = "i".repeat(256);
    let headers = format!(
        "Subject: {}\r\nRecord-Route: <sip:{};lr>\r\nUser-to-User: {}\r\nX-Long: {}\r\n",
        "s".repeat(512),
        "r".repeat(2_000),
        "75".repeat(250),
        "x".repeat(8_000)
    );
    let invite = thief.invite("1003", &headers);
    let own = invite.lines().find(|line| line.starts_with("Call-ID: ")).unwrap().to_owned();
    let name = format!("From: \"{}\" <", "n".repeat(900));
    let invite = invite.replacen(&own, &format!("Call-ID: {call_id}"), 1).replacen("From: <", &name, 1);
    thief.phone.send(&invite);
    let ringing = bob.incoming("INVITE");
    let answer = sdp(&bob);
    bob.reply(&ringing, 200, "", &answer);
    assert_eq!(thief.phone.final_of(&invite).status(), 200);
    bob.incoming("ACK");
    let mut dialog = bob.dialog_of(&ringing);
    bob.send_in(&mut dialog, "BYE", "", "");
    bob.await_status(&mut dialog, 200);
    let cdr = server.cdr(&call_id);
    assert_eq!((cdr["to"].as_str(), cdr["cause"]["sip"].as_u64()), (Some("1003"), Some(200)), "{cdr:#}");
    assert_eq!(cdr["from_name"].as_str().map(str::len), Some(128), "{cdr:#}");
    assert_eq!(server.metric("tipring_events_lost_total", ""), Some(0.0));
}

/// Calls of which most are refused: they are counted, and do not each have a record.
#[test]
fn refused_calls_are_recorded_boundedly() {
    let mut server =
        Server::start(|setup| setup.more = "[limits]\nphone_calls = 2\nphone_calls_per_second = 4\n".into());
    let mut thief = Thief::new(&mut server, "1001");
    let (mut alice, mut bob) = (server.registered("1002"), server.registered("1003"));
    let _callee = server.registered("1004");
    let (mut busy, mut asked, end) = (0, 0, Instant::now() + ATTACK);
    while Instant::now() < end || asked < 100 {
        let invite = thief.invite("1004", "");
        thief.phone.send(&invite);
        let call_id = Message::parse(invite.as_bytes()).unwrap().0.call_id().to_owned();
        let refused = |message: &Message| message.status() == 486 && message.call_id() == call_id;
        busy += usize::from(thief.phone.find(Duration::from_millis(20), refused).is_some());
        asked += 1;
    }
    assert!(busy > asked / 2, "{busy} of {asked}");
    call(&mut alice, &mut bob, "1003");
    let reasons = eventually(PATIENCE, || {
        let [calls, rate] = ["phone_calls", "phone_rate"]
            .map(|reason| server.metric("tipring_admission_refused_total", reason).unwrap_or(0.0));
        (calls > 0.0 && rate > 0.0).then_some((calls, rate))
    });
    let (calls, rate) = reasons.expect("both bounds are met");
    let records = || server.json("/v1/cdrs?from=1001&limit=1000")["items"].as_array().unwrap().len();
    let found = eventually(PATIENCE, || Some(records()).filter(|found| *found as f64 >= calls));
    assert_eq!(
        found.map(|found| found as f64),
        Some(calls),
        "a record for each of the bound of calls, and {rate} without"
    );
    assert!(calls < 60.0, "{calls}");
    let told = eventually(PATIENCE, || (server.log().contains("calls.refused")).then_some(()));
    assert!(told.is_some(), "{}", server.log());
    assert!(server.log().matches("event=calls.refused ").count() <= 2);
}
