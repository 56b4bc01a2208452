//! Whole nodes against each other in virtual time.

mod detection;
mod faults;
mod hostile;
mod lead;
pub(crate) mod net;
mod revoke;

use std::time::Duration;

use super::{Event, Input};
use crate::connect::GATEWAYS_MAX;
use crate::id::{NodeId, Role};
use crate::testing::{LeafSpec, START, service_name};
use crate::view::MemberState;
use net::{Net, ms, secs, service};

/// A gateway and workers, each of which knows the gateway.
pub(super) fn cluster(seed: u64, workers: u64) -> (Net, NodeId, Vec<NodeId>) {
    let mut net = Net::new(seed);
    let gateway = net.gateway(1_000, None);
    let workers: Vec<_> = (0..workers)
        .map(|i| {
            let name = format!("s{i}");
            let worker = net.worker(i, &[&name, "common"], Some(gateway));
            net.run(ms(50));
            worker
        })
        .collect();
    net.until("everybody sees everybody", secs(15), Net::agree);
    (net, gateway, workers)
}

fn offers(net: &Net, at: NodeId, name: &str) -> Vec<NodeId> {
    net.view(at).services.get(name).into_iter().flatten().map(|p| p.node).collect()
}

#[test]
fn a_newcomer_is_routable_within_a_second() {
    let mut net = Net::new(1);
    let gateway = net.gateway(1_000, None);
    net.run(secs(3));
    let worker = net.worker(1, &["files"], Some(gateway));
    let took = net.until("the gateway knows its service", secs(1), |net| offers(net, gateway, "files") == [worker]);
    assert!(took < ms(200), "{took:?}");
    let third = net.worker(2, &["files"], Some(worker));
    net.until("a newcomer that entered elsewhere", secs(1), |net| offers(net, gateway, "files").len() == 2);
    net.until("everybody sees everybody", secs(2), Net::agree);
    net.until("it connects to the gateway by itself", secs(1), |net| net.linked(third, gateway));
}

#[test]
fn all_converge_after_joins_though_messages_are_lost() {
    for seed in 0..3 {
        let mut net = Net::new(seed);
        net.loss = 10;
        let gateways = [net.gateway(1_000, None), net.gateway(1_001, None)];
        let workers: Vec<_> = (0..12).map(|i| net.worker(i, &["common"], Some(gateways[i as usize % 2]))).collect();
        net.input(
            gateways[0],
            Input::Providers { key: super::ProviderKey::Role(Role::Gateway), nodes: vec![gateways[1]] },
        );
        net.until("everybody sees everybody", secs(60), Net::agree);
        assert_eq!(offers(&net, gateways[0], "common").len(), 12);
        net.run(secs(30));
        for worker in workers {
            assert!(gateways.iter().all(|g| net.linked(worker, *g)), "each keeps a connection to each gateway");
            assert!(net.link_count(worker) >= 2 + 3, "and to three others");
        }
    }
}

#[test]
fn connections_stay_few() {
    let (mut net, gateway, workers) = cluster(3, 30);
    net.run(secs(60));
    // The heartbeats of all go to the leader.
    let leader = net.view(gateway).leadership.leader;
    let most = workers.iter().filter(|w| Some(**w) != leader).map(|w| net.link_count(*w)).max();
    assert!(most <= Some(24), "{most:?}");
    assert_eq!(net.link_count(gateway), 30);

    let mut net = Net::new(4);
    let first = net.gateway(1_000, None);
    let _others: Vec<_> = (1..12).map(|i| net.gateway(1_000 + i, Some(first))).collect();
    let worker = net.worker(1, &["files"], Some(first));
    net.until("everybody sees everybody", secs(20), Net::agree);
    net.run(secs(60));
    assert!(net.link_count(worker) <= GATEWAYS_MAX + 4, "{}", net.link_count(worker));
}

#[test]
fn a_quiet_cluster_is_quiet() {
    let (mut net, _, workers) = cluster(5, 10);
    net.run(secs(30));
    let sent = |net: &Net| net.machines.values().map(|m| m.sent_bytes).sum::<usize>();
    let (before, incarnation) = (sent(&net), net.view(workers[0]).members[&workers[1]].manifest.incarnation);
    net.run(secs(600));
    let per_node_s = (sent(&net) - before) / 11 / 600;
    assert!(per_node_s < 200, "{per_node_s} bytes per second and node");
    assert_eq!(net.view(workers[0]).members[&workers[1]].manifest.incarnation, incarnation);
    assert!(net.agree());
}

#[test]
fn a_changed_offer_reaches_all_at_once_and_an_unchanged_one_nobody() {
    let (mut net, _, workers) = cluster(6, 6);
    let published = net.machines[&workers[0]].published.len();
    net.input(workers[0], Input::Offer(vec![service("common"), service("s0")]));
    assert_eq!(net.machines[&workers[0]].published.len(), published, "the same in another order");
    net.input(workers[0], Input::Offer(vec![service("fresh")]));
    let everywhere = |net: &Net| {
        net.running().iter().all(|at| offers(net, *at, "fresh") == [workers[0]] && offers(net, *at, "s0").is_empty())
    };
    net.until("everybody knows the new offer", secs(1), everywhere);
    assert!(!offers(&net, workers[3], "common").contains(&workers[0]));

    net.input(workers[0], Input::Drain(true));
    net.until("draining", secs(1), |net| {
        net.running().iter().all(|at| net.view(*at).members[&workers[0]].manifest.draining)
    });
    let data = vec!["10.1.1.1:4901".parse().expect("an address")];
    net.input(workers[0], Input::Addresses { mesh: vec!["/ip4/10.1.1.1/tcp/4900".to_owned()], data: data.clone() });
    net.until("addresses", secs(1), |net| {
        net.running().iter().all(|at| net.view(*at).members[&workers[0]].manifest.data_addresses == data)
    });
}

#[test]
fn an_offer_past_its_bounds_changes_nothing() {
    let (mut net, gateway, workers) = cluster(7, 2);
    let mut bad = service("bad");
    bad.labels = (0..40).map(|i| (i.to_string(), String::new())).collect();
    net.input(workers[0], Input::Offer(vec![bad]));
    let long: Vec<_> = (0..64)
        .map(|i| {
            let mut s = service(&format!("long{i}"));
            s.labels = (0..32).map(|l| (format!("{l}{}", "k".repeat(100)), "v".repeat(128))).collect();
            s
        })
        .collect();
    net.input(workers[0], Input::Offer(long));
    net.run(secs(1));
    assert_eq!(offers(&net, gateway, "s0"), [workers[0]]);
    let refused = net.machines[&workers[0]].events.iter().filter(|(_, e)| matches!(e, Event::Refused { .. })).count();
    assert_eq!(refused, 2);
}

#[test]
fn what_gossip_withholds_is_found_through_kademlia() {
    let mut net = Net::new(8);
    let entry = net.worker(1, &["other"], None);
    let gateway = net.gateway(1_000, Some(entry));
    let hidden = net.machine(2, &[Role::Worker], &["rare"], &LeafSpec::worker());
    net.machines.get_mut(&hidden).expect("a machine").gossip_own = false;
    net.start(hidden, Some(entry));
    net.run(secs(60));
    assert!(offers(&net, gateway, "rare").is_empty(), "nobody was told");
    net.input(gateway, Input::Find(service_name("rare")));
    let took = net.until("found", secs(1), |net| offers(net, gateway, "rare") == [hidden]);
    assert!(took < ms(500), "{took:?}");
    net.input(gateway, Input::Find(service_name("nobody-has-it")));
    net.run(secs(5));
    assert!(offers(&net, gateway, "nobody-has-it").is_empty());
}

#[test]
fn a_lost_gossip_message_is_repaired_by_the_exchange() {
    let (mut net, gateway, workers) = cluster(9, 8);
    net.loss = 100;
    net.input(workers[0], Input::Offer(vec![service("fresh")]));
    net.run(ms(500));
    net.loss = 0;
    assert!(offers(&net, gateway, "fresh").is_empty());
    let everywhere = |net: &Net| net.running().iter().all(|at| offers(net, *at, "fresh") == [workers[0]]);
    let took = net.until("everybody knows", secs(60), everywhere);
    assert!(took < secs(30), "{took:?}");
}

#[test]
fn a_credential_ends_and_with_it_the_membership() {
    let (mut net, gateway, workers) = cluster(10, 4);
    let spec = LeafSpec { not_after: crate::id::UnixSeconds(START.0 + 120), ..LeafSpec::worker() };
    let brief = net.machine(77, &[Role::Worker], &["brief"], &spec);
    net.start(brief, Some(gateway));
    let renewing = net.machine(78, &[Role::Worker], &["lasting"], &spec);
    net.start(renewing, Some(gateway));
    net.until("both are there", secs(5), Net::agree);
    net.run(secs(30));
    let chain = net.cluster.chain(&renewing, &LeafSpec::worker());
    net.machines.get_mut(&renewing).expect("a machine").chain = chain.clone();
    net.input(renewing, Input::Renewed(chain.clone()));
    net.until("the new credential is known", secs(2), |net| {
        net.running().iter().all(|at| net.view(*at).members[&renewing].manifest.credential == chain.hash())
    });
    net.run(secs(120));
    for at in workers.iter().chain([&gateway]) {
        assert_eq!(net.state(*at, brief), None, "no member any more");
        assert!(offers(&net, *at, "brief").is_empty());
        assert_eq!(offers(&net, *at, "lasting"), [renewing]);
        assert!(!net.linked(*at, brief), "and not connected");
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = |seed| {
        use sha2::Digest as _;
        let (mut net, _, workers) = cluster(seed, 6);
        net.kill(workers[2]);
        net.run(secs(20));
        let trace: [u8; 32] = net.trace.finalize().into();
        trace
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn readers_see_signs_of_life_of_connected_members() {
    let (mut net, gateway, workers) = cluster(13, 3);
    let before: Vec<_> = workers.iter().map(|w| net.view(gateway).members[w].last_seen).collect();
    net.run(secs(60));
    let view = net.view(gateway);
    for (worker, before) in workers.iter().zip(before) {
        let member = &view.members[worker];
        assert!(member.connected);
        assert!(member.last_seen >= before + secs(50));
        assert_eq!(member.state, MemberState::Alive);
        assert!(member.since < member.last_seen - Duration::from_secs(50), "nothing has happened to it");
    }
    assert!(view.services["common"].iter().all(|p| p.member.last_seen == view.members[&p.node].last_seen));
}
