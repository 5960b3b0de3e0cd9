//! `/v1/recordings`: which there are, finished or not; deleting and holding; recording a call that is up. The audio is
//! [`media`](super::media)'s.

use std::collections::BTreeMap;

use axum::Extension;
use axum::Json;
use axum::extract::Path;
use axum::extract::State;
use axum::extract::rejection::PathRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde::Serialize;
use sqlx::QueryBuilder;
use sqlx::Row;
use sqlx::Sqlite;
use sqlx::sqlite::SqliteRow;
use utoipa::ToSchema;

use crate::base::id::CallId;
use crate::machine::recording::Correction;
use crate::machine::recording::Party;
use crate::machine::recording::segments::Segment;
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
use crate::process::side::http::problem::Conflict;
use crate::process::side::http::problem::OfList;
use crate::process::side::http::problem::OfOne;
use crate::process::side::http::problem::Problem;
use crate::process::side::recording::finish;
use crate::process::side::recording::live;
use crate::process::side::recording::live::LiveRecording;
use crate::process::side::recording::rows;
use crate::process::side::recording::rows::Deletion;
use crate::process::side::recording::rows::LedgerLine;
use crate::process::side::token::Role;
use crate::wire::link::RecordWish;

pub(super) const READERS: [Role; 3] = [Role::Admin, Role::Operator, Role::Recordings];
const COLUMNS: &str = "SELECT recordings.*, cdrs.sip_call_id, cdrs.from_user, cdrs.to_user FROM recordings
     LEFT JOIN cdrs ON cdrs.call = recordings.call WHERE 1 = 1";
/// Calls of one Call-ID that are looked at.
const PARTIES_MAX: usize = 100;

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
    /// Until now, of one that is being recorded.
    duration_ms: u64,
    /// recording: the call is up; processing: it ended and its recording is being made; completed; failed: no recording could
    /// be made; absent: deleted
    state: String,
    /// Why it failed. What was recorded is kept, and it is tried again when side starts.
    failure: Option<String>,
    /// complete: every packet that reached us from a party, that the other was to hear and that may be audio, is in it;
    /// degraded: one is not, or nobody can say; encrypted: audio came under a key that we do not have; damaged: what is stored
    /// is not what was written; null before it is completed
    verdict: Option<String>,
    /// Empty before it is completed.
    ledger: Vec<LedgerLine>,
    /// Of the WAV file that is given out when nothing else is asked for.
    sha256: Option<String>,
    /// pcmu, pcma or pcm16
    encoding: Option<String>,
    /// Samples a second.
    rate: Option<u32>,
    /// Of whom, in which codec, from which source: another begins with each change.
    segments: Vec<SegmentItem>,
    /// Segments that had no room in the list.
    segments_more: u64,
    /// Where audio of a source that is known lies elsewhere than its timestamps say, and it can be heard: silence was put in, or it
    /// lies where other audio of the party is.
    corrections: Vec<CorrectionItem>,
    /// Corrections that had no room in the list.
    corrections_more: u64,
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
pub(super) struct SegmentItem {
    leg: u8,
    /// caller or callee
    party: &'static str,
    /// Index of the m-line.
    stream: u8,
    ssrc: u32,
    codec: String,
    since_ms: u64,
    until_ms: u64,
    packets: u64,
    /// Why it began: begin, ssrc, codec, restart (of the engine), resumed (after a pause), silence (hold, or none sent)
    cause: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CorrectionItem {
    leg: u8,
    /// caller or callee
    party: &'static str,
    /// Since the recording began.
    at_ms: u64,
    /// Of the silence, or of what lies over other audio.
    ms: u64,
    /// gap or overlap
    kind: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pause {
    since_ms: u64,
    until_ms: u64,
}

/// Recordings, newest first.
#[utoipa::path(get, path = "/v1/recordings", operation_id = "list_recordings", tag = "recordings", params(List), responses(
    (status = 200, description = "The newest first", body = Page<RecordingItem>), OfList))]
pub(super) async fn list(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    Params(params): Params<List>,
) -> Result<Json<Page<RecordingItem>>, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings").await?;
    let limit = page::limit(params.limit)?;
    let before = page::place('r', params.cursor.as_deref())?;
    page::id("call", params.call.as_deref())?;
    // What is finished between the two questions is in both answers, never in none.
    let live = live_items(&api, &visitor, &params, before.as_deref(), limit + 1).await?;
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
    if let Some(before) = before {
        query.push(" AND recordings.id < ").push_bind(before);
    }
    query.push(" ORDER BY recordings.id DESC LIMIT ").push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
    let rows = query.build().fetch_all(&api.store.pool).await?;
    let mut items = rows.iter().map(item).collect::<Result<Vec<_>, _>>()?;
    items.extend(live);
    // The sort keeps the order of those with the same id: the finished one comes first.
    items.sort_by(|one, other| other.id.cmp(&one.id));
    items.dedup_by(|later, first| later.id == first.id);
    Ok(Json(Page::new(items, limit, |last| page::cursor('r', &last.id))))
}

/// Those that are not finished and fit the question.
async fn live_items(
    api: &Api,
    visitor: &Visitor,
    params: &List,
    before: Option<&str>,
    limit: usize,
) -> Result<Vec<RecordingItem>, Problem> {
    let since = page::time("since", params.since.as_deref())?;
    let until = page::time("until", params.until.as_deref())?;
    let calls = match &params.sip_call_id {
        Some(sip_call_id) => Some(calls_of(api, sip_call_id).await?),
        None => None,
    };
    let fits = |live: &LiveRecording| {
        page::shows(&visitor.access, params.tenant.as_deref(), &live.tenant)
            && params.call.as_ref().is_none_or(|call| *call == live.call.to_string())
            && since.is_none_or(|since| live.started_at >= since)
            && until.is_none_or(|until| live.started_at < until)
            && calls.as_ref().is_none_or(|calls| calls.contains(&live.call))
    };
    items_of(api, &api.live.list(before, limit, fits)).await
}

async fn items_of(api: &Api, recordings: &[LiveRecording]) -> Result<Vec<RecordingItem>, Problem> {
    let up = recordings.iter().filter_map(|live| api.mirror.call(live.call));
    let mut parties: BTreeMap<CallId, Parties> =
        up.map(|call| (call.call, (call.sip_call_id, call.from, call.to))).collect();
    let mut query =
        QueryBuilder::<Sqlite>::new("SELECT call, sip_call_id, from_user, to_user FROM cdrs WHERE call IN (");
    let mut ended = query.separated(", ");
    for live in recordings.iter().filter(|live| !parties.contains_key(&live.call)) {
        ended.push_bind(live.call.to_string());
    }
    query.push(")");
    for row in query.build().fetch_all(&api.store.pool).await? {
        if let Ok(call) = row.get::<&str, _>("call").parse() {
            parties.insert(call, (row.get("sip_call_id"), row.get("from_user"), row.get("to_user")));
        }
    }
    // One call may have several recordings.
    Ok(recordings.iter().map(|live| live_item(live, parties.get(&live.call).cloned().unwrap_or_default())).collect())
}

/// Calls with this Call-ID, up or ended.
async fn calls_of(api: &Api, sip_call_id: &str) -> Result<Vec<CallId>, Problem> {
    let up = api.mirror.calls(None, PARTIES_MAX, |call| call.sip_call_id == sip_call_id);
    let query = sqlx::query_scalar::<_, String>("SELECT call FROM cdrs WHERE sip_call_id = ? LIMIT ?");
    let ended = query.bind(sip_call_id).bind(PARTIES_MAX as i64).fetch_all(&api.store.pool).await?;
    Ok(up.iter().map(|call| call.call).chain(ended.iter().filter_map(|call| call.parse().ok())).collect())
}

/// Call-ID, From, To.
type Parties = (String, String, String);

fn live_item(live: &LiveRecording, (sip_call_id, from, to): Parties) -> RecordingItem {
    let until = match live.state {
        live::State::Recording => clock::now(),
        live::State::Processing(ended_at) => ended_at,
    };
    RecordingItem {
        id: live.id.clone(),
        call: live.call.to_string(),
        sip_call_id,
        tenant: live.tenant.clone(),
        from,
        to,
        started_at: clock::text(live.started_at),
        duration_ms: until.micros().saturating_sub(live.started_at.micros()) / 1_000,
        state: live.state.text().to_owned(),
        verdict: None,
        ledger: Vec::new(),
        sha256: None,
        encoding: None,
        rate: None,
        segments: Vec::new(),
        segments_more: 0,
        corrections: Vec::new(),
        corrections_more: 0,
        pauses: Vec::new(),
        announced: Vec::new(),
        held: false,
        failure: None,
    }
}

/// One recording.
#[utoipa::path(get, path = "/v1/recordings/{id}", operation_id = "get_recording", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 200, description = "The recording", body = RecordingItem), OfOne))]
pub(super) async fn one(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<Json<RecordingItem>, Problem> {
    guard::require(&api, &visitor, &READERS, "GET /v1/recordings/{id}").await?;
    match find(&api, &visitor, id).await? {
        Found::Row(row) => Ok(Json(item(&row)?)),
        Found::Live(live) => items_of(&api, &[live]).await?.pop().map(Json).ok_or_else(Problem::not_found),
    }
}

/// Deletes a recording: its key at once, then its audio.
#[utoipa::path(delete, path = "/v1/recordings/{id}", operation_id = "delete_recording", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 204, description = "Deleted"), OfOne, Conflict))]
pub(super) async fn delete(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    guard::require(&api, &visitor, &[Role::Admin], "DELETE /v1/recordings/{id}").await?;
    let found = find(&api, &visitor, id).await?;
    let row = found.row()?;
    let done = api.shelf.delete(row.get("id")).await?;
    let outcome = match done {
        Deletion::Done => "done",
        Deletion::Held => "held",
        Deletion::Missing => "not found",
    };
    note(&api, &visitor, "recording.delete", &found, outcome).await?;
    match done {
        Deletion::Done => Ok(StatusCode::NO_CONTENT),
        Deletion::Held => Err(Problem::new(StatusCode::CONFLICT, "the recording is held")),
        Deletion::Missing => Err(Problem::not_found()),
    }
}

/// Keeps a recording from being deleted.
#[utoipa::path(put, path = "/v1/recordings/{id}/hold", operation_id = "hold_recording", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 204, description = "Held"), OfOne, Conflict))]
pub(super) async fn hold(
    State(api): State<Api>,
    Extension(visitor): Extension<Visitor>,
    id: Result<Path<String>, PathRejection>,
    _: Params<NoParams>,
) -> Result<StatusCode, Problem> {
    set_held(&api, &visitor, id, true).await
}

/// Lets a recording be deleted again.
#[utoipa::path(delete, path = "/v1/recordings/{id}/hold", operation_id = "release_recording", tag = "recordings", params(("id" = String, Path)), responses(
    (status = 204, description = "Not held"), OfOne, Conflict))]
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
    let found = find(api, visitor, id).await?;
    let query = sqlx::query("UPDATE recordings SET is_held = ? WHERE id = ?").bind(is_held);
    query.bind(found.row()?.get::<&str, _>("id")).execute(&api.store.pool).await?;
    note(api, visitor, if is_held { "recording.hold" } else { "recording.release" }, &found, "done").await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Starts, stops, pauses or resumes the recording of a call that is up.
#[utoipa::path(post, path = "/v1/calls/{call}/recording/{wish}", operation_id = "control_recording", tag = "recordings",
    params(("call" = String, Path), ("wish" = String, Path, description = "start, stop, pause or resume")), responses(
    (status = 204, description = "As wished"), OfOne))]
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

/// A recording, wherever it is.
pub(super) enum Found {
    Row(SqliteRow),
    Live(LiveRecording),
}

impl Found {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Row(row) => row.get("id"),
            Self::Live(live) => &live.id,
        }
    }

    fn tenant(&self) -> &str {
        match self {
            Self::Row(row) => row.get("tenant"),
            Self::Live(live) => &live.tenant,
        }
    }

    fn row(&self) -> Result<&SqliteRow, Problem> {
        match self {
            Self::Row(row) => Ok(row),
            Self::Live(_) => Err(Problem::new(StatusCode::CONFLICT, "the recording is not completed yet")),
        }
    }
}

pub(super) async fn find(
    api: &Api,
    visitor: &Visitor,
    id: Result<Path<String>, PathRejection>,
) -> Result<Found, Problem> {
    let Path(id) = id.map_err(|_| Problem::not_found())?;
    let live = api.live.get(&id);
    let mut query = QueryBuilder::<Sqlite>::new(COLUMNS);
    query.push(" AND recordings.id = ").push_bind(id);
    let row = query.build().fetch_optional(&api.store.pool).await?;
    let found = row.map(Found::Row).or_else(|| live.map(Found::Live));
    found.filter(|found| visitor.access.sees(found.tenant())).ok_or_else(Problem::not_found)
}

pub(super) async fn note(
    api: &Api,
    visitor: &Visitor,
    action: &'static str,
    found: &Found,
    outcome: &'static str,
) -> Result<(), Problem> {
    let (subject, tenant) = (found.id().to_owned(), Some(found.tenant().to_owned()));
    Ok(audit::note_alone(&api.store, &Entry { subject, tenant, ..visitor.entry(action, outcome) }).await?)
}

fn item(row: &SqliteRow) -> Result<RecordingItem, Problem> {
    let text = |column: &str| row.get::<Option<String>, _>(column).unwrap_or_default();
    let failure: Option<String> = row.get("failure");
    let made = |column: &str| Some(row.get::<String, _>(column)).filter(|_| failure.is_none());
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
        verdict: made("verdict"),
        ledger: rows::ledger(row)?,
        sha256: made("sha256"),
        encoding: made("encoding"),
        rate: Some(row.get("rate")).filter(|_| failure.is_none()),
        segments: detail.segments.into_iter().map(segment).collect(),
        segments_more: detail.segments_more,
        corrections: detail.corrections.into_iter().map(correction).collect(),
        corrections_more: detail.corrections_more,
        pauses: detail.pauses.into_iter().map(pause).collect(),
        announced: detail.announced.into_iter().map(announced).collect(),
        held: row.get("is_held"),
        failure,
    })
}

fn correction(correction: Correction) -> CorrectionItem {
    let Correction { leg, at_ms, ms, kind } = correction;
    CorrectionItem { leg, party: Party::of_leg(leg).text(), at_ms, ms, kind: kind.text() }
}

fn segment(segment: Segment) -> SegmentItem {
    let Segment { leg, stream, ssrc, codec, since_ms, until_ms, packets, cause } = segment;
    let party = Party::of_leg(leg).text();
    SegmentItem { leg, party, stream, ssrc, codec, since_ms, until_ms, packets, cause: cause.text() }
}
