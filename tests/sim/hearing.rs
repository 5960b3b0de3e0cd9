//! Who hears whom: while both parties of a call are up and send, neither waits long for the other, whatever their ports do; and a
//! stranger that sprays is not heard for longer than it takes to learn who is who.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tipring::base::time::Instant;

use crate::phone::Phone;

const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After any change; beside it the ways over network and mesh, and two frames.
const SILENCE_MAX: Duration = Duration::from_millis(500 + 80);
/// Where messages are lost, and repeated.
const SILENCE_WITH_LOSS_MAX: Duration = Duration::from_millis(2_000);
/// As long as a better source may take over.
const LEARNING_MAX: Duration = Duration::from_millis(3_000 + 500);

#[derive(Debug)]
pub struct Hearing {
    silence_max: Duration,
    next_look: Instant,
    /// From when on a phone must hear its party, by the phone's place.
    since: BTreeMap<usize, Instant>,
    /// Media ports from which a stranger was sent to, first and last.
    sprayed: BTreeMap<SocketAddr, (Instant, Instant)>,
}

impl Hearing {
    pub fn new(is_lossy: bool, is_sprayed: bool, now: Instant) -> Self {
        let silence_max = match (is_sprayed, is_lossy) {
            (true, _) => LEARNING_MAX,
            (false, true) => SILENCE_WITH_LOSS_MAX,
            (false, false) => SILENCE_MAX,
        };
        Self { silence_max, next_look: now, since: BTreeMap::new(), sprayed: BTreeMap::new() }
    }

    pub fn look(&mut self, phones: &[Phone], now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK_EVERY;
        for (place, hearer) in phones.iter().enumerate() {
            let speaker = hearer.parties().and_then(|(own, remote)| {
                phones
                    .iter()
                    .find(|other| other.parties() == Some((remote, own)) && other.talks() && !other.is_stalled(now))
            });
            let Some(speaker) = speaker.filter(|_| hearer.talks()) else {
                self.since.remove(&place);
                continue;
            };
            let since = *self.since.entry(place).or_insert(now);
            let silence = now.since(hearer.last_heard.map_or(since, |heard| heard.max(since)));
            assert!(
                silence <= self.silence_max,
                "{} {:?} has not heard {} {:?} for {silence:?}, at {now:?}",
                hearer.user,
                hearer.habits,
                speaker.user,
                speaker.habits
            );
            let heard = hearer.sprayed.map_or(Duration::ZERO, |(first, last)| last.since(first));
            assert!(heard <= LEARNING_MAX, "{} has heard a stranger for {heard:?}", hearer.user);
        }
    }

    /// The node sends to a stranger.
    pub fn sent_to_sprayer(&mut self, from: SocketAddr, now: Instant) {
        let (first, last) = self.sprayed.entry(from).or_insert((now, now));
        // Another call uses the port.
        if now.since(*last) > Duration::from_secs(4) {
            *first = now;
        }
        *last = now;
        assert!(
            now.since(*first) <= LEARNING_MAX,
            "a stranger hears what goes out of {from} for {:?}",
            now.since(*first)
        );
    }
}
