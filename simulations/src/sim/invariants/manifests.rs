//! Every live member's manifest reaches every member.

use super::{End, Invariant, World};

/// Stateless: the run measures it.
pub struct Manifests;

impl Invariant for Manifests {
    fn name(&self) -> &'static str {
        "every manifest reaches every member"
    }

    fn end(&mut self, end: &End, world: World<'_>) -> Option<String> {
        let (outdated, some) = (world.beliefs.outdated(), world.beliefs.examples(5));
        let apart = outdated > 0 && world.beliefs.differ_apart(end.given, world.now);
        (end.manifests.is_none() && !apart).then(|| {
            format!("{outdated} manifests are missing {:?} after the heal; (observer, subject): {some:?}", end.given)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn a_missing_one_is_seen() {
        let mut history = History::of(2);
        let some = Some(Duration::from_secs(3));
        let end = End { given: Duration::from_secs(40), members: some, manifests: some, leader: some };
        assert!(Manifests.end(&end, history.at(1)).is_none());
        assert!(Manifests.end(&End { manifests: None, ..end }, history.at(1)).is_some());
    }
}
