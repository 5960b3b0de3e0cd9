//! What a phone with habits does to its media ports, its stream and the text of its messages.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::time::Instant;

use crate::habits::Habit;
use crate::phone::Far;
use crate::phone::Phone;
use crate::phone::Sent;

/// Ports of old are heard and spoken from for at most so long after a move.
const STRAGGLERS_MAX: u64 = 400;
const SEPARATE: u16 = 1_000;
/// A phone with [`Habit::NoRport`] sends SIP from here.
pub const SIP_SOURCE: u16 = 5_070;

#[derive(Debug, Default)]
pub struct Habits {
    own: BTreeSet<Habit>,
    /// The port that was described before, and until when packets still come from it.
    old: Option<(SocketAddr, Instant)>,
    /// Until then every other packet comes from it, or every one.
    alternates: bool,
    /// An offer with a new port is open; this was the one before.
    offered: Option<SocketAddr>,
    /// What its NAT makes of its media port.
    outer: Option<SocketAddr>,
    /// Media ports that were ever its own.
    ports: Vec<SocketAddr>,
    stalled: Option<(Instant, Sent)>,
    /// PRACKs that wait: (when, far end, RAck).
    pub(super) pracks: Vec<(Instant, Far, String)>,
}

impl Phone {
    pub fn take_habits(&mut self, mut own: BTreeSet<Habit>, frame: Duration) {
        // Where it receives, nothing that it sends shows: behind a NAT that forgets, nobody could reach it there.
        if own.contains(&Habit::SeparatePorts) {
            own.remove(&Habit::NatRebinds);
        }
        self.extended |= own.contains(&Habit::ProvisionalBurst) || own.contains(&Habit::LatePrack);
        self.habits.own = own;
        self.frame = frame;
    }

    pub fn has(&self, habit: Habit) -> bool {
        self.habits.own.contains(&habit)
    }

    /// Where it hears audio now.
    pub fn hears_at(&self, at: SocketAddr, now: Instant) -> bool {
        at == self.habits.outer.unwrap_or(self.rtp)
            || self.habits.old.is_some_and(|(old, until)| old == at && now < until)
            || self.habits.offered == Some(at)
    }

    /// It was its own at some time, also to send from.
    pub fn has_media_port(&self, at: SocketAddr) -> bool {
        let sends_there = SocketAddr::new(at.ip(), at.port().wrapping_sub(SEPARATE));
        let is_own = |at: SocketAddr| at == self.rtp || self.habits.ports.contains(&at);
        is_own(at) || self.has(Habit::SeparatePorts) && is_own(sends_there)
    }

    fn new_port(&mut self) -> SocketAddr {
        let last = self.habits.ports.last().map_or_else(|| self.rtp.port(), SocketAddr::port);
        self.habits.ports.extend([self.rtp, SocketAddr::new(self.rtp.ip(), last + 2)]);
        self.habits.ports.last().copied().unwrap_or(self.rtp)
    }

    /// It offers audio at a new port, and speaks from the old one until that is answered.
    pub(super) fn move_media(&mut self, now: Instant, out: &mut Sent) {
        if !self.has(Habit::Moves) || !self.may_offer() {
            return;
        }
        let port = self.new_port();
        self.habits.offered = Some(self.habits.outer.take().unwrap_or(self.rtp));
        self.rtp = port;
        let method = if self.extended && self.random.chance(1, 2) { "UPDATE" } else { "INVITE" };
        self.offer_anew(method, "sendrecv", now, out);
    }

    /// The offer with a new port has its answer.
    pub(super) fn on_move_final(&mut self, is_accepted: bool, now: Instant) {
        let Some(old) = self.habits.offered.take() else { return };
        if is_accepted {
            self.leave(old, now);
        } else {
            self.rtp = old;
        }
    }

    /// Its next description names another port.
    pub(super) fn move_at_once(&mut self, habit: Habit, now: Instant) {
        if self.has(habit) && self.habits.offered.is_none() && self.random.chance(2, 3) {
            let old = self.habits.outer.take().unwrap_or(self.rtp);
            self.rtp = self.new_port();
            self.leave(old, now);
        }
    }

    fn leave(&mut self, old: SocketAddr, now: Instant) {
        self.habits.old = Some((old, now + Duration::from_millis(50 + self.random.below(STRAGGLERS_MAX - 50))));
        self.habits.alternates = self.random.chance(1, 2);
    }

    /// Ports, and what was stalled, are of one call.
    pub(super) fn forget_ports(&mut self) {
        (self.habits.old, self.habits.offered, self.habits.stalled) = (None, None, None);
        self.habits.pracks.clear();
        if self.habits.outer.take().is_some() {
            self.rtp = self.new_port();
        }
    }

    /// What sends nothing and is forgotten by its NAT can be reached by nobody.
    pub(super) fn rebind_media(&mut self) {
        if self.has(Habit::NatRebinds) && self.habits.offered.is_none() && self.talks() {
            self.habits.old = None;
            self.habits.outer = Some(self.new_port());
        }
    }

    pub(super) fn stall(&mut self, length: Duration, now: Instant) {
        if self.has(Habit::Bursts) && self.habits.stalled.is_none() {
            self.habits.stalled = Some((now + length, Sent::new()));
        }
    }

    /// And for a moment after.
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.habits.stalled.as_ref().is_some_and(|(until, _)| now < *until + self.frame * 3)
    }

    pub(super) fn stall_ends(&self) -> Option<Instant> {
        self.habits.stalled.as_ref().map(|(until, _)| *until)
    }

    /// The numbers of the stream after a hold.
    pub(super) fn restart_stream(&mut self) {
        let restarts = self.has(Habit::Restarts) && self.random.chance(2, 3);
        let back = if self.random.chance(1, 2) { u16::MAX } else { 150 };
        if let Some(call) = self.call.as_mut().filter(|_| restarts) {
            call.seq = call.seq.saturating_sub(back);
        }
    }

    pub(super) fn timestamp_step(&mut self) -> u32 {
        let step = (self.frame.as_millis() * 8) as u32;
        match self.has(Habit::WrongClock) {
            false => step,
            true if self.random.chance(1, 100) => step + self.random.next_u32() % 80_000,
            true => step * 2,
        }
    }

    /// A packet goes on its way, or waits until its network goes on.
    pub(super) fn emit_packet(&mut self, to: SocketAddr, packet: Vec<u8>, number: u16, now: Instant, out: &mut Sent) {
        let is_late = !self.habits.alternates || number % 2 == 1;
        let straggler = self.habits.old.filter(|(_, until)| now < *until && is_late).map(|(old, _)| old);
        let own = self.habits.outer.or(self.habits.offered).unwrap_or(self.rtp);
        let mut from = straggler.unwrap_or(own);
        if self.has(Habit::SeparatePorts) {
            from.set_port(from.port() + SEPARATE);
        }
        match &mut self.habits.stalled {
            Some((until, waiting)) if now < *until => waiting.push((from, to, packet)),
            _ => {
                self.end_stall(now, out);
                out.push((from, to, packet));
            }
        }
    }

    pub(super) fn end_stall(&mut self, now: Instant, out: &mut Sent) {
        if let Some((_, waiting)) = self.habits.stalled.take_if(|(until, _)| now >= *until) {
            out.extend(waiting);
        }
    }

    pub(super) fn dialled(&self, user: &str) -> String {
        if !self.has(Habit::EscapedUser) {
            return user.to_owned();
        }
        user.bytes()
            .map(|byte| if byte % 2 == 1 { format!("%{byte:02X}") } else { char::from(byte).to_string() })
            .collect()
    }

    pub(super) fn shown_as(&self) -> String {
        if self.has(Habit::Anonymous) {
            return "\"Anonymous\" <sip:anonymous@anonymous.invalid>".to_owned();
        }
        format!("<sip:{}@{}>", self.user, self.domain)
    }

    /// A description as its firmware writes it: of an offer, or of an answer to so many m-lines.
    pub(super) fn with_lines(&self, sdp: String, offered: Option<usize>) -> String {
        if !self.has(Habit::MediaLines) {
            return sdp;
        }
        let video = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n";
        match offered {
            // Both in an offer; one too few, or one too many.
            None => sdp + "m=video 6900 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n",
            Some(1) => sdp + video,
            Some(_) => sdp,
        }
    }

    /// What leaves it: the source, and the text as its firmware writes it.
    pub fn dress(&self, from: SocketAddr, bytes: Vec<u8>) -> (SocketAddr, Vec<u8>) {
        if from != self.sip || self.habits.own.is_empty() {
            return (from, bytes);
        }
        let Ok(text) = String::from_utf8(bytes) else { return (from, Vec::new()) };
        let (head, content) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut head = head.to_owned();
        let mut content = content.to_owned();
        let mut source = from;
        if self.has(Habit::NoRport) && !self.tcp {
            source.set_port(SIP_SOURCE);
            if !head.starts_with("SIP/2.0") {
                head = head.replacen(";rport", "", 1);
            }
        }
        if self.has(Habit::ContactHeaders) {
            let contact = self.contact();
            let dressed = contact.replace('>', ";method=INVITE?Subject=habit&X-Sim=1>");
            head = head.replace(&contact, &dressed);
        }
        if self.has(Habit::DoubledHeaders) && head.starts_with("SIP/2.0") {
            head += "\r\nServer: One/1.0\r\nServer: Two/2.0";
        }
        let is_new = head.lines().any(|line| line.starts_with("To:") && !line.contains(";tag="));
        if self.has(Habit::InviteExpires) && head.starts_with("INVITE ") && is_new {
            head += "\r\nExpires: 30";
        }
        if self.has(Habit::TrailingSdp) && content.starts_with("v=0") {
            let len = content.len();
            content += if self.user.ends_with(['1', '3']) { "  " } else { "\0" };
            head = head.replace(&format!("Content-Length: {len}"), &format!("Content-Length: {}", content.len()));
        }
        (source, format!("{head}\r\n\r\n{content}").into_bytes())
    }
}
