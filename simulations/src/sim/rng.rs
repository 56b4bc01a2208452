//! Random choices from one seed (SplitMix64, Steele et al. 2014): the same seed gives the same run again.

use std::time::Duration;

/// A generator.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A generator for something of its own, so that drawing more there moves nothing here.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }

    /// A number below `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next_u64() % (n.max(1) as u64)) as usize
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next_u64() % (to.saturating_sub(from) + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: f64) -> bool {
        percent > 0.0 && (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * 100.0 < percent
    }

    /// Anything from nothing to `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.next_u64() % (most.as_nanos() as u64 + 1))
    }

    /// Some of them, in random order.
    pub fn sample<T: Copy>(&mut self, of: &[T], count: usize) -> Vec<T> {
        let mut left = of.to_vec();
        (0..count.min(of.len())).map(|_| left.swap_remove(self.below(left.len()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_choices_within_bounds() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        let hits = (0..10_000)
            .filter(|_| {
                assert_eq!(a.next_u64(), b.next_u64());
                assert!(a.below(5) < 5 && (3..=9).contains(&b.between(3, 9)));
                let hit = a.percent(20.0);
                assert_eq!(hit, b.percent(20.0));
                hit
            })
            .count();
        assert!((1_800..2_200).contains(&hits), "{hits}");
        let mut drawn = a.sample(&[1, 2, 3, 4], 9);
        drawn.sort_unstable();
        assert_eq!(drawn, [1, 2, 3, 4]);
    }
}
