//! Real nodes on 127.0.0.1: they find each other, miss each other, and come back.

mod cluster_support;

use std::time::{Duration, Instant};

use cluster_support::{Machine, SOON, converged, founder, service, state, token, until, until_state};
use paceline_mesh::config::Membership;
use paceline_proto::{id::Role, view::MemberState};

/// Graceful end of a node without requests.
const GRACE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_see_each_other_and_their_services_within_a_second() {
    let (_a, gateway) = founder("gateway").await;
    let machine = Machine::worker("n2").joining(&token(&gateway, &[Role::Worker]).await);
    let began = Instant::now();
    let worker = machine.start().await;
    worker.offer(vec![service("notes")]).expect("a service");
    until(&gateway, SOON, "the service", |view| view.services.contains_key("notes")).await;
    let took = began.elapsed();
    converged(&[&gateway, &worker]).await;
    assert!(took < Duration::from_secs(3), "{took:?}");
    worker.offer(vec![]).expect("no service");
    until(&gateway, SOON, "no service", |view| view.services.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_converge_and_one_that_is_killed_or_leaves_is_missed() {
    let (_a, gateway) = founder("gateway").await;
    let token = token(&gateway, &[Role::Worker]).await;
    let machines: Vec<Machine> = (0..4).map(|i| Machine::worker(&format!("w{i}")).joining(&token)).collect();
    let mut workers = Vec::new();
    for machine in &machines {
        workers.push(machine.start().await);
    }
    converged(&[&gateway, &workers[0], &workers[1], &workers[2], &workers[3]]).await;

    let killed = workers.remove(3);
    let id = killed.id();
    drop(killed);
    for mesh in [&gateway, &workers[0], &workers[1], &workers[2]] {
        until_state(mesh, id, MemberState::Dead, Duration::from_secs(10)).await;
    }

    let leaves = workers.remove(2);
    let began = Instant::now();
    leaves.shutdown(GRACE, false).await;
    let left = leaves.id();
    for mesh in [&gateway, &workers[0], &workers[1]] {
        until_state(mesh, left, MemberState::Left, Duration::from_secs(3)).await;
    }
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());

    // the killed one comes back with what is on its disk
    let back = machines[3].start_again().await;
    assert_eq!(back.id(), id);
    converged(&[&gateway, &workers[0], &workers[1], &back]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_comes_back_without_a_token_also_where_its_founder_moved() {
    let (founder_machine, gateway) = founder("gateway").await;
    let mut machine = Machine::worker("n2").joining(&token(&gateway, &[Role::Worker]).await);
    let worker = machine.start().await;
    converged(&[&gateway, &worker]).await;
    worker.stop().await;

    machine.config.membership = Membership::Resume;
    let worker = machine.start_again().await;
    assert_eq!(worker.name().as_str(), "n2");
    converged(&[&gateway, &worker]).await;

    // the founder comes back on other ports: it knows the worker from its disk
    let id = gateway.id();
    gateway.stop().await;
    until_state(&worker, id, MemberState::Left, SOON).await;
    let gateway = founder_machine.start_again().await;
    assert!(!gateway.founded());
    converged(&[&gateway, &worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_forgets_needs_a_token() {
    let (_a, gateway) = founder("gateway").await;
    let mut machine = Machine::worker("n2").joining(&token(&gateway, &[Role::Worker]).await);
    let worker = machine.start().await;
    converged(&[&gateway, &worker]).await;
    worker.shutdown(GRACE, true).await;
    drop(worker);
    machine.config.membership = Membership::Resume;
    machine.refusal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_whose_manifest_is_not_gossiped_is_found_in_kademlia() {
    let (_a, gateway) = founder("gateway").await;
    let token = token(&gateway, &[Role::Worker]).await;
    let others = [Machine::worker("w1").joining(&token), Machine::worker("w2").joining(&token)];
    let mut hidden = Machine::worker("hidden").joining(&token);
    hidden.config.gossip_own_manifest = false;
    let (first, second) = (others[0].start().await, others[1].start().await);
    let worker = hidden.start().await;
    worker.offer(vec![service("secret")]).expect("a service");
    converged(&[&gateway, &first, &second]).await;

    let name = paceline_proto::id::ServiceName::new("secret").expect("a name");
    assert!(!gateway.view().services.contains_key("secret"), "it is withheld from gossip");
    let deadline = Instant::now() + SOON;
    while !gateway.view().services.contains_key("secret") {
        assert!(Instant::now() < deadline, "not found");
        gateway.find(&name).await;
    }
    assert_eq!(gateway.view().services["secret"][0].node, worker.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaves_are_renewed_while_the_node_runs() {
    let mut machine = Machine::new("gateway", &[Role::Worker, Role::Gateway]);
    machine.config.leaf_ttl = Duration::from_secs(8);
    let gateway = machine.start().await;
    let worker = Machine::worker("n2").joining(&token(&gateway, &[Role::Worker]).await).start().await;
    converged(&[&gateway, &worker]).await;
    let credential =
        |view: &paceline_proto::view::ClusterView, node| view.members.get(&node).map(|m| m.manifest.credential);
    let before = (credential(&gateway.view(), gateway.id()), credential(&gateway.view(), worker.id()));
    // longer than a leaf lives: without renewal they would be cut off
    until(&gateway, Duration::from_secs(20), "both renewed", |view| {
        credential(view, gateway.id()) != before.0 && credential(view, worker.id()) != before.1
    })
    .await;
    let again = credential(&gateway.view(), worker.id());
    until(&gateway, Duration::from_secs(20), "renewed twice", |view| credential(view, worker.id()) != again).await;
    assert_eq!(state(&gateway.view(), worker.id()), Some(MemberState::Alive));
    assert_eq!(state(&worker.view(), gateway.id()), Some(MemberState::Alive));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_of_two_clones_of_a_data_directory_stops() {
    let (_a, gateway) = founder("gateway").await;
    let machine = Machine::worker("n2").joining(&token(&gateway, &[Role::Worker]).await);
    let first = machine.start().await;
    converged(&[&gateway, &first]).await;

    // it is written soon, not at once: a copy without it would know nobody to contest
    let deadline = Instant::now() + SOON;
    while !machine.data_dir().join("members.json").exists() {
        assert!(Instant::now() < deadline, "the members are not on disk");
        tokio::task::yield_now().await;
    }
    let mut clone = Machine::worker("n2");
    copy(&machine.data_dir(), &clone.data_dir());
    clone.config.membership = Membership::Resume;
    let second = clone.start().await;
    let why = tokio::time::timeout(Duration::from_secs(30), second.failed()).await.expect("it stops");
    assert!(why.contains("cloned"), "{why}");
    second.stop().await;
    until_state(&gateway, first.id(), MemberState::Alive, SOON).await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a network interface with multicast, which sandboxes lack"]
async fn a_newcomer_finds_a_lan_peer_by_mdns_and_not_another_cluster() {
    let mut founder = Machine::new("gateway", &[Role::Worker, Role::Gateway]);
    founder.config.mdns = true;
    founder.config.mesh.address = ([0, 0, 0, 0], 0).into();
    let gateway = founder.start().await;
    let token = token(&gateway, &[Role::Worker]).await;
    gateway.stop().await;
    // on another port: the token's entries are of no use
    let gateway = founder.start_again().await;
    let mut other = Machine::new("other", &[Role::Worker, Role::Gateway]);
    other.config.mdns = true;
    other.config.mesh.address = ([0, 0, 0, 0], 0).into();
    let other = other.start().await;

    let mut machine = Machine::worker("n2").joining(&token);
    machine.config.mdns = true;
    let worker = machine.start().await;
    converged(&[&gateway, &worker]).await;
    assert_eq!(other.view().members.len(), 1);
}
