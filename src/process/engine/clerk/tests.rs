//! The clerk on a thread, with a keeper's socket and nothing around it.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use crate::machine::fixture;
use crate::process::channel::Channel;
use crate::process::config::Hep;
use crate::process::engine::clerk::Beginning;
use crate::process::engine::clerk::Clerk;
use crate::process::engine::clerk::FAREWELL;
use crate::process::engine::clerk::directory::Keeping;
use crate::process::engine::clerk::saving::Saving;
use crate::process::engine::clerk::store::Store;
use crate::process::engine::events::Waiting;
use crate::process::engine::secrets::Kept;
use crate::shard::clock;
use crate::shard::mesh::Post;
use crate::shard::tape::disk::Folder;
use crate::shard::tape::ring::Bell;
use crate::shard::tape::thread;
use crate::shard::tape::thread::Tape;
use crate::shard::tape::thread::TapeSettings;
use crate::wire::control::ToChild;

const LITTLE: Duration = Duration::from_millis(200);

/// How long the clerk went on after it was told to stop, with an event that finds room after `room`.
fn time_to_stop(room: Duration) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let (data, waiting) = (folder.path().to_owned(), Waiting::default());
    let (ours, keeper) = Channel::pair().unwrap();
    let clerks = waiting.clone();
    waiting.add(1);
    let clerk = std::thread::spawn(move || {
        let settings = TapeSettings {
            boot: 1,
            media_segment_bytes: 1 << 20,
            event_segment_bytes: 1 << 20,
            media_bytes_max: 1 << 20,
            event_bytes_max: 1 << 20,
            segment_age_max: Duration::from_secs(1),
            is_sealed: false,
        };
        let tape = Tape::open(Folder::open(&data.join("tape")).unwrap(), settings, Vec::new()).unwrap();
        let tape = thread::spawn(tape, Bell::default(), None).unwrap();
        let beginning = Beginning {
            boot: 1,
            settings: Arc::new(fixture::settings()),
            post: Post::mesh(1).unwrap().pop().unwrap(),
            keeper,
            link: UnixListener::bind(data.join("link.sock")).unwrap(),
            saving: Saving {
                store: Store::open(&data.join("engine"), "bindings").0,
                directory: Keeping::open(&data),
                secrets: Kept::open(&data).unwrap(),
                data,
                figures: None,
                failing: None,
            },
            is_draining: false,
            hep: Hep { address: None, capture_id: 0 },
            tape: tape.teller(),
            waiting: clerks,
        };
        Clerk::new(beginning).unwrap().run().unwrap();
        let ended = clock::boottime();
        tape.finish();
        ended
    });
    let told = clock::boottime();
    ours.send(&ToChild::Stop { now: false }).unwrap();
    std::thread::sleep(room);
    waiting.remove(1);
    clerk.join().unwrap().since(told)
}

#[test]
fn an_engine_that_stops_waits_for_events_that_have_no_room_but_not_for_ever() {
    let took = time_to_stop(LITTLE);
    assert!(took >= LITTLE, "{took:?}");
    let took = time_to_stop(FAREWELL + LITTLE);
    assert!(took >= FAREWELL, "{took:?}");
}
