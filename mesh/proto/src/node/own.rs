//! What this node says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use ed25519_dalek::SigningKey;

use super::{Event, Node, Output, ProviderKey};
use crate::Now;
use crate::credential::{Chain, Credential, CredentialError};
use crate::envelope::{Accusation, Claim, Signed};
use crate::id::{ClusterId, Incarnation, ManifestVersion, NodeId, Role};
use crate::manifest::{Manifest, ManifestError, Service, WorkerType};
use crate::membership;
use crate::wire::WireError;

/// How far above a contested incarnation this node goes: above all that another life of its key may have reached by
/// refutations, so that two contests are two answers of a process that runs now.
const CONTEST_STRIDE: u64 = 1024;
/// At this many contests, the later of two processes gives way.
const CONTESTS_MAX: u32 = 2;

/// Why the process must end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// Another process runs under this node's key, and was there first.
    #[error(
        "another process runs with this node's key: the data directory was cloned; give this machine a fresh --data-dir"
    )]
    Cloned,
    /// This node is thrown out.
    #[error("{0}; to join again it needs a fresh --data-dir and a new join token")]
    Revoked(CredentialError),
}

/// This node's own word.
pub(super) struct Own {
    pub(super) manifest: Manifest,
    pub(super) record: Arc<Signed>,
    pub(super) chain: Arc<Chain>,
    /// Off in tests only: then this node's manifest is only given to those that ask for it by its id.
    pub(super) gossip: bool,
    provided: BTreeSet<ProviderKey>,
    contests: u32,
    over: bool,
}

impl Own {
    pub(super) fn new(
        mut manifest: Manifest,
        chain: Chain,
        key: &SigningKey,
        cluster: &ClusterId,
        gossip: bool,
    ) -> Result<Self, ManifestError> {
        manifest.node = NodeId::from_bytes(key.verifying_key().to_bytes());
        manifest.credential = chain.hash();
        manifest.services.sort_by(|a, b| a.name.cmp(&b.name));
        let record = signed(&manifest, key, cluster)?;
        let chain = Arc::new(chain);
        Ok(Self { manifest, record, chain, gossip, provided: BTreeSet::new(), contests: 0, over: false })
    }

    /// This node must end.
    pub(super) fn end(&mut self) {
        self.over = true;
    }

    /// Whether this node has left, or must end.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

fn signed(manifest: &Manifest, key: &SigningKey, cluster: &ClusterId) -> Result<Arc<Signed>, ManifestError> {
    manifest.validate()?;
    match Signed::new(&Claim::Manifest(Box::new(manifest.clone())), key, cluster) {
        Ok(record) => Ok(Arc::new(record)),
        Err(WireError::TooLong { bytes, .. }) => Err(ManifestError::TooLong(bytes)),
        Err(_) => Err(ManifestError::TooLong(usize::MAX)),
    }
}

impl Node {
    /// Announces this node for the first time.
    pub(super) fn introduce(&mut self, now: Now) {
        if let Err(error) = self.learn_chain(Arc::clone(&self.own.chain), now) {
            self.refused_own(format!("this node's own credential: {error}"));
        }
        let services = self.own.manifest.services.clone();
        let granted = self.own_credential(now).is_none_or(|c| services.iter().all(|s| grants(&c, s)));
        if granted { self.announce(now) } else { self.offer(services, now) }
    }

    pub(super) fn offer(&mut self, services: Vec<Service>, now: Now) {
        self.change(now, |m| {
            m.services = services;
            m.services.sort_by(|a, b| a.name.cmp(&b.name));
        });
    }

    pub(super) fn describe(
        &mut self,
        labels: BTreeMap<String, String>,
        capabilities: BTreeMap<String, bool>,
        worker_type: WorkerType,
        now: Now,
    ) {
        self.change(now, |m| (m.labels, m.capabilities, m.worker_type) = (labels, capabilities, worker_type));
    }

    pub(super) fn addresses(&mut self, mesh: Vec<String>, data: Vec<SocketAddr>, now: Now) {
        self.change(now, |m| (m.mesh_addresses, m.data_addresses) = (mesh, data));
    }

    pub(super) fn drain(&mut self, draining: bool, now: Now) {
        self.change(now, |m| m.draining = draining);
    }

    pub(super) fn renewed(&mut self, chain: Chain, now: Now) {
        let chain = Arc::new(chain);
        match self.learn_chain(Arc::clone(&chain), now) {
            Ok(credential) if credential.node == self.me => {
                self.own.chain = chain;
                self.change(now, |m| m.credential = credential.hash);
            }
            Ok(_) => self.refused_own("renewed credential: it is another node's".to_owned()),
            Err(error) => self.refused_own(format!("renewed credential: {error}")),
        }
    }

    /// Says goodbye to everybody; nothing is said or heard after it.
    pub(super) fn leave(&mut self, now: Now) {
        self.last_summary(now);
        let incarnation = self.own.manifest.incarnation;
        if let Ok(record) = Signed::new(&Claim::Leave { incarnation }, &self.key, &self.cluster) {
            let record = Arc::new(record);
            self.publish_record(&record);
            let links: Vec<_> = self.membership.links().iter().copied().collect();
            for peer in links {
                self.tell(peer, Arc::clone(&record), now);
            }
            let accusation = Accusation { subject: self.me, incarnation };
            self.membership.handle_input(membership::Input::Leave { accusation, record }, now.at);
        }
        for key in std::mem::take(&mut self.own.provided) {
            self.outputs.push_back(Output::Unprovide(key));
        }
        self.own.over = true;
    }

    /// Somebody said something of this node's incarnation that is not so: only a higher one can say otherwise.
    pub(super) fn raise_above(&mut self, incarnation: Incarnation, now: Now) {
        if incarnation < self.own.manifest.incarnation || self.own.over {
            return;
        }
        let mut manifest = self.own.manifest.clone();
        manifest.incarnation = Incarnation(incarnation.0.saturating_add(1));
        manifest.version = ManifestVersion(1);
        self.outputs.push_back(Output::PersistIncarnation(manifest.incarnation));
        self.adopt(manifest, now);
    }

    /// A manifest came in that this node's key has signed, and not this process.
    pub(super) fn contested(&mut self, other: &Manifest, now: Now) {
        self.own.contests = self.own.contests.saturating_add(1);
        let mine = (self.own.manifest.started_unix_ms, self.own.manifest.instance);
        if self.own.contests >= CONTESTS_MAX && mine > (other.started_unix_ms, other.instance) {
            self.own.over = true;
            self.outputs.push_back(Output::Fatal(Fatal::Cloned));
            return;
        }
        self.raise_above(Incarnation(other.incarnation.0.saturating_add(CONTEST_STRIDE)), now);
    }

    /// Changes the manifest, and advertises it where it really is another one.
    pub(super) fn change(&mut self, now: Now, change: impl FnOnce(&mut Manifest)) {
        let mut manifest = self.own.manifest.clone();
        change(&mut manifest);
        if let Some(credential) = self.own_credential(now) {
            let services = std::mem::take(&mut manifest.services);
            let (granted, not): (Vec<_>, Vec<_>) = services.into_iter().partition(|s| grants(&credential, s));
            manifest.services = granted;
            for service in not {
                self.refused_own(format!("this node's credential does not grant the service `{}`", service.name));
            }
        }
        if manifest == self.own.manifest {
            return;
        }
        manifest.version = ManifestVersion(manifest.version.0.saturating_add(1));
        self.adopt(manifest, now);
    }

    fn adopt(&mut self, manifest: Manifest, now: Now) {
        match signed(&manifest, &self.key, &self.cluster) {
            Ok(record) => {
                (self.own.manifest, self.own.record) = (manifest, record);
                self.announce(now);
            }
            Err(error) => self.refused_own(error.to_string()),
        }
    }

    fn announce(&mut self, now: Now) {
        let manifest = Arc::new(self.own.manifest.clone());
        let record = Arc::clone(&self.own.record);
        self.membership.handle_input(membership::Input::Manifest { manifest, record }, now.at);
        self.provide();
        self.publish_chain(self.own.manifest.credential, now);
        if self.own.gossip {
            self.publish_record(&Arc::clone(&self.own.record));
            self.push_own_to_gateways();
        }
    }

    /// Keeps Kademlia's provider records in step with the manifest.
    fn provide(&mut self) {
        let roles = self.own.manifest.roles.iter().map(ProviderKey::Role);
        let services = self.own.manifest.services.iter().map(|s| ProviderKey::Service(s.name.clone()));
        let provided: BTreeSet<_> = roles.chain(services).collect();
        let before = std::mem::replace(&mut self.own.provided, provided.clone());
        self.outputs.extend(before.difference(&provided).cloned().map(Output::Unprovide));
        self.outputs.extend(provided.difference(&before).cloned().map(Output::Provide));
    }

    /// Gossip may still be forming its mesh; those that route by this manifest get it at once.
    fn push_own_to_gateways(&mut self) {
        let gateway = |node: &&NodeId| {
            self.membership.get(node).is_some_and(|row| row.is_here() && row.manifest.roles.contains(Role::Gateway))
        };
        let gateways: Vec<_> = self.membership.links().iter().filter(gateway).copied().collect();
        for peer in gateways.into_iter().take(crate::connect::GATEWAYS_MAX) {
            self.push_own(peer);
        }
    }

    fn own_credential(&self, now: Now) -> Option<Arc<Credential>> {
        let known = self.credentials.of_hash(&self.own.chain.hash(), now.unix)?;
        Some(Arc::clone(&known.credential))
    }

    fn refused_own(&mut self, reason: String) {
        self.outputs.push_back(Output::Event(Event::Refused { peer: self.me, reason }));
    }
}

/// Whether a credential lets its node offer the service.
pub(super) fn grants(credential: &Credential, service: &Service) -> bool {
    credential.services.as_ref().is_none_or(|names| names.contains(&service.name))
}
