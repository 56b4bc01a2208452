//! The retry budget of a service: a second attempt only for one request of five, and ten a second beside them, so that
//! a service in trouble gets a fifth more requests at worst, not several times as many (Finagle's `RetryBudget`; SRE
//! Book, chapter 21). Attempts that reached no service are not charged: they cost it nothing.

use std::time::Duration;

/// Retries for each request.
const SHARE: f64 = 0.2;
/// Retries a second beside them, of all lanes together.
const A_SECOND: f64 = 10.0;
/// What is looked back at.
const WINDOW: Duration = Duration::from_secs(10);
const SLOTS: usize = WINDOW.as_secs() as usize;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    second: u64,
    requests: u32,
    retries: u32,
}

/// One lane's part of it. Times are since any fixed moment.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    slots: [Slot; SLOTS],
    /// Of the ten a second.
    floor: f64,
}

impl Budget {
    /// For one of `lanes` lanes.
    pub(crate) fn new(lanes: usize) -> Self {
        Self { slots: Default::default(), floor: A_SECOND / lanes.max(1) as f64 }
    }

    fn slot(&mut self, now: Duration) -> &mut Slot {
        let second = now.as_secs();
        let slot = &mut self.slots[(second % SLOTS as u64) as usize];
        if slot.second != second {
            *slot = Slot { second, requests: 0, retries: 0 };
        }
        slot
    }

    /// A request was answered, or given up.
    pub(crate) fn asked(&mut self, now: Duration) {
        let slot = self.slot(now);
        slot.requests = slot.requests.saturating_add(1);
    }

    /// Takes one retry, where the budget has one left.
    pub(crate) fn withdraw(&mut self, now: Duration) -> bool {
        let since = now.as_secs().saturating_sub(SLOTS as u64 - 1);
        let recent = self.slots.iter().filter(|slot| slot.second >= since && slot.second <= now.as_secs());
        let (requests, retries) =
            recent.fold((0.0, 0.0), |(q, r), slot| (q + f64::from(slot.requests), r + f64::from(slot.retries)));
        if retries + 1.0 > requests * SHARE + self.floor * SLOTS as f64 {
            return false;
        }
        self.slot(now).retries += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn drawn(budget: &mut Budget, at: f64, wanted: usize) -> usize {
        (0..wanted).filter(|_| budget.withdraw(s(at))).count()
    }

    #[test]
    fn ten_a_second_for_a_quiet_service() {
        let mut budget = Budget::new(1);
        assert_eq!(drawn(&mut budget, 0.5, 1000), 100, "ten seconds' worth at once");
        assert_eq!(drawn(&mut budget, 9.9, 1000), 0);
        assert_eq!(drawn(&mut budget, 10.1, 1000), 100, "and again when that was long ago");
        assert_eq!(drawn(&mut Budget::new(4), 0.0, 1000), 25, "a lane has its part");
    }

    #[test]
    fn a_fifth_of_the_requests_in_the_long_run() {
        let mut budget = Budget::new(1);
        let mut retries = 0;
        for ms in 0..60_000 {
            let now = s(f64::from(ms) / 1000.0);
            budget.asked(now);
            // Everything fails, and everybody would retry.
            retries += usize::from(budget.withdraw(now));
        }
        let share = retries as f64 / 60_000.0;
        assert!((0.19..0.23).contains(&share), "{share}");
    }

    #[test]
    fn a_burst_after_busy_seconds_is_paid_by_them() {
        let mut budget = Budget::new(2);
        for _ in 0..2000 {
            budget.asked(s(3.0));
        }
        assert_eq!(drawn(&mut budget, 5.0, 1000), 450);
        assert_eq!(drawn(&mut budget, 3600.0, 1000), 50, "an hour later only the floor");
    }
}
