//! Digits as events in the audio's stream (RFC 4733): those that are pressed, and those that are heard.

use std::collections::VecDeque;

const PRESSED_MAX: usize = 64;
const HEARD_MAX: usize = 64;
const DIGITS: &[u8; 16] = b"0123456789*#ABCD";
/// Samples of a frame, of a digit, and frames of silence between two.
const STEP: u16 = 160;
const DIGIT_STEPS: u16 = 5;
/// RFC 4733 §2.5.1.4: "the final packet … SHOULD be retransmitted … a total of three times".
const ENDS: u16 = 3;
const PAUSE_STEPS: u16 = 3;
const VOLUME: u8 = 10;
const END: u8 = 0x80;

pub(super) const EVENT_BYTES: usize = 4;

/// Digits that wait to be sent, the first of them under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys {
    pressed: VecDeque<u8>,
    /// Frames since the first of them began.
    step: u16,
}

/// What is sent of a digit in this frame's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Packet { payload: [u8; EVENT_BYTES], is_first: bool },
    Pause,
}

impl Keys {
    /// Presses what is a digit of it. How many were taken.
    pub(super) fn press(&mut self, digits: &str) -> usize {
        let known =
            digits.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte.to_ascii_uppercase()));
        let before = self.pressed.len();
        self.pressed.extend(known.take(PRESSED_MAX - before).map(|event| event as u8));
        self.pressed.len() - before
    }

    /// How many frames ago the digit began whose packet is next.
    pub(super) const fn age(&self) -> u16 {
        self.step
    }

    pub(super) fn next(&mut self) -> Option<Event> {
        let event = *self.pressed.front()?;
        let step = self.step;
        self.step += 1;
        if step >= DIGIT_STEPS + ENDS - 1 {
            if step + 1 >= DIGIT_STEPS + ENDS - 1 + PAUSE_STEPS {
                self.pressed.pop_front();
                self.step = 0;
            }
            return Some(Event::Pause);
        }
        let is_end = step + 1 >= DIGIT_STEPS;
        let [high, low] = ((step + 1).min(DIGIT_STEPS) * STEP).to_be_bytes();
        let payload = [event, VOLUME | if is_end { END } else { 0 }, high, low];
        Some(Event::Packet { payload, is_first: step == 0 })
    }
}

/// Digits that were heard, each once.
#[derive(Clone, Debug, Default)]
pub(super) struct Dialled {
    /// The RTP timestamp of the last: that of its beginning in each of its packets.
    last: Option<u32>,
    pub(super) digits: String,
}

impl Dialled {
    /// Whether it was a new digit.
    pub(super) fn handle(&mut self, timestamp: u32, payload: &[u8]) -> bool {
        let Some(&[event, _, _, _]) = payload.first_chunk::<EVENT_BYTES>() else { return false };
        let Some(digit) = DIGITS.get(usize::from(event)) else { return false };
        if self.last.is_some_and(|last| timestamp.wrapping_sub(last).cast_signed() <= 0) {
            return false;
        }
        self.last = Some(timestamp);
        if self.digits.len() < HEARD_MAX {
            self.digits.push(char::from(*digit));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_heard_as_they_were_pressed() {
        let mut keys = Keys::default();
        assert_eq!(keys.press("1#x*9d"), 5);
        let mut dialled = Dialled::default();
        let (mut packets, mut steps) = (0, 0);
        for step in 0..1_000u32 {
            let timestamp = (u32::MAX - 2_000).wrapping_add(step * 160);
            let began = timestamp.wrapping_sub(u32::from(keys.age()) * 160);
            match keys.next() {
                Some(Event::Packet { payload, is_first }) => {
                    assert_eq!(dialled.handle(began, &payload), is_first);
                    packets += 1;
                }
                Some(Event::Pause) => {}
                None => break,
            }
            steps += 1;
        }
        assert_eq!((dialled.digits.as_str(), packets, steps), ("1#*9D", 5 * 7, 5 * 10));
    }

    #[test]
    fn what_is_no_digit_is_passed_over() {
        let mut dialled = Dialled::default();
        assert!(!dialled.handle(1, &[16, 0, 0, 0]));
        assert!(!dialled.handle(1, &[1, 0, 0]));
        assert!(dialled.handle(1, &[1, 0, 0, 0, 9]));
        assert!(!dialled.handle(1, &[1, 0x80, 0, 0]));
        let mut keys = Keys::default();
        assert_eq!(keys.press(&"7".repeat(1_000)), PRESSED_MAX);
    }
}
