//! The tape at the engine's start: rings in the shards' state memory, the folder of segments, the thread between them.

use crate::base::limit::EVENT_BYTES_MAX;
use crate::base::limit::STATE_BYTES_PER_SHARD;
use crate::process::config::Tape as Settings;
use crate::process::engine::received::ShardHandles;
use crate::process::exit;
use crate::process::exit::Failure;
use crate::shard::memory::Figures;
use crate::shard::memory::MemoryError;
use crate::shard::tape::disk::Folder;
use crate::shard::tape::disk::Way;
use crate::shard::tape::ring;
use crate::shard::tape::ring::Bell;
use crate::shard::tape::ring::Memory;
use crate::shard::tape::ring::Ring;
use crate::shard::tape::thread;
use crate::shard::tape::thread::Shard;
use crate::shard::tape::thread::Tape;
use crate::shard::tape::thread::TapeHandle;
use crate::shard::tape::thread::TapeSettings;
use crate::wire::control::Start;

/// A segment of events: some tens of thousands of them.
const EVENT_SEGMENT_BYTES: u64 = 4 << 20;

/// The thread runs when this returns; one ring a shard, in their order.
pub(super) fn start(
    start: &Start,
    settings: &Settings,
    boot: u64,
    shards: &[ShardHandles],
) -> Result<(TapeHandle, Vec<Ring>), Failure> {
    let in_data = |error: std::io::Error| Failure::from_io("the tape's folder", &error);
    let memory = |error: MemoryError| Failure::new(exit::FORBIDDEN, error.to_string());
    let disk = Folder::open(&start.data.join("tape")).map_err(in_data)?;
    if disk.way() == Way::Buffered {
        tracing::info!(
            event = "tape.buffered",
            "the tape's file system refuses O_DIRECT: written through the page cache"
        );
    }
    let bell = Bell::default();
    let (mut rings, mut taped) = (Vec::new(), Vec::new());
    for handles in shards {
        let bytes = handles.state_bytes.saturating_sub(STATE_BYTES_PER_SHARD);
        let slots = Memory::open(&handles.state, STATE_BYTES_PER_SHARD, bytes).map_err(memory)?;
        let figures = Figures::open(&handles.state, handles.shard).map_err(memory)?;
        let gaps = ring::gaps();
        rings.push(Ring::new(slots.clone(), boot, bell.clone(), gaps.clone()));
        taped.push(Shard { shard: handles.shard, memory: slots, figures, gaps });
    }
    let settings = TapeSettings {
        boot,
        media_segment_bytes: settings.segment_mib << 20,
        event_segment_bytes: EVENT_SEGMENT_BYTES,
        media_bytes_max: settings.media_mib_max << 20,
        event_bytes_max: EVENT_BYTES_MAX,
        segment_age_max: settings.segment_age,
        is_sealed: settings.encrypt,
    };
    let mut tape = Tape::open(disk, settings, taped).map_err(in_data)?;
    if !tape.prepare() {
        tracing::error!(event = "tape.failed", "no room for the tape's reserve of events");
    }
    let handle = thread::spawn(tape, bell, start.housekeeping.map(usize::from)).map_err(in_data)?;
    Ok((handle, rings))
}
