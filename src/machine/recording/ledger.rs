//! What became of every packet of a recording, by leg; the proof that nothing is missing, or the confession.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::machine::recording::timeline::Party;
use crate::wire::tape::record::Frames;
use crate::wire::tape::record::Untaped;

/// Audio packets are `received = written + duplicated + discarded`; all packets of the tape are that, `other`, `unknown`,
/// `undecodable` and `malformed`. What reached the node and not the tape stands beside them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Audio packets that reached us.
    pub received: u64,
    /// Never reached us: numbers that are missing in the sender's sequence.
    pub lost: u64,
    /// Came again.
    pub duplicated: u64,
    /// Stand in the recording.
    pub written: u64,
    /// Had no place: all of it lay where other audio is already.
    pub discarded: u64,
    /// Not audio: telephone events, comfort noise, empty packets.
    pub other: u64,
    /// Of payload types that nobody named: audio, for all that is known.
    pub unknown: u64,
    /// Audio in a format that this build cannot decode.
    pub undecodable: u64,
    /// Not RTP.
    pub malformed: u64,
    /// Not on the tape: encrypted between the parties.
    pub encrypted: u64,
    /// The negotiated direction let nobody hear them.
    pub direction: u64,
    /// From an address that was not taken for the party's.
    pub strangers: u64,
    /// Lost in our own socket.
    pub overrun: u64,
    /// Not RTP, or longer than any that is recorded.
    pub refused: u64,
}

impl Line {
    /// Packets of the tape that this line accounts for.
    pub const fn packets(&self) -> u64 {
        self.received + self.other + self.unknown + self.undecodable + self.malformed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every packet that reached us from a party, that the other was to hear and that may be audio, is in the recording.
    Complete,
    /// One that reached us is not in it, or nobody can say.
    Degraded,
    /// Audio came under a key that we do not have.
    Encrypted,
}

impl Verdict {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Degraded => "degraded",
            Self::Encrypted => "encrypted",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    lines: BTreeMap<u8, Line>,
    /// Lost of a leg as the engine counted it, which saw also what did not go to the tape.
    #[serde(skip)]
    lost: BTreeMap<u8, u64>,
}

impl Ledger {
    pub(super) fn line(&mut self, leg: u8) -> &mut Line {
        self.lines.entry(leg).or_default()
    }

    pub fn lines(&self) -> impl Iterator<Item = (u8, Party, &Line)> {
        self.lines.iter().map(|(leg, line)| (*leg, Party::of_leg(*leg), line))
    }

    pub(super) fn on_untaped(&mut self, untaped: &[Untaped]) {
        for one in untaped {
            let line = self.line(one.leg);
            line.encrypted += one.encrypted;
            line.direction += one.direction;
            line.strangers += one.strangers;
            line.overrun += one.overrun;
            line.refused += one.malformed;
            *self.lost.entry(one.leg).or_default() += one.lost;
        }
    }

    /// Nothing comes any more. What a direction kept from the tape is missing there, and was not lost.
    pub(super) fn finish(&mut self) {
        for (leg, lost) in std::mem::take(&mut self.lost) {
            self.line(leg).lost = lost;
        }
    }

    /// `expected`: what the engine gave to the tape, of its last mark; `None` if there was none.
    pub fn verdict(&self, expected: Option<&[Frames]>) -> Verdict {
        if self.lines.values().any(|line| line.encrypted > 0) {
            return Verdict::Encrypted;
        }
        let Some(expected) = expected else { return Verdict::Degraded };
        let mut given: BTreeMap<u8, u64> = BTreeMap::new();
        for frames in expected {
            *given.entry(frames.leg).or_default() += frames.frames;
        }
        let is_counted =
            |(leg, frames): (&u8, &u64)| self.lines.get(leg).copied().unwrap_or_default().packets() == *frames;
        let is_written = |line: &Line| {
            // What is no RTP is no audio: phones keep their way through a NAT open with it.
            let missing = [line.undecodable, line.unknown, line.overrun];
            line.received == line.written + line.duplicated && missing == [0; 3]
        };
        let is_whole = given.iter().all(is_counted) && self.lines.values().all(is_written);
        if is_whole { Verdict::Complete } else { Verdict::Degraded }
    }
}
