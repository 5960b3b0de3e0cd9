//! The description of the API judged by others: openapi-spec-validator, redocly, and schemathesis, which calls what it describes.
//!
//! `tests/run` has `tests/tools/install` put them into a folder and names it in `TEST_TOOLS`.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::json;

use crate::calls::Call;
use crate::http;
use crate::phone::PATIENCE;
use crate::phone::Phone;
use crate::server::Server;
use crate::server::eventually;

pub const RECORDED: &str = "[[tenant]]\nname = \"acme\"\ndomain = \"acme.test\"\nrecord = \"always\"\n\
    [[phone]]\ntenant = \"acme\"\nuser = \"1001\"\npassword = \"secret-1001\"\n\
    [[phone]]\ntenant = \"acme\"\nuser = \"1002\"\npassword = \"secret-1002\"\n";

pub fn tools() -> PathBuf {
    PathBuf::from(std::env::var_os("TEST_TOOLS").expect("TEST_TOOLS: a folder that tests/tools/install has filled"))
}

fn judge(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&said));
}

fn description(server: &Server) -> PathBuf {
    let path = server.path("openapi.json");
    fs::write(&path, server.get("/v1/openapi.json").unwrap().body).unwrap();
    path
}

#[test]
#[ignore = "needs TEST_TOOLS: tests/run sets it"]
fn the_description_is_valid() {
    let server = Server::start(|_| {});
    let path = description(&server);
    judge(Command::new(tools().join("venv/bin/openapi-spec-validator")).arg(&path));
    let mut redocly = Command::new(tools().join("node_modules/.bin/redocly"));
    judge(redocly.args(["lint", "--max-problems", "1000"]).arg(&path).env("REDOCLY_TELEMETRY", "off"));
    let text = fs::read_to_string(&path).unwrap();
    let mut warnings = Command::new(tools().join("node_modules/.bin/redocly"));
    let output =
        warnings.args(["lint", "--format", "json"]).arg(&path).env("REDOCLY_TELEMETRY", "off").output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&report[report.find('{').expect("a report")..]).unwrap();
    assert_eq!(report["totals"], json!({ "errors": 0, "warnings": 0, "ignored": 0 }), "{text}\n{report:#}");
}

/// A call that ended and whose recording is made: both ids.
pub fn recorded(server: &Server, left: &mut Phone, right: &mut Phone, number: u32) -> (String, String) {
    let mut call = Call::set_up(left, right, "1002", number);
    call.check_media();
    call.end_by_caller(left, right);
    let id = server.cdr(&call.caller.call_id)["call"].as_str().unwrap().to_owned();
    let recording = eventually(PATIENCE * 4, || {
        let items = server.json(&format!("/v1/recordings?call={id}"))["items"].clone();
        (items[0]["state"] == "completed").then(|| items[0]["id"].as_str().unwrap().to_owned())
    });
    (id, recording.unwrap_or_else(|| panic!("no recording\n{}", server.log())))
}

/// What opaque texts are is not in the description: the lists get cursors of theirs, and what names a thing names one that is there.
fn settings(server: &Server, up: &str, ids: &[(&str, &str, &str)]) -> PathBuf {
    let mut text = String::from("[[operations]]\ninclude-path = \"/v1/events\"\nenabled = false\n");
    let cursors = [
        ("audit", "a1".to_owned()),
        ("calls", format!("l{up}")),
        ("cdrs", "f1".to_owned()),
        ("recordings", format!("r{up}")),
        ("registrations", "racme\n1001\nsip:x".to_owned()),
    ];
    for (list, place) in cursors {
        let cursor = URL_SAFE_NO_PAD.encode(place);
        let after = if list == "cdrs" { ", \"query.after\" = \"\"" } else { "" };
        text += &format!(
            "[[operations]]\ninclude-name = \"GET /v1/{list}\"\nparameters = {{ \"query.cursor\" = \"{cursor}\"{after} }}\n"
        );
    }
    for (operation, parameter, id) in ids {
        text += &format!(
            "[[operations]]\ninclude-name = \"{operation}\"\nparameters = {{ \"path.{parameter}\" = \"{id}\" }}\n"
        );
    }
    let path = server.path("schemathesis.toml");
    fs::write(&path, text).unwrap();
    path
}

fn schemathesis(server: &Server, settings: &Path, further: &[&str]) {
    let url = format!("http://{}", server.http());
    let mut command = Command::new(tools().join("venv/bin/schemathesis"));
    command.current_dir(server.path("")).arg("--config-file").arg(settings).arg("run").arg(description(server));
    command.args(["--url", &url, "-H", &format!("Authorization: Bearer {}", server.token())]);
    // The same cases each time.
    command.args(["--seed", "3261", "--phases", "examples,coverage,fuzzing", "--request-timeout", "5", "--no-color"]);
    judge(command.args(["--continue-on-failure", "--max-examples", "50"]).args(further));
    let errors = server.log().lines().filter(|line| line.contains(" ERROR ")).count();
    assert_eq!(errors, 0, "{}", server.log());
}

#[test]
#[ignore = "needs TEST_TOOLS: tests/run sets it"]
fn the_api_does_what_its_description_says() {
    let mut server = Server::start(|setup| setup.directory = Some(RECORDED.to_owned()));
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let (_, doomed) = recorded(&server, &mut left, &mut right, 1);
    let (ended, kept) = recorded(&server, &mut left, &mut right, 2);
    let _up = Call::set_up(&mut left, &mut right, "1002", 3);
    let up = server.live_call();
    // Anything that a path may hold, most of it nobody's.
    schemathesis(&server, &settings(&server, &up, &[]), &[]);
    let ids = [
        ("GET /v1/calls/{call}/trace", "call", ended.as_str()),
        ("POST /v1/calls/{call}/recording/{wish}", "call", &up),
        ("DELETE /v1/calls/{call}", "call", &up),
        ("GET /v1/recordings/{id}", "id", &kept),
        ("GET /v1/recordings/{id}/media", "id", &kept),
        ("HEAD /v1/recordings/{id}/media", "id", &kept),
        ("GET /v1/recordings/{id}/peaks", "id", &kept),
        ("PUT /v1/recordings/{id}/hold", "id", &kept),
        ("DELETE /v1/recordings/{id}/hold", "id", &kept),
        ("DELETE /v1/recordings/{id}", "id", &doomed),
    ];
    schemathesis(&server, &settings(&server, &up, &ids), &["--include-path-regex", "\\{"]);
    // Streams have no end, so this one is asked by hand.
    let wrong = http::request(server.http(), "GET", "/v1/events?x=1", Some(&server.token())).unwrap();
    assert_eq!(wrong.status, 400);
}
