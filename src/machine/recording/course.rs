//! Where a run's timestamps lie in time, learnt from all its arrivals.
//!
//! Nothing was said after its packet came, and no clock runs away from another by more than some thousandths: the latest course
//! that both allow is taken. A queue that drains, a burst at the beginning, a stall cost nothing, because what comes later shows
//! how late the packets before were. What never comes back to the delay it had has no late packets: its timestamps stood still
//! while time went on, and it goes on where it came. The same the other way round for timestamps that ran ahead.
//!
//! Times are nanoseconds: media time is what the timestamps say since the run's first, delay is arrival less media time.

use std::collections::VecDeque;

use crate::machine::recording::stream::Arrival;
use crate::machine::recording::stream::Step;

const MILLI: i64 = 1_000_000;
const SECOND: i64 = 1_000 * MILLI;
/// Of media time, whose least delay stands for it.
const BLOCK: i64 = SECOND;
/// A greater delay than that of the packet before begins another block, so that a course can break there.
const RISE: i64 = 100 * MILLI;
/// Blocks of a run; beyond that they become longer.
const BLOCKS_MAX: usize = 65_536;
/// Delay grows by no more than 1/1,000 and falls by no more than 1/2,000 because of clocks.
const GROWS: i64 = 1_000;
const FALLS: i64 = 2_000;
/// How far ahead is looked for packets that came earlier.
const HORIZON: i64 = 60 * SECOND;
/// More delay that stays is no queue's: timestamps stood still.
const LATE: i64 = 200 * MILLI;
/// How long it has to stay, and in how many packets.
const LATE_STAYS: i64 = SECOND / 2;
const LATE_PACKETS: u32 = 5;
/// Less delay from one packet to the next that no packets explain: timestamps ran ahead.
const EARLY: i64 = 60 * MILLI;
/// What came before must have been heard for so long: a burst at the beginning is shorter, or the same.
const EARLY_SINCE: i64 = 2 * SECOND;
/// How much earlier than it need be a course may lie, so that it is straight.
const WIDTH: i64 = 8 * MILLI;
/// Of media time without a packet.
const PAUSE: i64 = 200 * MILLI;
/// Packets by which a clock of another speed is told.
const PROBE: usize = 16;

/// The least delay of some packets.
#[derive(Clone, Copy, Debug)]
struct Block {
    /// Media time of the first and the last.
    since: i64,
    until: i64,
    came: i64,
    least: i64,
    most: i64,
    packets: u32,
    is_ahead: bool,
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    timestamp: i64,
    ticks: i64,
    numbers: i64,
    came: i64,
    is_ahead: bool,
}

/// A course while its packets come.
#[derive(Debug)]
pub(super) struct Draft {
    nominal: i64,
    /// Ticks a second.
    clock: i64,
    origin: i64,
    /// The first packets, until the clock is known.
    early: Vec<Packet>,
    is_known: bool,
    blocks: Vec<Block>,
    block: i64,
    delay: i64,
    came: i64,
}

impl Draft {
    pub(super) fn new(arrival: &Arrival, step: &Step) -> Self {
        let clock = i64::from(arrival.codec.clock());
        let (early, blocks) = (Vec::new(), Vec::new());
        Self {
            nominal: clock,
            clock,
            origin: step.timestamp,
            early,
            is_known: false,
            blocks,
            block: BLOCK,
            delay: i64::MAX,
            came: 0,
        }
    }

    /// A packet before which nothing came that was sent later.
    pub(super) fn add(&mut self, arrival: &Arrival, step: &Step) {
        let (timestamp, numbers, is_ahead) = (step.timestamp, step.numbers, step.is_ahead);
        let packet = Packet { timestamp, ticks: arrival.ticks, numbers, came: arrival.came, is_ahead };
        if self.is_known {
            self.put(&packet);
            return;
        }
        self.early.push(packet);
        if self.early.len() >= PROBE {
            self.learn_clock();
        }
    }

    fn learn_clock(&mut self) {
        self.is_known = true;
        let early = std::mem::take(&mut self.early);
        self.clock = clock_of(&early, self.nominal);
        early.iter().for_each(|packet| self.put(packet));
    }

    fn put(&mut self, packet: &Packet) {
        let media = media_time(packet.timestamp - self.origin, self.clock);
        let delay = packet.came - media;
        let rises = delay.saturating_sub(self.delay) > RISE;
        (self.delay, self.came) = (delay, packet.came);
        match self.blocks.last_mut() {
            Some(block) if !rises && !packet.is_ahead && media - block.since < self.block => {
                block.until = media;
                block.least = block.least.min(delay);
                block.most = block.most.max(delay);
                block.packets += 1;
            }
            _ => {
                let (least, most, came, is_ahead) = (delay, delay, packet.came, packet.is_ahead);
                self.blocks.push(Block { since: media, until: media, came, least, most, packets: 1, is_ahead });
                if self.blocks.len() >= BLOCKS_MAX {
                    self.coarsen();
                }
            }
        }
    }

    /// Half as many blocks, twice as long.
    fn coarsen(&mut self) {
        self.block *= 2;
        let (pairs, _) = self.blocks.as_chunks::<2>();
        self.blocks = pairs.iter().map(|[one, two]| one.joined(two)).collect();
    }

    pub(super) fn finish(mut self) -> Course {
        if !self.is_known {
            self.learn_clock();
        }
        let mut late = 0;
        let mut pieces = Vec::new();
        for range in split_where_ahead(&self.blocks) {
            lay(&self.blocks[range], self.came, &mut pieces, &mut late);
        }
        Course { clock: self.clock, origin: self.origin, pieces, late }
    }
}

impl Block {
    fn joined(&self, next: &Self) -> Self {
        Self {
            until: next.until,
            least: self.least.min(next.least),
            most: self.most.max(next.most),
            packets: self.packets + next.packets,
            ..*self
        }
    }
}

/// RFC 3551 §4.5.2 gives G.722 a clock of 8,000, and not every sender knows. Where most packets are followed by a timestamp that
/// lies another multiple of their length ahead, and come no slower than their audio is long, that is the clock.
fn clock_of(packets: &[Packet], nominal: i64) -> i64 {
    let pairs = || packets.iter().zip(packets.iter().skip(1)).filter(|(_, next)| next.numbers == 1);
    let ratio = |(packet, next): &(&Packet, &Packet)| (next.timestamp - packet.timestamp, packet.ticks);
    let count = |(step, ticks): (i64, i64)| {
        pairs()
            .filter(|pair| {
                let (own_step, own_ticks) = ratio(pair);
                own_step * ticks == step * own_ticks
            })
            .count()
    };
    let Some((step, ticks)) = pairs().map(|pair| ratio(&pair)).max_by_key(|ratio| count(*ratio)) else {
        return nominal;
    };
    let all = pairs().count();
    if step == ticks
        || all < 4
        || count((step, ticks)) * 4 < all * 3
        || !(1..=8).contains(&(step.max(ticks) / step.min(ticks).max(1)))
    {
        return nominal;
    }
    let mut paces: Vec<i64> =
        pairs().map(|(packet, next)| (next.came - packet.came) * nominal / packet.ticks.max(1)).collect();
    paces.sort_unstable();
    // A stall or a burst among them is not the pace.
    let pace = paces.get(paces.len() / 2).copied().unwrap_or(SECOND);
    if pace > SECOND * 3 / 2 { nominal } else { nominal * step / ticks }
}

const fn media_time(ticks: i64, clock: i64) -> i64 {
    ticks.div_euclid(clock) * SECOND + ticks.rem_euclid(clock) * SECOND / clock
}

/// The latest delay that blocks allow those that come after them.
#[derive(Clone, Copy)]
struct Past {
    since: i64,
    least: i64,
}

impl Past {
    const fn new(block: &Block) -> Self {
        Self { since: block.since, least: block.least }
    }

    const fn at(&self, since: i64) -> i64 {
        self.least.saturating_add((since - self.since) / GROWS)
    }

    fn add(&mut self, block: &Block) {
        *self = Self { since: block.since, least: self.at(block.since).min(block.least) };
    }
}

/// The latest delay of each block that those from it on allow.
fn future_bounds(blocks: &[Block]) -> Vec<i64> {
    // The least of what lies within the horizon stands at the front.
    let mut candidates: VecDeque<(i64, i64)> = VecDeque::new();
    let bound = |block: &Block| {
        let value = block.least + block.since / FALLS;
        while candidates.back().is_some_and(|(_, last)| *last >= value) {
            candidates.pop_back();
        }
        candidates.push_back((block.since, value));
        while candidates.front().is_some_and(|(since, _)| since - block.since > HORIZON) {
            candidates.pop_front();
        }
        candidates.front().map_or(block.least, |(_, least)| least - block.since / FALLS).min(block.least)
    };
    let mut bounds: Vec<i64> = blocks.iter().rev().map(bound).collect();
    bounds.reverse();
    bounds
}

fn split_where_ahead(blocks: &[Block]) -> Vec<std::ops::Range<usize>> {
    let Some(first) = blocks.first() else { return Vec::new() };
    let (mut ranges, mut start) = (Vec::new(), 0);
    if blocks.iter().any(|block| block.is_ahead) {
        let future = future_bounds(blocks);
        let (mut past, mut since) = (Past::new(first), first.came);
        for (index, (block, future)) in blocks.iter().zip(&future).enumerate().skip(1) {
            let is_ahead = block.is_ahead && past.at(block.since) - future > EARLY;
            if is_ahead && block.came - since >= EARLY_SINCE {
                ranges.push(start..index);
                (start, past, since) = (index, Past::new(block), block.came);
            } else {
                past.add(block);
            }
        }
    }
    ranges.push(start..blocks.len());
    ranges
}

/// Courses of blocks, which break where delay has grown for good.
fn lay(blocks: &[Block], ended: i64, pieces: &mut Vec<Piece>, late: &mut i64) {
    let Some(first) = blocks.first() else { return };
    let future = future_bounds(blocks);
    let mut left: u32 = blocks.iter().map(|block| block.packets).sum();
    let (mut past, mut path) = (Past::new(first), Path::default());
    for (block, future) in blocks.iter().zip(future) {
        let lasts = ended - block.came >= LATE_STAYS && left >= LATE_PACKETS;
        if future - past.at(block.since) > LATE && lasts {
            pieces.extend(std::mem::take(&mut path).finish());
            past = Past::new(block);
        }
        past.add(block);
        left -= block.packets;
        let bound = past.least.min(future);
        *late = (*late).max(block.most - bound);
        path.add(block, bound);
    }
    pieces.extend(path.finish());
}

/// A line with few turns that is nowhere above the bounds of blocks, and no lower than [`WIDTH`] below them.
#[derive(Default)]
struct Path {
    since: i64,
    /// Blocks without a pause between them: where each begins, and what goes straight between two such points is not above the
    /// bound of the block between them; at last where they end.
    stretches: Vec<Vec<(i64, i64)>>,
    /// Where the last block ends, and its bound.
    end: Option<(i64, i64)>,
}

impl Path {
    fn add(&mut self, block: &Block, bound: i64) {
        let goes_on = self.end.filter(|(until, _)| block.since - until <= PAUSE);
        if self.end.is_none() {
            self.since = block.since;
        }
        if goes_on.is_none() {
            self.close();
            self.stretches.push(Vec::new());
        }
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.push((block.since, goes_on.map_or(bound, |(_, before)| before.min(bound))));
        }
        self.end = Some((block.until, bound));
    }

    fn close(&mut self) {
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.extend(self.end);
        }
    }

    /// Behind a pause it goes on where it was, if it can: what is said there lies as far from what was said before as the
    /// sender's timestamps do. For that it begins as low as what follows wants it.
    fn finish(mut self) -> Option<Piece> {
        self.close();
        let mut least = i64::MAX;
        let lowest = |stretch: &Vec<(i64, i64)>| {
            least = stretch.iter().map(|(_, bound)| *bound).min().unwrap_or(least).min(least);
            least
        };
        let mut lowest: Vec<i64> = self.stretches.iter().rev().map(lowest).collect();
        lowest.reverse();
        let mut turns: Vec<(i64, i64)> = Vec::new();
        for (points, least) in self.stretches.iter().zip(lowest) {
            let Some((start, bound)) = points.first().copied() else { continue };
            let before = turns.last().map(|(_, height)| *height).filter(|height| *height <= bound);
            let height = before.unwrap_or(least).clamp(bound - WIDTH, bound);
            straighten(start, height, points, &mut turns);
        }
        self.end.map(|_| Piece { since: self.since, turns })
    }
}

/// From a place on as straight as can be, between the points and [`WIDTH`] below them.
fn straighten(start: i64, height: i64, points: &[(i64, i64)], turns: &mut Vec<(i64, i64)>) {
    let (mut at, mut height) = (start, height);
    turns.push((at, height));
    let all = (f64::NEG_INFINITY, f64::INFINITY);
    let (mut low, mut high) = all;
    let mut last = start;
    for (time, bound) in points.iter().copied() {
        let slopes = |at: i64, height: i64| {
            let time = (time - at) as f64;
            ((bound - WIDTH - height) as f64 / time, (bound - height) as f64 / time)
        };
        if time > at {
            let (least, most) = slopes(at, height);
            if least <= high && most >= low {
                (low, high, last) = (low.max(least), high.min(most), time);
                continue;
            }
            height += (flattest(low, high) * (last - at) as f64).floor() as i64;
            at = last;
            (low, high) = all;
            turns.push((at, height));
        }
        if time > at {
            (low, high) = slopes(at, height);
        } else if height > bound || height < bound - WIDTH {
            height = height.clamp(bound - WIDTH, bound);
            turns.push((at, height));
        }
        last = time;
    }
    if last > at {
        turns.push((last, height + (flattest(low, high) * (last - at) as f64).floor() as i64));
    }
}

fn flattest(low: f64, high: f64) -> f64 {
    0f64.max(low).min(high)
}

/// A stretch of a course without a break.
#[derive(Debug)]
struct Piece {
    since: i64,
    /// Media times and the delay there; between them it goes straight.
    turns: Vec<(i64, i64)>,
}

/// Where the timestamps of a run lie.
#[derive(Debug)]
pub(super) struct Course {
    clock: i64,
    origin: i64,
    pieces: Vec<Piece>,
    /// How much later than it was said a packet came at most, of those that count.
    late: i64,
}

impl Course {
    pub(super) const fn late(&self) -> i64 {
        self.late
    }

    /// Nanoseconds of its beginning.
    pub(super) fn first(&self) -> i64 {
        self.pieces
            .iter()
            .map(|piece| piece.since + piece.turns.first().map_or(0, |(_, delay)| *delay))
            .min()
            .unwrap_or(0)
    }

    /// The sample at which a timestamp lies, and the piece that says so. `lead`: nanoseconds before all.
    pub(super) fn place(&self, timestamp: i64, rate: u32, lead: i64) -> (i64, usize) {
        let (ticks, rate) = (timestamp - self.origin, i64::from(rate));
        let media = media_time(ticks, self.clock);
        let index = self.pieces.partition_point(|piece| piece.since <= media).saturating_sub(1);
        let delay = self.pieces.get(index).map_or(0, |piece| piece.delay(media)) + lead;
        let base = (ticks * rate).div_euclid(self.clock);
        (base + (i128::from(delay) * i128::from(rate)).div_euclid(i128::from(SECOND)) as i64, index)
    }
}

impl Piece {
    fn delay(&self, media: i64) -> i64 {
        let next = self.turns.partition_point(|(at, _)| *at <= media);
        let before = next.checked_sub(1).and_then(|before| self.turns.get(before));
        match (before, self.turns.get(next)) {
            (Some((_, one)), Some((_, other))) if one == other => *one,
            (Some((since, one)), Some((until, other))) => {
                let part = (media - since) as f64 / (until - since) as f64;
                one + ((other - one) as f64 * part).floor() as i64
            }
            (Some((_, delay)), None) | (None, Some((_, delay))) => *delay,
            (None, None) => 0,
        }
    }
}
