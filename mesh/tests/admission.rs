//! The door, with real sockets: who comes in, who does not, and the exact words.

mod cluster_support;

use std::time::Duration;

use cluster_support::{Machine, SOON, converged, founder, roles, token, token_of, until_state};
use paceline_mesh::{config::Membership, mesh::TokenSpec};
use paceline_proto::{
    id::{Role, TokenId},
    token::Token,
    view::MemberState,
};

const HOUR: Duration = Duration::from_secs(3600);

fn id(token: &str) -> TokenId {
    Token::parse(token).expect("a token").grant.id
}

fn worker_spec() -> TokenSpec {
    TokenSpec { roles: roles(&[Role::Worker]), issuer: false, services: vec![], ttl: HOUR, uses: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_up_token_admits_nobody() {
    let (_a, gateway) = founder("gateway").await;
    let token = token_of(&gateway, TokenSpec { uses: Some(1), ..worker_spec() }).await;
    let first = Machine::worker("n2").joining(&token);
    let worker = first.start().await;
    converged(&[&gateway, &worker]).await;
    assert_eq!(gateway.tokens().iter().map(|t| t.used).sum::<u32>(), 1, "one join is one use");
    let refusal = Machine::worker("n3").joining(&token).refusal().await;
    assert_eq!(refusal, format!("not admitted: join token {} is used up", id(&token)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_token_admits_nobody() {
    let (_a, gateway) = founder("gateway").await;
    let token = token_of(&gateway, TokenSpec { ttl: Duration::from_secs(1), ..worker_spec() }).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let machine = Machine::worker("n2").joining(&token);
    assert_eq!(machine.refusal().await, format!("not admitted: join token {} has expired", id(&token)));
    assert!(!machine.data_dir().exists(), "a refused newcomer leaves nothing on disk");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_grants_no_other_role() {
    let (_a, gateway) = founder("gateway").await;
    let token = token(&gateway, &[Role::Worker]).await;
    let refusal = Machine::new("g2", &[Role::Gateway]).joining(&token).refusal().await;
    assert_eq!(refusal, format!("not admitted: join token {} does not grant the role gateway", id(&token)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_of_another_cluster_is_refused_at_an_entry_of_this_one() {
    let (_a, gateway) = founder("gateway").await;
    let (_b, other) = founder("other").await;
    let token = token(&other, &[Role::Worker]).await;
    other.stop().await;
    let mut machine = Machine::worker("n2").joining(&token);
    machine.config.entries = gateway.mesh_addresses();
    assert_eq!(machine.refusal().await, format!("not admitted: join token {} is of another cluster", id(&token)));
    assert!(!machine.data_dir().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_belongs_to_who_had_it() {
    let (_a, gateway) = founder("gateway").await;
    let token = token(&gateway, &[Role::Worker]).await;
    let refusal = Machine::worker("gateway").joining(&token).refusal().await;
    assert_eq!(refusal, "not admitted: the name `gateway` belongs to another member: choose another --name");

    let (mut first, mut second) = (Machine::worker("x").joining(&token), Machine::worker("x").joining(&token));
    (first.config.name, second.config.name) = (None, None);
    let first = first.start().await;
    converged(&[&gateway, &first]).await;
    let second = second.start().await;
    converged(&[&gateway, &first, &second]).await;
    assert_ne!(first.name(), second.name(), "a generated name makes room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_no_issuer_names_one() {
    let (machine, gateway) = founder("gateway").await;
    let token = token(&gateway, &[Role::Worker]).await;
    let worker = Machine::worker("n2").joining(&token).start().await;
    assert!(!worker.is_issuer());
    converged(&[&gateway, &worker]).await;

    // the issuer moves: the token's own entry addresses are of no use any more
    gateway.stop().await;
    let gateway = machine.start_again().await;
    until_state(&worker, gateway.id(), MemberState::Alive, SOON).await;

    let mut newcomer = Machine::worker("n3").joining(&token);
    newcomer.config.entries = worker.mesh_addresses();
    let newcomer = newcomer.start().await;
    converged(&[&gateway, &worker, &newcomer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_issuer_admits_newcomers_by_its_own_tokens() {
    let (_a, gateway) = founder("gateway").await;
    let spec = TokenSpec { roles: roles(&[Role::Gateway]), issuer: true, ..worker_spec() };
    let second = Machine::new("g2", &[Role::Gateway]).joining(&token_of(&gateway, spec).await).start().await;
    converged(&[&gateway, &second]).await;
    assert!(second.is_issuer());
    let worker = Machine::worker("n3").joining(&token(&second, &[Role::Worker]).await).start().await;
    converged(&[&gateway, &second, &worker]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_directory_refuses_a_token_of_another_cluster_and_a_second_process() {
    let (mut machine, gateway) = founder("gateway").await;
    let refusal = machine.refusal().await;
    assert!(refusal.starts_with("data directory "), "{refusal}");
    gateway.stop().await;

    let (_b, other) = founder("other").await;
    let text = token(&other, &[Role::Worker, Role::Gateway]).await;
    machine.config.membership = Membership::Join(Box::new(Token::parse(&text).expect("a token")));
    let refusal = machine.refusal().await;
    assert!(refusal.contains(": it belongs to cluster "), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_that_was_asked_for_is_an_error_before_anything_is_on_disk() {
    let (_a, gateway) = founder("gateway").await;
    let taken = gateway.data_address();
    let mut machine = Machine::worker("n2");
    machine.config.data.address = taken;
    let refusal = machine.refusal().await;
    assert!(refusal.starts_with(&format!("cannot bind --data {taken}")), "{refusal}");
    assert!(!machine.data_dir().exists());
}
