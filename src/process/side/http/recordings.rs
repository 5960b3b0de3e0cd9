//! `/v1/recordings`: which there are, their audio in any range, their waveform; deleting and holding; recording a call that is up.

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
use sqlx::QueryBuilder;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::sqlite::SqliteRow;
use utoipa::ToSchema;

use crate::base::id::CallId;
use crate::machine::recording::Party;
use crate::machine::recording::view::Channels;
use crate::machine::recording::view::View;
use crate::process::side::audit;
use crate::process::side::audit::Entry;
use crate::process::side::clock;
use crate::process::side::http::Api;
use crate::process::side::http::guard;
use crate::process::side::http::guard::Visitor;
use crate::process::side::http::page;
use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Page;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::Problem;
use crate::process::side::recording::audio;
use crate::process::side::recording::finish;
use crate::process::side::recording::rows;
use crate::process::side::recording::rows::Deletion;
use crate::process::side::recording::rows::LedgerLine;
use crate::process::side::token::Role;
use crate::wire::link::RecordWish;
use crate::wire::wav;

const READERS: [Role; 3] = [Role::Admin, Role::Operator, Role::Recordings];
const COLUMNS: &str = "SELECT recordings.*, cdrs.sip_call_id, cdrs.from_user, cdrs.to_user FROM recordings
     LEFT JOIN cdrs ON cdrs.call = recordings.call WHERE 1 = 1";

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct List {
    call: Option<String>,
    sip_call_id: Option<String>,
    /// RFC 3339; of the beginning, inclusive.
    since: Option<String>,
    /// RFC 3339; of the beginning, exclusive.
    until: Option<String>,
    tenant: Option<String>,
    /// 1 to 1000, default 100.
    limit: Option<u32>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A recording of a call, from its beginning to its end.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RecordingItem {
    id: String,
    call: String,
    /// Empty while the call's record is not there yet, or no more.
    sip_call_id: String,
    tenant: String,
    from: String,
    to: String,
    started_at: String,
    duration_ms: u64,
    /// completed, or absent: deleted
    state: String,
    /// complete: everything that reached us is in it; degraded: something is not, or nobody can say
    verdict: String,
    ledger: Vec<LedgerLine>,
    /// Of the WAV file that is given out when nothing else is asked for.
    sha256: String,
    /// pcmu, pcma or pcm16
    encoding: String,
    /// Samples a second.
    rate: u32,
    /// What was not recorded on request.
    pauses: Vec<Pause>,
    /// What the parties were told about it; empty if the tenant wants nothing of the kind.
    announced: Vec<Announced>,
    /// Not to be deleted.
    held: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Announced {
    leg: u8,
    /// caller or callee
    party: String,
    /// tone or file
    announce: String,
    /// All of it was sent while the party could hear it.
    played: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pause {
    since_ms: u64,
    until_ms: u64,
}

/// Recordings, newest first.
#[utoipa::path(get, path = "/v1/recordings", tag = "recordings", params(List), responses(
    (status = 200, body = Page<RecordingItem>), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    Params(params): Params<List>,
) -> Result<Json<Page<RecordingItem>>, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings").await?;
    let limit = page::limit(params.limit)?;
    let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
    for (sql, value) in [(" AND recordings.call = ", &params.call), (" AND cdrs.sip_call_id = ", &params.sip_call_id)] {
        if let Some(value) = value {
            query.push(sql).push_bind(value.clone());
        }
    }
    if let Some(since) = page::time("since", params.since.as_deref())? {
        query.push(" AND recordings.started_at >= ").push_bind(clock::to_sql(since));
    }
    if let Some(until) = page::time("until", params.until.as_deref())? {
        query.push(" AND recordings.started_at < ").push_bind(clock::to_sql(until));
    }
    page::push_tenants(&mut query, "recordings.tenant", &visitor.access, params.tenant.as_deref());
    if let Some(before) = page::place('r', params.cursor.as_deref())? {
        query.push(" AND recordings.id < ").push_bind(before);
    }
    query.push(" ORDER BY recordings.id DESC LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
    let rows = query.build().fetch_all(&api.store.pool).await?;
    let page = Page::new(rows, limit, |row| page::cursor('r', row.get("id")));
    let items = page.items.iter().map(item).collect::<Result<_, _>>()?;
    Ok(Json(Page { items, next: page.next }))
}

/// One recording.
#[utoipa::path(get, path = "/v1/recordings/{id}", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 200, body = RecordingItem), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn one(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<Json<RecordingItem>, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings/{id}").await?;
    Ok(Json(item(&find(&api, &visitor, id).await?)?))
}

#[derive(Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Media {
    /// wav (default: µ-law or A-law where the call was, else PCM of 16 bits) or pcm (WAV with PCM of 16 bits)
    format: Option<String>,
    /// stereo (default: left the caller, right the callee), mono, left or right
    channels: Option<String>,
}

/// The audio of a recording. Every access is in the audit.
#[utoipa::path(get, path = "/v1/recordings/{id}/media", tag = "recordings", params(("id" = String, Path), Media), responses(
    (status = 200, description = "A WAV file", content_type = "audio/wav"), (status = 206, description = "The range asked for"),
    (status = 304, description = "Not changed"),
    (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn media(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    method: Method,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    Params(params): Params<Media>,
) -> Result<Response, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings/{id}/media").await?;
    let row = find(&api, &visitor, id).await?;
    let view = View {
        encoding: rows::encoding(&row)?,
        channels: channels(params.channels.as_deref())?,
        is_pcm: is_pcm(params.format.as_deref())?,
    };
    let outcome = if method == Method::HEAD { "head" } else { "done" };
    note(&api, &visitor, "recording.read", &row, outcome).await?;
    let (reader, stored) = api.shelf.open(&row).await?.ok_or_else(deleted)?;
    let frames = stored / view.stored_bytes() as u64;
    let audio = frames * view.format().block_bytes() as u64;
    let head = wav::header(view.format(), audio)
        .map_err(|_| Problem::new(StatusCode::NOT_ACCEPTABLE, "longer than a WAV file can be: ask for one channel"))?;
    let total = head.len() as u64 + audio + audio % 2;
    let tag =
        format!("\"{}-{:?}-{}\"", row.get::<&str, _>("sha256"), view.channels, u8::from(view.is_pcm)).to_lowercase();
    let mut response = Response::builder()
        .header(header::ETAG, &tag)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "audio/wav");
    if names(&headers, header::IF_NONE_MATCH, &tag) {
        return response.status(StatusCode::NOT_MODIFIED).body(Body::empty()).map_err(broken);
    }
    // RFC 9110 §13.1.5: a range whose If-Range does not match is not looked at.
    let is_range = !headers.contains_key(header::IF_RANGE) || names(&headers, header::IF_RANGE, &tag);
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
    let name = format!("attachment; filename=\"{}.wav\"", row.get::<&str, _>("id"));
    let name = HeaderValue::from_str(&name).map_err(|_| Problem::not_found())?;
    let response = response.header(header::CONTENT_LENGTH, end - start).header(header::CONTENT_DISPOSITION, name);
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let file = File { reader: std::sync::Arc::new(reader), view, head: head.to_vec(), stored, total };
        Body::from_stream(stream::unfold((file, start), move |(file, at)| async move {
            let part = file.part(at, end).await?;
            let next = part.as_ref().map_or(end, |part| at + part.len() as u64);
            Some((part, (file, next)))
        }))
    };
    response.body(body).map_err(broken)
}

/// A WAV file as it would be if it were written.
struct File {
    reader: std::sync::Arc<audio::Reader>,
    view: View,
    head: Vec<u8>,
    /// Bytes of the recording.
    stored: u64,
    total: u64,
}

impl File {
    /// What comes at `at`, up to `end`; `None` at the end.
    async fn part(&self, at: u64, end: u64) -> Option<std::io::Result<Vec<u8>>> {
        if at >= end {
            return None;
        }
        let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
        let head = self.head.len() as u64;
        if at < head {
            let rest = self.head.get(at as usize..).unwrap_or_default();
            return Some(Ok(rest.get(..wanted.min(rest.len())).unwrap_or_default().to_vec()));
        }
        let (view, reader, stored) = (self.view, std::sync::Arc::clone(&self.reader), self.stored);
        let unit = view.format().block_bytes() as u64;
        let frame = (at - head) / unit;
        let first = frame * view.stored_bytes() as u64;
        if first >= stored {
            // The byte that makes an odd length even.
            return (at < self.total).then(|| Ok(vec![0]));
        }
        let read = tokio::task::spawn_blocking(move || reader.read(first, audio::CHUNK_BYTES)).await;
        let part = read.map_err(std::io::Error::other).flatten().map(|stored| {
            let mut rendered = Vec::new();
            view.render(&stored, &mut rendered);
            let skip = ((at - head) % unit) as usize;
            rendered.drain(..skip.min(rendered.len()));
            rendered.truncate(wanted);
            rendered
        });
        match part {
            Ok(part) if part.is_empty() => Some(Err(std::io::ErrorKind::UnexpectedEof.into())),
            part => Some(part),
        }
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
#[utoipa::path(get, path = "/v1/recordings/{id}/peaks", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 200, body = PeaksAnswer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn peaks(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<Json<PeaksAnswer>, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings/{id}/peaks").await?;
    let row = find(&api, &visitor, id).await?;
    if row.get::<Option<Vec<u8>>, _>("key").is_none() {
        return Err(deleted());
    }
    let peaks = rows::detail(&row)?.peaks;
    let stretch_ms = u64::from(peaks.stretch) * 1_000 / u64::from(row.get::<u32, _>("rate").max(1));
    let (left, right) = peaks.peaks.iter().map(|[left, right]| (*left, *right)).unzip();
    Ok(Json(PeaksAnswer { stretch_ms, left, right }))
}

/// Deletes a recording: its key at once, then its audio.
#[utoipa::path(delete, path = "/v1/recordings/{id}", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 204, description = "Deleted"), (status = 409, body = Problem, content_type = "application/problem+json", description = "Held"),
    (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    guard::require(&api, &visitor, &[Role::Admin], "DELETE /v1/recordings/{id}").await?;
    let row = find(&api, &visitor, id).await?;
    let done = api.shelf.delete(row.get("id")).await?;
    let outcome = if done == Deletion::Done { "done" } else { "held" };
    note(&api, &visitor, "recording.delete", &row, outcome).await?;
    match done {
        Deletion::Done => Ok(StatusCode::NO_CONTENT),
        Deletion::Held => Err(Problem::new(StatusCode::CONFLICT, "the recording is held")),
    }
}

/// Keeps a recording from being deleted.
#[utoipa::path(put, path = "/v1/recordings/{id}/hold", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 204, description = "Held"), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn hold(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    set_held(&api, &visitor, id, true).await
}

/// Lets a recording be deleted again.
#[utoipa::path(delete, path = "/v1/recordings/{id}/hold", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 204, description = "Not held"), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
pub(super) async fn release(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    set_held(&api, &visitor, id, false).await
}

async fn set_held(
    api: &Api,
    visitor: &Visitor,
    id: Result<Path<String>, PathRejection>,
    is_held: bool,
) -> Result<StatusCode, Problem> {
    guard::require(api, visitor, &[Role::Admin], "/v1/recordings/{id}/hold").await?;
    let row = find(api, visitor, id).await?;
    let query = sqlx::query("UPDATE recordings SET is_held = ? WHERE id = ?").bind(is_held);
    query.bind(row.get::<&str, _>("id")).execute(&api.store.pool).await?;
    note(api, visitor, if is_held { "recording.hold" } else { "recording.release" }, &row, "done").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts, stops, pauses or resumes the recording of a call that is up.
#[utoipa::path(post, path = "/v1/calls/{call}/recording/{wish}", tag = "recordings",
    params(("call" = String, Path), ("wish" = String, Path, description = "start, stop, pause or resume")), responses(
    (status = 204, description = "As wished"), (status = "4XX", body = Problem, content_type = "application/problem+json"),
    (status = 503, body = Problem, content_type = "application/problem+json", description = "No engine")))]
pub(super) async fn wish(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    path: Result<Path<(String, String)>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    let Path((call, wish)) = path.map_err(|_| Problem::not_found())?;
    let call: CallId = call.parse().map_err(|_| Problem::not_found())?;
    let (wish, action) = match wish.as_str() {
        "start" => (RecordWish::Start, "recording.start"),
        "stop" => (RecordWish::Stop, "recording.stop"),
        "pause" => (RecordWish::Pause, "recording.pause"),
        "resume" => (RecordWish::Resume, "recording.resume"),
        _ => return Err(Problem::not_found()),
    };
    guard::require(&api, &visitor, &[Role::Admin, Role::Operator], action).await?;
    let live = api.mirror.call(call).filter(|call| visitor.access.sees(&call.tenant)).ok_or_else(Problem::not_found)?;
    let found = api.link.record(call, wish).await;
    let outcome = match found {
        Some(true) => "done",
        Some(false) => "not found",
        None => "engine down",
    };
    let entry = Entry { subject: call.to_string(), tenant: Some(live.tenant), ..visitor.entry(action, outcome) };
    audit::note_alone(&api.store, &entry).await?;
    match found {
        Some(true) => Ok(StatusCode::NO_CONTENT),
        Some(false) => Err(Problem::not_found()),
        None => Err(Problem::engine_down()),
    }
}

async fn find(api: &Api, visitor: &Visitor, id: Result<Path<String>, PathRejection>) -> Result<SqliteRow, Problem> {
    let Path(id) = id.map_err(|_| Problem::not_found())?;
    let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
    query.push(" AND recordings.id = ").push_bind(id);
    let row = query.build().fetch_optional(&api.store.pool).await?;
    row.filter(|row| visitor.access.sees(row.get("tenant"))).ok_or_else(Problem::not_found)
}

async fn note(
    api: &Api,
    visitor: &Visitor,
    action: &'static str,
    row: &SqliteRow,
    outcome: &'static str,
) -> Result<(), Problem> {
    let entry = Entry { subject: row.get("id"), tenant: row.get("tenant"), ..visitor.entry(action, outcome) };
    Ok(audit::note_alone(&api.store, &entry).await?)
}

fn item(row: &SqliteRow) -> Result<RecordingItem, Problem> {
    let text = |column: &str| row.get::<Option<String>, _>(column).unwrap_or_default();
    let detail = rows::detail(row)?;
    let pause = |(since_ms, until_ms)| Pause { since_ms, until_ms };
    let announced = |finish::Announced { leg, announce, played }| {
        let party = Party::of_leg(leg).text().to_owned();
        Announced { leg, party, announce, played }
    };
    Ok(RecordingItem {
        id: row.get("id"),
        call: row.get("call"),
        sip_call_id: text("sip_call_id"),
        tenant: row.get("tenant"),
        from: text("from_user"),
        to: text("to_user"),
        started_at: clock::text(clock::from_sql(row.get("started_at"))),
        duration_ms: u64::try_from(row.get::<i64, _>("duration_ms")).unwrap_or_default(),
        state: row.get("state"),
        verdict: row.get("verdict"),
        ledger: rows::ledger(row)?,
        sha256: row.get("sha256"),
        encoding: row.get("encoding"),
        rate: row.get("rate"),
        pauses: detail.pauses.into_iter().map(pause).collect(),
        announced: detail.announced.into_iter().map(announced).collect(),
        held: row.get("is_held"),
    })
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

fn is_pcm(text: Option<&str>) -> Result<bool, Problem> {
    match text {
        None | Some("wav") => Ok(false),
        Some("pcm") => Ok(true),
        Some(_) => Err(Problem::bad_parameter("format must be wav or pcm")),
    }
}

fn names(headers: &HeaderMap, name: header::HeaderName, tag: &str) -> bool {
    let tags = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    tags.split(',').any(|own| own.trim() == tag || own.trim() == "*")
}

fn deleted() -> Problem {
    Problem::new(StatusCode::GONE, "the recording was deleted")
}

fn broken(_: axum::http::Error) -> Problem {
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made")
}
