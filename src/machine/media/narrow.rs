//! An offer of a call that is recorded, without the audio formats that no decoder of ours knows.

use crate::machine::recording::codec::is_recordable;
use crate::wire::sdp::Line;
use crate::wire::sdp::Media;
use crate::wire::sdp::Session;
use crate::wire::sdp::facts::Described;
use crate::wire::sdp::facts::Kind;
use crate::wire::sdp::facts::MediaFacts;
use crate::wire::sdp::number;
use crate::wire::sdp::token;

/// The offer as text. An audio stream of which nothing could be decoded stays as it is: that two can talk comes first. So does one
/// that is encrypted.
pub fn narrowed(session: &Session<'_>) -> Vec<u8> {
    let described = Described::of(session);
    let kept: Vec<Vec<u8>> =
        session.media.iter().zip(&described.media).map(|(media, facts)| kept(media, facts)).collect();
    let media = session.media.iter().zip(&kept).map(|(media, kept)| {
        let lines = media.lines.iter().filter(|line| !is_of_another(line, kept)).copied().collect();
        Media { formats: kept, lines, ..media.clone() }
    });
    let mut out = Vec::with_capacity(1_024);
    Session { head: session.head.clone(), media: media.collect() }.emit(&mut out);
    out
}

/// The formats that stay, as the m-line has them.
fn kept(media: &Media<'_>, facts: &MediaFacts) -> Vec<u8> {
    let is_plain_audio = facts.kind == Kind::Audio && facts.relayable && !facts.profile.is_secure();
    let of = |word: &&[u8]| {
        let payload_type: u8 = number(word)?;
        facts.formats.iter().find(|format| format.payload_type == payload_type)
    };
    let is_kept = |word: &&[u8]| of(word).is_some_and(|format| is_recordable(format).is_some());
    let has_audio = media.formats().any(|word| of(&word).is_some_and(|format| is_recordable(format) == Some(true)));
    if is_plain_audio && has_audio {
        media.formats().filter(is_kept).collect::<Vec<_>>().join(&b' ')
    } else {
        media.formats.to_vec()
    }
}

/// It describes a format that is not among these (RFC 8866 §6.6 and §6.15, RFC 4585 §4.2).
fn is_of_another(line: &Line<'_>, kept: &[u8]) -> bool {
    let Some((b"rtpmap" | b"fmtp" | b"rtcp-fb", value)) = line.attribute() else { return false };
    let Some((format, _)) = token(value) else { return false };
    format != b"*" && !kept.split(|byte| *byte == b' ').any(|word| word == format)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sdp::parse;

    fn check(media: &str, wanted: &str) {
        let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";
        let text = format!("{head}{media}");
        let out = narrowed(&parse(text.as_bytes()).unwrap());
        assert_eq!(String::from_utf8(out).unwrap(), format!("{head}{wanted}"));
    }

    #[test]
    fn what_no_decoder_knows_goes_with_all_its_lines() {
        check(
            "m=audio 4000 RTP/AVP 3 97 0 98 101 13\r\na=rtpmap:97 speex/8000\r\na=fmtp:97 mode=any\r\na=rtpmap:98 opus/48000/2\r\n\
             a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=rtcp-fb:97 nack\r\na=rtcp-fb:* nack\r\na=sendrecv\r\n",
            "m=audio 4000 RTP/AVP 0 98 101 13\r\na=rtpmap:98 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n\
             a=fmtp:101 0-15\r\na=rtcp-fb:* nack\r\na=sendrecv\r\n",
        );
        check("m=audio 4000 RTP/AVP 18 8\r\na=fmtp:18 annexb=no\r\n", "m=audio 4000 RTP/AVP 8\r\n");
    }

    #[test]
    fn what_would_have_nothing_left_is_encrypted_or_no_audio_stays() {
        for media in [
            "m=audio 4000 RTP/AVP 3 101\r\na=rtpmap:101 telephone-event/8000\r\n",
            "m=audio 4000 RTP/SAVP 3 0\r\n",
            "m=audio 0 RTP/AVP 3 0\r\n",
            "m=video 4000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\n",
            "m=image 4000 udptl t38\r\n",
        ] {
            check(media, media);
        }
    }
}
