//! What this process counts, and the text of it and of the engine's figures.

mod answers;
pub(crate) mod text;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use axum::body::Bytes;

use crate::base::time::UnixTime;
use crate::machine::exchange::messages::Kind;
use crate::machine::exchange::messages::Way;
use crate::process::side::clock;
use crate::process::side::http::places;
use crate::process::side::metrics::answers::Answers;
use crate::process::side::metrics::text::Format;
use crate::process::side::metrics::text::Text;
use crate::process::side::metrics::text::of_shard;
use crate::process::side::mirror::Mirror;
use crate::process::side::mirror::Readiness;
use crate::process::side::procfs;
use crate::process::side::procfs::Usage;
use crate::process::side::record::ingest::Committed;
use crate::process::side::record::tally::Tally;
use crate::process::side::recording::finisher::Counts;
use crate::process::side::recording::live::Live;
use crate::process::side::recording::scrub;
use crate::process::side::recording::upload;
use crate::process::tune::engine::Hardware;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::Gauge;
use crate::shard::memory::Histogram;
use crate::wire::control::ProcessState;
use crate::wire::control::ProcessStatus;
use crate::wire::control::Role;
use crate::wire::control::Status;
use crate::wire::sip::Method;

#[derive(Debug)]
pub(crate) struct Metrics {
    started_at: UnixTime,
    /// State memory of the shards, whose first part is figures.
    memory: Vec<OwnedFd>,
    /// Those of the shards that have begun.
    figures: Mutex<Vec<Option<Figures>>>,
    status: Mutex<Option<Status>>,
    /// As the machine was when the configuration was last read.
    hardware: Mutex<Option<Hardware>>,
    /// By the first digit of the status.
    responses: [AtomicU64; 5],
    refusals: AtomicU64,
    events: AtomicU64,
    duplicates: AtomicU64,
    events_missing: AtomicU64,
    records: AtomicU64,
    tape_gaps: AtomicU64,
    tally: Mutex<Tally>,
    pub(crate) events_unknown: AtomicU64,
    pub(crate) calls_lost: AtomicU64,
    database_down: AtomicU64,
    pub(crate) link_connections: AtomicU64,
    pub(crate) link_faults: AtomicU64,
    pub(crate) mirror_overflows: AtomicU64,
    pub(crate) directory_version: AtomicU64,
    pub(crate) import_failed: AtomicU64,
    pub(crate) http: Arc<places::Counts>,
    answers: Answers,
    pub(crate) finishing: Arc<Counts>,
    pub(crate) live: Arc<Live>,
    pub(crate) uploads: Arc<upload::Counts>,
    pub(crate) scrubbed: Arc<scrub::Counts>,
}

impl Metrics {
    /// `memory`: read-only, one of each shard.
    pub(crate) fn new(memory: Vec<OwnedFd>) -> Self {
        let zero = AtomicU64::default;
        Self {
            started_at: clock::now(),
            figures: Mutex::new(memory.iter().map(|_| None).collect()),
            memory,
            status: Mutex::new(None),
            hardware: Mutex::new(None),
            responses: std::array::from_fn(|_| zero()),
            refusals: zero(),
            events: zero(),
            duplicates: zero(),
            events_missing: zero(),
            records: zero(),
            tape_gaps: zero(),
            tally: Mutex::default(),
            events_unknown: zero(),
            calls_lost: zero(),
            database_down: zero(),
            link_connections: zero(),
            link_faults: zero(),
            mirror_overflows: zero(),
            directory_version: zero(),
            import_failed: zero(),
            http: Arc::default(),
            answers: Answers::default(),
            finishing: Arc::default(),
            uploads: Arc::default(),
            scrubbed: Arc::default(),
            live: Arc::default(),
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
        self.tape_gaps.fetch_add(done.gaps, Relaxed);
        if let Ok(mut tally) = self.tally.lock() {
            tally.merge(&done.tally);
        }
        // Wraps like the sum of signed numbers: what fills a gap takes back what made it.
        self.events_missing.fetch_add(done.missing.cast_unsigned(), Relaxed);
    }

    pub(crate) fn on_refusal(&self) {
        self.refusals.fetch_add(1, Relaxed);
    }

    pub(crate) fn on_status(&self, status: Status) {
        if let Ok(mut known) = self.status.lock() {
            *known = Some(status);
        }
    }

    pub(crate) fn on_hardware(&self, hardware: Option<Hardware>) {
        if let Ok(mut known) = self.hardware.lock() {
            *known = hardware;
        }
    }

    pub(crate) fn on_database_down(&self) {
        self.database_down.store(1, Relaxed);
    }

    /// As the keeper sees it.
    pub(crate) fn is_engine_ready(&self) -> bool {
        let Ok(status) = self.status.lock() else { return false };
        let is_up = |process: &ProcessStatus| process.role == Role::Engine && process.state == ProcessState::Ready;
        status.as_ref().is_some_and(|status| !status.draining && status.processes.iter().any(is_up))
    }

    /// The same for whoever asks, made anew as long as few do.
    pub(crate) fn answer(&self, mirror: &Mirror, format: Format) -> Bytes {
        self.answers.get(clock::now(), format, || self.render(mirror, format))
    }

    pub(crate) fn render(&self, mirror: &Mirror, format: Format) -> String {
        let mut text = Text::new(format);
        text.gauge("build_info", "The version that runs.");
        let (version, commit, rustc) = (env!("CARGO_PKG_VERSION"), env!("TIPRING_COMMIT"), env!("TIPRING_RUSTC"));
        let build = format!("version=\"{version}\",commit=\"{commit}\",rustc=\"{rustc}\"");
        text.sample("build_info", &build, 1);
        text.gauge("start_timestamp_seconds", "When the side process started.");
        text.sample("start_timestamp_seconds", "", self.started_at.secs());
        self.render_node(&mut text, mirror);
        self.render_keeper(&mut text);
        self.render_hardware(&mut text);
        self.render_processes(&mut text);
        self.render_own(&mut text);
        self.render_calls(&mut text);
        self.render_shards(&mut text);
        text.finish()
    }

    fn render_node(&self, text: &mut Text, mirror: &Mirror) {
        let (registrations, calls) = mirror.counts();
        let readiness = mirror.readiness();
        let import_failed = self.import_failed.load(Relaxed);
        let gauges = [
            ("registrations", "Contacts registered.", registrations as u64),
            ("calls", "Calls up or being set up.", calls as u64),
            ("draining", "1 while new calls are refused.", u64::from(readiness == Readiness::Draining)),
            ("side_engine_connected", "1 while the engine is connected.", u64::from(readiness != Readiness::Down)),
            ("side_database_up", "0 while the database cannot be opened.", 1 - self.database_down.load(Relaxed)),
            ("directory_version", "Version of the directory in the database.", self.directory_version.load(Relaxed)),
            ("directory_import_success", "0 if the directory file has faults and was not applied.", 1 - import_failed),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help);
            text.sample(name, "", value);
        }
    }

    fn render_keeper(&self, text: &mut Text) {
        let Ok(status) = self.status.lock() else { return };
        let Some(status) = status.as_ref() else { return };
        text.gauge("config_reload_success", "0 if the last configuration that was read is not the one that runs.");
        text.sample("config_reload_success", "", u64::from(status.reload_success));
        text.gauge("generation", "How many times this process was started.");
        for process in &status.processes {
            text.sample("generation", &format!("process=\"{}\"", process.role.name()), process.generation);
        }
        text.gauge(
            "rtp_ports_left_out",
            "RTP port pairs that no shard has: another process holds one, or too few files may be open.",
        );
        for (reason, count) in [("held", status.rtp.held), ("cut", status.rtp.cut)] {
            text.sample("rtp_ports_left_out", &format!("reason=\"{reason}\""), count);
        }
    }

    /// Nothing without a profile: a machine that nobody described lacks nothing.
    fn render_hardware(&self, text: &mut Text) {
        let Ok(hardware) = self.hardware.lock() else { return };
        let Some(hardware) = hardware.as_ref() else { return };
        text.gauge("hw_profile_info", "The hardware profile that this node runs by.");
        text.sample("hw_profile_info", &format!("name=\"{}\"", hardware.profile), 1);
        text.gauge(
            "hw_check_failed",
            "1 if the machine was not what its profile demands when the configuration was last read.",
        );
        for check in &hardware.checks {
            let severity = if check.is_fatal { "fatal" } else { "warning" };
            let labels = format!("check=\"{}\",severity=\"{severity}\"", check.name);
            text.sample("hw_check_failed", &labels, u64::from(!check.faults.is_empty()));
        }
    }

    /// The names that every process exporter has, with the process beside them.
    fn render_processes(&self, text: &mut Text) {
        let Ok(status) = self.status.lock() else { return };
        let up = status.iter().flat_map(|status| &status.processes).filter(|process| process.pid != 0);
        let seen: Vec<_> = up.filter_map(|process| Some((process.role.name(), procfs::usage(process.pid)?))).collect();
        type Figure = (&'static str, &'static str, &'static str, fn(&Usage) -> f64);
        let figures: [Figure; 7] = [
            ("cpu_seconds_total", "counter", "CPU time, user and system.", |usage| usage.cpu.as_secs_f64()),
            ("virtual_memory_bytes", "gauge", "Address space.", |usage| usage.virtual_bytes as f64),
            ("resident_memory_bytes", "gauge", "Memory that is in RAM.", |usage| usage.resident_bytes as f64),
            ("threads", "gauge", "Threads.", |usage| usage.threads as f64),
            ("open_fds", "gauge", "Open files.", |usage| usage.open_fds as f64),
            ("max_fds", "gauge", "The limit of open files.", |usage| usage.max_fds as f64),
            ("start_time_seconds", "gauge", "When the process started.", |usage| usage.started_at_secs as f64),
        ];
        for (name, kind, help, value) in figures {
            let name = format!("process_{name}");
            text.raw_head(&name, kind, help);
            for (process, usage) in &seen {
                text.raw_sample(&name, &format!("process=\"{process}\""), value(usage));
            }
        }
    }

    fn render_own(&self, text: &mut Text) {
        text.counter("http_responses_total", "Answers of the HTTP API.");
        for (class, count) in (1..).zip(&self.responses) {
            text.sample("http_responses_total", &format!("code_class=\"{class}xx\""), count.load(Relaxed));
        }
        text.counter("http_connections_closed_total", "Connections of the HTTP API that we ended.");
        let closed =
            [("source", &self.http.gave_way_source), ("total", &self.http.gave_way_total), ("slow", &self.http.slow)];
        for (reason, count) in closed {
            text.sample("http_connections_closed_total", &format!("reason=\"{reason}\""), count.load(Relaxed));
        }
        let counters = [
            ("http_connections_total", "Connections to the HTTP API.", &self.http.accepted),
            ("http_connections_refused_total", "Connections for which no other could give way.", &self.http.refused),
            ("http_refusals_total", "API requests refused for want of a token or a role.", &self.refusals),
            ("side_events_total", "Events committed.", &self.events),
            ("side_event_duplicates_total", "Events that had come the other way, or came again.", &self.duplicates),
            ("side_records_total", "Call records that became final.", &self.records),
            ("side_tape_gaps_total", "Gaps that were read from the tapes.", &self.tape_gaps),
            ("side_events_unknown_total", "Records of a newer release on the tapes.", &self.events_unknown),
            ("side_calls_lost_total", "Calls closed because their engine died.", &self.calls_lost),
            ("side_link_connections_total", "Connections to the engine.", &self.link_connections),
            ("side_link_faults_total", "Connections to the engine that ended by a fault.", &self.link_faults),
            ("side_mirror_overflows_total", "Live entries that had no room and are not shown.", &self.mirror_overflows),
            ("side_recordings_total", "Recordings finished.", &self.finishing.finished),
            ("side_recording_failures_total", "Tries to finish a recording that failed.", &self.finishing.failures),
            (
                "side_recordings_left_behind_total",
                "Recordings that found the queue full and were taken up later.",
                &self.finishing.left_behind,
            ),
            ("side_recordings_failed_total", "Calls that no recording could be made of.", &self.finishing.given_up),
            ("side_recordings_unreadable_total", "Stores of calls that were set aside.", &self.finishing.unreadable),
            ("side_uploads_total", "Recordings that went to the object store.", &self.uploads.done),
            ("side_upload_failures_total", "Tries to take one there that failed.", &self.uploads.failures),
            ("side_recordings_scrubbed_total", "Recordings whose audio was looked through.", &self.scrubbed.files),
            (
                "side_recordings_damaged_total",
                "Recordings whose audio is not what was written.",
                &self.scrubbed.damaged,
            ),
        ];
        for (name, help, count) in counters {
            text.counter(name, help);
            text.sample(name, "", count.load(Relaxed));
        }
        text.counter("recording_undecodable_packets_total", "Packets of recorded calls that no decoder knows.");
        if let Ok(undecodable) = self.finishing.undecodable.lock() {
            for (codec, packets) in undecodable.iter() {
                text.sample("recording_undecodable_packets_total", &format!("codec=\"{codec}\""), packets);
            }
        }
        text.gauge("side_recordings_live", "Recordings that are not in the database yet.");
        let (recording, processing) = self.live.counts();
        for (state, count) in [("recording", recording), ("processing", processing)] {
            text.sample("side_recordings_live", &format!("state=\"{state}\""), count);
        }
        text.gauge("side_recordings_waiting", "Calls that ended and whose recordings are not finished.");
        text.sample("side_recordings_waiting", "", self.finishing.waiting.load(Relaxed));
        text.gauge("side_uploads_waiting", "Finished recordings that are not in the object store yet.");
        text.sample("side_uploads_waiting", "", self.uploads.waiting.load(Relaxed));
        text.gauge("side_events_missing", "Events missing between those that the tapes brought since the start.");
        text.sample("side_events_missing", "", self.events_missing.load(Relaxed).cast_signed());
    }

    /// What the records of ended calls add up to since this process started.
    fn render_calls(&self, text: &mut Text) {
        let Ok(tally) = self.tally.lock() else { return };
        text.counter("calls_ended_total", "Calls that ended and have their record.");
        for ((direction, reason), count) in &tally.ended {
            text.sample("calls_ended_total", &format!("direction=\"{direction}\",reason=\"{reason}\""), count);
        }
        for (name, help, spread) in [
            ("invite_setup_seconds", "Time from INVITE until something rang or answered.", &tally.setup),
            ("call_duration_seconds", "Time from answer to end.", &tally.talked),
            ("rtp_jitter_seconds", "Interarrival jitter of the streams of ended calls.", &tally.jitter),
            (
                "call_mos",
                "Expected opinion of ended calls' streams, after ITU-T G.107, G.711 concealed.",
                &tally.scores,
            ),
        ] {
            text.spread(&format!("tipring_{name}"), help, spread);
        }
        text.counter("rtp_lost_total", "Packets of ended calls that did not reach us.");
        text.sample("rtp_lost_total", "", tally.lost);
    }

    /// No shard says that it takes no new calls.
    pub(crate) fn has_room_for_calls(&self) -> bool {
        let Ok(mut figures) = self.figures.lock() else { return true };
        self.map(&mut figures);
        figures.iter().flatten().all(|shard| shard.gauge(Gauge::CallsBarred) == 0)
    }

    fn map(&self, figures: &mut [Option<Figures>]) {
        for (figures, memory) in figures.iter_mut().zip(&self.memory) {
            if figures.is_none() {
                // The shard has not written its page yet: it is looked at again the next time.
                *figures = Figures::read(memory).ok();
            }
        }
    }

    /// Each name once, with all its labels and shards below it, as the format wants it.
    fn render_shards(&self, text: &mut Text) {
        let Ok(mut figures) = self.figures.lock() else { return };
        self.map(&mut figures);
        let shards: Vec<&Figures> = figures.iter().flatten().collect();
        for (first, family) in families(Counter::ALL, Counter::name) {
            text.raw_head(first.name(), "counter", first.help());
            for counter in family {
                shards.iter().for_each(|shard| text.shard_counter(shard, counter));
            }
        }
        render_messages(text, &shards);
        for (first, family) in families(Gauge::ALL, Gauge::name) {
            text.raw_head(first.name(), "gauge", first.help());
            for gauge in family {
                for shard in &shards {
                    text.raw_sample(gauge.name(), &of_shard(shard, gauge.labels()), shard.gauge(gauge));
                }
            }
        }
        for (first, family) in families(Histogram::ALL, Histogram::name) {
            text.raw_head(first.name(), "histogram", first.help());
            for histogram in family {
                shards.iter().for_each(|shard| text.shard_histogram(shard, histogram));
            }
        }
    }
}

/// Figures of one name together, with the first of them.
fn families<T: Copy>(all: &[T], name: fn(T) -> &'static str) -> Vec<(T, Vec<T>)> {
    let mut families: Vec<(T, Vec<T>)> = Vec::new();
    for figure in all {
        match families.iter_mut().find(|(first, _)| name(*first) == name(*figure)) {
            Some((_, family)) => family.push(*figure),
            None => families.push((*figure, vec![*figure])),
        }
    }
    families
}

/// SIP messages by kind: those kinds alone that there were.
fn render_messages(text: &mut Text, shards: &[&Figures]) {
    let all: Vec<_> =
        shards.iter().flat_map(|shard| shard.kinds().map(move |(key, count)| (*shard, key, count))).collect();
    for (name, help, is_wanted) in [
        ("sip_requests_total", "SIP requests read and sent.", true),
        ("sip_responses_total", "SIP responses read and sent; the method is that of the request.", false),
    ] {
        text.counter(name, help);
        for (shard, key, count) in &all {
            let Some((way, kind)) = Kind::of_key(*key) else { continue };
            if matches!(kind, Kind::Request { .. }) == is_wanted {
                text.sample(name, &of_shard(shard, &message_labels(way, kind)), count);
            }
        }
    }
}

fn message_labels(way: Way, kind: Kind) -> String {
    let direction = match way {
        Way::In => "in",
        Way::Out => "out",
    };
    let method = |method: Method| if method == Method::Other { "other" } else { method.name() };
    match kind {
        Kind::Request { method: of, transport } => {
            format!("method=\"{}\",transport=\"{}\",direction=\"{direction}\"", method(of), transport.word())
        }
        Kind::Response { method: of, status } => {
            let (code, class) =
                if status < 10 { ("other".to_owned(), status) } else { (status.to_string(), status / 100) };
            format!("method=\"{}\",code=\"{code}\",code_class=\"{class}xx\",direction=\"{direction}\"", method(of))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::id::ShardId;
    use crate::shard::memory;
    use crate::wire::sip::Transport;

    #[test]
    fn figures_of_shards_become_the_text_format() {
        let file = memory::create_file("test", memory::STATE_OFFSET as u64).unwrap();
        let metrics = Metrics::new(vec![file.try_clone().unwrap()]);
        let mirror = Mirror::default();
        assert!(!metrics.render(&mirror, Format::Prometheus).contains("shard="));

        let figures = Figures::open(&file, ShardId(2)).unwrap();
        figures.add(Counter::UdpReceived, 7);
        figures.observe(Histogram::TurnLateness, Duration::from_micros(60), 3);
        figures.add(Counter::Busy, 1_500_000_000);
        figures.set(Gauge::PortsInUse, 6);
        let request = |method| Kind::Request { method, transport: Transport::Tcp };
        let response = |method, status| Kind::Response { method, status };
        for (kind, way, count) in [
            (request(Method::Invite), Way::In, 3),
            (request(Method::Other), Way::Out, 1),
            (response(Method::Register, 401), Way::Out, 4),
            (response(Method::Bye, 200), Way::In, 5),
            (response(Method::Other, 6), Way::In, 2),
        ] {
            assert!(figures.add_kind(kind.key(way), 1, count));
        }
        metrics.finishing.undecodable.lock().unwrap().insert("gsm".to_owned(), 50);
        let text = metrics.render(&mirror, Format::Prometheus);
        for line in [
            "tipring_recording_undecodable_packets_total{codec=\"gsm\"} 50",
            "tipring_sip_requests_total{method=\"INVITE\",transport=\"tcp\",direction=\"in\",shard=\"2\"} 3",
            "tipring_sip_requests_total{method=\"other\",transport=\"tcp\",direction=\"out\",shard=\"2\"} 1",
            "tipring_sip_responses_total{method=\"REGISTER\",code=\"401\",code_class=\"4xx\",direction=\"out\",shard=\"2\"} 4",
            "tipring_sip_responses_total{method=\"BYE\",code=\"200\",code_class=\"2xx\",direction=\"in\",shard=\"2\"} 5",
            "tipring_sip_responses_total{method=\"other\",code=\"other\",code_class=\"6xx\",direction=\"in\",shard=\"2\"} 2",
            "tipring_sip_parse_errors_total{reason=\"body\",shard=\"2\"} 0",
            "tipring_shard_busy_seconds_total{shard=\"2\"} 1.5",
            "tipring_rtp_ports{state=\"in_use\",shard=\"2\"} 6",
            "tipring_udp_datagrams_total{direction=\"in\",shard=\"2\"} 7",
            "tipring_shard_turn_lateness_seconds_bucket{shard=\"2\",le=\"0.00005\"} 0",
            "tipring_shard_turn_lateness_seconds_bucket{shard=\"2\",le=\"0.0001\"} 3",
            "tipring_shard_turn_lateness_seconds_bucket{shard=\"2\",le=\"1\"} 3",
            "tipring_shard_turn_lateness_seconds_bucket{shard=\"2\",le=\"+Inf\"} 3",
            "tipring_shard_turn_lateness_seconds_count{shard=\"2\"} 3",
            "tipring_calls 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        let heads: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        let distinct: std::collections::BTreeSet<_> = heads.iter().collect();
        assert_eq!(heads.len(), distinct.len());
    }

    #[test]
    fn openmetrics_has_families_without_total_and_an_end() {
        let file = memory::create_file("test", memory::STATE_OFFSET as u64).unwrap();
        let figures = Figures::open(&file, ShardId(0)).unwrap();
        figures.add(Counter::UdpReceived, 7);
        let metrics = Metrics::new(vec![file]);
        let prometheus = metrics.render(&Mirror::default(), Format::Prometheus);
        let open = metrics.render(&Mirror::default(), Format::OpenMetrics);
        assert!(open.ends_with("\n# EOF\n") && !prometheus.contains("# EOF"));
        assert!(open.contains("# TYPE tipring_udp_datagrams counter\n"));
        assert!(open.contains("tipring_udp_datagrams_total{direction=\"in\",shard=\"0\"} 7\n"));
        let samples =
            |text: &str| text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(samples(&open), samples(&prometheus));
        for head in prometheus.lines().filter(|line| line.starts_with("# TYPE")) {
            assert_eq!(head.ends_with(" counter"), head.contains("_total "), "{head}");
        }
    }
}
