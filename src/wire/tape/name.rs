//! The names of tape files: `<shard>/<track>-<segment>.tape`, and `.key` beside it.

use crate::base::id::ShardId;
use crate::wire::tape::block::Track;

/// One segment of a node's tapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    pub shard: ShardId,
    pub track: Track,
    pub segment: u64,
}

impl SegmentName {
    /// The folder of a shard's segments, under the folder of all tapes.
    pub fn folder(shard: ShardId) -> String {
        shard.0.to_string()
    }

    pub fn file(&self) -> String {
        format!("{}.tape", self.stem())
    }

    pub fn key_file(&self) -> String {
        format!("{}.key", self.stem())
    }

    fn stem(&self) -> String {
        format!("{}-{:012}", word(self.track), self.segment)
    }

    /// The segment whose file has this name in the folder of `shard`.
    pub fn parse(shard: ShardId, file: &str) -> Option<Self> {
        let (track, segment) = file.strip_suffix(".tape")?.split_once('-')?;
        let track = Track::ALL.into_iter().find(|known| word(*known) == track)?;
        Some(Self { shard, track, segment: segment.parse().ok()? })
    }
}

const fn word(track: Track) -> &'static str {
    match track {
        Track::Events => "events",
        Track::Media => "media",
    }
}
