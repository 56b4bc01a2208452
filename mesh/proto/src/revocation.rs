//! Who is thrown out: signed, numbered lists of keys and join tokens.
//!
//! Each signer has one list, and its next one repeats what counts and adds to it: the root's list may come from any holder
//! of the root key, an issuer's from that issuer. What counts is the union, and every member that has the same lists finds
//! the same union, in whatever order they came:
//! - the root's lists count always;
//! - then the issuers' in the order of their own certificates, the eldest first, unless one that counted before has revoked
//!   the issuer: a revoked issuer's lists are worth nothing, earlier ones and later ones, and no junior can throw a senior
//!   out of office. Two issuers that make a list at once are no conflict: both count.
//! - of one signer the greater number counts, and of two lists of one number the one with the greater hash.
//!
//! Whoever is revoked is told so by the list itself: nobody has to believe a neighbour.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::credential::{Credential, CredentialError, Root};
use crate::id::{ClusterId, CredentialHash, NodeId, TokenId, UnixSeconds};
use crate::wire::{self, Message, WireError};

/// Most keys and tokens of one list; each may go when the certificate or token that it names is at its end.
pub const ENTRIES_MAX: usize = 384;
/// Most certificates that a list spares.
pub const SPARED_MAX: usize = 256;
/// Most bytes of a list as it travels: it fits into a gossip message.
pub const LIST_BYTES_MAX: usize = 15 * 1024;
/// Most signers whose lists are kept.
pub const SIGNERS_MAX: usize = 16;
/// Greatest number of a list.
pub const NUMBER_MAX: u64 = (1 << 48) - 1;
/// Most bytes of an issuer's certificate in a list.
const INTERMEDIATE_BYTES_MAX: usize = 1024;
/// Separates these signatures from all others of the same key.
const DOMAIN: &[u8] = b"paceline revocation v1";

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A node's key: it is no member any more, and what it signed as an issuer is worth nothing.
    Node(NodeId),
    /// A join token: nobody comes in by it any more; those who did stay.
    Token(TokenId),
}

/// What is revoked, and until when that must be remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Entry {
    /// What.
    pub subject: Subject,
    /// The end of what it names: later lists may leave it out.
    pub until: UnixSeconds,
}

/// What one signer has revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Who made it.
    pub author: NodeId,
    /// Greater than that of every list that the author knew; at most [`NUMBER_MAX`].
    pub number: u64,
    /// In order, each subject once.
    #[serde(deserialize_with = "wire::list::<_, _, ENTRIES_MAX>")]
    pub entries: Vec<Entry>,
    /// Certificates by revoked issuers that stand all the same: those of members that were there already.
    #[serde(deserialize_with = "wire::list::<_, _, SPARED_MAX>")]
    pub spared: Vec<CredentialHash>,
}

impl Message for List {
    const BYTES_MAX: usize = LIST_BYTES_MAX;
}

/// A list as it travels. Not yet judged.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedList {
    #[serde(with = "wire::bytes")]
    payload: Vec<u8>,
    /// The certificate of the issuer that signed it; `None`: the root did.
    intermediate: Option<Intermediate>,
    // R and s: serde has no arrays of 64.
    signature: ([u8; 32], [u8; 32]),
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Intermediate(#[serde(with = "wire::bytes")] Vec<u8>);

impl Message for SignedList {
    const BYTES_MAX: usize = LIST_BYTES_MAX;
}

impl fmt::Debug for SignedList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signer = if self.intermediate.is_some() { "an issuer" } else { "the root" };
        write!(f, "SignedList({} bytes by {signer})", self.payload.len())
    }
}

/// A list that is refused, or that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevocationError {
    /// Not a list, or one that breaks a bound.
    #[error("list of the revoked: {0}")]
    Wire(#[from] WireError),
    /// Its issuer's certificate.
    #[error("list of the revoked: {0}")]
    Issuer(#[from] CredentialError),
    /// Anything else.
    #[error("list of the revoked: {0}")]
    Malformed(&'static str),
    /// There is no room.
    #[error("the list of the revoked is full: it has {entries} entries and {bytes} bytes")]
    Full {
        /// Keys and tokens.
        entries: usize,
        /// Encoded.
        bytes: usize,
    },
}

impl SignedList {
    /// Signs a list: with the root's key, or with an issuer's, whose certificate is `intermediate`.
    ///
    /// # Errors
    /// [`RevocationError::Full`].
    pub fn new(
        list: &List,
        key: &SigningKey,
        intermediate: Option<&[u8]>,
        cluster: &ClusterId,
    ) -> Result<Self, RevocationError> {
        let entries = list.entries.len();
        let full = |bytes| RevocationError::Full { entries, bytes };
        let payload = match wire::encode(list) {
            Ok(payload) if entries <= ENTRIES_MAX && list.spared.len() <= SPARED_MAX => payload,
            Ok(payload) => return Err(full(payload.len())),
            Err(WireError::TooLong { bytes, .. }) => return Err(full(bytes)),
            Err(e) => return Err(e.into()),
        };
        let signature = key.sign(&statement(cluster, &payload));
        let signature = (*signature.r_bytes(), *signature.s_bytes());
        let signed = Self { payload, intermediate: intermediate.map(|der| Intermediate(der.to_vec())), signature };
        match wire::encode(&signed) {
            Ok(_) => Ok(signed),
            Err(_) => Err(full(signed.payload.len())),
        }
    }

    fn digest(&self) -> [u8; 32] {
        let issuer = self.intermediate.as_ref().map(|i| i.0.as_slice()).unwrap_or_default();
        Sha256::new().chain_update(&self.payload).chain_update(issuer).finalize().into()
    }
}

fn statement(cluster: &ClusterId, payload: &[u8]) -> Vec<u8> {
    [DOMAIN, cluster.as_bytes(), payload].concat()
}

/// Whose list it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Signer {
    /// `None` is the root, which comes first; then the eldest issuer.
    since: Option<UnixSeconds>,
    author: NodeId,
}

#[derive(Clone, Debug)]
struct Kept {
    signer: Signer,
    list: List,
    digest: [u8; 32],
    signed: SignedList,
}

/// All lists that a member knows, and what they come to.
#[derive(Clone, Debug)]
pub struct Revocations {
    root: Root,
    /// By author, and whether the root's key has signed: an issuer has one list, however often its certificate is renewed.
    kept: BTreeMap<(NodeId, bool), Kept>,
    revoked: BTreeMap<Subject, UnixSeconds>,
    spared: BTreeSet<CredentialHash>,
    mark: u64,
}

impl Revocations {
    /// None yet.
    pub fn new(root: Root) -> Self {
        Self { root, kept: BTreeMap::new(), revoked: BTreeMap::new(), spared: BTreeSet::new(), mark: 0 }
    }

    /// Takes a list, if it is good and new; says whether it was new.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn take(&mut self, signed: &SignedList) -> Result<bool, RevocationError> {
        let list: List = wire::decode(&signed.payload)?;
        let key = (list.author, signed.intermediate.is_none());
        let digest = signed.digest();
        // What is known costs no signature.
        let rank = (list.number, digest);
        if self.kept.get(&key).is_some_and(|known| rank <= (known.list.number, known.digest)) {
            return Ok(false);
        }
        if list.number == 0 || list.number > NUMBER_MAX {
            return Err(RevocationError::Malformed("its number is out of bounds"));
        }
        if !list.entries.is_sorted_by(|a, b| a.subject < b.subject) {
            return Err(RevocationError::Malformed("it is not in order"));
        }
        let (by, since) = self.signer(signed, &list.author)?;
        let signature = Signature::from_components(signed.signature.0, signed.signature.1);
        by.verify_strict(&statement(&self.root.cluster(), &signed.payload), &signature)
            .map_err(|_| RevocationError::Malformed("its signature does not hold"))?;
        if !self.kept.contains_key(&key) && self.kept.len() >= SIGNERS_MAX {
            return Err(RevocationError::Malformed("too many issuers have made one"));
        }
        let signer = Signer { since, author: list.author };
        self.kept.insert(key, Kept { signer, list, digest, signed: signed.clone() });
        self.count();
        Ok(true)
    }

    /// The key that must have signed it, and since when an issuer is one.
    fn signer(
        &self,
        signed: &SignedList,
        author: &NodeId,
    ) -> Result<(VerifyingKey, Option<UnixSeconds>), RevocationError> {
        let Some(Intermediate(der)) = &signed.intermediate else { return Ok((*self.root.key(), None)) };
        if der.len() > INTERMEDIATE_BYTES_MAX {
            return Err(RevocationError::Malformed("its issuer's certificate is too long"));
        }
        let issuer = self.root.read_intermediate(der)?;
        if issuer.node != Some(*author) {
            return Err(RevocationError::Malformed("it is signed by another issuer than its author"));
        }
        Ok((issuer.key, Some(issuer.not_before)))
    }

    fn count(&mut self) {
        let mut order: Vec<&Kept> = self.kept.values().collect();
        order.sort_by_key(|kept| kept.signer);
        (self.revoked, self.spared) = Default::default();
        for kept in order {
            let by_issuer = kept.signer.since.is_some();
            if by_issuer && self.revoked.contains_key(&Subject::Node(kept.signer.author)) {
                continue;
            }
            for entry in &kept.list.entries {
                let until = self.revoked.entry(entry.subject).or_insert(entry.until);
                *until = entry.until.max(*until);
            }
            self.spared.extend(&kept.list.spared);
        }
        let mut hash = Sha256::new();
        for kept in self.kept.values() {
            hash.update(kept.digest);
        }
        let hash: [u8; 32] = hash.finalize().into();
        self.mark = self.number() << 16 | u64::from(u16::from_le_bytes([hash[0], hash[1]]));
    }

    /// The greatest number of all lists, 0 where there is none.
    pub fn number(&self) -> u64 {
        self.kept.values().map(|kept| kept.list.number).max().unwrap_or_default()
    }

    /// Tells apart what two members know: the number, and in the lowest 16 bits a hash over all lists. 0 where there is none.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Every list, to be handed on: at most [`SIGNERS_MAX`].
    pub fn lists(&self) -> Vec<SignedList> {
        self.kept.values().map(|kept| kept.signed.clone()).collect()
    }

    /// Whether a key or a token is revoked.
    pub fn has(&self, subject: Subject) -> bool {
        self.revoked.contains_key(&subject)
    }

    /// What is revoked, in order.
    pub fn iter(&self) -> impl Iterator<Item = Entry> + '_ {
        self.revoked.iter().map(|(subject, until)| Entry { subject: *subject, until: *until })
    }

    /// Whether a certificate stands.
    ///
    /// # Errors
    /// [`CredentialError::Revoked`] or [`CredentialError::IssuerRevoked`].
    pub fn judge(&self, credential: &Credential) -> Result<(), CredentialError> {
        if self.revoked.is_empty() {
            return Ok(());
        }
        if self.has(Subject::Node(credential.node)) {
            return Err(CredentialError::Revoked);
        }
        let issuer = credential.issued_by.filter(|issuer| *issuer != credential.node);
        if issuer.is_some_and(|issuer| self.has(Subject::Node(issuer))) && !self.spared.contains(&credential.hash) {
            return Err(CredentialError::IssuerRevoked);
        }
        Ok(())
    }

    /// The next list of this author: it repeats what counts now, less what is at its end, and adds `more`. Of the
    /// certificates that are spared the latest are kept.
    pub fn next(&self, author: NodeId, more: &[Entry], spare: &[CredentialHash], now: UnixSeconds) -> List {
        let mut entries = self.revoked.clone();
        entries.retain(|_, until| *until >= now);
        for entry in more {
            let until = entries.entry(entry.subject).or_insert(entry.until);
            *until = entry.until.max(*until);
        }
        let mut spared: Vec<_> = spare.to_vec();
        spared.extend(self.spared.iter().filter(|hash| !spare.contains(hash)));
        spared.truncate(SPARED_MAX);
        let own = self.kept.iter().filter(|((by, _), _)| *by == author).map(|(_, kept)| kept.list.number).max();
        // A number that a rogue issuer drove to its end must not keep the others from going on.
        let number = Some(self.number()).filter(|number| *number < NUMBER_MAX / 2).or(own).unwrap_or_default();
        let entries = entries.into_iter().map(|(subject, until)| Entry { subject, until }).collect();
        List { author, number: number.saturating_add(1).min(NUMBER_MAX), entries, spared }
    }
}

#[cfg(test)]
mod tests;
