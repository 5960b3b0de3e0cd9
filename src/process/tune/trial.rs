//! `tipring tune disk`: what a folder's disk does when it is written as the tape writes it.
//!
//! Blocks of 64 KiB with O_DIRECT into a preallocated file, fdatasync after each, first alone and then beside a second writer that
//! goes through the page cache. Bounded in time and bytes; what it wrote is gone when it ends.

use std::fs::File;
use std::io;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use rustix::fs::fallocate;
use serde::Serialize;

use crate::base::time::Instant;
use crate::process::clock;
use crate::wire::tape::BLOCK_BYTES_MAX;

const ALIGN: usize = 4_096;
/// What the second writer hands the kernel at once, and after how much it syncs: like a copy of a log.
const LOAD_BYTES: usize = 1 << 20;
const LOAD_SYNC_EVERY: u64 = 8;
/// Room that must stay beside what is written.
const SPARE_BYTES: u64 = 256 << 20;

#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of each of the two runs.
    pub time: Duration,
    /// Of the file, which is written over and over; the second writer has one as large.
    pub file_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// O_DIRECT was taken.
    pub direct: bool,
    pub alone: Run,
    pub beside_load: Run,
}

#[derive(Clone, Debug, Serialize)]
pub struct Run {
    pub blocks: usize,
    pub mib_per_second: f64,
    /// Of a block: written and synced.
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// What the tape asks of a disk.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Need {
    pub mib_per_second: f64,
    /// A disk that stalls longer costs media.
    pub stall_ms: f64,
}

impl Trial {
    /// What of it is not enough, beside load.
    pub fn lacks(&self, need: Need) -> Vec<String> {
        let run = &self.beside_load;
        let mut lacks = Vec::new();
        if run.mib_per_second < need.mib_per_second {
            lacks.push(format!(
                "{:.1} MiB/s beside load, every RTP port recorded needs {:.1}",
                run.mib_per_second, need.mib_per_second
            ));
        }
        if run.max_ms > need.stall_ms {
            lacks.push(format!(
                "a block took {:.0} ms beside load, the tape's memory bridges {:.0}",
                run.max_ms, need.stall_ms
            ));
        }
        lacks
    }
}

pub fn run(folder: &Path, bounds: Bounds) -> io::Result<Trial> {
    let room = rustix::fs::statvfs(folder)?;
    let needed = bounds.file_bytes * 2 + SPARE_BYTES;
    if room.f_bavail * room.f_frsize < needed {
        return Err(io::Error::other(format!("less than {} MiB are free", needed >> 20)));
    }
    // Gone with the process, whatever ends it: neither file has a name.
    let (file, direct) = match nameless(folder, libc::O_DIRECT) {
        Ok(file) => (file, true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (nameless(folder, 0)?, false),
        Err(error) => return Err(error),
    };
    fallocate(file.as_fd(), FallocateFlags::empty(), 0, bounds.file_bytes)?;
    let alone = write(&file, bounds)?;
    let load = nameless(folder, 0)?;
    let is_over = AtomicBool::new(false);
    let beside_load = std::thread::scope(|scope| {
        let other = scope.spawn(|| press(&load, bounds.file_bytes, &is_over));
        let written = write(&file, bounds);
        is_over.store(true, Ordering::Relaxed);
        match (written, other.join()) {
            (Ok(run), Ok(Ok(()))) => Ok(run),
            (Err(error), _) | (Ok(_), Ok(Err(error))) => Err(error),
            (Ok(_), Err(_)) => Err(io::Error::other("the second writer failed")),
        }
    })?;
    Ok(Trial { direct, alone, beside_load })
}

fn nameless(folder: &Path, flags: i32) -> io::Result<File> {
    std::fs::OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE | flags).mode(0o600).open(folder)
}

/// Blocks that no compression makes smaller.
fn noise(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for word in bytes.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let len = word.len();
        word.copy_from_slice(&state.to_ne_bytes()[..len]);
    }
}

fn since(start: Instant) -> Duration {
    clock::instant().since(start)
}

fn write(file: &File, bounds: Bounds) -> io::Result<Run> {
    let mut memory = vec![0; BLOCK_BYTES_MAX + ALIGN];
    let skip = memory.as_ptr().align_offset(ALIGN);
    let block = memory.get_mut(skip..skip + BLOCK_BYTES_MAX).unwrap_or_default();
    noise(block);
    let places = (bounds.file_bytes / BLOCK_BYTES_MAX as u64).max(1);
    let mut times = Vec::new();
    let began = clock::instant();
    while since(began) < bounds.time || times.is_empty() {
        let at = times.len() as u64 % places * BLOCK_BYTES_MAX as u64;
        let start = clock::instant();
        file.write_all_at(block, at)?;
        file.sync_data()?;
        times.push(since(start));
    }
    let seconds = since(began).as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        let index = ((times.len() - 1) as f64 * share).round() as usize;
        times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    Ok(Run {
        blocks: times.len(),
        mib_per_second: (times.len() * BLOCK_BYTES_MAX) as f64 / f64::from(1 << 20) / seconds,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
    })
}

fn press(file: &File, file_bytes: u64, is_over: &AtomicBool) -> io::Result<()> {
    use std::io::Seek;
    let mut file = file;
    let mut chunk = vec![0; LOAD_BYTES];
    noise(&mut chunk);
    let chunks = (file_bytes / LOAD_BYTES as u64).max(1);
    for number in 0u64.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        if number.is_multiple_of(chunks) {
            file.rewind()?;
        }
        file.write_all(&chunk)?;
        if number.is_multiple_of(LOAD_SYNC_EVERY) {
            file.sync_data()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let bounds = Bounds { time: Duration::from_millis(100), file_bytes: 4 << 20 };
        let trial = run(folder.path(), bounds).unwrap();
        for run in [&trial.alone, &trial.beside_load] {
            assert!(run.blocks > 0 && run.mib_per_second > 0.0, "{trial:?}");
            assert!(0.0 < run.p50_ms && run.p50_ms <= run.p99_ms && run.p99_ms <= run.max_ms, "{trial:?}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(trial.lacks(Need { mib_per_second: 0.0, stall_ms: 1e9 }).is_empty());
        assert_eq!(trial.lacks(Need { mib_per_second: 1e9, stall_ms: 0.0 }).len(), 2);
        assert!(run(&folder.path().join("nowhere"), bounds).is_err());
        assert!(run(folder.path(), Bounds { file_bytes: 1 << 50, ..bounds }).unwrap_err().to_string().contains("free"));
    }
}
