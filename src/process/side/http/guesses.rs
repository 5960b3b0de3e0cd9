//! Wrong tokens, counted by source: who shows many has no more of them looked up in the database. The right one still passes from
//! there: then it is looked for among the hashes of all tokens, which are read again once a second at most.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use crate::base::limit::HTTP_GUESSERS_MAX;
use crate::machine::source_limit::source_bits;
use crate::process::side::store::Store;
use crate::process::side::store::StoreError;
use crate::process::side::token;
use tokio::time::Instant;

/// Wrong tokens of a source at once, and how soon one of them is forgotten.
const GUESSES_MAX: u32 = 50;
const FORGOTTEN: Duration = Duration::from_millis(200);
/// How old the hashes may be, and what a source over its limit is told to wait.
pub(super) const READ_EVERY: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Guesses {
    sources: Mutex<BTreeMap<u64, Guesser>>,
    hashes: tokio::sync::Mutex<Option<(Instant, HashSet<Vec<u8>>)>>,
}

/// When all of its guesses are forgotten.
type Guesser = Instant;

impl Guesses {
    /// Whether this token may be looked up for a request from `source`.
    pub(super) async fn may_try(
        &self,
        store: &Store,
        source: IpAddr,
        presented: &str,
        now: Instant,
    ) -> Result<bool, StoreError> {
        if !self.is_over(source, now) {
            return Ok(true);
        }
        let mut hashes = self.hashes.lock().await;
        match &*hashes {
            Some((read, hashes)) if now.saturating_duration_since(*read) < READ_EVERY => {
                Ok(hashes.contains(&token::hash(presented)[..]))
            }
            _ => {
                let read = token::hashes(store).await?;
                let is_token = read.contains(&token::hash(presented)[..]);
                *hashes = Some((now, read));
                Ok(is_token)
            }
        }
    }

    /// The token was wrong.
    pub(super) fn on_wrong(&self, source: IpAddr, now: Instant) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let key = source_bits(source);
        if sources.len() >= HTTP_GUESSERS_MAX && !sources.contains_key(&key) {
            sources.retain(|_, until| *until > now);
        }
        // With so many guessers one more is not counted, and costs what it costs.
        if sources.len() < HTTP_GUESSERS_MAX || sources.contains_key(&key) {
            let until = sources.entry(key).or_insert(now);
            *until = (*until).max(now) + FORGOTTEN;
        }
    }

    fn is_over(&self, source: IpAddr, now: Instant) -> bool {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let until = sources.get(&source_bits(source));
        until.is_some_and(|until| until.saturating_duration_since(now) >= FORGOTTEN * GUESSES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_guesses_back_with_time_and_another_notices_nothing() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        let (guesser, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let tried = (0..1_000).filter(|_| {
            !guesses.is_over(guesser, now) && {
                guesses.on_wrong(guesser, now);
                true
            }
        });
        assert_eq!(tried.count(), 50);
        assert!(!guesses.is_over(other, now));
        let later = now + Duration::from_secs(1);
        let tried = (0..1_000).filter(|_| {
            !guesses.is_over(guesser, later) && {
                guesses.on_wrong(guesser, later);
                true
            }
        });
        assert_eq!(tried.count(), 5);
    }

    #[test]
    fn the_table_of_guessers_has_an_end() {
        let (guesses, now) = (Guesses::default(), Instant::now());
        for n in 0..2 * HTTP_GUESSERS_MAX as u32 {
            guesses.on_wrong(std::net::Ipv4Addr::from_bits(n).into(), now);
        }
        assert_eq!(guesses.sources.lock().unwrap().len(), HTTP_GUESSERS_MAX);
        guesses.on_wrong(IpAddr::from([192, 0, 2, 1]), now + Duration::from_secs(1));
        assert_eq!(guesses.sources.lock().unwrap().len(), 1);
    }
}
