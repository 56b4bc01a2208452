//! JWTs (RFC 7519) as credentials: signed with a shared secret (HS256) or by a key of a JWK set (RS256, ES256, EdDSA).
//!
//! A key is bound to the one algorithm that its type has, and a token's header can only choose among keys: `none` is no
//! algorithm here, and a public key never serves as an HMAC secret (RFC 8725, sections 2.1 and 3.1). `exp` must be there.

mod fetch;
mod keys;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use paceline_mesh::args::{CallerArgs, LimitArgs, Rate};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use self::{fetch::Fetches, keys::KeySet};
use super::{
    files::Watched,
    identity::{Account, Identity},
    scope::{SCOPES_MAX, Scope},
};
use crate::{GatewayError, lane::lock};

/// How far the clocks of issuer and gateway may be apart, in seconds.
pub const LEEWAY_S: u64 = 30;
/// Longest token; a header line of a request may be longer.
const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// How long a token that was verified is believed without another look at its signature.
const CACHED_FOR: Duration = Duration::from_secs(60);
/// Most tokens that are remembered.
const CACHED_MAX: usize = 4096;
/// Most subjects with a rate of their own; what is idle makes room, and further ones have one together.
const SUBJECTS_MAX: usize = 4096;
/// Most keys that are tried for a token without a key id.
const TRIES_MAX: usize = 8;
/// Most bytes of a subject in logs and headers.
const SUBJECT_BYTES_MAX: usize = 64;

/// Why a token is not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// In words for the caller.
    Refused(String),
    /// No key has its id, and the set may be fetched anew for it: wait for [`Jwts::refreshed`] and ask again.
    NewKey,
    /// The set was never fetched.
    NoKeys,
}

/// The judge of tokens.
#[derive(Debug)]
pub(crate) struct Jwts {
    issuers: Vec<String>,
    audiences: Vec<String>,
    rate: Option<Rate>,
    running_max: u32,
    keys: ArcSwap<KeySet>,
    /// Counts the sets: what was verified with another one is forgotten.
    generation: AtomicU64,
    secret: Option<Watched>,
    set: Set,
    cache: Mutex<HashMap<[u8; 32], Cached>>,
    accounts: Mutex<HashMap<String, Arc<Account>>>,
}

#[derive(Debug)]
enum Set {
    None,
    File(Watched),
    Url(Fetches),
}

#[derive(Debug)]
struct Cached {
    generation: u64,
    until: Instant,
    expires_s: u64,
    identity: Arc<Identity>,
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    scope: Value,
    #[serde(default)]
    scopes: Value,
}

impl Jwts {
    /// Reads secret and set; a URL is fetched later. `None` where no flag asks for JWTs.
    ///
    /// # Errors
    /// A file is missing or holds something else.
    pub(crate) fn open(args: &CallerArgs, limits: &LimitArgs) -> Result<Option<Self>, GatewayError> {
        use paceline_mesh::args::Jwks;
        if args.jwt_secret_file.is_none() && args.jwt_jwks.is_none() {
            if !args.jwt_issuer.is_empty() || !args.jwt_audience.is_empty() {
                let words = "--jwt-issuer and --jwt-audience need --jwt-secret-file or --jwt-jwks";
                return Err(GatewayError::Config(words.to_owned()));
            }
            return Ok(None);
        }
        let refused = |flag: &str, reason: String| GatewayError::Config(format!("{flag}: {reason}"));
        let mut keys = KeySet::default();
        let secret = args.jwt_secret_file.clone().map(Watched::new);
        if let Some(file) = &secret {
            keys.set_secret(&file.read().map_err(|e| refused("--jwt-secret-file", e))?)
                .map_err(|e| refused(&format!("--jwt-secret-file {}", file.path().display()), e))?;
        }
        let set = match args.jwt_jwks.clone() {
            None => Set::None,
            Some(Jwks::File(path)) => {
                let file = Watched::new(path);
                keys.set_public(&file.read().map_err(|e| refused("--jwt-jwks", e))?)
                    .map_err(|e| refused(&format!("--jwt-jwks {}", file.path().display()), e))?;
                Set::File(file)
            }
            Some(Jwks::Url(url)) => Set::Url(Fetches::new(url)),
        };
        Ok(Some(Self {
            issuers: args.jwt_issuer.clone(),
            audiences: args.jwt_audience.clone(),
            rate: limits.key_rate,
            running_max: limits.key_concurrency,
            keys: ArcSwap::from_pointee(keys),
            generation: AtomicU64::new(0),
            secret,
            set,
            cache: Mutex::default(),
            accounts: Mutex::default(),
        }))
    }

    /// Whose token it is; `None` where it has not the form of one. `now_s` is in Unix seconds.
    pub(crate) fn find(&self, token: &str, now: Instant, now_s: u64) -> Option<Result<Arc<Identity>, Bad>> {
        let has_form = token.starts_with("ey") && token.bytes().filter(|b| *b == b'.').count() == 2;
        if !has_form {
            return None;
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Some(Err(Bad::Refused(format!("the JWT has more than {TOKEN_BYTES_MAX} bytes"))));
        }
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let generation = self.generation.load(Relaxed);
        let good = |c: &&Cached| c.generation == generation && c.until > now && c.expires_s > now_s;
        if let Some(cached) = lock(&self.cache).get(&digest).filter(good) {
            return Some(Ok(cached.identity.clone()));
        }
        Some(self.verify(token, now_s).map(|(identity, expires_s)| {
            let identity = Arc::new(identity);
            let mut cache = lock(&self.cache);
            if cache.len() >= CACHED_MAX {
                cache.retain(|_, c| good(&&*c));
                if cache.len() >= CACHED_MAX {
                    cache.clear();
                }
            }
            let until = now + CACHED_FOR;
            cache.insert(digest, Cached { generation, until, expires_s, identity: identity.clone() });
            identity
        }))
    }

    /// Waits for a fetch of the set that may still bring a key, if one is allowed now; not for long.
    pub(crate) async fn refreshed(&self) {
        if let Set::Url(fetches) = &self.set {
            fetches.wait().await;
        }
    }

    /// Keeps the keys fresh until it is dropped.
    pub(crate) async fn keep(&self) {
        let files = async {
            loop {
                tokio::time::sleep(super::files::LOOK_EVERY).await;
                self.look_at_files();
            }
        };
        let fetches = async {
            match &self.set {
                Set::Url(fetches) => fetches.keep(|text| self.take_set(text)).await,
                Set::None | Set::File(_) => std::future::pending().await,
            }
        };
        tokio::join!(files, fetches);
    }

    fn look_at_files(&self) {
        if let Some(file) = &self.secret {
            file.changed(|bytes| self.change(|keys| keys.set_secret(bytes)));
        }
        if let Set::File(file) = &self.set {
            file.changed(|bytes| self.change(|keys| keys.set_public(bytes)));
        }
    }

    fn take_set(&self, text: &[u8]) -> Result<(), String> {
        self.change(|keys| keys.set_public(text))
    }

    /// On an error the old keys stay in force.
    fn change(&self, with: impl FnOnce(&mut KeySet) -> Result<(), String>) -> Result<(), String> {
        let mut keys = KeySet::clone(&self.keys.load());
        with(&mut keys)?;
        if !keys.is_same(&self.keys.load()) {
            self.keys.store(Arc::new(keys));
            self.generation.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn verify(&self, token: &str, now_s: u64) -> Result<(Identity, u64), Bad> {
        let refused = |words: &str| Err(Bad::Refused(words.to_owned()));
        // The library knows no `none`, nor anything else that is not an algorithm.
        let Ok(header) = decode_header(token) else {
            return refused(
                "the JWT's header is malformed, or names no algorithm that is taken (RS256, ES256, EdDSA, HS256)",
            );
        };
        // RFC 7515, section 4.1.11: what must be understood and is not.
        if header.crit.is_some() {
            return refused("the JWT has critical extensions, and none is understood");
        }
        let keys = self.keys.load();
        let fitting: Vec<_> = keys.for_token(header.alg, header.kid.as_deref()).take(TRIES_MAX).collect();
        if fitting.is_empty() {
            return match &self.set {
                Set::Url(fetches) if fetches.may_bring_more() => Err(Bad::NewKey),
                Set::Url(_) if keys.is_empty() => Err(Bad::NoKeys),
                _ => refused("no key of this gateway fits the JWT's algorithm and key id"),
            };
        }
        let mut last = ErrorKind::InvalidSignature;
        for key in fitting {
            match decode::<Claims>(token, &key.key, &self.validation(key.algorithm)) {
                Ok(data) => return self.identity(&data.claims, now_s),
                Err(error) => last = error.kind().clone(),
            }
        }
        Err(Bad::Refused(self.words(&last)))
    }

    fn validation(&self, algorithm: jsonwebtoken::Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if !self.issuers.is_empty() {
            required.push("iss");
            validation.set_issuer(&self.issuers);
        }
        if !self.audiences.is_empty() {
            required.push("aud");
            validation.set_audience(&self.audiences);
        }
        // Without --jwt-audience a token that names one was made for somebody else, and the library refuses it.
        validation.set_required_spec_claims(&required);
        validation
    }

    fn identity(&self, claims: &Claims, now_s: u64) -> Result<(Identity, u64), Bad> {
        let mut scopes: Vec<Scope> = Vec::new();
        let mut take = |word: &str| {
            // Scopes of others, like `openid`, are nobody's business here.
            if let Ok(scope) = word.parse::<Scope>()
                && scopes.len() < SCOPES_MAX
            {
                scopes.push(scope);
            }
        };
        for claim in [&claims.scope, &claims.scopes] {
            match claim {
                Value::String(words) => words.split_ascii_whitespace().for_each(&mut take),
                Value::Array(list) => list.iter().filter_map(Value::as_str).for_each(&mut take),
                _ => {}
            }
        }
        let subject = claims.sub.as_str().unwrap_or("");
        let shown: String = subject.chars().filter(char::is_ascii_graphic).take(SUBJECT_BYTES_MAX).collect();
        let account = self.account(format!("{}\n{subject}", claims.iss.as_str().unwrap_or("")));
        // The library has judged it with the leeway; past that, nothing is remembered.
        let exp = if claims.exp.is_finite() && claims.exp > 0.0 { claims.exp as u64 } else { 0 };
        let expires_s = exp.saturating_add(LEEWAY_S);
        if expires_s <= now_s {
            return Err(Bad::Refused("the JWT has expired".to_owned()));
        }
        Ok((Identity { label: format!("jwt:{shown}"), scopes, account }, expires_s))
    }

    fn account(&self, subject: String) -> Arc<Account> {
        let mut accounts = lock(&self.accounts);
        if let Some(account) = accounts.get(&subject) {
            return account.clone();
        }
        if accounts.len() >= SUBJECTS_MAX {
            accounts.retain(|_, account| Arc::strong_count(account) > 1);
        }
        let subject = if accounts.len() >= SUBJECTS_MAX { String::new() } else { subject };
        accounts.entry(subject).or_insert_with(|| Arc::new(Account::new(self.rate, self.running_max))).clone()
    }

    fn words(&self, error: &ErrorKind) -> String {
        match error {
            ErrorKind::ExpiredSignature => "the JWT has expired".to_owned(),
            ErrorKind::ImmatureSignature => "the JWT is not valid yet (nbf)".to_owned(),
            ErrorKind::InvalidSignature => "the JWT's signature is wrong".to_owned(),
            ErrorKind::InvalidIssuer => "the JWT's issuer (iss) is not one that this gateway takes".to_owned(),
            ErrorKind::InvalidAudience if self.audiences.is_empty() => {
                "the JWT is for an audience (aud), and this gateway was told none (--jwt-audience)".to_owned()
            }
            ErrorKind::InvalidAudience => "the JWT's audience (aud) is not this gateway".to_owned(),
            ErrorKind::MissingRequiredClaim(claim) => format!("the JWT has no `{claim}`"),
            _ => "the JWT is malformed".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
