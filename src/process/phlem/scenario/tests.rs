//! Scenarios that come with the program are whole, and faults are named where they are.

use super::*;

#[test]
fn the_ready_ones_are_valid_and_named_as_they_are() {
    for (name, text) in ready::READY {
        let scenario = Scenario::parse(name, text).unwrap_or_else(|fault| panic!("{fault}"));
        assert_eq!(scenario.name, name);
        assert!(!scenario.description.is_empty());
        let again = toml::to_string(&scenario).unwrap();
        assert_eq!(Scenario::parse(name, &again).unwrap(), scenario, "written and read again");
    }
}

#[test]
fn faults_say_file_line_key_and_reason() {
    let check = |text: &str, parts: &[&str]| {
        let fault = Scenario::parse("x.toml", text).unwrap_err().to_string();
        for part in parts.iter().chain(&["x.toml:"]) {
            assert!(fault.contains(part), "{part:?} is not in {fault:?}");
        }
    };
    let phones = "[[population]]\nusers = \"1001-1002\"\n";
    check("", &["population:", "no phones"]);
    check("durations = 5", &[":1:", "durations", "unknown field"]);
    check("duration = \"5\"", &[":1:", "duration:", "is no time"]);
    check("duration = 5", &[":1:", "duration:", "invalid type"]);
    check("[[population]]\nusers = \"5-1\"", &[":2:", "population[1].users:", "\"5-1\""]);
    check("[[population]]\nname = \"x\"", &["population[1].users:", "missing"]);
    check("seed = [", &[":1:"]);
    let with = |more: &str| format!("{phones}{more}");
    check(&with("busy = 0.7\nreject = 0.7"), &["population[1]:", "busy, reject, no_answer"]);
    check(&with("busy = 1.7"), &["population[1].busy:", "1.7 is no share"]);
    check(&with("quirks = [\"sings\"]"), &[":3:", "quirks", "sings"]);
    check(&with("expires = \"1s\""), &["population[1].expires:"]);
    check(&with("transport = \"pigeon\""), &[":3:", "transport", "pigeon"]);
    check(&with("[[calls]]\nfrom = \"nobody\""), &["calls[1].from:", "no population \"nobody\"", "phones"]);
    check(&with("[[calls]]\nrate = -1.0"), &["calls[1].rate:"]);
    check(&with("[[calls]]\ncurve = [1.0]"), &["calls[1].curve:"]);
    check(&with("[[event]]\nat = \"2h\"\nwhat = \"reboot\""), &["event[1].at:", "after the end"]);
    check(&with("[[event]]\nat = \"1s\"\nwhat = \"rain\""), &[":5:", "event[1].what", "rain"]);
    check(&with("[expect]\nmos_min = 9.0"), &["expect.mos_min:", "9 is not 1 to 5"]);
    check(&format!("{phones}{phones}"), &["population[2].name:", "twice"]);
}

#[test]
fn phones_from_a_file_travel_with_the_scenario() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let text = "[[population]]\ndomain = \"acme.test\"\nusers = { csv = \"p.csv\" }\n";
    let parse = || Scenario::parse(file.to_str().unwrap(), text);
    let csv = folder.path().join("p.csv");
    let missing = parse().unwrap_err().to_string();
    assert!(missing.contains("p.csv:") && missing.contains("No such file"), "{missing}");
    std::fs::write(&csv, b"user\nb\xFF\n").unwrap();
    assert!(parse().unwrap_err().to_string().contains("p.csv:2: is no UTF-8"));
    std::fs::write(&csv, "user,password,domain,auth_user,extension\nanna,geheim,other.test,a1,21\nbert,,,,\n").unwrap();
    let scenario = parse().unwrap();
    let json = serde_json::to_string(&scenario).unwrap();
    std::fs::remove_file(&csv).unwrap();
    for scenario in [&scenario, &serde_json::from_str(&json).unwrap()] {
        scenario.check("x").unwrap();
        let population = &scenario.populations[0];
        assert_eq!((population.users.count(), population.users.user(1).as_deref()), (2, Some("bert")));
        assert!(population.users.is(0, "anna") && !population.users.is(1, "anna") && !population.users.is(2, ""));
        assert_eq!([population.domain_of(0), population.domain_of(1)], ["other.test", "acme.test"]);
        assert_eq!([population.auth_user_of(0, "anna"), population.auth_user_of(1, "bert")], ["a1", "bert"]);
        assert_eq!([population.password_of(0, "anna"), population.password_of(1, "bert")], ["geheim", "secret-bert"]);
        assert_eq!([population.dialled(0, true), population.dialled(1, true)], ["21", "bert"]);
    }
    for (users, fault) in
        [("{ cvs = \"p.csv\" }", "unknown field `cvs`"), ("{}", "missing field `csv`"), ("5", "users such as")]
    {
        let text = format!("[[population]]\nusers = {users}\n");
        let found = Scenario::parse("x.toml", &text).unwrap_err().to_string();
        assert!(found.contains(fault) && found.contains("x.toml:2:"), "{found}");
    }
}

#[test]
fn quirks_are_all_in_the_table() {
    let texts: Vec<_> = Quirk::ALL.iter().map(|quirk| serde_json::to_string(quirk).unwrap()).collect();
    for text in &texts {
        assert!(ready::text("misbehaving").unwrap().contains(text), "{text} is in no ready scenario");
    }
    assert_eq!(texts.iter().collect::<std::collections::BTreeSet<_>>().len(), Quirk::ALL.len());
}

#[test]
fn a_shorter_run_has_its_events_sooner() {
    let mut soak = Scenario::parse("soak", ready::text("soak").unwrap()).unwrap();
    soak.last(Duration::from_secs(60));
    let events: Vec<_> = soak.events.iter().map(|event| (event.at.0.as_secs(), event.lasts.0.as_millis())).collect();
    assert_eq!((soak.duration, events), (Span::secs(60), vec![(20, 500), (40, 333)]));
    soak.check("soak").unwrap();
}
