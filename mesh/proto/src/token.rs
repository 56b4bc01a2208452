//! Join tokens: a root certificate, entry addresses and a signed grant. No CA, no identity.
//!
//! The text is `paceline1.` and base64url of body, signature and checksum. The checksum finds typing mistakes, the
//! issuer's signature covers the body as a whole, so that no entry address can be swapped either. The token's own
//! secret key never leaves the newcomer: a [`Proof`] shows the grant and a signature bound to both peers and a nonce.

use std::fmt;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::credential::{BOUND_SERVICES_MAX, CHAIN_BYTES_MAX, CredentialError, Root};
use crate::id::{ClusterId, NodeId, Role, Roles, ServiceName, TokenId, UnixSeconds};
use crate::wire::{self, Message};

/// Most entry addresses of a token.
pub const ENTRIES_MAX: usize = 8;
/// Most bytes of an entry address.
pub const ENTRY_BYTES_MAX: usize = 256;
/// Most bytes of a token's body.
pub const BODY_BYTES_MAX: usize = 8 * 1024;
/// Most newcomers of a token whose uses are bounded.
pub const USES_MAX: u32 = 1024;

const PREFIX: &str = "paceline1.";
const SIGNATURE_BYTES: usize = 64;
const CHECKSUM_BYTES: usize = 8;
const TEXT_CHARS_MAX: usize = PREFIX.len() + (BODY_BYTES_MAX + SIGNATURE_BYTES + CHECKSUM_BYTES) * 4 / 3 + 4;

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
    /// The services that the newcomer may offer, at most [`BOUND_SERVICES_MAX`]; empty is any.
    pub services: Vec<ServiceName>,
    /// End of validity.
    pub not_after: UnixSeconds,
    /// How many newcomers; `None` is any number.
    pub uses: Option<u32>,
    /// The public half of the token's own key.
    pub public_key: [u8; 32],
}

impl Message for Grant {
    const BYTES_MAX: usize = 2 * 1024;
}

/// A join token, parsed, its checksum and signatures checked. Its secret is wiped when it is dropped.
#[derive(Clone)]
pub struct Token {
    /// The cluster's root.
    pub root: Root,
    /// Multiaddrs, with `/p2p/...`.
    pub entries: Vec<String>,
    /// What it allows.
    pub grant: Grant,
    intermediate: Vec<u8>,
    grant_signature: Vec<u8>,
    secret: SigningKey,
    body_signature: [u8; SIGNATURE_BYTES],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, cluster {})", self.grant.id, self.root.cluster().short())
    }
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

impl Message for Proof {
    const BYTES_MAX: usize = 8 * 1024;
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
    /// Taken back.
    #[error("join token {0} is revoked")]
    Revoked(TokenId),
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
        role: Role,
    },
    /// Made before the issuer's certificate is valid, by this clock.
    #[error("join token {0} is not valid yet: check this machine's clock")]
    NotYetValid(TokenId),
}

/// The bytes that the checksum and the issuer's signature cover.
#[derive(Serialize, Deserialize)]
struct Body {
    root: Vec<u8>,
    intermediate: Vec<u8>,
    entries: Vec<String>,
    grant: Grant,
    grant_signature: Vec<u8>,
    secret: [u8; 32],
}

impl Message for Body {
    const BYTES_MAX: usize = BODY_BYTES_MAX;
}

impl Drop for Body {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl Grant {
    /// Whether the grant is good at this time and for these roles. The uses are counted by the issuer.
    ///
    /// # Errors
    /// [`TokenError::Expired`] or [`TokenError::Role`].
    pub fn check(&self, now: UnixSeconds, roles: Roles) -> Result<(), TokenError> {
        if now > self.not_after {
            return Err(TokenError::Expired(self.id));
        }
        match roles.iter().find(|r| !self.roles.contains(*r)) {
            Some(role) => Err(TokenError::Role { id: self.id, role }),
            None => Ok(()),
        }
    }

    fn validate(&self) -> Result<(), TokenError> {
        let known = Role::ALL.into_iter().collect();
        if self.roles.is_empty() || !self.roles.is_subset(known) {
            return Err(TokenError::Malformed("it grants no role"));
        }
        if self.services.len() > BOUND_SERVICES_MAX {
            return Err(TokenError::Malformed("it names more than 16 services"));
        }
        if self.uses.is_some_and(|n| n == 0 || n > USES_MAX) {
            return Err(TokenError::Malformed("its uses must be 1 to 1024"));
        }
        Ok(())
    }

    fn signed_bytes(&self, cluster: &ClusterId) -> Result<Vec<u8>, TokenError> {
        let grant = wire::encode(self).map_err(|_| TokenError::Malformed("its grant is too long"))?;
        Ok([b"paceline grant v1".as_slice(), cluster.as_bytes(), &grant].concat())
    }
}

impl Token {
    /// Makes a token: the issuer's key signs, `secret` (32 random bytes) becomes the token's own key, whose public half
    /// replaces the grant's.
    ///
    /// # Errors
    /// [`TokenError::Malformed`] names the bound that is broken, or that the key is not the intermediate's.
    pub fn make(
        root: &Root,
        intermediate: &[u8],
        issuer_key: &SigningKey,
        mut grant: Grant,
        entries: Vec<String>,
        secret: &[u8; 32],
    ) -> Result<Self, TokenError> {
        let secret = SigningKey::from_bytes(secret);
        grant.public_key = secret.verifying_key().to_bytes();
        let grant_signature = issuer_key.sign(&grant.signed_bytes(&root.cluster())?).to_bytes().to_vec();
        let (root, intermediate) = (root.clone(), intermediate.to_vec());
        let mut token =
            Self { root, entries, grant, intermediate, grant_signature, secret, body_signature: [0; SIGNATURE_BYTES] };
        let body = token.body()?;
        token.body_signature = issuer_key.sign(&body_signed_bytes(&body)).to_bytes();
        token.verify(&body)?;
        Ok(token)
    }

    /// Parses `paceline1.<base64url>`, checks checksum, then signatures; not the expiry (see [`Grant::check`]). White
    /// space around it is no part of it.
    ///
    /// # Errors
    /// [`TokenError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TEXT_CHARS_MAX {
            return Err(TokenError::Malformed("it is too long"));
        }
        let encoded = text.strip_prefix(PREFIX).ok_or(TokenError::Malformed("it does not start with `paceline1.`"))?;
        const DAMAGED: TokenError = TokenError::Malformed("a character is missing or was changed");
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(encoded.as_bytes()).map_err(|_| DAMAGED)?);
        let (signed, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DAMAGED)?;
        if *checksum != checksum_of(signed) {
            return Err(DAMAGED);
        }
        let (body_bytes, signature) = signed.split_last_chunk::<SIGNATURE_BYTES>().ok_or(DAMAGED)?;
        let mut body: Body = wire::decode(body_bytes).map_err(|e| match e {
            wire::WireError::Version(_) => TokenError::Malformed("it is of another version of paceline"),
            _ => DAMAGED,
        })?;
        let token = Self {
            root: Root::new(std::mem::take(&mut body.root))
                .map_err(|_| TokenError::Malformed("its root certificate is not one"))?,
            entries: std::mem::take(&mut body.entries),
            grant: body.grant.clone(),
            intermediate: std::mem::take(&mut body.intermediate),
            grant_signature: std::mem::take(&mut body.grant_signature),
            secret: SigningKey::from_bytes(&body.secret),
            body_signature: *signature,
        };
        token.verify(body_bytes)?;
        Ok(token)
    }

    /// The text that [`Token::parse`] takes. It holds the secret: to be shown once, wiped after use.
    ///
    /// # Errors
    /// None for a token that was made or parsed: its bounds were checked then.
    pub fn encode(&self) -> Result<Zeroizing<String>, TokenError> {
        let body = self.body()?;
        let signed = Zeroizing::new([body.as_slice(), &self.body_signature].concat());
        let bytes = Zeroizing::new([signed.as_slice(), &checksum_of(&signed)].concat());
        let encoded = Zeroizing::new(BASE64URL_NOPAD.encode(&bytes));
        Ok(Zeroizing::new([PREFIX, &encoded].concat()))
    }

    /// Proves the token to a member.
    pub fn prove(&self, newcomer: NodeId, member: NodeId, nonce: &[u8; 32]) -> Proof {
        let message = proof_signed_bytes(&self.root.cluster(), self.grant.id, newcomer, member, nonce);
        Proof {
            grant: self.grant.clone(),
            intermediate: self.intermediate.clone(),
            grant_signature: self.grant_signature.clone(),
            signature: self.secret.sign(&message).to_bytes().to_vec(),
        }
    }

    fn body(&self) -> Result<Zeroizing<Vec<u8>>, TokenError> {
        let body = Body {
            root: self.root.der().to_vec(),
            intermediate: self.intermediate.clone(),
            entries: self.entries.clone(),
            grant: self.grant.clone(),
            grant_signature: self.grant_signature.clone(),
            secret: self.secret.to_bytes(),
        };
        wire::encode(&body).map(Zeroizing::new).map_err(|_| TokenError::Malformed("it would be too long"))
    }

    fn verify(&self, body: &[u8]) -> Result<(), TokenError> {
        self.grant.validate()?;
        if self.entries.len() > ENTRIES_MAX {
            return Err(TokenError::Malformed("it has too many entry addresses"));
        }
        if self.entries.iter().any(|e| e.len() > ENTRY_BYTES_MAX || e.chars().any(char::is_control)) {
            return Err(TokenError::Malformed("an entry address is too long"));
        }
        if self.grant.public_key != self.secret.verifying_key().to_bytes() {
            return Err(TokenError::Malformed("its key does not fit its grant"));
        }
        let issuer = self.root.read_intermediate(&self.intermediate).map_err(|_| UNSIGNED)?.key;
        let grant = self.grant.signed_bytes(&self.root.cluster())?;
        verify(&issuer, &grant, &self.grant_signature, UNSIGNED)?;
        verify(&issuer, &body_signed_bytes(body), &self.body_signature, UNSIGNED)
    }
}

impl Proof {
    /// Judges everything but the uses, which the issuer counts, and the roles, see [`Grant::check`].
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(
        &self,
        root: &Root,
        newcomer: NodeId,
        member: NodeId,
        nonce: &[u8; 32],
        now: UnixSeconds,
    ) -> Result<(), TokenError> {
        let id = self.grant.id;
        if self.intermediate.len() > CHAIN_BYTES_MAX {
            return Err(TokenError::Malformed("its issuer certificate is too long"));
        }
        self.grant.validate()?;
        let issuer = root.judge_intermediate(&self.intermediate, now).map_err(|e| match e {
            CredentialError::OtherCluster => TokenError::OtherCluster(id),
            CredentialError::Expired => TokenError::Expired(id),
            CredentialError::NotYetValid => TokenError::NotYetValid(id),
            CredentialError::Revoked | CredentialError::IssuerRevoked | CredentialError::Malformed(_) => UNSIGNED,
        })?;
        verify(&issuer.key, &self.grant.signed_bytes(&root.cluster())?, &self.grant_signature, UNSIGNED)?;
        const UNPROVEN: TokenError =
            TokenError::Malformed("the proof is not by its key, for these peers and this nonce");
        let key = VerifyingKey::from_bytes(&self.grant.public_key).map_err(|_| UNPROVEN)?;
        let message = proof_signed_bytes(&root.cluster(), id, newcomer, member, nonce);
        verify(&key, &message, &self.signature, UNPROVEN)?;
        self.grant.check(now, Roles::default())
    }
}

const UNSIGNED: TokenError = TokenError::Malformed("it is not signed by an issuer of its cluster");

fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8], otherwise: TokenError) -> Result<(), TokenError> {
    let holds = Signature::from_slice(signature).is_ok_and(|s| key.verify_strict(message, &s).is_ok());
    if holds { Ok(()) } else { Err(otherwise) }
}

fn checksum_of(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] =
        Sha256::new().chain_update(b"paceline token checksum v1").chain_update(bytes).finalize().into();
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    checksum
}

fn body_signed_bytes(body: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([b"paceline token v1".as_slice(), body].concat())
}

fn proof_signed_bytes(
    cluster: &ClusterId,
    token: TokenId,
    newcomer: NodeId,
    member: NodeId,
    nonce: &[u8; 32],
) -> Vec<u8> {
    let parts: [&[u8]; 6] =
        [b"paceline proof v1", cluster.as_bytes(), &token.0, newcomer.as_bytes(), member.as_bytes(), nonce];
    parts.concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{START, TestCluster, key, node_id, service_name};

    const NONCE: [u8; 32] = [9; 32];

    /// The key of the intermediate of `TestCluster::new(seed)`.
    fn issuer_key(cluster: &TestCluster) -> SigningKey {
        let pkcs8 = cluster.issuer.key().serialized_der();
        let seed = pkcs8.get(16..48).and_then(|s| <[u8; 32]>::try_from(s).ok()).expect("PKCS#8, version 1");
        SigningKey::from_bytes(&seed)
    }

    fn grant() -> Grant {
        Grant {
            id: TokenId([1, 2, 3, 4, 5, 6, 7, 8]),
            made_by: node_id(&key(1)),
            roles: [Role::Worker].into_iter().collect(),
            issuer: false,
            services: vec![service_name("files")],
            not_after: UnixSeconds(START.0 + 3600),
            uses: Some(2),
            public_key: [0; 32],
        }
    }

    fn entries() -> Vec<String> {
        vec!["/ip4/192.0.2.1/tcp/4900/p2p/12D3KooW".to_owned()]
    }

    fn make(cluster: &TestCluster, grant: Grant, entries: Vec<String>) -> Result<Token, TokenError> {
        Token::make(&cluster.root, &cluster.intermediate, &issuer_key(cluster), grant, entries, &[3; 32])
    }

    fn text(token: &Token) -> String {
        token.encode().expect("bounds were checked").to_string()
    }

    #[test]
    fn a_token_survives_its_text() {
        let cluster = TestCluster::new(1);
        let token = make(&cluster, grant(), entries()).expect("good");
        let parsed = Token::parse(&format!("\n {}\n", text(&token))).expect("good");
        assert_eq!((&parsed.root, &parsed.entries, &parsed.grant), (&token.root, &token.entries, &token.grant));
        assert_eq!(text(&parsed), text(&token));
        assert_ne!(parsed.grant.public_key, [0; 32]);
    }

    #[test]
    fn any_changed_character_is_refused() {
        let good = text(&make(&TestCluster::new(1), grant(), entries()).expect("good"));
        for at in 0..good.len() {
            let old = good.as_bytes()[at];
            // The neighbours differ in the lowest bit alone, which in a last character might carry no data.
            for new in [old ^ 1, b'A', b'_', b'=', b'.', b' ', b'\n', 0] {
                if new != old {
                    let mut bad = good.clone().into_bytes();
                    bad[at] = new;
                    let bad = String::from_utf8(bad).expect("ASCII");
                    assert!(matches!(Token::parse(&bad), Err(TokenError::Malformed(_))), "{at}: {}", char::from(new));
                }
            }
            assert!(Token::parse(&good[..at]).is_err(), "cut at {at}");
            assert!(Token::parse(&[&good[..at], &good[at + 1..]].concat()).is_err(), "without {at}");
            assert!(Token::parse(&[&good[..at], "A", &good[at..]].concat()).is_err(), "more at {at}");
        }
        assert!(Token::parse(&"x".repeat(TEXT_CHARS_MAX + 1)).is_err());
        assert!(Token::parse("").is_err());
    }

    #[test]
    fn only_the_issuer_can_change_an_entry() {
        let cluster = TestCluster::new(1);
        let token = make(&cluster, grant(), entries()).expect("good");
        let mut forged = token.clone();
        forged.entries = vec!["/ip4/192.0.2.66/tcp/4900/p2p/12D3KooW".to_owned()];
        assert_eq!(Token::parse(&text(&forged)).map(|_| ()), Err(UNSIGNED), "its checksum is right, its signature not");
        let mut forged = token;
        forged.grant.uses = None;
        assert_eq!(Token::parse(&text(&forged)).map(|_| ()), Err(UNSIGNED));
        let other = issuer_key(&TestCluster::new(2));
        let made = Token::make(&cluster.root, &cluster.intermediate, &other, grant(), entries(), &[3; 32]);
        assert_eq!(made.map(|_| ()), Err(UNSIGNED));
    }

    #[test]
    fn bounds_are_kept() {
        let cluster = TestCluster::new(1);
        let refused = |grant, entries| assert!(matches!(make(&cluster, grant, entries), Err(TokenError::Malformed(_))));
        refused(grant(), vec![String::new(); ENTRIES_MAX + 1]);
        refused(grant(), vec!["x".repeat(ENTRY_BYTES_MAX + 1)]);
        refused(grant(), vec!["\n".to_owned()]);
        refused(Grant { roles: Roles::default(), ..grant() }, entries());
        refused(Grant { uses: Some(0), ..grant() }, entries());
        refused(Grant { uses: Some(USES_MAX + 1), ..grant() }, entries());
        let longest: Vec<_> =
            (0..=BOUND_SERVICES_MAX).map(|i| service_name(&format!("{i:02}{}", "x".repeat(61)))).collect();
        refused(Grant { services: longest.clone(), ..grant() }, entries());
        let longest = longest[1..].to_vec();
        let token =
            make(&cluster, Grant { services: longest, ..grant() }, vec!["x".repeat(ENTRY_BYTES_MAX); ENTRIES_MAX]);
        let token = token.expect("the largest token");
        assert!(Token::parse(&text(&token)).is_ok());
        assert!(wire::encode(&token.prove(node_id(&key(7)), node_id(&key(1)), &NONCE)).is_ok());
    }

    #[test]
    fn a_proof_is_bound_to_both_peers_and_the_nonce() {
        let cluster = TestCluster::new(1);
        let token = make(&cluster, grant(), entries()).expect("good");
        let (newcomer, member, other) = (node_id(&key(7)), node_id(&key(1)), node_id(&key(9)));
        let proof = token.prove(newcomer, member, &NONCE);
        assert_eq!(proof.judge(&cluster.root, newcomer, member, &NONCE, START), Ok(()));
        let malformed = |r: Result<(), TokenError>| assert!(matches!(r, Err(TokenError::Malformed(_))), "{r:?}");
        malformed(proof.judge(&cluster.root, other, member, &NONCE, START));
        malformed(proof.judge(&cluster.root, newcomer, other, &NONCE, START));
        malformed(proof.judge(&cluster.root, newcomer, member, &[8; 32], START));
        let mut forged = proof.clone();
        forged.grant.roles = Role::ALL.into_iter().collect();
        malformed(forged.judge(&cluster.root, newcomer, member, &NONCE, START));
        let stolen = SigningKey::from_bytes(&[4; 32]);
        let mut forged = proof.clone();
        forged.grant.public_key = stolen.verifying_key().to_bytes();
        malformed(forged.judge(&cluster.root, newcomer, member, &NONCE, START));
        let mut forged = proof;
        forged.signature.truncate(63);
        malformed(forged.judge(&cluster.root, newcomer, member, &NONCE, START));
    }

    #[test]
    fn a_proof_tells_why_it_is_refused() {
        let cluster = TestCluster::new(1);
        let token = make(&cluster, grant(), entries()).expect("good");
        let (newcomer, member, id) = (node_id(&key(7)), node_id(&key(1)), token.grant.id);
        let proof = token.prove(newcomer, member, &NONCE);
        let judge = |root: &Root, now: u64| proof.judge(root, newcomer, member, &NONCE, UnixSeconds(now));
        assert_eq!(judge(&cluster.root, START.0 + 3600), Ok(()));
        assert_eq!(judge(&cluster.root, START.0 + 3601), Err(TokenError::Expired(id)));
        assert_eq!(judge(&cluster.root, 1), Err(TokenError::NotYetValid(id)));
        assert_eq!(judge(&TestCluster::new(2).root, START.0), Err(TokenError::OtherCluster(id)));
        let roles = [Role::Worker, Role::Gateway].into_iter().collect();
        assert_eq!(token.grant.check(START, roles), Err(TokenError::Role { id, role: Role::Gateway }));
        assert_eq!(token.grant.check(START, [Role::Worker].into_iter().collect()), Ok(()));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let token = make(&TestCluster::new(1), grant(), entries()).expect("good");
        let shown = format!("{token:?}");
        assert!(shown.starts_with("Token(0102030405060708, cluster ") && shown.len() < 60, "{shown}");
    }
}
