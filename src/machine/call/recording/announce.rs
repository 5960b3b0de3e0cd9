//! Telling both parties that they are recorded: who is still to hear it, in which codec, and that it is noted whether they did.
//!
//! Begins with the answer, or when a recording begins later. What cannot be told in G.711 is not told, and that is noted, too.

use serde::Deserialize;
use serde::Serialize;

use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::input::Context;
use crate::machine::call::media;
use crate::machine::call::recording::Stage;
use crate::machine::call::trace::What;
use crate::machine::media::announcement::Sound;
use crate::machine::media::announcement::Voice;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::PairId;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::g711::Law;
use crate::wire::sdp::facts::Format;
use crate::wire::sdp::facts::MediaFacts;
use crate::wire::tape::Mark;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    has_begun: bool,
    /// Those who have not heard all of it.
    pending: Vec<Pending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    leg: u8,
    pair: PairId,
    voice: Voice,
}

impl Call {
    /// Once for each recording, when both talk.
    pub(in crate::machine::call) fn announce_recording(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        let is_on = matches!(self.recording.stage, Stage::On | Stage::Paused);
        let Some(sound) = self.recording.wanted.announce.filter(|_| is_on && self.state == State::Answered) else {
            return;
        };
        if std::mem::replace(&mut self.recording.told.has_begun, true) {
            return;
        }
        for leg in [0, self.bridged] {
            let Some((pair, law, payload_type)) = self.ear(0, leg) else {
                self.tell_announced(leg, sound, false, out);
                continue;
            };
            let (ssrc, timestamp) = (cx.random.next_u32(), cx.random.next_u32());
            let sequence = (cx.random.next_u32() >> 16) as u16;
            let voice = Voice { sound, law, payload_type, ssrc, sequence, timestamp };
            self.recording.told.pending.push(Pending { leg, pair, voice });
            out.push(Output::Media(MediaCommand::Announce { pair, voice: Some(voice) }));
        }
    }

    /// After a negotiation: the rest goes on in what it allows.
    pub(super) fn announce_anew(&mut self, index: usize, out: &mut Outbox) {
        let mut pending = std::mem::take(&mut self.recording.told.pending);
        for Pending { leg, pair, voice } in &mut pending {
            let changed = match self.ear(index, *leg) {
                Some((now, ..)) if now != *pair => continue,
                Some((_, law, payload_type)) => Some(Voice { law, payload_type, ..*voice }),
                None => None,
            };
            if changed != Some(*voice) {
                out.push(Output::Media(MediaCommand::Announce { pair: *pair, voice: changed }));
                *voice = changed.unwrap_or(*voice);
            }
        }
        self.recording.told.pending = pending;
    }

    /// The recording is to stop: there is nothing to tell any more.
    pub(super) fn hush(&self, out: &mut Outbox) {
        for Pending { pair, .. } in &self.recording.told.pending {
            out.push(Output::Media(MediaCommand::Announce { pair: *pair, voice: None }));
        }
    }

    pub(in crate::machine::call) fn on_announced(&mut self, leg: u8, played: bool, cx: &Context<'_>, out: &mut Outbox) {
        let pending = &mut self.recording.told.pending;
        let Some(index) = pending.iter().position(|pending| pending.leg == leg) else { return };
        let sound = pending.remove(index).voice.sound;
        self.step(cx, leg, What::Announced { played });
        self.tell_announced(leg, sound, played, out);
    }

    /// The recording is over: who has not heard it will not.
    pub(super) fn give_up_telling(&mut self, out: &mut Outbox) {
        for Pending { leg, voice, .. } in std::mem::take(&mut self.recording.told).pending {
            self.tell_announced(leg, voice.sound, false, out);
        }
    }

    fn tell_announced(&self, leg: u8, sound: Sound, played: bool, out: &mut Outbox) {
        let announce = sound.text().to_owned();
        self.mark(Mark::Announced { leg, announce: announce.clone(), played }, out);
        self.facts.event(Some(leg), Body::RecordingAnnounced { announce, played }, out);
    }

    /// The first audio stream of a party, and the G.711 that both parties described: what we send must be what the other could.
    fn ear(&self, index: usize, leg: u8) -> Option<(PairId, Law, u8)> {
        let end = self.ends(index)?.into_iter().find(|end| end.leg == leg)?;
        let (stream, pair, facts) = media::audio(end.ports, end.own?).next()?;
        let other = end.other.and_then(|other| other.media.get(usize::from(stream)));
        let knows = |law: Law| other.is_none_or(|other| laws(other).any(|(_, own)| own == law));
        let (format, law) = laws(facts).find(|(_, law)| knows(*law) && !facts.profile.is_secure())?;
        Some((pair, law, format.payload_type))
    }
}

fn laws(facts: &MediaFacts) -> impl Iterator<Item = (&Format, Law)> {
    facts.formats.iter().filter_map(|format| Some((format, law(format)?)))
}

fn law(format: &Format) -> Option<Law> {
    let law = match format.name.as_str() {
        "" => Law::of_payload_type(format.payload_type),
        name => Law::of_name(name, format.clock),
    };
    law.filter(|_| format.channels == 1)
}
