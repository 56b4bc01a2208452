//! Join tokens: a root certificate, entry addresses and a signed grant. No CA, no identity.

use serde::{Deserialize, Serialize};

use crate::credential::Root;
use crate::id::{NodeId, Roles, ServiceName, TokenId, UnixSeconds};

/// What a token allows, signed by an issuer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id, for `token list` and `token revoke`.
    pub id: TokenId,
    /// The issuer that made it and counts its uses.
    pub made_by: NodeId,
    /// What the newcomer may act as.
    pub roles: Roles,
    /// Whether the newcomer may admit others.
    pub issuer: bool,
    /// The services that the newcomer may offer; empty is any.
    pub services: Vec<ServiceName>,
    /// End of validity.
    pub not_after: UnixSeconds,
    /// How many newcomers; `None` is any number.
    pub uses: Option<u32>,
    /// The public half of the token's own key.
    pub public_key: [u8; 32],
}

/// A join token, parsed, its checksum and signature checked.
#[derive(Clone)]
pub struct Token {
    /// The cluster's root.
    pub root: Root,
    /// Multiaddrs, with `/p2p/...`.
    pub entries: Vec<String>,
    /// What it allows.
    pub grant: Grant,
}

/// What a newcomer hands in to prove that it holds a token, bound to both peers and the member's nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// What was granted.
    pub grant: Grant,
    /// The certificate of the issuer that signed it (DER).
    pub intermediate: Vec<u8>,
    /// The issuer's signature over the grant.
    pub grant_signature: Vec<u8>,
    /// The token's signature over (cluster, newcomer, member, nonce).
    pub signature: Vec<u8>,
}

/// Why a token or a proof is refused. The words go to the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token, or a character was changed.
    #[error("not a valid join token: {0}")]
    Malformed(&'static str),
    /// Past its end.
    #[error("join token {0} has expired")]
    Expired(TokenId),
    /// All its uses are spent.
    #[error("join token {0} is used up")]
    UsedUp(TokenId),
    /// Of another cluster.
    #[error("join token {0} is of another cluster")]
    OtherCluster(TokenId),
    /// The role is not in the grant.
    #[error("join token {id} does not grant the role {role}")]
    Role {
        /// Which token.
        id: TokenId,
        /// Which role.
        role: crate::id::Role,
    },
}

impl Token {
    /// Parses `paceline1.<base64url>`, checks checksum, then signature; not the expiry.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn parse(_text: &str) -> Result<Self, TokenError> {
        unimplemented!()
    }

    /// Proves the token to a member.
    pub fn prove(&self, _newcomer: NodeId, _member: NodeId, _nonce: &[u8; 32]) -> Proof {
        unimplemented!()
    }
}

impl Proof {
    /// Judges everything but the uses, which the issuer counts.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(
        &self,
        _root: &Root,
        _newcomer: NodeId,
        _member: NodeId,
        _nonce: &[u8; 32],
        _now: UnixSeconds,
    ) -> Result<(), TokenError> {
        unimplemented!()
    }
}
