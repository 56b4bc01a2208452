//! Who is thrown out: the lists on disk, what they say of a certificate, and how an issuer makes the next one.

use std::sync::Arc;

use paceline_proto::{
    credential::{Credential, CredentialError},
    id::{CredentialHash, NodeId, TokenId, UnixSeconds},
    revocation::{Entry, RevocationError, Revocations, SignedList, Subject},
    token::{Proof, TokenError},
};
use tokio::sync::watch;

use super::{Trust, authority::INTERMEDIATE_TTL, disk, issuing::TOKEN_TTL_MAX};

impl Trust {
    /// What is revoked, as this node knows it now.
    pub fn revocations(&self) -> Arc<Revocations> {
        self.0.revocations.borrow().clone()
    }

    /// Tells of each list that is new.
    pub(crate) fn watch_revocations(&self) -> watch::Receiver<Arc<Revocations>> {
        self.0.revocations.subscribe()
    }

    /// Whether a certificate that was judged good stands.
    ///
    /// # Errors
    /// It is revoked.
    pub fn stands(&self, credential: &Credential) -> Result<(), CredentialError> {
        self.0.revocations.borrow().judge(credential)
    }

    /// Takes lists in: on disk first, then in force. Says whether one was new. Writes to disk where one was; a disk that
    /// fails is logged, and the lists are honoured all the same.
    ///
    /// # Errors
    /// A list that is none; the others are taken.
    pub fn take_revocations(&self, lists: &[SignedList]) -> Result<bool, RevocationError> {
        let disk = self.disk();
        let mut next = Revocations::clone(&self.0.revocations.borrow());
        let (mut new, mut refused) = (false, Ok(()));
        for list in lists {
            match next.take(list) {
                Ok(news) => new |= news,
                Err(e) => refused = Err(e),
            }
        }
        if new {
            self.keep(&disk, next);
        }
        refused.map(|()| new)
    }

    fn keep(&self, disk: &super::Disk, next: Revocations) {
        if self.0.on_disk.load(std::sync::atomic::Ordering::Relaxed)
            && let Err(error) = disk::save_revocations(&disk.store, &next)
        {
            tracing::error!(%error, "what is revoked is not on disk: it holds until this process ends");
        }
        self.0.revocations.send_replace(Arc::new(next));
    }

    /// The issuer's side: revokes keys and tokens, and spares certificates that a revoked issuer has signed. Writes to
    /// disk. Returns the list's number.
    ///
    /// # Errors
    /// In words for the user: not an issuer, or the list is full.
    pub fn revoke(&self, more: &[Entry], spare: &[CredentialHash]) -> Result<u64, String> {
        let authority = self.authority().ok_or("this node is not an issuer: it cannot revoke")?;
        let now = self.now();
        let disk = self.committed().map_err(|e| e.to_string())?;
        let mut next = Revocations::clone(&self.0.revocations.borrow());
        if next.has(Subject::Node(self.0.node)) {
            return Err("this node is revoked itself".to_owned());
        }
        let list = next.next(self.0.node, more, spare, now);
        let number = list.number;
        let (key, certificate) = match authority.root_key() {
            Some(root_key) => (root_key, None),
            None => (authority.key(), Some(authority.intermediate())),
        };
        let signed = SignedList::new(&list, key, certificate, &self.cluster()).map_err(|e| e.to_string())?;
        if !next.take(&signed).map_err(|e| e.to_string())? {
            return Err("this issuer's list is at its end: the root must revoke".to_owned());
        }
        self.keep(&disk, next);
        Ok(number)
    }

    /// The entry for a key, to be remembered until the last certificate that it may have is at its end.
    pub(crate) fn entry_of_node(&self, node: NodeId, known: Option<&Credential>) -> Entry {
        // It may have been renewed a moment ago.
        let longest = if known.is_none_or(|c| c.issuer) { INTERMEDIATE_TTL } else { self.0.leaf_ttl };
        let until = self.now().0.saturating_add(longest.as_secs());
        let until = known.map_or(until, |c| c.not_after.0.max(until));
        Entry { subject: Subject::Node(node), until: UnixSeconds(until) }
    }

    /// The entry for a token, to be remembered as long as any token may live.
    pub(crate) fn entry_of_token(&self, id: TokenId) -> Entry {
        let known = self.disk().state.ledger.not_after(&id);
        let until = known.unwrap_or_else(|| UnixSeconds(self.now().0.saturating_add(TOKEN_TTL_MAX.as_secs())));
        Entry { subject: Subject::Token(id), until }
    }

    /// The tokens of this issuer's ledger that a node came in by.
    pub(crate) fn tokens_of(&self, node: &NodeId) -> Vec<TokenId> {
        self.disk().state.ledger.tokens_of(node)
    }

    /// Whether a newcomer's token is revoked, or the issuer that made it.
    ///
    /// # Errors
    /// [`TokenError::Revoked`].
    pub(crate) fn token_stands(&self, proof: &Proof) -> Result<(), TokenError> {
        let known = self.0.revocations.borrow();
        let issuer = self.0.root.judge_intermediate(&proof.intermediate, self.now()).ok().and_then(|i| i.node);
        let by = issuer.into_iter().chain([proof.grant.made_by]).any(|node| known.has(Subject::Node(node)));
        if by || known.has(Subject::Token(proof.grant.id)) { Err(TokenError::Revoked(proof.grant.id)) } else { Ok(()) }
    }
}
