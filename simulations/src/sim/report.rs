//! What a run showed: as JSON for tools, as text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::invariants::Violation;
use super::traffic::{Class, Count, FRAME_BYTES, GOSSIP_BYTES, Meter, Traffic};
use super::world::{News, World};

/// Everything, in seconds and bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What it was run on.
    pub scenario: String,
    /// From which everything follows.
    pub seed: u64,
    /// Hosts at the start.
    pub nodes: usize,
    /// Of them, gateways.
    pub gateways: usize,
    /// Hosts that run at the end.
    pub nodes_at_end: usize,
    /// Virtual time.
    pub virtual_s: f64,
    /// The same seed gives the same number.
    pub trace: String,
    /// How many events were handled.
    pub events: u64,
    /// What did not hold.
    pub violations: Vec<Violation>,
    /// From the start until all knew each other.
    pub formed_s: Option<f64>,
    /// After the heal: until all agreed on the members, for good.
    pub members_agree_s: Option<f64>,
    /// After the heal: until all had every manifest, for good.
    pub manifests_agree_s: Option<f64>,
    /// After the heal: until all agreed on a leader.
    pub leader_agrees_s: Option<f64>,
    /// How long news took to all that were to hear of it.
    pub news: Vec<NewsLine>,
    /// Who leads.
    pub lead: LeadLine,
    /// While nothing happened.
    pub steady: Option<Cost>,
    /// Over the whole run.
    pub total: Cost,
    /// Writes that the sink's store took.
    pub sink_writes: u32,
    /// Messages that nodes refused.
    pub refused: u64,
    /// What nodes alarmed.
    pub alarms: Vec<String>,
}

/// One kind of news.
#[derive(Clone, Debug, Serialize)]
pub struct NewsLine {
    /// Which.
    pub news: News,
    /// How often it happened.
    pub times: usize,
    /// How many readers were to hear of it.
    pub readers: usize,
    /// How many of them did while they ran.
    pub heard: usize,
    /// Of all readers.
    pub p50_s: f64,
    /// Of all readers.
    pub p99_s: f64,
    /// Until the last one knew.
    pub max_s: f64,
}

/// Of the lead.
#[derive(Clone, Debug, Serialize)]
pub struct LeadLine {
    /// Changes of leader that were agreed on.
    pub changes: usize,
    /// The last term.
    pub term: u64,
    /// How often not all followed one leader that was up.
    pub gaps: usize,
    /// The longest of them, in seconds.
    pub gap_max_s: f64,
    /// All of them together, in seconds.
    pub gap_total_s: f64,
    /// For how long at most two believed to lead, in seconds.
    pub two_leaders_max_s: f64,
}

/// Messages and bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Measured over so many seconds.
    pub seconds: f64,
    /// Sent by a node in a second, as the nodes' own bytes.
    pub bytes_s_node: f64,
    /// The same on the wire, by the estimate that the report states.
    pub wire_bytes_s_node: f64,
    /// Sent by a node in a second.
    pub messages_s_node: f64,
    /// The busiest sender's bytes in a second on the wire.
    pub wire_bytes_s_busiest: f64,
    /// The leader's, sent: wire bytes and messages in a second.
    pub leader_out: Option<[f64; 2]>,
    /// The leader's, received: wire bytes and messages in a second.
    pub leader_in: Option<[f64; 2]>,
    /// Copies of each gossip message that reached a node, the first one included.
    pub gossip_copies: f64,
    /// Wire bytes of a node in a second, by what they were about.
    pub classes: BTreeMap<Class, f64>,
}

/// The value below which so many of a hundred lie.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let at = (sorted.len() as f64 * percent / 100.0).ceil() as usize;
    sorted.get(at.max(1) - 1).copied().unwrap_or_default()
}

impl Report {
    /// Of a run that is over.
    pub fn of(world: &World, scenario: &str, seed: u64) -> Self {
        let end = world.now;
        let ending = world.watched.ending;
        let seconds = |time: Option<std::time::Duration>| time.map(|t| t.as_secs_f64());
        let (gaps, gap_max_s, gap_total_s) = world.watched.gaps(end);
        let leader = world.leads.most();
        let running = world.beliefs.up().count();
        let none = Traffic { hosts: vec![Meter::default(); world.hosts.len()], ..Traffic::default() };
        let steady =
            world.watched.steady.as_ref().filter(|(from, _, to, _)| to > from).map(|(from, before, to, after)| {
                let leader = world.watched.steady_leader;
                Cost::between(before, after, (*to - *from).as_secs_f64(), running, leader)
            });
        let term = world.beliefs.up().map(|h| world.leads.of(h).term).max().unwrap_or_default();
        Self {
            scenario: scenario.to_owned(),
            seed,
            nodes: world.scenario.nodes,
            gateways: world.scenario.gateway_count(),
            nodes_at_end: running,
            virtual_s: end.as_secs_f64(),
            trace: format!("{:016x}", world.trace),
            events: world.events,
            violations: world.checker.violations.clone(),
            formed_s: seconds(world.watched.formed),
            members_agree_s: seconds(ending.and_then(|e| e.members)),
            manifests_agree_s: seconds(ending.and_then(|e| e.manifests)),
            leader_agrees_s: seconds(ending.and_then(|e| e.leader)),
            news: news(world),
            lead: LeadLine {
                changes: changes(world),
                term,
                gaps,
                gap_max_s,
                gap_total_s,
                two_leaders_max_s: world.watched.two_leaders.as_secs_f64(),
            },
            steady,
            total: Cost::between(&none, &world.traffic, end.as_secs_f64(), world.hosts.len(), leader),
            sink_writes: world.watched.writes,
            refused: world.watched.refused,
            alarms: world.watched.alarms.clone(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut t = String::new();
        let ended = if self.nodes_at_end == self.nodes {
            String::new()
        } else {
            format!(" ({} at the end)", self.nodes_at_end)
        };
        _ = writeln!(
            t,
            "{}: seed {}, {} nodes{ended}, {} gateways, {:.0} s of virtual time, {} events, trace {}",
            self.scenario, self.seed, self.nodes, self.gateways, self.virtual_s, self.events, self.trace
        );
        let s = |value: Option<f64>| value.map_or("not within the run".to_owned(), |v| format!("{v:.3} s"));
        _ = writeln!(t, "  all know each other            {}", s(self.formed_s));
        _ = writeln!(t, "  after the heal, members agree  {}", s(self.members_agree_s));
        _ = writeln!(t, "                manifests agree  {}", s(self.manifests_agree_s));
        _ = writeln!(t, "                  leader agrees  {}", s(self.leader_agrees_s));
        for line in &self.news {
            _ = writeln!(
                t,
                "  news {:<12} {:>3} times, {} of {} readers: p50 {:.3}, p99 {:.3}, max {:.3} s",
                format!("{:?}", line.news).to_lowercase(),
                line.times,
                line.heard,
                line.readers,
                line.p50_s,
                line.p99_s,
                line.max_s
            );
        }
        let l = &self.lead;
        _ = writeln!(
            t,
            "  lead: {} changes, term {}, {} gaps (longest {:.3} s, all {:.3} s), two leaders for {:.3} s at most",
            l.changes, l.term, l.gaps, l.gap_max_s, l.gap_total_s, l.two_leaders_max_s
        );
        for (name, cost) in [("steady", self.steady.as_ref()), ("total", Some(&self.total))] {
            let Some(c) = cost else { continue };
            _ = writeln!(
                t,
                "  {name:<6} over {:.0} s: {:.0} bytes/s a node, {:.0} on the wire, {:.2} messages/s, busiest {:.0}, {:.2} copies",
                c.seconds,
                c.bytes_s_node,
                c.wire_bytes_s_node,
                c.messages_s_node,
                c.wire_bytes_s_busiest,
                c.gossip_copies
            );
            if let (Some(o), Some(i)) = (c.leader_out, c.leader_in) {
                _ = writeln!(
                    t,
                    "         leader: out {:.0} bytes/s in {:.2} messages, in {:.0} in {:.2}",
                    o[0], o[1], i[0], i[1]
                );
            }
            let classes: Vec<_> = c.classes.iter().map(|(k, v)| format!("{k:?} {v:.0}").to_lowercase()).collect();
            _ = writeln!(t, "         {}", classes.join(", "));
        }
        _ = writeln!(
            t,
            "  on the wire: {FRAME_BYTES} bytes a message, {GOSSIP_BYTES} more of gossip; sink writes {}, refused {}",
            self.sink_writes, self.refused
        );
        self.alarms.iter().for_each(|alarm| _ = writeln!(t, "  alarm at {alarm}"));
        if self.violations.is_empty() {
            t.push_str("  every invariant holds\n");
        }
        for v in &self.violations {
            _ = writeln!(t, "  VIOLATED at {:.3} s: {}: {}", v.at_s, v.invariant, v.text);
        }
        t
    }
}

impl Cost {
    fn between(before: &Traffic, after: &Traffic, seconds: f64, nodes: usize, leader: Option<u32>) -> Self {
        let seconds = seconds.max(1e-9);
        let rate = |n: u64| n as f64 / seconds;
        let each = |of: fn(&Meter) -> Count| {
            let start = |at: usize| before.hosts.get(at).map(of).unwrap_or_default();
            after.hosts.iter().enumerate().map(|(at, meter)| of(meter) - start(at)).collect::<Vec<_>>()
        };
        let (sent, got) = (each(|m| m.sent), each(|m| m.got));
        let sum = sent.iter().fold(Count::default(), |mut sum, c| {
            sum.messages += c.messages;
            sum.bytes += c.bytes;
            sum.wire_bytes += c.wire_bytes;
            sum
        });
        let node = |n: u64| rate(n) / nodes.max(1) as f64;
        let of_leader = |all: &[Count]| {
            let count = all.get(leader? as usize)?;
            Some([rate(count.wire_bytes), rate(count.messages)])
        };
        let classes = after.classes.iter().map(|(class, count)| {
            let start = before.classes.get(class).copied().unwrap_or_default();
            (*class, node((*count - start).wire_bytes))
        });
        let (firsts, again) = (after.firsts - before.firsts, after.duplicates - before.duplicates);
        Self {
            seconds,
            bytes_s_node: node(sum.bytes),
            wire_bytes_s_node: node(sum.wire_bytes),
            messages_s_node: node(sum.messages),
            wire_bytes_s_busiest: sent.iter().map(|c| rate(c.wire_bytes)).fold(0.0, f64::max),
            leader_out: of_leader(&sent),
            leader_in: of_leader(&got),
            gossip_copies: (firsts + again) as f64 / firsts.max(1) as f64,
            classes: classes.collect(),
        }
    }
}

fn news(world: &World) -> Vec<NewsLine> {
    let mut kinds: BTreeMap<News, (usize, usize, Vec<f64>)> = BTreeMap::new();
    for measured in world.watched.measured() {
        let (times, readers, took) = kinds.entry(measured.news).or_default();
        (*times, *readers) = (*times + 1, *readers + measured.of);
        took.extend(measured.took_s);
    }
    let line = |(news, (times, readers, mut took)): (News, (usize, usize, Vec<f64>))| {
        took.sort_by(f64::total_cmp);
        let (p50_s, p99_s) = (percentile(&took, 50.0), percentile(&took, 99.0));
        NewsLine { news, times, readers, heard: took.len(), p50_s, p99_s, max_s: percentile(&took, 100.0) }
    };
    kinds.into_iter().map(line).collect()
}

/// How often another host came to lead, by the claims that were believed.
fn changes(world: &World) -> usize {
    let claims: std::collections::BTreeSet<_> = world
        .leads
        .changes()
        .iter()
        .filter_map(|(_, _, lead)| lead.as_ref().filter(|l| l.leader.is_some()))
        .map(|l| (l.term, l.takeovers, l.leader))
        .collect();
    claims.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|p| percentile(&values, p)), [50.0, 99.0, 100.0]);
        assert_eq!(percentile(&[], 50.0), 0.0);
        assert_eq!(percentile(&[7.0], 1.0), 7.0);
    }

    #[test]
    fn a_cost_is_what_came_between() {
        let mut before = Traffic { hosts: vec![Meter::default(); 2], ..Traffic::default() };
        before.hosts[0].sent.add(1_000, 10);
        let mut after = before.clone();
        after.hosts[1].sent.add(100, 100);
        after.hosts[0].got.add(100, 100);
        (after.firsts, after.duplicates) = (2, 6);
        let cost = Cost::between(&before, &after, 10.0, 2, Some(1));
        assert_eq!((cost.bytes_s_node, cost.wire_bytes_s_node), (5.0, 10.0));
        assert_eq!((cost.leader_out, cost.leader_in), (Some([20.0, 0.1]), Some([0.0, 0.0])));
        assert_eq!(cost.gossip_copies, 4.0);
    }
}
