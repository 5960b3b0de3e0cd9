//! What the kernel lost at the sockets of recorded streams: the machines cannot know it, and the recording's ledger must.
//!
//! Read when a recording begins, pauses and ends; kept until its mark passes to the tape.

use std::collections::BTreeMap;

use crate::base::id::CallId;
use crate::machine::media::command::Fork;
use crate::shard::udp::Losses;
use crate::shard::udp::Slot;
use crate::wire::tape::record::Untaped;

/// As long as there are sockets: one entry each, and one for each stream of a recording that lost something.
#[derive(Debug, Default)]
pub(super) struct Lost {
    since: BTreeMap<Slot, Losses>,
    told: Vec<(Fork, Losses)>,
}

impl Lost {
    pub(super) fn count(&mut self, slot: Slot, now: Losses) {
        self.since.insert(slot, now);
    }

    pub(super) fn tell(&mut self, slot: Slot, recording: Fork, now: Losses) {
        let Some(before) = self.since.remove(&slot) else { return };
        let overrun = now.overrun.wrapping_sub(before.overrun);
        let lost = Losses { overrun, too_long: now.too_long.wrapping_sub(before.too_long) };
        if lost != Losses::default() {
            self.told.push((recording, lost));
        }
    }

    /// Adds what was lost to what a call says of its recording.
    pub(super) fn complete(&mut self, call: CallId, untaped: &mut Vec<Untaped>) {
        self.told.retain(|(recording, lost)| {
            if recording.call != call {
                return true;
            }
            let (leg, stream) = (recording.leg, recording.media);
            let index = untaped.iter().position(|known| (known.leg, known.stream) == (leg, stream));
            let index = index.unwrap_or_else(|| {
                untaped.push(Untaped { leg, stream, ..Untaped::default() });
                untaped.len() - 1
            });
            if let Some(known) = untaped.get_mut(index) {
                known.overrun += u64::from(lost.overrun);
                known.malformed += u64::from(lost.too_long);
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sockets_lose_belongs_to_the_recording_that_was_on() {
        let losses = |overrun, too_long| Losses { overrun, too_long };
        let fork = |call, leg| Fork { call: CallId::from_bits(call), leg, media: 0 };
        let mut lost = Lost::default();
        lost.count(2, losses(u32::MAX, 1));
        lost.count(4, losses(7, 0));
        lost.count(6, losses(0, 0));
        lost.tell(2, fork(1, 0), losses(4, 3));
        lost.tell(4, fork(1, 1), losses(7, 0));
        lost.tell(6, fork(9, 0), losses(1, 0));
        // A pause: what is lost meanwhile is not counted.
        lost.count(2, losses(50, 3));
        lost.tell(2, fork(1, 0), losses(51, 3));
        lost.tell(2, fork(1, 0), losses(99, 3));
        let mut untaped = vec![Untaped { leg: 0, direction: 3, ..Untaped::default() }];
        lost.complete(CallId::from_bits(1), &mut untaped);
        assert_eq!(untaped, [Untaped { leg: 0, direction: 3, malformed: 2, overrun: 6, ..Untaped::default() }]);
        let mut untaped = Vec::new();
        lost.complete(CallId::from_bits(9), &mut untaped);
        assert_eq!(untaped, [Untaped { overrun: 1, ..Untaped::default() }]);
        assert!(lost.told.is_empty() && lost.since.is_empty());
    }
}
