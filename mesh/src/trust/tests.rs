//! The whole of trust, on real directories and with a clock of the test's own.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use paceline_proto::{
    id::{Role, ServiceName},
    token::TokenError,
};

use super::{authority::Subject, *};
use crate::mesh::TokenSpec;

const DAY_S: u64 = 86_400;
const NONCE: [u8; 32] = [5; 32];

/// A test's clock.
#[derive(Clone)]
pub(super) struct Time(Arc<AtomicU64>);

impl Time {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(1_800_000_000)))
    }

    fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }

    fn clock(&self) -> Clock {
        let time = self.0.clone();
        Clock::new(move || UnixSeconds(time.load(Ordering::Relaxed)))
    }
}

fn roles(roles: &[Role]) -> Roles {
    roles.iter().copied().collect()
}

fn try_open(dir: &Path, membership: Membership, of: &[Role], time: &Time) -> Result<Trust, StartError> {
    let leaf_ttl = Duration::from_secs(30 * DAY_S);
    Trust::open_at(&Options { data_dir: dir.to_owned(), membership, roles: roles(of), leaf_ttl }, time.clock())
}

pub(super) fn found(dir: &Path, time: &Time) -> Trust {
    try_open(dir, Membership::FoundOrResume, &[Role::Worker, Role::Gateway], time).expect("founded")
}

fn join(text: &str) -> Membership {
    Membership::Join(Box::new(Token::parse(text).expect("a token")))
}

fn spec(of: &[Role], uses: Option<u32>) -> TokenSpec {
    let ttl = Duration::from_secs(DAY_S);
    TokenSpec { roles: roles(of), issuer: false, services: Vec::new(), ttl, uses }
}

fn worker_token(issuer: &Trust, uses: Option<u32>) -> String {
    issuer.create_token(&spec(&[Role::Worker], uses), &["/ip4/127.0.0.1/tcp/4900".to_owned()]).expect("a token").1
}

fn ask(newcomer: &Trust, issuer: &Trust) -> Result<Issued, Refusal> {
    let request = newcomer.join_request(issuer.node(), &NONCE).expect("a newcomer");
    issuer.admit(&request, newcomer.node(), &NONCE)
}

/// A newcomer, admitted.
fn admitted(dir: &Path, text: &str, issuer: &Trust, time: &Time) -> Trust {
    let newcomer = try_open(dir, join(text), &[Role::Worker], time).expect("a newcomer");
    newcomer.accept(&ask(&newcomer, issuer).expect("admitted")).expect("accepted");
    newcomer
}

fn said<T>(result: Result<T, StartError>) -> String {
    let said = result.map(|_| ()).expect_err("refused").to_string();
    assert!(!said.contains('\n'), "one line: {said}");
    said
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn a_founder_is_a_member_and_comes_back_as_the_same() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = home.path().join("up");
    let first = found(&dir, &time);
    assert!(first.founded() && first.is_issuer());
    let own = first.own().expect("a member");
    assert_eq!(own.credential.roles, roles(&[Role::Worker, Role::Gateway]));
    assert!(own.credential.issuer);
    assert_eq!(first.judge(&own.chain).as_ref(), Ok(&own.credential));
    assert_eq!(first.keypair().public().try_into_ed25519().map(|k| k.to_bytes()).ok(), Some(*first.node().as_bytes()));
    first.save_incarnation(Incarnation(3)).expect("saved");
    first.save_name(&WorkerName::new("box").expect("a name")).expect("saved");
    first.save_peers(&[KnownPeer { node: first.node(), addresses: vec!["/a".to_owned()] }]);
    let (node, cluster) = (first.node(), first.cluster());
    drop(first);
    let again = found(&dir, &time);
    assert!(!again.founded() && again.is_issuer());
    assert_eq!((again.node(), again.cluster(), again.own()), (node, cluster, Some(own)));
    assert_eq!((again.incarnation(), again.name().map(|n| n.to_string())), (Incarnation(3), Some("box".to_owned())));
    assert_eq!(again.peers().len(), 1);
    assert!(format!("{again:?}").len() < 60, "no secrets");
}

#[test]
fn a_start_that_fails_leaves_nothing_behind() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    // A founder that could not bind its ports, say.
    drop(found(&home.path().join("up"), &time));
    let founder = found(&home.path().join("founder"), &time);
    let text = worker_token(&founder, None);
    let newcomer = try_open(&home.path().join("n"), join(&text), &[Role::Worker], &time).expect("a newcomer");
    assert!(newcomer.own().is_none() && newcomer.token().is_some() && newcomer.renew_at().is_none());
    newcomer.remember_time();
    newcomer.save_peers(&[]);
    newcomer.commit().expect("nothing to do");
    assert!(newcomer.save_incarnation(Incarnation(1)).is_err());
    assert!(newcomer.create_token(&spec(&[Role::Worker], None), &[]).is_err());
    drop(newcomer);
    assert_eq!(entries(home.path()), 1, "only the committed founder's");
    let fresh = try_open(&home.path().join("n"), Membership::Resume, &[Role::Worker], &time);
    assert!(said(fresh).contains("a join token is needed"));
    assert_eq!(entries(home.path()), 1);
}

#[test]
fn a_newcomer_joins_and_comes_back_without_token() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let founder = found(&home.path().join("up"), &time);
    let mut only = spec(&[Role::Worker, Role::Bootstrap], None);
    only.services = vec![ServiceName::new("files").expect("a name")];
    let (id, text) = founder.create_token(&only, &[]).expect("a token");
    let newcomer = admitted(&home.path().join("n"), &text, &founder, &time);
    let own = newcomer.own().expect("a member");
    assert!(newcomer.token().is_none() && !newcomer.is_issuer());
    assert_eq!(own.credential.roles, roles(&[Role::Worker]), "what it asked for, not all that was granted");
    assert_eq!(own.credential.services, Some(only.services.iter().cloned().collect()));
    assert!(!own.credential.issuer);
    assert_eq!(founder.tokens().iter().map(|t| (t.id.clone(), t.used)).collect::<Vec<_>>(), [(id.to_string(), 1)]);
    drop(newcomer);
    let again = try_open(&home.path().join("n"), Membership::Resume, &[Role::Worker], &time).expect("resumed");
    assert_eq!(again.own(), Some(own.clone()));
    drop(again);
    let again = try_open(&home.path().join("n"), join(&text), &[Role::Worker], &time).expect("resumed");
    assert_eq!(again.own(), Some(own), "the token is not needed");
}

#[test]
fn uses_are_counted_by_newcomer_and_survive_a_restart() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = |n: &str| home.path().join(n);
    let founder = found(&dir("up"), &time);
    let text = worker_token(&founder, Some(2));
    let first = admitted(&dir("1"), &text, &founder, &time);
    let second = try_open(&dir("2"), join(&text), &[Role::Worker], &time).expect("a newcomer");
    ask(&second, &founder).expect("admitted");
    ask(&second, &founder).expect("an answer that was lost costs nothing");
    drop(founder);
    let founder = found(&dir("up"), &time);
    assert_eq!(founder.tokens()[0].used, 2);
    ask(&second, &founder).expect("still the same newcomer");
    let third = try_open(&dir("3"), join(&text), &[Role::Worker], &time).expect("a newcomer");
    let id = third.token().expect("a token").grant.id;
    assert_eq!(ask(&third, &founder), Err(TokenError::UsedUp(id).into()));
    assert_eq!(ask(&third, &first), Err(Refusal::AskMaker(founder.node())), "no issuer");
}

#[test]
fn bad_tokens_are_refused_in_words() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = |n: &str| home.path().join(n);
    let (founder, other) = (found(&dir("up"), &time), found(&dir("other"), &time));
    let text = worker_token(&founder, None);
    let lacking = try_open(&dir("n"), join(&text), &[Role::Gateway], &time);
    assert!(said(lacking).contains("does not grant the role gateway"));
    let newcomer = try_open(&dir("n"), join(&text), &[Role::Worker], &time).expect("a newcomer");
    let id = newcomer.token().expect("a token").grant.id;
    assert_eq!(ask(&newcomer, &other), Err(TokenError::OtherCluster(id).into()));
    let mut greedy = newcomer.join_request(founder.node(), &NONCE).expect("a newcomer");
    greedy.roles = roles(&[Role::Gateway]);
    let role = TokenError::Role { id, role: Role::Gateway };
    assert_eq!(founder.admit(&greedy, newcomer.node(), &NONCE), Err(role.into()));
    greedy.roles = Roles::default();
    assert!(matches!(founder.admit(&greedy, newcomer.node(), &NONCE), Err(Refusal::Other(_))));
    greedy.roles = roles(&[Role::Worker]);
    greedy.issuer_key = Some(*newcomer.node().as_bytes());
    assert!(matches!(founder.admit(&greedy, newcomer.node(), &NONCE), Err(Refusal::Other(_))));
    let foreign = other.own().expect("a member").chain.clone();
    let said_ = said(newcomer.accept(&Issued { chain: foreign, intermediate: None }));
    assert!(said_.contains("another cluster"), "{said_}");
    let not_mine = founder.own().expect("a member").chain.clone();
    assert!(newcomer.accept(&Issued { chain: not_mine, intermediate: None }).is_err());
    assert_eq!(founder.tokens()[0].used, 0, "refusals cost nothing");
    time.pass(DAY_S + 1);
    assert_eq!(ask(&newcomer, &founder), Err(TokenError::Expired(id).into()));
    assert!(said(try_open(&dir("late"), join(&text), &[Role::Worker], &time)).contains("has expired"));
    assert_eq!(entries(home.path()), 3, "up, other, and n while its process lives");
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = |n: &str| home.path().join(n);
    let (ours, theirs) = (found(&dir("ours"), &time), found(&dir("theirs"), &time));
    drop(admitted(&dir("n"), &worker_token(&ours, None), &ours, &time));
    let words = said(try_open(&dir("n"), join(&worker_token(&theirs, None)), &[Role::Worker], &time));
    let (a, b) = (ours.cluster().short(), theirs.cluster().short());
    assert!(words.contains(&format!("belongs to cluster {a}, and the join token is of cluster {b}")), "{words}");
    assert!(said(try_open(&dir("ours"), Membership::Resume, &[Role::Worker], &time)).contains("in use by another"));
    let words = said(try_open(&dir("n"), Membership::Resume, &[Role::Gateway], &time));
    assert!(words.contains("admitted as worker, not as gateway"), "{words}");
}

#[test]
fn files_that_do_not_belong_together_are_named() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = |n: &str| home.path().join(n);
    for n in ["a", "b"] {
        found(&dir(n), &time).commit().expect("saved");
    }
    for (name, words) in [
        ("issuer.pem", "issuer.pem is corrupt"),
        ("issuer.key", "issuer.pem is corrupt"),
        ("root.key", "root.key is corrupt"),
        ("chain.pem", "chain.pem is corrupt"),
        ("identity.key", "chain.pem is corrupt"),
    ] {
        let ours = fs::read(dir("a").join(name)).expect("there");
        fs::copy(dir("b").join(name), dir("a").join(name)).expect("copied");
        let words_ = said(try_open(&dir("a"), Membership::Resume, &[Role::Worker], &time));
        assert!(words_.contains(words), "{name}: {words_}");
        fs::write(dir("a").join(name), ours).expect("written");
    }
    assert!(try_open(&dir("a"), Membership::Resume, &[Role::Worker], &time).is_ok());
}

#[test]
fn renewal_keeps_what_a_leaf_says() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let founder = found(&home.path().join("up"), &time);
    let mut only = spec(&[Role::Worker], None);
    only.services = vec![ServiceName::new("files").expect("a name")];
    let text = founder.create_token(&only, &[]).expect("a token").1;
    let member = admitted(&home.path().join("n"), &text, &founder, &time);
    let old = member.own().expect("a member");
    assert!(member.renew_at() > Some(member.now()));
    time.pass(16 * DAY_S);
    assert!(member.renew_at() < Some(member.now()), "half of its life is over, and the token has expired long ago");
    let issued = founder.renew(&old.credential, &member.renew_request()).expect("renewed");
    let new = member.accept(&issued).expect("accepted");
    assert_eq!(Subject::from(&new.credential), Subject::from(&old.credential));
    assert!(new.credential.not_after > old.credential.not_after && member.renew_at() > Some(member.now()));
    assert!(member.renew(&old.credential, &member.renew_request()).is_err(), "not an issuer");
    assert!(matches!(member.renew_self(), Err(Refusal::Other(_))));
    drop(member);
    let member = try_open(&home.path().join("n"), Membership::Resume, &[Role::Worker], &time).expect("resumed");
    assert_eq!(member.own(), Some(new.clone()), "it is on disk");
    time.pass(31 * DAY_S);
    assert!(founder.renew(&new.credential, &member.renew_request()).is_err(), "too late");
    drop(member);
    let late = try_open(&home.path().join("n"), Membership::Resume, &[Role::Worker], &time);
    assert!(said(late).contains("its certificate has expired: join again"));
    let node = new.credential.node;
    let token = join(&worker_token(&founder, None));
    let again = try_open(&home.path().join("n"), token, &[Role::Worker], &time).expect("a newcomer again");
    assert!(again.own().is_none() && again.node() == node, "with the key that it had");
    again.accept(&ask(&again, &founder).expect("admitted")).expect("accepted");
}

#[test]
fn an_issuer_needs_nobody_to_renew_itself() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = home.path().join("up");
    let founder = found(&dir, &time);
    founder.commit().expect("saved");
    let old = founder.own().expect("a member");
    time.pass(16 * DAY_S);
    let new = founder.renew_self().expect("renewed");
    assert_eq!(Subject::from(&new.credential), Subject::from(&old.credential));
    assert_eq!(new.chain.intermediate, old.chain.intermediate, "an issuer certificate lives for years");
    drop(founder);
    time.pass(3 * 365 * DAY_S);
    let founder = found(&dir, &time);
    assert_eq!(founder.judge(&founder.own().expect("a member").chain).map(|c| c.node), Ok(new.credential.node));
    let newer = founder.renew_self().expect("renewed");
    assert_ne!(newer.chain.intermediate, old.chain.intermediate);
    drop(founder);
    let roles = [Role::Worker, Role::Gateway, Role::Bootstrap];
    let founder = try_open(&dir, Membership::Resume, &roles, &time).expect("another role");
    assert_eq!(founder.own().expect("a member").credential.roles.iter().count(), 3);
}

#[test]
fn an_issuer_admitted_by_token_admits_others() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = |n: &str| home.path().join(n);
    let founder = found(&dir("up"), &time);
    let mut issuers = spec(&[Role::Gateway], Some(1));
    issuers.issuer = true;
    let (_, text) = founder.create_token(&issuers, &[]).expect("a token");
    let second = try_open(&dir("2"), join(&text), &[Role::Gateway], &time).expect("a newcomer");
    assert!(!second.is_issuer());
    let issued = ask(&second, &founder).expect("admitted");
    let own = second.accept(&issued).expect("accepted");
    assert!(own.credential.issuer && second.is_issuer());
    drop(second);
    let second = try_open(&dir("2"), Membership::Resume, &[Role::Gateway], &time).expect("resumed");
    assert!(second.is_issuer());
    assert!(second.create_token(&issuers, &[]).expect_err("no root key").contains("root key"));
    // A token without bound is good at every issuer, a bounded one only at its maker.
    let free = try_open(&dir("3"), join(&worker_token(&founder, None)), &[Role::Worker], &time).expect("a newcomer");
    free.accept(&ask(&free, &second).expect("admitted by the other")).expect("accepted");
    assert_eq!(founder.judge(&free.own().expect("a member").chain).map(|c| c.node), Ok(free.node()));
    let bounded = try_open(&dir("4"), join(&worker_token(&founder, Some(1))), &[Role::Worker], &time);
    assert_eq!(ask(&bounded.expect("a newcomer"), &second), Err(Refusal::AskMaker(founder.node())));
    let theirs = try_open(&dir("5"), join(&worker_token(&second, Some(1))), &[Role::Worker], &time);
    ask(&theirs.expect("a newcomer"), &second).expect("admitted");
    let renewed = second.renew_self().expect("renewed");
    assert_eq!(renewed.chain.intermediate, issued.intermediate.expect("an issuer"), "signed by itself now");
}

#[test]
fn time_never_goes_back_before_the_last_start() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let dir = home.path().join("up");
    let founder = found(&dir, &time);
    time.pass(100 * DAY_S);
    founder.remember_time();
    let last = founder.now();
    drop(founder);
    let founder = found(&dir, &Time::new());
    assert_eq!(founder.now(), last);
}

#[test]
fn leaving_needs_a_token_to_come_back() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let founder = found(&home.path().join("up"), &time);
    let member = admitted(&home.path().join("n"), &worker_token(&founder, None), &founder, &time);
    member.forget().expect("forgotten");
    assert!(member.save_incarnation(Incarnation(9)).is_err(), "nothing is written after it");
    drop(member);
    let back = try_open(&home.path().join("n"), Membership::Resume, &[Role::Worker], &time);
    assert!(said(back).contains("a join token is needed"));
}

#[test]
fn impossible_tokens_are_not_made() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let founder = found(&home.path().join("up"), &time);
    let refused = |spec: TokenSpec| founder.create_token(&spec, &[]).expect_err("refused");
    assert!(refused(spec(&[], None)).contains("role"));
    assert!(refused(spec(&[Role::Worker], Some(0))).contains("uses"));
    assert!(refused(TokenSpec { ttl: Duration::ZERO, ..spec(&[Role::Worker], None) }).contains("365 days"));
    assert!(refused(TokenSpec { ttl: TOKEN_TTL_MAX * 2, ..spec(&[Role::Worker], None) }).contains("365 days"));
    assert!(founder.tokens().is_empty());
}

#[test]
fn whoever_is_revoked_is_nobody_any_more() {
    let (home, time) = (tempfile::tempdir().expect("a directory"), Time::new());
    let founder = found(&home.path().join("up"), &time);
    founder.commit().expect("on disk");
    let text = worker_token(&founder, None);
    let member = admitted(&home.path().join("n"), &text, &founder, &time);
    let own = member.own().expect("a member");
    let token = own.credential.token.expect("it came by a token");
    assert_eq!((token.to_string(), own.credential.issued_by), (founder.tokens()[0].id.clone(), Some(founder.node())));
    assert_eq!(founder.tokens_of(&member.node()), [token]);
    assert!(founder.judge(&own.chain).is_ok());

    let entries = [founder.entry_of_node(member.node(), Some(&own.credential)), founder.entry_of_token(token)];
    assert_eq!(founder.revoke(&entries, &[]), Ok(1));
    assert_eq!(founder.judge(&own.chain).err(), Some(CredentialError::Revoked));
    assert!(founder.renew(&own.credential, &member.renew_request()).is_err());
    let late = try_open(&home.path().join("late"), join(&text), &[Role::Worker], &time).expect("a newcomer");
    assert_eq!(ask(&late, &founder).err(), Some(Refusal::Token(TokenError::Revoked(token))));
    assert_eq!(founder.tokens()[0].state, crate::mesh::TokenState::Revoked);

    assert!(member.revoke(&entries, &[]).is_err(), "it is no issuer");
    assert_eq!(member.take_revocations(&founder.revocations().lists()), Ok(true));
    assert_eq!(member.take_revocations(&founder.revocations().lists()), Ok(false));
    drop(member);
    let again = try_open(&home.path().join("n"), Membership::Resume, &[Role::Worker], &time);
    assert!(said(again).contains("this worker's key is revoked"));

    // It is on disk at the founder too, and a file that was changed lets nobody in.
    drop(founder);
    let founder = found(&home.path().join("up"), &time);
    assert_eq!(founder.judge(&own.chain).err(), Some(CredentialError::Revoked));
    drop(founder);
    let file = home.path().join("up/revoked");
    let mut bytes = fs::read(&file).expect("there");
    bytes.truncate(bytes.len() - 1);
    fs::write(&file, bytes).expect("written");
    let broken = try_open(&home.path().join("up"), Membership::FoundOrResume, &[Role::Worker], &time);
    assert!(said(broken).contains("revoked is corrupt"));
}
