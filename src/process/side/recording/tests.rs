//! Tapes as an engine writes them, and what the side makes of them when it is killed at every step.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use sha2::Digest;
use sha2::Sha256;

use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::base::time::UnixTime;
use crate::machine::recording::Encoding;
use crate::machine::recording::Verdict;
use crate::machine::recording::segments::Cause;
use crate::process::side::recording::audio;
use crate::process::side::recording::finish::Finished;
use crate::process::side::recording::finisher::Counts;
use crate::process::side::recording::finisher::Done;
use crate::process::side::recording::finisher::Finisher;
use crate::process::side::recording::finisher::Job;
use crate::process::side::recording::finisher::Known;
use crate::process::side::recording::live::Live;
use crate::process::side::recording::live::State;
use crate::process::side::recording::rows;
use crate::process::side::recording::tail::Separator;
use crate::process::side::recording::work::Chunks;
use crate::process::side::recording::work::Clocks;
use crate::process::side::recording::work::FAILING_SYNCS;
use crate::process::side::recording::work::Place;
use crate::process::side::recording::work::Work;
use crate::process::side::seal::KEY_BYTES;
use crate::process::side::seal::NodeKey;
use crate::wire::g711::Law;
use crate::wire::tape::BLOCK_ALIGN;
use crate::wire::tape::Frame;
use crate::wire::tape::Header;
use crate::wire::tape::Mark;
use crate::wire::tape::Track;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::record::Frames;
use crate::wire::tape::record::emit_mark;
use crate::wire::wav;

const SHARD: ShardId = ShardId(0);
const BEGAN: u64 = 50_000;

/// Writes a shard's tape as an engine does.
pub(in crate::process::side) struct Tape {
    folder: std::path::PathBuf,
    segment: u64,
    pub(in crate::process::side) boot: u64,
    number: u64,
    bytes: Vec<u8>,
    /// Segment and byte after each block.
    pub(in crate::process::side) ends: Vec<(u64, u64)>,
}

impl Tape {
    pub(in crate::process::side) fn new(data: &Path) -> Self {
        let folder = data.join("tape").join(SegmentName::folder(SHARD));
        std::fs::create_dir_all(&folder).unwrap();
        Self { folder, segment: 1, boot: 7, number: 0, bytes: Vec::new(), ends: Vec::new() }
    }

    pub(in crate::process::side) fn block(&mut self, records: &[Vec<u8>]) {
        self.number += 1;
        self.copy(self.boot, self.number, records);
    }

    fn copy(&mut self, boot: u64, number: u64, records: &[Vec<u8>]) {
        let body = records.concat();
        let header = Header {
            track: Track::Media,
            is_sealed: false,
            shard: SHARD,
            boot,
            segment: self.segment,
            place: (self.bytes.len() / BLOCK_ALIGN) as u32,
            number,
            len: body.len() as u32,
            records: records.len() as u32,
            opened: Instant::from_millis(BEGAN),
            opened_unix: UnixTime::from_secs(1_700_000_000),
            tag: [0; 16],
        };
        self.bytes.extend_from_slice(&header.emit(&body));
        self.bytes.extend_from_slice(&body);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK_ALIGN), 0);
        self.ends.push((self.segment, self.bytes.len() as u64));
        std::fs::write(self.path(self.segment), &self.bytes).unwrap();
    }

    fn path(&self, segment: u64) -> std::path::PathBuf {
        self.folder.join(SegmentName { shard: SHARD, track: Track::Media, segment }.file())
    }

    fn next_segment(&mut self) {
        self.segment += 1;
        self.bytes.clear();
    }
}

pub(in crate::process::side) fn call(number: u128) -> CallId {
    CallId::from_bits(number << 64 | 5)
}

/// A frame of 20 ms whose bytes say whose it is.
fn payload(leg: u8, number: u64) -> Vec<u8> {
    (0..160).map(|at| (number as u8).wrapping_mul(31) ^ leg << 4 ^ at).collect()
}

fn frame(call: CallId, leg: u8, number: u64) -> Vec<u8> {
    frame_of(8, call, leg, number)
}

fn frame_of(payload_type: u8, call: CallId, leg: u8, number: u64) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend_from_slice(&(number as u16).to_be_bytes());
    packet.extend_from_slice(&(number as u32 * 160).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, leg]);
    packet.extend_from_slice(&payload(leg, number));
    let at = Instant::from_millis(BEGAN + number * 20);
    let mut room = vec![0; 4_096];
    let len = Frame { call, leg, stream: 0, at, packet: &packet }.emit(&mut room).unwrap();
    room.truncate(len);
    room
}

/// Frames of both parties.
fn both_ways(call: CallId, numbers: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    numbers.flat_map(|number| [frame(call, 0, number), frame(call, 1, number)]).collect()
}

fn mark(call: CallId, number: u64, mark: &Mark) -> Vec<u8> {
    emit_mark(Instant::from_millis(BEGAN + number * 20), call, mark).unwrap()
}

fn ended(frames: u64) -> Mark {
    Mark::Ended { frames: [0, 1].map(|leg| Frames { leg, stream: 0, frames }).to_vec() }
}

/// A call of so many frames each way, some records a block.
pub(in crate::process::side) fn whole_call(tape: &mut Tape, call: CallId, tenant: &str, frames: u64) {
    begun_call(tape, call, tenant, frames);
    end_call(tape, call, frames);
}

/// The same, still up.
pub(in crate::process::side) fn begun_call(tape: &mut Tape, call: CallId, tenant: &str, frames: u64) {
    tape.block(&[mark(call, 0, &Mark::Begin { tenant: tenant.to_owned() })]);
    for first in (0..frames).step_by(5) {
        let numbers = first..(first + 5).min(frames);
        tape.block(&both_ways(call, numbers));
    }
}

pub(in crate::process::side) fn end_call(tape: &mut Tape, call: CallId, frames: u64) {
    tape.block(&[mark(call, frames, &ended(frames))]);
}

/// The stored audio of such a call.
pub(in crate::process::side) fn whole_audio(frames: u64) -> Vec<u8> {
    let pairs = |number| payload(0, number).into_iter().zip(payload(1, number));
    (0..frames).flat_map(pairs).flat_map(|(left, right)| [left, right]).collect()
}

struct Row {
    call: CallId,
    last: Place,
    key: [u8; KEY_BYTES],
    finished: Finished,
}

/// A database that outlives its process.
#[derive(Clone, Default)]
struct Memory {
    rows: Arc<Mutex<BTreeMap<String, Row>>>,
    /// The process dies before, or after, the next one is committed.
    dies: Arc<Mutex<Option<bool>>>,
    /// Questions that are not answered before others are.
    mute: Arc<AtomicU32>,
}

impl Memory {
    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, Row>> {
        self.rows.lock().unwrap()
    }
}

impl Done for Memory {
    fn last(&self, call: CallId) -> io::Result<(Place, u32)> {
        if self.mute.load(Relaxed) > 0 {
            self.mute.fetch_sub(1, Relaxed);
            return Err(io::Error::other("no database"));
        }
        let rows = self.rows();
        let own = rows.values().filter(|row| row.call == call);
        Ok((own.clone().map(|row| row.last).max().unwrap_or_default(), own.count() as u32))
    }

    fn known(&self, id: &str) -> io::Result<Known> {
        Ok(if self.rows().contains_key(id) { Known::Done } else { Known::Nothing })
    }

    fn give_up(&self, _: &Job, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn put(&self, job: &Job, key: &[u8; KEY_BYTES], finished: &Finished) -> io::Result<()> {
        let dies = self.dies.lock().unwrap().take();
        if dies == Some(true) {
            return Err(io::Error::other("died before"));
        }
        let row = Row { call: job.call, last: job.last, key: *key, finished: finished.clone() };
        self.rows().entry(job.id.clone()).or_insert(row);
        if dies.is_some() { Err(io::Error::other("died after")) } else { Ok(()) }
    }
}

struct Node {
    data: tempfile::TempDir,
    memory: Memory,
    live: Arc<Live>,
    counts: Arc<Counts>,
}

impl Node {
    fn new() -> Self {
        Self {
            data: tempfile::tempdir().unwrap(),
            memory: Memory::default(),
            live: Arc::default(),
            counts: Arc::default(),
        }
    }

    fn separator(&self) -> Separator<Memory> {
        self.separator_of(1_000)
    }

    /// One whose queue has room for so many.
    fn separator_of(&self, capacity: usize) -> Separator<Memory> {
        let key = NodeKey::open(&self.data.path().join("node.key")).unwrap();
        let (folder, live) = (rows::folder(self.data.path()), Arc::clone(&self.live));
        let finisher = Finisher::new(folder, self.memory.clone(), Arc::clone(&live), Arc::clone(&self.counts));
        Separator::new(self.data.path(), Arc::new(key), finisher.with_capacity(capacity), live).unwrap()
    }

    fn audio(&self, id: &str) -> Vec<u8> {
        let rows = self.memory.rows();
        let row = &rows[id];
        let len = row.finished.samples * row.finished.encoding.sample_bytes() as u64 * 2;
        let path = rows::audio_path(&rows::folder(self.data.path()), id);
        let reader = audio::Reader::open(&path, id, &row.key, len).unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < len as usize {
            bytes.extend(reader.read(bytes.len() as u64, 10_000).unwrap());
        }
        bytes
    }

    /// No store of a call is left.
    fn assert_tidy(&self) {
        let left = std::fs::read_dir(rows::folder(self.data.path()).join("work")).unwrap().count();
        assert_eq!(left, 0);
    }
}

fn assert_whole(node: &Node, id: &str, frames: u64) {
    {
        let rows = node.memory.rows();
        let Finished { verdict, encoding, samples, sha256, ledger, tenant, .. } = &rows[id].finished;
        assert_eq!((*verdict, *encoding, *samples), (Verdict::Complete, Encoding::G711(Law::A), frames * 160));
        assert_eq!(tenant, "acme");
        assert!(ledger.lines().all(|(_, _, line)| (line.received, line.written, line.lost) == (frames, frames, 0)));
        let format = wav::Format { encoding: wav::Encoding::G711(Law::A), channels: 2, rate: 8_000 };
        let file = wav::emit(format, &whole_audio(frames)).unwrap();
        let digest: String = Sha256::digest(&file).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(*sha256, digest);
    }
    assert!(node.audio(id) == whole_audio(frames), "{id}: the audio is another");
}

#[test]
fn a_call_becomes_a_recording() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    whole_call(&mut tape, call(1), "acme", 1_000);
    let (segment, limit) = *tape.ends.last().unwrap();
    node.separator().read(SHARD, segment, limit).unwrap();
    assert_whole(&node, &call(1).to_string(), 1_000);
    node.assert_tidy();
    // Nothing on the disk has the audio as it is.
    let path = rows::audio_path(&rows::folder(node.data.path()), &call(1).to_string());
    let stored = std::fs::read(path).unwrap();
    assert!(!stored.windows(32).any(|window| window == &whole_audio(1)[..32]));
}

/// The log line of `Counts::on_undecodable` is written beside the count.
#[test]
fn audio_without_a_decoder_is_counted_by_its_name() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() })]);
    for number in 0..50 {
        tape.block(&[frame_of(3, call(1), 0, number), frame(call(1), 1, number)]);
    }
    end_call(&mut tape, call(1), 50);
    let (segment, limit) = *tape.ends.last().unwrap();
    node.separator().read(SHARD, segment, limit).unwrap();
    let expected = BTreeMap::from([("gsm".to_owned(), 50)]);
    let rows = node.memory.rows();
    let finished = &rows[&call(1).to_string()].finished;
    assert_eq!((finished.verdict, &finished.undecodable), (Verdict::Degraded, &expected));
    assert_eq!(*node.counts.undecodable.lock().unwrap(), expected);
}

#[test]
fn killed_at_any_point_nothing_is_lost_and_nothing_doubled() {
    // After how many blocks it is killed each time, and whether it dies around the commit.
    for (every, dies) in [(1, None), (1, Some(true)), (1, Some(false)), (2, Some(true)), (3, None), (7, Some(false))] {
        let node = Node::new();
        let mut tape = Tape::new(node.data.path());
        whole_call(&mut tape, call(1), "acme", 23);
        tape.next_segment();
        whole_call(&mut tape, call(2), "acme", 41);
        *node.memory.dies.lock().unwrap() = dies;
        let mut separator = node.separator();
        for (index, (segment, limit)) in tape.ends.iter().enumerate() {
            if index % every == 0 {
                separator = node.separator();
            }
            let _ = separator.read(SHARD, *segment, *limit);
        }
        let (segment, limit) = *tape.ends.last().unwrap();
        node.separator().read(SHARD, segment, limit).unwrap();
        assert_eq!(node.memory.rows().len(), 2, "{every} {dies:?}");
        assert_whole(&node, &call(1).to_string(), 23);
        assert_whole(&node, &call(2).to_string(), 41);
        node.assert_tidy();
    }
}

#[test]
fn what_is_acknowledged_is_not_needed_any_more() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() })]);
    tape.block(&both_ways(call(1), 0..10));
    let mut separator = node.separator();
    separator.read(SHARD, 1, tape.ends[1].1).unwrap();
    assert!(separator.acknowledgements().unwrap().is_empty());
    tape.next_segment();
    tape.block(&both_ways(call(1), 10..20));
    separator.read(SHARD, 2, tape.ends[2].1).unwrap();
    let segments: Vec<_> = separator.acknowledgements().unwrap().iter().map(|name| name.segment).collect();
    assert_eq!(segments, [1]);
    std::fs::remove_file(tape.path(1)).unwrap();
    drop(separator);
    tape.block(&[mark(call(1), 20, &ended(20))]);
    node.separator().read(SHARD, 2, tape.ends[3].1).unwrap();
    assert_whole(&node, &call(1).to_string(), 20);
}

#[test]
fn an_engine_that_dies_leaves_a_recording_that_says_so() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    let records: Vec<_> = (0..10).flat_map(|number| [frame(call(1), 0, number), frame(call(1), 1, number)]).collect();
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() })]);
    tape.block(&records);
    // The next engine writes again what was not confirmed, and then its own.
    tape.next_segment();
    tape.copy(7, 2, &records);
    tape.boot = 8;
    tape.number = 0;
    whole_call(&mut tape, call(2), "acme", 10);
    let (segment, limit) = *tape.ends.last().unwrap();
    node.separator().read(SHARD, segment, limit).unwrap();
    assert_whole(&node, &call(2).to_string(), 10);
    assert!(node.audio(&call(1).to_string()) == whole_audio(10));
    assert_eq!(node.memory.rows()[&call(1).to_string()].finished.verdict, Verdict::Degraded);
    node.assert_tidy();
}

#[test]
fn a_call_recorded_twice_has_two_recordings() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    whole_call(&mut tape, call(1), "acme", 10);
    whole_call(&mut tape, call(1), "acme", 15);
    for (segment, limit) in &tape.ends {
        node.separator().read(SHARD, *segment, *limit).unwrap();
    }
    assert_whole(&node, &call(1).to_string(), 10);
    assert_whole(&node, &format!("{}-2", call(1)), 15);
    assert_eq!(node.memory.rows().len(), 2);
}

#[test]
fn frames_that_are_missing_on_the_tape_are_confessed() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() }), frame(call(1), 0, 0)]);
    tape.block(&[mark(call(1), 2, &Mark::Ended { frames: vec![Frames { leg: 0, stream: 0, frames: 2 }] })]);
    node.separator().read(SHARD, 1, tape.ends[1].1).unwrap();
    assert_eq!(node.memory.rows()[&call(1).to_string()].finished.verdict, Verdict::Degraded);
}

#[test]
fn a_store_that_was_torn_goes_on_before_the_tear() {
    let folder = tempfile::tempdir().unwrap();
    let key = NodeKey::open(&folder.path().join("node.key")).unwrap();
    let open = || Work::open(folder.path(), &call(1).to_string(), SHARD, &key).unwrap();
    let record = |number| frame(call(1), 0, number);
    let place = |block| Place { boot: 1, block, record: 0 };
    let mut work = open();
    for block in 1..=4 {
        assert!(work.append(place(block), Clocks::default(), &record(block)).unwrap());
        work.flush().unwrap();
    }
    drop(work);
    let path = Work::path(folder.path(), &call(1).to_string());
    let whole = std::fs::read(&path).unwrap();
    for cut in (0..whole.len()).step_by(13).chain([whole.len()]) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut work = open();
        let kept = work.last().block;
        for block in 1..=4 {
            assert_eq!(work.append(place(block), Clocks::default(), &record(block)).unwrap(), block > kept);
        }
        work.sync().unwrap();
        let (mut position, mut found) = (Chunks::FIRST, Vec::new());
        while let Some(chunk) = work.chunks().read(position).unwrap() {
            position = chunk.next;
            found.extend(chunk.records);
        }
        assert!(found == (1..=4).flat_map(record).collect::<Vec<_>>(), "{cut}");
    }
}

#[test]
fn a_store_under_another_node_key_is_kept_aside() {
    let folder = tempfile::tempdir().unwrap();
    let path = Work::path(folder.path(), &call(3).to_string());
    drop(Work::open(folder.path(), &call(3).to_string(), SHARD, &NodeKey::new(&[1; KEY_BYTES])).unwrap());
    let before = std::fs::read(&path).unwrap();
    drop(Work::open(folder.path(), &call(3).to_string(), SHARD, &NodeKey::new(&[2; KEY_BYTES])).unwrap());
    assert_eq!(std::fs::read(path.with_extension("unreadable")).unwrap(), before);
    assert_ne!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_call_that_a_dead_engine_left_becomes_a_recording() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[frame(call(1), 0, 0), frame(call(1), 1, 0)]);
    let mut separator = node.separator();
    let (segment, end) = *tape.ends.last().unwrap();
    separator.read(SHARD, segment, end).unwrap();
    separator.end_before(SHARD, tape.boot).unwrap();
    separator.end_before(ShardId(1), tape.boot + 1).unwrap();
    assert_eq!(separator.open(), 1);
    separator.end_before(SHARD, tape.boot + 1).unwrap();
    assert_eq!(separator.open(), 0);
}

#[test]
fn a_database_that_fails_loses_nothing_and_nothing_is_read_twice() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    whole_call(&mut tape, call(1), "acme", 20);
    whole_call(&mut tape, call(2), "acme", 30);
    let (segment, limit) = *tape.ends.last().unwrap();
    let mut separator = node.separator();
    node.memory.mute.store(3, Relaxed);
    for _ in 0..3 {
        separator.read(SHARD, segment, limit).unwrap_err();
    }
    // The tape goes on from where it stood: what was before is not needed.
    std::fs::rename(tape.path(1), tape.path(1).with_extension("gone")).unwrap();
    separator.read(SHARD, segment, limit).unwrap();
    assert_whole(&node, &call(1).to_string(), 20);
    assert_whole(&node, &call(2).to_string(), 30);
    node.assert_tidy();
}

#[test]
fn stores_that_find_the_queue_full_are_taken_up_later() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    for number in 1..=10 {
        whole_call(&mut tape, call(number), "acme", 5);
    }
    // The first of these two ends and has no room; the second must not go on in its store.
    whole_call(&mut tape, call(10), "acme", 7);
    let (segment, limit) = *tape.ends.last().unwrap();
    let mut separator = node.separator_of(4);
    separator.read(SHARD, segment, limit).unwrap();
    assert_eq!(node.memory.rows().len(), 4);
    for _ in 0..4 {
        separator.read(SHARD, segment, limit).unwrap();
    }
    for number in 1..=10 {
        assert_whole(&node, &call(number).to_string(), 5);
    }
    assert_whole(&node, &format!("{}-2", call(10)), 7);
    node.assert_tidy();
}

#[test]
fn who_asks_sees_what_is_recorded_and_what_is_being_finished() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() }), frame(call(1), 0, 0)]);
    let mut separator = node.separator();
    let (segment, limit) = *tape.ends.last().unwrap();
    separator.read(SHARD, segment, limit).unwrap();
    let id = call(1).to_string();
    let live = node.live.get(&id).unwrap();
    assert_eq!((live.tenant.as_str(), live.state), ("acme", State::Recording));
    assert_eq!(live.started_at, UnixTime::from_secs(1_700_000_000));
    // Another process goes on with it.
    node.live.on_gone(&id);
    let mut separator = node.separator();
    separator.read(SHARD, segment, limit).unwrap();
    assert_eq!(node.live.get(&id).unwrap().started_at, live.started_at);
    tape.block(&[mark(call(1), 2, &ended(1))]);
    *node.memory.dies.lock().unwrap() = Some(true);
    let (segment, limit) = *tape.ends.last().unwrap();
    separator.read(SHARD, segment, limit).unwrap_err();
    assert!(matches!(node.live.get(&id).unwrap().state, State::Processing(_)));
    separator.read(SHARD, segment, limit).unwrap();
    assert!(node.live.get(&id).is_none());
    assert_eq!(node.memory.rows().len(), 1);
}

#[test]
fn a_recording_knows_its_segments() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() })]);
    tape.block(&both_ways(call(1), 0..50));
    tape.block(&[mark(call(1), 50, &Mark::Paused), mark(call(1), 100, &Mark::Resumed)]);
    tape.block(&both_ways(call(1), 100..150));
    tape.block(&both_ways(call(1), 250..260));
    tape.block(&[mark(call(1), 260, &ended(110))]);
    let (segment, limit) = *tape.ends.last().unwrap();
    node.separator().read(SHARD, segment, limit).unwrap();
    let rows = node.memory.rows();
    let finished = &rows[&call(1).to_string()].finished;
    assert_eq!(finished.verdict, Verdict::Complete);
    let segments = &finished.detail.segments;
    let caller: Vec<_> = segments.iter().filter(|segment| segment.leg == 0).collect();
    let told: Vec<_> = caller.iter().map(|one| (one.since_ms, one.until_ms, one.packets, one.cause)).collect();
    let expected = [(0, 980, 50, Cause::Begin), (2_000, 2_980, 50, Cause::Resumed), (5_000, 5_180, 10, Cause::Silence)];
    assert_eq!((told.as_slice(), segments.len()), (&expected[..], 6));
    assert!(segments.iter().all(|segment| segment.codec == "pcma"));
}

#[test]
fn a_store_that_cannot_be_read_stops_no_other() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    whole_call(&mut tape, call(1), "acme", 10);
    let work = rows::work_folder(&rows::folder(node.data.path()));
    // One is left from before, the other in the way of a call of the tape.
    for number in [1, 9] {
        std::fs::create_dir_all(Work::path(&work, &call(number).to_string())).unwrap();
    }
    let (segment, limit) = *tape.ends.last().unwrap();
    node.separator().read(SHARD, segment, limit).unwrap();
    assert_whole(&node, &call(1).to_string(), 10);
    let mut left: Vec<_> = std::fs::read_dir(work).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort_unstable();
    assert!(left.len() == 2 && left.iter().all(|path| path.extension().unwrap() == "unreadable"), "{left:?}");
}

#[test]
fn a_sync_that_failed_is_not_believed_later() {
    let node = Node::new();
    let mut tape = Tape::new(node.data.path());
    tape.block(&[mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() })]);
    tape.block(&both_ways(call(1), 0..10));
    tape.next_segment();
    tape.block(&both_ways(call(1), 10..20));
    tape.next_segment();
    tape.block(&both_ways(call(1), 20..30));
    let mut separator = node.separator();
    let len = || {
        let work = rows::work_folder(&rows::folder(node.data.path()));
        std::fs::metadata(Work::path(&work, &call(1).to_string())).unwrap().len()
    };
    let acknowledged = |separator: &Separator<Memory>| -> Vec<u64> {
        separator.acknowledgements().unwrap().iter().map(|name| name.segment).collect()
    };
    separator.read(SHARD, 2, 0).unwrap();
    let durable = len();
    assert_eq!(acknowledged(&separator), [1]);
    FAILING_SYNCS.with(|failing| failing.set(1));
    separator.read(SHARD, 3, tape.ends[3].1).unwrap_err();
    // What may be on the disk or not is no more in the file: it is read from the tape again.
    assert_eq!((len(), acknowledged(&separator)), (durable, vec![1]));
    std::fs::remove_file(tape.path(1)).unwrap();
    separator.read(SHARD, 3, tape.ends[3].1).unwrap();
    assert_eq!(acknowledged(&separator), [2]);
    tape.block(&[mark(call(1), 30, &ended(30))]);
    separator.read(SHARD, 3, tape.ends[4].1).unwrap();
    assert_whole(&node, &call(1).to_string(), 30);
}

/// The most memory of this process since it was last asked to forget, in bytes (proc_pid_status(5)).
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1_024
}

/// `cargo test --release --lib -- --ignored --nocapture eight_hours`
#[test]
#[ignore = "a figure, and half a gigabyte of disk"]
#[allow(clippy::disallowed_methods, clippy::print_stderr, reason = "it measures time, and says what it found")]
fn eight_hours_are_finished_in_little_memory() {
    const FRAMES: u64 = 8 * 3_600 * 50;
    let (folder, key) = (tempfile::tempdir().unwrap(), NodeKey::new(&[1; KEY_BYTES]));
    let id = call(1).to_string();
    let mut work = Work::open(folder.path(), &id, SHARD, &key).unwrap();
    let clocks = Clocks { instant: Instant::from_millis(BEGAN), unix: UnixTime::from_secs(1_700_000_000) };
    let mut block = 0;
    let mut append = |record: &[u8]| {
        block += 1;
        work.append(Place { boot: 7, block, record: 1 }, clocks, record).unwrap();
    };
    append(&mark(call(1), 0, &Mark::Begin { tenant: "acme".to_owned() }));
    for number in 0..FRAMES {
        append(&frame(call(1), 0, number));
        append(&frame(call(1), 1, number));
    }
    append(&mark(call(1), FRAMES, &ended(FRAMES)));
    work.sync().unwrap();
    drop(work);
    let chunks = Chunks::open(folder.path(), &id, &key).unwrap().unwrap();
    let audio = tempfile::tempfile().unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let (before, began) = (peak_bytes(), std::time::Instant::now());
    let finished = super::finish::finish(&chunks, &audio, &id, &[3; KEY_BYTES]).unwrap();
    let (more, spent) = (peak_bytes() - before, began.elapsed().as_secs_f64());
    assert_eq!((finished.samples, finished.verdict), (FRAMES * 160, Verdict::Complete));
    eprintln!(
        "a call of eight hours: {:.1} s, {:.0} times real time, {:.1} MiB of memory",
        spent,
        8.0 * 3_600.0 / spent,
        more as f64 / 1_048_576.0
    );
    assert!(more < 64 << 20, "{more} bytes");
}
