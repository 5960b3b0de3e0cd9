//! Events on their way to the side process: durable, in order, bounded, kept until side says that they are committed.
//!
//! Segments `<dir>/<number>.spool`, each a journal; one is deleted when every event in it is acknowledged. At the bound
//! new events are refused and counted: their numbers are missing, and side sees the gap.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::base::id::ShardId;
use crate::process::engine::clerk::journal::Journal;
use crate::process::engine::clerk::journal::Reader;
use crate::wire::event::Event;

/// Whose numbering an event's seq belongs to.
type Series = (u64, ShardId);

#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    segment_bytes_max: u64,
    bytes_max: u64,
    /// Oldest first; the last is being written.
    segments: VecDeque<Segment>,
    journal: Journal,
    acked: BTreeMap<Series, u64>,
    /// Events refused at the bound.
    pub refused: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    path: PathBuf,
    bytes: u64,
    last: BTreeMap<Series, u64>,
}

impl Spool {
    /// Finds what an earlier life left and goes on in a new segment.
    pub fn open(dir: &Path, segment_bytes_max: u64, bytes_max: u64) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut segments = VecDeque::new();
        for (number, path) in files(dir)? {
            let last = scan(&path)?;
            let bytes = fs::metadata(&path)?.len();
            if last.is_empty() {
                fs::remove_file(&path)?;
            } else {
                segments.push_back(Segment { number, path, bytes, last });
            }
        }
        let number = segments.back().map_or(1, |segment: &Segment| segment.number + 1);
        let journal = Journal::create(path_of(dir, number))?;
        segments.push_back(Segment { number, path: journal.path().to_owned(), bytes: 0, last: BTreeMap::new() });
        let acked = BTreeMap::new();
        Ok(Self { dir: dir.to_owned(), segment_bytes_max, bytes_max, segments, journal, acked, refused: 0 })
    }

    /// Gathers an event; [`Spool::write`] hands it to the kernel.
    pub fn push(&mut self, boot: u64, event: &Event) {
        let Ok(bytes) = postcard::to_stdvec(&(boot, event)) else { return };
        if self.bytes() + Journal::record_len(&bytes) > self.bytes_max {
            self.refused += 1;
            return;
        }
        self.journal.push(&bytes);
        if let Some(segment) = self.segments.back_mut() {
            segment.last.insert((boot, event.shard), event.seq);
            segment.bytes = self.journal.len();
        }
    }

    /// After this a crash of the process loses nothing.
    pub fn write(&mut self) -> io::Result<()> {
        self.journal.write()?;
        if self.journal.len() >= self.segment_bytes_max {
            self.begin_segment()?;
        }
        Ok(())
    }

    /// After this power loss loses nothing.
    pub fn sync(&mut self) -> io::Result<()> {
        self.journal.sync()
    }

    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    pub fn ack(&mut self, boot: u64, shard: ShardId, seq: u64) -> io::Result<()> {
        let acked = self.acked.entry((boot, shard)).or_insert(0);
        *acked = seq.max(*acked);
        while self.segments.len() > 1 && self.segments.front().is_some_and(|oldest| self.is_acked(oldest)) {
            if let Some(segment) = self.segments.pop_front() {
                fs::remove_file(&segment.path)?;
            }
        }
        Ok(())
    }

    fn is_acked(&self, segment: &Segment) -> bool {
        segment.last.iter().all(|(series, seq)| self.acked.get(series).is_some_and(|acked| acked >= seq))
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.journal.sync()?;
        let number = self.segments.back().map_or(1, |segment| segment.number + 1);
        self.journal = Journal::create(path_of(&self.dir, number))?;
        let path = self.journal.path().to_owned();
        self.segments.push_back(Segment { number, path, bytes: 0, last: BTreeMap::new() });
        Ok(())
    }
}

/// Walks a spool from its oldest event; one per connection of side.
#[derive(Debug, Default)]
pub struct Cursor {
    at: Option<(u64, Reader)>,
    /// Read, but of another boot than the batch before it.
    held: Option<(u64, Event)>,
}

impl Cursor {
    /// Up to `events_max` written events that follow, all of one boot.
    pub fn next(&mut self, spool: &Spool, events_max: usize) -> io::Result<Option<(u64, Vec<Event>)>> {
        let Some((boot, first)) = self.read(spool)? else { return Ok(None) };
        let mut events = vec![first];
        while events.len() < events_max {
            match self.read(spool)? {
                Some((next_boot, event)) if next_boot == boot => events.push(event),
                other => {
                    self.held = other;
                    break;
                }
            }
        }
        Ok(Some((boot, events)))
    }

    fn read(&mut self, spool: &Spool) -> io::Result<Option<(u64, Event)>> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            let number = match &mut self.at {
                None => 0,
                Some((number, reader)) => match reader.read()? {
                    Some(bytes) => match postcard::from_bytes(&bytes) {
                        Ok(event) => return Ok(Some(event)),
                        Err(_) => continue,
                    },
                    None => *number,
                },
            };
            if !self.enter(spool, number)? {
                return Ok(None);
            }
        }
    }

    /// Goes to the first segment after `number`; false if there is none.
    fn enter(&mut self, spool: &Spool, number: u64) -> io::Result<bool> {
        let Some(segment) = spool.segments.iter().find(|segment| segment.number > number) else { return Ok(false) };
        self.at = Some((segment.number, Reader::open(&segment.path)?));
        Ok(true)
    }
}

fn path_of(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.spool"))
}

fn files(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".spool")).and_then(|number| number.parse().ok());
        if let Some(number) = number {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// The last seq of each series in a segment.
fn scan(path: &Path) -> io::Result<BTreeMap<Series, u64>> {
    let mut last = BTreeMap::new();
    let mut reader = Reader::open(path)?;
    while let Some(bytes) = reader.read()? {
        if let Ok((boot, event)) = postcard::from_bytes::<(u64, Event)>(&bytes) {
            last.insert((boot, event.shard), event.seq);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time::UnixTime;
    use crate::wire::event::Body;

    fn event(seq: u64) -> Event {
        let tenant = "acme".to_owned();
        Event {
            shard: ShardId(0),
            seq,
            at: UnixTime::from_secs(seq),
            tenant,
            call: None,
            leg: None,
            body: Body::CallAnswered,
        }
    }

    fn read_all(spool: &Spool) -> Vec<(u64, u64)> {
        let mut cursor = Cursor::default();
        let mut read = Vec::new();
        while let Some((boot, events)) = cursor.next(spool, 7).unwrap() {
            read.extend(events.iter().map(|event| (boot, event.seq)));
        }
        read
    }

    #[test]
    fn events_outlive_the_process_until_they_are_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 500, 1 << 20).unwrap();
        for seq in 1..=100 {
            spool.push(1, &event(seq));
            spool.write().unwrap();
        }
        drop(spool);
        let mut spool = Spool::open(dir.path(), 500, 1 << 20).unwrap();
        for seq in 1..=10 {
            spool.push(2, &event(seq));
        }
        spool.write().unwrap();
        let mut expected: Vec<_> = (1..=100).map(|seq| (1, seq)).collect();
        expected.extend((1..=10).map(|seq| (2, seq)));
        assert_eq!(read_all(&spool), expected);

        spool.ack(1, ShardId(0), 50).unwrap();
        let left = read_all(&spool);
        assert!(left.len() < 100 && left.contains(&(1, 51)), "{}", left.len());
        spool.ack(1, ShardId(0), 100).unwrap();
        assert_eq!(read_all(&spool), &expected[100..]);
    }

    #[test]
    fn the_bound_holds_and_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path(), 500, 2_000).unwrap();
        for seq in 1..=1000 {
            spool.push(1, &event(seq));
            spool.write().unwrap();
        }
        let kept = read_all(&spool).len() as u64;
        assert_eq!(kept + spool.refused, 1000);
        assert!(spool.bytes() <= 2_000 && kept > 10);
        spool.ack(1, ShardId(0), kept).unwrap();
        spool.push(1, &event(1001));
        spool.write().unwrap();
        assert!(read_all(&spool).contains(&(1, 1001)), "room again after the acknowledgement");
    }
}
