//! Who is there: the member table and its failure detection (after SWIM, Das et al. 2002, with the suspicion of section 4.2,
//! which ends sooner the more accusers there are: Lifeguard, Dadgar et al. 2017).
//!
//! Everything that comes in has been verified by the caller: signatures, chains, roles. What this core promises:
//! - Only a member's own word with a higher incarnation brings it back from death or departure.
//! - A working connection of this node outweighs what others say, but not a member's own goodbye. Where others speak against
//!   it, it is put to the question first ([`Output::Question`]).
//! - Nobody dies by one accuser's word at once: a death that no suspicion preceded becomes a suspicion first.
//! - Whoever accuses others again and again who then answer is not believed alone any more.
//! - A process that has just started, or is told to be cautious, accuses nobody on a mere silence: only one whose connection
//!   was reset and whose port nobody has taken. One that has just started lets no suspicion end that nobody else confirms.
//! - A process that slept accuses nobody, and lets no suspicion end, before somebody has answered it.
//! - Members, the work for each, and this node's refutations are bounded.

mod credit;
mod evidence;
mod row;
mod suspicion;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::envelope::{Accusation, Signed};
use crate::id::{Incarnation, NodeId};
use crate::manifest::Manifest;
use crate::meter::Meter;
use crate::rng::Rng;
use crate::timer::{self, Timers};
use crate::view::MemberState;

use credit::Credits;
pub use row::Row;

/// Most members, gone ones included.
pub const MEMBERS_MAX: usize = 16_384;
/// What many see at once is published after up to this long (times local health), and only if not enough others were faster.
const PUBLISH_JITTER: Duration = Duration::from_millis(200);
/// Refutations of this node at once, and a second.
const REFUTATIONS: (u32, u32) = (4, 1);
/// A refutation that came too soon after others waits for so long: less than a suspicion lasts.
const REFUTE_LATER: Duration = Duration::from_secs(1);
/// A connection of this node that others speak against is questioned again after this long without an answer.
const QUESTION_AGAIN: Duration = Duration::from_secs(1);

/// How long things take here.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node, always alive to itself.
    pub me: NodeId,
    /// From suspicion to death with one accuser, at most; a third of it with three.
    pub suspicion: Duration,
    /// How long gone members stay listed.
    pub tombstone: Duration,
    /// Until when this node is too young to judge others; `None`: it never is.
    pub settled: Option<Instant>,
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
    /// A probe of this node was answered.
    Answered(NodeId),
    /// Neither the member nor anybody who was asked for it has answered this node.
    Missed(NodeId),
    /// The member did not answer over this node's own connection.
    Doubted(NodeId),
    /// This process was not running for a while.
    Awake,
    /// What this node sees counts again.
    Trusted,
    /// By how much longer than usual this node waits before it declares anybody dead.
    Health(u32),
    /// Whether a mere silence is no evidence for now: this node has accused many already.
    Cautious(bool),
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
    /// Others miss this member: probe it, if that is this node's business.
    Question(NodeId),
    /// This node's connection to the member fell silent: probe it.
    Lost(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The suspicion has lasted.
    Suspicion(NodeId),
    /// Publish the accusation that this node signed.
    Publish(NodeId),
    /// Question the connection again that accusations wait for.
    Held(NodeId),
    /// Refute what was said of this node.
    Refute,
    /// Forget the member.
    Tombstone(NodeId),
}

impl timer::Timer for Timer {
    fn name(self) -> &'static str {
        match self {
            Timer::Suspicion(_) => "suspicion",
            Timer::Publish(_) => "publish accusation",
            Timer::Held(_) => "question a connection",
            Timer::Refute => "refute",
            Timer::Tombstone(_) => "tombstone",
        }
    }
}

/// The member table.
#[derive(Debug)]
pub struct Membership {
    config: Config,
    rows: BTreeMap<NodeId, Row>,
    /// How many of them are gone.
    gone: usize,
    links: BTreeSet<NodeId>,
    credits: Credits,
    refutations: Option<Meter>,
    /// What is still to be refuted.
    accused: Incarnation,
    health: u32,
    cautious: bool,
    sceptical: bool,
    /// No suspicion ends before.
    postponed: Option<Instant>,
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
            gone: 0,
            links: BTreeSet::new(),
            credits: Credits::default(),
            refutations: None,
            accused: Incarnation(0),
            health: 1,
            cautious: false,
            sceptical: false,
            postponed: None,
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
            Input::Answered(peer) => self.answered(peer, now),
            Input::Missed(peer) => self.missed(peer, now),
            Input::Doubted(peer) => self.doubted(peer, now),
            Input::Awake => self.awake(now),
            Input::Trusted => {
                self.sceptical = false;
                Outcome::Nothing
            }
            Input::Health(health) => {
                self.health = health;
                Outcome::Nothing
            }
            Input::Cautious(cautious) => {
                self.cautious = cautious;
                Outcome::Nothing
            }
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
                Timer::Held(node) => self.question_again(node, now),
                Timer::Refute => {
                    if self.rows.get(&self.config.me).is_some_and(|row| row.manifest.incarnation <= self.accused) {
                        self.outputs.push_back(Output::Refute(self.accused));
                    }
                }
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

    /// This node is too young to judge others until then at least, where it ever was.
    pub(crate) fn stay_young(&mut self, settled: Instant) {
        self.config.settled = self.config.settled.map(|at| at.max(settled));
    }

    /// Takes the signed form of an [`Output::Accuse`] or [`Output::Declare`]: what only few can see is published at once,
    /// and the rest after a moment, unless enough others are faster.
    pub fn proven(&mut self, subject: NodeId, record: Arc<Signed>, now: Instant) {
        let Some(row) = self.rows.get_mut(&subject) else { return };
        row.proof = Some(Arc::clone(&record));
        if row.is_here() && row.seen.is_some_and(|seen| !seen.reset) {
            self.outputs.push_back(Output::Publish(record));
        } else {
            let jitter = self.rng.up_to(PUBLISH_JITTER * self.health);
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
        // A process that was started anew refutes nothing.
        let refuted = raised && row.is_here() && manifest.instance == row.manifest.instance;
        let accusers = if refuted { std::mem::take(&mut row.accusers) } else { Vec::new() };
        let back = row.gone.map_or(raised, |gone| manifest.incarnation > gone);
        row.manifest = manifest;
        row.record = record;
        row.last_seen = now;
        for accuser in accusers {
            self.credits.refuted(accuser, now);
        }
        let state = if back { self.revive(node, now) } else { None };
        self.changed(node, state, true);
        Outcome::News
    }

    /// Back to alive, from anything; says what changed.
    fn revive(&mut self, node: NodeId, now: Instant) -> Option<(Option<MemberState>, MemberState)> {
        let row = self.rows.get_mut(&node)?;
        row.clear_accusation();
        self.gone -= usize::from(row.gone.take().is_some());
        let state = row.enter(MemberState::Alive, now);
        self.cancel_timers(node);
        state
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
        self.gone += 1;
        self.changed(node, Some((None, state)), true);
        Outcome::News
    }

    /// The member is gone: dead or departed.
    fn bury(&mut self, node: NodeId, state: MemberState, incarnation: Incarnation, now: Instant) {
        let Some(row) = self.rows.get_mut(&node) else { return };
        let (proof, accusers) = (row.proof.take(), std::mem::take(&mut row.accusers));
        row.clear_accusation();
        row.proof = proof;
        self.gone += usize::from(row.gone.replace(incarnation).is_none());
        let state = row.enter(state, now);
        let forget = row.since + self.config.tombstone;
        let dead = row.state == MemberState::Dead;
        self.cancel_timers(node);
        for accuser in accusers.into_iter().filter(|_| dead) {
            self.credits.confirmed(&accuser, now);
        }
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
        self.cancel_timers(node);
        self.credits.forget(&node);
        if let Some(row) = self.rows.remove(&node) {
            self.gone -= usize::from(!row.is_here());
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

    fn cancel_timers(&mut self, node: NodeId) {
        for timer in [Timer::Suspicion(node), Timer::Publish(node), Timer::Held(node), Timer::Tombstone(node)] {
            self.timers.cancel(timer);
        }
    }

    fn changed(&mut self, node: NodeId, state: Option<(Option<MemberState>, MemberState)>, manifest: bool) {
        self.outputs.push_back(Output::Changed { node, state, manifest });
    }
}

#[cfg(test)]
mod tests;
