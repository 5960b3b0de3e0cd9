//! `GET /v1/openapi.json`: the description of all of it, made from the handlers themselves.

use std::sync::LazyLock;

use axum::Json;
use serde_json::Value;
use serde_json::json;
use utoipa::Modify;
use utoipa::OpenApi;
use utoipa::openapi::security::HttpAuthScheme;
use utoipa::openapi::security::HttpBuilder;
use utoipa::openapi::security::SecurityScheme;

use crate::process::side::http::audit;
use crate::process::side::http::calls;
use crate::process::side::http::cdrs;
use crate::process::side::http::events;
use crate::process::side::http::health;
use crate::process::side::http::media;
use crate::process::side::http::page;
use crate::process::side::http::page::NoParams;
use crate::process::side::http::page::Params;
use crate::process::side::http::problem::AnyToken;
use crate::process::side::http::problem::Problem;
use crate::process::side::http::recordings;
use crate::process::side::http::registrations;

#[derive(OpenApi)]
#[openapi(
    info(title = "tipring", description = "Calls, phones and records of one node. Times are RFC 3339 in UTC."),
    paths(
        health::alive,
        health::ready,
        health::metrics,
        registrations::list,
        calls::list,
        calls::hang_up,
        calls::trace,
        cdrs::list,
        recordings::list,
        recordings::one,
        media::media,
        media::peaks,
        recordings::delete,
        recordings::hold,
        recordings::release,
        recordings::wish,
        events::stream,
        audit::list,
        document
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security(("bearer" = [])),
    servers((url = "/", description = "The node that gave this document")),
    tags(
        (name = "node", description = "The node itself: health, figures, the audit, this description"),
        (name = "phones", description = "Who is registered"),
        (name = "calls", description = "Calls that are up, and records and events of all"),
        (name = "recordings", description = "Recorded calls")
    )
)]
struct Description;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
    }
}

/// What the types of the handlers do not say: the words that a text may be, bounds, formats, the HEAD of the audio.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(Description::openapi()).unwrap_or_default();
    for path in values(&mut document["paths"]) {
        for operation in values(path) {
            let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
            for parameter in parameters.into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap_or_default().to_owned();
                dress(&name, &mut parameter["schema"]);
                // One that is left out is no null.
                if parameter["in"] == "header" {
                    parameter["schema"]["type"] = json!("string");
                }
                describe(&name, parameter);
            }
        }
    }
    let schemas = &mut document["components"]["schemas"];
    for (name, schema) in schemas.as_object_mut().into_iter().flatten() {
        refer_to_items(name, schema);
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (property, schema) in properties.into_iter().flatten() {
            dress(property, schema);
            describe(property, schema);
            if let Some((_, words)) = WORDS.iter().find(|(place, _)| place.split_once('.') == Some((name, property))) {
                enumerate(schema, words);
            }
        }
    }
    let media = &mut document["paths"]["/v1/recordings/{id}/media"];
    media["head"] = head_of(&media["get"], "head_recording_media");
    document
});

fn values(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().into_iter().flatten().map(|(_, value)| value)
}

/// The words of texts that are one of a few.
const WORDS: &[(&str, &[&str])] = &[
    ("CallItem.state", &["routing", "ringing", "up", "held", "ending"]),
    ("Cdr.direction", &["internal", "inbound", "outbound"]),
    ("CdrCause.by", &["caller", "callee", "system", "operator", "timer"]),
    ("RegistrationItem.transport", &["udp", "tcp", "tls", "ws", "wss"]),
    ("RecordingItem.state", &["recording", "processing", "completed", "failed", "absent"]),
    ("RecordingItem.encoding", &["pcmu", "pcma", "pcm16"]),
    ("RecordingItem.verdict", &["complete", "degraded", "encrypted", "damaged"]),
    ("LedgerLine.party", &["caller", "callee"]),
    ("SegmentItem.party", &["caller", "callee"]),
    ("SegmentItem.cause", &["begin", "ssrc", "codec", "restart", "resumed", "silence"]),
    ("Announced.party", &["caller", "callee"]),
    ("Announced.announce", &["tone", "file"]),
];

/// What a name means wherever nothing else is said of it, as a parameter and in an answer.
const DESCRIPTIONS: &[(&str, &str)] = &[
    ("action", "What was done, such as recording.read"),
    ("answered_at", "When it was answered"),
    ("at", "When it happened"),
    ("bytes", "Bytes of RTP payload"),
    ("call", "Our id of a call: the same in records, recordings, events, logs and traces"),
    ("cause", "Why it ended"),
    ("codec", "As an rtpmap names it"),
    ("contact", "The Contact of the phone"),
    ("data", "What belongs to the type: docs/events.md"),
    ("detail", "What is wrong with this request"),
    ("duplicated", "Packets that came twice"),
    ("ended_at", "When it ended"),
    ("expires_at", "When the binding ends unless the phone refreshes it"),
    ("from", "The caller's user or number"),
    ("from_name", "The name that the caller shows"),
    ("id", "The id of this one"),
    ("invited_at", "When the phone was first asked"),
    ("items", "What there is on this page"),
    ("jitter_ms", "RFC 3550's interarrival jitter, at the end"),
    ("leg", "0 is the caller's, the others are the phones that were rung"),
    ("legs", "The caller and every phone that was rung"),
    ("lost", "Packets that did not come"),
    ("malformed", "Packets that are no RTP"),
    ("media", "Of each stream, what came from the phone of this leg"),
    ("node", "The node that has or had it"),
    ("one_way", "Nothing was heard of this side for a while in which the other spoke"),
    ("outcome", "Whether it was done"),
    ("packets", "Packets that came"),
    ("phone", "The user of the phone"),
    ("q850", "The cause of ITU-T Q.850"),
    ("reason", "Why it was decided so"),
    ("received", "Packets that came"),
    ("relatches", "How often the phone sent from another address than before"),
    ("reordered", "Packets that came later than one sent after them"),
    ("right", "As `left`, of the callee"),
    ("ringing_at", "When the first phone rang"),
    ("round_trip_ms", "By RTCP; null without reports"),
    ("seq", "Counts the events of a shard, without gaps"),
    ("shard", "The shard of the engine"),
    ("since_ms", "Milliseconds from the beginning"),
    ("sip", "The status code of SIP"),
    ("sip_call_id", "The caller's Call-ID"),
    ("ssrc", "Of the RTP stream"),
    ("started_at", "When it began"),
    ("status", "The status code of the answer"),
    ("steps", "The decisions, the oldest first"),
    ("strangers", "Packets that came from somebody else and were dropped"),
    ("stream", "Index of the m-line"),
    ("subject", "What it was done to"),
    ("tenant", "The tenant that it belongs to; as a parameter: of this one alone"),
    ("text", "In words"),
    ("title", "The name of the status code"),
    ("to", "The callee's user or number"),
    ("transport", "How the phone is reached"),
    ("until_ms", "Milliseconds from the beginning"),
    ("user", "The user of the phone"),
    ("user_agent", "What the phone calls itself"),
    ("v", "The version of this form"),
    ("written", "Packets that are in the recording"),
];

/// Says what the name means, if nothing is said yet.
fn describe(name: &str, schema_or_parameter: &mut Value) {
    if let Some((_, text)) = DESCRIPTIONS.iter().find(|(described, _)| *described == name)
        && schema_or_parameter.get("description").is_none()
    {
        schema_or_parameter["description"] = json!(text);
    }
}

/// What a name says of a value, as a parameter and in an answer.
fn dress(name: &str, schema: &mut Value) {
    match name {
        "limit" => {
            schema["minimum"] = json!(1);
            schema["maximum"] = json!(page::LIMIT_MAX);
            schema["default"] = json!(page::LIMIT_DEFAULT);
        }
        "format" => enumerate(schema, &["wav", "pcm", "ogg"]),
        "channels" => enumerate(schema, &["stereo", "mono", "left", "right"]),
        "wish" => enumerate(schema, &["start", "stop", "pause", "resume"]),
        "call" | "id" => schema["pattern"] = json!("^[A-Za-z0-9_-]{1,64}$"),
        "since" | "until" => schema["format"] = json!("date-time"),
        _ if name == "at" || name.ends_with("_at") => schema["format"] = json!("date-time"),
        _ => {}
    }
}

/// One of these words; where there may be none, null too.
fn enumerate(schema: &mut Value, words: &[&str]) {
    let may_be_null = schema["type"].as_array().is_some_and(|types| types.contains(&json!("null")));
    let words = words.iter().map(|word| json!(word)).chain(may_be_null.then_some(Value::Null));
    schema["enum"] = words.collect();
}

/// The items of a page have a schema of their own, which clients make a type of.
fn refer_to_items(page: &str, schema: &mut Value) {
    if let Some(item) = page.strip_prefix("Page_") {
        schema["properties"]["items"]["items"] = json!({ "$ref": format!("#/components/schemas/{item}") });
    }
}

/// The HEAD of a GET: no content, and no ranges (RFC 9110 §14.2: "GET is the only method for which range handling is defined").
fn head_of(get: &Value, id: &str) -> Value {
    let mut head = get.clone();
    head["operationId"] = json!(id);
    head["summary"] = json!("What GET would answer, without the audio.");
    if let Some(parameters) = head["parameters"].as_array_mut() {
        parameters.retain(|parameter| parameter["name"] != "Range" && parameter["name"] != "If-Range");
    }
    if let Some(responses) = head["responses"].as_object_mut() {
        responses.retain(|code, _| code != "206" && code != "416");
    }
    for response in values(&mut head["responses"]) {
        response.as_object_mut().map(|response| response.remove("content"));
    }
    head
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "describe", tag = "node", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object), AnyToken))]
pub(super) async fn document(_: Params<NoParams>) -> Json<&'static Value> {
    Json(&DOCUMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_its_place() {
        for (place, words) in WORDS {
            let (schema, property) = place.split_once('.').unwrap();
            let found = &DOCUMENT["components"]["schemas"][schema]["properties"][property]["enum"];
            assert!(found.as_array().is_some_and(|found| found.len() >= words.len()), "{place}: {found}");
        }
    }
}
