//! What others say of a member, and how long it has to answer.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Membership, Outcome, Output, QUESTION_AGAIN, REFUTATIONS, REFUTE_LATER, Timer};
use crate::envelope::{Accusation, Signed};
use crate::id::NodeId;
use crate::meter::Meter;
use crate::view::MemberState;

/// Accusers besides the first one after whom a suspicion is as short as it gets (`K` of Lifeguard).
const CONFIRMATIONS: usize = 2;
/// Others whose accusations of one incarnation are passed on.
const ACCUSERS_MAX: usize = 1 + CONFIRMATIONS;
/// An accusation counts together with another one that is no older than this.
const ACCUSATION_LIFE: Duration = Duration::from_secs(10);

impl Membership {
    pub(super) fn suspect(&mut self, accusation: Accusation, record: Arc<Signed>, now: Instant) -> Outcome {
        let node = accusation.subject;
        if let Some(outcome) = self.outweighed(accusation, false, now) {
            return outcome;
        }
        if !self.accuse(node, record.author, now) {
            return Outcome::Nothing;
        }
        let credible = self.is_credible(&node, now);
        let Some(row) = self.rows.get_mut(&node) else { return Outcome::Unknown };
        row.proof.get_or_insert(record);
        self.outputs.push_back(Output::Question(node));
        if row.works() {
            self.timers.set_by(Timer::Held(node), now + QUESTION_AGAIN);
        } else if credible {
            self.fall_under_suspicion(node, now);
        }
        if credible { Outcome::News } else { Outcome::Nothing }
    }

    pub(super) fn death(&mut self, accusation: Accusation, record: Arc<Signed>, now: Instant) -> Outcome {
        let node = accusation.subject;
        if let Some(outcome) = self.outweighed(accusation, true, now) {
            return outcome;
        }
        let new = self.accuse(node, record.author, now);
        let credible = self.is_credible(&node, now);
        let time_to_answer = self.time_to_answer(&node);
        let Some(row) = self.rows.get_mut(&node) else { return Outcome::Unknown };
        if !credible {
            if new {
                self.outputs.push_back(Output::Question(node));
            }
            return Outcome::Nothing;
        }
        // The time in which an honest accused refutes; without a suspicion before, it may not even have heard.
        let due = match (row.state, row.accused_at) {
            (MemberState::Suspect, Some(at)) => at + time_to_answer,
            _ => now + self.config.suspicion / 3,
        };
        if !row.works() && row.state == MemberState::Suspect && due <= now {
            row.proof = Some(record);
            self.bury(node, MemberState::Dead, accusation.incarnation, now);
            return Outcome::News;
        }
        let first = row.vouched.is_none();
        let due = row.vouched.take().map_or(due, |(_, before)| before.min(due));
        row.vouched = Some((Arc::clone(&record), due));
        if row.works() {
            row.proof.get_or_insert(record);
            self.timers.set_by(Timer::Held(node), now + QUESTION_AGAIN);
            if new || first {
                self.outputs.push_back(Output::Question(node));
            }
        } else {
            row.proof = Some(record);
            self.timers.cancel(Timer::Publish(node));
            self.fall_under_suspicion(node, now);
        }
        if new || first { Outcome::News } else { Outcome::Nothing }
    }

    /// Whether such an accusation by this author could change anything, were it true: what cannot is not worth its signature.
    pub(crate) fn matters(&self, accusation: Accusation, death: bool, author: &NodeId, now: Instant) -> bool {
        let node = accusation.subject;
        let Some(row) = self.rows.get(&node) else { return true };
        match accusation.incarnation.cmp(&row.manifest.incarnation) {
            Ordering::Less => return false,
            Ordering::Greater => return true,
            Ordering::Equal => {}
        }
        if node == self.config.me {
            return row.state != MemberState::Left && self.timers.due(Timer::Refute).is_none();
        }
        if row.gone.is_some() {
            // It may stand for the word that this node has not published yet.
            return death && self.timers.due(Timer::Publish(node)).is_some();
        }
        let old = row.accused_at.is_some_and(|at| now.saturating_duration_since(at) > ACCUSATION_LIFE);
        let others = row.accusers.iter().filter(|a| **a != self.config.me).count();
        if old && row.state == MemberState::Alive || !row.accusers.contains(author) && others < ACCUSERS_MAX {
            return true;
        }
        // One more death can only hasten the one that is vouched for.
        let sooner = || row.accused_at.map(|at| at + self.time_to_answer(&node));
        death && row.vouched.as_ref().is_none_or(|(_, due)| sooner().is_some_and(|at| at < *due))
    }

    /// What an accusation meets before it is weighed; `None` where nothing speaks against it.
    fn outweighed(&mut self, accusation: Accusation, death: bool, now: Instant) -> Option<Outcome> {
        let row = match self.rows.get(&accusation.subject) {
            // A higher one than its own word cannot be known to anybody honest who would not also send that word.
            None => return Some(Outcome::Unknown),
            Some(row) if accusation.incarnation > row.manifest.incarnation => return Some(Outcome::Unknown),
            Some(row) => row,
        };
        if accusation.incarnation < row.manifest.incarnation {
            return Some(Outcome::Nothing);
        }
        if accusation.subject == self.config.me {
            if row.state != MemberState::Left && self.timers.due(Timer::Refute).is_none() {
                let incarnation = accusation.incarnation;
                let (most, per_second) = REFUTATIONS;
                if self.refutations.get_or_insert_with(|| Meter::new(most, per_second, now)).take(1, now) {
                    self.outputs.push_back(Output::Refute(incarnation));
                } else {
                    self.accused = incarnation;
                    self.timers.set(Timer::Refute, now + REFUTE_LATER);
                }
            }
            return Some(Outcome::Nothing);
        }
        if row.gone.is_some() {
            return Some(if death { self.said_already(accusation.subject) } else { Outcome::Nothing });
        }
        None
    }

    /// Somebody else says what this node has found itself: theirs is passed on instead, if ours was not published yet.
    fn said_already(&mut self, node: NodeId) -> Outcome {
        if self.timers.cancel(Timer::Publish(node)) { Outcome::News } else { Outcome::Nothing }
    }

    /// Takes note of an accuser; says whether it is one more.
    pub(super) fn accuse(&mut self, node: NodeId, accuser: NodeId, now: Instant) -> bool {
        let me = self.config.me;
        let Some(row) = self.rows.get_mut(&node) else { return false };
        let old = row.accused_at.is_some_and(|at| now.saturating_duration_since(at) > ACCUSATION_LIFE);
        if old && row.state == MemberState::Alive {
            row.accusers.clear();
            row.accused_at = None;
        }
        let others = row.accusers.iter().filter(|a| **a != me).count();
        if row.accusers.contains(&accuser) || accuser != me && others >= ACCUSERS_MAX {
            return false;
        }
        row.accusers.push(accuser);
        row.accused_at.get_or_insert(now);
        if accuser != me && others + 1 == ACCUSERS_MAX {
            // Enough have said it, and this node need not.
            self.timers.cancel(Timer::Publish(node));
        }
        true
    }

    /// Whether enough others have said already what this node sees.
    pub(super) fn said_by_enough(&self, node: &NodeId) -> bool {
        let others = |row: &super::Row| row.accusers.iter().filter(|a| **a != self.config.me).count();
        self.rows.get(node).is_some_and(|row| others(row) >= ACCUSERS_MAX)
    }

    /// Whether those who accuse it are to be believed: one who has credit, or two who may have none.
    pub(super) fn is_credible(&self, node: &NodeId, now: Instant) -> bool {
        let Some(row) = self.rows.get(node) else { return false };
        let credible = |a: &NodeId| *a == self.config.me || self.credits.is_credible(a, now);
        row.accusers.len() > 1 || row.accusers.iter().any(credible)
    }

    /// The connection that outweighed what is said has turned out to be of no use.
    pub(super) fn weigh_held(&mut self, node: NodeId, now: Instant) {
        if self.timers.cancel(Timer::Held(node)) && self.is_credible(&node, now) {
            self.fall_under_suspicion(node, now);
        }
    }

    pub(super) fn question_again(&mut self, node: NodeId, now: Instant) {
        if self.rows.get(&node).is_some_and(|row| row.works() && row.is_here()) {
            self.timers.set(Timer::Held(node), now + QUESTION_AGAIN);
            self.outputs.push_back(Output::Question(node));
        }
    }

    /// Suspect from now on, or for less long if there is more against it than before.
    pub(super) fn fall_under_suspicion(&mut self, node: NodeId, now: Instant) {
        let Some(row) = self.rows.get_mut(&node) else { return };
        let state = row.enter(MemberState::Suspect, now);
        if state.is_some() {
            self.changed(node, state, false);
        }
        if let Some(due) = self.due(&node) {
            self.timers.set_by(Timer::Suspicion(node), due.max(now));
        }
    }

    /// When the suspicion ends in death.
    fn due(&self, node: &NodeId) -> Option<Instant> {
        let row = self.rows.get(node)?;
        let lasts = self.lasts(row.accusers.len());
        // Whoever misses it itself decides; should it go too, everybody else does.
        let mut due = row.seen.map_or(row.since + lasts * 2 * self.health, |seen| seen.at + lasts * self.health);
        if let Some(seen) = row.seen.filter(|seen| seen.reset && seen.refused) {
            // The process has ended and nobody took its port: no need to wait for long.
            due = due.min(seen.at + self.config.suspicion / 10);
        }
        Some(row.vouched.as_ref().map_or(due, |(_, vouched)| due.min(*vouched)))
    }

    /// How long a suspicion lasts by the number of its accusers: the longest time falls to a third of it, by the logarithm of
    /// those who confirm it.
    fn lasts(&self, accusers: usize) -> Duration {
        /// log 2 / log 3, in per mille.
        const ONE_OF_TWO: u32 = 631;
        let longest = self.config.suspicion;
        let spread = longest - longest / 3;
        let here = self.rows.len().saturating_sub(self.gone);
        match (here.saturating_sub(2).min(CONFIRMATIONS), accusers.saturating_sub(1)) {
            // Nobody could confirm it.
            (0, _) => longest * 2 / 3,
            (_, 0) => longest,
            (2, 1) => longest - spread * ONE_OF_TWO / 1_000,
            _ => longest / 3,
        }
    }

    /// How long the accused has to answer before a death is believed.
    fn time_to_answer(&self, node: &NodeId) -> Duration {
        let accusers = self.rows.get(node).map_or(0, |row| row.accusers.len());
        self.config.suspicion / if accusers >= ACCUSERS_MAX { 12 } else { 6 }
    }

    pub(super) fn suspicion_over(&mut self, node: NodeId, now: Instant) {
        let postponed = self.postponed.filter(|at| *at > now);
        if let Some(again) = self.sceptical.then_some(now + self.config.suspicion).or(postponed) {
            self.timers.set(Timer::Suspicion(node), again);
            return;
        }
        let young = self.config.settled.filter(|at| *at > now);
        let Some(row) = self.rows.get_mut(&node).filter(|r| r.state == MemberState::Suspect) else { return };
        let ended = row.seen.is_some_and(|seen| seen.reset && seen.refused);
        if let Some(settled) = young.filter(|_| !ended && row.vouched.is_none()) {
            self.timers.set(Timer::Suspicion(node), settled);
            return;
        }
        let incarnation = row.manifest.incarnation;
        let vouched = row.vouched.take().map(|(record, _)| record);
        let declare = vouched.is_none();
        row.proof = vouched;
        self.bury(node, MemberState::Dead, incarnation, now);
        if declare {
            self.outputs.push_back(Output::Declare(Accusation { subject: node, incarnation }));
        }
    }
}
