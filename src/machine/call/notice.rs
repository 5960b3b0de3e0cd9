//! What the relay says about the call's media.

use crate::machine::call::Call;
use crate::machine::call::State;
use crate::machine::call::change::Change;
use crate::machine::call::input::Context;
use crate::machine::call::trace::What;
use crate::machine::media::command::MediaNotice;
use crate::machine::media::command::Notice;
use crate::machine::media::quality::Report;
use crate::machine::outbox::Outbox;
use crate::wire::event::Body;
use crate::wire::event::By;
use crate::wire::event::Cause;
use crate::wire::event::MediaReport;

impl Call {
    pub(super) fn on_notice(&mut self, notice: MediaNotice, cx: &mut Context<'_>, out: &mut Outbox) {
        let leg = notice.owner.leg;
        let stream = notice.owner.media;
        match notice.notice {
            Notice::Latched { .. } => {
                self.step(cx, leg, What::MediaHeard { stream });
                self.facts.event(Some(leg), Body::MediaStarted { stream }, out);
            }
            Notice::Relatched { from, to } => {
                self.step(cx, leg, What::MediaMoved { stream });
                let body = Body::MediaMoved { stream, from: from.to_string(), to: to.to_string() };
                self.tell_change(leg, Change::MediaMoved { stream }, body, cx, out);
            }
            Notice::OneWay { .. } => {
                self.step(cx, leg, What::MediaOneWay { stream });
                self.tell_change(leg, Change::OneWay { stream }, Body::MediaOneWay { stream }, cx, out);
            }
            Notice::OneWayOver => {
                self.step(cx, leg, What::MediaOneWayOver { stream });
                self.tell_over(leg, Change::OneWay { stream }, Body::MediaOneWayOver { stream }, out);
            }
            Notice::Silent { .. } => {
                self.step(cx, leg, What::MediaSilent { stream });
                self.on_silent(cx, out);
            }
            Notice::Closed { report } => {
                self.on_taped(leg, stream, report.taped, report.untaped);
                self.on_report(leg, stream, &report, out);
            }
            Notice::Taped { frames, untaped } => {
                self.on_taped(leg, stream, frames, untaped);
                self.on_tape_off(out);
            }
            Notice::Announced { played } => self.on_announced(leg, played, cx, out),
            Notice::Digit { digit } => self.on_digit(leg, digit, cx, out),
        }
    }

    /// A phone that was to be heard is not, and neither is its RTCP: it vanished.
    fn on_silent(&mut self, cx: &mut Context<'_>, out: &mut Outbox) {
        if self.state != State::Answered {
            return;
        }
        // Q.850 102: recovery on timer expiry.
        let cause = Cause { sip: 408, q850: 102, text: "media timeout".to_owned(), by: By::Timer };
        self.end(cause, b"Q.850 ;cause=102 ;text=\"media timeout\"", cx, out);
    }

    fn on_report(&mut self, leg: u8, stream: u8, report: &Report, out: &mut Outbox) {
        if matches!(self.state, State::Ended) {
            return;
        }
        let talked = self.facts.was_answered() && (leg == 0 || leg == self.bridged);
        if talked || report.packets > 0 {
            let report = published(stream, report);
            self.facts.event(Some(leg), Body::MediaReported { report }, out);
        }
        self.reports_awaited = self.reports_awaited.saturating_sub(1);
        if self.reports_awaited == 0 {
            self.finish(out);
        }
    }
}

fn published(stream: u8, report: &Report) -> MediaReport {
    let micros = |duration: std::time::Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
    MediaReport {
        stream,
        packets: report.packets,
        bytes: report.bytes,
        lost: report.lost,
        reordered: report.reordered,
        duplicated: report.duplicates,
        jitter_us: micros(report.jitter),
        round_trip_us: report.round_trip.map(micros),
        relatches: report.relatches,
        strangers: report.strangers,
        one_way: report.one_way,
    }
}
