use std::time::Instant;

use super::*;
use crate::id::Role;
use crate::node::tests::net::manifest;
use crate::rng::Rng;
use crate::testing::{key, node_id};

/// Providers as (service, nodes), found by looking at every member.
fn brute_force(members: &BTreeMap<NodeId, Arc<Member>>) -> BTreeMap<ServiceName, Vec<(NodeId, MemberState)>> {
    let mut found: BTreeMap<ServiceName, Vec<_>> = BTreeMap::new();
    for (node, member) in members {
        if matches!(member.state, MemberState::Dead | MemberState::Left) {
            continue;
        }
        for service in &member.manifest.services {
            found.entry(service.name.clone()).or_default().push((*node, member.state));
        }
    }
    found
}

#[test]
fn it_is_what_a_look_at_every_member_finds() {
    let names = ["a", "b", "c", "d", "e"];
    let states = [MemberState::Alive, MemberState::Suspect, MemberState::Dead, MemberState::Left];
    let nodes: Vec<_> = (0..8).map(|i| node_id(&key(i))).collect();
    let now = Instant::now();
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let (mut registry, mut members) = (Registry::default(), BTreeMap::new());
        for step in 0..100 {
            let node = rng.pick(&nodes).expect("there are some");
            if rng.below(6) == 0 {
                members.remove(&node);
            } else {
                let offered: Vec<_> = names.into_iter().filter(|_| rng.below(3) == 0).collect();
                let mut manifest = manifest(node, "n", &[Role::Worker], &offered);
                manifest.version.0 = step;
                let member = Member {
                    name: manifest.name.clone(),
                    roles: manifest.roles,
                    manifest: Arc::new(manifest),
                    state: states[rng.below(4)],
                    since: now,
                    last_seen: now,
                    connected: false,
                };
                members.insert(node, Arc::new(member));
            }
            registry.update(node, members.get(&node));
            let found: BTreeMap<_, Vec<_>> = registry
                .services()
                .iter()
                .map(|(name, providers)| (name.clone(), providers.iter().map(|p| (p.node, p.member.state)).collect()))
                .collect();
            assert_eq!(found, brute_force(&members), "seed {seed}, step {step}");
            for provider in registry.services().values().flatten() {
                assert!(Arc::ptr_eq(&provider.member, &members[&provider.node]), "the present snapshot");
                assert!(provider.member.manifest.services.contains(&provider.service));
            }
        }
    }
}
