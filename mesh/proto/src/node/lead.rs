//! The leader's work: carries claims, summaries and heartbeats between the cores that decide about them.

mod beats;
mod summaries;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inbox::{Judged, Via};
use super::{Config, Event, Node, Output, Timing};
use crate::Now;
use crate::budget::Budget;
use crate::credential::Root;
use crate::election::{self, Class, Election, Heard, Kept};
use crate::envelope::{Claim, Signed};
use crate::heartbeat::{Beats, Load};
use crate::id::{NodeId, Role};
use crate::lead::{LINE_MAX, Lead, Ranks, Reason};
use crate::message::{Direct, Item, pushes};
use crate::parked::Needs;
use crate::rng::Rng;
use crate::summary::{Reader, Summary, Writer};
use crate::timer::{self, Timers};
use crate::view::{Leadership, MemberState};
use crate::wire;

/// A neighbour is not told the same claim again within this time.
const TELL_AGAIN: Duration = Duration::from_secs(2);
/// How long a gateway waits for a summary before it looks in Kademlia.
const FIND_SUMMARY_AFTER: Duration = Duration::from_secs(2);
/// How often it looks again.
const FIND_SUMMARY_EVERY: Duration = Duration::from_secs(30);
/// How long after somebody can take over the summary names them, while it names fewer than it may.
const NAMED_WITHIN: Duration = Duration::from_millis(200);
/// How long a new leader waits before it thinks of writing.
const BUDGET_FIRST: Duration = Duration::from_secs(1);
/// The first word of it comes within so long, not from all that start together at once.
const DIALABLE_SOON: Duration = Duration::from_secs(2);
/// How often the manifest may say something else of whether this node can be dialled.
const DIALABLE_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The next summary of this node, which leads.
    Summary,
    /// The next heartbeat of this node, which does not.
    Beat,
    /// This node's table differs from the leader's.
    Repair,
    /// The stored summary may be due.
    Budget,
    /// A gateway has no summary.
    FindSummary,
    /// Say in the manifest whether this node can be dialled.
    Dialable,
}

impl timer::Timer for Timer {
    fn name(self) -> &'static str {
        match self {
            Timer::Summary => "summary",
            Timer::Beat => "heartbeat",
            Timer::Repair => "repair by summary",
            Timer::Budget => "budget of writes",
            Timer::FindSummary => "find summary",
            Timer::Dialable => "dialable",
        }
    }
}

/// All that this node has to do with leaders.
pub(super) struct Leading {
    election: Election,
    writer: Writer,
    pub(super) reader: Reader,
    beats: Beats,
    /// Whom this node tells.
    beats_to: Option<NodeId>,
    budget: Budget,
    load: Load,
    /// Whom this node, which leads, told last to write.
    ordered: Option<NodeId>,
    told: BTreeMap<NodeId, Instant>,
    /// Whose two summaries with one number a person was told of.
    contradicted: Option<(NodeId, Lead)>,
    /// Summaries in a row from which this node's table differed.
    out_of_step: u32,
    dialable: bool,
    timers: Timers<Timer>,
}

impl Leading {
    /// Takes over what was on disk. An error is for the log: then this node begins without it.
    pub(super) fn new(
        config: &Config,
        me: NodeId,
        founder: bool,
        rng: &mut Rng,
        now: Now,
    ) -> (Self, Option<&'static str>) {
        let Config { root, manifest, timing, claim, .. } = config;
        let (kept, error) = match read_kept(claim, root) {
            _ if claim.is_empty() => (None, None),
            Some(kept) => (Some(kept), None),
            None => (None, Some("the claim of a leader that was kept on disk cannot be read")),
        };
        let election = election::Config {
            me,
            cluster: root.cluster(),
            born: root.not_before(),
            term: timing.term,
            heartbeat: timing.heartbeat,
            founder,
        };
        let mut timers = Timers::default();
        timers.set(Timer::Beat, now.at + rng.up_to(timing.heartbeat));
        if manifest.roles.contains(Role::Gateway) {
            timers.set(Timer::FindSummary, now.at + FIND_SUMMARY_AFTER);
        }
        let leading = Self {
            election: Election::new(election, kept, now),
            writer: Writer::default(),
            reader: Reader::default(),
            beats: Beats::default(),
            beats_to: None,
            budget: Budget::default(),
            load: Load::default(),
            ordered: None,
            told: BTreeMap::new(),
            contradicted: None,
            out_of_step: 0,
            dialable: manifest.dialable,
            timers,
        };
        (leading, error)
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timers.next().into_iter().chain(self.election.poll_timeout()).min_by_key(|(at, _)| *at)
    }

    pub(super) fn is_leading(&self) -> bool {
        self.election.is_leading()
    }

    /// Whether heartbeats go between this node and the peer, either way: their connection is kept.
    pub(super) fn beats_with(&self, peer: &NodeId) -> bool {
        self.beats_to == Some(*peer) || self.beats.has(peer)
    }

    /// Whether the leader was heard lately, and what it said is what this node knows.
    pub(super) fn is_in_step(&self, timing: &Timing, now: Now) -> bool {
        let fresh = self.reader.last().is_some_and(|last| last.at + timing.heartbeat * 2 > now.at);
        fresh && self.reader.is_in_step() && !self.is_leading()
    }

    /// Called before anything else is done: whoever wakes late makes nothing of what it missed at once.
    pub(super) fn wake(&mut self, due: Option<Instant>, now: Now) {
        if due.is_some_and(|due| now.at.saturating_duration_since(due) > election::LATE) {
            self.election.handle_input(election::Input::Slept, now.at);
        }
    }

    pub(super) fn root_is(&mut self, root: u64, now: Now) {
        self.reader.root_is(root, now.at);
    }

    pub(super) fn view(&self) -> Leadership {
        let Some(best) = self.election.best() else { return Leadership::default() };
        let last = self.reader.last_of(best.lead, &best.author);
        Leadership {
            leader: Some(best.author),
            term: best.lead.term,
            takeovers: best.lead.takeovers,
            seq: last.map_or(0, |last| last.summary.seq),
            summary_at: last.map(|last| last.at),
            alive: last.map_or(0, |last| last.summary.alive),
            writes_today: last.map_or(0, |last| last.summary.writes_today),
        }
    }
}

/// What was on disk, if this node can still believe it.
fn read_kept(bytes: &[u8], root: &Root) -> Option<(Kept, Lead)> {
    let kept: Kept = wire::decode(bytes).ok()?;
    kept.record.verify(&root.cluster()).ok()?;
    let lead = match kept.record.read().ok()? {
        Claim::Lead(lead) => lead,
        Claim::Summary(summary) => summary.lead,
        _ => return None,
    };
    Some((kept, lead))
}

impl Node {
    pub(super) fn lead_timeout(&mut self, now: Now) {
        self.lead.election.handle_timeout(now.at);
        while let Some((due, _)) = self.lead.timers.next() {
            let Some(timer) = self.lead.timers.pop(now.at) else { return };
            match timer {
                Timer::Summary => self.summary_due(due, now),
                Timer::Beat => self.beat(now),
                Timer::Repair => self.repair_by_summary(now),
                Timer::Budget => self.consider_writing(now),
                Timer::FindSummary => self.find_summary(now),
                Timer::Dialable => self.say_dialable(now),
            }
        }
    }

    /// Carries out what the election asks for.
    pub(super) fn settle_lead(&mut self, now: Now) {
        while let Some(output) = self.lead.election.poll_output() {
            match output {
                election::Output::Claim(lead) => self.claim(lead, now),
                election::Output::Believe => self.believed(),
                election::Output::Publish(record) => self.publish_with_chain(&record, now),
                election::Output::Summarise => self.summarise(now),
                election::Output::Alarm(reason) => self.outputs.push_back(Output::Event(Event::Alarm(reason))),
            }
        }
    }

    /// A member's row has changed: whether it can lead, and what the next summary tells.
    pub(super) fn lead_member(&mut self, node: NodeId, state: Option<MemberState>, now: Now) {
        let Some(row) = self.membership.get(&node).filter(|row| row.is_here()) else {
            if let Some(row) = self.membership.get(&node) {
                self.lead.writer.changed(node, row.manifest.version, row.state);
            }
            self.lead.told.remove(&node);
            self.lead.election.handle_input(election::Input::Gone(node), now.at);
            self.reasons_to_write(node, state, now);
            return;
        };
        self.lead.writer.changed(node, row.manifest.version, row.state);
        // What nobody is told of cannot lead either.
        if node != self.me || self.own.gossip {
            let class = match row.state {
                MemberState::Suspect if node != self.me => Class::Doubtful,
                _ if row.manifest.dialable && !row.manifest.draining => Class::Fit,
                _ => Class::Reserve,
            };
            self.lead.election.handle_input(election::Input::Member { node, class }, now.at);
            self.name_heirs_soon(now);
        }
        self.reasons_to_write(node, state, now);
    }

    /// In a young cluster, whoever may take over is not named only with the next summary: the leader may die before.
    fn name_heirs_soon(&mut self, now: Now) {
        let named = self.lead.reader.last().map_or(0, |last| last.summary.line.len());
        if named < LINE_MAX && self.lead.is_leading() && self.lead.election.succession().len() > named {
            self.lead.timers.set_by(Timer::Summary, now.at + NAMED_WITHIN);
        }
    }

    pub(super) fn lead_links(&mut self, now: Now) {
        let links = self.membership.links();
        self.lead.told.retain(|peer, _| links.contains(peer));
        self.lead.election.handle_input(election::Input::Links(links.len()), now.at);
    }

    pub(super) fn lead_synced(&mut self, now: Now) {
        self.lead.election.handle_input(election::Input::Synced, now.at);
    }

    fn claim(&mut self, lead: Lead, now: Now) {
        if !self.own.gossip || self.own.is_over() {
            return;
        }
        let Ok(record) = Signed::new(&Claim::Lead(lead), &self.key, &self.cluster) else { return };
        if !self.lead.election.claimed(Arc::new(record), lead, now) {
            return;
        }
        self.lead.writer.start(lead, self.cluster_ranks(lead).first_seq(&self.me));
        self.lead.timers.set(Timer::Budget, now.at + BUDGET_FIRST);
        if lead.takeovers > 0 {
            self.lead.budget.want(Reason::Leader, now.unix);
        }
    }

    fn believed(&mut self) {
        let (Some(best), Some(kept)) = (self.lead.election.best(), self.lead.election.kept()) else { return };
        let (leader, Lead { term, takeovers }) = (best.author, best.lead);
        if let Ok(bytes) = wire::encode(&kept) {
            self.outputs.push_back(Output::PersistClaim(bytes));
        }
        self.outputs.push_back(Output::Event(Event::Leader { leader, term, takeovers }));
        self.lead.told.clear();
        self.lead.beats.clear();
        self.changed = true;
        if !self.lead.is_leading() {
            self.lead.timers.cancel(Timer::Summary);
            self.lead.timers.cancel(Timer::Budget);
            self.lead.budget.stop();
        }
    }

    /// Judges a claim or a summary, and acts by it if it is true.
    pub(super) fn judge_lead(&mut self, record: &Arc<Signed>, claim: Claim, via: Via, now: Now) -> Judged {
        let (lead, summary) = match claim {
            Claim::Lead(lead) => (lead, None),
            Claim::Summary(summary) => (summary.lead, Some(summary)),
            _ => return Judged::Nothing,
        };
        let author = record.author;
        // What costs nothing to know comes before the signature.
        let heard = self.lead.election.compare(&author, lead);
        match (heard, &summary) {
            (Heard::Lesser, _) => {
                self.tell_best(via.from(), now);
                return Judged::Nothing;
            }
            (Heard::Same, None) => return Judged::Nothing,
            (Heard::Same, Some(summary)) if !self.lead.reader.is_new(summary) => {
                return self.same_number(record, summary);
            }
            _ => {}
        }
        if let Err(error) = record.verify(&self.cluster) {
            return Judged::False(error.to_string());
        }
        if author != self.me && self.credentials.of_node(&author, now.unix).is_none() {
            return Judged::Needs(Needs::Author(author));
        }
        if summary.as_ref().is_some_and(|s| !is_own_number(&self.cluster_ranks(lead), s, &author)) {
            return Judged::False(format!("summary of {author} bears a number that is not its own"));
        }
        if heard == Heard::Greater {
            let gone = self.membership.get(&author).is_some_and(|row| !row.is_here());
            if self.lead.election.hear(Arc::clone(record), lead, gone, now) != Heard::Greater {
                return Judged::Nothing;
            }
        }
        match summary {
            // An earlier life, or a copy of this node's data directory, has said it.
            Some(_) if author == self.me && heard == Heard::Same => {
                self.lead.election.handle_input(election::Input::Contested, now.at);
                Judged::Nothing
            }
            _ if author == self.me => Judged::Nothing,
            Some(summary) => {
                let mark = summary.revocation;
                self.take_summary(*summary, record, now);
                self.compare_revoked(mark, [via.from(), author], now);
                Judged::News
            }
            None => Judged::News,
        }
    }

    /// One author has signed two summaries with one number: nobody believes the second one, and a person is told.
    fn same_number(&mut self, record: &Arc<Signed>, summary: &Summary) -> Judged {
        let differs = self.lead.reader.last().is_some_and(|last| last.record != *record);
        if !differs || !self.lead.reader.is_number_taken(summary) || record.verify(&self.cluster).is_err() {
            return Judged::Nothing;
        }
        let (author, lead) = (record.author, summary.lead);
        if self.lead.contradicted.replace((author, lead)) != Some((author, lead)) {
            let alarm = format!("{author}, which leads as {lead}, has signed two summaries with one number");
            self.outputs.push_back(Output::Event(Event::Alarm(alarm)));
        }
        Judged::Nothing
    }

    fn cluster_ranks(&self, lead: Lead) -> Ranks {
        Ranks::of(&self.cluster, lead.term)
    }

    /// Tells a neighbour the greatest claim, by the last summary where there is one; not again within [`TELL_AGAIN`].
    pub(super) fn tell_best(&mut self, peer: NodeId, now: Now) {
        let Some(best) = self.lead.election.best() else { return };
        let again = self.lead.told.get(&peer).is_some_and(|at| *at + TELL_AGAIN > now.at);
        if again || peer == self.me || !self.membership.links().contains(&peer) {
            return;
        }
        let last = self.lead.reader.last_of(best.lead, &best.author);
        let record = Arc::clone(last.map_or(&best.record, |last| &last.record));
        self.lead.told.insert(peer, now.at);
        for push in pushes([Item { records: vec![record], ..Item::default() }]) {
            self.send(peer, &push);
        }
    }

    fn find_summary(&mut self, now: Now) {
        if self.lead.reader.last().is_none() && !self.lead.is_leading() {
            self.outputs.push_back(Output::FindSummary);
            self.lead.timers.set(Timer::FindSummary, now.at + FIND_SUMMARY_EVERY);
        }
    }

    /// What Kademlia had: as any other message, but nobody to ask or to answer.
    pub(super) fn stored_summary(&mut self, bytes: &[u8], now: Now) {
        let Ok(Direct::Push(items)) = wire::decode::<Direct>(bytes) else {
            return self.refused(self.me, "the summary that Kademlia had cannot be read".to_owned(), now);
        };
        let Some(Item { chains, records, .. }) = items.into_iter().next() else { return };
        for chain in chains {
            if let Err(error) = self.learn_chain(chain.0, now) {
                return self.refused(self.me, format!("the summary that Kademlia had: {error}"), now);
            }
        }
        for record in records {
            let Ok(claim @ Claim::Summary(_)) = record.read() else { continue };
            if let Judged::False(reason) = self.judge_lead(&record, claim, Via::Direct { from: self.me }, now) {
                self.refused(self.me, format!("the summary that Kademlia had: {reason}"), now);
            }
        }
    }

    /// Whether others can dial this node; what the manifest says of it changes once in [`DIALABLE_EVERY`].
    pub(super) fn dialable(&mut self, dialable: bool, now: Now) {
        self.lead.dialable = dialable;
        if self.lead.timers.due(Timer::Dialable).is_none() {
            let soon = self.rng.around(DIALABLE_SOON);
            self.lead.timers.set(Timer::Dialable, now.at + soon);
        }
    }

    fn say_dialable(&mut self, now: Now) {
        let dialable = self.lead.dialable;
        if self.arrivals.go_on(now.at) {
            let later = self.rng.around(DIALABLE_SOON);
            self.lead.timers.set(Timer::Dialable, now.at + later);
            return;
        }
        if self.own.manifest.dialable != dialable {
            self.change(now, |m| m.dialable = dialable);
            self.lead.timers.set(Timer::Dialable, now.at + DIALABLE_EVERY);
        }
    }
}

/// Whether an author gave its summary a number of its own.
fn is_own_number(ranks: &Ranks, summary: &Summary, author: &NodeId) -> bool {
    let first = ranks.first_seq(author);
    summary.seq > first && summary.seq - first < 1 << crate::lead::SEQ_BITS
}
