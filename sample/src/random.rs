//! The random numbers of sample archives: xoshiro256++, its state filled by splitmix64.
//!
//! Both are public-domain generators by Blackman and Vigna. The numbers depend on the seed and a label
//! alone, so that every part of an archive (vocabulary, messages, attachments, side files) draws from its own
//! stream and a change to one part leaves the others as they were. Not for secrets.

use std::fmt::Write;
use std::ops::Range;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    /// Makes the stream that belongs to a seed and a label.
    pub(crate) fn new(seed: u64, label: &str) -> Self {
        // FNV-1a: a label's bytes, spread over 64 bits.
        let label_hash = label.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut splitmix = seed ^ label_hash;
        Self { state: std::array::from_fn(|_| splitmix64(&mut splitmix)) }
    }

    /// Returns the next 64 random bits.
    pub(crate) fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Returns a number below `bound`, or 0 where the bound is 0. The bias of the multiplication (2^-64 per
    /// unit of the bound) does not matter here.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a number inside the range, or its start where it is empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// Returns an index into something of this length.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// Returns one of the items, which must not be empty.
    pub(crate) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// Returns a fraction: at least 0, less than 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns true with the given probability.
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        self.fraction() < probability
    }

    /// Returns a log-normal number with this median; `sigma` is the deviation of its logarithm.
    pub(crate) fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box-Muller; 1 - fraction is never 0, so its logarithm is finite.
        let radius = (-2.0 * (1.0 - self.fraction()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.fraction()).cos();
        median * (sigma * normal).exp()
    }

    /// Fills the buffer with random bytes.
    pub(crate) fn fill(&mut self, buffer: &mut [u8]) {
        let mut chunks = buffer.chunks_exact_mut(8);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = chunks.into_remainder();
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// Appends random bytes.
    pub(crate) fn extend(&mut self, bytes: &mut Vec<u8>, count: usize) {
        let start = bytes.len();
        bytes.resize(start + count, 0);
        self.fill(&mut bytes[start..]);
    }

    /// Returns random bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }

    /// Returns the lower-case hexadecimal text of that many random bytes.
    pub(crate) fn hex(&mut self, bytes_count: usize) -> String {
        self.bytes(bytes_count).iter().fold(String::with_capacity(2 * bytes_count), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
    }

    /// Returns up to `count` of the items, each at most once, in random order.
    pub(crate) fn sample<T>(&mut self, mut items: Vec<T>, count: usize) -> Vec<T> {
        let count = count.min(items.len());
        for place in 0..count {
            let other = place + self.index(items.len() - place);
            items.swap(place, other);
        }
        items.truncate(count);
        items
    }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitmix64_gives_the_published_numbers() {
        let mut state = 1_234_567;
        assert_eq!(splitmix64(&mut state), 6_457_827_717_110_365_317);
        assert_eq!(splitmix64(&mut state), 3_203_168_211_198_807_973);
    }

    #[test]
    fn xoshiro_gives_the_published_numbers() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let numbers: Vec<u64> = (0..4).map(|_| random.next()).collect();
        assert_eq!(numbers, [41_943_041, 58_720_359, 3_588_806_011_781_223, 3_591_011_842_654_386]);
    }

    #[test]
    fn a_label_makes_its_own_stream() {
        let first = |seed, label| Random::new(seed, label).next();
        assert_eq!(first(1, "a"), first(1, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        assert_ne!(first(1, "a"), first(2, "a"));
    }

    #[test]
    fn numbers_stay_inside_their_bounds() {
        let mut random = Random::new(1, "bounds");
        assert!((0..1000).all(|_| random.below(7) < 7));
        assert!((0..1000).all(|_| (3..9).contains(&random.within(3..9))));
        assert_eq!((random.below(0), random.within(5..5)), (0, 5));
        let mut sample = random.sample((0..100).collect(), 60);
        sample.sort_unstable();
        sample.dedup();
        assert_eq!(sample.len(), 60);
    }
}
