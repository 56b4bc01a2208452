//! Who is there: the member table and its failure detection (after SWIM, Das et al. 2002, with the suspicion of section 4.2).
//!
//! Everything that comes in has been verified by the caller: signatures, chains, roles. What this core promises:
//! - Only a member's own word with a higher incarnation brings it back from death or departure.
//! - A working connection of this node outweighs what others say, but not a member's own goodbye.
//! - Nobody dies by one accuser's word at once: a death that no suspicion preceded becomes a suspicion first.
//! - Members, and the work for each, are bounded.

mod evidence;
mod row;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::envelope::{Accusation, Signed};
use crate::id::{Incarnation, NodeId};
use crate::manifest::Manifest;
use crate::rng::Rng;
use crate::timer::{self, Timers};
use crate::view::MemberState;

pub use row::Row;

/// Most members, gone ones included.
pub const MEMBERS_MAX: usize = 4096;
/// A suspicion and a death are published after up to this long, and only if nobody else was faster.
const PUBLISH_JITTER: Duration = Duration::from_millis(200);

/// How long things take here.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node, always alive to itself.
    pub me: NodeId,
    /// From suspicion to death.
    pub suspicion: Duration,
    /// How long gone members stay listed.
    pub tombstone: Duration,
    /// For random delays.
    pub seed: u64,
}

/// What happens to the table. All records are verified.
#[derive(Clone, Debug)]
pub enum Input {
    /// A member's own word.
    Manifest {
        /// What it says.
        manifest: Arc<Manifest>,
        /// As signed.
        record: Arc<Signed>,
    },
    /// Somebody misses a member.
    Suspect {
        /// Whom.
        accusation: Accusation,
        /// As signed.
        record: Arc<Signed>,
    },
    /// Somebody found a member gone.
    Death {
        /// Whom.
        accusation: Accusation,
        /// As signed.
        record: Arc<Signed>,
    },
    /// A member says goodbye.
    Leave {
        /// Itself.
        accusation: Accusation,
        /// As signed.
        record: Arc<Signed>,
    },
    /// A member that this node did not know before it was gone.
    Tombstone {
        /// Its last word.
        manifest: Arc<Manifest>,
        /// As signed.
        record: Arc<Signed>,
        /// [`MemberState::Dead`] or [`MemberState::Left`].
        state: MemberState,
        /// The incarnation that is gone.
        incarnation: Incarnation,
        /// The death or the goodbye, as signed.
        proof: Arc<Signed>,
        /// For how long it has been gone.
        gone: Duration,
    },
    /// This node has a connection to a peer.
    LinkUp(NodeId),
    /// It has none any more.
    LinkDown {
        /// To whom.
        peer: NodeId,
        /// How it ended.
        loss: Loss,
    },
    /// A dial failed at every address.
    DialFailed {
        /// Whom.
        peer: NodeId,
        /// Whether somebody answered that nobody listens there.
        refused: bool,
    },
    /// A request failed on the data plane.
    RequestFailed(NodeId),
    /// A member's credential has come to its end: it is none any more.
    Expired(NodeId),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The process has most likely ended.
    Reset,
    /// Silence.
    Silent,
    /// In good order: no evidence at all.
    Closed,
}

/// What an input was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// New: worth passing on.
    News,
    /// Known, outdated, or outweighed by what this node sees itself.
    Nothing,
    /// It concerns a member, or an incarnation, that this node has not heard of: ask for its manifest.
    Unknown,
    /// The table is full.
    Full,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A member's row was changed; `state` says from what to what, if that changed.
    Changed {
        /// Whose.
        node: NodeId,
        /// From (`None`: a newcomer) and to.
        state: Option<(Option<MemberState>, MemberState)>,
        /// Whether its manifest is another one.
        manifest: bool,
    },
    /// The row is gone: an hour has passed, or the credential is at its end.
    Forgotten {
        /// Whose.
        node: NodeId,
        /// What it was in.
        state: MemberState,
    },
    /// Sign that this node misses the member, and hand it back by [`Membership::proven`].
    Accuse(Accusation),
    /// Sign that the member is dead, and hand it back by [`Membership::proven`].
    Declare(Accusation),
    /// Gossip this.
    Publish(Arc<Signed>),
    /// Tell a member over this node's own link what is said of it.
    Tell {
        /// Whom.
        accused: NodeId,
        /// What is said.
        record: Arc<Signed>,
    },
    /// Something is said of this node's present incarnation: raise it above.
    Refute(Incarnation),
    /// Dial this member to see whether it is there.
    Check(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The suspicion has lasted.
    Suspicion(NodeId),
    /// Publish the accusation that this node signed.
    Publish(NodeId),
    /// Forget the member.
    Tombstone(NodeId),
}

impl timer::Timer for Timer {
    fn name(self) -> &'static str {
        match self {
            Timer::Suspicion(_) => "suspicion",
            Timer::Publish(_) => "publish accusation",
            Timer::Tombstone(_) => "tombstone",
        }
    }
}

/// The member table.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    rows: BTreeMap<NodeId, Row>,
    links: BTreeSet<NodeId>,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
    rng: Rng,
}

impl Membership {
    /// An empty table; this node enters it by its first manifest.
    pub fn new(config: Config) -> Self {
        let rng = Rng::new(config.seed);
        Self {
            config,
            rows: BTreeMap::new(),
            links: BTreeSet::new(),
            timers: Timers::default(),
            outputs: VecDeque::new(),
            rng,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Instant) -> Outcome {
        match input {
            Input::Manifest { manifest, record } => self.manifest(manifest, record, now),
            Input::Suspect { accusation, record } => self.suspect(accusation, record, now),
            Input::Death { accusation, record } => self.death(accusation, record, now),
            Input::Leave { accusation, record } => self.leave(accusation, record, now),
            Input::Tombstone { manifest, record, state, incarnation, proof, gone } => {
                self.tombstone(Row::gone(manifest, record, state, incarnation, proof, now), gone, now)
            }
            Input::LinkUp(peer) => self.link_up(peer, now),
            Input::LinkDown { peer, loss } => self.link_down(peer, loss, now),
            Input::DialFailed { peer, refused } => self.dial_failed(peer, refused, now),
            Input::RequestFailed(peer) => self.request_failed(peer, now),
            Input::Expired(node) => self.expired(node),
        }
    }

    /// The time of [`Membership::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Suspicion(node) => self.suspicion_over(node, now),
                Timer::Publish(node) => {
                    if let Some(record) = self.rows.get(&node).and_then(|r| r.proof.clone()) {
                        self.outputs.push_back(Output::Publish(record));
                    }
                }
                Timer::Tombstone(node) => self.forget(node),
            }
        }
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When this core wants to be woken, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next()
    }

    /// A member.
    pub fn get(&self, node: &NodeId) -> Option<&Row> {
        self.rows.get(node)
    }

    /// Everybody, gone ones included, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Row)> {
        self.rows.iter()
    }

    /// Whom this node has a connection to, member or not, in order.
    pub fn links(&self) -> &BTreeSet<NodeId> {
        &self.links
    }

    /// There was a sign of life of this member.
    pub fn seen(&mut self, node: &NodeId, now: Instant) {
        if let Some(row) = self.rows.get_mut(node) {
            row.last_seen = now;
        }
    }

    /// Takes the signed form of an [`Output::Accuse`] or [`Output::Declare`]; it is published unless somebody else is faster.
    pub fn proven(&mut self, subject: NodeId, record: Arc<Signed>, now: Instant) {
        if let Some(row) = self.rows.get_mut(&subject) {
            row.proof = Some(record);
            let jitter = self.rng.up_to(PUBLISH_JITTER);
            self.timers.set(Timer::Publish(subject), now + jitter);
        }
    }

    fn manifest(&mut self, manifest: Arc<Manifest>, record: Arc<Signed>, now: Instant) -> Outcome {
        let node = manifest.node;
        let Some(row) = self.rows.get_mut(&node) else {
            if !self.make_room(now) {
                return Outcome::Full;
            }
            let mut row = Row::alive(manifest, record, now);
            row.linked = self.links.contains(&node);
            self.rows.insert(node, row);
            self.changed(node, Some((None, MemberState::Alive)), true);
            return Outcome::News;
        };
        if manifest.order() <= row.manifest.order() {
            return Outcome::Nothing;
        }
        let raised = manifest.incarnation > row.manifest.incarnation;
        let back = row.gone.map_or(raised, |gone| manifest.incarnation > gone);
        row.manifest = manifest;
        row.record = record;
        row.last_seen = now;
        let state = if back { self.revive(node, now) } else { None };
        self.changed(node, state, true);
        Outcome::News
    }

    /// Back to alive, from anything; says what changed.
    fn revive(&mut self, node: NodeId, now: Instant) -> Option<(Option<MemberState>, MemberState)> {
        let row = self.rows.get_mut(&node)?;
        row.clear_accusation();
        row.gone = None;
        for timer in [Timer::Suspicion(node), Timer::Publish(node), Timer::Tombstone(node)] {
            self.timers.cancel(timer);
        }
        row.enter(MemberState::Alive, now)
    }

    fn suspect(&mut self, accusation: Accusation, record: Arc<Signed>, now: Instant) -> Outcome {
        let node = accusation.subject;
        if let Some(outcome) = self.outweighed(accusation, &record, false) {
            return outcome;
        }
        let Some(row) = self.rows.get_mut(&node) else { return Outcome::Unknown };
        if row.state == MemberState::Suspect {
            return self.said_already(node);
        }
        row.proof = Some(record);
        let state = row.enter(MemberState::Suspect, now);
        // Whoever saw it first-hand decides; should it go too, everybody else does.
        self.timers.set(Timer::Suspicion(node), now + self.config.suspicion * 2);
        self.changed(node, state, false);
        Outcome::News
    }

    fn death(&mut self, accusation: Accusation, record: Arc<Signed>, now: Instant) -> Outcome {
        let node = accusation.subject;
        if let Some(outcome) = self.outweighed(accusation, &record, true) {
            return outcome;
        }
        let Some(row) = self.rows.get_mut(&node) else { return Outcome::Unknown };
        if row.vouched.is_some() {
            return Outcome::Nothing;
        }
        let suspected = row.state == MemberState::Suspect;
        // The time in which an honest accused refutes.
        if suspected && now.saturating_duration_since(row.since) >= self.config.suspicion / 6 {
            row.proof = Some(record);
            self.bury(node, MemberState::Dead, accusation.incarnation, now);
            return Outcome::News;
        }
        row.vouched = Some(record.clone());
        row.proof = Some(record);
        let state = row.enter(MemberState::Suspect, now);
        self.timers.cancel(Timer::Publish(node));
        self.timers.set_by(Timer::Suspicion(node), now + self.config.suspicion / 3);
        if state.is_some() {
            self.changed(node, state, false);
        }
        Outcome::News
    }

    fn leave(&mut self, accusation: Accusation, record: Arc<Signed>, now: Instant) -> Outcome {
        let (node, incarnation) = (accusation.subject, accusation.incarnation);
        let Some(row) = self.rows.get_mut(&node) else { return Outcome::Unknown };
        let known = row.state == MemberState::Left && row.gone.is_some_and(|gone| incarnation <= gone);
        if known || incarnation < row.manifest.incarnation {
            return Outcome::Nothing;
        }
        row.proof = Some(record);
        row.last_seen = now;
        let incarnation = row.gone.map_or(incarnation, |gone| gone.max(incarnation));
        self.bury(node, MemberState::Left, incarnation, now);
        Outcome::News
    }

    fn tombstone(&mut self, mut row: Row, gone: Duration, now: Instant) -> Outcome {
        let node = row.manifest.node;
        if gone >= self.config.tombstone || node == self.config.me || self.rows.contains_key(&node) {
            return Outcome::Nothing;
        }
        if !self.make_room(now) {
            return Outcome::Full;
        }
        row.since = now.checked_sub(gone).unwrap_or(now);
        row.linked = self.links.contains(&node);
        let state = row.state;
        self.timers.set(Timer::Tombstone(node), now + (self.config.tombstone - gone));
        self.rows.insert(node, row);
        self.changed(node, Some((None, state)), true);
        Outcome::News
    }

    /// What an accusation meets before it is believed; `None` where nothing speaks against it.
    fn outweighed(&mut self, accusation: Accusation, record: &Arc<Signed>, death: bool) -> Option<Outcome> {
        let row = match self.rows.get_mut(&accusation.subject) {
            // A higher one than its own word cannot be known to anybody honest who would not also send that word.
            None => return Some(Outcome::Unknown),
            Some(row) if accusation.incarnation > row.manifest.incarnation => return Some(Outcome::Unknown),
            Some(row) => row,
        };
        if accusation.incarnation < row.manifest.incarnation {
            return Some(Outcome::Nothing);
        }
        if accusation.subject == self.config.me {
            if row.state != MemberState::Left {
                self.outputs.push_back(Output::Refute(accusation.incarnation));
            }
            return Some(Outcome::Nothing);
        }
        if row.gone.is_some() {
            return Some(if death { self.said_already(accusation.subject) } else { Outcome::Nothing });
        }
        if row.linked {
            if row.told < Some(accusation.incarnation) {
                row.told = Some(accusation.incarnation);
                self.outputs.push_back(Output::Tell { accused: accusation.subject, record: record.clone() });
            }
            return Some(Outcome::Nothing);
        }
        None
    }

    /// Somebody else says what this node has found itself: theirs is passed on instead, if ours was not published yet.
    fn said_already(&mut self, node: NodeId) -> Outcome {
        if self.timers.cancel(Timer::Publish(node)) { Outcome::News } else { Outcome::Nothing }
    }

    fn suspicion_over(&mut self, node: NodeId, now: Instant) {
        let Some(row) = self.rows.get_mut(&node).filter(|r| r.state == MemberState::Suspect) else { return };
        let incarnation = row.manifest.incarnation;
        let vouched = row.vouched.take();
        let declare = vouched.is_none();
        row.proof = vouched;
        self.bury(node, MemberState::Dead, incarnation, now);
        if declare {
            self.outputs.push_back(Output::Declare(Accusation { subject: node, incarnation }));
        }
    }

    /// The member is gone: dead or departed.
    fn bury(&mut self, node: NodeId, state: MemberState, incarnation: Incarnation, now: Instant) {
        let Some(row) = self.rows.get_mut(&node) else { return };
        let proof = row.proof.take();
        row.clear_accusation();
        row.proof = proof;
        row.gone = Some(incarnation);
        let state = row.enter(state, now);
        let forget = row.since + self.config.tombstone;
        self.timers.cancel(Timer::Suspicion(node));
        self.timers.cancel(Timer::Publish(node));
        if node != self.config.me {
            self.timers.set(Timer::Tombstone(node), forget);
        }
        self.changed(node, state, false);
    }

    fn expired(&mut self, node: NodeId) -> Outcome {
        if node == self.config.me || !self.rows.contains_key(&node) {
            return Outcome::Nothing;
        }
        self.forget(node);
        Outcome::News
    }

    fn forget(&mut self, node: NodeId) {
        for timer in [Timer::Suspicion(node), Timer::Publish(node), Timer::Tombstone(node)] {
            self.timers.cancel(timer);
        }
        if let Some(row) = self.rows.remove(&node) {
            self.outputs.push_back(Output::Forgotten { node, state: row.state });
        }
    }

    /// Whether one more fits, after the member that has been gone longest has made room if need be.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.rows.len() < MEMBERS_MAX {
            return true;
        }
        let gone = self.rows.iter().filter(|(node, r)| r.gone.is_some() && **node != self.config.me);
        let oldest = gone.max_by_key(|(_, r)| now.saturating_duration_since(r.since)).map(|(node, _)| *node);
        oldest.inspect(|node| self.forget(*node)).is_some()
    }

    fn changed(&mut self, node: NodeId, state: Option<(Option<MemberState>, MemberState)>, manifest: bool) {
        self.outputs.push_back(Output::Changed { node, state, manifest });
    }
}

#[cfg(test)]
mod tests;
