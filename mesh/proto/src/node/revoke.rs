//! Who is revoked: lists are passed on to all, kept before they are honoured, and honoured at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Fatal, Node, Output, Verdict};
use crate::Now;
use crate::credential::{Credential, CredentialError};
use crate::id::NodeId;
use crate::membership;
use crate::message::{Direct, Gossip};
use crate::revocation::SignedList;

/// What a message about the revoked costs of what a peer may ask for: a signature at least, and at most all lists.
pub(super) const COST: u32 = 32;
/// A peer is not asked again within this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Neighbours that get a new list of this node's directly too: gossip may still be forming its mesh.
const TOLD_MAX: usize = 16;

impl Node {
    /// What the present certificates of members prove, gone ones included.
    pub fn credentials(&self) -> BTreeMap<NodeId, Arc<Credential>> {
        let credential = |(node, row): (&NodeId, &membership::Row)| {
            let known = self.credentials.latest(&row.manifest.credential)?;
            Some((*node, known))
        };
        self.membership.iter().filter_map(credential).collect()
    }

    /// By gossip.
    pub(super) fn heard_revoked(&mut self, from: NodeId, list: &SignedList, now: Now) -> Verdict {
        match self.revocations.take(list) {
            Ok(true) => {
                self.honour(now);
                Verdict::Accept
            }
            Ok(false) => Verdict::Ignore,
            Err(error) => {
                self.refused(from, error.to_string(), now);
                Verdict::Reject
            }
        }
    }

    /// By a peer.
    pub(super) fn sent_revoked(&mut self, from: NodeId, list: &SignedList, now: Now) {
        match self.revocations.take(list) {
            Ok(true) => {
                self.publish(&Gossip::Revoked(list.clone()));
                self.honour(now);
            }
            Ok(false) => {}
            Err(error) => self.refused(from, error.to_string(), now),
        }
    }

    /// By this node's own disk, its door, or its administrator.
    pub(super) fn told_revoked(&mut self, lists: &[SignedList], now: Now) {
        let mut news = Vec::new();
        for list in lists {
            match self.revocations.take(list) {
                Ok(true) => news.push(list),
                Ok(false) => {}
                Err(error) => self.refused(self.me, error.to_string(), now),
            }
        }
        if news.is_empty() {
            return;
        }
        let links: Vec<_> = self.membership.links().iter().take(TOLD_MAX).copied().collect();
        for list in news {
            self.publish(&Gossip::Revoked(list.clone()));
            for peer in &links {
                self.send(*peer, &Direct::Revoked(list.clone()));
            }
        }
        self.honour(now);
    }

    /// A peer's lists have this mark.
    pub(super) fn asked_for_revoked(&mut self, from: NodeId, mark: u64, now: Now) {
        if mark == self.revocations.mark() {
            return;
        }
        for list in self.revocations.lists() {
            self.send(from, &Direct::Revoked(list));
        }
        // It may have what this node lacks; it answers by nothing where it now has the same.
        self.ask_for_revoked(from, now);
    }

    /// The leader's lists have this mark: where this node's have another, these peers are asked.
    pub(super) fn compare_revoked(&mut self, mark: u64, peers: [NodeId; 2], now: Now) {
        if mark != self.revocations.mark() {
            for peer in peers {
                self.ask_for_revoked(peer, now);
            }
        }
    }

    fn ask_for_revoked(&mut self, peer: NodeId, now: Now) {
        self.asked_revoked.retain(|_, at| *at + ASK_AGAIN > now.at);
        if self.membership.links().contains(&peer) && !self.asked_revoked.contains_key(&peer) {
            self.asked_revoked.insert(peer, now.at);
            self.send(peer, &Direct::AskRevoked(self.revocations.mark()));
        }
    }

    /// Acts by the lists as they are now.
    fn honour(&mut self, now: Now) {
        self.outputs.push_back(Output::PersistRevoked(self.revocations.lists()));
        let own = self.credentials.latest(&self.own.manifest.credential);
        if let Some(Err(why)) = own.map(|own| self.revocations.judge(&own)) {
            self.own.end();
            self.outputs.push_back(Output::Fatal(Fatal::Revoked(why)));
            return;
        }
        let revocations = &self.revocations;
        self.credentials.retain(|credential| revocations.judge(credential).is_ok());
        self.cut(&CredentialError::Revoked, now);
    }
}
