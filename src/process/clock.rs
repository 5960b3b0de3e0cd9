//! The clocks, read; everything below `process` and `shard` is told the time.

use rustix::time::ClockId;
use rustix::time::clock_gettime;

use crate::base::time::Instant;
use crate::base::time::UnixTime;

pub fn instant() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

pub fn unix() -> UnixTime {
    let time = clock_gettime(ClockId::Realtime);
    UnixTime::from_micros(time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000)
}
