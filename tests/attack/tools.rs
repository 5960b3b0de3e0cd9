//! SIPVicious, the scanner that most strangers on the Internet use: what it finds out, and what it cracks.
//!
//! `tests/run` has `tests/tools/install` put it into a folder and names that in `TEST_TOOLS`.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;
use std::time::Instant;

use crate::openapi::tools;
use crate::server::Server;

/// What one of its programs prints about our node, within half a minute.
fn sipvicious(server: &Server, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("30").arg(tools().join("venv/bin").join(format!("sipvicious_{program}")));
    command.args(arguments).arg(server.ip().to_string()).current_dir(server.path("."));
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Of 1000 to 1019 three are phones. What is told of them is told of all others.
#[test]
#[ignore = "needs TEST_TOOLS: tests/run sets it"]
fn svwar_tells_no_extension_from_none() {
    let server = Server::start(|_| {});
    for method in ["REGISTER", "OPTIONS", "INVITE"] {
        let text = sipvicious(&server, "svwar", &["--force", "-m", method, "-e", "1000-1019", "-d", "acme.test"]);
        let rows = text.lines().filter_map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            cells.get(1)?.parse::<u32>().ok().map(|extension| (extension, cells[2].to_owned()))
        });
        let told: Vec<_> = rows.collect();
        let kinds: BTreeSet<_> = told.iter().map(|(_, kind)| kind).collect();
        let known = told.iter().filter(|(extension, _)| (1001..=1003).contains(extension)).count();
        let is_even = told.is_empty() || kinds.len() == 1 && known < told.len();
        assert!(is_even, "{method}: {told:?}\n{text}");
    }
}

#[test]
#[ignore = "needs TEST_TOOLS: tests/run sets it"]
fn svcrack_does_not_come_to_the_password() {
    // It knows no other.
    let mut server = Server::start(|setup| setup.digest = "[\"MD5\"]");
    let mut phone = server.registered("1001");
    let words: String =
        (0..200).map(|number| format!("guess-{number}\n")).chain(["secret-1001\n".to_owned()]).collect();
    fs::write(server.path("words"), words).unwrap();
    let began = Instant::now();
    let text = sipvicious(&server, "svcrack", &["-u", "1001", "-d", "words", "--domain", "acme.test"]);
    assert!(!text.contains("secret-1001"), "{text}");
    assert!(began.elapsed() < Duration::from_secs(30), "it did not end: {text}");
    // Whose account it is notices nothing.
    assert_eq!(phone.register(600).status(), 200);
    let tried = server.log().lines().filter(|line| line.contains("authentication.failed")).count();
    assert!((1..50).contains(&tried), "{tried} guesses were looked at: {text}");
}

/// It may know that here is a SIP server, and not more than one line about which.
#[test]
#[ignore = "needs TEST_TOOLS: tests/run sets it"]
fn svmap_finds_a_server_that_goes_on() {
    let mut server = Server::start(|_| {});
    let text = sipvicious(&server, "svmap", &["-m", "OPTIONS"]);
    assert!(text.contains("5060"), "{text}");
    server.registered("1002");
}
