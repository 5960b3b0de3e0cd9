//! The non-INVITE client transaction: RFC 3261 §17.1.2.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::T4;
use crate::machine::transaction::repeat::Pace;
use crate::machine::transaction::repeat::Patience;
use crate::machine::transaction::repeat::Repeat;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonInviteClient {
    flow: Flow,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Timers E and F.
    Trying {
        request: Repeat,
    },
    /// The same timers, E at T2.
    Proceeding {
        request: Repeat,
    },
    /// Timer K.
    Completed {
        until: Instant,
    },
    Terminated,
}

/// What a response means to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Provisional,
    Final,
    Absorbed,
}

impl NonInviteClient {
    pub fn start(request: Vec<u8>, flow: Flow, now: Instant, out: &mut Outbox) -> Self {
        let request = Repeat::hop_by_hop(request, Pace::UpToT2, flow, now, out);
        Self { flow, state: State::Trying { request } }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// No final response yet.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Trying { .. } | State::Proceeding { .. })
    }

    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub fn handle_response(&mut self, status: u16, now: Instant) -> Response {
        let state = std::mem::replace(&mut self.state, State::Terminated);
        let (state, response) = match (state, status) {
            (State::Trying { mut request }, ..200) => {
                // RFC 3261 §17.1.2.2: in Proceeding "timer E … MUST be reset with a value of T2 seconds".
                request.slow_down(now);
                (State::Proceeding { request }, Response::Provisional)
            }
            (State::Proceeding { request }, ..200) => (State::Proceeding { request }, Response::Provisional),
            (State::Trying { .. } | State::Proceeding { .. }, 200..) if self.flow.is_reliable() => {
                (State::Terminated, Response::Final)
            }
            (State::Trying { .. } | State::Proceeding { .. }, 200..) => {
                (State::Completed { until: now + T4 }, Response::Final)
            }
            (state, _) => (state, Response::Absorbed),
        };
        self.state = state;
        response
    }

    /// Goes on over another flow: a request that waits for its response is sent again if it may have been lost with a
    /// connection, else it is repeated anyway. Not to another of our addresses, which the Via of the request does not name.
    pub fn resume(&mut self, flow: Flow, now: Instant, out: &mut Outbox) {
        if self.flow.listener != flow.listener || self.flow == flow {
            return;
        }
        let before = std::mem::replace(&mut self.flow, flow);
        if let State::Trying { request } | State::Proceeding { request } = &mut self.state
            && before.is_reliable()
        {
            request.resume(flow, now, out);
        }
    }

    pub fn give_up(&mut self) {
        self.state = State::Terminated;
    }

    pub fn next_deadline(&self) -> Instant {
        match &self.state {
            State::Trying { request } | State::Proceeding { request } => request.next_deadline(),
            State::Completed { until } => *until,
            State::Terminated => Instant::NEVER,
        }
    }

    /// `Over` where no final response came (timer F).
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) -> Patience {
        match &mut self.state {
            State::Trying { request } | State::Proceeding { request } => {
                let patience = request.handle_timeout(now, self.flow, out);
                if patience == Patience::Over {
                    self.state = State::Terminated;
                }
                return patience;
            }
            State::Completed { until } if now >= *until => self.state = State::Terminated,
            State::Completed { .. } | State::Terminated => {}
        }
        Patience::Lasts
    }
}
