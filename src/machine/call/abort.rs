//! The minimal end of a call whose handling panicked: it starts from the last whole state and does no more than it must.

use crate::machine::call::Call;
use crate::machine::call::input::Context;
use crate::machine::outbox::Outbox;
use crate::wire::event::Body;
use crate::wire::event::Cause;

impl Call {
    /// 500, CANCEL or BYE to whoever is there, ports freed, the record closed; `place` says where the fault was. What remains
    /// only repeats what was said here.
    pub fn abort(&mut self, cause: Cause, place: String, cx: &mut Context<'_>, out: &mut Outbox) {
        self.facts.event(None, Body::CallFault { place }, out);
        self.end(cause, b"SIP ;cause=500 ;text=\"Server Internal Error\"", cx, out);
        self.finish(out);
    }
}
