//! How an administrator throws somebody out.

use std::sync::Arc;

use libp2p::PeerId;
use paceline_proto::{
    id::{NodeId, TokenId},
    revocation::{Entry, Subject},
};
use tokio::sync::oneshot;

use super::Mesh;
use crate::control::{
    driver::{Command, Credentials},
    node_of,
};

/// Whom or what to revoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoke {
    /// A member, here or away: by its name, its node id, or its libp2p PeerId.
    Worker {
        /// Which.
        who: String,
        /// Leave the join token alone that it came in by: others still need it, and the machine cannot use it again.
        keep_token: bool,
    },
    /// A join token.
    Token(TokenId),
}

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Revoked {
    /// Of the list.
    pub number: u64,
    /// The member's name, as far as it is known.
    pub worker: Option<String>,
    /// Its node id.
    pub node_id: Option<String>,
    /// Join tokens that let nobody in any more.
    pub tokens: Vec<String>,
    /// Members whose certificates the revoked one has signed as an issuer: they stay.
    pub spared: usize,
}

/// A line of the list.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum RevokedLine {
    /// A member's key.
    Worker {
        /// Its node id.
        node_id: String,
        /// Until when that is remembered, in seconds since 1970.
        until: u64,
    },
    /// A join token.
    Token {
        /// Its id.
        id: String,
        /// Until when that is remembered, in seconds since 1970.
        until: u64,
    },
}

impl Mesh {
    /// Revokes, on disk and in force here when this returns; the cluster follows within 2 s.
    ///
    /// # Errors
    /// In words for the user: this node is not an issuer (the words name those that are), or nobody is meant.
    pub async fn revoke(&self, what: Revoke) -> Result<Revoked, String> {
        let known = self.credentials().await;
        if !self.is_issuer() {
            return Err(self.not_an_issuer(&known));
        }
        let trust = &self.inner.trust;
        let mut revoked = Revoked { number: 0, worker: None, node_id: None, tokens: Vec::new(), spared: 0 };
        let (mut entries, mut spare): (Vec<Entry>, Vec<_>) = (Vec::new(), Vec::new());
        let mut tokens = Vec::new();
        match what {
            Revoke::Token(id) => tokens.push(id),
            Revoke::Worker { who, keep_token } => {
                let node = self.named(&who)?;
                if node == self.id() {
                    return Err("that is this gateway itself: `paceline leave` takes it out".to_owned());
                }
                let credential = known.get(&node);
                entries.push(trust.entry_of_node(node, credential.map(Arc::as_ref)));
                if !keep_token {
                    tokens.extend(credential.and_then(|c| c.token));
                    tokens.extend(trust.tokens_of(&node));
                }
                // What it signed falls with it, but not those who are here already.
                let signed = known.values().filter(|c| c.issued_by == Some(node) && c.node != node);
                spare.extend(signed.map(|c| c.hash));
                revoked.worker = self.view().members.get(&node).map(|member| member.name.to_string());
                revoked.node_id = Some(node.to_string());
            }
        }
        tokens.sort_unstable();
        tokens.dedup();
        entries.extend(tokens.iter().map(|id| trust.entry_of_token(*id)));
        revoked.tokens = tokens.iter().map(ToString::to_string).collect();
        revoked.spared = spare.len();
        let trust = trust.clone();
        let made = tokio::task::spawn_blocking(move || trust.revoke(&entries, &spare)).await;
        revoked.number = made.unwrap_or_else(|e| Err(format!("nothing was revoked: {e}")))?;
        tracing::warn!(
            worker = revoked.worker.as_deref().or(revoked.node_id.as_deref()),
            tokens = ?revoked.tokens,
            number = revoked.number,
            "revoked"
        );
        Ok(revoked)
    }

    /// What is revoked, as this node knows it.
    pub fn revocations(&self) -> Vec<RevokedLine> {
        let line = |entry: Entry| match entry.subject {
            Subject::Node(node) => RevokedLine::Worker { node_id: node.to_string(), until: entry.until.0 },
            Subject::Token(id) => RevokedLine::Token { id: id.to_string(), until: entry.until.0 },
        };
        self.inner.trust.revocations().iter().map(line).collect()
    }

    /// Resolves when another list of the revoked is in force.
    pub(crate) async fn revocations_changed(&self) {
        let mut watch = self.inner.trust.watch_revocations();
        // the sender lives as long as this handle
        let _ = watch.changed().await;
    }

    async fn credentials(&self) -> Credentials {
        let (answer, credentials) = oneshot::channel();
        match self.inner.commands.send(Command::Credentials(answer)).await {
            Ok(()) => credentials.await.unwrap_or_default(),
            Err(_) => Credentials::default(),
        }
    }

    fn not_an_issuer(&self, known: &Credentials) -> String {
        let view = self.view();
        let name = |node: &NodeId| view.members.get(node).filter(|m| m.is_alive()).map(|m| m.name.to_string());
        let issuers: Vec<String> = known.values().filter(|c| c.issuer).filter_map(|c| name(&c.node)).collect();
        match issuers.as_slice() {
            [] => "this gateway is not an issuer, and none is here: start the one that founded the cluster".to_owned(),
            names => format!("this gateway is not an issuer: ask {}", names.join(" or ")),
        }
    }

    fn named(&self, who: &str) -> Result<NodeId, String> {
        if let Ok(node) = who.parse::<NodeId>() {
            return Ok(node);
        }
        if let Some(node) = who.parse::<PeerId>().ok().as_ref().and_then(node_of) {
            return Ok(node);
        }
        let view = self.view();
        let named: Vec<NodeId> = view.members.iter().filter(|(_, m)| m.name.as_str() == who).map(|(n, _)| *n).collect();
        let here: Vec<NodeId> =
            named.iter().filter(|n| view.members.get(n).is_some_and(|m| m.is_alive())).copied().collect();
        match (named.as_slice(), here.as_slice()) {
            ([node], _) | (_, [node]) => Ok(*node),
            ([], _) => Err(format!(
                "no member is called `{who}`; one that has been away for more than an hour is known by its id alone"
            )),
            (several, _) => {
                let ids: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(format!("{} members are called `{who}`: say which by its id, {}", ids.len(), ids.join(" or ")))
            }
        }
    }
}
