//! The INVITE client transaction: RFC 3261 §17.1.1 with the Accepted state of RFC 6026 §7.2.
//!
//! The ACK for a final response other than 2xx is the transaction's; its user writes it, because it quotes the response.

use serde::Deserialize;
use serde::Serialize;

use crate::base::time::Instant;
use crate::machine::flow::Flow;
use crate::machine::outbox::Outbox;
use crate::machine::transaction::T1_64;
use crate::machine::transaction::TIMER_D;
use crate::machine::transaction::repeat::Pace;
use crate::machine::transaction::repeat::Patience;
use crate::machine::transaction::repeat::Repeat;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteClient {
    flow: Flow,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Timers A and B.
    Calling {
        request: Repeat,
    },
    Proceeding,
    /// Timer D.
    Completed {
        ack: Box<[u8]>,
        until: Instant,
    },
    /// Timer M: further 2xx are the user's.
    Accepted {
        until: Instant,
    },
    /// Nobody waits for the final response any more; one that comes is acknowledged.
    Abandoned {
        until: Instant,
    },
    Terminated,
}

/// What a response means to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    Provisional,
    /// The first 2xx, a repeat, or that of another branch of a fork.
    Success,
    /// The final response; the ACK is on its way.
    Failure,
    /// A repeat, answered as it should be, or too late.
    Absorbed,
}

impl InviteClient {
    pub fn start(request: Vec<u8>, flow: Flow, now: Instant, out: &mut Outbox) -> Self {
        let request = Repeat::hop_by_hop(request, Pace::Doubling, flow, now, out);
        Self { flow, state: State::Calling { request } }
    }

    /// A place for one to come.
    pub fn idle(flow: Flow) -> Self {
        Self { flow, state: State::Terminated }
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// RFC 3261 §9.1: a CANCEL is sent only in Proceeding.
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding)
    }

    pub fn is_calling(&self) -> bool {
        matches!(self.state, State::Calling { .. })
    }

    /// No final response yet.
    pub fn is_open(&self) -> bool {
        self.is_calling() || self.is_proceeding()
    }

    /// A final response may come that has to be acknowledged, waited for or not.
    pub fn is_unanswered(&self) -> bool {
        self.is_open() || matches!(self.state, State::Abandoned { .. })
    }

    pub fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    /// `ack` writes the ACK for a final response other than 2xx.
    pub fn handle_response(
        &mut self,
        status: u16,
        ack: impl FnOnce() -> Vec<u8>,
        now: Instant,
        out: &mut Outbox,
    ) -> Response {
        match (&self.state, status) {
            (State::Calling { .. } | State::Proceeding, ..200) => {
                self.state = State::Proceeding;
                Response::Provisional
            }
            (State::Calling { .. } | State::Proceeding | State::Abandoned { .. }, 200..300) => {
                self.state = State::Accepted { until: now + T1_64 };
                Response::Success
            }
            (State::Calling { .. } | State::Proceeding | State::Abandoned { .. }, 300..) => {
                let ack = ack();
                out.send(self.flow, ack.clone());
                // RFC 3261 §17.1.1.2: timer D is "at least 32 seconds for unreliable transports, and a value of zero
                // seconds for reliable transports."
                self.state = if self.flow.is_reliable() {
                    State::Terminated
                } else {
                    State::Completed { ack: ack.into(), until: now + TIMER_D }
                };
                Response::Failure
            }
            (State::Completed { ack, .. }, 300..) => {
                out.send(self.flow, ack.to_vec());
                Response::Absorbed
            }
            (State::Accepted { .. }, 200..300) => Response::Success,
            (State::Completed { .. } | State::Accepted { .. } | State::Abandoned { .. } | State::Terminated, _) => {
                Response::Absorbed
            }
        }
    }

    /// Goes on over another flow: an INVITE that nobody has answered at all is sent again if it may have been lost with a
    /// connection, else it is repeated anyway. Not to another of our addresses, which the Via of the request does not name.
    pub fn resume(&mut self, flow: Flow, now: Instant, out: &mut Outbox) {
        if self.flow.listener != flow.listener || self.flow == flow {
            return;
        }
        let before = std::mem::replace(&mut self.flow, flow);
        if let State::Calling { request } = &mut self.state
            && before.is_reliable()
        {
            request.resume(flow, now, out);
        }
    }

    /// The dialog ends, or the wait for an answer: no more repeats, but RFC 3261 §17.1.1.3 wants an ACK for whatever final response is on its way.
    pub fn abandon(&mut self, now: Instant) {
        if self.is_open() {
            self.state = State::Abandoned { until: now + T1_64 };
        }
    }

    /// The flow is gone or the far end will never answer: no more repeats. A failure that came is acknowledged as often as it
    /// comes.
    pub fn give_up(&mut self) {
        if !matches!(self.state, State::Completed { .. }) {
            self.state = State::Terminated;
        }
    }

    pub fn next_deadline(&self) -> Instant {
        match &self.state {
            State::Calling { request } => request.next_deadline(),
            State::Completed { until, .. } | State::Accepted { until } | State::Abandoned { until } => *until,
            State::Proceeding | State::Terminated => Instant::NEVER,
        }
    }

    /// `Over` where no response came at all (timer B).
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) -> Patience {
        match &mut self.state {
            State::Calling { request } => {
                let patience = request.handle_timeout(now, self.flow, out);
                if patience == Patience::Over {
                    // One who hears of it only now may answer yet, and RFC 3261 §13.2.2.4 wants an ACK for that.
                    self.abandon(now);
                }
                return patience;
            }
            State::Completed { until, .. } | State::Accepted { until } | State::Abandoned { until }
                if now >= *until =>
            {
                self.state = State::Terminated;
            }
            State::Completed { .. }
            | State::Accepted { .. }
            | State::Abandoned { .. }
            | State::Proceeding
            | State::Terminated => {}
        }
        Patience::Lasts
    }
}
