//! An event in its envelope, the same on every way out: `{id, type, v, at, tenant, call, leg, node, boot, shard, seq, …}`.

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;
use sha2::Digest;
use sha2::Sha256;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use utoipa::ToSchema;

use crate::base::id::CallId;
use crate::base::time::UnixTime;
use crate::process::side::clock;
use crate::process::side::record::cdr::CdrCause;
use crate::process::side::store::StoreError;
use crate::wire::event::Body;
use crate::wire::event::Cause;
use crate::wire::event::Event;

/// Of the envelope and the data of each type; rises when a reader of the old form would go wrong.
const SCHEMA: u8 = 1;

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Envelope {
    pub(crate) id: String,
    /// What it is, such as `call.ended`; `docs/events.md` has them all. Readers ignore those that they do not know.
    pub(crate) r#type: String,
    pub(crate) v: u8,
    pub(crate) at: String,
    pub(crate) tenant: Option<String>,
    pub(crate) call: Option<String>,
    /// 0 is the caller's leg.
    pub(crate) leg: Option<u8>,
    pub(crate) node: String,
    /// 16 hexadecimal digits.
    pub(crate) boot: String,
    pub(crate) shard: u8,
    pub(crate) seq: u64,
    pub(crate) cause: Option<CdrCause>,
    #[schema(value_type = Object)]
    pub(crate) data: Value,
}

/// Sorts by time, and differs between any two events of a fleet: 80 bits of a hash over what makes an event unique.
pub(crate) fn id(node: &str, boot: u64, event: &Event) -> String {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    hash.update([0, event.shard.0]);
    hash.update(boot.to_be_bytes());
    hash.update(event.seq.to_be_bytes());
    let mut unique = [0u8; 16];
    unique[6..].copy_from_slice(&hash.finalize()[..10]);
    CallId::new(event.at, u128::from_be_bytes(unique)).to_string()
}

impl Envelope {
    pub(crate) fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let damaged = || StoreError::Row("events");
        let body: Value = serde_json::from_str(row.get("body")).map_err(|_| damaged())?;
        let data = match body {
            Value::Object(tagged) => tagged.into_iter().next().map_or(Value::Null, |(_, data)| data),
            _ => Value::Object(serde_json::Map::new()),
        };
        let tenant: String = row.get("tenant");
        Ok(Self {
            id: row.get("id"),
            r#type: row.get("type"),
            v: SCHEMA,
            at: clock::text(clock::from_sql(row.get("at"))),
            tenant: Some(tenant).filter(|tenant| !tenant.is_empty()),
            call: row.get("call"),
            leg: row.get("leg"),
            node: row.get("node"),
            boot: format!("{:016x}", boot_from_sql(row.get("boot"))),
            shard: row.get("shard"),
            seq: u64::try_from(row.get::<i64, _>("seq")).map_err(|_| damaged())?,
            cause: cause(&data),
            data,
        })
    }
}

fn cause(data: &Value) -> Option<CdrCause> {
    let cause: Cause = serde_json::from_value(data.get("cause")?.clone()).ok()?;
    Some(CdrCause::from(&cause))
}

/// The event of a row, as the engine sent it.
pub(crate) fn event_from_row(row: &SqliteRow) -> Result<(u64, Event), StoreError> {
    let damaged = || StoreError::Row("events");
    let call: Option<String> = row.get("call");
    let call = call.map(|call| call.parse::<CallId>()).transpose().map_err(|_| damaged())?;
    let body: Body = serde_json::from_str(row.get("body")).map_err(|_| damaged())?;
    let event = Event {
        shard: crate::base::id::ShardId(row.get("shard")),
        seq: u64::try_from(row.get::<i64, _>("seq")).map_err(|_| damaged())?,
        at: UnixTime::from_micros(clock::from_sql(row.get("at")).micros()),
        tenant: row.get("tenant"),
        call,
        leg: row.get("leg"),
        body,
    };
    Ok((boot_from_sql(row.get("boot")), event))
}

/// SQLite has signed numbers only: the bits stay.
pub(crate) fn boot_to_sql(boot: u64) -> i64 {
    i64::from_ne_bytes(boot.to_ne_bytes())
}

pub(crate) fn boot_from_sql(boot: i64) -> u64 {
    u64::from_ne_bytes(boot.to_ne_bytes())
}
