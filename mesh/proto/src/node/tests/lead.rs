//! Who leads, in virtual time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cluster;
use super::net::{Net, ms, secs, service};
use crate::budget::WRITES_MAX;
use crate::envelope::{Claim, Signed};
use crate::id::{NodeId, Role};
use crate::lead::{LINE_MAX, Lead, Ranks, Reason, ShortId, Totals};
use crate::message::Gossip;
use crate::node::{Event, Input, Verdict};
use crate::summary::{Summary, WriteOrder};
use crate::testing::{LeafSpec, key};
use crate::view::MemberState;
use crate::wire;

const HEARTBEAT: Duration = Duration::from_secs(10);

fn lead(net: &Net, at: NodeId) -> (Lead, Option<NodeId>) {
    let l = net.view(at).leadership;
    (Lead { term: l.term, takeovers: l.takeovers }, l.leader)
}

/// The one that these follow, if they follow one that they have heard a summary of.
fn followed(net: &Net, by: &[NodeId]) -> Option<NodeId> {
    let (claim, leader) = lead(net, *by.first()?);
    let heard = |at: &NodeId| net.view(*at).leadership.summary_at.is_some() && lead(net, *at) == (claim, leader);
    leader.filter(|_| by.iter().all(heard))
}

fn leader(net: &Net) -> Option<NodeId> {
    followed(net, &net.running())
}

fn leading(net: &Net) -> Vec<NodeId> {
    let leads = |n: &NodeId| net.machines[n].process.as_ref().is_some_and(|p| p.lead.is_leading());
    net.running().into_iter().filter(leads).collect()
}

fn last_summary(net: &Net, at: NodeId) -> Summary {
    let process = net.machines[&at].process.as_ref().expect("runs");
    (*process.lead.reader.last().expect("a summary").summary).clone()
}

/// A cluster that has a leader, and its members.
fn led(seed: u64, workers: u64) -> (Net, NodeId, Vec<NodeId>) {
    let (mut net, gateway, mut all) = cluster(seed, workers);
    net.until("everybody follows the founder", secs(2), |net| leader(net) == Some(gateway));
    all.push(gateway);
    (net, gateway, all)
}

/// Each node's claims only rise, in all its lives.
fn nobody_goes_back(net: &Net) {
    for machine in net.machines.values() {
        let leads = machine.events.iter().filter_map(|(_, event)| match event {
            Event::Leader { term, takeovers, .. } => Some(Lead { term: *term, takeovers: *takeovers }),
            _ => None,
        });
        let leads: Vec<_> = leads.collect();
        assert!(leads.is_sorted(), "{leads:?}");
    }
}

fn alarms(net: &Net, at: NodeId) -> usize {
    net.machines[&at].events.iter().filter(|(_, event)| matches!(event, Event::Alarm(_))).count()
}

fn gone(net: &Net, node: NodeId) -> bool {
    net.running().iter().any(|at| matches!(net.state(*at, node), Some(MemberState::Dead | MemberState::Left)))
}

/// Ends the leader by `how`; says how long after its death was known everybody followed another one.
fn succeed(net: &mut Net, how: impl FnOnce(&mut Net, NodeId)) -> Duration {
    let old = leader(net).expect("a leader");
    how(net, old);
    net.until("it is gone", secs(60), |net| gone(net, old));
    net.until("another one leads", secs(60), |net| leader(net).is_some_and(|new| new != old))
}

/// What every node took, by (term, takeovers, number): one author and one content.
#[derive(Default)]
struct Taken(BTreeMap<(Lead, u64), (NodeId, u32)>);

impl Taken {
    /// Runs in small steps and looks at everybody; says the longest time for which two of one side led.
    fn run(&mut self, net: &mut Net, time: Duration) -> Duration {
        let (end, mut since, mut longest) = (net.now + time, None, Duration::ZERO);
        while net.now < end {
            net.run(ms(50));
            for at in net.running() {
                let l = net.view(at).leadership;
                let (Some(leader), Some(_)) = (l.leader, l.summary_at) else { continue };
                let triple = (Lead { term: l.term, takeovers: l.takeovers }, l.seq);
                let first = *self.0.entry(triple).or_insert((leader, l.alive));
                assert_eq!(first, (leader, l.alive), "two summaries are {triple:?}");
            }
            let sides: Vec<_> = leading(net).iter().map(|n| net.machines[n].side).collect();
            let two = sides.iter().any(|side| sides.iter().filter(|other| *other == side).count() > 1);
            since = two.then(|| since.unwrap_or(net.now));
            longest = longest.max(since.map_or(Duration::ZERO, |since| net.now - since));
        }
        longest
    }
}

#[test]
fn a_founder_leads_at_once_and_a_newcomer_follows() {
    let mut net = Net::new(1);
    let founder = net.gateway(1_000, None);
    assert_eq!(lead(&net, founder), (Lead::FIRST, Some(founder)));
    net.run(secs(100));
    let worker = net.worker(1, &["files"], Some(founder));
    let took = net.until("it follows", secs(1), |net| leader(net) == Some(founder));
    assert!(took < ms(200), "{took:?}");
    net.run(secs(100));
    assert_eq!(leader(&net), Some(founder));
    assert!(net.view(worker).leadership.alive == 2 && net.view(worker).leadership.seq > 0);
    assert_eq!(net.machines[&worker].persisted, 1, "it believed one claim");
}

#[test]
fn a_dead_leader_is_replaced() {
    for seed in 0..6 {
        let (mut net, ..) = led(seed, 8);
        net.run(secs(15));
        let took = succeed(&mut net, Net::kill);
        assert!(took < ms(1_500), "{took:?}");
        let (claim, _) = lead(&net, net.running()[0]);
        assert_eq!(claim, Lead::FIRST.takeover(), "one takeover and no more");
        net.run(secs(120));
        assert_eq!(lead(&net, net.running()[0]).0, claim);
        nobody_goes_back(&net);
    }
}

#[test]
fn a_leader_that_dies_young_has_named_who_follows() {
    let (mut net, _, all) = led(7, 4);
    let named = |net: &Net| all.iter().all(|at| last_summary(net, *at).line.len() == LINE_MAX);
    net.until("all have heard who follows", secs(1), named);
    let took = succeed(&mut net, Net::kill);
    assert!(took < ms(1_500), "{took:?}");
}

#[test]
fn a_leader_that_leaves_is_replaced_at_once() {
    for seed in 10..16 {
        let (mut net, ..) = led(seed, 8);
        net.run(secs(15));
        let took = succeed(&mut net, Net::leave);
        assert!(took < ms(500), "{took:?}");
        assert_eq!(lead(&net, net.running()[0]).0, Lead::FIRST.takeover());
    }
}

#[test]
fn a_leader_that_hangs_is_replaced_and_yields_when_it_wakes() {
    for (seed, sleep) in [(20, 40), (21, 700)] {
        let (mut net, gateway, _) = led(seed, 8);
        net.run(secs(15));
        let mut taken = Taken::default();
        let took = succeed(&mut net, Net::hang);
        assert!(took < ms(1_500), "{took:?}");
        taken.run(&mut net, secs(sleep));
        let before = lead(&net, net.running()[0]);
        net.machines.get_mut(&gateway).expect("a machine").hung = false;
        let two = taken.run(&mut net, secs(40));
        assert!(two < HEARTBEAT, "two led for {two:?}");
        assert_eq!(leader(&net), before.1, "the one that slept took nothing back");
        assert_eq!(lead(&net, gateway), before, "its own time being over, it claimed nothing");
        nobody_goes_back(&net);
    }
}

#[test]
fn each_side_of_a_partition_has_a_leader_and_one_is_left_after_it() {
    for seed in 30..36 {
        let (mut net, _, all) = led(seed, 9);
        net.run(secs(15));
        let mut taken = Taken::default();
        net.part(&all[..5], 1);
        taken.run(&mut net, secs(60));
        let sides = [followed(&net, &all[..5]), followed(&net, &all[5..])];
        assert!(all[..5].contains(&sides[0].expect("a leader")), "one of its own");
        assert!(all[5..].contains(&sides[1].expect("a leader")), "one of its own");
        net.heal();
        let took = net.until("one leader", HEARTBEAT * 2, |net| leader(net).is_some());
        let two = taken.run(&mut net, secs(30));
        assert!(two < HEARTBEAT, "two led for {two:?}, one was left after {took:?}");
        assert_eq!(leading(&net), [leader(&net).expect("a leader")]);
        nobody_goes_back(&net);
    }
}

#[test]
fn two_sides_that_claim_the_same_turn_never_give_two_summaries_one_number() {
    for seed in 40..46 {
        let (mut net, gateway, all) = led(seed, 8);
        net.run(secs(15));
        let mut taken = Taken::default();
        // The leader is on neither side.
        net.part(&[gateway], 3);
        net.part(&all[..4], 1);
        taken.run(&mut net, secs(90));
        net.heal();
        taken.run(&mut net, secs(60));
        let one = leader(&net).expect("one leader");
        assert_eq!(leading(&net), [one]);
        nobody_goes_back(&net);
    }
}

#[test]
fn messages_that_are_lost_do_not_make_a_second_leader() {
    let (mut net, gateway, _) = led(50, 8);
    net.loss = 20;
    let mut taken = Taken::default();
    taken.run(&mut net, secs(300));
    assert_eq!(lead(&net, gateway), (Lead::FIRST, Some(gateway)));
    net.loss = 0;
    succeed(&mut net, Net::kill);
}

#[test]
fn a_claim_whose_author_dies_before_its_first_summary_is_followed_by_another() {
    let (mut net, gateway, all) = led(60, 8);
    net.run(secs(15));
    // It is heard everywhere but at its author, which dies of it.
    let (victim, claim) = (all[0], Lead::FIRST.takeover());
    let record = Signed::new(&Claim::Lead(claim), &net.machines[&victim].key, &net.cluster.id()).expect("fits");
    net.kill(victim);
    let bytes = wire::encode(&Gossip::Record(Arc::new(record))).expect("fits");
    for at in net.running() {
        net.inject(all[1], at, bytes.clone());
    }
    net.run(ms(200));
    assert_eq!(lead(&net, gateway).1, Some(victim));
    let took = net.until("somebody takes over", secs(10), |net| leader(net).is_some());
    assert!(took < secs(4), "{took:?}");
    assert_eq!(lead(&net, gateway).0, claim.takeover());
}

#[test]
fn a_cluster_that_restarts_as_a_whole_goes_on_above_its_claim() {
    let (mut net, gateway, all) = led(70, 6);
    net.run(secs(100));
    succeed(&mut net, Net::leave);
    let before = lead(&net, all[0]).0;
    net.run(secs(10));
    all.iter().filter(|n| **n != gateway).for_each(|n| net.kill(*n));
    net.run(secs(30));
    net.start(gateway, None);
    all.iter().filter(|n| **n != gateway).for_each(|n| net.start(*n, Some(gateway)));
    let took = net.until("one leads", secs(60), |net| leader(net).is_some());
    assert!(took <= secs(40), "{took:?}");
    net.run(secs(60));
    let (after, _) = lead(&net, gateway);
    assert!(after > before && after.term == before.term, "{before} {after}");
    assert_eq!(leading(&net).len(), 1);
    nobody_goes_back(&net);
}

#[test]
fn a_cluster_of_one_leads_itself_again_after_a_restart() {
    let mut net = Net::new(80);
    let only = net.gateway(1_000, None);
    net.run(secs(1_300));
    assert_eq!(lead(&net, only), (Lead { term: 3, takeovers: 0 }, Some(only)));
    net.kill(only);
    net.run(secs(5));
    net.start(only, None);
    assert!(leading(&net).is_empty());
    net.until("it leads", secs(15), |net| leading(net) == [only]);
    assert_eq!(lead(&net, only).0, Lead { term: 3, takeovers: 1 });
}

#[test]
fn whoever_finds_nobody_claims_nothing_for_a_while() {
    let mut net = Net::new(81);
    let entry = net.machine(1_000, &[Role::Gateway], &[], &LeafSpec::roles(&[Role::Gateway]));
    let joiner = net.worker(1, &["files"], Some(entry));
    net.run(secs(30));
    assert_eq!(lead(&net, joiner).1, None);
}

#[test]
fn a_founder_without_its_disk_gives_no_number_twice() {
    let (mut net, gateway, _) = led(82, 4);
    net.run(secs(100));
    let mut taken = Taken::default();
    taken.run(&mut net, secs(1));
    net.kill(gateway);
    net.machines.get_mut(&gateway).expect("a machine").claim.clear();
    net.start(gateway, None);
    assert_eq!(lead(&net, gateway), (Lead::FIRST, Some(gateway)), "it thinks that it founds a cluster");
    net.until("it is back", secs(60), Net::agree);
    taken.run(&mut net, secs(60));
    assert!(lead(&net, gateway).0 > Lead::FIRST);
    assert_eq!(leading(&net), [leader(&net).expect("a leader")]);
}

#[test]
fn whatever_happens_one_leads_in_the_end() {
    for seed in 200..208 {
        let mut net = Net::new(seed);
        (net.timing.term, net.timing.heartbeat, net.loss) = (secs(20), secs(2), 10);
        let gateway = net.gateway(1_000, None);
        let mut all: Vec<_> = (0..7).map(|i| net.worker(i, &[], Some(gateway))).collect();
        all.push(gateway);
        let mut taken = Taken::default();
        taken.run(&mut net, secs(20));
        for _ in 0..14 {
            let node = all[net.rng.below(all.len())];
            let (runs, hung) = (net.machines[&node].process.is_some(), net.machines[&node].hung);
            match (net.rng.below(6), runs, hung) {
                (_, true, true) => net.machines.get_mut(&node).expect("a machine").hung = false,
                (0, true, _) => net.kill(node),
                (1, true, _) => net.leave(node),
                (2, true, _) => net.hang(node),
                (3, ..) => net.part(&[node], 1),
                (_, false, _) => net.start(node, Some(gateway).filter(|g| *g != node)),
                _ => {}
            }
            let pause = net.rng.up_to(secs(12));
            taken.run(&mut net, pause);
        }
        net.loss = 0;
        net.heal();
        for node in &all {
            net.machines.get_mut(node).expect("a machine").hung = false;
            if net.machines[node].process.is_some() && !net.running().contains(node) {
                net.kill(*node);
            }
            if net.machines[node].process.is_none() {
                net.start(*node, Some(if *node == gateway { all[0] } else { gateway }));
            }
        }
        net.until(&format!("one leads, seed {seed}"), secs(90), |net| net.agree() && leader(net).is_some());
        let two = taken.run(&mut net, secs(60));
        assert!(two < secs(1), "two led for {two:?}, seed {seed}");
        // The run may have ended amid a handover.
        net.until(&format!("only one leads, seed {seed}"), secs(1), |net| leading(net).len() == 1);
        nobody_goes_back(&net);
        let terms = lead(&net, gateway).0.term;
        assert!(terms < 2 + 2 * (net.now.as_secs() / 20), "{terms} terms in {:?}", net.now);
    }
}

#[test]
fn terms_rotate_to_the_first_of_each() {
    for (seed, workers) in [(90, 4), (91, 19)] {
        let mut net = Net::new(seed);
        net.timing.term = secs(1);
        let gateway = net.gateway(1_000, None);
        (0..workers).for_each(|i| _ = net.worker(i, &[], Some(gateway)));
        net.until("everybody sees everybody", secs(10), Net::agree);
        net.run(secs(5));
        let terms = if workers == 4 { 2_000 } else { 200 };
        let from = net.machines[&gateway].events.len();
        net.run(secs(terms));
        let leads: Vec<_> = net.machines[&gateway].events[from..]
            .iter()
            .filter_map(|(_, event)| match event {
                Event::Leader { leader, term, takeovers } => Some((*leader, *term, *takeovers)),
                _ => None,
            })
            .collect();
        assert!(leads.len() as u64 > terms * 9 / 10, "{} terms in {terms} s", leads.len());
        let mut count: BTreeMap<NodeId, u64> = net.machines.keys().map(|n| (*n, 0)).collect();
        for (leader, term, takeovers) in &leads {
            let ranks = Ranks::of(&net.cluster.id(), *term);
            let first = net.machines.keys().max_by_key(|n| ranks.rank(n));
            assert_eq!((Some(leader), *takeovers), (first, 0), "term {term}");
            *count.get_mut(leader).expect("a member") += 1;
        }
        let expected = leads.len() as f64 / count.len() as f64;
        let chi_square: f64 = count.values().map(|n| (*n as f64 - expected).powi(2) / expected).sum();
        // The 99.9 % quantiles for 4 and 19 degrees of freedom.
        assert!(chi_square < if workers == 4 { 18.47 } else { 43.82 }, "{chi_square}: {count:?}");
    }
}

#[test]
fn summaries_never_stop_over_a_change_of_leaders() {
    let mut net = Net::new(95);
    net.timing.term = secs(60);
    let gateway = net.gateway(1_000, None);
    let workers: Vec<_> = (0..6).map(|i| net.worker(i, &[], Some(gateway))).collect();
    net.until("everybody follows", secs(10), |net| net.agree() && leader(net).is_some());
    let mut taken = Taken::default();
    for _ in 0..100 {
        let two = taken.run(&mut net, secs(5));
        assert!(two < secs(1), "two led for {two:?}");
        for at in &workers {
            // None for a moment: a claim was heard, and its first summary is on its way.
            let last = net.view(*at).leadership.summary_at;
            assert!(last.is_none_or(|last| last + HEARTBEAT + secs(1) > net.at().at));
        }
    }
    assert!(lead(&net, gateway).0.term >= 9);
}

#[test]
fn heartbeats_reach_the_leader_directly_or_through_those_that_gather() {
    for (from, direct) in [(128, 20..=40), (8, 0..=0)] {
        let mut net = Net::new(100);
        net.timing.sub_leaders_from = from;
        let gateway = net.gateway(1_000, None);
        let workers: Vec<_> = (0..20).map(|i| net.worker(i, &["files"], Some(gateway))).collect();
        net.until("everybody follows", secs(15), |net| net.agree() && leader(net).is_some());
        for worker in &workers {
            let load = crate::heartbeat::Load { cpu_permille: 300, memory_permille: 100, in_flight: 2, jobs: 1 };
            net.input(*worker, Input::Load(load));
        }
        net.run(secs(35));
        let load = last_summary(&net, workers[0]).load;
        let expected = Totals { reporting: 21, cpu_permille: 285, memory_permille: 95, in_flight: 40, jobs: 20 };
        assert_eq!(load, expected);
        net.beats.clear();
        net.run(secs(15));
        let at_leader = net.beats.get(&gateway).copied().unwrap_or(0);
        assert!(direct.contains(&at_leader), "{at_leader} heartbeats");
    }
}

#[test]
fn a_table_that_differs_is_repaired_from_a_neighbour() {
    let mut net = Net::new(110);
    net.timing.sync = secs(36_000);
    let gateway = net.gateway(1_000, None);
    let workers: Vec<_> = (0..8).map(|i| net.worker(i, &["common"], Some(gateway))).collect();
    net.until("everybody follows", secs(15), |net| net.agree() && leader(net).is_some());
    net.run(secs(40));
    net.loss = 100;
    net.input(workers[0], Input::Offer(vec![service("fresh")]));
    net.run(ms(500));
    net.loss = 0;
    let knows = |net: &Net, at: &NodeId| net.view(*at).services.contains_key("fresh");
    assert!(!knows(&net, &gateway));
    let took = net.until("everybody knows", secs(60), |net| net.running().iter().all(|at| knows(net, at)));
    assert!(took < secs(35), "{took:?}");
    net.run(secs(25));
    let quiet = |net: &Net| net.machines.values().map(|m| m.sent_bytes).sum::<usize>();
    let before = quiet(&net);
    net.run(secs(600));
    let per_node_s = (quiet(&net) - before) / 9 / 600;
    assert!(per_node_s < 150, "{per_node_s} bytes a second and node");
}

fn gossiped(net: &Net, by: NodeId, claim: &Claim) -> Vec<u8> {
    let record = Signed::new(claim, &net.machines[&by].key, &net.cluster.id()).expect("fits");
    wire::encode(&Gossip::Record(Arc::new(record))).expect("fits")
}

#[test]
fn a_claim_from_the_future_is_refused_and_told() {
    let (mut net, gateway, all) = led(120, 4);
    let before = lead(&net, gateway);
    for lead in [Lead { term: 100, takeovers: 0 }, Lead { term: u64::MAX, takeovers: u32::MAX }] {
        let bytes = gossiped(&net, all[0], &Claim::Lead(lead));
        let id = net.inject(all[1], gateway, bytes);
        assert_eq!(net.verdict(gateway, id), Some(Verdict::Ignore));
    }
    assert_eq!(alarms(&net, gateway), 1);
    assert_eq!(lead(&net, gateway), before);
}

#[test]
fn claims_in_a_run_are_not_all_written_to_disk() {
    let (mut net, gateway, all) = led(121, 4);
    let before = net.machines[&gateway].persisted;
    for takeovers in 1..300 {
        let bytes = gossiped(&net, all[0], &Claim::Lead(Lead { term: 1, takeovers }));
        net.inject(all[1], gateway, bytes);
    }
    let written = net.machines[&gateway].persisted - before;
    assert!(written <= 16, "{written}");
}

#[test]
fn forged_summaries_are_refused() {
    let (mut net, gateway, all) = led(122, 6);
    net.run(secs(15));
    let taken = net.view(all[0]).leadership;
    let real = last_summary(&net, all[0]);
    let ranks = Ranks::of(&net.cluster.id(), 1);
    let lesser = *all.iter().find(|n| ranks.rank(n) < ranks.rank(&gateway)).expect("not the last of seven");
    let give = |net: &mut Net, by: NodeId, summary: Summary| {
        let bytes = gossiped(net, by, &Claim::Summary(Box::new(summary)));
        let id = net.inject(all[1], all[0], bytes);
        net.verdict(all[0], id)
    };
    let next = Summary { seq: real.seq + 1, alive: 99, ..real.clone() };
    let foreign = Summary { lead: Lead { term: 2, takeovers: 0 }, seq: 77, ..next.clone() };
    assert_eq!(give(&mut net, lesser, foreign), Some(Verdict::Reject), "a number that is not its own");
    let lesser_next = Summary { seq: ranks.first_seq(&lesser) + 1_000, ..next.clone() };
    assert_eq!(give(&mut net, lesser, lesser_next), Some(Verdict::Ignore), "it does not lead");
    let far = Summary { seq: real.seq + (1 << 24), ..next.clone() };
    assert_eq!(give(&mut net, gateway, far), Some(Verdict::Reject), "nor may the leader take another's numbers");
    let twice = Summary { alive: 99, ..real.clone() };
    assert_eq!(alarms(&net, all[0]), 0);
    assert_eq!(give(&mut net, gateway, twice.clone()), Some(Verdict::Ignore), "a number that is taken");
    assert_eq!(give(&mut net, gateway, twice), Some(Verdict::Ignore));
    assert_eq!(alarms(&net, all[0]), 1, "the leader contradicts itself");

    let mut changed = gossiped(&net, gateway, &Claim::Summary(Box::new(next.clone())));
    let at = changed.len() - 80;
    changed[at] ^= 1;
    let id = net.inject(all[1], all[0], changed);
    assert!(matches!(net.verdict(all[0], id), Some(Verdict::Reject | Verdict::Ignore)));
    let stranger = Signed::new(&Claim::Summary(Box::new(next)), &key(4_711), &net.cluster.id()).expect("fits");
    let id = net.inject(all[1], all[0], wire::encode(&Gossip::Record(Arc::new(stranger))).expect("fits"));
    net.run(secs(4));
    assert_ne!(net.verdict(all[0], id), Some(Verdict::Accept), "no member");
    let now = net.view(all[0]).leadership;
    assert_eq!((now.leader, now.alive, now.term), (taken.leader, 7, 1));
}

#[test]
fn a_gateway_finds_the_summary_in_kademlia() {
    let (mut net, founder, _) = led(130, 3);
    let cold = net.machine(1_001, &[Role::Gateway], &[], &LeafSpec::roles(&[Role::Gateway]));
    net.start(cold, None);
    net.run(ms(1_900));
    assert_eq!(net.view(cold).leadership.leader, None);
    net.run(ms(200));
    let found = net.view(cold).leadership;
    assert_eq!((found.leader, found.term), (Some(founder), 1));
    assert!(net.machines[&cold].events.iter().all(|(_, e)| !matches!(e, Event::Refused { .. })));
    net.input(cold, Input::StoredSummary(vec![1, 2, 3]));
    assert!(net.machines[&cold].events.iter().any(|(_, e)| matches!(e, Event::Refused { .. })));
}

#[test]
fn the_manifest_says_seldom_whether_a_node_can_be_dialled() {
    let (mut net, gateway, all) = led(140, 3);
    let said = |net: &Net| {
        let manifest = &net.view(gateway).members[&all[0]].manifest;
        (manifest.version.0, manifest.dialable)
    };
    let before = said(&net).0;
    for i in 0..100 {
        net.input(all[0], Input::Dialable(i % 2 == 1));
        net.run(ms(500));
    }
    assert_eq!(said(&net), (before + 1, false), "once at once");
    net.run(secs(60));
    assert_eq!(said(&net), (before + 2, true), "and what was said last");
    net.input(all[0], Input::Dialable(true));
    net.run(secs(70));
    assert_eq!(said(&net), (before + 2, true));
}

#[test]
fn only_whoever_can_be_dialled_is_named() {
    let (mut net, _, all) = led(141, 6);
    for at in &all[..5] {
        net.input(*at, Input::Dialable(false));
    }
    net.run(secs(15));
    let line = last_summary(&net, all[0]).line;
    assert_eq!(line.first(), Some(&ShortId::of(&all[5])));
    succeed(&mut net, Net::kill);
    assert_eq!(leader(&net), Some(all[5]));
}

#[test]
fn a_sink_writes_at_the_word_of_the_leader() {
    let mut net = Net::new(150);
    let gateway = net.gateway(1_000, None);
    let workers: Vec<_> = (0..4).map(|i| net.worker(i, &["files"], Some(gateway))).collect();
    let sink = net.machine(50, &[Role::Worker], &[], &LeafSpec::worker());
    net.machines.get_mut(&sink).expect("a machine").sink = true;
    net.start(sink, Some(gateway));
    net.until("everybody follows", secs(10), |net| net.agree() && leader(net).is_some());
    net.until("the first write", secs(40), |net| !net.machines[&sink].writes.is_empty());
    let first = net.machines[&sink].writes[0].1.clone();
    assert_eq!((first.members.len(), first.term, first.leader.as_str()), (6, 1, "n1000"));
    assert!(first.members.is_sorted_by_key(|m| m.id.clone()));
    net.run(secs(60));
    net.kill(workers[0]);
    net.until("it is dead", secs(5), |net| gone(net, workers[0]));
    let writes = |net: &Net| net.machines[&sink].writes.len();
    net.until("the write of its death", secs(10), |net| writes(net) == 2);
    let death = net.machines[&sink].writes[1].1.clone();
    assert_eq!((death.reason, death.writes_today), ("death", 2));
    assert!(death.members.iter().any(|m| m.status == MemberState::Dead && m.services.is_empty()));
    net.run(secs(15));
    assert!(net.running().iter().all(|at| net.view(*at).leadership.writes_today == 2), "everybody knows the count");
    succeed(&mut net, Net::kill);
    net.until("the write of the new leader", secs(40), |net| writes(net) == 3);
    let third = net.machines[&sink].writes[2].1.clone();
    assert_eq!((third.writes_today, third.takeovers), (3, 1), "it goes on counting");
    assert!(matches!(third.reason, "leader" | "death"), "{}", third.reason);
    for i in 0..200 {
        net.input(workers[1], Input::Offer(vec![service(&format!("s{i}"))]));
        net.run(secs(20));
    }
    assert!(writes(&net) as u32 <= WRITES_MAX, "{}", writes(&net));
    assert!(net.machines.iter().all(|(n, m)| *n == sink || m.writes.is_empty()), "nobody else writes");
}

#[test]
fn nobody_writes_at_the_word_of_another() {
    let mut net = Net::new(151);
    let gateway = net.gateway(1_000, None);
    let other = net.worker(1, &[], Some(gateway));
    let sink = net.machine(50, &[Role::Worker], &[], &LeafSpec::worker());
    net.machines.get_mut(&sink).expect("a machine").sink = true;
    net.start(sink, Some(gateway));
    net.until("the first write", secs(50), |net| !net.machines[&sink].writes.is_empty());
    let real = last_summary(&net, sink);
    let order = Some(WriteOrder { by: ShortId::of(&sink), reason: Reason::Death });
    let ranks = Ranks::of(&net.cluster.id(), 1);
    let lead = Lead { term: 0, takeovers: 9 };
    let forged = Summary { lead, seq: ranks.first_seq(&other) + 9, write: order, ..real };
    let bytes = gossiped(&net, other, &Claim::Summary(Box::new(forged)));
    net.inject(other, sink, bytes);
    net.run(secs(5));
    assert_eq!(net.machines[&sink].writes.len(), 1);
}
