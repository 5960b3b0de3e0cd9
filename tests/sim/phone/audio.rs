//! What a phone sends and hears: packets that say whom they are from and for.

use std::net::SocketAddr;

use tipring::base::time::Instant;

use crate::habits::Habit;
use crate::phone::ANNOUNCED_BYTES;
use crate::phone::Call;
use crate::phone::Fact;
use crate::phone::Manner;
use crate::phone::Phone;
use crate::phone::Sent;
use crate::phone::State;
use crate::stranger::SPRAYED;
use crate::text::Text;

impl Phone {
    pub(super) fn send_frame(&mut self, now: Instant, out: &mut Sent) {
        let Some((call, media)) = self.call.as_ref().and_then(|call| Some((call, call.media?))) else { return };
        if !self.speaks(call) || now < call.next_frame {
            return;
        }
        let (step, frame) = (self.timestamp_step(), self.frame);
        let Some(call) = &mut self.call else { return };
        call.seq = call.seq.wrapping_add(1);
        call.timestamp = call.timestamp.wrapping_add(step);
        call.next_frame = now + frame;
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&call.seq.to_be_bytes());
        packet.extend_from_slice(&call.timestamp.to_be_bytes());
        packet.extend_from_slice(&0x1234_5678u32.to_be_bytes());
        packet.extend_from_slice(format!("{}>{}", call.token, call.remote_token).as_bytes());
        let number = call.seq;
        self.emit_packet(media, packet, number, now, out);
    }

    /// Before it answers, too, if it will be elsewhere then.
    pub(super) fn speaks(&self, call: &Call) -> bool {
        let is_early = matches!(call.state, State::Ringing { .. })
            && matches!(self.manner, Manner::EarlyMedia { .. })
            && self.has(Habit::OtherPort);
        call.sends && (call.state == State::Up || is_early)
    }

    /// A packet for the RTP port. One that was under way when its call ended is no fault; one for another phone, for another
    /// call, or from an address that was never told is.
    pub fn handle_rtp(&mut self, from: SocketAddr, packet: &[u8], now: Instant) {
        if packet.len() == ANNOUNCED_BYTES
            && self.tokens.iter().any(|(_, told)| told.is_empty() || told.contains(&from))
        {
            self.announced.push(u16::from_be_bytes([packet[2], packet[3]]));
            return;
        }
        let said = String::from_utf8_lossy(packet.get(12..).unwrap_or_default()).into_owned();
        if said == SPRAYED {
            self.sprayed = Some((self.sprayed.map_or(now, |(first, _)| first), now));
            return;
        }
        let meant = said.split_once('>').map_or("", |(_, meant)| meant);
        let told = self.tokens.iter().find(|(token, _)| token == meant).map(|(_, told)| told);
        // A description that is still on its way has told nothing.
        if !told.is_some_and(|told| told.is_empty() || told.contains(&from)) {
            self.facts.push((now, Fact::WrongAudio(format!("{said} from {from}"))));
        } else if self.call.as_ref().is_some_and(|call| said == format!("{}>{}", call.remote_token, call.token)) {
            self.frames_received += 1;
            self.last_heard = Some(now);
        }
    }

    /// What this phone calls itself in its next call.
    pub(super) fn new_token(&mut self) -> String {
        (self.last_heard, self.sprayed) = (None, None);
        let token = format!("{}-{:08x}", self.user, self.random.next_u32());
        self.tokens.push((token.clone(), Vec::new()));
        token
    }

    /// Remembers where the other side's media is and comes from.
    pub(super) fn take_media(&mut self, text: &Text) {
        let (Some(call), Some((media, direction))) = (&mut self.call, text.media()) else { return };
        call.media = Some(media);
        call.sends = !matches!(direction, "sendonly" | "inactive");
        call.remote_token = text.token().to_owned();
        let told = self.tokens.iter_mut().find(|(token, _)| *token == call.token);
        if let Some((_, told)) = told.filter(|(_, told)| !told.contains(&media)) {
            told.push(media);
        }
    }

    /// `token` stands in an attribute that nobody knows, and must pass.
    pub(super) fn sdp(&self, token: &str, version: u32, direction: &str) -> String {
        format!(
            "v=0\r\no={} 1 {version} IN IP4 {}\r\ns=-\r\nc=IN IP4 {}\r\nt=0 0\r\nm=audio {} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n\
             a=rtpmap:101 telephone-event/8000\r\na=x-sim:{token}\r\na={direction}\r\n",
            self.user,
            self.rtp.ip(),
            self.rtp.ip(),
            self.rtp.port(),
        )
    }
}
