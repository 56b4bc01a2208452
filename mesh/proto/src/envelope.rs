//! Signed records: what a node says of itself or of others, so that anyone may relay it and nobody may change it.
//!
//! The signature covers the domain, the cluster, the kind, the author and the payload. A node's id is its Ed25519 key, so a
//! signature is checked without anything else; whether the author is a member takes its credential.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::id::{ClusterId, Incarnation, NodeId};
use crate::lead::Lead;
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, SERVICES_BYTES_MAX, Service};
use crate::summary::Summary;
use crate::wire::{self, Message, WireError};

/// Separates these signatures from all others of the same key.
const DOMAIN: &[u8] = b"paceline record v1";

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// The author's manifest.
    Manifest,
    /// The author's goodbye.
    Leave,
    /// The author found another member gone.
    Death,
    /// The author misses another member.
    Suspect,
    /// The author leads.
    Lead,
    /// The author's summary while it leads.
    Summary,
}

impl Kind {
    /// As it stands under the signature; never changes its meaning.
    const fn tag(self) -> u8 {
        match self {
            Kind::Manifest => 1,
            Kind::Leave => 2,
            Kind::Death => 3,
            Kind::Suspect => 4,
            Kind::Lead => 5,
            Kind::Summary => 6,
        }
    }
}

/// A record and its signature, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// Who says it.
    pub author: NodeId,
    /// What it is about.
    pub kind: Kind,
    #[serde(with = "wire::bytes")]
    payload: Vec<u8>,
    // The two halves of an Ed25519 signature, R and s: serde has no arrays of 64.
    signature: ([u8; 32], [u8; 32]),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The author's manifest, within its bounds.
    Manifest(Box<Manifest>),
    /// The author goes, and with it this incarnation.
    Leave {
        /// Of the author.
        incarnation: Incarnation,
    },
    /// The subject is gone.
    Death(Accusation),
    /// The subject is missed.
    Suspect(Accusation),
    /// The author leads.
    Lead(Lead),
    /// The author leads, and this is how the cluster is.
    Summary(Box<Summary>),
}

/// Whom a death or a suspicion concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accusation {
    /// Who.
    pub subject: NodeId,
    /// The incarnation that the author knew: a higher one is not concerned.
    pub incarnation: Incarnation,
}

#[derive(Serialize, Deserialize)]
struct Leave {
    incarnation: Incarnation,
}

impl Message for Vec<Service> {
    const BYTES_MAX: usize = SERVICES_BYTES_MAX;
}

/// Whether services fit into a manifest, whatever else it says: asked before a node is started.
///
/// # Errors
/// [`ManifestError::ServicesTooLong`].
pub fn check_services(services: Vec<Service>) -> Result<(), ManifestError> {
    match wire::encode(&services) {
        Err(WireError::TooLong { bytes, .. }) => Err(ManifestError::ServicesTooLong(bytes)),
        _ => Ok(()),
    }
}

impl Message for Manifest {
    const BYTES_MAX: usize = MANIFEST_BYTES_MAX;
}

impl Message for Accusation {
    const BYTES_MAX: usize = 64;
}

impl Message for Lead {
    const BYTES_MAX: usize = 16;
}

impl Message for Leave {
    const BYTES_MAX: usize = 16;
}

/// A record that is not what it says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The payload is no record of its kind.
    #[error("record: {0}")]
    Wire(#[from] WireError),
    /// The manifest breaks a bound.
    #[error("manifest: {0}")]
    Manifest(#[from] ManifestError),
    /// A manifest that speaks for somebody else.
    #[error("manifest of {subject} signed by {author}")]
    Author {
        /// Whom it is about.
        subject: NodeId,
        /// Who signed it.
        author: NodeId,
    },
    /// Not signed by its author for this cluster.
    #[error("signature of {0} does not hold")]
    Signature(NodeId),
}

impl Claim {
    fn encode(&self) -> Result<(Kind, Vec<u8>), WireError> {
        Ok(match self {
            Claim::Manifest(m) => (Kind::Manifest, wire::encode(&**m)?),
            Claim::Leave { incarnation } => (Kind::Leave, wire::encode(&Leave { incarnation: *incarnation })?),
            Claim::Death(a) => (Kind::Death, wire::encode(a)?),
            Claim::Suspect(a) => (Kind::Suspect, wire::encode(a)?),
            Claim::Lead(lead) => (Kind::Lead, wire::encode(lead)?),
            Claim::Summary(s) => (Kind::Summary, wire::encode(&**s)?),
        })
    }
}

impl Signed {
    /// Any bytes as a record, for tests.
    #[cfg(test)]
    pub(crate) fn raw(author: NodeId, kind: Kind, payload: Vec<u8>, half: [u8; 32]) -> Self {
        Self { author, kind, payload, signature: (half, half) }
    }

    /// Signs a claim in the name of the key.
    ///
    /// # Errors
    /// [`WireError::TooLong`], of a manifest.
    pub fn new(claim: &Claim, key: &SigningKey, cluster: &ClusterId) -> Result<Self, WireError> {
        let (kind, payload) = claim.encode()?;
        let author = NodeId::from_bytes(key.verifying_key().to_bytes());
        let signature = key.sign(&statement(cluster, kind, &author, &payload));
        Ok(Self { author, kind, payload, signature: (*signature.r_bytes(), *signature.s_bytes()) })
    }

    /// The first half of the signature: different for each record that holds.
    pub(crate) fn signature_half(&self) -> [u8; 32] {
        self.signature.0
    }

    /// This signature under another's payload, for tests.
    #[cfg(test)]
    pub(crate) fn with_payload_of(&self, other: &Self) -> Self {
        Self { payload: other.payload.clone(), ..self.clone() }
    }

    /// Reads what it says, within all bounds; believes nothing yet.
    ///
    /// # Errors
    /// Any but [`EnvelopeError::Signature`].
    pub fn read(&self) -> Result<Claim, EnvelopeError> {
        Ok(match self.kind {
            Kind::Manifest => {
                let manifest: Manifest = wire::decode(&self.payload)?;
                manifest.validate()?;
                if manifest.node != self.author {
                    return Err(EnvelopeError::Author { subject: manifest.node, author: self.author });
                }
                Claim::Manifest(Box::new(manifest))
            }
            Kind::Leave => Claim::Leave { incarnation: wire::decode::<Leave>(&self.payload)?.incarnation },
            Kind::Death => Claim::Death(wire::decode(&self.payload)?),
            Kind::Suspect => Claim::Suspect(wire::decode(&self.payload)?),
            Kind::Lead => Claim::Lead(wire::decode(&self.payload)?),
            Kind::Summary => Claim::Summary(Box::new(wire::decode(&self.payload)?)),
        })
    }

    /// Checks the signature, strictly: one message has one signature of a key.
    ///
    /// # Errors
    /// [`EnvelopeError::Signature`].
    pub fn verify(&self, cluster: &ClusterId) -> Result<(), EnvelopeError> {
        let statement = statement(cluster, self.kind, &self.author, &self.payload);
        VerifyingKey::from_bytes(self.author.as_bytes())
            .and_then(|key| {
                key.verify_strict(&statement, &Signature::from_components(self.signature.0, self.signature.1))
            })
            .map_err(|_| EnvelopeError::Signature(self.author))
    }
}

/// What is signed: every part but the last has a fixed length, so no two records give the same bytes.
fn statement(cluster: &ClusterId, kind: Kind, author: &NodeId, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DOMAIN.len() + 65 + payload.len());
    bytes.extend_from_slice(DOMAIN);
    bytes.extend_from_slice(cluster.as_bytes());
    bytes.push(kind.tag());
    bytes.extend_from_slice(author.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests;
