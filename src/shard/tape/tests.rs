//! Ring and tape thread over a real folder, with a disk that fails, fills and stalls on command, and engines that die.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use super::disk::Disk;
use super::disk::Folder;
use super::disk::Segment;
use super::disk::SegmentFile;
use super::files;
use super::files::SegmentReader;
use super::ring;
use super::ring::Bell;
use super::ring::Memory;
use super::ring::Ring;
use super::thread;
use super::thread::Shard;
use super::thread::Tape;
use super::thread::TapeSettings;
use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::time::UnixTime;
use crate::shard::clock;
use crate::shard::memory::Counter;
use crate::shard::memory::Figures;
use crate::shard::memory::STATE_OFFSET;
use crate::shard::memory::create_file;
use crate::wire::tape::BadBlock;
use crate::wire::tape::Copies;
use crate::wire::tape::Frame;
use crate::wire::tape::Gap;
use crate::wire::tape::Record;
use crate::wire::tape::Track;
use crate::wire::tape::crypt::Key;
use crate::wire::tape::name::SegmentName;
use crate::wire::tape::record::GapCause;
use crate::wire::tape::record::emit_gap;
use crate::wire::tape::records;

const SHARD: ShardId = ShardId(0);
const SEGMENT_BYTES: u64 = 1 << 20;

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    create: Option<io::ErrorKind>,
    write: Option<io::ErrorKind>,
    sync: Option<io::ErrorKind>,
    /// Each sync takes so long.
    stall: Duration,
    /// Media only: what is reserved for events still takes them.
    spare_events: bool,
    /// So many bytes exist; a new segment takes its own.
    bytes_max: Option<u64>,
}

#[derive(Clone, Default)]
struct Knob(Arc<Mutex<Faults>>);

impl Knob {
    fn set(&self, faults: Faults) {
        *self.0.lock().unwrap() = faults;
    }

    fn check(&self, track: Track, what: impl Fn(&Faults) -> Option<io::ErrorKind>) -> io::Result<()> {
        let faults = *self.0.lock().unwrap();
        match what(&faults) {
            Some(kind) if !(faults.spare_events && track == Track::Events) => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

struct Faulty {
    folder: Folder,
    knob: Knob,
}

struct FaultyFile {
    file: SegmentFile,
    track: Track,
    knob: Knob,
}

impl Disk for Faulty {
    type Segment = FaultyFile;

    fn create(&mut self, name: SegmentName, bytes: u64, key: Option<&Key>) -> io::Result<FaultyFile> {
        self.knob.check(name.track, |faults| faults.create)?;
        let used: u64 = self.folder.list(name.shard)?.iter().map(|(_, bytes)| bytes).sum();
        if self.knob.0.lock().unwrap().bytes_max.is_some_and(|max| used + bytes > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = self.folder.create(name, bytes, key)?;
        Ok(FaultyFile { file, track: name.track, knob: self.knob.clone() })
    }

    fn remove(&mut self, name: SegmentName) -> io::Result<()> {
        self.folder.remove(name)
    }

    fn list(&mut self, shard: ShardId) -> io::Result<Vec<(SegmentName, u64)>> {
        self.folder.list(shard)
    }

    fn summary(&mut self, name: SegmentName) -> Vec<files::Extent> {
        self.folder.summary(name)
    }
}

impl Segment for FaultyFile {
    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.knob.check(self.track, |faults| faults.write)?;
        self.file.write(at, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.knob.check(self.track, |faults| faults.sync)?;
        let stall = self.knob.0.lock().unwrap().stall;
        std::thread::sleep(stall);
        self.file.sync()
    }

    fn finish(self, len: u64) -> io::Result<()> {
        self.file.finish(len)
    }
}

/// The keeper's part: memory and folder, which outlive engines.
struct Node {
    dir: tempfile::TempDir,
    memory: std::os::fd::OwnedFd,
    ring_bytes: u64,
    knob: Knob,
    media_bytes_max: u64,
    event_bytes_max: u64,
}

/// One life of an engine.
struct Engine {
    ring: Ring,
    tape: Tape<Faulty>,
    figures: Figures,
    now: Now,
    next: u32,
    bell: Bell,
}

impl Node {
    fn new(media_slots: usize) -> Self {
        let ring_bytes = ring::bytes_for(media_slots);
        let memory = create_file("test", STATE_OFFSET as u64 + ring_bytes).unwrap();
        let (dir, knob) = (tempfile::tempdir().unwrap(), Knob::default());
        Self { dir, memory, ring_bytes, knob, media_bytes_max: 64 << 20, event_bytes_max: 64 << 20 }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn engine(&self, boot: u64) -> Engine {
        let memory = Memory::open(&self.memory, STATE_OFFSET as u64, self.ring_bytes).unwrap();
        let gaps = ring::gaps();
        let bell = Bell::default();
        let ring = Ring::new(memory.clone(), boot, bell.clone(), gaps.clone());
        let figures = Figures::open(&self.memory, SHARD).unwrap();
        let shard = Shard { shard: SHARD, memory, figures, gaps };
        let mut tape = Tape::open(self.disk(), self.settings(boot), vec![shard]).unwrap();
        tape.prepare();
        let instant = Instant::from_millis(boot * 1_000_000);
        let now = Now { instant, unix: UnixTime::from_secs(1_700_000_000 + boot * 1_000) };
        Engine {
            ring,
            tape,
            figures: Figures::open(&self.memory, SHARD).unwrap(),
            now,
            next: boot as u32 * 1_000_000,
            bell,
        }
    }

    fn settings(&self, boot: u64) -> TapeSettings {
        TapeSettings {
            boot,
            media_segment_bytes: SEGMENT_BYTES,
            event_segment_bytes: 256 << 10,
            media_bytes_max: self.media_bytes_max,
            event_bytes_max: self.event_bytes_max,
            segment_age_max: Duration::from_secs(600),
            is_sealed: true,
        }
    }

    fn disk(&self) -> Faulty {
        Faulty { folder: Folder::open(self.path()).unwrap(), knob: self.knob.clone() }
    }

    /// Everything on the tapes, in order and without copies: numbers of frames, and gaps.
    fn read(&self) -> (Vec<u32>, Vec<Gap>) {
        let (mut frames, mut gaps) = (Vec::new(), Vec::new());
        let mut copies = [Copies::default(), Copies::default()];
        for (name, _) in files::list(self.path(), SHARD).unwrap() {
            let mut reader = SegmentReader::open(self.path(), name).unwrap();
            while let Some((header, body)) = reader.next(u64::MAX).unwrap() {
                if !copies[name.track.index()].is_new(&header) {
                    continue;
                }
                for record in records(body) {
                    match record.unwrap() {
                        Record::Frame(frame) => frames.push(u32::from_be_bytes(frame.packet[..4].try_into().unwrap())),
                        Record::Gap { gap, .. } => gaps.push(gap),
                        other => panic!("{other:?}"),
                    }
                }
            }
            let end = reader.end();
            assert!(matches!(end, Some(BadBlock::Magic | BadBlock::Short)), "{name:?} ends with {end:?}");
        }
        (frames, gaps)
    }

    fn segments(&self, track: Track) -> Vec<u64> {
        let all = files::list(self.path(), SHARD).unwrap();
        all.iter().filter(|(name, _)| name.track == track).map(|(name, _)| name.segment).collect()
    }
}

impl Engine {
    /// Numbered frames, a millisecond apart.
    fn frames(&mut self, count: u32) {
        for _ in 0..count {
            let mut packet = [0; 172];
            packet[..4].copy_from_slice(&self.next.to_be_bytes());
            self.next += 1;
            self.pass(Duration::from_millis(1));
            let call = CallId::from_bits(7);
            self.ring.frame(&Frame { call, leg: 0, stream: 0, at: self.now.instant, packet: &packet }, self.now);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now = Now { instant: self.now.instant + time, unix: self.now.unix + time };
        if self.ring.next_deadline().is_some_and(|deadline| deadline <= self.now.instant) {
            self.ring.tick(self.now);
        }
    }

    fn turn(&mut self) -> bool {
        self.tape.turn(self.now.instant)
    }

    /// Closes what is open, and commits.
    fn settle(&mut self) {
        for _ in 0..20 {
            self.pass(Duration::from_millis(60));
            self.turn();
        }
    }
}

#[test]
fn frames_come_back_in_order_over_many_segments() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    assert_eq!(engine.figures.committed(Track::Media), Some((1, 0)));
    for _ in 0..100 {
        engine.frames(200);
        engine.turn();
    }
    engine.settle();
    let (segment, position) = engine.figures.committed(Track::Media).unwrap();
    assert!(segment >= 4 && position > 0, "{segment} {position}");
    let (frames, gaps) = node.read();
    assert_eq!(frames, (1_000_000..1_020_000).collect::<Vec<_>>());
    assert!(gaps.is_empty());
    assert_eq!(engine.ring.counts().frames, 20_000);
    assert!(engine.figures.count(Counter::TapeCommits) > 0 && engine.figures.count(Counter::TapeErrors) == 0);
}

#[test]
fn nothing_is_written_without_data_and_an_acknowledged_segment_is_gone_with_its_key() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    assert!(!engine.turn());
    assert!(node.segments(Track::Media).is_empty());
    for _ in 0..15 {
        engine.frames(1_000);
        engine.turn();
    }
    engine.settle();
    let before = node.segments(Track::Media);
    assert!(before.len() >= 3);
    engine.tape.acknowledge(SegmentName { shard: SHARD, track: Track::Media, segment: before[1] });
    assert_eq!(node.segments(Track::Media), before[2..]);
    let key = SegmentName { shard: SHARD, track: Track::Media, segment: before[0] }.key_file();
    assert!(!node.path().join("0").join(key).exists());
    // What is still written is not removed, whatever side says.
    engine.tape.acknowledge(SegmentName { shard: SHARD, track: Track::Media, segment: u64::MAX });
    assert_eq!(node.segments(Track::Media), before[before.len() - 1..]);
}

#[test]
fn what_lies_in_the_ring_of_a_dead_engine_is_recorded_once() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.frames(3_000);
    engine.turn();
    // In the ring, some in an open block.
    engine.frames(2_345);
    drop(engine);
    let mut engine = node.engine(2);
    engine.frames(500);
    engine.settle();
    let (frames, gaps) = node.read();
    let expected: Vec<_> = (1_000_000..1_005_345).chain(2_000_000..2_000_500).collect();
    assert_eq!(frames, expected);
    assert!(gaps.is_empty());
    assert!(node.segments(Track::Media).len() >= 2, "a dead engine's segment is not appended to");
}

#[test]
fn blocks_that_were_written_and_not_confirmed_are_not_doubled() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.frames(3_000);
    engine.pass(Duration::from_millis(60));
    // The blocks reach the file, and the engine dies before it knows.
    node.knob.set(Faults { sync: Some(io::ErrorKind::Other), ..Faults::default() });
    engine.turn();
    drop(engine);
    node.knob.set(Faults::default());
    let mut engine = node.engine(2);
    engine.settle();
    let (frames, _) = node.read();
    assert_eq!(frames, (1_000_000..1_003_000).collect::<Vec<_>>());
}

#[test]
fn a_failed_sync_kills_the_segment_and_not_the_frames() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.frames(1_000);
    engine.turn();
    node.knob.set(Faults { sync: Some(io::ErrorKind::Other), ..Faults::default() });
    engine.frames(1_000);
    assert!(!engine.turn());
    node.knob.set(Faults::default());
    engine.frames(1_000);
    engine.settle();
    let (frames, gaps) = node.read();
    assert_eq!(frames, (1_000_000..1_003_000).collect::<Vec<_>>());
    assert!(gaps.is_empty());
    assert!(engine.figures.count(Counter::TapeErrors) > 0);
}

/// A disk that stands still while the ring fills and longer: the oldest goes, and a gap says exactly what.
#[test]
fn a_stall_beyond_the_ring_sheds_the_oldest_and_lists_it() {
    let node = Node::new(16);
    let mut engine = node.engine(1);
    engine.frames(12_000);
    assert!(engine.ring.counts().shed > 0, "counted at once");
    engine.settle();
    let (frames, gaps) = node.read();
    let lost: u64 = gaps.iter().map(|gap| gap.records).sum();
    assert_eq!(frames.len() as u64 + lost, 12_000);
    assert_eq!(lost, engine.ring.counts().shed);
    assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1), "one piece, the newest");
    assert_eq!(*frames.last().unwrap(), 1_011_999);
    assert!(gaps.iter().all(|gap| gap.cause == GapCause::Slow && gap.track == Track::Media && gap.first <= gap.last));
    assert!(gaps[0].since < gaps[0].until);
}

#[test]
fn a_full_disk_costs_the_oldest_media_and_no_event() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    // Room for the reserve of events and three segments of media.
    node.knob.set(Faults { bytes_max: Some(512 * 1024 + 3 * SEGMENT_BYTES), ..Faults::default() });
    for _ in 0..100 {
        engine.frames(400);
        engine.turn();
    }
    engine.settle();
    let (frames, gaps) = node.read();
    let lost: u64 = gaps.iter().map(|gap| gap.records).sum();
    assert!(lost > 0);
    assert_eq!(frames.len() as u64 + lost, 40_000);
    assert_eq!(*frames.last().unwrap(), 1_039_999);
    assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1));
    assert!(gaps.iter().all(|gap| gap.cause == GapCause::Full));
    assert_eq!(engine.figures.count(Counter::TapeRemoved), lost);
}

#[test]
fn what_media_may_use_is_bounded() {
    let mut node = Node::new(64);
    node.media_bytes_max = 3 * SEGMENT_BYTES;
    let mut engine = node.engine(1);
    for _ in 0..60 {
        engine.frames(500);
        engine.turn();
        let all = files::list(node.path(), SHARD).unwrap();
        let bytes: u64 = all.iter().filter(|(name, _)| name.track == Track::Media).map(|(_, bytes)| bytes).sum();
        assert!(bytes <= node.media_bytes_max);
    }
    engine.settle();
    let (frames, gaps) = node.read();
    let lost: u64 = gaps.iter().map(|gap| gap.records).sum();
    assert_eq!(frames.len() as u64 + lost, 30_000);
}

fn numbered(number: u64) -> Vec<u8> {
    let at = UnixTime::from_secs(1);
    let (track, cause) = (Track::Media, GapCause::Slow);
    let gap = Gap { boot: 1, track, first: number, last: number, since: at, until: at, records: 0, bytes: 0, cause };
    emit_gap(Instant::ZERO, &gap).unwrap()
}

#[test]
fn what_events_may_use_is_bounded_and_they_wait() {
    let mut node = Node::new(16);
    node.event_bytes_max = 3 * (256 << 10);
    let mut engine = node.engine(1);
    engine.frames(500);
    let mut accepted = 0;
    for number in 0..400 {
        accepted += u64::from(engine.ring.record(Track::Events, &numbered(number), engine.now));
        engine.pass(Duration::from_millis(60));
        engine.turn();
        let all = files::list(node.path(), SHARD).unwrap();
        let bytes: u64 = all.iter().filter(|(name, _)| name.track == Track::Events).map(|(_, bytes)| bytes).sum();
        assert!(bytes <= node.event_bytes_max);
    }
    // Two of the segments were the reserve, and the ring holds what came last.
    assert!((200..250).contains(&accepted), "{accepted}");
    assert_eq!(engine.figures.count(Counter::TapeRemoved), 0, "no media for it");
    engine.tape.acknowledge(SegmentName { shard: SHARD, track: Track::Events, segment: 2 });
    engine.settle();
    assert!(engine.ring.record(Track::Events, &numbered(400), engine.now), "there is room again");
    engine.settle();
    let (frames, gaps) = node.read();
    assert_eq!((frames.len(), gaps.last().map(|gap| gap.first)), (500, Some(400)));
}

#[test]
fn a_shard_whose_events_may_take_no_more_takes_nothing_from_others() {
    let (mut node, other) = (Node::new(16), Node::new(16));
    node.event_bytes_max = 3 * (256 << 10);
    let part = |node: &Node, shard| {
        let memory = Memory::open(&node.memory, STATE_OFFSET as u64, node.ring_bytes).unwrap();
        let gaps = ring::gaps();
        let ring = Ring::new(memory.clone(), 1, Bell::default(), gaps.clone());
        (ring, Shard { shard, memory, figures: Figures::open(&node.memory, shard).unwrap(), gaps })
    };
    let ((mut full, first), (mut free, second)) = (part(&node, SHARD), part(&other, ShardId(1)));
    let mut tape = Tape::open(node.disk(), node.settings(1), vec![first, second]).unwrap();
    assert!(tape.prepare());
    let mut now = Now { instant: Instant::from_millis(1), unix: UnixTime::from_secs(1) };
    let mut refused = 0;
    for number in 0..300 {
        refused += u32::from(!full.record(Track::Events, &numbered(number), now));
        assert!(number >= 100 || free.record(Track::Events, &numbered(number), now));
        now.instant = now.instant + Duration::from_millis(60);
        full.tick(now);
        free.tick(now);
        tape.turn(now.instant);
    }
    assert!(refused > 0);
    let written: u64 = files::list(node.path(), ShardId(1)).unwrap().iter().map(|(_, bytes)| bytes).sum();
    assert!(written >= 100 * 4_096);
    assert!(free.record(Track::Events, &numbered(300), now));
}

#[test]
fn that_the_last_life_is_on_the_tape_is_said_when_it_is() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.turn();
    assert_eq!(engine.figures.rewritten(), 1);
    engine.frames(100);
    drop(engine);
    node.knob.set(Faults { write: Some(io::ErrorKind::Other), ..Faults::default() });
    let mut engine = node.engine(2);
    assert_eq!(engine.figures.rewritten(), 0);
    engine.turn();
    assert_eq!(engine.figures.rewritten(), 0);
    node.knob.set(Faults::default());
    engine.settle();
    assert_eq!(engine.figures.rewritten(), 2);
    assert_eq!(node.read().0.len(), 100);
}

#[test]
fn events_outlive_a_disk_that_takes_no_media() {
    let node = Node::new(16);
    let mut engine = node.engine(1);
    let kind = Some(io::ErrorKind::Other);
    node.knob.set(Faults { create: kind, write: kind, spare_events: true, ..Faults::default() });
    for _ in 0..60 {
        engine.frames(300);
        engine.turn();
    }
    engine.settle();
    let (frames, gaps) = node.read();
    assert!(frames.is_empty() && !gaps.is_empty());
    assert!(gaps.iter().any(|gap| gap.cause == GapCause::Failed));
    node.knob.set(Faults::default());
    engine.settle();
    let (frames, gaps) = node.read();
    let lost: u64 = gaps.iter().map(|gap| gap.records).sum();
    assert_eq!(frames.len() as u64 + lost, 18_000);
}

#[test]
fn old_segments_are_finished() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.frames(100);
    engine.settle();
    let (first, position) = engine.figures.committed(Track::Media).unwrap();
    assert!(position > 0);
    engine.pass(Duration::from_secs(601));
    engine.turn();
    let (next, position) = engine.figures.committed(Track::Media).unwrap();
    assert!(next > first && position == 0);
    engine.tape.acknowledge(SegmentName { shard: SHARD, track: Track::Media, segment: first });
    assert!(node.segments(Track::Media).is_empty());
    engine.frames(100);
    engine.settle();
    assert_eq!(node.read().0.len(), 100);
}

#[test]
fn the_end_of_an_engine_writes_everything_and_leaves_no_reserve() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.frames(777);
    engine.tape.finish(engine.now.instant);
    assert_eq!(node.read().0.len(), 777);
    assert!(node.segments(Track::Events).is_empty());
    let bytes =
        std::fs::metadata(files::path_of(node.path(), SegmentName { shard: SHARD, track: Track::Media, segment: 1 }));
    assert!(bytes.unwrap().len() < SEGMENT_BYTES, "a finished segment ends with its last block");
}

#[test]
fn a_reader_goes_no_further_than_it_is_told() {
    let node = Node::new(64);
    let mut engine = node.engine(1);
    engine.frames(2_000);
    engine.settle();
    let (segment, end) = engine.figures.committed(Track::Media).unwrap();
    let name = SegmentName { shard: SHARD, track: Track::Media, segment };
    let mut reader = SegmentReader::open(node.path(), name).unwrap();
    let mut blocks = 0;
    while reader.next(end).unwrap().is_some() {
        blocks += 1;
    }
    assert_eq!((reader.position(), reader.end()), (end, None));
    let mut half = SegmentReader::open(node.path(), name).unwrap();
    while half.next(end / 2).unwrap().is_some() {}
    let (position, last) = (half.position(), half.last());
    assert!(position <= end / 2);
    let mut rest = SegmentReader::open(node.path(), name).unwrap();
    rest.resume(position, last);
    let mut further = 0;
    while rest.next(end).unwrap().is_some() {
        further += 1;
    }
    assert!(further > 0 && further < blocks);
}

/// With the real thread: a disk that stands still for longer than many turns takes nothing from whoever fills the ring.
#[test]
fn a_stall_that_the_ring_rides_out_costs_nothing_and_holds_up_nobody() {
    let node = Node::new(64);
    node.knob.set(Faults { stall: Duration::from_millis(300), ..Faults::default() });
    let Engine { ring, tape, figures, now, next, bell } = node.engine(1);
    let handle = thread::spawn(tape, bell.clone(), None).unwrap();
    // Frames are made by an engine whose own tape stays unused.
    let idle = Node::new(16).engine(9).tape;
    let mut engine = Engine { ring, tape: idle, figures, now, next, bell };
    let mut slowest = Duration::ZERO;
    for _ in 0..150 {
        let begun = clock::boottime();
        engine.frames(20);
        slowest = slowest.max(clock::boottime().since(begun));
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(slowest < Duration::from_millis(150), "{slowest:?} for twenty packets");
    assert_eq!(engine.ring.counts().shed, 0);
    handle.finish();
    let (frames, gaps) = node.read();
    assert_eq!(frames, (1_000_000..1_003_000).collect::<Vec<_>>());
    assert!(gaps.is_empty());
}
