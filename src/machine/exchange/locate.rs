//! Finding a callee's bindings: asked of the shards that hold them, with a deadline, safe to repeat or to lose.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::id::Handle;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::machine::outbox::Target;

/// A shard that has not answered by then is taken to have no bindings.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Locating {
    next: u64,
    questions: BTreeMap<u64, Question>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    call: Handle,
    /// Shards that have not answered, one bit each.
    open: u64,
    targets: Vec<Target>,
    deadline: Instant,
}

/// All answers are here, or the time is up.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) call: Handle,
    pub(super) targets: Vec<Target>,
}

impl Locating {
    /// Begins a question to these shards; its number goes with each message.
    pub(super) fn ask(&mut self, call: Handle, shards: impl Iterator<Item = ShardId>, now: Instant) -> u64 {
        self.next += 1;
        let open = shards.fold(0u64, |open, shard| open | 1 << (shard.0 & 63));
        self.questions.insert(self.next, Question { call, open, targets: Vec::new(), deadline: now + PATIENCE });
        self.next
    }

    pub(super) fn answer(&mut self, request: u64, from: ShardId, targets: Vec<Target>) -> Option<Located> {
        let question = self.questions.get_mut(&request)?;
        let bit = 1 << (from.0 & 63);
        if question.open & bit == 0 {
            return None;
        }
        question.open &= !bit;
        question.targets.extend(targets);
        if question.open == 0 { self.finish(request) } else { None }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Located> {
        let late: Vec<_> = self
            .questions
            .iter()
            .filter(|(_, question)| question.deadline <= now)
            .map(|(request, _)| *request)
            .collect();
        late.into_iter().filter_map(|request| self.finish(request)).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        // Asked in the order of their deadlines.
        self.questions.first_key_value().map(|(_, question)| question.deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.questions.len()
    }

    fn finish(&mut self, request: u64) -> Option<Located> {
        let Question { call, mut targets, .. } = self.questions.remove(&request)?;
        // First choice first (RFC 3261 §16.6: by q); a stable order whichever shard answered first.
        targets.sort_by(|a, b| (b.q, &a.aor, &a.contact).cmp(&(a.q, &b.aor, &b.contact)));
        Some(Located { call, targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::flow::Flow;
    use crate::machine::outbox::Aor;

    const CALL: Handle = Handle { slot: 1, generation: 2 };

    fn target(contact: &str, q: u16) -> Target {
        let aor = Aor { tenant: "acme".to_owned(), user: "1".to_owned() };
        let flow = Flow::udp(0, "192.0.2.1:5060".parse().unwrap());
        Target { aor, contact: contact.to_owned(), flow, path: Vec::new(), q, instance: String::new() }
    }

    #[test]
    fn answers_of_all_shards_make_one_list_by_preference() {
        let mut locating = Locating::default();
        let request = locating.ask(CALL, [ShardId(0), ShardId(3)].into_iter(), Instant::ZERO);
        assert!(locating.answer(request, ShardId(3), vec![target("b", 1000)]).is_none());
        assert!(
            locating.answer(request, ShardId(3), vec![target("again", 1000)]).is_none(),
            "a repeated answer counts once"
        );
        let located = locating.answer(request, ShardId(0), vec![target("c", 500), target("a", 1000)]).unwrap();
        assert_eq!(located.call, CALL);
        let contacts: Vec<_> = located.targets.iter().map(|target| target.contact.as_str()).collect();
        assert_eq!(contacts, ["a", "b", "c"]);
        assert!(locating.next_deadline().is_none());
    }

    #[test]
    fn a_silent_shard_is_not_waited_for() {
        let mut locating = Locating::default();
        let request = locating.ask(CALL, [ShardId(0), ShardId(1)].into_iter(), Instant::ZERO);
        locating.answer(request, ShardId(0), vec![target("a", 1000)]);
        let deadline = locating.next_deadline().unwrap();
        assert!(locating.handle_timeout(deadline - Duration::from_millis(1)).is_empty());
        let late = locating.handle_timeout(deadline);
        assert_eq!(late.len(), 1);
        assert_eq!(late[0].targets.len(), 1);
        assert!(locating.answer(request, ShardId(1), Vec::new()).is_none());
    }
}
