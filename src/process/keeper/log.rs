//! The keeper's own log lines, in the form of `process::log`, written without ever waiting for a reader.

use std::fs::File;
use std::io::Write;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::event::poll;

use crate::process::clock;
use crate::process::config::Level;
use crate::process::config::Log as Settings;
use crate::process::log::Line;
use crate::process::log::is_journal;
use crate::process::log::open;

pub(super) struct Log {
    settings: Settings,
    node: String,
    file: Option<File>,
    journal: bool,
}

/// Longer lines are cut: a pipe takes so much at once, whole or not at all (PIPE_BUF).
const LINE_BYTES_MAX: usize = 4096;

impl Log {
    pub(super) fn new(settings: Settings, node: String) -> Self {
        let mut log = Self { settings, node, file: None, journal: is_journal() };
        log.reopen();
        log
    }

    pub(super) fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.reopen();
    }

    /// A file that cannot be opened leaves stderr.
    pub(super) fn reopen(&mut self) {
        self.file = None;
        let Some(path) = self.settings.file.clone() else { return };
        match open(&path) {
            Ok(file) => self.file = Some(file),
            Err(error) => self.warn("log", &format!("{}: {error}; logging to stderr", path.display())),
        }
    }

    pub(super) fn error(&mut self, event: &str, message: &str) {
        self.write(Level::Error, event, message);
    }

    pub(super) fn warn(&mut self, event: &str, message: &str) {
        self.write(Level::Warn, event, message);
    }

    pub(super) fn info(&mut self, event: &str, message: &str) {
        self.write(Level::Info, event, message);
    }

    /// A line that people wait for: on stderr even where the log is a file.
    pub(super) fn announce(&mut self, event: &str, message: &str) {
        if self.file.is_some() {
            write_stderr(&format!("tipring: {message}\n"));
        }
        self.write(Level::Info, event, message);
    }

    fn write(&mut self, level: Level, event: &str, message: &str) {
        if level > self.settings.level && event != "ready" {
            return;
        }
        let line = Line { at: clock::unix(), level, event, message, node: &self.node, process: "keeper", fields: &[] };
        let mut text = line.format(self.settings.format, self.journal && self.file.is_none());
        let mut end = text.len().min(LINE_BYTES_MAX - 1);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('\n');
        match &mut self.file {
            Some(file) => {
                let _ = file.write_all(text.as_bytes());
            }
            None => write_stderr(&text),
        }
    }
}

/// Why we end. The journal takes each line for an error.
pub(super) fn complain(text: &str) {
    if !is_journal() {
        return write_stderr(text);
    }
    write_stderr(&text.lines().map(|line| format!("<3>{line}\n")).collect::<String>());
}

/// A reader that does not read makes us lose lines, never wait.
pub(super) fn write_stderr(text: &str) {
    let stderr = std::io::stderr();
    let mut descriptors = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1) {
        let _ = (&stderr).write_all(text.as_bytes());
    }
}
