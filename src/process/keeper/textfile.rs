//! What runs, as a file for node_exporter's textfile collector: it can be read while side, which serves `/metrics`, is down.
//!
//! The file is replaced as a whole. By default it lies beside the control socket, where no disk can make the keeper wait.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::time::Instant;
use crate::process::keeper::log::Log;
use crate::wire::control::ProcessState;
use crate::wire::control::ProcessStatus;
use crate::wire::control::Status;

pub(super) struct Textfile {
    path: PathBuf,
    due: Instant,
    failing: bool,
}

const EVERY: Duration = Duration::from_secs(15);

impl Textfile {
    pub(super) fn new(path: PathBuf, now: Instant) -> Self {
        Self { path, due: now, failing: false }
    }

    pub(super) fn next_deadline(&self) -> Instant {
        self.due
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    pub(super) fn write(&mut self, status: &Status, log: &mut Log, now: Instant) {
        self.due = now + EVERY;
        match replace(&self.path, &text(status)) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                log.warn("textfile.failed", &format!("cannot write {}: {error}", self.path.display()));
            }
            Err(_) => {}
        }
    }

    /// A node that was stopped has no figures.
    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Everybody may read it: the collector is another user.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension("part");
    fs::write(&part, text)?;
    fs::set_permissions(&part, fs::Permissions::from_mode(0o644))?;
    fs::rename(&part, path)
}

fn text(status: &Status) -> String {
    let each = |value: fn(&ProcessStatus) -> u32| {
        let sample = |process: &ProcessStatus| (format!("{{process=\"{}\"}}", process.role.name()), value(process));
        status.processes.iter().map(sample).collect::<Vec<_>>()
    };
    let one = |value: bool| vec![(String::new(), u32::from(value))];
    let node = status.node.replace('\\', "\\\\").replace('"', "\\\"");
    let info = vec![(format!("{{node=\"{node}\",version=\"{}\"}}", status.version), 1)];
    let mut text = String::new();
    for (name, kind, help, samples) in [
        ("info", "gauge", "The node that the keeper runs.", info),
        ("process_up", "gauge", "1 while this process serves.", each(|process| u32::from(serves(process)))),
        ("process_starts_total", "counter", "How often this process was started.", each(|process| process.generation)),
        ("draining", "gauge", "1 while new calls are refused.", one(status.draining)),
        (
            "config_reload_success",
            "gauge",
            "0 if the last configuration that was read does not run.",
            one(status.reload_success),
        ),
    ] {
        let _ = writeln!(text, "# HELP tipring_keeper_{name} {help}\n# TYPE tipring_keeper_{name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "tipring_keeper_{name}{labels} {value}");
        }
    }
    text
}

fn serves(process: &ProcessStatus) -> bool {
    matches!(process.state, ProcessState::Ready | ProcessState::Draining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::PortCounts;
    use crate::wire::control::Role;

    fn status(side: ProcessState) -> Status {
        let process = |role, state| ProcessStatus { role, state, generation: 2, pid: 7 };
        Status {
            node: "a\"b".into(),
            version: "1.2.3".into(),
            boot: 1,
            draining: true,
            stopping: false,
            reload_success: true,
            calls_up: 0,
            rtp: PortCounts::default(),
            processes: vec![process(Role::Engine, ProcessState::Draining), process(Role::Side, side)],
        }
    }

    #[test]
    fn a_side_that_is_down_is_told_from_an_engine_that_serves() {
        let text = text(&status(ProcessState::Down));
        for line in [
            "tipring_keeper_info{node=\"a\\\"b\",version=\"1.2.3\"} 1",
            "tipring_keeper_process_up{process=\"engine\"} 1",
            "tipring_keeper_process_up{process=\"side\"} 0",
            "tipring_keeper_process_starts_total{process=\"side\"} 2",
            "tipring_keeper_draining 1",
            "tipring_keeper_config_reload_success 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert_eq!(text.matches("# TYPE ").count(), 5);
    }

    #[test]
    fn the_file_is_replaced_as_a_whole_and_everybody_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tipring.prom");
        fs::write(&path, "old").unwrap();
        let before = fs::File::open(&path).unwrap();
        replace(&path, "new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(io::read_to_string(before).unwrap(), "old", "who read the old one goes on with it");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(replace(&folder.path().join("missing/tipring.prom"), "new").is_err());
    }
}
