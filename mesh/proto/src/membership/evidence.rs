//! What this node sees itself: connections that come and go, probes, dials and requests that fail.

use std::time::{Duration, Instant};

use super::row::Seen;
use super::{Loss, Membership, Outcome, Output, Timer};
use crate::envelope::Accusation;
use crate::id::NodeId;
use crate::view::MemberState;

/// For how long a failed dial counts after a request has failed.
const QUESTIONED: Duration = Duration::from_secs(10);

impl Membership {
    pub(super) fn link_up(&mut self, peer: NodeId, now: Instant) -> Outcome {
        self.links.insert(peer);
        let Some(row) = self.rows.get_mut(&peer) else { return Outcome::Nothing };
        row.linked = true;
        row.last_seen = now;
        row.told = None;
        // It refutes what was said of it, or at least learns why nobody calls.
        if let Some(record) = row.proof.clone() {
            self.outputs.push_back(Output::Tell { accused: peer, record });
        }
        let state = self.vindicate(peer, now);
        self.changed(peer, state, false);
        Outcome::News
    }

    pub(super) fn link_down(&mut self, peer: NodeId, loss: Loss, now: Instant) -> Outcome {
        self.links.remove(&peer);
        let Some(row) = self.rows.get_mut(&peer) else { return Outcome::Nothing };
        row.linked = false;
        row.doubted = false;
        self.changed(peer, None, false);
        if self.rows.get(&peer).is_none_or(|row| row.gone.is_some()) {
            return Outcome::News;
        }
        self.weigh_held(peer, now);
        match loss {
            Loss::Closed => {}
            Loss::Silent => {
                self.outputs.push_back(Output::Lost(peer));
                self.outputs.push_back(Output::Check(peer));
            }
            // Only if nobody listens at its port either.
            Loss::Reset if self.is_cautious(now) => {
                if let Some(row) = self.rows.get_mut(&peer) {
                    row.questioned = Some(now + QUESTIONED);
                }
                self.outputs.push_back(Output::Lost(peer));
                self.outputs.push_back(Output::Check(peer));
            }
            Loss::Reset => {
                self.miss(peer, true, now);
                self.outputs.push_back(Output::Check(peer));
            }
        }
        Outcome::News
    }

    pub(super) fn dial_failed(&mut self, peer: NodeId, refused: bool, now: Instant) -> Outcome {
        let cautious = self.is_cautious(now);
        let Some(row) = self.rows.get_mut(&peer).filter(|r| r.gone.is_none() && !r.linked) else {
            return Outcome::Nothing;
        };
        if let Some(seen) = &mut row.seen {
            seen.refused |= refused;
            self.fall_under_suspicion(peer, now);
            return Outcome::Nothing;
        }
        // A dial that fails means nothing by itself: half the world sits behind a NAT.
        if row.questioned.take().is_none_or(|until| until < now) {
            return Outcome::Nothing;
        }
        if cautious && !refused {
            return Outcome::Nothing;
        }
        // Its connection or a request broke, and now nobody listens there: its process has ended.
        self.miss(peer, refused, now);
        if refused && let Some(seen) = self.rows.get_mut(&peer).and_then(|row| row.seen.as_mut()) {
            seen.refused = true;
            self.fall_under_suspicion(peer, now);
        }
        Outcome::News
    }

    pub(super) fn request_failed(&mut self, peer: NodeId, now: Instant) -> Outcome {
        let Some(row) = self.rows.get_mut(&peer).filter(|r| r.gone.is_none()) else { return Outcome::Nothing };
        if peer == self.config.me || row.questioned.is_some_and(|until| until >= now) {
            return Outcome::Nothing;
        }
        row.questioned = Some(now + QUESTIONED);
        self.outputs.push_back(Output::Check(peer));
        Outcome::News
    }

    pub(super) fn answered(&mut self, peer: NodeId, now: Instant) -> Outcome {
        let credible = self.is_credible(&peer, now);
        let Some(row) = self.rows.get_mut(&peer).filter(|r| r.gone.is_none()) else { return Outcome::Nothing };
        row.last_seen = now;
        let incarnation = row.manifest.incarnation;
        // What nobody believes need not be refuted.
        if row.linked
            && credible
            && row.told < Some(incarnation)
            && let Some(record) = row.proof.clone()
        {
            row.told = Some(incarnation);
            self.outputs.push_back(Output::Tell { accused: peer, record });
        }
        match self.vindicate(peer, now) {
            Some(state) => self.changed(peer, Some(state), false),
            None => return Outcome::Nothing,
        }
        Outcome::News
    }

    pub(super) fn missed(&mut self, peer: NodeId, now: Instant) -> Outcome {
        if self.is_cautious(now) {
            return Outcome::Nothing;
        }
        let me = self.config.me;
        let Some(row) = self.rows.get_mut(&peer).filter(|r| r.gone.is_none() && peer != me) else {
            return Outcome::Nothing;
        };
        row.doubted = row.linked;
        self.timers.cancel(Timer::Held(peer));
        if row.seen.is_none() {
            self.miss(peer, false, now);
        }
        Outcome::News
    }

    pub(super) fn doubted(&mut self, peer: NodeId, now: Instant) -> Outcome {
        let Some(row) = self.rows.get_mut(&peer).filter(|r| r.gone.is_none()) else { return Outcome::Nothing };
        row.doubted = row.linked;
        self.weigh_held(peer, now);
        Outcome::News
    }

    /// Whoever slept has heard nothing of what others said meanwhile.
    pub(super) fn awake(&mut self, now: Instant) -> Outcome {
        self.sceptical = true;
        self.postponed = Some(now + self.config.suspicion);
        Outcome::Nothing
    }

    /// Whether this node knows too little of its own state to take a silence for more than that.
    pub(super) fn is_cautious(&self, now: Instant) -> bool {
        self.cautious || self.is_young(now)
    }

    pub(super) fn is_young(&self, now: Instant) -> bool {
        self.config.settled.is_some_and(|at| now < at)
    }

    /// It is there: says what changed.
    fn vindicate(&mut self, peer: NodeId, now: Instant) -> Option<(Option<MemberState>, MemberState)> {
        let row = self.rows.get_mut(&peer).filter(|r| r.gone.is_none())?;
        row.vindicate();
        let me = self.config.me;
        row.accusers.retain(|accuser| *accuser != me);
        for timer in [Timer::Suspicion(peer), Timer::Publish(peer), Timer::Held(peer)] {
            self.timers.cancel(timer);
        }
        row.enter(MemberState::Alive, now)
    }

    /// This node misses a member that it had reason to expect.
    fn miss(&mut self, peer: NodeId, reset: bool, now: Instant) {
        let new = self.accuse(peer, self.config.me, now);
        let Some(row) = self.rows.get_mut(&peer) else { return };
        let incarnation = row.manifest.incarnation;
        row.seen = Some(Seen { at: now, reset, refused: false });
        self.fall_under_suspicion(peer, now);
        if new && !self.said_by_enough(&peer) {
            self.outputs.push_back(Output::Accuse(Accusation { subject: peer, incarnation }));
        }
    }
}
