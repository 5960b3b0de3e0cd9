//! Whose packets a pair takes: all that a packet can be but one more of a latched and connected source.

use std::net::SocketAddr;

use crate::base::time::Instant;
use crate::machine::media::command::MediaOutput;
use crate::machine::media::command::Notice;
use crate::machine::media::command::PairId;
use crate::machine::media::command::SocketCommand;
use crate::machine::media::latch::FOLLOW_SILENCE_MIN;
use crate::machine::media::latch::Latch;
use crate::machine::media::latch::Rank;
use crate::machine::media::latch::Step;
use crate::machine::media::pair::Past;
use crate::machine::media::relay::DropReason;
use crate::machine::media::relay::Relay;
use crate::wire::link::Symmetric;
use crate::wire::rtp::Header;

impl Relay {
    /// RTCP on a shared port has no RTP header.
    #[cold]
    pub(super) fn learn(
        &mut self,
        id: PairId,
        source: SocketAddr,
        header: Option<&Header>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let pair = &self.pairs[id.0 as usize];
        match pair.is_from_the_past(source, header.map(|header| header.ssrc), now) {
            Past::No => {}
            Past::Heard => return Ok(()),
            Past::Over => return self.refuse(id, header),
        }
        if header.is_some_and(|header| pair.is_haunted_by(source, header, now)) || self.is_spray(id, source, now) {
            return self.refuse(id, header);
        }
        let forbidden = self.settings.forbids(source);
        let pair = &mut self.pairs[id.0 as usize];
        let place = pair.place;
        let rank = || place.rank(source).filter(|_| !forbidden);
        match pair.latch.step(source, rank, now) {
            Step::Known => self.hear(id, source, header, now),
            Step::Took { before, .. } => {
                self.hear(id, source, header, now);
                self.on_latched(id, before, source, now);
            }
            Step::Rival { rank } => self.weigh(id, source, rank, header, now)?,
            Step::Stranger => {
                let follows = !forbidden && header.is_some_and(|header| pair.follows(source, header, now));
                let Some(before) = pair.latch.source().filter(|_| follows) else { return self.refuse(id, header) };
                self.on_latched(id, Some(before), source, now);
            }
        }
        self.connect(id, source, now);
        Ok(())
    }

    fn refuse(&mut self, id: PairId, header: Option<&Header>) -> Result<(), DropReason> {
        let pair = &mut self.pairs[id.0 as usize];
        pair.strangers += 1;
        pair.untaped.strangers += u64::from(pair.recording.is_some() && header.is_some());
        Err(DropReason::Stranger)
    }

    /// Sockets for RTP are deaf to others once they have latched. Who tries all ports shows at those for RTCP, too.
    #[cold]
    pub(super) fn sight_at_rtcp(&mut self, id: PairId, own_port: bool, source: SocketAddr, now: Instant) {
        if own_port {
            self.is_spray(id, source, now);
        }
    }

    /// A source that nobody named and that comes to the pairs of several parties is none of them. One that has settled stays:
    /// anybody can forge a packet that seems to be of it.
    fn is_spray(&mut self, id: PairId, source: SocketAddr, now: Instant) -> bool {
        let pair = &self.pairs[id.0 as usize];
        let is_settled = pair.latch.is_settled() && pair.latch.source() == Some(source);
        let is_named = pair.place.described == Some(source);
        // Its port is not where it said, and that is how it is set.
        let is_asymmetric = pair.symmetric == Symmetric::Never && pair.place.rank(source) == Some(Rank::SameAddress);
        if is_settled || is_named || is_asymmetric {
            return false;
        }
        let described = pair.place.described;
        let seen = self.sightings.see(source, id, described, now);
        if seen.sprays {
            self.revoke(id, source);
        }
        if let Some(before) = seen.before {
            self.revoke(before, source);
        }
        seen.sprays
    }

    fn revoke(&mut self, id: PairId, source: SocketAddr) {
        let Some(pair) = self.pairs.get_mut(id.0 as usize) else { return };
        if pair.place.described != Some(source) && pair.latch.revoke(source) {
            pair.rtcp_source = pair.rtcp_source.filter(|rtcp| pair.rtcp_place.described == Some(*rtcp));
            pair.aim();
        }
    }

    /// Notes what the source on trial sends.
    fn hear(&mut self, id: PairId, source: SocketAddr, header: Option<&Header>, now: Instant) {
        let pair = &self.pairs[id.0 as usize];
        match (pair.latch, header) {
            (Latch::Tentative { rank, .. }, Some(header)) => {
                let terms = pair.terms(source, header);
                self.trials.entry(id).or_default().hear(source, rank, header, terms, now);
            }
            (Latch::Tentative { .. }, None) => {}
            _ => {
                self.trials.remove(&id);
            }
        }
    }

    /// Takes the other source if it speaks better for itself than the one on trial, or goes on where that one fell silent.
    fn weigh(
        &mut self,
        id: PairId,
        source: SocketAddr,
        rank: Rank,
        header: Option<&Header>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let pair = &mut self.pairs[id.0 as usize];
        let (Some(header), Some(before)) = (header, pair.latch.source()) else { return self.refuse(id, header) };
        let terms = pair.terms(source, header);
        let trial = self.trials.entry(id).or_default();
        trial.hear(source, rank, header, terms, now);
        if !trial.is_better(source, before) && !pair.has_moved(header, now) {
            return self.refuse(id, Some(header));
        }
        pair.latch.take(source, rank, now);
        self.on_latched(id, Some(before), source, now);
        Ok(())
    }

    fn on_latched(&mut self, id: PairId, before: Option<SocketAddr>, source: SocketAddr, now: Instant) {
        self.disconnect(id);
        let pair = &mut self.pairs[id.0 as usize];
        let notice = match (before, pair.latch.rank()) {
            (None, rank) => {
                self.counts.latched += 1;
                Notice::Latched { source, rank: rank.unwrap_or(Rank::Exact) }
            }
            (Some(from), _) => {
                self.counts.relatched += 1;
                pair.relatches += 1;
                Notice::Relatched { from, to: source }
            }
        };
        // Reports of the one before are not this one's.
        pair.rtcp_source = pair.rtcp_source.filter(|rtcp| before.is_none() && rtcp.ip() == source.ip());
        pair.aim();
        self.notify(id, notice);
        self.start_player(id, now);
    }

    /// RFC 4733 §2.3: the payload begins with the event; all packets of one event have its timestamp.
    #[cold]
    pub(super) fn listen(&mut self, id: PairId, header: &Header, packet: &[u8], now: Instant) {
        let pair = &mut self.pairs[id.0 as usize];
        if pair.secure {
            return;
        }
        if let Some(digit) = pair.events.hear(header, packet, pair.payload_types, now) {
            self.notify(id, Notice::Digit { digit });
        }
    }

    /// Asks for the kernel's filter once learning has ended.
    fn connect(&mut self, id: PairId, source: SocketAddr, now: Instant) {
        let pair = &self.pairs[id.0 as usize];
        if pair.connected || !pair.may_connect(now) {
            return;
        }
        let connected = self.push(MediaOutput::Socket(SocketCommand::Connect { slot: id.rtp_slot(), peer: source }));
        self.note_connected(id, connected);
    }

    pub(super) fn disconnect(&mut self, id: PairId) {
        if self.pairs[id.0 as usize].connected {
            let gone = self.push(MediaOutput::Socket(SocketCommand::Disconnect { slot: id.rtp_slot() }));
            self.note_connected(id, !gone);
        }
    }

    pub(super) fn note_connected(&mut self, id: PairId, connected: bool) {
        self.pairs[id.0 as usize].connected = connected;
        let (word, bit) = (id.0 as usize / 64, 1 << (id.0 % 64));
        if connected {
            self.connected[word] |= bit;
        } else {
            self.connected[word] &= !bit;
        }
    }

    /// A party that fell silent may have moved: its stream must be seen wherever it goes on.
    pub(super) fn look_for_silent(&mut self, now: Instant) {
        for word in 0..self.connected.len() {
            let mut bits = self.connected[word] & !std::mem::take(&mut self.heard[word]);
            while bits != 0 {
                let id = PairId(word as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
                if now.since(self.pairs[id.0 as usize].stream.last_at) >= FOLLOW_SILENCE_MIN {
                    self.disconnect(id);
                }
            }
        }
    }
}
