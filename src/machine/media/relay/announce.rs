//! Announcements over the relay: they begin when their party can hear, and take the place of the other party's packets.

use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::media::announcement::FRAME;
use crate::machine::media::announcement::Player;
use crate::machine::media::announcement::Voice;
use crate::machine::media::command::MediaOutput;
use crate::machine::media::command::Notice;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::machine::media::relay::Relay;

/// Packets in one step; the others are due in the next.
const PACKETS_MAX: usize = 128;
/// How far a stream runs after the time that it missed: more would only fill the phone's buffer.
const BEHIND_MAX: u32 = 3;

impl Relay {
    pub(super) fn announce(&mut self, id: PairId, voice: Option<Voice>, now: Instant) {
        let pair = &mut self.pairs[id.0 as usize];
        match (voice, &mut pair.player) {
            (Some(voice), Some(player)) => player.renegotiate(voice),
            (Some(voice), None) => {
                pair.player = Some(Player::new(voice, now));
                self.start_player(id, now);
            }
            (None, _) => self.end_player(id, false),
        }
    }

    /// Begins if the party can hear: it was heard, so that its place is known, or keeps silent.
    pub(super) fn start_player(&mut self, id: PairId, now: Instant) {
        let pair = &mut self.pairs[id.0 as usize];
        let can_hear = pair.receives && pair.to.is_some() && pair.bridged_to.is_some();
        let is_heard = pair.latch.source().is_some();
        let Some(player) = pair.player.as_mut().filter(|player| can_hear && !player.is_playing()) else { return };
        if is_heard || !player.is_patient(now) {
            player.next_at = Some(now);
            pair.note_player();
            self.players.insert((now, id));
        }
    }

    pub(super) fn end_player(&mut self, id: PairId, played: bool) {
        let pair = &mut self.pairs[id.0 as usize];
        let Some(player) = pair.player.take() else { return };
        pair.note_player();
        if let Some(at) = player.next_at {
            self.players.remove(&(at, id));
        }
        self.notify(id, Notice::Announced { played });
    }

    /// Sends what is due. `file` has a call's own announcement, in µ-law.
    pub fn play<'a>(&mut self, now: Now, file: impl Fn(Owner) -> &'a [u8]) {
        for _ in 0..PACKETS_MAX {
            let Some((at, id)) = self.players.first().copied().filter(|(at, _)| *at <= now.instant) else { return };
            self.players.remove(&(at, id));
            self.play_next(id, now.instant, &file);
        }
    }

    fn play_next<'a>(&mut self, id: PairId, now: Instant, file: &impl Fn(Owner) -> &'a [u8]) {
        let pair = &mut self.pairs[id.0 as usize];
        let to = pair.to.filter(|_| pair.receives && pair.bridged_to.is_some());
        let (Some(owner), Some(player)) = (pair.owner, &mut pair.player) else { return };
        let Some(to) = to else {
            // It holds: the rest comes when it hears again.
            player.pause();
            pair.note_player();
            return;
        };
        let due = player.next_at.unwrap_or(now);
        let Some(packet) = player.next(file(owner)) else {
            player.next_at = None;
            let was_heard = player.was_heard(file(owner));
            return self.end_player(id, was_heard);
        };
        let next = (due + FRAME).max(now - FRAME * BEHIND_MAX);
        player.next_at = Some(next);
        self.players.insert((next, id));
        let also = pair.also;
        pair.packets_sent += 1;
        pair.bytes_sent += packet.len() as u64;
        let is_let = !pair.is_unheard || pair.unheard.lets(self.settings.bounds.unheard, now);
        self.counts.announced += 1;
        for to in Some(to).filter(|_| is_let).into_iter().chain(also) {
            self.push(MediaOutput::Packet { slot: id.rtp_slot(), to, bytes: packet.to_vec() });
        }
    }
}
