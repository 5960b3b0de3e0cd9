//! Log lines of all processes: one form as text, one as JSON, with the same fields.
//!
//! Engine and side log through `tracing`; a thread writes, so that a shard never waits for a disk or a pipe. Lines that
//! find its queue full are counted and lost, and so are those beyond their event's [`allowance`]. The keeper has no such thread and formats its [`Line`]s itself.

mod allowance;

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use time::OffsetDateTime;
use time::macros::format_description;
use tracing::Event;
use tracing::Metadata;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::subscriber::Interest;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;

use crate::base::id::ShardId;
use crate::base::time::UnixTime;
use crate::process::clock;
use crate::process::config::Level;
use crate::process::config::Log;
use crate::process::config::LogFormat;
use crate::process::log::allowance::Allowances;

/// One line before it has a form.
pub struct Line<'a> {
    pub at: UnixTime,
    pub level: Level,
    pub event: &'a str,
    pub message: &'a str,
    pub node: &'a str,
    pub process: &'a str,
    /// `shard`, `tenant`, `call`, `sip_call_id`, `source` and others, in the order given.
    pub fields: &'a [(&'static str, String)],
}

impl Line<'_> {
    /// Without a line end. The journal has a time of its own, and reads the priority from the beginning of a line.
    pub fn format(&self, format: LogFormat, journal: bool) -> String {
        let priority = if journal { format!("<{}>", priority(self.level)) } else { String::new() };
        match format {
            LogFormat::Text if journal => priority + &self.text(),
            LogFormat::Text => format!("{} {}", rfc3339(self.at), self.text()),
            LogFormat::Json => priority + &self.json(),
        }
    }

    fn text(&self) -> String {
        let level = level_name(self.level).to_uppercase();
        let mut text = format!("{level:5} {} {}: ", self.process, self.event);
        push_printable(&mut text, self.message);
        for (name, value) in self.fields {
            let quoted = value.is_empty() || value.contains([' ', '"', '=']);
            let _ = write!(text, " {name}=");
            if quoted {
                let _ = write!(text, "{value:?}");
            } else {
                push_printable(&mut text, value);
            }
        }
        text
    }

    fn json(&self) -> String {
        let string = |text: &str| serde_json::Value::from(text).to_string();
        let mut json = format!("{{\"ts\":\"{}\",\"level\":\"{}\"", rfc3339(self.at), level_name(self.level));
        let fixed = [("event", self.event), ("message", self.message), ("node", self.node), ("process", self.process)];
        let further = self.fields.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in fixed.into_iter().chain(further) {
            let number = name == "shard" && value.parse::<u8>().is_ok();
            let value = if number { value.to_owned() } else { string(value) };
            let _ = write!(json, ",{}:{value}", string(name));
        }
        json.push('}');
        json
    }
}

/// What a stranger sends must not make lines of its own, nor speak to a terminal.
fn push_printable(text: &mut String, part: &str) {
    for c in part.chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Whether what goes to stderr goes to journald: `$JOURNAL_STREAM` has the device and inode of its socket.
pub fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    rustix::fs::fstat(io::stderr()).is_ok_and(|stderr| is_stream(&stream, stderr.st_dev, stderr.st_ino))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// UTC with milliseconds.
pub fn rfc3339(at: UnixTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    let nanos = i128::from(at.micros()) * 1000;
    let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    time.format(format).unwrap_or_default()
}

/// For appending, readable by its owner and group.
pub fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

enum Job {
    Line(String),
    /// Opens the file, or stderr, that these settings name.
    Reopen(Log),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

struct Logger {
    node: String,
    process: &'static str,
    settings: Mutex<Log>,
    queue: SyncSender<Job>,
    level: AtomicU8,
    json: AtomicU8,
    /// Whether lines go to the journal.
    journal: AtomicBool,
    lost: AtomicU64,
    allowances: Mutex<Allowances>,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

thread_local! {
    static SHARD: Cell<Option<ShardId>> = const { Cell::new(None) };
}

/// Lines that may wait for the writer.
const QUEUE_MAX: usize = 8_192;
const LINE_BYTES_MAX: usize = 8_192;
/// How often the log says how many lines were left out.
const LEFT_OUT_EVERY: Duration = Duration::from_secs(5);

/// Makes `tracing` log as the settings say. To be called once, by engine or side.
pub fn start(settings: &Log, node: &str, process: &'static str) -> io::Result<()> {
    let (queue, jobs) = sync_channel(QUEUE_MAX);
    let logger = Logger {
        node: node.to_owned(),
        process,
        settings: Mutex::new(settings.clone()),
        queue,
        level: AtomicU8::new(0),
        json: AtomicU8::new(0),
        journal: AtomicBool::new(false),
        lost: AtomicU64::new(0),
        allowances: Mutex::default(),
    };
    if LOGGER.set(logger).is_err() {
        return Ok(());
    }
    std::thread::Builder::new().name("log".to_owned()).spawn(move || write_all(&jobs))?;
    set(settings);
    let subscriber = tracing_subscriber::registry().with(Lines);
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// New settings, also the same ones again to open a file that was moved away.
pub fn set(settings: &Log) {
    let Some(logger) = LOGGER.get() else { return };
    logger.level.store(settings.level as u8, Ordering::Relaxed);
    logger.json.store(u8::from(settings.format == LogFormat::Json), Ordering::Relaxed);
    logger.journal.store(settings.file.is_none() && is_journal(), Ordering::Relaxed);
    if let Ok(mut stored) = logger.settings.lock() {
        *stored = settings.clone();
    }
    let _ = logger.queue.try_send(Job::Reopen(settings.clone()));
}

pub fn reopen() {
    let Some(logger) = LOGGER.get() else { return };
    if let Ok(settings) = logger.settings.lock() {
        let _ = logger.queue.try_send(Job::Reopen(settings.clone()));
    }
}

/// Returns when everything logged before is written: for the end of a process.
pub fn flush() {
    let Some(logger) = LOGGER.get() else { return };
    let (done, written) = sync_channel(1);
    if logger.queue.try_send(Job::Flush(done)).is_ok() {
        let _ = written.recv_timeout(Duration::from_millis(500));
    }
}

/// Every further line of this thread names its shard.
pub fn set_shard(shard: ShardId) {
    SHARD.set(Some(shard));
}

/// Lines that found the queue full.
pub fn lost() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.lost.load(Ordering::Relaxed))
}

fn write_all(jobs: &Receiver<Job>) {
    let mut file: Option<File> = None;
    let mut told = clock::instant();
    loop {
        let job = jobs.recv_timeout(LEFT_OUT_EVERY);
        if clock::instant().since(told) >= LEFT_OUT_EVERY || matches!(job, Ok(Job::Flush(_))) {
            told = clock::instant();
            lines_left_out().iter().for_each(|line| write(&mut file, line));
        }
        match job {
            Ok(Job::Line(line)) => write(&mut file, &line),
            Ok(Job::Reopen(settings)) => {
                // One that cannot be opened leaves stderr; the keeper says so.
                file = settings.file.as_deref().and_then(|path| open(path).ok());
            }
            Ok(Job::Flush(done)) => {
                let _ = done.try_send(());
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn write(file: &mut Option<File>, line: &str) {
    let _ = match file {
        Some(file) => file.write_all(line.as_bytes()),
        None => io::stderr().write_all(line.as_bytes()),
    };
}

fn lines_left_out() -> Vec<String> {
    let Some(logger) = LOGGER.get() else { return Vec::new() };
    let left_out = logger.allowances.lock().map(|mut allowances| allowances.left_out()).unwrap_or_default();
    let line = |(event, count): (String, u64)| {
        let message = format!("{count} further lines of {event} were left out");
        logger.format(Level::Warn, "log.left_out", &message, &[("of", event), ("lines", count.to_string())])
    };
    left_out.into_iter().map(line).collect()
}

impl Logger {
    fn format(&self, level: Level, event: &str, message: &str, fields: &[(&'static str, String)]) -> String {
        let (node, process) = (&self.node, self.process);
        let line = Line { at: clock::unix(), level, event, message, node, process, fields };
        let json = self.json.load(Ordering::Relaxed) == 1;
        let format = if json { LogFormat::Json } else { LogFormat::Text };
        let mut text = line.format(format, self.journal.load(Ordering::Relaxed));
        if text.len() >= LINE_BYTES_MAX && !json {
            let end = (0..LINE_BYTES_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
            text.truncate(end);
        }
        text.push('\n');
        text
    }
}

fn level_of(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

/// The layer of `tracing` that makes lines.
struct Lines;

impl Lines {
    fn is_wanted(metadata: &Metadata<'_>) -> bool {
        let Some(logger) = LOGGER.get() else { return false };
        let level = level_of(metadata);
        // Libraries may log what no log of ours may hold (SQL with its values): their warnings only.
        let ours = metadata.target().starts_with("tipring");
        level as u8 <= logger.level.load(Ordering::Relaxed) && (ours || level <= Level::Warn)
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change while we run.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        Self::is_wanted(metadata)
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(logger) = LOGGER.get() else { return };
        let level = level_of(event.metadata());
        let mut name = EventName(None);
        event.record(&mut name);
        let name = name.0.unwrap_or_else(|| short_target(event.metadata().target()));
        // Before anything is formatted: a flood of lines costs little more than its count.
        let is_allowed = logger.allowances.lock().map(|mut all| all.take(&name, level, clock::instant()));
        if !is_allowed.unwrap_or(true) {
            return;
        }
        let mut found = Found::default();
        event.record(&mut found);
        if let Some(shard) = SHARD.get() {
            found.fields.insert(0, ("shard", shard.0.to_string()));
        }
        let text = logger.format(level, &name, &found.message, &found.fields);
        if logger.queue.try_send(Job::Line(text)).is_err() {
            logger.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// `tipring::process::side::http` is logged as `http` where a line names no event.
fn short_target(target: &str) -> String {
    target.rsplit("::").next().unwrap_or(target).to_owned()
}

struct EventName(Option<String>);

impl Visit for EventName {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

#[derive(Default)]
struct Found {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Found {
    fn put(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "event" => {}
            name => self.fields.push((name, value)),
        }
    }
}

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line<'a>(message: &'a str, fields: &'a [(&'static str, String)]) -> Line<'a> {
        let at = UnixTime::from_micros(1_700_000_000_123_456);
        Line { at, level: Level::Warn, event: "auth_failed", message, node: "n1", process: "engine", fields }
    }

    #[test]
    fn both_forms() {
        let fields = [("shard", "3".to_owned()), ("source", "192.0.2.1:5060".to_owned())];
        let line = line("wrong \"password\"", &fields);
        assert_eq!(
            line.format(LogFormat::Text, false),
            "2023-11-14T22:13:20.123Z WARN  engine auth_failed: wrong \"password\" shard=3 source=192.0.2.1:5060"
        );
        let json: serde_json::Value = serde_json::from_str(&line.format(LogFormat::Json, false)).unwrap();
        assert_eq!(json["ts"], "2023-11-14T22:13:20.123Z");
        assert_eq!(json["level"], "warn");
        assert_eq!(json["message"], "wrong \"password\"");
        assert_eq!(json["shard"], 3);
        assert_eq!(json["process"], "engine");
    }

    #[test]
    fn the_journal_gets_a_priority_and_no_time() {
        let line = line("wrong", &[]);
        assert_eq!(line.format(LogFormat::Text, true), "<4>WARN  engine auth_failed: wrong");
        assert!(line.format(LogFormat::Json, true).starts_with("<4>{\"ts\":"));
        let mut last = 0;
        for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
            assert!(priority(level) > last);
            last = priority(level);
        }
    }

    #[test]
    fn the_journal_is_known_by_device_and_inode() {
        assert!(is_stream("8:4711", 8, 4711));
        for other in ["", "8", "8:4712", "9:4711", "8:4711:1", "x:y"] {
            assert!(!is_stream(other, 8, 4711), "{other}");
        }
    }

    #[test]
    fn a_stranger_makes_no_lines() {
        let fields = [("user", "a\nERROR b".to_owned()), ("ua", "\u{1b}[2J".to_owned())];
        for format in [LogFormat::Text, LogFormat::Json] {
            let text = line("x\r\ny", &fields).format(format, false);
            assert!(!text.chars().any(char::is_control), "{text:?}");
        }
    }

    /// The logger is one for the process, so this is one test.
    #[test]
    fn lines_go_to_the_file_that_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("log"), folder.path().join("log.1"));
        let mut settings = Log { level: Level::Info, format: LogFormat::Json, file: Some(path.clone()) };
        start(&settings, "n1", "side").unwrap();
        set_shard(ShardId(2));
        tracing::info!(event = "call_ended", call = "c1", "gone");
        tracing::debug!("not at this level");
        tracing::info!(target: "sqlx::query", "not ours");
        flush();
        std::fs::rename(&path, &moved).unwrap();
        reopen();
        settings.level = Level::Debug;
        set(&settings);
        tracing::debug!("at this level");
        flush();
        let read = |path| -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (old, new) = (read(&moved), read(&path));
        assert_eq!((old.len(), new.len()), (1, 1));
        assert_eq!((&old[0]["event"], &old[0]["call"]), (&"call_ended".into(), &"c1".into()));
        assert_eq!((&old[0]["shard"], &old[0]["process"]), (&2.into(), &"side".into()));
        assert_eq!((&new[0]["message"], &new[0]["level"]), (&"at this level".into(), &"debug".into()));
        assert_eq!(lost(), 0);
        a_flood_is_counted(&path);
    }
    fn a_flood_is_counted(path: &Path) {
        for _ in 0..1_000 {
            tracing::warn!(event = "api.accept", "no");
        }
        tracing::warn!(event = "calm", "yes");
        flush();
        let text = std::fs::read_to_string(path).unwrap();
        let count = |event: &str| text.lines().filter(|line| line.contains(event)).count();
        assert!(count("\"api.accept\"") < 300 && count("\"calm\"") == 1, "{text}");
        assert!(count("further lines of api.accept were left out") == 1, "{text}");
    }
}
