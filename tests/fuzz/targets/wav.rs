//! Properties of `wire::wav` over any bytes: announcements come from files that others wrote.

use tipring::wire::wav;
use tipring::wire::wav::Wav;

/// The audio lies in the file, each channel has all its samples, and what is read is written and read again as the same.
pub(crate) fn file(bytes: &[u8]) {
    let Ok(read) = Wav::parse(bytes) else { return };
    let (audio, whole) = (read.audio.as_ptr_range(), bytes.as_ptr_range());
    assert!(read.is_empty() || audio.start >= whole.start && audio.end <= whole.end);
    assert_eq!(read.audio.len() % read.format.block_bytes(), 0);
    assert_eq!(read.is_empty(), read.samples(0).next().is_none());
    for channel in 0..read.format.channels {
        assert_eq!(read.samples(channel).count(), read.len(), "channel {channel}");
    }
    assert_eq!(read.samples(read.format.channels).count(), 0);
    let written = wav::emit(read.format, read.audio).expect("what was read can be written");
    let again = Wav::parse(&written).expect("what we write is a WAV file");
    assert_eq!(again, Wav { is_cut: false, ..read });
}
