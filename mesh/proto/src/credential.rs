//! Who is a member: a chain of leaf and intermediate, judged against the cluster's root at a given time.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, CredentialHash, NodeId, Roles, ServiceName, UnixSeconds};

/// Most bytes of a chain, both certificates together.
pub const CHAIN_BYTES_MAX: usize = 4096;

/// A leaf and the intermediate that signed it, both DER. Not yet judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// The node's certificate.
    pub leaf: Vec<u8>,
    /// The issuer's certificate, signed by the root.
    pub intermediate: Vec<u8>,
}

impl Chain {
    /// SHA-256 over both.
    pub fn hash(&self) -> CredentialHash {
        unimplemented!()
    }
}

/// What a chain proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The key of the leaf.
    pub node: NodeId,
    /// What it may act as.
    pub roles: Roles,
    /// Whether it may admit others.
    pub issuer: bool,
    /// The services that it may offer; `None` is any.
    pub services: Option<BTreeSet<ServiceName>>,
    /// Start of validity.
    pub not_before: UnixSeconds,
    /// End of validity of the leaf or the intermediate, whichever is sooner.
    pub not_after: UnixSeconds,
    /// Of the chain that was judged.
    pub hash: CredentialHash,
}

/// Why a chain is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Signed under another root.
    #[error("certificate of another cluster")]
    OtherCluster,
    /// Past its end.
    #[error("certificate expired")]
    Expired,
    /// Before its start.
    #[error("certificate not valid yet: check this machine's clock")]
    NotYetValid,
    /// Anything else.
    #[error("certificate refused: {0}")]
    Malformed(String),
}

/// A cluster's root certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    der: Vec<u8>,
    cluster: ClusterId,
}

impl Root {
    /// Takes a root certificate (DER).
    ///
    /// # Errors
    /// Not a certificate, or not a CA.
    pub fn new(der: Vec<u8>) -> Result<Self, CredentialError> {
        let cluster = ClusterId::of_root(&der);
        Ok(Self { der, cluster })
    }

    /// The cluster that it stands for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The certificate.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Judges a chain with webpki, then demands the DNS name, that its label is the leaf's key, and the URI SANs.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(&self, _chain: &Chain, _now: UnixSeconds) -> Result<Credential, CredentialError> {
        unimplemented!()
    }
}
