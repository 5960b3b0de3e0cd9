//! `tipring tape`: reads recordings where the engine wrote them, without the side process and without asking the engine.
//!
//! With an engine running it may read what is not confirmed yet; what side has taken over is not there any more.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use tipring::base::id::CallId;
use tipring::base::id::ShardId;
use tipring::base::time::UnixTime;
use tipring::process::config::Config;
use tipring::process::exit;
use tipring::shard::tape::files;
use tipring::shard::tape::files::SegmentReader;
use tipring::wire::tape::BadBlock;
use tipring::wire::tape::Copies;
use tipring::wire::tape::Frame;
use tipring::wire::tape::Gap;
use tipring::wire::tape::Header;
use tipring::wire::tape::Mark;
use tipring::wire::tape::Record;
use tipring::wire::tape::Track;
use tipring::wire::tape::name::SegmentName;
use tipring::wire::tape::record::Frames;
use tipring::wire::tape::records;

#[derive(Subcommand)]
pub(crate) enum TapeCli {
    /// Which segments are there, and what is in them
    Inspect(Place),
    /// Whether every block is whole and every recording complete; exit 1 if not
    Verify(Place),
    /// The packets of one call as a pcap file
    Export {
        call: CallId,
        /// Where to write it
        #[arg(long)]
        out: PathBuf,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args)]
pub(crate) struct Place {
    /// The configuration file of the node; default: the folder tipring-data here
    #[arg(long)]
    config: Option<PathBuf>,
    /// The node's data folder
    #[arg(long, conflicts_with = "config")]
    data: Option<PathBuf>,
}

pub(crate) fn run(cli: TapeCli) -> u8 {
    let done = match cli {
        TapeCli::Inspect(place) => folder(&place).and_then(|tape| inspect(&tape)),
        TapeCli::Verify(place) => folder(&place).and_then(|tape| verify(&tape)),
        TapeCli::Export { call, out, place } => folder(&place).and_then(|tape| export(&tape, call, &out)),
    };
    match done {
        Ok(true) => 0,
        Ok(false) => exit::OTHER,
        Err(message) => {
            crate::complain(&format!("tipring: {message}\n"));
            exit::OTHER
        }
    }
}

fn folder(place: &Place) -> Result<PathBuf, String> {
    let data = match &place.data {
        Some(data) => data.clone(),
        None => Config::load(place.config.as_deref())
            .map(|config| config.node.data)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?,
    };
    let tape = data.join("tape");
    if tape.is_dir() { Ok(tape) } else { Err(format!("{} holds no tape", data.display())) }
}

/// Reads all blocks of a track in order, copies left out; says how each segment ended.
fn walk(
    tape: &Path,
    shard: ShardId,
    track: Track,
    mut on_block: impl FnMut(SegmentName, &Header, &[u8]),
    mut on_end: impl FnMut(SegmentName, u64, Option<BadBlock>),
) -> io::Result<()> {
    let mut copies = Copies::default();
    for (name, bytes) in files::list(tape, shard)? {
        if name.track != track {
            continue;
        }
        let mut reader = match SegmentReader::open(tape, name) {
            // Taken over by side and removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            reader => reader?,
        };
        while let Some((header, body)) = reader.next(u64::MAX)? {
            if copies.is_new(&header) {
                on_block(name, &header, body);
            }
        }
        // A file that ends with its last block has no end of its own.
        let end = reader.end().filter(|_| reader.position() < bytes);
        on_end(name, reader.position(), end);
    }
    Ok(())
}

fn each_track(tape: &Path) -> Result<Vec<(ShardId, Track)>, String> {
    let shards = files::shards(tape).map_err(|error| error.to_string())?;
    Ok(shards.into_iter().flat_map(|shard| Track::ALL.map(|track| (shard, track))).collect())
}

#[derive(Default)]
struct Held {
    blocks: u64,
    frames: u64,
    events: u64,
    marks: u64,
    gaps: u64,
    since: Option<UnixTime>,
    until: Option<UnixTime>,
}

fn inspect(tape: &Path) -> Result<bool, String> {
    for (shard, track) in each_track(tape)? {
        let held = std::cell::RefCell::new(Held::default());
        let on_block = |_, header: &Header, body: &[u8]| {
            let held = &mut *held.borrow_mut();
            held.blocks += 1;
            held.since.get_or_insert(header.opened_unix);
            held.until = Some(header.opened_unix);
            for record in records(body).flatten() {
                match record {
                    Record::Frame(_) => held.frames += 1,
                    Record::Event { .. } => held.events += 1,
                    Record::Mark { .. } => held.marks += 1,
                    Record::Gap { .. } => held.gaps += 1,
                    Record::Unknown { .. } => {}
                }
            }
        };
        let on_end = |name: SegmentName, position, end: Option<BadBlock>| {
            let Held { blocks, frames, events, marks, gaps, since, until } = held.take();
            let seconds = match (since, until) {
                (Some(since), Some(until)) => until.since(since).as_secs_f64(),
                _ => 0.0,
            };
            let end = end.map_or_else(|| "the end of the file".to_owned(), |end| end.to_string());
            crate::say(&format!(
                "{}/{}: {blocks} blocks in {position} bytes over {seconds:.1} s, {frames} frames, {events} events, {marks} marks, \
                 {gaps} gaps; ends: {end}\n",
                shard.0,
                name.file(),
            ));
        };
        walk(tape, shard, track, on_block, on_end).map_err(|error| error.to_string())?;
    }
    Ok(true)
}

/// What is known of one recording.
#[derive(Default)]
struct Recording {
    frames: BTreeMap<(u8, u8), u64>,
    /// Of its end; none while it goes on.
    expected: Option<Vec<Frames>>,
    has_begun: bool,
}

impl Recording {
    fn verdict(&self) -> &'static str {
        let Some(expected) = &self.expected else { return "not ended" };
        let counted = |told: &Frames| self.frames.get(&(told.leg, told.stream)).copied().unwrap_or(0) == told.frames;
        if self.has_begun && expected.iter().all(counted) { "complete" } else { "degraded" }
    }
}

fn verify(tape: &Path) -> Result<bool, String> {
    let mut faults = 0;
    let mut recordings: BTreeMap<CallId, Vec<Recording>> = BTreeMap::new();
    for (shard, track) in each_track(tape)? {
        let mut last: Option<(u64, u64)> = None;
        let mut missing: Vec<(u64, u64, u64)> = Vec::new();
        let mut gaps: Vec<Gap> = Vec::new();
        let mut damaged = Vec::new();
        let on_block = |_, header: &Header, body: &[u8]| {
            let before = last.filter(|(boot, _)| *boot == header.boot).map_or(header.number - 1, |(_, number)| number);
            if before + 1 < header.number {
                missing.push((header.boot, before + 1, header.number - 1));
            }
            last = Some((header.boot, header.number));
            for record in records(body).flatten() {
                note(&mut recordings, &mut gaps, &record);
            }
        };
        let on_end = |name: SegmentName, position: u64, end: Option<BadBlock>| {
            if let Some(end) = end.filter(|end| *end != BadBlock::Magic) {
                damaged.push(format!("{}/{} at {position}: {end}", shard.0, name.file()));
            }
        };
        walk(tape, shard, track, on_block, on_end).map_err(|error| error.to_string())?;
        for line in damaged {
            faults += 1;
            crate::say(&format!("damaged: {line}\n"));
        }
        for (boot, first, number) in missing {
            faults += 1;
            crate::say(&format!("missing: shard {} {track:?} boot {boot} blocks {first} to {number}\n", shard.0));
        }
        for gap in gaps {
            faults += 1;
            crate::say(&format!(
                "gap: shard {} boot {} blocks {} to {}, {} records over {:.1} s, {:?}\n",
                shard.0,
                gap.boot,
                gap.first,
                gap.last,
                gap.records,
                gap.until.since(gap.since).as_secs_f64(),
                gap.cause
            ));
        }
    }
    for (call, parts) in &recordings {
        for part in parts {
            let verdict = part.verdict();
            faults += u32::from(verdict == "degraded");
            let frames: u64 = part.frames.values().sum();
            crate::say(&format!("{call}: {frames} frames, {verdict}\n"));
        }
    }
    Ok(faults == 0)
}

fn note(recordings: &mut BTreeMap<CallId, Vec<Recording>>, gaps: &mut Vec<Gap>, record: &Record<'_>) {
    let mut current = |call: CallId| {
        let parts = recordings.entry(call).or_default();
        if parts.last().is_none_or(|part| part.expected.is_some()) {
            parts.push(Recording::default());
        }
        // A part was just made sure of.
        parts.pop().map(|part| (call, part))
    };
    let changed = match record {
        Record::Frame(Frame { call, leg, stream, .. }) => current(*call).map(|(call, mut part)| {
            *part.frames.entry((*leg, *stream)).or_default() += 1;
            (call, part)
        }),
        Record::Mark { call, mark: Mark::Begin { .. }, .. } => {
            current(*call).map(|(call, part)| (call, Recording { has_begun: true, ..part }))
        }
        Record::Mark { call, mark: Mark::Ended { frames }, .. } => {
            current(*call).map(|(call, part)| (call, Recording { expected: Some(frames.clone()), ..part }))
        }
        Record::Gap { gap, .. } => {
            gaps.push(gap.clone());
            None
        }
        _ => None,
    };
    if let Some((call, part)) = changed {
        recordings.entry(call).or_default().push(part);
    }
}

fn export(tape: &Path, wanted: CallId, out: &Path) -> Result<bool, String> {
    let failed = |error: io::Error| format!("{}: {error}", out.display());
    let mut file = BufWriter::new(File::create(out).map_err(failed)?);
    file.write_all(&pcap_head()).map_err(failed)?;
    let mut written = Ok(0u64);
    for (shard, track) in each_track(tape)? {
        let on_block = |_, header: &Header, body: &[u8]| {
            for record in records(body).flatten() {
                let Record::Frame(frame) = record else { continue };
                if frame.call == wanted && written.is_ok() {
                    let bytes = pcap_packet(&frame, header.unix(frame.at));
                    written = file.write_all(&bytes).map(|()| written.as_ref().map_or(0, |count| count + 1));
                }
            }
        };
        walk(tape, shard, track, on_block, |_, _, _| {}).map_err(|error| error.to_string())?;
    }
    let written = written.map_err(failed)?;
    file.flush().map_err(failed)?;
    crate::say(&format!("{written} packets of {wanted} to {}\n", out.display()));
    Ok(written > 0)
}

/// The file header of libpcap's format with microseconds, link type 101: packets begin with their IP header.
fn pcap_head() -> Vec<u8> {
    let words: [u32; 6] = [0xA1B2_C3D4, 0x0004_0002, 0, 0, 65_535, 101];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The addresses say whose packet it is: leg 1 of stream 0 is 10.0.1.0; both ends have port 40000 + the leg.
fn pcap_packet(frame: &Frame<'_>, at: UnixTime) -> Vec<u8> {
    let (udp_len, ip_len) = (8 + frame.packet.len() as u16, 28 + frame.packet.len() as u16);
    let mut bytes = Vec::with_capacity(16 + usize::from(ip_len));
    for word in [at.secs() as u32, (at.micros() % 1_000_000) as u32, u32::from(ip_len), u32::from(ip_len)] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, frame.leg, frame.stream, 10, 0, 255, frame.stream];
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    let sum: u32 = ip.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !((sum & 0xFFFF) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend_from_slice(&ip);
    let port = 40_000 + u16::from(frame.leg);
    for half in [port, port, udp_len, 0] {
        bytes.extend_from_slice(&half.to_be_bytes());
    }
    bytes.extend_from_slice(frame.packet);
    bytes
}
