//! What one token may have at once: a token that takes all it can get leaves the others theirs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use crate::base::limit::EVENT_STREAMS_MAX;
use crate::base::limit::EVENT_STREAMS_PER_TOKEN_MAX;
use crate::base::limit::HTTP_REQUESTS_PER_TOKEN_MAX;

/// What the tokens have, each under its name.
#[derive(Clone, Default)]
pub(super) struct Tokens(Arc<Mutex<BTreeMap<String, Use>>>);

#[derive(Default)]
struct Use {
    requests: usize,
    streams: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoStream {
    OfToken,
    AtAll,
}

impl Tokens {
    /// `None`: so many requests of the token are being answered already.
    pub(super) fn begin(&self, name: &str) -> Option<InWork> {
        let mut all = self.0.lock().ok()?;
        let own = all.entry(name.to_owned()).or_default();
        if own.requests >= HTTP_REQUESTS_PER_TOKEN_MAX {
            return None;
        }
        own.requests += 1;
        Some(InWork { tokens: self.clone(), name: name.to_owned(), is_stream: false })
    }

    pub(super) fn begin_stream(&self, name: &str) -> Result<InWork, NoStream> {
        let mut all = self.0.lock().map_err(|_| NoStream::AtAll)?;
        if all.values().map(|of| of.streams).sum::<usize>() >= EVENT_STREAMS_MAX {
            return Err(NoStream::AtAll);
        }
        let own = all.entry(name.to_owned()).or_default();
        if own.streams >= EVENT_STREAMS_PER_TOKEN_MAX {
            return Err(NoStream::OfToken);
        }
        own.streams += 1;
        Ok(InWork { tokens: self.clone(), name: name.to_owned(), is_stream: true })
    }
}

/// One request or stream of a token, until it is dropped.
pub(super) struct InWork {
    tokens: Tokens,
    name: String,
    is_stream: bool,
}

impl Drop for InWork {
    fn drop(&mut self) {
        let Ok(mut all) = self.tokens.0.lock() else { return };
        let Some(own) = all.get_mut(&self.name) else { return };
        if self.is_stream {
            own.streams -= 1;
        } else {
            own.requests -= 1;
        }
        if (own.requests, own.streams) == (0, 0) {
            all.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_others_theirs() {
        let tokens = Tokens::default();
        let held: Vec<_> = (0..1_000).filter_map(|_| tokens.begin("a")).collect();
        assert_eq!(held.len(), HTTP_REQUESTS_PER_TOKEN_MAX);
        assert!(tokens.begin("b").is_some());
        let streams: Vec<_> = (0..1_000).filter_map(|_| tokens.begin_stream("a").ok()).collect();
        assert_eq!(streams.len(), EVENT_STREAMS_PER_TOKEN_MAX);
        assert_eq!(tokens.begin_stream("a").err(), Some(NoStream::OfToken));
        assert!(tokens.begin_stream("b").is_ok());
        drop((held, streams));
        assert!(tokens.0.lock().unwrap().is_empty());
        let names = (0..1_000).map(|index| format!("t{index}"));
        let streams: Vec<_> = names.filter_map(|name| tokens.begin_stream(&name).ok()).collect();
        assert_eq!(streams.len(), EVENT_STREAMS_MAX);
        assert_eq!(tokens.begin_stream("a").err(), Some(NoStream::AtAll));
    }
}
