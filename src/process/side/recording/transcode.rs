//! Recordings as Ogg/Opus: encoded when somebody asks, into a file without a name, which is kept for a while.
//!
//! The file is sealed under a key that only this process has. Long ones take longer than a request may: they go on being made,
//! and whoever asks again gets them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::machine::recording::ogg::OggError;
use crate::machine::recording::ogg::OggOpus;
use crate::machine::recording::view::View;
use crate::process::side::recording::audio;
use crate::process::side::recording::rows;
use crate::process::side::seal::KEY_BYTES;

const MADE_AT_ONCE: usize = 2;
const FILES_MAX: usize = 16;
const KEPT: Duration = Duration::from_secs(300);
const WAIT_MAX: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Each file has a key of its own: the name it is sealed under says nothing.
const ID: &str = "ogg";

pub(crate) struct OggFile {
    reader: audio::Reader,
    pub(crate) len: u64,
}

impl OggFile {
    /// So many bytes from this one on, or fewer.
    pub(crate) fn read(&self, at: u64, wanted: usize) -> io::Result<Vec<u8>> {
        self.reader.read(at, wanted)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum TranscodeError {
    #[error("too many recordings are being encoded")]
    Busy,
    #[error("the recording is being encoded: ask again")]
    Making,
    #[error(transparent)]
    Ogg(#[from] OggError),
    #[error("the encoded recording: {0}")]
    File(#[from] io::Error),
}

/// What is to be encoded.
pub(crate) struct Source {
    pub(crate) reader: Arc<audio::Reader>,
    /// Bytes of it.
    pub(crate) len: u64,
    /// With PCM.
    pub(crate) view: View,
}

enum Entry {
    Making,
    /// Last used then.
    Made(Arc<OggFile>, Instant),
    /// Nobody was told so far.
    Failed(TranscodeError, Instant),
}

impl Entry {
    /// Since when it waits for somebody; what is being made does not.
    const fn idle_since(&self) -> Option<Instant> {
        match self {
            Self::Making => None,
            Self::Made(_, at) | Self::Failed(_, at) => Some(*at),
        }
    }
}

pub(crate) struct Transcoder {
    folder: PathBuf,
    files: Mutex<BTreeMap<String, Entry>>,
    turns: Semaphore,
}

impl Transcoder {
    pub(crate) fn new(data: &Path) -> Arc<Self> {
        let folder = rows::work_folder(&rows::folder(data));
        Arc::new(Self { folder, files: Mutex::default(), turns: Semaphore::new(MADE_AT_ONCE) })
    }

    /// `name` says which recording and which view of it.
    pub(crate) async fn file(self: &Arc<Self>, name: &str, source: Source) -> Result<Arc<OggFile>, TranscodeError> {
        if self.begin(name)? {
            let (transcoder, name) = (Arc::clone(self), name.to_owned());
            tokio::spawn(async move { transcoder.make(name, source).await });
        }
        let began = Instant::now();
        while began.elapsed() < WAIT_MAX {
            if let Some(answer) = self.look(name) {
                return answer;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(TranscodeError::Making)
    }

    /// `None` while it is being made.
    fn look(&self, name: &str) -> Option<Result<Arc<OggFile>, TranscodeError>> {
        let mut files = self.table();
        match files.remove(name) {
            Some(Entry::Made(file, _)) => {
                files.insert(name.to_owned(), Entry::Made(Arc::clone(&file), Instant::now()));
                Some(Ok(file))
            }
            Some(Entry::Making) => {
                files.insert(name.to_owned(), Entry::Making);
                None
            }
            Some(Entry::Failed(error, _)) => Some(Err(error)),
            // Somebody else was told that it failed.
            None => Some(Err(TranscodeError::Making)),
        }
    }

    /// True if it has to be made.
    fn begin(&self, name: &str) -> Result<bool, TranscodeError> {
        self.forget_old();
        let mut files = self.table();
        if files.contains_key(name) {
            return Ok(false);
        }
        if files.len() >= FILES_MAX {
            let idle = files.iter().filter_map(|(name, entry)| entry.idle_since().map(|since| (since, name.clone())));
            let (_, oldest) = idle.min().ok_or(TranscodeError::Busy)?;
            files.remove(&oldest);
        }
        files.insert(name.to_owned(), Entry::Making);
        Ok(true)
    }

    /// Files that nobody asked for lately go, for ever.
    pub(crate) async fn forget(&self) {
        loop {
            tokio::time::sleep(KEPT / 5).await;
            self.forget_old();
        }
    }

    fn forget_old(&self) {
        let now = Instant::now();
        self.table().retain(|_, entry| entry.idle_since().is_none_or(|since| now.duration_since(since) < KEPT));
    }

    async fn make(&self, name: String, source: Source) {
        let folder = self.folder.clone();
        let made = match self.turns.acquire().await {
            Ok(_turn) => tokio::task::spawn_blocking(move || encode(&folder, &source)).await,
            Err(_) => Ok(Err(TranscodeError::Busy)),
        };
        let made = made.unwrap_or_else(|error| Err(TranscodeError::File(io::Error::other(error))));
        let entry = match made {
            Ok(file) => Entry::Made(Arc::new(file), Instant::now()),
            Err(error) => Entry::Failed(error, Instant::now()),
        };
        self.table().insert(name, entry);
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn encode(folder: &Path, source: &Source) -> Result<OggFile, TranscodeError> {
    let format = source.view.format();
    let mut ogg = OggOpus::new(format.rate, format.channels)?;
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|_| io::Error::other("no randomness"))?;
    let file = tempfile::tempfile_in(folder)?;
    let mut writer = audio::Writer::new(file.try_clone()?, ID, &key);
    let (mut at, mut len, mut pcm, mut out) = (0, 0, Vec::new(), Vec::new());
    while at < source.len {
        let part = source.reader.read(at, audio::CHUNK_BYTES)?;
        if part.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        at += part.len() as u64;
        pcm.clear();
        source.view.render(&part, &mut pcm);
        ogg.push(&pcm, &mut out)?;
        len += out.len() as u64;
        writer.write(&out)?;
        out.clear();
    }
    ogg.finish(&mut out)?;
    len += out.len() as u64;
    writer.write(&out)?;
    writer.finish()?;
    Ok(OggFile { reader: audio::Reader::new(file, ID, &key, len), len })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcoder() -> Arc<Transcoder> {
        Transcoder::new(Path::new("/nowhere"))
    }

    fn failed(at: Instant) -> Entry {
        Entry::Failed(TranscodeError::Busy, at)
    }

    #[test]
    fn one_is_made_once_and_few_at_a_time() {
        let transcoder = transcoder();
        for number in 0..FILES_MAX {
            assert!(transcoder.begin(&number.to_string()).unwrap());
        }
        assert!(!transcoder.begin("3").unwrap(), "it is being made");
        assert!(transcoder.look("3").is_none());
        assert!(matches!(transcoder.begin("more"), Err(TranscodeError::Busy)));
        transcoder.table().insert("3".to_owned(), failed(Instant::now()));
        assert!(transcoder.begin("more").unwrap(), "what nobody waits for makes room");
        assert!(matches!(transcoder.begin("3"), Err(TranscodeError::Busy)));
    }

    #[test]
    fn a_failure_is_told_once_and_not_kept_for_ever() {
        let transcoder = transcoder();
        let now = Instant::now();
        transcoder.table().insert("told".to_owned(), failed(now));
        assert!(matches!(transcoder.look("told"), Some(Err(TranscodeError::Busy))));
        assert!(transcoder.begin("told").unwrap(), "and tried again");
        let Some(long_ago) = now.checked_sub(KEPT) else { return };
        transcoder.table().insert("old".to_owned(), failed(long_ago));
        transcoder.table().insert("new".to_owned(), failed(now));
        transcoder.forget_old();
        let left: Vec<_> = transcoder.table().keys().cloned().collect();
        assert_eq!(left, ["new", "told"]);
    }
}
