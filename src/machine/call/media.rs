//! The media side of one party: our ports towards it, what it said and what we said in its dialog (RFC 3264).
//!
//! Descriptions are rewritten by `machine::media`; here is only which ports stand in them and what the relay is told.

use std::net::IpAddr;
use std::net::Ipv4Addr;

use serde::Deserialize;
use serde::Serialize;

use crate::machine::call::input::Context;
use crate::machine::dialog::Text;
use crate::machine::flow::Flow;
use crate::machine::media::command::Expectation;
use crate::machine::media::command::MediaCommand;
use crate::machine::media::command::Owner;
use crate::machine::media::command::PairId;
use crate::machine::media::narrow;
use crate::machine::media::ports::Family;
use crate::machine::media::ports::PortError;
use crate::machine::media::rewrite::LocalDescription;
use crate::machine::media::rewrite::LocalPorts;
use crate::machine::media::rewrite::conformed;
use crate::machine::media::rewrite::fitted;
use crate::machine::media::rewrite::padded;
use crate::machine::media::rewrite::rewrite;
use crate::machine::outbox::Outbox;
use crate::machine::outbox::Output;
use crate::machine::settings::Settings;
use crate::wire::link::Symmetric;
use crate::wire::sdp;
use crate::wire::sdp::Session;
use crate::wire::sdp::facts::Described;
use crate::wire::sdp::facts::Kind;
use crate::wire::sdp::facts::MediaFacts;

/// Our pairs of ports towards one party, by m-line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ports {
    leg: u8,
    interface: u8,
    family: Family,
    pairs: Vec<Option<PairId>>,
}

/// What was said in one dialog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    local: LocalDescription,
    /// Our last offer or answer; empty before the first.
    sent: Text,
    /// What `sent` was before an offer that is not answered yet.
    before: Option<Text>,
    /// The party's last offer or answer.
    theirs: Option<Described>,
}

/// Why a description leads to no media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoMedia {
    /// Malformed, or nothing in it that we relay: 488.
    #[error("nothing acceptable in the session description")]
    NotAcceptable,
    /// 503.
    #[error("no RTP ports left")]
    NoPorts,
    /// We have no address of the party's family: 488 with a Warning.
    #[error("no media address of the party's family")]
    NoFamily,
}

impl NoMedia {
    pub(super) fn status(self) -> u16 {
        match self {
            Self::NotAcceptable | Self::NoFamily => 488,
            Self::NoPorts => 503,
        }
    }

    /// Header lines that say why.
    pub(super) fn said(self) -> Text {
        match self {
            Self::NoFamily => FAMILY_WARNING.into(),
            Self::NotAcceptable | Self::NoPorts => Text::default(),
        }
    }
}

/// RFC 3261 §20.43: 301, "One or more network address formats contained in the session description are not available."
pub(super) const FAMILY_WARNING: &[u8] = b"Warning: 301 tipring \"no media address of that family\"\r\n";

impl From<PortError> for NoMedia {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Exhausted | PortError::Share => Self::NoPorts,
            PortError::NoAddress => Self::NotAcceptable,
        }
    }
}

impl Ports {
    /// `family` is what the party speaks, as far as it is known; the interface may have only the other.
    pub(super) fn new(leg: u8, flow: Flow, family: Option<Family>, settings: &Settings) -> Self {
        let listener = settings.listeners.get(usize::from(flow.listener));
        let interface = listener.map_or(0, |listener| listener.interface);
        let wanted = family.unwrap_or_else(|| Family::of(flow.peer.ip().to_canonical()));
        let has = |family| has_family(interface, family, settings);
        let family = match wanted {
            Family::Ipv4 if !has(Family::Ipv4) && has(Family::Ipv6) => Family::Ipv6,
            Family::Ipv6 if !has(Family::Ipv6) && has(Family::Ipv4) => Family::Ipv4,
            wanted => wanted,
        };
        Self { leg, interface, family, pairs: Vec::new() }
    }

    /// What the party described can be sent to from these ports. One that named no address yet can.
    pub(super) fn reaches(&self, theirs: &Described) -> bool {
        family_of(theirs).is_none_or(|family| family == self.family)
    }

    /// The same, from these or from ports of the other family.
    pub(super) fn may_reach(&self, theirs: &Described, settings: &Settings) -> Result<(), NoMedia> {
        let has = |family| has_family(self.interface, family, settings);
        let reached = self.reaches(theirs) || family_of(theirs).is_some_and(has);
        if reached { Ok(()) } else { Err(NoMedia::NoFamily) }
    }

    /// For a party that offers media of the other family: its ports are to be of that. How many reports will come.
    pub(super) fn turn_to(
        &mut self,
        theirs: &Described,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Result<u8, NoMedia> {
        self.may_reach(theirs, cx.settings)?;
        let Some(family) = family_of(theirs).filter(|family| *family != self.family) else { return Ok(0) };
        let reports = self.close(cx, out);
        self.family = family;
        Ok(reports)
    }

    pub(super) fn pairs(&self) -> impl Iterator<Item = PairId> + '_ {
        self.pairs.iter().flatten().copied()
    }

    /// Opens what the streams of a description need and is not there yet. On failure the caller closes all.
    pub(super) fn fit(
        &mut self,
        described: &Described,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Result<(), PortError> {
        for (index, _) in described.relayable() {
            if self.pairs.len() <= index {
                self.pairs.resize(index + 1, None);
            }
            if self.pairs[index].is_some() {
                continue;
            }
            let pair = cx.ports.allocate(self.interface, self.family, cx.now.instant)?;
            self.pairs[index] = Some(pair);
            let Some(bound) = cx.ports.pair(pair) else { continue };
            let media = u8::try_from(index).unwrap_or(u8::MAX);
            let owner = Owner { call: cx.handle, leg: self.leg, media };
            out.push(Output::Media(MediaCommand::Open { pair, owner, local: bound.rtp }));
        }
        Ok(())
    }

    /// Gives back the ports of streams that are not `used`; how many reports will come.
    fn close_unused(&mut self, used: impl Fn(usize) -> bool, cx: &mut Context<'_>, out: &mut Outbox) -> u8 {
        let mut reports = 0;
        for (_, place) in self.pairs.iter_mut().enumerate().filter(|(index, _)| !used(*index)) {
            if let Some(pair) = place.take() {
                cx.ports.free(pair, cx.now.instant);
                out.push(Output::Media(MediaCommand::Close { pair }));
                reports += 1;
            }
        }
        reports
    }

    /// Gives all ports back; how many reports will come.
    pub(super) fn close(&mut self, cx: &mut Context<'_>, out: &mut Outbox) -> u8 {
        let mut reports = 0;
        for pair in self.pairs.drain(..).flatten() {
            cx.ports.free(pair, cx.now.instant);
            out.push(Output::Media(MediaCommand::Close { pair }));
            reports += 1;
        }
        reports
    }

    fn address(&self, settings: &Settings) -> IpAddr {
        let interface = settings.interfaces.get(usize::from(self.interface));
        let address = interface.and_then(|interface| match self.family {
            Family::Ipv4 => interface.ipv4,
            Family::Ipv6 => interface.ipv6,
        });
        address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.advertise)
    }

    /// `reader` is what the party on these ports offered, if this is an answer.
    fn local(&self, reader: Option<&Described>, cx: &Context<'_>) -> Vec<Option<LocalPorts>> {
        let ports = |(index, pair): (usize, &Option<PairId>)| {
            let pair = cx.ports.pair((*pair)?)?;
            let mux = reader.is_none_or(|offer| offer.media.get(index).is_some_and(|media| media.rtcp_mux));
            Some(LocalPorts { rtp: pair.rtp.port(), rtcp: pair.rtcp.port(), mux })
        };
        self.pairs.iter().enumerate().map(ports).collect()
    }
}

fn has_family(interface: u8, family: Family, settings: &Settings) -> bool {
    settings.interfaces.get(usize::from(interface)).is_some_and(|interface| match family {
        Family::Ipv4 => interface.ipv4.is_some(),
        Family::Ipv6 => interface.ipv6.is_some(),
    })
}

impl Description {
    pub(super) fn new(session_id: u64) -> Self {
        Self { local: LocalDescription::new(session_id), sent: Text::default(), before: None, theirs: None }
    }

    /// Our last description, for a refresh or a 2xx that repeats the answer of a reliable provisional response.
    pub(super) fn sent(&self) -> Option<&[u8]> {
        Some(&*self.sent).filter(|sent| !sent.is_empty())
    }

    /// The party answered our last offer.
    pub(super) fn agree(&mut self) {
        self.before = None;
    }

    /// It refused: RFC 3261 §14.1, "the session parameters" are what they were.
    pub(super) fn withdraw(&mut self) {
        if let Some(before) = self.before.take() {
            self.sent = self.local.again(&before).into();
        }
    }

    pub(super) fn theirs(&self) -> Option<&Described> {
        self.theirs.as_ref()
    }

    pub(super) fn hear(&mut self, theirs: Described) {
        self.theirs = Some(theirs);
    }

    /// Writes the other party's offer for this one; if it is `narrow`, without what no recording could decode.
    pub(super) fn offer(
        &mut self,
        other: &[u8],
        narrow: bool,
        ports: &mut Ports,
        cx: &mut Context<'_>,
        out: &mut Outbox,
    ) -> Result<Text, NoMedia> {
        let session = sdp::parse(other).map_err(|_| NoMedia::NotAcceptable)?;
        ports.fit(&Described::of(&session), cx, out)?;
        let narrowed = if narrow { narrow::narrowed(&session) } else { Vec::new() };
        let session = if narrow { sdp::parse(&narrowed).map_err(|_| NoMedia::NotAcceptable)? } else { session };
        let session = match sdp::parse(&self.sent) {
            Ok(before) => padded(session, &before),
            Err(_) => session,
        };
        let bytes = rewrite(&session, ports.address(cx.settings), &ports.local(None, cx), &mut self.local);
        let before = std::mem::replace(&mut self.sent, bytes.into());
        if !before.is_empty() {
            self.before.get_or_insert(before);
        }
        Ok(self.sent.clone())
    }

    /// Writes the other party's answer for this one, whose offer was heard.
    pub(super) fn answer(&mut self, other: &Answer<'_>, ports: &Ports, cx: &Context<'_>) -> Text {
        let local = ports.local(self.theirs.as_ref(), cx);
        let bytes = rewrite(&other.session, ports.address(cx.settings), &local, &mut self.local);
        self.sent = bytes.into();
        self.sent.clone()
    }

    /// The answer to an offer that nobody waits for any more: streams that fit it stay as they were agreed, all others are
    /// refused. What was agreed is to be offered again.
    pub(super) fn answer_late(&mut self, offer: &[u8]) -> Option<Text> {
        let (sent, offer) = (sdp::parse(&self.sent).ok()?, sdp::parse(offer).ok()?);
        let answer = self.local.again(&fitted(&sent, &offer));
        self.sent = self.local.again(&self.sent).into();
        Some(answer.into())
    }
}

fn read(bytes: &[u8]) -> Result<Described, NoMedia> {
    let session = sdp::parse(bytes).map_err(|_| NoMedia::NotAcceptable)?;
    Ok(Described::of(&session))
}

pub(super) fn described(bytes: &[u8]) -> Option<Described> {
    read(bytes).ok()
}

/// An offer must have something that we relay, unless all its streams are out of use.
pub(super) fn read_offer(bytes: &[u8]) -> Result<Described, NoMedia> {
    let described = read(bytes)?;
    let is_used = described.media.iter().any(|media| media.port != 0);
    if is_used && described.relayable().next().is_none() {
        return Err(NoMedia::NotAcceptable);
    }
    Ok(described)
}

/// An answer of a phone, with the m-lines of the offer.
pub(super) struct Answer<'a> {
    session: Session<'a>,
    pub described: Described,
    /// Streams that the phone wants, and none of them was offered so.
    pub fits_nowhere: bool,
}

/// Reads the answer to an offer.
pub(super) fn read_answer<'a>(bytes: &'a [u8], offer: &'a Described) -> Result<Answer<'a>, NoMedia> {
    let said = sdp::parse(bytes).map_err(|_| NoMedia::NotAcceptable)?;
    let session = conformed(&said, offer);
    let in_use = |session: &Session<'_>| session.media.iter().any(|media| media.port != 0);
    let fits_nowhere = in_use(&said) && !in_use(&session);
    Ok(Answer { described: Described::of(&session), session, fits_nowhere })
}

pub(super) fn family_of(described: &Described) -> Option<Family> {
    described.relayable().find_map(|(_, media)| media.rtp).map(|address| Family::of(address.ip().to_canonical()))
}

/// One end of a bridge, as the relay must know it.
pub(super) struct End<'a> {
    pub ports: &'a Ports,
    pub theirs: Option<&'a Described>,
    pub flow: Flow,
    pub symmetric: Symmetric,
}

/// Tells the relay what both parties said; `bridge` joins them.
pub(super) fn connect(a: &End<'_>, b: &End<'_>, bridge: bool, settings: &Settings, out: &mut Outbox) {
    expect(b, a.theirs, settings, out);
    // What a branch says that the caller does not hear must not change the caller's side.
    if !bridge {
        return;
    }
    expect(a, b.theirs, settings, out);
    for (a, b) in a.ports.pairs.iter().zip(&b.ports.pairs) {
        if let (Some(a), Some(b)) = (*a, *b) {
            out.push(Output::Media(MediaCommand::Bridge { a, b }));
        }
    }
}

fn expect(end: &End<'_>, other: Option<&Described>, settings: &Settings, out: &mut Outbox) {
    let Some(theirs) = end.theirs else { return };
    let interface = settings.interfaces.get(usize::from(end.ports.interface));
    let anybody = interface.is_some_and(|interface| interface.from_anywhere);
    let signalling = end.flow.peer.ip().to_canonical();
    for (index, media) in theirs.relayable() {
        let Some(pair) = end.ports.pairs.get(index).copied().flatten() else { continue };
        let other = other.and_then(|other| other.media.get(index));
        let symmetric = end.symmetric;
        let expectation = Expectation { symmetric, anybody, ..Expectation::new(media, other, signalling) };
        out.push(Output::Media(MediaCommand::Expect { pair, expectation }));
    }
}

/// While an offer is on its way: `sender` may send what the offerer wants to receive and their directions do not let through yet.
/// RFC 3264 §5.1: "Once the offerer has sent the offer, it MUST be prepared to receive media for any recvonly streams described by
/// that offer. It MUST be prepared to send and receive media for any sendrecv streams in the offer".
pub(super) fn permit(
    ports: &Ports,
    sender: Option<&Described>,
    offerer: Option<&Described>,
    offered: &Described,
    on: bool,
    out: &mut Outbox,
) {
    let (Some(theirs), Some(before)) = (sender, offerer) else { return };
    for (index, _) in offered.relayable().filter(|(_, media)| media.receives()) {
        let sends = theirs.media.get(index).is_some_and(MediaFacts::sends);
        let is_open = sends && before.media.get(index).is_some_and(MediaFacts::receives);
        if let Some(pair) = ports.pairs.get(index).copied().flatten().filter(|_| !is_open) {
            out.push(Output::Media(MediaCommand::Permit { pair, on }));
        }
    }
}

/// After an offer was answered or refused: ports stay open for the streams that both parties use. Returns how many reports
/// will come.
pub(super) fn close_unused(sides: [(&mut Ports, Option<&Described>); 2], cx: &mut Context<'_>, out: &mut Outbox) -> u8 {
    let [(a, said_by_a), (b, said_by_b)] = sides;
    let (Some(said_by_a), Some(said_by_b)) = (said_by_a, said_by_b) else { return 0 };
    let uses = |said: &Described, index: usize| said.media.get(index).is_some_and(|media| media.relayable);
    let used = |index| uses(said_by_a, index) && uses(said_by_b, index);
    a.close_unused(used, cx, out) + b.close_unused(used, cx, out)
}

/// The audio streams of a party that are relayed: index of the m-line, our pair, and how the party described it.
pub(super) fn audio<'a>(
    ports: &'a Ports,
    theirs: &'a Described,
) -> impl Iterator<Item = (u8, PairId, &'a MediaFacts)> + 'a {
    theirs.relayable().filter(|(_, media)| media.kind == Kind::Audio).filter_map(|(index, media)| {
        Some((u8::try_from(index).ok()?, ports.pairs.get(index).copied().flatten()?, media))
    })
}

/// From the answer on a promised stream that stays silent is told.
pub(super) fn watch(ports: &Ports, out: &mut Outbox) {
    for pair in ports.pairs() {
        out.push(Output::Media(MediaCommand::Watch { pair, on: true }));
    }
}
