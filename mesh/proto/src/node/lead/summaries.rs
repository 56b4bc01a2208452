//! Summaries: written while this node leads, taken from whoever does, and stored where readers outside see them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Timer;
use crate::Now;
use crate::budget::day_of;
use crate::election::{self, LATE};
use crate::envelope::{Claim, Signed};
use crate::heartbeat::Report;
use crate::id::NodeId;
use crate::lead::{Reason, ShortId};
use crate::manifest::Health;
use crate::message::{Direct, Item, SentChain, Written};
use crate::node::{Node, Output};
use crate::summary::{StoredMember, StoredSummary, Summary, WriteOrder, bits};
use crate::view::MemberState;
use crate::wire;

/// How long a leader that slept listens before it goes on.
const LISTEN: Duration = Duration::from_secs(2);
/// How long gossip has to bring what a summary already knows of.
const GRACE: Duration = Duration::from_secs(1);

impl Node {
    pub(super) fn summary_due(&mut self, due: Instant, now: Now) {
        if now.at.saturating_duration_since(due) > LATE {
            self.lead.timers.set(Timer::Summary, now.at + LISTEN);
        } else {
            self.summarise(now);
        }
    }

    /// Writes a summary, if this node leads, and sets the time of the next one.
    pub(super) fn summarise(&mut self, now: Now) {
        self.summarise_with(None, now);
    }

    fn summarise_with(&mut self, write: Option<WriteOrder>, now: Now) {
        if !self.lead.is_leading() {
            return;
        }
        self.lead.timers.set(Timer::Summary, now.at + self.timing.heartbeat);
        let checkpoint = self.lead.writer.is_checkpoint_due();
        let rest = self.content(checkpoint, write, now);
        let summary = self.lead.writer.write(rest);
        let Ok(record) = Signed::new(&Claim::Summary(Box::new(summary.clone())), &self.key, &self.cluster) else {
            return;
        };
        let record = Arc::new(record);
        self.publish_with_chain(&record, now);
        if checkpoint {
            self.store_summary(&record);
        }
        let input = election::Input::Summary { line: summary.line.clone(), next: summary.next };
        self.lead.election.handle_input(input, now.at);
        self.lead.reader.take(summary, record, now.at);
        self.changed = true;
    }

    fn content(&mut self, checkpoint: bool, write: Option<WriteOrder>, now: Now) -> Summary {
        let since = now.at.checked_sub(self.timing.heartbeat * 2);
        self.lead.beats.beat(self.me, self.lead.load, now.at);
        let load: Report = self.lead.beats.sum(since);
        let alive = |node: &NodeId| self.membership.get(node).is_some_and(|row| row.state == MemberState::Alive);
        let count = self.table.here().filter(|node| alive(node)).count();
        Summary {
            alive: u32::try_from(count).unwrap_or(u32::MAX),
            members: self.table.here_count(),
            root: self.table.root(),
            line: self.lead.election.succession().iter().map(ShortId::of).collect(),
            next: self.lead.election.named().as_ref().map(ShortId::of),
            write,
            day: u32::try_from(day_of(now.unix)).unwrap_or(u32::MAX),
            writes_today: self.lead.budget.today(now.unix),
            load: load.into(),
            revocation: self.revocations.mark(),
            bits: if checkpoint { bits(self.table.here().map(alive)) } else { Vec::new() },
            ..Summary::default()
        }
    }

    /// Puts a summary into Kademlia, with all that a reader without any member needs to believe it.
    fn store_summary(&mut self, record: &Arc<Signed>) {
        let chains = vec![SentChain(Arc::clone(&self.own.chain))];
        let push = Direct::Push(vec![Item { chains, records: vec![Arc::clone(record)], gone_s: 0 }]);
        if let Ok(bytes) = wire::encode(&push) {
            self.outputs.push_back(Output::StoreSummary(bytes));
        }
    }

    /// A leader that goes says once more how things are, and who comes after it.
    pub(in crate::node) fn last_summary(&mut self, now: Now) {
        self.summarise(now);
    }

    /// A summary of the one that leads, verified.
    pub(super) fn take_summary(&mut self, summary: Summary, record: &Arc<Signed>, now: Now) {
        let (line, next, order) = (summary.line.clone(), summary.next, summary.write);
        self.lead.budget.observe(summary.day.into(), summary.writes_today, now.unix);
        if !self.lead.reader.take(summary, Arc::clone(record), now.at) {
            return;
        }
        self.changed = true;
        self.lead.election.handle_input(election::Input::Summary { line, next }, now.at);
        if self.lead.reader.is_in_step() {
            self.lead.out_of_step = 0;
            self.lead.timers.cancel(Timer::Repair);
        } else {
            let wait = GRACE + self.rng.up_to(GRACE);
            self.lead.timers.set_by(Timer::Repair, now.at + wait);
        }
        if let Some(order) = order.filter(|order| order.by == ShortId::of(&self.me)) {
            self.write(order.reason, now);
        }
    }

    /// This node's table still differs from the leader's: another neighbour has what it lacks, or lacks what it has. The
    /// leader is asked only when that was of no use, or everybody would come to it at once.
    pub(super) fn repair_by_summary(&mut self, now: Now) {
        if self.lead.reader.compare(now.at) {
            self.lead.out_of_step = 0;
            return;
        }
        self.lead.out_of_step = self.lead.out_of_step.saturating_add(1);
        let leader = self.lead.election.best().map(|best| best.author);
        let spared = |peer: &NodeId| self.lead.out_of_step == 1 && Some(*peer) == leader;
        let links = self.membership.links();
        let peers: Vec<_> = links.iter().filter(|peer| links.len() == 1 || !spared(peer)).copied().collect();
        if let Some(peer) = self.rng.pick(&peers) {
            self.send(peer, &Direct::Digest(self.table.digest()));
        }
    }

    /// What has happened that readers outside shall see soon.
    pub(super) fn reasons_to_write(&mut self, node: NodeId, state: Option<MemberState>, now: Now) {
        if !self.lead.is_leading() {
            return;
        }
        if matches!(state, Some(MemberState::Dead | MemberState::Left)) && self.lead.ordered == Some(node) {
            self.lead.ordered = None;
            self.lead.budget.writer_gone(now.unix);
            self.budget_timer(now);
        }
        if state == Some(MemberState::Dead) {
            self.want_write(Reason::Death, now);
        }
    }

    /// The leader has something to write.
    pub(in crate::node) fn want_write(&mut self, reason: Reason, now: Now) {
        if self.lead.is_leading() {
            self.lead.budget.want(reason, now.unix);
            self.budget_timer(now);
        }
    }

    /// Whether to write the stored summary now, and who does.
    pub(super) fn consider_writing(&mut self, now: Now) {
        if !self.lead.is_leading() {
            return;
        }
        let Some(writer) = self.sink() else {
            // Sinks come with a new manifest, which is looked for now and then.
            self.lead.timers.set(Timer::Budget, now.at + self.timing.heartbeat * 3);
            return;
        };
        if let Some(reason) = self.lead.budget.poll(now.unix) {
            self.lead.ordered = Some(writer);
            // Everybody knows that it counts before it is done.
            self.summarise_with(Some(WriteOrder { by: ShortId::of(&writer), reason }), now);
            if writer == self.me {
                self.write(reason, now);
            }
        }
        self.budget_timer(now);
    }

    fn budget_timer(&mut self, now: Now) {
        let wait = self.lead.budget.wake(now.unix).0.saturating_sub(now.unix.0).max(1);
        self.lead.timers.set(Timer::Budget, now.at + Duration::from_secs(wait));
    }

    /// Whoever writes: this node if it can, else the first one that can by the term's ranks.
    fn sink(&self) -> Option<NodeId> {
        if self.own.manifest.sink {
            return Some(self.me);
        }
        let ranks = self.cluster_ranks(self.lead.election.best()?.lead);
        let sinks = self.membership.iter().filter(|(_, row)| row.state == MemberState::Alive && row.manifest.sink);
        sinks.map(|(node, _)| *node).max_by_key(|node| ranks.rank(node))
    }

    /// Writes the stored summary, at the leader's word.
    fn write(&mut self, reason: Reason, now: Now) {
        let members = self.roster.members();
        let leader = self.lead.election.best().and_then(|best| members.get(&best.author));
        let (Some(last), Some(leader), true) = (self.lead.reader.last(), leader, self.own.manifest.sink) else {
            return;
        };
        let mut stored: Vec<_> = members
            .values()
            .map(|member| StoredMember {
                id: member.name.clone(),
                site: member.manifest.site.clone(),
                status: member.state,
                services: match member.state {
                    MemberState::Alive | MemberState::Suspect => {
                        let healthy = member.manifest.services.iter().filter(|s| s.health != Health::Unhealthy);
                        healthy.map(|s| s.name.clone()).collect()
                    }
                    MemberState::Dead | MemberState::Left => Vec::new(),
                },
            })
            .collect();
        stored.sort_by(|a, b| a.id.cmp(&b.id));
        let summary = StoredSummary {
            cluster_id: self.cluster,
            term: last.summary.lead.term,
            takeovers: last.summary.lead.takeovers,
            seq: last.summary.seq,
            leader: leader.name.clone(),
            written_at_unix: now.unix.0,
            writes_today: last.summary.writes_today,
            reason: reason.as_str(),
            members: stored,
        };
        self.outputs.push_back(Output::Write(Box::new(summary)));
    }

    /// How this node's own write ended: the leader counts.
    pub(in crate::node) fn wrote(&mut self, written: Written, now: Now) {
        if self.lead.is_leading() {
            self.written(self.me, written, now);
        } else if let Some(leader) = self.lead.election.best().map(|best| best.author).filter(|l| self.is_here(l)) {
            self.send(leader, &Direct::Written(written));
        }
    }

    /// How a write that this node ordered has ended; from nobody but whom it told.
    pub(in crate::node) fn written(&mut self, from: NodeId, written: Written, now: Now) {
        if self.lead.is_leading() && self.lead.ordered == Some(from) {
            self.lead.budget.written(written.stored, written.writes_today, now.unix);
            self.budget_timer(now);
        }
    }
}
