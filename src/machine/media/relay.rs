//! The relay of one shard: from socket and source of a packet to socket and destination, in place, without allocating.
//!
//! [`Relay::packet`] is the hot path. [`Relay::handle`] takes the calls' commands; notices and socket commands wait in one
//! bounded queue for [`Relay::next_output`]. A sweep over the open pairs, an eighth of them every eighth of a second, finds
//! silence. State is an array of plain records; a closed pair's record is blank.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::MEDIA_QUEUE_MAX;
use crate::base::time::Instant;
use crate::base::time::Now;
use crate::machine::media::bounds::MediaBounds;
use crate::machine::media::bounds::reached;
use crate::machine::media::command::Expectation;
use crate::machine::media::command::Fork;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::command::MediaOutput;
use crate::machine::media::command::Notice;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::machine::media::command::SocketCommand;
use crate::machine::media::command::TapeSwitch;
use crate::machine::media::pair::Pair;
use crate::machine::media::quality::Report;
use crate::machine::media::sightings::Sightings;
use crate::machine::media::trial::Trial;
use crate::wire::rtcp;
use crate::wire::rtp::HEADER_BYTES_MIN;
use crate::wire::rtp::Header;

/// One party heard and the other not, for so long, is one-way.
pub const ONE_WAY_SILENCE: Duration = Duration::from_secs(5);
/// RFC 8489 §5.
const STUN_COOKIE: [u8; 4] = 0x2112_A442u32.to_be_bytes();
const SWEEP_SLICES: usize = 8;
const SWEEP_PERIOD: Duration = Duration::from_millis(1_000 / SWEEP_SLICES as u64);
/// How often connected sockets are looked at.
const LOOK_PERIOD: Duration = Duration::from_millis(60);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelaySettings {
    /// Our media addresses and the whole port range of the node: media is never sent to ourselves.
    pub own: Vec<IpAddr>,
    pub own_ports: (u16, u16),
    /// Where else it goes or does not.
    pub bounds: MediaBounds,
    /// Silence where packets were promised, before the call is told.
    pub media_timeout: Duration,
}

impl RelaySettings {
    /// A destination that no party can mean.
    fn forbids(&self, address: SocketAddr) -> bool {
        self.bounds.forbids(address) || self.is_own(address)
    }

    /// A description that says so does not speak of a party which signals from there.
    fn refuses(&self, address: SocketAddr, signalling: IpAddr) -> bool {
        self.bounds.refuses(address, signalling) || self.is_own(address)
    }

    fn is_own(&self, address: SocketAddr) -> bool {
        let (low, high) = self.own_ports;
        (low..=high).contains(&address.port()) && self.own.contains(&reached(address.ip()))
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same bytes leave from this slot to this address.
    Forward {
        slot: u32,
        peer: SocketAddr,
    },
    Drop(DropReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DropReason {
    /// No call has the pair.
    Closed,
    /// No RTP or RTCP by its header.
    Malformed,
    /// From an address that nobody vouches for, or that is not the latched one.
    Stranger,
    /// The pair has no other side at present: a branch that was not chosen.
    Unbridged,
    /// The negotiated direction does not allow it.
    Direction,
    /// The other party's address is not known, or may not be sent to.
    NoDestination,
    /// The other party hears that it is recorded.
    Announcement,
    /// Nothing has come from where the other party is said to be, and that address has had its share.
    Unheard,
}

impl DropReason {
    pub const COUNT: usize = 8;
    pub const NAMES: [&'static str; Self::COUNT] =
        ["closed", "malformed", "stranger", "unbridged", "direction", "no_destination", "announcement", "unheard"];
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCounts {
    /// Whatever became of it.
    pub rtcp_received: u64,
    pub rtp_forwarded: u64,
    pub rtcp_forwarded: u64,
    pub bytes_forwarded: u64,
    /// By [`DropReason`].
    pub dropped: [u64; DropReason::COUNT],
    pub latched: u64,
    pub relatched: u64,
    pub silent: u64,
    pub one_way: u64,
    /// Notices or socket commands that found the queue full.
    pub overflows: u64,
    /// Commands for a pair that is not open, or already open.
    pub misdirected: u64,
    /// Packets of announcements sent.
    pub announced: u64,
}

impl RelayCounts {
    /// Whatever became of it: all that was forwarded or dropped, but the RTCP.
    pub fn rtp_received(&self) -> u64 {
        let all = self.rtp_forwarded + self.rtcp_forwarded + self.dropped.iter().sum::<u64>();
        all - self.rtcp_received
    }
}

/// Streams that two parties have with each other, by what is done with them beside relaying.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sessions {
    pub relayed: u32,
    pub recorded: u32,
    /// A party is told something, or will be when it can hear.
    pub announced: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Relay {
    settings: RelaySettings,
    pairs: Vec<Pair>,
    /// One bit a pair.
    open: Vec<u64>,
    open_count: u32,
    outputs: VecDeque<MediaOutput>,
    next_sweep: Instant,
    sweep_slice: usize,
    /// As each slice was seen last.
    sessions: [Sessions; SWEEP_SLICES],
    counts: RelayCounts,
    fork: Option<Fork>,
    copy_to: Option<SocketAddr>,
    /// Pairs whose latch compares sources.
    trials: BTreeMap<PairId, Trial>,
    sightings: Sightings,
    /// When sockets of silent parties are looked for.
    next_look: Instant,
    /// One bit a pair: its socket is connected, and its party was heard since the last look.
    connected: Vec<u64>,
    heard: Vec<u64>,
    /// Pairs that play, by when their next packet is due.
    players: BTreeSet<(Instant, PairId)>,
}

impl Relay {
    /// `pairs`: how many the keeper dealt to this shard.
    pub fn new(settings: RelaySettings, pairs: usize) -> Self {
        Self {
            settings,
            pairs: vec![Pair::default(); pairs],
            open: vec![0; pairs.div_ceil(64)],
            open_count: 0,
            outputs: VecDeque::with_capacity(MEDIA_QUEUE_MAX),
            next_sweep: Instant::ZERO,
            sweep_slice: 0,
            sessions: [Sessions::default(); SWEEP_SLICES],
            counts: RelayCounts::default(),
            fork: None,
            copy_to: None,
            trials: BTreeMap::new(),
            sightings: Sightings::default(),
            next_look: Instant::ZERO,
            connected: vec![0; pairs.div_ceil(64)],
            heard: vec![0; pairs.div_ceil(64)],
            players: BTreeSet::new(),
        }
    }

    /// Where on the tape the last packet given to [`Relay::packet`] belongs, if it does.
    #[inline]
    pub fn fork(&self) -> Option<Fork> {
        self.fork
    }

    /// Where a copy of the last packet given to [`Relay::packet`] goes, from the same slot.
    #[inline]
    pub fn copy_to(&self) -> Option<SocketAddr> {
        self.copy_to
    }

    pub fn counts(&self) -> &RelayCounts {
        &self.counts
    }

    pub fn open_count(&self) -> u32 {
        self.open_count
    }

    /// As they were within the last second.
    pub fn sessions(&self) -> Sessions {
        let seen = if self.open_count == 0 { &[] } else { self.sessions.as_slice() };
        seen.iter().fold(Sessions::default(), |sum, slice| Sessions {
            relayed: sum.relayed + slice.relayed,
            recorded: sum.recorded + slice.recorded,
            announced: sum.announced + slice.announced,
        })
    }

    pub fn has_outputs(&self) -> bool {
        !self.outputs.is_empty()
    }

    pub fn next_output(&mut self) -> Option<MediaOutput> {
        self.outputs.pop_front()
    }

    /// Slots whose sockets should be connected, for an engine that takes over.
    pub fn connections(&self) -> impl Iterator<Item = (u32, SocketAddr)> + '_ {
        self.open_pairs()
            .filter_map(|(id, pair)| pair.latch.source().filter(|_| pair.connected).map(|peer| (id.rtp_slot(), peer)))
    }

    pub fn open_pairs(&self) -> impl Iterator<Item = (PairId, &Pair)> + '_ {
        (0..).zip(&self.pairs).filter(|(_, pair)| pair.owner.is_some()).map(|(index, pair)| (PairId(index), pair))
    }

    /// The record of a pair, to be kept by the engine and given back by [`Relay::restore`].
    pub fn record(&self, pair: PairId) -> Option<&Pair> {
        self.pairs.get(pair.0 as usize).filter(|pair| pair.owner.is_some())
    }

    /// Takes a kept record over into a relay where the pair is not open.
    pub fn restore(&mut self, id: PairId, record: Pair, now: Now) {
        let free = self.pairs.get(id.0 as usize).is_some_and(|pair| pair.owner.is_none());
        if !free || record.owner.is_none() {
            self.counts.misdirected += 1;
            return;
        }
        self.enter(id, record, now.instant);
    }

    /// How the party's stream on this pair is so far.
    pub fn report(&self, pair: PairId) -> Option<Report> {
        self.pairs.get(pair.0 as usize).filter(|pair| pair.owner.is_some()).map(Pair::report)
    }

    /// Decides about one packet that arrived at `slot`; the caller sends the same buffer on.
    #[inline]
    pub fn packet(&mut self, slot: u32, source: SocketAddr, packet: &[u8], now: Now) -> Verdict {
        let id = PairId::of_slot(slot);
        let own_port = slot & 1 == 1;
        self.fork = None;
        self.copy_to = None;
        let verdict = match self.pairs.get(id.0 as usize) {
            Some(pair) if pair.connected || pair.owner.is_some() => {
                if own_port || pair.takes_for_rtcp(packet) {
                    self.on_rtcp(id, own_port, source, packet, now.instant)
                } else {
                    self.on_rtp(id, source, packet, now.instant)
                }
            }
            _ => {
                self.counts.rtcp_received += u64::from(own_port);
                Err(DropReason::Closed)
            }
        };
        match verdict {
            Ok((slot, peer)) => Verdict::Forward { slot, peer },
            Err(reason) => {
                self.counts.dropped[reason as usize] += 1;
                Verdict::Drop(reason)
            }
        }
    }

    #[inline]
    fn on_rtp(
        &mut self,
        id: PairId,
        source: SocketAddr,
        packet: &[u8],
        now: Instant,
    ) -> Result<(u32, SocketAddr), DropReason> {
        let Ok(header) = Header::parse(packet) else { return Err(self.on_malformed(id, source, packet)) };
        let pair = &mut self.pairs[id.0 as usize];
        if !(pair.connected && pair.latch.source() == Some(source)) {
            self.learn(id, source, Some(&header), now)?;
        }
        self.heard[id.0 as usize / 64] |= 1 << (id.0 % 64);
        let pair = &mut self.pairs[id.0 as usize];
        let clocks = &pair.clocks;
        pair.stream.on_packet(&header, packet.len(), |payload_type| clocks.rate(payload_type), now);
        let (sends, permitted) = (pair.sends, pair.permitted);
        let Some(to) = pair.bridged_to else { return Err(self.on_held_back(id, DropReason::Unbridged)) };
        let receives = self.pairs[to.0 as usize].receives;
        if !(sends && receives || permitted) {
            return Err(self.on_held_back(id, DropReason::Direction));
        }
        let pair = &mut self.pairs[id.0 as usize];
        if pair.is_recorded {
            if let (Some(call), Some(owner)) = (pair.tape, pair.owner) {
                pair.taped += 1;
                self.fork = Some(Fork { call, leg: owner.leg, media: owner.media });
            } else {
                pair.untaped.encrypted += 1;
            }
        }
        if pair.events.may_be(header.payload_type) {
            self.listen(id, &header, packet, now);
        }
        let peer = &mut self.pairs[to.0 as usize];
        let mut destination = peer.to.ok_or(DropReason::NoDestination)?;
        if peer.is_told {
            return Err(DropReason::Announcement);
        }
        if peer.has_copy {
            self.copy_to = peer.also;
        }
        if peer.is_unheard && !peer.unheard.lets(self.settings.bounds.unheard, now) {
            destination = self.copy_to.take().ok_or(DropReason::Unheard)?;
        }
        peer.packets_sent += 1;
        peer.bytes_sent += packet.len() as u64;
        self.counts.rtp_forwarded += 1;
        self.counts.bytes_forwarded += packet.len() as u64;
        Ok((to.rtp_slot(), destination))
    }

    /// The party speaks, and nobody is to hear it.
    #[cold]
    fn on_held_back(&mut self, id: PairId, reason: DropReason) -> DropReason {
        let pair = &mut self.pairs[id.0 as usize];
        pair.untaped.direction += u64::from(pair.recording.is_some());
        reason
    }

    /// What should have been media of the party. STUN, keep-alives and what others send is nobody's speech.
    #[cold]
    fn on_malformed(&mut self, id: PairId, source: SocketAddr, packet: &[u8]) -> DropReason {
        let pair = &mut self.pairs[id.0 as usize];
        let is_party = pair.latch.source().map_or_else(|| pair.place.rank(source).is_some(), |party| party == source);
        let is_media = packet.len() >= HEADER_BYTES_MIN && packet.get(4..8) != Some(&STUN_COOKIE);
        pair.untaped.malformed += u64::from(pair.recording.is_some() && is_party && is_media);
        self.on_sign(id, source, packet);
        DropReason::Malformed
    }

    /// STUN (RFC 8489) shows that somebody is there who wants media.
    fn on_sign(&mut self, id: PairId, source: SocketAddr, packet: &[u8]) {
        if packet.get(4..8) == Some(&STUN_COOKIE) {
            self.pairs[id.0 as usize].sign_from(source.ip());
        }
    }

    fn switch_tape(&mut self, id: PairId, switch: TapeSwitch) {
        let pair = &mut self.pairs[id.0 as usize];
        let was_on = pair.recording.is_some();
        match switch {
            TapeSwitch::On(call) => {
                // What the parties encrypt between themselves is nothing to keep.
                pair.tape = Some(call).filter(|_| !pair.secure);
                pair.record_for(Some(call));
                if !was_on {
                    pair.lost_before_tape = pair.stream.lost();
                    self.push(MediaOutput::Socket(SocketCommand::CountLost { slot: id.rtp_slot() }));
                }
            }
            TapeSwitch::Paused => self.suspend_tape(id),
            TapeSwitch::Off => {
                self.suspend_tape(id);
                let pair = &mut self.pairs[id.0 as usize];
                let (frames, untaped) = (std::mem::take(&mut pair.taped), std::mem::take(&mut pair.untaped));
                self.notify(id, Notice::Taped { frames, untaped });
            }
        }
    }

    fn suspend_tape(&mut self, id: PairId) {
        let pair = &mut self.pairs[id.0 as usize];
        pair.tape = None;
        let recording = pair.recording;
        pair.record_for(None);
        if let (Some(call), Some(owner)) = (recording, pair.owner) {
            // What was missing then may have come since.
            pair.untaped.lost += pair.stream.lost().saturating_sub(pair.lost_before_tape);
            let recording = Fork { call, leg: owner.leg, media: owner.media };
            self.push(MediaOutput::Socket(SocketCommand::TellLost { slot: id.rtp_slot(), recording }));
        }
    }

    /// RFC 3264 §5.1: "the directionality of the media stream has no impact on the RTCP usage".
    fn on_rtcp(
        &mut self,
        id: PairId,
        own_port: bool,
        source: SocketAddr,
        packet: &[u8],
        now: Instant,
    ) -> Result<(u32, SocketAddr), DropReason> {
        self.counts.rtcp_received += 1;
        let Ok(first) = rtcp::first(packet) else {
            self.sight_at_rtcp(id, own_port, source, now);
            self.on_sign(id, source, packet);
            return Err(DropReason::Malformed);
        };
        let forbidden = self.settings.forbids(source);
        let pair = &mut self.pairs[id.0 as usize];
        pair.sign_from(source.ip());
        if !own_port && !pair.mux {
            return Err(DropReason::Malformed);
        }
        if own_port && (forbidden || !pair.takes_rtcp_from(source, first.ssrc, now)) {
            pair.strangers += 1;
            self.sight_at_rtcp(id, own_port, source, now);
            return Err(DropReason::Stranger);
        }
        if !own_port && pair.latch.source() != Some(source) {
            self.learn(id, source, None, now)?;
        }
        let pair = &mut self.pairs[id.0 as usize];
        pair.rtcp_packets += 1;
        pair.rtcp_at = now;
        let secure = pair.secure;
        let to = pair.bridged_to.ok_or(DropReason::Unbridged)?;
        if !secure {
            self.read_reports(id, to, packet, now);
        }
        let peer = &mut self.pairs[to.0 as usize];
        let destination = peer.rtcp_destination().ok_or(DropReason::NoDestination)?;
        if !peer.knows(destination.ip()) && !peer.unheard.lets(self.settings.bounds.unheard, now) {
            return Err(DropReason::Unheard);
        }
        peer.rtcp_packets_sent += 1;
        self.copy_to = peer.also.filter(|_| peer.mux);
        self.counts.rtcp_forwarded += 1;
        self.counts.bytes_forwarded += packet.len() as u64;
        Ok((if peer.mux { to.rtp_slot() } else { to.rtcp_slot() }, destination))
    }

    fn read_reports(&mut self, from: PairId, to: PairId, compound: &[u8], now: Instant) {
        for packet in rtcp::walk(compound) {
            if let Some(info) = packet.sender_info() {
                self.pairs[to.0 as usize].round_trip.on_sender_report(info.ntp_middle(), now);
            }
            for block in packet.reports() {
                self.pairs[from.0 as usize].round_trip.on_report(&block, now);
            }
        }
    }

    pub fn handle(&mut self, command: MediaCommand, now: Now) {
        let pair = match command {
            MediaCommand::Open { pair, .. }
            | MediaCommand::Expect { pair, .. }
            | MediaCommand::Permit { pair, .. }
            | MediaCommand::Bridge { a: pair, .. }
            | MediaCommand::Unbridge { pair }
            | MediaCommand::Watch { pair, .. }
            | MediaCommand::Tape { pair, .. }
            | MediaCommand::Listen { pair, .. }
            | MediaCommand::Announce { pair, .. }
            | MediaCommand::Close { pair } => pair,
        };
        let opens = matches!(command, MediaCommand::Open { .. });
        if self.pairs.get(pair.0 as usize).is_none_or(|pair| pair.owner.is_some() == opens) {
            self.counts.misdirected += 1;
            return;
        }
        match command {
            MediaCommand::Open { pair, owner, local } => self.open(pair, owner, local, now.instant),
            MediaCommand::Expect { pair, expectation } => self.expect(pair, &expectation, now.instant),
            MediaCommand::Permit { pair, on } => self.pairs[pair.0 as usize].permitted = on,
            MediaCommand::Bridge { a, b } => self.bridge(a, b, now.instant),
            MediaCommand::Unbridge { pair } => self.unbridge(pair),
            MediaCommand::Watch { pair, on } => {
                let pair = &mut self.pairs[pair.0 as usize];
                pair.watched = on;
                pair.promised_at = now.instant;
            }
            MediaCommand::Tape { pair, switch } => self.switch_tape(pair, switch),
            MediaCommand::Listen { pair, events } => self.pairs[pair.0 as usize].events.listen(events, now.instant),
            MediaCommand::Announce { pair, voice } => self.announce(pair, voice, now.instant),
            MediaCommand::Close { pair } => self.close(pair),
        }
    }

    fn enter(&mut self, id: PairId, record: Pair, now: Instant) {
        if self.open_count == 0 {
            self.next_sweep = now + SWEEP_PERIOD;
            self.next_look = now + LOOK_PERIOD;
        }
        self.open_count += 1;
        self.open[id.0 as usize / 64] |= 1 << (id.0 % 64);
        self.players.extend(record.player.and_then(|player| player.next_at).map(|at| (at, id)));
        self.pairs[id.0 as usize] = record;
        self.note_connected(id, record.connected);
    }

    fn open(&mut self, id: PairId, owner: Owner, local: SocketAddr, now: Instant) {
        let ghost = self.pairs[id.0 as usize].ghost;
        self.enter(id, Pair { owner: Some(owner), is_ipv6: local.is_ipv6(), ghost, ..Pair::default() }, now);
        self.push(MediaOutput::Socket(SocketCommand::Open { slot: id.rtp_slot() }));
        self.push(MediaOutput::Socket(SocketCommand::Open { slot: id.rtcp_slot() }));
    }

    fn expect(&mut self, id: PairId, expectation: &Expectation, now: Instant) {
        let signalling = expectation.signalling;
        let allowed = |address: Option<SocketAddr>| address.filter(|&at| !self.settings.refuses(at, signalling));
        let bounds = &self.settings.bounds;
        let is_free = bounds.unheard.is_zero() || bounds.is_trunk(signalling);
        let (rtp, rtcp) = (allowed(expectation.rtp), allowed(expectation.rtcp));
        let moved = self.pairs[id.0 as usize].expect(expectation, rtp, rtcp, now);
        let pair = &mut self.pairs[id.0 as usize];
        pair.rtp_first = allowed(pair.rtp_first);
        pair.is_free = is_free;
        pair.aim();
        if moved {
            self.trials.remove(&id);
            self.disconnect(id);
        }
    }

    fn bridge(&mut self, a: PairId, b: PairId, now: Instant) {
        if a == b || self.pairs.get(b.0 as usize).is_none_or(|pair| pair.owner.is_none()) {
            self.counts.misdirected += 1;
            return;
        }
        if self.pairs[a.0 as usize].bridged_to == Some(b) {
            return;
        }
        self.unbridge(a);
        self.unbridge(b);
        for (from, to) in [(a, b), (b, a)] {
            let pair = &mut self.pairs[from.0 as usize];
            pair.bridged_to = Some(to);
            pair.promised_at = now;
        }
    }

    fn unbridge(&mut self, id: PairId) {
        if let Some(other) = self.pairs[id.0 as usize].bridged_to.take() {
            self.pairs[other.0 as usize].bridged_to = None;
        }
    }

    fn close(&mut self, id: PairId) {
        self.unbridge(id);
        self.end_player(id, false);
        self.suspend_tape(id);
        let report = Box::new(self.pairs[id.0 as usize].report());
        self.notify(id, Notice::Closed { report });
        self.push(MediaOutput::Socket(SocketCommand::Close { slot: id.rtp_slot() }));
        self.push(MediaOutput::Socket(SocketCommand::Close { slot: id.rtcp_slot() }));
        let ghost = self.pairs[id.0 as usize].ghost_of();
        self.pairs[id.0 as usize] = Pair { ghost, ..Pair::default() };
        self.note_connected(id, false);
        self.trials.remove(&id);
        self.open[id.0 as usize / 64] &= !(1 << (id.0 % 64));
        self.open_count -= 1;
    }

    pub fn next_deadline(&self) -> Option<Instant> {
        let played_at = self.players.first().map(|(at, _)| *at);
        let next = self.next_sweep.min(self.next_look);
        (self.open_count > 0).then(|| played_at.map_or(next, |at| at.min(next)))
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let now = now.instant;
        if self.open_count == 0 {
            return;
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_PERIOD;
            self.look_for_silent(now);
        }
        if now < self.next_sweep {
            return;
        }
        // A late sweep does what is due now, and does not run after the time it missed.
        self.next_sweep = now + SWEEP_PERIOD;
        let slice = self.sweep_slice;
        self.sweep_slice = (slice + 1) % SWEEP_SLICES;
        let mut sessions = Sessions::default();
        for word in (slice..self.open.len()).step_by(SWEEP_SLICES) {
            let mut bits = self.open[word];
            while bits != 0 {
                let id = PairId(word as u32 * 64 + bits.trailing_zeros());
                bits &= bits - 1;
                self.sweep(id, now);
                self.enter_session(id, &mut sessions);
            }
        }
        self.sessions[slice] = sessions;
    }

    /// Counts the session of this pair with the other, of which the first tells.
    fn enter_session(&self, id: PairId, sessions: &mut Sessions) {
        let pair = &self.pairs[id.0 as usize];
        let Some(other) = pair.bridged_to.filter(|other| *other > id) else { return };
        let other = &self.pairs[other.0 as usize];
        let count = match (pair, other) {
            _ if pair.player.is_some() || other.player.is_some() => &mut sessions.announced,
            _ if pair.tape.is_some() || other.tape.is_some() => &mut sessions.recorded,
            _ => &mut sessions.relayed,
        };
        *count += 1;
    }

    fn sweep(&mut self, id: PairId, now: Instant) {
        self.start_player(id, now);
        let pair = &self.pairs[id.0 as usize];
        let heard_at = pair.stream.last_at;
        if !pair.watched || !pair.sends {
            return self.tell_one_way_over(id);
        }
        let other = pair.bridged_to.and_then(|other| self.pairs.get(other.0 as usize));
        let other_heard_at = other.filter(|other| other.watched && other.sends).map(|other| other.stream.last_at);
        let alive_at = pair.alive_at();
        let silent = now.since(alive_at) >= self.settings.media_timeout;
        let one_way_since = heard_at.max(pair.promised_at);
        let one_way = now.since(one_way_since) >= ONE_WAY_SILENCE
            && other_heard_at.is_some_and(|at| at > one_way_since && now.since(at) < ONE_WAY_SILENCE);
        let (told_silent, told_one_way) = (pair.told_silent, pair.told_one_way);
        if silent && !told_silent && self.notify(id, Notice::Silent { since: alive_at }) {
            self.counts.silent += 1;
            self.pairs[id.0 as usize].told_silent = true;
        }
        if one_way && !told_one_way && self.notify(id, Notice::OneWay { since: one_way_since }) {
            self.counts.one_way += 1;
            self.pairs[id.0 as usize].told_one_way = true;
            self.pairs[id.0 as usize].was_one_way = true;
        }
        self.pairs[id.0 as usize].told_silent &= silent;
        // The other party's silence is no news of this one.
        if now.since(one_way_since) < ONE_WAY_SILENCE {
            self.tell_one_way_over(id);
        }
    }

    fn tell_one_way_over(&mut self, id: PairId) {
        if self.pairs[id.0 as usize].told_one_way && self.notify(id, Notice::OneWayOver) {
            self.pairs[id.0 as usize].told_one_way = false;
        }
    }

    fn notify(&mut self, id: PairId, notice: Notice) -> bool {
        let Some(owner) = self.pairs[id.0 as usize].owner else { return false };
        self.push(MediaOutput::Notice(MediaNotice { pair: id, owner, notice }))
    }

    /// False if the queue is full: nothing is thrown out of it.
    fn push(&mut self, output: MediaOutput) -> bool {
        if self.outputs.len() >= MEDIA_QUEUE_MAX {
            self.counts.overflows += 1;
            return false;
        }
        self.outputs.push_back(output);
        true
    }
}

mod announce;
mod learn;
#[cfg(test)]
mod tests;
