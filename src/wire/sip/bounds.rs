//! How much of anything one message may say, judged before anything of it is kept (RFC 3261 §21.4.1, §21.4.11, §21.4.12, §21.5.7).

use crate::base::limit::SIP_ADDRESS_BYTES_MAX;
use crate::base::limit::SIP_BODY_BYTES_MAX;
use crate::base::limit::SIP_CALL_ID_BYTES_MAX;
use crate::base::limit::SIP_HEAD_BYTES_MAX;
use crate::base::limit::SIP_NUMBER_LETTERS_MAX;
use crate::base::limit::SIP_REMARK_BYTES_MAX;
use crate::base::limit::SIP_ROUTE_BYTES_MAX;
use crate::base::limit::SIP_URI_BYTES_MAX;
use crate::base::limit::SIP_VIA_BYTES_MAX;
use crate::base::limit::SIP_VIAS_MAX;
use crate::base::limit::SIP_WORD_BYTES_MAX;
use crate::wire::sip::Fault;
use crate::wire::sip::HeaderId;
use crate::wire::sip::Message;
use crate::wire::sip::Method;
use crate::wire::sip::Uri;
use crate::wire::sip::message::Span;

/// Header fields with a bound of their own. What they say is kept in a transaction, a dialog, a record, or passes to the other party.
const BOUNDED: [(HeaderId, usize); 19] = [
    (HeaderId::Via, SIP_VIA_BYTES_MAX),
    (HeaderId::From, SIP_ADDRESS_BYTES_MAX),
    (HeaderId::To, SIP_ADDRESS_BYTES_MAX),
    (HeaderId::CallId, SIP_CALL_ID_BYTES_MAX),
    (HeaderId::CSeq, SIP_WORD_BYTES_MAX),
    (HeaderId::Contact, SIP_ADDRESS_BYTES_MAX),
    (HeaderId::RecordRoute, SIP_ROUTE_BYTES_MAX),
    (HeaderId::Route, SIP_ROUTE_BYTES_MAX),
    (HeaderId::Path, SIP_ROUTE_BYTES_MAX),
    (HeaderId::Timestamp, SIP_WORD_BYTES_MAX),
    (HeaderId::ContentType, SIP_REMARK_BYTES_MAX),
    (HeaderId::ContentDisposition, SIP_REMARK_BYTES_MAX),
    (HeaderId::InfoPackage, SIP_REMARK_BYTES_MAX),
    (HeaderId::Reason, SIP_REMARK_BYTES_MAX),
    (HeaderId::Subject, SIP_REMARK_BYTES_MAX),
    (HeaderId::Priority, SIP_REMARK_BYTES_MAX),
    (HeaderId::AcceptLanguage, SIP_REMARK_BYTES_MAX),
    (HeaderId::UserToUser, SIP_REMARK_BYTES_MAX),
    (HeaderId::Warning, SIP_REMARK_BYTES_MAX),
];
/// Where a header stands in [`BOUNDED`]; the length of that if it does not.
const PLACES: [u8; 128] = places();

/// The first thing that there is too much of.
pub(super) fn excess(message: &Message<'_>) -> Result<(), Fault> {
    // First, because To says it again as a rule.
    if message.request().is_some_and(|request| request.uri.len() > SIP_URI_BYTES_MAX) || has_long_number(message) {
        return Err(Fault::UriTooLong);
    }
    long_headers(message)?;
    if message.body.len() > SIP_BODY_BYTES_MAX {
        return Err(Fault::BodyTooLarge);
    }
    if message.bytes.len().saturating_sub(message.body.len()) > SIP_HEAD_BYTES_MAX {
        return Err(Fault::HeadTooLong);
    }
    Ok(())
}

/// All lines of a header together count.
fn long_headers(message: &Message<'_>) -> Result<(), Fault> {
    let mut sums = [0usize; BOUNDED.len()];
    for span in &message.spans {
        let place = PLACES.get(span.id as usize).map_or(usize::MAX, |place| usize::from(*place));
        let (Some((id, most)), Some(sum)) = (BOUNDED.get(place), sums.get_mut(place)) else { continue };
        *sum = sum.saturating_add(length(span));
        if *sum > *most && !is_list_of_bindings(message, *id) {
            return Err(Fault::TooLong(*id));
        }
    }
    if message.values(HeaderId::Via).nth(SIP_VIAS_MAX).is_some() {
        return Err(Fault::TooLong(HeaderId::Via));
    }
    Ok(())
}

/// The registrar bounds each one of them, and their number.
fn is_list_of_bindings(message: &Message<'_>, id: HeaderId) -> bool {
    id == HeaderId::Contact && message.method() == Method::Register
}

/// What is dialled; an escaped letter is one. RFC 3261 §21.4.12: "the Request-URI is longer than the server is willing to interpret".
fn has_long_number(message: &Message<'_>) -> bool {
    let number = match message.request_uri() {
        Ok(Uri::Sip(uri)) => uri.user.unwrap_or_default(),
        Ok(Uri::Tel(uri)) => uri.number,
        _ => return false,
    };
    if number.len() <= SIP_NUMBER_LETTERS_MAX {
        return false;
    }
    let number = number.split(|byte| *byte == b';').next().unwrap_or_default();
    let escapes = number.iter().filter(|byte| **byte == b'%').count();
    number.len().saturating_sub(escapes.saturating_mul(2)) > SIP_NUMBER_LETTERS_MAX
}

fn length(span: &Span) -> usize {
    usize::from(span.value_end.saturating_sub(span.value_start))
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler only; a fault stops the build"
)]
const fn places() -> [u8; 128] {
    let mut places = [BOUNDED.len() as u8; 128];
    let mut at = 0;
    while at < BOUNDED.len() {
        places[BOUNDED[at].0 as usize] = at as u8;
        at += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sip::DropReason;
    use crate::wire::sip::Scan;
    use crate::wire::sip::Transport;
    use crate::wire::sip::scan;

    fn request(method: &str, uri: &str, lines: &str, body: &str) -> String {
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
             CSeq: 1 {method}\r\n{lines}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    fn fault(text: &str) -> Option<Fault> {
        match scan(text.as_bytes(), Transport::Udp) {
            Scan::Ok(_) => None,
            Scan::Answerable { fault, .. } => Some(fault),
            Scan::Drop(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn each_bound_is_the_last_that_passes() {
        let lines = |more: String| request("INVITE", "sip:a@b", &format!("{more}\r\nCall-ID: x\r\n"), "");
        let long = |id: HeaderId| Some(Fault::TooLong(id));
        let via = "SIP/2.0/UDP h;branch=z9hG4bK1".len();
        let subject = |most: usize| lines(format!("Subject: {}", "s".repeat(most)));
        let vias = |most: usize| lines(format!("Via: {}", vec!["SIP/2.0/UDP h"; most].join(",")));
        let branch = |most: usize| {
            let start = "SIP/2.0/UDP h;x=";
            lines(format!("Via: {start}{}", "v".repeat(most - via - start.len())))
        };
        let route = |most: usize| lines(format!("Record-Route: <sip:{}>", "r".repeat(most - 6)));
        let contact = |most: usize| lines(format!("Contact: <sip:{}>", "c".repeat(most - 6)));
        let call_id = |most: usize| request("INVITE", "sip:a@b", &format!("Call-ID: {}\r\n", "i".repeat(most)), "");
        let uri =
            |most: usize| request("INVITE", &format!("sip:a@b;x={}", "u".repeat(most - 10)), "Call-ID: x\r\n", "");
        let number = |most: usize| request("INVITE", &format!("sip:{}@b", "1".repeat(most)), "Call-ID: x\r\n", "");
        let escaped =
            |most: usize| request("INVITE", &format!("sip:{};x=y@b", "%31".repeat(most)), "Call-ID: x\r\n", "");
        let tel = |most: usize| request("INVITE", &format!("tel:+{}", "1".repeat(most - 1)), "Call-ID: x\r\n", "");
        let body = |most: usize| request("INVITE", "sip:a@b", "Call-ID: x\r\n", &"b".repeat(most));
        type Maker<'a> = &'a dyn Fn(usize) -> String;
        let cases: [(Maker<'_>, usize, Option<Fault>); 11] = [
            (&subject, SIP_REMARK_BYTES_MAX, long(HeaderId::Subject)),
            (&vias, SIP_VIAS_MAX - 1, long(HeaderId::Via)),
            (&branch, SIP_VIA_BYTES_MAX, long(HeaderId::Via)),
            (&route, SIP_ROUTE_BYTES_MAX, long(HeaderId::RecordRoute)),
            (&contact, SIP_ADDRESS_BYTES_MAX, long(HeaderId::Contact)),
            (&call_id, SIP_CALL_ID_BYTES_MAX, long(HeaderId::CallId)),
            (&uri, SIP_URI_BYTES_MAX, Some(Fault::UriTooLong)),
            (&number, SIP_NUMBER_LETTERS_MAX, Some(Fault::UriTooLong)),
            (&escaped, SIP_NUMBER_LETTERS_MAX, Some(Fault::UriTooLong)),
            (&tel, SIP_NUMBER_LETTERS_MAX, Some(Fault::UriTooLong)),
            (&body, SIP_BODY_BYTES_MAX, Some(Fault::BodyTooLarge)),
        ];
        for (index, (make, most, beyond)) in cases.into_iter().enumerate() {
            assert_eq!(fault(&make(most)), None, "case {index}");
            assert_eq!(fault(&make(most + 1)), beyond, "case {index}");
        }
        let unknown = lines(format!("X-Unknown: {}", "x".repeat(SIP_HEAD_BYTES_MAX)));
        assert_eq!(fault(&unknown), Some(Fault::HeadTooLong));
    }

    #[test]
    fn a_register_may_name_all_its_contacts() {
        let contacts: Vec<_> = (0..10).map(|n| format!("<sip:{n}{}@h>", "c".repeat(1_000))).collect();
        let contacts = format!("Call-ID: x\r\nContact: {}\r\n", contacts.join(", "));
        assert_eq!(fault(&request("REGISTER", "sip:b", &contacts, "")), None);
        assert_eq!(fault(&request("INVITE", "sip:b", &contacts, "")), Some(Fault::TooLong(HeaderId::Contact)));
    }

    #[test]
    fn a_response_beyond_the_bounds_is_dropped() {
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=2\r\nCSeq: 1 INVITE\r\n\
             Call-ID: {}\r\n\r\n",
            "i".repeat(SIP_CALL_ID_BYTES_MAX + 1)
        );
        let dropped = scan(text.as_bytes(), Transport::Udp);
        let wanted = DropReason::Response(Fault::TooLong(HeaderId::CallId));
        assert!(matches!(dropped, Scan::Drop(reason) if reason == wanted), "{dropped:?}");
    }
}
