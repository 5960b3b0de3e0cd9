//! The fuzz properties of `wire::tape` over a corpus (`tests/corpus/tape`, and segments made here) and over seeded mutations.
//!
//! `TIPRING_FUZZ_ROUNDS` and `TIPRING_FUZZ_SEED` widen the search; a failure prints the bytes, which belong into the corpus.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::catch_unwind;

use tipring::base::id::CallId;
use tipring::base::id::ShardId;
use tipring::base::random::Random;
use tipring::base::time::Instant;
use tipring::base::time::UnixTime;
use tipring::wire::tape::Frame;
use tipring::wire::tape::Header;
use tipring::wire::tape::Mark;
use tipring::wire::tape::Track;
use tipring::wire::tape::crypt::Key;
use tipring::wire::tape::padded;
use tipring::wire::tape::record::emit_mark;

#[path = "fuzz/targets/tape.rs"]
mod targets;

/// A segment of blocks with frames and marks, whole.
fn segment(blocks: u64, frames: usize) -> Vec<u8> {
    let mut file = Vec::new();
    for number in 1..=blocks {
        let (at, call) = (Instant::from_millis(number), CallId::from_bits(7));
        let mut body = emit_mark(at, call, &Mark::Begin { tenant: "acme".to_owned() }).unwrap();
        for index in 0..frames {
            let mut room = [0; 512];
            let packet = [0x80, 0, 0, index as u8, 0, 0, 0, 160, 1, 2, 3, 4, 5, 6, 7, 8];
            let len = Frame { call, leg: 0, stream: 0, at, packet: &packet }.emit(&mut room).unwrap();
            body.extend_from_slice(&room[..len]);
        }
        let header = Header {
            track: Track::Media,
            is_sealed: false,
            shard: ShardId(0),
            boot: 1,
            segment: 1,
            place: (file.len() / 4_096) as u32,
            number,
            len: body.len() as u32,
            records: frames as u32 + 1,
            opened: at,
            opened_unix: UnixTime::from_secs(number),
            tag: [0; 16],
        };
        file.extend_from_slice(&header.emit(&body));
        let end = file.len() - 96 + padded(body.len());
        file.extend_from_slice(&body);
        file.resize(end, 0);
    }
    file
}

fn corpus() -> Vec<Vec<u8>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/tape");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is there");
    let mut corpus: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    corpus.extend([segment(1, 0), segment(1, 3), segment(3, 90), Key::new([4; 32]).emit().to_vec()]);
    corpus.push(segment(1, 3)[96..400].to_vec());
    corpus
}

fn check(bytes: &[u8], what: &str) {
    let outcome = catch_unwind(|| targets::all(bytes));
    assert!(outcome.is_ok(), "{what}: \"{}\"", bytes.escape_ascii());
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn the_corpus_holds() {
    corpus().iter().for_each(|bytes| check(bytes, "corpus"));
}

#[test]
fn every_prefix_holds() {
    let segment = segment(2, 20);
    (0..segment.len()).step_by(13).for_each(|end| check(&segment[..end], "prefix"));
}

#[test]
fn mutations_hold() {
    let corpus = corpus();
    let mut random = Random::new(number("TIPRING_FUZZ_SEED", 0x7A9E));
    for round in 0..number("TIPRING_FUZZ_ROUNDS", 3_000) {
        let mut bytes = corpus[random.below(corpus.len() as u64) as usize].clone();
        for _ in 0..=random.below(4) {
            mutate(&mut bytes, &mut random);
        }
        mend(&mut bytes);
        check(&bytes, &format!("round {round}"));
    }
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    // Mostly where the structure is: headers and the first records.
    let reach = if random.below(3) == 0 { bytes.len() as u64 + 1 } else { 200 };
    let at = (random.below(reach) as usize).min(bytes.len());
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => bytes.extend_from_within(at..),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if random.below(2) == 0 { random.below(256) as u8 } else { *byte ^ 1 << random.below(8) };
            }
        }
    }
}

/// The checksum of the first block made right again, so that what lies behind it is reached.
fn mend(bytes: &mut [u8]) {
    let Some(header) = bytes.first_chunk::<96>() else { return };
    let len = u32::from_le_bytes([header[40], header[41], header[42], header[43]]) as usize;
    if let Some(block) = bytes.get_mut(..96usize.saturating_add(len)) {
        block[88..92].fill(0);
        let crc = crc32c::crc32c(block);
        block[88..92].copy_from_slice(&crc.to_le_bytes());
    }
}
