//! What stands in the data directory, file by file.
//!
//! ```text
//! identity.key   this node's Ed25519 key           root.pem     the cluster's root certificate
//! chain.pem      this node's leaf, its issuer's    issuer.key   at an issuer: what it signs with
//! issuer.pem     at an issuer: its certificate     root.key     at the founder: makes other issuers
//! tokens.json    at an issuer: the ledger          claim          the greatest of a leader
//! revoked        lists of who is thrown out
//! name, incarnation, members.json, time, lock
//! ```
//! A directory belongs to a cluster as soon as `root.pem` is there: it is written last, and removed first.
//! `root.key` may be moved away, and back to any issuer.

use ed25519_dalek::SigningKey;
use paceline_proto::{
    credential::{Chain, Root},
    id::{Incarnation, UnixSeconds, WorkerName},
    revocation::{Revocations, SignedList},
    wire,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, pem::PemObject};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{
    KnownPeer,
    store::{Access, Store},
    tokens::Ledger,
};
use crate::mesh::StartError;

/// Most peers in `members.json`.
pub(crate) const PEERS_MAX: usize = 256;
/// Most addresses of each.
pub(crate) const PEER_ADDRESSES_MAX: usize = 16;
/// Most bytes of a leader's claim.
const CLAIM_BYTES_MAX: usize = 16 * 1024;
/// What comes before the 32 bytes of an Ed25519 key in PKCS#8, version 1 (RFC 8410).
const PKCS8_ED25519: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

const IDENTITY_KEY: &str = "identity.key";
const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const CHAIN: &str = "chain.pem";
const ISSUER: &str = "issuer.pem";
const ISSUER_KEY: &str = "issuer.key";
const TOKENS: &str = "tokens.json";
const INCARNATION: &str = "incarnation";
const NAME: &str = "name";
const MEMBERS: &str = "members.json";
const TIME: &str = "time";
const CLAIM: &str = "claim";
const REVOKED: &str = "revoked";
const ALL: [&str; 13] =
    [IDENTITY_KEY, ROOT, ROOT_KEY, CHAIN, ISSUER, ISSUER_KEY, TOKENS, INCARNATION, NAME, MEMBERS, TIME, CLAIM, REVOKED];

/// What a node that belongs to a cluster has on disk.
pub(crate) struct Stored {
    /// The cluster.
    pub(crate) root: Root,
    /// The node's key.
    pub(crate) key: SigningKey,
    /// Not judged.
    pub(crate) chain: Option<Chain>,
    /// An issuer's key and certificate, not judged.
    pub(crate) issuer: Option<(SigningKey, Vec<u8>)>,
    /// At the founder.
    pub(crate) root_key: Option<SigningKey>,
    /// Who is thrown out.
    pub(crate) revocations: Revocations,
    /// The rest.
    pub(crate) state: State,
}

/// What changes while a node runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) ledger: Ledger,
    pub(crate) incarnation: Incarnation,
    pub(crate) name: Option<WorkerName>,
    pub(crate) peers: Vec<KnownPeer>,
    /// Of a leader, as the core gave it; empty when there is none.
    pub(crate) claim: Vec<u8>,
}

/// What makes a node a member: all that [`save_membership`] writes.
pub(crate) struct NewMembership<'a> {
    pub(crate) root: &'a Root,
    pub(crate) key: &'a SigningKey,
    pub(crate) chain: &'a Chain,
    pub(crate) issuer: Option<(&'a SigningKey, &'a [u8])>,
    pub(crate) root_key: Option<&'a SigningKey>,
}

/// Reads the directory, once nothing half-written is left in it; `None` when it belongs to no cluster.
///
/// # Errors
/// The file that is missing or corrupt is named.
pub(crate) fn load(store: &Store) -> Result<Option<Stored>, StartError> {
    store.sweep(&ALL);
    let Some(root) = read_certificates(store, ROOT, 1)? else {
        // Whoever lost the one file must not lose the other by founding a cluster over it.
        return match read_key(store, ROOT_KEY)? {
            Some(_) => {
                Err(store.error(format!("it has {ROOT_KEY}, but {ROOT} is missing: put it back, or move both away")))
            }
            None => Ok(None),
        };
    };
    let root = Root::new(root.into_iter().next().unwrap_or_default()).map_err(|e| corrupt(store, ROOT, e))?;
    let key = read_key(store, IDENTITY_KEY)?.ok_or_else(|| store.error(format!("{IDENTITY_KEY} is missing")))?;
    let chain = read_certificates(store, CHAIN, 2)?.and_then(|c| {
        let [leaf, intermediate] = <[Vec<u8>; 2]>::try_from(c).ok()?;
        Some(Chain { leaf, intermediate })
    });
    let certificate = read_certificates(store, ISSUER, 1)?.and_then(|c| c.into_iter().next());
    let issuer = match (read_key(store, ISSUER_KEY)?, certificate) {
        (Some(key), Some(certificate)) => Some((key, certificate)),
        (None, None) => None,
        (None, Some(_)) => return Err(store.error(format!("{ISSUER_KEY} is missing"))),
        (Some(_), None) => return Err(store.error(format!("{ISSUER} is missing"))),
    };
    let root_key = read_key(store, ROOT_KEY)?;
    let revocations = load_revocations(store, &root)?;
    Ok(Some(Stored { root, key, chain, issuer, root_key, revocations, state: load_state(store)? }))
}

fn load_state(store: &Store) -> Result<State, StartError> {
    let ledger = match store.read(TOKENS)? {
        Some(bytes) => Ledger::from_bytes(&bytes).map_err(|e| corrupt(store, TOKENS, e))?,
        None => Ledger::default(),
    };
    let incarnation = Incarnation(read_text(store, INCARNATION)?.unwrap_or_default());
    let name = read_text(store, NAME)?;
    // Hints: a node that has lost them asks its entry points again.
    let peers = store.read(MEMBERS)?.map(|bytes| serde_json::from_slice::<Vec<KnownPeer>>(&bytes));
    let peers = peers.transpose().unwrap_or_else(|e| {
        tracing::warn!(file = %store.dir().join(MEMBERS).display(), "the known members cannot be read and are forgotten: {e}");
        None
    });
    // Without it a restarted node believes the first leader that it hears, and the cluster tells it better.
    let claim = store.read(CLAIM)?.and_then(|bytes| {
        let whole = unsealed(&bytes);
        if whole.is_none() {
            tracing::warn!(file = %store.dir().join(CLAIM).display(), "the leader's claim is corrupt and is forgotten");
        }
        whole
    });
    Ok(State { ledger, incarnation, name, peers: bounded(peers.unwrap_or_default()), claim: claim.unwrap_or_default() })
}

/// Lists, each behind its length. A file that was changed is no reason to let anybody in again.
fn load_revocations(store: &Store, root: &Root) -> Result<Revocations, StartError> {
    let mut known = Revocations::new(root.clone());
    let Some(bytes) = store.read(REVOKED)? else { return Ok(known) };
    let corrupt = |why: &dyn std::fmt::Display| {
        store.error(format!(
            "{REVOKED} is corrupt: {why}; without it this node learns anew from the others who is thrown out"
        ))
    };
    let mut rest = bytes.as_slice();
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (list, behind) = behind.split_at_checked(length).ok_or_else(|| corrupt(&"it is cut off"))?;
        let list: SignedList = wire::decode(list).map_err(|e| corrupt(&e))?;
        known.take(&list).map_err(|e| corrupt(&e))?;
        rest = behind;
    }
    if rest.is_empty() { Ok(known) } else { Err(corrupt(&"it is cut off")) }
}

/// Replaces the lists of who is thrown out.
///
/// # Errors
/// The disk's.
pub(crate) fn save_revocations(store: &Store, known: &Revocations) -> Result<(), StartError> {
    let mut bytes = Vec::new();
    for list in known.lists() {
        let list = wire::encode(&list).map_err(|e| store.error(format!("{REVOKED}: {e}")))?;
        let length = u32::try_from(list.len()).map_err(|e| store.error(format!("{REVOKED}: {e}")))?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&list);
    }
    store.write(REVOKED, &bytes, Access::Public)
}

/// The last time on disk.
///
/// # Errors
/// It is corrupt.
pub(crate) fn load_time(store: &Store) -> Result<UnixSeconds, StartError> {
    Ok(UnixSeconds(read_text(store, TIME)?.unwrap_or_default()))
}

/// Puts the time on disk.
///
/// # Errors
/// The disk's.
pub(crate) fn save_time(store: &Store, time: UnixSeconds) -> Result<(), StartError> {
    store.write(TIME, format!("{}\n", time.0).as_bytes(), Access::Public)
}

/// Makes the directory one of a member.
///
/// # Errors
/// The disk's; without `root.pem`, which comes last, what was written does not count.
pub(crate) fn save_membership(store: &Store, new: &NewMembership<'_>) -> Result<(), StartError> {
    save_key(store, IDENTITY_KEY, new.key)?;
    save_chain(store, new.chain, new.issuer)?;
    if let Some(root_key) = new.root_key {
        save_key(store, ROOT_KEY, root_key)?;
    }
    store.write(ROOT, certificates_pem(&[new.root.der()]).as_bytes(), Access::Public)?;
    store.keep();
    Ok(())
}

/// Replaces the chain, and an issuer's key and certificate where they are given.
///
/// # Errors
/// The disk's.
pub(crate) fn save_chain(store: &Store, chain: &Chain, issuer: Option<(&SigningKey, &[u8])>) -> Result<(), StartError> {
    if let Some((key, certificate)) = issuer {
        save_key(store, ISSUER_KEY, key)?;
        store.write(ISSUER, certificates_pem(&[certificate]).as_bytes(), Access::Public)?;
    }
    store.write(CHAIN, certificates_pem(&[&chain.leaf, &chain.intermediate]).as_bytes(), Access::Public)
}

/// Replaces the ledger.
///
/// # Errors
/// The disk's.
pub(crate) fn save_ledger(store: &Store, ledger: &Ledger) -> Result<(), StartError> {
    let bytes = ledger.to_bytes().map_err(|e| store.error(format!("{TOKENS}: {e}")))?;
    store.write(TOKENS, &bytes, Access::Secret)
}

/// Replaces the incarnation.
///
/// # Errors
/// The disk's.
pub(crate) fn save_incarnation(store: &Store, incarnation: Incarnation) -> Result<(), StartError> {
    store.write(INCARNATION, format!("{}\n", incarnation.0).as_bytes(), Access::Public)
}

/// Replaces the greatest claim of a leader.
///
/// # Errors
/// The disk's.
pub(crate) fn save_claim(store: &Store, claim: &[u8]) -> Result<(), StartError> {
    store.write(CLAIM, &[Sha256::digest(claim).as_slice(), claim].concat(), Access::Public)
}

/// What stands behind its own hash; `None` where it does not.
fn unsealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (hash, claim) = bytes.split_first_chunk::<32>()?;
    (claim.len() <= CLAIM_BYTES_MAX && Sha256::digest(claim).as_slice() == hash).then(|| claim.to_vec())
}

/// Replaces the name.
///
/// # Errors
/// The disk's.
pub(crate) fn save_name(store: &Store, name: &WorkerName) -> Result<(), StartError> {
    store.write(NAME, format!("{name}\n").as_bytes(), Access::Public)
}

/// Replaces the known peers; returns what is kept of them.
///
/// # Errors
/// The disk's.
pub(crate) fn save_peers(store: &Store, peers: &[KnownPeer]) -> Result<Vec<KnownPeer>, StartError> {
    let peers = bounded(peers.to_vec());
    let bytes = serde_json::to_vec_pretty(&peers).map_err(|e| store.error(format!("{MEMBERS}: {e}")))?;
    store.write(MEMBERS, &bytes, Access::Public)?;
    Ok(peers)
}

/// Takes the membership off the disk. A root key is never deleted, since nothing could bring it back: it is put aside,
/// with its certificate, under the cluster's name.
///
/// # Errors
/// The disk's.
pub(crate) fn forget(store: &Store, root: &Root) -> Result<(), StartError> {
    if store.read(ROOT_KEY)?.is_some() {
        let cluster = root.cluster().short();
        store.rename(ROOT_KEY, &format!("left-{cluster}.{ROOT_KEY}"))?;
        store.rename(ROOT, &format!("left-{cluster}.{ROOT}"))?;
    }
    let all = [ROOT, IDENTITY_KEY, CHAIN, ISSUER_KEY, ISSUER, TOKENS, INCARNATION, NAME, MEMBERS, CLAIM, REVOKED];
    all.into_iter().try_for_each(|name| store.remove(name))
}

/// An Ed25519 key as PKCS#8.
pub(crate) fn pkcs8(key: &SigningKey) -> Zeroizing<Vec<u8>> {
    let seed = Zeroizing::new(key.to_bytes());
    Zeroizing::new([PKCS8_ED25519.as_slice(), seed.as_slice()].concat())
}

fn bounded(mut peers: Vec<KnownPeer>) -> Vec<KnownPeer> {
    peers.truncate(PEERS_MAX);
    peers.iter_mut().for_each(|p| p.addresses.truncate(PEER_ADDRESSES_MAX));
    peers
}

fn corrupt(store: &Store, name: &str, why: impl std::fmt::Display) -> StartError {
    // Some errors quote what they have read: the words must stay one line.
    let why = why.to_string().replace(char::is_control, " ");
    store.error(format!("{name} is corrupt: {why}"))
}

fn read_text<T: std::str::FromStr<Err: std::fmt::Display>>(store: &Store, name: &str) -> Result<Option<T>, StartError> {
    let Some(bytes) = store.read(name)? else { return Ok(None) };
    let text = std::str::from_utf8(&bytes).map_err(|e| corrupt(store, name, e))?;
    text.trim().parse().map(Some).map_err(|e| corrupt(store, name, e))
}

fn read_key(store: &Store, name: &str) -> Result<Option<SigningKey>, StartError> {
    let Some(bytes) = store.read(name)? else { return Ok(None) };
    store.warn_if_readable(name);
    key_of_text(&bytes).map(Some).ok_or_else(|| corrupt(store, name, "not a PEM private key of Ed25519"))
}

/// The first Ed25519 key in PEM, if there is one.
pub(crate) fn key_of_text(text: &[u8]) -> Option<SigningKey> {
    let der = PrivatePkcs8KeyDer::from_pem_slice(text).ok()?;
    let seed = der.secret_pkcs8_der().strip_prefix(&PKCS8_ED25519)?;
    Some(SigningKey::from_bytes(<&[u8; 32]>::try_from(seed).ok()?))
}

/// A root's certificate and key as one text.
pub(crate) fn root_text(root: &Root, key: &SigningKey) -> Zeroizing<String> {
    Zeroizing::new([certificates_pem(&[root.der()]).as_str(), &pem("PRIVATE KEY", &pkcs8(key))].concat())
}

/// Takes the root key off the disk.
///
/// # Errors
/// The disk's.
pub(crate) fn remove_root_key(store: &Store) -> Result<(), StartError> {
    store.remove(ROOT_KEY)
}

/// Puts the root key on disk.
///
/// # Errors
/// The disk's.
pub(crate) fn save_root_key(store: &Store, key: &SigningKey) -> Result<(), StartError> {
    save_key(store, ROOT_KEY, key)
}

fn read_certificates(store: &Store, name: &str, count: usize) -> Result<Option<Vec<Vec<u8>>>, StartError> {
    let Some(bytes) = store.read(name)? else { return Ok(None) };
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&bytes).take(count + 1).map(|c| c.map(|c| c.to_vec())).collect();
    match certificates {
        Ok(certificates) if certificates.len() == count => Ok(Some(certificates)),
        _ => Err(corrupt(store, name, format_args!("not {count} PEM certificate(s)"))),
    }
}

fn save_key(store: &Store, name: &str, key: &SigningKey) -> Result<(), StartError> {
    store.write(name, pem("PRIVATE KEY", &pkcs8(key)).as_bytes(), Access::Secret)
}

fn certificates_pem(certificates: &[&[u8]]) -> String {
    certificates.iter().map(|c| pem("CERTIFICATE", c).to_string()).collect()
}

fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    const LINE: usize = 48; // bytes, 64 characters
    let length = (der.len() / LINE + 1) * (LINE / 3 * 4 + 1) + 2 * (label.len() + 17);
    let mut text = Zeroizing::new(String::with_capacity(length));
    for part in ["-----BEGIN ", label, "-----\n"] {
        text.push_str(part);
    }
    for line in der.chunks(LINE) {
        data_encoding::BASE64.encode_append(line, &mut text);
        text.push('\n');
    }
    for part in ["-----END ", label, "-----\n"] {
        text.push_str(part);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::trust::authority::{
        Authority,
        tests::{DAY, NOW, node_of, worker},
    };

    fn save(dir: &Path) -> (Authority, SigningKey, Chain) {
        let store = Store::open(dir).expect("usable");
        let key = crate::trust::authority::new_key();
        let authority = Authority::found(node_of(&key), NOW).expect("founded");
        let chain = authority.issue(&worker(node_of(&key)), NOW, DAY).expect("issued");
        let new = NewMembership {
            root: authority.root(),
            key: &key,
            chain: &chain,
            issuer: Some((authority.key(), authority.intermediate())),
            root_key: authority.root_key(),
        };
        save_membership(&store, &new).expect("saved");
        (authority, key, chain)
    }

    #[test]
    fn a_membership_survives_the_disk() {
        let home = tempfile::tempdir().expect("a directory");
        let (authority, key, chain) = save(home.path());
        let store = Store::open(home.path()).expect("usable");
        save_incarnation(&store, Incarnation(7)).expect("saved");
        save_name(&store, &WorkerName::new("box").expect("a name")).expect("saved");
        save_time(&store, NOW).expect("saved");
        save_claim(&store, b"claim").expect("saved");
        let peer = KnownPeer { node: node_of(&key), addresses: vec!["/ip4/127.0.0.1/tcp/1".to_owned(); 20] };
        assert_eq!(save_peers(&store, &vec![peer; PEERS_MAX + 1]).expect("saved").len(), PEERS_MAX);
        let stored = load(&store).expect("readable").expect("a member");
        assert_eq!(&stored.root, authority.root());
        assert_eq!((stored.key, stored.chain), (key, Some(chain)));
        assert_eq!(stored.issuer, Some((authority.key().clone(), authority.intermediate().to_vec())));
        assert_eq!(stored.root_key.as_ref(), authority.root_key());
        assert_eq!(stored.state.incarnation, Incarnation(7));
        assert_eq!(stored.state.claim, b"claim");
        assert_eq!(stored.state.name.map(|n| n.to_string()).as_deref(), Some("box"));
        assert_eq!(stored.state.peers[0].addresses.len(), PEER_ADDRESSES_MAX);
        assert_eq!(load_time(&store).expect("readable"), NOW);
    }

    #[test]
    fn secrets_are_closed() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().expect("a directory");
        let dir = home.path().join("data");
        let (authority, ..) = save(&dir);
        let store = Store::open(&dir).expect("usable");
        save_ledger(&store, &Ledger::default()).expect("saved");
        for name in [IDENTITY_KEY, ISSUER_KEY, ROOT_KEY, TOKENS] {
            let mode = fs::metadata(dir.join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let seed = authority.key().to_bytes();
        let public = [ROOT, CHAIN, ISSUER].map(|name| fs::read(dir.join(name)).expect("there")).concat();
        let text = data_encoding::BASE64.encode(&seed);
        assert!(!String::from_utf8_lossy(&public).contains(&text[..40]));
    }

    #[test]
    fn what_was_half_written_goes_at_the_next_start() {
        let home = tempfile::tempdir().expect("a directory");
        save(home.path());
        let count = || fs::read_dir(home.path()).expect("there").count();
        let whole = count();
        for name in ALL {
            fs::write(home.path().join(format!(".{name}.new")), "half").expect("written");
        }
        assert_eq!(count(), whole + ALL.len());
        load(&Store::open(home.path()).expect("usable")).expect("readable").expect("a member");
        assert_eq!(count(), whole);
    }

    #[test]
    fn a_corrupt_file_is_named() {
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        // A name may be any word, and what issuer.pem holds is judged when it is used.
        let fine = [(NAME, "rubbish"), (ISSUER, no_certificate)];
        for name in [IDENTITY_KEY, ISSUER_KEY, ROOT_KEY, ROOT, CHAIN, ISSUER, TOKENS, INCARNATION, NAME] {
            for bad in ["", "rubbish", no_certificate].into_iter().filter(|bad| !fine.contains(&(name, bad))) {
                let home = tempfile::tempdir().expect("a directory");
                save(home.path());
                fs::write(home.path().join(name), bad).expect("written");
                let store = Store::open(home.path()).expect("usable");
                let said = load(&store).map(|_| ()).expect_err(name).to_string();
                assert!(said.contains(&format!("{name} is corrupt")) && !said.contains('\n'), "{said}");
            }
        }
    }

    #[test]
    fn a_corrupt_claim_is_no_claim() {
        let home = tempfile::tempdir().expect("a directory");
        save(home.path());
        let store = Store::open(home.path()).expect("usable");
        let claim = || load(&store).expect("readable").expect("a member").state.claim;
        assert!(claim().is_empty(), "the first start");
        save_claim(&store, b"term 7").expect("saved");
        assert_eq!(claim(), b"term 7");
        let mut bytes = fs::read(home.path().join(CLAIM)).expect("there");
        *bytes.last_mut().expect("not empty") ^= 1;
        for bad in [bytes.as_slice(), b"", b"rubbish"] {
            fs::write(home.path().join(CLAIM), bad).expect("written");
            assert!(claim().is_empty());
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        for name in [IDENTITY_KEY, ISSUER_KEY, ROOT, ISSUER] {
            let home = tempfile::tempdir().expect("a directory");
            save(home.path());
            fs::remove_file(home.path().join(name)).expect("removed");
            let store = Store::open(home.path()).expect("usable");
            let said = load(&store).map(|_| ()).expect_err(name).to_string();
            assert!(said.contains(&format!("{name} is missing")), "{said}");
        }
        let home = tempfile::tempdir().expect("a directory");
        let store = Store::open(home.path()).expect("usable");
        assert!(load(&store).expect("readable").is_none(), "a fresh directory");
        fs::write(home.path().join(MEMBERS), "rubbish").expect("written");
        drop(store);
        save(home.path());
        let store = Store::open(home.path()).expect("usable");
        assert!(load(&store).expect("hints may be lost").is_some());
    }

    #[test]
    fn forgetting_leaves_no_membership_and_never_deletes_a_root_key() {
        let home = tempfile::tempdir().expect("a directory");
        let (authority, ..) = save(home.path());
        let store = Store::open(home.path()).expect("usable");
        forget(&store, authority.root()).expect("forgotten");
        assert!(load(&store).expect("readable").is_none());
        let mut left: Vec<_> =
            fs::read_dir(home.path()).expect("there").map(|e| e.expect("an entry").file_name().into_string()).collect();
        left.sort();
        let cluster = authority.root().cluster().short();
        let expected = [format!("left-{cluster}.root.key"), format!("left-{cluster}.root.pem"), "lock".to_owned()];
        assert_eq!(left, expected.map(Ok));
    }
}
