//! Makes recordings of stores that have ended, beside the thread that reads the tapes: a bounded queue and some threads.
//!
//! Long ones have a thread of their own, so that short ones do not wait for them. What fails is tried again, later each time,
//! and given up when it is the store that fails and not the disk or the database: then the store is kept, and tried at the next
//! start. What is made once is not made again because the database failed. Killed at any point, the store is still there.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::id::CallId;
use crate::base::limit::FINISHING_MAX;
use crate::process::side::recording::finish;
use crate::process::side::recording::finish::Finished;
use crate::process::side::recording::live::Live;
use crate::process::side::recording::rows;
use crate::process::side::recording::work;
use crate::process::side::recording::work::Chunks;
use crate::process::side::recording::work::Place;
use crate::process::side::seal::KEY_BYTES;

/// A store of G.711 of both parties for half an hour and more.
const LONG_BYTES: u64 = 48 << 20;
/// Threads for the others: they wait for the disk more than they work.
const SHORT_WORKERS: usize = 3;
const BACK_OFF_FIRST: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// With the pauses between them about four minutes.
const ATTEMPTS_MAX: u32 = 10;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Knows which recordings are done. Waits for the database.
pub(crate) trait Done: Send + Sync {
    /// Last place of the call's recordings, and the highest number among them.
    fn last(&self, call: CallId) -> io::Result<(Place, u32)>;
    fn known(&self, id: &str) -> io::Result<Known>;
    /// Durable when it returns; doing it again changes nothing. A fault of the database is [busy](io::ErrorKind::ResourceBusy).
    fn put(&self, job: &Job, key: &[u8; KEY_BYTES], finished: &Finished) -> io::Result<()>;
    /// Notes that none could be made, and why.
    fn give_up(&self, job: &Job, cause: &str) -> io::Result<()>;
}

/// What there is of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Nothing,
    Failed,
    Done,
}

/// A store that has ended.
pub(crate) struct Job {
    pub(crate) call: CallId,
    pub(crate) number: u32,
    pub(crate) id: String,
    /// Of its last record.
    pub(crate) last: Place,
    pub(crate) store: Arc<Chunks>,
    pub(crate) bytes: u64,
    attempts: u32,
    /// Attempts that failed by what the store is.
    faults: u32,
    not_before: Option<Instant>,
    made: Option<([u8; KEY_BYTES], Finished)>,
}

impl Job {
    pub(crate) fn new(call: CallId, number: u32, last: Place, store: Arc<Chunks>, bytes: u64) -> Self {
        let id = work::id_of(call, number);
        Self { call, number, id, last, store, bytes, attempts: 0, faults: 0, not_before: None, made: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// Whether the store's fault is told often enough.
    fn is_hopeless(&mut self, error: &io::Error, attempts_max: u32) -> bool {
        self.faults += u32::from(!is_passing(error));
        self.faults >= attempts_max
    }

    fn put_off(&mut self, error: &io::Error) {
        let wait = BACK_OFF_FIRST.saturating_mul(1 << self.attempts.min(8)).min(BACK_OFF_MAX);
        self.attempts += 1;
        self.not_before = Some(Instant::now() + wait);
        let (id, secs) = (&self.id, wait.as_secs());
        tracing::error!(
            event = "recording.failed",
            call = %self.call,
            attempts = self.attempts,
            "recording {id} cannot be finished, again in {secs} s: {error}"
        );
    }
}

/// Somebody has to make room, or the database has to answer: the store is not to blame.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::QuotaExceeded;
    use io::ErrorKind::ReadOnlyFilesystem;
    use io::ErrorKind::ResourceBusy;
    use io::ErrorKind::StorageFull;
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | ResourceBusy)
}

/// What is counted of finishing.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) finished: AtomicU64,
    pub(crate) failures: AtomicU64,
    /// Stores that found the queue full and are taken up from the disk later.
    pub(crate) left_behind: AtomicU64,
    /// Stores that no recording could be made of.
    pub(crate) given_up: AtomicU64,
    /// Stores that could not be read, and were set aside.
    pub(crate) unreadable: AtomicU64,
    pub(crate) waiting: AtomicU64,
    /// Packets that are not in recordings because no decoder knows them, by the name of their encoding.
    pub(crate) undecodable: Mutex<BTreeMap<String, u64>>,
}

/// Names that are counted; senders choose them.
const NAMES_MAX: usize = 64;

impl Counts {
    fn on_undecodable(&self, job: &Job, finished: &Finished) {
        if finished.undecodable.is_empty() {
            return;
        }
        let mut all = self.undecodable.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, packets) in &finished.undecodable {
            let is_plain = |char: &char| char.is_ascii_alphanumeric() || ['-', '_', '.'].contains(char);
            let codec: String = name.chars().filter(is_plain).collect();
            if all.len() < NAMES_MAX || all.contains_key(&codec) {
                *all.entry(codec).or_default() += packets;
            }
        }
        drop(all);
        let names: Vec<_> = finished.undecodable.keys().map(String::as_str).collect();
        let (id, names, tenant) = (&job.id, names.join(", "), &finished.tenant);
        tracing::warn!(event = "recording.undecodable", call = %job.call, tenant, "{id} lacks what came in {names}: no decoder");
    }
}

#[derive(Default)]
struct Queue {
    /// Short ones, long ones.
    lanes: [VecDeque<Job>; 2],
    /// Jobs that somebody works at.
    taken: usize,
    /// Recordings that are done and not told.
    done: Vec<(CallId, u32)>,
}

impl Queue {
    fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum::<usize>() + self.taken
    }
}

struct Shared<D> {
    folder: PathBuf,
    done: D,
    live: Arc<Live>,
    counts: Arc<Counts>,
    queue: Mutex<Queue>,
    wake: Condvar,
    stop: AtomicBool,
    folders: Mutex<()>,
    attempts_max: u32,
}

pub(crate) struct Finisher<D> {
    shared: Arc<Shared<D>>,
    has_workers: bool,
    capacity: usize,
}

impl<D> Drop for Finisher<D> {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.shared.wake.notify_all();
    }
}

impl<D: Done + 'static> Finisher<D> {
    /// `folder`: where recordings lie.
    pub(crate) fn new(folder: PathBuf, done: D, live: Arc<Live>, counts: Arc<Counts>) -> Self {
        let (queue, wake, stop) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        let (folders, attempts_max) = (Mutex::default(), ATTEMPTS_MAX);
        let shared = Shared { folder, done, live, counts, queue, wake, stop, folders, attempts_max };
        let shared = Arc::new(shared);
        Self { shared, has_workers: false, capacity: FINISHING_MAX }
    }

    /// Without this nothing is done but by [`Finisher::work_off`].
    pub(crate) fn start(&mut self) -> io::Result<()> {
        self.has_workers = true;
        for lane in [vec![0; SHORT_WORKERS], vec![1]].concat() {
            let shared = Arc::clone(&self.shared);
            std::thread::Builder::new().name("recordings".to_owned()).spawn(move || shared.work(lane))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    #[cfg(test)]
    fn with_attempts(mut self, attempts_max: u32) -> Self {
        Arc::get_mut(&mut self.shared).unwrap().attempts_max = attempts_max;
        self
    }

    pub(crate) fn has_workers(&self) -> bool {
        self.has_workers
    }

    pub(crate) fn done(&self) -> &D {
        &self.shared.done
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// False if there is no room: the store stays where it is.
    pub(crate) fn offer(&self, job: Job) -> bool {
        let mut queue = self.shared.queue();
        if queue.len() >= self.capacity {
            self.shared.counts.left_behind.fetch_add(1, Relaxed);
            return false;
        }
        queue.lanes[usize::from(job.bytes > LONG_BYTES)].push_back(job);
        self.shared.counts.waiting.store(queue.len() as u64, Relaxed);
        drop(queue);
        self.shared.wake.notify_all();
        true
    }

    pub(crate) fn is_full(&self) -> bool {
        self.shared.queue().len() >= self.capacity
    }

    /// Enough for those that were left behind.
    pub(crate) fn has_room(&self) -> bool {
        self.shared.queue().len() <= self.capacity / 2
    }

    /// What became a recording since it was asked for the last time.
    pub(crate) fn take_done(&self) -> Vec<(CallId, u32)> {
        std::mem::take(&mut self.shared.queue().done)
    }

    /// Finishes all that waits, here; the first that fails ends it.
    pub(crate) fn work_off(&self) -> io::Result<()> {
        for lane in [0, 1] {
            loop {
                let Some(mut job) = self.shared.queue().lanes[lane].pop_front() else { break };
                if let Err(error) = self.shared.finish(&mut job) {
                    self.shared.queue().lanes[lane].push_front(job);
                    return Err(error);
                }
                self.shared.queue().done.push((job.call, job.number));
            }
        }
        Ok(())
    }
}

impl<D: Done> Shared<D> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, lane: usize) {
        while let Some(mut job) = self.next(lane) {
            // A panic over one call's packets must not end the thread that others need.
            let caught = catch_unwind(AssertUnwindSafe(|| self.finish(&mut job)));
            let finished = caught.unwrap_or_else(|_| Err(io::Error::other("it panicked")));
            let has_failed = finished.is_err();
            let finished = match finished {
                Err(error) if job.is_hopeless(&error, self.attempts_max) => self.give_up(&job, &error),
                finished => finished,
            };
            let mut queue = self.queue();
            queue.taken -= 1;
            match finished {
                Ok(()) => queue.done.push((job.call, job.number)),
                Err(error) => {
                    job.put_off(&error);
                    queue.lanes[lane].push_back(job);
                }
            }
            self.counts.waiting.store(queue.len() as u64, Relaxed);
            drop(queue);
            if has_failed {
                // A disk or database that fails is not asked by everybody at once.
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }

    /// Waits for a job that is due; `None` at the end of all.
    fn next(&self, lane: usize) -> Option<Job> {
        let mut queue = self.queue();
        while !self.stop.load(Relaxed) {
            let now = Instant::now();
            if let Some(place) = queue.lanes[lane].iter().position(|job| job.is_due(now)) {
                queue.taken += 1;
                return queue.lanes[lane].remove(place);
            }
            queue = self.wake.wait_timeout(queue, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// A recording is made of the store, which goes when the database has it.
    fn finish(&self, job: &mut Job) -> io::Result<()> {
        let finished = self.make(job);
        if finished.is_err() {
            self.counts.failures.fetch_add(1, Relaxed);
        }
        finished?;
        self.counts.finished.fetch_add(1, Relaxed);
        self.live.on_gone(&job.id);
        // Left behind it is removed at the next start: the recording is in the database.
        work::destroy(&rows::work_folder(&self.folder), &job.id)
            .unwrap_or_else(|error| tracing::warn!(event = "recording.left", "the store of {}: {error}", job.id));
        Ok(())
    }

    /// It is shown as failed, and its store stays where it is.
    fn give_up(&self, job: &Job, error: &io::Error) -> io::Result<()> {
        job.store.sync()?;
        self.done.give_up(job, &error.to_string())?;
        // Nobody has its key.
        let _ = std::fs::remove_file(rows::audio_path(&self.folder, &job.id));
        self.counts.given_up.fetch_add(1, Relaxed);
        self.live.on_gone(&job.id);
        let id = &job.id;
        tracing::error!(event = "recording.given-up", call = %job.call, "no recording could be made of {id}: {error}");
        Ok(())
    }

    fn make(&self, job: &mut Job) -> io::Result<()> {
        let (key, finished) = match job.made.take() {
            Some(made) => made,
            None => self.write(job)?,
        };
        let put = self.done.put(job, &key, &finished);
        match put {
            Ok(()) => self.counts.on_undecodable(job, &finished),
            Err(_) => job.made = Some((key, finished)),
        }
        put
    }

    fn write(&self, job: &Job) -> io::Result<([u8; KEY_BYTES], Finished)> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
        let path = rows::audio_path(&self.folder, &job.id);
        let draft = path.with_extension("new");
        let folder = path.parent().unwrap_or(&self.folder);
        // Who finds it there must not be before who makes it durable.
        let making = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        rows::create_folder(folder)?;
        drop(making);
        let file = rows::create_file(&draft)?;
        let finished = finish::finish(&job.store, &file, &job.id, &key)?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        rows::sync_folder(folder)?;
        Ok((key, finished))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;
    use crate::base::id::ShardId;
    use crate::process::side::recording::work::Work;
    use crate::process::side::seal::NodeKey;

    /// A database that fails so many times; long calls wait in it until they are let go.
    #[derive(Default)]
    struct Slow {
        failures: AtomicU32,
        asked: AtomicU32,
        done: Mutex<Vec<u32>>,
        is_let_go: AtomicBool,
        keys: Mutex<Vec<[u8; KEY_BYTES]>>,
        kind: Mutex<Option<io::ErrorKind>>,
        given_up: Mutex<Vec<(u32, String)>>,
    }

    impl Done for Arc<Slow> {
        fn last(&self, _: CallId) -> io::Result<(Place, u32)> {
            Ok((Place::default(), 0))
        }

        fn known(&self, _: &str) -> io::Result<Known> {
            Ok(Known::Nothing)
        }

        fn put(&self, job: &Job, key: &[u8; KEY_BYTES], _: &Finished) -> io::Result<()> {
            self.asked.fetch_add(1, Relaxed);
            self.keys.lock().unwrap().push(*key);
            while job.bytes > LONG_BYTES && !self.is_let_go.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if self.failures.load(Relaxed) > 0 {
                self.failures.fetch_sub(1, Relaxed);
                return Err((*self.kind.lock().unwrap()).unwrap_or(io::ErrorKind::Other).into());
            }
            self.done.lock().unwrap().push(job.number);
            Ok(())
        }

        fn give_up(&self, job: &Job, cause: &str) -> io::Result<()> {
            self.given_up.lock().unwrap().push((job.number, cause.to_owned()));
            Ok(())
        }
    }

    fn job(folder: &std::path::Path, number: u32, bytes: u64) -> Job {
        let (key, call) = (NodeKey::new(&[1; KEY_BYTES]), CallId::from_bits(3));
        let work = Work::open(&rows::work_folder(folder), &work::id_of(call, number), ShardId(0), &key).unwrap();
        Job::new(call, number, work.last(), Arc::clone(work.chunks()), bytes)
    }

    fn finisher(folder: &std::path::Path, slow: &Arc<Slow>) -> Finisher<Arc<Slow>> {
        std::fs::create_dir_all(rows::work_folder(folder)).unwrap();
        let mut finisher = Finisher::new(folder.to_owned(), Arc::clone(slow), Arc::default(), Arc::default());
        finisher.start().unwrap();
        finisher
    }

    fn until(what: &str, is_so: impl Fn() -> bool) {
        let began = Instant::now();
        while !is_so() {
            assert!(began.elapsed() < Duration::from_secs(20), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_long_call_does_not_delay_others() {
        let folder = tempfile::tempdir().unwrap();
        let slow = Arc::new(Slow::default());
        let finisher = finisher(folder.path(), &slow);
        for number in 1..=20 {
            let bytes = if number <= 2 { LONG_BYTES + 1 } else { 1 };
            assert!(finisher.offer(job(folder.path(), number, bytes)));
        }
        until("short ones are done", || slow.done.lock().unwrap().len() == 18);
        slow.is_let_go.store(true, Relaxed);
        until("long ones are done", || slow.done.lock().unwrap().len() == 20);
        until("they are told", || finisher.shared.queue().done.len() == 20);
        let left = std::fs::read_dir(rows::work_folder(folder.path())).unwrap().count();
        assert_eq!((left, finisher.shared.counts.waiting.load(Relaxed)), (0, 0));
    }

    #[test]
    fn what_the_database_refused_is_not_made_again_and_comes_later() {
        let folder = tempfile::tempdir().unwrap();
        let slow = Arc::new(Slow::default());
        slow.failures.store(2, Relaxed);
        let finisher = finisher(folder.path(), &slow);
        assert!(finisher.offer(job(folder.path(), 1, 1)));
        until("it was refused", || finisher.shared.counts.failures.load(Relaxed) == 1);
        until("it is done", || !slow.done.lock().unwrap().is_empty());
        let keys = slow.keys.lock().unwrap();
        assert_eq!(keys.len(), 3);
        assert!(keys.iter().all(|key| *key == keys[0]), "made once");
    }

    #[test]
    fn what_never_succeeds_is_given_up_and_its_store_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(rows::work_folder(folder.path())).unwrap();
        let slow = Arc::new(Slow::default());
        slow.failures.store(u32::MAX, Relaxed);
        let mut finisher =
            Finisher::new(folder.path().to_owned(), Arc::clone(&slow), Arc::default(), Arc::default()).with_attempts(2);
        finisher.start().unwrap();
        assert!(finisher.offer(job(folder.path(), 1, 1)));
        until("it is given up", || !slow.given_up.lock().unwrap().is_empty());
        until("it is told", || !finisher.shared.queue().done.is_empty());
        assert_eq!(slow.asked.load(Relaxed), 2);
        assert_eq!(finisher.counts().given_up.load(Relaxed), 1);
        let id = work::id_of(CallId::from_bits(3), 1);
        assert!(Work::path(&rows::work_folder(folder.path()), &id).exists());
        assert!(!rows::audio_path(folder.path(), &id).exists());
        // A disk that is full is nobody's fault.
        *slow.kind.lock().unwrap() = Some(io::ErrorKind::StorageFull);
        assert!(finisher.offer(job(folder.path(), 2, 1)));
        until("it was tried often", || slow.asked.load(Relaxed) == 5);
        assert_eq!(slow.given_up.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_full_queue_takes_nothing_more() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(rows::work_folder(folder.path())).unwrap();
        let slow = Arc::new(Slow::default());
        let finisher = Finisher::new(folder.path().to_owned(), slow, Arc::default(), Arc::default());
        let taken =
            (1..=FINISHING_MAX as u32 + 1).filter(|number| finisher.offer(job(folder.path(), *number, 1))).count();
        assert_eq!((taken, finisher.shared.counts.left_behind.load(Relaxed)), (FINISHING_MAX, 1));
    }
}
