//! Identity on disk, the certificate authority of issuers, tokens, and the TLS configurations of the data plane.
//!
//! [`Trust`] is the one shared state: the key, the root, the chain (swapped at renewal), and, at an issuer, the
//! authority with its ledger of tokens. Nothing here is async: the calls that write to disk say so.

use std::{path::PathBuf, sync::Arc, time::Duration};

use paceline_proto::{
    credential::{Chain, Credential, CredentialError, Root},
    id::{ClusterId, Incarnation, NodeId, Roles, TokenId, UnixSeconds, WorkerName},
    token::{Proof, Token, TokenError},
    wire::Message,
};
use serde::{Deserialize, Serialize};

use crate::config::{Membership, MeshConfig};
use crate::mesh::{StartError, TokenInfo, TokenSpec};

/// What [`Trust::open`] needs of a [`MeshConfig`].
#[derive(Clone)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// How to become a member.
    pub membership: Membership,
    /// What this process acts as.
    pub roles: Roles,
    /// Life of issued leaves.
    pub leaf_ttl: Duration,
}

impl From<&MeshConfig> for Options {
    fn from(config: &MeshConfig) -> Self {
        Self {
            data_dir: config.data_dir.clone(),
            membership: config.membership.clone(),
            roles: config.roles,
            leaf_ttl: config.leaf_ttl,
        }
    }
}

/// What a newcomer hands to an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// That it holds a token.
    pub proof: Proof,
    /// What it wants to act as; each must be granted.
    pub roles: Roles,
    /// The public half of its issuer key, where the token makes it an issuer.
    pub issuer_key: Option<[u8; 32]>,
}

impl Message for JoinRequest {
    const BYTES_MAX: usize = 16 * 1024;
}

/// What a member asks of an issuer from half of its leaf's life on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The public half of its issuer key, where it is an issuer.
    pub issuer_key: Option<[u8; 32]>,
}

impl Message for RenewRequest {
    const BYTES_MAX: usize = 64;
}

/// What an issuer hands out: [`Trust::accept`] takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The leaf and its issuer's certificate.
    pub chain: Chain,
    /// The receiver's own issuer certificate (DER), where it is an issuer and the root key is at hand.
    pub intermediate: Option<Vec<u8>>,
}

impl Message for Issued {
    const BYTES_MAX: usize = 8 * 1024;
}

/// This node's chain and what it proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCredential {
    /// To show to others.
    pub chain: Chain,
    /// What it says.
    pub credential: Credential,
}

/// Why an issuer does not issue. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node cannot, `NodeId` can: the newcomer is to go there. Not final.
    #[error("this node cannot admit by that token, {0} can")]
    AskMaker(NodeId),
    /// Final: the words go to the user.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Final, not about the token.
    #[error("{0}")]
    Other(String),
    /// This issuer's disk failed; another try may succeed. Not final.
    #[error("the issuer cannot write its ledger: {0}")]
    Disk(String),
}

/// A peer worth remembering across restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Who.
    pub node: NodeId,
    /// Multiaddrs as text.
    pub addresses: Vec<String>,
}

/// Identity, membership and authority of this process. Cheap to clone.
#[derive(Clone)]
pub struct Trust {}

impl Trust {
    /// Locks and reads the data directory and decides: resume, found, or wait for admission by a token (then
    /// [`Trust::own`] is `None`, and nothing is on disk until [`Trust::accept`]).
    ///
    /// # Errors
    /// In words for the user; nothing on disk was changed.
    pub fn open(_options: &Options) -> Result<Self, StartError> {
        unimplemented!()
    }

    /// Whether this start founded the cluster.
    pub fn founded(&self) -> bool {
        unimplemented!()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        unimplemented!()
    }

    /// For libp2p.
    pub fn keypair(&self) -> libp2p::identity::Keypair {
        unimplemented!()
    }

    /// For records (`paceline_proto::node::Config`).
    pub fn signing_key(&self) -> ed25519_dalek::SigningKey {
        unimplemented!()
    }

    /// The cluster's root.
    pub fn root(&self) -> &Root {
        unimplemented!()
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        unimplemented!()
    }

    /// Wall time in seconds, never before the last time that is on disk.
    pub fn now(&self) -> UnixSeconds {
        unimplemented!()
    }

    /// Puts the time on disk; to be called now and then (once an hour).
    pub fn remember_time(&self) {
        unimplemented!()
    }

    /// This node's chain and what it proves; `None` until a joiner is admitted. No lock.
    pub fn own(&self) -> Option<Arc<OwnCredential>> {
        unimplemented!()
    }

    /// The token by which this node is to join; `None` for a member.
    pub fn token(&self) -> Option<&Token> {
        unimplemented!()
    }

    /// Judges another's chain now.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(&self, _chain: &Chain) -> Result<Credential, CredentialError> {
        unimplemented!()
    }

    /// Whether this node can admit others.
    pub fn is_issuer(&self) -> bool {
        unimplemented!()
    }

    /// The newcomer's side: proves the token to `member`, which gave the nonce. `None` without a token.
    pub fn join_request(&self, _member: NodeId, _nonce: &[u8; 32]) -> Option<JoinRequest> {
        unimplemented!()
    }

    /// The issuer's side: judges the proof (made for this node and `nonce`), counts the use on disk, issues.
    ///
    /// # Errors
    /// [`Refusal`] says whether it is final.
    pub fn admit(&self, _request: &JoinRequest, _newcomer: NodeId, _nonce: &[u8; 32]) -> Result<Issued, Refusal> {
        unimplemented!()
    }

    /// Takes what an issuer handed out, at admission and at renewal: judged, written to disk, then shown to others.
    /// For a joiner this is the moment at which the data directory is made.
    ///
    /// # Errors
    /// A chain that is not ours or does not hold, or a disk that fails; nothing changed in memory.
    pub fn accept(&self, _issued: &Issued) -> Result<Arc<OwnCredential>, StartError> {
        unimplemented!()
    }

    /// From when on the chain is to be renewed; in the past when it is due.
    pub fn renew_at(&self) -> Option<UnixSeconds> {
        unimplemented!()
    }

    /// What to ask of an issuer.
    pub fn renew_request(&self) -> RenewRequest {
        unimplemented!()
    }

    /// An issuer renews itself: no one else is needed.
    ///
    /// # Errors
    /// Not an issuer, or the disk failed.
    pub fn renew_self(&self) -> Result<Arc<OwnCredential>, Refusal> {
        unimplemented!()
    }

    /// The issuer's side of a renewal: the same roles, services and issuer flag as the judged credential of the
    /// connection.
    ///
    /// # Errors
    /// Not an issuer.
    pub fn renew(&self, _peer: &Credential, _request: &RenewRequest) -> Result<Issued, Refusal> {
        unimplemented!()
    }

    /// Makes a token with these entry addresses (multiaddrs with `/p2p/...`). Writes the ledger.
    ///
    /// # Errors
    /// In words for the user: not an issuer, or a bound is broken.
    pub fn create_token(&self, _spec: &TokenSpec, _entries: &[String]) -> Result<(TokenId, String), String> {
        unimplemented!()
    }

    /// The tokens that this issuer has made.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        unimplemented!()
    }

    /// The incarnation on disk, zero when there is none.
    pub fn incarnation(&self) -> Incarnation {
        unimplemented!()
    }

    /// Puts the incarnation on disk.
    ///
    /// # Errors
    /// The disk failed.
    pub fn save_incarnation(&self, _incarnation: Incarnation) -> Result<(), StartError> {
        unimplemented!()
    }

    /// The name on disk.
    pub fn name(&self) -> Option<WorkerName> {
        unimplemented!()
    }

    /// Puts the name on disk.
    ///
    /// # Errors
    /// The disk failed.
    pub fn save_name(&self, _name: &WorkerName) -> Result<(), StartError> {
        unimplemented!()
    }

    /// The peers on disk.
    pub fn peers(&self) -> Vec<KnownPeer> {
        unimplemented!()
    }

    /// Puts the peers on disk, at most `store::PEERS_MAX` of them. A failing disk is logged.
    pub fn save_peers(&self, _peers: &[KnownPeer]) {
        unimplemented!()
    }

    /// The data plane's client side: mutual TLS 1.3, ALPN `paceline/1`, shows the current chain at each handshake.
    pub fn tls_client(&self) -> Arc<rustls::ClientConfig> {
        unimplemented!()
    }

    /// The data plane's server side.
    pub fn tls_server(&self) -> Arc<rustls::ServerConfig> {
        unimplemented!()
    }

    /// Drops the membership from disk, so that coming back needs a token. The process should end after this.
    ///
    /// # Errors
    /// The disk failed.
    pub fn forget(&self) -> Result<(), StartError> {
        unimplemented!()
    }
}
