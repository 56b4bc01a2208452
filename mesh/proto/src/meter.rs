//! A token bucket: how much work may be asked for at once, and how fast the right to ask comes back.

use std::time::Instant;

/// A bucket of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    most: u32,
    per_second: u32,
    // In thousandths, so that short waits count.
    milli: u64,
    at: Instant,
}

impl Meter {
    /// Full at first.
    pub(crate) fn new(most: u32, per_second: u32, now: Instant) -> Self {
        Self { most, per_second, milli: u64::from(most) * 1_000, at: now }
    }

    /// Takes `cost` tokens if they are there.
    pub(crate) fn take(&mut self, cost: u32, now: Instant) -> bool {
        let ms = u64::try_from(now.saturating_duration_since(self.at).as_millis()).unwrap_or(u64::MAX);
        if ms > 0 {
            let earned = ms.saturating_mul(u64::from(self.per_second));
            self.milli = self.milli.saturating_add(earned).min(u64::from(self.most) * 1_000);
            self.at = now;
        }
        let cost = u64::from(cost) * 1_000;
        let enough = self.milli >= cost;
        if enough {
            self.milli -= cost;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let t0 = Instant::now();
        let mut m = Meter::new(3, 2, t0);
        assert!((0..3).all(|_| m.take(1, t0)));
        assert!(!m.take(1, t0));
        assert!(!m.take(1, t0 + Duration::from_millis(499)));
        assert!(m.take(1, t0 + Duration::from_millis(500)));
        assert!(m.take(3, t0 + Duration::from_secs(60)), "never more than the burst");
        assert!(!m.take(1, t0 + Duration::from_secs(60)));
    }
}
