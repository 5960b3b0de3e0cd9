//! Registration, who may do what, and what strangers learn.

use std::time::Duration;
use std::time::Instant;

use rustix::process::Signal;

use crate::message::Message;
use crate::message::parameter;
use crate::server::Server;
use crate::server::eventually;
use crate::sipp::Sipp;

#[test]
fn a_phone_registers_is_listed_and_leaves() {
    let mut server = Server::start(|_| {});
    let mut phone = server.registered("1001");
    let items = server.registrations(1);
    assert_eq!((items[0]["tenant"].as_str(), items[0]["user"].as_str()), (Some("acme"), Some("1001")));
    let query = phone.register_with("");
    assert!(query.must("Contact").contains(&phone.local.to_string()), "{query:#?}");
    let answer = phone.register_with("Contact: *\r\nExpires: 0\r\n");
    assert_eq!((answer.status(), answer.header("Contact")), (200, None), "{answer:#?}");
    assert_eq!(phone.register_with("").header("Contact"), None);
}

#[test]
fn several_contacts_and_bounds() {
    let mut server = Server::start(|_| {});
    let mut phone = server.registered("1001");
    let second = "Contact: <sip:1001@127.0.0.9:5099>;q=0.5;expires=900\r\n";
    let answer = phone.register_with(second);
    assert_eq!(answer.status(), 200, "{answer:#?}");
    let contacts: String = answer.all("Contact").collect::<Vec<_>>().join(",");
    assert!(contacts.contains("127.0.0.9:5099") && contacts.contains(&phone.local.to_string()), "{contacts}");
    let brief = phone.register_with("Contact: <sip:1001@127.0.0.9:5099>;expires=5\r\n");
    assert_eq!(brief.status(), 423, "{brief:#?}");
    assert!(brief.must("Min-Expires").parse::<u32>().unwrap() > 5);
}

#[test]
fn a_stranger_learns_nothing() {
    let mut server = Server::start(|_| {});
    let answers: Vec<_> = [("1001", "wrong"), ("9999", "wrong"), ("nobody", "secret-nobody")]
        .into_iter()
        .map(|(user, password)| {
            let mut phone = server.phone(user);
            phone.password = password.into();
            let answer = phone.register(600);
            let mut names: Vec<String> = answer.headers.iter().map(|(name, _)| name.clone()).collect();
            names.sort();
            let challenges: Vec<_> = answer
                .all("WWW-Authenticate")
                .map(|value| ["realm", "algorithm", "qop", "stale"].map(|name| parameter(value, name)))
                .collect();
            (answer.start.clone(), names, challenges)
        })
        .collect();
    assert_eq!(answers[0], answers[1], "a wrong password and an unknown user are told apart");
    assert_eq!(answers[0], answers[2]);
    assert!(answers[0].0.starts_with("SIP/2.0 401") || answers[0].0.starts_with("SIP/2.0 403"), "{answers:?}");
}

#[test]
fn every_algorithm_that_is_offered_works() {
    for (digest, expected) in
        [("[\"MD5\"]", "MD5"), ("[\"SHA-256\", \"MD5\"]", "SHA-256"), ("[\"SHA-512-256\", \"MD5\"]", "SHA-512-256")]
    {
        let mut server = Server::start(|setup| setup.digest = digest);
        let mut phone = server.phone("1001");
        let to = format!("<{}>", phone.address_of_record());
        let request = phone.request("REGISTER", "sip:acme.test", &to, "", "");
        phone.send(&request);
        let challenge = phone.final_of(&request);
        let offered = parameter(challenge.must("WWW-Authenticate"), "algorithm").unwrap_or_else(|| "MD5".into());
        assert_eq!(offered, expected);
        assert!(
            challenge.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() < request.len() * 3
        );
        assert_eq!(phone.register(600).status(), 200);
    }
}

#[test]
fn a_tenant_is_offered_its_own_algorithms() {
    let entry = |name: &str, user: &str, digest: &str| {
        format!(
            "[[tenant]]\nname = \"{name}\"\ndomain = \"{name}.test\"\n{digest}\n\
             [[phone]]\ntenant = \"{name}\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n"
        )
    };
    let directory = entry("acme", "1001", "digest = [\"SHA-512-256\"]") + &entry("globex", "2001", "");
    let mut server = Server::start(|setup| setup.directory = Some(directory));
    for (user, domain, expected) in
        [("1001", "acme.test", &["SHA-512-256"][..]), ("2001", "globex.test", &["SHA-256", "MD5"])]
    {
        let mut phone = server.phone(user);
        domain.clone_into(&mut phone.domain);
        let to = format!("<{}>", phone.address_of_record());
        let request = phone.request("REGISTER", &format!("sip:{domain}"), &to, "", "");
        phone.send(&request);
        let challenge = phone.final_of(&request);
        let offers = challenge.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("WWW-Authenticate"));
        let offered: Vec<_> = offers.filter_map(|(_, value)| parameter(value, "algorithm")).collect();
        assert_eq!(offered, expected, "{domain}");
        assert_eq!(phone.register(600).status(), 200);
    }
}

#[test]
fn an_address_of_record_of_somebody_else_is_forbidden() {
    let mut server = Server::start(|_| {});
    let mut phone = server.phone("1001");
    let contact = format!("Contact: {}\r\n", phone.contact());
    let request = phone.request("REGISTER", "sip:acme.test", "<sip:1002@acme.test>", &contact, "");
    assert_eq!(phone.ask(&request).status(), 403);
}

#[test]
fn credentials_are_asked_for_again_only_when_stale() {
    let mut server = Server::start(|_| {});
    let mut phone = server.phone("1001");
    let to = format!("<{}>", phone.address_of_record());
    let contact = format!("Contact: {}\r\n", phone.contact());
    let request = phone.request("REGISTER", "sip:acme.test", &to, &contact, "");
    phone.send(&request);
    let challenge = phone.final_of(&request);
    let again = phone.with_credentials(&request, &challenge);
    // A nonce of another server, or of another life, is stale: the password was right.
    let forged =
        again.replace(&parameter(challenge.must("WWW-Authenticate"), "nonce").unwrap(), "AAAAAAAAAAAAAAAAAAAAAAAA");
    phone.send(&forged);
    let refused = phone.final_of(&forged);
    assert_eq!(refused.status(), 401, "{refused:#?}");
    phone.send(&again);
    assert_eq!(phone.final_of(&again).status(), 200);
    // RFC 3261 §17.2.2: the same request again is a retransmission and no replay.
    phone.send(&again);
    assert_eq!(phone.final_of(&again).status(), 200);
}

#[test]
fn sipp_registers_and_sipsak_pings() {
    let mut server = Server::start(|setup| setup.digest = "[\"MD5\"]");
    Sipp::registered(&mut server, "1001");
    server.registrations(1);
    let uri = format!("sip:ping@{}", server.ip());
    let output = std::process::Command::new("sipsak").args(["-s", &uri, "-v"]).output().expect("sipsak is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let mut phone = server.phone("1002");
    let request =
        phone.request("OPTIONS", &uri, &format!("<{uri}>"), "", "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    phone.send(&request);
    let answer = phone.final_of(&request);
    assert_eq!(answer.status(), 200, "{answer:#?}");
}

#[test]
fn a_guesser_is_slowed_and_five_hundred_phones_behind_his_address_are_not() {
    const PHONES: usize = 500;
    let mut server = Server::start(|setup| setup.crowd = PHONES);
    let ip = server.fresh_ip();
    let open = |index: usize, server: &Server| {
        let mut phone = crate::phone::Phone::udp(&format!("u{index}"), (ip, 0).into(), server.sip());
        phone.contact_parameters = format!(";+sip.instance=\"<urn:uuid:0-{index}>\"");
        phone
    };
    let mut phones: Vec<_> = (0..PHONES).map(|index| open(index, &server)).collect();
    let mut guesser = open(0, &server);
    guesser.user = "1001".into();
    let mut answered = 0;
    let mut guess = |phones: &mut [crate::phone::Phone], guesser: &mut crate::phone::Phone| {
        for (round, phone) in phones.iter_mut().enumerate() {
            let answer = phone.register(600);
            assert_eq!(answer.status(), 200, "phone {round}: {answer:#?}");
            let to = "<sip:1001@acme.test>";
            let request = guesser.request("REGISTER", "sip:acme.test", to, "", "");
            guesser.send(&request);
            if let Some(challenge) = guesser.receive(Duration::from_millis(20)).filter(|answer| answer.status() == 401)
            {
                guesser.password = format!("guess-{round}");
                let again = guesser.with_credentials(&request, &challenge);
                guesser.send(&again);
                answered += usize::from(guesser.receive(Duration::from_millis(20)).is_some());
            }
        }
    };
    // The first registration is what earns the address its room.
    guess(&mut phones, &mut guesser);
    let start = Instant::now();
    guess(&mut phones, &mut guesser);
    assert!(start.elapsed() < Duration::from_secs(40));
    assert!(answered < PHONES, "{answered} guesses of {} were answered", 2 * PHONES);
}

/// RFC 3261 §19.1.4, RFC 3966: escapes, visual separators and parameters change no number.
#[test]
fn a_number_is_one_however_it_is_written() {
    let phone = |user: &str, more: &str| {
        format!("[[phone]]\ntenant = \"acme\"\nuser = \"{user}\"\npassword = \"secret-{user}\"\n{more}")
    };
    let directory = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\n".to_owned()
        + &phone("1001", "")
        + &phone("*21#", "numbers = [\"+49301000\"]\n");
    let mut server = Server::start(|setup| {
        setup.directory = Some(directory);
        setup.shards = 3;
    });
    let mut left = server.registered("1001");
    // It registers as `%2A21%23`, its digest says `*21#`.
    let mut right = server.phone("*21#");
    let contact = format!("Contact: <sip:x@{}>\r\nExpires: 600\r\n", right.local);
    for to in ["<sip:%2A21%23@acme.test>", "<sip:*21%23@acme.test;user=phone>", "<sip:%2a2-1%23@acme.test;user=phone>"]
    {
        let request = right.request("REGISTER", "sip:acme.test", to, &contact, "");
        assert_eq!(right.ask(&request).status(), 200, "{to}");
    }
    assert_eq!(server.registrations(2).iter().filter(|item| item["user"] == "*21#").count(), 1);
    for (uri, number) in [
        ("%2A21%23", "*21#"),
        ("*21%23", "*21#"),
        ("*21#", "*21#"),
        ("sip:*2.1%23@acme.test;user=phone", "*21#"),
        ("tel:*21%23;phone-context=acme.test", "*21#"),
        ("tel:+49-30-1000", "+49301000"),
        ("sip:1000;phone-context=%2B4930@acme.test;user=phone", "+49301000"),
    ] {
        let mut caller = left.invite(uri, "", "");
        let invite = right.incoming("INVITE");
        let escaped = number.replace('#', "%23");
        assert!(invite.must("To").contains(&format!("<sip:{escaped}@acme.test>")), "{uri}: {invite:#?}");
        right.reply(&invite, 486, "", "");
        left.await_status(&mut caller, 486);
        let cdr = server.cdr(&caller.call_id);
        assert_eq!((cdr["dialled"].as_str(), cdr["to"].as_str()), (Some(number), Some(number)), "{uri}");
    }
    // The other way its own number stands in From.
    let request = left.request("OPTIONS", "sip:acme.test", "<sip:acme.test>", "", "");
    left.send(&request.replace("sip:acme.test SIP", "sip:1001@acme%2Etest SIP"));
    assert_eq!(left.final_of(&request).status(), 400, "no escapes in a host");
}

/// RFC 3323: challenged for the tenant that is called, shown to nobody, recorded as who it is; whichever shard has the call.
#[test]
fn an_anonymous_caller_is_admitted_by_its_credential() {
    let mut server = Server::start(|setup| setup.shards = 3);
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    for is_cancelled in [false, true] {
        let headers = format!("Contact: {}\r\n", left.contact());
        let plain = left.request("INVITE", "sip:1002@acme.test", "<sip:1002@acme.test>", &headers, "");
        let own = format!("<{}>;tag", left.address_of_record());
        let request = plain.replacen(&own, "\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag", 1);
        left.send(&request);
        let challenge = left.final_of(&request);
        assert_eq!(parameter(challenge.must("WWW-Authenticate"), "realm").as_deref(), Some("acme.test"));
        let again = left.with_credentials(&request, &challenge);
        left.send(&again);
        let invite = right.incoming("INVITE");
        assert!(invite.must("From").starts_with("\"Anonymous\" <sip:anonymous@anonymous.invalid>"), "{invite:#?}");
        assert!(!format!("{invite:?}").contains("1001"), "{invite:#?}");
        if is_cancelled {
            right.reply(&invite, 180, "", "");
            left.send(&again.replace("INVITE", "CANCEL"));
            right.incoming("CANCEL");
        } else {
            right.reply(&invite, 486, "", "");
            assert_eq!(left.final_of(&again).status(), 486);
        }
        let call_id = Message::parse(again.as_bytes()).unwrap().0.call_id().to_owned();
        if !is_cancelled {
            let cdr = server.cdr(&call_id);
            assert_eq!((cdr["from"].as_str(), cdr["from_name"].as_str()), (Some("1001"), Some("")), "{cdr:#}");
        }
    }
}

/// At `debug` each registration and call is a line, and a failure names its user; at `trace` each decision. No digest at any.
#[test]
fn the_log_says_as_much_as_it_is_asked_for() {
    let mut server = Server::start(|_| {});
    let config = std::fs::read_to_string(server.path("tipring.toml")).unwrap();
    std::fs::write(server.path("tipring.toml"), config.replace("\"debug\"", "\"trace\"")).unwrap();
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let mut caller = left.invite("1002", "", "");
    let invite = right.incoming("INVITE");
    right.reply(&invite, 486, "", "");
    left.await_status(&mut caller, 486);
    server.cdr(&caller.call_id);
    right.password = "wrong".into();
    assert_eq!(right.register(600).status(), 401);
    let says = |part: &str| eventually(Duration::from_secs(2), || server.log().contains(part).then_some(())).is_some();
    for part in
        ["engine registration: 1002 is at sip:1002@", "engine call.ended: ", "from=1001 to=1002", "who failed is"]
    {
        assert!(says(part), "{part}: {}", server.log());
    }
    assert!(!server.log().contains("engine decision: "), "{}", server.log());
    server.signal(server.keeper(), Signal::HUP);
    let told = eventually(Duration::from_secs(5), || {
        left.register(0);
        left.register(600);
        server.log().contains("engine decision: binding.added").then_some(())
    });
    assert!(told.is_some(), "{}", server.log());
    let log = server.log();
    assert!(!log.contains("response=") && !log.contains("nonce"), "{log}");
}
