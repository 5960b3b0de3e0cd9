//! The fuzz properties of `tests/fuzz/targets` over a corpus (`tests/corpus`, the torture messages) and over seeded mutations of it.
//!
//! `TIPRING_FUZZ_ROUNDS` and `TIPRING_FUZZ_SEED` widen the search; a failure prints the bytes, which belong into the corpus.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::catch_unwind;

use tipring::base::random::Random;
use tipring::wire::sip::Frame;
use tipring::wire::sip::Framer;

#[path = "fuzz/targets/mod.rs"]
mod targets;
mod torture;

/// A target and the folder of its corpus.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 6] = [
    ("sip", targets::sip::all),
    // The same messages.
    ("strangers", targets::strangers::any),
    ("sdp", targets::sdp::description),
    ("media", targets::media::packet),
    ("frames", targets::frames::frames),
    ("wav", targets::wav::file),
];

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let name = if name == "strangers" { "sip" } else { name };
    let folder = format!("{}/tests/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus is there");
    let mut corpus: Vec<_> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    if name == "sip" {
        corpus.extend(torture::all().map(|case| (case.bytes)()));
    }
    corpus
}

fn check((name, holds): Target, bytes: &[u8], what: &str) {
    let outcome = catch_unwind(|| holds(bytes));
    assert!(outcome.is_ok(), "{name}, {what}: \"{}\"", bytes.escape_ascii());
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn the_corpus_holds() {
    for target in TARGETS {
        for bytes in corpus(target.0) {
            check(target, &bytes, "corpus");
            // A stream of it, twice and with keep-alives between.
            check(target, &[&bytes[..], b"\r\n\r\n", &bytes[..], b"\r\n"].concat(), "corpus, twice");
        }
    }
}

#[test]
fn every_prefix_holds() {
    for name in ["wsinv", "intmeth", "badinv01", "regescrt"] {
        let bytes = torture::bytes(name);
        (0..bytes.len()).for_each(|end| check(TARGETS[0], &bytes[..end], name));
    }
    for target in &TARGETS[2..] {
        for bytes in corpus(target.0) {
            (0..bytes.len()).for_each(|end| check(*target, &bytes[..end], "prefix"));
        }
    }
}

#[test]
fn mutations_hold() {
    for target in TARGETS {
        let corpus = corpus(target.0);
        let mut random = Random::new(number("TIPRING_FUZZ_SEED", 0x5EED));
        for round in 0..number("TIPRING_FUZZ_ROUNDS", 1_500) {
            let mut bytes = pick(&corpus, &mut random).clone();
            for _ in 0..=random.below(4) {
                mutate(&mut bytes, &corpus, &mut random);
            }
            check(target, &bytes, &format!("round {round}"));
        }
    }
}

/// Pieces that the grammar gives a meaning.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\0",
    b"\"",
    b"\\",
    b"<",
    b">",
    b";",
    b",",
    b"=",
    b":",
    b"@",
    b"%",
    b"[",
    b"]",
    b"?",
    b" ",
    b"\t",
    b"\xff",
    b"SIP/2.0",
    b"Content-Length: 5\r\n",
    b"l:0\r\n",
    b"Via: ",
    b"sip:",
    b"%00",
    b";tag=",
    b";rport",
    b"::",
    b"4294967296",
    b"\r\n\r\n",
    b"*",
];

fn pick<'a, T>(from: &'a [T], random: &mut Random) -> &'a T {
    &from[random.below(from.len() as u64) as usize]
}

fn mutate(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let mut place = |bytes: &[u8]| random.below(bytes.len() as u64 + 1) as usize;
    let (a, b) = (place(bytes), place(bytes));
    let (a, b) = (a.min(b), a.max(b));
    match random.below(6) {
        0 => drop(bytes.splice(a..a, pick(PIECES, random).iter().copied())),
        1 => drop(bytes.splice(a..b.min(a + 8), pick(PIECES, random).iter().copied())),
        2 => drop(bytes.drain(a..b.min(a + 32))),
        3 => bytes.extend_from_within(a..b),
        4 => {
            let other = pick(corpus, random);
            let cut = random.below(other.len() as u64 + 1) as usize;
            bytes.truncate(a);
            bytes.extend_from_slice(&other[cut..]);
        }
        _ => {
            if let Some(byte) = bytes.get_mut(a) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_searched_once() {
    let mut stream = b"OPTIONS sip:a SIP/2.0\r\nX: ".to_vec();
    stream.resize(tipring::base::limit::SIP_HEAD_BYTES_MAX - 64, b'a');
    stream.extend_from_slice(b"\r\nl: 3\r\n\r\nabc");
    let mut framer = Framer::default();
    for end in 0..stream.len() {
        assert_eq!(framer.next(&stream[..end]), Frame::Partial);
        // The state survives being written down and read again.
        framer = postcard::from_bytes(&postcard::to_stdvec(&framer).unwrap()).unwrap();
    }
    assert_eq!(framer.next(&stream), Frame::Message { len: stream.len() });
    assert_eq!(framer, Framer::default());
}

#[test]
fn a_head_without_end_breaks_the_stream() {
    let mut stream = b"OPTIONS sip:a SIP/2.0\r\n".to_vec();
    stream.resize(70_000, b'a');
    assert_eq!(Framer::default().next(&stream), Frame::Broken { head: 0 });
    assert_eq!(Framer::default().next(b"\x16\x03\x01"), Frame::Broken { head: 0 });
}
