//! The INVITE server transaction: RFC 3261 §17.2.1 with the Accepted state of RFC 6026 §7.1.
//!
//! It sends the 100 Trying only as a response of its user, and leaves the repeats of a 2xx to the user (the UAS core).

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::T1_64;
use crate::machine::transaction::T4;
use crate::machine::transaction::repeat::Pace;
use crate::machine::transaction::repeat::Patience;
use crate::machine::transaction::repeat::Repeat;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteServer {
    flow: Flow,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// With the last provisional response, empty before the first.
    Proceeding {
        last: Box<[u8]>,
    },
    /// Timers G and H.
    Completed {
        response: Repeat,
    },
    /// Timer I.
    Confirmed {
        until: Instant,
    },
    /// Timer L.
    Accepted {
        until: Instant,
    },
    Terminated,
}

/// Whose ACK it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// For a final response other than 2xx, or a repeat: done with.
    Absorbed,
    /// For a 2xx: the user's.
    ForUser,
}

impl InviteServer {
    pub fn new(flow: Flow) -> Self {
        Self { flow, state: State::Proceeding { last: Box::default() } }
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }

    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// Nothing is sent once a final response was.
    pub fn respond(&mut self, status: u16, bytes: Vec<u8>, now: Instant, out: &mut Outbox) {
        let State::Proceeding { last } = &mut self.state else { return };
        match status {
            ..200 => {
                out.send(self.flow, bytes.clone());
                *last = bytes.into();
            }
            200..300 => {
                out.send(self.flow, bytes);
                self.state = State::Accepted { until: now + T1_64 };
            }
            300.. => {
                let response = Repeat::hop_by_hop(bytes, Pace::UpToT2, self.flow, now, out);
                self.state = State::Completed { response };
            }
        }
    }

    /// The same INVITE again; its answer goes the way this one came.
    pub fn handle_retransmission(&mut self, flow: Flow, out: &mut Outbox) {
        self.flow = flow;
        match &self.state {
            State::Proceeding { last } if !last.is_empty() => out.send(flow, last.to_vec()),
            State::Completed { response } => response.send(flow, out),
            // RFC 6026 §7.1: "any retransmissions of the INVITE received … will match this transaction state machine and
            // will not be passed to the TU."
            State::Proceeding { .. } | State::Accepted { .. } | State::Confirmed { .. } | State::Terminated => {}
        }
    }

    pub fn handle_ack(&mut self, now: Instant) -> Ack {
        match self.state {
            State::Completed { .. } => {
                // RFC 3261 §17.2.1: timer I is "T4 seconds for unreliable transports, and zero seconds for reliable".
                self.state =
                    if self.flow.is_reliable() { State::Terminated } else { State::Confirmed { until: now + T4 } };
                Ack::Absorbed
            }
            State::Accepted { .. } => Ack::ForUser,
            State::Proceeding { .. } | State::Confirmed { .. } | State::Terminated => Ack::Absorbed,
        }
    }

    pub fn next_deadline(&self) -> Instant {
        match &self.state {
            State::Proceeding { .. } | State::Terminated => Instant::NEVER,
            State::Completed { response } => response.next_deadline(),
            State::Confirmed { until } | State::Accepted { until } => *until,
        }
    }

    /// `Over` where no ACK came for a final response other than 2xx (timer H).
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) -> Patience {
        match &mut self.state {
            State::Completed { response } => {
                let patience = response.handle_timeout(now, self.flow, out);
                if patience == Patience::Over {
                    self.state = State::Terminated;
                }
                return patience;
            }
            State::Confirmed { until } | State::Accepted { until } if now >= *until => self.state = State::Terminated,
            State::Confirmed { .. } | State::Accepted { .. } | State::Proceeding { .. } | State::Terminated => {}
        }
        Patience::Lasts
    }
}
