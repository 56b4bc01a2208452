//! How a process comes by its identity: it resumes what is on disk, founds a cluster, or waits to be admitted.
//!
//! Decided without writing: what was founded here is in memory until [`Trust::commit`](super::Trust::commit).

use ed25519_dalek::SigningKey;
use paceline_proto::{
    credential::{Chain, Credential, CredentialError, Root},
    id::{NodeId, Roles, UnixSeconds},
    revocation::{Revocations, Subject as Revoked},
    token::Token,
};

use super::{
    Options,
    authority::{Authority, Subject, holds_root, new_key},
    clock::Clock,
    disk::{self, State, Stored},
    store::Store,
};
use paceline_proto::node::Fatal;

use crate::config::Membership;
use crate::mesh::StartError;

/// A clock further behind the last time on disk is worth a warning.
const CLOCK_BEHIND_WARN_S: u64 = 120;

/// What was decided: [`Trust`](super::Trust) is made of it.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) root: Root,
    pub(super) key: SigningKey,
    pub(super) own: Option<(Chain, Credential)>,
    pub(super) authority: Option<Authority>,
    /// An issuer's key, before and after it has its certificate.
    pub(super) issuer_key: Option<SigningKey>,
    pub(super) token: Option<Token>,
    pub(super) founded: bool,
    /// Whether the directory belongs to the cluster already.
    pub(super) on_disk: bool,
    /// Whether the chain is newer than the one on disk.
    pub(super) unsaved: bool,
    /// Who is thrown out.
    pub(super) revocations: Revocations,
    pub(super) state: State,
}

pub(super) fn open(options: &Options, clock: Clock) -> Result<Opened, StartError> {
    let store = Store::open(&options.data_dir)?;
    let behind_s = clock.raise_floor(disk::load_time(&store)?);
    if behind_s > CLOCK_BEHIND_WARN_S {
        tracing::warn!(
            "this machine's clock is {behind_s} s behind the last start: the later time is taken for certificates"
        );
    }
    match (disk::load(&store)?, &options.membership) {
        (Some(stored), membership) => {
            store.keep();
            let token = match membership {
                Membership::Join(token) => Some(&**token),
                Membership::FoundOrResume | Membership::Resume => None,
            };
            resume(options, store, clock, stored, token)
        }
        (None, Membership::FoundOrResume) => found(options, store, clock),
        (None, Membership::Join(token)) => join(options, store, clock, token),
        (None, Membership::Resume) => {
            Err(store.error("it has not joined a cluster yet: a join token is needed (--join)"))
        }
    }
}

fn found(options: &Options, store: Store, clock: Clock) -> Result<Opened, StartError> {
    let key = new_key();
    let node = node_of(&key);
    let authority = Authority::found(node, clock.now()).map_err(|e| StartError::Config(e.to_string()))?;
    let own = issue_to_self(&authority, node, options, clock.now())?;
    let authority_root = authority.root().clone();
    Ok(Opened {
        root: authority.root().clone(),
        issuer_key: Some(authority.key().clone()),
        authority: Some(authority),
        own: Some(own),
        token: None,
        founded: true,
        on_disk: false,
        unsaved: true,
        revocations: Revocations::new(authority_root),
        state: State::default(),
        store,
        clock,
        key,
    })
}

fn join(options: &Options, store: Store, clock: Clock, token: &Token) -> Result<Opened, StartError> {
    check(token, clock.now(), options.roles)?;
    Ok(Opened {
        root: token.root.clone(),
        key: new_key(),
        own: None,
        authority: None,
        issuer_key: token.grant.issuer.then(new_key),
        token: Some(token.clone()),
        founded: false,
        on_disk: false,
        unsaved: false,
        revocations: Revocations::new(token.root.clone()),
        state: State::default(),
        store,
        clock,
    })
}

fn resume(
    options: &Options,
    store: Store,
    clock: Clock,
    stored: Stored,
    token: Option<&Token>,
) -> Result<Opened, StartError> {
    let Stored { root, key, chain, issuer, root_key, revocations, state } = stored;
    let (node, now) = (node_of(&key), clock.now());
    if revocations.has(Revoked::Node(node)) {
        return Err(StartError::Refused(Fatal::Revoked(CredentialError::Revoked).to_string()));
    }
    if let Some(token) = token.filter(|t| t.root != root) {
        return Err(store.error(format!(
            "it belongs to cluster {}, and the join token is of cluster {}",
            root.cluster().short(),
            token.root.cluster().short()
        )));
    }
    if let Some(root_key) = &root_key {
        holds_root(&root, root_key).map_err(|e| store.error(format!("root.key is corrupt: {e}")))?;
    }
    let issuer_key = issuer.as_ref().map(|(key, _)| key.clone());
    let authority = match issuer {
        Some((key, certificate)) => match root.judge_intermediate(&certificate, now) {
            Err(CredentialError::Expired) => {
                tracing::warn!("this node's issuer certificate has expired: it can admit nobody");
                None
            }
            _ => Some(
                Authority::new(root.clone(), root_key, key, certificate, now)
                    .map_err(|e| store.error(format!("issuer.pem is corrupt: {e}")))?,
            ),
        },
        None => None,
    };
    let judged = judge_own(&root, &revocations, chain, node, options.roles, now);
    let refused = |reason| StartError::DataDir { path: options.data_dir.clone(), reason };
    let opened = |own, unsaved, token: Option<&Token>| Opened {
        // A token may make an issuer of a member that was none.
        issuer_key: issuer_key.clone().or_else(|| token.filter(|t| t.grant.issuer).map(|_| new_key())),
        token: token.cloned(),
        founded: false,
        on_disk: true,
        store,
        clock,
        root,
        key,
        own,
        authority: authority.clone(),
        unsaved,
        revocations,
        state,
    };
    match (judged, &authority, token) {
        (Ok((chain, credential)), ..) => Ok(opened(Some((chain, credential)), false, None)),
        // An issuer can sign for its own key: it needs nobody.
        (Err(Unusable::Outgrown(_)), Some(authority), _) => {
            let own = issue_to_self(authority, node, options, now)?;
            Ok(opened(Some(own), true, None))
        }
        (Err(_), _, Some(token)) => {
            check(token, now, options.roles)?;
            Ok(opened(None, false, Some(token)))
        }
        (Err(Unusable::Outgrown(why) | Unusable::Wrong(why)), ..) => Err(refused(why)),
    }
}

/// Why the chain on disk is of no use to this process, in words for the user.
enum Unusable {
    /// It was good: it is missing, past its end, or lacks a role.
    Outgrown(String),
    /// It was never this node's, or the clock is wrong.
    Wrong(String),
}

fn judge_own(
    root: &Root,
    revocations: &Revocations,
    chain: Option<Chain>,
    node: NodeId,
    roles: Roles,
    now: UnixSeconds,
) -> Result<(Chain, Credential), Unusable> {
    let chain = chain.ok_or_else(|| Unusable::Outgrown("chain.pem is missing".to_owned()))?;
    let credential = root.judge(&chain, now).map_err(|e| match e {
        CredentialError::Expired => {
            Unusable::Outgrown("its certificate has expired: join again with a new token (--join)".to_owned())
        }
        CredentialError::NotYetValid => Unusable::Wrong(e.to_string()),
        e => Unusable::Wrong(format!("chain.pem is corrupt: {e}")),
    })?;
    revocations
        .judge(&credential)
        .map_err(|e| Unusable::Outgrown(format!("{e}: join again with a new token (--join)")))?;
    if credential.node != node {
        return Err(Unusable::Wrong("chain.pem is corrupt: it is not of the key in identity.key".to_owned()));
    }
    if !roles.is_subset(credential.roles) {
        return Err(Unusable::Outgrown(format!(
            "it was admitted as {}, not as {roles}: take another --data-dir, or join with a token for {roles}",
            credential.roles
        )));
    }
    Ok((chain, credential))
}

/// The roles of this process, any service.
fn issue_to_self(
    authority: &Authority,
    node: NodeId,
    options: &Options,
    now: UnixSeconds,
) -> Result<(Chain, Credential), StartError> {
    let subject = Subject { node, roles: options.roles, issuer: true, services: None, token: None };
    let issued = authority.issue(&subject, now, options.leaf_ttl).map_err(|e| e.to_string());
    let own = issued.and_then(|chain| match authority.root().judge(&chain, now) {
        Ok(credential) => Ok((chain, credential)),
        Err(e) => Err(e.to_string()),
    });
    own.map_err(StartError::Config)
}

fn check(token: &Token, now: UnixSeconds, roles: Roles) -> Result<(), StartError> {
    token.grant.check(now, roles).map_err(|e| StartError::Refused(e.to_string()))
}

pub(super) fn node_of(key: &SigningKey) -> NodeId {
    NodeId::from_bytes(key.verifying_key().to_bytes())
}
