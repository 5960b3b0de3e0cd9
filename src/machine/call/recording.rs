//! The recording of a call: who wants it, from when on, and what is told about it among the frames and as events.
//!
//! The relay copies packets to the tape pair by pair; here is which pairs, and when. One recording goes on over re-INVITE,
//! hold, new streams and codecs, until it is stopped or the call ends. While it is paused nothing of media or digits is kept.
//! Streams that the phones encrypt between themselves are not recorded, and that is told. [`announce`] tells the parties.

mod announce;

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::input::Context;
use crate::machine::call::media;
use crate::machine::call::media::Ports;
use crate::machine::call::recording::announce::Told;
use crate::machine::call::trace::What;
use crate::machine::media::announcement::Sound;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::PairId;
use crate::machine::media::command::PayloadTypes;
use crate::machine::media::command::TapeSwitch;
use crate::machine::media::command::sent_formats;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::link::Record;
use crate::wire::link::RecordCodecs;
use crate::wire::link::RecordWish;
use crate::wire::sdp::facts;
use crate::wire::sdp::facts::Described;
use crate::wire::sdp::facts::MediaFacts;
use crate::wire::tape::Mark;
use crate::wire::tape::record::Format;
use crate::wire::tape::record::Frames;
use crate::wire::tape::record::Untaped;

/// Keys of one code come at most so far apart.
const CODE_PAUSE_MAX: Duration = Duration::from_secs(3);
const CODE_KEYS_MAX: usize = 8;
/// Streams whose formats are remembered, over all legs that were ever bridged.
const STREAMS_MAX: usize = 64;

/// What the directory says about recording a call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub tenant: Record,
    pub caller: Record,
    /// Users of the called phones that have a wish.
    pub callees: Vec<(String, Record)>,
    /// What both parties hear when it begins.
    pub announce: Option<Sound>,
    /// What they are offered.
    pub codecs: RecordCodecs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Recording {
    wanted: Box<Wanted>,
    stage: Stage,
    streams: Vec<Stream>,
    counted: Vec<Counted>,
    /// Counts of pairs that were switched off and have not come.
    awaited: u8,
    keys: Keys,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Off,
    On,
    Paused,
    /// The last counts come.
    Stopping {
        by: By,
    },
}

/// A stream as it was last told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stream {
    leg: u8,
    stream: u8,
    pair: PairId,
    secure: bool,
    formats: Vec<Format>,
}

/// What became of a stream's packets, over all pairs that it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    frames: u64,
    untaped: Untaped,
}

/// One of those who talk: our ports towards it, what it described, and what the other one did.
struct End<'a> {
    leg: u8,
    ports: &'a Ports,
    own: Option<&'a Described>,
    other: Option<&'a Described>,
}

/// The last keys pressed, by one party.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Keys {
    leg: u8,
    at: Instant,
    text: String,
}

impl Stream {
    /// RFC 4733 §2.1: an event may have the number and the clock that either party named.
    fn events(&self) -> PayloadTypes {
        let events = self.formats.iter().filter(|format| format.name == "telephone-event");
        events.map(|format| format.payload_type).collect()
    }
}

impl Counted {
    fn frames(&self) -> Frames {
        Frames { leg: self.untaped.leg, stream: self.untaped.stream, frames: self.frames }
    }

    fn add(&mut self, frames: u64, untaped: &Untaped) {
        self.frames += frames;
        self.untaped.direction += untaped.direction;
        self.untaped.strangers += untaped.strangers;
        self.untaped.encrypted += untaped.encrypted;
        self.untaped.malformed += untaped.malformed;
        self.untaped.overrun += untaped.overrun;
        self.untaped.lost += untaped.lost;
    }
}

impl Recording {
    pub(super) fn new(wanted: Wanted) -> Self {
        let (streams, counted, keys) = (Vec::new(), Vec::new(), Keys::default());
        let wanted = Box::new(wanted);
        Self { wanted, stage: Stage::Off, streams, counted, awaited: 0, keys, told: Told::default() }
    }
}

impl Call {
    /// What is to be done if this branch talks to the caller: the strongest wish counts.
    pub(super) fn wants_recording(&self, leg: u8) -> Record {
        let wanted = &self.recording.wanted;
        let wishes = [wanted.tenant, wanted.caller, self.callee_wish(leg)];
        wishes.into_iter().max_by_key(|wish| strength(*wish)).unwrap_or_default()
    }

    fn callee_wish(&self, leg: u8) -> Record {
        let branch = self.branches.iter().find(|branch| branch.leg == leg);
        let wish =
            |(user, record): &(String, Record)| branch.is_some_and(|branch| branch.phone == *user).then_some(*record);
        self.recording.wanted.callees.iter().find_map(wish).unwrap_or_default()
    }

    /// The call with this phone may be recorded, and is to be heard in its recording: offers name what can be decoded.
    pub(super) fn is_narrow(&self, phone: &str) -> bool {
        let wanted = &self.recording.wanted;
        let callee = wanted.callees.iter().find(|(user, _)| user == phone).map_or(Record::Never, |(_, wish)| *wish);
        let wishes = [wanted.tenant, wanted.caller, callee];
        wanted.codecs == RecordCodecs::Decodable && wishes.iter().any(|wish| strength(*wish) > 0)
    }

    /// Digits and audio are kept nowhere.
    pub(super) fn is_masked(&self) -> bool {
        self.recording.stage == Stage::Paused
    }

    pub(super) fn begin_recording(&mut self, by: By, out: &mut Outbox) {
        if self.recording.stage != Stage::Off {
            return;
        }
        self.recording.stage = Stage::On;
        self.recording.streams.clear();
        self.recording.counted.clear();
        self.facts.event(None, Body::RecordingStarted { by }, out);
        self.mark(Mark::Begin { tenant: self.facts.tenant.clone() }, out);
        if let Some(index) = self.bonds.iter().position(|bond| bond.branch == self.bridged && bond.is_joined) {
            self.tape_streams(index, out);
        }
    }

    /// After each negotiation of those who talk: what their payload types mean, and which pairs are copied.
    pub(super) fn tape_streams(&mut self, index: usize, out: &mut Outbox) {
        let can_record = self.wants_recording(self.bridged) != Record::Never;
        for stream in self.audio_streams(index) {
            let pair = stream.pair;
            let events = if can_record { stream.events() } else { PayloadTypes::default() };
            out.push(Output::Media(MediaCommand::Listen { pair, events }));
            if matches!(self.recording.stage, Stage::Off | Stage::Stopping { .. }) {
                continue;
            }
            if !self.recording.streams.contains(&stream) && self.recording.streams.len() < STREAMS_MAX {
                self.tell_formats(&stream, out);
                self.recording.streams.retain(|known| (known.leg, known.stream) != (stream.leg, stream.stream));
                self.recording.streams.push(stream);
            }
            if self.recording.stage == Stage::On {
                let switch = TapeSwitch::On(self.facts.id);
                out.push(Output::Media(MediaCommand::Tape { pair, switch }));
            }
        }
        self.announce_anew(index, out);
    }

    fn tell_formats(&self, told: &Stream, out: &mut Outbox) {
        let Stream { leg, stream, secure, formats, .. } = told.clone();
        self.mark(Mark::Formats { leg, stream, formats: formats.clone() }, out);
        self.facts.event(Some(leg), Body::RecordingFormats { stream, secure, formats }, out);
    }

    /// The audio of both parties of a bond.
    fn audio_streams(&self, index: usize) -> Vec<Stream> {
        let mut streams = Vec::new();
        for End { leg, ports, own, other } in self.ends(index).into_iter().flatten() {
            let Some(own) = own else { continue };
            for (stream, pair, facts) in media::audio(ports, own) {
                let other = other.and_then(|other| other.media.get(usize::from(stream)));
                let (secure, formats) = (facts.profile.is_secure(), formats(facts, other));
                streams.push(Stream { leg, stream, pair, secure, formats });
            }
        }
        streams
    }

    fn ends(&self, index: usize) -> Option<[End<'_>; 2]> {
        let bond = self.bonds.get(index)?;
        let branch = self.branches.iter().find(|branch| branch.leg == bond.branch)?;
        let (caller, callee) = (bond.caller.description.theirs(), bond.callee.description.theirs());
        Some([
            End { leg: 0, ports: &self.caller.ports, own: caller, other: callee },
            End { leg: bond.branch, ports: &branch.ports, own: callee, other: caller },
        ])
    }

    pub(super) fn on_record_wish(&mut self, wish: RecordWish, by: By, cx: &mut Context<'_>, out: &mut Outbox) {
        match wish {
            RecordWish::Start if self.state == State::Answered => {
                self.begin_recording(by, out);
                self.announce_recording(cx, out);
            }
            RecordWish::Start => {}
            RecordWish::Stop => self.stop_recording(by, out),
            RecordWish::Pause if self.recording.stage == Stage::On => {
                self.recording.stage = Stage::Paused;
                self.switch(TapeSwitch::Paused, out);
                self.facts.event(None, Body::RecordingPaused { by }, out);
                self.mark(Mark::Paused, out);
            }
            RecordWish::Resume if self.recording.stage == Stage::Paused => {
                self.recording.stage = Stage::On;
                self.facts.event(None, Body::RecordingResumed { by }, out);
                self.mark(Mark::Resumed, out);
                self.switch(TapeSwitch::On(self.facts.id), out);
            }
            RecordWish::Pause | RecordWish::Resume => {}
        }
    }

    fn stop_recording(&mut self, by: By, out: &mut Outbox) {
        if !matches!(self.recording.stage, Stage::On | Stage::Paused) || self.is_ending() {
            return;
        }
        let open: Vec<PairId> = self.open_pairs();
        self.hush(out);
        self.recording.stage = Stage::Stopping { by };
        self.recording.awaited = 0;
        for stream in self.recording.streams.iter().filter(|stream| open.contains(&stream.pair)) {
            self.recording.awaited += 1;
            out.push(Output::Media(MediaCommand::Tape { pair: stream.pair, switch: TapeSwitch::Off }));
        }
        if self.recording.awaited == 0 {
            self.tell_stopped(by, out);
        }
    }

    fn open_pairs(&self) -> Vec<PairId> {
        self.caller.ports.pairs().chain(self.branches.iter().flat_map(|branch| branch.ports.pairs())).collect()
    }

    fn switch(&self, switch: TapeSwitch, out: &mut Outbox) {
        let open = self.open_pairs();
        for stream in self.recording.streams.iter().filter(|stream| open.contains(&stream.pair)) {
            out.push(Output::Media(MediaCommand::Tape { pair: stream.pair, switch }));
        }
    }

    /// A pair was closed, or switched off, after so many frames.
    pub(super) fn on_taped(&mut self, leg: u8, stream: u8, frames: u64, untaped: Untaped) {
        let recording = &mut self.recording;
        let is_told = recording.streams.iter().any(|told| (told.leg, told.stream) == (leg, stream));
        if !is_told && frames == 0 {
            return;
        }
        let untaped = Untaped { leg, stream, ..untaped };
        match recording
            .counted
            .iter_mut()
            .find(|counted| (counted.untaped.leg, counted.untaped.stream) == (leg, stream))
        {
            Some(counted) => counted.add(frames, &untaped),
            None => recording.counted.push(Counted { frames, untaped }),
        }
    }

    /// A pair was switched off.
    pub(super) fn on_tape_off(&mut self, out: &mut Outbox) {
        self.recording.awaited = self.recording.awaited.saturating_sub(1);
        if let Stage::Stopping { by } = self.recording.stage
            && self.recording.awaited == 0
        {
            self.tell_stopped(by, out);
        }
    }

    /// The call is over, and all reports are in.
    pub(super) fn finish_recording(&mut self, by: By, out: &mut Outbox) {
        match self.recording.stage {
            Stage::Off => {}
            Stage::On | Stage::Paused => self.tell_stopped(by, out),
            Stage::Stopping { by } => self.tell_stopped(by, out),
        }
    }

    fn tell_stopped(&mut self, by: By, out: &mut Outbox) {
        self.give_up_telling(out);
        self.recording.stage = Stage::Off;
        let mut counted = std::mem::take(&mut self.recording.counted);
        counted.sort_unstable_by_key(|counted| (counted.untaped.leg, counted.untaped.stream));
        let frames: Vec<Frames> = counted.iter().map(Counted::frames).collect();
        let untaped = counted.into_iter().map(|counted| counted.untaped).collect();
        // What the kernel lost is known to whoever has the sockets, and is added on the way to the tape.
        self.mark(Mark::Untaped { untaped }, out);
        self.mark(Mark::Ended { frames: frames.clone() }, out);
        self.facts.event(None, Body::RecordingStopped { by, frames }, out);
    }

    fn mark(&self, mark: Mark, out: &mut Outbox) {
        out.push(Output::Mark { call: self.facts.id, mark });
    }

    /// A key of a party, however it was sent. The codes are for those whose phone or tenant is recorded at all.
    pub(super) fn on_digit(&mut self, leg: u8, digit: char, cx: &mut Context<'_>, out: &mut Outbox) {
        let settings = &cx.settings.recording;
        let wanted = &self.recording.wanted;
        let own = if leg == 0 { wanted.caller } else { self.callee_wish(leg) };
        if self.state != State::Answered || strength(own).max(strength(wanted.tenant)) == 0 {
            return;
        }
        let is_always = self.wants_recording(self.bridged) == Record::Always;
        let keys = &mut self.recording.keys;
        if keys.leg != leg || cx.now.instant.since(keys.at) > CODE_PAUSE_MAX || keys.text.len() >= CODE_KEYS_MAX {
            *keys = Keys { leg, ..Keys::default() };
        }
        keys.at = cx.now.instant;
        keys.text.push(digit);
        let is = |code: &str| !code.is_empty() && keys.text.ends_with(code);
        let wish = match self.recording.stage {
            Stage::Off if is(&settings.start_code) => RecordWish::Start,
            // What is always recorded is not stopped by its parties.
            Stage::On | Stage::Paused if is(&settings.start_code) && !is_always => RecordWish::Stop,
            Stage::On if is(&settings.pause_code) => RecordWish::Pause,
            Stage::Paused if is(&settings.pause_code) => RecordWish::Resume,
            _ => return,
        };
        self.recording.keys = Keys::default();
        self.step(cx, leg, What::FeatureCode);
        let by = if leg == 0 { By::Caller } else { By::Callee };
        self.on_record_wish(wish, by, cx, out);
    }
}

const fn strength(wish: Record) -> u8 {
    match wish {
        Record::Never => 0,
        Record::OnDemand => 1,
        Record::Always => 2,
    }
}

/// What the payload types of a party's packets mean.
fn formats(own: &MediaFacts, other: Option<&MediaFacts>) -> Vec<Format> {
    let named = |format: &facts::Format| {
        let name = if format.name.is_empty() { static_name(format.payload_type) } else { &format.name };
        let (payload_type, clock, channels) = (format.payload_type, format.clock, format.channels);
        Format { payload_type, name: name.to_owned(), clock, channels }
    };
    sent_formats(own, other).map(named).collect()
}

/// RFC 3551 §6, table 4.
const fn static_name(payload_type: u8) -> &'static str {
    match payload_type {
        0 => "pcmu",
        3 => "gsm",
        4 => "g723",
        5 | 6 | 16 | 17 => "dvi4",
        7 => "lpc",
        8 => "pcma",
        9 => "g722",
        10 | 11 => "l16",
        12 => "qcelp",
        13 => "cn",
        14 => "mpa",
        15 => "g728",
        18 => "g729",
        _ => "",
    }
}
