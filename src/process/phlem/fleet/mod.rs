//! One run over many machines: an agent on each, one that leads, NATS between them.
//!
//! The leader deals shares by capacity, gives every agent the start in that agent's own clock, merges what they report (histograms,
//! not percentiles), and names an agent that dies with its share. Nothing here knows telephony.

mod agent;
mod lead;
mod message;

use std::time::Duration;

pub use agent::AgentOptions;
pub use agent::agent;
pub use lead::LeadOptions;
pub use lead::lead;

use crate::process::phlem::scenario::Fault;

/// The first word of every subject; fleets that share a NATS server have different ones.
pub const FLEET: &str = "phlem";
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Reports and signs of life.
const TELL_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error(transparent)]
    Scenario(#[from] Fault),
    /// Not there, or not there any more.
    #[error("NATS at {0}: {1}")]
    Nats(String, String),
    #[error("no agent answered within {0:?}: start tipring phlem agent --nats URL on each machine")]
    NoAgents(Duration),
    #[error("{found} of {wanted} agents answered within {waited:?}")]
    FewAgents { found: usize, wanted: usize, waited: Duration },
    #[error("agent {0} cannot take part: {1}")]
    Refused(String, String),
    /// The runtime could not be made, or a thread not be started.
    #[error("{0}: {1}")]
    Os(&'static str, std::io::Error),
    #[error("a fleet's name has letters, digits, - and _ alone: {0:?}")]
    Name(String),
}

async fn connect(url: &str, name: String) -> Result<async_nats::Client, FleetError> {
    let options = async_nats::ConnectOptions::new().name(name).connection_timeout(CONNECT_MAX);
    let connected = tokio::time::timeout(CONNECT_MAX, options.connect(url)).await;
    let fault = |reason: String| FleetError::Nats(without_secrets(url), reason);
    match connected {
        Ok(client) => client.map_err(|error| fault(error.to_string())),
        Err(_) => Err(fault(format!("no answer within {CONNECT_MAX:?}"))),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, FleetError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| FleetError::Os("the runtime", error))
}

fn lost(url: &str, error: impl std::fmt::Display) -> FleetError {
    FleetError::Nats(without_secrets(url), error.to_string())
}

/// User and password may stand in the URL.
fn without_secrets(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => host.to_owned(),
        None => url.to_owned(),
    }
}

fn check_name(name: &str) -> Result<(), FleetError> {
    let is_good = !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_good { Ok(()) } else { Err(FleetError::Name(name.to_owned())) }
}
