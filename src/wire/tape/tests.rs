//! Blocks and records out and back, torn, damaged, foreign and sealed.

use proptest::prelude::*;

use super::crypt::Key;
use super::name::SegmentName;
use super::record::Format;
use super::record::Frames;
use super::record::GapCause;
use super::record::PACKET_BYTES_MAX;
use super::record::emit_event;
use super::record::emit_gap;
use super::record::emit_mark;
use super::*;
use crate::base::id::CallId;
use crate::base::id::ShardId;
use crate::base::time::Instant;
use crate::base::time::UnixTime;
use crate::wire::event::Body;
use crate::wire::event::Event;

const NAME: SegmentName = SegmentName { shard: ShardId(3), track: Track::Media, segment: 7 };

fn frame(packet: &[u8]) -> Frame<'_> {
    Frame { call: CallId::from_bits(0x0123_4567_89AB_CDEF), leg: 1, stream: 2, at: Instant::from_millis(5_000), packet }
}

fn emit(frame: Frame<'_>) -> Vec<u8> {
    let mut room = vec![0; BODY_BYTES_MAX];
    let len = frame.emit(&mut room).unwrap();
    room.truncate(len);
    room
}

fn header(place: u32, number: u64, records: u32, len: usize) -> Header {
    Header {
        track: NAME.track,
        is_sealed: false,
        shard: NAME.shard,
        boot: 99,
        segment: NAME.segment,
        place,
        number,
        len: len as u32,
        records,
        opened: Instant::from_millis(1_000),
        opened_unix: UnixTime::from_secs(1_700_000_000),
        tag: [0; 16],
    }
}

/// Appends a block as the tape's writer does.
fn append(file: &mut Vec<u8>, number: u64, packets: &[&[u8]], key: Option<&Key>) {
    let mut body: Vec<u8> = packets.iter().flat_map(|packet| emit(frame(packet))).collect();
    let place = (file.len() / BLOCK_ALIGN) as u32;
    let mut header = header(place, number, packets.len() as u32, body.len());
    if let Some(key) = key {
        key.seal(&mut header, &mut body).unwrap();
    }
    file.extend_from_slice(&header.emit(&body));
    file.extend_from_slice(&body);
    file.resize(file.len().next_multiple_of(BLOCK_ALIGN), 0);
}

/// The numbers of all blocks, their packets, and why reading ended.
fn read(file: &[u8], key: Option<Key>) -> (Vec<u64>, Vec<Vec<u8>>, BadBlock) {
    let mut reader = Reader::new(NAME, key);
    let (mut numbers, mut packets) = (Vec::new(), Vec::new());
    loop {
        let mut rest = file.get(reader.position() as usize..).unwrap_or_default().to_vec();
        match reader.next(&mut rest) {
            Step::Block { header, body } => {
                numbers.push(header.number);
                packets.extend(records(body).map(|record| match record {
                    Ok(Record::Frame(frame)) => frame.packet.to_vec(),
                    other => panic!("{other:?}"),
                }));
            }
            Step::More(wanted) => {
                assert!(wanted > rest.len());
                return (numbers, packets, BadBlock::Short);
            }
            Step::End(bad) => return (numbers, packets, bad),
        }
    }
}

#[test]
fn blocks_come_back_in_order_sealed_or_not() {
    for key in [None, Some(Key::new([7; 32]))] {
        let mut file = Vec::new();
        append(&mut file, 1, &[b"one", b"", &[9; 172]], key.as_ref());
        append(&mut file, 2, &[&[8u8; PACKET_BYTES_MAX][..]; 12], key.as_ref());
        append(&mut file, 5, &[b"after a gap"], key.as_ref());
        file.resize(file.len() + 3 * BLOCK_ALIGN, 0);
        let (numbers, packets, end) = read(&file, key);
        assert_eq!((numbers, end), (vec![1, 2, 5], BadBlock::Magic));
        assert_eq!((packets.len(), &packets[2][..], &packets[15][..]), (16, &[9; 172][..], &b"after a gap"[..]));
    }
}

#[test]
fn every_kind_of_record_comes_back() {
    let event = Event {
        shard: ShardId(3),
        seq: 4,
        at: UnixTime::from_secs(5),
        tenant: "acme".to_owned(),
        call: Some(CallId::from_bits(6)),
        leg: None,
        body: Body::CallAnswered,
    };
    let at = Instant::from_millis(8);
    let call = CallId::from_bits(6);
    let formats = vec![Format { payload_type: 96, name: "opus".to_owned(), clock: 48_000, channels: 2 }];
    let marks = [
        Mark::Begin { tenant: "acme".to_owned() },
        Mark::Formats { leg: 1, stream: 0, formats },
        Mark::Paused,
        Mark::Resumed,
        Mark::Ended { frames: vec![Frames { leg: 0, stream: 0, frames: 9 }] },
    ];
    let gap = Gap {
        boot: 1,
        track: Track::Media,
        first: 3,
        last: 4,
        since: UnixTime::from_secs(1),
        until: UnixTime::from_secs(2),
        records: 100,
        bytes: 20_000,
        cause: GapCause::Slow,
    };
    let mut body = emit_event(at, 77, &event).unwrap();
    marks.iter().for_each(|mark| body.extend(emit_mark(at, call, mark).unwrap()));
    body.extend(emit_gap(at, &gap).unwrap());
    body.extend(emit(frame(b"packet")));
    body.extend([17, 0, 200, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut expected = vec![Record::Event { at, media: 77, event }];
    expected.extend(marks.into_iter().map(|mark| Record::Mark { call, at, mark }));
    expected.push(Record::Gap { at, gap });
    expected.push(Record::Frame(frame(b"packet")));
    expected.push(Record::Unknown { kind: 200, at: Instant::from_nanos(1) });
    assert_eq!(records(&body).collect::<Result<Vec<_>, _>>().unwrap(), expected);
}

#[test]
fn a_torn_write_ends_the_tape_at_the_last_good_block() {
    let key = Key::new([1; 32]);
    let mut file = Vec::new();
    append(&mut file, 1, &[b"first"], Some(&key));
    append(&mut file, 2, &[&[2; 3_000], &[3; 3_000]], Some(&key));
    let end = file.len();
    for cut in (0..end).step_by(97).chain([4_095, 4_096, 4_097, end - 1]) {
        let (numbers, ..) = read(&file[..cut], Some(key.clone()));
        // Of the last block the padding may be missing.
        let second = cut >= BLOCK_ALIGN + HEADER_BYTES + 2 * Frame::record_len(3_000);
        assert_eq!(numbers.len(), usize::from(cut >= BLOCK_ALIGN) + usize::from(second), "cut at {cut}");
        // As a preallocated file is left: zeros from there on.
        let mut torn = file[..cut].to_vec();
        torn.resize(end, 0);
        let first = cut >= HEADER_BYTES + Frame::record_len(5);
        assert_eq!(read(&torn, Some(key.clone())).0.len(), usize::from(first) + usize::from(second), "torn at {cut}");
    }
}

#[test]
fn any_flipped_bit_of_a_block_is_found() {
    let mut file = Vec::new();
    append(&mut file, 1, &[b"payload"], None);
    let used = HEADER_BYTES + Frame::record_len(7);
    for bit in 0..used * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged, None).0.is_empty(), "bit {bit}");
    }
}

#[test]
fn blocks_of_other_places_keys_and_numbers_are_refused() {
    let key = Key::new([1; 32]);
    let mut file = Vec::new();
    append(&mut file, 4, &[b"a"], Some(&key));
    append(&mut file, 5, &[b"b"], Some(&key));
    assert_eq!(read(&file, None).2, BadBlock::Sealed);
    assert_eq!(read(&file, Some(Key::new([2; 32]))).2, BadBlock::Sealed);
    let swapped = [&file[BLOCK_ALIGN..], &file[..BLOCK_ALIGN]].concat();
    assert_eq!(read(&swapped, Some(key.clone())).2, BadBlock::Place);
    append(&mut file, 5, &[b"c"], Some(&key));
    assert_eq!(read(&file, Some(key)).2, BadBlock::Number);
    let mut other = header(0, 1, 0, 0);
    other.segment += 1;
    let mut block = other.emit(b"").to_vec();
    block.resize(BLOCK_ALIGN, 0);
    assert_eq!(read(&block, None).2, BadBlock::Place);
}

#[test]
fn copies_of_unconfirmed_blocks_are_dropped() {
    let mut copies = Copies::default();
    let mut check = |boot, number| copies.is_new(&Header { boot, ..header(0, number, 0, 0) });
    assert!(check(1, 1) && check(1, 2) && check(1, 3));
    assert!(!check(1, 2) && !check(1, 3));
    assert!(check(1, 4) && check(2, 1) && check(2, 2) && !check(2, 1));
}

#[test]
fn key_files() {
    let file = Key::new([5; 32]).emit();
    assert_eq!(Key::parse(&file).unwrap().emit(), file);
    assert!(Key::parse(&[0; 48]).is_none() && Key::parse(&file[..40]).is_none());
    assert!((0..44).all(|at| {
        let mut damaged = file;
        damaged[at] ^= 1;
        Key::parse(&damaged).is_none()
    }));
}

#[test]
fn names() {
    assert_eq!(NAME.file(), "media-000000000007.tape");
    assert_eq!(SegmentName::parse(ShardId(3), &NAME.file()), Some(NAME));
    for foreign in ["media-7.key", "other-7.tape", "events-.tape", "events-x.tape", ".tape", "lost+found"] {
        assert_eq!(SegmentName::parse(ShardId(3), foreign), None, "{foreign}");
    }
}

#[test]
fn times_of_records_become_wall_clock() {
    let header = header(0, 1, 0, 0);
    assert_eq!(header.unix(Instant::from_millis(1_500)), UnixTime::from_micros(1_700_000_000_500_000));
    assert_eq!(header.unix(Instant::from_millis(900)), UnixTime::from_micros(1_699_999_999_900_000));
}

proptest! {
    #[test]
    fn any_frames(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..60),
        number in 1u64..,
        sealed in any::<bool>(),
    ) {
        let key = sealed.then(|| Key::new([3; 32]));
        let mut file = Vec::new();
        let slices: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
        append(&mut file, number, &slices, key.as_ref());
        let (numbers, read, _) = read(&file, key);
        prop_assert_eq!(numbers, vec![number]);
        prop_assert_eq!(read, packets);
    }

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..9_000)) {
        prop_assert!(read(&bytes, None).0.is_empty());
        records(&bytes).take(1_000).for_each(drop);
    }

    #[test]
    fn any_damage_never_shows_what_was_not_written(at in 0usize..9_000, with in any::<[u8; 8]>()) {
        let mut file = Vec::new();
        append(&mut file, 1, &[b"first"], None);
        append(&mut file, 2, &[&[2; 3_000]], None);
        let whole = read(&file, None).1;
        let mut damaged = file.clone();
        for (byte, with) in damaged.iter_mut().skip(at).zip(with) {
            *byte = with;
        }
        let packets = read(&damaged, None).1;
        prop_assert!(whole.starts_with(&packets));
    }
}
