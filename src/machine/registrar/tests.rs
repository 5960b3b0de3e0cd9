//! Registrations as phones send them, and what becomes of them with time, closed flows and restarts.

use proptest::prelude::*;

use super::*;
use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::limit::BINDINGS_PER_AOR_MAX;
use crate::machine::fixture::Caller;
use crate::machine::fixture::SECRET;
use crate::machine::fixture::World;
use crate::machine::fixture::phone;
use crate::machine::fixture::status;
use crate::machine::fixture::tenant;
use crate::machine::flow::Connection;
use crate::machine::outbox::Live;
use crate::machine::outbox::Output;
use crate::machine::outbox::Stored;
use crate::machine::settings::PathPolicy;
use crate::machine::settings::Prefix;
use crate::wire::event::Body;
use crate::wire::link::DirectoryPart;

const PEER: &str = "198.51.100.7:5060";

fn contacts(response: &Option<String>) -> Vec<String> {
    let text = response.as_deref().unwrap_or_default();
    text.lines().filter_map(|line| line.strip_prefix("Contact: ").map(str::to_owned)).collect()
}

fn aor(user: &str) -> Aor {
    Aor { tenant: "acme".into(), user: user.into() }
}

fn located(world: &World, user: &str) -> Vec<String> {
    world.registrar.locate(&[aor(user)]).into_iter().map(|target| target.contact).collect()
}

/// What was told since the last call: `+contact`, `-contact cause`, `live contact`, `gone contact`, `put`, `remove`.
fn told(world: &mut World) -> Vec<String> {
    let word = |output: Output| match output {
        Output::Event { body: Body::BindingAdded { contact, .. }, .. } => Some(format!("+{contact}")),
        Output::Event { body: Body::BindingRemoved { contact, cause, .. }, .. } => Some(format!("-{contact} {cause}")),
        Output::Live(Live::Registered(registration)) => Some(format!("live {}", registration.contact)),
        Output::Live(Live::RegistrationGone { contact, .. }) => Some(format!("gone {contact}")),
        Output::Store(Stored::Put { .. }) => Some("put".into()),
        Output::Store(Stored::Remove { .. }) => Some("remove".into()),
        _ => None,
    };
    world.outputs.drain(..).filter_map(word).collect()
}

fn seconds(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn what_a_register_may_ask() {
    for (lines, expected, answered) in [
        ("Contact: <sip:a@h>\r\n", 200, 1),
        ("Contact: sip:a@h;expires=60\r\n", 200, 1),
        ("Contact: \"A\" <sip:a@h>;q=0.5, <sip:b@h>\r\n", 200, 2),
        ("Contact: <sip:a@h>;expires=59\r\n", 423, 0),
        ("Contact: <sip:a@h>\r\nExpires: 10\r\n", 423, 0),
        // One of two is too brief: neither is bound.
        ("Contact: <sip:a@h>, <sip:b@h>;expires=10\r\n", 423, 0),
        ("Contact: <sip:a@h>\r\nExpires: 0\r\n", 200, 0),
        ("Contact: <sip:a@h>;expires=junk\r\n", 200, 1),
        ("Contact: <sip:a@h>;expires=99999999\r\n", 200, 1),
        ("Contact: <sip:a@h>, <sip:A@H>, <sip:a@H>\r\n", 200, 2),
        ("Contact: *\r\nExpires: 0\r\n", 200, 0),
        ("Contact: *\r\n", 400, 0),
        ("Contact: *\r\nExpires: 1\r\n", 400, 0),
        ("Contact: *, <sip:a@h>\r\nExpires: 0\r\n", 400, 0),
        ("Contact: *\r\nContact: *\r\nExpires: 0\r\n", 400, 0),
        ("", 200, 0),
        ("Contact: <sip:a@h>\r\nPath: <sip:p;lr>\r\n", 420, 0),
        ("Contact: <sip:a@h>\r\nPath: <sip:p;lr>\r\nSupported: path\r\n", 200, 1),
        ("Contact: <sip:a@h>\r\nPath: <sip:p;lr>\r\nSupported: gruu, Path\r\n", 200, 1),
    ] {
        let mut world = World::new(1);
        let response = Caller::new("1000", PEER).send(&mut world, lines);
        assert_eq!((status(&response), contacts(&response).len()), (expected, answered), "{lines}{response:?}");
        assert_eq!(world.registrar.len(), answered, "{lines}");
        let text = response.unwrap();
        assert_eq!(text.contains("Min-Expires: 60\r\n"), expected == 423, "{text}");
        assert_eq!(text.contains("Unsupported: path\r\n"), expected == 420, "{text}");
        assert_eq!(text.contains("Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n"), expected == 200, "{text}");
        assert_eq!(text.contains("Path: <sip:p;lr>\r\n"), expected == 200 && lines.contains("Path"), "{text}");
    }
}

#[test]
fn the_answer_lists_all_bindings_with_what_is_left_of_them() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    caller.send(
        &mut world,
        "Contact: <sip:a@h;x=y>;expires=100;q=0.25;+sip.instance=\"<urn:uuid:1>\";reg-id=2;audio\r\n",
    );
    world.wait(seconds(10));
    let response = caller.send(&mut world, "Contact: <sip:b@h>;expires=60\r\n");
    assert_eq!(
        contacts(&response),
        ["<sip:a@h;x=y>;expires=90;q=0.250;+sip.instance=\"<urn:uuid:1>\";reg-id=2", "<sip:b@h>;expires=60"]
    );
    assert_eq!(located(&world, "1000"), ["sip:b@h", "sip:a@h;x=y"]);
    assert_eq!(contacts(&caller.send(&mut world, "")).len(), 2);
}

#[test]
fn long_grants_are_spread_and_bounded() {
    let mut world = World::new(300);
    let granted: Vec<u64> = (0..300)
        .map(|n| {
            let response =
                Caller::new(&(1000 + n).to_string(), PEER).send(&mut world, "Contact: <sip:a@h>;expires=86400\r\n");
            contacts(&response)[0].split("expires=").nth(1).unwrap().parse().unwrap()
        })
        .collect();
    let (least, most) = (*granted.iter().min().unwrap(), *granted.iter().max().unwrap());
    assert!(least >= 6480 && most <= 7200, "{least}..{most}");
    assert!(most - least > 500, "{least}..{most}");
}

#[test]
fn bindings_are_refreshed_replaced_and_removed() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    let mut step = |lines: &str, expected: &[&str], left: &[&str]| {
        assert_eq!(status(&caller.send(&mut world, lines)), 200, "{lines}");
        assert_eq!(told(&mut world), expected, "{lines}");
        assert_eq!(located(&world, "1000"), left, "{lines}");
    };
    step("Contact: <sip:a@h>\r\n", &["+sip:a@h", "live sip:a@h", "put"], &["sip:a@h"]);
    step("Contact: <sip:a@h>\r\n", &["live sip:a@h", "put"], &["sip:a@h"]);
    // Equal by RFC 3261 §19.1.4, but written otherwise.
    step(
        "Contact: <sip:a@H>\r\n",
        &["-sip:a@h replaced", "gone sip:a@h", "+sip:a@H", "live sip:a@H", "put"],
        &["sip:a@H"],
    );
    step("Contact: <sip:a@H>;expires=0\r\n", &["-sip:a@H unregistered", "gone sip:a@H", "remove"], &[]);
    step("Contact: <sip:a@h>;expires=0\r\n", &[], &[]);
    let first = "Contact: <sip:a@1.1.1.1>;+sip.instance=\"<urn:x>\";reg-id=1\r\n";
    let moved = "Contact: <sip:a@2.2.2.2>;+sip.instance=\"<urn:x>\";reg-id=1\r\n";
    let other = "Contact: <sip:a@3.3.3.3>;+sip.instance=\"<urn:y>\";reg-id=1\r\n";
    step(first, &["+sip:a@1.1.1.1", "live sip:a@1.1.1.1", "put"], &["sip:a@1.1.1.1"]);
    let replaced = ["-sip:a@1.1.1.1 replaced", "gone sip:a@1.1.1.1", "+sip:a@2.2.2.2", "live sip:a@2.2.2.2", "put"];
    step(moved, &replaced, &["sip:a@2.2.2.2"]);
    step(other, &["+sip:a@3.3.3.3", "live sip:a@3.3.3.3", "put"], &["sip:a@2.2.2.2", "sip:a@3.3.3.3"]);
    let all = [
        "-sip:a@2.2.2.2 unregistered",
        "gone sip:a@2.2.2.2",
        "-sip:a@3.3.3.3 unregistered",
        "gone sip:a@3.3.3.3",
        "remove",
    ];
    step("Contact: *\r\nExpires: 0\r\n", &all, &[]);
}

#[test]
fn requests_of_one_call_id_are_taken_in_order() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    caller.cseq = 10;
    assert_eq!(status(&caller.send(&mut world, "Contact: <sip:a@h>\r\n")), 200);
    caller.cseq = 4;
    assert_eq!(status(&caller.send(&mut world, "Contact: <sip:a@h>;expires=0\r\n")), 500);
    caller.cseq = 4;
    assert_eq!(status(&caller.send(&mut world, "Contact: <sip:b@h>, <sip:a@h>\r\n")), 500, "all of it or nothing");
    caller.cseq = 4;
    assert_eq!(status(&caller.send(&mut world, "Contact: *\r\nExpires: 0\r\n")), 500);
    assert_eq!(located(&world, "1000"), ["sip:a@h"]);
    // Another contact, or another call, has no order with it.
    caller.cseq = 4;
    assert_eq!(status(&caller.send(&mut world, "Contact: <sip:b@h>\r\n")), 200);
    caller.call_id.push('x');
    caller.cseq = 1;
    assert_eq!(status(&caller.send(&mut world, "Contact: <sip:a@h>;expires=0\r\n")), 200);
    assert_eq!(located(&world, "1000"), ["sip:b@h"]);
}

#[test]
fn a_phone_with_too_many_bindings_loses_the_oldest() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    for n in 0..BINDINGS_PER_AOR_MAX + 3 {
        assert_eq!(status(&caller.send(&mut world, &format!("Contact: <sip:a@h:{}>\r\n", 1000 + n))), 200);
    }
    assert_eq!(world.registrar.len(), BINDINGS_PER_AOR_MAX);
    assert_eq!(located(&world, "1000").first().unwrap(), "sip:a@h:1003");
    assert_eq!(world.registrar.counters.evicted, 3);
    let many: Vec<String> = (0..=BINDINGS_PER_AOR_MAX).map(|n| format!("<sip:b{n}@h>")).collect();
    assert_eq!(status(&caller.send(&mut world, &format!("Contact: {}\r\n", many.join(",")))), 403);
}

#[test]
fn bindings_expire_on_the_grid_and_not_before() {
    let mut world = World::new(2);
    Caller::new("1000", PEER).send(&mut world, "Contact: <sip:a@h>;expires=60\r\n");
    Caller::new("1001", PEER).send(&mut world, "Contact: <sip:b@h>;expires=120\r\n");
    told(&mut world);
    world.wait(Duration::from_millis(59_999));
    assert_eq!(world.registrar.len(), 2);
    world.wait(Duration::from_millis(251));
    assert_eq!(told(&mut world), ["-sip:a@h expired", "gone sip:a@h", "remove"]);
    assert_eq!(located(&world, "1000"), Vec::<String>::new());
    world.wait(seconds(60));
    assert!(world.registrar.is_empty());
    // When its nonces are too old for any use nothing is left of a phone.
    world.wait(seconds(13 * 3600));
    assert!(world.registrar.phones.is_empty() && world.registrar.indexes.looks.is_empty());
    assert_eq!(world.registrar.next_deadline(), None);
}

#[test]
fn each_binding_of_a_phone_ends_by_itself_and_a_refresh_moves_nothing() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    caller.send(&mut world, "Contact: <sip:late@h>;expires=180\r\n");
    caller.send(&mut world, "Contact: <sip:early@h>;expires=60\r\n");
    world.wait(seconds(30));
    let looks = world.registrar.indexes.looks.clone();
    caller.send(&mut world, "Contact: <sip:early@h>;expires=60\r\n");
    assert_eq!(world.registrar.indexes.looks, looks);
    told(&mut world);
    for (after, ended) in [(59, None), (2, Some("early")), (88, None), (2, Some("late"))] {
        world.wait(seconds(after));
        let expected: Vec<_> = ended.iter().map(|name| format!("-sip:{name}@h expired")).collect();
        let told: Vec<_> = told(&mut world).into_iter().filter(|line| line.starts_with('-')).collect();
        assert_eq!(told, expected, "after {after} s more");
    }
}

#[test]
fn a_wall_clock_that_jumps_expires_nobody() {
    let mut world = World::new(1);
    Caller::new("1000", PEER).send(&mut world, "Contact: <sip:a@h>;expires=120\r\n");
    world.now.unix = world.now.unix + seconds(86_400);
    world.wait(seconds(100));
    assert_eq!(world.registrar.len(), 1);
}

#[test]
fn phones_behind_a_nat_are_kept_open() {
    let count = |local: &str, contact: &str, more: &str| {
        let mut world = World::new(1);
        let mut caller = Caller::new("1000", PEER);
        caller.local = local.parse().unwrap();
        let lines = format!("Contact: <{contact}>;expires=600\r\n{more}");
        assert_eq!(status(&caller.send(&mut world, &lines)), 200);
        world.outputs.clear();
        world.wait(seconds(280));
        let own = caller.flow;
        let sent =
            |output: &Output| matches!(output, Output::Send { flow, bytes } if *flow == own && bytes == b"\r\n\r\n");
        let before = world.outputs.iter().filter(|output| sent(output)).count();
        // A refresh neither doubles nor ends it.
        caller.send(&mut world, &lines);
        world.outputs.clear();
        world.wait(seconds(280));
        assert_eq!(world.outputs.iter().filter(|output| sent(output)).count(), before);
        before
    };
    assert_eq!(count("10.0.0.1:5060", "sip:1000@10.0.0.1:5060", ""), 10);
    assert_eq!(count(PEER, "sip:1000@10.0.0.1", ""), 10);
    assert_eq!(count(PEER, "sip:1000@198.51.100.7:5062", ""), 10);
    assert_eq!(count(PEER, "sip:1000@198.51.100.7", ""), 0);
    assert_eq!(count(PEER, "sip:1000@phone.test", ""), 0);
    assert_eq!(count("10.0.0.1:5060", "sip:1000@10.0.0.1", "Path: <sip:p;lr>\r\nSupported: path\r\n"), 0);
}

fn tcp(slot: u32, peer: &str) -> Flow {
    let connection = Connection { shard: ShardId(1), handle: Handle { slot, generation: 1 } };
    Flow { connection: Some(connection), ..Flow::udp(0, peer.parse().unwrap()) }
}

#[test]
fn a_closed_connection_takes_all_its_bindings_along() {
    let mut world = World::new(1000);
    for n in 0..1000 {
        let mut caller = Caller::new(&(1000 + n).to_string(), PEER);
        caller.flow = tcp(n % 2, PEER);
        assert_eq!(status(&caller.register(&mut world)), 200);
    }
    world.outputs.clear();
    let mut out = Outbox::new();
    let now = world.now;
    world.registrar.flow_closed(&tcp(7, PEER), now, &mut out);
    assert!(out.is_empty());
    world.registrar.flow_closed(&tcp(1, PEER), now, &mut out);
    // Not one of them is offered to a call, though they leave in several steps.
    assert_eq!(located(&world, "1001"), Vec::<String>::new());
    assert_eq!(located(&world, "1999"), Vec::<String>::new());
    assert_eq!(located(&world, "1998").len(), 1);
    assert!(out.overflows == 0 && world.registrar.len() > 500);
    world.wait(Duration::from_millis(1));
    assert_eq!(world.registrar.len(), 500);
    assert!(told(&mut world).iter().all(|word| word.starts_with("gone") || word.ends_with("flow closed")));
}

#[test]
fn a_takeover_keeps_udp_flows_and_loses_connections() {
    let mut world = World::new(400);
    for n in 0..400 {
        let mut caller = Caller::new(&(1000 + n).to_string(), PEER);
        if n % 2 == 0 {
            caller.flow = tcp(n, PEER);
        }
        assert_eq!(status(&caller.register(&mut world)), 200);
    }
    let mut out = Outbox::new();
    let now = world.now;
    world.registrar.connections_lost(now, &mut out);
    assert_eq!((located(&world, "1398").len(), located(&world, "1001").len()), (0, 1));
    world.wait(Duration::from_millis(1));
    assert_eq!(world.registrar.len(), 200);
}

/// Applies a change of the directory and lets the registrar look at all phones; causes of bindings that ended, by user.
fn change(world: &mut World, version: u64, part: DirectoryPart) -> BTreeMap<String, String> {
    world.directory.apply(version, part);
    world.outputs.clear();
    world.registrar.directory_changed();
    world.wait(Duration::from_millis(1));
    let removed = world.outputs.iter().filter_map(|output| match output {
        Output::Event { body: Body::BindingRemoved { phone, cause, .. }, .. } => Some((phone.clone(), cause.clone())),
        _ => None,
    });
    removed.collect()
}

#[test]
fn phones_that_the_directory_lost_or_renamed_the_password_of_cannot_be_reached() {
    let mut world = World::new(1_000);
    for n in 0..1_000 {
        Caller::new(&(1000 + n).to_string(), PEER).register(&mut world);
    }
    assert_eq!(world.registrar.len(), 1_000);
    let mut other = phone("acme", "1001");
    other.ha1 = phone("acme", "1002").ha1;
    let mut renamed = phone("acme", "1003");
    renamed.name = "Carol".into();
    let removed = vec![("acme".to_owned(), "1000".to_owned())];
    let part = DirectoryPart { phones_removed: removed, phones: vec![other, renamed], ..DirectoryPart::default() };
    let ended = change(&mut world, 2, part);
    let expected = [("1000", "phone removed"), ("1001", "password changed")];
    assert_eq!(ended, expected.map(|(user, cause)| (user.to_owned(), cause.to_owned())).into());
    assert_eq!(world.registrar.len(), 998);
    assert!(located(&world, "1000").is_empty() && located(&world, "1001").is_empty());
    assert_eq!(located(&world, "1003").len(), 1);
    assert_eq!(status(&Caller::new("1000", PEER).register(&mut world)), 401);
    assert_eq!(status(&Caller::new("1001", PEER).register(&mut world)), 401);
    // What is known of them on disk is gone too.
    let removals = world.outputs.iter().filter(|output| matches!(output, Output::Store(Stored::Remove { .. })));
    assert_eq!(removals.count(), 2);
    // All of a tenant, in bounded steps.
    let part = DirectoryPart { tenants_removed: vec!["acme".to_owned()], ..DirectoryPart::default() };
    assert_eq!(change(&mut world, 3, part).len(), 998);
    assert!(world.registrar.is_empty());
    assert!(world.registrar.next_deadline().is_none_or(|next| next > world.now.instant), "the review is over");
}

#[test]
fn a_change_in_the_middle_of_a_review_is_not_missed() {
    let mut world = World::new(600);
    for n in 0..600 {
        Caller::new(&(1000 + n).to_string(), PEER).register(&mut world);
    }
    world.registrar.directory_changed();
    let mut out = Outbox::new();
    world.registrar.handle_timeout(world.now, &world.directory, &mut out);
    let all = (0..600).map(|n| ("acme".to_owned(), (1000 + n).to_string())).collect();
    change(&mut world, 2, DirectoryPart { phones_removed: all, ..DirectoryPart::default() });
    assert!(world.registrar.is_empty());
}

#[test]
fn a_password_that_changed_while_the_node_was_down_ends_what_it_registered() {
    let mut world = World::new(3);
    for n in 0..3 {
        Caller::new(&(1000 + n).to_string(), PEER).register(&mut world);
    }
    let mut records: Vec<_> = disk(&world.outputs).into_values().collect();
    // One of before records had a credential: it is taken on trust.
    let mut before: Registered = postcard::from_bytes(&records[2][1..]).unwrap();
    (before.credential, before.look) = (0, None);
    records[2] = postcard::to_extend(&before, vec![1]).unwrap();
    assert_eq!((records[2].pop(), records[2].pop()), (Some(0), Some(0)));
    // One that was written before it was said when to look at a phone is read like any other.
    let mut before: Registered = postcard::from_bytes(&records[1][1..]).unwrap();
    before.look = None;
    records[1] = postcard::to_extend(&before, vec![2]).unwrap();
    assert_eq!(records[1].pop(), Some(0));
    world.registrar = Registrar::restore(SECRET, records.iter().map(Vec::as_slice), world.now);
    assert_eq!(world.registrar.len(), 3);
    let with_ha1_of = |user: &str, other: &str| Phone { ha1: phone("acme", other).ha1, ..phone("acme", user) };
    let phones = vec![with_ha1_of("1001", "1000"), with_ha1_of("1002", "1000")];
    let ended = change(&mut world, 2, DirectoryPart { phones, ..DirectoryPart::default() });
    assert_eq!(ended.into_iter().collect::<Vec<_>>(), [("1001".to_owned(), "password changed".to_owned())]);
}

#[test]
fn without_a_directory_nobody_is_put_out() {
    let mut world = World::new(1);
    Caller::new("1000", PEER).register(&mut world);
    world.directory = Directory::new();
    world.registrar.directory_changed();
    world.wait(Duration::from_millis(1));
    assert_eq!(world.registrar.len(), 1);
}

#[test]
fn registrations_come_in_pages() {
    let mut world = World::new(25);
    for n in 0..25 {
        Caller::new(&(1000 + n).to_string(), PEER).register(&mut world);
    }
    let mut users = BTreeSet::new();
    let mut after = None;
    for _ in 0..3 {
        let (page, next) = world.registrar.registrations(after, 10);
        users.extend(page.into_iter().map(|registration| registration.user));
        after = next;
    }
    assert_eq!((users.len(), after), (25, None));
}

/// The records on disk after these outputs.
fn disk(outputs: &[Output]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut disk = BTreeMap::new();
    for output in outputs {
        match output {
            Output::Store(Stored::Put { key, value }) => drop(disk.insert(key.clone(), value.clone())),
            Output::Store(Stored::Remove { key }) => drop(disk.remove(key)),
            _ => {}
        }
    }
    disk
}

#[test]
fn ten_thousand_bindings_survive_a_reboot() {
    let mut world = World::new(10_000);
    let mut callers: Vec<Caller> = (0..10_000)
        .map(|n| Caller::new(&(1000 + n).to_string(), &format!("198.51.{}.{}:5060", n / 250, n % 250)))
        .collect();
    for (n, caller) in callers.iter_mut().enumerate() {
        if n % 10 == 9 {
            caller.flow = tcp(n as u32, PEER);
        }
        let lines = if n % 10 == 8 { "Contact: <sip:brief@h>;expires=60\r\n".to_owned() } else { caller.contact() };
        assert_eq!(status(&caller.send(&mut world, &lines)), 200);
    }
    let disk = disk(&world.outputs);
    assert_eq!(disk.len(), 9_000);
    assert!(disk.keys().all(|key| aor_of_key(key).is_some_and(|aor| aor.tenant == "acme")));
    let before = world.registrar.locate(&[aor("1000"), aor("10990")]);
    // The monotonic clock begins anew, the calendar goes on.
    world.now = Now { instant: Instant::from_millis(5_000), unix: world.now.unix + seconds(600) };
    let junk: [&[u8]; 3] = [&[], &[0], &[1, 2, 3]];
    world.registrar = Registrar::restore(SECRET, disk.values().map(Vec::as_slice).chain(junk), world.now);
    assert_eq!(world.registrar.len(), 8_000);
    assert_eq!(world.registrar.locate(&[aor("1000"), aor("10990")]), before);
    assert_eq!(located(&world, "1008").len() + located(&world, "1009").len(), 0);
    // Nonces that were in use go on; the phones are not challenged anew.
    let contact = callers[0].contact();
    let request = callers[0].request(&contact);
    assert_eq!(status(&world.handle(&request, callers[0].flow)), 200);
    world.wait(seconds(3_100));
    assert_eq!(world.registrar.len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Register { user: usize, port: u16, contact: u8, expires: u32 },
    Replay,
    Wait(u64),
    Close { user: usize, port: u16 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4usize, 0..3u16, 0..4u8, prop_oneof![Just(0u32), 60..200u32, Just(3600)])
            .prop_map(|(user, port, contact, expires)| Step::Register { user, port, contact, expires }),
        1 => Just(Step::Replay),
        2 => (0..100_000u64).prop_map(Step::Wait),
        1 => (0..4usize, 0..3u16).prop_map(|(user, port)| Step::Close { user, port }),
    ];
    prop::collection::vec(step, 1..40)
}

struct Script {
    world: World,
    callers: Vec<Caller>,
    last: Option<(String, Flow)>,
}

impl Script {
    fn new() -> Self {
        let callers = (0..4).map(|n| Caller::new(&(1000 + n).to_string(), PEER)).collect();
        Self { world: World::new(4), callers, last: None }
    }

    fn flow(user: usize, port: u16) -> Flow {
        let peer = format!("198.51.100.{user}:{}", 5060 + port);
        if port == 2 { tcp(user as u32, &peer) } else { Flow::udp(0, peer.parse().unwrap()) }
    }

    fn run(&mut self, step: &Step) -> Option<String> {
        match step {
            Step::Register { user, port, contact, expires } => {
                let caller = &mut self.callers[*user];
                caller.flow = Self::flow(*user, *port);
                let lines = format!("Contact: <sip:c{contact}@10.0.0.1>;expires={expires}\r\n");
                let response = caller.send(&mut self.world, &lines);
                caller.nc -= 1;
                caller.cseq -= 1;
                self.last = Some((caller.request(&lines), caller.flow));
                response
            }
            Step::Replay => self.last.clone().and_then(|(text, flow)| self.world.handle(&text, flow)),
            Step::Wait(millis) => {
                self.world.wait(Duration::from_millis(*millis));
                None
            }
            Step::Close { user, port } => {
                let mut out = Outbox::new();
                self.world.registrar.flow_closed(&Self::flow(*user, *port), self.world.now, &mut out);
                self.world.outputs.extend(out.drain());
                None
            }
        }
    }

    fn check(&self) {
        let registrar = &self.world.registrar;
        let bindings: usize = registrar.phones.values().map(|phone| phone.bindings.len()).sum();
        assert_eq!(bindings, registrar.len());
        let Indexes { flows, sources, looks, .. } = &registrar.indexes;
        assert_eq!(flows.len(), bindings);
        assert_eq!(sources.values().sum::<u32>() as usize, bindings);
        assert_eq!(looks.len(), registrar.phones.len());
        for (key, phone) in &registrar.phones {
            let look = phone.look.expect("every phone is looked at some time");
            assert!(looks.contains(&(look, *key)) && look <= phone.due(self.world.now));
        }
        let stored = disk(&self.world.outputs);
        let outliving = |phone: &Registered| phone.bindings.iter().any(|binding| !binding.flow.is_reliable());
        assert_eq!(stored.len(), registrar.phones.values().filter(|phone| outliving(phone)).count());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_registrar_restored_from_bytes_goes_on_the_same(steps in steps(), restore_at in 0..40usize) {
        let (mut plain, mut restored) = (Script::new(), Script::new());
        for (index, step) in steps.iter().enumerate() {
            if index == restore_at {
                let registrar = postcard::to_allocvec(&restored.world.registrar).unwrap();
                restored.world.registrar = postcard::from_bytes(&registrar).unwrap();
                let limit = postcard::to_allocvec(&restored.world.limit).unwrap();
                restored.world.limit = postcard::from_bytes(&limit).unwrap();
            }
            prop_assert_eq!(plain.run(step), restored.run(step));
            prop_assert_eq!(&plain.world.outputs, &restored.world.outputs);
            prop_assert_eq!(plain.world.registrar.next_deadline(), restored.world.registrar.next_deadline());
            plain.check();
        }
    }
}

/// RFC 3261 §10.3 step 5; aliases and addresses of ours are the tenant's, too.
#[test]
fn a_domain_that_is_not_the_tenants_has_no_registrations() {
    let mut world = World::new(1);
    let mut acme = tenant("acme");
    acme.aliases = vec!["alias.test".into()];
    world.directory.apply(2, DirectoryPart { tenants: vec![acme, tenant("globex")], ..DirectoryPart::default() });
    let mut caller = Caller::new("1000", PEER);
    for (uri, expected) in [
        ("sip:acme.test", 200),
        ("sip:ALIAS.test.", 200),
        ("sips:acme.test:5061", 200),
        ("sip:192.0.2.250", 200),
        ("sip:sip.example.net", 200),
        ("sip:globex.test", 404),
        ("sip:nobody.test", 404),
        ("sip:192.0.2.251", 404),
        ("tel:1000", 404),
    ] {
        // Strangers are challenged wherever they want to go.
        caller.nonce = None;
        let lines = caller.contact();
        let mut send = |caller: &mut Caller| {
            let request = caller.request_at(uri, &lines);
            world.handle(&request, caller.flow)
        };
        let challenge = send(&mut caller);
        assert!(caller.learn(&challenge), "{uri}");
        let answer = send(&mut caller);
        assert_eq!(status(&answer), expected, "{uri}: {answer:?}");
    }
    assert_eq!(world.registrar.counters.refused, 4);
}

/// RFC 3261 §20.10 has such Contacts, but no call goes there.
#[test]
fn only_sip_contacts_are_bound() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    for lines in ["Contact: <mailto:a@h>\r\n", "Contact: <tel:+4930>\r\n", "Contact: tel:1, <urn:x>\r\nExpires: 0\r\n"]
    {
        assert_eq!(status(&caller.send(&mut world, lines)), 400, "{lines}");
    }
    let answer = caller.send(&mut world, "Contact: <sip:a@h>, <mailto:a@h>;q=0.1\r\n");
    assert_eq!(status(&answer), 200);
    assert!(!answer.unwrap().contains("mailto"));
    assert_eq!(located(&world, "1000"), ["sip:a@h"]);
}

/// RFC 3261 §19.1.5: nobody chooses by its Contact what we send it. The 200 lists it as it came: its phone looks for itself there.
#[test]
fn headers_and_method_of_a_contact_are_in_no_request() {
    let mut world = World::new(1);
    let mut caller = Caller::new("1000", PEER);
    let contact = "sip:a@h:5070;method=BYE;x=1;Method=MESSAGE?Route=%3Csip:evil%3E&Subject=x";
    let answer = caller.send(&mut world, &format!("Contact: <{contact}>\r\n"));
    assert_eq!(status(&answer), 200);
    assert!(answer.unwrap().contains(&format!("<{contact}>")));
    assert_eq!(located(&world, "1000"), ["sip:a@h:5070;x=1"]);
    let aor = Aor { tenant: "acme".into(), user: "1000".into() };
    let (bound, target) =
        (world.registrar.bound(&aor, &caller.flow).unwrap(), world.registrar.locate(&[aor]).remove(0));
    assert!(bound.is(&target));
    // The same again is the same binding.
    assert_eq!(status(&caller.send(&mut world, &format!("Contact: <{contact}>\r\n"))), 200);
    assert_eq!(world.registrar.len(), 1);
}

/// Kamailio's `add_path()` in front of phones that do not say `Supported: path`.
#[test]
fn a_trusted_proxy_may_add_a_path_to_any_phone() {
    for (policy, trusted, expected) in [
        (PathPolicy::Always, "198.51.100.0", 200),
        (PathPolicy::Always, "203.0.113.0", 420),
        (PathPolicy::Supported, "198.51.100.0", 420),
    ] {
        let mut world = World::new(1);
        world.settings.path = policy;
        world.settings.trusted = vec![Prefix { address: trusted.parse().unwrap(), bits: 24 }];
        let mut caller = Caller::new("1000", "198.51.100.5:5060");
        let answer = caller.send(&mut world, "Contact: <sip:a@10.0.0.1>\r\nPath: <sip:198.51.100.5;lr>\r\n");
        assert_eq!(status(&answer), expected, "{policy:?} {trusted}");
        let paths: Vec<_> = world.registrar.locate(&[aor("1000")]).into_iter().flat_map(|target| target.path).collect();
        assert_eq!(paths.len(), usize::from(expected == 200));
    }
}
