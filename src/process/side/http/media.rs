//! The audio of a recording over HTTP: any view of it, whole or any range; its waveform. One of a call that is up: so far.

use std::sync::Arc;

use axum::Extension;
use axum::Json;
use axum::body::Body;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::http::HeaderMap;
use axum::http::HeaderValue;
use axum::http::Method;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::Response;
use futures_util::stream;
use serde::Deserialize;
use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use utoipa::ToSchema;

use crate::machine::recording::Encoding;
use crate::machine::recording::ogg::OggError;
use crate::machine::recording::view::Channels;
use crate::machine::recording::view::View;
use crate::process::side::http::Api;
use crate::process::side::http::guard;
use crate::process::side::http::guard::Visitor;
use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::NoAudio;
use crate::process::side::http::problem::OfOne;
use crate::process::side::http::problem::Problem;
use crate::process::side::http::recordings::Found;
use crate::process::side::http::recordings::READERS;
use crate::process::side::http::recordings::find;
use crate::process::side::http::recordings::note;
use crate::process::side::recording::audio;
use crate::process::side::recording::finish;
use crate::process::side::recording::rows;
use crate::process::side::recording::rows::Shelf;
use crate::process::side::recording::so_far::SoFarError;
use crate::process::side::recording::transcode::OggFile;
use crate::process::side::recording::transcode::Source;
use crate::process::side::recording::transcode::TranscodeError;
use crate::process::side::store::StoreError;
use crate::wire::wav;

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Media {
    /// wav (default: µ-law or A-law where the call was, else PCM of 16 bits), pcm (WAV with PCM of 16 bits) or ogg (Opus; 503
    /// while a long one is being encoded)
    format: Option<String>,
    /// stereo (default: left the caller, right the callee), mono, left or right
    channels: Option<String>,
}

/// Bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "for the description")]
struct AudioFile(Vec<u8>);

/// The audio of a recording. Every access is in the audit.
#[utoipa::path(get, path = "/v1/recordings/{id}/media", operation_id = "get_recording_media", tag = "recordings", 
    params(("id" = String, Path), Media,
        ("Range" = Option<String>, Header, description = "One range of bytes, such as bytes=0-999"),
        ("If-Range" = Option<String>, Header, description = "Only a range of this ETag"),
        ("If-None-Match" = Option<String>, Header, description = "Nothing if it still has this ETag")),
    responses(
    (status = 200, description = "The whole of it", content((AudioFile = "audio/wav"), (AudioFile = "audio/ogg")), headers(
        ("ETag" = String, description = "Of this form of the audio"),
        ("Accept-Ranges" = String, description = "bytes"))),
    (status = 206, description = "The range asked for", content((AudioFile = "audio/wav"), (AudioFile = "audio/ogg")), headers(
        ("Content-Range" = String, description = "Which bytes of how many"))),
    (status = 304, description = "Not changed since the answer with the ETag of If-None-Match"),
    (status = 416, description = "No byte of the range asked for is there", headers(
        ("Content-Range" = String, description = "How many bytes there are"))), OfOne, NoAudio))]
pub(super) async fn media(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    method: Method,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    Params(params): Params<Media>,
) -> Result<Response, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings/{id}/media").await?;
    let (view, format) = (channels(params.channels.as_deref())?, format(params.format.as_deref())?);
    let found = find(&api, &visitor, id).await?;
    let answer = answer(&api, &found, &method, &headers, view, format).await;
    let outcome = match (&answer, method == Method::HEAD) {
        (Err(_), _) => "failed",
        (Ok(_), true) => "head",
        (Ok(_), false) => "done",
    };
    note(&api, &visitor, "recording.read", &found, outcome).await?;
    answer
}

/// Nothing of the audio is sent before the access is noted.
async fn answer(
    api: &Api,
    found: &Found,
    method: &Method,
    headers: &HeaderMap,
    channels: Channels,
    format: Format,
) -> Result<Response, Problem> {
    let audio = audio(api, found, headers.contains_key(header::RANGE)).await?;
    let view = View { encoding: audio.encoding, channels, is_pcm: format != Format::Wav };
    let tag = format!("\"{}-{:?}-{format:?}\"", audio.sha256, view.channels).to_lowercase();
    let mut response = Response::builder()
        .header(header::ETAG, &tag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, format.mime());
    if names(headers, header::IF_NONE_MATCH, &tag) {
        return response.status(StatusCode::NOT_MODIFIED).body(Body::empty()).map_err(broken);
    }
    let content = match format {
        Format::Ogg => {
            let source = Source { reader: audio.reader, len: audio.len, view };
            let made = api.transcoder.file(&tag, source).await;
            if let Err(TranscodeError::File(error)) = &made {
                on_fault(&api.shelf, found.id(), error).await;
            }
            Content::Ogg(made.map_err(not_encoded)?)
        }
        Format::Wav | Format::Pcm => Content::Wav(File::new(audio, view)?),
    };
    let total = content.total();
    // RFC 9110 §13.1.5: a range whose If-Range does not match is not looked at.
    // §14.2: "GET is the only method for which range handling is defined"; of any other it "MUST ignore" the field.
    let is_range =
        *method == Method::GET && (!headers.contains_key(header::IF_RANGE) || names(headers, header::IF_RANGE, &tag));
    let range = headers.get(header::RANGE).filter(|_| is_range).and_then(|range| range.to_str().ok());
    let (start, end) = match range.map_or(Range::Whole, |range| parse_range(range, total)) {
        Range::Whole => (0, total),
        Range::Part(start, end) => {
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {start}-{}/{total}", end - 1));
            (start, end)
        }
        Range::Impossible => {
            let response = response.status(StatusCode::RANGE_NOT_SATISFIABLE);
            return response
                .header(header::CONTENT_RANGE, format!("bytes */{total}"))
                .body(Body::empty())
                .map_err(broken);
        }
    };
    let name = format!("attachment; filename=\"{}.{}\"", found.id(), format.extension());
    let name = HeaderValue::from_str(&name).map_err(|_| Problem::not_found())?;
    let response = response.header(header::CONTENT_LENGTH, end - start).header(header::CONTENT_DISPOSITION, name);
    let body = if *method == Method::HEAD {
        Body::empty()
    } else {
        let (shelf, id) = (Arc::clone(&api.shelf), found.id().to_owned());
        Body::from_stream(stream::unfold((content, start, shelf, id), move |(content, at, shelf, id)| async move {
            let part = content.part(at, end).await?;
            if let Err(error) = &part {
                on_fault(&shelf, &id, error).await;
            }
            let next = part.as_ref().map_or(end, |part| at + part.len() as u64);
            Some((part, (content, next, shelf, id)))
        }))
    };
    response.body(body).map_err(broken)
}

/// Who cannot read audio to its end says so to those who come later.
async fn on_fault(shelf: &Shelf, id: &str, error: &std::io::Error) {
    if let Err(error) = shelf.on_fault(id, error).await {
        tracing::error!(event = "recording.unread", "the verdict of {id}: {error}");
    }
}

/// What a recording is heard from.
struct Audio {
    reader: Arc<audio::Reader>,
    encoding: Encoding,
    /// Bytes of the recording.
    len: u64,
    sha256: String,
}

async fn audio(api: &Api, found: &Found, is_part: bool) -> Result<Audio, Problem> {
    let row = match found {
        Found::Row(row) => row,
        Found::Live(live) => match api.so_far.snapshot(live, is_part).await {
            Ok(Some(snapshot)) => {
                let finish::Finished { encoding, sha256, .. } = &snapshot.finished;
                let (reader, len) = (Arc::clone(&snapshot.reader), snapshot.finished.bytes());
                return Ok(Audio { reader, encoding: *encoding, len, sha256: sha256.clone() });
            }
            Ok(None) => return Err(just_completed()),
            Err(error) => return Err(failed(error)),
        },
    };
    let opened = api.shelf.open(row).await;
    if let Err(StoreError::File(error)) = &opened {
        on_fault(&api.shelf, row.get("id"), error).await;
    }
    let (reader, len) = opened?.ok_or_else(|| no_audio(row))?;
    Ok(Audio { reader: Arc::new(reader), encoding: rows::encoding(row)?, len, sha256: row.get("sha256") })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Wav,
    Pcm,
    Ogg,
}

impl Format {
    const fn mime(self) -> &'static str {
        match self {
            Self::Wav | Self::Pcm => "audio/wav",
            // RFC 7845 §9: "the 'audio/ogg' media type", with the codec named.
            Self::Ogg => "audio/ogg; codecs=opus",
        }
    }

    const fn extension(self) -> &'static str {
        match self {
            Self::Wav | Self::Pcm => "wav",
            Self::Ogg => "ogg",
        }
    }
}

/// What is given out.
enum Content {
    Wav(File),
    Ogg(Arc<OggFile>),
}

impl Content {
    fn total(&self) -> u64 {
        match self {
            Self::Wav(file) => file.total,
            Self::Ogg(file) => file.len,
        }
    }

    /// What comes at `at`, up to `end`; `None` at the end.
    async fn part(&self, at: u64, end: u64) -> Option<std::io::Result<Vec<u8>>> {
        if at >= end {
            return None;
        }
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
        let part = match self {
            Self::Wav(file) => file.part(at, wanted).await,
            Self::Ogg(file) => {
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || file.read(at, wanted.min(audio::CHUNK_BYTES))).await;
                read.map_err(std::io::Error::other).flatten()
            }
        };
        match part {
            Ok(part) if part.is_empty() => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
            part => Some(part),
        }
    }
}

/// A WAV file as it would be if it were written.
struct File {
    reader: Arc<audio::Reader>,
    view: View,
    head: Vec<u8>,
    /// Bytes of the recording.
    stored: u64,
    total: u64,
}

impl File {
    fn new(audio: Audio, view: View) -> Result<Self, Problem> {
        let frames = audio.len / view.stored_bytes() as u64;
        let bytes = frames * view.format().block_bytes() as u64;
        let head = wav::header(view.format(), bytes).map_err(|_| {
            Problem::new(StatusCode::NOT_ACCEPTABLE, "longer than a WAV file can be: ask for one channel, or for ogg")
        })?;
        let total = head.len() as u64 + bytes + bytes % 2;
        Ok(Self { reader: audio.reader, view, head: head.to_vec(), stored: audio.len, total })
    }

    /// So many bytes from `at` on, or fewer.
    async fn part(&self, at: u64, wanted: usize) -> std::io::Result<Vec<u8>> {
        let head = self.head.len() as u64;
        if at < head {
            let rest = self.head.get(at as usize..).unwrap_or_default();
            return Ok(rest.get(..wanted.min(rest.len())).unwrap_or_default().to_vec());
        }
        let (view, reader, stored) = (self.view, Arc::clone(&self.reader), self.stored);
        let unit = view.format().block_bytes() as u64;
        let frame = (at - head) / unit;
        let first = frame * view.stored_bytes() as u64;
        if first >= stored {
            // The byte that makes an odd length even.
            return Ok(vec![0; usize::from(at < self.total)]);
        }
        let read = tokio::task::spawn_blocking(move || reader.read(first, audio::CHUNK_BYTES)).await;
        let stored = read.map_err(std::io::Error::other).flatten()?;
        let mut rendered = Vec::new();
        view.render(&stored, &mut rendered);
        let skip = ((at - head) % unit) as usize;
        rendered.drain(..skip.min(rendered.len()));
        rendered.truncate(wanted);
        Ok(rendered)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    Whole,
    /// First byte, and the one after the last.
    Part(u64, u64),
    Impossible,
}

/// RFC 9110 §14.2: "A server that supports range requests MAY ignore a Range header field" that it does not like: other units,
/// several ranges.
fn parse_range(text: &str, total: u64) -> Range {
    let Some(range) = text.trim().strip_prefix("bytes=").filter(|range| !range.contains(',')) else {
        return Range::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Range::Impossible };
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
    match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() && first < total => Range::Part(first, total),
        (Some(first), Some(last)) if first <= last && first < total => Range::Part(first, last.min(total - 1) + 1),
        (None, Some(suffix)) if first.is_empty() && suffix > 0 && total > 0 => {
            Range::Part(total.saturating_sub(suffix), total)
        }
        _ => Range::Impossible,
    }
}

/// A waveform: the loudest sample of each stretch.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PeaksAnswer {
    /// Milliseconds of a stretch.
    stretch_ms: u64,
    /// 0 to 255.
    left: Vec<u8>,
    right: Vec<u8>,
}

/// The waveform of a recording.
#[utoipa::path(get, path = "/v1/recordings/{id}/peaks", operation_id = "get_recording_peaks", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 200, description = "Its loudest samples", body = PeaksAnswer), OfOne, NoAudio))]
pub(super) async fn peaks(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<Json<PeaksAnswer>, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings/{id}/peaks").await?;
    let (peaks, rate) = match find(&api, &visitor, id).await? {
        Found::Row(row) if row.get::<Option<Vec<u8>>, _>("key").is_none() => return Err(no_audio(&row)),
        Found::Row(row) => (rows::detail(&row)?.peaks, row.get("rate")),
        Found::Live(live) => match api.so_far.snapshot(&live, true).await {
            Ok(Some(snapshot)) => (snapshot.finished.detail.peaks.clone(), snapshot.finished.encoding.rate()),
            Ok(None) => return Err(just_completed()),
            Err(error) => return Err(failed(error)),
        },
    };
    let stretch_ms = u64::from(peaks.stretch) * 1_000 / u64::from(rate.max(1));
    let (left, right) = peaks.peaks.iter().map(|[left, right]| (*left, *right)).unzip();
    Ok(Json(PeaksAnswer { stretch_ms, left, right }))
}

fn channels(text: Option<&str>) -> Result<Channels, Problem> {
    match text {
        None | Some("stereo") => Ok(Channels::Stereo),
        Some("mono") => Ok(Channels::Mono),
        Some("left") => Ok(Channels::Left),
        Some("right") => Ok(Channels::Right),
        Some(_) => Err(Problem::bad_parameter("channels must be stereo, mono, left or right")),
    }
}

fn format(text: Option<&str>) -> Result<Format, Problem> {
    match text {
        None | Some("wav") => Ok(Format::Wav),
        Some("pcm") => Ok(Format::Pcm),
        Some("ogg") => Ok(Format::Ogg),
        Some(_) => Err(Problem::bad_parameter("format must be wav, pcm or ogg")),
    }
}

fn not_encoded(error: TranscodeError) -> Problem {
    let status = match &error {
        TranscodeError::Busy | TranscodeError::Making => StatusCode::SERVICE_UNAVAILABLE,
        TranscodeError::Ogg(OggError::Rate(_)) => StatusCode::NOT_ACCEPTABLE,
        TranscodeError::Ogg(OggError::Encoder) | TranscodeError::File(_) => {
            tracing::error!(event = "recording.encode", "{error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    Problem::new(status, error.to_string())
}

fn names(headers: &HeaderMap, name: header::HeaderName, tag: &str) -> bool {
    let tags = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    tags.split(',').any(|own| own.trim() == tag || own.trim() == "*")
}

/// Whoever asks again gets the whole.
fn just_completed() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the recording is just being completed: ask again")
}

fn failed(error: SoFarError) -> Problem {
    match error {
        SoFarError::Busy => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        SoFarError::File(error) => Problem::from(StoreError::File(error)),
    }
}

fn no_audio(row: &SqliteRow) -> Problem {
    if row.get::<&str, _>("state") == rows::FAILED {
        return Problem::new(StatusCode::CONFLICT, "no recording could be made of the call");
    }
    Problem::new(StatusCode::GONE, "the recording was deleted")
}

fn broken(_: axum::http::Error) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
}
