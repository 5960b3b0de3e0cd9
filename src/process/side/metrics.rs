//! What this process counts, and the Prometheus text of it.

use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::mirror::Mirror;
use crate::process::side::mirror::Readiness;
use crate::process::side::record::ingest::Committed;

#[derive(Debug)]
pub(crate) struct Metrics {
    started_at: UnixTime,
    /// By the first digit of the status.
    responses: [AtomicU64; 5],
    pub(crate) refusals: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) events_missing: AtomicU64,
    pub(crate) records: AtomicU64,
    pub(crate) calls_lost: AtomicU64,
    pub(crate) link_connections: AtomicU64,
    pub(crate) link_faults: AtomicU64,
    pub(crate) mirror_overflows: AtomicU64,
    pub(crate) directory_version: AtomicU64,
    pub(crate) reload_failed: AtomicU64,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let zero = AtomicU64::default;
        Self {
            started_at: clock::now(),
            responses: std::array::from_fn(|_| zero()),
            refusals: zero(),
            events: zero(),
            duplicates: zero(),
            events_missing: zero(),
            records: zero(),
            calls_lost: zero(),
            link_connections: zero(),
            link_faults: zero(),
            mirror_overflows: zero(),
            directory_version: zero(),
            reload_failed: zero(),
        }
    }

    pub(crate) fn on_response(&self, status: u16) {
        let class = usize::from(status / 100).saturating_sub(1).min(4);
        self.responses[class].fetch_add(1, Relaxed);
    }

    pub(crate) fn on_commit(&self, done: &Committed) {
        self.events.fetch_add(done.events, Relaxed);
        self.duplicates.fetch_add(done.duplicates, Relaxed);
        self.records.fetch_add(done.records, Relaxed);
        // Wraps like the sum of signed numbers: what fills a gap is less than what made it.
        self.events_missing.fetch_add(done.missing.cast_unsigned(), Relaxed);
    }

    pub(crate) fn on_refusal(&self) {
        self.refusals.fetch_add(1, Relaxed);
    }

    pub(crate) fn render(&self, mirror: &Mirror) -> String {
        let mut page = Text::default();
        page.head("build_info", "gauge", "The version that runs.");
        let version = env!("CARGO_PKG_VERSION");
        page.sample("build_info", &format!("{{version=\"{version}\"}}"), 1);
        page.head("start_timestamp_seconds", "gauge", "When the side process started.");
        page.sample("start_timestamp_seconds", "", self.started_at.secs());
        self.render_node(&mut page, mirror);
        page.head("http_responses_total", "counter", "Answers of the HTTP API.");
        for (class, count) in (1..).zip(&self.responses) {
            page.sample("http_responses_total", &format!("{{code_class=\"{class}xx\"}}"), count.load(Relaxed));
        }
        let counters = [
            ("http_refusals_total", "API requests refused for want of a token or a role.", &self.refusals),
            ("side_events_total", "Events committed.", &self.events),
            ("side_event_duplicates_total", "Events that came again and were dropped.", &self.duplicates),
            ("side_records_total", "Call records that became final.", &self.records),
            ("side_calls_lost_total", "Calls closed because their engine died.", &self.calls_lost),
            ("side_link_connections_total", "Connections to the engine.", &self.link_connections),
            ("side_link_faults_total", "Connections to the engine that ended by a fault.", &self.link_faults),
            ("side_mirror_overflows_total", "Live entries that had no room and are not shown.", &self.mirror_overflows),
        ];
        for (name, help, count) in counters {
            page.head(name, "counter", help);
            page.sample(name, "", count.load(Relaxed));
        }
        page.head("side_events_missing", "gauge", "Events missing between those that came.");
        page.sample("side_events_missing", "", self.events_missing.load(Relaxed));
        page.0
    }

    fn render_node(&self, page: &mut Text, mirror: &Mirror) {
        let (registrations, calls) = mirror.counts();
        let readiness = mirror.readiness();
        let gauges = [
            ("registrations", "Contacts registered.", registrations as u64),
            ("calls", "Calls up or being set up.", calls as u64),
            ("draining", "1 while new calls are refused.", u64::from(readiness == Readiness::Draining)),
            ("side_engine_connected", "1 while the engine is connected.", u64::from(readiness != Readiness::Down)),
            ("directory_version", "Version of the directory in the database.", self.directory_version.load(Relaxed)),
            (
                "side_directory_import_success",
                "0 if the directory file at its last look was not applied for its faults.",
                1 - self.reload_failed.load(Relaxed).min(1),
            ),
        ];
        for (name, help, value) in gauges {
            page.head(name, "gauge", help);
            page.sample(name, "", value);
        }
    }
}

/// The text format, with our prefix.
#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP tipring_{name} {help}\n# TYPE tipring_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: u64) {
        let _ = writeln!(self.0, "tipring_{name}{labels} {value}");
    }
}
