//! The filter of `docs/operations.md` on lines that a node wrote: every kind of failed authentication, in both forms, and as journald
//! and syslog give them on.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::http;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

const FAILED: &str = "authentication.failed";
const REFUSED: &str = "api.refused";

/// What stands in the page as the file of the filter.
fn filter() -> &'static str {
    let page = include_str!("../../docs/operations.md");
    let (_, rest) = page.split_once("```ini\n[Definition]").expect("the filter is in the page");
    let (inside, _) = rest.split_once("```").unwrap();
    &page[page.len() - rest.len() - "[Definition]".len()..page.len() - rest.len() + inside.len()]
}

/// How many of these lines the filter finds, and the addresses that it names.
fn found(folder: &Path, lines: &[String]) -> (usize, Vec<String>) {
    fs::write(folder.join("tipring.conf"), filter()).unwrap();
    fs::write(folder.join("lines"), lines.join("\n") + "\n").unwrap();
    let output = Command::new("fail2ban-regex")
        .args(["--out", "ip"])
        .args([folder.join("lines"), folder.join("tipring.conf")])
        .output()
        .expect("fail2ban-regex is installed (Debian: fail2ban)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let addresses: Vec<_> = text.lines().map(str::to_owned).collect();
    (addresses.len(), addresses)
}

/// Fails in every way there is, and returns the lines that say so.
fn failures(format: &str) -> Vec<String> {
    let mut server = Server::start(|setup| {
        setup.ipv6 = true;
        setup.shards = 2;
        setup.digest = "[\"SHA-256\"]";
        setup.more = format!("format = \"{format}\"\n");
    });
    let mut phone = server.phone("1001");
    phone.password = "wrong".into();
    assert_eq!(phone.register(60).status(), 401);
    let mut phone = server.phone("nobody");
    assert_eq!(phone.register(60).status(), 401);
    let mut phone = server.phone("1002");
    let to = format!("<{}>", phone.address_of_record());
    let request = phone.request("REGISTER", "sip:acme.test", &to, "", "");
    phone.send(&request);
    let challenge = phone.final_of(&request);
    let again = phone.with_credentials(&request, &challenge).replace("algorithm=SHA-256", "algorithm=MD5");
    phone.send(&again);
    assert_eq!(phone.final_of(&again).status(), 401);
    let mut phone = Phone::udp("1003", "[::1]:0".parse::<SocketAddr>().unwrap(), server.sip_v6());
    phone.password = "wrong".into();
    assert_eq!(phone.register(60).status(), 401);
    assert_eq!(http::request(server.http(), "GET", "/v1/calls", Some("wrong")).unwrap().status, 401);
    let says = |line: &&str| line.contains(FAILED) || line.contains(REFUSED);
    let lines = eventually(PATIENCE, || {
        let log = server.log();
        let lines: Vec<_> = log.lines().filter(says).map(str::to_owned).collect();
        (lines.len() == 5).then_some(lines)
    });
    let lines = lines.unwrap_or_else(|| panic!("{}", server.log()));
    for cause in ["wrong password", "unknown user", "algorithm not offered"] {
        assert!(lines.iter().any(|line| line.contains(cause)), "{cause}: {lines:#?}");
    }
    lines
}

/// The role `tipring_monitoring` brings the filter of the page, and says where the journal has its lines.
#[test]
fn the_filter_that_is_shipped_is_that_of_the_page() {
    let shipped = include_str!("../../ansible/roles/tipring_monitoring/files/fail2ban.conf");
    let rest = shipped.split_once('\n').unwrap().1.strip_prefix(filter()).unwrap_or_else(|| panic!("{shipped}"));
    assert_eq!(rest, "journalmatch = _SYSTEMD_UNIT=tipring.service\n");
}

#[test]
fn the_filter_of_the_page_finds_every_failure() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["text", "json"] {
        let lines = failures(format);
        let (count, addresses) = found(folder.path(), &lines);
        assert_eq!(count, 5, "{lines:#?}");
        assert!(addresses.contains(&"::1".to_owned()), "{addresses:?}");
        for before in ["Nov 22 18:00:00 host tipring[77]: ", "2026-11-22T18:00:00.123456+00:00 host tipring[77]: "] {
            let prefixed: Vec<_> = lines.iter().map(|line| format!("{before}{line}")).collect();
            assert_eq!(found(folder.path(), &prefixed).0, 5, "{prefixed:#?}");
        }
        // What somebody else made a line say bans nobody.
        let forged: Vec<_> =
            lines.iter().map(|line| format!("2026-11-22T18:00:00.000Z DEBUG engine x: {line}")).collect();
        assert_eq!(found(folder.path(), &forged).0, 0, "{forged:#?}");
    }
}
