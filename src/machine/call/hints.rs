//! What a refusal says beside its status: why, and what would be taken instead. It goes on to whoever asked, as header lines.

use crate::machine::call::ending::reason_of;
use crate::machine::call::head::understood;
use crate::machine::call::respond::status_of;
use crate::machine::dialog::Text;
use crate::machine::media::rewrite::addresses;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Writer;
use crate::wire::sip::write;

const ACCEPTS: [HeaderId; 3] = [HeaderId::Accept, HeaderId::AcceptEncoding, HeaderId::AcceptLanguage];

/// The lines of a refusal that tell more than its status.
pub(super) fn of(refusal: &Message<'_>) -> Text {
    let mut lines = Vec::new();
    let mut writer = write::fragment(&mut lines);
    let reason = reason_of(refusal);
    if !reason.is_empty() {
        writer.header(HeaderId::Reason, &reason);
    }
    for id in by_status(status_of(refusal)) {
        writer.copy(refusal, *id);
    }
    warnings(refusal, &mut writer);
    lines.into()
}

/// The line with these values of Reason.
pub(super) fn reason(values: &[u8]) -> Text {
    let mut line = Vec::new();
    write::fragment(&mut line).header(HeaderId::Reason, values);
    line.into()
}

/// RFC 3261 §20 and §21: the header fields by which a request can be made better.
fn by_status(status: u16) -> &'static [HeaderId] {
    match status {
        405 => &[HeaderId::Allow],
        415 => &ACCEPTS,
        420 => &[HeaderId::Unsupported],
        // RFC 6086 §4.2.2.
        469 => &[HeaderId::RecvInfo],
        404 | 413 | 480 | 486 | 500 | 503 | 600 | 603 => &[HeaderId::RetryAfter],
        _ => &[],
    }
}

/// RFC 3261 §20.43: code, agent, text. The agent is a host of the other side, so we stand there instead; a text that names an
/// address stays behind.
fn warnings(refusal: &Message<'_>, writer: &mut Writer<'_>) {
    for warning in refusal.values(HeaderId::Warning) {
        let mut words = warning.splitn(3, |byte| *byte == b' ');
        let (Some(code), Some(_), Some(text)) = (words.next(), words.next(), words.next()) else { continue };
        let is_code = code.len() == 3 && code.iter().all(u8::is_ascii_digit);
        if is_code && text.starts_with(b"\"") && addresses(text).next().is_none() {
            writer.header(HeaderId::Warning, [code, b" tipring ", text].concat());
        }
    }
}

/// RFC 3261 §21.4.13: a 415 "MUST return a list of acceptable formats using the Accept, Accept-Encoding, or Accept-Language header
/// field". Ours, where the other side gave none.
pub(super) fn complete_415(said: &[u8], writer: &mut Writer<'_>) {
    if !ACCEPTS.iter().any(|id| says(said, *id)) {
        understood(writer);
    }
}

pub(super) fn says(said: &[u8], id: HeaderId) -> bool {
    let name = id.name().as_bytes();
    said.split(|byte| *byte == b'\n').any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(b":")))
}
