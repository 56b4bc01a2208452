//! Who leads: claims that are signed, ordered and never taken back (after the rank and term of Raft's elections, Ongaro and
//! Ousterhout 2014, without its votes: two sides of a partition shall each have a leader).
//!
//! Claims and summaries that come in have been verified by the caller. What this core promises:
//! - The claim that it believes only rises, by [`Lead`] and then by rank; it is handed out to be kept on disk before
//!   anything else is made of it, and at a bounded rate, whatever others claim.
//! - A leader that hears a greater claim yields at once. One that slept listens before it goes on.
//! - A restarted process never goes on with a claim of its earlier life: it makes a greater one.
//! - Terms rise no faster than time allows: one that is too far ahead is refused, and a person is told.
//! - Whoever has just come claims nothing before it has heard what is claimed: never where it reaches nobody and knows of
//!   no leader, unless it is the founder.

mod anchor;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Now;
use crate::envelope::Signed;
use crate::id::{ClusterId, NodeId, UnixSeconds};
use crate::lead::{LINE_MAX, Lead, Ranks, ShortId};
use crate::meter::Meter;
use crate::timer::{self, Timers};
use crate::wire::Message;

use anchor::Anchor;

/// Between two of the line of succession.
const STEP: Duration = Duration::from_millis(500);
/// After this long without any of the line, everybody goes by its own table.
const WITHOUT_LINE: Duration = Duration::from_secs(2);
/// How long whoever is named for the next term has to claim it.
const HEIR_ANSWERS: Duration = Duration::from_secs(2);
/// How many are named before the leader goes on itself.
const HEIRS_MAX: usize = 2;
/// A timer that is this late finds a process that slept.
pub const LATE: Duration = Duration::from_secs(2);
/// How long a process that slept listens, and one that led before it was started again.
const LISTEN: Duration = Duration::from_secs(2);
/// Summaries that are missed until a leader is given up, in halves: three and a half.
const SILENCE_HALVES: u32 = 7;
/// How far takeovers may be ahead of those known.
const TAKEOVERS_AHEAD: u32 = 1_024;
/// Claims of others that are believed at once, and per second.
const BELIEVED: (u32, u32) = (16, 2);
/// Between two alarms.
const ALARM_EVERY: Duration = Duration::from_secs(10);

/// How fit a member is to lead; the first ones come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Alive, others have reached it by dialling, and it takes new work.
    Fit,
    /// Alive, but nobody has reached it yet, or it is draining.
    Reserve,
    /// Suspect.
    Doubtful,
}

/// What this core starts with.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// Whose terms they are.
    pub cluster: ClusterId,
    /// Since when the cluster can exist.
    pub born: UnixSeconds,
    /// How long a leader leads.
    pub term: Duration,
    /// Between two summaries.
    pub heartbeat: Duration,
    /// Whether this node may be the first of its cluster: it admits others itself.
    pub founder: bool,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A member is there.
    Member {
        /// Who.
        node: NodeId,
        /// How fit it is.
        class: Class,
    },
    /// A member is dead, has left, or is forgotten.
    Gone(NodeId),
    /// How many connections this node has.
    Links(usize),
    /// A neighbour has told what it knows.
    Synced,
    /// A summary of the leader was taken, or this node has written one.
    Summary {
        /// The line of succession.
        line: Vec<ShortId>,
        /// Whoever is to claim the next term.
        next: Option<ShortId>,
    },
    /// This process did nothing for a while: others may have gone on, and their word is about to be read.
    Slept,
    /// A summary came that this node has signed under the present claim, and not this process.
    Contested,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Sign this claim and hand it back by [`Election::claimed`].
    Claim(Lead),
    /// This is the greatest claim from now on: [`Election::kept`] is on disk before anything that follows.
    Believe,
    /// This node leads: gossip its claim.
    Publish(Arc<Signed>),
    /// Write a summary now.
    Summarise,
    /// Something that a person should look at.
    Alarm(String),
}

/// What a claim was worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is the greatest one, and new.
    Greater,
    /// It is the one that is believed already.
    Same,
    /// A greater one is known.
    Lesser,
    /// It cannot be, or too many come at once.
    Refused,
}

/// What is on disk: the greatest claim, and how far terms may have come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The claim, or the summary that stood for it.
    pub record: Arc<Signed>,
    /// From this term on, in millionths, terms are counted.
    pub from_micro: u64,
    /// When that was.
    pub from_unix: UnixSeconds,
}

impl Message for Kept {
    const BYTES_MAX: usize = 4 * 1024;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Whoever is alone after a restart goes on.
    Alone,
    /// No summary came.
    Silence,
    /// It is this node's turn to take over.
    Stand,
    /// This node's time is over.
    Term,
    /// Whoever was named has not claimed.
    Heir,
}

impl timer::Timer for Timer {
    fn name(self) -> &'static str {
        match self {
            Timer::Alone => "leader: alone",
            Timer::Silence => "leader: silence",
            Timer::Stand => "leader: takeover",
            Timer::Term => "leader: end of term",
            Timer::Heir => "leader: heir",
        }
    }
}

/// The greatest claim.
#[derive(Clone, Debug)]
pub struct Best {
    /// Which leading.
    pub lead: Lead,
    /// Whose.
    pub author: NodeId,
    /// As signed: the claim, or a summary that stood for it.
    pub record: Arc<Signed>,
}

#[derive(Clone, Copy, Debug)]
struct Vacancy {
    since: Instant,
    /// Whether the leader is gone, and not only silent.
    gone: bool,
}

/// Who leads.
#[derive(Debug)]
pub struct Election {
    config: Config,
    members: BTreeMap<NodeId, Class>,
    best: Option<Best>,
    anchor: Anchor,
    leading: bool,
    /// Those still to be named, the next one last, while this node hands over.
    heirs: Vec<NodeId>,
    named: Option<NodeId>,
    line: Vec<ShortId>,
    vacancy: Option<Vacancy>,
    started: Instant,
    /// Until then this node claims nothing.
    listen_until: Instant,
    synced: bool,
    summarised: bool,
    links: usize,
    believed: Meter,
    alarmed: Option<Instant>,
    timers: Timers<Timer>,
    outputs: VecDeque<Output>,
}

impl Election {
    /// Takes over what was on disk, its signature verified; a founding node without any claims the first term.
    pub fn new(config: Config, kept: Option<(Kept, Lead)>, now: Now) -> Self {
        let born = Anchor::new(0, config.born, now.at);
        let anchor = kept.as_ref().map_or(born, |(k, _)| Anchor::new(k.from_micro, k.from_unix, now.at));
        let best = kept.map(|(k, lead)| Best { lead, author: k.record.author, record: k.record });
        let mut timers = Timers::default();
        let mut outputs = VecDeque::new();
        if best.is_none() && config.founder {
            outputs.push_back(Output::Claim(Lead::FIRST));
        } else {
            timers.set(Timer::Silence, now.at + silence(config.heartbeat));
            timers.set(Timer::Alone, now.at + config.heartbeat);
        }
        Self {
            config,
            members: BTreeMap::new(),
            best,
            anchor,
            leading: false,
            heirs: Vec::new(),
            named: None,
            line: Vec::new(),
            vacancy: None,
            started: now.at,
            listen_until: now.at,
            synced: false,
            summarised: false,
            links: 0,
            believed: Meter::new(BELIEVED.0, BELIEVED.1, now.at),
            alarmed: None,
            timers,
            outputs,
        }
    }

    /// Something happened.
    pub fn handle_input(&mut self, input: Input, now: Instant) {
        match input {
            Input::Member { node, class } => {
                self.members.insert(node, class);
                let back = self.vacancy.is_some_and(|v| v.gone) && self.is_leader(&node) && node != self.config.me;
                if back {
                    self.occupied(now);
                }
            }
            Input::Gone(node) => self.gone(node, now),
            Input::Links(links) => self.links = links,
            Input::Synced => {
                if !std::mem::replace(&mut self.synced, true) {
                    if self.best.is_none() {
                        // From now on it would hear a leader.
                        self.timers.set(Timer::Silence, now + silence(self.config.heartbeat));
                    }
                    self.resume(now);
                }
            }
            Input::Summary { line, next } => {
                self.summarised = true;
                self.line = line;
                if self.leading {
                    return;
                }
                self.occupied(now);
                let me = ShortId::of(&self.config.me);
                if let (Some(best), true) = (&self.best, next == Some(me) && now >= self.listen_until) {
                    self.outputs.push_back(Output::Claim(best.lead.next_term()));
                }
            }
            Input::Slept => self.listen_until = now + LISTEN,
            Input::Contested => {
                if let Some(best) = self.best.as_ref().filter(|_| self.leading) {
                    self.outputs.push_back(Output::Claim(best.lead.takeover()));
                }
            }
        }
    }

    /// The time of [`Election::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, _)) = self.timers.next() {
            let Some(timer) = self.timers.pop(now) else { return };
            if now.saturating_duration_since(due) > LATE {
                self.listen_until = now + LISTEN;
                let again = if timer == Timer::Silence { silence(self.config.heartbeat) } else { LISTEN };
                self.timers.set(timer, now + again);
                continue;
            }
            match timer {
                Timer::Alone if self.links == 0 => self.resume(now),
                Timer::Alone => {}
                // It has missed nobody: a neighbour that tells what it knows starts the wait anew.
                Timer::Silence if self.best.is_none() && !self.synced => {}
                Timer::Silence => self.vacate(false, now),
                Timer::Stand => self.take_over(now),
                Timer::Term => self.end_of_term(now),
                Timer::Heir => self.name_heir(now),
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

    /// How a claim stands to the one that is believed; costs no more than a hash.
    pub fn compare(&self, author: &NodeId, lead: Lead) -> Heard {
        let Some(best) = &self.best else { return Heard::Greater };
        let rank = |node: &NodeId| (Ranks::of(&self.config.cluster, lead.term).rank(node), *node);
        match lead.cmp(&best.lead).then_with(|| rank(author).cmp(&rank(&best.author))) {
            std::cmp::Ordering::Greater => Heard::Greater,
            std::cmp::Ordering::Equal => Heard::Same,
            std::cmp::Ordering::Less => Heard::Lesser,
        }
    }

    /// Somebody claims to lead; `gone` where this node knows that its author is not there any more.
    pub fn hear(&mut self, record: Arc<Signed>, lead: Lead, gone: bool, now: Now) -> Heard {
        let author = record.author;
        let heard = self.compare(&author, lead);
        if heard != Heard::Greater {
            return heard;
        }
        if !self.is_plausible(lead, now) {
            if self.alarmed.is_none_or(|at| at + ALARM_EVERY <= now.at) {
                self.alarmed = Some(now.at);
                let known = self.best.as_ref().map_or_else(|| "none".to_owned(), |best| best.lead.to_string());
                self.outputs.push_back(Output::Alarm(format!(
                    "{author} claims to lead as {lead}, which no cluster of this age can have come to (known: {known}): \
                     its clock or this one is wrong, it runs with another --term, or it is not honest"
                )));
            }
            return Heard::Refused;
        }
        if !self.believed.take(1, now.at) {
            return Heard::Refused;
        }
        self.believe(Best { lead, author, record }, now);
        self.leading = false;
        self.timers.cancel(Timer::Term);
        self.occupied(now.at);
        if gone {
            self.vacate(true, now.at);
        } else if author == self.config.me {
            // A claim of an earlier life, that this one's disk does not have.
            self.resume(now.at);
        }
        Heard::Greater
    }

    /// Takes the signed form of an [`Output::Claim`]: this node leads, unless a greater claim came in between; says which.
    pub fn claimed(&mut self, record: Arc<Signed>, lead: Lead, now: Now) -> bool {
        if self.compare(&self.config.me, lead) != Heard::Greater {
            return false;
        }
        self.believe(Best { lead, author: self.config.me, record: Arc::clone(&record) }, now);
        self.leading = true;
        self.vacancy = None;
        [Timer::Alone, Timer::Silence, Timer::Stand].into_iter().for_each(|timer| _ = self.timers.cancel(timer));
        self.timers.set(Timer::Term, now.at + self.config.term);
        self.outputs.push_back(Output::Publish(record));
        self.outputs.push_back(Output::Summarise);
        true
    }

    /// The greatest claim.
    pub fn best(&self) -> Option<&Best> {
        self.best.as_ref()
    }

    /// Whether this node leads.
    pub fn is_leading(&self) -> bool {
        self.leading
    }

    /// Whoever is to claim the next term now, while this node leads.
    pub fn named(&self) -> Option<NodeId> {
        self.named
    }

    /// What is to be on disk.
    pub fn kept(&self) -> Option<Kept> {
        let best = self.best.as_ref()?;
        let record = Arc::clone(&best.record);
        Some(Kept { record, from_micro: self.anchor.micro, from_unix: self.anchor.unix })
    }

    /// Who takes over from this node, the first one first.
    pub fn succession(&self) -> Vec<NodeId> {
        let term = self.best.as_ref().map_or(Lead::FIRST, |best| best.lead).term;
        self.first(term, LINE_MAX, |node, _| *node != self.config.me)
    }

    /// Those who gather heartbeats for the leader, in no order: as many as the square root of all; none below `from` members.
    pub fn sub_leaders(&self, from: usize) -> Vec<NodeId> {
        let (Some(best), true) = (&self.best, self.members.len() >= from) else { return Vec::new() };
        let count = self.members.len().saturating_sub(1).isqrt() + 1;
        self.first(best.lead.term, count, |node, class| class == Class::Fit && *node != best.author)
    }

    /// The member that is named so.
    pub fn resolve(&self, short: ShortId) -> Option<NodeId> {
        self.members.range(short.range()).next().map(|(node, _)| *node)
    }

    fn is_leader(&self, node: &NodeId) -> bool {
        self.best.as_ref().is_some_and(|best| best.author == *node)
    }

    /// The first of a term's order.
    fn first(&self, term: u64, count: usize, which: impl Fn(&NodeId, Class) -> bool) -> Vec<NodeId> {
        let ranks = Ranks::of(&self.config.cluster, term);
        let members = self.members.iter().filter(|(node, class)| which(node, **class));
        let mut ordered: Vec<_> = members.map(|(n, class)| (*class, std::cmp::Reverse(ranks.rank(n)), *n)).collect();
        if count < ordered.len() {
            ordered.select_nth_unstable(count);
            ordered.truncate(count);
        }
        ordered.sort_unstable();
        ordered.into_iter().map(|(_, _, node)| node).collect()
    }

    fn is_plausible(&self, lead: Lead, now: Now) -> bool {
        let takeovers = self.best.as_ref().filter(|b| b.lead.term == lead.term).map_or(0, |b| b.lead.takeovers);
        self.anchor.allows(lead.term, self.config.term, now)
            && lead.takeovers <= takeovers.saturating_add(TAKEOVERS_AHEAD)
    }

    fn believe(&mut self, best: Best, now: Now) {
        self.anchor.believed(best.lead.term, self.config.term, now);
        self.best = Some(best);
        self.named = None;
        self.heirs.clear();
        self.timers.cancel(Timer::Heir);
        self.outputs.push_back(Output::Believe);
    }

    /// Somebody leads, and was heard.
    fn occupied(&mut self, now: Instant) {
        self.vacancy = None;
        self.timers.cancel(Timer::Stand);
        self.timers.cancel(Timer::Alone);
        self.timers.set(Timer::Silence, now + silence(self.config.heartbeat));
    }

    fn gone(&mut self, node: NodeId, now: Instant) {
        self.members.remove(&node);
        if self.leading {
            if self.named == Some(node) {
                self.name_heir(now);
            }
        } else if self.vacancy.is_none() && self.is_leader(&node) {
            self.vacate(true, now);
        } else {
            self.stand(now);
        }
    }

    /// This node led before it was started again, and nobody has claimed more: it goes on, with a greater claim.
    fn resume(&mut self, now: Instant) {
        if !self.leading && self.vacancy.is_none() && self.is_leader(&self.config.me) {
            self.vacate(true, now);
        }
    }

    fn vacate(&mut self, gone: bool, now: Instant) {
        if !self.leading {
            self.vacancy = Some(Vacancy { since: now, gone });
            self.stand(now);
        }
    }

    /// While nobody leads: when this node's turn is.
    fn stand(&mut self, now: Instant) {
        let Some(vacancy) = self.vacancy else { return };
        let me = self.config.me;
        let is_here = |node: &NodeId| *node == me || self.members.contains_key(node);
        let line = self.line.iter().filter_map(|short| {
            let node = if *short == ShortId::of(&me) { me } else { self.resolve(*short)? };
            (is_here(&node) && !self.is_leader(&node)).then_some(node)
        });
        let wait = match line.into_iter().position(|node| node == me) {
            _ if self.is_leader(&me) => LISTEN,
            Some(place) => STEP * u32::try_from(place).unwrap_or(u32::MAX),
            None => WITHOUT_LINE + STEP.saturating_mul(self.place_of_own()),
        };
        match vacancy.since + wait {
            at if at <= now => self.take_over(now),
            at => self.timers.set(Timer::Stand, at),
        }
    }

    /// How many in this node's table would lead rather than itself.
    fn place_of_own(&self) -> u32 {
        let me = self.config.me;
        let ranks = Ranks::of(&self.config.cluster, self.best.as_ref().map_or(Lead::FIRST, |best| best.lead).term);
        let key = |node: &NodeId, class: Class| (class, std::cmp::Reverse(ranks.rank(node)), *node);
        let own = key(&me, self.members.get(&me).copied().unwrap_or(Class::Reserve));
        let before = self.members.iter().filter(|(n, class)| !self.is_leader(n) && key(n, **class) < own);
        u32::try_from(before.count()).unwrap_or(u32::MAX)
    }

    fn take_over(&mut self, now: Instant) {
        if let Err(again) = self.may_claim(now) {
            self.timers.set(Timer::Stand, again);
            return;
        }
        let lead = self.best.as_ref().map_or(Lead::FIRST, |best| best.lead.takeover());
        self.outputs.push_back(Output::Claim(lead));
    }

    /// Whoever has just come knows nothing yet; an error says when to look again.
    fn may_claim(&self, now: Instant) -> Result<(), Instant> {
        let patience = self.started + silence(self.config.heartbeat);
        let heard = self.synced || (self.links == 0 && self.best.is_some());
        if now < self.listen_until {
            Err(self.listen_until)
        } else if self.summarised || (heard && (self.is_leader(&self.config.me) || now >= patience)) {
            Ok(())
        } else {
            Err(patience.max(now + STEP))
        }
    }

    fn end_of_term(&mut self, now: Instant) {
        let Some(best) = self.best.as_ref().filter(|_| self.leading) else { return };
        let next = best.lead.next_term().term;
        self.heirs = self.first(next, HEIRS_MAX, |_, class| class == Class::Fit);
        // Whoever comes after this node itself is never asked.
        if let Some(own) = self.heirs.iter().position(|node| *node == self.config.me) {
            self.heirs.truncate(own);
        }
        self.heirs.reverse();
        self.name_heir(now);
    }

    fn name_heir(&mut self, now: Instant) {
        let Some(best) = self.best.as_ref().filter(|_| self.leading) else { return };
        self.named = std::iter::from_fn(|| self.heirs.pop()).find(|node| self.members.contains_key(node));
        if self.named.is_some() {
            self.timers.set(Timer::Heir, now + HEIR_ANSWERS);
            self.outputs.push_back(Output::Summarise);
        } else {
            self.outputs.push_back(Output::Claim(best.lead.next_term()));
        }
    }
}

fn silence(heartbeat: Duration) -> Duration {
    heartbeat * SILENCE_HALVES / 2
}

#[cfg(test)]
mod tests;
