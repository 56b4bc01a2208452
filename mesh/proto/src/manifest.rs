//! What a node offers: its manifest, and the bounds that each field keeps.
//!
//! A manifest is signed by its author (see `envelope`), gossiped when it changes, never on a clock. Hardware details
//! are not in it: they are fetched on demand.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::id::{CredentialHash, Incarnation, ManifestVersion, NodeId, Roles, ServiceName, Site, WorkerName};
use crate::wire;

/// Most bytes of an encoded manifest.
pub const MANIFEST_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of a manifest's encoded services, so that the rest of it fits beside them.
pub const SERVICES_BYTES_MAX: usize = 6 * 1024;
/// Most services of one node.
pub const SERVICES_MAX: usize = 64;
/// Most labels of a node or a service, and most capabilities.
pub const LABELS_MAX: usize = 32;
/// Most bytes of a label's key or value, a version, a model's name or a host.
pub const TEXT_BYTES_MAX: usize = 128;
/// Most models of one service.
pub const MODELS_MAX: usize = 32;
/// Most addresses of each plane.
pub const ADDRESSES_MAX: usize = 16;

/// A manifest that breaks a bound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Too many of something.
    #[error("{what}: {count} given, at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there were.
        count: usize,
        /// The bound.
        max: usize,
    },
    /// A text that is too long or has control characters.
    #[error("{what} must be at most {TEXT_BYTES_MAX} bytes without control characters")]
    Text {
        /// Which text.
        what: &'static str,
    },
    /// The same service twice.
    #[error("service `{0}` stands twice")]
    Twice(ServiceName),
    /// The node's credential does not allow it.
    #[error("service `{0}` is none of those that the join token bound this node to")]
    NotGranted(ServiceName),
    /// The services alone are longer than [`SERVICES_BYTES_MAX`].
    #[error("services of {0} bytes, at most {SERVICES_BYTES_MAX}: fewer of them, or shorter names and hosts")]
    ServicesTooLong(usize),
    /// Encoded, it is longer than [`MANIFEST_BYTES_MAX`].
    #[error("manifest has {0} bytes, at most {MANIFEST_BYTES_MAX}")]
    TooLong(usize),
}

/// How a service is, as its node's probe saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// Answers its probe.
    Healthy,
    /// Answers, and says itself that it is degraded.
    Degraded,
    /// Does not answer as it should, or was not probed yet.
    Unhealthy,
}

/// What a service speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// Plain HTTP.
    #[default]
    Http,
    /// The OpenAI API; its models are listed.
    OpenAi,
}

/// What a node is for: it sets the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerType {
    /// Has a GPU: tier 1.
    Gpu,
    /// Has none: tier 2.
    #[default]
    Cpu,
    /// Edge or storage: tier 3.
    Edge,
}

impl WorkerType {
    /// 1 = GPU, 2 = CPU, 3 = edge.
    pub const fn tier(self) -> u8 {
        match self {
            WorkerType::Gpu => 1,
            WorkerType::Cpu => 2,
            WorkerType::Edge => 3,
        }
    }
}

/// One service of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name in URLs.
    pub name: ServiceName,
    /// The host that the node calls, for people to read.
    pub host: String,
    /// The port that the node calls; 0 where the node serves it itself.
    pub port: u16,
    /// As the node's probe saw it.
    pub health: Health,
    /// What the service says of its version.
    pub version: Option<String>,
    /// What it speaks.
    pub kind: ServiceKind,
    /// For [`ServiceKind::OpenAi`].
    #[serde(deserialize_with = "wire::list::<_, _, MODELS_MAX>")]
    pub models: Vec<String>,
    /// Requests at once.
    pub max_concurrency: u32,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Who.
    pub node: NodeId,
    /// `--name`.
    pub name: WorkerName,
    /// `--site`.
    pub site: Site,
    /// What it acts as; its credential must allow each.
    pub roles: Roles,
    /// GPU, CPU or edge.
    pub worker_type: WorkerType,
    /// Raised at each start and refutation.
    pub incarnation: Incarnation,
    /// Raised at each change within an incarnation.
    pub version: ManifestVersion,
    /// Random for each start of the process: two of them under one key are a cloned data directory.
    pub instance: u64,
    /// When the process started, by its own clock, in ms since 1970: which of two clones is the later.
    pub started_unix_ms: u64,
    /// Multiaddrs of the control plane, as text.
    #[serde(deserialize_with = "wire::list::<_, _, ADDRESSES_MAX>")]
    pub mesh_addresses: Vec<String>,
    /// Where the data port may be reached.
    #[serde(deserialize_with = "wire::list::<_, _, ADDRESSES_MAX>")]
    pub data_addresses: Vec<SocketAddr>,
    /// What it offers.
    #[serde(deserialize_with = "wire::list::<_, _, SERVICES_MAX>")]
    pub services: Vec<Service>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// `docker`, `gpu`, ...: declared or detected.
    pub capabilities: BTreeMap<String, bool>,
    /// The chain that this node shows.
    pub credential: CredentialHash,
    /// No new work, please.
    pub draining: bool,
    /// Others have reached it by dialling it: it may lead.
    pub dialable: bool,
    /// It holds the credential of the stored summary.
    pub sink: bool,
    /// Version of the program.
    pub software: String,
}

fn text(what: &'static str, s: &str) -> Result<(), ManifestError> {
    if s.len() > TEXT_BYTES_MAX || s.chars().any(char::is_control) { Err(ManifestError::Text { what }) } else { Ok(()) }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), ManifestError> {
    if count > max { Err(ManifestError::TooMany { what, count, max }) } else { Ok(()) }
}

fn labels(what: &'static str, labels: &BTreeMap<String, String>) -> Result<(), ManifestError> {
    at_most(what, labels.len(), LABELS_MAX)?;
    labels.iter().try_for_each(|(k, v)| text(what, k).and_then(|()| text(what, v)))
}

impl Service {
    /// Checks each bound.
    ///
    /// # Errors
    /// The first bound that is broken.
    pub fn validate(&self) -> Result<(), ManifestError> {
        text("host", &self.host)?;
        text("version", self.version.as_deref().unwrap_or(""))?;
        at_most("models", self.models.len(), MODELS_MAX)?;
        self.models.iter().try_for_each(|m| text("model", m))?;
        labels("service labels", &self.labels)
    }
}

impl Manifest {
    /// Checks each bound but the encoded length, which `wire` checks.
    ///
    /// # Errors
    /// The first bound that is broken.
    pub fn validate(&self) -> Result<(), ManifestError> {
        at_most("services", self.services.len(), SERVICES_MAX)?;
        at_most("mesh addresses", self.mesh_addresses.len(), ADDRESSES_MAX)?;
        at_most("data addresses", self.data_addresses.len(), ADDRESSES_MAX)?;
        at_most("capabilities", self.capabilities.len(), LABELS_MAX)?;
        self.mesh_addresses.iter().try_for_each(|a| text("mesh address", a))?;
        self.capabilities.keys().try_for_each(|k| text("capability", k))?;
        text("software", &self.software)?;
        labels("labels", &self.labels)?;
        for (i, s) in self.services.iter().enumerate() {
            s.validate()?;
            if self.services[..i].iter().any(|t| t.name == s.name) {
                return Err(ManifestError::Twice(s.name.clone()));
            }
        }
        Ok(())
    }

    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.services.iter().find(|s| s.name.as_str() == name)
    }

    /// Which of two manifests of one node is newer: incarnation first, then version.
    pub fn order(&self) -> (Incarnation, ManifestVersion) {
        (self.incarnation, self.version)
    }
}
