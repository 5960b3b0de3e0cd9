//! The 49 messages of RFC 4475 and the 12 of RFC 5118 over real sockets: the answer, or the silence, that the table asks for,
//! once from a stranger and once with credentials. The answer has to come the way the message went, whatever its Via names.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::UdpSocket;
use std::time::Duration;

use crate::digest::Answer as Credentials;
use crate::message::Message;
use crate::message::uri_of;
use crate::server::Server;

#[path = "../torture/mod.rs"]
mod table;

use table::Answer;
use table::Case;

/// From somebody whom no directory can have: a name with spaces, with a null, of more than 64 characters. They are sent with
/// the credentials of another phone, which may not speak for them.
const NOBODYS: [&str; 3] = ["esc01", "escnull", "longreq"];
const SOMEBODY: &str = "j.user";

/// The user and domain that `text` says it is from, as its tenant's phone.
fn sender(message: &Message) -> Option<(String, String)> {
    let name = if message.method() == "REGISTER" { "To" } else { "From" };
    let uri = uri_of(message.header(name)?);
    let (user, host) = uri.split_once(':')?.1.split_once('@')?;
    let host = host.split([':', ';', '?', '>']).next()?;
    let user = user.split([';', ':']).next()?;
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+.-_".contains(c));
    // No phone can have a longer name.
    (plain(user) && plain(host) && user.len() <= 64).then(|| (user.to_ascii_lowercase(), host.to_ascii_lowercase()))
}

/// The messages of the RFCs as this test reads them; those that it cannot read are refused before anybody is asked who he is.
fn readable(bytes: &[u8]) -> Option<Message> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let without_length: Vec<&str> = head
        .split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("content-length") && !line.starts_with("l:"))
        .collect();
    Message::parse(format!("{}\r\n\r\n", without_length.join("\r\n")).as_bytes()).map(|(message, _)| message)
}

/// One tenant with every domain of the messages, and a phone for everybody that one is from.
fn directory() -> String {
    let senders: BTreeSet<(String, String)> =
        table::all().filter_map(|case| sender(&readable(&(case.bytes)())?)).collect();
    let domains: BTreeSet<&str> = senders.iter().map(|(_, domain)| domain.as_str()).collect();
    let users: BTreeSet<&str> = senders.iter().map(|(user, _)| user.as_str()).collect();
    let aliases: Vec<&str> = domains.into_iter().filter(|domain| *domain != "example.com").collect();
    let mut text = format!("[[tenant]]\nname = \"rfc\"\ndomain = \"example.com\"\naliases = {aliases:?}\n");
    for user in users {
        text.push_str(&format!("[[phone]]\ntenant = \"rfc\"\nuser = \"{user}\"\npassword = \"torture\"\n"));
    }
    text
}

/// The first answer that is not 100.
fn exchange(socket: &UdpSocket, server: SocketAddr, bytes: &[u8], wait: Duration) -> Option<Message> {
    socket.send_to(bytes, server).unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    let mut packet = [0; 65_536];
    loop {
        let (len, _) = socket.recv_from(&mut packet).ok()?;
        let (message, _) = Message::parse(&packet[..len])?;
        if message.status() > 100 {
            return Some(message);
        }
    }
}

fn is_right(wanted: Answer, got: Option<u16>) -> bool {
    match (wanted, got) {
        (Answer::Silence, None) | (Answer::Challenge, Some(401 | 407)) => true,
        (Answer::Status(wanted), Some(got)) => wanted == got,
        (Answer::Served, Some(got)) => ![400, 401, 405, 407, 416, 420, 501, 505].contains(&got),
        _ => false,
    }
}

/// The same message with an answer to the challenge and a branch of its own.
fn with_credentials(bytes: &[u8], challenge: &Message) -> Option<Vec<u8>> {
    let message = readable(bytes)?;
    let user = sender(&message).map_or_else(|| SOMEBODY.to_owned(), |(user, _)| user);
    let (name, value) = match challenge.header("WWW-Authenticate") {
        Some(value) => ("Authorization", value),
        None => ("Proxy-Authorization", challenge.header("Proxy-Authenticate")?),
    };
    let answer = Credentials {
        challenge: value,
        user: &user,
        password: "torture",
        method: message.method(),
        uri: message.request_uri(),
        nonce_count: 1,
    };
    let line = format!("\r\n{name}: {}", answer.value());
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let mut out = bytes.to_vec();
    out.splice(end..end, line.into_bytes());
    // An old answer in the message would be read first.
    let old = out.windows(16).position(|window| window.eq_ignore_ascii_case(b"\r\nAuthorization:"));
    if let Some(old) = old.filter(|old| *old < end) {
        out[old + 2..old + 15].copy_from_slice(b"X-Old-One-xx:");
    }
    let branch = out.windows(14).position(|window| window == b"branch=z9hG4bK").map(|at| at + 14);
    if let Some(branch) = branch {
        out.splice(branch..branch, *b"again");
    }
    Some(out)
}

fn check(server: &mut Server, case: &Case, faults: &mut Vec<String>) {
    let v6 = case.rfc == 5118;
    let ip: IpAddr = if v6 { Ipv6Addr::LOCALHOST.into() } else { server.fresh_ip() };
    let target = if v6 { server.sip_v6() } else { server.sip() };
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    let bytes = (case.bytes)();
    let wait = |wanted| Duration::from_millis(if wanted == Answer::Silence { 150 } else { 2_000 });
    let mut fault = |with: &str, wanted, got: Option<Message>| {
        let got = got.map(|message| message.start);
        faults.push(format!(
            "{} (RFC {} §{}) {with}: {wanted:?} wanted, got {got:?}; {}",
            case.name, case.rfc, case.section, case.because
        ));
    };
    let first = exchange(&socket, target, &bytes, wait(case.without_credentials));
    if !is_right(case.without_credentials, first.as_ref().map(Message::status)) {
        return fault("from a stranger", case.without_credentials, first);
    }
    let Some(challenge) = first.filter(|_| case.without_credentials == Answer::Challenge) else { return };
    let Some(again) = with_credentials(&bytes, &challenge) else {
        return fault("cannot be read", case.with_credentials, None);
    };
    // Contract: From (REGISTER: To) must be the authenticated phone's own, else 403.
    let wanted = if NOBODYS.contains(&case.name) { Answer::Status(403) } else { case.with_credentials };
    let second = exchange(&socket, target, &again, wait(wanted));
    if !is_right(wanted, second.as_ref().map(Message::status)) {
        fault("with credentials", wanted, second);
    }
}

#[test]
fn every_message_gets_its_answer() {
    let mut server = Server::start(|setup| {
        setup.ipv6 = true;
        setup.digest = "[\"MD5\"]";
        setup.trusted = "[\"::1/128\"]";
        setup.directory = Some(directory());
    });
    let mut faults = Vec::new();
    let mut count = 0;
    // Whoever registers would ring for the INVITEs: registrations come last.
    let registers = |case: &&Case| (case.bytes)().starts_with(b"REGISTER");
    let (last, first): (Vec<&Case>, Vec<&Case>) = table::all().partition(registers);
    for case in first.into_iter().chain(last) {
        count += 1;
        check(&mut server, case, &mut faults);
    }
    assert_eq!(count, 61);
    let names: BTreeSet<&str> = NOBODYS.into();
    let nobodys =
        table::all().filter(|case| readable(&(case.bytes)()).is_some_and(|message| sender(&message).is_none()));
    let challenged = nobodys.filter(|case| case.without_credentials == Answer::Challenge).map(|case| case.name);
    assert_eq!(challenged.collect::<BTreeSet<_>>(), names);
    assert!(faults.is_empty(), "{} of {count}:\n{}", faults.len(), faults.join("\n"));
}
