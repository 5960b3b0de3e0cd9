//! Whether phones of other shards sit at an address that would be shut out for its garbage. Asked when one is to be, never before:
//! what is read in peace costs nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::SOURCES_ASKED_MAX;
use crate::base::time::Instant;
use crate::machine::source_limit::source_bits;

/// An answer holds so long; the next question is asked while it does.
const ASK_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Neighbours {
    asked: BTreeMap<u64, Asked>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Asked {
    at: Instant,
    has_phones: bool,
    /// A shard has said so since the last question.
    confirmed: bool,
}

impl Neighbours {
    /// What is known, and whether the other shards are to be asked.
    pub(super) fn look(&mut self, source: IpAddr, now: Instant) -> (bool, bool) {
        let key = source_bits(source);
        let last = self.asked.get(&key).copied();
        match last {
            Some(asked) if now.since(asked.at) < ASK_EVERY => return (asked.has_phones, false),
            Some(_) => {}
            None if !self.has_room(now) => return (false, false),
            None => {}
        }
        let has_phones = last.is_some_and(|asked| asked.confirmed);
        self.asked.insert(key, Asked { at: now, has_phones, confirmed: false });
        (has_phones, true)
    }

    /// A shard has bindings of this source.
    pub(super) fn confirm(&mut self, source: IpAddr) {
        if let Some(asked) = self.asked.get_mut(&source_bits(source)) {
            asked.has_phones = true;
            asked.confirmed = true;
        }
    }

    /// Where too many are asked for, the others stay shut out: their garbage is more than anybody's phones make.
    fn has_room(&mut self, now: Instant) -> bool {
        if self.asked.len() >= SOURCES_ASKED_MAX {
            self.asked.retain(|_, asked| now.since(asked.at) < ASK_EVERY);
        }
        self.asked.len() < SOURCES_ASKED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn an_answer_holds_until_the_next_question_has_none() {
        let mut neighbours = Neighbours::default();
        let mut now = Instant::from_millis(1_000);
        assert_eq!(neighbours.look(source(1), now), (false, true));
        assert_eq!(neighbours.look(source(1), now), (false, false));
        neighbours.confirm(source(1));
        neighbours.confirm(source(2));
        assert_eq!(neighbours.look(source(1), now), (true, false));
        assert_eq!(neighbours.look(source(2), now), (false, true), "who was not asked for says nothing");
        now = now + ASK_EVERY;
        assert_eq!(neighbours.look(source(1), now), (true, true));
        assert_eq!(neighbours.look(source(1), now), (true, false));
        now = now + ASK_EVERY;
        assert_eq!(neighbours.look(source(1), now), (false, true), "nobody has confirmed it again");
    }

    #[test]
    fn so_many_are_asked_for_at_once_and_no_more() {
        let mut neighbours = Neighbours::default();
        let now = Instant::from_millis(1_000);
        let asked = (0..2_000).filter(|n| neighbours.look(source(*n), now).1).count();
        assert_eq!((asked, neighbours.asked.len()), (SOURCES_ASKED_MAX, SOURCES_ASKED_MAX));
        assert_eq!(neighbours.look(source(5_000), now + ASK_EVERY), (false, true));
        assert_eq!(neighbours.asked.len(), 1);
    }
}
