//! Every command of `docs/api.md`, as it stands there, against a node.

use std::process::Command;

use crate::calls::Call;
use crate::openapi::RECORDED;
use crate::openapi::recorded;
use crate::server::Server;

/// The lines of all blocks of shell.
fn commands() -> Vec<&'static str> {
    let page = include_str!("../../docs/api.md");
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    blocks.flat_map(str::lines).filter(|line| !line.is_empty()).collect()
}

#[test]
fn every_command_of_the_page_works() {
    let mut server = Server::start(|setup| setup.directory = Some(RECORDED.to_owned()));
    let (mut left, mut right) = (server.registered("1001"), server.registered("1002"));
    let (ended, recording) = recorded(&server, &mut left, &mut right, 1);
    let _up = Call::set_up(&mut left, &mut right, "1002", 2);
    let up = server.live_call();
    let run = |line: &str| {
        let output = Command::new("bash")
            .args(["-c", line])
            .current_dir(server.path("data"))
            .env("API", format!("http://{}", server.http()))
            .env("TOKEN", server.token())
            .env("CALL", &up)
            .env("ENDED", &ended)
            .env("RECORDING", &recording)
            .output()
            .expect("bash and curl are installed");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{line}\n{said}");
        said
    };
    let lines: Vec<_> = commands().into_iter().filter(|line| line.contains("$API")).collect();
    assert!(lines.len() > 30 && lines.iter().all(|line| line.starts_with("curl -")), "{lines:#?}");
    for line in lines {
        let said = run(line);
        if line.contains("/v1/cdrs") {
            assert!(said.contains(&ended), "{line}\n{said}");
        }
        if line.contains("Last-Event-ID") {
            assert!(said.contains("event: reset") && said.contains("event: call.ended"), "{said}");
        }
    }
    let wav = std::fs::read(server.path("data/call.wav")).unwrap();
    assert!(wav.starts_with(b"RIFF") && std::fs::read(server.path("data/mono.ogg")).unwrap().starts_with(b"OggS"));
    assert_eq!(std::fs::read(server.path("data/part.wav")).unwrap(), wav[..1_000]);
}

/// The commands of the page that are no requests.
#[test]
fn tokens_are_made_as_the_page_says() {
    let server = Server::start(|_| {});
    for line in include_str!("../../docs/api.md").lines().filter(|line| line.starts_with("tipring token ")) {
        let words: Vec<_> = line.split(' ').skip(1).collect();
        let (code, said) = server.command(&words);
        assert_eq!(code, 0, "{line}: {said}");
        if words[1] == "add" {
            let answer = crate::http::request(server.http(), "GET", "/v1/cdrs", Some(said.trim())).unwrap();
            assert_eq!(answer.status, 200, "{said}");
        }
    }
}
