//! After the heal there are one leader and one member list everywhere, in bounded time.

use super::{End, Invariant, World};

/// Stateless: the run measures it.
pub struct Agreement;

impl Invariant for Agreement {
    fn name(&self) -> &'static str {
        "after the heal one leader and one member list"
    }

    fn end(&mut self, end: &End, world: World<'_>) -> Option<String> {
        if world.beliefs.differ_apart(end.given, world.now) && world.beliefs.wrong() > 0 {
            return None;
        }
        if end.members.is_none() {
            let (wrong, some) = (world.beliefs.wrong(), world.beliefs.examples(5));
            return Some(format!(
                "{wrong} pairs are wrong {:?} after the heal; (observer, subject): {some:?}",
                end.given
            ));
        }
        // Where nobody is left, nobody leads; nor does a newcomer that has found nobody.
        let mut up = world.beliefs.up();
        let newcomer = |host: super::HostId| world.leads.of(host).leader.is_none();
        let nobody = match (up.next(), up.next()) {
            (None, _) => true,
            (Some(only), None) => newcomer(only),
            _ => false,
        };
        if end.leader.is_none() && !nobody {
            let claims = world.leads.claims();
            let some: Vec<_> = world.beliefs.up().map(|h| (h, world.leads.of(h))).take(5).collect();
            return Some(format!("{claims} claims are believed {:?} after the heal: {some:?}", end.given));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sim::invariants::history::History;

    #[test]
    fn both_are_demanded() {
        let mut history = History::of(2);
        let some = Some(Duration::from_secs(3));
        let end = End { given: Duration::from_secs(40), members: some, manifests: some, leader: some };
        assert!(Agreement.end(&end, history.at(1)).is_none());
        assert!(Agreement.end(&End { members: None, ..end }, history.at(1)).is_some());
        assert!(Agreement.end(&End { leader: None, ..end }, history.at(1)).is_some());
        history.beliefs.set_up(0, false, false, Duration::ZERO);
        assert!(Agreement.end(&End { leader: None, ..end }, history.at(1)).is_none(), "a newcomer alone");
    }
}
