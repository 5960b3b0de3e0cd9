//! Connections of the API, bounded altogether and per source. Who has shown no token gives way: a connection that comes when all places
//! are taken gets that of the longest idle one, so that nobody can keep health checks and metrics out by holding connections.
//!
//! A connection is kept while a request with a valid token is answered on it. Kept ones never take the last places.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;
use std::task::Poll;

use axum::body::Body;
use axum::body::Bytes;
use hyper::body::Frame;
use hyper::body::SizeHint;
use tokio::task::AbortHandle;

use crate::base::limit::HTTP_CONNECTIONS_MAX;
use crate::base::limit::HTTP_CONNECTIONS_PER_SOURCE_MAX;
use crate::machine::source_limit::source_bits;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) accepted: AtomicU64,
    /// Closed for another of the same source, for another at all, and because the peer did not read.
    pub(crate) gave_way_source: AtomicU64,
    pub(crate) gave_way_total: AtomicU64,
    pub(crate) slow: AtomicU64,
    /// All places of the source, or all at all, are held with tokens.
    pub(crate) refused: AtomicU64,
}

pub(crate) struct Places {
    max: usize,
    per_source_max: usize,
    held: Mutex<Held>,
    pub(crate) counts: Arc<Counts>,
}

#[derive(Default)]
struct Held {
    next: u64,
    /// By age.
    connections: BTreeMap<u64, Connection>,
    by_source: BTreeMap<u64, Share>,
    kept: usize,
}

/// What a source has of the places.
#[derive(Default)]
struct Share {
    connections: usize,
    kept: usize,
}

struct Connection {
    source: u64,
    /// Requests in work, and those of them whose token is valid.
    requests: usize,
    kept: usize,
    /// Of the moment, while no request is in work, since when that is so.
    idle_since: u64,
    task: Option<AbortHandle>,
}

impl Places {
    /// For a process that may open so many files: most of them are for the database and recordings.
    pub(crate) fn new(files: u64, counts: Arc<Counts>) -> Arc<Self> {
        let max = usize::try_from(files / 4).unwrap_or(usize::MAX).clamp(16, HTTP_CONNECTIONS_MAX);
        Arc::new(Self {
            max,
            per_source_max: HTTP_CONNECTIONS_PER_SOURCE_MAX.min(max / 2),
            held: Mutex::default(),
            counts,
        })
    }

    /// A place for a connection, or `None`.
    pub(crate) fn enter(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let source = source_bits(source);
        let mut held = self.held();
        self.counts.accepted.fetch_add(1, Relaxed);
        let of_source = held.by_source.get(&source).map_or(0, |share| share.connections);
        let counter = if of_source >= self.per_source_max {
            Some((Some(source), &self.counts.gave_way_source))
        } else if held.connections.len() >= self.max {
            Some((None, &self.counts.gave_way_total))
        } else {
            None
        };
        if let Some((of, counter)) = counter {
            if !held.make_room(of) {
                self.counts.refused.fetch_add(1, Relaxed);
                return None;
            }
            counter.fetch_add(1, Relaxed);
        }
        let id = held.tick();
        held.connections.insert(id, Connection { source, requests: 0, kept: 0, idle_since: id, task: None });
        held.by_source.entry(source).or_default().connections += 1;
        Some(Place { places: Arc::clone(self), id })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Ends the connection that is idle the longest, or else the oldest of which none is kept.
    fn make_room(&mut self, of: Option<u64>) -> bool {
        let own = || self.connections.iter().filter(|(_, c)| of.is_none_or(|of| c.source == of));
        let idle = own().filter(|(_, c)| c.requests == 0).min_by_key(|(_, c)| c.idle_since);
        let Some(id) = idle.or_else(|| own().find(|(_, c)| c.kept == 0)).map(|(id, _)| *id) else { return false };
        if let Some(Connection { task: Some(task), .. }) = self.remove(id) {
            task.abort();
        }
        true
    }

    fn remove(&mut self, id: u64) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        self.kept -= usize::from(connection.kept > 0);
        if let Some(share) = self.by_source.get_mut(&connection.source) {
            share.connections -= 1;
            share.kept -= usize::from(connection.kept > 0);
            if share.connections == 0 {
                self.by_source.remove(&connection.source);
            }
        }
        Some(connection)
    }
}

/// The place of one connection, until it is dropped.
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
}

impl Place {
    /// The task that serves it, which is ended when another connection needs the place.
    pub(crate) fn served_by(&self, task: AbortHandle) {
        if let Some(connection) = self.places.held().connections.get_mut(&self.id) {
            connection.task = Some(task);
        } else {
            task.abort();
        }
    }

    pub(crate) fn seat(&self) -> Seat {
        Seat { places: Arc::clone(&self.places), id: self.id }
    }

    pub(crate) fn on_slow(&self) {
        self.places.counts.slow.fetch_add(1, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.held().remove(self.id);
    }
}

/// Through which a request speaks for its connection.
#[derive(Clone)]
pub(crate) struct Seat {
    places: Arc<Places>,
    id: u64,
}

impl Seat {
    pub(crate) fn begin(&self) -> Busy {
        if let Some(connection) = self.places.held().connections.get_mut(&self.id) {
            connection.requests += 1;
        }
        Busy(self.clone())
    }

    /// Its token is valid. `None`: too many connections are kept.
    pub(crate) fn keep(&self) -> Option<Kept> {
        let mut guard = self.places.held();
        let held = &mut *guard;
        let connection = held.connections.get_mut(&self.id)?;
        if connection.kept == 0 {
            let share = held.by_source.entry(connection.source).or_default();
            if held.kept >= kept_max(self.places.max) || share.kept >= kept_max(self.places.per_source_max) {
                return None;
            }
            held.kept += 1;
            share.kept += 1;
        }
        connection.kept += 1;
        Some(Kept(self.clone()))
    }
}

/// The rest is for those without a token.
fn kept_max(places: usize) -> usize {
    places - (places / 8).max(1)
}

pub(crate) struct Busy(Seat);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut held = self.0.places.held();
        let now = held.tick();
        if let Some(connection) = held.connections.get_mut(&self.0.id) {
            connection.requests -= 1;
            connection.idle_since = now;
        }
    }
}

pub(crate) struct Kept(Seat);

impl Drop for Kept {
    fn drop(&mut self) {
        let mut guard = self.0.places.held();
        let held = &mut *guard;
        let Some(connection) = held.connections.get_mut(&self.0.id) else { return };
        connection.kept -= 1;
        if connection.kept == 0 {
            held.kept -= 1;
            if let Some(share) = held.by_source.get_mut(&connection.source) {
                share.kept -= 1;
            }
        }
    }
}

/// A body that holds something until it is sent.
pub(crate) struct Holding<T> {
    body: Body,
    _held: T,
}

impl<T> Holding<T> {
    pub(crate) fn new(body: Body, held: T) -> Self {
        Self { body, _held: held }
    }
}

impl<T: Unpin> hyper::body::Body for Holding<T> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, host])
    }

    fn is_held(place: &Place) -> bool {
        place.places.held().connections.contains_key(&place.id)
    }

    #[test]
    fn a_source_takes_places_from_itself_alone() {
        let places = Places::new(64, Arc::default());
        let other = places.enter(address(1)).unwrap();
        let flood: Vec<_> = (0..1_000).map(|_| places.enter(address(2)).unwrap()).collect();
        assert!(is_held(&other));
        assert_eq!(flood.iter().filter(|place| is_held(place)).count(), 8);
        assert!(flood[992..].iter().all(is_held));
        assert_eq!(places.counts.gave_way_source.load(Relaxed), 992);
    }

    #[test]
    fn a_network_of_64_bits_is_one_source() {
        let places = Places::new(64, Arc::default());
        let hosts = (0..100).map(|host| IpAddr::from([0x2001, 0xdb8, 0, 0, host, 2, 3, 4]));
        let flood: Vec<_> = hosts.map(|host| places.enter(host).unwrap()).collect();
        assert_eq!(flood.iter().filter(|place| is_held(place)).count(), 8);
    }

    #[test]
    fn the_longest_idle_goes_first_and_who_shows_a_token_stays() {
        let places = Places::new(64, Arc::default());
        let of: Vec<_> = (0..16).map(|host| places.enter(address(host)).unwrap()).collect();
        let kept = (of[0].seat().begin(), of[0].seat().keep().unwrap());
        let busy = of[1].seat().begin();
        // It was busy a moment ago.
        drop(of[2].seat().begin());
        let new: Vec<_> = (16..29).map(|host| places.enter(address(host)).unwrap()).collect();
        assert!(is_held(&of[0]) && is_held(&of[1]) && is_held(&of[2]));
        assert_eq!(of.iter().filter(|place| is_held(place)).count(), 3);
        let _next = places.enter(address(29)).unwrap();
        assert!(!is_held(&of[2]) && is_held(&of[1]) && new.iter().all(is_held));
        drop((kept, busy));
        assert_eq!((places.held().kept, places.counts.gave_way_total.load(Relaxed)), (0, 14));
        drop((of, new, _next));
        assert!(places.held().connections.is_empty() && places.held().by_source.is_empty());
    }

    #[test]
    fn the_last_places_are_for_those_without_a_token() {
        let places = Places::new(64, Arc::default());
        let of: Vec<_> = (0..16).map(|host| places.enter(address(host)).unwrap()).collect();
        let kept: Vec<_> = of.iter().map(|place| (place.seat().begin(), place.seat().keep())).collect();
        assert_eq!(kept.iter().filter(|(_, kept)| kept.is_some()).count(), 14);
        assert!(places.enter(address(99)).is_some());
        assert_eq!(places.counts.refused.load(Relaxed), 0);
    }
}
