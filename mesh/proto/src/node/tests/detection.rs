//! How soon a silence is noticed, by whom, and that nothing else is taken for one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cluster;
use super::faults::{ever_dead, everywhere};
use super::net::{Net, ms, secs};
use crate::id::{Incarnation, NodeId};
use crate::node::{Event, Verdict};
use crate::testing::LeafSpec;
use crate::view::MemberState::{self, Alive, Dead, Left, Suspect};

/// Whom a node watches on the ring.
fn watched(net: &mut Net, node: NodeId) -> Vec<NodeId> {
    let process = net.machines.get_mut(&node).and_then(|m| m.process.as_mut()).expect("runs");
    process.detector.watched().to_vec()
}

fn watchers(net: &mut Net, node: NodeId) -> Vec<NodeId> {
    let process = net.machines.get_mut(&node).and_then(|m| m.process.as_mut()).expect("runs");
    process.detector.watchers().to_vec()
}

/// What anybody noted since then.
fn states(net: &Net, since: Duration) -> Vec<(NodeId, NodeId, MemberState)> {
    let mut states = Vec::new();
    for (at, machine) in &net.machines {
        for (_, event) in machine.events.iter().filter(|(when, _)| *when >= since) {
            if let Event::State { node, to, .. } = event {
                states.push((*at, *node, *to));
            }
        }
    }
    states
}

/// Nobody but these died.
fn only(net: &Net, gone: &[NodeId], since: Duration) {
    for (at, node, to) in states(net, since) {
        let dark = gone.contains(&at) || gone.contains(&node);
        assert!(dark || to != Dead, "{} took {} for dead", at.short(), node.short());
    }
}

fn all_dead(net: &Net, gone: &[NodeId]) -> bool {
    net.running()
        .iter()
        .filter(|at| !gone.contains(at))
        .all(|at| gone.iter().all(|of| net.state(*at, *of) == Some(Dead)))
}

/// These machines go dark; says how long it takes until all others know.
fn go_dark(net: &mut Net, dark: &[NodeId], within: Duration) -> Duration {
    let start = net.now;
    for (side, node) in (1..).zip(dark) {
        net.part(&[*node], side);
    }
    let took = net.until("dead everywhere", within, |net| all_dead(net, dark));
    net.run(secs(10));
    only(net, dark, start);
    took
}

#[test]
fn a_dark_member_is_dead_everywhere_within_five_seconds_however_many_there_are() {
    for (others, seeds) in [(7, 0..8), (31, 0..6)] {
        let mut took: Vec<_> = seeds
            .map(|seed| {
                let (mut net, _, workers) = cluster(seed, others);
                net.run(secs(20) + ms(370 * seed));
                go_dark(&mut net, &workers[3..4], secs(5))
            })
            .collect();
        took.sort_unstable();
        assert!(took[took.len() / 2] <= ms(3_300), "{took:?}");
    }
}

#[test]
fn of_two_the_one_finds_that_the_other_went_dark() {
    let mut net = Net::new(1);
    let gateway = net.gateway(1_000, None);
    let worker = net.worker(1, &["files"], Some(gateway));
    net.until("both are there", secs(5), Net::agree);
    net.run(secs(10));
    go_dark(&mut net, &[worker], secs(5));
}

#[test]
fn one_who_cannot_reach_a_member_does_not_remove_it() {
    for seed in 0..4 {
        let (mut net, _, workers) = cluster(seed, 8);
        net.run(secs(20));
        let start = net.now;
        let victim = workers[2];
        let accuser = watchers(&mut net, victim)[0];
        net.block(accuser, victim);
        net.block(victim, accuser);
        net.run(secs(60));
        assert!(!ever_dead(&net, victim, start) && !ever_dead(&net, accuser, start), "seed {seed}");
        assert!(everywhere(&net, victim, Alive), "{}", net.picture());
    }
}

#[test]
fn one_way_that_is_blocked_kills_nobody() {
    for seed in 0..4 {
        let (mut net, _, workers) = cluster(seed, 12);
        net.run(secs(20));
        let (start, victim) = (net.now, workers[5]);
        let mine = watchers(&mut net, victim);
        net.block(mine[0], victim);
        net.block(victim, mine[1]);
        net.run(secs(120));
        only(&net, &[], start);
        assert!(net.agree(), "{}", net.picture());
    }
}

#[test]
fn a_hung_process_is_dead_in_time_and_comes_back_without_accusing_anybody() {
    for seed in 0..4 {
        let (mut net, _, workers) = cluster(seed, 10);
        net.run(secs(20));
        let (start, hung) = (net.now, workers[3]);
        let before = net.machines[&hung].incarnation;
        net.hang(hung);
        net.until("dead everywhere", secs(5), |net| all_dead(net, &[hung]));
        net.run(secs(10) - (net.now - start));
        let woken = net.now;
        let published = net.machines[&hung].published.len();
        net.resume(hung);
        net.until("alive everywhere", secs(5), |net| {
            net.running().iter().all(|at| {
                let member = &net.view(*at).members[&hung];
                member.is_alive() && member.manifest.incarnation > before
            })
        });
        net.run(secs(30));
        assert!(net.agree(), "{}", net.picture());
        only(&net, &[hung], start);
        let by_it: Vec<_> = states(&net, woken).into_iter().filter(|(at, ..)| *at == hung).collect();
        assert!(by_it.iter().all(|(_, _, to)| !matches!(to, Suspect | Dead)), "{by_it:?}");
        let accusations = super::hostile::accusations_in(&net.machines[&hung].published[published..]);
        assert_eq!(accusations, 0, "seed {seed}");
    }
}

#[test]
fn a_stalling_network_kills_nobody() {
    for seed in 0..2 {
        let (mut net, _, _) = cluster(seed, 31);
        net.resent = 20;
        let start = net.now;
        net.run(secs(300));
        only(&net, &[], start);
    }
}

#[test]
fn a_dark_member_is_found_in_a_stalling_network_too() {
    for seed in 0..4 {
        let (mut net, _, workers) = cluster(seed, 15);
        net.resent = 20;
        net.run(secs(30));
        go_dark(&mut net, &workers[3..4], secs(6));
    }
}

#[test]
fn a_member_goes_dark_together_with_one_who_watches_it() {
    for seed in 0..4 {
        let (mut net, _, workers) = cluster(seed, 12);
        net.run(secs(20));
        let one = workers[4];
        let watcher = watchers(&mut net, one)[0];
        go_dark(&mut net, &[one, watcher], secs(5));
    }
}

#[test]
fn a_member_goes_dark_together_with_all_who_watch_it() {
    for seed in 0..3 {
        let (mut net, _, workers) = cluster(seed, 15);
        net.run(secs(20));
        let mut dark = watchers(&mut net, workers[4]);
        dark.push(workers[4]);
        go_dark(&mut net, &dark, secs(10));
    }
}

#[test]
fn neighbours_on_the_ring_are_connected() {
    let (mut net, gateway, workers) = cluster(3, 40);
    net.run(secs(30));
    for node in workers.iter().chain([&gateway]) {
        let watched = watched(&mut net, *node);
        assert_eq!(watched.len(), 3);
        for other in watched {
            assert!(net.linked(*node, other));
            assert!(watchers(&mut net, other).contains(node), "both find the same");
        }
    }
}

#[test]
fn a_liar_removes_nobody_and_is_not_listened_to_any_more() {
    let (mut net, gateway, workers) = cluster(36, 11);
    // An admitted member that lies; it need not even run.
    let liar = net.machine(66, &[], &[], &LeafSpec::worker());
    let chain = net.machines[&liar].chain.clone();
    let (victim, start) = (workers[2], net.now);
    let mut incarnations = BTreeSet::new();
    for _ in 0..30 {
        let incarnation = net.view(gateway).members[&victim].manifest.incarnation;
        incarnations.insert(incarnation);
        let messages = super::hostile::accusations(&net, 66, &chain, victim, incarnation);
        for at in net.running().into_iter().filter(|at| *at != victim) {
            for message in &messages {
                net.inject(gateway, at, message.clone());
            }
        }
        net.run(secs(2));
    }
    assert!(!ever_dead(&net, victim, start));
    assert!(net.agree());
    assert!(incarnations.len() <= 8, "it need not answer each time: {}", incarnations.len());
}

#[test]
fn whoever_has_left_stays_gone() {
    let (mut net, gateway, workers) = cluster(24, 8);
    net.run(secs(20));
    let old = net.machines[&workers[0]].published.clone();
    net.leave(workers[0]);
    net.until("left", secs(1), |net| everywhere(net, workers[0], Left));
    let incarnation: Incarnation = net.machines[&workers[0]].incarnation;
    let chain = net.machines[&workers[1]].chain.clone();
    let mut said = super::hostile::accusations(&net, 1, &chain, workers[0], incarnation).to_vec();
    said.extend(old);
    for at in net.running() {
        for bytes in &said {
            let id = net.inject(gateway, at, bytes.clone());
            assert_ne!(net.verdict(at, id), Some(Verdict::Accept));
        }
    }
    net.run(secs(60));
    assert!(everywhere(&net, workers[0], Left));
    assert!(!ever_dead(&net, workers[0], ms(0)));
}

/// As after a power cut: all processes come back at once, and there are too few processors for all of them.
#[test]
fn where_all_start_at_once_and_all_are_slow_nobody_dies() {
    for (seed, shortest, longest) in [(1, ms(500), secs(3)), (2, ms(100), ms(900)), (3, ms(20), ms(500))] {
        let mut net = Net::new(seed);
        net.starvation = Some((shortest, longest));
        let gateway = net.gateway(1_000, None);
        let workers: Vec<_> = (0..63).map(|i| net.worker(i, &["common"], Some(gateway))).collect();
        net.run(secs(60));
        let suspicions = states(&net, ms(0)).iter().filter(|(_, _, to)| *to == Suspect).count();
        only(&net, &[], ms(0));
        assert!(suspicions <= 64, "{suspicions} suspicions, seed {seed}");
        net.starvation = None;
        let took = net.until("all know all", secs(10), Net::agree);
        net.run(secs(60));
        only(&net, &[], ms(0));
        assert!(net.agree(), "{took:?}, seed {seed}");
        // Nor has it become blind.
        go_dark(&mut net, &workers[3..4], secs(5));
    }
}

#[test]
fn a_machine_that_runs_too_much_for_a_while_loses_nobody() {
    for seed in 0..2 {
        let (mut net, gateway, workers) = cluster(seed, 31);
        net.run(secs(60));
        let start = net.now;
        net.starvation = Some((ms(200), ms(1_500)));
        workers.iter().chain([&gateway]).for_each(|node| net.starve(*node));
        net.run(secs(60));
        net.starvation = None;
        net.until("all know all", secs(10), Net::agree);
        only(&net, &[], start);
    }
}

#[test]
fn what_could_change_nothing_is_not_even_verified() {
    let (mut net, gateway, workers) = cluster(4, 11);
    net.run(secs(20));
    let victim = workers[2];
    net.kill(victim);
    net.until("dead", secs(3), |net| everywhere(net, victim, Dead));
    net.run(secs(1));
    let incarnation = net.machines[&victim].incarnation;
    // Not signed for this cluster: whoever verified it would reject it, and score its sender down.
    for claim in super::hostile::false_accusations(66, victim, incarnation) {
        let id = net.inject(workers[0], gateway, claim);
        assert_eq!(net.verdict(gateway, id), Some(Verdict::Ignore));
    }
    let alive = net.view(gateway).members[&workers[5]].manifest.incarnation;
    for claim in super::hostile::false_accusations(66, workers[5], alive) {
        let id = net.inject(workers[0], gateway, claim);
        assert_eq!(net.verdict(gateway, id), Some(Verdict::Reject), "what matters is");
    }
}

#[test]
fn probes_cost_next_to_nothing() {
    let (mut net, _, _) = cluster(5, 31);
    net.run(secs(60));
    let sent = |net: &Net| net.machines.values().map(|m| m.sent_bytes).sum::<usize>();
    let before = sent(&net);
    net.run(secs(300));
    let per_node_s = (sent(&net) - before) / 32 / 300;
    // What is gossiped here goes over every link, and not only over some as it really does.
    assert!(per_node_s < 250, "{per_node_s} bytes per second and node");
}
