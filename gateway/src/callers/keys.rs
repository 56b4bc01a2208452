//! API keys: `pk_<id>_<secret>`, shown once; the file holds a digest.
//!
//! SHA-256, and no slow password hash, is right here: the secret is 256 bits from the system's generator, so that there
//! is nothing to guess by trying, and a slow hash would only give callers a way to keep the gateway busy.
//!
//! A key is known to the gateway that made it; each gateway has its own file.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use data_encoding::{BASE32_DNSSEC, HEXLOWER};
use paceline_mesh::{
    args::Rate,
    process::{API_KEYS, write_atomically},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{
    equal_in_constant_time,
    identity::{Account, Identity},
    scope::{SCOPES_MAX, Scope},
};
use crate::lane::lock;

/// Most keys of a gateway.
pub const KEYS_MAX: usize = 1024;
/// Most bytes of a key's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Longest life of a key, in seconds.
pub const TTL_S_MAX: u64 = 10 * 366 * 24 * 3600;
/// Most bytes of the file: what [`KEYS_MAX`] keys with all their scopes may need.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
const PREFIX: &str = "pk_";
const ID_BYTES: usize = 5;
const ID_CHARS: usize = 8;
const SECRET_BYTES: usize = 32;
const SECRET_CHARS: usize = 52;
/// The form of the file.
const VERSION: u32 = 1;

/// A key that cannot be made, or a file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// What is asked for cannot be; nothing changed.
    #[error("{0}")]
    Wanted(String),
    /// There is no such key; nothing changed.
    #[error("no API key has the id {0}")]
    Unknown(String),
    /// The file cannot be read, or is not what a gateway writes.
    #[error("{path}: {reason}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What a key is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// Empty: `service:*`.
    #[serde(default)]
    pub scopes: Vec<Scope>,
    /// In seconds; `None`: until it is revoked.
    #[serde(default)]
    pub ttl_s: Option<u64>,
    /// Of this key, in place of `--key-rate`.
    #[serde(default)]
    pub rate: Option<Rate>,
}

/// What is kept of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// No secret: names the key in lists and logs.
    pub id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of the secret, in hex.
    sha256: String,
    /// What its bearer may do.
    pub scopes: Vec<Scope>,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Of this key alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    version: u32,
    keys: Vec<Record>,
}

/// A key as it is used.
#[derive(Debug)]
struct Live {
    record: Record,
    digest: [u8; 32],
    identity: Arc<Identity>,
}

/// The keys of a gateway, on disk and at hand. Readers take no lock.
#[derive(Debug)]
pub struct Keys {
    /// `None`: in tests, nothing is written.
    path: Option<PathBuf>,
    live: ArcSwap<HashMap<String, Arc<Live>>>,
    /// One change at a time, the file first.
    changing: Mutex<()>,
    rate: Option<Rate>,
    running_max: u32,
}

/// Why a key is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// Never made, or revoked.
    Unknown,
    Expired,
}

impl Keys {
    /// Reads what a data directory has; none is no error. `rate` and `running_max` hold where a key says nothing else.
    ///
    /// # Errors
    /// [`KeysError::File`].
    pub fn open(data_dir: &Path, rate: Option<Rate>, running_max: u32) -> Result<Self, KeysError> {
        let path = data_dir.join(API_KEYS);
        let records = read(&path)?;
        let mut keys = Self { path: Some(path), ..Self::in_memory(rate, running_max) };
        let live = records.into_iter().map(|record| keys.live(record)).collect::<Result<HashMap<_, _>, _>>()?;
        keys.live = ArcSwap::from_pointee(live);
        Ok(keys)
    }

    pub(crate) fn in_memory(rate: Option<Rate>, running_max: u32) -> Self {
        Self { path: None, live: ArcSwap::default(), changing: Mutex::new(()), rate, running_max }
    }

    /// Whether there is no key at all, expired ones included.
    pub fn is_empty(&self) -> bool {
        self.live.load().is_empty()
    }

    /// Makes a key and writes the file; the second is the key itself, which nobody can be told again. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`KeysError`]; nothing changed.
    pub fn create(&self, wanted: Wanted) -> Result<(Record, Zeroizing<String>), KeysError> {
        let wanted = judged(wanted)?;
        let _one_at_a_time = lock(&self.changing);
        let mut all = HashMap::clone(&self.live.load());
        if all.len() >= KEYS_MAX {
            return Err(KeysError::Wanted(format!("there are {KEYS_MAX} API keys already: revoke some")));
        }
        let mut id = BASE32_DNSSEC.encode(&rand::random::<[u8; ID_BYTES]>());
        while all.contains_key(&id) {
            id = BASE32_DNSSEC.encode(&rand::random::<[u8; ID_BYTES]>());
        }
        let random = Zeroizing::new(rand::random::<[u8; SECRET_BYTES]>());
        let secret = Zeroizing::new(BASE32_DNSSEC.encode(&*random));
        let now = unix_now();
        let record = Record {
            sha256: HEXLOWER.encode(&Sha256::digest(secret.as_bytes())),
            name: wanted.name,
            scopes: wanted.scopes,
            created_at: now,
            expires_at: wanted.ttl_s.map(|ttl| now + ttl),
            rate: wanted.rate,
            id: id.clone(),
        };
        let (id_again, live) = self.live(record.clone())?;
        all.insert(id_again, live);
        self.replace(all)?;
        Ok((record, Zeroizing::new(format!("{PREFIX}{id}_{}", *secret))))
    }

    /// Takes a key away. Blocks on the disk. Requests that run go on.
    ///
    /// # Errors
    /// [`KeysError`]; nothing changed.
    pub fn revoke(&self, id: &str) -> Result<Record, KeysError> {
        let _one_at_a_time = lock(&self.changing);
        let mut all = HashMap::clone(&self.live.load());
        let Some(gone) = all.remove(id) else { return Err(KeysError::Unknown(id.chars().take(ID_CHARS).collect())) };
        self.replace(all)?;
        Ok(gone.record.clone())
    }

    /// All keys, the oldest first, each with the requests that it was let in for since the start.
    pub fn list(&self) -> Vec<(Record, u64)> {
        let live = self.live.load();
        let mut all: Vec<_> = live.values().map(|l| (l.record.clone(), l.identity.account.requests())).collect();
        all.sort_by(|(a, _), (b, _)| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        all
    }

    /// Whose key it is; `None` where it has not the form of one.
    pub(crate) fn find(&self, token: &str, now: u64) -> Option<Result<Arc<Identity>, Bad>> {
        let (id, secret) = parts(token)?;
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        let live = self.live.load();
        Some(match live.get(id) {
            Some(key) if equal_in_constant_time(&key.digest, &digest) => {
                if key.record.expires_at.is_some_and(|at| at <= now) {
                    Err(Bad::Expired)
                } else {
                    Ok(key.identity.clone())
                }
            }
            _ => Err(Bad::Unknown),
        })
    }

    fn live(&self, record: Record) -> Result<(String, Arc<Live>), KeysError> {
        let digest = HEXLOWER.decode(record.sha256.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let digest = digest.filter(|_| is_id(&record.id)).ok_or_else(|| KeysError::File {
            path: self.path.clone().unwrap_or_default(),
            reason: "not what a gateway writes: an id or a digest is malformed".to_owned(),
        })?;
        let account = Arc::new(Account::new(record.rate.or(self.rate), self.running_max));
        let label = format!("key:{}", record.id);
        let identity = Arc::new(Identity { label, scopes: record.scopes.clone(), account });
        Ok((record.id.clone(), Arc::new(Live { record, digest, identity })))
    }

    fn replace(&self, all: HashMap<String, Arc<Live>>) -> Result<(), KeysError> {
        if let Some(path) = &self.path {
            let mut keys: Vec<_> = all.values().map(|live| live.record.clone()).collect();
            keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
            let written = serde_json::to_vec_pretty(&Contents { version: VERSION, keys })
                .map_err(io::Error::other)
                .and_then(|bytes| write_atomically(path, &bytes, true));
            written.map_err(|e| KeysError::File { path: path.clone(), reason: format!("cannot be written: {e}") })?;
        }
        self.live.store(Arc::new(all));
        Ok(())
    }
}

/// Seconds since 1970; 0 where the clock stands before.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn judged(mut wanted: Wanted) -> Result<Wanted, KeysError> {
    let refused = |words: String| Err(KeysError::Wanted(words));
    if wanted.name.as_ref().is_some_and(|n| n.is_empty() || n.len() > NAME_BYTES_MAX || n.chars().any(char::is_control))
    {
        return refused(format!("name: 1 to {NAME_BYTES_MAX} bytes without control characters"));
    }
    if wanted.ttl_s.is_some_and(|ttl| !(1..=TTL_S_MAX).contains(&ttl)) {
        return refused(format!("ttl_s: must be between 1 and {TTL_S_MAX}"));
    }
    if wanted.scopes.len() > SCOPES_MAX {
        return refused(format!("scopes: at most {SCOPES_MAX}"));
    }
    if wanted.scopes.is_empty() {
        wanted.scopes.push(Scope::AnyService);
    }
    wanted.scopes.sort();
    wanted.scopes.dedup();
    Ok(wanted)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
}

/// Id and secret of a key of the right form; other systems' keys may begin with `pk_` too.
fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
    let fine = secret.len() == SECRET_CHARS && secret.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
    (is_id(id) && fine).then_some((id, secret))
}

/// Whether a credential has the form of an API key.
pub(super) fn has_form(token: &str) -> bool {
    parts(token).is_some()
}

fn read(path: &Path) -> Result<Vec<Record>, KeysError> {
    let failed = |reason: String| KeysError::File { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(format!("cannot be read: {e}"))),
    };
    let contents: Contents =
        serde_json::from_slice(&bytes).map_err(|e| failed(format!("not what a gateway writes: {e}")))?;
    if contents.version != VERSION {
        return Err(failed(format!("version {} is not known to this one, which writes {VERSION}", contents.version)));
    }
    Ok(contents.keys)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn wanted(scopes: &[&str], ttl_s: Option<u64>) -> Wanted {
        let scopes = scopes.iter().map(|s| s.parse().expect("a scope")).collect();
        Wanted { name: Some("test".into()), scopes, ttl_s, rate: None }
    }

    #[test]
    fn a_key_is_known_at_once_after_a_restart_and_until_it_is_revoked() {
        let dir = tempfile::tempdir().expect("a directory");
        let keys = Keys::open(dir.path(), None, 8).expect("none yet");
        assert!(keys.is_empty());
        let (record, key) = keys.create(wanted(&["service:files"], None)).expect("made");
        assert_eq!(key.len(), PREFIX.len() + ID_CHARS + 1 + SECRET_CHARS);
        let path = dir.path().join(API_KEYS);
        assert_eq!(std::fs::metadata(&path).expect("written").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(!text.contains(key.rsplit('_').next().expect("a secret")), "the secret is not on disk");
        for keys in [&keys, &Keys::open(dir.path(), None, 8).expect("read again")] {
            let found = keys.find(&key, unix_now()).expect("of the form").expect("known");
            assert_eq!((found.label.as_str(), found.scopes.len()), (format!("key:{}", record.id).as_str(), 1));
        }
        assert!(matches!(keys.revoke("nothing0"), Err(KeysError::Unknown(_))));
        keys.revoke(&record.id).expect("revoked");
        for keys in [&keys, &Keys::open(dir.path(), None, 8).expect("read again")] {
            assert_eq!(keys.find(&key, unix_now()).expect("of the form").map(drop), Err(Bad::Unknown));
        }
    }

    #[test]
    fn no_other_secret_no_later_time_and_no_other_form() {
        let keys = Keys::in_memory(None, 8);
        let (record, key) = keys.create(wanted(&[], Some(60))).expect("made");
        assert_eq!(record.scopes, [Scope::AnyService]);
        let at = record.expires_at.expect("it ends");
        assert!(keys.find(&key, at - 1).expect("form").is_ok());
        assert_eq!(keys.find(&key, at).expect("form").map(drop), Err(Bad::Expired));
        let last = if key.ends_with('0') { "1" } else { "0" };
        let near = format!("{}{last}", &key[..key.len() - 1]);
        assert_eq!(keys.find(&near, at - 1).expect("form").map(drop), Err(Bad::Unknown));
        for other in ["", "pk_", "pk_live_51H8abc", &key[..key.len() - 1], &key.to_uppercase(), &format!("{}0", *key)] {
            assert!(keys.find(other, at - 1).is_none(), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_a_foreign_file_is_named() {
        let keys = Keys::in_memory(None, 8);
        for bad in [
            Wanted { name: Some("a\nb".into()), ..Wanted::default() },
            Wanted { ttl_s: Some(0), ..Wanted::default() },
            Wanted { scopes: vec![Scope::Jobs; SCOPES_MAX + 1], ..Wanted::default() },
        ] {
            assert!(matches!(keys.create(bad), Err(KeysError::Wanted(_))));
        }
        let dir = tempfile::tempdir().expect("a directory");
        for bad in [
            "",
            "{}",
            r#"{"version": 2, "keys": []}"#,
            r#"{"version": 1, "keys": [{"id": "x"}]}"#,
            r#"{"version": 1, "keys": [{"id": "01234567", "sha256": "00", "scopes": [], "created_at": 0}]}"#,
        ] {
            std::fs::write(dir.path().join(API_KEYS), bad).expect("written");
            let words = Keys::open(dir.path(), None, 8).map(drop).expect_err(bad).to_string();
            assert!(words.contains(API_KEYS), "{words}");
        }
    }
}
