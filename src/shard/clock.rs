//! The clock: read once a turn. Nothing below this layer reads one.

use rustix::time::ClockId;
use rustix::time::clock_gettime;

use crate::base::time::Instant;
use crate::base::time::Now;
use crate::base::time::UnixTime;

/// Readings that took longer were interrupted.
const INTERRUPTED_NANOS: u64 = 20_000;
const READINGS_MAX: u32 = 8;

/// Both clocks, read one after the other.
pub fn now() -> Now {
    Now { instant: boottime(), unix: realtime() }
}

pub fn boottime() -> Instant {
    Instant::from_nanos(nanos(ClockId::Boottime))
}

fn realtime() -> UnixTime {
    UnixTime::from_micros(nanos(ClockId::Realtime) / 1_000)
}

/// What CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, the clock of io_uring's timeouts: the time spent in suspend. None if
/// the readings were interrupted each time: a wrong answer would make every wait end at once, or late.
pub(super) fn suspended_nanos() -> Option<u64> {
    (0..READINGS_MAX).find_map(|_| {
        let before = nanos(ClockId::Monotonic);
        let boottime = nanos(ClockId::Boottime);
        let after = nanos(ClockId::Monotonic);
        if after - before > INTERRUPTED_NANOS {
            return None;
        }
        // Without a suspend the difference is only the time between the two readings.
        let ahead = boottime.saturating_sub(before);
        Some(if ahead <= INTERRUPTED_NANOS { 0 } else { ahead })
    })
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let first = now();
        let second = now();
        assert!(second.instant >= first.instant);
        assert!(first.unix > UnixTime::from_secs(1_600_000_000));
    }
}
