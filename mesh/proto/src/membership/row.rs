//! One member in the table.

use std::sync::Arc;
use std::time::Instant;

use crate::envelope::Signed;
use crate::id::{Incarnation, NodeId};
use crate::manifest::Manifest;
use crate::view::MemberState;

/// One member.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its last word.
    pub manifest: Arc<Manifest>,
    /// As signed, to be passed on.
    pub record: Arc<Signed>,
    /// Alive, suspect, dead or left.
    pub state: MemberState,
    /// Since when.
    pub since: Instant,
    /// Last sign of life.
    pub last_seen: Instant,
    /// Whether this node has a connection to it.
    pub linked: bool,
    /// Suspicion, death or goodbye, as signed by whoever said it.
    pub proof: Option<Arc<Signed>>,
    /// The incarnation that is gone: only a higher one is alive.
    pub gone: Option<Incarnation>,
    /// Who said so of this incarnation, this node included, the first one first; a few are enough.
    pub(super) accusers: Vec<NodeId>,
    /// When the first of them did.
    pub(super) accused_at: Option<Instant>,
    /// Another's word that it is dead, kept until the suspicion is over, and when it is to be believed.
    pub(super) vouched: Option<(Arc<Signed>, Instant)>,
    /// It did not answer over this node's connection, which then outweighs nothing.
    pub(super) doubted: bool,
    /// What this node saw itself.
    pub(super) seen: Option<Seen>,
    /// Up to which incarnation it was told that it is accused.
    pub(super) told: Option<Incarnation>,
    /// Until when a failed dial is evidence, because a request has failed.
    pub(super) questioned: Option<Instant>,
}

/// First-hand evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Since when this node misses it.
    pub(super) at: Instant,
    /// Whether its connection was reset, as the end of a process does.
    pub(super) reset: bool,
    /// Whether then nobody listened at its port any more.
    pub(super) refused: bool,
}

impl Row {
    pub(crate) fn alive(manifest: Arc<Manifest>, record: Arc<Signed>, now: Instant) -> Self {
        Self {
            manifest,
            record,
            state: MemberState::Alive,
            since: now,
            last_seen: now,
            linked: false,
            proof: None,
            gone: None,
            accusers: Vec::new(),
            accused_at: None,
            vouched: None,
            doubted: false,
            seen: None,
            told: None,
            questioned: None,
        }
    }

    pub(super) fn gone(
        manifest: Arc<Manifest>,
        record: Arc<Signed>,
        state: MemberState,
        incarnation: Incarnation,
        proof: Arc<Signed>,
        now: Instant,
    ) -> Self {
        let alive = Self::alive(manifest, record, now);
        Self { state, proof: Some(proof), gone: Some(incarnation), ..alive }
    }

    /// Enters a state; says from what to what, if that is a change.
    pub(super) fn enter(&mut self, to: MemberState, now: Instant) -> Option<(Option<MemberState>, MemberState)> {
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then(|| {
            self.since = now;
            (Some(from), to)
        })
    }

    /// Nothing is said of it any more.
    pub(super) fn clear_accusation(&mut self) {
        self.proof = None;
        self.accusers.clear();
        self.accused_at = None;
        self.vindicate();
    }

    /// What is said of it has turned out wrong; who said it is remembered, so that saying it again makes no difference.
    pub(super) fn vindicate(&mut self) {
        self.vouched = None;
        self.seen = None;
        self.questioned = None;
        self.doubted = false;
    }

    /// Whether this node has a connection to it that nothing speaks against.
    pub(super) fn works(&self) -> bool {
        self.linked && !self.doubted
    }

    /// Whether it is neither dead nor departed.
    pub fn is_here(&self) -> bool {
        self.gone.is_none()
    }
}
