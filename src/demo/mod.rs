//! `tipring demo`: the server on embedded defaults, fifty emulated phones that call each other, and a spare account for a phone of
//! yours.

mod server;

use std::io::IsTerminal;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tipring::base::time::Instant;
use tipring::process::clock;
use tipring::process::exit;
use tipring::process::exit::Failure;
use tipring::process::phlem::figures::Figures;
use tipring::process::phlem::live::Live;
use tipring::process::phlem::report;
use tipring::process::phlem::run;
use tipring::process::phlem::run::Elapsed;
use tipring::process::phlem::run::RunOptions;
use tipring::process::phlem::run::Summary;
use tipring::process::phlem::scenario::Scenario;

use crate::complain;
use crate::demo::server::Recordings;
use crate::demo::server::SPARE_USER;
use crate::demo::server::Server;
use crate::demo::server::passed;
use crate::say;

const SCENARIO: &str = include_str!("scenario.toml");
/// How long the figures are shown live.
const SHOW: Duration = Duration::from_secs(20);

/// Returns the exit code.
pub(crate) fn run(duration: Option<Duration>, listen: IpAddr, keep: bool) -> u8 {
    let began = clock::instant();
    // From the very beginning, so that whatever ends the demo removes its folder.
    let stop = Arc::new(AtomicBool::new(false));
    crate::phlem::stop_on_signal(&stop);
    let mut server = match Server::start(listen) {
        Ok(server) => server,
        Err(failure) => return fail(&failure),
    };
    let folder = server.folder.clone();
    let fate = if keep { "is kept" } else { "is removed at the end (--keep keeps it)" };
    say(&format!("demo: {} holds the configuration, the log and everything else; it {fate}\n", folder.display()));
    let shown = server.await_ready(&stop).and_then(|()| show(&mut server, began, duration, &stop));
    let stopped = server.stop();
    match shown.and(stopped) {
        Ok(()) if keep => 0,
        Ok(()) => match std::fs::remove_dir_all(&folder) {
            Ok(()) => 0,
            Err(error) => fail(&Failure::from_io(folder.display(), &error)),
        },
        Err(failure) => {
            let code = fail(&failure);
            complain(&format!("tipring demo: {} has the server's log and is kept\n", folder.display()));
            code
        }
    }
}

fn fail(failure: &Failure) -> u8 {
    complain(&format!("tipring demo: {failure}\n"));
    failure.code
}

/// Phones until the time is over or someone presses Ctrl-C.
fn show(
    server: &mut Server,
    began: Instant,
    duration: Option<Duration>,
    stop: &Arc<AtomicBool>,
) -> Result<(), Failure> {
    if stop.load(Relaxed) {
        return Ok(());
    }
    let token = server.token()?;
    let scenario = Scenario::parse("demo", SCENARIO).map_err(|fault| Failure::new(exit::OTHER, fault.to_string()))?;
    let options = RunOptions {
        server: Some(server.sip.to_string()),
        local: Some(server.sip.ip()),
        stop: Arc::clone(stop),
        endless: true,
        ..RunOptions::default()
    };
    let mut view = View {
        live: Live::new(std::io::stdout(), std::io::stdout().is_terminal(), "demo"),
        goodbye: goodbye(server, &token),
        recordings: server.recordings(),
        server: server.sip.to_string(),
        seed: scenario.seed,
        is_over: false,
    };
    let mut died = Ok(());
    let mut is_interrupted = false;
    let ran = run::run(scenario, options, |figures, elapsed| {
        let is_stopping = stop.load(Relaxed);
        let is_late = duration.is_some_and(|duration| passed(began) >= duration);
        if died.is_ok() && !is_stopping {
            died = server.check();
        }
        if is_late || died.is_err() {
            stop.store(true, Relaxed);
        } else if is_stopping {
            is_interrupted = true;
            // What was expected had no time, and nobody can use the addresses any more.
            return;
        }
        view.show(figures, elapsed, passed(began) >= SHOW || stop.load(Relaxed));
    });
    died?;
    let summary = ran.map_err(|error| Failure::new(exit::OTHER, format!("the emulated phones: {error}")))?;
    say(&format!(
        "demo: over after {} calls, {} of them as they should\n",
        summary.figures.calls, summary.figures.calls_good
    ));
    let unmet: Vec<_> = summary.verdicts.iter().filter(|verdict| !verdict.met).collect();
    if unmet.is_empty() || (is_interrupted && !view.is_over) {
        return Ok(());
    }
    let mut text = "not everything went as it should:".to_owned();
    for verdict in unmet {
        text += &format!("\n  {} {}, found {}", verdict.key, verdict.wanted, verdict.found);
    }
    for (cause, count) in &summary.figures.errors {
        text += &format!("\n  {count} × {cause}");
    }
    Err(Failure::new(exit::OTHER, text))
}

struct View {
    live: Live<std::io::Stdout>,
    /// What is said when the figures are no longer shown.
    goodbye: String,
    recordings: Recordings,
    server: String,
    seed: u64,
    is_over: bool,
}

impl View {
    fn show(&mut self, figures: &Figures, elapsed: Elapsed, is_over: bool) {
        if self.is_over {
            return;
        }
        self.live.show(figures, elapsed);
        if is_over {
            self.is_over = true;
            let summary = Summary {
                scenario: "demo".to_owned(),
                server: self.server.clone(),
                seed: self.seed,
                elapsed: elapsed.since_start,
                figures: figures.clone(),
                ceiling: None,
                verdicts: Vec::new(),
                notes: Vec::new(),
            };
            let fetch = match self.recordings.command() {
                Some(command) => {
                    format!("demo: every call is recorded; fetch the newest that ended:\ndemo:   {command}\n")
                }
                None => String::new(),
            };
            say(&format!("\nWhat happened so far:\n{}\n{}{fetch}", report::summary(&summary), self.goodbye));
        }
    }
}

fn goodbye(server: &Server, token: &str) -> String {
    let (sip, http) = (server.sip, server.http);
    format!(
        "demo: page     http://{http}/#token={token}\n\
         demo: API      http://{http}/v1/calls   (token in {})\n\
         demo: metrics  http://{http}/metrics\n\
         demo: register your softphone at {sip} (UDP or TCP): user {SPARE_USER}, password secret-{SPARE_USER}, domain demo.test;\n\
         demo: dial 1001: an emulated phone answers and speaks. 1002 to 1050 answer, too.\n\
         demo: the phones go on calling; Ctrl-C ends it\n",
        server.folder.join("data/token").display(),
    )
}
