//! Who leads, in virtual time.

use std::time::Duration;

use super::cluster;
use super::net::{Net, ms, secs};
use crate::id::NodeId;
use crate::lead::Lead;
use crate::node::Event;
use crate::view::MemberState;

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

/// A cluster that has a leader, and its members.
fn led(seed: u64, workers: u64) -> (Net, NodeId, Vec<NodeId>) {
    let (mut net, gateway, mut all) = cluster(seed, workers);
    net.until("everybody follows the founder", secs(2), |net| leader(net) == Some(gateway));
    all.push(gateway);
    (net, gateway, all)
}

/// Each node's claims only rise.
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

/// Ends the leader by `how`; says how long after its death was known everybody followed another one.
fn succeed(net: &mut Net, how: impl FnOnce(&mut Net, NodeId)) -> Duration {
    let old = leader(net).expect("a leader");
    how(net, old);
    let gone = |net: &Net| {
        net.running().iter().any(|at| matches!(net.state(*at, old), Some(MemberState::Dead | MemberState::Left)))
    };
    net.until("it is gone", secs(60), gone);
    net.until("another one leads", secs(60), |net| leader(net).is_some_and(|new| new != old))
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
    assert!(net.machines[&worker].persisted == 1, "it believed one claim");
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
