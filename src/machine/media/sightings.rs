//! Which unnamed source was seen at which pair: one that comes to several parties' pairs is no party of any.
//!
//! A table of fixed size; a newer source takes an older one's place. It adds to what a pair alone can judge, and nobody is
//! heard because of it.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::base::hash::HashKey;
use crate::base::time::Instant;
use crate::machine::media::command::PairId;

/// Sources remembered.
const PLACES: usize = 512;
/// How long a sighting counts.
const MEMORY: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sightings {
    places: Vec<Option<Sighting>>,
}

impl Default for Sightings {
    fn default() -> Self {
        Self { places: vec![None; PLACES] }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sighting {
    source: SocketAddr,
    pair: PairId,
    /// Where the party of that pair said it is: one phone may use one port for several calls.
    described: Option<SocketAddr>,
    at: Instant,
    sprays_until: Instant,
}

/// What is known of a source that came to a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// It sends to several parties' pairs.
    pub sprays: bool,
    /// Where it was before, if that shows it.
    pub before: Option<PairId>,
}

impl Sightings {
    pub fn see(&mut self, source: SocketAddr, pair: PairId, described: Option<SocketAddr>, now: Instant) -> Seen {
        let place = &mut self.places[place_of(source)];
        let new = Sighting { source, pair, described, at: now, sprays_until: Instant::ZERO };
        let Some(known) = place.filter(|known| known.source == source && now.since(known.at) < MEMORY) else {
            *place = Some(new);
            return Seen { sprays: false, before: None };
        };
        let is_elsewhere = known.pair != pair && known.described != described;
        let sprays_until = if is_elsewhere { now + MEMORY } else { known.sprays_until };
        *place = Some(Sighting { sprays_until, ..new });
        Seen { sprays: now < sprays_until, before: Some(known.pair).filter(|_| is_elsewhere) }
    }
}

fn place_of(source: SocketAddr) -> usize {
    let port = source.port().to_be_bytes();
    let hash = match source.ip() {
        IpAddr::V4(ip) => HashKey([0; 16]).hash(&[&ip.octets(), &port]),
        IpAddr::V6(ip) => HashKey([0; 16]).hash(&[&ip.octets(), &port]),
    };
    (hash % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 9], port))
    }

    #[test]
    fn a_source_at_pairs_of_several_parties_sprays_for_a_while() {
        let mut seen = Sightings::default();
        let mut see = |source, pair, described, millis| {
            seen.see(address(source), PairId(pair), Some(address(described)), Instant::from_millis(millis))
        };
        let nothing = Seen { sprays: false, before: None };
        assert_eq!(see(1, 0, 50, 10_000), nothing);
        assert_eq!(see(1, 0, 50, 10_020), nothing);
        assert_eq!(see(1, 1, 51, 10_040), Seen { sprays: true, before: Some(PairId(0)) });
        assert_eq!(see(1, 1, 51, 10_060), Seen { sprays: true, before: None });
        assert_eq!(see(2, 1, 51, 10_060), nothing);
        assert_eq!(see(1, 1, 51, 15_039), Seen { sprays: true, before: None });
        assert_eq!(see(1, 1, 51, 15_040), nothing);
        // What was seen long ago tells nothing.
        assert_eq!(see(1, 2, 52, 20_040), nothing);
    }

    #[test]
    fn one_phone_may_use_one_port_for_several_calls() {
        let mut seen = Sightings::default();
        for pair in 0..10 {
            let now = Instant::from_millis(10_000 + u64::from(pair));
            assert!(!seen.see(address(1), PairId(pair), Some(address(50)), now).sprays);
        }
    }

    #[test]
    fn the_table_has_an_end() {
        let mut seen = Sightings::default();
        for port in 0..5_000 {
            seen.see(address(port), PairId(0), None, Instant::from_millis(1));
        }
        assert_eq!(seen.places.len(), PLACES);
    }
}
