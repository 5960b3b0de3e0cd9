//! A histogram whose buckets grow with the value: any two add up exactly, percentiles are within 1.6 % of the truth.
//!
//! Durations are held as nanoseconds.

use std::time::Duration;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error;

/// Buckets of each power of two.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Values up to `STEPS` have a bucket each; of the others every power of two has `STEPS`.
const BUCKETS: usize = (65 - STEP_BITS as usize) * STEPS as usize;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// As long as the greatest value needs.
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let shift = value.ilog2() - STEP_BITS;
    ((u64::from(shift) << STEP_BITS) + (value >> shift)) as usize
}

/// The middle of a bucket.
fn value(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = (bucket >> STEP_BITS) - 1;
    let low = (STEPS + bucket % STEPS) << shift;
    low + (1 << shift >> 1)
}

impl Histogram {
    pub fn record(&mut self, value: u64) {
        let bucket = bucket(value);
        if self.buckets.len() <= bucket {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
        self.sum += u128::from(value);
    }

    pub fn record_duration(&mut self, duration: Duration) {
        self.record(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (own, added) in self.buckets.iter_mut().zip(&other.buckets) {
            *own = own.saturating_add(*added);
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count = self.count.saturating_add(other.count);
        self.sum = self.sum.saturating_add(other.sum);
    }

    pub const fn count(&self) -> u64 {
        self.count
    }

    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Exact.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// Exact.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// Exact.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum as f64 / self.count as f64)
    }

    /// `part` of the values, 0 to 1, are at most this.
    pub fn percentile(&self, part: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = ((part.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(value(index).clamp(self.min, self.max));
            }
        }
        Some(self.max)
    }

    pub fn percentile_duration(&self, part: f64) -> Option<Duration> {
        self.percentile(part).map(Duration::from_nanos)
    }

    /// What came in since `earlier`, which is the same histogram as it was. Least and greatest are those of the buckets.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut buckets = self.buckets.clone();
        for (own, before) in buckets.iter_mut().zip(&earlier.buckets) {
            *own = own.saturating_sub(*before);
        }
        let middle = |index: Option<usize>| index.map_or(0, value);
        Self {
            min: middle(buckets.iter().position(|count| *count > 0)),
            max: middle(buckets.iter().rposition(|count| *count > 0)),
            count: self.count.saturating_sub(earlier.count),
            sum: self.sum.saturating_sub(earlier.sum),
            buckets,
        }
    }

    /// Middle and count of the buckets that have something, upwards.
    pub fn filled(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(|(index, count)| (value(index), *count))
    }
}

/// As it is sent and stored: only what is not zero.
#[derive(Serialize, Deserialize)]
struct Form {
    count: u64,
    sum: u128,
    min: u64,
    max: u64,
    /// Number of the bucket, and what it holds.
    buckets: Vec<(u16, u64)>,
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        let buckets = filled.map(|(index, count)| (index as u16, *count)).collect();
        Form { count: self.count, sum: self.sum, min: self.min, max: self.max, buckets }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let form = Form::deserialize(deserializer)?;
        let mut buckets = Vec::new();
        let mut counted = 0u64;
        for (index, count) in form.buckets {
            let index = usize::from(index);
            if index < buckets.len() || index >= BUCKETS {
                return Err(D::Error::custom("buckets of a histogram out of order"));
            }
            buckets.resize(index, 0);
            buckets.push(count);
            counted = counted.saturating_add(count);
        }
        if counted != form.count || form.min > form.max {
            return Err(D::Error::custom("a histogram that contradicts itself"));
        }
        Ok(Self { buckets, count: form.count, sum: form.sum, min: form.min, max: form.max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random::Random;

    #[test]
    fn every_value_has_a_bucket_whose_middle_is_near() {
        let mut random = Random::new(1);
        let values = (0..64).flat_map(|bit| [1u64 << bit, (1 << bit) - 1, u64::MAX >> bit]);
        for number in values.chain((0..10_000).map(|bit| random.next_u64() >> (bit % 64))) {
            let middle = value(bucket(number));
            assert!(bucket(number) < BUCKETS, "{number}");
            assert!(middle.abs_diff(number) as f64 <= number as f64 / 62.0, "{number} {middle}");
        }
        for index in 0..BUCKETS {
            assert_eq!(bucket(value(index)), index);
        }
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut random = Random::new(2);
        let mut draw = || {
            let bits = random.below(30) + 1;
            1_000 + random.below(1 << bits)
        };
        let mut values: Vec<u64> = (0..20_000).map(|_| draw()).collect();
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        values.sort_unstable();
        for part in [0.0, 0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let rank = ((part * values.len() as f64).ceil() as usize).clamp(1, values.len()) - 1;
            let (found, truth) = (histogram.percentile(part).unwrap() as f64, values[rank] as f64);
            assert!((found - truth).abs() / truth < 0.017, "{part}: {found}, really {truth}");
        }
        assert_eq!((histogram.min(), histogram.max()), (values.first().copied(), values.last().copied()));
        let mean = values.iter().sum::<u64>() as f64 / values.len() as f64;
        assert!((histogram.mean().unwrap() - mean).abs() < 1e-6);
        assert_eq!(Histogram::default().percentile(0.5), None);
    }

    #[test]
    fn parts_add_up_to_the_whole_and_part_again() {
        let mut random = Random::new(3);
        let (mut whole, mut parts) = (Histogram::default(), [const { Vec::new() }; 3]);
        for _ in 0..1_000 {
            let (part, value) = (random.below(3) as usize, random.next_u64() >> 20);
            whole.record(value);
            parts[part].push(value);
        }
        let mut merged = Histogram::default();
        let mut before = Histogram::default();
        for part in &parts {
            let mut own = Histogram::default();
            part.iter().for_each(|value| own.record(*value));
            before = merged.clone();
            merged.merge(&own);
        }
        assert_eq!(merged, whole);
        let last = merged.since(&before);
        assert_eq!(last.count(), parts[2].len() as u64);
        assert!(last.filled().map(|(_, count)| count).sum::<u64>() == last.count());
    }

    #[test]
    fn it_travels_and_nonsense_is_refused() {
        let mut histogram = Histogram::default();
        for value in [0, 5, 1_000_000, u64::MAX] {
            histogram.record(value);
        }
        let bytes = postcard::to_stdvec(&histogram).unwrap();
        assert!(bytes.len() < 60, "{} bytes", bytes.len());
        assert_eq!(postcard::from_bytes::<Histogram>(&bytes).unwrap(), histogram);
        let text = serde_json::to_string(&histogram).unwrap();
        assert_eq!(serde_json::from_str::<Histogram>(&text).unwrap(), histogram);
        for bad in ["[[5,1],[5,1]]", "[[65535,2]]", "[[1,1]]"] {
            let text = format!("{{\"count\":2,\"sum\":10,\"min\":5,\"max\":5,\"buckets\":{bad}}}");
            assert!(serde_json::from_str::<Histogram>(&text).is_err(), "{bad}");
        }
    }
}
