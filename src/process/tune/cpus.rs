//! Sets of CPUs as the kernel writes them: lists such as `0-3,8`, and masks of hexadecimal words.

use std::collections::BTreeSet;

/// The kernel's own bound is 8,192; no list of ours names a CPU beyond it.
const CPU_MAX: u16 = 8_191;

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CpuSet(pub BTreeSet<u16>);

impl CpuSet {
    /// `0-3,8`; an empty text is the empty set.
    pub fn parse(list: &str) -> Option<Self> {
        let mut set = BTreeSet::new();
        for part in list.trim().split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last > CPU_MAX {
                return None;
            }
            set.extend(first..=last);
        }
        Some(Self(set))
    }

    /// As the kernel takes it in `smp_affinity_list` and `cpuset.cpus`.
    pub fn list(&self) -> String {
        let mut parts: Vec<(u16, u16)> = Vec::new();
        for &cpu in &self.0 {
            match parts.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => parts.push((cpu, cpu)),
            }
        }
        let text = |(first, last): &(u16, u16)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        };
        parts.iter().map(text).collect::<Vec<_>>().join(",")
    }

    /// `00000000,000000ff`: 32 CPUs a word, the highest first, as in `rps_cpus`.
    pub fn parse_mask(mask: &str) -> Option<Self> {
        let words: Vec<u32> =
            mask.trim().split(',').map(|word| u32::from_str_radix(word, 16).ok()).collect::<Option<_>>()?;
        let mut set = BTreeSet::new();
        for (index, word) in (0u16..).zip(words.iter().rev()) {
            set.extend((0..32).filter(|bit| word >> bit & 1 == 1).map(|bit| index * 32 + bit));
        }
        Some(Self(set))
    }

    pub fn mask(&self) -> String {
        let words = self.0.last().map_or(1, |last| last / 32 + 1);
        let word =
            |index: u16| (0..32).filter(|bit| self.0.contains(&(index * 32 + bit))).fold(0u32, |w, b| w | 1 << b);
        let texts = (0..words).rev().enumerate().map(|(place, index)| match place {
            0 => format!("{:x}", word(index)),
            _ => format!("{:08x}", word(index)),
        });
        texts.collect::<Vec<_>>().join(",")
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

impl FromIterator<u16> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u16>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_masks_are_read_and_written() {
        let check = |list: &str, mask: &str| {
            let set = CpuSet::parse(list).unwrap();
            assert_eq!(set.list(), list);
            assert_eq!(set.mask(), mask);
            assert_eq!(CpuSet::parse_mask(mask), Some(set));
        };
        check("0-3,8", "10f");
        check("31-32", "1,80000000");
        check("", "0");
        check("2-23,26-47", "ffff,fcfffffc");
        assert_eq!(CpuSet::parse_mask("00000000,00000003"), CpuSet::parse("0-1"));
        for bad in ["3-1", "a", "1-", "0-9000", "-1"] {
            assert_eq!(CpuSet::parse(bad), None, "{bad}");
        }
    }
}
