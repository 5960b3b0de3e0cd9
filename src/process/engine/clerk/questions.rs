//! Questions to all shards at once: who asked, and who has answered. The first yes is the answer; the last no is one too.

use std::collections::BTreeMap;

use crate::base::id::ShardId;
use crate::base::limit::QUESTIONS_MAX;
use crate::wire::link::TraceStep;

/// Who waits for the answer, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Side(u32),
    Keeper(u32),
}

#[derive(Debug, Default)]
pub(super) struct Questions {
    last: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    asker: Asker,
    /// Shards that have not answered, one bit each.
    waits_for: u64,
}

impl Questions {
    /// A new question's number. The oldest is forgotten when there are too many: its asker's patience has ended by then.
    pub(super) fn ask(&mut self, asker: Asker, shards: u8) -> u64 {
        if self.open.len() >= QUESTIONS_MAX {
            self.open.pop_first();
        }
        self.last += 1;
        let waits_for = if shards >= 64 { u64::MAX } else { (1 << shards) - 1 };
        self.open.insert(self.last, Open { asker, waits_for });
        self.last
    }

    pub(super) fn found(&mut self, request: u64, from: ShardId, found: bool) -> Option<(Asker, bool)> {
        self.answered(request, from, found).map(|asker| (asker, found))
    }

    pub(super) fn settled(&mut self, request: u64, from: ShardId) -> Option<Asker> {
        self.answered(request, from, false)
    }

    pub(super) fn traced(
        &mut self,
        request: u64,
        from: ShardId,
        steps: Option<Vec<TraceStep>>,
    ) -> Option<(Asker, Option<Vec<TraceStep>>)> {
        self.answered(request, from, steps.is_some()).map(|asker| (asker, steps))
    }

    fn answered(&mut self, request: u64, from: ShardId, is_final: bool) -> Option<Asker> {
        let open = self.open.get_mut(&request)?;
        open.waits_for &= !(1 << (from.0 & 63));
        if is_final || open.waits_for == 0 { self.open.remove(&request).map(|open| open.asker) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_yes_or_the_last_no_answers() {
        let mut questions = Questions::default();
        let asker = Asker::Keeper(5);
        let request = questions.ask(asker, 3);
        assert_eq!(questions.found(request, ShardId(0), false), None);
        assert_eq!(questions.found(request, ShardId(2), true), Some((asker, true)));
        assert_eq!(questions.found(request, ShardId(1), false), None);
        let request = questions.ask(asker, 2);
        assert_eq!(questions.traced(request, ShardId(1), None), None);
        assert_eq!(questions.traced(request, ShardId(0), None), Some((asker, None)));
        let request = questions.ask(asker, 2);
        assert_eq!(questions.settled(request, ShardId(0)), None);
        assert_eq!(questions.settled(request, ShardId(1)), Some(asker));
    }

    #[test]
    fn questions_are_bounded() {
        let mut questions = Questions::default();
        for id in 0..2 * QUESTIONS_MAX as u32 {
            questions.ask(Asker::Side(id), 64);
        }
        assert_eq!(questions.open.len(), QUESTIONS_MAX);
    }
}
