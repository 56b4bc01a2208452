//! Whoever is revoked is out everywhere, at once and for good.

use super::cluster;
use super::net::{Net, ms, secs};
use crate::credential::CredentialError;
use crate::id::{NodeId, UnixSeconds};
use crate::node::{Fatal, Input};
use crate::revocation::{Entry, List, SignedList, Subject};
use crate::testing::{START, key};

/// By the root's key of [`crate::testing::TestCluster`].
fn revoked(net: &Net, seed: u64, author: NodeId, number: u64, nodes: &[NodeId]) -> SignedList {
    let until = UnixSeconds(START.0 + 86_400);
    let mut entries: Vec<_> = nodes.iter().map(|n| Entry { subject: Subject::Node(*n), until }).collect();
    entries.sort_unstable();
    let list = List { author, number, entries, spared: Vec::new() };
    SignedList::new(&list, &key(seed ^ 0xc1a5_7e12_0000_0000), None, &net.cluster.id()).expect("fits")
}

fn knows(net: &Net, at: NodeId, node: NodeId) -> bool {
    net.view(at).members.contains_key(&node)
}

#[test]
fn a_revoked_member_is_out_within_two_seconds_and_ends() {
    let (mut net, gateway, workers) = cluster(70, 12);
    let (gone, others) = (workers[3], [&workers[..3], &workers[4..], &[gateway]].concat());
    let list = revoked(&net, 1, gateway, 1, &[gone]);
    net.input(gateway, Input::Revoked(vec![list.clone()]));
    // As the door of whomever it comes to next tells it.
    net.input(gone, Input::Revoked(vec![list]));
    assert_eq!(net.machines[&gone].fatal, Some(Fatal::Revoked(CredentialError::Revoked)));
    net.until("out everywhere", secs(2), |net| others.iter().all(|at| !knows(net, *at, gone)));
    net.kill(gone);
    net.run(secs(5));
    assert!(others.iter().all(|at| !knows(&net, *at, gone)));
}

#[test]
fn who_was_away_learns_of_it_by_the_next_summary() {
    let (mut net, gateway, workers) = cluster(71, 6);
    let (gone, away) = (workers[0], workers[1]);
    net.kill(away);
    let list = revoked(&net, 1, gateway, 1, &[gone]);
    net.input(gone, Input::Revoked(vec![list.clone()]));
    net.input(gateway, Input::Revoked(vec![list]));
    net.kill(gone);
    net.run(ms(800));
    net.start(away, Some(gateway));
    let mark = |net: &Net, at| net.machines[&at].process.as_ref().map(|node| node.revocations.mark());
    assert_ne!(mark(&net, gateway), Some(0));
    net.until("it has caught up", secs(25), |net| mark(net, away) == mark(net, gateway));
}

#[test]
fn a_forged_list_throws_nobody_out() {
    let (mut net, gateway, workers) = cluster(72, 3);
    let list = revoked(&net, 5, gateway, 1, &[workers[0]]);
    net.input(gateway, Input::Revoked(vec![list]));
    net.run(secs(3));
    assert!(knows(&net, gateway, workers[0]) && net.machines[&workers[0]].fatal.is_none());
}
