//! What only an issuer does: admit, renew, and make tokens.

use std::{sync::Arc, time::Duration};

use paceline_proto::{
    credential::{Credential, CredentialError},
    id::{NodeId, TokenId, UnixSeconds},
    revocation::Subject as Revoked,
    token::{Grant, Token},
};

use super::{
    Issued, JoinRequest, OwnCredential, Refusal, RenewRequest, Trust,
    authority::{Authority, AuthorityError, Subject},
    disk,
};
use crate::mesh::{TokenInfo, TokenSpec};

/// Longest life of a token.
pub const TOKEN_TTL_MAX: Duration = Duration::from_secs(365 * 86_400);

impl Trust {
    /// Whether this node can admit others.
    pub fn is_issuer(&self) -> bool {
        self.0.authority.load().as_ref().is_some_and(|a| self.now() <= a.not_after())
    }

    /// The issuer's side: judges the proof (made for this node and `nonce`), issues, counts the use on disk; only then
    /// is the leaf handed out. Writes to disk (a few ms) when the newcomer is a new one.
    ///
    /// # Errors
    /// [`Refusal`] says whether it is final.
    pub fn admit(&self, request: &JoinRequest, newcomer: NodeId, nonce: &[u8; 32]) -> Result<Issued, Refusal> {
        let (grant, now) = (&request.proof.grant, self.now());
        self.token_stands(&request.proof)?;
        if self.revocations().has(Revoked::Node(newcomer)) {
            return Err(Refusal::Other(CredentialError::Revoked.to_string()));
        }
        let Some(authority) = self.authority() else { return Err(Refusal::AskMaker(grant.made_by)) };
        request.proof.judge(&self.0.root, newcomer, self.0.node, nonce, now)?;
        grant.check(now, request.roles)?;
        if !request.roles.is_subset(grant.roles) || request.roles.is_empty() {
            return Err(Refusal::Other("a newcomer must name its roles".to_owned()));
        }
        if request.issuer_key.is_some() && !grant.issuer {
            return Err(Refusal::Other(format!("join token {} does not make issuers", grant.id)));
        }
        let mine = grant.made_by == self.0.node;
        // Only its maker knows how often a bounded token was used.
        if !mine && (grant.uses.is_some() || request.issuer_key.is_some() && authority.root_key().is_none()) {
            return Err(Refusal::AskMaker(grant.made_by));
        }
        let subject = Subject {
            node: newcomer,
            roles: request.roles,
            issuer: request.issuer_key.is_some(),
            services: (!grant.services.is_empty()).then(|| grant.services.iter().cloned().collect()),
            token: Some(grant.id),
        };
        let issued = self.issue(&authority, &subject, request.issuer_key.as_ref(), now)?;
        if mine {
            let mut disk = self.committed().map_err(|e| Refusal::Disk(e.to_string()))?;
            let mut ledger = disk.state.ledger.clone();
            if ledger.admit(grant, newcomer)? {
                disk::save_ledger(&disk.store, &ledger).map_err(|e| Refusal::Disk(e.to_string()))?;
                disk.state.ledger = ledger;
            }
        }
        Ok(issued)
    }

    /// An issuer renews itself: no one else is needed. With the root key at hand, its issuer certificate too, where
    /// half of that one's life is over. Writes to disk.
    ///
    /// # Errors
    /// Not an issuer, or the disk failed.
    pub fn renew_self(&self) -> Result<Arc<OwnCredential>, Refusal> {
        let now = self.now();
        let (Some(mut authority), Some(own)) = (self.authority(), self.own()) else { return Err(not_an_issuer()) };
        let mut renewed = None;
        if authority.root_key().is_some() && now >= authority.renew_at() {
            authority = Arc::new(authority.renewed(self.0.node, now).map_err(refusal)?);
            renewed = Some((*authority).clone());
        }
        let chain = authority.issue(&Subject::from(&own.credential), now, self.0.leaf_ttl).map_err(refusal)?;
        let credential = self.judge(&chain).map_err(|e| Refusal::Other(e.to_string()))?;
        self.take(OwnCredential { chain, credential }, renewed).map_err(|e| Refusal::Disk(e.to_string()))
    }

    /// The issuer's side of a renewal: the same roles, services and issuer flag as the judged credential of the
    /// connection. An issuer with the root key renews another issuer's certificate as well.
    ///
    /// # Errors
    /// Not an issuer, or a credential that has expired meanwhile.
    pub fn renew(&self, peer: &Credential, request: &RenewRequest) -> Result<Issued, Refusal> {
        let (authority, now) = (self.authority().ok_or_else(not_an_issuer)?, self.now());
        if now > peer.not_after {
            return Err(Refusal::Other(CredentialError::Expired.to_string()));
        }
        self.stands(peer).map_err(|e| Refusal::Other(e.to_string()))?;
        let key = request.issuer_key.as_ref().filter(|_| peer.issuer && authority.root_key().is_some());
        self.issue(&authority, &Subject::from(peer), key, now)
    }

    /// Makes a token with these entry addresses (multiaddrs with `/p2p/...`). Writes the ledger.
    ///
    /// # Errors
    /// In words for the user: not an issuer, or a bound is broken.
    pub fn create_token(&self, spec: &TokenSpec, entries: &[String]) -> Result<(TokenId, String), String> {
        let authority = self.authority().ok_or("this node is not an issuer: it cannot make join tokens")?;
        if spec.issuer && authority.root_key().is_none() {
            return Err("the root key is not on this node: it cannot make tokens for issuers".to_owned());
        }
        if spec.ttl.as_secs() == 0 || spec.ttl > TOKEN_TTL_MAX {
            return Err("a join token lives for 1 second to 365 days".to_owned());
        }
        let now = self.now();
        let grant = Grant {
            id: TokenId(rand::random()),
            made_by: self.0.node,
            roles: spec.roles,
            issuer: spec.issuer,
            services: spec.services.clone(),
            not_after: UnixSeconds(now.0 + spec.ttl.as_secs()).min(authority.not_after()),
            uses: spec.uses,
            public_key: [0; 32], // of the token's own key, set below
        };
        let secret = zeroize::Zeroizing::new(rand::random::<[u8; 32]>());
        let token =
            Token::make(&self.0.root, authority.intermediate(), authority.key(), grant, entries.to_vec(), &secret);
        let token = token.map_err(|e| e.to_string())?;
        let text = token.encode().map_err(|e| e.to_string())?;
        let mut disk = self.committed().map_err(|e| e.to_string())?;
        let mut ledger = disk.state.ledger.clone();
        ledger.add(&token.grant, now)?;
        disk::save_ledger(&disk.store, &ledger).map_err(|e| e.to_string())?;
        disk.state.ledger = ledger;
        Ok((token.grant.id, text.to_string()))
    }

    /// The tokens that this issuer has made and that have not been expired for a day.
    pub fn tokens(&self) -> Vec<TokenInfo> {
        let revoked = self.revocations();
        self.disk().state.ledger.list(self.now(), |id| revoked.has(Revoked::Token(*id)))
    }

    fn issue(
        &self,
        authority: &Authority,
        subject: &Subject,
        issuer_key: Option<&[u8; 32]>,
        now: UnixSeconds,
    ) -> Result<Issued, Refusal> {
        let intermediate =
            issuer_key.map(|key| authority.issue_intermediate(subject.node, key, now)).transpose().map_err(refusal)?;
        let chain = authority.issue(subject, now, self.0.leaf_ttl).map_err(refusal)?;
        Ok(Issued { chain, intermediate })
    }
}

fn refusal(e: AuthorityError) -> Refusal {
    Refusal::Other(e.to_string())
}

fn not_an_issuer() -> Refusal {
    Refusal::Other("this node is not an issuer".to_owned())
}
