//! How many SIP messages of each kind there were: requests by method and transport, responses by method and status.
//!
//! A short sorted list: a node sees a few dozen kinds, whatever could be made up. Beyond the bound they count as the rest.

use serde::Deserialize;
use serde::Serialize;

use crate::base::limit::MESSAGE_KINDS_MAX;
use crate::wire::sip::Method;
use crate::wire::sip::Transport;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Request {
        method: Method,
        transport: Transport,
    },
    /// `method` is that of the request; `status` is one digit, its class, where the rest is counted.
    Response {
        method: Method,
        status: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In = 1,
    Out = 2,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Messages {
    /// Words of kinds, in their order.
    counts: Vec<(u32, u64)>,
    /// Messages that count as the rest because there was no room for their kind.
    pub lumped: u64,
}

impl Messages {
    pub fn count(&mut self, kind: Kind) {
        match self.find(kind.word()) {
            Ok(place) => self.counts[place].1 += 1,
            Err(place) => self.count_first(place, kind),
        }
    }

    #[cold]
    fn count_first(&mut self, place: usize, kind: Kind) {
        if self.counts.len() < MESSAGE_KINDS_MAX {
            self.counts.insert(place, (kind.word(), 1));
            return;
        }
        self.lumped += 1;
        let rest = kind.rest().word();
        match self.find(rest) {
            Ok(place) => self.counts[place].1 += 1,
            // There are few of these, and room for them is always made.
            Err(place) => self.counts.insert(place, (rest, 1)),
        }
    }

    fn find(&self, word: u32) -> Result<usize, usize> {
        self.counts.binary_search_by_key(&word, |(known, _)| *known)
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.find(kind.word()).map_or(0, |place| self.counts[place].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64)> + '_ {
        self.counts.iter().filter_map(|(word, count)| Some((Kind::of_word(*word)?, *count)))
    }
}

const REQUEST: u32 = 1 << 24;
const RESPONSE: u32 = 2 << 24;
const TRANSPORTS: [Transport; 5] = [Transport::Udp, Transport::Tcp, Transport::Tls, Transport::Ws, Transport::Wss];

impl Kind {
    /// For a table of both ways; never 0.
    pub fn key(self, way: Way) -> u64 {
        (way as u64) << 32 | u64::from(self.word())
    }

    pub fn of_key(key: u64) -> Option<(Way, Self)> {
        let way = match key >> 32 {
            1 => Way::In,
            2 => Way::Out,
            _ => return None,
        };
        Some((way, Self::of_word((key & 0xFFFF_FFFF) as u32)?))
    }

    fn word(self) -> u32 {
        match self {
            Self::Request { method, transport } => REQUEST | (method as u32) << 16 | transport as u32,
            Self::Response { method, status } => RESPONSE | (method as u32) << 16 | u32::from(status),
        }
    }

    fn of_word(word: u32) -> Option<Self> {
        let [_, number, high, low] = word.to_be_bytes();
        let (method, status) = (*Method::ALL.get(usize::from(number))?, u16::from_be_bytes([high, low]));
        match word & !0xFF_FFFF {
            REQUEST => Some(Self::Request { method, transport: *TRANSPORTS.get(usize::from(status))? }),
            RESPONSE => Some(Self::Response { method, status }),
            _ => None,
        }
    }

    /// What it counts as where there is no room for it.
    pub fn rest(self) -> Self {
        match self {
            Self::Request { transport, .. } => Self::Request { method: Method::Other, transport },
            Self::Response { status, .. } => {
                Self::Response { method: Method::Other, status: if status < 10 { status } else { status / 100 } }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(method: Method, status: u16) -> Kind {
        Kind::Response { method, status }
    }

    #[test]
    fn a_kind_survives_its_word() {
        for (index, method) in Method::ALL.into_iter().enumerate() {
            assert_eq!(method as usize, index);
            for transport in TRANSPORTS {
                let kind = Kind::Request { method, transport };
                assert_eq!(Kind::of_word(kind.word()), Some(kind));
            }
            assert_eq!(Kind::of_key(response(method, 200).key(Way::Out)), Some((Way::Out, response(method, 200))));
            for status in [1, 100, 183, 200, 487, 699] {
                assert_eq!(Kind::of_word(response(method, status).word()), Some(response(method, status)));
            }
        }
        for word in [0, 200, REQUEST | 15 << 16, REQUEST | 9, 3 << 24, u32::MAX] {
            assert_eq!(Kind::of_word(word), None, "{word:x}");
            assert_eq!(Kind::of_key(u64::from(word)), None, "{word:x}");
        }
    }

    #[test]
    fn each_kind_has_its_count() {
        let mut messages = Messages::default();
        let ring = Kind::Request { method: Method::Invite, transport: Transport::Tcp };
        for kind in [response(Method::Bye, 200), ring, response(Method::Invite, 200), ring, ring] {
            messages.count(kind);
        }
        assert_eq!(messages.of(ring), 3);
        assert_eq!(messages.of(Kind::Request { method: Method::Invite, transport: Transport::Udp }), 0);
        assert_eq!(messages.of(response(Method::Bye, 200)), 1);
        assert_eq!(messages.iter().map(|(_, count)| count).sum::<u64>(), 5);
    }

    #[test]
    fn what_has_no_room_counts_as_the_rest_of_its_class() {
        let mut messages = Messages::default();
        let statuses = || Method::ALL.into_iter().flat_map(|method| (400..500).map(move |s| response(method, s)));
        statuses().chain(statuses()).for_each(|kind| messages.count(kind));
        messages.count(response(Method::Bye, 603));
        let first = statuses().next().unwrap();
        assert_eq!(messages.of(first), 2);
        let (kept, all) = (MESSAGE_KINDS_MAX as u64, statuses().count() as u64);
        assert_eq!(messages.of(response(Method::Other, 4)), 2 * (all - kept));
        assert_eq!(messages.of(response(Method::Other, 6)), 1);
        assert_eq!(messages.lumped, 2 * (all - kept) + 1);
        assert_eq!(messages.iter().count(), MESSAGE_KINDS_MAX + 2);
    }
}
