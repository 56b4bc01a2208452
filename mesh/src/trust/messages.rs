//! What newcomers, members and issuers say to one another about certificates.

use paceline_proto::{
    credential::Chain,
    id::{NodeId, Roles},
    token::{Proof, TokenError},
    wire::Message,
};
use serde::{Deserialize, Serialize};

use super::text;

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

/// What an issuer hands out: [`Trust::accept`](super::Trust::accept) takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The leaf and its issuer's certificate.
    pub chain: Chain,
    /// The receiver's own issuer certificate (DER), where it is an issuer and the root key is at hand.
    pub intermediate: Option<Vec<u8>>,
}

impl Message for Issued {
    const BYTES_MAX: usize = 10 * 1024;
}

/// Why an issuer does not issue. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// This node cannot, that one can: the newcomer is to go there. Not final.
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
    #[serde(with = "text::one")]
    pub node: NodeId,
    /// Multiaddrs as text.
    pub addresses: Vec<String>,
}
