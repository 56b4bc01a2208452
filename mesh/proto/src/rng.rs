//! Random choices from a seed (SplitMix64): the same seed gives the same run. Never for secrets.

use std::time::Duration;

/// A generator.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 where `n` is 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(u64::MAX).max(1);
        // The bias is below n / 2^64, which no choice here would show.
        usize::try_from(self.next_u64() % n).unwrap_or(0)
    }

    /// Anything from nothing to `most`.
    pub(crate) fn up_to(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.next_u64() % micros.saturating_add(1).max(1))
    }

    /// `mean`, a quarter more or less.
    pub(crate) fn around(&mut self, mean: Duration) -> Duration {
        mean * 3 / 4 + self.up_to(mean / 2)
    }

    /// One of them.
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        let i = self.below(of.len());
        of.get(i).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_run_within_bounds() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..1_000 {
            assert_eq!(a.next_u64(), b.next_u64());
        }
        let mean = Duration::from_secs(10);
        for _ in 0..1_000 {
            assert!(a.below(5) < 5);
            let d = a.around(mean);
            assert!(d >= mean * 3 / 4 && d <= mean * 5 / 4, "{d:?}");
        }
        assert_eq!(a.below(0), 0);
        assert_eq!(a.pick::<u8>(&[]), None);
        assert_eq!(a.up_to(Duration::ZERO), Duration::ZERO);
    }
}
