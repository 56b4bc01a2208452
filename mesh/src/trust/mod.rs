//! Identity on disk, the certificate authority of issuers, tokens, and the TLS configurations of the data plane.
//!
//! [`Trust`] is the one shared state: the key, the root, the chain (swapped at renewal), and, at an issuer, the
//! authority with its ledger of tokens. Nothing here is async: the calls that write to disk say so.

mod authority;
mod clock;
mod disk;
mod issuing;
mod messages;
mod open;
mod revoking;
pub mod root;
mod store;
mod text;
pub mod tls;
mod tokens;

pub use issuing::TOKEN_TTL_MAX;
pub use messages::{Issued, JoinRequest, KnownPeer, Refusal, RenewRequest};
pub(crate) use store::Store;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ed25519_dalek::SigningKey;
use paceline_proto::{
    credential::{Chain, Credential, CredentialError, Root},
    id::{ClusterId, Incarnation, NodeId, Roles, UnixSeconds, WorkerName},
    revocation::Revocations,
    token::Token,
};

use self::{
    authority::{Authority, half_life},
    clock::Clock,
    disk::{NewMembership, State},
    open::{Opened, node_of},
    tls::Shown,
};
use crate::config::{Membership, MeshConfig};
use crate::mesh::StartError;

use tokio::sync::watch;

/// What [`Trust::open`] needs of a [`MeshConfig`].
#[derive(Clone)]
pub struct Options {
    /// The data directory.
    pub data_dir: PathBuf,
    /// How to become a member.
    pub membership: Membership,
    /// What this process acts as.
    pub roles: Roles,
    /// Life of issued leaves.
    pub leaf_ttl: Duration,
}

impl From<&MeshConfig> for Options {
    fn from(config: &MeshConfig) -> Self {
        Self {
            data_dir: config.data_dir.clone(),
            membership: config.membership.clone(),
            roles: config.roles,
            leaf_ttl: config.leaf_ttl,
        }
    }
}

/// This node's chain and what it proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCredential {
    /// To show to others.
    pub chain: Chain,
    /// What it says.
    pub credential: Credential,
}

/// Identity, membership and authority of this process. Cheap to clone; the data directory stays locked until the last
/// clone is gone.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

struct Inner {
    roles: Roles,
    leaf_ttl: Duration,
    clock: Clock,
    root: Root,
    key: SigningKey,
    keypair: libp2p::identity::Keypair,
    node: NodeId,
    token: Option<Token>,
    founded: bool,
    issuer_key: Option<SigningKey>,
    own: ArcSwapOption<OwnCredential>,
    authority: ArcSwapOption<Authority>,
    shown: Arc<Shown>,
    /// Changed while the disk is held.
    revocations: watch::Sender<Arc<Revocations>>,
    tls_client: Arc<rustls::ClientConfig>,
    tls_server: Arc<rustls::ServerConfig>,
    /// Held while the disk is written: its order is that of the changes.
    disk: Mutex<Disk>,
    /// Whether the directory belongs to the cluster; changed under the lock.
    on_disk: AtomicBool,
}

struct Disk {
    store: Store,
    /// As on disk, once the directory belongs to the cluster.
    state: State,
    /// The chain in memory is newer.
    unsaved: bool,
    forgotten: bool,
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trust({:?}, {:?})", self.0.node, self.0.root)
    }
}

impl Trust {
    /// Locks and reads the data directory and decides: resume, found, or wait for admission by a token (then
    /// [`Trust::own`] is `None`, and nothing is on disk until [`Trust::accept`]). What is founded or renewed here is
    /// on disk after [`Trust::commit`].
    ///
    /// # Errors
    /// In words for the user; nothing on disk was changed.
    pub fn open(options: &Options) -> Result<Self, StartError> {
        Self::open_at(options, Clock::system())
    }

    fn open_at(options: &Options, clock: Clock) -> Result<Self, StartError> {
        let opened = open::open(options, clock)?;
        let Opened {
            store,
            clock,
            root,
            key,
            own,
            authority,
            issuer_key,
            token,
            founded,
            on_disk,
            unsaved,
            revocations,
            state,
        } = opened;
        let tls = |e: rustls::Error| StartError::Config(format!("TLS: {e}"));
        let shown = Arc::new(Shown::new(&key).map_err(tls)?);
        if let Some((chain, _)) = &own {
            shown.show(chain);
        }
        let keypair = libp2p::identity::Keypair::ed25519_from_bytes(key.to_bytes());
        Ok(Self(Arc::new(Inner {
            keypair: keypair.map_err(|e| StartError::Config(e.to_string()))?,
            roles: options.roles,
            leaf_ttl: options.leaf_ttl,
            tls_client: Arc::new(tls::client(&root, shown.clone(), &clock).map_err(tls)?),
            tls_server: Arc::new(tls::server(&root, shown.clone(), &clock).map_err(tls)?),
            clock,
            root,
            node: node_of(&key),
            key,
            token,
            founded,
            issuer_key,
            own: ArcSwapOption::new(own.map(|(chain, credential)| Arc::new(OwnCredential { chain, credential }))),
            authority: ArcSwapOption::new(authority.map(Arc::new)),
            shown,
            revocations: watch::Sender::new(Arc::new(revocations)),
            disk: Mutex::new(Disk { store, state, unsaved, forgotten: false }),
            on_disk: AtomicBool::new(on_disk),
        })))
    }

    /// Whether this start founded the cluster.
    pub fn founded(&self) -> bool {
        self.0.founded
    }

    /// Puts what [`Trust::open`] decided on disk: to be called when nothing else can refuse the start (the ports are
    /// bound). Every other call that writes does this first. Nothing to do for a joiner.
    ///
    /// # Errors
    /// The disk failed.
    pub fn commit(&self) -> Result<(), StartError> {
        if self.own().is_none() {
            return Ok(());
        }
        let (now, disk) = (self.now(), self.committed()?);
        disk::save_time(&disk.store, now)
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// For libp2p.
    pub fn keypair(&self) -> libp2p::identity::Keypair {
        self.0.keypair.clone()
    }

    /// For records (`paceline_proto::node::Config`).
    pub fn signing_key(&self) -> SigningKey {
        self.0.key.clone()
    }

    /// The cluster's root.
    pub fn root(&self) -> &Root {
        &self.0.root
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.0.root.cluster()
    }

    /// Wall time in seconds, never before the last time that is on disk.
    pub fn now(&self) -> UnixSeconds {
        self.0.clock.now()
    }

    /// Puts the time on disk; to be called now and then (once an hour). A failing disk is logged.
    pub fn remember_time(&self) {
        let now = self.now();
        match self.commit() {
            Ok(()) => drop(self.0.clock.raise_floor(now)),
            Err(e) => tracing::warn!("the time is not remembered: {e}"),
        }
    }

    /// This node's chain and what it proves; `None` until a joiner is admitted. No lock.
    pub fn own(&self) -> Option<Arc<OwnCredential>> {
        self.0.own.load_full()
    }

    /// The token by which this node is to join; `None` for a member.
    pub fn token(&self) -> Option<&Token> {
        self.0.token.as_ref().filter(|_| self.0.own.load().is_none())
    }

    /// Judges another's chain now, by the root and by what is revoked.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn judge(&self, chain: &Chain) -> Result<Credential, CredentialError> {
        let credential = self.0.root.judge(chain, self.now())?;
        self.stands(&credential)?;
        Ok(credential)
    }

    /// The newcomer's side: proves the token to `member`, which gave the nonce. `None` without a token.
    pub fn join_request(&self, member: NodeId, nonce: &[u8; 32]) -> Option<JoinRequest> {
        let token = self.token()?;
        let proof = token.prove(self.0.node, member, nonce);
        let issuer_key = self.0.issuer_key.as_ref().filter(|_| token.grant.issuer);
        Some(JoinRequest { proof, roles: self.0.roles, issuer_key: issuer_key.map(|k| k.verifying_key().to_bytes()) })
    }

    /// Takes what an issuer handed out, at admission and at renewal: judged, written to disk, then shown to others.
    /// For a joiner this is the moment at which the data directory is made.
    ///
    /// # Errors
    /// A chain that is not ours or does not hold, or a disk that fails; nothing changed in memory.
    pub fn accept(&self, issued: &Issued) -> Result<Arc<OwnCredential>, StartError> {
        let refused = |why: String| StartError::Refused(format!("the issuer's answer is of no use: {why}"));
        let credential = self.judge(&issued.chain).map_err(|e| refused(e.to_string()))?;
        if credential.node != self.0.node || !self.0.roles.is_subset(credential.roles) {
            return Err(refused("the certificate is for another node or other roles".to_owned()));
        }
        let root_key = self.authority().and_then(|a| a.root_key().cloned());
        let authority = match (&issued.intermediate, &self.0.issuer_key) {
            (Some(der), Some(key)) => {
                let new = Authority::new(self.0.root.clone(), root_key, key.clone(), der.clone(), self.now());
                Some(new.map_err(|e| refused(e.to_string()))?)
            }
            _ => None,
        };
        let own = OwnCredential { chain: issued.chain.clone(), credential };
        self.take(own, authority)
    }

    /// From when on the chain is to be renewed: half of its life. In the past when it is due.
    pub fn renew_at(&self) -> Option<UnixSeconds> {
        self.own().map(|own| half_life(own.credential.not_before, own.credential.not_after))
    }

    /// What to ask of an issuer.
    pub fn renew_request(&self) -> RenewRequest {
        RenewRequest { issuer_key: self.0.issuer_key.as_ref().map(|k| k.verifying_key().to_bytes()) }
    }

    /// The incarnation on disk, zero when there is none.
    pub fn incarnation(&self) -> Incarnation {
        self.disk().state.incarnation
    }

    /// Puts the incarnation on disk.
    ///
    /// # Errors
    /// The disk failed, or this node is not a member yet.
    pub fn save_incarnation(&self, incarnation: Incarnation) -> Result<(), StartError> {
        let mut disk = self.committed()?;
        disk::save_incarnation(&disk.store, incarnation)?;
        disk.state.incarnation = incarnation;
        Ok(())
    }

    /// The greatest claim of a leader on disk, as [`Trust::save_claim`] got it; empty when there is none.
    pub fn claim(&self) -> Vec<u8> {
        self.disk().state.claim.clone()
    }

    /// Puts the greatest claim of a leader on disk; what came before is replaced.
    ///
    /// # Errors
    /// The disk failed, or this node is not a member yet.
    pub fn save_claim(&self, claim: &[u8]) -> Result<(), StartError> {
        let mut disk = self.committed()?;
        disk::save_claim(&disk.store, claim)?;
        disk.state.claim = claim.to_vec();
        Ok(())
    }

    /// The name on disk.
    pub fn name(&self) -> Option<WorkerName> {
        self.disk().state.name.clone()
    }

    /// Puts the name on disk.
    ///
    /// # Errors
    /// The disk failed, or this node is not a member yet.
    pub fn save_name(&self, name: &WorkerName) -> Result<(), StartError> {
        let mut disk = self.committed()?;
        disk::save_name(&disk.store, name)?;
        disk.state.name = Some(name.clone());
        Ok(())
    }

    /// The peers on disk.
    pub fn peers(&self) -> Vec<KnownPeer> {
        self.disk().state.peers.clone()
    }

    /// Puts the peers on disk, the first 256 of them with 16 addresses each. A failing disk is logged: they are hints.
    pub fn save_peers(&self, peers: &[KnownPeer]) {
        let saved = self.committed().and_then(|mut disk| {
            disk.state.peers = disk::save_peers(&disk.store, peers)?;
            Ok(())
        });
        if let Err(e) = saved {
            tracing::warn!("the known members are not remembered: {e}");
        }
    }

    /// The data plane's client side: mutual TLS 1.3, ALPN `paceline/1`, shows the current chain at each handshake.
    pub fn tls_client(&self) -> Arc<rustls::ClientConfig> {
        self.0.tls_client.clone()
    }

    /// The data plane's server side.
    pub fn tls_server(&self) -> Arc<rustls::ServerConfig> {
        self.0.tls_server.clone()
    }

    /// Drops the membership from disk, so that coming back needs a token; nothing is written after this. The process
    /// should end. A root key is put aside, never deleted.
    ///
    /// # Errors
    /// The disk failed.
    pub fn forget(&self) -> Result<(), StartError> {
        let mut disk = self.disk();
        disk.forgotten = true;
        if self.0.on_disk.swap(false, Ordering::Relaxed) { disk::forget(&disk.store, &self.0.root) } else { Ok(()) }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // What a panicking writer left is whole: memory follows the disk, and each file is replaced at once.
        self.0.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk of a member, with everything that memory knows written.
    fn committed(&self) -> Result<MutexGuard<'_, Disk>, StartError> {
        let mut disk = self.disk();
        if disk.forgotten {
            return Err(disk.store.error("this node has left its cluster"));
        }
        if disk.unsaved || !self.0.on_disk.load(Ordering::Relaxed) {
            let own = self.own().ok_or_else(|| disk.store.error("this node is not a member yet"))?;
            self.write(&mut disk, &own.chain, self.authority().as_deref())?;
        }
        Ok(disk)
    }

    fn write(&self, disk: &mut Disk, chain: &Chain, authority: Option<&Authority>) -> Result<(), StartError> {
        let issuer = authority.map(|a| (a.key(), a.intermediate()));
        if self.0.on_disk.load(Ordering::Relaxed) {
            disk::save_chain(&disk.store, chain, issuer)?;
        } else {
            let root_key = authority.and_then(Authority::root_key);
            let new = NewMembership { root: &self.0.root, key: &self.0.key, chain, issuer, root_key };
            let revocations = self.revocations();
            if revocations.mark() != 0 {
                disk::save_revocations(&disk.store, &revocations)?;
            }
            disk::save_membership(&disk.store, &new)?;
            self.0.on_disk.store(true, Ordering::Relaxed);
        }
        disk.unsaved = false;
        Ok(())
    }

    /// Disk first, memory after it.
    fn take(&self, own: OwnCredential, authority: Option<Authority>) -> Result<Arc<OwnCredential>, StartError> {
        let mut disk = self.disk();
        if disk.forgotten {
            return Err(disk.store.error("this node has left its cluster"));
        }
        let authority = authority.map(Arc::new).or_else(|| self.authority());
        self.write(&mut disk, &own.chain, authority.as_deref())?;
        let own = Arc::new(own);
        self.0.shown.show(&own.chain);
        self.0.authority.store(authority);
        self.0.own.store(Some(own.clone()));
        Ok(own)
    }

    fn authority(&self) -> Option<Arc<Authority>> {
        self.0.authority.load_full()
    }
}

#[cfg(test)]
mod tests;
