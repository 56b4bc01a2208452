//! The chains of members, judged once each and remembered by their hash.
//!
//! A chain costs an issuer's signature to make, so what is remembered is bounded by what the cluster admits, and by
//! [`NODES_MAX`] besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::credential::{Chain, Credential, CredentialError, Root};
use crate::id::{CredentialHash, NodeId, UnixSeconds};
use crate::membership::MEMBERS_MAX;
use crate::memo::{self, Memo};

/// Most nodes whose chains are kept.
pub(crate) const NODES_MAX: usize = 2 * MEMBERS_MAX;
/// Chains of one node: its present one, and those that records in flight may still name.
const CHAINS_PER_NODE: usize = 3;

/// A chain that was judged good.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) chain: Arc<Chain>,
    pub(crate) credential: Arc<Credential>,
    /// Whether all the cluster has been told of it, as far as this node can know.
    pub(crate) gossiped: bool,
}

/// The chains of members.
#[derive(Debug)]
pub(crate) struct Credentials {
    root: Root,
    memo: Option<Memo>,
    by_hash: BTreeMap<CredentialHash, Known>,
    // The one learned last comes last.
    by_node: BTreeMap<NodeId, Vec<CredentialHash>>,
}

impl Credentials {
    pub(crate) fn new(root: Root) -> Self {
        Self { root, memo: None, by_hash: BTreeMap::new(), by_node: BTreeMap::new() }
    }

    /// Shares what was proven with the other nodes of this process.
    pub(crate) fn with_memo(mut self, memo: Option<Memo>) -> Self {
        self.memo = memo;
        self
    }

    /// Judges a chain, unless it is known; says whether it is new. One that `stands` refuses is not kept.
    pub(crate) fn learn(
        &mut self,
        chain: Arc<Chain>,
        now: UnixSeconds,
        stands: impl FnOnce(&Credential) -> Result<(), CredentialError>,
    ) -> Result<(Arc<Credential>, bool), CredentialError> {
        let hash = chain.hash();
        if let Some(known) = self.by_hash.get(&hash) {
            in_time(&known.credential, now)?;
            return Ok((Arc::clone(&known.credential), false));
        }
        let (chain, credential) = memo::judge(self.memo.as_ref(), &self.root, chain, hash, now)?;
        stands(&credential)?;
        if !self.by_node.contains_key(&credential.node) && self.by_node.len() >= NODES_MAX {
            return Err(CredentialError::Malformed("too many members".to_owned()));
        }
        let hashes = self.by_node.entry(credential.node).or_default();
        if hashes.len() == CHAINS_PER_NODE {
            self.by_hash.remove(&hashes.remove(0));
        }
        hashes.push(hash);
        self.by_hash.insert(hash, Known { chain, credential: Arc::clone(&credential), gossiped: false });
        Ok((credential, true))
    }

    /// The chain of that hash, if it is good now.
    pub(crate) fn of_hash(&self, hash: &CredentialHash, now: UnixSeconds) -> Option<&Known> {
        self.by_hash.get(hash).filter(|k| in_time(&k.credential, now).is_ok())
    }

    /// What the chain of that hash proves, in its time or not.
    pub(crate) fn latest(&self, hash: &CredentialHash) -> Option<Arc<Credential>> {
        self.by_hash.get(hash).map(|known| Arc::clone(&known.credential))
    }

    /// A chain of that node that is good now, the one learned last.
    pub(crate) fn of_node(&self, node: &NodeId, now: UnixSeconds) -> Option<&Known> {
        self.by_node.get(node)?.iter().rev().find_map(|hash| self.of_hash(hash, now))
    }

    /// Notes that all the cluster is told of it; says whether that is new.
    pub(crate) fn gossiped(&mut self, hash: &CredentialHash) -> bool {
        self.by_hash.get_mut(hash).is_some_and(|k| !std::mem::replace(&mut k.gossiped, true))
    }

    /// Forgets those that do not stand any more.
    pub(crate) fn retain(&mut self, stands: impl Fn(&Credential) -> bool) {
        let by_hash = &mut self.by_hash;
        by_hash.retain(|_, known| stands(&known.credential));
        self.by_node.retain(|_, hashes| {
            hashes.retain(|hash| by_hash.contains_key(hash));
            !hashes.is_empty()
        });
    }

    /// Forgets those that have come to their end, and those of nodes that nobody needs any more; says when the next one ends.
    pub(crate) fn sweep(&mut self, now: UnixSeconds, needed: impl Fn(&NodeId) -> bool) -> Option<UnixSeconds> {
        let by_hash = &mut self.by_hash;
        self.by_node.retain(|node, hashes| {
            let needed = needed(node);
            hashes.retain(|hash| {
                let keep = needed && by_hash.get(hash).is_some_and(|k| k.credential.not_after >= now);
                if !keep {
                    by_hash.remove(hash);
                }
                keep
            });
            !hashes.is_empty()
        });
        by_hash.values().map(|k| k.credential.not_after).min()
    }
}

pub(crate) fn in_time(credential: &Credential, now: UnixSeconds) -> Result<(), CredentialError> {
    if now < credential.not_before {
        Err(CredentialError::NotYetValid)
    } else if now > credential.not_after {
        Err(CredentialError::Expired)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
