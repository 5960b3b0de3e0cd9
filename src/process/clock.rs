//! The clocks, read; everything below `process` and `shard` is told the time.

use std::time::Duration;

use rustix::time::ClockId;
use rustix::time::clock_gettime;

use crate::base::time::Instant;
use crate::base::time::UnixTime;

pub fn instant() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

/// What the calling thread has taken of its CPU.
pub fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

pub fn unix() -> UnixTime {
    let time = clock_gettime(ClockId::Realtime);
    UnixTime::from_micros(time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000)
}
