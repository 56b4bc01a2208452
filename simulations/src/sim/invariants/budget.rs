//! The sink's budget is never passed: so many writes of a UTC day, by the whole cluster.

use std::collections::BTreeMap;

use super::{Fact, Invariant, World};

/// Writes of a day.
pub const WRITES_MAX: u32 = 30;

/// Writes so far, by day.
#[derive(Default)]
pub struct Budget {
    days: BTreeMap<u64, u32>,
}

impl Invariant for Budget {
    fn name(&self) -> &'static str {
        "the sink's budget is never passed"
    }

    fn fact(&mut self, fact: &Fact, _: World<'_>) -> Option<String> {
        let Fact::Write { host, day } = fact else { return None };
        let writes = self.days.entry(*day).or_default();
        *writes += 1;
        (*writes == WRITES_MAX + 1)
            .then(|| format!("host {host} writes once more than {WRITES_MAX} times on day {day}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn one_write_too_many_is_seen() {
        let (mut history, mut invariant) = (History::of(1), Budget::default());
        let mut write = |day| invariant.fact(&Fact::Write { host: 0, day }, history.at(1));
        assert!((0..WRITES_MAX).all(|_| write(7).is_none()));
        assert_eq!(write(8), None);
        assert!(write(7).is_some());
    }
}
