//! What a service is, whoever named it.

use std::{any::Any, collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::Uri;
use paceline_mesh::http::Protocol;
use paceline_proto::{
    id::ServiceName,
    manifest::{Health, Service, ServiceKind},
};

use super::Allow;
use crate::worker::MAX_CONCURRENCY;

/// Who named a service. Where two name the same, the first of them in this order is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// The command line or the environment.
    Flag,
    /// The configuration file.
    Config,
    /// The configuration file, for a command that this node runs itself.
    Supervised,
    /// Nobody: it was found on this machine.
    Detected,
}

impl Origin {
    /// For the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Origin::Flag => "command line",
            Origin::Config => "configuration file",
            Origin::Supervised => "supervised",
            Origin::Detected => "detected",
        }
    }
}

/// A service that this node is to offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its name in URLs.
    pub name: ServiceName,
    /// What answers.
    pub source: Source,
    /// Who named it.
    pub origin: Origin,
    /// What its API is like.
    pub kind: ServiceKind,
    /// The HTTP that it speaks.
    pub protocol: Protocol,
    /// Requests at once; `None` is what the node's limits say.
    pub max_concurrency: Option<u32>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Its models, for [`ServiceKind::OpenAi`], where they are known beforehand; else each look asks for them.
    pub models: Vec<String>,
    /// Which gateways may call it; `None` is all.
    pub allow: Option<Allow>,
    /// Who starts it when it is called, for a service that may sleep.
    pub keeper: Option<Kept>,
}

impl ServiceSpec {
    /// A plain HTTP service without labels and with the node's limits.
    pub fn new(name: ServiceName, source: Source, origin: Origin) -> Self {
        Self {
            name,
            source,
            origin,
            kind: ServiceKind::Http,
            protocol: Protocol::Http1,
            max_concurrency: None,
            labels: BTreeMap::new(),
            models: Vec::new(),
            allow: None,
            keeper: None,
        }
    }

    /// What a manifest says of it before the first look.
    pub(crate) fn unseen(&self) -> Service {
        let (host, port) = match &self.source {
            Source::Directory(_) => ("local".to_owned(), 0),
            Source::Http { url, .. } => (url.host().unwrap_or_default().to_owned(), url.port_u16().unwrap_or(80)),
        };
        Service {
            name: self.name.clone(),
            host,
            port,
            health: Health::Unhealthy,
            version: None,
            kind: self.kind,
            models: self.models.clone(),
            max_concurrency: self.max_concurrency.unwrap_or(MAX_CONCURRENCY),
            labels: self.labels.clone(),
        }
    }
}

/// What answers for a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An HTTP service; requests go below its URL.
    Http {
        /// `http://host[:port][/base]`.
        url: Uri,
        /// How to see whether it is well.
        health: HealthCheck,
    },
    /// This node itself, with the files of a directory.
    Directory(PathBuf),
}

/// The words of [`Protocol`], for the schema.
#[derive(schemars::JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) enum ProtocolWord {
    #[serde(rename = "http/1.1")]
    Http1,
    #[serde(rename = "h2")]
    Http2,
}

/// Why a service cannot be of a kind and speak a protocol at once.
pub(crate) fn check_protocol(protocol: Protocol, kind: ServiceKind) -> Result<(), String> {
    match (protocol, kind) {
        (Protocol::Http2, ServiceKind::OpenAi) => Err("what is like OpenAI is asked for its models by HTTP/1.1".into()),
        _ => Ok(()),
    }
}

/// How to see whether a service is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthCheck {
    /// `GET` of this path below the service's URL answers 2xx.
    Path(String),
    /// It takes a TCP connection.
    Connect,
}

/// Knows when a service is called, and starts it where it sleeps.
pub trait Keeper: Send + Sync + 'static {
    /// Resolves when the service can take a request; what it gives is held until the response has ended, so that the
    /// keeper knows when the service idles.
    fn admit(&self) -> BoxFuture<'static, Result<Box<dyn Any + Send>, NotStarted>>;

    /// Whether it sleeps on purpose or comes up for those who wait: such a service is offered as healthy, and not looked
    /// at.
    fn is_asleep(&self) -> bool;
}

/// A service that was called, and did not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStarted {
    /// Why, in words for the caller.
    pub reason: String,
    /// When it is worth another try.
    pub retry_after: Duration,
}

/// A [`Keeper`]; equal to itself alone.
#[derive(Clone)]
pub struct Kept(pub Arc<dyn Keeper>);

impl PartialEq for Kept {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Kept {}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}
