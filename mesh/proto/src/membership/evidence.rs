//! What this node sees itself: connections that come and go, dials and requests that fail.

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
        let state = if row.state == MemberState::Suspect { self.revive(peer, now) } else { None };
        self.changed(peer, state, false);
        Outcome::News
    }

    pub(super) fn link_down(&mut self, peer: NodeId, loss: Loss, now: Instant) -> Outcome {
        self.links.remove(&peer);
        let Some(row) = self.rows.get_mut(&peer) else { return Outcome::Nothing };
        row.linked = false;
        if loss == Loss::Closed || row.gone.is_some() {
            self.changed(peer, None, false);
            return Outcome::News;
        }
        self.miss(peer, loss == Loss::Reset, now);
        self.outputs.push_back(Output::Check(peer));
        Outcome::News
    }

    pub(super) fn dial_failed(&mut self, peer: NodeId, refused: bool, now: Instant) -> Outcome {
        let Some(row) = self.rows.get_mut(&peer).filter(|r| r.gone.is_none() && !r.linked) else {
            return Outcome::Nothing;
        };
        if let Some(seen) = row.seen {
            // The process has ended and nobody took its port: no need to wait for long.
            if refused && seen.reset {
                self.timers.set_by(Timer::Suspicion(peer), (seen.at + self.config.suspicion / 3).max(now));
            }
            return Outcome::Nothing;
        }
        // A dial that fails means nothing by itself: half the world sits behind a NAT.
        if row.questioned.take().is_none_or(|until| until < now) {
            return Outcome::Nothing;
        }
        self.miss(peer, false, now);
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

    /// This node misses a member that it had reason to expect.
    fn miss(&mut self, peer: NodeId, reset: bool, now: Instant) {
        let Some(row) = self.rows.get_mut(&peer) else { return };
        let incarnation = row.manifest.incarnation;
        row.seen = Some(Seen { at: now, reset });
        let state = row.enter(MemberState::Suspect, now);
        self.timers.set_by(Timer::Suspicion(peer), now + self.config.suspicion);
        self.changed(peer, state, false);
        if state.is_some() {
            self.outputs.push_back(Output::Accuse(Accusation { subject: peer, incarnation }));
        }
    }
}
