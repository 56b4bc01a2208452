//! How far an accuser is believed: each accusation that its subject answers costs it some credit.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::NodeId;

/// Accusations in a row that may turn out wrong before their author is not believed alone.
pub(super) const CREDIT_MAX: u8 = 4;
/// One of them is forgiven each time that so long has passed.
const FORGIVEN_EVERY: Duration = Duration::from_secs(60);

/// Who has lost credit; the others have all of it.
#[derive(Debug, Default)]
pub(super) struct Credits {
    left: BTreeMap<NodeId, (u8, Instant)>,
}

impl Credits {
    /// Whether its word alone starts a suspicion.
    pub(super) fn is_credible(&self, accuser: &NodeId, now: Instant) -> bool {
        self.left(accuser, now).0 > 0
    }

    /// The subject of its accusation has answered.
    pub(super) fn refuted(&mut self, accuser: NodeId, now: Instant) {
        let (left, since) = self.left(&accuser, now);
        self.left.insert(accuser, (left.saturating_sub(1), since));
    }

    /// The subject of its accusation was gone.
    pub(super) fn confirmed(&mut self, accuser: &NodeId, now: Instant) {
        let (left, since) = self.left(accuser, now);
        if left + 1 >= CREDIT_MAX {
            self.left.remove(accuser);
        } else {
            self.left.insert(*accuser, (left + 1, since));
        }
    }

    pub(super) fn forget(&mut self, accuser: &NodeId) {
        self.left.remove(accuser);
    }

    /// What is left, and since when the next one is being forgiven.
    fn left(&self, accuser: &NodeId, now: Instant) -> (u8, Instant) {
        let Some((left, since)) = self.left.get(accuser).copied() else { return (CREDIT_MAX, now) };
        let times = now.saturating_duration_since(since).as_secs() / FORGIVEN_EVERY.as_secs();
        let forgiven = u8::try_from(times).unwrap_or(CREDIT_MAX).min(CREDIT_MAX - left);
        if left + forgiven == CREDIT_MAX {
            return (CREDIT_MAX, now);
        }
        (left + forgiven, since + FORGIVEN_EVERY * u32::from(forgiven))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, node_id};

    #[test]
    fn credit_is_lost_by_errors_and_comes_back() {
        let (mut credits, liar, t0) = (Credits::default(), node_id(&key(1)), Instant::now());
        for _ in 0..CREDIT_MAX {
            assert!(credits.is_credible(&liar, t0));
            credits.refuted(liar, t0);
        }
        assert!(!credits.is_credible(&liar, t0));
        credits.refuted(liar, t0 + FORGIVEN_EVERY / 2);
        assert!(!credits.is_credible(&liar, t0 + FORGIVEN_EVERY / 2));
        assert!(credits.is_credible(&liar, t0 + FORGIVEN_EVERY), "a minute makes up for one");
        credits.refuted(liar, t0 + FORGIVEN_EVERY);
        assert!(!credits.is_credible(&liar, t0 + FORGIVEN_EVERY));
        credits.confirmed(&liar, t0 + FORGIVEN_EVERY);
        assert!(credits.is_credible(&liar, t0 + FORGIVEN_EVERY), "and so does a true accusation");
        let long_after = t0 + FORGIVEN_EVERY * 10;
        assert_eq!(credits.left(&liar, long_after), (CREDIT_MAX, long_after));
        assert!(credits.is_credible(&node_id(&key(2)), t0));
    }
}
