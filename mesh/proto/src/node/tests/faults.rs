//! Nodes that die, hang, leave, come back, are parted, or cloned.

use super::cluster;
use super::net::{Net, ms, secs};
use crate::id::{Incarnation, NodeId};
use crate::message::Gossip;
use crate::node::{Event, Fatal, Input, Output, Verdict};
use crate::testing::{LeafSpec, key, node_id};
use crate::view::MemberState::{self, Alive, Dead, Left};
use crate::wire;

pub(super) fn everywhere(net: &Net, of: NodeId, state: MemberState) -> bool {
    net.running().into_iter().filter(|at| *at != of).all(|at| net.state(at, of) == Some(state))
}

/// Whether anybody ever took the node for dead since then.
pub(super) fn ever_dead(net: &Net, of: NodeId, since: std::time::Duration) -> bool {
    net.machines
        .values()
        .flat_map(|m| &m.events)
        .any(|(at, e)| matches!(e, Event::State { node, to: Dead, .. } if *node == of && *at >= since))
}

#[test]
fn a_killed_node_is_dead_everywhere_within_seconds() {
    for seed in 0..5 {
        let (mut net, gateway, workers) = cluster(seed, 10);
        net.loss = 5;
        net.kill(workers[3]);
        let took = net.until("dead everywhere", secs(10), |net| everywhere(net, workers[3], Dead));
        assert!(took < secs(2), "{took:?}");
        assert!(!net.view(gateway).services.contains_key("s3"));
        assert!(workers.iter().all(|w| *w == workers[3] || everywhere(&net, *w, Alive)), "and nobody else");
    }
}

#[test]
fn a_goodbye_shows_at_once() {
    let (mut net, gateway, workers) = cluster(21, 10);
    net.leave(workers[3]);
    let took = net.until("left everywhere", secs(1), |net| everywhere(net, workers[3], Left));
    assert!(took < ms(200), "{took:?}");
    assert!(!net.view(gateway).services.contains_key("s3"));
    net.run(secs(30));
    assert!(everywhere(&net, workers[3], Left), "departed, not dead");
    assert!(!ever_dead(&net, workers[3], ms(0)));
}

#[test]
fn after_its_goodbye_a_node_says_nothing() {
    let (mut net, _, workers) = cluster(22, 3);
    let now = net.at();
    let node = net.machines.get_mut(&workers[0]).and_then(|m| m.process.as_mut()).expect("runs");
    node.handle_input(Input::Leave, now);
    let mut unprovided = 0;
    while let Some(output) = node.poll_output() {
        unprovided += usize::from(matches!(output, Output::Unprovide(_)));
    }
    assert_eq!(unprovided, 3, "two services and a role");
    assert_eq!(node.poll_timeout(), None);
    node.handle_input(Input::Drain(true), now);
    assert!(node.poll_output().is_none());
}

#[test]
fn who_comes_back_is_alive_at_once() {
    let (mut net, gateway, workers) = cluster(23, 8);
    net.kill(workers[0]);
    net.leave(workers[1]);
    net.run(secs(20));
    for worker in [workers[0], workers[1]] {
        net.start(worker, Some(gateway));
        net.until("alive everywhere", secs(1), |net| everywhere(net, worker, Alive));
    }
    // So soon that nobody has noticed that it was gone.
    net.kill(workers[2]);
    net.start(workers[2], Some(gateway));
    net.run(secs(10));
    net.until("alive everywhere", secs(1), |net| everywhere(net, workers[2], Alive));
    assert_eq!(net.view(gateway).members[&workers[2]].manifest.incarnation, net.machines[&workers[2]].incarnation);
}

#[test]
fn old_gossip_never_brings_anybody_back() {
    let (mut net, gateway, workers) = cluster(24, 6);
    let old = net.machines[&workers[0]].published.clone();
    net.kill(workers[0]);
    net.until("dead", secs(10), |net| everywhere(net, workers[0], Dead));
    for at in net.running() {
        for bytes in &old {
            let id = net.inject(gateway, at, bytes.clone());
            assert_eq!(net.verdict(at, id), Some(Verdict::Ignore));
        }
    }
    net.run(secs(60));
    assert!(everywhere(&net, workers[0], Dead));
    // Nor at a node that has never seen it alive.
    let newcomer = net.worker(50, &["new"], Some(gateway));
    net.until("the newcomer knows of the death", secs(15), |net| net.state(newcomer, workers[0]) == Some(Dead));
    for bytes in &old {
        net.inject(gateway, newcomer, bytes.clone());
    }
    assert_eq!(net.state(newcomer, workers[0]), Some(Dead));
    let since = net.view(newcomer).members[&workers[0]].since;
    assert!(since + secs(59) < net.at().at, "it knows for how long");
}

#[test]
fn the_gone_are_forgotten_after_an_hour_for_good() {
    let (mut net, gateway, workers) = cluster(25, 5);
    net.kill(workers[0]);
    net.leave(workers[1]);
    net.run(secs(1_800));
    let newcomer = net.worker(50, &["new"], Some(gateway));
    net.run(secs(1_700));
    assert_eq!(net.state(newcomer, workers[0]), Some(Dead));
    assert_eq!(net.state(newcomer, workers[1]), Some(Left));
    net.run(secs(200));
    for at in net.running() {
        assert_eq!(net.state(at, workers[0]), None);
        assert_eq!(net.state(at, workers[1]), None);
    }
    assert!(net.agree());
}

#[test]
fn parted_and_healed_all_agree_again() {
    for seed in 30..34 {
        let (mut net, _, workers) = cluster(seed, 9);
        net.loss = 5;
        net.run(secs(10));
        let island = &workers[..4];
        let linked: Vec<_> = net.links().collect();
        net.part(island, 1);
        net.run(secs(20));
        for at in net.running() {
            for of in net.running() {
                let together = |a, b| island.contains(&a) == island.contains(&b);
                if together(at, of) {
                    assert_eq!(net.state(at, of), Some(Alive), "{}", net.picture());
                } else if linked.iter().any(|(a, b)| *a == of && together(*b, at) || *b == of && together(*a, at)) {
                    assert_eq!(net.state(at, of), Some(Dead), "somebody on this side missed it\n{}", net.picture());
                }
            }
        }
        net.heal();
        let took = net.until("all agree", secs(60), Net::agree);
        assert!(took < secs(40), "{took:?}");
    }
}

#[test]
fn a_cut_that_is_over_soon_costs_nobody() {
    let (mut net, _, workers) = cluster(35, 8);
    let start = net.now;
    net.part(&workers[..1], 1);
    net.run(secs(1));
    net.heal();
    net.run(secs(20));
    assert!(net.agree());
    assert!(workers.iter().all(|w| !ever_dead(&net, *w, start)));
}

#[test]
fn a_lone_accuser_kills_nobody() {
    let (mut net, gateway, workers) = cluster(36, 8);
    // An admitted member that lies; it need not even run.
    let liar = net.machine(66, &[], &[], &LeafSpec::worker());
    let chain = net.machines[&liar].chain.clone();
    let victim = workers[2];
    let start = net.now;
    for _ in 0..3 {
        let incarnation = net.view(gateway).members[&victim].manifest.incarnation;
        for at in net.running() {
            for message in super::hostile::accusations(&net, 66, &chain, victim, incarnation) {
                net.inject(gateway, at, message);
            }
        }
        net.until("refuted everywhere", secs(2), |net| {
            net.running().iter().all(|at| {
                let member = &net.view(*at).members[&victim];
                member.is_alive() && member.manifest.incarnation > incarnation
            })
        });
    }
    net.run(secs(20));
    assert!(net.agree());
    assert!(!ever_dead(&net, victim, start));
    // And one who says so over and over, with the suspicion first.
    let incarnation = net.view(gateway).members[&victim].manifest.incarnation;
    let [_, suspect, death] = super::hostile::accusations(&net, 66, &chain, victim, incarnation);
    for at in net.running() {
        net.inject(gateway, at, suspect.clone());
    }
    net.run(secs(1));
    for at in net.running() {
        let id = net.inject(gateway, at, death.clone());
        assert_ne!(net.verdict(at, id), Some(Verdict::Accept));
    }
    net.run(secs(5));
    assert!(!ever_dead(&net, victim, start));
}

#[test]
fn a_failed_request_is_evidence_but_kills_nobody() {
    let (mut net, gateway, workers) = cluster(37, 8);
    let start = net.now;
    for _ in 0..20 {
        net.input(gateway, Input::RequestFailed { peer: workers[0] });
        net.run(ms(200));
    }
    net.run(secs(20));
    assert!(net.agree());
    assert!(!ever_dead(&net, workers[0], start));
}

#[test]
fn of_two_clones_the_later_one_ends() {
    let (mut net, gateway, workers) = cluster(38, 4);
    let original = workers[0];
    // The same key on another machine: in this net it needs another id, so it stands alone and hears by injection.
    let mut clone = Net::new(99);
    let copy = clone.machine(0, &[crate::id::Role::Worker], &["s0"], &LeafSpec::worker());
    assert_eq!(copy, original);
    clone.machines.get_mut(&copy).expect("a machine").incarnation = net.machines[&original].incarnation;
    clone.run(net.now + secs(1));
    clone.start(copy, None);
    let (mut heard, mut told) = (net.machines[&original].published.len(), 0);
    for _ in 0..10 {
        for bytes in clone.machines[&copy].published[told..].iter().cloned() {
            net.inject(gateway, original, bytes);
        }
        told = clone.machines[&copy].published.len();
        for bytes in net.machines[&original].published[heard..].iter().cloned() {
            clone.inject(gateway, copy, bytes);
        }
        heard = net.machines[&original].published.len();
    }
    assert_eq!(clone.machines[&copy].fatal, Some(Fatal::Cloned));
    assert_eq!(net.machines[&original].fatal, None);
    net.until("the original is believed", secs(2), |net| {
        everywhere(net, original, Alive)
            && net.view(gateway).members[&original].manifest.incarnation == net.machines[&original].incarnation
    });
}

#[test]
fn a_disk_from_a_backup_is_no_clone() {
    let (mut net, gateway, workers) = cluster(39, 4);
    let worker = workers[0];
    for _ in 0..4 {
        net.kill(worker);
        net.run(secs(5));
        net.start(worker, Some(gateway));
        net.run(secs(5));
    }
    net.kill(worker);
    net.run(secs(5));
    let before = net.machines[&worker].incarnation;
    net.machines.get_mut(&worker).expect("a machine").incarnation = Incarnation(1);
    net.start(worker, Some(workers[1]));
    net.until("alive everywhere", secs(20), |net| everywhere(net, worker, Alive));
    net.run(secs(60));
    assert!(net.machines[&worker].incarnation > before);
    assert_eq!(net.machines[&worker].fatal, None);
    assert!(everywhere(&net, worker, Alive));
}

#[test]
fn whatever_happens_all_agree_in_the_end() {
    for seed in 100..130 {
        let (mut net, gateway, workers) = cluster(seed, 7);
        net.loss = 10;
        for _ in 0..12 {
            let worker = workers[net.rng.below(workers.len())];
            let runs = net.machines[&worker].process.is_some();
            match (net.rng.below(6), runs) {
                (0, true) => net.kill(worker),
                (1, true) => net.leave(worker),
                (2, true) => net.hang(worker),
                (3, _) => net.part(&[worker], 1),
                (_, false) => net.start(worker, Some(gateway)),
                _ => {}
            }
            let pause = net.rng.up_to(secs(8));
            net.run(pause);
        }
        net.heal();
        for worker in &workers {
            if net.machines[worker].hung {
                net.kill(*worker);
            }
            if net.machines[worker].process.is_none() {
                net.start(*worker, Some(gateway));
            }
        }
        net.until(&format!("all agree, seed {seed}"), secs(90), Net::agree);
        net.run(secs(60));
        // Messages are still being lost, and somebody may be under suspicion for a moment.
        net.until(&format!("all agree still, seed {seed}"), secs(5), Net::agree);
        assert!(net.machines.values().all(|m| m.fatal.is_none()), "seed {seed}");
    }
}

#[test]
fn credentials_travel_with_records() {
    // Somebody's manifest comes before its credential: it waits, and the credential is asked for.
    let (mut net, gateway, workers) = cluster(40, 3);
    let stranger = node_id(&key(70));
    net.machine(70, &[crate::id::Role::Worker], &["late"], &LeafSpec::worker());
    net.start(stranger, None);
    let record =
        net.machines[&stranger].published.iter().find(|b| matches!(wire::decode::<Gossip>(b), Ok(Gossip::Record(_))));
    let record = record.expect("a manifest").clone();
    let sent = net.machines[&workers[0]].sent_bytes;
    let id = net.inject(gateway, workers[0], record.clone());
    assert_eq!(net.verdict(workers[0], id), None, "not judged yet");
    assert!(net.machines[&workers[0]].sent_bytes > sent, "the credential is asked for");
    net.run(secs(4));
    assert_eq!(net.verdict(workers[0], id), Some(Verdict::Ignore), "nobody had it");
    assert_eq!(net.state(workers[0], stranger), None);

    let id = net.inject(gateway, workers[0], record);
    let credential = net.machines[&stranger]
        .published
        .iter()
        .find(|b| matches!(wire::decode::<Gossip>(b), Ok(Gossip::Credential(_))));
    let credential = credential.expect("a credential").clone();
    let chain = net.inject(gateway, workers[0], credential);
    assert_eq!(net.verdict(workers[0], chain), Some(Verdict::Accept));
    assert_eq!(net.verdict(workers[0], id), Some(Verdict::Accept));
    assert_eq!(net.state(workers[0], stranger), Some(Alive));
}
