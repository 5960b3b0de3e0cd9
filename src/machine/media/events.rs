//! Key presses among a party's packets: RFC 4733 events, told once each.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::media::command::PayloadTypes;
use crate::wire::rtp::Header;

/// Nobody presses keys faster; what comes faster is not told.
const SPACING_MIN: Duration = Duration::from_millis(40);
/// RFC 3264 §8.3.2: how long the numbers of before a new description are still read.
const FORMER_TIME_MAX: Duration = Duration::from_millis(500);
/// How late a packet of an earlier press may come.
const LATE_MAX: Duration = Duration::from_millis(200);
/// RFC 4733 §2.3.2: the longest duration that a packet can say.
const DURATION_MAX: u16 = u16::MAX;
const KEYS: &[u8; 16] = b"0123456789*#ABCD";

// In the order of C: each packet is compared with the first field.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// Present and former ones.
    all: PayloadTypes,
    listens_for: PayloadTypes,
    /// Until when those of before count too.
    former: Option<(PayloadTypes, Instant)>,
    last: Option<Event>,
}

/// The last that was told. Its packets repeat its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Event {
    ssrc: u32,
    timestamp: u32,
    code: u8,
    duration: u16,
    at: Instant,
}

impl Events {
    pub fn listen(&mut self, payload_types: PayloadTypes, now: Instant) {
        if payload_types != self.listens_for {
            let is_on = !payload_types.is_empty() && !self.listens_for.is_empty();
            self.former = is_on.then_some((self.listens_for, now + FORMER_TIME_MAX));
            self.listens_for = payload_types;
            self.sum_up();
        }
    }

    fn sum_up(&mut self) {
        self.all = self.former.map_or(self.listens_for, |(former, _)| former.with(self.listens_for));
    }

    #[inline]
    pub fn may_be(&self, payload_type: u8) -> bool {
        self.all.has(payload_type)
    }

    /// The key, if this packet is the first of its press that came. `named` are the payload types of the description.
    #[cold]
    pub fn hear(&mut self, header: &Header, packet: &[u8], named: PayloadTypes, now: Instant) -> Option<char> {
        let payload_type = header.payload_type;
        if !self.listens_for.has(payload_type) {
            // What has a new meaning has it from the description on.
            let is_former = self.former.is_some_and(|(_, until)| now < until) && !named.has(payload_type);
            self.former = self.former.filter(|_| is_former);
            self.sum_up();
            self.former?;
        }
        // RFC 4733 §2.3: event, E, R, volume, duration.
        let [code, _, d0, d1] = *packet.get(header.header_len..)?.first_chunk()?;
        let digit = KEYS.get(usize::from(code))?;
        let (ssrc, timestamp, duration) = (header.ssrc, header.timestamp, u16::from_be_bytes([d0, d1]));
        let new = Event { ssrc, timestamp, code, duration, at: now };
        match &mut self.last {
            Some(last) if last.is_same(&new) => last.duration = last.duration.max(duration),
            Some(last) if last.goes_on(&new) => *last = Event { at: last.at, ..new },
            Some(last) if last.is_after(&new) || now.since(last.at) < SPACING_MIN => {}
            _ => {
                self.last = Some(new);
                return Some(char::from(*digit));
            }
        }
        None
    }
}

impl Event {
    fn is_same(&self, new: &Self) -> bool {
        (new.ssrc, new.timestamp) == (self.ssrc, self.timestamp)
    }

    /// RFC 4733 §2.5.1.3: a press of more than 65,535 units goes on in a segment that begins where the last one ended.
    fn goes_on(&self, new: &Self) -> bool {
        let ahead = new.timestamp.wrapping_sub(self.timestamp);
        new.ssrc == self.ssrc
            && new.code == self.code
            && self.duration == DURATION_MAX
            && ahead == u32::from(DURATION_MAX)
    }

    /// `new` is a packet of an earlier press that came late.
    fn is_after(&self, new: &Self) -> bool {
        let is_behind = (1..1 << 31).contains(&self.timestamp.wrapping_sub(new.timestamp));
        new.ssrc == self.ssrc && is_behind && new.at.since(self.at) < LATE_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Line {
        events: Events,
        named: PayloadTypes,
        ssrc: u32,
        now: Instant,
    }

    impl Line {
        fn new(payload_types: &[u8]) -> Self {
            let now = Instant::from_millis(10_000);
            let mut events = Events::default();
            let named: PayloadTypes = payload_types.iter().copied().collect();
            events.listen(named, now);
            Self { events, named, ssrc: 7, now }
        }

        fn packet(&mut self, payload_type: u8, timestamp: u32, code: u8, duration: u16) -> Option<char> {
            let mut packet = vec![0x80, payload_type, 0, 1];
            packet.extend_from_slice(&timestamp.to_be_bytes());
            packet.extend_from_slice(&self.ssrc.to_be_bytes());
            packet.extend_from_slice(&[code, 10]);
            packet.extend_from_slice(&duration.to_be_bytes());
            let header = Header::parse(&packet).unwrap();
            if !self.events.may_be(payload_type) {
                return None;
            }
            self.events.hear(&header, &packet, self.named, self.now)
        }

        fn pass(&mut self, millis: u64) {
            self.now = self.now + Duration::from_millis(millis);
        }
    }

    #[test]
    fn a_press_is_told_once_whatever_of_it_comes() {
        let mut line = Line::new(&[101]);
        assert_eq!(line.packet(101, 800, 10, 160), Some('*'));
        assert_eq!(line.packet(101, 800, 10, 320), None);
        line.pass(100);
        // Only its end packets came.
        assert_eq!(line.packet(101, 1_600, 2, 800), Some('2'));
        assert_eq!(line.packet(101, 1_600, 2, 800), None);
        line.pass(100);
        assert_eq!(line.packet(101, 800, 10, 640), None, "a late packet of the press before");
        assert_eq!(line.packet(101, 2_400, 2, 160), Some('2'));
        line.pass(200);
        assert_eq!(line.packet(101, 800, 6, 160), Some('6'), "some begin their timestamps anew");
        line.pass(100);
        line.ssrc = 8;
        assert_eq!(line.packet(101, 5, 3, 160), Some('3'), "another source begins elsewhere");
        line.pass(200);
        assert_eq!(line.packet(101, 3_000_000_000, 4, 160), Some('4'), "and may jump");
        assert_eq!(line.packet(100, 9_000, 4, 160), None);
    }

    #[test]
    fn a_long_press_is_one() {
        let mut line = Line::new(&[96]);
        assert_eq!(line.packet(96, 0, 5, 960), Some('5'));
        line.pass(1_365);
        assert_eq!(line.packet(96, 0, 5, u16::MAX), None);
        line.pass(20);
        assert_eq!(line.packet(96, 65_535, 5, 960), None);
        line.pass(1_365);
        assert_eq!(line.packet(96, 65_535, 5, u16::MAX), None);
        assert_eq!(line.packet(96, 131_070, 5, 960), None);
        line.pass(200);
        assert_eq!(line.packet(96, 196_605, 5, 960), Some('5'), "the segment before had ended");
    }

    #[test]
    fn the_numbers_of_before_count_for_a_brief_time() {
        let mut line = Line::new(&[101]);
        let renumber = |line: &mut Line, events: &[u8], named: &[u8]| {
            line.named = named.iter().copied().collect();
            line.events.listen(events.iter().copied().collect(), line.now);
        };
        renumber(&mut line, &[96], &[0, 96]);
        line.pass(499);
        assert_eq!(line.packet(101, 800, 1, 160), Some('1'));
        assert_eq!(line.packet(96, 1_600, 2, 160), None, "nobody presses so fast");
        line.pass(100);
        assert_eq!(line.packet(101, 2_400, 3, 160), None);
        assert_eq!(line.packet(96, 3_200, 4, 160), Some('4'));
        // Its old number is audio now.
        renumber(&mut line, &[101], &[96, 101]);
        line.pass(50);
        assert_eq!(line.packet(96, 4_000, 5, 160), None);
        // Nobody listens any more.
        renumber(&mut line, &[], &[0, 101]);
        line.pass(50);
        assert_eq!(line.packet(101, 4_800, 6, 160), None);
    }
}
