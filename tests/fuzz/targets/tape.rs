//! What must hold of `wire::tape` for any bytes: no panic, no loop without end, and what is read was written so.

use tipring::base::id::ShardId;
use tipring::wire::tape::BLOCK_ALIGN;
use tipring::wire::tape::BLOCK_BYTES_MAX;
use tipring::wire::tape::HEADER_BYTES;
use tipring::wire::tape::Header;
use tipring::wire::tape::Reader;
use tipring::wire::tape::Record;
use tipring::wire::tape::Step;
use tipring::wire::tape::Track;
use tipring::wire::tape::crypt::Key;
use tipring::wire::tape::name::SegmentName;
use tipring::wire::tape::parse;
use tipring::wire::tape::records;

pub(crate) fn all(bytes: &[u8]) {
    body(bytes);
    block(bytes);
    segment(bytes);
    assert!(Key::parse(bytes).is_none_or(|key| key.emit()[..44] == bytes[..44]));
}

/// Records end, and a frame emitted again has the bytes it came from.
fn body(bytes: &[u8]) {
    let mut read = 0;
    for record in records(bytes) {
        let Ok(record) = record else { break };
        let start = read;
        read += usize::from(u16::from_le_bytes([bytes[read], bytes[read + 1]]));
        if let Record::Frame(frame) = record {
            let mut room = vec![0; BLOCK_BYTES_MAX];
            if let Some(len) = frame.emit(&mut room) {
                assert_eq!(len, read - start);
                assert_eq!(room[HEADER_BYTES.min(len)..len], bytes[start + HEADER_BYTES.min(len)..read]);
            }
        }
    }
    assert!(read <= bytes.len());
}

/// A block that is taken emits to itself.
fn block(bytes: &[u8]) {
    let _ = Header::parse(bytes);
    if let Ok((header, body)) = parse(bytes) {
        assert_eq!(header.emit(body)[..], bytes[..HEADER_BYTES]);
        assert!(header.padded() <= BLOCK_BYTES_MAX);
    }
}

/// A segment of whatever name its first block claims is read to an end, whose position is in the file.
fn segment(bytes: &[u8]) {
    let name =
        Header::parse(bytes).map_or(SegmentName { shard: ShardId(0), track: Track::Media, segment: 1 }, |header| {
            SegmentName { shard: header.shard, track: header.track, segment: header.segment }
        });
    let mut reader = Reader::new(name, None);
    let mut blocks = 0;
    loop {
        let position = reader.position() as usize;
        let mut rest = bytes.get(position..).unwrap_or_default().to_vec();
        match reader.next(&mut rest) {
            Step::Block { header, body } => {
                blocks += 1;
                assert_eq!(records(body).count(), header.records as usize);
                assert!(reader.position() as usize > position && blocks <= bytes.len() / BLOCK_ALIGN + 1);
            }
            Step::More(wanted) => return assert!(wanted > rest.len() && wanted <= BLOCK_BYTES_MAX),
            Step::End(_) => return,
        }
    }
}
