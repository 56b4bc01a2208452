//! Keys that verify tokens, each bound to the algorithm of its type.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Most keys of a set.
pub(super) const KEYS_MAX: usize = 64;
/// Fewest bytes of an HMAC secret: as many as the digest has (RFC 7518, section 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Most bytes of an HMAC secret.
const SECRET_BYTES_MAX: usize = 4096;

/// A key and what it may verify.
#[derive(Clone)]
pub(super) struct Verifier {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// All keys that are in force.
#[derive(Clone, Default)]
pub(super) struct KeySet {
    secret: Option<Verifier>,
    public: Vec<Verifier>,
    /// Of what they were read from.
    digests: [[u8; 32]; 2],
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeySet").field("secret", &self.secret.is_some()).field("public", &self.public.len()).finish()
    }
}

impl KeySet {
    pub(super) fn set_secret(&mut self, text: &[u8]) -> Result<(), String> {
        // Editors and `echo` end a file with a line end.
        let secret = text.strip_suffix(b"\n").unwrap_or(text);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        if !(SECRET_BYTES_MIN..=SECRET_BYTES_MAX).contains(&secret.len()) {
            return Err(format!(
                "the secret has {} bytes; {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} are wanted",
                secret.len()
            ));
        }
        if secret.starts_with(b"-----BEGIN") {
            return Err("that is a PEM file; HS256 takes a secret, public keys go into --jwt-jwks".to_owned());
        }
        let key = DecodingKey::from_secret(secret);
        self.secret = Some(Verifier { id: None, algorithm: Algorithm::HS256, key });
        self.digests[0] = Sha256::digest(text).into();
        Ok(())
    }

    /// Takes a JWK set (RFC 7517). Keys that are for something else, or of another kind, are passed over; symmetric
    /// ones too: what is published is no secret.
    pub(super) fn set_public(&mut self, text: &[u8]) -> Result<(), String> {
        let set: Value = serde_json::from_slice(text).map_err(|e| format!("not JSON: {e}"))?;
        let list = set["keys"].as_array().ok_or("not a JWK set: it has no list `keys`")?;
        if list.len() > KEYS_MAX {
            return Err(format!("it has {} keys, at most {KEYS_MAX} are taken", list.len()));
        }
        let usable = |value: &Value| verifier(&serde_json::from_value::<Jwk>(value.clone()).ok()?);
        let public: Vec<_> = list.iter().filter_map(usable).collect();
        if public.is_empty() {
            return Err("it has no key for RS256, ES256 or EdDSA".to_owned());
        }
        self.public = public;
        self.digests[1] = Sha256::digest(text).into();
        Ok(())
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.digests == other.digests
    }

    pub(super) fn is_empty(&self) -> bool {
        self.secret.is_none() && self.public.is_empty()
    }

    /// The keys that may have signed a token. A key without an id fits each; a token without one, each key.
    pub(super) fn for_token<'a>(
        &'a self,
        algorithm: Algorithm,
        id: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Verifier> {
        let named = move |key: &&Verifier| match (&key.id, id) {
            (Some(own), Some(wanted)) => own == wanted,
            _ => true,
        };
        self.secret.iter().chain(&self.public).filter(move |key| key.algorithm == algorithm).filter(named)
    }
}

fn verifier(jwk: &Jwk) -> Option<Verifier> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let said = jwk.common.key_algorithm.is_none_or(|said| said == KeyAlgorithm::from(algorithm));
    let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
    let key = DecodingKey::from_jwk(jwk).ok()?;
    (said && signs).then(|| Verifier { id: jwk.common.key_id.clone(), algorithm, key })
}
